//! What the keys of `loadBalancer` need of each other, and of `workload`.

use super::schema::{Endpoint, Endpoints, HashKey, LbPolicy, Protocol, Service};
use super::validate::View;

pub fn service(view: &mut View<'_>, path: &str, service: &Service) {
    let (balancer, path) = (&service.load_balancer, format!("{path}.loadBalancer"));
    let hashes = balancer.policy.hashes();
    let geographic = balancer.policy == LbPolicy::GeoHashedRing;
    match &balancer.hash_key {
        None if hashes => {
            let remedy = "add `hashKey` with one of `header`, `cookie`, `query`, `attribute` or `source: address`";
            view.push(&format!("{path}.policy"), "there is no `hashKey` to hash", remedy);
        }
        None | Some(HashKey::Source(_)) => {}
        Some(HashKey::Attribute(name)) if hashes => {
            view.reference(&format!("{path}.hashKey.attribute"), "attribute", name);
        }
        Some(_) => {}
    }
    let http_key = balancer.hash_key.as_ref().is_some_and(|key| !matches!(key, HashKey::Source(_)));
    if service.protocol == Protocol::Tcp && hashes && http_key {
        let remedy = "use `hashKey: { source: address }`";
        view.push(&format!("{path}.hashKey"), "a tcp service has no requests that have keys", remedy);
    }
    let for_hashes = "only `ringHash`, `maglev` and `geoHashedRing` hash";
    let needless = [
        ("hashKey", balancer.hash_key.is_some() && !hashes, for_hashes),
        ("maxLoad", balancer.max_load.is_some() && !hashes, for_hashes),
        ("slowStart", balancer.slow_start.is_some() && hashes, "a policy that hashes goes by keys, not by shares"),
        (
            "tableSize",
            balancer.table_size.is_some() && balancer.policy != LbPolicy::Maglev,
            "only `maglev` has a table",
        ),
        ("regions", balancer.regions.is_some() && !geographic, "only `geoHashedRing` goes by regions"),
        ("zone", balancer.zone.is_some() && geographic, "`geoHashedRing` goes by regions"),
    ];
    for (key, _, why) in needless.into_iter().filter(|(_, is, _)| *is) {
        view.push(&format!("{path}.{key}"), why, "remove it, or change the policy");
    }
    if let Some(size) = balancer.table_size.filter(|size| !is_prime(*size)) {
        let next = (size..).find(|next| is_prime(*next)).unwrap_or(size);
        view.push(&format!("{path}.tableSize"), format!("{size} is not a prime"), format!("write `{next}`"));
    }
    let workload = &view.root.workload;
    let needed = [
        ("zone", balancer.zone.is_some() && workload.zone.is_empty()),
        ("region", geographic && workload.region.is_empty()),
    ];
    for (key, _) in needed.into_iter().filter(|(_, is)| *is) {
        let at = if key == "zone" { format!("{path}.zone") } else { format!("{path}.policy") };
        view.push(&at, format!("it is not known in which {key} we are"), format!("add `{key}: …` to `workload`"));
    }
    for (index, region) in balancer.regions.iter().flatten().enumerate() {
        let at = format!("{path}.regions[{index}]");
        let first = balancer.regions.iter().flatten().position(|known| known == region).unwrap_or(index);
        if first < index {
            view.twice(&at, &format!("`{region}`"), &format!("{path}.regions[{first}]"));
        } else if *region == view.root.workload.region {
            view.push(&at, "that is our own region, which comes first", "remove it");
        }
    }
    strict_zone(view, &path, service);
}

/// With endpoints that are written here it is known that there is none to choose.
fn strict_zone(view: &mut View<'_>, path: &str, service: &Service) {
    use super::schema::ZoneMode::Strict;
    let (Endpoints::Static(list), Some(Strict)) = (&service.endpoints, service.load_balancer.zone) else { return };
    let own = &view.root.workload.zone;
    let in_zone = |endpoint: &Endpoint| match endpoint {
        Endpoint::Address(_) => false,
        Endpoint::Full(full) => full.zone.as_ref() == Some(own),
    };
    if !own.is_empty() && !list.is_empty() && !list.iter().any(in_zone) {
        let message = format!("no endpoint is in our zone `{own}`, so nothing can be sent");
        view.push(&format!("{path}.zone"), message, "use `prefer`, or give an endpoint the `zone`");
    }
}

fn is_prime(number: u32) -> bool {
    let mut divisors = (2..).take_while(|divisor| divisor * divisor <= number);
    number > 1 && divisors.all(|divisor| !number.is_multiple_of(divisor))
}

#[cfg(test)]
mod tests {
    use crate::config;

    /// The first problem of a service with this `loadBalancer`, and the rest of its keys.
    fn problem(workload: &str, balancer: &str, service: &str) -> Option<String> {
        let text = format!(
            r#"apiVersion: outrigger/v1
workload: {{ {workload} }}
attributes: {{ tenant: {{ from: [{{ header: x-tenant }}] }} }}
listeners: [{{ name: edge, mode: proxy, address: "127.0.0.1:8080" }}]
services:
  app:
    endpoints: {{ static: [{{ address: "127.0.0.1:3000", zone: a, region: eu }}] }}
    loadBalancer: {{ {balancer} }}
    {service}
routes: [{{ name: all, to: app }}]
"#
        );
        let report = config::parse("t.yaml", &text, &|_| None).err()?;
        Some(report.problems().iter().map(|problem| format!("{}: {}", problem.path, problem.message)).collect())
    }

    #[test]
    fn keys_that_need_each_other() {
        for (workload, balancer, service) in [
            ("", "policy: ringHash, hashKey: { header: x-user }, maxLoad: 25", ""),
            ("", "policy: maglev, hashKey: { attribute: tenant }, tableSize: 251", ""),
            ("region: eu", "policy: geoHashedRing, hashKey: { source: address }, regions: []", ""),
            ("zone: a", "zone: strict, slowStart: 10s, panicThreshold: 0", ""),
            ("", "policy: ringHash, hashKey: { source: address }", "protocol: tcp"),
        ] {
            assert_eq!(problem(workload, balancer, service), None, "{balancer}");
        }
        for (workload, balancer, service, path, message) in [
            ("", "policy: ringHash", "", "policy", "no `hashKey`"),
            ("", "policy: random, hashKey: { cookie: user }", "", "hashKey", "only `ringHash`"),
            ("", "policy: maglev, hashKey: { attribute: nobody }", "", "hashKey.attribute", "nobody"),
            ("", "policy: maglev, hashKey: { cookie: user }", "protocol: tcp", "hashKey", "tcp service"),
            ("", "maxLoad: 25", "", "maxLoad", "only `ringHash`"),
            ("", "policy: ringHash, hashKey: { cookie: user }, slowStart: 1s", "", "slowStart", "goes by keys"),
            ("", "policy: maglev, hashKey: { cookie: user }, tableSize: 1000", "", "tableSize", "not a prime"),
            ("", "tableSize: 251", "", "tableSize", "only `maglev`"),
            ("", "zone: prefer", "", "zone", "in which zone"),
            ("", "policy: geoHashedRing, hashKey: { cookie: user }", "", "policy", "in which region"),
            ("zone: b", "zone: strict", "", "zone", "no endpoint is in our zone"),
            ("", "regions: [us]", "", "regions", "goes by regions"),
            ("region: eu", "policy: geoHashedRing, hashKey: { cookie: u }, regions: [us, us]", "", "regions[1]", "us"),
            ("region: eu", "policy: geoHashedRing, hashKey: { cookie: u }, regions: [eu]", "", "regions[0]", "our own"),
            ("", "panicThreshold: 101", "", "panicThreshold", "out of range"),
        ] {
            let told = problem(workload, balancer, service).unwrap_or_default();
            let path = format!("services.app.loadBalancer.{path}: ");
            assert!(told.starts_with(&path) && told.contains(message), "{balancer}: {told}");
        }
    }
}

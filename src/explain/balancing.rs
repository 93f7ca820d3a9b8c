//! What an endpoint of the service would be chosen by, as far as the request and the configuration tell.

use std::sync::Arc;

use super::Policy;
use super::places::place;
use crate::config::schema::{LbPolicy, ZoneMode};
use crate::discovery::Endpoint;
use crate::policy::balance::Settings;
use crate::snapshot::matcher::Facts;
use crate::snapshot::{Snapshot, Target};

/// What is configured besides the policy.
pub fn of(snapshot: &Snapshot, target: Target, facts: Option<&Facts<'_>>) -> Vec<Policy> {
    let root = snapshot.config.root();
    let Some(service) = snapshot.services.get(target.service) else { return Vec::new() };
    let Some(balancer) = root.services.get(&*service.name).map(|written| &written.load_balancer) else {
        return Vec::new();
    };
    let key = service.hash_key.as_ref().map(|key| {
        let found = match facts.map(|facts| key.of(facts)) {
            None => "",
            Some(Some(_)) => ", which the request has",
            Some(None) => ", which the request has not: chance decides",
        };
        format!("{}{found}", key.describe(snapshot))
    });
    let zone = balancer.zone.map(|mode| match mode {
        ZoneMode::Prefer => format!("prefer {}", root.workload.zone),
        ZoneMode::Strict => format!("strict {}", root.workload.zone),
    });
    let regions = balancer.regions.as_ref().map(|regions| match regions.as_slice() {
        [] => format!("{} only", root.workload.region),
        others => format!("{}, then {}", root.workload.region, others.join(", ")),
    });
    let threshold = Some(balancer.panic_threshold).filter(|percent| *percent != 50);
    let all = [
        ("hashKey", key),
        ("maxLoad", balancer.max_load.map(|percent| format!("{percent} % over the mean"))),
        ("tableSize", balancer.table_size.map(|size| size.to_string())),
        ("regions", regions),
        ("zone", zone),
        ("slowStart", balancer.slow_start.map(|time| time.to_string())),
        ("panicThreshold", threshold.map(|percent| format!("{percent} %"))),
    ];
    let said = all.into_iter().filter_map(|(key, value)| Some((format!("loadBalancer.{key}"), value?)));
    let policy = |(name, value): (String, String)| {
        let place = place(snapshot, &format!("services{}.{name}", crate::config::step(&service.name)));
        Policy { name, value, from: "service".to_owned(), place }
    };
    said.map(policy).collect()
}

/// Why an endpoint is never chosen, whatever there is else.
pub fn excluded(settings: &Settings, endpoint: &Endpoint) -> Option<String> {
    let place = |place: &Option<Arc<str>>| place.as_deref().unwrap_or("none that is known").to_owned();
    if let Some((ZoneMode::Strict, own)) = &settings.zone
        && endpoint.zone.as_deref() != Some(&**own)
    {
        return Some(format!("its zone is {}, and `zone: strict` wants {own}", place(&endpoint.zone)));
    }
    let listed = settings.regions.as_ref().filter(|_| settings.policy == LbPolicy::GeoHashedRing)?;
    let mut wanted = std::iter::once(&settings.region).chain(listed.iter());
    let fits = wanted.any(|region| endpoint.region.as_deref() == Some(&**region));
    (!fits).then(|| format!("its region is {}, which is not one of `regions`", place(&endpoint.region)))
}

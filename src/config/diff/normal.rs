//! One spelling for what means the same: short forms for long ones that add nothing, lists without an order sorted,
//! names that ignore case in lower case.

use serde::Serialize;
use serde_json::{Map, Value as Json};

use crate::config::resolve;
use crate::config::schema::{self, Endpoint, Endpoints, Root};

/// A block as it is, defaults filled in.
pub fn plain<T: Serialize>(block: &T) -> Json {
    serde_json::to_value(block).unwrap_or_default()
}

/// What stands at the root and has no names, by key; null where it is not there.
pub fn blocks(root: &Root) -> [(&'static str, Json); 8] {
    // In full, so that a new key cannot be forgotten here.
    let Root {
        api_version: _,
        workload,
        admin,
        health,
        runtime,
        state,
        identity,
        attributes: _,
        defaults,
        services: _,
        listeners: _,
        routes: _,
        // They have become keys of their services.
        policies: _,
        authorization: _,
        telemetry,
    } = root;
    let mut workload = plain(workload);
    workload.as_object_mut().into_iter().for_each(|names| names.retain(|_, name| name != ""));
    [
        ("workload", workload),
        ("admin", plain(admin)),
        ("health", plain(health)),
        ("runtime", plain(runtime)),
        ("state", plain(state)),
        ("identity", plain(identity)),
        ("defaults", plain(defaults)),
        ("telemetry", plain(telemetry)),
    ]
}

pub fn attribute(attribute: &schema::Attribute) -> Json {
    let mut json = plain(attribute);
    json.get_mut("values").into_iter().for_each(|list| sort(list, false));
    json.get_mut("forward").into_iter().for_each(lower_text);
    json
}

pub fn route(route: &schema::Route) -> Json {
    let mut json = plain(route);
    for (key, lower) in [("hosts", true), ("listeners", false)] {
        json.get_mut(key).into_iter().for_each(|list| sort(list, lower));
    }
    for (key, value) in [("timeout", "after"), ("maxBody", "size")] {
        json.get_mut(key).into_iter().for_each(|rule| shorten(rule, value));
    }
    for edits in ["requestHeaders", "responseHeaders"] {
        json.pointer_mut(&format!("/{edits}/remove")).into_iter().for_each(|list| sort(list, true));
        for names in ["set", "add"] {
            json.pointer_mut(&format!("/{edits}/{names}")).into_iter().for_each(lower_names);
        }
    }
    json.pointer_mut("/sticky/header").into_iter().for_each(lower_text);
    json.get_mut("match").and_then(Json::as_array_mut).into_iter().flatten().for_each(one_match);
    json
}

/// `endpoints.static` becomes a mapping by address, with the service's port filled in if they are to be `resolved`.
pub fn service(service: &schema::Service, resolved: bool) -> Json {
    let mut json = plain(service);
    json.get_mut("hosts").into_iter().for_each(|list| sort(list, true));
    json.pointer_mut("/loadBalancer/hashKey/header").into_iter().for_each(lower_text);
    if let Endpoints::Static(list) = &service.endpoints {
        let by_address: Map<String, Json> =
            list.iter().map(|e| endpoint(e, service.port.filter(|_| resolved))).collect();
        json["endpoints"] = Json::Object(Map::from_iter([("static".to_owned(), Json::Object(by_address))]));
    }
    json
}

fn endpoint(endpoint: &Endpoint, port: Option<u16>) -> (String, Json) {
    let full = match endpoint {
        Endpoint::Full(full) => full.clone(),
        Endpoint::Address(address) => schema::FullEndpoint {
            address: address.clone(),
            alternatives: Vec::new(),
            labels: Default::default(),
            zone: None,
            region: None,
            priority: 0,
            weight: 1,
            identity: None,
        },
    };
    let address = resolve(endpoint, port).map_or(full.address.clone(), |resolved| resolved.address.to_string());
    let mut json = plain(&full);
    json.as_object_mut().map(|json| json.remove("address"));
    (address, json)
}

/// An entry of `authorization`, without its name.
pub fn authorization(entry: &schema::Authorization) -> Json {
    let mut json = plain(entry);
    json.as_object_mut().map(|entry| entry.remove("name"));
    sort_listeners_and_ports(&mut json);
    for list in ["allow", "deny"] {
        for rule in json.get_mut(list).and_then(Json::as_array_mut).into_iter().flatten() {
            rule.get_mut("from").into_iter().for_each(caller);
            let Some(to) = rule.get_mut("to") else { continue };
            sort_listeners_and_ports(to);
            to.get_mut("hosts").into_iter().for_each(|list| sort(list, true));
            conditions(to);
        }
    }
    json
}

fn sort_listeners_and_ports(json: &mut Json) {
    json.get_mut("listeners").into_iter().for_each(|list| sort(list, false));
    // As text, so that a list of them is compared like any other.
    let ports = json.get_mut("ports").and_then(Json::as_array_mut);
    ports.into_iter().flatten().for_each(|port| *port = Json::from(port.to_string()));
    json.get_mut("ports").into_iter().for_each(|list| sort(list, false));
}

fn caller(json: &mut Json) {
    for identity in json.get_mut("identities").and_then(Json::as_array_mut).into_iter().flatten() {
        if let Some(exact) = identity.get_mut("exact").map(Json::take) {
            *identity = exact;
        }
    }
    for key in ["identities", "namespaces", "cidrs"] {
        json.get_mut(key).into_iter().for_each(|list| sort(list, false));
    }
}

fn one_match(json: &mut Json) {
    json.get_mut("from").into_iter().for_each(caller);
    conditions(json);
}

fn conditions(json: &mut Json) {
    json.get_mut("methods").into_iter().for_each(|list| sort(list, false));
    json.get_mut("headers").into_iter().for_each(lower_names);
    for kind in ["headers", "cookies", "query", "attributes"] {
        for (_, text) in json.get_mut(kind).and_then(Json::as_object_mut).into_iter().flatten() {
            if let Some(exact) = text.get_mut("exact").map(Json::take) {
                *text = exact;
            }
        }
    }
    json.sort_all_objects();
}

/// `{ after: 2s, mode: enforce }` is `2s`.
fn shorten(rule: &mut Json, key: &str) {
    if rule["mode"] == "enforce" {
        *rule = rule.get_mut(key).map(Json::take).unwrap_or_default();
    }
}

fn sort(list: &mut Json, lower: bool) {
    let Json::Array(items) = list else { return };
    if lower {
        items.iter_mut().for_each(lower_text);
    }
    items.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
    items.dedup();
}

fn lower_text(text: &mut Json) {
    if let Json::String(text) = text {
        text.make_ascii_lowercase();
    }
}

fn lower_names(map: &mut Json) {
    if let Json::Object(entries) = map {
        *entries = std::mem::take(entries).into_iter().map(|(key, value)| (key.to_ascii_lowercase(), value)).collect();
    }
}

//! The policies that are in force for a request, and where each value comes from.

use serde_json::Value;

use super::{Policy, place};
use crate::config::schema;
use crate::decide::{Decision, Verdict};
use crate::snapshot::Snapshot;

/// Keys of a route and of the defaults that it starts from.
const DEFAULTED: [(&str, &str); 1] = [("timeout", "defaults.timeout")];
/// Keys that are the same for all routes.
const DEFAULTS: [&str; 3] = ["connectTimeout", "streamIdleTimeout", "tcpIdleTimeout"];
const OF_SERVICE: [&str; 5] = [
    "loadBalancer.policy",
    "connections.max",
    "connections.maxPending",
    "connections.maxRequests",
    "connections.idleTimeout",
];
const OF_LISTENER: [&str; 7] =
    ["maxConnections", "headerTimeout", "idleTimeout", "maxHeaderBytes", "maxHeaders", "maxStreams", "halfClose"];

/// What binds a request of this route.
pub fn of_route(snapshot: &Snapshot, decision: &Decision<'_>, grpc: bool) -> Vec<Policy> {
    let root = snapshot.config.root();
    let name = &*decision.route.name;
    let index = root.routes.iter().position(|written| *written.name == *name);
    let route = index.and_then(|index| root.routes.get(index));
    let (route_json, defaults) = (json(&route), json(&root.defaults));
    let at = |key: &str| index.map(|index| format!("routes[{index}].{key}"));
    let Verdict::Forward { target, .. } = decision.verdict else { return Vec::new() };
    let mut policy = Vec::new();
    for (key, default) in DEFAULTED {
        let own = at(key).filter(|_| !route_json[key].is_null());
        policy.push(match own {
            Some(path) => entry(snapshot, key, text(&route_json[key]), "route", &path),
            // It has a deadline of its own.
            None if grpc => entry(snapshot, key, "none for gRPC".to_owned(), "built in", ""),
            None => entry(snapshot, key, text(&defaults[key]), "defaults", default),
        });
    }
    for key in DEFAULTS {
        policy.push(entry(snapshot, key, text(&defaults[key]), "defaults", &format!("defaults.{key}")));
    }
    policy.push(entry(snapshot, "retry", "attempts 0".to_owned(), "defaults", "defaults.retry"));
    if let Some(path) = at("maxBody").filter(|_| !route_json["maxBody"].is_null()) {
        policy.push(entry(snapshot, "maxBody", text(&route_json["maxBody"]), "route", &path));
    }
    let service = snapshot.services.get(target.service).map_or("", |service| &*service.name);
    let written: Option<&schema::Service> = root.services.get(service);
    let service_json = json(&written);
    for key in OF_SERVICE {
        let path = format!("services{}.{key}", crate::config::step(service));
        let value = service_json.pointer(&format!("/{}", key.replace('.', "/"))).map(text).unwrap_or_default();
        policy.push(entry(snapshot, key, value, "service", &path));
    }
    policy
}

pub fn of_listener(snapshot: &Snapshot, index: usize) -> Vec<Policy> {
    let listener = json(&snapshot.config.root().listeners.get(index));
    let one = |key: &str| entry(snapshot, key, text(&listener[key]), "listener", &format!("listeners[{index}].{key}"));
    OF_LISTENER.into_iter().map(one).collect()
}

/// A value that is written nowhere is built in.
fn entry(snapshot: &Snapshot, name: &str, value: String, from: &str, path: &str) -> Policy {
    let place = place(snapshot, path);
    let from = if place.is_some() { from } else { "built in" };
    Policy { name: name.to_owned(), value, from: from.to_owned(), place }
}

fn json(value: &impl serde::Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

/// As it is written: a rule with a mode as `10Mi (shadow)`.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Object(rule) => {
            let limit = rule.iter().find(|(key, _)| *key != "mode").map(|(_, value)| text(value)).unwrap_or_default();
            format!("{limit} ({})", rule.get("mode").map(text).unwrap_or_default())
        }
        other => other.to_string(),
    }
}

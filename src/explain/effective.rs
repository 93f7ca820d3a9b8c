//! The policies that are in force for a request, and where each value comes from.

use serde_json::Value;

use super::places::{self, place};
use super::{Policy, balancing, circuit, limits, traffic};
use crate::config::schema::PolicyKind;
use crate::decide::{Decision, Verdict};
use crate::policy::split;
use crate::snapshot::check::Ask;
use crate::snapshot::{Action, Kind, Route, Snapshot, Target};

/// Keys of `defaults` that are the same for all routes.
const DEFAULTS: [&str; 4] = ["connectTimeout", "streamIdleTimeout", "tcpIdleTimeout", "tcpHalfCloseTimeout"];
const DEFAULTS_TCP: [&str; 3] = ["connectTimeout", "tcpIdleTimeout", "tcpHalfCloseTimeout"];
const OF_SERVICE: [&str; 5] = [
    "loadBalancer.policy",
    "connections.max",
    "connections.maxPending",
    "connections.maxRequests",
    "connections.idleTimeout",
];
/// A connection that is relayed is nobody else's: it comes from no pool.
const OF_SERVICE_TCP: [&str; 1] = ["loadBalancer.policy"];
const OF_LISTENER: [&str; 7] =
    ["maxConnections", "headerTimeout", "idleTimeout", "maxHeaderBytes", "maxHeaders", "maxStreams", "halfClose"];
const OF_LISTENER_TCP: [&str; 1] = ["maxConnections"];

/// What binds a request of this route.
pub fn of_route(snapshot: &Snapshot, decision: &Decision<'_>, grpc: bool) -> Vec<Policy> {
    let Action::Forward(_) = decision.route.action else { return Vec::new() };
    let index = decision.rule.route;
    let route = json(&places::written(snapshot, index));
    let own = |key: &str| {
        let path = format!("routes[{index}].{key}");
        (!route[key].is_null()).then(|| entry(snapshot, key, text(&route[key]), "route", &path))
    };
    let timeout = own("timeout").unwrap_or_else(|| match grpc {
        // It has a deadline of its own.
        true => Policy {
            name: "timeout".to_owned(),
            value: "none for gRPC".to_owned(),
            from: "built in".to_owned(),
            place: None,
        },
        false => default(snapshot, "timeout"),
    });
    let mut policy = vec![timeout];
    policy.extend(DEFAULTS.map(|key| default(snapshot, key)));
    policy.push(retry(snapshot, index, decision.route));
    policy.extend(hedge(snapshot, index, &route["hedge"]));
    policy.extend(own("maxBody"));
    policy.extend(traffic::of_route(snapshot, decision.route));
    if let Verdict::Forward { target, .. } = decision.verdict {
        policy.extend(of_service(snapshot, target, &OF_SERVICE));
        policy.extend(watch(snapshot, target));
        let service = snapshot.services.get(target.service);
        policy.extend(service.into_iter().flat_map(|service| limits::of(snapshot, decision.route, service)));
        policy.extend(circuit::of(snapshot, index, target));
    }
    policy
}

/// The route's own, or that of `defaults`.
fn retry(snapshot: &Snapshot, index: usize, route: &Route) -> Policy {
    let root = snapshot.config.root();
    let own = root.routes.get(index).and_then(|route| route.retry.as_ref());
    let (from, path) = match own {
        Some(_) => ("route", format!("routes[{index}].retry")),
        None => ("defaults", "defaults.retry".to_owned()),
    };
    let value = match (&route.retry, own.unwrap_or(&root.defaults.retry)) {
        (None, _) => "none".to_owned(),
        (Some(policy), written) => {
            let on = written.on.iter().map(|on| match json(on) {
                Value::Object(rule) => format!("{} (attempts {})", text(&rule["condition"]), rule["attempts"]),
                plain => text(&plain),
            });
            let on: Vec<String> = on.collect();
            let on = if on.is_empty() { "what is usual".to_owned() } else { on.join(", ") };
            let per_try = policy.per_try.map(|time| format!(", {} ms a try", time.as_millis())).unwrap_or_default();
            let share = policy.share;
            format!(
                "attempts {} on {on}{per_try}; budget {} % + {}/s",
                policy.attempts, share.percent, share.min_per_second
            )
        }
    };
    entry(snapshot, "retry", value, from, &path)
}

fn hedge(snapshot: &Snapshot, index: usize, written: &Value) -> Option<Policy> {
    let value = format!("after {}, {} more", written.get("after").map(text)?, written.get("max")?);
    Some(entry(snapshot, "hedge", value, "route", &format!("routes[{index}].hedge")))
}

/// What binds a connection of a tcp route.
pub fn of_tcp(snapshot: &Snapshot, route: &Route) -> Vec<Policy> {
    let Action::Forward(forward) = &route.action else { return Vec::new() };
    let mut policy = DEFAULTS_TCP.map(|key| default(snapshot, key)).to_vec();
    if let Some(target) = forward.targets.get(split::side(&forward.edges(), 0)) {
        policy.extend(of_service(snapshot, *target, &OF_SERVICE_TCP));
        policy.extend(watch(snapshot, *target));
        policy.extend(balancing::of(snapshot, *target, None));
        let service = snapshot.services.get(target.service);
        policy.extend(service.into_iter().flat_map(|service| limits::of(snapshot, route, service)));
        policy.extend(circuit::of(snapshot, route.index, *target));
    }
    policy
}

pub fn of_listener(snapshot: &Snapshot, index: usize) -> Vec<Policy> {
    let Some(listener) = snapshot.listeners.get(index) else { return Vec::new() };
    let keys: &[&str] = if let Kind::Tcp(_) = listener.kind { &OF_LISTENER_TCP } else { &OF_LISTENER };
    let written = json(&*listener.config);
    let one = |key: &&str| entry(snapshot, key, text(&written[*key]), "listener", &format!("listeners[{index}].{key}"));
    keys.iter().map(one).collect()
}

fn default(snapshot: &Snapshot, key: &str) -> Policy {
    let defaults = json(&snapshot.config.root().defaults);
    entry(snapshot, key, text(&defaults[key]), "defaults", &format!("defaults.{key}"))
}

fn of_service(snapshot: &Snapshot, target: Target, keys: &[&str]) -> Vec<Policy> {
    let name = snapshot.services.get(target.service).map_or("", |service| &*service.name);
    let written = json(&snapshot.config.root().services.get(name));
    let one = |key: &&str| {
        let value = written.pointer(&format!("/{}", key.replace('.', "/"))).map(text).unwrap_or_default();
        entry(snapshot, key, value, "service", &format!("services{}.{key}", crate::config::step(name)))
    };
    keys.iter().map(one).collect()
}

/// Who watches over the endpoints of a service, where somebody does.
fn watch(snapshot: &Snapshot, target: Target) -> Vec<Policy> {
    let Some(service) = snapshot.services.get(target.service) else { return Vec::new() };
    let path = format!("services{}", crate::config::step(&service.name));
    let one = |key: &str, value: String| entry(snapshot, key, value, "service", &format!("{path}.{key}"));
    let check = service.check.as_ref().map(|check| {
        let asked = match &check.ask {
            Ask::Http { path, .. } => format!("http {path}"),
            Ask::Grpc { service, .. } if service.is_empty() => "grpc".to_owned(),
            Ask::Grpc { service, .. } => format!("grpc {service}"),
            Ask::Tcp => "tcp".to_owned(),
        };
        one("healthCheck", format!("{asked} every {} ms", check.interval.as_millis()))
    });
    let outlier = service.outlier.as_ref().map(|rules| {
        let causes = [
            rules.consecutive.map(|limit| format!("{limit} failures in a row")),
            rules.success_rate.map(|_| "success rate".to_owned()),
            rules.latency.map(|_| "latency".to_owned()),
        ];
        let causes: Vec<String> = causes.into_iter().flatten().collect();
        let mode = if rules.shadow { " (shadow)" } else { "" };
        one("outlierDetection", format!("{}, {} % at most{mode}", causes.join(", "), rules.max_share))
    });
    check.into_iter().chain(outlier).collect()
}

/// A value that is written nowhere is built in.
pub fn entry(snapshot: &Snapshot, name: &str, value: String, from: &str, path: &str) -> Policy {
    let place = place(snapshot, path);
    let from = if place.is_some() { from } else { "built in" };
    Policy { name: name.to_owned(), value, from: from.to_owned(), place }
}

/// What is not written at the service itself is said by its rule among the `policies`, where there is one.
pub fn or_ruled(snapshot: &Snapshot, service: &str, kind: PolicyKind, policy: Policy) -> Policy {
    match snapshot.config.policy_place(service, kind).filter(|_| policy.place.is_none()) {
        Some(place) => Policy { from: "policies".to_owned(), place: Some(place.to_string()), ..policy },
        None => policy,
    }
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

//! What a route does to its traffic on purpose, as policies.

use std::time::SystemTime;

use super::Policy;
use super::places::{self, place};
use crate::config::schema;
use crate::policy::outcome::GRPC_CODES;
use crate::snapshot::{Action, Route, Snapshot};

pub fn of_route(snapshot: &Snapshot, route: &Route) -> Vec<Policy> {
    let path = |key: &str| format!("{}.{key}", places::of_route(snapshot, route.index));
    let policy = |name: &str, value: String, key: &str| Policy {
        name: name.to_owned(),
        value,
        from: "route".to_owned(),
        place: place(snapshot, &path(key)),
    };
    let mut all = Vec::new();
    let written = snapshot.config.root().routes.get(route.index).filter(|written| *written.name == *route.name);
    if let (Some(fault), Some(compiled)) = (written.and_then(|written| written.fault.as_ref()), &route.fault) {
        all.push(policy("fault", faults(fault, compiled.fault.is_expired(SystemTime::now())), "fault"));
    }
    for (index, mirror) in route.mirrors.iter().enumerate() {
        let methods: Vec<&str> = mirror.methods.iter().map(http::Method::as_str).collect();
        let value = format!("{} % of {} to {}", mirror.chance.0, methods.join(", "), mirror.to);
        all.push(policy("mirror", value, &format!("mirror[{index}]")));
    }
    if let Action::Forward(forward) = &route.action
        && let Some(steered) = &forward.canary
    {
        let state = steered.state();
        let (share, phase) = (state.share(&steered.plan), state.phase.name());
        let value = format!(
            "{} at {share} % ({phase}, step {} of {})",
            steered.side(),
            state.step + 1,
            steered.plan.steps.len()
        );
        all.push(policy("canary", value, "canary"));
    }
    all
}

/// `delay 200ms (50 %), abort 503 (10 %), until 2027-01-01T00:00:00Z`
fn faults(fault: &schema::Fault, expired: bool) -> String {
    let schema::Fault { matches, delay, abort, bandwidth, expires } = fault;
    let delay = delay.as_ref().map(|delay| format!("delay {} ({} %)", delay.duration, delay.percent));
    let abort = abort.as_ref().map(|abort| {
        let how = match (&abort.status, &abort.grpc) {
            (Some(status), _) => status.to_string(),
            (None, Some(code)) => {
                let known = crate::policy::outcome::grpc_code(code).and_then(|code| GRPC_CODES.get(usize::from(code)));
                format!("grpc:{}", known.unwrap_or(&code.as_str()))
            }
            (None, None) => "reset".to_owned(),
        };
        format!("abort {how} ({} %)", abort.percent)
    });
    let bandwidth = bandwidth.as_ref().map(|slow| format!("{} a second ({} %)", slow.limit, slow.percent));
    let only = (!matches.is_empty()).then(|| "of requests that its `match` fits".to_owned());
    let expires = expires.as_ref().map(|at| format!("{} {at}", if expired { "expired" } else { "until" }));
    let all: Vec<String> = [delay, abort, bandwidth, only, expires].into_iter().flatten().collect();
    all.join(", ")
}

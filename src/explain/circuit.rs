//! The circuit breakers that a request passes, as they are written; where the configuration is live, as they are now.

use std::time::Instant;

use super::Policy;
use super::effective::{entry, or_ruled};
use crate::config::schema::{CircuitBreaker, Fallback, PolicyKind, RuleMode};
use crate::config::step;
use crate::policy::breaker::State;
use crate::snapshot::circuit::Circuit;
use crate::snapshot::{Snapshot, Target};

/// Those of the route, of the service and of the classes of its answers.
pub fn of(snapshot: &Snapshot, route: usize, target: Target) -> Vec<Policy> {
    let root = snapshot.config.root();
    let mut all = Vec::new();
    if let Some(written) = root.routes.get(route).and_then(|route| route.circuit_breaker.as_ref()) {
        let circuit = snapshot.routes.get(route).and_then(|route| route.circuit.as_deref());
        let value = text(snapshot, written, written.fallback.as_ref(), circuit);
        all.push(entry(snapshot, "circuitBreaker", value, "route", &format!("routes[{route}].circuitBreaker")));
    }
    let Some(service) = snapshot.services.get(target.service) else { return all };
    let Some(known) = root.services.get(&*service.name) else { return all };
    let path = format!("services{}", step(&service.name));
    let circuits = service.circuits.as_deref();
    if let Some(written) = &known.circuit_breaker {
        let value = text(snapshot, written, written.fallback.as_ref(), circuits.and_then(|all| all.own.as_ref()));
        let policy = entry(snapshot, "circuitBreaker", value, "service", &format!("{path}.circuitBreaker"));
        all.push(or_ruled(snapshot, &service.name, PolicyKind::CircuitBreaker, policy));
    }
    for (index, class) in known.error_classes.iter().enumerate() {
        let Some(written) = &class.circuit_breaker else { continue };
        let circuit = circuits.and_then(|all| all.classes.get(index)?.circuit.as_ref());
        let value = text(snapshot, &written.whole(), class.fallback.as_ref(), circuit);
        let name = format!("errorClasses.{}", class.name);
        all.push(entry(snapshot, &name, value, "service", &format!("{path}.errorClasses[{index}]")));
    }
    all
}

/// `opens at 0.6 of 20 in 1m, for 30s, then 10 trials; fallback to backup; now open for 12 s`.
fn text(
    snapshot: &Snapshot,
    written: &CircuitBreaker,
    fallback: Option<&Fallback>,
    circuit: Option<&Circuit>,
) -> String {
    if written.mode == RuleMode::Off {
        return "off".to_owned();
    }
    let CircuitBreaker { failure_threshold, min_requests, window, open_duration, half_open_requests, .. } = written;
    let mut text = format!("opens at {failure_threshold} of {min_requests} in {window}");
    if let Some(failures) = written.consecutive_failures {
        text += &format!(", or {failures} in a row");
    }
    text += &format!(", for {open_duration}, then {half_open_requests} trials");
    text += &match fallback {
        None => String::new(),
        Some(Fallback::Redirect(_)) => "; fallback redirects".to_owned(),
        Some(Fallback::Respond(respond)) => format!("; fallback answers {}", respond.status),
        Some(Fallback::To(to)) => format!("; fallback to {to}"),
        Some(Fallback::Stale(age)) => format!("; fallback to the last good answer of {age}"),
    };
    if written.mode == RuleMode::Shadow {
        text += " (shadow)";
    }
    // One that was read from a file has nothing to tell.
    if let Some(known) = circuit.filter(|_| snapshot.generation > 0) {
        let now = Instant::now();
        let report = known.breaker.report(now);
        text += &match report.state {
            State::Open => format!("; now open for {} s", report.left(&known.terms, now).as_secs()),
            State::HalfOpen => format!("; now half open, {} of {half_open_requests} tried", report.calls),
            State::Closed => format!("; now closed, {} of {} failed", report.failures, report.calls),
        };
    }
    text
}

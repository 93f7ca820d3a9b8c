//! The limits that are in force for a request.

use super::Policy;
use super::effective::or_ruled;
use super::places::place;
use crate::config::schema::PolicyKind;
use crate::config::step;
use crate::snapshot::limits::RateLimit;
use crate::snapshot::{Route, Service, Snapshot};

/// Rate limits of the route and of the service, and what the service may have at a time.
pub(super) fn of(snapshot: &Snapshot, route: &Route, service: &Service) -> Vec<Policy> {
    let of_route = rate_limits(snapshot, &route.rate_limits, "route", &format!("routes[{}]", route.index));
    let path = format!("services{}", step(&service.name));
    let of_service = rate_limits(snapshot, &service.rate_limits, "service", &path).into_iter();
    let ruled = |policy| or_ruled(snapshot, &service.name, PolicyKind::RateLimit, policy);
    let mut all = of_route;
    all.extend(of_service.map(ruled));
    let Some(limits) = &service.limits else { return all };
    let number = |limit: Option<u32>| limit.map(|limit| limit.to_string());
    let adaptive = limits.limits.adaptive.map(|adaptive| format!("from {} to {}", adaptive.min, adaptive.max));
    let pending = format!("{} for {} ms", limits.limits.max_pending, limits.pending_timeout.as_millis());
    let shadow = if limits.shadow { " (shadow)" } else { "" };
    let known = [
        ("maxRequests", number(limits.limits.max)),
        ("maxConnections", number(service.ceiling.max())),
        ("adaptive", adaptive),
        ("maxPending", Some(pending)),
        ("maxRetries", number(limits.max_retries)),
    ];
    for (key, value) in known {
        let place = place(snapshot, &format!("{path}.limits.{key}"));
        let from = if place.is_some() { "service" } else { "built in" }.to_owned();
        all.extend(value.map(|value| Policy {
            name: format!("limits.{key}"),
            value: format!("{value}{shadow}"),
            from,
            place,
        }));
    }
    all
}

fn rate_limits(snapshot: &Snapshot, limits: &[RateLimit], from: &str, path: &str) -> Vec<Policy> {
    let one = |(index, limit): (usize, &RateLimit)| {
        let said = limit.to_string();
        let value = said.strip_prefix(&*limit.of).unwrap_or(&said).trim_start_matches(": ");
        let shadow = if limit.shadow { " (shadow)" } else { "" };
        let path = format!("{path}.rateLimit");
        let place = place(snapshot, &format!("{path}[{index}]")).or_else(|| place(snapshot, &path));
        Policy { name: "rateLimit".to_owned(), value: format!("{value}{shadow}"), from: from.to_owned(), place }
    };
    limits.iter().enumerate().map(one).collect()
}

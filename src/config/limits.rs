//! What can be wrong with limits: on what cannot have them, and bounds that contradict each other.

use super::schema::{AdaptiveLimit, Criticality, LimitKey, Limits, Protocol, RateLimit, RateLimits, Route, Service};
use super::validate::View;

pub fn service(view: &mut View<'_>, path: &str, service: &Service) {
    if service.protocol == Protocol::Tcp {
        of_tcp(view, path, service);
    }
    rate_limits(view, path, service.rate_limit.as_ref());
    let Some(limits) = &service.limits else { return };
    let path = format!("{path}.limits");
    if let Criticality::Attribute(name) = &limits.criticality {
        view.reference(&format!("{path}.criticality.attribute"), "attribute", name);
    }
    if let Some(AdaptiveLimit::Bounds(bounds)) = limits.adaptive {
        let path = format!("{path}.adaptive");
        if bounds.min > bounds.max {
            let remedy = format!("write {} or less", bounds.max);
            view.push(&format!("{path}.min"), format!("`min` is above `max`, which is {}", bounds.max), remedy);
        } else if !(bounds.min..=bounds.max).contains(&bounds.initial) {
            let (message, remedy) = (
                format!("`initial`, which is {}, is not between `min` and `max`", bounds.initial),
                format!("write from {} to {}", bounds.min, bounds.max),
            );
            view.push(&format!("{path}.initial"), message, remedy);
        }
    }
}

fn of_tcp(view: &mut View<'_>, path: &str, service: &Service) {
    let limits = service.limits.as_ref();
    let has = |key: fn(&Limits) -> bool| limits.is_some_and(key);
    for (key, there) in [
        ("limits.maxRequests", has(|limits| limits.max_requests.is_some())),
        ("limits.adaptive", has(|limits| limits.adaptive.is_some())),
        ("limits.maxRetries", has(|limits| limits.max_retries.is_some())),
        ("rateLimit", service.rate_limit.is_some()),
    ] {
        if there {
            let name = key.trim_start_matches("limits.");
            let remedy = "remove it; `maxConnections` of `limits` limits connections";
            view.push(&format!("{path}.{key}"), format!("`{name}` counts requests, and tcp has none"), remedy);
        }
    }
}

pub fn route(view: &mut View<'_>, path: &str, route: &Route) {
    if route.rate_limit.is_none() {
        return;
    }
    let forwards = || route.to.iter().chain(route.split.iter().flatten().map(|side| &side.to));
    let service = |to: &String| view.root.services.get(to.split('/').next().unwrap_or_default());
    if forwards().next().is_none() {
        let message = "`rateLimit` is for what goes upstream: with `to` or `split` only";
        view.push(&format!("{path}.rateLimit"), message, "remove it");
    } else if forwards().filter_map(service).any(|service| service.protocol == Protocol::Tcp) {
        let message = "`rateLimit` counts requests, and tcp has none";
        view.push(&format!("{path}.rateLimit"), message, "remove it");
    }
    rate_limits(view, path, route.rate_limit.as_ref());
}

fn rate_limits(view: &mut View<'_>, path: &str, limits: Option<&RateLimits>) {
    match limits {
        None => {}
        Some(RateLimits::One(limit)) => rate_limit(view, &format!("{path}.rateLimit"), limit),
        Some(RateLimits::All(all)) => {
            for (index, limit) in all.iter().enumerate() {
                rate_limit(view, &format!("{path}.rateLimit[{index}]"), limit);
            }
        }
    }
}

fn rate_limit(view: &mut View<'_>, path: &str, limit: &RateLimit) {
    match &limit.per {
        Some(LimitKey::Attribute(name)) => {
            view.reference(&format!("{path}.per.attribute"), "attribute", name);
        }
        Some(LimitKey::Identity(false) | LimitKey::Address(false)) => {
            view.push(&format!("{path}.per"), "this tells nobody apart", "write `true`, or remove `per`");
        }
        Some(LimitKey::Identity(true)) if view.tree.get("identity").is_none() => {
            let remedy =
                "add `identity` with a certificate of our own and the trust bundle, or tell apart by `address`";
            let message = "without an `identity` of ours nobody can prove theirs";
            view.push(&format!("{path}.per.identity"), message, remedy);
        }
        Some(LimitKey::Header(_) | LimitKey::Identity(true) | LimitKey::Address(true)) | None => {}
    }
}

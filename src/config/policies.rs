//! The block `policies`: held against the services that it is for, and then made into keys of theirs, so that nothing
//! behind this knows of it.

use super::problem::Place;
use super::schema::{CircuitBreaker, PolicyKind, PolicyRule, RateLimit, RateLimits, Root};
use super::tree::{Node, step};
use super::validate::View;

/// The keys of each type, those that it needs first; then how many it needs, and the key of the service.
const KINDS: [(PolicyKind, &str, &[&str], usize, &str); 2] = [
    (
        PolicyKind::CircuitBreaker,
        "circuit-breaker",
        &["failure-threshold", "window", "open-duration"],
        1,
        "circuitBreaker",
    ),
    (PolicyKind::RateLimit, "rate-limit", &["qps", "burst"], 1, "rateLimit"),
];

pub fn validate(view: &mut View<'_>) {
    let root = view.root;
    let mut seen: Vec<(&str, PolicyKind, String)> = Vec::new();
    for (index, policies) in root.policies.iter().enumerate() {
        let path = view.policies_path(index);
        let known = view.reference(&format!("{path}.service"), "service", &policies.service);
        for (index, rule) in policies.rules.iter().enumerate() {
            let path = format!("{path}.rules[{index}]");
            let Some((_, name, keys, needed, native)) = KINDS.into_iter().find(|kind| kind.0 == rule.kind) else {
                continue;
            };
            self::keys(view, &path, rule, (name, keys, needed));
            match seen.iter().find(|(service, kind, _)| *service == policies.service && *kind == rule.kind) {
                Some((.., first)) => {
                    let what = format!("a rule of type `{name}` for service `{}`", policies.service);
                    view.twice(&path, &what, &first.clone());
                }
                None => seen.push((&policies.service, rule.kind, path.clone())),
            }
            let there = format!("services{}.{native}", step(&policies.service));
            if known && view.tree.at(&there).is_some_and(|node| !node.is_null()) {
                let message = format!("service `{}` says so itself, in `{native}`", policies.service);
                view.push(&path, message, format!("keep one of them: this rule, or `{there}`"));
            }
        }
    }
}

/// Those that the type needs, and none of another.
fn keys(view: &mut View<'_>, path: &str, rule: &PolicyRule, (name, keys, needed): (&str, &[&str], usize)) {
    let there = [
        ("window", rule.window.is_some()),
        ("failure-threshold", rule.failure_threshold.is_some()),
        ("open-duration", rule.open_duration.is_some()),
        ("qps", rule.qps.is_some()),
        ("burst", rule.burst.is_some()),
    ];
    for (key, _) in there.iter().filter(|(key, there)| *there && !keys.contains(key)) {
        let remedy = format!("remove it; that type has {}", super::check::listed(keys.iter().copied()));
        view.push(&format!("{path}.{key}"), format!("`{key}` is not of type `{name}`"), remedy);
    }
    let lacks = |key: &&&str| !there.iter().any(|(name, there)| *name == **key && *there);
    for key in keys.iter().take(needed).filter(lacks) {
        view.push(path, format!("`{key}` is missing"), format!("add `{key}: …`"));
    }
    for (key, time) in [("window", rule.window), ("open-duration", rule.open_duration)] {
        if let Some(time) = time {
            view.positive(&format!("{path}.{key}"), time);
        }
    }
}

/// Where the rule of a type for a service stands.
pub fn place(tree: &Node, service: &str, kind: PolicyKind) -> Option<Place> {
    let (_, name, ..) = KINDS.into_iter().find(|known| known.0 == kind)?;
    let is = |node: &Node, key: &str, text: &str| node.get(key).and_then(Node::text) == Some(text);
    let blocks = tree.get("policies")?.seq().iter().filter(|block| is(block, "service", service));
    let mut rules = blocks.filter_map(|block| block.get("rules")).flat_map(Node::seq);
    rules.find(|rule| is(rule, "type", name)).map(|rule| rule.place.clone())
}

/// Makes the rules keys of their services. They have been judged.
pub fn apply(root: &mut Root) {
    for policies in std::mem::take(&mut root.policies) {
        let Some(service) = root.services.get_mut(&policies.service) else { continue };
        for rule in policies.rules {
            match rule.kind {
                PolicyKind::RateLimit => {
                    let limit = rule.qps.map(|qps| RateLimits::One(RateLimit::new(qps, rule.burst)));
                    service.rate_limit = limit.or(service.rate_limit.take());
                }
                PolicyKind::CircuitBreaker => service.circuit_breaker = Some(circuit_breaker(&rule)),
            }
        }
    }
}

fn circuit_breaker(rule: &PolicyRule) -> CircuitBreaker {
    let usual = CircuitBreaker::default();
    CircuitBreaker {
        window: rule.window.unwrap_or(usual.window),
        failure_threshold: rule.failure_threshold.unwrap_or(usual.failure_threshold),
        open_duration: rule.open_duration.unwrap_or(usual.open_duration),
        ..usual
    }
}

use super::*;
use crate::config::schema::PolicyKind;

const ROUTE: &str = "routes: [{ name: a, to: app }]\n";

fn service(keys: &str) -> String {
    format!("{HEAD}{ROUTE}").replacen("app: { ", &format!("app: {{ {keys}, "), 1)
}

fn route(keys: &str) -> String {
    format!("{HEAD}{ROUTE}").replace("to: app", &format!("to: app, {keys}"))
}

fn policies(rules: &str) -> String {
    format!("{HEAD}{ROUTE}policies: [{{ service: app, rules: [{rules}] }}]\n")
}

#[test]
fn what_limits_are_refused_for() {
    for (text, expected) in [
        (
            route("rateLimit: { requestsPerSecond: 1, per: { attribute: ▸enw } }"),
            "routes[0].rateLimit.per.attribute: there is no attribute `enw` | did you mean `env`?",
        ),
        (
            route("rateLimit: [{ requestsPerSecond: 1 }, { requestsPerSecond: 1, ▸per: { address: false } }]"),
            "routes[0].rateLimit[1].per: this tells nobody apart | write `true`, or remove `per`",
        ),
        (
            route("rateLimit: { requestsPerSecond: 1, per: { identity: ▸true } }"),
            "routes[0].rateLimit.per.identity: without an `identity` of ours nobody can prove theirs | add `identity` with a certificate of our own and the trust bundle, or tell apart by `address`",
        ),
        (
            route("rateLimit: { requestsPerSecond: ▸0 }"),
            "routes[0].rateLimit.requestsPerSecond: 0 is out of range | from 0.001 to 1000000",
        ),
        (
            route("▸rateLimit: { requestsPerSecond: 1 }").replace("to: app", "respond: { status: 200 }"),
            "routes[0].rateLimit: `rateLimit` is for what goes upstream: with `to` or `split` only | remove it",
        ),
        (
            route("▸rateLimit: { requestsPerSecond: 1 }").replace("to: app", "to: raw"),
            "routes[0].rateLimit: `rateLimit` counts requests, and tcp has none | remove it",
        ),
        (
            service("limits: { adaptive: { min: ▸50, max: 20 } }"),
            "services.app.limits.adaptive.min: `min` is above `max`, which is 20 | write 20 or less",
        ),
        (
            service("limits: { adaptive: { initial: ▸1, min: 2 } }"),
            "services.app.limits.adaptive.initial: `initial`, which is 1, is not between `min` and `max` | write from 2 to 1000",
        ),
        (
            service("limits: { criticality: { attribute: ▸class } }"),
            "services.app.limits.criticality.attribute: there is no attribute `class` | there is `env`",
        ),
        (
            format!("{HEAD}{ROUTE}")
                .replace("protocol: tcp", "protocol: tcp, limits: { maxConnections: 3, maxRequests: ▸1 }"),
            "services.raw.limits.maxRequests: `maxRequests` counts requests, and tcp has none | remove it; `maxConnections` of `limits` limits connections",
        ),
    ] {
        only(&text, expected);
    }
}

#[test]
fn what_policies_are_refused_for() {
    for (text, expected) in [
        (policies("▸{ type: rate-limit }"), "policies[0].rules[0]: `qps` is missing | add `qps: …`"),
        (
            policies("{ type: rate-limit, qps: 1, window: ▸60s }"),
            "policies[0].rules[0].window: `window` is not of type `rate-limit` | remove it; that type has `qps` or `burst`",
        ),
        (
            policies("{ type: ▸ratelimit, qps: 1 }"),
            "policies[0].rules[0].type: unknown value `ratelimit` | did you mean `rate-limit`?",
        ),
        (
            policies("{ type: rate-limit, ▸QPS: 1, qps: 1 }"),
            "policies[0].rules[0].QPS: unknown key `QPS` | did you mean `qps`?",
        ),
        (
            policies("▸{ type: circuit-breaker, failure-threshold: 0.5 }").replacen(
                "app: { ",
                "app: { circuitBreaker: {}, ",
                1,
            ),
            "policies[0].rules[0]: service `app` says so itself, in `circuitBreaker` | keep one of them: this rule, or `services.app.circuitBreaker`",
        ),
        (
            policies("{ type: circuit-breaker, failure-threshold: ▸60 }"),
            "policies[0].rules[0].failure-threshold: 60 is out of range | from 0 to 1",
        ),
        (
            policies("{ type: rate-limit, qps: 1 }, ▸{ type: rate-limit, qps: 2 }"),
            "policies[0].rules[1]: a rule of type `rate-limit` for service `app` is there twice | the first is at t.yaml:8:36",
        ),
        (
            policies("{ type: rate-limit, qps: 1 }").replace("service: app", "service: ▸ap"),
            "policies[0].service: there is no service `ap` | did you mean `app`?",
        ),
        (
            policies("▸{ type: rate-limit, qps: 1 }").replacen(
                "app: { ",
                "app: { rateLimit: { requestsPerSecond: 1 }, ",
                1,
            ),
            "policies[0].rules[0]: service `app` says so itself, in `rateLimit` | keep one of them: this rule, or `services.app.rateLimit`",
        ),
    ] {
        only(&text, expected);
    }
}

#[test]
fn policies_become_keys_of_their_services() {
    let text = policies("{ type: rate-limit, qps: 1200, burst: 3000 }");
    let config = parse("t.yaml", &text, &no_env).expect("a configuration");
    let limit = config.services["app"].rate_limit.as_ref().and_then(|limits| limits.all().first().cloned());
    assert_eq!(limit.map(|limit| (limit.requests_per_second, limit.burst())), Some((1200.0, 3000)));
    let place = config.policy_place("app", PolicyKind::RateLimit);
    assert_eq!(place.map(|place| (place.line, place.column)), Some((8, 36)));
    let breaker = policies("{ type: circuit-breaker, window: 20s, failure-threshold: 0.6 }");
    let breaker = parse("t.yaml", &breaker, &no_env).expect("a configuration");
    let breaker = breaker.services["app"].circuit_breaker.clone().expect("a circuit breaker");
    assert_eq!((breaker.window.as_secs(), breaker.failure_threshold, breaker.open_duration.as_secs()), (20, 0.6, 30));
    let native = service("rateLimit: { requestsPerSecond: 1200, burst: 3000 }");
    let native = parse("t.yaml", &native, &no_env).expect("a configuration");
    assert_eq!(native.digest(), config.digest(), "they mean the same");
    assert!(diff::changes(&native, &config).is_empty());
}

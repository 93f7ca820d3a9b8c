use super::*;

fn of_service(keys: &str) -> String {
    format!("{HEAD}routes: [{{ name: a, to: app }}]\n").replace("app: {", &format!("app: {{ {keys}, "))
}

fn of_route(keys: &str) -> String {
    format!("{HEAD}routes: [{{ name: a, to: app, circuitBreaker: {{ {keys} }} }}]\n")
}

#[test]
fn circuit_breakers() {
    let path = "services.app.circuitBreaker";
    for (keys, expected) in [
        ("window: ▸0s", "window: must be longer than 0s | write a time, such as `1s`"),
        ("openDuration: ▸0s", "openDuration: must be longer than 0s | write a time, such as `1s`"),
        (
            "failureThreshold: ▸0",
            "failureThreshold: it would open with any failure | a share above 0; `consecutiveFailures: 1` if that is meant",
        ),
        ("failureThreshold: ▸60", "failureThreshold: 60 is out of range | from 0 to 1"),
        ("halfOpenRequests: ▸0", "halfOpenRequests: 0 is out of range | from 1 to 10000"),
        ("fallback: { stale: ▸0s }", "fallback.stale: must be longer than 0s | write a time, such as `1s`"),
        ("fallback: { to: ▸app/one }", "fallback.to: the fallback leads back to the service | lead to another service"),
        ("fallback: { to: ▸raw }", "fallback.to: `raw` is a tcp service | lead to one that speaks HTTP"),
        ("fallback: { to: ▸none }", "fallback.to: there is no service `none` | there is `app` or `raw`"),
        (
            "fallback: { ▸redirect: { status: 301 } }",
            "fallback.redirect: the redirect leads back to itself | change `scheme`, `host`, `port` or `path`",
        ),
        (
            "fallback: { redirect: { host: x, prefix: ▸/y } }",
            "fallback.redirect.prefix: a fallback knows no prefix that this could replace | replace the whole `path`",
        ),
        (
            "fallback: { respond: { status: 200, headers: { ▸X-Graceful-Fallback: x } } }",
            "fallback.respond.headers.X-Graceful-Fallback: `X-Graceful-Fallback` belongs to the proxy | remove it",
        ),
    ] {
        only(&of_service(&format!("circuitBreaker: {{ {keys} }}")), &format!("{path}.{expected}"));
    }
    let respond = "routes: [{ name: a, respond: { status: 200 }, ▸circuitBreaker: {} }]\n";
    let message = "a route that answers by itself has no service that fails | remove it";
    only(&format!("{HEAD}{respond}"), &format!("routes[0].circuitBreaker: {message}"));
    let tcp = format!("{HEAD}routes: [{{ name: a, to: raw }}]\n");
    let tcp = tcp.replace("protocol: tcp", "protocol: tcp, circuitBreaker: { ▸fallback: { stale: 1s } }");
    only(&tcp, "services.raw.circuitBreaker.fallback: a tcp connection can only be refused | remove it");
    let back = "circuitBreaker.fallback.to: the fallback leads back to the service | lead to another service";
    only(&of_route("fallback: { to: ▸app }"), &format!("routes[0].{back}"));
    for sound in ["", "fallback: { to: app/one }", "consecutiveFailures: 3, failures: [5xx, 429, \"grpc:14\"]"] {
        assert_eq!(said(&problems(&of_route(sound))), [""; 0], "{sound}");
    }
}

#[test]
fn classes_of_answers() {
    let one = |keys: &str| of_service(&format!("errorClasses: [{{ name: x, {keys} }}]"));
    let path = "services.app.errorClasses[0]";
    for (keys, expected) in [
        ("▸match: {}", "match: every answer would be of this class | add `status`, `grpc` or `responseHeader`"),
        ("match: { grpc: ▸none }", "match.grpc: `none` is not a gRPC status | a name such as `unavailable`"),
        (
            "match: { status: 500 }, ▸fallback: { stale: 1s }",
            "fallback: nothing ever leads to this fallback | add `circuitBreaker: {}` to the class",
        ),
        (
            "match: { status: 500 }, circuitBreaker: { ▸failures: [5xx] }",
            "circuitBreaker.failures: unknown key `failures` | expected `window`, `minRequests`, `failureThreshold`, \
             `consecutiveFailures`, `openDuration`, `halfOpenRequests` or `mode`",
        ),
    ] {
        only(&one(keys), &format!("{path}.{expected}"));
    }
    let class = "{ name: x, match: { status: 500 } }";
    let twice = of_service(&format!("errorClasses: [{class}, {}]", class.replace("name: x", "name: ▸x")));
    assert!(said(&problems(&twice.replace(POINT, "")))[0].contains("errorClasses[1].name: `x` is there twice"));
    let many: Vec<String> = (0..33).map(|n| class.replace("name: x", &format!("name: x{n}"))).collect();
    let many = of_service(&format!("errorClasses: [{}]", many.join(", ")));
    assert!(said(&problems(&many))[0].contains("more than 32 classes"));
}

#[test]
fn fallbacks_do_not_lead_in_a_circle() {
    let service = |name: &str, to: &str| {
        format!(
            "  {name}: {{ endpoints: {{ static: [\"127.0.0.1:1\"] }}, circuitBreaker: {{ fallback: {{ to: {to} }} }} }}\n"
        )
    };
    let text = |services: &str| {
        format!("{HEAD}routes: [{{ name: a, to: one }}]\n").replace("services:\n", &format!("services:\n{services}"))
    };
    let round = text(&[service("one", "two"), service("two", "three"), service("three", "one")].concat());
    let problems = said(&problems(&round));
    assert_eq!(problems.len(), 3);
    let message = "services.one.circuitBreaker.fallback.to: the fallback leads, by others, back to the service";
    assert!(problems[0].contains(message), "{problems:?}");
    let straight = text(&[service("one", "two"), service("two", "three"), service("three", "app")].concat());
    assert_eq!(said(&super::problems(&straight)), [""; 0]);
}

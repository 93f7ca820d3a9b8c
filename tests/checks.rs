//! Active health checks: who fails them gets nothing, until it passes them again.

mod common;

use std::net::{SocketAddr, TcpListener};

use common::mesh::{MUTUAL, Mesh};
use common::moody::Moody;
use common::{Origin, Proxy, SOON, Setup, free_addr, get, grpc, until};

const FAST: &str = "interval: 50ms, timeout: 5s, healthyAfter: 2, unhealthyAfter: 2";

/// What `/clusters` says of the checks of an endpoint.
fn checked(proxy: &Proxy, service: &str, address: SocketAddr) -> serde_json::Value {
    let clusters = proxy.admin_json("/clusters");
    let endpoints = clusters[service]["endpoints"].as_array().expect("endpoints").clone();
    let address = address.to_string();
    endpoints.into_iter().find(|endpoint| endpoint["address"] == address).expect("an endpoint")["healthCheck"].clone()
}

fn is(proxy: &Proxy, address: SocketAddr, healthy: bool) {
    let what = format!("{address} healthy: {healthy}");
    until(&what, SOON, || checked(proxy, "app", address)["healthy"] == healthy);
}

#[test]
fn the_path_of_a_check_may_have_a_query() {
    let a = Moody::new("a");
    let check = format!("healthCheck: {{ http: {{ path: \"/healthz?from=proxy\" }}, {FAST} }}");
    let proxy = Proxy::of_service(&format!(r#"endpoints: {{ static: ["{{a}}"] }}, {check}"#), &[("a", a.addr())]);
    is(&proxy, a.addr(), true);
    assert_eq!(a.origin.nth(1).head.start_line(), "GET /healthz?from=proxy HTTP/1.1");
}

/// Who answers so many requests.
fn answers(proxy: &Proxy, requests: usize) -> Vec<String> {
    let mut all: Vec<String> = (0..requests).map(|_| get(proxy.addr(), "/").text()).collect();
    all.sort_unstable();
    all.dedup();
    all
}

#[test]
fn who_fails_checks_gets_nothing_and_reloads_keep_that() {
    let [a, b] = ["a", "b"].map(Moody::new);
    let check = format!("healthCheck: {{ http: {{ path: /healthz }}, {FAST} }}");
    let service = format!(
        r#"endpoints: {{ static: ["{{a}}", "{{b}}"] }}, loadBalancer: {{ policy: roundRobin }}, hosts: [app.test], {check}"#
    );
    let proxy = Proxy::of_service(&service, &[("a", a.addr()), ("b", b.addr())]);
    is(&proxy, a.addr(), true);
    is(&proxy, b.addr(), true);
    assert_eq!(answers(&proxy, 8), ["a", "b"]);

    b.health(503);
    is(&proxy, b.addr(), false);
    assert_eq!(answers(&proxy, 8), ["a"]);
    assert_eq!(checked(&proxy, "app", b.addr())["lastError"], "answered 503 Service Unavailable");
    proxy.await_metric("outrigger_endpoints", &[("service", "app"), ("state", "unhealthy")], 1.0);
    proxy.await_metric("outrigger_health_checks_total", &[("service", "app"), ("result", "failed")], 2.0);
    let served = b.served();
    let told = proxy.cli(&["explain", "http://app.test/"]).out;
    assert!(told.contains(&format!("- {}: unhealthy (answered 503 Service Unavailable)", b.addr())), "{told}");
    assert!(told.contains("healthCheck                http /healthz every 50 ms"), "{told}");

    // Other thresholds, another source of the same endpoints: what was learned stays, and no check says otherwise.
    let since = checked(&proxy, "app", b.addr())["since"].clone();
    proxy.reload("healthyAfter: 2", "healthyAfter: 3");
    proxy.reload("loadBalancer: { policy: roundRobin }", "loadBalancer: { policy: random }");
    assert_eq!(answers(&proxy, 8), ["a"]);
    assert_eq!((checked(&proxy, "app", b.addr())["since"].clone(), b.served()), (since, served));
    assert_eq!(proxy.stderr_text().matches("endpoint is unhealthy").count(), 1, "told once, not at every check");

    b.health(200);
    is(&proxy, b.addr(), true);
    until("it serves again", SOON, || answers(&proxy, 8) == ["a", "b"]);
    b.health(503);
    is(&proxy, b.addr(), false);
    // Nobody checks any more: everybody is as good as another.
    proxy.reload(&check.replace("healthyAfter: 2", "healthyAfter: 3"), "");
    assert!(checked(&proxy, "app", b.addr()).is_null());
    until("it serves again", SOON, || answers(&proxy, 8) == ["a", "b"]);
    let head = a.origin.nth(1).head;
    assert_eq!((head.start_line().as_str(), head.get("host").as_deref()), ("GET /healthz HTTP/1.1", Some("app.test")));
}

#[test]
fn the_statuses_the_host_and_the_port_are_what_was_asked_for() {
    let (traffic, admin) = (Origin::ok(), Moody::new("admin"));
    admin.health(418);
    let port = admin.addr().port();
    let service = format!(
        r#"endpoints: {{ static: ["{{up}}"] }}, healthCheck: {{ http: {{ path: /healthz, host: "probe:1", statuses: [418] }}, port: {port}, {FAST} }}"#
    );
    let proxy = Proxy::of_service(&service, &[("up", traffic.addr())]);
    is(&proxy, traffic.addr(), true);
    assert_eq!(admin.origin.nth(1).head.get("host").as_deref(), Some("probe:1"));
    assert!(traffic.seen().is_empty(), "the endpoint is asked at the other port");
    admin.health(200);
    is(&proxy, traffic.addr(), false);
}

#[test]
fn a_connection_is_enough_for_tcp() {
    let (a, b) = (Origin::named("a"), free_addr());
    let service = format!(r#"endpoints: {{ static: ["{{a}}", "{{b}}"] }}, healthCheck: {{ tcp: {{}}, {FAST} }}"#);
    let proxy = Proxy::of_service(&service, &[("a", a.addr()), ("b", b)]);
    is(&proxy, b, false);
    assert_eq!(answers(&proxy, 10), ["a"], "the first check decides alone");
    let back = Moody::on(TcpListener::bind(b).expect("the port again"), "b");
    is(&proxy, back.addr(), true);
    until("both serve", SOON, || answers(&proxy, 10) == ["a", "b"]);
}

#[test]
fn who_does_not_answer_in_time_fails() {
    // Reads whatever comes, until the other side has had enough.
    let hanging = Origin::raw(|mut conn, _| drop(conn.read_to_end()));
    let service =
        r#"endpoints: { static: ["{up}"] }, healthCheck: { http: { path: / }, interval: 50ms, timeout: 100ms }"#;
    let proxy = Proxy::of_service(service, &[("up", hanging.addr())]);
    is(&proxy, hanging.addr(), false);
    assert_eq!(checked(&proxy, "app", hanging.addr())["lastError"], "no answer within 100 ms");
}

#[test]
fn grpc_servers_are_asked_in_their_own_words() {
    let server = grpc::Server::start();
    let service = |name: &str, asked: &str| {
        format!(
            r#"  {name}: {{ protocol: http2, endpoints: {{ static: ["{{up}}"] }}, healthCheck: {{ grpc: {{ {asked} }}, {FAST} }} }}
"#
        )
    };
    let top = service("whole", "") + &service("shop", "service: shop") + &service("sick", "service: sick");
    let top = top + &service("nowhere", "service: nowhere");
    let config = format!(
        r#"apiVersion: outrigger/v1
admin: {{ address: "{{admin}}" }}
health: {{ address: "{{health}}" }}
listeners: [{{ name: edge, mode: proxy, address: "{{listen}}" }}]
services:
{top}
routes: [{{ name: all, to: whole }}]
"#
    );
    let proxy = Proxy::start(&config, &[("up", server.addr)]);
    for (name, healthy, error) in [
        ("whole", true, None),
        ("shop", true, None),
        ("sick", false, Some("NOT_SERVING")),
        ("nowhere", false, Some("gRPC status 5")),
    ] {
        until(&format!("{name} is checked"), SOON, || !checked(&proxy, name, server.addr).is_null());
        let told = checked(&proxy, name, server.addr);
        assert_eq!((told["healthy"].as_bool(), told["lastError"].as_str()), (Some(healthy), error), "{name}");
    }
}

#[test]
fn checks_go_over_the_tls_of_the_service_and_believe_nobody_else() {
    let (mesh, origin) = (Mesh::new(), Moody::new("reviews"));
    let far = mesh.strict(origin.addr());
    let check = format!(", healthCheck: {{ http: {{ path: /healthz }}, {FAST} }}");
    let near = mesh.outbound_as(far.addr(), Setup { service: &(MUTUAL.to_owned() + &check), ..Setup::default() });
    is(&near, far.addr(), true);
    assert_eq!(get(near.addr(), "/").text(), "reviews");
    origin.health(500);
    is(&near, far.addr(), false);
    origin.health(200);
    is(&near, far.addr(), true);

    let other = MUTUAL.replace("sa/reviews", "sa/ratings");
    let near = mesh.outbound_as(far.addr(), Setup { service: &(other + &check), ..Setup::default() });
    is(&near, far.addr(), false);
    assert_eq!(checked(&near, "app", far.addr())["lastError"], "no TLS: wrong_identity");
}

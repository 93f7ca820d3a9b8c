//! Endpoints that are looked for: in DNS, with names and services, and in files; and what is not believed at once.

mod common;

use std::net::{Ipv4Addr, TcpListener};

use common::dns::{Data, Dns};
use common::{Origin, Proxy, SOON, TempDir, get, until};

fn endpoints(proxy: &Proxy) -> Vec<serde_json::Value> {
    proxy.admin_json("/clusters")["app"]["endpoints"].as_array().expect("endpoints").clone()
}

fn discovery(proxy: &Proxy) -> serde_json::Value {
    proxy.admin_json("/clusters")["app"]["discovery"].clone()
}

#[test]
fn services_are_found_by_their_records() {
    let (a, b) = (Origin::named("a"), Origin::named("b"));
    let dns = Dns::start();
    let of = |origin: &Origin, weight, target| Data::Srv(0, weight, origin.addr().port(), target);
    dns.set("_http._tcp.app.test.", &[of(&a, 3, "one.test.")]);
    for name in ["one.test.", "two.test."] {
        dns.set(name, &[Data::A(Ipv4Addr::LOCALHOST)]);
    }
    let proxy = Proxy::of_service(
        r#"endpoints: { dns: { name: _http._tcp.app.test, type: srv, servers: ["{dns}"], minTtl: 1s, maxTtl: 1s } }"#,
        &[("dns", dns.addr)],
    );
    assert_eq!(get(proxy.addr(), "/").text(), "a");
    dns.set("_http._tcp.app.test.", &[of(&a, 3, "one.test."), of(&b, 1, "two.test.")]);
    until("both are there", SOON, || endpoints(&proxy).len() == 2);
    let weight = |origin: &Origin| {
        let address = origin.addr().to_string();
        let known = endpoints(&proxy).into_iter().find(|endpoint| endpoint["address"] == address);
        known.expect("an endpoint")["weight"].clone()
    };
    assert_eq!((weight(&a), weight(&b)), (3.into(), 1.into()));
    assert_eq!(discovery(&proxy)["source"]["dns"]["type"], "srv");
    dns.set("_http._tcp.app.test.", &[of(&b, 1, "two.test.")]);
    until("the other alone", SOON, || get(proxy.addr(), "/").text() == "b");
}

/// The records would be good for an hour.
#[test]
fn who_cannot_be_connected_to_is_looked_up_again() {
    let origin = Origin::named("here");
    let dns = Dns::start();
    // Nobody listens there.
    dns.set("app.test.", &[Data::A(Ipv4Addr::new(127, 0, 0, 99))]);
    let port = origin.addr().port();
    let service = format!(
        r#"endpoints: {{ dns: {{ name: app.test, port: {port}, servers: ["{{dns}}"], minTtl: 1h, maxTtl: 2h }} }}"#
    );
    let proxy = Proxy::of_service(&service, &[("dns", dns.addr)]);
    let asked = dns.asked();
    dns.set("app.test.", &[Data::A(Ipv4Addr::LOCALHOST)]);
    until("the new address", SOON, || get(proxy.addr(), "/").status() == 200);
    assert!(dns.asked() > asked);
}

#[test]
fn a_name_server_that_fails_empties_nothing_and_is_told() {
    let origin = Origin::named("here");
    let dns = Dns::start();
    dns.set("app.test.", &[Data::A(Ipv4Addr::LOCALHOST)]);
    let port = origin.addr().port();
    let service = format!(
        r#"endpoints: {{ dns: {{ name: app.test, port: {port}, servers: ["{{dns}}"], minTtl: 1s, maxTtl: 1s }} }}"#
    );
    let proxy = Proxy::of_service(&service, &[("dns", dns.addr)]);
    assert_eq!(get(proxy.addr(), "/").text(), "here");
    dns.broken(true);
    proxy.await_metric("outrigger_discovery_failures_total", &[("service", "app")], 1.0);
    proxy.await_metric("outrigger_discovery_age_seconds", &[("service", "app")], 2.0);
    assert_eq!(get(proxy.addr(), "/").text(), "here");
    assert!(discovery(&proxy)["lastError"].is_string());
    dns.broken(false);
    until("it is fresh again", 3 * SOON, || {
        proxy.metric("outrigger_discovery_age_seconds", &[("service", "app")]) < 2.0
    });
    assert!(discovery(&proxy)["lastError"].is_null());
}

/// One of two targets is gone: its endpoint stays, and that it is old shows.
#[test]
fn a_look_up_that_fails_in_part_is_told() {
    let (a, b) = (Origin::named("a"), Origin::named("b"));
    let dns = Dns::start();
    let of = |origin: &Origin, target| Data::Srv(0, 1, origin.addr().port(), target);
    dns.set("_http._tcp.app.test.", &[of(&a, "one.test."), of(&b, "two.test.")]);
    for name in ["one.test.", "two.test."] {
        dns.set(name, &[Data::A(Ipv4Addr::LOCALHOST)]);
    }
    let proxy = Proxy::of_service(
        r#"endpoints: { dns: { name: _http._tcp.app.test, type: srv, servers: ["{dns}"], minTtl: 1s, maxTtl: 1s } }"#,
        &[("dns", dns.addr)],
    );
    until("both are there", SOON, || endpoints(&proxy).len() == 2);
    assert!(discovery(&proxy)["lastError"].is_null());
    dns.set("two.test.", &[]);
    proxy.await_metric("outrigger_discovery_failures_total", &[("service", "app")], 2.0);
    proxy.await_metric("outrigger_discovery_age_seconds", &[("service", "app")], 2.0);
    assert_eq!(endpoints(&proxy).len(), 2);
    assert_eq!(discovery(&proxy)["lastError"], "two.test.: the name has no address");
    assert!(proxy.stderr_text().contains("two.test.: the name has no address"));
    dns.set("two.test.", &[Data::A(Ipv4Addr::LOCALHOST)]);
    until("it is fresh again", 3 * SOON, || discovery(&proxy)["failures"] == 0);
}

#[test]
fn a_file_without_any_weight_is_refused() {
    let dir = TempDir::new("weights");
    let origin = Origin::named("here");
    let list = |weight| format!("- {{ address: \"{}\", weight: {weight} }}\n", origin.addr());
    let file = dir.file("list.yaml", list(1));
    let proxy = Proxy::of_service(&format!("endpoints: {{ file: \"{}\" }}", file.display()), &[]);
    assert_eq!(get(proxy.addr(), "/").text(), "here");
    std::fs::write(&file, list(0)).expect("write");
    until("it is refused", SOON, || discovery(&proxy)["lastError"].is_string());
    let error = discovery(&proxy)["lastError"].to_string();
    assert!(error.contains("list.yaml") && error.contains("the weights sum to zero"), "{error}");
    assert_eq!(get(proxy.addr(), "/").text(), "here");
}

/// As it is written in the documentation.
#[test]
fn the_example_holds_back_what_shrinks_and_takes_what_is_confirmed() {
    let dir = TempDir::new("endpoints");
    let ports: Vec<TcpListener> = (0..9).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
    let origin = Origin::named("here");
    let list = |ports: &[TcpListener]| {
        let all = ports.iter().map(|port| port.local_addr().expect("address")).chain([origin.addr()]);
        all.map(|address| format!("- {address}\n")).collect::<String>()
    };
    let file = dir.file("checkout.yaml", list(&ports));
    let example = std::fs::read_to_string("config/examples/discovery.yaml").expect("the example");
    let dns = Dns::start();
    dns.set("_http._tcp.profile.test.", &[Data::Srv(0, 1, origin.addr().port(), "one.test.")]);
    dns.set("one.test.", &[Data::A(Ipv4Addr::LOCALHOST)]);
    let config = example
        .replace("/etc/outrigger/checkout.endpoints.yaml", file.to_str().expect("a path in UTF-8"))
        .replace("10.0.0.53:53", &dns.addr.to_string())
        .replace("_http._tcp.profile.service.consul", "_http._tcp.profile.test")
        .replace("hold: 30s", "hold: 1s")
        .replace("0.0.0.0:8080", "{listen}")
        + "admin: { address: \"{admin}\" }\nhealth: { address: \"{health}\" }\n";
    let proxy = Proxy::start(&config, &[]);
    assert_eq!(get(proxy.addr(), "/profile").text(), "here");
    let count = || proxy.admin_json("/clusters")["checkout"]["endpoints"].as_array().expect("endpoints").len();
    let held = || proxy.admin_json("/clusters")["checkout"]["discovery"]["held"]["endpoints"].clone();
    until("all ten", SOON, || count() == 10);

    // A slip: the file is there again before it is believed.
    proxy.reload("hold: 1s", "hold: 10m");
    until("all ten", SOON, || count() == 10 && held().is_null());
    std::fs::write(&file, list(&[])).expect("write");
    until("it is held back", SOON, || held() == 1);
    assert_eq!(count(), 10);
    proxy.await_metric("outrigger_discovery_held", &[("service", "checkout")], 1.0);
    proxy.await_metric("outrigger_discovery_holds_total", &[("service", "checkout"), ("mode", "enforce")], 1.0);
    std::fs::write(&file, list(&ports)).expect("write");
    until("it is not held any more", SOON, || held().is_null());
    assert_eq!(count(), 10);

    // It is so: taken after a while.
    proxy.reload("hold: 10m", "hold: 1s");
    until("all ten", SOON, || count() == 10 && discovery_of(&proxy, "checkout")["lastSuccess"].is_string());
    std::fs::write(&file, list(&[])).expect("write");
    until("it is held back", SOON, || held() == 1 || count() == 1);
    until("it is taken", 3 * SOON, || count() == 1);
    assert!(held().is_null());
    assert!(proxy.stderr_text().contains("so few endpoints are confirmed"), "{}", proxy.stderr_text());
    assert_eq!(get(proxy.addr(), "/").text(), "here");
}

fn discovery_of(proxy: &Proxy, service: &str) -> serde_json::Value {
    proxy.admin_json("/clusters")[service]["discovery"].clone()
}

//! Outlier detection: endpoints that misbehave are taken out, and come back.

mod common;

use std::time::Duration;

use common::moody::Moody;
use common::{Conn, Proxy, SOON, get, until};

/// Endpoints `{a}`, `{b}` and so on, in turn, of a service with these keys.
fn start(moody: &[&Moody], service: &str) -> Proxy {
    let names = ["a", "b", "c", "d", "e"];
    let fills: Vec<_> = names.into_iter().zip(moody.iter().map(|one| one.addr())).collect();
    let list: Vec<String> = fills.iter().map(|(name, _)| format!("\"{{{name}}}\"")).collect();
    let endpoints = format!("endpoints: {{ static: [{}] }}, loadBalancer: {{ policy: roundRobin }}", list.join(", "));
    Proxy::of_service(&format!("{endpoints}, {service}"), &fills)
}

/// How many of so many requests, each on a connection of its own, were not answered with 200.
fn failed(proxy: &Proxy, requests: usize) -> usize {
    (0..requests).filter(|_| get(proxy.addr(), "/").status() != 200).count()
}

/// What `/clusters` says of the ejection of an endpoint.
fn ejected(proxy: &Proxy, moody: &Moody) -> serde_json::Value {
    let address = moody.addr().to_string();
    let clusters = proxy.admin_json("/clusters");
    let endpoints = clusters["app"]["endpoints"].as_array().expect("endpoints");
    endpoints.iter().find(|endpoint| endpoint["address"] == address).expect("an endpoint")["ejection"].clone()
}

fn ejections(proxy: &Proxy, cause: &str, mode: &str) -> f64 {
    proxy.metric("outrigger_outlier_ejections_total", &[("service", "app"), ("cause", cause), ("mode", mode)])
}

#[test]
fn failures_in_a_row_eject_exactly_whichever_worker_sees_them_and_reloads_keep_that() {
    let [a, b, c] = ["a", "b", "c"].map(Moody::new);
    let proxy = start(&[&a, &b, &c], "outlierDetection: { consecutiveFailures: 7, baseEjection: 5m, maxEjection: 5m }");
    b.status(503);
    assert_eq!(failed(&proxy, 60), 7, "the seventh ejects it, at once and for both workers");
    assert_eq!((b.served(), ejected(&proxy, &b)["cause"].as_str()), (7, Some("consecutive_failures")));
    assert_eq!(ejections(&proxy, "consecutive_failures", "enforce"), 1.0);
    proxy.await_metric("outrigger_endpoints", &[("service", "app"), ("state", "ejected")], 1.0);
    assert!(ejected(&proxy, &a).is_null() && ejected(&proxy, &c).is_null());

    // Another threshold, for the others; what was learned stays.
    proxy.reload("consecutiveFailures: 7", "consecutiveFailures: 2");
    assert_eq!((failed(&proxy, 20), b.served()), (0, 7));
    // In shadow mode it would be out.
    proxy.reload("consecutiveFailures: 2", "consecutiveFailures: 2, mode: shadow");
    until("the one that would be out serves", SOON, || failed(&proxy, 3) == 1);
    assert_eq!(ejected(&proxy, &b)["enforced"], false);
    proxy.reload(", mode: shadow", "");
    until("it is out again", SOON, || failed(&proxy, 3) == 0);
    // Without the feature nothing is remembered.
    proxy.reload("outlierDetection: { consecutiveFailures: 2, baseEjection: 5m, maxEjection: 5m }", "");
    assert!(ejected(&proxy, &b).is_null());
    until("it serves again", SOON, || failed(&proxy, 3) == 1);
}

#[test]
fn it_comes_back_and_the_next_time_takes_longer() {
    let [a, b] = ["a", "b"].map(Moody::new);
    let proxy = start(&[&a, &b], "outlierDetection: { consecutiveFailures: 3, interval: 5m, baseEjection: 700ms }");
    for times in 1..=2 {
        b.status(500);
        until("it is out", SOON, || {
            failed(&proxy, 1);
            ejected(&proxy, &b)["times"] == times
        });
        b.status(200);
        let served = b.served();
        until("it is back", SOON, || {
            assert_eq!(failed(&proxy, 1), 0, "out, or well");
            b.served() > served
        });
        assert!(ejected(&proxy, &b).is_null());
    }
    let log = proxy.stderr_text();
    assert!(log.contains("\"700ms\"") && log.contains("\"1.4s\""), "{log}");
}

#[test]
fn never_more_than_a_share_and_one_always_stays() {
    let all = ["a", "b", "c", "d"].map(Moody::new);
    let proxy = start(
        &all.each_ref(),
        "outlierDetection: { consecutiveFailures: 2, baseEjection: 5m, maxEjection: 5m, maxEjectedPercent: 50 }",
    );
    all.iter().for_each(|one| one.status(500));
    let out = || all.iter().filter(|one| !ejected(&proxy, one).is_null()).count();
    assert_eq!(failed(&proxy, 40), 40);
    assert_eq!(out(), 2);
    proxy.await_metric("outrigger_outlier_ejections_held_total", &[("service", "app")], 1.0);
    proxy.reload("maxEjectedPercent: 50", "maxEjectedPercent: 100");
    assert_eq!(failed(&proxy, 40), 40);
    assert_eq!(out(), 3, "somebody has to answer");
}

#[test]
fn in_shadow_mode_it_tells_and_ejects_nobody() {
    let [a, b] = ["a", "b"].map(Moody::new);
    let proxy = start(
        &[&a, &b],
        "outlierDetection: { consecutiveFailures: 2, baseEjection: 5m, maxEjection: 5m, mode: shadow }",
    );
    b.status(500);
    let failed = failed(&proxy, 20);
    assert!(failed >= 8, "{failed} of 20: it still has its turns");
    assert_eq!(ejections(&proxy, "consecutive_failures", "shadow"), 1.0, "once, as it would be");
    assert_eq!(ejections(&proxy, "consecutive_failures", "enforce"), 0.0);

    // Whom it has noted is not out by that, but by what it does from then on.
    assert_eq!(ejected(&proxy, &b)["enforced"], false);
    b.status(200);
    proxy.reload(", mode: shadow", "");
    assert!(ejected(&proxy, &b).is_null());
    let served = b.served();
    assert_eq!(self::failed(&proxy, 20), 0);
    assert!(b.served() > served, "it still has its turns");
    b.status(500);
    until("it is out", SOON, || {
        self::failed(&proxy, 1);
        ejected(&proxy, &b)["enforced"] == true
    });
    assert_eq!(ejected(&proxy, &b)["times"], 1);
}

#[test]
fn who_cannot_be_connected_to_is_ejected_for_http_and_for_bytes() {
    for (service, listener) in [("", ""), (", protocol: tcp", ", protocol: tcp")] {
        let (a, gone) = (Moody::new("a"), common::free_addr());
        let config = format!(
            r#"apiVersion: outrigger/v1
admin: {{ address: "{{admin}}" }}
health: {{ address: "{{health}}" }}
runtime: {{ workers: 2 }}
listeners: [{{ name: edge, mode: proxy, address: "{{listen}}"{listener} }}]
services:
  app:
    {{ endpoints: {{ static: ["{{a}}", "{{gone}}"] }}, loadBalancer: {{ policy: roundRobin }},
      outlierDetection: {{ consecutiveFailures: 1, baseEjection: 5m, maxEjection: 5m }}{service} }}
routes: [{{ name: all, to: app }}]
defaults: {{ retry: {{ attempts: 0 }} }}
"#
        );
        let proxy = Proxy::start(&config, &[("a", a.addr()), ("gone", gone)]);
        let answered = || {
            let mut conn = Conn::connect(proxy.addr());
            conn.try_write("GET / HTTP/1.1\r\nHost: app\r\n\r\n");
            conn.try_head().is_some_and(|head| head.start_line().starts_with("HTTP/1.1 200"))
        };
        let refused = (0..30).filter(|_| !answered()).count();
        assert_eq!(refused, 1, "{service}: what one worker has found holds for the other");
        proxy.await_metric("outrigger_outlier_ejections_total", &[("cause", "consecutive_failures")], 1.0);
    }
}

#[test]
fn who_fails_more_often_than_the_others_is_ejected() {
    let all = ["a", "b", "c", "d"].map(Moody::new);
    let proxy = start(
        &all.each_ref(),
        "outlierDetection: { consecutiveFailures: 0, interval: 1s, baseEjection: 5m, maxEjection: 5m,
          successRate: { minRequests: 10, minEndpoints: 4, deviations: 1 } }",
    );
    let [_, _, c, _] = &all;
    c.status(500);
    c.every(2);
    until("the one that fails is out", 3 * SOON, || {
        failed(&proxy, 40);
        ejected(&proxy, c)["cause"] == "success_rate"
    });
    assert_eq!(failed(&proxy, 20), 0);
    assert_eq!(ejections(&proxy, "success_rate", "enforce"), 1.0);
}

#[test]
fn who_is_slower_than_the_others_is_ejected() {
    let all = ["a", "b", "c", "d"].map(Moody::new);
    let proxy = start(
        &all.each_ref(),
        "outlierDetection: { interval: 1s, baseEjection: 5m, maxEjection: 5m,
          latency: { percent: 300, above: 100ms, minRequests: 3, minEndpoints: 3 } }",
    );
    let [_, b, ..] = &all;
    b.delay(Duration::from_millis(200));
    until("the slow one is out", 3 * SOON, || {
        assert_eq!(failed(&proxy, 4), 0);
        ejected(&proxy, b)["cause"] == "latency"
    });
    let served = b.served();
    failed(&proxy, 20);
    assert_eq!(b.served(), served);
}

/// As it is written in the documentation.
#[test]
fn the_example_ejects() {
    let example = std::fs::read_to_string("config/examples/health.yaml").expect("the example");
    let [a, b] = ["a", "b"].map(Moody::new);
    let config = example
        .replace("127.0.0.1:9081", &a.addr().to_string())
        .replace("127.0.0.1:9082", &b.addr().to_string())
        .replace("0.0.0.0:8080", "{listen}")
        + "admin: { address: \"{admin}\" }\nhealth: { address: \"{health}\" }\n";
    let proxy = Proxy::start(&config, &[]);
    a.status(500);
    until("the one that fails is out", SOON, || {
        get(proxy.addr(), "/");
        !proxy.admin_json("/clusters")["reviews"]["endpoints"]
            .as_array()
            .expect("endpoints")
            .iter()
            .all(|one| one["ejection"].is_null())
    });
    b.health(500);
    until("the other one is unhealthy", 3 * SOON, || {
        proxy.metric("outrigger_endpoints", &[("service", "reviews"), ("state", "unhealthy")]) == 1.0
    });
}

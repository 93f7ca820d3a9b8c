//! What lives through a reload: requests in flight, connections of every kind, pools, counters; and a thousand of them.

mod common;

use std::net::SocketAddr;

use common::h2peer::{H2Client, H2Origin};
use common::h2raw::{self, Peer};
use common::load::Load;
use common::origin::{Gate, Next};
use common::{Conn, Origin, Proxy, SOON, until};

const HEAD: &str = r#"apiVersion: outrigger/v1
admin: { address: "{admin}" }
health: { address: "{health}" }
runtime: { workers: 1 }
telemetry: { accessLog: { format: off } }
"#;

const TWO: &str = r#"listeners: [{ name: edge, mode: proxy, address: "{listen}" }]
services:
  a: { endpoints: { static: ["{a}"] } }
  b: { endpoints: { static: ["{b}"] } }
routes:
  - { name: all, to: a, responseHeaders: { set: { x-generation: old } } }
"#;

fn start(config: &str, a: SocketAddr, b: SocketAddr) -> Proxy {
    Proxy::start(&format!("{HEAD}{config}"), &[("a", a), ("b", b)])
}

#[test]
fn requests_in_flight_finish_on_what_they_began_with() {
    let gate = Gate::default();
    let (a, b) = (Origin::gated("a", &gate), Origin::named("b"));
    let proxy = start(TWO, a.addr(), b.addr());
    let mut slow = Conn::connect(proxy.addr());
    slow.write("GET /slow HTTP/1.1\r\nHost: app.test\r\n\r\n");
    let mut two = Peer::client(proxy.addr(), &[]);
    two.headers(1, &h2raw::request("GET", "/slow", &[]), true);
    a.nth(2);
    // Its route and its service go meanwhile.
    proxy.reload(
        "{ name: all, to: a, responseHeaders: { set: { x-generation: old } } }",
        "{ name: every, to: b, responseHeaders: { set: { x-generation: new } } }",
    );
    proxy.reload(&proxy.fill("  a: { endpoints: { static: [\"{a}\"] } }\n"), "");
    let now = common::get(proxy.addr(), "/");
    assert_eq!((now.text().as_str(), now.head.get("x-generation").as_deref()), ("b", Some("new")));
    two.headers(3, &h2raw::request("GET", "/", &[]), true);
    assert_eq!(two.answer(3), (200, b"b".to_vec(), None), "a new stream on an old connection");
    gate.open();
    let reply = slow.response("GET");
    assert_eq!((reply.text().as_str(), reply.head.get("x-generation").as_deref()), ("a", Some("old")));
    assert_eq!(two.answer(1), (200, b"a".to_vec(), None));
    slow.write("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
    assert_eq!(slow.response("GET").text(), "b", "the next one on the same connection");
    let counted = |route: &str| proxy.metric("http_requests_total", &[("route", route), ("status_code", "200")]) as u64;
    until("each is counted where it began", SOON, || (counted("all"), counted("every")) == (2, 3));
}

#[test]
fn connections_of_every_kind_survive() {
    let web = Origin::start(|seen, conn| {
        if !seen.message.head.has("upgrade") {
            conn.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            return Next::Keep;
        }
        conn.write("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
        while let some @ [_, ..] = &conn.read_some()[..] {
            conn.write(some);
        }
        Next::Close
    });
    let echo = Origin::raw(|mut conn, _| {
        while let some @ [_, ..] = &conn.read_some()[..] {
            conn.write(some);
        }
    });
    let config = r#"listeners:
  - { name: edge, mode: proxy, address: "{listen}" }
  - { name: raw, mode: proxy, address: "{listen2}", protocol: tcp }
services:
  web: { endpoints: { static: ["{a}"] } }
  raw: { endpoints: { static: ["{b}"] }, protocol: tcp }
routes:
  - { name: web, listeners: [edge], to: web, responseHeaders: { set: { x-generation: "0" } } }
  - { name: raw, listeners: [raw], to: raw }
"#;
    let proxy = start(config, web.addr(), echo.addr());
    let mut one = Conn::connect(proxy.addr());
    let mut two = H2Client::connect(proxy.addr()).expect("connect");
    let mut tunnel = Conn::connect(proxy.addr());
    tunnel.write("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(tunnel.head().status(), 101);
    let mut tcp = Conn::connect(proxy.place("listen2"));
    for generation in 0..5 {
        one.write("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
        let reply = one.response("GET");
        let wanted = generation.to_string();
        assert_eq!(reply.head.get("x-generation").as_deref(), Some(&*wanted));
        assert!(!reply.head.has("connection"), "nobody is asked to go: {reply:?}");
        let reply = two.get("/").expect("an answer");
        assert_eq!(reply.head.headers.get("x-generation").map(http::HeaderValue::as_bytes), Some(wanted.as_bytes()));
        for conn in [&mut tunnel, &mut tcp] {
            conn.write(format!("word {generation}"));
            assert_eq!(conn.read_exact(6), format!("word {generation}").as_bytes());
        }
        proxy.reload(&format!("x-generation: \"{generation}\""), &format!("x-generation: \"{}\"", generation + 1));
    }
    // Even the service's being taken away cuts nothing that is there.
    proxy.reload("routes:\n", "routes:\n  - { name: gone, hosts: [gone.test], respond: { status: 410 } }\n");
    tcp.write("still");
    assert_eq!(tcp.read_exact(5), b"still");
    assert_eq!(proxy.metric("outrigger_worker_tcp_active", &[]) as u64, 1);
    assert_eq!(proxy.metric("outrigger_worker_upgrades_active", &[]) as u64, 1);
}

#[test]
fn pools_and_counters_survive() {
    let (a, two) = (Origin::named("a"), H2Origin::echo());
    let config = TWO
        .replace("x-generation: old", "x-generation: \"0\"")
        .replace("b: { endpoints: { static: [\"{b}\"] } }", "b: { endpoints: { static: [\"{b}\"] }, protocol: http2 }")
        .replace("routes:\n", "routes:\n  - { name: two, match: [{ path: { prefix: /two } }], to: b }\n");
    let proxy = start(&config, a.addr(), two.addr);
    let mut conn = Conn::connect(proxy.addr());
    let mut ask = |path: &str| {
        conn.write(format!("GET {path} HTTP/1.1\r\nHost: app.test\r\n\r\n"));
        assert_eq!(conn.response("GET").status(), 200);
    };
    let counted = |proxy: &Proxy, route: &str| proxy.metric("http_requests_total", &[("route", route)]) as u64;
    for round in 0..20u32 {
        ask("/");
        ask("/two");
        proxy.reload(&format!("x-generation: \"{round}\""), &format!("x-generation: \"{}\"", round + 1));
    }
    assert_eq!(a.connections(), 1, "one connection for all of it");
    assert_eq!(proxy.metric("outrigger_worker_upstream_connects_total", &[]) as u64, 2);
    until("nothing was forgotten", SOON, || (counted(&proxy, "all"), counted(&proxy, "two")) == (20, 20));
    assert_eq!(proxy.metric("http_request_duration_seconds_count", &[("route", "all")]) as u64, 20);
    assert_eq!(proxy.metric("outrigger_config_generation", &[]) as u64, 21);
    // A service that goes closes its idle connections.
    proxy.reload(
        "{ name: two, match: [{ path: { prefix: /two } }], to: b }",
        "{ name: two, match: [{ path: { prefix: /two } }], to: a }",
    );
    let service = proxy.fill("  b: { endpoints: { static: [\"{b}\"] }, protocol: http2 }\n");
    proxy.reload(&service, "");
    until("the pool of a service that is gone", SOON, || {
        proxy.metric("outrigger_worker_upstream_connections_active", &[]) as u64 == 1
    });
    assert_eq!(counted(&proxy, "two"), 20, "counters stay for a while");
}

/// Seven configurations in turn; each differs from the last in routes, services, listeners or settings.
fn variant(round: usize) -> String {
    let base = format!("{HEAD}{TWO}");
    match round % 7 {
        0 => base,
        1 => base.replace("to: a,", "split: [{ to: a, weight: 90 }, { to: b, weight: 10 }],"),
        2 => base.replace("routes:\n", "routes:\n  - { name: more, hosts: [\"*.more.test\"], match: [{ path: { regex: \"/[a-z]+/x\" } }], to: b }\n"),
        3 => base.replace("listeners: [", "listeners: [{ name: more, mode: proxy, address: \"{listen2}\" }, "),
        4 => base.replace("services:\n", "services:\n  c: { hosts: [c.test], endpoints: { static: [\"{b}\"] } }\n"),
        5 => base.replace("to: a,", "to: b,"),
        _ => base.replace("format: off", "format: json, sample: { others: 0 }"),
    }
}

#[test]
fn a_thousand_reloads_under_load() {
    let (a, b) = (Origin::ok(), Origin::ok());
    let proxy = Proxy::start(&variant(0), &[("a", a.addr()), ("b", b.addr())]);
    let load = Load::to(proxy.addr(), 2, 1);
    let mut settled = 0;
    for round in 1..=1000 {
        let generation = || proxy.metric("outrigger_config_generation", &[]) as u64;
        let before = generation();
        proxy.rewrite_config(&variant(round));
        proxy.signal("HUP");
        until(&format!("reload {round}\n{}", proxy.stderr_text()), SOON, || generation() > before);
        if round == 100 {
            settled = proxy.memory().0;
        }
    }
    assert_eq!(
        proxy.metric("outrigger_config_reloads_total", &[("result", "failure")]) as u64,
        0,
        "{}",
        proxy.stderr_text()
    );
    let done = load.done();
    let failures = load.stop();
    assert!(failures.is_empty(), "{} of {done}: {:#?}", failures.len(), failures.iter().take(10).collect::<Vec<_>>());
    assert!(done > 1000, "{done} requests");
    let grown = proxy.memory().0.saturating_sub(settled);
    assert!(grown < 8 * 1024, "grown by {grown} KiB, from {settled} KiB");
}

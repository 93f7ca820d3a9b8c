//! Copies of requests: what they look like, that they cost the request nothing, and what becomes of them.

mod common;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use common::h2peer::{H2Origin, call, request};
use common::origin::{Gate, Next};
use common::{Conn, Message, Origin, Proxy, SOON, eventually, example, free_addr, get, pattern, until};

const MARK: &str = "x-outrigger-mirror";

const CONFIG: &str = r#"apiVersion: outrigger/v1
admin: { address: "{admin}" }
health: { address: "{health}" }
runtime: { workers: 2, probation: 0s }
telemetry: { accessLog: { format: off } }
listeners: [{ name: edge, mode: proxy, address: "{listen}" }]
services:
  app: { protocol: http1, endpoints: { static: ["{up}"] } }
  copy: { protocol: http1, endpoints: { static: ["{copy}"] } }
  rpc: { protocol: http2, endpoints: { static: ["{copy}"] } }
  none: { endpoints: { static: ["{none}"] } }
routes:
  - { name: read, match: [{ path: { prefix: /read } }], to: app, mirror: [{ to: copy, headers: { set: { x-shadow: "1" }, remove: [authorization] } }] }
  - { name: write, match: [{ path: { prefix: /write } }], to: app, mirror: [{ to: copy, methods: [POST], bufferLimit: 4Ki }] }
  - { name: one, match: [{ path: { prefix: /one } }], to: app, mirror: [{ to: copy, maxInFlight: 1, timeout: 60s }] }
  - { name: late, match: [{ path: { prefix: /late } }], to: app, mirror: [{ to: copy, timeout: 100ms }] }
  - { name: gone, match: [{ path: { prefix: /gone } }], to: app, mirror: [{ to: none }, { to: copy }] }
  - { name: other, match: [{ path: { prefix: /other } }], to: app, mirror: [{ to: rpc, methods: [GET, POST] }] }
  - name: compared
    match: [{ path: { prefix: /compared } }]
    to: app
    mirror: [{ to: copy, compare: { headers: [x-version], body: { json: true, ignore: [/trace, /items/*/t] }, noise: 100, maxBody: 1Ki } }]
  - { name: plain, match: [{ path: { prefix: /plain } }], to: app, mirror: [{ to: copy, compare: { body: {} } }] }
  - { name: some, match: [{ path: { prefix: /some } }], to: app, mirror: [{ to: copy, percent: 25 }] }
"#;

fn start(app: SocketAddr, copy: SocketAddr) -> Proxy {
    Proxy::start(CONFIG, &[("up", app), ("copy", copy), ("none", free_addr())])
}

fn count(proxy: &Proxy, route: &str, result: &str) -> u64 {
    proxy.metric("outrigger_mirrored_requests_total", &[("route", route), ("result", result)]) as u64
}

fn post(addr: SocketAddr, path: &str, body: &[u8], chunked: bool) -> Message {
    let mut conn = Conn::connect(addr);
    let framing =
        if chunked { "Transfer-Encoding: chunked".to_owned() } else { format!("Content-Length: {}", body.len()) };
    conn.write(format!("POST {path} HTTP/1.1\r\nHost: app.test\r\n{framing}\r\n\r\n"));
    if chunked {
        for piece in body.chunks(1000) {
            conn.write(format!("{:x}\r\n", piece.len()));
            conn.write(piece);
            conn.write("\r\n");
        }
        conn.write("0\r\n\r\n");
    } else {
        conn.write(body);
    }
    conn.response("POST")
}

#[test]
fn a_copy_is_the_request_with_a_mark() {
    let (app, copy) = (Origin::named("app"), Origin::named("copy"));
    let proxy = start(app.addr(), copy.addr());
    let mut conn = Conn::connect(proxy.addr());
    conn.write("GET /read/1?q=2 HTTP/1.1\r\nHost: shop.test:8080\r\nAuthorization: secret\r\nX-Own: yes\r\n\r\n");
    let reply = conn.response("GET");
    assert_eq!((reply.status(), reply.text().as_str()), (200, "app"));
    assert!(!reply.head.has(MARK));
    let (original, copied) = (app.nth(1).head, copy.nth(1).head);
    assert_eq!(original.start_line(), copied.start_line());
    for name in ["host", "x-own", "x-request-id", "x-forwarded-for"] {
        assert!(original.has(name) && original.get(name) == copied.get(name), "{name}");
    }
    assert_eq!(copied.get("host").as_deref(), Some("shop.test:8080"));
    assert_eq!((copied.get(MARK).as_deref(), original.get(MARK)), (Some("read"), None));
    assert_eq!((copied.get("x-shadow").as_deref(), copied.get("authorization")), (Some("1"), None));
    assert_eq!(original.get("authorization").as_deref(), Some("secret"));
    // The same trace, and a span of its own.
    let part = |head: &common::Head, part: usize| {
        head.get("traceparent").and_then(|trace| trace.split('-').nth(part).map(str::to_owned)).expect("a trace")
    };
    assert_eq!(part(&original, 1), part(&copied, 1));
    assert_ne!(part(&original, 2), part(&copied, 2));
    until("its answer is counted", SOON, || count(&proxy, "read", "answered") == 1);
    // Nor is a copy copied again, or a write that nobody told it to copy.
    conn.write(format!("GET /read/2 HTTP/1.1\r\nHost: a\r\n{MARK}: elsewhere\r\n\r\n"));
    assert_eq!(conn.response("GET").status(), 200);
    assert_eq!(post(proxy.addr(), "/read/3", b"x", false).status(), 200);
    assert_eq!(get(proxy.addr(), "/read/4").status(), 200);
    until("the last is there", SOON, || copy.seen().len() == 2);
    assert!(copy.nth(2).head.start_line().contains("/read/4"), "{:?}", copy.seen());
    assert_eq!(app.seen().len(), 4);
}

#[test]
fn bodies_are_copied_up_to_a_limit() {
    let (app, copy) = (Origin::echo(), Origin::echo());
    let proxy = start(app.addr(), copy.addr());
    for (number, (length, chunked)) in [(3000, false), (4096, true), (1, true)].into_iter().enumerate() {
        let body = pattern(length as u64, length);
        assert!(post(proxy.addr(), "/write", &body, chunked).body == body);
        assert!(copy.nth(number + 1).body == body, "{length} chunked {chunked}");
    }
    for chunked in [false, true] {
        let body = pattern(9, 4097);
        assert!(post(proxy.addr(), "/write", &body, chunked).body == body, "the request itself is whole");
    }
    until("the larger ones are counted", SOON, || count(&proxy, "write", "too_large") == 2);
    // Whoever leaves in the middle has sent no request.
    let mut conn = Conn::connect(proxy.addr());
    conn.write("POST /write HTTP/1.1\r\nHost: app.test\r\nContent-Length: 10\r\n\r\nhalf");
    until("it has begun", SOON, || proxy.metric("http_requests_in_flight", &[("route", "write")]) == 1.0);
    conn.reset();
    until("it is counted", SOON, || count(&proxy, "write", "unfinished") == 1);
    assert_eq!((copy.seen().len(), count(&proxy, "write", "answered")), (3, 3));
    until("nothing is on its way", SOON, || proxy.admin_json("/mirrors")["routes"]["write"]["copy"]["onTheirWay"] == 0);
}

#[test]
fn what_is_slow_delays_nobody_and_is_bounded() {
    let (app, gate) = (Origin::named("app"), Gate::default());
    let inner = gate.clone();
    let copy = Origin::start(move |_, conn| {
        inner.pass();
        if conn.try_write("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate") { Next::Keep } else { Next::Close }
    });
    let proxy = start(app.addr(), copy.addr());
    let begun = Instant::now();
    for _ in 0..5 {
        assert_eq!(get(proxy.addr(), "/one").text(), "app");
    }
    until("one is on its way", SOON, || copy.seen().len() == 1);
    assert_eq!(count(&proxy, "one", "limit"), 4, "and no other");
    assert_eq!(proxy.admin_json("/mirrors")["routes"]["one"]["copy"]["onTheirWay"], 1);
    assert_eq!(get(proxy.addr(), "/late").text(), "app");
    until("its own deadline ends it", SOON, || count(&proxy, "late", "timeout") == 1);
    assert!(begun.elapsed() < Duration::from_secs(30), "nobody has waited for the copy");
    // What is counted and what is on its way is kept by a reload.
    proxy.reload("to: copy, maxInFlight: 1", "to: copy, maxInFlight: 2");
    assert_eq!(get(proxy.addr(), "/one").text(), "app");
    until("there is room for one more", SOON, || {
        copy.seen().iter().filter(|seen| seen.message.head.start_line().contains("/one")).count() == 2
    });
    assert_eq!(count(&proxy, "one", "limit"), 4);
    gate.open();
    until("both are answered", SOON, || count(&proxy, "one", "answered") == 2);
}

#[test]
fn what_becomes_of_a_copy_is_its_own() {
    let app = Origin::named("app");
    let copy = Origin::once("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 100000\r\n\r\ncut");
    let proxy = start(app.addr(), copy.addr());
    for _ in 0..20 {
        assert_eq!(get(proxy.addr(), "/gone").text(), "app");
    }
    until("all have failed, each in its way", SOON, || count(&proxy, "gone", "failed") == 40);
    let requests = |status: &str| proxy.metric("http_requests_total", &[("status_code", status)]) as u64;
    assert_eq!((requests("200"), requests("500"), requests("503")), (20, 0, 0));
    assert_eq!(app.seen().len(), 20);
}

#[test]
fn a_copy_speaks_what_its_service_speaks() {
    let (app, copy) = (Origin::echo(), H2Origin::echo());
    let proxy = start(app.addr(), copy.addr);
    assert_eq!(post(proxy.addr(), "/other/a", b"hello", true).text(), "hello");
    let seen = eventually("the copy", SOON, || copy.seen().pop());
    assert_eq!(
        (seen.head.uri.path(), seen.head.uri.authority().map(|host| host.as_str())),
        ("/other/a", Some("app.test"))
    );
    assert_eq!((seen.body.as_slice(), &seen.head.headers[MARK]), (&b"hello"[..], &"other".parse().unwrap()));
    // And the other way round.
    let copy = Origin::named("copy");
    let proxy = start(app.addr(), copy.addr());
    let reply = call(proxy.addr(), request("GET", "/read", &[]), b"", None).expect("an answer");
    assert_eq!(reply.head.status.as_u16(), 200);
    let head = copy.nth(1).head;
    assert_eq!((head.get("host").as_deref(), head.start_line().as_str()), (Some("app.test"), "GET /read HTTP/1.1"));
    let reply = call(proxy.addr(), request("POST", "/write", &[]), b"of HTTP/2", None).expect("an answer");
    assert_eq!(reply.body, b"of HTTP/2");
    assert_eq!(copy.nth(2).text(), "of HTTP/2");
}

/// Answers JSON in which a counter is; large, or not at all, where the path says so.
fn json(version: u32, items: &'static str) -> Origin {
    let count = AtomicU64::new(0);
    Origin::start(move |seen, conn| {
        let line = seen.message.head.start_line();
        let count = count.fetch_add(1, SeqCst);
        let more = if line.contains("large") { "x".repeat(2000) } else { String::new() };
        let body = format!("{{\"at\":{count},\"trace\":{count},\"items\":{items},\"more\":\"{more}\"}}");
        let status = if line.contains("miss") && version == 2 { "404 Not Found" } else { "200 OK" };
        let head = format!("HTTP/1.1 {status}\r\nX-Version: {version}\r\nContent-Length: {}\r\n\r\n", body.len());
        if conn.try_write(head + &body) { Next::Keep } else { Next::Close }
    })
}

#[test]
fn answers_are_compared_without_what_differs_by_nature() {
    let (app, copy) = (json(1, "[{\"t\":1,\"n\":1}]"), json(2, "[{\"t\":2,\"n\":2}]"));
    let proxy = start(app.addr(), copy.addr());
    let report = |route: &str| proxy.admin_json("/mirrors")["routes"][route]["copy"]["compared"].clone();
    for _ in 0..10 {
        assert_eq!(get(proxy.addr(), "/compared/a").status(), 200);
    }
    until("all are compared", SOON, || report("compared")["pairs"] == 10 && report("compared")["noise"]["pairs"] == 10);
    assert_eq!(app.seen().len(), 20, "the service itself was asked twice");
    let seen = report("compared");
    assert_eq!(seen["noise"]["differsIn"], serde_json::json!(["body /at"]));
    assert_eq!(seen["differsIn"], serde_json::json!({ "body /items/*/n": 10, "header x-version": 10 }), "{seen}");
    let example = &seen["examples"][0];
    assert_eq!(
        (&example["method"], &example["path"], &example["status"]),
        (&"GET".into(), &"/compared/a".into(), &200.into())
    );
    assert!(example["requestId"].as_str().is_some_and(|id| !id.is_empty()), "{example}");
    assert_eq!(get(proxy.addr(), "/compared/miss").status(), 200);
    until("another status", SOON, || report("compared")["differsIn"]["status"] == 1);
    assert_eq!(report("compared")["examples"][0]["copyStatus"], 404);
    let before = report("compared")["uncompared"].as_u64();
    assert_eq!(get(proxy.addr(), "/compared/large").status(), 200);
    until("too large", SOON, || report("compared")["uncompared"].as_u64() > before);
    // What was seen outlives a reload, as long as the mirror is there.
    proxy.reload("maxBody: 1Ki", "maxBody: 2Ki");
    assert_eq!(report("compared")["pairs"], 11);
    let (app, copy) = (Origin::named("same"), Origin::named("same"));
    let proxy = start(app.addr(), copy.addr());
    assert_eq!(get(proxy.addr(), "/plain").status(), 200);
    let equal = || proxy.admin_json("/mirrors")["routes"]["plain"]["copy"]["compared"]["equal"] == 1;
    until("they are equal", SOON, equal);
}

/// One answer that failed is no noise: what is found by it would be nothing any more.
#[test]
fn a_failure_is_no_noise() {
    let app = Origin::start(|seen, conn| {
        let status = if seen.message.head.has(MARK) { "503 Service Unavailable" } else { "200 OK" };
        let sent = conn.try_write(format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nok"));
        if sent { Next::Keep } else { Next::Close }
    });
    let copy = Origin::fixed("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 2\r\n\r\nno");
    let proxy = start(app.addr(), copy.addr());
    let report = || proxy.admin_json("/mirrors")["routes"]["compared"]["copy"]["compared"].clone();
    for _ in 0..3 {
        assert_eq!(get(proxy.addr(), "/compared").status(), 200);
    }
    until("all are compared", SOON, || report()["pairs"] == 3 && report()["uncompared"] == 3);
    assert_eq!(
        (&report()["differsIn"]["status"], &report()["noise"]["differsIn"]),
        (&3.into(), &serde_json::json!([]))
    );
}

/// A copy takes a place of its service, waits for none, and is not sent through a breaker that is open.
#[test]
fn copies_keep_to_what_their_service_keeps_to() {
    let gate = Gate::default();
    let waiting = gate.clone();
    let copy = Origin::start(move |seen, conn| {
        if seen.message.head.start_line().contains("/broken") {
            conn.try_write("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n");
            return Next::Keep;
        }
        waiting.pass();
        let sent = conn.try_write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        if sent { Next::Keep } else { Next::Close }
    });
    let app = Origin::named("app");
    let config = CONFIG.replace(
        "copy: {",
        "copy: { limits: { maxRequests: 1 }, circuitBreaker: { consecutiveFailures: 1, openDuration: 5m },",
    ) + "  - { name: broken, match: [{ path: { prefix: /broken } }], to: copy }\n";
    let proxy = Proxy::start(&config, &[("up", app.addr()), ("copy", copy.addr()), ("none", free_addr())]);
    for _ in 0..3 {
        assert_eq!(get(proxy.addr(), "/read").status(), 200);
    }
    until("two found no place", SOON, || count(&proxy, "read", "limit") == 2);
    assert_eq!(proxy.admin_json("/clusters")["copy"]["limits"]["inFlight"], 1);
    gate.open();
    until("one did", SOON, || count(&proxy, "read", "answered") == 1);
    until("its place is free", SOON, || proxy.admin_json("/clusters")["copy"]["limits"]["inFlight"] == 0);
    assert_eq!(get(proxy.addr(), "/broken").status(), 500);
    until("the breaker opens", SOON, || {
        assert_eq!(get(proxy.addr(), "/read").status(), 200);
        count(&proxy, "read", "circuit_open") > 0
    });
}

#[test]
fn a_share_is_a_share() {
    let (app, copy) = (Origin::named("app"), Origin::named("copy"));
    let proxy = start(app.addr(), copy.addr());
    let mut conn = Conn::connect(proxy.addr());
    for _ in 0..600 {
        conn.write("GET /some HTTP/1.1\r\nHost: app.test\r\n\r\n");
        assert_eq!(conn.response("GET").status(), 200);
    }
    until("all are answered", SOON, || proxy.admin_json("/mirrors")["routes"]["some"]["copy"]["onTheirWay"] == 0);
    // Five standard deviations.
    let copied = count(&proxy, "some", "answered");
    assert!((150 - 53..=150 + 53).contains(&copied), "{copied} of 600");
}

#[test]
fn the_example_does_what_it_says() {
    let [orders, next, audit] = ["orders", "next", "audit"].map(Origin::named);
    let swaps = [("127.0.0.1:9081", orders.addr()), ("127.0.0.1:9082", next.addr()), ("127.0.0.1:9083", audit.addr())];
    let proxy = example::start("mirroring", &swaps);
    for _ in 0..10 {
        assert_eq!(get(proxy.addr(), "/orders/7").text(), "orders");
    }
    until("all of them", SOON, || next.seen().len() == 10);
    assert_eq!(next.last().head.get("x-shadow").as_deref(), Some("1"));
    let compared = || proxy.admin_json("/mirrors")["routes"]["orders"]["orders-next"]["compared"].clone();
    until("compared", SOON, || compared()["pairs"] == 10);
    assert_eq!(
        (&compared()["differsIn"]["body"], &compared()["differsIn"]["status"]),
        (&10.into(), &serde_json::Value::Null)
    );
    for number in 0..200 {
        assert_eq!(post(proxy.addr(), &format!("/orders/{number}"), b"{}", false).text(), "orders");
    }
    // Five standard deviations of a tenth of 200.
    until("some of them", SOON, || audit.seen().len() as u64 == count(&proxy, "orders", "answered") - 10);
    assert!((1..=41).contains(&audit.seen().len()), "{}", audit.seen().len());
    assert_eq!(next.seen().len(), 10, "no writes");
    let explained = proxy.cli_json(&["explain", "http://app.test/orders"]);
    let policies = explained["policy"].as_array().expect("policies");
    assert_eq!(policies.iter().filter(|one| one["name"] == "mirror").count(), 2);
}

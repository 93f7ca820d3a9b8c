//! Rules in shadow mode: what they count is what they would have refused, and nothing is refused.

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use common::origin::Next;
use common::tell::outrigger;
use common::{Conn, Message, Origin, Proxy, SOON, eventually, pattern, until};
use serde_json::{Value, json};

/// What a late answer takes: more than the 400 ms that the rules allow.
const BEYOND: Duration = Duration::from_millis(700);

const CONFIG: &str = r#"apiVersion: outrigger/v1
admin: { address: "{admin}" }
health: { address: "{health}" }
runtime: { workers: 2, probation: 0s }
telemetry: { accessLog: { format: off } }
listeners: [{ name: edge, mode: proxy, address: "{listen}" }]
services: { app: { endpoints: { static: ["{up}"] } } }
routes:
  - { name: enforce, match: [{ path: { prefix: /enforce } }], to: app, maxBody: 10, timeout: 400ms }
  - { name: said, match: [{ path: { prefix: /said } }], to: app, maxBody: { size: 10, mode: enforce }, timeout: { after: 400ms } }
  - { name: shadow, match: [{ path: { prefix: /shadow } }], to: app, maxBody: { size: 10, mode: shadow }, timeout: { after: 400ms, mode: shadow } }
  - { name: quiet, match: [{ path: { prefix: /off } }], to: app, maxBody: { size: 10, mode: off }, timeout: { after: 400ms, mode: off } }
  - { name: bare, to: app }
"#;

/// Answers with the length of the body; late, or in parts, where the path says so.
fn origin() -> Origin {
    Origin::start(|seen, conn| {
        let (line, length) = (seen.message.head.start_line(), seen.message.body.len().to_string());
        if seen.message.head.has("upgrade") {
            conn.write("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
            let heard = conn.read_to_end();
            conn.try_write(format!("heard {}", heard.len()));
            return Next::Close;
        }
        if line.contains("/late") {
            std::thread::sleep(BEYOND);
        }
        let kind = match () {
            () if line.contains("/sse") => "text/event-stream",
            () if line.contains("/grpc") => "application/grpc",
            () => "text/plain",
        };
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n", length.len());
        if !conn.try_write(head) {
            return Next::Close;
        }
        if line.contains("/drawn-out") {
            std::thread::sleep(BEYOND);
        }
        if conn.try_write(length) { Next::Keep } else { Next::Close }
    })
}

/// A body of this length, with or without that being said.
fn send(addr: SocketAddr, path: &str, headers: &str, length: usize, chunked: bool) -> Message {
    let mut conn = Conn::connect(addr);
    let framing = match (length, chunked) {
        (0, false) => String::new(),
        (_, false) => format!("Content-Length: {length}\r\n"),
        (_, true) => "Transfer-Encoding: chunked\r\n".to_owned(),
    };
    let body = "x".repeat(length);
    let body = match (length, chunked) {
        (0, true) => "0\r\n\r\n".to_owned(),
        (_, true) => format!("{length:x}\r\n{body}\r\n0\r\n\r\n"),
        (_, false) => body,
    };
    conn.write(format!("POST {path} HTTP/1.1\r\nHost: app.test\r\n{headers}{framing}\r\n{body}"));
    conn.response("POST")
}

fn counted(proxy: &Proxy, route: &str, rule: &str) -> u64 {
    proxy.metric("outrigger_shadow_total", &[("route", route), ("rule", rule)]) as u64
}

fn count_in(report: &Value, route: &str, rule: &str) -> Option<u64> {
    let counts = report["counts"].as_array().expect("counts").iter();
    counts.filter(|one| one["route"] == route && one["rule"] == rule).find_map(|one| one["count"].as_u64())
}

/// After all requests so far have ended.
fn settled(proxy: &Proxy, requests: u64) -> Value {
    proxy.await_metric("http_requests_total", &[], requests as f64);
    proxy.admin_json("/shadow")
}

#[test]
fn the_size_of_a_body_is_refused_counted_or_neither() {
    let origin = origin();
    let proxy = Proxy::start(CONFIG, &[("up", origin.addr())]);
    let addr = proxy.addr();
    let mut requests = 0;
    for (prefix, beyond) in [("/enforce", 413), ("/said", 413), ("/shadow", 200), ("/off", 200), ("/bare", 200)] {
        for chunked in [false, true] {
            for (length, status) in [(0, 200), (10, 200), (11, beyond), (70_000, beyond)] {
                let reply = send(addr, prefix, "", length, chunked);
                assert_eq!(reply.status(), status, "{prefix} {length} chunked {chunked}: {reply:?}");
                if status == 200 {
                    assert_eq!(reply.text(), length.to_string(), "whole");
                }
                requests += 1;
            }
        }
    }
    let report = settled(&proxy, requests);
    assert_eq!(counted(&proxy, "shadow", "max_body"), 4);
    assert_eq!(proxy.metric("outrigger_shadow_total", &[]), 4.0, "nothing else would have been refused");
    assert_eq!(report["counts"], json!([{ "listener": "edge", "route": "shadow", "rule": "max_body", "count": 4 }]));
    let examples = report["examples"].as_array().expect("examples");
    let mut actual: Vec<&str> = examples.iter().filter_map(|one| one["actual"].as_str()).collect();
    actual.sort_unstable();
    assert_eq!(actual, ["11 bytes", "11 bytes", "70000 bytes", "70000 bytes"]);
    assert!(examples.iter().all(|one| one["limit"] == "10 bytes" && one["path"] == "/shadow"), "{examples:?}");
}

#[test]
fn a_late_answer_is_refused_counted_or_neither() {
    let origin = origin();
    let proxy = Proxy::start(CONFIG, &[("up", origin.addr())]);
    let addr = proxy.addr();
    // At the same time, because they are slow.
    let table = [("/enforce", 504), ("/said", 504), ("/shadow", 200), ("/off", 200), ("/bare", 200)];
    let clients = table.map(|(prefix, status)| {
        std::thread::spawn(move || {
            let id = format!("X-Request-Id: late{}\r\n", prefix.replace('/', "-"));
            let reply = send(addr, &format!("{prefix}/late?secret=hunter2"), &id, 0, false);
            assert_eq!(reply.status(), status, "{prefix}: {reply:?}");
            assert_eq!(send(addr, prefix, "", 0, false).status(), 200, "{prefix}");
        })
    });
    clients.into_iter().for_each(|client| client.join().expect("a client"));
    let report = settled(&proxy, 10);
    assert_eq!((counted(&proxy, "shadow", "timeout"), proxy.metric("outrigger_shadow_total", &[])), (1, 1.0));
    let example = &report["examples"][0];
    let wanted = json!({
        "requestId": "late-shadow", "route": "shadow", "rule": "timeout", "limit": "400 ms", "method": "POST",
        "path": "/shadow/late",
    });
    for (key, value) in wanted.as_object().expect("an object") {
        assert_eq!(&example[key], value, "{key} of {example}");
    }
    let actual = example["actual"].as_str().and_then(|text| text.strip_suffix(" ms")?.parse::<f64>().ok());
    assert!(actual.is_some_and(|actual| (700.0..10_000.0).contains(&actual)), "{example}");
    assert!(example["peer"].as_str().is_some_and(|peer| peer.starts_with("127.0.0.1:")), "{example}");
    assert!(!report.to_string().contains("hunter2"), "{report}");
    // The request itself knows.
    let why = proxy.admin_json("/why/late-shadow");
    assert_eq!((&why["shadow"][0]["rule"], &why["shadow"][0]["limit"]), (&json!("timeout"), &json!(400.0)), "{why:#}");
    let told = outrigger(&["why", "late-shadow", "--admin", &proxy.place("admin").to_string()]);
    told.says(&["timeout would have refused this", "of 400.000 ms allowed"]);
}

/// A timeout binds the whole of a request, but of a stream only the head of its answer; and a tunnel has no body.
#[test]
fn streams_are_judged_as_they_would_be() {
    let origin = origin();
    let proxy = Proxy::start(CONFIG, &[("up", origin.addr())]);
    let addr = proxy.addr();
    let grpc = "Content-Type: application/grpc\r\n";
    // Path, headers, what an enforced rule makes of it, and whether the answer is cut short.
    let table = [
        ("/drawn-out", "", 200, true),
        ("/sse/drawn-out", "", 200, false),
        ("/grpc/drawn-out", grpc, 200, false),
        ("/sse/late", "", 504, false),
        ("/grpc/late", grpc, 200, false),
    ];
    let clients = table.map(|(path, headers, status, cut)| {
        std::thread::spawn(move || {
            let enforced = send(addr, &format!("/enforce{path}"), headers, 0, false);
            assert_eq!((enforced.status(), !enforced.whole), (status, cut), "{path}: {enforced:?}");
            let grpc_status = enforced.head.get("grpc-status").unwrap_or_default();
            let refused = status == 504 || cut || grpc_status == "4";
            let id = format!("X-Request-Id: {}\r\n{headers}", path.replace('/', "-"));
            let shadowed = send(addr, &format!("/shadow{path}"), &id, 0, false);
            assert_eq!((shadowed.status(), shadowed.whole, shadowed.text()), (200, true, "0".to_owned()), "{path}");
            (path, refused)
        })
    });
    let outcomes = clients.map(|client| client.join().expect("a client"));
    settled(&proxy, 10);
    let mut refusals = 0;
    for (path, refused) in outcomes {
        let id = path.replace('/', "-");
        let why = eventually("it is known", SOON, || {
            let reply = proxy.admin("GET", &format!("/why/{id}"));
            (reply.status() == 200).then(|| serde_json::from_slice::<Value>(&reply.body).expect("JSON"))
        });
        assert_eq!(why["shadow"].as_array().map(Vec::len), Some(usize::from(refused)), "{path}: {why:#}");
        refusals += u64::from(refused);
    }
    assert_eq!((refusals, counted(&proxy, "shadow", "timeout")), (3, 3), "one of each kind, and two that are late");

    for prefix in ["/enforce", "/shadow"] {
        let mut conn = Conn::connect(addr);
        conn.write(format!(
            "GET {prefix} HTTP/1.1\r\nHost: app.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
        ));
        assert_eq!(conn.head().status(), 101);
        conn.write("more than ten bytes");
        conn.finish();
        assert_eq!(conn.read_to_end(), b"heard 19", "{prefix}");
    }
    settled(&proxy, 12);
    assert_eq!(counted(&proxy, "shadow", "max_body"), 0, "what goes through a tunnel is no body");
    assert_eq!(counted(&proxy, "shadow", "timeout"), 3);
}

#[test]
fn what_is_counted_is_what_would_be_refused() {
    let origin = origin();
    let proxy = Proxy::start(CONFIG, &[("up", origin.addr())]);
    let addr = proxy.addr();
    // Length of the body, framing, and in time or not; what is too long and too late breaks two rules in shadow mode
    // and is refused once, so there is none of that.
    let traffic: Vec<(usize, bool, bool)> = pattern(7, 3 * 120)
        .chunks(3)
        .map(|dice| {
            let late = dice[0] < 30;
            (if late { 5 } else { usize::from(dice[1] % 20) }, dice[2] % 2 == 0, late)
        })
        .collect();
    let traffic = Arc::new(traffic);
    let run = |prefix: &'static str| {
        let clients = (0..8).map(|client| {
            let traffic = Arc::clone(&traffic);
            std::thread::spawn(move || {
                let mine = traffic.iter().skip(client).step_by(8);
                let one = |(length, chunked, late): &(usize, bool, bool)| {
                    let path = format!("{prefix}{}", if *late { "/late" } else { "" });
                    send(addr, &path, "", *length, *chunked).status()
                };
                mine.map(one).collect::<Vec<u16>>()
            })
        });
        let clients: Vec<_> = clients.collect();
        clients.into_iter().flat_map(|client| client.join().expect("a client")).collect::<Vec<u16>>()
    };
    let (enforced, shadowed) = (run("/enforce"), run("/shadow"));
    let refused = |status: u16| enforced.iter().filter(|got| **got == status).count() as u64;
    let report = settled(&proxy, 240);
    assert!(shadowed.iter().all(|status| *status == 200), "{shadowed:?}");
    assert!(refused(413) > 20 && refused(504) > 5, "{enforced:?}");
    for (rule, status) in [("max_body", 413), ("timeout", 504)] {
        assert_eq!(counted(&proxy, "shadow", rule), refused(status), "{rule}");
        assert_eq!(count_in(&report, "shadow", rule), Some(refused(status)), "{rule}: {report:#}");
    }
}

#[test]
fn examples_are_few_and_the_newest_and_a_mode_changes_with_a_reload() {
    let origin = origin();
    let proxy = Proxy::start(CONFIG, &[("up", origin.addr())]);
    assert_eq!(proxy.admin_json("/shadow"), json!({ "counts": [], "authorization": [], "examples": [] }));
    let mut conn = Conn::connect(proxy.addr());
    for n in 0..200 {
        conn.write(format!("POST /shadow/{n} HTTP/1.1\r\nHost: app.test\r\nContent-Length: 11\r\n\r\n01234567890"));
        assert_eq!(conn.response("POST").status(), 200);
    }
    let report = settled(&proxy, 200);
    assert_eq!(count_in(&report, "shadow", "max_body"), Some(200));
    let paths: Vec<&str> =
        report["examples"].as_array().expect("examples").iter().filter_map(|one| one["path"].as_str()).collect();
    let newest: Vec<String> = (0..64).map(|n| format!("/shadow/{}", 199 - n)).collect();
    assert_eq!(paths, newest);
    // Hostile and huge things are cut and made harmless.
    let long = format!("/shadow/{}", "y".repeat(5000));
    assert_eq!(send(proxy.addr(), &long, "", 11, false).status(), 200);
    let cut = eventually("the next example", SOON, || {
        let report = proxy.admin_json("/shadow");
        report["examples"][0]["path"].as_str().filter(|path| path.contains("yyy")).map(str::len)
    });
    assert_eq!(cut, 256);

    // From a trial to the rule itself, on the same connection.
    proxy.reload("{ size: 10, mode: shadow }", "{ size: 10, mode: enforce }");
    until("the rule is in force", SOON, || send(proxy.addr(), "/shadow", "", 11, false).status() == 413);
    assert_eq!(counted(&proxy, "shadow", "max_body"), 201, "counters do not go back");
    proxy.reload("{ size: 10, mode: enforce }", "{ size: 10, mode: off }");
    until("the rule is off", SOON, || send(proxy.addr(), "/shadow", "", 11, false).status() == 200);
    assert_eq!(counted(&proxy, "shadow", "max_body"), 201);
}

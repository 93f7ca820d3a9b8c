//! Faults on purpose: what they do, whom they touch, how they are seen, and that they end.

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use common::h2peer::{H2Client, Lost, call, request};
use common::{Conn, Message, Origin, Proxy, SOON, TempDir, example, get, pattern, until};
use outrigger::telemetry::rfc3339::{self, Rfc3339};
use serde_json::{Value, json};

const CONFIG: &str = r#"apiVersion: outrigger/v1
admin: { address: "{admin}" }
health: { address: "{health}" }
runtime: { workers: 2, probation: 0s }
telemetry: { accessLog: { format: json, sample: { errors: 100, others: 100, maxPerSecond: 0 } } }
listeners: [{ name: edge, mode: proxy, address: "{listen}" }]
services:
  app: { protocol: http1, endpoints: { static: ["{up}"] } }
routes:
  - { name: late, match: [{ path: { prefix: /late } }], to: app, fault: { delay: { percent: 100, duration: 300ms } } }
  - { name: too-late, match: [{ path: { prefix: /too-late } }], to: app, timeout: 200ms, fault: { delay: { percent: 100, duration: 9s }, abort: { percent: 100, status: 418 } } }
  - { name: refused, match: [{ path: { prefix: /refused } }], to: app, fault: { abort: { percent: 100, status: 429 } } }
  - { name: rpc, match: [{ path: { prefix: /rpc } }], to: app, fault: { abort: { percent: 100, grpc: resourceExhausted } } }
  - { name: both, match: [{ path: { prefix: /both } }], to: app, fault: { delay: { percent: 100, duration: 50ms }, abort: { percent: 100, status: 503 } } }
  - { name: reset, match: [{ path: { prefix: /reset } }], to: app, fault: { abort: { percent: 100, reset: true } } }
  - { name: slow, match: [{ path: { prefix: /slow } }], to: app, fault: { bandwidth: { percent: 100, limit: 32Ki } } }
  - { name: never, match: [{ path: { prefix: /never } }], to: app, fault: { abort: { percent: 0, status: 503 }, delay: { percent: 0, duration: 9s } } }
  - { name: all, to: app }
"#;

const MARK: &str = "x-outrigger-fault";

fn start(origin: &Origin) -> Proxy {
    Proxy::start(CONFIG, &[("up", origin.addr())])
}

fn ask(proxy: &Proxy, path: &str, headers: &str) -> Message {
    let mut conn = Conn::connect(proxy.addr());
    conn.write(format!("GET {path} HTTP/1.1\r\nHost: app.test\r\n{headers}\r\n"));
    conn.response("GET")
}

fn done(proxy: &Proxy, route: &str, kind: &str) -> u64 {
    proxy.metric("outrigger_faults_total", &[("route", route), ("kind", kind)]) as u64
}

/// The line of the access log for this path.
fn logged(proxy: &Proxy, path: &str) -> Value {
    common::eventually(&format!("a line for {path}"), SOON, || {
        let lines = proxy.stdout_lines();
        lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok()).find(|line| line["path"] == path)
    })
}

#[test]
fn a_delay_is_a_delay_and_is_marked() {
    let origin = Origin::ok();
    let proxy = start(&origin);
    let begun = Instant::now();
    let reply = get(proxy.addr(), "/late");
    assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
    assert_eq!((reply.status(), reply.text().as_str()), (200, "ok"));
    assert_eq!(reply.head.get(MARK).as_deref(), Some("delay=300ms"));
    let line = logged(&proxy, "/late");
    assert_eq!(
        (&line["fault"], &line["status"], &line["producer"]),
        (&json!("delay=300ms"), &json!(200), &json!("application"))
    );
    let id = line["request_id"].as_str().expect("its id");
    common::until("why tells it", SOON, || proxy.cli(&["why", id]).out.contains("fault       delay=300ms"));
    assert_eq!(done(&proxy, "late", "delay"), 1);
    assert!(!get(proxy.addr(), "/other").head.has(MARK));
    assert!(!get(proxy.addr(), "/never").head.has(MARK));
    assert!(logged(&proxy, "/never").get("fault").is_none());
}

#[test]
fn a_delay_ends_with_the_deadline() {
    let origin = Origin::ok();
    let proxy = start(&origin);
    let begun = Instant::now();
    let reply = get(proxy.addr(), "/too-late");
    assert!(begun.elapsed() >= Duration::from_millis(200) && begun.elapsed() < Duration::from_secs(8));
    assert_eq!((reply.status(), reply.head.get(MARK).as_deref()), (504, Some("delay=9s")), "{reply:?}");
    assert_eq!((done(&proxy, "too-late", "abort"), origin.seen().len()), (0, 0));
    proxy.await_reason("request_timeout", 504);
}

#[test]
fn an_abort_is_told_in_each_form() {
    let origin = Origin::ok();
    let proxy = start(&origin);
    let reply = ask(&proxy, "/refused/a", "Accept: application/json\r\n");
    assert_eq!((reply.status(), reply.head.get(MARK).as_deref()), (429, Some("abort=429")));
    assert_eq!(reply.head.get("proxy-status").as_deref().map(|status| status.contains("fault_injected")), Some(true));
    let body: Value = serde_json::from_str(&reply.text()).expect("JSON");
    assert_eq!((&body["status"], &body["reason"]), (&json!(429), &json!("fault_injected")));
    let line = logged(&proxy, "/refused/a");
    assert_eq!(
        (&line["reason"], &line["fault"], &line["producer"]),
        (&json!("fault_injected"), &json!("abort=429"), &json!("proxy"))
    );
    let reply = ask(&proxy, "/both", "");
    assert_eq!((reply.status(), reply.head.get(MARK).as_deref()), (503, Some("delay=50ms, abort=503")));
    // No gRPC: the status of the reason.
    let reply = ask(&proxy, "/rpc", "");
    assert_eq!((reply.status(), reply.head.get(MARK).as_deref()), (503, Some("abort=grpc 8")));
    let grpc = [("content-type", "application/grpc"), ("te", "trailers")];
    for (path, code) in [("/rpc/a.B/C", "8"), ("/refused/a.B/C", "14")] {
        let reply = call(proxy.addr(), request("POST", path, &grpc), b"", None).expect("an answer");
        assert_eq!(
            (reply.head.status.as_u16(), &reply.head.headers["grpc-status"]),
            (200, &code.parse().unwrap()),
            "{path}"
        );
        assert!(reply.head.headers.contains_key(MARK));
    }
    assert_eq!((origin.seen().len(), done(&proxy, "rpc", "abort"), done(&proxy, "both", "delay")), (0, 2, 1));
}

#[test]
fn a_reset_resets() {
    let origin = Origin::ok();
    let proxy = start(&origin);
    let mut conn = Conn::connect(proxy.addr());
    conn.write("GET /reset HTTP/1.1\r\nHost: app.test\r\n\r\n");
    assert!(conn.try_head().is_none(), "no answer");
    assert!(conn.was_reset, "by a reset");
    let mut client = H2Client::connect(proxy.addr()).expect("a connection");
    match client.get("/reset") {
        Err(Lost::Sent(error)) => assert!(error.is_reset() && error.is_remote(), "{error}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(client.get("/other").expect("the connection goes on").head.status.as_u16(), 200);
    until("both are counted", SOON, || done(&proxy, "reset", "reset") == 2);
    assert_eq!(logged(&proxy, "/reset")["reason"], "fault_injected");
    assert_eq!(origin.seen().len(), 1);
    proxy.assert_serves();
}

#[test]
fn a_slowed_body_arrives_whole() {
    let body = pattern(5, 40 * 1024);
    let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    answer.extend_from_slice(&body);
    let origin = Origin::fixed(answer);
    let proxy = start(&origin);
    let begun = Instant::now();
    let reply = get(proxy.addr(), "/slow");
    // All but the first piece waits.
    assert!(begun.elapsed() >= Duration::from_millis(1150), "{:?}", begun.elapsed());
    assert_eq!((reply.status(), reply.head.get(MARK).as_deref()), (200, Some("bandwidth=32Ki")));
    assert!(reply.body == body, "byte for byte");
    let reply = call(proxy.addr(), request("GET", "/slow", &[]), b"", None).expect("an answer");
    assert!(reply.body == body && reply.reset.is_none());
    assert_eq!(done(&proxy, "slow", "bandwidth"), 2);
}

#[test]
fn one_switch_stops_them_all() {
    let origin = Origin::ok();
    let proxy = start(&origin);
    let status = |path: &str| get(proxy.addr(), path).status();
    assert_eq!(status("/refused"), 429);
    let said = proxy.cli(&["faults", "stop"]);
    assert!(said.code == 0 && said.out.starts_with("stopped"), "{said:?}");
    assert_eq!((status("/refused"), status("/rpc"), status("/reset")), (200, 200, 200));
    // A reload does not start them again.
    proxy.reload("percent: 100, status: 429", "percent: 100, status: 430");
    assert_eq!(status("/refused"), 200);
    assert_eq!(proxy.admin("GET", "/faults/stop").status(), 405);
    let told = proxy.admin_json("/faults");
    assert_eq!((&told["stopped"], &told["routes"]["refused"]["done"]["abort"]), (&json!(true), &json!(1)));
    assert_eq!(proxy.admin("POST", "/faults/start").status(), 200);
    assert_eq!(status("/refused"), 430);
    let said = proxy.cli(&["faults", "status"]);
    assert!(said.out.contains("reset") && said.out.contains("done: abort 2"), "{said:?}");
}

#[test]
fn it_ends_by_itself() {
    let origin = Origin::ok();
    // To the millisecond, as it is written.
    let written = Rfc3339(SystemTime::now() + Duration::from_secs(4)).to_string();
    let end = rfc3339::parse(&written).expect("a moment");
    let config = CONFIG.replace(
        "abort: { percent: 100, status: 429 }",
        &format!("expires: \"{written}\", abort: {{ percent: 100, status: 429 }}"),
    );
    let proxy = Proxy::start(&config, &[("up", origin.addr())]);
    // Whatever the machine does between, what was asked before the end or after it is known.
    loop {
        let (before, status) = (SystemTime::now(), get(proxy.addr(), "/refused").status());
        let after = SystemTime::now();
        if before > end {
            assert_eq!(status, 200, "it has ended");
            break;
        }
        assert!(after > end || status == 429, "not before");
    }
    assert_eq!(proxy.admin_json("/faults")["routes"]["refused"]["expired"], true);
    assert!(done(&proxy, "refused", "abort") > 0);
}

#[test]
fn what_has_expired_is_warned_of() {
    let dir = TempDir::new("expired");
    let text = CONFIG.replace(
        "abort: { percent: 100, status: 429 }",
        "abort: { percent: 100, status: 429 }, expires: 2020-01-01T00:00:00Z",
    );
    let text = text
        .replace("{admin}", "127.0.0.1:1")
        .replace("{health}", "127.0.0.1:2")
        .replace("{listen}", "127.0.0.1:3")
        .replace("{up}", "127.0.0.1:4");
    let file = dir.file("old.yaml", text);
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_outrigger"))
        .args(["check", "--config"])
        .arg(&file)
        .output()
        .expect("run");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("warning") && said.contains("has expired"), "{said}");
    let origin = Origin::ok();
    let proxy = Proxy::start(
        &CONFIG.replace(
            "abort: { percent: 100, status: 429 }",
            "abort: { percent: 100, status: 429 }, expires: 2020-01-01T00:00:00Z",
        ),
        &[("up", origin.addr())],
    );
    assert_eq!(get(proxy.addr(), "/refused").status(), 200);
    assert!(proxy.stderr_text().contains("has expired"), "{}", proxy.stderr_text());
}

#[test]
fn the_example_does_what_it_says() {
    const REQUESTS: usize = 200;
    let origin = Origin::ok();
    let proxy = Arc::new(example::start("faults", &[("127.0.0.1:9081", origin.addr())]));
    let clients = (0..10).map(|_| {
        let proxy = proxy.clone();
        std::thread::spawn(move || {
            let mut conn = Conn::connect(proxy.addr());
            let mut seen = Vec::new();
            for _ in 0..REQUESTS / 10 {
                conn.write("GET / HTTP/1.1\r\nHost: app.test\r\nX-Chaos-Enabled: true\r\n\r\n");
                let reply = conn.response("GET");
                seen.push((reply.status(), reply.head.get(MARK).unwrap_or_default()));
            }
            seen
        })
    });
    let clients: Vec<_> = clients.collect();
    let seen: Vec<(u16, String)> = clients.into_iter().flat_map(|client| client.join().expect("a client")).collect();
    let count = |what: &str| seen.iter().filter(|(_, mark)| mark.contains(what)).count() as f64;
    for (what, share) in [("delay=100ms", 0.5), ("abort=503", 0.2), ("bandwidth=256Ki", 0.1)] {
        let (wanted, deviation) = (REQUESTS as f64 * share, (REQUESTS as f64 * share * (1.0 - share)).sqrt());
        assert!((count(what) - wanted).abs() < 5.0 * deviation, "{what}: {}", count(what));
    }
    assert!(seen.iter().all(|(status, mark)| (*status == 503) == mark.contains("abort")));
    assert!(!get(proxy.addr(), "/").head.has(MARK), "nobody asked for it");
    let explained = proxy.cli_json(&["explain", "http://app.test/?chaos=delay"]);
    let policy = explained["policy"]
        .as_array()
        .expect("policies")
        .iter()
        .find(|one| one["name"] == "fault")
        .expect("fault")
        .clone();
    assert!(
        policy["value"]
            .as_str()
            .is_some_and(|value| value.contains("delay 100ms (50 %)") && value.contains("until 2099")),
        "{policy}"
    );
}

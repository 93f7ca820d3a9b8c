//! The access log: which exchanges get a line, and that no request can break one.

mod common;

use std::time::Instant;

use common::h2peer::{H2Origin, call, request};
use common::origin::Next;
use common::{Conn, Origin, Proxy, SOON, eventually, until};
use http::{HeaderMap, HeaderValue};
use serde_json::Value;

/// One worker, in front of `{up}`, with this access log.
fn front(log: &str, up: std::net::SocketAddr) -> Proxy {
    let config = format!(
        r#"apiVersion: outrigger/v1
workload: {{ name: web, namespace: shop, version: v7 }}
admin: {{ address: "{{admin}}" }}
health: {{ address: "{{health}}" }}
runtime: {{ workers: 1 }}
telemetry: {{ accessLog: {{ {log} }} }}
attributes: {{ tenant: {{ from: [{{ header: x-tenant }}] }} }}
listeners: [{{ name: edge, mode: proxy, address: "{{listen}}" }}]
services:
  app: {{ endpoints: {{ static: [{{ address: "{{up}}", labels: {{ v: "1" }} }}] }}, subsets: {{ one: {{ labels: {{ v: "1" }} }} }} }}
  gone: {{ endpoints: {{ static: ["{{spare}}"] }} }}
routes:
  - {{ name: all, hosts: [app.test], to: app/one }}
  - {{ name: gone, match: [{{ path: {{ prefix: /gone }} }}], to: gone }}
"#
    );
    Proxy::start(&config, &[("up", up)])
}

const EVERYTHING: &str = "format: json, sample: { errors: 100, others: 100, maxPerSecond: 0 }";

fn lines(proxy: &Proxy, count: usize) -> Vec<String> {
    let lines =
        eventually(&format!("{count} lines"), SOON, || Some(proxy.stdout_lines()).filter(|all| all.len() >= count));
    assert_eq!(lines.len(), count, "{lines:#?}");
    lines
}

fn send(conn: &mut Conn, line: &str, headers: &[u8]) -> u16 {
    let head = [format!("{line} HTTP/1.1\r\n").as_bytes(), headers, b"\r\n"].concat();
    conn.write(head);
    conn.response(line.split(' ').next().unwrap_or_default()).status()
}

#[test]
fn fields() {
    let origin = Origin::echo();
    let proxy = front(EVERYTHING, origin.addr());
    let mut conn = Conn::connect(proxy.addr());
    conn.write(
        "POST /a/b?c=d HTTP/1.1\r\nHost: app.test\r\nUser-Agent: test/1\r\nX-Request-Id: id-1\r\nX-Tenant: acme\r\n\
         traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\nContent-Length: 5\r\n\r\nhello",
    );
    assert_eq!(conn.response("POST").status(), 200);
    assert_eq!(send(&mut conn, "GET /gone", b"Host: else.test\r\n"), 503);
    let lines = lines(&proxy, 2);
    let parsed: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let first = &parsed[0];
    for (field, wanted) in [
        ("workload", "web"),
        ("namespace", "shop"),
        ("version", "v7"),
        ("listener", "edge"),
        ("route", "all"),
        ("service", "app"),
        ("subset", "one"),
        ("protocol", "HTTP/1.1"),
        ("method", "POST"),
        ("host", "app.test"),
        ("path", "/a/b?c=d"),
        ("user_agent", "test/1"),
        ("request_id", "id-1"),
        ("trace_id", "0af7651916cd43dd8448eb211c80319c"),
    ] {
        assert_eq!(first[field], wanted, "{field} of {first}");
    }
    assert_eq!(first["endpoint"], origin.addr().to_string());
    assert_eq!(first["peer"], conn.local_addr().to_string());
    assert_eq!(first["attributes"]["tenant"], "acme");
    assert_eq!((&first["status"], &first["attempts"]), (&200.into(), &1.into()));
    assert_eq!((&first["request_bytes"], &first["response_bytes"]), (&5.into(), &5.into()));
    let (whole, upstream) = (first["duration_ms"].as_f64(), first["upstream_duration_ms"].as_f64());
    assert!(whole.is_some_and(|whole| whole > 0.0) && upstream <= whole, "{first}");
    assert!(first["time"].as_str().is_some_and(|time| time.ends_with('Z') && time.contains('T')), "{first}");
    let sent = origin.last().head.get("traceparent").unwrap_or_default();
    assert_eq!(first["span_id"].as_str(), sent.split('-').nth(2), "the span that the service sees as its parent");
    assert!(first.get("reason").is_none(), "left out where nothing is to be said: {first}");
    let second = &parsed[1];
    assert_eq!((&second["status"], &second["reason"]), (&503.into(), &"connect_failed".into()), "{second}");
    assert!(second["request_id"].as_str().is_some_and(|id| !id.is_empty()), "made where there was none: {second}");
}

#[test]
fn whatever_a_client_sends_is_one_line_of_json() {
    let origin = Origin::ok();
    let proxy = front(EVERYTHING, origin.addr());
    let agents: [&[u8]; 8] = [
        b"\"quoted\"",
        b"back\\slash\\",
        b"tab\there",
        b"\xff\xfe latin \xe9",
        "ünïcödé \u{202e} \u{2028}".as_bytes(),
        b"\",\"status\":200,\"x\":\"",
        b"{\"a\":[}",
        b"\\u0000 \\n",
    ];
    let mut conn = Conn::connect(proxy.addr());
    for agent in agents {
        let headers = [b"Host: app.test\r\nUser-Agent: ", agent, b"\r\nX-Tenant: ", agent, b"\r\n"].concat();
        assert_eq!(send(&mut conn, "GET /a%22%0a%5c?q=%22", &headers), 200, "{}", agent.escape_ascii());
    }
    let lines = lines(&proxy, agents.len());
    for (line, agent) in lines.iter().zip(agents) {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert_eq!(value["status"], 200, "{line}");
        assert_eq!(value["path"], "/a%22%0a%5c?q=%22");
        if let Ok(text) = std::str::from_utf8(agent) {
            assert_eq!(value["user_agent"], text, "{line}");
            assert_eq!(value["attributes"]["tenant"], text, "{line}");
        } else {
            assert_eq!(value["user_agent"], "\\xff\\xfe latin \\xe9", "{line}");
        }
        assert!(!line.chars().any(char::is_control), "{line:?}");
    }
}

#[test]
fn errors_always_and_others_never() {
    let origin = Origin::start(|seen, conn| {
        let line = seen.message.head.start_line();
        if line.contains("/cut") {
            conn.write("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
            return Next::Close;
        }
        let status = if line.contains("/500") { "500 Oh" } else { "200 OK" };
        conn.write(format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nok"));
        Next::Keep
    });
    let proxy = front("format: json, sample: { errors: 100, others: 0, maxPerSecond: 0 }", origin.addr());
    let mut conn = Conn::connect(proxy.addr());
    for _ in 0..50 {
        assert_eq!(send(&mut conn, "GET /ok", b"Host: app.test\r\n"), 200);
    }
    // Nobody failed: a client asked for what is not there.
    assert_eq!(send(&mut conn, "GET /nothing", b"Host: else.test\r\n"), 404);
    assert_eq!(send(&mut conn, "GET /500", b"Host: app.test\r\n"), 500);
    assert_eq!(send(&mut conn, "GET /gone", b"Host: else.test\r\n"), 503);
    conn.write("GET /cut HTTP/1.1\r\nHost: app.test\r\n\r\n");
    assert!(!conn.response("GET").whole);
    let lines = lines(&proxy, 3);
    let paths: Vec<Value> =
        lines.iter().map(|line| serde_json::from_str::<Value>(line).expect("JSON")["path"].clone()).collect();
    assert_eq!(paths, ["/500", "/gone", "/cut"]);
    proxy.reload("errors: 100, others: 0", "errors: 0, others: 100");
    let mut conn = Conn::connect(proxy.addr());
    assert_eq!(send(&mut conn, "GET /500", b"Host: app.test\r\n"), 500);
    assert_eq!(send(&mut conn, "GET /ok", b"Host: app.test\r\n"), 200);
    let last = eventually("one more line", SOON, || proxy.stdout_lines().get(3).cloned());
    assert!(last.contains("\"/ok\""), "{last}");
}

#[test]
fn a_grpc_status_is_an_error_too() {
    let origin = H2Origin::echo();
    let proxy = front("format: json, sample: { errors: 100, others: 0, maxPerSecond: 0 }", origin.addr);
    for status in ["0", "13", "0"] {
        let head = request("POST", "/a.B/C", &[("content-type", "application/grpc"), ("te", "trailers")]);
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static(status));
        call(proxy.addr(), head, b"\0\0\0\0\0", Some(trailers)).expect("an answer");
    }
    let line: Value = serde_json::from_str(&lines(&proxy, 1)[0]).expect("JSON");
    assert_eq!((&line["grpc_status"], &line["status"], &line["protocol"]), (&13.into(), &200.into(), &"HTTP/2".into()));
}

#[test]
fn a_share_of_the_others() {
    let origin = Origin::ok();
    let proxy = front("format: json, sample: { errors: 100, others: 20, maxPerSecond: 0 }", origin.addr());
    let mut conn = Conn::connect(proxy.addr());
    for _ in 0..2000 {
        assert_eq!(send(&mut conn, "GET /", b"Host: app.test\r\n"), 200);
    }
    // The last line, so that those before it are written.
    assert_eq!(send(&mut conn, "GET /gone", b"Host: else.test\r\n"), 503);
    let all = eventually("the last line", SOON, || {
        Some(proxy.stdout_lines()).filter(|all| all.last().is_some_and(|line| line.contains("/gone")))
    });
    // Five standard deviations of 2,000 draws are 90.
    assert!((310..=490).contains(&(all.len() - 1)), "{} lines", all.len());
}

#[test]
fn no_more_than_so_many_a_second() {
    let origin = Origin::ok();
    let proxy = front("format: json, sample: { errors: 100, others: 100, maxPerSecond: 10 }", origin.addr());
    let begin = Instant::now();
    let mut conn = Conn::connect(proxy.addr());
    for _ in 0..500 {
        assert_eq!(send(&mut conn, "GET /", b"Host: app.test\r\n"), 200);
    }
    let most = 10.0 + begin.elapsed().as_secs_f64() * 10.0 + 1.0;
    until("they are counted", SOON, || proxy.metric("http_requests_total", &[]) as u64 == 500);
    let dropped = || proxy.metric("outrigger_access_log_dropped_total", &[]) as usize;
    until("each is written or counted as dropped", SOON, || proxy.stdout_lines().len() + dropped() == 500);
    let written = proxy.stdout_lines().len();
    assert!(written >= 10 && (written as f64) <= most, "{written} lines");
}

#[test]
fn text_and_off() {
    let origin = Origin::echo();
    let proxy = front("format: text, sample: { others: 100, maxPerSecond: 0 }", origin.addr());
    let mut conn = Conn::connect(proxy.addr());
    assert_eq!(
        send(&mut conn, "GET /a?b", b"Host: app.test\r\nUser-Agent: two \"words\" \xff\\\r\nX-Request-Id: id-1\r\n"),
        200
    );
    assert_eq!(send(&mut conn, "GET /x", b"Host: else.test\r\n"), 404);
    let all = lines(&proxy, 2);
    let words: Vec<&str> = all[0].split(' ').collect();
    assert_eq!(words[1..7], ["GET", "app.test", "/a?b", "HTTP/1.1", "200", "-"], "{}", all[0]);
    assert!(words.contains(&"two\\x20\\x22words\\x22\\x20\\xff\\x5c"), "{}", all[0]);
    assert!(words.contains(&"id-1") && words.contains(&"all"), "{}", all[0]);
    let other: Vec<&str> = all[1].split(' ').collect();
    assert_eq!(other[5..7], ["404", "no_route"], "{}", all[1]);
    assert_eq!(words.len(), other.len(), "as many fields, whatever is known");

    proxy.reload("format: text", "format: off");
    assert_eq!(send(&mut conn, "GET /off", b"Host: app.test\r\n"), 200);
    proxy.reload("format: off", "format: json");
    assert_eq!(send(&mut conn, "GET /on", b"Host: app.test\r\n"), 200);
    let all = lines(&proxy, 3);
    assert!(all[2].contains("/on"), "{}", all[2]);
}

//! What is done while a circuit breaker is open: the four kinds of fallback, and the classes of answers.

mod common;

use std::fs;

use common::origin::{Next, Seen};
use common::{Conn, Message, Origin, Proxy, SOON, until};
use serde_json::Value;

const HEAD: &str = r#"apiVersion: outrigger/v1
admin: { address: "{admin}" }
health: { address: "{health}" }
runtime: { workers: 2 }
telemetry: { accessLog: { format: json, sample: { others: 0 } } }
listeners: [{ name: edge, mode: proxy, address: "{listen}" }]
"#;

/// Answers with the status, the code and the further header that the request asks for; the body is how many came before.
fn obliging() -> Origin {
    let count = std::sync::atomic::AtomicUsize::new(0);
    Origin::start(move |Seen { message, .. }, conn| {
        let want = |name: &str| message.head.get(name);
        let status = want("x-want").and_then(|status| status.parse().ok()).unwrap_or(200);
        let code = want("x-code").map(|code| format!("X-Error-Code: {code}\r\n")).unwrap_or_default();
        let more = want("x-more").map(|line| format!("{line}\r\n")).unwrap_or_default();
        let body = format!("answer {}", count.fetch_add(1, std::sync::atomic::Ordering::SeqCst));
        let length = body.len();
        let reply = format!("HTTP/1.1 {status} As Told\r\n{code}{more}Content-Length: {length}\r\n\r\n{body}");
        if conn.try_write(reply) { Next::Keep } else { Next::Close }
    })
}

fn ask(proxy: &Proxy, host: &str, path: &str, headers: &str) -> Message {
    let mut conn = Conn::connect(proxy.addr());
    conn.write(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{headers}Connection: close\r\n\r\n"));
    conn.response("GET")
}

fn state(proxy: &Proxy, service: &str) -> String {
    let known = proxy.admin_json("/clusters")[service]["circuitBreaker"]["state"].clone();
    known.as_str().unwrap_or_default().to_owned()
}

/// A service whose circuit breaker is open at once, with this fallback.
fn open(fallback: &str, app: &Origin, other: &Origin) -> Proxy {
    let config = format!(
        r#"{HEAD}services:
  app:
    endpoints: {{ static: ["{{app}}"] }}
    circuitBreaker: {{ consecutiveFailures: 1, fallback: {{ {fallback} }} }}
  other:
    endpoints: {{ static: ["{{other}}"] }}
    circuitBreaker: {{ consecutiveFailures: 1, fallback: {{ respond: {{ status: 418, body: no tea }} }} }}
routes: [{{ name: all, to: app, responseHeaders: {{ set: {{ x-route: all }} }} }}]
"#
    );
    Proxy::start(&config, &[("app", app.addr()), ("other", other.addr())])
}

fn trip(proxy: &Proxy) {
    assert_eq!(ask(proxy, "app.test", "/", "X-Want: 500\r\n").status(), 500);
    until("it is open", SOON, || state(proxy, "app") == "open");
}

#[track_caller]
fn assert_marked(reply: &Message, of: &str) {
    assert_eq!(reply.head.all("x-graceful-fallback"), ["true"], "{reply:?}");
    assert_eq!(reply.head.get("x-route").as_deref(), Some("all"), "edits of the route");
    let says = reply.head.get("proxy-status").unwrap_or_default();
    assert!(says.contains(&format!("details=\"circuit_open of {of}\"")), "{says}");
}

#[test]
fn a_text_of_our_own() {
    let app = obliging();
    let respond =
        "respond: { status: 203, body: \"[]\", headers: { content-type: application/json, x-why: degraded } }";
    let proxy = open(respond, &app, &app);
    trip(&proxy);
    let reply = ask(&proxy, "app.test", "/", "");
    assert_eq!((reply.status(), reply.text().as_str()), (203, "[]"));
    assert_eq!(reply.head.all("content-type"), ["application/json"]);
    assert_eq!(reply.head.all("x-why"), ["degraded"]);
    assert_marked(&reply, "service app");
    proxy.await_reason("fallback", 203);
    assert_eq!(app.seen().len(), 1);
}

#[test]
fn another_page() {
    let app = obliging();
    let proxy = open("redirect: { path: /sorry }", &app, &app);
    trip(&proxy);
    let reply = ask(&proxy, "app.test", "/shop?a=b", "");
    assert_eq!((reply.status(), reply.head.get("location").as_deref()), (302, Some("http://app.test/sorry?a=b")));
    assert_marked(&reply, "service app");
    // Whoever is there already is not sent round in a circle.
    assert_eq!(ask(&proxy, "app.test", "/sorry", "").status(), 503);
}

#[test]
fn another_service_and_its_own_breaker() {
    let (app, other) = (obliging(), Origin::named("other"));
    let proxy = open("to: other", &app, &other);
    trip(&proxy);
    let reply = ask(&proxy, "app.test", "/", "");
    assert_eq!((reply.status(), reply.text().as_str()), (200, "other"));
    assert_marked(&reply, "service app");
    let failing = obliging();
    proxy.reload(&other.addr().to_string(), &failing.addr().to_string());
    assert_eq!(ask(&proxy, "app.test", "/", "X-Want: 502\r\n").status(), 502);
    until("it is open", SOON, || state(&proxy, "other") == "open");
    let reply = ask(&proxy, "app.test", "/", "");
    assert_eq!((reply.status(), reply.text().as_str()), (418, "no tea"));
    assert_marked(&reply, "service other");
    assert_eq!((app.seen().len(), failing.seen().len()), (1, 1));
}

#[test]
fn what_another_service_answers_is_told_of_that_one() {
    let (app, other) = (obliging(), obliging());
    let proxy = open("to: other", &app, &other);
    trip(&proxy);
    let reply = ask(&proxy, "app.test", "/fell", "X-Want: 502\r\nX-Request-Id: fell\r\nX-Outrigger-Explain: 1\r\n");
    assert_eq!(reply.status(), 502);
    let says = reply.head.get("x-outrigger-explain").unwrap_or_default();
    assert!(says.contains("; to=other; ") && says.contains("; circuitBreaker=service app; "), "{says}");
    let requests = |service| proxy.metric("http_requests_total", &[("route", "all"), ("service", service)]) as u64;
    until("both are counted", SOON, || (requests("app"), requests("other")) == (1, 1));
    let active = |service| proxy.metric("http_requests_in_flight", &[("service", service)]) as i64;
    assert_eq!((active("app"), active("other")), (0, 0));
    until("why tells", SOON, || {
        let told = proxy.cli(&["why", "fell"]).out;
        told.contains("breaker     of service app was open") && told.contains("service     other")
    });
    let lines = || proxy.stdout_lines().into_iter().filter_map(|line| serde_json::from_str::<Value>(&line).ok());
    until("it is logged", SOON, || lines().any(|line| line["path"] == "/fell"));
    let line = lines().find(|line| line["path"] == "/fell").unwrap_or_default();
    assert_eq!((&line["service"], &line["circuit_breaker"]), (&"other".into(), &"service app".into()), "{line}");
    assert_eq!(line["endpoint"], other.addr().to_string());
}

#[test]
fn the_last_good_answer() {
    let app = obliging();
    let proxy = open("stale: 5m", &app, &app);
    // In this order, so that each is told by its body.
    let before = [
        ("/page?a=b", "X-More: ETag: \"x\"\r\n"),
        ("/lost", "X-Want: 404\r\n"),
        ("/never", "X-More: Cache-Control: no-store\r\n"),
        ("/mine", "Cookie: a=b\r\n"),
        ("/yours", "Authorization: Basic x\r\n"),
        ("/cookie", "X-More: Set-Cookie: a=b\r\n"),
        ("/word", "Accept-Language: de\r\nX-More: Vary: accept-language\r\n"),
        ("/secret", "Cache-Control: no-store\r\n"),
    ];
    for (number, (path, headers)) in before.iter().enumerate() {
        assert_eq!(ask(&proxy, "app.test", path, headers).text(), format!("answer {number}"), "{path}");
    }
    trip(&proxy);
    let reply = ask(&proxy, "app.test", "/page?a=b", "");
    assert_eq!((reply.status(), reply.text().as_str()), (200, "answer 0"));
    assert_eq!(reply.head.all("etag"), ["\"x\""]);
    assert!(reply.head.get("age").is_some_and(|age| age.parse::<u64>().is_ok()), "{reply:?}");
    assert_marked(&reply, "service app");
    proxy.await_reason("fallback", 200);
    assert_eq!(ask(&proxy, "app.test", "/word", "Accept-Language: de\r\n").text(), "answer 6");
    assert_eq!(ask(&proxy, "App.Test", "/page?a=b", "").text(), "answer 0", "hosts are the same in any case");
    for (path, headers) in [
        ("/page?a=c", ""),
        ("/page?a=b", "Cookie: a=b\r\n"),
        ("/lost", ""),
        ("/never", ""),
        ("/mine", ""),
        ("/yours", ""),
        ("/cookie", ""),
        ("/word", "Accept-Language: en\r\n"),
        ("/secret", ""),
    ] {
        assert_eq!(ask(&proxy, "app.test", path, headers).status(), 503, "{path} {headers}");
    }
    assert_eq!(ask(&proxy, "other.test", "/page?a=b", "").status(), 503);
    assert_eq!(app.seen().len(), before.len() + 1);
    // What was kept is kept over a reload.
    proxy.reload("name: all", "name: all, timeout: 3s");
    assert_eq!(ask(&proxy, "app.test", "/page?a=b", "").text(), "answer 0");
}

fn classes(proxy: &Proxy) -> Vec<Value> {
    proxy.admin_json("/clusters")["checkout"]["errorClasses"].as_array().cloned().unwrap_or_default()
}

/// The example, as it is but for its addresses.
fn example(app: &Origin, backup: &Origin, recommendations: &Origin) -> Proxy {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config/examples/circuit-breaking.yaml");
    let text = fs::read_to_string(path).expect("the example");
    let text = text
        .replace("0.0.0.0:8080", "{listen}")
        .replace("10.0.0.10:8080", "{app}")
        .replace("10.0.0.11:8080", "{backup}")
        .replace("10.0.0.12:8080", "{recommendations}");
    let rest = "admin: { address: \"{admin}\" }\nhealth: { address: \"{health}\" }\n\
        telemetry: { accessLog: { format: json, sample: { others: 0 } } }\n";
    let places = [("app", app.addr()), ("backup", backup.addr()), ("recommendations", recommendations.addr())];
    Proxy::start(&format!("{text}{rest}"), &places)
}

fn shop(proxy: &Proxy, path: &str, headers: &str) -> Message {
    ask(proxy, "shop.example", path, headers)
}

#[test]
fn each_class_has_its_own_threshold_and_fallback() {
    let (app, backup) = (obliging(), Origin::named("backup"));
    let proxy = example(&app, &backup, &app);
    assert_eq!(shop(&proxy, "/stock", "").text(), "answer 0");
    // An answer of a class is passed on. Two fifths of twenty open the one, one twentieth would open the other.
    for n in 1..=11 {
        assert_eq!(shop(&proxy, &format!("/{n}"), "").status(), 200);
    }
    for _ in 0..7 {
        let reply = shop(&proxy, "/other", "X-Code: 2003\r\n");
        assert_eq!((reply.status(), reply.head.get("x-error-code").as_deref()), (200, Some("2003")));
        assert!(!reply.head.has("x-graceful-fallback"));
    }
    let known = classes(&proxy);
    assert_eq!((&known[1]["answers"], &known[1]["sli"]), (&7.into(), &"optional".into()));
    assert_eq!(known[1]["circuitBreaker"]["requests"], 19, "of all answers of the service");
    assert_eq!(known[1]["circuitBreaker"]["state"], "closed");
    assert_eq!(shop(&proxy, "/other", "X-Code: 2003\r\n").status(), 200);
    until("the class is open", SOON, || classes(&proxy)[1]["circuitBreaker"]["state"] == "open");
    assert_eq!(state(&proxy, "checkout"), "closed");
    let reply = shop(&proxy, "/stock", "");
    assert_eq!((reply.text().as_str(), reply.head.get("x-graceful-fallback").as_deref()), ("answer 0", Some("true")));
    let says = reply.head.get("proxy-status").unwrap_or_default();
    assert!(says.contains("circuit_open of service checkout class stock-degraded"), "{says}");
    assert_eq!(shop(&proxy, "/other", "").status(), 503, "an answer of a class is no good one");
    let labels = [("service", "checkout"), ("class", "stock-degraded")];
    assert_eq!(proxy.metric("outrigger_error_class_answers_total", &labels) as u64, 8);
    assert_eq!(proxy.metric("outrigger_circuit_state", &labels) as u64, 2);
}

#[test]
fn an_answer_of_a_critical_class_is_an_error_and_the_example_does_what_it_says() {
    let (app, backup, recommendations) = (obliging(), Origin::named("backup"), obliging());
    let proxy = example(&app, &backup, &recommendations);
    for n in 0..19 {
        assert_eq!(shop(&proxy, &format!("/{n}"), "").status(), 200);
    }
    assert_eq!(shop(&proxy, "/pay", "X-Code: 1001\r\n").status(), 200);
    until("the class is open", SOON, || classes(&proxy)[0]["circuitBreaker"]["state"] == "open");
    let reply = shop(&proxy, "/pay", "");
    assert_eq!((reply.status(), reply.head.get("location").as_deref()), (302, Some("http://shop.example/prepay")));
    assert_eq!(shop(&proxy, "/prepay", "").text(), "backup");
    // Errors are logged always, and the others are not.
    let logged = || {
        let lines = proxy.stdout_lines();
        let lines = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line["service"] == "checkout").map(|line| line["path"].clone()).collect::<Vec<_>>()
    };
    until("the error is logged", SOON, || !logged().is_empty());
    assert_eq!(logged(), ["/pay"]);
    for _ in 0..5 {
        assert_eq!(shop(&proxy, "/recommendations/7", "X-Want: 500\r\n").status(), 500);
    }
    let reply = shop(&proxy, "/recommendations/7", "");
    assert_eq!((reply.status(), reply.text().as_str()), (200, "[]"));
    assert_eq!(reply.head.get("x-graceful-fallback").as_deref(), Some("true"));
}

#[test]
fn the_example_falls_back_to_another_service() {
    let (app, backup) = (obliging(), Origin::named("backup"));
    let proxy = example(&app, &backup, &app);
    for n in 0..20 {
        let want = if n % 5 < 2 { "200" } else { "503" };
        shop(&proxy, "/", &format!("X-Want: {want}\r\n"));
    }
    until("it is open", SOON, || state(&proxy, "checkout") == "open");
    let reply = shop(&proxy, "/", "");
    assert_eq!((reply.text().as_str(), reply.head.get("x-graceful-fallback").as_deref()), ("backup", Some("true")));
    assert_eq!(app.seen().len(), 20);
}

//! Circuit breakers through the binary: they open, let some try, and close; what is learned outlives reloads.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use common::h2peer::{call, request};
use common::h2raw;
use common::origin::{Gate, Next, Seen};
use common::{Conn, Message, Origin, Proxy, SOON, until};
use serde_json::Value;

/// Answers as the request wants it.
fn obliging(gate: &Gate) -> Origin {
    let gate = gate.clone();
    Origin::start(move |Seen { message, .. }, conn| {
        let want = message.head.get("x-want").unwrap_or_default();
        if want == "wait" {
            gate.pass();
        }
        let status = want.parse().unwrap_or(200);
        let reply = format!("HTTP/1.1 {status} As Told\r\nContent-Length: 2\r\n\r\nok");
        if want != "close" && conn.try_write(reply) { Next::Keep } else { Next::Close }
    })
}

fn start(breaker: &str, more: &str, app: &Origin) -> Proxy {
    let config = format!(
        r#"apiVersion: outrigger/v1
admin: {{ address: "{{admin}}" }}
health: {{ address: "{{health}}" }}
runtime: {{ workers: 2 }}
telemetry: {{ accessLog: {{ format: off }} }}
listeners: [{{ name: edge, mode: proxy, address: "{{listen}}" }}]
services:
  app: {{ endpoints: {{ static: ["{{app}}"] }}, circuitBreaker: {{ {breaker} }} }}
routes:
  - {{ name: all, to: app{more} }}
"#
    );
    Proxy::start(&config, &[("app", app.addr())])
}

fn ask(proxy: &Proxy, want: &str) -> Message {
    let mut conn = Conn::connect(proxy.addr());
    conn.write(format!("GET / HTTP/1.1\r\nHost: app.test\r\nX-Want: {want}\r\nConnection: close\r\n\r\n"));
    conn.response("GET")
}

fn statuses(proxy: &Proxy, wants: &[&str]) -> Vec<u16> {
    wants.iter().map(|want| ask(proxy, want).status()).collect()
}

fn breaker(proxy: &Proxy) -> Value {
    proxy.admin_json("/clusters")["app"]["circuitBreaker"].clone()
}

fn state(proxy: &Proxy) -> String {
    breaker(proxy)["state"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn it_opens_at_the_threshold() {
    let app = obliging(&Gate::default());
    let proxy = start("minRequests: 4, failureThreshold: 0.5", "", &app);
    assert_eq!(statuses(&proxy, &["200", "200", "500", "404"]), [200, 200, 500, 404]);
    assert_eq!(state(&proxy), "closed", "one of four");
    assert_eq!(statuses(&proxy, &["503", "500"]), [503, 500]);
    until("it is open", SOON, || state(&proxy) == "open");
    let seen = app.seen().len();
    let refused = ask(&proxy, "200");
    assert_eq!(refused.status(), 503);
    assert_eq!(app.seen().len(), seen, "nothing is sent");
    let after: u64 = refused.head.get("retry-after").and_then(|value| value.parse().ok()).expect("retry-after");
    assert!((1..=30).contains(&after), "{after}");
    let says = refused.head.get("proxy-status").expect("proxy-status");
    assert!(says.contains("details=\"circuit_open of service app\""), "{says}");
    assert!(!refused.head.has("x-graceful-fallback"));
    proxy.await_reason("circuit_open", 503);
    let known = breaker(&proxy);
    assert_eq!((&known["requests"], &known["failures"], &known["share"]), (&6.into(), &3.into(), &0.5.into()));
    assert!(known["opensForMs"].as_u64().is_some_and(|left| left > 0 && left <= 30_000), "{known}");
    assert_eq!((&known["opened"], &known["refused"]), (&1.into(), &1.into()));
    let labels = [("service", "app"), ("route", ""), ("class", "")];
    assert_eq!(proxy.metric("outrigger_circuit_state", &labels) as u64, 2);
    assert_eq!(proxy.metric("outrigger_circuit_transitions_total", &[("service", "app"), ("state", "open")]) as u64, 1);
    assert_eq!(proxy.metric("outrigger_circuit_refused_total", &labels) as u64, 1);
    until("it is logged once", SOON, || proxy.stderr_text().matches("circuit breaker opened").count() == 1);
}

#[test]
fn half_open_it_lets_so_many_try_and_closes() {
    let gate = Gate::default();
    let app = obliging(&gate);
    let proxy = Arc::new(start("consecutiveFailures: 2, openDuration: 3s, halfOpenRequests: 2", "", &app));
    assert_eq!(statuses(&proxy, &["500", "close"]), [500, 502]);
    assert_eq!(ask(&proxy, "200").status(), 503);
    // Ten want to try, and two may.
    let done = Arc::new(AtomicUsize::new(0));
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let (proxy, done) = (proxy.clone(), done.clone());
            thread::spawn(move || {
                until("a trial", SOON, || ask(&proxy, "wait").status() == 200);
                done.fetch_add(1, SeqCst);
            })
        })
        .collect();
    let trials = || app.seen().iter().filter(|seen| seen.message.head.get("x-want").as_deref() == Some("wait")).count();
    until("two trials are under way", SOON, || trials() == 2);
    assert_eq!(state(&proxy), "halfOpen");
    assert_eq!(statuses(&proxy, &["200"; 8]), [503; 8]);
    assert_eq!((trials(), done.load(SeqCst)), (2, 0));
    gate.open();
    waiting.into_iter().for_each(|thread| thread.join().expect("a trial"));
    until("it is closed", SOON, || state(&proxy) == "closed");
    assert_eq!(statuses(&proxy, &["500", "200", "500"]), [500, 200, 500], "it counts anew");
    let transitions =
        |state| proxy.metric("outrigger_circuit_transitions_total", &[("service", "app"), ("state", state)]);
    assert_eq!(["open", "halfOpen", "closed"].map(|state| transitions(state) as u64), [1, 1, 1]);
}

#[test]
fn a_failed_trial_opens_it_again_and_a_client_that_leaves_does_not() {
    let app = obliging(&Gate::default());
    let proxy = start("consecutiveFailures: 1, openDuration: 200ms, halfOpenRequests: 1", "", &app);
    assert_eq!(statuses(&proxy, &["500"]), [500]);
    let trials = || app.seen().iter().filter(|seen| seen.message.head.get("x-want").as_deref() == Some("wait")).count();
    // The one trial hangs until its client has gone, and gives its place to the next.
    until("a trial is under way", SOON, || {
        let mut conn = Conn::connect(proxy.addr());
        conn.write("GET / HTTP/1.1\r\nHost: app.test\r\nX-Want: wait\r\n\r\n");
        let refused = !conn.is_quiet(Duration::from_millis(50));
        conn.reset();
        !refused && trials() > 0
    });
    until("the next may try", SOON, || ask(&proxy, "500").status() == 500);
    assert_eq!(state(&proxy), "open");
    until("it closes", SOON, || ask(&proxy, "200").status() == 200);
    until("it is closed", SOON, || state(&proxy) == "closed");
}

#[test]
fn conditions_say_what_a_failure_is() {
    let app = obliging(&Gate::default());
    let proxy = start("consecutiveFailures: 2, failures: [429, reset]", "", &app);
    assert_eq!(
        statuses(&proxy, &["500", "500", "503", "429", "200", "429", "close"]),
        [500, 500, 503, 429, 200, 429, 502]
    );
    until("it is open", SOON, || state(&proxy) == "open");
}

#[test]
fn a_breaker_of_a_route_is_its_own() {
    let app = obliging(&Gate::default());
    let more = ", match: [{ path: { prefix: /one } }], circuitBreaker: { consecutiveFailures: 1 } }\n  - { name: rest, to: app";
    let proxy = start("mode: off", more, &app);
    let get = |path: &str, want: &str| {
        let mut conn = Conn::connect(proxy.addr());
        conn.write(format!("GET {path} HTTP/1.1\r\nHost: app.test\r\nX-Want: {want}\r\n\r\n"));
        conn.response("GET")
    };
    assert_eq!((get("/two", "500").status(), get("/one", "500").status()), (500, 500));
    let refused = get("/one", "200");
    assert_eq!((refused.status(), get("/two", "200").status()), (503, 200));
    let says = refused.head.get("proxy-status").expect("proxy-status");
    assert!(says.contains("circuit_open of route all"), "{says}");
    let app = &proxy.admin_json("/clusters")["app"];
    assert_eq!(app["routeCircuitBreakers"]["all"]["state"], "open");
    assert_eq!(app["circuitBreaker"], Value::Null, "off is none");
    assert_eq!(proxy.metric("outrigger_circuit_state", &[("route", "all"), ("service", "")]) as u64, 2);
}

#[test]
fn in_shadow_mode_it_tells_and_lets_pass() {
    let app = obliging(&Gate::default());
    let proxy = start("consecutiveFailures: 1, mode: shadow", "", &app);
    assert_eq!(statuses(&proxy, &["500", "500", "200"]), [500, 500, 200]);
    assert_eq!((state(&proxy).as_str(), &breaker(&proxy)["mode"]), ("open", &"shadow".into()));
    proxy.await_metric("outrigger_shadow_total", &[("rule", "circuit_breaker"), ("route", "all")], 2.0);
    let report = proxy.admin_json("/shadow");
    assert_eq!(report["examples"][0]["rule"], "circuit_breaker", "{report}");
    assert_eq!(report["examples"][0]["entry"], "service app", "{report}");
}

#[test]
fn it_outlives_reloads_and_thresholds_bite_at_once() {
    let app = obliging(&Gate::default());
    let proxy = start("minRequests: 4, failureThreshold: 1, openDuration: 1h", "", &app);
    assert_eq!(statuses(&proxy, &["500", "500", "200"]), [500, 500, 200]);
    proxy.reload("failureThreshold: 1,", "failureThreshold: 0.75,");
    assert_eq!(ask(&proxy, "500").status(), 500);
    until("three of four", SOON, || state(&proxy) == "open");
    proxy.reload("name: all, to: app", "name: every, to: app");
    assert_eq!((ask(&proxy, "200").status(), state(&proxy).as_str()), (503, "open"), "nothing of it was changed");
    proxy.reload("openDuration: 1h", "openDuration: 1h, window: 30s");
    assert_eq!(ask(&proxy, "200").status(), 503, "of another window the counts are new, and the state is not");
    proxy.reload("circuitBreaker: {", "circuitBreaker: { mode: off,");
    assert_eq!(ask(&proxy, "200").status(), 200);
    proxy.reload("circuitBreaker: { mode: off,", "circuitBreaker: {");
    assert_eq!((ask(&proxy, "500").status(), state(&proxy).as_str()), (500, "closed"), "what is removed is forgotten");
}

#[test]
fn what_came_to_no_answer_says_nothing_of_a_class() {
    let app = obliging(&Gate::default());
    let terms = "consecutiveFailures: 2, openDuration: 200ms, halfOpenRequests: 2";
    let class = format!("{{ name: k, match: {{ status: 500 }}, circuitBreaker: {{ {terms} }} }}");
    let proxy = start(&format!("mode: off }}, errorClasses: [{class}], connections: {{ max: 100"), "", &app);
    let of_class = || proxy.admin_json("/clusters")["app"]["errorClasses"][0]["circuitBreaker"].clone();
    assert_eq!(statuses(&proxy, &["200", "close", "close"]), [200, 502, 502]);
    assert_eq!(of_class()["requests"], 1, "of answers");
    assert_eq!(statuses(&proxy, &["500", "500"]), [500, 500]);
    until("it is open", SOON, || of_class()["state"] == "open");
    for _ in 0..4 {
        until("one is tried", SOON, || ask(&proxy, "close").status() == 502);
    }
    assert_eq!(of_class()["state"], "halfOpen", "trials that came to nothing give their places back");
    until("answers close it", SOON, || ask(&proxy, "200").status() == 200 && of_class()["state"] == "closed");
}

/// A gRPC service whose status is in its trailers: it is unavailable where the message is not empty.
fn grpc_service() -> h2raw::Server {
    h2raw::Server::start(&[], |mut peer, _| {
        while let Some(frame) = peer.next_within(SOON * 6) {
            if frame.kind == h2raw::DATA && !frame.payload.is_empty() {
                let code = if frame.payload.len() > 5 { "14" } else { "0" };
                peer.headers(frame.stream, &[(":status", "200"), ("content-type", "application/grpc")], false);
                peer.data(frame.stream, b"\0\0\0\0\0", false);
                peer.headers(frame.stream, &[("grpc-status", code)], true);
            }
        }
    })
}

#[test]
fn a_status_in_trailers_counts_and_callers_of_grpc_are_told_in_theirs() {
    let server = grpc_service();
    let config = r#"apiVersion: outrigger/v1
admin: { address: "{admin}" }
health: { address: "{health}" }
listeners: [{ name: edge, mode: proxy, address: "{listen}" }]
services:
  app:
    protocol: http2
    endpoints: { static: ["{app}"] }
    circuitBreaker: { consecutiveFailures: 3, failures: ["grpc:unavailable"] }
    errorClasses: [{ name: gone, match: { grpc: unavailable }, sli: optional }]
routes: [{ name: all, to: app }]
"#;
    let proxy = Proxy::start(config, &[("app", server.addr)]);
    let rpc = |message: &[u8]| {
        let head = request("POST", "/test.Echo/Unary", &[("content-type", "application/grpc"), ("te", "trailers")]);
        call(proxy.addr(), head, message, None).expect("an answer")
    };
    let (fine, fails) = (&b"\0\0\0\0\0"[..], &b"\0\0\0\0\x01x"[..]);
    let status = |reply: &common::h2peer::Whole<http::response::Parts>| {
        let trailers = reply.trailers.as_ref().unwrap_or(&reply.head.headers);
        trailers.get("grpc-status").and_then(|value| value.to_str().ok()).map(str::to_owned)
    };
    for message in [fails, fails, fine, fails, fails, fails] {
        assert_eq!(status(&rpc(message)).as_deref(), Some(if message == fine { "0" } else { "14" }));
    }
    until("it is open", SOON, || state(&proxy) == "open");
    let refused = rpc(fine);
    assert_eq!((status(&refused).as_deref(), refused.head.status.as_u16()), (Some("14"), 200));
    assert!(refused.head.headers.contains_key("retry-after") && refused.trailers.is_none());
    proxy.await_reason("circuit_open", 200);
    assert_eq!(proxy.admin_json("/clusters")["app"]["errorClasses"][0]["answers"], 5);
}

#[test]
fn who_gives_up_when_its_time_is_over_has_met_a_timeout() {
    let server = grpc_service();
    let config = r#"apiVersion: outrigger/v1
admin: { address: "{admin}" }
health: { address: "{health}" }
listeners: [{ name: edge, mode: proxy, address: "{listen}" }]
services:
  app: { protocol: http2, endpoints: { static: ["{app}"] }, circuitBreaker: { consecutiveFailures: 2 } }
routes: [{ name: all, to: app }]
"#;
    let proxy = Proxy::start(config, &[("app", server.addr)]);
    // Two calls of a method that hangs, as long as their client waits.
    let give_up = |timeout: &str, after: u64| {
        let mut client = h2raw::Peer::client(proxy.addr(), &[]);
        let grpc = [("content-type", "application/grpc"), ("te", "trailers"), ("grpc-timeout", timeout)];
        let head = h2raw::request("POST", "/test.Echo/Unary", &grpc);
        assert!([1, 3].iter().all(|stream| client.headers(*stream, &head, true)));
        thread::sleep(Duration::from_millis(after));
        assert!([1, 3].iter().all(|stream| client.rst(*stream, h2raw::CANCEL)));
        client
    };
    let _left = give_up("30S", 300);
    let _hurried = give_up("300m", 290);
    until("four have gone", SOON, || proxy.counted("client_reset") + proxy.counted("request_timeout") >= 4.0);
    assert_eq!((state(&proxy).as_str(), &breaker(&proxy)["requests"]), ("closed", &0.into()));
    let _patient = give_up("1500m", 1400);
    until("it is open", SOON, || state(&proxy) == "open");
}

#[test]
fn connections_that_cannot_be_made_open_that_of_a_tcp_service() {
    let config = r#"apiVersion: outrigger/v1
admin: { address: "{admin}" }
health: { address: "{health}" }
listeners: [{ name: raw, mode: proxy, address: "{listen}" }]
services:
  app:
    protocol: tcp
    endpoints: { static: ["{gone}"] }
    circuitBreaker: { consecutiveFailures: 2, openDuration: 300ms, halfOpenRequests: 1 }
routes: [{ name: all, to: app }]
"#;
    let app = Origin::raw(|mut conn, _| {
        let _ = conn.try_write("hello");
    });
    let gone = common::free_addr();
    let proxy = Proxy::start(config, &[("gone", gone)]);
    let refused = || proxy.metric("outrigger_circuit_refused_total", &[("service", "app")]) as u64;
    until("it is open", SOON, || {
        Conn::connect(proxy.addr()).read_to_end();
        state(&proxy) == "open"
    });
    until("it refuses", SOON, || {
        Conn::connect(proxy.addr()).read_to_end();
        refused() > 0
    });
    proxy.reload(&gone.to_string(), &app.addr().to_string());
    until("it closes", SOON, || Conn::connect(proxy.addr()).read_to_end() == b"hello");
    until("it is closed", SOON, || state(&proxy) == "closed");
}

#[test]
fn explain_says_what_is_in_force_and_how_it_is() {
    let app = obliging(&Gate::default());
    let keys = "consecutiveFailures: 1, failureThreshold: 0.6, fallback: { respond: { status: 200 } }";
    let proxy = start(keys, ", circuitBreaker: { mode: shadow }", &app);
    assert_eq!(ask(&proxy, "500").status(), 500);
    until("it is open", SOON, || state(&proxy) == "open");
    let explained = proxy.cli_json(&["explain", "http://app.test/"]);
    let policy = explained["policy"].as_array().expect("policies").iter();
    let said: Vec<(&str, &str)> = policy
        .filter(|one| one["name"] == "circuitBreaker")
        .filter_map(|one| Some((one["from"].as_str()?, one["value"].as_str()?)))
        .collect();
    assert_eq!(
        said[0],
        ("route", "opens at 0.5 of 20 in 1m, for 30s, then 10 trials (shadow); now closed, 1 of 1 failed")
    );
    let known = "opens at 0.6 of 20 in 1m, or 1 in a row, for 30s, then 10 trials; fallback answers 200; now open for ";
    assert!(said[1].0 == "service" && said[1].1.starts_with(known), "{said:?}");
}

//! Retries: what is tried again, where, how often and when, what is not and why, and what the tries say of themselves.

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use common::h2peer::{H2Origin, call, request};
use common::h2raw::{self, Server};
use common::origin::{Gate, Next};
use common::{Conn, Message, Origin, Proxy, SOON, free_addr, until};
use http::{HeaderName, HeaderValue, Response};

const CONFIG: &str = r#"apiVersion: outrigger/v1
admin: { address: "{admin}" }
health: { address: "{health}" }
runtime: { workers: 1 }
listeners: [{ name: edge, mode: proxy, address: "{listen}" }]
services:
  app: { SERVICE endpoints: { static: ["{a}", "{b}"] }, loadBalancer: { policy: roundRobin } }
routes: [{ name: all, to: app, ROUTE }]
"#;

fn config(service: &str, route: &str, one: bool) -> String {
    let config = CONFIG.replace("ROUTE", route).replace("SERVICE", service);
    if one { config.replace(", \"{b}\"", "") } else { config }
}

/// A proxy with two endpoints behind it, or one.
fn proxy(route: &str, a: SocketAddr, b: SocketAddr) -> Proxy {
    Proxy::start(&config("", route, a == b), &[("a", a), ("b", b)])
}

/// Answers every request with this head and no body.
fn says(head: &str) -> Origin {
    Origin::fixed(format!("HTTP/1.1 {head}\r\nContent-Length: 0\r\n\r\n"))
}

fn ask(proxy: &Proxy, text: &str) -> Message {
    let mut conn = Conn::connect(proxy.addr());
    conn.write(text);
    conn.response(text.split(' ').next().unwrap_or_default())
}

fn get(proxy: &Proxy) -> Message {
    ask(proxy, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
}

/// Tries that came to an origin, by their number.
fn tries(origins: &[&Origin]) -> Vec<String> {
    let seen = origins.iter().flat_map(|origin| origin.seen());
    let mut all: Vec<String> =
        seen.map(|seen| seen.message.head.get("x-outrigger-attempt").unwrap_or_default()).collect();
    all.sort();
    all
}

fn skipped(proxy: &Proxy, why: &str) -> f64 {
    proxy.metric("outrigger_worker_upstream_not_retried_total", &[("reason", why)])
}

fn retried(proxy: &Proxy) -> f64 {
    proxy.metric("outrigger_worker_upstream_retries_total", &[])
}

#[test]
fn another_endpoint_each_time() {
    let (bad, good) = (says("503 Service Unavailable"), Origin::ok());
    let proxy = proxy("retry: { attempts: 1, on: [5xx] }", bad.addr(), good.addr());
    for _ in 0..20 {
        assert_eq!(get(&proxy).status(), 200);
    }
    assert!(bad.seen().len() >= 5, "{}", bad.seen().len());
    assert_eq!(good.seen().len(), 20);
    until("retries are counted", SOON, || retried(&proxy) == bad.seen().len() as f64);
    // What nobody wanted was read, for the sake of the connection.
    assert_eq!(bad.connections(), 1);
    let numbers: Vec<_> = good.seen().iter().filter_map(|seen| seen.message.head.get("x-outrigger-attempt")).collect();
    assert_eq!(numbers.iter().filter(|number| *number == "2").count(), bad.seen().len());
}

#[test]
fn as_often_as_is_allowed_and_the_last_answer_is_passed_on() {
    let a = says("503 Service Unavailable\r\nX-From: a");
    let proxy = proxy("retry: { attempts: 3, on: [{ condition: 5xx, attempts: 2 }, 429] }", a.addr(), a.addr());
    let answer = get(&proxy);
    assert_eq!((answer.status(), answer.head.get("x-from").as_deref()), (503, Some("a")));
    assert_eq!(tries(&[&a]), ["1", "2", "3"]);
    until("why it ended", SOON, || skipped(&proxy, "too_often") == 1.0);
}

#[test]
fn what_is_not_named_is_not_tried_again() {
    let a = says("500 Internal Server Error");
    let proxy = proxy("retry: { attempts: 3, on: [gatewayError, reset] }", a.addr(), a.addr());
    assert_eq!(get(&proxy).status(), 500);
    assert_eq!(a.seen().len(), 1);
    until("why", SOON, || skipped(&proxy, "not_covered") == 1.0);
}

#[test]
fn only_what_makes_no_difference_unless_told() {
    let a = says("503 Service Unavailable");
    let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
    let careful = proxy("retry: { attempts: 1, on: [5xx] }", a.addr(), a.addr());
    assert_eq!(ask(&careful, post).status(), 503);
    assert_eq!(a.seen().len(), 1);
    until("why", SOON, || skipped(&careful, "not_idempotent") == 1.0);
    a.forget();
    let told = proxy("retry: { attempts: 1, on: [5xx], nonIdempotent: true }", a.addr(), a.addr());
    assert_eq!(ask(&told, post).status(), 503);
    let bodies: Vec<_> = a.seen().iter().map(|seen| seen.message.body.clone()).collect();
    assert_eq!(bodies, [b"abc", b"abc"], "the body is sent again");
}

#[test]
fn what_was_not_sent_is_always_tried_again() {
    let good = Origin::echo();
    let proxy = proxy("retry: { attempts: 1, on: [connectFailure], bufferLimit: \"0\" }", free_addr(), good.addr());
    for _ in 0..6 {
        // Without a buffer, for the body has not left.
        let answer = ask(&proxy, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
        assert_eq!((answer.status(), answer.text().as_str()), (200, "hello"));
    }
    assert_eq!(good.seen().len(), 6);
}

#[test]
fn a_body_beyond_the_buffer_is_streamed_and_not_retried() {
    let a = says("503 Service Unavailable");
    let proxy = proxy("retry: { attempts: 1, on: [5xx], bufferLimit: 1Ki, nonIdempotent: true }", a.addr(), a.addr());
    for (size, chunked) in [(1025, false), (1025, true), (70_000, true)] {
        a.forget();
        let body = "x".repeat(size);
        let text = match chunked {
            false => format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n{body}"),
            true => format!(
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{size:x}\r\n{body}\r\n0\r\n\r\n"
            ),
        };
        assert_eq!(ask(&proxy, &text).status(), 503);
        assert_eq!(a.seen().iter().map(|seen| seen.message.body.len()).collect::<Vec<_>>(), [size]);
    }
    until("why", SOON, || skipped(&proxy, "body_gone") == 3.0);
    a.forget();
    let exact = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1024\r\n\r\n{}", "y".repeat(1024));
    assert_eq!(ask(&proxy, &exact).status(), 503);
    assert_eq!(a.seen().iter().map(|seen| seen.message.body.len()).collect::<Vec<_>>(), [1024, 1024]);
}

#[test]
fn what_breaks_is_tried_again() {
    let (bad, good) = (Origin::start(|_, _| Next::Close), Origin::ok());
    let proxy = proxy("retry: { attempts: 1, on: [reset] }", bad.addr(), good.addr());
    for _ in 0..6 {
        assert_eq!(get(&proxy).status(), 200);
    }
    assert!(!bad.seen().is_empty());
}

#[test]
fn each_try_has_its_time() {
    let gate = Gate::default();
    let (slow, good) = (Origin::gated("slow", &gate), Origin::named("good"));
    let route = "timeout: 5s, retry: { attempts: 1, on: [timeout], perTryTimeout: 100ms }";
    let both = proxy(route, slow.addr(), good.addr());
    for _ in 0..4 {
        let answer = ask(&both, "GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!((answer.status(), answer.text().as_str()), (200, "good"));
    }
    let alone = proxy(route, slow.addr(), slow.addr());
    let answer = ask(&alone, "GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(answer.status(), 504);
    assert!(answer.head.get("proxy-status").is_some_and(|said| said.contains("try_timeout")), "{:?}", answer.head);
    gate.open();
}

#[test]
fn a_service_may_ask_for_time_or_to_be_left_alone() {
    let a = says("503 Service Unavailable\r\nRetry-After: 1");
    let route = "timeout: 10s, retry: { attempts: 1, on: [5xx] }";
    let asks = proxy(route, a.addr(), a.addr());
    let begun = Instant::now();
    assert_eq!(get(&asks).status(), 503);
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(a.seen().len(), 2);
    for (head, timeout, why) in [
        ("503 Later\r\nRetry-After: 60", "10s", "pushback"),
        ("503 Never\r\ngrpc-retry-pushback-ms: -1", "10s", "pushback"),
        ("503 Soon\r\nRetry-After: 2", "1s", "out_of_time"),
    ] {
        let b = says(head);
        let asks = proxy(&route.replace("10s", timeout), b.addr(), b.addr());
        let begun = Instant::now();
        assert_eq!(get(&asks).status(), 503);
        assert_eq!(b.seen().len(), 1, "{head}");
        assert!(begun.elapsed() < Duration::from_millis(900), "at once");
        until(why, SOON, || skipped(&asks, why) == 1.0);
    }
}

/// An answer that has begun is not begun again, and that is counted.
#[test]
fn what_breaks_in_the_middle_is_not_tried_again() {
    let cut = Origin::raw(|mut conn, _| {
        if conn.request().is_some() {
            conn.try_write("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf");
        }
    });
    let proxy = proxy("retry: { attempts: 3, on: [reset, 5xx] }", cut.addr(), cut.addr());
    let mut conn = Conn::connect(proxy.addr());
    conn.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(conn.head().status(), 200);
    conn.read_to_end();
    until("why", SOON, || skipped(&proxy, "answer_begun") == 1.0);
    assert_eq!(cut.seen().len() + cut.connections(), 1);
}

/// A date says it as well (RFC 9110, section 10.2.3).
#[test]
fn a_date_to_come_back_at() {
    let a = says("503 Never\r\nRetry-After: Fri, 31 Dec 2100 23:59:59 GMT");
    let asks = proxy("timeout: 10s, retry: { attempts: 1, on: [5xx] }", a.addr(), a.addr());
    assert_eq!((get(&asks).status(), a.seen().len()), (503, 1));
    until("why", SOON, || skipped(&asks, "pushback") == 1.0);
    let b = says("503 Soon\r\nRetry-After: Sun, 06 Nov 1994 08:49:37 GMT");
    let asks = proxy("timeout: 10s, retry: { attempts: 1, on: [5xx] }", b.addr(), b.addr());
    assert_eq!((get(&asks).status(), b.seen().len()), (503, 2), "it is past");
}

/// Streams that are refused are the route's to decide about, where it does; without a word they are tried once more.
#[test]
fn refused_streams_are_not_multiplied() {
    let tries = Arc::new(AtomicUsize::new(0));
    let count = tries.clone();
    let origin = Server::start(&[], move |mut peer, _| {
        while let Some(frame) = peer.next() {
            if frame.kind == h2raw::HEADERS {
                count.fetch_add(1, SeqCst);
                peer.rst(frame.stream, h2raw::REFUSED_STREAM);
            }
        }
    });
    for (retry, expected) in [
        ("maxBody: 1Ki", 2),
        ("retry: { attempts: 3, on: [{ condition: refusedStream, attempts: 0 }] }", 1),
        ("retry: { attempts: 2, on: [refusedStream], backoff: { base: 1ms, max: 1ms } }", 3),
        ("retry: { attempts: 2, on: [\"404\"] }", 2),
    ] {
        let proxy = Proxy::start(&config("protocol: http2,", retry, true), &[("a", origin.addr), ("b", origin.addr)]);
        tries.store(0, SeqCst);
        assert_eq!(get(&proxy).status(), 502, "{retry}");
        assert_eq!(tries.load(SeqCst), expected, "{retry}");
    }
}

/// What is left is what is left when the request goes out, however long it has waited for a connection.
#[test]
fn time_in_the_queue_is_no_longer_left() {
    let gate = Gate::default();
    let a = Origin::gated("a", &gate);
    let proxy =
        Proxy::start(&config("connections: { max: 1 },", "timeout: 9s", true), &[("a", a.addr()), ("b", a.addr())]);
    let first = Conn::connect(proxy.addr());
    let mut conns = [first, Conn::connect(proxy.addr())];
    conns[0].write("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    until("it is under way", SOON, || a.seen().len() == 1);
    conns[1].write("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(conns[1].is_quiet(Duration::from_millis(300)));
    gate.open();
    conns.iter_mut().for_each(|conn| assert_eq!(conn.response("GET").status(), 200));
    let left: u64 = a.last().head.get("x-outrigger-timeout-ms").expect("it is told").parse().expect("a number");
    assert!(left <= 8700, "{left}");
}

/// The time that a proxy before us tells of may be for the head alone: a stream goes on.
#[test]
fn a_stream_outlives_the_time_for_its_head() {
    let origin = Origin::start(|_, conn| {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
        let sent = conn.try_write(head);
        std::thread::sleep(Duration::from_millis(600));
        if sent && conn.try_write("3\r\na\n\n\r\n0\r\n\r\n") { Next::Keep } else { Next::Close }
    });
    let proxy = proxy("maxBody: 1Ki", origin.addr(), origin.addr());
    let answer = ask(&proxy, "GET / HTTP/1.1\r\nHost: a\r\nx-outrigger-timeout-ms: 400\r\n\r\n");
    assert_eq!((answer.status(), answer.text().as_str()), (200, "a\n\n"));
}

/// Of why it was not tried in another way nothing is said once it was tried, and went well.
#[test]
fn what_went_well_in_the_end_is_not_explained() {
    let bad = Origin::raw(|mut conn, _| drop(conn.request()));
    let good = Origin::named("good");
    let proxy = proxy("retry: { attempts: 1, on: [reset, connectFailure] }", bad.addr(), good.addr());
    for id in ["one", "two"] {
        let answer = ask(&proxy, &format!("GET / HTTP/1.1\r\nHost: a\r\nx-request-id: {id}\r\n\r\n"));
        assert_eq!(answer.text(), "good");
        let told = common::eventually("it is known", SOON, || {
            let reply = proxy.admin("GET", &format!("/why/{id}"));
            (reply.status() == 200).then(|| reply.text())
        });
        assert!(!told.contains("notAgain"), "{told}");
    }
}

/// However many fail, retries stay within their share; what is counted survives a reload.
#[test]
fn retries_have_a_budget() {
    let a = says("503 Service Unavailable");
    let route =
        "retry: { attempts: 3, on: [5xx], backoff: { base: 1ms, max: 1ms }, budget: { percent: 20, minPerSecond: 0 } }";
    let proxy = proxy(route, a.addr(), a.addr());
    let mut conn = Conn::connect(proxy.addr());
    let mut ask = |count: usize| {
        for _ in 0..count {
            conn.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(conn.response("GET").status(), 503);
        }
    };
    ask(100);
    assert!(a.seen().len() <= 120, "{} tries of 100 requests", a.seen().len());
    assert!(a.seen().len() >= 110, "{} tries of 100 requests", a.seen().len());
    until("why", SOON, || skipped(&proxy, "budget") >= 80.0);
    // A budget that began anew would allow none of the first four, and then one in five again.
    let before = a.seen().len();
    proxy.reload("percent: 20", "percent: 40");
    ask(1);
    assert!(a.seen().len() > before + 1, "the hundred requests still count");
}

#[test]
fn two_layers_do_not_multiply() {
    let a = says("503 Service Unavailable");
    let proxy = proxy("retry: { attempts: 2, on: [5xx, connectFailure] }", a.addr(), a.addr());
    let answer = ask(&proxy, "GET / HTTP/1.1\r\nHost: a\r\nx-outrigger-attempt: 1\r\n\r\n");
    assert_eq!((answer.status(), a.seen().len()), (503, 1));
    until("why", SOON, || skipped(&proxy, "tried_before_us") == 1.0);
}

#[test]
fn what_is_left_of_the_time_is_told() {
    let gate = Gate::default();
    let a = Origin::gated("a", &gate);
    let told =
        |a: &Origin| a.last().head.get("x-outrigger-timeout-ms").map(|text| text.parse::<u64>().expect("a number"));
    let own = proxy("timeout: 3s", a.addr(), a.addr());
    assert_eq!(get(&own).status(), 200);
    assert!(told(&a).is_some_and(|left| (1..=3000).contains(&left)), "{:?}", told(&a));
    let none = proxy("maxBody: 1Ki", a.addr(), a.addr());
    assert_eq!(get(&none).status(), 200);
    assert_eq!(told(&a), None, "the default is nobody's business");
    // What came is lowered, never raised, and binds us too.
    let lower = "GET /slow HTTP/1.1\r\nHost: a\r\nx-outrigger-timeout-ms: 300\r\n\r\n";
    let begun = Instant::now();
    assert_eq!(ask(&own, lower).status(), 504);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert!(told(&a).is_some_and(|left| (1..=300).contains(&left)), "{:?}", told(&a));
    gate.open();
    assert_eq!(ask(&own, &lower.replace("300", "30000").replace("/slow", "/")).status(), 200);
    assert!(told(&a).is_some_and(|left| left <= 3000), "{:?}", told(&a));
}

/// What the client has given up is given up upstream.
#[test]
fn work_that_nobody_waits_for_is_cancelled() {
    let gate = Gate::default();
    let a = Origin::raw(move |mut conn, _| {
        let _ = conn.request();
        gate.pass();
    });
    let text = config("", "retry: { attempts: 5, on: [5xx, reset] }", true);
    let proxy = Proxy::start(&text, &[("a", a.addr())]);
    let mut conn = Conn::connect(proxy.addr());
    conn.write("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    until("it is on its way", SOON, || proxy.metric("outrigger_worker_upstream_connections_active", &[]) == 1.0);
    conn.reset();
    until("its connection is closed", SOON, || {
        proxy.metric("outrigger_worker_upstream_connections_active", &[]) == 0.0
    });
    proxy.await_reason("client_reset", 499);
    assert_eq!(a.connections(), 1, "and it is not tried again");
}

/// gRPC status codes, where the head is all of the answer, and where they come in trailers of their own. The code is
/// the last part of the path, until the third try.
#[test]
fn codes_of_grpc() {
    let origin = H2Origin::start(|seen| {
        let path = seen.head.uri.path();
        let last = seen.head.headers.get("x-outrigger-attempt").is_some_and(|number| number == "3");
        let code = if last { "0" } else { path.rsplit('/').next().unwrap_or_default() };
        let head = Response::builder().header("content-type", "application/grpc");
        if path.starts_with("/Only/") {
            return (head.header("grpc-status", code).body(()).expect("a head"), Vec::new(), None);
        }
        let code = HeaderValue::from_str(code).expect("a code");
        let trailers = [(HeaderName::from_static("grpc-status"), code)].into_iter().collect();
        (head.body(()).expect("a head"), Vec::new(), Some(trailers))
    });
    let retry = "retry: { attempts: 3, on: [{ condition: \"grpc:DEADLINE_EXCEEDED\", attempts: 0 }, \"grpc:unavailable\"], \
                 backoff: { base: 1ms, max: 1ms } }";
    let config = config("protocol: http2,", retry, true);
    let proxy = Proxy::start(&config, &[("a", origin.addr), ("b", origin.addr)]);
    let expected =
        [("/Only/14", "0", 3), ("/Only/4", "4", 1), ("/Late/14", "0", 3), ("/Late/4", "4", 1), ("/Only/5", "5", 1)];
    for (path, expected, tries) in expected {
        let before = origin.seen().len();
        let head = request("POST", path, &[("content-type", "application/grpc"), ("te", "trailers")]);
        let reply = call(proxy.addr(), head, b"\0\0\0\0\0", None).expect("an answer");
        let late = || reply.trailers.as_ref().and_then(|trailers| trailers.get("grpc-status"));
        let status = reply.head.headers.get("grpc-status").or_else(late);
        assert_eq!(status.and_then(|value| value.to_str().ok()), Some(expected), "{path}");
        assert_eq!(origin.seen().len() - before, tries, "{path}");
    }
    until("why", SOON, || skipped(&proxy, "never") == 2.0);
}

/// The rest of `grpc-timeout` is sent on, each time less.
#[test]
fn the_deadline_of_a_call_is_sent_on() {
    let origin = H2Origin::start(|_| {
        let head = Response::builder().header("content-type", "application/grpc").header("grpc-status", "14");
        (head.body(()).expect("a head"), Vec::new(), None)
    });
    let retry = "retry: { attempts: 9, on: [\"grpc:unavailable\"], backoff: { base: 400ms, max: 400ms } }";
    let config = config("protocol: http2,", retry, true);
    let proxy = Proxy::start(&config, &[("a", origin.addr), ("b", origin.addr)]);
    let head = request("POST", "/a.B/C", &[("content-type", "application/grpc"), ("grpc-timeout", "500m")]);
    let begun = Instant::now();
    let reply = call(proxy.addr(), head, b"\0\0\0\0\0", None).expect("an answer");
    assert!(reply.head.headers.get("grpc-status").is_some_and(|code| code == "14" || code == "4"));
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    let seen = origin.seen();
    let left = seen.iter().map(|seen| seen.head.headers["grpc-timeout"].to_str().expect("text").to_owned());
    let left: Vec<u32> =
        left.map(|text| text.strip_suffix('m').and_then(|text| text.parse().ok()).expect("ms")).collect();
    assert!(left.is_sorted_by(|one, other| one >= other) && left.iter().all(|left| *left <= 500), "{left:?}");
}

#[test]
fn explain_and_why_tell_of_them() {
    let (bad, good) = (says("503 Service Unavailable"), Origin::ok());
    let proxy = proxy("retry: { attempts: 2, on: [5xx, connectFailure], perTryTimeout: 1s }", bad.addr(), good.addr());
    let said = proxy.cli(&["explain", "GET", "http://a/"]);
    assert!(said.out.contains("attempts 2 on 5xx, connectFailure, 1000 ms a try; budget 20 % + 10/s"), "{said:?}");
    let told = (0..2).map(|_| ask(&proxy, "GET / HTTP/1.1\r\nHost: a\r\nx-request-id: one\r\n\r\n").status());
    assert!(told.into_iter().all(|status| status == 200));
    until("both tries are told", SOON, || {
        let said = proxy.cli(&["why", "one"]);
        said.out.contains(&bad.addr().to_string()) && said.out.contains(&good.addr().to_string())
    });
}

/// As many at a time as `limits.maxRetries` allows.
#[test]
fn no_more_at_a_time_than_the_service_may_have() {
    let gate = Gate::default();
    let held = gate.clone();
    let a = Origin::start(move |seen, conn| {
        if seen.message.head.get("x-outrigger-attempt").as_deref() == Some("2") {
            held.pass();
        }
        if conn.try_write("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n") { Next::Keep } else { Next::Close }
    });
    let text = config("limits: { maxRetries: 1 },", "retry: { attempts: 1, on: [5xx] }", true);
    let proxy = Proxy::start(&text, &[("a", a.addr())]);
    let mut first = Conn::connect(proxy.addr());
    first.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    until("one is tried again", SOON, || tries(&[&a]) == ["1", "2"]);
    assert_eq!(get(&proxy).status(), 503);
    until("why", SOON, || skipped(&proxy, "limit") == 1.0);
    gate.open();
    assert_eq!(first.response("GET").status(), 503);
    assert_eq!(tries(&[&a]), ["1", "1", "2"]);
}

/// Its own place among the retries is no other's.
#[test]
fn one_request_is_counted_once() {
    let a = says("503 Service Unavailable");
    let text = config("limits: { maxRetries: 1 },", "retry: { attempts: 3, on: [5xx] }", true);
    let proxy = Proxy::start(&text, &[("a", a.addr())]);
    assert_eq!(get(&proxy).status(), 503);
    assert_eq!(tries(&[&a]), ["1", "2", "3", "4"]);
}

/// A code of gRPC is for calls: what it would mean for another request is no leave to send that twice.
#[test]
fn codes_of_grpc_are_for_calls() {
    let a = Origin::start(|_, _| Next::Close);
    let proxy = proxy("retry: { attempts: 2, on: [\"grpc:unavailable\"] }", a.addr(), a.addr());
    assert_eq!(ask(&proxy, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi").status(), 502);
    assert_eq!(a.seen().len(), 1);
}

/// A circuit breaker that opens by the first try is not asked in vain.
#[test]
fn not_through_a_breaker_that_has_opened() {
    let a = says("503 Service Unavailable");
    let text = config("circuitBreaker: { consecutiveFailures: 1 },", "retry: { attempts: 3, on: [5xx] }", true);
    let proxy = Proxy::start(&text, &[("a", a.addr())]);
    assert_eq!(get(&proxy).status(), 503);
    assert_eq!(a.seen().len(), 1);
    until("why", SOON, || skipped(&proxy, "circuit_open") == 1.0);
}

/// Whoever is in a hurry learns nothing, and neither do breakers.
#[test]
fn an_impatient_client_is_no_failure_of_the_service() {
    let gate = Gate::default();
    let a = Origin::gated("a", &gate);
    let text = config("circuitBreaker: { consecutiveFailures: 1 },", "maxBody: 1Ki", true);
    let proxy = Proxy::start(&text, &[("a", a.addr())]);
    let hurry = |millis: u32| format!("GET /slow HTTP/1.1\r\nHost: a\r\nx-outrigger-timeout-ms: {millis}\r\n\r\n");
    assert_eq!(ask(&proxy, &hurry(0)).status(), 504);
    assert_eq!(a.seen().len(), 0, "there was no time for it");
    assert_eq!(ask(&proxy, &hurry(50)).status(), 504);
    assert_eq!(a.seen().len(), 1);
    assert_eq!(get(&proxy).status(), 200, "the breaker is closed");
    gate.open();
}

/// A wait of ours is no idleness of anybody.
#[test]
fn waits_are_longer_than_pauses_may_be() {
    let a = says("503 Service Unavailable\r\nRetry-After: 2");
    let text = config("", "timeout: 20s, retry: { attempts: 1, on: [5xx] }", true);
    let text = text.replace("listeners:", "defaults: { streamIdleTimeout: 1s }\nlisteners:");
    let proxy = Proxy::start(&text, &[("a", a.addr())]);
    assert_eq!(get(&proxy).status(), 503);
    assert_eq!(a.seen().len(), 2);
}

/// The example does what it says.
#[test]
fn the_example() {
    let (bad, good) = (says("503 Service Unavailable"), Origin::named("good"));
    let text = include_str!("../config/examples/retries.yaml");
    let text = text.replace("127.0.0.1:15000\" }", "{admin}\" }\nhealth: { address: \"{health}\" }");
    let text =
        text.replace("0.0.0.0:8080", "{listen}").replace("127.0.0.1:9081", "{a}").replace("127.0.0.1:9082", "{b}");
    let proxy = Proxy::start(&text, &[("a", bad.addr()), ("b", good.addr())]);
    for _ in 0..10 {
        let answer = get(&proxy);
        assert_eq!((answer.status(), answer.text().as_str()), (200, "good"));
    }
    until("retries are counted", SOON, || retried(&proxy) == bad.seen().len() as f64);
    let said = proxy.cli(&["explain", "GET", "http://a/search"]);
    assert!(said.out.contains("after p95, 1 more"), "{said:?}");
}

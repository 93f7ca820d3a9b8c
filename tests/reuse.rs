//! Reused upstream connections that end at the wrong moment: row 5, row 17, and the promise that an idle
//! upstream that closes never shows to a client.

mod common;

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::time::{Duration, Instant};

use common::nginx::nginx;
use common::origin::Next;
use common::{Conn, Origin, Proxy, SOON, Setup, get, until};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

const CLIENTS: usize = 100;
const BURSTS: usize = 20;
const BURST: usize = 50;

fn exchange(conn: &mut Conn) -> Result<(), String> {
    conn.write("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
    let reply = conn.response("GET");
    if reply.status() == 200 && reply.body == b"ok" { Ok(()) } else { Err(format!("{:?}", reply.head)) }
}

/// Sends its bursts; between two of them everybody pauses, for 0.9 to 1.1 s. Returns what went wrong.
fn client(addr: SocketAddr, number: usize, together: &Barrier) -> Vec<String> {
    let mut conn = Conn::connect(addr);
    let mut failures = Vec::new();
    for burst in 0..BURSTS {
        for _ in 0..BURST {
            // One that fails must not keep the others waiting at the barrier.
            let result = catch_unwind(AssertUnwindSafe(|| exchange(&mut conn)));
            if let Err(failure) = result.unwrap_or_else(|_| Err("closed, or no answer in time".to_owned())) {
                failures.push(failure);
                conn = Conn::connect(addr);
            }
        }
        if burst + 1 < BURSTS {
            together.wait();
            std::thread::sleep(Duration::from_millis(900 + (burst as u64 * 53) % 190 + number as u64 % 10));
        }
    }
    failures
}

/// 100,000 requests. The clients pause together, so that all pooled connections are idle together, and are asked
/// for all at once just when nginx closes them: some 2,000 chances to meet the close.
#[test]
fn an_idle_upstream_that_closes_never_shows() {
    let nginx = nginx(concat!(
        "keepalive_timeout 1s; keepalive_requests 1000000;\n",
        "server { listen {addr} backlog=1024; location / { return 200 ok; } }"
    ));
    let proxy = Setup::default().start(nginx.addr());
    let (addr, together) = (proxy.addr(), Arc::new(Barrier::new(CLIENTS)));
    let begin = Instant::now();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let together = Arc::clone(&together);
            std::thread::spawn(move || client(addr, number, &together))
        })
        .collect();
    let failures: Vec<String> = clients.into_iter().flat_map(|c| c.join().expect("a client")).collect();
    assert!(failures.is_empty(), "{} failed, the first as {}", failures.len(), failures[0]);
    let total = (CLIENTS * BURSTS * BURST) as f64;
    proxy.await_metric("http_requests_total", &[("status_code", "200")], total);
    assert_eq!(proxy.metric("http_requests_total", &[]), total, "all of them 200");
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(60), "{took:?}");
}

/// An origin that serves one request per connection well, and closes the connection upon the second, having
/// read it. Counts the requests that it read by method.
fn closes_on_the_second() -> (Origin, Arc<AtomicUsize>) {
    let seconds = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seconds);
    let last = Mutex::new(usize::MAX);
    let origin = Origin::start(move |seen, conn| {
        let mut last = last.lock().expect("last");
        if *last == seen.connection {
            count.fetch_add(1, Ordering::SeqCst);
            return Next::Close;
        }
        *last = seen.connection;
        conn.write(OK);
        Next::Keep
    });
    (origin, seconds)
}

/// Row 17: a POST that the origin may have acted upon is not sent again.
#[test]
fn fin_races_post() {
    let (origin, seconds) = closes_on_the_second();
    let proxy = Proxy::front(origin.addr());
    proxy.assert_serves();
    let mut conn = Conn::connect(proxy.addr());
    conn.write("POST /pay HTTP/1.1\r\nHost: app.test\r\nContent-Length: 3\r\n\r\npay");
    assert_eq!(conn.response("POST").status(), 502);
    proxy.await_reason("upstream_reset", 502);
    let posts = origin.seen().iter().filter(|seen| seen.message.head.start_line().starts_with("POST")).count();
    assert_eq!((posts, seconds.load(Ordering::SeqCst)), (1, 1), "seen once");
    proxy.assert_serves();
}

#[test]
fn fin_races_get() {
    for method in ["GET", "HEAD", "OPTIONS"] {
        let (origin, seconds) = closes_on_the_second();
        let proxy = Proxy::front(origin.addr());
        proxy.assert_serves();
        let mut conn = Conn::connect(proxy.addr());
        conn.write(format!("{method} /read HTTP/1.1\r\nHost: app.test\r\n\r\n"));
        assert_eq!(conn.response("HEAD").status(), 200, "{method}");
        let reads = origin.seen().iter().filter(|seen| seen.message.head.start_line().contains("/read")).count();
        assert_eq!((reads, seconds.load(Ordering::SeqCst)), (2, 1), "{method}: sent again, once");
        assert_eq!(proxy.metric("http_requests_total", &[]), 2.0, "for the client it is one request");
    }
}

/// A connection that is new has no excuse: what fails on it is not tried again.
#[test]
fn a_fresh_connection_that_closes_is_a_failure() {
    let origin = Origin::start(|_, _| Next::Close);
    let proxy = Proxy::front(origin.addr());
    assert_eq!(get(proxy.addr(), "/").status(), 502);
    assert_eq!(origin.seen().len(), 1);
    proxy.await_reason("upstream_reset", 502);
}

/// Row 5: bytes on an idle connection answer nothing; the connection is discarded.
#[test]
fn late_bytes() {
    let (go, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let origin = Origin::raw(move |mut conn, number| {
        while conn.request().is_some() {
            if !conn.try_write(OK) {
                return;
            }
            if number == 0 {
                let _ = gate.lock().expect("gate").recv();
                conn.try_write("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil");
            }
        }
    });
    let proxy = Proxy::front(origin.addr());
    let mut conn = Conn::connect(proxy.addr());
    conn.write("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
    assert_eq!(conn.response("GET").text(), "ok");
    go.send(()).expect("the origin waits");
    until("the connection is discarded", SOON, || origin.open() == 0);
    conn.write("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
    assert_eq!(conn.response("GET").text(), "ok", "and not what came unasked");
    assert_eq!(origin.connections(), 2);
}

/// Rules of the pool that a user has set.
#[test]
fn connections_end_by_age_and_by_count() {
    let origin = Origin::ok();
    let service = ", connections: { maxRequests: 3, idleTimeout: 300ms }";
    let proxy = Setup { service, workers: 1, ..Setup::default() }.start(origin.addr());
    for _ in 0..7 {
        proxy.assert_serves();
    }
    assert_eq!(origin.connections(), 3, "three requests on each");
    until("the idle one is closed", SOON, || origin.open() == 0);
}

#[test]
fn an_answer_that_says_close_is_the_last_on_its_connection() {
    let origin = Origin::fixed("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
    let proxy = Proxy::front(origin.addr());
    let mut conn = Conn::connect(proxy.addr());
    for _ in 0..3 {
        conn.write("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
        let reply = conn.response("GET");
        assert_eq!(reply.text(), "ok");
        assert!(!reply.head.has("connection"), "that was between the origin and us: {:?}", reply.head);
    }
    assert_eq!(origin.connections(), 3);
    until("all are closed", SOON, || origin.open() == 0);
}

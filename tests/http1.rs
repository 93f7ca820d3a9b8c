//! HTTP/1 on both sides, as RFC 9110 and 9112 have it: bytes in, bytes at the origin, bytes back.

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use common::origin::Next;
use common::{Conn, Origin, Proxy, SOON, Setup, send, show, until};

const GET: &str = "GET / HTTP/1.1\r\nHost: app.test\r\n\r\n";

#[test]
fn keep_alive() {
    let origin = Origin::ok();
    let proxy = Proxy::front(origin.addr());
    // Head of the request, and whether the connection outlives it.
    let table = [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", true),
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", false),
        ("GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n", true),
        ("GET / HTTP/1.0\r\nHost: a\r\n\r\n", false),
    ];
    for (request, kept) in table {
        let mut conn = Conn::connect(proxy.addr());
        conn.write(request);
        let first = conn.response("GET");
        assert_eq!((first.status(), first.text().as_str()), (200, "ok"), "{request}");
        if kept {
            if request.contains("HTTP/1.0") {
                let said = first.head.get("connection").unwrap_or_default().to_ascii_lowercase();
                assert_eq!(said, "keep-alive", "a client of 1.0 has to be told");
            }
            conn.write(request);
            assert_eq!(conn.response("GET").text(), "ok", "second on one connection: {request}");
        } else {
            assert_eq!(show(&conn.read_to_end()), "", "closed after {request}");
        }
    }
}

#[test]
fn upstream_connections_are_reused_across_clients() {
    let origin = Origin::ok();
    let proxy = Proxy::front(origin.addr());
    for _ in 0..20 {
        proxy.assert_serves();
    }
    assert_eq!(origin.connections(), 1);
}

#[test]
fn bodiless_answers_are_framed_right() {
    let origin = Origin::start(|seen, conn| {
        let line = seen.message.head.start_line();
        let reply = match line.split(' ').nth(1).unwrap_or_default() {
            "/head" => "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n",
            "/204" => "HTTP/1.1 204 No Content\r\nX-Mark: 204\r\n\r\n",
            "/304" => "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 99\r\n\r\n",
            "/empty" => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            _ => "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        };
        conn.write(reply);
        Next::Keep
    });
    let proxy = Proxy::front(origin.addr());
    let mut conn = Conn::connect(proxy.addr());
    let mut ask = |method: &str, path: &str| {
        conn.write(format!("{method} {path} HTTP/1.1\r\nHost: app.test\r\n\r\n"));
        conn.response(method)
    };
    let head = ask("HEAD", "/head");
    assert_eq!((head.status(), head.head.get("content-length").as_deref()), (200, Some("1234")));
    // Were a byte too many or too few on the wire, the next answer would not parse.
    assert_eq!(ask("GET", "/").text(), "ok");
    let none = ask("GET", "/204");
    assert_eq!(none.status(), 204);
    assert!(!none.head.has("content-length") && !none.head.has("transfer-encoding"), "RFC 9110, 8.6: {:?}", none.head);
    assert_eq!(ask("GET", "/").text(), "ok");
    let unmodified = ask("GET", "/304");
    assert_eq!((unmodified.status(), unmodified.head.get("etag").as_deref()), (304, Some("\"x\"")));
    assert!(!unmodified.head.has("transfer-encoding"));
    assert_eq!(ask("GET", "/").text(), "ok");
    assert_eq!(ask("GET", "/empty").head.get("content-length").as_deref(), Some("0"));
    assert_eq!(ask("GET", "/").text(), "ok");
    assert_eq!(origin.connections(), 1, "the upstream connection is as sound as the client's");
}

#[test]
fn http10_client_gets_no_chunks() {
    let origin =
        Origin::fixed("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n");
    let proxy = Proxy::front(origin.addr());
    for keep in ["", "Connection: keep-alive\r\n"] {
        let mut conn = Conn::connect(proxy.addr());
        conn.write(format!("GET / HTTP/1.0\r\nHost: app.test\r\n{keep}\r\n"));
        let reply = conn.response("GET");
        assert!(!reply.head.has("transfer-encoding"), "{:?}", reply.head);
        assert_eq!(reply.text(), "hello world", "up to the close");
    }
    let request = origin.last().head;
    assert!(request.start_line().ends_with("HTTP/1.1"), "we speak our own version: {request:?}");
}

#[test]
fn answers_of_every_framing_arrive_whole() {
    let table = [
        "HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello world",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n005;a=b\r\nhello\r\n006\r\n world\r\n00\r\n\r\n",
        "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello world",
        "HTTP/1.0 200 OK\r\n\r\nhello world",
    ];
    for reply in table {
        let origin = Origin::once(reply);
        let proxy = Proxy::front(origin.addr());
        let mut conn = Conn::connect(proxy.addr());
        for _ in 0..2 {
            conn.write(GET);
            let got = conn.response("GET");
            assert_eq!((got.status(), got.text().as_str(), got.whole), (200, "hello world", true), "{reply}");
            let (length, chunked) = (got.head.has("content-length"), got.head.has("transfer-encoding"));
            assert!(length != chunked, "one framing, so that the connection lives on: {:?}", got.head);
        }
    }
}

#[test]
fn uploads_of_every_framing_arrive_whole() {
    let origin = Origin::echo();
    let proxy = Proxy::front(origin.addr());
    let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n";
    let sized = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 7\r\n\r\nabcdefg";
    for (request, bytewise) in [(chunked, false), (sized, false), (chunked, true), (sized, true)] {
        let mut conn = Conn::connect(proxy.addr());
        if bytewise {
            conn.write_bytewise(request)
        } else {
            conn.write(request)
        }
        assert_eq!(conn.response("POST").text(), "abcdefg", "{request}");
        let seen = origin.last();
        assert_eq!(seen.body, b"abcdefg");
        let (length, chunked) = (seen.head.all("content-length"), seen.head.all("transfer-encoding"));
        assert_eq!(length.len() + chunked.len(), 1, "exactly one framing: {:?}", seen.head);
    }
    // A method that usually has a body, without one; and one that usually has none, with one.
    for (request, body) in [
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", ""),
        ("DELETE / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi", "hi"),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi", "hi"),
        ("PURGE / HTTP/1.1\r\nHost: a\r\n\r\n", ""),
    ] {
        let mut conn = Conn::connect(proxy.addr());
        conn.write(request);
        assert_eq!(conn.response("POST").text(), body, "{request}");
    }
}

#[test]
fn pipelining_answers_in_order() {
    let origin = Origin::start(|seen, conn| {
        let path = seen.message.head.start_line();
        conn.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}", path.len()));
        Next::Keep
    });
    let proxy = Proxy::front(origin.addr());
    let one = |n: u32| match n % 3 {
        1 => format!("POST /{n} HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"),
        2 => format!("POST /{n} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"),
        _ => format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n"),
    };
    let mut conn = Conn::connect(proxy.addr());
    conn.write((0..30).map(one).collect::<String>());
    for n in 0..30 {
        let method = if n % 3 == 0 { "GET" } else { "POST" };
        assert_eq!(conn.response(method).text(), format!("{method} /{n} HTTP/1.1"));
    }
}

#[test]
fn expect_continue() {
    let origin = Origin::echo();
    let proxy = Setup { route: ", hosts: [app.test], maxBody: 100", workers: 1, ..Setup::default() };
    let proxy = proxy.start(origin.addr());
    let ask = |host: &str, length: usize| {
        let mut conn = Conn::connect(proxy.addr());
        conn.write(format!(
            "POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\nExpect: 100-continue\r\n\r\n"
        ));
        let head = conn.head();
        (conn, head)
    };
    let (mut conn, head) = ask("app.test", 5);
    assert_eq!(head.status(), 100, "the body is wanted");
    conn.write("hello");
    let reply = conn.response("POST");
    assert_eq!((reply.status(), reply.text().as_str()), (200, "hello"));
    assert!(!origin.last().head.has("expect"), "we have met the expectation ourselves");
    // Refused before the body is wanted: no 100, and never the body read as a request.
    for (host, length, status, reason) in [("other.test", 5, 404, "no_route"), ("app.test", 101, 413, "body_too_large")]
    {
        let (mut conn, head) = ask(host, length);
        assert_eq!(head.status(), status, "{head:?}");
        proxy.await_reason(reason, status);
        conn.finish();
        assert!(!show(&conn.read_to_end()).contains("100 Continue"));
    }
    assert_eq!(origin.seen().len(), 1);
}

#[test]
fn interim_answers_are_never_final() {
    let origin = Origin::fixed(concat!(
        "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n",
        "HTTP/1.1 102 Processing\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    ));
    let proxy = Proxy::front(origin.addr());
    for version in ["HTTP/1.1", "HTTP/1.0"] {
        let mut conn = Conn::connect(proxy.addr());
        conn.write(format!("GET / {version}\r\nHost: app.test\r\nConnection: keep-alive\r\n\r\n"));
        let mut head = conn.head();
        while head.status() < 200 {
            assert_eq!(version, "HTTP/1.1", "RFC 9110, 15.2: no 1xx to a client of 1.0");
            assert!([102, 103].contains(&head.status()), "{head:?}");
            head = conn.head();
        }
        assert_eq!((head.status(), conn.body(head).text().as_str()), (200, "ok"));
        // And the connection is in step.
        conn.write(format!("GET / {version}\r\nHost: app.test\r\n\r\n"));
        assert_eq!(conn.response("GET").text(), "ok");
    }
}

#[test]
fn early_response_while_the_client_still_uploads() {
    let origin = Origin::raw(|mut conn, _| {
        while conn.try_head().is_some() {
            conn.write("HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nstop");
            // What follows is the body, unless the proxy hangs up.
            conn.read_to_end();
        }
    });
    let proxy = Proxy::front(origin.addr());
    for framing in ["Content-Length: 100000000", "Transfer-Encoding: chunked"] {
        let mut conn = Conn::connect(proxy.addr());
        conn.write(format!("POST /up HTTP/1.1\r\nHost: app.test\r\n{framing}\r\n\r\n"));
        if framing.starts_with('T') {
            conn.write("5f5e100\r\n");
        }
        conn.write(vec![b'x'; 64 * 1024]);
        let reply = conn.response("POST");
        assert_eq!((reply.status(), reply.text().as_str()), (403, "stop"), "before the upload ended");
        // The rest of the body may be refused, but is never taken for a request.
        conn.try_write("GET /smuggled HTTP/1.1\r\nHost: app.test\r\n\r\n");
        conn.finish();
        let rest = conn.read_to_end();
        assert!(!show(&rest).contains("HTTP/1."), "an answer to a body: {}", show(&rest));
    }
    proxy.await_metric("http_requests_total", &[("status_code", "403")], 2.0);
    assert_eq!(proxy.metric("http_requests_total", &[]), 2.0);
}

#[test]
fn half_closed_client_is_answered_or_aborted_as_configured() {
    for (half_close, listener) in [(true, ", halfClose: true"), (false, "")] {
        let aborted = Arc::new(AtomicBool::new(false));
        let (flag, (go, gate)) = (Arc::clone(&aborted), mpsc::channel::<()>());
        let gate = Mutex::new(gate);
        let origin = Origin::raw(move |mut conn, _| {
            conn.head();
            if half_close {
                let _ = gate.lock().expect("gate").recv();
                conn.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            }
            conn.read_to_end();
            flag.store(true, Ordering::SeqCst);
        });
        let proxy = Setup { listener, workers: 1, ..Setup::default() }.start(origin.addr());
        let mut conn = Conn::connect(proxy.addr());
        conn.write(GET);
        until("the request is at the origin", SOON, || origin.open() == 1);
        conn.finish();
        if half_close {
            assert!(conn.is_quiet(Duration::from_millis(100)), "the client still waits");
            go.send(()).expect("the origin waits");
            assert_eq!(conn.response("GET").text(), "ok");
        } else {
            until("the request is aborted at the origin", SOON, || aborted.load(Ordering::SeqCst));
            proxy.await_reason("client_reset", 499);
        }
    }
}

/// However the listener takes an end of what is sent, a connection that is reset has nobody at its other side.
#[test]
fn a_client_that_is_gone_is_not_worked_for() {
    let origin = Origin::raw(|mut conn, _| {
        conn.head();
        conn.read_to_end();
    });
    let proxy = Setup { listener: ", halfClose: true", workers: 1, ..Setup::default() }.start(origin.addr());
    let mut conn = Conn::connect(proxy.addr());
    conn.write(GET);
    until("the request is at the origin", SOON, || origin.open() == 1);
    conn.reset();
    until("the request is aborted at the origin", SOON, || origin.open() == 0);
    proxy.await_reason("client_reset", 499);
}

/// Whoever has sent all that there is may say so, where the answer is quick.
#[test]
fn a_quick_answer_comes_before_it_is_looked_who_waits() {
    let origin = Origin::ok();
    let proxy = Proxy::front(origin.addr());
    let mut conn = Conn::connect(proxy.addr());
    conn.write(GET);
    conn.finish();
    assert_eq!(conn.response("GET").text(), "ok");
}

#[test]
fn an_upload_cut_short_is_not_ended_for_the_origin() {
    let (tell, told) = mpsc::channel();
    let tell = Mutex::new(tell);
    let origin = Origin::raw(move |mut conn, _| {
        while let Some(message) = conn.request() {
            let _ = tell.lock().expect("channel").send(message.whole);
            if !message.whole || !conn.try_write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") {
                return;
            }
        }
    });
    let proxy = Proxy::front(origin.addr());
    for start in ["Content-Length: 10\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"] {
        let mut conn = Conn::connect(proxy.addr());
        conn.write(format!("POST / HTTP/1.1\r\nHost: app.test\r\n{start}"));
        conn.finish();
        let reply = conn.read_to_end();
        assert!(!show(&reply).starts_with("HTTP/1.1 2"), "{}", show(&reply));
        // Whether it got anything at all is a matter of timing; a whole request it must not have got.
        assert!(told.recv_timeout(Duration::from_millis(300)) != Ok(true), "the origin took half for the whole");
    }
    proxy.assert_serves();
}

#[test]
fn trailers_of_answers() {
    let origin = Origin::fixed(concat!(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n",
        "2\r\nok\r\n0\r\nX-Sum: 42\r\n\r\n"
    ));
    let proxy = Proxy::front(origin.addr());
    let mut conn = Conn::connect(proxy.addr());
    conn.write("GET / HTTP/1.1\r\nHost: app.test\r\nTE: trailers\r\nConnection: TE\r\n\r\n");
    let reply = conn.response("GET");
    assert_eq!((reply.text().as_str(), reply.whole), ("ok", true));
    assert_eq!(reply.trailers, [("x-sum".to_owned(), "42".to_owned())]);
    conn.write(GET);
    let reply = conn.response("GET");
    assert_eq!((reply.text().as_str(), reply.whole), ("ok", true), "without TE the body is whole all the same");
}

#[test]
fn trailers_of_requests() {
    let origin = Origin::echo();
    let proxy = Proxy::front(origin.addr());
    let reply = send(
        proxy.addr(),
        concat!(
            "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n",
            "Trailer: x-sum, content-length, host, authorization\r\nConnection: close\r\n\r\n2\r\nok\r\n0\r\n",
            "X-Sum: 42\r\nContent-Length: 7\r\nHost: evil.test\r\nAuthorization: none\r\n\r\n"
        ),
    );
    if show(&reply).starts_with("HTTP/1.1 400") {
        panic!("forbidden trailers are dropped, their request is served: {}", show(&reply));
    }
    let seen = origin.last();
    assert_eq!(seen.body, b"ok");
    assert_eq!(seen.trailers, [("x-sum".to_owned(), "42".to_owned())], "framing, routing and auth stay out");
    assert_eq!(seen.head.all("host"), ["app.test"], "and none is merged into the head");
}

#[test]
fn early_events_are_not_held_back() {
    let (go, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let origin = Origin::raw(move |mut conn, _| {
        conn.head();
        conn.write("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
        for n in 0..3 {
            conn.write(format!("9\r\ndata: {n}\n\n\r\n"));
            let _ = gate.lock().expect("gate").recv();
        }
        conn.write("0\r\n\r\n");
        conn.read_to_end();
    });
    let proxy = Proxy::front(origin.addr());
    let mut conn = Conn::connect(proxy.addr());
    conn.write("GET /events HTTP/1.1\r\nHost: app.test\r\nAccept: text/event-stream\r\n\r\n");
    assert_eq!(conn.head().status(), 200);
    for n in 0..3 {
        // The origin says nothing more until this one has arrived here.
        conn.read_until(format!("data: {n}\n\n").as_bytes());
        go.send(()).expect("the origin waits");
    }
    conn.read_until(b"0\r\n\r\n");
}

#[test]
fn bodies_beyond_the_limit_are_refused() {
    let origin = Origin::echo();
    let proxy = Setup { route: ", maxBody: 1Ki", workers: 1, ..Setup::default() }.start(origin.addr());
    let whole = "x".repeat(1024);
    let sized = |n: usize| format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {n}\r\n\r\n{}", "x".repeat(n));
    let mut conn = Conn::connect(proxy.addr());
    conn.write(sized(1024));
    assert_eq!(conn.response("POST").text(), whole, "the limit itself is allowed");
    let mut conn = Conn::connect(proxy.addr());
    conn.write(sized(1025));
    assert_eq!(conn.response("POST").status(), 413);
    assert_eq!(origin.seen().len(), 1, "by its length it is refused before the origin hears of it");
    let mut conn = Conn::connect(proxy.addr());
    conn.write("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n400\r\n");
    conn.write(format!("{whole}\r\n1\r\nx\r\n0\r\n\r\n"));
    assert_eq!(conn.response("POST").status(), 413, "chunked, it is refused when it grows too large");
    proxy.await_metric("http_requests_total", &[("reason", "body_too_large"), ("status_code", "413")], 2.0);
    proxy.assert_serves();
}

/// 200 MiB each way, the reader slower than the writer: backpressure, not memory.
#[test]
fn large_bodies_stream() {
    const SIZE: usize = 200 << 20;
    let (sent, received) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (out, into) = (Arc::clone(&sent), Arc::clone(&received));
    let origin = Origin::raw(move |mut conn, _| {
        let head = conn.head();
        if head.start_line().starts_with("GET") {
            conn.write(format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {SIZE}\r\n\r\n"));
            let block = vec![b'd'; 1 << 20];
            while (out.load(Ordering::SeqCst) as usize) < SIZE && conn.try_write(&block) {
                out.fetch_add(block.len() as u64, Ordering::SeqCst);
            }
            conn.read_to_end();
        } else {
            while (into.load(Ordering::SeqCst) as usize) < SIZE {
                let some = conn.read_some();
                assert!(!some.is_empty(), "the upload ended early");
                into.fetch_add(some.len() as u64, Ordering::SeqCst);
            }
            conn.write("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfull");
        }
    });
    let proxy = Setup { top: "defaults: { timeout: 60s }", workers: 1, ..Setup::default() }.start(origin.addr());

    let mut down = Conn::connect(proxy.addr());
    down.write(GET);
    assert_eq!(down.head().get("content-length"), Some(SIZE.to_string()));
    let ahead = stalled(&sent);
    assert!(ahead < 64 << 20, "{ahead} bytes left the origin while nobody read");
    let mut got = 0;
    while got < SIZE {
        let some = down.read_some();
        assert!(!some.is_empty(), "ended after {got} bytes");
        got += some.len();
    }
    assert_eq!(got, SIZE);

    let mut up = Conn::connect(proxy.addr());
    up.write(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {SIZE}\r\n\r\n"));
    let block = vec![b'u'; 1 << 20];
    for _ in 0..SIZE >> 20 {
        up.write(&block);
    }
    assert_eq!(up.response("POST").text(), "full");
    let (_, peak) = proxy.memory();
    assert!(peak < 40 * 1024, "peak memory of {peak} KiB: a body was buffered");
}

/// The counter's value once it has not moved for a while.
fn stalled(counter: &AtomicU64) -> u64 {
    let (mut last, mut since) = (0, Instant::now());
    until("backpressure stops the origin", Duration::from_secs(30), || {
        let now = counter.load(Ordering::SeqCst);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        now > 0 && since.elapsed() > Duration::from_millis(300)
    });
    last
}

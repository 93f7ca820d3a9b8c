//! Bad input and bad upstreams: each has a defined status or close, a reason, a counter; and the next request
//! is served.

mod common;

use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use common::origin::Next;
use common::{Conn, Origin, Proxy, SOON, Setup, eventually, free_addr, send, show, until};

const GET: &str = "GET / HTTP/1.1\r\nHost: app.test\r\n\r\n";

#[test]
fn garbage() {
    let origin = Origin::ok();
    let proxy = Proxy::front(origin.addr());
    let table: [&[u8]; 9] = [
        b"\0\0\0\0\0\0\0\0\r\n\r\n",
        b"hello\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: a\r\n\r\n",
        b"/ GET HTTP/1.1\r\nHost: a\r\n\r\n",
        // A TLS client on a plain port, SSH, SMTP.
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03garbage\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"EHLO mail.example\r\n\r\n",
        b"\xff\xfe\xfd\xfc\r\n\r\n",
    ];
    for bytes in table {
        let reply = show(&send(proxy.addr(), bytes));
        assert!(
            reply.is_empty() || reply.starts_with("HTTP/1.1 400 ") || reply.starts_with("HTTP/1.1 505 "),
            "{reply}"
        );
        proxy.assert_serves();
    }
    assert_eq!(origin.seen().len(), table.len(), "the origin heard the innocent ones only");
    proxy.await_counted("bad_request", 5.0);
}

#[test]
fn half_a_request_and_gone() {
    let origin = Origin::ok();
    let proxy = Proxy::front(origin.addr());
    for part in ["", "G", "GET / HT", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: a\r\n", "PRI * HTTP/2.0\r\n\r\nS"]
    {
        let reply = show(&send(proxy.addr(), part));
        assert!(reply.is_empty() || reply.starts_with("HTTP/1.1 400 "), "`{part}`: {reply}");
        let mut conn = Conn::connect(proxy.addr());
        conn.write(part);
        conn.reset();
        proxy.assert_serves();
    }
    assert_eq!(origin.seen().len(), 6);
}

/// Row 22.
#[test]
fn heads_beyond_the_limits() {
    let origin = Origin::ok();
    let proxy = Proxy::front(origin.addr());
    let small = Setup { listener: ", maxHeaderBytes: 2Ki, maxHeaders: 10", ..Setup::default() }.start(origin.addr());
    let many = |n: usize| (0..n).map(|i| format!("X-{i}: 1\r\n")).collect::<String>();
    let request = |fields: &str| format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\r\n");
    let table = [
        (&proxy, request(&format!("X-Big: {}\r\n", "v".repeat(100 * 1024))), 431),
        (&proxy, request(&many(10_000)), 431),
        (&proxy, request(&many(101)), 431),
        (&proxy, request(&many(90)), 200),
        (&proxy, request(&format!("X-Big: {}\r\n", "v".repeat(48 * 1024))), 200),
        (&small, request(&many(11)), 431),
        (&small, request(&format!("X-Big: {}\r\n", "v".repeat(3 * 1024))), 431),
        (&small, request(&many(7)), 200),
        (&small, request(&format!("X-Big: {}\r\n", "v".repeat(1024))), 200),
        (&proxy, format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "p".repeat(100 * 1024)), 414),
    ];
    for (proxy, request, status) in table {
        let mut conn = Conn::connect(proxy.addr());
        conn.try_write(&request);
        let got = conn.response("GET").status();
        // A target that is too long may be called by either name.
        assert!(got == status || (status == 414 && got == 431), "{got}: {}", show(&request.as_bytes()[..80]));
        proxy.assert_serves();
    }
    proxy.await_counted("head_too_large", 3.0);
}

#[test]
fn a_slow_head_ends_by_the_header_timeout() {
    let origin = Origin::ok();
    let listener = ", headerTimeout: 500ms, idleTimeout: 1500ms";
    let proxy = Setup { listener, workers: 1, ..Setup::default() }.start(origin.addr());
    let mut conn = Conn::connect(proxy.addr());
    conn.write("GET / HTTP/1.1\r\nHost: app.test\r\nX-Slow: ");
    let begin = Instant::now();
    // A byte now and then does not buy more time.
    while begin.elapsed() < Duration::from_secs(5) && conn.is_quiet(Duration::from_millis(50)) {
        conn.try_write("x");
    }
    let took = begin.elapsed();
    let reply = show(&conn.read_to_end());
    assert!(reply.is_empty() || reply.starts_with("HTTP/1.1 408 "), "{reply}");
    assert!((Duration::from_millis(400)..Duration::from_millis(1400)).contains(&took), "{took:?}");
    proxy.await_counted("header_timeout", 1.0);
    let slow = proxy.counted("header_timeout");

    // Between requests it is the idle timeout that counts, and it ends without a word.
    let mut conn = Conn::connect(proxy.addr());
    conn.write(GET);
    assert_eq!(conn.response("GET").status(), 200);
    assert!(conn.is_quiet(Duration::from_millis(1000)), "idle is not slow");
    assert_eq!(show(&conn.read_to_end()), "");
    proxy.assert_serves();
    assert_eq!(proxy.counted("header_timeout"), slow, "idle is no failure");
}

#[test]
fn a_client_that_stops_reading() {
    let block = vec![b'x'; 1 << 20];
    let origin = Origin::raw(move |mut conn, _| {
        let Some(head) = conn.try_head() else { return };
        if head.start_line().contains("/innocent") {
            conn.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        } else {
            conn.write("HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n");
            while conn.try_write(&block) {}
        }
    });
    let top = "defaults: { streamIdleTimeout: 700ms, timeout: 60s }";
    let proxy = Setup { top, workers: 1, ..Setup::default() }.start(origin.addr());
    let mut conn = Conn::connect(proxy.addr());
    conn.write(GET);
    assert_eq!(conn.head().status(), 200);
    proxy.assert_serves();
    until("the upstream is let go", SOON, || origin.open() == 0);
    proxy.await_metric("http_requests_total", &[("reason", "idle_timeout")], 1.0);
    proxy.assert_serves();
}

/// An origin that treats `/innocent` well, and everything else as told.
fn origin(evil: impl Fn(&mut Conn) + Send + Sync + 'static) -> Origin {
    Origin::start(move |seen, conn| {
        if seen.message.head.start_line().contains("/innocent") {
            conn.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            return Next::Keep;
        }
        evil(conn);
        Next::Close
    })
}

#[test]
fn upstreams_that_misbehave_before_an_answer() {
    let wait = |conn: &mut Conn| drop(conn.read_to_end());
    let say = |bytes: &'static [u8]| {
        move |conn: &mut Conn| {
            conn.try_write(bytes);
        }
    };
    let table = [
        ("closes", origin(|_| {}), 502, "upstream_reset"),
        ("closes in the head", origin(say(b"HTTP/1.1 200 OK\r\nContent-")), 502, "upstream_reset"),
        ("garbage", origin(say(b"\0\x01\x02 no http at all\r\n\r\n")), 502, "upstream_protocol"),
        ("another protocol", origin(say(b"SSH-2.0-OpenSSH_9.2\r\n")), 502, "upstream_protocol"),
        ("no status", origin(say(b"HTTP/1.1 abc OK\r\n\r\n")), 502, "upstream_protocol"),
        ("status 99", origin(say(b"HTTP/1.1 099 No\r\nContent-Length: 0\r\n\r\n")), 502, "upstream_protocol"),
        ("never answers", origin(wait), 504, "request_timeout"),
    ];
    for (label, origin, status, reason) in table {
        let proxy = Setup { route: ", timeout: 500ms", workers: 1, ..Setup::default() }.start(origin.addr());
        // A POST, so that no second try hides what happened.
        let mut conn = Conn::connect(proxy.addr());
        conn.write("POST /evil HTTP/1.1\r\nHost: app.test\r\nContent-Length: 2\r\n\r\nhi");
        let reply = conn.response("POST");
        assert_eq!(reply.status(), status, "{label}: {reply:?}");
        assert!(!reply.body.is_empty() && reply.head.has("proxy-status"), "{label}: it says why: {reply:?}");
        proxy.await_reason(reason, status);
        // This connection is good still, or was closed as announced; a new one is good in any case.
        if !reply.head.get("connection").is_some_and(|c| c.eq_ignore_ascii_case("close")) {
            conn.write("GET /innocent HTTP/1.1\r\nHost: app.test\r\n\r\n");
            assert_eq!(conn.response("GET").text(), "ok", "{label}");
        }
        proxy.assert_serves();
        let evil = origin.seen().iter().filter(|seen| seen.message.head.start_line().contains("/evil")).count();
        assert_eq!(evil, 1, "{label}: sent once");
    }
}

#[test]
fn upstreams_that_reset() {
    for begun in [false, true] {
        let origin = Origin::raw(move |mut conn, _| {
            let Some(head) = conn.try_head() else { return };
            if head.start_line().contains("/innocent") {
                conn.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
                return;
            }
            conn.read_exact(2);
            if begun {
                conn.write("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
                // The client has it before the reset can overtake it.
                conn.read_some();
            }
            conn.reset();
        });
        let top = "defaults: { streamIdleTimeout: 60s, timeout: 60s }";
        let proxy = Setup { top, workers: 1, ..Setup::default() }.start(origin.addr());
        let mut conn = Conn::connect(proxy.addr());
        if begun {
            conn.write("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n");
            let head = conn.head();
            assert_eq!(head.status(), 200);
            assert_eq!(conn.read_exact(4), b"half");
            conn.write("1\r\n!\r\n");
            assert_eq!(show(&conn.read_to_end()), "", "cut, not ended as if it were whole");
            proxy.await_metric("http_requests_total", &[("reason", "upstream_reset")], 1.0);
        } else {
            conn.write("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi");
            assert_eq!(conn.response("POST").status(), 502);
            proxy.await_reason("upstream_reset", 502);
        }
        proxy.assert_serves();
    }
}

#[test]
fn an_upstream_that_refuses() {
    let addr = free_addr();
    let proxy = Setup { workers: 1, ..Setup::default() }.start(addr);
    for (request, method) in [(GET, "GET"), ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi", "POST")] {
        let mut conn = Conn::connect(proxy.addr());
        conn.write(request);
        assert_eq!(conn.response(method).status(), 503);
    }
    proxy.await_metric("http_requests_total", &[("reason", "connect_failed"), ("status_code", "503")], 2.0);
    // Up again, it is used at once.
    let listener = std::net::TcpListener::bind(addr).expect("bind the address of the origin");
    let origin = std::thread::spawn(move || {
        let mut conn = Conn::patient(listener.accept().expect("a connection").0);
        conn.head();
        conn.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    });
    proxy.assert_serves();
    origin.join().expect("the origin");
}

/// An address that swallows the first packets: a listener whose queue is full.
#[test]
fn an_upstream_that_does_not_accept() {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("bind");
    socket.listen(0).expect("listen");
    let addr = socket.local_addr().ok().and_then(|a| a.as_socket()).expect("an address");
    // Fills the queue until a connect hangs.
    let mut fillers = Vec::new();
    eventually("the queue is full", SOON, || {
        match std::net::TcpStream::connect_timeout(&addr, Duration::from_millis(200)) {
            Ok(stream) => {
                fillers.push(stream);
                None
            }
            Err(_) => Some(()),
        }
    });
    let proxy = Setup { top: "defaults: { connectTimeout: 300ms }", workers: 1, ..Setup::default() }.start(addr);
    let begin = Instant::now();
    let reply = common::get(proxy.addr(), "/");
    assert_eq!(reply.status(), 504);
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    proxy.await_reason("connect_timeout", 504);
}

#[test]
fn no_route_and_no_endpoint() {
    let origin = Origin::ok();
    let proxy = Setup { route: ", hosts: [only.test]", ..Setup::default() }.start(origin.addr());
    assert_eq!(common::get(proxy.addr(), "/").status(), 404);
    proxy.await_reason("no_route", 404);

    let dir = common::TempDir::new("endpoints");
    let file = dir.file("endpoints.yaml", "[]\n");
    let config = format!(
        "apiVersion: outrigger/v1\nadmin: {{ address: \"{{admin}}\" }}\nhealth: {{ address: \"{{health}}\" }}\n\
         listeners: [{{ name: edge, mode: proxy, address: \"{{listen}}\" }}]\n\
         services: {{ app: {{ endpoints: {{ file: \"{}\" }} }} }}\nroutes: [{{ name: all, to: app }}]\n",
        file.display()
    );
    let proxy = Proxy::start(&config, &[]);
    assert_eq!(common::get(proxy.addr(), "/").status(), 503);
    proxy.await_reason("no_endpoint", 503);
    dir.file("endpoints.yaml", format!("[\"{}\"]\n", origin.addr()));
    until("the new endpoint is used", SOON, || common::get(proxy.addr(), "/").status() == 200);
}

/// Row 34: a streaming answer holds its connection until its end, not until its head.
#[test]
fn streaming_counts() {
    let (go, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let origin = Origin::start(move |seen, conn| {
        if seen.message.head.start_line().contains("/stream") {
            conn.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegin\r\n");
            let _ = gate.lock().expect("gate").recv();
            conn.write("3\r\nend\r\n0\r\n\r\n");
        } else {
            conn.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
        Next::Keep
    });
    let service = ", connections: { max: 1, maxPending: 0 }";
    let proxy = Setup { service, workers: 1, ..Setup::default() }.start(origin.addr());
    let mut stream = Conn::connect(proxy.addr());
    stream.write("GET /stream HTTP/1.1\r\nHost: app.test\r\n\r\n");
    stream.read_until(b"begin");
    assert_eq!(common::get(proxy.addr(), "/").status(), 503, "the only connection is taken, and no queue is allowed");
    proxy.await_reason("overflow", 503);
    go.send(()).expect("the origin waits");
    stream.read_until(b"0\r\n\r\n");
    until("the connection is given back", SOON, || common::get(proxy.addr(), "/").status() == 200);
    assert_eq!(origin.connections(), 1);
}

/// Row 33: out of descriptors, accepting pauses and recovers.
#[test]
fn emfile() {
    let origin = Origin::ok();
    let prlimit = common::tool("prlimit");
    let wrap = [prlimit.to_str().expect("a path"), "--nofile=64", "--"];
    let proxy = Setup { wrap: &wrap, workers: 1, ..Setup::default() }.start(origin.addr());
    let mut held: Vec<Conn> = (0..100).map(|_| Conn::connect(proxy.addr())).collect();
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", proxy.pid())).map_or(0, Iterator::count);
    until("the descriptors are used up", SOON, || descriptors() >= 60);
    assert_eq!(std::fs::metadata(format!("/proc/{}", proxy.pid())).map(|m| m.is_dir()).ok(), Some(true));
    held.clear();
    until("the descriptors are given back", SOON, || descriptors() < 40);
    proxy.assert_serves();
    assert_eq!(proxy.probe("/readyz"), Some(200));
}

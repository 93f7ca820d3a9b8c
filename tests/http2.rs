//! HTTP/2 on either side and both: combinations, translation, malformed requests, and an upstream's GOAWAY,
//! limits and resets.

mod common;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use common::h2peer::{H2Origin, call, request};
use common::h2raw::{self, Peer, Server};
use common::{Conn, Origin, Proxy, SOON, Setup, eventually, pattern, run, until};
use http::{HeaderMap, HeaderValue, Version};

const ANSWER: [(&str, &str); 2] = [(":status", "200"), ("content-length", "2")];

fn front_h2(up: std::net::SocketAddr) -> Proxy {
    Setup { service: ", protocol: http2", workers: 1, ..Setup::default() }.start(up)
}

/// Answers `200 ok` to every request on the connection, for ever.
fn answer_all(peer: &mut Peer) {
    while let Some(frame) = peer.next_within(Duration::from_secs(60)) {
        if frame.ends_stream() {
            peer.headers(frame.stream, &ANSWER, false);
            peer.data(frame.stream, b"ok", true);
        }
    }
}

#[test]
fn curl_and_h2load_with_prior_knowledge() {
    for service in [", protocol: http1", ", protocol: http2"] {
        let (h1, h2) = (Origin::ok(), H2Origin::echo());
        let up = if service.contains("http2") { h2.addr } else { h1.addr() };
        let proxy = Setup { service, ..Setup::default() }.start(up);
        let url = format!("http://{}/", proxy.addr());
        let out = run(
            "curl",
            &["-sS", "--http2-prior-knowledge", "-o", "/dev/null", "-w", "%{http_version} %{http_code}", &url],
        );
        assert_eq!(out, "2 200", "{service}");
        for extra in ["-t1", "--h1"] {
            let out = run("h2load", &["-n", "2000", "-c", "4", "-m", "20", extra, &url]);
            assert!(out.contains("2000 succeeded, 0 failed, 0 errored"), "{service} {extra}\n{out}");
            assert!(out.contains("status codes: 2000 2xx"), "{service} {extra}\n{out}");
        }
    }
}

#[test]
fn every_combination_carries_bodies_both_ways() {
    let body = pattern(7, 3 << 20);
    // What the service is said to speak, and what the origin then sees from a client of 1 and of 2.
    let table = [(", protocol: http1", [1, 1]), (", protocol: http2", [2, 2]), ("", [1, 2])];
    for (service, seen_by) in table {
        for (client, expected) in [1, 2].into_iter().zip(seen_by) {
            let (h1, h2) = (Origin::echo(), H2Origin::echo());
            let up = if expected == 2 { h2.addr } else { h1.addr() };
            let proxy = Setup { service, workers: 1, ..Setup::default() }.start(up);
            let got = if client == 2 {
                let reply = call(proxy.addr(), request("POST", "/echo?x=1", &[]), &body, None).expect("an answer");
                assert_eq!(reply.head.status, 200);
                reply.body
            } else {
                let mut conn = Conn::connect(proxy.addr());
                let mut twin = Conn::new(conn.stream().try_clone().expect("clone"));
                let length = body.len();
                let bytes = [
                    format!("POST /echo?x=1 HTTP/1.1\r\nHost: app.test\r\nContent-Length: {length}\r\n\r\n").as_bytes(),
                    &body,
                ]
                .concat();
                let writer = std::thread::spawn(move || twin.write(bytes));
                let reply = conn.response("POST");
                writer.join().expect("write");
                assert_eq!(reply.status(), 200);
                reply.body
            };
            assert!(got == body, "{service} client {client}: {} bytes came back", got.len());
            if expected == 2 {
                let head = h2.last().head;
                assert_eq!(
                    (head.version, head.uri.path_and_query().map(|p| p.as_str())),
                    (Version::HTTP_2, Some("/echo?x=1"))
                );
            } else {
                assert_eq!(h1.last().head.start_line(), "POST /echo?x=1 HTTP/1.1");
            }
        }
    }
}

/// Row 6.
#[test]
fn downgrade_to_http1() {
    let origin = Origin::echo();
    let proxy = Setup { service: ", protocol: http1", workers: 1, ..Setup::default() }.start(origin.addr());
    let fields = [("cookie", "a=1"), ("cookie", "b=2"), ("te", "trailers"), ("x-a", "1"), ("x-a", "2")];
    let reply = call(proxy.addr(), request("POST", "/p?q", &fields), b"body", None).expect("an answer");
    assert_eq!((reply.head.status.as_u16(), &reply.body[..]), (200, &b"body"[..]));
    for name in ["connection", "transfer-encoding", "keep-alive"] {
        assert!(!reply.head.headers.contains_key(name), "{name}");
    }
    let seen = origin.last();
    assert_eq!(seen.head.start_line(), "POST /p?q HTTP/1.1");
    assert_eq!(seen.head.all("host"), ["app.test"]);
    assert_eq!(seen.head.all("cookie"), ["a=1; b=2"], "RFC 9113, 8.2.3");
    assert_eq!(seen.head.all("x-a"), ["1", "2"]);
    assert_eq!(seen.head.all("transfer-encoding"), ["chunked"], "a body without a length");
    assert!(seen.head.all("te").iter().all(|te| te == "trailers"));
    assert!(!seen.head.text().contains("\r\n:"), "a pseudo-header: {:?}", seen.head);

    call(proxy.addr(), request("GET", "/", &[]), b"", None).expect("an answer");
    let seen = origin.last();
    assert!(!seen.head.has("transfer-encoding") && !seen.head.has("content-length"), "no body: {:?}", seen.head);
    call(proxy.addr(), request("POST", "/", &[("content-length", "4")]), b"body", None).expect("an answer");
    assert_eq!(origin.last().head.all("content-length"), ["4"], "a length is kept");
}

/// Row 7.
#[test]
fn carried_over_http2_for_a_client_of_http1() {
    let origin = H2Origin::echo();
    let proxy = front_h2(origin.addr);
    let mut conn = Conn::connect(proxy.addr());
    conn.write(concat!(
        "POST /p?q HTTP/1.1\r\nHost: App.test\r\nConnection: keep-alive, X-Hop, TE\r\nX-Hop: 1\r\nKeep-Alive: 5\r\n",
        "TE: trailers, deflate\r\nX-UPPER: 1\r\nProxy-Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n",
        "4\r\nbody\r\n0\r\n\r\n"
    ));
    assert_eq!(conn.response("POST").text(), "body");
    let head = origin.last().head;
    assert_eq!(head.uri.scheme_str(), Some("http"));
    assert!(head.uri.authority().is_some_and(|a| a.as_str().eq_ignore_ascii_case("app.test")), "{:?}", head.uri);
    for name in ["connection", "x-hop", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"] {
        assert!(!head.headers.contains_key(name), "{name}: {head:?}");
    }
    assert!(head.headers.get_all("te").iter().all(|te| te == "trailers"), "{head:?}");
    assert_eq!(head.headers.get("x-upper"), Some(&HeaderValue::from_static("1")));
    assert!(head.headers.get_all("host").iter().count() <= 1);
    // Keep-alive on the client's side is its own affair.
    conn.write("HEAD / HTTP/1.1\r\nHost: app.test\r\n\r\n");
    assert_eq!(conn.response("HEAD").status(), 200);
    assert_eq!(origin.last().head.method, "HEAD");
}

#[test]
fn trailers_both_ways() {
    let trailers = HeaderMap::from_iter([("x-sum".parse().expect("a name"), HeaderValue::from_static("42"))]);
    let ask = |proxy: &Proxy| {
        let head = request("POST", "/", &[("trailer", "x-sum"), ("te", "trailers")]);
        call(proxy.addr(), head, b"ok", Some(trailers.clone())).expect("an answer")
    };
    let origin = H2Origin::echo();
    let reply = ask(&front_h2(origin.addr));
    assert_eq!(origin.last().trailers.as_ref(), Some(&trailers));
    assert_eq!((&reply.body[..], reply.trailers.as_ref()), (&b"ok"[..], Some(&trailers)));

    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n";
    let origin = Origin::fixed(format!("{head}2\r\nok\r\n0\r\nX-Sum: 42\r\n\r\n"));
    let reply = ask(&Setup { service: ", protocol: http1", ..Setup::default() }.start(origin.addr()));
    assert_eq!((&reply.body[..], reply.trailers.as_ref()), (&b"ok"[..], Some(&trailers)));
    assert_eq!(origin.last().trailers, [("x-sum".to_owned(), "42".to_owned())]);
}

/// RFC 9113, 8.1.1: malformed requests are stream errors (or, allowed, connection errors), or a 400; none of
/// them reaches the origin, whose HTTP/1 they might split.
#[test]
fn malformed_requests() {
    let origin = Origin::echo();
    let proxy = Setup { service: ", protocol: http1", workers: 1, ..Setup::default() }.start(origin.addr());
    let get = |more: &[(&'static str, &'static str)]| h2raw::request("GET", "/bad", more);
    let table: Vec<Vec<(&str, &str)>> = vec![
        get(&[("X-Upper", "1")]),
        get(&[("connection", "close")]),
        get(&[("connection", "x-a")]),
        get(&[("keep-alive", "1")]),
        get(&[("proxy-connection", "close")]),
        get(&[("transfer-encoding", "chunked")]),
        get(&[("upgrade", "websocket")]),
        get(&[("te", "gzip")]),
        get(&[("x a", "1")]),
        get(&[("x:a", "1")]),
        get(&[("", "1")]),
        get(&[("x-a", "1\r\nx-b: 2")]),
        get(&[("x-a", "1\nx-b: 2")]),
        get(&[("x-a", "1\0")]),
        get(&[("x-a\r\nx-b", "2")]),
        get(&[(":path", "/again")]),
        get(&[("x-a", "1"), (":late", "1")]),
        get(&[(":status", "200")]),
        get(&[("content-length", "1"), ("content-length", "2")]),
        get(&[("content-length", "-1")]),
        get(&[("content-length", "5")]),
        get(&[("host", "other.test")]),
        get(&[("host", "app.test"), ("host", "other.test")]),
        h2raw::request("GE T", "/bad", &[]),
        h2raw::request("GET / HTTP/1.1\r\nx: y\r\n\r\nGET", "/bad", &[]),
        h2raw::request("GET", "/bad HTTP/1.1\r\nx-split: 1", &[]),
        h2raw::request("GET", "/ba d", &[]),
        h2raw::request("GET", "", &[]),
        h2raw::request("GET", "bad", &[]),
        vec![(":scheme", "http"), (":path", "/bad"), (":authority", "a")],
        vec![(":method", "GET"), (":path", "/bad"), (":authority", "a")],
        vec![(":method", "GET"), (":scheme", "http"), (":authority", "a")],
        vec![("x-a", "1"), (":method", "GET"), (":scheme", "http"), (":path", "/bad"), (":authority", "a")],
        vec![(":method", "GET"), (":scheme", "http"), (":path", "/bad"), (":authority", "a\r\nx-split: 1")],
        vec![(":method", "GET"), (":scheme", "http"), (":path", "/bad"), (":authority", "user@a")],
        vec![(":method", "GET"), (":scheme", "http"), (":path", "/bad"), (":authority", "")],
    ];
    for fields in table {
        let mut peer = Peer::client(proxy.addr(), &[]);
        peer.headers(1, &fields, true);
        let mut fatal = false;
        loop {
            match peer.next() {
                Some(f) if f.kind == h2raw::RST_STREAM && f.stream == 1 => break,
                Some(f) if f.kind == h2raw::HEADERS && f.stream == 1 => {
                    assert_eq!(f.status(), 400, "{fields:?}");
                    break;
                }
                Some(f) if f.kind == h2raw::GOAWAY && f.code() != h2raw::NO_ERROR => fatal = true,
                Some(_) => {}
                None => {
                    assert!(fatal, "closed without a word: {fields:?}");
                    break;
                }
            }
        }
        assert!(origin.seen().is_empty(), "{fields:?} reached the origin: {:?}", origin.last().head);
        if !fatal {
            peer.headers(3, &h2raw::request("HEAD", "/good", &[]), true);
            assert_eq!(peer.wait("the next answer", |f| f.kind == h2raw::HEADERS && f.stream == 3).status(), 200);
            assert_eq!(origin.last().head.start_line(), "HEAD /good HTTP/1.1");
            // The record starts afresh with every line of the table.
            origin.forget();
        }
    }
    proxy.assert_serves();
}

#[test]
fn a_body_that_belies_its_length_is_not_passed_as_whole() {
    let origin = Origin::echo();
    let proxy = Setup { service: ", protocol: http1", workers: 1, ..Setup::default() }.start(origin.addr());
    for body in [&b"abc"[..], b"abcdefgh"] {
        let mut peer = Peer::client(proxy.addr(), &[]);
        peer.headers(1, &h2raw::request("POST", "/", &[("content-length", "5")]), false);
        peer.data(1, body, true);
        let end = peer.wait("the refusal", |f| {
            f.stream == 1 && (f.kind == h2raw::RST_STREAM || f.kind == h2raw::HEADERS) || f.kind == h2raw::GOAWAY
        });
        assert!(end.kind != h2raw::HEADERS || end.status() >= 400, "{end:?}");
    }
    proxy.assert_serves();
    let whole: Vec<_> = origin.seen().into_iter().filter(|seen| seen.message.whole).collect();
    assert_eq!(whole.len(), 1, "only the last: {whole:?}");
}

/// Row 22 for HTTP/2: by size and by count.
#[test]
fn large_heads_are_refused() {
    let origin = Origin::ok();
    let proxy = Proxy::front(origin.addr());
    let big = "v".repeat(100 * 1024);
    let many: Vec<(String, String)> = (0..10_000).map(|n| (format!("x-{n}"), "1".to_owned())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let few: Vec<(&str, &str)> = many[..150].to_vec();
    for more in [vec![("x-big", big.as_str())], many, few] {
        let mut peer = Peer::client(proxy.addr(), &[]);
        peer.headers(1, &h2raw::request("GET", "/", &more), true);
        loop {
            match peer.next() {
                Some(f) if f.kind == h2raw::HEADERS => {
                    assert_eq!(f.status(), 431, "{} fields", more.len());
                    break;
                }
                Some(f) if f.kind == h2raw::RST_STREAM || f.kind == h2raw::GOAWAY => break,
                Some(_) => {}
                None => break,
            }
        }
        proxy.assert_serves();
    }
    assert_eq!(origin.seen().len(), 3, "the origin saw the innocent ones only");
}

#[test]
fn the_limit_of_streams_is_announced() {
    let origin = Origin::ok();
    let proxy = Setup { listener: ", maxStreams: 7", ..Setup::default() }.start(origin.addr());
    let settings = Peer::client(proxy.addr(), &[]).wait("SETTINGS", |f| f.kind == h2raw::SETTINGS);
    let limit = settings.payload.chunks(6).find(|s| s[..2] == h2raw::MAX_CONCURRENT_STREAMS.to_be_bytes());
    assert_eq!(limit.map(|s| &s[2..]), Some(&7u32.to_be_bytes()[..]));
}

#[test]
fn a_reset_by_the_client_cancels_upstream() {
    // An upstream of HTTP/1 has its connection closed.
    let gone = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&gone);
    let origin = Origin::raw(move |mut conn, _| {
        conn.head();
        conn.read_to_end();
        flag.store(true, Ordering::SeqCst);
    });
    let proxy = Setup { service: ", protocol: http1", ..Setup::default() }.start(origin.addr());
    let mut peer = Peer::client(proxy.addr(), &[]);
    peer.headers(1, &h2raw::request("GET", "/", &[]), true);
    until("the request is at the origin", SOON, || origin.open() == 1);
    peer.rst(1, h2raw::CANCEL);
    until("the request is cancelled", SOON, || gone.load(Ordering::SeqCst));
    proxy.await_reason("client_reset", 499);

    // One of HTTP/2 has the stream reset, and the connection goes on.
    let (tell, told) = mpsc::channel();
    let tell = Mutex::new(tell);
    let server = Server::start(&[], move |mut peer, _| {
        let tell = tell.lock().expect("channel");
        let open = peer.wait("a request", |f| f.kind == h2raw::HEADERS);
        let _ = tell.send("open");
        peer.wait("a reset", |f| f.kind == h2raw::RST_STREAM && f.stream == open.stream);
        let _ = tell.send("reset");
        answer_all(&mut peer);
    });
    let proxy = front_h2(server.addr);
    let mut peer = Peer::client(proxy.addr(), &[]);
    peer.headers(1, &h2raw::request("GET", "/", &[]), true);
    assert_eq!(told.recv_timeout(SOON), Ok("open"));
    peer.rst(1, h2raw::CANCEL);
    assert_eq!(told.recv_timeout(SOON), Ok("reset"));
    peer.headers(3, &h2raw::request("GET", "/", &[]), true);
    assert_eq!(peer.answer(3), (200, b"ok".to_vec(), None));
    assert_eq!(server.connections(), 1);
}

/// Row 18: what is in flight finishes, what is new goes elsewhere.
#[test]
fn goaway_lets_the_old_finish_and_sends_the_new_elsewhere() {
    let (go, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let server = Server::start(&[], move |mut peer, number| {
        if number == 0 {
            let first = peer.wait("a request", h2raw::Frame::ends_stream);
            peer.goaway(first.stream, h2raw::NO_ERROR);
            peer.headers(first.stream, &[(":status", "200"), ("content-length", "4")], false);
            let _ = gate.lock().expect("gate").recv();
            peer.data(first.stream, b"late", true);
        }
        answer_all(&mut peer);
    });
    let proxy = front_h2(server.addr);
    let mut client = Peer::client(proxy.addr(), &[]);
    client.headers(1, &h2raw::request("GET", "/old", &[]), true);
    client.wait("the head of the old", |f| f.kind == h2raw::HEADERS && f.stream == 1);
    for stream in [3, 5] {
        client.headers(stream, &h2raw::request("GET", "/new", &[]), true);
        assert_eq!(client.answer(stream), (200, b"ok".to_vec(), None));
    }
    assert_eq!(server.connections(), 2);
    go.send(()).expect("the origin waits");
    assert_eq!(client.answer(1).1, b"late");
}

/// Row 18: a stream that the peer says it has not processed is sent again, for free.
#[test]
fn refused_streams_are_resent() {
    for by_goaway in [true, false] {
        let server = Server::start(&[], move |mut peer, number| {
            if number == 0 {
                let first = peer.wait("a request", h2raw::Frame::ends_stream);
                if by_goaway {
                    peer.goaway(0, h2raw::NO_ERROR);
                } else {
                    peer.rst(first.stream, h2raw::REFUSED_STREAM);
                }
            }
            answer_all(&mut peer);
        });
        let proxy = front_h2(server.addr);
        let reply = call(proxy.addr(), request("GET", "/", &[]), b"", None).expect("an answer");
        assert_eq!((reply.head.status.as_u16(), &reply.body[..]), (200, &b"ok"[..]), "goaway: {by_goaway}");
        assert_eq!(proxy.metric("http_requests_total", &[]), 1.0, "one request, for the client and for the metrics");
    }
}

/// ... and one that it may have processed is not.
#[test]
fn processed_streams_are_not_resent() {
    let requests = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&requests);
    let server = Server::start(&[], move |mut peer, _| {
        let first = peer.wait("a request", h2raw::Frame::ends_stream);
        count.fetch_add(1, Ordering::SeqCst);
        peer.goaway(first.stream, h2raw::NO_ERROR);
    });
    let proxy = front_h2(server.addr);
    let reply = call(proxy.addr(), request("POST", "/", &[]), b"pay", None).expect("an answer");
    assert_eq!(reply.head.status, 502);
    assert_eq!(requests.load(Ordering::SeqCst), 1, "a POST that may have been processed is not sent again");
    proxy.await_reason("upstream_reset", 502);
}

/// Row 19: the slots are counted by us, whether the rest waits or opens another connection.
#[test]
fn the_stream_limit_of_the_upstream_is_kept() {
    for service in [", protocol: http2", ", protocol: http2, connections: { max: 1 }"] {
        let broken = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&broken);
        let server = Server::start(&[(h2raw::MAX_CONCURRENT_STREAMS, 1)], move |mut peer, _| {
            let mut open = Vec::new();
            let mut answer_at = Instant::now();
            loop {
                // Answers the open one a little later, so that a second on this connection would show.
                if !open.is_empty() && Instant::now() >= answer_at {
                    let stream = open.remove(0);
                    peer.headers(stream, &ANSWER, false);
                    peer.data(stream, b"ok", true);
                }
                match peer.poll(Duration::from_millis(5)) {
                    Some(Some(f)) if f.kind == h2raw::HEADERS => {
                        open.push(f.stream);
                        answer_at = Instant::now() + Duration::from_millis(20);
                        flag.fetch_or(open.len() > 1, Ordering::SeqCst);
                    }
                    None => return,
                    Some(_) => {}
                }
            }
        });
        let proxy = Setup { service, workers: 1, ..Setup::default() }.start(server.addr);
        let mut client = Peer::client(proxy.addr(), &[]);
        let streams: Vec<u32> = (0..12).map(|n| n * 2 + 1).collect();
        for stream in &streams {
            client.headers(*stream, &h2raw::request("GET", "/", &[]), true);
        }
        let mut answered = 0;
        while answered < streams.len() {
            let frame = client.wait("all answers", |f| f.kind == h2raw::HEADERS || f.kind == h2raw::RST_STREAM);
            assert_eq!((frame.kind, frame.status()), (h2raw::HEADERS, 200), "{service}");
            answered += 1;
        }
        assert!(!broken.load(Ordering::SeqCst), "more streams at once than the upstream allows");
        if service.contains("max: 1") {
            assert_eq!(server.connections(), 1);
        }
    }
}

/// Row 24, the part that others feel.
#[test]
fn a_flood_of_resets_harms_nobody_else() {
    let origin = Origin::ok();
    let proxy = Proxy::front(origin.addr());
    let addr = proxy.addr();
    let flood = std::thread::spawn(move || {
        let mut sent = 0;
        for _ in 0..3 {
            let mut peer = Peer::client(addr, &[]);
            for n in 0..2000 {
                let stream = n * 2 + 1;
                if !peer.headers(stream, &h2raw::request("GET", "/", &[]), true) || !peer.rst(stream, h2raw::CANCEL) {
                    break;
                }
                sent += 1;
            }
        }
        sent
    });
    let mut slowest = Duration::ZERO;
    while !flood.is_finished() {
        let begin = Instant::now();
        proxy.assert_serves();
        slowest = slowest.max(begin.elapsed());
    }
    assert!(flood.join().expect("the flood") > 0);
    assert!(slowest < Duration::from_secs(2), "an innocent request took {slowest:?}");
    proxy.assert_serves();
    eventually("what was cancelled is let go", SOON, || (origin.open() <= 8).then_some(()));
}

/// Row 28: a client that never opens its window is let go of, with all that it held.
#[test]
fn a_window_that_never_opens_ends_by_the_idle_timeout() {
    let body = "x".repeat(1 << 20);
    let origin = Origin::raw(move |mut conn, _| {
        if conn.try_head().is_some() {
            conn.try_write(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
            conn.read_to_end();
        }
    });
    let top = "defaults: { streamIdleTimeout: 500ms, timeout: 60s }";
    let proxy = Setup { service: ", protocol: http1", top, workers: 1, ..Setup::default() }.start(origin.addr());
    let mut peer = Peer::client(proxy.addr(), &[(h2raw::INITIAL_WINDOW_SIZE, 0)]);
    peer.headers(1, &h2raw::request("GET", "/", &[]), true);
    assert_eq!(peer.wait("the head", |f| f.kind == h2raw::HEADERS).status(), 200);
    let begin = Instant::now();
    loop {
        match peer.next() {
            Some(f) if f.kind == h2raw::RST_STREAM && f.stream == 1 => break,
            Some(f) => assert!(f.kind != h2raw::DATA || f.payload.is_empty(), "data beyond the window"),
            None => break,
        }
    }
    assert!(begin.elapsed() >= Duration::from_millis(300), "not before its time: {:?}", begin.elapsed());
    until("the upstream is let go", SOON, || origin.open() == 0);
    proxy.await_metric("http_requests_total", &[("reason", "idle_timeout")], 1.0);
}

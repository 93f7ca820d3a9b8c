//! Upgrades: WebSocket and any other token, over HTTP/1.1, and what must not become a tunnel.

mod common;

use std::time::Duration;

use common::origin::Next;
use common::{Conn, Origin, Proxy, SOON, Setup, pattern, show, until};

fn handshake(token: &str) -> String {
    format!(
        "GET /ws HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: {token}\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
}

/// Accepts an upgrade to `token` and echoes every byte after it; `bye` when the client has finished.
fn tunnel(token: &'static str) -> Origin {
    Origin::start(move |seen, conn| {
        if !seen.message.head.has("upgrade") {
            conn.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            return Next::Keep;
        }
        conn.write(format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {token}\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
        ));
        loop {
            let some = conn.read_some();
            if some.is_empty() {
                conn.try_write("bye");
                return Next::Close;
            }
            if !conn.try_write(some) {
                return Next::Close;
            }
        }
    })
}

fn open(proxy: &Proxy, token: &str) -> Conn {
    let mut conn = Conn::connect(proxy.addr());
    conn.write(handshake(token));
    let head = conn.head();
    assert_eq!(head.status(), 101, "{head:?}");
    assert!(head.get("upgrade").is_some_and(|t| t.eq_ignore_ascii_case(token)), "{head:?}");
    assert!(head.get("connection").is_some_and(|c| c.eq_ignore_ascii_case("upgrade")), "{head:?}");
    conn
}

#[test]
fn websocket_and_other_tokens() {
    for (asked, answered) in [("websocket", "websocket"), ("websocket", "WebSocket"), ("custom/2", "custom/2")] {
        let origin = tunnel(answered);
        let proxy = Proxy::front(origin.addr());
        let mut conn = open(&proxy, asked);
        let seen = origin.last().head;
        assert_eq!(seen.get("upgrade").as_deref(), Some(asked));
        assert!(seen.get("connection").is_some_and(|c| c.eq_ignore_ascii_case("upgrade")), "{seen:?}");
        assert_eq!(seen.get("sec-websocket-key").as_deref(), Some("dGhlIHNhbXBsZSBub25jZQ=="));
        // A masked text frame, one byte at a time, and a large binary: the tunnel knows nothing of either.
        let frame = [0x81, 0x85, 1, 2, 3, 4, b'h' ^ 1, b'e' ^ 2, b'l' ^ 3, b'l' ^ 4, b'o' ^ 1];
        conn.write_bytewise(frame);
        assert_eq!(conn.read_exact(frame.len()), frame);
        let large = pattern(3, 1 << 20);
        let (mut twin, bytes) = (Conn::new(conn.stream().try_clone().expect("clone")), large.clone());
        let writer = std::thread::spawn(move || twin.write(bytes));
        assert!(conn.read_exact(large.len()) == large, "changed on the way");
        writer.join().expect("write");
        proxy.assert_serves();
    }
}

#[test]
fn bytes_right_behind_the_handshakes_are_not_lost() {
    let origin = Origin::raw(|mut conn, _| {
        conn.head();
        conn.write("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nfirst");
        assert_eq!(conn.read_exact(5), b"early");
        conn.write("second");
        conn.read_to_end();
    });
    let proxy = Proxy::front(origin.addr());
    let mut conn = Conn::connect(proxy.addr());
    conn.write(handshake("websocket") + "early");
    assert_eq!(conn.head().status(), 101);
    assert_eq!(conn.read_exact(11), b"firstsecond");
}

#[test]
fn half_close_passes_through_the_tunnel() {
    let origin = tunnel("websocket");
    let proxy = Proxy::front(origin.addr());
    let mut conn = open(&proxy, "websocket");
    conn.write("last words");
    conn.finish();
    assert_eq!(show(&conn.read_to_end()), "last wordsbye", "the other way stays open until its own end");
    until("the upstream is let go", SOON, || origin.open() == 0);
}

/// Without a 101 nothing is a tunnel: the answer is an answer, and the connection goes on as HTTP.
#[test]
fn no_101() {
    let origin = Origin::ok();
    let proxy = Proxy::front(origin.addr());
    let mut conn = Conn::connect(proxy.addr());
    for _ in 0..2 {
        conn.write(handshake("websocket"));
        let reply = conn.response("GET");
        assert_eq!((reply.status(), reply.text().as_str()), (200, "ok"));
    }
    conn.write("GET /after HTTP/1.1\r\nHost: app.test\r\n\r\n");
    assert_eq!(conn.response("GET").text(), "ok");
    assert_eq!(origin.last().head.start_line(), "GET /after HTTP/1.1", "parsed, not copied");
}

#[test]
fn mismatch() {
    let table = [
        "Connection: upgrade\r\nUpgrade: other",
        "Connection: upgrade\r\nUpgrade: h2c",
        "Connection: upgrade\r\nUpgrade: websocket, other",
        "Connection: upgrade",
    ];
    for fields in table {
        let reply = format!("HTTP/1.1 101 Switching Protocols\r\n{fields}\r\n\r\nHTTP/1.1 200 OK\r\n\r\n");
        let origin = Origin::start(move |seen, conn| {
            let upgrades = seen.message.head.has("upgrade");
            conn.try_write(if upgrades { &reply } else { "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" });
            Next::Keep
        });
        let proxy = Proxy::front(origin.addr());
        let mut conn = Conn::connect(proxy.addr());
        conn.write(handshake("websocket"));
        assert_eq!(conn.response("GET").status(), 502, "{fields}");
        proxy.await_reason("upgrade_mismatch", 502);
        proxy.assert_serves();
    }
}

/// A 101 that nobody asked for is no answer.
#[test]
fn unasked_101() {
    let origin = Origin::start(|seen, conn| {
        let first = seen.message.head.start_line().contains("/first");
        let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        conn.try_write(if first { switch } else { "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" });
        Next::Keep
    });
    let proxy = Proxy::front(origin.addr());
    assert_eq!(common::get(proxy.addr(), "/first").status(), 502);
    proxy.assert_serves();
}

#[test]
fn what_is_no_upgrade_is_served_as_a_request() {
    let table = [
        // Row 12: never h2c.
        concat!(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n",
            "HTTP2-Settings: AAMAAABkAAQAoAAA\r\n\r\n"
        ),
        // Not named in Connection.
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n",
        // RFC 9110, 7.8: ignored from a client of 1.0.
        "GET / HTTP/1.0\r\nHost: a\r\nConnection: upgrade, keep-alive\r\nUpgrade: websocket\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\n\r\n",
    ];
    for request in table {
        let origin = tunnel("websocket");
        let proxy = Proxy::front(origin.addr());
        let mut conn = Conn::connect(proxy.addr());
        conn.write(request);
        assert_eq!(conn.response("GET").text(), "ok", "{request}");
        let seen = origin.last().head;
        assert!(!seen.has("upgrade") && !seen.has("http2-settings"), "{seen:?}");
    }
}

/// Row 12: the body of such a request would be read as the tunnel's first bytes by one side only.
#[test]
fn an_upgrade_with_a_body_is_refused() {
    let origin = tunnel("websocket");
    let proxy = Proxy::front(origin.addr());
    for (framing, body) in [("Content-Length: 4", "body"), ("Transfer-Encoding: chunked", "4\r\nbody\r\n0\r\n\r\n")] {
        let mut conn = Conn::connect(proxy.addr());
        let head = handshake("websocket").replace("\r\n\r\n", &format!("\r\n{framing}\r\n\r\n"));
        conn.write(head + body);
        let reply = conn.response("GET");
        // Refused, or served as the plain request that RFC 9110, 7.8 lets it be.
        assert!(reply.status() == 400 || reply.text() == "ok", "{reply:?}");
        assert!(origin.seen().iter().all(|seen| !seen.message.head.has("upgrade")));
    }
    proxy.assert_serves();
}

#[test]
fn tunnels_survive_a_reload_and_end_by_their_idle_timeout() {
    let origin = tunnel("websocket");
    let top = "defaults: { tcpIdleTimeout: 2s, timeout: 1s }";
    let proxy = Setup { top, workers: 1, ..Setup::default() }.start(origin.addr());
    let mut conn = open(&proxy, "websocket");
    proxy.reload("name: all,", "name: renamed,");
    conn.write("still here");
    assert_eq!(conn.read_exact(10), b"still here");
    // The timeout of requests has passed when that of the tunnel ends it.
    assert!(conn.is_quiet(Duration::from_millis(1300)), "ended before its time");
    assert_eq!(show(&conn.read_to_end()).trim_end_matches("bye"), "");
    until("the upstream is let go", SOON, || origin.open() == 0);
    proxy.assert_serves();
}

//! The PROXY protocol: whom a load balancer speaks for, and what a TCP service is told.

mod common;

use std::net::{IpAddr, SocketAddr, TcpStream};

use common::haproxy::haproxy;
use common::mesh::Mesh;
use common::nginx::nginx;
use common::{Conn, Origin, Proxy, SOON, Setup, eventually, get, show};
use serde_json::Value;

const BELIEVED: &str = ", proxyProtocol: { from: [127.0.0.0/8] }, headerTimeout: 300ms";
const REQUEST: &str = "GET /a HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n";

/// Of a client at 192.0.2.7, and of nobody in particular.
const V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 80\r\n";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x13\xc0\0\x02\x07\xc6\x33\x64\x01\x12\x67\0\x50\x04\0\x04noop";
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

fn from(source: &str, target: SocketAddr) -> Conn {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    let source: IpAddr = source.parse().expect("an address");
    socket.bind(&SocketAddr::new(source, 0).into()).expect("bind");
    socket.connect(&target.into()).expect("connect");
    Conn::new(TcpStream::from(socket))
}

/// Peers of the requests in the access log.
fn peers(proxy: &Proxy) -> Vec<String> {
    let lines = proxy.stdout_lines();
    let parsed = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    parsed.filter_map(|line| line["peer"].as_str().map(str::to_owned)).collect()
}

#[test]
fn a_header_says_whose_the_connection_is() {
    let origin = Origin::ok();
    let proxy = Setup { listener: BELIEVED, workers: 1, ..Setup::default() }.start(origin.addr());
    for (header, client) in [
        (V1, "192.0.2.7"),
        (V2, "192.0.2.7"),
        (b"PROXY TCP6 2001:db8::7 ::1 4711 80\r\n", "2001:db8::7"),
        (b"PROXY TCP6 ::ffff:192.0.2.7 ::1 4711 80\r\n", "192.0.2.7"),
        // Of the balancer itself.
        (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
        (LOCAL, "127.0.0.1"),
    ] {
        for bytewise in [false, true] {
            origin.forget();
            let mut conn = Conn::connect(proxy.addr());
            match bytewise {
                true => conn.write_bytewise([header, REQUEST.as_bytes()].concat()),
                false => conn.write([header, REQUEST.as_bytes()].concat()),
            }
            let reply = conn.response("GET");
            assert_eq!(reply.status(), 200, "{}: {reply:?}", show(header));
            assert_eq!(origin.last().head.get("x-forwarded-for").as_deref(), Some(client), "{}", show(header));
        }
    }
    let told = eventually("the log has them all", SOON, || Some(peers(&proxy)).filter(|peers| peers.len() == 12));
    assert_eq!(told.iter().filter(|peer| *peer == "192.0.2.7:4711").count(), 4, "{told:?}");
    assert_eq!(told.iter().filter(|peer| *peer == "[2001:db8::7]:4711").count(), 2, "{told:?}");

    // A probe of the port is no offence.
    drop(Conn::connect(proxy.addr()));
    proxy.assert_serves_headed();
    assert_eq!(proxy.counted("proxy_header"), 0.0);
}

trait Headed {
    fn assert_serves_headed(&self);
}

impl Headed for Proxy {
    fn assert_serves_headed(&self) {
        let mut conn = Conn::connect(self.addr());
        conn.write([V1, REQUEST.as_bytes()].concat());
        assert_eq!(conn.response("GET").status(), 200);
    }
}

#[test]
fn what_is_no_header_is_refused() {
    let origin = Origin::ok();
    let proxy = Setup { listener: BELIEVED, workers: 1, ..Setup::default() }.start(origin.addr());
    let wrong = [
        REQUEST.as_bytes(),
        b"PROXY TCP4 192.0.2.7 198.51.100.1 4711\r\n",
        b"PROXY TCP4 192.0.2.300 198.51.100.1 4711 80\r\n",
        &V2[..20],
        // A checksum that is wrong.
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x13\xc0\0\x02\x07\xc6\x33\x64\x01\x12\x67\0\x50\x03\0\x04noop",
        b"P",
    ];
    for (number, bytes) in wrong.into_iter().enumerate() {
        let mut conn = Conn::connect(proxy.addr());
        conn.write(bytes);
        // Those that are merely cut short end when the time for a header is over.
        assert_eq!(show(&conn.read_to_end()), "", "{}", show(bytes));
        proxy.await_metric(
            "outrigger_worker_connections_closed_total",
            &[("reason", "proxy_header")],
            (number + 1) as f64,
        );
    }
    assert_eq!(origin.seen().len(), 0);
    // One that says nothing does not stay for ever.
    assert_eq!(show(&Conn::connect(proxy.addr()).read_to_end()), "");
    proxy.await_metric("outrigger_worker_connections_closed_total", &[("reason", "proxy_header")], 7.0);
    proxy.assert_serves_headed();
}

#[test]
fn only_those_who_are_named_are_believed() {
    let origin = Origin::ok();
    let listener = ", proxyProtocol: { from: [127.0.0.9, \"fd00::/8\"] }";
    let top = "authorization: [{ name: shop, allow: [{ from: { cidrs: [192.0.2.0/24] } }] }]";
    let proxy = Setup { listener, top, workers: 1, ..Setup::default() }.start(origin.addr());
    // By the address that the header says.
    let mut conn = from("127.0.0.9", proxy.addr());
    conn.write([V1, REQUEST.as_bytes()].concat());
    assert_eq!(conn.response("GET").status(), 200);
    let mut conn = from("127.0.0.9", proxy.addr());
    conn.write([LOCAL, REQUEST.as_bytes()].concat());
    assert_eq!(conn.response("GET").status(), 403);
    // Somebody else's header is a bad request, and without one they are who they are.
    let mut conn = from("127.0.0.8", proxy.addr());
    conn.write([V1, REQUEST.as_bytes()].concat());
    assert_eq!(conn.response("GET").status(), 400);
    let mut conn = from("127.0.0.8", proxy.addr());
    conn.write(REQUEST);
    assert_eq!(conn.response("GET").status(), 403);
    assert_eq!(origin.seen().len(), 1);
}

#[test]
fn haproxy_in_front() {
    let origin = Origin::ok();
    let proxy = Setup { listener: BELIEVED, workers: 1, ..Setup::default() }.start(origin.addr());
    for (number, options) in
        ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id"].into_iter().enumerate()
    {
        let front = haproxy(&format!("{} {options}", proxy.addr()));
        let client = format!("127.0.0.{}", 20 + number);
        origin.forget();
        let mut conn = from(&client, front.addr());
        conn.write(REQUEST);
        assert_eq!(conn.response("GET").status(), 200, "{options}");
        assert_eq!(origin.last().head.get("x-forwarded-for"), Some(client), "{options}");
    }
    // Its health checks have a header of their own.
    let checked = haproxy(&format!("{} send-proxy-v2 check inter 50ms", proxy.addr()));
    proxy.await_metric("outrigger_worker_connections_closed_total", &[("reason", "")], 5.0);
    assert_eq!(get(checked.addr(), "/").status(), 200);
    assert_eq!(proxy.counted("proxy_header"), 0.0);
}

/// Tells whom nginx was told of.
const TELL: &str =
    "location / { return 200 \"$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr\"; }";

fn told(proxy: &Proxy) -> String {
    let mut conn = from("127.0.0.30", proxy.addr());
    let port = conn.local_addr().port().to_string();
    conn.write(REQUEST);
    let reply = conn.response("GET");
    reply.text().replace(&port, "PORT")
}

#[test]
fn nginx_is_told() {
    let server = nginx(&format!("server {{ listen {{addr}} proxy_protocol; {TELL} }}"));
    for version in ["v1", "v2"] {
        let service = format!(", protocol: tcp, proxyProtocol: {version}");
        let proxy = Setup { service: &service, workers: 1, ..Setup::default() }.start(server.addr());
        assert_eq!(told(&proxy), "127.0.0.30 PORT 127.0.0.1", "{version}");
        // What we were told is handed on.
        let listener = ", proxyProtocol: { from: [127.0.0.30] }";
        let proxy = Setup { listener, service: &service, workers: 1, ..Setup::default() }.start(server.addr());
        let mut conn = from("127.0.0.30", proxy.addr());
        conn.write([b"PROXY TCP6 2001:db8::7 ::1 4711 80\r\n", REQUEST.as_bytes()].concat());
        assert_eq!(conn.response("GET").text(), "2001:db8::7 4711 ::ffff:127.0.0.1", "{version}");
    }
}

/// Ahead of TLS, and once more where a connection is made anew.
#[test]
fn nginx_is_told_before_tls() {
    let mesh = Mesh::new();
    let pair = mesh.pki.server(&["app.test"]);
    let (crt, key) = (pair.certificate.display(), pair.key.display());
    let server = nginx(&format!(
        "server {{ listen {{addr}} ssl proxy_protocol; ssl_certificate {crt}; ssl_certificate_key {key}; {TELL} }}"
    ));
    let service = format!(
        ", protocol: tcp, proxyProtocol: v2, tls: {{ mode: simple, serverName: app.test, trustBundle: \"{}\" }}",
        mesh.pki.bundle().display()
    );
    let proxy = Setup { service: &service, workers: 1, ..Setup::default() }.start(server.addr());
    for _ in 0..3 {
        assert_eq!(told(&proxy), "127.0.0.30 PORT 127.0.0.1");
    }
}

/// With its first bytes, though the service speaks first.
#[test]
fn a_server_that_speaks_first_is_told_at_once() {
    let origin = Origin::raw(|mut conn, _| {
        let line = conn.line().unwrap_or_default();
        conn.try_write([b"220 ", &line[..]].concat());
    });
    let service = ", protocol: tcp, proxyProtocol: v1";
    let proxy = Setup { service, workers: 1, ..Setup::default() }.start(origin.addr());
    let mut conn = from("127.0.0.30", proxy.addr());
    let port = conn.local_addr().port();
    let listens = proxy.addr().port();
    let line = format!("220 PROXY TCP4 127.0.0.30 127.0.0.1 {port} {listens}\r\n");
    assert_eq!(show(&conn.read_to_end()), show(line.as_bytes()));
}

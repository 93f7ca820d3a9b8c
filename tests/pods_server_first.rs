//! Protocols that nobody has named: who speaks first, and what passes before anybody knows what it is.

mod common;

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use common::mesh::{Mesh, REVIEWS};
use common::pods::{Ear, Keys, Net, PROXY, Pod, Running};
use common::tls::Client;
use common::{Conn, Origin, TempDir, show};

/// A talk in turns: who says it, and what.
type Talk = &'static [(Side, &'static [u8])];

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Server,
    Client,
}

use Side::{Client as C, Server as S};

const SMTP: Talk = &[
    (S, b"220 mail.test ESMTP ready\r\n"),
    (C, b"EHLO client.test\r\n"),
    (S, b"250-mail.test\r\n250 STARTTLS\r\n"),
    (C, b"QUIT\r\n"),
    (S, b"221 2.0.0 Bye\r\n"),
];
/// A greeting of protocol 10, then whatever.
const MYSQL: Talk = &[
    (S, b"\x4a\x00\x00\x00\x0a8.0.36\x00\x08\x00\x00\x00abcdefgh\x00\xff\xff\xff\x02\x00\xff\xdf\x15\x00\x00\x00"),
    (C, b"\x20\x00\x00\x01\x85\xa6\xff\x01\x00\x00\x00\x01\xff"),
    (S, b"\x07\x00\x00\x02\x00\x00\x00\x02\x00\x00\x00"),
    (C, b"\x01\x00\x00\x00\x01"),
];
const NATS: Talk = &[
    (S, b"INFO {\"server_id\":\"X\",\"version\":\"2.10.0\",\"headers\":true}\r\n"),
    (C, b"CONNECT {\"verbose\":false}\r\nPING\r\n"),
    (S, b"PONG\r\n"),
    (C, b"SUB foo 1\r\nPUB foo 5\r\nhello\r\n"),
    (S, b"MSG foo 1 5\r\nhello\r\n"),
];
/// The client speaks first, and it looks like nothing.
const RESP: Talk = &[(C, b"*1\r\n$4\r\nPING\r\n"), (S, b"+PONG\r\n"), (C, b"QUIT\r\n"), (S, b"+OK\r\n")];

fn play(conn: &mut Conn, talk: Talk, own: Side) {
    for (side, bytes) in talk {
        if *side == own {
            conn.write(bytes);
        } else {
            assert_eq!(show(&conn.read_exact(bytes.len())), show(bytes));
        }
    }
    conn.finish();
    assert_eq!(show(&conn.read_to_end()), "", "and nothing else");
}

fn server(listener: TcpListener, talk: Talk) -> Origin {
    Origin::raw_on(listener, move |mut conn, _| play(&mut conn, talk, S))
}

#[test]
fn they_pass_without_being_named() {
    let Some(net) = Net::new() else { return };
    let mesh = Mesh::new();
    let services = format!(
        "{}services:\n  mail: {{ addresses: [10.96.0.25], port: 2525, endpoints: {{ static: [\"10.9.0.3:2525\"] }}, \
         tls: {{ mode: mutual, identities: [\"{REVIEWS}\"] }} }}\n",
        mesh.identity(&mesh.web)
    );
    let caller = net.a.sidecar(&Keys { top: &services, ..Keys::default() });
    let top = mesh.identity(&mesh.reviews);
    let called = net.b.sidecar(&Keys { inbound: ", tls: { mode: permissive }", top: &top, ..Keys::default() });
    for (port, talk) in [(2525, SMTP), (3306, MYSQL), (4222, NATS), (6379, RESP)] {
        let _app = server(net.b.listen(format!("0.0.0.0:{port}")), talk);
        let _app6 = server(net.b.listen(format!("[fd09::3]:{port}")), talk);
        for address in [net.b.at(port), net.b.at6(port), net.b.at(port)] {
            play(&mut net.a.connect(address), talk, C);
        }
        if port == 2525 {
            play(&mut net.a.connect("10.96.0.25:2525"), talk, C);
            called.await_page("/peers", "shop/sa/web");
        }
        for sidecar in [&caller, &called] {
            let page = sidecar.await_page("/learned", &net.b.at(port).to_string());
            let yaml = sidecar.ask(|proxy| proxy.admin("GET", "/learned?format=yaml").text());
            assert!(yaml.contains("tcp"), "{yaml}\n{page}");
        }
    }
}

#[test]
fn redis_is_served() {
    let Some(net) = Net::new() else { return };
    let dir = TempDir::new("redis");
    let folder = dir.path().display().to_string();
    let args = ["--port", "6379", "--bind", "0.0.0.0", "::", "--protected-mode", "no", "--save", "", "--dir", &folder];
    let _redis: Running = net.b.spawn(0, "redis-server", &args);
    net.b.await_port("10.9.0.3:6379");
    let mesh = Mesh::new();
    let services = format!(
        "{}services:\n  redis: {{ addresses: [10.96.0.63], port: 6379, endpoints: {{ static: [\"10.9.0.3:6379\"] }}, \
         tls: {{ mode: mutual, identities: [\"{REVIEWS}\"] }} }}\n",
        mesh.identity(&mesh.web)
    );
    let _caller = net.a.sidecar(&Keys { top: &services, ..Keys::default() });
    let top = mesh.identity(&mesh.reviews);
    let called = net.b.sidecar(&Keys { inbound: ", tls: { mode: permissive }", top: &top, ..Keys::default() });
    let said = |host: &str, words: &[&str]| net.a.run("redis-cli", &[&["-h", host], words].concat());
    assert_eq!(said("10.96.0.63", &["SET", "key", "value"]), "OK\n");
    assert_eq!(said("10.96.0.63", &["GET", "key"]), "value\n");
    assert_eq!(said("10.9.0.3", &["GET", "key"]), "value\n");
    assert_eq!(said("fd09::3", &["GET", "key"]), "value\n");
    called.await_page("/peers", "shop/sa/web");
    let bulk = said("10.96.0.63", &["-r", "100", "INCR", "n"]);
    assert!(bulk.ends_with("100\n"), "{bulk}");
}

/// From the connect to the first byte of a banner, at the median of fresh destinations.
fn first_byte(pod: &Pod, uid: u32, targets: &[SocketAddr]) -> Duration {
    let once = |target: &SocketAddr| {
        let begin = Instant::now();
        let mut conn = Conn::new(pod.try_connect(uid, target).expect("connect"));
        assert_eq!(conn.read_exact(4), b"220 ");
        begin.elapsed()
    };
    let mut all: Vec<Duration> = targets.iter().map(once).collect();
    all.sort();
    all[all.len() / 2]
}

#[test]
fn the_first_connection_waits_for_nothing() {
    const EACH: u16 = 7;
    let Some(net) = Net::new() else { return };
    let _a = net.a.sidecar(&Keys::default());
    let _b = net.b.sidecar(&Keys::default());
    let mut tried = Vec::new();
    // A machine that is busy may take its time once; a proxy that waits does so always.
    for round in 0..4 {
        let ports: Vec<u16> = (0..EACH).map(|n| 2000 + round * 100 + n).collect();
        let _banners: Vec<Origin> = [&net.node, &net.b]
            .into_iter()
            .flat_map(|pod| ports.iter().map(|port| server(pod.listen(format!("0.0.0.0:{port}")), SMTP)))
            .collect();
        let at = |pod: &Pod| ports.iter().map(|port| pod.at(*port)).collect::<Vec<_>>();
        let direct = first_byte(&net.a, PROXY, &at(&net.node));
        let one = first_byte(&net.a, common::pods::APP, &at(&net.node));
        let two = first_byte(&net.a, common::pods::APP, &at(&net.b));
        tried.push((direct, one, two));
        if [one, two].iter().all(|time| time.saturating_sub(direct) < Duration::from_millis(5)) {
            return;
        }
    }
    panic!("5 ms and more at the median of {EACH}: direct, through one sidecar, through two: {tried:?}");
}

/// The server's first word does not come, and the client's ends it.
fn refused(mut conn: Conn, what: &str) {
    assert!(conn.is_quiet(Duration::from_millis(200)), "{what}: something came");
    conn.write("EHLO client.test\r\n");
    assert_eq!(show(&conn.read_to_end()), "", "{what}");
}

#[test]
fn what_rules_look_at_is_http_or_nothing() {
    let Some(net) = Net::new() else { return };
    let _banner = server(net.b.listen("0.0.0.0:2525"), SMTP);
    let ear = Ear::on(net.b.listen("0.0.0.0:8080"), "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    net.b.intercept(&[]);
    let rule = "authorization:\n  - { name: reads, allow: [{ to: { methods: [GET] } }] }\n";
    let called = net.b.uncaptured(&Keys { top: rule, ..Keys::default() });
    refused(net.node.connect("10.9.0.3:2525"), "inbound");
    for said in [&b"\x01 opaque"[..], b"*1\r\n$4\r\nPING\r\n", &Client::anonymous().name("x.test").hello()] {
        let mut conn = net.node.connect("10.9.0.3:8080");
        conn.write(said);
        assert_eq!(show(&conn.read_to_end()), "", "after {}", show(said));
    }
    called.await_counted("undetected", 4.0);
    assert_eq!(net.node.get("10.9.0.3:8080", "x").status(), 200);
    assert!(ear.heard().iter().all(|said| said.is_empty() || said.starts_with(b"GET ")), "{:?}", ear.heard());
    drop(called);

    // Unless it is said that such bytes are meant.
    let inbound = ", ports: { 2525: { undetected: allow } }";
    let _called = net.b.uncaptured(&Keys { inbound, top: rule, ..Keys::default() });
    play(&mut net.node.connect("10.9.0.3:2525"), SMTP, C);
    let mut conn = net.node.connect("10.9.0.3:8080");
    conn.write("\x01 opaque");
    assert_eq!(show(&conn.read_to_end()), "", "for that port alone");
}

#[test]
fn routes_look_at_http_or_nothing() {
    let Some(net) = Net::new() else { return };
    let _banner = server(net.node.listen("0.0.0.0:2525"), SMTP);
    net.a.intercept(&[]);
    let config = |more: &str| {
        format!(
            "services:\n  mail: {{ hosts: [mail], addresses: [10.96.0.25], port: 2525, endpoints: {{ static: [\"10.9.0.1:2525\"] }}{more} }}\n\
             routes: [{{ name: mail, hosts: [mail], match: [{{ methods: [GET] }}], to: mail }}]\n"
        )
    };
    for (more, passes) in [("", false), (", undetected: deny", false), (", undetected: allow", true)] {
        let top = config(more);
        let caller = net.a.uncaptured(&Keys { top: &top, ..Keys::default() });
        for address in ["10.96.0.25:2525", "10.9.0.1:2525"] {
            let mut conn = net.a.connect(address);
            if passes {
                play(&mut conn, SMTP, C);
            } else {
                refused(conn, &format!("{address} `{more}`"));
            }
        }
        let denied = if passes { 0.0 } else { 2.0 };
        caller.await_counted("undetected", denied);
    }
}

#[test]
fn what_begins_and_stops() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let Some(net) = Net::new() else { return };
    let hello = Client::anonymous().name("secure.test").alpn(&["h2"]).hello();
    let (far, near) = (Ear::on(net.node.listen("0.0.0.0:9000"), ""), Ear::on(net.b.listen("0.0.0.0:9000"), ""));
    let keys = Keys { inbound: ", detectionTimeout: 300ms", outbound: ", detectionTimeout: 300ms", ..Keys::default() };
    let (_a, b) = (net.a.sidecar(&keys), net.b.sidecar(&keys));
    let cuts = (1..PREFACE.len()).map(|cut| &PREFACE[..cut]);
    let begun: [&[u8]; 5] = [b"G", b"\x16", &hello[..5], &hello[..hello.len() / 2], b"GET / HTT"];
    let all: Vec<&[u8]> = cuts.chain(begun).collect();
    // Outbound to somebody unknown, and inbound to an application: what will not be whole passes as it is.
    for (pod, target, ear) in [(&net.a, net.node.at(9000), &far), (&net.node, net.b.at(9000), &near)] {
        let mut open: Vec<Conn> = all.iter().map(|_| pod.connect(target)).collect();
        for (conn, bytes) in open.iter_mut().zip(&all) {
            conn.write(bytes);
        }
        for bytes in &all {
            ear.await_heard(bytes);
        }
        // It goes on as it began, and ends.
        for (conn, bytes) in open.iter_mut().zip(&all) {
            conn.write("\x00 and more");
            conn.finish();
            ear.await_heard(&[bytes, b"\x00 and more".as_slice()].concat());
            assert_eq!(show(&conn.read_to_end()), "");
        }
        // The same where the client ends instead of waiting.
        for bytes in [b"G".as_slice(), &hello[..5], &PREFACE[..20]] {
            let mut conn = pod.connect(target);
            conn.write(bytes);
            conn.finish();
            assert_eq!(show(&conn.read_to_end()), "", "{}", show(bytes));
        }
    }
    assert_eq!(b.ask(|proxy| proxy.probe("/readyz")), Some(200));
}

#[test]
fn http_is_detected_byte_by_byte() {
    let Some(net) = Net::new() else { return };
    let _app = net.b.app("0.0.0.0:8080", "app");
    let called = net.b.sidecar(&Keys::default());
    let mut conn = net.node.connect("10.9.0.3:8080");
    conn.write_bytewise("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert_eq!(conn.response("GET").text(), "app");
    let counted = || called.metric("http_requests_total", &[("service", "@application"), ("route", "port-other")]);
    common::until("it is counted as HTTP", common::SOON, || counted() == 1.0);
}

//! A listener that takes all three: ours, the application's own TLS untouched, and plaintext; told apart by their first
//! bytes, however these come.

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::h2peer::{self, H2Origin};
use common::mesh::{MUTUAL, Mesh, PERMISSIVE, REVIEWS, Tap, WEB};
use common::pki::{Pair, Pki};
use common::tls::{Client, MARK, OpenSsl, Server, TCP, certificates, s_client};
use common::{Conn, Origin, Proxy, SOON, Setup, get, send, show, until};

const XFCC: &str = "x-forwarded-client-cert";
const OURS: &[&str] = &["h2", "http/1.1", MARK];

/// Plaintext for `app.test`, TLS of its own for `own.test`, nothing for others.
struct Ground {
    mesh: Mesh,
    pki: Pki,
    own: Pair,
    app: Origin,
    secret: Origin,
    front: common::tls::Bridge,
    proxy: Proxy,
}

impl Ground {
    fn new() -> Self {
        let (mesh, pki) = (Mesh::new(), Pki::new("own.test"));
        let own = pki.server(&["own.test"]);
        let (app, secret) = (Origin::named("app"), Origin::named("own"));
        let front = Server::of(&own).alpn(&["http/1.1"]).front(secret.addr());
        let proxy = start(&mesh, app.addr(), front.addr());
        Self { mesh, pki, own, app, secret, front, proxy }
    }
}

fn start(mesh: &Mesh, app: SocketAddr, own: SocketAddr) -> Proxy {
    let config = format!(
        r#"apiVersion: outrigger/v1
admin: {{ address: "{{admin}}" }}
health: {{ address: "{{health}}" }}
{}listeners:
  - {{ name: edge, mode: proxy, address: "{{listen}}"{PERMISSIVE} }}
services:
  app: {{ endpoints: {{ static: ["{{app}}"] }} }}
  own: {{ endpoints: {{ static: ["{{own}}"] }} }}
routes:
  - {{ name: app, hosts: [app.test], to: app }}
  - {{ name: own, hosts: [own.test], to: own }}
"#,
        mesh.identity(&mesh.reviews)
    );
    Proxy::start(&config, &[("app", app), ("own", own)])
}

#[test]
fn three_kinds_on_one_port() {
    let ground = Ground::new();
    let slow = Tap::bytewise(ground.proxy.addr());
    for addr in [ground.proxy.addr(), slow.addr()] {
        // Plaintext, which has proven nothing.
        let mut conn = Conn::connect(addr);
        conn.write("GET / HTTP/1.1\r\nHost: app.test\r\nX-Forwarded-Client-Cert: URI=spiffe://mesh.test/a\r\n\r\n");
        assert_eq!(conn.response("GET").text(), "app");
        assert!(!ground.app.last().head.has(XFCC), "{:?}", ground.app.last());
        let answer = h2peer::call(addr, h2peer::request("GET", "/", &[]), b"", None).expect("an answer");
        assert_eq!(show(&answer.body), "app");
        // Ours.
        let bridge = Client::of(&ground.mesh.web).alpn(&OURS[1..]).served(addr);
        assert_eq!(bridge.last().chain, certificates(&ground.mesh.reviews.certificate));
        assert!(ground.app.last().head.get(XFCC).is_some_and(|xfcc| xfcc.contains(WEB)));
        // The application's own: its certificate, its choice of protocol, and nothing of ours.
        let bridge = Client::anonymous().name("own.test").alpn(&["h2", "http/1.1"]).bridge(addr);
        assert_eq!(bridge.get("/").text(), "own");
        assert_eq!(bridge.last().chain, certificates(&ground.own.certificate));
        assert!(!ground.secret.last().head.has(XFCC) && !ground.secret.last().head.has("x-request-id"));
        let facts = ground.front.last();
        assert_eq!(
            (facts.name.as_deref(), &facts.offered[..]),
            (Some("own.test"), &["h2", "http/1.1"].map(str::to_owned)[..])
        );
        // It may be as old as the application likes.
        let bridge = Client::of(&ground.mesh.web).name("own.test").old().bridge(addr);
        assert_eq!((bridge.get("/").text(), bridge.last().version), ("own".to_owned(), "TLSv1_2".to_owned()).clone());
    }
    let app = ground.app.seen().len();
    // What would not be forwarded is not passed through either.
    Client::anonymous().name("nowhere.test").refused(ground.proxy.addr());
    Client::anonymous().refused(ground.proxy.addr());
    assert_eq!(ground.app.seen().len(), app);
}

#[test]
fn openssl_behind_it_is_what_openssl_sees() {
    let ground = Ground::new();
    let server = OpenSsl::serve(&ground.own, &["-www"]);
    let proxy = start(&ground.mesh, ground.app.addr(), server.addr());
    let ca = ground.pki.bundle().display().to_string();
    let args = ["-servername", "own.test", "-CAfile", &ca, "-verify_return_error", "-verify_hostname", "own.test"];
    let out = s_client(proxy.addr(), &args, "GET / HTTP/1.0\r\n\r\n");
    for part in ["Verify return code: 0 (ok)", "HTTP/1.0 200 ok", "Server Temp Key: X25519"] {
        assert!(out.contains(part), "`{part}` in {out}");
    }
}

/// Who is marked as one of ours is judged as one: it is not let through as anything else.
#[test]
fn ours_have_to_prove_it() {
    let ground = Ground::new();
    let pki = &ground.mesh.pki;
    for (pair, reason) in [
        (pki.unknown_authority("shop", "web"), "unknown_authority"),
        (pki.expired("shop", "web"), "expired"),
        (pki.no_purpose("shop", "web"), "bad_purpose"),
    ] {
        Client::of(&pair).alpn(OURS).name("own.test").refused(ground.proxy.addr());
        ground.proxy.await_failed(reason, 1.0);
    }
    Client::anonymous().alpn(OURS).name("own.test").refused(ground.proxy.addr());
    ground.proxy.await_failed("no_certificate", 1.0);
    Client::of(&ground.mesh.web).alpn(OURS).old().name("own.test").refused(ground.proxy.addr());
    ground.proxy.await_failed("protocol_version", 1.0);
    assert_eq!((ground.app.seen().len(), ground.secret.seen().len()), (0, 0));
}

#[test]
fn a_sidecar_is_known_by_its_hello() {
    let mesh = Mesh::new();
    let (one, two) = (Origin::ok(), H2Origin::echo());
    for (up, protocol) in [(one.addr(), ""), (one.addr(), ", protocol: http1"), (two.addr, ", protocol: http2")] {
        let setup = Setup { listener: PERMISSIVE, service: protocol, ..Setup::default() };
        let far = mesh.inbound(up, setup);
        let tap = Tap::before(far.addr());
        let service = format!("{MUTUAL}{protocol}");
        let near = mesh.outbound_as(tap.addr(), Setup { service: &service, ..Setup::default() });
        near.assert_serves();
        assert!(!tap.carried(b"app.test"), "in the clear");
    }
    assert!(one.last().head.get(XFCC).is_some_and(|xfcc| xfcc.contains(WEB) && xfcc.contains(REVIEWS)));
}

#[test]
fn tcp_of_three_kinds() {
    let mesh = Mesh::new();
    let echo = Origin::raw(|mut conn, _| {
        loop {
            let some = conn.read_some();
            if some.is_empty() || !conn.try_write(some) {
                return;
            }
        }
    });
    let tcp = Setup {
        listener: ", protocol: tcp, tls: { mode: permissive }",
        service: ", protocol: tcp",
        ..Setup::default()
    };
    let far = mesh.inbound(echo.addr(), tcp);
    let slow = Tap::bytewise(far.addr());
    let hello = Client::anonymous().name("own.test").alpn(&["h2"]).hello();
    let mut changed = Vec::new();
    for addr in [far.addr(), slow.addr()] {
        // Not a bit of the application's own TLS is changed, nor of what is no TLS.
        let table = [&hello[..], b"\x17\x03\x01\xff\xffno", b"\x16zzzz", b"hello", b"\0", b"P"];
        changed.extend(
            table.map(|bytes| (show(bytes), show(&send(addr, bytes)))).into_iter().filter(|(to, from)| to != from),
        );
        let mut conn = Client::of(&mesh.web).alpn(&[TCP]).bridge(addr).connect();
        conn.write("hello");
        assert_eq!(conn.read_exact(5), b"hello");
    }
    let near = mesh.outbound_as(far.addr(), Setup { service: &format!("{MUTUAL}, protocol: tcp"), ..Setup::default() });
    let mut conn = Conn::connect(near.addr());
    conn.write([0, 1, 2]);
    assert_eq!(conn.read_exact(3), [0, 1, 2]);

    // The server speaks first, as that of MySQL does: who says nothing is not one of ours.
    let greets = Origin::raw(|mut conn, _| {
        conn.write("greeting");
        conn.read_to_end();
    });
    let far = mesh.inbound(greets.addr(), tcp);
    let mut conn = Conn::connect(far.addr());
    assert_eq!(show(&conn.read_some()), "greeting", "in plaintext");
    // Ours do not wait for it.
    let mut conn = Client::of(&mesh.web).alpn(&[TCP]).bridge(far.addr()).connect();
    assert!(conn.is_quiet(Duration::from_millis(1)) || !conn.read_some().is_empty());
    let near = mesh.outbound_as(far.addr(), Setup { service: &format!("{MUTUAL}, protocol: tcp"), ..Setup::default() });
    assert_eq!(show(&Conn::connect(near.addr()).read_some()), "greeting", "between two of ours");
    assert_eq!(changed, []);
}

/// Before strict is switched on: who would be locked out.
#[test]
fn who_still_speaks_plaintext_is_listed() {
    let ground = Ground::new();
    let peers = |how: &str| ground.proxy.admin_json(&format!("/peers?how={how}"))["peers"].clone();
    let counted = |how: &str| {
        let labels = [("listener", "edge"), ("security", how)];
        ground.proxy.metric("outrigger_downstream_connections_total", &labels)
    };
    let kinds = ["mtls", "tls", "plaintext", "passthrough"];
    assert_eq!(kinds.map(|how| (peers(how).as_array().map(Vec::len), counted(how) as u64)), [(Some(0), 0); 4]);
    Client::of(&ground.mesh.web).alpn(&OURS[1..]).served(ground.proxy.addr());
    for _ in 0..3 {
        assert_eq!(get(ground.proxy.addr(), "/").status(), 200);
    }
    assert_eq!(Client::anonymous().name("own.test").bridge(ground.proxy.addr()).get("/").text(), "own");
    for (how, connections, identity) in [("mtls", 1, Some(WEB)), ("plaintext", 3, None), ("passthrough", 1, None)] {
        until(how, SOON, || counted(how) as u64 == connections);
        let all = peers(how);
        assert_eq!(all.as_array().map(Vec::len), Some(1), "{all}");
        let peer = &all[0];
        assert_eq!((peer["listener"].as_str(), peer["how"].as_str()), (Some("edge"), Some(how)));
        assert_eq!((peer["identity"].as_str(), peer["connections"].as_u64()), (identity, Some(connections)), "{peer}");
        assert!(peer["address"].as_str().is_some_and(|address| address.contains("127.0.0.1")), "{peer}");
    }
    until("none is open", SOON, || peers("plaintext")[0]["open"] == 0);
    assert_eq!(counted("tls"), 0.0);
    // Those that are there when it becomes strict end, unless they have proven who they are.
    let ours = Client::of(&ground.mesh.web).alpn(&OURS[1..]).bridge(ground.proxy.addr());
    let (mut stays, mut ends) = (ours.connect(), Conn::connect(ground.proxy.addr()));
    for conn in [&mut stays, &mut ends] {
        conn.write("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
        assert_eq!(conn.response("GET").status(), 200);
    }
    ground.proxy.reload("mode: permissive", "mode: strict");
    assert_eq!(show(&ends.read_to_end()), "");
    stays.write("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
    assert_eq!(stays.response("GET").status(), 200);
    Client::of(&ground.mesh.web).alpn(&OURS[1..]).served(ground.proxy.addr());
    let answer = show(&send(ground.proxy.addr(), "GET / HTTP/1.1\r\nHost: app.test\r\n\r\n"));
    assert!(!answer.contains("200 OK"), "{answer}");
    ground.proxy.await_failed("plaintext", 1.0);
}

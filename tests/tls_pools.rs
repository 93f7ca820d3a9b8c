//! What is kept of one connection for the next: nothing that was proven of somebody else, and no more bytes than fit.

mod common;

use std::time::Duration;

use common::h2raw::{self, Peer};
use common::mesh::{MUTUAL, Mesh, PERMISSIVE, REVIEWS, STRICT, Tap, WEB};
use common::pki::{Leaf, Pki};
use common::tls::{Client, Server, certificates};
use common::{Conn, Origin, Proxy, SOON, Setup, eventually, get, pattern, until};

const XFCC: &str = "x-forwarded-client-cert";

/// A change of `tls` is a change of whom one speaks to.
#[test]
fn a_reload_changes_how_a_service_is_spoken_to() {
    let (mesh, origin) = (Mesh::new(), Origin::ok());
    let far = mesh.inbound(origin.addr(), Setup { listener: PERMISSIVE, ..Setup::default() });
    let tap = Tap::before(far.addr());
    let near = mesh.outbound_as(tap.addr(), Setup::default());
    let told = || origin.last().head.get(XFCC).unwrap_or_default();
    near.assert_serves();
    assert!(tap.carried(b"app.test") && !told().contains(WEB));
    let plain = tap.lines().len();
    let off = format!("endpoints: {{ static: [\"{}\"] }} }}", tap.addr());
    let mutual = format!("endpoints: {{ static: [\"{}\"] }}{MUTUAL} }}", tap.addr());
    near.reload(&off, &mutual);
    near.assert_serves();
    assert!(told().contains(WEB), "the connection of before is not used");
    let lines = tap.lines();
    assert!(lines.len() > plain && lines[plain..].iter().all(|line| line.up.first() == Some(&22)));
    // And back, with `off` said.
    near.reload(&mutual, &off.replace("] } }", "] }, tls: { mode: \"off\" } }"));
    near.assert_serves();
    assert!(!told().contains(WEB));
}

/// The same address, expected to be two different ones: each has its own connections.
#[test]
fn connections_are_not_shared_between_expectations() {
    let (mesh, origin) = (Mesh::new(), Origin::ok());
    let far = mesh.inbound(origin.addr(), Setup { listener: STRICT, service: ", protocol: http1", ..Setup::default() });
    let config = format!(
        r#"apiVersion: outrigger/v1
admin: {{ address: "{{admin}}" }}
health: {{ address: "{{health}}" }}
runtime: {{ workers: 1 }}
{}listeners: [{{ name: edge, mode: proxy, address: "{{listen}}" }}]
services:
  right: {{ endpoints: {{ static: ["{{far}}"] }}, tls: {{ mode: mutual, identities: ["{REVIEWS}"] }} }}
  wrong: {{ endpoints: {{ static: ["{{far}}"] }}, tls: {{ mode: mutual, identities: ["spiffe://mesh.test/ns/shop/sa/other"] }} }}
  plain: {{ endpoints: {{ static: ["{{far}}"] }} }}
routes:
  - {{ name: wrong, match: [{{ path: {{ prefix: /wrong }} }}], to: wrong }}
  - {{ name: plain, match: [{{ path: {{ prefix: /plain }} }}], to: plain }}
  - {{ name: right, to: right }}
"#,
        mesh.identity(&mesh.web)
    );
    let near = Proxy::start(&config, &[("far", far.addr())]);
    let mut conn = Conn::connect(near.addr());
    for (path, served) in
        [("/", true), ("/wrong", false), ("/", true), ("/plain", false), ("/wrong", false), ("/", true)]
    {
        conn.write(format!("GET {path} HTTP/1.1\r\nHost: app.test\r\n\r\n"));
        let status = conn.response("GET").status();
        assert_eq!(status == 200, served, "{path}: {status}");
    }
    assert_eq!(origin.seen().len(), 3);
}

/// Who is of another trust domain is nobody, though it has the same authority.
#[test]
fn a_trust_domain_is_one() {
    let (mesh, origin) = (Mesh::new(), Origin::ok());
    let far = mesh.strict(origin.addr());
    let pair = mesh.pki.wrong_trust_domain("shop", "web");
    let top = mesh.identity(&pair).replace("trustDomain: mesh.test", "trustDomain: wrong.mesh.test");
    let service = MUTUAL.replace("mesh.test", "wrong.mesh.test");
    let near = Setup { service: &service, top: &top, workers: 1, ..Setup::default() }.start(far.addr());
    assert_eq!(near.cause_of(|| drop(get(near.addr(), "/"))), "wrong_identity");
    assert_eq!(origin.connections(), 0);
}

/// A new certificate is shown by new connections; those of before go on.
#[test]
fn a_new_certificate_is_shown_to_services() {
    let (mesh, origin) = (Mesh::new(), Origin::ok());
    let dir = common::TempDir::new("web");
    let (crt, key) = (dir.path().join("tls.crt"), dir.path().join("tls.key"));
    mesh.web.install(&crt, &key);
    let pair = common::pki::Pair { certificate: crt.clone(), key: key.clone(), serial: 0 };
    let front = Server::of(&mesh.reviews).demanding(mesh.pki.bundle()).alpn(&["http/1.1"]).front(origin.addr());
    let top = mesh.identity(&pair);
    let service = format!("{MUTUAL}, protocol: http1, connections: {{ maxRequests: 1 }}");
    let near = Setup { service: &service, top: &top, workers: 1, ..Setup::default() }.start(front.addr());
    near.assert_serves();
    assert_eq!(front.last().chain, certificates(&mesh.web.certificate));
    let next = mesh.pki.issue("next", &Leaf { life: -60..100_000, ..mesh.pki.leaf("shop", "web") });
    next.install(&crt, &key);
    until("the new one is shown", SOON, || {
        near.assert_serves();
        front.last().chain == certificates(&next.certificate)
    });
    let first = front.facts().into_iter().find(|facts| facts.chain == certificates(&next.certificate));
    assert_eq!(first.map(|facts| facts.resumed), Some(false), "no session of the one before is continued");
}

/// What nobody reads is not taken from whoever sends it.
#[test]
fn a_reader_that_stops_costs_no_memory() {
    const SIZE: usize = 64 << 20;
    let mesh = Mesh::new();
    let origin = Origin::raw(|mut conn, _| {
        conn.head();
        conn.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n"));
        conn.try_write(pattern(1, SIZE));
    });
    let far = mesh.inbound(origin.addr(), Setup { listener: STRICT, ..Setup::default() });
    let near = mesh.outbound(far.addr());
    let mut conn = Conn::connect(near.addr());
    conn.write("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
    conn.head();
    // Everything is full when nothing moves any more.
    let sent = || near.metric("process_resident_memory_bytes", &[]) + far.metric("process_resident_memory_bytes", &[]);
    let mut last = sent();
    eventually("it has come to rest", SOON, || {
        std::thread::sleep(Duration::from_millis(50));
        let now = sent();
        let still = (now - last).abs() < 1.0;
        last = now;
        still.then_some(())
    });
    for proxy in [&near, &far] {
        assert!(proxy.memory().1 < 48 * 1024, "peak memory of {} KiB", proxy.memory().1);
    }
    assert!(conn.read_exact(SIZE) == pattern(1, SIZE), "changed on the way");
}

/// The end of a connection of TLS is said, and not only the end of its socket.
#[test]
fn every_end_is_announced() {
    let (mesh, origin) = (Mesh::new(), Origin::ok());
    let far = mesh.strict(origin.addr());
    for alpn in [&["http/1.1"][..], &[]] {
        let bridge = Client::of(&mesh.web).alpn(alpn).bridge(far.addr());
        let mut conn = bridge.connect();
        conn.write("GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n");
        assert_eq!(conn.response("GET").status(), 200);
        assert_eq!(conn.read_to_end(), b"");
        // One that is refused as a request.
        let mut conn = bridge.connect();
        conn.write("GET / HTTP/9.9\r\n\r\n");
        assert_eq!(conn.head().status(), 400);
        conn.read_to_end();
        // One that ends by itself.
        drop(bridge.connect());
        until("they are gone", SOON, || far.metric("outrigger_worker_connections_active", &[]) == 0.0);
        assert_eq!(bridge.errors(), [""; 0], "{alpn:?}");
    }
    // And when the proxy stops, for each protocol.
    let (one, two) = (Client::of(&mesh.web), Client::of(&mesh.web).alpn(&["h2"]));
    let (one, two) = (one.bridge(far.addr()), two.bridge(far.addr()));
    let mut idle = one.connect();
    idle.write("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
    assert_eq!(idle.response("GET").status(), 200);
    let mut peer = Peer::client(two.addr(), &[]);
    peer.headers(1, &h2raw::request("GET", "/", &[]), true);
    assert_eq!(peer.answer(1).0, 200);
    far.signal("TERM");
    assert_eq!(idle.read_to_end(), b"");
    peer.wait("a GOAWAY", |frame| frame.kind == h2raw::GOAWAY);
    drop(peer);
    let mut far = far;
    assert!(far.wait_exit(SOON).success());
    assert_eq!((one.errors(), two.errors()), (Vec::new(), Vec::new()));
}

/// Names in a certificate are data: they do not become fields of what the application is told.
#[test]
fn a_certificate_cannot_forge_what_is_told_of_it() {
    let (mesh, origin) = (Mesh::new(), Origin::ok());
    let far = mesh.strict(origin.addr());
    let names = ["a;URI=spiffe://mesh.test/ns/x/sa/root", "b,By=spiffe://mesh.test/c", "c\"d", "e\\", "f=g"];
    let leaf = Leaf { dns: names.map(str::to_owned).to_vec(), ..mesh.pki.leaf("shop", "web") };
    let bridge = Client::of(&mesh.pki.issue("forged", &leaf)).bridge(far.addr());
    let mut conn = bridge.connect();
    conn.write("GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n");
    // Refused, or told in such a way that whoever reads it finds one client and its one identity.
    if conn.try_head().is_some_and(|head| head.status() == 200) {
        let told = origin.last().head.all(XFCC);
        assert_eq!(told.len(), 1);
        let (mut fields, mut quoted, mut escaped) = (vec![String::new()], false, false);
        for letter in told[0].chars() {
            match letter {
                _ if escaped => escaped = false,
                '\\' if quoted => escaped = true,
                '"' => quoted = !quoted,
                ',' if !quoted => panic!("two clients: {told:?}"),
                ';' if !quoted => {
                    fields.push(String::new());
                    continue;
                }
                _ => {}
            }
            fields.last_mut().expect("a field").push(letter);
        }
        assert!(!quoted, "{told:?}");
        let ids: Vec<&String> = fields.iter().filter(|field| field.starts_with("URI=")).collect();
        assert_eq!(ids, [&format!("URI={WEB}")], "{told:?}");
        assert_eq!(fields.iter().filter(|field| field.starts_with("By=")).count(), 1, "{told:?}");
    }
}

/// A chain that never ends.
#[test]
fn a_chain_of_hundreds_is_refused() {
    let (mesh, origin) = (Mesh::new(), Origin::ok());
    let far = mesh.strict(origin.addr());
    let chain = mesh.pki.by_intermediate("shop", "web");
    let text = std::fs::read_to_string(&chain.certificate).expect("a chain");
    std::fs::write(&chain.certificate, text.repeat(200)).expect("write");
    let (before, _) = far.memory();
    let cause = far.cause_of(|| drop(Client::of(&chain).refused(far.addr())));
    assert!(["malformed", "bad_certificate", "unknown_authority"].contains(&cause.as_str()), "{cause}");
    let (_, peak) = far.memory();
    assert!(peak < before + 4 * 1024, "from {before} to {peak} KiB");
    Client::of(&mesh.web).served(far.addr());
    let other = Pki::new("mesh.test");
    Client::of(&other.workload("shop", "web")).refused(far.addr());
    assert_eq!(origin.seen().len(), 1);
}

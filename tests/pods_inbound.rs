//! What comes in to a pod: from other sidecars, from the kubelet, from whoever is outside; and to which application.

mod common;

use std::io::ErrorKind;

use common::mesh::{Mesh, REVIEWS, WEB};
use common::origin::{Gate, Next};
use common::pods::{APP, Ear, Keys, Net, Pod, Sidecar};
use common::{Conn, Origin, SOON, show, until};

/// A mesh, and what its two sidecars have.
struct Sides {
    _mesh: Mesh,
    web: String,
    reviews: String,
}

impl Sides {
    /// `authorization`: of the one that is called, as top level keys.
    fn new(authorization: &str) -> Self {
        let mesh = Mesh::new();
        let service = |name: &str, address: &str, port: u16| {
            format!(
                "  {name}: {{ addresses: [{address}], port: {port}, endpoints: {{ static: [\"10.9.0.3:{port}\"] }}, \
                 tls: {{ mode: mutual, identities: [\"{REVIEWS}\"] }} }}\n"
            )
        };
        let services = service("reviews", "10.96.0.20", 8080) + &service("admin", "10.96.0.21", 8081);
        let web = format!("{}services:\n{services}", mesh.identity(&mesh.web));
        let reviews = mesh.identity(&mesh.reviews) + authorization;
        Self { _mesh: mesh, web, reviews }
    }

    /// The sidecar of the caller.
    fn caller<'p>(&self, pod: &'p Pod) -> Sidecar<'p> {
        pod.sidecar(&Keys { top: &self.web, ..Keys::default() })
    }

    /// The one that is called, with these keys of its inbound listener.
    fn called<'p>(&self, pod: &'p Pod, inbound: &str) -> Sidecar<'p> {
        pod.sidecar(&self.keys(inbound))
    }

    fn keys<'k>(&'k self, inbound: &'k str) -> Keys<'k> {
        Keys { inbound, top: &self.reviews, ..Keys::default() }
    }
}

/// Answers with who calls, as the application sees it.
fn mirror(pod: &Pod, address: impl ToString) -> Origin {
    Origin::start_on(pod.listen(address), |_, conn| {
        let peer = conn.stream().peer_addr().expect("the client").ip().to_string();
        conn.try_write(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{peer}", peer.len()));
        Next::Keep
    })
}

/// Status of a GET, where there is one.
fn asked(mut conn: Conn) -> Option<u16> {
    conn.try_write("GET / HTTP/1.1\r\nHost: reviews\r\nConnection: close\r\n\r\n");
    conn.try_head().map(|head| head.status())
}

#[test]
fn between_two_sidecars_there_is_mtls() {
    let Some(net) = Net::new() else { return };
    let sides = Sides::new("");
    let app = net.b.app("0.0.0.0:8080", "reviews");
    let (caller, called) = (sides.caller(&net.a), sides.called(&net.b, ", tls: { mode: strict }"));
    assert_eq!(net.a.get("10.96.0.20:8080", "reviews").text(), "reviews");
    assert_eq!(net.a.get("10.9.0.3:8080", "reviews").text(), "reviews", "by its own address, too");
    assert!(net.a.run("curl", &["-sS", "http://10.96.0.20:8080/"]) == "reviews");
    let proven = app.last().head.get("x-forwarded-client-cert").unwrap_or_default();
    assert!(proven.contains(&format!("URI={WEB}")), "the application is told: {proven}");
    let page = called.await_page("/peers", WEB);
    assert!(page.contains("\"mtls\"") && page.contains("10.9.0.2") && !page.contains("plaintext"), "{page}");
    // Nobody else gets in, not even from the pod itself by another way.
    assert_eq!(asked(net.node.connect("10.9.0.3:8080")), None);
    assert_eq!(asked(net.node.connect("[fd09::3]:8080")), None);
    called.await_counted("handshake", 2.0);
    assert_eq!(caller.ask(|proxy| proxy.counted("upstream_tls")), 0.0);
}

#[test]
fn strict_permissive_off() {
    let Some(net) = Net::new() else { return };
    let sides = Sides::new("");
    let _apps = [net.b.app("0.0.0.0:8080", "reviews"), net.b.app("0.0.0.0:8081", "admin")];
    let _caller = sides.caller(&net.a);
    net.b.intercept(&[]);
    let in_turn = [
        // Listener, plaintext to 8080, plaintext to 8081, mTLS to 8080
        (", tls: { mode: strict }", false, false, true),
        (", tls: { mode: permissive }", true, true, true),
        (", tls: { mode: \"off\" }", true, true, false),
        ("", true, true, false),
        (", tls: { mode: strict }, ports: { 8081: { tls: \"off\" } }", false, true, true),
        (", tls: { mode: \"off\" }, ports: { 8081: { tls: strict }, 8080: { tls: permissive } }", true, false, true),
        (", tls: { mode: permissive }, ports: { 8080: { protocol: http }, 8081: { protocol: tcp } }", true, true, true),
    ];
    for (inbound, plain, other, mtls) in in_turn {
        let _called = net.b.uncaptured(&sides.keys(inbound));
        let ok = |conn: Conn| asked(conn) == Some(200);
        for port in [net.b.at(8080), net.b.at(8081)] {
            let expected = if port.port() == 8080 { plain } else { other };
            assert_eq!(ok(net.node.connect(port)), expected, "plaintext to {port} with `{inbound}`");
        }
        assert_eq!(ok(net.a.connect("10.96.0.20:8080")), mtls, "mTLS with `{inbound}`");
    }
}

#[test]
fn authorization_is_by_identity_and_by_the_applications_port() {
    let Some(net) = Net::new() else { return };
    let sides = Sides::new(&format!(
        "authorization:
  - {{ name: web-reads, ports: [8080], allow: [{{ from: {{ identities: [\"{WEB}\"] }}, to: {{ methods: [GET] }} }}] }}
  - {{ name: bank-only, ports: [8081], allow: [{{ from: {{ namespaces: [bank] }} }}] }}
"
    ));
    let apps =
        [net.b.app("0.0.0.0:8080", "reviews"), net.b.app("0.0.0.0:8081", "admin"), net.b.app("[::]:8082", "open")];
    let _caller = sides.caller(&net.a);
    let called = sides.called(&net.b, ", tls: { mode: permissive }");
    assert_eq!(net.a.get("10.96.0.20:8080", "reviews").status(), 200);
    assert_eq!(net.node.get("10.9.0.3:8080", "reviews").status(), 403, "nobody has proven to be anybody");
    let mut conn = net.a.connect("10.96.0.20:8080");
    conn.write("DELETE / HTTP/1.1\r\nHost: reviews\r\nConnection: close\r\n\r\n");
    assert_eq!(conn.response("DELETE").status(), 403);
    assert_eq!(asked(net.a.connect("10.96.0.21:8081")), Some(403), "another port, another rule");
    assert_ne!(asked(net.node.connect("10.9.0.3:8081")), Some(200));
    assert_eq!(net.node.get("[fd09::3]:8082", "x").status(), 200, "no rule is for this port");
    called.await_counted("denied", 4.0);
    assert_eq!((apps[0].seen().len(), apps[1].seen().len()), (1, 0), "nothing of it arrived");
}

#[test]
fn wherever_the_application_is_bound() {
    let Some(net) = Net::new() else { return };
    let b = &net.b;
    let _apps = [
        b.app("10.9.0.3:8080", "own"),
        b.app("[fd09::3]:8080", "own6"),
        b.app("127.0.0.1:8081", "loopback"),
        b.app("[::1]:8081", "loopback6"),
        b.app("127.0.0.1:8082", "hidden"),
    ];
    let inbound = ", ports: { 8081: { application: loopback } }";
    let called = b.sidecar(&Keys { inbound, ..Keys::default() });
    assert_eq!(net.node.get(b.at(8080), "x").text(), "own");
    assert_eq!(net.node.get(b.at6(8080), "x").text(), "own6");
    assert_eq!(net.node.get(b.at(8081), "x").text(), "loopback");
    assert_eq!(net.node.get(b.at6(8081), "x").text(), "loopback6");
    // What listens on loopback alone does so for a reason.
    // The reset may be there before the client has seen itself connected.
    let conn = net.node.try_connect(APP, b.at(8082)).map(Conn::new);
    assert_ne!(conn.ok().and_then(asked), Some(200));
    called.await_counted("connect_failed", 1.0);
}

#[test]
fn the_kubelet_probes() {
    let Some(net) = Net::new() else { return };
    let sides = Sides::new("");
    let _app = net.b.app("0.0.0.0:8080", "reviews");
    let inbound = ", tls: { mode: strict }, ports: { 8080: { tls: permissive } }";
    let called = sides.called(&net.b, inbound);
    // Of the sidecar, which is not redirected; of the application, by HTTP and by a connection alone.
    let probe = |url: &str| {
        net.node.run("curl", &["-sS", "-o", "/dev/null", "-w", "%{http_code}", "-A", "kube-probe/1.36", url])
    };
    assert_eq!(probe("http://10.9.0.3:15020/readyz"), "200");
    assert_eq!(probe("http://10.9.0.3:8080/healthz"), "200");
    drop(net.node.connect("10.9.0.3:8080"));
    assert_eq!(probe("http://10.9.0.3:8080/healthz"), "200");
    let page = called.await_page("/peers?how=plaintext", "10.9.0.1");
    assert!(!page.contains("15020"), "{page}");
}

#[test]
fn a_closed_port_is_closed() {
    let Some(net) = Net::new() else { return };
    let called = net.b.sidecar(&Keys { inbound: ", ports: { 8081: { protocol: tcp } }", ..Keys::default() });
    for port in [8080, 8081] {
        for said in ["", "\x01\x02 no protocol"] {
            let mut conn = match net.node.try_connect(APP, net.b.at(port)) {
                Ok(stream) => Conn::new(stream),
                // So soon that it has not seen itself connected.
                Err(error) if error.kind() == ErrorKind::ConnectionReset => continue,
                Err(error) => panic!("{error}"),
            };
            conn.try_write(said);
            assert_eq!(show(&conn.read_to_end()), "", "{port} after `{said}`");
            assert!(conn.was_reset, "{port} after `{said}`: a closed port resets");
        }
    }
    // Who asks in HTTP is told, unless that is found out before it has asked.
    let mut conn = net.node.connect("10.9.0.3:8082");
    conn.try_write("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    match conn.try_head() {
        Some(head) => assert_eq!((head.status(), head.text().contains("connect_failed")), (503, true), "{head:?}"),
        None => assert!(conn.was_reset, "closed as if in good order"),
    }
    called.await_counted("connect_failed", 5.0);
}

#[test]
fn an_application_that_never_answers() {
    let Some(net) = Net::new() else { return };
    let gate = Gate::default();
    let held = gate.clone();
    let app = Origin::raw_on(net.b.listen("0.0.0.0:8080"), move |_conn, _| held.pass());
    let top = "defaults: { streamIdleTimeout: 500ms, tcpIdleTimeout: 500ms }\n";
    let called = net.b.sidecar(&Keys { top, ..Keys::default() });
    let reply = net.node.get("10.9.0.3:8080", "x");
    assert_eq!(reply.status(), 504, "{reply:?}");
    called.await_counted("idle_timeout", 1.0);
    let mut conn = net.node.connect("10.9.0.3:8080");
    conn.write("\x01 opaque");
    assert_eq!(show(&conn.read_to_end()), "");
    drop(conn);
    gate.open();
    until("the application is let go", SOON, || app.open() == 0);
    assert_eq!(called.ask(|proxy| proxy.probe("/readyz")), Some(200));
}

#[test]
fn tproxy_keeps_the_clients_address() {
    let Some(net) = Net::new() else { return };
    let sides = Sides::new("");
    let b = &net.b;
    let _apps =
        [mirror(b, "0.0.0.0:8080"), mirror(b, "[::]:8081"), mirror(b, "127.0.0.1:8082"), mirror(b, "[::1]:8083")];
    let greeting = Origin::raw_on(b.listen("0.0.0.0:2525"), |mut conn, _| {
        let peer = conn.stream().peer_addr().expect("the client").ip();
        conn.try_write(format!("220 {peer}\r\n"));
        conn.read_to_end();
    });
    let _caller = sides.caller(&net.a);
    let inbound =
        ", tls: { mode: permissive }, ports: { 8082: { application: loopback }, 8083: { application: loopback } }";
    let called = b.sidecar(&Keys { tproxy: true, ..sides.keys(inbound) });
    assert_eq!(net.node.get(b.at(8080), "x").text(), "10.9.0.1");
    assert_eq!(net.node.get(b.at6(8081), "x").text(), "fd09::1");
    assert_eq!(net.a.get("10.96.0.20:8080", "reviews").text(), "10.9.0.2", "over mTLS, too");
    assert_eq!(net.a.get("10.96.0.20:8080", "reviews").text(), "10.9.0.2", "and again");
    assert_eq!(net.node.get(b.at(8082), "x").text(), "127.0.0.1", "on loopback it is ours");
    assert_eq!(net.node.get(b.at6(8083), "x").text(), "::1", "on loopback of IPv6");
    let mut conn = net.node.connect(b.at(2525));
    assert_eq!(conn.line().map(|line| show(&line)), Some("220 10.9.0.1\\r\\n".to_owned()), "who speaks first");
    drop(conn);
    until("both ends are let go", SOON, || greeting.open() == 0);
    let page = called.await_page("/peers", WEB);
    assert!(page.contains("10.9.0.1") && page.contains("fd09::1"), "all of it went through the sidecar: {page}");
    // What the pod itself calls is not disturbed by the marks of the rules.
    let ear = Ear::on(net.node.listen("0.0.0.0:9000"), "hi");
    let mut conn = b.connect(net.node.at(9000));
    conn.write("out");
    assert_eq!(show(&conn.read_some()), "hi");
    ear.await_heard(b"out");
    assert_eq!(b.get(b.at(8080), "x").text(), "10.9.0.3", "itself");
}

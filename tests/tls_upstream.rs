//! TLS towards services: nginx and openssl that demand and prove certificates, and all that fails closed.

mod common;

use std::net::SocketAddr;
use std::path::Path;

use common::h2peer;
use common::mesh::{MUTUAL, Mesh, REVIEWS, STRICT};
use common::nginx::{Nginx, nginx};
use common::pki::{Pair, Pki};
use common::tls::{Client, OpenSsl, Server};
use common::{Conn, Origin, Proxy, SOON, Setup, free_addr, get, show, until};

/// What nginx tells of a connection.
const TELL: &str =
    "location / { return 200 \"$ssl_client_verify $ssl_protocol $server_protocol <$ssl_server_name>\"; }";

fn tls(pair: &Pair, options: &str, more: &str) -> String {
    let (crt, key) = (pair.certificate.display(), pair.key.display());
    format!(
        "server {{ listen {{addr}} ssl {options}; ssl_protocols TLSv1.2 TLSv1.3; ssl_certificate {crt}; ssl_certificate_key {key}; {more} {TELL} }}"
    )
}

/// One that takes no client without a certificate of these anchors.
fn demanding(pair: &Pair, anchors: &Path, options: &str) -> Nginx {
    nginx(&tls(pair, options, &format!("ssl_verify_client on; ssl_client_certificate {};", anchors.display())))
}

fn simple(name: &str, bundle: &Path) -> String {
    format!(", tls: {{ mode: simple, serverName: {name}, trustBundle: \"{}\" }}", bundle.display())
}

fn to(up: SocketAddr, service: &str) -> Proxy {
    Setup { service, workers: 1, ..Setup::default() }.start(up)
}

/// Answered by us, with a reason, and not at all in good order. The cause, as it is counted.
fn fails_closed(proxy: &Proxy) -> String {
    let cause = proxy.cause_of(|| {
        let reply = get(proxy.addr(), "/");
        assert!((502..=503).contains(&reply.status()), "{reply:?}");
        let status = reply.head.get("proxy-status").unwrap_or_else(|| panic!("no reason: {reply:?}"));
        assert!(status.contains("error=tls_") && status.contains("details="), "{status}");
    });
    let answer = h2peer::call(proxy.addr(), h2peer::request("GET", "/", &[]), b"", None).expect("an answer");
    assert!((502..=503).contains(&answer.head.status.as_u16()), "{answer:?}");
    assert_eq!(proxy.probe("/readyz"), Some(200));
    cause
}

#[test]
fn nginx_that_demands_certificates() {
    let mesh = Mesh::new();
    for (options, protocol, version) in
        [("", "", "HTTP/1.1"), ("http2", ", protocol: http2", "HTTP/2.0"), ("http2", "", "HTTP/2.0")]
    {
        let server = demanding(&mesh.reviews, &mesh.pki.bundle(), options);
        let service = format!("{MUTUAL}{protocol}");
        let near = mesh.outbound_as(server.addr(), Setup { service: &service, ..Setup::default() });
        for _ in 0..2 {
            assert_eq!(get(near.addr(), "/").text(), format!("SUCCESS TLSv1.3 {version} <>"), "{options} {protocol}");
        }
    }
    // A name is asked for where one is given; the identity is what counts.
    let server = demanding(&mesh.reviews, &mesh.pki.bundle(), "");
    let service = format!(", tls: {{ mode: mutual, serverName: reviews.shop, identities: [\"{REVIEWS}\"] }}");
    let near = mesh.outbound_as(server.addr(), Setup { service: &service, ..Setup::default() });
    assert_eq!(get(near.addr(), "/").text(), "SUCCESS TLSv1.3 HTTP/1.1 <reviews.shop>");
}

#[test]
fn whom_an_endpoint_has_to_be() {
    let (mesh, origin) = (Mesh::new(), Origin::named("reviews"));
    let far = mesh.strict(origin.addr());
    let good = [
        "\"spiffe://mesh.test/ns/shop/sa/reviews\"",
        "\"spiffe://mesh.test/ns/other/sa/x\", \"spiffe://mesh.test/ns/shop/sa/reviews\"",
        "\"spiffe://mesh.test/ns/shop/*\"",
        "\"spiffe://mesh.test/ns/*/sa/reviews\"",
        "{ exact: \"spiffe://mesh.test/ns/shop/sa/reviews\" }",
        "{ prefix: \"spiffe://mesh.test/ns/shop/\" }",
    ];
    for identities in good {
        let service = format!(", tls: {{ mode: mutual, identities: [{identities}] }}");
        let near = mesh.outbound_as(far.addr(), Setup { service: &service, ..Setup::default() });
        assert_eq!(get(near.addr(), "/").text(), "reviews", "{identities}");
    }
    let known = origin.connections();
    let bad = [
        "\"spiffe://mesh.test/ns/shop/sa/ratings\"",
        "\"spiffe://mesh.test/ns/shop/sa/review\"",
        "\"spiffe://mesh.test/ns/other/*\"",
        "{ prefix: \"spiffe://mesh.test/ns/shop/sa/reviews2\" }",
    ];
    for identities in bad {
        let service = format!(", tls: {{ mode: mutual, identities: [{identities}] }}");
        let near = mesh.outbound_as(far.addr(), Setup { service: &service, ..Setup::default() });
        assert_eq!(fails_closed(&near), "wrong_identity");
    }
    assert_eq!(origin.connections(), known, "nothing was sent to the wrong one");
}

#[test]
fn an_endpoint_has_its_own_identity() {
    let mesh = Mesh::new();
    let (one, two) = (Origin::named("one"), Origin::named("two"));
    let ratings = mesh.pki.workload("shop", "ratings");
    let far = mesh.strict(one.addr());
    let top = mesh.identity(&ratings);
    let other = Setup { listener: STRICT, top: &top, ..Setup::default() }.start(two.addr());
    // The service expects somebody else altogether.
    let config = |second: &str| {
        format!(
            r#"apiVersion: outrigger/v1
admin: {{ address: "{{admin}}" }}
health: {{ address: "{{health}}" }}
{}listeners:
  - {{ name: edge, mode: proxy, address: "{{listen}}" }}
services:
  app:
    endpoints:
      static:
        - {{ address: "{{one}}", identity: "{REVIEWS}", labels: {{ v: one }} }}
        - {{ address: "{{two}}", {second}labels: {{ v: two }} }}
    subsets: {{ one: {{ labels: {{ v: one }} }}, two: {{ labels: {{ v: two }} }} }}
    tls: {{ mode: mutual, identities: ["spiffe://mesh.test/ns/shop/sa/nobody"] }}
routes:
  - {{ name: one, match: [{{ path: {{ prefix: /one }} }}], to: app/one }}
  - {{ name: two, to: app/two }}
"#,
            mesh.identity(&mesh.web)
        )
    };
    let fills = [("one", far.addr()), ("two", other.addr())];
    let near = Proxy::start(&config("identity: \"spiffe://mesh.test/ns/shop/sa/ratings\", "), &fills);
    assert_eq!((get(near.addr(), "/one").text(), get(near.addr(), "/").text()), ("one".to_owned(), "two".to_owned()));
    // Without one of its own the service's holds.
    near.reload("identity: \"spiffe://mesh.test/ns/shop/sa/ratings\", ", "");
    assert_eq!(get(near.addr(), "/one").text(), "one");
    assert_eq!(fails_closed(&near), "wrong_identity");
    // The identity of another one.
    let near = Proxy::start(&config(&format!("identity: \"{REVIEWS}\", ")), &fills);
    assert_eq!(get(near.addr(), "/one").text(), "one");
    assert_eq!(fails_closed(&near), "wrong_identity");
}

/// What a server of a `mutual` service may be wrong in.
#[test]
fn mutual_fails_closed() {
    let (mesh, origin) = (Mesh::new(), Origin::ok());
    let pki = &mesh.pki;
    let table = [
        (pki.unknown_authority("shop", "reviews"), "unknown_authority"),
        (pki.self_signed("shop", "reviews"), "unknown_authority"),
        (pki.broken_chain("shop", "reviews"), "unknown_authority"),
        (pki.expired("shop", "reviews"), "expired"),
        (pki.valid_in(3600, "shop", "reviews"), "not_yet_valid"),
        (pki.wrong_trust_domain("shop", "reviews"), "wrong_identity"),
        (pki.two_uris("shop", "reviews"), "wrong_identity"),
        (pki.no_uri(), "wrong_identity"),
        (pki.foreign_uri(), "wrong_identity"),
        (pki.no_purpose("shop", "reviews"), "bad_purpose"),
        (pki.only_client("shop", "reviews"), "bad_purpose"),
    ];
    let causes = table.each_ref().map(|(server, _)| {
        let front = Server::of(server).alpn(&["h2", "http/1.1"]).front(origin.addr());
        let near = mesh.outbound(front.addr());
        fails_closed(&near)
    });
    assert_eq!(causes, table.each_ref().map(|(_, cause)| *cause));
    let front = Server::of(&mesh.reviews).old().front(origin.addr());
    assert_eq!(fails_closed(&mesh.outbound(front.addr())), "protocol_version");
    // Its clock is behind ours by less than the tolerance.
    let front = Server::of(&pki.valid_in(30, "shop", "reviews")).front(origin.addr());
    mesh.outbound(front.addr()).assert_serves();
    // A server that takes none of ours says so.
    let front = Server::of(&mesh.reviews).demanding(Pki::new("other.test").bundle()).front(origin.addr());
    let near = mesh.outbound(front.addr());
    let reply = get(near.addr(), "/");
    assert!((502..=503).contains(&reply.status()), "{reply:?}");
    let status = reply.head.get("proxy-status").unwrap_or_default();
    assert!(status.contains("error=tls_"), "it is told that TLS is the reason: {status}");
    near.await_failed("refused_by_peer", 1.0);
    assert_eq!(origin.seen().len(), 1, "but for the one that was right nobody heard of a request");
}

/// Never in the clear, whatever the other side does.
#[test]
fn no_tls_no_request() {
    let mesh = Mesh::new();
    let (tell, told) = std::sync::mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    let plain = Origin::raw(move |mut conn, _| {
        let first = conn.read_some();
        conn.write("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        let _ = tell.lock().expect("channel").send(first);
    });
    let near = mesh.outbound(plain.addr());
    let reply = get(near.addr(), "/secret");
    assert!((502..=503).contains(&reply.status()), "{reply:?}");
    let first = told.recv().expect("what was sent");
    assert_eq!(first[..2], [22, 3], "{}", show(&first));
    // One that says nothing: until the time to connect is over.
    let silent = Origin::raw(|mut conn, _| drop(conn.read_to_end()));
    let setup = Setup { service: MUTUAL, top: "defaults: { connectTimeout: 400ms }", ..Setup::default() };
    let near = mesh.outbound_as(silent.addr(), setup);
    let reply = get(near.addr(), "/");
    assert!((502..=504).contains(&reply.status()), "{reply:?}");
    until("it is counted", SOON, || near.failed("timeout") + near.counted("connect_timeout") >= 1.0);
    // Nobody there, and one that leaves: what they are without TLS.
    assert_eq!(get(mesh.outbound(free_addr()).addr(), "/").status(), 503);
    let leaves = Origin::raw(|mut conn, _| drop(conn.read_some()));
    let reply = get(mesh.outbound(leaves.addr()).addr(), "/");
    assert!((502..=503).contains(&reply.status()), "{reply:?}");
    // TCP to the wrong one: not a byte, and an end.
    let origin = Origin::ok();
    let far = mesh.inbound(
        origin.addr(),
        Setup { listener: ", protocol: tcp, tls: { mode: strict }", service: ", protocol: tcp", ..Setup::default() },
    );
    let service = ", protocol: tcp, tls: { mode: mutual, identities: [\"spiffe://mesh.test/ns/shop/sa/ratings\"] }";
    let near = mesh.outbound_as(far.addr(), Setup { service, ..Setup::default() });
    let mut conn = Conn::connect(near.addr());
    conn.try_write("hello");
    assert_eq!(show(&conn.read_to_end()), "");
    near.await_failed("wrong_identity", 1.0);
    assert_eq!(origin.seen().len(), 0);
}

#[test]
fn simple_verifies_names() {
    let (pki, other) = (Pki::new("outside.test"), Pki::new("outside.test"));
    let bundle = pki.bundle();
    let good = pki.server(&["app.test", "*.wild.test", "localhost"]);
    let server = nginx(&tls(&good, "", ""));
    for (name, version) in [("app.test", "HTTP/1.1"), ("one.wild.test", "HTTP/1.1")] {
        let proxy = to(server.addr(), &simple(name, &bundle));
        assert_eq!(get(proxy.addr(), "/").text(), format!("NONE TLSv1.3 {version} <{name}>"));
    }
    let two = nginx(&tls(&good, "http2", ""));
    let proxy = to(two.addr(), &simple("app.test", &bundle));
    assert_eq!(get(proxy.addr(), "/").text(), "NONE TLSv1.3 HTTP/2.0 <app.test>", "agreed on by ALPN");
    for name in ["other.test", "wild.test", "a.b.wild.test"] {
        assert_eq!(fails_closed(&to(server.addr(), &simple(name, &bundle))), "wrong_name");
    }
    assert_eq!(fails_closed(&to(server.addr(), &simple("app.test", &other.bundle()))), "unknown_authority");
    // Anchors of both, while one takes the place of the other.
    let proxy = to(server.addr(), &simple("app.test", &pki.bundle_with(&other)));
    assert_eq!(get(proxy.addr(), "/").status(), 200);
    // The anchors of the system know nothing of ours.
    assert_eq!(fails_closed(&to(server.addr(), ", tls: { mode: simple, serverName: app.test }")), "unknown_authority");

    let origin = Origin::ok();
    let expired = pki.issue("expired", &common::pki::Leaf { life: -7200..-60, ..leaf(&pki) });
    assert_eq!(
        fails_closed(&to(Server::of(&expired).front(origin.addr()).addr(), &simple("app.test", &bundle))),
        "expired"
    );
    let early = pki.issue("early", &common::pki::Leaf { life: 7200..9000, ..leaf(&pki) });
    assert_eq!(
        fails_closed(&to(Server::of(&early).front(origin.addr()).addr(), &simple("app.test", &bundle))),
        "not_yet_valid"
    );
    assert_eq!(origin.seen().len(), 0);
}

fn leaf(pki: &Pki) -> common::pki::Leaf {
    common::pki::Leaf { uris: Vec::new(), dns: vec!["app.test".to_owned()], ..pki.leaf("", "") }
}

/// The name of a `dns` source is the one to be proven.
#[test]
fn simple_by_the_name_of_its_source() {
    let pki = Pki::new("outside.test");
    let server = nginx(&tls(&pki.server(&["localhost"]), "", ""));
    let config = |more: &str| {
        format!(
            r#"apiVersion: outrigger/v1
admin: {{ address: "{{admin}}" }}
health: {{ address: "{{health}}" }}
listeners: [{{ name: edge, mode: proxy, address: "{{listen}}" }}]
services:
  app: {{ endpoints: {{ dns: {{ name: localhost, port: {} }} }}, tls: {{ mode: simple, trustBundle: "{}"{more} }} }}
routes: [{{ name: all, to: app }}]
"#,
            server.addr().port(),
            pki.bundle().display()
        )
    };
    let proxy = Proxy::start(&config(""), &[]);
    assert_eq!(get(proxy.addr(), "/").text(), "NONE TLSv1.3 HTTP/1.1 <localhost>");
    let proxy = Proxy::start(&config(", serverName: app.test"), &[]);
    assert_eq!(fails_closed(&proxy), "wrong_name");
}

#[test]
fn openssl_as_a_server() {
    let pki = Pki::new("outside.test");
    let pair = pki.server(&["app.test"]);
    for (flag, version) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let server = OpenSsl::serve(&pair, &["-www", flag]);
        let proxy = to(server.addr(), &simple("app.test", &pki.bundle()));
        let page = get(proxy.addr(), "/");
        assert!(page.status() == 200 && page.text().contains(version), "{page:?}");
    }
    // Older ones are not spoken: `-tls1` needs what openssl calls level 0.
    for flag in ["-tls1", "-tls1_1"] {
        let server = OpenSsl::serve(&pair, &["-www", flag, "-cipher", "ALL:@SECLEVEL=0"]);
        assert_eq!(fails_closed(&to(server.addr(), &simple("app.test", &pki.bundle()))), "protocol_version");
    }
    // And over TCP: what openssl gets is what was sent.
    let server = OpenSsl::serve(&pair, &["-rev"]);
    let service = format!("{}, protocol: tcp", simple("app.test", &pki.bundle()));
    let proxy = to(server.addr(), &service);
    let mut conn = Conn::connect(proxy.addr());
    conn.write("drow\n");
    assert_eq!(show(&conn.read_exact(5)), "word\\n");
}

/// Continued sessions towards a service prove as much as first ones.
#[test]
fn sessions_are_kept_for_each_service_alone() {
    let (mesh, origin) = (Mesh::new(), Origin::ok());
    let front = Server::of(&mesh.reviews).alpn(&["http/1.1"]).front(origin.addr());
    let service = format!("{MUTUAL}, protocol: http1, connections: {{ maxRequests: 1 }}");
    let near = mesh.outbound_as(front.addr(), Setup { service: &service, ..Setup::default() });
    for _ in 0..4 {
        near.assert_serves();
    }
    let resumed: Vec<bool> = front.facts().iter().map(|facts| facts.resumed).collect();
    assert_eq!(resumed, [false, true, true, true], "one session after the other");
    // The same server, but it has to be another one now: the session of before proves nothing.
    near.reload("sa/reviews", "sa/ratings");
    assert_eq!(fails_closed(&near), "wrong_identity");
    near.reload("sa/ratings", "sa/reviews");
    near.assert_serves();
    // Directly, so that the test of the test is not the proxy's.
    Client::of(&mesh.web).served(front.addr());
}

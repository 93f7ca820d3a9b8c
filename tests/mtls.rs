//! Mutual TLS, in and out: against openssl, curl, rustls, and between two of ours, with every kind of traffic.

mod common;

use std::net::SocketAddr;

use common::grpc;
use common::h2peer::{self, H2Origin};
use common::mesh::{self, MUTUAL, Mesh, REVIEWS, STRICT, Tap, WEB};
use common::origin::Next;
use common::pki::{Leaf, PKCS_ECDSA_P384_SHA384};
use common::tls::{Bridge, Client, MARK, Server, TCP, s_client};
use common::{Conn, Message, Origin, Proxy, SOON, Setup, eventually, get, pattern, run, show, until};
use sha2::{Digest, Sha256};

const GET: &str = "GET /hello HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n";
const XFCC: &str = "x-forwarded-client-cert";

/// What the application is told of the client; keys as they are written.
fn told(message: &Message) -> Vec<(String, String)> {
    let all = message.head.all(XFCC);
    assert_eq!(all.len(), 1, "{message:?}");
    assert!(!all[0].contains(','), "one hop: {all:?}");
    let pairs = all[0].split(';').map(|pair| pair.split_once('=').expect("key=value"));
    pairs.map(|(key, value)| (key.to_owned(), value.trim_matches('"').to_owned())).collect()
}

fn of<'a>(told: &'a [(String, String)], key: &str) -> Option<&'a str> {
    told.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
}

/// Sidecars of both, and what goes by between them.
fn pair(mesh: &Mesh, up: SocketAddr, far: Setup<'_>, near: Setup<'_>) -> (Proxy, Tap, Proxy) {
    let listener = format!("{STRICT}{}", far.listener);
    let far = mesh.inbound(up, Setup { listener: &listener, ..far });
    let tap = Tap::before(far.addr());
    let service = format!("{MUTUAL}{}", near.service);
    let near = mesh.outbound_as(tap.addr(), Setup { service: &service, ..near });
    (near, tap, far)
}

#[test]
fn openssl_and_curl_are_served() {
    let (mesh, origin) = (Mesh::new(), Origin::ok());
    let proxy = mesh.strict(origin.addr());
    let text = |path: &std::path::Path| path.display().to_string();
    let (crt, key, ca) = (text(&mesh.web.certificate), text(&mesh.web.key), text(&mesh.pki.bundle()));
    let base = ["-cert", &crt, "-key", &key, "-CAfile", &ca, "-verify_return_error", "-purpose", "sslserver"];
    for (alpn, said) in [(Some("http/1.1"), "ALPN protocol: http/1.1"), (None, "No ALPN negotiated")] {
        let mut args = base.to_vec();
        args.extend(alpn.map(|alpn| ["-alpn", alpn]).into_iter().flatten());
        let out = s_client(proxy.addr(), &args, GET);
        for part in ["HTTP/1.1 200 OK", "Verify return code: 0 (ok)", "New, TLSv1.3", said] {
            assert!(out.contains(part), "`{part}` with ALPN {alpn:?} in {out}");
        }
        // RFC 8446, section 4.2.10: none is offered.
        assert!(out.contains("Max Early Data: 0"), "{out}");
    }
    // The preference of openssl 3.0, which knows nothing of post-quantum groups.
    assert!(s_client(proxy.addr(), &base, GET).contains("Server Temp Key: X25519"));

    let url = format!("https://{}/curl", proxy.addr());
    let format = "%{http_code} %{http_version} %{ssl_verify_result}";
    let curl = |more: &[&str]| {
        let fixed = ["-sS", "-k", "--cert", &crt, "--key", &key, "--tlsv1.3", "-o", "/dev/null", "-w", format, &url];
        run("curl", &[&fixed, more].concat())
    };
    assert_eq!(curl(&["--http1.1"]).split(' ').collect::<Vec<_>>()[..2], ["200", "1.1"]);
    assert_eq!(curl(&["--http2"]).split(' ').collect::<Vec<_>>()[..2], ["200", "2"]);
    assert_eq!(curl(&["--no-alpn"]).split(' ').collect::<Vec<_>>()[..2], ["200", "1.1"]);
    let seen = origin.last();
    assert_eq!(of(&told(&seen), "URI"), Some(WEB));
}

/// Each side with each kind of key, and a chain with an intermediate.
#[test]
fn every_kind_of_key_on_both_sides() {
    let (mesh, origin) = (Mesh::new(), Origin::ok());
    let proxy = mesh.strict(origin.addr());
    let p384 = |account| {
        let leaf = Leaf { algorithm: &PKCS_ECDSA_P384_SHA384, ..mesh.pki.leaf("shop", account) };
        mesh.pki.issue("p384", &leaf)
    };
    let kinds = |account| {
        let pki = &mesh.pki;
        [p384(account), pki.ed25519("shop", account), pki.rsa("shop", account), pki.by_intermediate("shop", account)]
    };
    for (client, server) in kinds("web").iter().zip(kinds("reviews")) {
        let bridge = Client::of(client).alpn(&["h2"]).bridge(proxy.addr());
        let answer = h2peer::call(bridge.addr(), h2peer::request("GET", "/", &[]), b"", None).expect("an answer");
        assert_eq!(answer.head.status, 200);
        let hash: String = Sha256::digest(&common::tls::certificates(&client.certificate)[0])
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        assert_eq!(of(&told(&origin.last()), "Hash"), Some(hash.as_str()));

        let top = mesh.identity(&server);
        let far = Setup { listener: STRICT, top: &top, ..Setup::default() }.start(origin.addr());
        let near = mesh.outbound(far.addr());
        near.assert_serves();
        let chain = Client::of(client).served(far.addr()).last().chain;
        assert_eq!(chain, common::tls::certificates(&server.certificate), "the whole chain is sent");
    }
}

#[test]
fn the_application_is_told_who_calls() {
    let (mesh, origin) = (Mesh::new(), Origin::ok());
    let (near, _tap, far) = pair(&mesh, origin.addr(), Setup::default(), Setup::default());
    // Spoofed in plaintext: the sidecar of the client does not pass it on, nor does that of the server believe it.
    let spoof = "GET / HTTP/1.1\r\nHost: app.test\r\nX-Forwarded-Client-Cert: URI=spiffe://mesh.test/ns/x/sa/root\r\n\
                 x-forwarded-client-cert: By=a,URI=b\r\nConnection: close\r\n\r\n";
    let expected = |seen: &Message| {
        let told = told(seen);
        assert_eq!(of(&told, "URI"), Some(WEB), "{told:?}");
        assert_eq!(of(&told, "By"), Some(REVIEWS), "{told:?}");
        assert_eq!(of(&told, "Subject"), Some("CN=test workload"), "{told:?}");
        assert_eq!(of(&told, "Hash").map(str::len), Some(64), "{told:?}");
        assert!(!show(&seen.head.raw).contains("sa/root"), "{seen:?}");
    };
    for spoofed in [GET, spoof] {
        let mut conn = Conn::connect(near.addr());
        conn.write(spoofed);
        assert_eq!(conn.response("GET").status(), 200);
        expected(&origin.last());
    }
    // Spoofed over TLS, in both versions.
    let client = Client::of(&mesh.web);
    let mut conn = client.bridge(far.addr()).connect();
    conn.write(spoof);
    assert_eq!(conn.response("GET").status(), 200);
    expected(&origin.last());
    let bridge = client.alpn(&["h2"]).bridge(far.addr());
    let request = h2peer::request("GET", "/", &[(XFCC, "URI=spiffe://mesh.test/ns/x/sa/root")]);
    assert_eq!(h2peer::call(bridge.addr(), request, b"", None).expect("an answer").head.status, 200);
    expected(&origin.last());
    // And in a log of ours.
    eventually("the identity in the access log", SOON, || {
        far.stdout_lines().iter().any(|line| line.contains(&format!("\"{WEB}\""))).then_some(())
    });
}

/// Whoever comes in plaintext has proven nothing, and may not say that somebody has.
#[test]
fn spoofed_in_plaintext() {
    let origin = Origin::ok();
    let proxy = Proxy::front(origin.addr());
    let mut conn = Conn::connect(proxy.addr());
    conn.write("GET / HTTP/1.1\r\nHost: app.test\r\nX-Forwarded-Client-Cert: URI=spiffe://a/b\r\n\r\n");
    assert_eq!(conn.response("GET").status(), 200);
    assert!(!origin.last().head.has(XFCC), "{:?}", origin.last());
}

#[test]
fn a_pair_speaks_http() {
    let mesh = Mesh::new();
    let one = Origin::echo();
    let two = H2Origin::echo();
    for (up, service) in [(one.addr(), ""), (two.addr, ", protocol: http2")] {
        let far = Setup { service, ..Setup::default() };
        let (near, tap, _far) = pair(&mesh, up, far, Setup::default());
        let body = pattern(9, 2 << 20);
        let mut conn = Conn::connect(near.addr());
        conn.write(format!("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: {}\r\n\r\n", body.len()));
        conn.write(&body);
        assert!(conn.response("POST").body == body, "changed on the way");
        let answer = h2peer::call(near.addr(), h2peer::request("POST", "/", &[]), &body, None).expect("an answer");
        assert!(answer.body == body, "changed on the way over HTTP/2");
        assert!(!tap.carried(&body[1000..1016]), "in the clear between the two");
        assert!(!tap.carried(b"app.test"), "in the clear between the two");
    }
}

#[test]
fn a_pair_speaks_grpc() {
    let (mesh, server) = (Mesh::new(), grpc::Server::start());
    let far = Setup { service: ", protocol: http2", ..Setup::default() };
    let all = ["unary", "streams", "bidi", "errors", "deadline", "cancel"];
    for (service, scenarios) in [(", protocol: http2", &all[..]), ("", &all[..1])] {
        let (near, _tap, _far) = pair(&mesh, server.addr, far, Setup { service, ..Setup::default() });
        for scenario in scenarios {
            grpc::check(near.addr(), scenario);
        }
    }
}

/// Accepts an upgrade and echoes every byte after it; `bye` when the client has finished.
fn tunnel() -> Origin {
    Origin::start(|seen, conn| {
        assert!(seen.message.head.has("upgrade"));
        conn.write("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
        echo(conn, "bye");
        Next::Close
    })
}

fn echo(conn: &mut Conn, last: &str) {
    loop {
        let some = conn.read_some();
        if some.is_empty() {
            conn.try_write(last);
            return;
        }
        if !conn.try_write(some) {
            return;
        }
    }
}

#[test]
fn a_pair_carries_a_websocket() {
    let (mesh, origin) = (Mesh::new(), tunnel());
    let (near, _tap, _far) = pair(&mesh, origin.addr(), Setup::default(), Setup::default());
    let mut conn = Conn::connect(near.addr());
    conn.write("GET /ws HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly");
    assert_eq!(conn.head().status(), 101);
    assert_eq!(conn.read_exact(5), b"early");
    let large = pattern(3, 1 << 20);
    let (mut twin, bytes) = (Conn::new(conn.stream().try_clone().expect("clone")), large.clone());
    let writer = std::thread::spawn(move || twin.write(bytes));
    assert!(conn.read_exact(large.len()) == large, "changed on the way");
    writer.join().expect("write");
    conn.finish();
    assert_eq!(show(&conn.read_to_end()), "bye", "the other way stays open until its own end");
    until("the application is let go", SOON, || origin.open() == 0);
    assert_eq!(of(&told(&origin.last()), "URI"), Some(WEB));
}

#[test]
fn a_pair_carries_tcp() {
    let mesh = Mesh::new();
    let far = Setup { listener: ", protocol: tcp", service: ", protocol: tcp", ..Setup::default() };
    let origin = Origin::raw(|mut conn, _| echo(&mut conn, "end"));
    let (near, tap, far_proxy) = pair(&mesh, origin.addr(), far, far);
    let mut conn = Conn::connect(near.addr());
    conn.write([0u8, 255, b'\r', b'\n', 0]);
    assert_eq!(conn.read_exact(5), [0u8, 255, b'\r', b'\n', 0]);
    let large = pattern(5, 8 << 20);
    let (mut twin, bytes) = (Conn::new(conn.stream().try_clone().expect("clone")), large.clone());
    let writer = std::thread::spawn(move || twin.write(bytes));
    assert!(conn.read_exact(large.len()) == large, "changed on the way");
    writer.join().expect("write");
    // The client ends first, and hears the rest.
    conn.finish();
    assert_eq!(show(&conn.read_to_end()), "end");
    until("the application is let go", SOON, || origin.open() == 0);
    assert!(!tap.carried(&large[1000..1016]), "in the clear between the two");
    // An alien with the right certificate and the right protocol, and one with no protocol.
    for alpn in [&[TCP][..], &[]] {
        let mut conn = Client::of(&mesh.web).alpn(alpn).bridge(far_proxy.addr()).connect();
        conn.write("hello");
        assert_eq!(conn.read_exact(5), b"hello");
    }

    // The server ends first, and hears the client to its end.
    let (tell, told) = std::sync::mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    let origin = Origin::raw(move |mut conn, _| {
        conn.write("greeting");
        conn.finish();
        let _ = tell.lock().expect("channel").send(conn.read_to_end());
    });
    let (near, _tap, _far) = pair(&mesh, origin.addr(), far, far);
    let mut conn = Conn::connect(near.addr());
    assert_eq!(show(&conn.read_to_end()), "greeting");
    conn.write("still talking");
    conn.finish();
    assert_eq!(told.recv_timeout(SOON).map(|b| show(&b)), Ok("still talking".to_owned()));

    // A reset ends the other side.
    let origin = Origin::raw(|mut conn, _| echo(&mut conn, "end"));
    let (near, _tap, _far) = pair(&mesh, origin.addr(), far, far);
    let mut conn = Conn::connect(near.addr());
    conn.write("x");
    conn.read_exact(1);
    conn.reset();
    until("the application is let go", SOON, || origin.open() == 0);
}

#[test]
fn expectations_and_early_answers_pass_a_pair() {
    let (mesh, origin) = (Mesh::new(), Origin::echo());
    let (near, _tap, _far) = pair(&mesh, origin.addr(), Setup::default(), Setup::default());
    let mut conn = Conn::connect(near.addr());
    conn.write("POST / HTTP/1.1\r\nHost: app.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    assert_eq!(conn.head().status(), 100);
    conn.write("hello");
    assert_eq!(conn.response("POST").text(), "hello");

    // The answer comes, and the connection ends, while the body is on its way.
    let origin = Origin::raw(|mut conn, _| {
        conn.head();
        conn.write("HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbig");
    });
    let (near, _tap, _far) = pair(&mesh, origin.addr(), Setup::default(), Setup::default());
    let mut conn = Conn::connect(near.addr());
    conn.write("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 100000\r\n\r\nbegin");
    assert_eq!(conn.response("POST").text(), "big");
}

/// RFC 8446, section 6.1: an end without a `close_notify` is one that an attacker may have made.
#[test]
fn a_cut_connection_is_no_end() {
    let mesh = Mesh::new();
    let origin = Origin::raw(|mut conn, _| {
        conn.head();
        conn.write("HTTP/1.1 200 OK\r\n\r\nhalf");
        conn.read_to_end();
    });
    let server = Server::of(&mesh.reviews).alpn(&["http/1.1"]).front(origin.addr());
    let tap = Tap::before(server.addr());
    let near = mesh.outbound(tap.addr());
    let mut conn = Conn::connect(near.addr());
    conn.write("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
    let head = conn.head();
    conn.read_until(b"half");
    tap.cut();
    let rest = conn.read_to_end();
    assert!(head.has("transfer-encoding") && !show(&rest).contains("0\\r\\n\\r\\n"), "{head:?} {}", show(&rest));
}

#[test]
fn hellos_between_two_of_ours() {
    let (mesh, origin) = (Mesh::new(), Origin::ok());
    let one_each = Setup { service: ", connections: { maxRequests: 1 }", ..Setup::default() };
    let http1 = Setup { service: ", protocol: http1", ..Setup::default() };
    let (near, tap, _far) = pair(&mesh, origin.addr(), http1, one_each);
    for n in 1..=3 {
        assert_eq!(get(near.addr(), "/").status(), 200);
        let (client, server) = tap.hellos(n);
        assert_eq!(client.offered_groups().first(), Some(&mesh::HYBRID), "X25519MLKEM768 is preferred");
        assert_eq!(server.chosen_group(), Some(mesh::HYBRID));
        assert_eq!(server.extension(mesh::SUPPORTED_VERSIONS), Some(&[3, 4][..]), "TLS 1.3");
        assert_eq!(client.extension(mesh::SUPPORTED_VERSIONS), Some(&[2, 3, 4][..]), "and nothing else is offered");
        assert!(client.extension(mesh::SNI).is_none(), "no name is asked for");
        assert!(client.extension(mesh::EARLY_DATA).is_none());
        // The second and the third continue the session before, and prove the same.
        assert_eq!(server.extension(mesh::PRE_SHARED_KEY).is_some(), n > 1, "connection {n}");
        assert_eq!(of(&told(&origin.last()), "URI"), Some(WEB));
    }
    until("three connections", SOON, || tap.lines().len() == 3);
}

/// `protocol` is what may be spoken; ALPN says what is.
#[test]
fn the_protocol_is_agreed_on_by_alpn() {
    let mesh = Mesh::new();
    let (one, two) = (Origin::ok(), H2Origin::echo());
    let table = [
        ("", &["h2", "http/1.1", MARK][..], &["h2"][..]),
        ("", &["h2", "http/1.1", MARK], &["http/1.1"]),
        ("", &["h2", "http/1.1", MARK], &["http/1.1", "h2"]),
        ("", &["h2", "http/1.1", MARK], &[]),
        (", protocol: http1", &["http/1.1", MARK], &["http/1.1"]),
        (", protocol: http2", &["h2", MARK], &["h2"]),
    ];
    for (protocol, offered, taken) in table {
        let is_two = taken.first() == Some(&"h2");
        let server = Server::of(&mesh.reviews).alpn(taken).front(if is_two { two.addr } else { one.addr() });
        let service = format!("{MUTUAL}{protocol}");
        let near = mesh.outbound_as(server.addr(), Setup { service: &service, ..Setup::default() });
        near.assert_serves();
        let answer = h2peer::call(near.addr(), h2peer::request("GET", "/", &[]), b"", None).expect("an answer");
        assert_eq!(answer.head.status, 200, "`{protocol}` to {taken:?}: {:?}", server.errors());
        let facts = server.last();
        assert_eq!(facts.offered, offered, "`{protocol}`");
        assert_eq!(facts.alpn.as_deref(), taken.first().copied(), "`{protocol}`");
        assert_eq!(facts.chain, common::tls::certificates(&mesh.web.certificate)[..facts.chain.len()]);
    }
    // A service of HTTP/2 alone with a server that speaks the other: nothing to agree on.
    let server = Server::of(&mesh.reviews).alpn(&["http/1.1"]).front(one.addr());
    let service = format!("{MUTUAL}, protocol: http2");
    let near = mesh.outbound_as(server.addr(), Setup { service: &service, ..Setup::default() });
    let status = get(near.addr(), "/").status();
    assert!((502..=503).contains(&status), "{status}");
    let echo = Origin::raw(|mut conn, _| echo(&mut conn, ""));
    let server = Server::of(&mesh.reviews).alpn(&[TCP]).front(echo.addr());
    let service = format!("{MUTUAL}, protocol: tcp");
    let near = mesh.outbound_as(server.addr(), Setup { service: &service, ..Setup::default() });
    let mut conn = Conn::connect(near.addr());
    conn.write("hello");
    assert_eq!(conn.read_exact(5), b"hello");
    assert_eq!(server.last().offered, [TCP]);
}

/// What was agreed on is what is spoken; without an agreement the first bytes tell.
#[test]
fn nobody_speaks_otherwise_than_agreed() {
    let (mesh, origin) = (Mesh::new(), Origin::ok());
    let web = Client::of(&mesh.web);
    let http =
        mesh.inbound(origin.addr(), Setup { listener: STRICT, service: ", protocol: http1", ..Setup::default() });
    let call = |bridge: &Bridge| h2peer::call(bridge.addr(), h2peer::request("GET", "/", &[]), b"", None);
    let bridge = web.clone().bridge(http.addr());
    assert_eq!(call(&bridge).expect("an answer").head.status, 200);
    assert_eq!(bridge.get("/").status(), 200);
    let asked = origin.seen().len();
    assert!(call(&web.clone().alpn(&["http/1.1"]).bridge(http.addr())).is_err());
    let mut conn = web.clone().alpn(&["h2"]).bridge(http.addr()).connect();
    conn.write(GET);
    assert!(!show(&conn.read_to_end()).contains("HTTP/1.1 200"));
    assert_eq!(http.cause_of(|| drop(web.clone().alpn(&[TCP]).refused(http.addr()))), "no_common_protocol");
    assert_eq!(origin.seen().len(), asked);

    let tcp = mesh
        .inbound(origin.addr(), Setup { service: ", protocol: tcp", ..Setup { listener: STRICT, ..Setup::default() } });
    assert_eq!(
        tcp.cause_of(|| drop(web.clone().alpn(&["h2", "http/1.1", MARK]).refused(tcp.addr()))),
        "no_common_protocol"
    );
    assert_eq!(web.alpn(&[TCP]).bridge(tcp.addr()).get("/").status(), 200);
}

/// A session that is continued proves the same, and openssl agrees that it is one.
#[test]
fn sessions_are_resumed() {
    let (mesh, origin) = (Mesh::new(), Origin::ok());
    let proxy = mesh.strict(origin.addr());
    let client = Client::of(&mesh.web).resuming();
    let bridge = client.served(proxy.addr());
    assert_eq!(bridge.get("/").status(), 200);
    let resumed: Vec<bool> = bridge.facts().iter().map(|facts| facts.resumed).collect();
    assert_eq!(resumed, [false, true]);
    assert_eq!(of(&told(&origin.last()), "URI"), Some(WEB));
    // Nobody else's session, and none without a certificate.
    Client::anonymous().resuming().refused(proxy.addr());

    let text = |path: &std::path::Path| path.display().to_string();
    let (crt, key, ca) = (text(&mesh.web.certificate), text(&mesh.web.key), text(&mesh.pki.bundle()));
    let session = text(&mesh.pki.dir().join("session.pem"));
    let base = ["-cert", &crt, "-key", &key, "-CAfile", &ca];
    let first = s_client(proxy.addr(), &[&base[..], &["-sess_out", &session]].concat(), GET);
    assert!(first.contains("New, TLSv1.3") && first.contains("200 OK"), "{first}");
    let second = s_client(proxy.addr(), &[&base[..], &["-sess_in", &session]].concat(), GET);
    assert!(second.contains("Reused, TLSv1.3") && second.contains("200 OK"), "{second}");
    assert_eq!(of(&told(&origin.last()), "URI"), Some(WEB));
    let log = eventually("the access log", SOON, || {
        let lines = proxy.stdout_lines();
        lines.iter().filter(|line| line.contains(WEB)).nth(3).cloned()
    });
    assert!(log.contains(WEB), "{log}");
}

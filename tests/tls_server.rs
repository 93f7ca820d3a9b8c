//! Ordinary TLS of a listener that stands alone: for any client, with several certificates.

mod common;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use common::grpc;
use common::h2peer::{self, H2Origin};
use common::mesh::Tap;
use common::pki::{Pair, Pki};
use common::tls::{Client, certificates, s_client};
use common::{Conn, Origin, Proxy, SOON, Setup, TempDir, run, send, show, until};

const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
const LIVE: Duration = Duration::from_secs(1);

fn files(pair: &Pair) -> String {
    format!("certificate: \"{}\", privateKey: \"{}\"", pair.certificate.display(), pair.key.display())
}

fn server(up: SocketAddr, pair: &Pair, more: &str) -> Proxy {
    let listener = format!(", tls: {{ mode: server, {}{more} }}", files(pair));
    Setup { listener: &listener, workers: 1, ..Setup::default() }.start(up)
}

fn shown(addr: SocketAddr, name: Option<&str>) -> Vec<rustls::pki_types::CertificateDer<'static>> {
    let client = Client::anonymous().alpn(&["http/1.1"]);
    name.into_iter().fold(client, Client::name).served(addr).last().chain
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn the_certificate_is_chosen_by_name() {
    let (pki, origin) = (Pki::new("edge.test"), Origin::ok());
    let pairs = [
        pki.server(&["a.test"]),
        pki.server(&["b.test", "c.test"]),
        pki.server(&["*.wild.test"]),
        pki.server(&["one.wild.test"]),
        pki.issue(
            "rsa",
            &common::pki::Leaf {
                uris: Vec::new(),
                dns: vec!["rsa.test".to_owned()],
                algorithm: &common::pki::PKCS_RSA_SHA256,
                ..pki.leaf("", "")
            },
        ),
    ];
    let more: Vec<String> = pairs[1..].iter().map(|pair| format!("{{ {} }}", files(pair))).collect();
    let proxy = server(origin.addr(), &pairs[0], &format!(", certificates: [{}]", more.join(", ")));
    let table = [
        (Some("a.test"), 0),
        (Some("b.test"), 1),
        (Some("c.test"), 1),
        (Some("B.TEST"), 1),
        (Some("two.wild.test"), 2),
        (Some("one.wild.test"), 3),
        (Some("rsa.test"), 4),
        // Nobody's: the first one.
        (Some("wild.test"), 0),
        (Some("x.two.wild.test"), 0),
        (Some("nowhere.test"), 0),
        (None, 0),
    ];
    let slow = Tap::bytewise(proxy.addr());
    for addr in [proxy.addr(), slow.addr()] {
        for (name, n) in table {
            assert_eq!(shown(addr, name), certificates(&pairs[n].certificate), "{name:?}");
        }
    }
    let ca = text(&pki.bundle());
    for name in ["a.test", "two.wild.test", "one.wild.test", "rsa.test"] {
        let args = ["-servername", name, "-verify_hostname", name, "-CAfile", &ca, "-verify_return_error"];
        for version in ["-tls1_2", "-tls1_3"] {
            let out = s_client(proxy.addr(), &[&args[..], &[version]].concat(), GET);
            assert!(out.contains("Verify return code: 0 (ok)") && out.contains("200 OK"), "{name} {version}: {out}");
            assert!(out.contains("No client certificate CA names sent"), "nobody is asked for a certificate: {out}");
        }
    }
}

#[test]
fn curl_grpc_and_h2load() {
    let (pki, origin) = (Pki::new("edge.test"), Origin::ok());
    let pair = pki.server(&["a.test"]);
    let proxy = server(origin.addr(), &pair, "");
    let (ca, port) = (text(&pki.bundle()), proxy.addr().port());
    let (resolve, url) = (format!("a.test:{port}:127.0.0.1"), format!("https://a.test:{port}/x"));
    let format = "%{http_code} %{http_version} %{ssl_verify_result}";
    let fixed = ["-sS", "--cacert", &ca, "--resolve", &resolve, "-o", "/dev/null", "-w", format, &url];
    for (args, wanted) in [
        (&["--http2"][..], "200 2 0"),
        (&["--http1.1"], "200 1.1 0"),
        (&["--no-alpn"], "200 1.1 0"),
        (&["--http2", "--tls-max", "1.2"], "200 2 0"),
        (&["--http2-prior-knowledge"], "200 2 0"),
    ] {
        assert_eq!(run("curl", &[&fixed[..], args].concat()), wanted, "{args:?}");
    }
    let seen = origin.last().head;
    assert_eq!(seen.get("x-forwarded-proto").as_deref(), Some("https"));
    assert!(!seen.has("x-forwarded-client-cert"));
    let said = run("h2load", &["-n", "500", "-c", "10", "-m", "5", &format!("https://127.0.0.1:{port}/")]);
    assert!(said.contains("500 succeeded, 0 failed, 0 errored"), "{said}");

    let calls = grpc::Server::start();
    let proxy = server(calls.addr, &pair, "");
    let bridge = Client::anonymous().alpn(&["h2"]).bridge(proxy.addr());
    for scenario in ["unary", "bidi", "errors"] {
        grpc::check(bridge.addr(), scenario);
    }
}

#[test]
fn what_is_negotiated() {
    let (pki, origin) = (Pki::new("edge.test"), Origin::ok());
    let pair = pki.server(&["a.test"]);
    let proxy = server(origin.addr(), &pair, "");
    for (offered, chosen) in [
        (&["http/1.1", "h2"][..], Some("h2")),
        (&["http/1.1"], Some("http/1.1")),
        (&["spdy/1", "http/1.1"], Some("http/1.1")),
        (&[], None),
    ] {
        let bridge = Client::anonymous().alpn(offered).bridge(proxy.addr());
        if chosen == Some("h2") {
            let answer = h2peer::call(bridge.addr(), h2peer::request("GET", "/", &[]), b"", None).expect("an answer");
            assert_eq!(answer.head.status, 200);
        } else {
            assert_eq!(bridge.get("/").status(), 200);
        }
        assert_eq!(bridge.last().alpn.as_deref(), chosen, "{offered:?}");
        assert_eq!(bridge.last().group, "X25519MLKEM768");
    }
    let bridge = Client::anonymous().classical().served(proxy.addr());
    assert_eq!(bridge.last().group, "X25519");
    // RFC 7301, section 3.2.
    let said = Client::anonymous().alpn(&["imap"]).refused(proxy.addr());
    assert!(said.contains("NoApplicationProtocol"), "{said}");
    proxy.await_failed("no_common_protocol", 1.0);

    // Neither what is old, nor what gives the keys of yesterday away, nor CBC.
    let old = [
        (&["-tls1", "-cipher", "ALL:@SECLEVEL=0"][..], "protocol_version"),
        (&["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], "protocol_version"),
        (&["-tls1_2", "-cipher", "AES128-GCM-SHA256:AES256-SHA:@SECLEVEL=0"], "no_common_cipher"),
        (&["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA:ECDHE-ECDSA-AES256-SHA384"], "no_common_cipher"),
        (&["-tls1_2", "-cipher", "DHE-RSA-AES256-GCM-SHA384"], "no_common_cipher"),
    ];
    for (args, reason) in old {
        let before = proxy.failed(reason);
        let out = s_client(proxy.addr(), args, GET);
        assert!(!out.contains("200 OK") && out.contains("alert"), "{args:?}: {out}");
        proxy.await_failed(reason, before + 1.0);
    }
    let out = s_client(proxy.addr(), &["-tls1_2"], GET);
    assert!(out.contains("200 OK") && out.contains("New, TLSv1.2"), "{out}");
    assert!(out.contains("Secure Renegotiation IS supported") && out.contains("Extended master secret: yes"), "{out}");

    let proxy = server(origin.addr(), &pair, ", minVersion: \"1.3\"");
    let out = s_client(proxy.addr(), &["-tls1_2"], GET);
    assert!(!out.contains("200 OK") && out.contains("alert protocol version"), "{out}");
    proxy.await_failed("protocol_version", 1.0);
    assert!(s_client(proxy.addr(), &["-tls1_3"], GET).contains("200 OK"));
}

#[test]
fn nobody_renegotiates() {
    let (pki, origin) = (Pki::new("edge.test"), Origin::ok());
    let listener = format!(", idleTimeout: 500ms, tls: {{ mode: server, {} }}", files(&pki.server(&["a.test"])));
    let proxy = Setup { listener: &listener, workers: 1, ..Setup::default() }.start(origin.addr());
    // openssl takes a line of `R` for the wish to, and waits for an answer that does not come.
    for (n, version) in [(1.0, "-tls1_2"), (2.0, "-tls1_3")] {
        let out = s_client(proxy.addr(), &[version, "-alpn", "http/1.1"], "R\n");
        assert!(out.contains("RENEGOTIATING"), "{out}");
        assert_eq!(proxy.metric("outrigger_worker_handshakes_total", &[]), n, "{out}");
    }
    assert_eq!(origin.seen().len(), 0);
    shown(proxy.addr(), None);
}

#[test]
fn plaintext_is_told_so() {
    let (pki, origin) = (Pki::new("edge.test"), Origin::ok());
    let proxy = server(origin.addr(), &pki.server(&["a.test"]), "");
    let answer = show(&send(proxy.addr(), GET));
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{answer}");
    proxy.await_failed("plaintext", 1.0);
    let silent = server(origin.addr(), &pki.server(&["a.test"]), ", handshakeTimeout: 300ms");
    let mut conn = Conn::connect(silent.addr());
    conn.write(&Client::anonymous().hello()[..20]);
    assert_eq!(show(&conn.read_to_end()).find("HTTP"), None);
    silent.await_failed("timeout", 1.0);
    assert_eq!(origin.seen().len(), 0);
}

#[test]
fn its_certificates_are_replaced() {
    let (pki, origin) = (Pki::new("edge.test"), Origin::ok());
    let dir = TempDir::new("edge");
    let at = |name: &str| Pair {
        certificate: dir.path().join(format!("{name}.crt")),
        key: dir.path().join(format!("{name}.key")),
        serial: 0,
    };
    let (a, b) = (at("a"), at("b"));
    pki.server(&["a.test"]).install(&a.certificate, &a.key);
    pki.server(&["b.test"]).install(&b.certificate, &b.key);
    let proxy = server(origin.addr(), &a, &format!(", certificates: [{{ {} }}]", files(&b)));
    let held = Client::anonymous().served(proxy.addr());
    let mut conn = held.connect();
    conn.write("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert_eq!(conn.response("GET").status(), 200);
    for (place, name) in [(&a, "a.test"), (&b, "b.test"), (&a, "a.test")] {
        let next = pki.server(&[name]);
        next.install(&place.certificate, &place.key);
        let wanted = certificates(&next.certificate);
        until(&format!("{name} is live\n{}", proxy.stderr_text()), LIVE, || shown(proxy.addr(), Some(name)) == wanted);
    }
    // One that does not fit its key, or is over, does not take the place of one that does.
    let before = shown(proxy.addr(), Some("b.test"));
    let expired = pki.issue(
        "expired",
        &common::pki::Leaf { uris: Vec::new(), dns: vec!["b.test".to_owned()], life: -7200..-60, ..pki.leaf("", "") },
    );
    let foreign = pki.server(&["b.test"]);
    fs::copy(&foreign.certificate, &b.certificate).expect("copy");
    let degraded =
        || proxy.healthz()["components"].as_object().is_some_and(|all| all.values().any(|c| c["status"] == "degraded"));
    until("it is told", SOON, degraded);
    assert_eq!(shown(proxy.addr(), Some("b.test")), before);
    expired.install(&b.certificate, &b.key);
    until("it is told", SOON, degraded);
    assert_eq!(shown(proxy.addr(), Some("b.test")), before);
    foreign.install(&b.certificate, &b.key);
    until("well again", SOON, || {
        !degraded() && shown(proxy.addr(), Some("b.test")) == certificates(&foreign.certificate)
    });
    // The configuration may name another one.
    let c = at("c");
    pki.server(&["c.test"]).install(&c.certificate, &c.key);
    proxy.reload("certificates: [", &format!("certificates: [{{ {} }}, ", files(&c)));
    until("a third one", SOON, || shown(proxy.addr(), Some("c.test")) == certificates(&c.certificate));
    conn.write("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert_eq!(conn.response("GET").status(), 200, "one from before all of it");
    assert_eq!(held.errors(), [""; 0]);
}

#[test]
fn sessions_are_resumed() {
    let (pki, origin) = (Pki::new("edge.test"), H2Origin::echo());
    let proxy = server(origin.addr, &pki.server(&["a.test"]), "");
    let session = text(&pki.dir().join("session.pem"));
    for (version, name) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let first = s_client(proxy.addr(), &[version, "-sess_out", &session], GET);
        assert!(first.contains(&format!("New, {name}")) && first.contains("HTTP/1.1 "), "{first}");
        let second = s_client(proxy.addr(), &[version, "-sess_in", &session], GET);
        assert!(second.contains(&format!("Reused, {name}")) && second.contains("HTTP/1.1 "), "{second}");
        assert!(!second.contains("Early data was accepted"), "{second}");
    }
    // No early data is offered, so that none can be replayed: RFC 8446, section 8.
    let out = s_client(proxy.addr(), &["-tls1_3"], GET);
    assert!(out.contains("Max Early Data: 0") || !out.contains("Max Early Data"), "{out}");
}

//! What goes out of a pod: where it is led to, and what is left alone.

mod common;

use common::pods::{APP, Ear, Keys, Net, PROXY, Pod, Sidecar};
use common::tls::Client;
use common::{Conn, SOON, show, until};

const SERVICES: &str = r#"
defaults: { connectTimeout: 500ms }
services:
  reviews:
    hosts: [reviews, reviews.shop.svc.cluster.local]
    addresses: [10.96.0.12, "fd96::12"]
    port: 80
    endpoints:
      static:
        - { address: "10.9.0.3:8081", labels: { version: v1 } }
        - { address: "[fd09::3]:8082", labels: { version: v2 } }
    subsets: { v1: { labels: { version: v1 } }, v2: { labels: { version: v2 } } }
  details: { addresses: ["10.96.0.13:81"], endpoints: { static: ["10.9.0.3:8083"] } }
  pods: { endpoints: { static: ["10.9.0.3:8081", "10.9.0.3:8083", "[fd09::3]:8082"] } }
  secure: { protocol: tcp, endpoints: { static: ["10.9.0.3:8443"] } }
routes:
  - { name: canary, hosts: [reviews], match: [{ headers: { x-env: { exact: canary } } }], to: reviews/v2 }
  - { name: reviews, hosts: [reviews], split: [{ to: reviews/v1, weight: 90 }, { to: reviews/v2, weight: 10 }] }
  - { name: secure, hosts: [secure.test], to: secure }
"#;

const KNOWN: Keys<'_> = Keys { inbound: "", outbound: "", top: SERVICES, tproxy: false };

/// The applications of pod B, which has no sidecar here.
fn apps(pod: &Pod) -> [common::Origin; 3] {
    [pod.app("0.0.0.0:8081", "v1"), pod.app("[::]:8082", "v2"), pod.app("0.0.0.0:8083", "details")]
}

/// Connections that the sidecar has taken.
fn taken(sidecar: &Sidecar<'_>) -> f64 {
    // The question itself is asked of another listener.
    sidecar.metric("outrigger_worker_connections_accepted_total", &[])
}

#[test]
fn a_virtual_address_is_a_service() {
    let Some(net) = Net::new() else { return };
    let (a, _apps) = (&net.a, apps(&net.b));
    let sidecar = a.sidecar(&KNOWN);
    let one = |address: &str, host: &str, lines: &str| a.ask(address, host, lines).text();

    // Whatever name is asked for: the address has decided.
    for host in ["reviews", "reviews.shop.svc.cluster.local", "10.96.0.12", "elsewhere.test", "details"] {
        for address in ["10.96.0.12:80", "[fd96::12]:80"] {
            let told = one(address, host, "");
            assert!(["v1", "v2"].contains(&told.as_str()), "{address} {host}: {told}");
        }
    }
    assert_eq!(one("10.96.0.13:81", "10.96.0.13:81", ""), "details");
    for _ in 0..5 {
        assert_eq!(one("10.96.0.12:80", "reviews", "x-env: canary\r\n"), "v2", "a header chooses");
        assert_eq!(one("[fd96::12]:80", "[fd96::12]", "x-env: canary\r\n"), "v2", "without the service's name, too");
    }
    // On one connection, request by request.
    let mut conn = a.connect("10.96.0.12:80");
    let mut canaries = 0;
    for _ in 0..300 {
        conn.write("GET / HTTP/1.1\r\nHost: reviews\r\n\r\n");
        canaries += usize::from(conn.response("GET").text() == "v2");
    }
    assert!((5..=70).contains(&canaries), "{canaries} of 300 at 10 %");

    // Another port of the address is no service, and nobody's.
    let mut conn = a.connect("10.96.0.13:82");
    conn.try_write("GET / HTTP/1.1\r\nHost: details\r\n\r\n");
    assert_ne!(conn.try_head().map(|head| head.status()), Some(200));
    sidecar.await_page("/unknown", "10.96.0.13:82");
}

#[test]
fn an_unknown_address_is_known_by_name() {
    let Some(net) = Net::new() else { return };
    let (a, _apps) = (&net.a, apps(&net.b));
    let secure = Ear::on(net.b.listen("0.0.0.0:8443"), "secure");
    let _sidecar = a.sidecar(&KNOWN);
    for address in ["192.0.2.7:80", "[2001:db8::7]:8000"] {
        assert_eq!(a.ask(address, "reviews", "x-env: canary\r\n").text(), "v2", "by Host");
    }
    let out = a.run(
        "curl",
        &["-sS", "--http2-prior-knowledge", "-H", "x-env: canary", "--connect-to", "::192.0.2.7:80", "http://reviews/"],
    );
    assert_eq!(out, "v2", "by :authority");

    let hello = Client::anonymous().name("secure.test").alpn(&["http/1.1"]).hello();
    let mut conn = a.connect("192.0.2.7:443");
    conn.write(&hello);
    assert_eq!(show(&conn.read_some()), "secure", "by the name in a hello");
    secure.await_heard(&hello);
}

#[test]
fn a_pod_is_reached_itself() {
    let Some(net) = Net::new() else { return };
    let (a, _apps) = (&net.a, apps(&net.b));
    let sidecar = a.sidecar(&KNOWN);
    for _ in 0..10 {
        assert_eq!(a.get("10.9.0.3:8083", "pods").text(), "details");
        assert_eq!(a.get("10.9.0.3:8081", "10.9.0.3").text(), "v1");
        assert_eq!(a.get("[fd09::3]:8082", "x").text(), "v2");
    }
    let page = sidecar.ask(|proxy| proxy.admin("GET", "/unknown").text());
    assert!(!page.contains("10.9.0.3"), "all of them belong to services: {page}");
}

#[test]
fn what_is_unknown_passes_byte_by_byte() {
    const REPLY: &str = "HTTP/1.1 200 oK\r\ncontent-LENGTH: 2\r\nsErver: Odd \r\n\r\nok";
    let Some(net) = Net::new() else { return };
    let sidecar = net.a.sidecar(&KNOWN);
    let hello = Client::anonymous().name("nobody.test").hello();
    let all: [&[u8]; 6] = [
        b"GET /a//b/../c HTTP/1.1\r\nHOST: Nobody.Test\r\nx-MiXed: 1\r\nX-mixed:2 \r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: nobody.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: b\r\n\r\n",
        &hello,
        b"\x00\x01\xff\r\n\r\nnot a protocol",
    ];
    for (node, address) in [("0.0.0.0:9000", net.node.at(9000)), ("[::]:9001", net.node.at6(9001))] {
        let ear = Ear::on(net.node.listen(node), REPLY);
        for bytes in all {
            let mut conn = net.a.connect(address);
            conn.write(bytes);
            assert_eq!(show(&conn.read_exact(REPLY.len())), show(REPLY.as_bytes()), "after {}", show(bytes));
            conn.finish();
            ear.await_heard(bytes);
            assert_eq!(show(&conn.read_to_end()), "");
        }
        sidecar.await_page("/unknown", &address.to_string());
    }
    assert!(sidecar.metric("http_requests_total", &[("service", "reviews")]) == 0.0);
    // A real program, over TLS that is not ours.
    let pki = common::Pki::new("outside.test");
    let pair = pki.server(&["nobody.test"]);
    let (certificate, key) = (pair.certificate.display().to_string(), pair.key.display().to_string());
    let _server = net.node.spawn(
        0,
        "openssl",
        &["s_server", "-quiet", "-www", "-accept", "9443", "-cert", &certificate, "-key", &key],
    );
    net.node.await_port("10.9.0.1:9443");
    let ca = pki.bundle().display().to_string();
    let at = "nobody.test:443:10.9.0.1:9443";
    let mut curl = net.a.command(0, "curl", &["-sS", "--cacert", &ca, "--connect-to", at, "https://nobody.test/"]);
    let said = curl.output().expect("run curl");
    assert!(said.status.success() && String::from_utf8_lossy(&said.stdout).contains("TLSv1.3"), "{said:?}");
}

#[test]
fn what_is_unknown_can_be_denied() {
    let Some(net) = Net::new() else { return };
    let (a, _apps) = (&net.a, apps(&net.b));
    let ear = Ear::on(net.node.listen("0.0.0.0:9000"), "never");
    let sidecar = a.sidecar(&Keys { outbound: ", unknownDestinations: deny", ..KNOWN });
    let reply = a.get("10.9.0.1:9000", "nobody.test");
    assert!(reply.status() >= 400 && format!("{reply:?}").contains("unknown_destination"), "{reply:?}");
    for bytes in [Client::anonymous().name("nobody.test").hello(), b"\x00\x01opaque".to_vec()] {
        let mut conn = a.connect("10.9.0.1:9000");
        conn.write(bytes);
        assert_eq!(show(&conn.read_to_end()), "");
    }
    sidecar.await_counted("unknown_destination", 3.0);
    sidecar.await_page("/unknown", "10.9.0.1:9000");
    // A silent one is not let through to hear what there is.
    let mut silent = a.connect("10.9.0.1:9000");
    silent.finish();
    assert_eq!(show(&silent.read_to_end()), "");
    assert!(ear.heard().is_empty(), "nothing arrived, not even a connection: {:?}", ear.heard());
    assert_eq!(a.ask("192.0.2.7:80", "reviews", "x-env: canary\r\n").text(), "v2", "a name is known");
    assert_eq!(a.get("10.96.0.13:81", "x").text(), "details");
}

#[test]
fn our_own_ports_are_no_way_in() {
    let Some(net) = Net::new() else { return };
    let a = &net.a;
    // Rules that somebody made without leaving the proxy's ports alone.
    a.nft(
        "table inet everything {
  chain out {
    type nat hook output priority -100;
    meta skuid 1337 return
    ip daddr 127.0.0.0/8 return
    ip6 daddr ::1 return
    meta l4proto tcp redirect to :15001
  }
  chain in {
    type nat hook prerouting priority -100;
    meta l4proto tcp redirect to :15006
  }
}\n",
    );
    let sidecar = a.uncaptured(&KNOWN);
    let refused = |mut conn: Conn, what: &str| {
        conn.try_write("GET / HTTP/1.1\r\nHost: reviews\r\nConnection: close\r\n\r\n");
        let status = conn.try_head().map(|head| head.status());
        assert!(status.is_none_or(|status| status >= 400), "{what}: {status:?}");
    };
    for (n, address) in ["127.0.0.1:15001", "[::1]:15001", "127.0.0.1:15006", "[::1]:15006"].iter().enumerate() {
        refused(a.connect(address), address);
        sidecar.await_counted("not_redirected", n as f64 + 1.0);
    }
    for (n, address) in [a.at(15001), a.at(15006), a.at6(15001), a.at6(15006)].into_iter().enumerate() {
        refused(a.connect(address), &address.to_string());
        sidecar.await_counted("loop", n as f64 + 1.0);
    }
    for (n, address) in [a.at(15006), a.at6(15006)].into_iter().enumerate() {
        // The kernel led it to where it was going.
        refused(net.node.connect(address), &format!("{address} from outside"));
        sidecar.await_counted("not_redirected", n as f64 + 5.0);
    }
    assert_eq!(sidecar.ask(|proxy| proxy.probe("/readyz")), Some(200));
}

#[test]
fn too_many_hops_are_a_loop() {
    let Some(net) = Net::new() else { return };
    let _apps = apps(&net.b);
    let sidecar = net.a.sidecar(&KNOWN);
    assert_eq!(net.a.ask("10.96.0.13:81", "details", "x-outrigger-hops: 3\r\n").status(), 200);
    let reply = net.a.ask("10.96.0.13:81", "details", "x-outrigger-hops: 21\r\n");
    assert_eq!(reply.status(), 508, "{reply:?}");
    sidecar.await_counted("loop", 1.0);
}

#[test]
fn what_is_not_ours_is_not_touched() {
    let Some(net) = Net::new() else { return };
    let a = &net.a;
    let ear = Ear::on(net.node.listen("0.0.0.0:9000"), "hi");
    let other = Ear::on(net.node.listen("0.0.0.0:9002"), "hi");
    a.intercept(&["--exclude-outbound-ports", "9002"]);
    let sidecar = a.uncaptured(&KNOWN);
    let hello = |mut conn: Conn, ear: &Ear, said: &str| {
        conn.write(said);
        assert_eq!(show(&conn.read_some()), "hi");
        ear.await_heard(said.as_bytes());
    };
    hello(Conn::new(a.try_connect(PROXY, net.node.at(9000)).expect("connect")), &ear, "by the proxy's user");
    hello(a.connect(net.node.at(9002)), &other, "to an excluded port");
    let local = Ear::on(a.listen("127.0.0.1:9000"), "hi");
    hello(a.connect("127.0.0.1:9000"), &local, "on loopback");
    let before = taken(&sidecar);
    assert_eq!(before, 0.0, "none of these came to the sidecar");
    hello(Conn::new(a.try_connect(APP, net.node.at(9000)).expect("connect")), &ear, "by the application's");
    hello(Conn::new(a.try_connect(0, net.node.at(9000)).expect("connect")), &ear, "by root");
    until("both came to the sidecar", SOON, || taken(&sidecar) == 2.0);
}

#[test]
fn an_application_calls_itself() {
    let Some(net) = Net::new() else { return };
    let a = &net.a;
    let (_v4, _v6) = (a.app("10.9.0.2:8080", "self"), a.app("[::]:8080", "self6"));
    let _sidecar = a.sidecar(&KNOWN);
    assert_eq!(a.get(a.at(8080), "self").text(), "self");
    assert_eq!(a.get(a.at6(8080), "self").text(), "self6");
    assert_eq!(a.get("[::1]:8080", "self").text(), "self6");
}

//! TLS that is not ours to end: sent on by the name that the client asks for, bytes as they are.

mod common;

use std::net::SocketAddr;

use common::mesh::{MUTUAL, Mesh, Tap};
use common::pki::{Pair, Pki};
use common::tls::{Bridge, Client, OpenSsl, Server, certificates, s_client};
use common::{Conn, Origin, Proxy, Setup, send, show};

const ROUTES: &str = r"
  - { name: exact, hosts: [a.test, one.wild.test], to: a }
  - { name: wild, hosts: ['*.wild.test'], to: b }
";
const REST: &str = "  - { name: rest, to: c }\n";

fn start(routes: &str, up: [SocketAddr; 3]) -> Proxy {
    let config = format!(
        r#"apiVersion: outrigger/v1
admin: {{ address: "{{admin}}" }}
health: {{ address: "{{health}}" }}
listeners:
  - {{ name: edge, mode: proxy, address: "{{listen}}", protocol: tcp }}
services:
  a: {{ endpoints: {{ static: ["{{a}}"] }}, protocol: tcp }}
  b: {{ endpoints: {{ static: ["{{b}}"] }}, protocol: tcp }}
  c: {{ endpoints: {{ static: ["{{c}}"] }}, protocol: tcp }}
routes:{routes}"#
    );
    Proxy::start(&config, &[("a", up[0]), ("b", up[1]), ("c", up[2])])
}

struct Ground {
    pairs: [Pair; 3],
    /// With their files.
    _pki: Pki,
    _origins: [Origin; 3],
    fronts: [Bridge; 3],
}

impl Ground {
    fn new() -> Self {
        let pki = Pki::new("outside.test");
        let pairs = ["a.test", "b.test", "c.test"].map(|name| pki.server(&[name]));
        let origins = ["a", "b", "c"].map(Origin::named);
        let fronts = [0, 1, 2].map(|n| Server::of(&pairs[n]).front(origins[n].addr()));
        Self { pairs, _pki: pki, _origins: origins, fronts }
    }

    fn up(&self) -> [SocketAddr; 3] {
        [0, 1, 2].map(|n| self.fronts[n].addr())
    }
}

#[test]
fn by_the_name_that_is_asked_for() {
    let ground = Ground::new();
    let proxy = start(&format!("{ROUTES}{REST}"), ground.up());
    let slow = Tap::bytewise(proxy.addr());
    let table = [
        (Some("a.test"), 0),
        (Some("A.Test"), 0),
        // Exact before wildcard.
        (Some("one.wild.test"), 0),
        (Some("two.wild.test"), 1),
        (Some("wild.test"), 2),
        (Some("other.test"), 2),
        (None, 2),
    ];
    for addr in [proxy.addr(), slow.addr()] {
        for (name, n) in table {
            for client in [Client::anonymous(), Client::anonymous().old()] {
                let client = name.into_iter().fold(client, Client::name);
                let bridge = client.bridge(addr);
                assert_eq!(bridge.get("/").text(), ["a", "b", "c"][n], "{name:?}");
                assert_eq!(bridge.last().chain, certificates(&ground.pairs[n].certificate));
                let sent = name.map(str::to_ascii_lowercase);
                assert_eq!(ground.fronts[n].last().name.map(|n| n.to_ascii_lowercase()), sent);
            }
        }
    }
}

#[test]
fn without_a_rest_the_others_are_closed() {
    let ground = Ground::new();
    let proxy = start(ROUTES, ground.up());
    assert_eq!(Client::anonymous().name("a.test").bridge(proxy.addr()).get("/").text(), "a");
    Client::anonymous().name("other.test").refused(proxy.addr());
    Client::anonymous().refused(proxy.addr());
    assert_eq!(show(&send(proxy.addr(), "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")), "");
    assert_eq!(show(&send(proxy.addr(), "\x16\x03\x01\x01\x01rubbish")), "");
    // In the middle of a hello, and gone.
    let hello = Client::anonymous().name("a.test").hello();
    assert_eq!(show(&send(proxy.addr(), &hello[..hello.len() - 1])), "");
    assert_eq!(ground.fronts[0].facts().len(), 1);
    assert_eq!(ground.fronts[0].errors(), [""; 0], "it heard of none of them");
}

#[test]
fn what_is_no_tls_goes_to_the_rest() {
    let ground = Ground::new();
    let echo = Origin::raw(|mut conn, _| {
        loop {
            let some = conn.read_some();
            if some.is_empty() || !conn.try_write(some) {
                return;
            }
        }
    });
    let [a, b, _] = ground.up();
    let proxy = start(&format!("{ROUTES}{REST}"), [a, b, echo.addr()]);
    let hello = Client::anonymous().name("other.test").hello();
    for bytes in [&hello[..], b"hello", b"\x16", b"\x16\x03\x01\x01\x01rubbish", &hello[..hello.len() - 1]] {
        assert_eq!(show(&send(proxy.addr(), bytes)), show(bytes));
    }
    // A new route takes those that come after it.
    let mut old = Conn::connect(proxy.addr());
    old.write("old");
    assert_eq!(old.read_exact(3), b"old");
    proxy.reload("hosts: [a.test, one.wild.test]", "hosts: [other.test]");
    assert_eq!(Client::anonymous().name("other.test").bridge(proxy.addr()).get("/").text(), "a");
    old.write("still");
    assert_eq!(old.read_exact(5), b"still");
}

/// Their TLS in ours: ends where theirs ends.
#[test]
fn through_a_mutual_service() {
    let (mesh, pki) = (Mesh::new(), Pki::new("outside.test"));
    let pair = pki.server(&["a.test"]);
    let server = OpenSsl::serve(&pair, &["-www"]);
    let far =
        Setup { listener: ", protocol: tcp, tls: { mode: strict }", service: ", protocol: tcp", ..Setup::default() };
    let far = mesh.inbound(server.addr(), far);
    let service = format!("{MUTUAL}, protocol: tcp");
    let near = Setup { listener: ", protocol: tcp", service: &service, route: ", hosts: [a.test]", ..Setup::default() };
    let near = mesh.outbound_as(far.addr(), near);
    let ca = pki.bundle().display().to_string();
    let args = ["-servername", "a.test", "-CAfile", &ca, "-verify_return_error", "-verify_hostname", "a.test"];
    let out = s_client(near.addr(), &args, "GET / HTTP/1.0\r\n\r\n");
    assert!(out.contains("Verify return code: 0 (ok)") && out.contains("HTTP/1.0 200 ok"), "{out}");
}

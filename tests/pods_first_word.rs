//! The first word of a connection: who has it, who is waited for, and how it comes to nothing.

mod common;

use std::time::{Duration, Instant};

use common::h2raw::PREFACE;
use common::mesh::{Mesh, REVIEWS, WEB};
use common::pods::{Ear, Keys, Net, Pod, Sidecar, services};
use common::{Conn, Origin, SOON, show, until};

/// Longer than any test waits: what comes at all has not waited for it.
const NEVER: &str = ", detectionTimeout: 60s";
const BRIEF: &str = ", detectionTimeout: 300ms";
const NEVER_PERMISSIVE: &str = ", detectionTimeout: 60s, tls: { mode: permissive }";

const OK: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
const BANNER: &str = "220 mail.test ESMTP ready\r\n";

fn greeter(pod: &Pod, address: &str) -> Origin {
    Origin::raw_on(pod.listen(address), |mut conn, _| {
        conn.try_write(BANNER);
        conn.read_to_end();
    })
}

/// Waits for the end of its client, and answers it.
fn listener(pod: &Pod, address: &str) -> Origin {
    Origin::raw_on(pod.listen(address), |mut conn, _| {
        let said = conn.read_to_end();
        conn.try_write(format!("{} bytes", said.len()));
    })
}

fn greeted(mut conn: Conn) {
    assert_eq!(conn.line().map(|line| show(&line)), Some(show(BANNER.as_bytes())));
}

/// Two identities, and services over mTLS at 10.96.0.40 with the ports of pod B.
struct Sides {
    _mesh: Mesh,
    web: String,
    reviews: String,
}

impl Sides {
    fn new(ports: &[u16]) -> Self {
        let mesh = Mesh::new();
        let web = mesh.identity(&mesh.web) + &services(ports, REVIEWS);
        let reviews = mesh.identity(&mesh.reviews);
        Self { _mesh: mesh, web, reviews }
    }

    fn caller<'p>(&self, pod: &'p Pod, outbound: &str) -> Sidecar<'p> {
        pod.sidecar(&Keys { outbound, top: &self.web, ..Keys::default() })
    }
}

#[test]
fn who_pauses_before_http_is_served_by_a_peer_that_takes_nothing_else() {
    const RULE: &str = "authorization:\n  - { name: paths, allow: [{ to: { paths: [{ prefix: / }] } }] }\n";
    let Some(net) = Net::new() else { return };
    let ports: Vec<u16> = (8080..8085).collect();
    let sides = Sides::new(&ports);
    let _apps: Vec<Origin> = ports.iter().map(|port| net.b.app(format!("0.0.0.0:{port}"), "app")).collect();
    let _caller = sides.caller(&net.a, BRIEF);
    let top = sides.reviews.clone() + RULE;
    net.b.intercept(&[]);
    for inbound in ["", ", ports: { 8080: { protocol: http }, 8083: { protocol: http }, 8084: { protocol: http } }"] {
        let inbound = [", tls: { mode: strict }", inbound].concat();
        let _called = net.b.uncaptured(&Keys { inbound: &inbound, top: &top, ..Keys::default() });
        // The longest is longer than the caller has to be told apart: it has connected ahead of what it will ask.
        for (port, pause) in ports.iter().zip([0, 15, 50, 200, 900]) {
            // The first time, and when it has been learned.
            for round in 0..2 {
                let mut conn = net.a.connect(format!("10.96.0.40:{port}"));
                let quiet = pause == 0 || conn.is_quiet(Duration::from_millis(pause));
                assert!(quiet, "{pause} ms, round {round}, `{inbound}`");
                conn.write("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
                assert_eq!(conn.response("GET").text(), "app", "{pause} ms, round {round}, `{inbound}`");
            }
        }
    }
}

#[test]
fn nobody_forges_what_the_application_is_told() {
    const FORGED: &str = "X-Forwarded-Client-Cert: URI=spiffe://forged\r\n";
    let Some(net) = Net::new() else { return };
    let ear = Ear::on(net.b.listen("0.0.0.0:8080"), OK);
    let sidecar = net.b.sidecar(&Keys { inbound: BRIEF, ..Keys::default() });
    let request = format!("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{FORGED}\r\n");
    let forged = || ear.heard().iter().any(|said| said.windows(6).any(|word| word == b"forged"));
    for (empty, count) in [("\r\n", 0), ("\r\n", 3), ("\r\n", 31), ("\r\n", 32), ("\r\n", 70), ("\n", 63), ("\n", 65)] {
        // At once, and where the empty lines come first.
        for pause in [0, 20] {
            let mut conn = net.node.connect("10.9.0.3:8080");
            conn.write(empty.repeat(count));
            if pause > 0 {
                std::thread::sleep(Duration::from_millis(pause));
            }
            conn.try_write(&request);
            let status = conn.try_head().map(|head| head.status());
            assert!(count > 3 || status == Some(200), "{count} empty lines: {status:?}");
            conn.read_to_end();
            assert!(!forged(), "{count} empty lines: {:?}", ear.heard().last().map(|said| show(said)));
        }
    }
    assert!(ear.heard().iter().any(|said| said.starts_with(b"GET / ")), "some have arrived");
    sidecar.await_page("/learned", "10.9.0.3:8080");
    // Not by the rest of a request line, either, whose beginning told nothing.
    for (begun, rest) in [("G", "ET / HTTP/1.1\r\n"), ("GET", " / HTTP/1.1\r\n"), ("\r\n\r\n", "GET / HTTP/1.1\r\n")] {
        let mut conn = net.node.connect("10.9.0.3:8080");
        conn.write(begun);
        assert_eq!(show(&conn.read_to_end()), "", "after `{begun}`");
        conn.try_write(format!("{rest}Host: x\r\n{FORGED}\r\n"));
        assert!(!forged(), "after `{begun}`");
    }
    sidecar.await_counted("header_timeout", 3.0);
}

#[test]
fn who_has_nothing_to_say_hears_the_server() {
    let Some(net) = Net::new() else { return };
    let sides = Sides::new(&[2525, 2526]);
    let mut apps = Vec::new();
    for pod in [&net.node, &net.b] {
        apps.extend([greeter(pod, "0.0.0.0:2525"), listener(pod, "0.0.0.0:2526"), greeter(pod, "[::]:2527")]);
    }
    let a = sides.caller(&net.a, NEVER);
    net.b.intercept(&[]);
    for inbound in [NEVER, NEVER_PERMISSIVE] {
        let b = net.b.uncaptured(&Keys { inbound, top: &sides.reviews, ..Keys::default() });
        let ways = [
            (&net.node, "10.9.0.3", "inbound"),
            (&net.a, "10.9.0.1", "outbound"),
            (&net.a, "10.9.0.3", "both"),
            (&net.a, "10.96.0.40", "mTLS"),
        ];
        for (from, to, way) in ways {
            if (way == "both" || way == "mTLS") && inbound == NEVER {
                continue;
            }
            // At once, and after it has been quiet.
            for pause in [0, 200] {
                for (port, answer) in [(2525, BANNER), (2526, "0 bytes")] {
                    let mut conn = from.connect(format!("{to}:{port}"));
                    if pause > 0 && port == 2526 {
                        assert!(conn.is_quiet(Duration::from_millis(pause)), "{way} {inbound}");
                    }
                    conn.finish();
                    assert_eq!(
                        show(&conn.read_to_end()),
                        show(answer.as_bytes()),
                        "{way} {port} {pause} ms `{inbound}`"
                    );
                    assert!(!conn.was_reset);
                }
                // A probe.
                drop(from.connect(format!("{to}:2525")));
                drop(from.connect(format!("{to}:2526")));
                let mut conn = from.connect(format!("{to}:2526"));
                assert!(conn.is_quiet(Duration::from_millis(50)));
                conn.reset();
            }
        }
        let left = |sidecar: &Sidecar<'_>| {
            let gauges = ["connections_active", "tcp_active"].map(|name| format!("outrigger_worker_{name}"));
            gauges.iter().map(|gauge| sidecar.metric(gauge, &[])).sum::<f64>()
        };
        until("nothing is left of them", SOON, || apps.iter().all(|app| app.open() == 0));
        until("nothing is left in the sidecars", SOON, || left(&a) == 0.0 && left(&b) == 0.0);
    }
}

#[test]
fn a_pod_that_is_its_own_peer() {
    let Some(net) = Net::new() else { return };
    let mesh = Mesh::new();
    let both = format!("tls: {{ mode: mutual, identities: [\"{WEB}\", \"{REVIEWS}\"] }}");
    let services = format!(
        "{}services:
  pair: {{ addresses: [10.96.0.50], port: 8080, endpoints: {{ static: [\"10.9.0.2:8080\", \"10.9.0.3:8080\"] }}, {both} }}
  own: {{ addresses: [10.96.0.51], endpoints: {{ static: [\"10.9.0.2:2525\"] }}, {both} }}
  own6: {{ addresses: [\"fd96::51\"], endpoints: {{ static: [\"[fd09::2]:8081\"] }}, {both} }}
",
        mesh.identity(&mesh.web)
    );
    let apps = [net.a.app("10.9.0.2:8080", "a"), net.b.app("0.0.0.0:8080", "b"), net.a.app("[fd09::2]:8081", "a6")];
    let _mail = greeter(&net.a, "10.9.0.2:2525");
    let strict = ", tls: { mode: strict }";
    let a = net.a.sidecar(&Keys { inbound: strict, outbound: NEVER, top: &services, ..Keys::default() });
    let _b = net.b.sidecar(&Keys { inbound: strict, top: &mesh.identity(&mesh.reviews), ..Keys::default() });
    let mut answers: Vec<String> = (0..40).map(|_| net.a.get("10.96.0.50:8080", "pair").text()).collect();
    answers.sort();
    answers.dedup();
    assert_eq!(answers, ["a", "b"]);
    for _ in 0..3 {
        assert_eq!(net.a.get("10.9.0.2:8080", "pair").text(), "a", "by its own address");
        assert_eq!(net.a.get("[fd96::51]:8081", "own6").text(), "a6");
        greeted(net.a.connect("10.96.0.51:2525"));
    }
    let proven = apps[1].last().head.get("x-forwarded-client-cert").unwrap_or_default();
    assert!(proven.contains(&format!("URI={WEB}")), "the other one is told by mTLS: {proven}");
    assert!(!apps[0].last().head.has("x-forwarded-client-cert"), "nobody has proven anything to itself");
    assert_eq!(a.ask(|proxy| proxy.counted("upstream_tls")), 0.0);
}

#[test]
fn a_client_of_http2_may_wait_for_the_server() {
    const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";
    let Some(net) = Net::new() else { return };
    let _server = Origin::raw_on(net.node.listen("0.0.0.0:50051"), |mut conn, _| {
        assert_eq!(show(&conn.read_exact(PREFACE.len() + SETTINGS.len())), show(&[PREFACE, SETTINGS].concat()));
        conn.try_write(SETTINGS);
        conn.read_to_end();
    });
    net.a.intercept(&[]);
    // With something that a host could lead to, and without.
    let known = "services:\n  web: { hosts: [web.test], endpoints: { static: [\"10.9.0.1:8080\"] } }\n";
    for top in ["", known] {
        let sidecar = net.a.uncaptured(&Keys { outbound: NEVER, top, ..Keys::default() });
        let began = Instant::now();
        let mut conn = net.a.connect("10.9.0.1:50051");
        conn.write([PREFACE, SETTINGS].concat());
        assert_eq!(show(&conn.read_exact(SETTINGS.len())), show(SETTINGS));
        let took = began.elapsed();
        assert!(took < Duration::from_millis(1500), "{took:?}");
        sidecar.await_page("/unknown", "10.9.0.1:50051");
    }
}

#[test]
fn a_port_of_tcp_whatever_rules_say_of_others() {
    const RULE: &str = "authorization:\n  - { name: other, deny: [{ from: { cidrs: [10.1.1.1/32] }, to: { paths: [{ prefix: /x }] } }] }\n";
    let Some(net) = Net::new() else { return };
    let _mail = greeter(&net.b, "0.0.0.0:2525");
    let sides = Sides::new(&[2525]);
    let _caller = sides.caller(&net.a, NEVER);
    let top = sides.reviews.clone() + RULE;
    let inbound = ", detectionTimeout: 60s, tls: { mode: permissive }, ports: { 2525: { protocol: tcp } }";
    let called = net.b.sidecar(&Keys { inbound, top: &top, ..Keys::default() });
    for _ in 0..2 {
        greeted(net.node.connect("10.9.0.3:2525"));
        greeted(net.a.connect("10.96.0.40:2525"));
    }
    called.await_page("/peers", WEB);
}

#[test]
fn a_server_that_ends_soon_ends_so_for_the_client() {
    let Some(net) = Net::new() else { return };
    let sides = Sides::new(&[7000, 7001, 7002, 7003]);
    let mut servers = Vec::new();
    for pod in [&net.node, &net.b] {
        servers.push(Origin::raw_on(pod.listen("0.0.0.0:7000"), |conn, _| {
            std::thread::sleep(Duration::from_millis(50));
            conn.reset();
        }));
        servers.push(Origin::raw_on(pod.listen("0.0.0.0:7001"), |mut conn, _| {
            conn.try_write("HTT");
        }));
        servers.push(Origin::raw_on(pod.listen("0.0.0.0:7002"), |mut conn, _| {
            conn.try_write("\0\0\0");
            conn.read_to_end();
        }));
        servers.push(Origin::raw_on(pod.listen("0.0.0.0:7003"), |_, _| {}));
    }
    // Over mTLS a reset may also be the other sidecar's, so it is not believed at once.
    let _a = sides.caller(&net.a, BRIEF);
    let _b = net.b.sidecar(&Keys { inbound: NEVER_PERMISSIVE, top: &sides.reviews, ..Keys::default() });
    for (from, to) in [(&net.node, "10.9.0.3"), (&net.a, "10.9.0.1"), (&net.a, "10.96.0.40"), (&net.a, "10.9.0.3")] {
        // As a stranger, and when it has been learned.
        for _ in 0..2 {
            let mut conn = from.connect(format!("{to}:7000"));
            assert_eq!(show(&conn.read_to_end()), "", "{to}");
            assert!(conn.was_reset, "{to}: a reset is a reset");
            let mut conn = from.connect(format!("{to}:7001"));
            assert_eq!(show(&conn.read_to_end()), "HTT", "{to}");
            assert!(!conn.was_reset, "{to}: an end is an end");
            let mut conn = from.connect(format!("{to}:7002"));
            assert_eq!(show(&conn.read_exact(3)), "\\x00\\x00\\x00", "{to}");
            let mut conn = from.connect(format!("{to}:7003"));
            assert_eq!(show(&conn.read_to_end()), "", "{to}");
            assert!(!conn.was_reset, "{to}: an end without a word");
        }
    }
}

#[test]
fn an_address_of_one_link_keeps_its_link() {
    let Some(net) = Net::new() else { return };
    net.node.ip("addr add fe80::1:1/64 dev br0 nodad\n");
    net.b.ip("addr add fe80::1:3/64 dev eth0 nodad\n");
    let link = |pod: &Pod, device: &str| {
        let text = pod.run("ip", &["-o", "link", "show", device]);
        text.split(':').next().and_then(|index| index.parse::<u32>().ok()).expect("a number")
    };
    let _apps = [greeter(&net.node, "[::]:9001"), greeter(&net.b, "[::]:9001")];
    // An address that may yet turn out to be another's is not used.
    for pod in [&net.node, &net.a, &net.b] {
        until("the addresses are there", SOON, || pod.run("ip", &["-6", "addr", "show", "tentative"]).is_empty());
    }
    // The usual rules leave it alone, since on its way to us the link would be lost.
    let a = net.a.sidecar(&Keys { outbound: NEVER, ..Keys::default() });
    greeted(net.a.connect(format!("[fe80::1:1%{}]:9001", link(&net.a, "eth0"))));
    assert_eq!(a.metric("outrigger_worker_connections_accepted_total", &[]), 0.0);
    net.b.nft(
        "table inet by_hand {
  chain in {
    type nat hook prerouting priority -100
    tcp dport 9001 redirect to :15006
  }
}\n",
    );
    let b = net.b.uncaptured(&Keys { inbound: NEVER, ..Keys::default() });
    greeted(net.node.connect(format!("[fe80::1:3%{}]:9001", link(&net.node, "br0"))));
    b.await_page("/peers", "fe80::1:1");
}

//! What a sidecar does not serve: how soon it says so, to whom, and where it is seen.

mod common;

use std::time::{Duration, Instant};

use common::pods::{Ear, Keys, Net, Pod, Sidecar};
use common::tls::Client;
use common::{Conn, Origin, SOON, show, until};

/// Longer than any test waits: what comes at all has not waited for it.
const NEVER: &str = ", detectionTimeout: 60s";
const BRIEF: &str = ", detectionTimeout: 800ms";
const BRIEFLY: Duration = Duration::from_millis(800);

const GET: &str = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
const BANNER: &str = "220 mail.test ESMTP ready\r\n";

/// Redirects all that comes in, as somebody may who has not thought of what is for others.
const EVERYTHING: &str = "table inet by_hand {
  chain in {
    type nat hook prerouting priority -100
    meta l4proto tcp tcp dport != { 15000, 15020 } redirect to :15006
  }
}\n";

fn greeter(pod: &Pod, address: &str) -> Origin {
    Origin::raw_on(pod.listen(address), |mut conn, _| {
        conn.try_write(BANNER);
        conn.read_to_end();
    })
}

fn greeted(mut conn: Conn) {
    assert_eq!(conn.line().map(|line| show(&line)), Some(show(BANNER.as_bytes())));
}

/// Has nothing to say, and is to be ended after `BRIEF`; says how.
fn silent(mut conn: Conn) -> bool {
    let began = Instant::now();
    assert_eq!(show(&conn.read_to_end()), "", "nothing is said to it");
    let took = began.elapsed();
    assert!((BRIEFLY - Duration::from_millis(50)..BRIEFLY * 4).contains(&took), "ended after {took:?}");
    conn.was_reset
}

/// Pauses before it asks.
fn hesitant(mut conn: Conn) -> u16 {
    assert!(conn.is_quiet(BRIEFLY / 4), "nothing is said before it asks");
    conn.write(GET);
    conn.response("GET").status()
}

/// Reasons of a listener's connections in the access log, once there are so many.
fn logged(sidecar: &Sidecar<'_>, listener: &str, count: usize) -> Vec<String> {
    let reasons = || -> Vec<String> {
        let lines = sidecar.logged();
        let of_it = lines.iter().filter(|line| line["listener"] == listener);
        of_it.map(|line| line["reason"].as_str().unwrap_or_default().to_owned()).collect()
    };
    until(&format!("{count} lines of {listener}"), SOON, || reasons().len() >= count);
    reasons()
}

fn learned(sidecar: &Sidecar<'_>) -> String {
    sidecar.ask(|proxy| proxy.admin("GET", "/learned").text())
}

#[test]
fn what_is_for_another_machine_comes_to_nothing() {
    let Some(net) = Net::new() else { return };
    // Only `b` has a way there; the world outside has one through it.
    let far = [("10.55.0.2", "10.55.0.0/24", net.b.v4), ("fd55::2", "fd55::/64", net.b.v6)];
    for (address, network, through) in far {
        let bits = if address.contains(':') { "128 nodad" } else { "32" };
        let (prefix, flags) = bits.split_once(' ').unwrap_or((bits, ""));
        net.a.ip(&format!("addr add {address}/{prefix} dev eth0 {flags}\n"));
        net.b.ip(&format!("route add {network} dev eth0\n"));
        net.node.ip(&format!("route add {network} via {through}\n"));
    }
    let secret = [greeter(&net.a, "10.55.0.2:7000"), greeter(&net.a, "[fd55::2]:7000")];
    assert!(net.b.try_connect(common::pods::PROXY, "10.55.0.2:7000").is_ok(), "the proxy has a way there");
    until("it was seen", SOON, || secret[0].connections() == 1);
    let before: usize = secret.iter().map(Origin::connections).sum();
    net.b.nft(EVERYTHING);
    let sidecar = net.b.uncaptured(&Keys::default());
    for address in ["10.55.0.2:7000", "[fd55::2]:7000"] {
        let mut conn = net.node.connect(address);
        conn.try_write(GET);
        assert_eq!(show(&conn.read_to_end()), "", "{address}");
    }
    sidecar.await_counted("not_redirected", 2.0);
    assert_eq!(logged(&sidecar, "inbound", 2), ["not_redirected", "not_redirected"]);
    assert_eq!(secret.iter().map(Origin::connections).sum::<usize>(), before, "nobody was connected to");
}

#[test]
fn what_is_for_another_machine_comes_to_nothing_by_tproxy() {
    let Some(net) = Net::new() else { return };
    net.a.ip("addr add 10.55.0.2/32 dev eth0\n");
    net.b.ip(
        "route add 10.55.0.0/24 dev eth0\nrule add fwmark 7 lookup 133\nroute add local 0.0.0.0/0 dev lo table 133\n",
    );
    net.node.ip("route add 10.55.0.0/24 via 10.9.0.3\n");
    net.b.nft(
        "table ip by_hand {
  chain in {
    type filter hook prerouting priority mangle
    iif eth0 tcp dport { 7000, 8080 } tproxy to :15006 meta mark set 7 accept
  }
}\n",
    );
    let secret = greeter(&net.a, "10.55.0.2:7000");
    let _app = net.b.app("0.0.0.0:8080", "app");
    let sidecar = net.b.uncaptured(&Keys { tproxy: true, ..Keys::default() });
    let mut conn = net.node.connect("10.55.0.2:7000");
    conn.try_write(GET);
    assert_eq!(show(&conn.read_to_end()), "");
    sidecar.await_counted("not_redirected", 1.0);
    assert_eq!(secret.connections(), 0, "nobody was connected to");
}

#[test]
fn what_listens_on_loopback_is_not_for_neighbours() {
    let Some(net) = Net::new() else { return };
    let hidden = greeter(&net.b, "127.0.0.1:5432");
    net.b.nft(EVERYTHING);
    let sidecar = net.b.uncaptured(&Keys::default());
    // A neighbour may send to any address that it has a way for, also to one that is nobody's on a wire.
    net.node.run_as(0, "sysctl", &["-qw", "net.ipv4.conf.all.route_localnet=1", "net.ipv4.conf.br0.route_localnet=1"]);
    net.node.ip("route add 127.0.0.1/32 via 10.9.0.3 dev br0 src 10.9.0.1 onlink table 77
rule add pref 10 to 127.0.0.1 ipproto tcp dport 5432 lookup 77
rule add pref 20 lookup local
rule del pref 0\n");
    let mut conn = net.node.connect("127.0.0.1:5432");
    assert_eq!(show(&conn.read_to_end()), "");
    sidecar.await_counted("not_redirected", 1.0);
    assert_eq!(logged(&sidecar, "inbound", 1), ["not_redirected"]);
    assert_eq!(hidden.connections(), 0);
}

#[test]
fn who_denies_what_is_unknown_serves_what_is_known() {
    const DENY: &str = ", unknownDestinations: deny";
    const MAIL: &str =
        "services:\n  mail: { addresses: [10.96.0.25], port: 2525, endpoints: { static: [\"10.9.0.1:2525\"] } }\n";
    let Some(net) = Net::new() else { return };
    let mail = greeter(&net.node, "0.0.0.0:2525");
    net.a.intercept(&[]);
    let outbound = [DENY, NEVER].concat();
    let sidecar = net.a.uncaptured(&Keys { outbound: &outbound, top: MAIL, ..Keys::default() });
    for address in ["10.96.0.25:2525", "10.9.0.1:2525", "10.96.0.25:2525"] {
        greeted(net.a.connect(address));
    }
    drop(sidecar);

    let outbound = [DENY, BRIEF].concat();
    let sidecar = net.a.uncaptured(&Keys { outbound: &outbound, top: MAIL, ..Keys::default() });
    let other = greeter(&net.node, "0.0.0.0:2526");
    silent(net.a.connect("10.9.0.1:2526"));
    sidecar.await_counted("unknown_destination", 1.0);
    sidecar.await_page("/unknown", "10.9.0.1:2526");
    assert_eq!(logged(&sidecar, "outbound", 1), ["unknown_destination"]);
    assert_eq!((mail.connections(), other.connections()), (3, 0));
}

#[test]
fn who_calls_nobody_is_told_or_ended() {
    let Some(net) = Net::new() else { return };
    let down = "services:\n  down: { hosts: [down], addresses: [10.96.0.26], port: 8080, endpoints: { static: [\"10.9.0.1:8080\"] } }\n";
    let sidecar = net.a.sidecar(&Keys { outbound: BRIEF, top: down, ..Keys::default() });
    for address in ["10.96.0.26:8080", "10.9.0.1:8080"] {
        assert!(silent(net.a.connect(address)), "as if nobody stood between");
        assert_eq!(hesitant(net.a.connect(address)), 503, "{address}");
    }
    sidecar.await_counted("connect_failed", 4.0);
    assert_eq!(logged(&sidecar, "outbound", 4), ["connect_failed"; 4]);
}

#[test]
fn who_is_denied_is_told_or_ended_and_teaches_nothing() {
    const RULE: &str =
        "authorization:\n  - { name: nobody, ports: [8080, 2525], deny: [{ from: { cidrs: [10.9.0.1/32] } }] }\n";
    let Some(net) = Net::new() else { return };
    let (app, mail) = (net.b.app("0.0.0.0:8080", "app"), greeter(&net.b, "0.0.0.0:2525"));
    let sidecar = net.b.sidecar(&Keys { inbound: BRIEF, top: RULE, ..Keys::default() });
    for port in [8080, 2525] {
        silent(net.node.connect(net.b.at(port)));
        assert_eq!(hesitant(net.node.connect(net.b.at(port))), 403, "{port}");
        for said in [b"\x01 opaque".to_vec(), Client::anonymous().name("x.test").hello()] {
            let mut conn = net.node.connect(net.b.at(port));
            conn.write(said);
            assert_eq!(show(&conn.read_to_end()), "");
        }
    }
    sidecar.await_counted("denied", 8.0);
    assert_eq!(logged(&sidecar, "inbound", 8), ["denied"; 8]);
    let page = learned(&sidecar);
    assert!(!page.contains("10.9.0.3"), "a stranger has taught: {page}");
    assert_eq!((app.connections(), mail.connections()), (0, 0));
    // Others may, and do.
    greeted(net.a.connect(net.b.at(2525)));
    sidecar.await_page("/learned", "10.9.0.3:2525");
}

#[test]
fn a_rule_on_trial_refuses_nothing() {
    const SHADOW: &str =
        "authorization:\n  - { name: trial, mode: shadow, allow: [{ to: { paths: [{ prefix: /x }] } }] }\n";
    let Some(net) = Net::new() else { return };
    let (_mail, redis) = (greeter(&net.b, "0.0.0.0:2525"), Ear::on(net.b.listen("0.0.0.0:6379"), "+PONG\r\n"));
    let sidecar = net.b.sidecar(&Keys { inbound: NEVER, top: SHADOW, ..Keys::default() });
    greeted(net.node.connect("10.9.0.3:2525"));
    let mut conn = net.node.connect("10.9.0.3:6379");
    conn.write("*1\r\n$4\r\nPING\r\n");
    assert_eq!(show(&conn.read_some()), "+PONG\\r\\n");
    redis.await_heard(b"*1\r\n$4\r\nPING\r\n");
    assert_eq!(sidecar.ask(|proxy| proxy.counted("undetected")), 0.0);
}

#[test]
fn a_rule_is_for_its_ports_alone() {
    let Some(net) = Net::new() else { return };
    let _mail = greeter(&net.b, "0.0.0.0:2525");
    let ear = Ear::on(net.b.listen("0.0.0.0:9080"), "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    net.b.intercept(&[]);
    let rules = [
        "ports: [9080], allow: [{ to: { paths: [{ prefix: / }] } }]",
        "deny: [{ to: { paths: [{ prefix: /x }], ports: [9080] } }]",
    ];
    for rule in rules {
        let top = format!("authorization:\n  - {{ name: paths, {rule} }}\n");
        let sidecar = net.b.uncaptured(&Keys { inbound: NEVER, top: &top, ..Keys::default() });
        greeted(net.node.connect("10.9.0.3:2525"));
        assert_eq!(net.node.get("10.9.0.3:9080", "x").status(), 200, "{rule}");
        let mut conn = net.node.connect("10.9.0.3:9080");
        conn.write("\x01 opaque");
        assert_eq!(show(&conn.read_to_end()), "", "{rule}");
        sidecar.await_counted("undetected", 1.0);
        let reasons = logged(&sidecar, "inbound", 3);
        assert_eq!(reasons.iter().filter(|reason| *reason == "undetected").count(), 1, "{reasons:?}");
        let inbound = [("direction", "inbound"), ("service", "@application"), ("status_code", "200")];
        until("the direction is a label", SOON, || sidecar.metric("http_requests_total", &inbound) == 1.0);
    }
    assert!(ear.heard().iter().all(|said| said.starts_with(b"GET ")), "{:?}", ear.heard());
}

#[test]
fn a_name_that_routes_look_at_is_http_or_nothing() {
    let Some(net) = Net::new() else { return };
    let web = Ear::on(net.node.listen("0.0.0.0:8443"), "of the service");
    net.a.intercept(&[]);
    let hello = Client::anonymous().name("web.test").alpn(&["http/1.1"]).hello();
    for (more, passes) in [("", false), (", undetected: deny", false), (", undetected: allow", true)] {
        let top = format!(
            "services:\n  web: {{ hosts: [web.test], endpoints: {{ static: [\"10.9.0.1:8443\"] }}{more} }}\n\
             routes: [{{ name: web, hosts: [web.test], to: web }}]\n"
        );
        let sidecar = net.a.uncaptured(&Keys { top: &top, ..Keys::default() });
        let mut conn = net.a.connect("192.0.2.7:443");
        conn.write(&hello);
        if passes {
            assert_eq!(show(&conn.read_some()), "of the service");
            web.await_heard(&hello);
            continue;
        }
        assert_eq!(show(&conn.read_to_end()), "", "`{more}`");
        sidecar.await_counted("undetected", 1.0);
        assert_eq!(sidecar.ask(|proxy| proxy.counted("undetected")), 1.0);
        assert_eq!(logged(&sidecar, "outbound", 1), ["undetected"]);
        assert!(web.heard().is_empty());
    }
}

#[test]
fn what_listens_elsewhere_is_no_loop() {
    let Some(net) = Net::new() else { return };
    let b = &net.b;
    let _apps = [b.app("10.9.0.3:8080", "app"), b.app("[fd09::3]:8080", "app6")];
    // The template closes what this begins.
    let outbound = " }\n  - { name: edge, mode: proxy, address: \"127.0.0.1:8080\"";
    let sidecar = b.sidecar(&Keys { outbound, ..Keys::default() });
    assert_eq!(net.node.get(b.at(8080), "x").text(), "app");
    assert_eq!(net.node.get(b.at6(8080), "x").text(), "app6");
    assert_eq!(sidecar.ask(|proxy| proxy.counted("loop")), 0.0);
    // What would be dialled there is one.
    drop(sidecar);
    let inbound = ", ports: { 8080: { application: loopback } }";
    let sidecar = b.uncaptured(&Keys { inbound, outbound, ..Keys::default() });
    let mut conn = net.node.connect(b.at(8080));
    conn.try_write(GET);
    assert_eq!(show(&conn.read_to_end()), "");
    sidecar.await_counted("loop", 1.0);
    assert_eq!(logged(&sidecar, "inbound", 1), ["loop"]);
}

//! Connections to services: several addresses of one endpoint, and source ports that run out.

mod common;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};

use common::{Conn, Origin, Proxy, SOON, Setup, eventually, free_addr, get, until};

const TWO: &str = r#"apiVersion: outrigger/v1
admin: { address: "{admin}" }
health: { address: "{health}" }
runtime: { workers: 1 }
defaults: { connectTimeout: 5s }
telemetry: { accessLog: { format: json, sample: { errors: 100, others: 100, maxPerSecond: 0 } } }
listeners: [{ name: edge, mode: proxy, address: "{listen}" }]
services:
  app: { connections: { maxRequests: 1 }, endpoints: { static: [{ address: "{one}", alternatives: ["{two}", "{three}"] }] } }
routes: [{ name: all, to: app }]
"#;

/// An address that swallows the first packets: a listener whose queue is full.
struct Silent {
    addr: SocketAddr,
    _held: (socket2::Socket, Vec<TcpStream>),
}

impl Silent {
    fn new() -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("bind");
        socket.listen(0).expect("listen");
        let addr = socket.local_addr().ok().and_then(|a| a.as_socket()).expect("an address");
        let mut held = Vec::new();
        eventually("the queue is full", SOON, || {
            let stream = TcpStream::connect_timeout(&addr, Duration::from_millis(100));
            stream.map(|stream| held.push(stream)).is_err().then_some(())
        });
        Self { addr, _held: (socket, held) }
    }
}

/// How long a request takes on a connection of its own.
fn took(proxy: &Proxy) -> u128 {
    let begin = Instant::now();
    assert_eq!(get(proxy.addr(), "/").status(), 200, "{}", proxy.stderr_text());
    begin.elapsed().as_millis()
}

#[test]
fn an_endpoint_answers_on_any_of_its_addresses() {
    let (origin, silent) = (Origin::ok(), Silent::new());
    // IPv6 that is not there, as well.
    let closed = free_addr();
    let none = SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], closed.port()));
    let proxy = Proxy::start(TWO, &[("one", none), ("two", closed), ("three", origin.addr())]);
    assert!(took(&proxy) < 200);
    let line =
        eventually("a line", SOON, || proxy.stdout_lines().into_iter().find(|line| line.contains("\"endpoint\"")));
    assert!(line.contains(&format!("\"endpoint\":\"{none}\"")), "one endpoint has one name: {line}");

    let proxy = Proxy::start(TWO, &[("one", silent.addr), ("two", origin.addr()), ("three", closed)]);
    let first = took(&proxy);
    assert!((240..1000).contains(&first), "{first} ms");
    // The one that has answered is the first to be asked again.
    for _ in 0..3 {
        let again = took(&proxy);
        assert!(again < 200, "{again} ms");
    }
    assert!(origin.connections() >= 5);

    let proxy = Proxy::start(TWO, &[("one", closed), ("two", none), ("three", free_addr())]);
    assert_eq!(get(proxy.addr(), "/").status(), 503);
    proxy.await_reason("connect_failed", 503);
}

/// Runs `test` of this file in a network of its own, with so many source ports.
fn in_a_network_of_its_own(test: &str, ports: &str) -> bool {
    if std::env::var_os("OUTRIGGER_TEST_NETWORK").is_some() {
        return true;
    }
    let script = format!("ip link set lo up && echo {ports} > /proc/sys/net/ipv4/ip_local_port_range && exec \"$@\"");
    for options in [&["-n"][..], &["-r", "-n"]] {
        let enter = || {
            let mut command = Command::new("unshare");
            command.args(options).args(["sh", "-c", &script, "sh"]);
            command
        };
        if !enter().arg("true").output().is_ok_and(|output| output.status.success()) {
            continue;
        }
        let this = std::env::current_exe().expect("this test");
        let output = enter()
            .arg(this)
            .args(["--exact", test, "--nocapture"])
            .env("OUTRIGGER_TEST_NETWORK", "1")
            .output()
            .expect("run this test again");
        let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
        return false;
    }
    println!("skipped: `unshare -n` is not allowed here, so there is no network with few source ports");
    false
}

/// 600 of them, for the metrics are asked for by connections, too.
const PORTS: &str = "40000 40599";

/// Connections that stay open, each from an address of its own: the client's ports are not what is tested.
fn hold(proxy: &Proxy, count: usize) -> Vec<Conn> {
    let one = |number: usize| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        // A port that is bound is nobody else's, from whatever address.
        setsockopt(&socket, sockopt::IpBindAddressNoPort, &true).expect("an option");
        let from = [127, 0, 1, 1 + u8::try_from(number / 100).expect("few")];
        socket.bind(&SocketAddr::from((from, 0)).into()).expect("bind");
        socket.connect(&proxy.addr().into()).expect("connect");
        let mut conn = Conn::new(TcpStream::from(socket));
        conn.write("x");
        assert_eq!(conn.read_exact(1), b"x", "connection {number}: {}", proxy.stderr_text());
        conn
    };
    (0..count).map(one).collect()
}

#[test]
fn loopback_does_not_run_out_of_source_ports() {
    if !in_a_network_of_its_own("loopback_does_not_run_out_of_source_ports", PORTS) {
        return;
    }
    // Ports of our own are outside of the range, which is not for those who listen.
    let listener = TcpListener::bind("127.0.0.1:30001").expect("listen");
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = tell.send(stream.peer_addr().expect("a peer").ip().to_string());
            std::thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
        }
    });
    let setup = Setup { listener: ", protocol: tcp", service: ", protocol: tcp", workers: 2, ..Setup::default() };
    let proxy = setup.start("127.0.0.1:30001".parse().expect("an address"));
    let usual = |count: usize| told.iter().take(count).filter(|from| from == "127.0.0.1").count();
    // 70 % of 600; then another source.
    let held = hold(&proxy, 600);
    assert_eq!(usual(600), 420);
    proxy.await_metric("outrigger_source_ports_used_ratio", &[], 0.7);
    drop(held);
    until("the ports are free again", SOON, || proxy.metric("outrigger_source_ports_used_ratio", &[]) == 0.0);
    // They linger in the kernel, and nobody is refused for that.
    let held = hold(&proxy, 600);
    assert_eq!(told.iter().take(600).count(), 600);
    drop(held);
    assert_eq!(proxy.metric("outrigger_worker_upstream_connect_failures_total", &[]), 0.0);
}

#[test]
fn elsewhere_a_warning_comes_before_the_end() {
    if !in_a_network_of_its_own("elsewhere_a_warning_comes_before_the_end", PORTS) {
        return;
    }
    // An address that is not of loopback.
    let added = Command::new("ip").args(["address", "add", "192.0.2.1/32", "dev", "lo"]).status();
    assert!(added.is_ok_and(|status| status.success()));
    let listener = TcpListener::bind("192.0.2.1:30001").expect("listen");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
        }
    });
    let setup = Setup { listener: ", protocol: tcp", service: ", protocol: tcp", workers: 2, ..Setup::default() };
    let proxy = setup.start("192.0.2.1:30001".parse().expect("an address"));
    let warnings = || proxy.stderr_text().lines().filter(|line| line.contains("source ports run out")).count();
    let _held = hold(&proxy, 420);
    assert_eq!(warnings(), 0);
    let _more = hold(&proxy, 120);
    until("a warning", SOON, || warnings() == 1);
    proxy.await_metric("outrigger_source_ports_used_ratio", &[], 0.9);
}

//! What the rules do to real traffic: a pod and somebody outside, joined by a cable. Our listeners tell what they see;
//! that the proxy's own do the same is tested elsewhere.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use common::netns::Netns;
use common::run;
use socket2::{Domain, SockRef, Socket, Type};

const APP: u32 = 1000;
const PROXY: u32 = 1337;
const ROOT: u32 = 0;
const INBOUND: u16 = 15006;
const OUTBOUND: u16 = 15001;
const MARK: u32 = 1337;

/// The addresses of one family.
#[derive(Clone, Copy)]
struct Addresses {
    pod: IpAddr,
    outside: IpAddr,
    other: IpAddr,
    loopback: IpAddr,
    any: IpAddr,
}

const V4: Addresses = Addresses {
    pod: IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1)),
    outside: IpAddr::V4(Ipv4Addr::new(10, 77, 0, 2)),
    other: IpAddr::V4(Ipv4Addr::new(10, 77, 0, 3)),
    loopback: IpAddr::V4(Ipv4Addr::LOCALHOST),
    any: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
};

const V6: Addresses = Addresses {
    pod: IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1)),
    outside: IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2)),
    other: IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 3)),
    loopback: IpAddr::V6(Ipv6Addr::LOCALHOST),
    any: IpAddr::V6(Ipv6Addr::UNSPECIFIED),
};

struct Net {
    pod: Netns,
    outside: Netns,
}

impl Net {
    fn new() -> Option<Self> {
        let (pod, outside) = (Netns::new()?, Netns::new()?);
        let cable = ["link", "add", "eth0", "netns", pod.name(), "type", "veth", "peer", "name", "eth0", "netns"];
        run("ip", &[&cable[..], &[outside.name()]].concat());
        let ends = [
            (&pod, &["10.77.0.1/24", "fd77::1/64"][..]),
            (&outside, &["10.77.0.2/24", "fd77::2/64", "10.77.0.3/24", "fd77::3/64"]),
        ];
        for (end, addresses) in ends {
            for address in addresses {
                // Without `nodad` the address of IPv6 is not one for the first seconds; the third is none to connect from.
                let nodad: &[&str] = if address.contains(':') { &["nodad"] } else { &[] };
                let never: &[&str] = if address.contains("::3") { &["preferred_lft", "0"] } else { &[] };
                end.run("ip", &[&["addr", "add", address, "dev", "eth0"], nodad, never].concat());
            }
            end.run("ip", &["link", "set", "eth0", "up"]);
        }
        Some(Self { pod, outside })
    }

    /// With `outrigger intercept`, from outside of the namespace.
    fn intercept(&self, args: &[&str]) {
        let output = Command::new(env!("CARGO_BIN_EXE_outrigger"))
            .arg("intercept")
            .args(args)
            .args(["--netns", &self.pod.path()])
            .output()
            .expect("run outrigger");
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// A proxy's two listeners, and everybody's servers: 8080 and 5555 outside, 9000 and 5556 and 15020 in the pod.
    fn serve(&self, addresses: Addresses) {
        for at in [addresses.outside, addresses.other] {
            [8080, 5555].into_iter().for_each(|port| listen(&self.outside, ROOT, (at, port).into(), tell("outside")));
        }
        [9000, 5556, 15020]
            .into_iter()
            .for_each(|port| listen(&self.pod, APP, (addresses.any, port).into(), tell("app")));
        listen(&self.pod, PROXY, (addresses.any, OUTBOUND).into(), original("outbound"));
        listen(&self.pod, PROXY, (addresses.any, INBOUND).into(), original("inbound"));
    }

    fn dial_out(&self, user: u32, to: IpAddr, port: u16) -> String {
        dial(&self.pod, user, user, (to, port).into())
    }

    fn dial_in(&self, to: IpAddr, port: u16) -> String {
        dial(&self.outside, ROOT, ROOT, (to, port).into())
    }
}

/// What a listener says of a connection, before it closes it.
type Say = fn(&'static str, &TcpStream) -> String;

fn tell(name: &'static str) -> (&'static str, Say) {
    (name, |name, stream| format!("{name} from={}", ip(stream)))
}

/// With the destination before the redirection.
fn original(name: &'static str) -> (&'static str, Say) {
    (name, |name, stream| {
        let socket = SockRef::from(stream);
        let v4 = stream.local_addr().expect("own address").is_ipv4();
        let original = if v4 { socket.original_dst_v4() } else { socket.original_dst_v6() };
        let original = original.map(|address| address.as_socket().expect("an address").to_string());
        format!("{name} to={} from={}", original.unwrap_or_else(|error| error.to_string()), ip(stream))
    })
}

fn ip(stream: &TcpStream) -> IpAddr {
    stream.peer_addr().expect("the peer's address").ip()
}

fn socket(address: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
    if address.is_ipv6() {
        socket.set_only_v6(true).expect("IPv6 alone");
    }
    socket.set_reuse_address(true).expect("reuse the address");
    socket
}

fn transparent(socket: &Socket, address: SocketAddr) {
    let done = if address.is_ipv4() { socket.set_ip_transparent_v4(true) } else { socket.set_ip_transparent_v6(true) };
    done.expect("IP_TRANSPARENT");
}

/// Until the test is over.
fn listen(netns: &Netns, user: u32, at: SocketAddr, (name, say): (&'static str, Say)) {
    netns.within(user, user, move || {
        let socket = socket(at);
        if user == ROOT {
            transparent(&socket, at);
        }
        socket.bind(&at.into()).unwrap_or_else(|error| panic!("{at}: {error}"));
        socket.listen(64).expect("listen");
        // A thread is where the one is that starts it.
        std::thread::spawn(move || {
            for stream in TcpListener::from(socket).incoming() {
                let mut stream = stream.expect("a connection");
                let _ = stream.write_all(say(name, &stream).as_bytes());
            }
        });
    });
}

/// What the listener that is reached says; or that none is.
fn dial(netns: &Netns, user: u32, group: u32, to: SocketAddr) -> String {
    netns.within(user, group, move || answer(TcpStream::connect_timeout(&to, Duration::from_secs(5))))
}

fn answer(stream: std::io::Result<TcpStream>) -> String {
    let mut text = String::new();
    let said = stream.and_then(|mut stream| {
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.read_to_string(&mut text)
    });
    match said {
        Ok(_) => text,
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => "refused".to_owned(),
        Err(error) => error.to_string(),
    }
}

/// The same, from this address of who is outside.
fn dial_from(net: &Net, from: IpAddr, to: SocketAddr) -> String {
    dial_within(net, from, to, Duration::from_secs(5))
}

fn dial_within(net: &Net, from: IpAddr, to: SocketAddr, within: Duration) -> String {
    net.outside.within(ROOT, ROOT, move || {
        let socket = socket(to);
        socket.bind(&SocketAddr::new(from, 0).into()).expect("bind");
        answer(socket.connect_timeout(&to.into(), within).map(|()| socket.into()))
    })
}

/// Expects what is captured from the pod, and what is not.
fn assert_captured(net: &Net, Addresses { pod, outside, other, loopback, .. }: Addresses) {
    let captured = |to, port| format!("outbound to={} from={pod}", SocketAddr::from((to, port)));
    assert_eq!(net.dial_out(APP, outside, 8080), captured(outside, 8080));
    assert_eq!(net.dial_out(APP, other, 9), captured(other, 9), "even if nobody is there");
    assert_eq!(net.dial_out(PROXY, outside, 8080), format!("outside from={pod}"), "the proxy itself");
    assert_eq!(net.dial_out(APP, loopback, 9000), format!("app from={loopback}"), "loopback");
    assert_eq!(net.dial_out(APP, pod, 9000), format!("app from={pod}"), "the pod's own address");
    let inbound = |port| format!("inbound to={} from={outside}", SocketAddr::from((pod, port)));
    assert_eq!(net.dial_in(pod, 9000), inbound(9000));
    assert_eq!(net.dial_in(pod, 9), inbound(9));
    assert_eq!(net.dial_in(pod, 15020), format!("app from={outside}"), "health");
}

fn assert_free(net: &Net, Addresses { pod, outside, .. }: Addresses) {
    assert_eq!(net.dial_out(APP, outside, 8080), format!("outside from={pod}"));
    assert_eq!(net.dial_in(pod, 9000), format!("app from={outside}"));
}

#[test]
fn both_directions_are_redirected() {
    let Some(net) = Net::new() else { return };
    for addresses in [V4, V6] {
        net.serve(addresses);
        assert_free(&net, addresses);
    }
    net.intercept(&["apply"]);
    for addresses in [V4, V6] {
        assert_captured(&net, addresses);
    }
    net.intercept(&["remove"]);
    for addresses in [V4, V6] {
        assert_free(&net, addresses);
    }
}

#[test]
fn the_rules_of_iptables_do_the_same() {
    let text = run(env!("CARGO_BIN_EXE_outrigger"), &["intercept", "print", "--format", "iptables"]);
    for variant in ["", "-legacy"] {
        let Some(net) = Net::new() else { return };
        for family in ["iptables", "ip6tables"] {
            net.pod.feed(&format!("{family}{variant}-restore"), &["-n"], &text);
        }
        for addresses in [V4, V6] {
            net.serve(addresses);
            assert_captured(&net, addresses);
        }
        // As the text says itself.
        for line in text.lines().filter_map(|line| line.strip_prefix("#   ")) {
            for command in line.split("; ") {
                let args: Vec<&str> = command.split(' ').skip(1).collect();
                net.pod.run(&format!("iptables{variant}"), &args);
                net.pod.run(&format!("ip6tables{variant}"), &args);
            }
        }
        for addresses in [V4, V6] {
            assert_free(&net, addresses);
        }
    }
}

#[test]
fn exclusions_are_left_alone() {
    let Some(net) = Net::new() else { return };
    net.intercept(&[
        "apply",
        "--exclude-outbound-ports=5550-5560,7",
        "--exclude-outbound-cidrs=10.77.0.3,fd77::3",
        "--exclude-inbound-ports=5556",
        "--exclude-uids=1001,1002",
        "--exclude-gids=2000",
        "--proxy-gid=1338",
    ]);
    for addresses @ Addresses { pod, outside, other, .. } in [V4, V6] {
        net.serve(addresses);
        assert_eq!(net.dial_out(APP, outside, 5555), format!("outside from={pod}"), "a port");
        assert_eq!(net.dial_out(APP, other, 8080), format!("outside from={pod}"), "an address");
        assert_eq!(net.dial_in(pod, 5556), format!("app from={outside}"), "a port, inbound");
        for (user, group) in [(1001, 1001), (1002, 1), (APP, 2000), (APP, 1338)] {
            let said = dial(&net.pod, user, group, (outside, 8080).into());
            assert_eq!(said, format!("outside from={pod}"), "user {user}, group {group}");
        }
        let captured = format!("outbound to={} from={pod}", SocketAddr::from((outside, 8080)));
        assert_eq!(net.dial_out(APP, outside, 8080), captured);
        assert!(net.dial_in(pod, 9000).starts_with("inbound"));
    }
}

#[test]
fn inclusions_are_all_that_is_captured() {
    let Some(net) = Net::new() else { return };
    net.intercept(&[
        "apply",
        "--include-outbound-ports=5555",
        "--include-outbound-cidrs=10.77.0.3/32,fd77::3",
        "--include-inbound-ports=9000-9001",
    ]);
    for addresses @ Addresses { pod, outside, other, .. } in [V4, V6] {
        net.serve(addresses);
        assert!(net.dial_out(APP, outside, 5555).starts_with("outbound"), "by port");
        assert!(net.dial_out(APP, other, 8080).starts_with("outbound"), "by address");
        assert_eq!(net.dial_out(APP, outside, 8080), format!("outside from={pod}"), "neither");
        assert!(net.dial_in(pod, 9000).starts_with("inbound"));
        assert_eq!(net.dial_in(pod, 5556), format!("app from={outside}"));
    }
}

#[test]
fn an_interface_or_ipv6_can_be_left_alone() {
    let Some(net) = Net::new() else { return };
    net.intercept(&["apply", "--exclude-interfaces=eth0"]);
    for addresses in [V4, V6] {
        net.serve(addresses);
        assert_free(&net, addresses);
    }
    net.intercept(&["apply", "--no-ipv6"]);
    assert_captured(&net, V4);
    assert_free(&net, V6);
}

#[test]
fn dns_is_captured_if_asked_for() {
    let Some(net) = Net::new() else { return };
    for Addresses { outside, loopback, .. } in [V4, V6] {
        for (netns, user, at, name) in
            [(&net.outside, ROOT, (outside, 53), "outside"), (&net.pod, PROXY, (loopback, 15053), "resolver")]
        {
            let at = SocketAddr::from(at);
            listen(netns, user, at, tell(name));
            let socket = netns.within(user, user, move || UdpSocket::bind(at)).expect("bind");
            std::thread::spawn(move || {
                while let Ok((_, from)) = socket.recv_from(&mut [0; 64]) {
                    let _ = socket.send_to(name.as_bytes(), from);
                }
            });
        }
    }
    let ask = |user, addresses: Addresses| {
        let udp = net.pod.within(user, user, move || {
            let socket = UdpSocket::bind((addresses.any, 0)).expect("bind");
            socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
            // Connected, so that an answer from elsewhere would not be one.
            socket.connect((addresses.outside, 53)).expect("connect");
            socket.send(b"?").expect("send");
            let mut buffer = [0; 64];
            let length = socket.recv(&mut buffer).expect("an answer");
            String::from_utf8_lossy(&buffer[..length]).into_owned()
        });
        (udp, net.dial_out(user, addresses.outside, 53).split(' ').next().unwrap_or_default().to_owned())
    };
    let both = |name: &str| (name.to_owned(), name.to_owned());
    net.intercept(&["apply", "--exclude-outbound-ports=53"]);
    for addresses in [V4, V6] {
        assert_eq!(ask(APP, addresses), both("outside"), "left alone unless asked");
    }
    net.intercept(&["apply", "--dns-port=15053"]);
    for addresses in [V4, V6] {
        assert_eq!(ask(APP, addresses), both("resolver"));
        assert_eq!(ask(PROXY, addresses), both("outside"), "the resolver's own questions");
    }
}

/// By netlink, or by iptables.
fn put(net: &Net, how: &str, flags: &[&str]) {
    if how == "apply" {
        return net.intercept(&[&[how], flags].concat());
    }
    let text = run(env!("CARGO_BIN_EXE_outrigger"), &[&["intercept", "print", "--format", how], flags].concat());
    net.pod.feed("iptables-restore", &["-n"], &text);
    net.pod.feed("ip6tables-restore", &["-n"], &text);
    let routes = text.lines().filter_map(|line| line.strip_prefix("#   ip -"));
    for command in routes.flat_map(|line| line.split("; ")) {
        net.pod.run("sh", &["-c", &format!("ip -{}", command.trim_start_matches("ip -"))]);
    }
}

#[test]
fn users_interfaces_and_clients_can_be_chosen() {
    for how in ["apply", "iptables"] {
        let Some(net) = Net::new() else { return };
        put(
            &net,
            how,
            &["--include-uids=1000,1001", "--include-gids=2000", "--exclude-inbound-cidrs=10.77.0.3,fd77::3"],
        );
        for addresses @ Addresses { pod, outside, other, .. } in [V4, V6] {
            net.serve(addresses);
            assert_captured(&net, addresses);
            for (user, group, who) in [(1001, 1, "outbound"), (1002, 2000, "outbound"), (1002, 1, "outside")] {
                let said = dial(&net.pod, user, group, (outside, 8080).into());
                assert!(said.starts_with(who), "user {user}, group {group}: {said}");
            }
            assert_eq!(dial_from(&net, other, (pod, 9000).into()), format!("app from={other}"));
        }
        let Some(net) = Net::new() else { return };
        put(
            &net,
            how,
            &[
                "--include-interfaces=eth0,eth1",
                "--include-inbound-cidrs=10.77.0.3,fd77::3",
                "--include-inbound-ports=5556",
            ],
        );
        for addresses @ Addresses { pod, outside, other, .. } in [V4, V6] {
            net.serve(addresses);
            assert!(net.dial_out(APP, outside, 8080).starts_with("outbound"));
            assert!(dial_from(&net, other, (pod, 9000).into()).starts_with("inbound"), "by address");
            assert!(net.dial_in(pod, 5556).starts_with("inbound"), "by port");
            assert_eq!(net.dial_in(pod, 9000), format!("app from={outside}"), "neither");
        }
        let Some(net) = Net::new() else { return };
        put(&net, how, &["--include-interfaces=eth1"]);
        for addresses in [V4, V6] {
            net.serve(addresses);
            assert_free(&net, addresses);
        }
    }
}

/// Neither to other machines, which the pod does not forward to, nor to what listens on loopback alone.
#[test]
fn a_neighbour_gets_nowhere_by_the_pod() {
    for (how, mode) in [("apply", "redirect"), ("apply", "tproxy"), ("iptables", "redirect"), ("iptables", "tproxy")] {
        let Some(net) = Net::new() else { return };
        put(&net, how, &["--mode", mode]);
        net.outside.run("ip", &["addr", "del", "127.0.0.1/8", "dev", "lo"]);
        net.outside.run("sysctl", &["-qw", "net.ipv4.conf.all.route_localnet=1", "net.ipv4.conf.all.rp_filter=0"]);
        for to in ["10.55.0.2", "127.0.0.1", "fd55::2"] {
            let pod = if to.contains(':') { V6.pod } else { V4.pod };
            net.outside.run("ip", &["route", "add", to, "via", &pod.to_string(), "dev", "eth0"]);
        }
        for Addresses { pod, outside, any, loopback, .. } in [V4, V6] {
            listen(&net.pod, ROOT, (any, INBOUND).into(), original("inbound"));
            listen(&net.pod, APP, (loopback, 5432).into(), tell("app"));
            let elsewhere: IpAddr =
                if pod.is_ipv4() { [10, 55, 0, 2].into() } else { "fd55::2".parse().expect("an address") };
            let mut refused = vec![(elsewhere, 8080)];
            refused.extend(pod.is_ipv4().then_some((loopback, 5432)));
            for to in refused {
                let said = dial_within(&net, outside, to.into(), Duration::from_secs(1));
                assert!(said.contains("timed out") || said.contains("unreachable"), "{how} {mode} {to:?}: {said}");
            }
            assert!(dial_from(&net, outside, (pod, 5432).into()).starts_with("inbound"));
        }
    }
}

#[test]
fn link_local_addresses_are_left_alone() {
    let Some(net) = Net::new() else { return };
    net.serve(V6);
    let at = |netns: &Netns, address: &str, port| {
        let link = netns.run("ip", &["-o", "link", "show", "eth0"]);
        let scope = link.split(':').next().expect("an index").parse().expect("an index");
        SocketAddr::from(SocketAddrV6::new(address.parse().expect("an address"), port, 0, scope))
    };
    for (netns, address) in [(&net.pod, "fe80::77:1"), (&net.outside, "fe80::77:2")] {
        netns.run("ip", &["addr", "add", &format!("{address}/64"), "dev", "eth0", "nodad"]);
    }
    listen(&net.outside, ROOT, at(&net.outside, "fe80::77:2", 8080), tell("outside"));
    net.intercept(&["apply"]);
    assert!(dial(&net.pod, APP, APP, at(&net.pod, "fe80::77:2", 8080)).starts_with("outside from=fe80:"));
    assert!(dial(&net.outside, ROOT, ROOT, at(&net.outside, "fe80::77:1", 9000)).starts_with("app from=fe80:"));
    assert_captured(&net, V6);
}

/// Both ends of a connection to `to` that a listener at `at` has.
fn connected(server: (&Netns, SocketAddr), client: (&Netns, u32), to: SocketAddr) -> [TcpStream; 2] {
    let at = server.1;
    let listener = server.0.within(ROOT, ROOT, move || {
        let socket = socket(at);
        transparent(&socket, at);
        socket.bind(&at.into()).expect("bind");
        socket.listen(8).expect("listen");
        TcpListener::from(socket)
    });
    let client = client.0.within(client.1, client.1, move || TcpStream::connect(to).expect("connect"));
    let ends = [client, listener.accept().expect("accept").0];
    ends.iter().for_each(|end| end.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout"));
    ends
}

/// Whether bytes come through, one way and then the other.
fn talks([mut one, mut other]: [&TcpStream; 2]) -> std::io::Result<()> {
    let mut byte = [0];
    one.write_all(b"?")?;
    other.read_exact(&mut byte)?;
    other.write_all(b"!")?;
    one.read_exact(&mut byte)
}

#[test]
fn connections_that_are_open_go_on() {
    for (how, mode) in [("apply", "redirect"), ("apply", "tproxy"), ("iptables", "redirect"), ("iptables", "tproxy")] {
        for Addresses { pod, outside, any, .. } in [V4, V6] {
            let Some(net) = Net::new() else { return };
            let out = |port, to| connected((&net.outside, (any, port).into()), (&net.pod, APP), (outside, to).into());
            let into = |port, to| connected((&net.pod, (any, port).into()), (&net.outside, ROOT), (pod, to).into());
            // Either end may be the first to say something.
            let before = [out(8080, 8080), out(8081, 8081), into(9000, 9000), into(9001, 9001)];
            put(&net, how, &["--mode", mode]);
            let all_talk = |connections: &[[TcpStream; 2]], when: &str| {
                for (n, [client, server]) in connections.iter().enumerate() {
                    let ends = if n % 2 == 0 { [client, server] } else { [server, client] };
                    talks(ends).unwrap_or_else(|error| panic!("{how} {mode}, {when}, {pod}, {n}: {error}"));
                }
            };
            all_talk(&before, "without rules before");
            let proxy = |port, client, to| connected((&net.pod, (any, port).into()), client, to);
            let captured = [
                proxy(OUTBOUND, (&net.pod, APP), (outside, 8080).into()),
                proxy(INBOUND, (&net.outside, ROOT), (pod, 9000).into()),
            ];
            all_talk(&captured, "captured");
            if how == "apply" {
                put(&net, how, &["--mode", mode, "--exclude-uids=7"]);
                all_talk(&captured, "applied again");
                all_talk(&before, "applied again");
                let none = ["--exclude-outbound-cidrs=0.0.0.0/0,::/0", "--exclude-inbound-cidrs=0.0.0.0/0,::/0"];
                put(&net, how, &[&["--mode", mode], &none[..]].concat());
                all_talk(&captured, "no others are captured");
                all_talk(&[out(8082, 8082), into(9002, 9002)], "no others are captured");
                net.intercept(&["remove"]);
                all_talk(&before, "removed");
            }
        }
    }
}

/// Accepts as tproxy has it, and connects to the application from the client's address; tells what both saw.
fn keep_the_client(name: &'static str, stream: &TcpStream, application: impl Fn(SocketAddr) -> SocketAddr) -> String {
    let (client, to) = (stream.peer_addr().expect("the client"), stream.local_addr().expect("the destination"));
    let upstream = socket(to);
    transparent(&upstream, to);
    upstream.set_mark(MARK).expect("SO_MARK");
    upstream.bind(&SocketAddr::new(client.ip(), 0).into()).expect("the client's address");
    let timeout = Duration::from_secs(3);
    let connected = upstream.connect_timeout(&application(to).into(), timeout).map(|()| upstream.into());
    format!("{name} to={to} from={}: {}", client.ip(), answer(connected))
}

#[test]
fn tproxy_keeps_the_clients_address() {
    let Some(net) = Net::new() else { return };
    net.intercept(&["apply", "--mode=tproxy", "--exclude-inbound-ports=5556"]);
    assert_transparent(&net);
    net.intercept(&["remove"]);
    for Addresses { pod, outside, .. } in [V4, V6] {
        assert_eq!(net.dial_in(pod, 9000), format!("app from={outside}"));
    }
}

#[test]
fn tproxy_works_by_iptables_too() {
    let Some(net) = Net::new() else { return };
    put(&net, "iptables", &["--mode=tproxy", "--exclude-inbound-ports=5556"]);
    assert_transparent(&net);
}

/// The application is at 9000, and at 9100 of loopback alone, which the proxy knows; nobody is at 9001.
fn assert_transparent(net: &Net) {
    // For an application that is on 127.0.0.1 alone. How strictly sources are judged is no matter.
    net.pod.run("sysctl", &["-qw", "net.ipv4.conf.all.route_localnet=1", "net.ipv4.conf.all.rp_filter=1"]);
    for Addresses { pod, outside, loopback, any, .. } in [V4, V6] {
        listen(&net.outside, ROOT, (outside, 8080).into(), tell("outside"));
        [9000, 5556, 15020].into_iter().for_each(|port| listen(&net.pod, APP, (any, port).into(), tell("app")));
        listen(&net.pod, APP, (loopback, 9100).into(), tell("app"));
        listen(&net.pod, PROXY, (any, OUTBOUND).into(), original("outbound"));
        let say: Say = |name, stream| {
            keep_the_client(name, stream, |to| match (to.port(), to.is_ipv4()) {
                (9100, true) => (V4.loopback, 9100).into(),
                (9100, false) => (V6.loopback, 9100).into(),
                _ => to,
            })
        };
        listen(&net.pod, ROOT, (any, INBOUND).into(), ("inbound", say));
        for port in [9000, 9001, 9100, 9000] {
            let app = if port == 9001 { "refused".to_owned() } else { format!("app from={outside}") };
            let to = SocketAddr::from((pod, port));
            assert_eq!(net.dial_in(pod, port), format!("inbound to={to} from={outside}: {app}"));
        }
        assert_eq!(net.dial_in(pod, 5556), format!("app from={outside}"), "a port that is left alone");
        assert_eq!(net.dial_in(pod, 15020), format!("app from={outside}"), "health");
        // The other direction is redirected as ever, and answers find back.
        let to = SocketAddr::from((outside, 8080));
        assert_eq!(net.dial_out(APP, outside, 8080), format!("outbound to={to} from={pod}"));
        assert_eq!(net.dial_out(PROXY, outside, 8080), format!("outside from={pod}"));
        assert_eq!(net.dial_out(APP, pod, 9000), format!("app from={pod}"), "within the pod");
    }
}

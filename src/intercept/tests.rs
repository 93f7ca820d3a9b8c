use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use clap::Parser;
use proptest::prelude::*;

use super::failure::{self, Step};
use super::rules::{Action, Chain, Hook, Kind, Match, Rule, chains};
use super::settings::{Family, Interface, Ports, Settings};
use super::{MARK, encode, text};
use crate::wire::cidr::Cidr;

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    settings: Settings,
}

fn settings(flags: &[&str]) -> Settings {
    Flags::try_parse_from([&["intercept"], flags].concat()).unwrap_or_else(|error| panic!("{error}")).settings
}

const FLAGS: [&str; 10] = [
    "--exclude-outbound-ports=3306,8000-8100",
    "--exclude-outbound-cidrs=10.0.0.0/8,fd00::/8",
    "--include-outbound-cidrs=192.0.2.0/24",
    "--exclude-inbound-ports=22",
    "--exclude-inbound-cidrs=10.1.0.0/16,fd01::/16",
    "--include-uids=8,9",
    "--exclude-uids=5",
    "--exclude-gids=7",
    "--exclude-interfaces=docker0",
    "--dns-port=15053",
];

#[test]
fn text_for_nft() {
    let expected = r#"table inet outrigger
delete table inet outrigger
table inet outrigger {
	chain output {
		type nat hook output priority -100; policy accept;
		meta skuid 1337 return comment "the proxy itself"
		meta skuid 5 return comment "excluded user"
		meta skgid 7 return comment "excluded group"
		oifname "lo" return comment "within the pod"
		ip6 daddr fe80::/10 return comment "link-local"
		tcp flags & (fin | syn | rst | ack) != syn return comment "a connection that was there before"
		oifname "docker0" return comment "excluded interface"
		ip daddr 10.0.0.0/8 return comment "excluded address"
		ip6 daddr fd00::/8 return comment "excluded address"
		tcp dport 3306 return comment "excluded port"
		tcp dport 8000-8100 return comment "excluded port"
		meta skuid 8 udp dport 53 redirect to :15053 comment "DNS"
		meta skuid 8 tcp dport 53 redirect to :15053 comment "DNS"
		meta skuid 9 udp dport 53 redirect to :15053 comment "DNS"
		meta skuid 9 tcp dport 53 redirect to :15053 comment "DNS"
		meta skuid 8 ip daddr 192.0.2.0/24 meta l4proto tcp redirect to :15001 comment "included address"
		meta skuid 9 ip daddr 192.0.2.0/24 meta l4proto tcp redirect to :15001 comment "included address"
	}

	chain prerouting {
		type nat hook prerouting priority -100; policy accept;
		iifname "lo" return comment "within the pod"
		fib daddr type != local return comment "for another machine"
		ip daddr 127.0.0.0/8 return comment "loopback, from outside"
		ip6 daddr ::1/128 return comment "loopback, from outside"
		ip6 daddr fe80::/10 return comment "link-local"
		tcp flags & (fin | syn | rst | ack) != syn return comment "a connection that was there before"
		iifname "docker0" return comment "excluded interface"
		tcp dport 15000 return comment "the proxy itself"
		tcp dport 15020 return comment "the proxy itself"
		ip saddr 10.1.0.0/16 return comment "excluded address"
		ip6 saddr fd01::/16 return comment "excluded address"
		tcp dport 22 return comment "excluded port"
		meta l4proto tcp redirect to :15006 comment "everything else to the proxy"
	}
}
"#;
    assert_eq!(text::nft(&settings(&FLAGS)), expected);
}

#[test]
fn text_for_nft_with_tproxy() {
    let expected = r#"# tproxy needs these routes beside the rules:
#   ip -4 rule add pref 133 fwmark 1337 lookup 133; ip -4 route replace local 0.0.0.0/0 dev lo table 133
table inet outrigger
delete table inet outrigger
table inet outrigger {
	chain output {
		type nat hook output priority -100; policy accept;
		meta nfproto ipv6 return comment "IPv6 is left alone"
		meta skuid 1337 return comment "the proxy itself"
		oifname "lo" return comment "within the pod"
		tcp flags & (fin | syn | rst | ack) != syn return comment "a connection that was there before"
		oifname "eth0" meta l4proto tcp redirect to :15001 comment "included user or interface"
	}

	chain prerouting {
		type filter hook prerouting priority -150; policy accept;
		meta nfproto ipv6 return comment "IPv6 is left alone"
		iifname "lo" meta mark 1337 ct mark set 1337 comment "the proxy connects from a client's address"
		iifname "lo" return comment "within the pod"
		ct direction reply return comment "answers to connections of this pod"
		fib daddr type != local return comment "for another machine"
		ip daddr 127.0.0.0/8 return comment "loopback, from outside"
		tcp dport 15000 return comment "the proxy itself"
		tcp dport 15020 return comment "the proxy itself"
		iifname "eth0" tcp dport 80 tproxy to :15006 meta mark set 1337 accept comment "included port"
		iifname "eth0" ip saddr 10.9.0.0/16 meta l4proto tcp tproxy ip to :15006 meta mark set 1337 accept comment "included address"
	}

	chain answers {
		type route hook output priority -150; policy accept;
		ct mark 1337 meta mark set ct mark comment "answers to that stay on this machine"
	}
}
"#;
    let include = ["--include-inbound-ports=80", "--include-inbound-cidrs=10.9.0.0/16", "--include-interfaces=eth0"];
    assert_eq!(text::nft(&settings(&[&["--mode=tproxy", "--no-ipv6"][..], &include].concat())), expected);
}

#[test]
fn text_for_iptables() {
    let flags = ["--exclude-outbound-ports=8000-8100", "--exclude-outbound-cidrs=10.0.0.0/8,fd00::/8", "--mode=tproxy"];
    let expected = "\
# Outrigger. Load it once into each: iptables-restore -n, ip6tables-restore -n. To remove it, in both:
#   iptables -t nat -D OUTPUT -j OUTRIGGER_OUTPUT; iptables -t nat -F OUTRIGGER_OUTPUT; iptables -t nat -X OUTRIGGER_OUTPUT
#   iptables -t mangle -D PREROUTING -j OUTRIGGER_PREROUTING; iptables -t mangle -F OUTRIGGER_PREROUTING; iptables -t mangle -X OUTRIGGER_PREROUTING
#   iptables -t mangle -D OUTPUT -j OUTRIGGER_ANSWERS; iptables -t mangle -F OUTRIGGER_ANSWERS; iptables -t mangle -X OUTRIGGER_ANSWERS
# tproxy needs these routes beside the rules:
#   ip -4 rule add pref 133 fwmark 1337 lookup 133; ip -4 route replace local 0.0.0.0/0 dev lo table 133
#   ip -6 rule add pref 133 fwmark 1337 lookup 133; ip -6 route replace local ::/0 dev lo table 133
*mangle
:OUTRIGGER_PREROUTING - [0:0]
:OUTRIGGER_ANSWERS - [0:0]
-A PREROUTING -j OUTRIGGER_PREROUTING
# the proxy connects from a client's address
-A OUTRIGGER_PREROUTING -i lo -m mark --mark 1337 -j CONNMARK --set-mark 1337
# within the pod
-A OUTRIGGER_PREROUTING -i lo -j RETURN
# answers to connections of this pod
-A OUTRIGGER_PREROUTING -m conntrack --ctdir REPLY -j RETURN
# for another machine
-A OUTRIGGER_PREROUTING -m addrtype ! --dst-type LOCAL -j RETURN
# loopback, from outside
-4 -A OUTRIGGER_PREROUTING -d 127.0.0.0/8 -j RETURN
# loopback, from outside
-6 -A OUTRIGGER_PREROUTING -d ::1/128 -j RETURN
# link-local
-6 -A OUTRIGGER_PREROUTING -d fe80::/10 -j RETURN
# the proxy itself
-A OUTRIGGER_PREROUTING -p tcp --dport 15000 -j RETURN
# the proxy itself
-A OUTRIGGER_PREROUTING -p tcp --dport 15020 -j RETURN
# the proxy's connections
-A OUTRIGGER_PREROUTING -p tcp ! --syn -m socket --transparent -j TPROXY --on-port 15006 --tproxy-mark 1337
# a connection that was there before
-A OUTRIGGER_PREROUTING -p tcp ! --syn -m socket -j RETURN
# everything else to the proxy
-A OUTRIGGER_PREROUTING -p tcp -j TPROXY --on-port 15006 --tproxy-mark 1337
-A OUTPUT -j OUTRIGGER_ANSWERS
# answers to that stay on this machine
-A OUTRIGGER_ANSWERS -m connmark --mark 1337 -j CONNMARK --restore-mark
COMMIT
*nat
:OUTRIGGER_OUTPUT - [0:0]
-A OUTPUT -j OUTRIGGER_OUTPUT
# the proxy itself
-A OUTRIGGER_OUTPUT -m owner --uid-owner 1337 -j RETURN
# within the pod
-A OUTRIGGER_OUTPUT -o lo -j RETURN
# link-local
-6 -A OUTRIGGER_OUTPUT -d fe80::/10 -j RETURN
# a connection that was there before
-A OUTRIGGER_OUTPUT -p tcp ! --syn -j RETURN
# excluded address
-4 -A OUTRIGGER_OUTPUT -d 10.0.0.0/8 -j RETURN
# excluded address
-6 -A OUTRIGGER_OUTPUT -d fd00::/8 -j RETURN
# excluded port
-A OUTRIGGER_OUTPUT -p tcp --dport 8000:8100 -j RETURN
# everything else to the proxy
-A OUTRIGGER_OUTPUT -p tcp -j REDIRECT --to-ports 15001
COMMIT
";
    assert_eq!(text::iptables(&settings(&flags)), expected);
}

#[test]
fn what_the_kernel_lacks_is_named() {
    use rustix::io::Errno;
    let chains = chains(&settings(&["--mode=tproxy"]));
    let of = |chain: usize, rule: usize| Step::Rule(&chains[chain], &chains[chain].rules[rule]);
    let last = |chain: usize| of(chain, chains[chain].rules.len() - 1);
    for (step, errno, feature) in [
        (Step::Netfilter, Errno::PROTONOSUPPORT, "CONFIG_NF_TABLES"),
        (Step::Table, Errno::AFNOSUPPORT, "CONFIG_NF_TABLES_INET"),
        (Step::Chain(&chains[0]), Errno::NOENT, "CONFIG_NFT_NAT"),
        (last(0), Errno::NOENT, "CONFIG_NFT_REDIR"),
        (last(1), Errno::NOENT, "CONFIG_NFT_TPROXY"),
        (of(1, 0), Errno::NOENT, "CONFIG_NFT_CT"),
        (of(1, 2), Errno::OPNOTSUPP, "CONFIG_NFT_CT"),
        (of(1, 3), Errno::NOENT, "CONFIG_NFT_FIB_INET"),
        (last(2), Errno::NOENT, "CONFIG_NFT_CT"),
    ] {
        let said = failure::netfilter(step, errno).to_string();
        assert!(said.contains(feature) && said.contains("print --format iptables"), "{said}");
    }
    let rule = failure::netfilter(last(0), Errno::NOENT).to_string();
    assert!(rule.contains("`meta l4proto tcp redirect to :15001` in the chain output"), "{rule}");
    assert!(failure::netfilter(Step::Netfilter, Errno::PERM).to_string().contains("add: [NET_ADMIN]"));
    assert!(failure::netfilter(Step::Table, Errno::PERM).to_string().contains("another program owns"));
    assert!(failure::routing("a rule", Errno::OPNOTSUPP).to_string().contains("CONFIG_IP_MULTIPLE_TABLES"));
}

/// Of a connection that no rule has seen before.
#[derive(Debug, Clone)]
struct Packet {
    hook: Hook,
    tcp: bool,
    /// The first of its connection.
    first: bool,
    from: IpAddr,
    to: IpAddr,
    /// The destination is this machine.
    here: bool,
    port: u16,
    user: u32,
    group: u32,
    interface: &'static str,
}

impl Packet {
    fn fits(&self, wanted: &Match) -> bool {
        let port = |ports: &Ports| (ports.first..=ports.last).contains(&self.port);
        let on = |name: &Interface| name.to_string() == self.interface;
        match wanted {
            Match::Family(family) => *family == Family::of(self.to),
            Match::User(uid) => *uid == self.user,
            Match::Group(gid) => *gid == self.group,
            Match::In(name) => self.hook == Hook::Prerouting && on(name),
            Match::Out(name) => self.hook == Hook::Output && on(name),
            Match::From(block) => block.contains(self.from),
            Match::To(block) => block.contains(self.to),
            Match::ToOthers => !self.here,
            Match::Tcp => self.tcp,
            Match::MidStream => self.tcp && !self.first,
            Match::TcpTo(ports) => self.tcp && port(ports),
            Match::UdpTo(ports) => !self.tcp && port(ports),
            Match::Mark(_) | Match::ConnectionMark(_) | Match::Reply => false,
        }
    }

    /// The port that it is brought to.
    fn through(&self, chains: &[Chain]) -> Option<u16> {
        let here = chains.iter().filter(|chain| chain.hook == self.hook);
        here.filter_map(|chain| {
            let rule = chain.rules.iter().find(|rule| rule.matches.iter().all(|wanted| self.fits(wanted)))?;
            match rule.action {
                Action::Redirect(port) | Action::Tproxy(port) => Some(port),
                Action::Return => None,
                Action::MarkConnection | Action::RestoreMark => panic!("an unmarked packet: {rule:?}"),
            }
        })
        .next()
    }

    /// The same, as the documentation has it.
    fn expected(&self, settings: &Settings) -> Option<u16> {
        let among = |ports: &[Ports]| ports.iter().any(|ports| (ports.first..=ports.last).contains(&self.port));
        let within = |blocks: &[Cidr], address| blocks.iter().any(|block| block.contains(address));
        let on = |names: &[Interface]| names.iter().any(|name| name.to_string() == self.interface);
        let interface = on(&settings.exclude_interfaces)
            || !(settings.include_interfaces.is_empty() || on(&settings.include_interfaces));
        let link_local = matches!(self.to, IpAddr::V6(to) if to.is_unicast_link_local());
        if self.interface == "lo" || interface || link_local || settings.no_ipv6 && self.to.is_ipv6() {
            return None;
        }
        if self.hook == Hook::Prerouting {
            let address = within(&settings.exclude_inbound_cidrs, self.from);
            let excluded = among(&settings.own_ports) || among(&settings.exclude_inbound_ports) || address;
            let (ports, blocks) = (&settings.include_inbound_ports, &settings.include_inbound_cidrs);
            let all = ports.is_empty() && blocks.is_empty();
            let included = all || among(ports) || within(blocks, self.from);
            // The kernel itself does not let tproxy take what is another socket's.
            let first = self.first || settings.tproxy();
            let here = self.here && !self.to.is_loopback();
            return (self.tcp && first && here && !excluded && included).then_some(settings.inbound_port);
        }
        let users = settings.proxy_uid.contains(&self.user) || settings.exclude_uids.contains(&self.user);
        let groups = settings.proxy_gid.contains(&self.group) || settings.exclude_gids.contains(&self.group);
        let port = self.tcp && among(&settings.exclude_outbound_ports);
        let (uids, gids) = (&settings.include_uids, &settings.include_gids);
        let included = uids.is_empty() && gids.is_empty() || uids.contains(&self.user) || gids.contains(&self.group);
        let address = within(&settings.exclude_outbound_cidrs, self.to);
        if users || groups || port || address || !included || self.tcp && !self.first {
            return None;
        }
        match settings.dns_port {
            Some(dns) if self.port == 53 => return Some(dns),
            _ if !self.tcp => return None,
            _ => {}
        }
        let (ports, blocks) = (&settings.include_outbound_ports, &settings.include_outbound_cidrs);
        let all = ports.is_empty() && blocks.is_empty();
        (all || among(ports) || within(blocks, self.to)).then_some(settings.outbound_port)
    }
}

fn address() -> impl Strategy<Value = IpAddr> {
    let v4 = (0u8..3).prop_map(|last| IpAddr::from(Ipv4Addr::new(10, 0, 0, last)));
    let v6 = (0u16..3).prop_map(|last| IpAddr::from(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last)));
    let special = ["127.0.0.1", "::1", "fe80::1"].map(|text| text.parse().expect("an address"));
    prop_oneof![3 => v4, 3 => v6, 1 => prop::sample::select(special.to_vec())]
}

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![Just(53), Just(80), Just(81), Just(15020), 1u16..]
}

fn some<T: std::fmt::Debug>(one: impl Strategy<Value = T>) -> impl Strategy<Value = Vec<T>> {
    prop::collection::vec(one, 0..3)
}

fn ports() -> impl Strategy<Value = Vec<Ports>> {
    some((port(), port()).prop_map(|(a, b)| Ports { first: a.min(b), last: a.max(b) }))
}

fn cidrs() -> impl Strategy<Value = Vec<Cidr>> {
    let lengths = prop_oneof![Just(0u8), Just(8), Just(31), Just(127), Just(200)];
    some((address(), lengths).prop_filter_map("a block", |(address, length)| {
        let length = length.min(if address.is_ipv4() { 32 } else { 128 });
        Cidr::parse(&format!("{address}/{length}")).ok()
    }))
}

fn any_settings() -> impl Strategy<Value = Settings> {
    let ids = || some(0u32..4);
    let interfaces = || some(prop_oneof![Just("eth0"), Just("eth1")].prop_map(|name| name.parse().expect("a name")));
    let flags = (any::<bool>(), any::<bool>(), prop::option::of(Just(15053)), interfaces(), interfaces());
    let ids = (ids(), ids(), ids(), ids(), ids(), ids());
    let ports = (ports(), ports(), ports(), ports(), ports());
    (flags, ids, ports, (cidrs(), cidrs(), cidrs(), cidrs())).prop_map(
        |((tproxy, no_ipv6, dns_port, exclude_interfaces, include_interfaces), ids, ports, cidrs)| Settings {
            proxy_uid: ids.0,
            proxy_gid: ids.1,
            exclude_uids: ids.2,
            exclude_gids: ids.3,
            include_uids: ids.4,
            include_gids: ids.5,
            own_ports: ports.0,
            exclude_inbound_ports: ports.1,
            include_inbound_ports: ports.2,
            exclude_outbound_ports: ports.3,
            include_outbound_ports: ports.4,
            exclude_outbound_cidrs: cidrs.0,
            include_outbound_cidrs: cidrs.1,
            exclude_inbound_cidrs: cidrs.2,
            include_inbound_cidrs: cidrs.3,
            exclude_interfaces,
            include_interfaces,
            no_ipv6,
            dns_port,
            ..settings(if tproxy { &["--mode=tproxy"] } else { &[] })
        },
    )
}

fn packet() -> impl Strategy<Value = Packet> {
    let hook = prop_oneof![Just(Hook::Prerouting), Just(Hook::Output)];
    let interface = prop_oneof![Just("lo"), Just("eth0"), Just("eth1")];
    let often = || prop::bool::weighted(0.8);
    let at = (address(), address(), port(), often());
    let at = at.prop_filter("one family", |(from, to, ..)| from.is_ipv4() == to.is_ipv4());
    (hook, (any::<bool>(), often()), at, 0u32..4, 0u32..4, interface).prop_map(
        |(hook, (tcp, first), (from, to, port, here), user, group, interface)| Packet {
            hook,
            tcp,
            first,
            from,
            to,
            here,
            port,
            user,
            group,
            interface,
        },
    )
}

proptest! {
    #[test]
    fn rules_do_what_the_flags_say(settings in any_settings(), packets in prop::collection::vec(packet(), 1..20)) {
        let chains = chains(&settings);
        for packet in packets {
            prop_assert_eq!(packet.through(&chains), packet.expected(&settings), "{:?}", packet);
        }
    }

    /// What differs in the model differs for `verify`.
    #[test]
    fn rules_that_differ_are_encoded_differently(one in any_settings(), other in any_settings()) {
        let rules: Vec<Rule> = [one, other].iter().flat_map(chains).flat_map(|chain| chain.rules).collect();
        for pair in rules.windows(2) {
            let same = |a: &Rule, b: &Rule| a.matches == b.matches && a.action == b.action;
            let [a, b] = [&pair[0], &pair[1]].map(|rule| encode::read(&encode::expressions(rule)));
            prop_assert_eq!(a == b, same(&pair[0], &pair[1]), "{:?}", pair);
            prop_assert!(a.iter().all(|expression| !expression.name.is_empty() && !expression.attributes.is_empty()));
        }
    }

    #[test]
    fn any_list_of_expressions_is_read(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(encode::read(&bytes).len() <= bytes.len() / 4);
    }

    #[test]
    fn ports_come_back(a in 1u16.., b in 1u16..) {
        let ports = Ports { first: a.min(b), last: a.max(b) };
        prop_assert_eq!(ports.to_string().parse(), Ok(ports));
    }

    #[test]
    fn any_text_is_an_interface_or_refused(name in "\\PC{0,20}") {
        if let Ok(interface) = name.parse::<Interface>() {
            prop_assert!(name.len() < 16 && !name.contains([' ', '"', '/', ';', '\\', '*', '+']));
            prop_assert_eq!(interface.to_string(), name);
        }
    }
}

/// A rule each that has been seen to hang or loop when it was missing.
#[test]
fn the_order_that_matters() {
    for mode in ["--mode=redirect", "--mode=tproxy"] {
        let chains = chains(&settings(&[mode, "--exclude-uids=5"]));
        assert_eq!(chains[0].rules[0].matches, [Match::User(1337)], "the proxy is left alone before all else");
        let kinds: BTreeSet<(&str, i32)> = chains.iter().map(|chain| (chain.name, chain.kind.priority())).collect();
        assert_eq!(kinds.len(), chains.len(), "names are unique");
        let inbound = &chains[1];
        let marking = inbound.rules.iter().position(|rule| rule.action == Action::MarkConnection);
        assert_eq!(marking, (inbound.kind == Kind::Filter).then_some(0));
        if let Some(rule) = marking.map(|n| &inbound.rules[n]) {
            assert_eq!(rule.matches, [Match::In(Interface::loopback()), Match::Mark(MARK)], "only what comes over lo");
        }
        let lo = inbound.rules.iter().position(|rule| rule.matches == [Match::In(Interface::loopback())]);
        assert_eq!(lo, Some(marking.map_or(0, |n| n + 1)));
    }
}

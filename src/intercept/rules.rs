//! The rules, as a model: what `text` writes, `encode` encodes and `verify` compares. In a chain the first rule that fits
//! and ends decides. A packet that no rule captures goes its way as if there were none.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::settings::{Family, Interface, Ports, Settings};
use super::{MARK, settings};
use crate::wire::cidr::Cidr;

#[derive(Debug, Clone, PartialEq)]
pub struct Chain {
    pub name: &'static str,
    pub kind: Kind,
    pub hook: Hook,
    pub rules: Vec<Rule>,
}

/// What a chain may do to packets; nf_tables calls it the type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Sees the first packet of a connection, and rewrites its destination.
    Nat,
    /// Sees every packet.
    Filter,
    /// Sees every packet that leaves, and has it routed again if its mark was changed.
    Route,
}

/// Where on a packet's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// It came in.
    Prerouting,
    /// This machine made it.
    Output,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// All of them have to fit.
    pub matches: Vec<Match>,
    pub action: Action,
    /// What it is for.
    pub why: &'static str,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Match {
    Family(Family),
    User(u32),
    Group(u32),
    In(Interface),
    Out(Interface),
    From(Cidr),
    To(Cidr),
    /// The destination is no address of this machine.
    ToOthers,
    Tcp,
    /// TCP, but not the first packet of a connection.
    MidStream,
    TcpTo(Ports),
    UdpTo(Ports),
    Mark(u32),
    /// The mark that the connection has, and not this packet alone.
    ConnectionMark(u32),
    /// The packet answers a connection.
    Reply,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Nothing more in this chain.
    Return,
    /// To this port of the machine itself.
    Redirect(u16),
    /// To a socket on this port as it is, with our mark; then nothing more in this chain.
    Tproxy(u16),
    /// Our mark for the whole connection; goes on.
    MarkConnection,
    /// The packet gets the mark of its connection; goes on.
    RestoreMark,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::Filter => "filter",
            Self::Route => "route",
        }
    }

    /// Among the chains of a hook, lowest first: where iptables has its tables `nat` and `mangle`.
    pub fn priority(self) -> i32 {
        match self {
            Self::Nat => -100,
            Self::Filter | Self::Route => -150,
        }
    }
}

impl Hook {
    pub fn name(self) -> &'static str {
        match self {
            Self::Prerouting => "prerouting",
            Self::Output => "output",
        }
    }
}

impl Rule {
    /// The only one that it is for.
    pub fn family(&self) -> Option<Family> {
        self.matches.iter().find_map(|wanted| match wanted {
            Match::Family(family) => Some(*family),
            Match::From(block) | Match::To(block) => Some(Family::of(block.first())),
            _ => None,
        })
    }
}

fn rule(matches: impl Into<Vec<Match>>, action: Action, why: &'static str) -> Rule {
    Rule { matches: matches.into(), action, why }
}

fn leave(only: Match, why: &'static str) -> Rule {
    rule([only], Action::Return, why)
}

pub fn chains(settings: &Settings) -> Vec<Chain> {
    let outbound = Chain { name: "output", kind: Kind::Nat, hook: Hook::Output, rules: outbound(settings) };
    if !settings.tproxy() {
        let rules = inbound(settings, Vec::new(), Action::Redirect(settings.inbound_port));
        return vec![outbound, Chain { name: "prerouting", kind: Kind::Nat, hook: Hook::Prerouting, rules }];
    }
    // Only on lo: marked for the whole connection, a client's own would have its answers sent to lo, too.
    let ours = [Match::In(Interface::loopback()), Match::Mark(MARK)];
    let first = vec![rule(ours, Action::MarkConnection, "the proxy connects from a client's address")];
    let rules = inbound(settings, first, Action::Tproxy(settings.inbound_port));
    let back = rule([Match::ConnectionMark(MARK)], Action::RestoreMark, "answers to that stay on this machine");
    vec![
        outbound,
        Chain { name: "prerouting", kind: Kind::Filter, hook: Hook::Prerouting, rules },
        Chain { name: "answers", kind: Kind::Route, hook: Hook::Output, rules: vec![back] },
    ]
}

/// Its addresses mean nothing without the interface, which the kernel does not tell with the original destination.
const LINK_LOCAL: (IpAddr, u8) = (IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)), 10);

/// Those of the families that are captured at all.
fn blocks<const N: usize>(settings: &Settings, all: [(IpAddr, u8); N]) -> impl Iterator<Item = Cidr> {
    let families = settings.families();
    let all = all.into_iter().filter(|(address, _)| families.contains(&Family::of(*address)));
    all.map(|(address, length)| Cidr::around(address, length))
}

/// The kernel need not have known of a connection before there were rules: to these its next packet is a first one.
fn mid_stream() -> Rule {
    leave(Match::MidStream, "a connection that was there before")
}

fn no_ipv6(settings: &Settings) -> impl Iterator<Item = Rule> {
    settings.no_ipv6.then(|| leave(Match::Family(Family::V6), "IPv6 is left alone")).into_iter()
}

fn outbound(settings: &Settings) -> Vec<Rule> {
    let mut rules: Vec<Rule> = no_ipv6(settings).collect();
    // First of all, so that no other rule is in the proxy's way.
    let users = |uids: &[u32], why| uids.iter().map(move |uid| leave(Match::User(*uid), why)).collect::<Vec<_>>();
    let groups = |gids: &[u32], why| gids.iter().map(move |gid| leave(Match::Group(*gid), why)).collect::<Vec<_>>();
    rules.extend(users(&settings.proxy_uid, "the proxy itself"));
    rules.extend(groups(&settings.proxy_gid, "the proxy itself"));
    rules.extend(users(&settings.exclude_uids, "excluded user"));
    rules.extend(groups(&settings.exclude_gids, "excluded group"));
    rules.push(leave(Match::Out(Interface::loopback()), "within the pod"));
    rules.extend(blocks(settings, [LINK_LOCAL]).map(|block| leave(Match::To(block), "link-local")));
    rules.push(mid_stream());
    rules.extend(settings.exclude_interfaces.iter().map(|name| leave(Match::Out(name.clone()), "excluded interface")));
    rules.extend(settings.exclude_outbound_cidrs.iter().map(|block| leave(Match::To(*block), "excluded address")));
    rules.extend(settings.exclude_outbound_ports.iter().map(|ports| leave(Match::TcpTo(*ports), "excluded port")));
    let users = settings.include_uids.iter().map(|uid| Match::User(*uid));
    let users = users.chain(settings.include_gids.iter().map(|gid| Match::Group(*gid)));
    let interfaces = settings.include_interfaces.iter().map(|name| Match::Out(name.clone()));
    let only = each(&each(&[Vec::new()], users.collect()), interfaces.collect());
    if let Some(port) = settings.dns_port {
        let dns = settings::Ports { first: 53, last: 53 };
        let dns = each(&only, vec![Match::UdpTo(dns), Match::TcpTo(dns)]);
        rules.extend(dns.into_iter().map(|matches| rule(matches, Action::Redirect(port), "DNS")));
    }
    let blocks = settings.include_outbound_cidrs.iter().map(|block| Match::To(*block));
    let capture = Action::Redirect(settings.outbound_port);
    rules.extend(captures(&only, &settings.include_outbound_ports, blocks.collect(), capture));
    rules
}

/// As many as there are ways to fit all of `before` and one of `then`; without such, as before.
fn each(before: &[Vec<Match>], then: Vec<Match>) -> Vec<Vec<Match>> {
    if then.is_empty() {
        return before.to_vec();
    }
    let one = |matches: &Vec<Match>, wanted: &Match| [&matches[..], std::slice::from_ref(wanted)].concat();
    before.iter().flat_map(|matches| then.iter().map(|wanted| one(matches, wanted)).collect::<Vec<_>>()).collect()
}

/// Of what fits `only`: these ports, and what fits one of `blocks`; without either, everything.
fn captures(only: &[Vec<Match>], ports: &[Ports], blocks: Vec<Match>, capture: Action) -> Vec<Rule> {
    let all = |why| move |matches| rule(matches, capture, why);
    if ports.is_empty() && blocks.is_empty() {
        let narrowed = only.iter().any(|matches| !matches.is_empty());
        let why = if narrowed { "included user or interface" } else { "everything else to the proxy" };
        return each(only, vec![Match::Tcp]).into_iter().map(all(why)).collect();
    }
    let none = |of: Vec<Match>| if of.is_empty() { Vec::new() } else { each(only, of) };
    let ports = none(ports.iter().map(|ports| Match::TcpTo(*ports)).collect());
    let blocks = each(&none(blocks), vec![Match::Tcp]);
    ports.into_iter().map(all("included port")).chain(blocks.into_iter().map(all("included address"))).collect()
}

fn inbound(settings: &Settings, first: Vec<Rule>, capture: Action) -> Vec<Rule> {
    let mut rules: Vec<Rule> = no_ipv6(settings).chain(first).collect();
    rules.push(leave(Match::In(Interface::loopback()), "within the pod"));
    if settings.tproxy() {
        rules.push(leave(Match::Reply, "answers to connections of this pod"));
    }
    // Else the proxy would be a way to where the kernel would not let a neighbour.
    rules.push(leave(Match::ToOthers, "for another machine"));
    let loopback = [(Ipv4Addr::LOCALHOST.into(), 8), (Ipv6Addr::LOCALHOST.into(), 128)];
    rules.extend(blocks(settings, loopback).map(|block| leave(Match::To(block), "loopback, from outside")));
    rules.extend(blocks(settings, [LINK_LOCAL]).map(|block| leave(Match::To(block), "link-local")));
    // Tproxy has to see every packet, and does not take those of a socket that is not the proxy's.
    if !settings.tproxy() {
        rules.push(mid_stream());
    }
    rules.extend(settings.exclude_interfaces.iter().map(|name| leave(Match::In(name.clone()), "excluded interface")));
    rules.extend(settings.own_ports.iter().map(|ports| leave(Match::TcpTo(*ports), "the proxy itself")));
    rules.extend(settings.exclude_inbound_cidrs.iter().map(|block| leave(Match::From(*block), "excluded address")));
    rules.extend(settings.exclude_inbound_ports.iter().map(|ports| leave(Match::TcpTo(*ports), "excluded port")));
    let only = each(&[Vec::new()], settings.include_interfaces.iter().map(|name| Match::In(name.clone())).collect());
    let blocks = settings.include_inbound_cidrs.iter().map(|block| Match::From(*block));
    rules.extend(captures(&only, &settings.include_inbound_ports, blocks.collect(), capture));
    rules
}

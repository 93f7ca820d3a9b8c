//! The rules as messages of nf_tables, with the expressions that `nft` makes of the same text; and what the kernel tells of
//! a rule, in a form to compare. Numbers are from `nf_tables.h`; those between programs are in network order, but what is
//! compared has the order that the packet or the socket has.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::netlink::{attribute, attributes, nested, number, text};
use super::rules::{Action, Chain, Hook, Match, Rule};
use super::settings::{Family, Interface, Ports};
use super::{MARK, TABLE};

const REGISTER: u32 = 1;
const VERDICT: u32 = 0;
const ACCEPT: i32 = 1;
const RETURN: i32 = -5;
const EQUAL: u32 = 0;
const UNEQUAL: u32 = 1;
const AT_MOST: u32 = 3;
const AT_LEAST: u32 = 5;
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;
const TCP: u8 = 6;
const UDP: u8 = 17;

const META_MARK: u32 = 3;
const META_IN: u32 = 6;
const META_OUT: u32 = 7;
const META_USER: u32 = 10;
const META_GROUP: u32 = 11;
const META_FAMILY: u32 = 15;
const META_PROTOCOL: u32 = 16;
/// What the flags of TCP are at, and four of them.
const FLAGS: u32 = 13;
const FIN_SYN_RST_ACK: u8 = 0x17;
const SYN: u8 = 0x02;
/// Ask the routes what kind of address the destination is; and the kind of an address of this machine.
const FIB_KIND: u32 = 3;
const FIB_DESTINATION: u32 = 2;
const LOCAL: u32 = 2;
const CT_DIRECTION: u32 = 1;
const CT_MARK: u32 = 3;

pub fn table() -> Vec<u8> {
    let mut out = Vec::new();
    string(&mut out, 1, TABLE);
    out
}

pub fn chain(chain: &Chain) -> Vec<u8> {
    let mut out = table();
    string(&mut out, 3, chain.name);
    nested(&mut out, 4, |out| {
        attribute(out, 1, &hook(chain.hook).to_be_bytes());
        attribute(out, 2, &chain.kind.priority().to_be_bytes());
    });
    attribute(&mut out, 5, &ACCEPT.to_be_bytes());
    string(&mut out, 7, chain.kind.name());
    out
}

pub fn hook(hook: Hook) -> u32 {
    match hook {
        Hook::Prerouting => 0,
        Hook::Output => 3,
    }
}

pub fn rule(chain: &Chain, rule: &Rule) -> Vec<u8> {
    let mut out = table();
    string(&mut out, 2, chain.name);
    attribute(&mut out, 4, &expressions(rule));
    // What `nft list` shows as the comment: kind 0, length, text.
    let mut comment = vec![0, u8::try_from(rule.why.len() + 1).unwrap_or(u8::MAX)];
    comment.extend(rule.why.bytes().chain([0]));
    attribute(&mut out, 7, &comment);
    out
}

fn string(out: &mut Vec<u8>, kind: u16, value: &str) {
    attribute(out, kind, &[value.as_bytes(), &[0]].concat());
}

/// The list of expressions of a rule.
pub fn expressions(rule: &Rule) -> Vec<u8> {
    let mut out = Vec::new();
    rule.matches.iter().for_each(|wanted| wants(&mut out, wanted));
    does(&mut out, rule);
    out
}

fn wants(out: &mut Vec<u8>, wanted: &Match) {
    match wanted {
        Match::Family(family) => meta_is(out, META_FAMILY, &[of(*family)]),
        Match::User(uid) => meta_is(out, META_USER, &uid.to_ne_bytes()),
        Match::Group(gid) => meta_is(out, META_GROUP, &gid.to_ne_bytes()),
        Match::In(name) => meta_is(out, META_IN, &padded(name)),
        Match::Out(name) => meta_is(out, META_OUT, &padded(name)),
        Match::Tcp => meta_is(out, META_PROTOCOL, &[TCP]),
        Match::TcpTo(ports) => port_is(out, TCP, *ports),
        Match::UdpTo(ports) => port_is(out, UDP, *ports),
        Match::Mark(mark) => meta_is(out, META_MARK, &mark.to_ne_bytes()),
        Match::ConnectionMark(mark) => {
            load(out, "ct", CT_MARK);
            compare(out, EQUAL, &mark.to_ne_bytes());
        }
        Match::Reply => {
            load(out, "ct", CT_DIRECTION);
            compare(out, EQUAL, &[1]);
        }
        Match::From(block) => match block.first() {
            IpAddr::V4(first) => within(out, Family::V4, 12, &first.octets(), block.length()),
            IpAddr::V6(first) => within(out, Family::V6, 8, &first.octets(), block.length()),
        },
        Match::To(block) => match block.first() {
            IpAddr::V4(first) => within(out, Family::V4, 16, &first.octets(), block.length()),
            IpAddr::V6(first) => within(out, Family::V6, 24, &first.octets(), block.length()),
        },
        Match::ToOthers => {
            numbers(out, "fib", &[(1, REGISTER), (2, FIB_KIND), (3, FIB_DESTINATION)]);
            compare(out, UNEQUAL, &LOCAL.to_ne_bytes());
        }
        Match::MidStream => {
            meta_is(out, META_PROTOCOL, &[TCP]);
            payload(out, TRANSPORT, FLAGS, 1);
            masked(out, &[FIN_SYN_RST_ACK]);
            compare(out, UNEQUAL, &[SYN]);
        }
    }
}

fn does(out: &mut Vec<u8>, rule: &Rule) {
    match rule.action {
        Action::Return => verdict(out, RETURN),
        Action::Redirect(port) => {
            immediate(out, &port.to_be_bytes());
            // From this port to this port; the flag says that there is one.
            numbers(out, "redir", &[(1, REGISTER), (2, REGISTER), (3, 2)]);
        }
        Action::Tproxy(port) => {
            immediate(out, &port.to_be_bytes());
            numbers(out, "tproxy", &[(1, rule.family().map_or(0, of).into()), (3, REGISTER)]);
            immediate(out, &MARK.to_ne_bytes());
            numbers(out, "meta", &[(2, META_MARK), (3, REGISTER)]);
            verdict(out, ACCEPT);
        }
        Action::MarkConnection => {
            immediate(out, &MARK.to_ne_bytes());
            numbers(out, "ct", &[(2, CT_MARK), (4, REGISTER)]);
        }
        Action::RestoreMark => {
            load(out, "ct", CT_MARK);
            numbers(out, "meta", &[(2, META_MARK), (3, REGISTER)]);
        }
    }
}

fn of(family: Family) -> u8 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}

fn padded(name: &Interface) -> [u8; 16] {
    let mut all = [0; 16];
    all.iter_mut().zip(name.to_string().bytes()).for_each(|(to, from)| *to = from);
    all
}

fn meta_is(out: &mut Vec<u8>, key: u32, value: &[u8]) {
    load(out, "meta", key);
    compare(out, EQUAL, value);
}

fn port_is(out: &mut Vec<u8>, protocol: u8, ports: Ports) {
    meta_is(out, META_PROTOCOL, &[protocol]);
    payload(out, TRANSPORT, 2, 2);
    if ports.first == ports.last {
        return compare(out, EQUAL, &ports.first.to_be_bytes());
    }
    compare(out, AT_LEAST, &ports.first.to_be_bytes());
    compare(out, AT_MOST, &ports.last.to_be_bytes());
}

/// The address is at `offset` of the header of its family. Whole bytes need no mask.
fn within(out: &mut Vec<u8>, family: Family, offset: u32, first: &[u8], length: u8) {
    meta_is(out, META_FAMILY, &[of(family)]);
    let (bytes, bits) = (usize::from(length / 8), length % 8);
    if bits == 0 && bytes > 0 {
        payload(out, NETWORK, offset, bytes);
        return compare(out, EQUAL, &first[..bytes]);
    }
    payload(out, NETWORK, offset, first.len());
    let mut mask = vec![0xff; bytes];
    mask.push(!(0xff >> bits));
    mask.resize(first.len(), 0);
    masked(out, &mask);
    compare(out, EQUAL, first);
}

/// Leaves of the register what the mask has.
fn masked(out: &mut Vec<u8>, mask: &[u8]) {
    expression(out, "bitwise", |out| {
        attribute(out, 1, &REGISTER.to_be_bytes());
        attribute(out, 2, &REGISTER.to_be_bytes());
        attribute(out, 3, &(u32::try_from(mask.len()).unwrap_or_default()).to_be_bytes());
        nested(out, 4, |out| attribute(out, 1, mask));
        nested(out, 5, |out| attribute(out, 1, &vec![0; mask.len()]));
    });
}

/// Of `meta` and `ct`, into the register.
fn load(out: &mut Vec<u8>, name: &str, key: u32) {
    numbers(out, name, &[(1, REGISTER), (2, key)]);
}

fn payload(out: &mut Vec<u8>, header: u32, offset: u32, length: usize) {
    let length = u32::try_from(length).unwrap_or_default();
    numbers(out, "payload", &[(1, REGISTER), (2, header), (3, offset), (4, length)]);
}

fn compare(out: &mut Vec<u8>, how: u32, value: &[u8]) {
    expression(out, "cmp", |out| {
        attribute(out, 1, &REGISTER.to_be_bytes());
        attribute(out, 2, &how.to_be_bytes());
        nested(out, 3, |out| attribute(out, 1, value));
    });
}

fn immediate(out: &mut Vec<u8>, value: &[u8]) {
    expression(out, "immediate", |out| {
        attribute(out, 1, &REGISTER.to_be_bytes());
        nested(out, 2, |out| attribute(out, 1, value));
    });
}

fn verdict(out: &mut Vec<u8>, code: i32) {
    expression(out, "immediate", |out| {
        attribute(out, 1, &VERDICT.to_be_bytes());
        nested(out, 2, |out| nested(out, 2, |out| attribute(out, 1, &code.to_be_bytes())));
    });
}

fn numbers(out: &mut Vec<u8>, name: &str, all: &[(u16, u32)]) {
    expression(out, name, |out| all.iter().for_each(|(kind, value)| attribute(out, *kind, &value.to_be_bytes())));
}

fn expression(out: &mut Vec<u8>, name: &str, inside: impl FnOnce(&mut Vec<u8>)) {
    nested(out, 1, |out| {
        string(out, 1, name);
        nested(out, 2, inside);
    });
}

/// An expression as it can be compared: the order of attributes is no matter, nor is one that says 0, which is what
/// leaving it out means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expression {
    pub name: String,
    pub attributes: BTreeMap<u16, Vec<u8>>,
}

/// From the list of a rule, ours or the kernel's.
pub fn read(list: &[u8]) -> Vec<Expression> {
    let one = |(_, element)| {
        let (mut name, mut all) = (String::new(), BTreeMap::new());
        for (kind, value) in attributes(element) {
            match kind {
                1 => name = text(value),
                2 => all.extend(attributes(value).filter(|(_, value)| number(value) != Some(0) || value.len() != 4)),
                _ => {}
            }
        }
        let attributes = all.into_iter().map(|(kind, value)| (kind, value.to_vec())).collect();
        Expression { name, attributes }
    };
    attributes(list).map(one).collect()
}

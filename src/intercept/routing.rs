//! The routes that tproxy needs: a packet with our mark is for this machine, whatever its address. Per family one rule
//! and one table with one route. Numbers are from `rtnetlink.h` and `fib_rules.h`, in the order of the machine.

use rustix::io::Errno;

use super::failure::{self, Failure};
use super::netlink::{ACK, CREATE, DUMP, EXCLUSIVE, REPLACE, REQUEST, Refused, Socket, attribute, find, message};
use super::settings::Family;
use super::{MARK, ROUTE_TABLE};

const NEW_ROUTE: u16 = 24;
const DELETE_ROUTE: u16 = 25;
const LIST_ROUTES: u16 = 26;
const NEW_RULE: u16 = 32;
const DELETE_RULE: u16 = 33;
const LIST_RULES: u16 = 34;

const RULE_TABLE: u16 = 15;
const RULE_MARK: u16 = 10;
const RULE_PREFERENCE: u16 = 6;
/// Look into the table.
const LOOK_UP: u8 = 1;

const ROUTE_OUT: u16 = 4;
const ROUTE_IN_TABLE: u16 = 15;
const STATIC: u8 = 4;
const LOCAL: u8 = 2;
const SCOPE_HOST: u8 = 254;
/// `lo` is the first interface of every network namespace.
const LOOPBACK: u32 = 1;

/// Most that somebody else may have made of the same rule, and are removed with ours.
const COPIES: usize = 16;

/// What was not there before, as messages that remove it.
pub struct Added {
    socket: Socket,
    parts: Vec<(u16, Vec<u8>)>,
}

/// All or nothing. What is there already stays.
pub fn add(families: &[Family]) -> Result<Added, Failure> {
    let mut added = Added { socket: open()?, parts: Vec::new() };
    for family in families {
        let rule = format!("the rule that leads marked packets to the routing table {ROUTE_TABLE}");
        let route = format!("the route in table {ROUTE_TABLE}");
        for (new, delete, content, what) in
            [(NEW_RULE, DELETE_RULE, rule_of(*family), rule), (NEW_ROUTE, DELETE_ROUTE, route_of(*family), route)]
        {
            if let Err(errno) = added.add(new, delete, content) {
                added.undo();
                return Err(failure::routing(format!("{what} ({})", name(*family)), errno));
            }
        }
    }
    Ok(added)
}

impl Added {
    fn add(&mut self, new: u16, delete: u16, content: Vec<u8>) -> Result<(), Errno> {
        match ask(&mut self.socket, new, CREATE | EXCLUSIVE, &content) {
            Ok(()) => self.parts.push((delete, content)),
            // It may be another one to the same addresses.
            Err(Errno::EXIST) if new == NEW_ROUTE => ask(&mut self.socket, new, CREATE | REPLACE, &content)?,
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        Ok(())
    }

    /// As well as it can be done: what went wrong before it is what has to be told.
    pub fn undo(mut self) {
        for (delete, content) in self.parts.iter().rev() {
            let _ = ask(&mut self.socket, *delete, 0, content);
        }
    }
}

/// Of these families; they may be gone already.
pub fn remove(families: &[Family]) -> Result<(), Failure> {
    let mut socket = open()?;
    for family in families.iter().copied() {
        for (kind, content) in [(DELETE_RULE, rule_of(family)), (DELETE_ROUTE, route_of(family))] {
            for _ in 0..COPIES {
                match ask(&mut socket, kind, 0, &content) {
                    Ok(()) => {}
                    // It is gone, or there is none of this family.
                    Err(Errno::NOENT | Errno::SRCH | Errno::AFNOSUPPORT | Errno::OPNOTSUPP) => break,
                    Err(errno) => {
                        let what = format!("the routes of table {ROUTE_TABLE} ({}) cannot be removed", name(family));
                        return Err(failure::routing(what, errno));
                    }
                }
            }
        }
    }
    Ok(())
}

/// What of it is there: the rule, and the route.
pub fn found(family: Family) -> Result<(bool, bool), Failure> {
    let mut socket = open()?;
    let mut list = |kind, each: &mut dyn FnMut(&[u8], &[u8])| {
        let mut bytes = Vec::new();
        let mut content = [0; HEADER];
        content[0] = of(family);
        message(&mut bytes, kind, REQUEST | DUMP, 1, &content);
        let each = |_, content: &[u8]| {
            if let Some((head, attributes)) = content.split_at_checked(HEADER) {
                each(head, attributes);
            }
        };
        match socket.ask(&bytes, 1, each) {
            Ok(()) | Err(Refused { errno: Errno::AFNOSUPPORT | Errno::OPNOTSUPP, .. }) => Ok(()),
            Err(refused) => Err(failure::routing("the routes cannot be listed", refused.errno)),
        }
    };
    let is = |attributes: &[u8], kind, wanted: u32| find(attributes, kind) == Some(&wanted.to_ne_bytes()[..]);
    let (mut rule, mut route) = (false, false);
    list(LIST_RULES, &mut |head, all| {
        // For any address, and only by mark and table.
        let ours = is(all, RULE_MARK, MARK) && is(all, RULE_TABLE, ROUTE_TABLE);
        rule |= ours && head[1] == 0 && head[2] == 0 && head[7] == LOOK_UP;
    })?;
    list(LIST_ROUTES, &mut |head, all| {
        let ours = is(all, ROUTE_IN_TABLE, ROUTE_TABLE) && is(all, ROUTE_OUT, LOOPBACK);
        route |= ours && head[1] == 0 && head[7] == LOCAL;
    })?;
    Ok((rule, route))
}

pub fn name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

fn open() -> Result<Socket, Failure> {
    Socket::open(None).map_err(|errno| failure::routing("the kernel's routes cannot be reached", errno))
}

fn ask(socket: &mut Socket, kind: u16, flags: u16, content: &[u8]) -> Result<(), Errno> {
    let mut bytes = Vec::new();
    message(&mut bytes, kind, REQUEST | ACK | flags, 1, content);
    socket.ask(&bytes, 1, |_, _| {}).map_err(|refused| refused.errno)
}

/// Of `fib_rule_hdr` and `rtmsg` alike: family, length of destination and source, type of service, table, …
const HEADER: usize = 12;

fn of(family: Family) -> u8 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}

fn rule_of(family: Family) -> Vec<u8> {
    let mut out = vec![of(family), 0, 0, 0, 0, 0, 0, LOOK_UP, 0, 0, 0, 0];
    attribute(&mut out, RULE_PREFERENCE, &ROUTE_TABLE.to_ne_bytes());
    attribute(&mut out, RULE_MARK, &MARK.to_ne_bytes());
    attribute(&mut out, RULE_TABLE, &ROUTE_TABLE.to_ne_bytes());
    out
}

fn route_of(family: Family) -> Vec<u8> {
    let scope = if family == Family::V4 { SCOPE_HOST } else { 0 };
    let mut out = vec![of(family), 0, 0, 0, 0, STATIC, scope, LOCAL, 0, 0, 0, 0];
    attribute(&mut out, ROUTE_IN_TABLE, &ROUTE_TABLE.to_ne_bytes());
    attribute(&mut out, ROUTE_OUT, &LOOPBACK.to_ne_bytes());
    out
}

//! The same in one line: the answer header of a request that asks to be explained.

use std::fmt::Write;
use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{places, sides};
use crate::decide::Drawn;
use crate::policy::balance::Why;
use crate::snapshot::{Route, Snapshot, Target};

pub const REQUEST_HEADER: HeaderName = HeaderName::from_static("x-outrigger-explain");

/// Whether the request asks, and may: from loopback with `1`, or from anywhere with the configured token. The field
/// goes no further, for it may hold a token.
pub fn take(headers: &mut HeaderMap, peer: Option<IpAddr>, token: Option<&str>) -> bool {
    if !headers.contains_key(REQUEST_HEADER) {
        return false;
    }
    let local = peer.is_some_and(|ip| ip.to_canonical().is_loopback());
    let may = |line: &HeaderValue| {
        local && line.as_bytes() == b"1" || token.is_some_and(|token| same(line.as_bytes(), token.as_bytes()))
    };
    let may = headers.get_all(REQUEST_HEADER).iter().any(may);
    headers.remove(REQUEST_HEADER);
    may
}

/// Takes as long wherever the first difference is.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

/// What an exchange knows of its own decision.
pub struct Known<'a> {
    pub snapshot: &'a Snapshot,
    pub listener: &'a str,
    pub route: Option<(&'a Route, usize, usize)>,
    pub grpc: bool,
    pub target: Option<Target>,
    pub drawn: Option<Drawn>,
    pub endpoint: Option<&'a crate::wire::address::Address>,
    /// What the endpoint was picked by.
    pub picked: Option<Why>,
    pub reason: &'a str,
    /// Whose circuit breaker did not let it pass.
    pub circuit: Option<&'a str>,
    /// The entry of `authorization` that denies it.
    pub denied: Option<&'a str>,
    /// Numbers of those in shadow mode that would.
    pub would_deny: &'a [usize],
    pub attributes: &'a [(usize, Box<str>)],
}

/// `key=value` pairs with `; ` between them.
pub fn compact(known: &Known<'_>) -> Option<HeaderValue> {
    let snapshot = known.snapshot;
    let mut line = String::new();
    let mut say = |key: &str, value: &dyn std::fmt::Display| {
        let separator = if line.is_empty() { "" } else { "; " };
        // Writing to a string does not fail.
        let _ = write!(line, "{separator}{key}={value}");
    };
    say("listener", &known.listener);
    if let Some((route, index, rule)) = known.route {
        say("route", &route.name);
        if let Some(number) = places::number(snapshot, index, rule) {
            say("match", &number);
        }
        if let Some(place) = places::place(snapshot, &places::of_rule(snapshot, index, rule)) {
            say("at", &place);
        }
        if let Some(timeout) = route.timeout.filter(|_| !known.grpc || route.timeout_is_own) {
            let shadow = if timeout.shadow { " (shadow)" } else { "" };
            say("timeout", &format_args!("{}{shadow}", crate::config::units::Duration(timeout.limit)));
        }
    }
    if let Some(target) = known.target {
        say("to", &sides::name(snapshot, target));
    }
    if let Some(Drawn { bucket, sticky }) = known.drawn {
        say("bucket", &format_args!("{bucket} ({})", if sticky { "sticky" } else { "chance" }));
    }
    if let Some(endpoint) = known.endpoint {
        say("endpoint", &endpoint);
        if let Some(why) = known.picked {
            say("by", &why);
        }
    }
    for (index, value) in known.attributes {
        if let Some(attribute) = snapshot.attributes.get(*index) {
            say(&format!("attribute.{}", attribute.name), &super::shown(attribute.secret, value));
        }
    }
    if !known.reason.is_empty() {
        say("reason", &known.reason);
    }
    if let Some(of) = known.circuit {
        say("circuitBreaker", &of);
    }
    if let Some(entry) = known.denied {
        say("authorization", &entry);
    }
    for entry in known.would_deny.iter().filter_map(|number| snapshot.authorization.get(*number)) {
        say("authorization", &format_args!("{} (shadow)", entry.name));
    }
    say("generation", &snapshot.generation);
    // What a peer has sent may hold anything; a header may not.
    let clean: String = line.chars().map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' }).collect();
    HeaderValue::from_str(&clean).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_or_the_token_may_ask() {
        let asked = |value: &'static str| HeaderMap::from_iter([(REQUEST_HEADER, HeaderValue::from_static(value))]);
        let (local, remote) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([10, 0, 0, 1]));
        let mapped = "::ffff:127.0.0.1".parse::<IpAddr>().unwrap();
        let token = Some("0123456789abcdef");
        let takes = |mut headers: HeaderMap, peer, token| {
            let taken = take(&mut headers, Some(peer), token);
            assert!(headers.is_empty(), "it goes no further");
            taken
        };
        assert!(takes(asked("1"), local, None) && takes(asked("1"), mapped, token));
        assert!(!takes(asked("1"), remote, None) && !takes(asked("1"), remote, token));
        assert!(takes(asked("0123456789abcdef"), remote, token) && !takes(asked("0123456789abcdeg"), remote, token));
        assert!(!takes(asked("yes"), local, None) && !takes(HeaderMap::new(), local, token));
        let mut two = asked("1");
        two.append(REQUEST_HEADER, HeaderValue::from_static("0123456789abcdef"));
        assert!(takes(two, remote, token));
        // Behind a Unix socket may be anybody.
        assert!(!take(&mut asked("1"), None, None) && take(&mut asked("0123456789abcdef"), None, token));
    }
}

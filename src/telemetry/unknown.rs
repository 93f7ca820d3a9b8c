//! Destinations that applications call and that the configuration does not know: what is passed on untouched, or
//! refused, so that somebody can see what is missing. Each worker remembers a bounded number.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Instant, SystemTime};

use serde_json::{Value, json};

use super::rfc3339::Rfc3339;

/// Destinations that one worker remembers.
const KEPT: usize = 256;
/// Names of a destination that it remembers, the last ones.
const NAMES: usize = 4;
/// Bytes of a name; no name of DNS is longer.
const NAME_MAX: usize = 253;
/// Destinations in one answer.
const LISTED: usize = 1000;

/// What is remembered of a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// That clients asked for there, and when last.
    names: Vec<(Box<str>, Instant)>,
    names_forgotten: u64,
    /// Of the last connection.
    spoken: &'static str,
    connections: u64,
    denied: u64,
    first: Instant,
    last: Instant,
}

/// Of one worker.
#[derive(Debug, Default)]
pub struct Unknown {
    known: HashMap<SocketAddr, Seen>,
    forgotten: u64,
}

impl Unknown {
    /// `name` is what the client asked for by SNI or Host.
    pub fn see(
        &mut self,
        destination: SocketAddr,
        name: Option<&str>,
        spoken: &'static str,
        allowed: bool,
        now: Instant,
    ) {
        if self.known.len() >= KEPT && !self.known.contains_key(&destination) {
            self.forget_one();
        }
        let seen = self.known.entry(destination).or_insert(Seen {
            names: Vec::new(),
            names_forgotten: 0,
            spoken,
            connections: 0,
            denied: 0,
            first: now,
            last: now,
        });
        seen.spoken = spoken;
        seen.connections += 1;
        seen.denied += u64::from(!allowed);
        seen.last = now;
        if let Some(name) = name {
            seen.name(name, now);
        }
    }

    fn forget_one(&mut self) {
        let least = self.known.iter().min_by_key(|(_, seen)| seen.last);
        if let Some(destination) = least.map(|(destination, _)| *destination) {
            self.known.remove(&destination);
            self.forgotten += 1;
        }
    }

    /// And how many were forgotten to make room.
    pub fn all(&self) -> (Vec<(SocketAddr, Seen)>, u64) {
        (self.known.iter().map(|(destination, seen)| (*destination, seen.clone())).collect(), self.forgotten)
    }
}

impl Seen {
    fn name(&mut self, name: &str, now: Instant) {
        let name = name.get(..name.floor_char_boundary(NAME_MAX)).unwrap_or_default();
        if let Some((_, last)) = self.names.iter_mut().find(|(known, _)| **known == *name) {
            *last = now;
            return;
        }
        if self.names.len() >= NAMES {
            let least = self.names.iter().enumerate().min_by_key(|(_, (_, last))| *last);
            if let Some(least) = least.map(|(at, _)| at) {
                self.names.remove(least);
                self.names_forgotten += 1;
            }
        }
        self.names.push((name.into(), now));
    }

    fn add(&mut self, other: Self) {
        if other.last > self.last {
            self.spoken = other.spoken;
        }
        for (name, last) in other.names {
            match self.names.iter_mut().find(|(known, _)| *known == name) {
                Some((_, known)) => *known = last.max(*known),
                None => self.names.push((name, last)),
            }
        }
        self.names_forgotten += other.names_forgotten;
        self.connections += other.connections;
        self.denied += other.denied;
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
    }
}

/// The answer of `/unknown`: what all workers know, those seen last first. `now` is the same moment twice.
pub fn report(workers: Vec<(Vec<(SocketAddr, Seen)>, u64)>, now: (Instant, SystemTime)) -> Value {
    let mut all: HashMap<SocketAddr, Seen> = HashMap::new();
    let mut forgotten = 0;
    for (destinations, of_worker) in workers {
        forgotten += of_worker;
        for (destination, seen) in destinations {
            match all.get_mut(&destination) {
                Some(sum) => sum.add(seen),
                None => drop(all.insert(destination, seen)),
            }
        }
    }
    let mut all: Vec<(SocketAddr, Seen)> = all.into_iter().collect();
    all.sort_by(|(a, one), (b, other)| other.last.cmp(&one.last).then_with(|| a.cmp(b)));
    let more = all.len().saturating_sub(LISTED);
    let list: Vec<Value> = all.into_iter().take(LISTED).map(|(to, seen)| entry(to, seen, now)).collect();
    json!({ "unknown": list, "more": more, "forgotten": forgotten })
}

fn entry(destination: SocketAddr, mut seen: Seen, now: (Instant, SystemTime)) -> Value {
    seen.names.sort_by(|(a, one), (b, other)| other.cmp(one).then_with(|| a.cmp(b)));
    let names: Vec<&str> = seen.names.iter().map(|(name, _)| &**name).collect();
    json!({
        "destination": destination.to_string(),
        "names": names,
        "namesForgotten": seen.names_forgotten,
        "protocol": seen.spoken,
        "connections": seen.connections,
        "denied": seen.denied,
        "firstSeen": Rfc3339::of(seen.first, now).to_string(),
        "lastSeen": Rfc3339::of(seen.last, now).to_string(),
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn address(number: u32) -> SocketAddr {
        (std::net::Ipv4Addr::from_bits(number), 443).into()
    }

    #[test]
    fn those_seen_longest_ago_make_room() {
        let (mut unknown, start) = (Unknown::default(), Instant::now());
        let count = u32::try_from(KEPT).expect("few");
        let at = |second: u32| start + Duration::from_secs(second.into());
        (0..count).for_each(|number| unknown.see(address(number), None, "tls", true, at(number)));
        unknown.see(address(0), None, "tls", true, at(count));
        unknown.see(address(count), None, "tls", true, at(count + 1));
        let gone = |number| !unknown.known.contains_key(&address(number));
        assert_eq!((gone(0), gone(1), gone(2), unknown.forgotten), (false, true, false, 1));
        (0..10 * count).for_each(|number| unknown.see(address(number), None, "tls", true, at(2 * count)));
        assert_eq!(unknown.known.len(), KEPT);
    }

    #[test]
    fn names_are_few_and_short() {
        let (mut unknown, start) = (Unknown::default(), Instant::now());
        let mut second = 0;
        let mut see = |name: &str| {
            second += 1;
            unknown.see(address(1), Some(name), "http1", true, start + Duration::from_secs(second));
        };
        ["a", "b", "c", "d", "a", "e"].into_iter().for_each(&mut see);
        see(&"ü".repeat(200));
        let seen = &unknown.known[&address(1)];
        let names: Vec<_> = seen.names.iter().map(|(name, _)| &**name).collect();
        assert_eq!(names[..3], ["a", "d", "e"], "b and c have made room");
        assert_eq!((names[3].len(), seen.names_forgotten), (252, 2), "and none is cut within a letter");
    }

    #[test]
    fn workers_are_put_together() {
        let (mut one, mut other) = (Unknown::default(), Unknown::default());
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        one.see(address(1), Some("b.test"), "http1", true, at(10));
        one.see(address(2), None, "opaque", false, at(5));
        other.see(address(1), Some("b.test"), "tls", true, at(15));
        other.see(address(1), Some("a.test"), "tls", false, at(20));
        let told = report(vec![one.all(), other.all()], (at(30), UNIX_EPOCH + Duration::from_secs(60)));
        let first = json!({
            "destination": "0.0.0.1:443", "names": ["a.test", "b.test"], "namesForgotten": 0, "protocol": "tls",
            "connections": 3, "denied": 1,
            "firstSeen": "1970-01-01T00:00:40.000Z", "lastSeen": "1970-01-01T00:00:50.000Z",
        });
        assert_eq!(told["unknown"][0], first, "{told:#}");
        assert_eq!(told["unknown"][1]["denied"], 1);
        assert_eq!((&told["more"], &told["forgotten"]), (&json!(0), &json!(0)));
    }

    #[test]
    fn an_answer_has_its_end() {
        let now = Instant::now();
        let workers = (0..5u32).map(|worker| {
            let mut unknown = Unknown::default();
            (0..256).for_each(|number| unknown.see(address(worker * 256 + number), None, "opaque", true, now));
            unknown.all()
        });
        let told = report(workers.collect(), (now, SystemTime::now()));
        assert_eq!((told["unknown"].as_array().map(Vec::len), &told["more"]), (Some(LISTED), &json!(280)));
    }
}

//! Who has connected, and how: counted by listener, and remembered by address and identity, so that a listener can be
//! made strict with knowledge of whom it would lock out. Each worker remembers a bounded number.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Value, json};

use super::counter::Shared;
use super::rfc3339::Rfc3339;
use crate::wire::spiffe::SpiffeId;

/// Peers that one worker remembers.
const KEPT: usize = 1024;
/// Peers in one answer.
const LISTED: usize = 1000;

/// How a connection from a client is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum How {
    /// TLS, and the client has proven an identity.
    Mutual,
    Tls,
    Plaintext,
    /// TLS with somebody behind us.
    Passthrough,
}

impl How {
    pub const ALL: [Self; 4] = [Self::Mutual, Self::Tls, Self::Plaintext, Self::Passthrough];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Mutual => "mtls",
            Self::Tls => "tls",
            Self::Plaintext => "plaintext",
            Self::Passthrough => "passthrough",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|how| how.name() == name)
    }
}

/// Connections of one listener.
#[derive(Debug, Default)]
pub struct Connections([Shared; How::ALL.len()]);

impl Connections {
    pub fn inc(&self, how: How) {
        if let Some(counter) = self.0.get(how as usize) {
            counter.inc();
        }
    }

    pub fn all(&self) -> impl Iterator<Item = (How, u64)> {
        How::ALL.into_iter().zip(self.0.iter().map(Shared::get))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Peer {
    /// Whoever came by a Unix socket has none.
    pub address: Option<IpAddr>,
    pub how: How,
    /// What it has proven to be.
    pub identity: Option<SpiffeId>,
    pub listener: Arc<str>,
}

/// What is remembered of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    connections: u64,
    open: u64,
    first: SystemTime,
    last: SystemTime,
}

/// Of one worker.
#[derive(Debug, Default)]
pub struct Peers {
    known: HashMap<Peer, Seen>,
    forgotten: u64,
}

impl Peers {
    pub fn came(&mut self, peer: Peer, now: SystemTime) {
        if self.known.len() >= KEPT && !self.known.contains_key(&peer) {
            self.forget_one();
        }
        let seen = self.known.entry(peer).or_insert(Seen { connections: 0, open: 0, first: now, last: now });
        seen.connections += 1;
        seen.open += 1;
        seen.last = now;
    }

    /// Whether somebody with this address has proven an identity, to whichever listener.
    pub fn knows_as_mutual(&self, address: Option<IpAddr>) -> bool {
        self.known.keys().any(|peer| peer.how == How::Mutual && peer.address == address)
    }

    /// One of its connections has ended.
    pub fn left(&mut self, peer: &Peer, now: SystemTime) {
        if let Some(seen) = self.known.get_mut(peer) {
            // It may have been forgotten in between.
            seen.open = seen.open.saturating_sub(1);
            seen.last = now;
        }
    }

    /// The least recently seen of those that have gone, or of all where nobody has.
    fn forget_one(&mut self) {
        let least = self.known.iter().min_by_key(|(_, seen)| (seen.open > 0, seen.last));
        if let Some(peer) = least.map(|(peer, _)| peer.clone()) {
            self.known.remove(&peer);
            self.forgotten += 1;
        }
    }

    /// And how many were forgotten to make room.
    pub fn all(&self) -> (Vec<(Peer, Seen)>, u64) {
        (self.known.iter().map(|(peer, seen)| (peer.clone(), *seen)).collect(), self.forgotten)
    }
}

/// The answer of `/peers`: what all workers know, those seen last first.
pub fn report(workers: Vec<(Vec<(Peer, Seen)>, u64)>, how: Option<How>) -> Value {
    let mut all: HashMap<Peer, Seen> = HashMap::new();
    let mut forgotten = 0;
    for (peers, of_worker) in workers {
        forgotten += of_worker;
        for (peer, seen) in peers.into_iter().filter(|(peer, _)| how.is_none_or(|how| peer.how == how)) {
            all.entry(peer).and_modify(|sum| sum.add(seen)).or_insert(seen);
        }
    }
    let mut all: Vec<(Peer, Seen)> = all.into_iter().collect();
    let order = |peer: &Peer| (peer.listener.clone(), peer.how.name(), peer.identity.clone(), peer.address);
    all.sort_by(|(a, one), (b, other)| other.last.cmp(&one.last).then_with(|| order(a).cmp(&order(b))));
    let more = all.len().saturating_sub(LISTED);
    let peers: Vec<Value> = all.iter().take(LISTED).map(|(peer, seen)| entry(peer, seen)).collect();
    json!({ "peers": peers, "more": more, "forgotten": forgotten })
}

fn entry(peer: &Peer, seen: &Seen) -> Value {
    json!({
        "listener": peer.listener.as_ref(),
        "how": peer.how.name(),
        "identity": peer.identity.as_ref().map(SpiffeId::as_str),
        "address": peer.address.map_or_else(|| "unix:".to_owned(), |address| address.to_string()),
        "connections": seen.connections,
        "open": seen.open,
        "firstSeen": Rfc3339(seen.first).to_string(),
        "lastSeen": Rfc3339(seen.last).to_string(),
    })
}

impl Seen {
    fn add(&mut self, other: Self) {
        self.connections += other.connections;
        self.open += other.open;
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn peer(number: u32, how: How) -> Peer {
        let identity = (how == How::Mutual).then(|| SpiffeId::parse("spiffe://a/b").expect("an id"));
        Peer { address: Some(Ipv4Addr::from_bits(number).into()), how, identity, listener: "edge".into() }
    }

    #[test]
    fn those_that_have_gone_longest_make_room() {
        let mut peers = Peers::default();
        let count = u32::try_from(KEPT).expect("few");
        for number in 0..count {
            peers.came(peer(number, How::Plaintext), at(number.into()));
        }
        // The first stays connected; the second leaves before the third.
        peers.left(&peer(1, How::Plaintext), at(5000));
        peers.left(&peer(2, How::Plaintext), at(5001));
        for number in count..count + 2 {
            peers.came(peer(number, How::Plaintext), at(6000));
        }
        let gone = |number| !peers.known.contains_key(&peer(number, How::Plaintext));
        assert_eq!((gone(0), gone(1), gone(2), peers.forgotten), (false, true, true, 2));
        for number in 0..10 * count {
            peers.came(peer(number, How::Tls), at(7000));
        }
        assert_eq!(peers.known.len(), KEPT);
    }

    #[test]
    fn workers_are_put_together() {
        let (mut one, mut other) = (Peers::default(), Peers::default());
        one.came(peer(1, How::Plaintext), at(10));
        one.left(&peer(1, How::Plaintext), at(20));
        other.came(peer(1, How::Plaintext), at(5));
        other.came(peer(2, How::Mutual), at(30));
        other.left(&peer(9, How::Mutual), at(40));
        let told = |how| report(vec![one.all(), other.all()], how);
        let all = told(None);
        let first = json!({
            "listener": "edge", "how": "mtls", "identity": "spiffe://a/b", "address": "0.0.0.2",
            "connections": 1, "open": 1,
            "firstSeen": "1970-01-01T00:00:30.000Z", "lastSeen": "1970-01-01T00:00:30.000Z",
        });
        assert_eq!(all["peers"][0], first);
        let second = &all["peers"][1];
        assert_eq!((&second["connections"], &second["open"]), (&json!(2), &json!(1)));
        assert_eq!(second["firstSeen"], "1970-01-01T00:00:05.000Z");
        assert_eq!(second["lastSeen"], "1970-01-01T00:00:20.000Z");
        assert_eq!(told(Some(How::Plaintext))["peers"].as_array().map(Vec::len), Some(1));
        assert_eq!(told(Some(How::Passthrough)), json!({ "peers": [], "more": 0, "forgotten": 0 }));
    }

    #[test]
    fn an_answer_has_its_end() {
        let mut many = Vec::new();
        for worker in 0..3 {
            let mut peers = Peers::default();
            (0..500).for_each(|number| peers.came(peer(worker * 500 + number, How::Plaintext), at(1)));
            many.push(peers.all());
        }
        let told = report(many, None);
        assert_eq!((told["peers"].as_array().map(Vec::len), &told["more"]), (Some(LISTED), &json!(500)));
        assert!(How::ALL.iter().all(|how| How::from_name(how.name()) == Some(*how)));
    }
}

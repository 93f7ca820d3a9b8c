//! What destinations have turned out to speak, so that the next connection to one need not find out again. It is only
//! ever a memory of what was observed: bounded, and over after a time.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Destinations that one worker remembers: of the applications beside the proxy, and of those that they call.
pub const KEPT: usize = 4096;
/// How long, after it was last observed.
pub const TTL: Duration = Duration::from_mins(10);

/// Who speaks first on connections to a destination, and what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Spoken {
    Http1,
    Http2,
    Tls,
    /// Something else, from the client.
    Opaque,
    /// Something else, from the server: the client waits for it.
    ServerFirst,
}

/// What is remembered of one destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fact {
    pub spoken: Spoken,
    /// How often this was observed in a row.
    pub times: u64,
    pub first: Instant,
    pub last: Instant,
}

/// Whether the destination is our own application, and its address.
pub type Key = (bool, SocketAddr);

/// Of one worker.
#[derive(Debug)]
pub struct Learned {
    max: usize,
    ttl: Duration,
    /// With the turn in which each was last observed.
    known: HashMap<Key, (u64, Fact)>,
    /// By that turn.
    order: BTreeMap<u64, Key>,
    turn: u64,
    forgotten: u64,
}

impl Spoken {
    pub const ALL: [Self; 5] = [Self::Http1, Self::Http2, Self::Tls, Self::Opaque, Self::ServerFirst];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Tls => "tls",
            Self::Opaque => "opaque",
            Self::ServerFirst => "server_first",
        }
    }
}

impl Fact {
    /// When it is no longer believed. Who is known to speak first is not listened to, so that nothing would ever show
    /// that it is wrong: it ends in any case, and is learned again.
    pub fn until(&self, ttl: Duration) -> Instant {
        match self.spoken {
            Spoken::ServerFirst => self.first + ttl,
            Spoken::Http1 | Spoken::Http2 | Spoken::Tls | Spoken::Opaque => self.last + ttl,
        }
    }
}

impl Learned {
    pub fn new(max: usize, ttl: Duration) -> Self {
        Self { max, ttl, known: HashMap::new(), order: BTreeMap::new(), turn: 0, forgotten: 0 }
    }

    pub fn get(&self, inbound: bool, destination: SocketAddr, now: Instant) -> Option<Spoken> {
        let (_, fact) = self.known.get(&(inbound, destination))?;
        (now < fact.until(self.ttl)).then_some(fact.spoken)
    }

    /// It was observed, not only believed. Another observation than the one before replaces it.
    pub fn learn(&mut self, inbound: bool, destination: SocketAddr, spoken: Spoken, now: Instant) {
        if self.max == 0 {
            return;
        }
        let key = (inbound, destination);
        let before = self.remove(key).filter(|fact| fact.spoken == spoken && now < fact.until(self.ttl));
        if self.known.len() >= self.max
            && let Some((_, least)) = self.order.pop_first()
        {
            self.known.remove(&least);
            self.forgotten += 1;
        }
        let mut fact = before.unwrap_or(Fact { spoken, times: 0, first: now, last: now });
        fact.times += 1;
        fact.last = now;
        self.known.insert(key, (self.turn, fact));
        self.order.insert(self.turn, key);
        self.turn += 1;
    }

    /// What was believed has shown to be wrong.
    pub fn forget(&mut self, inbound: bool, destination: SocketAddr) {
        self.remove((inbound, destination));
    }

    /// What is still believed, in no order, and how many were forgotten to make room.
    pub fn entries(&self, now: Instant) -> (Vec<(Key, Fact)>, u64) {
        let believed = self.known.iter().filter(|(_, (_, fact))| now < fact.until(self.ttl));
        (believed.map(|(key, (_, fact))| (*key, *fact)).collect(), self.forgotten)
    }

    fn remove(&mut self, key: Key) -> Option<Fact> {
        let (turn, fact) = self.known.remove(&key)?;
        self.order.remove(&turn);
        Some(fact)
    }
}

impl Default for Learned {
    fn default() -> Self {
        Self::new(KEPT, TTL)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SHORT: Duration = Duration::from_secs(10);

    fn address(port: u16) -> SocketAddr {
        ([10, 0, 0, 1], port).into()
    }

    #[test]
    fn what_is_observed_again_is_believed_longer() {
        let (mut learned, start) = (Learned::new(2, SHORT), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        learned.learn(false, address(1), Spoken::Http1, at(0));
        learned.learn(false, address(1), Spoken::Http1, at(8));
        assert_eq!(learned.get(false, address(1), at(17)), Some(Spoken::Http1));
        assert_eq!(learned.get(true, address(1), at(9)), None, "our own application is somebody else");
        assert_eq!(learned.get(false, address(1), at(18)), None);
        assert!(learned.entries(at(18)).0.is_empty());
    }

    #[test]
    fn who_speaks_first_is_found_out_again_in_any_case() {
        let (mut learned, start) = (Learned::new(2, SHORT), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        for second in 0..10 {
            learned.learn(false, address(1), Spoken::ServerFirst, at(second));
        }
        assert_eq!(learned.get(false, address(1), at(9)), Some(Spoken::ServerFirst));
        assert_eq!(learned.get(false, address(1), at(10)), None);
        learned.learn(false, address(1), Spoken::ServerFirst, at(11));
        assert_eq!(learned.get(false, address(1), at(20)), Some(Spoken::ServerFirst));
        assert_eq!(learned.entries(at(20)).0[0].1.times, 1, "it begins anew");
    }

    #[test]
    fn nothing_is_kept_where_nothing_may_be() {
        let (mut learned, now) = (Learned::new(0, SHORT), Instant::now());
        learned.learn(true, address(1), Spoken::Tls, now);
        assert_eq!((learned.get(true, address(1), now), learned.entries(now)), (None, (vec![], 0)));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Learn(bool, u16, Spoken),
        Forget(bool, u16),
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let spoken = prop::sample::select(&Spoken::ALL[..]);
        prop_oneof![
            4 => (any::<bool>(), 0..4u16, spoken).prop_map(|(inbound, port, spoken)| Step::Learn(inbound, port, spoken)),
            1 => (any::<bool>(), 0..4u16).prop_map(|(inbound, port)| Step::Forget(inbound, port)),
            2 => (0..6u64).prop_map(Step::Wait),
        ]
    }

    proptest! {
        /// Against a list of facts, the least recently observed first.
        #[test]
        fn it_does_as_a_list_would(max in 1..6usize, steps in prop::collection::vec(step(), 0..60)) {
            let (mut learned, mut now) = (Learned::new(max, SHORT), Instant::now());
            let (mut list, mut forgotten): (Vec<(Key, Fact)>, u64) = (Vec::new(), 0);
            for step in steps {
                match step {
                    Step::Wait(seconds) => now += Duration::from_secs(seconds),
                    Step::Forget(inbound, port) => {
                        learned.forget(inbound, address(port));
                        list.retain(|(key, _)| *key != (inbound, address(port)));
                    }
                    Step::Learn(inbound, port, spoken) => {
                        learned.learn(inbound, address(port), spoken, now);
                        let key = (inbound, address(port));
                        let at = list.iter().position(|(known, _)| *known == key);
                        let mut fact = at.map(|at| list.remove(at).1)
                            .filter(|fact| fact.spoken == spoken && now < fact.until(SHORT))
                            .unwrap_or(Fact { spoken, times: 0, first: now, last: now });
                        (fact.times, fact.last) = (fact.times + 1, now);
                        if list.len() == max {
                            list.remove(0);
                            forgotten += 1;
                        }
                        list.push((key, fact));
                    }
                }
                for (inbound, port) in (0..4).flat_map(|port| [(true, port), (false, port)]) {
                    let key = (inbound, address(port));
                    let wanted = list.iter().find(|(known, fact)| *known == key && now < fact.until(SHORT));
                    prop_assert_eq!(learned.get(inbound, address(port), now), wanted.map(|(_, fact)| fact.spoken));
                }
                let (mut all, gone) = learned.entries(now);
                let mut wanted: Vec<_> = list.iter().filter(|(_, fact)| now < fact.until(SHORT)).copied().collect();
                all.sort_by_key(|(key, _)| *key);
                wanted.sort_by_key(|(key, _)| *key);
                prop_assert_eq!((all, gone), (wanted, forgotten));
                prop_assert!(learned.known.len() <= max && learned.known.len() == learned.order.len());
            }
        }
    }
}

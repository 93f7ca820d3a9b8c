//! Who sent the requests of one fingerprint: the first few, each with the part of them that was theirs. What a rule
//! says may depend on it.

use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;

use crate::policy::caller::Caller;
use crate::wire::spiffe::SpiffeId;

/// Callers of one fingerprint that are told apart.
pub const CALLERS_MAX: usize = 8;
/// Identities that one worker remembers, and the longest of them, in bytes.
const IDS_MAX: usize = 64;
const ID_MAX: usize = 128;

/// Somebody who calls.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Who {
    /// Whoever came by a Unix socket has none.
    pub ip: Option<IpAddr>,
    pub id: Option<SpiffeId>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Callers {
    /// With the requests of each, aged.
    pub known: Vec<(Who, f64)>,
    /// Requests of others.
    pub others: f64,
}

/// One text for each identity, however many connections have shown it.
#[derive(Debug)]
pub struct Ids {
    known: HashSet<SpiffeId>,
    max: usize,
}

impl Who {
    pub fn at(&self, port: u16) -> Caller<'_> {
        Caller::new(self.ip, self.id.as_ref(), port)
    }

    fn address(&self) -> String {
        self.ip.map_or_else(|| "unix:".to_owned(), |ip| ip.to_string())
    }
}

/// As a report names it.
impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.id {
            Some(id) => write!(f, "{id} ({})", self.address()),
            None => f.write_str(&self.address()),
        }
    }
}

impl Callers {
    /// One that cannot be told apart is one of the others: it must not be taken for somebody else.
    pub fn see(&mut self, caller: &Caller<'_>, weight: f64, ids: &mut Ids) {
        let same = |(who, _): &&mut (Who, f64)| who.ip == caller.ip() && who.id.as_ref() == caller.id;
        if let Some((_, known)) = self.known.iter_mut().find(same) {
            *known += weight;
            return;
        }
        match caller.id.map(|id| ids.intern(id)) {
            None => self.add(Who { ip: caller.ip(), id: None }, weight),
            Some(Some(id)) => self.add(Who { ip: caller.ip(), id: Some(id) }, weight),
            Some(None) => self.others += weight,
        }
    }

    pub fn merge(&mut self, other: &Self) {
        other.known.iter().for_each(|(who, weight)| self.add(who.clone(), *weight));
        self.others += other.others;
    }

    pub fn halve(&mut self) {
        self.known.iter_mut().map(|(_, weight)| weight).chain([&mut self.others]).for_each(|weight| *weight /= 2.0);
    }

    fn add(&mut self, who: Who, weight: f64) {
        let room = self.known.len() < CALLERS_MAX;
        match self.known.iter_mut().find(|(known, _)| *known == who) {
            Some((_, known)) => *known += weight,
            None if room => self.known.push((who, weight)),
            None => self.others += weight,
        }
    }
}

impl Ids {
    /// For a reservoir of so many bytes: few, where these are few.
    pub fn new(bytes: usize) -> Self {
        Self { known: HashSet::new(), max: IDS_MAX.min(bytes / 8 / Self::EACH) }
    }

    /// One, with its place in the table.
    const EACH: usize = ID_MAX + 4 * size_of::<SpiffeId>();

    /// Memory of all that may be remembered, in bytes.
    pub fn bytes(&self) -> usize {
        self.max * Self::EACH
    }

    fn intern(&mut self, id: &SpiffeId) -> Option<SpiffeId> {
        if let Some(known) = self.known.get(id) {
            return Some(known.clone());
        }
        if self.known.len() >= self.max || id.as_str().len() > ID_MAX {
            return None;
        }
        self.known.insert(id.clone());
        Some(id.clone())
    }

    pub fn clear(&mut self) {
        self.known.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_are_told_apart_and_nobody_is_taken_for_another() {
        let (mut callers, mut ids) = (Callers::default(), Ids::new(512 << 10));
        let id = |n: usize| SpiffeId::parse(&format!("spiffe://a/{n}")).unwrap();
        let ip = IpAddr::from([10, 0, 0, 1]);
        for n in (0..20).chain(0..2) {
            callers.see(&Caller::new(ip, Some(&id(n)), 80), 2.0, &mut ids);
        }
        callers.see(&Caller::new(ip, None, 80), 1.0, &mut ids);
        let weights: Vec<f64> = callers.known.iter().map(|(_, weight)| *weight).collect();
        assert_eq!((weights.as_slice(), callers.others), (&[4.0, 4.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0][..], 25.0));
        callers.halve();
        let mut twice = callers.clone();
        twice.merge(&callers);
        assert_eq!((twice.known.len(), twice.known[0].1, twice.others), (CALLERS_MAX, 4.0, 25.0));
        // Too many identities, and one that is too long.
        let mut callers = Callers::default();
        (0..2 * IDS_MAX).for_each(|n| drop(ids.intern(&id(n))));
        let long = SpiffeId::parse(&format!("spiffe://a/{}", "b".repeat(ID_MAX))).unwrap();
        for id in [id(IDS_MAX), long, id(3)] {
            callers.see(&Caller::new(ip, Some(&id), 80), 1.0, &mut ids);
        }
        assert_eq!((callers.known.len(), callers.others, ids.known.len()), (1, 2.0, IDS_MAX));
    }
}

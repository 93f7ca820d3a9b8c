//! How it was found out what connections speak, how long that took, and what became of those to unknown destinations.
//! Each worker counts for itself; the workers are added up when somebody scrapes.

use std::sync::Arc;
use std::time::Duration;

use super::counter::Counter;
use super::histogram::{Histogram, Totals, nanos};
use crate::policy::learned::Spoken;

/// Bounds of `outrigger_detection_duration_seconds`, in nanoseconds.
pub const BOUNDS: [u64; 12] = [
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    25_000_000,
    100_000_000,
    500_000_000,
    2_000_000_000,
    10_000_000_000,
];

/// How detection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    Http1,
    Http2,
    Tls,
    /// The client began something else.
    Opaque,
    /// The server spoke before its client did.
    ServerFirst,
    /// Not HTTP, where a rule asks for HTTP: denied, unless the configuration allows it.
    Undetected,
    /// Known from connections before; nothing was waited for.
    Learned,
    /// Bytes came, and not enough of them in time.
    Timeout,
    /// The client left before it was known.
    Closed,
}

/// What unknown destinations are spoken to in: `ServerFirst` is opaque as well.
const PROTOCOLS: [&str; 4] = ["http1", "http2", "tls", "opaque"];
const ACTIONS: [&str; 2] = ["allowed", "denied"];

/// Name of a listener, and number of a worker.
pub type Series = (Arc<str>, usize);

/// Of one listener and one worker.
#[derive(Debug, Default)]
pub struct Detection {
    outcomes: [Counter; Outcome::ALL.len()],
    duration: Histogram<{ BOUNDS.len() }>,
    unknown: [[Counter; ACTIONS.len()]; PROTOCOLS.len()],
}

/// Over all workers.
#[derive(Debug, Default)]
pub struct Sum {
    outcomes: [u64; Outcome::ALL.len()],
    pub duration: Totals<{ BOUNDS.len() }>,
    unknown: [[u64; ACTIONS.len()]; PROTOCOLS.len()],
}

impl Outcome {
    pub const ALL: [Self; 9] = [
        Self::Http1,
        Self::Http2,
        Self::Tls,
        Self::Opaque,
        Self::ServerFirst,
        Self::Undetected,
        Self::Learned,
        Self::Timeout,
        Self::Closed,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Tls => "tls",
            Self::Opaque => "opaque",
            Self::ServerFirst => "server_first",
            Self::Undetected => "undetected",
            Self::Learned => "learned",
            Self::Timeout => "timeout",
            Self::Closed => "closed",
        }
    }
}

impl From<Spoken> for Outcome {
    fn from(spoken: Spoken) -> Self {
        match spoken {
            Spoken::Http1 => Self::Http1,
            Spoken::Http2 => Self::Http2,
            Spoken::Tls => Self::Tls,
            Spoken::Opaque => Self::Opaque,
            Spoken::ServerFirst => Self::ServerFirst,
        }
    }
}

impl Detection {
    /// `took` is since the connection was accepted.
    pub fn ended(&self, outcome: Outcome, took: Duration) {
        if let Some(counter) = self.outcomes.get(outcome as usize) {
            counter.inc();
        }
        self.duration.observe(&BOUNDS, nanos(took));
    }

    /// A connection to a destination that the configuration does not know.
    pub fn unknown(&self, spoken: Spoken, allowed: bool) {
        let protocol = match spoken {
            Spoken::Http1 => 0,
            Spoken::Http2 => 1,
            Spoken::Tls => 2,
            Spoken::Opaque | Spoken::ServerFirst => 3,
        };
        if let Some(counter) = self.unknown.get(protocol).and_then(|actions| actions.get(usize::from(!allowed))) {
            counter.inc();
        }
    }
}

impl Sum {
    pub fn add(&mut self, one: &Detection) {
        self.outcomes.iter_mut().zip(&one.outcomes).for_each(|(sum, count)| *sum += count.get());
        one.duration.add_to(&mut self.duration);
        let sums = self.unknown.iter_mut().flatten();
        sums.zip(one.unknown.iter().flatten()).for_each(|(sum, count)| *sum += count.get());
    }

    /// What there was at all.
    pub fn outcomes(&self) -> impl Iterator<Item = (Outcome, u64)> {
        Outcome::ALL.into_iter().zip(self.outcomes).filter(|(_, count)| *count > 0)
    }

    /// Protocol, action and number of what there was at all.
    pub fn unknown(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        let each = PROTOCOLS.into_iter().zip(self.unknown).flat_map(|(protocol, counts)| {
            ACTIONS.into_iter().zip(counts).map(move |(action, count)| (protocol, action, count))
        });
        each.filter(|(.., count)| *count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_counted_by_itself_and_added_up() {
        let (one, other) = (Detection::default(), Detection::default());
        for (n, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(n, outcome as usize, "ALL is in the order of the variants");
            one.ended(outcome, Duration::from_millis(1));
        }
        other.ended(Outcome::Timeout, Duration::from_secs(60));
        one.unknown(Spoken::ServerFirst, true);
        other.unknown(Spoken::Opaque, true);
        other.unknown(Spoken::Tls, false);
        let mut sum = Sum::default();
        [one, other].iter().for_each(|each| sum.add(each));
        let twice: Vec<_> = sum.outcomes().filter(|(_, count)| *count == 2).collect();
        assert_eq!((sum.outcomes().count(), twice), (9, vec![(Outcome::Timeout, 2)]));
        assert_eq!((sum.duration.counts[4], sum.duration.above), (9, 1));
        assert_eq!(sum.unknown().collect::<Vec<_>>(), [("tls", "denied", 1), ("opaque", "allowed", 2)]);
        assert!(BOUNDS.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn what_is_spoken_is_an_outcome_of_the_same_name() {
        assert!(Spoken::ALL.into_iter().all(|spoken| Outcome::from(spoken).name() == spoken.name()));
    }
}

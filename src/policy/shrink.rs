//! Whether a set of endpoints that has become suddenly tiny is believed. A control plane that restarts, a file that is
//! written in two steps, a name server with half of its zone: all of them look like a service that has gone.

use std::time::{Duration, Instant};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guard {
    /// Percent of the endpoints that have to remain.
    pub minimum: u8,
    /// How long a smaller set is held back at least.
    pub hold: Duration,
    /// Tells, and takes it.
    pub shadow: bool,
}

/// Answers that have to say the same after the first, whatever the time.
pub const CONFIRMATIONS: u32 = 2;

/// A set that is held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    pub since: Instant,
    /// Answers that were too small, in a row.
    pub answers: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    Take,
    /// It is small, and is taken: it has been confirmed.
    Confirmed,
    Hold(Held),
}

impl Guard {
    pub fn is_tiny(&self, before: usize, after: usize) -> bool {
        before > 0 && after < before && (after == 0 || after * 100 < before * usize::from(self.minimum))
    }

    /// `held` is what the last answer came to.
    pub fn judge(&self, before: usize, after: usize, held: Option<Held>, now: Instant) -> Judgement {
        if !self.is_tiny(before, after) {
            return Judgement::Take;
        }
        let Held { since, answers } = held.unwrap_or(Held { since: now, answers: 0 });
        if answers >= CONFIRMATIONS && now.saturating_duration_since(since) >= self.hold {
            return Judgement::Confirmed;
        }
        Judgement::Hold(Held { since, answers: answers + 1 })
    }

    /// When to look again for a set that is held back.
    pub fn soon(&self) -> Duration {
        self.hold / (CONFIRMATIONS + 1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GUARD: Guard = Guard { minimum: 20, hold: Duration::from_secs(30), shadow: false };

    #[test]
    fn tiny_is_less_than_a_share_or_nothing() {
        let table =
            [(10, 2, false), (10, 1, true), (2, 1, false), (1, 0, true), (0, 0, false), (0, 9, false), (3, 9, false)];
        for (before, after, tiny) in table {
            assert_eq!(GUARD.is_tiny(before, after), tiny, "{before} -> {after}");
        }
        assert!(Guard { minimum: 0, ..GUARD }.is_tiny(10, 0) && !Guard { minimum: 0, ..GUARD }.is_tiny(10, 1));
    }

    proptest! {
        /// However often it is asked: never before the time and the answers have come, and always once they have.
        #[test]
        fn held_for_a_bounded_time_and_no_longer(pauses in prop::collection::vec(0u64..40, 1..12)) {
            let start = Instant::now();
            let (mut held, mut now) = (None, start);
            for (asked, pause) in pauses.iter().enumerate() {
                now += Duration::from_secs(*pause);
                let first = held.map_or(now, |held: Held| held.since);
                let confirmed = asked >= CONFIRMATIONS as usize && now - first >= GUARD.hold;
                match GUARD.judge(10, 1, held, now) {
                    Judgement::Hold(next) => {
                        prop_assert!(!confirmed, "held for too long");
                        held = Some(next);
                    }
                    Judgement::Confirmed => {
                        prop_assert!(confirmed, "taken too soon");
                        break;
                    }
                    Judgement::Take => prop_assert!(false, "ten to one is not taken at once"),
                }
            }
        }
    }
}

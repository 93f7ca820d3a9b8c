//! The retry budget of a service: of the requests of the last ten seconds, at most so many percent may have been retries,
//! and a few a second in any case. Without it, a service that fails is sent a multiple of what it could not bear.
//!
//! Shared by all workers. A second has a slot of its own; a request costs one addition to it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Seconds that are looked back upon.
const WINDOW: u64 = 10;
/// One more than the window, so that the slot that is being begun is none of those that count.
const SLOTS: usize = WINDOW as usize + 1;

#[derive(Debug)]
pub struct Budget {
    born: Instant,
    slots: [Slot; SLOTS],
}

/// What a budget allows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share {
    /// Of the requests.
    pub percent: f64,
    pub min_per_second: f64,
}

impl Share {
    /// Where nothing else is said.
    pub const DEFAULT: Self = Self { percent: 20.0, min_per_second: 10.0 };
}

/// One second: its number in the upper half, so that it is renewed in one step.
#[derive(Debug, Default)]
struct Slot {
    requests: AtomicU64,
    retries: AtomicU64,
}

/// Bits of a count.
const COUNT: u64 = 32;
const MASK: u64 = (1 << COUNT) - 1;

impl Budget {
    pub fn new(now: Instant) -> Self {
        Self { born: now, slots: Default::default() }
    }

    /// A request that may come to be retried.
    pub fn request(&self, now: Instant) {
        let second = self.second(now);
        count(&self.slot(second).requests, second);
    }

    /// Takes a retry out of the budget, where there is one left.
    pub fn retry(&self, share: Share, now: Instant) -> bool {
        let second = self.second(now);
        let (requests, retries) = self.seen(now);
        let allowed = requests as f64 * share.percent / 100.0 + share.min_per_second * WINDOW as f64;
        if retries as f64 + 1.0 > allowed {
            return false;
        }
        count(&self.slot(second).retries, second);
        true
    }

    /// Requests and retries of the last seconds.
    pub fn seen(&self, now: Instant) -> (u64, u64) {
        let second = self.second(now);
        let first = second.saturating_sub(WINDOW - 1);
        let sum = |of: fn(&Slot) -> &AtomicU64| {
            let counts = (first..=second).map(|second| {
                let held = of(self.slot(second)).load(Ordering::Relaxed);
                if held >> COUNT == second { held & MASK } else { 0 }
            });
            counts.sum()
        };
        (sum(|slot| &slot.requests), sum(|slot| &slot.retries))
    }

    /// From 1 on: the slots begin with 0.
    fn second(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.born).as_secs() + 1
    }

    fn slot(&self, second: u64) -> &Slot {
        // In bounds: the remainder of a division by the length.
        &self.slots[(second % SLOTS as u64) as usize]
    }
}

/// One more in this second. The first of a second begins it; one that comes from a second that is over does not count.
fn count(slot: &AtomicU64, second: u64) {
    let held = slot.load(Ordering::Relaxed);
    if held >> COUNT == second {
        slot.fetch_add(1, Ordering::Relaxed);
        return;
    }
    let begin = |held: u64| match held >> COUNT {
        known if known == second => Some(held + 1),
        known if known < second => Some((second << COUNT) + 1),
        _ => None,
    };
    let _ = slot.fetch_update(Ordering::Relaxed, Ordering::Relaxed, begin);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const SHARE: Share = Share { percent: 20.0, min_per_second: 1.0 };

    #[test]
    fn a_share_of_the_requests_and_a_few() {
        let now = Instant::now();
        let budget = Budget::new(now);
        (0..100).for_each(|_| budget.request(now));
        assert_eq!((0..100).filter(|_| budget.retry(SHARE, now)).count(), 30, "20 of 100, and ten seconds' 10");
        let later = now + Duration::from_secs(9);
        assert!(!budget.retry(SHARE, later), "still the same ten seconds");
        let over = now + Duration::from_secs(10);
        assert_eq!((0..100).filter(|_| budget.retry(SHARE, over)).count(), 10, "the requests are forgotten");
    }

    #[test]
    fn no_budget_is_no_retry() {
        let now = Instant::now();
        let budget = Budget::new(now);
        (0..1000).for_each(|_| budget.request(now));
        assert!(!budget.retry(Share { percent: 0.0, min_per_second: 0.0 }, now));
    }

    proptest! {
        /// Beside a list of what has happened.
        #[test]
        fn never_more_than_the_share(
            steps in prop::collection::vec((0u64..1500, prop::bool::weighted(0.6)), 1..400),
            percent in 0.0f64..100.0,
            min in 0.0f64..5.0,
        ) {
            let born = Instant::now();
            let budget = Budget::new(born);
            let share = Share { percent, min_per_second: min };
            let (mut now, mut requests, mut retries) = (born, Vec::new(), Vec::new());
            for (pause, request) in steps {
                now += Duration::from_millis(pause);
                let second = now.duration_since(born).as_secs();
                let recent = |all: &[u64]| all.iter().filter(|at| *at + WINDOW > second).count() as f64;
                if request {
                    budget.request(now);
                    requests.push(second);
                    continue;
                }
                let allowed = recent(&requests) * percent / 100.0 + min * WINDOW as f64;
                let may = recent(&retries) + 1.0 <= allowed;
                prop_assert_eq!(budget.retry(share, now), may);
                if may {
                    retries.push(second);
                }
            }
        }
    }
}

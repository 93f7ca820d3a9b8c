//! What one worker has learned of an endpoint for choosing among them: how soon it answers, whether it can be reached,
//! and since when it is there. It outlives the connections to it.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::policy::balance::{self, Ewma, Why};
use crate::policy::hash::hash;
use crate::policy::outcome::{Kind, Outcome};
use crate::wire::address::Address;

/// How long nothing is tried at an endpoint that could not be connected to: twice as long each time, up to a bound.
const UNREACHED: Duration = Duration::from_secs(1);
const UNREACHED_MAX: Duration = Duration::from_secs(16);

pub struct Meter {
    /// The hash of the address.
    pub id: u64,
    ewma: Cell<Ewma>,
    /// Connects that have failed since the last that did not, and when the next is due.
    unreached: Cell<(u32, Option<Instant>)>,
    /// It is being tried whether it can be reached again.
    probing: Cell<bool>,
    /// When it came, or came back; `None` where it was there before us.
    since: Cell<Option<Instant>>,
    /// As it was when it was last looked at.
    available: Cell<bool>,
    /// What the last pick of it went by.
    why: Cell<Why>,
    /// Counts the changes of what can be reached, over the endpoints of the service.
    changes: Rc<Cell<u64>>,
}

impl Meter {
    pub fn new(address: &Address, since: Option<Instant>, changes: Rc<Cell<u64>>) -> Rc<Self> {
        Rc::new(Self {
            id: hash(address.to_string().bytes()),
            ewma: Cell::default(),
            unreached: Cell::default(),
            probing: Cell::new(false),
            since: Cell::new(since),
            available: Cell::new(true),
            why: Cell::default(),
            changes,
        })
    }

    /// Hears what came of a try.
    pub fn observe(&self, outcome: &Outcome, now: Instant) {
        let failed = outcome.is_failure();
        // What ended for a reason of our own, or of the client, says nothing of the endpoint.
        if !failed && !matches!(outcome.kind, Kind::Answered { .. }) {
            return;
        }
        let mut ewma = self.ewma.get();
        ewma.observe(outcome.took, failed, now);
        self.ewma.set(ewma);
    }

    /// Another try was answered while this one had taken so long already.
    pub fn outrun(&self, took: Duration, now: Instant) {
        let mut ewma = self.ewma.get();
        ewma.observe(took, false, now);
        self.ewma.set(ewma);
    }

    /// Hears of a connect.
    pub fn connected(&self, reached: bool, now: Instant) {
        let (failures, until) = self.unreached.get();
        // Of those that fail together one counts, and then the one that tries it again.
        let is_news = if reached { until.is_some() } else { until.is_none() || self.probing.get() };
        if !is_news {
            return;
        }
        self.probing.set(false);
        self.unreached.set(match reached {
            true => (0, None),
            false => {
                let pause = UNREACHED.saturating_mul(1 << failures.min(10)).min(UNREACHED_MAX);
                (failures.saturating_add(1), Some(now + pause))
            }
        });
        if until.is_none() || reached {
            self.changes.set(self.changes.get() + 1);
        }
    }

    /// Whether it is time to connect once more to an endpoint that could not be reached. Said once.
    pub fn is_due(&self, now: Instant) -> bool {
        let (failures, until) = self.unreached.get();
        let due = until.is_some_and(|until| until <= now);
        if due {
            self.probing.set(true);
            self.unreached.set((failures, Some(now + UNREACHED_MAX)));
        }
        due
    }

    pub fn is_reachable(&self) -> bool {
        self.unreached.get().1.is_none()
    }

    /// In seconds; 0 where nothing is known.
    pub fn latency(&self, now: Instant) -> f64 {
        self.ewma.get().decayed(now)
    }

    /// For reports.
    pub fn shown_latency(&self, now: Instant) -> Option<Duration> {
        self.ewma.get().shown(now)
    }

    pub fn warmth(&self, now: Instant, slow_start: Duration) -> f64 {
        self.since.get().map_or(1.0, |since| balance::warmth(now.saturating_duration_since(since), slow_start))
    }

    /// Looks whether it is available; whoever comes back begins anew.
    pub fn look(&self, available: bool, now: Instant) {
        if available && !self.available.replace(available) {
            self.since.set(Some(now));
        }
        self.available.set(available);
    }

    pub fn chosen(&self, why: Why) {
        self.why.set(why);
    }

    /// Why it was chosen the last time.
    pub fn why(&self) -> Why {
        self.why.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_cannot_be_reached_is_asked_after_pauses() {
        let (changes, start) = (Rc::new(Cell::new(0)), Instant::now());
        let meter = Meter::new(&"10.0.0.1:80".parse().unwrap(), None, changes.clone());
        let after = |millis| start + Duration::from_millis(millis);
        meter.connected(true, start);
        assert!(meter.is_reachable() && changes.get() == 0);
        meter.connected(false, start);
        assert!(!meter.is_reachable() && !meter.is_due(after(999)) && changes.get() == 1);
        assert!(meter.is_due(after(1000)) && !meter.is_due(after(1001)), "once");
        meter.connected(false, after(1100));
        assert!(!meter.is_due(after(3099)) && meter.is_due(after(3100)), "twice as long");
        (0..50).for_each(|_| meter.connected(false, after(4000)));
        assert!(!meter.is_due(after(7999)) && meter.is_due(after(8000)), "of those that fail together one counts");
        assert_eq!(changes.get(), 1);
        meter.connected(true, after(8000));
        assert!(meter.is_reachable() && !meter.is_due(after(90_000)) && changes.get() == 2);
    }

    #[test]
    fn who_comes_back_begins_anew() {
        let (start, slow) = (Instant::now(), Duration::from_secs(10));
        let meter = Meter::new(&"10.0.0.1:80".parse().unwrap(), None, Rc::default());
        assert_eq!(meter.warmth(start, slow), 1.0, "it was there before us");
        meter.look(false, start);
        meter.look(true, start);
        meter.look(true, start + slow / 2);
        assert_eq!((meter.warmth(start, slow), meter.warmth(start + slow / 2, slow)), (0.1, 0.5));
    }
}

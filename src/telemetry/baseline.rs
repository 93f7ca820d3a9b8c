//! What every route did in the last minutes: what a reload is measured against.
//!
//! Time is kept in minutes, each with the series that had requests in it. Memory is bounded by the series that
//! `Metrics` has (`maxSeries`): about 300 bytes for each, once for the counters and once for each of up to six minutes
//! that it had requests in; 20 MB for 10,000 routes that all have, and 0.2 MB for the default of `maxSeries`.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::policy::probation::Observations;

const MINUTE: Duration = Duration::from_mins(1);

/// The one that runs, and five whole ones.
const MINUTES: usize = 6;

#[derive(Debug, Default)]
pub struct Baseline {
    /// The counters at the last tick; none before the first.
    counters: Option<Observations>,
    /// Newest last.
    minutes: VecDeque<Minute>,
}

#[derive(Debug)]
struct Minute {
    start: Instant,
    seen: Observations,
}

impl Baseline {
    /// Remembers what was counted since the last tick; the first one only sets the mark. To be called about every
    /// second; a counter that vanishes or begins anew between two ticks costs what it counted between them.
    pub fn tick(&mut self, now: Instant, counters: Observations) {
        if let Some(earlier) = &self.counters {
            let seen = counters.since(earlier);
            self.minute(now).seen.add_all(&seen);
        }
        self.counters = Some(counters);
    }

    /// Goes on from here without remembering: what was counted since the last tick is no measure of what is good, as
    /// after a reload that was undone.
    pub fn skip(&mut self, counters: Observations) {
        self.counters = Some(counters);
    }

    /// What was seen in the five to six minutes before `now`, or since the first tick, up to the last one.
    pub fn before(&self, now: Instant) -> Observations {
        let mut before = Observations::default();
        for minute in self.minutes.iter().filter(|minute| !minute.is_over(now)) {
            before.add_all(&minute.seen);
        }
        before
    }

    fn minute(&mut self, now: Instant) -> &mut Minute {
        self.minutes.retain(|minute| !minute.is_over(now));
        let current = self.minutes.pop_back();
        let (whole, current) = match current {
            Some(minute) if now.saturating_duration_since(minute.start) < MINUTE => (None, minute),
            whole => (whole, Minute { start: now, seen: Observations::default() }),
        };
        self.minutes.extend(whole);
        if self.minutes.len() >= MINUTES {
            self.minutes.pop_front();
        }
        self.minutes.push_back_mut(current)
    }
}

impl Minute {
    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.start) >= MINUTE * MINUTES as u32
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::policy::probation::Observed;

    fn counters(routes: &[(&str, u64)]) -> Observations {
        let mut counters = Observations::default();
        for (route, requests) in routes {
            counters.add(&"edge".into(), &Arc::from(*route), &Observed { requests: *requests, ..Observed::default() });
        }
        counters
    }

    fn requests(observations: &Observations, route: &str) -> u64 {
        observations.get(&"edge".into(), &route.into()).requests
    }

    #[test]
    fn the_last_five_minutes_count() {
        let start = Instant::now();
        let mut baseline = Baseline::default();
        // Ten requests a second, and none before the first tick.
        for second in 0..=900 {
            let now = start + Duration::from_secs(second);
            baseline.tick(now, counters(&[("a", 1_000_000 + 10 * second), ("idle", 7)]));
            let seen = requests(&baseline.before(now), "a");
            let full = 10 * second;
            assert!(seen >= full.min(3_000) && seen <= full.min(3_600), "{seen} after {second} s");
        }
        let before = baseline.before(start + Duration::from_secs(900));
        assert_eq!(before.len(), 1, "only what had traffic");
        assert!(baseline.before(start + Duration::from_secs(1_400)).is_empty(), "too long ago");
    }

    #[test]
    fn counters_that_vanish_or_begin_anew() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let mut baseline = Baseline::default();
        baseline.tick(at(0), counters(&[("a", 500)]));
        baseline.tick(at(1), counters(&[("a", 600), ("new", 3)]));
        baseline.tick(at(2), counters(&[("new", 4)]));
        baseline.tick(at(3), counters(&[("a", 20), ("new", 4)]));
        baseline.tick(at(4), counters(&[("a", 5), ("new", 4)]));
        let before = baseline.before(at(4));
        assert_eq!((requests(&before, "a"), requests(&before, "new")), (100 + 20, 4));
    }

    #[test]
    fn what_an_undone_reload_did_is_no_measure() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let mut baseline = Baseline::default();
        baseline.tick(at(0), counters(&[("a", 0)]));
        baseline.tick(at(1), counters(&[("a", 10)]));
        baseline.skip(counters(&[("a", 500)]));
        baseline.tick(at(2), counters(&[("a", 501)]));
        assert_eq!(requests(&baseline.before(at(2)), "a"), 11);
    }

    #[test]
    fn ten_thousand_routes_that_change_their_names_stay_bounded() {
        let start = Instant::now();
        let mut baseline = Baseline::default();
        for tick in 0..30u32 {
            // Two ticks a minute; every third, all routes are called otherwise.
            let names: Vec<String> = (0..10_000).map(|route| format!("route-{}-{route}", tick / 3)).collect();
            let routes: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), u64::from(tick) + 1)).collect();
            baseline.tick(start + tick * (MINUTE / 2), counters(&routes));
            assert!(baseline.minutes.len() <= MINUTES);
            let kept: usize = baseline.minutes.iter().map(|minute| minute.seen.len()).sum();
            assert!(kept <= 2 * MINUTES * 10_000, "{kept} after {tick} ticks");
        }
        assert!(size_of::<Observed>() <= 176, "{}", size_of::<Observed>());
    }
}

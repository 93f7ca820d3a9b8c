//! What was seen of the routes before and after a reload, and whether those that it changed got worse for callers.
//!
//! Numbers come in, a finding comes out. Who reads them (`telemetry`), and what is done about a finding (`app`), is
//! not known here. The statistics are in `judge`.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::sync::Arc;

use crate::telemetry::histogram::DURATION;

mod judge;

pub use judge::{Bounds, Regression, Rise, Share, Slowdown, Verdict, judge, judge_among};

/// Buckets of durations: one up to each bound of `DURATION`, and one above them.
pub const BUCKETS: usize = DURATION.len() + 1;

/// What one series counted, over its life or over some time.
///
/// Errors are requests that failed for the caller through a fault on the side of the server. A gRPC call may tell of
/// one by its gRPC status, by the status and the reason of its HTTP exchange, or by both, and is always a POST. So
/// POSTs are counted apart; see `failed`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Observed {
    pub requests: u64,
    /// By HTTP status and reason, of all methods but POST.
    pub errors: u64,
    /// By HTTP status and reason, of POSTs, gRPC calls among them.
    pub post_errors: u64,
    /// By gRPC status.
    pub grpc_errors: u64,
    /// Refused by this proxy, or without a route.
    pub refused: u64,
    /// How many took how long: up to the bound of `DURATION` with the same index, and beyond all bounds.
    pub durations: [u64; BUCKETS],
    /// The sum of all durations.
    pub nanos: u64,
}

/// Counts by listener and route. The route `""` is requests without a route.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observations(BTreeMap<Series, Observed>);

/// Names of a listener and a route.
type Series = (Arc<str>, Arc<str>);

/// A reload under observation: what it changed, what was seen before it, and what since.
#[derive(Debug)]
pub struct Probation {
    before: Observations,
    after: Observations,
    /// The counters when they were last looked at.
    counters: Observations,
    changed: HashSet<Arc<str>>,
    bounds: Bounds,
}

/// A regression, and where.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    pub listener: Arc<str>,
    /// `""` where the finding is about requests without a route.
    pub route: Arc<str>,
    pub measure: Measure,
    pub regression: Regression,
}

/// What a route was compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Its own past.
    Itself,
    /// The past of all of its listener: the route had no requests.
    Listener,
}

struct Case<'a> {
    series: &'a Series,
    measure: Measure,
    before: Observed,
    after: Observed,
}

impl Observed {
    /// Failed requests, of all. Of a series that has gRPC calls and other POSTs it is a lower bound, for which of
    /// them failed twice is not known; never is one counted twice.
    pub fn failed(&self) -> Share {
        self.share(self.errors.saturating_add(self.post_errors.max(self.grpc_errors)))
    }

    pub fn refused(&self) -> Share {
        self.share(self.refused)
    }

    pub fn add(&mut self, other: &Self) {
        for (own, more) in self.counts_mut().zip(other.counts()) {
            *own = own.saturating_add(*more);
        }
    }

    /// What was counted since `earlier`. Where any counter went back, a part was forgotten or began anew, and what was
    /// counted since cannot be told: nothing.
    pub fn since(&self, earlier: &Self) -> Self {
        if self.counts().zip(earlier.counts()).any(|(now, then)| now < then) {
            return Self::default();
        }
        let mut since = *self;
        for (own, less) in since.counts_mut().zip(earlier.counts()) {
            *own = own.saturating_sub(*less);
        }
        since
    }

    /// Counters are read one after the other while requests end, so that a part may be ahead of the whole.
    fn share(&self, count: u64) -> Share {
        Share { count: count.min(self.requests), of: self.requests }
    }

    fn counts(&self) -> impl Iterator<Item = &u64> {
        let Self { requests, errors, post_errors, grpc_errors, refused, durations, nanos } = self;
        [requests, errors, post_errors, grpc_errors, refused, nanos].into_iter().chain(durations)
    }

    fn counts_mut(&mut self) -> impl Iterator<Item = &mut u64> {
        let Self { requests, errors, post_errors, grpc_errors, refused, durations, nanos } = self;
        [requests, errors, post_errors, grpc_errors, refused, nanos].into_iter().chain(durations)
    }
}

impl Observations {
    pub fn add(&mut self, listener: &Arc<str>, route: &Arc<str>, seen: &Observed) {
        self.0.entry((listener.clone(), route.clone())).or_default().add(seen);
    }

    pub fn add_all(&mut self, other: &Self) {
        for (series, seen) in &other.0 {
            match self.0.entry(series.clone()) {
                Entry::Occupied(mut own) => own.get_mut().add(seen),
                Entry::Vacant(own) => {
                    own.insert(*seen);
                }
            }
        }
    }

    pub fn get(&self, listener: &Arc<str>, route: &Arc<str>) -> Observed {
        self.of(&(listener.clone(), route.clone()))
    }

    /// Series that had requests since `earlier`, and what they had. One that is new there had all of its own since;
    /// one that is gone had none.
    pub fn since(&self, earlier: &Self) -> Self {
        let since = self.0.iter().map(|(series, now)| (series.clone(), now.since(&earlier.of(series))));
        Self(since.filter(|(_, seen)| seen.requests > 0).collect())
    }

    /// How many series.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn of(&self, series: &Series) -> Observed {
        self.0.get(series).copied().unwrap_or_default()
    }

    /// By listener, all of its routes together.
    fn totals(&self) -> BTreeMap<&Arc<str>, Observed> {
        let mut totals = BTreeMap::<_, Observed>::new();
        for ((listener, _), seen) in &self.0 {
            totals.entry(listener).or_default().add(seen);
        }
        totals
    }
}

impl Probation {
    /// `before` is what was seen in the minutes before the reload, `counters` are those at the reload, `changed` names
    /// the routes that decide otherwise than before: changed, added and removed ones.
    pub fn new(
        before: Observations,
        counters: Observations,
        changed: impl IntoIterator<Item = Arc<str>>,
        bounds: Bounds,
    ) -> Self {
        Self { before, after: Observations::default(), counters, changed: changed.into_iter().collect(), bounds }
    }

    /// Forgets what was seen since the reload; counts go on from here.
    pub fn restart(&mut self, counters: Observations) {
        (self.after, self.counters) = (Observations::default(), counters);
    }

    /// Whether it has seen what a reload after another one must have seen before the other can be blamed: for a route, or
    /// without one for all.
    pub fn has_seen_enough_of(&self, route: &str) -> bool {
        let of_it = self.after.0.iter().filter(|((_, name), _)| route.is_empty() || **name == *route);
        of_it.map(|(_, seen)| seen.requests).sum::<u64>() >= judge::MIN_REQUESTS
    }

    /// The regression that hit most requests, if there is one, by the counters as they stand now. Routes that did not
    /// change are never judged.
    pub fn judge(&mut self, counters: Observations) -> Option<Finding> {
        self.after.add_all(&counters.since(&self.counters));
        self.counters = counters;
        self.finding()
    }

    fn finding(&self) -> Option<Finding> {
        let (totals_before, totals_after) = (self.before.totals(), self.after.totals());
        let routes = self.after.0.iter().filter(|(series, _)| self.is_changed(series)).map(|(series, after)| {
            let own = self.before.of(series);
            let (measure, before) = match own.requests {
                0 => (Measure::Listener, totals_before.get(&series.0).map_or(own, Observed::without_durations)),
                _ => (Measure::Itself, own),
            };
            Case { series, measure, before, after: *after }
        });
        let unrouted: Vec<Series> = self.listeners().into_iter().map(|name| (name.clone(), "".into())).collect();
        let listeners = unrouted.iter().map(|series| {
            let total = |totals: &BTreeMap<&Arc<str>, Observed>| totals.get(&series.0).map_or(0, |t| t.requests);
            Case {
                series,
                measure: Measure::Itself,
                before: self.before.of(series).unrouted_among(total(&totals_before)),
                after: self.after.of(series).unrouted_among(total(&totals_after)),
            }
        });
        let cases: Vec<Case<'_>> = routes.chain(listeners).filter(Case::can_be_judged).collect();
        let findings = cases.iter().filter_map(|case| case.finding(self.bounds, cases.len()));
        // Of equals the first by name.
        findings
            .reduce(|worst, next| if next.regression.affected() > worst.regression.affected() { next } else { worst })
    }

    fn is_changed(&self, (_, route): &Series) -> bool {
        !route.is_empty() && self.changed.contains(route)
    }

    /// Those that have a changed route, even if only before.
    fn listeners(&self) -> BTreeSet<&Arc<str>> {
        let series = self.before.0.keys().chain(self.after.0.keys());
        series.filter(|series| self.is_changed(series)).map(|(listener, _)| listener).collect()
    }
}

impl Observed {
    /// How long other routes took says nothing about a new one.
    fn without_durations(&self) -> Self {
        Self { durations: [0; BUCKETS], ..*self }
    }

    fn unrouted_among(&self, requests: u64) -> Self {
        Self { requests, refused: self.refused, ..Self::default() }
    }
}

impl Case<'_> {
    fn can_be_judged(&self) -> bool {
        judge::is_enough(&self.before, &self.after)
    }

    fn finding(&self, bounds: Bounds, among: usize) -> Option<Finding> {
        let Verdict::Regression(regression) = judge_among(&self.before, &self.after, bounds, among) else {
            return None;
        };
        let (listener, route) = self.series.clone();
        let regression = match regression {
            Regression::Refused(rise) if route.is_empty() => Regression::Unrouted(rise),
            other => other,
        };
        Some(Finding { listener, route, measure: self.measure, regression })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.route.is_empty() {
            write!(f, "route {} of ", self.route)?;
        }
        write!(f, "listener {}", self.listener)?;
        if self.measure == Measure::Listener {
            f.write_str(", new, against the listener as a whole before")?;
        }
        write!(f, ": {}", self.regression)
    }
}

#[cfg(test)]
mod tests;

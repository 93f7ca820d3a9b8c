//! The statistics of probation: is what was seen after a reload worse than before, beyond bounds and beyond chance?
//!
//! Shares are compared by Newcombe's hybrid score interval for a difference (Newcombe 1998, method 10), made of two
//! Wilson intervals: unlike the textbook interval it holds where counts are small and shares near 0, as here. A rise
//! is one where even the lower end of the interval is above the bound.
//!
//! A route is judged many times while requests come in, on three counts, and each look is a chance to be wrong. Hence
//! `Z` is larger than for a test that is made once: one look errs 1 in 30,000 times, and 200 looks over 2,000 requests
//! undo 6 of 1,000 reloads that change nothing where the bounds are 0, and none of 2,000 where they are 5 points and
//! 50 % (simulated in the tests). Where more routes are judged at once, the demand grows with their number, as by
//! Bonferroni's correction.

use std::fmt;
use std::time::Duration;

use super::Observed;
use crate::telemetry::histogram::DURATION;

/// Standard deviations, one-sided, that a single route has to be beyond its bound.
const Z: f64 = 4.0;

/// Requests after the reload before a route is judged at all.
pub(super) const MIN_REQUESTS: u64 = 20;

/// Failed or refused requests that a rise takes. One or two are never a pattern, however rare they were before.
const MIN_EVENTS: u64 = 5;

/// Requests on both sides before durations are judged: fewer have no 99th percentile.
const MIN_TIMED: u64 = 100;

/// The share of requests that take longer than the 99th percentile.
const TAIL: f64 = 0.01;

/// How much worse is still fine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bounds {
    /// Percentage points by which a share of failed, refused or unrouted requests may rise.
    pub errors: f64,
    /// Percent by which the 99th percentile of the duration may rise.
    pub p99: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Verdict {
    /// Too few requests to tell.
    TooFew,
    Fine,
    Regression(Regression),
}

/// What got worse.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Regression {
    Errors(Rise),
    Refused(Rise),
    /// Requests that find no route.
    Unrouted(Rise),
    Slow(Slowdown),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rise {
    pub before: Share,
    pub after: Share,
    /// Percentage points that were allowed.
    pub allowed: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Slowdown {
    /// The 99th percentile before, estimated.
    pub p99: Duration,
    /// Percent by which it was allowed to rise.
    pub allowed: f64,
    /// The bound of the histogram that shows it.
    pub limit: Duration,
    /// Requests that took longer than `limit`.
    pub before: Share,
    pub after: Share,
}

/// So many of so many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    pub count: u64,
    pub of: u64,
}

/// One route by itself. Where `before` has no requests, there is nothing to compare with; a caller that has a
/// measure for a new route passes that as `before`, without durations.
pub fn judge(before: &Observed, after: &Observed, bounds: Bounds) -> Verdict {
    judge_among(before, after, bounds, 1)
}

/// One of `routes` that are judged at the same time.
pub fn judge_among(before: &Observed, after: &Observed, bounds: Bounds, routes: usize) -> Verdict {
    if !is_enough(before, after) {
        return Verdict::TooFew;
    }
    let z = demanded(routes);
    let errors = || rise(before.failed(), after.failed(), bounds.errors, z).map(Regression::Errors);
    let refused = || rise(before.refused(), after.refused(), bounds.errors, z).map(Regression::Refused);
    let slow = || slowdown(before, after, bounds.p99, z).map(Regression::Slow);
    errors().or_else(refused).or_else(slow).map_or(Verdict::Fine, Verdict::Regression)
}

pub(super) fn is_enough(before: &Observed, after: &Observed) -> bool {
    before.requests > 0 && after.requests >= MIN_REQUESTS
}

/// The tail of the normal distribution falls about as exp(-z²/2), so this divides the chance of an error by `routes`.
fn demanded(routes: usize) -> f64 {
    (Z * Z + 2.0 * (routes.max(1) as f64).ln()).sqrt()
}

fn rise(before: Share, after: Share, allowed: f64, z: f64) -> Option<Rise> {
    let proven = after.count >= MIN_EVENTS && least_rise(before, after, z) > allowed / 100.0;
    proven.then_some(Rise { before, after, allowed })
}

/// The 99th percentile is only known to lie in a bucket, so this asks of the bounds around what is allowed.
///
/// Of the first bound that is not below it, whether more than 1 % are beyond: then the 99th percentile is. Bounds lie
/// a factor of 2 to 2.5 apart, so that this alone would miss what is not three to five times slower. So of the bound
/// before that one it asks whether more are beyond than if every request had become slower by what is allowed. How
/// requests lie within a bucket is a guess there, so the mean, which is exact, has to have risen by as much.
fn slowdown(before: &Observed, after: &Observed, allowed: f64, z: f64) -> Option<Slowdown> {
    if before.timed().min(after.timed()) < MIN_TIMED {
        return None;
    }
    let factor = 1.0 + allowed / 100.0;
    let p99 = before.p99()?;
    let upper = DURATION.iter().position(|bound| *bound as f64 >= p99 * factor);
    let tail = |bound: usize| {
        let (before, after) = (before.beyond(bound), after.beyond(bound));
        interval(after, z).0 > TAIL && least_rise(before, after, z) > 0.0
    };
    let whole = |bound: usize| {
        let nanos = DURATION.get(bound).map_or(0.0, |nanos| *nanos as f64);
        least_rise(before.beyond_nanos(nanos / factor), after.beyond(bound), z) > 0.0
            && after.mean() > before.mean() * factor
    };
    let lower = upper.unwrap_or(DURATION.len()).checked_sub(1);
    let bound = upper.filter(|bound| tail(*bound)).or_else(|| lower.filter(|bound| whole(*bound)))?;
    Some(Slowdown {
        p99: Duration::from_nanos(p99 as u64),
        allowed,
        limit: Duration::from_nanos(*DURATION.get(bound)?),
        before: before.beyond(bound),
        after: after.beyond(bound),
    })
}

/// The lower end of Newcombe's interval for the difference of two shares, after less before.
fn least_rise(before: Share, after: Share, z: f64) -> f64 {
    let (was, is) = (before.value(), after.value());
    let (least, most) = (interval(after, z).0, interval(before, z).1);
    is - was - (is - least).hypot(most - was)
}

/// Wilson's score interval for a share; everything is possible where nothing was seen.
fn interval(share: Share, z: f64) -> (f64, f64) {
    if share.of == 0 {
        return (0.0, 1.0);
    }
    let (p, n) = (share.value(), share.of as f64);
    let shrunk = 1.0 + z * z / n;
    let middle = (p + z * z / (2.0 * n)) / shrunk;
    let half = z * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt() / shrunk;
    ((middle - half).max(0.0), (middle + half).min(1.0))
}

impl Observed {
    fn timed(&self) -> u64 {
        self.durations.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Nanoseconds, estimated as if requests were spread evenly within a bucket, on the scale of the logarithm that the
    /// bounds are on. A tail falls off faster than that, so the estimate is rather too high. None where it lies beyond
    /// all bounds.
    fn p99(&self) -> Option<f64> {
        let rank = self.timed() as f64 * (1.0 - TAIL);
        let mut below = 0.0;
        for (bucket, (count, ceiling)) in self.durations.iter().zip(DURATION).enumerate() {
            let (count, ceiling) = (*count as f64, ceiling as f64);
            if count > 0.0 && below + count >= rank {
                return Some(ceiling * (ceiling / floor(bucket)).powf((rank - below) / count - 1.0));
            }
            below += count;
        }
        None
    }

    /// The 99th percentile, to be shown.
    pub fn p99_estimate(&self) -> Option<Duration> {
        (self.timed() > 0).then(|| self.p99().map(|nanos| Duration::from_nanos(nanos as u64)))?
    }

    /// Nanoseconds.
    fn mean(&self) -> f64 {
        self.nanos as f64 / self.timed().max(1) as f64
    }

    /// Requests that took longer than the bound with this index.
    fn beyond(&self, bound: usize) -> Share {
        let buckets = self.durations.iter().skip(bound + 1);
        Share { count: buckets.fold(0, |sum, count| sum.saturating_add(*count)), of: self.timed() }
    }

    /// Requests that took longer, estimated in the way of `p99`.
    fn beyond_nanos(&self, nanos: f64) -> Share {
        let bucket = DURATION.partition_point(|bound| (*bound as f64) < nanos);
        let (Some(ceiling), Some(inside)) = (DURATION.get(bucket), self.durations.get(bucket)) else {
            return self.beyond(bucket);
        };
        let ceiling = *ceiling as f64;
        let part = ((ceiling / nanos).ln() / (ceiling / floor(bucket)).ln()).min(1.0);
        let Share { count, of } = self.beyond(bucket);
        Share { count: count.saturating_add((*inside as f64 * part).ceil() as u64), of }
    }
}

/// Where a bucket of durations begins, in nanoseconds: the first one at half of its bound, for want of better.
fn floor(bucket: usize) -> f64 {
    let below = bucket.checked_sub(1).and_then(|below| DURATION.get(below));
    below.map_or(DURATION[0] as f64 / 2.0, |bound| *bound as f64)
}

impl Share {
    fn value(self) -> f64 {
        if self.of == 0 { 0.0 } else { self.count as f64 / self.of as f64 }
    }
}

impl Regression {
    /// Requests that failed, were refused, or were slow after the reload.
    pub fn affected(&self) -> u64 {
        match self {
            Self::Errors(rise) | Self::Refused(rise) | Self::Unrouted(rise) => rise.after.count,
            Self::Slow(slowdown) => slowdown.after.count,
        }
    }
}

impl fmt::Display for Regression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Errors(rise) => write!(f, "errors rose {rise}"),
            Self::Refused(rise) => write!(f, "refused requests rose {rise}"),
            Self::Unrouted(rise) => write!(f, "requests without a route rose {rise}"),
            Self::Slow(slow) => {
                let p99 = Duration::from_micros(slow.p99.as_micros() as u64 / 100 * 100);
                let Slowdown { allowed, limit, before, after, .. } = slow;
                write!(f, "durations rose by more than {allowed} %: {after} took longer than {limit:?}, ")?;
                write!(f, "{before} before, when the 99th percentile was about {p99:?}")
            }
        }
    }
}

impl fmt::Display for Rise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "from {} to {}, more than {} points", self.before, self.after, self.allowed)
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} % ({} of {})", self.value() * 100.0, self.count, self.of)
    }
}

#[cfg(test)]
mod tests;

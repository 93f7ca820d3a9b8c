//! Outlier detection: which endpoint is taken out of the choice for some time, by what came of the traffic to it.
//!
//! What is counted for each try is atomic, and shared by all workers; what is decided is decided under the lock of its
//! service, so that no two workers eject one endpoint too many.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::outcome::{Condition, Kind, Outcome};
use crate::error::Reason;

#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// Tells, and ejects nobody.
    pub shadow: bool,
    /// Failures in a row.
    pub consecutive: Option<u32>,
    /// Empty: what counts as one where no rule says otherwise.
    pub failures: Box<[Condition]>,
    pub success_rate: Option<SuccessRate>,
    pub latency: Option<Latency>,
    pub interval: Duration,
    pub base: Duration,
    pub max: Duration,
    /// Percent of the endpoints.
    pub max_share: u8,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SuccessRate {
    pub min_requests: u32,
    pub min_endpoints: usize,
    pub deviations: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Latency {
    pub percent: u32,
    pub above: Duration,
    pub min_requests: u32,
    pub min_endpoints: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Cause {
    Consecutive,
    SuccessRate,
    Latency,
}

/// What all workers have seen of one endpoint. A cache line of its own: it is written where others only read.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Record {
    consecutive: AtomicU32,
    requests: AtomicU32,
    failures: AtomicU32,
    timed: AtomicU32,
    micros: AtomicU64,
}

/// What was seen within one interval.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    pub requests: u32,
    pub failures: u32,
    /// Those whose time says something, and the sum of these.
    pub timed: u32,
    pub micros: u64,
}

/// The ejections of one service.
#[derive(Debug)]
pub struct Ejections<K>(HashMap<K, Ejection>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ejection {
    /// It is out now; else it was, and that is not forgotten yet.
    pub out: bool,
    pub cause: Cause,
    /// End of the last one, or when a part of it was last forgotten.
    pub until: Instant,
    /// The next one lasts for one time more.
    pub times: u32,
    /// Only noted.
    pub shadow: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Out(Duration),
    /// It was before.
    Already,
    /// Too many are.
    Held,
}

impl Cause {
    pub const ALL: [Self; 3] = [Self::Consecutive, Self::SuccessRate, Self::Latency];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Consecutive => "consecutive_failures",
            Self::SuccessRate => "success_rate",
            Self::Latency => "latency",
        }
    }
}

impl Rules {
    fn is_failure(&self, outcome: &Outcome) -> bool {
        match &*self.failures {
            [] => outcome.is_failure(),
            conditions => conditions.iter().any(|condition| condition.matches(outcome)),
        }
    }
}

impl Record {
    /// A try took so long, or longer.
    pub fn took(&self, rules: &Rules, time: Duration) {
        if rules.latency.is_some() {
            self.timed.fetch_add(1, Relaxed);
            self.micros.fetch_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX), Relaxed);
        }
    }

    /// Counts, and says whether that was one failure in a row too many. Of several that come at once, one is.
    pub fn observe(&self, rules: &Rules, outcome: &Outcome) -> bool {
        if outcome.kind == Kind::Dropped {
            return false;
        }
        let failed = rules.is_failure(outcome);
        if !failed && !matches!(outcome.kind, Kind::Answered { .. }) {
            // It never came to an answer, and that was not the endpoint's doing.
            return false;
        }
        if rules.success_rate.is_some() {
            self.requests.fetch_add(1, Relaxed);
            if failed {
                self.failures.fetch_add(1, Relaxed);
            }
        }
        // What fails fast is not fast.
        let timed_out = matches!(outcome.kind, Kind::Failed(Reason::RequestTimeout | Reason::TryTimeout));
        if timed_out || !failed {
            self.took(rules, outcome.took);
        }
        let Some(limit) = rules.consecutive else { return false };
        if failed {
            let next = |count: u32| Some(if count + 1 >= limit { 0 } else { count + 1 });
            return self.consecutive.fetch_update(Relaxed, Relaxed, next).is_ok_and(|count| count + 1 >= limit);
        }
        // Where all is well nobody writes.
        if self.consecutive.load(Relaxed) != 0 {
            self.consecutive.store(0, Relaxed);
        }
        false
    }

    /// What was seen since the last time.
    pub fn take(&self) -> Seen {
        Seen {
            requests: self.requests.swap(0, Relaxed),
            failures: self.failures.swap(0, Relaxed),
            timed: self.timed.swap(0, Relaxed),
            micros: self.micros.swap(0, Relaxed),
        }
    }

    pub fn forget(&self) {
        self.consecutive.store(0, Relaxed);
        self.take();
    }
}

impl SuccessRate {
    /// Those that succeed less often than the mean minus some standard deviations of all, the worst first.
    pub fn outliers<K: Clone>(&self, seen: &[(K, Seen)]) -> Vec<K> {
        let enough = seen.iter().filter(|(_, seen)| seen.requests >= self.min_requests.max(1));
        let rate = |seen: &Seen| 1.0 - f64::from(seen.failures.min(seen.requests)) / f64::from(seen.requests);
        let mut rates: Vec<(f64, &K)> = enough.map(|(key, seen)| (rate(seen), key)).collect();
        if rates.len() < self.min_endpoints {
            return Vec::new();
        }
        let count = rates.len() as f64;
        let mean = rates.iter().map(|(rate, _)| rate).sum::<f64>() / count;
        let variance = rates.iter().map(|(rate, _)| (rate - mean).powi(2)).sum::<f64>() / count;
        let least = mean - self.deviations * variance.sqrt();
        // Sums of fractions are not exact; where all are alike, none is an outlier.
        rates.retain(|(rate, _)| *rate < least - 1e-9);
        rates.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        rates.into_iter().map(|(_, key)| key.clone()).collect()
    }
}

impl Latency {
    /// Those whose mean is far above the median of the others, the slowest first.
    pub fn outliers<K: Clone>(&self, seen: &[(K, Seen)]) -> Vec<K> {
        let enough = seen.iter().filter(|(_, seen)| seen.timed >= self.min_requests.max(1));
        let mut means: Vec<(u64, &K)> = enough.map(|(key, seen)| (seen.micros / u64::from(seen.timed), key)).collect();
        if means.len() < self.min_endpoints.max(2) {
            return Vec::new();
        }
        means.sort_by_key(|(mean, _)| *mean);
        let middle = (means.len() - 2) / 2;
        let of_others =
            |index: usize| means.get(if middle >= index { middle + 1 } else { middle }).map(|(mean, _)| *mean);
        let slow = means.iter().enumerate().rev().filter(|(index, (mean, _))| {
            let most = of_others(*index).unwrap_or(u64::MAX).saturating_mul(self.percent.into()) / 100;
            u128::from(*mean) > self.above.as_micros() && *mean > most
        });
        slow.map(|(_, (_, key))| (*key).clone()).collect()
    }
}

impl<K> Default for Ejections<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Clone + Eq + Hash> Ejections<K> {
    /// `all` are the endpoints that there are, and whether each could be chosen but for what is decided here.
    pub fn eject<'a>(
        &mut self,
        key: &K,
        all: impl Iterator<Item = (&'a K, bool)>,
        rules: &Rules,
        cause: Cause,
        now: Instant,
    ) -> Verdict
    where
        K: 'a,
    {
        if self.is_out(key) {
            return Verdict::Already;
        }
        let (mut count, mut out, mut left) = (0, 0, 0);
        for (other, fit) in all {
            let is_out = self.is_out(other);
            count += 1;
            out += usize::from(is_out);
            left += usize::from(fit && !is_out && other != key);
        }
        if (out + 1) * 100 > count * usize::from(rules.max_share) || left == 0 {
            return Verdict::Held;
        }
        let times = self.0.get(key).map_or(0, |known| known.times) + 1;
        let lasts = rules.base.saturating_mul(times).min(rules.max);
        // Where it cannot grow any more, there is no more to forget.
        let times = if rules.base.saturating_mul(times) > rules.max { times - 1 } else { times }.max(1);
        self.0.insert(key.clone(), Ejection { out: true, cause, until: now + lasts, times, shadow: rules.shadow });
        Verdict::Out(lasts)
    }

    /// Lets those back whose time is over.
    pub fn release(&mut self, now: Instant) -> Vec<K> {
        let over = self.0.iter_mut().filter(|(_, ejection)| ejection.out && ejection.until <= now);
        over.map(|(key, ejection)| {
            ejection.out = false;
            key.clone()
        })
        .collect()
    }

    /// Forgets one ejection of each endpoint that was in for a whole interval.
    pub fn forgive(&mut self, rules: &Rules, now: Instant) {
        self.0.retain(|_, ejection| {
            if !ejection.out && now >= ejection.until + rules.interval {
                ejection.times -= 1;
                ejection.until = now;
            }
            ejection.times > 0
        });
    }

    /// When the next one is over.
    pub fn next_release(&self) -> Option<Instant> {
        self.0.values().filter(|ejection| ejection.out).map(|ejection| ejection.until).min()
    }

    pub fn is_out(&self, key: &K) -> bool {
        self.0.get(key).is_some_and(|ejection| ejection.out)
    }

    pub fn get(&self, key: &K) -> Option<Ejection> {
        self.0.get(key).copied()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Forgets those that were only noted.
    pub fn forget_shadow(&mut self) {
        self.0.retain(|_, ejection| !ejection.shadow);
    }

    /// Forgets all, and names those that were out.
    pub fn clear(&mut self) -> Vec<K> {
        self.0.drain().filter(|(_, ejection)| ejection.out).map(|(key, _)| key).collect()
    }
}

#[cfg(test)]
mod tests;

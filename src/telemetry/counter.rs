//! Numbers with one writer: the worker that owns them. Readers are scrapes.
//!
//! A relaxed load and store is one plain `mov` each; a locked add would cost some twenty cycles for a guarantee that
//! a single writer does not need. `Shared` is the exception, for numbers that several threads count.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use crate::error::Reason;
use crate::identity::Failure;
use crate::policy::retry::NotAgain;

/// Grows; written by one thread.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

/// Goes up and down; written by one thread.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

/// Grows; written by any thread.
#[derive(Debug, Default)]
pub struct Shared(AtomicU64);

/// A counter for every reason.
#[derive(Debug)]
pub struct PerReason([Counter; Reason::ALL.len()]);

impl Default for PerReason {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

/// A counter for every reason not to try again.
#[derive(Debug, Default)]
pub struct PerWhy([Counter; NotAgain::ALL.len()]);

/// A counter for every way in which a handshake can fail.
#[derive(Debug, Default)]
pub struct PerFailure([Counter; Failure::ALL.len()]);

impl Counter {
    pub fn inc(&self) {
        self.add(1);
    }

    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Gauge {
    pub fn inc(&self) {
        self.add(1);
    }

    pub fn dec(&self) {
        self.add(-1);
    }

    pub fn add(&self, delta: i64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(delta), Relaxed);
    }

    pub fn set(&self, value: i64) {
        self.0.store(value, Relaxed);
    }

    pub fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

impl Shared {
    pub fn inc(&self) {
        self.add(1);
    }

    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl PerReason {
    pub fn inc(&self, reason: Reason) {
        if let Some(counter) = self.0.get(reason as usize) {
            counter.inc();
        }
    }

    pub fn get(&self, reason: Reason) -> u64 {
        self.0.get(reason as usize).map_or(0, Counter::get)
    }

    /// What has been counted at all.
    pub fn seen(&self) -> impl Iterator<Item = (Reason, u64)> {
        Reason::ALL.iter().copied().map(|reason| (reason, self.get(reason))).filter(|(_, count)| *count > 0)
    }
}

impl PerWhy {
    pub fn inc(&self, why: NotAgain) {
        if let Some(counter) = self.0.get(why as usize) {
            counter.inc();
        }
    }

    /// What has been counted at all.
    pub fn seen(&self) -> impl Iterator<Item = (NotAgain, u64)> {
        let all = NotAgain::ALL.into_iter().zip(self.0.iter().map(Counter::get));
        all.filter(|(_, count)| *count > 0)
    }
}

impl PerFailure {
    pub fn inc(&self, failure: Failure) {
        if let Some(counter) = self.0.get(failure as usize) {
            counter.inc();
        }
    }

    /// What has been counted at all.
    pub fn seen(&self) -> impl Iterator<Item = (Failure, u64)> {
        let all = Failure::ALL.into_iter().zip(self.0.iter().map(Counter::get));
        all.filter(|(_, count)| *count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_counter() {
        let counters = PerReason::default();
        for (n, reason) in Reason::ALL.iter().copied().enumerate() {
            assert_eq!(n, reason as usize, "ALL is in the order of the variants");
            counters.inc(reason);
        }
        assert_eq!(counters.seen().count(), Reason::ALL.len());
        assert!(counters.seen().all(|(_, count)| count == 1));
    }

    #[test]
    fn a_gauge_goes_both_ways() {
        let gauge = Gauge::default();
        gauge.inc();
        gauge.add(4);
        gauge.dec();
        assert_eq!(gauge.get(), 4);
        gauge.set(-1);
        assert_eq!(gauge.get(), -1);
    }
}

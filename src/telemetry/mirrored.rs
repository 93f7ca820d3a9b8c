//! What became of copies of requests, by route and target. The workers share it: how many are on their way is a limit
//! of all of them.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::counter::Shared;
use crate::policy::differ::Report;

#[derive(Debug, Default)]
pub struct Mirrored {
    on_their_way: AtomicU32,
    results: [Shared; Ended::ALL.len()],
    /// What comparing answers has shown.
    report: Mutex<Report>,
}

/// What became of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Answered,
    /// There was no answer, or no end of it.
    Failed,
    Timeout,
    /// Not sent: as many as may be were on their way, or at the service.
    Limit,
    /// Not sent: the circuit breaker of the service was open.
    CircuitOpen,
    /// Not sent: the body is larger than what is kept.
    TooLarge,
    /// Not sent: the body of the request itself broke off, or was not needed to its end.
    Unfinished,
}

/// Names of a route and a target.
pub type Series = (Arc<str>, Arc<str>);

/// A copy on its way; counts until it is dropped.
#[derive(Debug)]
pub struct OnItsWay(Arc<Mirrored>);

impl Ended {
    pub const ALL: [Self; 7] =
        [Self::Answered, Self::Failed, Self::Timeout, Self::Limit, Self::CircuitOpen, Self::TooLarge, Self::Unfinished];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::Timeout => "timeout",
            Self::Limit => "limit",
            Self::CircuitOpen => "circuit_open",
            Self::TooLarge => "too_large",
            Self::Unfinished => "unfinished",
        }
    }
}

impl Mirrored {
    pub fn count(&self, ended: Ended) {
        if let Some(counter) = self.results.get(ended as usize) {
            counter.inc();
        }
    }

    pub fn get(&self, ended: Ended) -> u64 {
        self.results.get(ended as usize).map_or(0, Shared::get)
    }

    pub fn report(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn on_their_way(&self) -> u32 {
        self.on_their_way.load(Ordering::Relaxed)
    }

    /// A place among those on their way, if there is one; else that is counted.
    pub fn begin(self: &Arc<Self>, max: u32) -> Option<OnItsWay> {
        let more = |count: u32| (count < max).then_some(count + 1);
        match self.on_their_way.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(_) => Some(OnItsWay(self.clone())),
            Err(_) => {
                self.count(Ended::Limit);
                None
            }
        }
    }
}

impl OnItsWay {
    pub fn mirrored(&self) -> &Mirrored {
        &self.0
    }
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        self.0.on_their_way.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_may_be_are_on_their_way() {
        let mirrored = Arc::new(Mirrored::default());
        let first = mirrored.begin(2);
        let second = mirrored.begin(2);
        assert!(first.is_some() && second.is_some() && mirrored.begin(2).is_none());
        assert_eq!((mirrored.on_their_way(), mirrored.get(Ended::Limit)), (2, 1));
        drop(first);
        assert!(mirrored.begin(2).is_some(), "its place is free again");
        drop(second);
        assert_eq!(mirrored.on_their_way(), 0);
    }
}

//! Where canaries stand, by route. Written by the admin thread.

use std::sync::atomic::{AtomicU64, Ordering};

use super::counter::Shared;
use crate::policy::canary::Transition;

#[derive(Debug, Default)]
pub struct Canary {
    /// Percent of the traffic, as bits.
    share: AtomicU64,
    transitions: [Shared; Transition::ALL.len()],
}

impl Canary {
    pub fn set_share(&self, percent: f64) {
        self.share.store(percent.to_bits(), Ordering::Relaxed);
    }

    pub fn share(&self) -> f64 {
        f64::from_bits(self.share.load(Ordering::Relaxed))
    }

    pub fn count(&self, transition: Transition) {
        if let Some(counter) = self.transitions.get(transition as usize) {
            counter.inc();
        }
    }

    pub fn counts(&self) -> impl Iterator<Item = (Transition, u64)> {
        Transition::ALL.into_iter().zip(self.transitions.iter().map(Shared::get))
    }
}

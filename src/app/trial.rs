//! A reload on probation: for some time its changed routes are compared with what they were before.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::policy::probation::{Bounds, Finding, Observations, Probation};

/// Shortest time between two looks.
const PAUSE: Duration = Duration::from_millis(5);

pub struct Trial {
    probation: Probation,
    /// What it goes back to.
    pub previous: Arc<Config>,
    pub previous_generation: u64,
    pub generation: u64,
    pub routes: BTreeSet<String>,
    pub until: Instant,
    looked: Instant,
}

/// Numbers that a reload is judged by, as they were when it went live.
pub struct Before {
    pub seen: Observations,
    pub counters: Observations,
}

impl Trial {
    /// `None` where nothing is to be watched.
    pub fn new(
        before: Before,
        (previous, previous_generation): (Arc<Config>, u64),
        (config, generation): (&Config, u64),
        routes: BTreeSet<String>,
        now: Instant,
    ) -> Option<Self> {
        let runtime = &config.root().runtime;
        if routes.is_empty() || runtime.probation.is_zero() {
            return None;
        }
        let bounds = Bounds { errors: runtime.rollback.errors, p99: runtime.rollback.p99 };
        let changed = routes.iter().map(|name| Arc::from(name.as_str()));
        let probation = Probation::new(before.seen, before.counters, changed, bounds);
        let until = now + *runtime.probation;
        Some(Self { probation, previous, previous_generation, generation, routes, until, looked: now })
    }

    /// The same configuration with a new number.
    pub fn again(self, generation: u64) -> Self {
        Self { generation, ..self }
    }

    pub fn judge(&mut self, counters: &Observations, now: Instant) -> Option<Finding> {
        self.looked = now;
        self.probation.judge(counters.clone())
    }

    pub fn is_over(&self, now: Instant) -> bool {
        now >= self.until
    }

    /// When it may be looked at again.
    pub fn next(&self) -> Instant {
        self.looked + PAUSE
    }
}

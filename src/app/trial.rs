//! A reload on probation: for some time its changed routes are compared with what they were before.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::config::schema::Protocol;
use crate::policy::probation::{Bounds, Finding, Observations, Probation};
use crate::snapshot::Snapshot;

/// Shortest time between two looks, and how many times as long as a look it is.
const PAUSE: Duration = Duration::from_millis(5);
const SHARE: u32 = 10;
/// Until going back is tried again.
const RETRY: Duration = Duration::from_secs(10);

pub struct Trial {
    probation: Probation,
    /// What it goes back to. As long as it is held, the endpoints of its services stay known.
    pub previous: Arc<Snapshot>,
    pub generation: u64,
    pub routes: BTreeSet<String>,
    pub until: Instant,
    length: Duration,
    next: Instant,
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
        previous: Arc<Snapshot>,
        (config, generation): (&Config, u64),
        routes: BTreeSet<String>,
        now: Instant,
    ) -> Option<Self> {
        let runtime = &config.root().runtime;
        if runtime.probation.is_zero() {
            return None;
        }
        // Of connections that are not understood nothing is counted that could be compared.
        let counted = |name: &String| !is_tcp(config, name) && !is_tcp(&previous.config, name);
        // Nor of those that are slow on purpose.
        let routes: BTreeSet<String> =
            routes.into_iter().filter(|name| counted(name) && !is_slowed(config, name)).collect();
        if routes.is_empty() {
            return None;
        }
        let bounds = Bounds { errors: runtime.rollback.errors, p99: runtime.rollback.p99 };
        let changed = routes.iter().map(|name| Arc::from(name.as_str()));
        let probation = Probation::new(before.seen, before.counters, changed, bounds);
        let length = *runtime.probation;
        Some(Self { probation, previous, generation, routes, until: now + length, length, next: now })
    }

    /// From the beginning, as if nothing had been seen.
    pub fn restart(&mut self, counters: Observations, now: Instant) {
        self.probation.restart(counters);
        (self.until, self.next) = (now + self.length, now);
    }

    /// `now` is when `counters` began to be read.
    pub fn judge(&mut self, counters: &Observations, now: Instant) -> Option<Finding> {
        let finding = self.probation.judge(counters.clone());
        // With many series a look takes a while, and the thread has others to serve.
        self.next = now + PAUSE.max(now.elapsed() * SHARE);
        finding
    }

    /// Whether what an older one is blamed for may be the doing of this one, of which too little was seen so far.
    pub fn may_be_to_blame(&self, finding: &Finding) -> bool {
        let changed = finding.route.is_empty() || self.routes.contains(&*finding.route);
        changed && !self.probation.has_seen_enough_of(&finding.route)
    }

    /// Going back has failed: what is in the way may go away.
    pub fn wait(&mut self) {
        self.next = Instant::now() + RETRY;
    }

    pub fn is_over(&self, now: Instant) -> bool {
        now >= self.until
    }

    /// When it may be looked at again.
    pub fn next(&self) -> Instant {
        self.next
    }
}

/// Whether some of its requests are delayed, or their answers slowed.
fn is_slowed(config: &Config, name: &str) -> bool {
    let route = config.root().routes.iter().find(|route| route.name == name);
    let fault = route.and_then(|route| route.fault.as_ref());
    fault.is_some_and(|fault| fault.delay.is_some() || fault.bandwidth.is_some())
}

/// Whether the route relays connections of TCP.
fn is_tcp(config: &Config, name: &str) -> bool {
    let root = config.root();
    let Some(route) = root.routes.iter().find(|route| route.name == name) else { return false };
    let one = route.to.as_deref().into_iter();
    let targets = one.chain(route.split.iter().flatten().map(|side| side.to.as_str()));
    let services = targets.filter_map(|to| root.services.get(to.split('/').next()?));
    services.into_iter().any(|service| service.protocol == Protocol::Tcp)
}

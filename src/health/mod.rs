//! Watches over the endpoints of services, for the whole process: checks them, compares them, and lets them back that
//! were ejected. What comes of it is in their standing, which outlives snapshots; the tasks that do it follow the
//! snapshot that is live.

mod ask;
mod connect;
mod prober;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use tokio::task::AbortHandle;
use tokio::time::sleep_until;

use crate::policy::outlier::Rules;
use crate::snapshot::{Snapshot, Upstream};
use crate::worker::Shared;
use prober::Plan;

/// The tasks of each service.
#[derive(Default)]
pub struct Watch {
    services: HashMap<Arc<str>, Watched>,
}

struct Watched {
    upstream: Arc<Upstream>,
    outlier: Option<(Arc<Rules>, Task)>,
    prober: Option<(Arc<Plan>, Task)>,
}

/// Ends when it is dropped.
struct Task(AbortHandle);

impl Task {
    fn spawn(future: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(future).abort_handle())
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Watch {
    /// A snapshot is live: what it says the same as the one before goes on; what it does not say any more is forgotten.
    pub fn attach(&mut self, snapshot: &Snapshot, shared: &Arc<Shared>) {
        let mut before = std::mem::take(&mut self.services);
        for service in snapshot.services.iter().filter(|service| !service.original) {
            let (name, upstream) = (&service.name, &service.upstream);
            let known = before.remove(name);
            let same = known.as_ref().is_some_and(|known| Arc::ptr_eq(&known.upstream, upstream));
            let (outlier, prober) = known.map_or((None, None), |known| (known.outlier, known.prober));
            let outlier = match (&service.outlier, outlier) {
                (Some(rules), Some(known)) if same && known.0 == *rules => Some(known),
                (None, None) if !upstream.has_ejections() => None,
                (rules, _) => {
                    upstream.apply(name, rules.as_deref());
                    let task = |rules: &Arc<Rules>| Task::spawn(judge(name.clone(), upstream.clone(), rules.clone()));
                    rules.as_ref().map(|rules| (rules.clone(), task(rules)))
                }
            };
            let prober = match (Plan::new(service), prober) {
                (Some(plan), Some(known)) if same && *known.0 == plan => Some(known),
                (Some(plan), _) => {
                    let plan = Arc::new(plan);
                    let task = Task::spawn(prober::run(plan.clone(), upstream.clone(), shared.clone()));
                    Some((plan, task))
                }
                (None, known) => {
                    if known.is_some() {
                        upstream.forget_checks();
                    }
                    None
                }
            };
            self.services.insert(name.clone(), Watched { upstream: upstream.clone(), outlier, prober });
        }
        let counters = |service: (&Arc<str>, &Watched)| (service.0.clone(), service.1.upstream.counters().clone());
        shared.metrics.services.set(self.services.iter().map(counters).collect());
        self.look(Instant::now());
    }

    /// To be called about once a second.
    pub fn look(&self, now: Instant) {
        for (name, watched) in &self.services {
            // A request that began under an older snapshot may eject whom nobody lets back.
            if watched.outlier.is_none() && watched.upstream.has_ejections() {
                watched.upstream.apply(name, None);
            }
            watched.upstream.forget_gone();
            watched.upstream.measure(now);
        }
    }
}

/// Lets endpoints back, and compares them with each other.
async fn judge(name: Arc<str>, upstream: Arc<Upstream>, rules: Arc<Rules>) {
    let mut next = Instant::now() + rules.interval;
    loop {
        let due = upstream.next_release().map_or(next, |release| release.min(next));
        tokio::select! {
            () = sleep_until(due.into()) => {}
            // The next one to be let back may be another.
            () = upstream.ejected() => {}
        }
        let now = Instant::now();
        upstream.release(&name, now);
        if now >= next {
            upstream.compare(&name, &rules, now);
            next = now + rules.interval;
        }
    }
}

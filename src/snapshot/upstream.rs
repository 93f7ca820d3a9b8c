//! The endpoints of a service as they are now known, and what was learned of each. It outlives snapshots: a reload hands
//! it on while the source of the endpoints stays the same.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, watch};

use crate::discovery::{self, Endpoint, Kind, Spec};
use crate::policy::outlier::{Cause, Ejections, Rules, Verdict};
use crate::policy::standing::{Checked, Standing};
use crate::telemetry::endpoints::Counters;
use crate::telemetry::rfc3339::Rfc3339;
use crate::wire::address::Address;

/// Where too many endpoints are out, all of them are counted again no sooner than this.
const HELD: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub struct Upstream {
    spec: Spec,
    subscription: discovery::Subscription,
    learned: Arc<Learned>,
}

/// By address, so that it stays when the endpoints are looked for elsewhere.
#[derive(Debug, Default)]
struct Learned {
    standings: Mutex<HashMap<Address, Arc<Standing>>>,
    ejections: Mutex<Ejections<Address>>,
    /// When an ejection was last not made.
    held: Mutex<Option<Instant>>,
    /// Somebody was ejected.
    ejected: Notify,
    /// Counts the changes of standings, so that workers notice them.
    changes: AtomicU64,
    counters: Arc<Counters>,
}

impl Upstream {
    /// Needs a runtime, on which it looks for endpoints until it is dropped.
    /// What `before` has found serves until something else is; what was learned of its endpoints stays.
    pub fn new(spec: Spec, before: Option<&Self>) -> Self {
        let found = before.map_or_else(|| Arc::from([]), |before| before.endpoints().borrow().clone());
        let learned = before.map(|before| before.learned.clone()).unwrap_or_default();
        Self { subscription: discovery::subscribe(spec.clone(), found), spec, learned }
    }

    /// What all workers know of an endpoint.
    pub fn standing(&self, address: &Address) -> Arc<Standing> {
        self.standings().entry(address.clone()).or_default().clone()
    }

    /// Forgets endpoints that are gone, once nobody holds on to them.
    pub fn forget_gone(&self) {
        let there = self.endpoints().borrow().clone();
        let is_there = |address: &Address| there.binary_search_by(|endpoint| endpoint.address.cmp(address)).is_ok();
        // Whoever is ejected stays so, should it come back.
        let ejections = self.ejections();
        let is_held =
            |address: &Address, standing: &Arc<Standing>| Arc::strong_count(standing) > 1 || ejections.is_out(address);
        self.standings().retain(|address, standing| is_there(address) || is_held(address, standing));
    }

    /// To be called after a standing has changed.
    pub fn standings_changed(&self) {
        self.learned.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// How often the standing of an endpoint has changed.
    pub fn standing_changes(&self) -> u64 {
        self.learned.changes.load(Ordering::Acquire)
    }

    pub fn counters(&self) -> &Arc<Counters> {
        &self.learned.counters
    }

    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    pub fn endpoints(&self) -> watch::Receiver<Arc<[Endpoint]>> {
        self.subscription.endpoints.clone()
    }

    /// Somebody could not connect to an endpoint: perhaps there are others by now.
    pub fn look_again(&self) {
        self.subscription.look_again();
    }

    /// Waits until the endpoints have been looked for once, with or without success.
    pub async fn settled(&self) {
        let mut status = self.subscription.status.clone();
        let tried = |status: &discovery::Status| status.success.is_some() || status.last_error.is_some();
        // The channel closes behind a list that is written in the configuration: settled, too.
        let _ = status.wait_for(tried).await;
    }

    /// For `/clusters`: where the endpoints come from, and how the last look went.
    pub fn describe(&self) -> Value {
        let source = match &self.spec {
            Spec::Fixed(_) => json!({ "static": true }),
            Spec::File { path, .. } => json!({ "file": path }),
            Spec::Dns { query, .. } => match query.kind {
                Kind::Address(port) => json!({ "dns": { "name": query.name, "port": port } }),
                Kind::Srv => json!({ "dns": { "name": query.name, "type": "srv" } }),
            },
        };
        let status = self.subscription.status.borrow();
        let held = status.held.as_ref().map(
            |(held, endpoints)| json!({ "endpoints": endpoints, "since": ago(held.since), "answers": held.answers }),
        );
        json!({
            "source": source,
            "lastSuccess": status.success.map(|(_, at)| Rfc3339(at).to_string()),
            "lastError": status.last_error,
            "failures": status.failures,
            "held": held,
        })
    }

    /// Brings the levels up to date that are shown of it.
    pub fn measure(&self, now: Instant) {
        let levels = &self.learned.counters.levels;
        let endpoints = self.endpoints().borrow().clone();
        let (mut unhealthy, mut ejected, mut available) = (0, 0, 0);
        {
            let standings = self.standings();
            for endpoint in endpoints.iter() {
                let standing = standings.get(&endpoint.address);
                unhealthy += i64::from(standing.is_some_and(|standing| standing.is_unhealthy()));
                ejected += i64::from(standing.is_some_and(|standing| standing.is_ejected()));
                available += i64::from(standing.is_none_or(|standing| standing.is_available()));
            }
        }
        levels.unhealthy.set(unhealthy);
        levels.ejected.set(ejected);
        levels.available.set(available);
        levels.looked_for.set(i64::from(self.subscription.is_looking()));
        let level = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let status = self.subscription.status.borrow();
        levels.age_seconds.set(level(status.age(now).as_secs()));
        levels.failures.set(level(status.failures_total));
        levels.held.set(i64::from(status.held.is_some()));
        levels.holds.set(level(status.holds[0]));
        levels.holds_shadow.set(level(status.holds[1]));
    }

    fn standings(&self) -> MutexGuard<'_, HashMap<Address, Arc<Standing>>> {
        self.learned.standings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self) -> MutexGuard<'_, Option<Instant>> {
        self.learned.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ejections(&self) -> MutexGuard<'_, Ejections<Address>> {
        self.learned.ejections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Outlier detection. A standing is changed under the lock of the ejections, so that it is what they say.
impl Upstream {
    pub fn eject(&self, service: &str, address: &Address, rules: &Rules, cause: Cause, now: Instant) {
        let recent = |held: Instant| now.saturating_duration_since(held) < HELD;
        if cause == Cause::Consecutive && self.held().is_some_and(recent) {
            return self.learned.counters.ejections_held.inc();
        }
        let endpoints = self.endpoints().borrow().clone();
        let mut ejections = self.ejections();
        let standings = self.standings();
        let is_fit = |endpoint: &Endpoint| {
            endpoint.weight > 0 && standings.get(&endpoint.address).is_none_or(|standing| !standing.is_unhealthy())
        };
        let all = endpoints.iter().map(|endpoint| (&endpoint.address, is_fit(endpoint)));
        let counters = &self.learned.counters;
        match ejections.eject(address, all, rules, cause, now) {
            Verdict::Already => {}
            Verdict::Held => {
                counters.ejections_held.inc();
                *self.held() = Some(now);
                tracing::debug!(service, %address, cause = cause.name(), "not ejected: too many endpoints are");
            }
            Verdict::Out(lasts) => {
                counters.ejection(cause, rules.shadow).inc();
                let standing = standings.get(address).filter(|_| !rules.shadow);
                if let Some(standing) = standing {
                    standing.set_ejected(true);
                    self.standings_changed();
                }
                let enforced = standing.is_some();
                tracing::warn!(service, %address, cause = cause.name(), ?lasts, enforced, "endpoint ejected");
                self.learned.ejected.notify_one();
            }
        }
    }

    /// Somebody is ejected, so that the time of the next release may be another.
    pub fn ejected(&self) -> Notified<'_> {
        self.learned.ejected.notified()
    }

    pub fn next_release(&self) -> Option<Instant> {
        self.ejections().next_release()
    }

    /// Lets those back whose time is over.
    pub fn release(&self, service: &str, now: Instant) {
        let mut ejections = self.ejections();
        let over = ejections.release(now);
        if !over.is_empty() {
            *self.held() = None;
        }
        self.let_back(service, &over);
    }

    /// Compares the endpoints by what was seen of them since the last time.
    pub fn compare(&self, service: &str, rules: &Rules, now: Instant) {
        self.ejections().forgive(rules, now);
        let endpoints = self.endpoints().borrow().clone();
        let seen: Vec<_> = {
            let (ejections, standings) = (self.ejections(), self.standings());
            let in_play = endpoints.iter().filter_map(|endpoint| {
                let seen = standings.get(&endpoint.address)?.record.take();
                (!ejections.is_out(&endpoint.address)).then(|| (endpoint.address.clone(), seen))
            });
            in_play.collect()
        };
        let slow = rules.latency.map(|latency| latency.outliers(&seen)).unwrap_or_default();
        let failing = rules.success_rate.map(|rate| rate.outliers(&seen)).unwrap_or_default();
        for (cause, outliers) in [(Cause::SuccessRate, failing), (Cause::Latency, slow)] {
            outliers.iter().for_each(|address| self.eject(service, address, rules, cause, now));
        }
    }

    /// What ejections mean may have changed: under other rules, or under none.
    pub fn apply(&self, service: &str, rules: Option<&Rules>) {
        *self.held() = None;
        let mut ejections = self.ejections();
        let Some(rules) = rules else {
            let out = ejections.clear();
            self.let_back(service, &out);
            return self.standings().values().for_each(|standing| standing.record.forget());
        };
        if !rules.shadow {
            // It was never done, and is not to be by a reload.
            ejections.forget_shadow();
        }
        for (address, standing) in &*self.standings() {
            standing.set_ejected(ejections.is_out(address) && !rules.shadow);
        }
        self.standings_changed();
    }

    /// Whether anything is remembered that `apply` would forget.
    pub fn has_ejections(&self) -> bool {
        !self.ejections().is_empty()
    }

    /// Nobody checks any more: everybody is as good as another.
    pub fn forget_checks(&self) {
        for standing in self.standings().values() {
            *standing.checked() = Checked::default();
            standing.set_unhealthy(false);
        }
        self.standings_changed();
    }

    /// For `/clusters`: what the checks have said, where there are any.
    pub fn checked(&self, address: &Address) -> Value {
        let standing = self.standing(address);
        let checked = standing.checked();
        let shown = |at: Option<SystemTime>| at.map(|at| Rfc3339(at).to_string());
        match checked.streak.is_known() {
            false => Value::Null,
            true => json!({
                "healthy": !standing.is_unhealthy(),
                "since": shown(checked.since),
                "lastCheck": shown(checked.at),
                "lastError": checked.error,
            }),
        }
    }

    /// For `explain`.
    pub fn why_unavailable(&self, address: &Address) -> Option<String> {
        let standing = self.standings().get(address)?.clone();
        if standing.is_ejected() {
            let cause = self.ejections().get(address).map_or("", |ejection| ejection.cause.name());
            return Some(format!("ejected ({cause}), unless too few are left"));
        }
        let error = standing.checked().error.clone().unwrap_or_default();
        standing.is_unhealthy().then(|| format!("unhealthy ({error}), unless too few are healthy"))
    }

    /// For `/clusters`.
    pub fn ejection(&self, address: &Address) -> Value {
        let Some(ejection) = self.ejections().get(address).filter(|ejection| ejection.out) else { return Value::Null };
        let left = ejection.until.saturating_duration_since(Instant::now());
        json!({
            "cause": ejection.cause.name(),
            "until": Rfc3339(SystemTime::now() + left).to_string(),
            "times": ejection.times,
            "enforced": self.standing(address).is_ejected(),
        })
    }

    fn let_back(&self, service: &str, out: &[Address]) {
        let standings = self.standings();
        for address in out {
            if let Some(standing) = standings.get(address) {
                // It begins anew, by what it does from now on.
                standing.record.forget();
                if standing.is_ejected() {
                    tracing::info!(service, %address, "endpoint is back");
                }
                standing.set_ejected(false);
            }
        }
        if !out.is_empty() {
            self.standings_changed();
        }
    }
}

fn ago(at: Instant) -> String {
    let at = SystemTime::now().checked_sub(at.elapsed()).unwrap_or(SystemTime::UNIX_EPOCH);
    Rfc3339(at).to_string()
}

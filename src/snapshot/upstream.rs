//! The endpoints of a service as they are now known. It outlives snapshots: a reload hands it on while the source
//! of the endpoints stays the same.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use tokio::sync::watch;

use crate::discovery::{self, Endpoint, Spec};
use crate::policy::standing::Standing;
use crate::telemetry::rfc3339::Rfc3339;
use crate::wire::address::Address;

#[derive(Debug)]
pub struct Upstream {
    spec: Spec,
    subscription: discovery::Subscription,
    standings: Arc<Standings>,
}

/// The standing of each endpoint, by address.
#[derive(Debug, Default)]
struct Standings {
    by_address: Mutex<HashMap<Address, Arc<Standing>>>,
    /// Counts the changes, so that workers notice them.
    changes: AtomicU64,
}

impl Upstream {
    /// Needs a runtime, on which it looks for endpoints until it is dropped.
    /// What `before` has found serves until something else is; what was learned of its endpoints stays.
    pub fn new(spec: Spec, before: Option<&Self>) -> Self {
        let found = before.map_or_else(|| Arc::from([]), |before| before.endpoints().borrow().clone());
        let standings = before.map(|before| before.standings.clone()).unwrap_or_default();
        Self { subscription: discovery::subscribe(spec.clone(), found), spec, standings }
    }

    /// What all workers know of an endpoint.
    pub fn standing(&self, address: &Address) -> Arc<Standing> {
        let mut known = self.standings.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        known.entry(address.clone()).or_default().clone()
    }

    /// Forgets endpoints that are gone.
    pub fn retain_standings(&self, is_there: impl Fn(&Address) -> bool) {
        let mut known = self.standings.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|address, _| is_there(address));
    }

    /// To be called after a standing has changed.
    pub fn standings_changed(&self) {
        self.standings.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// How often the standing of an endpoint has changed.
    pub fn standing_changes(&self) -> u64 {
        self.standings.changes.load(Ordering::Acquire)
    }

    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    pub fn endpoints(&self) -> watch::Receiver<Arc<[Endpoint]>> {
        self.subscription.endpoints.clone()
    }

    /// Waits until the endpoints have been looked for once, with or without success.
    pub async fn settled(&self) {
        let mut status = self.subscription.status.clone();
        let tried = |status: &discovery::Status| status.last_success.is_some() || status.last_error.is_some();
        // The channel closes behind a list that is written in the configuration: settled, too.
        let _ = status.wait_for(tried).await;
    }

    /// For `/clusters`: where the endpoints come from, and how the last look went.
    pub fn describe(&self) -> Value {
        let source = match &self.spec {
            Spec::Fixed(_) => json!({ "static": true }),
            Spec::File { path, .. } => json!({ "file": path }),
            Spec::Dns { name, port } => json!({ "dns": { "name": name, "port": port } }),
        };
        let status = self.subscription.status.borrow();
        json!({
            "source": source,
            "lastSuccess": status.last_success.map(|at| Rfc3339(at).to_string()),
            "lastError": status.last_error,
            "failures": status.failures,
        })
    }
}

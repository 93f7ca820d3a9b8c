//! The endpoints of a service as they are now known. It outlives snapshots: a reload hands it on while the source
//! of the endpoints stays the same.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::watch;

use crate::discovery::{self, Endpoint, Spec};
use crate::telemetry::rfc3339::Rfc3339;

#[derive(Debug)]
pub struct Upstream {
    spec: Spec,
    subscription: discovery::Subscription,
}

impl Upstream {
    /// Needs a runtime, on which it looks for endpoints until it is dropped.
    /// `before` serves until something is found.
    pub fn new(spec: Spec, before: Arc<[Endpoint]>) -> Self {
        Self { subscription: discovery::subscribe(spec.clone(), before), spec }
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

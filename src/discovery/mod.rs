//! Which endpoints a service has now: written in the configuration, listed in a watched file, or looked up in DNS.
//!
//! Whatever the source, a subscription shows the last good list. An error never takes endpoints away: it shows in
//! the status and in the log.

mod dns;
mod file;
mod fixed;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::config::{ResolvedEndpoint, schema};
use crate::wire::address::Address;
use crate::wire::spiffe::SpiffeId;

/// One place where a service answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub address: Address,
    /// More addresses of it: the first that answers is used.
    pub alternatives: Vec<SocketAddr>,
    pub labels: BTreeMap<String, String>,
    pub zone: Option<Arc<str>>,
    pub region: Option<Arc<str>>,
    /// Those of a higher number stand by for those of lower ones.
    pub priority: u32,
    pub weight: u32,
    /// Whom it must prove to be, instead of what its service expects.
    pub identity: Option<SpiffeId>,
}

/// Where the endpoints of a service come from. Equal ones may share a subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spec {
    Fixed(Vec<Endpoint>),
    File { path: PathBuf, default_port: Option<u16> },
    Dns { name: String, port: u16 },
}

/// How the last attempts to find endpoints went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    pub last_success: Option<SystemTime>,
    /// Of the last attempt, where it failed.
    pub last_error: Option<String>,
    /// Attempts that failed since the last success.
    pub failures: u64,
}

/// Counts how often any list of endpoints has changed.
static VERSION: AtomicU64 = AtomicU64::new(0);

/// As long as it stays, so do the endpoints of all services.
pub fn version() -> u64 {
    VERSION.load(Ordering::Acquire)
}

/// Looks for endpoints until it is dropped.
#[derive(Debug)]
pub struct Subscription {
    /// Sorted by address, each address once; changes only when the list does.
    pub endpoints: watch::Receiver<Arc<[Endpoint]>>,
    pub status: watch::Receiver<Status>,
    task: Option<AbortHandle>,
}

/// Starts to look for endpoints, on the runtime that it is called in. Those that need no looking are there at once.
/// `before` is shown until the first answer.
pub fn subscribe(spec: Spec, before: Arc<[Endpoint]>) -> Subscription {
    let (publisher, endpoints, status) = Publisher::new(before);
    let task = match spec {
        Spec::Fixed(list) => {
            publisher.publish(list);
            None
        }
        Spec::File { path, default_port } => Some(tokio::spawn(file::run(path, default_port, publisher))),
        Spec::Dns { name, port } => match name.parse::<IpAddr>() {
            Ok(address) => {
                publisher.publish(vec![Endpoint::bare(SocketAddr::new(address, port))]);
                None
            }
            Err(_) => Some(tokio::spawn(dns::run(name, port, None, dns::PACE, publisher))),
        },
    };
    Subscription { endpoints, status, task: task.map(|task| task.abort_handle()) }
}

impl Spec {
    /// The source that a service is configured with.
    pub fn new(service: &schema::Service) -> Self {
        match &service.endpoints {
            schema::Endpoints::Static(list) => Self::Fixed(fixed::list(list, service.port)),
            schema::Endpoints::File(path) => Self::File { path: path.into(), default_port: service.port },
            // Validation has refused a name without a port.
            schema::Endpoints::Dns(dns) => {
                Self::Dns { name: dns.name.clone(), port: dns.port.or(service.port).unwrap_or_default() }
            }
        }
    }
}

impl Endpoint {
    /// An address that nothing else is known of.
    pub fn bare(address: impl Into<Address>) -> Self {
        Self {
            address: address.into(),
            alternatives: Vec::new(),
            labels: BTreeMap::new(),
            zone: None,
            region: None,
            priority: 0,
            weight: 1,
            identity: None,
        }
    }
}

impl From<ResolvedEndpoint> for Endpoint {
    fn from(endpoint: ResolvedEndpoint) -> Self {
        let ResolvedEndpoint { address, alternatives, labels, zone, region, priority, weight, identity } = endpoint;
        let (zone, region) = (zone.map(Arc::from), region.map(Arc::from));
        Self { address, alternatives, labels, zone, region, priority, weight, identity }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// The other end of a subscription.
struct Publisher {
    endpoints: watch::Sender<Arc<[Endpoint]>>,
    status: watch::Sender<Status>,
}

impl Publisher {
    fn new(before: Arc<[Endpoint]>) -> (Self, watch::Receiver<Arc<[Endpoint]>>, watch::Receiver<Status>) {
        let (endpoints, endpoints_seen) = watch::channel(before);
        let (status, status_seen) = watch::channel(Status::default());
        (Self { endpoints, status }, endpoints_seen, status_seen)
    }

    /// An attempt succeeded. Of several endpoints with one address, the first counts.
    fn publish(&self, mut list: Vec<Endpoint>) {
        list.sort_by(|one, other| one.address.cmp(&other.address));
        list.dedup_by(|one, other| one.address == other.address);
        let changed = self.endpoints.send_if_modified(|shown| {
            let changed = **shown != *list;
            if changed {
                *shown = list.into();
            }
            changed
        });
        if changed {
            VERSION.fetch_add(1, Ordering::AcqRel);
        }
        self.status.send_replace(Status { last_success: Some(SystemTime::now()), ..Status::default() });
    }

    /// An attempt failed; what is shown stays. The log hears of each new error once.
    fn fail(&self, source: &str, error: String) {
        self.status.send_modify(|status| {
            if status.last_error.as_ref() != Some(&error) {
                tracing::warn!(source, %error, "endpoints could not be refreshed: the last known stay");
            }
            status.failures += 1;
            status.last_error = Some(error);
        });
    }
}

#[cfg(test)]
mod tests;

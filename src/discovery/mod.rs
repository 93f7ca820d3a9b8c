//! Which endpoints a service has now: written in the configuration, listed in a watched file, or looked up in DNS.
//!
//! Whatever the source, a subscription shows the last good list. An error never takes endpoints away: it shows in
//! the status and in the log. A list that has become suddenly tiny is held back (`policy::shrink`).

mod dns;
mod file;
mod fixed;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

use crate::config::{ResolvedEndpoint, schema};
use crate::policy::shrink::{Guard, Held, Judgement};
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
    File { path: PathBuf, default_port: Option<u16>, guard: Option<Guard> },
    Dns { query: Query, guard: Option<Guard> },
}

/// What is asked of DNS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    pub name: String,
    pub kind: Kind,
    /// Whom to ask; `/etc/hosts` and `/etc/resolv.conf` where there are none.
    pub servers: Vec<SocketAddr>,
    /// Bounds of what the records ask for.
    pub ttl: (Duration, Duration),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A and AAAA, and the port of all.
    Address(u16),
    Srv,
}

/// How the last attempts to find endpoints went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Since when it is tried.
    pub since: Instant,
    /// When an attempt last succeeded.
    pub success: Option<(Instant, SystemTime)>,
    /// Of the last attempt, where it failed.
    pub last_error: Option<String>,
    /// Attempts that failed since the last success.
    pub failures: u64,
    /// Attempts that failed at all.
    pub failures_total: u64,
    /// A set of so many that is too small to be believed.
    pub held: Option<(Held, usize)>,
    /// Sets that were held back, or would have been in shadow mode.
    pub holds: [u64; 2],
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
    again: Arc<Notify>,
    task: Option<AbortHandle>,
}

/// Starts to look for endpoints, on the runtime that it is called in. Those that need no looking are there at once.
/// `before` is shown until the first answer.
pub fn subscribe(spec: Spec, before: Arc<[Endpoint]>) -> Subscription {
    let (mut publisher, endpoints, status) = Publisher::new(&spec, before);
    let again = Arc::new(Notify::new());
    let task = match spec {
        Spec::Fixed(list) => {
            publisher.publish(list);
            None
        }
        Spec::File { path, default_port, .. } => Some(tokio::spawn(file::run(path, default_port, publisher))),
        Spec::Dns { query, .. } => match (query.kind, query.name.parse::<IpAddr>()) {
            (Kind::Address(port), Ok(address)) => {
                publisher.publish(vec![Endpoint::bare(SocketAddr::new(address, port))]);
                None
            }
            _ => Some(tokio::spawn(dns::run(query, dns::PACE, again.clone(), publisher))),
        },
    };
    Subscription { endpoints, status, again, task: task.map(|task| task.abort_handle()) }
}

impl Subscription {
    /// Whether there is anything to look for, and so to find again.
    pub fn is_looking(&self) -> bool {
        self.task.is_some()
    }

    /// What was found may hold no more: somebody could not connect to it. Looked for soon, where that can be asked.
    pub fn look_again(&self) {
        self.again.notify_one();
    }
}

impl Spec {
    /// The source that a service is configured with.
    pub fn new(service: &schema::Service) -> Self {
        let guard = Some(service.endpoint_guard).filter(|guard| guard.mode != schema::RuleMode::Off);
        let guard = guard.map(|guard| Guard {
            minimum: guard.minimum_percent,
            hold: *guard.hold,
            shadow: guard.mode == schema::RuleMode::Shadow,
        });
        match &service.endpoints {
            schema::Endpoints::Static(list) => Self::Fixed(fixed::list(list, service.port)),
            schema::Endpoints::File(path) => Self::File { path: path.into(), default_port: service.port, guard },
            schema::Endpoints::Dns(dns) => {
                let kind = match dns.kind {
                    // Validation has refused a name without a port.
                    schema::DnsType::Address => Kind::Address(dns.port.or(service.port).unwrap_or_default()),
                    schema::DnsType::Srv => Kind::Srv,
                };
                let ttl = (*dns.min_ttl, *dns.max_ttl);
                Self::Dns { query: Query { name: dns.name.clone(), kind, servers: dns.servers.clone(), ttl }, guard }
            }
        }
    }

    /// Finds the same endpoints, whatever it does when it does not.
    pub fn finds_what(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Fixed(one), Self::Fixed(other)) => one == other,
            (Self::File { path, default_port, .. }, Self::File { path: other, default_port: port, .. }) => {
                (path, default_port) == (other, port)
            }
            (Self::Dns { query, .. }, Self::Dns { query: other, .. }) => {
                (&query.name, query.kind, &query.servers) == (&other.name, other.kind, &other.servers)
            }
            _ => false,
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

impl Status {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            success: None,
            last_error: None,
            failures: 0,
            failures_total: 0,
            held: None,
            holds: [0; 2],
        }
    }

    /// How old what is shown is.
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.success.map_or(self.since, |(at, _)| at))
    }
}

/// The other end of a subscription.
struct Publisher {
    endpoints: watch::Sender<Arc<[Endpoint]>>,
    status: watch::Sender<Status>,
    /// For the log.
    source: String,
    guard: Option<Guard>,
    held: Option<Held>,
    /// What is shown is from here, and not from whatever was asked before.
    own: bool,
}

impl Publisher {
    fn new(spec: &Spec, before: Arc<[Endpoint]>) -> (Self, watch::Receiver<Arc<[Endpoint]>>, watch::Receiver<Status>) {
        let (endpoints, endpoints_seen) = watch::channel(before);
        let (status, status_seen) = watch::channel(Status::new());
        let (source, guard) = match spec {
            Spec::Fixed(_) => (String::new(), None),
            Spec::File { path, guard, .. } => (path.display().to_string(), *guard),
            Spec::Dns { query, guard } => (query.name.clone(), *guard),
        };
        (Self { endpoints, status, source, guard, held: None, own: false }, endpoints_seen, status_seen)
    }

    /// An attempt succeeded. Where the list is held back: when it should be looked for again.
    fn publish(&mut self, list: Vec<Endpoint>) -> Option<Duration> {
        let soon = self.show(list);
        self.status.send_modify(|status| {
            status.success = Some((Instant::now(), SystemTime::now()));
            status.last_error = None;
            status.failures = 0;
        });
        soon
    }

    /// The same of an attempt that failed in part: a part of the list is as old as the last success.
    fn publish_part(&mut self, list: Vec<Endpoint>, error: String) -> Option<Duration> {
        let soon = self.show(list);
        self.fail(error);
        soon
    }

    /// Of several endpoints with one address, the first counts.
    fn show(&mut self, mut list: Vec<Endpoint>) -> Option<Duration> {
        list.sort_by(|one, other| one.address.cmp(&other.address));
        list.dedup_by(|one, other| one.address == other.address);
        let soon = self.held_back(list.len());
        if soon.is_none() {
            let changed = self.endpoints.send_if_modified(|shown| {
                let changed = **shown != *list;
                if changed {
                    *shown = list.into();
                }
                changed
            });
            self.own = true;
            if changed {
                VERSION.fetch_add(1, Ordering::AcqRel);
            }
        }
        soon
    }

    fn held_back(&mut self, after: usize) -> Option<Duration> {
        let guard = self.guard.filter(|_| self.own)?;
        let before = self.endpoints.borrow().len();
        if guard.shadow {
            if guard.is_tiny(before, after) {
                tracing::warn!(source = self.source, before, after, "so few endpoints would have been held back");
                self.status.send_modify(|status| status.holds[1] += 1);
            }
            return None;
        }
        let judgement = guard.judge(before, after, self.held, Instant::now());
        let held = match judgement {
            Judgement::Take => None,
            Judgement::Confirmed => {
                tracing::warn!(source = self.source, before, after, "so few endpoints are confirmed: they are taken");
                None
            }
            Judgement::Hold(held) => Some(held),
        };
        let new = held.is_some() && self.held.is_none();
        if new {
            tracing::warn!(source = self.source, before, after, hold = ?guard.hold, "so few endpoints are held back until they are confirmed");
        }
        self.held = held;
        self.status.send_modify(|status| {
            status.held = held.map(|held| (held, after));
            status.holds[0] += u64::from(new);
        });
        held.map(|_| guard.soon())
    }

    /// An attempt failed; what is shown stays. The log hears of each new error once.
    fn fail(&self, error: String) {
        self.status.send_modify(|status| {
            if status.last_error.as_ref() != Some(&error) {
                tracing::warn!(source = self.source, %error, "endpoints could not be refreshed: the last known stay");
            }
            status.failures += 1;
            status.failures_total += 1;
            status.last_error = Some(error);
        });
    }
}

#[cfg(test)]
mod tests;

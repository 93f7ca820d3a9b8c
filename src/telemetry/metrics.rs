//! The registry of everything that is counted, and who owns which block of it.
//!
//! A worker asks for its block when a snapshot is compiled and keeps it; a request hashes no label and takes no lock.
//! The blocks of one set of labels are summed over the workers when somebody scrapes (`expose`).

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub use super::block::{Block, GrpcSide, Method};
use super::canaries::Canary;
use super::circuits::Circuits;
pub use super::counter::{Counter, Gauge, PerFailure, PerReason, PerWhy, Shared};
use super::denials::{self, Denials};
use super::detection::{self, Detection};
use super::endpoints::Services;
use super::expose;
use super::faults::Faults;
use super::histogram::{DURATION, SIZE};
use super::limits::Limits;
use super::mirrored::{self, Mirrored};
use super::peers::Connections;
use super::registry::Registry;
use crate::policy::guard::Guard;

/// How long the series of a removed route are still shown, so that the last scrape does not miss its end.
pub(super) const GRACE: Duration = Duration::from_mins(10);

/// Time series that one set of labels is charged with: the three histograms (each with +Inf, sum and count), the
/// gauge, and room for the handful of outcomes that a route has.
const SERIES_PER_BLOCK: usize = (DURATION.len() + 3) + 2 * (SIZE.len() + 3) + 1 + 9;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// A listener in front of a service; nothing is redirected.
    Proxy,
    /// To the application of the pod.
    Inbound,
    /// From it.
    Outbound,
}

/// What a traffic series is labelled with; every value from configuration or a closed enum.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Labels {
    pub direction: Direction,
    pub listener: Arc<str>,
    pub route: Arc<str>,
    pub service: Arc<str>,
    pub subset: Arc<str>,
}

/// Process-wide registry of blocks.
#[derive(Debug)]
pub struct Metrics {
    /// Written by the admin thread and by the access log.
    pub process: ProcessCounters,
    /// By authorization.
    pub denials: Registry<denials::Series, Denials>,
    pub circuits: Circuits,
    /// Connections from clients, by listener.
    pub connections: Registry<Arc<str>, Connections>,
    /// By listener and worker.
    pub detection: Registry<detection::Series, Detection>,
    /// By route.
    pub faults: Registry<Arc<str>, Faults>,
    /// By route and target.
    pub mirrors: Registry<mirrored::Series, Mirrored>,
    /// By route.
    pub canaries: Registry<Arc<str>, Canary>,
    /// By service.
    pub limits: Registry<Arc<str>, Limits>,
    /// The endpoints of services.
    pub services: Services,
    /// Workers that do not look at the standing of the endpoints of a service, since too few are available.
    pub panics: Registry<Arc<str>, AtomicU32>,
    workers: Vec<Arc<WorkerCounters>>,
    max_series: AtomicU32,
    pub(super) overflowed: Shared,
    series: Mutex<HashMap<Labels, Series>>,
}

/// The blocks of one set of labels, by worker.
#[derive(Debug, Default)]
pub(super) struct Series {
    pub(super) blocks: Vec<Option<Arc<Block>>>,
    retired: Option<Instant>,
}

/// Our own machinery, per worker. Written by that worker only.
#[derive(Debug, Default)]
pub struct WorkerCounters {
    pub connections_accepted: Counter,
    pub connections_active: Gauge,
    /// Connections without a request in flight whose buffers have been given back.
    pub connections_parked: Gauge,
    /// `Reason::None` is an end in good order.
    pub connections_closed: PerReason,
    /// No file descriptor or memory was left for a connection.
    pub accept_errors_exhausted: Counter,
    /// The connection was gone before it was taken, and what else may fail.
    pub accept_errors_other: Counter,
    /// TLS with clients.
    pub handshakes: Counter,
    pub handshakes_resumed: Counter,
    pub handshake_failures: PerFailure,
    /// Bad requests that never reached a route.
    pub requests_malformed: PerReason,
    pub panics: Counter,
    pub upgrades_active: Gauge,
    pub tcp_connections: Counter,
    pub tcp_active: Gauge,
    /// From the client.
    pub tcp_bytes_received: Counter,
    /// To the client.
    pub tcp_bytes_sent: Counter,
    pub upstream_connects: Counter,
    pub upstream_connect_failures: PerReason,
    /// TLS with upstreams.
    pub upstream_handshakes: Counter,
    pub upstream_handshakes_resumed: Counter,
    pub upstream_handshake_failures: PerFailure,
    pub upstream_connections_active: Gauge,
    /// Connections in the pool with nothing to do.
    pub upstream_connections_idle: Gauge,
    /// Requests that found a connection ready.
    pub upstream_reused: Counter,
    /// Unsent or stale requests that were sent again for free.
    pub upstream_redo: Counter,
    /// Requests that waited for their turn or for a place at their service.
    pub requests_delayed: Counter,
    /// Tries after the first, as the retries of routes say.
    pub upstream_retries: Counter,
    /// Requests that failed and were not tried again, though their route has retries.
    pub upstream_not_again: PerWhy,
    /// Tries at the side of another.
    pub upstream_hedges: Counter,
    /// Requests that wait for a connection.
    pub pool_pending: Gauge,
}

/// What the process as a whole has to tell.
#[derive(Debug, Default)]
pub struct ProcessCounters {
    pub reloads_success: Shared,
    pub reloads_failure: Shared,
    /// Lines beyond `maxPerSecond`.
    pub access_log_limited: Shared,
    /// Lines that found the queue full, or standard output closed.
    pub access_log_dropped: Shared,
    /// Configurations that were taken back, by probation or by an operator.
    pub rollbacks: Shared,
    /// What could not be kept in the state directory.
    pub state_errors: Shared,
    /// Certificates and trust anchors that went live.
    pub rotations: Shared,
    /// Those that were refused.
    pub rotations_refused: Shared,
    certificates: Mutex<Vec<Certificate>>,
    /// In thousandths.
    source_ports: Gauge,
    config_stale: Gauge,
    probation: Gauge,
    reload_successful: Gauge,
    reload_timestamp: Gauge,
    config_generation: Gauge,
    drain_phase: AtomicU32,
    workload: Mutex<[String; 3]>,
}

/// One of our certificates; all of it is from the configuration, or from its own files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// `identity`, or the listener.
    pub of: String,
    pub file: String,
    pub not_after: SystemTime,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum DrainPhase {
    Running,
    LameDuck,
    Closing,
    Forced,
}

impl Metrics {
    pub fn new(workers: usize, max_series: u32) -> Arc<Self> {
        Arc::new(Self {
            process: ProcessCounters::default(),
            denials: Registry::default(),
            circuits: Circuits::default(),
            connections: Registry::default(),
            detection: Registry::default(),
            faults: Registry::default(),
            mirrors: Registry::default(),
            canaries: Registry::default(),
            limits: Registry::default(),
            services: Services::default(),
            panics: Registry::default(),
            workers: std::iter::repeat_with(Arc::default).take(workers.max(1)).collect(),
            max_series: AtomicU32::new(max_series),
            overflowed: Shared::default(),
            series: Mutex::default(),
        })
    }

    pub fn set_max_series(&self, max: u32) {
        self.max_series.store(max, Relaxed);
    }

    /// The block of one worker for these labels: always the same one. Called when a snapshot is compiled, not per
    /// request. Where the configured number of series would be exceeded, the block of `other` is given and counted.
    pub fn block(&self, worker: usize, labels: &Labels) -> Arc<Block> {
        let mut series = self.series();
        if let Some(known) = series.get_mut(labels) {
            return known.block(worker);
        }
        if self.is_full(&series) {
            // Series of routes that are gone make way before live ones are denied.
            series.retain(|_, series| series.retired.is_none());
        }
        if self.is_full(&series) {
            self.overflowed.inc();
            return series.entry(labels.other()).or_default().block(worker);
        }
        series.entry(labels.clone()).or_default().block(worker)
    }

    /// Panics for a worker that `new` was not told of: a fault of ours, found at start.
    pub fn worker(&self, worker: usize) -> Arc<WorkerCounters> {
        Arc::clone(&self.workers[worker])
    }

    /// After a reload: labels that are not kept go after a time of grace, unless a later reload brings them back.
    pub fn retire(&self, keep: &dyn Fn(&Labels) -> bool) {
        let now = Instant::now();
        for (labels, series) in self.series().iter_mut() {
            if keep(labels) || labels.is_other() {
                series.retired = None;
            } else {
                series.retired.get_or_insert(now);
            }
        }
    }

    /// What rules in shadow mode would have refused, by listener, route and rule.
    pub fn shadows(&self) -> BTreeMap<(Arc<str>, Arc<str>, Guard), u64> {
        let mut counts = BTreeMap::new();
        for (labels, series) in self.series().iter() {
            for block in series.blocks.iter().flatten() {
                for (guard, counter) in Guard::ALL.into_iter().zip(block.shadows()).filter(|(_, one)| one.get() > 0) {
                    *counts.entry((labels.listener.clone(), labels.route.clone(), guard)).or_default() += counter.get();
                }
            }
        }
        counts
    }

    /// OpenMetrics text.
    pub fn encode(self: &Arc<Self>) -> String {
        self.forget(Instant::now());
        expose::open_metrics(self)
    }

    /// The older Prometheus text format, for whoever does not ask for OpenMetrics (`promtool check metrics` among
    /// them): the same, but that a counter is declared by the name that its samples have.
    pub fn encode_classic(self: &Arc<Self>) -> String {
        expose::classic(&self.encode())
    }

    pub(super) fn series(&self) -> MutexGuard<'_, HashMap<Labels, Series>> {
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn workers(&self) -> &[Arc<WorkerCounters>] {
        &self.workers
    }

    fn is_full(&self, series: &HashMap<Labels, Series>) -> bool {
        (series.len() + 1) * SERIES_PER_BLOCK > self.max_series.load(Relaxed) as usize
    }

    fn forget(&self, now: Instant) {
        let over = |retired: Instant| now.saturating_duration_since(retired) >= GRACE;
        self.series().retain(|_, series| !series.retired.is_some_and(over));
    }
}

impl Series {
    fn block(&mut self, worker: usize) -> Arc<Block> {
        self.retired = None;
        if self.blocks.len() <= worker {
            self.blocks.resize(worker + 1, None);
        }
        match self.blocks.get_mut(worker) {
            Some(slot) => Arc::clone(slot.get_or_insert_default()),
            None => Arc::default(),
        }
    }
}

impl Labels {
    fn other(&self) -> Self {
        let other: Arc<str> = "other".into();
        Self { route: Arc::clone(&other), service: Arc::clone(&other), subset: other, ..self.clone() }
    }

    fn is_other(&self) -> bool {
        [&self.route, &self.service, &self.subset].into_iter().all(|value| &**value == "other")
    }
}

impl Direction {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Proxy => "proxy",
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

impl ProcessCounters {
    /// A configuration went live.
    pub fn config_accepted(&self, generation: u64, at: SystemTime) {
        self.reloads_success.inc();
        self.config_generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
        self.reloaded(true, at);
    }

    /// A configuration was refused; the one before stays.
    pub fn config_refused(&self, at: SystemTime) {
        self.reloads_failure.inc();
        self.reloaded(false, at);
    }

    /// A configuration was taken back: it counts as accepted, and is not what whoever wrote it wanted.
    pub fn undone(&self, at: SystemTime) {
        self.rollbacks.inc();
        self.reloaded(false, at);
    }

    /// The highest share of the source ports that connections to one address use.
    pub fn set_source_ports(&self, ratio: f64) {
        self.source_ports.set((ratio * 1000.0) as i64);
    }

    pub fn source_ports(&self) -> f64 {
        self.source_ports.get() as f64 / 1000.0
    }

    pub fn set_drain_phase(&self, phase: DrainPhase) {
        self.drain_phase.store(phase as u32, Relaxed);
    }

    pub fn drain_phase(&self) -> DrainPhase {
        let index = self.drain_phase.load(Relaxed) as usize;
        DrainPhase::ALL.get(index).copied().unwrap_or(DrainPhase::Running)
    }

    /// Shown once, as `outrigger_workload_info`: on every series it would only repeat what the scrape's target labels
    /// say, and cost their length times the number of series.
    pub fn set_workload(&self, name: &str, namespace: &str, version: &str) {
        let workload = [name, namespace, version].map(str::to_owned);
        *self.workload.lock().unwrap_or_else(PoisonError::into_inner) = workload;
    }

    pub(super) fn workload(&self) -> [String; 3] {
        self.workload.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_certificates(&self, certificates: Vec<Certificate>) {
        *self.certificates.lock().unwrap_or_else(PoisonError::into_inner) = certificates;
    }

    pub(super) fn certificates(&self) -> Vec<Certificate> {
        self.certificates.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is live is not what the file says.
    pub fn set_stale(&self, stale: bool) {
        self.config_stale.set(stale.into());
    }

    pub fn set_probation(&self, on: bool) {
        self.probation.set(on.into());
    }

    pub(super) fn config(&self) -> [(&'static str, &'static str, i64); 5] {
        [
            (
                "outrigger_config_last_reload_successful",
                "Whether the last configuration was accepted",
                self.reload_successful.get(),
            ),
            (
                "outrigger_config_last_reload_timestamp_seconds",
                "When a configuration was last accepted",
                self.reload_timestamp.get(),
            ),
            ("outrigger_config_stale", "Whether what is live is not what the file says", self.config_stale.get()),
            ("outrigger_config_probation", "Whether the last change is on probation", self.probation.get()),
            ("outrigger_config_generation", "Number of the active configuration", self.config_generation.get()),
        ]
    }

    fn reloaded(&self, successful: bool, at: SystemTime) {
        self.reload_successful.set(successful.into());
        if successful {
            let seconds = at.duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs());
            self.reload_timestamp.set(i64::try_from(seconds).unwrap_or(i64::MAX));
        }
    }
}

impl DrainPhase {
    pub const ALL: [Self; 4] = [Self::Running, Self::LameDuck, Self::Closing, Self::Forced];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::LameDuck => "lame_duck",
            Self::Closing => "closing",
            Self::Forced => "forced",
        }
    }
}

#[cfg(test)]
mod tests;

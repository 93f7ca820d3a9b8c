//! One event loop, and what belongs to it alone: its view of the snapshot, its connections to upstreams, its random
//! numbers, its counters. Workers share nothing on the path of a request; they get their orders by mail.

mod alarm;
mod memory;
mod traffic;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::IpAddr;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::admin::health::Health;
use crate::blast::Reservoir;
use crate::drain::{Drain, Phase};
use crate::identity::Material;
use crate::inbound::handshake::Open;
use crate::net::accept::{self, Accepted, Socket};
use crate::net::ports;
use crate::policy::authz::Ruling;
use crate::policy::learned::Learned;
use crate::snapshot::Snapshot;
use crate::telemetry::access::AccessLog;
use crate::telemetry::block::Block;
use crate::telemetry::denials::Denials;
use crate::telemetry::detection::Detection;
use crate::telemetry::metrics::{Metrics, WorkerCounters};
use crate::telemetry::peers::{Connections, Peers};
use crate::telemetry::recent::Ring;
use crate::telemetry::shadow::Examples;
use crate::telemetry::unknown::Unknown;
use crate::upstream::{Cluster, transport};
use crate::wire::address::Address;

pub use alarm::Alarm;
pub use memory::Memory;

/// Heartbeat, and the sweep of unused upstream connections.
const TICK: Duration = Duration::from_millis(500);
/// Memory for fingerprints of recent requests, in bytes.
const RESERVOIR: usize = 512 << 10;
/// Turns of the event loop that a forced end leaves to the tasks.
const TURNS_TO_END: usize = 4;

/// What all threads of the process share.
pub struct Shared {
    pub snapshot: ArcSwap<Snapshot>,
    /// Of the snapshot: read once a request, to see whether the view is still good.
    pub generation: AtomicU64,
    /// Certificates and trust anchors. A handshake takes what is there now.
    pub material: ArcSwap<Material>,
    pub drain: Drain,
    pub metrics: Arc<Metrics>,
    pub access: Arc<AccessLog>,
    pub health: Arc<Health>,
    pub alarm: Alarm,
    /// An operator has stopped all faults on purpose.
    pub faults_stopped: AtomicBool,
    pub memory: Memory,
    pub workers: Vec<Mailbox>,
}

impl Shared {
    pub fn new(
        snapshot: Snapshot,
        metrics: Arc<Metrics>,
        access: Arc<AccessLog>,
        health: Arc<Health>,
        workers: Vec<Mailbox>,
    ) -> Self {
        let generation = AtomicU64::new(snapshot.generation);
        let snapshot = ArcSwap::from_pointee(snapshot);
        Self {
            snapshot,
            generation,
            material: ArcSwap::default(),
            drain: Drain::default(),
            metrics,
            access,
            health,
            alarm: Alarm::default(),
            faults_stopped: AtomicBool::new(false),
            memory: Memory::default(),
            workers,
        }
    }
}

/// How others reach a worker.
pub struct Mailbox {
    pub sender: mpsc::Sender<Order>,
    /// Connections it serves.
    pub load: AtomicUsize,
    /// Its connections to upstreams, as of the last tick. Nobody waits for this lock on the path of a request.
    pools: Mutex<Vec<PoolReport>>,
}

/// One worker's connections to one endpoint.
#[derive(Debug, Clone)]
pub struct PoolReport {
    pub service: Arc<str>,
    pub address: Address,
    pub open: u64,
    pub idle: u64,
    pub in_flight: u64,
    pub pending: u64,
    /// How soon it has answered of late.
    pub latency: Option<Duration>,
    /// It is left alone for a while, since it could not be connected to.
    pub unreached: bool,
}

/// Longest that an answer of a worker is waited for: one that is stuck must not hold up who asks.
const ANSWER: Duration = Duration::from_secs(2);

impl Shared {
    /// The answers of those workers that answer.
    pub async fn ask<T: Send + 'static>(&self, question: impl Fn(&Worker) -> T + Clone + Send + 'static) -> Vec<T> {
        let asked: Vec<_> = self
            .workers
            .iter()
            .filter_map(|worker| {
                let (answer, answered) = oneshot::channel();
                let question = question.clone();
                let order = Order::Ask(Box::new(move |worker| drop(answer.send(question(worker)))));
                worker.sender.try_send(order).ok().map(|()| answered)
            })
            .collect();
        let mut answers = Vec::with_capacity(asked.len());
        let deadline = tokio::time::Instant::now() + ANSWER;
        for answered in asked {
            if let Ok(Ok(answer)) = tokio::time::timeout_at(deadline, answered).await {
                answers.push(answer);
            }
        }
        answers
    }
}

impl Mailbox {
    pub fn new(sender: mpsc::Sender<Order>) -> Self {
        Self { sender, load: AtomicUsize::new(0), pools: Mutex::default() }
    }

    pub fn pools(&self) -> Vec<PoolReport> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

pub enum Order {
    /// Accept on this socket until told otherwise.
    Listen(Arc<Socket>),
    /// A connection that another worker has accepted.
    Serve(std::net::TcpStream, Accepted),
    /// The phase of the drain, or the snapshot, is a new one.
    Look,
    /// Something that only the worker knows.
    Ask(Box<dyn FnOnce(&Worker) + Send>),
}

pub struct Worker {
    pub index: usize,
    pub shared: Arc<Shared>,
    pub counters: Arc<WorkerCounters>,
    pub rng: RefCell<SmallRng>,
    /// Its last exchanges.
    pub recent: RefCell<Ring>,
    /// What requests there are, for the question what another configuration would change.
    pub reservoir: RefCell<Reservoir>,
    /// Handshakes that are not done.
    pub handshakes: RefCell<Open>,
    /// What rules in shadow mode would have refused.
    pub shadow: RefCell<Examples>,
    /// Who has connected.
    pub peers: RefCell<Peers>,
    /// Those of this machine, and when they were looked at.
    pub addresses: RefCell<(Option<Instant>, HashSet<IpAddr>)>,
    /// What destinations have turned out to speak.
    pub learned: RefCell<Learned>,
    /// What applications call that the configuration does not know.
    pub unknown: RefCell<Unknown>,
    view: RefCell<Rc<View>>,
    clusters: RefCell<HashMap<Arc<str>, Rc<Cluster>>>,
    connections: RefCell<HashMap<u64, Weak<Attention>>>,
    next: Cell<u64>,
    /// Accept loops that still run.
    accepting: Cell<usize>,
    /// Something ended: perhaps the last.
    ended: Notify,
    /// What the connections were last woken for.
    seen: Cell<(Phase, u64)>,
}

/// An accept loop while it runs.
pub struct Accepting(Rc<Worker>);

impl Accepting {
    pub fn new(worker: &Rc<Worker>) -> Self {
        worker.accepting.set(worker.accepting.get() + 1);
        Self(worker.clone())
    }
}

impl Drop for Accepting {
    fn drop(&mut self) {
        self.0.accepting.set(self.0.accepting.get().saturating_sub(1));
        self.0.ended.notify_one();
    }
}

/// A snapshot with this worker's handles for it.
pub struct View {
    pub snapshot: Arc<Snapshot>,
    /// By the index of the service.
    pub clusters: Vec<Rc<Cluster>>,
    /// By the index of the listener.
    pub connections: Vec<Arc<Connections>>,
    /// By the index of the listener, of this worker.
    detection: Vec<Arc<Detection>>,
    /// By the number of the series.
    blocks: RefCell<Vec<Option<Arc<Block>>>>,
    /// By the numbers of a listener and an entry of `authorization`.
    denials: RefCell<HashMap<(usize, usize), Arc<Denials>>>,
    on_purpose: traffic::OnPurpose,
}

/// What wakes the task of a connection from outside.
#[derive(Default)]
pub struct Attention {
    waker: RefCell<Option<Waker>>,
}

impl Attention {
    /// Called on every poll of the task.
    pub fn register(&self, waker: &Waker) {
        let mut known = self.waker.borrow_mut();
        match &mut *known {
            Some(known) => known.clone_from(waker),
            None => *known = Some(waker.clone()),
        }
    }

    pub fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}

/// A connection's place among those that its worker serves.
pub struct Place {
    worker: Rc<Worker>,
    id: u64,
    pub attention: Rc<Attention>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.worker.connections.borrow_mut().remove(&self.id);
        self.worker.counters.connections_active.dec();
        if self.worker.shared.drain.phase() >= Phase::Closing {
            self.worker.ended.notify_one();
        }
    }
}

impl Worker {
    pub fn new(index: usize, shared: Arc<Shared>) -> Rc<Self> {
        let snapshot = shared.snapshot.load_full();
        let clusters = RefCell::default();
        let mut rng = SmallRng::try_from_os_rng().unwrap_or_else(|_| seeded());
        let recent = snapshot.config.root().telemetry.recent.0 / shared.workers.len().max(1) as u64;
        let view = RefCell::new(Rc::new(View::new(snapshot, index, &clusters, &shared.metrics)));
        Rc::new(Self {
            index,
            counters: shared.metrics.worker(index),
            recent: RefCell::new(Ring::new(usize::try_from(recent).unwrap_or(usize::MAX))),
            reservoir: RefCell::new(Reservoir::new(RESERVOIR, rng.random(), Instant::now())),
            handshakes: RefCell::default(),
            shadow: RefCell::default(),
            peers: RefCell::default(),
            addresses: RefCell::default(),
            learned: RefCell::default(),
            unknown: RefCell::default(),
            rng: RefCell::new(rng),
            view,
            clusters,
            connections: RefCell::default(),
            next: Cell::new(0),
            accepting: Cell::new(0),
            ended: Notify::new(),
            seen: Cell::new((Phase::Running, shared.generation.load(Ordering::Acquire))),
            shared,
        })
    }

    /// The loop: until the drain is over and nothing is left.
    pub async fn run(self: Rc<Self>, mut orders: mpsc::Receiver<Order>) {
        let mut tick = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    Some(Order::Listen(socket)) => accept::spawn(&self, socket),
                    Some(Order::Serve(stream, accepted)) => self.serve(stream, accepted),
                    Some(Order::Look) => self.look(),
                    Some(Order::Ask(question)) => question(&self),
                    None => return,
                },
                _ = tick.tick() => self.tick(),
                () = self.ended.notified() => {}
            }
            match self.shared.drain.phase() {
                Phase::Running | Phase::LameDuck => {}
                Phase::Closing if !self.is_empty() => {}
                Phase::Closing => {
                    // What another worker has sent meanwhile is still served; then nothing more can come.
                    orders.close();
                    while let Ok(order) = orders.try_recv() {
                        if let Order::Serve(stream, accepted) = order {
                            self.serve(stream, accepted);
                        }
                    }
                    if self.is_empty() {
                        return;
                    }
                }
                Phase::Forced => return self.end().await,
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.accepting.get() == 0 && self.connections.borrow().is_empty()
    }

    /// Lets the connections see that it is over, so that each tells why it ended.
    async fn end(&self) {
        self.look();
        for _ in 0..TURNS_TO_END {
            tokio::task::yield_now().await;
        }
    }

    /// The current view. A request keeps the one it began with.
    pub fn view(&self) -> Rc<View> {
        let generation = self.shared.generation.load(Ordering::Acquire);
        if self.view.borrow().snapshot.generation == generation {
            return self.view.borrow().clone();
        }
        let view =
            Rc::new(View::new(self.shared.snapshot.load_full(), self.index, &self.clusters, &self.shared.metrics));
        *self.view.borrow_mut() = view.clone();
        view
    }

    pub fn place(self: &Rc<Self>) -> Place {
        let id = self.next.get();
        self.next.set(id + 1);
        let attention = Rc::new(Attention::default());
        self.connections.borrow_mut().insert(id, Rc::downgrade(&attention));
        self.counters.connections_active.inc();
        Place { worker: self.clone(), id, attention }
    }

    /// The metrics of a series. Found once, then remembered for as long as the view lives.
    pub fn block(&self, view: &View, series: usize) -> Option<Arc<Block>> {
        let mut blocks = view.blocks.borrow_mut();
        let slot = blocks.get_mut(series)?;
        Some(slot.get_or_insert_with(|| self.shared.metrics.block(self.index, &view.snapshot.labels(series))).clone())
    }

    /// Counts what authorization said on the listener of this number.
    pub fn count_ruling(&self, view: &View, listener: usize, ruling: &Ruling) {
        let denials = |entry: usize| {
            let mut known = view.denials.borrow_mut();
            let found = known.entry((listener, entry)).or_insert_with(|| {
                let (listener, entry) = (view.snapshot.listeners.get(listener), view.snapshot.authorization.get(entry));
                let names = listener.zip(entry).map(|(listener, entry)| (&listener.name, &entry.name));
                names.map_or_else(Arc::default, |(listener, entry)| {
                    self.shared.metrics.denials.get(&(listener.clone(), entry.clone()))
                })
            });
            found.clone()
        };
        ruling.denied.iter().for_each(|entry| denials(*entry).enforced.inc());
        ruling.would.iter().for_each(|entry| denials(*entry).shadow.inc());
    }

    fn serve(self: &Rc<Self>, stream: std::net::TcpStream, accepted: Accepted) {
        match tokio::net::TcpStream::from_std(stream) {
            Ok(stream) => crate::inbound::spawn(self, stream, accepted),
            Err(error) => tracing::debug!(%error, "connection lost"),
        }
    }

    fn look(&self) {
        let view = self.view();
        self.seen.set((self.shared.drain.phase(), view.snapshot.generation));
        for attention in self.connections.borrow().values().filter_map(Weak::upgrade) {
            attention.wake();
        }
    }

    /// The log hears of it once, not from every worker.
    fn tell_panic(&self, service: &Arc<str>, panics: bool) {
        match (count_panic(&self.shared.metrics, service, panics), panics) {
            (true, true) => tracing::warn!(%service, "too few endpoints are available: requests go to all of them"),
            (true, false) => tracing::info!(%service, "enough endpoints are available: requests go to these only"),
            (false, _) => {}
        }
    }

    fn tick(&self) {
        let now = Instant::now();
        self.shared.health.pulse.beat(self.index, now);
        if self.seen.get() != (self.shared.drain.phase(), self.shared.generation.load(Ordering::Acquire)) {
            self.look();
        }
        let mut reports = Vec::new();
        for (service, cluster) in &*self.clusters.borrow() {
            if let Some(panics) = cluster.look(now) {
                self.tell_panic(service, panics);
            }
            cluster.each_pool(|pool| {
                pool.sweep(now);
                if pool.meter.is_due(now) {
                    let pool = pool.clone();
                    tokio::task::spawn_local(async move { transport::reach(&pool).await });
                }
                let (latency, unreached) = (pool.meter.shown_latency(now), !pool.meter.is_reachable());
                // Of others there is nothing to tell.
                if pool.open() > 0 || pool.pending() > 0 || latency.is_some() || unreached {
                    reports.push(PoolReport {
                        service: service.clone(),
                        address: pool.address.clone(),
                        open: pool.open() as u64,
                        idle: pool.unused() as u64,
                        in_flight: pool.in_flight(),
                        pending: pool.pending() as u64,
                        latency,
                        unreached,
                    });
                }
            });
        }
        if self.index == 0 {
            self.shared.metrics.process.set_source_ports(ports::used_ratio());
            let snapshot = &self.view().snapshot;
            self.shared.memory.look(&snapshot.config.root().runtime.memory, &self.shared.health);
            snapshot.services.iter().for_each(|service| service.tell(&self.shared.metrics));
        }
        self.clusters.borrow().values().for_each(|cluster| cluster.forget_unused());
        let sum = |value: fn(&PoolReport) -> u64| reports.iter().map(value).sum::<u64>().cast_signed();
        self.counters.upstream_connections_idle.set(sum(|report| report.idle));
        self.counters.pool_pending.set(sum(|report| report.pending));
        if let Some(mailbox) = self.shared.workers.get(self.index) {
            *mailbox.pools.lock().unwrap_or_else(PoisonError::into_inner) = reports;
        }
    }
}

/// Counts a worker for which too few endpoints of a service are available, or no longer. Returns whether it is the first,
/// or was the last.
fn count_panic(metrics: &Metrics, service: &Arc<str>, panics: bool) -> bool {
    let workers = metrics.panics.get(service);
    match panics {
        true => workers.fetch_add(1, Ordering::AcqRel) == 0,
        false => workers.fetch_sub(1, Ordering::AcqRel) == 1,
    }
}

/// Without a source of randomness in sight (a static binary in a root without `/dev`): from what the standard library
/// seeds its hash tables with.
fn seeded() -> SmallRng {
    SmallRng::seed_from_u64(RandomState::new().build_hasher().finish())
}

impl View {
    fn new(
        snapshot: Arc<Snapshot>,
        worker: usize,
        known: &RefCell<HashMap<Arc<str>, Rc<Cluster>>>,
        metrics: &Metrics,
    ) -> Self {
        let mut known = known.borrow_mut();
        let mut old = std::mem::take(&mut *known);
        let mut clusters = Vec::with_capacity(snapshot.services.len());
        for service in &snapshot.services {
            let cluster = match old.remove(&service.name) {
                Some(cluster) => {
                    cluster.attach(service);
                    cluster
                }
                None => Cluster::new(service),
            };
            if !service.original {
                // Shown from the start.
                metrics.panics.get(&service.name);
            }
            known.insert(service.name.clone(), cluster.clone());
            clusters.push(cluster);
        }
        for (name, cluster) in &old {
            if cluster.retire() {
                count_panic(metrics, name, false);
            }
        }
        let blocks = RefCell::new(vec![None; snapshot.series_count()]);
        let listeners = || snapshot.listeners.iter().map(|listener| listener.name.clone());
        let connections = listeners().map(|name| metrics.connections.get(&name)).collect();
        let detection = listeners().map(|name| metrics.detection.get(&(name, worker))).collect();
        let (denials, on_purpose) = Default::default();
        Self { snapshot, clusters, connections, detection, blocks, denials, on_purpose }
    }

    /// Where the listener of this number counts what it finds out about protocols.
    pub fn detection(&self, listener: usize) -> Option<&Arc<Detection>> {
        self.detection.get(listener)
    }
}

/// Runs futures of hyper on this thread.
#[derive(Debug, Clone, Copy)]
pub struct LocalExec;

impl<F> hyper::rt::Executor<F> for LocalExec
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

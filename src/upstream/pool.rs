//! One worker's connections to one endpoint. HTTP/1 connections are kept on a stack and lent one request at a time
//! (`h1`), HTTP/2 connections are shared up to the peer's stream limit (`h2`); a request for which there is neither
//! a connection nor room for a new one waits, in a bounded queue.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ceiling::{Entered, Place, Share};
use super::meter::Meter;
use super::queue::Queue;
use super::transport::Prepared;
use super::{h1, h2};
use crate::discovery::Endpoint;
use crate::error::Reason;
use crate::net::dial::Source;
use crate::policy::balance::Why;
use crate::policy::outcome::Outcome;
use crate::policy::standing::Standing;
use crate::snapshot::Transport;
use crate::wire::address::Address;

/// What a checkout must keep to.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections of this worker.
    pub max: usize,
    pub max_pending: usize,
    pub max_requests: u64,
    pub idle_timeout: Duration,
    pub connect_timeout: Duration,
    pub preserve_case: bool,
    /// Where the upstream turns out not to speak HTTP/2, HTTP/1.1 will do.
    pub http1_will_do: bool,
}

pub struct Pool {
    pub address: Address,
    /// What all workers know of the endpoint.
    pub standing: Arc<Standing>,
    /// What this worker has learned of it.
    pub meter: Rc<Meter>,
    /// More addresses of the endpoint.
    pub alternatives: Box<[SocketAddr]>,
    /// The one of them all that was first to answer the last time, and when.
    pub(super) winner: Cell<Option<(SocketAddr, Instant)>>,
    /// Connections are made from the address of the client.
    pub source: Option<Source>,
    pub transport: Transport,
    pub(super) prepared: Rc<Prepared>,
    /// Of all connections of the service.
    share: Rc<Share>,
    pub(super) idle: RefCell<Vec<h1::Idle>>,
    pub(super) shared: RefCell<Vec<Rc<h2::Shared>>>,
    /// An HTTP/2 connection is being made: one for all who wait.
    pub(super) connecting: Cell<bool>,
    /// Connections, those being made included.
    pub(super) open: Cell<usize>,
    /// For an HTTP/1 connection, and for a stream of HTTP/2.
    pub(super) waiting_h1: Queue,
    pub(super) waiting_h2: Queue,
    /// For a place among the connections of the service; an unused one of HTTP/1 will do as well.
    pub(super) in_line: Queue,
    lined: Cell<usize>,
    in_flight: Cell<u64>,
    retired: Cell<bool>,
    /// When the peer was last seen not to speak HTTP/2.
    no_http2: Cell<Option<Instant>>,
    /// The peer was offered a connection of bytes the last time, and takes HTTP alone.
    pub wants_http: Cell<bool>,
    /// After how long unused the peer closes, as far as was seen, and when that was.
    learned: Cell<Option<(Duration, Instant)>>,
}

/// What was learned of a peer holds for this long: it may have been configured anew.
pub(super) const FORGET: Duration = Duration::from_secs(120);
/// Closes of younger connections are not about being unused.
const LEARN_MIN: Duration = Duration::from_millis(500);

impl Pool {
    pub fn new(
        endpoint: &Endpoint,
        known: (Arc<Standing>, Rc<Meter>),
        transport: Transport,
        of_service: (Rc<Prepared>, Rc<Share>),
    ) -> Rc<Self> {
        Self::from(endpoint, known, None, transport, of_service)
    }

    /// One whose connections are made from the address of a client.
    pub fn of_client(address: SocketAddr, source: Option<Source>, share: Rc<Share>) -> Rc<Self> {
        let endpoint = Endpoint::bare(address);
        let meter = Meter::new(&endpoint.address, None, Rc::default());
        Self::from(&endpoint, (Arc::default(), meter), source, Transport::Plain, (Rc::default(), share))
    }

    fn from(
        endpoint: &Endpoint,
        (standing, meter): (Arc<Standing>, Rc<Meter>),
        source: Option<Source>,
        transport: Transport,
        (prepared, share): (Rc<Prepared>, Rc<Share>),
    ) -> Rc<Self> {
        Rc::new(Self {
            address: endpoint.address.clone(),
            standing,
            meter,
            alternatives: endpoint.alternatives.as_slice().into(),
            winner: Cell::new(None),
            source,
            transport,
            prepared,
            share,
            idle: RefCell::default(),
            shared: RefCell::default(),
            connecting: Cell::new(false),
            open: Cell::new(0),
            waiting_h1: Queue::default(),
            waiting_h2: Queue::default(),
            in_line: Queue::default(),
            lined: Cell::new(0),
            in_flight: Cell::new(0),
            retired: Cell::new(false),
            no_http2: Cell::new(None),
            wants_http: Cell::new(false),
            learned: Cell::new(None),
        })
    }

    /// Its connections are in TLS.
    pub fn is_secure(&self) -> bool {
        self.transport != Transport::Plain
    }

    /// It may be chosen.
    pub fn is_available(&self) -> bool {
        self.standing.is_available() && self.meter.is_reachable()
    }

    /// What the last pick of it went by.
    pub fn why(&self) -> Why {
        self.meter.why()
    }

    /// Hears what came of a try.
    pub fn observe(&self, outcome: &Outcome, now: Instant) {
        self.meter.observe(outcome, now);
    }

    /// A place among the connections of the service, for one more, or one in line.
    pub(super) fn enter(&self) -> Result<Entered, Reason> {
        self.share.enter(self.id())
    }

    /// The same, with the wait.
    pub async fn place(&self) -> Result<Place, Reason> {
        match self.enter()? {
            Entered::Place(place) => Ok(place),
            Entered::Line(mut line) => {
                let _lined = Lined::new(self);
                line.place(Instant::now()).await
            }
        }
    }

    /// Whether a connection that nobody uses any more is to be closed, for the sake of others of the service. `is_wanted`:
    /// somebody waits for it here.
    pub(super) fn recalls(&self, is_wanted: bool) -> bool {
        self.share.recalls(self.id(), is_wanted)
    }

    /// How long a connection may wait for its place.
    pub(super) fn patience(&self) -> Duration {
        self.share.patience()
    }

    /// One more is unused now, and stays.
    pub(super) fn kept(&self) {
        self.share.kept();
    }

    /// Whether somebody stands in line for a place.
    pub fn is_in_line(&self) -> bool {
        self.lined.get() > 0
    }

    /// Unlike that of any other pool of the process.
    fn id(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    pub fn in_flight(&self) -> u64 {
        self.in_flight.get()
    }

    pub fn open(&self) -> usize {
        self.open.get()
    }

    pub fn unused(&self) -> usize {
        self.idle.borrow().len()
    }

    pub fn pending(&self) -> usize {
        self.waiting_h1.len() + self.waiting_h2.len() + self.in_line.len()
    }

    /// Nothing is open, and nobody waits.
    pub fn is_unused(&self) -> bool {
        self.open() == 0 && self.pending() == 0 && self.in_flight() == 0
    }

    pub fn is_retired(&self) -> bool {
        self.retired.get()
    }

    /// The endpoint is gone: unused connections close now, the others when they become unused.
    pub fn retire(&self) {
        self.retired.set(true);
        self.idle.borrow_mut().drain(..).for_each(h1::Idle::discard);
        self.shared.borrow_mut().clear();
    }

    /// Closes what was unused for too long. Called about once a second.
    pub fn sweep(&self, now: Instant) {
        let over = |idle: &mut h1::Idle| idle.is_closed() || now >= idle.expires;
        self.idle.borrow_mut().extract_if(.., over).for_each(h1::Idle::discard);
        self.shared.borrow_mut().retain(|shared| shared.keep(now, self.trusted_idle(shared.idle_timeout)));
        if self.learned.get().is_some_and(|(_, seen)| now.duration_since(seen) > FORGET) {
            self.learned.set(None);
        }
        if self.no_http2.get().is_some_and(|seen| now.duration_since(seen) > FORGET) {
            self.no_http2.set(None);
        }
    }

    pub fn refuses_http2(&self) {
        self.no_http2.set(Some(Instant::now()));
    }

    pub fn speaks_http2(&self) -> bool {
        self.no_http2.get().is_none()
    }

    /// How long a connection may stay unused and still be trusted: below what the peer was seen to allow.
    pub(super) fn trusted_idle(&self, configured: Duration) -> Duration {
        match self.learned.get() {
            Some((learned, _)) => configured.min(learned * 3 / 4),
            None => configured,
        }
    }

    /// The peer closed a connection that was unused for `age`, or said that it will.
    pub(super) fn learn(&self, age: Duration, now: Instant) {
        if age < LEARN_MIN {
            return;
        }
        let age = self.learned.get().map_or(age, |(known, _)| known.min(age));
        self.learned.set(Some((age, now)));
    }
}

/// Somebody stands in line for a place among the connections of the service.
pub(super) struct Lined<'p>(&'p Pool);

impl<'p> Lined<'p> {
    pub fn new(pool: &'p Pool) -> Self {
        pool.lined.set(pool.lined.get() + 1);
        Self(pool)
    }
}

impl Drop for Lined<'_> {
    fn drop(&mut self) {
        self.0.lined.set(self.0.lined.get().saturating_sub(1));
    }
}

/// Counts a connection while it is open.
pub struct Open(Rc<Pool>);

impl Open {
    pub fn new(pool: &Rc<Pool>) -> Self {
        pool.open.set(pool.open.get() + 1);
        Self(pool.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get().saturating_sub(1));
        self.0.waiting_h1.wake_one();
        self.0.waiting_h2.wake_one();
    }
}

/// Counts an exchange on an endpoint, for the load balancer, until its end.
pub struct Load(Rc<Pool>);

impl Load {
    pub fn new(pool: &Rc<Pool>) -> Self {
        pool.in_flight.set(pool.in_flight.get() + 1);
        Self(pool.clone())
    }

    pub fn pool(&self) -> &Rc<Pool> {
        &self.0
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get().saturating_sub(1));
    }
}

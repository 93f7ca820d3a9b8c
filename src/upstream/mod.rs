//! Services as one worker sees them: which endpoints it may choose, and its own connections to each.
//! Nothing here is shared with another worker.

pub mod ceiling;
pub mod gate;
pub mod h1;
pub mod h2;
mod known;
pub mod learn;
mod meter;
mod parts;
pub mod pool;
mod queue;
pub mod transport;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use rand::Rng;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::discovery::Endpoint;
use crate::net::clock;
use crate::net::dial::Source;
use crate::net::own;
use crate::policy::balance::{Settings, Why};
use crate::snapshot::{Service, Transport, Upstream};
use crate::wire::address::Address;
use ceiling::Share;
use known::Known;
use meter::Meter;
use parts::{Labels, Part, Scene};
use pool::Pool;
use transport::Prepared;

/// Original destinations that a worker keeps connections to.
const ORIGINALS: usize = 4096;

/// An original destination, and the client where its address is kept.
type Original = (SocketAddr, Option<IpAddr>);

/// What a pick has to go by.
#[derive(Debug, Clone, Copy, Default)]
pub struct Want<'a> {
    /// The hash of the request's key, where it has one.
    pub key: Option<u64>,
    /// Endpoints that the request has been to: another, if there is one.
    pub tried: &'a [Address],
}

/// A service. It lives as long as its name is configured, so that reloads keep its connections.
pub struct Cluster {
    endpoints: RefCell<watch::Receiver<Arc<[Endpoint]>>>,
    upstream: RefCell<Arc<Upstream>>,
    transport: RefCell<Transport>,
    beside: Cell<bool>,
    prepared: RefCell<Rc<Prepared>>,
    share: Rc<Share>,
    /// Closes unused connections where there may be too many.
    room: RefCell<JoinSet<()>>,
    known: RefCell<Known>,
    settings: RefCell<Settings>,
    /// All endpoints, then those of each subset.
    parts: RefCell<Vec<Part>>,
    originals: RefCell<HashMap<Original, Rc<Pool>>>,
    /// Whether it was last told that standing is not looked at.
    panicking: Cell<bool>,
}

impl Cluster {
    pub fn new(service: &Service) -> Rc<Self> {
        let cluster = Rc::new(Self {
            endpoints: RefCell::new(service.upstream.endpoints()),
            upstream: RefCell::new(service.upstream.clone()),
            transport: RefCell::new(service.transport.clone()),
            beside: Cell::new(service.beside),
            prepared: RefCell::default(),
            share: Rc::default(),
            room: RefCell::default(),
            known: RefCell::default(),
            settings: RefCell::default(),
            parts: RefCell::default(),
            originals: RefCell::default(),
            panicking: Cell::new(false),
        });
        cluster.attach(service);
        cluster
    }

    /// Takes over what a new snapshot says of the service.
    pub fn attach(self: &Rc<Self>, service: &Service) {
        self.share.attach(&service.ceiling);
        let mut room = self.room.borrow_mut();
        if service.ceiling.max().is_some() && room.is_empty() {
            room.spawn_local(self.share.clone().make_room(Rc::downgrade(self)));
        }
        drop(room);
        if !Arc::ptr_eq(&self.upstream.borrow(), &service.upstream) {
            *self.endpoints.borrow_mut() = service.upstream.endpoints();
            *self.upstream.borrow_mut() = service.upstream.clone();
        }
        let secured = *self.transport.borrow() != service.transport;
        if secured {
            *self.transport.borrow_mut() = service.transport.clone();
            *self.prepared.borrow_mut() = Rc::default();
        }
        let moved = self.beside.replace(service.beside) != service.beside;
        let sorted = *self.settings.borrow() != service.balance;
        if sorted {
            *self.settings.borrow_mut() = service.balance.clone();
        }
        let mut parts = self.parts.borrow_mut();
        let mut old = std::mem::take(&mut *parts);
        for labels in std::iter::once(Labels::new()).chain(service.subsets.iter().map(|subset| subset.labels.clone())) {
            let known = old.iter().position(|part| part.labels == labels);
            let mut part = known.map_or_else(|| Part::new(labels), |index| old.swap_remove(index));
            part.stale |= sorted;
            parts.push(part);
        }
        drop(parts);
        self.update(secured || moved);
    }

    /// Picks an endpoint.
    pub fn pick(
        &self,
        service: &Service,
        subset: Option<usize>,
        want: &Want<'_>,
        rng: &mut impl Rng,
    ) -> Option<Rc<Pool>> {
        // A closed channel keeps its last value; there is nothing to learn from the error.
        if self.endpoints.borrow().has_changed().unwrap_or(false) {
            self.update(false);
        }
        let known = self.known.borrow();
        let scene = self.scene(&known, &service.balance, want);
        let mut parts = self.parts.borrow_mut();
        let index = match subset {
            None => 0,
            // Of a snapshot before this one, whose subsets may have been in another order.
            Some(index) if !want.tried.is_empty() => {
                let labels = &service.subsets.get(index)?.labels;
                parts.iter().skip(1).position(|part| part.labels == *labels)? + 1
            }
            Some(index) => index + 1,
        };
        let picked = parts.get_mut(index)?.pick(&scene, rng)?;
        let pool = known.pool(picked.slot)?;
        pool.meter.chosen(picked.why);
        Some(pool.clone())
    }

    /// The endpoint that was asked for by its address, whatever a split says; else as `pick`.
    pub fn pick_at(
        &self,
        service: &Service,
        subset: Option<usize>,
        address: SocketAddr,
        want: &Want<'_>,
        rng: &mut impl Rng,
    ) -> Option<Rc<Pool>> {
        let picked = self.pick(service, subset, want, rng);
        let asked = self.known.borrow().at(&address.into()).cloned();
        asked.inspect(|pool| pool.meter.chosen(Why::default())).or(picked)
    }

    /// Looks who is available though nobody asks. Returns whether standing is looked at, where that has changed: too few
    /// were available for it to be.
    pub fn look(&self, now: Instant) -> Option<bool> {
        if self.endpoints.borrow().has_changed().unwrap_or(false) {
            self.update(false);
        }
        let known = self.known.borrow();
        let (settings, want) = (self.settings.borrow(), Want::default());
        let scene = Scene { now, ..self.scene(&known, &settings, &want) };
        let mut parts = self.parts.borrow_mut();
        parts.iter_mut().filter(|part| part.is_used()).for_each(|part| part.look(&scene));
        let panics = parts.iter().any(Part::panics);
        (self.panicking.replace(panics) != panics).then_some(panics)
    }

    fn scene<'a>(&self, known: &'a Known, settings: &'a Settings, want: &'a Want<'a>) -> Scene<'a> {
        let changes = self.upstream.borrow().standing_changes().wrapping_add(known.changes.get());
        Scene { known, settings, changes, want, now: clock::recent() }
    }

    /// Connections to where a redirected one was going. Beyond a number of destinations they are not kept.
    pub fn original(&self, address: SocketAddr, from: Option<Source>) -> Rc<Pool> {
        let key = (address, from.map(|from| from.ip));
        let mut originals = self.originals.borrow_mut();
        if originals.len() >= ORIGINALS && !originals.contains_key(&key) {
            originals.retain(|_, pool| !pool.is_unused());
        }
        if originals.len() >= ORIGINALS && !originals.contains_key(&key) {
            let pool = Pool::of_client(address, from, self.share.clone());
            pool.retire();
            return pool;
        }
        originals.entry(key).or_insert_with(|| Pool::of_client(address, from, self.share.clone())).clone()
    }

    /// Every pool, for the sweep and for `/clusters`.
    pub fn each_pool(&self, mut f: impl FnMut(&Rc<Pool>)) {
        self.known.borrow().pools().for_each(&mut f);
        self.originals.borrow().values().for_each(f);
    }

    /// Closes connections that nobody uses, for as long as one more may be. Returns whether none is left.
    fn close_unused(&self, may: impl Fn() -> bool) -> bool {
        let mut none = true;
        self.each_pool(|pool| {
            none = none && h1::close_unused(pool, &may) && h2::close_unused(pool, &may);
        });
        none
    }

    /// Forgets original destinations to which nothing is open.
    pub fn forget_unused(&self) {
        self.originals.borrow_mut().retain(|_, pool| !pool.is_unused());
    }

    /// Closes what is unused; what is in use ends with its exchange. Returns whether it was told that too few endpoints
    /// are available.
    pub fn retire(&self) -> bool {
        self.each_pool(|pool| pool.retire());
        self.panicking.get()
    }

    /// Takes in the list of endpoints; if `all`, how each is connected to as well.
    fn update(&self, all: bool) {
        let list = self.endpoints.borrow_mut().borrow_and_update().clone();
        let beside = self.beside.get() && matches!(*self.transport.borrow(), Transport::Mutual { .. });
        let own = if beside { own::addresses() } else { HashSet::new() };
        let make = |endpoint: &Endpoint, known: Option<&Rc<Pool>>, meter: Rc<Meter>| {
            let transport = match endpoint.address.ip() {
                Some(ip) if own.contains(&ip) => Transport::Plain,
                _ => self.transport.borrow().of(endpoint.identity.as_ref()),
            };
            // Connections that proved something else, or nothing, are not used for what now has to be proven.
            let same = |pool: &&Rc<Pool>| pool.transport == transport && *pool.alternatives == *endpoint.alternatives;
            if let Some(pool) = known.filter(same) {
                return pool.clone();
            }
            let shared =
                endpoint.identity.is_none() && !matches!(transport, Transport::Simple { server_name: None, .. });
            let prepared = if shared { self.prepared.borrow().clone() } else { Rc::default() };
            let standing = self.upstream.borrow().standing(&endpoint.address);
            Pool::new(endpoint, (standing, meter), transport, (prepared, self.share.clone()))
        };
        if self.known.borrow_mut().update(&list, all || beside, clock::recent(), make) {
            self.parts.borrow_mut().iter_mut().for_each(|part| part.stale = true);
        }
    }
}

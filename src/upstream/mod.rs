//! Services as one worker sees them: which endpoints it may choose, and its own connections to each.
//! Nothing here is shared with another worker.

pub mod h1;
pub mod h2;
pub mod pool;
mod queue;
pub mod transport;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use rand::Rng;
use tokio::sync::watch;

use crate::discovery::Endpoint;
use crate::net::dial::Source;
use crate::net::own;
use crate::policy::pick::Candidates;
use crate::snapshot::{Service, Transport, Upstream};
use crate::wire::address::Address;
use pool::Pool;
use transport::Prepared;

/// Original destinations that a worker keeps connections to.
const ORIGINALS: usize = 4096;
/// How often another endpoint is drawn where one was tried before.
const REDRAWS: usize = 16;

/// An original destination, and the client where its address is kept.
type Original = (SocketAddr, Option<IpAddr>);

/// A service. It lives as long as its name is configured, so that reloads keep its connections.
pub struct Cluster {
    endpoints: RefCell<watch::Receiver<Arc<[Endpoint]>>>,
    upstream: RefCell<Arc<Upstream>>,
    transport: RefCell<Transport>,
    beside: Cell<bool>,
    prepared: RefCell<Rc<Prepared>>,
    sets: RefCell<Sets>,
    pools: RefCell<HashMap<Address, Rc<Pool>>>,
    originals: RefCell<HashMap<Original, Rc<Pool>>>,
    turn: Cell<u64>,
}

#[derive(Default)]
struct Sets {
    all: Set,
    /// By the index of the subset.
    subsets: Vec<Set>,
    labels: Vec<BTreeMap<String, String>>,
}

#[derive(Default)]
struct Set {
    candidates: Candidates,
    pools: Vec<Rc<Pool>>,
}

impl Cluster {
    pub fn new(service: &Service) -> Rc<Self> {
        let cluster = Self {
            endpoints: RefCell::new(service.upstream.endpoints()),
            upstream: RefCell::new(service.upstream.clone()),
            transport: RefCell::new(service.transport.clone()),
            beside: Cell::new(service.beside),
            prepared: RefCell::default(),
            sets: RefCell::default(),
            pools: RefCell::default(),
            originals: RefCell::default(),
            turn: Cell::new(0),
        };
        cluster.attach(service);
        Rc::new(cluster)
    }

    /// Takes over what a new snapshot says of the service.
    pub fn attach(&self, service: &Service) {
        if !Arc::ptr_eq(&self.upstream.borrow(), &service.upstream) {
            *self.endpoints.borrow_mut() = service.upstream.endpoints();
            *self.upstream.borrow_mut() = service.upstream.clone();
        }
        if *self.transport.borrow() != service.transport {
            *self.transport.borrow_mut() = service.transport.clone();
            *self.prepared.borrow_mut() = Rc::default();
        }
        self.beside.set(service.beside);
        self.sets.borrow_mut().labels = service.subsets.iter().map(|subset| subset.labels.clone()).collect();
        self.rebuild();
    }

    /// Picks an endpoint; if possible, one that is not among those that were tried.
    pub fn pick(
        &self,
        service: &Service,
        subset: Option<usize>,
        tried: &[Address],
        rng: &mut impl Rng,
    ) -> Option<Rc<Pool>> {
        let mut picked = self.draw(service, subset, rng)?;
        for _ in 0..REDRAWS {
            if !tried.contains(&picked.address) {
                break;
            }
            picked = self.draw(service, subset, rng)?;
        }
        Some(picked)
    }

    fn draw(&self, service: &Service, subset: Option<usize>, rng: &mut impl Rng) -> Option<Rc<Pool>> {
        // A closed channel keeps its last value; there is nothing to learn from the error.
        if self.endpoints.borrow().has_changed().unwrap_or(false) {
            self.rebuild();
        }
        let sets = self.sets.borrow();
        let set = match subset {
            None => &sets.all,
            Some(index) => sets.subsets.get(index)?,
        };
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        let load = |index: usize| set.pools.get(index).map_or(0, |pool| pool.in_flight());
        let index = set.candidates.pick(service.policy, turn, rng, load)?;
        set.pools.get(index).cloned()
    }

    /// The endpoint that was asked for by its address, whatever a split says; else as `pick`.
    pub fn pick_at(
        &self,
        service: &Service,
        subset: Option<usize>,
        address: SocketAddr,
        rng: &mut impl Rng,
    ) -> Option<Rc<Pool>> {
        let picked = self.pick(service, subset, &[], rng);
        self.pools.borrow().get(&address.into()).cloned().or(picked)
    }

    /// Connections to where a redirected one was going. Beyond a number of destinations they are not kept.
    pub fn original(&self, address: SocketAddr, from: Option<Source>) -> Rc<Pool> {
        let key = (address, from.map(|from| from.ip));
        let mut originals = self.originals.borrow_mut();
        if originals.len() >= ORIGINALS && !originals.contains_key(&key) {
            originals.retain(|_, pool| !pool.is_unused());
        }
        if originals.len() >= ORIGINALS && !originals.contains_key(&key) {
            let pool = Pool::of_client(address, from);
            pool.retire();
            return pool;
        }
        originals.entry(key).or_insert_with(|| Pool::of_client(address, from)).clone()
    }

    /// Every pool, for the sweep and for `/clusters`.
    pub fn each_pool(&self, mut f: impl FnMut(&Rc<Pool>)) {
        self.pools.borrow().values().for_each(&mut f);
        self.originals.borrow().values().for_each(f);
    }

    /// Forgets original destinations to which nothing is open.
    pub fn forget_unused(&self) {
        self.originals.borrow_mut().retain(|_, pool| !pool.is_unused());
    }

    /// Closes what is unused; what is in use ends with its exchange.
    pub fn retire(&self) {
        self.each_pool(|pool| pool.retire());
    }

    fn rebuild(&self) {
        let list = self.endpoints.borrow_mut().borrow_and_update().clone();
        let mut pools = self.pools.borrow_mut();
        let mut old = std::mem::take(&mut *pools);
        let beside = self.beside.get() && matches!(*self.transport.borrow(), Transport::Mutual { .. });
        let own = if beside { own::addresses() } else { HashSet::new() };
        for endpoint in list.iter() {
            let transport = match endpoint.address.ip() {
                Some(ip) if own.contains(&ip) => Transport::Plain,
                _ => self.transport.borrow().of(endpoint.identity.as_ref()),
            };
            // Connections that proved something else, or nothing, are not used for what now has to be proven.
            let same = old.remove(&endpoint.address).and_then(|pool| {
                let same = pool.transport == transport && *pool.alternatives == *endpoint.alternatives;
                if !same {
                    pool.retire();
                }
                same.then_some(pool)
            });
            let shared =
                endpoint.identity.is_none() && !matches!(transport, Transport::Simple { server_name: None, .. });
            let prepared = if shared { self.prepared.borrow().clone() } else { Rc::default() };
            let standing = || self.upstream.borrow().standing(&endpoint.address);
            let pool = same.unwrap_or_else(|| Pool::new(endpoint, standing(), transport, prepared));
            pools.insert(endpoint.address.clone(), pool);
        }
        old.values().for_each(|pool| pool.retire());
        let set = |wanted: &BTreeMap<String, String>| {
            let has = |endpoint: &&Endpoint| {
                endpoint.weight > 0 && wanted.iter().all(|(name, value)| endpoint.labels.get(name) == Some(value))
            };
            let chosen: Vec<&Endpoint> = list.iter().filter(has).collect();
            Set {
                candidates: Candidates::new(&chosen.iter().map(|endpoint| endpoint.weight).collect::<Vec<_>>()),
                pools: chosen.iter().filter_map(|endpoint| pools.get(&endpoint.address).cloned()).collect(),
            }
        };
        let mut sets = self.sets.borrow_mut();
        sets.all = set(&BTreeMap::new());
        sets.subsets = sets.labels.iter().map(set).collect();
    }
}

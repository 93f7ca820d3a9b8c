//! The endpoints that a worker knows of a service, each with its connections, by a number that stays the same while it
//! is there. A new list costs by what is different in it.

use std::cell::Cell;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::meter::Meter;
use super::pool::Pool;
use crate::discovery::Endpoint;
use crate::wire::address::Address;

#[derive(Default)]
pub struct Known {
    /// Sorted by address.
    list: Arc<[Endpoint]>,
    by_address: HashMap<Address, u32>,
    /// By slot.
    pools: Vec<Option<Rc<Pool>>>,
    free: Vec<u32>,
    /// Changes of what can be reached.
    pub changes: Rc<Cell<u64>>,
}

impl Known {
    pub fn pool(&self, slot: u32) -> Option<&Rc<Pool>> {
        self.pools.get(slot as usize)?.as_ref()
    }

    pub fn at(&self, address: &Address) -> Option<&Rc<Pool>> {
        self.pool(*self.by_address.get(address)?)
    }

    pub fn pools(&self) -> impl Iterator<Item = &Rc<Pool>> {
        self.pools.iter().flatten()
    }

    /// Every endpoint with its slot and the hash of its address.
    pub fn each(&self) -> impl Iterator<Item = (&Endpoint, u32, u64)> {
        self.list.iter().filter_map(|endpoint| {
            let slot = *self.by_address.get(&endpoint.address)?;
            Some((endpoint, slot, self.pool(slot)?.meter.id))
        })
    }

    /// Takes over another list. `make` gives the pool of an endpoint: perhaps the one that it has. It is asked for those
    /// that are new or different; if `all`, for each. Returns whether anything was different.
    pub fn update(
        &mut self,
        list: &Arc<[Endpoint]>,
        all: bool,
        now: Instant,
        make: impl Fn(&Endpoint, Option<&Rc<Pool>>, Rc<Meter>) -> Rc<Pool>,
    ) -> bool {
        let old = std::mem::replace(&mut self.list, list.clone());
        if Arc::ptr_eq(&old, list) && !all {
            return false;
        }
        // Who is there from the start is not new.
        let since = (!old.is_empty()).then_some(now);
        let (mut before, mut after) = (old.iter().peekable(), list.iter().peekable());
        let mut changed = false;
        loop {
            let order = match (before.peek(), after.peek()) {
                (Some(before), Some(after)) => before.address.cmp(&after.address),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => return changed,
            };
            let (gone, here) = match order {
                Ordering::Less => (before.next(), None),
                Ordering::Greater => (None, after.next()),
                Ordering::Equal => (before.next(), after.next()),
            };
            if gone == here && !all {
                continue;
            }
            changed |= gone != here;
            match (gone, here) {
                (Some(gone), None) => self.remove(&gone.address),
                (_, Some(endpoint)) => {
                    let known = self.at(&endpoint.address).cloned();
                    let meter = known.as_ref().map(|pool| pool.meter.clone());
                    let meter = meter.unwrap_or_else(|| Meter::new(&endpoint.address, since, self.changes.clone()));
                    let pool = make(endpoint, known.as_ref(), meter);
                    self.put(&endpoint.address, pool);
                }
                (None, None) => {}
            }
        }
    }

    fn put(&mut self, address: &Address, pool: Rc<Pool>) {
        let slot = match self.by_address.get(address) {
            Some(slot) => *slot,
            None => {
                let slot = self.free.pop().unwrap_or(u32::try_from(self.pools.len()).unwrap_or(u32::MAX));
                self.by_address.insert(address.clone(), slot);
                slot
            }
        };
        if self.pools.len() <= slot as usize {
            self.pools.resize(slot as usize + 1, None);
        }
        let Some(place) = self.pools.get_mut(slot as usize) else { return };
        match place.replace(pool.clone()) {
            Some(old) if !Rc::ptr_eq(&old, &pool) => old.retire(),
            _ => {}
        }
    }

    fn remove(&mut self, address: &Address) {
        let Some(slot) = self.by_address.remove(address) else { return };
        if let Some(pool) = self.pools.get_mut(slot as usize).and_then(Option::take) {
            pool.retire();
        }
        self.free.push(slot);
    }
}

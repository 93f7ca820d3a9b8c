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
    /// Sorted by address; and the slots of these.
    list: Arc<[Endpoint]>,
    slots: Vec<u32>,
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
        let each = self.list.iter().zip(&self.slots);
        each.filter_map(|(endpoint, slot)| Some((endpoint, *slot, self.pool(*slot)?.meter.id)))
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
        let slots = std::mem::take(&mut self.slots);
        // Who is there from the start is not new.
        let since = (!old.is_empty()).then_some(now);
        let (mut before, mut after) = (old.iter().zip(slots).peekable(), list.iter().peekable());
        let mut changed = false;
        loop {
            let order = match (before.peek(), after.peek()) {
                (Some((before, _)), Some(after)) => before.address.cmp(&after.address),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => return changed,
            };
            let (gone, here) = match order {
                Ordering::Less => (before.next(), None),
                Ordering::Greater => (None, after.next()),
                Ordering::Equal => (before.next(), after.next()),
            };
            let same = gone.as_ref().map(|(endpoint, _)| *endpoint) == here;
            changed |= !same;
            match (gone, here) {
                (Some((_, slot)), Some(_)) if same && !all => self.slots.push(slot),
                (Some((gone, _)), None) => self.remove(&gone.address),
                (_, Some(endpoint)) => {
                    let known = self.at(&endpoint.address).cloned();
                    let meter = known.as_ref().map(|pool| pool.meter.clone());
                    let meter = meter.unwrap_or_else(|| Meter::new(&endpoint.address, since, self.changes.clone()));
                    let pool = make(endpoint, known.as_ref(), meter);
                    let slot = self.put(&endpoint.address, pool);
                    self.slots.push(slot);
                }
                (None, None) => {}
            }
        }
    }

    fn put(&mut self, address: &Address, pool: Rc<Pool>) -> u32 {
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
        let old = self.pools.get_mut(slot as usize).and_then(|place| place.replace(pool.clone()));
        if let Some(old) = old.filter(|old| !Rc::ptr_eq(old, &pool)) {
            old.retire();
        }
        slot
    }

    fn remove(&mut self, address: &Address) {
        let Some(slot) = self.by_address.remove(address) else { return };
        if let Some(pool) = self.pools.get_mut(slot as usize).and_then(Option::take) {
            pool.retire();
        }
        self.free.push(slot);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashSet};
    use std::net::SocketAddr;

    use proptest::prelude::*;

    use super::*;
    use crate::snapshot::Transport;

    /// What is in a list: endpoints by number, with their weights.
    type List = BTreeMap<u8, u32>;

    fn endpoint((number, weight): (&u8, &u32)) -> Endpoint {
        Endpoint { weight: *weight, ..Endpoint::bare(SocketAddr::from(([10, 0, 0, *number], 80))) }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_new_list_keeps_what_stays(lists in prop::collection::vec(prop::collection::btree_map(0_u8..20, 1_u32..3, 0..12), 1..8)) {
            let (mut known, mut before) = (Known::default(), List::new());
            let mut pools: BTreeMap<u8, (Rc<Pool>, u32)> = BTreeMap::new();
            for list in lists {
                let asked = Cell::new(0);
                let make = |endpoint: &Endpoint, known: Option<&Rc<Pool>>, meter: Rc<Meter>| {
                    asked.set(asked.get() + 1);
                    known.cloned().unwrap_or_else(|| {
                        Pool::new(endpoint, (Arc::default(), meter), Transport::Plain, Default::default())
                    })
                };
                let endpoints: Arc<[Endpoint]> = list.iter().map(endpoint).collect();
                let changed = known.update(&endpoints, false, Instant::now(), make);
                prop_assert_eq!(changed, list != before);
                let different = list.iter().filter(|(number, weight)| before.get(number) != Some(weight)).count();
                prop_assert_eq!(asked.get(), different, "only those are asked for");
                let each: Vec<(Endpoint, u32)> = known.each().map(|(endpoint, slot, _)| (endpoint.clone(), slot)).collect();
                prop_assert_eq!(each.iter().map(|(one, _)| one.clone()).collect::<Vec<_>>(), endpoints.to_vec());
                prop_assert_eq!(each.iter().map(|(_, slot)| slot).collect::<HashSet<_>>().len(), list.len());
                prop_assert_eq!(known.pools().count(), list.len());
                let mut now = BTreeMap::new();
                for ((number, _), (endpoint, slot)) in list.iter().zip(each) {
                    let pool = known.pool(slot).unwrap().clone();
                    prop_assert_eq!(&pool.address, &endpoint.address);
                    if let Some((old, at)) = pools.get(number) {
                        prop_assert!(Rc::ptr_eq(old, &pool) && *at == slot, "it stays where it was");
                    }
                    now.insert(*number, (pool, slot));
                }
                for (number, (pool, _)) in &pools {
                    prop_assert_eq!(pool.is_retired(), !list.contains_key(number));
                }
                (pools, before) = (now, list);
            }
        }
    }
}

//! Counters of what is done to traffic on purpose: looked up once, then remembered for as long as the view lives.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use super::{View, Worker};
use crate::telemetry::faults::Faults;
use crate::telemetry::mirrored::Mirrored;

/// By the number of a route, and of a mirror.
#[derive(Default)]
pub(super) struct OnPurpose {
    faults: RefCell<HashMap<usize, Arc<Faults>>>,
    mirrors: RefCell<HashMap<(usize, usize), Arc<Mirrored>>>,
}

impl Worker {
    pub fn faults(&self, view: &View, route: usize) -> Arc<Faults> {
        let mut known = view.on_purpose.faults.borrow_mut();
        let found = known.entry(route).or_insert_with(|| match view.snapshot.routes.get(route) {
            Some(route) => self.shared.metrics.faults.get(&route.name),
            None => Arc::default(),
        });
        found.clone()
    }

    pub fn mirrored(&self, view: &View, route: usize, mirror: usize) -> Arc<Mirrored> {
        let mut known = view.on_purpose.mirrors.borrow_mut();
        let found = known.entry((route, mirror)).or_insert_with(|| {
            let route = view.snapshot.routes.get(route);
            match route.and_then(|route| Some((route, route.mirrors.get(mirror)?))) {
                Some((route, mirror)) => self.shared.metrics.mirrors.get(&(route.name.clone(), mirror.to.clone())),
                None => Arc::default(),
            }
        });
        found.clone()
    }
}

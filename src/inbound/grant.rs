//! What a long connection was allowed, asked again after each reload: one that is relayed without being understood, or
//! the tunnel that a request became.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use http::{HeaderMap, HeaderValue, Method};

use super::Conn;
use crate::decide;
use crate::policy::authz::Ruling;
use crate::policy::guard::Guard;
use crate::snapshot::Snapshot;
use crate::snapshot::authz;
use crate::snapshot::matcher::Facts;
use crate::telemetry::shadow::Example;
use crate::worker::View;

/// Of the head of a request, what authorization may look at.
#[derive(Debug)]
pub struct Head {
    method: Method,
    host: Box<str>,
    path: Box<str>,
    headers: HeaderMap,
}

pub struct Grant {
    conn: Rc<Conn>,
    /// None of a connection of which only its other end is known.
    head: Option<Box<Head>>,
    route: Arc<str>,
    request_id: Option<HeaderValue>,
    /// Of the configuration that was asked last.
    generation: Option<u64>,
    /// What entries in shadow mode said then.
    would: Vec<Arc<str>>,
}

impl Head {
    pub fn new(facts: &Facts<'_>) -> Box<Self> {
        let Facts { method, host, path, headers, .. } = *facts;
        Box::new(Self { method: method.clone(), host: host.into(), path: path.into(), headers: headers.clone() })
    }
}

impl Grant {
    /// Of a connection on its way to a route, not asked for yet.
    pub fn of_connection(conn: &Rc<Conn>, route: &Arc<str>) -> Box<Self> {
        let (conn, route) = (conn.clone(), route.clone());
        Box::new(Self { conn, head: None, route, request_id: None, generation: None, would: Vec::new() })
    }

    /// Of a request that was allowed under `snapshot`; entries in shadow mode, by their numbers, would not have.
    pub fn of_request(
        conn: &Rc<Conn>,
        head: Box<Head>,
        (route, request_id): (&Arc<str>, Option<&HeaderValue>),
        snapshot: &Snapshot,
        would: &[usize],
    ) -> Self {
        Self {
            conn: conn.clone(),
            head: Some(head),
            route: route.clone(),
            request_id: request_id.cloned(),
            generation: Some(snapshot.generation),
            would: names(snapshot, would),
        }
    }

    /// The entry that denies it by now. Costs a load where nothing is new.
    pub fn denied(&mut self) -> Option<Arc<str>> {
        let generation = Some(self.conn.worker.shared.generation.load(Ordering::Acquire));
        if self.generation == generation {
            return None;
        }
        self.generation = generation;
        // A connection outlives its listener, and keeps the last configuration that had one.
        let (view, listener) = self.conn.view();
        let mut ruling = self.judge(&view, listener);
        let would = names(&view.snapshot, &ruling.would);
        ruling.would.retain(|number| !names(&view.snapshot, &[*number]).iter().any(|name| self.would.contains(name)));
        self.would = would;
        self.conn.worker.count_ruling(&view, listener, &ruling);
        self.tell_shadow(&view, listener, &ruling.would);
        names(&view.snapshot, ruling.denied.as_slice()).pop()
    }

    fn judge(&self, view: &View, listener: usize) -> Ruling {
        let snapshot = &view.snapshot;
        let Some(listener) = snapshot.listeners.get(listener) else { return Ruling::default() };
        let caller = self.conn.caller();
        let Some(head) = &self.head else { return decide::authorize_connection(snapshot, listener, &caller) };
        let Head { method, host, path, headers } = &**head;
        let facts = Facts { caller, method, host, path, query: None, headers, grpc: false, attributes: &[] };
        authz::judge(&snapshot.authorization, &listener.authorization, &facts)
    }

    fn tell_shadow(&self, view: &View, listener: usize, would: &[usize]) {
        if would.is_empty() {
            return;
        }
        let snapshot = &view.snapshot;
        let side = snapshot.sides.iter().position(|side| side.route == self.route);
        if let Some(block) = self.conn.worker.block(view, snapshot.series(listener, side)) {
            block.would_refuse(Guard::Authorization);
        }
        let id = self.request_id.as_ref().map(|id| String::from_utf8_lossy(id.as_bytes()).into_owned());
        for entry in names(snapshot, would) {
            self.conn.worker.shadow.borrow_mut().push(Example {
                time: SystemTime::now(),
                id: id.clone().unwrap_or_default(),
                route: self.route.clone(),
                guard: Guard::Authorization,
                limit: 0,
                actual: 0,
                entry: entry.to_string(),
                method: self.head.as_ref().map(|head| head.method.to_string()).unwrap_or_default(),
                path: self.head.as_ref().map(|head| head.path.to_string()).unwrap_or_default(),
                peer: self.conn.peer.clone(),
                identity: self.conn.identity().cloned(),
            });
        }
    }
}

/// Of entries.
fn names(snapshot: &Snapshot, numbers: &[usize]) -> Vec<Arc<str>> {
    numbers.iter().filter_map(|number| Some(snapshot.authorization.get(*number)?.name.clone())).collect()
}

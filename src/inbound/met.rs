//! A connection among those that are remembered, from when it is known what it is to its end.

use std::time::SystemTime;

use super::Conn;
use crate::telemetry::peers::{How, Peer};

pub struct Met<'a> {
    conn: &'a Conn,
    how: How,
}

impl<'a> Met<'a> {
    /// Counts it as well.
    pub fn new(conn: &'a Conn, how: How) -> Self {
        let (view, listener) = conn.view();
        if let Some(connections) = view.connections.get(listener) {
            connections.inc(how);
        }
        let met = Self { conn, how };
        conn.worker.peers.borrow_mut().came(met.peer(), SystemTime::now());
        met
    }

    fn peer(&self) -> Peer {
        let Self { conn, how } = *self;
        let (address, listener) = (conn.peer.ip().map(|ip| ip.to_canonical()), conn.socket.name.clone());
        Peer { address, how, identity: conn.identity().cloned(), listener }
    }
}

impl Drop for Met<'_> {
    fn drop(&mut self) {
        self.conn.worker.peers.borrow_mut().left(&self.peer(), SystemTime::now());
    }
}

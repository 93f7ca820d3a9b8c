//! A connection from its acceptance to its end: what it is, and who serves it.

use std::cell::{Cell, OnceCell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::http::HeaderValue;
use tokio::net::TcpStream;

use crate::drain::Phase;
use crate::net::accept::{Accepted, Socket};
use crate::net::clock;
use crate::net::io::Activity;
use crate::net::socket;
use crate::snapshot::Kind;
use crate::wire::peer::PeerCertificate;
use crate::wire::spiffe::SpiffeId;
use crate::wire::xfcc;
use crate::worker::{Place, View, Worker};
use crate::{http, tcp};

/// A downstream connection, and what its requests share.
pub struct Conn {
    pub worker: Rc<Worker>,
    pub peer: SocketAddr,
    pub socket: Arc<Socket>,
    /// Set before the first request; empty for plaintext.
    pub tls: OnceCell<Tls>,
    xfcc: OnceCell<HeaderValue>,
    pub place: Place,
    pub activity: Rc<Activity>,
    /// When it was accepted; taken by its first request.
    pub accepted: Cell<Option<Instant>>,
    /// Requests in progress.
    pub busy: Cell<usize>,
    /// The body of the last request was not read.
    pub unread: Cell<bool>,
    /// The peer asked for another protocol, and an upstream has agreed.
    pub upgrade: RefCell<Option<http::upgrade::Tunnel>>,
    view: RefCell<(Rc<View>, usize)>,
    /// Its listener is gone from the configuration.
    orphaned: Cell<bool>,
}

/// What the handshake of a connection has shown.
#[derive(Debug)]
pub struct Tls {
    /// The client's, where it has proven one.
    pub peer: Option<Rc<PeerCertificate>>,
    /// From the first byte of the handshake to its end.
    pub took: Duration,
    pub resumed: bool,
    /// `TLSv1.3`.
    pub version: &'static str,
    /// The name that the client asked for (SNI).
    pub server_name: Option<Box<str>>,
    /// Whom we have proven to be.
    pub own: Option<SpiffeId>,
}

impl Conn {
    /// What the client has proven to be.
    pub fn peer_certificate(&self) -> Option<&Rc<PeerCertificate>> {
        self.tls.get()?.peer.as_ref()
    }

    /// Who the client has proven to be.
    pub fn identity(&self) -> Option<&SpiffeId> {
        self.peer_certificate()?.id.as_ref()
    }

    /// What the application is told of the client's certificate.
    pub fn forwarded_certificate(&self) -> Option<HeaderValue> {
        let tls = self.tls.get()?;
        let peer = tls.peer.as_ref()?;
        Some(self.xfcc.get_or_init(|| xfcc::element(peer, tls.own.as_ref())).clone())
    }

    /// The port that was connected to.
    pub fn port(&self) -> u16 {
        self.socket.address.port()
    }

    /// The view that a new request begins with, and its listener there. A connection outlives its listener: it keeps
    /// the last view that had one.
    pub fn view(&self) -> (Rc<View>, usize) {
        let newest = self.worker.view();
        let mut known = self.view.borrow_mut();
        if newest.snapshot.generation != known.0.snapshot.generation {
            match newest.snapshot.listener(&self.socket.name, self.socket.configured) {
                Some(index) => *known = (newest, index),
                None => self.orphaned.set(true),
            }
        }
        known.clone()
    }

    /// The peer is asked to go elsewhere after what it has begun.
    pub fn is_closing(&self) -> bool {
        self.orphaned.get() || self.socket.is_closed() || self.worker.shared.drain.phase() >= Phase::LameDuck
    }

    /// Nothing new is begun.
    pub fn is_closed(&self) -> bool {
        self.worker.shared.drain.phase() >= Phase::Closing
    }

    pub fn is_forced(&self) -> bool {
        self.worker.shared.drain.phase() == Phase::Forced
    }
}

/// A request, or the rest of its body, is in progress on a connection.
pub struct Busy(Rc<Conn>);

impl Busy {
    pub fn new(conn: &Rc<Conn>) -> Rc<Self> {
        conn.busy.set(conn.busy.get() + 1);
        Rc::new(Self(conn.clone()))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let conn = &self.0;
        conn.busy.set(conn.busy.get().saturating_sub(1));
        if conn.busy.get() == 0 {
            conn.activity.started.set(false);
            conn.activity.deadline.set(None);
            conn.activity.moved.set(clock::recent());
        }
    }
}

/// Serves a connection on this worker, in a task of its own.
pub fn spawn(worker: &Rc<Worker>, stream: TcpStream, accepted: Accepted) {
    let view = worker.view();
    let Some(index) = view.snapshot.listener(&accepted.socket.name, accepted.socket.configured) else { return };
    if let Err(error) = socket::tune(&stream) {
        tracing::debug!(%error, "socket options");
    }
    let conn = Rc::new(Conn {
        peer: accepted.peer,
        tls: OnceCell::new(),
        xfcc: OnceCell::new(),
        place: worker.place(),
        activity: Activity::new(Instant::now()),
        accepted: Cell::new(Some(accepted.at)),
        busy: Cell::new(0),
        unread: Cell::new(false),
        upgrade: RefCell::new(None),
        orphaned: Cell::new(false),
        view: RefCell::new((view.clone(), index)),
        worker: worker.clone(),
        socket: accepted.socket,
    });
    conn.activity.idle.set(*view.snapshot.config.root().defaults.stream_idle_timeout);
    let held = (accepted.permit, accepted.load);
    let Some(listener) = view.snapshot.listeners.get(index) else { return };
    let (config, tcp) = (listener.config.clone(), matches!(listener.kind, Kind::Tcp(_)));
    tokio::task::spawn_local(async move {
        let reason =
            if tcp { tcp::run(&conn, stream, None).await } else { http::server::run(&conn, stream, &config).await };
        // A tunnel that was agreed to but never entered, for the client had left: it holds the connection itself.
        drop(conn.upgrade.take());
        conn.worker.counters.connections_closed.inc(reason);
        drop(held);
    });
}

#[cfg(test)]
mod tests {
    /// What an idle connection costs, besides its socket.
    #[test]
    fn the_task_of_a_connection_is_small() {
        fn size<'a, A, B, C, R>(_: fn(&'a A, B, &'a C) -> R) -> usize {
            size_of::<R>()
        }
        fn tcp<'a, A, B, C, R>(_: fn(&'a A, B, C) -> R) -> usize {
            size_of::<R>()
        }
        let sizes = [size(super::http::server::run), tcp(super::tcp::run), size_of::<super::Conn>()];
        assert!(sizes.iter().all(|size| *size <= 1200), "{sizes:?}");
    }
}

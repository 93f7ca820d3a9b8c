//! A connection from its acceptance to its end: what it is, and who serves it.

pub mod grant;
pub mod handshake;
mod met;
mod proxy_header;
mod redirected;

use std::cell::{Cell, OnceCell, RefCell};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::http::HeaderValue;
use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

use crate::config::schema::{self, ListenerTlsMode, Mode, Transparent};
use crate::drain::Phase;
use crate::error::Reason;
use crate::net::accept::{Accepted, Socket};
use crate::net::clock;
use crate::net::dial::Source;
use crate::net::io::Activity;
use crate::net::lifetime::Lifetime;
use crate::net::socket;
use crate::policy::caller::Caller;
use crate::snapshot::redirected::Destination;
use crate::snapshot::{Kind, Target};
use crate::tcp::First;
use crate::telemetry::peers::How;
use crate::upstream::Want;
use crate::upstream::pool::Pool;
use crate::wire::address::Address;
use crate::wire::peer::PeerCertificate;
use crate::wire::spiffe::SpiffeId;
use crate::wire::xfcc;
use crate::worker::{Place, View, Worker};
use crate::{http, intercept, tcp};

use handshake::{Begun, Takes};
use met::Met;

/// A downstream connection, and what its requests share.
pub struct Conn {
    pub worker: Rc<Worker>,
    pub peer: Address,
    pub socket: Arc<Socket>,
    /// Where it was going before the kernel redirected it, in canonical form.
    pub original: Option<SocketAddr>,
    /// Set before the first request; empty for plaintext and for what is passed through.
    pub tls: OnceCell<Tls>,
    /// Where what was proven holds for a time only.
    lifetime: OnceCell<(Lifetime, Alarm)>,
    xfcc: OnceCell<HeaderValue>,
    pub place: Place,
    pub activity: Rc<Activity>,
    /// When it was accepted; taken by its first request.
    pub accepted: Cell<Option<Instant>>,
    /// Requests in progress.
    pub busy: Cell<usize>,
    /// The body of the last request was not read.
    pub unread: Cell<bool>,
    /// Of a redirected connection: what was begun before it was known what it is.
    pub ahead: RefCell<Option<Box<tcp::Ahead>>>,
    /// The peer asked for another protocol, and an upstream has agreed.
    pub upgrade: RefCell<Option<http::upgrade::Tunnel>>,
    view: RefCell<(Rc<View>, usize)>,
    /// Its listener is gone from the configuration.
    orphaned: Cell<bool>,
    /// Its listener has become strict since.
    strict: Cell<bool>,
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

    /// What rules may look at.
    pub fn caller(&self) -> Caller<'_> {
        Caller::new(self.peer.ip(), self.identity(), self.port()).on_its_way(self.original)
    }

    /// The port that was connected to, whoever answers there.
    pub fn port(&self) -> u16 {
        self.original.map_or(self.socket.address.port(), |original| original.port())
    }

    /// An endpoint of where a decision leads. Where the decision is that it goes where it was going, there.
    pub fn pick(&self, view: &View, listener: usize, target: Target, want: &Want<'_>) -> Option<Rc<Pool>> {
        let snapshot = &view.snapshot;
        let (service, cluster) = (snapshot.services.get(target.service)?, view.clusters.get(target.service)?);
        let rng = &mut *self.worker.rng.borrow_mut();
        let Some(to) = self.original else { return cluster.pick(service, target.subset, want, rng) };
        let listener = snapshot.listeners.get(listener)?;
        let keeps = listener.config.mode == Mode::Inbound && listener.config.transparent == Transparent::Tproxy;
        let client = self.peer.ip().filter(|_| keeps).map(|ip| Source { ip: ip.to_canonical(), mark: intercept::MARK });
        match &listener.kind {
            Kind::Inbound(ports) if ports.of(to.port()).loopback => {
                // The kernel routes no answer from there to another machine's address.
                Some(cluster.original(loopback(to), None))
            }
            _ if service.original => Some(cluster.original(to, client)),
            Kind::Outbound(outbound) => match outbound.destination(snapshot, Some(to)) {
                // Whoever asks for one endpoint means that one.
                Destination::Service(known, Some(endpoint)) if known == target.service => {
                    cluster.pick_at(service, target.subset, endpoint, want, rng)
                }
                _ => cluster.pick(service, target.subset, want, rng),
            },
            _ => cluster.pick(service, target.subset, want, rng),
        }
    }

    /// The view that a new request begins with, and its listener there. A connection outlives its listener: it keeps
    /// the last view that had one.
    pub fn view(&self) -> (Rc<View>, usize) {
        let newest = self.worker.view();
        let mut known = self.view.borrow_mut();
        if newest.snapshot.generation != known.0.snapshot.generation {
            match newest.snapshot.listener(&self.socket.name, &self.socket.configured) {
                Some(index) => {
                    let listener = newest.snapshot.listeners.get(index);
                    self.strict.set(
                        listener.is_some_and(|listener| listener.tls_mode(self.port()) == ListenerTlsMode::Strict),
                    );
                    *known = (newest, index);
                }
                None => self.orphaned.set(true),
            }
        }
        known.clone()
    }

    /// The peer is asked to go elsewhere after what it has begun.
    pub fn is_closing(&self) -> bool {
        self.orphaned.get()
            || self.is_unproven()
            || self.socket.is_closed()
            || self.phase() >= Phase::LameDuck
            || self.is_aged()
    }

    /// Bounds its life. Set once, by the handshake.
    fn live(&self, lifetime: Lifetime) {
        let attention = self.place.attention.clone();
        let alarm = tokio::task::spawn_local(async move {
            for end in [lifetime.soft, lifetime.hard] {
                tokio::time::sleep_until(end.into()).await;
                clock::tick();
                attention.wake();
            }
        });
        let _ = self.lifetime.set((lifetime, Alarm(alarm.abort_handle())));
    }

    /// What was proven at its start holds not much longer.
    fn is_aged(&self) -> bool {
        self.lifetime.get().is_some_and(|(lifetime, _)| lifetime.soft <= clock::recent())
    }

    /// Nothing new is begun.
    pub fn is_closed(&self) -> bool {
        self.phase() >= Phase::Closing
    }

    /// Of the drain, as far as it is about this connection: what the application asks for is served for as long as the
    /// application may stop by itself.
    fn phase(&self) -> Phase {
        match self.worker.shared.drain.phase() {
            Phase::LameDuck | Phase::Closing if self.socket.mode == Mode::Outbound => Phase::Running,
            phase => phase,
        }
    }

    /// Why it has to end now, though nobody can be asked to: a relay.
    pub fn cut(&self) -> Option<Reason> {
        self.forced().or(self.is_unproven().then_some(Reason::Denied))
    }

    /// The client has proven nothing, and by now it would have to.
    pub fn is_unproven(&self) -> bool {
        drop(self.view());
        self.strict.get() && self.peer_certificate().is_none()
    }

    /// Why it has to end now, whatever it does.
    pub fn forced(&self) -> Option<Reason> {
        if self.worker.shared.drain.phase() == Phase::Forced {
            return Some(Reason::Drained);
        }
        if self.lifetime.get().is_some_and(|(lifetime, _)| lifetime.hard <= Instant::now()) {
            return Some(Reason::Expired);
        }
        // What has begun may end; nothing is begun any more.
        (self.busy.get() == 0 && self.is_unproven()).then_some(Reason::Denied)
    }
}

fn loopback(to: SocketAddr) -> SocketAddr {
    let ip: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, to.port())
}

/// Wakes a connection when its time comes.
struct Alarm(AbortHandle);

impl Drop for Alarm {
    fn drop(&mut self) {
        self.0.abort();
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
    let Some(index) = view.snapshot.listener(&accepted.socket.name, &accepted.socket.configured) else { return };
    let Some(listener) = view.snapshot.listeners.get(index) else { return };
    match proxy_header::is_due(listener, &accepted.peer) {
        true => proxy_header::spawn(worker, stream, accepted, *listener.config.header_timeout),
        false => begin(worker, stream, accepted),
    }
}

/// Once it is known whose the connection is.
fn begin(worker: &Rc<Worker>, stream: TcpStream, accepted: Accepted) {
    let view = worker.view();
    let Some(index) = view.snapshot.listener(&accepted.socket.name, &accepted.socket.configured) else { return };
    // Whoever the peer speaks for.
    if accepted.socket.address.ip().is_some()
        && let Err(error) = socket::tune(&stream)
    {
        tracing::debug!(%error, "socket options");
    }
    let Some(listener) = view.snapshot.listeners.get(index) else { return };
    let config = listener.config.clone();
    let conn = Rc::new(Conn {
        peer: accepted.peer,
        original: config.mode.is_redirected().then(|| redirected::original(&stream, &config)).flatten(),
        tls: OnceCell::new(),
        lifetime: OnceCell::new(),
        xfcc: OnceCell::new(),
        place: worker.place(),
        activity: Activity::new(Instant::now()),
        accepted: Cell::new(Some(accepted.at)),
        busy: Cell::new(0),
        unread: Cell::new(false),
        ahead: RefCell::default(),
        upgrade: RefCell::new(None),
        orphaned: Cell::new(false),
        strict: Cell::new(false),
        view: RefCell::new((view.clone(), index)),
        worker: worker.clone(),
        socket: accepted.socket,
    });
    conn.activity.idle.set(*view.snapshot.config.root().defaults.stream_idle_timeout);
    let held = (accepted.permit, accepted.load);
    let (is_tcp, by_name) = match &listener.kind {
        Kind::Tcp(routes) => (true, routes.has_names()),
        Kind::Http { .. } | Kind::Inbound(_) | Kind::Outbound(_) => (false, false),
    };
    tokio::task::spawn_local(async move {
        let reason = match config.mode.is_redirected() {
            true => Box::pin(redirected::serve(&conn, stream, &config)).await,
            false => serve(&conn, stream, &config, is_tcp, by_name).await,
        };
        // A tunnel that was agreed to but never entered, for the client had left: it holds the connection itself.
        drop(conn.upgrade.take());
        conn.worker.counters.connections_closed.inc(reason);
        drop(held);
    });
}

/// `by_name`: routes go by the name that a client of TLS asks for.
async fn serve(conn: &Rc<Conn>, socket: TcpStream, config: &schema::Listener, is_tcp: bool, by_name: bool) -> Reason {
    let mode = config.tls.as_ref().map_or(ListenerTlsMode::Off, |tls| tls.mode);
    let takes = if is_tcp { Takes::Tcp } else { Takes::Http };
    let begun = if mode == ListenerTlsMode::Off && !by_name {
        Begun::Plaintext(socket.into(), Bytes::new())
    } else {
        // Over before the first request, and large: not in the task of every connection.
        match Box::pin(handshake::run(conn, socket, mode, config, takes)).await {
            Ok(begun) => begun,
            Err(reason) => return reason,
        }
    };
    let _met = Met::new(
        conn,
        match &begun {
            Begun::Plaintext(..) => How::Plaintext,
            Begun::Secure(..) if conn.peer_certificate().is_some() => How::Mutual,
            Begun::Secure(..) => How::Tls,
            Begun::Passthrough(..) => How::Passthrough,
        },
    );
    let (stream, early, spoken, server_name) = match begun {
        Begun::Plaintext(stream, early) => (stream, early, None, None),
        Begun::Secure(stream, spoken) => {
            (stream, Bytes::new(), spoken, conn.tls.get().and_then(|tls| tls.server_name.clone()))
        }
        Begun::Passthrough(stream, early, server_name) => {
            let first = First { early, server_name, is_tls: true, raced: None };
            return Box::pin(tcp::run(conn, stream, first)).await;
        }
    };
    match is_tcp {
        // Large; connections of HTTP, of which there may be many that are idle, do not pay for it.
        true => Box::pin(tcp::run(conn, stream, First { early, server_name, ..First::default() })).await,
        false => http::server::run(conn, stream, early, spoken, config).await,
    }
}

#[cfg(test)]
mod tests {
    /// What an idle connection costs, besides its socket.
    #[test]
    fn the_task_of_a_connection_is_small() {
        fn size<'a, A, B, C, R>(_: fn(&'a A, B, &'a C, bool, bool) -> R) -> usize {
            size_of::<R>()
        }
        let sizes = [size(super::serve), size_of::<super::Conn>()];
        assert!(sizes.iter().all(|size| *size <= 1200), "{sizes:?}");
    }
}

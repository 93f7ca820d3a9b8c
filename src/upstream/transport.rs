//! How the connections of a pool are made: plain, or in TLS, and what the other side proves by that.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use rand::Rng;
use rustls::HandshakeKind;

use super::ceiling::Place;
use super::pool::{FORGET, Open, Pool};
use crate::error::Reason;
use crate::identity::{Alpn, Connector, Failure, Material};
use crate::net::clock;
use crate::net::dial::{self, Connected};
use crate::net::lifetime::Lifetime;
use crate::net::ports::Held;
use crate::net::socket;
use crate::net::stream::{Rewound, Stream};
use crate::snapshot::Transport;
use crate::wire::address::Address;
use crate::worker::Worker;

/// Longest that it takes to see whether an endpoint can be connected to again.
const REACH: Duration = Duration::from_secs(1);

/// A connection, ready for its codec.
pub struct Dialled {
    pub stream: Stream,
    /// The peer has chosen HTTP/2 (ALPN).
    pub http2: bool,
    pub lifetime: Option<Lifetime>,
    pub hold: Hold,
}

/// What is held for as long as a connection is open: its source port, its place among the connections of the service, and
/// among those of its pool.
#[derive(Default)]
pub struct Hold {
    _port: Option<Held>,
    _place: Option<Place>,
    _open: Option<Open>,
}

impl Dialled {
    fn plain(stream: impl Into<Stream>, port: Option<Held>) -> Self {
        let hold = Hold { _port: port, ..Hold::default() };
        Self { stream: stream.into(), http2: false, lifetime: None, hold }
    }

    pub fn holding(mut self, place: Place, open: Option<Open>) -> Self {
        (self.hold._place, self.hold._open) = (Some(place), open);
        self
    }
}

/// The TLS of the endpoints of a service, made anew when the material that it is made of is.
#[derive(Default)]
pub struct Prepared(RefCell<Option<(u64, Rc<Connector>)>>);

/// Connects, within `timeout` from the first packet to the end of the handshake. `opening` is sent ahead of everything.
pub async fn dial(
    pool: &Pool,
    timeout: Duration,
    alpn: Alpn,
    worker: &Worker,
    opening: &[u8],
) -> Result<Dialled, Reason> {
    let counters = &worker.counters;
    counters.upstream_connects.inc();
    let end = Instant::now() + timeout;
    let connected = connect(pool, timeout, (alpn, opening)).await;
    let dialled = match connected {
        Ok(connected) if pool.is_secure() => {
            // Rare, and large: not in the future of every connection.
            let secured =
                Box::pin(tokio::time::timeout_at(end.into(), secure(pool, connected, (alpn, opening), end, worker)));
            secured.await.unwrap_or(Err(Reason::ConnectTimeout))
        }
        Ok(Connected { stream, port }) => Ok(Dialled::plain(stream, port)),
        Err(reason) => Err(reason),
    };
    dialled.inspect_err(|reason| counters.upstream_connect_failures.inc(*reason))
}

/// The same without TLS, whatever the service says.
pub async fn dial_plain(pool: &Pool, timeout: Duration, worker: &Worker, opening: &[u8]) -> Result<Dialled, Reason> {
    let counters = &worker.counters;
    counters.upstream_connects.inc();
    let connected = connect(pool, timeout, (Alpn::Tcp, opening)).await;
    let dialled = connected.map(|Connected { stream, port }| Dialled::plain(stream, port));
    dialled.inspect_err(|reason| counters.upstream_connect_failures.inc(*reason))
}

/// Connects for nothing but to see whether it can be done.
pub async fn reach(pool: &Pool) {
    // Its meter hears of it.
    let _ = connect(pool, REACH, (Alpn::Tcp, &[])).await;
}

/// A connect that is given up before its time: whoever has not answered for so long counts as one that cannot be reached,
/// until it is tried again.
const SILENT: Duration = Duration::from_millis(250);

struct GivenUp<'a> {
    pool: &'a Pool,
    begun: Option<Instant>,
}

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        let now = clock::tick();
        if self.begun.is_some_and(|begun| now.saturating_duration_since(begun) >= SILENT) {
            self.pool.meter.connected(false, now);
        }
    }
}

async fn connect(pool: &Pool, timeout: Duration, (alpn, opening): (Alpn, &[u8])) -> Result<Connected, Reason> {
    let mut given_up = GivenUp { pool, begun: Some(clock::tick()) };
    let connected = match &pool.address {
        Address::Ip(address) if !pool.alternatives.is_empty() => Box::pin(race(pool, *address, timeout)).await,
        address => dial::connect(address, pool.source, timeout).await,
    };
    given_up.begun = None;
    drop(given_up);
    pool.meter.connected(connected.is_ok(), clock::tick());
    let connected = connected?;
    let stream = &connected.stream;
    if alpn != Alpn::Tcp
        && pool.address.ip().is_some()
        && let Err(error) = socket::expect_answers(stream)
    {
        tracing::debug!(%error, "socket options");
    }
    // A new connection has room for so few bytes.
    match opening.is_empty() || stream.try_write(opening).is_ok_and(|written| written == opening.len()) {
        true => Ok(connected),
        false => Err(Reason::ConnectFailed),
    }
}

/// The address that has won the last time sets out first.
async fn race(pool: &Pool, usual: SocketAddr, timeout: Duration) -> Result<Connected, Reason> {
    let last = pool.winner.get().filter(|(_, at)| at.elapsed() < FORGET).map(|(address, _)| address);
    let mut addresses = vec![usual];
    addresses.extend(&*pool.alternatives);
    addresses.sort_by_key(|address| Some(*address) != last);
    let (connected, winner) = dial::race(&addresses, timeout).await?;
    if Some(winner) != last {
        pool.winner.set((winner != usual).then(|| (winner, Instant::now())));
    }
    Ok(connected)
}

async fn secure(
    pool: &Pool,
    Connected { stream: socket, port }: Connected,
    (alpn, opening): (Alpn, &[u8]),
    end: Instant,
    worker: &Worker,
) -> Result<Dialled, Reason> {
    let counters = &worker.counters;
    let failed = |failure: Failure, why: &dyn std::fmt::Display| {
        tracing::debug!(address = %pool.address, failure = failure.name(), %why, "no TLS to the upstream");
        counters.upstream_handshake_failures.inc(failure);
        reason(failure)
    };
    let material = worker.shared.material.load();
    let connector = pool.prepared.get(pool, &material).ok_or_else(|| failed(Failure::NoIdentity, &"nothing loaded"))?;
    let tls = tokio_rustls::TlsConnector::from(connector.config(alpn));
    let stream = tls
        .connect(
            connector.server_name_for(pool.address.ip().unwrap_or(Ipv4Addr::LOCALHOST.into())),
            Rewound::new(socket, Bytes::new()),
        )
        .await;
    if alpn == Alpn::Tcp {
        let refused = stream.as_ref().is_err_and(|error| Failure::of(error) == Failure::NoCommonProtocol);
        pool.wants_http.set(refused);
    }
    let stream = stream.map_err(|error| failed(Failure::of(&error), &error))?;
    let (now, clock) = (Instant::now(), SystemTime::now());
    let (_, session) = stream.get_ref();
    let resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
    let http2 = session.alpn_protocol() == Some(b"h2");
    let chain = session.peer_certificates().unwrap_or_default();
    let peer = match connector.proven(chain, resumed, clock) {
        Ok(peer) => peer,
        // What it proved in the earlier handshake holds no more; perhaps it has something better by now.
        Err(_) if resumed => {
            drop(stream);
            pool.prepared.forget();
            let left = end.saturating_duration_since(now);
            let connected = connect(pool, left, (alpn, opening)).await?;
            return Box::pin(secure(pool, connected, (alpn, opening), end, worker)).await;
        }
        Err(failure) => return Err(failed(failure, &"the peer's certificate")),
    };
    let lifetime = match (&pool.transport, &material.mesh) {
        (Transport::Mutual { .. }, Some(mesh)) => {
            let chance = worker.rng.borrow_mut().random();
            Some(Lifetime::new(now, clock, [mesh.not_after, peer.not_after], mesh.max_age, chance))
        }
        _ => None,
    };
    counters.upstream_handshakes.inc();
    if resumed {
        counters.upstream_handshakes_resumed.inc();
    }
    let hold = Hold { _port: port, ..Hold::default() };
    Ok(Dialled { stream: Stream::Tls(Box::new(stream.into())), http2, lifetime, hold })
}

/// What a request is told of a handshake that failed.
fn reason(failure: Failure) -> Reason {
    match failure {
        Failure::NoCertificate
        | Failure::UnknownAuthority
        | Failure::Expired
        | Failure::NotYetValid
        | Failure::WrongIdentity
        | Failure::WrongName
        | Failure::BadPurpose
        | Failure::Revoked
        | Failure::BadCertificate => Reason::UpstreamIdentity,
        Failure::NoIdentity => Reason::NoIdentity,
        Failure::Timeout => Reason::ConnectTimeout,
        Failure::NoCommonProtocol
        | Failure::ProtocolVersion
        | Failure::NoCommonCipher
        | Failure::Malformed
        | Failure::Plaintext
        | Failure::Closed
        | Failure::RefusedByPeer
        | Failure::Other => Reason::UpstreamTls,
    }
}

/// Whether the peer has ended the connection with an alert: in TLS 1.3 a client hears only after its handshake that its
/// certificate is not liked.
pub fn is_alert(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let tls = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>());
        if matches!(tls, Some(rustls::Error::AlertReceived(_))) {
            return true;
        }
        next = error.source();
    }
    false
}

/// Runs a connection to its end, or until it is over: then `None`.
pub async fn until<T>(over: Option<Instant>, connection: impl Future<Output = T>) -> Option<T> {
    match over {
        None => Some(connection.await),
        Some(over) => tokio::time::timeout_at(over.into(), connection).await.ok(),
    }
}

/// What connections to this address are secured with; `None` where they are not, or what it takes is not loaded.
pub fn connector(transport: &Transport, address: &Address, material: &Material) -> Option<Connector> {
    match transport {
        Transport::Plain => None,
        Transport::Mutual { expected, server_name } => {
            Some(Connector::mutual(material.mesh.as_ref()?, Arc::clone(expected), server_name.as_deref()))
        }
        Transport::Simple { service, server_name } => {
            let own = || address.ip().map_or_else(|| "localhost".to_owned(), |ip| ip.to_string());
            let name = server_name.as_deref().map_or_else(own, str::to_owned);
            Some(Connector::simple(material.roots.get(&**service)?, &name))
        }
    }
}

impl Prepared {
    /// With all sessions that could be resumed.
    fn forget(&self) {
        self.0.take();
    }

    /// `None` where what it takes is not loaded.
    fn get(&self, pool: &Pool, material: &Material) -> Option<Rc<Connector>> {
        let mut known = self.0.borrow_mut();
        if let Some((_, connector)) = known.as_ref().filter(|(generation, _)| *generation == material.generation) {
            return Some(connector.clone());
        }
        let connector = Rc::new(connector(&pool.transport, &pool.address, material)?);
        *known = Some((material.generation, connector.clone()));
        Some(connector)
    }
}

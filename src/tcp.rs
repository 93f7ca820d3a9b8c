//! A connection that is relayed without being understood: one decision, one upstream connection, bytes both ways.

use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;

use crate::config::schema::Protocol;
use crate::decide;
use crate::error::Reason;
use crate::http::circuit::{self, Watch};
use crate::identity::Alpn;
use crate::inbound::Conn;
use crate::inbound::grant::Grant;
use crate::net::relay::{self, End, Relayed};
use crate::net::stream::Stream;
use crate::policy::split;
use crate::snapshot::{Kind, Snapshot, Transport};
use crate::telemetry::access::Entry;
use crate::upstream::Want;
use crate::upstream::learn;
use crate::upstream::pool::{Load, Pool};
use crate::upstream::transport::{self, Dialled, Hold};
use crate::wire::address::Address;
use crate::wire::proxy_protocol;
use crate::wire::spiffe::SpiffeId;
use crate::worker::View;

/// What is known of a connection before it is relayed.
#[derive(Default)]
pub struct First {
    /// Read from the client before.
    pub early: Bytes,
    /// Whom a client of TLS asks for.
    pub server_name: Option<Box<str>>,
    /// The client has begun TLS that is not ours to end.
    pub is_tls: bool,
    /// Made while the client was silent.
    pub raced: Option<Raced>,
}

/// A connection to the upstream on which the upstream has spoken first.
pub struct Raced {
    pub plan: Plan,
    pub upstream: Dialled,
    pub spoken: Bytes,
}

/// A connection to the upstream, begun while the client was silent: whoever has accepted it is not let down.
pub struct Ahead {
    route: usize,
    side: usize,
    pool: Rc<Pool>,
    arrives: Arrives,
}

/// With what the upstream has said.
type Arrives = Pin<Box<dyn Future<Output = Result<(Dialled, Bytes), Reason>>>>;

/// Where a connection leads, and by what leave.
pub struct Plan {
    view: Rc<View>,
    route: usize,
    side: usize,
    service: usize,
    pool: Rc<Pool>,
    connect_timeout: Duration,
    proxy_protocol: Option<proxy_protocol::Version>,
    grant: Box<Grant>,
    load: Load,
}

/// Why a connection leads nowhere.
pub struct Refused {
    pub reason: Reason,
    /// The entry of `authorization` that denies it.
    denied: Option<Arc<str>>,
    side: Option<usize>,
}

impl Plan {
    /// Decides, and asks for leave; or tells why not.
    pub fn new(conn: &Rc<Conn>, server_name: Option<&str>) -> Result<Self, Refused> {
        Self::with(conn, server_name, |grant, _| grant.denied())
    }

    /// The same for a client that may yet show who it is: what is denied now is not counted.
    pub fn draft(conn: &Rc<Conn>) -> Result<Self, Refused> {
        Self::with(conn, None, |_, denied| denied())
    }

    fn with(
        conn: &Rc<Conn>,
        server_name: Option<&str>,
        ask: impl FnOnce(&mut Grant, &dyn Fn() -> Option<Arc<str>>) -> Option<Arc<str>>,
    ) -> Result<Self, Refused> {
        let (view, index) = conn.view();
        let snapshot = &view.snapshot;
        let no = |reason| Refused { reason, denied: None, side: None };
        let listener = snapshot.listeners.get(index).ok_or(no(Reason::NoRoute))?;
        let draw = || split::draw(&mut *conn.worker.rng.borrow_mut());
        let (route, side, target) = match &listener.kind {
            Kind::Tcp(_) => decide::decide_tcp(snapshot, listener, server_name, draw).ok_or(Reason::NoRoute),
            Kind::Http { .. } => {
                decide::decide_passthrough(snapshot, listener, server_name, conn.caller(), draw).ok_or(Reason::NoRoute)
            }
            Kind::Inbound(_) | Kind::Outbound(_) => {
                decide::decide_relayed(snapshot, listener, server_name, conn.caller(), draw)
            }
        }
        .map_err(no)?;
        let (route_index, side) = (route.index, route.first_side + side);
        let mut grant = Grant::of_connection(conn, &route.name);
        let denied = || {
            let denied = decide::authorize_connection(snapshot, listener, &conn.caller()).denied?;
            snapshot.authorization.get(denied).map(|entry| entry.name.clone())
        };
        if let Some(entry) = ask(&mut grant, &denied) {
            return Err(Refused { reason: Reason::Denied, denied: Some(entry), side: Some(side) });
        }
        let service = snapshot.services.get(target.service).ok_or(no(Reason::NoEndpoint))?;
        if let Kind::Outbound(outbound) = &listener.kind
            && service.protocol != Protocol::Tcp
            && outbound.services.get(target.service).is_some_and(|known| !known.undetected)
        {
            return Err(no(Reason::Undetected));
        }
        let proxy_protocol = service.proxy_protocol;
        let key = service.hash_key.as_ref().and_then(|key| key.of_connection(conn.peer.ip()));
        let want = Want { key, ..Want::default() };
        let (pool, connect_timeout) =
            (conn.pick(&view, index, target, &want).ok_or(no(Reason::NoEndpoint))?, service.connect_timeout);
        let load = Load::new(&pool);
        Ok(Self {
            view,
            route: route_index,
            side,
            service: target.service,
            pool,
            connect_timeout,
            proxy_protocol,
            grant,
            load,
        })
    }

    /// Connects. `to` is what the client connected to.
    pub fn dialling(
        &self,
        conn: &Rc<Conn>,
        to: Option<SocketAddr>,
        is_tls: bool,
    ) -> impl Future<Output = Result<Dialled, Reason>> + use<> {
        let header = |version| proxy_protocol::header(version, conn.peer.socket(), to);
        let opening = self.proxy_protocol.map_or_else(Vec::new, header);
        let (pool, within, worker) = (self.pool.clone(), self.connect_timeout, conn.worker.clone());
        // What the application does for itself, we do not do for it.
        let plain = is_tls && self.is_simple();
        let (view, service) = (self.view.clone(), self.service);
        async move {
            let mutual = matches!(pool.transport, Transport::Mutual { .. });
            let place = pool.place().await?;
            let begun = Instant::now();
            let dialled = match plain {
                true => transport::dial_plain(&pool, within, &worker, &opening).await,
                false => transport::dial(&pool, within, Alpn::Tcp, &worker, &opening).await,
            };
            let dialled = match dialled {
                // The other side may have let its application greet us before it saw that we begin TLS. Nothing is lost:
                // all that was sent is a handshake.
                Err(Reason::UpstreamTls) if mutual && !plain && !pool.wants_http.get() => {
                    transport::dial(&pool, within, Alpn::Tcp, &worker, &opening).await
                }
                dialled => dialled,
            };
            if let Some(service) = view.snapshot.services.get(service) {
                learn::connected(service, &pool, &dialled, begun.elapsed());
            }
            dialled.map(|dialled| dialled.holding(place, None))
        }
    }

    /// The same, unless a circuit breaker is open.
    async fn connecting(&self, conn: &Rc<Conn>, to: Option<SocketAddr>, is_tls: bool) -> Result<Dialled, Reason> {
        let snapshot = &self.view.snapshot;
        let known = snapshot.services.get(self.service).filter(|service| service.protocol == Protocol::Tcp);
        let known = snapshot.routes.get(self.route).zip(known);
        let Some((route, service)) =
            known.filter(|(route, service)| route.circuit.is_some() || service.circuits.is_some())
        else {
            return self.dialling(conn, to, is_tls).await;
        };
        let (mut watch, begun) = (Watch::default(), Instant::now());
        circuit::may_connect(&mut watch, route, service)?;
        let dialled = self.dialling(conn, to, is_tls).await;
        circuit::connected(&watch, route, service, &dialled, begun.elapsed());
        dialled
    }

    /// The connection is there, or on its way, before it is known whether it is wanted.
    pub fn ahead(&self, arrives: Arrives) -> Box<Ahead> {
        Box::new(Ahead { route: self.route, side: self.side, pool: self.pool.clone(), arrives })
    }

    fn is_simple(&self) -> bool {
        matches!(self.pool.transport, Transport::Simple { .. })
    }

    pub fn is_mutual(&self) -> bool {
        matches!(self.pool.transport, Transport::Mutual { .. })
    }

    /// As the last handshake for bytes has shown.
    pub fn wants_http(&self) -> bool {
        self.pool.wants_http.get()
    }
}

/// Serves the connection to its end. What leads to the relay has a place of its own, which is gone while bytes are relayed:
/// of connections that are idle there may be many.
pub fn run(conn: &Rc<Conn>, client: Stream, first: First) -> impl Future<Output = Reason> {
    let start = Instant::now();
    let (view, listener) = conn.view();
    let reaching = Box::pin(reach(conn, client, first));
    async move {
        let counters = &conn.worker.counters;
        counters.tcp_connections.inc();
        counters.tcp_active.inc();
        let (mut facts, reached) = reaching.await;
        let reason = match reached {
            Ok(reached) => carry(conn, reached, &mut facts).await,
            Err(reason) => reason,
        };
        counters.tcp_active.dec();
        let now = Instant::now();
        let wanted = {
            let mut rng = conn.worker.rng.borrow_mut();
            conn.worker.shared.access.wants(reason != Reason::None, now, &mut *rng)
        };
        if wanted {
            log(conn, &view.snapshot, listener, start, &facts, reason);
        }
        reason
    }
}

/// Tells of a connection that comes to nothing.
pub fn refused(conn: &Conn, reason: Reason) {
    let (view, listener) = conn.view();
    let now = Instant::now();
    let wanted = conn.worker.shared.access.wants(true, now, &mut *conn.worker.rng.borrow_mut());
    if wanted {
        let start = conn.accepted.get().unwrap_or(now);
        log(conn, &view.snapshot, listener, start, &Facts::default(), reason);
    }
}

#[derive(Default)]
struct Facts {
    /// The entry of `authorization` that denied it.
    denied: Option<Arc<str>>,
    server_name: Option<Box<str>>,
    side: Option<usize>,
    endpoint: Option<Address>,
    count: Relayed,
}

/// Both ends, and what holds for what goes between them.
struct Reached {
    client: Stream,
    upstream: Stream,
    early: (Bytes, Bytes),
    view: Rc<View>,
    route: usize,
    grant: Box<Grant>,
    over: Option<Instant>,
    _load: Load,
    _hold: Hold,
}

/// Decides, and connects.
async fn reach(conn: &Rc<Conn>, client: Stream, first: First) -> (Facts, Result<Box<Reached>, Reason>) {
    let First { early, server_name, is_tls, raced } = first;
    let mut facts = Facts { server_name, ..Facts::default() };
    let ahead = conn.ahead.take();
    let (plan, raced) = match raced {
        Some(Raced { plan, upstream, spoken }) => (Ok(plan), Some((upstream, spoken))),
        None => (Plan::new(conn, facts.server_name.as_deref()), None),
    };
    let mut plan = match plan {
        Ok(plan) => plan,
        Err(Refused { reason, denied, side }) => {
            (facts.denied, facts.side) = (denied, side);
            return (facts, Err(reason));
        }
    };
    let raced = match ahead.filter(|ahead| ahead.route == plan.route && !(is_tls && plan.is_simple())) {
        Some(ahead) if raced.is_none() => {
            (plan.side, plan.load, plan.pool) = (ahead.side, Load::new(&ahead.pool), ahead.pool);
            match ahead.arrives.await {
                // It has waited for as long as it may.
                Err(Reason::Limit) => return (facts, Err(Reason::Limit)),
                arrived => arrived.ok(),
            }
        }
        _ => raced,
    };
    facts.side = Some(plan.side);
    facts.endpoint = Some(plan.pool.address.clone());
    let (dialled, spoken) = match raced {
        Some((upstream, spoken)) => (Ok(upstream), spoken),
        None => {
            let to = conn.original.or(client.socket().local_addr().ok());
            (plan.connecting(conn, to, is_tls).await, Bytes::new())
        }
    };
    let Dialled { stream: upstream, lifetime, hold, .. } = match dialled {
        Ok(dialled) => dialled,
        Err(reason) => {
            // As if nobody stood between.
            if conn.original.is_some() {
                client.break_off();
            }
            return (facts, Err(reason));
        }
    };
    let Plan { view, route, grant, load, .. } = plan;
    let (early, over) = ((early, spoken), lifetime.map(|lifetime| lifetime.hard));
    (facts, Ok(Box::new(Reached { client, upstream, early, view, route, grant, over, _load: load, _hold: hold })))
}

/// Relays to the end.
async fn carry(conn: &Conn, mut reached: Box<Reached>, facts: &mut Facts) -> Reason {
    let Reached { client, upstream, early, view, route, grant, over, .. } = &mut *reached;
    let Some(route) = view.snapshot.routes.get(*route) else { return Reason::NoRoute };
    let mut denied = None;
    let stop = |cx: &mut Context<'_>| {
        conn.place.attention.register(cx.waker());
        denied = grant.denied();
        denied.is_some() || conn.cut().is_some()
    };
    let counters = &conn.worker.counters;
    let moved = |count: &Relayed| {
        counters.tcp_bytes_received.add(count.sent - facts.count.sent);
        counters.tcp_bytes_sent.add(count.received - facts.count.received);
        facts.count = *count;
    };
    // Pinned here: a future that is handed on by value has a place in each that it passes through.
    let end = {
        let relayed = pin!(relay::run(client, upstream, std::mem::take(early), route.tcp_pauses, moved, stop));
        transport::until(*over, relayed).await
    };
    if end == Some(End::Reset) {
        client.break_off();
        upstream.break_off();
    }
    match end {
        Some(End::Closed | End::Reset) => Reason::None,
        Some(End::Idle) => Reason::IdleTimeout,
        Some(End::Stopped) if denied.is_some() => {
            facts.denied = denied;
            Reason::Denied
        }
        Some(End::Stopped) => conn.cut().unwrap_or(Reason::Drained),
        None => Reason::Expired,
    }
}

fn log(conn: &Conn, snapshot: &Snapshot, listener: usize, start: Instant, facts: &Facts, reason: Reason) {
    let labels = snapshot.labels(snapshot.series(listener, facts.side));
    let duration = start.elapsed();
    conn.worker.shared.access.write(&Entry {
        time: SystemTime::now().checked_sub(duration).unwrap_or(SystemTime::UNIX_EPOCH),
        listener: &labels.listener,
        route: &labels.route,
        service: &labels.service,
        subset: &labels.subset,
        endpoint: facts.endpoint.as_ref(),
        method: "",
        host: facts.server_name.as_deref().unwrap_or_default().as_bytes(),
        path: b"",
        protocol: "TCP",
        status: 0,
        grpc_status: None,
        reason,
        authorization: facts.denied.as_deref().unwrap_or_default(),
        producer: reason.producer(),
        peer_reason: "",
        limit: "",
        circuit: "",
        fault: "",
        duration,
        upstream_duration: None,
        request_bytes: facts.count.sent,
        response_bytes: facts.count.received,
        peer: &conn.peer,
        peer_identity: conn.identity().map_or("", SpiffeId::as_str),
        tls_version: conn.tls.get().map_or("", |tls| tls.version),
        server_name: facts.server_name.as_deref().unwrap_or_default(),
        request_id: b"",
        trace_id: 0,
        span_id: 0,
        user_agent: b"",
        attempts: u32::from(facts.endpoint.is_some()),
        attributes: &[],
    });
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::{Conn, First, Stream, run};

    /// What an idle connection costs, besides its sockets and what every connection has.
    #[test]
    fn the_future_of_a_relay_is_small() {
        fn size<'a, R: 'a>(_: impl Fn(&'a Rc<Conn>, Stream, First) -> R) -> usize {
            size_of::<R>()
        }
        let sizes = [size(run), size_of::<super::Reached>()];
        assert!(sizes.iter().sum::<usize>() <= 1000, "{sizes:?}");
    }
}

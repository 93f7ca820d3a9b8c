//! A connection that is relayed without being understood: one decision, one upstream connection, bytes both ways.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::time::{Instant, SystemTime};

use bytes::Bytes;

use crate::decide;
use crate::error::Reason;
use crate::identity::Alpn;
use crate::inbound::Conn;
use crate::inbound::grant::Grant;
use crate::net::relay::{self, End, Relayed};
use crate::net::stream::Stream;
use crate::policy::split;
use crate::snapshot::{Kind, Snapshot};
use crate::telemetry::access::Entry;
use crate::upstream::pool::Load;
use crate::upstream::transport::{self, Dialled};
use crate::wire::proxy_protocol;
use crate::wire::spiffe::SpiffeId;

/// Serves the connection to its end. `early` was read from it before; `server_name` is whom a client of TLS asks for.
pub async fn run(conn: &Rc<Conn>, client: Stream, early: Bytes, server_name: Option<Box<str>>) -> Reason {
    let start = Instant::now();
    let (view, listener) = conn.view();
    let counters = &conn.worker.counters;
    counters.tcp_connections.inc();
    counters.tcp_active.inc();
    let mut facts = Facts::default();
    let reason = proxy(conn, client, early, server_name, &mut facts).await;
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

#[derive(Default)]
struct Facts {
    /// The entry of `authorization` that denied it.
    denied: Option<Arc<str>>,
    server_name: Option<Box<str>>,
    side: Option<usize>,
    endpoint: Option<std::net::SocketAddr>,
    count: Relayed,
}

async fn proxy(
    conn: &Rc<Conn>,
    mut client: Stream,
    early: Bytes,
    server_name: Option<Box<str>>,
    facts: &mut Facts,
) -> Reason {
    let (view, index) = conn.view();
    let snapshot = &view.snapshot;
    let Some(listener) = snapshot.listeners.get(index) else { return Reason::NoRoute };
    facts.server_name = server_name;
    let draw = || split::draw(&mut *conn.worker.rng.borrow_mut());
    let name = facts.server_name.as_deref();
    let decided = match &listener.kind {
        Kind::Tcp(_) => decide::decide_tcp(snapshot, listener, name, draw),
        Kind::Http { .. } => decide::decide_passthrough(snapshot, listener, name, conn.caller(), draw),
    };
    let Some((route, side, target)) = decided else { return Reason::NoRoute };
    facts.side = Some(route.first_side + side);
    let mut grant = Grant::of_connection(conn, &route.name);
    facts.denied = grant.denied();
    if facts.denied.is_some() {
        return Reason::Denied;
    }
    let (Some(service), Some(cluster)) = (snapshot.services.get(target.service), view.clusters.get(target.service))
    else {
        return Reason::NoEndpoint;
    };
    let pool = cluster.pick(service, target.subset, &mut *conn.worker.rng.borrow_mut());
    let Some(pool) = pool else { return Reason::NoEndpoint };
    facts.endpoint = Some(pool.address);
    let opening = service.proxy_protocol.map_or_else(Vec::new, |version| {
        proxy_protocol::header(version, Some(conn.peer), client.socket().local_addr().ok())
    });
    let load = Load::new(&pool);
    let dialled = transport::dial(&pool, service.connect_timeout, Alpn::Tcp, &conn.worker, &opening).await;
    let Dialled { stream: mut upstream, lifetime, port: _port, .. } = match dialled {
        Ok(dialled) => dialled,
        Err(reason) => return reason,
    };
    let over = lifetime.map(|lifetime| lifetime.hard);
    let mut denied = None;
    let stop = |cx: &mut Context<'_>| {
        conn.place.attention.register(cx.waker());
        denied = grant.denied();
        denied.is_some() || conn.cut().is_some()
    };
    let early = (early, Bytes::new());
    let counters = &conn.worker.counters;
    let moved = |count: &Relayed| {
        counters.tcp_bytes_received.add(count.sent - facts.count.sent);
        counters.tcp_bytes_sent.add(count.received - facts.count.received);
        facts.count = *count;
    };
    // Pinned here: a future that is handed on by value has a place in each that it passes through.
    let end = {
        let relayed = pin!(relay::run(&mut client, &mut upstream, early, route.tcp_idle, moved, stop));
        transport::until(over, relayed).await
    };
    drop(load);
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
        endpoint: facts.endpoint,
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
        duration,
        upstream_duration: None,
        request_bytes: facts.count.sent,
        response_bytes: facts.count.received,
        peer: conn.peer,
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

//! After a 101: bytes both ways between the client and the upstream that agreed to the new protocol.

use std::pin::pin;
use std::rc::Rc;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::tracked::End;
use crate::error::Reason;
use crate::inbound::Conn;
use crate::inbound::grant::Grant;
use crate::net::relay::{self, Pauses, Relayed};
use crate::net::stream::Stream;
use crate::upstream::h1::Freed;
use crate::upstream::transport;

/// The upstream's side of an upgrade.
pub struct Tunnel {
    /// Once hyper has let go of it.
    pub socket: oneshot::Receiver<Freed>,
    pub exchange: Box<End>,
    pub pauses: Pauses,
}

/// Relays until both sides have ended. A reload does not cut it, unless authorization now denies what was asked for; the
/// end of the drain time does.
pub async fn run(conn: &Rc<Conn>, mut client: Stream, early: Bytes) -> Reason {
    let Some(tunnel) = conn.upgrade.borrow_mut().take() else { return Reason::None };
    let Tunnel { socket, mut exchange, pauses } = tunnel;
    let record = &mut exchange.record;
    let Ok(Freed { hold: _hold, stream: mut upstream, ahead, over }) = socket.await else {
        record.reason = Reason::UpstreamReset;
        return Reason::UpstreamReset;
    };
    conn.worker.counters.upgrades_active.inc();
    let upload = record.upload.clone();
    let mut received = 0;
    let moved = |count: &Relayed| {
        upload.bytes.set(count.sent);
        received = count.received;
    };
    let mut grant = record.grant();
    let mut denied = None;
    let stop = |cx: &mut std::task::Context<'_>| {
        conn.place.attention.register(cx.waker());
        denied = grant.as_mut().and_then(Grant::denied);
        denied.is_some() || conn.cut().is_some()
    };
    let end = {
        let relayed = pin!(relay::run(&mut client, &mut upstream, (early, ahead), pauses, moved, stop));
        transport::until(over, relayed).await
    };
    if end == Some(relay::End::Reset) {
        client.break_off();
        upstream.break_off();
    }
    conn.worker.counters.upgrades_active.dec();
    record.response_bytes = received;
    record.reason = match end {
        Some(relay::End::Closed | relay::End::Reset) => Reason::None,
        Some(relay::End::Idle) => Reason::IdleTimeout,
        Some(relay::End::Stopped) if denied.is_some() => Reason::Denied,
        Some(relay::End::Stopped) => conn.cut().unwrap_or(Reason::Drained),
        None => Reason::Expired,
    };
    record.denied = denied;
    record.reason
}

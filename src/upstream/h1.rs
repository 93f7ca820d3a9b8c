//! HTTP/1 connections of a pool: a stack of unused ones, the last used first, so that few stay warm and the rest age.
//!
//! An unused connection stays with hyper, which notices when the peer closes it or sends what nobody asked for.

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use tokio::sync::oneshot;

use super::ceiling::{Entered, Place};
use super::h2;
use super::pool::{Limits, Lined, Open, Pool};
use super::transport::{self, Dialled, Hold};
use crate::body::Upload;
use crate::error::Reason;
use crate::identity::Alpn;
use crate::net::clock;
use crate::net::io::{Activity, Ended, Io};
use crate::net::stream::Stream;
use crate::worker::Worker;

/// Longest that a connection may lie unused before it is asked, through the event loop, whether it still lives.
const ASK_AFTER: Duration = Duration::from_millis(5);
/// Head of an answer: bytes, and lines (as many as hyper keeps without an allocation, and as HAProxy and Envoy take).
const MAX_HEAD: usize = 256 * 1024;
const MAX_HEADERS: usize = 100;

/// A connection on the stack.
pub struct Idle {
    sender: SendRequest<Upload>,
    state: Rc<State>,
    pub expires: Instant,
}

impl Idle {
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Closes it; that tells nothing of how long the peer would have kept it.
    pub fn discard(self) {
        if !self.sender.is_closed() {
            self.state.unused.set(None);
        }
    }
}

/// A connection that hyper has let go of, after an upgrade.
pub struct Freed {
    pub stream: Stream,
    /// Read ahead.
    pub ahead: Bytes,
    /// When what was proven at its start holds no more.
    pub over: Option<Instant>,
    pub hold: Hold,
}

/// What the lender and the driver of one connection know of it.
struct State {
    uses: Cell<u64>,
    /// Since when unused; `None` while lent.
    unused: Cell<Option<Instant>>,
    /// The socket itself, once hyper has let go of it after an upgrade.
    upgraded: Cell<Option<oneshot::Sender<Freed>>>,
    /// From here on no request is begun on it.
    ends: Option<Instant>,
    /// The peer has sent no byte yet since the request was lent the connection.
    activity: Rc<Activity>,
}

/// The right to one request on one connection.
pub struct Lease {
    pub sender: SendRequest<Upload>,
    pool: Rc<Pool>,
    state: Rc<State>,
    /// Others used the connection before.
    pub reused: bool,
    /// Time that making the connection took.
    pub connecting: Duration,
    /// The socket itself, after an answer 101.
    pub upgraded: Option<oneshot::Receiver<Freed>>,
}

/// An unused connection, a new one, or a wait for either.
pub async fn checkout(pool: &Rc<Pool>, limits: &Limits, worker: &Rc<Worker>) -> Result<Lease, Reason> {
    loop {
        if let Some(lease) = reuse(pool, limits).await {
            worker.counters.upstream_reused.inc();
            return Ok(lease);
        }
        if pool.open() < limits.max {
            // Rare, and large: not in the future of every request.
            let made = Box::pin(make(pool, limits, worker)).await;
            if let Some(made) = made.transpose() {
                return made;
            }
        }
        h2::evict(pool);
        pool.waiting_h1.wait(limits.max_pending).await?;
    }
}

/// A new connection; or, while there is no place for it, what is given back. None where others were first.
async fn make(pool: &Rc<Pool>, limits: &Limits, worker: &Rc<Worker>) -> Result<Option<Lease>, Reason> {
    let place = match pool.enter()? {
        Entered::Place(place) => place,
        Entered::Line(mut line) => {
            let _lined = Lined::new(pool);
            let mut place = pin!(line.place(Instant::now()));
            loop {
                let place = tokio::select! {
                    biased;
                    place = &mut place => Some(place),
                    // As many as there may be in line.
                    word = pool.in_line.wait(usize::MAX) => word.map(|()| None)?,
                };
                // What has been given back for us is not left lying, whatever has come of the place.
                if let Some(lease) = reuse(pool, limits).await {
                    worker.counters.upstream_reused.inc();
                    return Ok(Some(lease));
                }
                if let Some(place) = place {
                    break place?;
                }
            }
        }
    };
    if pool.open() >= limits.max {
        return Ok(None);
    }
    dial(pool, place, limits, worker).await.map(Some)
}

/// Makes room for a connection of another kind.
pub fn evict(pool: &Pool) {
    if let Some(idle) = pool.idle.borrow_mut().pop() {
        idle.discard();
    }
}

/// Closes unused connections, the coldest first, for as long as one more may be. Returns whether none is left.
pub(super) fn close_unused(pool: &Pool, may: &impl Fn() -> bool) -> bool {
    let mut all = pool.idle.borrow_mut();
    all.retain(|idle| !idle.is_closed());
    let promised = pool.waiting_h1.called() + pool.in_line.called();
    let count = (promised..all.len()).take_while(|_| may()).count();
    all.drain(..count).for_each(Idle::discard);
    all.is_empty()
}

async fn reuse(pool: &Rc<Pool>, limits: &Limits) -> Option<Lease> {
    loop {
        let idle = pool.idle.borrow_mut().pop()?;
        let now = clock::recent();
        let age = idle.state.unused.get().map_or(Duration::ZERO, |since| now.duration_since(since));
        if idle.sender.is_closed() || now >= idle.expires || age >= pool.trusted_idle(limits.idle_timeout) {
            idle.discard();
            continue;
        }
        if age > ASK_AFTER {
            // One turn of the event loop: if the peer has closed, its FIN is seen before we go on.
            tokio::task::yield_now().await;
            if idle.sender.is_closed() {
                continue;
            }
        }
        idle.state.unused.set(None);
        idle.state.activity.started.set(false);
        return Some(Lease {
            sender: idle.sender,
            pool: pool.clone(),
            state: idle.state,
            reused: true,
            connecting: Duration::ZERO,
            upgraded: None,
        });
    }
}

/// Puts a connection that was made for HTTP/2, and on which the peer would rather speak HTTP/1, on the stack.
pub(super) async fn adopt(pool: &Rc<Pool>, dialled: Dialled, limits: &Limits, worker: &Rc<Worker>) {
    if let Ok(lease) = lend(pool, dialled, limits, Instant::now(), worker).await {
        lease.push(limits.idle_timeout);
    }
}

/// A connection that is not on the stack.
pub async fn connect(pool: &Rc<Pool>, limits: &Limits, worker: &Rc<Worker>) -> Result<Lease, Reason> {
    let place = pool.place().await?;
    dial(pool, place, limits, worker).await
}

async fn dial(pool: &Rc<Pool>, place: Place, limits: &Limits, worker: &Rc<Worker>) -> Result<Lease, Reason> {
    let (begun, open) = (Instant::now(), Open::new(pool));
    let dialled = transport::dial(pool, limits.connect_timeout, Alpn::Http1, worker, &[]).await?;
    lend(pool, dialled.holding(place, Some(open)), limits, begun, worker).await
}

/// Speaks HTTP/1 on a connection that has been made.
async fn lend(
    pool: &Rc<Pool>,
    dialled: Dialled,
    limits: &Limits,
    begun: Instant,
    worker: &Rc<Worker>,
) -> Result<Lease, Reason> {
    let Dialled { stream, lifetime, hold, .. } = dialled;
    let counters = worker.counters.clone();
    let activity = Activity::new(Instant::now());
    let io = Io::holding(stream, activity.clone(), hold);
    let (sender, connection) = http1::Builder::new()
        .preserve_header_case(limits.preserve_case)
        .max_headers(MAX_HEADERS)
        .max_header_size(MAX_HEAD)
        .handshake(io)
        .await
        .map_err(|_| Reason::ConnectFailed)?;
    let state = Rc::new(State {
        uses: Cell::new(0),
        unused: Cell::new(None),
        upgraded: Cell::new(None),
        ends: lifetime.map(|lifetime| lifetime.soft),
        activity,
    });
    let (driven, pool_of) = (state.clone(), pool.clone());
    counters.upstream_connections_active.inc();
    tokio::task::spawn_local(async move {
        let over = lifetime.map(|lifetime| lifetime.hard);
        drive(connection, &driven, &pool_of, over).await;
        counters.upstream_connections_active.dec();
    });
    Ok(Lease { sender, pool: pool.clone(), state, reused: false, connecting: begun.elapsed(), upgraded: None })
}

async fn drive(mut connection: http1::Connection<Io<Hold>, Upload>, state: &State, pool: &Pool, over: Option<Instant>) {
    // By reference, so that the socket can be had back after an upgrade.
    match transport::until(over, &mut connection).await {
        None => return,
        Some(Err(error)) => tracing::debug!(address = %pool.address, %error, "upstream connection"),
        Some(Ok(())) => {}
    }
    if let Some(upgraded) = state.upgraded.take() {
        let parts = connection.into_parts();
        let (stream, ahead, hold) = parts.io.into_parts(parts.read_buf);
        let _ = upgraded.send(Freed { stream, ahead, over, hold });
        return;
    }
    if let Some(since) = state.unused.take() {
        let now = Instant::now();
        pool.learn(now.duration_since(since), now);
    }
}

impl Lease {
    /// Nothing has come back on the connection since it was lent.
    pub fn is_silent(&self) -> bool {
        !self.state.activity.started.get()
    }

    pub fn ended(&self) -> Ended {
        self.state.activity.ended.get()
    }

    /// Asks for the socket itself, to be had after an answer 101. Before the request is sent.
    pub fn want_upgrade(&mut self) {
        let (sender, receiver) = oneshot::channel();
        self.state.upgraded.set(Some(sender));
        self.upgraded = Some(receiver);
    }

    /// The peer announced how long it keeps an unused connection (`Keep-Alive: timeout=N`).
    pub fn announced(&self, timeout: Duration) {
        self.pool.learn(timeout, Instant::now());
    }

    /// After the whole answer: back onto the stack, now or as soon as hyper is ready for another request.
    pub fn give_back(mut self, limits: &Limits) {
        let uses = self.state.uses.get() + 1;
        self.state.uses.set(uses);
        let aged = self.state.ends.is_some_and(|ends| ends <= clock::recent());
        if uses >= limits.max_requests || aged || self.sender.is_closed() {
            return;
        }
        let idle_timeout = limits.idle_timeout;
        if self.sender.is_ready() {
            return self.put(idle_timeout);
        }
        tokio::task::spawn_local(async move {
            // Bounded: a connection that never becomes ready is still uploading, and that has its own watch.
            if self.sender.ready().await.is_ok() {
                self.put(idle_timeout);
            }
        });
    }

    fn put(self, idle_timeout: Duration) {
        if !self.pool.recalls(self.pool.waiting_h1.is_wanted()) {
            self.push(idle_timeout);
        }
    }

    fn push(self, idle_timeout: Duration) {
        if self.pool.is_retired() {
            return;
        }
        let now = clock::recent();
        self.state.unused.set(Some(now));
        let expires = now + self.pool.trusted_idle(idle_timeout);
        let expires = self.state.ends.map_or(expires, |ends| expires.min(ends));
        self.pool.idle.borrow_mut().push(Idle { sender: self.sender, state: self.state, expires });
        self.pool.kept();
        if !self.pool.waiting_h1.wake_one() {
            self.pool.in_line.wake_one();
        }
    }
}

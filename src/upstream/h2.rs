//! HTTP/2 connections of a pool. hyper reports only whether a connection is closed, and would queue any number of
//! requests inside it; so the streams are counted here against the limit that the peer has published, and when all
//! connections are full another one is made, or the request waits in the pool's own queue.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::client::conn::http2::{self, SendRequest};
use tokio::sync::oneshot;

use super::ceiling::{Entered, Place};
use super::h1;
use super::pool::{Limits, Lined, Open, Pool};
use super::transport::{self, Dialled, Hold};
use crate::body::Upload;
use crate::error::Reason;
use crate::identity::{self, Alpn};
use crate::net::clock;
use crate::net::io::{Activity, Ended, Io};
use crate::net::stream::Stream;
use crate::worker::{LocalExec, Worker};

/// Streams at a time on one connection, whatever the peer allows.
const MAX_STREAMS: usize = 100;
/// Longest that a connection may lie unused before it is asked, through the event loop, whether it still lives.
const ASK_AFTER: Duration = Duration::from_millis(5);
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Head of an answer (SETTINGS_MAX_HEADER_LIST_SIZE).
const MAX_HEAD: u32 = 256 * 1024;

/// A connection, shared by its streams.
#[derive(Debug)]
pub struct Shared {
    sender: SendRequest<Upload>,
    streams: Cell<usize>,
    max: Cell<usize>,
    uses: Cell<u64>,
    max_requests: u64,
    pub idle_timeout: Duration,
    used: Cell<Instant>,
    /// From here on no stream is begun on it.
    ends: Option<Instant>,
    activity: Rc<Activity>,
}

impl Shared {
    fn is_aged(&self, now: Instant) -> bool {
        self.ends.is_some_and(|ends| ends <= now)
    }

    fn has_room(&self) -> bool {
        !self.sender.is_closed() && self.streams.get() < self.max.get() && self.uses.get() < self.max_requests
    }

    /// Whether it stays in the pool; a connection that leaves it ends with its last stream.
    pub fn keep(&self, now: Instant, idle_timeout: Duration) -> bool {
        let idle = self.streams.get() == 0 && now.duration_since(self.used.get()) >= idle_timeout;
        !self.sender.is_closed() && self.uses.get() < self.max_requests && !idle && !self.is_aged(now)
    }
}

/// The right to one stream.
pub struct Lease {
    shared: Rc<Shared>,
    pool: Rc<Pool>,
    pub reused: bool,
    /// Time that making the connection took.
    pub connecting: Duration,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.shared.streams.set(self.shared.streams.get().saturating_sub(1));
        self.shared.used.set(clock::recent());
        let is_unused = self.shared.streams.get() == 0 && !self.shared.sender.is_closed();
        let is_wanted = || self.pool.waiting_h2.is_wanted() || self.pool.waiting_h2.called() > 0;
        if is_unused && self.pool.recalls(is_wanted()) {
            self.pool.shared.borrow_mut().retain(|shared| !Rc::ptr_eq(shared, &self.shared));
        } else if is_unused {
            self.pool.kept();
        }
        self.pool.waiting_h2.wake_one();
    }
}

impl Lease {
    pub fn sender(&self) -> SendRequest<Upload> {
        self.shared.sender.clone()
    }

    pub fn ended(&self) -> Ended {
        self.shared.activity.ended.get()
    }
}

pub async fn checkout(pool: &Rc<Pool>, limits: &Limits, worker: &Rc<Worker>) -> Result<Lease, Reason> {
    let mut waits = None;
    loop {
        if let Some(lease) = reuse(pool).await {
            worker.counters.upstream_reused.inc();
            return Ok(lease);
        }
        // One handshake for all who wait, not one for each.
        if !pool.connecting.get() && pool.open() < limits.max {
            match pool.enter() {
                Ok(entered) => {
                    let since = *waits.get_or_insert_with(Instant::now);
                    // Rare, and large: not in the future of every request.
                    return Box::pin(make(pool, (entered, since), limits, worker)).await;
                }
                Err(reason) if pool.shared.borrow().is_empty() => return Err(reason),
                // Those that there are may have streams again.
                Err(reason) => {
                    let end = *waits.get_or_insert_with(Instant::now) + pool.patience();
                    let waited = pool.waiting_h2.wait(limits.max_pending);
                    tokio::time::timeout_at(end.into(), waited).await.map_err(|_| reason)??;
                    continue;
                }
            }
        }
        if !pool.connecting.get() {
            h1::evict(pool);
        }
        waits.get_or_insert_with(Instant::now);
        pool.waiting_h2.wait(limits.max_pending).await?;
    }
}

/// A new connection; or, while there is no place for it, a stream that becomes free.
async fn make(
    pool: &Rc<Pool>,
    (entered, since): (Entered, Instant),
    limits: &Limits,
    worker: &Rc<Worker>,
) -> Result<Lease, Reason> {
    let mut connecting = Connecting::begin(pool);
    let place = match entered {
        Entered::Place(place) => place,
        Entered::Line(mut line) => {
            let _lined = Lined::new(pool);
            let mut place = pin!(line.place(since));
            loop {
                let place = tokio::select! {
                    biased;
                    place = &mut place => Some(place),
                    () = pool.waiting_h2.call_of(limits.max_pending) => None,
                };
                if let Some(lease) = reuse(pool).await {
                    worker.counters.upstream_reused.inc();
                    connecting.made = false;
                    return Ok(lease);
                }
                if let Some(place) = place {
                    break place?;
                }
            }
        }
    };
    let begun = Instant::now();
    let connected = connect(pool, place, limits, worker).await;
    // What was asked for is not what all who wait need: they try for themselves.
    connecting.word = match &connected {
        Err(reason) if limits.http1_will_do || !pool.is_secure() => Err(*reason),
        Ok(_) | Err(_) => Ok(()),
    };
    drop(connecting);
    Ok(lend(&connected?, pool, Some(begun.elapsed())))
}

/// While a connection is being made. Those who wait look again, or share the failure; if whoever makes it leaves,
/// one of them takes over.
struct Connecting {
    pool: Rc<Pool>,
    /// It was tried at least.
    made: bool,
    word: Result<(), Reason>,
}

impl Connecting {
    fn begin(pool: &Rc<Pool>) -> Self {
        pool.connecting.set(true);
        Self { pool: pool.clone(), made: true, word: Ok(()) }
    }
}

impl Drop for Connecting {
    fn drop(&mut self) {
        self.pool.connecting.set(false);
        match self.made {
            true => self.pool.waiting_h2.tell_all(self.word),
            false => _ = self.pool.waiting_h2.wake_one(),
        }
    }
}

/// Makes room for a connection of another kind.
pub fn evict(pool: &Pool) {
    let mut all = pool.shared.borrow_mut();
    if let Some(unused) = all.iter().position(|shared| shared.streams.get() == 0) {
        all.swap_remove(unused);
    }
}

/// Closes unused connections for as long as one more may be. Returns whether none is left.
pub(super) fn close_unused(pool: &Pool, may: &impl Fn() -> bool) -> bool {
    let is_unused = |shared: &Rc<Shared>| shared.streams.get() == 0 && !shared.sender.is_closed();
    let mut all = pool.shared.borrow_mut();
    if pool.waiting_h2.called() == 0 {
        all.retain(|shared| !(is_unused(shared) && may()));
    }
    !all.iter().any(is_unused)
}

async fn reuse(pool: &Rc<Pool>) -> Option<Lease> {
    loop {
        let shared = {
            let mut all = pool.shared.borrow_mut();
            let now = clock::recent();
            all.retain(|shared| shared.keep(now, pool.trusted_idle(shared.idle_timeout)));
            all.iter().find(|shared| shared.has_room())?.clone()
        };
        let idle = shared.streams.get() == 0;
        if idle && clock::recent().saturating_duration_since(shared.used.get()) > ASK_AFTER {
            // One turn of the event loop: if the peer has closed or said goodbye, that is seen before we go on.
            shared.used.set(clock::recent());
            tokio::task::yield_now().await;
            // Or we have closed it, for the sake of another.
            let is_there = pool.shared.borrow().iter().any(|known| Rc::ptr_eq(known, &shared));
            if !is_there || !shared.has_room() {
                continue;
            }
        }
        return Some(lend(&shared, pool, None));
    }
}

/// `made` is how long it took to make the connection, where that has just been done.
fn lend(shared: &Rc<Shared>, pool: &Rc<Pool>, made: Option<Duration>) -> Lease {
    shared.streams.set(shared.streams.get() + 1);
    shared.uses.set(shared.uses.get() + 1);
    Lease { shared: shared.clone(), pool: pool.clone(), reused: made.is_none(), connecting: made.unwrap_or_default() }
}

async fn connect(pool: &Rc<Pool>, place: Place, limits: &Limits, worker: &Rc<Worker>) -> Result<Rc<Shared>, Reason> {
    let open = Open::new(pool);
    let failed = |reason: &Reason| worker.counters.upstream_connect_failures.inc(*reason);
    let alpn = if limits.http1_will_do { Alpn::Either } else { Alpn::Http2 };
    let dialled = transport::dial(pool, limits.connect_timeout, alpn, worker, &[]).await?.holding(place, Some(open));
    if matches!(dialled.stream, Stream::Tls(_)) && limits.http1_will_do && !dialled.http2 {
        h1::adopt(pool, dialled, limits, worker).await;
        return Err(Reason::UpstreamProtocol);
    }
    let Dialled { stream, lifetime, http2: is_agreed, hold } = dialled;
    let activity = Activity::new(Instant::now());
    let mut io = Io::holding(stream, activity.clone(), hold);
    let first_byte = io.first_byte();
    let (sender, connection) = http2::Builder::new(LocalExec)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEAD)
        .handshake(io)
        .await
        .map_err(|_| Reason::ConnectFailed)?;
    let shared = Rc::new(Shared {
        sender,
        streams: Cell::new(0),
        max: Cell::new(MAX_STREAMS),
        uses: Cell::new(0),
        max_requests: limits.max_requests,
        idle_timeout: limits.idle_timeout,
        used: Cell::new(Instant::now()),
        ends: lifetime.map(|lifetime| lifetime.soft),
        activity,
    });
    let over = lifetime.map(|lifetime| lifetime.hard);
    let (ready, greeted) = oneshot::channel();
    drive(connection, Rc::downgrade(&shared), Greeting { first_byte, ready: Some(ready) }, pool, over, worker);
    // The first bytes of a server are its SETTINGS, with the limit of streams.
    match tokio::time::timeout(limits.connect_timeout, greeted).await {
        Ok(Ok(())) => {}
        // It agreed to HTTP/2, and then would not speak: to us, that is.
        Ok(Err(_)) if is_agreed => {
            worker.counters.upstream_handshake_failures.inc(identity::Failure::RefusedByPeer);
            return Err(Reason::UpstreamTls).inspect_err(failed);
        }
        Ok(Err(_)) => return Err(Reason::UpstreamProtocol).inspect_err(failed),
        Err(_) => return Err(Reason::ConnectTimeout).inspect_err(failed),
    }
    if !pool.is_retired() {
        pool.shared.borrow_mut().push(shared.clone());
    }
    Ok(shared)
}

/// Between the first byte of a server and those who wait for it.
struct Greeting {
    first_byte: oneshot::Receiver<()>,
    ready: Option<oneshot::Sender<()>>,
}

impl Greeting {
    fn poll(&mut self, cx: &mut Context<'_>) {
        if self.ready.is_some()
            && Pin::new(&mut self.first_byte).poll(cx) == Poll::Ready(Ok(()))
            && let Some(ready) = self.ready.take()
        {
            let _ = ready.send(());
        }
    }
}

fn drive(
    mut connection: http2::Connection<Io<Hold>, Upload, LocalExec>,
    shared: std::rc::Weak<Shared>,
    mut greeting: Greeting,
    pool: &Rc<Pool>,
    over: Option<Instant>,
    worker: &Rc<Worker>,
) {
    let (counters, pool) = (worker.counters.clone(), pool.clone());
    counters.upstream_connections_active.inc();
    tokio::task::spawn_local(async move {
        let driven = poll_fn(|cx| {
            let polled = Pin::new(&mut connection).poll(cx);
            if polled.is_pending() {
                if let Some(shared) = shared.upgrade() {
                    shared.max.set(connection.current_max_send_streams().min(MAX_STREAMS));
                }
                greeting.poll(cx);
            }
            polled
        });
        if let Some(Err(error)) = transport::until(over, driven).await {
            tracing::debug!(address = %pool.address, %error, "upstream connection");
        }
        // Still in the pool, and nobody on it: the peer has ended it.
        if let Some(shared) = shared.upgrade().filter(|shared| shared.streams.get() == 0) {
            let now = Instant::now();
            pool.learn(now.saturating_duration_since(shared.used.get()), now);
        }
        counters.upstream_connections_active.dec();
    });
}

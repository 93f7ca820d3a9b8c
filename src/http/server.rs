//! Drives one downstream connection: waits for its first byte, finds out which HTTP it is, lets hyper speak it, and
//! keeps the clocks: idle, head, and pauses within an exchange.
//!
//! An HTTP/1 connection without a request is parked: hyper and its buffers go, and only the socket stays.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::time::Sleep;

use super::{exchange, fault, reply, upgrade};
use crate::config::schema;
use crate::error::Reason;
use crate::inbound::Conn;
use crate::inbound::handshake::Spoken;
use crate::net::clock;
use crate::net::io::{Activity, Io};
use crate::net::stream::Stream;
use crate::wire::detect::{self, Verdict};

/// An HTTP/1 connection without a request for this long is parked.
const PARK_AFTER: Duration = Duration::from_millis(200);
/// While nothing moves for a request, it is looked whether its client is still there: this often at first, and then less.
const LOOK_MIN: Duration = Duration::from_millis(200);
const LOOK_MAX: Duration = Duration::from_secs(2);
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
const SEND_BUFFER: usize = 128 * 1024;
/// Heads of HTTP/2 are read up to so many times the limit: the codec would refuse them without a reason, and a gRPC
/// client without a status of gRPC.
const HEAD_ROOM: u64 = 2;

/// Serves the connection to its end.
pub async fn run(
    conn: &Rc<Conn>,
    stream: Stream,
    early: Bytes,
    spoken: Option<Spoken>,
    config: &schema::Listener,
) -> Reason {
    let (mut stream, mut early) = (stream, early);
    if spoken == Some(Spoken::Http2) {
        let io = Io::new(stream, early, conn.activity.clone());
        return Box::pin(serve_http2(conn, io, config)).await;
    }
    let mut spoke_http1 = spoken == Some(Spoken::Http1);
    loop {
        // The first bytes, without a codec: an idle connection costs its socket, this task and nothing else.
        let verdict = match first_bytes(conn, &mut stream, &mut early, config).await {
            Ok(verdict) => verdict,
            Err(reason) => {
                stream.farewell();
                return reason;
            }
        };
        let io = Io::new(stream, early, conn.activity.clone());
        if verdict == Verdict::Http2 && !spoke_http1 {
            return Box::pin(serve_http2(conn, io, config)).await;
        }
        match Box::pin(serve_http1(conn, io, config)).await {
            End::Parked(socket, rest) => (stream, early, spoke_http1) = (socket, rest, true),
            End::Upgraded(socket, rest) => return Box::pin(upgrade::run(conn, socket, rest)).await,
            End::Closed(reason) => return reason,
        }
    }
}

/// How hyper's part of an HTTP/1 connection ended.
enum End {
    Parked(Stream, Bytes),
    Upgraded(Stream, Bytes),
    Closed(Reason),
}

/// Reads until HTTP/1 and HTTP/2 can be told apart.
async fn first_bytes(
    conn: &Conn,
    stream: &mut Stream,
    early: &mut Bytes,
    config: &schema::Listener,
) -> Result<Verdict, Reason> {
    let parked = Parked::new(conn);
    let mut timer = std::pin::pin!(tokio::time::sleep(*config.idle_timeout));
    let mut bytes = BytesMut::from(&**early);
    let verdict = poll_fn(|cx| {
        conn.place.attention.register(cx.waker());
        // An idle connection does not keep an old snapshot alive.
        drop(conn.view());
        loop {
            match detect::detect(&bytes) {
                Verdict::More => {}
                // Whatever is not the preface of HTTP/2 is for the HTTP/1 codec to judge.
                verdict => return Poll::Ready(Ok(verdict)),
            }
            let mut chunk = [0; detect::PREFACE.len()];
            let mut buf = ReadBuf::new(&mut chunk);
            match Pin::new(&mut *stream).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if buf.filled().is_empty() && bytes.is_empty() => {
                    return Poll::Ready(Err(Reason::None));
                }
                Poll::Ready(Ok(())) if buf.filled().is_empty() => return Poll::Ready(Ok(Verdict::Http1)),
                Poll::Ready(Ok(())) => {
                    if bytes.is_empty() {
                        timer.as_mut().reset(tokio::time::Instant::now() + *config.header_timeout);
                    }
                    bytes.extend_from_slice(buf.filled());
                }
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Reason::ClientReset)),
                Poll::Pending if bytes.is_empty() && conn.is_closed() => return Poll::Ready(Err(Reason::None)),
                Poll::Pending => {
                    if let Some(reason) = conn.forced() {
                        return Poll::Ready(Err(reason));
                    }
                    ready!(timer.as_mut().poll(cx));
                    let reason = if bytes.is_empty() { Reason::None } else { Reason::HeaderTimeout };
                    return Poll::Ready(Err(reason));
                }
            }
        }
    })
    .await;
    drop(parked);
    if let Err(Reason::HeaderTimeout) = verdict {
        return Err(too_slow(conn, stream));
    }
    *early = bytes.freeze();
    conn.activity.moved.set(clock::tick());
    verdict
}

/// Counts a connection that has no codec.
struct Parked<'a>(&'a Conn);

impl<'a> Parked<'a> {
    fn new(conn: &'a Conn) -> Self {
        conn.worker.counters.connections_parked.inc();
        Self(conn)
    }
}

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        self.0.worker.counters.connections_parked.dec();
    }
}

async fn serve_http1(conn: &Rc<Conn>, io: Io, config: &schema::Listener) -> End {
    let service = service_fn(|request| exchange::run(conn.clone(), conn.activity.clone(), request));
    let mut connection = http1::Builder::new()
        // We look for ourselves: hyper would read ahead of every request, into a buffer of its own.
        .half_close(true)
        .preserve_header_case(config.preserve_header_case)
        .max_headers(config.max_headers as usize)
        .max_header_size(usize::try_from(config.max_header_bytes.0).unwrap_or(usize::MAX))
        .header_read_timeout(None)
        .serve_connection(io, service);
    let mut timer = std::pin::pin!(tokio::time::sleep(PARK_AFTER));
    let mut clocks = Http1Clocks { conn, config, draining: false, look: Cell::new(Instant::now()) };
    let ended = poll_fn(|cx| {
        conn.place.attention.register(cx.waker());
        let mut polled = Pin::new(&mut connection).poll(cx);
        // After a poll: what has already come is served, for hyper would close on it.
        if polled.is_pending() && clocks.begin_drain() {
            Pin::new(&mut connection).graceful_shutdown();
            polled = Pin::new(&mut connection).poll(cx);
        }
        match polled {
            Poll::Ready(result) => Poll::Ready(Some(result)),
            Poll::Pending => clocks.poll(cx, timer.as_mut()).map(|()| None),
        }
    })
    .await;
    match ended {
        // The clocks have ended it.
        None => match conn.activity.expired.get() {
            Some(Reason::HeaderTimeout) => {
                let (mut stream, ..) = connection.into_parts().io.into_parts(Bytes::new());
                End::Closed(too_slow(conn, &mut stream))
            }
            Some(reason) => End::Closed(reason),
            None => {
                let parts = connection.into_parts();
                let (stream, rest, ()) = parts.io.into_parts(parts.read_buf);
                End::Parked(stream, rest)
            }
        },
        Some(Ok(())) if conn.upgrade.borrow().is_some() => {
            let parts = connection.into_parts();
            let (stream, rest, ()) = parts.io.into_parts(parts.read_buf);
            End::Upgraded(stream, rest)
        }
        Some(Ok(())) => {
            // A client of TLS may be saying goodbye; that is a record, and unread it would reset the connection.
            if conn.unread.get() || conn.tls.get().is_some() {
                let (stream, ..) = connection.into_parts().io.into_parts(Bytes::new());
                linger(stream).await;
            }
            End::Closed(Reason::None)
        }
        Some(Err(error)) => {
            if std::error::Error::source(&error).is_some_and(|source| source.is::<fault::Reset>()) {
                connection.into_parts().io.into_parts(Bytes::new()).0.break_off();
            }
            End::Closed(closed(conn, &error))
        }
    }
}

/// Takes what the client still sends, for a bounded time: closing on unread bytes would reset the connection, and the
/// client might never see our answer (RFC 9112, section 9.6).
async fn linger(mut stream: Stream) {
    const TIME: Duration = Duration::from_secs(1);
    const BYTES: usize = 1024 * 1024;
    let mut read = 0;
    let drain = async {
        let mut chunk = vec![0; 16 * 1024];
        while read < BYTES {
            match stream.read(&mut chunk).await {
                Ok(0) | Err(_) => return,
                Ok(count) => read += count,
            }
        }
    };
    // Whoever has not finished by then has had its chance.
    let _ = tokio::time::timeout(TIME, drain).await;
}

/// The head did not come in time. hyper has no way to say so.
fn too_slow(conn: &Conn, stream: &mut Stream) -> Reason {
    const REASON: Reason = Reason::HeaderTimeout;
    conn.worker.counters.requests_malformed.inc(REASON);
    stream.last_words(&reply::raw(REASON));
    REASON
}

/// Why hyper gave up on a connection. What it refused never became an exchange, and so is counted here.
fn closed(conn: &Conn, error: &hyper::Error) -> Reason {
    tracing::debug!(peer = %conn.peer, %error, "connection");
    let reason = if error.is_parse_too_large() {
        Reason::HeadTooLarge
    } else if error.is_parse() {
        Reason::BadRequest
    } else {
        return Reason::ClientReset;
    };
    conn.worker.counters.requests_malformed.inc(reason);
    reason
}

struct Http1Clocks<'a> {
    conn: &'a Conn,
    config: &'a schema::Listener,
    draining: bool,
    /// Whether the client is still there is not looked at before.
    look: Cell<Instant>,
}

/// What is due when nothing happens.
#[derive(Clone, Copy)]
enum Due {
    Park,
    /// Whether the client is still there.
    Look,
    End(Reason),
}

impl Http1Clocks<'_> {
    /// Whether a drain has begun that closes connections without a request.
    fn begin_drain(&mut self) -> bool {
        let half_a_head = self.conn.busy.get() == 0 && self.conn.activity.started.get();
        let begins = self.conn.is_closed() && !self.draining && !half_a_head;
        self.draining |= begins;
        begins
    }

    /// Ready when the connection is to be parked, or, with `expired` set, to be ended. The timer is moved only when it
    /// fires, so that a request costs none.
    fn poll(&self, cx: &mut Context<'_>, mut timer: Pin<&mut Sleep>) -> Poll<()> {
        let activity = &self.conn.activity;
        let left = activity.left.get().then_some(Reason::ClientReset);
        if let Some(reason) = self.conn.forced().or(left) {
            activity.expired.set(Some(reason));
            return Poll::Ready(());
        }
        loop {
            let Some((at, due)) = self.due() else { return Poll::Pending };
            if at < timer.deadline().into_std() {
                timer.as_mut().reset(at.into());
            }
            ready!(timer.as_mut().poll(cx));
            let now = Instant::now();
            match due {
                _ if at > now => timer.as_mut().reset(at.into()),
                Due::Park => return Poll::Ready(()),
                Due::End(reason) => {
                    activity.expired.set(Some(reason));
                    return Poll::Ready(());
                }
                Due::Look => {
                    // The codec has the socket, and is asked through it.
                    activity.asked.set(Some(self.config.half_close));
                    let silent = now.saturating_duration_since(activity.moved.get());
                    self.look.set(now + silent.clamp(LOOK_MIN, LOOK_MAX));
                    cx.waker().wake_by_ref();
                }
            }
        }
    }

    /// What happens next if nothing else does.
    fn due(&self) -> Option<(Instant, Due)> {
        let activity = &self.conn.activity;
        if self.conn.busy.get() > 0 || activity.blocked.get() {
            let end = activity.due().map(|(at, reason)| (at, Due::End(reason)));
            let look = (self.look.get().max(activity.moved.get() + LOOK_MIN), Due::Look);
            let look = Some(look).filter(|_| !activity.blocked.get());
            return end.into_iter().chain(look).min_by_key(|(at, _)| *at);
        }
        if activity.started.get() {
            let due = activity.since.get() + *self.config.header_timeout;
            return Some((due, Due::End(Reason::HeaderTimeout)));
        }
        Some((activity.moved.get() + PARK_AFTER, Due::Park))
    }
}

async fn serve_http2(conn: &Rc<Conn>, io: Io, config: &schema::Listener) -> Reason {
    let streams = Streams::default();
    let next = streams.0.clone();
    let service = service_fn(move |request| {
        let activity = Activity::new(clock::recent());
        *next.borrow_mut() = Some(activity.clone());
        // Boxed: on its way into a task of its own it is moved four times.
        Box::pin(exchange::run(conn.clone(), activity, request))
    });
    let connection = http2::Builder::new(streams)
        .max_concurrent_streams(config.max_streams)
        .max_header_list_size(u32::try_from(config.max_header_bytes.0 * HEAD_ROOM).unwrap_or(u32::MAX))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .serve_connection(io, service);
    let mut connection = std::pin::pin!(connection);
    let mut timer = std::pin::pin!(tokio::time::sleep(*config.idle_timeout));
    let mut draining = false;
    let result = poll_fn(|cx| {
        conn.place.attention.register(cx.waker());
        if conn.is_closing() && !draining {
            draining = true;
            connection.as_mut().graceful_shutdown();
        }
        if let Some(reason) = conn.forced() {
            return Poll::Ready(Err(reason));
        }
        if let Poll::Ready(result) = connection.as_mut().poll(cx) {
            return Poll::Ready(result.map_err(|error| closed(conn, &error)));
        }
        loop {
            ready!(timer.as_mut().poll(cx));
            let due = conn.activity.moved.get() + *config.idle_timeout;
            let now = Instant::now();
            if due > now || conn.busy.get() > 0 {
                timer.as_mut().reset(due.max(now + PARK_AFTER).into());
            } else if draining {
                return Poll::Ready(Ok(()));
            } else {
                draining = true;
                connection.as_mut().graceful_shutdown();
                cx.waker().wake_by_ref();
                timer.as_mut().reset((now + *config.header_timeout).into());
            }
        }
    })
    .await;
    result.err().unwrap_or(Reason::None)
}

/// Runs the streams of one HTTP/2 connection, each under its own watch: a stream that its client does not read is
/// not polled by hyper, and so cannot watch over itself.
#[derive(Clone, Default)]
struct Streams(Rc<RefCell<Option<Rc<Activity>>>>);

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future<Output = ()> + 'static,
{
    fn execute(&self, stream: F) {
        // The service has just been called for this very stream.
        let Some(activity) = self.0.borrow_mut().take() else {
            tokio::task::spawn_local(stream);
            return;
        };
        tokio::task::spawn_local(async move {
            let mut stream = std::pin::pin!(stream);
            let mut timer = std::pin::pin!(None::<Sleep>);
            poll_fn(|cx| {
                if stream.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(());
                }
                ready!(watch(&activity, timer.as_mut(), cx));
                // A last turn: the body of a gRPC answer now ends with a status. Where the client takes nothing, hyper
                // does not ask the body, and the stream is reset.
                let _ = stream.as_mut().poll(cx);
                Poll::Ready(())
            })
            .await;
        });
    }
}

/// Ready when the stream is to be ended. Streams that are not yet answered are watched by their exchange.
fn watch(activity: &Activity, mut timer: Pin<&mut Option<Sleep>>, cx: &mut Context<'_>) -> Poll<()> {
    loop {
        let Some((due, reason)) = activity.due() else { return Poll::Pending };
        if timer.is_none() {
            timer.set(Some(tokio::time::sleep_until(due.into())));
        }
        let Some(sleep) = timer.as_mut().as_pin_mut() else { return Poll::Pending };
        ready!(sleep.poll(cx));
        if due <= Instant::now() {
            activity.expired.set(Some(reason));
            return Poll::Ready(());
        }
        timer.set(None);
    }
}

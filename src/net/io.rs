//! The byte stream under a codec: a socket or TLS, the bytes that were read ahead of the codec, and a stamp of the
//! last time that anything moved. The codec owns the stream; whoever watches over the connection owns the stamp.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use hyper::rt::ReadBufCursor;
use tokio::io::AsyncWrite;
use tokio::sync::oneshot;

use super::stream::Stream;
use super::tokio_io::poll_read;
use super::{clock, delivery};
use crate::error::Reason;

/// Up to so many bytes, copying costs less than what `writev` does more than `send`: a head and a small body.
const GATHER: usize = 1024;

/// What a watcher has to know of a connection, or of one stream of HTTP/2: when bytes last moved, whether the peer
/// makes us wait, and how long what runs on it may take.
#[derive(Debug)]
pub struct Activity {
    pub moved: Cell<Instant>,
    /// A byte has come since this was last set to false, and when it did.
    pub started: Cell<bool>,
    pub since: Cell<Instant>,
    /// The peer takes no more bytes for now.
    pub blocked: Cell<bool>,
    /// The end of the exchange whose answer is on its way, and the longest pause in it.
    pub deadline: Cell<Option<Instant>>,
    pub idle: Cell<Duration>,
    /// We wait on purpose, and nobody is to blame for it.
    pub paused: Cell<bool>,
    /// The watcher wants to know whether the peer has left. `true`: to have finished sending is not to have left.
    pub asked: Cell<Option<bool>>,
    pub left: Cell<bool>,
    /// Why the watcher has ended it.
    pub expired: Cell<Option<Reason>>,
    /// Of a connection to a service.
    pub ended: Cell<Ended>,
}

/// How a connection has ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Ended {
    /// It has not, or nothing is known of it.
    #[default]
    Unknown,
    /// What was sent last had not come to the peer when it closed.
    Unheard,
    /// It may have. A round trip takes so many microseconds.
    Heard(u32),
}

impl Activity {
    pub fn new(now: Instant) -> Rc<Self> {
        Rc::new(Self {
            moved: Cell::new(now),
            started: Cell::new(false),
            since: Cell::new(now),
            blocked: Cell::new(false),
            deadline: Cell::new(None),
            idle: Cell::new(Duration::MAX),
            paused: Cell::new(false),
            asked: Cell::new(None),
            left: Cell::new(false),
            expired: Cell::new(None),
            ended: Cell::default(),
        })
    }

    fn came(&self, now: Instant) {
        if !self.started.replace(true) {
            self.since.set(now);
        }
    }

    /// When the watcher has to act if nothing more happens, and why.
    pub fn due(&self) -> Option<(Instant, Reason)> {
        let idle = self.moved.get().checked_add(self.idle.get()).filter(|_| !self.paused.get());
        let idle = idle.map(|at| (at, Reason::IdleTimeout));
        let deadline = self.deadline.get().map(|at| (at, Reason::RequestTimeout));
        match (idle, deadline) {
            (Some(idle), Some(deadline)) => Some(if deadline.0 < idle.0 { deadline } else { idle }),
            (idle, deadline) => idle.or(deadline),
        }
    }
}

/// A wait of our own: it is no idleness of either side. What moved last did so at its end.
pub struct Pause<'a>(&'a Activity);

impl<'a> Pause<'a> {
    pub fn begin(activity: &'a Activity) -> Self {
        activity.paused.set(true);
        Self(activity)
    }
}

impl Drop for Pause<'_> {
    fn drop(&mut self) {
        self.0.paused.set(false);
        self.0.moved.set(clock::tick());
    }
}

/// `hold` is let go of when the socket is closed, and not before.
#[derive(Debug)]
pub struct Io<H = ()> {
    stream: Stream,
    /// Bytes to be read before the socket's.
    prefix: Bytes,
    activity: Rc<Activity>,
    /// Told of the first byte.
    first: Option<oneshot::Sender<()>>,
    /// It is asked at its end whether what was sent has come to the peer.
    asks: bool,
    hold: H,
}

impl Io {
    pub fn new(stream: impl Into<Stream>, prefix: Bytes, activity: Rc<Activity>) -> Self {
        Self { stream: stream.into(), prefix, activity, first: None, asks: false, hold: () }
    }
}

impl<H> Io<H> {
    /// To a service.
    pub fn holding(stream: Stream, activity: Rc<Activity>, hold: H) -> Self {
        Self { stream, prefix: Bytes::new(), activity, first: None, asks: true, hold }
    }

    /// To be told of the first byte that comes.
    pub fn first_byte(&mut self) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.first = Some(sender);
        receiver
    }

    /// The stream, what was read from it but not used (`rest`, before which nothing else is left), and the hold.
    pub fn into_parts(self, rest: Bytes) -> (Stream, Bytes, H) {
        let Self { stream, prefix, hold, .. } = self;
        let ahead = match (rest.is_empty(), prefix.is_empty()) {
            // An empty rest may still hold on to the buffer that it was cut from.
            (true, _) => prefix,
            (false, true) => rest,
            (false, false) => [rest, prefix].concat().into(),
        };
        (stream, ahead, hold)
    }
}

impl<H: Unpin> hyper::rt::Read for Io<H> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.prefix.is_empty() {
            let count = self.prefix.len().min(cursor.remaining());
            cursor.put_slice(&self.prefix[..count]);
            self.prefix.advance(count);
            self.activity.came(self.activity.moved.get());
            return Poll::Ready(Ok(()));
        }
        let result = poll_read(&mut self.stream, cx, cursor);
        if matches!(result, Poll::Ready(Ok(1..))) {
            let now = clock::tick();
            self.activity.moved.set(now);
            self.activity.came(now);
            if let Some(first) = self.first.take() {
                let _ = first.send(());
            }
        }
        match &result {
            Poll::Ready(Ok(0)) => self.ended(None),
            Poll::Ready(Err(error)) => self.ended(Some(error.kind())),
            Poll::Ready(Ok(_)) | Poll::Pending => {}
        }
        result.map_ok(drop)
    }
}

impl<H: Unpin> hyper::rt::Write for Io<H> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.lost(&result);
        self.wrote(&result);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut whole = [0; GATHER];
        let result = match gather(bufs, &mut whole) {
            Some(bytes) => Pin::new(&mut self.stream).poll_write(cx, bytes),
            None => Pin::new(&mut self.stream).poll_write_vectored(cx, bufs),
        };
        self.lost(&result);
        self.wrote(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(half_close) = self.activity.asked.take() {
            self.activity.left.set(self.stream.is_left(half_close));
        }
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        self.wrote(&result);
        result
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.wrote(&result);
        result
    }
}

/// Copies what is small enough into one piece.
fn gather<'w>(bufs: &[io::IoSlice<'_>], whole: &'w mut [u8; GATHER]) -> Option<&'w [u8]> {
    let mut end = 0;
    for buf in bufs {
        let start = end;
        end += buf.len();
        whole.get_mut(start..end)?.copy_from_slice(buf);
    }
    whole.get(..end)
}

impl<H> Io<H> {
    /// The peer has closed; or has reset, which it may do before it has acknowledged what it read.
    fn ended(&self, error: Option<io::ErrorKind>) {
        if !self.asks || self.activity.ended.get() != Ended::Unknown {
            return;
        }
        self.activity.ended.set(match delivery::of(self.stream.socket()) {
            Some(told) if told.outstanding && error != Some(io::ErrorKind::ConnectionReset) => Ended::Unheard,
            Some(told) => Ended::Heard(u32::try_from(told.round_trip.as_micros()).unwrap_or(u32::MAX)),
            None => Ended::Unknown,
        });
    }

    /// These bytes were not sent. That says nothing of a connection of which the end is known.
    fn lost(&self, result: &Poll<io::Result<usize>>) {
        if matches!(result, Poll::Ready(Err(_))) && self.activity.ended.get() == Ended::Unknown {
            self.activity.ended.set(Ended::Unheard);
        }
    }

    fn wrote<T>(&self, result: &Poll<io::Result<T>>) {
        match result {
            Poll::Pending => self.activity.blocked.set(true),
            Poll::Ready(_) => {
                // The clock is read only where somebody waits for it: while the peer was slow.
                if self.activity.blocked.replace(false) {
                    self.activity.moved.set(clock::tick());
                }
            }
        }
    }
}

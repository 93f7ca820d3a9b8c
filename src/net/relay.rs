//! Bytes both ways between two peers until both directions have ended: the end of one way is passed on and
//! the other goes on (half-close), and a pair on which nothing moves for too long is closed.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::stream::Stream;

/// A buffer starts small, and grows where reads fill it.
const BUFFER_MIN: usize = 16 * 1024;
const BUFFER_MAX: usize = 256 * 1024;

/// How a relay ended, and what went through it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Closed,
    /// A side reset, or could not be written to.
    Reset,
    Idle,
    /// Ended from outside.
    Stopped,
}

/// Bytes that have been delivered each way so far.
#[derive(Debug, Default, Clone, Copy)]
pub struct Relayed {
    /// From the client to the upstream.
    pub sent: u64,
    pub received: u64,
}

/// Relays until the end. `early` holds what was already read: from the client, from the upstream.
/// `moved` hears of the sums so far whenever bytes moved; `stop` is asked on every wake-up.
pub async fn run(
    client: &mut Stream,
    upstream: &mut Stream,
    early: (Bytes, Bytes),
    idle: Duration,
    mut moved: impl FnMut(&Relayed),
    mut stop: impl FnMut(&mut Context<'_>) -> bool,
) -> End {
    let mut up = Way::new(early.0);
    let mut down = Way::new(early.1);
    let mut timer = std::pin::pin!(tokio::time::sleep(idle));
    let mut last = Instant::now();
    poll_fn(|cx| {
        if stop(cx) {
            return Poll::Ready(End::Stopped);
        }
        let before = (up.count, down.count);
        let first = up.poll(cx, client, upstream);
        let second = down.poll(cx, upstream, client);
        if before != (up.count, down.count) {
            last = Instant::now();
            moved(&Relayed { sent: up.count, received: down.count });
        }
        match (first, second) {
            (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) => Poll::Ready(End::Reset),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(End::Closed),
            _ => expired(cx, timer.as_mut(), last, idle),
        }
    })
    .await
}

/// The timer is moved only when it fires, so that moving bytes costs no timer.
fn expired(cx: &mut Context<'_>, mut timer: Pin<&mut Sleep>, moved: Instant, idle: Duration) -> Poll<End> {
    loop {
        ready!(timer.as_mut().poll(cx));
        let due = moved + idle;
        if due <= Instant::now() {
            return Poll::Ready(End::Idle);
        }
        timer.as_mut().reset(due);
    }
}

/// One direction.
#[derive(Debug)]
struct Way {
    /// Read, but not yet written.
    pending: Bytes,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    finished: bool,
    shut: bool,
    count: u64,
}

impl Way {
    fn new(early: Bytes) -> Self {
        Self { pending: early, buffer: Vec::new(), start: 0, end: 0, finished: false, shut: false, count: 0 }
    }

    fn poll(&mut self, cx: &mut Context<'_>, from: &mut Stream, to: &mut Stream) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_write(cx, to))?;
            if self.finished {
                if !self.shut {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx)).or_else(ignore_disconnected)?;
                    self.shut = true;
                }
                return Poll::Ready(Ok(()));
            }
            match self.poll_read(cx, from) {
                Poll::Ready(result) => result?,
                Poll::Pending => {
                    // What TLS has taken may not have left yet.
                    if let Poll::Ready(result) = Pin::new(to).poll_flush(cx) {
                        result?;
                    }
                    // An idle connection keeps no buffer.
                    self.buffer = Vec::new();
                    return Poll::Pending;
                }
            }
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, from: &mut Stream) -> Poll<io::Result<()>> {
        if self.buffer.is_empty() {
            ready!(from.poll_read_ready(cx))?;
            self.buffer.resize(BUFFER_MIN, 0);
        } else if self.end == self.buffer.len() && self.end < BUFFER_MAX {
            self.buffer.resize((self.end * 4).min(BUFFER_MAX), 0);
        }
        let mut buf = ReadBuf::new(&mut self.buffer);
        ready!(Pin::new(from).poll_read(cx, &mut buf))?;
        (self.start, self.end) = (0, buf.filled().len());
        self.finished = self.end == 0;
        Poll::Ready(Ok(()))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, to: &mut Stream) -> Poll<io::Result<()>> {
        while !self.pending.is_empty() {
            let written = ready!(Pin::new(&mut *to).poll_write(cx, &self.pending))?;
            self.pending.advance(written);
            self.count += written as u64;
        }
        while let Some(rest) = self.buffer.get(self.start..self.end).filter(|rest| !rest.is_empty()) {
            let written = ready!(Pin::new(&mut *to).poll_write(cx, rest))?;
            self.start += written;
            self.count += written as u64;
        }
        Poll::Ready(Ok(()))
    }
}

/// A peer that is gone needs no FIN.
fn ignore_disconnected(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotConnected { Ok(()) } else { Err(error) }
}

//! Bytes both ways between two peers until both directions have ended: the end of one way is passed on and
//! the other goes on (half-close), and a pair on which nothing moves for too long is closed. An idle pair holds
//! neither a buffer nor a pipe.

mod buffer;
#[cfg(test)]
mod tests;

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::splice::{self, Pipe};
use super::stream::Stream;
use crate::config::schema;
use buffer::Buffer;

/// After so many bytes one way lets the others of its worker have their turn.
const TURN: u64 = 2 * 1024 * 1024;
/// A rest that its peer does not take is kept in a piece of its own up to this size: a buffer is many times that.
const SMALL_REST: usize = 16 * 1024;
/// So often a pair is looked at of which a socket is not read, since a reset of it wakes nobody.
const LOOK: Duration = Duration::from_secs(1);

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

/// The longest pauses in which no byte moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pauses {
    pub open: Duration,
    /// Where one side has finished already.
    pub half_closed: Duration,
}

impl From<&schema::Defaults> for Pauses {
    fn from(defaults: &schema::Defaults) -> Self {
        Self { open: *defaults.tcp_idle_timeout, half_closed: *defaults.tcp_half_close_timeout }
    }
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
pub fn run(
    client: &mut Stream,
    upstream: &mut Stream,
    early: (Bytes, Bytes),
    pauses: Pauses,
    mut moved: impl FnMut(&Relayed),
    mut stop: impl FnMut(&mut Context<'_>) -> bool,
) -> impl Future<Output = End> {
    // An argument of an asynchronous function would have two places in it.
    let (mut up, mut down) = (Way::new(early.0), Way::new(early.1));
    let mut last = Instant::now();
    let mut timer = Box::pin(tokio::time::sleep(pauses.open));
    poll_fn(move |cx| {
        if stop(cx) {
            return Poll::Ready(End::Stopped);
        }
        let before = (up.progress(), down.progress());
        let first = up.poll(cx, client, upstream);
        // A socket tells of a reset once: read again, it would seem to have ended in good order, and that be passed on.
        let second = if matches!(first, Poll::Ready(Err(_))) { Poll::Pending } else { down.poll(cx, upstream, client) };
        if before != (up.progress(), down.progress()) {
            last = Instant::now();
            // An exchange, and no stream.
            if before.0 != up.progress() {
                down.streak.end();
            }
            if before.1 != down.progress() {
                up.streak.end();
            }
            moved(&Relayed { sent: up.count, received: down.count });
        }
        let half_closed = match (first, second) {
            (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) => return Poll::Ready(End::Reset),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(End::Closed),
            (first, second) => first.is_ready() || second.is_ready(),
        };
        let longest = if half_closed { pauses.half_closed.min(pauses.open) } else { pauses.open };
        if !(half_closed || up.blocked || down.blocked) {
            return expired(cx, timer.as_mut(), last, longest, longest);
        }
        // One of the sockets is not read: nobody is woken where it is reset.
        if timer.deadline() > last + LOOK {
            timer.as_mut().reset(last + LOOK);
        }
        let broken = |stream: &Stream| !matches!(stream.socket().take_error(), Ok(None));
        if timer.as_mut().poll(cx).is_ready() && (broken(client) || broken(upstream)) {
            return Poll::Ready(End::Reset);
        }
        expired(cx, timer.as_mut(), last, longest, LOOK)
    })
}

/// The timer is moved only when it fires, so that moving bytes costs no timer: to the end of the pause, at most `step`.
fn expired(
    cx: &mut Context<'_>,
    mut timer: Pin<&mut Sleep>,
    moved: Instant,
    longest: Duration,
    step: Duration,
) -> Poll<End> {
    loop {
        ready!(timer.as_mut().poll(cx));
        let (now, due) = (Instant::now(), moved + longest);
        if due <= now {
            return Poll::Ready(End::Idle);
        }
        timer.as_mut().reset(due.min(now + step));
    }
}

/// One direction.
#[derive(Debug)]
struct Way {
    /// Read, but not yet written: these bytes, then those of the buffer, or those in the pipe.
    pending: Bytes,
    buffer: Option<Buffer>,
    pipe: Option<Pipe>,
    streak: splice::Streak,
    finished: bool,
    shut: bool,
    /// The peer does not take what there is.
    blocked: bool,
    count: u64,
}

impl Way {
    fn new(early: Bytes) -> Self {
        Self {
            pending: early,
            buffer: None,
            pipe: None,
            streak: splice::Streak::default(),
            finished: false,
            shut: false,
            blocked: false,
            count: 0,
        }
    }

    fn progress(&self) -> (u64, bool) {
        (self.count, self.shut)
    }

    fn poll(&mut self, cx: &mut Context<'_>, from: &mut Stream, to: &mut Stream) -> Poll<io::Result<()>> {
        let turn = self.count + TURN;
        loop {
            self.blocked = true;
            ready!(self.poll_write(cx, to))?;
            if self.finished {
                if !self.shut {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx)).or_else(ignore_disconnected)?;
                    self.shut = true;
                    (self.buffer, self.pipe) = (None, None);
                }
                self.blocked = false;
                return Poll::Ready(Ok(()));
            }
            self.blocked = false;
            if self.count >= turn {
                // Woken after those who are ready, and after a look at who else has become so.
                return std::pin::pin!(tokio::task::yield_now()).poll(cx).map(Ok);
            }
            match self.poll_read(cx, from, to) {
                Poll::Ready(result) => result?,
                Poll::Pending => {
                    // What TLS has taken may not have left yet.
                    if let Poll::Ready(result) = Pin::new(to).poll_flush(cx) {
                        result?;
                    }
                    (self.buffer, self.pipe) = (None, None);
                    return Poll::Pending;
                }
            }
        }
    }

    /// Reads once; nothing that was read before is left.
    fn poll_read(&mut self, cx: &mut Context<'_>, from: &mut Stream, to: &Stream) -> Poll<io::Result<()>> {
        ready!(from.poll_read_ready(cx))?;
        if let (Stream::Plain(socket), Stream::Plain(_)) = (&*from, to)
            && self.streak.is_long()
        {
            self.buffer = None;
            self.pipe = self.pipe.take().or_else(Pipe::take);
            match self.pipe.as_mut().map(|pipe| pipe.poll_fill(cx, socket)) {
                Some(Poll::Ready(Err(error))) if splice::gives_up(&error) => self.pipe = None,
                Some(filled) => {
                    let count = ready!(filled)?;
                    self.streak.spliced(count);
                    self.finished = count == 0;
                    return Poll::Ready(Ok(()));
                }
                None => {}
            }
            self.streak.end();
        }
        self.pipe = None;
        let buffer = self.buffer.get_or_insert_with(Buffer::take);
        let mut space = ReadBuf::new(buffer.space());
        ready!(Pin::new(from).poll_read(cx, &mut space))?;
        let count = space.filled().len();
        buffer.fill(count);
        self.streak.copied(count);
        self.finished = count == 0;
        Poll::Ready(Ok(()))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, to: &mut Stream) -> Poll<io::Result<()>> {
        loop {
            if !self.pending.is_empty() {
                let written = ready!(Pin::new(&mut *to).poll_write(cx, &self.pending))?;
                self.pending.advance(written);
                self.count += written as u64;
            } else if let Some(buffer) = self.buffer.as_mut().filter(|buffer| !buffer.rest().is_empty()) {
                match Pin::new(&mut *to).poll_write(cx, buffer.rest()) {
                    Poll::Ready(written) => {
                        let written = written?;
                        buffer.advance(written);
                        self.count += written as u64;
                    }
                    Poll::Pending => {
                        if buffer.rest().len() <= SMALL_REST {
                            self.pending = Bytes::copy_from_slice(buffer.rest());
                            self.buffer = None;
                        }
                        return Poll::Pending;
                    }
                }
            } else if let Some(pipe) = self.pipe.as_mut().filter(|pipe| !pipe.is_empty()) {
                match ready!(pipe.poll_drain(cx, to.socket())) {
                    Err(error) if splice::gives_up(&error) => {
                        self.pending = pipe.rescue()?;
                        self.pipe = None;
                    }
                    written => self.count += written? as u64,
                }
            } else {
                // An empty rest would still hold on to the buffer that it was cut from.
                self.pending = Bytes::new();
                return Poll::Ready(Ok(()));
            }
        }
    }
}

/// A peer that is gone needs no FIN.
fn ignore_disconnected(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotConnected { Ok(()) } else { Err(error) }
}

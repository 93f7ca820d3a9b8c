//! Bytes from socket to socket through a pipe (`splice`), without a copy in this process. `net::relay` is the only user.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// What a pipe takes at most: as much as a buffer. In those of the default size there is room for 16 pieces, which may
/// be no more than 16 packets.
const SIZE: usize = 256 * 1024;
/// Pipes of a worker at a time, and those that it keeps though nobody needs them. All of them stay within what the kernel
/// grants one user without privileges (64 MiB), for up to 16 workers.
const MOST: usize = 16;
const SPARE: usize = 4;
/// So many reads in a row have filled the buffer before a pipe is taken, and so little read by one gives it up.
const FULL_READS: u8 = 4;
const LITTLE: usize = 64 * 1024;

thread_local! {
    static SPARES: RefCell<Vec<(OwnedFd, OwnedFd)>> = const { RefCell::new(Vec::new()) };
    static TAKEN: Cell<usize> = const { Cell::new(0) };
    /// The kernel does not know it, or a filter of system calls does not let us.
    static UNSUPPORTED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a direction is one of those for which splicing pays: a long stream whose reader does not keep up with it.
/// For the rest, two system calls that copy are cheaper than three that do not.
#[derive(Debug, Default)]
pub struct Streak(u8);

impl Streak {
    pub fn is_bulk(&self) -> bool {
        self.0 >= FULL_READS
    }

    pub fn copied(&mut self, count: usize, room: usize) {
        self.0 = if count > 0 && room == 0 { (self.0 + 1).min(FULL_READS) } else { 0 };
    }

    pub fn reset(&mut self) {
        self.0 = 0;
    }

    pub fn spliced(&mut self, count: usize) {
        if count < LITTLE {
            self.0 = 0;
        }
    }
}

/// Given back when dropped, unless there is something in it.
#[derive(Debug)]
pub struct Pipe {
    /// To read from, to write to.
    ends: Option<(OwnedFd, OwnedFd)>,
    held: usize,
}

/// Whether the call cannot be made here at all. Nothing has moved, and it is not tried again on this worker.
pub fn gives_up(error: &io::Error) -> bool {
    let code = Errno::from_io_error(error);
    let is = matches!(code, Some(Errno::INVAL | Errno::NOSYS | Errno::PERM | Errno::OPNOTSUPP));
    if is {
        UNSUPPORTED.set(true);
    }
    is
}

impl Pipe {
    /// `None` where there are enough already, or none can be had.
    pub fn take() -> Option<Self> {
        if UNSUPPORTED.get() || TAKEN.get() >= MOST {
            return None;
        }
        let ends = SPARES.with_borrow_mut(Vec::pop).or_else(open)?;
        TAKEN.set(TAKEN.get() + 1);
        Some(Self { ends: Some(ends), held: 0 })
    }

    pub fn is_empty(&self) -> bool {
        self.held == 0
    }

    fn ends(&self) -> io::Result<&(OwnedFd, OwnedFd)> {
        self.ends.as_ref().ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }

    /// To be called when it is empty: otherwise a full pipe would look like a socket without bytes. 0 is the end.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, from: &TcpStream) -> Poll<io::Result<usize>> {
        debug_assert!(self.is_empty());
        let (_, pipe) = self.ends()?;
        let count = loop {
            ready!(from.poll_read_ready(cx))?;
            match from.try_io(Interest::READABLE, || splice(from, pipe, SIZE)) {
                Err(error) if is_retry(&error) => {}
                result => break result?,
            }
        };
        self.held = count;
        Poll::Ready(Ok(count))
    }

    pub fn poll_drain(&mut self, cx: &mut Context<'_>, to: &TcpStream) -> Poll<io::Result<usize>> {
        let (pipe, _) = self.ends()?;
        let count = loop {
            ready!(to.poll_write_ready(cx))?;
            match to.try_io(Interest::WRITABLE, || splice(pipe, to, self.held)) {
                Err(error) if is_retry(&error) => {}
                result => break result?,
            }
        };
        self.held = self.held.saturating_sub(count);
        Poll::Ready(Ok(count))
    }

    /// What is in it, to be written in another way.
    pub fn rescue(&mut self) -> io::Result<Bytes> {
        let (pipe, _) = self.ends()?;
        let mut bytes = vec![0; self.held];
        let mut end = 0;
        while let Some(space) = bytes.get_mut(end..).filter(|space| !space.is_empty()) {
            match rustix::io::read(pipe, space)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => end += count,
            }
        }
        self.held = 0;
        Ok(bytes.into())
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        TAKEN.set(TAKEN.get().saturating_sub(1));
        let Some(ends) = self.ends.take().filter(|_| self.held == 0) else { return };
        SPARES.with_borrow_mut(|spares| {
            if spares.len() < SPARE {
                spares.push(ends);
            }
        });
    }
}

fn open() -> Option<(OwnedFd, OwnedFd)> {
    let ends = rustix::pipe::pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC);
    let sized = ends.and_then(|ends| rustix::pipe::fcntl_setpipe_size(&ends.1, SIZE).map(|_| ends));
    // No more descriptors, or no more room for this user: another time, perhaps.
    sized.inspect_err(|error| tracing::debug!(%error, "no pipe")).ok()
}

fn splice(from: impl std::os::fd::AsFd, to: impl std::os::fd::AsFd, most: usize) -> io::Result<usize> {
    let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
    Ok(rustix::pipe::splice(from, None, to, None, most, flags)?)
}

fn is_retry(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

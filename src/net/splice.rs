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

/// What a pipe takes at most. In one of the default size there is room for 16 pieces, which may be no more than 16
/// packets: that is dearer than copying.
const SIZE: usize = 1024 * 1024;
/// Pipes of a worker at a time, and those that it keeps though nobody needs them. The kernel grants one user without
/// privileges 64 MiB of them; whoever gets none copies.
const MOST: usize = 8;
const SPARE: usize = 4;
/// After so many bytes one way, and none the other, it is a stream; and so little read at once ends it.
const LONG: u64 = 4 * 1024 * 1024;
const LITTLE: usize = 64 * 1024;

thread_local! {
    static SPARES: RefCell<Vec<(OwnedFd, OwnedFd)>> = const { RefCell::new(Vec::new()) };
    static TAKEN: Cell<usize> = const { Cell::new(0) };
    /// The kernel does not know it, or a filter of system calls does not let us.
    static UNSUPPORTED: Cell<bool> = const { Cell::new(false) };
}

/// Whether splicing pays for one direction. By the benchmark (docs/performance.md) it does for long streams: a tenth of
/// the processor on loopback, up to half of it between network namespaces. Copies of what is in the cache are cheaper
/// for exchanges of up to some megabytes, and always for small ones: two system calls instead of three.
#[derive(Debug, Default)]
pub struct Streak(u64);

impl Streak {
    pub fn is_long(&self) -> bool {
        self.0 >= LONG
    }

    pub fn copied(&mut self, count: usize) {
        self.0 += count as u64;
    }

    pub fn spliced(&mut self, count: usize) {
        if count < LITTLE {
            self.end();
        }
    }

    pub fn end(&mut self) {
        self.0 = 0;
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

/// Taken, and spare.
#[cfg(test)]
pub fn pipes() -> (usize, usize) {
    (TAKEN.get(), SPARES.with_borrow(Vec::len))
}

fn is_retry(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
        let near = TcpStream::connect(listener.local_addr().expect("address")).await.expect("connection");
        (near, listener.accept().await.expect("peer").0)
    }

    #[tokio::test]
    async fn what_is_in_a_pipe_can_be_had_otherwise() {
        let ((mut client, near), (far, mut upstream)) = (pair().await, pair().await);
        let mut pipe = Pipe::take().expect("a pipe");
        client.write_all(b"hello there").await.expect("write");
        assert_eq!(poll_fn(|cx| pipe.poll_fill(cx, &near)).await.expect("filled"), 11);
        assert_eq!(&*pipe.rescue().expect("rescued"), b"hello there");
        assert!(pipe.is_empty());
        client.write_all(b"again").await.expect("write");
        assert_eq!(poll_fn(|cx| pipe.poll_fill(cx, &near)).await.expect("filled"), 5);
        assert_eq!(poll_fn(|cx| pipe.poll_drain(cx, &far)).await.expect("drained"), 5);
        let mut heard = [0; 5];
        upstream.read_exact(&mut heard).await.expect("read");
        assert_eq!(&heard, b"again");
        client.shutdown().await.expect("FIN");
        assert_eq!(poll_fn(|cx| pipe.poll_fill(cx, &near)).await.expect("the end"), 0);
    }

    #[tokio::test]
    async fn pipes_are_few_and_those_with_a_rest_are_not_given_back() {
        let (mut client, near) = pair().await;
        client.write_all(b"rest").await.expect("write");
        let mut pipes: Vec<Pipe> = std::iter::from_fn(Pipe::take).collect();
        assert!((1..=MOST).contains(&pipes.len()), "{}", pipes.len());
        let mut last = pipes.pop().expect("one");
        assert_eq!(poll_fn(|cx| last.poll_fill(cx, &near)).await.expect("filled"), 4);
        drop(last);
        assert_eq!(super::pipes(), (pipes.len(), 0));
        drop(pipes);
        assert_eq!(super::pipes().0, 0);
        assert!((1..=SPARE).contains(&super::pipes().1));
    }
}

//! A byte stream between us and a peer: a socket, or TLS over one.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use futures_util::FutureExt;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

#[derive(Debug)]
pub enum Stream {
    Plain(TcpStream),
    /// Boxed: plaintext connections do not pay for it.
    Tls(Box<TlsStream<Rewound>>),
}

/// A socket, and bytes that were read from it before: they are read again first.
#[derive(Debug)]
pub struct Rewound {
    early: Bytes,
    socket: TcpStream,
}

impl Rewound {
    pub fn new(socket: TcpStream, early: Bytes) -> Self {
        Self { early, socket }
    }

    pub fn into_socket(self) -> TcpStream {
        self.socket
    }
}

impl Stream {
    pub fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => &tls.get_ref().0.socket,
        }
    }

    /// Whether the peer has closed the connection, or, unless it may still be waiting (`half_close`), its side of it: as far
    /// as the event loop has heard.
    pub fn is_left(&self, half_close: bool) -> bool {
        let ready = self.socket().ready(Interest::READABLE | Interest::WRITABLE).now_or_never();
        ready.and_then(Result::ok).is_some_and(|ready| match half_close {
            true => ready.is_write_closed(),
            false => ready.is_read_closed(),
        })
    }

    /// Ready when a read may have something. TLS cannot tell without being read.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(socket) => socket.poll_read_ready(cx),
            Self::Tls(_) => Poll::Ready(Ok(())),
        }
    }

    /// To be dropped after a peer has broken off: the other one must not take that for an end in good order.
    pub fn break_off(&self) {
        if let Err(error) = socket2::SockRef::from(self.socket()).set_linger(Some(std::time::Duration::ZERO)) {
            tracing::debug!(%error, "socket options");
        }
    }

    /// Says goodbye to an idle peer of TLS, if that can be done at once.
    pub fn farewell(&mut self) {
        if let Self::Tls(tls) = self {
            let _ = Pin::new(tls).poll_shutdown(&mut Context::from_waker(Waker::noop()));
        }
    }

    /// Writes what can be written at once, for a peer that is given up anyway.
    pub fn last_words(&mut self, bytes: &[u8]) {
        let mut cx = Context::from_waker(Waker::noop());
        match self {
            // A peer that does not even take this much gets nothing.
            Self::Plain(socket) => drop(socket.try_write(bytes)),
            Self::Tls(tls) => {
                if Pin::new(&mut *tls).poll_write(&mut cx, bytes).is_ready() {
                    let _ = Pin::new(tls).poll_flush(&mut cx);
                }
            }
        }
    }
}

impl From<TcpStream> for Stream {
    fn from(socket: TcpStream) -> Self {
        Self::Plain(socket)
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(socket) => Pin::new(socket).poll_write(cx, bytes),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
            Self::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

impl AsyncRead for Rewound {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.early.is_empty() {
            return Pin::new(&mut self.socket).poll_read(cx, buf);
        }
        let count = self.early.len().min(buf.remaining());
        buf.put_slice(self.early.get(..count).unwrap_or_default());
        self.early.advance(count);
        if self.early.is_empty() {
            // An empty rest would still hold on to the buffer that it was cut from.
            self.early = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ready!(Pin::new(&mut self.socket).poll_shutdown(cx)) {
            // A peer that is gone needs no FIN.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            result => Poll::Ready(result),
        }
    }
}

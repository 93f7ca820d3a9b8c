//! Whom the first request of an HTTP/2 connection is for, from its first bytes. HPACK is read by a codec, which is fed
//! what has arrived so far, never waits for more, and is thrown away: the connection itself is for another one, which
//! gets the same bytes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::header::HOST;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::wire::first_request::{First, host};

/// Bytes that are looked at, at most: the preface, the settings of the client, and the largest head.
pub const BYTES_MAX: usize = 64 * 1024;

/// Reads all bytes that have arrived so far, as HTTP/2 with prior knowledge.
pub fn http2(bytes: &[u8]) -> First {
    let mut cx = Context::from_waker(Waker::noop());
    let limits = h2::server::Builder::new().max_header_list_size(BYTES_MAX as u32).max_concurrent_streams(1).clone();
    let mut handshake = std::pin::pin!(limits.handshake::<_, Bytes>(Given(bytes)));
    let more = if bytes.len() < BYTES_MAX { First::More } else { First::Invalid };
    let mut connection = match handshake.as_mut().poll(&mut cx) {
        Poll::Ready(Ok(connection)) => connection,
        Poll::Ready(Err(_)) => return First::Invalid,
        Poll::Pending => return more,
    };
    match connection.poll_accept(&mut cx) {
        Poll::Ready(Some(Ok((request, _)))) => {
            let line = request.headers().get(HOST).map(|value| value.as_bytes());
            let named = request.uri().authority().map(|authority| authority.as_str().as_bytes());
            named.or(line).map_or(First::None, host)
        }
        Poll::Ready(Some(Err(_)) | None) => First::Invalid,
        Poll::Pending => more,
    }
}

/// A connection on which these bytes have come and nothing comes any more. What is said on it is heard by nobody.
struct Given<'a>(&'a [u8]);

impl AsyncRead for Given<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (now, later) = self.0.split_at(self.0.len().min(buf.remaining()));
        if now.is_empty() {
            return Poll::Pending;
        }
        buf.put_slice(now);
        self.0 = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Given<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

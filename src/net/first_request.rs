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

/// Reads all bytes that have arrived so far, as HTTP/2 with prior knowledge. A request that the codec refuses by itself
/// (malformed, too large a head) is as if it had not come: the one that answers will refuse it, too.
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

#[cfg(test)]
mod tests {
    use http::{Method, Request};
    use proptest::prelude::*;
    use tokio::io::AsyncReadExt;

    use super::*;

    const CURL: &[u8] =
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0d\0\x04\x02\0\0\0\0\x02\0\0\
        \0\0\0\0\x04\x08\0\0\0\0\0\x01\xff\0\x01\0\0*\x01\x05\0\0\0\x01\x82\x04\x87b\xc1\xa4\xd5L\x86\x03\x86A\x8e\xda^\
        \xe6/\x84/\xbc\xa8M\xc6\xdfi\xe6\x7fz\x88%\xb6P\xc3\xab\xbc\xf2\xe1S\x03*/*";
    /// With the old tree of priorities ahead of the request.
    const NGHTTP: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x0c\x04\0\0\0\0\0\0\x03\0\0\0d\0\x04\0\0\xff\xff\0\0\x05\
        \x02\0\0\0\0\x03\0\0\0\0\xc8\0\0\x05\x02\0\0\0\0\x05\0\0\0\0d\0\0\x05\x02\0\0\0\0\x07\0\0\0\0\0\0\0\x05\x02\0\0\
        \0\0\t\0\0\0\x07\0\0\0\x05\x02\0\0\0\0\x0b\0\0\0\x03\0\0\0/\x01%\0\0\0\r\0\0\0\x0b\x0f\x82\x04\x87b\xc1\xa4\xd5L\
        \x86\x03\x86A\x8b\xa0\xe4\x1d\x13\x9d\t\xb8\xcbO\xbc\xefS\x03*/*\x90z\x8a\xaai\xd2\x9a\xc4\xc0WlK\x83";

    fn named(host: &str) -> First {
        First::Host(host.to_owned())
    }

    /// The first bytes that a client sends with this request.
    async fn sent(request: Request<()>) -> Vec<u8> {
        let (ours, mut theirs) = tokio::io::duplex(2 * BYTES_MAX);
        let (mut client, connection) = h2::client::handshake(ours).await.unwrap();
        let end = request.method() != Method::CONNECT;
        let _stream = client.send_request(request, end).unwrap();
        // Settles once it has said what it has to.
        let mut connection = std::pin::pin!(connection);
        for _ in 0..10 {
            let _ = futures_util::poll!(connection.as_mut());
        }
        let mut bytes = vec![0; 2 * BYTES_MAX];
        let count = theirs.read(&mut bytes).await.unwrap();
        bytes.truncate(count);
        bytes
    }

    /// Where its first request ends, which is the last thing in it: before that, every prefix waits.
    fn whole_only(bytes: &[u8], first: &First) {
        assert_eq!(http2(bytes), *first, "{}", bytes.escape_ascii());
        for end in 0..bytes.len() {
            assert_eq!(http2(&bytes[..end]), First::More, "{end} of {} bytes", bytes.len());
        }
    }

    #[test]
    fn real_clients_are_read() {
        whole_only(CURL, &named("reviews.test"));
        whole_only(NGHTTP, &named("localhost"));
    }

    #[tokio::test]
    async fn the_authority_or_else_the_host_is_it() {
        let request = |uri: &str| Request::builder().uri(uri);
        let cases = [
            (request("http://A.test:8080/x"), named("a.test")),
            (request("http://[::1]:80/"), named("::1")),
            (request("http://a.test/").header("host", "b.test"), named("a.test")),
            (request("http://a.test/").header("x", "y".repeat(12_000)), named("a.test")),
            (request("a.test:443").method(Method::CONNECT), named("a.test")),
        ];
        for (request, first) in cases {
            let bytes = sent(request.body(()).unwrap()).await;
            whole_only(&bytes, &first);
        }
    }

    /// A head without indices, so that it can be written here.
    fn head(fields: &[(&str, &str)]) -> Vec<u8> {
        let mut block = Vec::new();
        for text in fields.iter().flat_map(|(name, value)| [None, Some(name), Some(value)]) {
            match text {
                None => block.push(0),
                Some(text) => block.extend([&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()),
            }
        }
        let length = u8::try_from(block.len()).unwrap();
        [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", &[0, 0, length, 1, 5, 0, 0, 0, 1][..], &block]
            .concat()
    }

    #[test]
    fn a_head_without_authority_may_have_a_host() {
        let common = [(":method", "GET"), (":scheme", "http"), (":path", "/")];
        let with = |field| head(&[&common[..], &[field]].concat());
        whole_only(&with(("host", "A.test:80")), &named("a.test"));
        whole_only(&with(("x", "y")), &First::None);
        assert_eq!(http2(&with(("host", "a, b"))), First::Invalid);
        assert_eq!(http2(&with((":authority", "a, b"))), First::More, "the codec has reset it");
    }

    #[test]
    fn what_is_not_http2_is_not_waited_for() {
        let settings = |frame: &[u8]| [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", frame].concat();
        let cases = [
            ("another protocol", b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_vec()),
            ("no preface", b"PRI * HTTP/2.0\r\n\r\nSX\r\n\r\n".to_vec()),
            ("a frame that is too large", settings(b"\xff\0\0\0\0\0\0\0\x01")),
            ("no HPACK", settings(b"\0\0\x01\x01\x05\0\0\0\x01\xff\xff")),
        ];
        for (name, bytes) in cases {
            assert_eq!(http2(&bytes), First::Invalid, "{name}");
        }
    }

    #[test]
    fn frames_without_end_are_not_waited_for() {
        let ping = b"\0\0\x08\x06\0\0\0\0\0abcdefgh";
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
        while bytes.len() < BYTES_MAX {
            bytes.extend_from_slice(ping);
        }
        assert_eq!(http2(&bytes), First::Invalid);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(cut in 24..CURL.len(), bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            http2(&[&CURL[..cut], &bytes].concat());
        }
    }
}

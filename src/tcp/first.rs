//! The first bytes of a connection that is routed by the name that a client of TLS asks for. They are read ahead, and
//! go on to the upstream as they came.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};

use crate::error::Reason;
use crate::inbound::Conn;
use crate::wire::client_hello::{self, Parsed};

/// The longest ClientHello that is waited for; those of browsers have less than 2 KiB.
const HELLO_MAX: usize = 16 * 1024;
/// Read at a time: most that come have room in it.
const CHUNK: usize = 2048;

/// What was read ahead, and whom the client asks for.
#[derive(Debug, Default)]
pub struct First {
    pub early: Bytes,
    pub server_name: Option<Box<str>>,
}

/// Reads until it is known whom the client asks for: nobody, if it speaks something else, or says nothing for so long.
pub async fn read(conn: &Conn, client: &mut (impl AsyncRead + Unpin), patience: Duration) -> Result<First, Reason> {
    let mut early = BytesMut::new();
    let mut at_least = 1;
    let mut timer = pin!(tokio::time::sleep(patience));
    let server_name = poll_fn(|cx| {
        conn.place.attention.register(cx.waker());
        loop {
            if early.len() >= at_least {
                match client_hello::parse(&early) {
                    Parsed::Hello(hello) => return Poll::Ready(Ok(hello.server_name)),
                    Parsed::NotTls => return Poll::Ready(Ok(None)),
                    Parsed::More { at_least: more } if more <= HELLO_MAX => at_least = more,
                    Parsed::More { .. } | Parsed::Invalid => return Poll::Ready(Err(Reason::BadRequest)),
                }
            }
            let mut chunk = [0; CHUNK];
            let mut buf = ReadBuf::new(&mut chunk);
            match Pin::new(&mut *client).poll_read(cx, &mut buf) {
                // Whoever only listens is told from half a hello.
                Poll::Ready(Ok(())) if buf.filled().is_empty() && early.is_empty() => return Poll::Ready(Ok(None)),
                Poll::Ready(Ok(())) if buf.filled().is_empty() => return Poll::Ready(Err(Reason::ClientReset)),
                Poll::Ready(Ok(())) => early.extend_from_slice(buf.filled()),
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Reason::ClientReset)),
                Poll::Pending if early.is_empty() && conn.is_closed() => return Poll::Ready(Err(Reason::None)),
                Poll::Pending => {
                    if let Some(reason) = conn.forced() {
                        return Poll::Ready(Err(reason));
                    }
                    ready!(timer.as_mut().poll(cx));
                    let silent = early.is_empty();
                    return Poll::Ready(if silent { Ok(None) } else { Err(Reason::HeaderTimeout) });
                }
            }
        }
    })
    .await?;
    Ok(First { early: early.freeze(), server_name })
}

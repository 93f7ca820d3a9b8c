//! Who speaks first, the client or its server: while the first bytes of the client are awaited, the connection to the
//! server is made, and whoever has the first word tells which kind of protocol it is.

use std::future::{poll_fn, ready};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{self, Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{sleep, timeout};

use super::super::Conn;
use super::{Target, ended, learn, learned, tell_unknown};
use crate::config::schema::PortProtocol;
use crate::error::Reason;
use crate::net::stream::Stream;
use crate::policy::learned::Spoken;
use crate::tcp::{Plan, Raced};
use crate::telemetry::detection::Outcome;
use crate::upstream::transport::Dialled;
use crate::wire::detect::{self, ServerSpeaks};

/// Most clients that speak first have done so by then. Where they are known to do so, a silent one may still be one
/// that waits for its server: who has learned that may have been misled by a probe.
const GRACE: Duration = Duration::from_micros(300);
const GRACE_CLIENT_FIRST: Duration = Duration::from_millis(20);
/// A client may be about to begin TLS, however soon the server speaks: one of the mesh does so as soon as it is connected,
/// and surely if it did before.
const HOLD: Duration = Duration::from_millis(2);
const HOLD_MUTUAL: Duration = Duration::from_millis(200);
/// For the rest of what a server has begun to say, where its first bytes may be of more than one protocol.
const REST: Duration = Duration::from_millis(5);

/// Who has spoken first.
#[expect(clippy::large_enum_variant, reason = "it is taken apart at once")]
pub enum Spoke {
    Client,
    Server(Raced),
    /// The client has nothing to say, and has ended its half; or what it waits for does not come.
    Nobody,
}

/// What the server has said before its client.
enum Greeting {
    /// Something that is no HTTP and no TLS; or it has ended without a word.
    Words,
    /// It waits for its client, whatever it said.
    None,
    Reset,
}

/// Nothing comes of it.
struct Fails {
    reason: Reason,
    /// As if nobody stood between: the client is reset.
    breaks: bool,
}

impl From<Reason> for Fails {
    fn from(reason: Reason) -> Self {
        Self { reason, breaks: false }
    }
}

/// Waits for the first byte of the client, and, where that may be, of the server at the same time. What could not be looked
/// at without being read is in `early` then. A connection to the server that was begun is kept (`Conn::ahead`).
///
/// `holds`: the client may be about to begin TLS with us.
pub async fn run(
    conn: &Rc<Conn>,
    stream: &mut Stream,
    early: &mut BytesMut,
    target: &Target,
    holds: bool,
) -> Result<Spoke, Reason> {
    first_word(conn, stream, early, target, holds).await.map_err(|failed| {
        if failed.breaks {
            stream.break_off();
        }
        failed.reason
    })
}

async fn first_word(
    conn: &Rc<Conn>,
    stream: &mut Stream,
    early: &mut BytesMut,
    target: &Target,
    holds: bool,
) -> Result<Spoke, Fails> {
    let known = learned(conn, target);
    let relays = target.protocol == PortProtocol::Tcp || target.undetected;
    let idle = *conn.worker.view().snapshot.config.root().defaults.tcp_idle_timeout;
    let mut client = pin!(spoken(conn, stream, early, relays));
    if target.deny {
        // By what it asks for it may still be known.
        let Ok(spoke) = timeout(target.patience, &mut client).await else {
            tell_unknown(conn, target, None, Spoken::ServerFirst);
            return Err(Reason::UnknownDestination.into());
        };
        return Ok(spoke?);
    }
    if !relays {
        return Ok(timeout(idle, client).await.unwrap_or(Err(Reason::IdleTimeout))?);
    }
    let grace = async {
        match known {
            None => turns(GRACE).await,
            Some(Spoken::ServerFirst) => {}
            Some(_) => sleep(GRACE_CLIENT_FIRST).await,
        }
    };
    tokio::select! {
        biased;
        spoke = &mut client => return Ok(spoke?),
        () = grace => {}
    }
    let Ok(plan) = Plan::draft(conn) else {
        // Who asks in HTTP is told why, and does not wait to be greeted.
        return Ok(timeout(target.patience, client).await.unwrap_or(Ok(Spoke::Nobody))?);
    };
    // Boxed: most connections never come here.
    let mut dialling: Pin<Box<dyn Future<Output = _>>> = Box::pin(plan.dialling(conn, Some(target.to), false));
    let dialled = tokio::select! {
        biased;
        spoke = &mut client => {
            let arrives = Box::pin(async { Ok((dialling.await?, Bytes::new())) });
            conn.ahead.replace(Some(plan.ahead(arrives)));
            return Ok(spoke?);
        }
        dialled = &mut dialling => dialled,
    };
    let mut upstream = match dialled {
        Ok(upstream) => upstream,
        // There is no other place to try.
        Err(reason) if target.inbound || target.unknown => return Err(Fails { reason, breaks: true }),
        // The peer takes nothing but HTTP: the client will speak when it has something to ask.
        Err(_) if plan.wants_http() => {
            return Ok(timeout(idle, client).await.unwrap_or(Err(Reason::IdleTimeout))?);
        }
        Err(_) => return Ok(timeout(target.patience, client).await.unwrap_or(Ok(Spoke::Nobody))?),
    };
    let mut words = BytesMut::new();
    let greeting = tokio::select! {
        biased;
        spoke = &mut client => Err(spoke),
        greeting = Box::pin(greeting(&mut upstream, &mut words, plan.is_mutual())) => Ok(greeting),
    };
    let spoke = match greeting {
        Ok(Greeting::Words) => {
            if !words.is_empty() {
                learn(conn, target, Spoken::ServerFirst);
            }
            let peer = conn.peer.ip().map(|ip| ip.to_canonical());
            let mutual = || conn.worker.peers.borrow().knows_as_mutual(peer);
            let hold = if holds && mutual() { HOLD_MUTUAL } else { HOLD };
            let Some(spoke) = (if holds { timeout(hold, &mut client).await.ok() } else { None }) else {
                let learned = known == Some(Spoken::ServerFirst);
                ended(conn, if learned { Outcome::Learned } else { Outcome::ServerFirst });
                return Ok(Spoke::Server(Raced { plan, upstream, spoken: words.freeze() }));
            };
            spoke
        }
        Ok(Greeting::None) => return Ok(timeout(idle, client).await.unwrap_or(Err(Reason::IdleTimeout))?),
        // The sidecar of the other side may have found no application, and a request would be told so.
        Ok(Greeting::Reset) if plan.is_mutual() => {
            return Ok(timeout(target.patience, client).await.unwrap_or(Ok(Spoke::Nobody))?);
        }
        Ok(Greeting::Reset) => return Err(Fails { reason: Reason::UpstreamReset, breaks: true }),
        Err(spoke) => spoke,
    };
    conn.ahead.replace(Some(plan.ahead(Box::pin(ready(Ok((upstream, words.freeze())))))));
    Ok(spoke?)
}

/// Less than a timer can tell: the loop serves others meanwhile.
async fn turns(span: Duration) {
    let end = Instant::now() + span;
    while Instant::now() < end {
        tokio::task::yield_now().await;
    }
}

/// Ready when the client has sent something, or nothing is to be waited for any more.
///
/// `relays`: what the server says may be for a client that says nothing at all.
async fn spoken(conn: &Rc<Conn>, stream: &mut Stream, early: &mut BytesMut, relays: bool) -> Result<Spoke, Reason> {
    poll_fn(|cx| {
        conn.place.attention.register(cx.waker());
        // An idle connection does not keep an old snapshot alive.
        drop(conn.view());
        let came = match stream {
            Stream::Plain(socket) => {
                let mut byte = [0];
                let mut buf = ReadBuf::new(&mut byte);
                socket.poll_peek(cx, &mut buf).map(|peeked| peeked.map(|_| buf.filled().is_empty()))
            }
            // TLS cannot be looked into without being read.
            Stream::Tls(_) => {
                let mut chunk = [0; 1024];
                let mut buf = ReadBuf::new(&mut chunk);
                Pin::new(&mut *stream).poll_read(cx, &mut buf).map(|read| {
                    early.extend_from_slice(buf.filled());
                    read.map(|()| buf.filled().is_empty())
                })
            }
        };
        match came {
            Poll::Ready(Ok(ended)) => Poll::Ready(Ok(if ended && relays { Spoke::Nobody } else { Spoke::Client })),
            Poll::Ready(Err(_)) => Poll::Ready(Err(Reason::ClientReset)),
            Poll::Pending => match conn.cut() {
                Some(reason) => Poll::Ready(Err(reason)),
                None if conn.is_closed() => Poll::Ready(Err(Reason::None)),
                None => Poll::Pending,
            },
        }
    })
    .await
}

/// Waits for the server to speak.
async fn greeting(upstream: &mut Dialled, words: &mut BytesMut, mutual: bool) -> Greeting {
    loop {
        let began = !words.is_empty();
        let next = poll_fn(|cx| poll_more(cx, upstream, words));
        let more = match began {
            true => timeout(REST, next).await.unwrap_or(Ok(false)),
            false => next.await,
        };
        match more {
            Ok(true) => match detect::spoken_first(words) {
                ServerSpeaks::More => {}
                ServerSpeaks::Opaque => return Greeting::Words,
                ServerSpeaks::Http1 | ServerSpeaks::Http2 | ServerSpeaks::TlsAlert => return Greeting::None,
            },
            // All that it has to say; or it has ended without a word.
            Ok(false) => return Greeting::Words,
            // Without a goodbye: the sidecar of the other side does not take what may not be HTTP.
            Err(error) if mutual && error.kind() == io::ErrorKind::UnexpectedEof => return Greeting::None,
            Err(_) => return Greeting::Reset,
        }
    }
}

/// Whether there is more; `false` at the end.
fn poll_more(cx: &mut Context<'_>, upstream: &mut Dialled, spoken: &mut BytesMut) -> Poll<io::Result<bool>> {
    // A socket that has nothing to read costs no buffer.
    task::ready!(upstream.stream.poll_read_ready(cx))?;
    let mut chunk = [0; 1024];
    let mut buf = ReadBuf::new(&mut chunk);
    task::ready!(Pin::new(&mut upstream.stream).poll_read(cx, &mut buf))?;
    spoken.extend_from_slice(buf.filled());
    Poll::Ready(Ok(!buf.filled().is_empty()))
}

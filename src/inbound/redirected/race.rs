//! Who speaks first, the client or its server: while the first bytes of the client are awaited, the connection to the
//! server is made, and whoever has the first word tells which kind of protocol it is.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
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
use crate::tcp::{Plan, Raced, Refused};
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
pub enum Spoke {
    Client,
    Server(Raced),
    /// The client has nothing to say, and has ended its half.
    Nobody,
}

/// What comes of the connection to the server.
enum Server {
    Spoke(Raced),
    /// It waits for its client, whatever it said.
    Waits,
    /// There is none, or none for this client; `true` where there is nothing that a request could be told.
    Fails(Reason, bool),
}

/// Waits for the first byte of the client, and, where that may be, of the server at the same time.
///
/// `holds`: the client may be about to begin TLS with us.
pub async fn run(conn: &Rc<Conn>, stream: &mut Stream, target: &Target, holds: bool) -> Result<Spoke, Reason> {
    let known = learned(conn, target);
    let relays = target.protocol == PortProtocol::Tcp || target.undetected;
    let idle = *conn.worker.view().snapshot.config.root().defaults.tcp_idle_timeout;
    let mut client = pin!(spoken(conn, stream, relays));
    if target.deny {
        // By what it asks for it may still be known.
        let Ok(spoke) = timeout(target.patience, &mut client).await else {
            tell_unknown(conn, target, None, Spoken::ServerFirst);
            return Err(Reason::UnknownDestination);
        };
        return spoke;
    }
    if relays {
        let grace = async {
            match known {
                None => turns(GRACE).await,
                Some(Spoken::ServerFirst) => {}
                Some(_) => sleep(GRACE_CLIENT_FIRST).await,
            }
        };
        tokio::select! {
            biased;
            spoke = &mut client => return spoke,
            () = grace => {}
        }
        // Boxed: most connections never come here.
        let server = tokio::select! {
            biased;
            spoke = &mut client => return spoke,
            server = Box::pin(server(conn, target)) => server,
        };
        match server {
            Server::Spoke(raced) => {
                if holds {
                    let peer = conn.peer.ip().map(|ip| ip.to_canonical());
                    let mutual = conn.worker.peers.borrow().knows_as_mutual(peer);
                    let hold = if mutual { HOLD_MUTUAL } else { HOLD };
                    if let Ok(spoke) = timeout(hold, &mut client).await {
                        return spoke;
                    }
                }
                let learned = known == Some(Spoken::ServerFirst);
                ended(conn, if learned { Outcome::Learned } else { Outcome::ServerFirst });
                return Ok(Spoke::Server(raced));
            }
            Server::Waits => {}
            Server::Fails(reason, at_once) => {
                // Who asks in HTTP is told why, and does not wait to be greeted.
                if !at_once && let Ok(spoke) = timeout(target.patience, &mut client).await {
                    return spoke;
                }
                stream.break_off();
                return Err(reason);
            }
        }
    }
    timeout(idle, client).await.unwrap_or(Err(Reason::IdleTimeout))
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
async fn spoken(conn: &Rc<Conn>, stream: &Stream, relays: bool) -> Result<Spoke, Reason> {
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
            // TLS cannot be looked into without being read; what is read is not raced for.
            Stream::Tls(_) => Poll::Ready(Ok(false)),
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

/// Connects, and waits for the server to speak.
async fn server(conn: &Rc<Conn>, target: &Target) -> Server {
    let plan = match Plan::new(conn, None) {
        Ok(plan) => plan,
        Err(Refused { reason, .. }) => return Server::Fails(reason, false),
    };
    let mut upstream = match plan.dial(conn, Some(target.to), false).await {
        Ok(upstream) => upstream,
        // The peer takes nothing but HTTP: the client will speak when it has something to ask.
        Err(_) if plan.wants_http() => return Server::Waits,
        // There is no other place to try.
        Err(reason) => return Server::Fails(reason, target.inbound || target.unknown),
    };
    let mut spoken = BytesMut::new();
    let speaks = loop {
        let began = !spoken.is_empty();
        let next = poll_fn(|cx| poll_more(cx, &mut upstream, &mut spoken));
        let more = match began {
            true => timeout(REST, next).await.unwrap_or(Ok(false)),
            false => next.await,
        };
        match more {
            Ok(true) => match detect::spoken_first(&spoken) {
                ServerSpeaks::More => {}
                speaks => break speaks,
            },
            // All that it has to say; or it has ended without a word.
            Ok(false) if !spoken.is_empty() => break ServerSpeaks::Opaque,
            Ok(false) => return Server::Spoke(Raced { plan, upstream, spoken: Bytes::new() }),
            // Without a goodbye: the sidecar of the other side does not take what may not be HTTP.
            Err(error) if plan.is_mutual() && error.kind() == io::ErrorKind::UnexpectedEof => return Server::Waits,
            // Such a sidecar may have found no application, too, and a request would be told so.
            Err(_) => return Server::Fails(Reason::UpstreamReset, !plan.is_mutual()),
        }
    };
    match speaks {
        ServerSpeaks::Opaque => {
            learn(conn, target, Spoken::ServerFirst);
            Server::Spoke(Raced { plan, upstream, spoken: spoken.freeze() })
        }
        ServerSpeaks::Http1 | ServerSpeaks::Http2 | ServerSpeaks::TlsAlert | ServerSpeaks::More => Server::Waits,
    }
}

/// Whether there is more; `false` at the end.
fn poll_more(cx: &mut Context<'_>, upstream: &mut Dialled, spoken: &mut BytesMut) -> Poll<io::Result<bool>> {
    // A socket that has nothing to read costs no buffer.
    ready!(upstream.stream.poll_read_ready(cx))?;
    let mut chunk = [0; 1024];
    let mut buf = ReadBuf::new(&mut chunk);
    ready!(Pin::new(&mut upstream.stream).poll_read(cx, &mut buf))?;
    spoken.extend_from_slice(buf.filled());
    Poll::Ready(Ok(!buf.filled().is_empty()))
}

//! The beginning of a connection on a listener with TLS: told apart by its first bytes, and terminated where it is
//! for us. Nothing is given to the codec of TLS before the whole ClientHello is there, so that a half of one costs its
//! bytes and no more.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use rand::Rng;
use rustls::{HandshakeKind, ProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Conn, Tls};
use crate::config::schema::{self, ListenerTlsMode, PortProtocol};
use crate::error::Reason;
use crate::http::reply;
use crate::identity::{self, Failure};
use crate::net::clock;
use crate::net::lifetime::Lifetime;
use crate::net::stream::{Rewound, Stream};
use crate::wire::client_hello::{self, ClientHello, Parsed};
use crate::wire::detect::{self, Verdict};

/// The longest ClientHello; those of browsers have less than 2 KiB.
const HELLO_MAX: usize = 16 * 1024;
/// Handshakes that a worker has open at a time. Beyond them the oldest ends: it is the one that stalls.
const OPEN_MAX: usize = 1024;
/// A client of a permissive tcp listener that has sent nothing for so long waits for the server to speak first.
const SILENCE: Duration = Duration::from_secs(1);

/// What a connection has turned out to be.
pub enum Begun {
    Plaintext(Stream, Bytes),
    /// TLS with us.
    Secure(Stream, Option<Spoken>),
    /// TLS with the application: its bytes so far, and whom it asks for.
    Passthrough(Stream, Bytes, Option<Box<str>>),
}

/// What both have agreed to speak inside (ALPN).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoken {
    Http1,
    Http2,
    /// Whatever the application and its client speak.
    Tcp,
}

/// What may be inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    Http,
    Tcp,
    /// The client says which.
    Either,
}

impl Takes {
    pub fn of(protocol: PortProtocol) -> Self {
        match protocol {
            PortProtocol::Http => Self::Http,
            PortProtocol::Tcp => Self::Tcp,
            PortProtocol::Auto => Self::Either,
        }
    }
}

/// The handshakes of a worker that are not done.
#[derive(Default)]
pub struct Open(VecDeque<oneshot::Sender<()>>);

impl Open {
    /// To be dropped when the handshake is over; it resolves if that has to be now.
    fn enter(&mut self) -> oneshot::Receiver<()> {
        if self.0.len() >= OPEN_MAX {
            self.0.retain(|one| !one.is_closed());
        }
        if self.0.len() >= OPEN_MAX {
            self.0.pop_front();
        }
        let (sender, receiver) = oneshot::channel();
        self.0.push_back(sender);
        receiver
    }
}

/// Why a connection was not begun, and its socket, where the client has been told.
struct Refused {
    failure: Failure,
    why: Option<io::Error>,
    told: Option<TcpStream>,
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self { failure, why: None, told: None }
    }
}

impl Refused {
    /// Told, as far as a client takes so few bytes at once.
    fn telling(failure: Failure, socket: TcpStream, words: &[u8]) -> Self {
        let _ = socket.try_write(words);
        Self { failure, why: None, told: Some(socket) }
    }
}

/// Finds out what the connection is, and does our side of the handshake where it is TLS with us.
pub async fn run(
    conn: &Rc<Conn>,
    socket: TcpStream,
    mode: ListenerTlsMode,
    config: &schema::Listener,
    takes: Takes,
) -> Result<Begun, Reason> {
    let is_tcp = takes == Takes::Tcp;
    if takes_plaintext(mode) {
        // Whoever may speak plaintext may also stay idle, or wait for the server to speak first.
        let patience = if is_tcp { SILENCE } else { *config.idle_timeout };
        match tokio::time::timeout(patience, something(conn, &socket)).await {
            Ok(came) => came?,
            Err(_) if is_tcp => return Ok(Begun::Plaintext(socket.into(), Bytes::new())),
            Err(_) => return Err(Reason::None),
        }
    }
    let evicted = conn.worker.handshakes.borrow_mut().enter();
    let outcome = tokio::select! {
        biased;
        outcome = tokio::time::timeout(*config.handshake_timeout(), begin(conn, socket, mode, takes)) => outcome.ok(),
        _ = evicted => None,
    };
    let Refused { failure, why, told } = match outcome.unwrap_or_else(|| Err(Failure::Timeout.into())) {
        Ok(Some(begun)) => return Ok(begun),
        // Came and went: a probe of the port.
        Ok(None) => return Err(Reason::None),
        Err(refused) => refused,
    };
    let why = why.as_ref().map(identity::why);
    tracing::debug!(peer = %conn.peer, listener = &*conn.socket.name, failure = failure.name(), why, "no handshake");
    conn.worker.counters.handshake_failures.inc(failure);
    if let Some(socket) = told {
        linger(socket).await;
    }
    Err(if failure == Failure::NoIdentity { Reason::NoIdentity } else { Reason::Handshake })
}

/// Takes what the client still sends, for a short time: closing on unread bytes would reset the connection, and the alert
/// might never be seen.
async fn linger(mut socket: TcpStream) {
    const TIME: Duration = Duration::from_millis(300);
    const BYTES: usize = 64 * 1024;
    let drain = async {
        let (mut chunk, mut read) = ([0; 1024], 0);
        let mut end = socket.shutdown().await;
        while end.is_ok() && read < BYTES {
            end = match socket.read(&mut chunk).await {
                Ok(0) => return,
                Ok(count) => {
                    read += count;
                    Ok(())
                }
                Err(error) => Err(error),
            };
        }
    };
    // Whoever has not read it by then has had its chance.
    let _ = tokio::time::timeout(TIME, drain).await;
}

/// Off where routes go by the name that a client of TLS asks for: it is looked at, and nothing is terminated.
fn takes_plaintext(mode: ListenerTlsMode) -> bool {
    matches!(mode, ListenerTlsMode::Permissive | ListenerTlsMode::Off)
}

/// Waits for the first byte, or until the connection is no longer wanted.
async fn something(conn: &Conn, socket: &TcpStream) -> Result<(), Reason> {
    poll_fn(|cx| {
        conn.place.attention.register(cx.waker());
        // An idle connection does not keep an old snapshot alive.
        drop(conn.view());
        let mut byte = [0];
        // That it is ready to be read does not say that there is anything.
        match socket.poll_peek(cx, &mut ReadBuf::new(&mut byte)) {
            Poll::Ready(peeked) => Poll::Ready(peeked.map(drop).map_err(|_| Reason::ClientReset)),
            Poll::Pending if conn.is_closed() => Poll::Ready(Err(Reason::None)),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// `None` where nothing came.
async fn begin(
    conn: &Rc<Conn>,
    mut socket: TcpStream,
    mode: ListenerTlsMode,
    takes: Takes,
) -> Result<Option<Begun>, Refused> {
    let is_tcp = takes != Takes::Http;
    let began = Instant::now();
    let mut early = BytesMut::new();
    let hello = match first(&mut socket, &mut early, is_tcp && takes_plaintext(mode)).await {
        Err(Failure::Malformed) => {
            return Err(Refused::telling(Failure::Malformed, socket, &alert(DECODE_ERROR)));
        }
        read => read?,
    };
    let stream = socket;
    let ours = |hello: &ClientHello| mode != ListenerTlsMode::Off && hello.is_ours();
    match hello {
        First::Nothing => Ok(None),
        First::Other if takes_plaintext(mode) => Ok(Some(Begun::Plaintext(stream.into(), early.freeze()))),
        First::Other => {
            if mode == ListenerTlsMode::Server && !is_tcp && detect::detect(&early) == Verdict::Http1 {
                return Err(Refused::telling(Failure::Plaintext, stream, &reply::raw(Reason::Handshake)));
            }
            Err(Failure::Plaintext.into())
        }
        First::Hello(hello) if takes_plaintext(mode) && !ours(&hello) => {
            Ok(Some(Begun::Passthrough(stream.into(), early.freeze(), hello.server_name)))
        }
        First::Hello(hello) => {
            terminate(conn, Rewound::new(stream, early.freeze()), mode, takes, hello, began).await.map(Some)
        }
    }
}

enum First {
    Nothing,
    Hello(ClientHello),
    Other,
}

/// Reads until there is a whole ClientHello, or none can come of it. `opaque`: then it is something else, and not for us
/// to judge.
async fn first(socket: &mut TcpStream, early: &mut BytesMut, opaque: bool) -> Result<First, Failure> {
    loop {
        let at_least = match client_hello::parse(early) {
            Parsed::Hello(hello) => return Ok(First::Hello(hello)),
            Parsed::NotTls => return Ok(First::Other),
            Parsed::More { at_least } if at_least <= HELLO_MAX => at_least,
            Parsed::More { .. } | Parsed::Invalid if opaque => return Ok(First::Other),
            Parsed::More { .. } | Parsed::Invalid => return Err(Failure::Malformed),
        };
        while early.len() < at_least {
            early.reserve(at_least - early.len());
            match socket.read_buf(early).await {
                // Who only listens may have nothing to say.
                Ok(0) if opaque => return Ok(First::Other),
                Ok(0) if early.is_empty() => return Ok(First::Nothing),
                Ok(0) | Err(_) => return Err(Failure::Closed),
                Ok(_) => {}
            }
        }
    }
}

/// Our side of the handshake, and what the client has proven in it.
async fn terminate(
    conn: &Rc<Conn>,
    stream: Rewound,
    mode: ListenerTlsMode,
    takes: Takes,
    hello: ClientHello,
    began: Instant,
) -> Result<Begun, Refused> {
    let material = conn.worker.shared.material.load();
    let mesh = match mode {
        ListenerTlsMode::Server => None,
        _ => material.mesh.as_ref(),
    };
    let config = match (mode, mesh) {
        (ListenerTlsMode::Server, _) => material.servers.get(&*conn.socket.name),
        (_, Some(mesh)) if takes == Takes::Tcp => Some(&mesh.server_tcp),
        (_, Some(mesh)) if takes == Takes::Either => Some(&mesh.server_any),
        (_, mesh) => mesh.map(|mesh| &mesh.server),
    };
    let Some(config) = config else {
        return Err(Refused::telling(Failure::NoIdentity, stream.into_socket(), &alert(INTERNAL_ERROR)));
    };
    let accepted = tokio_rustls::TlsAcceptor::from(config.clone()).accept(stream).into_fallible().await;
    let stream = accepted.map_err(|(error, stream)| {
        let failure = match Failure::of(&error) {
            // It was TLS when it began.
            Failure::Plaintext => Failure::Malformed,
            failure => failure,
        };
        // rustls has told the client in an alert.
        Refused { failure, why: Some(error), told: Some(stream.into_socket()) }
    })?;
    let (_, session) = stream.get_ref();
    let clock = SystemTime::now();
    let resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
    let peer = match mesh {
        Some(mesh) => {
            Some(Rc::new(mesh.client_proven(session.peer_certificates().unwrap_or_default(), resumed, clock)?))
        }
        None => None,
    };
    let spoken = match session.alpn_protocol() {
        Some(b"h2") => Some(Spoken::Http2),
        Some(b"http/1.1") => Some(Spoken::Http1),
        Some(identity::TCP) if takes == Takes::Either => Some(Spoken::Tcp),
        _ => None,
    };
    let version = match session.protocol_version() {
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "TLSv1.3",
    };
    let counters = &conn.worker.counters;
    counters.handshakes.inc();
    if resumed {
        counters.handshakes_resumed.inc();
    }
    let now = clock::tick();
    if let (Some(mesh), Some(peer)) = (mesh, &peer) {
        let chance = conn.worker.rng.borrow_mut().random();
        conn.live(Lifetime::new(now, clock, [mesh.not_after, peer.not_after], mesh.max_age, chance));
    }
    // Set once, here.
    let took = now.saturating_duration_since(began.into_std());
    let own = mesh.map(|mesh| mesh.id.clone());
    let _ = conn.tls.set(Tls { peer, own, took, resumed, version, server_name: hello.server_name });
    conn.activity.moved.set(now);
    Ok(Begun::Secure(Stream::Tls(Box::new(stream.into())), spoken))
}

const INTERNAL_ERROR: u8 = 80;
const DECODE_ERROR: u8 = 50;

/// A fatal alert (RFC 8446, section 6), for who is refused before a codec is there to say so.
const fn alert(description: u8) -> [u8; 7] {
    [21, 3, 3, 0, 2, 2, description]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_open_handshake_makes_room() {
        let mut open = Open::default();
        let mut all: Vec<_> = (0..OPEN_MAX).map(|_| open.enter()).collect();
        let mut next = open.enter();
        assert!(matches!(all[0].try_recv(), Err(oneshot::error::TryRecvError::Closed)));
        assert!(matches!(all[1].try_recv(), Err(oneshot::error::TryRecvError::Empty)));
        // Those that are done make room before anybody has to leave.
        all.truncate(10);
        let _more = open.enter();
        assert!(matches!(next.try_recv(), Err(oneshot::error::TryRecvError::Empty)));
        assert!(open.0.len() < 20);
    }
}

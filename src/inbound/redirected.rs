//! A redirected connection from its first bytes: where it was going is known before what it speaks. What a destination
//! speaks decides the client, or, where the client waits, the server: then the connection to it is there already.

use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::net::TcpStream;

use super::Conn;
use super::handshake::{self, Begun, Spoken as Agreed};
use super::met::Met;
use crate::config::schema::{self, ListenerTlsMode, PortProtocol, Protocol};
use crate::error::Reason;
use crate::http;
use crate::net::first_request;
use crate::net::stream::Stream;
use crate::policy::learned::Spoken;
use crate::snapshot::Kind;
use crate::snapshot::redirected::Destination;
use crate::tcp::{self, First, Plan, Raced};
use crate::telemetry::detection::Outcome;
use crate::telemetry::peers::How;
use crate::upstream::transport::Dialled;
use crate::wire::address::Address;
use crate::wire::client_hello::{self, Parsed};
use crate::wire::detect::{self, ServerSpeaks, Verdict};
use crate::wire::first_request as wire_first;

/// Most clients that speak first have done so by then. Where they are known to do so, a silent one may still be one
/// that waits for its server: who has learned that may have been misled by a probe.
const GRACE: Duration = Duration::from_millis(1);
const GRACE_CLIENT_FIRST: Duration = Duration::from_millis(20);
/// The longest ClientHello that is looked into.
const HELLO_MAX: usize = 16 * 1024;
/// A client may be about to begin TLS, however soon the server speaks: one of the mesh does so as soon as it is connected,
/// and surely if it did before.
const HOLD: Duration = Duration::from_millis(3);
const HOLD_MUTUAL: Duration = Duration::from_millis(200);
const CHUNK: usize = 4096;

/// What is known of the destination before a byte has come.
struct Target {
    /// Towards our own application.
    inbound: bool,
    to: SocketAddr,
    protocol: PortProtocol,
    tls: ListenerTlsMode,
    /// What is not HTTP is let through.
    undetected: bool,
    /// No service has it.
    unknown: bool,
    deny: bool,
}

impl Target {
    fn new(conn: &Conn, to: SocketAddr) -> Option<Self> {
        let (view, index) = conn.view();
        let snapshot = &view.snapshot;
        match &snapshot.listeners.get(index)?.kind {
            Kind::Inbound(ports) => {
                let port = ports.of(to.port());
                let (protocol, tls, undetected) = (port.protocol, port.tls, port.undetected);
                Some(Self { inbound: true, to, protocol, tls, undetected, unknown: false, deny: false })
            }
            Kind::Outbound(outbound) => {
                let service = match outbound.destination(snapshot, Some(to)) {
                    Destination::Service(service, _) => Some(service),
                    Destination::Unknown => None,
                };
                let protocol = match service.and_then(|service| snapshot.services.get(service)) {
                    Some(service) if service.protocol == Protocol::Tcp => PortProtocol::Tcp,
                    _ => PortProtocol::Auto,
                };
                let known = service.and_then(|service| outbound.services.get(service));
                Some(Self {
                    inbound: false,
                    to,
                    protocol,
                    tls: ListenerTlsMode::Off,
                    undetected: known.map_or(!outbound.deny, |known| known.undetected),
                    unknown: service.is_none(),
                    deny: outbound.deny,
                })
            }
            Kind::Http { .. } | Kind::Tcp(_) => None,
        }
    }
}

/// Where a connection was going before the kernel redirected it.
pub fn original(socket: &TcpStream, config: &schema::Listener) -> Option<SocketAddr> {
    let local = canonical(socket.local_addr().ok()?);
    if config.transparent == schema::Transparent::Tproxy {
        return Some(local);
    }
    let asked = socket2::SockRef::from(socket);
    let found = match local.is_ipv4() {
        true => asked.original_dst_v4(),
        false => asked.original_dst_v6(),
    };
    found.ok()?.as_socket().map(canonical)
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Serves the connection to its end.
pub async fn serve(conn: &Rc<Conn>, socket: TcpStream, config: &schema::Listener) -> Reason {
    let local = socket.local_addr().ok().map(canonical);
    let straight = |to: &SocketAddr| Some(*to) == local && to.port() == conn.socket.address.port();
    let Some(to) = conn.original.filter(|to| !straight(to)) else { return Reason::NotRedirected };
    if is_ours(conn, to) {
        return Reason::Loop;
    }
    let Some(target) = Target::new(conn, to) else { return Reason::NoRoute };
    let opening = match begin(conn, socket, config, &target).await {
        Ok(opening) => opening,
        Err(reason) => return reason,
    };
    // Who calls the application; what goes out is its own.
    let how = match &opening {
        Opening::Relay(_, first) if first.is_tls => How::Passthrough,
        _ if conn.peer_certificate().is_some() => How::Mutual,
        _ => How::Plaintext,
    };
    let _met = target.inbound.then(|| Met::new(conn, how));
    let (stream, early, agreed) = match opening {
        Opening::Stream(stream, early, agreed) => (stream, early, agreed),
        Opening::Relay(stream, first) => return Box::pin(tcp::run(conn, stream, first)).await,
    };
    let agreed = match (agreed, target.protocol) {
        (Some(Agreed::Tcp), _) if !target.undetected => return undetected(conn),
        (Some(Agreed::Tcp), _) | (_, PortProtocol::Tcp) => {
            return Box::pin(tcp::run(conn, stream, First { early, ..First::default() })).await;
        }
        (None, PortProtocol::Auto) => return detected(conn, stream, early, config, &target).await,
        (agreed, PortProtocol::Http | PortProtocol::Auto) => agreed,
    };
    http::server::run(conn, stream, early, agreed, config).await
}

/// What a connection has become by its handshake, or without one.
enum Opening {
    Stream(Stream, Bytes, Option<Agreed>),
    Relay(Stream, First),
}

async fn begin(
    conn: &Rc<Conn>,
    socket: TcpStream,
    config: &schema::Listener,
    target: &Target,
) -> Result<Opening, Reason> {
    if target.tls == ListenerTlsMode::Off {
        return Ok(Opening::Stream(socket.into(), Bytes::new(), None));
    }
    let mut stream = Stream::from(socket);
    // In plaintext the server may have the first word.
    if target.tls == ListenerTlsMode::Permissive && target.protocol != PortProtocol::Http {
        if let Spoke::Server(raced) = who_speaks(conn, &mut stream, target, true).await? {
            return Ok(Opening::Relay(stream, First { raced: Some(raced), ..First::default() }));
        }
    }
    let Stream::Plain(socket) = stream else { return Err(Reason::Handshake) };
    let begun =
        Box::pin(handshake::run(conn, socket, target.tls, config, handshake::Takes::of(target.protocol))).await?;
    Ok(match begun {
        Begun::Plaintext(stream, early) => Opening::Stream(stream, early, None),
        Begun::Secure(stream, agreed) => Opening::Stream(stream, Bytes::new(), agreed),
        Begun::Passthrough(stream, early, server_name) => {
            if !target.undetected {
                return Err(undetected(conn));
            }
            Opening::Relay(stream, First { early, server_name, is_tls: true, raced: None })
        }
    })
}

/// Plaintext, or the inside of TLS with us, of which nothing is known.
async fn detected(
    conn: &Rc<Conn>,
    mut stream: Stream,
    early: Bytes,
    config: &schema::Listener,
    target: &Target,
) -> Reason {
    let mut early = BytesMut::from(&*early);
    if early.is_empty() {
        match who_speaks(conn, &mut stream, target, false).await {
            Ok(Spoke::Client) => {}
            Ok(Spoke::Server(raced)) => {
                tell_unknown(conn, target, None, Spoken::ServerFirst);
                return Box::pin(tcp::run(conn, stream, First { raced: Some(raced), ..First::default() })).await;
            }
            Err(reason) => return reason,
        }
    }
    let first = Box::pin(first_bytes(conn, &mut stream, &mut early, config, target)).await;
    match first {
        Err(reason) => reason,
        Ok(Protocols::Http) => http::server::run(conn, stream, early.freeze(), None, config).await,
        Ok(Protocols::Opaque { server_name, is_tls }) => {
            let first = First { early: early.freeze(), server_name, is_tls, raced: None };
            Box::pin(tcp::run(conn, stream, first)).await
        }
    }
}

/// What the first bytes have told.
enum Protocols {
    Http,
    Opaque { server_name: Option<Box<str>>, is_tls: bool },
}

async fn first_bytes(
    conn: &Rc<Conn>,
    stream: &mut Stream,
    early: &mut BytesMut,
    config: &schema::Listener,
    target: &Target,
) -> Result<Protocols, Reason> {
    let verdict = match tokio::time::timeout(*config.detection_timeout, verdict(stream, early)).await {
        Ok(Ok(verdict)) => verdict,
        Ok(Err(_)) => {
            ended(conn, Outcome::Closed);
            return Err(Reason::ClientReset);
        }
        Err(_) => {
            ended(conn, Outcome::Timeout);
            Verdict::More
        }
    };
    let spoken = match verdict {
        Verdict::Http1 => Spoken::Http1,
        Verdict::Http2 => Spoken::Http2,
        Verdict::Tls => Spoken::Tls,
        Verdict::Opaque | Verdict::More => Spoken::Opaque,
    };
    // What could not be told in time says nothing of the next one.
    if verdict != Verdict::More {
        learn(conn, target, spoken);
        ended(conn, Outcome::from(spoken));
    }
    let http = matches!(spoken, Spoken::Http1 | Spoken::Http2);
    if http && !target.unknown {
        return Ok(Protocols::Http);
    }
    if http {
        // Whoever takes longer is not asked for what only we want to know.
        let asked = tokio::time::timeout(*config.detection_timeout, asked_for(stream, early, spoken, config)).await;
        let host = asked.unwrap_or_default();
        if host.as_deref().is_some_and(|host| knows(conn, host)) {
            return Ok(Protocols::Http);
        }
        tell_unknown(conn, target, host.as_deref(), spoken);
        return Ok(match target.deny {
            // It is told why.
            true => Protocols::Http,
            false => Protocols::Opaque { server_name: None, is_tls: false },
        });
    }
    let server_name = match spoken {
        Spoken::Tls => {
            let hello = tokio::time::timeout(*config.detection_timeout, server_name(stream, early)).await;
            hello.unwrap_or_default()
        }
        _ => None,
    };
    let is_tls = spoken == Spoken::Tls;
    if target.unknown {
        if !server_name.as_deref().is_some_and(|name| knows(conn, name)) {
            tell_unknown(conn, target, server_name.as_deref(), spoken);
        }
    } else if !target.undetected {
        return Err(undetected(conn));
    }
    Ok(Protocols::Opaque { server_name, is_tls })
}

fn undetected(conn: &Conn) -> Reason {
    ended(conn, Outcome::Undetected);
    Reason::Undetected
}

/// Reads until it can be told what it is. The end of what the client sends is a verdict, too.
async fn verdict(stream: &mut Stream, early: &mut BytesMut) -> io::Result<Verdict> {
    loop {
        match detect::detect(early) {
            Verdict::More => {}
            verdict => return Ok(verdict),
        }
        if more(stream, early).await? == 0 {
            return if early.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(Verdict::Opaque) };
        }
    }
}

async fn more(stream: &mut Stream, early: &mut BytesMut) -> io::Result<usize> {
    early.reserve(CHUNK);
    stream.read_buf(early).await
}

/// The host of the first request; none where it cannot be told.
async fn asked_for(
    stream: &mut Stream,
    early: &mut BytesMut,
    spoken: Spoken,
    config: &schema::Listener,
) -> Option<String> {
    let max = usize::try_from(config.max_header_bytes.0).unwrap_or(usize::MAX);
    loop {
        let first = match spoken {
            Spoken::Http2 => first_request::http2(early),
            _ => wire_first::http1(early, max),
        };
        match first {
            wire_first::First::Host(host) => return Some(host),
            wire_first::First::None | wire_first::First::Invalid => return None,
            wire_first::First::More => {}
        }
        if !matches!(more(stream, early).await, Ok(1..)) {
            return None;
        }
    }
}

/// Whom a client of TLS asks for; none where it asks for nobody.
async fn server_name(stream: &mut Stream, early: &mut BytesMut) -> Option<Box<str>> {
    loop {
        match client_hello::parse(early) {
            Parsed::Hello(hello) => return hello.server_name,
            Parsed::More { at_least } if at_least <= HELLO_MAX => {}
            Parsed::More { .. } | Parsed::NotTls | Parsed::Invalid => return None,
        }
        if !matches!(more(stream, early).await, Ok(1..)) {
            return None;
        }
    }
}

fn knows(conn: &Conn, name: &str) -> bool {
    let (view, index) = conn.view();
    match view.snapshot.listeners.get(index).map(|listener| &listener.kind) {
        Some(Kind::Outbound(outbound)) => outbound.knows(name) || outbound.names.of(name).any(|route| route.is_some()),
        _ => false,
    }
}

fn learn(conn: &Conn, target: &Target, spoken: Spoken) {
    conn.worker.learned.borrow_mut().learn(target.inbound, target.to, spoken, Instant::now());
}

fn learned(conn: &Conn, target: &Target) -> Option<Spoken> {
    conn.worker.learned.borrow().get(target.inbound, target.to, Instant::now())
}

fn ended(conn: &Conn, outcome: Outcome) {
    let (view, index) = conn.view();
    if let Some(detection) = view.detection(index) {
        let since = conn.accepted.get().map_or(Duration::ZERO, |at| at.elapsed());
        detection.ended(outcome, since);
    }
}

fn tell_unknown(conn: &Conn, target: &Target, name: Option<&str>, spoken: Spoken) {
    if !target.unknown {
        return;
    }
    let (view, index) = conn.view();
    if let Some(detection) = view.detection(index) {
        detection.unknown(spoken, !target.deny);
    }
    conn.worker.unknown.borrow_mut().see(target.to, name, spoken.name(), !target.deny, Instant::now());
}

/// Who has spoken first.
enum Spoke {
    Client,
    Server(Raced),
}

/// Waits for the first byte of the client, and, where that may be, of the server at the same time.
///
/// `holds`: the client may be about to begin TLS with us.
async fn who_speaks(conn: &Rc<Conn>, stream: &mut Stream, target: &Target, holds: bool) -> Result<Spoke, Reason> {
    let known = learned(conn, target);
    let may_race = target.undetected && !target.deny;
    let idle = *conn.worker.view().snapshot.config.root().defaults.tcp_idle_timeout;
    let mut client = pin!(tokio::time::timeout(idle, spoken(conn, stream)));
    if may_race {
        let grace = match known {
            None => GRACE,
            Some(Spoken::ServerFirst) => Duration::ZERO,
            Some(_) => GRACE_CLIENT_FIRST,
        };
        tokio::select! {
            biased;
            client = &mut client => return client.unwrap_or(Err(Reason::IdleTimeout)).map(|()| Spoke::Client),
            () = tokio::time::sleep(grace) => {}
        }
        // Boxed: most connections never come here.
        let server = Box::pin(server(conn, target));
        tokio::select! {
            biased;
            client = &mut client => return client.unwrap_or(Err(Reason::IdleTimeout)).map(|()| Spoke::Client),
            raced = server => match raced {
                Ok(Some(raced)) => {
                    if holds {
                        let peer = conn.peer.ip().map(|ip| ip.to_canonical());
                        let mutual = conn.worker.peers.borrow().knows_as_mutual(peer);
                        let hold = tokio::time::sleep(if mutual { HOLD_MUTUAL } else { HOLD });
                        tokio::select! {
                            biased;
                            client = &mut client => {
                                return client.unwrap_or(Err(Reason::IdleTimeout)).map(|()| Spoke::Client);
                            }
                            () = hold => {}
                        }
                    }
                    let learned = known == Some(Spoken::ServerFirst);
                    ended(conn, if learned { Outcome::Learned } else { Outcome::ServerFirst });
                    return Ok(Spoke::Server(raced));
                }
                // It waits for the client, whatever it said.
                Ok(None) => {}
                Err(reason) => {
                    drop(client);
                    stream.break_off();
                    return Err(reason);
                }
            },
        }
    }
    client.await.unwrap_or(Err(Reason::IdleTimeout)).map(|()| Spoke::Client)
}

/// Ready when the client has sent something, or nothing is to be waited for any more.
async fn spoken(conn: &Rc<Conn>, stream: &Stream) -> Result<(), Reason> {
    poll_fn(|cx| {
        conn.place.attention.register(cx.waker());
        // An idle connection does not keep an old snapshot alive.
        drop(conn.view());
        let came = match stream {
            Stream::Plain(socket) => {
                let mut byte = [0];
                socket.poll_peek(cx, &mut ReadBuf::new(&mut byte)).map(|peeked| peeked.map(drop))
            }
            // TLS cannot be looked into without being read; what is read is not raced for.
            Stream::Tls(_) => Poll::Ready(Ok(())),
        };
        match came {
            Poll::Ready(came) => Poll::Ready(came.map_err(|_| Reason::ClientReset)),
            Poll::Pending => match conn.cut() {
                Some(reason) => Poll::Ready(Err(reason)),
                None if conn.is_closed() => Poll::Ready(Err(Reason::None)),
                None => Poll::Pending,
            },
        }
    })
    .await
}

/// Connects, and waits for the server to speak. None where it is known to wait for its client.
async fn server(conn: &Rc<Conn>, target: &Target) -> Result<Option<Raced>, Reason> {
    // What is not allowed, or leads nowhere, is told when the client has spoken.
    let Ok(plan) = Plan::new(conn, None) else { return Ok(None) };
    let mut upstream = match plan.dial(conn, Some(target.to), false).await {
        Ok(upstream) => upstream,
        // There is no other place to try.
        Err(reason) if target.inbound || target.unknown => return Err(reason),
        Err(_) => return Ok(None),
    };
    let mut spoken = BytesMut::new();
    let came = poll_fn(|cx| poll_greeting(cx, &mut upstream, &mut spoken)).await;
    match came {
        ServerSpeaks::Opaque => {
            learn(conn, target, Spoken::ServerFirst);
            Ok(Some(Raced { plan, upstream, spoken: spoken.freeze() }))
        }
        // It has ended it: so be it for the client.
        ServerSpeaks::More if spoken.is_empty() => Ok(Some(Raced { plan, upstream, spoken: Bytes::new() })),
        ServerSpeaks::Http1 | ServerSpeaks::Http2 | ServerSpeaks::TlsAlert | ServerSpeaks::More => Ok(None),
    }
}

/// `More` where it has closed.
fn poll_greeting(cx: &mut Context<'_>, upstream: &mut Dialled, spoken: &mut BytesMut) -> Poll<ServerSpeaks> {
    loop {
        if !spoken.is_empty() {
            match detect::spoken_first(spoken) {
                ServerSpeaks::More => {}
                speaks => return Poll::Ready(speaks),
            }
        }
        ready!(upstream.stream.poll_read_ready(cx)).ok();
        let mut chunk = [0; 1024];
        let mut buf = ReadBuf::new(&mut chunk);
        match ready!(Pin::new(&mut upstream.stream).poll_read(cx, &mut buf)) {
            Ok(()) if !buf.filled().is_empty() => spoken.extend_from_slice(buf.filled()),
            Ok(()) | Err(_) => return Poll::Ready(ServerSpeaks::More),
        }
    }
}

/// Whether an address is one of our own sockets: serving it would be serving ourselves.
fn is_ours(conn: &Conn, to: SocketAddr) -> bool {
    let (view, _) = conn.view();
    let root = view.snapshot.config.root();
    let listeners = root.listeners.iter().map(|listener| &listener.address);
    let ports = listeners.chain([&conn.socket.address]).map(Address::port);
    let mut same_port =
        ports.chain([root.admin.address.port(), root.health.address.port()]).filter(|own| *own == to.port()).peekable();
    // An address is local if a socket can have it. Asked for where the port is one of ours only.
    same_port.peek().is_some() && UdpSocket::bind((to.ip(), 0)).is_ok()
}

//! Socket options, and nothing else.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};

/// Connections that the kernel keeps for us before we accept them.
const BACKLOG: i32 = 4096;
/// After which a peer that has vanished is found out: the time of `KEEPALIVE`, and of all its probes.
const VANISHED: Duration = Duration::from_secs(90);
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(10)).with_retries(3);

/// A listening socket, not blocking. An IPv6 wildcard listens on IPv6 alone, as the configuration says.
pub fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Connected, or `WouldBlock` where the queue of whoever listens is full. To all that follows it is a stream like any
/// other: only addresses and options of TCP are none of its own.
pub fn connect_unix(path: &str) -> io::Result<std::net::TcpStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&unix(path)?)?;
    Ok(socket.into())
}

/// A name in the abstract namespace begins with `@`, as it is written everywhere, and with a NUL as the kernel has it.
fn unix(path: &str) -> io::Result<SockAddr> {
    match path.strip_prefix('@') {
        Some(name) => SockAddr::unix(format!("\0{name}")),
        None => SockAddr::unix(path),
    }
}

/// A peer that acknowledges nothing for as long as a vanished one stays unnoticed is given up. For connections to
/// services that requests share: on a dead one they would all wait until the kernel has had enough, a quarter of an hour.
/// Not for clients, nor for what is relayed: they may as well have stopped to read, which the kernel does not tell apart.
pub fn expect_answers(stream: &tokio::net::TcpStream) -> io::Result<()> {
    SockRef::from(stream).set_tcp_user_timeout(Some(VANISHED))
}

/// Small writes go at once; dead peers are noticed.
pub fn tune(stream: &tokio::net::TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    SockRef::from(stream).set_tcp_keepalive(&KEEPALIVE)
}

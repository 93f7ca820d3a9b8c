//! Socket options, and nothing else.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};

/// Connections that the kernel keeps for us before we accept them.
const BACKLOG: i32 = 4096;
/// After which a peer that has vanished is found out: the time of `KEEPALIVE`, and of all its probes.
const VANISHED: Duration = Duration::from_secs(90);
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(10)).with_retries(3);

/// A listening socket, not blocking. An IPv6 wildcard listens on IPv6 alone, as the configuration says. A transparent
/// one takes connections to any address that is routed to it (takes the capability NET_ADMIN).
pub fn listen(address: SocketAddr, transparent: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if transparent {
        self::transparent(&socket, address)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// The same address in the other family, where there is such a thing: rules and probes of both lead to one port.
pub fn other_family(address: SocketAddr) -> Option<SocketAddr> {
    let other: IpAddr = match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv6Addr::UNSPECIFIED.into(),
        IpAddr::V4(Ipv4Addr::LOCALHOST) => Ipv6Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(Ipv6Addr::LOCALHOST) => Ipv4Addr::LOCALHOST.into(),
        _ => return None,
    };
    Some(SocketAddr::new(other, address.port()))
}

/// Lets a socket have an address that is not ours: of the family of `address`.
pub fn transparent(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    let set = match address {
        SocketAddr::V4(_) => socket.set_ip_transparent_v4(true),
        SocketAddr::V6(_) => socket.set_ip_transparent_v6(true),
    };
    set.map_err(|error| io::Error::new(error.kind(), format!("`transparent: tproxy` needs NET_ADMIN: {error}")))
}

/// A listening Unix socket. What a process that is gone has left at its path is replaced, where nobody listens there.
pub fn listen_unix(path: &str, mode: Option<u32>) -> io::Result<(std::net::TcpListener, Option<SocketFile>)> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match socket.bind(&unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            make_room(path)?;
            socket.bind(&unix(path)?)?;
        }
        bound => bound?,
    }
    let file = path.starts_with('/').then(|| SocketFile::at(path)).transpose()?;
    // Nobody can connect before it listens.
    if let Some(file) = &file {
        file.permit(mode)?;
    }
    socket.listen(BACKLOG)?;
    Ok((socket.into(), file))
}

fn make_room(path: &str) -> io::Result<()> {
    let taken = |why| Err(io::Error::new(io::ErrorKind::AddrInUse, why));
    let is_file = path.starts_with('/');
    if is_file && !fs::symlink_metadata(path)?.file_type().is_socket() {
        return taken("a file that is no socket is in the way");
    }
    match connect_unix(path) {
        Err(error) if is_file && error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        _ => taken("another process has it"),
    }
}

/// The file of a listening Unix socket: removed at the end, unless by then it is that of another. To be dropped before
/// the socket, which keeps the number of the file from being given to another.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
    /// Permissions, as the umask has left them.
    usual: u32,
}

impl SocketFile {
    fn at(path: &str) -> io::Result<Self> {
        let file = fs::symlink_metadata(path)?;
        Ok(Self { path: path.into(), device: file.dev(), inode: file.ino(), usual: file.mode() & 0o777 })
    }

    fn is_ours(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok_and(|file| file.dev() == self.device && file.ino() == self.inode)
    }

    /// Lets these connect.
    pub fn permit(&self, mode: Option<u32>) -> io::Result<()> {
        match self.is_ours() {
            true => fs::set_permissions(&self.path, fs::Permissions::from_mode(mode.unwrap_or(self.usual))),
            false => Ok(()),
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_ours()
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::debug!(path = %self.path.display(), %error, "the file of a socket stays");
        }
    }
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

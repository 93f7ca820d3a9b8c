//! Ends of Unix sockets, `/path` or `@name`: to all else in these tests they are connections like any other.

use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

use super::{Conn, Message};

pub fn try_connect(path: &str) -> std::io::Result<Conn> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.connect(&address(path))?;
    Ok(Conn::new(TcpStream::from(OwnedFd::from(socket))))
}

pub fn connect(path: &str) -> Conn {
    try_connect(path).unwrap_or_else(|e| panic!("connect to {path}: {e}"))
}

/// A socket at the path on which nobody listens.
pub fn bind(path: &str) -> Socket {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
    socket.bind(&address(path)).unwrap_or_else(|e| panic!("bind {path}: {e}"));
    socket
}

/// For an `Origin`.
pub fn listen(path: &str) -> Socket {
    let socket = bind(path);
    socket.listen(128).expect("listen");
    socket
}

/// Listens, and takes none; its queue is full.
pub fn full(path: &str) -> (Socket, Vec<Socket>) {
    let socket = bind(path);
    socket.listen(0).expect("listen");
    let mut waiting = Vec::new();
    loop {
        let one = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
        one.set_write_timeout(Some(Duration::from_millis(50))).expect("a timeout");
        match one.connect(&address(path)) {
            Ok(()) => waiting.push(one),
            Err(_) => return (socket, waiting),
        }
    }
}

/// A GET on a connection of its own.
pub fn get(path: &str) -> Message {
    let mut conn = connect(path);
    conn.write("GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n");
    conn.response("GET")
}

/// A name that no other test has.
pub fn name(what: &str) -> String {
    format!("@outrigger-test-{}-{what}", std::process::id())
}

fn address(path: &str) -> SockAddr {
    match path.strip_prefix('@') {
        Some(name) => SockAddr::unix(format!("\0{name}")),
        None => SockAddr::unix(path),
    }
    .expect("an address")
}

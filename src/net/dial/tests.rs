use std::time::Instant;

use tokio::net::TcpListener;

use super::*;

const LONG: Duration = Duration::from_secs(10);

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Refuses.
async fn closed() -> SocketAddr {
    listener().await.1
}

/// Never answers: its queue is full.
fn silent() -> (SocketAddr, socket2::Socket, Vec<std::net::TcpStream>) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut held = Vec::new();
    while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
        held.push(stream);
    }
    (address, socket, held)
}

#[tokio::test]
async fn the_first_that_answers_wins() {
    let (_listener, good) = listener().await;
    let (silent, ..) = &silent();
    let closed = closed().await;
    for (addresses, at_least, at_most) in [
        (vec![good, *silent], 0, 200),
        // At once after a failure, after a moment without an answer.
        (vec![closed, good], 0, 200),
        (vec![*silent, good], 240, 490),
        (vec![closed, *silent, closed, good], 240, 490),
    ] {
        let begin = Instant::now();
        let (connected, winner) = race(&addresses, LONG).await.unwrap();
        let took = begin.elapsed().as_millis();
        assert!((at_least..at_most).contains(&took), "{addresses:?}: {took} ms");
        assert_eq!((winner, connected.stream.peer_addr().ok()), (good, Some(good)));
    }
    assert_eq!(race(&[closed, closed], LONG).await.err(), Some(Reason::ConnectFailed));
    let brief = Duration::from_millis(400);
    assert_eq!(race(&[*silent, closed], brief).await.err(), Some(Reason::ConnectTimeout));
    assert_eq!(race(&[closed, *silent], brief).await.err(), Some(Reason::ConnectTimeout));
}

#[tokio::test]
async fn from_another_address() {
    let (listener, to) = listener().await;
    let stream = bound(to, "127.0.0.7".parse().unwrap(), None).await.unwrap();
    let (_, peer) = listener.accept().await.unwrap();
    assert_eq!((peer.ip(), Some(peer)), ("127.0.0.7".parse::<IpAddr>().unwrap(), stream.local_addr().ok()));
    assert!(bound(to, "192.0.2.7".parse().unwrap(), None).await.is_err(), "an address that is not ours");

    let source = Source { ip: "127.0.0.8".parse().unwrap(), mark: 7 };
    if socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap().set_mark(7).is_err() {
        eprintln!("skipped: a mark takes the capability NET_ADMIN");
        return;
    }
    let connected = connect(&to.into(), Some(source), LONG).await.unwrap();
    let (_, peer) = listener.accept().await.unwrap();
    assert_eq!(peer.ip(), source.ip);
    assert_eq!(SockRef::from(&connected.stream).mark().ok(), Some(7));
}

#[tokio::test]
async fn unix_sockets() {
    let name = format!("outrigger-dial-{}", std::process::id());
    let file = std::env::temp_dir().join(&name);
    let text = format!("unix:{}", file.display());
    let address: Address = text.parse().unwrap();
    assert_eq!(connect(&address, None, LONG).await.err(), Some(Reason::ConnectFailed));
    let abstract_name: Address = format!("unix:@{name}").parse().unwrap();
    let listen = |address: socket2::SockAddr| {
        let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        socket.bind(&address).unwrap();
        socket.listen(0).unwrap();
        std::os::unix::net::UnixListener::from(std::os::fd::OwnedFd::from(socket))
    };
    for (address, listener) in [
        (address, listen(socket2::SockAddr::unix(&file).unwrap())),
        (abstract_name, listen(socket2::SockAddr::unix(format!("\0{name}")).unwrap())),
    ] {
        // What a stream of TCP can do, this one can.
        let mut ours = connect(&address, None, LONG).await.unwrap().stream;
        let (theirs, _) = listener.accept().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let mut theirs = tokio::net::UnixStream::from_std(theirs).unwrap();
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        ours.write_all(b"ping").await.unwrap();
        ours.shutdown().await.unwrap();
        let mut heard = String::new();
        theirs.read_to_string(&mut heard).await.unwrap();
        theirs.write_all(b"pong").await.unwrap();
        drop(theirs);
        let mut peeked = [0; 2];
        assert_eq!(ours.peek(&mut peeked).await.ok(), Some(2));
        let mut answer = String::new();
        ours.read_to_string(&mut answer).await.unwrap();
        assert_eq!((heard.as_str(), answer.as_str()), ("ping", "pong"), "{address}");

        // Full: it waits, for as long as it may.
        let held = connect(&address, None, LONG).await.unwrap();
        assert_eq!(connect(&address, None, Duration::from_millis(50)).await.err(), Some(Reason::ConnectTimeout));
        let waiting = connect(&address, None, LONG);
        let room = async { listener.accept().map(drop) };
        assert!(tokio::join!(waiting, room).0.is_ok());
        drop(held);
    }
    let _ = std::fs::remove_file(file);
}

#[tokio::test]
async fn a_shared_connection_does_not_wait_for_the_dead() {
    let (_listener, to) = listener().await;
    let connected = connect(&to.into(), None, LONG).await.unwrap();
    let socket = SockRef::from(&connected.stream);
    assert_eq!(socket.tcp_user_timeout().ok(), Some(None));
    super::socket::expect_answers(&connected.stream).unwrap();
    assert_eq!(socket.tcp_user_timeout().ok(), Some(Some(Duration::from_secs(90))));
    let probes = socket.tcp_keepalive_retries().unwrap() * socket.tcp_keepalive_interval().unwrap().as_secs() as u32;
    assert_eq!(socket.tcp_keepalive_time().unwrap().as_secs() as u32 + probes, 90);
}

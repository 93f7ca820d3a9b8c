//! A scriptable HTTP/1 upstream: a thread a connection, every request kept as the bytes that arrived.

use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use socket2::Socket;

use super::{Conn, Message, SOON, eventually};

/// What to do with the connection after a request was answered.
#[derive(PartialEq, Eq)]
pub enum Next {
    Keep,
    Close,
}

/// Holds answers back until the test opens it.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub fn open(&self) {
        *self.0.0.lock().expect("gate") = true;
        self.0.1.notify_all();
    }

    /// Waits until it is open.
    pub fn pass(&self) {
        let _open = self.0.1.wait_while(self.0.0.lock().expect("gate"), |open| !*open).expect("gate");
    }
}

#[derive(Clone, Debug)]
pub struct Seen {
    /// Which connection it came on, from 0.
    pub connection: usize,
    pub message: Message,
}

pub struct Origin {
    addr: SocketAddr,
    listener: Socket,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    connections: AtomicUsize,
    open: AtomicUsize,
    stopped: AtomicBool,
    seen: Mutex<Vec<Seen>>,
}

impl Origin {
    /// Calls `serve` with every connection, on a thread of its own, and its number.
    pub fn raw(serve: impl Fn(Conn, usize) + Send + Sync + 'static) -> Self {
        Self::raw_on(local(), serve)
    }

    /// The same on a listener of the caller, which may be in another network namespace, or a Unix socket.
    pub fn raw_on(listener: impl Into<Socket>, serve: impl Fn(Conn, usize) + Send + Sync + 'static) -> Self {
        Self::accept(listener.into(), move |conn, number, _| serve(conn, number))
    }

    /// Calls `answer` with every request that arrives whole; those cut short are recorded only.
    pub fn start(answer: impl Fn(&Seen, &mut Conn) -> Next + Send + Sync + 'static) -> Self {
        Self::start_on(local(), answer)
    }

    /// The same on a listener of the caller.
    pub fn start_on(
        listener: impl Into<Socket>,
        answer: impl Fn(&Seen, &mut Conn) -> Next + Send + Sync + 'static,
    ) -> Self {
        Self::accept(listener.into(), move |mut conn, connection, shared| {
            while let Some(message) = conn.request() {
                let seen = Seen { connection, message };
                shared.seen.lock().expect("seen").push(seen.clone());
                if !seen.message.whole || answer(&seen, &mut conn) == Next::Close {
                    return;
                }
            }
        })
    }

    /// Answers every request with these bytes, and keeps the connection.
    pub fn fixed(response: impl Into<Vec<u8>>) -> Self {
        let response = response.into();
        Self::start(move |_, conn| if conn.try_write(&response) { Next::Keep } else { Next::Close })
    }

    /// Answers these bytes and closes.
    pub fn once(response: impl Into<Vec<u8>>) -> Self {
        let response = response.into();
        Self::start(move |_, conn| {
            conn.try_write(&response);
            Next::Close
        })
    }

    /// `200 ok`.
    pub fn ok() -> Self {
        Self::fixed("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    }

    /// `200 name`, so that the client sees who answered.
    pub fn named(name: &str) -> Self {
        Self::fixed(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len()))
    }

    /// `200 name`; for a path that begins with `/slow` when the gate is open.
    pub fn gated(name: &'static str, gate: &Gate) -> Self {
        let gate = gate.clone();
        Self::start(move |seen, conn| {
            if seen.message.head.start_line().contains(" /slow") {
                gate.pass();
            }
            let reply = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len());
            if conn.try_write(reply) { Next::Keep } else { Next::Close }
        })
    }

    /// Answers with the body of the request.
    pub fn echo() -> Self {
        Self::start(|seen, conn| {
            let body = &seen.message.body;
            let mut out = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
            if !seen.message.head.start_line().starts_with("HEAD ") {
                out.extend_from_slice(body);
            }
            if conn.try_write(&out) { Next::Keep } else { Next::Close }
        })
    }

    fn accept(listener: Socket, serve: impl Fn(Conn, usize, &Shared) + Send + Sync + 'static) -> Self {
        // A Unix socket has none.
        let addr = listener.local_addr().expect("address of the origin").as_socket();
        let addr = addr.unwrap_or_else(|| (Ipv4Addr::UNSPECIFIED, 0).into());
        let accepting = listener.try_clone().expect("clone a listener");
        let shared = Arc::new(Shared::default());
        let (serve, inner) = (Arc::new(serve), Arc::clone(&shared));
        std::thread::spawn(move || {
            loop {
                let accepted = accepting.accept();
                if inner.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let Ok((stream, _)) = accepted else { continue };
                let number = inner.connections.fetch_add(1, Ordering::SeqCst);
                inner.open.fetch_add(1, Ordering::SeqCst);
                let (serve, inner) = (Arc::clone(&serve), Arc::clone(&inner));
                std::thread::spawn(move || {
                    let _open = Open(Arc::clone(&inner));
                    serve(Conn::patient(stream.into()), number, &inner);
                });
            }
        });
        Self { addr, listener, shared }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Connections that are being served.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().expect("seen").clone()
    }

    /// Starts the record afresh.
    pub fn forget(&self) {
        self.shared.seen.lock().expect("seen").clear();
    }

    /// Waits for the `n`th request (from 1) and returns it.
    pub fn nth(&self, n: usize) -> Message {
        eventually("a request at the origin", SOON, || self.seen().get(n - 1).map(|s| s.message.clone()))
    }

    pub fn last(&self) -> Message {
        self.seen().pop().expect("a request at the origin").message
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes the accept, so that the port is given back.
        let _ = self.listener.shutdown(Shutdown::Both);
    }
}

fn local() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("bind an origin")
}

struct Open(Arc<Shared>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

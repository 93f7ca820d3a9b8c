//! Clients that send request after request in the background, and count; they repeat nothing, so that whatever the
//! proxy loses shows.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use super::Conn;
use super::h2peer::{H2Client, Lost};

/// Which address takes the next request.
pub type Target = Arc<dyn Fn() -> SocketAddr + Send + Sync>;

pub struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<Vec<String>>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    done: AtomicU64,
}

impl Load {
    /// So many clients of each version, each on one connection for as long as it lasts.
    pub fn start(target: Target, http1: usize, http2: usize) -> Self {
        let shared = Arc::new(Shared::default());
        let client = |run: fn(&Shared, &Target) -> Vec<String>| {
            let (shared, target) = (Arc::clone(&shared), Arc::clone(&target));
            std::thread::spawn(move || run(&shared, &target))
        };
        let ones = (0..http1).map(|_| client(http1_client));
        let clients = ones.chain((0..http2).map(|_| client(http2_client))).collect();
        Self { shared, clients }
    }

    pub fn to(addr: SocketAddr, http1: usize, http2: usize) -> Self {
        Self::start(Arc::new(move || addr), http1, http2)
    }

    /// Requests answered so far.
    pub fn done(&self) -> u64 {
        self.shared.done.load(Ordering::SeqCst)
    }

    /// Ends it, and returns what failed.
    pub fn stop(self) -> Vec<String> {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.clients.into_iter().flat_map(|client| client.join().expect("a client of the load")).collect()
    }
}

impl Shared {
    fn runs(&self) -> bool {
        !self.stop.load(Ordering::SeqCst)
    }

    fn count(&self) {
        self.done.fetch_add(1, Ordering::SeqCst);
    }
}

fn http1_client(shared: &Shared, target: &Target) -> Vec<String> {
    let mut failures = Vec::new();
    let mut held: Option<(SocketAddr, Conn)> = None;
    while shared.runs() && failures.len() < 100 {
        let addr = target();
        let mut conn = match held.take().filter(|(at, _)| *at == addr) {
            Some((_, conn)) => conn,
            None => match TcpStream::connect(addr) {
                Ok(stream) => Conn::new(stream),
                Err(e) => {
                    failures.push(format!("HTTP/1 connect to {addr}: {e}"));
                    continue;
                }
            },
        };
        let sent = conn.try_write("GET /load HTTP/1.1\r\nHost: app.test\r\n\r\n");
        let Some(head) = conn.try_head().filter(|_| sent) else {
            failures
                .push(format!("HTTP/1 to {addr}: closed before an answer (sent: {sent}, reset: {})", conn.was_reset));
            continue;
        };
        let last = head.all("connection").iter().any(|value| value.eq_ignore_ascii_case("close"));
        let reply = conn.body(head);
        if reply.status() == 200 && reply.whole {
            shared.count();
        } else {
            failures.push(format!("HTTP/1 to {addr}: {reply:?}"));
        }
        if !last {
            held = Some((addr, conn));
        }
    }
    failures
}

fn http2_client(shared: &Shared, target: &Target) -> Vec<String> {
    let mut failures = Vec::new();
    let mut held: Option<(SocketAddr, H2Client)> = None;
    while shared.runs() && failures.len() < 100 {
        let addr = target();
        let mut client = match held.take().filter(|(at, _)| *at == addr) {
            Some((_, client)) => client,
            None => match H2Client::connect(addr) {
                Ok(client) => client,
                Err(e) => {
                    failures.push(format!("HTTP/2 connect to {addr}: {e}"));
                    continue;
                }
            },
        };
        match client.get("/load") {
            Ok(reply) if reply.head.status == 200 && reply.reset.is_none() => {
                shared.count();
                held = Some((addr, client));
            }
            // The connection was told to go, and the next is opened.
            Err(Lost::Unsent) => {}
            other => failures.push(format!("HTTP/2 to {addr}: {other:?}")),
        }
    }
    failures
}

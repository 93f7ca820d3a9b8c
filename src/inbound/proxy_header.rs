//! What a load balancer says ahead of a connection about whom it is for. Until that is known the connection is nobody's:
//! nothing of it is looked at, and it has no place among those that a stop waits for.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::error::Reason;
use crate::net::accept::Accepted;
use crate::snapshot::Listener;
use crate::wire::address::Address;
use crate::wire::proxy_protocol::{Client, Parsed, parse};
use crate::worker::Worker;

/// Bytes that are looked at a time: most headers are shorter.
const CHUNK: usize = 256;

/// Whether a peer is one that begins with a header.
pub fn is_due(listener: &Listener, peer: &Address) -> bool {
    let Some(config) = &listener.config.proxy_protocol else { return false };
    match peer.ip() {
        Some(ip) => listener.headed.iter().any(|block| block.contains(ip.to_canonical())),
        None => config.is_from_unix(),
    }
}

/// Reads the header within `timeout`, in a task of its own, and then serves the connection as that of its client.
pub fn spawn(worker: &Rc<Worker>, mut stream: TcpStream, mut accepted: Accepted, timeout: Duration) {
    let worker = worker.clone();
    tokio::task::spawn_local(async move {
        let client = tokio::time::timeout(timeout, read(&mut stream)).await;
        match client.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(Some(client)) => {
                accepted.peer = match client {
                    Client::Ip(address) => address.into(),
                    Client::Unix => Address::unnamed(),
                    Client::Peer => accepted.peer,
                };
                super::begin(&worker, stream, accepted);
            }
            // Came and went: a probe of the port.
            Ok(None) => worker.counters.connections_closed.inc(Reason::None),
            Err(error) => {
                tracing::debug!(peer = %accepted.peer, listener = &*accepted.socket.name, %error, "no PROXY header");
                worker.counters.connections_closed.inc(Reason::ProxyHeader);
            }
        }
    });
}

/// Takes exactly the header from the stream: what follows is read by whom it is for. `None` where nothing comes at all.
async fn read(stream: &mut TcpStream) -> io::Result<Option<Client>> {
    let (mut held, mut chunk) = (Vec::new(), [0; CHUNK]);
    loop {
        let seen = stream.peek(&mut chunk).await?;
        if seen == 0 {
            return if held.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
        let before = held.len();
        held.extend_from_slice(chunk.get(..seen).unwrap_or_default());
        let (take, client) = match parse(&held) {
            Parsed::More => (seen, None),
            Parsed::Header { client, length } => (length.saturating_sub(before), Some(client)),
            Parsed::Invalid => return Err(io::ErrorKind::InvalidData.into()),
        };
        stream.read_exact(chunk.get_mut(..take).unwrap_or_default()).await?;
        if client.is_some() {
            return Ok(client);
        }
    }
}

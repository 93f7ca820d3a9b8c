//! One upstream connection, within a time. Where an endpoint has several addresses they race (happy eyeballs, RFC 8305):
//! the next one sets out when the one before has failed, or has not answered for a moment.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

use super::ports::{self, Held};
use super::socket;
use crate::error::Reason;
use crate::wire::address::Address;

/// Connection Attempt Delay (RFC 8305, section 5).
const STAGGER: Duration = Duration::from_millis(250);
/// Other source addresses that are tried where one has no port left.
const SOURCES_MAX: usize = 8;
/// Between two looks at a Unix socket whose queue is full: nothing tells when it has room.
const FULL: Duration = Duration::from_millis(5);

/// A connection, and the source port that it holds for as long as it is open.
#[derive(Debug)]
pub struct Connected {
    pub stream: TcpStream,
    pub port: Option<Held>,
}

/// A client whose address a connection is made from (TPROXY). Takes the capability NET_ADMIN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    pub ip: IpAddr,
    /// What the answers are routed back to us by.
    pub mark: u32,
}

/// Connects to `to`, from our own address where there is no other.
pub async fn connect(to: &Address, from: Option<Source>, within: Duration) -> Result<Connected, Reason> {
    let connecting = async {
        match (to, from) {
            (Address::Ip(address), None) => plain(*address).await,
            (Address::Ip(address), Some(from)) => {
                let stream = bound(*address, from.ip, Some(from.mark)).await?;
                Ok(Connected { stream, port: None })
            }
            (Address::Unix(path), _) => unix(path).await,
        }
    };
    outcome(timeout(within, connecting).await, to)
}

/// Connects to the first of these that answers, and says which one that was.
pub async fn race(addresses: &[SocketAddr], within: Duration) -> Result<(Connected, SocketAddr), Reason> {
    let first = addresses.first().copied().ok_or(Reason::NoEndpoint)?;
    let racing = async {
        let mut waiting = addresses.iter().copied();
        let mut running = FuturesUnordered::new();
        let mut failed = io::Error::from(io::ErrorKind::AddrNotAvailable);
        loop {
            let next = waiting.next();
            if let Some(address) = next {
                running.push(async move { (address, plain(address).await) });
            }
            // The last one has all the time that is left.
            let moment = async {
                match next {
                    Some(_) if waiting.len() > 0 => sleep(STAGGER).await,
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                done = running.next() => match done {
                    Some((address, Ok(connected))) => return Ok((connected, address)),
                    Some((_, Err(error))) => failed = error,
                    None => return Err(failed),
                },
                () = moment => {}
            }
        }
    };
    outcome(timeout(within, racing).await, &first.into())
}

fn outcome<T>(result: Result<io::Result<T>, tokio::time::error::Elapsed>, to: &Address) -> Result<T, Reason> {
    match result {
        Err(_) => Err(Reason::ConnectTimeout),
        Ok(Err(error)) => {
            tracing::debug!(address = %to, %error, "connect failed");
            Err(Reason::ConnectFailed)
        }
        Ok(Ok(connected)) => Ok(connected),
    }
}

async fn plain(to: SocketAddr) -> io::Result<Connected> {
    let (from, port) = ports::take(to);
    let stream = match from {
        None => tuned(TcpStream::connect(to).await),
        Some(from) => bound(to, from.into(), None).await,
    };
    match stream {
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
            drop(port);
            elsewhere(to, error).await
        }
        stream => Ok(Connected { stream: stream?, port: Some(port) }),
    }
}

/// Where there is no source port left, whoever holds them: from another of our addresses, where we have any.
async fn elsewhere(to: SocketAddr, mut failed: io::Error) -> io::Result<Connected> {
    ports::warn(to, 0);
    for (from, port) in ports::others(to).take(SOURCES_MAX) {
        match bound(to, from.into(), None).await {
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => failed = error,
            stream => return Ok(Connected { stream: stream?, port: Some(port) }),
        }
    }
    Err(failed)
}

/// From this address; with a mark, from one that is not ours.
async fn bound(to: SocketAddr, from: IpAddr, mark: Option<u32>) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(mark) = mark {
        let socket = SockRef::from(&socket);
        socket::transparent(&socket, to)?;
        socket.set_mark(mark)?;
    }
    // The port is chosen by the connection, so that one serves for many destinations.
    setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
    socket.bind(SocketAddr::new(from, 0))?;
    tuned(socket.connect(to).await)
}

fn tuned(connected: io::Result<TcpStream>) -> io::Result<TcpStream> {
    // Options are an improvement; a socket that refuses them will fail by itself if it is broken.
    connected.inspect(|stream| {
        if let Err(error) = socket::tune(stream) {
            tracing::debug!(%error, "socket options");
        }
    })
}

async fn unix(path: &str) -> io::Result<Connected> {
    loop {
        match socket::connect_unix(path) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(FULL).await,
            stream => {
                let stream = TcpStream::from_std(stream?)?;
                // It can be, from the start; but until that is seen nothing is.
                stream.writable().await?;
                return Ok(Connected { stream, port: None });
            }
        }
    }
}

#[cfg(test)]
mod tests;

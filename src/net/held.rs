//! Before there is a configuration: what the kernel redirects to us waits in its queue, and is not refused.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use super::socket;

/// Where redirected connections come unless a listener says otherwise.
pub const INBOUND: u16 = 15006;
pub const OUTBOUND: u16 = 15001;

/// Sockets that nobody accepts from yet. What waits in their queues goes to the listeners that have the same addresses.
#[derive(Default)]
pub struct Held(Vec<(SocketAddr, TcpListener)>);

impl Held {
    /// At the usual addresses. One that cannot be had is left out: whoever needs it will say why.
    pub fn usual() -> Self {
        let all: [(IpAddr, u16); 4] = [
            (Ipv4Addr::UNSPECIFIED.into(), INBOUND),
            (Ipv6Addr::UNSPECIFIED.into(), INBOUND),
            (Ipv4Addr::LOCALHOST.into(), OUTBOUND),
            (Ipv6Addr::LOCALHOST.into(), OUTBOUND),
        ];
        let held = all.into_iter().map(SocketAddr::from).filter_map(|address| {
            // For TPROXY, where we may.
            let transparent = address.port() == INBOUND;
            let socket = socket::listen(address, transparent).or_else(|_| socket::listen(address, false));
            Some((address, socket.ok()?))
        });
        Self(held.collect())
    }

    /// The socket of a listener: the one that was held, or else a new one.
    pub fn listen(&mut self, address: SocketAddr, transparent: bool) -> io::Result<TcpListener> {
        let Some(at) = self.0.iter().position(|(held, _)| *held == address) else {
            // A wildcard would be in the way of an address.
            self.0.retain(|(held, _)| held.port() != address.port());
            return socket::listen(address, transparent);
        };
        let (_, listener) = self.0.swap_remove(at);
        if transparent {
            socket::transparent(&socket2::SockRef::from(&listener), address)?;
        }
        Ok(listener)
    }
}

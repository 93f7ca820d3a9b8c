//! A connection for a check, made as those for traffic are (`upstream::transport`), but on no worker and in no pool.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::SystemTime;

use bytes::Bytes;
use rustls::HandshakeKind;

use super::prober::Plan;
use crate::discovery::Endpoint;
use crate::error::Reason;
use crate::identity::{Alpn, Failure, Material};
use crate::net::dial::{self, Connected};
use crate::net::own;
use crate::net::stream::{Rewound, Stream};
use crate::snapshot::Transport;
use crate::upstream::transport::connector;
use crate::wire::address::Address;
use crate::wire::proxy_protocol;

pub struct Link {
    pub stream: Stream,
    pub http2: bool,
}

pub async fn connect(plan: &Plan, endpoint: &Endpoint, alpn: Alpn, material: &Material) -> Result<Link, String> {
    let port = |address: SocketAddr| SocketAddr::new(address.ip(), plan.check.port.unwrap_or(address.port()));
    let address = match &endpoint.address {
        Address::Ip(address) => Address::Ip(port(*address)),
        unix => unix.clone(),
    };
    let connected = match &address {
        Address::Ip(first) if !endpoint.alternatives.is_empty() => {
            let all: Vec<_> = std::iter::once(*first).chain(endpoint.alternatives.iter().copied().map(port)).collect();
            dial::race(&all, plan.check.timeout).await.map(|(connected, _)| connected)
        }
        _ => dial::connect(&address, None, plan.check.timeout).await,
    };
    let Connected { stream, .. } = connected.map_err(|reason: Reason| reason.sentence().to_owned())?;
    if let Some(version) = plan.proxy_protocol {
        // For nobody but ourselves.
        let header = proxy_protocol::header(version, None, None);
        stream.try_write(&header).map_err(|error| error.to_string())?;
    }
    let beside = plan.beside && address.ip().is_some_and(|ip| own::addresses().contains(&ip));
    let transport = match &plan.transport {
        Transport::Mutual { .. } if beside => Transport::Plain,
        transport => transport.of(endpoint.identity.as_ref()),
    };
    if transport == Transport::Plain {
        return Ok(Link { stream: stream.into(), http2: alpn == Alpn::Http2 });
    }
    let failed = |failure: Failure| format!("no TLS: {}", failure.name());
    let connector = connector(&transport, &address, material).ok_or_else(|| failed(Failure::NoIdentity))?;
    let name = connector.server_name_for(address.ip().unwrap_or(Ipv4Addr::LOCALHOST.into()));
    let tls = tokio_rustls::TlsConnector::from(connector.config(alpn));
    let stream =
        tls.connect(name, Rewound::new(stream, Bytes::new())).await.map_err(|error| failed(Failure::of(&error)))?;
    let (_, session) = stream.get_ref();
    let resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
    let http2 = session.alpn_protocol() == Some(b"h2");
    let chain = session.peer_certificates().unwrap_or_default();
    connector.proven(chain, resumed, SystemTime::now()).map_err(failed)?;
    Ok(Link { stream: Stream::Tls(Box::new(stream.into())), http2 })
}

//! What the connections to one service are made with.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{CertificateDer, ServerName};

use super::Mesh;
use super::failure::Failure;
use super::tls::{HTTP1, HTTP2, MARK, TCP};
use super::verify::{NameVerifier, SpiffeVerifier, Trust};
use crate::wire::peer::PeerCertificate;
use crate::wire::spiffe::IdPattern;

/// Sessions that are remembered for each protocol: of some thirty endpoints, eight each.
const SESSIONS: usize = 256;

/// What is spoken over the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Alpn {
    Http1,
    Http2,
    /// HTTP/2 where the server can.
    Either,
    Tcp,
}

/// Whom a `simple` service is verified by.
#[derive(Debug)]
pub struct Roots {
    pub(super) trust: Arc<Trust>,
    pub(super) client: ClientConfig,
}

/// Built once for a service; sessions are resumed among its own connections only.
#[derive(Debug)]
pub struct Connector {
    peer: Peer,
    name: ServerName<'static>,
    /// By the protocol: a session is never resumed for another.
    configs: [OnceLock<Arc<ClientConfig>>; 4],
}

#[derive(Debug)]
enum Peer {
    Mutual { mesh: Arc<Mesh>, verifier: Arc<SpiffeVerifier> },
    Simple { roots: Arc<Roots>, verifier: Arc<NameVerifier> },
}

impl Connector {
    /// To a peer with one of these identities. The name is only asked for; without one the server is told none.
    pub fn mutual(mesh: &Arc<Mesh>, expected: Arc<[IdPattern]>, server_name: Option<&str>) -> Self {
        let verifier = Arc::new(SpiffeVerifier::servers(mesh, expected));
        let peer = Peer::Mutual { mesh: mesh.clone(), verifier };
        Self { peer, name: server_name.map_or_else(nameless, name), configs: Default::default() }
    }

    /// To a server with this name, which is that of a host or an IP address.
    pub fn simple(roots: &Arc<Roots>, server_name: &str) -> Self {
        let verifier = Arc::new(NameVerifier { trust: roots.trust.clone() });
        Self {
            peer: Peer::Simple { roots: roots.clone(), verifier },
            name: name(server_name),
            configs: Default::default(),
        }
    }

    pub fn config(&self, alpn: Alpn) -> Arc<ClientConfig> {
        let [http1, http2, either, tcp] = &self.configs;
        let slot = match alpn {
            Alpn::Http1 => http1,
            Alpn::Http2 => http2,
            Alpn::Either => either,
            Alpn::Tcp => tcp,
        };
        slot.get_or_init(|| Arc::new(self.build(alpn))).clone()
    }

    /// An IP address goes into no handshake: where there is no name, none is sent.
    pub fn server_name(&self) -> ServerName<'static> {
        self.name.clone()
    }

    /// The same for one endpoint of a service without a name: each endpoint has its own sessions.
    pub fn server_name_for(&self, endpoint: IpAddr) -> ServerName<'static> {
        match (&self.peer, &self.name) {
            (Peer::Mutual { .. }, ServerName::IpAddress(_)) => ServerName::from(endpoint),
            _ => self.name.clone(),
        }
    }

    /// Who has answered. To be asked after every handshake: one that was resumed has verified nothing.
    pub fn proven(
        &self,
        chain: &[CertificateDer<'_>],
        resumed: bool,
        now: SystemTime,
    ) -> Result<PeerCertificate, Failure> {
        match &self.peer {
            Peer::Mutual { verifier, .. } => verifier.proven(chain, resumed, now),
            Peer::Simple { verifier, .. } => verifier.proven(chain, &self.name, resumed, now),
        }
    }

    fn build(&self, alpn: Alpn) -> ClientConfig {
        let (base, verifier, mutual): (_, Arc<dyn ServerCertVerifier>, _) = match &self.peer {
            Peer::Mutual { mesh, verifier } => (&mesh.client, verifier.clone(), true),
            Peer::Simple { roots, verifier } => (&roots.client, verifier.clone(), false),
        };
        let mut config = base.clone();
        config.dangerous().set_certificate_verifier(verifier);
        let protocols: &[&[u8]] = match (alpn, mutual) {
            (Alpn::Http1, true) => &[HTTP1, MARK],
            (Alpn::Http2, true) => &[HTTP2, MARK],
            (Alpn::Either, true) => &[HTTP2, HTTP1, MARK],
            (Alpn::Tcp, true) => &[TCP],
            (Alpn::Http1, false) => &[HTTP1],
            (Alpn::Http2, false) => &[HTTP2],
            (Alpn::Either, false) => &[HTTP2, HTTP1],
            (Alpn::Tcp, false) => &[],
        };
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        debug_assert!(!config.enable_early_data);
        config
    }
}

fn nameless() -> ServerName<'static> {
    ServerName::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
}

/// Validation has refused what is no name; if it were one after all, no certificate would fit.
fn name(text: &str) -> ServerName<'static> {
    ServerName::try_from(text.to_owned()).unwrap_or_else(|_| nameless())
}

#[cfg(test)]
mod tests;

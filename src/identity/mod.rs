//! Certificates, keys and trust anchors: read from files, judged, made into configurations of TLS, and replaced while
//! connections live on.

mod build;
mod connector;
pub mod dev;
pub mod facts;
mod failure;
mod files;
pub mod inspect;
mod load;
mod part;
#[cfg(test)]
mod testing;
mod tls;
mod verify;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, ServerConfig};

use crate::wire::peer::PeerCertificate;
use crate::wire::spiffe::{IdPattern, SpiffeId};

pub use connector::{Alpn, Connector, Roots};
pub use failure::{Failure, why};
pub use load::{Trouble, load};
pub use part::{Part, What};
pub use tls::{HTTP1, HTTP2, MARK, TCP};
use verify::{SpiffeVerifier, Trust};

/// Everything that is loaded from files, as of one moment. What is not there could not be used: whoever needs it has to
/// refuse.
#[derive(Debug, Default)]
pub struct Material {
    /// Another one whenever `mesh`, `servers` or `roots` are.
    pub generation: u64,
    pub mesh: Option<Arc<Mesh>>,
    /// Of `mode: server`, by the name of the listener.
    pub servers: HashMap<String, Arc<ServerConfig>>,
    /// Of `mode: simple`, by the name of the service.
    pub roots: HashMap<String, Arc<Roots>>,
    /// What it was loaded from, and what was refused.
    parts: Vec<Part>,
}

/// This workload among others: its certificate, and whom it believes.
#[derive(Debug, Clone)]
pub struct Mesh {
    pub id: SpiffeId,
    pub not_before: SystemTime,
    /// Of the certificate and its intermediates, the earliest.
    pub not_after: SystemTime,
    pub max_age: Option<Duration>,
    /// For listeners that are `strict` or `permissive`.
    pub server: Arc<ServerConfig>,
    /// The same for TCP.
    pub server_tcp: Arc<ServerConfig>,
    trust: Arc<Trust>,
    clients: Arc<SpiffeVerifier>,
    /// What connectors begin with.
    client: ClientConfig,
}

impl Mesh {
    /// Who the client of a handshake is; to be asked after each. One that was `resumed` is verified again: time has gone
    /// by since, and perhaps the certificate was revoked.
    pub fn client_proven(
        &self,
        chain: &[CertificateDer<'_>],
        resumed: bool,
        now: SystemTime,
    ) -> Result<PeerCertificate, Failure> {
        self.clients.proven(chain, resumed, now)
    }

    /// The same for the server of one.
    pub fn server_proven(
        &self,
        chain: &[CertificateDer<'_>],
        expected: &[IdPattern],
        resumed: bool,
        now: SystemTime,
    ) -> Result<PeerCertificate, Failure> {
        SpiffeVerifier::servers(self, expected.into()).proven(chain, resumed, now)
    }
}

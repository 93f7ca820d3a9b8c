//! Certificates, keys and trust anchors: read from files, judged, made into configurations of TLS, and replaced while
//! connections live on.

mod build;
mod connector;
pub mod dev;
mod expiry;
pub mod facts;
mod failure;
mod files;
pub mod inspect;
mod load;
mod part;
mod report;
#[cfg(test)]
mod testing;
mod tls;
mod verify;

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, ServerConfig};

use crate::config::schema::Root;
use crate::wire::peer::PeerCertificate;
use crate::wire::spiffe::{IdPattern, SpiffeId};

pub use connector::{Alpn, Connector, Roots};
pub use expiry::passed;
pub use failure::{Failure, why};
pub use load::{Trouble, load};
pub use part::What;
use part::{Live, Part, Spec};
pub use report::report;
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
    /// The same for either.
    pub server_any: Arc<ServerConfig>,
    trust: Arc<Trust>,
    clients: Arc<SpiffeVerifier>,
    /// What connectors begin with.
    client: ClientConfig,
}

/// One of our certificates, and where it is from.
#[derive(Debug, Clone, Copy)]
pub struct Own<'a> {
    pub what: &'a What,
    /// Key of the configuration that names the file.
    pub key: &'a str,
    pub file: &'a str,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
    /// When it was loaded.
    pub since: SystemTime,
}

impl Material {
    /// Those of our certificates that are in use.
    pub fn certificates(&self) -> impl Iterator<Item = Own<'_>> {
        let live = self.parts.iter().filter_map(|part| Some((&part.spec.what, part.live.as_ref()?)));
        live.flat_map(|(what, live)| {
            live.own().map(move |(named, not_before, not_after)| Own {
                what,
                key: &named.key,
                file: &named.file,
                not_before,
                not_after,
                since: live.since,
            })
        })
    }

    /// Whether the configuration names any part at all.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Whether everything that the configuration names is there.
    pub fn is_whole(&self) -> bool {
        self.parts.iter().all(|part| part.live.is_some())
    }

    /// The parts that are in use since, or in another form than, `previous`.
    pub fn changed<'a>(&'a self, previous: &'a Self) -> impl Iterator<Item = &'a What> {
        let before = |what: &What| previous.parts.iter().find(|part| part.spec.what == *what)?.live.as_ref();
        let live = self.parts.iter().filter_map(|part| Some((&part.spec.what, part.live.as_ref()?)));
        let other = move |(what, live): &(&'a What, &Arc<Live>)| {
            before(what).is_none_or(|before| !live.product.is(&before.product))
        };
        live.filter(other).map(|(what, _)| what)
    }
}

/// The files that a configuration names, each once.
pub fn named_files(root: &Root) -> BTreeSet<PathBuf> {
    let named = Spec::all(root).into_iter().flat_map(|(spec, key)| spec.files(&key));
    named.map(|named| named.file.into()).collect()
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

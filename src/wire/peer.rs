//! What the certificate of a peer says of it, once it has been verified.

use std::time::SystemTime;

use super::spiffe::SpiffeId;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificate {
    /// The one URI SAN of a SPIFFE certificate.
    pub id: Option<SpiffeId>,
    /// SHA-256 of its DER.
    pub hash: [u8; 32],
    /// RFC 4514, as far as the certificate has one.
    pub subject: Box<str>,
    pub dns: Vec<Box<str>>,
    pub not_before: SystemTime,
    /// The end of the chain: the earliest end of its certificates.
    pub not_after: SystemTime,
}

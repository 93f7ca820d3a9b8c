//! Why a handshake has failed: a closed set for metrics, and words for people.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, InvalidMessage, OtherError, PeerIncompatible};

use crate::config::units;
use crate::telemetry::rfc3339::Rfc3339;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Failure {
    /// The peer has shown none.
    NoCertificate,
    UnknownAuthority,
    Expired,
    NotYetValid,
    /// Not one SPIFFE id, of another trust domain, or not who was expected.
    WrongIdentity,
    /// Not the DNS name or address that was connected to.
    WrongName,
    /// Not for clients, or not for servers.
    BadPurpose,
    Revoked,
    BadCertificate,
    /// ALPN.
    NoCommonProtocol,
    ProtocolVersion,
    NoCommonCipher,
    Malformed,
    /// What came is not TLS at all.
    Plaintext,
    Timeout,
    Closed,
    /// We have no certificate ourselves.
    NoIdentity,
    RefusedByPeer,
    Other,
}

/// A certificate that is sound, and not what we ask for. rustls carries it through the handshake.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub struct Refused {
    pub failure: Failure,
    pub why: String,
}

impl Failure {
    pub const ALL: [Self; 19] = [
        Self::NoCertificate,
        Self::UnknownAuthority,
        Self::Expired,
        Self::NotYetValid,
        Self::WrongIdentity,
        Self::WrongName,
        Self::BadPurpose,
        Self::Revoked,
        Self::BadCertificate,
        Self::NoCommonProtocol,
        Self::ProtocolVersion,
        Self::NoCommonCipher,
        Self::Malformed,
        Self::Plaintext,
        Self::Timeout,
        Self::Closed,
        Self::NoIdentity,
        Self::RefusedByPeer,
        Self::Other,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::UnknownAuthority => "unknown_authority",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::WrongIdentity => "wrong_identity",
            Self::WrongName => "wrong_name",
            Self::BadPurpose => "bad_purpose",
            Self::Revoked => "revoked",
            Self::BadCertificate => "bad_certificate",
            Self::NoCommonProtocol => "no_common_protocol",
            Self::ProtocolVersion => "protocol_version",
            Self::NoCommonCipher => "no_common_cipher",
            Self::Malformed => "malformed",
            Self::Plaintext => "plaintext",
            Self::Timeout => "timeout",
            Self::Closed => "closed",
            Self::NoIdentity => "no_identity",
            Self::RefusedByPeer => "refused_by_peer",
            Self::Other => "other",
        }
    }

    /// Of a handshake that ended with this.
    pub fn of(error: &io::Error) -> Self {
        match tls(error) {
            Some(error) => Self::of_tls(error),
            None => match error.kind() {
                io::ErrorKind::TimedOut => Self::Timeout,
                io::ErrorKind::UnexpectedEof
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::NotConnected => Self::Closed,
                _ => Self::Other,
            },
        }
    }

    pub fn of_tls(error: &rustls::Error) -> Self {
        use rustls::Error;
        match error {
            Error::NoCertificatesPresented => Self::NoCertificate,
            Error::InvalidCertificate(error) => Self::of_certificate(error),
            Error::InvalidCertRevocationList(_) => Self::Revoked,
            Error::NoApplicationProtocol | Error::AlertReceived(AlertDescription::NoApplicationProtocol) => {
                Self::NoCommonProtocol
            }
            Error::AlertReceived(AlertDescription::ProtocolVersion) => Self::ProtocolVersion,
            Error::AlertReceived(_) => Self::RefusedByPeer,
            Error::PeerIncompatible(error) => Self::of_incompatible(error),
            Error::InvalidMessage(InvalidMessage::InvalidContentType) => Self::Plaintext,
            Error::InvalidMessage(InvalidMessage::UnknownProtocolVersion) => Self::ProtocolVersion,
            Error::InvalidMessage(_)
            | Error::InappropriateMessage { .. }
            | Error::InappropriateHandshakeMessage { .. }
            | Error::PeerMisbehaved(_)
            | Error::PeerSentOversizedRecord
            | Error::DecryptError => Self::Malformed,
            _ => Self::Other,
        }
    }

    fn of_incompatible(error: &PeerIncompatible) -> Self {
        match error {
            PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            // TLS 1.0 and 1.1 know no such extension.
            | PeerIncompatible::SignatureAlgorithmsExtensionRequired => Self::ProtocolVersion,
            _ => Self::NoCommonCipher,
        }
    }

    pub(super) fn of_certificate(error: &CertificateError) -> Self {
        match error {
            CertificateError::UnknownIssuer => Self::UnknownAuthority,
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotYetValid,
            CertificateError::Revoked => Self::Revoked,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => Self::WrongName,
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => Self::BadPurpose,
            CertificateError::Other(OtherError(inner)) => {
                inner.downcast_ref::<Refused>().map_or(Self::BadCertificate, |refused| refused.failure)
            }
            _ => Self::BadCertificate,
        }
    }
}

impl Refused {
    pub fn error(failure: Failure, why: impl Into<String>) -> CertificateError {
        CertificateError::Other(OtherError(Arc::new(Self { failure, why: why.into() })))
    }
}

/// What has ended a handshake, for the log: with both clocks where they disagree.
pub fn why(error: &io::Error) -> String {
    match tls(error) {
        Some(rustls::Error::InvalidCertificate(error)) => certificate(error),
        Some(rustls::Error::AlertReceived(alert)) => format!("the peer has refused us: {alert:?}"),
        Some(error) => error.to_string(),
        None => error.to_string(),
    }
}

/// What is wrong with a certificate.
pub(super) fn certificate(error: &CertificateError) -> String {
    match error {
        CertificateError::NotValidYetContext { time, not_before } => not_yet_valid(moment(*not_before), moment(*time)),
        CertificateError::ExpiredContext { time, not_after } => expired(moment(*not_after), moment(*time)),
        CertificateError::UnknownIssuer => {
            "no trust anchor has issued the certificate: the authority that it names is none of them, or has not signed it"
                .to_owned()
        }
        CertificateError::InvalidPurposeContext { required, .. } => {
            format!("the certificate is not for {required:?}")
        }
        CertificateError::Other(OtherError(inner)) => inner.to_string(),
        error => error.to_string(),
    }
}

/// Both times, for one of the two clocks may be wrong.
pub(super) fn not_yet_valid(not_before: SystemTime, now: SystemTime) -> String {
    let (from, clock) = (Rfc3339(not_before), Rfc3339(now));
    format!(
        "the certificate is not yet valid: it is valid from {from}, our clock says {clock}, they differ by {}: is one of the \
         clocks wrong?",
        apart(not_before, now)
    )
}

pub(super) fn expired(not_after: SystemTime, now: SystemTime) -> String {
    let (end, clock) = (Rfc3339(not_after), Rfc3339(now));
    format!("the certificate has expired at {end}, our clock says {clock}, they differ by {}", apart(not_after, now))
}

fn apart(one: SystemTime, other: SystemTime) -> units::Duration {
    let apart = one.duration_since(other).unwrap_or_else(|error| error.duration());
    units::Duration::from_secs(apart.as_secs())
}

fn moment(time: UnixTime) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_secs(time.as_secs())).unwrap_or(UNIX_EPOCH)
}

fn tls(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref::<rustls::Error>()
}

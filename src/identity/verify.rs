//! Who a peer is, by its certificates: the chain up to an anchor, its times, purpose, revocation, and then the name.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme};
use sha2::{Digest, Sha256};
use webpki::{
    CertRevocationList, EndEntityCert, KeyUsage, RevocationOptionsBuilder, UnknownStatusPolicy, VerifiedPath,
};

use super::facts::{self, Names};
use super::failure::{self, Failure, Refused};
use super::{Mesh, tls};
use crate::wire::peer::PeerCertificate;
use crate::wire::spiffe::{IdPattern, SpiffeId};

/// How much a peer's clock may be ahead of ours when its certificate begins.
pub const SKEW: Duration = Duration::from_secs(60);

/// What a certificate is shown for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Client,
    Server,
}

/// Whom we believe.
#[derive(Debug)]
pub struct Trust {
    anchors: Vec<TrustAnchor<'static>>,
    crls: Vec<CertRevocationList<'static>>,
}

impl Trust {
    pub fn new(anchors: Vec<TrustAnchor<'static>>, crls: Vec<CertRevocationList<'static>>) -> Self {
        Self { anchors, crls }
    }

    /// Whether the chain, the peer's own certificate first, leads to an anchor and is in force.
    pub fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        purpose: Purpose,
        now: SystemTime,
    ) -> Result<(), CertificateError> {
        let (leaf, intermediates) = split(chain)?;
        let cert = EndEntityCert::try_from(leaf).map_err(certificate_error)?;
        let usage = match purpose {
            Purpose::Client => KeyUsage::client_auth(),
            Purpose::Server => KeyUsage::server_auth(),
        };
        let (path, at) = self.settle(&cert, intermediates, usage, unix(now))?;
        if self.crls.is_empty() {
            return Ok(());
        }
        // The same way once more for each list: webpki takes the first that bears the issuer's name, and fails where that is
        // another's of the same name, as an authority's is that has renewed its key.
        let anchor = std::slice::from_ref(path.anchor());
        let intermediates: Vec<_> = path.intermediate_certificates().map(|cert| cert.der()).collect();
        for crl in &self.crls {
            match walk(&cert, anchor, &intermediates, usage, at, Some(crl)) {
                // The second is of another's key of the same type, the third of one of another type.
                Ok(_)
                | Err(
                    webpki::Error::InvalidCrlSignatureForPublicKey
                    | webpki::Error::UnsupportedCrlSignatureAlgorithmForPublicKeyContext(_),
                ) => {}
                Err(error) => return Err(certificate_error(error)),
            }
        }
        Ok(())
    }

    /// The way to an anchor, and the time at which it is valid: now, or so little later that clocks may differ by it.
    fn settle<'p>(
        &'p self,
        cert: &'p EndEntityCert<'p>,
        intermediates: &'p [CertificateDer<'p>],
        usage: KeyUsage,
        now: UnixTime,
    ) -> Result<(VerifiedPath<'p>, UnixTime), CertificateError> {
        let mut at = now;
        loop {
            match walk(cert, &self.anchors, intermediates, usage, at, None) {
                // It goes forward each time, up to the bound.
                Err(webpki::Error::CertNotValidYet { not_before, .. }) if not_before > at => {
                    if not_before.as_secs().saturating_sub(now.as_secs()) > SKEW.as_secs() {
                        return Err(CertificateError::NotValidYetContext { time: now, not_before });
                    }
                    at = not_before;
                }
                found => return found.map(|path| (path, at)).map_err(certificate_error),
            }
        }
    }
}

fn walk<'p>(
    cert: &'p EndEntityCert<'p>,
    anchors: &'p [TrustAnchor<'_>],
    intermediates: &'p [CertificateDer<'p>],
    usage: KeyUsage,
    at: UnixTime,
    crl: Option<&CertRevocationList<'_>>,
) -> Result<VerifiedPath<'p>, webpki::Error> {
    let crls: &[_] = &crl.into_iter().collect::<Vec<_>>();
    // Without a list for an issuer, what it issued is not revoked.
    let revocation = RevocationOptionsBuilder::new(crls)
        .ok()
        .map(|options| options.with_status_policy(UnknownStatusPolicy::Allow).build());
    let algorithms = tls::provider().signature_verification_algorithms.all;
    cert.verify_for_usage(algorithms, anchors, intermediates, at, usage, revocation, None)
}

/// The rules of the mesh: a chain to the bundle, and one SPIFFE id of the trust domain.
#[derive(Debug)]
pub struct SpiffeVerifier {
    pub trust: Arc<Trust>,
    pub domain: Box<str>,
    /// Any of these; anybody of the trust domain where there is none.
    pub expected: Option<Arc<[IdPattern]>>,
    pub purpose: Purpose,
}

impl SpiffeVerifier {
    /// Of servers that are any of the expected ones.
    pub fn servers(mesh: &Mesh, expected: Arc<[IdPattern]>) -> Self {
        let domain = mesh.id.trust_domain().into();
        Self { trust: mesh.trust.clone(), domain, expected: Some(expected), purpose: Purpose::Server }
    }

    pub fn verify(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> Result<(), CertificateError> {
        let verified = self.trust.verify(chain, self.purpose, now).and_then(|()| self.identify(chain).map(drop));
        verified.inspect_err(|error| told(error, self.purpose))
    }

    /// Who it is, of a chain that has been verified.
    fn identify(&self, chain: &[CertificateDer<'_>]) -> Result<SpiffeId, CertificateError> {
        let (leaf, _) = split(chain)?;
        let id = spiffe_id(leaf, &[self.purpose], &self.domain)?;
        match &self.expected {
            Some(expected) if !expected.iter().any(|pattern| pattern.matches(&id)) => {
                let expected: Vec<String> = expected.iter().map(ToString::to_string).collect();
                let why = format!("the peer is {id}, which is not expected here: {}", expected.join(", "));
                Err(Refused::error(Failure::WrongIdentity, why))
            }
            _ => Ok(id),
        }
    }

    /// Who the peer of a handshake is. One that was resumed has only shown that it is who it was then.
    pub fn proven(
        &self,
        chain: &[CertificateDer<'_>],
        resumed: bool,
        now: SystemTime,
    ) -> Result<PeerCertificate, Failure> {
        let verified = if resumed { self.verify(chain, now) } else { Ok(()) };
        let peer = verified.and_then(|()| self.identify(chain)).and_then(|id| peer(chain, Some(id), now));
        peer.map_err(|error| Failure::of_certificate(&error))
    }
}

/// The rules of everybody else: a chain to the anchors, and the name that was connected to.
#[derive(Debug)]
pub struct NameVerifier {
    pub trust: Arc<Trust>,
}

impl NameVerifier {
    fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: SystemTime,
    ) -> Result<(), CertificateError> {
        let named = || {
            let (leaf, _) = split(chain)?;
            let cert = EndEntityCert::try_from(leaf).map_err(certificate_error)?;
            cert.verify_is_valid_for_subject_name(name).map_err(certificate_error)
        };
        let verified = self.trust.verify(chain, Purpose::Server, now).and_then(|()| named());
        verified.inspect_err(|error| told(error, Purpose::Server))
    }

    pub fn proven(
        &self,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        resumed: bool,
        now: SystemTime,
    ) -> Result<PeerCertificate, Failure> {
        let verified = if resumed { self.verify(chain, name, now) } else { Ok(()) };
        verified.and_then(|()| peer(chain, None, now)).map_err(|error| Failure::of_certificate(&error))
    }
}

/// The SPIFFE id of a certificate that may be used for all of the purposes.
pub fn spiffe_id(leaf: &CertificateDer<'_>, purposes: &[Purpose], domain: &str) -> Result<SpiffeId, CertificateError> {
    let wrong = |why: String| Refused::error(Failure::WrongIdentity, why);
    let malformed = |why: String| Refused::error(Failure::BadCertificate, why);
    let parsed = facts::parse(leaf).map_err(malformed)?;
    // webpki asks no more than that an extension, if there is one, does not forbid it.
    let allowed = facts::purposes(&parsed).map_err(malformed)?;
    for purpose in purposes.iter().map(|purpose| purpose.name()) {
        if !allowed.iter().any(|allowed| allowed == purpose) {
            let why = format!("the certificate does not say that it is for `{purpose}` (extended key usage)");
            return Err(Refused::error(Failure::BadPurpose, why));
        }
    }
    let Names { uris, .. } = facts::names(&parsed).map_err(malformed)?;
    let [uri] = uris.as_slice() else {
        return Err(wrong(format!("the certificate has {} URI SANs, and needs one: its SPIFFE id", uris.len())));
    };
    let id = SpiffeId::parse(uri).map_err(|why| wrong(format!("`{uri}` is not a SPIFFE id: {why}")))?;
    if id.trust_domain() != domain {
        return Err(wrong(format!("{id} is not of the trust domain `{domain}`")));
    }
    Ok(id)
}

impl Purpose {
    /// As the extended key usage is called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Client => "clientAuth",
            Self::Server => "serverAuth",
        }
    }
}

/// The earliest end of the chain. A certificate that is over has not been needed to verify it.
pub fn end_of(chain: &[CertificateDer<'_>], now: SystemTime) -> Option<SystemTime> {
    let ends = chain.iter().filter_map(|cert| Some(facts::moment(facts::parse(cert).ok()?.validity().not_after)));
    let mut ends = ends.enumerate().filter(|(index, end)| *index == 0 || *end > now).map(|(_, end)| end);
    let leaf = ends.next()?;
    Some(ends.fold(leaf, SystemTime::min))
}

fn peer(
    chain: &[CertificateDer<'_>],
    id: Option<SpiffeId>,
    now: SystemTime,
) -> Result<PeerCertificate, CertificateError> {
    let (leaf, _) = split(chain)?;
    let malformed = |why: String| Refused::error(Failure::BadCertificate, why);
    let parsed = facts::parse(leaf).map_err(malformed)?;
    let names = facts::names(&parsed).map_err(malformed)?;
    let own_end = facts::moment(parsed.validity().not_after);
    Ok(PeerCertificate {
        id,
        hash: Sha256::digest(leaf).into(),
        subject: facts::name(parsed.subject()).into(),
        dns: names.dns.into_iter().map(Into::into).collect(),
        not_before: facts::moment(parsed.validity().not_before),
        not_after: if chain.len() > 1 { end_of(chain, now).unwrap_or(own_end) } else { own_end },
    })
}

/// A peer can cause this at will: nothing above debug.
fn told(error: &CertificateError, purpose: Purpose) {
    let failure = Failure::of_certificate(error).name();
    tracing::debug!(failure, why = failure::certificate(error), purpose = purpose.name(), "certificate refused");
}

fn split<'a, 'b>(
    chain: &'a [CertificateDer<'b>],
) -> Result<(&'a CertificateDer<'b>, &'a [CertificateDer<'b>]), CertificateError> {
    chain.split_first().ok_or_else(|| Refused::error(Failure::NoCertificate, "the peer has shown no certificate"))
}

fn unix(moment: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(moment.duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn system(time: UnixTime) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_secs(time.as_secs())).unwrap_or(UNIX_EPOCH)
}

/// Such that rustls sends the fitting alert.
fn certificate_error(error: webpki::Error) -> CertificateError {
    use webpki::Error;
    match error {
        Error::BadDer | Error::BadDerTime | Error::TrailingData(_) => CertificateError::BadEncoding,
        Error::CertNotValidYet { time, not_before } => CertificateError::NotValidYetContext { time, not_before },
        Error::CertExpired { time, not_after } => CertificateError::ExpiredContext { time, not_after },
        // The second is what an anchor of the same name says.
        Error::UnknownIssuer | Error::InvalidSignatureForPublicKey => CertificateError::UnknownIssuer,
        Error::CertNotValidForName(webpki::InvalidNameContext { expected, presented }) => {
            CertificateError::NotValidForNameContext { expected, presented }
        }
        Error::CertRevoked => CertificateError::Revoked,
        Error::CaUsedAsEndEntity => {
            Refused::error(Failure::BadCertificate, "the certificate is an authority's own, not issued by one")
        }
        Error::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose,
        error => CertificateError::Other(OtherError(Arc::new(error))),
    }
}

impl ClientCertVerifier for SpiffeVerifier {
    /// Whoever is asked has one certificate; a list of authorities would only make the handshake longer.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(&joined(leaf, intermediates), system(now))?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        tls12(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        tls13(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}

impl ServerCertVerifier for SpiffeVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(&joined(leaf, intermediates), system(now))?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        tls12(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        tls13(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}

impl ServerCertVerifier for NameVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(&joined(leaf, intermediates), name, system(now))?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        tls12(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        tls13(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}

/// As one slice, without a copy of the bytes.
fn joined<'a>(leaf: &'a CertificateDer<'_>, intermediates: &'a [CertificateDer<'_>]) -> Vec<CertificateDer<'a>> {
    std::iter::once(leaf).chain(intermediates).map(|cert| CertificateDer::from(cert.as_ref())).collect()
}

fn tls12(
    message: &[u8],
    cert: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    verify_tls12_signature(message, cert, signed, &tls::provider().signature_verification_algorithms)
}

fn tls13(
    message: &[u8],
    cert: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    verify_tls13_signature(message, cert, signed, &tls::provider().signature_verification_algorithms)
}

fn schemes() -> Vec<SignatureScheme> {
    tls::provider().signature_verification_algorithms.supported_schemes()
}

#[cfg(test)]
mod tests;

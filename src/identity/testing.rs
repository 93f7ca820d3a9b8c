//! Authorities and certificates for tests.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, SignatureAlgorithm,
};
use rustls::pki_types::CertificateDer;

pub const HOUR: i64 = 3600;
/// Serial number of an authority below another.
pub const BELOW: u64 = 77;
pub const ID: &str = "spiffe://mesh.local/ns/shop/sa/reviews";

pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pub der: CertificateDer<'static>,
    pub pem: String,
}

/// What is asked of an authority. Times are seconds from now.
#[derive(Clone)]
pub struct Ask {
    pub uris: Vec<&'static str>,
    pub dns: Vec<&'static str>,
    pub ips: Vec<&'static str>,
    pub from: i64,
    pub until: i64,
    pub purposes: Vec<ExtendedKeyUsagePurpose>,
    pub algorithm: &'static SignatureAlgorithm,
    pub serial: u64,
}

pub struct Issued {
    pub der: CertificateDer<'static>,
    pub pem: String,
    pub key: String,
}

impl Default for Ask {
    /// A good certificate of a workload.
    fn default() -> Self {
        Self {
            uris: vec![ID],
            dns: Vec::new(),
            ips: Vec::new(),
            from: -HOUR,
            until: HOUR,
            purposes: vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            algorithm: &rcgen::PKCS_ECDSA_P256_SHA256,
            serial: 7,
        }
    }
}

impl Ca {
    pub fn new(name: &str) -> Self {
        Self::keyed(name, &rcgen::PKCS_ECDSA_P256_SHA256)
    }

    pub fn keyed(name: &str, algorithm: &'static SignatureAlgorithm) -> Self {
        let (params, _) = authority(name);
        let key = KeyPair::generate_for(algorithm).unwrap();
        let cert = params.self_signed(&key).unwrap();
        Self { der: cert.der().clone(), pem: cert.pem(), issuer: Issuer::new(params, key) }
    }

    /// An authority below this one.
    pub fn below(&self, name: &str, until: i64) -> Self {
        let (mut params, key) = authority(name);
        params.not_after = at(until);
        params.serial_number = Some(SerialNumber::from(BELOW));
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        Self { der: cert.der().clone(), pem: cert.pem(), issuer: Issuer::new(params, key) }
    }

    pub fn issue(&self, ask: &Ask) -> Issued {
        let key = KeyPair::generate_for(ask.algorithm).unwrap();
        let cert = params(ask).signed_by(&key, &self.issuer).unwrap();
        Issued { der: cert.der().clone(), pem: cert.pem(), key: key.serialize_pem() }
    }

    /// A list of what is revoked, by serial numbers.
    pub fn revoke(&self, serials: &[u64], next_update: i64) -> String {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: at(-HOUR),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: at(next_update - HOUR),
            next_update: at(next_update),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

pub fn self_signed(ask: &Ask) -> Issued {
    let key = KeyPair::generate_for(ask.algorithm).unwrap();
    let cert = params(ask).self_signed(&key).unwrap();
    Issued { der: cert.der().clone(), pem: cert.pem(), key: key.serialize_pem() }
}

fn authority(name: &str) -> (CertificateParams, KeyPair) {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (params, KeyPair::generate().unwrap())
}

fn params(ask: &Ask) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "work, load");
    params.serial_number = Some(SerialNumber::from(ask.serial));
    params.not_before = at(ask.from);
    params.not_after = at(ask.until);
    params.extended_key_usages.clone_from(&ask.purposes);
    let uris = ask.uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap()));
    let dns = ask.dns.iter().map(|dns| SanType::DnsName((*dns).try_into().unwrap()));
    let ips = ask.ips.iter().map(|ip| SanType::IpAddress(ip.parse().unwrap()));
    params.subject_alt_names = uris.chain(dns).chain(ips).collect();
    params
}

/// The moment that all others are told from.
pub fn now() -> SystemTime {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

fn at(seconds: i64) -> time::OffsetDateTime {
    time::OffsetDateTime::from(now()) + time::Duration::seconds(seconds)
}

/// A directory that is removed in the end.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("outrigger-identity-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

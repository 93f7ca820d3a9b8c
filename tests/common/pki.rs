//! An authority of the tests, and certificates of it: good ones, and ones that are wrong in one way each.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SignatureAlgorithm,
};
use time::{Duration, OffsetDateTime};

use super::TempDir;

pub use rcgen::ExtendedKeyUsagePurpose as Purpose;
pub use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256};

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

/// An authority for one trust domain, with its files in a directory of its own.
pub struct Pki {
    dir: TempDir,
    trust_domain: String,
    authority: Authority,
}

type Authority = CertifiedIssuer<'static, KeyPair>;

/// A certificate with its intermediates, and its key; PEM files.
#[derive(Debug, Clone)]
pub struct Pair {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub serial: u64,
}

/// What a certificate is to say. Change what is to be odd: `Leaf { life: -7200..-60, ..pki.leaf("shop", "web") }`.
#[derive(Debug, Clone)]
pub struct Leaf {
    pub uris: Vec<String>,
    pub dns: Vec<String>,
    /// None is no extension.
    pub purposes: Vec<Purpose>,
    /// Seconds from now.
    pub life: Range<i64>,
    pub algorithm: &'static SignatureAlgorithm,
}

impl Pki {
    /// Two of one trust domain are different authorities.
    pub fn new(trust_domain: &str) -> Self {
        let dir = TempDir::new("pki");
        let authority = authority(trust_domain, &PKCS_ECDSA_P256_SHA256);
        dir.file("ca.crt", authority.pem());
        Self { dir, trust_domain: trust_domain.to_owned(), authority }
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The file of the one trust anchor.
    pub fn bundle(&self) -> PathBuf {
        self.dir().join("ca.crt")
    }

    /// A file of the trust anchors of both.
    pub fn bundle_with(&self, other: &Self) -> PathBuf {
        self.file("bundle", "crt", self.authority.pem() + &other.authority.pem())
    }

    pub fn id(&self, namespace: &str, account: &str) -> String {
        format!("spiffe://{}/ns/{namespace}/sa/{account}", self.trust_domain)
    }

    /// That of a good certificate: ECDSA, a day of life, for both ends of a connection.
    pub fn leaf(&self, namespace: &str, account: &str) -> Leaf {
        Leaf {
            uris: vec![self.id(namespace, account)],
            dns: Vec::new(),
            purposes: vec![Purpose::ServerAuth, Purpose::ClientAuth],
            life: -HOUR..DAY,
            algorithm: &PKCS_ECDSA_P256_SHA256,
        }
    }

    /// Makes what the leaf says; `label` is for whoever looks into the directory.
    pub fn issue(&self, label: &str, leaf: &Leaf) -> Pair {
        self.issued_by(&self.authority, label, leaf, "")
    }

    pub fn workload(&self, namespace: &str, account: &str) -> Pair {
        self.issue(&format!("{namespace}-{account}"), &self.leaf(namespace, account))
    }

    /// Since a minute.
    pub fn expired(&self, namespace: &str, account: &str) -> Pair {
        self.issue("expired", &Leaf { life: -2 * HOUR..-60, ..self.leaf(namespace, account) })
    }

    pub fn valid_in(&self, seconds: i64, namespace: &str, account: &str) -> Pair {
        self.issue("early", &Leaf { life: seconds..seconds + DAY, ..self.leaf(namespace, account) })
    }

    /// Valid since now, for so long.
    pub fn short(&self, seconds: i64, namespace: &str, account: &str) -> Pair {
        self.issue("short", &Leaf { life: 0..seconds, ..self.leaf(namespace, account) })
    }

    pub fn ten_minutes(&self, namespace: &str, account: &str) -> Pair {
        self.short(600, namespace, account)
    }

    /// By our authority, for an identity that is not its to give.
    pub fn wrong_trust_domain(&self, namespace: &str, account: &str) -> Pair {
        let uris = vec![format!("spiffe://wrong.{}/ns/{namespace}/sa/{account}", self.trust_domain)];
        self.issue("wrong-domain", &Leaf { uris, ..self.leaf(namespace, account) })
    }

    pub fn two_uris(&self, namespace: &str, account: &str) -> Pair {
        let uris = vec![self.id(namespace, account), self.id(namespace, "second")];
        self.issue("two-uris", &Leaf { uris, ..self.leaf(namespace, account) })
    }

    pub fn no_uri(&self) -> Pair {
        self.issue("no-uri", &Leaf { uris: Vec::new(), dns: vec!["web".to_owned()], ..self.leaf("shop", "web") })
    }

    /// A URI that is no SPIFFE id.
    pub fn foreign_uri(&self) -> Pair {
        let uris = vec![format!("https://{}/ns/shop/sa/web", self.trust_domain)];
        self.issue("foreign-uri", &Leaf { uris, ..self.leaf("shop", "web") })
    }

    pub fn no_purpose(&self, namespace: &str, account: &str) -> Pair {
        self.issue("no-purpose", &Leaf { purposes: Vec::new(), ..self.leaf(namespace, account) })
    }

    pub fn only_server(&self, namespace: &str, account: &str) -> Pair {
        self.issue("only-server", &Leaf { purposes: vec![Purpose::ServerAuth], ..self.leaf(namespace, account) })
    }

    pub fn only_client(&self, namespace: &str, account: &str) -> Pair {
        self.issue("only-client", &Leaf { purposes: vec![Purpose::ClientAuth], ..self.leaf(namespace, account) })
    }

    pub fn ed25519(&self, namespace: &str, account: &str) -> Pair {
        self.issue("ed25519", &Leaf { algorithm: &PKCS_ED25519, ..self.leaf(namespace, account) })
    }

    /// Of 2048 bits.
    pub fn rsa(&self, namespace: &str, account: &str) -> Pair {
        self.issue("rsa", &Leaf { algorithm: &PKCS_RSA_SHA256, ..self.leaf(namespace, account) })
    }

    /// For ordinary TLS: names, and no identity.
    pub fn server(&self, names: &[&str]) -> Pair {
        let dns = names.iter().map(|name| (*name).to_owned()).collect();
        let leaf = Leaf { uris: Vec::new(), dns, purposes: vec![Purpose::ServerAuth], ..self.leaf("", "") };
        self.issue("server", &leaf)
    }

    pub fn self_signed(&self, namespace: &str, account: &str) -> Pair {
        let (leaf, serial) = (self.leaf(namespace, account), next());
        let key = KeyPair::generate_for(leaf.algorithm).expect("a key");
        let certificate = leaf.params(serial).self_signed(&key).expect("a certificate");
        self.pair("self-signed", serial, certificate.pem(), &key)
    }

    /// By another authority that calls itself as ours does.
    pub fn unknown_authority(&self, namespace: &str, account: &str) -> Pair {
        let (other, leaf) = (authority(&self.trust_domain, &PKCS_ECDSA_P256_SHA256), self.leaf(namespace, account));
        self.issued_by(&other, "unknown", &leaf, "")
    }

    /// By an intermediate authority, whose certificate is in the file behind the leaf.
    pub fn by_intermediate(&self, namespace: &str, account: &str) -> Pair {
        let (intermediate, leaf) = (self.intermediate(), self.leaf(namespace, account));
        self.issued_by(&intermediate, "chain", &leaf, &intermediate.pem())
    }

    /// The same without the intermediate in the file: nobody can verify it.
    pub fn broken_chain(&self, namespace: &str, account: &str) -> Pair {
        self.issued_by(&self.intermediate(), "broken-chain", &self.leaf(namespace, account), "")
    }

    /// A list that revokes these, issued now and good for a day.
    pub fn crl(&self, revoked: &[&Pair]) -> PathBuf {
        let now = OffsetDateTime::now_utc();
        self.crl_for(now - Duration::HOUR..now + Duration::DAY, revoked)
    }

    /// One that should have been replaced a minute ago.
    pub fn stale_crl(&self, revoked: &[&Pair]) -> PathBuf {
        let now = OffsetDateTime::now_utc();
        self.crl_for(now - Duration::DAY..now - Duration::MINUTE, revoked)
    }

    fn crl_for(&self, period: Range<OffsetDateTime>, revoked: &[&Pair]) -> PathBuf {
        let entry = |pair: &&Pair| RevokedCertParams {
            serial_number: pair.serial.into(),
            revocation_time: period.start,
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: period.start,
            next_update: period.end,
            crl_number: next().into(),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.authority).expect("a revocation list");
        self.file("revoked", "crl", list.pem().expect("PEM"))
    }

    fn intermediate(&self) -> Authority {
        let key = KeyPair::generate().expect("a key");
        let params = authority_params(&self.trust_domain, "intermediate", 0);
        CertifiedIssuer::signed_by(params, key, &self.authority).expect("an intermediate authority")
    }

    fn issued_by(&self, issuer: &Issuer<'_, KeyPair>, label: &str, leaf: &Leaf, intermediates: &str) -> Pair {
        let (key, serial) = (KeyPair::generate_for(leaf.algorithm).expect("a key"), next());
        let certificate = leaf.params(serial).signed_by(&key, issuer).expect("a certificate");
        self.pair(label, serial, certificate.pem() + intermediates, &key)
    }

    fn pair(&self, label: &str, serial: u64, certificate: String, key: &KeyPair) -> Pair {
        let certificate = self.file(label, "crt", certificate);
        let key_file = certificate.with_extension("key");
        std::fs::write(&key_file, key.serialize_pem()).expect("write a key");
        Pair { certificate, key: key_file, serial }
    }

    fn file(&self, label: &str, extension: &str, text: String) -> PathBuf {
        self.dir.file(&format!("{label}-{}.{extension}", next()), text)
    }
}

impl Pair {
    /// Puts copies where a proxy reads them, each by a rename over what is there.
    pub fn install(&self, certificate: &Path, key: &Path) {
        for (from, to) in [(&self.certificate, certificate), (&self.key, key)] {
            let next = to.with_extension("next");
            std::fs::copy(from, &next).expect("copy a file");
            std::fs::rename(next, to).expect("replace a file");
        }
    }

    /// Lays out a directory as Kubernetes mounts a Secret, and swaps it as it does when the Secret changes: `tls.crt`
    /// is a link to `..data/tls.crt`, `..data` one to a directory, and that link is replaced.
    pub fn mount(&self, dir: &Path, bundle: &Path) {
        use std::os::unix::fs::symlink;
        let version = format!("..{}", next());
        std::fs::create_dir_all(dir.join(&version)).expect("make a directory");
        for (from, name) in [(self.certificate.as_path(), "tls.crt"), (&self.key, "tls.key"), (bundle, "ca.crt")] {
            std::fs::copy(from, dir.join(&version).join(name)).expect("copy a file");
            // There already, from the second time on.
            let _ = symlink(Path::new("..data").join(name), dir.join(name));
        }
        let (old, new) = (std::fs::read_link(dir.join("..data")), dir.join("..data_tmp"));
        symlink(version, &new).expect("make a link");
        std::fs::rename(new, dir.join("..data")).expect("swap the link");
        if let Ok(old) = old {
            std::fs::remove_dir_all(dir.join(old)).expect("remove what was mounted");
        }
    }
}

impl Leaf {
    fn params(&self, serial: u64) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "test workload");
        let ia5 = |text: &String| text.as_str().try_into().expect("ASCII");
        let names = self.uris.iter().map(|uri| SanType::URI(ia5(uri)));
        params.subject_alt_names = names.chain(self.dns.iter().map(|name| SanType::DnsName(ia5(name)))).collect();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = self.purposes.clone();
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(serial.into());
        lives(params, self.life.clone())
    }
}

fn authority(trust_domain: &str, algorithm: &'static SignatureAlgorithm) -> Authority {
    let key = KeyPair::generate_for(algorithm).expect("a key");
    CertifiedIssuer::self_signed(authority_params(trust_domain, "root", 1), key).expect("an authority")
}

fn authority_params(trust_domain: &str, kind: &str, below: u8) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("test {kind} of {trust_domain}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(next().into());
    lives(params, -HOUR..30 * DAY)
}

fn lives(mut params: CertificateParams, seconds: Range<i64>) -> CertificateParams {
    let now = OffsetDateTime::now_utc();
    params.not_before = now + Duration::seconds(seconds.start);
    params.not_after = now + Duration::seconds(seconds.end);
    params
}

/// Numbers of certificates and of files: none twice.
fn next() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

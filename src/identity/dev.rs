//! An authority for development and tests: certificates of workloads where no control plane gives them. Not for more
//! than that, since its key lies beside what it signs.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls::pki_types::DnsName;
use thiserror::Error;
use x509_parser::extensions::GeneralName;
use x509_parser::pem::parse_x509_pem;

use crate::wire::spiffe::{SpiffeId, is_trust_domain};

/// Of the authority.
const LIFE: Duration = Duration::from_secs(3650 * 86_400);
/// A certificate is good since then, for whoever's clock is behind ours.
const BACKDATED: Duration = Duration::from_secs(300);
/// How it calls itself.
const NAME: &str = "Outrigger development authority";
/// Longest common name (X.520), and longest label and name of DNS, which Kubernetes takes names from.
const COMMON_NAME_MAX: usize = 64;
const LABEL_MAX: usize = 63;
const NAME_MAX: usize = 253;

pub const CERTIFICATE: &str = "tls.crt";
pub const KEY: &str = "tls.key";
pub const BUNDLE: &str = "ca.crt";
const AUTHORITY_KEY: &str = "ca.key";

#[derive(Debug, Error)]
pub enum Fault {
    /// What is there is not to be used, or what was asked for is not to be made.
    #[error("{0}")]
    Refused(String),
    #[error("{path}: {error}", path = .0.display(), error = .1)]
    File(PathBuf, io::Error),
    #[error("the certificate cannot be made: {0}")]
    Crypto(#[from] rcgen::Error),
}

/// Signs for one trust domain.
pub struct Authority {
    trust_domain: String,
    certificate_pem: String,
    not_after: SystemTime,
    issuer: Issuer<'static, KeyPair>,
}

/// `NAMESPACE/ACCOUNT`, as Kubernetes names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    pub namespace: String,
    pub account: String,
}

/// A certificate and its key.
pub struct Pair {
    pub id: SpiffeId,
    pub certificate_pem: String,
    pub key_pem: String,
    pub not_after: SystemTime,
}

impl Authority {
    /// A new one.
    pub fn new(trust_domain: &str) -> Result<Self, Fault> {
        if !is_trust_domain(trust_domain) {
            return Err(Fault::Refused(format!("`{trust_domain}` is no trust domain: a-z, 0-9, `.`, `-` and `_`")));
        }
        let (now, key, mut params) = (SystemTime::now(), KeyPair::generate()?, signer(trust_domain)?);
        let not_after = lives(&mut params, now, now + LIFE);
        let certificate_pem = params.self_signed(&key)?.pem();
        Ok(Self { trust_domain: trust_domain.to_owned(), certificate_pem, not_after, issuer: Issuer::new(params, key) })
    }

    /// One that `new` has made.
    pub fn open(certificate_pem: &str, key_pem: &str) -> Result<Self, Fault> {
        let refused = |why: &str| Fault::Refused(why.to_owned());
        let key = KeyPair::from_pem(key_pem).map_err(|_| refused("its key cannot be read"))?;
        let (_, pem) = parse_x509_pem(certificate_pem.as_bytes()).map_err(|_| refused("it is no certificate"))?;
        let certificate = pem.parse_x509().map_err(|_| refused("it is no certificate"))?;
        if certificate.public_key().raw != key.subject_public_key_info() {
            return Err(refused("its key is that of another certificate"));
        }
        let names = certificate.subject_alternative_name().ok().flatten();
        let names: Vec<_> = names.iter().flat_map(|names| &names.value.general_names).collect();
        let trust_domain = match names[..] {
            [GeneralName::URI(uri)] if certificate.is_ca() => uri.strip_prefix("spiffe://"),
            _ => None,
        };
        let trust_domain = trust_domain.filter(|name| is_trust_domain(name));
        let trust_domain = trust_domain.ok_or_else(|| refused("it is no authority of a trust domain"))?.to_owned();
        let seconds = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
        let not_after = UNIX_EPOCH + Duration::from_secs(seconds);
        if certificate.subject().to_string() != format!("CN={NAME}") {
            return Err(refused("it was not made by `certs dev`"));
        }
        let issuer = Issuer::new(signer(&trust_domain)?, key);
        Ok(Self { trust_domain, certificate_pem: certificate_pem.to_owned(), not_after, issuer })
    }

    /// The one in a directory, and whether it has just been made there.
    pub fn at(directory: &Path, trust_domain: &str) -> Result<(Self, bool), Fault> {
        let (certificate, key) = (directory.join(BUNDLE), directory.join(AUTHORITY_KEY));
        let refused = |why: String| Fault::Refused(format!("{}: {why}", certificate.display()));
        let authority = match (read(&certificate)?, read(&key)?) {
            (None, None) => {
                let new = Self::new(trust_domain)?;
                make(directory)?;
                replace(&key, &new.key_pem(), 0o600)?;
                replace(&certificate, &new.certificate_pem, 0o644)?;
                return Ok((new, true));
            }
            (Some(certificate), Some(key)) => {
                Self::open(&certificate, &key).map_err(|fault| refused(fault.to_string()))?
            }
            (Some(_), None) => return Err(refused(format!("{AUTHORITY_KEY}, its key, is not beside it"))),
            (None, Some(_)) => return Err(refused(format!("it is gone, and {AUTHORITY_KEY} is there"))),
        };
        if authority.trust_domain != trust_domain {
            let own = &authority.trust_domain;
            return Err(refused(format!(
                "it is the authority of the trust domain {own}, not of {trust_domain}; write to another directory"
            )));
        }
        if authority.not_after <= SystemTime::now() {
            return Err(refused(format!("it has expired; remove it and {AUTHORITY_KEY}, and all is made anew")));
        }
        Ok((authority, false))
    }

    /// Whether there is one in the directory.
    pub fn is_at(directory: &Path) -> bool {
        directory.join(AUTHORITY_KEY).exists()
    }

    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// A certificate with a key of its own, for both ends of connections; with `names` (of DNS, or addresses) a server
    /// for those who know nothing of identities, too. It ends with the authority's at the latest.
    pub fn issue(&self, workload: &Workload, life: Duration, names: &[String]) -> Result<Pair, Fault> {
        let Workload { namespace, account } = workload;
        let id = format!("spiffe://{}/ns/{namespace}/sa/{account}", self.trust_domain);
        let id = SpiffeId::parse(&id).map_err(|why| Fault::Refused(format!("{id} is no identity: {why}")))?;
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = named(account);
        params.subject_alt_names.insert(0, SanType::URI(id.as_str().try_into()?));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let now = SystemTime::now();
        let not_after = lives(&mut params, now, self.not_after.min(now + life));
        let key = KeyPair::generate()?;
        let certificate_pem = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Pair { id, certificate_pem, key_pem: key.serialize_pem(), not_after })
    }

    /// Writes a pair of ours as a proxy wants it. Each file is replaced by a rename; whoever reads between the two has
    /// a key that is not the certificate's, and takes neither.
    pub fn write(&self, pair: &Pair, directory: &Path) -> Result<(), Fault> {
        make(directory)?;
        replace(&directory.join(BUNDLE), &self.certificate_pem, 0o644)?;
        replace(&directory.join(KEY), &pair.key_pem, 0o600)?;
        replace(&directory.join(CERTIFICATE), &pair.certificate_pem, 0o644)
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.account)
    }
}

impl FromStr for Workload {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (namespace, account) = text.split_once('/').ok_or("it is not NAMESPACE/ACCOUNT")?;
        if !is_label(namespace) {
            return Err(format!("`{namespace}` is no namespace: a-z, 0-9 and `-` between them"));
        }
        if account.len() > NAME_MAX || !account.split('.').all(is_label) {
            return Err(format!("`{account}` is no service account: a-z, 0-9, and `-` or `.` between them"));
        }
        Ok(Self { namespace: namespace.to_owned(), account: account.to_owned() })
    }
}

/// Whether a certificate can be issued for it: a name of DNS, with `*.` before it perhaps, or an address.
pub fn is_name(text: &str) -> bool {
    let name = text.strip_prefix("*.").unwrap_or(text);
    text.parse::<IpAddr>().is_ok() || (name.parse::<IpAddr>().is_err() && DnsName::try_from(name).is_ok())
}

/// Lowercase letters, digits, and `-` inside (RFC 1123).
fn is_label(text: &str) -> bool {
    let inside = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    (1..=LABEL_MAX).contains(&text.len()) && inside && !text.starts_with('-') && !text.ends_with('-')
}

/// The authority's own certificate, but for its life.
fn signer(trust_domain: &str) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(NAME);
    // How others find out whose authority it is (SPIFFE X.509-SVID, section 2).
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{trust_domain}").try_into()?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn named(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name.get(..COMMON_NAME_MAX).unwrap_or(name));
    subject
}

/// The end as the certificate has it: in whole seconds.
fn lives(params: &mut CertificateParams, now: SystemTime, not_after: SystemTime) -> SystemTime {
    let whole = not_after.duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs());
    let not_after = UNIX_EPOCH + Duration::from_secs(whole);
    (params.not_before, params.not_after) = ((now - BACKDATED).into(), not_after.into());
    not_after
}

fn make(directory: &Path) -> Result<(), Fault> {
    fs::create_dir_all(directory).map_err(|error| Fault::File(directory.to_owned(), error))
}

fn read(path: &Path) -> Result<Option<String>, Fault> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Fault::File(path.to_owned(), error)),
    }
}

/// Readers see the old text or the new one.
fn replace(path: &Path, text: &str, mode: u32) -> Result<(), Fault> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.new", std::process::id()));
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        fs::rename(&temporary, path)
    };
    write().map_err(|error| {
        let _ = fs::remove_file(&temporary);
        Fault::File(path.to_owned(), error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn workloads_are_named_as_in_kubernetes() {
        for good in ["shop/web", "a/b", "shop-1/web.v2", &format!("{}/x", "a".repeat(63))] {
            let workload: Workload = good.parse().expect(good);
            assert_eq!(workload.to_string(), good);
        }
        let long = format!("{}/x", "a".repeat(64));
        for bad in ["", "web", "/", "shop/", "/web", "shop/web/x", "../web", "shop/..", "shop/.", "Shop/web", "a.b/c"] {
            assert!(bad.parse::<Workload>().is_err(), "{bad}");
        }
        for bad in ["shop/-web", "shop/web-", "shop/w eb", "shop/w\0", "shop/ä", "shop/a..b", &long] {
            assert!(bad.parse::<Workload>().is_err(), "{bad}");
        }
    }

    #[test]
    fn names_are_those_that_tls_can_ask_for() {
        assert!(["a", "a.example", "*.a.example", "127.0.0.1", "::1"].into_iter().all(is_name));
        assert!(!["", "*", "*.", "a.*", "**.a", "*.127.0.0.1", "a b", "http://a"].into_iter().any(is_name));
    }

    #[test]
    fn an_authority_that_is_opened_signs_like_the_one_that_was_made() {
        let made = Authority::new("dev.local").expect("an authority");
        let opened = Authority::open(made.certificate_pem(), &made.key_pem()).expect("the same");
        assert_eq!((&*opened.trust_domain, opened.not_after), ("dev.local", made.not_after));
        let workload: Workload = "shop/web".parse().expect("a workload");
        for authority in [&made, &opened] {
            let pair = authority.issue(&workload, DAY, &["web.example".to_owned()]).expect("a pair");
            assert_eq!(pair.id.as_str(), "spiffe://dev.local/ns/shop/sa/web");
            let (_, pem) = parse_x509_pem(pair.certificate_pem.as_bytes()).expect("PEM");
            let certificate = pem.parse_x509().expect("a certificate");
            assert_eq!(certificate.issuer().to_string(), "CN=Outrigger development authority");
            assert_eq!(
                UNIX_EPOCH + Duration::from_secs(certificate.validity().not_after.timestamp() as u64),
                pair.not_after
            );
        }
        // Nothing outlives whom it is proven by.
        let long = made.issue(&workload, LIFE + DAY, &[]).expect("a pair");
        assert_eq!(long.not_after, made.not_after);

        let other = Authority::new("dev.local").expect("another");
        let pair = made.issue(&workload, DAY, &[]).expect("a pair");
        for (certificate, key) in [
            (made.certificate_pem(), &*other.key_pem()),
            (&*pair.certificate_pem, &*pair.key_pem),
            (made.certificate_pem(), "nothing"),
            ("nothing", &*made.key_pem()),
        ] {
            assert!(matches!(Authority::open(certificate, key), Err(Fault::Refused(_))), "{certificate}{key}");
        }
        assert!(matches!(Authority::new("Dev"), Err(Fault::Refused(_))));
    }
}

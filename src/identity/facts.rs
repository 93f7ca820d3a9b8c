//! What a certificate says, as far as somebody wants to know it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use x509_parser::public_key::PublicKey;
use x509_parser::time::ASN1Time;
use x509_parser::x509::{SubjectPublicKeyInfo, X509Name};

use super::files;
use crate::telemetry::rfc3339::Rfc3339;

/// One certificate. Times are RFC 3339 in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CertFacts {
    pub subject: String,
    pub issuer: String,
    /// Hexadecimal.
    pub serial: String,
    /// URI SANs; a SPIFFE certificate has exactly one.
    pub uris: Vec<String>,
    pub dns: Vec<String>,
    pub ips: Vec<IpAddr>,
    pub key_algorithm: String,
    #[serde(serialize_with = "rfc3339")]
    pub not_before: SystemTime,
    #[serde(serialize_with = "rfc3339")]
    pub not_after: SystemTime,
    pub is_ca: bool,
    /// Extended key usage: `serverAuth`, `clientAuth` …; none where the certificate does not restrict it.
    pub purposes: Vec<String>,
    /// SHA-256 of the DER, hexadecimal.
    pub hash: String,
}

/// The certificates of a PEM file, in its order; the error is in words.
pub fn facts(pem: &[u8]) -> Result<Vec<CertFacts>, String> {
    files::certificates(pem)?.iter().map(of).collect()
}

pub fn of(certificate: &CertificateDer<'_>) -> Result<CertFacts, String> {
    let parsed = parse(certificate)?;
    let names = names(&parsed)?;
    Ok(CertFacts {
        subject: name(parsed.subject()),
        issuer: name(parsed.issuer()),
        serial: hex(parsed.raw_serial()),
        uris: names.uris.into_iter().map(str::to_owned).collect(),
        dns: names.dns.into_iter().map(str::to_owned).collect(),
        ips: names.ips,
        key_algorithm: algorithm(parsed.public_key()),
        not_before: moment(parsed.validity().not_before),
        not_after: moment(parsed.validity().not_after),
        is_ca: parsed.is_ca(),
        purposes: purposes(&parsed)?,
        hash: hex(&Sha256::digest(certificate)),
    })
}

pub(super) fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, String> {
    match X509Certificate::from_der(certificate) {
        Ok(([], parsed)) => Ok(parsed),
        Ok(_) => Err("there is more behind the certificate".to_owned()),
        Err(error) => Err(format!("not a certificate: {error}")),
    }
}

/// The subject alternative names.
#[derive(Default)]
pub(super) struct Names<'a> {
    pub uris: Vec<&'a str>,
    pub dns: Vec<&'a str>,
    pub ips: Vec<IpAddr>,
}

pub(super) fn names<'a>(parsed: &'a X509Certificate<'_>) -> Result<Names<'a>, String> {
    let mut names = Names::default();
    let extension = parsed.subject_alternative_name().map_err(|error| format!("subject alternative names: {error}"))?;
    for name in extension.iter().flat_map(|extension| &extension.value.general_names) {
        match name {
            GeneralName::URI(uri) => names.uris.push(uri),
            GeneralName::DNSName(dns) => names.dns.push(dns),
            GeneralName::IPAddress(bytes) => {
                let v4 = <[u8; 4]>::try_from(*bytes).map(|octets| IpAddr::V4(Ipv4Addr::from(octets)));
                let v6 = || <[u8; 16]>::try_from(*bytes).map(|octets| IpAddr::V6(Ipv6Addr::from(octets)));
                names.ips.extend(v4.or_else(|_| v6()).ok());
            }
            GeneralName::Invalid(..) => return Err("a subject alternative name is not text".to_owned()),
            _ => {}
        }
    }
    Ok(names)
}

/// Of the extended key usage.
pub(super) fn purposes(parsed: &X509Certificate<'_>) -> Result<Vec<String>, String> {
    let extension = parsed.extended_key_usage().map_err(|error| format!("extended key usage: {error}"))?;
    let Some(usage) = extension.map(|extension| extension.value) else { return Ok(Vec::new()) };
    let known = [
        (usage.any, "any"),
        (usage.server_auth, "serverAuth"),
        (usage.client_auth, "clientAuth"),
        (usage.code_signing, "codeSigning"),
        (usage.email_protection, "emailProtection"),
        (usage.time_stamping, "timeStamping"),
        (usage.ocsp_signing, "OCSPSigning"),
    ];
    let known = known.into_iter().filter(|(there, _)| *there).map(|(_, name)| name.to_owned());
    Ok(known.chain(usage.other.iter().map(|oid| oid.to_id_string())).collect())
}

pub(super) fn moment(time: ASN1Time) -> SystemTime {
    let seconds = u64::try_from(time.timestamp()).unwrap_or_default();
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or(UNIX_EPOCH)
}

/// RFC 4514: the last part first, special characters escaped.
pub(super) fn name(name: &X509Name<'_>) -> String {
    let parts: Vec<_> = name.iter_rdn().collect();
    let part = |part: &&x509_parser::x509::RelativeDistinguishedName<'_>| {
        let attributes = part.iter().map(|attribute| {
            let oid = attribute.attr_type().to_id_string();
            match attribute.as_str() {
                Ok(text) => format!("{}={}", short(&oid), escaped(text)),
                Err(_) => format!("{}=#{}", short(&oid), hex(attribute.as_slice())),
            }
        });
        attributes.collect::<Vec<_>>().join("+")
    };
    parts.iter().rev().map(part).collect::<Vec<_>>().join(",")
}

/// The names of section 3; others go by their number.
fn short(oid: &str) -> &str {
    match oid {
        "2.5.4.3" => "CN",
        "2.5.4.6" => "C",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.9" => "STREET",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "0.9.2342.19200300.100.1.1" => "UID",
        "0.9.2342.19200300.100.1.25" => "DC",
        other => other,
    }
}

/// Section 2.4. Control characters, which it allows, go as hexadecimal: the name is written to logs and headers.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let last = text.len().saturating_sub(1);
    for (at, character) in text.char_indices() {
        match character {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' | '=' => out.extend(['\\', character]),
            ' ' if at == 0 || at == last => out.push_str("\\ "),
            '#' if at == 0 => out.push_str("\\#"),
            _ if character.is_control() => {
                let mut bytes = [0; 4];
                for byte in character.encode_utf8(&mut bytes).bytes() {
                    out.push_str(&format!("\\{byte:02x}"));
                }
            }
            _ => out.push(character),
        }
    }
    out
}

fn algorithm(key: &SubjectPublicKeyInfo<'_>) -> String {
    let oid = key.algorithm.algorithm.to_id_string();
    match (key.parsed(), oid.as_str()) {
        (Ok(PublicKey::RSA(rsa)), _) => format!("RSA {}", rsa.key_size()),
        (Ok(PublicKey::EC(point)), _) => format!("ECDSA P-{}", point.key_size()),
        (_, "1.3.101.112") => "Ed25519".to_owned(),
        _ => oid,
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn rfc3339<S: Serializer>(at: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&Rfc3339(*at))
}

//! PEM files: read with a bound, and taken apart. Errors are in words, with what would be right.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use rustls::pki_types::pem::{self, PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

/// Of one file; a bundle of all public authorities has less than half of it.
const FILE_BYTES_MAX: u64 = 1 << 20;

pub fn read(path: &Path) -> Result<Vec<u8>, String> {
    let found = fs::metadata(path).map_err(|error| unreadable(&error))?;
    // Opening a pipe would wait for who writes to it.
    if !found.is_file() {
        return Err("it is not a regular file: name a PEM file".to_owned());
    }
    let file = File::open(path).map_err(|error| unreadable(&error))?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| unreadable(&error))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err("it has more than 1Mi: name a PEM file".to_owned());
    }
    Ok(bytes)
}

/// All certificates, and at least one.
pub fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found = sections(text, SectionKind::Certificate)?.into_iter().map(CertificateDer::from).collect();
    some(found, text, "`BEGIN CERTIFICATE`", "x509")
}

/// All revocation lists, and at least one.
pub fn revocations(text: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    let found = sections(text, SectionKind::Crl)?.into_iter().map(CertificateRevocationListDer::from).collect();
    some(found, text, "`BEGIN X509 CRL`", "crl")
}

/// The one private key.
pub fn key(text: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    let mut keys = Vec::new();
    for section in PrivateKeyDer::pem_slice_iter(text) {
        keys.push(section.map_err(|error| broken(&error))?);
    }
    match (keys.pop(), keys.is_empty()) {
        (Some(key), true) => Ok(key),
        (Some(_), false) => Err("it has more than one private key: keep the one of the certificate".to_owned()),
        (None, _) if has(text, b"ENCRYPTED") => {
            Err("the private key is encrypted: write it without a passphrase (`openssl pkey -in … -out …`)".to_owned())
        }
        (None, _) => Err("there is no private key in it: name a PEM file with `BEGIN PRIVATE KEY` (PKCS #8), \
                 `BEGIN EC PRIVATE KEY` or `BEGIN RSA PRIVATE KEY`"
            .to_owned()),
    }
}

fn sections(text: &[u8], wanted: SectionKind) -> Result<Vec<Vec<u8>>, String> {
    let mut found = Vec::new();
    for section in <(SectionKind, Vec<u8>) as PemObject>::pem_slice_iter(text) {
        let (kind, der) = section.map_err(|error| broken(&error))?;
        if kind == wanted {
            found.push(der);
        }
    }
    Ok(found)
}

fn some<T>(found: Vec<T>, text: &[u8], wanted: &str, tool: &str) -> Result<Vec<T>, String> {
    match (found.is_empty(), text.first()) {
        (false, _) => Ok(found),
        (true, None) => Err(format!("it is empty: write a PEM file with {wanted}")),
        // A SEQUENCE of ASN.1.
        (true, Some(0x30)) => {
            Err(format!("it is DER, not PEM: convert it (`openssl {tool} -inform der -in … -out …`)"))
        }
        (true, Some(_)) => Err(format!("there is no {wanted} in it: name a PEM file that has one")),
    }
}

fn unreadable(error: &io::Error) -> String {
    let remedy = match error.kind() {
        io::ErrorKind::NotFound => ": write the file, or name another",
        io::ErrorKind::PermissionDenied => ": let the user of this process read it",
        _ => "",
    };
    format!("it cannot be read ({error}){remedy}")
}

fn broken(error: &pem::Error) -> String {
    format!("it is not sound PEM ({error:?}): write it again")
}

fn has(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window == word)
}

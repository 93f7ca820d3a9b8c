//! From the bytes of files to what is used of them; and whether what is new may take the place of what is in use.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::TrustAnchor;
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, InconsistentKeys};
use sha2::{Digest, Sha256};
use webpki::{CertRevocationList, OwnedCertRevocationList};
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use super::facts::{self, CertFacts};
use super::part::{Content, CrlFacts, Kind, Live, Loaded, Named, Product};
use super::verify::{self, NameVerifier, Purpose, SKEW, SpiffeVerifier, Trust};
use super::{Mesh, Roots, failure, files, tls};
use crate::config::schema::TlsVersion;
use crate::telemetry::rfc3339::Rfc3339;

/// Why files cannot be used: which of them, and why.
#[derive(Debug)]
pub struct Flaw {
    /// Of the files of the part.
    pub index: usize,
    pub why: String,
}

/// A file with its content.
#[derive(Clone)]
pub struct Text {
    pub named: Named,
    pub bytes: Vec<u8>,
}

/// Of our own certificate.
pub const REVOKED: &str = "the certificate is revoked by the `crl`: have another one issued";

/// Some of it is a key, and nothing to show.
impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.named.fmt(f)
    }
}

type Made = (Product, Vec<Loaded>);

/// With the length of each, so that no byte can move from one to the next.
pub fn digest(texts: &[Text]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for text in texts {
        hash.update(text.bytes.len().to_le_bytes());
        hash.update(&text.bytes);
    }
    hash.finalize().into()
}

/// `revoked`: our certificate may be.
pub fn build(
    kind: &Kind,
    max_age: Option<Duration>,
    texts: &[Text],
    revoked: bool,
    now: SystemTime,
) -> Result<Live, Flaw> {
    let (product, loaded) = match (kind, texts) {
        (Kind::Identity { domain, .. }, [certificate, key, bundle, crl @ ..]) => {
            identity(domain, max_age, [certificate, key, bundle], crl.first(), revoked, now)?
        }
        (Kind::Server { min, http, .. }, texts) => server(texts, *min, *http, now)?,
        (Kind::Roots { .. }, texts) => roots(texts.first())?,
        (Kind::Identity { .. }, _) => return Err(flaw(0, "files are missing".to_owned())),
    };
    let kept = if matches!(kind, Kind::Identity { .. }) { texts } else { &[] };
    Ok(Live { product, loaded, digest: digest(texts), texts: kept.into(), since: now })
}

/// The certificate and the key of an identity.
pub const PAIR: Range<usize> = 0..2;

/// Puts back what was in use of the files of an identity, as little as the flaw asks for; whether there was any.
pub fn step_back(texts: &mut [Text], old: &[Text], index: usize) -> bool {
    const BUNDLE: Range<usize> = 2..3;
    const CRL: Range<usize> = 3..4;
    let bad_bundle = || texts.get(2).is_some_and(|bundle| anchors(&bundle.bytes).is_err());
    let groups: &[Range<usize>] = match index {
        0 | 1 => &[PAIR],
        2 if bad_bundle() => &[BUNDLE],
        // Which of the two does not fit: it is the bundle that says who gets in.
        2 => &[PAIR, BUNDLE],
        _ => &[CRL, BUNDLE],
    };
    let differs = |group: &&Range<usize>| !same(texts, old, group);
    let Some(group) = groups.iter().find(differs) else { return false };
    let (Some(new), Some(old)) = (texts.get_mut(group.clone()), old.get(group.clone())) else { return false };
    new.clone_from_slice(old);
    true
}

pub fn same(texts: &[Text], old: &[Text], group: &Range<usize>) -> bool {
    group.clone().all(|at| texts.get(at).map(|text| &text.bytes) == old.get(at).map(|text| &text.bytes))
}

/// A pair that ends before the one in use would be a step back: most likely an old file, or another's.
pub fn judge(new: &Live, old: &Live, now: SystemTime) -> Result<(), Flaw> {
    // Anything is better than one that nobody takes.
    let ends = old.revoked().is_none().then(|| old.ends());
    for ((at, new), old) in new.ends().enumerate().zip(ends.into_iter().flatten()) {
        if new < old && now < old {
            let why = format!(
                "it ends at {}, sooner than the one in use, which ends at {}: issue one that lasts longer",
                Rfc3339(new),
                Rfc3339(old)
            );
            // Certificates and keys take turns.
            return Err(flaw(at * 2, why));
        }
    }
    Ok(())
}

fn identity(
    domain: &str,
    max_age: Option<Duration>,
    [certificate, key, bundle]: [&Text; 3],
    crl: Option<&Text>,
    may_be_revoked: bool,
    now: SystemTime,
) -> Result<Made, Flaw> {
    let pair = pair(certificate, key, now)?;
    let chain = &pair.key.cert;
    let leaf = chain.first().ok_or_else(|| flaw(0, "there is no certificate in it: write one".to_owned()))?;
    let (anchors, anchor_facts) = anchors(&bundle.bytes).map_err(|why| flaw(2, why))?;
    let (crls, crl_facts) = match crl {
        Some(crl) => revocations(&crl.bytes, &bundle.bytes).map_err(|why| flaw(3, why))?,
        None => (Vec::new(), Vec::new()),
    };
    let id = verify::spiffe_id(leaf, &[Purpose::Server, Purpose::Client], domain)
        .map_err(|error| flaw(0, format!("{}: {}", failure::certificate(&error), remedy(domain))))?;
    let trust = Arc::new(Trust::new(anchors, crls));
    let mut revoked = false;
    for purpose in [Purpose::Client, Purpose::Server] {
        match trust.verify(chain, purpose, now) {
            Ok(()) => {}
            Err(CertificateError::UnknownIssuer) => {
                let why = format!(
                    "the certificate `{}` does not lead to any anchor in it: add the authority that has issued the \
                     certificate, and its intermediates to the certificate's file",
                    certificate.named.file
                );
                return Err(flaw(2, why));
            }
            Err(CertificateError::Revoked) if may_be_revoked => revoked = true,
            Err(CertificateError::Revoked) => return Err(flaw(0, REVOKED.to_owned())),
            Err(error) => return Err(flaw(0, format!("{}: have another one issued", failure::certificate(&error)))),
        }
    }
    let not_after = verify::end_of(chain, now).unwrap_or(pair.not_after);
    let clients = Arc::new(SpiffeVerifier {
        trust: trust.clone(),
        domain: domain.into(),
        expected: None,
        purpose: Purpose::Client,
    });
    // Whom a connection expects, its connector says; without one, nobody.
    let nobody = SpiffeVerifier {
        trust: trust.clone(),
        domain: domain.into(),
        expected: Some(Arc::from([])),
        purpose: Purpose::Server,
    };
    let unusable = |error: rustls::Error| flaw(1, format!("{error}"));
    let mesh = Mesh {
        id,
        not_before: pair.not_before,
        not_after,
        max_age,
        server: Arc::new(tls::mesh(pair.key.clone(), clients.clone(), &[tls::HTTP2, tls::HTTP1]).map_err(unusable)?),
        server_tcp: Arc::new(tls::mesh(pair.key.clone(), clients.clone(), &[tls::TCP]).map_err(unusable)?),
        server_any: Arc::new(
            tls::mesh(pair.key.clone(), clients.clone(), &[tls::HTTP2, tls::HTTP1, tls::TCP]).map_err(unusable)?,
        ),
        client: tls::mesh_client(pair.key.clone(), nobody).map_err(unusable)?,
        trust,
        clients,
    };
    let mut loaded = vec![
        Loaded { named: certificate.named.clone(), content: pair.content(revoked) },
        Loaded { named: bundle.named.clone(), content: Content::Bundle(anchor_facts) },
    ];
    loaded.extend(crl.map(|crl| Loaded { named: crl.named.clone(), content: Content::Crl(crl_facts) }));
    Ok((Product::Mesh(Arc::new(mesh)), loaded))
}

fn remedy(domain: &str) -> String {
    format!(
        "have one issued with the URI SAN `spiffe://{domain}/ns/NAMESPACE/sa/NAME` alone, for `serverAuth` and `clientAuth`"
    )
}

fn server(texts: &[Text], min: TlsVersion, http: bool, now: SystemTime) -> Result<Made, Flaw> {
    let (mut names, mut loaded) = (tls::Names::default(), Vec::new());
    for (at, texts) in texts.chunks_exact(2).enumerate() {
        let [certificate, key] = texts else { continue };
        let pair = pair(certificate, key, now).map_err(|flaw| Flaw { index: at * 2 + flaw.index, ..flaw })?;
        let Some(leaf) = pair.facts.first() else { continue };
        let purpose = Purpose::Server.name();
        if !leaf.purposes.is_empty() && !leaf.purposes.iter().any(|allowed| allowed == purpose || allowed == "any") {
            let why = format!("it is not for `{purpose}` (extended key usage): have one issued that is");
            return Err(flaw(at * 2, why));
        }
        if at > 0 && leaf.dns.is_empty() {
            let why = "it has no DNS name (SAN), so that no client can ask for it: have one issued with the names, or \
                       remove it";
            return Err(flaw(at * 2, why.to_owned()));
        }
        names.add(pair.key.clone(), leaf.dns.iter().map(String::as_str));
        loaded.push(Loaded { named: certificate.named.clone(), content: pair.content(false) });
    }
    let config = tls::server(names, min, http).map_err(|error| flaw(0, error.to_string()))?;
    Ok((Product::Server(Arc::new(config)), loaded))
}

fn roots(text: Option<&Text>) -> Result<Made, Flaw> {
    let fail = |why| flaw(0, why);
    let (anchors, loaded) = match text {
        Some(text) => {
            let (anchors, facts) = anchors(&text.bytes).map_err(fail)?;
            (anchors, vec![Loaded { named: text.named.clone(), content: Content::Bundle(facts) }])
        }
        None => (system().map_err(fail)?, Vec::new()),
    };
    let trust = Arc::new(Trust::new(anchors, Vec::new()));
    let client =
        tls::simple_client(NameVerifier { trust: trust.clone() }).map_err(|error| flaw(0, error.to_string()))?;
    Ok((Product::Roots(Arc::new(Roots { trust, client })), loaded))
}

/// What the system trusts.
fn system() -> Result<Vec<TrustAnchor<'static>>, String> {
    let found = rustls_native_certs::load_native_certs();
    // Some of a system's are too old a form; nobody misses them.
    let anchor = |cert| Some(webpki::anchor_from_trusted_cert(cert).ok()?.to_owned());
    let anchors: Vec<_> = found.certs.iter().filter_map(anchor).collect();
    if anchors.is_empty() {
        let why = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
        return Err(format!("the system has no trust anchors{why}: name a `trustBundle`"));
    }
    Ok(anchors)
}

pub fn anchors(text: &[u8]) -> Result<(Vec<TrustAnchor<'static>>, Vec<CertFacts>), String> {
    let certificates = files::certificates(text)?;
    let (mut anchors, mut about) = (Vec::new(), Vec::new());
    for (at, certificate) in certificates.iter().enumerate() {
        let number = at + 1;
        let anchor = webpki::anchor_from_trusted_cert(certificate);
        let anchor =
            anchor.map_err(|error| format!("certificate {number} in it is no trust anchor ({error}): remove it"))?;
        about.push(facts::of(certificate).map_err(|why| format!("certificate {number} in it: {why}"))?);
        anchors.push(anchor.to_owned());
    }
    Ok((anchors, about))
}

fn revocations(text: &[u8], bundle: &[u8]) -> Result<(Vec<CertRevocationList<'static>>, Vec<CrlFacts>), String> {
    let (mut lists, mut about) = (Vec::new(), Vec::new());
    let anchors = files::certificates(bundle)?;
    for (at, der) in files::revocations(text)?.iter().enumerate() {
        let of = |why: String| format!("list {} in it {why}", at + 1);
        let list = OwnedCertRevocationList::from_der(der)
            .map_err(|error| of(format!("cannot be used ({error}): write a complete one, in version 2")))?;
        let (_, parsed) =
            CertificateRevocationList::from_der(der).map_err(|error| of(format!("cannot be read: {error}")))?;
        about.push(CrlFacts {
            issuer: facts::name(parsed.issuer()),
            revoked: parsed.iter_revoked_certificates().count(),
            next_update: parsed.next_update().map(facts::moment),
        });
        // Where its issuer is an anchor. A list of an intermediate's can only be held against a peer's chain.
        let issuers: Vec<_> = anchors
            .iter()
            .filter_map(|anchor| facts::parse(anchor).ok())
            .filter(|anchor| anchor.subject() == parsed.issuer())
            .collect();
        if !issuers.is_empty() && !issuers.iter().any(|issuer| parsed.verify_signature(issuer.public_key()).is_ok()) {
            return Err(of("is not signed by the anchor that it names: write one that is".to_owned()));
        }
        lists.push(list.into());
    }
    Ok((lists, about))
}

/// A certificate that is in force, and its key.
struct Pair {
    key: Arc<CertifiedKey>,
    facts: Vec<CertFacts>,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Pair {
    fn content(&self, revoked: bool) -> Content {
        let chain = self.facts.clone();
        Content::Chain { chain, not_before: self.not_before, not_after: self.not_after, revoked }
    }
}

fn pair(certificate: &Text, key: &Text, now: SystemTime) -> Result<Pair, Flaw> {
    let chain = files::certificates(&certificate.bytes).map_err(|why| flaw(0, why))?;
    let about = chain.iter().map(facts::of).collect::<Result<Vec<_>, _>>().map_err(|why| flaw(0, why))?;
    let Some(leaf) = about.first() else { return Err(flaw(0, "there is no certificate in it: write one".to_owned())) };
    let (not_before, leaf_end) = (leaf.not_before, leaf.not_after);
    if leaf_end <= now {
        return Err(flaw(0, format!("{}: have another one issued", failure::expired(leaf_end, now))));
    }
    if not_before > now + SKEW {
        return Err(flaw(0, failure::not_yet_valid(not_before, now)));
    }
    let not_after = verify::end_of(&chain, now).unwrap_or(leaf_end);
    let key = CertifiedKey::from_der(chain, files::key(&key.bytes).map_err(|why| flaw(1, why))?, tls::provider())
        .map_err(|error| flaw(1, unfit(&error, &certificate.named.file)))?;
    Ok(Pair { key: Arc::new(key), facts: about, not_before, not_after })
}

pub fn unfit(error: &rustls::Error, certificate: &str) -> String {
    match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            format!("it is not the key of the certificate `{certificate}`: write the two that belong together")
        }
        error => {
            format!("it cannot be used ({error}): ECDSA with P-256, P-384 or P-521, Ed25519, RSA of 2048 to 8192 bits")
        }
    }
}

fn flaw(index: usize, why: String) -> Flaw {
    Flaw { index, why }
}

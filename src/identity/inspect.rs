//! What is to be said of a file of certificates by itself, whether or not anything would take it.

use std::path::Path;
use std::time::{Duration, SystemTime};

use rustls::CertificateError;
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use serde::Serialize;

use super::facts::{self, CertFacts};
use super::verify::{Purpose, SKEW, Trust};
use super::{build, failure, files, tls};
use crate::wire::spiffe::SpiffeId;

/// Percent of its life that a certificate has at least left, or it should have been renewed.
const LEFT: [u64; 2] = [10, 25];

/// What a file is held against.
#[derive(Debug, Default)]
pub struct Against<'a> {
    pub key: Option<&'a Path>,
    pub bundle: Option<&'a Path>,
    /// It is to be an ordinary server's certificate, and no identity.
    pub server: bool,
}

#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// In the order of the file.
    pub certificates: Vec<Certificate>,
    /// With what would be right.
    pub problems: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Certificate {
    #[serde(flatten)]
    pub facts: CertFacts,
    /// Seconds, none once it is over.
    pub left: u64,
    /// Percent of its life.
    pub left_percent: u64,
}

pub fn inspect(file: &Path, against: &Against<'_>, now: SystemTime) -> Report {
    let mut report = Report::default();
    if let Err(why) = report.fill(file, against, now) {
        report.problems.push(why);
    }
    report
}

impl Certificate {
    pub fn new(facts: CertFacts, now: SystemTime) -> Self {
        let (left, left_percent) = left(&facts, now);
        Self { facts, left: left.as_secs(), left_percent }
    }

    /// What its times say; `index` is its place in the chain.
    pub fn problem(&self, index: usize, now: SystemTime) -> Option<String> {
        life(&self.facts, self.left_percent, now).map(|why| of(index, &why))
    }
}

impl Report {
    fn fill(&mut self, file: &Path, against: &Against<'_>, now: SystemTime) -> Result<(), String> {
        let text = files::read(file)?;
        let chain = files::certificates(&text)?;
        for (index, certificate) in chain.iter().enumerate() {
            let facts = facts::of(certificate).map_err(|why| of(index, &why))?;
            let certificate = Certificate::new(facts, now);
            self.problems.extend(certificate.problem(index, now));
            self.certificates.push(certificate);
        }
        let Some(Certificate { facts: leaf, .. }) = self.certificates.first() else { return Ok(()) };
        // An authority by itself, or a bundle of some, is nobody's identity.
        let authority = leaf.is_ca;
        if !authority {
            let role = if against.server { server(leaf) } else { identity(leaf) };
            self.problems.extend(role);
        }
        let own = files::key(&text).is_ok().then_some(file);
        if let Some(key) = against.key.or(own) {
            self.problems.extend(fits(&chain, key, file).err());
        }
        if let Some(bundle) = against.bundle {
            let verified = verified(&chain, bundle, against.server, now);
            self.problems.extend(verified.err().map(|why| format!("bundle `{}`: {why}", bundle.display())));
        }
        Ok(())
    }
}

/// The leaf is what all of it is about.
fn of(index: usize, why: &str) -> String {
    if index == 0 { why.to_owned() } else { format!("certificate {}: {why}", index + 1) }
}

fn left(facts: &CertFacts, now: SystemTime) -> (Duration, u64) {
    let left = facts.not_after.duration_since(now).unwrap_or_default();
    let life = facts.not_after.duration_since(facts.not_before).unwrap_or_default();
    // Before its time, it has all of it.
    let percent = (left.as_secs() * 100).checked_div(life.as_secs()).unwrap_or(0);
    (left, percent.min(100))
}

fn life(facts: &CertFacts, left_percent: u64, now: SystemTime) -> Option<String> {
    if facts.not_after <= now {
        return Some(failure::expired(facts.not_after, now));
    }
    if facts.not_before > now + SKEW {
        return Some(failure::not_yet_valid(facts.not_before, now));
    }
    let short = LEFT.into_iter().find(|least| left_percent < *least)?;
    Some(format!("less than {short} % of its life is left: renew it"))
}

fn identity(leaf: &CertFacts) -> Vec<String> {
    let mut problems = Vec::new();
    match leaf.uris.as_slice() {
        [] => problems.push(
            "it has no SPIFFE id: have one issued with it as URI SAN; or say --server of an ordinary server's"
                .to_owned(),
        ),
        [uri] => {
            let bad = SpiffeId::parse(uri).err();
            problems.extend(bad.map(|why| format!("`{uri}` is not a SPIFFE id: {why}")));
        }
        uris => problems.push(format!("it has {} URI SANs: the SPIFFE id has to be the only one", uris.len())),
    }
    for purpose in [Purpose::Server, Purpose::Client].map(Purpose::name) {
        if !leaf.purposes.iter().any(|allowed| allowed == purpose) {
            problems.push(format!("it does not say that it is for `{purpose}` (extended key usage)"));
        }
    }
    problems
}

fn server(leaf: &CertFacts) -> Vec<String> {
    let mut problems = Vec::new();
    if leaf.dns.is_empty() && leaf.ips.is_empty() {
        problems.push("it has no DNS name and no address (SAN): no client can verify it".to_owned());
    }
    let purpose = Purpose::Server.name();
    if !leaf.purposes.is_empty() && !leaf.purposes.iter().any(|allowed| allowed == purpose || allowed == "any") {
        problems.push(format!("it is not for `{purpose}` (extended key usage)"));
    }
    problems
}

fn fits(chain: &[CertificateDer<'static>], key: &Path, certificate: &Path) -> Result<(), String> {
    let of = |why: String| format!("key `{}`: {why}", key.display());
    let der = files::read(key).and_then(|text| files::key(&text)).map_err(of)?;
    let pair = CertifiedKey::from_der(chain.to_vec(), der, tls::provider());
    pair.map(drop).map_err(|error| of(build::unfit(&error, &certificate.to_string_lossy())))
}

fn verified(chain: &[CertificateDer<'_>], bundle: &Path, server: bool, now: SystemTime) -> Result<(), String> {
    let (anchors, _) = build::anchors(&files::read(bundle)?)?;
    let trust = Trust::new(anchors, Vec::new());
    let purposes: &[Purpose] = if server { &[Purpose::Server] } else { &[Purpose::Server, Purpose::Client] };
    for purpose in purposes {
        match trust.verify(chain, *purpose, now) {
            // Said already.
            Ok(()) | Err(CertificateError::ExpiredContext { .. } | CertificateError::NotValidYetContext { .. }) => {}
            Err(error) => return Err(failure::certificate(&error)),
        }
    }
    Ok(())
}

//! The parts of a configuration that name files: what each is to be, what it is, and what was refused.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::ServerConfig;

use super::build::Text;
use super::facts::CertFacts;
use super::{Mesh, Roots};
use crate::config::schema::{ListenerTlsMode, Root, ServiceTlsMode, TlsVersion};
use crate::config::{is_tcp_listener, step};

/// What something is loaded for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum What {
    Identity,
    /// By its name.
    Listener(String),
    Service(String),
}

/// What is to be loaded. Two that are equal are the same part, before and after a rotation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    pub what: What,
    pub kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Identity {
        domain: String,
        certificate: String,
        key: String,
        bundle: String,
        crl: Option<String>,
    },
    Server {
        pairs: Vec<(String, String)>,
        min: TlsVersion,
        http: bool,
    },
    /// The system's, where there is no file.
    Roots {
        bundle: Option<String>,
    },
}

/// A file, and the key of the configuration that names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    pub key: String,
    pub file: String,
}

#[derive(Debug, Clone)]
pub struct Part {
    pub spec: Spec,
    /// What is in use.
    pub live: Option<Arc<Live>>,
    /// What the files have now, where that is not in use: one of each file at most.
    pub refused: Vec<Refusal>,
}

/// What was made of the files.
#[derive(Debug)]
pub struct Live {
    pub product: Product,
    pub loaded: Vec<Loaded>,
    /// SHA-256 of the files.
    pub digest: [u8; 32],
    /// The files of an identity: each may go on beside what is new of the others.
    pub texts: Arc<[Text]>,
    pub since: SystemTime,
}

#[derive(Debug, Clone)]
pub enum Product {
    Mesh(Arc<Mesh>),
    Server(Arc<ServerConfig>),
    Roots(Arc<Roots>),
}

/// One of the files. Of a key nobody needs to know anything.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub named: Named,
    pub content: Content,
}

#[derive(Debug, Clone)]
pub enum Content {
    /// Ours: the first is the certificate itself.
    Chain {
        chain: Vec<CertFacts>,
        not_before: SystemTime,
        not_after: SystemTime,
        /// By the list that it is used with.
        revoked: bool,
    },
    Bundle(Vec<CertFacts>),
    Crl(Vec<CrlFacts>),
}

#[derive(Debug, Clone)]
pub struct CrlFacts {
    pub issuer: String,
    pub revoked: usize,
    pub next_update: Option<SystemTime>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub named: Named,
    /// With what would be right.
    pub why: String,
    pub since: SystemTime,
    /// SHA-256 of the files, where they could be read.
    pub digest: Option<[u8; 32]>,
}

impl Spec {
    /// All of a configuration, each with the key under which it stands.
    pub fn all(root: &Root) -> Vec<(Self, String)> {
        let identity = root.identity.iter().map(|identity| {
            let kind = Kind::Identity {
                domain: identity.trust_domain.clone(),
                certificate: identity.certificate.clone(),
                key: identity.private_key.clone(),
                bundle: identity.trust_bundle.clone(),
                crl: identity.crl.clone(),
            };
            (Self { what: What::Identity, kind }, "identity".to_owned())
        });
        let listeners = root.listeners.iter().enumerate().filter_map(|(index, listener)| {
            let tls = listener.tls.as_ref().filter(|tls| tls.mode == ListenerTlsMode::Server)?;
            let pairs = tls.server_certificates().map(|(certificate, key)| (certificate.to_owned(), key.to_owned()));
            let kind =
                Kind::Server { pairs: pairs.collect(), min: tls.min_version, http: !is_tcp_listener(root, listener) };
            Some((Self { what: What::Listener(listener.name.clone()), kind }, format!("listeners[{index}].tls")))
        });
        let services = root.services.iter().filter_map(|(name, service)| {
            let tls = service.tls.as_ref().filter(|tls| tls.mode == ServiceTlsMode::Simple)?;
            let kind = Kind::Roots { bundle: tls.trust_bundle.clone() };
            Some((Self { what: What::Service(name.clone()), kind }, format!("services{}.tls", step(name))))
        });
        identity.chain(listeners).chain(services).collect()
    }

    /// In the order in which they are read; `key` is that of the part.
    pub fn files(&self, key: &str) -> Vec<Named> {
        let named = |name: &str, file: &str| Named { key: format!("{key}.{name}"), file: file.to_owned() };
        match &self.kind {
            Kind::Identity { certificate, key, bundle, crl, .. } => {
                let three = [named("certificate", certificate), named("privateKey", key), named("trustBundle", bundle)];
                three.into_iter().chain(crl.iter().map(|crl| named("crl", crl))).collect()
            }
            Kind::Server { pairs, .. } => {
                let pair = |(index, (certificate, key)): (usize, &(String, String))| {
                    let of = |name: &str| match index {
                        0 => name.to_owned(),
                        index => format!("certificates[{}].{name}", index - 1),
                    };
                    [named(&of("certificate"), certificate), named(&of("privateKey"), key)]
                };
                pairs.iter().enumerate().flat_map(pair).collect()
            }
            Kind::Roots { bundle } => bundle.iter().map(|bundle| named("trustBundle", bundle)).collect(),
        }
    }
}

impl Live {
    /// Each certificate of ours, from when to when.
    pub fn own(&self) -> impl Iterator<Item = (&Named, SystemTime, SystemTime)> {
        self.loaded.iter().filter_map(|loaded| match loaded.content {
            Content::Chain { not_before, not_after, .. } => Some((&loaded.named, not_before, not_after)),
            Content::Bundle(_) | Content::Crl(_) => None,
        })
    }

    /// Our certificate that is revoked, and in use all the same.
    pub fn revoked(&self) -> Option<&Named> {
        let revoked = |loaded: &&Loaded| matches!(loaded.content, Content::Chain { revoked: true, .. });
        self.loaded.iter().find(revoked).map(|loaded| &loaded.named)
    }

    pub fn ends(&self) -> impl Iterator<Item = SystemTime> {
        self.own().map(|(_, _, not_after)| not_after)
    }
}

impl Product {
    pub fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Mesh(one), Self::Mesh(other)) => Arc::ptr_eq(one, other),
            (Self::Server(one), Self::Server(other)) => Arc::ptr_eq(one, other),
            (Self::Roots(one), Self::Roots(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity => f.write_str("identity"),
            Self::Listener(name) => write!(f, "listener {name}"),
            Self::Service(name) => write!(f, "service {name}"),
        }
    }
}

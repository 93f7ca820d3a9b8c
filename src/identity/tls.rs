//! Configurations of rustls: for our listeners, and what those for services begin with.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::{self, Ticketer};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WantsServerCert};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, ClientConfig, ConfigBuilder, ServerConfig};

use super::verify::{NameVerifier, SpiffeVerifier};
use crate::config::schema::TlsVersion;

pub const HTTP2: &[u8] = b"h2";
pub const HTTP1: &[u8] = b"http/1.1";
/// TCP between two of us.
pub const TCP: &[u8] = b"outrigger-tcp";
/// Offered by us and never selected: a permissive listener knows by it that a handshake is for the proxy, and not for
/// the application behind it.
pub const MARK: &[u8] = b"outrigger";

/// The only cryptography of the process.
pub fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| {
        let mut provider = aws_lc_rs::default_provider();
        // AES-128 with SHA-256 first: processors have instructions for both, and for SHA-384 they have none.
        provider.cipher_suites.sort_by_key(|suite| {
            !matches!(
                suite.suite(),
                CipherSuite::TLS13_AES_128_GCM_SHA256
                    | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
                    | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
            )
        });
        debug_assert!(provider.kx_groups.first().is_some_and(|group| is_post_quantum(*group)));
        Arc::new(provider)
    })
}

fn is_post_quantum(group: &dyn SupportedKxGroup) -> bool {
    group.name() == rustls::NamedGroup::X25519MLKEM768
}

/// Between sidecars: TLS 1.3, and a certificate on both sides.
pub fn mesh(
    key: Arc<CertifiedKey>,
    verifier: Arc<SpiffeVerifier>,
    protocols: &[&[u8]],
) -> Result<ServerConfig, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(provider().clone()).with_protocol_versions(&[&TLS13])?;
    let builder = builder.with_client_cert_verifier(verifier);
    let mut config = finish(builder, Arc::new(SingleCertAndKey::from(key)))?;
    config.ignore_client_order = true;
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(config)
}

/// For anybody. A listener of TCP takes whatever protocol the client and the service agree on.
pub fn server(keys: Names, min: TlsVersion, http: bool) -> Result<ServerConfig, rustls::Error> {
    let versions: &[_] = match min {
        TlsVersion::Tls12 => &[&TLS13, &TLS12],
        TlsVersion::Tls13 => &[&TLS13],
    };
    let builder = ServerConfig::builder_with_provider(provider().clone()).with_protocol_versions(versions)?;
    let mut config = finish(builder.with_no_client_auth(), Arc::new(keys))?;
    if http {
        config.alpn_protocols = [HTTP2, HTTP1].map(<[u8]>::to_vec).into();
    }
    Ok(config)
}

/// What connections to others of the mesh begin with; whom they expect comes with the connector.
pub fn mesh_client(key: Arc<CertifiedKey>, verifier: SpiffeVerifier) -> Result<ClientConfig, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(provider().clone()).with_protocol_versions(&[&TLS13])?;
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    Ok(sessionless(builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key)))))
}

/// The same for services outside of it.
pub fn simple_client(verifier: NameVerifier) -> Result<ClientConfig, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(provider().clone()).with_protocol_versions(&[&TLS13, &TLS12])?;
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    Ok(sessionless(builder.with_no_client_auth()))
}

/// Sessions belong to a connector.
fn sessionless(mut config: ClientConfig) -> ClientConfig {
    config.resumption = Resumption::disabled();
    config
}

fn finish(
    builder: ConfigBuilder<ServerConfig, WantsServerCert>,
    keys: Arc<dyn ResolvesServerCert>,
) -> Result<ServerConfig, rustls::Error> {
    let mut config = builder.with_cert_resolver(keys);
    // What a client needs to resume it keeps itself, under a key of this configuration alone: another identity resumes
    // none of it.
    config.ticketer = Ticketer::new()?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 1;
    debug_assert_eq!(config.max_early_data_size, 0);
    Ok(config)
}

/// The certificates of a listener, by the names that they have.
#[derive(Debug, Default)]
pub struct Names {
    /// In the order of the file; the first is the default.
    all: Vec<Arc<CertifiedKey>>,
    /// Indices, by the name in lower case; the key of `*.example.com` is `example.com`.
    exact: HashMap<Box<str>, Vec<usize>>,
    wild: HashMap<Box<str>, Vec<usize>>,
}

impl Names {
    pub fn add<'a>(&mut self, key: Arc<CertifiedKey>, dns: impl IntoIterator<Item = &'a str>) {
        let index = self.all.len();
        self.all.push(key);
        for name in dns {
            let name = name.to_ascii_lowercase();
            let (map, name) = match name.strip_prefix("*.") {
                Some(rest) => (&mut self.wild, rest),
                None => (&mut self.exact, name.as_str()),
            };
            map.entry(name.into()).or_default().push(index);
        }
    }

    /// The certificates for a name, the best first: that of the name itself, one for all of its domain, the default.
    fn find(&self, name: Option<&str>) -> Vec<&Arc<CertifiedKey>> {
        let name = name.map(str::to_ascii_lowercase);
        let exact = name.as_deref().and_then(|name| self.exact.get(name));
        let wild = || self.wild.get(name.as_deref()?.split_once('.')?.1);
        match exact.or_else(wild) {
            Some(found) => found.iter().filter_map(|index| self.all.get(*index)).collect(),
            None => self.all.first().into_iter().collect(),
        }
    }
}

impl ResolvesServerCert for Names {
    /// One of several for a name is that which the client can verify: RSA for who does not know ECDSA.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let found = self.find(hello.server_name());
        let can = |key: &&&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        found.iter().find(can).or(found.first()).map(|key| Arc::clone(key))
    }
}

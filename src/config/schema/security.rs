//! The part of the language that is about identity, TLS and who may do what.

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Duration, PathMatch, RuleMode, Text};
use crate::wire::spiffe::{IdPattern, SpiffeId};

/// This workload's own certificate; rotated by replacing the files.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Identity {
    /// Whose identities are ours, and whose peers are trusted.
    #[schemars(extend("format" = "trustDomain"))]
    pub trust_domain: String,
    /// PEM: the certificate with a SPIFFE id as its one URI SAN, then its intermediates.
    #[schemars(length(min = 1))]
    pub certificate: String,
    /// PEM: PKCS #8, SEC 1 or PKCS #1.
    #[schemars(length(min = 1))]
    pub private_key: String,
    /// PEM: one trust anchor or more.
    #[schemars(length(min = 1))]
    pub trust_bundle: String,
    /// PEM: certificate revocation lists. Checked where given; a certificate whose issuer has no list is not revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub crl: Option<String>,
    /// Longest that a connection lives on what was proven at its start; its end is told beforehand. 0s is no limit but
    /// the end of the certificates.
    #[serde(default = "no_max_age")]
    pub max_age: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ListenerTls {
    pub mode: ListenerTlsMode,
    /// PEM file of a `server`, as `privateKey`; what a client without a fitting name gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub certificate: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub private_key: Option<String>,
    /// More of a `server`, chosen by the name that the client asks for (SNI).
    #[serde(default)]
    pub certificates: Vec<CertificateFiles>,
    /// Of a `server`. Between sidecars it is always 1.3.
    #[serde(default)]
    pub min_version: TlsVersion,
    /// From the first byte of a handshake to its end.
    #[serde(default = "default_handshake_timeout")]
    pub handshake_timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ListenerTlsMode {
    /// TLS 1.3 with a client certificate of the trust bundle, or nothing.
    Strict,
    /// The same, and plaintext, and the application's own TLS, which is passed through.
    Permissive,
    /// TLS for any client.
    Server,
    Off,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CertificateFiles {
    #[schemars(length(min = 1))]
    pub certificate: String,
    #[schemars(length(min = 1))]
    pub private_key: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum TlsVersion {
    #[default]
    #[serde(rename = "1.2")]
    Tls12,
    #[serde(rename = "1.3")]
    Tls13,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceTls {
    pub mode: ServiceTlsMode,
    /// Whom the endpoints of a `mutual` service must prove to be: any of these, where an endpoint has none of its own.
    #[serde(default)]
    pub identities: Vec<IdentityMatch>,
    /// The name that a `simple` service is asked for and must prove (SNI, DNS SAN): the name of a `dns` source where
    /// absent. Of a `mutual` one it is only asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "host"))]
    pub server_name: Option<String>,
    /// PEM: trust anchors of a `simple` service; the system's where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub trust_bundle: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ServiceTlsMode {
    /// Our certificate against theirs: SPIFFE identities on both sides.
    Mutual,
    /// Theirs alone, by its DNS name.
    Simple,
    Off,
}

/// A SPIFFE id, in which `*` stands for anything but `/`, and at the end for any rest; `*` alone is anybody with an
/// identity. Or a named kind.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum IdentityMatch {
    Pattern(#[schemars(extend("format" = "identityPattern"))] String),
    Matcher(IdentityMatcher),
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum IdentityMatcher {
    Exact(#[schemars(extend("format" = "spiffeId"))] String),
    /// The beginning of a SPIFFE id, letter by letter.
    Prefix(#[schemars(length(min = 1))] String),
}

/// Who calls: each condition that is there has to hold, by any of its values.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Caller {
    /// Proven by a client certificate.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub identities: Vec<IdentityMatch>,
    /// Of the identity: `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/NAME`, in the own trust domain.
    #[schemars(extend("items" = { "type": "string", "minLength": 1 }))]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
    /// Of the address that the connection comes from; `10.0.0.0/8`, `fd00::/8`, or one address.
    #[schemars(extend("items" = { "type": "string", "format": "cidr" }))]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cidrs: Vec<String>,
}

/// With any allow rule on a port, what no allow rule fits is denied; deny wins.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Authorization {
    /// Unique; told to whoever is refused.
    #[schemars(extend("format" = "name"))]
    pub name: String,
    /// Listeners that it is for; all where absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listeners: Vec<String>,
    /// Ports that were connected to; all where absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("items" = { "type": "integer", "minimum": 1, "maximum": 65535 }))]
    pub ports: Vec<u16>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<AuthorizationRule>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<AuthorizationRule>,
    #[serde(default)]
    pub mode: RuleMode,
}

/// Fits where both halves do; a half that is not there fits everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AuthorizationRule {
    #[serde(skip_serializing_if = "is_default")]
    pub from: Caller,
    #[serde(skip_serializing_if = "is_default")]
    pub to: Operation,
}

/// What is asked for: each condition that is there has to hold, by any of its values (`headers`: by all).
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Operation {
    #[schemars(extend("items" = { "type": "integer", "minimum": 1, "maximum": 65535 }))]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<u16>,
    #[schemars(extend("items" = { "type": "string", "format": "method" }))]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// By the same normal form of the path that routes go by and the upstream gets.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<PathMatch>,
    #[schemars(extend("items" = { "type": "string", "format": "hostPattern" }))]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    #[schemars(extend("propertyNames" = { "format": "headerName" }))]
    #[serde(skip_serializing_if = "IndexMap::is_empty")]
    pub headers: IndexMap<String, Text>,
}

impl IdentityMatch {
    /// `None` for what a check of the configuration has refused.
    pub fn pattern(&self) -> Option<IdPattern> {
        match self {
            Self::Pattern(text) => IdPattern::parse(text).ok(),
            Self::Matcher(IdentityMatcher::Exact(id)) => SpiffeId::parse(id).ok().map(IdPattern::Exact),
            Self::Matcher(IdentityMatcher::Prefix(text)) => Some(IdPattern::Prefix(text.as_str().into())),
        }
    }
}

impl super::Listener {
    pub fn handshake_timeout(&self) -> Duration {
        self.tls.as_ref().map_or_else(default_handshake_timeout, |tls| tls.handshake_timeout)
    }
}

impl ListenerTls {
    /// The certificates of a `server`, the default one first.
    pub fn server_certificates(&self) -> impl Iterator<Item = (&str, &str)> {
        let first = self.certificate.as_deref().zip(self.private_key.as_deref());
        first
            .into_iter()
            .chain(self.certificates.iter().map(|one| (one.certificate.as_str(), one.private_key.as_str())))
    }
}

fn no_max_age() -> Duration {
    Duration::from_secs(0)
}

fn default_handshake_timeout() -> Duration {
    Duration::from_secs(5)
}

/// What is empty is not written: written and empty it would be refused.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

//! The part of the language that is about what is said ahead of a connection.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::wire::cidr::Cidr;
use crate::wire::proxy_protocol::Version;

/// As a peer: whoever comes by a Unix socket.
pub const UNIX: &str = "unix:";

/// Whom the PROXY protocol is taken from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProxyProtocol {
    /// Peers that must begin with a header, of version 1 or 2. Nobody else is believed.
    #[schemars(length(min = 1), extend("items" = { "type": "string", "format": "peers" }))]
    pub from: Vec<String>,
}

/// What a service is told of the client ahead of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ProxyVersion {
    V1,
    V2,
}

impl ProxyProtocol {
    /// Whoever comes by a Unix socket is meant, too.
    pub fn is_from_unix(&self) -> bool {
        self.from.iter().any(|text| text == UNIX)
    }

    /// Their form was checked with all others.
    pub fn blocks(&self) -> impl Iterator<Item = Cidr> {
        self.from.iter().filter_map(|text| Cidr::parse(text).ok())
    }
}

impl From<ProxyVersion> for Version {
    fn from(version: ProxyVersion) -> Self {
        match version {
            ProxyVersion::V1 => Self::V1,
            ProxyVersion::V2 => Self::V2,
        }
    }
}

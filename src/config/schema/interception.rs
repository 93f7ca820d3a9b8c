//! Traffic that the kernel redirects to us.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ListenerTlsMode;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Mode {
    /// In front of a service; nothing is redirected.
    Proxy,
    /// What the kernel redirects on its way to the application. The original destination decides the port.
    Inbound,
    /// What the kernel redirects on its way out of the application. The original destination decides the service.
    Outbound,
}

impl Mode {
    /// Connections come by way of the kernel's rules.
    pub fn is_redirected(self) -> bool {
        self != Self::Proxy
    }
}

/// How the kernel hands connections over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Transparent {
    /// By REDIRECT: the original destination is asked of the kernel.
    #[default]
    Redirect,
    /// By TPROXY: the application sees the address of the client. Needs NET_ADMIN.
    Tproxy,
}

/// What is known of a port of the application.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Port {
    /// What clients speak; `auto` decides from the first bytes, and from who speaks first.
    #[serde(default)]
    pub protocol: PortProtocol,
    /// Instead of the mode of the listener: `strict`, `permissive` or `off`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<PortTls>,
    /// Where the application is connected to.
    #[serde(default)]
    pub application: Application,
    /// What becomes of what is not HTTP on an `auto` port. `deny` where absent and a rule of `authorization` for the port
    /// looks at requests, else `allow`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undetected: Option<Undetected>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum PortProtocol {
    #[default]
    Auto,
    Http,
    Tcp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum PortTls {
    Strict,
    Permissive,
    Off,
}

impl From<PortTls> for ListenerTlsMode {
    fn from(mode: PortTls) -> Self {
        match mode {
            PortTls::Strict => Self::Strict,
            PortTls::Permissive => Self::Permissive,
            PortTls::Off => Self::Off,
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Application {
    /// At the address that the client connected to.
    #[default]
    Original,
    /// On the loopback address of the same family: an application that is bound to `localhost`.
    Loopback,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Undetected {
    Deny,
    Allow,
}

/// Destinations that no service has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum UnknownDestinations {
    /// Passed through untouched, and counted.
    #[default]
    Allow,
    Deny,
}

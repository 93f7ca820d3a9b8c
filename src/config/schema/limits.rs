//! Limits: what may come in a time, and what there may be at a time.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Duration, RuleMode, Size};

/// One rate limit, or several, all of which hold.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum RateLimits {
    One(RateLimit),
    All(#[schemars(length(min = 1))] Vec<RateLimit>),
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RateLimit {
    /// In the long run; exact over all workers.
    #[schemars(range(min = 0.001, max = 1000000))]
    pub requests_per_second: f64,
    /// At once, after a pause. As many as come in a second where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000000))]
    pub burst: Option<u32>,
    /// Each value has a limit of its own; requests without one have one together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per: Option<LimitKey>,
    #[serde(default)]
    pub mode: RuleMode,
    /// How long a request may wait for its turn instead of being refused.
    #[serde(default)]
    pub wait: Duration,
    /// Requests that may wait at a time.
    #[serde(default = "default_max_waiting")]
    pub max_waiting: u32,
    /// Values that are told apart; each costs 40 bytes, taken at once.
    #[serde(default = "default_max_keys")]
    #[schemars(range(min = 1, max = 16777216))]
    pub max_keys: u32,
}

/// What requests are told apart by.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum LimitKey {
    Attribute(String),
    Header(#[schemars(extend("format" = "headerName"))] String),
    /// What the client has proven to be.
    Identity(bool),
    /// Where the connection comes from; of an IPv6 address the first 64 bits.
    Address(bool),
}

/// What a service has at a time, over all workers.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// Requests, to the end of their answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_requests: Option<u32>,
    /// Connections, those being made included.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_connections: Option<u32>,
    /// As many requests as the latency of the service shows that it can take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adaptive: Option<AdaptiveLimit>,
    /// Requests that wait for a place; and as many that wait for a connection.
    pub max_pending: u32,
    /// How long they may.
    pub pending_timeout: Duration,
    /// Retries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<u32>,
    /// What says how much a request matters: `critical`, `default` or `sheddable`.
    pub criticality: Criticality,
    pub mode: RuleMode,
}

/// `true`, or its bounds.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum AdaptiveLimit {
    On(bool),
    Bounds(AdaptiveBounds),
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AdaptiveBounds {
    /// The limit to begin with.
    #[schemars(range(min = 1, max = 1000000))]
    pub initial: u32,
    #[schemars(range(min = 1, max = 1000000))]
    pub min: u32,
    #[schemars(range(min = 1, max = 1000000))]
    pub max: u32,
    /// So many times the usual latency is still in order.
    #[schemars(range(min = 1, max = 10))]
    pub tolerance: f64,
}

/// Where the class of a request is written.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Criticality {
    Attribute(String),
    Header(#[schemars(extend("format" = "headerName"))] String),
}

/// What happens before memory runs out.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Memory {
    /// What there is; the limit of the cgroup where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<Size>,
    /// Percent of it from which on new requests are refused, sheddable ones a little earlier, critical ones later.
    #[schemars(range(min = 1, max = 100))]
    pub shed_at: f64,
    pub mode: RuleMode,
}

impl RateLimits {
    pub fn all(&self) -> &[RateLimit] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::All(all) => all,
        }
    }
}

impl RateLimit {
    /// As it is where nothing but the rate is said.
    pub fn new(requests_per_second: f64, burst: Option<u32>) -> Self {
        Self {
            requests_per_second,
            burst,
            per: None,
            mode: RuleMode::Enforce,
            wait: Duration::default(),
            max_waiting: default_max_waiting(),
            max_keys: default_max_keys(),
        }
    }

    pub fn burst(&self) -> u32 {
        self.burst.unwrap_or(self.requests_per_second.ceil().max(1.0) as u32)
    }
}

impl AdaptiveLimit {
    /// None where it is `false`.
    pub fn bounds(self) -> Option<AdaptiveBounds> {
        match self {
            Self::On(on) => on.then(AdaptiveBounds::default),
            Self::Bounds(bounds) => Some(bounds),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_requests: None,
            max_connections: None,
            adaptive: None,
            max_pending: 100,
            pending_timeout: Duration(std::time::Duration::from_millis(100)),
            max_retries: None,
            criticality: Criticality::default(),
            mode: RuleMode::Enforce,
        }
    }
}

impl Default for AdaptiveBounds {
    fn default() -> Self {
        Self { initial: 20, min: 5, max: 1000, tolerance: 1.5 }
    }
}

impl Default for Criticality {
    fn default() -> Self {
        Self::Header("x-outrigger-criticality".to_owned())
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self { limit: None, shed_at: 90.0, mode: RuleMode::Enforce }
    }
}

fn default_max_waiting() -> u32 {
    1000
}

fn default_max_keys() -> u32 {
    65536
}

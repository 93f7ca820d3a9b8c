//! The block of platform repositories, in its own spelling.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Duration;

/// Rules for a service as the repositories of platforms hold them: the same as its own `circuitBreaker` and `rateLimit`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ServicePolicies {
    pub service: String,
    #[schemars(length(min = 1))]
    pub rules: Vec<PolicyRule>,
}

/// Which of the other keys are for a rule, its type says.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PolicyRule {
    #[serde(rename = "type")]
    pub kind: PolicyKind,
    /// Of a circuit breaker: the time that failures are counted in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Duration>,
    /// Of a circuit breaker: the share of failures that opens it, from 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1))]
    pub failure_threshold: Option<f64>,
    /// Of a circuit breaker: how long it stays open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_duration: Option<Duration>,
    /// Of a rate limit: requests a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.001, max = 1000000))]
    pub qps: Option<f64>,
    /// Of a rate limit: at once, after a pause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000000))]
    pub burst: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyKind {
    CircuitBreaker,
    RateLimit,
}

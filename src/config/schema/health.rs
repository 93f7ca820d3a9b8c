//! The part of the language that is about which endpoints are fit to be chosen, and which are believed to be there.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Condition, Duration, RuleMode};

/// Asks each endpoint, at an interval, whether it is well: one of `http`, `grpc` and `tcp`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HealthCheck {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpCheck>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<GrpcCheck>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpCheck>,
    /// Port that is asked, where it is not that of the endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub port: Option<u16>,
    /// Between two checks of one endpoint, give or take a tenth.
    #[serde(default = "default_interval")]
    pub interval: Duration,
    /// A check that takes longer has failed.
    #[serde(default = "default_timeout")]
    pub timeout: Duration,
    /// Checks in a row that an unhealthy endpoint has to pass.
    #[serde(default = "default_healthy_after")]
    #[schemars(range(min = 1))]
    pub healthy_after: u32,
    /// Checks in a row that a healthy endpoint has to fail; the first check of an endpoint decides alone.
    #[serde(default = "default_unhealthy_after")]
    #[schemars(range(min = 1))]
    pub unhealthy_after: u32,
}

/// A GET.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpCheck {
    #[schemars(extend("format" = "pathAndQuery"))]
    pub path: String,
    /// The first of the service's `hosts` where absent, or else the address of the endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "authority"))]
    pub host: Option<String>,
    /// Statuses that say that it is well: any from 200 to 399 where absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1), extend("items" = { "type": "integer", "minimum": 100, "maximum": 599 }))]
    pub statuses: Vec<u16>,
}

/// `grpc.health.v1.Health/Check`, which has to answer SERVING.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct GrpcCheck {
    /// The service that is asked about; the server as a whole where absent.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub service: String,
}

/// A connection, and its TLS where the service has any.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TcpCheck {}

/// Takes single endpoints out of the choice for some time, by what came of the traffic to them.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct OutlierDetection {
    /// Failures in a row that eject an endpoint, at once; 0 is none.
    pub consecutive_failures: u32,
    /// What is a failure: what a client would call an error of the server where absent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1))]
    pub failures: Vec<Condition>,
    /// Endpoints that fail more often than their peers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub success_rate: Option<SuccessRate>,
    /// Endpoints that are slower than their peers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency: Option<SlowerThan>,
    /// How long `successRate` and `latency` look before they compare, and how soon a former ejection is half forgotten.
    pub interval: Duration,
    /// How long the first ejection of an endpoint lasts; its second lasts twice as long, and so on.
    pub base_ejection: Duration,
    /// Longest that one lasts.
    pub max_ejection: Duration,
    /// Percent of the endpoints that may be out at a time; one always stays.
    #[schemars(range(min = 0, max = 100))]
    pub max_ejected_percent: u8,
    pub mode: RuleMode,
}

/// An endpoint is out whose share of successes is less than the mean of all, minus so many standard deviations.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SuccessRate {
    /// Requests within the interval that an endpoint needs to be compared.
    #[schemars(range(min = 1))]
    pub min_requests: u32,
    /// Endpoints with so many that it needs to compare at all.
    #[schemars(range(min = 2))]
    pub min_endpoints: u32,
    #[schemars(range(min = 0, max = 100))]
    pub deviations: f64,
}

/// An endpoint is out whose mean time to answer is more than so many percent of the median of its peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SlowerThan {
    #[schemars(range(min = 101, max = 100000))]
    pub percent: u32,
    /// What takes no longer than this is never too slow.
    pub above: Duration,
    #[schemars(range(min = 1))]
    pub min_requests: u32,
    /// Endpoints with so many requests, itself included.
    #[schemars(range(min = 3))]
    pub min_endpoints: u32,
}

/// A set of endpoints that has become suddenly tiny, or empty, is held back until that has been confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct EndpointGuard {
    /// Percent of the endpoints that have to remain for a new set to be taken at once.
    #[schemars(range(min = 0, max = 100))]
    pub minimum_percent: u8,
    /// How long a smaller one is held back at least; what is found until then has to say the same.
    pub hold: Duration,
    pub mode: RuleMode,
}

impl Default for OutlierDetection {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            failures: Vec::new(),
            success_rate: None,
            latency: None,
            interval: Duration::from_secs(10),
            base_ejection: Duration::from_secs(30),
            max_ejection: Duration::from_secs(300),
            max_ejected_percent: 50,
            mode: RuleMode::Enforce,
        }
    }
}

impl Default for SuccessRate {
    fn default() -> Self {
        Self { min_requests: 100, min_endpoints: 5, deviations: 1.9 }
    }
}

impl Default for SlowerThan {
    fn default() -> Self {
        Self {
            percent: 300,
            above: Duration(std::time::Duration::from_millis(10)),
            min_requests: 100,
            min_endpoints: 3,
        }
    }
}

impl Default for EndpointGuard {
    fn default() -> Self {
        Self { minimum_percent: 20, hold: Duration::from_secs(30), mode: RuleMode::Enforce }
    }
}

fn default_interval() -> Duration {
    Duration::from_secs(5)
}

fn default_timeout() -> Duration {
    Duration::from_secs(1)
}

fn default_healthy_after() -> u32 {
    2
}

fn default_unhealthy_after() -> u32 {
    3
}

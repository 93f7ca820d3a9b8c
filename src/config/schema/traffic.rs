//! What is done to traffic on purpose: faults, copies of requests, and a canary that moves by itself.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{HeaderEdits, Match};
use crate::config::units::{Duration, Size};

/// Faults are drawn independently of one another, and everything that they touch is marked with `x-outrigger-fault`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fault {
    /// Requests of the route that may be touched: any of these. All where absent.
    #[serde(default, rename = "match", skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<Match>,
    /// Before the request is sent on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<FaultDelay>,
    /// Instead of sending the request on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abort: Option<FaultAbort>,
    /// Of the body of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<FaultBandwidth>,
    /// From this moment on nothing is done (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "timestamp"))]
    pub expires: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FaultDelay {
    /// Share of the requests.
    #[schemars(range(min = 0, max = 100))]
    pub percent: f64,
    pub duration: Duration,
}

/// Exactly one of `status`, `grpc` and `reset` says how.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FaultAbort {
    /// Share of the requests.
    #[schemars(range(min = 0, max = 100))]
    pub percent: f64,
    /// Status of the answer; a gRPC call gets the code that this status means.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 200, max = 599))]
    pub status: Option<u16>,
    /// gRPC code of the answer, such as `unavailable`; a request that is no gRPC gets 503.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "grpcCode"))]
    pub grpc: Option<String>,
    /// The client's connection (HTTP/1) or stream (HTTP/2) is reset.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reset: bool,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FaultBandwidth {
    /// Share of the requests.
    #[schemars(range(min = 0, max = 100))]
    pub percent: f64,
    /// Bytes a second.
    pub limit: Size,
}

/// A copy of requests, to a service whose answers nobody waits for.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mirror {
    /// `service` or `service/subset`.
    pub to: String,
    /// Share of the requests.
    #[serde(default = "all")]
    #[schemars(range(min = 0, max = 100))]
    pub percent: f64,
    /// Methods that are copied: the safe ones unless told.
    #[serde(default = "safe")]
    #[schemars(length(min = 1), extend("items" = { "type": "string", "format": "method" }))]
    pub methods: Vec<String>,
    /// For the whole copy.
    #[serde(default = "default_timeout")]
    pub timeout: Duration,
    /// Copies on their way at a time, of all workers; more are dropped and counted.
    #[serde(default = "default_in_flight")]
    #[schemars(range(min = 1))]
    pub max_in_flight: u32,
    /// Requests with a larger body are not copied, and counted.
    #[serde(default = "default_buffer")]
    pub buffer_limit: Size,
    /// Edits of the copy's head, after those of the route.
    #[serde(default)]
    pub headers: HeaderEdits,
    /// Holds its answers against those of the service itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compare: Option<Compare>,
}

/// What of two answers is compared.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Compare {
    pub status: bool,
    #[schemars(extend("items" = { "type": "string", "format": "headerName" }))]
    pub headers: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<CompareBody>,
    /// Percent of the compared requests that are sent to the service itself a second time, to learn which fields differ
    /// by nature. Safe methods only.
    #[schemars(range(min = 0, max = 100))]
    pub noise: f64,
    /// Larger bodies are not compared, and counted.
    pub max_body: Size,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CompareBody {
    /// Field by field where both are JSON; byte by byte otherwise.
    pub json: bool,
    /// Fields that do not count, with all below them (RFC 6901).
    #[schemars(extend("items" = { "type": "string", "format": "jsonPointer" }))]
    pub ignore: Vec<String>,
}

/// Moves the weight of one side of the route's `split` through the steps, as long as that side is no worse than the
/// others.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Canary {
    /// The `to` of a side.
    pub side: String,
    /// Percent of the traffic, each more than the one before.
    #[schemars(length(min = 1), extend("items" = { "type": "number", "minimum": 0, "maximum": 100 }))]
    pub steps: Vec<f64>,
    /// Time on each step.
    pub every: Duration,
    #[serde(default)]
    pub abort_if: AbortIf,
    /// Requests that the side, and the others together, must have had on a step before the next.
    #[serde(default = "default_min_requests")]
    #[schemars(range(min = 20))]
    pub min_requests: u64,
}

/// How much worse than the other sides is too much.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AbortIf {
    /// Percentage points of failed requests.
    #[schemars(range(min = 0, max = 100))]
    pub errors: f64,
    /// Percent of the 99th percentile of the duration.
    #[schemars(range(min = 0, max = 10000))]
    pub p99: f64,
}

impl Default for AbortIf {
    fn default() -> Self {
        Self { errors: 2.0, p99: 15.0 }
    }
}

impl Default for Compare {
    fn default() -> Self {
        Self { status: true, headers: Vec::new(), body: None, noise: 0.0, max_body: default_buffer() }
    }
}

fn all() -> f64 {
    100.0
}

fn safe() -> Vec<String> {
    ["GET", "HEAD", "OPTIONS"].map(str::to_owned).into()
}

fn default_timeout() -> Duration {
    Duration::from_secs(5)
}

fn default_in_flight() -> u32 {
    100
}

fn default_buffer() -> Size {
    Size(64 * 1024)
}

fn default_min_requests() -> u64 {
    100
}

//! Circuit breakers, classes of answers, and fallbacks.

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Condition, Duration, Redirect, RuleMode, Text};

/// Stops sending to what keeps failing: closed, open for a while, then half open with a few trial requests.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CircuitBreaker {
    /// What the share of failures is taken of.
    pub window: Duration,
    /// Requests in the window before their share says anything.
    #[schemars(range(min = 1, max = 100000))]
    pub min_requests: u32,
    /// Share of failures that opens it, from 0 to 1.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub failure_threshold: f64,
    /// Failures one after the other that open it as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub consecutive_failures: Option<u32>,
    /// How long nothing is sent.
    pub open_duration: Duration,
    /// Requests that try it out after that, and by whose share of failures it closes or opens again.
    #[schemars(range(min = 1, max = 10000))]
    pub half_open_requests: u32,
    /// What a failure is: any of these. What a client would call an error of the server where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub failures: Option<Vec<Condition>>,
    pub mode: RuleMode,
    /// What is done while it is open, instead of 503.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Fallback>,
}

/// Answers that are counted apart, with a breaker of their own.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ErrorClass {
    /// Unique in the service; the `class` label of metrics.
    #[schemars(extend("format" = "name"))]
    pub name: String,
    #[serde(rename = "match")]
    pub matches: AnswerMatch,
    #[serde(default)]
    pub sli: Sli,
    /// Opens by the share of this class among all answers of the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<ClassBreaker>,
    /// What is done while its breaker is open, instead of 503.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Fallback>,
}

/// A circuit breaker whose failures are the answers of a class.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ClassBreaker {
    /// What the share of the class is taken of.
    pub window: Duration,
    /// Answers in the window before the share says anything.
    #[schemars(range(min = 1, max = 100000))]
    pub min_requests: u32,
    /// Share of the class that opens it, from 0 to 1.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub failure_threshold: f64,
    /// Answers of the class one after the other that open it as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub consecutive_failures: Option<u32>,
    /// How long nothing is sent.
    pub open_duration: Duration,
    /// Requests that try it out after that.
    #[schemars(range(min = 1, max = 10000))]
    pub half_open_requests: u32,
    pub mode: RuleMode,
}

impl ClassBreaker {
    pub fn whole(&self) -> CircuitBreaker {
        CircuitBreaker {
            window: self.window,
            min_requests: self.min_requests,
            failure_threshold: self.failure_threshold,
            consecutive_failures: self.consecutive_failures,
            open_duration: self.open_duration,
            half_open_requests: self.half_open_requests,
            failures: None,
            mode: self.mode,
            fallback: None,
        }
    }
}

/// All of these have to hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AnswerMatch {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 100, max = 599))]
    pub status: Option<u16>,
    /// A gRPC status, such as `unavailable`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "grpcCode"))]
    pub grpc: Option<String>,
    #[schemars(extend("propertyNames" = { "format": "headerName" }))]
    pub response_header: IndexMap<String, Text>,
}

/// What an answer of a class says of the service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Sli {
    /// It is an error, whatever its status.
    #[default]
    Critical,
    /// It is counted apart.
    Optional,
}

impl Sli {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Optional => "optional",
        }
    }
}

/// What is done instead of sending. Every answer that comes of it is marked `x-graceful-fallback: true`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Fallback {
    Redirect(Redirect),
    Respond(FallbackRespond),
    /// `service` or `service/subset` to send to instead.
    To(String),
    /// The last good answer to the same GET request, up to this age.
    Stale(Duration),
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FallbackRespond {
    #[schemars(range(min = 200, max = 599))]
    pub status: u16,
    #[serde(default)]
    pub body: String,
    /// `content-type` is text where it is not among them.
    #[serde(default)]
    #[schemars(extend("propertyNames" = { "format": "headerName" }))]
    pub headers: IndexMap<String, String>,
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(60),
            min_requests: 20,
            failure_threshold: 0.5,
            consecutive_failures: None,
            open_duration: Duration::from_secs(30),
            half_open_requests: 10,
            failures: None,
            mode: RuleMode::default(),
            fallback: None,
        }
    }
}

impl Default for ClassBreaker {
    fn default() -> Self {
        let whole = CircuitBreaker::default();
        Self {
            window: whole.window,
            min_requests: whole.min_requests,
            failure_threshold: whole.failure_threshold,
            consecutive_failures: whole.consecutive_failures,
            open_duration: whole.open_duration,
            half_open_requests: whole.half_open_requests,
            mode: whole.mode,
        }
    }
}

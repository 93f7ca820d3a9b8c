//! Retries and hedges of a route.

use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Condition;
use crate::config::units::{Duration, Size};

/// When a request that came to nothing is sent again.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Retry {
    /// Tries on top of the first, whatever the condition. 0 is none.
    #[schemars(range(max = 10))]
    pub attempts: u32,
    /// What is tried again; the first that matches counts. Without it: connectFailure, refusedStream, reset,
    /// gatewayError and grpc:unavailable.
    pub on: Vec<RetryOn>,
    /// Longest that one try may take, from its beginning to the head of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_try_timeout: Option<Duration>,
    pub backoff: Backoff,
    pub budget: RetryBudget,
    /// A body up to this size is kept to be sent again; a larger one is streamed, and not retried.
    pub buffer_limit: Size,
    /// Also requests that are not idempotent (POST, PATCH), where the service may have handled them.
    pub non_idempotent: bool,
}

/// A condition, or one with attempts of its own.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum RetryOn {
    Condition(Condition),
    Rule(RetryRule),
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RetryRule {
    pub condition: Condition,
    /// Tries on top of the first where this is what came of it; 0 is never.
    #[schemars(range(max = 10))]
    pub attempts: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff: Option<Backoff>,
}

/// The wait before a retry: at random between nothing and `base`, doubled with each further one up to `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Backoff {
    pub base: Duration,
    pub max: Duration,
}

/// Retries and hedges to a service, over ten seconds.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RetryBudget {
    /// Share of the requests that the routes with retries send to the service.
    #[schemars(range(min = 0, max = 100))]
    pub percent: f64,
    /// On top of that.
    #[schemars(range(min = 0, max = 100000))]
    pub min_per_second: f64,
}

/// A second try in parallel, of which the slower one is given up.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Hedge {
    /// How long the answer may take before that: a duration, or a percentile of what answers of the route take (`p95`).
    #[schemars(extend("format" = "hedgeAfter"))]
    pub after: String,
    /// Tries on top of the first.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 5))]
    pub max: u32,
    /// Also requests that are not idempotent (POST, PATCH; every gRPC call).
    #[serde(default)]
    pub non_idempotent: bool,
}

/// What `after` of a hedge may say.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum HedgeAfter {
    Fixed(std::time::Duration),
    /// Share of the answers that come sooner.
    Percentile(f64),
}

impl FromStr for HedgeAfter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let percentile = text.strip_prefix('p').and_then(|percent| percent.parse().ok());
        let duration = || text.parse::<Duration>().ok().map(|after| Self::Fixed(*after));
        let fits = |percent: &f64| (50.0..100.0).contains(percent);
        percentile.filter(fits).map(|percent| Self::Percentile(percent / 100.0)).or_else(duration).ok_or_else(|| {
            format!("`{text}` is neither a duration (such as `100ms`) nor a percentile from p50 on (such as `p95`)")
        })
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 0,
            on: Vec::new(),
            per_try_timeout: None,
            backoff: Backoff::default(),
            budget: RetryBudget::default(),
            buffer_limit: Size(64 * 1024),
            non_idempotent: false,
        }
    }
}

impl Default for Backoff {
    fn default() -> Self {
        let millis = |millis| Duration(std::time::Duration::from_millis(millis));
        Self { base: millis(25), max: millis(250) }
    }
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { percent: 20.0, min_per_second: 10.0 }
    }
}

fn one() -> u32 {
    1
}

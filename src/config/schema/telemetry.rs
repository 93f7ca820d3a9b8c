//! `telemetry`: what the proxy tells of itself.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::units::Size;

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Telemetry {
    pub tracing: Tracing,
    pub access_log: AccessLog,
    pub metrics: Metrics,
    pub log: Log,
    /// Memory for recent exchanges, which `outrigger why` asks for; 0 keeps none. Needs a restart to change.
    pub recent: Size,
    /// One JSON line for each event of the configuration: to `stdout`, or to the end of a file. None where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub audit: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Tracing {
    /// Trace context that is continued where present, and begun (the first of these) where not.
    pub propagate: Vec<Propagation>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Propagation {
    /// W3C Trace Context.
    Traceparent,
    /// Zipkin's, the single header and the several.
    B3,
    /// W3C Baggage: passed on as it is; removed where not listed.
    Baggage,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AccessLog {
    pub format: AccessFormat,
    pub sample: Sample,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum AccessFormat {
    Json,
    Text,
    Off,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Sample {
    /// Percent of the exchanges that failed: status 5xx, gRPC status other than 0, or cut short.
    #[schemars(range(min = 0, max = 100))]
    pub errors: f64,
    /// Percent of all others.
    #[schemars(range(min = 0, max = 100))]
    pub others: f64,
    /// Lines a second, errors included; 0 is no limit.
    pub max_per_second: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Metrics {
    /// Time series of traffic; beyond them label values become `other`.
    pub max_series: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Log {
    pub level: Level,
    pub format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum LogFormat {
    Json,
    Text,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            tracing: Tracing::default(),
            access_log: AccessLog::default(),
            metrics: Metrics::default(),
            log: Log::default(),
            recent: Size(4 << 20),
            audit: None,
        }
    }
}

impl Default for Tracing {
    fn default() -> Self {
        Self { propagate: vec![Propagation::Traceparent, Propagation::Baggage] }
    }
}

impl Default for AccessLog {
    fn default() -> Self {
        Self { format: AccessFormat::Json, sample: Sample::default() }
    }
}

impl Default for Sample {
    fn default() -> Self {
        Self { errors: 100.0, others: 1.0, max_per_second: 100 }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self { max_series: 5000 }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: Level::Info, format: LogFormat::Json }
    }
}

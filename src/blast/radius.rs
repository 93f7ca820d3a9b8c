//! The answer of a comparison, as the admin endpoint sends it and the command line reads it. Shares are in percent of
//! the requests that are remembered, rates in requests per second of all that came.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Radius {
    /// Requests that would be treated otherwise. Those that only change the name of their route are not.
    pub changed_share: f64,
    pub changed_rate: f64,
    /// Requests of which it cannot be told.
    pub unknown_share: f64,
    /// What changes, the largest share first. A request may be in several groups.
    pub groups: Vec<Group>,
    /// Routes of the new configuration that no remembered request takes, or may take.
    pub unreached: Vec<String>,
    /// Listeners of the old configuration that the new one does not have.
    pub gone: Vec<String>,
    pub coverage: Coverage,
}

/// Requests to which the same happens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Group {
    pub kind: Kind,
    pub from: String,
    pub to: String,
    pub share: f64,
    pub rate: f64,
    /// Different requests, as far as decisions can tell them apart.
    pub fingerprints: usize,
    pub callers: usize,
    /// There are more callers than were counted.
    pub more_callers: bool,
    /// The caller, where there is one only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller: Option<String>,
    /// Routes that the requests take; those of the old configuration where the new one has none for them.
    pub routes: Vec<String>,
    /// The most frequent of the requests: method, host, path.
    pub example: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// The listener is gone, or no longer one for HTTP.
    Gone,
    Unrouted,
    Refused,
    /// By a redirect or an answer of the route's own.
    Answered,
    Routed,
    /// Forwarded to another service or subset.
    Side,
    /// The same service, which is not what it was.
    Service,
    Rewrite,
    Timeout,
    BodyLimit,
    Headers,
    /// Another route, which does the same.
    Route,
    /// Hangs on what was not remembered.
    Unknown,
}

/// What the shares are shares of.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Coverage {
    /// Of the requests seen, those that a remembered one stands for, in percent.
    pub share: f64,
    /// Requests per second.
    pub rate: f64,
    /// Requests that were looked at; what is a minute old counts half.
    pub sampled: f64,
    pub fingerprints: usize,
    /// How far back it reaches.
    pub window_seconds: f64,
    /// One request in so many is looked at, on the busiest worker.
    pub one_in: u32,
    /// What the new configuration looks at and the old one did not.
    pub new_keys: Vec<String>,
}

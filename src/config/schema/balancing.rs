//! How an endpoint of a service is chosen.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::units::Duration;

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LoadBalancer {
    pub policy: LbPolicy,
    /// What a policy that hashes goes by. A request without it is drawn at random.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash_key: Option<HashKey>,
    /// Percent by which an endpoint may have more requests in flight than the mean before its keys go to the next one
    /// (policies that hash); without limit where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub max_load: Option<u32>,
    /// Places of the table of `maglev`: a prime.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 251, max = 5000011))]
    pub table_size: Option<u32>,
    /// Regions that `geoHashedRing` turns to after `workload.region`, in this order; no others. Where absent: all, by
    /// name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regions: Option<Vec<String>>,
    /// What `workload.zone` means: endpoints in it come first, or are the only ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<ZoneMode>,
    /// The share of an endpoint that is new, or available again, grows to its full size over this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<Duration>,
    /// Where more than this share of the endpoints is unavailable, in percent, it is no longer looked at which are;
    /// 100 turns that off.
    #[schemars(range(max = 100))]
    pub panic_threshold: u32,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum LbPolicy {
    RoundRobin,
    Random,
    /// The less loaded of two drawn at random.
    #[default]
    LeastRequest,
    /// Of two drawn at random, the one that answers sooner, by its recent latency and what it has in flight.
    PeakEwma,
    /// The same key stays on its endpoint; few keys move when endpoints come and go.
    RingHash,
    /// The same with a table instead of a ring: more even, and a little more moves.
    Maglev,
    /// The nearest region with an available endpoint, and in it as `ringHash`.
    GeoHashedRing,
}

/// The part of a request that is hashed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum HashKey {
    Header(#[schemars(extend("format" = "headerName"))] String),
    Cookie(#[schemars(length(min = 1))] String),
    Query(#[schemars(length(min = 1))] String),
    Attribute(String),
    Source(HashSource),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum HashSource {
    /// The IP address of the client.
    Address,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ZoneMode {
    /// As much as the zone can take; the rest goes to the others.
    Prefer,
    /// Endpoints of other zones are never chosen.
    Strict,
}

impl LbPolicy {
    pub const fn hashes(self) -> bool {
        matches!(self, Self::RingHash | Self::Maglev | Self::GeoHashedRing)
    }
}

impl Default for LoadBalancer {
    fn default() -> Self {
        Self {
            policy: LbPolicy::default(),
            hash_key: None,
            max_load: None,
            table_size: None,
            regions: None,
            zone: None,
            slow_start: None,
            panic_threshold: 50,
        }
    }
}

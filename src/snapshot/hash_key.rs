//! What of a request a policy hashes, so that the same key finds the same endpoint.

use std::net::IpAddr;

use super::Snapshot;
use super::matcher::{Facts, Key};
use crate::policy::hash::hash;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashKey {
    Part(Key),
    /// The address of the client.
    Source,
}

impl HashKey {
    /// `None` where the request has no such key.
    pub fn of(&self, facts: &Facts<'_>) -> Option<u64> {
        match self {
            Self::Part(key) => key.first(facts).map(|value| hash(value.bytes())),
            Self::Source => self.of_connection(facts.caller.ip()),
        }
    }

    /// Of a connection nothing is known but where it comes from.
    pub fn of_connection(&self, client: Option<IpAddr>) -> Option<u64> {
        match (self, client?.to_canonical()) {
            (Self::Part(_), _) => None,
            (Self::Source, IpAddr::V4(ip)) => Some(hash(ip.octets())),
            (Self::Source, IpAddr::V6(ip)) => Some(hash(ip.octets())),
        }
    }

    /// `header x-user`.
    pub fn describe(&self, snapshot: &Snapshot) -> String {
        match self {
            Self::Part(key) => key.describe(snapshot),
            Self::Source => "address of the client".to_owned(),
        }
    }
}

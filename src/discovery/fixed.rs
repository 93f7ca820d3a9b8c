//! Endpoints that are written in the configuration: known at once, and for as long as it is in force.

use super::Endpoint;
use crate::config::{resolve, schema};

/// The endpoints of a list; `port` is for those without one.
pub fn list(endpoints: &[schema::Endpoint], port: Option<u16>) -> Vec<Endpoint> {
    endpoints.iter().filter_map(|endpoint| resolve(endpoint, port)).map(Endpoint::from).collect()
}

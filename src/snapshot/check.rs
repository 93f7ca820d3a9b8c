//! How the endpoints of a service are checked, compiled.

use std::time::Duration;

use http::HeaderValue;
use http::uri::PathAndQuery;

use crate::policy::streak::Thresholds;

#[derive(Debug, Clone, PartialEq)]
pub struct Check {
    pub ask: Ask,
    /// Instead of that of the endpoint.
    pub port: Option<u16>,
    pub interval: Duration,
    pub timeout: Duration,
    pub thresholds: Thresholds,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Ask {
    Http {
        path: PathAndQuery,
        host: Option<HeaderValue>,
        /// Empty: any from 200 to 399.
        statuses: Box<[u16]>,
    },
    Grpc {
        service: String,
        host: Option<HeaderValue>,
    },
    Tcp,
}

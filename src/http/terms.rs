//! On which terms a request is sent: in which version of HTTP, within which limits of its connection, and until when.

use std::time::Duration;

use http::{HeaderMap, Version};

use super::record::Record;
use super::retry::TIMEOUT;
use crate::config::schema::Protocol;
use crate::snapshot::{Route, Service};
use crate::upstream::pool::{Limits, Pool};
use crate::wire::grpc;
use crate::worker::Worker;

/// What connections of this worker to a service keep to.
pub fn limits(worker: &Worker, service: &Service, preserve_case: bool, grpc: bool) -> Limits {
    let workers = worker.shared.workers.len().max(1);
    Limits {
        max: (service.connections.max as usize).div_ceil(workers).max(1),
        max_pending: service.connections.max_pending as usize,
        max_requests: service.connections.max_requests,
        idle_timeout: *service.connections.idle_timeout,
        connect_timeout: service.connect_timeout,
        preserve_case,
        // gRPC is HTTP/2 (its answers end in trailers).
        http1_will_do: service.protocol == Protocol::Auto && !grpc,
    }
}

/// `auto` is what the client speaks; in TLS, what the upstream would rather speak.
pub fn upstream_version(protocol: Protocol, client: Version, only_http1: bool, pool: &Pool) -> Version {
    match protocol {
        Protocol::Http2 => Version::HTTP_2,
        Protocol::Auto if client == Version::HTTP_2 && pool.speaks_http2() => Version::HTTP_2,
        Protocol::Auto if pool.is_secure() && !only_http1 && pool.speaks_http2() => Version::HTTP_2,
        Protocol::Auto | Protocol::Http1 | Protocol::Tcp => Version::HTTP_11,
    }
}

/// The time that the route gives a request.
pub fn timeout(record: &Record, route: &Route) -> Option<Duration> {
    route.timeout.and_then(|timeout| timeout.enforced()).filter(|_| !record.grpc || route.timeout_is_own)
}

/// The time that is left for it, as whoever sends it says.
pub fn asked(headers: &HeaderMap) -> Option<Duration> {
    let millis = headers.get(TIMEOUT)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_millis(millis))
}

/// After this nobody waits for an answer, as far as the head says.
pub fn patience(record: &Record, route: &Route, headers: &HeaderMap) -> Option<Duration> {
    let call = record.grpc.then(|| grpc::timeout(headers)).flatten();
    timeout(record, route).into_iter().chain(asked(headers)).chain(call).min()
}

//! On which terms a request is sent: in which version of HTTP, and within which limits of its connection.

use http::Version;

use crate::config::schema::Protocol;
use crate::snapshot::Service;
use crate::upstream::pool::{Limits, Pool};
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

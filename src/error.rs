//! Why the proxy answered, cut or refused something itself: one closed list, and the one map from it to what a
//! client sees. A reason is also a metric label, an access-log field and the `error` of `Proxy-Status` (RFC 9209).

use http::StatusCode;

/// Who made an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Producer {
    /// The service itself, as far as we can see.
    Application,
    /// We.
    Proxy,
    /// A proxy between us and the service, by its own word (`Proxy-Status`, RFC 9209).
    Peer,
}

impl Producer {
    pub const ALL: [Self; 3] = [Self::Application, Self::Proxy, Self::Peer];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Application => "application",
            Self::Proxy => "proxy",
            Self::Peer => "peer",
        }
    }
}

/// What the proxy decided on its own. `None` is an exchange that ran to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Reason {
    None,
    /// The route answers by itself (`respond`).
    DirectResponse,
    Redirect,
    /// The route aborts it on purpose (`fault`).
    FaultInjected,
    NoRoute,
    /// By an entry of `authorization`.
    Denied,
    /// The request contradicts itself or HTTP.
    BadRequest,
    HeadTooLarge,
    HeaderTimeout,
    BodyTooLarge,
    /// The route's service has no endpoint that may be chosen.
    NoEndpoint,
    /// The circuit breaker of the route, of the service or of a class of its answers is open.
    CircuitOpen,
    /// The same, and the answer is that of its fallback.
    Fallback,
    /// The bounded queue for a connection is full.
    Overflow,
    /// By `rateLimit` of the route or the service.
    RateLimited,
    /// By `limits` of the service.
    Limit,
    /// By `limits.adaptive` of the service.
    Overloaded,
    /// Memory is short.
    Shed,
    ConnectFailed,
    ConnectTimeout,
    /// The upstream closed or reset before its answer was whole.
    UpstreamReset,
    /// The upstream's bytes are not HTTP, or contradict themselves.
    UpstreamProtocol,
    RequestTimeout,
    /// No try of the request was answered within `perTryTimeout`.
    TryTimeout,
    /// No byte either way for too long.
    IdleTimeout,
    /// The client left before its answer was whole.
    ClientReset,
    /// An upgrade that the upstream answered with another protocol.
    UpgradeMismatch,
    Unsupported,
    /// The handshake of TLS with the upstream failed.
    UpstreamTls,
    /// The upstream has not proven to be who it is expected to be.
    UpstreamIdentity,
    /// Our own certificate, or the trust anchors, could not be loaded yet.
    NoIdentity,
    /// A peer that has to begin with a header of the PROXY protocol did not.
    ProxyHeader,
    /// The handshake of TLS with the client failed.
    Handshake,
    /// The connection has come to the end of what its certificates, or `maxAge`, allow.
    Expired,
    /// Connected to a redirected listener by its own address.
    NotRedirected,
    /// Would lead back to us, or has come through too many proxies.
    Loop,
    /// No service has the destination, and `unknownDestinations` is `deny`.
    UnknownDestination,
    /// Not HTTP, where rules look at requests.
    Undetected,
    /// Stopped by force at the end of the drain time.
    Drained,
    /// A fault of ours, caught.
    Panic,
}

impl Reason {
    pub const ALL: &'static [Self] = &[
        Self::None,
        Self::DirectResponse,
        Self::Redirect,
        Self::FaultInjected,
        Self::NoRoute,
        Self::Denied,
        Self::BadRequest,
        Self::HeadTooLarge,
        Self::HeaderTimeout,
        Self::BodyTooLarge,
        Self::NoEndpoint,
        Self::CircuitOpen,
        Self::Fallback,
        Self::Overflow,
        Self::RateLimited,
        Self::Limit,
        Self::Overloaded,
        Self::Shed,
        Self::ConnectFailed,
        Self::ConnectTimeout,
        Self::UpstreamReset,
        Self::UpstreamProtocol,
        Self::RequestTimeout,
        Self::TryTimeout,
        Self::IdleTimeout,
        Self::ClientReset,
        Self::UpgradeMismatch,
        Self::Unsupported,
        Self::UpstreamTls,
        Self::UpstreamIdentity,
        Self::NoIdentity,
        Self::ProxyHeader,
        Self::Handshake,
        Self::Expired,
        Self::NotRedirected,
        Self::Loop,
        Self::UnknownDestination,
        Self::Undetected,
        Self::Drained,
        Self::Panic,
    ];

    /// The label value; empty where nothing is to be said.
    pub const fn code(self) -> &'static str {
        match self {
            Self::None => "",
            Self::DirectResponse => "direct_response",
            Self::Redirect => "redirect",
            Self::FaultInjected => "fault_injected",
            Self::NoRoute => "no_route",
            Self::Denied => "denied",
            Self::BadRequest => "bad_request",
            Self::HeadTooLarge => "head_too_large",
            Self::HeaderTimeout => "header_timeout",
            Self::BodyTooLarge => "body_too_large",
            Self::NoEndpoint => "no_endpoint",
            Self::CircuitOpen => "circuit_open",
            Self::Fallback => "fallback",
            Self::Overflow => "overflow",
            Self::RateLimited => "rate_limited",
            Self::Limit => "limit",
            Self::Overloaded => "overloaded",
            Self::Shed => "shed",
            Self::ConnectFailed => "connect_failed",
            Self::ConnectTimeout => "connect_timeout",
            Self::UpstreamReset => "upstream_reset",
            Self::UpstreamProtocol => "upstream_protocol",
            Self::RequestTimeout => "request_timeout",
            Self::TryTimeout => "try_timeout",
            Self::IdleTimeout => "idle_timeout",
            Self::ClientReset => "client_reset",
            Self::UpgradeMismatch => "upgrade_mismatch",
            Self::Unsupported => "unsupported",
            Self::UpstreamTls => "upstream_tls",
            Self::UpstreamIdentity => "upstream_identity",
            Self::NoIdentity => "no_identity",
            Self::ProxyHeader => "proxy_header",
            Self::Handshake => "handshake",
            Self::Expired => "expired",
            Self::NotRedirected => "not_redirected",
            Self::Loop => "loop",
            Self::UnknownDestination => "unknown_destination",
            Self::Undetected => "undetected",
            Self::Drained => "drained",
            Self::Panic => "panic",
        }
    }

    /// The status of an answer made for this reason.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::None | Self::DirectResponse | Self::Fallback => StatusCode::OK,
            Self::Redirect => StatusCode::FOUND,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::Loop => StatusCode::LOOP_DETECTED,
            Self::NotRedirected | Self::Undetected => StatusCode::FORBIDDEN,
            Self::Denied => StatusCode::FORBIDDEN,
            Self::BadRequest | Self::ProxyHeader | Self::Handshake => StatusCode::BAD_REQUEST,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::HeaderTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::FaultInjected
            | Self::NoEndpoint
            | Self::CircuitOpen
            | Self::Overflow
            | Self::Limit
            | Self::Overloaded
            | Self::Shed
            | Self::ConnectFailed
            | Self::NoIdentity
            | Self::Expired
            | Self::Drained => StatusCode::SERVICE_UNAVAILABLE,
            Self::UpstreamReset
            | Self::UpstreamProtocol
            | Self::UpgradeMismatch
            | Self::UnknownDestination
            | Self::UpstreamTls
            | Self::UpstreamIdentity => StatusCode::BAD_GATEWAY,
            Self::ConnectTimeout | Self::RequestTimeout | Self::TryTimeout | Self::IdleTimeout => {
                StatusCode::GATEWAY_TIMEOUT
            }
            // Never sent: the client is gone. The log and the metric name it as nginx does.
            Self::ClientReset => match StatusCode::from_u16(499) {
                Ok(status) => status,
                Err(_) => StatusCode::BAD_REQUEST,
            },
            Self::Unsupported => StatusCode::NOT_IMPLEMENTED,
            Self::Panic => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// gRPC status code of the same answer (grpc `doc/http-grpc-status-mapping.md`, where it has one).
    pub const fn grpc(self) -> u8 {
        match self {
            Self::None | Self::DirectResponse | Self::Redirect => 2,
            Self::ClientReset => 1,
            Self::BadRequest | Self::ProxyHeader | Self::Handshake | Self::Panic => 13,
            Self::HeadTooLarge | Self::BodyTooLarge | Self::RateLimited => 8,
            Self::Denied | Self::NotRedirected | Self::Undetected => 7,
            Self::Loop => 9,
            Self::NoRoute | Self::Unsupported => 12,
            Self::HeaderTimeout | Self::RequestTimeout | Self::TryTimeout => 4,
            Self::FaultInjected
            | Self::NoEndpoint
            | Self::CircuitOpen
            | Self::Fallback
            | Self::Overflow
            | Self::Limit
            | Self::Overloaded
            | Self::Shed
            | Self::ConnectFailed
            | Self::ConnectTimeout
            | Self::UpstreamReset
            | Self::UpstreamProtocol
            | Self::IdleTimeout
            | Self::UpgradeMismatch
            | Self::UpstreamTls
            | Self::UpstreamIdentity
            | Self::NoIdentity
            | Self::Expired
            | Self::UnknownDestination
            | Self::Drained => 14,
        }
    }

    /// One sentence for the body, the log and `grpc-message`.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::None => "",
            Self::DirectResponse => "the route answers by itself",
            Self::Redirect => "the route redirects",
            Self::FaultInjected => "a fault that the route does on purpose",
            Self::NoRoute => "no route matches this request",
            Self::Denied => "authorization does not allow this",
            Self::BadRequest => "the request is malformed or contradicts itself",
            Self::HeadTooLarge => "the head of the request is larger than the listener allows",
            Self::HeaderTimeout => "the head of the request did not arrive in time",
            Self::BodyTooLarge => "the body of the request is larger than the route allows",
            Self::CircuitOpen => "too much has failed there of late, so that nothing is sent for a while",
            Self::Fallback => "too much has failed there of late, so that a fallback answers for a while",
            Self::NoEndpoint => "the service has no endpoint to send this request to",
            Self::Overflow => "too many requests wait for a connection to the service",
            Self::RateLimited => "more requests came than the rate limit lets pass",
            Self::Limit => "the service has as many requests or connections as its limits allow",
            Self::Overloaded => "the service has as many requests as it answers in good time",
            Self::Shed => "the proxy is short of memory",
            Self::ConnectFailed => "no connection to the service could be made",
            Self::ConnectTimeout => "the service did not accept a connection in time",
            Self::UpstreamReset => "the service closed the connection before its answer was whole",
            Self::UpstreamProtocol => "the service did not answer in HTTP",
            Self::RequestTimeout => "the service did not answer in time",
            Self::TryTimeout => "no try of the request was answered in the time that one may take",
            Self::IdleTimeout => "nothing moved on this exchange for too long",
            Self::ClientReset => "the client left before its answer was whole",
            Self::UpgradeMismatch => "the service switched to a protocol that was not asked for",
            Self::Unsupported => "this kind of request is not supported",
            Self::UpstreamTls => "no TLS connection to the service could be made",
            Self::UpstreamIdentity => "the service has not proven to be who it is expected to be",
            Self::NoIdentity => "the proxy has no certificate or no trust anchors yet",
            Self::ProxyHeader => "the connection does not begin with a header of the PROXY protocol",
            Self::Handshake => "the TLS handshake failed",
            Self::Expired => "the connection has come to the end of its certificates or its allowed age",
            Self::NotRedirected => "this port of the proxy is for redirected connections only",
            Self::Loop => "this would lead back to the proxy, or has come through too many",
            Self::UnknownDestination => "no service has this destination, and unknown ones are denied",
            Self::Undetected => "this is not HTTP, and rules here look at requests",
            Self::Drained => "the proxy is stopping",
            Self::Panic => "a fault in the proxy, which it has survived",
        }
    }

    /// One sentence for whoever runs the proxy: what to look at, or to do.
    pub const fn hint(self) -> &'static str {
        match self {
            Self::None => "",
            Self::DirectResponse => "the answer is written in `respond` of the route",
            Self::Redirect => "the target is written in `redirect` of the route",
            Self::FaultInjected => "`fault` of the route says so; `outrigger faults stop` ends all of them",
            Self::NoRoute => "`outrigger explain` shows which condition of each route failed",
            Self::Denied => "`outrigger explain --from CALLER` shows which entry of `authorization` decides, and why",
            Self::BadRequest => "the client sends no or several hosts, an illegal path, or lengths that disagree",
            Self::HeadTooLarge => "send fewer headers or cookies, or raise `maxHeaderBytes` or `maxHeaders`",
            Self::HeaderTimeout => "look for a slow or broken client, or raise `headerTimeout`",
            Self::BodyTooLarge => "send less, or raise `maxBody` of the route",
            Self::CircuitOpen => {
                "`/clusters` shows the breakers and when they let something pass; look at what failed before"
            }
            Self::Fallback => {
                "`/clusters` shows the breakers; `fallback` of the one in `Proxy-Status` says what is done"
            }
            Self::NoEndpoint => {
                "`/clusters` shows the endpoints of the service, and so which labels a subset could ask for"
            }
            Self::Overflow => "the service is slower than its traffic: add endpoints, or raise `connections.max`",
            Self::RateLimited => {
                "come again after `retry-after`; `/limits` shows the limits and how much of them is used"
            }
            Self::Limit => {
                "add endpoints, or raise the limit that the message names; `/clusters` shows what is in flight"
            }
            Self::Overloaded => {
                "`/clusters` shows the limit and the usual latency: find what slows the service down, or add endpoints"
            }
            Self::Shed => "give the container more memory, or look for what needs it: large buffers, many connections",
            Self::ConnectFailed => "check that the service listens on the `endpoint` of the access log",
            Self::ConnectTimeout => {
                "check the network and the load of the `endpoint` in the access log, or raise `connectTimeout`"
            }
            Self::UpstreamReset => "look for a crash or a restart of the service, or for timeouts of its own",
            Self::UpstreamProtocol => "compare `protocol` of the service with what its port speaks",
            Self::RequestTimeout => "compare `upstream_duration_ms` of the access log with `timeout` of the route",
            Self::TryTimeout => "`outrigger why` shows each try; raise `retry.perTryTimeout`, or allow more `attempts`",
            Self::IdleTimeout => "find the side that stopped, or raise `streamIdleTimeout`",
            Self::ClientReset => "compare `duration_ms` of the access log with the timeout of the client",
            Self::UpgradeMismatch => "compare `Upgrade` of the request with that of the service's answer",
            Self::Unsupported => "avoid CONNECT, codings other than chunked, and upgrades to an `http2` service",
            Self::UpstreamTls => {
                "`outrigger_worker_upstream_handshake_failures_total` says why; check that the port of the `endpoint` speaks TLS"
            }
            Self::UpstreamIdentity => {
                "compare `tls.identities` or `tls.serverName` of the service with its certificate (`outrigger certs show`)"
            }
            Self::NoIdentity => "`/certs` and the component `identity` of `/healthz` show which file is missing or bad",
            Self::ProxyHeader => {
                "let the load balancer send the PROXY protocol, or take its address out of `proxyProtocol.from`"
            }
            Self::Handshake => {
                "`outrigger_worker_handshake_failures_total` says why; the log tells more at level `debug`"
            }
            Self::Expired => "let clients end their streams when they are asked to, or raise `maxAge` of `identity`",
            Self::NotRedirected => {
                "connect to the application's own port; `outrigger intercept verify` tells whether the rules are in place"
            }
            Self::Loop => "look for an endpoint that is a proxy's own address, or for routes that lead in a circle",
            Self::UnknownDestination => {
                "`/unknown` lists such destinations: give a service their `addresses` or `hosts`, or allow them"
            }
            Self::Undetected => "say `protocol: tcp`, or `undetected: allow`, where that is meant",
            Self::Drained => "raise `drainTimeout`, or let clients end their streams when they are asked to",
            Self::Panic => "please report it, with the lines of the log around it",
        }
    }

    /// Who makes the answer to an exchange that ends so.
    pub const fn producer(self) -> Producer {
        match self {
            Self::None => Producer::Application,
            _ => Producer::Proxy,
        }
    }

    /// `error` of `Proxy-Status` (RFC 9209, section 2.3), where one of its types fits.
    pub const fn proxy_error(self) -> &'static str {
        match self {
            Self::NoRoute => "destination_not_found",
            Self::Denied | Self::NotRedirected | Self::Undetected | Self::RateLimited | Self::Shed => {
                "http_request_denied"
            }
            Self::Loop => "proxy_loop_detected",
            Self::UnknownDestination => "destination_ip_prohibited",
            Self::NoEndpoint | Self::Overloaded | Self::CircuitOpen => "destination_unavailable",
            Self::Overflow | Self::Limit => "connection_limit_reached",
            Self::ConnectFailed => "connection_refused",
            Self::ConnectTimeout => "connection_timeout",
            Self::UpstreamReset => "connection_terminated",
            Self::UpstreamProtocol => "http_protocol_error",
            Self::UpgradeMismatch => "http_upgrade_failed",
            Self::RequestTimeout | Self::TryTimeout => "http_response_timeout",
            Self::IdleTimeout => "connection_read_timeout",
            Self::BadRequest | Self::HeadTooLarge | Self::HeaderTimeout | Self::BodyTooLarge | Self::Unsupported => {
                "http_request_error"
            }
            Self::DirectResponse | Self::Redirect | Self::FaultInjected | Self::Fallback => "proxy_internal_response",
            Self::UpstreamTls => "tls_protocol_error",
            Self::UpstreamIdentity => "tls_certificate_error",
            Self::NoIdentity => "proxy_configuration_error",
            Self::None
            | Self::ClientReset
            | Self::ProxyHeader
            | Self::Handshake
            | Self::Expired
            | Self::Drained
            | Self::Panic => "proxy_internal_error",
        }
    }
}

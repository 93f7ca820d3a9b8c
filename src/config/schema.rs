//! The configuration as users write it: one type for every YAML mapping, no logic.
//!
//! The JSON Schema (`outrigger schema`), the problems that a file is refused for and the values that the
//! proxy runs on all come from these types. `check` holds a file against that schema, so that every problem
//! is reported at once; serde then cannot fail. What needs more than one key to judge is in `validate`.

use std::collections::BTreeMap;

mod balancing;
mod breaker;
mod condition;
mod health;
mod interception;
mod limits;
mod policies;
mod retry;
mod security;
mod sockets;
mod telemetry;
mod traffic;

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::units::{Duration, Pattern, Size};
use crate::wire::address::Address;

pub use balancing::{HashKey, HashSource, LbPolicy, LoadBalancer, ZoneMode};
pub use breaker::{AnswerMatch, CircuitBreaker, ClassBreaker, ErrorClass, Fallback, FallbackRespond, Sli};
pub use condition::Condition;
pub use health::{
    EndpointGuard, GrpcCheck, HealthCheck, HttpCheck, OutlierDetection, SlowerThan, SuccessRate, TcpCheck,
};
pub use interception::{Application, Mode, Port, PortProtocol, PortTls, Transparent, Undetected, UnknownDestinations};
pub use limits::{AdaptiveBounds, AdaptiveLimit, Criticality, LimitKey, Limits, Memory, RateLimit, RateLimits};
pub use policies::{PolicyKind, PolicyRule, ServicePolicies};
pub use retry::{Backoff, Hedge, HedgeAfter, Retry, RetryBudget, RetryOn, RetryRule};
pub use security::{
    Authorization, AuthorizationRule, Caller, CertificateFiles, Identity, IdentityMatch, IdentityMatcher, ListenerTls,
    ListenerTlsMode, Operation, ServiceTls, ServiceTlsMode, TlsVersion,
};
pub use sockets::{ProxyProtocol, ProxyVersion, UNIX};
pub use telemetry::{AccessFormat, AccessLog, Level, Log, LogFormat, Metrics, Propagation, Sample, Telemetry, Tracing};
pub use traffic::{AbortIf, Canary, Compare, CompareBody, Fault, FaultAbort, FaultBandwidth, FaultDelay, Mirror};

/// A whole configuration.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Root {
    /// Version of this language.
    pub api_version: ApiVersion,
    /// Whom this proxy speaks for; on every metric and log line.
    #[serde(default)]
    pub workload: Workload,
    #[serde(default)]
    pub admin: Admin,
    #[serde(default)]
    pub health: Health,
    #[serde(default)]
    pub runtime: Runtime,
    /// Where the last good configurations are kept, for restarts and for going back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// This workload's own certificate; rotated by replacing the files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// Named values of a request: for matching, stickiness and logs.
    #[serde(default)]
    #[schemars(extend("propertyNames" = { "format": "name" }))]
    pub attributes: IndexMap<String, Attribute>,
    /// What every route and service starts from.
    #[serde(default)]
    pub defaults: Defaults,
    /// Upstreams by name.
    #[serde(default)]
    #[schemars(extend("propertyNames" = { "format": "name" }))]
    pub services: IndexMap<String, Service>,
    /// Addresses to accept traffic on.
    #[serde(default)]
    pub listeners: Vec<Listener>,
    /// Where requests go. The most specific match wins, whatever the order in the file.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// Rules for services as the repositories of platforms hold them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<ServicePolicies>,
    /// Who may do what.
    #[serde(default)]
    pub authorization: Vec<Authorization>,
    #[serde(default)]
    pub telemetry: Telemetry,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum ApiVersion {
    #[serde(rename = "outrigger/v1")]
    V1,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Workload {
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub namespace: String,
    #[serde(default)]
    pub version: String,
    /// Where it runs: `loadBalancer.zone` goes by it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub zone: String,
    /// The same for `geoHashedRing`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub region: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Admin {
    /// Loopback address of the admin endpoints. Needs a restart to change.
    #[schemars(with = "String", extend("format" = "socketAddress"))]
    pub address: std::net::SocketAddr,
    /// A request that carries this in `x-outrigger-explain` is explained in its answer, wherever it comes from. One from
    /// loopback needs to carry `1` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 16))]
    pub explain_token: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Health {
    /// Address of the probes and of `/metrics`. Needs a restart to change.
    #[schemars(with = "String", extend("format" = "socketAddress"))]
    pub address: std::net::SocketAddr,
    /// What the application must answer before we are ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub application: Option<ApplicationProbe>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApplicationProbe {
    /// URL of the probe, `http://host:port/path`; any 2xx or 3xx answer is healthy.
    #[schemars(extend("format" = "httpUrl"))]
    pub http: String,
    /// Time between two probes.
    #[serde(default = "default_probe_interval")]
    pub interval: Duration,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Runtime {
    /// Event loops: `auto` is one a CPU that the cgroup grants. Needs a restart to change.
    pub workers: Workers,
    /// How long a stopping proxy waits for what is in flight.
    pub drain_timeout: Duration,
    /// How long routes that a reload has changed are watched after it; 0s turns it off.
    pub probation: Duration,
    pub rollback: Rollback,
    pub memory: Memory,
}

/// What takes a reload back while it is on probation.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Rollback {
    /// Percentage points by which the share of failed, refused or unrouted requests may rise.
    #[schemars(range(min = 0, max = 100))]
    pub errors: f64,
    /// Percent by which the 99th percentile of the duration may rise.
    #[schemars(range(min = 0, max = 10000))]
    pub p99: f64,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct State {
    /// A directory of our own. `--state-directory` and `OUTRIGGER_STATE_DIRECTORY` override it.
    #[schemars(length(min = 1))]
    pub directory: String,
    /// Configurations that are kept.
    #[serde(default = "default_keep")]
    #[schemars(range(min = 1, max = 1000))]
    pub keep: u32,
}

/// What a rule does that could refuse a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum RuleMode {
    #[default]
    Enforce,
    /// Counts what it would have refused, and lets it pass.
    Shadow,
    Off,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Workers {
    Auto(Auto),
    Count(#[schemars(range(min = 1, max = 1024))] u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Auto {
    Auto,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Attribute {
    /// Where the value comes from: the first that is present.
    #[schemars(length(min = 1))]
    pub from: Vec<Source>,
    /// Compare in lower case.
    #[serde(default)]
    pub lowercase: bool,
    /// The values it may have; any other counts as absent.
    #[serde(default)]
    pub values: Vec<String>,
    /// Request header that carries the value to the next hop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "headerName"))]
    pub forward: Option<String>,
}

/// One part of a request.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Source {
    Header(#[schemars(extend("format" = "headerName"))] String),
    Cookie(#[schemars(length(min = 1))] String),
    Query(#[schemars(length(min = 1))] String),
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Defaults {
    /// A whole request. Streams (gRPC, server-sent events, upgrades) are bound by `streamIdleTimeout` instead.
    pub timeout: Duration,
    /// Establishing one upstream connection.
    pub connect_timeout: Duration,
    /// No byte either way within one HTTP exchange.
    pub stream_idle_timeout: Duration,
    /// No byte either way on a TCP connection or an upgraded one (WebSocket).
    pub tcp_idle_timeout: Duration,
    /// The same where one side has finished: below the 60s after which a kernel that translates addresses forgets it.
    pub tcp_half_close_timeout: Duration,
    /// For routes that say nothing of it.
    pub retry: Retry,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Service {
    /// Names by which requests ask for it, where no route says otherwise.
    #[serde(default)]
    #[schemars(extend("items" = { "type": "string", "format": "host" }))]
    pub hosts: Vec<String>,
    /// Virtual addresses of it, such as a ClusterIP, for redirected traffic: `ip`, at the service's `port` (at any where
    /// it has none), or `ip:port`.
    #[serde(default)]
    #[schemars(extend("items" = { "type": "string", "format": "endpointAddress" }))]
    pub addresses: Vec<String>,
    /// What becomes of redirected traffic for it that is not HTTP. `deny` where absent and an HTTP route is for the
    /// service, else `allow`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undetected: Option<Undetected>,
    /// Port of endpoints that are written without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub port: Option<u16>,
    #[serde(default)]
    pub protocol: Protocol,
    pub endpoints: Endpoints,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ServiceTls>,
    /// Version of the PROXY protocol that each connection to a `tcp` service begins with, ahead of its TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyVersion>,
    /// Named parts of the endpoints.
    #[serde(default)]
    #[schemars(extend("propertyNames" = { "format": "name" }))]
    pub subsets: IndexMap<String, Subset>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outlier_detection: Option<OutlierDetection>,
    /// Of `file` and `dns`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub endpoint_guard: EndpointGuard,
    #[serde(default)]
    pub load_balancer: LoadBalancer,
    #[serde(default)]
    pub connections: Connections,
    /// What it has at a time, over all workers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// Requests that it gets in a time, by whatever route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimits>,
    /// Stops sending to the service while it keeps failing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<CircuitBreaker>,
    /// Answers that are counted apart, with breakers of their own. An answer is of the first class that it matches.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub error_classes: Vec<ErrorClass>,
}

/// What an upstream speaks. `auto` is HTTP as the client speaks it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Protocol {
    #[default]
    Auto,
    Http1,
    Http2,
    Tcp,
}

/// One source of endpoints.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Endpoints {
    /// Written here.
    Static(Vec<Endpoint>),
    /// Path of a YAML file with such a list, watched.
    File(String),
    /// Looked up, again and again.
    Dns(Dns),
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Endpoint {
    /// `ip:port`, `ip` where the service has a port, or `unix:/path`.
    Address(#[schemars(extend("format" = "endpoint"))] String),
    Full(FullEndpoint),
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FullEndpoint {
    #[schemars(extend("format" = "endpoint"))]
    pub address: String,
    /// Other addresses of the same endpoint, such as the one of the other family: whichever answers first is used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("items" = { "type": "string", "format": "endpointAddress" }))]
    pub alternatives: Vec<String>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Endpoints of a number above 0 take over as those of lower ones become unavailable.
    #[serde(default, skip_serializing_if = "is_first")]
    #[schemars(range(max = 100))]
    pub priority: u32,
    /// Share of the traffic, relative to the others; 0 takes none.
    #[serde(default = "one")]
    #[schemars(range(max = 1000000))]
    pub weight: u32,
    /// Whom it must prove to be, instead of the service's `tls.identities`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "spiffeId"))]
    pub identity: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Dns {
    #[schemars(extend("format" = "host"))]
    pub name: String,
    #[serde(default, rename = "type", skip_serializing_if = "is_default")]
    pub kind: DnsType,
    /// The service's `port` where absent; not of `srv`, whose records say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub port: Option<u16>,
    /// Name servers, `ip:port`: those of `/etc/resolv.conf` where absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>", length(min = 1), extend("items" = { "type": "string", "format": "socketAddress" }))]
    pub servers: Vec<std::net::SocketAddr>,
    /// An answer is good for this long at least, whatever its records say.
    #[serde(default = "default_min_ttl", skip_serializing_if = "is_min_ttl")]
    pub min_ttl: Duration,
    /// And for this long at most.
    #[serde(default = "default_max_ttl", skip_serializing_if = "is_max_ttl")]
    pub max_ttl: Duration,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum DnsType {
    /// All A and AAAA records of the name.
    #[default]
    Address,
    /// Its SRV records: targets, which are looked up in turn, with port, weight and priority.
    Srv,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Subset {
    /// Labels that an endpoint must have, all of them.
    #[schemars(extend("minProperties" = 1))]
    pub labels: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Connections {
    /// Connections to one endpoint, divided among the workers (each has one at least).
    #[schemars(range(min = 1))]
    pub max: u32,
    /// An unused connection is closed after this.
    pub idle_timeout: Duration,
    /// A connection is closed after this many requests.
    #[schemars(range(min = 1))]
    pub max_requests: u64,
    /// Requests that may wait for a connection to one endpoint, per worker.
    pub max_pending: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Listener {
    #[schemars(extend("format" = "name"))]
    pub name: String,
    pub mode: Mode,
    #[schemars(with = "String", extend("format" = "listenerAddress"))]
    pub address: Address,
    /// Permissions of a Unix socket, in octal; what the umask leaves where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "permissions"))]
    pub socket_mode: Option<String>,
    /// `auto` is tcp where the only routes lead to tcp services, else http.
    #[serde(default)]
    pub protocol: ListenerProtocol,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenerTls>,
    /// How redirected connections are handed over.
    #[serde(default)]
    pub transparent: Transparent,
    /// What is known of the application's ports (`mode: inbound`); of all others, nothing.
    #[serde(default)]
    #[schemars(extend("propertyNames" = { "format": "port" }))]
    pub ports: IndexMap<String, Port>,
    /// What becomes of destinations that no service has (`mode: outbound`).
    #[serde(default)]
    pub unknown_destinations: UnknownDestinations,
    /// From the first byte of a redirected connection to the verdict what it speaks.
    #[serde(default = "default_detection_timeout")]
    pub detection_timeout: Duration,
    /// Load balancers that say of whom a connection is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Connections at a time; more wait in the kernel's queue.
    #[serde(default = "default_max_connections")]
    #[schemars(range(min = 1))]
    pub max_connections: u32,
    /// From the first byte of a request to the end of its head.
    #[serde(default = "default_header_timeout")]
    pub header_timeout: Duration,
    /// Between two requests on one connection.
    #[serde(default = "default_idle_timeout")]
    pub idle_timeout: Duration,
    /// Size of a request's head.
    #[serde(default = "default_max_header_bytes")]
    pub max_header_bytes: Size,
    /// Number of header lines.
    #[serde(default = "default_max_headers")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_headers: u32,
    /// Streams at a time on one HTTP/2 connection.
    #[serde(default = "default_max_streams")]
    #[schemars(range(min = 1))]
    pub max_streams: u32,
    /// Keep the spelling of HTTP/1 header names, both ways.
    #[serde(default)]
    pub preserve_header_case: bool,
    /// Answer a client that has closed its sending side after a whole request; `false` aborts the request.
    #[serde(default)]
    pub half_close: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ListenerProtocol {
    #[default]
    Auto,
    Http,
    Tcp,
}

/// Exactly one of `to`, `split`, `redirect` and `respond` says what happens.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Route {
    /// Unique; the `route` label of metrics.
    #[schemars(extend("format" = "name"))]
    pub name: String,
    /// Listeners that the route is for; all where absent.
    #[serde(default)]
    pub listeners: Vec<String>,
    /// Exact names, or `*.example.com` for any name below; every host where absent. On a tcp route, names that clients
    /// of TLS ask for (SNI).
    #[serde(default)]
    #[schemars(extend("items" = { "type": "string", "format": "hostPattern" }))]
    pub hosts: Vec<String>,
    /// Any of these; within one, all of its conditions. Every request where absent.
    #[serde(default, rename = "match")]
    pub matches: Vec<Match>,
    /// `service` or `service/subset`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub split: Option<Vec<Side>>,
    /// The same key stays on its side of `split`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sticky: Option<Sticky>,
    /// The whole request, instead of `defaults.timeout`; for a stream, up to the head of its answer. 0s is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Timeout>,
    /// Instead of `defaults.retry`, as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hedge: Option<Hedge>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewrite: Option<Rewrite>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect: Option<Redirect>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub respond: Option<Respond>,
    #[serde(default)]
    pub request_headers: HeaderEdits,
    #[serde(default)]
    pub response_headers: HeaderEdits,
    /// Largest request body; 413 beyond it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_body: Option<MaxBody>,
    /// Faults on purpose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    /// Copies of requests to other services.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mirror: Vec<Mirror>,
    /// A side of `split` whose weight moves by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
    /// Requests that it lets pass in a time; 429 beyond it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimits>,
    /// Stops sending by this route while it keeps failing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<CircuitBreaker>,
}

/// `2s`, or with a mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Timeout {
    After(Duration),
    Rule(TimeoutRule),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TimeoutRule {
    pub after: Duration,
    #[serde(default)]
    pub mode: RuleMode,
}

impl Timeout {
    pub fn rule(self) -> TimeoutRule {
        match self {
            Self::After(after) => TimeoutRule { after, mode: RuleMode::Enforce },
            Self::Rule(rule) => rule,
        }
    }
}

/// `10Mi`, or with a mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum MaxBody {
    Size(Size),
    Rule(MaxBodyRule),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MaxBodyRule {
    pub size: Size,
    #[serde(default)]
    pub mode: RuleMode,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Match {
    /// Who calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Caller>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathMatch>,
    /// Any of these.
    #[schemars(extend("items" = { "type": "string", "format": "method" }))]
    pub methods: Vec<String>,
    #[schemars(extend("propertyNames" = { "format": "headerName" }))]
    pub headers: IndexMap<String, Text>,
    pub cookies: IndexMap<String, Text>,
    pub query: IndexMap<String, Text>,
    /// By the names under `attributes`.
    pub attributes: IndexMap<String, Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc: Option<GrpcMatch>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum PathMatch {
    Exact(#[schemars(extend("format" = "path"))] String),
    /// Whole segments: `/a` matches `/a` and `/a/b`, not `/ab`.
    Prefix(#[schemars(extend("format" = "path"))] String),
    /// `/reviews/{id}`: a segment in braces matches any one segment that is not empty.
    Template(#[schemars(extend("format" = "pathTemplate"))] String),
    /// Matches the whole path.
    Regex(Pattern),
}

/// Condition on a text: the text itself, or one of the named kinds.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Text {
    Exact(String),
    Matcher(TextMatcher),
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum TextMatcher {
    Exact(String),
    Prefix(String),
    Suffix(String),
    /// Matches the whole value.
    Regex(Pattern),
    /// There at all, or not there.
    Present(bool),
}

/// A gRPC request (`content-type: application/grpc`) by its path.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcMatch {
    /// Full name, `package.Service`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Side {
    /// `service` or `service/subset`.
    pub to: String,
    /// Share of the traffic, relative to the other sides; exact to a hundredth of a percent.
    #[schemars(range(min = 0))]
    pub weight: f64,
}

/// The key of a sticky split. A request without it is drawn at random.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Sticky {
    Header(#[schemars(extend("format" = "headerName"))] String),
    Cookie(#[schemars(length(min = 1))] String),
    Query(#[schemars(length(min = 1))] String),
    Attribute(String),
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Rewrite {
    /// Takes the place of the matched prefix.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "path"))]
    pub prefix: Option<String>,
    /// Takes the place of the whole path.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "path"))]
    pub path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "authority"))]
    pub host: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Redirect {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<Scheme>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "host"))]
    pub host: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub port: Option<u16>,
    /// Takes the place of the whole path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "path"))]
    pub path: Option<String>,
    /// Takes the place of the matched prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "path"))]
    pub prefix: Option<String>,
    #[serde(default = "default_redirect")]
    #[schemars(range(min = 300, max = 308))]
    pub status: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Scheme {
    Http,
    Https,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Respond {
    #[schemars(range(min = 200, max = 599))]
    pub status: u16,
    #[serde(default)]
    pub body: String,
}

/// Applied in this order: remove, set, add.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HeaderEdits {
    #[schemars(extend("items" = { "type": "string", "format": "headerName" }))]
    pub remove: Vec<String>,
    #[schemars(extend("propertyNames" = { "format": "headerName" }))]
    pub set: IndexMap<String, String>,
    #[schemars(extend("propertyNames" = { "format": "headerName" }))]
    pub add: IndexMap<String, String>,
}

impl MaxBody {
    pub fn rule(self) -> MaxBodyRule {
        match self {
            Self::Size(size) => MaxBodyRule { size, mode: RuleMode::Enforce },
            Self::Rule(rule) => rule,
        }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self { address: ([127, 0, 0, 1], 15000).into(), explain_token: None }
    }
}

impl Default for Health {
    fn default() -> Self {
        Self { address: ([0, 0, 0, 0], 15020).into(), application: None }
    }
}

impl Default for Runtime {
    fn default() -> Self {
        Self {
            workers: Workers::Auto(Auto::Auto),
            drain_timeout: Duration::from_secs(30),
            probation: Duration::from_secs(120),
            rollback: Rollback::default(),
            memory: Memory::default(),
        }
    }
}

impl Default for Rollback {
    fn default() -> Self {
        Self { errors: 5.0, p99: 50.0 }
    }
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(15),
            connect_timeout: Duration::from_secs(1),
            stream_idle_timeout: Duration::from_secs(300),
            tcp_idle_timeout: Duration::from_secs(3600),
            tcp_half_close_timeout: Duration::from_secs(50),
            retry: Retry::default(),
        }
    }
}

impl Default for Connections {
    fn default() -> Self {
        Self { max: 1024, idle_timeout: Duration::from_secs(60), max_requests: 100_000, max_pending: 1024 }
    }
}

fn is_first(priority: &u32) -> bool {
    *priority == 0
}

fn one() -> u32 {
    1
}

fn default_keep() -> u32 {
    10
}

fn default_probe_interval() -> Duration {
    Duration::from_secs(5)
}

fn default_max_connections() -> u32 {
    16384
}

fn default_detection_timeout() -> Duration {
    Duration::from_secs(2)
}

fn default_header_timeout() -> Duration {
    Duration::from_secs(10)
}

fn default_idle_timeout() -> Duration {
    Duration::from_secs(600)
}

fn default_max_header_bytes() -> Size {
    Size(64 * 1024)
}

fn default_max_headers() -> u32 {
    100
}

fn default_max_streams() -> u32 {
    256
}

/// What says nothing new is not written.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn is_min_ttl(ttl: &Duration) -> bool {
    *ttl == default_min_ttl()
}

fn is_max_ttl(ttl: &Duration) -> bool {
    *ttl == default_max_ttl()
}

fn default_min_ttl() -> Duration {
    Duration::from_secs(5)
}

fn default_max_ttl() -> Duration {
    Duration::from_secs(60)
}

fn default_redirect() -> u16 {
    302
}

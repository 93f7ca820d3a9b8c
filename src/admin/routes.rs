//! What each path answers, as a function of the request's head: no socket, no waiting.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, ORIGIN};
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode};
use serde_json::{Value, json};

use super::health::Health;
use super::question::{self, Answering, Change, Form, Question};
use crate::config::schema::Level;
use crate::policy::canary::Order;
use crate::telemetry::metrics::Metrics;
use crate::wire::path::decode_segment;

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const CLASSIC_METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the admin endpoints show and do that is not theirs.
pub trait Provider: Send + Sync {
    /// The active configuration, secrets left out.
    fn config(&self) -> Value;
    /// Generation, digest, time of loading; the last attempt with its problems.
    fn config_status(&self) -> Value;
    /// Certificates and trust anchors: what is in use, and what is wrong with it.
    fn certs(&self) -> Value;
    /// Services with their endpoints, health and pools.
    fn clusters(&self) -> Value;
    /// Rate limits, what services have at a time, and memory.
    fn limits(&self) -> Value;
    /// Begins to stop, as SIGTERM does. Returns at once; asked again, does nothing more.
    fn drain(&self);
    fn level(&self) -> Level;
    fn set_level(&self, level: Level);
    /// What takes a while. `peer` is who asks.
    fn ask(&self, question: Question, peer: SocketAddr) -> Answering;
}

pub struct Admin {
    pub health: Arc<Health>,
    pub metrics: Arc<Metrics>,
    pub provider: Arc<dyn Provider>,
}

/// Which address a request came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surface {
    /// Probes and metrics, for the pod's network.
    Health,
    /// Everything, for loopback.
    Admin,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Endpoint {
    Livez,
    Readyz,
    Startupz,
    Healthz,
    Metrics,
    Index,
    Config,
    ConfigStatus,
    Clusters,
    Limits,
    Certs,
    Explain,
    Why,
    Recent,
    Shadow,
    Peers,
    Learned,
    Unknown,
    History,
    Show,
    Changes,
    Rollback,
    Pin,
    Unpin,
    Diff,
    Faults,
    FaultsStop,
    FaultsStart,
    Mirrors,
    Canaries,
    CanaryStep,
    CanaryPromote,
    CanaryAbort,
    Drain,
    LogLevel,
}

/// What a request comes to, from its head alone.
pub enum Routed {
    Answer(Response<Bytes>),
    Ask(Question),
    /// The question is in the body.
    Read(Form),
}

impl Admin {
    pub fn route(&self, surface: Surface, request: &Parts) -> Routed {
        if surface == Surface::Admin
            && let Err(why) = trusted(request)
        {
            return Routed::Answer(reply(StatusCode::FORBIDDEN, JSON, json!({ "error": why }).to_string()));
        }
        let path = request.uri.path();
        let found = Endpoint::of(surface).find_map(|endpoint| Some((endpoint, endpoint.matches(path)?)));
        let Some((endpoint, rest)) = found else {
            let known = Endpoint::of(surface).map(Endpoint::path).collect::<Vec<_>>();
            let error = json!({ "error": "no such endpoint", "endpoints": known });
            return Routed::Answer(json_reply(StatusCode::NOT_FOUND, &error));
        };
        // HEAD is GET; the server leaves out the body.
        let method = if request.method == Method::HEAD { &Method::GET } else { &request.method };
        if !endpoint.methods().split(", ").any(|allowed| allowed == method.as_str()) {
            let mut refusal = json_reply(StatusCode::METHOD_NOT_ALLOWED, &json!({ "error": "method not allowed" }));
            refusal.headers_mut().insert(ALLOW, HeaderValue::from_static(endpoint.methods()));
            return Routed::Answer(refusal);
        }
        self.run(endpoint, rest, surface, request)
            .unwrap_or_else(|why| Routed::Answer(json_reply(StatusCode::BAD_REQUEST, &json!({ "error": why }))))
    }

    /// An error is what is wrong with the path or the query.
    fn run(&self, endpoint: Endpoint, rest: &str, surface: Surface, request: &Parts) -> Result<Routed, String> {
        let now = Instant::now();
        let ok = |value: &Value| Routed::Answer(json_reply(StatusCode::OK, value));
        let number = |name: &str| {
            let given = question::number(&request.uri, name);
            given.ok_or_else(|| format!("say ?{name}= and the number of a generation"))
        };
        Ok(match endpoint {
            Endpoint::Livez => Routed::Answer(match self.health.live(now) {
                Ok(()) => reply(StatusCode::OK, TEXT, "ok\n"),
                Err(why) => json_reply(StatusCode::SERVICE_UNAVAILABLE, &json!({ "status": "failed", "detail": why })),
            }),
            Endpoint::Readyz => Routed::Answer(probe(self.health.ready(now))),
            Endpoint::Startupz => Routed::Answer(probe(self.health.started(now))),
            Endpoint::Healthz => {
                let (fine, report) = self.health.report(now);
                let status = if fine { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                Routed::Answer(json_reply(status, &report))
            }
            Endpoint::Metrics => Routed::Answer(self.metrics(request)),
            Endpoint::Index => {
                ok(&Value::Object(Endpoint::of(surface).map(|e| (e.path().to_owned(), e.about().into())).collect()))
            }
            Endpoint::Config => ok(&self.provider.config()),
            Endpoint::ConfigStatus => ok(&self.provider.config_status()),
            Endpoint::Clusters => ok(&self.provider.clusters()),
            Endpoint::Limits => ok(&self.provider.limits()),
            Endpoint::Certs => ok(&self.provider.certs()),
            Endpoint::Drain => {
                self.provider.drain();
                Routed::Answer(json_reply(StatusCode::ACCEPTED, &json!({ "status": "draining" })))
            }
            Endpoint::LogLevel => Routed::Answer(self.log_level(request)),
            Endpoint::Explain => Routed::Read(Form::Explain),
            Endpoint::Diff => Routed::Read(Form::Diff),
            Endpoint::Why => Routed::Ask(Question::Why(decode_segment(rest))),
            Endpoint::Recent => Routed::Ask(question::recent(&request.uri)?),
            Endpoint::Shadow => Routed::Ask(Question::Shadow),
            Endpoint::Peers => Routed::Ask(question::peers(&request.uri)?),
            Endpoint::Learned => Routed::Ask(question::learned(&request.uri)?),
            Endpoint::Unknown => Routed::Ask(Question::Unknown),
            Endpoint::History => Routed::Ask(Question::History),
            Endpoint::Show => {
                let generation = rest.parse().map_err(|_| format!("`{rest}` is not a generation"))?;
                Routed::Ask(Question::Show(generation))
            }
            Endpoint::Changes => Routed::Ask(Question::Changes { from: number("from")?, to: number("to")? }),
            Endpoint::Rollback => Routed::Ask(Question::Change(Change::Rollback(number("to")?))),
            Endpoint::Pin => Routed::Ask(Question::Change(Change::Pin(number("generation")?))),
            Endpoint::Unpin => Routed::Ask(Question::Change(Change::Unpin)),
            Endpoint::Faults => Routed::Ask(Question::Faults(None)),
            Endpoint::FaultsStop => Routed::Ask(Question::Faults(Some(true))),
            Endpoint::FaultsStart => Routed::Ask(Question::Faults(Some(false))),
            Endpoint::Mirrors => Routed::Ask(Question::Mirrors),
            Endpoint::Canaries => Routed::Ask(Question::Canaries),
            Endpoint::CanaryStep => Routed::Ask(question::canary(&request.uri, Order::Step)?),
            Endpoint::CanaryPromote => Routed::Ask(question::canary(&request.uri, Order::Promote)?),
            Endpoint::CanaryAbort => Routed::Ask(question::canary(&request.uri, Order::Abort)?),
        })
    }

    /// OpenMetrics for whom it is acceptable (Prometheus says so), the older format for everybody else.
    fn metrics(&self, request: &Parts) -> Response<Bytes> {
        let accepted = request.headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        if accepted.into_iter().any(|value| value.contains("application/openmetrics-text")) {
            reply(StatusCode::OK, OPEN_METRICS, self.metrics.encode())
        } else {
            reply(StatusCode::OK, CLASSIC_METRICS, self.metrics.encode_classic())
        }
    }

    fn log_level(&self, request: &Parts) -> Response<Bytes> {
        if request.method == Method::POST {
            let asked = request.uri.query().and_then(|query| query.split('&').find_map(|p| p.strip_prefix("level=")));
            let Some(level) = asked.and_then(Level::from_name) else {
                let levels = Level::ALL.map(Level::name);
                let error = json!({ "error": "say ?level= and one of these", "levels": levels });
                return json_reply(StatusCode::BAD_REQUEST, &error);
            };
            self.provider.set_level(level);
        }
        json_reply(StatusCode::OK, &json!({ "level": self.provider.level().name() }))
    }
}

impl Endpoint {
    const ALL: [Self; 35] = [
        Self::Livez,
        Self::Readyz,
        Self::Startupz,
        Self::Healthz,
        Self::Metrics,
        Self::Index,
        Self::Config,
        Self::ConfigStatus,
        Self::Clusters,
        Self::Limits,
        Self::Certs,
        Self::Explain,
        Self::Why,
        Self::Recent,
        Self::Shadow,
        Self::Peers,
        Self::Learned,
        Self::Unknown,
        Self::History,
        Self::Show,
        Self::Changes,
        Self::Rollback,
        Self::Pin,
        Self::Unpin,
        Self::Diff,
        Self::Faults,
        Self::FaultsStop,
        Self::FaultsStart,
        Self::Mirrors,
        Self::Canaries,
        Self::CanaryStep,
        Self::CanaryPromote,
        Self::CanaryAbort,
        Self::Drain,
        Self::LogLevel,
    ];

    /// The rest of the path, where the endpoint takes one.
    fn matches(self, path: &str) -> Option<&str> {
        match self.path().split_once('{') {
            Some((before, _)) => path.strip_prefix(before).filter(|rest| !rest.is_empty()),
            None => (self.path() == path).then_some(""),
        }
    }

    fn of(surface: Surface) -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(move |endpoint| surface == Surface::Admin || endpoint.is_public())
    }

    const fn is_public(self) -> bool {
        matches!(self, Self::Livez | Self::Readyz | Self::Startupz | Self::Healthz | Self::Metrics)
    }

    const fn path(self) -> &'static str {
        match self {
            Self::Livez => "/livez",
            Self::Readyz => "/readyz",
            Self::Startupz => "/startupz",
            Self::Healthz => "/healthz",
            Self::Metrics => "/metrics",
            Self::Index => "/",
            Self::Config => "/config",
            Self::ConfigStatus => "/config/status",
            Self::Clusters => "/clusters",
            Self::Limits => "/limits",
            Self::Certs => "/certs",
            Self::Explain => "/explain",
            Self::Why => "/why/{id}",
            Self::Recent => "/why",
            Self::Shadow => "/shadow",
            Self::Peers => "/peers",
            Self::Learned => "/learned",
            Self::Unknown => "/unknown",
            Self::History => "/config/history",
            Self::Show => "/config/history/{generation}",
            Self::Changes => "/config/diff",
            Self::Rollback => "/config/rollback",
            Self::Pin => "/config/pin",
            Self::Unpin => "/config/unpin",
            Self::Diff => "/diff",
            Self::Faults => "/faults",
            Self::FaultsStop => "/faults/stop",
            Self::FaultsStart => "/faults/start",
            Self::Mirrors => "/mirrors",
            Self::Canaries => "/canaries",
            Self::CanaryStep => "/canaries/step",
            Self::CanaryPromote => "/canaries/promote",
            Self::CanaryAbort => "/canaries/abort",
            Self::Drain => "/drain",
            Self::LogLevel => "/loglevel",
        }
    }

    /// As the `Allow` header says it.
    const fn methods(self) -> &'static str {
        match self {
            Self::Explain
            | Self::Rollback
            | Self::Pin
            | Self::Unpin
            | Self::Diff
            | Self::FaultsStop
            | Self::FaultsStart
            | Self::CanaryStep
            | Self::CanaryPromote
            | Self::CanaryAbort
            | Self::Drain => "POST",
            Self::LogLevel => "GET, HEAD, POST",
            Self::Livez
            | Self::Readyz
            | Self::Startupz
            | Self::Healthz
            | Self::Metrics
            | Self::Index
            | Self::Config
            | Self::ConfigStatus
            | Self::Clusters
            | Self::Limits
            | Self::Certs
            | Self::Why
            | Self::Recent
            | Self::Shadow
            | Self::Peers
            | Self::Learned
            | Self::Unknown
            | Self::History
            | Self::Show
            | Self::Changes
            | Self::Faults
            | Self::Mirrors
            | Self::Canaries => "GET, HEAD",
        }
    }

    const fn about(self) -> &'static str {
        match self {
            Self::Livez => "the event loops answer",
            Self::Readyz => "traffic may come",
            Self::Startupz => "was ready once",
            Self::Healthz => "every component: status, since, detail",
            Self::Metrics => "OpenMetrics, or the Prometheus text format",
            Self::Index => "this list",
            Self::Config => "the active configuration, redacted",
            Self::ConfigStatus => "generation and digest of the active configuration, and the last attempt",
            Self::Clusters => "services: endpoints, health, pools",
            Self::Limits => "rate limits, what services have at a time, and memory",
            Self::Certs => "certificates and trust anchors: what is in use, and what is wrong with it",
            Self::Explain => "POST a request: why it would go where it goes",
            Self::Why => "what happened to the request with this id",
            Self::Recent => "recent exchanges: ?filter=failed, slow, notable or all, ?limit=",
            Self::Shadow => "what rules in shadow mode would have refused",
            Self::Peers => "who has connected: ?how=mtls, tls, plaintext or passthrough",
            Self::Learned => "what destinations speak, as it was observed; ?format=yaml as a piece of configuration",
            Self::Unknown => "destinations that the configuration does not know",
            Self::History => "configurations that went live",
            Self::Show => "one of them",
            Self::Changes => "?from=&to=: what changed between two of them",
            Self::Rollback => "POST ?to=: make a former configuration live again",
            Self::Pin => "POST ?generation=: the same, and take no change of the file",
            Self::Unpin => "POST: take the file again",
            Self::Diff => "POST a configuration: what it would change, over recent traffic",
            Self::Faults => "faults on purpose: what is written, and what was done",
            Self::FaultsStop => "POST: stop all faults on purpose",
            Self::FaultsStart => "POST: let faults on purpose go on",
            Self::Mirrors => "copies of requests: what became of them",
            Self::Canaries => "canaries: where they stand, and by what numbers",
            Self::CanaryStep => "POST ?route=: take the next step of its canary now",
            Self::CanaryPromote => "POST ?route=: all traffic to the side of its canary",
            Self::CanaryAbort => "POST ?route=: no traffic to the side of its canary",
            Self::Drain => "POST: stop as on SIGTERM",
            Self::LogLevel => "level of the log; POST ?level=debug sets it until the next reload",
        }
    }
}

/// A page in somebody's browser can send requests to loopback. By DNS rebinding it can read the answers too, but then
/// under a name of its own; and a browser marks what it posts across origins.
fn trusted(request: &Parts) -> Result<(), &'static str> {
    let header = request.headers.get(HOST).map(|value| value.to_str().unwrap_or_default());
    let host = request.uri.host().or(header.map(without_port));
    if !host.is_none_or(is_local) {
        return Err("the host of the request is neither localhost nor an IP address");
    }
    if request.method != Method::GET && request.headers.contains_key(ORIGIN) {
        return Err("a request from a web page");
    }
    Ok(())
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !name.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

fn is_local(host: &str) -> bool {
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || address.parse::<std::net::IpAddr>().is_ok()
}

fn probe(outcome: Result<(), String>) -> Response<Bytes> {
    match outcome {
        Ok(()) => reply(StatusCode::OK, TEXT, "ok\n"),
        Err(why) => reply(StatusCode::SERVICE_UNAVAILABLE, TEXT, why + "\n"),
    }
}

/// An answer to a question.
pub fn told(status: StatusCode, value: Value) -> Response<Bytes> {
    match value {
        Value::String(text) => reply(status, TEXT, text),
        value => json_reply(status, &value),
    }
}

pub fn json_reply(status: StatusCode, value: &Value) -> Response<Bytes> {
    reply(status, JSON, format!("{value:#}\n"))
}

fn reply(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Bytes> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests;

//! The configuration, compiled: immutable, replaced as a whole. A request uses the snapshot that it began with.
//!
//! What was learned (connections, counters, endpoints found) is not here: `Upstream` is the one thing that a
//! snapshot shares with its successor, handed over by name while its source of endpoints stays the same.

pub mod authz;
pub mod check;
pub mod circuit;
mod compile;
pub mod hash_key;
pub mod hosts;
pub mod limits;
pub mod matcher;
pub mod redirected;
pub mod route;
pub mod traffic;
pub mod upstream;

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};

use crate::blast::Looked;
use crate::config::{Config, schema};
use crate::net::relay::Pauses;
use crate::policy::balance::Settings;
use crate::policy::budget::{Budget, Share};
use crate::policy::guard::Bound;
use crate::policy::outlier::Rules;
use crate::policy::percentile::Percentile;
use crate::policy::retry;
use crate::telemetry::metrics::{Direction, Labels};
use crate::upstream::ceiling::Ceiling;
use crate::wire::address::Address;
use crate::wire::cidr::Cidr;
use crate::wire::proxy_protocol;
use crate::wire::spiffe::{IdPattern, SpiffeId};
use crate::wire::trace::Formats;

pub use compile::{compile, implied_rules, rules, tcp_routes};
pub use upstream::Upstream;

/// Where a request says how much it matters, unless the configuration names something else.
pub const CRITICALITY: HeaderName = HeaderName::from_static("x-outrigger-criticality");

#[derive(Debug)]
pub struct Snapshot {
    pub generation: u64,
    pub config: Arc<Config>,
    pub attributes: Vec<matcher::Attribute>,
    pub services: Vec<Service>,
    pub routes: Vec<Route>,
    /// In file order.
    pub listeners: Vec<Listener>,
    /// In file order.
    pub authorization: Vec<authz::Entry>,
    pub trace: Formats,
    /// Labels by series number; see `Listener::series`.
    pub sides: Vec<SideLabels>,
    /// By their addresses.
    pub endpoints: redirected::Endpoints,
    /// What of a request this configuration looks at.
    pub looked: Arc<Looked>,
}

#[derive(Debug)]
pub struct Service {
    pub name: Arc<str>,
    pub protocol: schema::Protocol,
    pub balance: Settings,
    pub hash_key: Option<hash_key::HashKey>,
    pub connections: schema::Connections,
    pub subsets: Vec<Subset>,
    pub connect_timeout: Duration,
    /// Of the retries to it; it outlives the snapshot.
    pub budget: Arc<Budget>,
    /// None where nothing is limited.
    pub limits: Option<Box<limits::ServiceLimits>>,
    pub rate_limits: Box<[limits::RateLimit]>,
    /// Of its connections.
    pub ceiling: Ceiling,
    /// What says how much a request matters.
    pub criticality: matcher::Key,
    pub transport: Transport,
    /// It has no endpoints of its own: whatever comes for it goes where it was going.
    pub original: bool,
    /// An endpoint with our own address is the application beside us: what leads there ends there, without a sidecar
    /// that would end TLS.
    pub beside: bool,
    /// What its connections begin with (`protocol: tcp` only).
    pub proxy_protocol: Option<proxy_protocol::Version>,
    /// Its circuit breakers, and the classes of its answers.
    pub circuits: Option<Box<circuit::Circuits>>,
    pub check: Option<Arc<check::Check>>,
    pub outlier: Option<Arc<Rules>>,
    pub upstream: Arc<Upstream>,
}

/// How the endpoints of a service are connected to, and what they have to prove. Connections of different ones are
/// never mixed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    Plain,
    /// Any of these identities; the name is only asked for (SNI).
    Mutual {
        expected: Arc<[IdPattern]>,
        server_name: Option<Arc<str>>,
    },
    /// The name, or without one the endpoint's IP address, under the trust anchors of the service.
    Simple {
        service: Arc<str>,
        server_name: Option<Arc<str>>,
    },
}

#[derive(Debug)]
pub struct Subset {
    pub name: Arc<str>,
    pub labels: std::collections::BTreeMap<String, String>,
}

#[derive(Debug)]
pub struct Route {
    /// Its own number.
    pub index: usize,
    pub name: Arc<str>,
    pub action: Action,
    /// Number of its first side over all routes: one for each target, then one for each of `fallbacks`.
    pub first_side: usize,
    /// Where fallbacks may lead instead.
    pub fallbacks: Box<[Target]>,
    /// `None` is no limit.
    pub timeout: Option<Bound<Duration>>,
    /// The route says so itself: it then binds streams too, up to the head of the answer.
    pub timeout_is_own: bool,
    /// `None` is none.
    pub retry: Option<Box<retry::Policy>>,
    pub hedge: Option<Hedge>,
    pub stream_idle: Duration,
    pub tcp_pauses: Pauses,
    pub max_body: Option<Bound<u64>>,
    pub rate_limits: Box<[limits::RateLimit]>,
    pub circuit: Option<Box<circuit::Circuit>>,
    pub request_headers: HeaderEdits,
    pub response_headers: HeaderEdits,
    pub fault: Option<Box<traffic::Fault>>,
    pub mirrors: Vec<traffic::Mirror>,
}

/// When a second try is begun at the side of the first.
#[derive(Debug)]
pub struct Hedge {
    pub after: HedgeAfter,
    pub max: u32,
    pub non_idempotent: bool,
    /// What retries and hedges may be together.
    pub budget: Share,
}

#[derive(Debug)]
pub enum HedgeAfter {
    Fixed(Duration),
    /// A share of the answers, and what was learned of how long they take.
    Percentile(f64, Arc<Percentile>),
}

#[derive(Debug)]
pub enum Action {
    Forward(Forward),
    Redirect(Redirect),
    Respond(StatusCode, bytes::Bytes),
}

#[derive(Debug)]
pub struct Forward {
    pub targets: Vec<Target>,
    /// Ends of the targets on the line of buckets, by their written weights; see `edges`.
    pub written_edges: Vec<u32>,
    /// Moves the edges.
    pub canary: Option<Arc<traffic::Steered>>,
    pub sticky: Option<matcher::Key>,
    pub rewrite: Option<Rewrite>,
    pub rewrite_host: Option<HeaderValue>,
}

/// Where a side leads: indices of a service and one of its subsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    pub service: usize,
    pub subset: Option<usize>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Rewrite {
    Path(String),
    /// Takes the place of the matched prefix.
    Prefix(String),
}

#[derive(Debug, PartialEq, Eq)]
pub struct Redirect {
    pub scheme: Option<&'static str>,
    pub host: Option<String>,
    pub port: Option<u16>,
    pub path: Option<Rewrite>,
    pub status: StatusCode,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    pub remove: Vec<HeaderName>,
    pub set: Vec<(HeaderName, HeaderValue)>,
    pub add: Vec<(HeaderName, HeaderValue)>,
}

#[derive(Debug)]
pub struct Listener {
    /// Shared with the connections that were accepted under it, which may outlive the snapshot.
    pub config: Arc<schema::Listener>,
    pub name: Arc<str>,
    pub kind: Kind,
    /// Peers that begin with a header of the PROXY protocol.
    pub headed: Box<[Cidr]>,
    /// The entries of `authorization` that are for it.
    pub authorization: authz::Numbers,
    /// Number of its first series: one for requests without a route, then one for each side.
    pub first_series: usize,
}

#[derive(Debug)]
pub enum Kind {
    /// Written routes, then those that the `hosts` of services imply.
    Http {
        table: Box<route::RouteTable>,
        fallback: Box<route::RouteTable>,
    },
    /// Routes, by the name that a client of TLS asks for.
    Tcp(hosts::Hosts<Option<usize>>),
    Inbound(Box<redirected::Ports>),
    Outbound(Box<redirected::Outbound>),
}

/// What the series of a side are labelled with, besides the listener.
#[derive(Debug, Clone)]
pub struct SideLabels {
    pub route: Arc<str>,
    pub service: Arc<str>,
    pub subset: Arc<str>,
}

impl Hedge {
    /// How long the first may take alone; none as long as that is not known.
    pub fn after(&self) -> Option<Duration> {
        match &self.after {
            HedgeAfter::Fixed(after) => Some(*after),
            HedgeAfter::Percentile(_, percentile) => percentile.get(),
        }
    }

    /// How long an answer took.
    pub fn see(&self, took: Duration) {
        if let HedgeAfter::Percentile(share, percentile) = &self.after {
            percentile.see(took, *share);
        }
    }
}

impl Route {
    /// Number of the side that a target is.
    pub fn side(&self, target: Target) -> Option<usize> {
        let Action::Forward(forward) = &self.action else { return None };
        let place = forward.targets.iter().chain(&self.fallbacks).position(|known| *known == target)?;
        Some(self.first_side + place)
    }
}

impl Listener {
    /// What a client that connects to this port has to do about TLS.
    pub fn tls_mode(&self, port: u16) -> schema::ListenerTlsMode {
        match &self.kind {
            Kind::Inbound(ports) => ports.of(port).tls,
            _ => self.config.tls.as_ref().map_or(schema::ListenerTlsMode::Off, |tls| tls.mode),
        }
    }
}

impl Snapshot {
    /// The listener of a socket: by its name, or else, where it was renamed, by its address.
    pub fn listener(&self, name: &str, address: &Address) -> Option<usize> {
        let named = self.listeners.iter().position(|listener| *listener.name == *name);
        named.or_else(|| self.listeners.iter().position(|listener| listener.config.address == *address))
    }

    /// How many series a worker may come to hold.
    pub fn series_count(&self) -> usize {
        self.listeners.len() * (1 + self.sides.len())
    }

    /// Number of the series of a listener and a side, or of its requests without a route.
    pub fn series(&self, listener: usize, side: Option<usize>) -> usize {
        let first = self.listeners.get(listener).map_or(0, |listener| listener.first_series);
        first + side.map_or(0, |side| 1 + side)
    }

    pub fn side(&self, side: Option<usize>) -> Option<&SideLabels> {
        self.sides.get(side?)
    }

    pub fn labels(&self, series: usize) -> Labels {
        let width = 1 + self.sides.len();
        let listener = self.listeners.get(series / width);
        let direction = match listener.map(|listener| listener.config.mode) {
            Some(schema::Mode::Inbound) => Direction::Inbound,
            Some(schema::Mode::Outbound) => Direction::Outbound,
            Some(schema::Mode::Proxy) | None => Direction::Proxy,
        };
        let side = (series % width).checked_sub(1).and_then(|side| self.sides.get(side)).cloned();
        let empty: Arc<str> = "".into();
        let side = side.unwrap_or(SideLabels { route: empty.clone(), service: empty.clone(), subset: empty.clone() });
        Labels {
            direction,
            listener: listener.map_or(empty, |listener| listener.name.clone()),
            route: side.route,
            service: side.service,
            subset: side.subset,
        }
    }
}

impl Transport {
    /// For an endpoint, which may have an identity of its own.
    pub fn of(&self, own: Option<&SpiffeId>) -> Self {
        match (self, own) {
            (Self::Mutual { server_name, .. }, Some(own)) => {
                Self::Mutual { expected: [IdPattern::Exact(own.clone())].into(), server_name: server_name.clone() }
            }
            (all, _) => all.clone(),
        }
    }
}

impl HeaderEdits {
    /// Remove, set, add, in this order.
    pub fn apply(&self, headers: &mut http::HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
    }
}

//! Which routes treat a request of theirs differently: by their own keys, or by what they lead to and stand on.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value as Json;

use super::normal;
use crate::config::schema::{
    Endpoints, HashKey, LbPolicy, LimitKey, Listener, Protocol, RateLimits, Root, Route, Service, Sticky,
};
use crate::config::validate::has_labels;
use crate::config::{Config, ResolvedEndpoint, resolve};

/// Names of the routes of `new`, with those that the `hosts` of services imply, that are new or are not what they
/// were: their keys, the defaults in force for them, the services, subsets and endpoints they lead to, the attributes
/// they use, the limits of listeners that they were and are on. A route that only wins or loses requests because of
/// another one is not among them.
pub fn changed_routes(old: &Config, new: &Config) -> BTreeSet<String> {
    let (before, after) = (routes(old), routes(new));
    let mut compare = Compare { old, new, targets: HashMap::new(), forwards: forwarded(old) != forwarded(new) };
    let mut changed = BTreeSet::new();
    for (name, is) in after {
        if before.get(name).is_none_or(|was| compare.differ(was, &is)) {
            changed.insert(name.to_owned());
        }
    }
    changed
}

/// Names of the routes of `old`, implied ones too, that `new` does not have.
pub fn removed_routes(old: &Config, new: &Config) -> BTreeSet<String> {
    let after = routes(new);
    routes(old).into_keys().filter(|name| !after.contains_key(name)).map(str::to_owned).collect()
}

/// Where a target leads, in one form.
#[derive(PartialEq)]
struct Lead {
    bare: Service,
    endpoints: Vec<ResolvedEndpoint>,
    labels: Option<BTreeMap<String, String>>,
}

/// What goes by one name: a written route, a service with hosts, or both.
#[derive(Default)]
struct Known<'a> {
    written: Option<&'a Route>,
    implied: Option<(&'a str, &'a Service)>,
}

fn routes(config: &Config) -> HashMap<&str, Known<'_>> {
    let mut routes: HashMap<&str, Known<'_>> = HashMap::new();
    for route in &config.root().routes {
        routes.entry(&route.name).or_default().written = Some(route);
    }
    for (name, service) in &config.root().services {
        if !service.hosts.is_empty() && service.protocol != Protocol::Tcp {
            routes.entry(name).or_default().implied = Some((name, service));
        }
    }
    routes
}

/// The attributes that every forwarded request carries on.
fn forwarded(config: &Config) -> Vec<Json> {
    let forwarded = config.root().attributes.iter().filter(|(_, attribute)| attribute.forward.is_some());
    let mut forwarded: Vec<(&String, Json)> =
        forwarded.map(|(name, attribute)| (name, normal::attribute(attribute))).collect();
    forwarded.sort_by_key(|(name, _)| *name);
    forwarded.into_iter().map(|(_, attribute)| attribute).collect()
}

struct Compare<'a> {
    old: &'a Config,
    new: &'a Config,
    /// Whether what a `service` or `service/subset` leads to has changed.
    targets: HashMap<String, bool>,
    /// Whether forwarded attributes have.
    forwards: bool,
}

impl Compare<'_> {
    fn differ(&mut self, was: &Known<'_>, is: &Known<'_>) -> bool {
        let written = match (was.written, is.written) {
            (Some(was), Some(is)) => self.written_differ(was, is),
            (was, is) => was.is_some() != is.is_some(),
        };
        let implied = match (was.implied, is.implied) {
            (Some(was), Some(is)) => self.implied_differ(&was, &is),
            (was, is) => was.is_some() != is.is_some(),
        };
        written || implied
    }

    fn written_differ(&mut self, was: &Route, is: &Route) -> bool {
        let forwards = targets(is).next().is_some();
        let tcp = targets(is).any(|to| is_tcp(self.new, to));
        was != is && normal::route(was) != normal::route(is)
            || targets(is).any(|to| self.target_differs(to))
            || forwards && self.defaults_differ(tcp, is.timeout.is_some())
            || forwards && !tcp && self.forwards
            || attributes(is).any(|name| self.attribute_differs(name))
            || self.listeners_differ(&was.listeners, &is.listeners, tcp)
    }

    fn implied_differ(&mut self, was: &(&str, &Service), is: &(&str, &Service)) -> bool {
        let hosts = |service: &Service| -> BTreeSet<String> {
            service.hosts.iter().map(|host| host.to_ascii_lowercase()).collect()
        };
        hosts(was.1) != hosts(is.1)
            || self.target_differs(is.0)
            || self.defaults_differ(false, false)
            || self.forwards
            || self.listeners_differ(&[], &[], false)
    }

    fn attribute_differs(&self, name: &str) -> bool {
        let of = |config: &Config| config.root().attributes.get(name).map(normal::attribute);
        of(self.old) != of(self.new)
    }

    fn defaults_differ(&self, tcp: bool, timeout_is_own: bool) -> bool {
        let (was, is) = (&self.old.root().defaults, &self.new.root().defaults);
        was.connect_timeout != is.connect_timeout
            || was.tcp_idle_timeout != is.tcp_idle_timeout
            || was.tcp_half_close_timeout != is.tcp_half_close_timeout
            || !tcp && was.stream_idle_timeout != is.stream_idle_timeout
            || !tcp && !timeout_is_own && was.timeout != is.timeout
    }

    /// Remembered: many routes may lead to one large service.
    fn target_differs(&mut self, to: &str) -> bool {
        if let Some(known) = self.targets.get(to) {
            return *known;
        }
        let differs = lead(self.old, to) != lead(self.new, to) || self.balancing_differs(to);
        self.targets.insert(to.to_owned(), differs);
        differs
    }

    /// What balancing looks at that is not written at the service.
    fn balancing_differs(&self, to: &str) -> bool {
        let Some((Service { load_balancer, .. }, _)) = service(self.new.root(), to) else { return false };
        let (was, is) = (&self.old.root().workload, &self.new.root().workload);
        let key = match &load_balancer.hash_key {
            Some(HashKey::Attribute(name)) => self.attribute_differs(name),
            _ => false,
        };
        key || load_balancer.zone.is_some() && was.zone != is.zone
            || load_balancer.policy == LbPolicy::GeoHashedRing && was.region != is.region
    }

    /// Listeners that are new or gone change nothing for the requests on the others.
    fn listeners_differ(&self, was: &[String], is: &[String], tcp: bool) -> bool {
        let on = |names: &[String], listener: &Listener| names.is_empty() || names.contains(&listener.name);
        self.new.root().listeners.iter().filter(|l| on(is, l) && self.new.is_tcp_listener(&l.name) == tcp).any(|new| {
            let old = self.old.root().listeners.iter().find(|old| old.name == new.name && on(was, old));
            // Where a listener listens is no property of what it does.
            old.is_some_and(|old| Listener { address: new.address.clone(), ..old.clone() } != *new)
        })
    }
}

fn targets(route: &Route) -> impl Iterator<Item = &str> {
    route.to.iter().chain(route.split.iter().flatten().map(|side| &side.to)).map(String::as_str)
}

fn attributes(route: &Route) -> impl Iterator<Item = &str> {
    let sticky = match &route.sticky {
        Some(Sticky::Attribute(name)) => Some(name.as_str()),
        _ => None,
    };
    let limited = route.rate_limit.iter().flat_map(RateLimits::all).filter_map(|limit| match &limit.per {
        Some(LimitKey::Attribute(name)) => Some(name.as_str()),
        _ => None,
    });
    route.matches.iter().flat_map(|one| one.attributes.keys().map(String::as_str)).chain(sticky).chain(limited)
}

fn service<'a>(root: &'a Root, to: &'a str) -> Option<(&'a Service, Option<&'a str>)> {
    let (name, subset) = to.split_once('/').map_or((to, None), |(name, subset)| (name, Some(subset)));
    Some((root.services.get(name)?, subset))
}

fn is_tcp(config: &Config, to: &str) -> bool {
    service(config.root(), to).is_some_and(|(service, _)| service.protocol == Protocol::Tcp)
}

/// What a `service` or `service/subset` leads to: of the endpoints written here, those of the subset.
fn lead(config: &Config, to: &str) -> Option<Lead> {
    let (service, subset) = service(config.root(), to)?;
    let labels = match subset {
        Some(name) => Some(&service.subsets.get(name)?.labels),
        None => None,
    };
    let mut bare = Service { hosts: Vec::new(), subsets: Default::default(), ..service.clone() };
    let mut endpoints = Vec::new();
    if let Endpoints::Static(list) = &service.endpoints {
        let resolved = list.iter().filter_map(|endpoint| resolve(endpoint, service.port));
        endpoints = resolved.filter(|e| labels.is_none_or(|labels| has_labels(&e.labels, labels))).collect();
        endpoints.sort_by(|one: &ResolvedEndpoint, other| one.address.cmp(&other.address));
        (bare.port, bare.endpoints) = (None, Endpoints::Static(Vec::new()));
    }
    // Of endpoints that are found elsewhere, the labels say which.
    let labels = labels.filter(|_| endpoints.is_empty()).cloned();
    Some(Lead { bare, endpoints, labels })
}

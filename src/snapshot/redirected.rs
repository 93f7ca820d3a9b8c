//! Where redirected connections go: by their original destination first.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwapOption;

use super::hosts::Hosts;
use super::matcher::Facts;
use super::route::{Found, PathRule, RouteTable, Rule};
use super::{Action, Route, Service, Snapshot};
use crate::config::schema::{ListenerTlsMode, PortProtocol};
use crate::discovery;

/// The ports of the application, as an inbound listener has them.
#[derive(Debug)]
pub struct Ports {
    pub known: HashMap<u16, Port>,
    pub others: Port,
}

#[derive(Debug)]
pub struct Port {
    /// Leads to the application, whatever is asked for.
    pub rule: Rule,
    pub protocol: PortProtocol,
    pub tls: ListenerTlsMode,
    /// The application is bound to loopback.
    pub loopback: bool,
    /// What is not HTTP is let through.
    pub undetected: bool,
}

/// What an outbound listener leads to.
#[derive(Debug, Clone)]
pub struct Outbound {
    /// Written routes, then those that the `hosts` of services imply.
    pub table: RouteTable,
    pub fallback: RouteTable,
    /// Routes to tcp services, by the name that a client of TLS asks for.
    pub names: Hosts<Option<usize>>,
    /// By the index of the service.
    pub services: Box<[Known]>,
    /// Virtual addresses of services; port 0 is any.
    pub addresses: HashMap<(IpAddr, u16), usize>,
    /// To the original destination.
    pub passthrough: Rule,
    /// Unknown destinations are denied.
    pub deny: bool,
}

/// A service that an address leads to.
#[derive(Debug, Clone)]
pub struct Known {
    /// For what no written route is for.
    pub rule: Rule,
    /// The route that splits what is relayed.
    pub relayed: Option<usize>,
    /// Host of requests that name none of its own; empty where it has none.
    pub host: Box<str>,
    pub hosts: Box<[Box<str>]>,
    /// What is not HTTP is let through.
    pub undetected: bool,
}

/// What an original destination is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// The index of a service, and the endpoint that was asked for itself.
    Service(usize, Option<SocketAddr>),
    Unknown,
}

/// A rule for everything.
pub fn always(route: usize) -> Rule {
    Rule { route, index: 0, path: PathRule::Any, conditions: Default::default() }
}

impl Ports {
    pub fn of(&self, port: u16) -> &Port {
        self.known.get(&port).unwrap_or(&self.others)
    }
}

impl Outbound {
    /// Where a connection was going, as far as its address tells.
    pub fn destination(&self, snapshot: &Snapshot, to: Option<SocketAddr>) -> Destination {
        let Some(to) = to else { return Destination::Unknown };
        let at = |port| self.addresses.get(&(to.ip(), port)).copied();
        if let Some(service) = at(to.port()).or_else(|| at(0)) {
            return Destination::Service(service, None);
        }
        match snapshot.endpoints.service(snapshot, to) {
            Some(service) => Destination::Service(service, Some(to)),
            None => Destination::Unknown,
        }
    }

    /// The rule for a request; none where the destination is not known and nothing has its host.
    pub fn find<'s>(&'s self, snapshot: &'s Snapshot, facts: &Facts<'_>) -> Option<Found<'s>> {
        let service = match self.destination(snapshot, facts.caller.to) {
            Destination::Service(service, _) => service,
            Destination::Unknown => return self.table.find(facts).or_else(|| self.fallback.find(facts)),
        };
        let known = self.services.get(service)?;
        let leads_there = |found: &Found<'_>| match snapshot.routes.get(found.route).map(|route| &route.action) {
            Some(Action::Forward(forward)) => forward.targets.iter().any(|target| target.service == service),
            Some(Action::Redirect(_) | Action::Respond(..)) => true,
            None => false,
        };
        let own = known.hosts.iter().any(|host| **host == *facts.host);
        let written = self.table.find(facts).filter(|found| own || leads_there(found));
        // The address has decided; a host that is none of the service's says nothing more.
        let written = written.or_else(|| match own || known.host.is_empty() {
            true => None,
            false => self.table.find(&Facts { host: &known.host, ..*facts }),
        });
        Some(written.unwrap_or(Found { route: known.rule.route, rule: &known.rule }))
    }

    /// Whether anything may be for a host, in lower case.
    pub fn knows(&self, host: &str) -> bool {
        self.table.knows(host) || self.fallback.knows(host)
    }
}

/// Services by the addresses of their endpoints, made anew when any of these has changed.
#[derive(Debug, Default)]
pub struct Endpoints(ArcSwapOption<(u64, HashMap<SocketAddr, usize>)>);

impl Endpoints {
    fn service(&self, snapshot: &Snapshot, address: SocketAddr) -> Option<usize> {
        let version = discovery::version();
        let known = self.0.load();
        if let Some(known) = known.as_ref().filter(|known| known.0 == version) {
            return known.1.get(&address).copied();
        }
        let mut map = HashMap::new();
        for (index, service) in snapshot.services.iter().enumerate() {
            for endpoint in service.upstream.endpoints().borrow().iter() {
                for address in endpoint.address.socket().iter().chain(&endpoint.alternatives) {
                    // Of several services with one endpoint, the first.
                    map.entry(*address).or_insert(index);
                }
            }
        }
        let found = map.get(&address).copied();
        self.0.store(Some(Arc::new((version, map))));
        found
    }
}

/// What is known of each service, for an outbound listener. `written` are the routes that it carries, `first` is the
/// number of the implied route of the first service.
pub fn services(
    services: &[Service],
    root: &crate::config::schema::Root,
    written: &[(usize, &crate::config::schema::Route)],
    routes: &[Route],
    first: usize,
) -> Box<[Known]> {
    let leads = |route: usize, service: usize, only: bool| match routes.get(route).map(|route| &route.action) {
        Some(Action::Forward(forward)) if only => forward.targets.iter().all(|target| target.service == service),
        Some(Action::Forward(forward)) => forward.targets.iter().any(|target| target.service == service),
        _ => false,
    };
    let known = |(index, service): (usize, &Service)| {
        let config = root.services.get(&*service.name);
        let hosts: Box<[Box<str>]> =
            config.into_iter().flat_map(|config| &config.hosts).map(|host| super::hosts::bare(host).into()).collect();
        let is_tcp = service.protocol == crate::config::schema::Protocol::Tcp;
        let of_it = |(route, written): &&(usize, &crate::config::schema::Route)| {
            leads(*route, index, false) || written.hosts.iter().any(|host| hosts.iter().any(|own| fits(host, own)))
        };
        let http = !is_tcp && written.iter().any(|route| of_it(&route));
        let relayed =
            written.iter().find(|(route, written)| is_tcp && written.hosts.is_empty() && leads(*route, index, true));
        use crate::config::schema::{Protocol, Undetected};
        let by_default = match service.protocol {
            Protocol::Http1 | Protocol::Http2 => false,
            Protocol::Auto | Protocol::Tcp => !http,
        };
        Known {
            rule: always(first + index),
            relayed: relayed.map(|(route, _)| *route),
            host: hosts.first().cloned().unwrap_or_default(),
            hosts,
            undetected: is_tcp
                || config
                    .and_then(|config| config.undetected)
                    .map_or(by_default, |undetected| undetected == Undetected::Allow),
        }
    };
    services.iter().enumerate().map(known).collect()
}

fn fits(pattern: &str, host: &str) -> bool {
    super::authz::fits_host(&super::hosts::bare(pattern), host)
}

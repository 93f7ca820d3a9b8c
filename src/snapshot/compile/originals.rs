//! What redirected listeners lead to: the ports of the application, services by address, and original destinations.

use std::collections::HashMap;
use std::sync::Arc;

use super::{APPLICATION, Names, PASSTHROUGH, implied, written, written_rules};
use crate::config::schema;
use crate::policy::split;
use crate::snapshot::hosts::Hosts;
use crate::snapshot::redirected::{self, Outbound, Port, Ports, always};
use crate::snapshot::route::RouteTable;
use crate::snapshot::{Action, Forward, Route, authz};

/// Numbers of the routes to original destinations.
#[derive(Default)]
pub struct Originals {
    ports: HashMap<u16, usize>,
    other_ports: usize,
    passthrough: usize,
    /// Of the implied route of the first service.
    first_implied: usize,
}

pub fn compile_originals(names: &Names<'_>, root: &schema::Root, routes: &mut Vec<Route>) -> Originals {
    let mut originals = Originals { first_implied: root.routes.len(), ..Originals::default() };
    let mut add = |name: &str, to: &str| {
        let Some(target) = names.target(to) else { return 0 };
        let name: Arc<str> = name.into();
        let action = Action::Forward(Forward {
            targets: vec![target],
            written_edges: vec![split::BUCKETS],
            canary: None,
            sticky: None,
            rewrite: None,
            rewrite_host: None,
        });
        // Whoever sent it has a timeout, and perhaps a longer one.
        routes.push(Route { timeout: None, ..implied(routes.len(), name, action, root) });
        routes.len() - 1
    };
    for port in root.listeners.iter().flat_map(|listener| listener.ports.keys()).filter_map(|port| port.parse().ok()) {
        originals.ports.entry(port).or_insert_with(|| add(&format!("port-{port}"), APPLICATION));
    }
    originals.other_ports = add("port-other", APPLICATION);
    originals.passthrough = add(PASSTHROUGH, PASSTHROUGH);
    originals
}

pub fn compile_ports(listener: &schema::Listener, root: &schema::Root, originals: &Originals) -> Ports {
    let numbers = authz::numbers(root, listener);
    let entries: Vec<&schema::Authorization> =
        numbers.iter().filter_map(|number| root.authorization.get(*number)).collect();
    // What asks for the head of a request can say nothing of what has none.
    let about_http = |port: Option<u16>| {
        entries.iter().filter(|entry| entry.mode == schema::RuleMode::Enforce).any(|entry| {
            let here = |ports: &[u16]| ports.is_empty() || port.is_some_and(|port| ports.contains(&port));
            let looks = |rule: &schema::AuthorizationRule| {
                let to = &rule.to;
                let any = to.methods.len() + to.paths.len() + to.hosts.len() + to.headers.len() > 0;
                any && here(&to.ports)
            };
            here(&entry.ports) && entry.allow.iter().chain(&entry.deny).any(looks)
        })
    };
    let tls = listener.tls.as_ref().map_or(schema::ListenerTlsMode::Off, |tls| tls.mode);
    let port = |number: Option<u16>, config: schema::Port, route: usize| Port {
        rule: always(route),
        protocol: config.protocol,
        tls: config.tls.map_or(tls, Into::into),
        loopback: config.application == schema::Application::Loopback,
        undetected: config
            .undetected
            .map_or_else(|| !about_http(number), |undetected| undetected == schema::Undetected::Allow),
    };
    let known = listener.ports.iter().filter_map(|(text, config)| {
        let number = text.parse().ok()?;
        Some((number, port(Some(number), *config, *originals.ports.get(&number)?)))
    });
    // A port that a rule names is not as any other, though the listener says nothing of it.
    let rules = |entry: &&schema::Authorization| {
        let of_rules = entry.allow.iter().chain(&entry.deny).flat_map(|rule| rule.to.ports.iter());
        entry.ports.iter().chain(of_rules).copied().collect::<Vec<_>>()
    };
    let ruled = entries.iter().flat_map(rules);
    let ruled = ruled.map(|number| (number, port(Some(number), schema::Port::default(), originals.other_ports)));
    let known = ruled.collect::<Vec<_>>().into_iter().chain(known);
    Ports { known: known.collect(), others: port(None, schema::Port::default(), originals.other_ports) }
}

pub fn compile_outbound(
    listener: &schema::Listener,
    root: &schema::Root,
    names: &Names<'_>,
    routes: &[Route],
    implicit: &[(Vec<String>, usize)],
    originals: &Originals,
) -> Outbound {
    let tcp: Vec<_> = written(listener, root, true, names, routes).collect();
    let http: Vec<_> = written(listener, root, false, names, routes).collect();
    let mut by_name = Hosts::default();
    for (index, route) in &tcp {
        for host in &route.hosts {
            *by_name.at(Some(host)) = Some(*index);
        }
    }
    let mut addresses = HashMap::new();
    for (index, service) in root.services.values().enumerate() {
        for text in &service.addresses {
            let Some((ip, own)) = crate::config::address(text) else { continue };
            addresses.insert((ip.to_canonical(), own.or(service.port).unwrap_or(0)), index);
        }
    }
    let all: Vec<_> = http.iter().chain(&tcp).copied().collect();
    let services = names.list.get(..root.services.len()).unwrap_or_default();
    Outbound {
        services: redirected::services(services, root, &all, routes, originals.first_implied),
        table: RouteTable::new(written_rules(http.into_iter(), names)),
        fallback: RouteTable::new(implicit.iter().map(|(hosts, index)| (hosts.clone(), always(*index))).collect()),
        names: by_name,
        addresses,
        passthrough: always(originals.passthrough),
        deny: listener.unknown_destinations == schema::UnknownDestinations::Deny,
    }
}

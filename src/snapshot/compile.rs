//! Configuration to snapshot. It cannot fail: what could is refused by `config::validate`.

mod balancing;
mod circuit;
mod health;
mod limits;
mod originals;
mod retries;
mod sides;
mod traffic;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, StatusCode};

use super::authz;
use super::hosts::Hosts;
use super::matcher::{Attribute, Condition, Conditions, Key, Text};
use super::redirected::{Endpoints, always};
use super::route::{PathRule, RouteTable, Rule};
use super::{
    Action, Forward, HeaderEdits, Kind, Listener, Redirect, Rewrite, Route, Service, Snapshot, Subset, Target,
    Transport, Upstream,
};
use balancing::{compile_hash_key, compile_settings};
use circuit::{compile_circuits, compile_route_circuits};
use originals::{Originals, compile_originals, compile_outbound, compile_ports};

use crate::blast::Looked;
use crate::config::{Config, is_secret_attribute, schema};
use crate::discovery::Spec;
use crate::policy::balance::Settings;
use crate::policy::guard::Bound;
use crate::policy::split;
use crate::wire::trace::Formats;

/// Compiles `config`. Services keep the endpoints found under `previous` while their source stays the same.
pub fn compile(config: Arc<Config>, generation: u64, previous: Option<&Snapshot>) -> Snapshot {
    let root = config.root();
    let attributes = root.attributes.iter().map(|(name, attribute)| compile_attribute(name, attribute)).collect();
    let mut services: Vec<Service> = root
        .services
        .iter()
        .map(|(name, service)| compile_service(name, service, root, (generation, previous)))
        .collect();
    for (name, mode) in [(APPLICATION, schema::Mode::Inbound), (PASSTHROUGH, schema::Mode::Outbound)] {
        services.extend(has(root, mode).then(|| original(name, root)));
    }
    let names = Names::new(&services, root);
    let mut routes = Vec::with_capacity(root.routes.len());
    let before = previous.map_or(&[][..], |snapshot| &snapshot.routes);
    let before: HashMap<&str, &Route> = before.iter().map(|route| (&*route.name, route)).collect();
    for route in &root.routes {
        let known = before.get(route.name.as_str()).copied();
        let rate_limits = limits::rate_limits(
            route.rate_limit.as_ref(),
            ("route", &route.name),
            &root.attributes,
            generation,
            known.map_or(&[], |known| &known.rate_limits),
        );
        let compiled = compile_route(route, routes.len(), &names, (&root.defaults, known));
        routes.push(Route { rate_limits, ..compiled });
    }
    compile_route_circuits(root, previous, &mut routes);
    let implicit = compile_implicit(&names, root, &mut routes);
    let originals = compile_originals(&names, root, &mut routes);
    let sides = sides::number(&services, &mut routes);
    let width = 1 + sides.len();
    let listeners = root
        .listeners
        .iter()
        .enumerate()
        .map(|(index, listener)| {
            let first_series = index * width;
            let kind = compile_kind(listener, &config, &names, &routes, &implicit, &originals);
            Listener {
                config: Arc::new(listener.clone()),
                name: listener.name.as_str().into(),
                kind,
                authorization: authz::numbers(root, listener),
                headed: listener.proxy_protocol.iter().flat_map(schema::ProxyProtocol::blocks).collect(),
                first_series,
            }
        })
        .collect();
    let trace = formats(&root.telemetry.tracing);
    drop(names);
    let (looked, authorization) = (Arc::new(Looked::of(root)), authz::compile(root));
    let endpoints = Endpoints::default();
    Snapshot {
        generation,
        attributes,
        services,
        routes,
        listeners,
        authorization,
        trace,
        sides,
        endpoints,
        looked,
        config,
    }
}

/// Indices by name.
struct Names<'a> {
    services: HashMap<&'a str, usize>,
    attributes: HashMap<&'a str, usize>,
    /// Our own, where there is one.
    trust_domain: &'a str,
    list: &'a [Service],
}

impl<'a> Names<'a> {
    fn new(services: &'a [Service], root: &'a schema::Root) -> Self {
        Self {
            services: services.iter().enumerate().map(|(index, service)| (&*service.name, index)).collect(),
            attributes: root.attributes.keys().enumerate().map(|(index, name)| (name.as_str(), index)).collect(),
            trust_domain: root.identity.as_ref().map_or("", |identity| &identity.trust_domain),
            list: services,
        }
    }

    /// `service` or `service/subset`.
    fn target(&self, to: &str) -> Option<Target> {
        let (service, subset) = match to.split_once('/') {
            Some((service, subset)) => (service, Some(subset)),
            None => (to, None),
        };
        let service = *self.services.get(service)?;
        let subsets = &self.list.get(service)?.subsets;
        let subset = match subset {
            Some(name) => Some(subsets.iter().position(|subset| *subset.name == *name)?),
            None => None,
        };
        Some(Target { service, subset })
    }

    fn is_tcp(&self, route: &Route) -> bool {
        match &route.action {
            Action::Forward(forward) => forward.targets.iter().any(|target| {
                self.list.get(target.service).is_some_and(|service| service.protocol == schema::Protocol::Tcp)
            }),
            Action::Redirect(_) | Action::Respond(..) => false,
        }
    }
}

fn formats(tracing: &schema::Tracing) -> Formats {
    use schema::Propagation::{B3, Baggage, Traceparent};
    let first = tracing.propagate.iter().find(|format| **format != Baggage);
    Formats {
        traceparent: tracing.propagate.contains(&Traceparent),
        b3: tracing.propagate.contains(&B3),
        baggage: tracing.propagate.contains(&Baggage),
        begin_b3: first == Some(&B3),
    }
}

fn compile_attribute(name: &str, attribute: &schema::Attribute) -> Attribute {
    Attribute {
        name: name.into(),
        from: attribute.from.iter().filter_map(Key::compile).collect(),
        lowercase: attribute.lowercase,
        values: attribute.values.clone(),
        forward: attribute.forward.as_deref().and_then(|name| name.parse().ok()),
        secret: is_secret_attribute(name, attribute),
    }
}

fn compile_service(
    name: &str,
    service: &schema::Service,
    root: &schema::Root,
    (generation, previous): (u64, Option<&Snapshot>),
) -> Service {
    let spec = Spec::new(service);
    let known = previous.and_then(|snapshot| snapshot.services.iter().find(|known| *known.name == *name));
    let upstream = match known {
        Some(known) if *known.upstream.spec() == spec => known.upstream.clone(),
        // Another source: what the old one found serves until the new one has answered.
        Some(known) => Arc::new(Upstream::new(spec, Some(&known.upstream))),
        None => Arc::new(Upstream::new(spec, None)),
    };
    let subset = |(name, subset): (&String, &schema::Subset)| Subset {
        name: name.as_str().into(),
        labels: subset.labels.clone(),
    };
    Service {
        name: name.into(),
        protocol: service.protocol,
        balance: compile_settings(&service.load_balancer, &root.workload),
        hash_key: service.load_balancer.hash_key.as_ref().and_then(|key| compile_hash_key(key, root)),
        connections: service.connections.clone(),
        subsets: service.subsets.iter().map(subset).collect(),
        connect_timeout: *root.defaults.connect_timeout,
        budget: retries::budget(known),
        limits: limits::service_limits(service.limits.as_ref(), known.and_then(|known| known.limits.as_deref())),
        rate_limits: limits::rate_limits(
            service.rate_limit.as_ref(),
            ("service", name),
            &root.attributes,
            generation,
            known.map_or(&[], |known| &known.rate_limits),
        ),
        ceiling: limits::ceiling(service.limits.as_ref(), known.map(|known| &known.ceiling)),
        criticality: limits::criticality(service.limits.as_ref(), &root.attributes),
        transport: compile_transport(name, service),
        original: false,
        beside: has(root, schema::Mode::Inbound),
        proxy_protocol: service.proxy_protocol.map(Into::into),
        circuits: compile_circuits(service, root, known),
        check: health::check(service).map(Arc::new),
        outlier: health::outlier(service).map(Arc::new),
        upstream,
    }
}

fn compile_transport(name: &str, service: &schema::Service) -> Transport {
    use schema::ServiceTlsMode::{Mutual, Off, Simple};
    let Some(tls) = &service.tls else { return Transport::Plain };
    let server_name = tls.server_name.as_deref().map(Arc::from);
    match tls.mode {
        Off => Transport::Plain,
        Mutual => {
            let expected = tls.identities.iter().filter_map(schema::IdentityMatch::pattern).collect();
            Transport::Mutual { expected, server_name }
        }
        Simple => {
            let found = match &service.endpoints {
                schema::Endpoints::Dns(dns) if dns.kind == schema::DnsType::Address => Some(dns.name.as_str().into()),
                _ => None,
            };
            Transport::Simple { service: name.into(), server_name: server_name.or(found) }
        }
    }
}

fn compile_route(
    route: &schema::Route,
    index: usize,
    names: &Names<'_>,
    (defaults, known): (&schema::Defaults, Option<&Route>),
) -> Route {
    let name: Arc<str> = route.name.as_str().into();
    let action = compile_action(route, names, known);
    let retry = route.retry.as_ref().unwrap_or(&defaults.retry);
    Route {
        index,
        name,
        action,
        first_side: 0,
        fallbacks: Box::default(),
        timeout: compile_timeout(route.timeout.unwrap_or(schema::Timeout::After(defaults.timeout))),
        timeout_is_own: route.timeout.is_some(),
        retry: retries::retry(retry),
        hedge: route.hedge.as_ref().and_then(|hedge| retries::hedge(hedge, retry, known)),
        stream_idle: *defaults.stream_idle_timeout,
        tcp_pauses: defaults.into(),
        max_body: route.max_body.and_then(compile_max_body),
        rate_limits: Box::default(),
        circuit: None,
        request_headers: compile_edits(&route.request_headers),
        response_headers: compile_edits(&route.response_headers),
        fault: route.fault.as_ref().map(|fault| traffic::fault(fault, names).into()),
        mirrors: traffic::mirrors(&route.mirror, names),
    }
}

/// 0s is no limit.
fn compile_timeout(timeout: schema::Timeout) -> Option<Bound<Duration>> {
    let schema::TimeoutRule { after, mode } = timeout.rule();
    bound(*after, mode).filter(|bound| !bound.limit.is_zero())
}

fn compile_max_body(max: schema::MaxBody) -> Option<Bound<u64>> {
    let schema::MaxBodyRule { size, mode } = max.rule();
    bound(size.0, mode)
}

fn bound<T>(limit: T, mode: schema::RuleMode) -> Option<Bound<T>> {
    match mode {
        schema::RuleMode::Enforce => Some(Bound { limit, shadow: false }),
        schema::RuleMode::Shadow => Some(Bound { limit, shadow: true }),
        schema::RuleMode::Off => None,
    }
}

fn compile_action(route: &schema::Route, names: &Names<'_>, known: Option<&Route>) -> Action {
    if let Some(respond) = &route.respond {
        let status = StatusCode::from_u16(respond.status).unwrap_or(StatusCode::OK);
        return Action::Respond(status, respond.body.clone().into());
    }
    if let Some(redirect) = &route.redirect {
        return Action::Redirect(compile_redirect(redirect));
    }
    let one = route.to.as_deref().map(|to| (to, 1.0));
    let split = route.split.iter().flatten().map(|side| (side.to.as_str(), side.weight));
    let all: Vec<(Target, f64)> =
        one.into_iter().chain(split).filter_map(|(to, weight)| Some((names.target(to)?, weight))).collect();
    let host = route.rewrite.as_ref().and_then(|rewrite| rewrite.host.as_deref());
    Action::Forward(Forward {
        written_edges: split::edges(all.iter().map(|(_, weight)| *weight)).unwrap_or_default(),
        canary: traffic::canary(route, names, &all, known),
        targets: all.into_iter().map(|(target, _)| target).collect(),
        sticky: route.sticky.as_ref().and_then(|sticky| compile_sticky(sticky, names)),
        rewrite: route.rewrite.as_ref().and_then(|edit| rewrite(edit.path.as_deref(), edit.prefix.as_deref())),
        rewrite_host: host.and_then(|host| HeaderValue::from_str(host).ok()),
    })
}

fn compile_redirect(redirect: &schema::Redirect) -> Redirect {
    Redirect {
        scheme: redirect.scheme.map(|scheme| match scheme {
            schema::Scheme::Http => "http",
            schema::Scheme::Https => "https",
        }),
        host: redirect.host.clone(),
        port: redirect.port,
        path: rewrite(redirect.path.as_deref(), redirect.prefix.as_deref()),
        status: StatusCode::from_u16(redirect.status).unwrap_or(StatusCode::FOUND),
    }
}

fn rewrite(path: Option<&str>, prefix: Option<&str>) -> Option<Rewrite> {
    match (path, prefix) {
        (Some(path), _) => Some(Rewrite::Path(path.to_owned())),
        (None, Some(prefix)) => Some(Rewrite::Prefix(prefix.to_owned())),
        (None, None) => None,
    }
}

fn compile_sticky(sticky: &schema::Sticky, names: &Names<'_>) -> Option<Key> {
    Some(match sticky {
        schema::Sticky::Header(name) => Key::Header(name.parse().ok()?),
        schema::Sticky::Cookie(name) => Key::Cookie(name.as_str().into()),
        schema::Sticky::Query(name) => Key::Query(name.as_str().into()),
        schema::Sticky::Attribute(name) => Key::Attribute(*names.attributes.get(name.as_str())?),
    })
}

fn compile_edits(edits: &schema::HeaderEdits) -> HeaderEdits {
    let pair = |(name, value): (&String, &String)| -> Option<(HeaderName, HeaderValue)> {
        Some((name.parse().ok()?, HeaderValue::from_str(value).ok()?))
    };
    HeaderEdits {
        remove: edits.remove.iter().filter_map(|name| name.parse().ok()).collect(),
        set: edits.set.iter().filter_map(pair).collect(),
        add: edits.add.iter().filter_map(pair).collect(),
    }
}

/// A route for every service that names hosts, for requests that no written route matches.
fn compile_implicit(names: &Names<'_>, root: &schema::Root, routes: &mut Vec<Route>) -> Vec<(Vec<String>, usize)> {
    let mut implicit = Vec::new();
    // There, an address may lead to any.
    let outbound = has(root, schema::Mode::Outbound);
    for (service, config) in root.services.values().enumerate() {
        let by_host = !config.hosts.is_empty() && config.protocol != schema::Protocol::Tcp;
        if !by_host && !outbound {
            continue;
        }
        let Some(name) = names.list.get(service).map(|service| service.name.clone()) else { continue };
        let action = Action::Forward(Forward {
            targets: vec![Target { service, subset: None }],
            written_edges: vec![split::BUCKETS],
            canary: None,
            sticky: None,
            rewrite: None,
            rewrite_host: None,
        });
        if by_host {
            implicit.push((config.hosts.clone(), routes.len()));
        }
        routes.push(implied(routes.len(), name, action, root));
    }
    implicit
}

fn implied(index: usize, name: Arc<str>, action: Action, root: &schema::Root) -> Route {
    Route {
        index,
        name,
        action,
        first_side: 0,
        fallbacks: Box::default(),
        timeout: compile_timeout(schema::Timeout::After(root.defaults.timeout)),
        timeout_is_own: false,
        retry: retries::retry(&root.defaults.retry),
        hedge: None,
        stream_idle: *root.defaults.stream_idle_timeout,
        tcp_pauses: (&root.defaults).into(),
        max_body: None,
        rate_limits: Box::default(),
        circuit: None,
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
        fault: None,
        mirrors: Vec::new(),
    }
}

/// Stand for what was not configured as a service: names that no service can have.
pub const APPLICATION: &str = "@application";
pub const PASSTHROUGH: &str = "@passthrough";

fn has(root: &schema::Root, mode: schema::Mode) -> bool {
    root.listeners.iter().any(|listener| listener.mode == mode)
}

fn original(name: &str, root: &schema::Root) -> Service {
    Service {
        name: name.into(),
        protocol: schema::Protocol::Auto,
        balance: Settings::default(),
        hash_key: None,
        connections: schema::Connections::default(),
        subsets: Vec::new(),
        connect_timeout: *root.defaults.connect_timeout,
        budget: retries::budget(None),
        limits: None,
        rate_limits: Box::default(),
        ceiling: limits::ceiling(None, None),
        criticality: Key::Header(super::CRITICALITY),
        transport: Transport::Plain,
        proxy_protocol: None,
        original: true,
        beside: false,
        circuits: None,
        check: None,
        outlier: None,
        upstream: Arc::new(Upstream::new(Spec::Fixed(Vec::new()), None)),
    }
}

fn compile_kind(
    listener: &schema::Listener,
    config: &Config,
    names: &Names<'_>,
    routes: &[Route],
    implicit: &[(Vec<String>, usize)],
    originals: &Originals,
) -> Kind {
    match listener.mode {
        schema::Mode::Proxy => {}
        schema::Mode::Inbound => return Kind::Inbound(compile_ports(listener, config.root(), originals).into()),
        schema::Mode::Outbound => {
            let root = config.root();
            return Kind::Outbound(compile_outbound(listener, root, names, routes, implicit, originals).into());
        }
    }
    let tcp = config.is_tcp_listener(&listener.name);
    let written = written(listener, config.root(), tcp, names, routes);
    if tcp {
        let mut hosts = Hosts::default();
        for (index, route) in written {
            if route.hosts.is_empty() {
                *hosts.at(None) = Some(index);
            }
            for host in &route.hosts {
                *hosts.at(Some(host)) = Some(index);
            }
        }
        return Kind::Tcp(hosts);
    }
    let rules = written_rules(written, names);
    let fallback = implicit.iter().map(|(hosts, index)| (hosts.clone(), always(*index)));
    Kind::Http { table: RouteTable::new(rules).into(), fallback: RouteTable::new(fallback.collect()).into() }
}

/// What the table of written routes of an HTTP listener is made of, in the order of the file. A table finds one rule,
/// and does not show the others.
pub fn rules(snapshot: &Snapshot, listener: &Listener) -> Vec<(Vec<String>, Rule)> {
    let names = Names::new(&snapshot.services, snapshot.config.root());
    written_rules(written(&listener.config, snapshot.config.root(), false, &names, &snapshot.routes), &names)
}

/// The same for those that the hosts of services imply.
pub fn implied_rules(snapshot: &Snapshot) -> Vec<(Vec<String>, Rule)> {
    let root = snapshot.config.root();
    let implied = snapshot.routes.iter().enumerate().skip(root.routes.len());
    let rules = implied.filter_map(|(index, route)| {
        let service = root.services.get(&*route.name)?;
        let by_host = !service.hosts.is_empty() && service.protocol != schema::Protocol::Tcp;
        by_host.then(|| (service.hosts.clone(), always(index)))
    });
    rules.collect()
}

/// The routes of a tcp listener, in the order of the file, with the names that each is for.
pub fn tcp_routes(snapshot: &Snapshot, listener: &Listener) -> Vec<(usize, Vec<String>)> {
    let root = snapshot.config.root();
    let names = Names::new(&snapshot.services, root);
    let written = written(&listener.config, root, true, &names, &snapshot.routes);
    written.map(|(index, route)| (index, route.hosts.clone())).collect()
}

/// The written routes that a listener carries, with their indices.
fn written<'a>(
    listener: &'a schema::Listener,
    root: &'a schema::Root,
    tcp: bool,
    names: &'a Names<'_>,
    routes: &'a [Route],
) -> impl Iterator<Item = (usize, &'a schema::Route)> {
    let all = root.routes.iter().zip(routes).enumerate();
    all.filter(move |(_, (written, route))| crate::config::applies(written, listener) && names.is_tcp(route) == tcp)
        .map(|(index, (written, _))| (index, written))
}

fn written_rules<'a>(
    written: impl Iterator<Item = (usize, &'a schema::Route)>,
    names: &Names<'_>,
) -> Vec<(Vec<String>, Rule)> {
    let all = [schema::Match::default()];
    let mut rules = Vec::new();
    for (index, route) in written {
        let matches = if route.matches.is_empty() { &all } else { route.matches.as_slice() };
        for (number, one) in matches.iter().enumerate() {
            let rule = Rule { index: number, ..compile_rule(one, index, rules.len(), names) };
            rules.push((route.hosts.clone(), rule));
        }
    }
    rules
}

fn compile_rule(one: &schema::Match, route: usize, line: usize, names: &Names<'_>) -> Rule {
    let mut all = Vec::new();
    let mut add = |key: Option<Key>, text: &schema::Text| {
        all.extend(key.map(|key| Condition { key, text: Text::compile(text) }));
    };
    for (name, text) in &one.headers {
        add(name.parse().ok().map(Key::Header), text);
    }
    for (name, text) in &one.cookies {
        add(Some(Key::Cookie(name.as_str().into())), text);
    }
    for (name, text) in &one.attributes {
        add(names.attributes.get(name.as_str()).map(|index| Key::Attribute(*index)), text);
    }
    for (name, text) in &one.query {
        add(Some(Key::Query(name.as_str().into())), text);
    }
    let methods = one.methods.iter().filter_map(|method| Method::from_bytes(method.as_bytes()).ok()).collect();
    let path = match (&one.path, &one.grpc) {
        (Some(path), _) => PathRule::compile(path),
        (None, Some(grpc)) => compile_grpc(grpc),
        (None, None) => PathRule::Any,
    };
    let from = one.from.as_ref().map(|from| authz::callers(from, names.trust_domain)).filter(|from| !from.is_empty());
    Rule { route, index: 0, path, conditions: Conditions { methods, from, grpc: one.grpc.is_some(), all, line } }
}

/// The path of a gRPC call is `/package.Service/Method`.
fn compile_grpc(grpc: &schema::GrpcMatch) -> PathRule {
    match (&grpc.service, &grpc.method) {
        (Some(service), Some(method)) => PathRule::Exact(format!("/{service}/{method}")),
        (Some(service), None) => PathRule::Prefix(format!("/{service}")),
        (None, Some(method)) => PathRule::Template(format!("/{{service}}/{method}")),
        (None, None) => PathRule::Any,
    }
}

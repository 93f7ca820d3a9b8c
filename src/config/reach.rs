//! What takes all listeners and routes together to judge: who takes whose address, which listener is L4, and
//! which route can never be reached.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use super::check::listed;
use super::merge::at;
use super::schema::{
    Caller, Listener, ListenerProtocol, Match, Mode, PathMatch, Protocol, Root, Route, Text, TextMatcher,
};
use super::validate::View;
use crate::wire::address::Address;

/// Whether a listener carries connections as they are: it is said to, or nothing but tcp routes are for it.
pub fn is_tcp(root: &Root, listener: &Listener) -> bool {
    if listener.mode.is_redirected() {
        return false;
    }
    let mut routes = root.routes.iter().filter(|route| applies(route, listener)).peekable();
    match listener.protocol {
        ListenerProtocol::Tcp => true,
        ListenerProtocol::Http => false,
        ListenerProtocol::Auto => routes.peek().is_some() && routes.all(|route| is_tcp_route(root, route)),
    }
}

/// No two of our sockets may want the same address.
pub fn addresses(view: &mut View<'_>) {
    let root = view.root;
    let mut taken: Vec<(Address, String, &str)> =
        vec![(root.admin.address.into(), "admin.address".to_owned(), "`admin`")];
    let mut by_port: HashMap<u16, Vec<usize>> = HashMap::from([(root.admin.address.port(), vec![0])]);
    let listeners = root.listeners.iter().enumerate();
    let listeners = listeners
        .map(|(index, l)| (l.address.clone(), format!("{}.address", view.listener_path(index)), l.name.as_str()));
    let sockets: Vec<_> =
        [(root.health.address.into(), "health.address".to_owned(), "`health`")].into_iter().chain(listeners).collect();
    for (address, path, name) in sockets {
        let same_port = by_port.entry(address.port()).or_default();
        let collides = |index: &&usize| taken.get(**index).is_some_and(|(other, ..)| collide(other, &address));
        let first = same_port.iter().find(collides).and_then(|index| taken.get(*index));
        if let Some((other, first, by)) = first {
            // A default is nowhere in the file; then the other one is what can be pointed at.
            let by = if by.starts_with('`') { (*by).to_owned() } else { format!("listener `{by}`") };
            let place = view.tree.find(first).map_or_else(|| "by default".to_owned(), at);
            let remedy = if address.socket().is_some() { "use another port" } else { "use another path or name" };
            view.push(&path, format!("{address} is taken by {by} ({other}, {place})"), remedy);
        }
        same_port.push(taken.len());
        taken.push((address, path, name));
    }
}

/// Which routes no request or connection can ever reach.
pub fn routes(view: &mut View<'_>) {
    let root = view.root;
    let tcp: HashSet<&str> = root.listeners.iter().filter(|l| is_tcp(root, l)).map(|l| l.name.as_str()).collect();
    // They carry either.
    let outbound: HashSet<&str> =
        root.listeners.iter().filter(|l| l.mode == Mode::Outbound).map(|l| l.name.as_str()).collect();
    let inbound: HashSet<&str> =
        root.listeners.iter().filter(|l| l.mode == Mode::Inbound).map(|l| l.name.as_str()).collect();
    let of_tcp: HashSet<&str> = tcp.union(&outbound).copied().collect();
    let routes: Vec<(usize, &Route, bool)> =
        root.routes.iter().enumerate().map(|(index, route)| (index, route, is_tcp_route(root, route))).collect();
    for (index, route, is_tcp_route) in &routes {
        let path = view.route_path(*index);
        let of_inbound = route.listeners.iter().enumerate().filter(|(_, name)| inbound.contains(name.as_str()));
        for (index, name) in of_inbound.collect::<Vec<_>>() {
            let message = format!("listener `{name}` is inbound: it leads to the application, whatever is asked for");
            view.push(&format!("{path}.listeners[{index}]"), message, "remove it");
        }
        if *is_tcp_route {
            tcp_route(view, &path, route, &of_tcp);
        } else {
            http_route(view, &path, route, &tcp);
        }
    }
    for (index, listener) in root.listeners.iter().enumerate().filter(|(_, l)| tcp.contains(l.name.as_str())) {
        let for_it: Vec<(usize, &Route)> = routes
            .iter()
            .filter(|(_, route, is_tcp_route)| *is_tcp_route && applies(route, listener))
            .map(|(index, route, _)| (*index, *route))
            .collect();
        tcp_listener(view, index, listener, &for_it);
    }
    shadowed(view, &tcp);
}

/// A connection must find one route: by the name that a client of TLS asks for, or the one for all others.
fn tcp_listener(view: &mut View<'_>, index: usize, listener: &Listener, routes: &[(usize, &Route)]) {
    let path = view.listener_path(index);
    let name = &listener.name;
    if routes.is_empty() {
        let remedy = format!("add a route to a service of `protocol: tcp` with `listeners: [{name}]`");
        view.push(&path, format!("tcp listener `{name}` has no route"), remedy);
    }
    let others: Vec<&str> =
        routes.iter().filter(|(_, route)| route.hosts.is_empty()).map(|(_, route)| route.name.as_str()).collect();
    if others.len() > 1 {
        let message = format!("tcp listener `{name}` has {} routes without `hosts`, and can have one", others.len());
        let remedy = format!("keep one of {}, or give each its `listeners`", listed(others.iter().copied().take(8)));
        view.push(&path, message, remedy);
    }
    let mut seen: HashMap<String, String> = HashMap::new();
    for (index, route) in routes {
        for (number, host) in route.hosts.iter().enumerate() {
            let path = format!("{}.hosts[{number}]", view.route_path(*index));
            match seen.get(&host.to_ascii_lowercase()) {
                Some(first) => view.twice(&path, &format!("host `{host}` on tcp listener `{name}`"), &first.clone()),
                None => drop(seen.insert(host.to_ascii_lowercase(), path)),
            }
        }
    }
}

/// `tcp`: the listeners that carry such routes.
fn tcp_route(view: &mut View<'_>, path: &str, route: &Route, tcp: &HashSet<&str>) {
    let edits = |edits: &super::schema::HeaderEdits| edits.remove.len() + edits.set.len() + edits.add.len() > 0;
    let keys = [
        ("match", !route.matches.is_empty()),
        ("sticky", route.sticky.is_some()),
        ("timeout", route.timeout.is_some()),
        ("rewrite", route.rewrite.is_some()),
        ("requestHeaders", edits(&route.request_headers)),
        ("responseHeaders", edits(&route.response_headers)),
        ("maxBody", route.max_body.is_some()),
        ("fault", route.fault.is_some()),
        ("mirror", !route.mirror.is_empty()),
        ("canary", route.canary.is_some()),
    ];
    for (key, _) in keys.iter().filter(|(_, there)| *there) {
        let message = format!("`{key}` is about HTTP, and this route leads to a service of `protocol: tcp`");
        view.push(&format!("{path}.{key}"), message, "remove it");
    }
    for (index, host) in route.hosts.iter().enumerate() {
        if host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
            let message = format!("`{host}` is an address, and clients of TLS ask by name only");
            view.push(&format!("{path}.hosts[{index}]"), message, "remove it");
        }
    }
    if let Some(index) = route.split.iter().flatten().position(|side| !is_tcp_service(view.root, &side.to)) {
        let message = "a split leads to services of `protocol: tcp` only, or to none";
        view.push(&format!("{path}.split[{index}]"), message, "use another service");
    }
    let http: Vec<usize> =
        route.listeners.iter().enumerate().filter(|(_, name)| !tcp.contains(name.as_str())).map(|(i, _)| i).collect();
    for index in http {
        let message =
            format!("listener `{}` is HTTP, and this route is tcp", route.listeners.get(index).map_or("", |n| n));
        view.push(
            &format!("{path}.listeners[{index}]"),
            message,
            "give the listener `protocol: tcp` and no other route",
        );
    }
    if route.listeners.is_empty() && tcp.is_empty() {
        let message = format!("route `{}` can never be reached: no listener is tcp", route.name);
        view.push(path, message, "give it `listeners: [name]`, or a listener `protocol: tcp`");
    }
}

fn http_route(view: &mut View<'_>, path: &str, route: &Route, tcp: &HashSet<&str>) {
    let lost: Vec<usize> =
        route.listeners.iter().enumerate().filter(|(_, name)| tcp.contains(name.as_str())).map(|(i, _)| i).collect();
    for index in lost {
        let message =
            format!("listener `{}` is tcp, and this route is HTTP", route.listeners.get(index).map_or("", |n| n));
        view.push(
            &format!("{path}.listeners[{index}]"),
            message,
            "lead it to a service of `protocol: tcp`, or remove it",
        );
    }
    let carries = |listener: &Listener| !tcp.contains(listener.name.as_str()) && applies(route, listener);
    if route.listeners.is_empty() && !view.root.listeners.iter().any(carries) {
        let outbound = view.root.listeners.iter().find(|listener| listener.mode == Mode::Outbound);
        let (why, remedy) = match outbound {
            Some(outbound) => (
                "an outbound listener takes a route without `hosts` only if it is named".to_owned(),
                format!("add `hosts: [name]`, or `listeners: [{}]`", outbound.name),
            ),
            None if view.root.listeners.iter().any(|listener| listener.mode == Mode::Inbound) => {
                ("inbound listeners have no routes".to_owned(), "add a listener `mode: outbound`".to_owned())
            }
            None => ("every listener is tcp".to_owned(), "give a listener `protocol: http`".to_owned()),
        };
        view.push(path, format!("route `{}` can never be reached: {why}", route.name), remedy);
    }
}

/// Routes all of whose conditions, for all of their listeners and hosts, are those of earlier routes.
fn shadowed(view: &mut View<'_>, tcp: &HashSet<&str>) {
    let root = view.root;
    let http: Vec<&Listener> = root.listeners.iter().filter(|l| !tcp.contains(l.name.as_str())).collect();
    let mut first: HashMap<(usize, String, String), usize> = HashMap::new();
    for (index, route) in root.routes.iter().enumerate().filter(|(_, route)| !is_tcp_route(root, route)) {
        let conditions: Vec<String> = match route.matches.as_slice() {
            [] => vec![String::new()],
            matches => matches.iter().map(conditions).collect(),
        };
        let hosts: Vec<String> = match route.hosts.as_slice() {
            [] => vec![String::new()],
            hosts => hosts.iter().map(|host| host.to_ascii_lowercase()).collect(),
        };
        let (mut by, mut reachable) = (None, false);
        for (number, _) in http.iter().enumerate().filter(|(_, listener)| applies(route, listener)) {
            for (host, conditions) in hosts.iter().flat_map(|h| conditions.iter().map(move |c| (h, c))) {
                let owner = *first.entry((number, host.clone(), conditions.clone())).or_insert(index);
                if owner == index {
                    reachable = true;
                } else {
                    by = by.or(Some(owner));
                }
            }
        }
        if let (Some(owner), false) = (by, reachable) {
            let earlier = view.route_path(owner);
            let name = root.routes.get(owner).map_or("", |route| route.name.as_str());
            let place = view.tree.find(&format!("{earlier}.name")).map(at).unwrap_or_default();
            let message = format!("route `{}` can never be reached: route `{name}` matches the same", route.name);
            let path = format!("{}.name", view.route_path(index));
            view.push(&path, message, format!("change or remove one of them (`{name}` is at {place})"));
        }
    }
}

/// The conditions of a match in one canonical spelling; equal spellings match equal requests.
fn conditions(matched: &Match) -> String {
    let mut parts: BTreeMap<(u8, String), String> = BTreeMap::new();
    let path = match &matched.path {
        None => String::new(),
        Some(PathMatch::Prefix(prefix)) if prefix.chars().all(|c| c == '/') => String::new(),
        Some(PathMatch::Exact(path)) => format!("exact {path}"),
        Some(PathMatch::Prefix(prefix)) => format!("prefix {}", prefix.trim_end_matches('/')),
        Some(PathMatch::Template(template)) => {
            let segment = |segment: &str| if segment.starts_with('{') { "{}".to_owned() } else { segment.to_owned() };
            format!("template {}", template.split('/').map(segment).collect::<Vec<_>>().join("/"))
        }
        Some(PathMatch::Regex(pattern)) => format!("regex {}", pattern.source()),
    };
    parts.insert((0, path), String::new());
    let mut methods = matched.methods.clone();
    methods.sort();
    methods.dedup();
    parts.extend((!methods.is_empty()).then(|| ((1, methods.join(" ")), String::new())));
    let texts = [(2, &matched.headers), (3, &matched.cookies), (4, &matched.query), (5, &matched.attributes)];
    for (kind, conditions) in texts {
        for (name, text) in conditions {
            let name = if kind == 2 { name.to_ascii_lowercase() } else { name.clone() };
            parts.insert((kind, name), condition(text));
        }
    }
    if let Some(from) = matched.from.as_ref().filter(|from| **from != Caller::default()) {
        let sorted = |mut all: Vec<String>| {
            all.sort();
            all.dedup();
            all
        };
        let identities = from.identities.iter().map(|identity| format!("{:?}", identity.pattern())).collect();
        let all = [sorted(identities), sorted(from.namespaces.clone()), sorted(from.cidrs.clone())];
        parts.insert((7, format!("{all:?}")), String::new());
    }
    if let Some(grpc) = &matched.grpc {
        parts.insert((6, format!("{:?}", (&grpc.service, &grpc.method))), String::new());
    }
    let plain = parts.len() == 1 && parts.contains_key(&(0, String::new()));
    if plain { String::new() } else { format!("{parts:?}") }
}

fn condition(text: &Text) -> String {
    match text {
        Text::Exact(exact) | Text::Matcher(TextMatcher::Exact(exact)) => format!("exact {exact}"),
        Text::Matcher(other) => format!("{other:?}"),
    }
}

/// Whether a listener carries a route. None are for what comes in to the application; and what goes out without being
/// meant for anything by name is taken by those only that say so.
pub fn applies(route: &Route, listener: &Listener) -> bool {
    let named = route.listeners.contains(&listener.name);
    match listener.mode {
        Mode::Proxy => route.listeners.is_empty() || named,
        Mode::Inbound => false,
        Mode::Outbound => named || route.listeners.is_empty() && !route.hosts.is_empty(),
    }
}

/// Whether a route leads to services of `protocol: tcp`.
fn is_tcp_route(root: &Root, route: &Route) -> bool {
    route.to.iter().chain(route.split.iter().flatten().map(|side| &side.to)).any(|to| is_tcp_service(root, to))
}

fn is_tcp_service(root: &Root, target: &str) -> bool {
    let name = target.split_once('/').map_or(target, |(name, _)| name);
    root.services.get(name).is_some_and(|service| service.protocol == Protocol::Tcp)
}

fn collide(one: &Address, other: &Address) -> bool {
    let (Address::Ip(one), Address::Ip(other)) = (one, other) else { return one == other };
    let any = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() == other.port() && one.port() != 0 && (any || one.ip() == other.ip())
}

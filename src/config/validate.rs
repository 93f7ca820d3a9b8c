//! What takes more than one key to judge, entry by entry: references, sums, and keys that exclude or need each
//! other. What takes more than one entry is in `reach`.

use std::collections::{BTreeMap, HashMap};

use http::HeaderValue;

use super::check::{Sound, listed, nearest};
use super::merge::twice;
use super::problem::Problem;
use super::schema::{
    Attribute, Endpoint, Endpoints, GrpcMatch, HeaderEdits, Listener, Match, PathMatch, Redirect, Root, Route, Service,
    Sticky, Text, TextMatcher,
};
use super::tree::{Node, step};
use super::units::Duration;
use super::{
    ResolvedEndpoint, authorization, balancing, circuit, health, interception, limits, policies, reach, resolve,
    retries, sockets, tls, traffic,
};
use crate::wire::address::Address;

/// Headers that frame the message or belong to one hop: ours to write.
const OURS: [&str; 10] = [
    "connection",
    "transfer-encoding",
    "content-length",
    "host",
    "te",
    "upgrade",
    "keep-alive",
    "trailer",
    "proxy-connection",
    "http2-settings",
];
/// The largest request head: a bound on what one connection may make us hold.
const HEAD_BYTES_MAX: u64 = 16 << 20;

/// What is said of a list of endpoints that nothing can be sent to.
pub const NO_WEIGHT: &str = "the weights sum to zero, so nothing can be sent";
pub const SOME_WEIGHT: &str = "give one a weight above 0";

/// What is judged, and where it stands.
pub struct View<'a> {
    pub root: &'a Root,
    pub tree: &'a Node,
    pub sound: &'a Sound,
    pub problems: &'a mut Vec<Problem>,
}

/// Judges what is sound; questions about all routes together are asked only if everything is.
pub fn validate(mut view: View<'_>, whole: bool) {
    let root = view.root;
    view.blocks();
    for (name, attribute) in &root.attributes {
        view.attribute(name, attribute);
    }
    for (name, service) in &root.services {
        let path = format!("services{}", step(name));
        view.service(&path, service);
        sockets::service(&mut view, &path, service);
        tls::service(&mut view, &path, service);
        balancing::service(&mut view, &path, service);
        interception::service(&mut view, &path, service);
        circuit::service(&mut view, &path, name, service);
        health::service(&mut view, &path, service);
        limits::service(&mut view, &path, service);
    }
    view.service_hosts();
    circuit::loops(&mut view);
    interception::addresses(&mut view);
    for (index, listener) in root.listeners.iter().enumerate() {
        let path = view.listener_path(index);
        view.listener(&path, listener);
        sockets::listener(&mut view, &path, listener);
        tls::listener(&mut view, &path, listener);
        interception::listener(&mut view, &path, listener);
    }
    for (index, route) in root.routes.iter().enumerate() {
        let path = view.route_path(index);
        view.route(&path, route);
        traffic::route(&mut view, &path, route);
        if let Some(retry) = &route.retry {
            retries::check(&mut view, &format!("{path}.retry"), retry);
        }
        limits::route(&mut view, &path, route);
        circuit::route(&mut view, &path, route);
    }
    retries::check(&mut view, "defaults.retry", &root.defaults.retry);
    policies::validate(&mut view);
    for (index, entry) in root.authorization.iter().enumerate() {
        let path = view.authorization_path(index);
        authorization::entry(&mut view, &path, entry);
    }
    view.names("listeners", &view.sound.listeners.clone(), root.listeners.iter().map(|listener| &listener.name));
    view.names("routes", &view.sound.routes.clone(), root.routes.iter().map(|route| &route.name));
    let entries = root.authorization.iter().map(|entry| &entry.name);
    view.names("authorization", &view.sound.authorization.clone(), entries);
    reach::addresses(&mut view);
    if whole && view.problems.is_empty() {
        reach::routes(&mut view);
        authorization::reach(&mut view, |listener| reach::is_tcp(root, listener));
    }
}

impl View<'_> {
    pub fn push(&mut self, path: &str, message: impl Into<String>, remedy: impl Into<String>) {
        let mut known = path;
        let place = loop {
            match self.tree.find(known) {
                Some(place) => break place,
                None => known = known.get(..known.rfind(['.', '[']).unwrap_or(0)).unwrap_or_default(),
            }
        };
        let (message, remedy) = self.veiled(path, message.into(), remedy.into());
        let remedy = Some(remedy).filter(|remedy| !remedy.is_empty());
        self.problems.push(Problem { remedy, ..Problem::at(place, path, message) });
    }

    /// What messages say in place of the value at `path`, if they must not say it.
    fn veil(&self, path: &str) -> Option<&str> {
        self.tree.at(path)?.veil()
    }

    /// Takes the value at `path` out of what is said of it, where it must not be shown.
    fn veiled(&self, path: &str, mut message: String, mut remedy: String) -> (String, String) {
        let node = self.tree.at(path);
        let Some((text, veil)) = node.and_then(|node| Some((node.text()?, node.veil()?))) else {
            return (message, remedy);
        };
        let veil = format!("`{veil}`");
        if let Some(rest) = message.strip_prefix(text).filter(|_| !text.is_empty()) {
            message = format!("{veil}{rest}");
        }
        for form in [text.to_owned(), text.to_lowercase(), text.escape_debug().to_string()] {
            let form = format!("`{form}`");
            message = message.replace(&form, &veil);
            if remedy.contains(&form) {
                remedy.clear();
            }
        }
        (message, remedy)
    }

    /// Points at the key, where it is the key that is wrong.
    pub fn push_key(&mut self, path: &str, message: impl Into<String>, remedy: impl Into<String>) {
        let place = self.tree.find_key(path).unwrap_or(&self.tree.place);
        self.problems.push(Problem::at(place, path, message).remedy(remedy));
    }

    pub fn route_path(&self, index: usize) -> String {
        format!("routes[{}]", self.sound.routes.get(index).copied().unwrap_or(index))
    }

    pub fn listener_path(&self, index: usize) -> String {
        format!("listeners[{}]", self.sound.listeners.get(index).copied().unwrap_or(index))
    }

    pub fn authorization_path(&self, index: usize) -> String {
        format!("authorization[{}]", self.sound.authorization.get(index).copied().unwrap_or(index))
    }

    pub fn policies_path(&self, index: usize) -> String {
        format!("policies[{}]", self.sound.policies.get(index).copied().unwrap_or(index))
    }

    fn blocks(&mut self) {
        let root = self.root;
        if !root.admin.address.ip().is_loopback() {
            let remedy = format!("use a loopback address such as `127.0.0.1:{}`", root.admin.address.port());
            self.push("admin.address", "the admin endpoints must never be reachable from off the pod", remedy);
        }
        if let Some(probe) = &root.health.application {
            self.positive("health.application.interval", probe.interval);
        }
        self.positive("defaults.connectTimeout", root.defaults.connect_timeout);
        self.positive("defaults.streamIdleTimeout", root.defaults.stream_idle_timeout);
        self.positive("defaults.tcpIdleTimeout", root.defaults.tcp_idle_timeout);
        self.positive("defaults.tcpHalfCloseTimeout", root.defaults.tcp_half_close_timeout);
        if self.tree.get("listeners").is_none_or(|listeners| listeners.seq().is_empty() && !listeners.is_null())
            || self.tree.get("listeners").is_some_and(Node::is_null)
        {
            let example = "listeners: [{ name: edge, mode: proxy, address: \"0.0.0.0:8080\" }]";
            self.push("listeners", "there is no listener, so nothing can arrive", format!("add `{example}`"));
        }
    }

    pub fn positive(&mut self, path: &str, duration: Duration) {
        if duration.is_zero() {
            self.push(path, "must be longer than 0s", "write a time, such as `1s`");
        }
    }

    fn attribute(&mut self, name: &str, attribute: &Attribute) {
        let path = format!("attributes{}.values", step(name));
        for (index, value) in attribute.values.iter().enumerate() {
            if attribute.lowercase && value.to_lowercase() != *value {
                let remedy = format!("write `{}`", value.to_lowercase());
                self.push(&format!("{path}[{index}]"), format!("`{value}` can never be met in lower case"), remedy);
            }
        }
        if let Some(forward) = attribute.forward.as_deref().filter(|forward| is_ours(forward)) {
            let path = format!("attributes{}.forward", step(name));
            self.push(&path, format!("`{forward}` belongs to the proxy"), "use a header of your own");
        }
    }

    fn service(&mut self, path: &str, service: &Service) {
        self.positive(&format!("{path}.connections.idleTimeout"), service.connections.idle_timeout);
        let tcp = service.protocol == super::schema::Protocol::Tcp;
        if tcp && !service.hosts.is_empty() {
            let remedy = "remove it; a route with `to` leads to a tcp service";
            self.push(&format!("{path}.hosts"), "tcp has no host names to ask by", remedy);
        }
        match &service.endpoints {
            Endpoints::Static(endpoints) => self.static_endpoints(path, service, endpoints),
            Endpoints::File(file) if file.is_empty() => {
                self.push(&format!("{path}.endpoints.file"), "an empty path", "")
            }
            Endpoints::File(_) => {}
            Endpoints::Dns(dns) => {
                health::dns(self, &format!("{path}.endpoints.dns"), path, (service, dns));
            }
        }
    }

    fn static_endpoints(&mut self, path: &str, service: &Service, endpoints: &[Endpoint]) {
        let list = format!("{path}.endpoints.static");
        if endpoints.is_empty() {
            self.push(&list, "there is no endpoint", "add `ip:port` of one at least");
            return;
        }
        let resolved = endpoint_problems(endpoints, service.port, &format!("add `port: …` to `{path}`"));
        for (index, message, remedy) in resolved.1 {
            self.push(&format!("{list}[{index}]"), message, remedy);
        }
        let resolved = resolved.0;
        if resolved.len() == endpoints.len() && resolved.iter().all(|endpoint| endpoint.weight == 0) {
            self.push(&list, NO_WEIGHT, SOME_WEIGHT);
        }
        for (name, subset) in &service.subsets {
            let labels = |endpoint: &Endpoint| match endpoint {
                Endpoint::Address(_) => false,
                Endpoint::Full(full) => has_labels(&full.labels, &subset.labels),
            };
            if !endpoints.iter().any(labels) {
                let path = format!("{path}.subsets{}", step(name));
                self.push(&path, "no endpoint has these labels", "change the labels here, or those of an endpoint");
            }
        }
    }

    /// A host asks for one service only.
    fn service_hosts(&mut self) {
        let mut seen: HashMap<String, String> = HashMap::new();
        let root = self.root;
        for (name, service) in &root.services {
            for (index, host) in service.hosts.iter().enumerate() {
                let path = format!("services{}.hosts[{index}]", step(name));
                match seen.get(&host.to_ascii_lowercase()) {
                    Some(first) => self.twice(&path, &format!("host `{host}`"), &first.clone()),
                    None => {
                        seen.insert(host.to_ascii_lowercase(), path);
                    }
                }
            }
        }
    }

    pub fn twice(&mut self, path: &str, what: &str, first: &str) {
        let find = |path: &str| self.tree.find(path).unwrap_or(&self.tree.place);
        let (what, _) = self.veiled(path, what.to_owned(), String::new());
        let problem = twice(find(path), path, &what, find(first));
        self.problems.push(problem);
    }

    fn names<'n>(&mut self, key: &str, indices: &[usize], names: impl Iterator<Item = &'n String>) {
        let mut seen: HashMap<&str, usize> = HashMap::new();
        for (name, index) in names.zip(indices.iter().copied()) {
            match seen.get(name.as_str()).copied() {
                Some(first) => {
                    let (path, first) = (format!("{key}[{index}].name"), format!("{key}[{first}].name"));
                    self.twice(&path, &format!("`{name}`"), &first);
                }
                None => {
                    seen.insert(name, index);
                }
            }
        }
    }

    fn listener(&mut self, path: &str, listener: &Listener) {
        self.positive(&format!("{path}.headerTimeout"), listener.header_timeout);
        self.positive(&format!("{path}.idleTimeout"), listener.idle_timeout);
        if !(1..=HEAD_BYTES_MAX).contains(&listener.max_header_bytes.0) {
            self.push(&format!("{path}.maxHeaderBytes"), "out of range", "from 1 to 16Mi");
        }
    }

    fn route(&mut self, path: &str, route: &Route) {
        let says = [
            ("to", route.to.is_some()),
            ("split", route.split.is_some()),
            ("redirect", route.redirect.is_some()),
            ("respond", route.respond.is_some()),
        ];
        let said: Vec<&str> = says.iter().filter(|(_, there)| *there).map(|(key, _)| *key).collect();
        match said.as_slice() {
            [_] => {}
            [] => self.push(
                path,
                "the route does not say what to do",
                "add one of `to`, `split`, `redirect` or `respond`",
            ),
            [_, second, ..] => {
                let message = format!("{} exclude each other", listed(said.iter().copied()).replace(" or ", " and "));
                self.push(&format!("{path}.{second}"), message, "keep one of them");
            }
        }
        if let Some(to) = &route.to {
            self.target(&format!("{path}.to"), to);
        }
        self.split(path, route);
        for (index, name) in route.listeners.iter().enumerate() {
            self.reference(&format!("{path}.listeners[{index}]"), "listener", name);
        }
        for (index, matched) in route.matches.iter().enumerate() {
            self.matched(&format!("{path}.match[{index}]"), matched);
        }
        self.rewrite(path, route, &said);
        if let Some(redirect) = &route.redirect {
            self.redirect(path, route, redirect);
        }
        self.edits(&format!("{path}.requestHeaders"), &route.request_headers);
        self.edits(&format!("{path}.responseHeaders"), &route.response_headers);
    }

    fn split(&mut self, path: &str, route: &Route) {
        let sides = route.split.as_deref().unwrap_or_default();
        for (index, side) in sides.iter().enumerate() {
            self.target(&format!("{path}.split[{index}].to"), &side.to);
            if let Some(first) = sides.iter().take(index).position(|earlier| earlier.to == side.to) {
                let (path, first) = (format!("{path}.split[{index}].to"), format!("{path}.split[{first}].to"));
                self.twice(&path, &format!("`{}`", side.to), &first);
            }
        }
        if !sides.is_empty() && sides.iter().map(|side| side.weight).sum::<f64>() <= 0.0 {
            self.push(&format!("{path}.split"), "the weights sum to zero", "give one side a weight above 0");
        }
        let Some(sticky) = &route.sticky else { return };
        if route.split.is_none() {
            self.push(&format!("{path}.sticky"), "`sticky` is for `split` only", "remove it, or use `split`");
        }
        if let Sticky::Attribute(name) = sticky {
            self.reference(&format!("{path}.sticky.attribute"), "attribute", name);
        }
    }

    /// `service` or `service/subset`, both of which must be there.
    pub fn target(&mut self, path: &str, target: &str) {
        let (name, subset) = match target.split_once('/') {
            Some((name, subset)) => (name, Some(subset)),
            None => (target, None),
        };
        if !self.reference(path, "service", name) {
            return;
        }
        let (Some(service), Some(subset)) = (self.root.services.get(name), subset) else { return };
        if !service.subsets.contains_key(subset) {
            let shown = self.veil(path).unwrap_or(subset).to_owned();
            let remedy = match nearest(subset, service.subsets.keys().map(String::as_str)) {
                Some(near) => format!("did you mean `{name}/{near}`?"),
                None if service.subsets.is_empty() => format!("`{name}` has no subsets"),
                None => format!("`{name}` has {}", listed(service.subsets.keys().map(String::as_str))),
            };
            self.push(path, format!("service `{name}` has no subset `{shown}`"), remedy);
        }
    }

    /// Whether there is such a thing, sound or not; a problem if not.
    pub fn reference(&mut self, path: &str, kind: &str, name: &str) -> bool {
        let tree = self.tree.get(&format!("{kind}s"));
        let listed_names =
            |node: &Node| node.seq().iter().filter_map(|item| item.get("name")?.text()).map(String::from).collect();
        let is_key = path.ends_with(&step(name));
        let shown = self.veil(path).filter(|_| !is_key).unwrap_or(name);
        let known: Vec<String> = match tree {
            Some(node) if kind == "listener" => listed_names(node),
            Some(node) if node.entry(name).is_some() => return true,
            Some(node) => node.map().iter().map(|entry| entry.key.clone()).collect(),
            None => Vec::new(),
        };
        if known.iter().any(|known| known == name) {
            return true;
        }
        let names = || known.iter().map(String::as_str);
        let remedy = match nearest(name, names()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if known.is_empty() => format!("there is no {kind} at all: add it to `{kind}s`"),
            None if known.len() <= 12 => format!("there is {}", listed(names())),
            None => format!("add it to `{kind}s`"),
        };
        let message = format!("there is no {kind} `{shown}`");
        if is_key {
            self.push_key(path, message, remedy);
        } else {
            self.push(path, message, remedy);
        }
        false
    }

    pub fn matched(&mut self, path: &str, matched: &Match) {
        if let Some(from) = &matched.from {
            authorization::caller(self, &format!("{path}.from"), from);
        }
        if let Some(GrpcMatch { service, method }) = &matched.grpc {
            let grpc = format!("{path}.grpc");
            let empty = |text: &Option<String>| text.as_ref().is_none_or(String::is_empty);
            if empty(service) && empty(method) {
                self.push(&grpc, "`grpc` names neither a service nor a method", "add `service: package.Service`");
            }
            if matched.path.is_some() {
                self.push(&grpc, "`grpc` and `path` exclude each other: both are about the path", "keep one of them");
            }
        }
        let root = self.root;
        for (name, text) in &matched.attributes {
            let path = format!("{path}.attributes{}", step(name));
            if !self.reference(&path, "attribute", name) {
                continue;
            }
            let (Some(attribute), Some(exact)) = (root.attributes.get(name), exact(text)) else { continue };
            let wanted = if attribute.lowercase { exact.to_lowercase() } else { exact.to_owned() };
            if !attribute.values.is_empty() && !attribute.values.contains(&wanted) {
                let veil = self.veil(&path).or_else(|| self.veil(&format!("{path}.exact")));
                let message = format!("attribute `{name}` never has the value `{}`", veil.unwrap_or(exact));
                let known = || attribute.values.iter().map(String::as_str);
                let values = self.tree.at(&format!("attributes{}.values", step(name)));
                let veiled = values.is_some_and(|values| values.seq().iter().any(|value| value.veil().is_some()));
                let remedy = match nearest(exact, known()) {
                    _ if veiled => "write one of its `values`".to_owned(),
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("its values are {}", listed(known())),
                };
                self.push(&path, message, remedy);
            }
        }
    }

    fn rewrite(&mut self, path: &str, route: &Route, said: &[&str]) {
        let Some(rewrite) = &route.rewrite else { return };
        let path = format!("{path}.rewrite");
        if said.iter().any(|key| matches!(*key, "redirect" | "respond")) {
            self.push(&path, "`rewrite` is for what goes upstream: with `to` or `split` only", "remove it");
        }
        if rewrite.prefix.is_some() && rewrite.path.is_some() {
            self.push(&format!("{path}.path"), "`prefix` and `path` exclude each other", "keep one of them");
        }
        if rewrite.prefix.is_some() {
            self.prefixed(&format!("{path}.prefix"), route);
        }
    }

    /// What replaces a prefix needs one in every match.
    fn prefixed(&mut self, path: &str, route: &Route) {
        let prefix = |matched: &Match| matches!(matched.path, Some(PathMatch::Prefix(_)));
        if !route.matches.iter().all(prefix) {
            let remedy = "give every match a `path: { prefix: … }`, or replace the whole `path`";
            self.push(path, "there is a match without the prefix that this replaces", remedy);
        }
    }

    fn redirect(&mut self, route_path: &str, route: &Route, redirect: &Redirect) {
        let path = format!("{route_path}.redirect");
        if !matches!(redirect.status, 301 | 302 | 303 | 307 | 308) {
            let message = format!("{} is not the status of a redirect", redirect.status);
            self.push(&format!("{path}.status"), message, "one of 301, 302, 303, 307 and 308");
        }
        if redirect.prefix.is_some() && redirect.path.is_some() {
            self.push(&format!("{path}.path"), "`prefix` and `path` exclude each other", "keep one of them");
        }
        if redirect.prefix.is_some() {
            self.prefixed(&format!("{path}.prefix"), route);
        }
        if !changes(route, redirect) {
            self.push(
                &path,
                "the redirect leads back to itself",
                "change `scheme`, `host`, `port`, `path` or `prefix`",
            );
        }
    }

    pub fn edits(&mut self, path: &str, edits: &HeaderEdits) {
        let removed = edits.remove.iter().enumerate().map(|(index, name)| (name, format!("{path}.remove[{index}]")));
        let set = edits.set.keys().map(|name| (name, format!("{path}.set{}", step(name))));
        let added = edits.add.keys().map(|name| (name, format!("{path}.add{}", step(name))));
        for (name, path) in removed.chain(set).chain(added) {
            if is_ours(name) {
                let host = name.eq_ignore_ascii_case("host");
                let remedy = if host { "use `rewrite: { host: … }`" } else { "remove it" };
                self.push_key(&path, format!("`{name}` belongs to the proxy"), remedy);
            }
        }
        for (key, values) in [("set", &edits.set), ("add", &edits.add)] {
            let mut seen: BTreeMap<String, &String> = BTreeMap::new();
            for (name, value) in values {
                let path = format!("{path}.{key}");
                let inner = format!("{path}{}", step(name));
                if HeaderValue::from_str(value).is_err() {
                    let message = format!("`{}` is not a header value", value.escape_debug());
                    self.push(&inner, message, "visible characters, spaces and tabs only");
                }
                if let Some(first) = seen.insert(name.to_ascii_lowercase(), name) {
                    self.twice(&inner, &format!("`{name}`"), &format!("{path}{}", step(first)));
                }
            }
        }
    }
}

/// Whether what a redirect leads to can be anything else than what was asked for.
fn changes(route: &Route, redirect: &Redirect) -> bool {
    let host = redirect
        .host
        .as_ref()
        .is_some_and(|to| route.hosts.is_empty() || !route.hosts.iter().all(|host| host.eq_ignore_ascii_case(to)));
    let moved = |matched: &Match| match (&matched.path, &redirect.path, &redirect.prefix) {
        (Some(PathMatch::Exact(from)), Some(to), _) => from != to,
        (Some(PathMatch::Prefix(from)), _, Some(to)) => from.trim_end_matches('/') != to.trim_end_matches('/'),
        (_, path, prefix) => path.is_some() || prefix.is_some(),
    };
    let path = match route.matches.as_slice() {
        [] => redirect.path.is_some() || redirect.prefix.as_ref().is_some_and(|prefix| prefix != "/"),
        matches => matches.iter().any(moved),
    };
    host || path || redirect.scheme.is_some() || redirect.port.is_some()
}

/// Endpoints with their addresses, and what is wrong with the others: index, message, remedy.
pub fn endpoint_problems(
    endpoints: &[Endpoint],
    port: Option<u16>,
    remedy: &str,
) -> (Vec<ResolvedEndpoint>, Vec<(usize, String, String)>) {
    let (mut resolved, mut problems) = (Vec::new(), Vec::new());
    let mut seen: HashMap<Address, usize> = HashMap::new();
    for (index, endpoint) in endpoints.iter().enumerate() {
        let Some(endpoint) = resolve(endpoint, port) else {
            problems.push((index, "the endpoint has no port".to_owned(), remedy.to_owned()));
            continue;
        };
        if seen.insert(endpoint.address.clone(), index).is_some() {
            let message = format!("endpoint {} is there twice", endpoint.address);
            problems.push((index, message, "give one of them more `weight` instead".to_owned()));
        }
        let others = &endpoint.alternatives;
        if endpoint.address.socket().is_none() && !others.is_empty() {
            let remedy = "remove `alternatives`, or make them endpoints of their own".to_owned();
            problems.push((index, "a Unix socket has no other addresses".to_owned(), remedy));
        }
        let again = |(at, other): (usize, &std::net::SocketAddr)| {
            Some(*other) == endpoint.address.socket() || others.iter().take(at).any(|o| o == other)
        };
        if let Some(at) = others.iter().enumerate().position(again) {
            let twice = others.get(at).map_or_else(|| endpoint.address.to_string(), ToString::to_string);
            problems.push((
                index,
                format!("the endpoint has {twice} twice"),
                "each of its addresses stands once".to_owned(),
            ));
        }
        resolved.push(endpoint);
    }
    (resolved, problems)
}

pub fn has_labels(labels: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// The one text that a condition is about, if it is that kind of condition.
pub fn exact(text: &Text) -> Option<&str> {
    match text {
        Text::Exact(exact) | Text::Matcher(TextMatcher::Exact(exact)) => Some(exact),
        Text::Matcher(_) => None,
    }
}

pub fn is_ours(name: &str) -> bool {
    OURS.iter().any(|ours| ours.eq_ignore_ascii_case(name))
}

//! The order of the routes. It means something only between rules that precedence does not tell apart: there, the
//! earlier line wins.

use std::collections::{BTreeMap, HashMap};

use super::{Change, Kind, words};
use crate::config::schema::{Caller, GrpcMatch, Match, PathMatch, Root, Route};

/// Rules that only their line tells apart: listener, host, path, methods, and the numbers of conditions.
type Tie<'r> = (&'r str, String, String, bool, usize, usize);

/// One change, about the first two routes that have changed places, if any have that may match the same requests.
pub fn change(old: &Root, new: &Root) -> Option<Change> {
    let names: Vec<&str> = new.routes.iter().map(|route| route.name.as_str()).collect();
    let before: HashMap<&str, usize> =
        old.routes.iter().enumerate().map(|(index, route)| (route.name.as_str(), index)).collect();
    let places: Vec<usize> = names.iter().filter_map(|name| before.get(name).copied()).collect();
    if places.is_sorted() {
        return None;
    }
    let mut ties: BTreeMap<Tie<'_>, &str> = BTreeMap::new();
    for route in new.routes.iter().filter(|route| before.contains_key(route.name.as_str())) {
        for tie in ties_of(new, route) {
            let Some(earlier) = ties.insert(tie, &route.name) else { continue };
            if before.get(earlier) > before.get(route.name.as_str()) {
                let name = |name: &str| format!("`{}`", words::cut(name, words::NAME_MAX));
                let subject = "order of the routes".to_owned();
                let text =
                    format!("{subject}: {} now before {}, and wins where both match", name(earlier), name(&route.name));
                return Some(Change { kind: Kind::Changed, subject, text: words::cut(&text, words::TEXT_MAX) });
            }
        }
    }
    None
}

fn ties_of<'r>(root: &'r Root, route: &Route) -> Vec<Tie<'r>> {
    let listeners = root.listeners.iter().map(|listener| listener.name.as_str());
    let listeners: Vec<&str> =
        listeners.filter(|name| route.listeners.is_empty() || route.listeners.iter().any(|l| l == name)).collect();
    let hosts = match route.hosts.as_slice() {
        [] => vec![String::new()],
        hosts => hosts.iter().map(|host| host.to_ascii_lowercase()).collect(),
    };
    let all = [Match::default()];
    let matches = if route.matches.is_empty() { all.as_slice() } else { &route.matches };
    let mut ties = Vec::new();
    for one in matches {
        let from = one.from.as_ref().is_some_and(|from| *from != Caller::default());
        let named = one.headers.len() + one.cookies.len() + one.attributes.len();
        let others = named + usize::from(one.grpc.is_some()) + usize::from(from);
        for (listener, host) in listeners.iter().flat_map(|listener| hosts.iter().map(move |host| (listener, host))) {
            ties.push((*listener, host.clone(), path(one), one.methods.is_empty(), others, one.query.len()));
        }
    }
    ties
}

/// As far as precedence looks at it: all regular expressions are alike.
fn path(one: &Match) -> String {
    let template = |path: &str| {
        let segment = |segment: &str| if segment.starts_with('{') { "{}".to_owned() } else { segment.to_owned() };
        format!("template {}", path.split('/').map(segment).collect::<Vec<_>>().join("/"))
    };
    match (&one.path, &one.grpc) {
        (Some(PathMatch::Exact(path)), _) => format!("exact {path}"),
        (Some(PathMatch::Prefix(path)), _) => format!("prefix {}", path.strip_suffix('/').unwrap_or(path)),
        (Some(PathMatch::Template(path)), _) => template(path),
        (Some(PathMatch::Regex(_)), _) => "regex".to_owned(),
        (None, Some(GrpcMatch { service: Some(service), method: Some(method) })) => {
            format!("exact /{service}/{method}")
        }
        (None, Some(GrpcMatch { service: Some(service), .. })) => format!("prefix /{service}"),
        (None, Some(GrpcMatch { method: Some(method), .. })) => template(&format!("/{{}}/{method}")),
        (None, _) => String::new(),
    }
}

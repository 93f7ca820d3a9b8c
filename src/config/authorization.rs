//! What `authorization` and the `from` of a match must say, beyond the types. A condition that is written and empty is
//! refused: it would hold for everybody, and whoever wrote it (or a template that had nothing to fill in) meant another.

use super::check::listed;
use super::schema::{Authorization, Caller, IdentityMatch, IdentityMatcher, Listener, Mode, Operation};
use super::validate::View;
use crate::wire::spiffe::SpiffeId;

/// One entry, by itself.
pub fn entry(view: &mut View<'_>, path: &str, entry: &Authorization) {
    filled(view, path, &["listeners", "ports", "allow", "deny"]);
    let written = |key: &str| view.tree.at(&format!("{path}.{key}")).is_some();
    if !written("allow") && !written("deny") {
        let remedy = "add `allow` or `deny`; `deny: [{}]` denies everything";
        view.push(path, "the entry allows nothing and denies nothing", remedy);
    }
    for (index, name) in entry.listeners.iter().enumerate() {
        view.reference(&format!("{path}.listeners[{index}]"), "listener", name);
    }
    for (list, rules) in [("allow", &entry.allow), ("deny", &entry.deny)] {
        for (index, rule) in rules.iter().enumerate() {
            let path = format!("{path}.{list}[{index}]");
            filled(view, &path, &["from", "to"]);
            caller(view, &format!("{path}.from"), &rule.from);
            filled(view, &format!("{path}.to"), &["ports", "methods", "paths", "hosts", "headers"]);
        }
    }
}

/// Conditions on who calls.
pub fn caller(view: &mut View<'_>, path: &str, caller: &Caller) {
    filled(view, path, &["identities", "namespaces", "cidrs"]);
    if view.tree.get("identity").is_none() {
        for (key, _) in [("identities", caller.identities.len()), ("namespaces", caller.namespaces.len())]
            .into_iter()
            .filter(|(_, count)| *count > 0)
        {
            let remedy = "add `identity` with a certificate of our own and the trust bundle, or ask for `cidrs`";
            view.push(&format!("{path}.{key}"), "without an `identity` of ours nobody can prove theirs", remedy);
        }
    }
    let Some(own) = view.root.identity.as_ref().map(|identity| identity.trust_domain.as_str()) else { return };
    for (index, identity) in caller.identities.iter().enumerate() {
        let (text, key) = match identity {
            IdentityMatch::Pattern(text) => (text, ""),
            IdentityMatch::Matcher(IdentityMatcher::Exact(text)) => (text, ".exact"),
            IdentityMatch::Matcher(IdentityMatcher::Prefix(_)) => continue,
        };
        if SpiffeId::parse(text).is_ok_and(|id| id.trust_domain() != own) {
            let message = format!("`{text}` is of another trust domain, and only callers of `{own}` are believed");
            view.push(&format!("{path}.identities[{index}]{key}"), message, "change or remove it");
        }
    }
}

/// All entries, held against the listeners that they are for. `tcp` says which of those are L4.
pub fn reach(view: &mut View<'_>, tcp: impl Fn(&Listener) -> bool) {
    let root = view.root;
    for (index, entry) in root.authorization.iter().enumerate() {
        let path = view.authorization_path(index);
        let here = |listener: &&Listener| {
            (entry.listeners.is_empty() || entry.listeners.contains(&listener.name)) && listener.mode != Mode::Outbound
        };
        let here: Vec<&Listener> = root.listeners.iter().filter(here).collect();
        // What is 0 is not known before it is bound.
        let known = here.iter().all(|listener| listener.mode == Mode::Proxy && listener.address.port() != 0);
        let there = |port: u16| !known || here.iter().any(|listener| listener.address.port() == port);
        let ports = |view: &mut View<'_>, path: &str, ports: &[u16], there: &dyn Fn(u16) -> bool| {
            for (index, port) in ports.iter().enumerate().filter(|(_, port)| !there(**port)) {
                let message = format!("nothing that this is for has port {port}, so it never counts");
                let listeners: Vec<String> = here.iter().map(|listener| listener.address.port().to_string()).collect();
                let remedy = format!("there is {}", listed(listeners.iter().map(String::as_str)));
                view.push(&format!("{path}.ports[{index}]"), message, remedy);
            }
        };
        ports(view, &path, &entry.ports, &there);
        let there = |port: u16| there(port) && (entry.ports.is_empty() || entry.ports.contains(&port));
        let relayed = here.iter().all(|listener| tcp(listener)).then(|| here.first()).flatten();
        for (list, rules) in [("allow", &entry.allow), ("deny", &entry.deny)] {
            for (index, rule) in rules.iter().enumerate() {
                let path = format!("{path}.{list}[{index}].to");
                ports(view, &path, &rule.to.ports, &there);
                for key in relayed.iter().flat_map(|_| about_http(&rule.to)) {
                    let name = relayed.map_or("", |listener| listener.name.as_str());
                    let message = format!("`{key}` is about HTTP, and listener `{name}` is tcp");
                    view.push(&format!("{path}.{key}"), message, "remove it");
                }
            }
        }
    }
}

fn about_http(operation: &Operation) -> impl Iterator<Item = &'static str> {
    let Operation { ports: _, methods, paths, hosts, headers } = operation;
    let keys = [
        ("methods", !methods.is_empty()),
        ("paths", !paths.is_empty()),
        ("hosts", !hosts.is_empty()),
        ("headers", !headers.is_empty()),
    ];
    keys.into_iter().filter(|(_, there)| *there).map(|(key, _)| key)
}

fn filled(view: &mut View<'_>, path: &str, keys: &[&str]) {
    for key in keys {
        let inner = format!("{path}.{key}");
        let Some(node) = view.tree.at(&inner) else { continue };
        // A mapping without keys says in so many words that it asks for nothing.
        let mapping = matches!(*key, "from" | "to");
        let empty =
            node.is_null() || !mapping && node.seq().is_empty() && node.map().is_empty() && node.text().is_none();
        if empty {
            let message = format!("`{key}` is empty, and so would say nothing");
            view.push(&inner, message, "write something, or remove the key");
        }
    }
}

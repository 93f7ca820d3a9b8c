//! What is different between two configurations, in words: what has a name by its name, all else key by key, in the
//! spelling of the language. What only is spelled otherwise is no difference; secrets are not shown.
//!
//! `normal` gives both sides one spelling, `walk` compares, `order` looks at the order of routes, and `affected` says
//! which routes treat a request differently.

mod affected;
mod normal;
mod order;
mod walk;
mod words;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;
use serde_json::Value as Json;

use super::Config;
use super::schema::{Endpoints, Root, Route, Service};
use super::secrets::{self, At};
use words::TEXT_MAX;

pub use affected::{changed_routes, removed_routes};

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// What has happened to the subject: one that is changed has a change for each key.
    pub kind: Kind,
    /// Such as "route `reviews`", "`defaults`" or "order of the routes".
    pub subject: String,
    /// A line of about 200 characters at most: "route `reviews`: timeout: 2s -> 3s".
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Changed,
    Added,
    Removed,
}

/// What has names of its own; the order is that of a report.
const NAMED: [&str; 5] = ["route", "service", "listener", "attribute", "authorization"];

/// Every difference; none where both mean the same.
pub fn changes(old: &Config, new: &Config) -> Vec<Change> {
    let (old, new) = (old.root(), new.root());
    let secret = secrets::attributes(old).into_iter().chain(secrets::attributes(new)).collect();
    let mut changes = Changes { list: Vec::new(), secret };
    named(
        &mut changes,
        "route",
        by_name(&old.routes, |r| &r.name),
        by_name(&new.routes, |r| &r.name),
        Side { of: |old: &Route, new: &Route| (normal::route(old), normal::route(new)), about: about_route },
    );
    changes.list.extend(order::change(old, new));
    named(
        &mut changes,
        "service",
        old.services.iter().collect(),
        new.services.iter().collect(),
        Side {
            of: |old: &Service, new: &Service| {
                // With another port every endpoint without one of its own would seem to be another.
                let resolve = old.port == new.port;
                (normal::service(old, resolve), normal::service(new, resolve))
            },
            about: about_service,
        },
    );
    named(
        &mut changes,
        "listener",
        by_name(&old.listeners, |l| &l.name),
        by_name(&new.listeners, |l| &l.name),
        Side {
            of: |old, new| (normal::plain(old), normal::plain(new)),
            about: |listener| format!(", {}", listener.address),
        },
    );
    named(
        &mut changes,
        "attribute",
        old.attributes.iter().collect(),
        new.attributes.iter().collect(),
        Side { of: |old, new| (normal::attribute(old), normal::attribute(new)), about: |_| String::new() },
    );
    named(
        &mut changes,
        "authorization",
        by_name(&old.authorization, |a| &a.name),
        by_name(&new.authorization, |a| &a.name),
        Side {
            of: |old, new| (normal::authorization(old), normal::authorization(new)),
            about: |entry| format!(", {} allow, {} deny", entry.allow.len(), entry.deny.len()),
        },
    );
    blocks(&mut changes, old, new);
    changes.list
}

/// One line: "2 routes changed, 1 service added", or "nothing changed".
pub fn summary(changes: &[Change]) -> String {
    let mut subjects: BTreeMap<(usize, Kind), BTreeSet<&str>> = BTreeMap::new();
    let mut others: Vec<String> = Vec::new();
    for change in changes {
        let noun = change.subject.split_once(" `").map(|(noun, _)| noun);
        match NAMED.iter().position(|known| Some(*known) == noun) {
            Some(noun) => {
                subjects.entry((noun, change.kind)).or_default().insert(&change.subject);
            }
            None => others.push(format!("{} {}", change.subject, change.kind.name())),
        }
    }
    others.dedup();
    let count = |((noun, kind), subjects): ((usize, Kind), BTreeSet<&str>)| {
        let noun = NAMED.get(noun).copied().unwrap_or_default();
        let plural = if subjects.len() == 1 { "" } else { "s" };
        format!("{} {noun}{plural} {}", subjects.len(), kind.name())
    };
    let all: Vec<String> = subjects.into_iter().map(count).chain(others).collect();
    if all.is_empty() { "nothing changed".to_owned() } else { all.join(", ") }
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Added => "added",
            Self::Removed => "removed",
        }
    }
}

/// How two things of one name are compared, and what is worth saying about one that is new.
struct Side<T> {
    of: fn(&T, &T) -> (Json, Json),
    about: fn(&T) -> String,
}

/// What was found, and the attributes whose values are secrets on either side.
struct Changes {
    list: Vec<Change>,
    secret: BTreeSet<String>,
}

type Names<'a, T> = Vec<(&'a String, &'a T)>;

fn by_name<T>(list: &[T], name: fn(&T) -> &String) -> Names<'_, T> {
    list.iter().map(|item| (name(item), item)).collect()
}

fn named<T: PartialEq>(changes: &mut Changes, noun: &str, old: Names<'_, T>, new: Names<'_, T>, side: Side<T>) {
    let before: HashMap<&String, &T> = old.iter().copied().collect();
    let after: HashMap<&String, &T> = new.iter().copied().collect();
    for (name, was) in old {
        match after.get(name) {
            Some(is) if was == *is => {}
            Some(is) => {
                push_all(changes, &format!("{noun} `{name}`"), Kind::Changed, (noun, name), (side.of)(was, is));
            }
            None => push(changes, format!("{noun} `{name}`"), Kind::Removed, (noun, name), "removed"),
        }
    }
    for (name, is) in new.into_iter().filter(|(name, _)| !before.contains_key(name)) {
        let text = format!("added{}", (side.about)(is));
        push(changes, format!("{noun} `{name}`"), Kind::Added, (noun, name), &text);
    }
}

fn blocks(changes: &mut Changes, old: &Root, new: &Root) {
    for ((key, was), (_, is)) in normal::blocks(old).into_iter().zip(normal::blocks(new)) {
        let kind = match (was.is_null(), is.is_null()) {
            (true, _) => Kind::Added,
            (_, true) => Kind::Removed,
            _ => Kind::Changed,
        };
        push_all(changes, &format!("`{key}`"), kind, ("", key), (was, is));
    }
}

fn push_all(changes: &mut Changes, subject: &str, kind: Kind, named: (&str, &str), mut sides: (Json, Json)) {
    let root = At::root(&changes.secret);
    let at = match named {
        ("route", _) => root.below("routes"),
        ("listener", _) => root.below("listeners"),
        ("service", name) => root.below("services").below(name),
        ("authorization", _) => root.below("authorization"),
        ("attribute", name) => root.below("attributes").below(name),
        (_, key) => root.below(key),
    };
    secrets::seal(&mut sides.0, at);
    secrets::seal(&mut sides.1, at);
    for line in walk::differences(&sides.0, &sides.1) {
        push(changes, subject.to_owned(), kind, named, &line);
    }
}

fn push(changes: &mut Changes, subject: String, kind: Kind, (noun, name): (&str, &str), line: &str) {
    let space = if noun.is_empty() { "" } else { " " };
    let text = format!("{noun}{space}`{}`: {line}", words::cut(name, words::NAME_MAX));
    changes.list.push(Change { kind, subject, text: words::cut(&text, TEXT_MAX) });
}

fn about_route(route: &Route) -> String {
    if let Some(to) = &route.to {
        return format!(", to `{}`", words::cut(to, words::NAME_MAX));
    }
    match (&route.split, &route.redirect, &route.respond) {
        (Some(split), ..) => {
            let sides = split.iter().map(|side| format!("`{}` {}", side.to, side.weight));
            format!(", split between {}", sides.take(8).collect::<Vec<_>>().join(", "))
        }
        (_, Some(_), _) => ", a redirect".to_owned(),
        (.., Some(respond)) => format!(", answers {}", respond.status),
        _ => String::new(),
    }
}

fn about_service(service: &Service) -> String {
    match &service.endpoints {
        Endpoints::Static(list) if list.len() == 1 => ", 1 endpoint".to_owned(),
        Endpoints::Static(list) => format!(", {} endpoints", list.len()),
        Endpoints::File(file) => format!(", endpoints in `{}`", words::cut(file, words::NAME_MAX)),
        Endpoints::Dns(dns) => format!(", endpoints by DNS from `{}`", words::cut(&dns.name, words::NAME_MAX)),
    }
}

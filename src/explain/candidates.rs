//! Every rule of a listener held against one request, in the order of precedence: the first that fails nothing wins.
//! The same outcome as the route table's, found the slow way; a property test holds the two against each other.

use std::cmp::Ordering;
use std::fmt::Display;

use super::places::{self, place};
use super::{Candidate, Failed, More, Standing, short};
use crate::snapshot::hosts::bare;
use crate::snapshot::matcher::{Facts, Key, Text};
use crate::snapshot::route::{PathRule, Rule, is_parameter, written_regex};
use crate::snapshot::{self, Listener, Snapshot};

/// Candidates that are shown before the winner, and with those after it; a table may have a hundred thousand.
const SHOWN: usize = 100;
/// Values of one condition that are named, and characters of what it wants and finds.
const VALUES: usize = 3;
const LENGTH: usize = 300;

#[derive(Default)]
pub struct Candidates {
    pub shown: Vec<Candidate>,
    pub more: More,
    /// Rules for the host that come before the winner, and fail.
    pub failing: usize,
    /// The route, and which of its matches.
    pub winner: Option<(usize, usize)>,
}

/// The winner, and those before and after it.
pub fn candidates(snapshot: &Snapshot, listener: &Listener, facts: &Facts<'_>) -> Candidates {
    let written = snapshot.config.root().routes.len();
    let rules = snapshot::rules(snapshot, listener).into_iter().chain(snapshot::implied_rules(snapshot));
    let mut ranked: Vec<(Order, Vec<String>, Rule)> = rules
        .map(|(hosts, rule)| (Order { implied: rule.route >= written, host: host(&hosts, facts.host) }, hosts, rule))
        .collect();
    ranked.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| by_rule(&a.2, &b.2)));
    let mut found = Candidates::default();
    let mut won = false;
    for (order, hosts, rule) in &ranked {
        let judge = Judge { snapshot, facts, rule };
        if won {
            match found.shown.len() <= SHOWN {
                true => found.shown.push(judge.candidate(Standing::NotTried, None)),
                false => found.more.after += 1,
            }
            continue;
        }
        let failed = judge.failed(order.host, hosts);
        won = failed.is_none();
        found.winner = won.then_some((rule.route, rule.index));
        found.failing += usize::from(!won && order.host != Host::Other);
        match won {
            true => found.shown.push(judge.candidate(Standing::Wins, None)),
            false if found.shown.len() < SHOWN => found.shown.push(judge.candidate(Standing::Fails, failed)),
            false => found.more.before += 1,
        }
    }
    found
}

/// The routes of a tcp listener, for a connection that asks for this name.
pub fn of_tcp(snapshot: &Snapshot, listener: &Listener, name: &str) -> Candidates {
    let mut ranked: Vec<(Host, usize, Vec<String>)> = snapshot::tcp_routes(snapshot, listener)
        .into_iter()
        .map(|(route, hosts)| (host(&hosts, name), route, hosts))
        .collect();
    ranked.sort_by_key(|(host, ..)| *host);
    let won = ranked.first().is_some_and(|(host, ..)| *host != Host::Other);
    let shown = ranked.iter().enumerate().take(SHOWN).map(|(at, (_, route, hosts))| {
        let path = places::of_route(snapshot, *route);
        let failed = (!won).then(|| Failed {
            condition: "server name".to_owned(),
            wanted: short(&listed(hosts, " or "), LENGTH),
            found: if name.is_empty() { "none".to_owned() } else { format!("`{name}`") },
            place: place(snapshot, &format!("{path}.hosts")),
        });
        Candidate {
            route: snapshot.routes.get(*route).map_or("", |route| &*route.name).to_owned(),
            rule: None,
            place: place(snapshot, &path),
            standing: match (won, at) {
                (true, 0) => Standing::Wins,
                (true, _) => Standing::NotTried,
                (false, _) => Standing::Fails,
            },
            failed,
        }
    });
    let shown: Vec<Candidate> = shown.collect();
    let left = ranked.len() - shown.len();
    let more = if won { More { before: 0, after: left } } else { More { before: left, after: 0 } };
    Candidates { shown, more, ..Candidates::default() }
}

/// What precedes the path in the order of precedence.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Order {
    /// Routes that the hosts of services imply come after all that are written.
    implied: bool,
    host: Host,
}

/// How a rule's hosts match. Lower wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Host {
    Exact,
    /// The longer the better.
    Wildcard(std::cmp::Reverse<usize>),
    Any,
    Other,
}

fn host(hosts: &[String], asked: &str) -> Host {
    let one = |host: &String| {
        let host = bare(host);
        match host.strip_prefix('*') {
            Some(suffix) if asked.len() > suffix.len() && asked.ends_with(suffix) => {
                Host::Wildcard(std::cmp::Reverse(suffix.len()))
            }
            None if host == asked => Host::Exact,
            _ => Host::Other,
        }
    };
    if hosts.is_empty() { Host::Any } else { hosts.iter().map(one).min().unwrap_or(Host::Other) }
}

fn by_rule(a: &Rule, b: &Rule) -> Ordering {
    let class = |rule: &Rule| match rule.path {
        PathRule::Exact(_) => 0,
        PathRule::Prefix(_) | PathRule::Template(_) => 1,
        PathRule::Regex(_) => 2,
        PathRule::Any => 3,
    };
    let rank = |rule: &Rule| (rule.conditions.rank(), rule.conditions.line);
    class(a).cmp(&class(b)).then_with(|| by_path(&a.path, &b.path)).then_with(|| rank(a).cmp(&rank(b)))
}

/// Prefixes and templates segment by segment: a literal before a parameter, more segments before fewer, a template
/// before a prefix. The order of two literals is of no consequence, since a path has only one of them.
fn by_path(a: &PathRule, b: &PathRule) -> Ordering {
    fn of(path: &PathRule) -> Option<(Vec<&str>, u8)> {
        match path {
            PathRule::Prefix(path) => Some((segments(path), 1)),
            PathRule::Template(path) => Some((segments(path), 0)),
            PathRule::Any | PathRule::Exact(_) | PathRule::Regex(_) => None,
        }
    }
    let (Some((first, first_kind)), Some((second, second_kind))) = (of(a), of(b)) else { return Ordering::Equal };
    for (one, other) in first.iter().zip(&second) {
        let order = match (is_parameter(one), is_parameter(other)) {
            (false, true) => Ordering::Less,
            (true, false) => Ordering::Greater,
            (true, true) => Ordering::Equal,
            (false, false) => one.cmp(other),
        };
        if order.is_ne() {
            return order;
        }
    }
    second.len().cmp(&first.len()).then(first_kind.cmp(&second_kind))
}

fn segments(path: &str) -> Vec<&str> {
    path.strip_prefix('/').into_iter().flat_map(|path| path.split('/')).collect()
}

/// One rule, and the request that it is held against.
struct Judge<'a> {
    snapshot: &'a Snapshot,
    facts: &'a Facts<'a>,
    rule: &'a Rule,
}

impl Judge<'_> {
    /// Where the rule is written: its match, or the route where it has none.
    fn path(&self) -> String {
        places::of_rule(self.snapshot, self.rule.route, self.rule.index)
    }

    fn candidate(&self, standing: Standing, failed: Option<Failed>) -> Candidate {
        let Rule { route, index, .. } = *self.rule;
        let name = self.snapshot.routes.get(route).map_or("", |route| &*route.name).to_owned();
        let rule = places::number(self.snapshot, route, index);
        Candidate { route: name, rule, place: place(self.snapshot, &self.path()), standing, failed }
    }

    fn failed(&self, host: Host, hosts: &[String]) -> Option<Failed> {
        let Self { facts, rule, .. } = self;
        if host == Host::Other {
            let asked = if facts.host.is_empty() { "none".to_owned() } else { format!("`{}`", facts.host) };
            let route = places::of_route(self.snapshot, rule.route);
            let path = if route.ends_with(".hosts") { route } else { format!("{route}.hosts") };
            return Some(self.because("host", &listed(hosts, " or "), &asked, &path));
        }
        self.failed_path()
            .or_else(|| {
                let methods = &rule.conditions.methods;
                let fails = !methods.is_empty() && !methods.contains(facts.method);
                let (wanted, found) = (|| listed(methods, " or "), format!("`{}`", facts.method));
                fails.then(|| self.because("method", &wanted(), &found, &self.sub("methods")))
            })
            .or_else(|| {
                let fails = rule.conditions.grpc && !facts.grpc;
                fails.then(|| self.because("grpc", "a gRPC request", "another content type", &self.sub("grpc")))
            })
            .or_else(|| {
                let from = rule.conditions.from.as_ref().filter(|from| !from.fit(&facts.caller))?;
                Some(self.because("caller", &from.to_string(), &facts.caller.to_string(), &self.sub("from")))
            })
            .or_else(|| self.failed_condition())
    }

    fn failed_path(&self) -> Option<Failed> {
        let (wanted, key) = match &self.rule.path {
            PathRule::Any => return None,
            PathRule::Exact(path) => (format!("exactly `{path}`"), "path.exact"),
            PathRule::Prefix(path) => (format!("prefix `{}`", if path.is_empty() { "/" } else { path }), "path.prefix"),
            PathRule::Template(path) => (format!("template `{path}`"), "path.template"),
            PathRule::Regex(regex) => (format!("regex `{}`", written_regex(regex)), "path.regex"),
        };
        if self.rule.path.fits(self.facts.path) {
            return None;
        }
        // The path of a gRPC rule is written as a service and a method.
        let key = if self.rule.conditions.grpc { "grpc" } else { key };
        Some(self.because("path", &wanted, &format!("`{}`", self.facts.path), &self.sub(key)))
    }

    fn failed_condition(&self) -> Option<Failed> {
        let condition = self.rule.conditions.all.iter().find(|condition| !condition.holds(self.facts))?;
        let (section, name) = self.written_key(&condition.key);
        let secret = match condition.key {
            Key::Attribute(index) => self.snapshot.attributes.get(index).is_some_and(|attribute| attribute.secret),
            Key::Header(_) | Key::Cookie(_) | Key::Query(_) => crate::config::is_secret(&name),
        };
        let mut found = Vec::new();
        condition.key.each(self.facts, &mut |value| found.push(super::shown(secret, value)));
        let found = if found.is_empty() { "none".to_owned() } else { listed(&found, " and ") };
        let what = condition.key.describe(self.snapshot);
        let path = self.sub(&format!("{section}{}", crate::config::step(&name)));
        let wanted = match condition.text {
            Text::Present | Text::Absent => condition.text.to_string(),
            _ => super::shown(secret, &condition.text.to_string()),
        };
        Some(self.because(&what, &wanted, &found, &path))
    }

    /// Section and key by which a condition is written. The names of headers are in lower case once compiled.
    fn written_key(&self, key: &Key) -> (&'static str, String) {
        match key {
            Key::Header(name) => {
                let route = places::written(self.snapshot, self.rule.route);
                let one = route.and_then(|route| route.matches.get(self.rule.index));
                let mut names = one.into_iter().flat_map(|one| one.headers.keys());
                let written = names.find(|written| written.eq_ignore_ascii_case(name.as_str()));
                ("headers", written.map_or_else(|| name.to_string(), Clone::clone))
            }
            Key::Cookie(name) => ("cookies", name.to_string()),
            Key::Query(name) => ("query", name.to_string()),
            Key::Attribute(index) => {
                let attribute = self.snapshot.attributes.get(*index);
                ("attributes", attribute.map_or_else(String::new, |attribute| attribute.name.to_string()))
            }
        }
    }

    fn sub(&self, key: &str) -> String {
        format!("{}.{key}", self.path())
    }

    fn because(&self, what: &str, wanted: &str, found: &str, path: &str) -> Failed {
        let place = place(self.snapshot, path).or_else(|| place(self.snapshot, &self.path()));
        Failed { condition: what.to_owned(), wanted: short(wanted, LENGTH), found: short(found, LENGTH), place }
    }
}

/// `a` or `b`; of many, the first and how many more.
fn listed(all: &[impl Display], between: &str) -> String {
    let quoted: Vec<String> = all.iter().take(VALUES).map(|one| format!("`{one}`")).collect();
    match all.len().saturating_sub(VALUES) {
        0 => quoted.join(between),
        more => format!("{} and {more} more", quoted.join(", ")),
    }
}

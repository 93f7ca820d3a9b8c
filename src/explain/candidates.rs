//! Every rule of a listener held against one request, in the order of precedence: the first that fails nothing wins.
//! The same outcome as the route table's, found the slow way; a property test holds the two against each other.

use std::cmp::Ordering;

use super::{Candidate, Failed, Standing};
use crate::config::Config;
use crate::config::schema;
use crate::snapshot::matcher::{Facts, Key, Text};
use crate::snapshot::route::{PathRule, Rule, is_parameter, written_regex};
use crate::snapshot::{self, Listener, Snapshot};

/// Candidates that are shown; a table may have a hundred thousand.
const SHOWN: usize = 100;

/// The candidates, the winner among them, and how many more there are.
pub fn candidates(snapshot: &Snapshot, listener: &Listener, facts: &Facts<'_>) -> (Vec<Candidate>, usize) {
    let written = snapshot.config.root().routes.len();
    let rules = snapshot::rules(snapshot, listener).into_iter().chain(snapshot::implied_rules(snapshot));
    let mut ranked: Vec<(Order, Vec<String>, Rule)> = rules
        .map(|(hosts, rule)| (Order { implied: rule.route >= written, host: host(&hosts, facts.host) }, hosts, rule))
        .collect();
    ranked.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| by_rule(&a.2, &b.2)));
    let mut won = false;
    let mut shown = Vec::new();
    let mut more = 0;
    for (order, hosts, rule) in &ranked {
        let judge = Judge { snapshot, facts, rule };
        let failed = if won { None } else { judge.failed(order.host, hosts) };
        let standing = match (&failed, won) {
            (_, true) => Standing::NotTried,
            (Some(_), _) => Standing::Fails,
            (None, _) => Standing::Wins,
        };
        won |= standing == Standing::Wins;
        if shown.len() < SHOWN || standing == Standing::Wins {
            shown.push(judge.candidate(standing, failed));
        } else {
            more += 1;
        }
    }
    (shown, more)
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
        let host = host.to_ascii_lowercase();
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
    fn config(&self) -> &Config {
        &self.snapshot.config
    }

    /// The rule as it is written; `None` for one that a service's hosts imply.
    fn written(&self) -> Option<&schema::Route> {
        self.config().root().routes.get(self.rule.route)
    }

    /// Where the rule is written: its match, or the route where it has none.
    fn path(&self) -> String {
        let Rule { route, index, .. } = self.rule;
        match self.written() {
            Some(written) if !written.matches.is_empty() => format!("routes[{route}].match[{index}]"),
            Some(_) => format!("routes[{route}]"),
            None => {
                let name = self.snapshot.routes.get(*route).map_or("", |route| &*route.name);
                format!("services{}.hosts", crate::config::step(name))
            }
        }
    }

    fn candidate(&self, standing: Standing, failed: Option<Failed>) -> Candidate {
        let place = self.config().place(&self.path()).map(|place| place.to_string());
        let route = self.snapshot.routes.get(self.rule.route).map_or("", |route| &*route.name).to_owned();
        let rule = self.written().filter(|written| !written.matches.is_empty()).map(|_| self.rule.index);
        Candidate { route, rule, place, standing, failed }
    }

    fn failed(&self, host: Host, hosts: &[String]) -> Option<Failed> {
        let Self { facts, rule, .. } = self;
        if host == Host::Other {
            let asked = if facts.host.is_empty() { "none".to_owned() } else { format!("`{}`", facts.host) };
            let wanted = hosts.iter().map(|host| format!("`{host}`")).collect::<Vec<_>>().join(" or ");
            let path = match self.written() {
                Some(_) => format!("routes[{}].hosts", rule.route),
                None => self.path(),
            };
            return Some(self.because("host", &wanted, &asked, &path));
        }
        self.failed_path()
            .or_else(|| {
                let methods = &rule.conditions.methods;
                let wanted = || methods.iter().map(|method| format!("`{method}`")).collect::<Vec<_>>().join(" or ");
                let fails = !methods.is_empty() && !methods.contains(facts.method);
                fails.then(|| self.because("method", &wanted(), &format!("`{}`", facts.method), &self.sub("methods")))
            })
            .or_else(|| {
                let fails = rule.conditions.grpc && !facts.grpc;
                fails.then(|| self.because("grpc", "a gRPC request", "another content type", &self.sub("grpc")))
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
        if fits(&self.rule.path, self.facts.path) {
            return None;
        }
        // The path of a gRPC rule is written as a service and a method.
        let key = if self.rule.conditions.grpc { "grpc" } else { key };
        Some(self.because("path", &wanted, &format!("`{}`", self.facts.path), &self.sub(key)))
    }

    fn failed_condition(&self) -> Option<Failed> {
        let (index, condition) =
            self.rule.conditions.all.iter().enumerate().find(|(_, condition)| !condition.holds(self.facts))?;
        let (section, name) = self.condition_names().into_iter().nth(index)?;
        let secret = match condition.key {
            Key::Attribute(index) => self.snapshot.attributes.get(index).is_some_and(|attribute| attribute.secret),
            Key::Header(_) | Key::Cookie(_) | Key::Query(_) => crate::config::is_secret(&name),
        };
        let mut found = Vec::new();
        condition.key.each(self.facts, &mut |value| found.push(format!("`{}`", super::shown(secret, value))));
        let found = if found.is_empty() { "none".to_owned() } else { found.join(" and ") };
        let what = match section {
            "headers" => format!("header {name}"),
            "cookies" => format!("cookie {name}"),
            "query" => format!("query {name}"),
            _ => format!("attribute {name}"),
        };
        let path = self.sub(&format!("{section}{}", crate::config::step(&name)));
        let wanted = match condition.text {
            Text::Present | Text::Absent => condition.text.to_string(),
            _ => super::shown(secret, &condition.text.to_string()),
        };
        Some(self.because(&what, &wanted, &found, &path))
    }

    /// Section and key of each condition, in the order in which the rule has them.
    fn condition_names(&self) -> Vec<(&'static str, String)> {
        let Some(one) = self.written().and_then(|written| written.matches.get(self.rule.index)) else {
            return Vec::new();
        };
        let sections = [
            ("headers", &one.headers),
            ("cookies", &one.cookies),
            ("attributes", &one.attributes),
            ("query", &one.query),
        ];
        let names = |(section, texts): (&'static str, &indexmap::IndexMap<String, schema::Text>)| {
            texts.keys().map(|name| (section, name.clone())).collect::<Vec<_>>()
        };
        sections.into_iter().flat_map(names).collect()
    }

    fn sub(&self, key: &str) -> String {
        format!("{}.{key}", self.path())
    }

    fn because(&self, what: &str, wanted: &str, found: &str, path: &str) -> Failed {
        let place = self.config().place(path).or_else(|| self.config().place(&self.path()));
        Failed {
            condition: what.to_owned(),
            wanted: wanted.to_owned(),
            found: found.to_owned(),
            place: place.map(|place| place.to_string()),
        }
    }
}

/// Whether a path fulfils a path rule, whatever other rules there are.
fn fits(rule: &PathRule, path: &str) -> bool {
    let same = |wanted: &[&str], found: &[&str]| {
        let one = |(wanted, found): (&&str, &&str)| wanted == found || is_parameter(wanted) && !found.is_empty();
        wanted.iter().zip(found).all(one)
    };
    match rule {
        PathRule::Any => true,
        PathRule::Exact(exact) => exact == path,
        PathRule::Prefix(prefix) => {
            let (wanted, found) = (segments(prefix), segments(path));
            wanted.len() <= found.len() && same(&wanted, &found)
        }
        PathRule::Template(template) => {
            let (wanted, found) = (segments(template), segments(path));
            wanted.len() == found.len() && same(&wanted, &found)
        }
        PathRule::Regex(regex) => regex.is_match(path),
    }
}

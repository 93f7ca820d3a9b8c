//! The rules of `authorization`, compiled: what each looks at. How they come to a verdict is in `policy::authz`.
//!
//! Paths, hosts and headers are held against a request by the very matchers of routing, in the same normal form.

use http::Method;

use super::hosts::bare;
use super::matcher::{Condition, Facts, Key, Text};
use super::route::PathRule;
use crate::config::schema;
use crate::policy::authz::{self, List, Ruling};
use crate::policy::caller::{Caller, Callers};
use crate::wire::cidr::Cidr;

pub type Entry = authz::Entry<Rule>;

/// Fits where everything that is there does.
#[derive(Debug)]
pub struct Rule {
    pub from: Callers,
    /// Ports that were connected to; any where empty.
    pub ports: Box<[u16]>,
    /// What takes the head of a request to know.
    pub head: Option<Box<Head>>,
}

/// Conditions on a head: each that is there has to hold, by any of its values; of the headers all.
#[derive(Debug, Default)]
pub struct Head {
    pub methods: Box<[Method]>,
    pub paths: Box<[PathRule]>,
    pub hosts: Box<[String]>,
    pub headers: Box<[Condition]>,
}

/// Numbers of the entries that are for a listener, in the order of the file.
pub type Numbers = Box<[usize]>;

impl Rule {
    /// The part that a connection alone can fulfil.
    pub fn fits_caller(&self, caller: &Caller<'_>) -> bool {
        (self.ports.is_empty() || self.ports.contains(&caller.port)) && self.from.fit(caller)
    }

    pub fn fits(&self, facts: &Facts<'_>) -> bool {
        self.fits_caller(&facts.caller) && self.head.as_ref().is_none_or(|head| head.fits(facts))
    }

    /// Of a connection that is not understood. What asks for a head allows nothing there, and denies by its other half:
    /// nobody can tell that it does not fit.
    pub fn fits_connection(&self, list: List, caller: &Caller<'_>) -> bool {
        (list == List::Deny || self.head.is_none()) && self.fits_caller(caller)
    }
}

impl Head {
    fn fits(&self, facts: &Facts<'_>) -> bool {
        (self.methods.is_empty() || self.methods.contains(facts.method))
            && (self.hosts.is_empty() || self.hosts.iter().any(|pattern| fits_host(pattern, facts.host)))
            && (self.paths.is_empty() || self.paths.iter().any(|path| path.fits(facts.path)))
            && self.headers.iter().all(|condition| condition.holds(facts))
    }
}

/// `*.example.com` is any name below. Both in lower case.
pub fn fits_host(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
        None => pattern == host,
    }
}

/// The verdict on a request.
pub fn judge(entries: &[Entry], numbers: &Numbers, facts: &Facts<'_>) -> Ruling {
    judge_by(entries, numbers, facts.caller.port, |_, rule| rule.fits(facts))
}

/// The verdict on a connection of which nothing but its other end is known.
pub fn judge_connection(entries: &[Entry], numbers: &Numbers, caller: &Caller<'_>) -> Ruling {
    judge_by(entries, numbers, caller.port, |list, rule| rule.fits_connection(list, caller))
}

/// The same where it is said that what rules about requests cannot tell is for them no reason to refuse: by who calls.
pub fn judge_undetected(entries: &[Entry], numbers: &Numbers, caller: &Caller<'_>) -> Ruling {
    let fits = |list, rule: &Rule| (list == List::Allow || rule.head.is_none()) && rule.fits_caller(caller);
    judge_by(entries, numbers, caller.port, fits)
}

/// The same by another reading of the rules.
pub fn judge_by(entries: &[Entry], numbers: &Numbers, port: u16, fits: impl Fn(List, &Rule) -> bool) -> Ruling {
    // What most listeners have.
    if numbers.is_empty() {
        return Ruling::default();
    }
    authz::judge(numbers.iter().filter_map(|number| Some((*number, entries.get(*number)?))), port, fits)
}

/// All entries but those that are off, which keep their number and apply to nothing.
pub fn compile(root: &schema::Root) -> Vec<Entry> {
    let trust_domain = root.identity.as_ref().map_or("", |identity| &identity.trust_domain);
    let entry = |entry: &schema::Authorization| {
        let rules = |rules: &[schema::AuthorizationRule]| match entry.mode {
            schema::RuleMode::Off => Box::default(),
            schema::RuleMode::Enforce | schema::RuleMode::Shadow => {
                rules.iter().map(|rule| compile_rule(rule, trust_domain)).collect()
            }
        };
        Entry {
            name: entry.name.as_str().into(),
            shadow: entry.mode == schema::RuleMode::Shadow,
            ports: entry.ports.clone().into(),
            allow: rules(&entry.allow),
            deny: rules(&entry.deny),
        }
    };
    root.authorization.iter().map(entry).collect()
}

/// The entries that are for a listener. What goes out of the application is for its other end to judge.
pub fn numbers(root: &schema::Root, listener: &schema::Listener) -> Numbers {
    if listener.mode == schema::Mode::Outbound {
        return Numbers::default();
    }
    let listener = &listener.name;
    let all = root.authorization.iter().enumerate();
    let applies = |entry: &schema::Authorization| {
        entry.mode != schema::RuleMode::Off
            && (entry.listeners.is_empty() || entry.listeners.iter().any(|name| name == listener))
    };
    all.filter(|(_, entry)| applies(entry)).map(|(number, _)| number).collect()
}

fn compile_rule(rule: &schema::AuthorizationRule, trust_domain: &str) -> Rule {
    let schema::Operation { ports, methods, paths, hosts, headers } = &rule.to;
    let head = Head {
        methods: methods.iter().filter_map(|method| Method::from_bytes(method.as_bytes()).ok()).collect(),
        paths: paths.iter().map(PathRule::compile).collect(),
        hosts: hosts.iter().map(|host| bare(host)).collect(),
        headers: headers.iter().filter_map(|(name, text)| compile_header(name, text)).collect(),
    };
    let asks = !(methods.is_empty() && paths.is_empty() && hosts.is_empty() && headers.is_empty());
    Rule { from: callers(&rule.from, trust_domain), ports: ports.clone().into(), head: asks.then(|| head.into()) }
}

fn compile_header(name: &str, text: &schema::Text) -> Option<Condition> {
    Some(Condition { key: Key::Header(name.parse().ok()?), text: Text::compile(text) })
}

/// Conditions on a caller; `trust_domain` is the own one.
pub fn callers(caller: &schema::Caller, trust_domain: &str) -> Callers {
    let identities = caller.identities.iter().filter_map(schema::IdentityMatch::pattern).collect();
    let cidrs = caller.cidrs.iter().filter_map(|text| Cidr::parse(text).ok()).collect();
    Callers::new(identities, &caller.namespaces, trust_domain, cidrs)
}

#[cfg(test)]
mod tests;

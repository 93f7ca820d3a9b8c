//! What is different between two treatments of one request.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::judge::{Lot, Taken};
use super::radius::Kind;
use crate::config::units;
use crate::discovery::Spec;
use crate::policy::guard::Bound;
use crate::snapshot::route::PathRule;
use crate::snapshot::{Action, Forward, Rewrite, Service, Snapshot, Target};
use crate::wire::address::Address;

/// One difference.
#[derive(Debug, PartialEq)]
pub struct Change {
    pub kind: Kind,
    pub from: String,
    pub to: String,
    /// The part of the requests that it is for, up to 1.
    pub part: f64,
}

/// The two sides of a comparison.
#[derive(Clone, Copy)]
pub struct Pair<'s> {
    pub old: &'s Snapshot,
    pub new: &'s Snapshot,
}

impl Change {
    fn new(kind: Kind, from: impl Into<String>, to: impl Into<String>) -> Self {
        Self { kind, from: from.into(), to: to.into(), part: 1.0 }
    }
}

/// What happens to a request, in a few words.
pub fn words(snapshot: &Snapshot, lot: &Lot<'_>) -> String {
    match lot {
        Lot::Gone => "no listener".to_owned(),
        Lot::Unrouted => "no route".to_owned(),
        Lot::Refused(reason, None) => format!("refused ({})", reason.code()),
        Lot::Refused(reason, Some(entry)) => format!("refused ({} by {entry})", reason.code()),
        Lot::Answered(taken) => match &taken.route.action {
            Action::Redirect(redirect) => format!("redirect {} of {}", redirect.status.as_u16(), taken.route.name),
            Action::Respond(status, _) => format!("answer {} of {}", status.as_u16(), taken.route.name),
            Action::Forward(_) => taken.route.name.to_string(),
        },
        Lot::Forwarded(_, target) => side(snapshot, *target),
    }
}

/// `service` or `service/subset`.
fn side(snapshot: &Snapshot, target: Target) -> String {
    let Some(service) = snapshot.services.get(target.service) else { return String::new() };
    match target.subset.and_then(|subset| service.subsets.get(subset)) {
        Some(subset) => format!("{}/{}", service.name, subset.name),
        None => service.name.to_string(),
    }
}

impl Pair<'_> {
    /// What is different for a request; `grpc` says whether it is one of gRPC.
    pub fn changes(&self, old: &Lot<'_>, new: &Lot<'_>, grpc: bool) -> Vec<Change> {
        let (was, is) = (words(self.old, old), words(self.new, new));
        let mut changes = Vec::new();
        match (old, new) {
            (Lot::Forwarded(before, from), Lot::Forwarded(after, to)) => {
                if was == is {
                    self.service(*from, *to, &mut changes);
                } else {
                    changes.push(Change::new(Kind::Side, was, is));
                }
                policies(before, after, grpc, &mut changes);
            }
            (Lot::Answered(before), Lot::Answered(after)) => {
                if !same_answer(&before.route.action, &after.route.action) {
                    changes.push(Change::new(Kind::Answered, was, is));
                }
                headers(before, after, &mut changes);
            }
            (Lot::Gone, Lot::Gone) | (Lot::Unrouted, Lot::Unrouted) => {}
            (Lot::Refused(before, _), Lot::Refused(after, _)) if before == after => {}
            (before, after) => {
                let kind = match after {
                    Lot::Gone => Kind::Gone,
                    Lot::Unrouted => Kind::Unrouted,
                    Lot::Refused(..) => Kind::Refused,
                    Lot::Answered(_) => Kind::Answered,
                    Lot::Forwarded(..) if matches!(before, Lot::Gone | Lot::Unrouted) => Kind::Routed,
                    Lot::Forwarded(..) => Kind::Side,
                };
                changes.push(Change::new(kind, was, is));
            }
        }
        if let (true, Some(before), Some(after)) = (changes.is_empty(), old.taken(), new.taken())
            && before.route.name != after.route.name
        {
            changes.push(Change::new(Kind::Route, &*before.route.name, &*after.route.name));
        }
        changes
    }

    /// The same name may stand for something else.
    fn service(&self, from: Target, to: Target, changes: &mut Vec<Change>) {
        let (Some(old), Some(new)) = (self.old.services.get(from.service), self.new.services.get(to.service)) else {
            return;
        };
        let name = side(self.new, to);
        let mut push = |differs: bool, what: &str, part: f64| {
            if differs {
                changes.push(Change { part, ..Change::new(Kind::Service, &*name, what) });
            }
        };
        let moved = moved((old, from), (new, to));
        push(moved > 0.0, "endpoints", moved);
        push(old.protocol != new.protocol, "protocol", 1.0);
        let key = |service: &Service, snapshot| service.hash_key.as_ref().map(|key| key.describe(snapshot));
        let same = old.balance == new.balance && key(old, self.old) == key(new, self.new);
        push(!same, "load balancing", 1.0);
        let connections = old.connections != new.connections || old.connect_timeout != new.connect_timeout;
        push(connections, "connections", 1.0);
    }
}

impl<'s> Lot<'s> {
    pub fn taken(&self) -> Option<&Taken<'s>> {
        match self {
            Self::Answered(taken) | Self::Forwarded(taken, _) => Some(taken),
            Self::Gone | Self::Unrouted | Self::Refused(..) => None,
        }
    }
}

fn same_answer(old: &Action, new: &Action) -> bool {
    match (old, new) {
        (Action::Redirect(old), Action::Redirect(new)) => old == new,
        (Action::Respond(old, text), Action::Respond(new, other)) => old == new && text == other,
        _ => false,
    }
}

fn policies(before: &Taken<'_>, after: &Taken<'_>, grpc: bool, changes: &mut Vec<Change>) {
    let (old, new) = (rewrite(before), rewrite(after));
    if old != new {
        changes.push(Change::new(Kind::Rewrite, old, new));
    }
    // A stream is bound by what the route says itself only.
    let timeout = |taken: &Taken<'_>| taken.route.timeout.filter(|_| !grpc || taken.route.timeout_is_own);
    let duration = |limit: Duration| units::Duration(limit).to_string();
    let (old, new) = (timeout(before), timeout(after));
    if old != new {
        changes.push(Change::new(Kind::Timeout, bound(old, duration), bound(new, duration)));
    }
    let (old, new) = (before.route.stream_idle, after.route.stream_idle);
    if old != new {
        let idle = |limit| format!("{} between two bytes", duration(limit));
        changes.push(Change::new(Kind::Timeout, idle(old), idle(new)));
    }
    let size = |limit: u64| units::Size(limit).to_string();
    let (old, new) = (before.route.max_body, after.route.max_body);
    if old != new {
        changes.push(Change::new(Kind::BodyLimit, bound(old, size), bound(new, size)));
    }
    headers(before, after, changes);
}

fn headers(before: &Taken<'_>, after: &Taken<'_>, changes: &mut Vec<Change>) {
    let (old, new) = (before.route, after.route);
    if old.request_headers != new.request_headers {
        changes.push(Change::new(Kind::Headers, "", "request"));
    }
    if old.response_headers != new.response_headers {
        changes.push(Change::new(Kind::Headers, "", "response"));
    }
}

fn bound<T: Copy>(bound: Option<Bound<T>>, words: impl Fn(T) -> String) -> String {
    match bound {
        None => "none".to_owned(),
        Some(Bound { limit, shadow: false }) => words(limit),
        Some(Bound { limit, shadow: true }) => format!("{} (shadow)", words(limit)),
    }
}

/// How path and host are sent on.
fn rewrite(taken: &Taken<'_>) -> String {
    let Action::Forward(Forward { rewrite, rewrite_host, .. }) = &taken.route.action else { return String::new() };
    let path = match (rewrite, &taken.rule.path) {
        (None, _) => None,
        (Some(Rewrite::Path(path)), _) => Some(format!("path {path}")),
        (Some(Rewrite::Prefix(new)), PathRule::Prefix(old)) => Some(format!("{new} for {old}")),
        (Some(Rewrite::Prefix(new)), _) => Some(format!("{new} before it")),
    };
    let host = rewrite_host.as_ref().map(|host| format!("host {}", String::from_utf8_lossy(host.as_bytes())));
    match (path, host) {
        (None, None) => "as it came".to_owned(),
        (path, host) => path.into_iter().chain(host).collect::<Vec<_>>().join(", "),
    }
}

/// The part of the requests that reaches another endpoint than before: by weights, where the endpoints are written
/// in the configuration; else all, where they come from another source.
fn moved(old: (&Service, Target), new: (&Service, Target)) -> f64 {
    let labels = |(service, target): (&Service, Target)| {
        let subset = target.subset.and_then(|subset| service.subsets.get(subset));
        subset.map(|subset| subset.labels.clone()).unwrap_or_default()
    };
    let (before, after) = (labels(old), labels(new));
    if before == after && std::sync::Arc::ptr_eq(&old.0.upstream, &new.0.upstream) {
        return 0.0;
    }
    let (Spec::Fixed(was), Spec::Fixed(is)) = (old.0.upstream.spec(), new.0.upstream.spec()) else {
        let same = old.0.upstream.spec().finds_what(new.0.upstream.spec()) && before == after;
        return if same { 0.0 } else { 1.0 };
    };
    type Labels = std::collections::BTreeMap<String, String>;
    let shares = |list: &[crate::discovery::Endpoint], labels: &Labels| -> HashMap<Address, f64> {
        let fits = |have: &Labels| labels.iter().all(|(name, value)| have.get(name) == Some(value));
        let list: Vec<_> = list.iter().filter(|endpoint| endpoint.weight > 0 && fits(&endpoint.labels)).collect();
        let total: f64 = list.iter().map(|endpoint| f64::from(endpoint.weight)).sum();
        list.iter().map(|endpoint| (endpoint.address.clone(), f64::from(endpoint.weight) / total)).collect()
    };
    let (was, is) = (shares(was, &before), shares(is, &after));
    if was.is_empty() || is.is_empty() {
        return if was.is_empty() == is.is_empty() { 0.0 } else { 1.0 };
    }
    let all: HashSet<&Address> = was.keys().chain(is.keys()).collect();
    let share = |of: &HashMap<Address, f64>, address| of.get(address).copied().unwrap_or(0.0);
    let gained = all.into_iter().map(|address| (share(&is, address) - share(&was, address)).max(0.0));
    let gained: f64 = gained.sum();
    // What is left of rounding is no move.
    if gained < 1e-9 { 0.0 } else { gained.min(1.0) }
}

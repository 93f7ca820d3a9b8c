//! What a snapshot does with remembered requests: `decide`, as for a request on the wire.
//!
//! Where the outcome hangs on what was not remembered, it is decided twice: as if nothing that is in doubt held, and as
//! if all of it did. Of the rules that a request meets one wins by a fixed order, so that if both find the same rule,
//! the request itself would have found it; if not, it cannot be told. For that, conditions in doubt are replaced by
//! conditions on marks that the head then carries or not. A rule whose path is in doubt is asked about with that path,
//! since it is the path that says which rule comes before which.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::iter;
use std::net::SocketAddr;
use std::sync::Arc;

use http::{HeaderName, request};
use regex::Regex;

use super::callers::Who;
use super::fingerprint::{Fingerprint, name_of};
use super::looked::Looked;
use super::ruling;
use super::shape::Shape;
use super::told::Told;
use crate::decide::{self, Decision, Verdict};
use crate::error::Reason;
use crate::policy::authz::Ruling;
use crate::policy::caller::{Caller, Callers};
use crate::policy::split;
use crate::snapshot::hosts::Hosts;
use crate::snapshot::matcher::{Condition, Key, Text};
use crate::snapshot::redirected::Outbound;
use crate::snapshot::route::{PathRule, RouteTable, Rule};
use crate::snapshot::{self, Action, Kind, Listener, Route, Snapshot, Target};

const MARK: HeaderName = HeaderName::from_static("x-outrigger-in-doubt");
/// The mark that each request carries.
const SURE: &str = "sure";

pub struct Judge<'s> {
    pub(super) snapshot: &'s Snapshot,
    pub(super) looked: &'s Looked,
    /// In place of the snapshot's, by index, where something is in doubt.
    listeners: Vec<Option<Listener>>,
    /// Whose limits no remembered request breaks.
    lenient: Option<Listener>,
    doubts: Vec<Doubt>,
    callers: bool,
}

/// What may be in doubt; its index is its mark.
struct Doubt {
    kind: In,
    /// Whether the mark is a query parameter: these weigh less.
    query: bool,
}

enum In {
    Condition(Key, Text),
    /// Who calls: of the rarer callers of a fingerprint nothing is known.
    From(Callers),
    /// A path with parts that were not told apart when requests were remembered.
    Path(String),
    Pattern(Regex),
}

/// What happens to the requests of one fingerprint.
pub enum Outcome<'s> {
    /// Over the line of buckets, in order.
    Known { line: Vec<Stretch<'s>>, spread: Spread },
    /// On what it hangs, and the rule that would win if it held.
    Doubtful { on: Vec<String>, route: Option<usize> },
}

/// How the requests come to their places on the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spread {
    /// By chance, each anew; or there is no choice.
    Chance,
    /// Each key has its place, which was not remembered: they are spread evenly.
    Keys,
}

#[derive(Clone, Copy)]
pub struct Stretch<'s> {
    pub from: u32,
    pub to: u32,
    pub lot: Lot<'s>,
}

/// What happens to a request.
#[derive(Clone, Copy)]
pub enum Lot<'s> {
    /// There is no such listener for HTTP.
    Gone,
    Unrouted,
    /// By an entry of `authorization`, where it was that.
    Refused(Reason, Option<&'s str>),
    /// Answered here.
    Answered(Taken<'s>),
    Forwarded(Taken<'s>, Target),
}

/// The route that a request takes.
#[derive(Clone, Copy)]
pub struct Taken<'s> {
    pub index: usize,
    pub route: &'s Route,
    pub rule: &'s Rule,
}

impl<'s> Judge<'s> {
    /// `hidden`: keys, by their index in `looked`, of which some value was not remembered.
    pub fn new(snapshot: &'s Snapshot, looked: &'s Looked, hidden: &HashSet<usize>) -> Self {
        let mut marks = Marks { snapshot, looked, hidden, numbers: HashMap::new(), doubts: Vec::new() };
        let listeners = snapshot.listeners.iter().map(|listener| marks.replace(listener)).collect();
        let lenient = snapshot.listeners.first().map(|listener| {
            let mut config = (*listener.config).clone();
            config.max_headers = u32::MAX;
            with_kind(listener, Arc::new(config), Kind::Tcp(Hosts::default()))
        });
        let asked = marks.doubts.iter().any(|doubt| matches!(doubt.kind, In::From(_)));
        let callers = asked || ruling::looks_at_callers(&snapshot.authorization);
        Self { snapshot, looked, listeners, lenient, doubts: marks.doubts, callers }
    }

    /// Whether anything depends on who calls.
    pub fn looks_at_callers(&self) -> bool {
        self.callers
    }

    /// On the listener of this index. `None` is a caller of whom nothing is known.
    pub fn judge(&'s self, told: &Told<'_>, listener: Option<usize>, caller: Option<&Who>) -> Outcome<'s> {
        let found = listener.and_then(|index| Some((self.snapshot.listeners.get(index)?, self.listeners.get(index)?)));
        let (listener, lenient) = match (found, &self.lenient) {
            (Some((listener, marked)), Some(lenient)) if !matches!(listener.kind, Kind::Tcp(_)) => {
                (marked.as_ref().unwrap_or(listener), lenient)
            }
            _ => return Outcome::all(Lot::Gone),
        };
        let port = told.print.to.as_ref().map_or(listener.config.address.port(), |to| to.port());
        let known = caller.map_or(Caller::new(Caller::NOBODY.ip(), None, port), |who| who.at(port));
        let known = known.on_its_way(told.print.to.as_deref().copied());
        if decide::is_relayed(self.snapshot, listener, &known) {
            let ruling = decide::authorize_connection(self.snapshot, listener, &known);
            return match ruling.denied.and_then(|number| self.snapshot.authorization.get(number)) {
                Some(entry) if caller.is_some() || !self.callers => {
                    Outcome::all(Lot::Refused(Reason::Denied, Some(&entry.name)))
                }
                _ => Outcome::Doubtful { on: vec!["what is relayed as it is".to_owned()], route: None },
            };
        }
        match self.ruled(told, listener, caller) {
            Ok(Some(entry)) => return Outcome::all(Lot::Refused(Reason::Denied, Some(entry))),
            Err(on) => return Outcome::Doubtful { on, route: None },
            Ok(None) => {}
        }
        let truths: Vec<Option<bool>> = self.doubts.iter().map(|doubt| self.truth(told, doubt, caller)).collect();
        let open = truths.contains(&None);
        let Some(least) = self.head(told, &truths, false) else { return Outcome::unwritable() };
        let to = told.print.to.as_deref().copied();
        let at_least = Ask { listener, lenient, parts: &least, to }.put(self.snapshot);
        if open {
            let rule = |answer: &Result<Decision<'s>, Reason>| {
                answer.as_ref().ok().map(|decision| std::ptr::from_ref(decision.rule))
            };
            let perhaps = self.doubts.iter().zip(&truths).filter_map(|(doubt, truth)| match (&doubt.kind, truth) {
                (In::Path(path), None) => Some(with_segments(path, told.path).into()),
                _ => None,
            });
            for path in iter::once(Cow::Borrowed(told.path)).chain(perhaps) {
                let told = Told { path: &path, ..*told };
                let Some(most) = self.head(&told, &truths, true) else { return Outcome::unwritable() };
                let at_most = Ask { listener, lenient, parts: &most, to }.put(self.snapshot);
                if rule(&at_least) != rule(&at_most) {
                    let on = at_most.as_ref().map_or_else(|_| Vec::new(), |decision| self.open(decision.rule, &truths));
                    return Outcome::Doubtful { on, route: at_most.ok().map(|decision| decision.rule.route) };
                }
            }
        }
        match at_least {
            Ok(decision) => self.line(told, &decision),
            Err(Reason::NoRoute) => Outcome::all(Lot::Unrouted),
            Err(reason) => Outcome::all(Lot::Refused(reason, None)),
        }
    }

    fn truth(&self, told: &Told<'_>, doubt: &Doubt, caller: Option<&Who>) -> Option<bool> {
        match &doubt.kind {
            In::Condition(key, text) => told.truth(&self.snapshot.attributes, key, text),
            In::From(callers) => caller.map(|caller| callers.fit(&caller.at(0))),
            In::Path(path) => self.is_below(told.print, path),
            In::Pattern(regex) => (*told.print.path == *told.path).then(|| regex.is_match(told.path)),
        }
    }

    /// Whether a request has all segments of a path, whose parameters may be any. Of those that look the same, some
    /// may have.
    pub(super) fn is_below(&self, print: &Fingerprint, path: &str) -> Option<bool> {
        let mut segments = print.path.split('/');
        let same = |written: &str, segment: &str| match print.grpc {
            true => written == segment,
            false => *segment == Shape::of(written, &self.looked.segments).counted,
        };
        let all = path.split('/').all(|written| {
            let segment = segments.next();
            segment.is_some_and(|segment| snapshot::route::is_parameter(written) || same(written, segment))
        });
        (!all || print.grpc).then_some(all)
    }

    /// The head with the marks of what holds, and of what may hold where `also` says so.
    fn head(&self, told: &Told<'_>, truths: &[Option<bool>], also: bool) -> Option<request::Parts> {
        let mut headers = Vec::new();
        let mut query = Vec::new();
        let holds = self.doubts.iter().zip(truths).enumerate().filter(|(_, (_, truth))| truth.unwrap_or(also));
        for (number, (doubt, _)) in holds {
            match doubt.query {
                true => query.push(format!("{}=1", parameter(number))),
                false => headers.push((MARK, number.to_string())),
            }
        }
        headers.push((MARK, SURE.to_owned()));
        told.head(&headers, &query)
    }

    /// What of a rule was in doubt, in words.
    fn open(&self, rule: &Rule, truths: &[Option<bool>]) -> Vec<String> {
        let number = |condition: &Condition| match (&condition.key, &condition.text) {
            (Key::Header(name), Text::Exact(number)) if *name == MARK => number.parse().ok(),
            (Key::Query(name), _) => name.strip_prefix(MARK.as_str())?.parse().ok(),
            _ => None,
        };
        let numbers = rule.conditions.all.iter().filter_map(number).filter(|n: &usize| truths.get(*n) == Some(&None));
        let mut on: Vec<String> = numbers.filter_map(|n| self.doubts.get(n)).map(|doubt| self.words(doubt)).collect();
        on.sort();
        on.dedup();
        on
    }

    fn words(&self, doubt: &Doubt) -> String {
        match &doubt.kind {
            In::Condition(Key::Attribute(index), _) => {
                let name = self.snapshot.attributes.get(*index).map_or("", |attribute| &attribute.name);
                format!("attribute {name}")
            }
            In::Condition(key, _) => name_of(key),
            In::From(_) => "the caller".to_owned(),
            In::Path(path) => format!("path {path}"),
            In::Pattern(_) => "a pattern of the path".to_owned(),
        }
    }

    fn line(&self, told: &Told<'_>, decision: &Decision<'s>) -> Outcome<'s> {
        let taken = Taken { index: decision.rule.route, route: decision.route, rule: decision.rule };
        let (forward, target, drawn) = match (&decision.verdict, &decision.route.action) {
            (Verdict::Forward { forward, target, drawn, .. }, _) => (*forward, *target, *drawn),
            (Verdict::Refuse(reason), _) => return Outcome::all(Lot::Refused(*reason, None)),
            (Verdict::Answer, Action::Forward(_)) => return Outcome::all(Lot::Refused(Reason::NoEndpoint, None)),
            (Verdict::Answer, Action::Redirect(_) | Action::Respond(..)) => return Outcome::all(Lot::Answered(taken)),
        };
        let sticky = forward.sticky.as_ref();
        let knows = sticky.is_some_and(|key| told.knows(&self.snapshot.attributes, key));
        // Several keys of one fingerprint, or one that is known.
        let spread = match (drawn, sticky) {
            (None, _) => return Outcome::all(Lot::Forwarded(taken, target)),
            (Some(drawn), Some(_)) if drawn.sticky && knows => return Outcome::all(Lot::Forwarded(taken, target)),
            (_, Some(key)) if told.truth(&self.snapshot.attributes, key, &Text::Absent) != Some(true) => Spread::Keys,
            _ => Spread::Chance,
        };
        let mut from = 0;
        let edges = forward.edges();
        let stretches = edges.iter().zip(&forward.targets).filter_map(|(edge, target)| {
            let stretch = Stretch { from, to: *edge, lot: Lot::Forwarded(taken, *target) };
            from = *edge;
            (stretch.from < stretch.to).then_some(stretch)
        });
        Outcome::Known { line: stretches.collect(), spread }
    }
}

impl Outcome<'_> {
    fn unwritable() -> Self {
        Self::Doubtful { on: vec!["a head that cannot be written again".to_owned()], route: None }
    }
}

impl<'s> Outcome<'s> {
    /// The same for all.
    fn all(lot: Lot<'s>) -> Self {
        Self::Known { line: vec![Stretch { from: 0, to: split::BUCKETS, lot }], spread: Spread::Chance }
    }
}

struct Ask<'s, 'p> {
    listener: &'s Listener,
    lenient: &'p Listener,
    parts: &'p request::Parts,
    to: Option<SocketAddr>,
}

impl<'s> Ask<'s, '_> {
    fn put(&self, snapshot: &'s Snapshot) -> Result<Decision<'s>, Reason> {
        let understood = decide::understand(self.lenient, self.parts)?;
        // Of what authorization says, and of callers, there is no doubt left here.
        let port = self.to.map_or(0, |to| to.port());
        let caller = Caller::new(Caller::NOBODY.ip(), None, port).on_its_way(self.to);
        let facts = understood.facts(snapshot, self.parts, caller);
        decide::ruled(snapshot, self.listener, &facts, Ruling::default(), || 0).map_err(|refusal| refusal.reason)
    }
}

/// Replaces what is in doubt.
struct Marks<'a> {
    snapshot: &'a Snapshot,
    looked: &'a Looked,
    hidden: &'a HashSet<usize>,
    /// Of conditions that were seen before, as text.
    numbers: HashMap<String, usize>,
    doubts: Vec<Doubt>,
}

impl Marks<'_> {
    /// The listener with marks; `None` where there is nothing to mark.
    fn replace(&mut self, listener: &Listener) -> Option<Listener> {
        if matches!(listener.kind, Kind::Tcp(_) | Kind::Inbound(_)) {
            return None;
        }
        let mut rules = snapshot::rules(self.snapshot, listener);
        let mut any = false;
        for (_, rule) in &mut rules {
            if let Some(from) = rule.conditions.from.take() {
                any = true;
                rule.conditions.all.push(self.mark_caller(from));
            }
            let is_mark = |key: &Key| matches!(key, Key::Header(name) if *name == MARK);
            for condition in &mut rule.conditions.all {
                if !is_mark(&condition.key) && self.is_open(&condition.key) {
                    any = true;
                    self.mark(condition);
                }
            }
            // Every rule gets one condition more, so that none comes before another by that.
            let number = self.mark_path(&mut rule.path);
            any |= number.is_some();
            let text = number.map_or_else(|| SURE.to_owned(), |number| number.to_string());
            rule.conditions.all.push(Condition { key: Key::Header(MARK), text: Text::Exact(text.into()) });
        }
        let table = any.then(|| RouteTable::new(rules))?;
        let kind = match &listener.kind {
            Kind::Http { fallback, .. } => Kind::Http { table: table.into(), fallback: fallback.clone() },
            Kind::Outbound(outbound) => Kind::Outbound(Outbound { table, ..(**outbound).clone() }.into()),
            Kind::Tcp(_) | Kind::Inbound(_) => return None,
        };
        Some(with_kind(listener, listener.config.clone(), kind))
    }

    /// Whether a key was not looked at, or some value of it not remembered.
    fn is_open(&self, key: &Key) -> bool {
        match key {
            Key::Attribute(index) => {
                let attribute = self.snapshot.attributes.get(*index);
                attribute.is_none_or(|attribute| attribute.from.iter().any(|source| self.is_open(source)))
            }
            key => self.looked.get(key).is_none_or(|(index, _)| self.hidden.contains(&index)),
        }
    }

    fn mark(&mut self, condition: &mut Condition) {
        let query = matches!(condition.key, Key::Query(_));
        let next = self.doubts.len();
        let number = *self.numbers.entry(format!("{condition:?}")).or_insert(next);
        let key = if query { Key::Query(parameter(number).into()) } else { Key::Header(MARK) };
        let text = if query { Text::Present } else { Text::Exact(number.to_string().into()) };
        let Condition { key, text } = std::mem::replace(condition, Condition { key, text });
        if number == next {
            self.doubts.push(Doubt { kind: In::Condition(key, text), query });
        }
    }

    /// It weighs as much as a header does.
    fn mark_caller(&mut self, from: Callers) -> Condition {
        let next = self.doubts.len();
        let number = *self.numbers.entry(format!("{from:?}")).or_insert(next);
        if number == next {
            self.doubts.push(Doubt { kind: In::From(from), query: false });
        }
        Condition { key: Key::Header(MARK), text: Text::Exact(number.to_string().into()) }
    }

    /// The mark of a path that depends on what was not remembered. A pattern then lets every path pass.
    fn mark_path(&mut self, path: &mut PathRule) -> Option<usize> {
        let number = self.doubts.len();
        let kind = match &*path {
            PathRule::Any => return None,
            PathRule::Regex(regex) => {
                let wide = Regex::new("").ok().filter(|_| !self.looked.knows_pattern(regex))?;
                let kind = In::Pattern(regex.clone());
                *path = PathRule::Regex(wide);
                kind
            }
            PathRule::Exact(text) | PathRule::Prefix(text) | PathRule::Template(text) => {
                let shape = Shape::of(text, &self.looked.segments).counted;
                In::Path((shape != *text).then(|| text.clone())?)
            }
        };
        self.doubts.push(Doubt { kind, query: false });
        Some(number)
    }
}

/// A path with the segments that a rule writes out in place of its own.
fn with_segments(written: &str, path: &str) -> String {
    let mut written = written.split('/');
    let of_rule = |own| written.next().filter(|segment| !snapshot::route::is_parameter(segment)).unwrap_or(own);
    path.split('/').map(of_rule).collect::<Vec<_>>().join("/")
}

fn parameter(number: usize) -> String {
    format!("{MARK}{number}")
}

fn with_kind(listener: &Listener, config: Arc<crate::config::schema::Listener>, kind: Kind) -> Listener {
    let authorization = listener.authorization.clone();
    let (name, headed) = (listener.name.clone(), listener.headed.clone());
    Listener { config, name, kind, headed, authorization, first_series: listener.first_series }
}

//! Remembered requests under two configurations.

use std::collections::{BTreeSet, HashSet};

use indexmap::IndexMap;

use super::callers::{Callers, Who};
use super::change::{Change, Pair, words};
use super::fingerprint::{Fingerprint, Value, name_of};
use super::judge::{Judge, Lot, Outcome, Spread, Stretch};
use super::looked::Looked;
use super::radius::{Coverage, Group, Kind, Radius};
use super::reservoir::{Remembered, Sample};
use super::told::Told;
use crate::config::schema;
use crate::policy::split::BUCKETS;
use crate::snapshot::{Action, Route, Snapshot};

/// Callers of a group that are told apart.
const CALLERS_MAX: usize = 10_000;
/// Requests that a fingerprint stands for; with less it is of another time.
const WEIGHT_MIN: f64 = 1e-9;

/// What `new` would change for the requests that `samples` remember from under `old`.
pub fn compare(old: &Snapshot, new: &Snapshot, samples: &[Sample]) -> Radius {
    let mut sums = Sums::default();
    let total = samples.iter().map(Sample::weight).sum::<f64>();
    if total <= 0.0 {
        return sums.radius(old, new, samples);
    }
    for (looked, requests) in requests(samples) {
        let first = sums.fingerprints;
        sums.fingerprints += requests.len();
        let hidden = hidden(&requests);
        let (before, after) = (Judge::new(old, looked, &hidden), Judge::new(new, looked, &hidden));
        let mut work = Work { pair: Pair { old, new }, before: &before, after: &after, looked, sums: &mut sums, total };
        for (number, (print, request)) in requests.iter().enumerate() {
            work.add(first + number, print, request);
        }
    }
    sums.radius(old, new, samples)
}

/// Equal fingerprints of all workers.
struct Request<'a> {
    path: &'a str,
    weight: f64,
    callers: Callers,
}

type Requests<'a> = IndexMap<&'a Fingerprint, Request<'a>>;

/// By what was looked at, which is the same for all workers but for the moment after a reload.
fn requests(samples: &[Sample]) -> Vec<(&Looked, Requests<'_>)> {
    let mut all: Vec<(&Looked, Requests<'_>)> = Vec::new();
    for sample in samples {
        let place = all.iter().position(|(looked, _)| **looked == *sample.looked).unwrap_or(all.len());
        if place == all.len() {
            all.push((&sample.looked, Requests::new()));
        }
        let Some((_, requests)) = all.get_mut(place) else { continue };
        for known in sample.known() {
            let empty = || Request { path: &known.path, weight: 0.0, callers: Callers::default() };
            let request = requests.entry(&known.print).or_insert_with(empty);
            request.weight += known.weight;
            request.callers.merge(&known.callers);
        }
    }
    all
}

/// Keys of which some value was not remembered.
fn hidden(requests: &Requests<'_>) -> HashSet<usize> {
    let values = requests.keys().flat_map(|print| &print.values);
    values.filter(|(_, value)| matches!(value, Value::Hidden(_))).map(|(index, _)| usize::from(*index)).collect()
}

impl Sample {
    /// What is not too old to count.
    fn known(&self) -> impl Iterator<Item = &Remembered> {
        self.remembered.iter().filter(|known| known.weight >= WEIGHT_MIN)
    }

    fn weight(&self) -> f64 {
        self.known().map(|known| known.weight).sum()
    }
}

struct Work<'a> {
    pair: Pair<'a>,
    before: &'a Judge<'a>,
    after: &'a Judge<'a>,
    looked: &'a Looked,
    sums: &'a mut Sums,
    total: f64,
}

#[derive(Default)]
struct Sums {
    fingerprints: usize,
    /// Parts of all requests.
    changed: f64,
    unknown: f64,
    groups: IndexMap<(Kind, String, String), Tally>,
    /// Routes of the new configuration.
    reached: HashSet<usize>,
}

#[derive(Default)]
struct Tally {
    share: f64,
    fingerprints: HashSet<usize>,
    callers: HashSet<Who>,
    more: bool,
    routes: BTreeSet<String>,
    /// With its share.
    example: (f64, String),
}

/// A part of the requests of one fingerprint.
#[derive(Clone, Copy)]
struct Part<'a> {
    number: usize,
    print: &'a Fingerprint,
    callers: &'a [(Who, f64)],
    /// There are others.
    others: bool,
    /// Of all requests.
    share: f64,
}

impl Work<'_> {
    fn add(&mut self, number: usize, print: &Fingerprint, request: &Request<'_>) {
        let Pair { old, new } = self.pair;
        let told = Told { looked: self.looked, print, path: request.path };
        let at = old.listeners.iter().position(|listener| *listener.name == *print.listener);
        let address = at.and_then(|at| old.listeners.get(at)).map(|listener| &listener.config.address);
        let there = address.and_then(|address| new.listener(&print.listener, address));
        let share = request.weight / self.total;
        let Callers { known, others } = &request.callers;
        let all = Part { number, print, callers: known, others: *others > 0.0, share };
        if !self.before.looks_at_callers() && !self.after.looks_at_callers() {
            return self.add_part(&all, &told, (at, there), None);
        }
        for one in known {
            let part = Part { callers: std::slice::from_ref(one), others: false, share: one.1 / self.total, ..all };
            self.add_part(&part, &told, (at, there), Some(&one.0));
        }
        if *others > 0.0 {
            let part = Part { callers: &[], share: others / self.total, ..all };
            self.add_part(&part, &told, (at, there), None);
        }
    }

    /// On listeners of these numbers, by this caller where it is one that is known.
    fn add_part(
        &mut self,
        part: &Part<'_>,
        told: &Told<'_>,
        (at, there): (Option<usize>, Option<usize>),
        caller: Option<&Who>,
    ) {
        let old = self.pair.old;
        let (before, after) = (self.before.judge(told, at, caller), self.after.judge(told, there, caller));
        self.sums.reach(&after);
        match (before, after) {
            (Outcome::Known { line: was, spread: from }, Outcome::Known { line: is, spread: to }) => {
                let apart = from == Spread::Keys && !(to == Spread::Keys && self.same_key(&was, &is));
                for (old, new, share) in if apart { product(&was, &is) } else { overlay(&was, &is) } {
                    self.sort(&Part { share: part.share * share, ..*part }, &old, &new);
                }
            }
            (Outcome::Doubtful { on, .. }, _) => self.doubt(part, "?".to_owned(), &on),
            (Outcome::Known { line, .. }, Outcome::Doubtful { on, .. }) => {
                let sides: Vec<String> = line.iter().map(|stretch| words(old, &stretch.lot)).collect();
                self.doubt(part, sides.join(" or "), &on);
            }
        }
    }

    fn sort(&mut self, part: &Part<'_>, old: &Lot<'_>, new: &Lot<'_>) {
        let mut changed: f64 = 0.0;
        for change in self.pair.changes(old, new, part.print.grpc) {
            if change.kind != Kind::Route {
                changed = changed.max(change.part);
            }
            let share = part.share * change.part;
            let route = new.taken().or(old.taken()).map(|taken| taken.route.name.to_string());
            self.sums.tally(change, &Part { share, ..*part }, route);
        }
        self.sums.changed += part.share * changed;
    }

    fn doubt(&mut self, part: &Part<'_>, from: String, on: &[String]) {
        self.sums.unknown += part.share;
        self.sums.tally(Change { kind: Kind::Unknown, from, to: on.join(", "), part: 1.0 }, part, None);
    }

    /// Whether each key keeps its place: the same key of the same route, which salts it.
    fn same_key(&self, was: &[Stretch<'_>], is: &[Stretch<'_>]) -> bool {
        let taken = |line: &[Stretch<'_>]| line.first().and_then(|first| first.lot.taken().map(|taken| taken.index));
        let key = |snapshot: &Snapshot, index: Option<usize>| {
            let root = snapshot.config.root();
            let route = root.routes.get(index?)?;
            let attribute = match &route.sticky {
                Some(schema::Sticky::Attribute(name)) => root.attributes.get(name).cloned(),
                _ => None,
            };
            Some((route.name.clone(), route.sticky.clone(), attribute))
        };
        key(self.pair.old, taken(was)) == key(self.pair.new, taken(is))
    }
}

/// Two lines, laid on each other.
fn overlay<'s>(was: &[Stretch<'s>], is: &[Stretch<'s>]) -> Vec<(Lot<'s>, Lot<'s>, f64)> {
    let mut out = Vec::new();
    for old in was {
        for new in is {
            let (from, to) = (old.from.max(new.from), old.to.min(new.to));
            if from < to {
                out.push((old.lot, new.lot, f64::from(to - from) / f64::from(BUCKETS)));
            }
        }
    }
    out
}

/// Two lines on which nothing has the same place.
fn product<'s>(was: &[Stretch<'s>], is: &[Stretch<'s>]) -> Vec<(Lot<'s>, Lot<'s>, f64)> {
    let share = |stretch: &Stretch<'_>| f64::from(stretch.to - stretch.from) / f64::from(BUCKETS);
    let pairs = was.iter().flat_map(|old| is.iter().map(move |new| (old, new)));
    pairs.map(|(old, new)| (old.lot, new.lot, share(old) * share(new))).collect()
}

impl Sums {
    fn reach(&mut self, outcome: &Outcome<'_>) {
        match outcome {
            Outcome::Known { line, .. } => {
                self.reached.extend(line.iter().filter_map(|stretch| stretch.lot.taken()).map(|taken| taken.index));
            }
            Outcome::Doubtful { route, .. } => self.reached.extend(route),
        }
    }

    fn tally(&mut self, change: Change, part: &Part<'_>, route: Option<String>) {
        let tally = self.groups.entry((change.kind, change.from, change.to)).or_default();
        tally.share += part.share;
        tally.fingerprints.insert(part.number);
        tally.routes.extend(route);
        for (caller, _) in part.callers {
            if tally.callers.len() < CALLERS_MAX || tally.callers.contains(caller) {
                tally.callers.insert(caller.clone());
            } else {
                tally.more = true;
            }
        }
        tally.more |= part.others;
        if part.share > tally.example.0 || tally.example.1.is_empty() {
            tally.example = (part.share, part.print.to_string());
        }
    }

    fn radius(self, old: &Snapshot, new: &Snapshot, samples: &[Sample]) -> Radius {
        let coverage = coverage(old, new, samples, self.fingerprints);
        let group = |((kind, from, to), tally): ((Kind, String, String), Tally)| {
            let only = tally.callers.iter().next().filter(|_| tally.callers.len() == 1 && !tally.more);
            Group {
                kind,
                from,
                to,
                share: percent(tally.share),
                rate: tally.share * coverage.rate,
                fingerprints: tally.fingerprints.len(),
                callers: tally.callers.len(),
                more_callers: tally.more,
                caller: only.map(ToString::to_string),
                routes: tally.routes.into_iter().collect(),
                example: tally.example.1,
            }
        };
        let mut groups: Vec<Group> = self.groups.into_iter().map(group).collect();
        groups.sort_by(|a, b| b.share.total_cmp(&a.share).then(a.kind.cmp(&b.kind)));
        let is_tcp = |route: &Route| match &route.action {
            Action::Forward(forward) => forward.targets.iter().any(|target| {
                new.services.get(target.service).is_some_and(|service| service.protocol == schema::Protocol::Tcp)
            }),
            Action::Redirect(_) | Action::Respond(..) => false,
        };
        let written = new.routes.iter().enumerate().take(new.config.root().routes.len());
        let unreached = written.filter(|(index, route)| !self.reached.contains(index) && !is_tcp(route));
        let gone =
            old.listeners.iter().filter(|listener| new.listener(&listener.name, &listener.config.address).is_none());
        Radius {
            changed_share: percent(self.changed),
            changed_rate: self.changed * coverage.rate,
            unknown_share: percent(self.unknown),
            groups,
            unreached: unreached.map(|(_, route)| route.name.to_string()).collect(),
            gone: gone.map(|listener| listener.name.to_string()).collect(),
            coverage,
        }
    }
}

fn coverage(old: &Snapshot, new: &Snapshot, samples: &[Sample], fingerprints: usize) -> Coverage {
    let seen: f64 = samples.iter().map(|sample| sample.seen).sum();
    let represented: f64 = samples.iter().map(Sample::weight).sum();
    let busy = samples.iter().filter(|sample| sample.seconds > 0.0);
    let new_keys = new.looked.keys().map(|(key, _)| key).filter(|key| old.looked.get(key).is_none());
    Coverage {
        share: if seen > 0.0 { percent(represented / seen) } else { 0.0 },
        rate: busy.map(|sample| sample.seen / sample.seconds).sum(),
        sampled: samples.iter().map(|sample| sample.sampled).sum(),
        fingerprints,
        window_seconds: samples.iter().map(|sample| sample.window.as_secs_f64()).fold(0.0, f64::max),
        one_in: samples.iter().map(|sample| sample.every).max().unwrap_or(1),
        new_keys: new_keys.map(name_of).collect(),
    }
}

fn percent(part: f64) -> f64 {
    (part * 100.0).clamp(0.0, 100.0)
}

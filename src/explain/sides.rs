//! Where a request may go: the sides of a route, and the endpoints of each that can or cannot be chosen.

use std::net::SocketAddr;
use std::sync::Arc;

use super::balancing;
use super::places::{self, place};
use super::{Endpoint, Excluded, Side, Split, percent};
use crate::decide::{Decision, Verdict};
use crate::discovery;
use crate::snapshot::{Action, Forward, Route, Snapshot, Subset, Target};
use crate::wire::address::Address;

/// Endpoints of one side that are shown, and as many of those that cannot be chosen.
const SHOWN: usize = 100;

/// `original`: where it goes if it is not led elsewhere.
pub fn of(snapshot: &Snapshot, decision: &Decision<'_>, original: Option<SocketAddr>) -> (Option<Split>, Vec<Side>) {
    let Verdict::Forward { forward, side, drawn, .. } = decision.verdict else { return (None, Vec::new()) };
    let path = places::of_route(snapshot, decision.rule.route);
    let sides = sides(snapshot, forward, drawn.is_none_or(|drawn| drawn.sticky).then_some(side), (&path, original));
    let split = drawn.map(|drawn| {
        let by = match (&forward.sticky, only(&sides)) {
            (Some(key), _) if drawn.sticky => format!("by its {}", key.describe(snapshot)),
            (_, Some(side)) => format!("whatever is drawn: {} is the only possible side", side.to),
            (Some(key), None) => format!("by chance, since the request has no {}", key.describe(snapshot)),
            (None, None) => "by chance".to_owned(),
        };
        let bucket = drawn.sticky.then_some(drawn.bucket);
        Split { bucket, by, place: place(snapshot, &format!("{path}.split")) }
    });
    (split, sides)
}

/// Of the route of a tcp listener, which has this index.
pub fn of_tcp(
    snapshot: &Snapshot,
    route: &Route,
    index: usize,
    original: Option<SocketAddr>,
) -> (Option<Split>, Vec<Side>) {
    let Action::Forward(forward) = &route.action else { return (None, Vec::new()) };
    let path = places::of_route(snapshot, index);
    let several = forward.targets.len() > 1;
    let sides = sides(snapshot, forward, (!several).then_some(0), (&path, original));
    let by = match only(&sides) {
        Some(side) => format!("whatever is drawn: {} is the only possible side", side.to),
        None => "by chance".to_owned(),
    };
    let place = place(snapshot, &format!("{path}.split"));
    (several.then_some(Split { bucket: None, by, place }), sides)
}

/// The side, where there is but one that may be chosen.
pub fn only(sides: &[Side]) -> Option<&Side> {
    let mut possible = sides.iter().filter(|side| side.possible);
    possible.next().filter(|_| possible.next().is_none())
}

/// Whether there is no endpoint on any side that may be chosen.
pub fn nowhere(sides: &[Side]) -> bool {
    // Where it was going there may be somebody: that is not known before.
    let empty = |side: &Side| side.endpoints.is_empty() && !side.to.starts_with('@');
    sides.iter().filter(|side| side.possible).all(empty)
}

/// `service` or `service/subset`.
pub fn name(snapshot: &Snapshot, target: Target) -> String {
    let service = snapshot.services.get(target.service);
    let subset = service.and_then(|service| service.subsets.get(target.subset?));
    let service = service.map_or("", |service| &*service.name);
    subset.map_or_else(|| service.to_owned(), |subset| format!("{service}/{}", subset.name))
}

fn sides(
    snapshot: &Snapshot,
    forward: &Forward,
    chosen: Option<usize>,
    (path, original): (&str, Option<SocketAddr>),
) -> Vec<Side> {
    let edges = forward.edges();
    let starts = std::iter::once(0).chain(edges.iter().copied());
    let sides = forward.targets.iter().zip(&*edges).zip(starts).enumerate();
    sides
        .map(|(index, ((target, end), start))| {
            let service = snapshot.services.get(target.service);
            let subset = service.and_then(|service| service.subsets.get(target.subset?));
            let list: Arc<[discovery::Endpoint]> = match service {
                Some(service) if service.original => original.map(discovery::Endpoint::bare).into_iter().collect(),
                Some(service) => service.upstream.endpoints().borrow().clone(),
                None => Arc::from([]),
            };
            let why = |address: &Address| service.and_then(|service| service.upstream.why_unavailable(address));
            let elsewhere = |endpoint: &discovery::Endpoint| balancing::excluded(&service?.balance, endpoint);
            let (mut endpoints, mut excluded) = endpoints(&list, subset, why, elsewhere);
            let more_endpoints = endpoints.len().saturating_sub(SHOWN);
            let more_excluded = excluded.len().saturating_sub(SHOWN);
            endpoints.truncate(SHOWN);
            excluded.truncate(SHOWN);
            let written = [format!("{path}.split[{index}].to"), format!("{path}.to"), path.to_owned()];
            Side {
                to: name(snapshot, *target),
                share: percent(start, *end),
                buckets: (start, *end),
                possible: chosen.map_or(start < *end, |chosen| chosen == index),
                protocol: service.map(|service| format!("{:?}", service.protocol).to_lowercase()).unwrap_or_default(),
                discovery: service.map(|service| service.upstream.describe()).unwrap_or_default(),
                endpoints,
                more_endpoints,
                excluded,
                more_excluded,
                place: written.iter().find_map(|path| place(snapshot, path)),
            }
        })
        .collect()
}

fn endpoints(
    list: &[discovery::Endpoint],
    subset: Option<&Subset>,
    why: impl Fn(&Address) -> Option<String>,
    elsewhere: impl Fn(&discovery::Endpoint) -> Option<String>,
) -> (Vec<Endpoint>, Vec<Excluded>) {
    let (mut can, mut cannot) = (Vec::new(), Vec::new());
    for endpoint in list {
        match excluded(endpoint, subset).or_else(|| elsewhere(endpoint)) {
            Some(why) => cannot.push(Excluded { address: endpoint.address.clone(), why }),
            None => can.push(Endpoint {
                address: endpoint.address.clone(),
                weight: endpoint.weight,
                unavailable: why(&endpoint.address),
                live: None,
            }),
        }
    }
    (can, cannot)
}

fn excluded(endpoint: &discovery::Endpoint, subset: Option<&Subset>) -> Option<String> {
    if endpoint.weight == 0 {
        return Some("its weight is 0".to_owned());
    }
    let subset = subset?;
    let (name, wanted) = subset.labels.iter().find(|(name, value)| endpoint.labels.get(*name) != Some(value))?;
    Some(match endpoint.labels.get(name) {
        Some(found) => format!("label {name} is `{found}`, and subset {} wants `{wanted}`", subset.name),
        None => format!("it has no label {name}, and subset {} wants `{wanted}`", subset.name),
    })
}

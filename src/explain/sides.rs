//! Where a request may go: the sides of a route, and the endpoints of each that can or cannot be chosen.

use std::sync::Arc;

use super::{Endpoint, Excluded, Side, Split, percent, place};
use crate::decide::{Decision, Verdict};
use crate::discovery;
use crate::snapshot::{Action, Forward, Route, Snapshot, Subset, Target};

pub fn of(snapshot: &Snapshot, decision: &Decision<'_>) -> (Option<Split>, Vec<Side>) {
    let Verdict::Forward { forward, side, drawn, .. } = decision.verdict else { return (None, Vec::new()) };
    let path = written(snapshot, decision.route);
    let chosen = drawn.is_none_or(|drawn| drawn.sticky).then_some(side);
    let split = drawn.map(|drawn| {
        let by = match &forward.sticky {
            Some(key) if drawn.sticky => format!("by its {}", key.describe(snapshot)),
            Some(key) => format!("by chance, since the request has no {}", key.describe(snapshot)),
            None => "by chance".to_owned(),
        };
        Split {
            bucket: drawn.sticky.then_some(drawn.bucket),
            by,
            place: path.as_ref().and_then(|path| place(snapshot, &format!("{path}.split"))),
        }
    });
    (split, sides(snapshot, forward, chosen, path.as_deref()))
}

pub fn of_tcp(snapshot: &Snapshot, route: &Route) -> (Option<Split>, Vec<Side>) {
    let Action::Forward(forward) = &route.action else { return (None, Vec::new()) };
    let path = written(snapshot, route);
    let split = (forward.targets.len() > 1).then(|| Split { bucket: None, by: "by chance".to_owned(), place: None });
    let chosen = split.is_none().then_some(0);
    (split, sides(snapshot, forward, chosen, path.as_deref()))
}

/// `service` or `service/subset`.
pub fn name(snapshot: &Snapshot, target: Target) -> String {
    let service = snapshot.services.get(target.service);
    let subset = service.and_then(|service| service.subsets.get(target.subset?));
    let service = service.map_or("", |service| &*service.name);
    subset.map_or_else(|| service.to_owned(), |subset| format!("{service}/{}", subset.name))
}

fn written(snapshot: &Snapshot, route: &Route) -> Option<String> {
    let index = snapshot.config.root().routes.iter().position(|written| *written.name == *route.name)?;
    Some(format!("routes[{index}]"))
}

fn sides(snapshot: &Snapshot, forward: &Forward, chosen: Option<usize>, path: Option<&str>) -> Vec<Side> {
    let starts = std::iter::once(0).chain(forward.edges.iter().copied());
    let sides = forward.targets.iter().zip(&forward.edges).zip(starts).enumerate();
    sides
        .map(|(index, ((target, end), start))| {
            let service = snapshot.services.get(target.service);
            let subset = service.and_then(|service| service.subsets.get(target.subset?));
            let list: Arc<[discovery::Endpoint]> =
                service.map_or_else(|| Arc::from([]), |service| service.upstream.endpoints().borrow().clone());
            let (endpoints, excluded) = endpoints(&list, subset);
            let place = path.and_then(|path| {
                let of_split = place(snapshot, &format!("{path}.split[{index}].to"));
                of_split.or_else(|| place(snapshot, &format!("{path}.to")))
            });
            Side {
                to: name(snapshot, *target),
                share: percent(start, *end),
                buckets: (start, *end),
                possible: chosen.map_or(start < *end, |chosen| chosen == index),
                protocol: service.map(|service| format!("{:?}", service.protocol).to_lowercase()).unwrap_or_default(),
                discovery: service.map(|service| service.upstream.describe()).unwrap_or_default(),
                endpoints,
                excluded,
                place,
            }
        })
        .collect()
}

fn endpoints(list: &[discovery::Endpoint], subset: Option<&Subset>) -> (Vec<Endpoint>, Vec<Excluded>) {
    let (mut can, mut cannot) = (Vec::new(), Vec::new());
    for endpoint in list {
        match excluded(endpoint, subset) {
            Some(why) => cannot.push(Excluded { address: endpoint.address, why }),
            None => can.push(Endpoint { address: endpoint.address, weight: endpoint.weight, live: None }),
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

//! What the series of routes are labelled with: a side for each target, and one for each service that a fallback may lead
//! to instead.

use std::sync::Arc;

use crate::snapshot::circuit::Circuit;
use crate::snapshot::{Action, Route, Service, SideLabels, Target};

/// Numbers the sides of all routes.
pub fn number(services: &[Service], routes: &mut [Route]) -> Vec<SideLabels> {
    let mut sides = Vec::new();
    let empty: Arc<str> = "".into();
    for route in routes {
        route.first_side = sides.len();
        route.fallbacks = fallbacks(services, route).into();
        match &route.action {
            Action::Forward(forward) => sides.extend(forward.targets.iter().chain(&route.fallbacks).map(|target| {
                let service = services.get(target.service);
                let subset = service.and_then(|service| service.subsets.get(target.subset?));
                SideLabels {
                    route: route.name.clone(),
                    service: service.map_or_else(|| empty.clone(), |service| service.name.clone()),
                    subset: subset.map_or_else(|| empty.clone(), |subset| subset.name.clone()),
                }
            })),
            Action::Redirect(_) | Action::Respond(..) => {
                sides.push(SideLabels { route: route.name.clone(), service: empty.clone(), subset: empty.clone() });
            }
        }
    }
    sides
}

/// Where fallbacks lead, one after the other, and the route itself does not.
fn fallbacks(services: &[Service], route: &Route) -> Vec<Target> {
    let Action::Forward(forward) = &route.action else { return Vec::new() };
    let mut all = forward.targets.clone();
    all.extend(route.circuit.as_deref().and_then(Circuit::leads_to).filter(|to| !forward.targets.contains(to)));
    let mut at = 0;
    while let Some(target) = all.get(at) {
        let circuits = services.get(target.service).and_then(|service| service.circuits.as_deref());
        for to in circuits.into_iter().flat_map(|circuits| circuits.all()).filter_map(Circuit::leads_to) {
            if !all.contains(&to) {
                all.push(to);
            }
        }
        at += 1;
    }
    all.split_off(forward.targets.len())
}

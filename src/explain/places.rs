//! Where things are written. A route of a snapshot has the index that it has in the configuration; those beyond are
//! implied by the `hosts` of services, and are written there.

use crate::config::{schema, step};
use crate::snapshot::Snapshot;

/// `file:line` of a path in the configuration.
pub fn place(snapshot: &Snapshot, path: &str) -> Option<String> {
    snapshot.config.place(path).map(|place| place.to_string())
}

/// The route as it is written; `None` for one that is implied.
pub fn written(snapshot: &Snapshot, route: usize) -> Option<&schema::Route> {
    snapshot.config.root().routes.get(route)
}

/// Path of a route.
pub fn of_route(snapshot: &Snapshot, route: usize) -> String {
    match written(snapshot, route) {
        Some(_) => format!("routes[{route}]"),
        None => {
            let name = snapshot.routes.get(route).map_or("", |route| &*route.name);
            let root = snapshot.config.root();
            let port = |number: &&str| root.listeners.iter().position(|listener| listener.ports.contains_key(*number));
            match (root.services.get(name), name.strip_prefix("port-")) {
                (Some(service), _) if service.hosts.is_empty() => format!("services{}", step(name)),
                (_, Some(number)) if let Some(at) = port(&number) => format!("listeners[{at}].ports{}", step(number)),
                _ => format!("services{}.hosts", step(name)),
            }
        }
    }
}

/// Path of one of its matches, or of the route where it has none.
pub fn of_rule(snapshot: &Snapshot, route: usize, rule: usize) -> String {
    let path = of_route(snapshot, route);
    match number(snapshot, route, rule) {
        Some(rule) => format!("{path}.match[{rule}]"),
        None => path,
    }
}

/// The number of a match, where the route has any.
pub fn number(snapshot: &Snapshot, route: usize, rule: usize) -> Option<usize> {
    written(snapshot, route).filter(|written| !written.matches.is_empty()).map(|_| rule)
}

//! What is wrong with the faults, the mirrors and the canary of a route, and what is worth a warning.

use std::time::SystemTime;

use super::Config;
use super::problem::{Problem, Severity};
use super::schema::{Canary, Fault, Mirror, Route};
use super::validate::View;
use crate::telemetry::rfc3339;

/// A share that has a bucket at least, in percent.
const LEAST: f64 = 0.01;

pub fn route(view: &mut View<'_>, path: &str, route: &Route) {
    let forwards = route.to.is_some() || route.split.is_some();
    let keys =
        [("fault", route.fault.is_some()), ("mirror", !route.mirror.is_empty()), ("canary", route.canary.is_some())];
    for (key, _) in keys.iter().filter(|(_, there)| *there && !forwards) {
        let message = format!("`{key}` is for what goes upstream: with `to` or `split` only");
        view.push(&format!("{path}.{key}"), message, "remove it");
    }
    if let Some(one) = &route.fault {
        fault(view, &format!("{path}.fault"), one);
    }
    for (index, one) in route.mirror.iter().enumerate() {
        mirror(view, &format!("{path}.mirror[{index}]"), one);
        if let Some(first) = route.mirror.iter().take(index).position(|earlier| earlier.to == one.to) {
            let (path, first) = (format!("{path}.mirror[{index}].to"), format!("{path}.mirror[{first}].to"));
            view.twice(&path, &format!("`{}`", one.to), &first);
        }
    }
    if let Some(one) = route.canary.as_ref().filter(|_| forwards) {
        canary(view, &format!("{path}.canary"), one, route);
    }
}

fn fault(view: &mut View<'_>, path: &str, fault: &Fault) {
    for (index, matched) in fault.matches.iter().enumerate() {
        view.matched(&format!("{path}.match[{index}]"), matched);
    }
    if fault.delay.is_none() && fault.abort.is_none() && fault.bandwidth.is_none() {
        view.push(path, "the fault does nothing", "add `delay`, `abort` or `bandwidth`");
    }
    if let Some(delay) = &fault.delay {
        view.positive(&format!("{path}.delay.duration"), delay.duration);
    }
    if let Some(abort) = &fault.abort {
        let said = [abort.status.is_some(), abort.grpc.is_some(), abort.reset];
        let path = format!("{path}.abort");
        match said.iter().filter(|there| **there).count() {
            1 => {}
            0 => view.push(&path, "`abort` does not say how", "add one of `status`, `grpc` or `reset: true`"),
            _ => view.push(&path, "`status`, `grpc` and `reset` exclude each other", "keep one of them"),
        }
        if abort.grpc.as_deref().and_then(crate::policy::outcome::grpc_code) == Some(0) {
            view.push(&format!("{path}.grpc"), "`ok` is no fault", "write another code");
        }
    }
    if fault.bandwidth.as_ref().is_some_and(|bandwidth| bandwidth.limit.0 == 0) {
        view.push(&format!("{path}.bandwidth.limit"), "nothing would ever arrive", "give it at least 1 byte a second");
    }
}

fn mirror(view: &mut View<'_>, path: &str, mirror: &Mirror) {
    let to = format!("{path}.to");
    view.target(&to, &mirror.to);
    let service = mirror.to.split('/').next().unwrap_or_default();
    if view.root.services.get(service).is_some_and(|one| one.protocol == super::schema::Protocol::Tcp) {
        view.push(&to, format!("`{service}` is of `protocol: tcp`, and requests are mirrored"), "use another service");
    }
    view.positive(&format!("{path}.timeout"), mirror.timeout);
    view.edits(&format!("{path}.headers"), &mirror.headers);
    if let Some(index) = mirror.methods.iter().position(|method| method == "CONNECT") {
        view.push(&format!("{path}.methods[{index}]"), "a tunnel cannot be mirrored", "remove it");
    }
    let compares =
        |compare: &super::schema::Compare| compare.status || !compare.headers.is_empty() || compare.body.is_some();
    if mirror.compare.as_ref().is_some_and(|compare| !compares(compare)) {
        view.push(&format!("{path}.compare"), "nothing is compared", "add `status: true`, `headers` or `body`");
    }
}

fn canary(view: &mut View<'_>, path: &str, canary: &Canary, route: &Route) {
    let Some(split) = &route.split else {
        return view.push(path, "`canary` moves a side of a `split`, and the route has none", "use `split`");
    };
    let others = split.iter().filter(|side| side.to != canary.side);
    if others.clone().count() == split.len() {
        let remedy = match super::check::nearest(&canary.side, split.iter().map(|side| side.to.as_str())) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "write the `to` of a side".to_owned(),
        };
        view.push(&format!("{path}.side"), format!("the split has no side `{}`", canary.side), remedy);
    } else if others.map(|side| side.weight).sum::<f64>() <= 0.0 {
        view.push(&format!("{path}.side"), "no other side has a weight", "give another side a weight above 0");
    }
    let steps = &canary.steps;
    if let Some(index) = steps.windows(2).position(|pair| pair[0] >= pair[1]) {
        let message = "a step is not more than the one before";
        view.push(&format!("{path}.steps[{}]", index + 1), message, "write the steps in rising order");
    }
    if steps.first().is_some_and(|first| *first < LEAST) {
        let remedy = format!("begin at {LEAST} or above");
        view.push(&format!("{path}.steps[0]"), "a step without traffic shows nothing", remedy);
    }
    view.positive(&format!("{path}.every"), canary.every);
}

/// Sound, and yet hardly what somebody wants now.
pub fn warnings(config: &Config, now: SystemTime) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut warn = |path: &str, message: String, remedy: &str| {
        let place = config.tree.find(path).unwrap_or(&config.tree.place);
        let problem = Problem::at(place, path, message).remedy(remedy);
        problems.push(Problem { severity: Severity::Warning, ..problem });
    };
    for (path, message, remedy) in super::retries::doubts(config.root()) {
        warn(&path, message, remedy);
    }
    for (index, route) in config.root().routes.iter().enumerate() {
        let expires = route.fault.as_ref().and_then(|fault| fault.expires.as_deref());
        if expires.and_then(rfc3339::read).is_some_and(|moment| moment <= now) {
            let message = format!("the fault of route `{}` has expired, and does nothing", route.name);
            warn(&format!("routes[{index}].fault.expires"), message, "remove it, or give it another time");
        }
    }
    super::report(problems, Some(&config.tree), &config.sources).into_problems()
}

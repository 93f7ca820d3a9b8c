//! Circuit breakers, classes of answers and their fallbacks: what takes more than one key to judge.

use std::collections::HashMap;

use http::HeaderValue;

use super::schema::{CircuitBreaker, ErrorClass, Fallback, Protocol, Redirect, RuleMode, Service};
use super::tree::step;
use super::validate::{View, is_ours};

/// Classes of one service: an answer knows which by a bit.
const CLASSES_MAX: usize = 32;
/// Ours to write, on every answer of a fallback.
const MARK: &str = "x-graceful-fallback";
const BACK: (&str, &str) = ("the fallback leads back to the service", "lead to another service");

pub fn service(view: &mut View<'_>, path: &str, name: &str, service: &Service) {
    let tcp = service.protocol == Protocol::Tcp;
    if let Some(written) = &service.circuit_breaker {
        let path = format!("{path}.circuitBreaker");
        breaker(view, &path, written);
        if let Some(written) = &written.fallback {
            fallback(view, &format!("{path}.fallback"), written, Some(name), tcp);
        }
    }
    let list = format!("{path}.errorClasses");
    if tcp && !service.error_classes.is_empty() {
        view.push(&list, "a tcp service has no answers to tell apart", "remove it");
    }
    if service.error_classes.len() > CLASSES_MAX {
        view.push(&list, format!("more than {CLASSES_MAX} classes"), "make one of several");
    }
    let mut seen: HashMap<&str, usize> = HashMap::new();
    for (index, written) in service.error_classes.iter().enumerate() {
        let path = format!("{list}[{index}]");
        match seen.get(written.name.as_str()) {
            Some(first) => {
                view.twice(&format!("{path}.name"), &format!("`{}`", written.name), &format!("{list}[{first}].name"))
            }
            None => drop(seen.insert(&written.name, index)),
        }
        class(view, &path, name, written);
    }
}

pub fn route(view: &mut View<'_>, path: &str, written: &super::schema::Route) {
    let Some(circuit) = &written.circuit_breaker else { return };
    let path = format!("{path}.circuitBreaker");
    if written.to.is_none() && written.split.is_none() {
        view.push(&path, "a route that answers by itself has no service that fails", "remove it");
    }
    breaker(view, &path, circuit);
    if let Some(written_fallback) = &circuit.fallback {
        let sides = written.split.iter().flatten().map(|side| &side.to);
        let root = view.root;
        let is_tcp = |to: &String| {
            let name = to.split('/').next().unwrap_or_default();
            root.services.get(name).is_some_and(|service| service.protocol == Protocol::Tcp)
        };
        let tcp = written.to.iter().chain(sides.clone()).any(is_tcp);
        let path = format!("{path}.fallback");
        fallback(view, &path, written_fallback, None, tcp);
        if let Fallback::To(to) = written_fallback
            && written.to.iter().chain(sides).all(|side| side == to)
        {
            view.push(&format!("{path}.to"), BACK.0, BACK.1);
        }
    }
}

fn class(view: &mut View<'_>, path: &str, service: &str, class: &ErrorClass) {
    let matches = &class.matches;
    if matches.status.is_none() && matches.grpc.is_none() && matches.response_header.is_empty() {
        let remedy = "add `status`, `grpc` or `responseHeader`";
        view.push(&format!("{path}.match"), "every answer would be of this class", remedy);
    }
    if let Some(written) = &class.circuit_breaker {
        breaker(view, &format!("{path}.circuitBreaker"), &written.whole());
    }
    if let Some(written) = &class.fallback {
        let path = format!("{path}.fallback");
        if class.circuit_breaker.is_none() {
            view.push(&path, "nothing ever leads to this fallback", "add `circuitBreaker: {}` to the class");
        }
        fallback(view, &path, written, Some(service), false);
    }
}

fn breaker(view: &mut View<'_>, path: &str, breaker: &CircuitBreaker) {
    view.positive(&format!("{path}.window"), breaker.window);
    view.positive(&format!("{path}.openDuration"), breaker.open_duration);
    if breaker.failure_threshold <= 0.0 {
        let path = format!("{path}.failureThreshold");
        view.push(
            &path,
            "it would open with any failure",
            "a share above 0; `consecutiveFailures: 1` if that is meant",
        );
    }
}

/// `service` is whose breaker it is, where it is a service's.
fn fallback(view: &mut View<'_>, path: &str, fallback: &Fallback, service: Option<&str>, tcp: bool) {
    if tcp {
        view.push(path, "a tcp connection can only be refused", "remove it");
        return;
    }
    match fallback {
        Fallback::Redirect(written) => redirect(view, &format!("{path}.redirect"), written),
        Fallback::Respond(respond) => {
            let path = format!("{path}.respond.headers");
            for (name, value) in &respond.headers {
                let path = format!("{path}{}", step(name));
                if is_ours(name) || name.eq_ignore_ascii_case(MARK) {
                    view.push_key(&path, format!("`{name}` belongs to the proxy"), "remove it");
                }
                if HeaderValue::from_str(value).is_err() {
                    let message = format!("`{}` is not a header value", value.escape_debug());
                    view.push(&path, message, "visible characters, spaces and tabs only");
                }
            }
        }
        Fallback::To(to) => {
            let path = format!("{path}.to");
            view.target(&path, to);
            let name = to.split('/').next().unwrap_or_default();
            if view.root.services.get(name).is_some_and(|service| service.protocol == Protocol::Tcp) {
                view.push(&path, format!("`{name}` is a tcp service"), "lead to one that speaks HTTP");
            }
            if service == Some(name) {
                view.push(&path, BACK.0, BACK.1);
            }
        }
        Fallback::Stale(age) => view.positive(&format!("{path}.stale"), *age),
    }
}

fn redirect(view: &mut View<'_>, path: &str, redirect: &Redirect) {
    if !matches!(redirect.status, 301 | 302 | 303 | 307 | 308) {
        let message = format!("{} is not the status of a redirect", redirect.status);
        view.push(&format!("{path}.status"), message, "one of 301, 302, 303, 307 and 308");
    }
    if redirect.prefix.is_some() {
        let message = "a fallback knows no prefix that this could replace";
        view.push(&format!("{path}.prefix"), message, "replace the whole `path`");
    }
    if redirect.scheme.is_none() && redirect.host.is_none() && redirect.port.is_none() && redirect.path.is_none() {
        view.push(path, "the redirect leads back to itself", "change `scheme`, `host`, `port` or `path`");
    }
}

/// The services that the fallbacks of one lead to, and where that is written.
fn leads<'a>(name: &'a str, service: &'a Service) -> impl Iterator<Item = (&'a str, String)> {
    let own = service.circuit_breaker.as_ref().filter(|own| own.mode != RuleMode::Off);
    let own = own.and_then(|own| own.fallback.as_ref());
    let own = own.map(|fallback| (fallback, "circuitBreaker.fallback.to".to_owned()));
    let classes = service.error_classes.iter().enumerate();
    let is_on = |class: &ErrorClass| class.circuit_breaker.as_ref().is_some_and(|own| own.mode != RuleMode::Off);
    let classes = classes.filter(move |(_, class)| is_on(class));
    let classes = classes
        .filter_map(|(index, class)| Some((class.fallback.as_ref()?, format!("errorClasses[{index}].fallback.to"))));
    own.into_iter().chain(classes).filter_map(move |(fallback, key)| match fallback {
        Fallback::To(to) => Some((to.split('/').next()?, format!("services{}.{key}", step(name)))),
        Fallback::Redirect(_) | Fallback::Respond(_) | Fallback::Stale(_) => None,
    })
}

/// A fallback that leads, by way of others, back to where it began.
pub fn loops(view: &mut View<'_>) {
    let root = view.root;
    for (name, service) in &root.services {
        for (next, path) in leads(name, service).filter(|(next, _)| next != name) {
            let mut seen: Vec<&str> = Vec::new();
            let mut todo = vec![next];
            while let Some(at) = todo.pop() {
                if seen.contains(&at) {
                    continue;
                }
                seen.push(at);
                let Some((at, service)) = root.services.get_key_value(at) else { continue };
                todo.extend(leads(at, service).map(|(next, _)| next));
            }
            if seen.contains(&name.as_str()) {
                view.push(&path, "the fallback leads, by others, back to the service", "lead to a service without one");
            }
        }
    }
}

//! Circuit breakers of routes and services, classes of answers with breakers of their own, and what is done instead of
//! sending while one is open. What is learned is handed from snapshot to snapshot.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, StatusCode};
use serde_json::{Value, json};

use super::matcher::Text;
use super::{Action, Redirect, Route, Service, Snapshot, Target};
use crate::config::schema::Sli;
use crate::policy::breaker::{Breaker, State, Terms};
use crate::policy::outcome::{Condition, Kind, Outcome};
use crate::policy::stale::Stale;
use crate::telemetry::circuits;

#[derive(Debug)]
pub struct Circuit {
    pub terms: Terms,
    /// None is what a client would call an error of the server.
    pub failures: Option<Box<[Condition]>>,
    /// It tells, and lets pass.
    pub shadow: bool,
    pub fallback: Option<Fallback>,
    pub breaker: Arc<Breaker>,
}

/// Of a service.
#[derive(Debug, Default)]
pub struct Circuits {
    pub own: Option<Circuit>,
    pub classes: Box<[Class]>,
    /// Where a fallback needs it.
    pub stale: Option<Arc<Stale>>,
}

/// Answers that are counted apart.
#[derive(Debug)]
pub struct Class {
    pub name: Arc<str>,
    pub status: Option<u16>,
    pub grpc: Option<u8>,
    pub headers: Vec<(HeaderName, Text)>,
    pub sli: Sli,
    pub circuit: Option<Circuit>,
    /// How many there have been.
    pub answers: Arc<AtomicU64>,
}

#[derive(Debug)]
pub enum Fallback {
    Redirect(Redirect),
    Respond { status: StatusCode, headers: HeaderMap, body: Bytes },
    To(Target),
    Stale(Duration, Arc<Stale>),
}

/// For `/clusters`: the breaker of a service, those of the routes that lead to it (of all that have one), and its
/// classes.
pub fn describe(of: usize, service: &Service, routes: &[&Route], now: Instant) -> (Value, Value, Value) {
    let leads = |route: &&Route| match &route.action {
        Action::Forward(forward) => forward.targets.iter().any(|target| target.service == of),
        Action::Redirect(_) | Action::Respond(..) => false,
    };
    let routes = routes.iter().copied().filter(leads);
    let routes = routes.filter_map(|route| Some((route.name.to_string(), route.circuit.as_ref()?.describe(now))));
    let (own, classes) =
        service.circuits.as_ref().map_or_else(|| (Value::Null, json!([])), |circuits| circuits.describe(now));
    (own, Value::Object(routes.collect()), classes)
}

/// What is counted, and by which names.
pub fn series(snapshot: &Snapshot) -> circuits::Known {
    let none: Arc<str> = "".into();
    let mut known = circuits::Known::default();
    for route in &snapshot.routes {
        known.breakers.extend(route.circuit.iter().map(|circuit| circuits::Series {
            service: none.clone(),
            route: route.name.clone(),
            class: none.clone(),
            breaker: circuit.breaker.clone(),
        }));
    }
    for service in &snapshot.services {
        let Some(all) = &service.circuits else { continue };
        let classes = all.classes.iter().filter_map(|class| Some((class.name.clone(), class.circuit.as_ref()?)));
        let own = all.own.iter().map(|circuit| (none.clone(), circuit));
        known.breakers.extend(own.chain(classes).map(|(class, circuit)| circuits::Series {
            service: service.name.clone(),
            route: none.clone(),
            class,
            breaker: circuit.breaker.clone(),
        }));
        known.classes.extend(all.classes.iter().map(|class| circuits::Class {
            service: service.name.clone(),
            name: class.name.clone(),
            sli: class.sli.name(),
            answers: class.answers.clone(),
        }));
    }
    known
}

/// Numbers of the classes that an answer may be of, as far as its head says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Heard(u32);

impl Circuit {
    pub fn is_failure(&self, outcome: &Outcome) -> bool {
        match &self.failures {
            None => outcome.is_failure(),
            Some(any) => any.iter().any(|condition| condition.matches(outcome)),
        }
    }

    /// What its fallback answers from.
    pub fn stale(&self) -> Option<&Arc<Stale>> {
        match &self.fallback {
            Some(Fallback::Stale(_, stale)) => Some(stale),
            _ => None,
        }
    }

    /// The other service that its fallback leads to.
    pub fn leads_to(&self) -> Option<Target> {
        match &self.fallback {
            Some(Fallback::To(target)) => Some(*target),
            _ => None,
        }
    }

    /// For `/clusters`.
    pub fn describe(&self, now: Instant) -> Value {
        let report = self.breaker.report(now);
        json!({
            "state": report.state.name(),
            "mode": if self.shadow { "shadow" } else { "enforce" },
            "requests": report.calls,
            "failures": report.failures,
            "share": (report.calls > 0).then(|| report.failures as f64 / report.calls as f64),
            "threshold": self.terms.threshold,
            "opensForMs": (report.state == State::Open).then_some(report.left(&self.terms, now).as_millis() as u64),
            "opened": report.opened,
            "refused": report.refused,
        })
    }
}

impl Circuits {
    /// Its own breaker, and those of its classes.
    pub fn all(&self) -> impl Iterator<Item = &Circuit> {
        self.own.iter().chain(self.classes.iter().filter_map(|class| class.circuit.as_ref()))
    }

    /// Looks at the head of an answer.
    pub fn hear(&self, status: StatusCode, headers: &HeaderMap) -> Heard {
        let of = self.classes.iter().enumerate().filter(|(_, class)| class.may_be(status, headers));
        Heard(of.fold(0, |all, (number, _)| all | 1 << number))
    }

    /// The class of an answer: the first that it matches.
    pub fn class(&self, heard: Heard, outcome: &Outcome) -> Option<usize> {
        let Kind::Answered { grpc, .. } = outcome.kind else { return None };
        let is = |number: usize, class: &Class| {
            heard.0 >> number & 1 == 1 && class.grpc.is_none_or(|wanted| grpc == Some(wanted))
        };
        self.classes.iter().enumerate().position(|(number, class)| is(number, class))
    }

    fn describe(&self, now: Instant) -> (Value, Value) {
        let class = |class: &Class| {
            json!({
                "name": &*class.name,
                "sli": class.sli.name(),
                "answers": class.answers.load(Ordering::Relaxed),
                "circuitBreaker": class.circuit.as_ref().map(|circuit| circuit.describe(now)),
            })
        };
        let own = self.own.as_ref().map(|circuit| circuit.describe(now));
        (json!(own), self.classes.iter().map(class).collect())
    }
}

impl Class {
    /// Whether the status and the headers fit; the code of gRPC may come at the end only.
    fn may_be(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        let holds = |(name, text): &(HeaderName, Text)| {
            let mut values = headers.get_all(name).iter().peekable();
            match text {
                Text::Absent => values.peek().is_none(),
                text => values.any(|value| value.to_str().is_ok_and(|value| text.holds(value))),
            }
        };
        self.status.is_none_or(|wanted| status.as_u16() == wanted) && self.headers.iter().all(holds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(name: &str, status: Option<u16>, grpc: Option<u8>, header: Option<(&'static str, Text)>) -> Class {
        let headers = header.into_iter().map(|(name, text)| (HeaderName::from_static(name), text)).collect();
        let (sli, circuit, answers) = (Sli::Critical, None, Arc::default());
        Class { name: name.into(), status, grpc, headers, sli, circuit, answers }
    }

    #[test]
    fn an_answer_is_of_the_first_class_that_it_matches() {
        let classes = [
            class("code", None, None, Some(("x-error-code", Text::Exact("1001".into())))),
            class("unmarked", Some(500), None, Some(("x-error-code", Text::Absent))),
            class("unavailable", None, Some(14), None),
            class("any", Some(500), None, None),
        ];
        let circuits = Circuits { classes: classes.into(), ..Circuits::default() };
        let of = |status: u16, grpc: Option<u8>, code: Option<&'static str>| {
            let headers = code.map(|code| (HeaderName::from_static("x-error-code"), code.parse().unwrap()));
            let status = StatusCode::from_u16(status).unwrap();
            let heard = circuits.hear(status, &HeaderMap::from_iter(headers));
            let outcome = Outcome { kind: Kind::Answered { status, grpc }, took: Duration::ZERO };
            circuits.class(heard, &outcome).map(|class| &*circuits.classes[class].name)
        };
        assert_eq!(of(200, None, Some("1001")), Some("code"));
        assert_eq!(of(500, None, Some("1001")), Some("code"));
        assert_eq!(of(500, None, None), Some("unmarked"));
        assert_eq!(of(500, None, Some("2003")), Some("any"));
        assert_eq!(of(200, Some(14), None), Some("unavailable"));
        assert_eq!(of(200, Some(0), None), None);
    }
}

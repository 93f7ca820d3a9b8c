//! Circuit breakers on the path of a request: the gate before it is sent, what is done instead where that is shut, and
//! what the outcome of a try tells them.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::header::{AGE, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, request, response};

use super::record::Record;
use super::reply::{self, Asker};
use crate::config::schema::Sli;
use crate::error::Reason;
use crate::net::clock;
use crate::policy::breaker::{Admit, Permit, State};
use crate::policy::outcome::{Kind, Outcome};
use crate::policy::stale::{self, Answer, Asked, Stale};
use crate::snapshot::circuit::{Circuit, Circuits, Fallback, Heard};
use crate::snapshot::{Redirect, Rewrite, Route, Service, Snapshot, Target};
use crate::wire::proxy_status::{self, PROXY_STATUS};
use crate::wire::{head, path};

/// On every answer that comes of a fallback.
const MARK: HeaderName = HeaderName::from_static("x-graceful-fallback");

/// What an exchange has to do with circuit breakers.
#[derive(Default)]
pub struct Watch {
    permits: RefCell<Vec<(Of, Permit)>>,
    /// What came of it says nothing of the route: a fallback of the route took it elsewhere.
    strays: bool,
    /// Whose breaker did not let it pass, so that a fallback answered, or took it elsewhere.
    shut: Option<String>,
    /// Of a breaker in shadow mode that would have refused it.
    pub would: Option<Arc<str>>,
    /// The answer is of a class that is an error.
    critical: Cell<bool>,
    classed: Cell<bool>,
    keep: Option<Box<Keep>>,
}

/// Whose breaker it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Route,
    Service,
    Class(usize),
}

pub enum Gate {
    Pass(Target),
    Answer(Response<Bytes>),
}

/// A breaker that lets nothing pass.
struct Shut<'s> {
    circuit: &'s Circuit,
    name: Name<'s>,
    until: Instant,
}

/// As it is logged, and told in `Proxy-Status`.
#[derive(Clone, Copy)]
enum Name<'s> {
    Route(&'s str),
    Service(&'s str),
    Class(&'s str, &'s str),
}

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Route(route) => write!(f, "route {route}"),
            Self::Service(service) => write!(f, "service {service}"),
            Self::Class(service, class) => write!(f, "service {service} class {class}"),
        }
    }
}

/// Asks the breakers of the route, of the service and of its classes: where the request goes, or what is answered.
pub fn pass(
    record: &mut Record,
    snapshot: &Snapshot,
    route: &Route,
    mut target: Target,
    parts: &request::Parts,
) -> Gate {
    let now = clock::recent();
    if let Some(circuit) = &route.circuit
        && let Some(shut) = ask(&mut record.circuit, circuit, Of::Route, Name::Route(&route.name), now)
    {
        match instead(record, &shut, route, parts, now) {
            Gate::Pass(next) => {
                target = next;
                record.circuit.strays = true;
            }
            answer => return answer,
        }
    }
    // Fallbacks of services lead from one to the next, and not in a circle.
    for _ in 0..snapshot.services.len() {
        let Some(service) = snapshot.services.get(target.service) else { break };
        let Some(circuits) = &service.circuits else { break };
        let Some(shut) = shut(&mut record.circuit, circuits, service, now) else { break };
        record.circuit.permits.get_mut().retain(|(of, _)| *of == Of::Route);
        match instead(record, &shut, route, parts, now) {
            Gate::Pass(next) => target = next,
            answer => return answer,
        }
    }
    prepare_keeping(record, snapshot, route, target, parts, now);
    Gate::Pass(target)
}

/// The first breaker of a service that lets nothing pass.
fn shut<'s>(watch: &mut Watch, circuits: &'s Circuits, service: &'s Service, now: Instant) -> Option<Shut<'s>> {
    let own = circuits.own.iter().map(|circuit| (circuit, Of::Service, Name::Service(&service.name)));
    let classes = circuits.classes.iter().enumerate().filter_map(|(number, class)| {
        Some((class.circuit.as_ref()?, Of::Class(number), Name::Class(&service.name, &class.name)))
    });
    for (circuit, of, name) in own.chain(classes) {
        if let Some(shut) = ask(watch, circuit, of, name, now) {
            return Some(shut);
        }
    }
    None
}

fn ask<'s>(watch: &mut Watch, circuit: &'s Circuit, of: Of, name: Name<'s>, now: Instant) -> Option<Shut<'s>> {
    match circuit.breaker.admit(&circuit.terms, now) {
        Admit::Yes => None,
        Admit::Trial(permit) => {
            if permit.is_first {
                told(circuit, name, State::HalfOpen, now);
            }
            watch.permits.get_mut().push((of, permit));
            None
        }
        Admit::Decided(state) => {
            told(circuit, name, state, now);
            ask(watch, circuit, of, name, now)
        }
        Admit::No { .. } if circuit.shadow => {
            watch.would.get_or_insert_with(|| name.to_string().into());
            None
        }
        Admit::No { until } => Some(Shut { circuit, name, until }),
    }
}

/// Whether a connection to a tcp service may be made.
pub fn may_connect(watch: &mut Watch, route: &Route, service: &Service) -> Result<(), Reason> {
    let now = clock::tick();
    let of_route = route.circuit.as_deref().map(|circuit| (circuit, Of::Route, Name::Route(&route.name)));
    let own = service.circuits.as_ref().and_then(|circuits| circuits.own.as_ref());
    let own = own.map(|circuit| (circuit, Of::Service, Name::Service(&service.name)));
    for (circuit, of, name) in of_route.into_iter().chain(own) {
        if ask(watch, circuit, of, name, now).is_some() {
            return Err(Reason::CircuitOpen);
        }
    }
    Ok(())
}

/// What came of it.
pub fn connected<T>(watch: &Watch, route: &Route, service: &Service, result: &Result<T, Reason>, took: Duration) {
    let kind = match result {
        Ok(_) => Kind::Answered { status: StatusCode::OK, grpc: None },
        Err(reason) => Kind::Failed(*reason),
    };
    learn(watch, route, service, Heard::default(), &Outcome { kind, took });
}

/// Whether a breaker has opened since the request passed, so that it is not to be sent once more.
pub fn is_shut(watch: &Watch, route: &Route, service: &Service) -> bool {
    let of_route = route.circuit.as_deref().filter(|_| !watch.strays);
    let of_service = service.circuits.as_deref();
    let own = of_service.and_then(|circuits| circuits.own.as_ref());
    let classes = of_service.into_iter().flat_map(|circuits| &circuits.classes);
    let mut all = of_route.into_iter().chain(own).chain(classes.filter_map(|class| class.circuit.as_ref()));
    all.any(|circuit| !circuit.shadow && !circuit.breaker.is_closed())
}

/// What is done instead of sending.
fn instead(record: &mut Record, shut: &Shut<'_>, route: &Route, parts: &request::Parts, now: Instant) -> Gate {
    record.circuit.shut = Some(shut.name.to_string());
    let answer = match &shut.circuit.fallback {
        Some(Fallback::To(target)) => return Gate::Pass(*target),
        Some(Fallback::Respond { status, headers, body }) => Some(respond(*status, headers, body)),
        // A gRPC client follows none.
        Some(Fallback::Redirect(redirect)) if !record.grpc => redirected(record, redirect, parts),
        Some(Fallback::Stale(age, stale)) => {
            asked(record, route, parts, |asked| stale.find(&asked, *age, now)).flatten().map(|kept| again(&kept, now))
        }
        Some(Fallback::Redirect(_)) | None => None,
    };
    let (reason, mut response) = match answer {
        Some(mut response) => {
            mark(response.headers_mut());
            (Reason::Fallback, response)
        }
        None => {
            let asker = Asker {
                grpc: record.grpc,
                accept: record.accept.as_ref(),
                id: record.request_id.as_ref(),
                ..Asker::default()
            };
            let mut response = reply::error(Reason::CircuitOpen, &asker);
            let left = shut.until.saturating_duration_since(now);
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds(left)));
            (Reason::CircuitOpen, response)
        }
    };
    record.reason = reason;
    reply::sign(response.headers_mut(), reason, &format!("{} of {}", Reason::CircuitOpen.code(), shut.name), None);
    if reason == Reason::Fallback {
        route.response_headers.apply(response.headers_mut());
    }
    Gate::Answer(response)
}

/// Whole seconds, and one at least.
fn seconds(left: Duration) -> u64 {
    (left.as_secs() + u64::from(left.subsec_nanos() > 0)).max(1)
}

fn mark(headers: &mut HeaderMap) {
    headers.insert(MARK, HeaderValue::from_static("true"));
}

fn respond(status: StatusCode, headers: &HeaderMap, body: &Bytes) -> Response<Bytes> {
    let mut response = Response::new(body.clone());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, reply::PLAIN);
    response.headers_mut().extend(headers.clone());
    response
}

/// None where it would lead the client back to where it is.
fn redirected(record: &Record, redirect: &Redirect, parts: &request::Parts) -> Option<Response<Bytes>> {
    let authority = head::check(parts).ok()?;
    let path = path::normalise(parts.uri.path()).ok()?;
    let secure = record.conn.tls.get().is_some();
    let new_path = match &redirect.path {
        Some(Rewrite::Path(path)) => Some(path.clone()),
        Some(Rewrite::Prefix(_)) | None => None,
    };
    let elsewhere = redirect.host.as_ref().is_some_and(|host| !host.eq_ignore_ascii_case(&authority.host))
        || redirect.port.is_some_and(|port| port != authority.port.unwrap_or(if secure { 443 } else { 80 }))
        || redirect.scheme.is_some_and(|scheme| (scheme == "https") != secure)
        || new_path.as_ref().is_some_and(|new| *new != *path.text);
    let (host, port, uri) = (&*authority.host, authority.port, &parts.uri);
    let asked = reply::Asked { secure, host, port, path: &path.text, uri };
    elsewhere.then(|| reply::redirect(redirect, new_path, &asked))
}

/// An answer that was given before.
fn again(kept: &Answer, now: Instant) -> Response<Bytes> {
    let mut response = Response::new(kept.body.clone());
    *response.headers_mut() = kept.headers.clone();
    let before = kept.headers.get(AGE).and_then(|age| age.to_str().ok()?.parse().ok()).unwrap_or(0);
    let age = now.saturating_duration_since(kept.at).as_secs().saturating_add(before);
    response.headers_mut().insert(AGE, HeaderValue::from(age));
    response
}

/// The request, where answers to such are anybody's.
fn asked<R>(record: &Record, route: &Route, parts: &request::Parts, f: impl FnOnce(Asked<'_>) -> R) -> Option<R> {
    if !stale::may_ask(&parts.method, &parts.headers) {
        return None;
    }
    let host = std::str::from_utf8(record.host()).ok()?.to_ascii_lowercase();
    Some(f(Asked {
        route: &route.name,
        identity: record.conn.identity().map_or("", |identity| identity.as_str()),
        host: &host,
        path: parts.uri.path_and_query().map_or("/", |path| path.as_str()),
        headers: &parts.headers,
    }))
}

/// What the outcome of a try tells the breakers that have admitted it.
pub fn learn(watch: &Watch, route: &Route, service: &Service, heard: Heard, outcome: &Outcome) {
    if route.circuit.is_none() && service.circuits.is_none() || outcome.kind == Kind::Dropped {
        return;
    }
    let now = clock::recent();
    if let Some(circuit) = route.circuit.as_deref().filter(|_| !watch.strays) {
        see(watch, circuit, Of::Route, Name::Route(&route.name), outcome, now);
    }
    let Some(circuits) = service.circuits.as_deref() else { return };
    if let Some(circuit) = &circuits.own {
        see(watch, circuit, Of::Service, Name::Service(&service.name), outcome, now);
    }
    let class = circuits.class(heard, outcome);
    // A class is a share of answers: what came to none says nothing of it, and a trial that did gives its place back.
    let answered = matches!(outcome.kind, Kind::Answered { .. });
    for (number, known) in circuits.classes.iter().enumerate().filter(|_| answered) {
        let is = class == Some(number);
        if is {
            known.answers.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(circuit) = &known.circuit {
            record(watch, circuit, Of::Class(number), Name::Class(&service.name, &known.name), is, now);
        }
    }
    let class = class.and_then(|class| circuits.classes.get(class));
    watch.classed.set(class.is_some());
    watch.critical.set(class.is_some_and(|class| class.sli == Sli::Critical));
}

fn see(watch: &Watch, circuit: &Circuit, of: Of, name: Name<'_>, outcome: &Outcome, now: Instant) {
    let failed = circuit.is_failure(outcome);
    // What ended for a reason of ours, or of the client's, says nothing.
    if failed || !matches!(outcome.kind, Kind::Failed(_)) || outcome.is_failure() {
        record(watch, circuit, of, name, failed, now);
    }
}

fn record(watch: &Watch, circuit: &Circuit, of: Of, name: Name<'_>, failed: bool, now: Instant) {
    let permit = {
        let mut permits = watch.permits.borrow_mut();
        let place = permits.iter().position(|(whose, _)| *whose == of);
        place.map(|place| permits.swap_remove(place).1)
    };
    if let Some(state) = circuit.breaker.record(&circuit.terms, permit, failed, now) {
        told(circuit, name, state, now);
    }
}

/// One line for each change.
fn told(circuit: &Circuit, name: Name<'_>, state: State, now: Instant) {
    let (report, mode) = (circuit.breaker.report(now), if circuit.shadow { "shadow" } else { "enforce" });
    let (requests, failures) = (report.calls, report.failures);
    match state {
        State::Open => {
            let seconds = circuit.terms.open.as_secs_f64();
            tracing::warn!(breaker = %name, mode, requests, failures, seconds, "circuit breaker opened");
        }
        State::HalfOpen => {
            tracing::info!(breaker = %name, mode, trials = circuit.terms.trials, "circuit breaker is half open");
        }
        State::Closed => tracing::info!(breaker = %name, mode, "circuit breaker closed"),
    }
}

/// An answer on its way, which may be kept.
struct Keep {
    route: Arc<str>,
    identity: String,
    host: String,
    path: String,
    /// Of the request.
    headers: HeaderMap,
    stores: Vec<Arc<Stale>>,
    answer: Option<(HeaderMap, BytesMut)>,
}

/// Where a fallback may need the answer, and has none that is as good.
fn prepare_keeping(
    record: &mut Record,
    snapshot: &Snapshot,
    route: &Route,
    target: Target,
    parts: &request::Parts,
    now: Instant,
) {
    let of_service =
        snapshot.services.get(target.service).and_then(|service| service.circuits.as_ref()?.stale.as_ref());
    let of_route = route.circuit.as_ref().and_then(|circuit| circuit.stale()).filter(|_| !record.circuit.strays);
    let nowhere = of_service.is_none() && of_route.is_none() || record.circuit.shut.is_some();
    if nowhere || !stale::may_be_kept(&parts.headers) {
        return;
    }
    let keep = asked(record, route, parts, |asked| {
        let stores: Vec<Arc<Stale>> =
            of_service.into_iter().chain(of_route).filter(|store| !store.is_fresh(&asked, now)).cloned().collect();
        (!stores.is_empty()).then(|| {
            Box::new(Keep {
                route: route.name.clone(),
                identity: asked.identity.to_owned(),
                host: asked.host.to_owned(),
                path: asked.path.to_owned(),
                headers: asked.headers.clone(),
                stores,
                answer: None,
            })
        })
    });
    record.circuit.keep = keep.flatten();
}

impl Watch {
    pub fn shut(&self) -> Option<&str> {
        self.shut.as_deref()
    }

    pub fn is_critical(&self) -> bool {
        self.critical.get()
    }

    /// The head of the answer that the client gets.
    pub fn answered(&mut self, parts: &mut response::Parts) {
        if let Some(of) = &self.shut {
            mark(&mut parts.headers);
            let details = format!("{} of {of}", Reason::CircuitOpen.code());
            let member = proxy_status::member(Some((Reason::Fallback.proxy_error(), &details)), None);
            if let Some(member) = member {
                parts.headers.append(PROXY_STATUS, member);
            }
        }
        if let Some(keep) = &mut self.keep {
            match !self.classed.get() && stale::may_keep(parts.status, &parts.headers) {
                true => keep.answer = Some((parts.headers.clone(), BytesMut::new())),
                false => self.keep = None,
            }
        }
    }

    /// A part of its body.
    pub fn data(&mut self, data: &Bytes) {
        let Some((_, body)) = self.keep.as_mut().and_then(|keep| keep.answer.as_mut()) else { return };
        if body.len() + data.len() > stale::BODY_MAX {
            self.keep = None;
            return;
        }
        body.extend_from_slice(data);
    }

    /// It is whole.
    pub fn complete(&mut self) {
        let Some(mut keep) = self.keep.take() else { return };
        let Some((headers, body)) = keep.answer.take() else { return };
        let answer = Arc::new(Answer { headers, body: body.freeze(), at: clock::recent() });
        let Keep { route, identity, host, path, headers, stores, .. } = &*keep;
        for store in stores {
            let asked = Asked { route, identity, host, path, headers };
            store.keep(&asked, answer.clone());
        }
    }
}

//! The facts of one exchange, gathered while it runs, and told exactly once when it is dropped: to the metrics and to
//! the access log.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::header::{ACCEPT, HOST, USER_AGENT};
use http::{HeaderValue, Method, StatusCode, Uri, Version, request, response};

use super::admission::Refused;
use super::circuit::Watch;
use super::fault;
use super::tries::Tries;
use crate::body::Progress;
use crate::decide::{self, Decision, Refusal, Verdict};
use crate::error::{Producer, Reason};
use crate::explain;
use crate::inbound::grant::{self, Grant};
use crate::inbound::{Busy, Conn};
use crate::net::clock;
use crate::policy::authz::Ruling;
use crate::policy::balance::Why;
use crate::policy::differ;
use crate::policy::fault::Drawn;
use crate::policy::guard::{Guard, Judgement};
use crate::snapshot::Target;
use crate::telemetry::access::Entry;
use crate::telemetry::block::{Block, GrpcSide};
use crate::telemetry::recent::{
    ATTRIBUTES_MAX, Attempt, Bucket, Exchange, Micros, NotAgain, Phases, SHADOW_MAX, Would,
};
use crate::telemetry::shadow::Example;
use crate::wire::address::Address;
use crate::wire::spiffe::SpiffeId;
use crate::wire::trace::Context;
use crate::wire::{grpc, proxy_status};
use crate::worker::View;

pub struct Record {
    pub conn: Rc<Conn>,
    pub busy: Rc<Busy>,
    pub view: Rc<View>,
    /// Index of the listener in the view.
    pub listener: usize,
    /// Number of the chosen side over all routes; none before a route was found.
    pub side: Option<usize>,
    /// What was decided, and by which rule.
    pub chosen: Option<Chosen>,
    /// The client asked for an explanation, and may have it.
    pub explain: bool,
    pub block: Option<Arc<Block>>,
    pub start: Instant,
    pub status: u16,
    pub reason: Reason,
    /// The entry of `authorization` that denied it.
    pub denied: Option<Arc<str>>,
    /// Which limit refused it, and what its answer says of that.
    pub refusal: Option<Box<Refused>>,
    /// Limits in shadow mode that would have: the rule, the limit, and what there was instead.
    pub would_limit: Vec<(Guard, u64, u64)>,
    /// Numbers of those in shadow mode that would have.
    would_deny: Vec<usize>,
    /// Faults on purpose that it is to meet, if it comes so far.
    pub drawn_fault: Option<Drawn>,
    /// Those that it has met.
    pub fault: Option<Drawn>,
    /// Of a request that may become a tunnel, which outlives the configuration.
    pub head: Option<Box<grant::Head>>,
    /// Who made the head of the answer.
    pub producer: Producer,
    /// Why, in the words of the proxy that says it did.
    pub peer_reason: Option<Box<str>>,
    /// What the upstream answered, whether or not the client gets it.
    pub received: Option<StatusCode>,
    /// The request comes with a body.
    pub has_body: bool,
    /// One so small that the connection may go on without it having been read here.
    pub reads_past: bool,
    pub grpc: bool,
    pub grpc_status: Option<u8>,
    pub endpoint: Option<Address>,
    /// What the last pick went by.
    pub picked: Cell<Option<Why>>,
    pub tries: Tries,
    pub circuit: Watch,
    pub upstream: Option<Duration>,
    /// When the head of the answer came.
    pub answered: Option<Instant>,
    /// The answer goes on for as long as it likes: timeouts bind its head.
    pub streams: bool,
    /// For the first request of a connection: since it was accepted.
    since_accept: Option<Duration>,
    /// How large the head said that the body is, where a limit in shadow mode would have refused that.
    announced: Option<u64>,
    pub upload: Rc<Progress>,
    pub response_bytes: u64,
    pub trace: Option<Context>,
    pub request_id: Option<HeaderValue>,
    pub attributes: Vec<(usize, Box<str>)>,
    pub method: Method,
    pub version: Version,
    /// The first line; for an answer of ours.
    pub accept: Option<HeaderValue>,
    uri: Uri,
    host: Option<HeaderValue>,
    user_agent: Option<HeaderValue>,
}

/// Of a decision, what outlives the borrow of its snapshot.
#[derive(Debug, Clone, Copy)]
pub struct Chosen {
    /// Index of the route in the snapshot.
    pub route: usize,
    /// Which of its matches.
    pub rule: usize,
    pub target: Option<Target>,
    pub drawn: Option<decide::Drawn>,
}

impl Chosen {
    fn new(decision: &Decision<'_>) -> Self {
        let (target, drawn) = match decision.verdict {
            Verdict::Forward { target, drawn, .. } => (Some(target), drawn),
            Verdict::Answer | Verdict::Refuse(_) => (None, None),
        };
        Self { route: decision.rule.route, rule: decision.rule.index, target, drawn }
    }
}

impl Record {
    pub fn new(conn: Rc<Conn>, view: Rc<View>, listener: usize, parts: &request::Parts) -> Self {
        Self {
            busy: Busy::new(&conn),
            view,
            listener,
            side: None,
            chosen: None,
            explain: false,
            block: None,
            start: clock::recent(),
            // Until there is an answer: what is told if the client leaves before.
            status: Reason::ClientReset.status().as_u16(),
            reason: Reason::ClientReset,
            denied: None,
            refusal: None,
            would_limit: Vec::new(),
            would_deny: Vec::new(),
            drawn_fault: None,
            fault: None,
            head: None,
            producer: Producer::Proxy,
            peer_reason: None,
            received: None,
            has_body: false,
            reads_past: false,
            grpc: false,
            grpc_status: None,
            endpoint: None,
            picked: Cell::default(),
            tries: Tries::default(),
            circuit: Watch::default(),
            upstream: None,
            answered: None,
            streams: false,
            since_accept: conn.accepted.take().map(|accepted| clock::recent().saturating_duration_since(accepted)),
            announced: None,
            upload: Rc::default(),
            response_bytes: 0,
            trace: None,
            request_id: None,
            attributes: Vec::new(),
            method: parts.method.clone(),
            version: parts.version,
            accept: parts.headers.get(ACCEPT).cloned(),
            uri: parts.uri.clone(),
            host: parts.headers.get(HOST).cloned(),
            user_agent: parts.headers.get(USER_AGENT).cloned(),
            conn,
        }
    }

    /// The listener keeps the spelling of header names.
    pub fn preserve_case(&self) -> bool {
        let listener = self.view.snapshot.listeners.get(self.listener);
        listener.is_some_and(|listener| listener.config.preserve_header_case)
    }

    pub fn decided(&mut self, decision: &Decision<'_>) {
        self.chosen = Some(Chosen::new(decision));
        self.announced = decision.would_refuse_body;
        self.conn.worker.count_ruling(&self.view, self.listener, &decision.ruling);
        self.denied = self.entry(decision.ruling.denied);
        self.would_deny.clone_from(&decision.ruling.would);
        self.choose(Some(decision.side()));
    }

    /// A fallback leads elsewhere, and there it counts.
    pub fn diverted(&mut self, target: Target) {
        let Some(chosen) = &mut self.chosen else { return };
        chosen.target = Some(target);
        let side = self.view.snapshot.routes.get(chosen.route).and_then(|route| route.side(target));
        if let Some(block) = &self.block {
            block.active(-1);
        }
        self.choose(side.or(self.side));
    }

    /// There is no route.
    pub fn refused(&mut self, refusal: Refusal) -> Reason {
        let ruling = Ruling { denied: refusal.denied, ..Ruling::default() };
        self.conn.worker.count_ruling(&self.view, self.listener, &ruling);
        self.denied = self.entry(refusal.denied);
        refusal.reason
    }

    /// What the tunnel that this became was allowed; none where there is none.
    pub fn grant(&mut self) -> Option<Grant> {
        let head = self.head.take()?;
        let snapshot = &self.view.snapshot;
        let route = &snapshot.side(self.side)?.route;
        Some(Grant::of_request(&self.conn, head, (route, self.request_id.as_ref()), snapshot, &self.would_deny))
    }

    /// Name of an entry of `authorization`.
    fn entry(&self, number: Option<usize>) -> Option<Arc<str>> {
        self.view.snapshot.authorization.get(number?).map(|entry| entry.name.clone())
    }

    /// The client can be told of an end in trailers, after the head of its answer.
    pub fn ends_in_trailers(&self) -> bool {
        self.grpc && self.version == Version::HTTP_2
    }

    /// An upstream has answered: it is the application's word, unless it is bad and another proxy says that it is its own.
    pub fn hear(&mut self, answer: &response::Parts) {
        let bad =
            answer.status.as_u16() >= 400 || self.grpc && grpc::status(&answer.headers).is_some_and(|code| code != 0);
        self.peer_reason = bad.then(|| proxy_status::told(&answer.headers)).flatten();
        self.producer = if self.peer_reason.is_some() { Producer::Peer } else { Producer::Application };
    }

    /// The metrics that this exchange counts in, from now on.
    fn choose(&mut self, side: Option<usize>) {
        self.side = side;
        let series = self.view.snapshot.series(self.listener, side);
        self.block = self.conn.worker.block(&self.view, series);
        if let Some(block) = &self.block {
            block.active(1);
        }
    }

    /// What every answer says of the exchange: faults on purpose, and why it went where it went to whoever asked. Appended,
    /// not set: a proxy behind us may have explained itself as well, to one that knows its token.
    pub fn mark(&self, headers: &mut http::HeaderMap) {
        fault::mark(self, headers);
        if let Some(explanation) = self.explain.then(|| self.explanation()).flatten() {
            headers.append(explain::REQUEST_HEADER, explanation);
        }
    }

    /// For the answer to a client that asked; what is known by now.
    pub fn explanation(&self) -> Option<HeaderValue> {
        let snapshot = &self.view.snapshot;
        let route =
            self.chosen.and_then(|chosen| Some((snapshot.routes.get(chosen.route)?, chosen.route, chosen.rule)));
        explain::compact(&explain::Known {
            snapshot,
            listener: snapshot.listeners.get(self.listener).map_or("", |listener| &*listener.name),
            route,
            grpc: self.grpc,
            target: self.chosen.and_then(|chosen| chosen.target),
            drawn: self.chosen.and_then(|chosen| chosen.drawn),
            endpoint: self.endpoint.as_ref(),
            picked: self.picked.get(),
            reason: self.reason.code(),
            circuit: self.circuit.shut(),
            denied: self.denied.as_deref(),
            would_deny: &self.would_deny,
            attributes: &self.attributes,
        })
    }

    /// What the access log calls an error: 5xx, a gRPC status other than 0, an answer of a critical class, denied, or an
    /// answer cut short.
    fn failed(&self) -> bool {
        use Reason::{ClientReset, Denied, Drained, Expired, IdleTimeout, RequestTimeout, TryTimeout, UpstreamReset};
        let cut = matches!(
            self.reason,
            ClientReset | Denied | Drained | Expired | IdleTimeout | RequestTimeout | TryTimeout | UpstreamReset
        );
        self.status >= 500 || self.circuit.is_critical() || self.grpc_status.is_some_and(|code| code != 0) || cut
    }

    pub fn host(&self) -> &[u8] {
        match (self.uri.authority(), &self.host) {
            (Some(authority), _) => authority.as_str().as_bytes(),
            (None, Some(host)) => host.as_bytes(),
            (None, None) => b"",
        }
    }

    /// What rules in shadow mode would have refused, by now.
    fn would_refuse(&self, now: Instant) -> impl Iterator<Item = Would<'_>> {
        let route = self.chosen.and_then(|chosen| self.view.snapshot.routes.get(chosen.route));
        // What goes through a tunnel is no body.
        let body = route.filter(|_| self.status != StatusCode::SWITCHING_PROTOCOLS.as_u16()).and_then(|route| {
            let bound = route.max_body?;
            let actual = self.upload.bytes.get().max(self.announced.unwrap_or_default());
            let would = bound.judge(actual) == Judgement::Would;
            would.then_some(Would { guard: Guard::MaxBody, limit: bound.limit, actual, entry: "" })
        });
        let time = route.and_then(|route| {
            let bound = route.timeout.filter(|_| !self.grpc || route.timeout_is_own)?;
            let end = self.answered.filter(|_| self.streams).unwrap_or(now);
            let actual = end.saturating_duration_since(self.start);
            let would = bound.judge(actual) == Judgement::Would;
            let micros = |time: Duration| Micros::from(time).0;
            would.then(|| Would {
                guard: Guard::Timeout,
                limit: micros(bound.limit),
                actual: micros(actual),
                entry: "",
            })
        });
        let entries = &self.view.snapshot.authorization;
        let denied = self.would_deny.iter().filter_map(|number| entries.get(*number));
        let denied = denied.map(|entry| Would { guard: Guard::Authorization, limit: 0, actual: 0, entry: &entry.name });
        let limits = self.would_limit.iter().map(|(guard, limit, actual)| Would {
            guard: *guard,
            limit: *limit,
            actual: *actual,
            entry: "",
        });
        let broken = self.circuit.would.as_deref();
        let broken = broken.map(|entry| Would { guard: Guard::CircuitBreaker, limit: 0, actual: 0, entry });
        body.into_iter().chain(time).chain(denied).chain(limits).chain(broken)
    }

    /// `counted`: it broke another rule of the same kind.
    fn tell_shadow(&self, would: Would<'_>, counted: bool) {
        if let Some(block) = self.block.as_ref().filter(|_| !counted) {
            block.would_refuse(would.guard);
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let Some(side) = self.view.snapshot.side(self.side) else { return };
        self.conn.worker.shadow.borrow_mut().push(Example {
            time: SystemTime::now(),
            id: self.request_id.as_ref().map(|id| text(id.as_bytes())).unwrap_or_default(),
            route: side.route.clone(),
            guard: would.guard,
            limit: would.limit,
            actual: would.actual,
            entry: would.entry.to_owned(),
            method: self.method.to_string(),
            path: self.uri.path().to_owned(),
            peer: self.conn.peer.clone(),
            identity: self.conn.identity().cloned(),
        });
    }

    /// What is told of a request that stands for others.
    pub fn example(&self) -> differ::Example {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes.get(..256).unwrap_or(bytes)).into_owned();
        differ::Example {
            id: self.request_id.as_ref().map(|id| text(id.as_bytes())).unwrap_or_default(),
            method: text(self.method.as_str().as_bytes()),
            path: text(self.uri.path().as_bytes()),
            ..differ::Example::default()
        }
    }

    /// Which match of its route won; none where it has none.
    fn rule(&self) -> Option<u32> {
        let chosen = self.chosen?;
        let written = self.view.snapshot.config.root().routes.get(chosen.route)?;
        u32::try_from(chosen.rule).ok().filter(|_| !written.matches.is_empty())
    }

    /// Why what has failed was not tried again, where that is known at the end alone. Counted for routes with retries.
    fn settle(&self) {
        let why = match self.tries.not_again.get() {
            None if self.answered.is_none() && self.reason == Reason::ClientReset && self.tries.count() > 0 => {
                NotAgain::ClientGone
            }
            None if self.answered.is_some() && self.failed() => NotAgain::Answered,
            Some(NotAgain::AnswerBegun) => NotAgain::AnswerBegun,
            _ => return,
        };
        self.tries.not_again.set(Some(why));
        let route = self.chosen.and_then(|chosen| self.view.snapshot.routes.get(chosen.route));
        if route.is_some_and(|route| route.retry.is_some()) {
            self.conn.worker.counters.upstream_not_again.inc(why);
        }
    }

    /// For `why`.
    fn keep(&self, now: Instant, shadow: &[Would<'_>]) {
        let mut recent = self.conn.worker.recent.borrow_mut();
        if !recent.is_on() {
            return;
        }
        let snapshot = &self.view.snapshot;
        let side = snapshot.side(self.side);
        let mut attributes: [(&str, &[u8]); ATTRIBUTES_MAX] = [("", b""); ATTRIBUTES_MAX];
        let mut named = 0;
        for (slot, (index, value)) in attributes.iter_mut().zip(&self.attributes) {
            *slot =
                snapshot.attributes.get(*index).map_or(("", b""), |known| (&known.name, known.shown(value).as_bytes()));
            named += 1;
        }
        let attempts = self.tries.known();
        let sum = |step: fn(&Attempt) -> Option<Micros>| {
            attempts.iter().filter_map(step).reduce(|sum, more| Micros(sum.0 + more.0))
        };
        let total = now.saturating_duration_since(self.start);
        let failed = self.failed();
        let not_again = self.tries.not_again.get();
        let fault = self.fault.map(|fault| fault::Shown(fault).to_string()).unwrap_or_default();
        recent.push(&Exchange {
            id: self.request_id.as_ref().map_or(b"", HeaderValue::as_bytes),
            time: SystemTime::now().checked_sub(total).unwrap_or(SystemTime::UNIX_EPOCH),
            generation: snapshot.generation,
            listener: snapshot.listeners.get(self.listener).map_or("", |listener| &listener.name),
            route: side.map_or("", |side| &side.route),
            rule: self.rule(),
            service: side.map_or("", |side| &side.service),
            subset: side.map_or("", |side| &side.subset),
            bucket: self
                .chosen
                .and_then(|chosen| chosen.drawn)
                .map(|drawn| Bucket { number: drawn.bucket, sticky: drawn.sticky }),
            method: self.method.as_str(),
            host: self.host(),
            path: self.uri.path().as_bytes(),
            protocol: self.version,
            status: self.status,
            grpc_status: self.grpc_status,
            reason: self.reason,
            denied: self.denied.as_deref().unwrap_or_default(),
            limit: self.refusal.as_deref().map(|refusal| refusal.limit.as_str()).unwrap_or_default(),
            circuit: self.circuit.shut().unwrap_or_default(),
            fault: &fault,
            producer: self.producer,
            peer: self.conn.peer.clone(),
            identity: self.conn.identity().map_or("", SpiffeId::as_str),
            request_bytes: self.upload.bytes.get(),
            response_bytes: self.response_bytes,
            failed,
            attempts: &attempts,
            not_again,
            phases: Phases {
                accept: self.since_accept.map(Micros::from),
                // Of the first request only.
                tls: self.since_accept.and_then(|_| self.conn.tls.get()).map(|tls| Micros::from(tls.took)),
                queue: sum(|attempt| attempt.queue),
                connect: sum(|attempt| attempt.connect),
                first_byte: sum(|attempt| attempt.first_byte),
                body: self.answered.map(|answered| now.saturating_duration_since(answered).into()),
                total: total.into(),
            },
            attributes: attributes.get(..named).unwrap_or_default(),
            shadow,
        });
    }

    fn count(&mut self, now: Instant) {
        if self.block.is_none() {
            self.choose(None);
        }
        let Some(block) = &self.block else { return };
        block.active(-1);
        let duration = now.duration_since(self.start);
        let method = (&self.method).into();
        block.request(method, self.status, self.reason, duration, self.upload.bytes.get(), self.response_bytes);
        if self.grpc {
            let code = self.grpc_status.unwrap_or(self.reason.grpc());
            block.grpc(GrpcSide::Server, code);
            if self.tries.count() > 0 {
                block.grpc(GrpcSide::Client, code);
            }
        }
    }

    fn log(&self, now: Instant) {
        let snapshot = &self.view.snapshot;
        let series = snapshot.series(self.listener, self.side);
        let labels = snapshot.labels(series);
        let duration = now.duration_since(self.start);
        let attributes: Vec<(&str, &[u8])> = self
            .attributes
            .iter()
            .filter_map(|(index, value)| Some((snapshot.attributes.get(*index)?, value)))
            .map(|(known, value)| (&*known.name, known.shown(value).as_bytes()))
            .collect();
        let fault = self.fault.map(|fault| fault::Shown(fault).to_string()).unwrap_or_default();
        self.conn.worker.shared.access.write(&Entry {
            time: SystemTime::now().checked_sub(duration).unwrap_or(SystemTime::UNIX_EPOCH),
            listener: &labels.listener,
            route: &labels.route,
            service: &labels.service,
            subset: &labels.subset,
            endpoint: self.endpoint.as_ref(),
            method: self.method.as_str(),
            host: self.host(),
            path: self.uri.path_and_query().map_or(b"", |path| path.as_str().as_bytes()),
            protocol: protocol(self.version),
            status: self.status,
            grpc_status: self.grpc_status,
            reason: self.reason,
            authorization: self.denied.as_deref().unwrap_or_default(),
            producer: self.producer,
            peer_reason: self.peer_reason.as_deref().unwrap_or_default(),
            limit: self.refusal.as_deref().map(|refusal| refusal.limit.as_str()).unwrap_or_default(),
            circuit: self.circuit.shut().unwrap_or_default(),
            fault: &fault,
            duration,
            upstream_duration: self.upstream,
            request_bytes: self.upload.bytes.get(),
            response_bytes: self.response_bytes,
            peer: &self.conn.peer,
            peer_identity: self.conn.identity().map_or("", SpiffeId::as_str),
            tls_version: self.conn.tls.get().map_or("", |tls| tls.version),
            server_name: self.conn.tls.get().and_then(|tls| tls.server_name.as_deref()).unwrap_or_default(),
            request_id: self.request_id.as_ref().map_or(b"", HeaderValue::as_bytes),
            trace_id: self.trace.map_or(0, |trace| u128::from_be_bytes(trace.trace_id)),
            span_id: self.trace.map_or(0, |trace| u64::from_be_bytes(trace.span_id)),
            user_agent: self.user_agent.as_ref().map_or(b"", HeaderValue::as_bytes),
            attempts: u32::try_from(self.tries.count()).unwrap_or(u32::MAX),
            attributes: &attributes,
        });
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let now = clock::tick();
        if std::thread::panicking() {
            self.reason = Reason::Panic;
            self.status = Reason::Panic.status().as_u16();
        } else if self.reason == Reason::ClientReset
            && let Some(forced) = self.conn.forced()
        {
            // It was us who left.
            self.reason = forced;
            if self.status == Reason::ClientReset.status().as_u16() {
                self.status = forced.status().as_u16();
            }
        }
        self.settle();
        self.count(now);
        let mut shadow = [NOTHING; SHADOW_MAX];
        let mut refusals = 0;
        let mut last = None;
        for (slot, would) in shadow.iter_mut().zip(self.would_refuse(now)) {
            self.tell_shadow(would, last.replace(would.guard) == Some(would.guard));
            *slot = would;
            refusals += 1;
        }
        self.keep(now, shadow.get(..refusals).unwrap_or_default());
        if self.failed() || self.chosen.is_none() {
            self.conn.worker.shared.alarm.failed();
        }
        let wanted = {
            let worker = &self.conn.worker;
            worker.shared.access.wants(self.failed(), now, &mut *worker.rng.borrow_mut())
        };
        if wanted {
            self.log(now);
        }
    }
}

/// Fills a place that is not looked at.
const NOTHING: Would<'_> = Would { guard: Guard::MaxBody, limit: 0, actual: 0, entry: "" };

pub fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}

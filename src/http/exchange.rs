//! One request from its head to the end of its answer: understood, decided, sent, answered, told.
//! This is the path of a request; what happens on the way is one call each.

use std::cell::Cell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use bytes::Bytes;
use futures_util::FutureExt;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, UPGRADE};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, request, response};
use http_body::{Body as _, Frame};
use hyper::body::Incoming;
use rand::Rng;
use tokio::sync::oneshot;

use super::admission::{self, Admission};
use super::circuit::{self, Gate};
use super::compare;
use super::fault;
use super::mirror;
use super::outgoing::{Chosen, outgoing};
use super::patience::Patience;
use super::record::Record;
use super::reply::{self, Asker};
use super::retry::{self, BodyPlan, Sending, Sent};
use super::terms;
use super::tracked::{End, Lease, Tracked, Upstream};
use super::upgrade::Tunnel;
use crate::blast::Seen;
use crate::body::{Origin, Replay, Source, Upload};
use crate::config::schema::Mode;
use crate::decide::{self, Understood, Verdict};
use crate::error::{Producer, Reason};
use crate::explain;
use crate::inbound::{Conn, grant};
use crate::net::clock;
use crate::net::io::Activity;
use crate::policy::split;
use crate::snapshot::{Action, Route, Service, Snapshot};
use crate::telemetry::metrics::WorkerCounters;
use crate::upstream::Want;
use crate::upstream::h1::Freed;
use crate::upstream::pool::{Load, Pool};
use crate::wire::head;
use crate::wire::hop::{self, Hop};
use crate::wire::{forwarded, grpc};
use crate::worker::Worker;

/// Answers a request, whatever happens. A panic is this request's alone.
///
/// All that the head decides is done at once; the future holds only what waits for the upstream. hyper moves a future
/// several times before its first poll, so that its size is time.
pub fn run(
    conn: Rc<Conn>,
    activity: Rc<Activity>,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<Tracked>, fault::Reset>> {
    let is_grpc = grpc::is_call(request.method(), request.headers());
    let version = request.version();
    let begun = {
        let conn = conn.clone();
        catch_unwind(AssertUnwindSafe(|| begin(conn, activity, request)))
    };
    async move {
        let answered = match begun {
            Ok(Begun::Answered(response)) => Ok(response),
            Ok(Begun::Sending(exchange, request)) => AssertUnwindSafe(exchange.finish(request)).catch_unwind().await,
            Err(panic) => Err(panic),
        };
        let mut response = fault::given(answered.unwrap_or_else(|_| survive(&conn.worker.counters, is_grpc)))?;
        if version != Version::HTTP_2 && conn.is_closing() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response)
    }
}

/// The answer after a panic. The record of the exchange has told of it while the stack unwound.
fn survive(counters: &WorkerCounters, is_grpc: bool) -> Response<Tracked> {
    counters.panics.inc();
    let (parts, body) = reply::error(Reason::Panic, &Asker { grpc: is_grpc, ..Asker::default() }).into_parts();
    Response::from_parts(parts, Tracked::plain(Source::Full(body)))
}

/// A body up to this size has most likely come with its head: hyper reads past it, and the connection goes on.
const READ_PAST: u64 = 4096;

/// How far a request got at once.
#[expect(clippy::large_enum_variant, reason = "it is taken apart at once")]
enum Begun {
    Answered(Response<Tracked>),
    Sending(Exchange, Request<Upload>),
}

fn begin(conn: Rc<Conn>, activity: Rc<Activity>, request: Request<Incoming>) -> Begun {
    let (view, listener) = conn.view();
    let (parts, body) = request.into_parts();
    let mut record = Record::new(conn, view, listener, &parts);
    record.has_body = !body.is_end_stream();
    record.reads_past = body.size_hint().upper().is_some_and(|length| length <= READ_PAST);
    let mut exchange = Exchange(End::new(record, activity));
    match exchange.prepare(parts, body) {
        Ok(Prepared::Answer(response)) => Begun::Answered(exchange.reply(response)),
        Ok(Prepared::Send(request)) => Begun::Sending(exchange, request),
        Err(reason) => Begun::Answered(exchange.fail(reason)),
    }
}

/// An exchange in progress: what it has learned so far, and what it holds.
struct Exchange(Box<End>);

/// What the head decides.
#[expect(clippy::large_enum_variant, reason = "it is taken apart at once")]
enum Prepared {
    Answer(Response<Bytes>),
    Send(Request<Upload>),
}

/// The same, before an endpoint is picked.
enum Decided<'s> {
    Answer(Response<Bytes>),
    Forward(Chosen<'s>),
}

impl Exchange {
    fn prepare(&mut self, mut parts: request::Parts, body: Incoming) -> Result<Prepared, Reason> {
        let view = self.0.record.view.clone();
        if self.0.record.conn.is_unproven() {
            return Err(Reason::Denied);
        }
        let mut chosen = match self.decide(&view, &mut parts)? {
            Decided::Answer(response) => return Ok(Prepared::Answer(response)),
            Decided::Forward(chosen) => chosen,
        };
        // What is aborted on purpose takes nobody's place.
        let aborted = self.0.record.drawn_fault.is_some_and(|fault| fault.abort.is_some());
        let limited = view.snapshot.services.get(chosen.target.service).filter(|_| !aborted);
        if let Some(service) = limited {
            self.0.admission = Admission::begin(&mut self.0.record, (chosen.route, service), &parts.headers)?;
        }
        if !aborted {
            match circuit::pass(&mut self.0.record, &view.snapshot, chosen.route, chosen.target, &parts) {
                Gate::Pass(target) if target == chosen.target => {}
                Gate::Pass(target) => {
                    chosen.target = target;
                    self.0.record.diverted(target);
                    let service = view.snapshot.services.get(target.service).ok_or(Reason::NoEndpoint)?;
                    self.0.admission.divert(&mut self.0.record, (chosen.route, service), &parts.headers)?;
                }
                Gate::Answer(response) => return Ok(Prepared::Answer(response)),
            }
        }
        let index = chosen.target.service;
        let service = view.snapshot.services.get(index).ok_or(Reason::NoEndpoint)?;
        if !aborted {
            self.0.admission.enter(&mut self.0.record, service)?;
        }
        let pool = {
            let record = &self.0.record;
            let want = Want { key: chosen.key, ..Want::default() };
            record.conn.pick(&view, record.listener, chosen.target, &want).ok_or(Reason::NoEndpoint)?
        };
        self.0.record.endpoint = Some(pool.address.clone());
        self.0.record.picked.set(Some(pool.why()));
        self.check_body(&body, &chosen)?;
        let tried_before = parts.headers.contains_key(retry::ATTEMPT);
        let asked = terms::asked(&parts.headers);
        let request = outgoing(&self.0.record, parts, &chosen, service, &pool)?;
        let mut plan = self.plan(&chosen, service, pool);
        plan.tried_before = tried_before;
        if let Some(asked) = asked {
            // A deadline that came lowers ours.
            plan.deadline = plan.deadline.into_iter().chain(self.0.record.start.checked_add(asked)).min();
            plan.tells_deadline = true;
        }
        if self.0.record.grpc {
            // The client's own deadline lowers ours; far enough ahead it is none.
            let own = grpc::timeout(&request.headers).and_then(|timeout| self.0.record.start.checked_add(timeout));
            plan.deadline = plan.deadline.into_iter().chain(own).min();
            plan.call_deadline = own;
        }
        if plan.deadline.is_some_and(|deadline| deadline <= clock::recent()) {
            return Err(Reason::RequestTimeout);
        }
        let upload = self.upload(body, chosen.route, &plan);
        self.0.upstream = Some(plan);
        Ok(Prepared::Send(Request::from_parts(request, upload)))
    }

    /// The body on its way; where the route may send it again, it is kept.
    fn upload(&mut self, body: Incoming, route: &Route, plan: &Upstream) -> Upload {
        if body.is_end_stream() {
            return Upload::empty();
        }
        let progress = &self.0.record.upload;
        let kept = route.retry.as_ref().map(|policy| policy.buffer_limit);
        match kept.or_else(|| route.hedge.as_ref().map(|_| retry::HEDGED_BODY)).filter(|limit| *limit > 0) {
            Some(limit) => {
                let replay = Replay::new(body, limit);
                let upload = plan.body.of(&replay, progress);
                self.0.replay = Some(replay);
                upload
            }
            None => {
                let BodyPlan { limit, watch, held } = &plan.body;
                Upload::new(Origin::Once(Source::Wire(body)), *limit, progress.clone(), watch.clone(), held.clone())
            }
        }
    }

    /// What sending has to keep to.
    fn plan(&self, chosen: &Chosen<'_>, service: &Service, pool: Rc<Pool>) -> Upstream {
        let record = &self.0.record;
        let bounds = terms::timeout(record, chosen.route);
        let watch = (record.version == Version::HTTP_2).then(|| self.0.activity.clone());
        Upstream {
            target: chosen.target,
            key: chosen.key,
            load: Some(Load::new(&pool)),
            pending: None,
            limits: terms::limits(&record.conn.worker, service, record.preserve_case(), record.grpc),
            upgrade: chosen.hop.upgrade.clone(),
            deadline: bounds.map(|timeout| record.start + timeout),
            call_deadline: None,
            own_deadline: bounds.map(|timeout| record.start + timeout),
            tells_deadline: chosen.route.timeout_is_own && !record.grpc && chosen.hop.upgrade.is_none(),
            tried_before: false,
            body: BodyPlan {
                limit: chosen.route.max_body.and_then(|max| max.enforced()),
                watch,
                held: record.busy.clone(),
            },
            route: chosen.index,
        }
    }

    /// Everything that can be known from the head.
    fn decide<'s>(&mut self, view: &'s crate::worker::View, parts: &mut request::Parts) -> Result<Decided<'s>, Reason> {
        let record = &mut self.0.record;
        let worker = record.conn.worker.clone();
        let rng = &mut *worker.rng.borrow_mut();
        let snapshot = &*view.snapshot;
        record.grpc = grpc::is_call(&parts.method, &parts.headers);
        let token = snapshot.config.root().admin.explain_token.as_deref();
        record.explain = explain::take(&mut parts.headers, record.conn.peer.ip(), token);
        let id = forwarded::request_id(&parts.headers, rng);
        record.request_id = Some(id.clone());
        // By the head as it came; what is ours is added after that.
        let mut decided = Self::decide_head(record, &worker, snapshot, parts, rng);
        record.trace = Some(crate::wire::trace::continue_or_begin(&mut parts.headers, snapshot.trace, rng));
        if let Ok(Decided::Forward(chosen)) = &mut decided {
            parts.headers.insert(forwarded::REQUEST_ID, id);
            chosen.hop = hop::strip_request(parts.version, &mut parts.headers);
        }
        decided
    }

    fn decide_head<'s>(
        record: &mut Record,
        worker: &Worker,
        snapshot: &'s Snapshot,
        parts: &request::Parts,
        rng: &mut impl Rng,
    ) -> Result<Decided<'s>, Reason> {
        let conn = record.conn.clone();
        let listener = snapshot.listeners.get(record.listener).ok_or(Reason::NoRoute)?;
        let understood = decide::understand(listener, parts)?;
        let facts = understood.facts(snapshot, parts, conn.caller());
        for (index, attribute) in snapshot.attributes.iter().enumerate() {
            record.attributes.extend(attribute.value(&facts).map(|value| (index, value.into())));
        }
        let seen = || Seen { listener: &listener.name, parts, understood: &understood, caller: facts.caller };
        worker.reservoir.borrow_mut().see(record.start, seen, &snapshot.looked);
        let decision = decide::decide(snapshot, listener, &facts, || split::draw(rng));
        let decision = decision.map_err(|refusal| record.refused(refusal))?;
        record.decided(&decision);
        record.head = parts.headers.contains_key(UPGRADE).then(|| grant::Head::new(&facts));
        let Understood { authority, path, .. } = &understood;
        let (forward, target) = match (&decision.verdict, &decision.route.action) {
            (Verdict::Forward { forward, target, .. }, _) => {
                record.drawn_fault = fault::draw(record, decision.route, &facts, rng);
                (*forward, *target)
            }
            (Verdict::Answer, Action::Redirect(redirect)) => {
                record.reason = Reason::Redirect;
                let location = reply::Asked {
                    secure: record.conn.tls.get().is_some(),
                    host: &authority.host,
                    port: authority.port,
                    path: &path.text,
                    uri: &parts.uri,
                };
                let new_path = redirect.path.as_ref().map(|edit| reply::rewritten(edit, &decision, &path.text));
                let mut response = reply::redirect(redirect, new_path, &location);
                decision.route.response_headers.apply(response.headers_mut());
                return Ok(Decided::Answer(response));
            }
            (Verdict::Answer, Action::Respond(status, body)) => {
                record.reason = Reason::DirectResponse;
                let mut response = reply::direct(*status, body);
                decision.route.response_headers.apply(response.headers_mut());
                return Ok(Decided::Answer(response));
            }
            (Verdict::Answer, Action::Forward(_)) => return Err(Reason::NoEndpoint),
            (Verdict::Refuse(reason), _) => return Err(*reason),
        };
        let new_path = reply::edited_path(&decision, forward, path);
        let hostless = authority.host.is_empty();
        let (index, route) = (decision.rule.route, decision.route);
        let hop = Hop::default();
        let key = snapshot.services.get(target.service).and_then(|service| service.hash_key.as_ref()?.of(&facts));
        Ok(Decided::Forward(Chosen { index, route, forward, target, key, path: new_path, hop, hostless }))
    }

    fn check_body(&self, body: &Incoming, chosen: &Chosen<'_>) -> Result<(), Reason> {
        if chosen.hop.upgrade.is_some() && !body.is_end_stream() {
            // What comes after the head would be read as the new protocol by one side only.
            return Err(Reason::BadRequest);
        }
        Ok(())
    }

    /// From the request being sent to the head of the answer.
    async fn finish(mut self, mut request: Request<Upload>) -> Response<Tracked> {
        if self.0.record.drawn_fault.is_some()
            && let Err(reason) = Box::pin(fault::act(&mut self.0)).await
        {
            return self.fail(reason);
        }
        if self.0.admission.waits()
            && let Err(reason) = Box::pin(admission::wait(&mut self.0)).await
        {
            return self.fail(reason);
        }
        let load = self.0.upstream.as_mut().and_then(|upstream| upstream.load.take());
        let Some(upstream) = self.0.upstream.as_ref() else { return self.fail(Reason::NoEndpoint) };
        let view = self.0.record.view.clone();
        let Some(route) = view.snapshot.routes.get(upstream.route) else { return self.fail(Reason::NoRoute) };
        let Some(service) = view.snapshot.services.get(upstream.target.service) else {
            return self.fail(Reason::NoEndpoint);
        };
        let Some(load) = load else { return self.fail(Reason::NoEndpoint) };
        self.0.compared = mirror::send(&self.0.record, route, upstream.target, &mut request);
        let sent = clock::recent();
        let tried = {
            let replay = self.0.replay.take();
            let again = replay.is_some() || request.body().is_end_stream();
            let spare = again.then(|| retry::spare(&request));
            let mut place = Some(request);
            let (record, activity) = (&self.0.record, &*self.0.activity);
            let sending = Sending { record, upstream, route, service, activity, spare, replay, number: Cell::new(0) };
            let patience = Patience::begin(&sending, sent);
            let tried = retry::run(&sending, load, &mut place).await;
            patience.end();
            tried
        };
        let record = &mut self.0.record;
        let endpoint = tried.as_ref().ok().map(|sent| sent.load.pool().address.clone());
        record.endpoint = endpoint.or_else(|| record.tries.endpoint()).or(record.endpoint.take());
        // What ends by a timer has read nothing that would have told the time.
        let now = if tried.is_ok() { clock::recent() } else { clock::tick() };
        record.upstream = Some(now.saturating_duration_since(sent));
        match tried {
            Ok(Sent { response, ahead, lease, load, pending }) => {
                record.answered = Some(now);
                self.0.lease = lease;
                if let Some(upstream) = self.0.upstream.as_mut() {
                    (upstream.load, upstream.pending) = (Some(load), pending);
                }
                self.answered(response, ahead, route)
            }
            Err(reason) => {
                admission::told(record, service, reason);
                self.fail(reason)
            }
        }
    }

    fn answered(
        mut self,
        response: Response<Incoming>,
        ahead: Option<Box<Frame<Bytes>>>,
        route: &Route,
    ) -> Response<Tracked> {
        self.0.activity.idle.set(route.stream_idle);
        self.0.record.received = Some(response.status());
        let answer = match response.status() {
            StatusCode::SWITCHING_PROTOCOLS => self.switch(response, route),
            _ => self.relay(response, route),
        };
        match answer {
            Ok(Answer::Body(parts, body)) => {
                let source = match ahead {
                    Some(frame) => Source::Ahead(Box::new((Some(*frame), body))),
                    None => Source::Wire(body),
                };
                Response::from_parts(parts, Tracked::new(source, self.0))
            }
            Ok(Answer::Translated(response)) => {
                self.0.lease = Lease::None;
                self.reply(response)
            }
            Ok(Answer::Tunnel(response, socket)) => {
                let conn = self.0.record.conn.clone();
                *conn.upgrade.borrow_mut() = Some(Tunnel { socket, exchange: self.0, pauses: route.tcp_pauses });
                response.map(|()| Tracked::plain(Source::Empty))
            }
            Err(reason) => self.fail(reason),
        }
    }

    /// An ordinary answer: what the exchange holds goes with its body.
    fn relay(&mut self, response: Response<Incoming>, route: &Route) -> Result<Answer, Reason> {
        let (mut parts, body) = response.into_parts();
        head::check_response(&mut parts, self.0.record.version)?;
        compare::begin(&mut self.0, &parts);
        let record = &mut self.0.record;
        record.hear(&parts);
        record.circuit.answered(&mut parts);
        route.response_headers.apply(&mut parts.headers);
        record.reason = Reason::None;
        if record.grpc && parts.status != StatusCode::OK && !grpc::is_grpc(&parts.headers) {
            return Ok(Answer::Translated(reply::translated(parts, record.peer_reason.as_deref())));
        }
        if record.grpc {
            record.grpc_status = grpc::status(&parts.headers);
        }
        // Streams are bound by their pauses, and by what their client has said.
        record.streams = record.grpc || is_event_stream(&parts.headers);
        let upstream = self.0.upstream.as_ref();
        self.0.activity.deadline.set(match record.streams {
            // A proxy before us may have told of a time that is for the head alone.
            true => upstream.and_then(|upstream| upstream.call_deadline),
            false => upstream.and_then(|upstream| upstream.deadline),
        });
        record.status = parts.status.as_u16();
        record.mark(&mut parts.headers);
        Ok(Answer::Body(parts, body))
    }

    /// The upstream agrees to another protocol: both sockets leave hyper, and the connection's task goes on with them.
    fn switch(&mut self, response: Response<Incoming>, route: &Route) -> Result<Answer, Reason> {
        let Lease::Http1(lease) = &mut self.0.lease else { return Err(Reason::UpstreamProtocol) };
        let socket = lease.upgraded.take().ok_or(Reason::UpgradeMismatch)?;
        let wanted = self.0.upstream.as_ref().and_then(|upstream| upstream.upgrade.as_ref());
        let (mut parts, _) = response.into_parts();
        let agreed = parts.headers.get(UPGRADE).cloned().ok_or(Reason::UpgradeMismatch)?;
        let mut offered = wanted.ok_or(Reason::UpgradeMismatch)?.as_bytes().split(|byte| *byte == b',');
        if !offered.any(|token| token.trim_ascii().eq_ignore_ascii_case(agreed.as_bytes().trim_ascii())) {
            return Err(Reason::UpgradeMismatch);
        }
        hop::strip_response(parts.version, &mut parts.headers);
        parts.headers.remove(CONTENT_LENGTH);
        route.response_headers.apply(&mut parts.headers);
        parts.headers.insert(UPGRADE, agreed);
        parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        parts.version = Version::HTTP_11;
        self.0.record.reason = Reason::None;
        self.0.record.streams = true;
        self.0.record.producer = Producer::Application;
        self.0.record.status = StatusCode::SWITCHING_PROTOCOLS.as_u16();
        self.0.record.mark(&mut parts.headers);
        Ok(Answer::Tunnel(Response::from_parts(parts, ()), socket))
    }

    /// Answers with the reason that it ended for.
    fn fail(mut self, reason: Reason) -> Response<Tracked> {
        self.0.lease = Lease::None;
        let record = &mut self.0.record;
        record.reason = reason;
        if let (Reason::ConnectFailed, Some(to)) = (reason, record.conn.original) {
            // Nobody is there to speak anything.
            record.conn.worker.learned.borrow_mut().forget(record.conn.socket.mode == Mode::Inbound, to);
        }
        let response = reply::error(
            reason,
            &Asker {
                grpc: record.grpc,
                accept: record.accept.as_ref(),
                id: record.request_id.as_ref(),
                received: record.received,
                entry: record.denied.as_deref(),
                instead: fault::told(record),
                refusal: record.refusal.as_deref(),
            },
        );
        let response = fault::or_reset(record, response);
        self.reply(response)
    }

    /// Sends an answer of our own.
    fn reply(mut self, response: Response<Bytes>) -> Response<Tracked> {
        let (mut parts, body) = response.into_parts();
        // Nothing more comes from there.
        self.0.upstream = None;
        self.0.admission = Admission::default();
        let record = &mut self.0.record;
        if record.reason != Reason::None {
            record.producer = record.reason.producer();
        }
        let body = if record.grpc { reply::in_grpc(&mut parts, body) } else { body };
        let refused = matches!(record.reason, Reason::BadRequest | Reason::BodyTooLarge | Reason::Unsupported);
        record.conn.unread.set(record.has_body);
        if (refused || record.has_body && !record.reads_past) && record.version != Version::HTTP_2 {
            // What follows a request that was not understood, or not read, is not the next one.
            parts.headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let length = body.len();
        let body = if head::bodiless(&record.method, parts.status) { Bytes::new() } else { body };
        if record.method == Method::HEAD && length > 0 && !head::bodiless(&Method::GET, parts.status) {
            parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        self.0.record.status = parts.status.as_u16();
        if self.0.record.grpc {
            self.0.record.grpc_status = grpc::status(&parts.headers);
        }
        self.0.record.response_bytes = body.len() as u64;
        self.0.record.mark(&mut parts.headers);
        Response::from_parts(parts, Tracked::new(Source::Full(body), self.0))
    }
}

/// What an upstream's answer becomes.
enum Answer {
    Body(response::Parts, Incoming),
    /// Not gRPC, where gRPC was asked for.
    Translated(Response<Bytes>),
    Tunnel(Response<()>, oneshot::Receiver<Freed>),
}

fn is_event_stream(headers: &http::HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<A, B, C, R>(_: fn(A, B, C) -> R) -> usize {
        size_of::<R>()
    }

    #[test]
    fn a_panic_is_answered_and_counted() {
        let counters = WorkerCounters::default();
        let caught = catch_unwind(AssertUnwindSafe(|| -> Response<Tracked> { panic!("for the test") }));
        let response = caught.unwrap_or_else(|_| survive(&counters, false));
        assert_eq!((response.status(), counters.panics.get()), (StatusCode::INTERNAL_SERVER_ERROR, 1));
        let response = survive(&counters, true);
        assert_eq!((response.status(), grpc::status(response.headers())), (StatusCode::OK, Some(13)));
    }

    /// A future is moved several times before it is first polled, so that its size is time.
    #[test]
    fn the_future_of_an_exchange_is_small() {
        let size = size(run);
        assert!(size <= 3072, "{size} bytes");
    }
}

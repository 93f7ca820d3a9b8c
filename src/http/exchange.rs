//! One request from its head to the end of its answer: understood, decided, sent, answered, told.
//! This is the path of a request; what happens on the way is one call each.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, UPGRADE};
use http::{HeaderValue, Request, Response, StatusCode, Version, request};
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::attempt::{self, Plan};
use super::record::Record;
use super::tracked::{End, Lease, Tracked};
use super::upgrade::Tunnel;
use super::reply;
use crate::body::{Source, Upload};
use crate::config::schema::Protocol;
use crate::decide::{self, Decision, Verdict};
use crate::error::Reason;
use crate::inbound::Conn;
use crate::net::io::Activity;
use crate::snapshot::matcher::Facts;
use crate::snapshot::{Action, Forward, Route, Service, Target};
use crate::upstream::pool::{Limits, Load, Pool};
use crate::wire::head::{self, Outgoing};
use crate::wire::hop::{self, Hop};
use crate::wire::{forwarded, grpc, path};

/// Answers a request, whatever happens. A panic is this request's alone.
pub async fn run(
    conn: Rc<Conn>,
    activity: Rc<Activity>,
    request: Request<Incoming>,
) -> Result<Response<Tracked>, Infallible> {
    let is_grpc = grpc::is_grpc(request.headers());
    let version = request.version();
    let worker = conn.worker.clone();
    let closing = conn.clone();
    let answered = AssertUnwindSafe(answer(conn, activity, request)).catch_unwind().await;
    let mut response = answered.unwrap_or_else(|_| {
        worker.counters.panics.inc();
        let (parts, body) = reply::error(Reason::Panic, is_grpc).into_parts();
        Response::from_parts(parts, Tracked::plain(Source::Full(body)))
    });
    if version != Version::HTTP_2 && closing.is_closing() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

async fn answer(conn: Rc<Conn>, activity: Rc<Activity>, request: Request<Incoming>) -> Response<Tracked> {
    let (view, listener) = conn.view();
    let (parts, body) = request.into_parts();
    let record = Record::new(conn, view, listener, &parts, Instant::now());
    let mut exchange = Exchange { record, activity };
    match exchange.proxy(parts, body).await {
        Ok(Answer::Own(response)) => exchange.reply(response),
        Ok(Answer::Upstream(response, sent)) => exchange.relay(response, sent),
        Ok(Answer::Switched(response, switched)) => exchange.switched(response, switched),
        Err(reason) => {
            let response = reply::error(reason, exchange.record.grpc);
            exchange.record.reason = reason;
            exchange.reply(response)
        }
    }
}

/// An exchange in progress.
struct Exchange {
    record: Record,
    activity: Rc<Activity>,
}

enum Answer {
    /// Made here.
    Own(Response<Bytes>),
    Upstream(Response<Incoming>, Sent),
    Switched(Response<()>, Switched),
}

/// What was decided from the head.
enum Decided<'s> {
    Answer(Response<Bytes>),
    Forward(Chosen<'s>),
}

/// What an upgrade goes on with.
struct Switched {
    upstream: oneshot::Receiver<(TcpStream, Bytes)>,
    load: Load,
    idle: Duration,
}

/// What a request holds once it is answered by an upstream.
struct Sent {
    lease: Lease,
    limits: Limits,
    load: Load,
    deadline: Option<Instant>,
}

/// What deciding leaves for sending, apart from the head itself.
struct Chosen<'s> {
    route: &'s Route,
    forward: &'s Forward,
    target: Target,
    /// The path to send instead of the one that came.
    path: Option<String>,
    hop: Hop,
    /// The client named no host (HTTP/1.0).
    hostless: bool,
}

impl Exchange {
    async fn proxy(&mut self, mut parts: request::Parts, body: Incoming) -> Result<Answer, Reason> {
        let view = self.record.view.clone();
        let chosen = match self.decide(&view, &mut parts)? {
            Decided::Answer(response) => return Ok(Answer::Own(response)),
            Decided::Forward(chosen) => chosen,
        };
        let Target { service: index, subset } = chosen.target;
        let service = view.snapshot.services.get(index).ok_or(Reason::NoEndpoint)?;
        let cluster = view.clusters.get(index).ok_or(Reason::NoEndpoint)?;
        let picked = cluster.pick(service, subset, &mut *self.record.conn.worker.rng.borrow_mut());
        let pool = picked.ok_or(Reason::NoEndpoint)?;
        self.record.endpoint = Some(pool.address);
        self.check_body(&parts, &body, &chosen)?;
        let request = self.outgoing(parts, body, &chosen, service, &pool)?;
        self.send(request, &chosen, service, &pool).await
    }

    /// Everything that can be known from the head.
    fn decide<'s>(&mut self, view: &'s crate::worker::View, parts: &mut request::Parts) -> Result<Decided<'s>, Reason> {
        let record = &mut self.record;
        record.grpc = grpc::is_grpc(&parts.headers);
        let worker = record.conn.worker.clone();
        let rng = &mut *worker.rng.borrow_mut();
        let snapshot = &*view.snapshot;
        record.request_id = Some(forwarded::request_id(&mut parts.headers, rng));
        record.trace = Some(crate::wire::trace::continue_or_begin(&mut parts.headers, snapshot.trace, rng));
        let listener = snapshot.listeners.get(record.listener).ok_or(Reason::NoRoute)?;
        if parts.headers.len() > listener.config.max_headers as usize {
            // The HTTP/1 codec has refused it by now; that of HTTP/2 counts bytes only.
            return Err(Reason::HeadTooLarge);
        }
        let authority = head::check(parts)?;
        let path = path::normalise(parts.uri.path())?;
        let facts = Facts {
            method: &parts.method,
            host: &authority.host,
            path: &path.text,
            query: parts.uri.query(),
            headers: &parts.headers,
            grpc: record.grpc,
            attributes: &snapshot.attributes,
        };
        for (index, attribute) in snapshot.attributes.iter().enumerate() {
            record.attributes.extend(attribute.value(&facts).map(|value| (index, value.into())));
        }
        let decision = decide::decide(snapshot, listener, &facts, rng)?;
        record.choose(Some(decision.side()));
        let (forward, target) = match (&decision.verdict, &decision.route.action) {
            (Verdict::Forward { forward, target, .. }, _) => (*forward, *target),
            (Verdict::Answer, Action::Redirect(redirect)) => {
                record.reason = Reason::Redirect;
                let location = reply::Asked { host: &authority.host, port: authority.port, path: &path.text, uri: &parts.uri };
                return Ok(Decided::Answer(reply::redirect(redirect, &decision, &location)));
            }
            (Verdict::Answer, Action::Respond(status, body)) => {
                record.reason = Reason::DirectResponse;
                return Ok(Decided::Answer(reply::direct(*status, body)));
            }
            (Verdict::Answer, Action::Forward(_)) => return Err(Reason::NoEndpoint),
        };
        let new_path = edited_path(&decision, forward, &path);
        let hostless = authority.host.is_empty();
        let hop = hop::strip_request(parts.version, &mut parts.headers);
        let route = decision.route;
        Ok(Decided::Forward(Chosen { route, forward, target, path: new_path, hop, hostless }))
    }

    fn check_body(&self, parts: &request::Parts, body: &Incoming, chosen: &Chosen<'_>) -> Result<(), Reason> {
        if chosen.hop.upgrade.is_some() && !body.is_end_stream() {
            // What comes after the head would be read as the new protocol by one side only.
            return Err(Reason::BadRequest);
        }
        let Some(max) = chosen.route.max_body else { return Ok(()) };
        let length = parts.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if length.is_some_and(|length| length > max) { Err(Reason::BodyTooLarge) } else { Ok(()) }
    }

    /// The request as the upstream gets it.
    fn outgoing(
        &mut self,
        mut parts: request::Parts,
        body: Incoming,
        chosen: &Chosen<'_>,
        service: &Service,
        pool: &Pool,
    ) -> Result<Request<Upload>, Reason> {
        let record = &mut self.record;
        forwarded::append(&mut parts, record.conn.peer.ip(), false);
        for (index, value) in &record.attributes {
            let attribute = record.view.snapshot.attributes.get(*index);
            if let (Some(name), Ok(value)) = (attribute.and_then(|known| known.forward.as_ref()), HeaderValue::from_str(value)) {
                parts.headers.insert(name, value);
            }
        }
        if let Some(path) = &chosen.path {
            head::set_path(&mut parts.uri, path)?;
        }
        let fallback = match chosen.hostless {
            true => HeaderValue::try_from(pool.address.to_string()).map_err(|_| Reason::BadRequest)?,
            false => HeaderValue::from_static(""),
        };
        let version = upstream_version(service.protocol, parts.version);
        if chosen.hop.upgrade.is_some() && version == Version::HTTP_2 {
            return Err(Reason::Unsupported);
        }
        let host = chosen.forward.rewrite_host.as_ref();
        head::outgoing(&mut parts, Outgoing { version, host, fallback: &fallback, hop: &chosen.hop })?;
        chosen.route.request_headers.apply(&mut parts.headers);
        let upload = if body.is_end_stream() {
            Upload::empty()
        } else {
            let watch = (record.version == Version::HTTP_2).then(|| self.activity.clone());
            Upload::new(body, chosen.route.max_body, record.upload.clone(), watch, record.busy.clone())
        };
        Ok(Request::from_parts(parts, upload))
    }

    async fn send(
        &mut self,
        request: Request<Upload>,
        chosen: &Chosen<'_>,
        service: &Service,
        pool: &Rc<Pool>,
    ) -> Result<Answer, Reason> {
        let record = &mut self.record;
        let worker = record.conn.worker.clone();
        let view = record.view.clone();
        let preserve_case =
            view.snapshot.listeners.get(record.listener).is_some_and(|listener| listener.config.preserve_header_case);
        let limits = Limits {
            max: (service.connections.max as usize).div_ceil(worker.shared.workers.len().max(1)).max(1),
            max_pending: service.connections.max_pending as usize,
            max_requests: service.connections.max_requests,
            idle_timeout: *service.connections.idle_timeout,
            connect_timeout: service.connect_timeout,
            preserve_case,
        };
        let load = Load::new(pool);
        let upgrade = chosen.hop.upgrade.is_some();
        let upload = record.upload.clone();
        let version = request.version();
        let plan = Plan { worker: &worker, pool, limits: &limits, version, upgrade, upload: &upload };
        let bounds = chosen.route.timeout.filter(|_| !record.grpc || chosen.route.timeout_is_own);
        let deadline = bounds.map(|timeout| record.start + timeout);
        record.attempts = 1;
        let sent = Instant::now();
        let tried = attempt::run(&plan, request);
        let (response, lease) = within(deadline, chosen.route.stream_idle, &self.activity, tried).await?;
        record.upstream = Some(sent.elapsed());
        self.activity.idle.set(chosen.route.stream_idle);
        let sent = Sent { lease, limits, load, deadline };
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return self.switch(response, chosen, sent);
        }
        self.answered(response, chosen, sent)
    }

    /// The head of an ordinary answer.
    fn answered(&mut self, response: Response<Incoming>, chosen: &Chosen<'_>, mut sent: Sent) -> Result<Answer, Reason> {
        let record = &mut self.record;
        let (mut parts, body) = response.into_parts();
        head::check_response(&mut parts, record.version)?;
        chosen.route.response_headers.apply(&mut parts.headers);
        if record.grpc {
            record.grpc_status = grpc::status(&parts.headers);
        }
        if record.grpc || is_event_stream(&parts.headers) {
            sent.deadline = None;
        }
        record.reason = Reason::None;
        Ok(Answer::Upstream(Response::from_parts(parts, body), sent))
    }

    /// The upstream agrees to another protocol: both sockets leave hyper, and the connection's task goes on with them.
    fn switch(&mut self, response: Response<Incoming>, chosen: &Chosen<'_>, sent: Sent) -> Result<Answer, Reason> {
        let Lease::Http1(mut lease) = sent.lease else { return Err(Reason::UpstreamProtocol) };
        let wanted = chosen.hop.upgrade.as_ref().ok_or(Reason::UpgradeMismatch)?;
        let upstream = lease.upgraded.take().ok_or(Reason::UpgradeMismatch)?;
        let (mut parts, _) = response.into_parts();
        let agreed = parts.headers.get(UPGRADE).cloned().ok_or(Reason::UpgradeMismatch)?;
        let mut offered = wanted.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        if !offered.any(|token| token.eq_ignore_ascii_case(agreed.as_bytes().trim_ascii())) {
            return Err(Reason::UpgradeMismatch);
        }
        hop::strip_response(parts.version, &mut parts.headers);
        parts.headers.remove(CONTENT_LENGTH);
        chosen.route.response_headers.apply(&mut parts.headers);
        parts.headers.insert(UPGRADE, agreed);
        parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        parts.version = Version::HTTP_11;
        self.record.reason = Reason::None;
        let idle = chosen.route.tcp_idle;
        Ok(Answer::Switched(Response::from_parts(parts, ()), Switched { upstream, load: sent.load, idle }))
    }

    /// Sends an answer of our own.
    fn reply(mut self, response: Response<Bytes>) -> Response<Tracked> {
        let (mut parts, body) = response.into_parts();
        let refused = matches!(self.record.reason, Reason::BadRequest | Reason::BodyTooLarge | Reason::Unsupported);
        if refused && self.record.version != Version::HTTP_2 {
            // What follows a request that was not understood is not the next one.
            parts.headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        self.record.status = parts.status.as_u16();
        if self.record.grpc {
            self.record.grpc_status = grpc::status(&parts.headers);
        }
        self.record.response_bytes = body.len() as u64;
        Response::from_parts(parts, Tracked::new(Source::Full(body), End::own(self.record, self.activity)))
    }

    /// Sends the upstream's answer: what the exchange holds goes with its body.
    fn relay(mut self, response: Response<Incoming>, sent: Sent) -> Response<Tracked> {
        let (parts, body) = response.into_parts();
        self.record.status = parts.status.as_u16();
        self.activity.deadline.set(sent.deadline);
        let Sent { lease, limits, load, .. } = sent;
        let end = End { record: self.record, lease, limits: Some(limits), activity: self.activity, load: Some(load) };
        Response::from_parts(parts, Tracked::new(Source::Wire(body), end))
    }

    /// Sends the 101; the connection's task finds the tunnel once hyper is done with the connection.
    fn switched(mut self, response: Response<()>, switched: Switched) -> Response<Tracked> {
        let Switched { upstream, load, idle } = switched;
        self.record.status = StatusCode::SWITCHING_PROTOCOLS.as_u16();
        let conn = self.record.conn.clone();
        *conn.upgrade.borrow_mut() = Some(Tunnel { upstream, record: self.record, load, idle });
        response.map(|()| Tracked::plain(Source::Empty))
    }
}

/// A path that is not the one that came, where the route rewrites it or it had dot segments.
fn edited_path(decision: &Decision<'_>, forward: &Forward, path: &path::Path<'_>) -> Option<String> {
    match &forward.rewrite {
        Some(rewrite) => Some(reply::rewritten(rewrite, decision, &path.text)),
        None => path.resolved.then(|| path.text.clone().into_owned()),
    }
}

fn upstream_version(protocol: Protocol, client: Version) -> Version {
    match protocol {
        Protocol::Http2 => Version::HTTP_2,
        Protocol::Auto if client == Version::HTTP_2 => Version::HTTP_2,
        Protocol::Auto | Protocol::Http1 | Protocol::Tcp => Version::HTTP_11,
    }
}

fn is_event_stream(headers: &http::HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"))
}

/// Waits for the head of the answer until the deadline, or until nothing has moved for `idle`.
async fn within<T>(
    deadline: Option<Instant>,
    idle: Duration,
    activity: &Activity,
    tried: impl Future<Output = Result<T, Reason>>,
) -> Result<T, Reason> {
    let mut tried = pin!(tried);
    let due = || {
        let idle = (activity.moved.get() + idle, Reason::IdleTimeout);
        deadline.map_or(idle, |deadline| if deadline < idle.0 { (deadline, Reason::RequestTimeout) } else { idle })
    };
    let mut timer = pin!(tokio::time::sleep_until(due().0.into()));
    poll_fn(|cx| {
        if let Poll::Ready(result) = tried.as_mut().poll(cx) {
            return Poll::Ready(result);
        }
        loop {
            ready!(timer.as_mut().poll(cx));
            let (at, reason) = due();
            if at <= Instant::now() {
                return Poll::Ready(Err(reason));
            }
            timer.as_mut().reset(at.into());
        }
    })
    .await
}

//! The facts of one exchange, gathered while it runs, and told exactly once when it is dropped: to the metrics and to
//! the access log.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::header::{ACCEPT, HOST, USER_AGENT};
use http::{HeaderValue, Method, StatusCode, Uri, Version, request, response};

use crate::body::Progress;
use crate::error::{Producer, Reason};
use crate::inbound::{Busy, Conn};
use crate::net::clock;
use crate::telemetry::access::Entry;
use crate::telemetry::block::{Block, GrpcSide};
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
    pub block: Option<Arc<Block>>,
    pub start: Instant,
    pub status: u16,
    pub reason: Reason,
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
    pub endpoint: Option<SocketAddr>,
    pub attempts: u32,
    pub upstream: Option<Duration>,
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

impl Record {
    pub fn new(conn: Rc<Conn>, view: Rc<View>, listener: usize, parts: &request::Parts) -> Self {
        Self {
            busy: Busy::new(&conn),
            view,
            listener,
            side: None,
            block: None,
            start: clock::recent(),
            // Until there is an answer: what is told if the client leaves before.
            status: Reason::ClientReset.status().as_u16(),
            reason: Reason::ClientReset,
            producer: Producer::Proxy,
            peer_reason: None,
            received: None,
            has_body: false,
            reads_past: false,
            grpc: false,
            grpc_status: None,
            endpoint: None,
            attempts: 0,
            upstream: None,
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
    pub fn choose(&mut self, side: Option<usize>) {
        self.side = side;
        let series = self.view.snapshot.series(self.listener, side);
        self.block = self.conn.worker.block(&self.view, series);
        if let Some(block) = &self.block {
            block.active(1);
        }
    }

    /// What the access log calls an error: 5xx, a gRPC status other than 0, or an answer cut short.
    fn failed(&self) -> bool {
        use Reason::{ClientReset, Drained, IdleTimeout, RequestTimeout, UpstreamReset};
        self.status >= 500
            || self.grpc_status.is_some_and(|code| code != 0)
            || matches!(self.reason, ClientReset | Drained | IdleTimeout | RequestTimeout | UpstreamReset)
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
            let code = self.grpc_status.unwrap_or(2);
            block.grpc(GrpcSide::Server, code);
            if self.attempts > 0 {
                block.grpc(GrpcSide::Client, code);
            }
        }
    }

    fn log(&self, now: Instant) {
        let snapshot = &self.view.snapshot;
        let series = snapshot.series(self.listener, self.side);
        let labels = snapshot.labels(series);
        let duration = now.duration_since(self.start);
        let host = match (self.uri.authority(), &self.host) {
            (Some(authority), _) => authority.as_str().as_bytes(),
            (None, Some(host)) => host.as_bytes(),
            (None, None) => b"",
        };
        let attributes: Vec<(&str, &[u8])> = self
            .attributes
            .iter()
            .filter_map(|(index, value)| Some((&*snapshot.attributes.get(*index)?.name, value.as_bytes())))
            .collect();
        self.conn.worker.shared.access.write(&Entry {
            time: SystemTime::now().checked_sub(duration).unwrap_or(SystemTime::UNIX_EPOCH),
            listener: &labels.listener,
            route: &labels.route,
            service: &labels.service,
            subset: &labels.subset,
            endpoint: self.endpoint,
            method: self.method.as_str(),
            host,
            path: self.uri.path_and_query().map_or(b"", |path| path.as_str().as_bytes()),
            protocol: protocol(self.version),
            status: self.status,
            grpc_status: self.grpc_status,
            reason: self.reason,
            producer: self.producer,
            peer_reason: self.peer_reason.as_deref().unwrap_or_default(),
            duration,
            upstream_duration: self.upstream,
            request_bytes: self.upload.bytes.get(),
            response_bytes: self.response_bytes,
            peer: self.conn.peer,
            request_id: self.request_id.as_ref().map_or(b"", HeaderValue::as_bytes),
            trace_id: self.trace.map_or(0, |trace| u128::from_be_bytes(trace.trace_id)),
            span_id: self.trace.map_or(0, |trace| u64::from_be_bytes(trace.span_id)),
            user_agent: self.user_agent.as_ref().map_or(b"", HeaderValue::as_bytes),
            attempts: self.attempts,
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
        } else if self.reason == Reason::ClientReset && self.conn.is_forced() {
            // It was us who left.
            self.reason = Reason::Drained;
            if self.status == Reason::ClientReset.status().as_u16() {
                self.status = Reason::Drained.status().as_u16();
            }
        }
        self.count(now);
        let wanted = {
            let worker = &self.conn.worker;
            worker.shared.access.wants(self.failed(), now, &mut *worker.rng.borrow_mut())
        };
        if wanted {
            self.log(now);
        }
    }
}

pub fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}

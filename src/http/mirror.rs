//! Copies of requests for services whose answers nobody waits for. A copy has its own connection, deadline and limit; it
//! never delays the request itself, and what becomes of it says nothing of that request, or of its service.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, EXPECT, TE, UPGRADE};
use http::{HeaderName, HeaderValue, Request, request};
use http_body::Body as _;
use hyper::body::Incoming;

use super::attempt::{self, Plan};
use super::compare::Pair;
use super::record::Record;
use super::retry;
use super::terms;
use super::tracked::Lease;
use super::tries::Tries;
use crate::body::{Progress, Tee, Teed, Upload};
use crate::error::Reason;
use crate::policy::differ::Answer;
use crate::policy::fault::Chance;
use crate::snapshot::traffic::Mirror;
use crate::snapshot::{Route, Target};
use crate::telemetry::mirrored::{Ended, OnItsWay};
use crate::upstream::Want;
use crate::upstream::pool::Load;
use crate::wire::head::{self, Outgoing};
use crate::wire::hop::Hop;
use crate::wire::trace;
use crate::worker::{View, Worker};

/// Names the route, on a copy.
const MARK: HeaderName = HeaderName::from_static("x-outrigger-mirror");
/// Bytes of an answer that are read, so that its connection can be used again.
const DRAIN_MAX: usize = 1 << 20;

/// A copy before it is sent.
struct Copy {
    head: request::Parts,
    worker: Rc<Worker>,
    view: Rc<View>,
    /// Numbers of the route and of its mirror.
    of: (usize, usize),
    to: Target,
    grpc: bool,
    preserve_case: bool,
    place: OnItsWay,
    /// Its answer is to be compared.
    pair: Option<Rc<Pair>>,
}

/// Sends the copies that the request is to have: at once where it has no body, else when its body has gone by. What
/// their answers are to be compared with is for whoever relays the answer.
pub fn send(record: &Record, route: &Route, own: Target, request: &mut Request<Upload>) -> Vec<Rc<Pair>> {
    // A copy is not copied again, nor is what becomes a tunnel.
    if route.mirrors.is_empty() || request.headers().contains_key(MARK) || request.headers().contains_key(UPGRADE) {
        return Vec::new();
    }
    let copies: Vec<Copy> =
        (0..route.mirrors.len()).flat_map(|index| copies(record, (route, own), index, request)).flatten().collect();
    let pairs = copies.iter().filter_map(|copy| copy.pair.clone()).collect();
    if copies.is_empty() {
        return pairs;
    }
    if request.body().is_end_stream() {
        copies.into_iter().for_each(|copy| copy.spawn(Bytes::new()));
        return pairs;
    }
    let limit = copies.iter().filter_map(|copy| Some(copy.mirror()?.buffer_limit)).max().unwrap_or_default();
    request.body_mut().tee(Tee::new(limit, move |teed| {
        for copy in copies {
            match &teed {
                Teed::Whole(body) if copy.mirror().is_some_and(|mirror| body.len() <= mirror.buffer_limit) => {
                    copy.spawn(body.clone());
                }
                Teed::Whole(_) | Teed::TooLarge => copy.place.mirrored().count(Ended::TooLarge),
                Teed::Unfinished => copy.place.mirrored().count(Ended::Unfinished),
            }
        }
    }));
    pairs
}

/// What is drawn for one mirror: a copy for it, and perhaps one for the service itself, to learn what differs by nature.
fn copies(
    record: &Record,
    (route, own): (&Route, Target),
    index: usize,
    request: &Request<Upload>,
) -> [Option<Copy>; 2] {
    let worker = &record.conn.worker;
    let draw = |chance: Chance| chance.draw(&mut *worker.rng.borrow_mut());
    let none = [None, None];
    let Some(mirror) = route.mirrors.get(index) else { return none };
    if !mirror.methods.contains(request.method()) || !draw(mirror.chance) {
        return none;
    }
    let mirrored = worker.mirrored(&record.view, route.index, index);
    if request.body().size_hint().lower() > mirror.buffer_limit as u64 {
        mirrored.count(Ended::TooLarge);
        return none;
    }
    let of = (route.index, index);
    let copy = |to: Target, head: request::Parts, noise: bool| {
        Some(Copy {
            head,
            worker: worker.clone(),
            view: record.view.clone(),
            of,
            to,
            grpc: record.grpc,
            preserve_case: record.preserve_case(),
            place: mirrored.begin(mirror.max_in_flight)?,
            pair: mirror.compare.as_ref().map(|_| Pair::new(record, of, mirrored.clone(), noise)),
        })
    };
    let noise = mirror.compare.as_ref().is_some_and(|compare| request.method().is_safe() && draw(compare.noise));
    [
        copy(mirror.target, head(request, route, Some(mirror)), false),
        noise.then(|| copy(own, head(request, route, None), true)).flatten(),
    ]
}

/// The head of a copy. Its host, its id and its trace are those of the request.
fn head(request: &Request<Upload>, route: &Route, mirror: Option<&Mirror>) -> request::Parts {
    let mut parts = retry::spare(request);
    mirror.iter().for_each(|mirror| mirror.headers.apply(&mut parts.headers));
    parts.headers.remove(EXPECT);
    if let Ok(name) = HeaderValue::from_str(&route.name) {
        parts.headers.insert(MARK, name);
    }
    parts
}

impl Copy {
    fn mirror(&self) -> Option<&Mirror> {
        let (route, mirror) = self.of;
        self.view.snapshot.routes.get(route)?.mirrors.get(mirror)
    }

    fn spawn(self, body: Bytes) {
        let timeout = self.mirror().map_or(Duration::ZERO, |mirror| mirror.timeout);
        tokio::task::spawn_local(async move {
            let ended = match tokio::time::timeout(timeout, self.exchange(body)).await {
                Ok(Ok(())) => Ended::Answered,
                Ok(Err(Reason::Limit)) => Ended::Limit,
                Ok(Err(Reason::CircuitOpen)) => Ended::CircuitOpen,
                Ok(Err(reason)) => {
                    tracing::debug!(reason = reason.code(), "a copy was not answered");
                    Ended::Failed
                }
                Err(_) => Ended::Timeout,
            };
            if !self.pair.as_ref().is_some_and(|pair| pair.noise) {
                self.place.mirrored().count(ended);
            }
        });
    }

    async fn exchange(&self, body: Bytes) -> Result<(), Reason> {
        let snapshot = &self.view.snapshot;
        let target = self.to;
        let service = snapshot.services.get(target.service).ok_or(Reason::NoEndpoint)?;
        let limits = service.limits.as_ref().filter(|limits| !limits.shadow);
        let _place = limits.map(|limits| limits.gate.try_now(&limits.limits).ok_or(Reason::Limit)).transpose()?;
        let own = service.circuits.as_deref().and_then(|circuits| circuits.own.as_ref());
        if own.is_some_and(|circuit| !circuit.shadow && !circuit.breaker.is_closed()) {
            return Err(Reason::CircuitOpen);
        }
        let pool = {
            let cluster = self.view.clusters.get(target.service).ok_or(Reason::NoEndpoint)?;
            let picked = cluster.pick(service, target.subset, &Want::default(), &mut *self.worker.rng.borrow_mut());
            picked.ok_or(Reason::NoEndpoint)?
        };
        let mut parts = self.head.clone();
        trace::continue_or_begin(&mut parts.headers, snapshot.trace, &mut *self.worker.rng.borrow_mut());
        parts.headers.remove(CONNECTION);
        let hop = Hop { te_trailers: parts.headers.remove(TE).is_some(), ..Hop::default() };
        let version = terms::upstream_version(service.protocol, parts.version, self.preserve_case, &pool);
        let fallback = HeaderValue::try_from(pool.address.to_string()).map_err(|_| Reason::BadRequest)?;
        let how = Outgoing { version, host: None, fallback: &fallback, hop: &hop, secure: pool.is_secure() };
        head::outgoing(&mut parts, how)?;
        let mut request = Some(Request::from_parts(parts, Upload::full(body)));
        let limits = terms::limits(&self.worker, service, self.preserve_case, self.grpc);
        let _load = Load::new(&pool);
        let (upload, tries) = (Progress::default(), Tries::default());
        let (worker, pool) = (&self.worker, &pool);
        let plan =
            Plan { worker, pool, limits: &limits, upgrade: false, upload: &upload, tries: &tries, sending: None };
        let sent = Box::pin(attempt::run(&plan, &mut request, || None)).await;
        let (response, lease) = sent.map_err(|failed| failed.reason)?;
        let (parts, body) = response.into_parts();
        let keep = self.pair.as_ref().and_then(|pair| Some(pair.comparison()?.max_body));
        let Some(body) = read(body, keep.unwrap_or_default()).await? else { return Ok(()) };
        if let Lease::Http1(lease) = lease {
            lease.give_back(&limits);
        }
        if let (Some(pair), Body::Kept(body)) = (&self.pair, body) {
            pair.copied(Answer { status: parts.status, headers: parts.headers, body });
        }
        Ok(())
    }
}

/// Of an answer that came to its end.
enum Body {
    Kept(Bytes),
    /// Larger than what is kept.
    Dropped,
}

/// Reads an answer, up to a size, and keeps what is no larger than `keep`. None where it goes on beyond that.
async fn read(mut body: Incoming, keep: usize) -> Result<Option<Body>, Reason> {
    let (mut read, mut frames) = (0, Vec::new());
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let Ok(data) = frame.map_err(|_| Reason::UpstreamReset)?.into_data() else { continue };
        read += data.len();
        if read <= keep {
            frames.push(data);
        } else {
            frames = Vec::new();
        }
        if read > DRAIN_MAX.max(keep) {
            return Ok(None);
        }
    }
    Ok(Some(if read <= keep { Body::Kept(frames.concat().into()) } else { Body::Dropped }))
}

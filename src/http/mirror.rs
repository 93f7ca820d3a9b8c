//! Copies of requests for services whose answers nobody waits for. A copy has its own connection, deadline and limit; it
//! never delays the request itself, and what becomes of it says nothing of that request, or of its service.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, EXPECT, TE, UPGRADE};
use http::{HeaderName, HeaderValue, Request, Response, request};
use http_body::Body as _;
use hyper::body::Incoming;

use super::attempt::{self, Plan};
use super::record::Record;
use super::retry;
use super::terms;
use super::tracked::Lease;
use super::tries::Tries;
use crate::body::{Progress, Tee, Teed, Upload};
use crate::error::Reason;
use crate::snapshot::Route;
use crate::snapshot::traffic::Mirror;
use crate::telemetry::mirrored::{Ended, OnItsWay};
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
    grpc: bool,
    preserve_case: bool,
    place: OnItsWay,
}

/// Sends the copies that the request is to have: at once where it has no body, else when its body has gone by.
pub fn send(record: &Record, route: &Route, request: &mut Request<Upload>) {
    // A copy is not copied again, nor is what becomes a tunnel.
    if route.mirrors.is_empty() || request.headers().contains_key(MARK) || request.headers().contains_key(UPGRADE) {
        return;
    }
    let body = request.body();
    let (empty, least) = (body.is_end_stream(), body.size_hint().lower());
    let worker = &record.conn.worker;
    let mut copies = Vec::new();
    for (index, mirror) in route.mirrors.iter().enumerate() {
        if !mirror.methods.contains(request.method()) || !mirror.chance.draw(&mut *worker.rng.borrow_mut()) {
            continue;
        }
        let mirrored = worker.mirrored(&record.view, route.index, index);
        if least > mirror.buffer_limit as u64 {
            mirrored.count(Ended::TooLarge);
            continue;
        }
        let Some(place) = mirrored.begin(mirror.max_in_flight) else { continue };
        copies.push(Copy {
            head: head(request, route, mirror),
            worker: worker.clone(),
            view: record.view.clone(),
            of: (route.index, index),
            grpc: record.grpc,
            preserve_case: record.preserve_case(),
            place,
        });
    }
    if copies.is_empty() {
        return;
    }
    if empty {
        return copies.into_iter().for_each(|copy| copy.spawn(Bytes::new()));
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
}

/// The head of a copy. Its host, its id and its trace are those of the request.
fn head(request: &Request<Upload>, route: &Route, mirror: &Mirror) -> request::Parts {
    let mut parts = retry::spare(request);
    mirror.headers.apply(&mut parts.headers);
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
                Ok(Err(reason)) => {
                    tracing::debug!(reason = reason.code(), "a copy was not answered");
                    Ended::Failed
                }
                Err(_) => Ended::Timeout,
            };
            self.place.mirrored().count(ended);
        });
    }

    async fn exchange(&self, body: Bytes) -> Result<(), Reason> {
        let snapshot = &self.view.snapshot;
        let target = self.mirror().ok_or(Reason::NoEndpoint)?.target;
        let service = snapshot.services.get(target.service).ok_or(Reason::NoEndpoint)?;
        let pool = {
            let cluster = self.view.clusters.get(target.service).ok_or(Reason::NoEndpoint)?;
            let picked = cluster.pick(service, target.subset, &[], &mut *self.worker.rng.borrow_mut());
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
        let plan = Plan { worker, pool, limits: &limits, upgrade: false, upload: &upload, tries: &tries };
        let sent = Box::pin(attempt::run(&plan, &mut request, || None)).await;
        let (response, lease) = sent.map_err(|failed| failed.reason)?;
        if drain(response).await?
            && let Lease::Http1(lease) = lease
        {
            lease.give_back(&limits);
        }
        Ok(())
    }
}

/// Reads an answer, up to a size; whether it came to its end.
async fn drain(response: Response<Incoming>) -> Result<bool, Reason> {
    let mut body = response.into_body();
    let mut read = 0;
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|_| Reason::UpstreamReset)?;
        read += frame.data_ref().map_or(0, Bytes::len);
        if read > DRAIN_MAX {
            return Ok(false);
        }
    }
    Ok(true)
}

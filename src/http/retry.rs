//! The tries of a request: one after the other, as the route's retries say, each at another endpoint; or side by side,
//! as its hedge says.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::FuturesUnordered;
use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, request};
use http_body::{Body, Frame};
use hyper::body::Incoming;

use super::attempt::{self, Failed, Place, Plan};
use super::circuit;
use super::outcome::{self, Ended, Pending};
use super::record::Record;
use super::tracked::{Lease, Upstream};
use crate::body::{Origin, Progress, Replay, Upload};
use crate::error::Reason;
use crate::net::clock;
use crate::net::io::{Activity, Pause};
use crate::policy::outcome::{Kind, Outcome};
use crate::policy::retry::{NotAgain, Policy, Pushback, Situation};
use crate::snapshot::circuit::Heard;
use crate::snapshot::{Hedge, Route, Service};
use crate::telemetry::recent;
use crate::upstream::Want;
use crate::upstream::gate::RetryPermit;
use crate::upstream::learn;
use crate::upstream::pool::{Limits, Load, Pool};
use crate::wire::grpc;

/// Number of the try, from 1.
pub const ATTEMPT: HeaderName = HeaderName::from_static("x-outrigger-attempt");
/// Milliseconds that are left for the request.
pub const TIMEOUT: HeaderName = HeaderName::from_static("x-outrigger-timeout-ms");
/// Milliseconds; below zero for never (grpc `A6-client-retries.md`).
const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// An answer that nobody wants is read up to this size, for the sake of its connection.
const DRAIN_BYTES: usize = 64 * 1024;
const DRAIN_TIME: Duration = Duration::from_secs(1);

/// Bytes of a body that are kept for the sake of a hedge alone.
pub const HEDGED_BODY: u64 = 64 * 1024;

/// What all tries of a request share.
pub struct Sending<'a> {
    pub record: &'a Record,
    pub upstream: &'a Upstream,
    pub route: &'a Route,
    pub service: &'a Service,
    pub activity: &'a Activity,
    /// To make the request anew from; none where that cannot be done.
    pub spare: Option<request::Parts>,
    /// The body, where it is kept.
    pub replay: Option<Rc<Replay>>,
    /// Of the try that was begun last, from 0.
    pub number: Cell<u32>,
}

/// A try that was answered.
pub struct Sent {
    pub response: Response<Incoming>,
    /// A frame of its body that was looked at.
    pub ahead: Option<Box<Frame<Bytes>>>,
    pub lease: Lease,
    pub load: Load,
    /// What came of it is known at its end.
    pub pending: Option<Pending>,
}

/// What came of a try, and its endpoint.
struct Tried {
    pool: Rc<Pool>,
    result: Result<Sent, Failed>,
    outcome: Outcome,
}

/// Sends the request until it is answered for good.
pub async fn run(sending: &Sending<'_>, load: Load, request: &mut Place) -> Result<Sent, Reason> {
    if sending.route.retry.is_some() || sending.route.hedge.is_some() {
        // Large, so not in the future of every request.
        return Box::pin(again_and_again(sending, load, request)).await;
    }
    sending.stamp(request);
    sending.once(load, request).await.end()
}

async fn again_and_again(sending: &Sending<'_>, mut load: Load, request: &mut Place) -> Result<Sent, Reason> {
    let policy = sending.route.retry.as_deref();
    sending.service.budget.request(clock::recent());
    // Its place among the retries of the service, while it is tried again.
    let mut place = None;
    for done in 0.. {
        sending.number.set(sending.number.get() + u32::from(done > 0));
        sending.stamp(request);
        let tried = match &sending.route.hedge {
            Some(hedge) if sending.may_hedge(hedge) => sending.hedged(hedge, load, request).await,
            _ => sending.once(load, request).await,
        };
        if tried.result.is_ok() && !tried.outcome.is_failure() {
            // What another try was not made for is no matter now.
            sending.record.tries.not_again.set(None);
        }
        let Some(policy) = policy else { return tried.end() };
        let wait;
        (wait, load, place) = match sending.next(policy, &tried, request.is_some(), (done, place.take())) {
            Ok(again) => again,
            Err(why) => {
                sending.not_again(why, &tried.outcome);
                return tried.end();
            }
        };
        if let Ok(sent) = tried.result {
            sent.discard(&sending.upstream.limits);
        }
        {
            let _pause = Pause::begin(sending.activity);
            tokio::time::sleep(wait).await;
        }
        if request.is_none() {
            *request = sending.again();
        }
    }
    Err(Reason::UpstreamReset)
}

impl Tried {
    fn end(self) -> Result<Sent, Reason> {
        self.result.map_err(|failed| failed.reason)
    }
}

impl Sending<'_> {
    /// The wait before the next try, and the endpoint that it goes to.
    fn next(
        &self,
        policy: &Policy,
        tried: &Tried,
        unsent: bool,
        (done, place): (u32, Option<RetryPermit>),
    ) -> Result<(Duration, Load, Option<RetryPermit>), NotAgain> {
        let now = clock::tick();
        let at = Situation {
            done,
            idempotent: self.record.method.is_idempotent(),
            grpc: self.record.grpc,
            body_is_there: unsent || self.can_send_again(),
            left: self.upstream.deadline.map(|deadline| deadline.saturating_duration_since(now)),
            pushback: tried.result.as_ref().ok().and_then(Sent::pushback),
            tried_before_us: self.upstream.tried_before,
        };
        let wait = policy.again(&tried.outcome, at, &mut *self.record.conn.worker.rng.borrow_mut())?;
        let load = self.another().ok_or(NotAgain::NoEndpoint)?;
        if circuit::is_shut(&self.record.circuit, self.route, self.service) {
            return Err(NotAgain::CircuitOpen);
        }
        let limits = self.service.limits.as_ref().filter(|_| place.is_none());
        let more = limits.map(|limits| limits.try_retry()).transpose().map_err(|_| NotAgain::Limit)?.flatten();
        let place = place.or(more);
        if !self.service.budget.retry(policy.share, now) {
            return Err(NotAgain::Budget);
        }
        self.record.conn.worker.counters.upstream_retries.inc();
        Ok((wait, load, place))
    }

    /// An endpoint, if possible one that was not tried yet.
    fn another(&self) -> Option<Load> {
        let record = self.record;
        let tried: Vec<_> = record.tries.known().iter().map(|attempt| attempt.endpoint.clone()).collect();
        let want = Want { key: self.upstream.key, tried: &tried };
        let pool = record.conn.pick(&record.view, record.listener, self.upstream.target, &want)?;
        record.picked.set(Some(pool.why()));
        Some(Load::new(&pool))
    }

    /// Where something failed, why that was all.
    fn not_again(&self, why: NotAgain, outcome: &Outcome) {
        if why == NotAgain::NotCovered && !outcome.is_failure() {
            return;
        }
        self.record.tries.not_again.set(Some(why));
        self.record.conn.worker.counters.upstream_not_again.inc(why);
    }

    fn can_send_again(&self) -> bool {
        self.spare.is_some() && self.replay.as_ref().is_none_or(|replay| replay.is_there())
    }

    /// The request once more.
    fn again(&self) -> Option<Request<Upload>> {
        let parts = self.spare.as_ref().filter(|_| self.can_send_again())?.clone();
        let body = match &self.replay {
            None => Upload::empty(),
            Some(replay) => {
                self.record.upload.begin_again();
                self.upstream.body.of(replay, &self.record.upload)
            }
        };
        let mut request = Some(Request::from_parts(parts, body));
        self.stamp(&mut request);
        request
    }

    /// What each try says of itself.
    fn stamp(&self, request: &mut Place) {
        let Some(headers) = request.as_mut().map(Request::headers_mut) else { return };
        if self.route.retry.is_some() || self.route.hedge.is_some() {
            headers.insert(ATTEMPT, HeaderValue::from(self.number.get() + 1));
        }
    }

    /// Whether the route says what is done about an outcome.
    pub fn is_ruled(&self, kind: Kind) -> bool {
        let outcome = Outcome { kind, took: Duration::ZERO };
        self.route.retry.as_deref().is_some_and(|policy| policy.rule(&outcome, self.record.grpc).is_some())
    }

    /// How much time is left, when the request goes out.
    pub fn tell_time(&self, headers: &mut HeaderMap) {
        let left = |until: Instant| until.saturating_duration_since(clock::recent());
        if let Some(until) = self.upstream.call_deadline {
            headers.insert(grpc::TIMEOUT, grpc::timeout_value(left(until)));
        }
        if let Some(until) = self.upstream.deadline.filter(|_| self.upstream.tells_deadline) {
            let millis = u64::try_from(left(until).as_millis()).unwrap_or(u64::MAX);
            headers.insert(TIMEOUT, HeaderValue::from(millis.max(1)));
        }
    }

    /// One try, within its time.
    async fn once(&self, load: Load, request: &mut Place) -> Tried {
        let begun = clock::recent();
        self.activity.moved.set(begun);
        let pool = load.pool().clone();
        let (record, upstream) = (self.record, self.upstream);
        let plan = Plan {
            worker: &record.conn.worker,
            pool: load.pool(),
            limits: &upstream.limits,
            upgrade: upstream.upgrade.is_some(),
            upload: &record.upload,
            tries: &record.tries,
            sending: Some(self),
        };
        let bounds = Bounds {
            deadline: upstream.deadline,
            per_try: self.route.retry.as_deref().and_then(|policy| policy.per_try).map(|time| begun + time),
            idle: self.route.stream_idle,
        };
        let (result, in_line) = {
            let running = pin!(attempt::run(&plan, request, || self.again()));
            let result = within(&bounds, self.activity, running).await;
            (result, load.pool().is_in_line() && record.tries.is_unconnected())
        };
        if let Err(reason) = result {
            let queued = in_line || load.pool().open() >= upstream.limits.max;
            record.tries.cut(recent::Outcome::Failed(reason), queued, clock::tick());
            record.tries.not_again.set(Some(NotAgain::OutOfTime));
        }
        let took = clock::recent().saturating_duration_since(begun);
        let failed = |reason| match reason {
            Reason::RequestTimeout if upstream.is_hurried(begun) => Failed { kind: Kind::Dropped, reason },
            // The endpoint has not been asked.
            _ if in_line => Failed { kind: Kind::Dropped, reason },
            _ => Failed { kind: Kind::Failed(reason), reason },
        };
        let (result, kind) = match result.map_err(failed).flatten() {
            Ok((response, lease)) => {
                let mut sent = Sent { response, ahead: None, lease, load, pending: None };
                let kind = self.came(&mut sent, took);
                (Ok(sent), kind)
            }
            Err(failed) => {
                let kind = failed.kind;
                self.learn(load.pool(), Outcome { kind, took }, None);
                (Err(failed), kind)
            }
        };
        Tried { pool, result, outcome: Outcome { kind, took } }
    }

    /// What an answer means. The status of a gRPC call may be in its trailers: those that are there already are looked
    /// at, and the others are waited for by whoever relays them.
    fn came(&self, sent: &mut Sent, took: Duration) -> Kind {
        let status = sent.response.status();
        let mut grpc = None;
        if self.record.grpc {
            grpc = grpc::status(sent.response.headers());
            if grpc.is_none() && status == http::StatusCode::OK {
                sent.peek();
                let trailers = sent.ahead.as_ref().and_then(|ahead| ahead.trailers_ref());
                grpc = trailers.and_then(grpc::status);
                if grpc.is_none() {
                    let heard = outcome::hear(self.service, status, sent.response.headers());
                    sent.pending = Some(Pending { pool: sent.load.pool().clone(), status, took, heard });
                    return Kind::Answered { status, grpc: None };
                }
            }
        }
        let kind = Kind::Answered { status, grpc };
        self.learn(sent.load.pool(), Outcome { kind, took }, Some(sent.response.headers()));
        kind
    }

    fn learn(&self, pool: &Rc<Pool>, outcome: Outcome, head: Option<&HeaderMap>) {
        let heard = match (outcome.kind, head) {
            (Kind::Answered { status, .. }, Some(head)) => outcome::hear(self.service, status, head),
            _ => Heard::default(),
        };
        let (route, service, circuit) = (self.route, self.service, &self.record.circuit);
        outcome::learn(&Ended { route, service, pool, outcome, circuit, heard, head });
    }

    fn may_hedge(&self, hedge: &Hedge) -> bool {
        // Of two proxies, one tries more than once.
        !self.upstream.tried_before
            && (self.record.method.is_idempotent() || hedge.non_idempotent)
            && self.upstream.upgrade.is_none()
    }

    /// A try, and where it takes too long, others at its side.
    async fn hedged(&self, hedge: &Hedge, load: Load, request: &mut Place) -> Tried {
        let Some(after) = hedge.after() else { return self.once(load, request).await };
        let first = (load.pool().clone(), clock::recent());
        let mut alone = pin!(self.once(load, request));
        tokio::select! {
            biased;
            tried = &mut alone => return tried,
            () = tokio::time::sleep(after) => {}
        }
        // Rare, and large.
        Box::pin(self.side_by_side(hedge, after, Box::pin(alone), first)).await
    }

    /// The first good answer counts, and the others are given up.
    async fn side_by_side(
        &self,
        hedge: &Hedge,
        after: Duration,
        alone: LocalBoxFuture<'_, Tried>,
        first: (Rc<Pool>, Instant),
    ) -> Tried {
        let mut under_way = vec![first];
        let mut running = FuturesUnordered::from_iter([alone]);
        let mut left = hedge.max;
        let mut timer = pin!(tokio::time::sleep(Duration::ZERO));
        let mut bad: Option<Tried> = None;
        loop {
            tokio::select! {
                biased;
                Some(tried) = running.next() => {
                    let is_good = tried.result.is_ok() && !tried.outcome.is_failure();
                    under_way.retain(|(pool, _)| !tried.is_of(pool));
                    if is_good || running.is_empty() {
                        let now = clock::recent();
                        drop(running);
                        // How long they would have taken nobody knows, but so long at least.
                        for (pool, begun) in under_way {
                            learn::outrun(self.service, &pool, now.saturating_duration_since(begun), now);
                        }
                        self.record.tries.cut(recent::Outcome::Outrun, false, now);
                        return tried.better(bad, &self.upstream.limits);
                    }
                    bad = Some(tried.better(bad, &self.upstream.limits));
                }
                () = &mut timer, if left > 0 => {
                    left -= 1;
                    match self.beside(hedge) {
                        Some((load, request, place)) => {
                            let mut request = Some(request);
                            self.number.set(self.number.get() + 1);
                            self.stamp(&mut request);
                            under_way.push((load.pool().clone(), clock::recent()));
                            running.push(Box::pin(async move {
                                let _place = place;
                                self.once(load, &mut request).await
                            }));
                            timer.as_mut().reset(tokio::time::Instant::now() + after);
                        }
                        None => left = 0,
                    }
                }
            }
        }
    }

    /// Another endpoint and the same request, where there is a budget for it and the body is there as a whole.
    fn beside(&self, hedge: &Hedge) -> Option<(Load, Request<Upload>, Option<RetryPermit>)> {
        if self.replay.as_ref().is_some_and(|replay| !replay.is_whole()) {
            return None;
        }
        if circuit::is_shut(&self.record.circuit, self.route, self.service) {
            return None;
        }
        let load = self.another()?;
        let place = self.service.limits.as_ref().map(|limits| limits.try_retry()).transpose().ok()?.flatten();
        // The count of what was sent is that of one of them.
        let uploaded = self.record.upload.bytes.get();
        let request = self.again().filter(|_| self.service.budget.retry(hedge.budget, clock::tick()))?;
        self.record.upload.bytes.set(uploaded);
        self.record.conn.worker.counters.upstream_hedges.inc();
        Some((load, request, place))
    }
}

impl Tried {
    fn is_of(&self, pool: &Rc<Pool>) -> bool {
        Rc::ptr_eq(&self.pool, pool)
    }

    /// Of two that both failed, an answer is worth more than none.
    fn better(self, other: Option<Self>, limits: &Limits) -> Self {
        let Some(other) = other else { return self };
        let (keep, drop) = match (&self.result, &other.result) {
            (Err(_), Ok(_)) => (other, self),
            _ => (self, other),
        };
        if let Ok(sent) = drop.result {
            sent.discard(limits);
        }
        keep
    }
}

impl Sent {
    /// What the service asks of those who would try again, in its head or in trailers that have come with it.
    fn pushback(&self) -> Option<Pushback> {
        let trailers = self.ahead.as_ref().and_then(|ahead| ahead.trailers_ref());
        pushback(self.response.headers()).or_else(|| pushback(trailers?))
    }

    /// Looks at the first frame of the body, if it has come.
    fn peek(&mut self) {
        if self.response.body().is_end_stream() {
            return;
        }
        // Nobody is woken by this: whoever relays the body asks again.
        let mut cx = Context::from_waker(Waker::noop());
        if let Poll::Ready(Some(Ok(frame))) = Pin::new(self.response.body_mut()).poll_frame(&mut cx) {
            self.ahead = Some(Box::new(frame));
        }
    }

    /// Nobody wants the answer. Its connection can be used again once it has been read.
    fn discard(self, limits: &Limits) {
        let Lease::Http1(lease) = self.lease else { return };
        let (mut body, limits) = (self.response.into_body(), *limits);
        if body.is_end_stream() {
            return lease.give_back(&limits);
        }
        tokio::task::spawn_local(async move {
            let drained = async {
                let mut read = 0;
                while let Some(Ok(frame)) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
                    read += frame.data_ref().map_or(0, Bytes::len);
                    if read > DRAIN_BYTES {
                        return false;
                    }
                }
                body.is_end_stream()
            };
            if tokio::time::timeout(DRAIN_TIME, drained).await == Ok(true) {
                lease.give_back(&limits);
            }
        });
    }
}

/// What the service asks for: `grpc-retry-pushback-ms`, or `Retry-After` (RFC 9110, section 10.2.3), in seconds or as a
/// moment.
fn pushback(headers: &HeaderMap) -> Option<Pushback> {
    let number = |name| headers.get(name)?.to_str().ok()?.trim().parse::<i64>().ok();
    if headers.contains_key(PUSHBACK) {
        let millis = number(PUSHBACK).and_then(|millis| u64::try_from(millis).ok());
        return Some(millis.map_or(Pushback::Never, |millis| Pushback::After(Duration::from_millis(millis))));
    }
    let after = match number(RETRY_AFTER) {
        Some(seconds) => Duration::from_secs(u64::try_from(seconds).ok()?),
        None => {
            let moment = httpdate::parse_http_date(headers.get(RETRY_AFTER)?.to_str().ok()?).ok()?;
            moment.duration_since(SystemTime::now()).unwrap_or_default()
        }
    };
    Some(Pushback::After(after))
}

/// The head of a request, to make it anew from.
pub fn spare(request: &Request<Upload>) -> request::Parts {
    let mut copy = Request::new(());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    copy.headers_mut().clone_from(request.headers());
    copy.into_parts().0
}

/// What bounds a try.
struct Bounds {
    deadline: Option<Instant>,
    per_try: Option<Instant>,
    idle: Duration,
}

impl Bounds {
    fn due(&self, moved: Instant) -> (Instant, Reason) {
        let idle = (moved + self.idle, Reason::IdleTimeout);
        let deadline = self.deadline.map(|at| (at, Reason::RequestTimeout));
        let per_try = self.per_try.map(|at| (at, Reason::TryTimeout));
        // Of two at the same time, the one that is for the whole.
        [per_try, deadline].into_iter().flatten().fold(idle, |due, other| if other.0 <= due.0 { other } else { due })
    }
}

/// Waits for the head of the answer until the deadline, or until nothing has moved for too long.
async fn within<T>(
    bounds: &Bounds,
    activity: &Activity,
    mut running: Pin<&mut impl Future<Output = T>>,
) -> Result<T, Reason> {
    let due = || bounds.due(activity.moved.get());
    let mut timer = pin!(tokio::time::sleep_until(due().0.into()));
    poll_fn(|cx| {
        if let Poll::Ready(result) = running.as_mut().poll(cx) {
            return Poll::Ready(Ok(result));
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

/// How a body is sent: what `Upload` needs to know, to be made more than once.
pub struct BodyPlan {
    pub limit: Option<u64>,
    pub watch: Option<Rc<Activity>>,
    pub held: Rc<dyn std::any::Any>,
}

impl BodyPlan {
    pub fn of(&self, replay: &Rc<Replay>, progress: &Rc<Progress>) -> Upload {
        Upload::new(Origin::Kept(replay.read()), self.limit, progress.clone(), self.watch.clone(), self.held.clone())
    }
}

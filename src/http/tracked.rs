//! The body of an answer on its way to the client. It owns what the exchange holds until its last frame: the
//! connection to the upstream, its place in the load balancer, and the record.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderValue;
use http_body::{Body as _, Frame, SizeHint};

use super::admission::Admission;
use super::compare::Pair;
use super::fault::Slowed;
use super::outcome::{self, Ended, Pending};
use super::record::Record;
use super::retry::BodyPlan;
use crate::body::{Error, Replay, Source, Tee};
use crate::error::Reason;
use crate::net::clock;
use crate::net::io::Activity;
use crate::policy::outcome::{Kind, Outcome};
use crate::snapshot::Target;
use crate::telemetry::recent::NotAgain;
use crate::upstream::pool::{Limits, Load};
use crate::upstream::{h1, h2};
use crate::wire::{grpc, head};

pub struct Tracked {
    source: Source,
    end: Option<Box<End>>,
}

/// What ends with the body.
pub struct End {
    pub record: Record,
    pub activity: Rc<Activity>,
    /// None where the answer is made here.
    pub upstream: Option<Upstream>,
    /// The request's body, where it is kept.
    pub replay: Option<Rc<Replay>>,
    pub lease: Lease,
    /// Its body is slowed on purpose.
    pub slowed: Option<Box<Slowed>>,
    /// Its answer is to be compared with those of copies.
    pub compared: Vec<Rc<Pair>>,
    /// Keeps its body for that.
    pub watched: Option<Box<Tee>>,
    /// Its place at the service.
    pub admission: Admission,
}

/// Where a request is sent, and what that has to keep to.
pub struct Upstream {
    pub target: Target,
    /// What an endpoint is chosen by, where the service hashes.
    pub key: Option<u64>,
    pub limits: Limits,
    /// Its place in the load balancer, at the endpoint that it was sent to.
    pub load: Option<Load>,
    /// Of a gRPC call whose status is still to come.
    pub pending: Option<Pending>,
    /// The protocols that the client offers to switch to: on a connection of its own.
    pub upgrade: Option<HeaderValue>,
    pub deadline: Option<Instant>,
    /// When the client itself gives the call up (`grpc-timeout`).
    pub call_deadline: Option<Instant>,
    /// That of the route, which the client may have lowered.
    pub own_deadline: Option<Instant>,
    /// What is left of the deadline is told to the service.
    pub tells_deadline: bool,
    /// A proxy before us tries again by itself.
    pub tried_before: bool,
    pub body: BodyPlan,
    /// Index of the route.
    pub route: usize,
}

/// What a client leaves a service at least, for its patience to be the service's fault.
const PATIENCE: Duration = Duration::from_secs(1);
/// A client's clock runs ahead of ours by as long as its request was on its way: this much, or a tenth of its time.
const AHEAD: Duration = Duration::from_millis(50);

impl Upstream {
    /// The client gives less time to a try that begins now than would say anything of the service.
    pub fn is_hurried(&self, now: Instant) -> bool {
        let left = |deadline: Instant| deadline.saturating_duration_since(now);
        let own = self.own_deadline.is_some_and(|own| self.deadline == Some(own));
        !own && self.deadline.is_some_and(|deadline| left(deadline) < PATIENCE)
    }

    /// A client that leaves now does so because the time is over that it has announced.
    pub fn is_given_up(&self, begun: Instant, now: Instant) -> bool {
        let announced = self.deadline.filter(|deadline| self.own_deadline != Some(*deadline));
        let over = |deadline: Instant| {
            let ahead = AHEAD.max(deadline.saturating_duration_since(begun) / 10);
            deadline.saturating_duration_since(now) <= ahead
        };
        announced.is_some_and(over) && !self.is_hurried(begun)
    }
}

/// The connection that the answer comes from.
pub enum Lease {
    None,
    Http1(h1::Lease),
    Http2(h2::Lease),
}

impl Tracked {
    /// A body that nothing depends on.
    pub fn plain(source: Source) -> Self {
        Self { source, end: None }
    }

    pub fn new(source: Source, end: Box<End>) -> Self {
        Self { source, end: Some(end) }
    }

    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match self.end.as_mut().and_then(|end| end.slowed.as_mut()) {
            Some(slowed) => slowed.poll_frame(&mut self.source, cx),
            None => Pin::new(&mut self.source).poll_frame(cx),
        }
    }

    /// Nothing more is to come.
    fn is_over(&self) -> bool {
        let slowed = self.end.as_ref().and_then(|end| end.slowed.as_ref());
        self.source.is_end_stream() && slowed.is_none_or(|slowed| slowed.is_empty())
    }

    fn frame(&mut self, mut frame: Frame<Bytes>) -> Frame<Bytes> {
        let Some(end) = &mut self.end else { return frame };
        end.activity.moved.set(clock::recent());
        if let Some(data) = frame.data_ref().filter(|_| end.upstream.is_some()) {
            end.record.response_bytes += data.len() as u64;
            end.watched.iter_mut().for_each(|tee| tee.data(data));
            end.record.circuit.data(data);
        } else if let Some(trailers) = frame.trailers_mut() {
            head::clean_trailers(trailers);
            if end.record.grpc {
                end.record.grpc_status = grpc::status(trailers).or(end.record.grpc_status);
                end.came(|pending, grpc| Kind::Answered { status: pending.status, grpc });
            }
        }
        frame
    }

    /// Why the stream's watch ends it, where the client can still be told in trailers.
    fn overdue(&self) -> Option<Reason> {
        self.end.as_ref().filter(|end| end.record.ends_in_trailers())?.activity.expired.get()
    }

    /// Ends the answer before the upstream does. A gRPC client on HTTP/2 still gets a status.
    fn cut(&mut self, reason: Reason) -> Option<Frame<Bytes>> {
        let mut end = self.end.take()?;
        end.record.reason = reason;
        end.came(|_, _| Kind::Failed(reason));
        end.record.tries.not_again.set(Some(NotAgain::AnswerBegun));
        if !end.record.ends_in_trailers() {
            return None;
        }
        self.source = Source::Empty;
        end.record.upload.stop();
        end.record.grpc_status = Some(reason.grpc());
        Some(Frame::trailers(grpc::trailers(reason.grpc(), reason.sentence())))
    }

    /// The upstream broke off, unless that was our doing.
    fn broken(&mut self, error: Error) -> Result<Frame<Bytes>, Error> {
        let too_large = self.end.as_ref().is_some_and(|end| end.record.upload.too_large.get());
        self.cut(if too_large { Reason::BodyTooLarge } else { Reason::UpstreamReset }).ok_or(error)
    }
}

impl End {
    /// Nothing is held yet. One allocation for the whole exchange: it goes from hand to hand as a pointer.
    pub fn new(record: Record, activity: Rc<Activity>) -> Box<Self> {
        let (compared, lease, admission) = (Vec::new(), Lease::None, Admission::default());
        let (upstream, replay, slowed, watched) = (None, None, None, None);
        Box::new(Self { record, activity, upstream, replay, lease, slowed, compared, watched, admission })
    }

    /// What came of a gRPC call is known now.
    fn came(&mut self, kind: impl FnOnce(&Pending, Option<u8>) -> Kind) {
        let Some((upstream, pending)) =
            self.upstream.as_mut().and_then(|upstream| upstream.pending.take().map(|pending| (&*upstream, pending)))
        else {
            return;
        };
        let snapshot = &self.record.view.snapshot;
        let service = snapshot.services.get(upstream.target.service);
        if let Some((route, service)) = snapshot.routes.get(upstream.route).zip(service) {
            // Without a status it is unknown (grpc `doc/http-grpc-status-mapping.md`).
            let kind = kind(&pending, Some(self.record.grpc_status.unwrap_or(2)));
            let outcome = Outcome { kind, took: pending.took };
            let (pool, circuit, heard) = (&pending.pool, &self.record.circuit, pending.heard);
            outcome::learn(&Ended { route, service, pool, outcome, circuit, heard, head: None });
        }
    }

    /// The whole answer has been handed on.
    fn complete(mut self) {
        self.came(|pending, grpc| Kind::Answered { status: pending.status, grpc });
        self.watched.iter_mut().for_each(|tee| tee.whole());
        self.record.circuit.complete();
        if !self.record.upload.ended.get() {
            self.record.upload.stop();
        }
        if let (Lease::Http1(lease), Some(upstream)) = (self.lease, &self.upstream) {
            lease.give_back(&upstream.limits);
        }
    }
}

impl http_body::Body for Tracked {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Some(reason) = self.overdue() {
            return Poll::Ready(self.cut(reason).map(Ok));
        }
        Poll::Ready(match std::task::ready!(self.poll_source(cx)) {
            Some(Ok(frame)) => Some(Ok(self.frame(frame))),
            Some(Err(error)) => Some(self.broken(error)),
            None => {
                if let Some(end) = self.end.take() {
                    end.complete();
                }
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.is_over()
    }

    fn size_hint(&self) -> SizeHint {
        self.source.size_hint()
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        let over = self.is_over();
        let Some(mut end) = self.end.take() else { return };
        if over {
            return end.complete();
        }
        let Some(upstream) = &end.upstream else { return };
        let given_up = upstream.is_given_up(end.record.start, clock::tick());
        end.record.reason = end.activity.expired.get().unwrap_or(Reason::ClientReset);
        if given_up && end.record.reason == Reason::ClientReset && end.record.conn.forced().is_none() {
            end.came(|_, _| Kind::Failed(Reason::RequestTimeout));
        }
    }
}

//! The body of an answer on its way to the client. It owns what the exchange holds until its last frame: the
//! connection to the upstream, its place in the load balancer, and the record.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Version};
use http_body::{Frame, SizeHint};

use super::record::Record;
use crate::body::{Error, Source};
use crate::error::Reason;
use crate::net::clock;
use crate::net::io::Activity;
use crate::telemetry::recent::NotAgain;
use crate::upstream::pool::{Limits, Load, Pool};
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
    pub lease: Lease,
}

/// Where a request is sent, and what that has to keep to.
pub struct Upstream {
    pub pool: Rc<Pool>,
    pub limits: Limits,
    /// Its place in the load balancer.
    pub load: Load,
    /// Where the upstream turns out not to speak HTTP/2, HTTP/1.1 will do.
    pub http1_will_do: bool,
    /// The protocols that the client offers to switch to: on a connection of its own.
    pub upgrade: Option<HeaderValue>,
    pub deadline: Option<Instant>,
    /// Index of the route.
    pub route: usize,
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

    fn frame(&mut self, mut frame: Frame<Bytes>) -> Frame<Bytes> {
        let Some(end) = &mut self.end else { return frame };
        end.activity.moved.set(clock::recent());
        if let Some(data) = frame.data_ref().filter(|_| end.upstream.is_some()) {
            end.record.response_bytes += data.len() as u64;
        } else if let Some(trailers) = frame.trailers_mut() {
            head::clean_trailers(trailers);
            if end.record.grpc {
                end.record.grpc_status = grpc::status(trailers).or(end.record.grpc_status);
            }
        }
        frame
    }

    /// The upstream broke off. A gRPC client on HTTP/2 still gets a status.
    fn broken(&mut self, error: Error) -> Option<Result<Frame<Bytes>, Error>> {
        let mut end = self.end.take()?;
        let reason = Reason::UpstreamReset;
        end.record.reason = reason;
        end.record.tries.not_again.set(Some(NotAgain::AnswerBegun));
        if !(end.record.grpc && end.record.version == Version::HTTP_2) {
            return Some(Err(error));
        }
        self.source = Source::Empty;
        end.record.grpc_status = Some(reason.grpc());
        let mut trailers = HeaderMap::with_capacity(2);
        trailers.insert(grpc::STATUS, HeaderValue::from(u16::from(reason.grpc())));
        trailers.insert(grpc::MESSAGE, HeaderValue::from_static(reason.sentence()));
        Some(Ok(Frame::trailers(trailers)))
    }
}

impl End {
    /// Nothing is held yet. One allocation for the whole exchange: it goes from hand to hand as a pointer.
    pub fn new(record: Record, activity: Rc<Activity>) -> Box<Self> {
        Box::new(Self { record, activity, upstream: None, lease: Lease::None })
    }

    /// The whole answer has been handed on.
    fn complete(self) {
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
        Poll::Ready(match std::task::ready!(Pin::new(&mut self.source).poll_frame(cx)) {
            Some(Ok(frame)) => Some(Ok(self.frame(frame))),
            Some(Err(error)) => self.broken(error),
            None => {
                if let Some(end) = self.end.take() {
                    end.complete();
                }
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.source.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.source.size_hint()
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        let Some(mut end) = self.end.take() else { return };
        if http_body::Body::is_end_stream(&self.source) {
            return end.complete();
        }
        if end.upstream.is_some() {
            end.record.reason = end.activity.expired.get().unwrap_or(Reason::ClientReset);
        }
    }
}

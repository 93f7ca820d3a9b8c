//! Faults on purpose, as they are done to an exchange; what is drawn is decided in `policy::fault`.

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response};
use http_body::{Body as _, Frame};
use rand::Rng;
use tokio::time::Sleep;

use super::record::Record;
use super::tracked::{End, Tracked};
use crate::body::{Error, Source};
use crate::config::units::{Duration, Size};
use crate::error::Reason;
use crate::net::io::Pause;
use crate::policy::fault::{Abort, Drawn, Pace};
use crate::snapshot::Route;
use crate::snapshot::matcher::Facts;
use crate::wire::grpc;

/// Says what was done to an exchange.
const MARK: HeaderName = HeaderName::from_static("x-outrigger-fault");

/// What this request meets, if it comes so far.
pub fn draw(record: &Record, route: &Route, facts: &Facts<'_>, rng: &mut impl Rng) -> Option<Drawn> {
    let fault = route.fault.as_ref()?;
    if record.conn.worker.shared.faults_stopped.load(Ordering::Relaxed) || !fault.is_for(facts) {
        return None;
    }
    fault.fault.draw(SystemTime::now(), rng)
}

/// Does what was drawn, and counts it; an error ends the exchange.
pub async fn act(end: &mut End) -> Result<(), Reason> {
    let Some(drawn) = end.record.drawn_fault.take() else { return Ok(()) };
    let counts = end.record.chosen.map(|chosen| end.record.conn.worker.faults(&end.record.view, chosen.route));
    let count = |kind: Kind| counts.iter().for_each(|counts| counts.of(kind).inc());
    end.record.fault = Some(Drawn { abort: None, ..drawn });
    if let Some(limit) = drawn.bandwidth {
        count(Kind::Bandwidth);
        end.slowed = Some(Box::new(Slowed::new(limit)));
    }
    if let Some(delay) = drawn.delay {
        count(Kind::Delay);
        let until = Instant::now() + delay;
        let deadline = end.upstream.as_ref().and_then(|upstream| upstream.deadline);
        let pause = Pause::begin(&end.activity);
        tokio::time::sleep_until(deadline.map_or(until, |deadline| deadline.min(until)).into()).await;
        drop(pause);
        if deadline.is_some_and(|deadline| deadline < until) {
            return Err(Reason::RequestTimeout);
        }
    }
    let Some(abort) = drawn.abort else { return Ok(()) };
    count(if abort == Abort::Reset { Kind::Reset } else { Kind::Abort });
    end.record.fault = Some(drawn);
    Err(Reason::FaultInjected)
}

pub use crate::telemetry::faults::Kind;

/// Marks an answer with what was done to it.
pub fn mark(record: &Record, headers: &mut http::HeaderMap) {
    let Some(fault) = record.fault else { return };
    if let Ok(mark) = HeaderValue::try_from(Shown(fault).to_string()) {
        headers.append(MARK, mark);
    }
}

/// `delay=200ms, abort=503, bandwidth=64Ki`.
pub struct Shown(pub Drawn);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Drawn { delay, abort, bandwidth } = self.0;
        let mut separator = "";
        let mut say = |key: &str, value: &dyn fmt::Display| {
            write!(f, "{separator}{key}={value}")?;
            separator = ", ";
            Ok(())
        };
        delay.map_or(Ok(()), |delay| say("delay", &Duration(delay)))?;
        match abort {
            Some(Abort::Status(status)) => say("abort", &status.as_u16())?,
            Some(Abort::Grpc(code)) => say("abort", &format_args!("grpc {code}"))?,
            Some(Abort::Reset) => say("abort", &"reset")?,
            None => {}
        }
        bandwidth.map_or(Ok(()), |limit| say("bandwidth", &Size(limit)))
    }
}

/// The status and the gRPC code of the answer to a request that is aborted, where they are not those of its reason.
pub fn told(record: &Record) -> (Option<http::StatusCode>, Option<u8>) {
    match record.fault.and_then(|fault| fault.abort).filter(|_| record.reason == Reason::FaultInjected) {
        Some(Abort::Status(status)) => (Some(status), Some(grpc::code(status))),
        Some(Abort::Grpc(code)) => (None, Some(code)),
        Some(Abort::Reset) | None => (None, None),
    }
}

/// Instead of an answer: the client's connection or stream is reset.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("reset on purpose")]
pub struct Reset;

/// Takes back an answer that is not to be given.
pub fn or_reset(record: &Record, mut response: Response<Bytes>) -> Response<Bytes> {
    if record.reason == Reason::FaultInjected && record.fault.is_some_and(|fault| fault.abort == Some(Abort::Reset)) {
        response.extensions_mut().insert(Reset);
    }
    response
}

/// The answer, or nothing.
pub fn given(response: Response<Tracked>) -> Result<Response<Tracked>, Reset> {
    match response.extensions().get::<Reset>() {
        Some(reset) => Err(*reset),
        None => Ok(response),
    }
}

/// A body on its way at a bounded pace.
pub struct Slowed {
    pace: Pace,
    /// Came, and has not gone.
    rest: Bytes,
    timer: Pin<Box<Sleep>>,
}

impl Slowed {
    fn new(per_second: u64) -> Self {
        let timer = Box::pin(tokio::time::sleep(std::time::Duration::ZERO));
        Self { pace: Pace::new(per_second), rest: Bytes::new(), timer }
    }

    /// Nothing waits here.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub fn poll_frame(
        &mut self,
        source: &mut Source,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if self.rest.is_empty() {
            match ready!(Pin::new(source).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                },
                other => return Poll::Ready(other),
            }
        }
        if let Some(due) = self.pace.due()
            && due > Instant::now()
        {
            self.timer.as_mut().reset(due.into());
            ready!(self.timer.as_mut().poll(cx));
        }
        let piece = self.rest.split_to(self.pace.piece().min(self.rest.len()));
        self.pace.spent(piece.len(), Instant::now());
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

//! One try of a request at one endpoint, and the tries that cost nothing: a request that was not handled is sent again,
//! on another connection, without anybody noticing.

use std::rc::Rc;
use std::time::{Duration, Instant};

use http::header::{HeaderMap, TE};
use http::{HeaderName, HeaderValue, Request, Response, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;

use super::retry::Sending;
use super::tracked::Lease;
use super::tries::{Slot, Tries};
use crate::body::{Progress, Upload};
use crate::error::Reason;
use crate::identity;
use crate::net::clock;
use crate::net::io::Ended;
use crate::policy::outcome::Kind;
use crate::telemetry::recent::{NotAgain, Outcome};
use crate::upstream::pool::{Limits, Pool};
use crate::upstream::{h1, h2, transport};
use crate::wire::head::{self, Outgoing};
use crate::wire::hop::Hop;
use crate::worker::Worker;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
/// Times that a request goes out again without having been handled.
const REDO_MAX: u32 = 3;
/// A connection that ends so soon, and a round trip more, was most likely closed while it was unused.
const STALE: Duration = Duration::from_millis(25);

/// What a try needs to know.
pub struct Plan<'a> {
    pub worker: &'a Rc<Worker>,
    pub pool: &'a Rc<Pool>,
    pub limits: &'a Limits,
    /// On a connection of its own, which is had back after an answer 101.
    pub upgrade: bool,
    pub upload: &'a Progress,
    pub tries: &'a Tries,
    /// What it is a try of; none of a copy.
    pub sending: Option<&'a Sending<'a>>,
}

impl Plan<'_> {
    /// Whether the route says what is done about an outcome.
    fn is_ruled(&self, kind: Kind) -> bool {
        self.sending.is_some_and(|sending| sending.is_ruled(kind))
    }

    /// Writes into the head what holds at the moment when it is sent.
    fn stamp(&self, place: &mut Place) -> Fresh {
        if let (Some(sending), Some(request)) = (self.sending, place.as_mut()) {
            sending.tell_time(request.headers_mut());
        }
        Fresh::of(place)
    }
}

/// A try that came to nothing.
#[derive(Debug, Clone, Copy)]
pub struct Failed {
    pub kind: Kind,
    pub reason: Reason,
}

/// Why one try came to nothing. Where the request was not sent, it is in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    /// Not handled.
    Unsent,
    /// Not handled, but the request is gone: the peer goes away.
    GoneAway,
    /// The peer has refused the stream.
    Refused,
    /// The connection was unused before, and had been closed when the request came: certainly, or most likely where it
    /// makes no difference if not (RFC 9110, section 9.2.2).
    Stale,
    /// Not sent: the upstream does not speak HTTP/2.
    NotHttp2,
    /// Not sent: there was no connection to send it on.
    Unconnected(Reason),
    Final(Reason),
}

/// The request to be sent. It stays in one place, and is taken from there: each future that it would be moved into
/// would be larger by it.
pub type Place = Option<Request<Upload>>;

/// Sends the request until it has been handled. What was lent comes back with the head of the answer. `spare` makes the
/// request anew, where that can be done.
pub async fn run(
    plan: &Plan<'_>,
    request: &mut Place,
    spare: impl Fn() -> Option<Request<Upload>>,
) -> Result<(Response<Incoming>, Lease), Failed> {
    let mut refused = false;
    for redo in 0.. {
        let (slot, tried) = once(plan, request).await;
        let failure = match tried {
            Ok(answer) => {
                plan.tries.ended(slot, Outcome::Answered, clock::recent());
                return Ok(answer);
            }
            Err(failure) => failure,
        };
        plan.tries.ended(slot, failure.outcome(), clock::tick());
        let failed = |reason| Failed { kind: failure.kind(), reason };
        let not_again = |why| plan.tries.not_again.set(Some(why));
        match failure {
            Failure::Final(reason) | Failure::Unconnected(reason) => {
                not_again(why_final(reason));
                return Err(failed(reason));
            }
            Failure::Unsent => {}
            Failure::NotHttp2 => *request = request.take().map(downgrade).transpose().map_err(failed)?,
            // Who has too much to do is not asked again and again, unless the route says so; once, since it may not have
            // been heard yet how many streams it takes.
            Failure::Refused if std::mem::replace(&mut refused, true) || plan.is_ruled(failure.kind()) => {
                not_again(NotAgain::TooOften);
                return Err(failed(Reason::UpstreamReset));
            }
            Failure::Refused | Failure::GoneAway | Failure::Stale => {
                *request = spare();
                if request.is_none() {
                    not_again(NotAgain::BodyGone);
                }
            }
        }
        if request.is_none() {
            return Err(failed(Reason::UpstreamReset));
        }
        if redo >= REDO_MAX {
            not_again(NotAgain::TooOften);
            return Err(failed(Reason::UpstreamReset));
        }
        plan.worker.counters.upstream_redo.inc();
    }
    Err(Failed { kind: Kind::Refused, reason: Reason::UpstreamReset })
}

fn why_final(reason: Reason) -> NotAgain {
    match reason {
        Reason::ConnectFailed | Reason::ConnectTimeout | Reason::Overflow | Reason::Limit | Reason::NoEndpoint => {
            NotAgain::NoConnection
        }
        Reason::ClientReset => NotAgain::ClientGone,
        Reason::UpstreamReset => NotAgain::PerhapsHandled,
        _ => NotAgain::NotOfTheConnection,
    }
}

/// The same request in HTTP/1.1.
fn downgrade(request: Request<Upload>) -> Result<Request<Upload>, Reason> {
    let (mut parts, body) = request.into_parts();
    let te_trailers = parts.headers.remove(TE).is_some();
    let hop = Hop { te_trailers, ..Hop::default() };
    // The target of a request in HTTP/2 names its host; no other is needed.
    let fallback = HeaderValue::from_static("");
    head::outgoing(
        &mut parts,
        Outgoing { version: Version::HTTP_11, host: None, fallback: &fallback, hop: &hop, secure: false },
    )?;
    Ok(Request::from_parts(parts, body))
}

type Tried = Result<(Response<Incoming>, Lease), Failure>;

/// One function for both versions: each that a future is moved into makes it larger.
async fn once(plan: &Plan<'_>, place: &mut Place) -> (Slot, Tried) {
    let (pool, limits) = (plan.pool, plan.limits);
    let begun = clock::recent();
    let version = place.as_ref().map_or(Version::HTTP_11, Request::version);
    let slot = plan.tries.begin(pool.address.clone(), version, begun);
    if version == Version::HTTP_2 {
        let lease = match h2::checkout(pool, limits, plan.worker).await {
            Ok(lease) => lease,
            Err(Reason::UpstreamProtocol) if limits.http1_will_do => {
                pool.refuses_http2();
                return (slot, Err(Failure::NotHttp2));
            }
            Err(reason) => return (slot, Err(unconnected(plan, slot, reason, begun))),
        };
        connected(plan, slot, lease.reused, lease.connecting, begun);
        let fresh = plan.stamp(place);
        let Some(request) = place.take() else { return (slot, Err(Failure::GoneAway)) };
        let sent = lease.sender().try_send_request(request).await;
        let tried = match sent {
            Ok(response) => Ok((response, Lease::Http2(lease))),
            Err(error) => {
                let is_stale = lease.reused && fresh.is_stale(lease.ended(), false);
                Err(classify(plan, error, is_stale, place))
            }
        };
        return (slot, tried);
    }
    let lease = if plan.upgrade {
        Box::pin(h1::connect(pool, limits, plan.worker)).await
    } else {
        h1::checkout(pool, limits, plan.worker).await
    };
    let mut lease = match lease {
        Ok(lease) => lease,
        Err(reason) => return (slot, Err(unconnected(plan, slot, reason, begun))),
    };
    connected(plan, slot, lease.reused, lease.connecting, begun);
    if plan.upgrade {
        lease.want_upgrade();
    }
    let fresh = plan.stamp(place);
    let Some(request) = place.take() else { return (slot, Err(Failure::GoneAway)) };
    let tried = match lease.sender.try_send_request(request).await {
        Ok(response) => {
            if let Some(timeout) = keep_alive(response.headers()) {
                lease.announced(timeout);
            }
            Ok((response, Lease::Http1(lease)))
        }
        Err(error) => {
            let is_stale = lease.reused && lease.is_silent() && fresh.is_stale(lease.ended(), true);
            Err(classify(plan, error, is_stale, place))
        }
    };
    (slot, tried)
}

/// A request that has just been sent.
struct Fresh {
    at: Instant,
    is_idempotent: bool,
    /// Of a body, the beginning may have come without the end.
    is_bare: bool,
}

impl Fresh {
    fn of(place: &Place) -> Self {
        let is = |what: fn(&Request<Upload>) -> bool| place.as_ref().is_some_and(what);
        Self {
            at: clock::recent(),
            is_idempotent: is(|request| request.method().is_idempotent()),
            is_bare: is(|request| request.body().is_end_stream()),
        }
    }

    /// Whether a connection on which nothing came back had been closed before. `alone`: nothing else was on it, so that what
    /// did not come to the peer is this request.
    fn is_stale(&self, ended: Ended, alone: bool) -> bool {
        let soon = match ended {
            Ended::Unheard if self.is_bare && alone => return true,
            Ended::Heard(micros) => STALE + Duration::from_micros(micros.into()),
            Ended::Unheard | Ended::Unknown => STALE,
        };
        self.is_idempotent && Instant::now().saturating_duration_since(self.at) <= soon
    }
}

/// From here on the request is on its way.
fn connected(plan: &Plan<'_>, slot: Slot, reused: bool, connecting: Duration, begun: Instant) {
    let now = if reused { clock::recent() } else { clock::tick() };
    plan.tries.connected(slot, reused, now, now.saturating_duration_since(begun), connecting);
}

fn unconnected(plan: &Plan<'_>, slot: Slot, reason: Reason, begun: Instant) -> Failure {
    plan.tries.unconnected(slot, reason, clock::tick().saturating_duration_since(begun));
    Failure::Unconnected(reason)
}

impl Failure {
    fn outcome(&self) -> Outcome {
        match self {
            Self::Unsent => Outcome::Unsent,
            Self::Refused | Self::GoneAway => Outcome::Refused,
            Self::Stale => Outcome::Stale,
            Self::NotHttp2 => Outcome::NotHttp2,
            Self::Unconnected(reason) | Self::Final(reason) => Outcome::Failed(*reason),
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Unsent | Self::Refused | Self::GoneAway | Self::NotHttp2 => Kind::Refused,
            Self::Stale => Kind::Failed(Reason::UpstreamReset),
            Self::Final(Reason::ClientReset) => Kind::Dropped,
            Self::Unconnected(reason) | Self::Final(reason) => Kind::Failed(*reason),
        }
    }
}

fn classify(plan: &Plan<'_>, mut error: TrySendError<Request<Upload>>, stale: bool, place: &mut Place) -> Failure {
    *place = error.take_message();
    if place.is_some() {
        return Failure::Unsent;
    }
    let error = error.into_error();
    tracing::debug!(address = %plan.pool.address, %error, "request failed upstream");
    if plan.upload.too_large.get() {
        return Failure::Final(Reason::BodyTooLarge);
    }
    if let Some(h2) = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<::h2::Error>()) {
        // RFC 9113, sections 6.8 and 8.7: the peer promises that it did not handle the stream.
        let refused = h2.reason() == Some(::h2::Reason::REFUSED_STREAM) && h2.is_reset();
        return match h2.is_remote() {
            true if refused => Failure::Refused,
            true if h2.is_go_away() => Failure::GoneAway,
            _ if stale && h2.is_io() => Failure::Stale,
            _ if h2.is_library() || h2.is_go_away() => Failure::Final(Reason::UpstreamProtocol),
            _ => Failure::Final(Reason::UpstreamReset),
        };
    }
    if error.is_parse() {
        return Failure::Final(Reason::UpstreamProtocol);
    }
    if transport::is_alert(&error) {
        plan.worker.counters.upstream_handshake_failures.inc(identity::Failure::RefusedByPeer);
        return Failure::Final(Reason::UpstreamTls);
    }
    if error.is_body_write_aborted() || error.is_user() {
        // The client's own body broke off.
        return Failure::Final(Reason::ClientReset);
    }
    if stale { Failure::Stale } else { Failure::Final(Reason::UpstreamReset) }
}

/// `Keep-Alive: timeout=N`, in seconds.
fn keep_alive(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(KEEP_ALIVE)?.to_str().ok()?;
    let seconds = value.split(',').find_map(|item| item.trim().strip_prefix("timeout="))?;
    seconds.parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    #[test]
    fn what_may_have_been_heard_is_sent_again_only_where_that_makes_no_difference() {
        let sent = |method: Method, body: &'static [u8], ago: Duration| {
            let request = Request::builder().method(method).body(Upload::full(body.into())).expect("a request");
            Fresh { at: Instant::now().checked_sub(ago).expect("a past"), ..Fresh::of(&Some(request)) }
        };
        let (now, late) = (Duration::ZERO, Duration::from_millis(500));
        // The peer had closed before it came.
        assert!(sent(Method::POST, b"", late).is_stale(Ended::Unheard, true));
        // Other streams were on the connection, or a part of it came.
        assert!(!sent(Method::POST, b"", now).is_stale(Ended::Unheard, false));
        assert!(!sent(Method::POST, b"body", now).is_stale(Ended::Unheard, true));
        for ended in [Ended::Heard(100), Ended::Unknown] {
            assert!(sent(Method::PUT, b"body", now).is_stale(ended, false), "{ended:?}");
            assert!(!sent(Method::PUT, b"", late).is_stale(ended, true), "{ended:?}");
            assert!(!sent(Method::POST, b"", now).is_stale(ended, true), "{ended:?}");
        }
        assert!(sent(Method::GET, b"", late).is_stale(Ended::Heard(600_000), true), "the way is long");
    }
}

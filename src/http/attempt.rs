//! One try of a request at one endpoint, and the tries that cost nothing: a request that provably was not handled
//! is sent again, on another connection, without anybody noticing.

use std::rc::Rc;
use std::time::{Duration, Instant};

use http::header::{HeaderMap, TE};
use http::{HeaderName, HeaderValue, Request, Response, Version, request};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;

use super::tracked::{Lease, Upstream};
use super::tries::Tries;
use crate::body::{Progress, Upload};
use crate::error::Reason;
use crate::identity;
use crate::net::clock;
use crate::telemetry::recent::{NotAgain, Outcome};
use crate::upstream::{h1, h2, transport};
use crate::wire::head::{self, Outgoing};
use crate::wire::hop::Hop;
use crate::worker::Worker;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
/// Times that a request goes out again without having been handled.
const REDO_MAX: u32 = 3;

/// What a try needs to know.
pub struct Plan<'a> {
    pub worker: &'a Rc<Worker>,
    pub upstream: &'a Upstream,
    pub upload: &'a Progress,
    pub tries: &'a Tries,
}

/// Why one try came to nothing.
enum Failure {
    /// Not handled; here it is again.
    Unsent(Request<Upload>),
    /// Not handled, but the request is gone.
    Refused,
    /// The connection was unused before and ended without a byte: the peer had closed it, or it had not.
    Stale,
    /// Not sent: the upstream does not speak HTTP/2.
    NotHttp2(Request<Upload>),
    Final(Reason),
}

/// Sends the request until it has been handled. What was lent comes back with the head of the answer.
pub async fn run(plan: &Plan<'_>, mut request: Request<Upload>) -> Result<(Response<Incoming>, Lease), Reason> {
    let spare = spare(&request);
    for redo in 0.. {
        let failure = match once(plan, request).await {
            Ok(answer) => {
                plan.tries.ended(Outcome::Answered, clock::recent());
                return Ok(answer);
            }
            Err(failure) => failure,
        };
        plan.tries.ended(failure.outcome(), clock::tick());
        let again = match (failure, &spare) {
            (Failure::Final(reason), _) => {
                plan.tries.not_again.set(Some(why_final(reason)));
                return Err(reason);
            }
            (Failure::Unsent(request), _) => Some(request),
            (Failure::NotHttp2(request), _) => Some(downgrade(request)?),
            (Failure::Refused, Some(spare)) => Some(rebuild(spare)),
            // What may have been handled is sent again only where that makes no difference.
            (Failure::Stale, Some(spare)) if spare.method.is_idempotent() => Some(rebuild(spare)),
            (Failure::Refused | Failure::Stale, spare) => {
                let why = if spare.is_some() { NotAgain::NotIdempotent } else { NotAgain::BodyGone };
                plan.tries.not_again.set(Some(why));
                None
            }
        };
        request = match again {
            Some(_) if redo >= REDO_MAX => {
                plan.tries.not_again.set(Some(NotAgain::TooOften));
                return Err(Reason::UpstreamReset);
            }
            Some(request) => request,
            None => return Err(Reason::UpstreamReset),
        };
        plan.worker.counters.upstream_redo.inc();
    }
    Err(Reason::UpstreamReset)
}

fn why_final(reason: Reason) -> NotAgain {
    match reason {
        Reason::ConnectFailed | Reason::ConnectTimeout | Reason::Overflow | Reason::NoEndpoint => {
            NotAgain::NoConnection
        }
        Reason::ClientReset => NotAgain::ClientGone,
        Reason::UpstreamReset => NotAgain::PerhapsHandled,
        _ => NotAgain::NotOfTheConnection,
    }
}

/// The head of a request without a body, to be sent again from.
fn spare(request: &Request<Upload>) -> Option<request::Parts> {
    use http_body::Body;
    if !request.body().is_end_stream() {
        return None;
    }
    let mut copy = Request::new(());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    Some(copy.into_parts().0)
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

fn rebuild(spare: &request::Parts) -> Request<Upload> {
    Request::from_parts(spare.clone(), Upload::empty())
}

/// One function for both versions: each that a future is moved into makes it larger by a request.
async fn once(plan: &Plan<'_>, request: Request<Upload>) -> Result<(Response<Incoming>, Lease), Failure> {
    let Upstream { pool, limits, .. } = plan.upstream;
    let begun = clock::recent();
    plan.tries.begin(pool.address.clone(), request.version(), begun);
    if request.version() == Version::HTTP_2 {
        let lease = match h2::checkout(pool, limits, plan.worker).await {
            Ok(lease) => lease,
            Err(Reason::UpstreamProtocol) if limits.http1_will_do => {
                pool.refuses_http2();
                return Err(Failure::NotHttp2(request));
            }
            Err(reason) => return Err(unconnected(plan, reason, begun)),
        };
        connected(plan, lease.reused, lease.connecting, begun);
        let reused = lease.reused;
        let sent = lease.sender().try_send_request(request).await;
        let response = sent.map_err(|error| classify(plan, error, reused))?;
        return Ok((response, Lease::Http2(lease)));
    }
    let lease = if plan.upstream.upgrade.is_some() {
        Box::pin(h1::connect(pool, limits, plan.worker)).await
    } else {
        h1::checkout(pool, limits, plan.worker).await
    };
    let mut lease = lease.map_err(|reason| unconnected(plan, reason, begun))?;
    connected(plan, lease.reused, lease.connecting, begun);
    if plan.upstream.upgrade.is_some() {
        lease.want_upgrade();
    }
    match lease.sender.try_send_request(request).await {
        Ok(response) => {
            if let Some(timeout) = keep_alive(response.headers()) {
                lease.announced(timeout);
            }
            Ok((response, Lease::Http1(lease)))
        }
        Err(error) => {
            let stale = lease.reused && lease.is_silent();
            Err(classify(plan, error, stale))
        }
    }
}

/// From here on the request is on its way.
fn connected(plan: &Plan<'_>, reused: bool, connecting: Duration, begun: Instant) {
    let now = if reused { clock::recent() } else { clock::tick() };
    plan.tries.connected(reused, now, now.saturating_duration_since(begun), connecting);
}

fn unconnected(plan: &Plan<'_>, reason: Reason, begun: Instant) -> Failure {
    plan.tries.unconnected(reason, clock::tick().saturating_duration_since(begun));
    Failure::Final(reason)
}

impl Failure {
    fn outcome(&self) -> Outcome {
        match self {
            Self::Unsent(_) => Outcome::Unsent,
            Self::Refused => Outcome::Refused,
            Self::Stale => Outcome::Stale,
            Self::NotHttp2(_) => Outcome::NotHttp2,
            Self::Final(reason) => Outcome::Failed(*reason),
        }
    }
}

fn classify(plan: &Plan<'_>, mut error: TrySendError<Request<Upload>>, stale: bool) -> Failure {
    if let Some(request) = error.take_message() {
        return Failure::Unsent(request);
    }
    let error = error.into_error();
    tracing::debug!(address = %plan.upstream.pool.address, %error, "request failed upstream");
    if plan.upload.too_large.get() {
        return Failure::Final(Reason::BodyTooLarge);
    }
    if let Some(h2) = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<::h2::Error>()) {
        // RFC 9113, sections 6.8 and 8.7: the peer promises that it did not handle the stream.
        let refused = h2.reason() == Some(::h2::Reason::REFUSED_STREAM) && h2.is_reset() || h2.is_go_away();
        return match h2.is_remote() && refused {
            true => Failure::Refused,
            false if stale && h2.is_io() => Failure::Stale,
            false if h2.is_library() || h2.is_go_away() => Failure::Final(Reason::UpstreamProtocol),
            false => Failure::Final(Reason::UpstreamReset),
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

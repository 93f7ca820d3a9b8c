//! What a request has to pass before it is sent: the memory that is left, rate limits of its route and its service, and
//! a place at the service. Where it may wait, it does so here, for a bounded time and among a bounded number.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::record::Record;
use super::terms;
use super::tracked::End;
use crate::error::Reason;
use crate::net::clock;
use crate::net::io::Pause;
use crate::policy::bucket::Taken;
use crate::policy::class::Class;
use crate::policy::guard::Guard;
use crate::snapshot::limits::{Limited, Per, RateLimit};
use crate::snapshot::matcher::Key;
use crate::snapshot::{Route, Service};
use crate::upstream::gate::{Entry, Full, Permit, Place};

/// draft-ietf-httpapi-ratelimit-headers-11.
const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
/// Milliseconds (grpc `A6-client-retries.md`).
const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// How far a request has come, and what it holds until its end.
#[derive(Default)]
pub struct Admission {
    class: Class,
    turn: Option<Turn>,
    place: Option<Place>,
    permit: Option<Permit>,
}

/// Tokens that are yet to come.
struct Turn {
    at: Instant,
    tokens: Vec<Token>,
    waiting: Vec<Waiting>,
}

impl Turn {
    /// Its time has come.
    fn come(mut self) {
        self.tokens.iter_mut().for_each(|token| token.used = true);
    }
}

/// Whoever leaves before its turn gives it back.
struct Token {
    state: Arc<Limited>,
    key: u64,
    used: bool,
}

impl Token {
    fn new(limit: &RateLimit, key: u64) -> Self {
        Self { state: limit.state.clone(), key, used: false }
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        if !self.used {
            self.state.give_back(self.key, clock::tick());
        }
    }
}

/// Counts a request while it waits.
struct Waiting(Arc<AtomicU32>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Which limit refuses a request, and what its client is told besides.
pub struct Refused {
    pub limit: String,
    fields: Vec<(HeaderName, HeaderValue)>,
}

impl Refused {
    pub fn tell(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.fields {
            headers.insert(name, value.clone());
        }
    }
}

impl Admission {
    /// Holds a request against the memory that is left, and against the rate limits.
    pub fn begin(
        record: &mut Record,
        (route, service): (&Route, &Service),
        headers: &HeaderMap,
    ) -> Result<Self, Reason> {
        let mut admission = Self::default();
        let worker = record.conn.worker.clone();
        let memory = &worker.shared.memory;
        if service.limits.is_some() || memory.is_short() {
            admission.class = class(&service.criticality, record, headers);
        }
        if let Some((used, threshold, enforced)) = memory.sheds(admission.class) {
            if enforced {
                let limit = format!("memory: {used} % of {}, {} requests", memory.limit(), admission.class.name());
                return Err(refuse(record, Reason::Shed, limit, Vec::new()));
            }
            record.would_limit.push((Guard::Memory, threshold, used));
        }
        if !route.rate_limits.is_empty() || !service.rate_limits.is_empty() {
            admission.turn = turn(record, route, (&route.rate_limits, &service.rate_limits), headers)?;
        }
        Ok(admission)
    }

    /// A fallback leads to another service, whose limits hold as well.
    pub fn divert(
        &mut self,
        record: &mut Record,
        (route, service): (&Route, &Service),
        headers: &HeaderMap,
    ) -> Result<(), Reason> {
        if service.limits.is_some() {
            self.class = class(&service.criticality, record, headers);
        }
        if !service.rate_limits.is_empty() {
            let more = turn(record, route, (&[], &service.rate_limits), headers)?;
            self.turn = match (self.turn.take(), more) {
                (Some(mut turn), Some(more)) => {
                    turn.at = turn.at.max(more.at);
                    turn.tokens.extend(more.tokens);
                    turn.waiting.extend(more.waiting);
                    Some(turn)
                }
                (turn, more) => turn.or(more),
            };
        }
        Ok(())
    }

    /// Takes a place at the service, or one in line; nothing yet where the turn is still to come.
    pub fn enter(&mut self, record: &mut Record, service: &Service) -> Result<(), Reason> {
        let Some(limits) = service.limits.as_deref().filter(|_| self.turn.is_none()) else { return Ok(()) };
        if limits.shadow {
            let (permit, full) = limits.gate.force(&limits.limits, self.class);
            self.permit = Some(permit);
            if let Some(Full::Requests(limit) | Full::Adaptive(limit)) = full {
                let actual = limits.gate.in_flight();
                record.would_limit.push((Guard::Limits, limit.into(), actual.into()));
            }
            return Ok(());
        }
        match limits.gate.enter(&limits.limits, self.class) {
            Entry::Permit(permit) => self.permit = Some(permit),
            Entry::Wait(place) => self.place = Some(place),
            Entry::Full(full) => return Err(self.full(record, service, full)),
        }
        Ok(())
    }

    /// Whether there is something to wait for.
    pub fn waits(&self) -> bool {
        self.turn.is_some() || self.place.is_some()
    }

    fn full(&self, record: &mut Record, service: &Service, full: Full) -> Reason {
        let name = &service.name;
        let (reason, limit) = match full {
            Full::Requests(max) => (Reason::Limit, format!("service {name}: maxRequests {max}")),
            Full::Adaptive(limit) => {
                let class = self.class.name();
                (Reason::Overloaded, format!("service {name}: adaptive limit {limit} for {class} requests"))
            }
        };
        refuse(record, reason, limit, Vec::new())
    }
}

/// Waits for the turn, and then for a place.
pub async fn wait(end: &mut End) -> Result<(), Reason> {
    let End { record, admission, upstream, activity, .. } = end;
    // The wait is ours, and none of the service's.
    let _pause = Pause::begin(activity);
    let Some(upstream) = upstream else { return Ok(()) };
    let view = record.view.clone();
    let service = view.snapshot.services.get(upstream.target.service).ok_or(Reason::NoEndpoint)?;
    record.conn.worker.counters.requests_delayed.inc();
    let deadline = upstream.deadline;
    let until = |at: Instant| tokio::time::Instant::from_std(deadline.map_or(at, |deadline| deadline.min(at)));
    let late = |now: Instant| deadline.is_some_and(|deadline| deadline <= now);
    if let Some(turn) = admission.turn.take() {
        tokio::time::sleep_until(until(turn.at)).await;
        if late(clock::tick()) {
            return Err(Reason::RequestTimeout);
        }
        turn.come();
        admission.enter(record, service)?;
    }
    if let Some((place, limits)) = admission.place.take().zip(service.limits.as_deref()) {
        let at = clock::tick() + limits.pending_timeout;
        match tokio::time::timeout_at(until(at), place.taken()).await {
            Ok(Some(permit)) => admission.permit = Some(permit),
            Err(_) if late(clock::tick()) => return Err(Reason::RequestTimeout),
            // In vain; or one that matters more has taken its place in line.
            Ok(None) | Err(_) => {
                let full = limits.gate.full(admission.class);
                return Err(admission.full(record, service, full));
            }
        }
    }
    Ok(())
}

/// Where there was no place for a connection, says so.
pub fn told(record: &mut Record, service: &Service, reason: Reason) {
    if let (Reason::Limit, Some(max)) = (reason, service.ceiling.max()) {
        refuse(record, reason, format!("service {}: maxConnections {max}", service.name), Vec::new());
    }
}

/// Takes a token of each rate limit, or none of any. The turn, where one is yet to come.
fn turn(
    record: &mut Record,
    whose: &Route,
    (route, service): (&[RateLimit], &[RateLimit]),
    headers: &HeaderMap,
) -> Result<Option<Turn>, Reason> {
    let now = record.start;
    // Nobody waits for a turn that comes when its own time is over.
    let most = terms::patience(record, whose, headers);
    let (mut granted, mut latest, mut waiting) = (Vec::new(), Duration::ZERO, Vec::new());
    let mut refused = None;
    for limit in route.iter().chain(service) {
        let key = key(limit, record, headers);
        match limit.take(key, now, most) {
            Taken::Granted { wait, .. } => {
                // Nothing is remembered of the only one that is there already.
                let several = route.len() + service.len() > 1;
                granted.extend((several || !wait.is_zero()).then_some((limit, key)));
                if wait.is_zero() {
                    continue;
                }
                let room = |count: u32| (count < limit.max_waiting).then_some(count + 1);
                if limit.state.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_err() {
                    limit.give_back(key, now);
                    granted.pop();
                    refused = Some((limit, wait));
                    break;
                }
                waiting.push(Waiting(limit.state.waiting.clone()));
                limit.state.delayed.fetch_add(1, Ordering::Relaxed);
                latest = latest.max(wait);
            }
            Taken::Refused { after } if limit.shadow => {
                record.would_limit.push((Guard::RateLimit, micros(limit.wait), micros(after)));
            }
            Taken::Refused { after } => {
                refused = Some((limit, after));
                break;
            }
        }
    }
    let Some((limit, after)) = refused else {
        let tokens = || granted.into_iter().map(|(limit, key)| Token::new(limit, key)).collect();
        return Ok((!latest.is_zero()).then(|| Turn { at: now + latest, tokens: tokens(), waiting }));
    };
    granted.iter().for_each(|(limit, key)| limit.give_back(*key, now));
    limit.state.refused.fetch_add(1, Ordering::Relaxed);
    let fields = fields(limit, after, record.grpc);
    Err(refuse(record, Reason::RateLimited, limit.to_string(), fields))
}

/// What stands for the value that a limit tells requests apart by.
fn key(limit: &RateLimit, record: &Record, headers: &HeaderMap) -> u64 {
    match &limit.per {
        None => 1,
        Some(Per::Key(Key::Attribute(index))) => limit.key(attribute(record, *index)),
        Some(Per::Key(Key::Header(name))) => limit.key(headers.get(name).map(HeaderValue::as_bytes)),
        Some(Per::Key(Key::Cookie(_) | Key::Query(_))) => limit.key(()),
        Some(Per::Identity) => limit.key(record.conn.identity().map(|id| id.as_str())),
        Some(Per::Address) => limit.key(record.conn.peer.ip().map(|ip| match ip.to_canonical() {
            std::net::IpAddr::V4(ip) => u64::from(ip.to_bits()),
            // Whoever has one address of a network has them all.
            std::net::IpAddr::V6(ip) => (ip.to_bits() >> 64) as u64 | 1 << 63,
        })),
    }
}

fn attribute(record: &Record, index: usize) -> Option<&str> {
    record.attributes.iter().find(|(known, _)| *known == index).map(|(_, value)| &**value)
}

fn class(criticality: &Key, record: &Record, headers: &HeaderMap) -> Class {
    Class::of(match criticality {
        Key::Attribute(index) => attribute(record, *index),
        Key::Header(name) => headers.get(name).and_then(|value| value.to_str().ok()),
        Key::Cookie(_) | Key::Query(_) => None,
    })
}

fn refuse(record: &mut Record, reason: Reason, limit: String, fields: Vec<(HeaderName, HeaderValue)>) -> Reason {
    record.refusal = Some(Box::new(Refused { limit, fields }));
    reason
}

fn fields(limit: &RateLimit, after: Duration, grpc: bool) -> Vec<(HeaderName, HeaderValue)> {
    let seconds = |time: Duration| time.as_secs() + u64::from(time.subsec_nanos() > 0);
    let (after_seconds, window) = (seconds(after).max(1), seconds(limit.rate.window()).max(1));
    let policy = format!("\"{}\";q={};w={window}", limit.name, limit.rate.burst());
    let state = format!("\"{}\";r=0;t={after_seconds}", limit.name);
    let texts = [(RATELIMIT_POLICY, policy), (RATELIMIT, state), (RETRY_AFTER, after_seconds.to_string())];
    let pushback = grpc.then(|| (PUSHBACK, micros(after).div_ceil(1000).to_string()));
    let all = texts.into_iter().chain(pushback);
    all.filter_map(|(name, text)| Some((name, HeaderValue::try_from(text).ok()?))).collect()
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

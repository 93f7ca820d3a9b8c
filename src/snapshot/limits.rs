//! Limits of routes and services, compiled: what the configuration says, and beside it what was learned, which outlives
//! the snapshot.

use std::fmt;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Service;
use super::matcher::Key;
use crate::config::schema;
use crate::policy::bucket::{Buckets, Nanos, Rate, Taken};
use crate::policy::class::Class;
use crate::policy::gradient::Settings;
use crate::telemetry::metrics::Metrics;
use crate::upstream::ceiling::Ceiling;
use crate::upstream::gate::{self, Gate, RetryPermit};

/// Requests that may pass in a time.
#[derive(Debug)]
pub struct RateLimit {
    /// Whose it is, and its name in the fields of an answer.
    pub of: Box<str>,
    pub name: Box<str>,
    pub per_second: f64,
    pub rate: Rate,
    pub per: Option<Per>,
    pub shadow: bool,
    pub wait: Duration,
    pub max_waiting: u32,
    pub(super) written: schema::RateLimit,
    pub(super) generation: u64,
    pub state: Arc<Limited>,
}

/// What requests are told apart by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Per {
    /// A header or an attribute.
    Key(Key),
    Identity,
    Address,
}

/// What was learned of a rate limit.
#[derive(Debug)]
pub struct Limited {
    buckets: Buckets,
    hasher: RandomState,
    start: Instant,
    pub waiting: Arc<AtomicU32>,
    pub refused: AtomicU64,
    pub delayed: AtomicU64,
}

/// What a service may have at a time.
#[derive(Debug)]
pub struct ServiceLimits {
    pub limits: gate::Limits,
    pub pending_timeout: Duration,
    pub max_retries: Option<u32>,
    pub shadow: bool,
    pub gate: Arc<Gate>,
}

impl RateLimit {
    /// The number that stands for a value.
    pub fn key(&self, value: impl Hash) -> u64 {
        self.state.hasher.hash_one(value)
    }

    /// Takes a token; in shadow mode none that is yet to come, and never one that comes after `most`.
    pub fn take(&self, key: u64, now: Instant, most: Option<Duration>) -> Taken {
        let wait = if self.shadow { Duration::ZERO } else { self.wait };
        let patience = most.map_or(wait, |most| most.min(wait));
        self.state.buckets.take(key, (&self.rate, self.generation), self.state.nanos(now), patience)
    }

    pub fn give_back(&self, key: u64, now: Instant) {
        self.state.give_back(key, now);
    }

    /// Whether a table of these keys goes on under what another configuration says.
    pub(super) fn has_keys_of(&self, other: &schema::RateLimit) -> bool {
        self.written.per == other.per
    }

    pub(super) fn resized(&self, written: &schema::RateLimit) -> Arc<Limited> {
        if written.per.is_none() || self.written.max_keys == written.max_keys {
            return self.state.clone();
        }
        let state = &self.state;
        Arc::new(Limited {
            buckets: state.buckets.resized(written.max_keys, state.nanos(Instant::now())),
            hasher: state.hasher.clone(),
            start: state.start,
            waiting: state.waiting.clone(),
            refused: AtomicU64::new(state.refused.load(Ordering::Relaxed)),
            delayed: AtomicU64::new(state.delayed.load(Ordering::Relaxed)),
        })
    }

    /// For `/limits`.
    pub fn describe(&self, now: Instant) -> Value {
        let state = &self.state;
        let per = self.per.is_some();
        json!({
            "requestsPerSecond": self.per_second,
            "burst": self.rate.burst(),
            "per": self.written.per,
            "mode": self.written.mode,
            "refused": state.refused.load(Ordering::Relaxed),
            "delayed": state.delayed.load(Ordering::Relaxed),
            "waiting": state.waiting.load(Ordering::Relaxed),
            "keys": per.then(|| state.buckets.active(state.nanos(now))),
            "maxKeys": per.then_some(self.written.max_keys),
            "shared": per.then(|| state.buckets.shared()),
            "bytes": state.buckets.bytes(),
        })
    }
}

/// `route checkout: 10 requests a second, burst 20, per attribute tenant`.
impl fmt::Display for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} requests a second, burst {}", self.of, self.per_second, self.rate.burst())?;
        match &self.written.per {
            None => Ok(()),
            Some(schema::LimitKey::Attribute(name)) => write!(f, ", per attribute {name}"),
            Some(schema::LimitKey::Header(name)) => write!(f, ", per header {name}"),
            Some(schema::LimitKey::Identity(_)) => f.write_str(", per identity"),
            Some(schema::LimitKey::Address(_)) => f.write_str(", per address"),
        }
    }
}

impl Limited {
    pub(super) fn new(written: &schema::RateLimit, rate: Rate) -> Self {
        let keys = if written.per.is_some() { written.max_keys } else { 1 };
        Self {
            buckets: Buckets::new(keys, rate),
            hasher: RandomState::new(),
            start: Instant::now(),
            waiting: Arc::default(),
            refused: AtomicU64::new(0),
            delayed: AtomicU64::new(0),
        }
    }

    pub fn give_back(&self, key: u64, now: Instant) {
        self.buckets.give_back(key, self.nanos(now));
    }

    fn nanos(&self, now: Instant) -> Nanos {
        u64::try_from(now.saturating_duration_since(self.start).as_nanos()).unwrap_or(u64::MAX)
    }
}

impl ServiceLimits {
    /// A place among the retries of the service, until it is dropped; none where there are as many as there may be.
    pub fn try_retry(&self) -> Result<Option<RetryPermit>, u32> {
        match self.max_retries {
            Some(max) if !self.shadow => self.gate.try_retry(max).map(Some).ok_or(max),
            Some(_) | None => Ok(None),
        }
    }

    /// What an answer took, for the adaptive limit.
    pub fn learn(&self, took: Duration, now: Instant) {
        if let Some(settings) = &self.limits.adaptive {
            self.gate.learn(took, now, settings);
        }
    }

    /// For `/clusters`.
    fn describe(&self, ceiling: &Ceiling) -> Value {
        let connections = ceiling.show();
        let state = self.gate.state();
        let adaptive = state.adaptive.map(|(limit, usual)| {
            let parts: serde_json::Map<_, _> =
                Class::ALL.iter().map(|class| (class.name().to_owned(), class.part(limit).into())).collect();
            json!({ "limit": limit, "usualMs": usual.as_secs_f64() * 1e3, "classes": parts })
        });
        json!({
            "inFlight": state.in_flight,
            "pending": state.pending,
            "retries": state.retries,
            "maxRequests": self.limits.max,
            "connections": {
                "open": connections.open,
                "pending": connections.pending,
                "max": connections.max,
                "beyond": connections.beyond,
            },
            "maxPending": self.limits.max_pending,
            "maxRetries": self.max_retries,
            "adaptive": adaptive,
            "shadow": self.shadow,
        })
    }
}

impl Service {
    /// What it has at a time, where that is limited. For `/clusters`.
    pub fn describe_limits(&self) -> Option<Value> {
        self.limits.as_ref().map(|limits| limits.describe(&self.ceiling))
    }

    /// Shows in the metrics what it has at a time.
    pub fn tell(&self, metrics: &Metrics) {
        let Some(limits) = &self.limits else { return };
        let (told, state) = (metrics.limits.get(&self.name), limits.gate.state());
        told.in_flight.set(state.in_flight.into());
        told.pending.set(i64::try_from(state.pending).unwrap_or(i64::MAX));
        told.written.set(limits.limits.max.unwrap_or_default().into());
        let connections = self.ceiling.show();
        told.connections.set(connections.open.into());
        told.connections_beyond.set(i64::try_from(connections.beyond).unwrap_or(i64::MAX));
        told.adaptive.set(state.adaptive.map_or(0, |(limit, _)| limit).into());
    }
}

impl From<schema::AdaptiveBounds> for Settings {
    fn from(bounds: schema::AdaptiveBounds) -> Self {
        let schema::AdaptiveBounds { initial, min, max, tolerance } = bounds;
        Self { initial, min, max, tolerance }
    }
}

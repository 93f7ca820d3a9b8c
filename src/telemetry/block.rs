//! The counters of one worker for one set of labels: what a request touches when it ends.
//!
//! About 1.3 KiB. Pairs of method, status and reason are not known beforehand, so they take the next free slot when
//! first seen; an exchange of a kind seen before costs one comparison, as the slot hit last is tried first.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use super::counter::{Counter, Gauge};
use super::histogram::{DURATION, Histogram, SIZE, nanos};
use crate::error::Reason;
use crate::policy::guard::Guard;

const SLOTS: usize = 48;
pub const GRPC_CODES: usize = 17;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Connect,
    Options,
    Trace,
    Patch,
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrpcSide {
    /// Calls that we answered.
    Server,
    /// Calls that we sent upstream.
    Client,
}

/// How an exchange ended, packed into 32 bits: presence, method, status, reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Outcome(u32);

/// Written by one worker only.
#[derive(Debug)]
pub struct Block {
    keys: [AtomicU32; SLOTS],
    counts: [Counter; SLOTS],
    last: AtomicUsize,
    /// By class of status, once the slots are full.
    overflow: [Counter; 10],
    pub(super) duration: Histogram<15>,
    pub(super) request_size: Histogram<8>,
    pub(super) response_size: Histogram<8>,
    grpc_server: [Counter; GRPC_CODES],
    grpc_client: [Counter; GRPC_CODES],
    shadow: [Counter; Guard::ALL.len()],
    active: Gauge,
}

impl Block {
    pub fn request(
        &self,
        method: Method,
        status: u16,
        reason: Reason,
        duration: Duration,
        request_bytes: u64,
        response_bytes: u64,
    ) {
        self.count(Outcome::new(method, status, reason));
        self.duration.observe(&DURATION, nanos(duration));
        self.request_size.observe(&SIZE, request_bytes);
        self.response_size.observe(&SIZE, response_bytes);
    }

    /// A code that gRPC does not know counts as UNKNOWN, as clients treat it.
    pub fn grpc(&self, side: GrpcSide, code: u8) {
        let code = if usize::from(code) < GRPC_CODES { usize::from(code) } else { 2 };
        if let Some(counter) = self.codes(side).get(code) {
            counter.inc();
        }
    }

    /// A rule in shadow mode would have refused.
    pub fn would_refuse(&self, guard: Guard) {
        if let Some(counter) = self.shadow.get(guard as usize) {
            counter.inc();
        }
    }

    pub(super) fn shadows(&self) -> &[Counter; Guard::ALL.len()] {
        &self.shadow
    }

    /// Exchanges in flight.
    pub fn active(&self, delta: i64) {
        self.active.add(delta);
    }

    pub(super) fn in_flight(&self) -> i64 {
        self.active.get()
    }

    pub(super) fn codes(&self, side: GrpcSide) -> &[Counter; GRPC_CODES] {
        match side {
            GrpcSide::Server => &self.grpc_server,
            GrpcSide::Client => &self.grpc_client,
        }
    }

    pub(super) fn outcomes(&self) -> impl Iterator<Item = (Outcome, u64)> {
        // Acquire pairs with the release in `count`: who sees a key sees its count as well.
        let keys = self.keys.iter().map(|key| Outcome(key.load(Ordering::Acquire)));
        keys.zip(&self.counts).take_while(|(key, _)| key.0 != 0).map(|(key, count)| (key, count.get()))
    }

    /// Class of status (5 for 5xx) and count of what found no slot.
    pub(super) fn overflowed(&self) -> impl Iterator<Item = (usize, u64)> {
        self.overflow.iter().map(Counter::get).enumerate().filter(|(_, count)| *count > 0)
    }

    fn count(&self, outcome: Outcome) {
        let last = self.last.load(Ordering::Relaxed);
        if let (Some(key), Some(count)) = (self.keys.get(last), self.counts.get(last))
            && key.load(Ordering::Relaxed) == outcome.0
        {
            return count.inc();
        }
        for (n, (key, count)) in self.keys.iter().zip(&self.counts).enumerate() {
            let taken = key.load(Ordering::Relaxed);
            if taken == 0 || taken == outcome.0 {
                count.inc();
                key.store(outcome.0, Ordering::Release);
                return self.last.store(n, Ordering::Relaxed);
            }
        }
        if let Some(count) = self.overflow.get(usize::from(outcome.status() / 100)) {
            count.inc();
        }
    }
}

impl Default for Block {
    fn default() -> Self {
        Self {
            keys: std::array::from_fn(|_| AtomicU32::new(0)),
            counts: std::array::from_fn(|_| Counter::default()),
            last: AtomicUsize::new(0),
            overflow: Default::default(),
            duration: Histogram::default(),
            request_size: Histogram::default(),
            response_size: Histogram::default(),
            grpc_server: Default::default(),
            grpc_client: Default::default(),
            shadow: Default::default(),
            active: Gauge::default(),
        }
    }
}

impl Outcome {
    const PRESENT: u32 = 1 << 31;

    fn new(method: Method, status: u16, reason: Reason) -> Self {
        // A status has three digits; 999 keeps what has not out of the method's bits.
        let status = u32::from(status.min(999));
        Self(Self::PRESENT | (method as u32) << 24 | status << 8 | reason as u32)
    }

    pub fn method(self) -> Method {
        let index = (self.0 >> 24 & 0x7f) as usize;
        Method::ALL.get(index).copied().unwrap_or(Method::Other)
    }

    pub fn status(self) -> u16 {
        (self.0 >> 8 & 0xffff) as u16
    }

    pub fn reason(self) -> Reason {
        Reason::ALL.get((self.0 & 0xff) as usize).copied().unwrap_or(Reason::None)
    }
}

impl Method {
    pub const ALL: [Self; 10] = [
        Self::Get,
        Self::Head,
        Self::Post,
        Self::Put,
        Self::Delete,
        Self::Connect,
        Self::Options,
        Self::Trace,
        Self::Patch,
        Self::Other,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
            Self::Options => "OPTIONS",
            Self::Trace => "TRACE",
            Self::Patch => "PATCH",
            Self::Other => "other",
        }
    }
}

impl From<&http::Method> for Method {
    fn from(method: &http::Method) -> Self {
        match method.as_str() {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "POST" => Self::Post,
            "PUT" => Self::Put,
            "DELETE" => Self::Delete,
            "CONNECT" => Self::Connect,
            "OPTIONS" => Self::Options,
            "TRACE" => Self::Trace,
            "PATCH" => Self::Patch,
            _ => Self::Other,
        }
    }
}

/// Names of the gRPC codes, by number.
pub const GRPC_NAMES: [&str; GRPC_CODES] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_survive_packing() {
        for method in Method::ALL {
            for &reason in Reason::ALL {
                let outcome = Outcome::new(method, 599, reason);
                assert_eq!((outcome.method(), outcome.status(), outcome.reason()), (method, 599, reason));
            }
        }
        assert_eq!(Outcome::new(Method::Other, u16::MAX, Reason::Panic).status(), 999);
    }

    #[test]
    fn full_slots_fall_back_to_the_class() {
        let block = Block::default();
        for status in 200..300 {
            block.request(Method::Get, status, Reason::None, Duration::ZERO, 0, 0);
        }
        assert_eq!(block.outcomes().count(), SLOTS);
        assert_eq!(block.overflowed().collect::<Vec<_>>(), [(2, 100 - SLOTS as u64)]);
    }

    #[test]
    fn a_block_is_small() {
        assert!(size_of::<Block>() <= 1408, "{}", size_of::<Block>());
    }

    #[test]
    fn methods_by_name() {
        assert_eq!(Method::from(&http::Method::PATCH), Method::Patch);
        assert_eq!(Method::from(&http::Method::from_bytes(b"PROPFIND").unwrap()), Method::Other);
    }
}

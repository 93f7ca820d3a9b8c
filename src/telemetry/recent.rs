//! Recent exchanges, kept in fixed memory so that one can be asked for by its id: what happened, when, and why it was
//! not tried again. A worker has a `Ring` of its own. Here are the facts; `code` is how they lie in memory, `track` the
//! memory, `slow` what counts as slow, `shape` the JSON of the answer (`docs/why.md`).

mod code;
mod ring;
mod shape;
mod slow;
mod track;

use std::time::{Duration, SystemTime};

use http::Version;

pub use self::code::{
    ATTEMPTS_MAX, ATTRIBUTES_MAX, HOST_MAX, ID_MAX, METHOD_MAX, NAME_MAX, PATH_MAX, SHADOW_MAX, VALUE_MAX,
};
pub use self::ring::{BYTES_MIN, Filter, Kept, LIST_MAX, Ring};
use crate::error::{Producer, Reason};
use crate::policy::guard::Guard;
pub use crate::policy::retry::NotAgain;
use crate::wire::address::Address;

/// Facts of one finished exchange. What is longer than its bound is cut when it is kept, and the record says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange<'a> {
    pub id: &'a [u8],
    /// When it began; kept to the millisecond.
    pub time: SystemTime,
    /// Of the configuration that decided.
    pub generation: u64,
    pub listener: &'a str,
    /// Empty where none matched, as are service and subset.
    pub route: &'a str,
    /// Which of the route's matches, from 0.
    pub rule: Option<u32>,
    pub service: &'a str,
    pub subset: &'a str,
    pub bucket: Option<Bucket>,
    pub method: &'a str,
    /// Without user information, which is cut off: it may be a password.
    pub host: &'a [u8],
    /// Without its query, which is cut off: it may be a secret.
    pub path: &'a [u8],
    pub protocol: Version,
    /// 0 where there was none.
    pub status: u16,
    pub grpc_status: Option<u8>,
    pub reason: Reason,
    /// The entry of `authorization` that denied it; empty where none did.
    pub denied: &'a str,
    /// Which limit refused it, in words; empty where none did.
    pub limit: &'a str,
    /// Whose circuit breaker did not let it pass; empty where all did.
    pub circuit: &'a str,
    /// What was done to it on purpose, as in the access log; empty where nothing was.
    pub fault: &'a str,
    pub producer: Producer,
    pub peer: Address,
    /// Who the client has proven to be; empty where nobody.
    pub identity: &'a str,
    pub request_bytes: u64,
    pub response_bytes: u64,
    /// As for the access log: status 5xx, a gRPC status other than 0, or cut short. Kept for longer.
    pub failed: bool,
    /// In their order; `ATTEMPTS_MAX` are kept.
    pub attempts: &'a [Attempt],
    /// None where nothing failed that could have been tried again.
    pub not_again: Option<NotAgain>,
    pub phases: Phases,
    pub attributes: &'a [(&'a str, &'a [u8])],
    /// Rules in shadow mode that would have refused.
    pub shadow: &'a [Would<'a>],
}

/// The place on the line of a split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    pub number: u32,
    /// By its key, not by chance.
    pub sticky: bool,
}

/// One try at one endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    pub endpoint: Address,
    pub outcome: Outcome,
    /// What was spoken with the endpoint.
    pub protocol: Version,
    /// None where no connection was had.
    pub connection: Option<Connection>,
    /// Waiting for a place in the pool.
    pub queue: Option<Micros>,
    pub connect: Option<Micros>,
    /// From the request being sent to the head of the answer, or to the failure that came instead.
    pub first_byte: Option<Micros>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Connection {
    New,
    Reused,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The head of an answer came.
    Answered,
    /// Not handled: the connection ended before the request was on it.
    Unsent,
    /// Not handled: the peer says so.
    Refused,
    /// The connection was unused before and ended without a byte.
    Stale,
    NotHttp2,
    /// Another try, at its side, was answered first.
    Outrun,
    Failed(Reason),
}

/// Times in the order in which they pass. Those of several attempts are summed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Phases {
    /// From the connection's acceptance to the beginning of this request: for the first of a connection only.
    pub accept: Option<Micros>,
    pub tls: Option<Micros>,
    pub queue: Option<Micros>,
    pub connect: Option<Micros>,
    pub first_byte: Option<Micros>,
    /// From the head of the answer to its end.
    pub body: Option<Micros>,
    /// From the beginning of the request to its end; without `accept` and `tls`.
    pub total: Micros,
}

/// A rule in shadow mode that would have refused. In bytes or microseconds, as the rule has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Would<'a> {
    pub guard: Guard,
    pub limit: u64,
    pub actual: u64,
    /// Of `authorization`; empty for other rules.
    pub entry: &'a str,
}

/// Microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Micros(pub u64);

impl From<Duration> for Micros {
    fn from(duration: Duration) -> Self {
        Self(duration.as_secs().saturating_mul(1_000_000).saturating_add(u64::from(duration.subsec_micros())))
    }
}

impl Connection {
    pub const ALL: [Self; 2] = [Self::New, Self::Reused];

    pub const fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Reused => "reused",
        }
    }
}

impl Outcome {
    pub const fn code(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Unsent => "unsent",
            Self::Refused => "refused",
            Self::Stale => "stale",
            Self::NotHttp2 => "not_http2",
            Self::Outrun => "outrun",
            Self::Failed(reason) => reason.code(),
        }
    }

    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Answered => "the service answered",
            Self::Unsent => "the connection ended before the request was on it",
            Self::Refused => "the service said that it had not handled the request",
            Self::Stale => "the service had closed the connection while it was unused",
            Self::NotHttp2 => "the service does not speak HTTP/2",
            Self::Outrun => "another try at its side was answered first",
            Self::Failed(reason) => reason.sentence(),
        }
    }
}

#[cfg(test)]
mod tests;

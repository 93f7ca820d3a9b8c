//! What came of one try at one endpoint, and the conditions that rules put on it: those of retries, of circuit breakers
//! and of outlier detection are written in the same words.

use std::str::FromStr;
use std::time::Duration;

use http::StatusCode;

use crate::error::Reason;

/// What came of one try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    pub kind: Kind,
    /// From the request being on its way to the head of the answer, or to what came instead.
    pub took: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Answered {
        status: StatusCode,
        /// Of a gRPC call: of its head where that is all, else of its trailers.
        grpc: Option<u8>,
    },
    /// There was no answer.
    Failed(Reason),
    /// The service said that it had not handled the request (REFUSED_STREAM, GOAWAY).
    Refused,
    /// Given up by us, or by the client: it says nothing of the service.
    Dropped,
}

/// What a rule looks for in an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Condition {
    /// `5xx`: a status from 500 on, or no answer at all.
    ServerError,
    /// `gatewayError`: 502, 503 or 504, or no answer, of which a proxy makes one of these.
    GatewayError,
    /// `connectFailure`: no connection; the request was not sent.
    ConnectFailure,
    /// `reset`: the connection broke, or the stream was reset, before an answer.
    Reset,
    /// `refusedStream`: the service said that it had not handled the request.
    RefusedStream,
    /// `timeout`: no answer in time.
    Timeout,
    /// A number.
    Status(u16),
    /// `grpc:unavailable`.
    Grpc(u8),
}

/// Names of the gRPC status codes, by number (grpc `doc/statuscodes.md`).
pub const GRPC_CODES: [&str; 17] = [
    "ok",
    "cancelled",
    "unknown",
    "invalidArgument",
    "deadlineExceeded",
    "notFound",
    "alreadyExists",
    "permissionDenied",
    "resourceExhausted",
    "failedPrecondition",
    "aborted",
    "outOfRange",
    "unimplemented",
    "internal",
    "unavailable",
    "dataLoss",
    "unauthenticated",
];

impl Outcome {
    /// Whether it counts against the service where no rule says otherwise: what a client would call an error of the
    /// server (for gRPC: unknown, internal, unavailable and data loss; a deadline that passed as well).
    pub fn is_failure(&self) -> bool {
        match self.kind {
            Kind::Answered { grpc: Some(code), .. } => matches!(code, 2 | 4 | 13 | 14 | 15),
            Kind::Answered { status, grpc: None } => status.is_server_error(),
            Kind::Failed(reason) => blames_service(reason),
            Kind::Refused => true,
            Kind::Dropped => false,
        }
    }
}

/// Whether what ended a try was the service's doing.
const fn blames_service(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::ConnectFailed
            | Reason::ConnectTimeout
            | Reason::UpstreamReset
            | Reason::UpstreamProtocol
            | Reason::UpstreamTls
            | Reason::UpstreamIdentity
            | Reason::RequestTimeout
            | Reason::TryTimeout
            | Reason::IdleTimeout
    )
}

impl Condition {
    pub fn matches(self, outcome: &Outcome) -> bool {
        match (self, outcome.kind) {
            (_, Kind::Dropped) => false,
            (Self::ServerError, Kind::Answered { status, .. }) => status.is_server_error(),
            (Self::ServerError | Self::GatewayError, Kind::Failed(reason)) => blames_service(reason),
            (Self::ServerError | Self::GatewayError | Self::RefusedStream, Kind::Refused) => true,
            (Self::GatewayError, Kind::Answered { status, .. }) => matches!(status.as_u16(), 502..=504),
            (Self::ConnectFailure, Kind::Failed(reason)) => is_unconnected(reason),
            (Self::Reset, Kind::Failed(reason)) => matches!(reason, Reason::UpstreamReset | Reason::UpstreamProtocol),
            (Self::Timeout, Kind::Failed(reason)) => {
                matches!(
                    reason,
                    Reason::RequestTimeout | Reason::TryTimeout | Reason::IdleTimeout | Reason::ConnectTimeout
                )
            }
            (Self::Status(wanted), Kind::Answered { status, .. }) => status.as_u16() == wanted,
            (Self::Grpc(wanted), Kind::Answered { grpc, .. }) => grpc == Some(wanted),
            // What a client of gRPC would be told.
            (Self::Grpc(wanted), Kind::Failed(reason)) => reason.grpc() == wanted && blames_service(reason),
            (Self::Grpc(wanted), Kind::Refused) => wanted == 14,
            _ => false,
        }
    }
}

/// The request cannot have been sent.
pub const fn is_unconnected(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::ConnectFailed
            | Reason::ConnectTimeout
            | Reason::UpstreamTls
            | Reason::UpstreamIdentity
            | Reason::NoIdentity
    )
}

impl FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "5xx" => Self::ServerError,
            "gatewayError" => Self::GatewayError,
            "connectFailure" => Self::ConnectFailure,
            "reset" => Self::Reset,
            "refusedStream" => Self::RefusedStream,
            "timeout" => Self::Timeout,
            _ => {
                let status = text.parse().ok().filter(|status| (100..=599).contains(status)).map(Self::Status);
                status.or_else(|| text.strip_prefix("grpc:").and_then(grpc_code).map(Self::Grpc)).ok_or_else(|| {
                    format!(
                        "`{text}` is not a condition (5xx, gatewayError, connectFailure, reset, refusedStream, timeout, \
                         a status such as 429, or a gRPC code such as grpc:unavailable)"
                    )
                })?
            }
        })
    }
}

/// `unavailable`, `resourceExhausted` or `RESOURCE_EXHAUSTED`, `8`.
pub fn grpc_code(text: &str) -> Option<u8> {
    let plain = |text: &str| text.replace('_', "").to_ascii_lowercase();
    let named = GRPC_CODES.iter().position(|name| plain(name) == plain(text));
    let number = named.or_else(|| text.parse().ok().filter(|number| *number < GRPC_CODES.len()))?;
    u8::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16, grpc: Option<u8>) -> Outcome {
        Outcome { kind: Kind::Answered { status: StatusCode::from_u16(status).unwrap(), grpc }, took: Duration::ZERO }
    }

    fn failed(reason: Reason) -> Outcome {
        Outcome { kind: Kind::Failed(reason), took: Duration::ZERO }
    }

    #[test]
    fn words_mean_what_they_say() {
        let table: &[(&str, &[Outcome], &[Outcome])] = &[
            ("5xx", &[answered(500, None), answered(599, None), failed(Reason::UpstreamReset)], &[answered(499, None)]),
            (
                "gatewayError",
                &[answered(502, None), answered(504, None), failed(Reason::UpstreamReset)],
                &[answered(500, None), answered(501, None), failed(Reason::ClientReset)],
            ),
            (
                "connectFailure",
                &[failed(Reason::ConnectFailed), failed(Reason::ConnectTimeout)],
                &[answered(503, None)],
            ),
            ("reset", &[failed(Reason::UpstreamReset)], &[failed(Reason::ConnectFailed), answered(502, None)]),
            ("timeout", &[failed(Reason::RequestTimeout)], &[failed(Reason::ClientReset), answered(504, None)]),
            ("429", &[answered(429, None)], &[answered(428, None)]),
            ("grpc:unavailable", &[answered(200, Some(14)), failed(Reason::ConnectFailed)], &[answered(200, Some(0))]),
            ("grpc:RESOURCE_EXHAUSTED", &[answered(200, Some(8))], &[failed(Reason::BodyTooLarge)]),
        ];
        for (word, yes, no) in table {
            let condition: Condition = word.parse().unwrap();
            assert!(yes.iter().all(|outcome| condition.matches(outcome)), "{word}: {yes:?}");
            assert!(!no.iter().any(|outcome| condition.matches(outcome)), "{word}: {no:?}");
        }
        let refused = Outcome { kind: Kind::Refused, took: Duration::ZERO };
        assert!(Condition::RefusedStream.matches(&refused) && refused.is_failure());
        let dropped = Outcome { kind: Kind::Dropped, took: Duration::ZERO };
        assert!(!Condition::ServerError.matches(&dropped) && !dropped.is_failure());
    }

    #[test]
    fn other_words_are_refused() {
        for text in ["", "6xx", "99", "600", "grpc:", "grpc:nothing", "grpc:17", "Reset"] {
            assert!(text.parse::<Condition>().is_err(), "{text}");
        }
    }
}

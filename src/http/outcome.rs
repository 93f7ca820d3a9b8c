//! What everything that learns is told of a try, at the one place where it has ended.

use std::rc::Rc;
use std::time::Duration;

use http::{HeaderMap, StatusCode};

use super::circuit::{self, Watch};
use crate::net::clock;
use crate::policy::outcome::{Kind, Outcome};
use crate::snapshot::circuit::Heard;
use crate::snapshot::{Route, Service};
use crate::upstream::learn;
use crate::upstream::pool::Pool;

/// A try, and whom it was sent to.
pub struct Ended<'a> {
    pub route: &'a Route,
    pub service: &'a Service,
    pub pool: &'a Rc<Pool>,
    pub outcome: Outcome,
    pub circuit: &'a Watch,
    /// The classes that the answer may be of.
    pub heard: Heard,
    /// The head of the answer, where one came.
    pub head: Option<&'a HeaderMap>,
}

/// A gRPC call whose status is still to come, in its trailers.
pub struct Pending {
    pub pool: Rc<Pool>,
    pub status: StatusCode,
    pub took: Duration,
    pub heard: Heard,
}

/// The classes of answers that one may be of, by its head.
pub fn hear(service: &Service, status: StatusCode, head: &HeaderMap) -> Heard {
    service.circuits.as_ref().map_or_else(Heard::default, |circuits| circuits.hear(status, head))
}

pub fn learn(ended: &Ended<'_>) {
    let answered = matches!(ended.outcome.kind, Kind::Answered { .. });
    if let Some(limits) = ended.service.limits.as_ref().filter(|_| answered) {
        limits.learn(ended.outcome.took, clock::recent());
    }
    ended.pool.observe(&ended.outcome, clock::recent());
    if let Some(hedge) = ended.route.hedge.as_ref().filter(|_| answered) {
        hedge.see(ended.outcome.took);
    }
    circuit::learn(ended.circuit, ended.route, ended.service, ended.heard, &ended.outcome);
    learn::learn(ended.service, ended.pool, &ended.outcome);
}

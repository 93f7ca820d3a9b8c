//! What came of a try, for those who watch over the endpoints of its service.

use std::time::{Duration, Instant};

use http::StatusCode;

use super::pool::Pool;
use crate::error::Reason;
use crate::policy::outcome::{Kind, Outcome};
use crate::policy::outlier::Cause;
use crate::snapshot::Service;

/// Ejects the endpoint at once, where that was one failure too many.
pub fn learn(service: &Service, pool: &Pool, outcome: &Outcome) {
    if let Some(rules) = &service.outlier
        && pool.standing.record.observe(rules, outcome)
    {
        service.upstream.eject(&service.name, &pool.address, rules, Cause::Consecutive, Instant::now());
    }
    if matches!(outcome.kind, Kind::Failed(Reason::ConnectFailed | Reason::ConnectTimeout)) {
        service.upstream.look_again();
    }
}

/// Another try was answered while this one had taken so long already.
pub fn outrun(service: &Service, pool: &Pool, took: Duration, now: Instant) {
    pool.meter.outrun(took, now);
    if let Some(rules) = &service.outlier {
        pool.standing.record.took(rules, took);
    }
}

/// What came of a connection of bytes, of which no more is known than whether it could be made.
pub fn connected<T>(service: &Service, pool: &Pool, result: &Result<T, Reason>, took: Duration) {
    let kind = match result {
        Ok(_) => Kind::Answered { status: StatusCode::OK, grpc: None },
        Err(reason) => Kind::Failed(*reason),
    };
    learn(service, pool, &Outcome { kind, took });
}

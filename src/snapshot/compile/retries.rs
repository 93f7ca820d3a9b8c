//! Retries and hedges.

use std::sync::Arc;
use std::time::Instant;

use crate::config::schema;
use crate::policy::backoff::Backoff;
use crate::policy::budget::{Budget, Share};
use crate::policy::outcome::Condition;
use crate::policy::retry::{Policy, Rule};
use crate::snapshot::{Hedge, HedgeAfter, Route, Service};

/// gRPC UNAVAILABLE.
const UNAVAILABLE: u8 = 14;

pub(super) fn retry(retry: &schema::Retry) -> Option<Box<Policy>> {
    if retry.attempts == 0 {
        return None;
    }
    let rule = |condition: &schema::Condition, attempts, backoff| {
        Some(Rule { condition: condition.compile()?, attempts, backoff })
    };
    let own = backoff(retry.backoff);
    let mut rules: Vec<Rule> = retry
        .on
        .iter()
        .filter_map(|on| match on {
            schema::RetryOn::Condition(condition) => rule(condition, retry.attempts, own),
            schema::RetryOn::Rule(one) => rule(&one.condition, one.attempts, one.backoff.map_or(own, backoff)),
        })
        .collect();
    if rules.is_empty() {
        use Condition::{ConnectFailure, GatewayError, Grpc, RefusedStream, Reset};
        let all = [ConnectFailure, RefusedStream, Reset, GatewayError, Grpc(UNAVAILABLE)];
        rules.extend(all.map(|condition| Rule { condition, attempts: retry.attempts, backoff: own }));
    }
    Some(Box::new(Policy {
        attempts: retry.attempts,
        rules,
        per_try: retry.per_try_timeout.map(|time| *time),
        share: share(retry),
        buffer_limit: retry.buffer_limit.0,
        non_idempotent: retry.non_idempotent,
    }))
}

fn share(retry: &schema::Retry) -> Share {
    Share { percent: retry.budget.percent, min_per_second: retry.budget.min_per_second }
}

fn backoff(backoff: schema::Backoff) -> Backoff {
    Backoff { base: *backoff.base, max: *backoff.max }
}

/// What was learned of how long answers take stays, where the route keeps its name.
pub(super) fn hedge(hedge: &schema::Hedge, retry: &schema::Retry, previous: Option<&Route>) -> Option<Hedge> {
    let after = match hedge.after.parse().ok()? {
        schema::HedgeAfter::Fixed(after) => HedgeAfter::Fixed(after),
        schema::HedgeAfter::Percentile(share) => {
            let known = match previous.and_then(|route| route.hedge.as_ref()).map(|hedge| &hedge.after) {
                // Bitwise the same: both are read from the same text.
                Some(HedgeAfter::Percentile(before, known)) if before.to_bits() == share.to_bits() => known.clone(),
                _ => Arc::default(),
            };
            HedgeAfter::Percentile(share, known)
        }
    };
    Some(Hedge { after, max: hedge.max, non_idempotent: hedge.non_idempotent, budget: share(retry) })
}

pub(super) fn budget(previous: Option<&Service>) -> Arc<Budget> {
    previous.map_or_else(|| Arc::new(Budget::new(Instant::now())), |service| service.budget.clone())
}

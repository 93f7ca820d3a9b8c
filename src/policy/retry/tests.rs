use http::StatusCode;
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;
use crate::error::Reason;

fn policy(rules: &[(&str, u32)]) -> Policy {
    let backoff = Backoff { base: Duration::from_millis(20), max: Duration::from_millis(100) };
    let rule = |(condition, attempts): &(&str, u32)| Rule {
        condition: condition.parse().unwrap(),
        attempts: *attempts,
        backoff,
    };
    Policy {
        attempts: 9,
        rules: rules.iter().map(rule).collect(),
        per_try: None,
        share: Share { percent: 20.0, min_per_second: 10.0 },
        buffer_limit: 0,
        non_idempotent: false,
    }
}

const FINE: Situation = Situation {
    done: 0,
    idempotent: true,
    grpc: false,
    body_is_there: true,
    left: None,
    pushback: None,
    tried_before_us: false,
};

/// POST, as all calls are.
const CALL: Situation = Situation { idempotent: false, grpc: true, ..FINE };

fn answered(status: u16) -> Kind {
    Kind::Answered { status: StatusCode::from_u16(status).unwrap(), grpc: None }
}

fn called(code: u8) -> Kind {
    Kind::Answered { status: StatusCode::OK, grpc: Some(code) }
}

fn judge(policy: &Policy, kind: Kind, at: Situation) -> Result<(), NotAgain> {
    let outcome = Outcome { kind, took: Duration::ZERO };
    policy.again(&outcome, at, &mut SmallRng::seed_from_u64(5)).map(drop)
}

#[test]
fn each_reason_not_to() {
    let policy = policy(&[("grpc:deadlineExceeded", 0), ("5xx", 2), ("grpc:unavailable", 3), ("refusedStream", 2)]);
    let deadline = Some(Duration::from_millis(1));
    let unconnected = Kind::Failed(Reason::ConnectFailed);
    let table = [
        (answered(503), FINE, Ok(())),
        (answered(503), Situation { done: 1, ..FINE }, Ok(())),
        (answered(503), Situation { done: 2, ..FINE }, Err(NotAgain::TooOften)),
        (answered(429), FINE, Err(NotAgain::NotCovered)),
        (called(4), CALL, Err(NotAgain::Never)),
        (called(14), Situation { done: 2, ..CALL }, Ok(())),
        (called(14), Situation { done: 3, ..CALL }, Err(NotAgain::TooOften)),
        // Of a request that is no call, it means nothing.
        (Kind::Failed(Reason::UpstreamReset), Situation { idempotent: false, ..FINE }, Err(NotAgain::NotIdempotent)),
        (answered(503), Situation { idempotent: false, ..FINE }, Err(NotAgain::NotIdempotent)),
        (Kind::Refused, Situation { idempotent: false, ..FINE }, Ok(())),
        (unconnected, Situation { idempotent: false, tried_before_us: true, ..FINE }, Ok(())),
        (answered(503), Situation { tried_before_us: true, ..FINE }, Err(NotAgain::TriedBeforeUs)),
        (answered(503), Situation { body_is_there: false, ..FINE }, Err(NotAgain::BodyGone)),
        (answered(503), Situation { pushback: Some(Pushback::Never), ..FINE }, Err(NotAgain::Pushback)),
        (
            answered(503),
            Situation { pushback: Some(Pushback::After(PUSHBACK_MAX * 2)), ..FINE },
            Err(NotAgain::Pushback),
        ),
        (answered(503), Situation { left: deadline, ..FINE }, Err(NotAgain::OutOfTime)),
        (Kind::Dropped, FINE, Err(NotAgain::ClientGone)),
    ];
    for (kind, at, expected) in table {
        assert_eq!(judge(&policy, kind, at), expected, "{kind:?} {at:?}");
    }
}

proptest! {
    /// Never sooner than was asked for, never later than the request has time for.
    #[test]
    fn waits_fit(asked in prop::option::of(0u64..20_000), left in prop::option::of(0u64..5_000), done in 0u32..3, seed: u64) {
        let policy = policy(&[("5xx", 3)]);
        let at = Situation {
            done,
            left: left.map(Duration::from_millis),
            pushback: asked.map(|asked| Pushback::After(Duration::from_millis(asked))),
            ..FINE
        };
        let outcome = Outcome { kind: answered(500), took: Duration::ZERO };
        let wait = policy.again(&outcome, at, &mut SmallRng::seed_from_u64(seed));
        let (least, most) = (asked.unwrap_or(0), asked.unwrap_or(0) + 100);
        match wait {
            Ok(wait) => {
                prop_assert!(wait >= Duration::from_millis(least) && wait <= Duration::from_millis(most));
                prop_assert!(at.left.is_none_or(|left| wait < left) && least <= 10_000);
            }
            Err(NotAgain::OutOfTime) => prop_assert!(left.is_some_and(|left| left <= most)),
            Err(why) => prop_assert!(why == NotAgain::Pushback && least > 10_000, "{:?}", why),
        }
    }
}

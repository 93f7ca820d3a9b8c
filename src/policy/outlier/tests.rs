use http::StatusCode;
use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn rules() -> Rules {
    Rules {
        shadow: false,
        consecutive: Some(5),
        failures: [].into(),
        success_rate: None,
        latency: None,
        interval: 10 * SECOND,
        base: 30 * SECOND,
        max: 300 * SECOND,
        max_share: 50,
    }
}

fn answered(status: u16, took: Duration) -> Outcome {
    Outcome { kind: Kind::Answered { status: StatusCode::from_u16(status).unwrap(), grpc: None }, took }
}

fn ended(kind: Kind) -> Outcome {
    Outcome { kind, took: SECOND }
}

/// Which of these crosses the line.
fn crossings(rules: &Rules, outcomes: &[Outcome]) -> Vec<usize> {
    let record = Record::default();
    let crosses = |(index, outcome)| record.observe(rules, outcome).then_some(index);
    outcomes.iter().enumerate().filter_map(crosses).collect()
}

#[test]
fn failures_in_a_row_cross_the_line_once_each_time() {
    let (good, bad) = (answered(200, SECOND), answered(500, SECOND));
    assert_eq!(crossings(&rules(), &[bad; 12]), [4, 9]);
    assert_eq!(crossings(&rules(), &[bad, bad, bad, bad, good, bad, bad, bad, bad]), [0usize; 0]);
    let connect = ended(Kind::Failed(Reason::ConnectFailed));
    assert_eq!(crossings(&rules(), &[bad, connect, ended(Kind::Refused), connect, bad]), [4]);
    // Who gives up says nothing of the endpoint, neither good nor bad; nor does what never came to it.
    let (dropped, full) = (ended(Kind::Dropped), ended(Kind::Failed(Reason::Overflow)));
    assert_eq!(crossings(&rules(), &[bad, bad, dropped, bad, full, bad, dropped, bad]), [7]);
    let off = Rules { consecutive: None, ..rules() };
    assert_eq!(crossings(&off, &[bad; 12]), [0usize; 0]);
}

#[test]
fn a_failure_is_what_the_rule_says() {
    let only = Rules { failures: ["429".parse().unwrap()].into(), consecutive: Some(2), ..rules() };
    let (bad, limited) = (answered(500, SECOND), answered(429, SECOND));
    assert_eq!(crossings(&only, &[bad, bad, limited, bad, limited, limited]), [5]);
}

/// However the workers interleave, each five failures cross the line once.
#[test]
fn it_is_exact_across_threads() {
    let (record, rules, bad) = (Record::default(), rules(), answered(503, SECOND));
    let crossed: usize = std::thread::scope(|scope| {
        let crossed = || (0..5_000).filter(|_| record.observe(&rules, &bad)).count();
        let workers: Vec<_> = (0..4).map(|_| scope.spawn(crossed)).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    assert_eq!(crossed, 4 * 5_000 / 5);
}

#[test]
fn what_is_compared_is_counted_and_starts_afresh() {
    let latency = Latency { percent: 300, above: Duration::ZERO, min_requests: 1, min_endpoints: 3 };
    let rate = SuccessRate { min_requests: 1, min_endpoints: 2, deviations: 1.9 };
    let rules = Rules { success_rate: Some(rate), latency: Some(latency), ..rules() };
    let record = Record::default();
    for outcome in [
        answered(200, SECOND),
        answered(500, 9 * SECOND),
        ended(Kind::Failed(Reason::RequestTimeout)),
        ended(Kind::Failed(Reason::ConnectFailed)),
        ended(Kind::Dropped),
    ] {
        record.observe(&rules, &outcome);
    }
    // The time of a failure says nothing, but for the one that was all about time.
    assert_eq!(record.take(), Seen { requests: 4, failures: 3, timed: 2, micros: 2_000_000 });
    assert_eq!(record.take(), Seen::default());
}

fn rated(shares: &[(u32, u32)]) -> Vec<(usize, Seen)> {
    let seen = |(requests, failures): &(u32, u32)| Seen { requests: *requests, failures: *failures, ..Seen::default() };
    shares.iter().map(seen).enumerate().collect()
}

#[test]
fn success_rates_are_held_against_their_peers() {
    let rule = SuccessRate { min_requests: 100, min_endpoints: 5, deviations: 1.9 };
    let fine = (1000, 10);
    assert_eq!(rule.outliers(&rated(&[fine, fine, fine, fine, (1000, 500)])), [4]);
    assert_eq!(rule.outliers(&rated(&[fine; 9])), [0usize; 0], "all alike, and none is out");
    assert_eq!(rule.outliers(&rated(&[(1000, 1000); 6])), [0usize; 0], "all down: it is not the endpoints");
    // Too few endpoints, or too few requests on the bad one.
    assert_eq!(rule.outliers(&rated(&[fine, fine, fine, (1000, 500)])), [0usize; 0]);
    assert_eq!(rule.outliers(&rated(&[fine, fine, fine, fine, fine, (99, 99)])), [0usize; 0]);
}

#[test]
fn latencies_are_held_against_the_median_of_the_others() {
    let rule = Latency { percent: 300, above: Duration::from_millis(10), min_requests: 10, min_endpoints: 3 };
    let timed = |millis: &[u64]| -> Vec<(usize, Seen)> {
        let seen = |ms: &u64| Seen { timed: 10, micros: ms * 10_000, ..Seen::default() };
        millis.iter().map(seen).enumerate().collect()
    };
    assert_eq!(rule.outliers(&timed(&[20, 25, 200, 22, 90])), [2, 4]);
    assert_eq!(rule.outliers(&timed(&[20, 25, 75, 22])), [2], "three times the 22 of the others is 66");
    assert_eq!(rule.outliers(&timed(&[20, 25, 60, 22])), [0usize; 0]);
    assert_eq!(rule.outliers(&timed(&[1, 1, 9, 1])), [0usize; 0], "fast enough, whatever the others do");
    assert_eq!(rule.outliers(&timed(&[20, 200])), [0usize; 0], "two of them: which one is it?");
}

#[test]
fn ejections_grow_and_are_forgotten_again() {
    let (rules, start) = (rules(), Instant::now());
    let mut ejections = Ejections::default();
    let all = [1, 2, 3, 4];
    let mut now = start;
    let lasts: Vec<u64> = (0..12)
        .map(|_| {
            let fit = all.iter().map(|key| (key, true));
            let Verdict::Out(lasts) = ejections.eject(&1, fit, &rules, Cause::Consecutive, now) else { panic!("held") };
            assert_eq!(ejections.release(now + lasts - SECOND), [0; 0]);
            now += lasts;
            assert_eq!(ejections.release(now), [1]);
            lasts.as_secs()
        })
        .collect();
    assert_eq!(lasts, [30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 300, 300]);
    // A whole interval in good order forgets one of ten.
    for left in (0..10).rev() {
        ejections.forgive(&rules, now + 9 * SECOND);
        assert_eq!(ejections.get(&1).unwrap().times, left + 1);
        now += 10 * SECOND;
        ejections.forgive(&rules, now);
        assert_eq!(ejections.get(&1).map_or(0, |known| known.times), left);
    }
    assert!(ejections.is_empty());
}

#[test]
fn the_last_one_that_is_fit_stays() {
    let everybody = Rules { max_share: 100, ..rules() };
    let mut ejections = Ejections::default();
    let now = Instant::now();
    // 3 is unhealthy, so that 2 is all that is left once 1 is out.
    let all = || [(&1, true), (&2, true), (&3, false)].into_iter();
    assert!(matches!(ejections.eject(&1, all(), &everybody, Cause::Latency, now), Verdict::Out(_)));
    assert_eq!(ejections.eject(&1, all(), &everybody, Cause::Latency, now), Verdict::Already);
    assert_eq!(ejections.eject(&2, all(), &everybody, Cause::Latency, now), Verdict::Held);
    assert!(matches!(ejections.eject(&3, all(), &everybody, Cause::Latency, now), Verdict::Out(_)));
    let mut out = ejections.clear();
    out.sort_unstable();
    assert_eq!(out, [1, 3]);
}

#[derive(Debug, Clone)]
enum Step {
    Eject(u8),
    Pass(u64),
    Forgive,
    /// Endpoints come and go.
    Present(Vec<bool>),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u8..8).prop_map(Step::Eject),
        3 => (0u64..60).prop_map(Step::Pass),
        1 => Just(Step::Forgive),
        1 => prop::collection::vec(any::<bool>(), 8).prop_map(Step::Present),
    ]
}

proptest! {
    /// Against a model that is a list of plain facts, in seconds.
    #[test]
    fn ejections_are_what_a_plain_list_says(
        steps in prop::collection::vec(step(), 1..80),
        max_share in prop_oneof![Just(0u8), Just(10), Just(34), Just(50), Just(100)],
    ) {
        let rules = Rules { max_share, max: 100 * SECOND, ..rules() };
        let start = Instant::now();
        let mut ejections: Ejections<u8> = Ejections::default();
        let mut present = vec![true; 8];
        // (out, until, times) of each.
        let mut model = [(false, 0u64, 0u64); 8];
        let mut time = 0u64;
        for step in steps {
            let now = start + seconds(time);
            match step {
                Step::Eject(key) => {
                    let all: Vec<u8> = (0..8).filter(|key| present[usize::from(*key)]).collect();
                    let verdict =
                        ejections.eject(&key, all.iter().map(|key| (key, true)), &rules, Cause::Consecutive, now);
                    let is_out = |key: &u8| model[usize::from(*key)].0;
                    let outs = all.iter().filter(|key| is_out(key)).count();
                    let others = all.iter().filter(|other| !is_out(other) && **other != key).count();
                    let expected = if is_out(&key) {
                        Verdict::Already
                    } else if (outs + 1) * 100 > all.len() * usize::from(max_share) || others == 0 {
                        Verdict::Held
                    } else {
                        let known = &mut model[usize::from(key)];
                        let lasts = (30 * (known.2 + 1)).min(100);
                        *known = (true, time + lasts, (known.2 + 1).min(3));
                        Verdict::Out(seconds(lasts))
                    };
                    prop_assert_eq!(verdict, expected);
                }
                Step::Pass(passed) => {
                    time += passed;
                    let mut released = ejections.release(start + seconds(time));
                    released.sort_unstable();
                    let over = (0u8..8).filter(|key| model[usize::from(*key)].0 && model[usize::from(*key)].1 <= time);
                    prop_assert_eq!(released, over.collect::<Vec<_>>());
                    model.iter_mut().filter(|known| known.1 <= time).for_each(|known| known.0 = false);
                }
                Step::Forgive => {
                    ejections.forgive(&rules, now);
                    for known in model.iter_mut().filter(|known| !known.0 && known.2 > 0 && time >= known.1 + 10) {
                        (known.1, known.2) = (time, known.2 - 1);
                    }
                }
                Step::Present(now) => present = now,
            }
            let next = model.iter().filter(|known| known.0).map(|known| start + seconds(known.1)).min();
            prop_assert_eq!(ejections.next_release(), next);
            for (key, known) in (0u8..8).zip(&model) {
                prop_assert_eq!(ejections.get(&key).map_or(0, |found| u64::from(found.times)), known.2);
            }
        }
    }
}

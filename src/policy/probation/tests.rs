use super::*;

const BOUNDS: Bounds = Bounds { errors: 5.0, p99: 50.0 };

fn seen(requests: u64, errors: u64) -> Observed {
    Observed { requests, errors, ..Observed::default() }
}

/// Requests without a route.
fn unrouted(requests: u64) -> Observed {
    Observed { requests, refused: requests, ..Observed::default() }
}

fn all(series: &[(&str, &str, Observed)]) -> Observations {
    let mut all = Observations::default();
    for (listener, route, seen) in series {
        all.add(&Arc::from(*listener), &Arc::from(*route), seen);
    }
    all
}

fn probation(before: &[(&str, &str, Observed)], changed: &[&str]) -> Probation {
    Probation::new(all(before), all(before), changed.iter().map(|name| Arc::from(*name)), BOUNDS)
}

/// Counters that have gone on from `before`.
fn later(before: &[(&str, &str, Observed)], after: &[(&str, &str, Observed)]) -> Observations {
    let mut counters = all(before);
    counters.add_all(&all(after));
    counters
}

#[test]
fn only_changed_routes_are_judged() {
    let before = [("edge", "a", seen(1_000, 0)), ("edge", "b", seen(1_000, 0))];
    let incident = later(&before, &[("edge", "a", seen(100, 0)), ("edge", "b", seen(100, 90))]);
    assert_eq!(probation(&before, &["a"]).judge(incident.clone()), None);
    let finding = probation(&before, &["b"]).judge(incident).unwrap();
    let text = "route b of listener edge: \
        errors rose from 0.0 % (0 of 1000) to 90.0 % (90 of 100), more than 5 points";
    assert_eq!(finding.to_string(), text);
}

#[test]
fn a_route_that_failed_before_is_no_worse() {
    let before = [("edge", "a", seen(1_000, 900))];
    assert_eq!(probation(&before, &["a"]).judge(later(&before, &[("edge", "a", seen(100, 95))])), None);
}

#[test]
fn a_new_route_is_measured_by_its_listener() {
    let before = [("edge", "a", seen(1_000, 0)), ("inner", "c", seen(1_000, 500))];
    let after = [("edge", "new", seen(60, 20)), ("inner", "new", seen(60, 20))];
    let finding = probation(&before, &["new"]).judge(later(&before, &after)).unwrap();
    let text = "route new of listener edge, new, against the listener as a whole before: \
        errors rose from 0.0 % (0 of 1000) to 33.3 % (20 of 60), more than 5 points";
    assert_eq!(finding.to_string(), text);

    let slow = |bucket, requests| {
        let mut slow = seen(requests, 0);
        slow.durations[bucket] = requests;
        slow
    };
    let before = [("edge", "a", slow(0, 1_000))];
    assert_eq!(probation(&before, &["new"]).judge(later(&before, &[("edge", "new", slow(9, 1_000))])), None);
    assert!(probation(&before, &["a"]).judge(later(&before, &[("edge", "a", slow(9, 1_000))])).is_some());
    let first = [("edge", "new", seen(100, 100))];
    assert_eq!(probation(&[], &["new"]).judge(all(&first)), None, "a listener without a past is no measure");
}

#[test]
fn requests_that_fall_to_no_route_are_found() {
    let before = [("edge", "gone", seen(500, 0)), ("edge", "b", seen(500, 0)), ("edge", "", unrouted(10))];
    let after = [("edge", "b", seen(50, 0)), ("edge", "", unrouted(50))];
    let finding = probation(&before, &["gone"]).judge(later(&before, &after)).unwrap();
    let text = "listener edge: requests without a route rose \
        from 1.0 % (10 of 1010) to 50.0 % (50 of 100), more than 5 points";
    assert_eq!((finding.to_string().as_str(), &*finding.route), (text, ""));
    // A listener of which no route has changed is not to blame.
    assert_eq!(probation(&before, &["elsewhere"]).judge(later(&before, &after)), None);
}

#[test]
fn the_finding_that_hit_most_is_told() {
    let before = [("edge", "a", seen(900, 0)), ("edge", "b", seen(900, 0)), ("edge", "c", seen(900, 0))];
    let after = [("edge", "a", seen(80, 40)), ("edge", "b", seen(80, 60)), ("edge", "c", seen(80, 60))];
    let finding = probation(&before, &["a", "b", "c"]).judge(later(&before, &after)).unwrap();
    assert_eq!(&*finding.route, "b");
}

#[test]
fn looks_add_up() {
    let before = [("edge", "a", seen(1_000, 0))];
    let mut probation = probation(&before, &["a"]);
    assert_eq!(probation.judge(later(&before, &[("edge", "a", seen(15, 5))])), None, "too few");
    let finding = probation.judge(later(&before, &[("edge", "a", seen(30, 10))])).unwrap();
    assert_eq!(finding.regression.affected(), 10);
}

#[test]
fn counters_that_go_back_or_vanish_give_no_nonsense() {
    let before = [("edge", "a", seen(1_000, 10))];
    let mut probation = probation(&before, &["a"]);
    // A part of the series was forgotten; the errors, 40 more than at the reload, belong to no request that is known.
    assert_eq!(probation.judge(all(&[("edge", "a", seen(200, 50))])), None);
    assert_eq!(probation.judge(Observations::default()), None);
    assert_eq!(probation.judge(all(&[("edge", "a", seen(100, 1))])), None);
    let finding = probation.judge(all(&[("edge", "a", seen(200, 91))])).unwrap();
    let Regression::Errors(rise) = finding.regression else { panic!("{finding}") };
    assert_eq!(rise.after, Share { count: 91, of: 200 });
}

#[test]
fn errors_ahead_of_requests_are_bounded_by_them() {
    let torn = Observed { errors: 3, post_errors: 9, grpc_errors: 4, ..seen(10, 0) };
    assert_eq!(torn.failed(), Share { count: 10, of: 10 });
    let huge = Observed { errors: u64::MAX, post_errors: u64::MAX, ..seen(u64::MAX, 0) };
    let mut sum = huge;
    sum.add(&huge);
    assert_eq!(sum, huge);
}

#[test]
fn posts_and_grpc_calls_are_not_counted_twice() {
    let call = Observed { post_errors: 8, grpc_errors: 10, ..seen(100, 1) };
    assert_eq!(call.failed().count, 11);
    // The difference is taken first: old gRPC errors do not hide new ones of other POSTs.
    let old = Observed { grpc_errors: 1_000, ..seen(5_000, 0) };
    let mut now = old;
    now.add(&Observed { post_errors: 30, ..seen(60, 0) });
    assert_eq!(now.since(&old).failed(), Share { count: 30, of: 60 });
}

#[test]
fn many_changed_routes_do_not_add_up_to_a_false_alarm() {
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    let names: Vec<String> = (0..300).map(|n| format!("r{n:03}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut rng = SmallRng::seed_from_u64(5);
    let mut draw = |requests: u64| -> Vec<(&str, &str, Observed)> {
        let mut errors = |_| u64::from(rng.random_bool(0.05));
        names.iter().map(|name| ("edge", *name, seen(requests, (0..requests).map(&mut errors).sum()))).collect()
    };
    for _ in 0..5 {
        let before = draw(300);
        let mut probation = probation(&before, &names);
        let mut counters = all(&before);
        for _ in 0..50 {
            counters.add_all(&all(&draw(10)));
            assert_eq!(probation.judge(counters.clone()), None);
        }
    }
}

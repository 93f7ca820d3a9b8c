use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::policy::probation::BUCKETS;

const DEFAULT: Bounds = Bounds { errors: 5.0, p99: 50.0 };
const NONE: Bounds = Bounds { errors: 0.0, p99: 0.0 };

fn failing(errors: u64, requests: u64) -> Observed {
    Observed { requests, errors, ..Observed::default() }
}

/// Requests by the index of their bucket.
fn taking(buckets: &[(usize, u64)]) -> Observed {
    let mut seen = Observed::default();
    for (bucket, count) in buckets {
        seen.durations[*bucket] = *count;
        seen.requests += count;
    }
    seen
}

/// A route: how often it fails and is refused, and the median (nanoseconds) and spread of its durations.
#[derive(Clone, Copy)]
struct Nature {
    errors: f64,
    refused: f64,
    median: f64,
    sigma: f64,
}

impl Nature {
    fn failing(errors: f64) -> Self {
        Self { errors, refused: 0.01, median: 4e6, sigma: 0.8 }
    }

    fn observe(self, requests: u64, rng: &mut SmallRng, seen: &mut Observed) {
        for _ in 0..requests {
            seen.requests += 1;
            seen.errors += u64::from(rng.random_bool(self.errors));
            seen.refused += u64::from(rng.random_bool(self.refused));
            // Box and Muller's normal deviate.
            let (radius, angle) = (1.0 - rng.random::<f64>(), rng.random::<f64>());
            let normal = (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos();
            let nanos = self.median * (self.sigma * normal).exp();
            let bucket = DURATION.iter().position(|bound| nanos <= *bound as f64).unwrap_or(DURATION.len());
            seen.durations[bucket] += 1;
            seen.nanos += nanos as u64;
        }
    }

    fn seen(self, requests: u64, rng: &mut SmallRng) -> Observed {
        let mut seen = Observed::default();
        self.observe(requests, rng, &mut seen);
        seen
    }

    /// What was seen when it was first called a regression, looking every `step` of at most `requests`.
    fn caught(
        self,
        before: &Observed,
        bounds: Bounds,
        step: u64,
        requests: u64,
        rng: &mut SmallRng,
    ) -> Option<Observed> {
        let mut after = Observed::default();
        for _ in 0..requests / step {
            self.observe(step, rng, &mut after);
            if matches!(judge(before, &after, bounds), Verdict::Regression(_)) {
                return Some(after);
            }
        }
        None
    }
}

#[test]
fn intervals_are_those_of_the_literature() {
    // Newcombe 1998, table II: 56/70 and 48/80 have the interval 0.0524 to 0.3339 by method 10.
    let (first, second) = (Share { count: 56, of: 70 }, Share { count: 48, of: 80 });
    assert!((least_rise(second, first, 1.96) - 0.0524).abs() < 1e-4);
    assert!((-least_rise(first, second, 1.96) - 0.3339).abs() < 1e-4);
    // Wilson's for 0 of 10: its upper end is z²/(n + z²).
    let (least, most) = interval(Share { count: 0, of: 10 }, 1.96);
    assert!(least.abs() < 1e-12 && (most - 0.2775).abs() < 1e-4, "{least} {most}");
    assert_eq!(interval(Share { count: 0, of: 0 }, 1.96), (0.0, 1.0));
}

#[test]
fn a_rise_is_told_in_one_sentence() {
    let Verdict::Regression(regression) = judge(&failing(12, 9800), &failing(14, 44), DEFAULT) else {
        panic!("not seen");
    };
    let text = "errors rose from 0.1 % (12 of 9800) to 31.8 % (14 of 44), more than 5 points";
    assert_eq!(regression.to_string(), text);
    assert_eq!(regression.affected(), 14);
}

#[test]
fn small_numbers_tell_nothing() {
    let before = failing(12, 9800);
    assert_eq!(judge(&before, &failing(19, 19), DEFAULT), Verdict::TooFew);
    assert!(matches!(judge(&before, &failing(20, 20), DEFAULT), Verdict::Regression(_)));
    assert_eq!(judge(&failing(0, 0), &failing(20, 20), DEFAULT), Verdict::TooFew, "nothing to compare with");
    assert_eq!(judge(&before, &failing(4, 20), DEFAULT), Verdict::Fine);
    assert_eq!(judge(&failing(0, 1_000_000), &failing(4, 20), NONE), Verdict::Fine, "fewer than five");
    assert_eq!(judge(&failing(1, 3), &failing(20, 20), DEFAULT), Verdict::Fine, "three requests are no past");
}

#[test]
fn a_rise_within_the_bound_is_fine() {
    let before = failing(1_000, 100_000);
    assert_eq!(judge(&before, &failing(5_900, 100_000), DEFAULT), Verdict::Fine);
    assert!(matches!(judge(&before, &failing(7_000, 100_000), DEFAULT), Verdict::Regression(_)));
    assert_eq!(judge(&failing(9_000, 10_000), &failing(100, 10_000), DEFAULT), Verdict::Fine, "a fall");
    assert_eq!(judge(&before, &failing(100, 100), Bounds { errors: 100.0, p99: 50.0 }), Verdict::Fine);
}

#[test]
fn refusals_have_the_same_bound() {
    let refusing = |refused, requests| Observed { requests, refused, ..Observed::default() };
    let Verdict::Regression(Regression::Refused(rise)) = judge(&refusing(0, 1000), &refusing(30, 60), DEFAULT) else {
        panic!("not seen");
    };
    assert_eq!(rise.to_string(), "from 0.0 % (0 of 1000) to 50.0 % (30 of 60), more than 5 points");
}

#[test]
fn a_slow_tail_is_told_in_one_sentence() {
    // Up to 10 ms (4), 25 ms (5), 50 ms (6), 100 ms (7).
    let before = taking(&[(4, 9_800), (5, 200)]);
    let Verdict::Regression(slower) = judge(&before, &taking(&[(4, 900), (7, 100)]), DEFAULT) else {
        panic!("not seen");
    };
    let text = "durations rose by more than 50 %: 10.0 % (100 of 1000) took longer than 25ms, \
        0.0 % (0 of 10000) before, when the 99th percentile was about 15.8ms";
    assert_eq!(slower.to_string(), text);
    let before = taking(&[(4, 9_700), (5, 300)]);
    let maybe = taking(&[(4, 900), (6, 100)]);
    assert_eq!(judge(&before, &maybe, DEFAULT), Verdict::Fine, "only beyond 50 ms it is known to be beyond 27.6");
}

#[test]
fn crossing_a_bound_by_little_is_not_slower() {
    let at = |bucket, nanos: u64| Observed { nanos: 1_000 * nanos, ..taking(&[(bucket, 1_000)]) };
    assert_eq!(judge(&at(5, 24_000_000), &at(6, 26_000_000), DEFAULT), Verdict::Fine);
    assert!(matches!(judge(&at(5, 24_000_000), &at(6, 48_000_000), DEFAULT), Verdict::Regression(_)), "twice as slow");
    assert_eq!(judge(&at(6, 48_000_000), &at(5, 24_000_000), DEFAULT), Verdict::Fine, "faster");
}

#[test]
fn durations_need_a_hundred_requests_on_both_sides() {
    let (few, many) = (taking(&[(4, 99)]), taking(&[(4, 9_999)]));
    let slow = |count| taking(&[(10, count)]);
    assert_eq!(judge(&few, &slow(5_000), DEFAULT), Verdict::Fine);
    assert_eq!(judge(&many, &slow(99), DEFAULT), Verdict::Fine);
    assert!(matches!(judge(&many, &slow(100), DEFAULT), Verdict::Regression(Regression::Slow(_))));
}

#[test]
fn beyond_the_last_bound_nothing_is_known() {
    let endless = taking(&[(BUCKETS - 1, 1_000)]);
    assert_eq!(judge(&endless, &endless, DEFAULT), Verdict::Fine);
    let slow = taking(&[(BUCKETS - 2, 1_000)]);
    assert_eq!(judge(&slow, &endless, DEFAULT), Verdict::Fine, "45 s are beyond every bound");
    let huge = Observed { requests: u64::MAX, errors: u64::MAX, durations: [u64::MAX; BUCKETS], ..failing(0, 0) };
    assert_eq!(judge(&huge, &huge, DEFAULT), Verdict::Fine);
}

#[test]
fn the_percentile_is_interpolated() {
    let p99 = |seen: Observed| seen.p99().map(|nanos| nanos.round());
    assert_eq!(p99(taking(&[(0, 99), (1, 1)])), Some(500_000.0));
    assert_eq!(p99(taking(&[(4, 98), (5, 2)])), Some(15_811_388.0), "between 10 and 25 ms: the geometric mean");
    assert_eq!(p99(taking(&[(4, 98), (BUCKETS - 1, 2)])), None);
    assert_eq!(p99(taking(&[])), None);
    let seen = taking(&[(4, 98), (5, 2), (BUCKETS - 1, 7)]);
    assert_eq!(seen.beyond_nanos(10e6).count, 9);
    assert_eq!(seen.beyond_nanos(15.9e6).count, 8);
    assert_eq!(seen.beyond_nanos(25e6).count, 7);
    assert_eq!(seen.beyond_nanos(1e12).count, 0, "nothing is known there");
}

#[test]
fn changing_nothing_is_hardly_ever_undone() {
    let mut rng = SmallRng::seed_from_u64(1);
    for bounds in [DEFAULT, NONE] {
        let mut undone = Vec::new();
        for reload in 0..2_000 {
            let errors = [0.0, 0.01, 0.05, 0.2][reload % 4];
            let sigma = [0.3, 0.8, 1.5][reload % 3];
            let nature = Nature { sigma, median: rng.random_range(1e6..2e7), ..Nature::failing(errors) };
            let before = nature.seen(if reload % 5 == 0 { 150 } else { 1_500 }, &mut rng);
            undone.extend(nature.caught(&before, bounds, 10, 2_000, &mut rng));
        }
        assert!(undone.len() < 20, "{} of 2000 with {bounds:?}", undone.len());
    }
}

#[test]
fn a_third_that_fails_is_found_soon() {
    let mut rng = SmallRng::seed_from_u64(2);
    let mut found = 0;
    for _ in 0..1_000 {
        let before = Nature::failing(0.01).seen(1_000, &mut rng);
        let caught = Nature::failing(1.0 / 3.0).caught(&before, DEFAULT, 5, 60, &mut rng);
        found += u32::from(caught.is_some_and(|seen| seen.errors <= 25));
    }
    assert!(found > 990, "{found} of 1000");
}

#[test]
fn the_demand_grows_with_the_routes() {
    assert!((demanded(0) - Z).abs() < 1e-12 && (demanded(1) - Z).abs() < 1e-12);
    // One-sided tails: 3.2e-5 at 4, and a thousandth of that at 5.41.
    assert!((5.4..5.5).contains(&demanded(1_000)), "{}", demanded(1_000));
    let mut rng = SmallRng::seed_from_u64(3);
    let mut found = 0;
    for _ in 0..200 {
        let nature = Nature::failing(1.0 / 3.0);
        let (before, after) = (failing(10, 1_000), nature.seen(100, &mut rng));
        found += u32::from(matches!(judge_among(&before, &after, DEFAULT, 1_000), Verdict::Regression(_)));
    }
    assert!(found > 198, "{found} of 200 within 100 requests, though a thousand routes are judged");
}

#[test]
fn slower_answers_are_found() {
    let mut rng = SmallRng::seed_from_u64(4);
    let mut found = |median: f64, sigma: f64, factor: f64| {
        let nature = Nature { median, sigma, ..Nature::failing(0.0) };
        let slower = Nature { median: factor * median, ..nature };
        let caught = (0..100).filter(|_| {
            let before = nature.seen(5_000, &mut rng);
            slower.caught(&before, DEFAULT, 100, 4_000, &mut rng).is_some()
        });
        caught.count()
    };
    for (median, sigma) in [(1.8e6, 0.8), (2.7e6, 0.5), (4.7e6, 0.3)] {
        assert!(found(median, sigma, 2.0) > 95, "twice {median} ns");
        assert!(found(median, sigma, 1.3) < 2, "less than is allowed");
    }
    // Where the bounds of the histogram lie unluckily, twice is not enough to tell, but this is.
    for median in [1.5e6, 2.5e6, 3.5e6, 5e6, 7e6, 9e6, 12e6] {
        assert!(found(median, 0.5, 2.5) > 90, "2.5 times {median} ns");
    }
}

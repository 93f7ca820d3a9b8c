use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const SECOND: Nanos = 1_000_000_000;

fn is_granted(taken: Taken) -> bool {
    matches!(taken, Taken::Granted { .. })
}

/// A bucket as one would write it down: tokens, in parts as small as the time has.
#[derive(Clone, Copy)]
struct Plain {
    parts: u128,
    at: Nanos,
}

impl Plain {
    fn full(rate: &Rate) -> Self {
        Self { parts: u128::from(rate.burst) * u128::from(rate.interval), at: 0 }
    }

    fn take(&mut self, rate: &Rate, now: Nanos) -> bool {
        let full = u128::from(rate.burst) * u128::from(rate.interval);
        self.parts = full.min(self.parts + u128::from(now - self.at));
        self.at = now;
        let granted = self.parts >= u128::from(rate.interval);
        self.parts -= if granted { u128::from(rate.interval) } else { 0 };
        granted
    }
}

fn take(buckets: &Buckets, key: u64, rate: &Rate, now: Nanos) -> Taken {
    buckets.take(key, (rate, 1), now, Duration::ZERO)
}

proptest! {
    /// With room for every key, each has a bucket of its own.
    #[test]
    fn every_key_has_its_bucket(
        per_second in 0.5f64..5000.0,
        burst in 1u32..50,
        steps in prop::collection::vec((0u64..300_000_000, 0u64..8), 1..400),
    ) {
        let rate = Rate::new(per_second, burst);
        let buckets = Buckets::new(64, rate);
        let mut model: HashMap<u64, Plain> = HashMap::new();
        let mut now = 0;
        for (pause, key) in steps {
            now += pause;
            // Spread like hashes.
            let key = (key + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let expected = model.entry(key).or_insert_with(|| Plain::full(&rate)).take(&rate, now);
            prop_assert_eq!(is_granted(take(&buckets, key, &rate, now)), expected);
        }
        prop_assert_eq!(buckets.shared(), 0);
    }

    /// However many keys there are for a small table, none gets what its own bucket would not give.
    #[test]
    fn no_flood_of_keys_refills_a_bucket(
        table in 2u32..12,
        burst in 1u32..6,
        steps in prop::collection::vec((0u64..120_000_000, 0u64..40), 1..600),
    ) {
        let rate = Rate::new(10.0, burst);
        let buckets = Buckets::new(table, rate);
        let mut model: HashMap<u64, Plain> = HashMap::new();
        let mut now = 0;
        for (pause, key) in steps {
            now += pause;
            let key = (key + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let bucket = model.entry(key).or_insert_with(|| Plain::full(&rate));
            let mut after = *bucket;
            let allowed = after.take(&rate, now);
            let granted = is_granted(take(&buckets, key, &rate, now));
            prop_assert!(allowed || !granted, "a key got more than its bucket has");
            if granted {
                *bucket = after;
            }
        }
    }

    /// Over any time, no more than the burst and what has come since.
    #[test]
    fn a_burst_and_then_the_rate(per_second in 1f64..2000.0, burst in 2u32..100, tries in 10u64..2000) {
        let rate = Rate::new(per_second, burst);
        let buckets = Buckets::new(1, rate);
        let pause = SECOND / 1000;
        let granted = (0..tries).filter(|n| is_granted(take(&buckets, 7, &rate, n * pause))).count() as u64;
        let most = u64::from(burst) + (tries - 1) * pause / rate.interval;
        prop_assert!(granted <= most && (granted == most || granted == tries), "{granted} of {tries}, most {most}");
    }
}

#[test]
fn what_is_left_and_when_there_is_more() {
    let rate = Rate::new(2.0, 3);
    let buckets = Buckets::new(1, rate);
    for left in [2, 1, 0] {
        assert_eq!(take(&buckets, 1, &rate, SECOND), Taken::Granted { left, wait: Duration::ZERO });
    }
    assert_eq!(take(&buckets, 1, &rate, SECOND), Taken::Refused { after: Duration::from_millis(500) });
    assert_eq!(
        take(&buckets, 1, &rate, SECOND + SECOND / 4),
        Taken::Refused { after: Duration::from_millis(250) },
        "a refusal costs nothing"
    );
    assert!(is_granted(take(&buckets, 1, &rate, SECOND + SECOND / 2)));
    assert_eq!(rate.window(), Duration::from_millis(1500));
}

#[test]
fn the_patient_stand_in_line() {
    let rate = Rate::new(10.0, 1);
    let buckets = Buckets::new(1, rate);
    let patience = Duration::from_millis(250);
    let waits: Vec<Taken> = (0..4).map(|_| buckets.take(1, (&rate, 1), 0, patience)).collect();
    let granted = |millis| Taken::Granted { left: 0, wait: Duration::from_millis(millis) };
    let refused = Taken::Refused { after: Duration::from_millis(300) };
    assert_eq!(waits, [granted(0), granted(100), granted(200), refused]);
    buckets.give_back(1, 0);
    assert_eq!(buckets.take(1, (&rate, 1), 0, patience), granted(200), "what was given back can be had");
}

#[test]
fn another_rate_refills_nothing() {
    let (slow, fast) = (Rate::new(0.01, 100), Rate::new(1000.0, 1000));
    let buckets = Buckets::new(1, slow);
    (0..100).for_each(|_| assert!(is_granted(take(&buckets, 1, &slow, 0))));
    assert!(!is_granted(take(&buckets, 1, &slow, 0)));
    let of = |rate: &Rate, generation, now| buckets.take(1, (rate, generation), now, Duration::ZERO);
    assert_eq!(of(&fast, 2, 0), Taken::Granted { left: 899, wait: Duration::ZERO }, "100 are used");
    let small = Rate::new(1.0, 10);
    assert_eq!(of(&small, 3, 0), Taken::Refused { after: Duration::from_secs(1) }, "101 are");
    assert!(is_granted(of(&small, 3, SECOND)), "and no more than the bucket holds");
    // A request that began with an older configuration changes nothing for the others.
    assert!(!is_granted(of(&small, 2, SECOND)));
}

/// A token is worth what it is worth when it comes back.
#[test]
fn a_token_that_comes_back_after_another_rate_is_one_token() {
    let (slow, fast) = (Rate::new(1.0, 10), Rate::new(1000.0, 10));
    let buckets = Buckets::new(1, slow);
    (0..10).for_each(|_| assert!(is_granted(take(&buckets, 1, &slow, 0))));
    let of = |generation| buckets.take(1, (&fast, generation), 0, Duration::ZERO);
    assert!(!is_granted(of(2)));
    buckets.give_back(1, 0);
    assert!(is_granted(of(2)) && !is_granted(of(2)), "one, and not a thousand");
}

#[test]
fn another_size_keeps_what_was_taken() {
    let rate = Rate::new(1.0, 1);
    let buckets = Buckets::new(100, rate);
    let key = |n: u64| (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (0..100).for_each(|n| assert!(is_granted(take(&buckets, key(n), &rate, 0))));
    for size in [10, 1000] {
        let other = buckets.resized(size, 0);
        assert!((0..100).all(|n| !is_granted(take(&other, key(n), &rate, 0))), "{size}");
    }
    assert_eq!((buckets.active(0), buckets.active(SECOND)), (100, 0));
}

/// Who found no place and gets one later has taken what it took; who has a place is not touched by who has none.
#[test]
fn what_was_taken_without_a_place_comes_along() {
    let rate = Rate::new(1.0, 2);
    let buckets = Buckets::new(2, rate);
    let key = |n: u64| (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let granted = |n: u64, now| is_granted(take(&buckets, key(n), &rate, now));
    (0..4).for_each(|n| assert!(granted(n, 0), "four places, {n}"));
    assert!(granted(4, 0) && granted(4, 0) && !granted(4, 0), "a bucket that it shares");
    assert_eq!(buckets.shared(), 3);
    assert!((0..4).all(|n| granted(n, 0)), "each has had its second");
    // Half of what they took has come back to all, and so nobody's bucket is full.
    assert!(granted(4, SECOND) && !granted(4, SECOND));
    assert_eq!(buckets.active(2 * SECOND), 0);
    assert!(granted(4, 2 * SECOND) && !granted(4, 2 * SECOND), "a place of its own, and one token in it");
    assert_eq!(buckets.shared(), 5);
}

/// As many as there are, and not one more, whoever asks at the same time.
#[test]
fn exact_over_all_threads() {
    let rate = Rate::new(1.0, 10_000);
    let buckets = Buckets::new(1000, rate);
    let keys = 16u64;
    let granted: u64 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let granted = (0..64_000u64).filter(|n| {
                        let key = (n % keys + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                        is_granted(take(&buckets, key, &rate, 0))
                    });
                    granted.count() as u64
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    // 256,000 tries at 160,000 tokens.
    assert_eq!(granted, keys * 10_000);
}

#[test]
fn half_a_million_keys_are_found_again_in_little_memory() {
    let rate = Rate::new(0.001, 2);
    let buckets = Buckets::new(500_000, rate);
    let hash = |n: u64| {
        // SplitMix64.
        let mut z = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    for left in [1, 0] {
        let granted = Taken::Granted { left, wait: Duration::ZERO };
        assert!((0..500_000).all(|n| take(&buckets, hash(n), &rate, 0) == granted), "each has its own");
    }
    assert_eq!((buckets.shared(), buckets.active(0)), (0, 500_000));
    assert!(buckets.bytes() / 500_000 < 64, "{} bytes a key", buckets.bytes() / 500_000);
}

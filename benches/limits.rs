//! A decision of a rate limit with half a million keys, and what a key costs.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use outrigger::policy::bucket::{Buckets, Rate};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const KEYS: u32 = 500_000;

fn decisions(c: &mut Criterion) {
    let mut group = c.benchmark_group("limits");
    let rate = Rate::new(1.0, 1000);
    let take = |buckets: &Buckets, key: u64, now: u64| buckets.take(key, (&rate, 1), now, Duration::ZERO);
    for keys in [1, 1000, KEYS] {
        let buckets = Buckets::new(keys, rate);
        let mut rng = SmallRng::seed_from_u64(1);
        let known: Vec<u64> = (0..keys).map(|_| rng.random()).collect();
        for key in &known {
            take(&buckets, *key, 0);
        }
        println!("{keys} keys: {} bytes each", buckets.bytes() / known.len());
        let mut now = 0;
        group.bench_function(format!("one of {keys} keys"), |b| {
            b.iter(|| {
                now += 1000;
                let key = known[rng.random_range(0..known.len())];
                black_box(take(&buckets, black_box(key), now))
            });
        });
    }
    // Every bucket is taken and none is full: the dearest way.
    let buckets = Buckets::new(KEYS, rate);
    let mut rng = SmallRng::seed_from_u64(1);
    for _ in 0..4 * KEYS {
        take(&buckets, rng.random(), 0);
    }
    group.bench_function("a flood of new keys, the table full", |b| {
        b.iter(|| black_box(take(&buckets, rng.random(), 0)));
    });
}

criterion_group!(benches, decisions);
criterion_main!(benches);

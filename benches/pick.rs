//! Picking one of 10, 1,000 and 10,000 endpoints by each policy, and what it costs to take in a list in which one endpoint
//! is new.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use outrigger::config::schema::LbPolicy;
use outrigger::policy::balance::{Live, Member, Set, Settings};
use outrigger::policy::hash::{hash, mix};
use rand::SeedableRng;
use rand::rngs::SmallRng;

const SIZES: [u32; 3] = [10, 1_000, 10_000];
const POLICIES: [LbPolicy; 6] = [
    LbPolicy::RoundRobin,
    LbPolicy::Random,
    LbPolicy::LeastRequest,
    LbPolicy::PeakEwma,
    LbPolicy::RingHash,
    LbPolicy::Maglev,
];

/// Idle endpoints, of which every tenth is unavailable.
struct Idle;

impl Live for Idle {
    fn is_available(&self, slot: u32) -> bool {
        !slot.is_multiple_of(10)
    }

    fn was_tried(&self, _: u32) -> bool {
        false
    }

    fn in_flight(&self, slot: u32) -> u64 {
        u64::from(slot % 3)
    }

    fn latency(&self, slot: u32) -> f64 {
        f64::from(slot % 7) * 0.001
    }

    fn warmth(&self, _: u32) -> f64 {
        1.0
    }
}

fn members(count: u32) -> Vec<Member> {
    let member = |slot: u32| Member {
        slot,
        id: hash(format!("10.0.{}.{}:80", slot / 256, slot % 256).bytes()),
        weight: 1 + slot % 2,
        priority: 0,
        zone: None,
        region: None,
    };
    (0..count).map(member).collect()
}

fn pick(c: &mut Criterion) {
    for policy in POLICIES {
        let mut group = c.benchmark_group(format!("pick/{policy:?}"));
        let settings = Settings { policy, ..Settings::default() };
        for size in SIZES {
            let mut set = Set::default();
            set.sync(members(size), &settings);
            set.refresh(&settings, &Idle);
            let (mut rng, mut n) = (SmallRng::seed_from_u64(1), 0_u64);
            group.bench_function(BenchmarkId::from_parameter(size), |b| {
                b.iter(|| {
                    n += 1;
                    set.pick(&settings, Some(mix(n)), false, black_box(&Idle), &mut rng)
                });
            });
        }
        group.finish();
    }
}

/// The same list without and with the last one, in turn.
fn update(c: &mut Criterion) {
    for policy in [LbPolicy::LeastRequest, LbPolicy::RingHash, LbPolicy::Maglev] {
        let mut group = c.benchmark_group(format!("one more/{policy:?}"));
        group.sample_size(20).warm_up_time(Duration::from_millis(200));
        let settings = Settings { policy, ..Settings::default() };
        for size in SIZES {
            let (all, mut set, mut whole) = (members(size), Set::default(), false);
            set.sync(all.clone(), &settings);
            group.bench_function(BenchmarkId::from_parameter(size), |b| {
                b.iter(|| {
                    let count = if whole { all.len() } else { all.len() - 1 };
                    whole = !whole;
                    set.sync(all.get(..count).unwrap_or_default().to_vec(), &settings);
                    set.refresh(&settings, &Idle);
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, pick, update);
criterion_main!(benches);

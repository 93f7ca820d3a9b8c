use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;

#[test]
fn one_goes_on_where_it_stood() {
    let (plan, now) = (plan(), Instant::now());
    let mut canary = Canary::new(now);
    assert_eq!(canary.stands(), Stood::default());
    canary.obey(Order::Step, &plan, &Counts::default(), now).unwrap();
    let resumed = |stood: &Stood| Canary::resumed(stood, &plan, now);
    assert_eq!(resumed(&canary.stands()).share(&plan), 15.0);
    canary.obey(Order::Promote, &plan, &Counts::default(), now).unwrap();
    assert_eq!((resumed(&canary.stands()).share(&plan), resumed(&canary.stands()).phase), (100.0, Phase::Done));
    canary.obey(Order::Abort, &plan, &Counts::default(), now).unwrap();
    let stood = canary.stands();
    assert_eq!((resumed(&stood).share(&plan), resumed(&stood).stands()), (0.0, stood));
    // Whatever lies on the disk.
    let beyond = Stood { step: 99, ..Stood::default() };
    assert_eq!(resumed(&beyond).share(&plan), 100.0);
}

const EVERY: Duration = Duration::from_secs(600);

fn plan() -> Plan {
    let bounds = Bounds { errors: 2.0, p99: 15.0 };
    Plan { steps: vec![5.0, 15.0, 30.0, 60.0, 100.0], every: EVERY, bounds, min_requests: 100 }
}

/// A service whose two sides fail with these chances; requests go where the canary says.
struct World {
    canary: Canary,
    counts: Counts,
    now: Instant,
    rng: SmallRng,
}

impl World {
    fn new(seed: u64) -> Self {
        let now = Instant::now();
        Self { canary: Canary::new(now), counts: Counts::default(), now, rng: SmallRng::seed_from_u64(seed) }
    }

    /// One second with this many requests.
    fn second(&mut self, requests: u32, (side, others): (f64, f64)) -> Option<Transition> {
        let plan = plan();
        for _ in 0..requests {
            let on_side = self.rng.random::<f64>() * 100.0 < self.canary.share(&plan);
            let (seen, chance) =
                if on_side { (&mut self.counts.side, side) } else { (&mut self.counts.others, others) };
            seen.requests += 1;
            seen.errors += u64::from(self.rng.random::<f64>() < chance);
            seen.durations[3] += 1;
            seen.nanos += 3_000_000;
        }
        self.now += Duration::from_secs(1);
        self.canary.tick(&plan, &self.counts, 1, self.now)
    }

    fn seconds(&mut self, seconds: u32, requests: u32, chances: (f64, f64)) -> Vec<Transition> {
        (0..seconds).filter_map(|_| self.second(requests, chances)).collect()
    }
}

#[test]
fn a_good_side_goes_all_the_way() {
    let mut world = World::new(3);
    let transitions = world.seconds(5 * 600 + 10, 40, (0.01, 0.01));
    assert_eq!(transitions, [Transition::Step, Transition::Step, Transition::Step, Transition::Step, Transition::Done]);
    assert_eq!((world.canary.share(&plan()), &world.canary.phase), (100.0, &Phase::Done));
    assert_eq!(world.second(1000, (1.0, 0.0)), None, "what is done is done");
}

#[test]
fn a_bad_side_is_aborted_at_once_and_stays_so() {
    let mut world = World::new(4);
    let begun = world.now;
    while world.canary.phase == Phase::Running {
        world.second(100, (0.3, 0.001));
        assert!(world.now - begun < Duration::from_secs(120), "{:?}", world.canary);
    }
    assert!(matches!(world.canary.phase, Phase::Aborted(Why::Worse(Regression::Errors(_)))), "{:?}", world.canary);
    assert_eq!(world.canary.share(&plan()), 0.0);
    assert_eq!(world.seconds(2000, 50, (0.0, 0.0)), []);
    for order in [Order::Step, Order::Promote, Order::Abort] {
        assert!(world.canary.obey(order, &plan(), &world.counts, world.now).is_err());
    }
}

#[test]
fn what_goes_wrong_late_is_seen_in_its_step() {
    let mut world = World::new(5);
    assert_eq!(world.seconds(600 * 4 + 50, 200, (0.0, 0.0)).len(), 4, "at the top");
    assert_eq!(world.canary.share(&plan()), 100.0);
    let transitions = world.seconds(60, 200, (0.2, 0.0));
    assert_eq!(transitions, [Transition::Aborted], "though nobody else has traffic now");
}

#[test]
fn too_few_requests_move_nothing() {
    let mut world = World::new(6);
    assert_eq!(world.seconds(3000, 0, (0.0, 0.0)), []);
    assert_eq!(world.canary.waits(&plan(), &world.counts, world.now), Some(Waits::ForRequests));
    // A few failures of few requests are nothing, either.
    world.counts.side.requests += 60;
    world.counts.side.errors += 60;
    world.counts.others.requests += 1000;
    assert_eq!(world.second(0, (0.0, 0.0)), None);
}

#[test]
fn a_series_that_is_forgotten_hides_nothing_else() {
    let mut world = World::new(8);
    world.seconds(300, 40, (0.01, 0.01));
    let before = world.canary.in_all(&world.counts);
    world.counts.others = Observed::default();
    assert_eq!(world.canary.in_all(&world.counts), before);
    assert_eq!(world.seconds(400, 40, (0.01, 0.01)), [Transition::Step]);
    world.counts.others = Observed::default();
    assert_eq!(world.seconds(300, 40, (0.5, 0.01)), [Transition::Aborted]);
}

#[test]
fn it_says_that_there_is_nothing_to_compare_with() {
    let mut world = World::new(9);
    world.second(0, (0.0, 0.0));
    world.counts.side.requests += 100;
    let waits = |world: &World| world.canary.waits(&plan(), &world.counts, world.now);
    assert_eq!(waits(&world), Some(Waits::ForOthers));
    world.counts.others.requests += 1;
    assert_eq!(waits(&world), Some(Waits::ForTime));
}

#[test]
fn operators_decide() {
    let (mut world, plan) = (World::new(7), plan());
    world.second(10, (0.0, 0.0));
    let (counts, now) = (world.counts, world.now);
    let canary = &mut world.canary;
    assert_eq!(canary.obey(Order::Step, &plan, &counts, now), Ok(Transition::Step));
    assert_eq!(canary.share(&plan), 15.0);
    assert_eq!(canary.obey(Order::Promote, &plan, &counts, now), Ok(Transition::Promoted));
    assert_eq!((canary.share(&plan), canary.phase.name()), (100.0, "done"));
    assert!(canary.obey(Order::Promote, &plan, &counts, now).is_err());
    assert!(canary.obey(Order::Step, &plan, &counts, now).is_err());
    assert_eq!(canary.obey(Order::Abort, &plan, &counts, now), Ok(Transition::Aborted));
    assert_eq!((canary.share(&plan), canary.phase.name()), (0.0, "aborted"));
}

/// 200 canaries whose sides are the same as the others, each judged every second for its whole run.
#[test]
fn what_is_no_worse_is_hardly_ever_aborted() {
    let aborted = (0..40).filter(|seed| {
        let mut world = World::new(100 + seed);
        world.seconds(600 * 5, 20, (0.02, 0.02)).contains(&Transition::Aborted)
    });
    assert_eq!(aborted.count(), 0);
}

proptest! {
    #[test]
    fn raising_the_share_moves_nobody_off_the_side(
        weights in proptest::collection::vec(1u32..1000, 2..6), of in 0usize..6, low in 0.0..100.0f64, more in 0.0..100.0f64,
    ) {
        let of = of % weights.len();
        let weights: Vec<f64> = weights.into_iter().map(f64::from).collect();
        let (before, after) = (edges(&weights, of, low), edges(&weights, of, (low + more).min(100.0)));
        prop_assert_eq!(before.last(), Some(&split::BUCKETS));
        let mut share = 0;
        for bucket in 0..split::BUCKETS {
            let is = split::side(&before, bucket) == of;
            share += u32::from(is);
            if is {
                prop_assert_eq!(split::side(&after, bucket), of);
            }
        }
        prop_assert!((f64::from(share) / 100.0 - low).abs() <= 0.011, "{} at {}", share, low);
    }

    /// Whatever series are forgotten, only what came since the last look is lost.
    #[test]
    fn no_more_is_lost_than_came_since_the_last_look(
        looks in proptest::collection::vec((0usize..3, 0u64..100, proptest::option::of(0usize..3)), 1..60),
        step in 0usize..60,
    ) {
        let (mut world, mut series) = (World::new(1), [1000u64, 10, 0]);
        let (mut least, mut most, mut before) = (0, 0, 0);
        for (index, (on, more, forgotten)) in [(0, 0, None)].into_iter().chain(looks).enumerate() {
            series[on] += more;
            most += more;
            match forgotten {
                Some(which) => series[which] = 0,
                None => least += more,
            }
            world.counts.others.requests = series.iter().sum();
            world.second(0, (0.0, 0.0));
            if index == step {
                let _ = world.canary.obey(Order::Step, &plan(), &world.counts, world.now);
                before = world.canary.in_all(&world.counts).others.requests;
            }
            let all = world.canary.in_all(&world.counts).others.requests;
            prop_assert!((least..=most).contains(&all), "{} of {} to {}", all, least, most);
            prop_assert_eq!(world.canary.on_step(&world.counts).others.requests, all - before);
        }
    }

    /// Against a plain reference: which phases may follow, and what the share is in each.
    #[test]
    fn it_is_never_anywhere_else(orders in proptest::collection::vec((0u8..5, 0u32..300), 0..40)) {
        let (mut world, plan) = (World::new(1), plan());
        let mut dead = false;
        for (what, requests) in orders {
            let (counts, now) = (world.counts, world.now);
            let before = world.canary.share(&plan);
            match what {
                0 => drop(world.canary.obey(Order::Step, &plan, &counts, now)),
                1 if requests < 20 => drop(world.canary.obey(Order::Promote, &plan, &counts, now)),
                2 if requests < 20 => drop(world.canary.obey(Order::Abort, &plan, &counts, now)),
                3 => world.now += EVERY,
                _ => drop(world.second(requests, (0.0, 0.0))),
            }
            let share = world.canary.share(&plan);
            prop_assert!(share == 0.0 || plan.steps.contains(&share), "{}", share);
            prop_assert!(share >= before || share == 0.0, "only an abort takes traffic away");
            prop_assert!(!dead || share == 0.0);
            dead |= matches!(world.canary.phase, Phase::Aborted(_));
            prop_assert_eq!(dead, share == 0.0);
        }
    }
}

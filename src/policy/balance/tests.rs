use std::collections::BTreeMap;

use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::draw::Draw;
use super::maglev::Table;
use super::ring::Ring;
use super::shares::{self, Weight};
use super::*;
use crate::policy::hash::{hash, mix};

/// What a test says of endpoints, by slot; what it does not say is fine and idle.
#[derive(Debug, Clone, Default)]
struct Said {
    unavailable: Vec<u32>,
    tried: Vec<u32>,
    in_flight: BTreeMap<u32, u64>,
    latency: BTreeMap<u32, f64>,
    warmth: BTreeMap<u32, f64>,
}

impl Live for Said {
    fn is_available(&self, slot: u32) -> bool {
        !self.unavailable.contains(&slot)
    }

    fn was_tried(&self, slot: u32) -> bool {
        self.tried.contains(&slot)
    }

    fn in_flight(&self, slot: u32) -> u64 {
        self.in_flight.get(&slot).copied().unwrap_or(0)
    }

    fn latency(&self, slot: u32) -> f64 {
        self.latency.get(&slot).copied().unwrap_or(0.0)
    }

    fn warmth(&self, slot: u32) -> f64 {
        self.warmth.get(&slot).copied().unwrap_or(1.0)
    }
}

fn member(slot: u32, weight: u32) -> Member {
    let id = hash(format!("10.0.{}.{}:80", slot / 256, slot % 256).bytes());
    Member { slot, id, weight, priority: 0, zone: None, region: None }
}

fn members(weights: &[u32]) -> Vec<Member> {
    (0..).zip(weights).map(|(slot, weight)| member(slot, *weight)).collect()
}

fn settings(policy: LbPolicy) -> Settings {
    Settings { policy, ..Settings::default() }
}

fn set(members: Vec<Member>, settings: &Settings, live: &Said) -> Set {
    let mut set = Set::default();
    set.sync(members, settings);
    set.refresh(settings, live);
    set
}

/// How often each slot is picked.
fn counts(set: &Set, settings: &Settings, live: &Said, keyed: bool, picks: u64) -> BTreeMap<u32, u64> {
    let mut rng = SmallRng::seed_from_u64(7);
    let mut counts = BTreeMap::new();
    for n in 0..picks {
        let picked = set.pick(settings, keyed.then(|| mix(n + 1)), false, live, &mut rng).unwrap();
        *counts.entry(picked.slot).or_default() += 1;
    }
    counts
}

fn share(counts: &BTreeMap<u32, u64>, slot: u32) -> f64 {
    counts.get(&slot).copied().unwrap_or(0) as f64 / counts.values().sum::<u64>() as f64
}

#[test]
fn a_round_is_exact() {
    let round = |weights: &[u32], turns: u64| {
        let draw = Draw::new(weights);
        let mut counts = vec![0; weights.len()];
        (0..turns).for_each(|turn| counts[draw.in_turn(turn)] += 1);
        counts
    };
    assert_eq!(round(&[1, 1, 1], 9), [3, 3, 3]);
    assert_eq!(round(&[7, 7], 8), [4, 4]);
    assert_eq!(round(&[1, 2, 5], 80), [10, 20, 50]);
    assert_eq!(round(&[300, 100], 400), [300, 100]);
}

#[test]
fn idle_endpoints_are_picked_by_weight() {
    use LbPolicy::*;
    for (policy, slack) in [(RoundRobin, 0.01), (Random, 0.02), (LeastRequest, 0.02), (PeakEwma, 0.02), (Maglev, 0.02)]
    {
        let settings = settings(policy);
        let live = Said { latency: [(0, 0.01), (1, 0.01)].into(), ..Said::default() };
        let set = set(members(&[3, 1]), &settings, &live);
        let counts = counts(&set, &settings, &live, policy.hashes(), 20_000);
        assert!((share(&counts, 0) - 0.75).abs() < slack, "{policy:?}: {counts:?}");
    }
}

#[test]
fn the_less_loaded_of_two_gets_more() {
    let settings = settings(LbPolicy::LeastRequest);
    let live = Said { in_flight: [(0, 9), (1, 1), (2, 1)].into(), ..Said::default() };
    let set = set(members(&[1, 1, 1]), &settings, &live);
    let found = counts(&set, &settings, &live, false, 9_000);
    assert_eq!(found.get(&0), None, "never, for it is always the more loaded of two");
    assert!((share(&found, 1) - 0.5).abs() < 0.03, "{found:?}");
    // In proportion to weight, 9 of 10 is less than 1 of 1.
    let set = self::set(members(&[10, 1]), &settings, &live);
    assert_eq!(counts(&set, &settings, &live, false, 1_000).get(&1), None);
}

#[test]
fn who_answers_late_gets_little() {
    let settings = settings(LbPolicy::PeakEwma);
    let live = Said { latency: [(0, 0.2), (1, 0.01), (2, 0.01), (3, 0.01)].into(), ..Said::default() };
    let set = set(members(&[1; 4]), &settings, &live);
    let found = counts(&set, &settings, &live, false, 8_000);
    assert_eq!(found.get(&0), None, "{found:?}");
    // Unless the others have long queues.
    let busy = Said { in_flight: [(1, 40), (2, 40), (3, 40)].into(), ..live };
    assert!((share(&counts(&set, &settings, &busy, false, 8_000), 0) - 0.5).abs() < 0.03);
}

#[test]
fn who_is_new_begins_with_little() {
    use LbPolicy::*;
    for policy in [RoundRobin, Random, LeastRequest] {
        let settings = Settings { slow_start: Duration::from_secs(10), ..settings(policy) };
        for (warmth, expected) in [(0.1, 0.1 / 3.1), (0.5, 0.5 / 3.5), (1.0, 0.25)] {
            let live = Said { warmth: [(3, warmth)].into(), ..Said::default() };
            let set = set(members(&[1; 4]), &settings, &live);
            let found = counts(&set, &settings, &live, false, 20_000);
            // Of two different ones that are drawn the first is taken, so that its share is that of one draw.
            assert!((share(&found, 3) - expected).abs() < 0.02, "{policy:?} {warmth}: {found:?}");
            for other in 0..3 {
                let even = (1.0 - expected) / 3.0;
                assert!((share(&found, other) - even).abs() < 0.02, "{policy:?} {warmth}: {found:?}");
            }
        }
    }
    // Several that are new, next to each other: what they leave is for the old ones alike.
    let settings = Settings { slow_start: Duration::from_secs(10), ..settings(RoundRobin) };
    let live = Said { warmth: [(3, 0.1), (4, 0.1), (5, 0.1)].into(), ..Said::default() };
    let found = counts(&set(members(&[1; 6]), &settings, &live), &settings, &live, false, 6_000);
    for old in 0..3 {
        assert!((share(&found, old) - 1.0 / 3.3).abs() < 0.02, "{found:?}");
    }
    assert_eq!(warmth(Duration::ZERO, Duration::from_secs(10)), 0.1);
    assert_eq!(warmth(Duration::from_secs(5), Duration::from_secs(10)), 0.5);
    assert_eq!(warmth(Duration::from_secs(10), Duration::from_secs(10)), 1.0);
    assert_eq!(warmth(Duration::ZERO, Duration::ZERO), 1.0);
}

/// Where each of so many keys belongs.
fn owners(of: impl Fn(u64) -> u32) -> Vec<u32> {
    (0..20_000).map(|key| of(mix(key + 1))).collect()
}

fn on_ring(members: &[Member]) -> Vec<u32> {
    let mut ring = Ring::default();
    ring.sync(members);
    owners(|key| ring.from(key).next().unwrap())
}

#[test]
fn a_ring_is_even_and_moves_little() {
    let all = members(&[1; 50]);
    let before = on_ring(&all);
    let count = |owners: &[u32], slot| owners.iter().filter(|owner| **owner == slot).count();
    let most = (0..50).map(|slot| count(&before, slot)).max().unwrap();
    // A mean of 400; 100 points vary by a tenth, the keys by a twentieth: four deviations and a half.
    assert!(most < 600, "{most}");
    let after = on_ring(&all[..49]);
    for (before, after) in before.iter().zip(&after) {
        assert!(before == after || *before == 49, "only keys of the one that went have moved");
    }
    let weighted = on_ring(&members(&[3, 1, 1, 1]));
    assert!((0.4..0.6).contains(&(count(&weighted, 0) as f64 / 20_000.0)));
}

/// Weight, priority, place, unavailable, tried, in flight.
type Slot = (u32, u32, usize, bool, bool, u64);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever was there before, the same members make the same ring.
    #[test]
    fn a_ring_has_no_history(steps in prop::collection::vec(prop::collection::btree_map(0_u32..12, 1_u32..9, 1..10), 1..6)) {
        let mut ring = Ring::default();
        for step in &steps {
            let members: Vec<Member> = step.iter().map(|(slot, weight)| member(*slot, *weight)).collect();
            ring.sync(&members);
            let mut fresh = Ring::default();
            fresh.sync(&members);
            prop_assert!(ring.from(0).eq(fresh.from(0)));
        }
    }

    /// A pick against what may be picked at all.
    #[test]
    fn a_pick_is_allowed(
        policy in prop::sample::select(vec![
            LbPolicy::RoundRobin, LbPolicy::Random, LbPolicy::LeastRequest, LbPolicy::PeakEwma,
            LbPolicy::RingHash, LbPolicy::Maglev, LbPolicy::GeoHashedRing,
        ]),
        list in prop::collection::vec((1_u32..5, 0_u32..3, 0_usize..3, any::<bool>(), any::<bool>(), 0_u64..9), 1..12),
        zone in prop::option::of(prop::sample::select(vec![ZoneMode::Prefer, ZoneMode::Strict])),
        regions in prop::option::of(Just(vec!["b"])),
        threshold in prop::sample::select(vec![0_u32, 50, 100]),
        max_load in prop::option::of(Just(25_u32)),
        (key, stale, seed) in (prop::option::of(any::<u64>()), any::<bool>(), any::<u64>()),
    ) {
        let settings = Settings {
            policy,
            max_load,
            table_size: 251,
            zone: zone.map(|mode| (mode, "a".into())),
            region: "a".into(),
            regions: regions.map(|names| names.into_iter().map(Box::from).collect()),
            slow_start: Duration::ZERO,
            panic_threshold: threshold,
        };
        let place = |index: usize| [Some(Arc::from("a")), Some(Arc::from("b")), None][index].clone();
        let members: Vec<Member> = (0..).zip(&list).map(|(slot, (weight, priority, at, ..))| Member {
            priority: *priority,
            zone: place(*at),
            region: place(*at),
            ..member(slot, *weight)
        }).collect();
        let flagged = |flag: fn(&Slot) -> bool| -> Vec<u32> {
            (0..).zip(&list).filter(|(_, one)| flag(one)).map(|(slot, _)| slot).collect()
        };
        let live = Said {
            unavailable: flagged(|one| one.3),
            tried: flagged(|one| one.4),
            in_flight: (0..).zip(&list).map(|(slot, one)| (slot, one.5)).collect(),
            ..Said::default()
        };
        let before = if stale { Said { unavailable: Vec::new(), ..live.clone() } } else { live.clone() };
        let set = set(members.clone(), &settings, &before);
        let picked = set.pick(&settings, key, true, &live, &mut SmallRng::seed_from_u64(seed));

        // The same, in plain words.
        let may = |member: &&Member| match policy {
            LbPolicy::GeoHashedRing => match (member.region.as_deref(), &settings.regions) {
                (Some("a"), _) | (_, None) => true,
                (region, Some(listed)) => listed.iter().any(|one| Some(&**one) == region),
            },
            _ => zone != Some(ZoneMode::Strict) || member.zone.as_deref() == Some("a"),
        };
        let used: Vec<&Member> = members.iter().filter(may).collect();
        let group = |member: &Member| match policy {
            LbPolicy::GeoHashedRing => (member.priority, member.region.clone()),
            _ => (member.priority, zone.and(member.zone.clone()).filter(|zone| **zone == *"a")),
        };
        let missing = |member: &Member| {
            let together = || used.iter().filter(|one| group(one) == group(member));
            let all: u32 = together().map(|one| one.weight).sum();
            let gone: u32 = together().filter(|one| !before.is_available(one.slot)).map(|one| one.weight).sum();
            gone > 0 && gone * 100 > threshold * all
        };
        let panic = !used.is_empty() && used.iter().all(|one| missing(one));
        prop_assert_eq!(set.panics(), panic);
        let usable: Vec<u32> = used.iter().map(|one| one.slot).filter(|slot| panic || live.is_available(*slot)).collect();
        match picked {
            None => prop_assert!(usable.is_empty(), "there was one of {:?}", usable),
            Some(Picked { slot, why }) => {
                prop_assert!(usable.contains(&slot), "{} is not one of {:?}", slot, usable);
                let fresh = usable.iter().any(|slot| !live.was_tried(*slot));
                prop_assert_eq!((why.again, live.was_tried(slot)), (!fresh, !fresh));
                prop_assert_eq!(why.panic, panic);
            }
        }
    }
}

#[test]
fn a_table_is_even_and_moves_little() {
    let on_table = |members: &[Member]| {
        let table = Table::new(members, TABLE_SIZE);
        owners(|key| table.from(key).next().unwrap())
    };
    let all = members(&[1; 50]);
    let before = on_table(&all);
    let after = on_table(&all[..49]);
    let moved = before.iter().zip(&after).filter(|(before, after)| before != after && **before != 49).count();
    assert!(moved < 20_000 / 20, "{moved} keys moved that need not have");
    let table = Table::new(&members(&[3, 1, 1, 1]), 6151);
    let mut places = BTreeMap::<u32, usize>::new();
    table.from(0).for_each(|slot| *places.entry(slot).or_default() += 1);
    assert_eq!(places.values().sum::<usize>(), 6151);
    for (slot, expected) in [(0, 6151 / 2), (1, 6151 / 6), (2, 6151 / 6), (3, 6151 / 6)] {
        assert!(places[&slot].abs_diff(expected) <= 2, "{places:?}");
    }
    assert!(Table::new(&[], 251).from(7).next().is_none());
}

#[test]
fn nobody_has_much_more_than_the_mean() {
    for policy in [LbPolicy::RingHash, LbPolicy::Maglev] {
        let settings = Settings { max_load: Some(25), table_size: 1009, ..settings(policy) };
        let (mut live, mut moved_on) = (Said::default(), 0);
        let set = set(members(&[1; 10]), &settings, &live);
        let mut rng = SmallRng::seed_from_u64(3);
        // Half of all requests have one key.
        for n in 0..1000_u64 {
            let key = if n % 2 == 0 { 42 } else { mix(n) };
            let picked = set.pick(&settings, Some(key), false, &live, &mut rng).unwrap();
            moved_on += usize::from(key == 42 && picked.why.how == How::KeyOverload);
            *live.in_flight.entry(picked.slot).or_default() += 1;
            let most = live.in_flight.values().max().unwrap();
            // Within a sixteenth of a request, rounded up.
            let bound = (1.25 * (n + 2) as f64 / 10.0).ceil() as u64;
            assert!(*most <= bound, "{policy:?}: {most} of {bound} after {n}");
        }
        let idle = Said::default();
        let own = set.pick(&settings, Some(42), false, &idle, &mut rng).unwrap();
        assert_eq!(own.why.how, How::Key);
        assert!((300..500).contains(&moved_on), "{policy:?}: of 500, an eighth may stay: {moved_on}");
        let without = Settings { max_load: None, ..settings };
        let gone = Said { unavailable: vec![own.slot], ..Said::default() };
        let next = set.pick(&without, Some(42), false, &gone, &mut rng).unwrap();
        assert_eq!((next.why.how, next.slot == own.slot), (How::KeyNext, false));
        assert_eq!(set.pick(&without, None, false, &idle, &mut rng).unwrap().why.how, How::NoKey);
    }
}

#[test]
fn tiers_take_over_in_proportion() {
    let tiers = |list: &[(u64, u64)]| {
        let weights: Vec<Weight> =
            list.iter().map(|(all, available)| Weight { all: *all, available: *available }).collect();
        shares::tiers(&weights).iter().map(|share| (share * 100.0).round() as u32).collect::<Vec<_>>()
    };
    // The table that Envoy documents for two priorities and an overprovisioning factor of 1.4.
    let table = [((100, 100), [100, 0]), ((72, 72), [100, 0]), ((71, 71), [99, 1]), ((50, 50), [70, 30])];
    for ((available, second), expected) in table {
        assert_eq!(tiers(&[(100, available), (100, second)]), expected, "{available}");
    }
    assert_eq!(tiers(&[(100, 25), (100, 100)]), [35, 65]);
    assert_eq!(tiers(&[(100, 25), (100, 25)]), [50, 50]);
    assert_eq!(tiers(&[(100, 0), (100, 100)]), [0, 100]);
    assert_eq!(tiers(&[(100, 20), (100, 20), (100, 10)]), [40, 40, 20]);
    assert_eq!(tiers(&[(100, 0), (100, 0)]), [0, 0]);
}

#[test]
fn panic_is_when_every_group_is_mostly_gone() {
    let panics = |list: &[(u64, u64)], threshold| {
        let weights: Vec<Weight> =
            list.iter().map(|(all, available)| Weight { all: *all, available: *available }).collect();
        shares::panics(&weights, threshold)
    };
    assert!(!panics(&[(4, 2)], 50) && panics(&[(4, 1)], 50) && panics(&[(1, 0)], 50));
    assert!(!panics(&[(3, 0), (3, 3)], 50), "the second is whole");
    assert!(panics(&[(3, 1), (3, 0)], 50));
    assert!(panics(&[(4, 3)], 0) && !panics(&[(4, 4)], 0), "0: as soon as one is missing");
    assert!(!panics(&[(4, 0)], 100) && !panics(&[], 50), "100: never");
}

#[test]
fn a_zone_keeps_what_it_can_take() {
    let own = |own: (u64, u64), others: (u64, u64), zones| {
        let weight = |(all, available)| Weight { all, available };
        (shares::own_zone(weight(own), weight(others), zones) * 100.0).round() as u32
    };
    assert_eq!(own((10, 10), (20, 20), 3), 100);
    assert_eq!(own((10, 8), (20, 20), 3), 100, "with room for 1.4 times its share");
    assert_eq!(own((10, 5), (20, 20), 3), 70);
    assert_eq!((own((10, 0), (20, 20), 3), own((10, 1), (20, 0), 3)), (0, 100));
    assert_eq!(own((1, 1), (9, 9), 2), 28, "a small zone has not room for half of all");
}

#[test]
fn zones_and_regions_lead_where_they_should() {
    let at = |slot, place: &str| Member { zone: Some(place.into()), region: Some(place.into()), ..member(slot, 1) };
    let list = vec![at(0, "a"), at(1, "a"), at(2, "b"), at(3, "b"), at(4, "c")];
    let tally = |settings: &Settings, live: &Said| {
        let set = set(list.clone(), settings, live);
        counts(&set, settings, live, true, 4_000)
    };
    let fine = Said::default();
    let zone = |mode| Settings { zone: Some((mode, "a".into())), ..settings(LbPolicy::Random) };
    let slots = |counts: &BTreeMap<u32, u64>| counts.keys().copied().collect::<Vec<_>>();
    assert_eq!(slots(&tally(&zone(ZoneMode::Prefer), &fine)), [0, 1]);
    let one = Said { unavailable: vec![0], ..Said::default() };
    let found = tally(&zone(ZoneMode::Prefer), &one);
    assert!((share(&found, 1) - 0.84).abs() < 0.04, "1.4 of the 5/3 that a zone needs: {found:?}");
    assert_eq!(slots(&tally(&zone(ZoneMode::Strict), &one)), [1]);

    let geo = |regions: Option<&[&str]>| Settings {
        region: "a".into(),
        regions: regions.map(|names| names.iter().map(|name| Box::from(*name)).collect()),
        panic_threshold: 100,
        ..settings(LbPolicy::GeoHashedRing)
    };
    assert_eq!(slots(&tally(&geo(None), &one)), [1], "all of it stays where one is left");
    let none = Said { unavailable: vec![0, 1], ..Said::default() };
    assert_eq!(slots(&tally(&geo(None), &none)), [2, 3], "by name");
    assert_eq!(slots(&tally(&geo(Some(&["c", "b"])), &none)), [4]);
    let set = set(list.clone(), &geo(Some(&[])), &none);
    assert!(set.pick(&geo(Some(&[])), Some(1), false, &none, &mut SmallRng::seed_from_u64(1)).is_none());
}

/// More than half of all is gone in each of these, with a threshold of half.
#[test]
fn a_zone_or_region_that_is_gone_leads_to_the_next_and_not_to_panic() {
    let at = |slot, place: &str| Member { zone: Some(place.into()), region: Some(place.into()), ..member(slot, 1) };
    let list: Vec<Member> = (0..5).map(|slot| at(slot, if slot < 3 { "a" } else { "b" })).collect();
    let found = |settings: &Settings, unavailable: &[u32]| {
        let live = Said { unavailable: unavailable.to_vec(), ..Said::default() };
        let set = set(list.clone(), settings, &live);
        (set.panics(), counts(&set, settings, &live, true, 1_000).into_keys().collect::<Vec<_>>())
    };
    let zone = |mode| Settings { zone: Some((mode, "a".into())), ..settings(LbPolicy::RoundRobin) };
    let geo = |regions: &[&str]| Settings {
        region: "a".into(),
        regions: Some(regions.iter().map(|name| Box::from(*name)).collect()),
        ..settings(LbPolicy::GeoHashedRing)
    };
    for settings in [zone(ZoneMode::Prefer), geo(&["b"])] {
        assert_eq!(found(&settings, &[0, 1, 2]), (false, vec![3, 4]));
        assert_eq!(found(&settings, &[0, 1, 2, 3]), (false, vec![4]), "half of the next is not too few");
        assert_eq!(found(&settings, &[0, 1, 3, 4]), (true, vec![0, 1, 2, 3, 4]), "all of it");
    }
    for settings in [zone(ZoneMode::Strict), geo(&[])] {
        assert_eq!(found(&settings, &[0, 1, 2]), (true, vec![0, 1, 2]), "nobody else may be used");
    }
}

/// The whole, over time: requests come, take their time and end.
#[test]
fn a_slow_endpoint_is_avoided_and_asked_again() {
    let mut rng = SmallRng::seed_from_u64(11);
    let settings = settings(LbPolicy::PeakEwma);
    let start = std::time::Instant::now();
    let mut ewmas = [Ewma::default(); 3];
    let set = set(members(&[1; 3]), &settings, &Said::default());
    let mut slow = (0, 0);
    for n in 0..60_000_u64 {
        let now = start + Duration::from_millis(n * 2);
        let latency = (0..).zip(&ewmas).map(|(slot, ewma)| (slot, ewma.decayed(now))).collect();
        let live = Said { latency, ..Said::default() };
        let Picked { slot, .. } = set.pick(&settings, None, false, &live, &mut rng).unwrap();
        // The first is slow for one minute of two.
        let millis = if slot == 0 && n < 30_000 { 800 } else { rng.random_range(5..15) };
        ewmas[slot as usize].observe(Duration::from_millis(millis), false, now);
        match (slot, n < 30_000) {
            (0, true) => slow.0 += 1,
            (0, false) => slow.1 += 1,
            _ => {}
        }
    }
    assert!((1..60).contains(&slow.0), "now and then: {slow:?}");
    assert!(slow.1 > 2_000, "and again when it is fast: {slow:?}");
}

//! All endpoints of a service, or of a subset of it, in groups: by tier, and in a tier by zone or by region.

use std::collections::{BTreeMap, BTreeSet};

use rand::Rng;

use super::group::{Ask, Group};
use super::shares::{self, Weight};
use super::{Live, Member, Picked, Settings, Why};
use crate::config::schema::{LbPolicy, ZoneMode};
use crate::policy::hash::mix;

#[derive(Debug, Default)]
pub struct Set {
    /// By tier, and in each by rank.
    groups: Vec<Group>,
    /// The end of each on a line from 0 to 1.
    ends: Vec<f64>,
    /// The first with a share.
    first: usize,
    /// Number of zones in each tier.
    zones: BTreeMap<u32, usize>,
    panic: bool,
}

impl Set {
    /// Brings it to these members; what is learned of groups that stay is kept. To be refreshed after that.
    pub fn sync(&mut self, members: Vec<Member>, settings: &Settings) {
        let regions = regions(&members, settings);
        let (mut by_group, mut zones) = (BTreeMap::<_, Vec<Member>>::new(), BTreeMap::<_, BTreeSet<_>>::new());
        for member in members {
            let Some(rank) = rank(&member, settings, &regions) else { continue };
            zones.entry(member.priority).or_default().insert(member.zone.clone());
            by_group.entry((member.priority, rank)).or_default().push(member);
        }
        self.zones = zones.into_iter().map(|(priority, zones)| (priority, zones.len())).collect();
        let mut old = std::mem::take(&mut self.groups);
        for ((priority, rank), members) in by_group {
            let known = old.iter().position(|group| (group.priority, group.rank) == (priority, rank));
            let mut group = known.map_or_else(|| Group::new(priority, rank), |index| old.swap_remove(index));
            group.sync(members, settings);
            self.groups.push(group);
        }
    }

    /// Finds who may be chosen, and how much each group gets.
    pub fn refresh(&mut self, settings: &Settings, live: &impl Live) {
        let weights: Vec<Weight> = self.groups.iter().map(|group| group.weight(live)).collect();
        let tiers: BTreeSet<u32> = self.groups.iter().map(|group| group.priority).collect();
        let tier = |priority: u32| {
            let of_tier = self.groups.iter().zip(&weights).filter(|(group, _)| group.priority == priority);
            of_tier.fold(Weight::default(), |sum, (_, weight)| Weight {
                all: sum.all + weight.all,
                available: sum.available + weight.available,
            })
        };
        self.panic = shares::panics(&weights, settings.panic_threshold);
        let sum = weights.iter().map(|weight| weight.all).sum::<u64>().max(1) as f64;
        let of_tiers: Vec<Weight> = tiers.iter().map(|priority| tier(*priority)).collect();
        let tier_shares: BTreeMap<u32, f64> = tiers.iter().copied().zip(shares::tiers(&of_tiers)).collect();
        let all = || self.groups.iter().zip(&weights);
        let share = |(group, weight): (&Group, &Weight)| {
            if self.panic {
                return weight.all as f64 / sum;
            }
            let others = all().filter(|(other, _)| other.priority == group.priority && other.rank != group.rank);
            let of_tier = tier_shares.get(&group.priority).copied().unwrap_or_default();
            if settings.policy == LbPolicy::GeoHashedRing {
                let nearer = all().any(|(other, weight)| {
                    other.priority == group.priority && other.rank < group.rank && weight.available > 0
                });
                return if nearer || weight.available == 0 { 0.0 } else { of_tier };
            }
            let zones = self.zones.get(&group.priority).copied().unwrap_or(1);
            let others = others.fold(Weight::default(), |_, (_, weight)| *weight);
            match group.rank {
                0 => of_tier * shares::own_zone(*weight, others, zones),
                _ => of_tier * (1.0 - shares::own_zone(others, *weight, zones)),
            }
        };
        let shares: Vec<f64> = all().map(share).collect();
        self.first = shares.iter().position(|share| *share > 0.0).unwrap_or(0);
        self.ends = shares
            .iter()
            .scan(0.0, |sum, share| {
                *sum += share;
                Some(*sum)
            })
            .collect();
        for group in &mut self.groups {
            group.refresh(self.panic, live);
        }
    }

    /// Picks one that may be chosen, and if `another`, that was not tried unless there is no other. `None`: there is
    /// none, as far as is known since the last `refresh`.
    pub fn pick(
        &self,
        settings: &Settings,
        key: Option<u64>,
        another: bool,
        live: &impl Live,
        rng: &mut impl Rng,
    ) -> Option<Picked> {
        let drawn = self.draw(key, rng);
        let rest = (0..self.groups.len()).filter(|index| *index != drawn);
        let order: (usize, _) = (drawn, rest);
        let pick = |another: bool, rng: &mut _| {
            let ask = Ask { settings, key, live, panic: self.panic, another };
            std::iter::once(order.0).chain(order.1.clone()).find_map(|index| {
                let group = self.groups.get(index)?;
                let (slot, how) = group.pick(&ask, rng)?;
                Some((group, slot, how))
            })
        };
        let (again, (group, slot, how)) = match pick(another, rng) {
            Some(picked) => (false, picked),
            None if another => (true, pick(false, rng)?),
            None => return None,
        };
        let lowest = self.groups.first().map_or(0, |group| group.priority);
        let spilled = group.rank > 0 || group.priority > lowest;
        Some(Picked { slot, why: Why { how, spilled, panic: self.panic, again } })
    }

    pub fn panics(&self) -> bool {
        self.panic
    }

    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.groups.iter().flat_map(Group::members)
    }

    /// The group that gets it. A key has a place of its own on the line, so that it stays in its group.
    fn draw(&self, key: Option<u64>, rng: &mut impl Rng) -> usize {
        // One gets it all.
        if self.ends.get(self.first) == self.ends.last() {
            return self.first;
        }
        let place = match key {
            Some(key) => (mix(key ^ 0x6a09_e667_f3bc_c909) >> 11) as f64 / (1_u64 << 53) as f64,
            None => rng.random::<f64>(),
        };
        self.ends.partition_point(|end| *end <= place).min(self.groups.len().saturating_sub(1))
    }
}

/// Other regions by name, where their order is not told.
fn regions(members: &[Member], settings: &Settings) -> BTreeSet<Box<str>> {
    let wanted = settings.policy == LbPolicy::GeoHashedRing && settings.regions.is_none();
    let named = members.iter().filter(|_| wanted).filter_map(|member| member.region.as_deref());
    named.map(Box::from).collect()
}

/// The place of a member's group in its tier; `None` where it is not to be used.
fn rank(member: &Member, settings: &Settings, regions: &BTreeSet<Box<str>>) -> Option<usize> {
    if settings.policy == LbPolicy::GeoHashedRing {
        let region = member.region.as_deref();
        if region.is_some_and(|region| *region == *settings.region) {
            return Some(0);
        }
        let index = match &settings.regions {
            Some(listed) => listed.iter().position(|listed| Some(&**listed) == region)?,
            // Those without a region come last.
            None => regions.iter().position(|known| Some(&**known) == region).unwrap_or(regions.len()),
        };
        return Some(index + 1);
    }
    let Some((mode, own)) = &settings.zone else { return Some(0) };
    match (mode, member.zone.as_deref() == Some(&**own)) {
        (_, true) => Some(0),
        (ZoneMode::Prefer, false) => Some(1),
        (ZoneMode::Strict, false) => None,
    }
}

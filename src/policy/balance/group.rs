//! Endpoints among which only the policy decides: those of one tier and one zone or region.

use std::cell::Cell;

use rand::Rng;

use super::draw::Draw;
use super::maglev::Table;
use super::ring::Ring;
use super::shares::Weight;
use super::{How, Live, Member, Settings, cost};
use crate::config::schema::LbPolicy;

/// Draws before all are looked at in order, places of a ring or table that are looked at, and endpoints in order.
const DRAWS: usize = 16;
const PLACES: usize = 256;
const SCANNED: usize = 256;

#[derive(Debug, Default)]
pub struct Group {
    /// Of its tier, 0 is the zone or region that comes first.
    pub rank: usize,
    pub priority: u32,
    members: Vec<Member>,
    /// Indices of the members that may be chosen.
    usable: Vec<u32>,
    draw: Draw,
    index: Index,
    turn: Cell<u64>,
    /// The same of a round for turns that somebody has passed over.
    spare: Cell<u64>,
    /// Weights by slot, where a policy asks for them.
    weights: Vec<u32>,
    /// Requests in flight as they were last counted, and picks until they are counted again.
    counted: Cell<(u64, usize)>,
}

/// How a key is found.
#[derive(Debug, Default)]
enum Index {
    #[default]
    None,
    Ring(Ring),
    Table(Table),
}

/// What a pick has to go by.
pub struct Ask<'a, L> {
    pub settings: &'a Settings,
    pub key: Option<u64>,
    pub live: &'a L,
    /// Whether somebody may be chosen is not asked.
    pub panic: bool,
    /// Those that were tried are not chosen.
    pub another: bool,
}

impl<L: Live> Ask<'_, L> {
    fn takes(&self, slot: u32) -> bool {
        (self.panic || self.live.is_available(slot)) && !(self.another && self.live.was_tried(slot))
    }
}

impl Group {
    pub fn new(priority: u32, rank: usize) -> Self {
        Self { priority, rank, ..Self::default() }
    }

    /// Brings it to these members. Who may be chosen has to be found anew after that.
    pub fn sync(&mut self, members: Vec<Member>, settings: &Settings) {
        self.index = match (settings.policy, std::mem::take(&mut self.index)) {
            (LbPolicy::RingHash | LbPolicy::GeoHashedRing, old) => {
                let mut ring = if let Index::Ring(ring) = old { ring } else { Ring::default() };
                ring.sync(&members);
                Index::Ring(ring)
            }
            (LbPolicy::Maglev, Index::Table(table))
                if table.len() == settings.table_size as usize && members == self.members =>
            {
                Index::Table(table)
            }
            (LbPolicy::Maglev, _) => Index::Table(Table::new(&members, settings.table_size)),
            _ => Index::None,
        };
        self.weights.clear();
        if settings.policy.hashes() || matches!(settings.policy, LbPolicy::LeastRequest | LbPolicy::PeakEwma) {
            let slots = members.iter().map(|member| member.slot as usize + 1).max().unwrap_or(0);
            self.weights.resize(slots, 1);
            for member in &members {
                if let Some(weight) = self.weights.get_mut(member.slot as usize) {
                    *weight = member.weight;
                }
            }
        }
        self.members = members;
        self.counted.take();
    }

    pub fn members(&self) -> &[Member] {
        &self.members
    }

    pub fn weight(&self, live: &impl Live) -> Weight {
        self.members.iter().fold(Weight::default(), |sum, member| {
            let weight = u64::from(member.weight);
            let available = if live.is_available(member.slot) { weight } else { 0 };
            Weight { all: sum.all + weight, available: sum.available + available }
        })
    }

    /// Finds who may be chosen; everybody, if `panic`.
    pub fn refresh(&mut self, panic: bool, live: &impl Live) {
        let usable = self.members.iter().zip(0..).filter(|(member, _)| panic || live.is_available(member.slot));
        self.usable = usable.map(|(_, index)| index).collect();
        let weights: Vec<u32> = self.usable().map(|member| member.weight).collect();
        self.draw = Draw::new(&weights);
    }

    pub fn pick<L: Live>(&self, ask: &Ask<'_, L>, rng: &mut impl Rng) -> Option<(u32, How)> {
        if let [only] = self.members.as_slice() {
            return ask.takes(only.slot).then_some((only.slot, How::Only));
        }
        match (ask.settings.policy, ask.key) {
            (LbPolicy::RoundRobin, _) => self.in_turn(ask, rng).map(|slot| (slot, How::Turn)),
            (LbPolicy::Random, _) => self.one(ask, rng).map(|slot| (slot, How::Chance)),
            (LbPolicy::LeastRequest, _) => {
                let load = |slot| ask.live.in_flight(slot) as f64 / f64::from(self.weight_of(slot));
                self.better_of_two(ask, rng, true, load).map(|slot| (slot, How::LessLoaded))
            }
            (LbPolicy::PeakEwma, _) => {
                // Weights are in the draw; it may draw the same twice, so that they show where all are as fast.
                let cost = |slot| {
                    let weight = f64::from(self.weight_of(slot)) / self.mean_weight();
                    cost(ask.live.latency(slot), ask.live.in_flight(slot), weight)
                };
                self.better_of_two(ask, rng, self.draw.is_even(), cost).map(|slot| (slot, How::Sooner))
            }
            (LbPolicy::RingHash | LbPolicy::Maglev | LbPolicy::GeoHashedRing, None) => {
                self.one(ask, rng).map(|slot| (slot, How::NoKey))
            }
            (LbPolicy::RingHash | LbPolicy::Maglev | LbPolicy::GeoHashedRing, Some(key)) => self.by_key(ask, key),
        }
    }

    fn in_turn<L: Live>(&self, ask: &Ask<'_, L>, rng: &mut impl Rng) -> Option<u32> {
        let next = |place: &Cell<u64>| {
            let turn = place.get();
            place.set(turn.wrapping_add(1));
            self.slot(self.draw.in_turn(turn))
        };
        let own = std::iter::once_with(|| next(&self.turn));
        // What is passed over goes to all the others in turn, and not to whoever stands behind.
        let others = (1..DRAWS).map(|_| next(&self.spare));
        self.first(own.chain(others), ask, rng).or_else(|| self.scan(ask, self.turn.get() as usize))
    }

    /// By chance and by weight.
    fn one<L: Live>(&self, ask: &Ask<'_, L>, rng: &mut impl Rng) -> Option<u32> {
        if self.draw.is_empty() {
            return None;
        }
        for _ in 0..DRAWS {
            let drawn = self.slot(self.draw.at_random(rng));
            if let Some(slot) = self.first(std::iter::once(drawn), ask, rng) {
                return Some(slot);
            }
        }
        self.scan(ask, rng.random_range(0..self.draw.len()))
    }

    /// The better of two that are drawn (P2C, Mitzenmacher 2001); among equals the first, so that ties go by weight.
    fn better_of_two<L: Live>(
        &self,
        ask: &Ask<'_, L>,
        rng: &mut impl Rng,
        distinct: bool,
        cost: impl Fn(u32) -> f64,
    ) -> Option<u32> {
        let first = self.one(ask, rng)?;
        let tries = if distinct { DRAWS } else { 1 };
        let mut others = (0..tries).filter_map(|_| self.slot(self.draw.at_random(rng)));
        let second = others.find(|slot| ask.takes(*slot) && (!distinct || *slot != first));
        // Once for the one that is found: a new one has nothing to do, and would win as often as it is let in.
        let second = second.filter(|slot| is_warm(*slot, ask, rng)).unwrap_or(first);
        Some(if cost(second) < cost(first) { second } else { first })
    }

    /// The first that may be chosen. One that is new is passed over more often than not.
    fn first<L: Live>(
        &self,
        mut slots: impl Iterator<Item = Option<u32>>,
        ask: &Ask<'_, L>,
        rng: &mut impl Rng,
    ) -> Option<u32> {
        slots.find_map(|slot| slot.filter(|slot| ask.takes(*slot) && is_warm(*slot, ask, rng)))
    }

    /// Whoever may be chosen, from a place on.
    fn scan<L: Live>(&self, ask: &Ask<'_, L>, from: usize) -> Option<u32> {
        let count = self.usable.len();
        let mut slots = (0..count.min(SCANNED)).filter_map(|n| self.slot((from % count + n) % count));
        slots.find(|slot| ask.takes(*slot))
    }

    fn by_key<L: Live>(&self, ask: &Ask<'_, L>, key: u64) -> Option<(u32, How)> {
        let bound = ask.settings.max_load.map(|over| self.bound(over, ask.live));
        let has_room = |slot: u32| {
            bound.is_none_or(|bound| {
                (ask.live.in_flight(slot) as f64) < (bound * f64::from(self.weight_of(slot))).ceil()
            })
        };
        let (mut how, mut full) = (How::Key, None);
        let mut look = |slot: u32| {
            if !ask.takes(slot) {
                how = if full.is_some() { How::KeyOverload } else { How::KeyNext };
                return None;
            }
            if has_room(slot) {
                return Some((slot, how));
            }
            how = How::KeyOverload;
            full.get_or_insert(slot);
            None
        };
        let found = match &self.index {
            Index::Ring(ring) => ring.from(key).take(PLACES).find_map(&mut look),
            Index::Table(table) => table.from(key).take(PLACES).find_map(&mut look),
            Index::None => None,
        };
        let full = full.map(|slot| (slot, How::Key));
        found.or(full).or_else(|| self.scan(ask, key as usize).map(|slot| (slot, How::KeyNext)))
    }

    /// Requests in flight that an endpoint may have for each of its weight, with `over` percent over the mean
    /// (Mirrokni 2016). They are counted now and then: often enough for the mean to be right to a small part of one
    /// request.
    fn bound(&self, over: u32, live: &impl Live) -> f64 {
        let (mut sum, left) = self.counted.get();
        match left.checked_sub(1) {
            Some(left) => self.counted.set((sum + 1, left)),
            None => {
                sum = self.usable().map(|member| live.in_flight(member.slot)).sum();
                self.counted.set((sum + 1, self.members.len() / 16));
            }
        }
        let weight: f64 = self.mean_weight() * self.usable.len().max(1) as f64;
        (1.0 + f64::from(over) / 100.0) * (sum + 1) as f64 / weight
    }

    fn mean_weight(&self) -> f64 {
        self.draw.mean()
    }

    fn usable(&self) -> impl Iterator<Item = &Member> {
        self.usable.iter().filter_map(|index| self.members.get(*index as usize))
    }

    fn slot(&self, index: usize) -> Option<u32> {
        let member = self.members.get(*self.usable.get(index)? as usize)?;
        Some(member.slot)
    }

    fn weight_of(&self, slot: u32) -> u32 {
        self.weights.get(slot as usize).copied().unwrap_or(1).max(1)
    }
}

/// Whether one that is new is let in this time.
fn is_warm<L: Live>(slot: u32, ask: &Ask<'_, L>, rng: &mut impl Rng) -> bool {
    let warmth = if ask.settings.slow_start.is_zero() { 1.0 } else { ask.live.warmth(slot) };
    warmth >= 1.0 || rng.random::<f64>() < warmth
}

//! One worker's memory of recent requests. It belongs to the event loop: no locks, no clock of its own.
//!
//! What counts is cost: a request that is not sampled costs a comparison and a decrement, and however many come, about
//! a hundred a second are looked at. Weights halve every minute, so that recent traffic counts more; where memory is
//! full, what has counted least, or longest ago, makes way.

use std::sync::Arc;
use std::time::{Duration, Instant};

use indexmap::IndexMap;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::callers::{CALLERS_MAX, Callers, Ids, Who};
use super::fingerprint::{Fingerprint, Seen};
use super::looked::Looked;

/// Distinct fingerprints.
const SLOTS_MAX: usize = 1024;
/// Requests that are looked at in a second, about.
const RATE: u32 = 100;
const TICK: Duration = Duration::from_secs(1);
const HALF_LIFE: Duration = Duration::from_secs(60);
/// After so many the rest is nothing.
const HALVINGS_MAX: u32 = 64;
/// A slot without what it points to; the table of hashes has room for four times its entries at most.
const SLOT: usize = size_of::<(u64, Fingerprint, Slot)>() + 5 * size_of::<usize>();
/// What an allocation costs besides its size, as a bound.
const ALLOCATION: usize = 32;

#[derive(Debug)]
pub struct Reservoir {
    gate: Gate,
    looked: Arc<Looked>,
    slots: IndexMap<Fingerprint, Slot>,
    slots_max: usize,
    ids: Ids,
    bytes_max: usize,
    /// Of what the slots point to.
    bytes: usize,
    /// Since when it remembers.
    since: Instant,
    /// Up to when the weights are of their age, and when they halve next.
    aged: Instant,
    halves: Instant,
    /// Of what the gate has counted, what is in `total`.
    counted: u64,
    total: Total,
}

#[derive(Debug)]
struct Slot {
    path: Box<str>,
    weight: f64,
    last: Instant,
    callers: Callers,
}

/// What was seen, aged as the weights are.
#[derive(Debug, Clone, Copy, Default)]
struct Total {
    seen: f64,
    /// Requests that were looked at.
    sampled: f64,
    /// Requests that were not remembered, or no longer are.
    dropped: f64,
    seconds: f64,
}

/// One request of every block of `every`, at a place drawn by chance: a pattern in the traffic does not show.
#[derive(Debug)]
struct Gate {
    rng: SmallRng,
    every: u32,
    /// Length of the block that is under way.
    block: u32,
    /// Requests up to the one that is taken, and those of its block behind it.
    until: u32,
    rest: u32,
    seen: u64,
    /// Taken since the last change of `every`.
    taken: u32,
    /// When the last tick was, and what had been seen then.
    ticked: Instant,
    before: u64,
    /// When the next is.
    ticks: Instant,
}

/// What a reservoir holds: plain data, for another thread.
#[derive(Debug, Clone)]
pub struct Sample {
    /// What was looked at; the values of nothing else are known.
    pub looked: Arc<Looked>,
    pub remembered: Vec<Remembered>,
    /// How far back it reaches.
    pub window: Duration,
    /// Requests, and the seconds in which they came; what is a minute old counts half.
    pub seen: f64,
    pub seconds: f64,
    /// Of these: those looked at, and those that are not represented.
    pub sampled: f64,
    pub dropped: f64,
    /// One request in so many is looked at now.
    pub every: u32,
}

#[derive(Debug, Clone)]
pub struct Remembered {
    pub print: Fingerprint,
    /// One path of the fingerprint's shape.
    pub path: Box<str>,
    /// Requests that it stands for, aged.
    pub weight: f64,
    pub callers: Callers,
}

impl Reservoir {
    /// `bytes` bounds its memory; `seed` is for the sampling.
    pub fn new(bytes: usize, seed: u64, now: Instant) -> Self {
        let (slots_max, ids) = (SLOTS_MAX.min(bytes / 2 / SLOT), Ids::new(bytes));
        Self {
            gate: Gate::new(seed, now),
            looked: Arc::default(),
            slots: IndexMap::with_capacity(slots_max),
            slots_max,
            bytes_max: bytes.saturating_sub(slots_max * SLOT + ids.bytes()),
            ids,
            bytes: 0,
            since: now,
            aged: now,
            halves: now + HALF_LIFE,
            counted: 0,
            total: Total::default(),
        }
    }

    /// Counts a request; `Some` where it is to be remembered, for so many.
    pub fn wants(&mut self, now: Instant) -> Option<u32> {
        self.gate.wants(now)
    }

    /// Counts a request, and remembers it where it is its turn. `looked` is of the snapshot that decides about it.
    pub fn see<'a>(&mut self, now: Instant, seen: impl FnOnce() -> Seen<'a>, looked: &Arc<Looked>) {
        if let Some(weight) = self.wants(now) {
            self.remember(now, weight, &seen(), looked);
        }
    }

    fn remember(&mut self, now: Instant, weight: u32, seen: &Seen<'_>, looked: &Arc<Looked>) {
        self.follow(now, looked);
        self.age(now);
        let weight = f64::from(weight);
        self.total.sampled += 1.0;
        let Some((print, path)) = Fingerprint::of(seen, looked) else {
            self.total.dropped += weight;
            return;
        };
        match self.slots.get_mut(&print) {
            Some(slot) => {
                slot.weight += weight;
                slot.last = now;
                slot.callers.see(&seen.caller, weight, &mut self.ids);
            }
            None => {
                let mut callers = Callers { known: Vec::with_capacity(1), others: 0.0 };
                callers.see(&seen.caller, weight, &mut self.ids);
                self.insert(print, Slot { path, weight, last: now, callers });
            }
        }
    }

    /// What is known was remembered under another configuration: begin anew.
    fn follow(&mut self, now: Instant, looked: &Arc<Looked>) {
        if Arc::ptr_eq(&self.looked, looked) {
            return;
        }
        if *self.looked != **looked {
            self.slots.clear();
            self.ids.clear();
            self.bytes = 0;
            (self.since, self.aged, self.halves) = (now, now, now + HALF_LIFE);
            self.total = Total::default();
            // Of those counted, only this one.
            self.counted = self.gate.seen.saturating_sub(1);
        }
        self.looked = looked.clone();
    }

    fn insert(&mut self, print: Fingerprint, slot: Slot) {
        let bytes = size(&print, &slot);
        while self.slots.len() >= self.slots_max || self.bytes + bytes > self.bytes_max {
            let least = |(_, a): &(usize, &Slot), (_, b): &(usize, &Slot)| {
                a.weight.total_cmp(&b.weight).then(a.last.cmp(&b.last))
            };
            let Some((index, _)) = self.slots.values().enumerate().min_by(least) else {
                self.total.dropped += slot.weight;
                return;
            };
            if let Some((print, slot)) = self.slots.swap_remove_index(index) {
                self.bytes = self.bytes.saturating_sub(size(&print, &slot));
                self.total.dropped += slot.weight;
            }
        }
        self.bytes += bytes;
        self.slots.insert(print, slot);
    }

    fn age(&mut self, now: Instant) {
        self.total.seen += (self.gate.seen - self.counted) as f64;
        self.counted = self.gate.seen;
        for _ in 0..HALVINGS_MAX {
            if now < self.halves {
                break;
            }
            self.total.seconds += self.halves.saturating_duration_since(self.aged).as_secs_f64();
            self.halve();
            self.aged = self.halves;
            self.halves += HALF_LIFE;
        }
        if now >= self.halves {
            (self.aged, self.halves) = (now, now + HALF_LIFE);
        }
        self.total.seconds += now.saturating_duration_since(self.aged).as_secs_f64();
        self.aged = self.aged.max(now);
    }

    fn halve(&mut self) {
        let Total { seen, sampled, dropped, seconds } = &mut self.total;
        let totals = [seen, sampled, dropped, seconds];
        totals.into_iter().for_each(|value| *value /= 2.0);
        for slot in self.slots.values_mut() {
            slot.weight /= 2.0;
            slot.callers.halve();
        }
    }

    /// What it holds now.
    pub fn take(&mut self, now: Instant) -> Sample {
        self.age(now);
        let remembered = self.slots.iter().map(|(print, slot)| Remembered {
            print: print.clone(),
            path: slot.path.clone(),
            weight: slot.weight,
            callers: slot.callers.clone(),
        });
        Sample {
            looked: self.looked.clone(),
            remembered: remembered.collect(),
            window: now.saturating_duration_since(self.since),
            seen: self.total.seen,
            seconds: self.total.seconds,
            sampled: self.total.sampled,
            dropped: self.total.dropped,
            every: self.gate.every,
        }
    }

    /// An upper bound of the memory that it holds now, in bytes.
    pub fn bytes(&self) -> usize {
        self.slots_max * SLOT + self.bytes + self.ids.bytes()
    }
}

/// On the heap, with callers that are still to come.
fn size(print: &Fingerprint, slot: &Slot) -> usize {
    let callers = slot.callers.known.capacity().max(CALLERS_MAX) * size_of::<(Who, f64)>();
    let allocations = 5 + print.values.len();
    print.bytes() + slot.path.len() + callers + allocations * ALLOCATION
}

impl Gate {
    fn new(seed: u64, now: Instant) -> Self {
        let rng = SmallRng::seed_from_u64(seed);
        Self {
            rng,
            every: 1,
            block: 1,
            until: 1,
            rest: 0,
            seen: 0,
            taken: 0,
            ticked: now,
            before: 0,
            ticks: now + TICK,
        }
    }

    #[inline]
    fn wants(&mut self, now: Instant) -> Option<u32> {
        self.seen += 1;
        if now >= self.ticks {
            self.adapt(now);
        }
        self.until = self.until.saturating_sub(1);
        (self.until == 0).then(|| self.take())
    }

    /// The block's request: it stands for the whole block.
    #[cold]
    fn take(&mut self) -> u32 {
        let weight = self.block;
        self.taken += 1;
        if self.taken >= RATE {
            // More than was expected: no need to wait for the tick.
            self.taken = 0;
            self.every = self.every.saturating_mul(2);
        }
        let rest = self.rest;
        self.begin();
        self.until = self.until.saturating_add(rest);
        weight
    }

    fn begin(&mut self) {
        self.block = self.every;
        self.until = self.rng.random_range(1..=self.every);
        self.rest = self.every - self.until;
    }

    #[cold]
    fn adapt(&mut self, now: Instant) {
        let seconds = now.saturating_duration_since(self.ticked).as_secs_f64();
        let rate = (self.seen - self.before) as f64 / seconds;
        self.every = (rate / f64::from(RATE)).ceil().max(1.0) as u32;
        (self.ticked, self.before, self.taken) = (now, self.seen, 0);
        self.ticks = now + TICK;
        // A block of a busier time would last too long now.
        if self.every < self.block / 2 {
            self.begin();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// What is taken in `seconds` at so many requests a second, and what it stands for.
    fn take(gate: &mut Gate, now: &mut Instant, rate: u32, seconds: u32) -> (u32, u64) {
        let weights = (0..rate * seconds).filter_map(|_| {
            *now += SECOND / rate;
            gate.wants(*now)
        });
        weights.fold((0, 0), |(count, sum), weight| (count + 1, sum + u64::from(weight)))
    }

    #[test]
    fn a_hundred_a_second_are_taken_whatever_comes() {
        let mut now = Instant::now();
        let mut gate = Gate::new(3, now);
        assert_eq!(take(&mut gate, &mut now, 50, 20), (1000, 1000), "all of few");
        // A burst: the first second does not know of it.
        let (count, sum) = take(&mut gate, &mut now, 100_000, 1);
        assert!(count < 1500 && (95_000..105_000).contains(&sum), "{count} for {sum}");
        let (count, sum) = take(&mut gate, &mut now, 100_000, 10);
        assert!((900..1200).contains(&count) && (990_000..1_010_000).contains(&sum), "{count} for {sum}");
        // And back: what the long block hides is a block at most.
        let (count, sum) = take(&mut gate, &mut now, 50, 20);
        assert!(count > 900 && sum > 900, "{count} for {sum}");
        take(&mut gate, &mut now, 50, 5);
        assert_eq!(take(&mut gate, &mut now, 50, 20), (1000, 1000));
    }

    #[test]
    fn what_comes_in_turns_is_taken_in_proportion() {
        let mut now = Instant::now();
        let mut gate = Gate::new(5, now);
        let mut even = 0;
        let mut all = 0;
        for number in 0..1_000_000u32 {
            now += Duration::from_micros(100);
            if let Some(weight) = gate.wants(now) {
                all += weight;
                even += if number % 2 == 0 { weight } else { 0 };
            }
        }
        let share = f64::from(even) / f64::from(all);
        assert!((share - 0.5).abs() < 0.02, "{share} of a half");
    }

    #[test]
    fn what_is_older_counts_less() {
        let start = Instant::now();
        let mut reservoir = Reservoir::new(512 << 10, 1, start);
        for number in 1..=60u32 {
            reservoir.wants(start + SECOND * number - SECOND / 2);
        }
        let sample = reservoir.take(start + HALF_LIFE);
        assert_eq!((sample.seen, sample.seconds), (30.0, 30.0), "one a second, before and after");
        let later = reservoir.take(start + HALF_LIFE * 3);
        assert_eq!((later.seen, later.seconds, later.window), (7.5, 52.5, HALF_LIFE * 3));
        let sample = reservoir.take(start + HALF_LIFE * 10_000);
        assert!(sample.seen < 1e-9 && sample.seconds.is_finite());
    }

    #[test]
    fn memory_that_is_too_small_is_no_memory() {
        let now = Instant::now();
        for bytes in [0, 100, 1000] {
            assert!(Reservoir::new(bytes, 1, now).bytes() <= bytes);
        }
    }
}

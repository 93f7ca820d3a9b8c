//! Rate limits by GCRA: a bucket is one number, the time at which it will be full again, and a request moves that on by
//! the time in which one token comes. Buckets of many keys lie in a table of a fixed size, without locks; all workers
//! share it.
//!
//! A key never gets more than its bucket would give, however many keys there are: only a bucket that is full again, and
//! so says nothing, is given to another key. Where there is none, keys share what their hashes say of a second table, and
//! whoever gets a bucket afterwards takes along what was used there.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

#[cfg(test)]
mod tests;

/// Buckets that a key may lie in, one behind the other, from the one that its hash says.
const WINDOW: usize = 64;
/// Times that a key looks again after another one was quicker.
const TRIES: usize = 4;

/// Nanoseconds since the table was made: what `now` is, below.
pub type Nanos = u64;

/// What a bucket holds, and how fast it fills.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// The time in which one token comes.
    interval: Nanos,
    burst: u64,
}

/// What a bucket says to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// A token was taken; so many are left. Not zero, the wait is for a token that is yet to come.
    Granted { left: u64, wait: Duration },
    /// None was; the next one comes after this.
    Refused { after: Duration },
}

#[derive(Debug, Default)]
struct Slot {
    /// Hash of the key; 0 is nobody's.
    key: AtomicU64,
    full_at: AtomicU64,
}

/// Buckets by the hash of their keys, which has to be one that nobody outside can foresee.
#[derive(Debug)]
pub struct Buckets {
    slots: Box<[Slot]>,
    /// When the buckets that are shared will be full.
    overflow: Box<[AtomicU64]>,
    /// Requests that had to share the bucket of another key.
    shared: AtomicU64,
    /// What the buckets are counted in, and since which configuration.
    rate: Mutex<Rate>,
    generation: AtomicU64,
}

impl Rate {
    pub fn new(per_second: f64, burst: u32) -> Self {
        let interval = (1e9 / per_second.max(f64::MIN_POSITIVE)).round().clamp(1.0, 1e15);
        Self { interval: interval as u64, burst: u64::from(burst.max(1)) }
    }

    pub fn burst(&self) -> u64 {
        self.burst
    }

    /// The time in which an empty bucket fills.
    pub fn window(&self) -> Duration {
        Duration::from_nanos(self.burst.saturating_mul(self.interval))
    }

    fn take(&self, full_at: &AtomicU64, now: Nanos, patience: Nanos) -> Taken {
        let room = (self.burst - 1).saturating_mul(self.interval);
        let mut known = full_at.load(Ordering::Relaxed);
        loop {
            let from = known.max(now);
            let wait = (from - now).saturating_sub(room);
            if wait > patience {
                return Taken::Refused { after: Duration::from_nanos(wait) };
            }
            let next = from.saturating_add(self.interval);
            match full_at.compare_exchange_weak(known, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => {
                    let left = (room + self.interval).saturating_sub(next - now) / self.interval;
                    return Taken::Granted { left, wait: Duration::from_nanos(wait) };
                }
                Err(other) => known = other,
            }
        }
    }
}

impl Buckets {
    /// For so many keys, and as many again: then a place is near.
    pub fn new(keys: u32, rate: Rate) -> Self {
        let slots = if keys <= 1 { 1 } else { 2 * keys as usize };
        Self {
            slots: std::iter::repeat_with(Slot::default).take(slots).collect(),
            overflow: std::iter::repeat_with(AtomicU64::default).take(keys.max(1) as usize).collect(),
            shared: AtomicU64::new(0),
            rate: Mutex::new(rate),
            generation: AtomicU64::new(0),
        }
    }

    /// A table of another size with what this one holds.
    pub fn resized(&self, keys: u32, now: Nanos) -> Self {
        let table = Self::new(keys, *self.rate.lock().unwrap_or_else(PoisonError::into_inner));
        for slot in &self.slots {
            let (key, full_at) = (slot.key.load(Ordering::Acquire), slot.full_at.load(Ordering::Relaxed));
            if full_at > now {
                table.find(key, now).0.fetch_max(full_at, Ordering::Relaxed);
            }
        }
        // Both tables are in the order of the hashes: a bucket's keys are in a range of the other's.
        let (before, after) = (self.overflow.len(), table.overflow.len());
        for (n, full_at) in self.overflow.iter().enumerate() {
            for shared in &table.overflow[n * after / before..((n + 1) * after).div_ceil(before)] {
                shared.fetch_max(full_at.load(Ordering::Relaxed), Ordering::Relaxed);
            }
        }
        table
    }

    /// Takes a token for a key, or one that comes within `patience`. The rate is that of the configuration with this
    /// number; a newer one than the last is made the table's.
    pub fn take(&self, key: u64, (rate, generation): (&Rate, u64), now: Nanos, patience: Duration) -> Taken {
        if self.generation.load(Ordering::Acquire) < generation {
            self.adopt(*rate, generation, now);
        }
        let patience = u64::try_from(patience.as_nanos()).unwrap_or(u64::MAX);
        let key = key.max(1);
        let mut tries = 0;
        loop {
            let (full_at, slot) = self.find(key, now);
            let taken = rate.take(full_at, now, patience);
            tries += 1;
            // If another key has taken the bucket meanwhile, it was charged, and this one was not.
            if slot.is_none_or(|slot| slot.key.load(Ordering::Acquire) == key) || tries == TRIES {
                return taken;
            }
        }
    }

    /// Gives a token back, of those that the buckets now hold.
    pub fn give_back(&self, key: u64, now: Nanos) {
        let interval = self.rate.lock().unwrap_or_else(PoisonError::into_inner).interval;
        let (full_at, _) = self.find(key.max(1), now);
        let less = |full_at: u64| Some(full_at.saturating_sub(interval));
        let _ = full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Keys whose buckets are not full.
    pub fn active(&self, now: Nanos) -> usize {
        self.slots.iter().filter(|slot| slot.full_at.load(Ordering::Relaxed) > now).count()
    }

    /// Requests that had to share the bucket of another key.
    pub fn shared(&self) -> u64 {
        self.shared.load(Ordering::Relaxed)
    }

    pub fn bytes(&self) -> usize {
        size_of_val(&*self.slots) + size_of_val(&*self.overflow)
    }

    /// The bucket of a key: when it will be full, and its place if it is the key's own.
    fn find(&self, key: u64, now: Nanos) -> (&AtomicU64, Option<&Slot>) {
        let shared = &self.overflow[place(key, self.overflow.len())];
        let claim = |slot: &Slot, whose: u64| {
            slot.key.compare_exchange(whose, key, Ordering::AcqRel, Ordering::Acquire)?;
            let debt = shared.load(Ordering::Relaxed).saturating_sub(now);
            if debt > 0 {
                let more = |full_at: u64| Some(full_at.max(now).saturating_add(debt));
                let _ = slot.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
            }
            Ok(())
        };
        let home = place(key, self.slots.len());
        let (before, from) = self.slots.split_at(home);
        let mut tries = 0;
        loop {
            let mut free: Option<(&Slot, u64)> = None;
            for slot in from.iter().chain(before).take(WINDOW) {
                let mut taken = slot.key.load(Ordering::Acquire);
                if taken == 0 && free.is_none() {
                    taken = claim(slot, 0).err().unwrap_or(key);
                }
                if taken == key {
                    return (&slot.full_at, Some(slot));
                }
                if taken == 0 {
                    // Whoever came after the one that lies here lies in front of it.
                    break;
                }
                if free.is_none() && slot.full_at.load(Ordering::Relaxed) <= now {
                    free = Some((slot, taken));
                }
            }
            if let Some((slot, whose)) = free
                && claim(slot, whose).err().is_none_or(|other| other == key)
            {
                return (&slot.full_at, Some(slot));
            }
            tries += 1;
            if free.is_none() || tries == TRIES {
                self.shared.fetch_add(1, Ordering::Relaxed);
                return (shared, None);
            }
        }
    }

    /// Tokens that were taken stay taken at another rate, up to what the bucket then holds.
    fn adopt(&self, rate: Rate, generation: u64, now: Nanos) {
        let mut known = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
        if self.generation.load(Ordering::Acquire) >= generation {
            return;
        }
        let before = std::mem::replace(&mut *known, rate);
        if before != rate {
            let convert = |full_at: u64| {
                let used = full_at.checked_sub(now).filter(|debt| *debt > 0)?.div_ceil(before.interval);
                Some(now.saturating_add(used.min(rate.burst).saturating_mul(rate.interval)))
            };
            for full_at in self.slots.iter().map(|slot| &slot.full_at).chain(&self.overflow) {
                let _ = full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, convert);
            }
        }
        self.generation.store(generation, Ordering::Release);
    }
}

/// Where a hash lies in a table of this length, which is not empty.
fn place(hash: u64, len: usize) -> usize {
    ((u128::from(hash) * len as u128) >> 64) as usize
}

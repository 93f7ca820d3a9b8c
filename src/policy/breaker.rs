//! A circuit breaker: closed, open after too many failures, then half open with a few trials that close it or open it
//! again. One is shared by all workers: while it is closed, a request costs a load and an addition, and takes no lock.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Parts of the window: what is counted is as old as nine of them at least, and as all of them at most.
pub const SLOTS: u64 = 10;
/// Values of `gate` that are no time.
const CLOSED: u64 = 0;
const HALF_OPEN: u64 = 1;
/// Open, and for long enough.
const OVER: u64 = 2;
/// From here on it is open since so many nanoseconds.
const OPENED: u64 = 3;

/// What is told of it; read at each event, so that a reload bites at the next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Terms {
    /// Calls in the window before their share says anything.
    pub min_requests: u32,
    /// Share of failures that opens it.
    pub threshold: f64,
    /// Failures one after the other that open it as well.
    pub consecutive: Option<u32>,
    pub open: Duration,
    /// Calls that are let through half open, and judged together.
    pub trials: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Closed,
    Open,
    HalfOpen,
}

/// What is learned. It outlives snapshots while its name and its window stay the same.
#[derive(Debug)]
pub struct Breaker {
    born: Instant,
    window: Duration,
    /// `CLOSED`, `HALF_OPEN`, `OVER`, or since when it is open, in nanoseconds since `born`, from `OPENED` on.
    gate: AtomicU64,
    /// Failures since the last success.
    in_row: AtomicU32,
    slots: [Slot; SLOTS as usize],
    trial: Mutex<Trial>,
    opened: AtomicU64,
    half_opened: AtomicU64,
    closed: AtomicU64,
    refused: AtomicU64,
}

/// How the trials are going; of the half-open state only, but for `round`.
#[derive(Debug, Default)]
struct Trial {
    /// Permits of another round are void.
    round: u64,
    since: Option<Instant>,
    under_way: u32,
    done: u32,
    failed: u32,
    in_row: u32,
}

pub enum Admit {
    Yes,
    /// Half open: this one is a trial.
    Trial(Permit),
    No {
        until: Instant,
    },
    /// There are fewer trials than there were, so that those that are done have decided: it is to be asked again.
    Decided(State),
}

/// The place of a trial. Dropped without an outcome, it is free again.
#[derive(Debug)]
pub struct Permit {
    breaker: Arc<Breaker>,
    round: u64,
    /// The state became half open with this one.
    pub is_first: bool,
}

/// For those who look at it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Report {
    pub state: State,
    /// Since when it is open; none where it is not, or has been for long enough.
    pub since: Option<Instant>,
    /// In the window, or of the trials.
    pub calls: u64,
    pub failures: u64,
    /// Since the process began.
    pub opened: u64,
    pub half_opened: u64,
    pub closed: u64,
    pub refused: u64,
}

impl State {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "halfOpen",
        }
    }
}

impl Terms {
    fn trips(&self, calls: u64, failures: u64, in_row: u32) -> bool {
        let share = failures > 0 && failures as f64 / calls as f64 >= self.threshold;
        share && calls >= u64::from(self.min_requests) || self.in_a_row(in_row)
    }

    fn in_a_row(&self, in_row: u32) -> bool {
        self.consecutive.is_some_and(|most| in_row >= most)
    }
}

impl Trial {
    /// Of all trials, those under way as well: the rest may only make it worse.
    fn fails(&self, terms: &Terms) -> bool {
        let share = self.failed > 0 && f64::from(self.failed) / f64::from(terms.trials) >= terms.threshold;
        share || terms.in_a_row(self.in_row)
    }
}

impl Report {
    /// How long it stays open at least.
    pub fn left(&self, terms: &Terms, now: Instant) -> Duration {
        self.since.map_or(Duration::ZERO, |since| (since + terms.open).saturating_duration_since(now))
    }
}

impl Breaker {
    /// What `before` knew, but for its counts where they are of another window.
    pub fn new(window: Duration, before: Option<&Arc<Self>>, now: Instant) -> Arc<Self> {
        if let Some(same) = before.filter(|before| before.window == window) {
            return same.clone();
        }
        let new = Self {
            born: before.map_or(now, |before| before.born),
            window,
            gate: AtomicU64::default(),
            in_row: AtomicU32::default(),
            slots: Default::default(),
            trial: Mutex::default(),
            opened: AtomicU64::default(),
            half_opened: AtomicU64::default(),
            closed: AtomicU64::default(),
            refused: AtomicU64::default(),
        };
        if let Some(before) = before {
            // Half open, it begins with trials again.
            new.gate.store(
                match before.gate.load(Relaxed) {
                    HALF_OPEN => OVER,
                    other => other,
                },
                Relaxed,
            );
            let counts = |of: &Self| [&of.opened, &of.half_opened, &of.closed, &of.refused].map(|n| n.load(Relaxed));
            let [opened, half_opened, closed, refused] = counts(before);
            new.opened.store(opened, Relaxed);
            new.half_opened.store(half_opened, Relaxed);
            new.closed.store(closed, Relaxed);
            new.refused.store(refused, Relaxed);
        }
        Arc::new(new)
    }

    /// Whether a call may be made.
    pub fn admit(self: &Arc<Self>, terms: &Terms, now: Instant) -> Admit {
        match self.gate.load(Relaxed) {
            CLOSED => Admit::Yes,
            gate => match self.opened(gate).map(|since| since + terms.open).filter(|until| now < *until) {
                Some(until) => self.refuse(until),
                None => self.try_out(terms, now),
            },
        }
    }

    pub fn is_closed(&self) -> bool {
        self.gate.load(Relaxed) == CLOSED
    }

    /// Out of the fast path: open for long enough, or half open.
    fn try_out(self: &Arc<Self>, terms: &Terms, now: Instant) -> Admit {
        let mut trial = self.trial();
        let is_first = match self.gate.load(Relaxed) {
            CLOSED => return Admit::Yes,
            HALF_OPEN if trial.done >= terms.trials => return Admit::Decided(self.decide(&trial, terms, now)),
            HALF_OPEN => {
                let due = trial.since.map_or(now, |since| since + terms.open);
                if trial.under_way + trial.done >= terms.trials {
                    if now < due {
                        return self.refuse(due);
                    }
                    // They do not come back: others take their places.
                    *trial = Trial { round: trial.round + 1, under_way: 0, since: Some(now), ..*trial };
                }
                false
            }
            gate if let Some(since) = self.opened(gate)
                && now < since + terms.open =>
            {
                return self.refuse(since + terms.open);
            }
            _ => {
                *trial = Trial { round: trial.round + 1, since: Some(now), ..Trial::default() };
                self.gate.store(HALF_OPEN, Relaxed);
                self.half_opened.fetch_add(1, Relaxed);
                true
            }
        };
        trial.under_way += 1;
        Admit::Trial(Permit { breaker: self.clone(), round: trial.round, is_first })
    }

    fn refuse(&self, until: Instant) -> Admit {
        self.refused.fetch_add(1, Relaxed);
        Admit::No { until }
    }

    /// What came of a call; the state, if that has changed it. What was not a trial counts only while it is closed.
    pub fn record(&self, terms: &Terms, permit: Option<Permit>, failed: bool, now: Instant) -> Option<State> {
        if let Some(permit) = permit {
            return self.tried(terms, permit, failed, now);
        }
        if self.gate.load(Relaxed) != CLOSED {
            return None;
        }
        let tick = self.tick(now);
        self.slot(tick).count(round_of(tick), failed);
        if !failed {
            if self.in_row.load(Relaxed) != 0 {
                self.in_row.store(0, Relaxed);
            }
            return None;
        }
        let in_row = self.in_row.fetch_add(1, Relaxed).saturating_add(1);
        let (calls, failures) = self.sum(tick);
        if !terms.trips(calls, failures, in_row) {
            return None;
        }
        let _trial = self.trial();
        (self.gate.load(Relaxed) == CLOSED).then(|| self.open(now))
    }

    fn tried(&self, terms: &Terms, permit: Permit, failed: bool, now: Instant) -> Option<State> {
        let mut trial = self.trial();
        if trial.round != permit.round || self.gate.load(Relaxed) != HALF_OPEN {
            return None;
        }
        trial.done += 1;
        trial.failed += u32::from(failed);
        trial.in_row = if failed { trial.in_row + 1 } else { 0 };
        let fails = failed && trial.fails(terms);
        let state = (fails || trial.done >= terms.trials).then(|| self.decide(&trial, terms, now));
        // The permit gives its place back.
        drop(trial);
        state
    }

    fn decide(&self, trial: &Trial, terms: &Terms, now: Instant) -> State {
        if trial.fails(terms) { self.open(now) } else { self.close() }
    }

    fn open(&self, now: Instant) -> State {
        self.gate.store(self.nanos(now).saturating_add(OPENED), Relaxed);
        self.opened.fetch_add(1, Relaxed);
        State::Open
    }

    fn close(&self) -> State {
        self.in_row.store(0, Relaxed);
        self.slots.iter().for_each(|slot| slot.0.store(0, Relaxed));
        self.gate.store(CLOSED, Relaxed);
        self.closed.fetch_add(1, Relaxed);
        State::Closed
    }

    pub fn report(&self, now: Instant) -> Report {
        let trial = self.trial();
        let gate = self.gate.load(Relaxed);
        let (calls, failures) = match gate {
            HALF_OPEN => (u64::from(trial.done), u64::from(trial.failed)),
            _ => self.sum(self.tick(now)),
        };
        Report {
            state: match gate {
                CLOSED => State::Closed,
                HALF_OPEN => State::HalfOpen,
                _ => State::Open,
            },
            since: self.opened(gate),
            calls,
            failures,
            opened: self.opened.load(Relaxed),
            half_opened: self.half_opened.load(Relaxed),
            closed: self.closed.load(Relaxed),
            refused: self.refused.load(Relaxed),
        }
    }

    fn trial(&self) -> MutexGuard<'_, Trial> {
        self.trial.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn nanos(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.born).as_nanos().try_into().unwrap_or(u64::MAX)
    }

    /// Since when it is open.
    fn opened(&self, gate: u64) -> Option<Instant> {
        self.born.checked_add(Duration::from_nanos(gate.checked_sub(OPENED)?))
    }

    /// Parts of the window since the beginning.
    fn tick(&self, now: Instant) -> u64 {
        let slot = u64::try_from(self.window.as_nanos()).unwrap_or(u64::MAX) / SLOTS;
        self.nanos(now) / slot.max(1)
    }

    fn slot(&self, tick: u64) -> &Slot {
        let [first, ..] = &self.slots;
        self.slots.get((tick % SLOTS) as usize).unwrap_or(first)
    }

    /// Calls and failures of the window that ends now.
    fn sum(&self, tick: u64) -> (u64, u64) {
        let ticks = tick.saturating_sub(SLOTS - 1)..=tick;
        let each = ticks.map(|tick| self.slot(tick).of(round_of(tick)));
        each.fold((0, 0), |(calls, failures), (more, bad)| (calls + more, failures + bad))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut trial = self.breaker.trial();
        if trial.round == self.round {
            trial.under_way = trial.under_way.saturating_sub(1);
        }
    }
}

/// Which time round the ring; never 0, which is that of an empty slot.
fn round_of(tick: u64) -> u64 {
    (tick / SLOTS) % (ROUNDS - 1) + 1
}

/// One part of the window, in one word: its round, calls, failures.
#[derive(Debug, Default)]
struct Slot(AtomicU64);

const COUNT_BITS: u32 = 20;
const COUNT: u64 = (1 << COUNT_BITS) - 1;
const ROUNDS: u64 = 1 << (64 - 2 * COUNT_BITS);
/// Beyond it both counts are halved, which leaves their share as it was.
const CALLS_MAX: u64 = 1 << (COUNT_BITS - 1);

impl Slot {
    fn count(&self, round: u64, failed: bool) {
        let one = 1 << COUNT_BITS | u64::from(failed);
        let mut known = self.0.load(Relaxed);
        loop {
            let (of, calls, failures) = parts(known);
            let next = match of == round {
                // Nobody else can make it another round's before this one's time is over.
                true if calls < CALLS_MAX => {
                    self.0.fetch_add(one, Relaxed);
                    return;
                }
                true => ((round << (2 * COUNT_BITS)) | ((calls / 2) << COUNT_BITS) | (failures / 2)) + one,
                false => (round << (2 * COUNT_BITS)) + one,
            };
            match self.0.compare_exchange_weak(known, next, Relaxed, Relaxed) {
                Ok(_) => return,
                Err(other) => known = other,
            }
        }
    }

    fn of(&self, round: u64) -> (u64, u64) {
        let (of, calls, failures) = parts(self.0.load(Relaxed));
        if of == round { (calls, failures) } else { (0, 0) }
    }
}

fn parts(word: u64) -> (u64, u64, u64) {
    (word >> (2 * COUNT_BITS), word >> COUNT_BITS & COUNT, word & COUNT)
}

#[cfg(test)]
mod tests;

//! A service that loses most of its capacity for a while, in front of it a proxy with the policies that the real one
//! has, and clients that wait a second. Events in order of time, seeded: the same numbers on every run.
//!
//! The service is as services are: it works off its queue in order, and does not notice that nobody waits any longer.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use outrigger::policy::backoff::Backoff;
use outrigger::policy::budget::{Budget, Share};
use outrigger::policy::gradient::{Gradient, Settings};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// Requests a second.
pub const LOAD: f64 = 500.0;
/// What the service works on at a time, and how long one takes it on average.
const SLOTS: usize = 8;
const WORK: Duration = Duration::from_millis(10);
/// The trouble: so many slots, from second to second.
const SLOTS_LEFT: usize = 2;
pub const TROUBLE: std::ops::Range<u64> = 20..30;
pub const SECONDS: u64 = 90;
/// Longest that one try is waited for.
const TRY: Duration = Duration::from_secs(1);
const RETRIES: u32 = 3;
const BACKOFF: Backoff = Backoff { base: Duration::from_millis(25), max: Duration::from_millis(250) };
const WINDOW: Duration = Duration::from_millis(100);
const LIMIT: Settings = Settings { initial: 20, min: 4, max: 1000, tolerance: 2.0 };

#[derive(Debug, Clone, Copy)]
pub struct Policies {
    pub retries: bool,
    pub budget: Option<Share>,
    pub adaptive: bool,
}

/// Requests that were answered in time, by the second in which they were.
pub fn goodput(policies: Policies, seed: u64) -> Vec<u32> {
    let mut sim = Sim::new(policies, seed);
    sim.at(Duration::ZERO, Event::Arrival);
    sim.at(WINDOW, Event::Window);
    while let Some(Reverse((time, _, event))) = sim.events.pop() {
        sim.now = time;
        if time >= Duration::from_secs(SECONDS) {
            break;
        }
        sim.happen(event);
    }
    sim.good
}

/// One try of one request, by its number.
type Try = usize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrival,
    Begin { done: u32 },
    TimeOut(Try),
    Done(Try),
    Window,
}

struct Attempt {
    done: u32,
    begun: Duration,
    /// Somebody waits for it.
    waited_for: bool,
}

struct Sim {
    policies: Policies,
    born: Instant,
    now: Duration,
    rng: SmallRng,
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    count: u64,
    tries: Vec<Attempt>,
    queue: VecDeque<Try>,
    working: usize,
    budget: Budget,
    gradient: Gradient,
    /// Of this window: sum of latencies, answers, most at a time.
    seen: (Duration, u32, u32),
    good: Vec<u32>,
}

impl Sim {
    fn new(policies: Policies, seed: u64) -> Self {
        let born = Instant::now();
        Self {
            policies,
            born,
            now: Duration::ZERO,
            rng: SmallRng::seed_from_u64(seed),
            events: BinaryHeap::new(),
            count: 0,
            tries: Vec::new(),
            queue: VecDeque::new(),
            working: 0,
            budget: Budget::new(born),
            gradient: Gradient::new(&LIMIT),
            seen: (Duration::ZERO, 0, 0),
            good: vec![0; SECONDS as usize],
        }
    }

    fn at(&mut self, time: Duration, event: Event) {
        self.count += 1;
        self.events.push(Reverse((time, self.count, event)));
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrival => {
                let pause = self.exponential(Duration::from_secs_f64(1.0 / LOAD));
                self.at(self.now + pause, Event::Arrival);
                self.budget.request(self.born + self.now);
                self.happen(Event::Begin { done: 0 });
            }
            Event::Begin { done } => self.begin(done),
            Event::TimeOut(id) => {
                if std::mem::replace(&mut self.tries[id].waited_for, false) {
                    self.failed(self.tries[id].done);
                }
            }
            Event::Done(id) => {
                self.working -= 1;
                let took = self.now - self.tries[id].begun;
                (self.seen.0, self.seen.1) = (self.seen.0 + took, self.seen.1 + 1);
                if std::mem::replace(&mut self.tries[id].waited_for, false) {
                    self.good[self.now.as_secs() as usize] += 1;
                }
                self.work();
            }
            Event::Window => {
                if let Some(latency) = self.seen.0.checked_div(self.seen.1) {
                    self.gradient.update(latency, self.seen.2, &LIMIT);
                }
                self.seen = (Duration::ZERO, 0, self.in_flight());
                self.at(self.now + WINDOW, Event::Window);
                self.work();
            }
        }
    }

    fn begin(&mut self, done: u32) {
        if self.policies.adaptive && self.in_flight() >= self.gradient.limit() {
            return self.failed(done);
        }
        let id = self.tries.len();
        self.tries.push(Attempt { done, begun: self.now, waited_for: true });
        self.at(self.now + TRY, Event::TimeOut(id));
        self.queue.push_back(id);
        self.seen.2 = self.seen.2.max(self.in_flight());
        self.work();
    }

    /// A try was in vain.
    fn failed(&mut self, done: u32) {
        let now = self.born + self.now;
        let allowed = |share| self.budget.retry(share, now);
        if self.policies.retries && done < RETRIES && self.policies.budget.is_none_or(allowed) {
            let wait = BACKOFF.wait(done, &mut self.rng);
            self.at(self.now + wait, Event::Begin { done: done + 1 });
        }
    }

    /// The service takes on what it can.
    fn work(&mut self) {
        let slots = if TROUBLE.contains(&self.now.as_secs()) { SLOTS_LEFT } else { SLOTS };
        while self.working < slots
            && let Some(id) = self.queue.pop_front()
        {
            self.working += 1;
            let time = self.exponential(WORK);
            self.at(self.now + time, Event::Done(id));
        }
    }

    fn in_flight(&self) -> u32 {
        (self.queue.len() + self.working) as u32
    }

    fn exponential(&mut self, mean: Duration) -> Duration {
        mean.mul_f64(-(1.0 - self.rng.random::<f64>()).ln())
    }
}

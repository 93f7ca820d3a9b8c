//! The requests that a service has at a time, over all workers: exactly so many as its limits allow, and a bounded
//! number that wait for their turn. It outlives snapshots; the limits themselves are those of the snapshot that a
//! request sees.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::policy::class::Class;
use crate::policy::gradient::{Gradient, Settings};

/// Latencies are looked at in windows of this length, with at least so many answers.
const WINDOW: Duration = Duration::from_millis(100);
const ANSWERS_MIN: u32 = 10;

/// What a service may have at a time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    pub max: Option<u32>,
    pub adaptive: Option<Settings>,
    pub max_pending: u32,
}

#[derive(Debug)]
pub struct Gate {
    in_flight: AtomicU32,
    retries: AtomicU32,
    /// The written limit, as of the last that came, for those that wait.
    max: AtomicU32,
    /// The learned limit.
    adaptive: AtomicU32,
    /// Most at a time since the last window.
    peak: AtomicU32,
    pending: AtomicU32,
    waiting: Mutex<Waiting>,
    micros: AtomicU64,
    answers: AtomicU32,
    /// End of the window, in microseconds after `start`.
    window_ends: AtomicU64,
    gradient: Mutex<Option<Gradient>>,
    start: Instant,
}

/// By class.
type Waiting = [VecDeque<oneshot::Sender<Permit>>; Class::ALL.len()];

/// A place at the service, until it is dropped.
#[derive(Debug)]
pub struct Permit(Arc<Gate>);

/// A place among the retries.
#[derive(Debug)]
pub struct RetryPermit(Arc<Gate>);

/// A request that waits for its place.
#[derive(Debug)]
pub struct Place(oneshot::Receiver<Permit>);

/// What there was for a request.
#[derive(Debug)]
pub enum Entry {
    Permit(Permit),
    /// In line.
    Wait(Place),
    Full(Full),
}

/// Which limit there is no place in, and what it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    Requests(u32),
    Adaptive(u32),
}

/// The state of a gate, to be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    pub in_flight: u32,
    pub pending: usize,
    pub retries: u32,
    /// Learned, with the latency that is usual.
    pub adaptive: Option<(u32, Duration)>,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            in_flight: AtomicU32::new(0),
            retries: AtomicU32::new(0),
            max: AtomicU32::new(u32::MAX),
            adaptive: AtomicU32::new(u32::MAX),
            peak: AtomicU32::new(0),
            pending: AtomicU32::new(0),
            waiting: Mutex::default(),
            micros: AtomicU64::new(0),
            answers: AtomicU32::new(0),
            window_ends: AtomicU64::new(0),
            gradient: Mutex::default(),
            start: Instant::now(),
        }
    }
}

impl Gate {
    /// A place now, or in line, or none.
    pub fn enter(self: &Arc<Self>, limits: &Limits, class: Class) -> Entry {
        self.know(limits);
        let first = self.pending.load(Ordering::SeqCst) == 0;
        if first && self.try_enter(class) {
            return Entry::Permit(Permit(self.clone()));
        }
        let mut waiting = self.lock();
        waiting.iter_mut().for_each(|line| line.retain(|waiter| !waiter.is_closed()));
        let mut length = waiting.iter().map(VecDeque::len).sum::<usize>();
        // Nobody overtakes those who matter as much, or more.
        let (less, equal) = waiting.split_at_mut(class as usize);
        if equal.iter().all(VecDeque::is_empty) && self.try_enter(class) {
            self.count(length);
            return Entry::Permit(Permit(self.clone()));
        }
        if length >= limits.max_pending as usize {
            // The last of those who matter less gives up its place in line.
            let Some(line) = less.iter_mut().find(|line| !line.is_empty()) else {
                self.count(length);
                return Entry::Full(self.full(class));
            };
            line.pop_back();
            length -= 1;
        }
        let (sender, receiver) = oneshot::channel();
        if let Some(line) = waiting.get_mut(class as usize) {
            line.push_back(sender);
        }
        self.count(length + 1);
        // Whoever left before this was counted did not see it.
        let unwanted = self.admit(&mut waiting);
        drop(waiting);
        drop(unwanted);
        let mut place = Place(receiver);
        match place.0.try_recv() {
            Ok(permit) => Entry::Permit(permit),
            Err(_) => Entry::Wait(place),
        }
    }

    /// A place now, for what matters least: nobody waits behind it.
    pub fn try_now(self: &Arc<Self>, limits: &Limits) -> Option<Permit> {
        self.know(limits);
        let is_free = self.pending.load(Ordering::SeqCst) == 0 && self.try_enter(Class::Sheddable);
        is_free.then(|| Permit(self.clone()))
    }

    /// A place beyond every limit, for a rule in shadow mode: and which limit it is beyond, if any.
    pub fn force(self: &Arc<Self>, limits: &Limits, class: Class) -> (Permit, Option<Full>) {
        self.know(limits);
        if self.try_enter(class) {
            return (Permit(self.clone()), None);
        }
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        (Permit(self.clone()), Some(self.full(class)))
    }

    /// A place among the retries of the service, if there is one.
    pub fn try_retry(self: &Arc<Self>, max: u32) -> Option<RetryPermit> {
        let more = |retries: u32| (retries < max).then_some(retries + 1);
        let entered = self.retries.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        entered.ok().map(|_| RetryPermit(self.clone()))
    }

    /// What an answer took, for the adaptive limit.
    pub fn learn(self: &Arc<Self>, latency: Duration, now: Instant, settings: &Settings) {
        self.micros.fetch_add(micros(latency), Ordering::Relaxed);
        let answers = self.answers.fetch_add(1, Ordering::Relaxed) + 1;
        let now = micros(now.saturating_duration_since(self.start));
        if answers < ANSWERS_MIN || now < self.window_ends.load(Ordering::Relaxed) {
            return;
        }
        // One of the workers does it; the others have something better to do.
        let Ok(mut gradient) = self.gradient.try_lock() else { return };
        if now < self.window_ends.load(Ordering::Relaxed) {
            return;
        }
        self.window_ends.store(now + micros(WINDOW), Ordering::Relaxed);
        let (sum, answers) = (self.micros.swap(0, Ordering::Relaxed), self.answers.swap(0, Ordering::Relaxed));
        let peak = self.peak.swap(self.in_flight.load(Ordering::Relaxed), Ordering::Relaxed);
        let gradient = gradient.get_or_insert_with(|| Gradient::new(settings));
        gradient.update(Duration::from_micros(sum / u64::from(answers.max(1))), peak, settings);
        let limit = gradient.limit();
        if self.adaptive.swap(limit, Ordering::Relaxed) < limit && self.pending.load(Ordering::SeqCst) > 0 {
            let unwanted = self.admit(&mut self.lock());
            drop(unwanted);
        }
    }

    pub fn state(&self) -> State {
        let gradient = self.gradient.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = Some(self.adaptive.load(Ordering::Relaxed)).filter(|limit| *limit < u32::MAX);
        State {
            in_flight: self.in_flight.load(Ordering::Relaxed),
            pending: self.lock().iter().flatten().filter(|waiter| !waiter.is_closed()).count(),
            retries: self.retries.load(Ordering::Relaxed),
            adaptive: limit.map(|limit| (limit, gradient.as_ref().map(Gradient::usual).unwrap_or_default())),
        }
    }

    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Takes over what the snapshot of a request says.
    fn know(&self, limits: &Limits) {
        let max = limits.max.unwrap_or(u32::MAX);
        if self.max.load(Ordering::Relaxed) != max {
            self.max.store(max, Ordering::Relaxed);
        }
        let known = self.adaptive.load(Ordering::Relaxed);
        match &limits.adaptive {
            None if known == u32::MAX => {}
            None => {
                *self.gradient.lock().unwrap_or_else(PoisonError::into_inner) = None;
                self.adaptive.store(u32::MAX, Ordering::Relaxed);
            }
            Some(settings) if known == u32::MAX => {
                self.adaptive.store(settings.initial.clamp(settings.min, settings.max), Ordering::Relaxed);
            }
            Some(settings) if (settings.min..=settings.max).contains(&known) => {}
            Some(settings) => self.adaptive.store(known.clamp(settings.min, settings.max), Ordering::Relaxed),
        }
    }

    fn limit(&self, class: Class) -> u32 {
        let adaptive = self.adaptive.load(Ordering::Relaxed);
        let part = if adaptive == u32::MAX { adaptive } else { class.part(adaptive) };
        part.min(self.max.load(Ordering::Relaxed))
    }

    /// Which limit a class is held up by.
    pub fn full(&self, class: Class) -> Full {
        let (limit, max) = (self.limit(class), self.max.load(Ordering::Relaxed));
        if limit < max { Full::Adaptive(limit) } else { Full::Requests(max) }
    }

    fn try_enter(&self, class: Class) -> bool {
        let limit = self.limit(class);
        let more = |in_flight: u32| (in_flight < limit).then_some(in_flight + 1);
        match self.in_flight.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more) {
            Ok(before) => {
                if self.peak.load(Ordering::Relaxed) <= before {
                    self.peak.fetch_max(before + 1, Ordering::Relaxed);
                }
                true
            }
            Err(_) => false,
        }
    }

    fn leave(self: &Arc<Self>) {
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        if self.pending.load(Ordering::SeqCst) > 0 {
            let unwanted = self.admit(&mut self.lock());
            drop(unwanted);
        }
    }

    /// Lets in who waits, as far as there are places: those who matter most first. A place that nobody wanted any more
    /// is handed back, to be dropped where the lock is not held.
    fn admit(self: &Arc<Self>, waiting: &mut Waiting) -> Vec<Permit> {
        let mut unwanted = Vec::new();
        for class in Class::ALL.into_iter().rev() {
            let Some(line) = waiting.get_mut(class as usize) else { continue };
            while !line.is_empty() && self.try_enter(class) {
                let mut place = Some(Permit(self.clone()));
                while let Some(permit) = place.take() {
                    match line.pop_front() {
                        Some(waiter) => place = waiter.send(permit).err(),
                        None => unwanted.push(permit),
                    }
                }
            }
        }
        self.count(waiting.iter().map(VecDeque::len).sum());
        unwanted
    }

    fn count(&self, pending: usize) {
        self.pending.store(u32::try_from(pending).unwrap_or(u32::MAX), Ordering::SeqCst);
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// The place, once there is one. The gate itself is held by whoever asks.
    pub async fn taken(self) -> Option<Permit> {
        self.0.await.ok()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl Drop for RetryPermit {
    fn drop(&mut self) {
        self.0.retries.fetch_sub(1, Ordering::Relaxed);
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { max: Some(2), adaptive: None, max_pending: 2 };

    fn permit(entry: Entry) -> Permit {
        match entry {
            Entry::Permit(permit) => permit,
            other => panic!("{other:?}"),
        }
    }

    fn place(entry: Entry) -> Place {
        match entry {
            Entry::Wait(place) => place,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn places_then_a_line_then_nothing() {
        let gate = Arc::new(Gate::default());
        let enter = || gate.enter(&LIMITS, Class::Default);
        let (first, _second) = (permit(enter()), permit(enter()));
        let (gone, waits) = (place(enter()), place(enter()));
        assert!(matches!(enter(), Entry::Full(Full::Requests(2))));
        assert_eq!((gate.state().in_flight, gate.state().pending), (2, 2));
        drop(gone);
        assert_eq!(gate.state().pending, 1, "who has left does not wait");
        drop(first);
        let third = waits.taken().await.expect("a place");
        assert_eq!((gate.state().in_flight, gate.state().pending), (2, 0));
        let wider = Limits { max: Some(3), ..LIMITS };
        let fourth = permit(gate.enter(&wider, Class::Default));
        drop((third, fourth));
        assert_eq!(gate.state().in_flight, 1);
    }

    #[tokio::test]
    async fn a_place_is_not_lost_with_whoever_got_it() {
        let gate = Arc::new(Gate::default());
        let limits = Limits { max: Some(1), ..LIMITS };
        let first = permit(gate.enter(&limits, Class::Default));
        let (called, next) = (place(gate.enter(&limits, Class::Default)), place(gate.enter(&limits, Class::Default)));
        drop(first);
        drop(called);
        assert!(next.taken().await.is_some());
        assert_eq!(gate.state().in_flight, 0);
    }

    #[tokio::test]
    async fn those_who_matter_more_have_more_and_come_first() {
        let gate = Arc::new(Gate::default());
        let adaptive = Some(Settings { initial: 4, min: 1, max: 10, tolerance: 1.5 });
        let limits = Limits { max: None, adaptive, max_pending: 10 };
        let mut held: Vec<Permit> = (0..3).map(|_| permit(gate.enter(&limits, Class::Sheddable))).collect();
        let none = Limits { max_pending: 0, ..limits };
        assert!(matches!(gate.enter(&none, Class::Sheddable), Entry::Full(Full::Adaptive(3))));
        held.push(permit(gate.enter(&limits, Class::Critical)));
        let sheddable = place(gate.enter(&limits, Class::Sheddable));
        let critical = place(gate.enter(&limits, Class::Critical));
        held.pop();
        let got = critical.taken().await.expect("a place");
        drop(got);
        assert_eq!(gate.state().pending, 1, "3 of 4 are enough for what may be shed");
        held.pop();
        assert!(sheddable.taken().await.is_some());
    }

    #[test]
    fn the_limit_follows_latency() {
        let gate = Arc::new(Gate::default());
        let settings = Settings { initial: 20, min: 5, max: 100, tolerance: 1.5 };
        let limits = Limits { max: None, adaptive: Some(settings), max_pending: 0 };
        let mut now = gate.start;
        let mut windows = |count: u32, latency: u64| {
            for _ in 0..count {
                now += WINDOW;
                let mut held = Vec::new();
                while let Entry::Permit(permit) = gate.enter(&limits, Class::Critical) {
                    held.push(permit);
                }
                // All but the last only add to the window.
                let answers = held.len().max(ANSWERS_MIN as usize);
                (0..answers).for_each(|_| gate.learn(Duration::from_millis(latency), now, &settings));
            }
            gate.state().adaptive.map_or(0, |(limit, _)| limit)
        };
        let before = windows(30, 10);
        assert!(before > 30, "{before}");
        let during = windows(10, 100);
        assert!(during < before / 2, "{before}, then {during}");
        let after = windows(60, 10);
        assert!(after > before, "{during}, then {after}");
        let off = Limits { adaptive: None, ..limits };
        drop(gate.enter(&off, Class::Default));
        assert_eq!(gate.state().adaptive, None, "what is not configured is forgotten");
    }

    #[test]
    fn retries_are_counted_exactly() {
        let gate = Arc::new(Gate::default());
        let held: Vec<_> = (0..5).filter_map(|_| gate.try_retry(3)).collect();
        assert_eq!((held.len(), gate.state().retries), (3, 3));
        drop(held);
        assert_eq!(gate.state().retries, 0);
    }

    /// Never more than the limit, and in the end nobody is left, in line or inside.
    #[test]
    fn exact_over_all_threads() {
        let gate = Arc::new(Gate::default());
        let (limits, most) = (Limits { max: Some(3), adaptive: None, max_pending: 4 }, AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                    for n in 0..5000 {
                        let permit = match gate.enter(&limits, Class::Default) {
                            Entry::Permit(permit) => Some(permit),
                            Entry::Full(_) => None,
                            Entry::Wait(place) if n % 7 == 0 => {
                                drop(place);
                                None
                            }
                            Entry::Wait(place) => runtime.block_on(async {
                                tokio::time::timeout(Duration::from_secs(60), place.taken()).await.expect("in time")
                            }),
                        };
                        most.fetch_max(gate.in_flight.load(Ordering::SeqCst), Ordering::SeqCst);
                        drop(permit);
                    }
                });
            }
        });
        assert_eq!((gate.state().in_flight, gate.state().pending), (0, 0));
        assert!((1..=3).contains(&most.load(Ordering::SeqCst)), "{most:?}");
    }
}

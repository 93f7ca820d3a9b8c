//! The connections of a service, over all workers. Each has a place from before it is made until its socket is closed, and
//! there are as many places as `limits.maxConnections` says. Where none is left, connections that nobody uses are closed,
//! whichever worker has them, and whoever wants one waits in line.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};

use super::Cluster;
use crate::error::Reason;

/// To close a connection that nobody uses takes a moment, however short the patience of those in line may be.
const ROOM: Duration = Duration::from_millis(10);
/// A connection is lent on to who waits for it on the same worker, unless somebody has waited for so much longer.
const OVERDUE: Duration = Duration::from_millis(20);
/// While somebody waits, unused connections are looked for at least this often.
const LOOK: Duration = Duration::from_millis(20);

/// What one snapshot says, and beside it the places, which outlive it.
#[derive(Debug, Clone, Default)]
pub struct Ceiling {
    max: Option<u32>,
    max_pending: u32,
    patience: Duration,
    shadow: bool,
    places: Arc<Places>,
}

/// Of all workers.
#[derive(Debug)]
struct Places {
    state: Mutex<State>,
    /// Connections that have to be closed before all have their places: those in line, and those beyond the limit.
    wanted: AtomicU32,
    /// Made beyond the limit, in shadow mode.
    beyond: AtomicU64,
    /// Wakes the workers that may have unused connections.
    called: Notify,
}

#[derive(Debug)]
struct State {
    max: u32,
    open: u32,
    /// Told to close, and not closed yet.
    going: u32,
    line: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    sender: oneshot::Sender<Place>,
    /// Pool that it waits for.
    pool: usize,
    since: Instant,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub struct Place(Arc<Places>);

/// What there was for a connection.
pub enum Entered {
    Place(Place),
    Line(Line),
}

/// A connection that waits for its place.
pub struct Line {
    receiver: oneshot::Receiver<Place>,
    patience: Duration,
    places: Arc<Places>,
}

/// The places, to be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    pub max: Option<u32>,
    pub open: u32,
    pub pending: usize,
    pub beyond: u64,
}

/// One worker's part in them.
#[derive(Default)]
pub struct Share {
    ceiling: RefCell<Ceiling>,
    /// A connection has become unused since the last look for one.
    unused: Cell<bool>,
}

impl Default for Places {
    fn default() -> Self {
        let state = State { max: u32::MAX, open: 0, going: 0, line: VecDeque::new() };
        Self { state: Mutex::new(state), wanted: AtomicU32::new(0), beyond: AtomicU64::new(0), called: Notify::new() }
    }
}

impl Ceiling {
    /// With the places of what was known of the service.
    pub fn new(
        (max, shadow): (Option<u32>, bool),
        (max_pending, patience): (u32, Duration),
        known: Option<&Self>,
    ) -> Self {
        let places = known.map_or_else(Arc::default, |known| known.places.clone());
        Self { max, max_pending: max_pending.max(1), patience: patience.max(ROOM), shadow, places }
    }

    pub fn max(&self) -> Option<u32> {
        self.max
    }

    pub fn show(&self) -> Shown {
        let state = self.places.lock();
        let (open, pending) = (state.open, state.line.len());
        Shown { max: self.max, open, pending, beyond: self.places.beyond.load(Ordering::Relaxed) }
    }

    /// A place for a connection of this pool, now or in line.
    fn enter(&self, pool: usize) -> Result<Entered, Reason> {
        let Self { max, max_pending, patience, shadow, places } = self;
        let mut state = places.lock();
        if state.open < state.max && state.line.is_empty() {
            state.open += 1;
            if *shadow && max.is_some_and(|max| state.open > max) {
                places.beyond.fetch_add(1, Ordering::Relaxed);
            }
            return Ok(Entered::Place(Place(places.clone())));
        }
        if state.line.len() >= *max_pending as usize {
            return Err(Reason::Limit);
        }
        let (sender, receiver) = oneshot::channel();
        state.line.push_back(Waiter { sender, pool, since: Instant::now() });
        places.count(&state);
        drop(state);
        places.called.notify_waiters();
        Ok(Entered::Line(Line { receiver, patience: *patience, places: places.clone() }))
    }
}

impl Places {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, state: &State) {
        let wanted = state.wanted().saturating_sub(state.going);
        self.wanted.store(wanted, Ordering::Relaxed);
    }

    /// Lets in who waits, as far as there are places; after whatever else has changed.
    fn admit(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        let mut unwanted = Vec::new();
        while state.open < state.max
            && let Some(waiter) = state.line.pop_front()
        {
            state.open += 1;
            unwanted.extend(waiter.sender.send(Place(self.clone())).err());
        }
        self.count(&state);
        // To drop a place takes the lock.
        drop(state);
        drop(unwanted);
    }

    /// Whether one of the connections that nobody uses is to be closed.
    fn recall(&self) -> bool {
        let mut state = self.lock();
        let recalled = state.wanted() > state.going;
        state.going += u32::from(recalled);
        self.count(&state);
        recalled
    }

    /// The same for one that could be lent on to who waits for it in this pool, `since` when at the earliest.
    fn recall_from(&self, pool: usize, since: Option<Instant>) -> bool {
        let state = self.lock();
        let here = state.line.iter().find(|waiter| waiter.pool == pool).map(|waiter| waiter.since);
        let first = state.line.front().map(|waiter| waiter.since);
        let is_for_here = here.or(since).zip(first).is_some_and(|(here, first)| here < first + OVERDUE);
        let is_over = state.open > state.max.saturating_add(state.going);
        drop(state);
        (is_over || !is_for_here) && self.recall()
    }
}

impl State {
    fn wanted(&self) -> u32 {
        let line = u32::try_from(self.line.len()).unwrap_or(u32::MAX);
        self.open.saturating_sub(self.max).saturating_add(line)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.open = state.open.saturating_sub(1);
        state.going = state.going.saturating_sub(1);
        self.0.admit(state);
    }
}

impl Line {
    /// The place, as soon as there is one, or until whoever has begun to wait then has waited for too long.
    pub async fn place(&mut self, begun: Instant) -> Result<Place, Reason> {
        let taken = tokio::time::timeout_at((begun + self.patience).into(), &mut self.receiver).await;
        taken.ok().and_then(Result::ok).ok_or(Reason::Limit)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.receiver.close();
        drop(self.receiver.try_recv());
        let mut state = self.places.lock();
        state.line.retain(|waiter| !waiter.sender.is_closed());
        self.places.admit(state);
    }
}

impl Share {
    /// Takes over what a new snapshot says.
    pub(super) fn attach(&self, ceiling: &Ceiling) {
        *self.ceiling.borrow_mut() = ceiling.clone();
        let mut state = ceiling.places.lock();
        state.max = ceiling.max.filter(|_| !ceiling.shadow).unwrap_or(u32::MAX);
        ceiling.places.admit(state);
        self.unused.set(true);
        ceiling.places.called.notify_waiters();
    }

    pub(super) fn enter(&self, pool: usize) -> Result<Entered, Reason> {
        self.ceiling.borrow().enter(pool)
    }

    /// Whether a connection that was given back has to make room for another. `is_wanted`: others of its pool wait for it,
    /// though not in line.
    pub(super) fn recalls(&self, pool: usize, is_wanted: bool) -> bool {
        let ceiling = self.ceiling.borrow();
        ceiling.places.wanted.load(Ordering::Relaxed) > 0
            && ceiling.places.recall_from(pool, is_wanted.then(Instant::now))
    }

    /// A connection is unused now.
    pub(super) fn kept(&self) {
        self.unused.set(true);
    }

    pub(super) fn patience(&self) -> Duration {
        self.ceiling.borrow().patience
    }

    /// Closes unused connections of this worker where others wait for their places, for as long as the service is there.
    pub(super) async fn make_room(self: Rc<Self>, cluster: Weak<Cluster>) {
        let places = self.ceiling.borrow().places.clone();
        loop {
            let mut call = pin!(places.called.notified());
            call.as_mut().enable();
            let Some(of) = cluster.upgrade() else { return };
            let wanted = || places.wanted.load(Ordering::Relaxed) > 0;
            if wanted() && self.unused.get() {
                self.unused.set(!of.close_unused(|| places.recall()));
            }
            drop(of);
            match wanted() {
                true => drop(tokio::time::timeout(LOOK, call).await),
                false => call.await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ceiling(max: u32, max_pending: u32) -> (Rc<Share>, Ceiling) {
        let ceiling = Ceiling::new((Some(max), false), (max_pending, Duration::from_secs(60)), None);
        let share = Rc::new(Share::default());
        share.attach(&ceiling);
        (share, ceiling)
    }

    fn place(share: &Share) -> Place {
        match share.enter(1) {
            Ok(Entered::Place(place)) => place,
            Ok(Entered::Line(_)) => panic!("in line"),
            Err(reason) => panic!("{reason:?}"),
        }
    }

    fn line(share: &Share, pool: usize) -> Line {
        match share.enter(pool) {
            Ok(Entered::Line(line)) => line,
            _ => panic!("not in line"),
        }
    }

    #[tokio::test]
    async fn in_turn_and_no_longer_than_patience() {
        let (share, ceiling) = ceiling(2, 2);
        let held = [place(&share), place(&share)];
        let (mut first, mut second) = (line(&share, 1), line(&share, 1));
        assert!(matches!(share.enter(1), Err(Reason::Limit)));
        assert_eq!((ceiling.show().open, ceiling.show().pending), (2, 2));
        let [one, _other] = held;
        drop(one);
        let got = first.place(Instant::now()).await.expect("a place");
        let begun = Instant::now() - Duration::from_secs(60);
        assert_eq!(second.place(begun).await.err(), Some(Reason::Limit));
        drop((second, got));
        assert_eq!((ceiling.show().open, ceiling.show().pending), (1, 0));
    }

    #[tokio::test]
    async fn a_place_is_not_lost_with_whoever_was_given_it() {
        let (share, ceiling) = ceiling(1, 9);
        let held = place(&share);
        let (gone, left, mut next) = (line(&share, 1), line(&share, 1), line(&share, 1));
        drop(left);
        assert_eq!(ceiling.show().pending, 2, "who has left does not wait");
        drop(held);
        drop(gone);
        drop(next.place(Instant::now()).await.expect("a place"));
        assert_eq!(ceiling.show().open, 0);
    }

    #[tokio::test]
    async fn no_more_are_recalled_than_are_wanted() {
        let (share, ceiling) = ceiling(3, 9);
        let held = [place(&share), place(&share), place(&share)];
        assert!(!share.recalls(7, false), "nobody waits");
        let waits = [line(&share, 1), line(&share, 1)];
        assert!(share.recalls(7, false) && share.recalls(7, false));
        assert!(!share.recalls(7, false), "two are enough");
        drop(waits);
        drop(held);
        assert!(!share.recalls(7, false));
        // What a reload has left no room for.
        let held = [place(&share), place(&share), place(&share)];
        let lower = Ceiling::new((Some(2), false), (9, ROOM), Some(&ceiling));
        share.attach(&lower);
        assert!(share.recalls(7, true), "even if it is of use");
        assert!(!share.recalls(7, true));
        let mut waits = line(&share, 1);
        // And a higher limit lets in at once.
        share.attach(&Ceiling::new((None, false), (9, ROOM), Some(&ceiling)));
        assert!(waits.place(Instant::now()).await.is_ok());
        drop(held);
    }

    #[tokio::test]
    async fn it_is_lent_on_unless_somebody_has_waited_longer() {
        let (share, _ceiling) = ceiling(1, 9);
        let _held = place(&share);
        let _here = line(&share, 1);
        assert!(!share.recalls(1, false), "its own pool is first in line");
        assert!(share.recalls(2, false), "nobody waits for it");
        let (share, _ceiling) = self::ceiling(1, 9);
        let _held = place(&share);
        let _elsewhere = line(&share, 2);
        let _here = line(&share, 1);
        assert!(!share.recalls(1, false), "as good as at the same time");
        let late = Some(Instant::now() + 2 * OVERDUE);
        assert!(share.ceiling.borrow().places.recall_from(3, late), "who has come so much later");
    }

    #[test]
    fn in_shadow_mode_all_have_their_places() {
        let shadow = Ceiling::new((Some(1), true), (9, ROOM), None);
        let share = Share::default();
        share.attach(&shadow);
        let _held = [place(&share), place(&share), place(&share)];
        assert_eq!((shadow.show().open, shadow.show().beyond), (3, 2));
        assert!(!share.recalls(1, false));
    }

    /// Never more than the limit, and in the end nobody is left.
    #[test]
    fn exact_over_all_threads() {
        let ceiling = Ceiling::new((Some(3), false), (4, Duration::from_secs(60)), None);
        let most = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                    let share = Share::default();
                    share.attach(&ceiling);
                    for n in 0..3000 {
                        let place = match share.enter(n) {
                            Ok(Entered::Place(place)) => Some(place),
                            Ok(Entered::Line(_)) if n % 7 == 0 => None,
                            Ok(Entered::Line(mut line)) => runtime.block_on(line.place(Instant::now())).ok(),
                            Err(_) => None,
                        };
                        most.fetch_max(ceiling.show().open, Ordering::SeqCst);
                        std::thread::yield_now();
                        drop(place);
                    }
                });
            }
        });
        assert_eq!((ceiling.show().open, ceiling.show().pending), (0, 0));
        assert!((1..=3).contains(&most.load(Ordering::SeqCst)), "{most:?}");
    }
}

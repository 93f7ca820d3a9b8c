//! The connections of a service, over all workers. Each has a place from before it is made to its end, and there are as
//! many places as `limits.maxConnections` says. Where none is left, connections that nobody uses are closed, whichever
//! worker has them, and whoever wants one waits in line.

use std::pin::pin;
use std::rc::Weak;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::Cluster;
use super::gate::{Entry, Gate, Limits, Permit, Place};
use crate::error::Reason;
use crate::policy::class::Class;

/// To close a connection that nobody uses takes a moment, however short the patience of those in line may be.
const ROOM: Duration = Duration::from_millis(10);
/// Who has waited for so long comes before those who could be lent what is there.
const OVERDUE: Duration = Duration::from_millis(20);
/// After a look for unused connections that found none, the next is so much later.
const PAUSE: Duration = Duration::from_millis(10);

/// What one snapshot says, and beside it the places, which outlive it.
#[derive(Debug, Clone, Default)]
pub struct Ceiling {
    max: Option<u32>,
    max_pending: u32,
    patience: Duration,
    shadow: bool,
    places: Arc<Places>,
}

#[derive(Debug, Default)]
struct Places {
    gate: Arc<Gate>,
    /// Waiters who see others of their worker be lent what they wait for.
    overdue: AtomicU32,
    /// Connections that were made beyond the limit, in shadow mode.
    beyond: AtomicU64,
    /// Wakes the workers that may have unused connections.
    called: Notify,
}

/// What there was for a connection.
pub enum Entered {
    Place(Permit),
    Line(Line),
}

/// A connection that waits for its place.
pub struct Line {
    place: Place,
    patience: Duration,
    places: Arc<Places>,
}

/// The state of the places, to be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    pub max: Option<u32>,
    pub open: u32,
    pub pending: usize,
    pub beyond: u64,
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

    /// A place now, or in line.
    pub fn enter(&self) -> Result<Entered, Reason> {
        let Self { max, max_pending, patience, places, .. } = self;
        let limits = Limits { max: *max, adaptive: None, max_pending: *max_pending };
        if self.shadow {
            let (place, full) = places.gate.force(&limits, Class::Default);
            places.beyond.fetch_add(u64::from(full.is_some()), Ordering::Relaxed);
            return Ok(Entered::Place(place));
        }
        match places.gate.enter(&limits, Class::Default) {
            Entry::Permit(place) => Ok(Entered::Place(place)),
            Entry::Full(_) => Err(Reason::Limit),
            Entry::Wait(place) => {
                if places.gate.pending() == 1 {
                    places.overdue.store(0, Ordering::Relaxed);
                }
                places.called.notify_waiters();
                Ok(Entered::Line(Line { place, patience: *patience, places: places.clone() }))
            }
        }
    }

    /// The same, with the wait.
    pub async fn place(&self) -> Result<Permit, Reason> {
        match self.enter()? {
            Entered::Place(place) => Ok(place),
            Entered::Line(line) => line.place().await,
        }
    }

    /// Whether a connection that was given back has to make room for another. `is_wanted`: it is of use here.
    pub fn recalls(&self, is_wanted: bool) -> bool {
        let Places { gate, overdue, .. } = &*self.places;
        let calls = || overdue.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |all| all.checked_sub(1)).is_ok();
        self.excess() > 0 || (gate.pending() > 0 && (!is_wanted || calls()))
    }

    /// So many are there beyond what a reload has left.
    fn excess(&self) -> u32 {
        let max = self.max.filter(|_| !self.shadow);
        max.map_or(0, |max| self.places.gate.in_flight().saturating_sub(max))
    }

    pub fn state(&self) -> State {
        let state = self.places.gate.state();
        let beyond = self.places.beyond.load(Ordering::Relaxed);
        State { max: self.max, open: state.in_flight, pending: state.pending, beyond }
    }

    /// Closes unused connections of one worker where others wait for their places, for as long as the service is there.
    pub(super) async fn make_room(self, cluster: Weak<Cluster>) {
        let Places { gate, called, .. } = &*self.places;
        loop {
            let mut call = pin!(called.notified());
            call.as_mut().enable();
            let Some(of) = cluster.upgrade() else { return };
            let wanted = gate.pending().max(of.ceiling.borrow().excess());
            let closed = of.close_unused(wanted as usize);
            drop(of);
            let looked = Instant::now();
            call.await;
            if closed == 0 && wanted > 0 {
                tokio::time::sleep_until((looked + PAUSE).into()).await;
            }
        }
    }

    /// A reload may have lowered it.
    pub(super) fn look(&self) {
        if self.excess() > 0 {
            self.places.called.notify_waiters();
        }
    }
}

impl Line {
    pub async fn place(self) -> Result<Permit, Reason> {
        let Self { mut place, patience, places } = self;
        let early = OVERDUE.min(patience / 4);
        let late = patience - early;
        if let Ok(Some(place)) = tokio::time::timeout(early, place.taken()).await {
            return Ok(place);
        }
        places.overdue.fetch_add(1, Ordering::Relaxed);
        let taken = tokio::time::timeout(late, place.taken()).await;
        taken.ok().flatten().ok_or(Reason::Limit)
    }
}

//! What was tried for one exchange, and how long each step of it took: kept beside the exchange, so that a try that is
//! cut off by its deadline is known as well.

use std::cell::{Cell, Ref, RefCell};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use http::Version;

use crate::error::Reason;
use crate::telemetry::recent::{ATTEMPTS_MAX, Attempt, Connection, Micros, NotAgain, Outcome};
use crate::wire::address::Address;

/// Before something comes of it: what is told if nobody waits for that.
const NONE: Attempt = Attempt {
    endpoint: Address::Ip(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0)),
    outcome: Outcome::Failed(Reason::ClientReset),
    protocol: Version::HTTP_11,
    connection: None,
    queue: None,
    connect: None,
    first_byte: None,
};

pub struct Tries {
    /// The first few; the last slot is that of the last try.
    slots: RefCell<[Attempt; ATTEMPTS_MAX]>,
    /// When the step that is under way began; none where nothing is.
    since: [Cell<Option<Instant>>; ATTEMPTS_MAX],
    count: Cell<usize>,
    pub not_again: Cell<Option<NotAgain>>,
}

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(usize);

impl Default for Tries {
    fn default() -> Self {
        Self {
            slots: RefCell::new([NONE; ATTEMPTS_MAX]),
            since: Default::default(),
            count: Cell::new(0),
            not_again: Cell::new(None),
        }
    }
}

impl Tries {
    pub fn begin(&self, endpoint: Address, protocol: Version, now: Instant) -> Slot {
        let slot = Slot(self.count.get().min(ATTEMPTS_MAX - 1));
        self.count.set(self.count.get() + 1);
        self.set_since(slot, Some(now));
        self.with(slot, |slot| *slot = Attempt { endpoint, protocol, ..NONE });
        slot
    }

    /// A connection is there; how long that took, and how much of it was spent on making one.
    pub fn connected(&self, slot: Slot, reused: bool, now: Instant, took: Duration, connecting: Duration) {
        self.set_since(slot, Some(now));
        self.with(slot, |attempt| {
            attempt.connection = Some(if reused { Connection::Reused } else { Connection::New });
            attempt.queue = telling(took.saturating_sub(connecting));
            attempt.connect = (!reused).then(|| connecting.into());
        });
    }

    /// No connection was had.
    pub fn unconnected(&self, slot: Slot, reason: Reason, took: Duration) {
        self.with(slot, |attempt| {
            attempt.outcome = Outcome::Failed(reason);
            match reason {
                Reason::Overflow | Reason::Limit => attempt.queue = Some(took.into()),
                _ => attempt.connect = Some(took.into()),
            }
        });
    }

    pub fn ended(&self, slot: Slot, outcome: Outcome, now: Instant) {
        let waited = self.take_waited(slot, now);
        self.with(slot, |attempt| {
            attempt.outcome = outcome;
            if attempt.connection.is_some() {
                attempt.first_byte = waited;
            }
        });
    }

    /// Whether the try that was begun last has no connection yet.
    pub fn is_unconnected(&self) -> bool {
        self.known().last().is_some_and(|attempt| attempt.connection.is_none())
    }

    /// Nobody waits any longer for what is under way. `queued`: a connection was waited for, and not being made.
    pub fn cut(&self, outcome: Outcome, queued: bool, now: Instant) {
        for slot in (0..ATTEMPTS_MAX).map(Slot) {
            let Some(waited) = self.take_waited(slot, now) else { continue };
            self.with(slot, |attempt| {
                attempt.outcome = outcome;
                match attempt.connection {
                    Some(_) => attempt.first_byte = Some(waited),
                    None if queued => attempt.queue = Some(waited),
                    None => attempt.connect = Some(waited),
                }
            });
        }
    }

    pub fn count(&self) -> usize {
        self.count.get()
    }

    /// Those that are known.
    pub fn known(&self) -> Ref<'_, [Attempt]> {
        let count = self.count.get();
        Ref::map(self.slots.borrow(), |slots| slots.get(..count).unwrap_or(slots))
    }

    /// Of the last one.
    pub fn endpoint(&self) -> Option<Address> {
        self.known().last().map(|attempt| attempt.endpoint.clone())
    }

    /// Of the last one, where it was sent and is not answered.
    pub fn asked(&self) -> Option<Address> {
        let known = self.known();
        let (last, since) = (known.last()?, self.since.get(known.len() - 1)?.get());
        (since.is_some() && last.connection.is_some()).then(|| last.endpoint.clone())
    }

    fn take_waited(&self, slot: Slot, now: Instant) -> Option<Micros> {
        let since = self.since.get(slot.0)?.take()?;
        Some(now.saturating_duration_since(since).into())
    }

    fn set_since(&self, slot: Slot, since: Option<Instant>) {
        if let Some(cell) = self.since.get(slot.0) {
            cell.set(since);
        }
    }

    fn with(&self, slot: Slot, change: impl FnOnce(&mut Attempt)) {
        if let Some(attempt) = self.slots.borrow_mut().get_mut(slot.0) {
            change(attempt);
        }
    }
}

/// No wait is not worth telling.
fn telling(time: Duration) -> Option<Micros> {
    (time >= Duration::from_micros(1)).then(|| time.into())
}

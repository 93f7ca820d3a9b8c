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
    count: Cell<usize>,
    /// When the step that is under way began.
    since: Cell<Option<Instant>>,
    pub not_again: Cell<Option<NotAgain>>,
}

impl Default for Tries {
    fn default() -> Self {
        let slots = RefCell::new([NONE; ATTEMPTS_MAX]);
        Self { slots, count: Cell::new(0), since: Cell::new(None), not_again: Cell::new(None) }
    }
}

impl Tries {
    pub fn begin(&self, endpoint: Address, protocol: Version, now: Instant) {
        self.count.set(self.count.get() + 1);
        self.since.set(Some(now));
        self.with_last(|slot| *slot = Attempt { endpoint, protocol, ..NONE });
    }

    /// A connection is there; how long that took, and how much of it was spent on making one.
    pub fn connected(&self, reused: bool, now: Instant, took: Duration, connecting: Duration) {
        self.since.set(Some(now));
        self.with_last(|attempt| {
            attempt.connection = Some(if reused { Connection::Reused } else { Connection::New });
            attempt.queue = telling(took.saturating_sub(connecting));
            attempt.connect = (!reused).then(|| connecting.into());
        });
    }

    /// No connection was had.
    pub fn unconnected(&self, reason: Reason, took: Duration) {
        self.with_last(|attempt| {
            attempt.outcome = Outcome::Failed(reason);
            match reason {
                Reason::Overflow => attempt.queue = Some(took.into()),
                _ => attempt.connect = Some(took.into()),
            }
        });
    }

    pub fn ended(&self, outcome: Outcome, now: Instant) {
        let waited = self.waited(now);
        self.with_last(|attempt| {
            attempt.outcome = outcome;
            if attempt.connection.is_some() {
                attempt.first_byte = waited;
            }
        });
    }

    /// Nobody waits for it any longer. `queued`: a connection was waited for, and not being made.
    pub fn cut(&self, reason: Reason, queued: bool, now: Instant) {
        let waited = self.waited(now);
        self.with_last(|attempt| {
            attempt.outcome = Outcome::Failed(reason);
            match attempt.connection {
                Some(_) => attempt.first_byte = waited,
                None if queued => attempt.queue = waited,
                None => attempt.connect = waited,
            }
        });
    }

    fn waited(&self, now: Instant) -> Option<Micros> {
        self.since.get().map(|since| now.saturating_duration_since(since).into())
    }

    pub fn count(&self) -> usize {
        self.count.get()
    }

    /// Those that are known.
    pub fn known(&self) -> Ref<'_, [Attempt]> {
        let count = self.count.get();
        Ref::map(self.slots.borrow(), |slots| slots.get(..count).unwrap_or(slots))
    }

    fn last(&self) -> usize {
        self.count.get().saturating_sub(1).min(ATTEMPTS_MAX - 1)
    }

    fn with_last(&self, change: impl FnOnce(&mut Attempt)) {
        if let Some(attempt) = self.slots.borrow_mut().get_mut(self.last()) {
            change(attempt);
        }
    }
}

/// No wait is not worth telling.
fn telling(time: Duration) -> Option<Micros> {
    (time >= Duration::from_micros(1)).then(|| time.into())
}

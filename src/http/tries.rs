//! What was tried for one exchange, and how long each step of it took: kept beside the exchange, so that a try that is
//! cut off by its deadline is known as well.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::Version;

use crate::error::Reason;
use crate::telemetry::recent::{ATTEMPTS_MAX, Attempt, Connection, Micros, NotAgain, Outcome};

#[derive(Default)]
pub struct Tries {
    /// The first few; the last slot is that of the last try.
    slots: RefCell<[Option<Attempt>; ATTEMPTS_MAX]>,
    count: Cell<usize>,
    /// When the step that is under way began.
    since: Cell<Option<Instant>>,
    pub not_again: Cell<Option<NotAgain>>,
}

impl Tries {
    pub fn begin(&self, endpoint: SocketAddr, protocol: Version, now: Instant) {
        self.since.set(Some(now));
        self.count.set(self.count.get() + 1);
        let attempt = Attempt {
            endpoint,
            // Until something comes of it: what is told if nobody waits for that.
            outcome: Outcome::Failed(Reason::ClientReset),
            protocol,
            connection: None,
            queue: None,
            connect: None,
            first_byte: None,
        };
        if let Some(slot) = self.slots.borrow_mut().get_mut(self.last()) {
            *slot = Some(attempt);
        }
    }

    /// A connection is there; how long that took, and how much of it was spent on making one.
    pub fn connected(&self, reused: bool, took: Duration, connecting: Duration, now: Instant) {
        self.since.set(Some(now));
        self.with_last(|attempt| {
            attempt.connection = Some(if reused { Connection::Reused } else { Connection::New });
            attempt.queue = waited(took.saturating_sub(connecting));
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

    /// `waited` from the request being sent.
    pub fn ended(&self, outcome: Outcome, waited: Option<Duration>) {
        self.with_last(|attempt| {
            attempt.outcome = outcome;
            attempt.first_byte = waited.map(Micros::from).or(attempt.first_byte);
        });
    }

    /// Nobody waits for it any longer. `queued`: a connection was waited for, and not being made.
    pub fn cut(&self, reason: Reason, queued: bool, now: Instant) {
        let waited = self.since.get().map(|since| now.saturating_duration_since(since).into());
        self.with_last(|attempt| {
            attempt.outcome = Outcome::Failed(reason);
            match attempt.connection {
                Some(_) => attempt.first_byte = waited,
                None if queued => attempt.queue = waited,
                None => attempt.connect = waited,
            }
        });
    }

    pub fn count(&self) -> usize {
        self.count.get()
    }

    pub fn list(&self) -> [Option<Attempt>; ATTEMPTS_MAX] {
        *self.slots.borrow()
    }

    fn last(&self) -> usize {
        self.count.get().saturating_sub(1).min(ATTEMPTS_MAX - 1)
    }

    fn with_last(&self, change: impl FnOnce(&mut Attempt)) {
        if let Some(Some(attempt)) = self.slots.borrow_mut().get_mut(self.last()) {
            change(attempt);
        }
    }
}

/// No wait is not worth telling.
fn waited(time: Duration) -> Option<Micros> {
    (time >= Duration::from_micros(1)).then(|| time.into())
}

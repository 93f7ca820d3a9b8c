//! A client that has announced how long it waits ends the call itself when that is over, a moment before we would: to
//! whoever learns it is a timeout, and not a client that left.

use std::rc::Rc;
use std::time::Instant;

use super::outcome::{self, Ended};
use super::retry::Sending;
use crate::error::Reason;
use crate::net::clock;
use crate::policy::outcome::{Kind, Outcome};
use crate::snapshot::circuit::Heard;
use crate::upstream::pool::Pool;

/// Dropped before its end, the client has left.
pub struct Patience<'a> {
    sending: &'a Sending<'a>,
    since: Instant,
    over: bool,
}

impl<'a> Patience<'a> {
    pub fn begin(sending: &'a Sending<'a>, since: Instant) -> Self {
        Self { sending, since, over: false }
    }

    pub fn end(mut self) {
        self.over = true;
    }

    /// Of the try that is under way.
    fn pool(&self) -> Option<Rc<Pool>> {
        let (record, mut found) = (self.sending.record, None);
        let address = record.tries.asked()?;
        let cluster = record.view.clusters.get(self.sending.upstream.target.service)?;
        cluster.each_pool(|pool| found = found.take().or_else(|| (pool.address == address).then(|| pool.clone())));
        found
    }
}

impl Drop for Patience<'_> {
    fn drop(&mut self) {
        let Sending { record, upstream, route, service, .. } = self.sending;
        if self.over || std::thread::panicking() {
            return;
        }
        let now = clock::tick();
        if !upstream.is_given_up(record.start, now) || record.conn.forced().is_some() {
            return;
        }
        let Some(pool) = &self.pool() else { return };
        let outcome =
            Outcome { kind: Kind::Failed(Reason::RequestTimeout), took: now.saturating_duration_since(self.since) };
        let (circuit, heard) = (&record.circuit, Heard::default());
        outcome::learn(&Ended { route, service, pool, outcome, circuit, heard, head: None });
    }
}

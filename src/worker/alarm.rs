//! How the workers tell that requests fail while a reload is on probation.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use tokio::sync::Notify;

/// Failures of a probation after which it is looked at at once: the damage is bounded in requests, not only in time.
const FAILURES: u32 = 8;

#[derive(Debug, Default)]
pub struct Alarm {
    armed: AtomicBool,
    failures: AtomicU32,
    bell: Notify,
}

impl Alarm {
    /// A request has failed. Costs a load where no probation is on.
    pub fn failed(&self) {
        if self.armed.load(Relaxed) && self.failures.fetch_add(1, Relaxed) % FAILURES == FAILURES - 1 {
            self.bell.notify_one();
        }
    }

    pub fn arm(&self, armed: bool) {
        self.armed.store(armed, Relaxed);
    }

    pub async fn rung(&self) {
        self.bell.notified().await;
    }
}

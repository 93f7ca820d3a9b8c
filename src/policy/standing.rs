//! What all workers know of one endpoint: whether it may be chosen, and why not. Written by health checks and by outlier
//! detection, read at every pick.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::outlier::Record;
use super::streak::Streak;

#[derive(Debug, Default)]
pub struct Standing {
    /// By the last health checks.
    unhealthy: AtomicBool,
    /// By outlier detection.
    ejected: AtomicBool,
    checked: Mutex<Checked>,
    /// For outlier detection.
    pub record: Record,
}

/// What health checks have said.
#[derive(Debug, Default)]
pub struct Checked {
    pub streak: Streak,
    /// Of the last one.
    pub at: Option<SystemTime>,
    pub error: Option<String>,
    /// When the endpoint has become what it is.
    pub since: Option<SystemTime>,
}

impl Standing {
    pub fn is_available(&self) -> bool {
        !self.is_unhealthy() && !self.is_ejected()
    }

    pub fn is_unhealthy(&self) -> bool {
        self.unhealthy.load(Ordering::Relaxed)
    }

    pub fn is_ejected(&self) -> bool {
        self.ejected.load(Ordering::Relaxed)
    }

    pub fn set_unhealthy(&self, unhealthy: bool) {
        self.unhealthy.store(unhealthy, Ordering::Relaxed);
    }

    pub fn set_ejected(&self, ejected: bool) {
        self.ejected.store(ejected, Ordering::Relaxed);
    }

    /// Not on the path of a request.
    pub fn checked(&self) -> MutexGuard<'_, Checked> {
        self.checked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

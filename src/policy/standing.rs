//! What all workers know of one endpoint: whether it may be chosen. Written by health checks and by outlier detection,
//! read at every pick.

use std::sync::atomic::{AtomicBool, Ordering};

#[derive(Debug, Default)]
pub struct Standing {
    /// By the last health checks.
    unhealthy: AtomicBool,
    /// By outlier detection.
    ejected: AtomicBool,
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
}

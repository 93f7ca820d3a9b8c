//! How the process stops: in phases that only ever move forward, seen by all threads.

use std::sync::atomic::{AtomicU8, Ordering};

/// Where the process is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    Running,
    /// Not ready any more, but still serving: whoever sends has to learn that first. Answers ask to close.
    LameDuck,
    /// No new connections; those without a request close, the others finish it.
    Closing,
    /// Time is up: everything closes.
    Forced,
}

#[derive(Debug, Default)]
pub struct Drain(AtomicU8);

impl Drain {
    pub fn phase(&self) -> Phase {
        match self.0.load(Ordering::Acquire) {
            0 => Phase::Running,
            1 => Phase::LameDuck,
            2 => Phase::Closing,
            _ => Phase::Forced,
        }
    }

    /// Moves on, never back. Whether it moved.
    pub fn advance(&self, phase: Phase) -> bool {
        self.0.fetch_max(phase as u8, Ordering::AcqRel) < phase as u8
    }
}

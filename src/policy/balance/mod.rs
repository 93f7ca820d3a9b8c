//! Choosing one of the endpoints of a service: which of them may be chosen now, how much of the traffic each tier, zone
//! or region of them gets, and which one it is.
//!
//! An endpoint goes by its slot, a small number that stays the same while it is there. What changes from one request to
//! the next (its standing, its load) is asked for through `Live`.

mod draw;
mod ewma;
mod group;
mod maglev;
mod ring;
mod set;
mod shares;
mod why;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use crate::config::schema::{LbPolicy, ZoneMode};

pub use ewma::{Ewma, cost};
pub use set::Set;
pub use why::{How, Why};

/// Places of a table of maglev, where nothing else is said: a prime.
pub const TABLE_SIZE: u32 = 65_537;

/// How the endpoints of a service are chosen among.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub policy: LbPolicy,
    /// Percent over the mean.
    pub max_load: Option<u32>,
    pub table_size: u32,
    /// What our own zone means, and which it is.
    pub zone: Option<(ZoneMode, Box<str>)>,
    /// Our own; empty where it is not known.
    pub region: Box<str>,
    /// Those that come after it.
    pub regions: Option<Box<[Box<str>]>>,
    pub slow_start: Duration,
    /// Percent that may be unavailable.
    pub panic_threshold: u32,
}

/// An endpoint, as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub slot: u32,
    /// The hash of its address.
    pub id: u64,
    /// Above 0.
    pub weight: u32,
    pub priority: u32,
    pub zone: Option<Arc<str>>,
    pub region: Option<Arc<str>>,
}

/// What is known of endpoints at the moment of a pick, by slot.
pub trait Live {
    fn is_available(&self, slot: u32) -> bool;
    /// The request has been there.
    fn was_tried(&self, slot: u32) -> bool;
    fn in_flight(&self, slot: u32) -> u64;
    /// Recent latency in seconds; 0 where it is not known.
    fn latency(&self, slot: u32) -> f64;
    /// The part of its share that an endpoint is to get by now: less than 1 while it is new.
    fn warmth(&self, slot: u32) -> f64;
}

/// A choice, and what it goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Picked {
    pub slot: u32,
    pub why: Why,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            policy: LbPolicy::default(),
            max_load: None,
            table_size: TABLE_SIZE,
            zone: None,
            region: "".into(),
            regions: None,
            slow_start: Duration::ZERO,
            panic_threshold: 50,
        }
    }
}

/// What an endpoint of this age gets of its share: a tenth at first, all of it after `slow_start`.
pub fn warmth(age: Duration, slow_start: Duration) -> f64 {
    if age >= slow_start { 1.0 } else { (age.as_secs_f64() / slow_start.as_secs_f64()).max(0.1) }
}

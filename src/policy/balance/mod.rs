//! Choosing one of the endpoints of a service.

use std::time::Duration;

use crate::config::schema::{LbPolicy, ZoneMode};

/// Places of a table of maglev, where nothing else is said: a prime (Eisenbud 2016, 3.4).
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

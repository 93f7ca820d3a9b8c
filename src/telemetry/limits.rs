//! What services have at a time, beside their limits. Written by one worker, twice a second.

use super::counter::Gauge;

#[derive(Debug, Default)]
pub struct Limits {
    pub in_flight: Gauge,
    pub pending: Gauge,
    pub connections: Gauge,
    /// Made beyond a limit in shadow mode, since the start.
    pub connections_beyond: Gauge,
    /// 0 is none.
    pub written: Gauge,
    pub adaptive: Gauge,
}

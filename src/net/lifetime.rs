//! How long a connection may live on what was proven at its start: no longer than its certificates, nor than it is
//! told. Somewhat before its end it is asked to close, at a random moment, so that not all come again at once.

use std::time::{Duration, Instant, SystemTime};

/// Share of its life after which a connection is asked to close: the least, and what chance adds at most.
const SOFT: (f64, f64) = (0.85, 0.1);
/// Where the end lies beyond what a clock can hold.
const FAR: Duration = Duration::from_secs(100 * 365 * 86_400);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    /// From here on nothing new is begun.
    pub soft: Instant,
    /// Here it ends.
    pub hard: Instant,
}

impl Lifetime {
    /// `ends` are those of the certificates; `chance` is from 0 to 1.
    pub fn new(
        now: Instant,
        clock: SystemTime,
        ends: impl IntoIterator<Item = SystemTime>,
        max_age: Option<Duration>,
        chance: f64,
    ) -> Self {
        let ends = ends.into_iter().map(|end| end.duration_since(clock).unwrap_or_default());
        let left = ends.chain(max_age).min().unwrap_or(FAR).min(FAR);
        Self { soft: now + left.mul_f64(SOFT.0 + SOFT.1 * chance.clamp(0.0, 1.0)), hard: now + left }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_end_counts() {
        let (now, clock) = (Instant::now(), SystemTime::now());
        let at = |seconds| clock + Duration::from_secs(seconds);
        let lifetime = |ends: &[SystemTime], age, chance| Lifetime::new(now, clock, ends.iter().copied(), age, chance);
        let hour = Some(Duration::from_secs(3600));
        assert_eq!(lifetime(&[at(7200), at(9000)], hour, 0.0).hard, now + Duration::from_secs(3600));
        assert_eq!(lifetime(&[at(7200), at(100)], hour, 0.0).hard, now + Duration::from_secs(100));
        assert_eq!(lifetime(&[at(100)], None, 0.0).soft, now + Duration::from_secs(85));
        assert_eq!(lifetime(&[at(100)], None, 1.0).soft, now + Duration::from_secs(95));
        // Over already; and without any end.
        assert_eq!(lifetime(&[clock - Duration::from_secs(1)], None, 0.5).hard, now);
        assert!(lifetime(&[], None, 0.5).soft > now + FAR / 2);
    }
}

//! How long to wait before the next try: exponential with full jitter, so that those who failed together do not come
//! back together.

use std::time::Duration;

use rand::Rng;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The bound of the first wait; each further one is twice the last.
    pub base: Duration,
    pub max: Duration,
}

impl Backoff {
    /// Anything from nothing to the bound. `done` is the number of retries so far.
    pub fn wait(&self, done: u32, rng: &mut impl Rng) -> Duration {
        self.bound(done).mul_f64(rng.random())
    }

    pub fn bound(&self, done: u32) -> Duration {
        let factor = 1u32.checked_shl(done).unwrap_or(u32::MAX);
        self.base.saturating_mul(factor).min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    #[test]
    fn bounds_double_up_to_the_largest() {
        let backoff = Backoff { base: Duration::from_millis(25), max: Duration::from_millis(250) };
        let bounds: Vec<u128> = (0..6).map(|done| backoff.bound(done).as_millis()).collect();
        assert_eq!(bounds, [25, 50, 100, 200, 250, 250]);
        assert_eq!(backoff.bound(u32::MAX), backoff.max);
    }

    #[test]
    fn waits_are_spread_over_the_whole_of_it() {
        let backoff = Backoff { base: Duration::from_millis(100), max: Duration::from_secs(1) };
        let mut rng = SmallRng::seed_from_u64(3);
        let waits: Vec<u128> = (0..1000).map(|_| backoff.wait(0, &mut rng).as_millis()).collect();
        assert!(waits.iter().all(|wait| *wait <= 100));
        let low = waits.iter().filter(|wait| **wait < 50).count();
        assert!((420..580).contains(&low), "{low} of 1000 in the lower half");
    }
}

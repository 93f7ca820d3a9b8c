//! A live percentile in one number: each value moves it, up where the value is above and down where it is below, so
//! that it comes to rest where the shares are as asked. It follows what changes, and costs one atomic step.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How far one value moves it, as a share of what it is.
const STEP: f64 = 0.05;

#[derive(Debug, Default)]
pub struct Percentile {
    /// Nanoseconds; 0 before the first value.
    nanos: AtomicU64,
    count: AtomicU64,
}

/// Values before it is believed.
const ENOUGH: u64 = 100;

impl Percentile {
    /// `share` is that of the values which are to be below: 0.95.
    pub fn see(&self, value: Duration, share: f64) {
        let value = u64::try_from(value.as_nanos()).unwrap_or(u64::MAX).max(1);
        let known = self.nanos.load(Ordering::Relaxed);
        let next = match known {
            0 => value,
            known if value > known => (known as f64 * (1.0 + STEP * share)) as u64 + 1,
            known => (known as f64 * (1.0 - STEP * (1.0 - share))) as u64,
        };
        // Of two that come at once one may get lost: it is an estimate.
        self.nanos.store(next.max(1), Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    /// None before there were enough values.
    pub fn get(&self) -> Option<Duration> {
        let enough = self.count.load(Ordering::Relaxed) >= ENOUGH;
        enough.then(|| Duration::from_nanos(self.nanos.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    /// The share of the last half of the values that were below what was known at the time.
    fn share_below(share: f64, value: impl Fn(u64, &mut SmallRng) -> f64) -> f64 {
        let (percentile, mut rng) = (Percentile::default(), SmallRng::seed_from_u64(11));
        let (mut below, mut seen) = (0, 0);
        for n in 0..20_000 {
            let value = Duration::from_secs_f64(value(n, &mut rng));
            if n >= 10_000 {
                seen += 1;
                below += u32::from(percentile.get().is_some_and(|known| value <= known));
            }
            percentile.see(value, share);
        }
        f64::from(below) / f64::from(seen)
    }

    #[test]
    fn it_comes_to_rest_where_it_should() {
        for share in [0.5, 0.9, 0.95, 0.99] {
            let found = share_below(share, |_, rng| 0.001 + 0.1 * rng.random::<f64>().powi(3));
            assert!((found - share).abs() < 0.02, "{found} for {share}");
        }
    }

    #[test]
    fn it_follows_what_changes() {
        let found = share_below(0.95, |n, rng| (1.0 + rng.random::<f64>()) * if n < 9_000 { 0.001 } else { 0.1 });
        assert!((found - 0.95).abs() < 0.02, "{found}");
    }

    #[test]
    fn nothing_is_believed_at_first() {
        let percentile = Percentile::default();
        (1..ENOUGH).for_each(|_| percentile.see(Duration::from_millis(5), 0.9));
        assert_eq!(percentile.get(), None);
        percentile.see(Duration::from_millis(5), 0.9);
        assert!(percentile.get().is_some());
    }
}

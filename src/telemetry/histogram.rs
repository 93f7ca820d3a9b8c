//! Histograms with bounds fixed at compile time: an array of counters, found by a short scan, no lock, no hash.

use std::time::Duration;

use super::counter::Counter;

/// Bounds of `http_request_duration_seconds`, in nanoseconds.
pub const DURATION: [u64; 15] = [
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
    30_000_000_000,
];

/// Bounds of the size histograms, in bytes.
pub const SIZE: [u64; 8] = [256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 16 << 20];

/// Counts between `BOUNDS` inclusive bounds, and one above them: `ABOVE` is kept apart because an array of
/// `BOUNDS + 1` cannot be named yet.
#[derive(Debug)]
pub struct Histogram<const BOUNDS: usize> {
    counts: [Counter; BOUNDS],
    above: Counter,
    sum: Counter,
}

/// What a histogram held when it was read; several of them add up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Totals<const BOUNDS: usize> {
    pub counts: [u64; BOUNDS],
    pub above: u64,
    pub sum: u64,
}

impl<const BOUNDS: usize> Histogram<BOUNDS> {
    pub fn observe(&self, bounds: &[u64; BOUNDS], value: u64) {
        match self.counts.iter().zip(bounds).find(|(_, bound)| value <= **bound) {
            Some((counter, _)) => counter.inc(),
            None => self.above.inc(),
        }
        self.sum.add(value);
    }

    pub fn add_to(&self, totals: &mut Totals<BOUNDS>) {
        for (total, count) in totals.counts.iter_mut().zip(&self.counts) {
            *total += count.get();
        }
        totals.above += self.above.get();
        totals.sum += self.sum.get();
    }
}

impl<const BOUNDS: usize> Default for Histogram<BOUNDS> {
    fn default() -> Self {
        Self { counts: std::array::from_fn(|_| Counter::default()), above: Counter::default(), sum: Counter::default() }
    }
}

impl<const BOUNDS: usize> Default for Totals<BOUNDS> {
    fn default() -> Self {
        Self { counts: [0; BOUNDS], above: 0, sum: 0 }
    }
}

impl<const BOUNDS: usize> Totals<BOUNDS> {
    pub fn count(&self) -> u64 {
        self.counts.iter().sum::<u64>() + self.above
    }

    /// Upper bound and count of every bucket, not cumulative, the bounds divided by `scale`.
    pub fn buckets(&self, bounds: &[u64; BOUNDS], scale: f64) -> Vec<(f64, u64)> {
        let below = bounds.iter().zip(self.counts).map(|(bound, count)| (*bound as f64 / scale, count));
        below.chain([(f64::INFINITY, self.above)]).collect()
    }
}

/// Nanoseconds, as far as they fit: 584 years.
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_own_bucket() {
        let histogram = Histogram::<8>::default();
        for value in [0, 256, 257, 16 << 20, (16 << 20) + 1] {
            histogram.observe(&SIZE, value);
        }
        let mut totals = Totals::default();
        histogram.add_to(&mut totals);
        histogram.add_to(&mut totals);
        assert_eq!(totals.counts, [4, 2, 0, 0, 0, 0, 0, 2]);
        assert_eq!((totals.above, totals.count()), (2, 10));
        assert_eq!(totals.buckets(&SIZE, 1.0).last(), Some(&(f64::INFINITY, 2)));
    }

    #[test]
    fn bounds_rise() {
        assert!(DURATION.is_sorted_by(|a, b| a < b) && SIZE.is_sorted_by(|a, b| a < b));
    }
}

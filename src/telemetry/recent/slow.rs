//! What counts as slow: above the 99th percentile of late, estimated without keeping a duration.
//!
//! The estimate moves up by 99 steps for what is above it and down by one step for what is not, so that it rests where
//! one in a hundred is above. Steps are on a logarithmic scale: the same share of a millisecond and of a minute.

use super::Micros;

/// Steps of the scale to one of its levels, of which there are 256 to a doubling.
const STEPS: u32 = 1024;
/// A level is up by a sixteenth of a doubling for one slow exchange, down by as much for 99 that are not.
const DOWN: u32 = STEPS * 256 / 16 / 99;
const UP: u32 = DOWN * 99;
/// Before that many, nothing is known to be slow.
const WARM_UP: u32 = 100;

#[derive(Debug, Default)]
pub struct Slow {
    estimate: u32,
    seen: u32,
}

impl Slow {
    /// Whether this one is slow, as measured by those before it.
    pub fn observe(&mut self, duration: Micros) -> bool {
        let place = level(duration) * STEPS;
        if self.seen == 0 {
            self.estimate = place;
        }
        let known = self.seen >= WARM_UP;
        self.seen = self.seen.saturating_add(1);
        let above = place > self.estimate;
        self.estimate = if above { self.estimate.saturating_add(UP) } else { self.estimate.saturating_sub(DOWN) };
        above && known
    }
}

/// The binary logarithm, straight between powers of two, times 256.
fn level(Micros(micros): Micros) -> u32 {
    let value = micros.max(1);
    let exponent = value.ilog2();
    // The eight bits below the highest.
    let fraction = if exponent >= 8 { value >> (exponent - 8) } else { value << (8 - exponent) } & 0xff;
    (exponent << 8) | fraction as u32
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    /// Share of slow ones among `count` with exponentially distributed durations.
    fn share(slow: &mut Slow, rng: &mut SmallRng, mean: f64, count: u32) -> f64 {
        let mut found = 0;
        for _ in 0..count {
            let micros = -mean * (1.0 - rng.random::<f64>()).ln();
            found += u32::from(slow.observe(Micros(micros as u64)));
        }
        f64::from(found) / f64::from(count)
    }

    #[test]
    fn one_in_a_hundred_is_slow() {
        let (mut slow, mut rng) = (Slow::default(), SmallRng::seed_from_u64(1));
        let first = share(&mut slow, &mut rng, 1000.0, 100_000);
        assert!((0.005..0.02).contains(&first), "{first}");
        // Ten times slower: told at once, and after a while it is what is usual.
        assert!(share(&mut slow, &mut rng, 10_000.0, 100) > 0.1);
        let after = share(&mut slow, &mut rng, 10_000.0, 100_000);
        assert!((0.005..0.02).contains(&after), "{after}");
        // And back.
        share(&mut slow, &mut rng, 1000.0, 10_000);
        let back = share(&mut slow, &mut rng, 1000.0, 100_000);
        assert!((0.005..0.02).contains(&back), "{back}");
    }

    #[test]
    fn equal_durations_are_rarely_slow() {
        let mut slow = Slow::default();
        let found = (0..100_000).filter(|_| slow.observe(Micros(700))).count();
        assert!(found <= 1100, "{found}");
    }

    #[test]
    fn nothing_is_slow_before_anything_is_known() {
        let mut slow = Slow::default();
        assert!((0..u64::from(WARM_UP)).all(|n| !slow.observe(Micros(n * n))));
        assert!(slow.observe(Micros(u64::MAX)));
    }

    #[test]
    fn the_scale_rises() {
        let edges = (0..63).flat_map(|bit| [(1u64 << bit) - 1, 1 << bit, (1 << bit) + (1 << bit >> 1)]);
        let levels: Vec<u32> = edges.chain([u64::MAX]).map(|micros| level(Micros(micros))).collect();
        assert!(levels.is_sorted() && levels.last() == Some(&(64 * 256 - 1)), "{levels:?}");
    }
}

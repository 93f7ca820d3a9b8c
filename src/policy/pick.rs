//! Choosing one of several endpoints: in turn, at random, or the less loaded of two drawn at random (P2C,
//! Mitzenmacher 2001). Weights are shares of the draw. A pick costs O(log n) at most.

use rand::Rng;

use crate::config::schema::LbPolicy;

/// Endpoints that may be picked, by index, with the sums of their weights.
#[derive(Debug, Default)]
pub struct Candidates {
    /// Sum of the weights up to and with each candidate.
    sums: Vec<u64>,
    equal: bool,
}

impl Candidates {
    /// Candidates of weight 0 must have been left out.
    pub fn new(weights: &[u32]) -> Self {
        let sums = weights.iter().scan(0, |sum, weight| {
            *sum += u64::from(*weight);
            Some(*sum)
        });
        Self { sums: sums.collect(), equal: weights.windows(2).all(|pair| pair[0] == pair[1]) }
    }

    /// An index below the number of candidates; `None` where there is none. `turn` counts the picks so far,
    /// `load` tells how many requests a candidate has in flight.
    pub fn pick(&self, policy: LbPolicy, turn: u64, rng: &mut impl Rng, load: impl Fn(usize) -> u64) -> Option<usize> {
        let count = self.sums.len();
        match (count, policy) {
            (0, _) => None,
            (1, _) => Some(0),
            (_, LbPolicy::RoundRobin) => Some(self.in_turn(turn)),
            (_, LbPolicy::Random) => Some(self.draw(rng)),
            (_, _) => {
                let first = self.draw(rng);
                let second = self.draw_another(first, rng);
                Some(if self.share(load(second), second) < self.share(load(first), first) { second } else { first })
            }
        }
    }

    /// Every candidate once a round; with weights, each at evenly spread places of a round of as many turns as
    /// the weights add up to: the multiples of a step that has no divisor in common with the sum.
    fn in_turn(&self, turn: u64) -> usize {
        if self.equal {
            return (turn % self.sums.len() as u64) as usize;
        }
        let total = self.total();
        let step = stride(total);
        let place = (u128::from(turn % total) * u128::from(step) % u128::from(total)) as u64;
        self.at(place)
    }

    fn draw(&self, rng: &mut impl Rng) -> usize {
        if self.equal { rng.random_range(0..self.sums.len()) } else { self.at(rng.random_range(0..self.total())) }
    }

    /// One that is not `first`; with weights it may be the same again.
    fn draw_another(&self, first: usize, rng: &mut impl Rng) -> usize {
        if !self.equal {
            return self.at(rng.random_range(0..self.total()));
        }
        let other = rng.random_range(0..self.sums.len() - 1);
        if other < first { other } else { other + 1 }
    }

    fn total(&self) -> u64 {
        self.sums.last().copied().unwrap_or(0).max(1)
    }

    fn at(&self, place: u64) -> usize {
        self.sums.partition_point(|sum| *sum <= place).min(self.sums.len() - 1)
    }

    /// Load in proportion to weight, as a fixed-point number.
    fn share(&self, load: u64, index: usize) -> u64 {
        if self.equal {
            return load;
        }
        let before = index.checked_sub(1).and_then(|before| self.sums.get(before)).copied().unwrap_or(0);
        let weight = self.sums.get(index).copied().unwrap_or(0).saturating_sub(before).max(1);
        ((load + 1) << 20) / weight
    }
}

/// Near the golden section of `total`, and without a divisor in common with it.
fn stride(total: u64) -> u64 {
    let start = (total as f64 * 0.618_033_988_75) as u64;
    (start.max(1)..).find(|step| gcd(*step, total) == 1).unwrap_or(1)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    fn counts(weights: &[u32], policy: LbPolicy, picks: u64, load: impl Fn(usize) -> u64) -> Vec<u64> {
        let candidates = Candidates::new(weights);
        let mut rng = SmallRng::seed_from_u64(7);
        let mut counts = vec![0; weights.len()];
        for turn in 0..picks {
            counts[candidates.pick(policy, turn, &mut rng, &load).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn round_robin_is_exact_over_a_round() {
        assert_eq!(counts(&[1, 1, 1], LbPolicy::RoundRobin, 9, |_| 0), [3, 3, 3]);
        assert_eq!(counts(&[1, 2, 5], LbPolicy::RoundRobin, 80, |_| 0), [10, 20, 50]);
        assert_eq!(counts(&[300, 100], LbPolicy::RoundRobin, 400, |_| 0), [300, 100]);
    }

    #[test]
    fn random_follows_the_weights() {
        let counts = counts(&[1, 3], LbPolicy::Random, 10_000, |_| 0);
        assert!((2_300..2_700).contains(&counts[0]), "{counts:?}");
    }

    #[test]
    fn the_less_loaded_of_two_gets_more() {
        let counts = counts(&[1, 1, 1], LbPolicy::LeastRequest, 9_000, |index| if index == 0 { 9 } else { 1 });
        assert_eq!(counts[0], 0, "never, for it is always the more loaded of two");
        assert!((4_200..4_800).contains(&counts[1]), "{counts:?}");
    }

    #[test]
    fn nothing_to_pick() {
        let mut rng = SmallRng::seed_from_u64(1);
        assert_eq!(Candidates::new(&[]).pick(LbPolicy::Random, 0, &mut rng, |_| 0), None);
    }
}

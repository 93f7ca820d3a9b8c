//! Drawing one of several by weight: in turn, or at random. O(1) where all weigh the same, else O(log n).

use rand::Rng;

/// Candidates, by index, with the sums of their weights.
#[derive(Debug, Default)]
pub struct Draw {
    count: usize,
    /// Sum of the weights up to and with each candidate; empty where all weigh the same.
    sums: Vec<u64>,
    /// Between two turns on the line of weights.
    stride: u64,
    mean: f64,
}

impl Draw {
    /// Candidates of weight 0 must have been left out.
    pub fn new(weights: &[u32]) -> Self {
        let count = weights.len();
        if weights.windows(2).all(|pair| pair[0] == pair[1]) {
            let mean = weights.first().map_or(1.0, |weight| f64::from(*weight));
            return Self { count, sums: Vec::new(), stride: 1, mean };
        }
        let sums = weights.iter().scan(0, |sum, weight| {
            *sum += u64::from(*weight);
            Some(*sum)
        });
        let mut draw = Self { count, sums: sums.collect(), stride: 1, mean: 1.0 };
        draw.stride = stride(draw.total());
        draw.mean = draw.total() as f64 / count as f64;
        draw
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn mean(&self) -> f64 {
        self.mean
    }

    /// All weigh the same.
    pub fn is_even(&self) -> bool {
        self.sums.is_empty()
    }

    /// Every candidate once a round; with weights, each at evenly spread places of a round of as many turns as
    /// the weights add up to: the multiples of a step that has no divisor in common with the sum.
    pub fn in_turn(&self, turn: u64) -> usize {
        let total = self.total();
        let place = u128::from(turn % total) * u128::from(self.stride) % u128::from(total);
        self.at(place as u64)
    }

    pub fn at_random(&self, rng: &mut impl Rng) -> usize {
        self.at(rng.random_range(0..self.total()))
    }

    fn total(&self) -> u64 {
        self.sums.last().copied().unwrap_or(self.count as u64).max(1)
    }

    fn at(&self, place: u64) -> usize {
        match self.is_even() {
            true => place as usize,
            false => self.sums.partition_point(|sum| *sum <= place).min(self.count.saturating_sub(1)),
        }
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

//! A weighted split over a line of 10,000 buckets, a hundredth of a percent each.
//!
//! The sides lie on the line in the order of the file. Raising the weight of one side while no other rises moves
//! its left edge left or not at all and its right edge right or not at all, so that what was on it stays on it:
//! a sticky key never moves back.

use rand::Rng;

use super::hash::hash;

pub const BUCKETS: u32 = 10_000;

/// The end of each side on the line, the last one at `BUCKETS`. `None` where no side has weight.
pub fn edges(weights: impl Iterator<Item = f64> + Clone) -> Option<Vec<u32>> {
    let total: f64 = weights.clone().sum();
    if !(total > 0.0 && total.is_finite()) {
        return None;
    }
    let mut sum = 0.0;
    let edge = |weight: f64| {
        sum += weight;
        (sum / total * f64::from(BUCKETS)).round() as u32
    };
    Some(weights.map(edge).collect())
}

/// A bucket by chance.
pub fn draw(rng: &mut impl Rng) -> u32 {
    rng.random_range(0..BUCKETS)
}

/// The side that a bucket lies on.
pub fn side(edges: &[u32], bucket: u32) -> usize {
    edges.partition_point(|edge| *edge <= bucket)
}

/// The bucket of a sticky key. `salt` tells splits apart, so that one key is not in the canary of all of them.
pub fn bucket(salt: &str, key: &str) -> u32 {
    (hash(salt.bytes().chain([0]).chain(key.bytes())) % u64::from(BUCKETS)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raising_a_weight_never_moves_a_key_back() {
        let keys: Vec<u32> = (0..10_000).map(|key| bucket("reviews", &format!("user-{key}"))).collect();
        let mut on_canary = vec![false; keys.len()];
        for weight in 0..=100 {
            let edges = edges([f64::from(100 - weight), f64::from(weight)].into_iter()).unwrap();
            for (bucket, was) in keys.iter().zip(&mut on_canary) {
                let is = side(&edges, *bucket) == 1;
                assert!(is || !*was, "bucket {bucket} moved back at {weight}");
                *was = is;
            }
            let share = on_canary.iter().filter(|on| **on).count() as f64 / 100.0;
            assert!((share - f64::from(weight)).abs() < 1.5, "{share} % at weight {weight}");
        }
        assert!(on_canary.iter().all(|on| *on));
    }

    #[test]
    fn hundredths_of_a_percent_are_exact() {
        let edges = edges([99.99, 0.01].into_iter()).unwrap();
        assert_eq!(edges, [9_999, 10_000]);
        assert_eq!((side(&edges, 9_998), side(&edges, 9_999)), (0, 1));
    }

    #[test]
    fn a_side_without_weight_is_never_chosen() {
        let edges = edges([0.0, 3.0, 0.0, 1.0].into_iter()).unwrap();
        for bucket in 0..BUCKETS {
            assert!([1, 3].contains(&side(&edges, bucket)));
        }
        assert_eq!(super::edges([0.0, 0.0].into_iter()), None);
    }

    proptest::proptest! {
        #[test]
        fn raising_one_of_several_keeps_what_it_has(
            mut weights in proptest::collection::vec(0u32..1000, 2..6), which in 0usize..6, more in 1u32..1000,
        ) {
            weights[0] += 1;
            let which = which % weights.len();
            let before = edges(weights.iter().map(|w| f64::from(*w))).unwrap();
            weights[which] += more;
            let after = edges(weights.iter().map(|w| f64::from(*w))).unwrap();
            for bucket in 0..BUCKETS {
                if side(&before, bucket) == which {
                    proptest::prop_assert_eq!(side(&after, bucket), which);
                }
            }
        }
    }
}

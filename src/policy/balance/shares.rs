//! How much of the traffic each group of endpoints gets, by how much of it is available.
//!
//! Endpoints are taken to have room for 1.4 times their share, so that a tier or a zone carries all that is its own until
//! less than five sevenths of it are available; from there on the rest goes to the next, in proportion.

/// What a group of endpoints weighs.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Weight {
    pub all: u64,
    /// Of those that are available.
    pub available: u64,
}

const OVERPROVISIONED: f64 = 1.4;

/// More than `threshold` percent is unavailable, in every group: so many that it says more of the network, or of the
/// checks, than of the endpoints; and those that are left could not bear it. A zone or region that is gone as a whole is
/// what the others are there for.
pub fn panics(groups: &[Weight], threshold: u32) -> bool {
    let over = |group: &Weight| {
        let missing = u128::from(group.all.saturating_sub(group.available));
        group.available < group.all && missing * 100 > u128::from(threshold) * u128::from(group.all)
    };
    !groups.is_empty() && groups.iter().all(over)
}

/// Shares of tiers, the first one first; they add up to 1, unless nothing is available.
pub fn tiers(tiers: &[Weight]) -> Vec<f64> {
    let mut left = 1.0;
    let take = |tier: &Weight| {
        let room = if tier.all == 0 { 0.0 } else { OVERPROVISIONED * tier.available as f64 / tier.all as f64 };
        let share = room.min(left);
        left -= share;
        share
    };
    let shares: Vec<f64> = tiers.iter().map(take).collect();
    let sum: f64 = shares.iter().sum();
    // All together have not enough: each gets more than it has room for.
    if sum > 0.0 { shares.iter().map(|share| share / sum).collect() } else { shares }
}

/// The share that stays in our own zone. Each of `zones` is taken to send the same.
pub fn own_zone(own: Weight, others: Weight, zones: usize) -> f64 {
    match (own.available, others.available) {
        (0, _) => 0.0,
        (_, 0) => 1.0,
        (available, _) => {
            let needed = (own.all + others.all) as f64 / zones.max(1) as f64;
            (OVERPROVISIONED * available as f64 / needed).min(1.0)
        }
    }
}

//! What the simulation of overload and recovery (`benches/sim`, docs/resilience.md) shows holds for other seeds, too.

#[path = "../benches/sim/model.rs"]
mod model;

use model::{LOAD, Policies, SECONDS, TROUBLE, goodput};
use outrigger::policy::budget::Share;

const NONE: Policies = Policies { retries: false, budget: None, adaptive: false };
const RETRIES: Policies = Policies { retries: true, ..NONE };
const BUDGET: Policies = Policies { budget: Some(Share::DEFAULT), ..RETRIES };
const ADAPTIVE: Policies = Policies { adaptive: true, ..BUDGET };

/// Share of the requests that are answered in time between two seconds, over some seeds.
fn share(policies: Policies, from: u64, to: u64) -> f64 {
    let seeds = 1..=5;
    let shares = seeds.clone().map(|seed| {
        let good = goodput(policies, seed);
        f64::from(good[from as usize..to as usize].iter().sum::<u32>()) / ((to - from) as f64 * LOAD)
    });
    shares.sum::<f64>() / seeds.count() as f64
}

#[test]
fn without_a_budget_it_never_recovers() {
    assert!(share(RETRIES, 5, TROUBLE.start) > 0.95, "well before");
    assert!(share(RETRIES, SECONDS - 10, SECONDS) < 0.2, "ill a minute after the trouble is over");
}

#[test]
fn with_a_budget_it_does() {
    assert!(share(BUDGET, SECONDS - 10, SECONDS) > 0.95);
}

#[test]
fn with_an_adaptive_limit_it_does_at_once_and_goes_on_meanwhile() {
    let capacity_left = 0.4;
    assert!(share(ADAPTIVE, TROUBLE.start + 2, TROUBLE.end) > 0.7 * capacity_left);
    assert!(share(BUDGET, TROUBLE.start + 5, TROUBLE.end) < 0.5 * capacity_left, "the queue is all that is worked on");
    assert!(share(ADAPTIVE, TROUBLE.end + 5, TROUBLE.end + 15) > 0.9);
}

//! The cost of finding a route does not grow with the number of routes: held against the clock, as a ratio of two
//! measurements in one run, so that neither the machine nor the build matters. `benches/route.rs` has the figures.

#[path = "../benches/tables/mod.rs"]
mod tables;

use std::hint::black_box;
use std::time::{Duration, Instant};

use outrigger::snapshot::route::RouteTable;
use tables::{Ask, SHAPES};

const FEW: usize = 10;
const MANY: usize = 100_000;
/// Well above what caches and noise do (below 2), and far below what a scan would (10,000).
const GROWTH_MAX: f64 = 8.0;
const SAMPLES: usize = 101;
const LOOKUPS: u32 = 200;

#[test]
fn a_lookup_does_not_grow_with_the_table() {
    for shape in SHAPES {
        let (few, many) = (shape.table(FEW), shape.table(MANY));
        let (few_asks, many_asks) = (shape.asks(FEW, FEW), shape.asks(MANY, FEW));
        for (asks, table) in [(&few_asks, &few), (&many_asks, &many)] {
            for (route, ask) in asks {
                let found = table.find(&ask.facts()).map(|found| found.route);
                assert_eq!(found, Some(*route), "{}", shape.name);
            }
        }
        // In turns, so that whatever else the machine does falls on both.
        let (mut base, mut grown) = (Vec::new(), Vec::new());
        for _ in 0..SAMPLES {
            base.push(sample(&few, &few_asks));
            grown.push(sample(&many, &many_asks));
        }
        let (base, grown) = (median(base), median(grown));
        let ratio = grown.as_secs_f64() / base.as_secs_f64();
        println!("{:14} {FEW} routes {base:?}, {MANY} routes {grown:?}: ratio {ratio:.2}", shape.name);
        assert!(ratio < GROWTH_MAX, "{}: a lookup among {MANY} routes takes {ratio:.1} times as long", shape.name);
    }
}

/// Time of one lookup.
fn sample(table: &RouteTable, asks: &[(usize, Ask)]) -> Duration {
    let start = Instant::now();
    let mut lookups = 0;
    while lookups < LOOKUPS {
        for (_, ask) in asks {
            black_box(table.find(black_box(&ask.facts())));
            lookups += 1;
        }
    }
    start.elapsed() / lookups
}

fn median(mut samples: Vec<Duration>) -> Duration {
    samples.sort_unstable();
    samples[samples.len() / 2]
}

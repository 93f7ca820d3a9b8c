//! Overload and recovery: what clients get of a service that was in trouble for ten seconds, with and without a retry
//! budget and an adaptive limit. `make sim` prints it and draws `docs/resilience.svg`.

mod model;

use std::fmt::Write as _;

use model::{LOAD, Policies, SECONDS, TROUBLE, goodput};
use outrigger::policy::budget::Share;

const SEED: u64 = 6;

fn main() {
    let none = Policies { retries: false, budget: None, adaptive: false };
    let retries = Policies { retries: true, ..none };
    let budget = Policies { budget: Some(Share::DEFAULT), ..retries };
    let adaptive = Policies { adaptive: true, ..budget };
    let runs = [
        ("retries without a budget", "#c0392b", goodput(retries, SEED)),
        ("no retries", "#7f8c8d", goodput(none, SEED)),
        ("retries within the budget", "#2980b9", goodput(budget, SEED)),
        ("and an adaptive limit", "#27ae60", goodput(adaptive, SEED)),
    ];
    println!("answered in time, per second, of {LOAD} requests");
    for (name, _, good) in &runs {
        let mean = |from: u64, to: u64| {
            let part = &good[from as usize..to as usize];
            part.iter().sum::<u32>() / part.len() as u32
        };
        println!(
            "{name:28} before {:3}   in trouble {:3}   first 10 s after {:3}   last 10 s {:3}",
            mean(5, TROUBLE.start),
            mean(TROUBLE.start, TROUBLE.end),
            mean(TROUBLE.end, TROUBLE.end + 10),
            mean(SECONDS - 10, SECONDS)
        );
    }
    std::fs::write("docs/resilience.svg", draw(&runs)).expect("write the plot");
}

/// Pixels.
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 50.0;
const TOP: f64 = 40.0;

fn draw(runs: &[(&str, &str, Vec<u32>)]) -> String {
    let x = |second: u64| LEFT + second as f64 / SECONDS as f64 * WIDTH;
    let y = |good: f64| TOP + HEIGHT - good / (LOAD * 1.3) * HEIGHT;
    let (whole, high) = (LEFT + WIDTH + 20.0, TOP + HEIGHT + 40.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {whole} {high}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let (from, to) = (x(TROUBLE.start), x(TROUBLE.end));
    let _ = writeln!(
        svg,
        "<rect x=\"{from:.0}\" y=\"{TOP}\" width=\"{:.0}\" height=\"{HEIGHT}\" fill=\"#f4e3d7\"/>\n<text x=\"{:.0}\" \
         y=\"{:.0}\">a quarter of the capacity</text>",
        to - from,
        from - 20.0,
        TOP + HEIGHT + 32.0
    );
    for good in [0, 100, 200, 300, 400, 500, 600] {
        let at = y(f64::from(good));
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{:.0}\" y1=\"{at:.0}\" y2=\"{at:.0}\" stroke=\"#ddd\"/><text x=\"{:.0}\" \
             y=\"{:.0}\" text-anchor=\"end\">{good}</text>",
            LEFT + WIDTH,
            LEFT - 6.0,
            at + 4.0
        );
    }
    for second in (0..=SECONDS).step_by(10) {
        let _ = writeln!(
            svg,
            "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"middle\">{second} s</text>",
            x(second),
            TOP + HEIGHT + 16.0
        );
    }
    for (n, (name, colour, good)) in runs.iter().enumerate() {
        let points: Vec<String> = good
            .iter()
            .enumerate()
            .map(|(second, good)| format!("{:.0},{:.0}", x(second as u64), y(f64::from(*good))))
            .collect();
        let _ = writeln!(
            svg,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/>\n<text x=\"{:.0}\" y=\"20\" \
             fill=\"{colour}\">{name}</text>",
            points.join(" "),
            LEFT + 185.0 * n as f64
        );
    }
    svg + "</svg>\n"
}

//! Finding a route among 10, 1,000 and 100,000: the curve is flat. And what it takes to read and compile that many.

mod tables;

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use outrigger::config::{self, Config};
use outrigger::snapshot;
use tables::SHAPES;

const SIZES: [usize; 3] = [10, 1_000, 100_000];
/// Rules that are asked for in turn: as many in every table, so that only the size of the table differs.
const HOT: usize = 10;

/// The algorithm: what is looked up stays in the cache.
fn find(c: &mut Criterion) {
    for shape in SHAPES {
        let mut group = c.benchmark_group(format!("route/{}", shape.name));
        for size in SIZES {
            let (table, asks) = (shape.table(size), shape.asks(size, HOT));
            let mut next = asks.iter().cycle();
            group.bench_function(BenchmarkId::from_parameter(size), |b| {
                b.iter(|| next.next().map(|(_, ask)| table.find(black_box(&ask.facts())).map(|found| found.route)));
            });
        }
        group.finish();
    }
}

/// The memory: every rule in turn, so that a large table is not in the cache.
fn find_cold(c: &mut Criterion) {
    for shape in SHAPES.iter().filter(|shape| ["exact path", "mixed"].contains(&shape.name)) {
        let mut group = c.benchmark_group(format!("route cold/{}", shape.name));
        for size in SIZES {
            let (table, asks) = (shape.table(size), shape.asks(size, size.min(10_000)));
            let mut next = asks.iter().cycle();
            group.bench_function(BenchmarkId::from_parameter(size), |b| {
                b.iter(|| next.next().map(|(_, ask)| table.find(black_box(&ask.facts())).map(|found| found.route)));
            });
        }
        group.finish();
    }
}

/// From the text to the snapshot, as a reload does it.
fn load(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let _entered = runtime.enter();
    let mut group = c.benchmark_group("load");
    group.sample_size(10).warm_up_time(Duration::from_millis(1));
    for size in SIZES {
        let text = text(size);
        group.throughput(Throughput::Elements(size as u64));
        group.bench_function(BenchmarkId::new("parse", size), |b| b.iter(|| parse(&text)));
        let config = Arc::new(parse(&text));
        group.bench_function(BenchmarkId::new("compile", size), |b| {
            b.iter_with_large_drop(|| snapshot::compile(config.clone(), 1, None));
        });
    }
    group.finish();
}

fn parse(text: &str) -> Config {
    config::parse("bench.yaml", text, &|_| None).unwrap_or_else(|report| panic!("{report}"))
}

fn text(routes: usize) -> String {
    let mut text = "apiVersion: outrigger/v1\n\
                    listeners: [{ name: edge, mode: proxy, address: \"127.0.0.1:8080\" }]\n\
                    services: { app: { endpoints: { static: [\"127.0.0.1:9080\"] } } }\n\
                    routes:\n"
        .to_owned();
    for i in 0..routes {
        let which = match i % 4 {
            0 => format!("match: [{{ path: {{ exact: /exact-{i} }} }}]"),
            1 => format!("match: [{{ path: {{ prefix: /prefix-{i} }} }}]"),
            2 => format!("match: [{{ path: {{ template: \"/kind-{i}/{{id}}\" }}, headers: {{ x-env: canary }} }}]"),
            _ => format!("hosts: [host-{i}.example.com]"),
        };
        text.push_str(&format!("  - {{ name: route-{i}, {which}, to: app }}\n"));
    }
    text
}

criterion_group!(benches, find, find_cold, load);
criterion_main!(benches);

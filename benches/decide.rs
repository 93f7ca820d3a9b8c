//! Deciding about a request: ten routes by header, attributes, and a sticky split for everybody else.

use std::fmt::Write;
use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use outrigger::config;
use outrigger::decide;
use outrigger::policy::caller::Caller;
use outrigger::policy::split;
use outrigger::snapshot::matcher::Facts;
use outrigger::snapshot::{self, Snapshot};
use rand::SeedableRng;
use rand::rngs::SmallRng;

const CONFIG: &str = r#"
apiVersion: outrigger/v1
attributes:
  env: { from: [{ header: x-env }, { cookie: env }], lowercase: true, values: [canary, prod] }
  user: { from: [{ header: x-user-id }, { cookie: user }, { query: user }] }
listeners: [{ name: edge, mode: proxy, address: "127.0.0.1:8080" }]
services:
  app:
    endpoints:
      static:
        - { address: "127.0.0.1:9081", labels: { version: v1 } }
        - { address: "127.0.0.1:9082", labels: { version: v2 } }
    subsets: { v1: { labels: { version: v1 } }, v2: { labels: { version: v2 } } }
routes:
  - { name: canary, match: [{ attributes: { env: canary } }], to: app/v2 }
  - name: split
    split: [{ to: app/v1, weight: 90 }, { to: app/v2, weight: 10 }]
    sticky: { attribute: user }
"#;

const COMMON: [(&str, &str); 5] = [
    ("user-agent", "Mozilla/5.0 (X11; Linux x86_64)"),
    ("accept", "application/json"),
    ("accept-encoding", "gzip, br"),
    ("cookie", "theme=dark; session=8f14e45fceea167a5a36dedd4bea2543"),
    ("content-type", "application/json"),
];

/// Name, and what the request says besides.
const REQUESTS: [(&str, &[(&str, &str)]); 4] = [
    ("by header", &[("x-tenant", "tenant-7")]),
    ("by attribute", &[("x-env", "Canary")]),
    ("split, sticky", &[("x-user-id", "4711")]),
    ("split, drawn", &[]),
];

fn decide_requests(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let _entered = runtime.enter();
    let snapshot = snapshot();
    let listener = snapshot.listeners.first().expect("the listener");
    let mut rng = SmallRng::seed_from_u64(1);
    let mut group = c.benchmark_group("decide");
    for (name, extra) in REQUESTS {
        let headers = headers(extra);
        let facts = Facts {
            caller: Caller::NOBODY,
            method: &Method::GET,
            host: "app.test",
            path: "/api/v1/things/4711",
            query: Some("page=2&size=50"),
            headers: &headers,
            grpc: false,
            attributes: &snapshot.attributes,
        };
        group.bench_function(name, |b| {
            b.iter(|| {
                let draw = || split::draw(&mut rng);
                decide::decide(&snapshot, listener, black_box(&facts), draw).map(|decision| decision.side())
            });
        });
    }
    group.finish();
}

fn snapshot() -> Snapshot {
    let mut text = CONFIG.to_owned();
    for i in 0..10 {
        writeln!(text, "  - {{ name: tenant-{i}, match: [{{ headers: {{ x-tenant: tenant-{i} }} }}], to: app/v1 }}")
            .expect("write to a string");
    }
    let config = config::parse("bench.yaml", &text, &|_| None).unwrap_or_else(|report| panic!("{report}"));
    snapshot::compile(Arc::new(config), 1, None)
}

fn headers(extra: &[(&'static str, &'static str)]) -> HeaderMap {
    let pair =
        |(name, value): &(&'static str, &'static str)| (HeaderName::from_static(name), HeaderValue::from_static(value));
    COMMON.iter().chain(extra).map(pair).collect()
}

criterion_group!(benches, decide_requests);
criterion_main!(benches);

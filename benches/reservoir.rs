//! What remembering costs a request: nearly always, that it is not its turn; about a hundred times a second, all of it.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use http::Request;
use http::request::Parts;
use outrigger::blast::{Fingerprint, Reservoir, Seen};
use outrigger::policy::caller::Caller;
use outrigger::snapshot::{self, Snapshot};
use outrigger::{config, decide};

const BYTES: usize = 512 << 10;
const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

const CONFIG: &str = r#"
apiVersion: outrigger/v1
attributes:
  env: { from: [{ header: x-env }, { cookie: env }], lowercase: true, values: [canary, prod] }
  user: { from: [{ header: x-user-id }, { cookie: user }, { query: user }] }
listeners: [{ name: edge, mode: proxy, address: "127.0.0.1:8080" }]
services: { a: { endpoints: { static: ["127.0.0.1:9081"] } }, b: { endpoints: { static: ["127.0.0.1:9082"] } } }
routes:
  - { name: canary, match: [{ attributes: { env: canary } }], to: b }
  - { name: split, split: [{ to: a, weight: 90 }, { to: b, weight: 10 }], sticky: { attribute: user } }
"#;

fn remember(c: &mut Criterion) {
    let config = config::parse("bench.yaml", CONFIG, &|_| None).unwrap_or_else(|report| panic!("{report}"));
    let snapshot = snapshot::compile(Arc::new(config), 1, None);
    let listener = snapshot.listeners.first().expect("the listener");
    let usual = parts("/api/v1/things/4711?page=2");
    let understood = decide::understand(listener, &usual).expect("a sound head");
    let seen = Seen {
        listener: &listener.name,
        parts: &usual,
        understood: &understood,
        caller: Caller::new(PEER, None, 8080),
    };
    let mut group = c.benchmark_group("reservoir");

    // All in one moment, so that fewer and fewer are taken: next to none.
    let mut now = Instant::now();
    let mut reservoir = Reservoir::new(BYTES, 1, now);
    group.bench_function("wants, not taken", |b| b.iter(|| reservoir.wants(black_box(now))));

    // Fifty a second: every request is taken.
    let mut reservoir = Reservoir::new(BYTES, 1, now);
    group.bench_function("see, known", |b| {
        b.iter(|| {
            now += Duration::from_millis(20);
            reservoir.see(now, || black_box(seen), &snapshot.looked);
        });
    });

    let strange: Vec<Parts> = (0..4096).map(|number| parts(&format!("/api/v1/thing-{number}x"))).collect();
    let strange: Vec<_> =
        strange.iter().map(|parts| (parts, decide::understand(listener, parts).expect("a sound head"))).collect();
    let mut next = strange.iter().cycle();
    group.bench_function("see, new, another makes way", |b| {
        b.iter(|| {
            now += Duration::from_millis(20);
            let (parts, understood) = next.next().expect("an endless list");
            reservoir.see(now, || Seen { parts, understood, ..seen }, &snapshot.looked);
        });
    });
    group.bench_function("fingerprint", |b| b.iter(|| fingerprint(black_box(&seen), &snapshot)));
    group.finish();
}

fn fingerprint(seen: &Seen<'_>, snapshot: &Snapshot) -> bool {
    black_box(Fingerprint::of(seen, &snapshot.looked)).is_some()
}

fn parts(target: &str) -> Parts {
    let request = Request::builder().uri(format!("http://app.test{target}")).version(http::Version::HTTP_2);
    let request = request.header("x-user-id", "4711").header("x-env", "prod").header("accept", "application/json");
    request.body(()).expect("a request").into_parts().0
}

criterion_group!(benches, remember);
criterion_main!(benches);

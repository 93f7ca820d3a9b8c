//! Keeping a finished exchange for `outrigger why`: what a request pays for it, once the memory is full.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, UNIX_EPOCH};

use criterion::{Criterion, criterion_group, criterion_main};
use http::Version;
use outrigger::error::{Producer, Reason};
use outrigger::telemetry::recent::{
    Attempt, Bucket, Connection, Exchange, Filter, Micros, NotAgain, Outcome, Phases, Ring,
};
use outrigger::wire::address::Address;

const ID: &[u8] = b"8f14e45f-ceea-467a-9a36-dedd4bea2543";
const ENDPOINT: Address = Address::Ip(SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 7)), 8080));

const ATTEMPT: Attempt = Attempt {
    endpoint: ENDPOINT,
    outcome: Outcome::Answered,
    protocol: Version::HTTP_11,
    connection: Some(Connection::Reused),
    queue: None,
    connect: None,
    first_byte: Some(Micros(1412)),
};

static ATTEMPTS: [Attempt; 4] = [ATTEMPT; 4];

fn fine() -> Exchange<'static> {
    Exchange {
        id: ID,
        time: UNIX_EPOCH + Duration::from_millis(1_795_231_681_123),
        generation: 7,
        listener: "edge",
        route: "orders",
        rule: Some(1),
        service: "orders",
        subset: "v2",
        bucket: Some(Bucket { number: 4711, sticky: true }),
        method: "GET",
        host: b"shop.example",
        path: b"/api/v1/orders/4711/items",
        protocol: Version::HTTP_2,
        status: 200,
        grpc_status: None,
        reason: Reason::None,
        denied: "",
        limit: "",
        circuit: "",
        fault: "",
        producer: Producer::Application,
        peer: ENDPOINT,
        identity: "",
        request_bytes: 0,
        response_bytes: 4096,
        failed: false,
        attempts: &ATTEMPTS[..1],
        not_again: None,
        phases: Phases {
            first_byte: Some(Micros(1412)),
            body: Some(Micros(80)),
            total: Micros(1523),
            ..Phases::default()
        },
        attributes: &[("env", b"canary")],
        shadow: &[],
    }
}

fn failed() -> Exchange<'static> {
    Exchange {
        status: 502,
        reason: Reason::UpstreamReset,
        denied: "",
        producer: Producer::Proxy,
        failed: true,
        attempts: &ATTEMPTS,
        not_again: Some(NotAgain::TooOften),
        ..fine()
    }
}

fn push(c: &mut Criterion) {
    let mut group = c.benchmark_group("recent");
    for (name, exchange) in [("push", fine()), ("push, failed four times", failed())] {
        let mut ring = full();
        group.bench_function(name, |b| b.iter(|| ring.push(black_box(&exchange))));
    }
    let ring = full();
    group.bench_function("find, in vain", |b| b.iter(|| ring.find(black_box(b"nobody"))));
    group.bench_function("list, in vain", |b| b.iter(|| ring.list(black_box(Filter::Failed), 100).len()));
    group.finish();
}

/// A worker's share of 4 MiB, if there are four.
fn full() -> Ring {
    let mut ring = Ring::new(1 << 20);
    for _ in 0..20_000 {
        ring.push(&fine());
    }
    ring
}

criterion_group!(benches, push);
criterion_main!(benches);

//! What every request pays on the wire level: its head checked, cleaned, told about, and written anew.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use http::request::Parts;
use http::{HeaderValue, Request, Version};
use outrigger::wire::head::{self, Outgoing};
use outrigger::wire::hop::{self, Hop};
use outrigger::wire::trace::{self, Formats};
use outrigger::wire::{forwarded, path};
use rand::SeedableRng;
use rand::rngs::SmallRng;

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 3, 7));

const FORMATS: Formats = Formats { traceparent: true, b3: false, baggage: true, begin_b3: false };

/// As a browser sends it through one other proxy.
const HEADERS: [(&str, &str); 12] = [
    ("host", "shop.example.com"),
    ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
    ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    ("accept-language", "de,en-US;q=0.7,en;q=0.3"),
    ("accept-encoding", "gzip, deflate, br, zstd"),
    ("connection", "keep-alive"),
    ("cookie", "session=8f14e45fceea167a5a36dedd4bea2543; theme=dark; env=canary"),
    ("x-forwarded-for", "203.0.113.9"),
    ("x-forwarded-proto", "https"),
    ("x-request-id", "9b2f7b53-3f0e-4d43-9d3e-8f7a1d5a0c11"),
    ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ("cache-control", "no-cache"),
];

fn request() -> Parts {
    let mut request = Request::builder().uri("/api/v1/things/4711?page=2").version(Version::HTTP_11);
    for (name, value) in HEADERS {
        request = request.header(name, HeaderValue::from_static(value));
    }
    request.body(()).expect("a request").into_parts().0
}

/// A request as it stands after `hop::strip_request`.
fn stripped() -> Parts {
    let mut parts = request();
    hop::strip_request(parts.version, &mut parts.headers);
    parts
}

/// The same without what a first hop has to make up.
fn fresh() -> Parts {
    let mut parts = request();
    for name in ["x-forwarded-for", "x-forwarded-proto", "x-request-id", "traceparent"] {
        parts.headers.remove(name);
    }
    parts
}

fn reading(c: &mut Criterion) {
    let mut group = c.benchmark_group("head");
    let parts = request();
    group.bench_function("check", |b| b.iter(|| head::check(black_box(&parts)).is_ok()));
    let paths = [
        ("plain", "/api/v1/things/4711"),
        ("encoded", "/api/v1/things/a%20b%2Dc"),
        ("dotted", "/api/v1/../v2/./things/4711"),
    ];
    for (name, path) in paths {
        group.bench_function(format!("path::normalise {name}"), |b| b.iter(|| path::normalise(black_box(path))));
    }
    group.finish();
}

/// Each step works on a request of its own, which is neither made nor dropped within the time.
fn writing(c: &mut Criterion) {
    let mut rng = SmallRng::seed_from_u64(1);
    let mut group = c.benchmark_group("head");
    let mut step = |name: &str, make: fn() -> Parts, step: &mut dyn FnMut(&mut Parts)| {
        group.bench_function(name, |b| {
            b.iter_batched(
                make,
                |mut parts| {
                    step(&mut parts);
                    parts
                },
                BatchSize::SmallInput,
            );
        });
    };
    step("hop::strip_request", request, &mut |parts| {
        black_box(hop::strip_request(parts.version, &mut parts.headers));
    });
    for (name, make) in [("continue", request as fn() -> Parts), ("begin", fresh)] {
        step(&format!("trace::{name}"), make, &mut |parts| {
            black_box(trace::continue_or_begin(&mut parts.headers, FORMATS, &mut rng));
        });
        step(&format!("forwarded::request_id {name}"), make, &mut |parts| {
            black_box(forwarded::request_id(&parts.headers, &mut rng));
        });
        step(&format!("forwarded::append {name}"), make, &mut |parts| forwarded::append(parts, Some(PEER), false));
    }
    let (hop, fallback) = (Hop::default(), HeaderValue::from_static(""));
    for (name, version) in [("HTTP/1.1", Version::HTTP_11), ("HTTP/2", Version::HTTP_2)] {
        let how = Outgoing { version, host: None, fallback: &fallback, hop: &hop, secure: false };
        step(&format!("outgoing {name}"), stripped, &mut |parts| {
            black_box(head::outgoing(parts, how).is_ok());
        });
    }
    step("all of it", request, &mut |parts| {
        let id = forwarded::request_id(&parts.headers, &mut rng);
        parts.headers.insert(forwarded::REQUEST_ID, id);
        trace::continue_or_begin(&mut parts.headers, FORMATS, &mut rng);
        black_box(head::check(parts).is_ok() && path::normalise(parts.uri.path()).is_ok());
        let hop = hop::strip_request(parts.version, &mut parts.headers);
        forwarded::append(parts, Some(PEER), false);
        let how = Outgoing { version: Version::HTTP_11, host: None, fallback: &fallback, hop: &hop, secure: false };
        black_box(head::outgoing(parts, how).is_ok());
    });
    group.finish();
}

criterion_group!(benches, reading, writing);
criterion_main!(benches);

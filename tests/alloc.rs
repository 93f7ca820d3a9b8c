//! How often a request makes the worker allocate, hyper included: the whole proxy runs in this process, and its
//! allocator counts. A count does not depend on the machine, so the ceilings are close; whoever lowers a figure lowers
//! its ceiling.

// An allocator cannot be written without; it is no part of the proxy.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use outrigger::app::{self, Options, Origin};

const WARM_UP: u32 = 1_000;
const REQUESTS: u32 = 1_000;
const SOON: Duration = Duration::from_secs(10);

struct Case {
    name: &'static str,
    request: &'static str,
    /// Allocations for one request, on average.
    ceiling: f64,
}

const CASES: [Case; 3] = [
    Case { name: "GET, one route", request: "GET /plain HTTP/1.1\r\nHost: app.test\r\n\r\n", ceiling: 16.0 },
    Case {
        name: "GET, attributes and a sticky split",
        request: "GET /api/things/4711?page=2 HTTP/1.1\r\nHost: app.test\r\nUser-Agent: test/1.0\r\n\
                  Accept: application/json\r\nAccept-Encoding: gzip, br\r\nX-Env: Prod\r\nX-User-Id: 4711\r\n\
                  Cookie: theme=dark; session=8f14e45fceea167a\r\nX-Forwarded-For: 203.0.113.9\r\n\
                  Traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\r\n",
        ceiling: 30.0,
    },
    Case {
        name: "POST, 16 bytes",
        request: "POST /plain HTTP/1.1\r\nHost: app.test\r\nContent-Length: 16\r\n\r\n0123456789abcdef",
        ceiling: 13.0,
    },
];

#[global_allocator]
static COUNTER: Counter = Counter;

/// The system's allocator, and how often it was asked by threads that nobody set apart.
struct Counter;

static COUNT: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static APART: Cell<bool> = const { Cell::new(false) };
}

/// Leaves this thread out of the count: the worker is counted by marking everybody else.
fn set_apart() {
    APART.set(true);
}

fn count() {
    if !APART.get() {
        COUNT.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: every call goes to `System` as it came.
unsafe impl GlobalAlloc for Counter {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        unsafe { System.dealloc(block, layout) }
    }
}

#[test]
fn a_request_allocates_no_more_than_it_did() {
    set_apart();
    let (edge, admin) = start(origin());
    let mut over = Vec::new();
    for case in CASES {
        let mut client = TcpStream::connect(edge).expect("connect to the proxy");
        client.set_nodelay(true).expect("no delay");
        client.set_read_timeout(Some(SOON)).expect("a deadline");
        (0..WARM_UP).for_each(|_| exchange(&mut client, case.request));
        let before = COUNT.load(Ordering::Relaxed);
        (0..REQUESTS).for_each(|_| exchange(&mut client, case.request));
        let each = (COUNT.load(Ordering::Relaxed) - before) as f64 / f64::from(REQUESTS);
        println!("{}: {each:.2} allocations, ceiling {}", case.name, case.ceiling);
        if each > case.ceiling {
            over.push(format!("{}: {each:.2} allocations for a request, and not {}", case.name, case.ceiling));
        }
    }
    send(&mut connect(admin), "POST /drain HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert!(over.is_empty(), "{over:#?}");
}

/// The proxy in front of an origin, with one worker and nothing else that would allocate. Its own threads but the
/// worker are set apart, or idle.
fn start(origin: SocketAddr) -> (SocketAddr, SocketAddr) {
    let [edge, admin, health] = [(); 3].map(|()| free());
    let tenants: String = (0..10)
        .map(|i| {
            format!("  - {{ name: tenant-{i}, match: [{{ headers: {{ x-tenant: tenant-{i} }} }}], to: app/v1 }}\n")
        })
        .collect();
    let text = format!(
        r#"apiVersion: outrigger/v1
admin: {{ address: "{admin}" }}
health: {{ address: "{health}" }}
runtime: {{ workers: 1, drainTimeout: 1s }}
telemetry: {{ accessLog: {{ format: "off" }}, log: {{ level: warn }} }}
attributes:
  env: {{ from: [{{ header: x-env }}, {{ cookie: env }}], lowercase: true, values: [canary, prod] }}
  user: {{ from: [{{ header: x-user-id }}, {{ cookie: user }}] }}
listeners: [{{ name: edge, mode: proxy, address: "{edge}" }}]
services:
  app:
    endpoints: {{ static: [{{ address: "{origin}", labels: {{ version: v1 }} }}] }}
    subsets: {{ v1: {{ labels: {{ version: v1 }} }} }}
routes:
  - {{ name: plain, match: [{{ path: {{ exact: /plain }} }}], to: app }}
  - {{ name: canary, match: [{{ attributes: {{ env: canary }} }}], to: app }}
  - name: split
    split: [{{ to: app, weight: 90 }}, {{ to: app/v1, weight: 10 }}]
    sticky: {{ attribute: user }}
{tenants}"#
    );
    thread::spawn(move || {
        set_apart();
        app::run(Origin::Text { name: "alloc", text }, Options::default())
    });
    drop((connect(edge), connect(admin)));
    (edge, admin)
}

/// Answers every request alike.
fn origin() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind the origin");
    let addr = listener.local_addr().expect("its address");
    thread::spawn(move || {
        set_apart();
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                set_apart();
                serve(stream)
            });
        }
    });
    addr
}

fn serve(mut stream: TcpStream) {
    let mut seen = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        seen.extend_from_slice(&buffer[..read]);
        while let Some(head) = seen.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            let length = if seen.starts_with(b"POST") { 16 } else { 0 };
            if seen.len() < head + 4 + length {
                break;
            }
            seen.drain(..head + 4 + length);
            let answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello";
            if stream.write_all(answer).is_err() {
                return;
            }
        }
    }
}

fn exchange(client: &mut TcpStream, request: &str) {
    let answer = send(client, request);
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\nhello"), "{answer}");
}

/// Sends a request, and reads until the answer's small body is there.
fn send(client: &mut TcpStream, request: &str) -> String {
    client.write_all(request.as_bytes()).expect("send a request");
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = client.read(&mut buffer).expect("an answer");
        answer.extend_from_slice(&buffer[..read]);
        if read == 0 || answer.ends_with(b"hello") {
            return String::from_utf8_lossy(&answer).into_owned();
        }
    }
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port")
}

fn connect(addr: SocketAddr) -> TcpStream {
    let end = Instant::now() + SOON;
    loop {
        match TcpStream::connect(addr) {
            Ok(stream) => return stream,
            Err(error) => assert!(Instant::now() < end, "{addr}: {error}"),
        }
        thread::sleep(Duration::from_millis(4));
    }
}

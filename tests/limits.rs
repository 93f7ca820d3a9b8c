//! What limits let pass, and what is said of the rest: rate limits, what a service has at a time, and memory.

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use common::h2peer::{call, request};
use common::origin::{Gate, Next};
use common::{Conn, Message, Origin, Proxy, SOON, Setup, until};

fn ask(addr: SocketAddr, path: &str, headers: &str) -> Message {
    let mut conn = Conn::connect(addr);
    conn.write(format!("GET {path} HTTP/1.1\r\nHost: app.test\r\n{headers}\r\n"));
    conn.response("GET")
}

/// How many of so many requests, on several connections at a time, were answered with 200; all others with 429.
fn passed(addr: SocketAddr, headers: &str, requests: usize) -> usize {
    std::thread::scope(|scope| {
        let each: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut conn = Conn::connect(addr);
                    let answers = (0..requests / 4).map(|_| {
                        conn.write(format!("GET / HTTP/1.1\r\nHost: app.test\r\n{headers}\r\n"));
                        conn.response("GET").status()
                    });
                    let answers: Vec<u16> = answers.collect();
                    assert!(answers.iter().all(|status| matches!(status, 200 | 429)), "{answers:?}");
                    answers.into_iter().filter(|status| *status == 200).count()
                })
            })
            .collect();
        each.into_iter().map(|thread| thread.join().expect("a client")).sum()
    })
}

const TENANT: &str = "attributes: { tenant: { from: [{ header: x-tenant-id }] } }";

#[test]
fn a_rate_limit_is_exact_over_all_workers_and_reloads() {
    let origin = Origin::ok();
    let route = ", rateLimit: { requestsPerSecond: 0.01, burst: 50, per: { attribute: tenant } }";
    let proxy = Setup { route, top: TENANT, workers: 4, ..Setup::default() }.start(origin.addr());
    assert_eq!(passed(proxy.addr(), "x-tenant-id: a\r\n", 160), 50);
    assert_eq!(passed(proxy.addr(), "x-tenant-id: b\r\n", 40), 40, "another tenant has its own");
    assert_eq!(passed(proxy.addr(), "", 80), 50, "and those without one have one together");
    proxy.reload("0.01, burst: 50", "0.01, burst: 60");
    assert_eq!(passed(proxy.addr(), "x-tenant-id: a\r\n", 40), 10, "what was taken stays taken");
    proxy.reload("burst: 60", "burst: 60, maxKeys: 100");
    assert_eq!(passed(proxy.addr(), "x-tenant-id: a\r\n", 8), 0);
    let limits = proxy.admin_json("/limits");
    let limit = &limits["routes"]["all"][0];
    assert_eq!((&limit["keys"], &limit["maxKeys"]), (&3.into(), &100.into()), "{limits:#}");
    assert_eq!(limit["refused"], 110 + 30 + 30 + 8);
    proxy.await_counted("rate_limited", 178.0);
    // What is removed is forgotten, and begins anew.
    proxy.reload(", rateLimit: { requestsPerSecond: 0.01, burst: 60, maxKeys: 100, per: { attribute: tenant } }", "");
    assert_eq!(passed(proxy.addr(), "x-tenant-id: a\r\n", 8), 8);
}

#[test]
fn who_is_refused_is_told_when_to_come_again() {
    let origin = Origin::ok();
    let route =
        ", rateLimit: [{ requestsPerSecond: 1000, per: { address: true } }, { requestsPerSecond: 0.5, burst: 1 }]";
    let proxy = Setup { route, ..Setup::default() }.start(origin.addr());
    assert_eq!(ask(proxy.addr(), "/", "").status(), 200);
    let refused = ask(proxy.addr(), "/", "accept: application/json\r\n");
    let field = |name: &str| refused.head.get(name).unwrap_or_default();
    assert_eq!(refused.status(), 429);
    assert_eq!(field("ratelimit-policy"), "\"all-2\";q=1;w=2");
    let after = field("retry-after");
    assert!(matches!(after.as_str(), "1" | "2"), "{after}");
    assert_eq!(field("ratelimit"), format!("\"all-2\";r=0;t={after}"));
    let limit = "route all: 0.5 requests a second, burst 1";
    assert!(field("proxy-status").contains(&format!("details=\"rate_limited by {limit}\"")), "{refused:?}");
    let json: serde_json::Value = serde_json::from_slice(&refused.body).expect("JSON");
    assert_eq!((&json["reason"], &json["limit"]), (&"rate_limited".into(), &limit.into()));
    until("why tells the limit", SOON, || {
        proxy.cli(&["why", &field("x-request-id")]).out.contains(&format!("limit       {limit}"))
    });
    let grpc = request("POST", "/", &[("content-type", "application/grpc"), ("te", "trailers")]);
    let told = call(proxy.addr(), grpc, b"", None).expect("an answer");
    let field = |name: &str| told.head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    assert_eq!((told.head.status.as_u16(), field("grpc-status")), (200, "8"));
    let pushback: u64 = field("grpc-retry-pushback-ms").parse().expect("milliseconds");
    assert!((1..=2000).contains(&pushback), "{pushback}");
    assert!(field("grpc-message").contains(limit), "{told:?}");
}

#[test]
fn the_patient_wait_for_their_turn() {
    let origin = Origin::ok();
    let route = ", rateLimit: { requestsPerSecond: 10, burst: 1, wait: 20s, maxWaiting: 5 }";
    let proxy = Setup { route, ..Setup::default() }.start(origin.addr());
    let begun = Instant::now();
    let answers: Vec<u16> = std::thread::scope(|scope| {
        let each: Vec<_> = (0..6).map(|_| scope.spawn(|| ask(proxy.addr(), "/", "").status())).collect();
        each.into_iter().map(|thread| thread.join().expect("a client")).collect()
    });
    assert_eq!(answers, [200; 6]);
    assert!(begun.elapsed() >= Duration::from_millis(450), "{:?}", begun.elapsed());
    assert!(proxy.admin_json("/limits")["routes"]["all"][0]["delayed"].as_u64() >= Some(4));
    // Who has been refused a place in the line has taken no token.
    proxy.reload("10, burst: 1", "0.1, burst: 1");
    let mut waits: Vec<Conn> = (0..2)
        .map(|_| {
            let mut conn = Conn::connect(proxy.addr());
            conn.write("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
            conn
        })
        .collect();
    until("one waits", SOON, || proxy.admin_json("/limits")["routes"]["all"][0]["waiting"] == 1);
    proxy.reload("maxWaiting: 5", "maxWaiting: 1");
    assert_eq!(ask(proxy.addr(), "/", "").status(), 429);
    waits.clear();
    until("nobody waits", SOON, || proxy.admin_json("/limits")["routes"]["all"][0]["waiting"] == 0);
}

#[test]
fn who_leaves_the_line_gives_its_token_back() {
    let origin = Origin::ok();
    let route = ", rateLimit: { requestsPerSecond: 0.5, burst: 1, wait: 20s, maxWaiting: 10 }";
    let proxy = Setup { route, ..Setup::default() }.start(origin.addr());
    assert_eq!(ask(proxy.addr(), "/", "").status(), 200);
    let waiting = || proxy.admin_json("/limits")["routes"]["all"][0]["waiting"].clone();
    let wait = || {
        let mut conn = Conn::connect(proxy.addr());
        conn.write("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
        conn
    };
    let line: Vec<Conn> = (0..4).map(|_| wait()).collect();
    until("they wait", SOON, || waiting() == 4);
    drop(line);
    until("nobody waits", SOON, || waiting() == 0);
    let begun = Instant::now();
    assert_eq!(ask(proxy.addr(), "/", "").status(), 200);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    // Nor is anybody held whose time is over before its turn.
    let refused = ask(proxy.addr(), "/", "x-outrigger-timeout-ms: 500\r\n");
    assert_eq!(refused.status(), 429);
    assert!(refused.head.has("retry-after"), "{refused:?}");
    proxy.await_counted("rate_limited", 1.0);
}

#[test]
fn in_shadow_mode_all_pass_and_are_counted() {
    let origin = Origin::ok();
    let service = ", limits: { maxRequests: 1, mode: shadow }";
    let route = ", rateLimit: { requestsPerSecond: 0.01, burst: 2, mode: shadow }";
    let proxy = Setup { route, service, ..Setup::default() }.start(origin.addr());
    assert_eq!(passed(proxy.addr(), "", 20), 20);
    proxy.await_metric("outrigger_shadow_total", &[("rule", "rate_limit")], 18.0);
    let shadow = proxy.admin_json("/shadow");
    let example = shadow["examples"].as_array().and_then(|all| all.iter().find(|one| one["rule"] == "rate_limit"));
    assert_eq!(example.expect("an example")["limit"], "0 ms");
}

/// Begins an answer, and ends it when the gate is open.
fn slow(gate: &Gate) -> Origin {
    let gate = gate.clone();
    Origin::start(move |seen, conn| {
        let slow = seen.message.head.start_line().contains("slow");
        conn.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no");
        if slow {
            gate.pass();
        }
        if conn.try_write("k") { Next::Keep } else { Next::Close }
    })
}

/// A request whose answer has begun.
fn begun(addr: SocketAddr, path: &str, headers: &str) -> Conn {
    let mut conn = Conn::connect(addr);
    conn.write(format!("GET {path} HTTP/1.1\r\nHost: app.test\r\n{headers}\r\n"));
    assert_eq!(conn.head().status(), 200);
    conn
}

/// The example, between a client and an upstream of the test.
fn example(up: SocketAddr) -> Proxy {
    let text = include_str!("../config/examples/limits.yaml");
    let text = text.replace("127.0.0.1:8080", "{listen}").replace("127.0.0.1:3000", "{up}");
    let own = "admin: { address: \"{admin}\" }\nhealth: { address: \"{health}\" }\nruntime: { workers: 2 }\n";
    Proxy::start(&format!("{text}{own}"), &[("up", up)])
}

#[test]
fn a_service_has_so_many_at_a_time_to_the_end_of_their_answers() {
    let gate = Gate::default();
    let origin = slow(&gate);
    let proxy = example(origin.addr());
    let state = |key: &str| proxy.admin_json("/clusters")["app"]["limits"][key].clone();
    let held = [begun(proxy.addr(), "/slow", ""), begun(proxy.addr(), "/slow", "")];
    assert_eq!((state("inFlight"), state("connections")["open"].clone()), (2.into(), 2.into()));
    let mut third = Conn::connect(proxy.addr());
    third.write("GET /third HTTP/1.1\r\nHost: app.test\r\n\r\n");
    until("the third waits", SOON, || state("pending") == 1);
    let refused = ask(proxy.addr(), "/", "accept: application/json\r\n");
    let json: serde_json::Value = serde_json::from_slice(&refused.body).expect("JSON");
    assert_eq!((refused.status(), &json["reason"]), (503, &"limit".into()));
    assert_eq!(json["limit"], "service app: maxRequests 2", "the limit and its value");
    proxy.await_metric("outrigger_service_in_flight", &[("service", "app")], 2.0);
    assert_eq!(proxy.metric("outrigger_service_limit", &[("service", "app"), ("kind", "written")]), 2.0);
    // A reload forgets nobody, and its limit is the one that holds.
    proxy.reload("pendingTimeout: 30s", "pendingTimeout: 100ms");
    assert_eq!(state("inFlight"), 2);
    gate.open();
    assert_eq!(third.response("GET").status(), 200);
    drop(held);
    until("all have ended", SOON, || state("inFlight") == 0);
    proxy.await_counted("limit", 1.0);
}

#[test]
fn who_waits_too_long_is_refused() {
    let gate = Gate::default();
    let origin = slow(&gate);
    let service = ", limits: { maxRequests: 1, maxPending: 10, pendingTimeout: 50ms }";
    let proxy = Setup { service, ..Setup::default() }.start(origin.addr());
    let held = begun(proxy.addr(), "/slow", "");
    assert_eq!(ask(proxy.addr(), "/", "").status(), 503);
    proxy.await_metric("outrigger_worker_requests_delayed_total", &[], 1.0);
    // A client that leaves makes room.
    drop(held);
    until("there is room", SOON, || ask(proxy.addr(), "/", "").status() == 200);
    gate.open();
}

#[test]
fn those_who_matter_less_are_refused_first() {
    let gate = Gate::default();
    let origin = slow(&gate);
    let proxy = example(origin.addr());
    let class = |name: &str| format!("x-class: {name}\r\n");
    let _held: Vec<Conn> = (0..3).map(|_| begun(proxy.addr(), "/search/slow", "")).collect();
    let refused = ask(proxy.addr(), "/search", &class("sheddable"));
    assert_eq!(refused.status(), 503);
    assert!(refused.text().contains("service search: adaptive limit 3 for sheddable requests"), "{refused:?}");
    let _critical = begun(proxy.addr(), "/search/slow", &class("critical"));
    assert_eq!(ask(proxy.addr(), "/search", &class("critical")).status(), 503, "4 are the limit");
    let grpc = request("POST", "/search", &[("content-type", "application/grpc"), ("te", "trailers")]);
    let told = call(proxy.addr(), grpc, b"", None).expect("an answer");
    assert_eq!(told.head.headers.get("grpc-status").map(|value| value.as_bytes()), Some(&b"14"[..]));
    proxy.await_counted("overloaded", 3.0);
    gate.open();
}

#[test]
fn the_limit_follows_the_latency_of_the_service() {
    let slow = Arc::new(AtomicBool::new(false));
    let origin = Origin::start({
        let slow = slow.clone();
        move |_, conn| {
            if slow.load(Relaxed) {
                std::thread::sleep(Duration::from_millis(60));
            }
            if conn.try_write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") { Next::Keep } else { Next::Close }
        }
    });
    let service = ", limits: { adaptive: { initial: 4, min: 2, max: 50, tolerance: 3 }, maxPending: 100, \
                   pendingTimeout: 30s }";
    let proxy = Setup { service, ..Setup::default() }.start(origin.addr());
    let limit = || proxy.admin_json("/clusters")["app"]["limits"]["adaptive"]["limit"].as_u64().unwrap_or_default();
    assert!(limit() <= 4);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                let mut conn = Conn::connect(proxy.addr());
                while !done.load(Relaxed) {
                    conn.write("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
                    assert_eq!(conn.response("GET").status(), 200);
                }
            });
        }
        let watched = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            // By then it is known, too, what is usual.
            until("it rises", SOON, || limit() > 14);
            slow.store(true, Relaxed);
            until("it falls", SOON, || limit() < 4);
            slow.store(false, Relaxed);
            until("it rises again", SOON, || limit() > 4);
        }));
        done.store(true, Relaxed);
        watched.expect("a limit that follows");
    });
    let before = limit();
    proxy.reload("max: 50", "max: 60");
    assert!(limit().abs_diff(before) <= 2, "a reload keeps what was learned: {before}, then {}", limit());
    proxy.await_metric("outrigger_service_limit", &[("service", "app"), ("kind", "adaptive")], 4.0);
}

#[test]
fn the_block_of_platform_repositories_is_a_limit_like_any_other() {
    let origin = Origin::ok();
    let proxy = example(origin.addr());
    let get = |path: &str| (0..10).filter(|_| ask(proxy.addr(), path, "x-tenant-id: a\r\n").status() == 200).count();
    assert_eq!(get("/api"), 5, "the route's own");
    assert_eq!((0..3).map(|_| get("/checkout")).sum::<usize>(), 25, "30 of the service, by whatever route");
    let config = proxy.admin_json("/config");
    let limit = &config["services"]["checkout"]["rateLimit"];
    assert_eq!((&limit["requestsPerSecond"], &limit["burst"]), (&0.01.into(), &30.into()), "{config:#}");
    let explained = proxy.cli(&["explain", "http://app.test/checkout"]);
    assert!(explained.out.contains("rateLimit") && explained.out.contains("policies"), "{explained:?}");
}

#[test]
fn requests_are_refused_before_memory_runs_out() {
    let origin = Origin::ok();
    let proxy = Setup::default().start(origin.addr());
    let runtime = "runtime: { workers: auto, drainTimeout: 5s";
    let resident = proxy.metric("process_resident_memory_bytes", &[]) as u64;
    let class = |name: &str| ask(proxy.addr(), "/", &format!("x-outrigger-criticality: {name}\r\n")).status();
    // Used: two thirds. Critical requests go on to 75 %, and all others end at 50.
    proxy.reload(runtime, &format!("{runtime}, memory: {{ shedAt: 50, limit: {} }}", resident * 3 / 2));
    until("default requests are refused", SOON, || class("default") == 503);
    assert_eq!((class("sheddable"), class("critical")), (503, 200));
    assert!(ask(proxy.addr(), "/", "").text().contains("memory: "));
    let memory = || proxy.healthz()["components"]["memory"].clone();
    assert_eq!(memory()["status"], "failed");
    assert_eq!(proxy.probe("/readyz"), Some(503), "others may have more");
    assert_eq!(proxy.probe("/livez"), Some(200));
    // Used: 7 %. That is too much for sheddable requests alone.
    let limit = resident * 100 / 7;
    proxy.reload(&format!("shedAt: 50, limit: {}", resident * 3 / 2), &format!("shedAt: 50, limit: {limit}"));
    until("all pass", SOON, || class("sheddable") == 200);
    assert_eq!((memory()["status"].clone(), proxy.probe("/readyz")), ("ok".into(), Some(200)));
    proxy.reload("shedAt: 50", "shedAt: 10");
    until("sheddable requests are refused", SOON, || class("sheddable") == 503);
    assert_eq!(class("default"), 200);
    assert_eq!((memory()["status"].clone(), proxy.probe("/readyz")), ("degraded".into(), Some(200)));
    proxy.await_counted("shed", 3.0);
}

//! Hedges: a second try at the side of a slow one, of which the first good answer counts.

mod common;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use common::origin::{Gate, Next};
use common::{Conn, Message, Origin, Proxy, SOON, until};

const CONFIG: &str = r#"apiVersion: outrigger/v1
admin: { address: "{admin}" }
health: { address: "{health}" }
runtime: { workers: 1 }
listeners: [{ name: edge, mode: proxy, address: "{listen}" }]
services: { app: { endpoints: { static: ["{a}", "{b}"] }, loadBalancer: { policy: roundRobin } } }
routes: [{ name: all, to: app, timeout: 10s, HEDGE }]
"#;

fn proxy(hedge: &str, a: SocketAddr, b: SocketAddr) -> Proxy {
    let config = CONFIG.replace("HEDGE", hedge);
    let config = if a == b { config.replace(", \"{b}\"", "") } else { config };
    Proxy::start(&config, &[("a", a), ("b", b)])
}

fn ask(proxy: &Proxy, text: &str) -> Message {
    let mut conn = Conn::connect(proxy.addr());
    conn.write(text);
    conn.response("GET")
}

fn begun(proxy: &Proxy) -> f64 {
    proxy.metric("outrigger_worker_upstream_hedges_total", &[])
}

const SLOW: &str = "GET /slow HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
fn a_slow_one_is_outrun_and_given_up() {
    let gate = Gate::default();
    let (slow, fast) = (Origin::gated("slow", &gate), Origin::named("fast"));
    let proxy = proxy("hedge: { after: 50ms }", slow.addr(), fast.addr());
    for _ in 0..6 {
        let from = Instant::now();
        assert_eq!(ask(&proxy, SLOW).text(), "fast");
        assert!(from.elapsed() < Duration::from_secs(5), "{:?}", from.elapsed());
    }
    let lost = slow.seen().len();
    assert!(lost >= 2, "{lost}");
    until("hedges are counted", SOON, || begun(&proxy) == lost as f64);
    // What lost is closed, not waited for.
    until("they are given up", SOON, || proxy.metric("outrigger_worker_upstream_connections_active", &[]) <= 1.0);
    gate.open();
}

/// Nobody sees that it hangs, and yet it is out.
#[test]
fn who_is_always_outrun_is_ejected() {
    let gate = Gate::default();
    let (hangs, fast, other) = (Origin::gated("hangs", &gate), Origin::named("fast"), Origin::named("other"));
    let outlier = "outlierDetection: { interval: 1s, maxEjectedPercent: 40,
      latency: { percent: 300, above: 30ms, minRequests: 2, minEndpoints: 3 } }";
    let config = CONFIG
        .replace("HEDGE", "hedge: { after: 100ms }")
        .replace("\"{b}\"]", "\"{b}\", \"{c}\"]")
        .replace("{ policy: roundRobin }", &format!("{{ policy: roundRobin }}, {outlier}"));
    let proxy = Proxy::start(&config, &[("a", hangs.addr()), ("b", fast.addr()), ("c", other.addr())]);
    until("it is ejected", 3 * SOON, || {
        assert_ne!(ask(&proxy, SLOW).text(), "hangs");
        proxy.metric("outrigger_outlier_ejections_total", &[("cause", "latency"), ("mode", "enforce")]) == 1.0
    });
    let seen = hangs.seen().len();
    (0..6).for_each(|_| assert_eq!(ask(&proxy, SLOW).status(), 200));
    assert_eq!(hangs.seen().len(), seen);
    gate.open();
}

#[test]
fn only_what_makes_no_difference_and_what_is_there() {
    let gate = Gate::default();
    let slow = Origin::gated("slow", &gate);
    let post = |length: usize, sent: usize| {
        format!("POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{}", "x".repeat(sent))
    };
    let careful = proxy("hedge: { after: 20ms }", slow.addr(), slow.addr());
    let told = proxy("hedge: { after: 20ms, nonIdempotent: true }", slow.addr(), slow.addr());
    let mut conns = [(&careful, post(3, 3)), (&told, post(3, 3)), (&told, post(9, 3))].map(|(proxy, text)| {
        let mut conn = Conn::connect(proxy.addr());
        conn.write(text);
        conn
    });
    until("that of a POST is begun where told", SOON, || begun(&told) == 1.0);
    assert!(conns[2].is_quiet(Duration::from_millis(100)), "half a body cannot be sent twice at a time");
    assert_eq!((begun(&careful), begun(&told)), (0.0, 1.0));
    gate.open();
    assert_eq!(conns[0].response("POST").text(), "slow");
    assert_eq!(conns[1].response("POST").text(), "slow");
}

/// What is sent twice at a time is not twice as large.
#[test]
fn each_body_is_measured_by_itself() {
    let gate = Gate::default();
    let slow = Origin::gated("slow", &gate);
    let limited = proxy("maxBody: 3Ki, hedge: { after: 20ms, nonIdempotent: true }", slow.addr(), slow.addr());
    let mut conn = Conn::connect(limited.addr());
    conn.write(format!("POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 2048\r\n\r\n{}", "x".repeat(2048)));
    until("both are there", SOON, || slow.seen().len() == 2);
    gate.open();
    assert_eq!(conn.response("POST").text(), "slow");
}

#[test]
fn a_bad_answer_does_not_win() {
    let gate = Gate::default();
    let held = gate.clone();
    let good = Origin::start(move |_, conn| {
        held.pass();
        if conn.try_write("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood") { Next::Keep } else { Next::Close }
    });
    let release = gate.clone();
    let bad = Origin::start(move |seen, conn| {
        conn.try_write("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n");
        if seen.message.head.start_line().contains("/slow") {
            release.open();
        }
        Next::Keep
    });
    let proxy = proxy("hedge: { after: 20ms }", good.addr(), bad.addr());
    // In turn: one of the two begins at the good one, which answers after the bad one has.
    let answers = [ask(&proxy, SLOW).status(), ask(&proxy, SLOW).status()];
    assert!(answers.contains(&200), "{answers:?}");
}

#[test]
fn within_the_budget() {
    let gate = Gate::default();
    let slow = Origin::gated("slow", &gate);
    let budget =
        "hedge: { after: 5ms }, retry: { attempts: 1, on: [reset], budget: { percent: 0, minPerSecond: 0.2 } }";
    let proxy = proxy(budget, slow.addr(), slow.addr());
    let mut conns: Vec<Conn> = (0..8)
        .map(|_| {
            let mut conn = Conn::connect(proxy.addr());
            conn.write(SLOW);
            conn
        })
        .collect();
    until("as many as the budget has", SOON, || begun(&proxy) == 2.0);
    assert!(conns[0].is_quiet(Duration::from_millis(100)));
    assert_eq!(begun(&proxy), 2.0);
    gate.open();
    conns.iter_mut().for_each(|conn| assert_eq!(conn.response("GET").text(), "slow"));
}

/// Without retries, too; and no more at a time than there may be of both.
#[test]
fn within_the_budget_of_hedges_alone() {
    let gate = Gate::default();
    let slow = Origin::gated("slow", &gate);
    let none = "hedge: { after: 5ms }, retry: { attempts: 0, budget: { percent: 0, minPerSecond: 0 } }";
    let none = proxy(none, slow.addr(), slow.addr());
    let full = CONFIG.replace("HEDGE", "hedge: { after: 5ms }").replace("app: {", "app: { limits: { maxRetries: 0 },");
    let full = Proxy::start(&full.replace(", \"{b}\"", ""), &[("a", slow.addr())]);
    let mut conns = [&none, &full].map(|proxy| {
        let mut conn = Conn::connect(proxy.addr());
        conn.write(SLOW);
        conn
    });
    assert!(conns.iter_mut().all(|conn| conn.is_quiet(Duration::from_millis(100))));
    assert_eq!((begun(&none), begun(&full), slow.seen().len()), (0.0, 0.0, 2));
    gate.open();
    conns.iter_mut().for_each(|conn| assert_eq!(conn.response("GET").text(), "slow"));
}

/// Of two proxies in a row, one tries more than once.
#[test]
fn who_has_one_in_front_makes_none() {
    let gate = Gate::default();
    let slow = Origin::gated("slow", &gate);
    let proxy = proxy("hedge: { after: 5ms }", slow.addr(), slow.addr());
    let mut inner = Conn::connect(proxy.addr());
    inner.write("GET /slow HTTP/1.1\r\nHost: a\r\nx-outrigger-attempt: 1\r\n\r\n");
    assert!(inner.is_quiet(Duration::from_millis(100)));
    assert_eq!((begun(&proxy), slow.seen().len()), (0.0, 1));
    let mut outer = Conn::connect(proxy.addr());
    outer.write(SLOW);
    until("it has company", SOON, || begun(&proxy) == 1.0 && slow.seen().len() == 3);
    let numbers = slow.seen().into_iter().map(|seen| seen.message.head.get("x-outrigger-attempt")).skip(1);
    let mut numbers: Vec<_> = numbers.flatten().collect();
    numbers.sort();
    assert_eq!(numbers, ["1", "2"]);
    gate.open();
    [inner, outer].iter_mut().for_each(|conn| assert_eq!(conn.response("GET").text(), "slow"));
}

/// Once it is known how long answers take, those that take longer than nearly all others have company.
#[test]
fn after_a_percentile_of_what_is_seen() {
    let gate = Gate::default();
    let (a, b) = (Origin::gated("a", &gate), Origin::named("b"));
    let proxy = proxy("hedge: { after: p99 }", a.addr(), b.addr());
    let mut conn = Conn::connect(proxy.addr());
    for _ in 0..120 {
        conn.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(conn.response("GET").status(), 200);
    }
    assert_eq!(ask(&proxy, SLOW).text(), "b");
    assert_eq!(ask(&proxy, SLOW).text(), "b");
    // What was learned stays over a reload.
    proxy.reload("timeout: 10s", "timeout: 11s");
    assert_eq!(ask(&proxy, SLOW).text(), "b");
    assert_eq!(ask(&proxy, SLOW).text(), "b");
    gate.open();
}

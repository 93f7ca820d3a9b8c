//! Stopping: the lame duck, what is in flight, the end; and restarts that nobody notices.

mod common;

use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::h2raw::{self, Peer};
use common::load::Load;
use common::origin::{Gate, Next};
use common::{Conn, Origin, Proxy, SOON, until};

/// Long enough that a test on a busy machine sees the lame duck (a tenth of it).
const DRAIN: &str = "drainTimeout: 20s";

/// A proxy with this drain time.
fn front(drain: &str, origin: &Origin) -> Proxy {
    let config = format!(
        r#"apiVersion: outrigger/v1
admin: {{ address: "{{admin}}" }}
health: {{ address: "{{health}}" }}
runtime: {{ workers: 2, {drain} }}
telemetry: {{ accessLog: {{ format: json, sample: {{ others: 100, maxPerSecond: 0 }} }} }}
listeners: [{{ name: edge, mode: proxy, address: "{{listen}}" }}]
services: {{ app: {{ endpoints: {{ static: ["{{up}}"] }} }} }}
routes: [{{ name: all, to: app }}]
"#
    );
    Proxy::start(&config, &[("up", origin.addr())])
}

fn begin(proxy: &Proxy, path: &str) -> Conn {
    let mut conn = Conn::connect(proxy.addr());
    conn.write(format!("GET {path} HTTP/1.1\r\nHost: app.test\r\n\r\n"));
    conn
}

fn refuses(proxy: &Proxy) -> bool {
    TcpStream::connect(proxy.addr()).is_err()
}

/// Everything that happens in order, whichever way it is asked for.
fn drains(ask: impl Fn(&Proxy)) {
    let gate = Gate::default();
    let origin = Origin::gated("ok", &gate);
    let mut proxy = front(DRAIN, &origin);
    let mut slow = begin(&proxy, "/slow");
    let mut old = begin(&proxy, "/");
    assert_eq!(old.response("GET").head.all("connection").len(), 0, "kept alive");
    let mut idle = begin(&proxy, "/");
    idle.response("GET");
    origin.nth(3);
    let asked = Instant::now();
    ask(&proxy);
    until("readiness ends", Duration::from_secs(1), || proxy.probe("/readyz") == Some(503));
    assert_eq!(proxy.probe("/livez"), Some(200), "a proxy that drains is alive");
    assert_eq!(proxy.healthz()["components"]["drain"]["status"], "degraded");
    assert_eq!(proxy.metric("outrigger_draining", &[]) as u64, 1);
    assert_eq!(proxy.metric("outrigger_drain_phase", &[("phase", "lame_duck")]) as u64, 1);
    // Old and new connections are served, and asked to go.
    old.write("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
    let reply = old.response("GET");
    assert_eq!((reply.status(), reply.head.get("connection").as_deref()), (200, Some("close")), "{reply:?}");
    assert!(old.read_to_end().is_empty(), "closed behind the answer");
    for _ in 0..3 {
        let reply = begin(&proxy, "/new").response("GET");
        assert_eq!((reply.status(), reply.head.get("connection").as_deref()), (200, Some("close")), "{reply:?}");
    }
    assert!(asked.elapsed() < Duration::from_secs(2), "this machine is too slow to see the lame duck");
    // A tenth of the drain time later nobody gets in, and the idle are closed.
    until("the port refuses", SOON, || refuses(&proxy));
    assert!(asked.elapsed() >= Duration::from_millis(1900), "the lame duck was short: {:?}", asked.elapsed());
    assert!(idle.read_to_end().is_empty(), "an idle connection closes without a word");
    // What is in flight is not hurried, and then the process ends at once.
    assert!(slow.is_quiet(Duration::from_millis(200)), "still in flight");
    gate.open();
    assert_eq!(slow.response("GET").text(), "ok");
    let status = proxy.wait_exit(Duration::from_secs(5));
    assert_eq!(status.code(), Some(0), "{}", proxy.stderr_text());
    assert_eq!(
        proxy.stdout_lines().iter().filter(|line| line.contains("\"path\":\"/slow\"")).count(),
        1,
        "the last line is written"
    );
}

#[test]
fn sigterm() {
    drains(|proxy| proxy.signal("TERM"));
}

#[test]
fn asked_by_admin() {
    drains(|proxy| assert_eq!(proxy.admin("POST", "/drain").status(), 202));
}

#[test]
fn http2_is_told_to_go_and_finishes() {
    let gate = Gate::default();
    let origin = Origin::gated("ok", &gate);
    let mut proxy = front(DRAIN, &origin);
    let mut peer = Peer::client(proxy.addr(), &[]);
    peer.headers(1, &h2raw::request("GET", "/slow", &[]), true);
    origin.nth(1);
    proxy.signal("TERM");
    let goaway = peer.wait("a GOAWAY", |frame| frame.kind == h2raw::GOAWAY);
    assert_eq!(goaway.code(), h2raw::NO_ERROR);
    gate.open();
    assert_eq!(peer.answer(1), (200, b"ok".to_vec(), None));
    while peer.next().is_some() {}
    // New connections of the lame duck are served, too.
    let mut late = Peer::client(proxy.addr(), &[]);
    late.headers(1, &h2raw::request("GET", "/", &[]), true);
    assert_eq!(late.answer(1).0, 200);
    assert_eq!(proxy.wait_exit(SOON).code(), Some(0));
}

#[test]
fn what_is_stuck_is_cut_at_the_end() {
    let origin = Origin::gated("never", &Gate::default());
    let mut proxy = front("drainTimeout: 2s", &origin);
    let mut stuck = begin(&proxy, "/slow");
    let mut two = Peer::client(proxy.addr(), &[]);
    two.headers(1, &h2raw::request("GET", "/slow", &[]), true);
    origin.nth(2);
    let asked = Instant::now();
    proxy.signal("TERM");
    let status = proxy.wait_exit(SOON);
    let took = asked.elapsed();
    assert!((1900..6000).contains(&took.as_millis()), "{took:?}");
    assert_eq!(status.code(), Some(0), "{}", proxy.stderr_text());
    // Either a whole answer that says so, or the end.
    let rest = stuck.read_to_end();
    assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 503"), "{}", common::show(&rest));
    while two.next().is_some() {}
}

#[test]
fn upgrades_run_until_the_end() {
    let origin = Origin::start(|seen, conn| {
        if !seen.message.head.has("upgrade") {
            return if conn.try_write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") {
                Next::Keep
            } else {
                Next::Close
            };
        }
        conn.write("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
        while let some @ [_, ..] = &conn.read_some()[..] {
            if !conn.try_write(some) {
                break;
            }
        }
        Next::Close
    });
    let mut proxy = front("drainTimeout: 3s", &origin);
    let mut tunnel = Conn::connect(proxy.addr());
    tunnel.write("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(tunnel.head().status(), 101);
    let asked = Instant::now();
    proxy.signal("TERM");
    until("the port refuses", SOON, || refuses(&proxy));
    tunnel.write("still here");
    assert_eq!(tunnel.read_exact(10), b"still here", "after the lame duck");
    assert_eq!(tunnel.read_to_end(), b"");
    assert!(asked.elapsed() >= Duration::from_millis(2900), "cut after {:?}", asked.elapsed());
    assert_eq!(proxy.wait_exit(SOON).code(), Some(0));
}

#[test]
fn sigint_has_no_lame_duck() {
    let gate = Gate::default();
    let origin = Origin::gated("ok", &gate);
    let mut proxy = front("drainTimeout: 60s", &origin);
    let mut slow = begin(&proxy, "/slow");
    origin.nth(1);
    let asked = Instant::now();
    proxy.signal("INT");
    until("the port refuses", SOON, || refuses(&proxy));
    assert!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());
    gate.open();
    assert_eq!(slow.response("GET").text(), "ok", "what is in flight finishes all the same");
    assert_eq!(proxy.wait_exit(Duration::from_secs(5)).code(), Some(0));
}

#[test]
fn a_second_signal_forces() {
    for (first, second) in [("TERM", "TERM"), ("TERM", "INT"), ("INT", "INT")] {
        let origin = Origin::gated("never", &Gate::default());
        let mut proxy = front("drainTimeout: 60s", &origin);
        let mut stuck = begin(&proxy, "/slow");
        origin.nth(1);
        proxy.signal(first);
        until("the drain has begun", SOON, || proxy.probe("/readyz") == Some(503));
        let asked = Instant::now();
        proxy.signal(second);
        let status = proxy.wait_exit(SOON);
        assert_eq!(status.code(), Some(0), "{first} {second}");
        assert!(asked.elapsed() < Duration::from_secs(3), "{first} {second}: {:?}", asked.elapsed());
        stuck.read_to_end();
    }
}

/// What a load balancer does: asks an instance whether it is ready, again and again.
fn follow(health: std::net::SocketAddr, ready: Arc<AtomicBool>, over: Arc<AtomicBool>) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        while !over.load(Ordering::SeqCst) {
            let answer = TcpStream::connect(health).is_ok_and(|stream| {
                let mut conn = Conn::new(stream);
                conn.try_write("GET /readyz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                    && conn.try_head().is_some_and(|head| head.status() == 200)
            });
            ready.store(answer, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(10));
        }
    })
}

#[test]
fn thirty_rolling_restarts_lose_nothing() {
    let origin = Origin::ok();
    let mut instances = [front("drainTimeout: 5s", &origin), front("drainTimeout: 5s", &origin)];
    let over = Arc::new(AtomicBool::new(false));
    let ready = [true, true].map(|ready| Arc::new(AtomicBool::new(ready)));
    let followers: Vec<_> = instances
        .iter()
        .zip(&ready)
        .map(|(proxy, ready)| follow(proxy.place("health"), Arc::clone(ready), Arc::clone(&over)))
        .collect();
    let addrs = [instances[0].addr(), instances[1].addr()];
    let seen = ready.clone();
    // Each client stays with one instance for as long as that is ready.
    let (chosen, turn) = (Mutex::new(std::collections::HashMap::new()), AtomicUsize::new(0));
    let target = move || {
        let mut chosen = chosen.lock().expect("targets");
        let mine = chosen.entry(std::thread::current().id()).or_insert_with(|| turn.fetch_add(1, Ordering::SeqCst) % 2);
        if !seen[*mine].load(Ordering::SeqCst) && seen[1 - *mine].load(Ordering::SeqCst) {
            *mine = 1 - *mine;
        }
        addrs[*mine]
    };
    let load = Load::start(Arc::new(target), 2, 2);
    for round in 0..30 {
        let (at, before) = (round % 2, load.done());
        instances[at].signal("TERM");
        let status = instances[at].wait_exit(SOON);
        assert_eq!(status.code(), Some(0), "{}", instances[at].stderr_text());
        instances[at].start_again();
        until("the load balancer has seen it", SOON, || ready[at].load(Ordering::SeqCst));
        assert!(load.done() > before, "the load goes on");
    }
    let done = load.done();
    let failures = load.stop();
    over.store(true, Ordering::SeqCst);
    followers.into_iter().for_each(|follower| follower.join().expect("a follower"));
    assert!(
        failures.is_empty(),
        "{} of {done} lost: {:#?}",
        failures.len(),
        failures.iter().take(10).collect::<Vec<_>>()
    );
    assert!(done > 1000, "{done} requests in 30 restarts");
}

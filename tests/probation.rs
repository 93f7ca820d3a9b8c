//! Reloads that make things worse under traffic, and are taken back; and those that do not, and stay.

mod common;

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::Duration;

use common::origin::Next;
use common::{Conn, DISK, Origin, Proxy, SOON, free_addr, until};
use serde_json::Value;

const CONFIG: &str = r#"apiVersion: outrigger/v1
admin: { address: "{admin}" }
health: { address: "{health}" }
runtime: { workers: 1, probation: 60s }
state: { directory: "{dir}/state" }
telemetry: { audit: "{dir}/audit.jsonl", accessLog: { format: off } }
listeners: [{ name: edge, mode: proxy, address: "{listen}" }]
services:
  app: { endpoints: { static: ["{app}"] } }
  other: { endpoints: { static: ["{other}"] } }
routes:
  - { name: side, hosts: [app.test], match: [{ path: { prefix: /side } }], to: app }
  - { name: all, hosts: [app.test], to: app }
"#;

const GOOD: &str = "{ name: all, hosts: [app.test], to: app }";
const A_THIRD: &str = "{ name: all, hosts: [app.test], split: [{ to: app, weight: 67 }, { to: other, weight: 33 }] }";
const SET: &str = "{ name: all, hosts: [app.test], to: app, responseHeaders: { set: { x-new: \"1\" } } }";

/// A dead service sees a third of the requests until it is taken back. Beyond chance is reached with about 45 of them;
/// the rest is what comes while a busy machine gets round to looking.
const FAILED_MAX: u64 = 150;

fn start(config: &str, app: SocketAddr, other: SocketAddr) -> Proxy {
    Proxy::start(config, &[("app", app), ("other", other)])
}

fn generation(proxy: &Proxy) -> u64 {
    proxy.admin_json("/config/status")["live"]["generation"].as_u64().expect("a generation")
}

fn rollbacks(proxy: &Proxy) -> u64 {
    proxy.metric("outrigger_config_rollbacks_total", &[]) as u64
}

fn on_probation(proxy: &Proxy) -> bool {
    proxy.metric("outrigger_config_probation", &[]) as u64 == 1
}

/// Lines of the audit so far.
fn audit(proxy: &Proxy) -> Vec<Value> {
    let text = fs::read_to_string(proxy.dir().join("audit.jsonl")).unwrap_or_default();
    let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    lines.map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

fn audited(proxy: &Proxy, action: &str, result: &str) -> Value {
    let found = || audit(proxy).into_iter().find(|line| line["action"] == action && line["result"] == result);
    common::eventually(&format!("{action} {result} in the audit"), SOON, found)
}

/// Clients at a steady rate: each asks, waits for the answer, and pauses.
struct Steady {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    all: AtomicU64,
    failed: AtomicU64,
}

impl Steady {
    fn to(proxy: &Proxy, path: &'static str, clients: usize, pause: Duration) -> Self {
        let (shared, addr) = (Arc::new(Shared::default()), proxy.addr());
        let client = |_| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || {
                let mut held = None;
                while !shared.stop.load(SeqCst) {
                    let conn = held.get_or_insert_with(|| Conn::connect(addr));
                    conn.write(format!("GET {path} HTTP/1.1\r\nHost: app.test\r\n\r\n"));
                    let reply = conn.response("GET");
                    shared.failed.fetch_add(u64::from(reply.status() != 200), SeqCst);
                    shared.all.fetch_add(1, SeqCst);
                    if reply.head.get("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
                        held = None;
                    }
                    // The pace, not a wait for anything.
                    std::thread::sleep(pause);
                }
            })
        };
        let clients = (0..clients).map(client).collect();
        Self { shared, clients }
    }

    /// About a thousand requests a second.
    fn thousand(proxy: &Proxy, path: &'static str) -> Self {
        Self::to(proxy, path, 4, Duration::from_millis(4))
    }

    fn failed(&self) -> u64 {
        self.shared.failed.load(SeqCst)
    }

    /// Waits for so many requests more.
    fn more(&self, count: u64) {
        let wanted = self.shared.all.load(SeqCst) + count;
        until(&format!("{wanted} requests"), SOON, || self.shared.all.load(SeqCst) >= wanted);
    }

    /// From now on none fails, but what is under way.
    fn is_clean(&self) {
        self.more(20);
        let failed = self.failed();
        self.more(500);
        assert_eq!(self.failed(), failed, "requests fail after it was taken back");
    }

    /// Ends it: how many failed.
    fn stop(self) -> u64 {
        self.shared.stop.store(true, SeqCst);
        for client in self.clients {
            client.join().expect("a client");
        }
        self.shared.failed.load(SeqCst)
    }
}

/// It runs on what it was before, as a new generation, and says so.
fn is_undone(proxy: &Proxy, undone: u64, why: &str) {
    until(&format!("{undone} is taken back\n{}", proxy.stderr_text()), SOON, || rollbacks(proxy) == 1);
    assert_eq!(generation(proxy), undone + 1);
    let config = proxy.healthz()["components"]["config"].clone();
    let detail = config["detail"].as_str().expect("a detail");
    assert_eq!(config["status"], "degraded");
    assert!(detail.contains(&format!("generation {undone} was taken back")) && detail.contains(why), "{detail}");
    assert_eq!((proxy.probe("/readyz"), on_probation(proxy)), (Some(200), false));
    assert_eq!(proxy.metric("outrigger_config_stale", &[]) as u64, 1);
    let line = audited(proxy, "rollback", "undone");
    assert_eq!((&line["source"], &line["previous"]), (&"probation".into(), &undone.into()), "{line:#}");
    assert_eq!(line["generation"], undone + 1);
    assert!(line["summary"].as_str().is_some_and(|summary| summary.contains(why)), "{line:#}");
}

#[test]
fn a_third_of_the_traffic_to_a_dead_service() {
    let origin = Origin::ok();
    let mut proxy = start(CONFIG, origin.addr(), free_addr());
    let load = Steady::thousand(&proxy, "/");
    load.more(1000);
    assert_eq!((load.failed(), on_probation(&proxy)), (0, false));
    proxy.edit_config(GOOD, A_THIRD);
    is_undone(&proxy, 2, "route all of listener edge: errors rose from 0.0 %");
    load.is_clean();
    let failed = load.failed();
    println!("{failed} requests failed");
    assert!((5..=FAILED_MAX).contains(&failed), "{failed} requests failed");
    let digests = |generation: u64| {
        let history = proxy.admin_json("/config/history");
        let rows = history["generations"].as_array().expect("generations").clone();
        rows.into_iter().find(|row| row["generation"] == generation).expect("the generation")
    };
    assert_eq!(digests(3)["digest"], digests(1)["digest"]);
    assert!(digests(2)["bad"].as_str().is_some_and(|why| why.contains("errors rose")), "{:#}", digests(2));
    let pushed = audited(&proxy, "reload", "live");
    assert_eq!((&pushed["generation"], &pushed["digest"]), (&2.into(), &digests(2)["digest"]));

    // The same is not taken again: not on a signal, not with a note in it, not by the next process.
    let refused = || proxy.metric("outrigger_config_reloads_total", &[("result", "failure")]) as u64;
    proxy.signal("HUP");
    until("it is refused", SOON, || refused() == 1);
    let text = fs::read_to_string(proxy.config()).expect("the file");
    proxy.rewrite_config(&format!("# now?\n{text}"));
    until("it is refused again", SOON, || refused() == 2);
    load.is_clean();
    assert_eq!(load.stop(), failed);
    let on_disk =
        || fs::read_to_string(proxy.dir().join("state/marks.json")).unwrap_or_default().contains("errors rose");
    until("the mark and the generation are on the disk", DISK, || {
        on_disk() && proxy.dir().join("state/generation-000003.json").exists()
    });
    proxy.signal("KILL");
    proxy.wait_exit(SOON);
    proxy.start_again();
    let load = Steady::thousand(&proxy, "/");
    load.more(300);
    assert_eq!((load.failed(), generation(&proxy)), (0, 3));
    let stale = proxy.admin_json("/config/status")["stale"].clone();
    assert!(stale.as_str().is_some_and(|stale| stale.contains("taken back before")), "{stale}");

    // Another one is, and is watched in its turn.
    proxy.reload(A_THIRD, SET);
    assert_eq!((generation(&proxy), on_probation(&proxy)), (4, true));
    assert_eq!(proxy.metric("outrigger_config_stale", &[]) as u64, 0);
    load.more(300);
    assert_eq!((load.stop(), generation(&proxy)), (0, 4));
}

/// What is still on probation is nothing to go back to, whatever comes after it.
#[test]
fn reloads_that_follow_one_another_do_not_end_a_probation() {
    let (origin, other) = (Origin::ok(), free_addr());
    type Then = fn(&Proxy) -> u64;
    let then: [(&str, Then); 4] = [
        ("the same once more", |proxy| {
            proxy.signal("HUP");
            3
        }),
        ("another one", |proxy| {
            proxy.edit_config("prefix: /side", "prefix: /more");
            3
        }),
        ("a broken one", |proxy| {
            proxy.edit_config("routes:", "rutes:");
            2
        }),
        ("one with an address that is taken", |proxy| {
            let more = ", { name: more, mode: proxy, address: \"{app}\" }]";
            proxy.edit_config("\" }]\nservices", &format!("\" }}{}\nservices", proxy.fill(more)));
            2
        }),
    ];
    for (name, then) in then {
        println!("{name}");
        let proxy = start(CONFIG, origin.addr(), other);
        let load = Steady::thousand(&proxy, "/");
        load.more(500);
        assert_eq!(load.stop(), 0);
        let attempts = || {
            ["success", "failure"]
                .map(|result| proxy.metric("outrigger_config_reloads_total", &[("result", result)]) as u64)
        };
        // Nobody asks meanwhile.
        proxy.reload(GOOD, A_THIRD);
        let before: u64 = attempts().iter().sum();
        let live = then(&proxy);
        until("it was looked at", SOON, || attempts().iter().sum::<u64>() > before);
        assert_eq!((generation(&proxy), on_probation(&proxy)), (live, true));
        let previous = if name == "another one" { 2 } else { 1 };
        assert_eq!(proxy.admin_json("/config/status")["probation"]["previousGeneration"], previous);
        let load = Steady::thousand(&proxy, "/");
        is_undone(&proxy, live, "errors rose");
        load.is_clean();
        assert!(load.stop() <= FAILED_MAX);
        until("it is in the log", SOON, || proxy.stderr_text().contains("\"back_to\":1"));
    }
}

/// A good push and a bad one right after it: only the bad one is undone, and the good one is watched further.
#[test]
fn a_push_that_was_good_so_far_is_gone_back_to() {
    let origin = Origin::ok();
    let proxy = start(CONFIG, origin.addr(), free_addr());
    let load = Steady::thousand(&proxy, "/");
    load.more(500);
    proxy.reload("prefix: /side", "prefix: /more");
    load.more(500);
    proxy.edit_config(GOOD, A_THIRD);
    until("3 is taken back", SOON, || rollbacks(&proxy) == 1);
    load.is_clean();
    let rows = proxy.admin_json("/config/history")["generations"].clone();
    let digest = |generation: u64| {
        let rows = rows.as_array().expect("generations");
        rows.iter().find(|row| row["generation"] == generation).expect("the generation")["digest"].clone()
    };
    assert_eq!((generation(&proxy), digest(4)), (4, digest(2)));
    assert_eq!((on_probation(&proxy), rollbacks(&proxy)), (true, 1));
    assert_eq!(proxy.admin_json("/config/status")["probation"]["previousGeneration"], 1);
    assert!(load.stop() <= FAILED_MAX);
}

/// With few requests, neither can be told from the other until the newer one has been seen to fail by itself.
#[test]
fn a_bad_push_is_not_blamed_on_the_good_one_before_it() {
    let origin = Origin::ok();
    let proxy = start(CONFIG, origin.addr(), free_addr());
    let ask = |count: usize| {
        let mut conn = Conn::connect(proxy.addr());
        for _ in 0..count {
            conn.write("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
            conn.response("GET");
        }
    };
    ask(200);
    proxy.reload(GOOD, SET);
    ask(13);
    proxy.reload(SET, &GOOD.replace("to: app", "to: other"));
    until("it is taken back", SOON, || {
        ask(1);
        rollbacks(&proxy) == 1
    });
    assert_eq!(audited(&proxy, "rollback", "undone")["previous"], 3);
    let live = common::get(proxy.addr(), "/");
    assert_eq!((live.status(), live.head.get("x-new").as_deref()), (200, Some("1")), "the good one is live");
}

/// What is slow on purpose is no regression.
#[test]
fn a_delay_on_purpose_stays() {
    let origin = Origin::ok();
    let proxy = start(&CONFIG.replace("probation: 60s", "probation: 2s"), origin.addr(), free_addr());
    let load = Steady::thousand(&proxy, "/");
    load.more(500);
    proxy.reload(GOOD, &GOOD.replace(" }", ", fault: { delay: { percent: 50, duration: 50ms } } }"));
    load.more(500);
    assert!(!on_probation(&proxy), "there is nothing to judge");
    assert_eq!((load.stop(), generation(&proxy), rollbacks(&proxy)), (0, 2, 0));
}

/// Answers 500 once it is told to.
fn failing(broken: &Arc<AtomicBool>) -> Origin {
    let broken = Arc::clone(broken);
    Origin::start(move |_, conn| {
        let status = if broken.load(SeqCst) { "500 Internal Server Error" } else { "200 OK" };
        let sent = conn.try_write(format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nok"));
        if sent { Next::Keep } else { Next::Close }
    })
}

#[test]
fn an_incident_behind_a_route_that_did_not_change_undoes_nothing() {
    let broken = Arc::new(AtomicBool::new(false));
    let (origin, other) = (failing(&broken), Origin::ok());
    let config = CONFIG.replace("probation: 60s", "probation: 3s").replace(GOOD, &GOOD.replace("to: app", "to: other"));
    let proxy = start(&config, origin.addr(), other.addr());
    let (side, all) = (Steady::thousand(&proxy, "/side"), Steady::thousand(&proxy, "/"));
    side.more(500);
    all.more(500);
    proxy.reload(&GOOD.replace("to: app", "to: other"), &SET.replace("to: app", "to: other"));
    assert!(on_probation(&proxy));
    broken.store(true, SeqCst);
    side.more(500);
    assert!(side.failed() >= 490, "{}", side.failed());
    let passed = audited(&proxy, "probation", "passed");
    assert_eq!((&passed["generation"], generation(&proxy), rollbacks(&proxy)), (&2.into(), 2, 0));
    assert!(side.stop() > 500);
    assert_eq!(all.stop(), 0);
    assert_eq!(proxy.healthz()["components"]["config"]["status"], "ok");
}

#[test]
fn a_host_that_was_renamed() {
    let origin = Origin::ok();
    let proxy = start(CONFIG, origin.addr(), free_addr());
    let load = Steady::thousand(&proxy, "/");
    load.more(1000);
    proxy.edit_config("hosts: [app.test]", "hosts: [app.tset]");
    is_undone(&proxy, 2, "without a route rose");
    load.is_clean();
    let failed = load.stop();
    println!("{failed} requests failed");
    assert!((5..=FAILED_MAX).contains(&failed), "{failed} requests failed");
}

#[test]
fn what_is_fine_passes() {
    let origin = Origin::ok();
    let proxy = start(&CONFIG.replace("probation: 60s", "probation: 2s"), origin.addr(), free_addr());
    let load = Steady::thousand(&proxy, "/");
    load.more(500);
    assert_eq!(proxy.admin_json("/config/status")["probation"], Value::Null);
    proxy.reload(GOOD, SET);
    assert!(on_probation(&proxy));
    let probation = proxy.admin_json("/config/status")["probation"].clone();
    assert_eq!((&probation["previousGeneration"], &probation["routes"]), (&1.into(), &serde_json::json!(["all"])));
    assert!(probation["until"].is_string(), "{probation:#}");
    let passed = audited(&proxy, "probation", "passed");
    assert_eq!((&passed["generation"], &passed["source"]), (&2.into(), &"probation".into()));
    assert_eq!((on_probation(&proxy), generation(&proxy), rollbacks(&proxy)), (false, 2, 0));
    assert_eq!(proxy.admin_json("/config/status")["probation"], Value::Null);
    let told = || proxy.stderr_text().contains("probation is over, and nothing got worse");
    until(&format!("it is in the log\n{}", proxy.stderr_text()), SOON, told);
    assert_eq!(load.stop(), 0);
    // What changes no decision is not watched.
    proxy.reload("accessLog: { format: off }", "accessLog: { format: json, sample: { others: 0 } }");
    assert_eq!((on_probation(&proxy), generation(&proxy)), (false, 3));
}

#[test]
fn without_probation_nothing_is_undone() {
    let origin = Origin::ok();
    let proxy = start(&CONFIG.replace("probation: 60s", "probation: 0s"), origin.addr(), free_addr());
    let load = Steady::thousand(&proxy, "/");
    load.more(500);
    proxy.reload(GOOD, A_THIRD);
    assert!(!on_probation(&proxy));
    load.more(1500);
    assert!(load.stop() > 300, "a third of them");
    assert_eq!((generation(&proxy), rollbacks(&proxy)), (2, 0));
    assert_eq!(proxy.healthz()["components"]["config"]["status"], "ok");
    // Whoever sees that goes back by hand.
    assert_eq!(proxy.cli(&["config", "rollback", "1"]).code, 0);
    let load = Steady::thousand(&proxy, "/");
    load.is_clean();
    assert_eq!(load.stop(), 0);
}

#[test]
fn a_service_that_is_slower() {
    let origin = Origin::ok();
    let slow = Origin::start(|_, conn| {
        std::thread::sleep(Duration::from_millis(300));
        if conn.try_write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") { Next::Keep } else { Next::Close }
    });
    let proxy = start(CONFIG, origin.addr(), slow.addr());
    // So many because each of them waits for the slow one.
    let load = Steady::to(&proxy, "/", 32, Duration::from_millis(60));
    load.more(500);
    proxy.edit_config(GOOD, &GOOD.replace("to: app", "to: other"));
    // Which of the two tests finds it depends on how fast the answers were before.
    is_undone(&proxy, 2, "rose");
    let answered = slow.seen().len();
    println!("{answered} requests were slow");
    assert!(answered <= 1000, "{answered} requests were slow");
    load.more(200);
    let answered = slow.seen().len();
    load.more(200);
    assert_eq!((slow.seen().len(), load.stop()), (answered, 0));
}

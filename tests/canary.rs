//! A canary that moves by itself: up while its side does well, to nothing when it does not, and where an operator says.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::Duration;

use common::origin::Next;
use common::{Conn, Origin, Proxy, SOON, Start, example, until};
use serde_json::{Value, json};

/// Longest that steps of a second or so may take on a busy machine.
const STEPS: Duration = Duration::from_secs(60);

/// How long answers take is of no matter: at the top it is compared with what the machine did before, which others use.
const CONFIG: &str = r#"apiVersion: outrigger/v1
admin: { address: "{admin}" }
health: { address: "{health}" }
runtime: { workers: 2, probation: 0s }
telemetry: { audit: "{dir}/audit.jsonl", accessLog: { format: off } }
listeners: [{ name: edge, mode: proxy, address: "{listen}" }]
services:
  one: { endpoints: { static: ["{one}"] } }
  two: { endpoints: { static: ["{two}"] } }
routes:
  - name: shop
    split: [{ to: one, weight: 90 }, { to: two, weight: 10 }]
    sticky: { header: x-user }
    canary: { side: two, steps: [20, 50, 100], every: 1s, minRequests: 50, abortIf: { p99: 10000 } }
"#;

fn canary(proxy: &Proxy) -> Value {
    proxy.admin_json("/canaries")["canaries"][0].clone()
}

fn share(proxy: &Proxy) -> f64 {
    canary(proxy)["share"].as_f64().expect("a share")
}

fn audited(proxy: &Proxy, result: &str) -> bool {
    let text = std::fs::read_to_string(proxy.dir().join("audit.jsonl")).unwrap_or_default();
    text.lines().any(|line| line.contains("\"canary\"") && line.contains(&format!("\"{result}\"")))
}

/// Who answers which of these users.
fn sides(proxy: &Proxy, users: usize) -> Vec<String> {
    let mut conn = Conn::connect(proxy.addr());
    let mut ask = |user: usize| {
        conn.write(format!("GET / HTTP/1.1\r\nHost: app.test\r\nX-User: {user}\r\nX-User-Id: {user}\r\n\r\n"));
        conn.response("GET").text()
    };
    (0..users).map(&mut ask).collect()
}

/// Clients that ask without pause until they are dropped.
struct Traffic(Arc<AtomicBool>, Vec<JoinHandle<()>>);

impl Traffic {
    fn start(proxy: &Proxy) -> Self {
        let (stop, addr) = (Arc::new(AtomicBool::new(false)), proxy.addr());
        let clients = (0..3).map(|_| {
            let stop = stop.clone();
            std::thread::spawn(move || {
                let mut conn = Conn::connect(addr);
                while !stop.load(SeqCst) {
                    conn.write("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
                    conn.response("GET");
                    std::thread::sleep(Duration::from_millis(2));
                }
            })
        });
        let clients = clients.collect();
        Self(stop, clients)
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
        for client in self.1.drain(..) {
            let ended = client.join();
            assert!(ended.is_ok() || std::thread::panicking(), "a client failed");
        }
    }
}

/// Answers, or fails while the flag is up.
fn failing(name: &'static str, fails: &Arc<AtomicBool>) -> Origin {
    let fails = fails.clone();
    Origin::start(move |_, conn| {
        let status = if fails.load(SeqCst) { "500 Internal Server Error" } else { "200 OK" };
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{name}", name.len());
        if conn.try_write(answer) { Next::Keep } else { Next::Close }
    })
}

#[test]
fn a_good_side_goes_to_the_top_and_a_bad_one_to_nothing() {
    let fails = Arc::new(AtomicBool::new(false));
    let (one, two) = (Origin::named("one"), failing("two", &fails));
    let proxy = Proxy::start(CONFIG, &[("one", one.addr()), ("two", two.addr())]);
    assert_eq!((canary(&proxy)["phase"].as_str(), share(&proxy)), (Some("running"), 20.0));
    let traffic = Traffic::start(&proxy);
    until("it takes a step", STEPS, || share(&proxy) >= 50.0);
    until("it is at the top", STEPS, || share(&proxy) >= 100.0);
    until("it is done", STEPS, || canary(&proxy)["phase"] == "done");
    drop(traffic);
    assert!(sides(&proxy, 50).iter().all(|side| side == "two"));
    assert_eq!(proxy.metric("outrigger_canary_share", &[("route", "shop")]), 100.0);
    assert!(audited(&proxy, "step") && audited(&proxy, "done"));
    assert_eq!(proxy.metric("outrigger_canary_transitions_total", &[("to", "step")]), 2.0);
    // Another one, that fails.
    fails.store(true, SeqCst);
    proxy.reload("steps: [20, 50, 100], every: 1s", "steps: [25, 50, 100], every: 10m");
    assert_eq!((canary(&proxy)["phase"].as_str(), share(&proxy)), (Some("running"), 25.0), "it begins again");
    let traffic = Traffic::start(&proxy);
    until("it is aborted", STEPS, || canary(&proxy)["phase"] == "aborted");
    drop(traffic);
    let told = canary(&proxy);
    assert!(told["why"].as_str().is_some_and(|why| why.contains("errors rose")), "{told}");
    assert!(told["onStep"]["side"]["failed"].as_u64() >= Some(5), "{told}");
    assert!(audited(&proxy, "aborted"));
    assert!(proxy.stderr_text().contains("canary aborted"), "{}", proxy.stderr_text());
    fails.store(false, SeqCst);
    assert!(sides(&proxy, 100).iter().all(|side| side == "one"), "nobody is sent there");
    // It stays so, whatever else changes.
    proxy
        .reload("{ to: one, weight: 90 }, { to: two, weight: 10 }", "{ to: one, weight: 50 }, { to: two, weight: 50 }");
    assert_eq!((canary(&proxy)["phase"].as_str(), share(&proxy)), (Some("aborted"), 0.0));
    assert!(sides(&proxy, 100).iter().all(|side| side == "one"));
    proxy.reload("steps: [25, 50, 100]", "steps: [30, 50, 100]");
    assert_eq!((canary(&proxy)["phase"].as_str(), share(&proxy)), (Some("running"), 30.0));
    proxy.reload("    canary: {", "    # canary: {");
    assert_eq!(proxy.admin_json("/canaries"), json!({ "canaries": [] }));
    let some = sides(&proxy, 200).iter().filter(|side| *side == "two").count();
    assert!((50..150).contains(&some), "the written weights again: {some} of 200");
}

#[test]
fn a_reload_keeps_where_it_stands() {
    let (one, two) = (Origin::named("one"), Origin::named("two"));
    let config = CONFIG.replace("every: 1s", "every: 10m");
    let proxy = Proxy::start(&config, &[("one", one.addr()), ("two", two.addr())]);
    assert_eq!(proxy.cli(&["canary", "step", "shop"]).code, 0);
    let before = canary(&proxy);
    assert_eq!((before["share"].as_f64(), &before["step"]), (Some(50.0), &json!(2)));
    proxy.reload("runtime: { workers: 2, probation: 0s }", "runtime: { workers: 2, probation: 0s, drainTimeout: 9s }");
    let after = canary(&proxy);
    assert_eq!(
        (&after["share"], &after["step"], &after["since"]),
        (&before["share"], &before["step"], &before["since"])
    );
    let some = sides(&proxy, 400).iter().filter(|side| *side == "two").count();
    assert!((100..300).contains(&some), "half of them: {some}");
}

#[test]
fn a_restart_keeps_where_it_stands() {
    let (one, two) = (Origin::named("one"), Origin::named("two"));
    let config = CONFIG.replace("every: 1s", "every: 10m");
    let start = Start::args(&["--state-directory", "{dir}/state"]);
    let mut proxy = Proxy::start_as(&start, &config, &[("one", one.addr()), ("two", two.addr())]);
    let stands = |proxy: &Proxy| (canary(proxy)["phase"].clone(), share(proxy), canary(proxy)["why"].clone());
    let again = |proxy: &mut Proxy| {
        proxy.stop();
        proxy.start_again();
    };
    assert_eq!(proxy.cli(&["canary", "step", "shop"]).code, 0);
    again(&mut proxy);
    assert_eq!(stands(&proxy), (json!("running"), 50.0, Value::Null));
    let some = sides(&proxy, 400).iter().filter(|side| *side == "two").count();
    assert!((100..300).contains(&some), "half of them: {some}");
    assert_eq!(proxy.cli(&["canary", "promote", "shop"]).code, 0);
    again(&mut proxy);
    assert_eq!(stands(&proxy), (json!("done"), 100.0, Value::Null));
    assert_eq!(proxy.cli(&["canary", "abort", "shop"]).code, 0);
    // And over more than one restart.
    for _ in 0..2 {
        again(&mut proxy);
        assert_eq!(stands(&proxy), (json!("aborted"), 0.0, json!("by an operator")));
        assert!(sides(&proxy, 100).iter().all(|side| side == "one"));
    }
    proxy.stop();
    proxy.rewrite_config(&config.replace("20, 50, 100", "30, 50, 100"));
    proxy.start_again();
    assert_eq!(stands(&proxy), (json!("running"), 30.0, Value::Null), "another canary");
}

#[test]
fn the_example_does_what_it_says() {
    let (v1, v2) = (Origin::named("v1"), Origin::named("v2"));
    let proxy = example::start("progressive-canary", &[("127.0.0.1:9081", v1.addr()), ("127.0.0.1:9082", v2.addr())]);
    let on_v2 = |proxy: &Proxy| -> Vec<usize> {
        sides(proxy, 1000).iter().enumerate().filter(|(_, side)| *side == "v2").map(|(user, _)| user).collect()
    };
    let mut before = on_v2(&proxy);
    assert!((10..=95).contains(&before.len()), "5 % of 1000: {}", before.len());
    for (share, step) in [(15.0, 2), (30.0, 3), (60.0, 4)] {
        let told = proxy.cli_json(&["canary", "step", "checkout"])["canaries"][0].clone();
        assert_eq!(
            (told["share"].as_f64(), &told["step"], &told["phase"]),
            (Some(share), &json!(step), &json!("running"))
        );
        let now = on_v2(&proxy);
        assert!(before.iter().all(|user| now.contains(user)), "nobody is moved back");
        assert!((now.len() as f64 / 10.0 - share).abs() < 8.0, "{} at {share} %", now.len());
        before = now;
    }
    let explained = proxy.cli_json(&["explain", "http://app.test/"]);
    let policy =
        explained["policy"].as_array().expect("policies").iter().find(|one| one["name"] == "canary").expect("it");
    assert_eq!(policy["value"], "checkout/v2 at 60 % (running, step 4 of 5)");
    let side =
        explained["sides"].as_array().expect("sides").iter().find(|side| side["to"] == "checkout/v2").expect("v2");
    assert_eq!(side["share"], 60.0);
    let said = proxy.cli(&["canary", "status"]);
    assert!(said.out.contains("checkout/v2") && said.out.contains("at 60"), "{said:?}");
    assert_eq!(proxy.cli(&["canary", "promote", "checkout"]).code, 0);
    assert_eq!(on_v2(&proxy).len(), 1000);
    let said = proxy.cli(&["canary", "step", "checkout"]);
    assert!(said.code == 1 && said.err.contains("last step"), "{said:?}");
    assert_eq!(proxy.cli(&["canary", "abort", "checkout"]).code, 0);
    assert_eq!(on_v2(&proxy).len(), 0);
    let said = proxy.cli(&["canary", "promote", "checkout"]);
    assert!(said.code == 1 && said.err.contains("aborted"), "{said:?}");
    let said = proxy.cli(&["canary", "step", "nowhere"]);
    assert!(said.code == 1 && said.err.contains("nowhere"), "{said:?}");
    until("the metric follows", SOON, || proxy.metric("outrigger_canary_share", &[("route", "checkout")]) == 0.0);
    assert_eq!(proxy.admin("GET", "/canaries/abort?route=checkout").status(), 405);
}

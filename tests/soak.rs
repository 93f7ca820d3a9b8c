//! Mixed traffic while endpoints die, configurations are reloaded and certificates rotate: no client sees a failure that
//! nobody explains, and memory stays flat. `make soak` runs it for ten minutes; without `SOAK_SECS` it is a short one.

mod common;

use std::time::{Duration, Instant};

use common::load::Load;
use common::mesh::{Mesh, STRICT};
use common::{Proxy, SOON, Setup, TempDir, until};

/// Seconds, where nothing else is asked for.
const SHORT: u64 = 20;
/// KiB by which the memory of the proxy may be larger at the end than after its first third.
const GROWTH: u64 = 8 * 1024;
/// Failures that are explained, of a hundred thousand requests.
const EXPLAINED: u64 = 100;

const CONFIG: &str = r#"apiVersion: outrigger/v1
admin: { address: "{admin}" }
health: { address: "{health}" }
runtime: { workers: 1, probation: 0s }
telemetry: { accessLog: { format: json, sample: { errors: 100, others: 0, maxPerSecond: 0 } } }
identity: { trustDomain: mesh.test, certificate: "DIR/tls.crt", privateKey: "DIR/tls.key", trustBundle: "DIR/ca.crt" }
listeners: [{ name: edge, mode: proxy, address: "{listen}" }]
services:
  app:
    endpoints: { static: ["{a}", "{b}", "{c}"] }
    tls: { mode: mutual, identities: ["spiffe://mesh.test/ns/shop/sa/reviews"] }
    loadBalancer: { policy: peakEwma }
    outlierDetection: { consecutiveFailures: 3, interval: 1s, baseEjection: 1s }
    healthCheck: { tcp: {}, interval: 1s, timeout: 500ms }
routes:
  - name: all
    to: app
    timeout: 8s
    retry:
      attempts: 4
      on: [connectFailure, reset, refusedStream, gatewayError]
      perTryTimeout: 2s
      budget: { percent: 50, minPerSecond: 50 }
"#;

#[test]
fn nothing_is_lost_and_nothing_grows() {
    let seconds = std::env::var("SOAK_SECS").ok().map_or(SHORT, |text| text.parse().expect("SOAK_SECS in seconds"));
    let mesh = Mesh::new();
    let service = common::nginx::nginx("server { listen {addr}; location / { return 200 ok; } }");
    let mut endpoints: Vec<Proxy> =
        (0..3).map(|_| mesh.inbound(service.addr(), Setup { listener: STRICT, ..Setup::default() })).collect();
    // The certificate of the caller lies where it is replaced as Kubernetes replaces it.
    let files = TempDir::new("identity");
    mesh.web.mount(files.path(), &mesh.pki.bundle());
    let config = CONFIG.replace("DIR", &files.path().display().to_string());
    let [a, b, c] = [0, 1, 2].map(|n: usize| endpoints[n].addr());
    let proxy = Proxy::start(&config, &[("a", a), ("b", b), ("c", c)]);

    let load = Load::to(proxy.addr(), 2, 2);
    until("traffic flows", SOON, || load.done() > 100);
    let begun = Instant::now();
    let (mut round, mut early) = (0, None);
    while begun.elapsed() < Duration::from_secs(seconds) {
        round += 1;
        let victim = round % endpoints.len();
        // In order, and not.
        if round % 2 == 0 {
            endpoints[victim].stop();
        } else {
            endpoints[victim].signal("KILL");
            endpoints[victim].wait_exit(SOON);
        }
        let before = load.done();
        until("it goes on without one", SOON, || load.done() > before + 50);
        endpoints[victim].start_again();
        match round % 2 {
            0 => proxy.reload("timeout: 8s", "timeout: 9s"),
            _ if round > 1 => proxy.reload("timeout: 9s", "timeout: 8s"),
            _ => {}
        }
        mesh.pki.workload("shop", "web").mount(files.path(), &mesh.pki.bundle());
        let before = load.done();
        until("it goes on with all", SOON, || load.done() > before + 50);
        if early.is_none() && begun.elapsed() > Duration::from_secs(seconds / 3) {
            early = Some(proxy.memory().0);
        }
    }
    let (done, late) = (load.done(), proxy.memory().0);
    let failures = load.stop();
    let unexplained: Vec<&String> =
        failures.iter().filter(|failure| !failure.to_lowercase().contains("proxy-status")).collect();
    assert!(unexplained.is_empty(), "{} of {done} unexplained: {unexplained:#?}", unexplained.len());
    assert!(failures.len() as u64 * 100_000 <= EXPLAINED * done, "{} of {done} failed: {failures:#?}", failures.len());
    let early = early.expect("a round after the first third");
    assert!(late <= early + GROWTH, "memory grew from {early} to {late} KiB");
    assert!(round >= 3, "only {round} rounds");
    println!("{done} requests, {round} rounds, {} explained failures, {early} to {late} KiB", failures.len());
}

//! A pod whose rules are in place before its sidecar has a configuration: connections are held until there is one.

mod common;

use std::time::{Duration, Instant};

use common::pods::{Keys, Net, Sidecar};
use common::{Conn, SOON, show, until};

const EXIT_CONFIG: Option<i32> = Some(1);
const WAITING: &str = "waiting for a configuration";
/// Longer than two looks at whether there is one.
const LOOKS: Duration = Duration::from_millis(2500);

/// In to an application of pod b and out to one of the node, by IPv4 and IPv6. All have asked.
fn asking(net: &Net) -> Vec<Conn> {
    let mut all = vec![
        net.node.connect(net.b.at(8080)),
        net.node.connect(net.b.at6(8080)),
        net.b.connect(net.node.at(9000)),
        net.b.connect(net.node.at6(9000)),
    ];
    for conn in &mut all {
        conn.write("GET / HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n");
    }
    all
}

fn answered(all: Vec<Conn>) -> Vec<String> {
    all.into_iter().map(|mut conn| conn.response("GET").text()).collect()
}

fn waits(sidecar: &Sidecar<'_>) {
    until("it waits", SOON, || sidecar.stderr().contains(WAITING));
}

#[test]
fn held_until_there_is_a_file() {
    let Some(net) = Net::new() else { return };
    let _apps = [net.b.app("[::]:8080", "in"), net.node.app("[::]:9000", "out")];
    for tproxy in [false, true] {
        net.b.intercept(if tproxy { &["--mode", "tproxy"] } else { &[] });
        let sidecar = net.b.begin(&["--await-config", "20s"], None, tproxy);
        waits(&sidecar);
        let mut all = asking(&net);
        assert!(all[0].is_quiet(LOOKS) && all.iter_mut().all(|conn| conn.is_quiet(Duration::from_millis(1))));
        sidecar.write_config(&Keys { tproxy, ..Keys::default() }.config());
        assert_eq!(answered(all), ["in", "in", "out", "out"], "tproxy: {tproxy}");
        assert_eq!(answered(asking(&net)), ["in", "in", "out", "out"], "and those that come later");
        assert_eq!(sidecar.stderr().matches("cannot").count(), 1, "one report: {}", sidecar.stderr());
        drop(sidecar);
    }
}

#[test]
fn held_until_the_file_is_repaired() {
    let Some(net) = Net::new() else { return };
    let _apps = [net.b.app("[::]:8080", "in"), net.node.app("[::]:9000", "out")];
    net.b.intercept(&[]);
    let good = Keys::default().config();
    let broken = good.replace("mode: inbound", "mode: imbound");
    let sidecar = net.b.begin(&["--await-config", "20s"], Some(&broken), false);
    waits(&sidecar);
    let mut all = asking(&net);
    assert!(all[0].is_quiet(LOOKS));
    let told = sidecar.stderr();
    assert_eq!(
        (told.matches("imbound").count(), told.matches(WAITING).count()),
        (2, 1),
        "the line and the word: {told}"
    );
    // Another mistake is another report.
    sidecar.write_config(&broken.replace("mode: imbound", "mode: inbond"));
    until("it is told", SOON, || sidecar.stderr().contains("inbond"));
    assert!(all.iter_mut().all(|conn| conn.is_quiet(Duration::from_millis(1))));
    sidecar.write_config(&good);
    assert_eq!(answered(all), ["in", "in", "out", "out"]);
    until("it is ready", SOON, || sidecar.ask(|proxy| proxy.probe("/readyz")) == Some(200));
    assert_eq!(sidecar.stderr().matches(WAITING).count(), 1);
}

#[test]
fn not_for_ever() {
    let Some(net) = Net::new() else { return };
    net.b.intercept(&[]);
    let begin = Instant::now();
    let mut sidecar = net.b.begin(&["--await-config", "1s"], None, false);
    waits(&sidecar);
    let all = asking(&net);
    assert_eq!(sidecar.wait_exit(), EXIT_CONFIG);
    assert!(begin.elapsed() >= Duration::from_secs(1));
    for mut conn in all {
        assert_eq!((show(&conn.read_to_end()).as_str(), conn.was_reset), ("", true));
    }
    // Nobody has asked for that.
    let begin = Instant::now();
    let mut sidecar = net.b.begin(&[], None, false);
    assert_eq!(sidecar.wait_exit(), EXIT_CONFIG);
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    assert!(!sidecar.stderr().contains(WAITING), "{}", sidecar.stderr());
}

#[test]
fn it_may_be_stopped() {
    let Some(net) = Net::new() else { return };
    net.b.intercept(&[]);
    for signal in ["TERM", "INT"] {
        let mut sidecar = net.b.begin(&["--await-config", "60s"], None, false);
        waits(&sidecar);
        let mut conn = net.node.connect(net.b.at(8080));
        let begin = Instant::now();
        sidecar.signal(signal);
        assert_eq!(sidecar.wait_exit(), EXIT_CONFIG, "{signal}");
        assert!(begin.elapsed() < Duration::from_secs(2), "{signal}: {:?}", begin.elapsed());
        assert_eq!(show(&conn.read_to_end()), "", "{signal}");
    }
}

/// Other addresses than the usual ones are had as well, and theirs are let go.
#[test]
fn a_file_that_listens_elsewhere() {
    let Some(net) = Net::new() else { return };
    let _app = net.b.app("[::]:8080", "in");
    let sidecar = net.b.begin(&["--await-config", "20s"], None, false);
    waits(&sidecar);
    let config =
        Keys::default().config().replace("0.0.0.0:15006", "10.9.0.3:15006").replace("127.0.0.1:15001", "0.0.0.0:15001");
    sidecar.write_config(&config);
    until("it is ready", SOON, || sidecar.ask(|proxy| proxy.probe("/readyz")) == Some(200));
    let listens = net.b.run("ss", &["-Hltn"]);
    let has = |address: &str| listens.split_whitespace().any(|word| word == address);
    assert!(has("10.9.0.3:15006") && has("0.0.0.0:15001") && has("[::]:15001"), "{listens}");
    assert!(!has("0.0.0.0:15006") && !has("[::]:15006") && !has("127.0.0.1:15001"), "{listens}");
}

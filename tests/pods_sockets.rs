//! Connections of pods as the kernel sees them: how they end, what is lost on the way, and how many it has to track.

mod common;

use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

use common::mesh::{Mesh, REVIEWS};
use common::pods::{APP, Keys, Net, Sidecar, services};
use common::{Conn, Origin, SOON, pattern, show, until};
use serde_json::Value;

/// Two sidecars with mTLS for what is called at 10.96.0.40, and without for what is called by its own address.
struct Sides {
    _mesh: Mesh,
    web: String,
    reviews: String,
}

impl Sides {
    fn new(ports: &[u16]) -> Self {
        let mesh = Mesh::new();
        // A first packet may be lost, and the next comes a second later.
        let patience = "defaults: { connectTimeout: 20s }\n";
        let web = format!("{}{patience}{}", mesh.identity(&mesh.web), services(ports, REVIEWS));
        let reviews = format!("{}{patience}", mesh.identity(&mesh.reviews));
        Self { _mesh: mesh, web, reviews }
    }

    fn start<'n>(&self, net: &'n Net) -> (Sidecar<'n>, Sidecar<'n>) {
        let caller = net.a.sidecar(&Keys { top: &self.web, ..Keys::default() });
        let inbound = ", tls: { mode: permissive }";
        let called = net.b.sidecar(&Keys { inbound, top: &self.reviews, ..Keys::default() });
        (caller, called)
    }
}

/// A server that hands its connections to the test.
fn handed(net: &Net, address: &str) -> (Origin, Receiver<Conn>) {
    let (give, take) = channel();
    let give = Mutex::new(give);
    let origin = Origin::raw_on(net.b.listen(address), move |conn, _| {
        let _ = give.lock().expect("channel").send(conn);
    });
    (origin, take)
}

#[test]
fn ends_are_passed_on_as_they_are() {
    let Some(net) = Net::new() else { return };
    let (_server, accepted) = handed(&net, "0.0.0.0:7000");
    let sides = Sides::new(&[7001]);
    let (a, b) = sides.start(&net);
    let pair = || {
        let mut client = net.a.connect(net.b.at(7000));
        client.write("\x01c");
        let mut server = accepted.recv_timeout(SOON).expect("a connection");
        assert_eq!(show(&server.read_exact(2)), "\\x01c");
        server.write("s");
        assert_eq!(show(&client.read_exact(1)), "s");
        (client, server)
    };
    let ends = |mut conn: Conn, by_reset: bool, who: &str| {
        assert_eq!((show(&conn.read_to_end()).as_str(), conn.was_reset), ("", by_reset), "{who}");
    };
    for turned in [false, true] {
        let pair = || {
            let (client, server) = pair();
            if turned { (server, client) } else { (client, server) }
        };
        // One finishes, the other still talks, then finishes as well.
        let (mut one, mut two) = pair();
        one.finish();
        assert_eq!(show(&two.read_to_end()), "");
        two.write("still talking");
        assert_eq!(show(&one.read_exact(13)), "still talking");
        two.finish();
        ends(one, false, "both have finished");
        // One resets at once.
        let (one, two) = pair();
        one.reset();
        ends(two, true, "a reset");
        // One finishes, and the other resets.
        let (one, two) = pair();
        one.finish();
        let mut two = two;
        assert_eq!(show(&two.read_to_end()), "");
        two.reset();
        ends(one, true, "a reset after the other's end");
        // One finishes, then resets.
        let (one, mut two) = pair();
        one.finish();
        assert_eq!(show(&two.read_to_end()), "");
        one.reset();
        until("the reset arrives", SOON, || !two.try_write("x"));
    }
    let open = |sidecar: &Sidecar<'_>| sidecar.metric("outrigger_worker_tcp_active", &[]);
    until("nothing is left open", SOON, || open(&a) == 0.0 && open(&b) == 0.0);
}

#[test]
fn a_connect_that_nobody_takes_is_reset() {
    let Some(net) = Net::new() else { return };
    let _a = net.a.sidecar(&Keys::default());
    // Closed ports of somebody without a sidecar.
    for target in [net.node.at(7999), net.node.at6(7999)] {
        let mut conn = net.a.connect(target);
        assert_eq!(show(&conn.read_to_end()), "");
        assert!(conn.was_reset, "{target}: as the application would have been told without us");
    }
}

#[test]
fn bulk_survives_loss() {
    const SIZE: usize = 400_000;
    let Some(net) = Net::new() else { return };
    let sides = Sides::new(&[7001]);
    let (_a, b) = sides.start(&net);
    let heard = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&heard);
    let _server = Origin::raw_on(net.b.listen("0.0.0.0:7001"), move |mut conn, _| {
        // Slow is not dead, as long as something arrives.
        let all = conn.read_to_end();
        conn.try_write(pattern(2, SIZE));
        // The sidecar may have had a look who speaks first.
        if !all.is_empty() {
            keep.lock().expect("heard").push(all);
        }
    });
    net.lose(10);
    let clients: Vec<_> = ["10.96.0.40:7001", "10.9.0.3:7001"]
        .map(|target| {
            let stream = net.a.try_connect(APP, target).expect("connect");
            std::thread::spawn(move || {
                let mut conn = Conn::patient(stream);
                conn.write(pattern(1, SIZE));
                conn.finish();
                conn.read_to_end() == pattern(2, SIZE)
            })
        })
        .into_iter()
        .collect();
    for client in clients {
        assert!(client.join().expect("a client"), "changed on the way back");
    }
    until("both have arrived", SOON, || heard.lock().expect("heard").len() == 2);
    assert!(heard.lock().expect("heard").iter().all(|all| *all == pattern(1, SIZE)), "changed on the way there");
    let dropped = net.node.run_as(0, "nft", &["list", "table", "bridge", "loss"]);
    assert!(!dropped.contains("packets 0 "), "nothing was lost: {dropped}");
    b.await_page("/peers", "shop/sa/web");
}

#[test]
fn iperf_through_two_sidecars() {
    let Some(net) = Net::new() else { return };
    let sides = Sides::new(&[5201]);
    let (a, b) = sides.start(&net);
    let mut least = 0.0;
    for (target, reverse) in [("10.96.0.40", false), ("10.96.0.40", true), ("10.9.0.3", false), ("fd09::3", true)] {
        let _server = net.b.spawn(APP, "iperf3", &["-s", "-1"]);
        // Its only client is ours to be: a look whether it listens would be it.
        until("it listens", SOON, || net.b.run("ss", &["-Hltn"]).contains(":5201 "));
        let mut args = vec!["-c", target, "-J", "-t", "1", "-P", "2"];
        args.extend(reverse.then_some("-R"));
        let told: Value = serde_json::from_str(&net.a.run("iperf3", &args)).expect("JSON");
        let sum = |side: &str| told["end"][side]["bytes"].as_f64().unwrap_or_default();
        assert!(sum("sum_received") > 1e6, "{target}: {told:#}");
        least += sum("sum_received");
    }
    for sidecar in [&a, &b] {
        let carried = || {
            let bytes = |way| sidecar.metric(&format!("outrigger_worker_tcp_{way}_bytes_total"), &[]);
            bytes("received") + bytes("sent")
        };
        until("the bytes are counted", SOON, || carried() >= least);
    }
}

#[test]
fn the_kernel_tracks_what_it_has_to() {
    const MANY: usize = 300;
    let Some(net) = Net::new() else { return };
    let sides = Sides::new(&[7001]);
    let (_a, _b) = sides.start(&net);
    let _http = net.b.app("0.0.0.0:7001", "app");
    let before = net.a.tracked();
    for _ in 0..MANY {
        assert_eq!(net.a.get("10.96.0.40:7001", "x").status(), 200);
    }
    let of_http = net.a.tracked() - before;
    // One for each connection of the application; behind it they share a few.
    assert!((MANY..MANY + 20).contains(&of_http), "{of_http} entries for {MANY} connections of HTTP");

    let _tcp = Origin::raw_on(net.b.listen("0.0.0.0:7002"), |mut conn, _| {
        let said = conn.read_some();
        conn.try_write(said);
    });
    let before = net.a.tracked();
    for _ in 0..MANY {
        let mut conn = net.a.connect(net.b.at(7002));
        conn.write("\x01");
        assert_eq!(show(&conn.read_to_end()), "\\x01");
    }
    let of_tcp = net.a.tracked() - before;
    assert!((MANY..=2 * MANY + 20).contains(&of_tcp), "{of_tcp} entries for {MANY} connections");
}

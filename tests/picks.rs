//! Which endpoint a policy picks: keys, tiers, zones and regions, what is not available, and what outlives a reload.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use common::origin::{Gate, Next};
use common::{Conn, Origin, Proxy, SOON, TempDir, free_addr, until};

const TOP: &str = r#"apiVersion: outrigger/v1
admin: { address: "{admin}" }
health: { address: "{health}" }
runtime: { workers: 1 }
workload: { zone: a, region: a }
telemetry: { accessLog: { format: off } }
listeners: [{ name: edge, mode: proxy, address: "{listen}" }]
"#;

/// A service with these endpoints and this `loadBalancer`.
fn start(endpoints: &str, balancer: &str, fills: &[(&str, SocketAddr)]) -> Proxy {
    let service = format!("endpoints: {{ static: [{endpoints}] }}, loadBalancer: {{ {balancer} }}");
    let config = format!("{TOP}services:\n  app: {{ {service} }}\nroutes:\n  - {{ name: all, to: app }}\n");
    Proxy::start(&config, fills)
}

fn named<const N: usize>(names: [&str; N]) -> [Origin; N] {
    names.map(Origin::named)
}

/// Who answers, or the status of whoever does not; and what it was picked by.
fn ask(conn: &mut Conn, path: &str, headers: &str) -> (String, String) {
    conn.write(format!("GET {path} HTTP/1.1\r\nHost: app.test\r\nx-outrigger-explain: 1\r\n{headers}\r\n"));
    let reply = conn.response("GET");
    let explained = reply.head.get("x-outrigger-explain").unwrap_or_default();
    let by = explained.split("; ").find_map(|part| part.strip_prefix("by=")).unwrap_or_default();
    let who = if reply.status() == 200 { reply.text() } else { reply.status().to_string() };
    (who, by.to_owned())
}

fn tally(proxy: &Proxy, requests: usize) -> BTreeMap<String, usize> {
    let mut conn = Conn::connect(proxy.addr());
    (0..requests).fold(BTreeMap::new(), |mut tally, _| {
        *tally.entry(ask(&mut conn, "/", "").0).or_default() += 1;
        tally
    })
}

fn keys(tally: &BTreeMap<String, usize>) -> Vec<&str> {
    tally.keys().map(String::as_str).collect()
}

/// Who answers for each of so many users.
fn users(proxy: &Proxy, count: usize) -> Vec<String> {
    let mut conn = Conn::connect(proxy.addr());
    (0..count).map(|user| ask(&mut conn, "/", &format!("x-user: user-{user}\r\n")).0).collect()
}

#[test]
fn a_key_stays_on_its_endpoint() {
    for policy in ["ringHash", "maglev"] {
        let origins = named(["a", "b", "c"]);
        let fills = [("a", origins[0].addr()), ("b", origins[1].addr()), ("c", origins[2].addr())];
        let balancer = format!("policy: {policy}, hashKey: {{ header: X-User }}");
        let proxy = start(r#""{a}", "{b}", "{c}""#, &balancer, &fills);
        let first = users(&proxy, 60);
        assert_eq!(first.iter().collect::<BTreeSet<_>>().len(), 3, "{policy}: {first:?}");
        assert_eq!(users(&proxy, 60), first);
        proxy.reload("name: all", "name: every");
        assert_eq!(users(&proxy, 60), first, "a reload moves nobody");
        let mut conn = Conn::connect(proxy.addr());
        assert_eq!(ask(&mut conn, "/", "X-User: user-1\r\n"), (first[1].clone(), "key".to_owned()));
        assert_eq!(ask(&mut conn, "/", "").1, "chance, no key");
        // Whoever goes leaves the others where they are (and by a table, almost all of them).
        proxy.reload(&format!(r#", "{}""#, origins[2].addr()), "");
        let second = users(&proxy, 60);
        let moved = first.iter().zip(&second).filter(|(before, after)| before != after && *before != "c").count();
        assert!(moved <= if policy == "maglev" { 8 } else { 0 }, "{policy}: {moved} of {first:?}");
        assert!(!second.contains(&"c".to_owned()));
        // Before anything is sent, `explain` knows whether there is a key.
        let explained = proxy.cli(&["explain", "http://app.test/", "--header", "x-user: u"]).out;
        assert!(explained.contains("header x-user, which the request has"), "{explained}");
        assert!(explained.contains(policy), "{explained}");
    }
}

#[test]
fn a_client_stays_on_its_endpoint() {
    let origins = named(["a", "b", "c"]);
    let fills = [("a", origins[0].addr()), ("b", origins[1].addr()), ("c", origins[2].addr())];
    let balancer = "policy: ringHash, hashKey: { source: address }";
    let http = start(r#""{a}", "{b}", "{c}""#, balancer, &fills);
    assert_eq!(tally(&http, 30).len(), 1, "all come from one address");
    let config = format!(
        "{TOP}services: {{ app: {{ protocol: tcp, endpoints: {{ static: [\"{{a}}\", \"{{b}}\", \"{{c}}\"] }}, \
         loadBalancer: {{ {balancer} }} }} }}\nroutes: [{{ name: all, to: app }}]\n"
    );
    let tcp = Proxy::start(&config, &fills);
    let answers: BTreeSet<String> = (0..12).map(|_| common::get(tcp.addr(), "/").text()).collect();
    assert_eq!(answers.len(), 1, "{answers:?}");
}

#[test]
fn a_key_that_all_want_is_spread() {
    let gate = Gate::default();
    let origins = ["a", "b", "c"].map(|name| Origin::gated(name, &gate));
    let fills = [("a", origins[0].addr()), ("b", origins[1].addr()), ("c", origins[2].addr())];
    let proxy = start(r#""{a}", "{b}", "{c}""#, "policy: ringHash, hashKey: { header: x-user }, maxLoad: 20", &fills);
    let mut held: Vec<Conn> = (0..12)
        .map(|n| {
            let mut conn = Conn::connect(proxy.addr());
            conn.write("GET /slow HTTP/1.1\r\nHost: app.test\r\nx-user: one\r\n\r\n");
            let there = || origins.iter().map(|origin| origin.seen().len()).sum::<usize>();
            until("it is in flight", SOON, || there() == n + 1);
            conn
        })
        .collect();
    // A fifth over the mean of four, and rounded up.
    let most = origins.iter().map(|origin| origin.seen().len()).max().unwrap_or_default();
    assert!((4..=5).contains(&most), "{most} of 12");
    let by = || {
        let mut conn = Conn::connect(proxy.addr());
        ask(&mut conn, "/", "x-user: one\r\n").1
    };
    assert!(by().starts_with("key"), "{}", by());
    gate.open();
    held.iter_mut().for_each(|conn| assert_eq!(conn.response("GET").status(), 200));
}

#[test]
fn who_cannot_be_reached_is_left_alone() {
    let origins = named(["a", "b"]);
    let dead = free_addr();
    let fills = [("a", origins[0].addr()), ("b", origins[1].addr()), ("dead", dead)];
    let proxy = start(r#""{a}", "{b}", "{dead}""#, "policy: roundRobin", &fills);
    let shares = tally(&proxy, 300);
    let failed = shares.get("503").copied().unwrap_or_default();
    assert!(failed <= 1 && shares["a"] > 120 && shares["b"] > 120, "{shares:?}");
    let clusters = || proxy.admin_json("/clusters");
    let unreached = |value: &serde_json::Value| {
        let list = value["app"]["endpoints"].as_array().cloned().unwrap_or_default();
        let of = list.into_iter().find(|one| one["address"] == dead.to_string()).unwrap_or_default();
        of["unreached"] == true && of["available"] == false
    };
    until("it is shown", SOON, || {
        tally(&proxy, 10);
        unreached(&clusters())
    });
    assert_eq!(clusters()["app"]["loadBalancer"]["policy"], "roundRobin");
    let _third = Origin::start_on(TcpListener::bind(dead).expect("bind"), |_, conn| {
        conn.write("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nc");
        Next::Keep
    });
    until("it is found again", Duration::from_secs(40), || tally(&proxy, 10).contains_key("c"));
}

#[test]
fn panic_is_told() {
    let (one, other) = (free_addr(), free_addr());
    let origin = Origin::named("a");
    let fills = [("a", origin.addr()), ("one", one), ("other", other)];
    let proxy = start(r#""{a}", "{one}", "{other}""#, "policy: roundRobin, panicThreshold: 60", &fills);
    let metric = || proxy.metric("outrigger_load_balancer_panic", &[("service", "app")]);
    until("it is shown from the start", SOON, || metric() == 0.0);
    let mut conn = Conn::connect(proxy.addr());
    let mut by = String::new();
    until("two of three are more than 60 percent", SOON, || {
        by = ask(&mut conn, "/", "").1;
        by.contains("panic")
    });
    assert_eq!(by, "turn, panic");
    until("and it is shown", SOON, || {
        tally(&proxy, 6);
        metric() == 1.0 && proxy.admin_json("/clusters")["app"]["loadBalancer"]["panic"] == true
    });
    until("and logged", SOON, || proxy.stderr_text().contains("too few endpoints are available"));
    // With more patience, the one that is left gets it all.
    proxy.reload("panicThreshold: 60", "panicThreshold: 70");
    until("no panic", SOON, || metric() == 0.0);
    until("and logged, too", SOON, || proxy.stderr_text().contains("enough endpoints are available"));
    until("all of it", SOON, || keys(&tally(&proxy, 20)) == ["a"]);
}

#[test]
fn a_tier_takes_over() {
    let origins = named(["a", "b"]);
    let (dead, gone) = (free_addr(), free_addr());
    let fills = [("a", origins[0].addr()), ("b", origins[1].addr()), ("dead", dead), ("gone", gone)];
    let whole = start(r#""{a}", { address: "{b}", priority: 1 }"#, "policy: random", &fills);
    assert_eq!(keys(&tally(&whole, 60)), ["a"]);
    let none = start(r#""{dead}", { address: "{b}", priority: 1 }"#, "policy: random", &fills);
    until("all of it", SOON, || keys(&tally(&none, 20)) == ["b"]);
    let by = ask(&mut Conn::connect(none.addr()), "/", "").1;
    assert_eq!(by, "only one, spilled over");
    // A third of three is left, with room for 1.4 times as much: 47 percent stay.
    let third = start(r#""{a}", "{dead}", "{gone}", { address: "{b}", priority: 1 }"#, "policy: random", &fills);
    until("both are known to be dead", SOON, || {
        let shares = tally(&third, 200);
        // Five standard deviations of 200 draws are 35.
        !shares.contains_key("503") && shares.get("a").is_some_and(|count| (58..=129).contains(count))
    });
}

#[test]
fn zones_and_regions() {
    let origins = named(["a", "b", "c"]);
    let dead = free_addr();
    let fills = [("a", origins[0].addr()), ("b", origins[1].addr()), ("c", origins[2].addr()), ("dead", dead)];
    let at = |one: &str| {
        format!(
            r#"{{ address: "{{{one}}}", zone: a, region: a }}, {{ address: "{{b}}", zone: b, region: b }}, {{ address: "{{c}}", zone: c, region: c }}"#
        )
    };
    let prefer = start(&at("a"), "zone: prefer", &fills);
    assert_eq!(keys(&tally(&prefer, 40)), ["a"]);
    let spilled = start(&at("dead"), "zone: prefer", &fills);
    until("the others take it", SOON, || keys(&tally(&spilled, 40)) == ["b", "c"]);
    let strict = start(&at("dead"), "zone: strict", &fills);
    assert_eq!(keys(&tally(&strict, 20)), ["503"], "never anywhere else");
    strict.await_reason("connect_failed", 503);
    let explained = strict.cli(&["explain", "http://app.test/"]).out;
    assert!(explained.contains("its zone is b, and `zone: strict` wants a"), "{explained}");
    let calm = start(&at("dead"), "zone: strict, panicThreshold: 100", &fills);
    until("nobody is asked in vain", SOON, || {
        tally(&calm, 5);
        calm.counted("no_endpoint") > 0.0
    });

    let geo = |one: &str, regions: &str| {
        let balancer = format!("policy: geoHashedRing, hashKey: {{ header: x-user }}, regions: {regions}");
        start(&at(one), &balancer, &fills)
    };
    assert_eq!(users(&geo("a", "[c, b]"), 20), vec!["a"; 20]);
    let next = geo("dead", "[c, b]");
    until("the next region of the list", SOON, || users(&next, 20) == vec!["c"; 20]);
    assert_eq!(users(&geo("dead", "[]"), 10), vec!["503"; 10], "data stay in their region");
}

/// More than half of all is gone, and yet it is no panic while the others are well.
#[test]
fn a_zone_or_region_of_most_endpoints_may_go() {
    let origins = named(["b", "c"]);
    let dead = [free_addr(), free_addr(), free_addr()];
    let all = ["one", "two", "three"].into_iter().zip(dead).chain([("b", origins[0].addr()), ("c", origins[1].addr())]);
    let fills: Vec<(&str, SocketAddr)> = all.collect();
    let at = |(name, place): (&&str, &str)| format!(r#"{{ address: "{{{name}}}", zone: {place}, region: {place} }}"#);
    let list: Vec<String> = ["one", "two", "three", "b", "c"].iter().zip(["a", "a", "a", "b", "b"]).map(at).collect();
    for balancer in
        ["policy: roundRobin, zone: prefer", "policy: geoHashedRing, hashKey: { header: x-user }, regions: [b]"]
    {
        let proxy = start(&list.join(", "), balancer, &fills);
        until("the others take it", SOON, || users(&proxy, 40).iter().all(|who| who != "503"));
        let found: BTreeSet<String> = users(&proxy, 40).into_iter().collect();
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["b", "c"], "{balancer}");
        assert_eq!(proxy.metric("outrigger_load_balancer_panic", &[("service", "app")]), 0.0, "{balancer}");
    }
}

/// Answers after as many milliseconds as `slow` says.
fn slow(name: &'static str, millis: u64) -> Origin {
    Origin::start(move |_, conn| {
        std::thread::sleep(Duration::from_millis(millis));
        if conn.try_write(format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{name}")) {
            Next::Keep
        } else {
            Next::Close
        }
    })
}

#[test]
fn what_is_learned_outlives_a_reload() {
    let origins = [slow("s", 1500), Origin::named("a"), Origin::named("b")];
    let fills = [("s", origins[0].addr()), ("a", origins[1].addr()), ("b", origins[2].addr())];
    let proxy = start(r#""{s}", "{a}", "{b}""#, "policy: peakEwma", &fills);
    let mut seen = BTreeMap::new();
    until("all were asked", SOON, || {
        seen = tally(&proxy, 1);
        origins.iter().all(|origin| !origin.seen().is_empty())
    });
    let asked = origins[0].seen().len();
    assert_eq!(keys(&tally(&proxy, 30)), ["a", "b"], "after {seen:?}");
    proxy.reload("name: all", "name: every");
    assert_eq!(keys(&tally(&proxy, 30)), ["a", "b"], "a reload forgets nothing");
    assert_eq!(origins[0].seen().len(), asked);
    until("it is shown", SOON, || {
        let clusters = proxy.admin_json("/clusters");
        let list = clusters["app"]["endpoints"].as_array().cloned().unwrap_or_default();
        let slow = list.iter().find(|one| one["address"] == origins[0].addr().to_string());
        slow.and_then(|one| one["latencyMs"].as_f64()).is_some_and(|millis| millis > 100.0)
    });
    let by = ask(&mut Conn::connect(proxy.addr()), "/", "").1;
    assert_eq!(by, "sooner of two");
}

#[test]
fn who_is_new_begins_with_little() {
    let origins = named(["a", "b", "c"]);
    let fills = [("a", origins[0].addr()), ("b", origins[1].addr()), ("c", origins[2].addr())];
    let dir = TempDir::new("slow-start");
    let list = |of: &[&Origin]| of.iter().map(|origin| format!("- {}\n", origin.addr())).collect::<String>();
    let file = dir.file("list.yaml", list(&[&origins[0], &origins[1]]));
    let config = format!(
        "{TOP}services:\n  app: {{ endpoints: {{ file: \"{}\" }}, loadBalancer: {{ slowStart: 1h }} }}\nroutes:\n  - {{ name: all, to: app }}\n",
        file.display()
    );
    let proxy = Proxy::start(&config, &fills);
    let open = |origin: &Origin| origin.connections();
    let even = tally(&proxy, 200);
    // Five standard deviations of 200 draws are 35: those that were there from the start are not new.
    assert!((65..=135).contains(&even["a"]), "{even:?}");
    let before = (open(&origins[0]), open(&origins[1]));
    dir.file("list.yaml", list(&[&origins[0], &origins[1], &origins[2]]));
    until("it is there", SOON, || {
        proxy.admin_json("/clusters")["app"]["endpoints"].as_array().is_some_and(|l| l.len() == 3)
    });
    for _ in 0..2 {
        let shares = tally(&proxy, 600);
        // A tenth of its share is 29 of 600; five standard deviations are 26.
        let new = shares.get("c").copied().unwrap_or_default();
        assert!((3..=55).contains(&new), "{shares:?}");
        proxy.reload("name: all", "name: every");
        proxy.reload("name: every", "name: all");
    }
    assert_eq!((open(&origins[0]), open(&origins[1])), before, "the others keep their connections");
    proxy.reload("slowStart: 1h", "slowStart: 0s");
    let shares = tally(&proxy, 600);
    assert!((142..=258).contains(&shares["c"]), "{shares:?}");
}

#[test]
fn the_example_does_what_it_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples/balancing.yaml");
    let text = std::fs::read_to_string(path).expect("the example");
    let origins =
        named(["carts-1", "carts-2", "carts-us", "prices-1", "prices-2", "prices-far", "search-1", "search-2"]);
    let written = [
        "10.0.0.11:8080",
        "10.0.0.12:8080",
        "10.1.0.11:8080",
        "10.0.0.21:8080",
        "10.0.0.22:8080",
        "10.1.0.21:8080",
        "10.0.0.31:8080",
        "10.0.0.32:8080",
    ];
    let mut config = text.replace("0.0.0.0:8080", "{listen}");
    config.push_str("admin: { address: \"{admin}\" }\nhealth: { address: \"{health}\" }\n");
    for (written, origin) in written.iter().zip(&origins) {
        assert!(config.contains(written), "{written}");
        config = config.replace(written, &origin.addr().to_string());
    }
    let proxy = Proxy::start(&config, &[]);
    let mut conn = Conn::connect(proxy.addr());
    let mut who = |path: &str| -> BTreeSet<String> {
        (0..20).map(|n| ask(&mut conn, path, &format!("x-user-id: u{n}\r\n")).0).collect()
    };
    assert_eq!(who("/cart").into_iter().collect::<Vec<_>>(), ["carts-1", "carts-2"]);
    assert_eq!(who("/prices").into_iter().collect::<Vec<_>>(), ["prices-1"]);
    assert_eq!(who("/search").into_iter().collect::<Vec<_>>(), ["search-1", "search-2"]);
}

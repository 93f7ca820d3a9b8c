use super::*;
use crate::blast::{Reservoir, Seen, compare};

fn group(kind: Kind, from: &str, to: &str, share: f64) -> Group {
    Group {
        kind,
        from: from.to_owned(),
        to: to.to_owned(),
        share,
        rate: share * 43.75,
        fingerprints: 2,
        callers: 3,
        more_callers: false,
        caller: None,
        routes: vec!["reviews".to_owned()],
        example: "GET reviews/api/{n}".to_owned(),
    }
}

fn answer() -> Answer {
    let unrouted = Group {
        fingerprints: 1,
        callers: 1,
        caller: Some("10.0.3.7".to_owned()),
        routes: vec!["batch".to_owned()],
        example: "POST batch/run\u{1b}[2J".to_owned(),
        ..group(Kind::Unrouted, "batch", "no route", 0.004)
    };
    let unknown = group(Kind::Unknown, "reviews/v1", "header x-beta", 2.0);
    Answer {
        changes: vec![Change { text: "route batch is removed".to_owned() }],
        radius: Radius {
            changed_share: 3.204,
            changed_rate: 140.2,
            unknown_share: 2.0,
            groups: vec![group(Kind::Side, "reviews/v1", "reviews/v2", 3.2), unknown, unrouted],
            unreached: vec!["beta".to_owned()],
            gone: Vec::new(),
            coverage: Coverage {
                share: 98.73,
                rate: 4375.0,
                sampled: 12_000.0,
                fingerprints: 212,
                window_seconds: 3725.4,
                one_in: 44,
                new_keys: vec!["header x-beta".to_owned()],
            },
        },
    }
}

#[test]
fn it_reads_as_it_should() {
    let expected = "\
configuration
  route batch is removed

traffic
  3.2 % of requests (140/s) change from reviews/v1 to reviews/v2
      GET reviews/api/{n} and 1 more like it; 3 callers; route reviews
  2 % of requests (87.5/s) cannot be told (were: reviews/v1): header x-beta
      GET reviews/api/{n} and 1 more like it; 3 callers; route reviews
  less than 0.01 % of requests (0.18/s) become unrouted (were: batch)
      POST batch/run\\u{1b}[2J; one caller: 10.0.3.7; route batch
  3.2 % of requests (140/s) change; of 2 % it cannot be told
  routes that no remembered request takes: beta

coverage
  98.7 % of the requests (4375/s) of the last 1h2m5s are represented, by 212 fingerprints;
  one request in 44 is looked at, and the last minutes count most
  looked at by the new configuration only, and so not remembered: header x-beta

refused: 5.2 % change or cannot be told, which counts as changed; only 5 % may (--max-change)
";
    let told = answer();
    assert_eq!(text(&told, Some(Gate::new(5.0, &told.radius)), Paint::PLAIN), expected);
}

#[test]
fn nothing_known_is_said_to_be_nothing() {
    let told = Answer { changes: Vec::new(), radius: Radius::default() };
    let text = text(&told, Some(Gate::new(0.0, &told.radius)), Paint::PLAIN);
    assert!(text.contains("nothing changes") && text.contains("no request is remembered"), "{text}");
    assert!(text.ends_with("allowed: there is no traffic to judge by\n"), "{text}");
}

#[test]
fn the_gate_counts_what_cannot_be_told() {
    let gate = |changed, unknown| Gate { max: 5.0, changed, unknown };
    assert!(gate(5.0, 0.0).passes() && gate(0.1 + 0.2, 4.7).passes() && gate(0.0, 0.0).passes());
    assert!(!gate(5.01, 0.0).passes() && !gate(3.0, 2.1).passes());
    let json = with_gate(json!({ "changes": [] }), Some(gate(3.0, 2.1)));
    assert_eq!(json["gate"], json!({ "maxChange": 5.0, "passed": false }));
}

#[test]
fn shares_are_neither_nothing_nor_all_where_they_are_not() {
    let expected = [(0.0, "0 %"), (1e-7, "less than 0.01 %"), (0.05, "0.05 %"), (3.24, "3.2 %"), (10.0, "10 %")];
    for (share, text) in expected.into_iter().chain([(99.95, "more than 99.9 %"), (100.0, "100 %")]) {
        assert_eq!(percent(share), text);
    }
    for text in ["5", "5%", "0", "100 %", "2.5"] {
        assert!(percentage(text).is_ok(), "{text}");
    }
    for text in ["", "-1", "101", "nan", "inf", "five"] {
        assert!(percentage(text).is_err(), "{text}");
    }
}

#[test]
fn problems_read_as_those_of_check() {
    let text = "apiVersion: outrigger/v1\nlistenrs: []\n";
    let report = crate::config::parse("new.yaml", text, &|_| None).expect_err("an unknown key");
    let lint = Problem::new("odd").rule(crate::config::RuleId::Lint("mine".to_owned()));
    let warning = Problem { severity: crate::config::Severity::Warning, ..lint };
    let report = Report::new(report.into_problems().into_iter().chain([warning]).collect());
    let admin: SocketAddr = "127.0.0.1:1".parse().expect("an address");
    let sent: Value = serde_json::from_str(&json!({ "problems": report }).to_string()).expect("JSON");
    let heard = understand(admin, (422, sent));
    assert!(matches!(heard, Ok(Heard::Refused(heard)) if heard == report && heard.to_string() == report.to_string()));
    for odd in [json!({ "problems": [1] }), json!({ "problems": [{ "line": -1 }] }), json!({ "error": "no" })] {
        assert!(matches!(understand(admin, (422, odd)), Err(Unreachable::Foreign(..))));
    }
    assert!(matches!(understand(admin, (200, json!({ "radius": 1 }))), Err(Unreachable::Foreign(..))));
    let failed = understand(admin, (500, json!({ "error": "gone" })));
    assert!(matches!(failed, Ok(Heard::Failed(why)) if why == "127.0.0.1:1 answered 500: gone"));
}

#[test]
fn the_round_trip_of_a_radius_loses_nothing() {
    let radius = answer().radius;
    let json = serde_json::to_value(&radius).expect("JSON");
    assert_eq!(Radius::deserialize(&json).expect("a radius"), radius);
    assert_eq!(json["groups"][0]["kind"], "side");
    assert_eq!(json["coverage"]["windowSeconds"], 3725.4);
}

#[test]
fn files_are_read_under_the_names_that_they_were_given() {
    let folder = std::env::temp_dir().join(format!("outrigger-diff-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join("a.yaml"), "a: ${A}").expect("a file");
    std::fs::write(folder.join("b.txt"), "no").expect("a file");
    let files = read(&folder).expect("one file");
    assert_eq!(files, [json!({ "name": folder.join("a.yaml").display().to_string(), "text": "a: ${A}" })]);
    std::fs::write(folder.join("a.yaml"), [0xff]).expect("a file");
    assert!(read(&folder).is_err_and(|report| report.to_string().contains("not UTF-8")));
    assert!(read(&folder.join("none.yaml")).is_err());
    std::fs::remove_dir_all(&folder).expect("removed");
}

const RUNNING: &str = r#"
apiVersion: outrigger/v1
listeners: [{ name: edge, mode: proxy, address: "127.0.0.1:8080" }]
services:
  reviews:
    endpoints:
      static:
        - { address: "127.0.0.1:9081", labels: { version: v1 } }
        - { address: "127.0.0.1:9082", labels: { version: v2 } }
    subsets: { v1: { labels: { version: v1 } }, v2: { labels: { version: v2 } } }
  batch: { endpoints: { static: ["127.0.0.1:9090"] } }
routes:
  - { name: reviews, hosts: [reviews], split: [{ to: reviews/v1, weight: 90 }, { to: reviews/v2, weight: 10 }] }
  - { name: batch, hosts: [batch], to: batch }
"#;

/// The output in the documentation is real.
#[test]
fn the_page_shows_what_is_printed() {
    let compile = |text: &str| {
        let config = crate::config::parse("new.yaml", text, &|_| None).unwrap_or_else(|report| panic!("{report}"));
        crate::snapshot::compile(std::sync::Arc::new(config), 1, None)
    };
    let running = compile(RUNNING);
    let new = compile(
        &RUNNING
            .replace("weight: 90", "weight: 86.5")
            .replace("weight: 10", "weight: 13.5")
            .replace("{ name: batch, hosts: [batch], to: batch }", "{ name: batch, hosts: [batch.internal], to: batch }")
            .replace("}] }\n", "}] }\n  - { name: beta, hosts: [reviews], match: [{ path: { prefix: /beta }, headers: { x-beta: \"1\" } }], to: reviews/v2 }\n"),
    );
    let mut now = std::time::Instant::now();
    let mut reservoir = Reservoir::new(512 << 10, 1, now);
    for number in 0..5000u32 {
        now += Duration::from_millis(20);
        let (target, peer) = match number % 100 {
            0 => ("http://batch/run".to_owned(), 7),
            1..=3 => (format!("http://reviews/beta/{number}"), 1),
            _ => (format!("http://reviews/api/things/{number}/parts"), number % 3),
        };
        let request = http::Request::builder().uri(target).version(http::Version::HTTP_2).body(());
        let (parts, ()) = request.expect("a request").into_parts();
        let listener = &running.listeners[0];
        let understood = crate::decide::understand(listener, &parts).expect("a sound head");
        let peer = std::net::IpAddr::from(std::net::Ipv4Addr::from(0x0a00_0300 + peer));
        let caller = crate::policy::caller::Caller::new(peer, None, 8080);
        let seen = Seen { listener: &listener.name, parts: &parts, understood: &understood, caller };
        reservoir.see(now, || seen, &running.looked);
    }
    let radius = compare(&running, &new, &[reservoir.take(now)]);
    let changes = crate::config::diff::changes(&running.config, &new.config);
    let changes = changes.into_iter().map(|change| Change { text: change.text }).collect();
    let gate = Gate::new(5.0, &radius);
    let printed = text(&Answer { changes, radius }, Some(gate), Paint::PLAIN);
    let page = include_str!("../../../docs/blast-radius.md");
    assert!(page.contains(&format!("```\n{printed}```\n")), "not on the page:\n{printed}");
}

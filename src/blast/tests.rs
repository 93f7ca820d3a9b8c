//! Whole comparisons: configurations whose differences are known, and traffic that is counted.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Request, request};
use proptest::prelude::*;

use super::*;
use crate::config;
use crate::decide::{self, Verdict};
use crate::policy::caller::Caller;
use crate::policy::split;
use crate::snapshot::{self, Snapshot};

mod authorization;
mod redirected;

const BASE: &str = r#"
apiVersion: outrigger/v1
attributes:
  env: { from: [{ header: x-env }, { cookie: env }], lowercase: true, values: [canary, prod] }
  user: { from: [{ header: x-user }] }
listeners: [{ name: edge, mode: proxy, address: "127.0.0.1:8080" }]
services:
  reviews:
    hosts: [reviews]
    endpoints:
      static:
        - { address: "127.0.0.1:9081", labels: { version: v1 } }
        - { address: "127.0.0.1:9082", labels: { version: v2 } }
    subsets: { v1: { labels: { version: v1 } }, v2: { labels: { version: v2 } } }
  ratings: { hosts: [ratings], endpoints: { static: ["127.0.0.1:9090"] } }
"#;

/// `BASE`, with these routes.
fn snapshot(routes: &str) -> Snapshot {
    compiled(&format!("{BASE}routes:\n{routes}"))
}

fn compiled(text: &str) -> Snapshot {
    let config = config::parse("test.yaml", text, &|_| None).unwrap_or_else(|report| panic!("{report}\n{text}"));
    snapshot::compile(Arc::new(config), 1, None)
}

/// One request: `METHOD http://host/path`, then `name: value` lines.
fn parts(text: &str) -> request::Parts {
    let mut lines = text.lines().map(str::trim);
    let (method, target) = lines.next().and_then(|line| line.split_once(' ')).expect("a target");
    let mut request = Request::builder().method(method).uri(target).version(http::Version::HTTP_2);
    for line in lines.filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(": ").expect("a header");
        request = request.header(name, value);
    }
    request.body(()).expect("a request").into_parts().0
}

fn caller(number: usize) -> IpAddr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 0)) + number as u32).into()
}

struct Traffic {
    reservoir: Reservoir,
    now: Instant,
}

impl Traffic {
    fn new() -> Self {
        let now = Instant::now();
        Self { reservoir: Reservoir::new(512 << 10, 1, now), now }
    }

    /// So slowly that every request is looked at.
    fn send(&mut self, snapshot: &Snapshot, text: &str, from: IpAddr) {
        self.send_as(snapshot, text, Caller::new(from, None, 8080));
    }

    fn send_as(&mut self, snapshot: &Snapshot, text: &str, caller: Caller<'_>) {
        self.now += Duration::from_millis(20);
        let listener = &snapshot.listeners[0];
        let parts = parts(text);
        let understood = decide::understand(listener, &parts).expect("a sound head");
        let seen = Seen { listener: &listener.name, parts: &parts, understood: &understood, caller };
        self.reservoir.see(self.now, || seen, &snapshot.looked);
    }

    fn take(&mut self) -> Sample {
        self.reservoir.take(self.now)
    }
}

/// Requests, each so many times.
fn traffic(snapshot: &Snapshot, requests: &[(&str, usize)]) -> Sample {
    let mut traffic = Traffic::new();
    for (request, count) in requests {
        (0..*count).for_each(|_| traffic.send(snapshot, request, caller(1)));
    }
    traffic.take()
}

fn group(radius: &Radius, kind: Kind) -> &Group {
    let mut found = radius.groups.iter().filter(|group| group.kind == kind);
    let group = found.next().unwrap_or_else(|| panic!("no {kind:?} in {radius:#?}"));
    assert!(found.next().is_none(), "one group of {kind:?}: {radius:#?}");
    group
}

#[track_caller]
fn assert_near(actual: f64, expected: f64) {
    assert!((actual - expected).abs() < 1e-9, "{actual} is not {expected}");
}

const SPLIT: &str = "  - { name: all, split: [{ to: reviews/v1, weight: 90 }, { to: reviews/v2, weight: 10 }] }";

#[test]
fn a_shifted_weight_is_reported_exactly() {
    let old = snapshot(SPLIT);
    let new = snapshot(&SPLIT.replace("90", "80").replace("10", "20"));
    let radius = compare(&old, &new, &[traffic(&old, &[("GET http://a/x", 300), ("POST http://b/y/7", 100)])]);
    let side = group(&radius, Kind::Side);
    assert_eq!((side.from.as_str(), side.to.as_str()), ("reviews/v1", "reviews/v2"));
    assert_eq!((side.fingerprints, side.callers, side.caller.as_deref()), (2, 1, Some("10.0.0.1")));
    assert_eq!(side.example, "GET a/x");
    assert_near(side.share, 10.0);
    assert_near(radius.changed_share, 10.0);
    assert_near(radius.coverage.share, 100.0);
    assert_near(radius.coverage.rate, 50.0);
    assert_near(side.rate, 5.0);
}

#[test]
fn a_route_by_header_takes_those_that_carry_it() {
    let one = "  - { name: canary, match: [{ headers: { x-stage: canary } }], to: reviews/v2 }\n  - { name: all, to: reviews/v1 }";
    let old = snapshot(one);
    let new =
        snapshot(&format!("{one}\n  - {{ name: beta, match: [{{ headers: {{ x-stage: beta }} }}], to: ratings }}"));
    let sample = traffic(
        &old,
        &[("GET http://a/x\nx-stage: beta", 30), ("GET http://a/x\nx-stage: canary", 20), ("GET http://a/x", 150)],
    );
    let radius = compare(&old, &new, &[sample]);
    let side = group(&radius, Kind::Side);
    assert_eq!(
        (side.from.as_str(), side.to.as_str(), side.routes.as_slice()),
        ("reviews/v1", "ratings", &["beta".to_owned()][..])
    );
    assert_near(side.share, 15.0);
    assert_near(radius.unknown_share, 0.0);
}

#[test]
fn what_the_old_configuration_did_not_look_at_cannot_be_told() {
    let old = snapshot("  - { name: all, to: reviews/v1 }");
    let new = snapshot(
        "  - { name: all, to: reviews/v1 }\n  - { name: beta, match: [{ path: { prefix: /b }, headers: { x-beta: \"1\" } }], to: ratings }",
    );
    let radius = compare(&old, &new, &[traffic(&old, &[("GET http://a/x", 60), ("GET http://a/b/x", 40)])]);
    assert_near(radius.changed_share, 0.0);
    assert_near(radius.unknown_share, 40.0);
    assert_eq!(group(&radius, Kind::Unknown).to, "header x-beta");
    assert_eq!(radius.coverage.new_keys, ["header x-beta"]);
    assert!(radius.unreached.is_empty(), "it may be reached: {radius:#?}");
}

#[test]
fn a_removed_route_leaves_its_share_unrouted() {
    let old = snapshot("  - { name: a, hosts: [a], to: reviews }\n  - { name: b, hosts: [b], to: reviews }");
    let new = snapshot("  - { name: a, hosts: [a], to: reviews }\n  - { name: c, hosts: [c], to: reviews }");
    let requests = [("GET http://a/", 60), ("GET http://b/", 30), ("GET http://c/", 8), ("GET http://d/", 2)];
    let radius = compare(&old, &new, &[traffic(&old, &requests)]);
    assert_near(group(&radius, Kind::Unrouted).share, 30.0);
    assert_eq!(group(&radius, Kind::Unrouted).routes, ["b"]);
    assert_near(group(&radius, Kind::Routed).share, 8.0);
    assert_near(radius.changed_share, 38.0);
}

#[test]
fn a_renamed_service_and_moved_endpoints() {
    let old = snapshot(SPLIT);
    let sample = traffic(&old, &[("GET http://a/x", 100)]);
    let renamed = compiled(&format!("{BASE}routes:\n{SPLIT}").replace("reviews", "opinions"));
    let radius = compare(&old, &renamed, std::slice::from_ref(&sample));
    assert_near(radius.changed_share, 100.0);
    let shares: Vec<_> = radius.groups.iter().map(|group| (group.to.as_str(), group.share.round())).collect();
    assert_eq!(shares, [("opinions/v1", 90.0), ("opinions/v2", 10.0)]);
    // Half of v2 moves to another endpoint: of all requests, 5 %.
    let more = BASE.replace(
        "        - { address: \"127.0.0.1:9082\", labels: { version: v2 } }",
        "        - { address: \"127.0.0.1:9082\", labels: { version: v2 } }\n        - { address: \"127.0.0.1:9083\", labels: { version: v2 } }",
    );
    let radius = compare(&old, &compiled(&format!("{more}routes:\n{SPLIT}")), &[sample]);
    assert_eq!(group(&radius, Kind::Service).from, "reviews/v2");
    assert_near(radius.changed_share, 5.0);
}

#[test]
fn sticky_keys_stay_where_the_line_says() {
    let sticky = SPLIT.replace(" }]", " }], sticky: { attribute: user }");
    let old = snapshot(&sticky);
    let mut traffic = Traffic::new();
    for user in 0..500 {
        traffic.send(&old, &format!("GET http://a/x\nx-user: user-{user}"), caller(user));
    }
    let sample = traffic.take();
    assert_eq!(sample.remembered.len(), 1, "no key is remembered: {:#?}", sample.remembered);
    let wider = snapshot(&sticky.replace("90", "80").replace("10", "20"));
    let radius = compare(&old, &wider, std::slice::from_ref(&sample));
    assert_near(radius.changed_share, 10.0);
    assert!(group(&radius, Kind::Side).more_callers);
    // Another name is another salt: of those on each side, the other's share moves.
    let renamed = snapshot(&sticky.replace("name: all", "name: anew"));
    let radius = compare(&old, &renamed, std::slice::from_ref(&sample));
    assert_near(radius.changed_share, 2.0 * 90.0 * 10.0 / 100.0);
    assert_near(compare(&old, &snapshot(&sticky), &[sample]).changed_share, 0.0);
}

#[test]
fn a_sticky_key_that_is_known_has_its_own_bucket() {
    let routes = |v2: u32| {
        format!(
            "  - {{ name: vip, match: [{{ attributes: {{ user: {{ prefix: vip }} }} }}], to: ratings }}\n  - {{ name: all, split: [{{ to: reviews/v1, weight: {} }}, {{ to: reviews/v2, weight: {v2} }}], sticky: {{ attribute: user }} }}",
            100 - v2
        )
    };
    let (old, new) = (snapshot(&routes(30)), snapshot(&routes(60)));
    let bucket = |user: usize| split::bucket("all", &format!("user-{user}"));
    let mut traffic = Traffic::new();
    (0..200).for_each(|user| traffic.send(&old, &format!("GET http://a/\nx-user: user-{user}"), caller(1)));
    let moved = (0..200).filter(|user| (4000..7000).contains(&bucket(*user))).count();
    assert!(moved > 0 && moved < 200);
    assert_near(compare(&old, &new, &[traffic.take()]).changed_share, moved as f64 / 2.0);
}

#[test]
fn limits_headers_and_answers() {
    let old =
        snapshot("  - { name: a, hosts: [a], to: reviews }\n  - { name: b, hosts: [b], to: ratings, timeout: 5s }");
    let new = snapshot(
        "  - { name: a, hosts: [a], to: reviews, timeout: { after: 2s, mode: shadow }, maxBody: 1Mi, requestHeaders: { set: { x-a: b } }, rewrite: { path: /z } }\n  - { name: b, hosts: [b], respond: { status: 503 } }",
    );
    let requests =
        [("GET http://a/x", 50), ("POST http://a/p.Q/R\ncontent-type: application/grpc", 30), ("GET http://b/x", 20)];
    let radius = compare(&old, &new, &[traffic(&old, &requests)]);
    assert_near(radius.changed_share, 100.0);
    assert_near(group(&radius, Kind::Answered).share, 20.0);
    for kind in [Kind::BodyLimit, Kind::Headers, Kind::Rewrite] {
        assert_near(group(&radius, kind).share, 80.0);
    }
    let timeouts: Vec<_> = radius.groups.iter().filter(|group| group.kind == Kind::Timeout).collect();
    let words: Vec<_> = timeouts.iter().map(|group| (group.from.as_str(), group.to.as_str())).collect();
    assert_eq!(words, [("15s", "2s (shadow)"), ("none", "2s (shadow)")], "a stream had no timeout of its own");
}

#[test]
fn a_route_of_another_name_changes_no_request() {
    let (old, new) = (
        snapshot("  - { name: a, to: reviews }"),
        snapshot("  - { name: b, to: reviews }\n  - { name: c, hosts: [c], to: ratings }"),
    );
    let radius = compare(&old, &new, &[traffic(&old, &[("GET http://a/x", 10)])]);
    assert_near(group(&radius, Kind::Route).share, 100.0);
    assert_near(radius.changed_share, 0.0);
    assert_eq!(radius.unreached, ["c"]);
}

#[test]
fn a_listener_that_is_gone() {
    let old = snapshot("  - { name: a, to: reviews }");
    let new = compiled(&format!(
        "{}routes:\n  - {{ name: a, to: reviews }}",
        BASE.replace("edge", "door").replace("8080", "8081")
    ));
    let radius = compare(&old, &new, &[traffic(&old, &[("GET http://a/x", 10)])]);
    assert_eq!(
        (group(&radius, Kind::Gone).to.as_str(), radius.gone.as_slice()),
        ("no listener", &["edge".to_owned()][..])
    );
    assert_near(radius.changed_share, 100.0);
}

#[test]
fn secrets_are_not_remembered_and_still_decided_about() {
    let routes = "  - { name: app, match: [{ headers: { authorization: { regex: \"Bearer .*\" } } }], to: reviews/v2 }
  - { name: jason, match: [{ headers: { cookie: { regex: \".*user=jason.*\" } } }], to: ratings }
  - { name: tested, match: [{ cookies: { session: { present: true } } }], to: ratings, timeout: 1s }
  - { name: all, to: reviews/v1 }";
    let old = snapshot(routes);
    let requests = [
        ("GET http://a/x?token=s3cret-q\nauthorization: Bearer s3cret-a", 10),
        ("GET http://a/x\nauthorization: Bearer s3cret-b", 10),
        ("GET http://a/x\nauthorization: Basic s3cret-c", 20),
        ("GET http://a/x\ncookie: user=jason; id=s3cret-d", 30),
        ("GET http://a/x\ncookie: session=s3cret-e", 30),
    ];
    let sample = traffic(&old, &requests);
    assert!(!format!("{:?}", sample.remembered).contains("s3cret"), "{:#?}", sample.remembered);
    assert_eq!(sample.remembered.len(), 4);
    let moved = routes.replace("to: reviews/v2", "to: ratings").replace("timeout: 1s", "timeout: 2s");
    let radius = compare(&old, &snapshot(&moved), std::slice::from_ref(&sample));
    assert_near(group(&radius, Kind::Side).share, 20.0);
    assert_near(group(&radius, Kind::Timeout).share, 30.0);
    assert_near(radius.unknown_share, 0.0);
    // Another pattern on a value that is not known.
    let other = routes.replace("Bearer .*", "Basic .*");
    assert_near(compare(&old, &snapshot(&other), std::slice::from_ref(&sample)).unknown_share, 40.0);
    // Only Jason's is written, so that no other request carries it.
    let jason = routes.replace("{ regex: \".*user=jason.*\" }", "user=jason");
    let radius = compare(&old, &snapshot(&jason), &[sample]);
    assert_near(radius.unknown_share, 60.0);
}

#[test]
fn numbers_in_paths_count_together_unless_they_are_written() {
    let old = snapshot(
        "  - { name: all, to: reviews/v1 }\n  - { name: one, match: [{ path: { exact: /items/1 } }], to: ratings }",
    );
    let mut traffic = Traffic::new();
    for item in 1..=100 {
        traffic.send(&old, &format!("GET http://a/items/{item}"), caller(1));
        traffic.send(&old, &format!("GET http://a/files/{item:032x}"), caller(1));
    }
    let sample = traffic.take();
    let mut paths: Vec<_> = sample.remembered.iter().map(|known| (known.print.to_string(), known.weight)).collect();
    paths.sort_by(|a, b| a.0.cmp(&b.0));
    let expected = [("GET a/files/{id}", 100.0), ("GET a/items/1", 1.0), ("GET a/items/{n}", 99.0)];
    assert_eq!(paths, expected.map(|(path, weight)| (path.to_owned(), weight)));
    let two = snapshot(
        "  - { name: all, to: reviews/v1 }\n  - { name: one, match: [{ path: { exact: /items/2 } }], to: ratings }",
    );
    let radius = compare(&old, &two, &[sample]);
    assert_near(group(&radius, Kind::Side).share, 0.5);
    assert_near(group(&radius, Kind::Unknown).share, 49.5);
    assert_eq!(group(&radius, Kind::Unknown).to, "path /items/2");
}

/// A rule whose path is in doubt comes where its path puts it: a literal before a parameter, whatever else they ask.
#[test]
fn a_path_in_doubt_comes_where_it_would() {
    let known = "{ name: all, match: [{ path: { template: \"/items/{id}\" }, methods: [GET] }], to: ratings }";
    let old = snapshot(&format!("  - {known}"));
    let sample = traffic(&old, &[("GET http://a/items/7", 1)]);
    for (path, unknown) in [
        ("exact: /items/7", 100.0),
        ("prefix: /items/7", 100.0),
        ("template: \"/{kind}/7\"", 0.0),
        ("exact: /items/7/8", 0.0),
        ("prefix: /items/7/8", 0.0),
    ] {
        let new =
            snapshot(&format!("  - {{ name: new, match: [{{ path: {{ {path} }} }}], to: reviews/v1 }}\n  - {known}"));
        let radius = compare(&old, &new, std::slice::from_ref(&sample));
        assert_eq!((radius.unknown_share, radius.changed_share), (unknown, 0.0), "{path}");
    }
}

#[test]
fn patterns_of_paths_tell_requests_of_one_shape_apart() {
    let routes = "  - { name: all, to: reviews/v1 }\n  - { name: long, match: [{ path: { regex: \"/items/[0-9]{3}\" } }], to: reviews/v2 }";
    let old = snapshot(routes);
    let mut traffic = Traffic::new();
    (0..200).for_each(|item| traffic.send(&old, &format!("GET http://a/items/{item}"), caller(1)));
    let sample = traffic.take();
    let radius = compare(&old, &snapshot(&routes.replace("reviews/v2", "ratings")), std::slice::from_ref(&sample));
    assert_near(group(&radius, Kind::Side).share, 50.0);
    let radius = compare(&old, &snapshot(&routes.replace("{3}", "{2}")), &[sample]);
    assert_near(radius.unknown_share, 100.0);
}

#[test]
fn any_head_is_written_again() {
    let routes = "  - { name: host, match: [{ headers: { host: \"a:8080\" } }], to: ratings }
  - { name: none, match: [{ headers: { host: { present: false } } }], to: reviews/v1 }
  - { name: q, match: [{ path: { prefix: /q }, query: { q: \"a b&c\" } }], respond: { status: 204 } }
  - { name: type, match: [{ path: { prefix: /t }, headers: { content-type: { prefix: \"application/grpc\" } } }], to: ratings }
  - { name: all, to: reviews/v2 }";
    let old = snapshot(routes);
    let requests = [
        ("OPTIONS *\nhost: a", "reviews/v2"),
        ("GET /\nhost: a:8080", "ratings"),
        ("GET http://a:8080/", "reviews/v1"),
        ("GET http://[::1]:80/x", "reviews/v1"),
        ("GET http://a/q?q=a%20b%26c&q=2", "answer 204 of q"),
        ("POST http://a/t/x\ncontent-type: application/grpc+proto", "ratings"),
        ("PURGE http://a/%C3%A9%2F;x=%22/{}|\ncookie: a=b\ncookie: c", "reviews/v1"),
    ];
    let gone = compiled(&format!("{}routes:\n{routes}", BASE.replace("edge", "door").replace("8080", "8081")));
    for (request, side) in requests {
        let sample = traffic(&old, &[(request, 1)]);
        let radius = compare(&old, &gone, std::slice::from_ref(&sample));
        assert_eq!(group(&radius, Kind::Gone).from, side, "{request}");
        assert_eq!(compare(&old, &old, &[sample]).groups, [], "{request}");
    }
}

#[test]
fn a_million_paths_stay_within_their_memory() {
    let old = snapshot("  - { name: all, match: [{ headers: { x-stage: { prefix: a } } }], to: reviews }");
    let listener = &old.listeners[0];
    let mut now = Instant::now();
    let mut reservoir = Reservoir::new(512 << 10, 7, now);
    let usual = parts("GET http://a/usual");
    let usual = (decide::understand(listener, &usual).expect("sound"), &usual);
    for number in 0..1_000_000u32 {
        // 2 kHz: one in twenty is looked at.
        now += Duration::from_micros(500);
        let strange =
            parts(&format!("GET http://{}/{}-a{number}\nx-stage: a{number:060}", "h".repeat(200), "p".repeat(20)));
        let strange = (decide::understand(listener, &strange).expect("sound"), &strange);
        let (understood, parts) = if number % 4 == 0 { &usual } else { &strange };
        let caller = Caller::new(caller(number as usize), None, 8080);
        let seen = Seen { listener: &listener.name, parts, understood, caller };
        reservoir.see(now, || seen, &old.looked);
        if number % 1000 == 0 {
            assert!(reservoir.bytes() <= 512 << 10, "{} bytes at {number}", reservoir.bytes());
        }
    }
    let sample = reservoir.take(now);
    assert!(sample.remembered.len() <= 1024 && sample.remembered.len() > 300, "{}", sample.remembered.len());
    assert!((15..=25).contains(&sample.every), "{}", sample.every);
    assert!((sample.seen / sample.seconds - 2000.0).abs() < 1.0, "{} in {} s", sample.seen, sample.seconds);
    let heaviest = sample.remembered.iter().max_by(|a, b| a.weight.total_cmp(&b.weight)).expect("something");
    assert_eq!(heaviest.print.to_string(), "GET a/usual");
    let share = heaviest.weight / sample.seen;
    assert!((share - 0.25).abs() < 0.03, "a sampled quarter: {share}");
    let represented: f64 = sample.remembered.iter().map(|known| known.weight).sum();
    let known = (represented + sample.dropped) / sample.seen;
    assert!((known - 1.0).abs() < 0.05, "what is not remembered is counted: {known}");
    let radius = compare(&old, &old, &[sample]);
    assert!(radius.coverage.share < 50.0, "most of it was unlike anything else: {:?}", radius.coverage);
}

/// Configurations of the same kind, and requests that find their way in them.
fn routes() -> impl Strategy<Value = String> {
    let path = prop_oneof!["/a", "/a/b", "/items/7", "/f/0123456789abcdef"];
    let rule = prop_oneof![
        path.clone().prop_map(|path| format!("path: {{ exact: \"{path}\" }}")),
        path.prop_map(|path| format!("path: {{ prefix: \"{path}\" }}")),
        Just("path: { template: \"/items/{id}\" }".to_owned()),
        Just("path: { regex: \"/items/[0-9]+\" }".to_owned()),
    ];
    let condition = prop_oneof![
        Just(String::new()),
        prop_oneof!["a", "b"].prop_map(|value| format!(", headers: {{ x-stage: {value} }}")),
        Just(", headers: { x-token: { prefix: a } }".to_owned()),
        Just(", headers: { x-stage: { present: false } }".to_owned()),
        Just(", query: { q: \"1\" }".to_owned()),
        Just(", cookies: { c: { regex: \"a+\" } }".to_owned()),
        Just(", attributes: { env: canary }".to_owned()),
        Just(", attributes: { user: { suffix: a } }".to_owned()),
    ];
    let action = prop_oneof![
        Just("to: ratings".to_owned()),
        Just("to: reviews/v1, timeout: 1s".to_owned()),
        Just("respond: { status: 204 }".to_owned()),
        (1u32..99).prop_map(|weight| format!(
            "split: [{{ to: reviews/v1, weight: {weight} }}, {{ to: reviews/v2, weight: {} }}]",
            100 - weight
        )),
        (1u32..99).prop_map(|weight| format!(
            "split: [{{ to: reviews/v1, weight: {weight} }}, {{ to: ratings, weight: 50 }}], sticky: {{ attribute: user }}"
        )),
    ];
    let route = (rule, condition, action);
    prop::collection::vec(route, 1..6).prop_map(|routes| {
        let unique: BTreeMap<(String, String), String> =
            routes.into_iter().map(|(rule, condition, action)| ((rule, condition), action)).collect();
        let line = |(index, ((rule, condition), action)): (usize, ((String, String), String))| {
            format!("  - {{ name: r{index}, match: [{{ {rule}{condition} }}], {action} }}\n")
        };
        unique.into_iter().enumerate().map(line).collect()
    })
}

fn asks() -> impl Strategy<Value = Vec<(String, usize)>> {
    let header = prop_oneof![
        Just(String::new()),
        "\nx-stage: [abc]",
        "\nx-token: [ab]{1,40}",
        "\ncookie: c=a{1,80}",
        "\nx-env: (Canary|prod|other)",
        "\nx-user: [ab]{1,3}",
    ];
    let path = prop_oneof!["/a", "/a/b/c", "/items/[0-9]{1,2}", "/f/[0-9a-f]{16}", "/other"];
    let one = (path, prop_oneof!["", "\\?q=[12]"], header.clone(), header, 1usize..20);
    let text = |(path, query, a, b, count): (String, String, String, String, usize)| {
        (format!("GET http://reviews.test{path}{query}{a}{b}"), count)
    };
    prop::collection::vec(one.prop_map(text), 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn nothing_changes_where_nothing_has_changed(routes in routes(), asks in asks()) {
        let (old, same) = (snapshot(&routes), snapshot(&routes));
        let asks: Vec<_> = asks.iter().map(|(text, count)| (text.as_str(), *count)).collect();
        let radius = compare(&old, &same, &[traffic(&old, &asks)]);
        prop_assert_eq!((radius.changed_share, radius.unknown_share), (0.0, 0.0), "{:#?}", radius.groups);
        prop_assert!(radius.groups.is_empty());
    }

    /// What is told of a request is what deciding about it, with all that it says, would have told.
    #[test]
    fn what_is_told_is_true(old in routes(), new in routes(), asks in asks()) {
        let (old, new) = (snapshot(&old), snapshot(&new));
        for (text, _) in &asks {
            let radius = compare(&old, &new, &[traffic(&old, &[(text, 1)])]);
            for share in radius.groups.iter().map(|group| group.share).chain([radius.changed_share, radius.unknown_share]) {
                prop_assert!((0.0..=100.0).contains(&share));
            }
            prop_assert_eq!(radius.coverage.share, 100.0);
            let (was, is) = (fates(&old, text), fates(&new, text));
            let differ = was.iter().zip(&is).filter(|(was, is)| was.0 != is.0).count();
            let truth = 100.0 * differ as f64 / was.len() as f64;
            // A key that was not remembered stands for all keys.
            let sticky = was.iter().chain(&is).any(|fate| fate.1);
            let told = radius.unknown_share == 100.0 || (radius.changed_share - truth).abs() < 1.0;
            prop_assert!(told || sticky, "{text}: {truth} % change: {radius:#?}");
            prop_assert!(told || !sticky || truth == 0.0 || radius.changed_share > 0.0, "{text}: {radius:#?}");
        }
    }
}

/// What happens to a request at evenly spread places of the line, and whether by its key.
fn fates(snapshot: &Snapshot, text: &str) -> Vec<(String, bool)> {
    let (parts, listener) = (parts(text), &snapshot.listeners[0]);
    let understood = decide::understand(listener, &parts).expect("sound");
    let facts = understood.facts(snapshot, &parts, Caller::NOBODY);
    let fate = |bucket: u32| match decide::decide(snapshot, listener, &facts, || bucket) {
        Err(refusal) => (refusal.reason.code().to_owned(), false),
        Ok(decide::Decision { verdict: Verdict::Forward { target, drawn, .. }, route, .. }) => {
            let service = &snapshot.services[target.service].name;
            let sticky = drawn.is_some_and(|drawn| drawn.sticky);
            (format!("{service}/{:?} within {:?}", target.subset, route.timeout), sticky)
        }
        Ok(decision) => (format!("{:?}", decision.route.action), false),
    };
    (0..split::BUCKETS).step_by(25).map(fate).collect()
}

/// After a day without requests there is nothing left to compare, and nothing to divide by.
#[test]
fn what_is_long_ago_is_nothing() {
    let (old, new) = (snapshot(SPLIT), snapshot("  - { name: all, to: ratings }"));
    let mut traffic = Traffic::new();
    traffic.send(&old, "GET http://reviews/a", caller(1));
    for _ in 0..40 {
        let radius = compare(&old, &new, &[traffic.take()]);
        let numbers = [radius.changed_share, radius.changed_rate, radius.unknown_share, radius.coverage.share];
        assert!(numbers.iter().chain([&radius.coverage.rate]).all(|number| number.is_finite()), "{radius:?}");
        assert!(radius.groups.iter().all(|group| group.share.is_finite() && group.rate.is_finite()), "{radius:?}");
        traffic.now += Duration::from_secs(3600);
    }
    let radius = compare(&old, &new, &[traffic.take()]);
    assert!(radius.groups.is_empty() && radius.coverage.fingerprints == 0, "{radius:?}");
    assert_eq!((radius.changed_share, radius.coverage.share), (0.0, 0.0));
}

//! `explain` tells what the data path does: over random configurations and requests, and for each part by example.

use std::fmt::Write;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::{select, subsequence};

mod authorization;
mod policies;
mod redirected;
mod tcp;
use super::*;
use crate::config;

fn compile(text: &str) -> Snapshot {
    let config = config::parse("t.yaml", text, &|_| None).unwrap_or_else(|report| panic!("{report}\n{text}"));
    crate::snapshot::compile(Arc::new(config), 1, None)
}

fn asked(method: &str, url: &str, headers: &[&str]) -> Ask {
    let headers = headers.iter().map(|line| (*line).to_owned()).collect();
    Ask { method: method.to_owned(), url: url.to_owned(), headers, ..Ask::default() }
}

const HEAD: &str = r#"apiVersion: outrigger/v1
attributes:
  env: { from: [{ header: x-env }, { cookie: env }, { query: env }], lowercase: true, values: [canary, prod] }
  user: { from: [{ header: x-user }] }
listeners: [{ name: edge, mode: proxy, address: "127.0.0.1:8080" }]
services:
  app:
    endpoints:
      static:
        - { address: "127.0.0.1:1", labels: { v: "1" } }
        - { address: "127.0.0.1:2", labels: { v: "2" } }
        - { address: "127.0.0.1:3", labels: { v: "2" }, weight: 0 }
    subsets: { v1: { labels: { v: "1" } }, v2: { labels: { v: "2" } } }
  named: { hosts: [named.test], endpoints: { static: ["127.0.0.1:4"] } }
"#;

/// The text of a valid configuration with what is valid of these routes.
fn valid(mut routes: Vec<String>) -> String {
    loop {
        let mut text = format!("{HEAD}routes:\n");
        for (index, route) in routes.iter().enumerate() {
            writeln!(text, "  - {{ name: r{index}, {route} }}").expect("a string");
        }
        if routes.is_empty() {
            text = format!("{HEAD}routes: [{{ name: last, to: app }}]\n");
        }
        let Err(report) = config::parse("t.yaml", &text, &|_| None) else { return text };
        let named = |problem: &config::Problem| {
            let index = problem.path.strip_prefix("routes[")?.split(']').next()?.parse::<usize>().ok();
            index.filter(|index| *index < routes.len())
        };
        let mut wrong: Vec<usize> = report.problems().iter().filter_map(named).collect();
        assert!(!wrong.is_empty(), "{report}\n{text}");
        wrong.sort_unstable();
        wrong.dedup();
        wrong.into_iter().rev().for_each(|index| drop(routes.remove(index)));
    }
}

fn one_match() -> impl Strategy<Value = String> {
    let path = select(vec![
        "",
        "path: { exact: /a }",
        "path: { exact: /a/b }",
        "path: { prefix: / }",
        "path: { prefix: /a }",
        "path: { prefix: /a/b }",
        "path: { template: \"/{x}\" }",
        "path: { template: \"/a/{x}\" }",
        "path: { template: \"/{x}/b\" }",
        "path: { template: \"/{x}/{y}\" }",
        "path: { regex: \"/a.*\" }",
        "path: { regex: \"/[ab]/.\" }",
        "grpc: { service: a, method: b }",
        "grpc: { service: a }",
        "grpc: { method: b }",
    ]);
    let others = vec![
        "methods: [GET]",
        "methods: [GET, POST]",
        "headers: { x-a: \"1\" }",
        "headers: { X-A: \"2\", x-b: { present: true } }",
        "headers: { x-b: { prefix: p } }",
        "headers: { x-b: { present: false } }",
        "cookies: { c: \"1\" }",
        "cookies: { c: { suffix: s } }",
        "query: { q: \"1\" }",
        "query: { q: { regex: \"[0-9]+\" } }",
        "attributes: { env: canary }",
        "attributes: { env: { present: false } }",
        "from: { cidrs: [10.0.0.0/8] }",
    ];
    (path, subsequence(others, 0..3)).prop_map(|(path, others)| {
        let mut keys: Vec<&str> = Vec::new();
        // A key stands in a mapping once.
        for part in std::iter::once(path).chain(others).filter(|part| !part.is_empty()) {
            let key = part.split(':').next();
            if keys.iter().all(|known| known.split(':').next() != key) {
                keys.push(part);
            }
        }
        format!("{{ {} }}", keys.join(", "))
    })
}

fn route() -> impl Strategy<Value = String> {
    let hosts = select(vec![
        "",
        "",
        "hosts: [a.test], ",
        "hosts: [b.a.test, a.test], ",
        "hosts: [\"*.test\"], ",
        "hosts: [\"*.a.test\", \"*.test\"], ",
    ]);
    let action = select(vec![
        "to: app",
        "to: app/v1",
        "split: [{ to: app/v1, weight: 30 }, { to: app/v2, weight: 70 }], sticky: { header: x-user }",
        "split: [{ to: app/v1, weight: 1 }, { to: named, weight: 1 }], sticky: { attribute: user }",
        "split: [{ to: app/v1, weight: 1 }, { to: app/v2, weight: 3 }]",
        "redirect: { host: other.test }",
        "respond: { status: 418 }",
        "to: app, maxBody: 10",
        "to: app, maxBody: { size: 10, mode: shadow }",
    ]);
    (hosts, prop::collection::vec(one_match(), 0..4), action).prop_map(|(hosts, matches, action)| {
        let matches = if matches.is_empty() { String::new() } else { format!("match: [{}], ", matches.join(", ")) };
        format!("{hosts}{matches}{action}")
    })
}

fn request() -> impl Strategy<Value = Ask> {
    let host = select(vec!["a.test", "b.a.test", "c.test", "A.TEST:80", "named.test", "x", "test"]);
    let paths = vec![
        "/",
        "/a",
        "/a/",
        "/a/b",
        "/a/b/c",
        "/b/b",
        "/b/",
        "/x/../a/b",
        "//a",
        "/a?q=1",
        "/a/b?q=x&env=PROD",
        "/a?env=canary",
    ];
    let headers = subsequence(
        vec![
            "x-a: 1",
            "x-a: 2",
            "x-b: pq",
            "cookie: c=1; env=canary",
            "cookie: c=ss",
            "x-env: Canary",
            "x-env: blue",
            "x-user: ada",
            "x-user: bob",
            "content-type: application/grpc",
            "content-length: 11",
            "content-length: 9",
        ],
        0..6,
    );
    let from = select(vec!["10.0.0.1", "11.0.0.1"]).prop_map(|from| Some(from.to_owned()));
    (select(vec!["GET", "POST", "PUT"]), host, select(paths), headers, from).prop_map(
        |(method, host, path, headers, from)| Ask { from, ..asked(method, &format!("http://{host}{path}"), &headers) },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// The list of candidates is made the slow way, from the configuration; the decision by the route table.
    #[test]
    fn explain_and_the_data_path_agree(
        routes in prop::collection::vec(route(), 1..10),
        requests in prop::collection::vec(request(), 12),
        bucket in 0..split::BUCKETS,
    ) {
        let text = valid(routes);
        let snapshot = compile(&text);
        for ask in requests {
            let explained = explain(&snapshot, &ask).map_err(TestCaseError::fail)?;
            let parts = ask.parts().map_err(TestCaseError::fail)?;
            let listener = &snapshot.listeners[0];
            let understood = match decide::understand(listener, &parts) {
                Ok(understood) => understood,
                Err(reason) => {
                    prop_assert_eq!(explained.reason.map(|because| because.code), Some(reason.code().to_owned()));
                    continue;
                }
            };
            let from = ask.caller().map_err(TestCaseError::fail)?;
            let facts = understood.facts(&snapshot, &parts, from.at(8080));
            let decided = decide::decide(&snapshot, listener, &facts, || bucket);
            let winner = explained.candidates.iter().find(|candidate| candidate.standing == Standing::Wins);
            let Ok(decision) = decided else {
                prop_assert_eq!(explained.outcome, Outcome::NoRoute, "{}\n{:?}", &text, &ask);
                prop_assert!(winner.is_none(), "{winner:?} wins, and nothing is found\n{text}\n{ask:?}");
                continue;
            };
            let winner = winner.ok_or_else(|| TestCaseError::fail(format!("nothing wins\n{text}\n{ask:?}")))?;
            prop_assert_eq!(
                (&*winner.route, winner.rule.unwrap_or_default()),
                (&*decision.route.name, decision.rule.index),
                "{}\n{:?}", &text, &ask
            );
            prop_assert_eq!(explained.route.map(|route| route.name), Some(decision.route.name.to_string()));
            match decision.verdict {
                Verdict::Forward { side, drawn, .. } => {
                    prop_assert_eq!(explained.outcome, Outcome::Forward);
                    prop_assert!(explained.sides[side].possible, "side {side} of {:?}", explained.sides);
                    let certain = drawn.is_none_or(|drawn| drawn.sticky);
                    let possible = explained.sides.iter().filter(|side| side.possible).count();
                    prop_assert_eq!(certain, possible == 1, "{:?}", explained.sides);
                }
                Verdict::Answer => prop_assert!([Outcome::Redirect, Outcome::Respond].contains(&explained.outcome)),
                Verdict::Refuse(reason) => {
                    prop_assert_eq!(explained.outcome, Outcome::Refuse);
                    prop_assert_eq!(explained.reason.map(|because| because.code), Some(reason.code().to_owned()));
                }
            }
        }
    }
}

const TOUR: &str = r#"routes:
  - name: canary
    match: [{ attributes: { env: canary } }]
    to: app/v2
  - name: api
    hosts: [reviews]
    match:
      - { path: { prefix: /api }, methods: [POST] }
      - { path: { prefix: /api }, headers: { x-ab: { regex: "user-[0-9]+" } } }
    to: app/v1
  - name: all
    split: [{ to: app/v1, weight: 90 }, { to: app/v2, weight: 10 }]
    sticky: { header: x-user }
    timeout: 2s
    maxBody: { size: 1Ki, mode: shadow }
    requestHeaders: { set: { authorization: Bearer abc, x-mesh: "on" }, remove: [x-internal] }
"#;

fn toured(url: &str, headers: &[&str]) -> Explanation {
    explain(&compile(&format!("{HEAD}{TOUR}")), &asked("GET", url, headers)).expect("an explanation")
}

#[test]
fn each_candidate_says_what_failed_first_and_where() {
    let explained = toured("http://reviews/api/x", &["x-ab: nobody"]);
    let said: Vec<String> = explained
        .candidates
        .iter()
        .map(|one| {
            let failed = one.failed.as_ref().map(|failed| {
                let place = failed.place.as_deref().unwrap_or_default();
                format!("{} {} {} {place}", failed.condition, failed.wanted, failed.found)
            });
            format!("{} {:?} {:?} {}", one.route, one.rule, one.standing, failed.unwrap_or_default())
        })
        .collect();
    assert_eq!(
        said,
        [
            "api Some(0) Fails method `POST` `GET` t.yaml:22",
            "api Some(1) Fails header x-ab regex `user-[0-9]+` `nobody` t.yaml:23",
            "canary Some(0) Fails attribute env `canary` none t.yaml:17",
            "all None Wins ",
            "named None NotTried ",
        ]
    );
}

#[test]
fn every_value_says_where_it_comes_from() {
    let explained = toured("http://reviews/", &["x-user: ada", "x-env: blue", "content-length: 5000"]);
    let policy = |name: &str| {
        let one = explained.policy.iter().find(|policy| policy.name == name).expect("a policy");
        format!("{} {} {}", one.value, one.from, one.place.as_deref().unwrap_or_default())
    };
    assert_eq!(policy("timeout"), "2s route t.yaml:28");
    assert_eq!(policy("connectTimeout"), "1s built in ");
    assert_eq!(policy("maxBody"), "1Ki (shadow) route t.yaml:29");
    assert_eq!(policy("loadBalancer.policy"), "leastRequest built in ");
    assert_eq!(policy("maxHeaders"), "100 built in ");
    let env = &explained.attributes[0];
    assert_eq!((env.value.as_deref(), env.from.as_deref()), (None, Some("header x-env")));
    assert!(env.note.as_deref().is_some_and(|note| note.contains("`blue` is not one of its values")), "{env:?}");
    let split = explained.split.expect("a split");
    let bucket = split.bucket.expect("a bucket");
    assert_eq!(bucket, split::bucket("all", "ada"));
    assert_eq!(explained.sides.iter().map(|side| side.share).collect::<Vec<_>>(), [90.0, 10.0]);
    assert!(explained.sides[usize::from(bucket >= 9000)].possible);
    let edits = explained.edits.iter().filter(|edit| edit.why == "edits of the route");
    let edits: Vec<String> = edits.map(|edit| format!("{} {:?}", edit.name, edit.value)).collect();
    assert_eq!(edits, ["x-internal None", "authorization Some(\"[redacted]\")", "x-mesh Some(\"on\")"]);
}

#[test]
fn endpoints_that_cannot_be_chosen_say_why() {
    let explained = toured("http://a.test/?env=canary", &[]);
    let side = &explained.sides[0];
    assert_eq!(side.endpoints.iter().map(|one| one.address.port()).collect::<Vec<_>>(), [2]);
    let why: Vec<&str> = side.excluded.iter().map(|one| &*one.why).collect();
    assert_eq!(why, ["label v is `1`, and subset v2 wants `2`", "its weight is 0"]);
    assert_eq!(explained.attributes[0].from.as_deref(), Some("query env"));
}

#[test]
fn what_only_the_body_or_chance_decides_is_unknown() {
    let explained = toured("http://a.test/", &[]);
    assert_eq!(explained.unknown.len(), 2, "{:?}", explained.unknown);
    assert!(explained.unknown[0].contains("no header x-user"), "{:?}", explained.unknown);
    assert!(explained.sides.iter().all(|side| side.possible));
}

#[test]
fn a_request_that_is_refused_or_goes_nowhere_says_so() {
    let text = format!("{HEAD}routes: [{{ name: one, hosts: [a.test], to: app, maxBody: 10 }}]\n");
    let snapshot = compile(&text);
    let lost = explain(&snapshot, &asked("GET", "http://x.test/", &[])).expect("an explanation");
    assert_eq!((lost.outcome, lost.reason.map(|because| because.status)), (Outcome::NoRoute, Some(404)));
    assert_eq!(lost.candidates[0].failed.as_ref().map(|failed| &*failed.wanted), Some("`a.test`"));
    let refused = explain(&snapshot, &asked("POST", "http://a.test/", &["content-length: 11"])).expect("one");
    assert_eq!((refused.outcome, refused.reason.map(|because| because.status)), (Outcome::Refuse, Some(413)));
    let bad = explain(&snapshot, &asked("GET", "http://a.test/", &["content-length: x"])).expect("one");
    assert_eq!((bad.outcome, bad.reason.map(|because| because.status)), (Outcome::Refuse, Some(400)));
}

/// By a configuration with these services and routes.
fn explained(text: &str, ask: &Ask) -> Explanation {
    explain(&compile(&format!("{HEAD}{text}")), ask).expect("an explanation")
}

fn get(url: &str) -> Ask {
    asked("GET", url, &[])
}

fn policies(explained: &Explanation) -> Vec<&str> {
    explained.policy.iter().map(|policy| &*policy.name).collect()
}

/// The answer header of a request that took this match of a route.
fn header(snapshot: &Snapshot, route: usize, rule: usize) -> String {
    let header = compact(&Known { route: Some((&snapshot.routes[route], route, rule)), ..bare(snapshot) });
    header.expect("a header").to_str().expect("text").to_owned()
}

fn bare(snapshot: &Snapshot) -> Known<'_> {
    Known {
        snapshot,
        listener: "edge",
        route: None,
        grpc: false,
        target: None,
        drawn: None,
        endpoint: None,
        picked: None,
        reason: "",
        circuit: None,
        denied: None,
        would_deny: &[],
        attributes: &[],
    }
}

#[test]
fn an_implied_route_is_not_a_written_one_of_its_name() {
    let text = HEAD.replace("  app:\n", "  app:\n    hosts: [a.local]\n");
    let routes = "routes: [{ name: app, hosts: [b.local], to: named, timeout: 1s, maxBody: 5 }]\n";
    let snapshot = compile(&format!("{text}{routes}"));
    let implied = explain(&snapshot, &get("http://a.local/")).expect("an explanation");
    let route = implied.route.expect("a route");
    let hosts = Some("t.yaml:8".to_owned());
    assert_eq!((&*route.name, &route.place, &implied.sides[0].place), ("app", &hosts, &hosts));
    assert_eq!(implied.sides[0].to, "app");
    let timeout = implied.policy.iter().find(|policy| policy.name == "timeout").expect("a timeout");
    assert_eq!((&*timeout.value, &*timeout.from), ("15s", "built in"));
    assert!(implied.policy.iter().all(|policy| policy.name != "maxBody"));
    let written = explain(&snapshot, &get("http://b.local/")).expect("an explanation");
    assert_eq!(
        (written.route.and_then(|route| route.place), &*written.policy[0].value),
        (Some("t.yaml:16".into()), "1s")
    );

    for (index, expected) in
        ["route=app; at=t.yaml:16; timeout=1s", "route=app; at=t.yaml:8; timeout=15s"].iter().enumerate()
    {
        let header = header(&snapshot, index, 0);
        assert!(header.contains(expected), "{header}");
    }
}

#[test]
fn the_header_names_the_place_of_the_match() {
    let snapshot = compile(&format!("{HEAD}{TOUR}"));
    let route = snapshot.routes.iter().position(|route| *route.name == *"api").expect("a route");
    let header = header(&snapshot, route, 1);
    assert!(header.contains("match=1; at=t.yaml:23; "), "{header}");
}

#[tokio::test]
async fn without_an_endpoint_it_is_refused() {
    let text = HEAD.replace("routes:", "").replace(
        "  named:",
        "  tcp: { protocol: tcp, endpoints: { file: /nonexistent/eps.yaml }, limits: { maxConnections: 5 } }\n  \
         gone: { endpoints: { file: /nonexistent/eps.yaml } }\n  named:",
    );
    let listeners = "listeners: [{ name: db, mode: proxy, address: \"127.0.0.1:8081\", protocol: tcp }, {";
    let text = text.replace("listeners: [{", listeners);
    let routes = "routes:\n  - { name: db, listeners: [db], to: tcp }\n  \
                  - { name: one, listeners: [edge], hosts: [one], to: gone }\n  \
                  - { name: two, listeners: [edge], split: [{ to: gone, weight: 1 }, { to: app, weight: 1 }] }\n";
    let snapshot = compile(&format!("{text}{routes}"));
    snapshot.services.iter().find(|service| *service.name == *"gone").expect("it").upstream.settled().await;
    let one = explain(&snapshot, &get("http://one/")).expect("an explanation");
    assert_eq!((one.outcome, one.reason.map(|because| because.code)), (Outcome::Refuse, Some("no_endpoint".into())));
    assert!(one.sides[0].discovery["lastError"].is_string(), "{:?}", one.sides);
    assert!(one.edits.is_empty() && one.route.is_some_and(|route| route.action.starts_with("refused: ")));
    let two = explain(&snapshot, &get("http://two/")).expect("an explanation");
    assert_eq!((two.outcome, two.reason.is_none()), (Outcome::Forward, true), "chance may choose the other side");

    let tcp = explain(&snapshot, &Ask { listener: Some("db".to_owned()), ..get("http://x/") }).expect("one");
    assert_eq!((tcp.outcome, tcp.reason.map(|because| because.status)), (Outcome::Refuse, Some(0)));
    let names = [
        "connectTimeout",
        "tcpIdleTimeout",
        "tcpHalfCloseTimeout",
        "loadBalancer.policy",
        "limits.maxConnections",
        "limits.maxPending",
        "maxConnections",
    ];
    assert_eq!(tcp.policy.iter().map(|policy| &*policy.name).collect::<Vec<_>>(), names);
}

/// The size of a head is that of its bytes on the wire.
#[test]
fn a_head_too_large_is_refused_as_by_the_codec() {
    let text = HEAD.replace("mode: proxy,", "mode: proxy, maxHeaderBytes: 200,");
    let snapshot = compile(&format!("{text}routes: [{{ name: all, to: app }}]\n"));
    let whole = |length| format!("GET /a HTTP/1.1\r\nx-a: {}\r\nhost: h:80\r\n\r\n", "x".repeat(length)).len();
    let status = |length: usize| {
        let ask = asked("GET", "http://h:80/a", &[&format!("x-a: {}", "x".repeat(length))]);
        let explained = explain(&snapshot, &ask).expect("an explanation");
        (explained.reason.map(|because| because.status), explained.request.host)
    };
    let fits = 200 - whole(0);
    assert_eq!(status(fits), (None, "h".to_owned()));
    assert_eq!(status(fits + 1), (Some(431), "h:80".to_owned()));
}

#[test]
fn of_many_candidates_those_left_out_are_counted_where_they_are() {
    let mut routes = "routes:\n".to_owned();
    for n in 0..150 {
        writeln!(routes, "  - {{ name: a{n}, match: [{{ path: {{ exact: /{n} }} }}], to: app }}").expect("a string");
        writeln!(routes, "  - {{ name: b{n}, hosts: [b{n}.test], to: app }}").expect("a string");
    }
    let any = explained(&format!("{routes}  - {{ name: any, to: app }}\n"), &get("http://x.test/"));
    // Before: all paths of any host. Behind: all other hosts, and one that is implied.
    assert_eq!((any.candidates.len(), any.more_candidates), (101, More { before: 50, after: 151 }));
    assert_eq!(any.candidates[100].standing, Standing::Wins);
    assert!(any.route.expect("a route").why.contains("150 more telling rules fail"));
    let implied = explained(&routes, &get("http://named.test/"));
    assert_eq!(implied.more_candidates, More { before: 200, after: 0 });
    let why = implied.route.expect("a route").why;
    assert!(why.contains("150 more telling rules fail"), "rules for other hosts are not: {why}");
    assert_eq!(explained(&routes, &get("http://x/")).more_candidates, More { before: 201, after: 0 });
}

#[test]
fn a_side_that_nobody_reaches_is_not_possible() {
    let routes = "routes: [{ name: all, split: [{ to: app/v1, weight: 0 }, { to: app/v2, weight: 5 }] }]\n";
    let all = explained(routes, &get("http://a/"));
    assert_eq!(all.sides.iter().map(|side| side.buckets).collect::<Vec<_>>(), [(0, 0), (0, split::BUCKETS)]);
    assert_eq!(all.sides.iter().map(|side| side.possible).collect::<Vec<_>>(), [false, true]);
    assert!(all.unknown.is_empty(), "{:?}", all.unknown);
    assert!(all.split.is_some_and(|split| split.by.contains("app/v2 is the only possible side")));
    assert_eq!(all.route.map(|route| route.action), Some("to app/v2".to_owned()));
}

#[test]
fn lists_are_bounded() {
    let many = |what: &dyn Fn(usize) -> String| (0..250).map(what).collect::<Vec<_>>().join(", ");
    let (hosts, endpoints) = (many(&|n| format!("h{n}")), many(&|n| format!("\"127.0.0.1:{}\"", n + 1000)));
    let text = HEAD.replace("  named:", &format!("  wide: {{ endpoints: {{ static: [{endpoints}] }} }}\n  named:"));
    let routes = format!("routes: [{{ name: all, hosts: [{hosts}], to: wide }}, {{ name: none, to: app/v1 }}]\n");
    let snapshot = compile(&format!("{text}{routes}"));
    let all = explain(&snapshot, &get("http://h7/")).expect("an explanation");
    assert_eq!((all.sides[0].endpoints.len(), all.sides[0].more_endpoints), (100, 150));
    let lost = explain(&snapshot, &get("http://named.test/")).expect("an explanation");
    let failed = lost.candidates.iter().find_map(|candidate| candidate.failed.as_ref());
    assert!(failed.is_none(), "the route of all hosts wins: {failed:?}");
    let routes = format!("routes: [{{ name: all, hosts: [{hosts}], to: wide }}]\n");
    let lost = explain(&compile(&format!("{text}{routes}")), &get("http://x/")).expect("an explanation");
    let wanted = lost.candidates[0].failed.as_ref().map(|failed| &*failed.wanted);
    assert_eq!(wanted, Some("`h0`, `h1`, `h2` and 247 more"));
}

#[test]
fn the_edits_of_the_proxy_are_those_that_it_makes() {
    let edits = |headers: &[&str]| -> Vec<String> {
        let explained = explained("routes: [{ name: all, to: app }]\n", &asked("GET", "http://a/", headers));
        let edits = explained.edits.into_iter().filter(|edit| edit.why == "the proxy");
        edits.map(|edit| format!("{} {} {}", edit.what, edit.name, edit.value.unwrap_or_default())).collect()
    };
    let address = "set x-forwarded-for <the client's address>";
    let always = ["set x-forwarded-proto http", "set x-forwarded-host a", "set x-outrigger-hops 1"];
    let new = ["set x-request-id a new id", "set traceparent a span of this proxy", address];
    assert_eq!(edits(&[]), [&new[..], &always].concat());
    let trace = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let came =
        ["x-request-id: 1", trace, "x-forwarded-for: 10.0.0.9", "connection: close, x-hop", "x-hop: 1", "te: trailers"];
    let mut made = edits(&came);
    made.sort();
    let mut expected = vec![
        "remove x-hop ",
        "set connection te",
        "set traceparent a span of this proxy",
        "set x-forwarded-for 10.0.0.9, <the client's address>",
    ];
    expected.extend(always);
    expected.sort_unstable();
    assert_eq!(made, expected);
}

#[test]
fn an_address_of_ipv6_is_a_host() {
    let text = HEAD.replace("hosts: [named.test]", "hosts: [named.test, \"[::2]\"]");
    let snapshot = compile(&format!("{text}routes: [{{ name: six, hosts: [\"[::1]\"], to: app }}]\n"));
    for (url, route) in [("http://[::1]:8080/", "six"), ("http://[::2]/", "named")] {
        let found = explain(&snapshot, &get(url)).expect("an explanation");
        assert_eq!(found.route.as_ref().map(|found| &*found.name), Some(route), "{found:?}");
        assert!(found.candidates.iter().any(|one| one.standing == Standing::Wins && one.route == route));
    }
}

/// However many conditions hold before it, it is the one that fails which is named.
#[test]
fn a_condition_is_named_as_it_is_written() {
    let routes = "routes:\n  - name: all\n    match:\n      - query: { q: \"1\" }\n        attributes: { user: ada }\n        \
                  cookies: { c: \"1\" }\n        headers: { X-B: \"1\", X-A: \"1\" }\n    to: app\n";
    let mut headers = Vec::new();
    for (line, condition, place) in [
        ("x-b: 1", "header x-b", "t.yaml:21"),
        ("x-a: 1", "header x-a", "t.yaml:21"),
        ("cookie: c=1", "cookie c", "t.yaml:20"),
        ("x-user: ada", "attribute user", "t.yaml:19"),
    ] {
        let all = explained(routes, &asked("GET", "http://a/", &headers));
        let failed = all.candidates[0].failed.as_ref().expect("a condition that fails");
        assert_eq!((&*failed.condition, failed.place.as_deref()), (condition, Some(place)));
        headers.push(line);
    }
    let all = explained(routes, &asked("GET", "http://a/", &headers));
    assert_eq!(all.candidates[0].failed.as_ref().map(|failed| &*failed.condition), Some("query q"));
}

#[test]
fn attributes_and_conditions_of_secrets_are_redacted() {
    let attribute = "who: { from: [{ header: x-who }, { header: authorization }], forward: x-who-is }";
    let head = HEAD.replace("attributes:\n", &format!("attributes:\n  {attribute}\n"));
    let text = format!(
        "{head}routes:\n  - {{ name: one, to: app, match: [{{ path: {{ prefix: /x/y }}, attributes: {{ who: hunter2 }} }}] }}\n  \
         - {{ name: two, to: app, match: [{{ path: {{ prefix: /x }}, headers: {{ x-api-key: hunter3 }} }}] }}\n  \
         - {{ name: three, to: app }}\n"
    );
    let snapshot = compile(&text);
    let headers = ["x-who: hunter1", "x-api-key: hunter4"];
    let explained = explain(&snapshot, &asked("GET", "http://a.test/x/y", &headers)).expect("an explanation");
    let failed = |index: usize| explained.candidates[index].failed.clone().expect("a failed condition");
    for index in [0, 1] {
        assert_eq!((&*failed(index).wanted, &*failed(index).found), ("[redacted]", "`[redacted]`"));
    }
    assert_eq!(failed(0).condition, "attribute who");
    assert_eq!(explained.attributes[0].value.as_deref(), Some("[redacted]"));
    let edit = explained.edits.iter().find(|edit| edit.name == "x-who-is").expect("an edit");
    assert_eq!(edit.value.as_deref(), Some("[redacted]"));
    let json = serde_json::to_string(&explained).expect("JSON");
    assert!(!json.contains("hunter"), "{json}");
    let line = compact(&Known { attributes: &[(0, "hunter1".into())], ..bare(&snapshot) }).expect("a header");
    assert_eq!(line.to_str().ok(), Some("listener=edge; attribute.who=[redacted]; generation=1"));
}

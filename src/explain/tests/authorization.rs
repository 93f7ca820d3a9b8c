//! Who may do what, as `explain` tells it; and that it tells what the data path says.

use super::*;

const ENTRIES: &str = r#"authorization:
  - name: reads
    allow:
      - { from: { identities: ["spiffe://cluster.local/ns/shop/sa/web"] }, to: { methods: [GET], paths: [{ prefix: /api }] } }
      - { from: { cidrs: ["10.0.0.0/8"] } }
  - { name: no-admin, deny: [{ to: { methods: [PUT] } }, { to: { paths: [{ prefix: /admin }] } }] }
  - { name: soon, mode: shadow, allow: [{ from: { namespaces: [shop] } }], deny: [{ to: { headers: { x-debug: "1" } } }] }
  - { name: elsewhere, listeners: [raw], allow: [{ from: { cidrs: [10.9.0.0/16] } }] }
  - { name: never, mode: off, deny: [{}] }
"#;

fn snapshot(routes: &str) -> Snapshot {
    let identity = "identity: { trustDomain: cluster.local, certificate: c, privateKey: k, trustBundle: b }\n";
    let head = HEAD.replace(
        "127.0.0.1:8080\" }]",
        "127.0.0.1:8080\" }, { name: raw, mode: proxy, address: \"127.0.0.1:9000\", protocol: tcp }]",
    );
    let head =
        head.replace("services:\n", "services:\n  db: { protocol: tcp, endpoints: { static: [\"127.0.0.1:9\"] } }\n");
    let routes = format!("routes:\n  - {{ name: db, listeners: [raw], to: db }}\n{routes}");
    compile(&format!("{head}{identity}{ENTRIES}{routes}"))
}

const ALL: &str =
    "  - { name: all, to: app }\n  - { name: moved, match: [{ path: { prefix: /old } }], redirect: { host: b } }\n";

fn ask(line: &str, from: &str) -> Ask {
    let (method, path) = line.split_once(' ').expect("a method");
    let listener = Some(if method == "TCP" { "raw" } else { "edge" }.to_owned());
    let method = if method == "TCP" { "GET" } else { method };
    Ask { from: Some(from.to_owned()), listener, ..asked(method, &format!("http://a{path}"), &[]) }
}

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web,11.0.0.1";

/// `name says rule`, with `!` where it decides.
fn told(explained: &Explanation) -> Vec<String> {
    let one = |entry: &Authorization| {
        let (rule, mark) = (entry.rule.as_deref().unwrap_or("-"), if entry.decides { "!" } else { "" });
        format!("{} {:?} {rule}{mark}", entry.name, entry.says)
    };
    explained.authorization.iter().map(one).collect()
}

#[test]
fn each_entry_says_what_it_says() {
    let snapshot = snapshot(ALL);
    for (line, from, outcome, expected) in [
        ("GET /api", WEB, Outcome::Forward, ["reads Allows allow[0]", "no-admin Nothing -", "soon Allows allow[0]"]),
        ("GET /x", "10.0.0.1", Outcome::Forward, ["reads Allows allow[1]", "no-admin Nothing -", "soon Lacks -"]),
        ("GET /x", WEB, Outcome::Refuse, ["reads Lacks -!", "no-admin Nothing -", "soon Allows allow[0]"]),
        (
            "GET /admin",
            "10.0.0.1",
            Outcome::Refuse,
            ["reads Allows allow[1]", "no-admin Denies deny[1]!", "soon Lacks -"],
        ),
        (
            "PUT /admin",
            "10.0.0.1",
            Outcome::Refuse,
            ["reads Allows allow[1]", "no-admin Denies deny[0]!", "soon Lacks -"],
        ),
        ("GET /old", "10.0.0.1", Outcome::Redirect, ["reads Allows allow[1]", "no-admin Nothing -", "soon Lacks -"]),
        ("GET /old", "11.0.0.1", Outcome::Refuse, ["reads Lacks -!", "no-admin Nothing -", "soon Lacks -"]),
    ] {
        let explained = explain(&snapshot, &ask(line, from)).expect("an explanation");
        assert_eq!(told(&explained), expected, "{line} {from}");
        assert_eq!(explained.outcome, outcome, "{line} {from}");
        let because = explained.reason.map(|because| (because.code, because.status, because.sentence));
        if outcome == Outcome::Refuse {
            let by = if expected[0].ends_with('!') { "reads" } else { "no-admin" };
            let sentence = format!("{} ({by})", Reason::Denied.sentence());
            assert_eq!(because, Some(("denied".to_owned(), 403, sentence)), "{line} {from}");
        } else {
            assert_eq!(because, None, "{line} {from}");
        }
    }
    // Where it is written.
    let explained = explain(&snapshot, &ask("PUT /admin", "10.0.0.1")).expect("an explanation");
    let text = snapshot.config.sources().next().expect("a file").1;
    let line = 1 + text.lines().position(|line| line.contains("no-admin")).expect("the entry");
    let places: Vec<Option<String>> = explained.authorization.iter().map(|entry| entry.place.clone()).collect();
    assert_eq!(places[1].as_deref(), Some(format!("t.yaml:{line}").as_str()));
}

#[test]
fn a_shadow_that_would_refuse_is_told() {
    let snapshot = snapshot(ALL);
    let mut debug = ask("GET /api", WEB);
    debug.headers.push("x-debug: 1".to_owned());
    let explained = explain(&snapshot, &debug).expect("an explanation");
    assert_eq!(told(&explained), ["reads Allows allow[0]", "no-admin Nothing -", "soon Denies deny[0]!"]);
    assert_eq!((explained.outcome, explained.reason.is_none()), (Outcome::Forward, true));
}

#[test]
fn a_connection_is_judged_by_its_other_end() {
    let snapshot = snapshot(ALL);
    for (from, outcome) in [("10.9.0.1", Outcome::Refuse), ("10.0.0.1", Outcome::Refuse), ("11.0.0.1", Outcome::Refuse)]
    {
        let explained = explain(&snapshot, &ask("TCP /", from)).expect("an explanation");
        // What asks for a method or a path denies whatever it is.
        assert_eq!(told(&explained)[1], "no-admin Denies deny[0]!", "{from}");
        assert_eq!((explained.outcome, explained.reason.map(|because| because.status)), (outcome, Some(0)), "{from}");
    }
}

#[test]
fn a_caller_is_needed_only_where_somebody_looks() {
    let notes = |snapshot: &Snapshot, from: Option<&str>| {
        let ask =
            Ask { from: from.map(str::to_owned), listener: Some("edge".to_owned()), ..asked("GET", "http://a/", &[]) };
        explain(snapshot, &ask).map(|explained| explained.notes.join(" "))
    };
    let looks = snapshot(ALL);
    assert_eq!(notes(&looks, None).as_deref(), Ok("no caller is named: somebody without an identity, from 0.0.0.0"));
    assert_eq!(notes(&looks, Some("10.0.0.1")).as_deref(), Ok(""));
    assert!(notes(&looks, Some("web")).is_err_and(|why| why.contains("`web` is no address")));
    let blind = compile(&format!("{HEAD}routes: [{{ name: all, to: app }}]\n"));
    assert_eq!(notes(&blind, None).as_deref(), Ok(""));
    assert_eq!(notes(&blind, Some("10.0.0.1")).as_deref(), Ok("nothing in this configuration looks at the caller"));
    let routed =
        compile(&format!("{HEAD}routes: [{{ name: all, match: [{{ from: {{ cidrs: [10.0.0.0/8] }} }}], to: app }}]\n"));
    assert_eq!(notes(&routed, Some("10.0.0.1")).as_deref(), Ok(""));
}

#[test]
fn a_route_may_ask_who_calls() {
    let text = format!(
        "{HEAD}routes:\n  - {{ name: inside, match: [{{ from: {{ cidrs: [10.0.0.0/8] }} }}], to: app }}\n  - {{ name: all, to: named }}\n"
    );
    let snapshot = compile(&text);
    let of = |from: &str| {
        let ask = Ask { from: Some(from.to_owned()), ..asked("GET", "http://a/", &[]) };
        explain(&snapshot, &ask).expect("an explanation")
    };
    assert_eq!(of("10.0.0.1").route.map(|route| route.name).as_deref(), Some("inside"));
    let outside = of("11.0.0.1");
    assert_eq!(outside.route.map(|route| route.name).as_deref(), Some("all"));
    let failed = outside.candidates[0].failed.as_ref().expect("what failed");
    assert_eq!((failed.condition.as_str(), failed.wanted.as_str()), ("caller", "address `10.0.0.0/8`"));
    assert_eq!(failed.found, "11.0.0.1 without an identity");
}

fn caller() -> impl Strategy<Value = String> {
    let ip = select(vec!["10.0.0.1", "10.9.0.1", "11.0.0.1", "fd00::1"]);
    let id = select(vec!["", ",spiffe://cluster.local/ns/shop/sa/web", ",spiffe://cluster.local/ns/x/sa/y"]);
    (ip, id).prop_map(|(ip, id)| format!("{ip}{id}"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn what_is_told_is_what_is_decided(
        line in (select(vec!["GET", "PUT", "POST"]), select(vec!["/api", "/admin/x", "/old", "/"]))
            .prop_map(|(method, path)| format!("{method} {path}")),
        from in caller(),
        debug in any::<bool>(),
    ) {
        let snapshot = snapshot(ALL);
        let mut ask = ask(&line, &from);
        ask.headers.extend(debug.then(|| "x-debug: 1".to_owned()));
        let explained = explain(&snapshot, &ask).map_err(TestCaseError::fail)?;
        let (parts, whom) = (ask.parts().map_err(TestCaseError::fail)?, ask.caller().map_err(TestCaseError::fail)?);
        let listener = &snapshot.listeners[0];
        let understood = decide::understand(listener, &parts).expect("sound");
        let decision = decide::decide(&snapshot, listener, &understood.facts(&snapshot, &parts, whom.at(8080)), || 0);
        let decision = decision.expect("a route for everything");
        let name = |number: &usize| snapshot.authorization[*number].name.to_string();
        let decides = |shadow| {
            let entries = explained.authorization.iter().filter(move |entry| entry.shadow == shadow && entry.decides);
            entries.map(|entry| entry.name.clone()).collect::<Vec<_>>()
        };
        prop_assert_eq!(decides(false), decision.ruling.denied.iter().map(name).collect::<Vec<_>>());
        prop_assert_eq!(decides(true), decision.ruling.would.iter().map(name).collect::<Vec<_>>());
        let denied = matches!(decision.verdict, Verdict::Refuse(Reason::Denied));
        prop_assert_eq!(explained.outcome == Outcome::Refuse, denied);
        prop_assert_eq!(decision.ruling.denied.is_some(), denied);
    }
}

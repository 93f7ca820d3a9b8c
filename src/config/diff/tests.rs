//! Pairs of configurations, and what is said about them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value as Json, json};

use super::*;
use crate::config::parse;

const BASE: &str = r#"
apiVersion: outrigger/v1
admin: { explainToken: secret-of-sixteen }
listeners:
  - { name: edge, mode: proxy, address: "0.0.0.0:8080" }
  - { name: inner, mode: proxy, address: "0.0.0.0:8081" }
  - { name: raw, mode: proxy, address: "0.0.0.0:8082", protocol: tcp }
attributes:
  env: { from: [{ header: x-env }], values: [canary, prod] }
  tenant: { from: [{ header: x-tenant }] }
services:
  app:
    hosts: [app]
    port: 3000
    endpoints: { static: [{ address: "10.0.0.1", labels: { v: "1" } }, { address: "10.0.0.2:3000", labels: { v: "2" } }] }
    subsets: { v1: { labels: { v: "1" } }, v2: { labels: { v: "2" } } }
  web: { endpoints: { static: ["10.0.1.1:80"] } }
  db: { protocol: tcp, endpoints: { static: ["10.0.2.1:3306"] } }
routes:
  - { name: first, hosts: [a, b], match: [{ path: { prefix: /a }, headers: { x-a: "1" } }], to: app/v1, timeout: 2s }
  - { name: second, hosts: [a], match: [{ path: { prefix: /a }, headers: { x-b: "1" } }], split: [{ to: app/v1, weight: 90 }, { to: app/v2, weight: 10 }], sticky: { attribute: tenant } }
  - { name: third, listeners: [inner], match: [{ attributes: { env: canary } }], to: web, requestHeaders: { set: { x-a: b, authorization: hush-hush } } }
  - { name: here, hosts: [c], respond: { status: 200, body: hello } }
  - { name: db, listeners: [raw], to: db }
"#;

fn config(text: &str) -> Config {
    parse("t.yaml", text, &|_| None).unwrap_or_else(|report| panic!("{report}\n{text}"))
}

/// The base with texts replaced, each of which is there.
fn edited(edits: &[(&str, &str)]) -> Config {
    let mut text = BASE.to_owned();
    for (from, to) in edits {
        assert!(text.contains(from), "`{from}` is not in the base");
        text = text.replacen(from, to, 1);
    }
    config(&text)
}

fn said(edits: &[(&str, &str)]) -> Vec<String> {
    changes(&config(BASE), &edited(edits)).into_iter().map(|change| change.text).collect()
}

fn affected(edits: &[(&str, &str)]) -> Vec<String> {
    changed_routes(&config(BASE), &edited(edits)).into_iter().collect()
}

#[test]
fn each_change_is_a_plain_line() {
    for (from, to, expected) in [
        ("timeout: 2s", "timeout: 3s", "route `first`: timeout: 2s -> 3s"),
        (", timeout: 2s", "", "route `first`: timeout: 2s -> none"),
        (
            "timeout: 2s",
            "timeout: { after: 2s, mode: shadow }",
            "route `first`: timeout: 2s -> { after: 2s, mode: shadow }",
        ),
        ("weight: 10", "weight: 50.5", "route `second`: weight of `app/v2` 10 -> 50.5"),
        ("hosts: [a, b]", "hosts: [c, a]", "route `first`: hosts: added [c]|route `first`: hosts: removed [b]"),
        ("prefix: /a", "exact: /a", "route `first`: match[0].path: { prefix: /a } -> { exact: /a }"),
        ("x-a: \"1\"", "x-a: { prefix: \"1\" }", "route `first`: match[0].headers.x-a: 1 -> { prefix: 1 }"),
        ("match: [{ attr", "match: [{ methods: [GET] }, { attr", "route `third`: match: added { methods: [GET] }"),
        ("x-a: b", "x-a: c", "route `third`: requestHeaders.set.x-a: b -> c"),
        ("x-a: b", "x-a: b, x-c: d", "route `third`: requestHeaders.set.x-c: none -> d"),
        ("hush-hush", "sesame", "route `third`: requestHeaders.set.authorization: changed"),
        (
            "authorization: hush-hush",
            "x-z: y",
            "route `third`: requestHeaders.set.authorization: removed|route `third`: requestHeaders.set.x-z: none -> y",
        ),
        ("secret-of-sixteen", "another-secret-of-more", "`admin`: explainToken: changed"),
        ("admin: { explainToken: secret-of-sixteen }", "", "`admin`: explainToken: removed"),
        ("to: web, r", "to: app, r", "route `third`: to: web -> app"),
        ("body: hello", "body: \"a\\nb\"", "route `here`: respond.body: hello -> \"a\\nb\""),
        (
            "\"10.0.1.1:80\"",
            "\"10.0.1.2:80\"",
            "service `web`: endpoint 10.0.1.1:80 removed|service `web`: endpoint 10.0.1.2:80 added",
        ),
        (
            "address: \"10.0.0.1\",",
            "address: \"10.0.0.1\", weight: 2,",
            "service `app`: endpoint 10.0.0.1:3000: weight: 1 -> 2",
        ),
        ("port: 3000", "port: 3001", "service `app`: port: 3000 -> 3001"),
        (
            "static: [\"10.0.1.1:80\"]",
            "dns: { name: web, port: 80 }",
            "service `web`: endpoints: { static: { 10.0.1.1:80: { weight: 1 } } } -> { dns: { name: web, port: 80 } }",
        ),
        (
            ", v2: { labels: { v: \"2\" } } }",
            ", v2: { labels: { v: \"2\" } }, v3: { labels: { v: \"2\" } } }",
            "service `app`: subsets.v3: none -> { labels: { v: 2 } }",
        ),
        ("[canary, prod]", "[canary, prod, test]", "attribute `env`: values: added [test]"),
        ("\"0.0.0.0:8080\"", "\"0.0.0.0:8080\", maxHeaders: 7", "listener `edge`: maxHeaders: 100 -> 7"),
        ("attributes:\n", "defaults: { timeout: 1m }\nattributes:\n", "`defaults`: timeout: 15s -> 1m"),
        ("attributes:\n", "state: { directory: /x }\nattributes:\n", "`state`: none -> { directory: /x, keep: 10 }"),
        ("attributes:\n", "workload: { name: n }\nattributes:\n", "`workload`: name: none -> n"),
        ("name: here", "name: there", "route `here`: removed|route `there`: added, answers 200"),
        ("  web:", "  more: { endpoints: { file: /e } }\n  web:", "service `more`: added, endpoints in `/e`"),
    ] {
        assert_eq!(said(&[(from, to)]).join("|"), expected, "{from} -> {to}");
    }
}

/// Two entries of `authorization`, and what is said of each edit of them.
#[test]
fn entries_of_authorization_are_compared_by_name() {
    const ENTRIES: &str = r#"authorization:
  - { name: reads, ports: [8081, 8080], allow: [{ from: { cidrs: [10.0.0.0/8, 11.0.0.0/8] }, to: { methods: [GET] } }, { to: { headers: { X-A: "1" } } }] }
  - { name: keys, listeners: [edge, inner], deny: [{ to: { headers: { x-token: hush-1 }, hosts: [a, B] } }], mode: shadow }
attributes:
"#;
    let old = edited(&[("attributes:\n", ENTRIES)]);
    let told = |from: &str, to: &str| -> Vec<String> {
        assert!(ENTRIES.contains(from), "`{from}` is not there");
        let new = edited(&[("attributes:\n", &ENTRIES.replacen(from, to, 1))]);
        changes(&old, &new).into_iter().map(|change| change.text).collect()
    };
    for (from, to, expected) in [
        ("mode: shadow", "mode: enforce", "authorization `keys`: mode: shadow -> enforce"),
        ("[8081, 8080]", "[8080]", "authorization `reads`: ports: removed [8081]"),
        ("methods: [GET]", "methods: [GET, PUT]", "authorization `reads`: allow[0].to.methods: added [PUT]"),
        (
            "11.0.0.0/8",
            "12.0.0.0/8",
            "authorization `reads`: allow[0].from.cidrs: added [12.0.0.0/8]|authorization `reads`: allow[0].from.cidrs: removed [11.0.0.0/8]",
        ),
        (
            ", { to: { headers: { X-A: \"1\" } } }",
            "",
            "authorization `reads`: allow: removed { to: { headers: { x-a: 1 } } }",
        ),
        (
            ", { to: { headers: { X-A: \"1\" } } }",
            ", { to: { headers: { X-A: \"1\" } } }, {}",
            "authorization `reads`: allow: added every request",
        ),
        ("hush-1", "hush-2", "authorization `keys`: deny[0].to.headers.x-token: changed"),
        ("name: keys", "name: doors", "authorization `keys`: removed|authorization `doors`: added, 0 allow, 1 deny"),
        // Another spelling.
        ("[8081, 8080]", "[8080, 8081]", ""),
        ("[10.0.0.0/8, 11.0.0.0/8]", "[11.0.0.0/8, 10.0.0.0/8]", ""),
        ("X-A: \"1\"", "x-a: { exact: \"1\" }", ""),
        ("[a, B]", "[b, A]", ""),
        ("[edge, inner]", "[inner, edge]", ""),
    ] {
        assert_eq!(told(from, to).join("|"), expected, "{from} -> {to}");
    }
    assert_eq!(summary(&changes(&config(BASE), &old)), "2 authorizations added");
    assert_eq!(changed_routes(&config(BASE), &old), BTreeSet::new(), "whoever is denied must not undo it");
}

#[test]
fn another_spelling_is_no_change() {
    for (from, to) in [
        ("timeout: 2s", "timeout: { after: 2000ms }"),
        ("hosts: [a, b]", "hosts: [B, a]"),
        ("x-a: \"1\"", "X-A: { exact: \"1\" }"),
        ("\"10.0.1.1:80\"", "{ address: \"10.0.1.1:80\", weight: 1 }"),
        ("address: \"10.0.0.1\"", "address: \"10.0.0.1:3000\""),
        ("attributes:\n", "defaults: { timeout: 15s }\nattributes:\n"),
        ("[canary, prod]", "[prod, canary]"),
    ] {
        assert_eq!(said(&[(from, to)]), Vec::<String>::new(), "{from} -> {to}");
        assert_eq!(affected(&[(from, to)]), Vec::<String>::new(), "{from} -> {to}");
    }
}

#[test]
fn order_counts_where_the_earlier_line_wins() {
    let swap = |one: &str, other: &str| {
        let line = |name: &str| BASE.lines().find(|line| line.contains(&format!("name: {name},"))).expect("a route");
        let (one, other) = (line(one), line(other));
        let text = BASE.replace(one, "@").replace(other, one).replace('@', other);
        changes(&config(BASE), &config(&text))
    };
    let [change] = swap("first", "second").try_into().expect("one change");
    assert_eq!(change.text, "order of the routes: `second` now before `first`, and wins where both match");
    assert_eq!(summary(&[change]), "order of the routes changed");
    assert_eq!(swap("third", "here"), []);
    assert_eq!(
        said(&[(
            "{ to: app/v1, weight: 90 }, { to: app/v2, weight: 10 }",
            "{ to: app/v2, weight: 10 }, { to: app/v1, weight: 90 }"
        )]),
        ["route `second`: order of the sides of `split`, which moves sticky requests"]
    );
}

#[test]
fn conditions_on_secrets_are_only_said_to_have_changed() {
    let with = |value: &str| [("x-a: \"1\"", format!("x-token: {value}"))].map(|(from, to)| (from, to));
    let config = |value: &str| {
        let edits = with(value);
        let edits: Vec<(&str, &str)> = edits.iter().map(|(from, to)| (*from, to.as_str())).collect();
        edited(&edits)
    };
    let told = |old: &str, new: &str| -> Vec<String> {
        changes(&config(old), &config(new)).into_iter().map(|change| change.text).collect()
    };
    assert_eq!(told("hush-1", "hush-2"), ["route `first`: match[0].headers.x-token: changed"]);
    assert_eq!(
        told("{ prefix: hush-1 }", "{ prefix: hush-2 }"),
        ["route `first`: match[0].headers.x-token.prefix: changed"]
    );
    assert_eq!(
        told("hush-1", "{ prefix: hush-2 }"),
        ["route `first`: match[0].headers.x-token: [redacted] -> { prefix: [redacted] }"]
    );
    assert_eq!(told("hush-1", "{ exact: hush-1 }"), <[String; 0]>::default());
    let match_of = |extra: &str| edited(&[("match: [{ attributes: { env: canary } }]", extra)]);
    let (old, new) = (match_of("match: []"), match_of("match: [{ headers: { x-key: hush-3 } }]"));
    let told: Vec<String> = changes(&old, &new).into_iter().map(|change| change.text).collect();
    assert_eq!(told.len(), 1);
    assert!(told[0].contains("[redacted]") && !told[0].contains("hush"), "{told:?}");
    // One side is enough to make the attribute a secret.
    let secret =
        ("tenant: { from: [{ header: x-tenant }] }", "tenant: { from: [{ header: x-token }], values: [hush-4] }");
    let all = said(&[secret]).join("|");
    assert!(all.contains("attribute `tenant`: values") && !all.contains("hush"), "{all}");
}

#[test]
fn secrets_are_never_told() {
    let edits = [("hush-hush", "sesame"), ("secret-of-sixteen", "another-secret-of-more"), ("set: {", "add: {")];
    let base = config(BASE);
    for edits in [&edits[..1], &edits[1..2], &edits[2..], &edits] {
        let all = serde_json::to_string(&changes(&base, &edited(edits))).expect("JSON");
        assert!(all.contains("changed"), "{all}");
        for secret in ["hush-hush", "sesame", "secret-of"] {
            assert!(!all.contains(secret), "{all}");
        }
    }
}

#[test]
fn no_text_is_long_or_moves_a_cursor() {
    let long = "\u{1b}[31m\u{202e}".replace('\u{1b}', "\\e") + &"y".repeat(100_000);
    let body = |end: &str| format!("body: \"{long}{end}\"");
    let one = edited(&[("body: hello", &body("1"))]);
    let other = edited(&[("body: hello", &body("22"))]);
    let hosts: Vec<String> = (0..5000).map(|n| format!("host-{n}.example")).collect();
    let many = edited(&[("hosts: [a, b]", &format!("hosts: [{}]", hosts.join(", ")))]);
    let name = "n".repeat(250);
    let named = edited(&[("name: here", &format!("name: {name}"))]);
    for (old, new) in [(&config(BASE), &one), (&one, &other), (&other, &many), (&many, &named)] {
        let changes = changes(old, new);
        assert!(!changes.is_empty());
        for change in changes {
            let text = &change.text;
            assert!(text.chars().count() <= 200, "{text}");
            assert!(!text.contains(['\u{1b}', '\u{202e}', '\n']), "{text:?}");
        }
    }
    let text = &changes(&one, &other)[0].text;
    assert!(text.starts_with("route `here`: respond.body: changed, 10000") && text.ends_with("characters"), "{text}");
}

#[test]
fn a_summary_counts_subjects() {
    assert_eq!(summary(&[]), "nothing changed");
    let new = edited(&[
        ("timeout: 2s", "timeout: 3s, maxBody: 1Mi"),
        ("weight: 10", "weight: 20"),
        ("  web:", "  more: { endpoints: { file: /e } }\n  web:"),
        ("attributes:\n", "defaults: { timeout: 1m, tcpIdleTimeout: 1m }\nattributes:\n"),
    ]);
    assert_eq!(summary(&changes(&config(BASE), &new)), "2 routes changed, 1 service added, `defaults` changed");
}

#[test]
fn affected_routes_are_those_that_do_something_else() {
    for (from, to, expected) in [
        ("timeout: 2s", "timeout: 3s", &["first"][..]),
        // `first` has a timeout of its own; `here` waits for nothing; `db` is tcp.
        ("attributes:\n", "defaults: { timeout: 1m }\nattributes:\n", &["app", "second", "third"]),
        (
            "attributes:\n",
            "defaults: { tcpIdleTimeout: 1m }\nattributes:\n",
            &["app", "db", "first", "second", "third"],
        ),
        ("address: \"10.0.0.1\",", "address: \"10.0.0.1\", weight: 2,", &["app", "first", "second"]),
        ("{ address: \"10.0.0.2:3000\"", "{ address: \"10.0.0.2:3000\", zone: z", &["app", "second"]),
        ("port: 3000", "port: 3001", &["app", "first", "second"]),
        ("protocol: tcp, end", "loadBalancer: { policy: random }, protocol: tcp, end", &["db"]),
        ("[canary, prod]", "[canary]", &["third"]),
        ("header: x-tenant", "header: x-tenant-id", &["second"]),
        ("{ header: x-env }]", "{ header: x-env }], forward: x-env", &["app", "first", "second", "third"]),
        ("\"0.0.0.0:8081\"", "\"0.0.0.0:8081\", maxHeaders: 7", &["app", "first", "here", "second", "third"]),
        ("\"0.0.0.0:8080\"", "\"0.0.0.0:8080\", maxHeaders: 7", &["app", "first", "here", "second"]),
        ("\"0.0.0.0:8080\"", "\"0.0.0.0:9090\"", &[]),
        ("hosts: [app]", "hosts: [app, application]", &["app"]),
        ("  web:", "  web: { endpoints: { static: [\"10.0.1.1:80\"] }, hosts: [web] }\n  unused:", &["web"]),
        // Takes requests from others, and is the only one that is not what it was.
        ("routes:\n", "routes:\n  - { name: taker, match: [{ path: { exact: /a } }], to: web }\n", &["taker"]),
    ] {
        assert_eq!(affected(&[(from, to)]), expected, "{from} -> {to}");
    }
    let gone = removed_routes(&config(BASE), &edited(&[("name: here", "name: there"), ("    hosts: [app]\n", "")]));
    assert_eq!(gone.into_iter().collect::<Vec<_>>(), ["app", "here"]);
}

/// The annotated file with every key, and what it leaves out.
fn rich() -> Json {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/proxy.yaml");
    let config = config(&fs::read_to_string(path).expect("the reference"));
    let mut json = serde_json::to_value(config.root()).expect("JSON");
    json["admin"]["explainToken"] = json!("secret-of-sixteen");
    json["state"] = json!({ "directory": "/var/lib/outrigger" });
    json["telemetry"]["audit"] = json!("stdout");
    json["routes"][1]["maxBody"] = json!({ "size": "1Mi", "mode": "shadow" });
    json["routes"][1]["timeout"] = json!({ "after": "3s", "mode": "off" });
    json
}

/// For every value, item and key of the rich configuration, one that differs in it, and one that lacks it.
fn mutations(rich: &Json) -> Vec<(String, Config)> {
    let mut pointers = Vec::new();
    walk_all(rich, String::new(), &mut pointers);
    // Of all items of a list, the first that have such a key stand for the others.
    let mut seen = BTreeMap::new();
    pointers.retain(|pointer| {
        let shape = pointer.replace(|digit: char| digit.is_ascii_digit(), "");
        let seen = seen.entry(shape).or_insert(0);
        *seen += 1;
        *seen <= 2
    });
    let texts: [fn(&str) -> String; 4] = [
        |text| format!("{text}x"),
        |text| format!("{text}1"),
        |text| format!("1{text}"),
        |text| text.replace("0.0.0", "1.0.0"),
    ];
    let mut all = Vec::new();
    for pointer in &pointers {
        let at = rich.pointer(pointer).expect("it is there");
        let mut values = match at {
            Json::Bool(value) => vec![json!(!value)],
            Json::Number(number) => vec![json!(number.as_f64().unwrap_or_default() as i64 + 1), json!(307)],
            Json::String(text) => {
                let words = ["off", "random", "http2", "text", "debug", "b3", "https", "mysql", "edge", "reviews/v1"];
                let is_word = text.chars().all(|c| c.is_ascii_alphanumeric() || c == '/');
                let words = words.into_iter().filter(|_| is_word).map(Json::from);
                texts.iter().map(|change| json!(change(text))).chain(words).collect()
            }
            Json::Array(items) if items.len() > 1 => vec![json!(items[1..])],
            _ => Vec::new(),
        };
        values.retain(|value| value != at);
        let parsed = |json: &Json| parse("t.yaml", &json.to_string(), &|_| None).ok();
        let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
        let mut without = rich.clone();
        let object = without.pointer_mut(parent).and_then(Json::as_object_mut);
        let without = object.is_some_and(|map| map.remove(key).is_some()).then(|| parsed(&without)).flatten();
        let changed = values.into_iter().find_map(|value| {
            let mut json = rich.clone();
            *json.pointer_mut(pointer).expect("it is there") = value;
            parsed(&json)
        });
        all.extend(changed.into_iter().chain(without).map(|mutant| (pointer.clone(), mutant)));
    }
    all
}

fn walk_all(json: &Json, at: String, found: &mut Vec<String>) {
    let escape = |key: &str| key.replace('~', "~0").replace('/', "~1");
    for (key, value) in json.as_object().into_iter().flatten() {
        walk_all(value, format!("{at}/{}", escape(key)), found);
    }
    for (index, value) in json.as_array().into_iter().flatten().enumerate() {
        walk_all(value, format!("{at}/{index}"), found);
    }
    found.extend((!at.is_empty()).then_some(at));
}

#[test]
fn every_change_of_one_key_is_told_and_nothing_else() {
    let written = rich();
    let (rich, mutations) = (config(&written.to_string()), mutations(&written));
    let mut told = BTreeSet::new();
    for (number, (pointer, mutant)) in mutations.iter().enumerate() {
        let found = changes(&rich, mutant);
        // A default that is no longer written is none.
        assert_eq!(found.is_empty(), mutant.digest() == rich.digest(), "{pointer}");
        assert_eq!(found.is_empty(), changes(mutant, &rich).is_empty(), "{pointer}");
        if !found.is_empty() {
            told.insert(pointer.as_str());
            assert_ne!(summary(&found), "nothing changed");
        }
        let routes = pointer.strip_prefix("/routes/").is_some_and(|rest| !rest.contains("/name"));
        let gone = removed_routes(&rich, mutant).len();
        if routes && !found.is_empty() && gone == 0 {
            assert!(!changed_routes(&rich, mutant).is_empty(), "{pointer}: {found:?}");
        }
        if number % 20 == 0 {
            let again = config(&serde_json::to_string(mutant.root()).expect("JSON"));
            assert_eq!(changes(mutant, &again), [], "{pointer}");
            assert!(changed_routes(mutant, &again).is_empty() && removed_routes(mutant, &again).is_empty());
            assert_eq!(summary(&changes(mutant, &again)), "nothing changed");
        }
    }
    assert!(told.len() > 150, "{} of {} places: {told:#?}", told.len(), mutations.len());
}

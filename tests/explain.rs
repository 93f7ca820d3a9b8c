//! `outrigger explain` by a file: why a request goes where it goes. By a running proxy: `explain_live.rs`.

mod common;

use std::process::Command;

use common::tell::{Told, outrigger, told};
use common::{TempDir, free_addr, tool};
use serde_json::{Value, json};

const NO_ROUTE: i32 = 2;

const RICH: &str = r#"apiVersion: outrigger/v1
attributes:
  env:
    from:
      - header: x-env
      - cookie: env
      - query: env
    lowercase: true
    values: [canary, prod]
    forward: x-env-is
  user: { from: [{ header: x-user }] }
defaults:
  connectTimeout: 700ms
listeners:
  - { name: edge, mode: proxy, address: "127.0.0.1:8080", maxHeaders: 50 }
  - { name: inner, mode: proxy, address: "127.0.0.1:8081" }
services:
  app:
    hosts: [app.test]
    endpoints:
      static:
        - { address: "127.0.0.1:3001", labels: { v: "1" } }
        - { address: "127.0.0.1:3002", labels: { v: "2" } }
        - { address: "127.0.0.1:3003", labels: { v: "2" }, weight: 0 }
        - { address: "127.0.0.1:3004" }
    subsets: { v1: { labels: { v: "1" } }, v2: { labels: { v: "2" } } }
    connections:
      max: 7
    loadBalancer: { policy: roundRobin }
  spare: { endpoints: { static: ["127.0.0.1:4001"] } }
routes:
  - name: any
    listeners: [edge]
    to: spare
  - name: split
    hosts: [reviews]
    split:
      - { to: app/v1, weight: 90 }
      - { to: app/v2, weight: 10 }
    sticky: { header: x-user }
    timeout: 2s
    maxBody: { size: 1Ki, mode: shadow }
    rewrite: { host: inner.test }
    requestHeaders: { remove: [x-internal], set: { authorization: Bearer abc }, add: { x-more: more } }
    responseHeaders: { set: { x-out: "1" } }
  - name: api
    hosts: [reviews]
    match:
      - path: { prefix: /api }
        cookies: { beta: "1" }
    to: app/v2
  - name: exact
    hosts: [reviews]
    match:
      - path: { exact: /api/x }
        methods: [POST]
      - path: { exact: /api/x }
        headers:
          x-ab: { regex: "user-[0-9]+" }
    to: app/v1
  - name: small
    hosts: [small.test]
    to: spare
    maxBody: 10
  - name: moved
    hosts: [moved.test]
    redirect: { scheme: https, host: new.test, status: 308 }
  - name: teapot
    hosts: [tea.test]
    respond: { status: 418, body: short }
"#;

/// `name:line` of the line of `RICH` that begins like this.
fn at(name: &str, line: &str) -> String {
    let found = RICH.lines().position(|text| text.trim_start().starts_with(line));
    format!("{name}:{}", found.unwrap_or_else(|| panic!("no line `{line}`")) + 1)
}

/// Explains by a file.
fn by_file(dir: &TempDir, config: &str, args: &[&str]) -> Told {
    let path = dir.file("e.yaml", config);
    let mut all = vec!["explain", "--config", path.to_str().expect("UTF-8")];
    all.extend_from_slice(args);
    outrigger(&all)
}

const ASKED: [&str; 8] =
    ["GET", "http://reviews/api/./x?q=1", "-H", "x-ab: nobody", "-H", "x-user: ada", "-H", "x-env: Canary"];

#[test]
fn json_holds_all_that_leads_to_a_decision() {
    let dir = TempDir::new("explain");
    let file = dir.path().join("e.yaml");
    let at = |line| at(file.to_str().expect("UTF-8"), line);
    let told = by_file(&dir, RICH, &[&ASKED[..], &["--format", "json"]].concat());
    assert_eq!((told.code, told.err.as_str()), (0, ""), "{told:?}");
    let all = told.json();
    assert_eq!(all["request"], json!({ "method": "GET", "host": "reviews", "path": "/api/x", "grpc": false }));
    assert_eq!((&all["generation"], &all["outcome"]), (&json!(0), &json!("forward")));
    assert_eq!((&all["listener"]["name"], &all["listener"]["place"]), (&json!("edge"), &json!(at("- { name: edge"))));

    // In order of precedence, whatever the order of the file; each with the first condition that does not hold.
    let candidates: Vec<String> = all["candidates"]
        .as_array()
        .expect("candidates")
        .iter()
        .map(|one| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let failed = &one["failed"];
            let failed = ["condition", "wanted", "found", "place"].map(|key| text(&failed[key])).join(" ");
            format!(
                "{} {} {}|{}|{failed}",
                text(&one["route"]),
                one["rule"],
                text(&one["standing"]),
                text(&one["place"])
            )
        })
        .collect();
    let exact = at("- path: { exact: /api/x }");
    let second = RICH.lines().enumerate().filter(|(_, line)| line.contains("exact: /api/x")).nth(1).expect("a line").0;
    let expected = [
        format!("exact 0 fails|{exact}|method `POST` `GET` {}", at("methods: [POST]")),
        format!(
            "exact 1 fails|{}:{}|header x-ab regex `user-[0-9]+` `nobody` {}",
            file.display(),
            second + 1,
            at("x-ab:")
        ),
        format!("api 0 fails|{}|cookie beta `1` none {}", at("- path: { prefix: /api }"), at("cookies: { beta")),
        format!("split null wins|{}|   ", at("- name: split")),
    ];
    assert_eq!(candidates[..4], expected, "{candidates:#?}");
    assert!(candidates[4].starts_with("any null notTried"), "{candidates:#?}");

    let route = &all["route"];
    assert_eq!((&route["name"], &route["place"]), (&json!("split"), &json!(at("- name: split"))));
    assert!(route["why"].as_str().is_some_and(|why| why.contains("3 more telling rules fail")), "{route}");
    assert_eq!(
        all["attributes"],
        json!([
            { "name": "env", "value": "canary", "from": "header x-env", "place": at("- header: x-env") },
            { "name": "user", "value": "ada", "from": "header x-user", "place": at("user: {") },
        ])
    );

    // The side belongs to the bucket, and the endpoints to the side.
    let bucket = all["split"]["bucket"].as_u64().expect("a bucket");
    assert_eq!(all["split"]["by"], "by its header x-user");
    let sides = all["sides"].as_array().expect("sides");
    let facts: Vec<_> = sides.iter().map(|side| (&side["to"], &side["share"], &side["buckets"])).collect();
    assert_eq!(
        facts,
        [(&json!("app/v1"), &json!(90.0), &json!([0, 9000])), (&json!("app/v2"), &json!(10.0), &json!([9000, 10_000]))]
    );
    for (side, range, port) in [(&sides[0], 0..9000, 3001), (&sides[1], 9000..10_000, 3002)] {
        assert_eq!(side["possible"], range.contains(&bucket), "{bucket}: {side}");
        assert_eq!(side["endpoints"], json!([{ "address": format!("127.0.0.1:{port}"), "weight": 1 }]));
        assert_eq!(side["excluded"].as_array().map(Vec::len), Some(3), "{side}");
    }
    let why: Vec<&str> =
        sides[0]["excluded"].as_array().expect("some").iter().filter_map(|e| e["why"].as_str()).collect();
    assert_eq!(
        why,
        ["label v is `2`, and subset v1 wants `1`", "its weight is 0", "it has no label v, and subset v1 wants `1`"]
    );

    let policies = all["policy"].as_array().expect("policies");
    let policy = |name: &str| {
        let one = policies.iter().find(|one| one["name"] == name).unwrap_or_else(|| panic!("no {name}: {policies:?}"));
        [&one["value"], &one["from"], &one["place"]].map(|value| value.as_str().unwrap_or("-").to_owned())
    };
    assert_eq!(policy("timeout"), ["2s", "route", &at("timeout: 2s")]);
    assert_eq!(policy("maxBody"), ["1Ki (shadow)", "route", &at("maxBody: { size: 1Ki")]);
    assert_eq!(policy("connectTimeout"), ["700ms", "defaults", &at("connectTimeout: 700ms")]);
    assert_eq!(policy("streamIdleTimeout"), ["5m", "built in", "-"]);
    assert_eq!(policy("retry"), ["none", "built in", "-"]);
    assert_eq!(policy("connections.max"), ["7", "service", &at("max: 7")]);
    assert_eq!(policy("loadBalancer.policy"), ["roundRobin", "service", &at("loadBalancer:")]);
    assert_eq!(policy("maxHeaders"), ["50", "listener", &at("- { name: edge")]);

    let edits: Vec<String> = all["edits"]
        .as_array()
        .expect("edits")
        .iter()
        .filter(|edit| edit["why"] != "the proxy")
        .map(|edit| ["on", "what", "name", "value"].map(|key| edit[key].as_str().unwrap_or("-")).join(" "))
        .collect();
    assert_eq!(
        edits,
        [
            "request set x-env-is canary",
            "request set host inner.test",
            "request remove x-internal -",
            "request set authorization [redacted]",
            "request add x-more more",
            "response set x-out 1",
        ]
    );
    let unknown = all["unknown"].as_array().expect("unknown");
    assert!(unknown.len() == 1 && unknown[0].as_str().is_some_and(|text| text.contains("1024 bytes")), "{unknown:?}");
}

#[test]
fn text_says_the_same_for_people() {
    let dir = TempDir::new("explain");
    let file = dir.path().join("e.yaml");
    let at = |line| at(file.to_str().expect("UTF-8"), line);
    let told = by_file(&dir, RICH, &ASKED);
    assert_eq!((told.code, told.err.as_str()), (0, ""), "{told:?}");
    told.says(&[
        "GET reviews/api/x",
        "edge on 127.0.0.1:8080",
        "- exact match[0]: method is `GET`, not `POST`",
        "- exact match[1]: header x-ab is `nobody`, not regex `user-[0-9]+`",
        "- api match[0]: cookie beta is none, not `1`",
        "+ split: every condition holds",
        "any: comes after",
        "split: all of its conditions hold; 3 more telling rules fail",
        "env = canary, from header x-env",
        "bucket ",
        "by its header x-user",
        "app/v1 90 %, buckets 0 to 8999",
        "app/v2 10 %, buckets 9000 to 9999",
        "- 127.0.0.1:3003: its weight is 0",
        "1Ki (shadow)",
        "request set authorization: [redacted]",
        "beyond 1024 bytes",
        &at("methods: [POST]"),
        &at("x-ab:"),
        &at("cookies: { beta"),
        &at("timeout: 2s"),
        &at("max: 7"),
    ]);
    assert!(!told.out.contains('\u{1b}'), "not a terminal: no colours");
    assert!(!told.out.contains("Bearer"), "a secret: {}", told.out);
    // The bucket is a property of the key.
    let json = by_file(&dir, RICH, &[&ASKED[..], &["--format", "json"]].concat()).json();
    told.says(&[&format!("bucket {} of 10000", json["split"]["bucket"])]);
}

#[test]
fn the_caller_the_listener_and_the_port_can_be_named() {
    let dir = TempDir::new("explain");
    let listener = |args: &[&str]| {
        let told = by_file(&dir, RICH, &[args, &["--format", "json"]].concat());
        assert_eq!(told.code, 0, "{told:?}");
        told.json()["listener"]["name"].clone()
    };
    assert_eq!(listener(&["http://reviews/"]), "edge");
    assert_eq!(listener(&["http://reviews/", "--listener", "inner"]), "inner");
    assert_eq!(listener(&["http://reviews/", "--port", "8081"]), "inner");
    assert_eq!(listener(&["http://reviews:8081/"]), "inner");
    assert_eq!(listener(&["reviews/x"]), "edge", "as curl takes it");
    // The route of all hosts is on one of the listeners only.
    let told = by_file(&dir, RICH, &["http://x.test/", "--port", "8081"]);
    assert_eq!(told.code, NO_ROUTE, "{told:?}");
    let told = by_file(&dir, RICH, &["http://x.test/", "--from", "spiffe://here/ns/a/sa/b"]);
    assert_eq!(told.code, 0, "{told:?}");
    told.says(&["spiffe://here/ns/a/sa/b"]);
}

#[test]
fn each_outcome_has_its_words_and_its_code() {
    let dir = TempDir::new("explain");
    for (args, code, outcome, says) in [
        (&["http://x.test/"][..], 0, "forward", &["any", "to spare", "127.0.0.1:4001"][..]),
        (&["http://moved.test/a"], 0, "redirect", &["redirect (308), scheme https, host new.test"]),
        (&["http://tea.test/"], 0, "respond", &["answer 418 of 5 bytes"]),
        (&["PUT", "http://small.test/", "-H", "content-length: 11"], 0, "refuse", &["413", "body_too_large"]),
        (&["http://a/", "-H", "content-length: x"], 0, "refuse", &["400", "bad_request"]),
        (&["http://app.test/", "--listener", "inner"], 0, "forward", &["app", "127.0.0.1:3004"]),
        (&["http://x.test/", "--listener", "inner"], NO_ROUTE, "noRoute", &["404", "no_route", "host is `x.test`"]),
    ] {
        let told = by_file(&dir, RICH, args);
        assert_eq!((told.code, told.err.as_str()), (code, ""), "{args:?}: {told:?}");
        told.says(says);
        let told = by_file(&dir, RICH, &[args, &["--format", "json"]].concat());
        assert_eq!((told.code, &told.json()["outcome"]), (code, &json!(outcome)), "{args:?}");
    }
    // More than anybody reads.
    let routes: String = (0..300)
        .map(|n| format!("  - {{ name: n{n}, match: [{{ path: {{ exact: /{n} }} }}], to: spare }}\n"))
        .collect();
    let told = by_file(&dir, &format!("{RICH}{routes}"), &["http://x.test/", "--format", "json"]);
    let all = told.json();
    let shown = all["candidates"].as_array().map_or(0, Vec::len);
    let before = all["moreCandidates"]["before"].as_u64();
    assert!(shown <= 101 && before >= Some(200), "{shown} of them, {}", all["moreCandidates"]);
    assert_eq!(all["route"]["name"], "any", "the winner is always shown");
}

/// A call has a deadline of its own; only a route that says so itself binds it. And one that is not understood is shown
/// as it came.
#[test]
fn a_grpc_call_is_not_bound_by_the_timeout_of_requests() {
    let dir = TempDir::new("explain");
    let timeout = |url: &str| {
        let told = by_file(&dir, RICH, &["POST", url, "-H", "content-type: application/grpc", "--format", "json"]);
        let all = told.json();
        assert_eq!(all["request"]["grpc"], true, "{told:?}");
        let policies = all["policy"].as_array().expect("policies");
        let found =
            policies.iter().find(|one| one["name"] == "timeout").map(|one| format!("{} {}", one["value"], one["from"]));
        found.unwrap_or_default()
    };
    assert_eq!(timeout("http://x.test/a.B/c"), r#""none for gRPC" "built in""#);
    assert_eq!(timeout("http://reviews/a.B/c"), r#""2s" "route""#);
    assert_eq!(timeout("http://reviews/%zz"), "");
}

#[test]
fn what_cannot_be_explained_is_one_clear_error() {
    let dir = TempDir::new("explain");
    for (args, parts) in [
        (&["GET", "http://a/", "-H", "no colon"][..], &["`no colon`", "name: value"][..]),
        (&["GET", "http://a/", "-H", "bad name: x"], &["`bad name: x`"]),
        (&["GET", "http://a/", "-H", "x: \u{1b}[2J"], &["is not a header"]),
        (&["G\u{1b}T", "http://a/"], &["is not a method"]),
        (&["GET", "ftp://a/"], &["`ftp`", "http"]),
        (&["GET", "http://"], &["names no host"]),
        (&["GET", "http://a/ \u{1b}[31mb"], &["target"]),
        (&["http://a/", "--listener", "nowhere"], &["`nowhere`", "`edge`", "`inner`"]),
        (&["http://a/", "--port", "1"], &["port 1", "`edge`"]),
    ] {
        let told = by_file(&dir, RICH, args);
        told.is_error(NO_ROUTE, parts);
        assert!(!told.err.contains('\u{1b}'), "no terminal obeys it: {told:?}");
    }
    for wrong in
        [&[][..], &["GET", "http://a/", "more"], &["http://a/", "--port", "x"], &["http://a/", "--format", "xml"]]
    {
        let told = by_file(&dir, RICH, wrong);
        assert_eq!((told.code, told.out.as_str()), (2, ""), "{wrong:?}: {told:?}");
        assert!(!told.err.is_empty());
    }
    let told = by_file(&dir, &RICH.replace("to: spare\n", "to: nowhere\n"), &["http://a/"]);
    assert_eq!((told.code, told.out.as_str()), (1, ""), "{told:?}");
    assert!(told.err.contains("e.yaml:") && told.err.contains("nowhere"), "{told:?}");
    let told = outrigger(&["explain", "--config", "/nonexistent/e.yaml", "http://a/"]);
    assert_eq!((told.code, told.err.contains("/nonexistent/e.yaml")), (1, true), "{told:?}");
    let nobody = free_addr().to_string();
    outrigger(&["explain", "http://a/", "--admin", &nobody]).is_error(3, &["no proxy answers", &nobody]);
}

#[test]
fn in_a_directory_each_place_names_its_own_file() {
    let dir = TempDir::new("explain-files");
    let (top, routes) = RICH.split_once("routes:\n").expect("routes");
    dir.file("10-top.yaml", top);
    dir.file("20-routes.yaml", format!("apiVersion: outrigger/v1\nroutes:\n{routes}"));
    let path = dir.path().to_str().expect("UTF-8").to_owned();
    let told = outrigger(&[&["explain", "--config", &path, "--format", "json"][..], &ASKED[..]].concat());
    assert_eq!(told.code, 0, "{told:?}");
    let all = told.json();
    let text = |pointer: &str| all.pointer(pointer).and_then(Value::as_str).unwrap_or("none").to_owned();
    let line = routes.lines().position(|line| line == "  - name: split").expect("a line") + 3;
    assert_eq!(text("/route/place"), format!("{path}/20-routes.yaml:{line}"));
    assert_eq!(text("/listener/place"), at(&format!("{path}/10-top.yaml"), "- { name: edge"));
    assert_eq!(text("/attributes/0/place"), at(&format!("{path}/10-top.yaml"), "- header: x-env"));
    assert!(text("/candidates/0/failed/place").starts_with(&format!("{path}/20-routes.yaml:")), "{all:#}");
}

/// Whatever a request carries, a terminal shows it and does not obey it; and the colours are colours.
#[test]
fn a_terminal_obeys_us_and_nobody_else() {
    let dir = TempDir::new("explain");
    let path = dir.file("e.yaml", RICH);
    let run = |no_color: &str| {
        let script = "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)";
        let output = Command::new(tool("python"))
            .args(["-c", script, env!("CARGO_BIN_EXE_outrigger"), "explain", "--config"])
            .arg(&path)
            .args(["http://reviews/api", "-H", "x-env: a\u{9b}31mb\u{202e}c", "-H", "cookie: beta=\u{85}\u{200f}"])
            .env("NO_COLOR", no_color)
            .env("TERM", "xterm")
            .output()
            .expect("run python");
        told(output)
    };
    for no_color in ["", "1"] {
        let told = run(no_color);
        assert_eq!(told.code, 0, "{told:?}");
        told.says(&["a\\u{9b}31mb\\u{202e}c", "\\u{85}\\u{200f}"]);
        assert!(!told.out.contains(['\u{9b}', '\u{202e}', '\u{85}', '\u{200f}']), "{told:?}");
        assert!(!told.out.contains("\\u{1b}"), "our own colours are not spelt out: {}", told.out);
        assert_eq!(told.out.contains('\u{1b}'), no_color.is_empty(), "{told:?}");
    }
    // What is put out with colours is the same text.
    let (plain, coloured) = (run("1").out, run("").out);
    let mut bare = String::new();
    for (n, part) in coloured.split("\u{1b}[").enumerate() {
        bare.push_str(if n == 0 { part } else { part.split_once('m').map_or("", |(_, text)| text) });
    }
    assert_eq!(bare, plain);
}

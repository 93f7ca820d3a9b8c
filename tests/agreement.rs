//! What really happens to a request, the header of its answer and `POST /explain` tell the same: over random
//! configurations on one proxy that is reloaded, on HTTP/1.1 and HTTP/2.

mod common;

use std::collections::HashMap;
use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use common::h2peer::call;
use common::tell::{explain, outrigger};
use common::{Conn, Origin, Proxy, TempDir};
use serde_json::{Value, json};

const CONFIGURATIONS: u64 = 40;
const REQUESTS: usize = 20;
const HEADER: &str = "x-outrigger-explain";

const TOP: &str = r#"apiVersion: outrigger/v1
admin: { address: "{admin}" }
health: { address: "{health}" }
runtime: { workers: 1, probation: 0s }
telemetry: { accessLog: { format: off } }
attributes:
  env: { from: [{ header: x-env }, { cookie: env }, { query: env }], lowercase: true, values: [canary, prod] }
  user: { from: [{ header: x-user }] }
listeners: [{ name: edge, mode: proxy, address: "{listen}" }]
services:
  app:
    endpoints:
      static:
        - { address: "{v1}", labels: { v: "1" } }
        - { address: "{v2}", labels: { v: "2" } }
    subsets: { v1: { labels: { v: "1" } }, v2: { labels: { v: "2" } } }
  named: { hosts: [named.test], endpoints: { static: ["{v3}"] } }
"#;

const PATHS: &[&str] = &[
    "",
    "path: { exact: /a }",
    "path: { exact: /a/b }",
    "path: { prefix: / }",
    "path: { prefix: /a }",
    "path: { prefix: /a/b }",
    r#"path: { template: "/{x}" }"#,
    r#"path: { template: "/a/{x}" }"#,
    r#"path: { template: "/{x}/b" }"#,
    r#"path: { template: "/{x}/{y}" }"#,
    r#"path: { regex: "/a.*" }"#,
    r#"path: { regex: "/[ab]/." }"#,
    "grpc: { service: a, method: b }",
    "grpc: { service: a }",
];
const CONDITIONS: &[&str] = &[
    "methods: [GET]",
    "methods: [GET, POST]",
    r#"headers: { x-a: "1" }"#,
    r#"headers: { X-A: "2", x-b: { present: true } }"#,
    "headers: { x-b: { prefix: p } }",
    "headers: { x-b: { present: false } }",
    r#"cookies: { c: "1" }"#,
    "cookies: { c: { suffix: s } }",
    r#"query: { q: "1" }"#,
    r#"query: { q: { regex: "[0-9]+" } }"#,
    "attributes: { env: canary }",
    "attributes: { env: { present: false } }",
    "from: { cidrs: [127.0.0.0/8] }",
    "from: { cidrs: [10.0.0.0/8] }",
];
/// Of `authorization`: its lists, and a mode.
const ENTRIES: &[&str] = &[
    "deny: [{ to: { methods: [PUT] } }]",
    "deny: [{ to: { paths: [{ prefix: /a/b }, { regex: \"/b.*\" }] } }]",
    "deny: [{ from: { cidrs: [10.0.0.0/8] } }]",
    "allow: [{ to: { hosts: [\"*.test\"], paths: [{ template: \"/{x}\" }] } }, { to: { headers: { x-a: { present: true } } } }]",
    "allow: [{ from: { cidrs: [127.0.0.1] } }]",
    "deny: [{ to: { headers: { x-b: { present: true } } } }], mode: shadow",
    "deny: [{}], mode: \"off\"",
];
const HOSTS: &[&str] = &[
    "",
    "",
    "hosts: [a.test], ",
    "hosts: [b.a.test, a.test], ",
    r#"hosts: ["*.test"], "#,
    r#"hosts: ["*.a.test", "*.test"], "#,
];
const ACTIONS: &[&str] = &[
    "to: app",
    "to: app/v1",
    "split: [{ to: app/v1, weight: 30 }, { to: app/v2, weight: 70 }], sticky: { header: x-user }",
    "split: [{ to: app/v1, weight: 1 }, { to: named, weight: 1 }], sticky: { attribute: user }",
    "split: [{ to: app/v2, weight: 2 }, { to: app/v1, weight: 1 }], sticky: { query: q }",
    "split: [{ to: app/v1, weight: 1 }, { to: app/v2, weight: 3 }]",
    "redirect: { host: other.test }",
    "respond: { status: 418 }",
    "to: app, maxBody: 10",
    "to: app, maxBody: { size: 10, mode: shadow }",
    "to: named, rewrite: { host: inner.test }",
];
const REQUEST_HOSTS: &[&str] = &["a.test", "b.a.test", "c.test", "A.TEST:80", "named.test", "x", "test"];
const REQUEST_PATHS: &[&str] = &[
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
    "/%zz",
];
const REQUEST_HEADERS: &[&str] = &[
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
];

/// Random numbers from a seed (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).expect("31 bits") % bound
    }

    fn pick<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.below(all.len())]
    }

    fn one_match(&mut self) -> String {
        let mut keys: Vec<&str> = Vec::new();
        let first = self.pick(PATHS);
        let others: Vec<&str> = (0..self.below(3)).map(|_| self.pick(CONDITIONS)).collect();
        for part in std::iter::once(first).chain(others).filter(|part| !part.is_empty()) {
            // A key stands in a mapping once.
            if keys.iter().all(|known| known.split(':').next() != part.split(':').next()) {
                keys.push(part);
            }
        }
        format!("{{ {} }}", keys.join(", "))
    }

    fn route(&mut self) -> String {
        let hosts = self.pick(HOSTS);
        let matches: Vec<String> = (0..self.below(4)).map(|_| self.one_match()).collect();
        let matches = if matches.is_empty() { String::new() } else { format!("match: [{}], ", matches.join(", ")) };
        format!("{hosts}{matches}{}", self.pick(ACTIONS))
    }

    /// None, mostly, so that something is let through.
    fn authorization(&mut self) -> String {
        let entries = (0..self.below(6).saturating_sub(3)).map(|_| self.pick(ENTRIES));
        let entries = entries.enumerate().map(|(index, entry)| format!("{{ name: a{index}, {entry} }}"));
        entries.collect::<Vec<_>>().join(", ")
    }

    fn request(&mut self) -> Asked {
        let method = self.pick(&["GET", "GET", "POST", "PUT"]);
        let (host, path) = (self.pick(REQUEST_HOSTS), self.pick(REQUEST_PATHS));
        let mut headers: Vec<String> = (0..self.below(6)).map(|_| self.pick(REQUEST_HEADERS).to_owned()).collect();
        headers.sort_by_key(|line| line.split(':').next().map(str::to_owned));
        headers.dedup_by_key(|line| line.split(':').next().map(str::to_owned));
        let body = if method == "GET" { 0 } else { [0, 9, 11][self.below(3)] };
        if body > 0 {
            headers.push(format!("content-length: {body}"));
        }
        Asked { method, host, path, headers, body }
    }
}

#[derive(Debug)]
struct Asked {
    method: &'static str,
    host: &'static str,
    path: &'static str,
    headers: Vec<String>,
    body: usize,
}

/// What came back.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: HashMap<String, String>,
    body: String,
}

/// A configuration of what is valid of these routes: `check` tells what is not.
fn valid(dir: &TempDir, proxy: &Proxy, mut routes: Vec<String>, entries: &str, number: u64) -> String {
    loop {
        let top = format!("{TOP}workload: {{ version: \"{number}\" }}\n");
        let mut text = format!("{top}authorization: [{entries}]\nroutes:\n");
        for (index, route) in routes.iter().enumerate() {
            let mark = format!("responseHeaders: {{ set: {{ x-route: r{index} }} }}");
            writeln!(text, "  - {{ name: r{index}, {route}, {mark} }}").expect("a string");
        }
        if routes.is_empty() {
            text.push_str("  - { name: r0, to: app, responseHeaders: { set: { x-route: r0 } } }\n");
        }
        let file = dir.file("next.yaml", proxy.fill(&text));
        let told = outrigger(&["check", "--config", file.to_str().expect("UTF-8")]);
        if told.code == 0 {
            return text;
        }
        let named = told.err.split("routes[").skip(1).filter_map(|rest| rest.split(']').next()?.parse().ok());
        let mut wrong: Vec<usize> = named.filter(|index| *index < routes.len()).collect();
        assert!(!wrong.is_empty(), "{}\n{text}", told.err);
        wrong.sort_unstable();
        wrong.dedup();
        // Of two that are the same, the other may stay.
        routes.remove(wrong[wrong.len() - 1]);
    }
}

fn send(proxy: &Proxy, asked: &Asked, http2: bool) -> Answer {
    let Asked { method, host, path, headers, body } = asked;
    let body = "x".repeat(*body);
    let lines = headers.iter().filter_map(|line| line.split_once(": "));
    if http2 {
        let builder = http::Request::builder().method(*method).uri(format!("http://{host}{path}")).header(HEADER, "1");
        let request = lines.fold(builder, |builder, (name, value)| builder.header(name, value)).body(());
        let reply = call(proxy.addr(), request.expect("a request"), body.as_bytes(), None).expect("an answer");
        let headers = reply.head.headers.iter();
        let headers = headers.map(|(name, value)| (name.to_string(), value.to_str().expect("text").to_owned()));
        let body = String::from_utf8(reply.body).expect("text");
        return Answer { status: reply.head.status.as_u16(), headers: headers.collect(), body };
    }
    let mut conn = Conn::connect(proxy.addr());
    let lines: String = lines.map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    conn.write(format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{HEADER}: 1\r\n{lines}\r\n{body}"
    ));
    let reply = conn.response(method);
    let headers = reply.head.lines().into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value));
    Answer { status: reply.status(), headers: headers.collect(), body: reply.text() }
}

/// What is wrong with the answer, by the explanation.
fn disagreement(explained: &Value, answer: &Answer, backends: &HashMap<String, &str>) -> Option<String> {
    let Some(header) = answer.headers.get(HEADER) else { return Some("no header".to_owned()) };
    let pairs: HashMap<&str, &str> = header.split("; ").filter_map(|pair| pair.split_once('=')).collect();
    let pair = |key: &str| pairs.get(key).copied().unwrap_or("");
    let text = |pointer: &str| explained.pointer(pointer).and_then(Value::as_str).unwrap_or("");
    let differ = |what: &str, told: &str, happened: &str| {
        (told != happened).then(|| format!("{what}: explained as `{told}`, and it was `{happened}`"))
    };
    let outcome = text("/outcome");
    let grpc = explained["request"]["grpc"] == true;
    let rule = explained["route"]["rule"].as_u64().map(|rule| rule.to_string()).unwrap_or_default();
    let generation = explained["generation"].to_string();
    let status = match outcome {
        "forward" => 200,
        "redirect" => 302,
        "respond" => 418,
        _ => explained["reason"]["status"].as_u64().unwrap_or_default(),
    };
    // A gRPC client gets 200 for whatever the proxy refuses, and what is no gRPC upstream may fail it.
    let status = if grpc { None } else { differ("status", &status.to_string(), &answer.status.to_string()) };
    let found = differ("route", text("/route/name"), pair("route"))
        .or_else(|| differ("match", &rule, pair("match")))
        .or_else(|| differ("generation", &generation, pair("generation")))
        .or(status);
    if found.is_some() || outcome == "noRoute" || outcome == "refuse" {
        return found.or_else(|| {
            differ("reason", text("/reason/code"), pair("reason"))
                .filter(|_| outcome == "noRoute" || outcome == "refuse")
        });
    }
    // The mark that the route itself sets; routes that a service implies have none.
    let mark = answer.headers.get("x-route").map_or("", String::as_str);
    if text("/route/name").starts_with('r') && !grpc && mark != text("/route/name") {
        return differ("mark", text("/route/name"), mark);
    }
    if outcome != "forward" {
        return None;
    }
    let sides: Vec<&Value> = explained["sides"].as_array()?.iter().filter(|side| side["possible"] == true).collect();
    let Some(side) = sides.iter().find(|side| side["to"] == pair("to")) else {
        return Some(format!("to {}, which is none of {sides:?}", pair("to")));
    };
    if !explained["split"].is_null() {
        let (number, how) = pair("bucket").split_once(' ').unwrap_or_default();
        let sticky = explained["split"]["bucket"].as_u64();
        let bucket: u64 = number.parse().unwrap_or(u64::MAX);
        let within = side["buckets"][0].as_u64() <= Some(bucket) && Some(bucket) < side["buckets"][1].as_u64();
        if sticky.is_some_and(|sticky| sticky != bucket || sides.len() != 1) || !within {
            return Some(format!("bucket {bucket} of {explained:#}"));
        }
        if (how == "(sticky)") != sticky.is_some() {
            return Some(format!("{how}, and {}", explained["split"]));
        }
    }
    let endpoints = side["endpoints"].as_array()?;
    if !endpoints.iter().any(|endpoint| endpoint["address"] == pair("endpoint")) {
        return Some(format!("{} is none of {endpoints:?}", pair("endpoint")));
    }
    let backend = backends.get(pair("endpoint")).copied().unwrap_or("nobody");
    if grpc && answer.status == 200 && answer.body.is_empty() { None } else { differ("backend", backend, &answer.body) }
}

#[test]
fn the_answer_the_header_and_the_explanation_agree() {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| now.as_nanos() as u64 | 1);
    let seed = std::env::var("OUTRIGGER_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(clock);
    println!("OUTRIGGER_SEED={seed}");
    let mut dice = Dice(seed | 1);
    let origins = ["v1", "v2", "v3"].map(|name| (name, Origin::named(name)));
    let fills: Vec<_> = origins.iter().map(|(name, origin)| (*name, origin.addr())).collect();
    let backends: HashMap<String, &str> = fills.iter().map(|(name, addr)| (addr.to_string(), *name)).collect();
    let proxy = Proxy::start(&format!("{TOP}routes: [{{ name: first, to: app }}]\n"), &fills);
    let dir = TempDir::new("agreement");
    let mut outcomes: HashMap<String, usize> = HashMap::new();
    for number in 0..CONFIGURATIONS {
        let routes = (0..dice.below(10) + 1).map(|_| dice.route()).collect();
        let entries = dice.authorization();
        let config = valid(&dir, &proxy, routes, &entries, number);
        proxy.reload_with(&config);
        for request in 0..REQUESTS {
            let asked = dice.request();
            let url = format!("http://{}{}", asked.host, asked.path);
            let from = "127.0.0.1";
            let question = json!({ "method": asked.method, "url": url, "headers": asked.headers, "from": from });
            let explained = explain(&proxy, &question);
            let http2 = request % 2 == 1;
            let answer = send(&proxy, &asked, http2);
            if let Some(what) = disagreement(&explained, &answer, &backends) {
                panic!("{what}\nseed {seed}, http2 {http2}\n{config}\n{asked:?}\n{answer:?}\n{explained:#}");
            }
            *outcomes.entry(explained["outcome"].to_string()).or_default() += 1;
        }
    }
    assert!(outcomes.len() == 5, "every kind of outcome is met: {outcomes:?}");
}

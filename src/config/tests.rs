//! Whole configurations, good and bad: what is accepted, and what is said where about the rest.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;

mod authorization;
mod circuit;
mod health;
mod limits;
mod reference;
mod secrets;
mod sockets;
mod tcp;
mod tls;

const HEAD: &str = "\
apiVersion: outrigger/v1
listeners: [{ name: edge, mode: proxy, address: \"0.0.0.0:8080\" }]
services:
  app: { endpoints: { static: [{ address: \"127.0.0.1:3000\", labels: { v: \"1\" } }] }, subsets: { one: { labels: { v: \"1\" } } } }
  raw: { protocol: tcp, endpoints: { static: [\"127.0.0.1:3306\"] } }
attributes: { env: { from: [{ header: x-env }], lowercase: true, values: [canary, prod] } }
";

/// Stands in the texts below before what a problem is to point at.
const POINT: char = '▸';

fn no_env(_: &str) -> Option<String> {
    None
}

fn env(name: &str) -> Option<String> {
    match name {
        "PORT" => Some("8081".to_owned()),
        "MANY" => Some("7".to_owned()),
        "YES" => Some("true".to_owned()),
        _ => None,
    }
}

fn problems(text: &str) -> Vec<Problem> {
    parse("t.yaml", text, &no_env).err().map(|report| report.problems().to_vec()).unwrap_or_default()
}

/// `line:column path: message | remedy` of each problem.
fn said(problems: &[Problem]) -> Vec<String> {
    let line = |p: &Problem| {
        let place = p.place.as_ref().map(|place| format!("{}:{}", place.line, place.column)).unwrap_or_default();
        format!("{place} {}: {} | {}", p.path, p.message, p.remedy.as_deref().unwrap_or_default())
    };
    problems.iter().map(line).collect()
}

/// Expects one problem, there: `path: message | remedy`.
#[track_caller]
fn only(text: &str, expected: &str) {
    let at = text.find(POINT).expect("a place in the text");
    let before = &text[..at];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    let text = text.replace(POINT, "");
    assert_eq!(said(&problems(&text)), [format!("{line}:{column} {expected}")], "{text}");
}

/// A directory that is removed in the end.
pub(super) struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("outrigger-config-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("a temporary directory");
        Self(path)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).expect("a file in it");
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_shortest_useful_file_loads() {
    let text = "\
apiVersion: outrigger/v1
listeners: [{ name: edge, mode: proxy, address: \"0.0.0.0:8080\" }]
services: { app: { endpoints: { static: [\"127.0.0.1:3000\"] } } }
routes: [{ name: all, to: app }]
";
    let config = parse("t.yaml", text, &no_env).expect("a configuration");
    assert_eq!(config.routes.len(), 1);
    assert_eq!(config.defaults.timeout.as_secs(), 15);
    assert_eq!(config.dump()["listeners"][0]["maxHeaderBytes"], "64Ki");
    assert_eq!(config.place("routes[0].to").map(|place| (place.line, place.column)), Some((4, 27)));
    assert!(!config.is_tcp_listener("edge"));
    let again = parse("u.yaml", &text.replace("[{ name: all", "  # why\n  [{ timeout: , name: all"), &no_env);
    assert_eq!(again.map(|again| again.digest().to_owned()).ok().as_deref(), Some(config.digest()));
    assert!(config.digest().len() == 64 && config.digest().bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')));
    let other = parse("t.yaml", &text.replace("3000", "3001"), &no_env).expect("a configuration");
    assert_ne!(other.digest(), config.digest());
}

#[test]
fn files_that_are_not_a_configuration() {
    for (text, expected) in [
        ("", "1:1 : the file is empty | "),
        ("# nothing\n", "1:1 : the file is empty | "),
        ("just text", "1:1 : a configuration is a mapping, and this is text | begin with `apiVersion: outrigger/v1`"),
        ("a: [1\n", "1:4 : not YAML that can be read: "),
        ("a: b: c\n", "1:5 : not YAML that can be read: "),
        ("a: *no\n", "1:4 : not YAML that can be read: "),
        ("a: !x 1\n", "1:7 : not YAML that can be read: "),
        ("a: 1\na: 2\n", "2:1 : `a` is there twice | keys are unique within a mapping"),
        ("a: 1\n---\nb: 2\n", "3:1 : more than one YAML document | one file, one document"),
        ("\u{1}\u{0}", "1:1 : not YAML that can be read: "),
    ] {
        let said = said(&problems(text));
        assert!(said.first().is_some_and(|said| said.starts_with(expected)), "{text:?}: {said:?}");
    }
    let deep = format!("a: {}", "[".repeat(10_000));
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        bomb += &format!("a{level}: &a{level} [{}]\n", vec![format!("*a{}", level - 1); 10].join(", "));
    }
    for text in [deep, bomb, "- ".repeat(10_000)] {
        assert!(said(&problems(&text)).iter().any(|said| said.contains("not YAML that can be read")));
    }
}

const BY_THE_SCHEMA: &[(&str, &str)] = &[
    ("routes: [{ name: a, to: app, ▸timeot: 2s }]", "routes[0].timeot: unknown key `timeot` | did you mean `timeout`?"),
    ("admin: { ▸xyzzy: 1 }", "admin.xyzzy: unknown key `xyzzy` | expected `address` or `explainToken`"),
    ("defaults: { retry: { attempts: ▸11 } }", "defaults.retry.attempts: 11 is out of range | from 0 to 10"),
    ("routes: [{ name: a, to: app, ▸slo: {} }]", "routes[0].slo: `slo` is not supported by this version | remove it"),
    (
        "telemetry: { tracing: { ▸sample: 1 } }",
        "telemetry.tracing.sample: `sample` is not supported by this version | remove it",
    ),
    ("routes: [▸{ to: app }]", "routes[0]: `name` is missing | add `name: …`"),
    ("▸routes: { a: 1 }", "routes: expected a list, found a mapping | "),
    (
        "defaults: { timeout: ▸5 }",
        "defaults.timeout: expected a duration, found a number | write it with its unit: `5ms` or `5s`",
    ),
    (
        "defaults: { timeout: ▸5sec }",
        "defaults.timeout: `5sec` is not a duration (such as `250ms`, `10s`, `1m30s`, `1h`) | ",
    ),
    ("runtime: { workers: ▸0 }", "runtime.workers: 0 is out of range | from 1 to 1024"),
    ("runtime: { workers: ▸aut }", "runtime.workers: unknown value `aut` | did you mean `auto`?"),
    ("runtime: { workers: ▸1.5 }", "runtime.workers: expected `auto` or a whole number, found a number | "),
    ("runtime: { workers: ▸\"2\" }", "runtime.workers: unknown value `2` | expected `auto` or a whole number"),
    (
        "telemetry: { accessLog: { sample: { others: ▸101 } } }",
        "telemetry.accessLog.sample.others: 101 is out of range | from 0 to 100",
    ),
    (
        "telemetry: { log: { level: ▸loud } }",
        "telemetry.log.level: unknown value `loud` | expected `error`, `warn`, `info`, `debug` or `trace`",
    ),
    (
        "admin: { address: ▸\"15000\" }",
        "admin.address: `15000` is not an address `ip:port` | write it like `0.0.0.0:15000` or `[::]:8080`",
    ),
    ("workload: { version: ▸1.0 }", "workload.version: expected text, found a number | write it in quotes"),
    (
        "routes: [{ name: ▸a/b, to: app }]",
        "routes[0].name: `a/b` is not a name (letters, digits, `.`, `_`, `-`; at most 253) | ",
    ),
    (
        "routes: [{ name: a, to: app, match: [{ ▸path: {} }] }]",
        "routes[0].match[0].path: one of `exact`, `prefix`, `template` or `regex` is missing | ",
    ),
    (
        "routes: [{ name: a, to: app, match: [{ path: { prefix: /a, ▸exact: /a } }] }]",
        "routes[0].match[0].path.exact: only one of `exact`, `prefix`, `template` or `regex` may be there | remove the others",
    ),
    (
        "routes: [{ name: a, to: app, match: [{ path: { exact: ▸\"/a?b\" } }] }]",
        "routes[0].match[0].path.exact: `/a?b` has a query, and a path has none | parameters are matched by `query: { name: value }`",
    ),
    (
        "routes: [{ name: a, to: app, match: [{ path: { template: ▸\"/{a}/{a}\" } }] }]",
        "routes[0].match[0].path.template: `{a}` is there twice | give each its own name",
    ),
    (
        "routes: [{ name: a, to: app, match: [{ methods: [▸get] }] }]",
        "routes[0].match[0].methods[0]: `get` is not in upper case | write `GET`",
    ),
    (
        "routes: [{ name: a, to: app, match: [{ headers: { ▸\"a b\": x } }] }]",
        "routes[0].match[0].headers[\"a b\"]: `a b` is not a header name | ",
    ),
    (
        "routes: [{ name: a, to: app, match: [{ headers: { a: { regex: ▸\"(\" } } }] }]",
        "routes[0].match[0].headers.a.regex: `(` is not a regular expression: unclosed group | ",
    ),
    (
        "routes: [{ name: a, to: app, hosts: [▸\"a:80\"] }]",
        "routes[0].hosts[0]: `a:80` is not a host name or `*.` and a host name | without a port: `a`",
    ),
    ("routes: [{ name: a, ▸split: [] }]", "routes[0].split: there is nothing in it | it needs one item at least"),
    (
        "routes: [{ name: a, split: [{ to: app, weight: ▸-1 }] }]",
        "routes[0].split[0].weight: -1 is out of range | at least 0",
    ),
    (
        "routes: [{ name: a, to: app, maxBody: ▸10MB }]",
        "routes[0].maxBody: `10MB` is not a size (such as `64Ki`, `10Mi`, `1Gi` or a number of bytes) | ",
    ),
];

#[test]
fn what_the_schema_refuses() {
    for (text, expected) in BY_THE_SCHEMA {
        only(&format!("{HEAD}{text}\n"), expected);
    }
    only(
        "apiVersion: ▸outrigger/v2\nlisteners: [{ name: a, mode: proxy, address: \"[::1]:1\" }]\n",
        "apiVersion: `outrigger/v2` is not supported by this version | this version speaks `outrigger/v1`",
    );
}

#[test]
fn what_services_and_listeners_are_refused_for() {
    let head =
        "apiVersion: outrigger/v1\nlisteners: [{ name: edge, mode: proxy, address: \"0.0.0.0:8080\" }]\nservices:\n";
    for (text, expected) in [
        (
            "endpoints: { static: [▸app:80] }",
            "services.s.endpoints.static[0]: `app:80` is not `ip:port`, `[ip]:port` or an IP address | names are looked up with `endpoints: { dns: { name: app, port: 80 } }`",
        ),
        (
            "endpoints: { ▸static: [] }",
            "services.s.endpoints.static: there is no endpoint | add `ip:port` of one at least",
        ),
        (
            "endpoints: { static: [▸10.0.0.1] }",
            "services.s.endpoints.static[0]: the endpoint has no port | add `port: …` to `services.s`",
        ),
        (
            "port: 1, endpoints: { static: [10.0.0.1, ▸\"10.0.0.1:1\"] }",
            "services.s.endpoints.static[1]: endpoint 10.0.0.1:1 is there twice | give one of them more `weight` instead",
        ),
        (
            "endpoints: { ▸static: [{ address: \"10.0.0.1:1\", weight: 0 }] }",
            "services.s.endpoints.static: the weights sum to zero, so nothing can be sent | give one a weight above 0",
        ),
        (
            "endpoints: { ▸dns: { name: a } }",
            "services.s.endpoints.dns: there is no port to connect to | add `port: …` here or to `services.s`",
        ),
        (
            "endpoints: { ▸kubernetes: {} }",
            "services.s.endpoints.kubernetes: `kubernetes` is not supported by this version | remove it",
        ),
        (
            "port: 1, endpoints: { static: [10.0.0.1] }, subsets: { ▸v1: { labels: { v: a } } }",
            "services.s.subsets.v1: no endpoint has these labels | change the labels here, or those of an endpoint",
        ),
        (
            "port: 1, endpoints: { static: [10.0.0.1] }, connections: { idleTimeout: ▸0s }",
            "services.s.connections.idleTimeout: must be longer than 0s | write a time, such as `1s`",
        ),
        (
            "port: 1, endpoints: { static: [10.0.0.1] }, loadBalancer: { policy: ▸maglev }",
            "services.s.loadBalancer.policy: there is no `hashKey` to hash | add `hashKey` with one of `header`, `cookie`, `query`, `attribute` or `source: address`",
        ),
        (
            "port: 1, endpoints: { static: [10.0.0.1] }, hosts: [a, ▸A]",
            "services.s.hosts[1]: host `A` is there twice | the first is at t.yaml:4:60",
        ),
        (
            "protocol: tcp, port: 1, endpoints: { static: [10.0.0.1] }, ▸hosts: [a]",
            "services.s.hosts: tcp has no host names to ask by | remove it; a route with `to` leads to a tcp service",
        ),
    ] {
        only(&format!("{head}  s: {{ {text} }}\n"), expected);
    }
    for (text, expected) in [
        (
            "▸listeners: []",
            "listeners: there is no listener, so nothing can arrive | add `listeners: [{ name: edge, mode: proxy, address: \"0.0.0.0:8080\" }]`",
        ),
        (
            "listeners:\n- { name: a, mode: proxy, address: \"0.0.0.0:1\" }\n- { name: ▸a, mode: proxy, address: \"0.0.0.0:2\" }",
            "listeners[1].name: `a` is there twice | the first is at t.yaml:3:11",
        ),
        (
            "listeners:\n- { name: a, mode: proxy, address: \"0.0.0.0:1\" }\n- { name: b, mode: proxy, address: ▸\"127.0.0.1:1\" }",
            "listeners[1].address: 127.0.0.1:1 is taken by listener `a` (0.0.0.0:1, t.yaml:3:36) | use another port",
        ),
        (
            "listeners: [{ name: a, mode: proxy, address: ▸\"[::1]:15020\" }]",
            "listeners[0].address: [::1]:15020 is taken by `health` (0.0.0.0:15020, by default) | use another port",
        ),
        (
            "listeners: [{ name: a, mode: proxy, address: \"[::1]:1\", headerTimeout: ▸0s }]",
            "listeners[0].headerTimeout: must be longer than 0s | write a time, such as `1s`",
        ),
        (
            "admin: { address: ▸\"10.0.0.1:1\" }\nlisteners: [{ name: a, mode: proxy, address: \"[::1]:2\" }]",
            "admin.address: the admin endpoints must never be reachable from off the pod | use a loopback address such as `127.0.0.1:1`",
        ),
    ] {
        only(&format!("apiVersion: outrigger/v1\n{text}\n"), expected);
    }
}

const ROUTES: &[(&str, &str)] = &[
    ("to: ▸ap", "routes[0].to: there is no service `ap` | did you mean `app`?"),
    ("to: ▸app/two", "routes[0].to: service `app` has no subset `two` | `app` has `one`"),
    ("to: ▸app/on", "routes[0].to: service `app` has no subset `on` | did you mean `app/one`?"),
    (
        "to: app, ▸respond: { status: 200 }",
        "routes[0].respond: `to` and `respond` exclude each other | keep one of them",
    ),
    ("to: app, ▸sticky: { header: x }", "routes[0].sticky: `sticky` is for `split` only | remove it, or use `split`"),
    (
        "split: [{ to: app, weight: 1 }], sticky: { attribute: ▸en }",
        "routes[0].sticky.attribute: there is no attribute `en` | did you mean `env`?",
    ),
    ("▸split: [{ to: app, weight: 0 }]", "routes[0].split: the weights sum to zero | give one side a weight above 0"),
    ("to: app, listeners: [▸edgy]", "routes[0].listeners[0]: there is no listener `edgy` | did you mean `edge`?"),
    (
        "to: app, match: [{ attributes: { env: ▸canry } }]",
        "routes[0].match[0].attributes.env: attribute `env` never has the value `canry` | did you mean `canary`?",
    ),
    (
        "to: app, match: [{ attributes: { ▸tenant: x } }]",
        "routes[0].match[0].attributes.tenant: there is no attribute `tenant` | there is `env`",
    ),
    (
        "to: app, match: [{ ▸grpc: {} }]",
        "routes[0].match[0].grpc: `grpc` names neither a service nor a method | add `service: package.Service`",
    ),
    (
        "to: app, rewrite: { prefix: ▸/ }, match: [{ path: { exact: /a } }]",
        "routes[0].rewrite.prefix: there is a match without the prefix that this replaces | give every match a `path: { prefix: … }`, or replace the whole `path`",
    ),
    (
        "to: app, rewrite: { prefix: /, path: ▸/ }",
        "routes[0].rewrite.path: `prefix` and `path` exclude each other | keep one of them",
    ),
    (
        "respond: { status: 200 }, ▸rewrite: { path: / }",
        "routes[0].rewrite: `rewrite` is for what goes upstream: with `to` or `split` only | remove it",
    ),
    (
        "▸redirect: { status: 308 }",
        "routes[0].redirect: the redirect leads back to itself | change `scheme`, `host`, `port`, `path` or `prefix`",
    ),
    (
        "hosts: [a.b], ▸redirect: { host: A.b }",
        "routes[0].redirect: the redirect leads back to itself | change `scheme`, `host`, `port`, `path` or `prefix`",
    ),
    (
        "redirect: { scheme: https, status: ▸304 }",
        "routes[0].redirect.status: 304 is not the status of a redirect | one of 301, 302, 303, 307 and 308",
    ),
    (
        "to: app, requestHeaders: { set: { ▸Host: x } }",
        "routes[0].requestHeaders.set.Host: `Host` belongs to the proxy | use `rewrite: { host: … }`",
    ),
    (
        "to: app, responseHeaders: { remove: [▸Connection] }",
        "routes[0].responseHeaders.remove[0]: `Connection` belongs to the proxy | remove it",
    ),
    (
        "to: app, requestHeaders: { set: { x: ▸\"a\\nb\" } }",
        "routes[0].requestHeaders.set.x: `a\\nb` is not a header value | visible characters, spaces and tabs only",
    ),
    (
        "to: raw, ▸match: [{ path: { prefix: / } }]",
        "routes[0].match: `match` is about HTTP, and this route leads to a service of `protocol: tcp` | remove it",
    ),
    (
        "split: [{ to: raw, weight: 1 }, ▸{ to: app, weight: 1 }]",
        "routes[0].split[1]: a split leads to services of `protocol: tcp` only, or to none | use another service",
    ),
];

#[test]
fn what_routes_are_refused_for() {
    for (text, expected) in ROUTES {
        only(&format!("{HEAD}routes:\n  - {{ {text}, name: r }}\n"), expected);
    }
    only(
        &format!("{HEAD}routes:\n  - ▸name: r\n    timeout: 1s\n"),
        "routes[0]: the route does not say what to do | add one of `to`, `split`, `redirect` or `respond`",
    );
}

#[test]
fn routes_that_can_never_be_reached() {
    for (text, expected) in [
        (
            "- { name: a, to: app, match: [{ path: { prefix: /a/ }, headers: { X-A: b } }, {}] }\n- { name: ▸b, to: app, match: [{ headers: { x-a: { exact: b } }, path: { prefix: /a } }] }",
            "routes[1].name: route `b` can never be reached: route `a` matches the same | change or remove one of them (`a` is at t.yaml:8:11)",
        ),
        (
            "- { name: a, to: app, hosts: [x, Y] }\n- { name: ▸b, to: app, hosts: [y], match: [{ path: { prefix: / } }] }",
            "routes[1].name: route `b` can never be reached: route `a` matches the same | change or remove one of them (`a` is at t.yaml:8:11)",
        ),
        (
            "- { name: a, to: app }\n- ▸{ name: b, to: raw }",
            "routes[1]: route `b` can never be reached: no listener is tcp | give it `listeners: [name]`, or a listener `protocol: tcp`",
        ),
    ] {
        only(&format!("{HEAD}routes:\n{text}\n"), expected);
    }
    let reachable = "- { name: a, to: app, hosts: [x] }\n- { name: b, to: app, hosts: [x, y] }\n- { name: c, to: app }";
    assert_eq!(said(&problems(&format!("{HEAD}routes:\n{reachable}\n"))), [""; 0]);
}

#[test]
fn all_problems_are_reported_at_once() {
    let text = format!(
        "{HEAD}routes:\n  - {{ name: a, to: ap, timeot: 2s }}\n  - {{ name: a, to: app, timeout: 5 }}\nadmin: {{ adress: x }}\n"
    );
    let expected = [
        "8:20 routes[0].to: there is no service `ap` | did you mean `app`?",
        "8:24 routes[0].timeot: unknown key `timeot` | did you mean `timeout`?",
        "9:13 routes[1].name: `a` is there twice | the first is at t.yaml:8:13",
        "9:34 routes[1].timeout: expected a duration or a mapping, found a number | write it with its unit: `5ms` or `5s`",
        "10:10 admin.adress: unknown key `adress` | did you mean `address`?",
    ];
    assert_eq!(said(&problems(&text)), expected);
}

#[test]
fn one_mistake_is_one_problem() {
    for text in [
        "routes: [{ name: a, tp: app }]",
        "routes: [{ name: a, to: a2 }]\nservices: { a2: { endpoints: { static: [x] } } }",
    ] {
        let head = "apiVersion: outrigger/v1\nlisteners: [{ name: edge, mode: proxy, address: \"0.0.0.0:8080\" }]\n";
        assert_eq!(said(&problems(&format!("{head}{text}\n"))).len(), 1, "{text}");
    }
}

#[test]
fn values_come_from_the_environment() {
    let text = format!("{HEAD}routes: [{{ name: a, respond: {{ status: 200, body: \"${{NO:-x}} $${{PORT}}\" }} }}]\n");
    let text = text.replace("0.0.0.0:8080\"", "0.0.0.0:${PORT}\", maxHeaders: \"${MANY}\", halfClose: \"${YES}\"");
    let config = parse("t.yaml", &text, &env).expect("a configuration");
    assert_eq!(config.listeners[0].address.port(), 8081);
    assert_eq!((config.listeners[0].max_headers, config.listeners[0].half_close), (7, true));
    assert_eq!(config.routes[0].respond.as_ref().map(|respond| respond.body.as_str()), Some("x ${PORT}"));
    only(
        &format!("{HEAD}runtime: {{ workers: ▸\"${{NO}}\" }}\n"),
        "runtime.workers: the environment variable `NO` is not set | set it, or write `${NO:-default}`",
    );
}

#[test]
fn directories_are_merged_by_name() {
    let scratch = Scratch::new("merge");
    scratch.write("10.yaml", &format!("{HEAD}routes: [{{ name: a, to: app }}]\n"));
    scratch.write("20.yml", "apiVersion: outrigger/v1\nservices: { b: { port: 1, endpoints: { static: [10.0.0.1] } } }\nroutes: [{ name: b, hosts: [b], to: b }]\n");
    scratch.write(".hidden.yaml", "{");
    scratch.write("notes.txt", "{");
    let config = load(&scratch.0, &no_env).expect("a configuration");
    assert_eq!((config.routes.len(), config.services.len(), config.files().len()), (2, 3, 2));

    scratch.write("30.yaml", "runtime: {}\nservices: { app: {} }\nroutes: [{ name: c, hosts: [c], to: app }, { name: b, hosts: [c], to: nope }]\n");
    scratch.write("40.yaml", "apiVersion: v2\nruntime: {}\n");
    let report = load(&scratch.0, &no_env).expect_err("problems");
    let file = |name: &str| scratch.0.join(name).display().to_string();
    let places: Vec<String> =
        report.problems().iter().flat_map(|problem| problem.place.as_ref().map(merge::at)).collect();
    let expected = [
        format!("{}:1:1", file("30.yaml")),
        format!("{}:2:13", file("30.yaml")),
        format!("{}:3:52", file("30.yaml")),
        format!("{}:3:71", file("30.yaml")),
        format!("{}:1:13", file("40.yaml")),
        format!("{}:2:1", file("40.yaml")),
    ];
    assert_eq!(places, expected, "{report}");
    assert_eq!(report.problems()[3].path, "routes[1].to", "{report}");
    for first in
        [format!("{}:4:3", file("10.yaml")), format!("{}:3:18", file("20.yml")), format!("{}:1:1", file("30.yaml"))]
    {
        assert!(
            report.problems().iter().any(|p| p.remedy.as_ref().is_some_and(|r| r.contains(&first))),
            "{first}: {report}"
        );
    }
}

#[test]
fn files_that_cannot_be_read() {
    let scratch = Scratch::new("unreadable");
    for (path, expected) in [
        (scratch.0.join("none.yaml"), "cannot read"),
        (scratch.0.clone(), "there is no `*.yaml` file"),
        (PathBuf::from("/dev/zero"), "not a regular file"),
    ] {
        let report = load(&path, &no_env).expect_err("a problem").to_string();
        assert!(report.contains(expected), "{report}");
    }
    let path = scratch.0.join("bytes.yaml");
    fs::write(&path, b"a: 1\nb: \xff\xfe").expect("a file");
    let report = load(&path, &no_env).expect_err("a problem");
    assert_eq!(report.problems()[0].place.as_ref().map(|place| (place.line, place.column)), Some((2, 4)));
    fs::write(&path, vec![b' '; (tree::FILE_BYTES_MAX + 1) as usize]).expect("a file");
    assert!(load(&path, &no_env).expect_err("a problem").to_string().contains("larger than 16 MiB"));
}

#[test]
fn endpoint_files() {
    let path = Path::new("e.yaml");
    let good = "- 10.0.0.1\n- { address: \"[::1]:2\", labels: { v: a }, zone: z, weight: 3 }\n";
    let endpoints_found = endpoints(path, good, Some(1)).expect("endpoints");
    assert_eq!(endpoints_found[0].address.to_string(), "10.0.0.1:1");
    assert_eq!((endpoints_found[1].zone.as_deref(), endpoints_found[1].weight), (Some("z"), 3));
    assert_eq!(endpoints(path, "[]", None), Ok(vec![]));
    for (text, expected) in [
        ("", "1:1 : the file is empty | "),
        ("a: 1", "1:1 : expected a list of endpoints, found a mapping | write `- 10.0.0.1:80`, line by line"),
        ("- 10.0.0.1", "1:3 [0]: the endpoint has no port | write `ip:port`, or give the service a `port`"),
        ("- {}", "1:3 [0]: `address` is missing | add `address: …`"),
        ("- { address: \"1.1.1.1:1\", weigth: 1 }", "1:27 [0].weigth: unknown key `weigth` | did you mean `weight`?"),
        (
            "- 1.1.1.1:1\n- 1.1.1.1:1",
            "2:3 [1]: endpoint 1.1.1.1:1 is there twice | give one of them more `weight` instead",
        ),
    ] {
        let report = endpoints(path, text, None).expect_err("a problem");
        assert_eq!(said(report.problems()), [expected], "{text}");
    }
}

#[test]
fn secrets_are_not_dumped() {
    let text = format!(
        "{HEAD}admin: {{ explainToken: s3-of-sixteen-letters }}\n\
         routes: [{{ name: a, to: app, requestHeaders: {{ set: {{ Authorization: s3, x-a: b }} }} }}]\n"
    );
    let dump = parse("t.yaml", &text, &no_env).expect("a configuration").dump().to_string();
    assert!(!dump.contains("s3") && dump.contains("\"x-a\":\"b\""), "{dump}");
}

proptest! {
    #[test]
    fn no_text_panics(text in ".{0,200}") {
        let _ = parse("t.yaml", &text, &env).map_err(|report| report.to_string());
        let _ = endpoints(Path::new("e"), &text, None).map_err(|report| report.to_string());
    }

    #[test]
    fn no_damage_panics(at in 0usize..4000, length in 0usize..40, junk in "[-{}\\[\\]:,&*!|>'\"%@`#?~$ \n\ta0é]{0,8}") {
        let text = fs::read_to_string(reference::repository("config/proxy.yaml")).unwrap_or_default();
        let skip = |n: usize| text.char_indices().nth(n).map_or(text.len(), |(index, _)| index);
        let damaged = format!("{}{junk}{}", &text[..skip(at)], &text[skip(at + length)..]);
        let _ = parse("t.yaml", &damaged, &env).map_err(|report| report.to_string());
    }
}

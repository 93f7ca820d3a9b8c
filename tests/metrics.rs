//! `/metrics`: exact counts, closed labels, a bound on series, and both formats as their readers want them.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};

use common::h2peer::{H2Origin, call, request};
use common::{Conn, Message, Origin, Proxy, SOON, Setup, pattern, tool, until};
use http::{HeaderMap, HeaderValue};
use regex::Regex;

const OPEN: &str = "Accept: application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5\r\n";

fn scrape(proxy: &Proxy, accept: &str) -> Message {
    let mut conn = Conn::connect(proxy.place("health"));
    conn.write(format!("GET /metrics HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n{accept}\r\n"));
    conn.response("GET")
}

fn send(conn: &mut Conn, method: &str, path: &str, body: &str) -> u16 {
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    conn.write(format!("{method} {path} HTTP/1.1\r\nHost: app.test\r\n{length}\r\n{body}"));
    conn.response(method).status()
}

type Labels = BTreeMap<String, String>;

/// One sample of an exposition.
struct Sample {
    name: String,
    labels: Labels,
    value: f64,
}

fn samples(text: &str) -> Vec<Sample> {
    let line = Regex::new(r#"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$"#).expect("a pattern");
    let label = Regex::new(r#"([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\.)*)"(?:,|$)"#).expect("a pattern");
    let parse = |text: &str| {
        let found = line.captures(text).unwrap_or_else(|| panic!("no sample: `{text}`"));
        let set = found.get(2).map_or("", |set| set.as_str());
        let labels: BTreeMap<_, _> = label.captures_iter(set).map(|l| (l[1].to_owned(), l[2].to_owned())).collect();
        assert_eq!(labels.len(), label.find_iter(set).count(), "a label twice: `{text}`");
        assert_eq!(label.replace_all(set, ""), "", "`{text}`");
        Sample { name: found[1].to_owned(), labels, value: found[3].parse().expect("a number") }
    };
    text.lines().filter(|line| !line.starts_with('#')).map(parse).collect()
}

/// A proxy that has seen some of everything, so that there is a series of everything.
fn busy() -> (Proxy, Origin) {
    let origin = Origin::echo();
    let top = "workload: { name: web, namespace: shop, version: v1 }";
    let proxy = Setup { top, ..Setup::default() }.start(origin.addr());
    let mut conn = Conn::connect(proxy.addr());
    for method in ["GET", "POST", "BREW"] {
        assert_eq!(send(&mut conn, method, "/", "body"), 200);
    }
    call(proxy.addr(), request("POST", "/a.B/C", &[("content-type", "application/grpc")]), b"", None).ok();
    common::send(proxy.addr(), "garbage\r\n\r\n");
    proxy.await_metric("outrigger_worker_requests_malformed_total", &[], 1.0);
    (proxy, origin)
}

#[test]
fn promtool_has_nothing_to_say() {
    let (proxy, _origin) = busy();
    for accept in ["", "Accept: text/plain\r\n"] {
        let reply = scrape(&proxy, accept);
        assert!(
            reply.head.get("content-type").is_some_and(|kind| kind.starts_with("text/plain; version=0.0.4")),
            "{:?}",
            reply.head
        );
        let mut child = Command::new(tool("promtool"))
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start promtool");
        child.stdin.take().expect("stdin").write_all(&reply.body).expect("write");
        let output = child.wait_with_output().expect("promtool");
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
    }
}

#[test]
fn open_metrics_to_the_letter() {
    let (proxy, _origin) = busy();
    let reply = scrape(&proxy, OPEN);
    let kind = reply.head.get("content-type").unwrap_or_default();
    assert_eq!(kind, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let text = reply.text();
    assert!(text.ends_with("\n# EOF\n") && text.matches("# EOF").count() == 1);
    let (mut families, mut current): (BTreeMap<String, String>, Option<String>) = Default::default();
    let mut seen = BTreeSet::new();
    for line in text.lines().filter(|line| *line != "# EOF") {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type");
            assert!(families.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} is there twice");
            current = Some(name.to_owned());
        } else if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a help");
            assert!(help.len() > 3, "{line}");
            assert!(current.as_deref().is_none_or(|c| c == name) || !families.contains_key(name), "{line}");
        } else if let Some(rest) = line.strip_prefix("# UNIT ") {
            let (name, unit) = rest.split_once(' ').expect("a unit");
            assert!(name.ends_with(&format!("_{unit}")), "{line}");
        } else {
            let family = current.as_deref().unwrap_or_else(|| panic!("before any type: {line}"));
            let sample = samples(line).pop().expect("a sample");
            let suffixes: &[&str] = match families[family].as_str() {
                "counter" => &["_total"],
                "histogram" => &["_bucket", "_sum", "_count"],
                "gauge" => &[""],
                "info" => &["_info"],
                other => panic!("{family} is {other}"),
            };
            assert!(suffixes.iter().any(|suffix| sample.name == format!("{family}{suffix}")), "{line} of {family}");
            assert!(seen.insert((sample.name, sample.labels)), "twice: {line}");
        }
    }
    // The older format has the same names and labels.
    let names = |text: &str| samples(text).into_iter().map(|s| (s.name, s.labels)).collect::<BTreeSet<_>>();
    // A connection that ends between the two scrapes may begin a series: then they are taken again.
    common::until("both formats have the same series", common::SOON, || {
        names(&scrape(&proxy, "").text()) == names(&scrape(&proxy, OPEN).text())
    });
}

#[test]
fn histograms_add_up() {
    let (proxy, _origin) = busy();
    let mut buckets: BTreeMap<(String, Labels), Vec<(f64, f64)>> = BTreeMap::new();
    let all = samples(&scrape(&proxy, "").text());
    for sample in all.iter().filter(|sample| sample.name.ends_with("_bucket")) {
        let mut labels = sample.labels.clone();
        let le = labels.remove("le").expect("a bound").replace("+Inf", "inf");
        let name = sample.name.trim_end_matches("_bucket").to_owned();
        buckets.entry((name, labels)).or_default().push((le.parse().expect("a bound"), sample.value));
    }
    assert!(buckets.len() >= 3);
    for ((name, labels), buckets) in buckets {
        assert!(buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{name} {labels:?}: {buckets:?}");
        let last = buckets.last().expect("a bucket");
        let count = all.iter().find(|s| s.name == format!("{name}_count") && s.labels == labels).expect("a count");
        assert!(last.0.is_infinite() && (last.1 - count.value).abs() < 0.5, "{name}: {last:?}");
    }
}

/// Names and labels of the tables in the documentation.
fn documented() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let text = include_str!("../docs/metrics.md");
    let mut found = BTreeMap::new();
    for section in text.split("\n## ") {
        let inherited: &[&str] = match section.lines().next() {
            Some("Traffic") => &["direction", "listener", "route", "service", "subset"],
            Some("Workers") => &["worker"],
            _ => &[],
        };
        for line in section.lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            if let [_, name, kind @ ("counter" | "gauge" | "histogram"), labels, ..] = cells[..] {
                let more = labels.trim_matches('`').split_whitespace();
                let labels = inherited.iter().copied().chain(more).map(str::to_owned).collect();
                found.insert(name.trim_matches('`').to_owned(), (kind.to_owned(), labels));
            }
        }
    }
    assert!(found.len() > 30, "{found:?}");
    found
}

#[test]
fn documentation_and_binary_agree() {
    let (proxy, _origin) = busy();
    let text = scrape(&proxy, "").text();
    let documented = documented();
    let types: BTreeMap<String, String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
        .collect();
    let told: BTreeMap<String, String> =
        documented.iter().map(|(name, (kind, _))| (name.clone(), kind.clone())).collect();
    for (name, kind) in &types {
        assert_eq!(told.get(name), Some(kind), "{name} in docs/metrics.md");
    }
    for (name, kind) in &told {
        assert_eq!(types.get(name), Some(kind), "{name} in /metrics");
    }
    for sample in samples(&text) {
        let base = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| sample.name.strip_suffix(suffix))
            .filter(|base| told.contains_key(*base));
        let (_, labels) = &documented[base.unwrap_or(&sample.name)];
        let has: BTreeSet<String> = sample.labels.keys().filter(|key| *key != "le").cloned().collect();
        assert_eq!(&has, labels, "labels of {}", sample.name);
    }
}

#[test]
fn exact_counts() {
    let origin = Origin::echo();
    let config = r#"apiVersion: outrigger/v1
admin: { address: "{admin}" }
health: { address: "{health}" }
runtime: { workers: 2 }
listeners: [{ name: edge, mode: proxy, address: "{listen}" }]
services:
  app: { endpoints: { static: [{ address: "{up}", labels: { version: v1 } }] }, subsets: { v1: { labels: { version: v1 } } } }
  gone: { endpoints: { static: ["{spare}"] } }
routes:
  - { name: all, to: app/v1 }
  - { name: gone, match: [{ path: { prefix: /gone } }], to: gone }
  - { name: tea, match: [{ path: { exact: /tea } }], respond: { status: 418, body: tea } }
  - { name: only, hosts: [only.test], match: [{ path: { exact: /x } }], respond: { status: 200 } }
"#;
    let proxy = Proxy::start(config, &[("up", origin.addr())]);
    // Several connections, so that both workers count.
    for _ in 0..4 {
        let mut conn = Conn::connect(proxy.addr());
        for _ in 0..5 {
            assert_eq!(send(&mut conn, "GET", "/some/path?x=1", ""), 200);
        }
        for _ in 0..3 {
            assert_eq!(send(&mut conn, "POST", "/", "0123456789"), 200);
        }
        assert_eq!(send(&mut conn, "GET", "/tea", ""), 418);
        assert_eq!(send(&mut conn, "GET", "/gone", ""), 503);
        assert_eq!(send(&mut conn, "BREW", "/", ""), 200);
    }
    let edge = [("direction", "proxy"), ("listener", "edge")];
    let total = |more: &[(&str, &str)]| proxy.metric("http_requests_total", &[&edge, more].concat()) as u64;
    until("all are counted", SOON, || total(&[]) == 44);
    let app = [("route", "all"), ("service", "app"), ("subset", "v1"), ("status_code", "200"), ("reason", "")];
    assert_eq!(total(&[&app[..], &[("method", "GET")]].concat()), 20);
    assert_eq!(total(&[&app[..], &[("method", "POST")]].concat()), 12);
    assert_eq!(total(&[&app[..], &[("method", "other")]].concat()), 4);
    let own = [("service", ""), ("subset", "")];
    assert_eq!(
        total(&[&own[..], &[("route", "tea"), ("status_code", "418"), ("reason", "direct_response")]].concat()),
        4
    );
    assert_eq!(
        total(&[("route", "gone"), ("service", "gone"), ("status_code", "503"), ("reason", "connect_failed")]),
        4
    );
    let histogram = |name: &str, part: &str, route: &str| {
        proxy.metric(&format!("{name}_{part}"), &[&edge[..], &[("route", route)]].concat())
    };
    assert_eq!(histogram("http_request_duration_seconds", "count", "all") as u64, 36);
    let seconds = histogram("http_request_duration_seconds", "sum", "all");
    assert!(seconds > 0.0 && seconds < 36.0, "{seconds}");
    assert_eq!(histogram("http_request_size_bytes", "count", "all") as u64, 36);
    assert_eq!(histogram("http_request_size_bytes", "sum", "all") as u64, 120);
    assert_eq!(histogram("http_response_size_bytes", "sum", "all") as u64, 120, "the echo");
    assert_eq!(histogram("http_response_size_bytes", "sum", "tea") as u64, 12);
    assert_eq!(proxy.metric("http_requests_in_flight", &[]) as u64, 0);
    assert_eq!(proxy.metric("outrigger_worker_connections_accepted_total", &[]) as u64, 4);

    let mut conn = Conn::connect(proxy.addr());
    conn.write("GET /y HTTP/1.1\r\nHost: only.test\r\n\r\n");
    assert_eq!(conn.response("GET").status(), 200, "the route without a host");
    proxy.reload("  - { name: all, to: app/v1 }\n", "");
    assert_eq!(send(&mut conn, "GET", "/nothing", ""), 404);
    until("no route", SOON, || total(&[("route", ""), ("status_code", "404"), ("reason", "no_route")]) == 1);
}

#[test]
fn grpc_calls_are_counted_by_their_code() {
    let origin = H2Origin::echo();
    let proxy = Setup { service: ", protocol: http2", ..Setup::default() }.start(origin.addr);
    for (status, times) in [("0", 5), ("5", 2), ("14", 1)] {
        for _ in 0..times {
            let head =
                request("POST", "/shop.Reviews/Get", &[("content-type", "application/grpc"), ("te", "trailers")]);
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static(status));
            let reply = call(proxy.addr(), head, b"\0\0\0\0\x01x", Some(trailers)).expect("an answer");
            assert_eq!(reply.head.status, 200);
        }
    }
    for side in ["grpc_server_handled_total", "grpc_client_handled_total"] {
        for (code, times) in [("OK", 5), ("NOT_FOUND", 2), ("UNAVAILABLE", 1)] {
            let labels = [("route", "all"), ("service", "app"), ("grpc_code", code)];
            until(&format!("{side} {code}"), SOON, || proxy.metric(side, &labels) as u64 == times);
        }
    }
    // What the proxy answers itself is the server's side alone.
    drop(call(proxy.addr(), request("POST", "/a/b", &[]), b"", None));
    assert_eq!(proxy.metric("grpc_server_handled_total", &[]) as u64, 8, "only gRPC is counted as gRPC");
}

#[test]
fn no_label_comes_from_a_request() {
    let origin = Origin::ok();
    let proxy = Proxy::front(origin.addr());
    let hammer = |from: u64, to: u64| {
        let mut conn = Conn::connect(proxy.addr());
        for n in from..to {
            let word: String = pattern(n * 2 + 1, 8).iter().map(|b| char::from(b'a' + b % 26)).collect();
            let method = if n % 3 == 0 { format!("EVIL{}", word.to_uppercase()) } else { "GET".to_owned() };
            conn.write(format!(
                "{method} /evil-{word}?evil={word} HTTP/1.1\r\nHost: evil-{word}.test\r\nUser-Agent: evil-{word}\r\n\
                 X-Request-Id: evil-{word}\r\nContent-Type: application/grpc+evil{word}\r\n\r\n"
            ));
            conn.response("GET");
        }
        until("all are counted", SOON, || proxy.metric("http_requests_total", &[]) as u64 == to);
        let text = scrape(&proxy, "").text();
        assert!(!text.to_lowercase().contains("evil"), "{text}");
        text.lines().filter(|line| line.starts_with("http_") || line.starts_with("grpc_")).count()
    };
    let few = hammer(0, 30);
    assert_eq!(hammer(30, 600), few, "series grow with requests");
}

#[test]
fn series_are_bounded() {
    let origin = Origin::ok();
    let routes: String =
        (0..300).map(|n| format!("  - {{ name: r{n}, match: [{{ path: {{ exact: /r{n} }} }}], to: app }}\n")).collect();
    let config = format!(
        r#"apiVersion: outrigger/v1
admin: {{ address: "{{admin}}" }}
health: {{ address: "{{health}}" }}
runtime: {{ workers: 1 }}
telemetry: {{ metrics: {{ maxSeries: 1000 }}, accessLog: {{ format: off }} }}
listeners: [{{ name: edge, mode: proxy, address: "{{listen}}" }}]
services: {{ app: {{ endpoints: {{ static: ["{{up}}"] }} }} }}
routes:
{routes}"#
    );
    let proxy = Proxy::start(&config, &[("up", origin.addr())]);
    let mut conn = Conn::connect(proxy.addr());
    for n in 0..300 {
        assert_eq!(send(&mut conn, "GET", &format!("/r{n}"), ""), 200);
    }
    until("all are counted", SOON, || proxy.metric("http_requests_total", &[]) as u64 == 300);
    let text = scrape(&proxy, "").text();
    let traffic = text.lines().filter(|line| line.starts_with("http_") || line.starts_with("grpc_")).count();
    assert!(traffic <= 1000, "{traffic} series");
    let names: BTreeSet<String> = samples(&text).into_iter().filter_map(|mut s| s.labels.remove("route")).collect();
    assert!(names.contains("other") && names.len() > 5 && names.len() < 40, "{names:?}");
    let other =
        proxy.metric("http_requests_total", &[("route", "other"), ("service", "other"), ("subset", "other")]) as usize;
    assert_eq!(other, 300 - (names.len() - 1), "each is counted once, by its name or as other");
    let overflow = proxy.metric("outrigger_metrics_series_overflow_total", &[]) as usize;
    assert!(overflow >= other, "{overflow} of {other}");
    for n in 0..300 {
        assert_eq!(send(&mut conn, "GET", &format!("/r{n}"), ""), 200);
    }
    until("all are counted", SOON, || proxy.metric("http_requests_total", &[]) as u64 == 600);
    assert_eq!(proxy.metric("outrigger_metrics_series_overflow_total", &[]) as usize, overflow, "once a combination");
}

#[test]
fn the_process_tells_of_itself() {
    let (proxy, _origin) = busy();
    let one = |name: &str, labels: &[(&str, &str)]| proxy.metric(name, labels);
    assert_eq!(one("outrigger_build_info", &[("version", env!("CARGO_PKG_VERSION"))]) as u64, 1);
    assert_eq!(one("outrigger_workload_info", &[("name", "web"), ("namespace", "shop"), ("version", "v1")]) as u64, 1);
    assert_eq!(one("outrigger_config_last_reload_successful", &[]) as u64, 1);
    assert_eq!(one("outrigger_config_generation", &[]) as u64, 1);
    assert_eq!(one("outrigger_drain_phase", &[("phase", "running")]) as u64, 1);
    assert_eq!(one("outrigger_drain_phase", &[]) as u64, 1, "one phase at a time");
    assert_eq!(one("outrigger_draining", &[]) as u64, 0);
    let (rss, _) = proxy.memory();
    let told = one("process_resident_memory_bytes", &[]) / 1024.0;
    assert!((told - rss as f64).abs() < 4096.0, "{told} and {rss} KiB");
    assert!(one("process_open_fds", &[]) > 5.0 && one("process_threads", &[]) > 1.0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("now").as_secs_f64();
    let age = now - one("process_start_time_seconds", &[]);
    assert!((-2.0..60.0).contains(&age), "{age}");
}

//! Which endpoint gets a request (splits, subsets, policies), and how long it may take.

mod common;

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use common::h2peer::{call, request};
use common::origin::{Gate, Next};
use common::{Conn, Origin, Proxy, SOON, Setup, until};

/// Asks on one connection with these headers, and returns the body of the answer.
fn ask(conn: &mut Conn, headers: &str) -> String {
    conn.write(format!("GET / HTTP/1.1\r\nHost: app.test\r\n{headers}\r\n"));
    let reply = conn.response("GET");
    assert_eq!(reply.status(), 200, "{reply:?}");
    reply.text()
}

/// How often each answers, over so many requests.
fn tally(proxy: &Proxy, requests: usize) -> BTreeMap<String, usize> {
    let mut conn = Conn::connect(proxy.addr());
    (0..requests).fold(BTreeMap::new(), |mut tally, _| {
        *tally.entry(ask(&mut conn, "")).or_default() += 1;
        tally
    })
}

/// Endpoints `{a}`, `{b}`, `{c}`, and what else a service and its route say.
fn three(service: &str, route: &str) -> (Proxy, [Origin; 3]) {
    let origins = ["a", "b", "c"].map(Origin::named);
    let config = format!(
        r#"apiVersion: outrigger/v1
admin: {{ address: "{{admin}}" }}
health: {{ address: "{{health}}" }}
runtime: {{ workers: 1 }}
telemetry: {{ accessLog: {{ format: off }} }}
listeners: [{{ name: edge, mode: proxy, address: "{{listen}}" }}]
services:
  app: {{ {service} }}
routes:
  - {{ name: all, {route} }}
"#
    );
    let [a, b, c] = &origins;
    let fills: [(&str, SocketAddr); 3] = [("a", a.addr()), ("b", b.addr()), ("c", c.addr())];
    (Proxy::start(&config, &fills), origins)
}

const VERSIONS: &str = r#"endpoints: { static: [{ address: "{a}", labels: { version: v1 } }, { address: "{b}", labels: { version: v2 } }] }, subsets: { v1: { labels: { version: v1 } }, v2: { labels: { version: v2 } } }"#;

#[test]
fn ninety_to_ten() {
    let (proxy, _origins) = three(VERSIONS, "split: [{ to: app/v1, weight: 90 }, { to: app/v2, weight: 10 }]");
    let shares = tally(&proxy, 5000);
    // Five standard deviations of 5,000 draws are 106.
    let ten = shares.get("b").copied().unwrap_or_default();
    assert!((394..=606).contains(&ten), "{shares:?}");
    assert_eq!(shares.values().sum::<usize>(), 5000);
    let counted = |subset: &str| proxy.metric("http_requests_total", &[("route", "all"), ("subset", subset)]) as usize;
    until("what was counted is what was sent", SOON, || (counted("v1"), counted("v2")) == (5000 - ten, ten));
    proxy.reload("weight: 90 }, { to: app/v2, weight: 10", "weight: 0 }, { to: app/v2, weight: 0.5");
    assert_eq!(tally(&proxy, 200), BTreeMap::from([("b".to_owned(), 200)]), "a weight of zero takes nothing");
}

#[test]
fn sticky_keys_stay_and_never_move_back() {
    for (sticky, key) in [("header: x-user-id", "X-User-Id: {}\r\n"), ("cookie: user", "Cookie: a=b; user={}\r\n")] {
        let route = "split: [{ to: app/v1, weight: 100 }, { to: app/v2, weight: 0 }], sticky: { STICKY }";
        let (proxy, _origins) = three(VERSIONS, &route.replace("STICKY", sticky));
        let mut conn = Conn::connect(proxy.addr());
        let mut moved: HashSet<usize> = HashSet::new();
        let mut weight = 0;
        for next in [1, 5, 15, 30, 60, 100] {
            let text = |weight: i32| format!("weight: {} }}, {{ to: app/v2, weight: {weight} }}", 100 - weight);
            proxy.reload(&text(weight), &text(next));
            weight = next;
            let mut now = HashSet::new();
            for user in 0..300 {
                let header = key.replace("{}", &format!("user-{user}"));
                let side = ask(&mut conn, &header);
                if user % 10 == 0 {
                    assert_eq!(ask(&mut conn, &header), side, "the same key, the same side");
                }
                if side == "b" {
                    now.insert(user);
                }
            }
            assert!(now.is_superset(&moved), "{sticky}: moved back at {weight}: {:?}", moved.difference(&now));
            moved = now;
            // Five standard deviations of 300 keys.
            let share = moved.len() as f64 - 3.0 * f64::from(weight);
            assert!(share.abs() <= 44.0, "{} of 300 keys at {weight}", moved.len());
        }
        assert_eq!(moved.len(), 300);
    }
}

#[test]
fn round_robin_is_exact_and_follows_weights() {
    let (proxy, _origins) =
        three(r#"endpoints: { static: ["{a}", "{b}", "{c}"] }, loadBalancer: { policy: roundRobin }"#, "to: app");
    assert_eq!(tally(&proxy, 300).into_values().collect::<Vec<_>>(), [100, 100, 100]);
    let weighted = r#"endpoints: { static: [{ address: "{a}", weight: 3 }, { address: "{b}", weight: 1 }, { address: "{c}", weight: 0 }] }, loadBalancer: { policy: roundRobin }"#;
    let (proxy, _origins) = three(weighted, "to: app");
    let shares = tally(&proxy, 400);
    assert_eq!(shares, BTreeMap::from([("a".to_owned(), 300), ("b".to_owned(), 100)]));
}

#[test]
fn random_and_least_request_follow_weights() {
    for policy in ["random", "leastRequest"] {
        let service = format!(
            r#"endpoints: {{ static: [{{ address: "{{a}}", weight: 3 }}, {{ address: "{{b}}" }}, {{ address: "{{c}}", weight: 0 }}] }}, loadBalancer: {{ policy: {policy} }}"#
        );
        let (proxy, _origins) = three(&service, "to: app");
        let shares = tally(&proxy, 2000);
        let first = shares.get("a").copied().unwrap_or_default();
        assert!(!shares.contains_key("c"), "{policy}: {shares:?}");
        // Five standard deviations of 2,000 draws are 97.
        assert!((1403..=1597).contains(&first), "{policy}: {shares:?}");
    }
}

#[test]
fn least_request_avoids_a_busy_endpoint() {
    let gate = Gate::default();
    let (busy, idle) = (Origin::gated("busy", &gate), Origin::named("idle"));
    let config = r#"apiVersion: outrigger/v1
admin: { address: "{admin}" }
health: { address: "{health}" }
runtime: { workers: 1 }
listeners: [{ name: edge, mode: proxy, address: "{listen}" }]
services:
  app: { endpoints: { static: [{ address: "{busy}", labels: { b: "1" } }, "{idle}"] }, subsets: { busy: { labels: { b: "1" } } } }
routes:
  - { name: slow, match: [{ path: { prefix: /slow } }], to: app/busy }
  - { name: all, to: app }
"#;
    let proxy = Proxy::start(config, &[("busy", busy.addr()), ("idle", idle.addr())]);
    let mut held: Vec<Conn> = (0..20)
        .map(|_| {
            let mut conn = Conn::connect(proxy.addr());
            conn.write("GET /slow HTTP/1.1\r\nHost: app.test\r\n\r\n");
            conn
        })
        .collect();
    busy.nth(20);
    let shares = tally(&proxy, 200);
    assert_eq!(shares.get("idle").copied().unwrap_or_default(), 200, "of two that are drawn it is one: {shares:?}");
    gate.open();
    held.iter_mut().for_each(|conn| assert_eq!(conn.response("GET").status(), 200));
}

#[test]
fn subsets_choose_by_labels() {
    let service = r#"endpoints: { static: [{ address: "{a}", labels: { v: "1", z: x } }, { address: "{b}", labels: { v: "1" } }, { address: "{c}" }] }, loadBalancer: { policy: roundRobin }, subsets: { one: { labels: { v: "1" } }, both: { labels: { v: "1", z: x } } }"#;
    let (proxy, _origins) = three(service, "to: app/one");
    assert_eq!(tally(&proxy, 40), BTreeMap::from([("a".to_owned(), 20), ("b".to_owned(), 20)]));
    proxy.reload("to: app/one", "to: app/both");
    assert_eq!(tally(&proxy, 20), BTreeMap::from([("a".to_owned(), 20)]));
    proxy.reload("to: app/both", "to: app");
    assert_eq!(tally(&proxy, 30).len(), 3);
}

#[test]
fn a_service_without_endpoints() {
    let dir = common::TempDir::new("endpoints");
    let list = dir.file("list.yaml", "[]\n");
    let service = format!("endpoints: {{ file: \"{}\" }}", list.display());
    let (proxy, _origins) = three(&service, "to: app");
    let reply = common::get(proxy.addr(), "/");
    assert_eq!(reply.status(), 503, "{reply:?}");
    proxy.await_reason("no_endpoint", 503);
}

/// An origin that answers `/now` at once, begins an answer for `/begin`, and else says nothing.
fn mute(kind: &'static str) -> Origin {
    Origin::start(move |seen, conn| {
        let line = seen.message.head.start_line();
        if line.contains("/now") {
            conn.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            return Next::Keep;
        }
        if line.contains("/begin") {
            conn.write(format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: 12\r\n\r\nfirst "));
        }
        // For `/begin/late` the rest comes after the timeout, which the request behind it measures.
        if line.contains("late") {
            std::thread::sleep(Duration::from_millis(900));
            conn.try_write("second");
            return Next::Keep;
        }
        conn.read_some();
        Next::Close
    })
}

#[test]
fn timeouts() {
    let origin = mute("text/plain");
    let (service, route) = (", protocol: http1", ", timeout: 400ms");
    let proxy = Setup { service, route, workers: 1, ..Setup::default() }.start(origin.addr());
    let begin = Instant::now();
    let reply = common::get(proxy.addr(), "/never");
    assert_eq!(reply.status(), 504, "{reply:?}");
    assert!((300..3000).contains(&begin.elapsed().as_millis()), "{:?}", begin.elapsed());
    let status = reply.head.get("proxy-status").unwrap_or_default();
    assert!(status.contains("http_response_timeout"), "{reply:?}");
    proxy.await_reason("request_timeout", 504);
    until("the request is given up upstream", SOON, || origin.open() == 0);

    // It is for the whole request: an answer that has begun is cut, and told by the reason alone.
    let reply = common::get(proxy.addr(), "/begin/late");
    assert_eq!((reply.status(), reply.whole), (200, false), "{reply:?}");
    proxy.await_reason("request_timeout", 200);
    // gRPC is told in gRPC.
    let grpc = request("POST", "/shop.Reviews/Get", &[("content-type", "application/grpc"), ("te", "trailers")]);
    let reply = call(proxy.addr(), grpc, b"", None).expect("an answer");
    let status = reply.head.headers.get("grpc-status").or_else(|| reply.trailers.as_ref()?.get("grpc-status"));
    assert_eq!(status.map(http::HeaderValue::as_bytes), Some(&b"4"[..]), "{reply:?}");
    assert_eq!(common::get(proxy.addr(), "/now").status(), 200);
}

#[test]
fn streams_outlive_the_default_timeout() {
    let top = "defaults: { timeout: 300ms }";
    let origin = mute("text/event-stream");
    let proxy = Setup { top, workers: 1, ..Setup::default() }.start(origin.addr());
    let reply = common::get(proxy.addr(), "/begin/late");
    assert_eq!((reply.status(), reply.whole, reply.text().as_str()), (200, true, "first second"), "{reply:?}");
    assert_eq!(common::get(proxy.addr(), "/never").status(), 504, "what is no stream is bound by it");

    let late = Origin::start(|seen, conn| {
        if seen.message.head.get("content-type").is_some_and(|kind| kind.starts_with("application/grpc")) {
            std::thread::sleep(Duration::from_millis(900));
        }
        conn.write("HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\ngrpc-status: 0\r\nContent-Length: 0\r\n\r\n");
        Next::Keep
    });
    let proxy = Setup { top, workers: 1, ..Setup::default() }.start(late.addr());
    let mut conn = Conn::connect(proxy.addr());
    conn.write("POST /a.B/C HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(conn.response("POST").status(), 200, "gRPC is a stream");
    // Unless the route says so itself: then it binds the head of the answer of streams, too.
    let proxy = Setup { route: ", timeout: 300ms", workers: 1, ..Setup::default() }.start(late.addr());
    let mut conn = Conn::connect(proxy.addr());
    conn.write("POST /a.B/C HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(conn.response("POST").head.get("grpc-status").as_deref(), Some("4"));
}

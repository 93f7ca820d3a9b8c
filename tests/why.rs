//! `outrigger why` and `/why`: what became of a request, by its id, in memory that does not grow.

mod common;

use std::collections::HashSet;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use common::h2peer::{H2Client, H2Origin, call, request};
use common::h2raw::{self, Peer};
use common::origin::{Gate, Next};
use common::tell::{Told, outrigger};
use common::{Conn, Message, Origin, Proxy, SOON, Setup, eventually, free_addr, until};
use http::HeaderMap;
use serde_json::{Value, json};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
/// Must not be in anything that is kept.
const SECRET: &str = "hunter2";
/// Phases in the order in which they pass, `accept` aside.
const WITHIN: [&str; 4] = ["queue", "connect", "firstByte", "body"];

/// What is known of an id, once the exchange has ended.
fn why(proxy: &Proxy, id: &str) -> Value {
    let found = eventually(&format!("{id} is known"), SOON, || {
        let reply = proxy.admin("GET", &format!("/why/{id}"));
        (reply.status() == 200).then(|| serde_json::from_slice::<Value>(&reply.body).expect("JSON"))
    });
    assert_sound(&found);
    found
}

/// What holds for every exchange.
fn assert_sound(one: &Value) {
    let phases = &one["phases"];
    let time = |name: &str| phases[name].as_f64().unwrap_or_default();
    let sum: f64 = WITHIN.iter().map(|name| time(name)).sum();
    // To the microsecond, each of them.
    assert!(sum <= time("total") + 0.005, "its phases take longer than all of it: {one:#}");
    let attempts = one["attempts"].as_array().expect("attempts");
    for name in ["queue", "connect", "firstByte"] {
        let each: f64 = attempts.iter().filter_map(|attempt| attempt[name].as_f64()).sum();
        assert!((each - time(name)).abs() < 0.005, "{name} of the attempts is not that of the exchange: {one:#}");
    }
    assert!(!one.to_string().contains(SECRET), "{one:#}");
}

fn send(addr: SocketAddr, line: &str, id: &str, rest: &str) -> Message {
    let mut conn = Conn::connect(addr);
    conn.write(head(line, id, rest));
    conn.response(line.split(' ').next().unwrap_or_default())
}

fn head(line: &str, id: &str, rest: &str) -> String {
    let rest = if rest.is_empty() { "\r\n" } else { rest };
    format!("{line} HTTP/1.1\r\nHost: app.test\r\nX-Request-Id: {id}\r\n{rest}")
}

fn told(proxy: &Proxy, args: &[&str]) -> Told {
    let admin = proxy.place("admin").to_string();
    outrigger(&[&["why", "--admin", &admin][..], args].concat())
}

/// Reason, outcomes of the attempts, and why there is no other.
fn story(one: &Value) -> (String, Vec<String>, String) {
    let code = |value: &Value| {
        let sentence = value["sentence"].as_str().unwrap_or_default();
        assert!(value.is_null() || sentence.len() > 10, "a code needs its sentence: {value}");
        value["code"].as_str().unwrap_or("-").to_owned()
    };
    let attempts = one["attempts"].as_array().expect("attempts").iter();
    let attempts = attempts
        .map(|attempt| format!("{} {}", attempt["connection"].as_str().unwrap_or("-"), code(&attempt["outcome"])));
    (code(&one["reason"]), attempts.collect(), code(&one["notAgain"]))
}

fn is_story(one: &Value, reason: &str, attempts: &[&str], not_again: &str) {
    let attempts: Vec<String> = attempts.iter().map(|one| (*one).to_owned()).collect();
    assert_eq!(story(one), (reason.to_owned(), attempts, not_again.to_owned()), "{one:#}");
}

#[test]
fn a_request_is_told_from_its_beginning_to_its_end() {
    let origin = Origin::echo();
    let proxy = Setup {
        workers: 1,
        route: ", match: [{ path: { prefix: / } }, { methods: [PUT] }]",
        top: "attributes: { user: { from: [{ header: x-user }] }, token: { from: [{ query: token }] } }",
        ..Setup::default()
    }
    .start(origin.addr());
    let mut conn = Conn::connect(proxy.addr());
    let before = proxy.metric("http_requests_total", &[]);
    let rest = format!("X-User: ada\r\nCookie: a={SECRET}\r\nContent-Length: 5\r\n\r\nhello");
    for (n, id) in ["first", "second"].into_iter().enumerate() {
        conn.write(head(&format!("PUT /some/path?token={SECRET}&q={n}"), id, &rest));
        assert_eq!(conn.response("PUT").text(), "hello");
        let one = why(&proxy, id);
        let wanted = json!({
            "id": id, "method": "PUT", "host": "app.test", "path": "/some/path", "status": 200, "failed": false,
            "truncated": false, "generation": 1, "listener": "edge", "route": "all", "rule": 0, "service": "app",
            "protocol": "HTTP/1.1", "producer": "application", "requestBytes": 5, "responseBytes": 5,
            "peer": conn.local_addr().to_string(), "shadow": [], "worker": 0,
        });
        for (key, value) in wanted.as_object().expect("an object") {
            assert_eq!(&one[key], value, "{key} of {one:#}");
        }
        assert_eq!(one["attributes"]["user"], "ada");
        is_story(&one, "-", &[["new answered", "reused answered"][n]], "-");
        let attempt = &one["attempts"][0];
        assert_eq!(
            (&attempt["endpoint"], &attempt["protocol"]),
            (&json!(origin.addr().to_string()), &json!("HTTP/1.1"))
        );
        let phases = &one["phases"];
        assert!(phases["firstByte"].is_number() && phases["body"].is_number(), "{phases}");
        assert_eq!(phases["connect"].is_number(), n == 0, "{phases}");
        assert_eq!(phases["accept"].is_number(), n == 0, "of the first of a connection: {phases}");
    }
    assert_eq!(proxy.metric("http_requests_total", &[]), before + 2.0);

    let text = told(&proxy, &["first"]);
    assert_eq!((text.code, text.err.as_str()), (0, ""), "{text:?}");
    text.says(&[
        "PUT app.test/some/path: 200",
        "all, match[0]",
        "user=ada",
        "5 in, 5 out",
        "attempt 1",
        "new connection",
    ]);
    assert!(!text.out.contains(SECRET) && !text.out.contains('\u{1b}'), "{}", text.out);
    assert_eq!(told(&proxy, &["first", "--format", "json"]).json()["id"], "first");
    let list = told(&proxy, &["--all"]);
    list.says(&["first", "second", "PUT app.test/some/path"]);
    // Nothing failed so far.
    assert_eq!(told(&proxy, &["--failed", "--format", "json"]).json()["exchanges"], json!([]));
    let unknown = told(&proxy, &["third"]);
    assert_eq!(unknown.code, 1, "{unknown:?}");
    unknown.says(&["no longer kept, or never seen", "2 of 2 exchanges"]);
    let nobody = outrigger(&["why", "first", "--admin", &free_addr().to_string()]);
    assert_eq!((nobody.code, nobody.err.contains("no proxy answers")), (3, true), "{nobody:?}");
}

#[test]
fn what_was_not_sent_again_says_why() {
    // A connection serves one request well, and closes upon the second, having read it.
    let origin = Origin::raw(|mut conn, _| {
        if conn.request().is_some() && conn.try_write(OK) {
            conn.request();
        }
    });
    let proxy = Proxy::front(origin.addr());
    let warm = |n: usize| {
        until("the pool is known to be warm", SOON, || {
            proxy.admin_json("/clusters")["app"]["endpoints"][0]["idle"] == 1
        });
        format!("id-{n}")
    };
    send(proxy.addr(), "GET /", "zero", "");
    let id = warm(1);
    assert_eq!(send(proxy.addr(), "POST /pay", &id, "Content-Length: 3\r\n\r\npay").status(), 502);
    let one = why(&proxy, &id);
    is_story(&one, "upstream_reset", &["reused upstream_reset"], "perhaps_handled");
    assert_eq!((&one["status"], &one["failed"], &one["requestBytes"]), (&json!(502), &json!(true), &json!(3)));
    told(&proxy, &[&id]).says(&["POST app.test/pay: 502", "reused connection", "not again"]);

    send(proxy.addr(), "GET /", "zero", "");
    let id = warm(2);
    assert_eq!(send(proxy.addr(), "POST /pay", &id, "Content-Length: 0\r\n\r\n").status(), 502);
    is_story(&why(&proxy, &id), "upstream_reset", &["reused upstream_reset"], "perhaps_handled");

    // What makes no difference is sent again where the connection ends at once: on a busy machine, not the first time.
    let mut number = 2;
    let one = eventually("a story of two tries", SOON, || {
        number += 1;
        send(proxy.addr(), "GET /", "zero", "");
        let id = warm(number);
        send(proxy.addr(), "GET /again", &id, "");
        Some(why(&proxy, &id)).filter(|one| one["status"] == 200)
    });
    is_story(&one, "-", &["reused stale", "new answered"], "-");
    assert_eq!(&one["failed"], &json!(false));
}

/// Work that takes its time was begun: it is not done twice, unless the route says so.
#[test]
fn what_was_begun_is_not_sent_again() {
    let handled = Arc::new(AtomicUsize::new(0));
    let count = handled.clone();
    let origin = Origin::raw(move |mut conn, _| {
        if conn.request().is_some() && conn.try_write(OK) && conn.request().is_some() {
            count.fetch_add(1, SeqCst);
            std::thread::sleep(Duration::from_millis(200));
        }
    });
    let proxy = Proxy::front(origin.addr());
    send(proxy.addr(), "GET /", "zero", "");
    until("the pool is warm", SOON, || proxy.admin_json("/clusters")["app"]["endpoints"][0]["idle"] == 1);
    assert_eq!(send(proxy.addr(), "DELETE /order", "begun", "").status(), 502);
    assert_eq!(handled.load(SeqCst), 1);
    is_story(&why(&proxy, "begun"), "upstream_reset", &["reused upstream_reset"], "perhaps_handled");
}

/// An address that neither takes a connection nor refuses it: its queue is full.
fn hole() -> (SocketAddr, socket2::Socket, Vec<TcpStream>) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("bind");
    socket.listen(0).expect("listen");
    let addr = socket.local_addr().ok().and_then(|addr| addr.as_socket()).expect("its address");
    let moment = Duration::from_millis(50);
    let queue = std::iter::from_fn(|| TcpStream::connect_timeout(&addr, moment).ok()).collect();
    (addr, socket, queue)
}

#[test]
fn failures_say_how_far_they_came() {
    let gate = Gate::default();
    let origin = Origin::gated("late", &gate);
    let config = r#"apiVersion: outrigger/v1
admin: { address: "{admin}" }
health: { address: "{health}" }
runtime: { workers: 1 }
listeners: [{ name: edge, mode: proxy, address: "{listen}" }]
services:
  app: { endpoints: { static: ["{up}"] } }
  one: { endpoints: { static: ["{up}"] }, connections: { max: 1 } }
  hole: { endpoints: { static: ["{hole}"] } }
  dead: { endpoints: { static: ["{spare}"] } }
routes:
  - { name: all, to: app, maxBody: 10 }
  - { name: short, match: [{ path: { prefix: /slow/short } }], to: app, timeout: 150ms }
  - { name: hole, match: [{ path: { prefix: /hole } }], to: hole, timeout: 150ms }
  - { name: hold, match: [{ path: { prefix: /slow/hold } }], to: one }
  - { name: queue, match: [{ path: { prefix: /slow/queue } }], to: one, timeout: 150ms }
  - { name: dead, match: [{ path: { prefix: /dead } }], to: dead }
  - { name: tea, match: [{ path: { exact: /tea } }], respond: { status: 418 } }
  - { name: gone, hosts: [gone.test], redirect: { path: /new } }
"#;
    let (hole, _socket, _queue) = hole();
    let proxy = Proxy::start(config, &[("up", origin.addr()), ("hole", hole)]);
    let addr = proxy.addr();
    let time = |one: &Value, name: &str| one["phases"][name].as_f64().unwrap_or(-1.0);

    assert_eq!(send(addr, "GET /dead", "refused", "").status(), 503);
    let one = why(&proxy, "refused");
    is_story(&one, "connect_failed", &["- connect_failed"], "no_connection");
    assert_eq!(
        (&one["attempts"][0]["endpoint"], &one["route"]),
        (&json!(proxy.place("spare").to_string()), &json!("dead"))
    );
    assert!(time(&one, "connect") >= 0.0 && time(&one, "firstByte") < 0.0, "{one:#}");

    assert_eq!(send(addr, "GET /slow/short", "late", "").status(), 504);
    let one = why(&proxy, "late");
    is_story(&one, "request_timeout", &["new request_timeout"], "out_of_time");
    assert!(time(&one, "total") >= 150.0 && time(&one, "firstByte") > 100.0, "{one:#}");

    assert_eq!(send(addr, "GET /hole", "hole", "").status(), 504);
    let one = why(&proxy, "hole");
    is_story(&one, "request_timeout", &["- request_timeout"], "out_of_time");
    assert!(time(&one, "connect") > 100.0 && time(&one, "firstByte") < 0.0, "it was never sent: {one:#}");

    // The only connection is taken: it waits for its turn until its time is up.
    let mut first = Conn::connect(addr);
    first.write(head("GET /slow/hold", "holder", ""));
    until("it is there", SOON, || origin.seen().iter().any(|seen| seen.message.head.start_line().contains("/hold")));
    assert_eq!(send(addr, "GET /slow/queue", "queued", "").status(), 504);
    let one = why(&proxy, "queued");
    is_story(&one, "request_timeout", &["- request_timeout"], "out_of_time");
    assert!(time(&one, "queue") > 100.0 && time(&one, "firstByte") < 0.0, "it was never sent: {one:#}");
    drop(first);

    let mut leaver = Conn::connect(addr);
    leaver.write(head("GET /slow/leave", "left", ""));
    until("it is there", SOON, || origin.seen().iter().any(|seen| seen.message.head.start_line().contains("/leave")));
    leaver.reset();
    let one = why(&proxy, "left");
    is_story(&one, "client_reset", &["new client_reset"], "client_gone");
    assert_eq!((&one["status"], &one["failed"]), (&json!(499), &json!(true)));
    let mut leaver = Peer::client(addr, &[]);
    leaver.headers(1, &h2raw::request("GET", "/slow/stream", &[("x-request-id", "cancelled")]), true);
    until("it is there", SOON, || origin.seen().iter().any(|seen| seen.message.head.start_line().contains("/stream")));
    leaver.rst(1, h2raw::CANCEL);
    is_story(&why(&proxy, "cancelled"), "client_reset", &["- not_http2", "new client_reset"], "client_gone");

    assert_eq!(send(addr, "POST /a", "large", "Content-Length: 11\r\n\r\n01234567890").status(), 413);
    let one = why(&proxy, "large");
    is_story(&one, "body_too_large", &[], "-");
    assert_eq!((&one["route"], &one["requestBytes"]), (&json!("all"), &json!(0)));
    assert_eq!(
        send(addr, "POST /a", "chunks", "Transfer-Encoding: chunked\r\n\r\nb\r\n01234567890\r\n0\r\n\r\n").status(),
        413
    );
    let one = why(&proxy, "chunks");
    assert_eq!((story(&one).0.as_str(), &one["status"]), ("body_too_large", &json!(413)), "{one:#}");

    assert_eq!(send(addr, "GET /tea", "tea", "").status(), 418);
    is_story(&why(&proxy, "tea"), "direct_response", &[], "-");
    let mut conn = Conn::connect(addr);
    conn.write(format!("GET http://bob:{SECRET}@app.test/ HTTP/1.1\r\nHost: app.test\r\nX-Request-Id: user\r\n\r\n"));
    conn.response("GET");
    why(&proxy, "user");
    gate.open();

    // What failed is listed, the newest first; what was refused here is no failure.
    let list = proxy.admin_json("/why?filter=failed&limit=10");
    let ids: Vec<&str> =
        list["exchanges"].as_array().expect("some").iter().filter_map(|one| one["id"].as_str()).collect();
    for id in ["left", "queued", "late", "refused"] {
        assert!(ids.contains(&id), "{id} in {ids:?}");
    }
    assert!(!ids.contains(&"large") && !ids.contains(&"tea"), "{ids:?}");
    assert!(ids.iter().position(|id| *id == "left") < ids.iter().position(|id| *id == "refused"), "{ids:?}");
    assert_eq!(proxy.admin_json("/why?filter=all&limit=2")["exchanges"].as_array().map(Vec::len), Some(2));
    assert_eq!(proxy.admin("GET", "/why?filter=nonsense").status(), 400);
    assert!(!proxy.admin("GET", "/why?filter=all&limit=1000").text().contains(SECRET));
}

#[test]
fn http2_grpc_and_upgrades() {
    let origin = H2Origin::echo();
    let proxy = Setup { workers: 1, service: ", protocol: http2", ..Setup::default() }.start(origin.addr);
    let reply = call(proxy.addr(), request("POST", "/two?x=1", &[("x-request-id", "two")]), b"12345", None);
    assert_eq!(reply.expect("an answer").head.status, 200);
    let one = why(&proxy, "two");
    is_story(&one, "-", &["new answered"], "-");
    assert_eq!((&one["protocol"], &one["attempts"][0]["protocol"]), (&json!("HTTP/2"), &json!("HTTP/2")));
    assert_eq!((&one["host"], &one["path"], &one["grpcStatus"]), (&json!("app.test"), &json!("/two"), &Value::Null));
    assert_eq!((&one["requestBytes"], &one["responseBytes"]), (&json!(5), &json!(5)));

    let grpc = [("content-type", "application/grpc"), ("te", "trailers"), ("x-request-id", "grpc")];
    let trailers =
        HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), "5".parse().expect("a value"))]);
    call(proxy.addr(), request("POST", "/a.B/c", &grpc), b"\0\0\0\0\0", Some(trailers)).expect("an answer");
    let one = why(&proxy, "grpc");
    assert_eq!((&one["status"], &one["grpcStatus"], &one["failed"]), (&json!(200), &json!(5), &json!(true)), "{one:#}");
    is_story(&one, "-", &["reused answered"], "answered");
    told(&proxy, &["grpc"]).says(&["POST app.test/a.B/c: 200/5"]);
    // One that gets its status from us.
    proxy.reload("name: all,", "name: all, hosts: [else.test],");
    let lost = [("content-type", "application/grpc"), ("te", "trailers"), ("x-request-id", "lost")];
    call(proxy.addr(), request("POST", "/a.B/c", &lost), b"", None).expect("an answer");
    let one = why(&proxy, "lost");
    is_story(&one, "no_route", &[], "-");
    assert_eq!((&one["grpcStatus"], &one["route"], &one["generation"]), (&json!(12), &Value::Null, &json!(2)));

    let upgrading = Origin::start(|_, conn| {
        conn.write("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
        let heard = conn.read_to_end();
        conn.try_write(format!("heard {}", heard.len()));
        Next::Close
    });
    let proxy = Proxy::front(upgrading.addr());
    let mut conn = Conn::connect(proxy.addr());
    conn.write(head("GET /ws", "ws", "Connection: upgrade\r\nUpgrade: websocket\r\n\r\n"));
    assert_eq!(conn.head().status(), 101);
    conn.write("hello");
    conn.finish();
    assert_eq!(conn.read_to_end(), b"heard 5");
    let one = why(&proxy, "ws");
    is_story(&one, "-", &["new answered"], "-");
    assert_eq!((&one["status"], &one["requestBytes"], &one["responseBytes"]), (&json!(101), &json!(5), &json!(7)));
    assert_eq!(one["failed"], false);
}

#[test]
fn ids_may_be_odd() {
    let origin = Origin::ok();
    let proxy = Proxy::front(origin.addr());
    let all: String = (b'!'..=b'~').map(char::from).collect();
    for id in ["a/b?c#d%e", "%41", "a+b", "..", "/", "?filter=all", "%", "<script>", &all, &"x".repeat(128)] {
        assert_eq!(send(proxy.addr(), "GET /", id, "").status(), 200);
        let found = eventually(&format!("{id} is found"), SOON, || {
            Some(told(&proxy, &["--format", "json", "--", id])).filter(|told| told.code == 0)
        });
        assert_eq!(found.json()["id"], id);
        // Whatever may be encoded may be.
        let encoded: String = id.bytes().map(|byte| format!("%{byte:02x}")).collect();
        assert_eq!(why(&proxy, &encoded)["id"], id);
    }
    // An id that is none is replaced before anybody sees it.
    for bad in ["x".repeat(129), "a b".to_owned(), "\u{e9}".to_owned()] {
        assert_eq!(send(proxy.addr(), "GET /", &bad, "").status(), 200);
        let given = origin.last().head.get("x-request-id").expect("an id");
        assert_eq!((given.len(), why(&proxy, &given)["id"].as_str()), (36, Some(given.as_str())));
    }
    for asked in ["z".repeat(129), "%ff%fe%00".to_owned(), "%zz".to_owned(), "y".repeat(7000)] {
        let reply = proxy.admin("GET", &format!("/why/{asked}"));
        assert_eq!(reply.status(), 404, "{asked}: {reply:?}");
    }
    // The newest of several.
    for path in ["/older", "/newer"] {
        send(proxy.addr(), &format!("GET {path}"), "twice", "");
    }
    eventually("the newer", SOON, || (why(&proxy, "twice")["path"] == "/newer").then_some(()));
}

const FLOOD: &str = r#"apiVersion: outrigger/v1
admin: { address: "{admin}" }
health: { address: "{health}" }
runtime: { workers: WORKERS }
telemetry: { recent: RECENT, accessLog: { format: off } }
listeners: [{ name: edge, mode: proxy, address: "{listen}" }]
routes:
  - { name: fine, respond: { status: 200 } }
  - { name: bad, match: [{ path: { prefix: /bad } }], respond: { status: 503 } }
"#;

fn flooded(workers: u32, recent: &str) -> Proxy {
    Proxy::start(&FLOOD.replace("WORKERS", &workers.to_string()).replace("RECENT", recent), &[])
}

/// Requests on one connection, many at a time, each with an id of its own.
fn flood(addr: SocketAddr, name: &str, count: usize) {
    const TOGETHER: usize = 100;
    let mut conn = Conn::connect(addr);
    for batch in 0..count.div_ceil(TOGETHER) {
        let batch = batch * TOGETHER..((batch + 1) * TOGETHER).min(count);
        conn.write(
            batch.clone().map(|n| head(&format!("GET /{name}/{n}"), &format!("{name}-{n}"), "")).collect::<String>(),
        );
        for _ in batch {
            assert_eq!(conn.response("GET").status(), 200);
        }
    }
}

#[test]
fn an_error_outlives_what_came_after_it() {
    let proxy = flooded(1, "64Ki");
    assert_eq!(send(proxy.addr(), "GET /bad", "the-error", "").status(), 503);
    assert_eq!(send(proxy.addr(), "GET /", "the-fine", "").status(), 200);
    why(&proxy, "the-fine");
    flood(proxy.addr(), "flood", 3000);
    assert_eq!(why(&proxy, "the-error")["status"], 503);
    assert_eq!(why(&proxy, "flood-2999")["path"], "/flood/2999");
    let gone = told(&proxy, &["the-fine"]);
    assert_eq!((gone.code, gone.err.as_str()), (1, ""), "{gone:?}");
    gone.says(&["no longer kept, or never seen", "of 3,002 exchanges", "since "]);
    let reply = proxy.admin("GET", "/why/the-fine");
    let kept: Value = serde_json::from_slice(&reply.body).expect("JSON");
    assert_eq!((reply.status(), &kept["kept"]["of"]), (404, &json!(3002)));
    let exchanges = kept["kept"]["exchanges"].as_u64().expect("a number");
    assert!((100..1000).contains(&exchanges), "64 KiB are so many: {kept}");
    assert!(kept["kept"]["oldest"].as_str() <= kept["kept"]["since"].as_str(), "{kept}");
    told(&proxy, &["--failed"]).says(&["the-error", "503"]);
}

#[test]
fn nothing_is_kept_where_nothing_may_be() {
    let proxy = flooded(1, "0");
    flood(proxy.addr(), "flood", 10);
    assert_eq!(send(proxy.addr(), "GET /bad", "bad", "").status(), 503);
    proxy.await_metric("http_requests_total", &[], 11.0);
    let reply = proxy.admin("GET", "/why/bad");
    let answer: Value = serde_json::from_slice(&reply.body).expect("JSON");
    let says = |value: &Value| value["error"].as_str().is_some_and(|why| why.contains("telemetry.recent is 0"));
    assert!(reply.status() == 404 && says(&answer), "{answer}");
    for args in [&["bad"][..], &["--all"], &["--format", "json"]] {
        told(&proxy, args).is_error(3, &["telemetry.recent is 0"]);
    }
    // Memory that is too little for each of many workers is none.
    let proxy = flooded(8, "64Ki");
    told(&proxy, &["bad"]).is_error(3, &["16Ki for each worker"]);
}

#[test]
fn workers_answer_together() {
    let proxy = flooded(4, "4Mi");
    for n in 0..60 {
        assert_eq!(send(proxy.addr(), "GET /", &format!("id-{n}"), "").status(), 200);
    }
    let workers: HashSet<u64> =
        (0..60).map(|n| why(&proxy, &format!("id-{n}"))["worker"].as_u64().expect("a worker")).collect();
    assert!(workers.len() > 1 && workers.iter().all(|worker| *worker < 4), "{workers:?}");
    let list = proxy.admin_json("/why?filter=all&limit=50");
    let times: Vec<&str> =
        list["exchanges"].as_array().expect("some").iter().filter_map(|one| one["time"].as_str()).collect();
    assert!(times.len() == 50 && times.is_sorted_by(|a, b| a >= b), "the newest of all first: {times:?}");
    assert_eq!(list["kept"], json!({ "exchanges": 60, "of": 60, "oldest": list["kept"]["oldest"] }));
}

/// The ring fills, and then nothing grows.
#[test]
fn memory_stays_within_its_bound() {
    const CLIENTS: usize = 4;
    const EACH: usize = 50_000;
    let proxy = flooded(2, "4Mi");
    let round = |name: &'static str, each: usize| {
        let addr = proxy.addr();
        let clients = (0..CLIENTS).map(|n| std::thread::spawn(move || flood(addr, &format!("{name}{n}"), each)));
        clients.collect::<Vec<_>>().into_iter().for_each(|client| client.join().expect("a client"));
    };
    round("warm", 1000);
    let (before, _) = proxy.memory();
    let begun = Instant::now();
    round("flood", EACH);
    let (after, peak) = proxy.memory();
    println!("{} requests in {:?}: {before} to {after} KiB, at most {peak}", CLIENTS * EACH, begun.elapsed());
    // The ring itself, and what an allocator may keep of it all.
    assert!(after < before + (4 << 10) + (4 << 10), "{before} to {after} KiB");
    send(proxy.addr(), "GET /last", "the-last", "");
    assert_eq!(why(&proxy, "the-last")["path"], "/last");
    let kept = proxy.admin_json("/why?filter=all&limit=1")["kept"].clone();
    assert_eq!(kept["of"], CLIENTS * (EACH + 1000) + 1);
    assert!(kept["exchanges"].as_u64() > Some(10_000), "{kept}");
    let mut two = H2Client::connect(proxy.addr()).expect("connect");
    assert_eq!(two.get("/").expect("an answer").head.status, 200);
    // Looking through all of it does not hold up the traffic.
    let begun = Instant::now();
    assert_eq!(proxy.admin("GET", "/why/nothing-of-the-kind").status(), 404);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

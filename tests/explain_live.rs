//! `POST /explain` and the answer header of a running proxy. That they and the data path agree over random
//! configurations is in `agreement.rs`.

mod common;

use std::net::{IpAddr, SocketAddr, UdpSocket};

use common::h2peer::{H2Origin, call, request};
use common::origin::Next;
use common::tell::{explain, outrigger, post};
use common::{Conn, Message, Origin, Proxy, SOON, TempDir, eventually, get};
use serde_json::{Value, json};

const NO_ROUTE: i32 = 2;
const HEADER: &str = "x-outrigger-explain";

const LIVE: &str = r#"apiVersion: outrigger/v1
admin: { address: "{admin}", explainToken: "0123456789abcdef-token" }
health: { address: "{health}" }
runtime: { workers: 1, probation: 0s }
attributes: { user: { from: [{ header: x-user }] }, api-key: { from: [{ header: x-api-key }] } }
listeners: [{ name: edge, mode: proxy, address: "{listen}" }]
services:
  app: { endpoints: { static: ["{up}"] } }
  h2: { protocol: http2, endpoints: { static: ["{h2}"] } }
routes:
  - { name: all, hosts: [app.test], match: [{ path: { prefix: / } }], to: app, maxBody: 10 }
  - { name: two, hosts: [app.test], match: [{ path: { prefix: /two } }], to: h2 }
  - { name: moved, hosts: [app.test], match: [{ path: { exact: /x } }, { path: { exact: /moved } }], redirect: { path: /new } }
  - { name: tea, hosts: [app.test], match: [{ path: { prefix: /tea } }], respond: { status: 418 } }
  - { name: split, hosts: [app.test], match: [{ path: { prefix: /split } }], split: [{ to: app, weight: 1 }, { to: h2, weight: 1 }], sticky: { header: x-user } }
"#;
const TOKEN: &str = "0123456789abcdef-token";

struct Live {
    proxy: Proxy,
    up: Origin,
    h2: H2Origin,
}

/// Answers 200, or 101 to whoever asks for it.
fn live(anywhere: bool) -> Live {
    let up = Origin::start(|seen, conn| {
        if seen.message.head.has("upgrade") {
            conn.write("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
            conn.read_to_end();
            return Next::Close;
        }
        conn.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        Next::Keep
    });
    let h2 = H2Origin::echo();
    let lay = |dir: &TempDir, fill: &dyn Fn(&str) -> String| {
        let listen = fill("{listen}");
        let all = fill(LIVE).replace(&listen, &listen.replace("127.0.0.1", "0.0.0.0"));
        dir.file("outrigger.yaml", if anywhere { all } else { fill(LIVE) })
    };
    let proxy = Proxy::start_laid(&lay, &[("up", up.addr()), ("h2", h2.addr)]);
    Live { proxy, up, h2 }
}

fn ask(addr: SocketAddr, line: &str, headers: &str) -> Message {
    let mut conn = Conn::connect(addr);
    conn.write(format!("{line} HTTP/1.1\r\nHost: app.test\r\n{headers}\r\n"));
    conn.response(line.split(' ').next().unwrap_or_default())
}

/// The pairs of the header, by key.
fn pair(header: &str, key: &str) -> String {
    let found = header.split("; ").find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("no {key} in `{header}`")).to_owned()
}

#[test]
fn a_running_proxy_knows_its_pools_as_well() {
    let live = live(false);
    let ask = json!({ "url": "http://app.test/" });
    let pool = |explained: &Value| explained["sides"][0]["endpoints"][0]["live"].clone();
    let before = explain(&live.proxy, &ask);
    assert_eq!(pool(&before), json!({ "connections": 0, "idle": 0, "inFlight": 0, "pending": 0 }));
    assert_eq!(get(live.proxy.addr(), "/").status(), 200);
    let idle = json!({ "connections": 1, "idle": 1, "inFlight": 0, "pending": 0 });
    eventually("the pool is known", SOON, || (pool(&explain(&live.proxy, &ask)) == idle).then_some(()));
    assert_eq!(explain(&live.proxy, &ask)["generation"], 1);
    // The command line shows it.
    let admin = live.proxy.place("admin").to_string();
    let told = outrigger(&["explain", "http://app.test/", "--admin", &admin]);
    assert_eq!(told.code, 0, "{told:?}");
    told.says(&["generation 1", &format!("{}: 1 connections (1 idle), 0 in flight", live.up.addr())]);
    assert_eq!(outrigger(&["explain", "http://else.test/", "--admin", &admin]).code, NO_ROUTE);
    outrigger(&["explain", "http://a/", "-H", "x", "--admin", &admin]).is_error(2, &["`x` is not a header"]);
    let health = live.proxy.place("health").to_string();
    outrigger(&["explain", "http://a/", "--admin", &health]).is_error(3, &[]);
}

#[test]
fn bad_questions_get_a_reason_and_do_no_harm() {
    let live = live(false);
    let local = "Host: localhost\r\n";
    let many: Vec<String> = (0..60_000).map(|n| format!("x-{n}: {n}")).collect();
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for body in [
        "",
        "{",
        "null",
        "not JSON",
        "\u{0}\u{1}",
        "[]",
        &deep,
        r#"{"url": 5}"#,
        r#"{"url": "http://a/", "unknown": 1}"#,
        r#"{"url": "http://a/", "port": 70000}"#,
        r#"{"url": "http://a/", "headers": ["nothing"]}"#,
        r#"{"url": "http://a/", "method": "G T"}"#,
        r#"{"url": "http://a/", "listener": "nowhere"}"#,
        r#"{"url": "gopher://a/"}"#,
        "{}",
        &json!({ "url": "http://a/", "headers": many }).to_string(),
        &json!({ "url": format!("http://a/{}", "x".repeat(1 << 20)) }).to_string(),
    ] {
        let reply = post(&live.proxy, "/explain", local, body);
        let shown = &body[..body.len().min(60)];
        assert_eq!(reply.status(), 400, "{shown}: {reply:?}");
        let why: Value = serde_json::from_slice(&reply.body).expect("JSON");
        assert!(why["error"].as_str().is_some_and(|why| why.len() > 10 && why.len() < 1000), "{shown}: {why}");
    }
    // Cut short: by a length that does not come, and by chunks.
    for (framing, body) in [("Content-Length: 100", "{\"url\""), ("Transfer-Encoding: chunked", "9\r\n{\"url\"")] {
        let mut conn = Conn::connect(live.proxy.place("admin"));
        conn.write(format!("POST /explain HTTP/1.1\r\n{local}{framing}\r\n\r\n{body}"));
        conn.finish();
        let reply = conn.try_head();
        assert!(reply.is_none_or(|head| head.status() == 400));
    }
    assert_eq!(live.proxy.admin("GET", "/explain").status(), 405);
    // A page in a browser may not ask.
    let good = r#"{"url": "http://app.test/"}"#;
    assert_eq!(post(&live.proxy, "/explain", local, good).status(), 200);
    for lines in ["Host: evil.example\r\n", "Host: localhost\r\nOrigin: http://evil.example\r\n"] {
        assert_eq!(post(&live.proxy, "/explain", lines, good).status(), 403, "{lines}");
    }
    let health = common::send(
        live.proxy.place("health"),
        format!("POST /explain HTTP/1.1\r\n{local}Content-Length: {}\r\n\r\n{good}", good.len()),
    );
    assert_eq!(common::Head { raw: health }.status(), 404, "not on the address that the pod's network sees");
    live.proxy.assert_serves();
}

#[test]
fn every_answer_can_carry_its_explanation() {
    let live = live(false);
    let addr = live.proxy.addr();
    let explained = |line: &str, headers: &str, status: u16| {
        let reply = ask(addr, line, &format!("{HEADER}: 1\r\n{headers}"));
        assert_eq!(reply.status(), status, "{line}: {reply:?}");
        let header = reply.head.all(HEADER);
        assert_eq!(header.len(), 1, "{line}: {reply:?}");
        assert_eq!((pair(&header[0], "listener"), pair(&header[0], "generation")), ("edge".into(), "1".into()));
        header[0].clone()
    };
    let forwarded = explained("GET /a?b=c", "x-user: ada\r\nx-api-key: hunter2\r\n", 200);
    assert_eq!((pair(&forwarded, "route"), pair(&forwarded, "match")), ("all".into(), "0".into()));
    assert_eq!((pair(&forwarded, "to"), pair(&forwarded, "endpoint")), ("app".into(), live.up.addr().to_string()));
    assert_eq!((pair(&forwarded, "attribute.user"), pair(&forwarded, "timeout")), ("ada".into(), "15s".into()));
    assert!(pair(&forwarded, "at").ends_with(":11") && !forwarded.contains("hunter2"), "{forwarded}");
    let moved = explained("GET /moved", "", 302);
    assert_eq!(
        (pair(&moved, "route"), pair(&moved, "match"), pair(&moved, "reason")),
        ("moved".into(), "1".into(), "redirect".into())
    );
    assert_eq!(pair(&explained("GET /tea", "", 418), "route"), "tea");
    let refused = explained("POST /a", "Content-Length: 11\r\n", 413);
    assert_eq!((pair(&refused, "route"), pair(&refused, "reason")), ("all".into(), "body_too_large".into()));
    let refused = explained("POST /a", "Transfer-Encoding: chunked\r\n\r\nb\r\n01234567890\r\n0\r\n", 413);
    assert_eq!((pair(&refused, "route"), pair(&refused, "reason")), ("all".into(), "body_too_large".into()));
    let bad = explained("GET /%zz", "", 400);
    assert_eq!(pair(&bad, "reason"), "bad_request");
    let sticky = explained("GET /split", "x-user: ada\r\n", 200);
    let asked = json!({ "url": "http://app.test/split", "headers": ["x-user: ada"] });
    let bucket = explain(&live.proxy, &asked)["split"]["bucket"].clone();
    assert_eq!(pair(&sticky, "bucket"), format!("{bucket} (sticky)"));
    assert!(pair(&explained("GET /split", "", 200), "bucket").ends_with("(chance)"));
    // What a peer has sent cannot break the line.
    let odd = explained("GET /a", "x-user: \u{e9}\u{9b}\u{202e}\tx; route=evil\r\n", 200);
    assert!(odd.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{odd}");
    let mut conn = Conn::connect(addr);
    conn.write(format!(
        "GET /ws HTTP/1.1\r\nHost: app.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n{HEADER}: 1\r\n\r\n"
    ));
    let head = conn.head();
    assert_eq!((head.status(), pair(&head.get(HEADER).unwrap_or_default(), "route")), (101, "all".into()), "{head:?}");
    // Without a route, there is still something to say.
    let mut conn = Conn::connect(addr);
    conn.write(format!("GET / HTTP/1.1\r\nHost: else.test\r\n{HEADER}: 1\r\n\r\n"));
    let reply = conn.response("GET");
    let header = reply.head.get(HEADER).unwrap_or_default();
    assert_eq!((reply.status(), pair(&header, "reason")), (404, "no_route".into()), "{reply:?}");
    assert!(!header.contains("route=;") && !header.contains("; route="), "{header}");

    // Nobody asked, or not so: nothing is told, and the application has what is its own.
    for headers in ["", "x-outrigger-explain: yes\r\n", "x-outrigger-explain: 11\r\n", "x-outrigger-explain:\r\n"] {
        assert!(!ask(addr, "GET /", headers).head.has(HEADER), "{headers}");
    }
    let leaked = |seen: &common::origin::Seen| seen.message.head.get(HEADER).is_some_and(|value| value == "1");
    assert!(!live.up.seen().iter().any(leaked), "it is for us alone");
}

#[test]
fn on_http2_as_well() {
    let live = live(false);
    for (method, path, body, status, route, reason) in [
        ("GET", "/two", &b""[..], 200, Some("two"), None),
        ("GET", "/a", b"", 200, Some("all"), None),
        ("GET", "/moved", b"", 302, Some("moved"), Some("redirect")),
        ("GET", "/tea", b"", 418, Some("tea"), Some("direct_response")),
        ("POST", "/a", b"01234567890", 413, Some("all"), Some("body_too_large")),
    ] {
        let reply = call(live.proxy.addr(), request(method, path, &[(HEADER, "1")]), body, None).expect("an answer");
        assert_eq!(reply.head.status, status, "{path}");
        let header = reply.head.headers.get(HEADER).unwrap_or_else(|| panic!("{path}: {:?}", reply.head));
        let header = header.to_str().expect("text");
        assert_eq!(route.map(|_| pair(header, "route")).as_deref(), route, "{path}");
        assert_eq!(reason.map(|_| pair(header, "reason")).as_deref(), reason, "{path}: {header}");
    }
    let nowhere = http::Request::builder().uri("http://else.test/").header(HEADER, "1").body(()).expect("a request");
    let reply = call(live.proxy.addr(), nowhere, b"", None).expect("an answer");
    assert_eq!(reply.head.status, 404);
    assert!(reply.head.headers[HEADER].to_str().is_ok_and(|header| pair(header, "reason") == "no_route"));
    // gRPC gets it with its own kind of answer.
    let grpc = request("POST", "/two", &[(HEADER, "1"), ("content-type", "application/grpc"), ("te", "trailers")]);
    let reply = call(live.proxy.addr(), grpc, b"\0\0\0\0\0", None).expect("an answer");
    assert!(reply.head.headers[HEADER].to_str().is_ok_and(|header| pair(header, "route") == "two"));
    assert!(live.h2.seen().iter().all(|seen| !seen.head.headers.contains_key(HEADER)), "it is for us alone");
}

/// An address of this host that is not loopback; none where there is no network at all.
fn other_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // Sends nothing: the kernel only chooses a source.
    socket.connect("192.0.2.77:9").ok()?;
    socket.local_addr().ok().map(|addr| addr.ip()).filter(|ip| !ip.is_loopback())
}

#[test]
fn from_elsewhere_only_the_token_asks() {
    let live = live(true);
    let local = live.proxy.addr();
    let told = |addr, value: &str| ask(addr, "GET /", &format!("{HEADER}: {value}\r\n")).head.has(HEADER);
    assert!(told(local, "1") && told(local, TOKEN) && !told(local, "0123456789abcdef-tokem"));
    if let Some(ip) = other_address() {
        let addr = SocketAddr::new(ip, local.port());
        assert!(!told(addr, "1"), "anybody could ask");
        assert!(told(addr, TOKEN) && !told(addr, &TOKEN[1..]));
        assert_eq!(live.up.last().head.all(HEADER), [""; 0], "it may have been a token");
        assert!(told(addr, TOKEN));
        assert_eq!(live.up.last().head.all(HEADER), [""; 0]);
    }
    assert!(told(local, TOKEN));
    let leaked = live.up.seen().iter().any(|seen| seen.message.head.text().contains(TOKEN));
    assert!(!leaked, "a token is nobody else's business");
    assert!(!live.proxy.admin("GET", "/config").text().contains(TOKEN));
}

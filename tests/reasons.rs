//! Each reason, provoked through the binary: what the client is told, in each form, and what the log and the metrics
//! tell. The table has a row for every reason, or it does not compile.

mod common;

use std::net::{SocketAddr, TcpStream};
use std::sync::LazyLock;
use std::time::Duration;

use common::h2peer::{call, request};
use common::h2raw::{self, Peer};
use common::origin::{Gate, Next};
use common::{Conn, Origin, Proxy, SOON, TempDir, eventually, free_addr, until};
use outrigger::error::Reason;
use serde_json::Value;

/// How a reason is brought about.
enum Provoked {
    /// Nothing is to be brought about.
    Never,
    /// By this request of HTTP/1 on the stage; its head goes on with what the test adds.
    By(&'static str),
    /// The same, and the answer is the route's: with this status, and this `grpc-message`.
    Route(&'static str, u16, &'static str),
    /// By a test of its own in this file or another.
    Test(&'static str, &'static str),
}

use Provoked::{By, Never, Route, Test};

fn provocation(reason: Reason) -> Provoked {
    match reason {
        Reason::None => Never,
        Reason::DirectResponse => Route("GET /direct HTTP/1.1\r\nHost: app.test\r\n", 503, "closed 100%25 today"),
        Reason::Redirect => {
            Route("GET /redirect HTTP/1.1\r\nHost: app.test\r\n", 308, "the route answers HTTP 308 Permanent Redirect")
        }
        Reason::FaultInjected => Test("tests/faults.rs", "an_abort_is_told_in_each_form"),
        Reason::NoRoute => By("GET /nowhere HTTP/1.1\r\nHost: app.test\r\n"),
        Reason::Denied => Test("tests/authorization.rs", "every_client_is_told_in_its_own_terms"),
        Reason::BadRequest => By("GET / HTTP/1.1\r\nHost: app.test\r\nHost: app.test\r\n"),
        Reason::HeadTooLarge => Test("tests/reasons.rs", "a_head_that_is_too_large"),
        Reason::HeaderTimeout => Test("tests/reasons.rs", "a_head_that_is_too_slow"),
        Reason::BodyTooLarge => By("POST /small HTTP/1.1\r\nHost: app.test\r\nContent-Length: 5\r\n"),
        Reason::NoEndpoint => By("GET /empty HTTP/1.1\r\nHost: app.test\r\n"),
        Reason::CircuitOpen => Test("tests/circuit.rs", "it_opens_at_the_threshold"),
        Reason::Fallback => Test("tests/circuit_fallback.rs", "a_text_of_our_own"),
        Reason::Overflow => By("GET /busy HTTP/1.1\r\nHost: app.test\r\n"),
        Reason::RateLimited => Test("tests/limits.rs", "who_is_refused_is_told_when_to_come_again"),
        Reason::Limit => Test("tests/limits.rs", "a_service_has_so_many_at_a_time_to_the_end_of_their_answers"),
        Reason::Overloaded => Test("tests/limits.rs", "those_who_matter_less_are_refused_first"),
        Reason::Shed => Test("tests/limits.rs", "requests_are_refused_before_memory_runs_out"),
        Reason::ConnectFailed => By("GET /gone HTTP/1.1\r\nHost: app.test\r\n"),
        Reason::ConnectTimeout => By("GET /full HTTP/1.1\r\nHost: app.test\r\n"),
        Reason::UpstreamReset => By("POST /up/close HTTP/1.1\r\nHost: app.test\r\nContent-Length: 0\r\n"),
        Reason::UpstreamProtocol => By("GET /up/garbage HTTP/1.1\r\nHost: app.test\r\n"),
        Reason::RequestTimeout => By("GET /brief HTTP/1.1\r\nHost: app.test\r\n"),
        Reason::TryTimeout => Test("tests/retries.rs", "each_try_has_its_time"),
        Reason::IdleTimeout => By("GET /up/silent HTTP/1.1\r\nHost: app.test\r\n"),
        Reason::ClientReset => Test("tests/reasons.rs", "a_client_that_leaves"),
        Reason::UpgradeMismatch => {
            By("GET /up/switch HTTP/1.1\r\nHost: app.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n")
        }
        Reason::Unsupported => By("GET / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: gzip, chunked\r\n"),
        Reason::UpstreamTls => Test("tests/tls_upstream.rs", "no_tls_no_request"),
        Reason::UpstreamIdentity => Test("tests/tls_upstream.rs", "whom_an_endpoint_has_to_be"),
        Reason::NoIdentity => Test("tests/tls_upstream.rs", "mutual_fails_closed"),
        Reason::ProxyHeader => Test("tests/proxy_protocol.rs", "what_is_no_header_is_refused"),
        Reason::Handshake => Test("tests/tls_refused.rs", "clients_that_prove_nothing"),
        Reason::Expired => Test("tests/rotation.rs", "connections_end_with_their_certificate"),
        Reason::NotRedirected => Test("tests/pods_outbound.rs", "our_own_ports_are_no_way_in"),
        Reason::Loop => By("GET /up/fine HTTP/1.1\r\nHost: app.test\r\nx-outrigger-hops: 20\r\n"),
        Reason::UnknownDestination => Test("tests/pods_outbound.rs", "what_is_unknown_can_be_denied"),
        Reason::Undetected => Test("tests/pods_server_first.rs", "what_rules_look_at_is_http_or_nothing"),
        Reason::Drained => Test("tests/reasons.rs", "an_end_by_force"),
        // Nothing that is known to be sent brings one about, or it would be mended.
        Reason::Panic => Test("src/http/exchange.rs", "a_panic_is_answered_and_counted"),
    }
}

/// A proxy, and behind it a service for every trouble.
struct Stage {
    proxy: Proxy,
    _busy: Conn,
    origin: Origin,
    _full: Full,
    _files: TempDir,
}

static STAGE: LazyLock<Stage> = LazyLock::new(Stage::new);

impl Stage {
    fn new() -> Self {
        let gate = Gate::default();
        let origin = Origin::start(move |seen, conn| {
            let line = seen.message.head.start_line();
            let said = match line.split(' ').nth(1).unwrap_or_default() {
                "/up/close" => return Next::Close,
                "/up/garbage" => "SSH-2.0-OpenSSH_9.2\r\n",
                "/up/switch" => "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: other\r\n\r\n",
                "/up/silent" | "/brief" => {
                    gate.pass();
                    return Next::Close;
                }
                "/busy" => {
                    // Drips on, lest it be idle.
                    conn.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
                    while conn.try_write("1\r\nx\r\n") {
                        std::thread::sleep(Duration::from_millis(50));
                    }
                    return Next::Close;
                }
                "/up/peer" => {
                    "HTTP/1.1 504 Gateway Timeout\r\nContent-Length: 2\r\nContent-Type: text/html\r\nProxy-Status: far, \
                     near; error=dns_timeout; details=\"no \\\"name\\\"\"\r\n\r\nno"
                }
                "/up/fine" => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nProxy-Status: near; error=dns_timeout\r\n\r\n",
                _ => "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 2\r\nRetry-After: 7\r\n\r\nno",
            };
            conn.try_write(said);
            Next::Close
        });
        let (full, files) = (Full::new(), TempDir::new("endpoints"));
        let config = CONFIG.replace("{empty}", &files.file("endpoints.yaml", "[]\n").display().to_string());
        let fills = [("up", origin.addr()), ("full", full.addr), ("gone", free_addr())];
        let proxy = Proxy::start(&config, &fills);
        // The only connection that its service may have is taken.
        let mut busy = Conn::connect(proxy.addr());
        busy.write("GET /busy HTTP/1.1\r\nHost: app.test\r\n\r\n");
        assert_eq!(busy.head().status(), 200);
        Self { proxy, _busy: busy, origin, _full: full, _files: files }
    }
}

const CONFIG: &str = r#"apiVersion: outrigger/v1
admin: { address: "{admin}" }
health: { address: "{health}" }
runtime: { workers: 1 }
telemetry: { accessLog: { format: json, sample: { errors: 100, others: 100, maxPerSecond: 0 } } }
defaults: { connectTimeout: 250ms, timeout: 0s, streamIdleTimeout: 600ms }
listeners: [{ name: edge, mode: proxy, address: "{listen}", headerTimeout: 400ms, maxHeaderBytes: 8Ki }]
services:
  app: { protocol: http1, endpoints: { static: ["{up}"] } }
  busy: { endpoints: { static: ["{up}"] }, connections: { max: 1, maxPending: 0 } }
  gone: { endpoints: { static: ["{gone}"] } }
  full: { endpoints: { static: ["{full}"] } }
  empty: { endpoints: { file: "{empty}" } }
routes:
  - { name: direct, match: [{ path: { exact: /direct } }], respond: { status: 503, body: "closed 100% today\nand tomorrow" } }
  - { name: redirect, match: [{ path: { exact: /redirect } }], redirect: { path: /there, status: 308 } }
  - { name: small, match: [{ path: { exact: /small } }], to: app, maxBody: 4 }
  - { name: brief, match: [{ path: { exact: /brief } }], to: app, timeout: 200ms }
  - { name: empty, match: [{ path: { exact: /empty } }], to: empty }
  - { name: busy, match: [{ path: { exact: /busy } }], to: busy }
  - { name: gone, match: [{ path: { exact: /gone } }], to: gone }
  - { name: full, match: [{ path: { exact: /full } }], to: full }
  - { name: up, match: [{ path: { prefix: /up } }], to: app }
"#;

/// An address that swallows the first packets: a listener whose queue is full.
struct Full {
    addr: SocketAddr,
    _held: (socket2::Socket, Vec<TcpStream>),
}

impl Full {
    fn new() -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("bind");
        socket.listen(0).expect("listen");
        let addr = socket.local_addr().ok().and_then(|a| a.as_socket()).expect("an address");
        let mut fillers = Vec::new();
        eventually("the queue is full", SOON, || {
            let stream = TcpStream::connect_timeout(&addr, Duration::from_millis(100));
            stream.map(|stream| fillers.push(stream)).is_err().then_some(())
        });
        Self { addr, _held: (socket, fillers) }
    }
}

impl Stage {
    /// The answer to a request of HTTP/1 with these lines more.
    fn ask(&self, head: &str, id: &str, more: &str) -> common::Message {
        let mut conn = Conn::connect(self.proxy.addr());
        conn.write(format!("{head}X-Request-Id: {id}\r\n{more}\r\n"));
        conn.response(head.split(' ').next().unwrap_or_default())
    }

    /// The line of the log with this id.
    fn logged(&self, id: &str) -> Value {
        logged(&self.proxy, id)
    }
}

fn logged(proxy: &Proxy, id: &str) -> Value {
    let parsed = |line: &String| serde_json::from_str::<Value>(line).ok().filter(|line| line["request_id"] == id);
    eventually(&format!("a line for {id}"), SOON, || proxy.stdout_lines().iter().find_map(parsed))
}

fn field(reply: &common::Message, name: &str) -> String {
    reply.head.get(name).unwrap_or_default()
}

fn signature(reason: Reason) -> String {
    format!("outrigger; error={}; details=\"{}\"", reason.proxy_error(), reason.code())
}

fn told(reason: Reason, head: &str) {
    let id = |form: &str| format!("{}-{form}", reason.code());
    let signed = |reply: &common::Message, form: &str| {
        let received = if reason == Reason::UpgradeMismatch { "; received-status=101" } else { "" };
        assert_eq!(field(reply, "proxy-status"), signature(reason) + received, "{reply:?}");
        assert_eq!(field(reply, "x-request-id"), id(form), "{reply:?}");
        let line = STAGE.logged(&id(form));
        assert_eq!((&line["reason"], &line["producer"]), (&reason.code().into(), &"proxy".into()), "{line}");
        assert_eq!(line["status"], reply.status(), "{line}");
    };
    let reply = STAGE.ask(head, &id("text"), "Accept: */*\r\n");
    assert_eq!((reply.status(), reply.text().as_str()), (reason.status().as_u16(), reason.sentence()), "{reply:?}");
    assert_eq!(field(&reply, "content-type"), "text/plain; charset=utf-8");
    signed(&reply, "text");

    for (form, says, title) in [("application/json", "message", ""), ("application/problem+json", "detail", "title")] {
        let reply = STAGE.ask(head, &id(says), &format!("Accept: text/plain;q=0.3, {form};q=0.7\r\n"));
        assert_eq!(
            (reply.status(), field(&reply, "content-type").as_str()),
            (reason.status().as_u16(), form),
            "{reply:?}"
        );
        let mut wanted = serde_json::json!({
            "status": reason.status().as_u16(), "reason": reason.code(), says: reason.sentence(), "hint": reason.hint(),
            "requestId": id(says),
        });
        if !title.is_empty() {
            wanted[title] = reason.status().canonical_reason().into();
        }
        assert_eq!(serde_json::from_str::<Value>(&reply.text()).ok(), Some(wanted), "{reply:?}");
        signed(&reply, says);
    }

    let reply = STAGE.ask(head, &id("grpc"), "Content-Type: application/grpc\r\nAccept: application/json\r\n");
    assert_eq!((reply.status(), reply.text().as_str()), (200, ""), "{reply:?}");
    assert_eq!(field(&reply, "grpc-status"), reason.grpc().to_string(), "{reply:?}");
    assert_eq!(field(&reply, "grpc-message"), reason.sentence(), "{reply:?}");
    assert_eq!(field(&reply, "content-type"), "application/grpc");
    signed(&reply, "grpc");
    STAGE.proxy.await_metric("http_requests_total", &[("reason", reason.code())], 4.0);
}

fn routed(reason: Reason, head: &str, status: u16, message: &str) {
    let id = |form: &str| format!("{}-{form}", reason.code());
    let reply = STAGE.ask(head, &id("text"), "Accept: application/json\r\n");
    assert_eq!((reply.status(), field(&reply, "proxy-status")), (status, signature(reason)), "{reply:?}");
    let line = STAGE.logged(&id("text"));
    assert_eq!((&line["reason"], &line["producer"]), (&reason.code().into(), &"proxy".into()), "{line}");

    let reply = STAGE.ask(head, &id("grpc"), "Content-Type: application/grpc\r\n");
    assert_eq!((reply.status(), reply.text().as_str()), (200, ""), "{reply:?}");
    let code = if status == 503 { "14" } else { "2" };
    assert_eq!((field(&reply, "grpc-status").as_str(), field(&reply, "grpc-message").as_str()), (code, message));
    let line = STAGE.logged(&id("grpc"));
    assert_eq!((line["grpc_status"].to_string().as_str(), &line["status"]), (code, &200.into()), "{line}");
    STAGE.proxy.await_metric("http_requests_total", &[("reason", reason.code())], 2.0);
}

#[test]
fn every_reason_is_told() {
    for &reason in Reason::ALL {
        match provocation(reason) {
            Never => assert_eq!(reason, Reason::None),
            By(head) => told(reason, head),
            Route(head, status, message) => routed(reason, head, status, message),
            Test(file, name) => {
                let text = std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file));
                let there = text.is_ok_and(|text| {
                    text.contains(&format!("#[test]\n    fn {name}()"))
                        || text.contains(&format!("#[test]\nfn {name}()"))
                });
                assert!(there, "{file} has no test `{name}`, which is to provoke {reason:?}");
            }
        }
    }
}

/// What HTTP/1 allows is judged by its codec; over HTTP/2 it is ours to say, as far as twice the limit.
#[test]
fn a_head_that_is_too_large() {
    const REASON: Reason = Reason::HeadTooLarge;
    let (long, many) = ("v".repeat(9 * 1024), (0..150).map(|n| format!("x-{n}")).collect::<Vec<_>>());
    let many: Vec<(&str, &str)> = many.iter().map(|name| (name.as_str(), "1")).collect();
    for (label, more) in [("long", vec![("x-long", long.as_str())]), ("many", many)] {
        for (form, kind) in [("text", "text/plain"), ("json", "application/json"), ("grpc", "application/grpc")] {
            let id = format!("{label}-{form}");
            let accept = if form == "json" { "application/json" } else { "*/*" };
            let mut fields = vec![("x-request-id", id.as_str()), ("accept", accept)];
            fields.extend((form == "grpc").then_some(("content-type", "application/grpc")));
            fields.extend(&more);
            let reply = call(STAGE.proxy.addr(), request("POST", "/up/fine", &fields), b"", None).expect("an answer");
            let field = |name| reply.head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
            let text = String::from_utf8_lossy(&reply.body);
            assert!(field("content-type").starts_with(kind), "{reply:?}");
            assert_eq!((field("proxy-status"), field("x-request-id")), (signature(REASON).as_str(), id.as_str()));
            match form {
                "grpc" => assert_eq!((field("grpc-status"), field("grpc-message")), ("8", REASON.sentence())),
                "json" => assert!(text.contains("\"reason\":\"head_too_large\""), "{text}"),
                _ => assert_eq!((reply.head.status, &*text), (REASON.status(), REASON.sentence())),
            }
            let line = STAGE.logged(&id);
            assert_eq!((&line["reason"], &line["producer"]), (&REASON.code().into(), &"proxy".into()), "{line}");
        }
    }
    STAGE.proxy.await_metric("http_requests_total", &[("reason", REASON.code())], 6.0);
}

/// There is no request yet, and so neither a line in the log nor a wish for a form.
#[test]
fn a_head_that_is_too_slow() {
    const REASON: Reason = Reason::HeaderTimeout;
    let mut conn = Conn::connect(STAGE.proxy.addr());
    conn.write("GET / HTTP/1.1\r\nHost: app.test\r\n");
    let reply = conn.response("GET");
    assert_eq!((reply.status(), reply.text().as_str(), reply.whole), (408, REASON.sentence(), true), "{reply:?}");
    assert_eq!((field(&reply, "proxy-status"), field(&reply, "connection").as_str()), (signature(REASON), "close"));
    assert_eq!(conn.read_to_end(), b"", "closed");
    STAGE.proxy.await_counted(REASON.code(), 1.0);
}

#[test]
fn a_client_that_leaves() {
    let mut peer = Peer::client(STAGE.proxy.addr(), &[]);
    peer.headers(1, &h2raw::request("GET", "/up/silent", &[("x-request-id", "leaves")]), true);
    let arrived = |seen: &common::origin::Seen| seen.message.head.get("x-request-id").as_deref() == Some("leaves");
    until("the request is at the service", SOON, || STAGE.origin.seen().iter().any(arrived));
    peer.rst(1, h2raw::CANCEL);
    let line = STAGE.logged("leaves");
    assert_eq!(
        (&line["reason"], &line["producer"], &line["status"]),
        (&"client_reset".into(), &"proxy".into(), &499.into())
    );
    STAGE.proxy.await_reason("client_reset", 499);
}

const FORCED: &str = r#"apiVersion: outrigger/v1
admin: { address: "{admin}" }
health: { address: "{health}" }
runtime: { workers: 1, drainTimeout: 300ms }
telemetry: { accessLog: { format: json, sample: { errors: 100, others: 100, maxPerSecond: 0 } } }
listeners: [{ name: edge, mode: proxy, address: "{listen}" }]
services: { app: { protocol: http1, endpoints: { static: ["{up}"] } } }
routes: [{ name: all, to: app }]
"#;

/// Cut before and within the answer; of HTTP/1 and of HTTP/2.
#[test]
fn an_end_by_force() {
    let origin = Origin::start(|seen, conn| {
        if seen.message.head.start_line().contains("/begun") {
            conn.write("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
        }
        conn.read_some();
        Next::Close
    });
    let mut proxy = Proxy::start(FORCED, &[("up", origin.addr())]);
    let mut conns: Vec<Conn> = ["waits", "begun"]
        .map(|id| {
            let mut conn = Conn::connect(proxy.addr());
            conn.write(format!("GET /{id} HTTP/1.1\r\nHost: app.test\r\nX-Request-Id: {id}\r\n\r\n"));
            conn
        })
        .into();
    let mut peer = Peer::client(proxy.addr(), &[]);
    for (stream, path, id) in [(1, "/waits", "waits-2"), (3, "/begun", "begun-2")] {
        peer.headers(stream, &h2raw::request("GET", path, &[("x-request-id", id)]), true);
    }
    origin.nth(4);
    conns[1].read_until(b"half");
    peer.wait("half an answer", |frame| frame.kind == h2raw::DATA && frame.stream == 3);
    proxy.signal("INT");
    assert!(proxy.wait_exit(SOON).success());
    for (id, status) in [("waits", 503), ("begun", 200), ("waits-2", 503), ("begun-2", 200)] {
        let line = logged(&proxy, id);
        let producer = if status == 200 { "application" } else { "proxy" };
        assert_eq!(
            (&line["reason"], &line["status"], &line["producer"]),
            (&"drained".into(), &status.into(), &producer.into()),
            "{line}"
        );
    }
    assert_eq!(conns[0].read_to_end(), b"", "no answer was made up");
}

#[test]
fn whose_answer_it_is() {
    let table = [
        ("/up/other", 502, "application", None),
        ("/up/peer", 504, "peer", Some("no \"name\"")),
        // Good answers are not looked into.
        ("/up/fine", 200, "application", None),
    ];
    for (path, status, producer, why) in table {
        let head = format!("GET {path} HTTP/1.1\r\nHost: app.test\r\n");
        let reply = STAGE.ask(&head, path, "");
        assert_eq!(reply.status(), status, "{reply:?}");
        let line = STAGE.logged(path);
        assert_eq!(
            (&line["producer"], line["reason"].as_str(), line["peer_reason"].as_str()),
            (&producer.into(), None, why),
            "{line}"
        );

        let id = format!("{path}-grpc");
        let reply = STAGE.ask(&head, &id, "Content-Type: application/grpc\r\n");
        assert_eq!(reply.status(), 200, "{reply:?}");
        let line = STAGE.logged(&id);
        assert_eq!((&line["producer"], line["peer_reason"].as_str()), (&producer.into(), why), "{line}");
        if status == 200 {
            continue;
        }
        assert_eq!((line["grpc_status"].as_u64(), reply.text().as_str()), (Some(14), ""), "{line}");
        let message = reply.head.get("grpc-message").unwrap_or_default();
        assert!(message.starts_with(&format!("the service answered HTTP {status} ")), "{message}");
        assert_eq!(message.contains("no \"name\""), why.is_some(), "{message}");
        let member = format!("outrigger; received-status={status}");
        assert_eq!(reply.head.all("proxy-status").last(), Some(&member), "{reply:?}");
        assert_eq!(reply.head.get("retry-after").as_deref(), (status == 502).then_some("7"), "kept as metadata");
    }
    // In front of another Outrigger, its reason is ours to tell.
    let front = Proxy::front(STAGE.proxy.addr());
    for (id, kind) in [("chain", "text/plain"), ("chain-grpc", "application/grpc")] {
        let mut conn = Conn::connect(front.addr());
        conn.write(format!(
            "GET /gone HTTP/1.1\r\nHost: app.test\r\nX-Request-Id: {id}\r\nContent-Type: {kind}\r\n\r\n"
        ));
        conn.response("GET");
        let line = logged(&front, id);
        assert_eq!((&line["producer"], &line["peer_reason"]), (&"peer".into(), &"connect_failed".into()), "{line}");
        assert!(line.get("reason").is_none(), "{line}");
    }
}

/// A status 200 would open the tunnel.
#[test]
fn connect_is_refused_in_http() {
    let mut conn = Conn::connect(STAGE.proxy.addr());
    conn.write("CONNECT app.test:80 HTTP/1.1\r\nHost: app.test:80\r\nContent-Type: application/grpc\r\n\r\n");
    let reply = conn.response("CONNECT");
    assert_eq!((reply.status(), reply.text().as_str()), (501, Reason::Unsupported.sentence()), "{reply:?}");
}

#[test]
fn an_error_to_head_is_all_but_its_body() {
    let mut conn = Conn::connect(STAGE.proxy.addr());
    conn.write("HEAD /nowhere HTTP/1.1\r\nHost: app.test\r\nAccept: application/json\r\nX-Request-Id: of-head\r\n\r\n");
    let reply = conn.response("HEAD");
    assert_eq!((reply.status(), field(&reply, "content-type").as_str()), (404, "application/json"), "{reply:?}");
    let body = STAGE.ask("GET /nowhere HTTP/1.1\r\nHost: app.test\r\n", "of-head", "Accept: application/json\r\n").body;
    assert_eq!(field(&reply, "content-length"), body.len().to_string(), "{reply:?}");
    conn.write("GET /up/fine HTTP/1.1\r\nHost: app.test\r\n\r\n");
    assert_eq!(conn.response("GET").status(), 200, "nothing was left between them");
}

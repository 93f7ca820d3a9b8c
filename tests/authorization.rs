//! Who may do what, over the wire: by address, port, method, path and header; in all forms of an answer; on TCP and in
//! tunnels; in shadow mode; and after a reload. Callers have addresses of their own on loopback.

mod common;

use std::net::{IpAddr, SocketAddr, TcpStream};

use common::h2peer::{call, request};
use common::tell::{explain, outrigger};
use common::{Conn, Message, Origin, Proxy, SOON, TempDir, eventually, show, until};
use serde_json::{Value, json};

const CONFIG: &str = r#"apiVersion: outrigger/v1
admin: { address: "{admin}" }
health: { address: "{health}" }
runtime: { workers: 2, probation: 0s }
telemetry: { accessLog: { format: json, sample: { errors: 100, others: 100, maxPerSecond: 0 } } }
listeners:
  - { name: edge, mode: proxy, address: "{listen}" }
  - { name: raw, mode: proxy, address: "{listen2}", protocol: tcp }
services:
  app: { protocol: http1, endpoints: { static: ["{up}"] } }
  db: { protocol: tcp, endpoints: { static: ["{up}"] } }
routes:
  - { name: db, listeners: [raw], to: db }
  - { name: all, hosts: [app.test], to: app }
  - { name: moved, hosts: [app.test], match: [{ path: { prefix: /old } }], redirect: { host: b.test } }
  - { name: said, hosts: [app.test], match: [{ path: { prefix: /said } }], respond: { status: 200, body: hello } }
"#;

const ENTRIES: &str = r#"authorization:
  - name: reads
    listeners: [edge]
    allow:
      - { from: { cidrs: [127.0.0.1, 127.0.1.0/24] } }
      - { from: { cidrs: [127.0.0.2] }, to: { methods: [GET, HEAD], paths: [{ prefix: /api }, { exact: /health }] } }
      - { from: { cidrs: [127.0.0.3] }, to: { headers: { x-role: { prefix: reader } }, hosts: ["*.test"] } }
  - name: no-admin
    listeners: [edge]
    deny: [{ to: { paths: [{ prefix: /admin }] } }, { to: { headers: { x-debug: "1" } } }]
  - { name: db-callers, ports: [PORT2], allow: [{ from: { cidrs: [127.0.0.1] } }] }
"#;

/// Answers `200 path`, agrees to any upgrade, and echoes whatever is no HTTP.
fn origin() -> Origin {
    Origin::raw(|mut conn, _| {
        loop {
            let first = conn.read_some();
            if first.is_empty() {
                return;
            }
            if !first.starts_with(b"GET") && !first.starts_with(b"POST") && !first.starts_with(b"HEAD") {
                conn.try_write(first);
                continue;
            }
            let text = String::from_utf8_lossy(&first).into_owned();
            let path = text.split(' ').nth(1).unwrap_or_default().to_owned();
            if text.to_ascii_lowercase().contains("upgrade: websocket") {
                conn.try_write("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
                continue;
            }
            conn.try_write(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}", path.len()));
        }
    })
}

fn start(entries: &str, origin: &Origin) -> Proxy {
    let lay = |dir: &TempDir, fill: &dyn Fn(&str) -> String| {
        let listen2 = fill("{listen2}");
        let port = listen2.rsplit(':').next().expect("a port");
        dir.file("outrigger.yaml", fill(&format!("{CONFIG}{entries}").replace("PORT2", port)))
    };
    Proxy::start_laid(&lay, &[("up", origin.addr())])
}

/// A connection from this address.
fn from(ip: &str, to: SocketAddr) -> Conn {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    let ip: IpAddr = ip.parse().expect("an address");
    socket.bind(&SocketAddr::new(ip, 0).into()).expect("bind");
    socket.connect(&to.into()).expect("connect");
    Conn::new(TcpStream::from(socket))
}

fn ask(proxy: &Proxy, ip: &str, line: &str, headers: &str) -> Message {
    let mut conn = from(ip, proxy.addr());
    let host = if headers.contains("Host: ") { "" } else { "Host: app.test\r\n" };
    conn.write(format!("{line} HTTP/1.1\r\n{host}{headers}\r\n"));
    conn.response(line.split(' ').next().unwrap_or_default())
}

fn field(reply: &Message, name: &str) -> String {
    reply.head.get(name).unwrap_or_default()
}

fn logged(proxy: &Proxy, holds: impl Fn(&Value) -> bool) -> Value {
    let parsed = |line: &String| serde_json::from_str::<Value>(line).ok().filter(|line| holds(line));
    eventually("a line of the log", SOON, || proxy.stdout_lines().iter().find_map(parsed))
}

#[test]
fn who_may_do_what() {
    let origin = origin();
    let proxy = start(ENTRIES, &origin);
    for (ip, line, headers, denied) in [
        ("127.0.0.1", "GET /", "", None),
        ("127.0.0.1", "POST /x", "Content-Length: 0\r\n", None),
        ("127.0.1.77", "GET /x", "", None),
        ("127.0.2.1", "GET /x", "", Some("reads")),
        ("127.0.0.2", "GET /api", "", None),
        ("127.0.0.2", "HEAD /api/x", "", None),
        ("127.0.0.2", "GET /health", "", None),
        ("127.0.0.2", "GET /health/x", "", Some("reads")),
        ("127.0.0.2", "GET /apis", "", Some("reads")),
        ("127.0.0.2", "POST /api", "Content-Length: 0\r\n", Some("reads")),
        ("127.0.0.3", "GET /x", "", Some("reads")),
        ("127.0.0.3", "GET /x", "X-Role: reader-1\r\n", None),
        ("127.0.0.3", "GET /x", "X-Role: writer\r\nX-Role: reader\r\n", None),
        ("127.0.0.3", "GET /x", "X-Role: writer\r\n", Some("reads")),
        // Deny wins.
        ("127.0.0.1", "GET /admin", "", Some("no-admin")),
        ("127.0.0.1", "GET /x", "X-Debug: 0\r\nx-debug: 1\r\n", Some("no-admin")),
        ("127.0.0.2", "GET /admin", "", Some("no-admin")),
        // Before anything that the proxy would answer itself, whether or not there is a route.
        ("127.0.0.9", "GET /old", "", Some("reads")),
        ("127.0.0.9", "GET /said", "", Some("reads")),
        ("127.0.0.9", "GET /x", "Host: nobody.test\r\n", Some("reads")),
    ] {
        let reply = ask(&proxy, ip, line, headers);
        match denied {
            None => assert_eq!(reply.status(), 200, "{ip} {line} {headers}: {reply:?}"),
            Some(name) => {
                assert_eq!(reply.status(), 403, "{ip} {line} {headers}: {reply:?}");
                let status =
                    format!("outrigger; error=http_request_denied; details=\"denied by authorization {name}\"");
                assert_eq!(field(&reply, "proxy-status"), status);
                assert_eq!(reply.text(), format!("authorization does not allow this ({name})"));
            }
        }
    }
    assert_eq!(ask(&proxy, "127.0.0.1", "GET /old", "").status(), 302);
    assert_eq!(ask(&proxy, "127.0.0.1", "GET /said", "").text(), "hello");
    assert_eq!(ask(&proxy, "127.0.0.1", "GET /x", "Host: nobody.test\r\n").status(), 404);
    let denied = |rule: &str| {
        let labels = [("listener", "edge"), ("rule", rule), ("mode", "enforce")];
        proxy.metric("outrigger_authorization_denied_total", &labels)
    };
    assert_eq!((denied("reads"), denied("no-admin"), denied("db-callers")), (9.0, 3.0, 0.0));
    proxy.await_metric("http_requests_total", &[("reason", "denied"), ("status_code", "403")], 12.0);
    // A connection goes on after it.
    let mut conn = from("127.0.0.2", proxy.addr());
    for (path, status) in [("/x", 403), ("/api", 200), ("/y", 403), ("/api", 200)] {
        conn.write(format!("GET {path} HTTP/1.1\r\nHost: app.test\r\n\r\n"));
        assert_eq!(conn.response("GET").status(), status, "{path}");
    }
}

/// What is routed, judged and forwarded is one and the same path.
#[test]
fn no_spelling_of_a_path_gets_around_it() {
    let origin = origin();
    let proxy = start(ENTRIES, &origin);
    for path in [
        "/admin",
        "/admin/",
        "/admin/x?y=/api",
        "/%61dmin",
        "/%61%64%6D%69%6e/x",
        "/./admin",
        "/x/../admin",
        "/x/%2e%2e/admin",
        "/x/%2E./admin",
        "/x/./%2e/../admin/y",
        "/../admin",
        "/admin/./x",
    ] {
        assert_eq!(ask(&proxy, "127.0.0.1", &format!("GET {path}"), "").status(), 403, "{path}");
        // And the other way round: what only looks like an allowed path is none.
        let around = format!("GET /api/..{path}");
        assert_eq!(ask(&proxy, "127.0.0.2", &around, "").status(), 403, "{around}");
    }
    assert_eq!(ask(&proxy, "127.0.0.2", "GET /api/../x", "").status(), 403);
    assert_eq!(ask(&proxy, "127.0.0.2", "GET /api/%2e%2e/x", "").status(), 403);
    // Other paths than /admin: the service gets them as they came, byte for byte, and has to read them so.
    for path in [
        "//admin",
        "/admin%2Fx",
        "/admin%2fx",
        "/x/..%2Fadmin",
        "/x%2f..%2fadmin",
        "/%2561dmin",
        "/Admin",
        "/admin;x",
        "/x\\..\\admin",
    ] {
        let reply = ask(&proxy, "127.0.0.1", &format!("GET {path}"), "");
        assert_eq!((reply.status(), reply.text().as_str()), (200, path));
    }
    // Dot segments are resolved before it is sent on.
    let reply = ask(&proxy, "127.0.0.2", "GET /x/%2e%2e/api/./y", "");
    assert_eq!((reply.status(), reply.text().as_str()), (200, "/api/y"));
    for path in ["/admin%00", "/%00", "/api%00/x", "/admin%", "/admin%zz"] {
        assert_eq!(ask(&proxy, "127.0.0.1", &format!("GET {path}"), "").status(), 400, "{path}");
    }
    // The absolute form and HTTP/2 name the same.
    assert_eq!(ask(&proxy, "127.0.0.1", "GET http://app.test/x/../admin", "").status(), 403);
    let h2 = |path: &str| {
        let builder = http::Request::builder().uri(format!("http://app.test{path}"));
        let reply = call(proxy.addr(), builder.body(()).expect("a request"), b"", None).expect("an answer");
        reply.head.status.as_u16()
    };
    assert_eq!((h2("/%61dmin"), h2("/x/%2e%2e/admin/y"), h2("/x")), (403, 403, 200));
}

#[test]
fn every_client_is_told_in_its_own_terms() {
    let origin = origin();
    let proxy = start(ENTRIES, &origin);
    const SENTENCE: &str = "authorization does not allow this (no-admin)";
    for (form, says) in [("application/json", "message"), ("application/problem+json", "detail")] {
        let reply = ask(&proxy, "127.0.0.1", "GET /admin", &format!("Accept: {form}\r\nX-Request-Id: {says}\r\n"));
        let told: Value = serde_json::from_str(&reply.text()).expect("JSON");
        assert_eq!((reply.status(), field(&reply, "content-type").as_str()), (403, form));
        assert_eq!((&told["status"], &told["reason"], &told[says]), (&json!(403), &json!("denied"), &json!(SENTENCE)));
        assert_eq!((&told["authorization"], &told["requestId"]), (&json!("no-admin"), &json!(says)), "{told}");
        let line = logged(&proxy, |line| line["request_id"] == says);
        assert_eq!((&line["reason"], &line["authorization"]), (&json!("denied"), &json!("no-admin")), "{line}");
        assert_eq!((&line["route"], &line["producer"]), (&json!("all"), &json!("proxy")), "{line}");
        let why = eventually("it is kept", SOON, || {
            let reply = proxy.admin("GET", &format!("/why/{says}"));
            (reply.status() == 200).then(|| serde_json::from_slice::<Value>(&reply.body).expect("JSON"))
        });
        assert_eq!((&why["authorization"], &why["failed"]), (&json!("no-admin"), &json!(true)), "{why}");
        let admin = proxy.place("admin").to_string();
        outrigger(&["why", says, "--admin", &admin]).says(&["denied by", "authorization no-admin"]);
    }
    let reply = ask(&proxy, "127.0.0.1", "HEAD /admin", "");
    assert_eq!((reply.status(), reply.text().as_str()), (403, ""));

    // gRPC: PERMISSION_DENIED, at the end of a head without a body.
    let grpc = "Content-Type: application/grpc\r\nTE: trailers\r\n";
    let reply = ask(&proxy, "127.0.0.1", "POST /admin/Call", &format!("{grpc}Content-Length: 0\r\n"));
    assert_eq!((reply.status(), reply.text().as_str()), (200, ""));
    assert_eq!((field(&reply, "grpc-status"), field(&reply, "grpc-message")), ("7".to_owned(), SENTENCE.to_owned()));
    let reply = call(
        proxy.addr(),
        request("POST", "/admin/Call", &[("content-type", "application/grpc"), ("te", "trailers")]),
        b"",
        None,
    );
    let head = reply.expect("an answer").head;
    let field = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    assert_eq!((head.status.as_u16(), field("grpc-status"), field("grpc-message")), (200, "7", SENTENCE));
    assert_eq!(
        field("proxy-status"),
        "outrigger; error=http_request_denied; details=\"denied by authorization no-admin\""
    );
    proxy.await_metric("grpc_server_handled_total", &[("grpc_code", "PERMISSION_DENIED")], 2.0);

    // Who waits to be asked for a body is not.
    let mut conn = from("127.0.0.1", proxy.addr());
    conn.write("POST /admin HTTP/1.1\r\nHost: app.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    assert_eq!(conn.head().status(), 403);
    assert_eq!(origin.connections(), 0, "nobody has asked the service");
}

#[test]
fn the_explanation_is_what_happens() {
    let origin = origin();
    let proxy = start(ENTRIES, &origin);
    let shadow = r#"authorization:
  - { name: soon, mode: shadow, listeners: [edge], deny: [{ to: { methods: [POST] } }] }
"#;
    proxy.reload("authorization:\n", shadow);
    for (ip, line) in [
        ("127.0.0.1", "GET /"),
        ("127.0.0.1", "POST /x"),
        ("127.0.0.1", "GET /admin"),
        ("127.0.0.2", "GET /api"),
        ("127.0.0.2", "POST /api"),
        ("127.0.0.9", "GET /old"),
    ] {
        let (method, path) = line.split_once(' ').expect("a method");
        let url = format!("http://app.test{path}");
        let told = explain(&proxy, &json!({ "method": method, "url": url, "from": ip, "listener": "edge" }));
        let reply = ask(&proxy, ip, line, "X-Outrigger-Explain: 1\r\nContent-Length: 0\r\n");
        let denied = reply.status() == 403;
        assert_eq!(told["outcome"] == "refuse", denied, "{ip} {line}: {told:#}");
        let deciding = |shadow: bool| {
            let all = told["authorization"].as_array().expect("entries").iter();
            let one = all.filter(|entry| entry["decides"] == true && entry["shadow"] == shadow);
            one.filter_map(|entry| entry["name"].as_str()).collect::<Vec<_>>()
        };
        let header = field(&reply, "x-outrigger-explain");
        let said: Vec<&str> = header.split("; ").filter_map(|pair| pair.strip_prefix("authorization=")).collect();
        let expected: Vec<String> = deciding(false)
            .into_iter()
            .map(str::to_owned)
            .chain(deciding(true).into_iter().map(|name| format!("{name} (shadow)")))
            .collect();
        assert_eq!(said, expected, "{ip} {line}: {header}");
        assert_eq!(deciding(false).len(), usize::from(denied), "{told:#}");
        assert_eq!(deciding(true), if denied || method == "GET" { vec![] } else { vec!["soon"] });
    }
    let admin = proxy.place("admin").to_string();
    let told = outrigger(&[
        "explain",
        "http://app.test/admin",
        "--listener",
        "edge",
        "--from",
        "127.0.0.1",
        "--admin",
        &admin,
    ]);
    told.says(&[
        "access       soon (shadow): none of its deny rules fits",
        "+ reads: allow[0] fits",
        "- no-admin: deny[0] fits, which refuses this",
        "403 denied: authorization does not allow this (no-admin)",
    ]);
    let told = outrigger(&["explain", "http://app.test/", "--from", "web", "--admin", &admin]);
    told.is_error(2, &["`web` is no address"]);
}

#[test]
fn a_shadow_tells_and_refuses_nothing() {
    let origin = origin();
    let shadow = ENTRIES.replace("listeners: [edge]\n", "listeners: [edge]\n    mode: shadow\n");
    let proxy = start(&shadow, &origin);
    for (ip, line, id) in [
        ("127.0.0.1", "GET /x", "fine"),
        ("127.0.0.1", "GET /admin", "admin"),
        ("127.0.0.9", "GET /x", "stranger"),
        ("127.0.0.9", "GET /admin", "both"),
    ] {
        assert_eq!(ask(&proxy, ip, line, &format!("X-Request-Id: {id}\r\n")).status(), 200, "{ip} {line}");
    }
    let report = eventually("it is told", SOON, || {
        Some(proxy.admin_json("/shadow"))
            .filter(|report| report["examples"].as_array().is_some_and(|all| all.len() == 4))
    });
    assert_eq!(
        report["counts"],
        json!([{ "listener": "edge", "route": "all", "rule": "authorization", "count": 3 }]),
        "three requests, of which one would be refused by two entries"
    );
    assert_eq!(
        report["authorization"],
        json!([{ "listener": "edge", "entry": "no-admin", "count": 2 }, { "listener": "edge", "entry": "reads", "count": 2 }])
    );
    let example = |id: &str| {
        let all = report["examples"].as_array().expect("examples").iter();
        all.filter(|one| one["requestId"] == id)
            .map(|one| one["entry"].as_str().unwrap_or_default())
            .collect::<Vec<_>>()
    };
    assert_eq!((example("admin"), example("stranger"), example("both").len()), (vec!["no-admin"], vec!["reads"], 2));
    let one = report["examples"].as_array().and_then(|all| all.iter().find(|one| one["requestId"] == "stranger"));
    let one = one.expect("an example");
    assert!(one["peer"].as_str().is_some_and(|peer| peer.starts_with("127.0.0.9:")), "{one}");
    assert_eq!((&one["rule"], &one["path"], one.get("limit")), (&json!("authorization"), &json!("/x"), None), "{one}");
    assert_eq!(proxy.metric("outrigger_shadow_total", &[("rule", "authorization")]), 3.0);
    let counted = |mode| proxy.metric("outrigger_authorization_denied_total", &[("mode", mode)]);
    assert_eq!((counted("shadow"), counted("enforce")), (4.0, 0.0));
    let why = proxy.admin_json("/why/admin");
    assert_eq!(why["shadow"], json!([{ "rule": "authorization", "entry": "no-admin" }]), "{why:#}");
    let admin = proxy.place("admin").to_string();
    outrigger(&["why", "admin", "--admin", &admin]).says(&["authorization no-admin would have refused this"]);

    // From a trial to the rule itself, on the same connection.
    let mut conn = from("127.0.0.1", proxy.addr());
    let mut status = || {
        conn.write("GET /admin HTTP/1.1\r\nHost: app.test\r\n\r\n");
        conn.response("GET").status()
    };
    assert_eq!(status(), 200);
    proxy.reload("    mode: shadow\n", "    mode: enforce\n");
    assert_eq!(status(), 403);
    proxy.reload("    mode: enforce\n", "    mode: \"off\"\n");
    assert_eq!(status(), 200);
    assert_eq!(proxy.metric("outrigger_shadow_total", &[("rule", "authorization")]), 4.0);
}

#[test]
fn a_connection_is_refused_before_anything_is_dialled() {
    let origin = origin();
    let proxy = start(ENTRIES, &origin);
    let raw = proxy.place("listen2");
    let mut conn = from("127.0.0.2", raw);
    conn.try_write("hello");
    assert_eq!(show(&conn.read_to_end()), "");
    assert_eq!(origin.connections(), 0);
    let line = logged(&proxy, |line| line["protocol"] == "TCP");
    assert_eq!((&line["reason"], &line["authorization"]), (&json!("denied"), &json!("db-callers")), "{line}");
    assert_eq!(
        (&line["route"], line["peer"].as_str().map(|peer| peer.starts_with("127.0.0.2:"))),
        (&json!("db"), Some(true))
    );
    proxy.await_metric("outrigger_worker_connections_closed_total", &[("reason", "denied")], 1.0);
    let labels = [("listener", "raw"), ("rule", "db-callers"), ("mode", "enforce")];
    assert_eq!(proxy.metric("outrigger_authorization_denied_total", &labels), 1.0);
    let mut conn = from("127.0.0.1", raw);
    conn.write("hello");
    assert_eq!(conn.read_exact(5), b"hello");

    let told = explain(&proxy, &json!({ "url": "/", "listener": "raw", "from": "127.0.0.2" }));
    assert_eq!((&told["outcome"], &told["reason"]["code"]), (&json!("refuse"), &json!("denied")), "{told:#}");
}

/// It is asked about again, without having said or heard anything.
#[test]
fn a_long_connection_is_judged_again_after_a_reload() {
    let origin = origin();
    let proxy = start(ENTRIES, &origin);
    let raw = proxy.place("listen2");
    let mut connections: Vec<Conn> = (0..8).map(|_| from("127.0.0.1", raw)).collect();
    for conn in &mut connections {
        conn.write("hello");
        assert_eq!(conn.read_exact(5), b"hello");
    }
    // A reload of something else ends nothing.
    proxy.reload("x-role: { prefix: reader }", "x-role: { prefix: writer }");
    for conn in &mut connections {
        conn.write("again");
        assert_eq!(conn.read_exact(5), b"again");
    }
    // In shadow mode it is told, once for each.
    proxy.reload(
        "authorization:\n",
        "authorization:\n  - { name: closing, listeners: [raw], mode: shadow, deny: [{ from: { cidrs: [127.0.0.1] } }] }\n",
    );
    let labels = |mode| [("listener", "raw"), ("rule", "closing"), ("mode", mode)];
    proxy.await_metric("outrigger_authorization_denied_total", &labels("shadow"), 8.0);
    proxy.await_metric("outrigger_shadow_total", &[("rule", "authorization"), ("route", "db")], 8.0);
    let example = proxy.admin_json("/shadow")["examples"][0].clone();
    assert_eq!((&example["entry"], &example["route"], example.get("path")), (&json!("closing"), &json!("db"), None));
    proxy.reload("x-role: { prefix: writer }", "x-role: { prefix: reader }");
    for conn in &mut connections {
        conn.write("still");
        assert_eq!(conn.read_exact(5), b"still");
    }
    assert_eq!(proxy.metric("outrigger_authorization_denied_total", &labels("shadow")), 8.0);

    proxy.reload("name: closing, listeners: [raw], mode: shadow", "name: closing, listeners: [raw], mode: enforce");
    for conn in &mut connections {
        assert_eq!(show(&conn.read_to_end()), "", "ended");
    }
    until("the service is let go", SOON, || origin.open() == 0);
    proxy.await_metric("outrigger_worker_connections_closed_total", &[("reason", "denied")], 8.0);
    let line = logged(&proxy, |line| line["authorization"] == "closing");
    assert_eq!((&line["reason"], &line["request_bytes"]), (&json!("denied"), &json!(15)), "{line}");
    assert_eq!(proxy.metric("outrigger_authorization_denied_total", &labels("enforce")), 8.0);
}

#[test]
fn a_tunnel_is_judged_again_by_the_request_that_it_was() {
    let origin = origin();
    let proxy = start(ENTRIES, &origin);
    let open = |path: &str, more: &str| {
        let mut conn = from("127.0.0.1", proxy.addr());
        conn.write(format!(
            "GET {path} HTTP/1.1\r\nHost: app.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\nX-Request-Id: {path}\r\n{more}\r\n"
        ));
        assert_eq!(conn.head().status(), 101, "{path}");
        conn.write("hello");
        assert_eq!(conn.read_exact(5), b"hello");
        conn
    };
    let mut conn = from("127.0.0.1", proxy.addr());
    conn.write("GET /admin HTTP/1.1\r\nHost: app.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(conn.head().status(), 403);
    let (mut room, mut encoded, mut role, mut other) =
        (open("/room", ""), open("/x/../%72oom/1", ""), open("/y", "X-Old: 1\r\n"), open("/z", ""));
    proxy.reload(
        "deny: [{ to: { paths: [{ prefix: /admin }] } }",
        "deny: [{ to: { paths: [{ prefix: /room }], hosts: [app.test], methods: [GET] } }, { to: { headers: { x-old: \"1\" } } }",
    );
    for conn in [&mut room, &mut encoded, &mut role] {
        assert_eq!(show(&conn.read_to_end()), "", "ended");
    }
    other.write("still here");
    assert_eq!(other.read_exact(10), b"still here");
    until("the service is let go", SOON, || origin.open() == 1);
    let line = logged(&proxy, |line| line["request_id"] == "/room" && line["reason"] == "denied");
    assert_eq!((&line["status"], &line["authorization"]), (&json!(101), &json!("no-admin")), "{line}");
    proxy.await_metric("http_requests_total", &[("reason", "denied"), ("status_code", "101")], 3.0);
    assert_eq!(proxy.metric("outrigger_authorization_denied_total", &[("rule", "no-admin")]), 4.0);
}

#[test]
fn a_route_may_ask_who_calls() {
    let origin = origin();
    let proxy = start("", &origin);
    proxy.reload(
        "routes:\n",
        "routes:\n  - { name: inside, hosts: [app.test], match: [{ from: { cidrs: [127.0.0.8/29] } }], respond: { status: 200, body: inside } }\n",
    );
    for (ip, text) in [("127.0.0.9", "inside"), ("127.0.0.15", "inside"), ("127.0.0.1", "/x"), ("127.0.0.16", "/x")] {
        assert_eq!(ask(&proxy, ip, "GET /x", "").text(), text, "{ip}");
    }
}

/// What a new entry would refuse is told before it is there.
#[test]
fn the_blast_radius_knows_who_calls() {
    let origin = origin();
    let proxy = start("", &origin);
    for (ip, count) in [("127.0.0.1", 6), ("127.0.0.2", 2)] {
        for _ in 0..count {
            assert_eq!(ask(&proxy, ip, "GET /x", "").status(), 200);
        }
    }
    let text = std::fs::read_to_string(proxy.config()).expect("the configuration");
    let dir = TempDir::new("authorization");
    let entry = "authorization: [{ name: one, listeners: [edge], allow: [{ from: { cidrs: [127.0.0.1] } }] }]\n";
    let file = dir.file("next.yaml", format!("{text}{entry}"));
    let told = proxy.cli(&["diff", file.to_str().expect("UTF-8")]);
    assert_eq!(told.code, 0, "{told:?}");
    for part in [
        "authorization `one`: added, 1 allow, 0 deny",
        "25 % of requests",
        "become refused (denied by one) (were: app)",
        "one caller: 127.0.0.2",
    ] {
        assert!(told.out.contains(part), "`{part}` is missing in:\n{}", told.out);
    }
}

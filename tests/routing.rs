//! Which route a request takes, and what the route does to it, end to end. Balancing is in `balancing.rs`.

mod common;

use std::net::SocketAddr;

use common::h2peer::{call, request};
use common::{Conn, Head, Message, Origin, Proxy, Setup, pattern};

const TOP: &str = r#"apiVersion: outrigger/v1
admin: { address: "{admin}" }
health: { address: "{health}" }
runtime: { workers: 1 }
listeners: [{ name: edge, mode: proxy, address: "{listen}" }]
"#;

/// Sends a request of these lines after the start line, and returns the answer.
fn ask(proxy: &Proxy, line: &str, headers: &str) -> Message {
    let mut conn = Conn::connect(proxy.addr());
    conn.write(format!("{line} HTTP/1.1\r\nConnection: close\r\n{headers}\r\n"));
    conn.response(line.split(' ').next().unwrap_or_default())
}

/// Which route answered: each of them answers by its own name.
fn route(proxy: &Proxy, line: &str, headers: &str) -> String {
    let reply = ask(proxy, line, headers);
    if reply.status() == 404 { "none".into() } else { reply.text() }
}

/// Routes by name, with what they match; all of them answer by their name.
const PRECEDENCE: &[(&str, &str)] = &[
    ("any-host", "match: [{ path: { prefix: / } }]"),
    ("any-exact", "match: [{ path: { exact: /exact } }]"),
    ("wild", r#"hosts: ["*.shop.test"]"#),
    ("wild-long", r#"hosts: ["*.eu.shop.test"]"#),
    ("host", "hosts: [www.shop.test]"),
    ("host-prefix", "hosts: [www.shop.test], match: [{ path: { prefix: /a } }]"),
    ("host-prefix-long", "hosts: [www.shop.test], match: [{ path: { prefix: /a/b } }]"),
    ("host-exact", "hosts: [www.shop.test], match: [{ path: { exact: /a/b/c } }]"),
    ("host-template", r#"hosts: [www.shop.test], match: [{ path: { template: "/a/{id}/c" } }]"#),
    ("host-regex", r#"hosts: [www.shop.test], match: [{ path: { regex: "/(a|r)/.*" } }]"#),
    ("regex-headers", r#"hosts: [www.shop.test], match: [{ path: { regex: "/r/.*" }, headers: { x-a: "1" } }]"#),
    ("m-none", "hosts: [m.test], match: [{ path: { exact: /m } }]"),
    ("m-method", "hosts: [m.test], match: [{ path: { exact: /m }, methods: [PUT, POST] }]"),
    ("m-headers-1", r#"hosts: [m.test], match: [{ path: { exact: /m }, headers: { x-a: "1" } }]"#),
    (
        "m-headers-2",
        r#"hosts: [m.test], match: [{ path: { exact: /m }, headers: { x-a: "1", x-b: { prefix: "1" } } }]"#,
    ),
    ("m-query-1", r#"hosts: [m.test], match: [{ path: { exact: /m }, query: { q: "1" } }]"#),
    ("m-query-2", r#"hosts: [m.test], match: [{ path: { exact: /m }, query: { q: "1", r: { present: true } } }]"#),
    ("m-both", r#"hosts: [m.test], match: [{ path: { exact: /m }, headers: { x-a: "1" }, query: { q: "1" } }]"#),
];

/// Start line, more headers, and the route that answers.
const EXPECTED: &[(&str, &str, &str)] = &[
    ("GET /", "Host: else.test", "any-host"),
    ("GET /exact", "Host: else.test", "any-exact"),
    ("GET /exact/", "Host: else.test", "any-host"),
    // A more telling host wins over a more telling path.
    ("GET /exact", "Host: x.shop.test", "wild"),
    ("GET /", "Host: a.b.shop.test", "wild"),
    ("GET /", "Host: shop.test", "any-host"),
    ("GET /", "Host: xshop.test", "any-host"),
    ("GET /", "Host: x.eu.shop.test", "wild-long"),
    ("GET /", "Host: eu.shop.test", "wild"),
    ("GET /", "Host: www.shop.test", "host"),
    ("GET /", "Host: WWW.Shop.Test:8080", "host"),
    ("GET /a", "Host: www.shop.test", "host-prefix"),
    ("GET /a/", "Host: www.shop.test", "host-prefix"),
    ("GET /a/x", "Host: www.shop.test", "host-prefix"),
    ("GET /ab", "Host: www.shop.test", "host"),
    ("GET /a/b", "Host: www.shop.test", "host-prefix-long"),
    ("GET /a/b/d", "Host: www.shop.test", "host-prefix-long"),
    ("GET /a/b/c", "Host: www.shop.test", "host-exact"),
    ("GET /a/b/c?d=e", "Host: www.shop.test", "host-exact"),
    ("GET /a/x/c", "Host: www.shop.test", "host-template"),
    ("GET /a/x/c/d", "Host: www.shop.test", "host-prefix"),
    ("GET /a//c", "Host: www.shop.test", "host-prefix"),
    ("GET /r/s", "Host: www.shop.test", "host-regex"),
    ("GET /x/r/s", "Host: www.shop.test", "host"),
    ("GET /r/s", "Host: www.shop.test\r\nX-A: 1", "regex-headers"),
    ("GET /m", "Host: m.test", "m-none"),
    ("POST /m", "Host: m.test", "m-method"),
    ("POST /m", "Host: m.test\r\nX-A: 1\r\nX-B: 12", "m-method"),
    ("GET /m", "Host: m.test\r\nX-A: 1", "m-headers-1"),
    ("GET /m", "Host: m.test\r\nX-A: 2", "m-none"),
    ("GET /m", "Host: m.test\r\nX-A: 1\r\nX-B: 12", "m-headers-2"),
    ("GET /m?q=1", "Host: m.test", "m-query-1"),
    ("GET /m?r&q=1", "Host: m.test", "m-query-2"),
    ("GET /m?q=1", "Host: m.test\r\nX-A: 1", "m-both"),
    ("GET /m?q=1&r=2", "Host: m.test\r\nX-A: 1", "m-both"),
    ("GET /m?q=1&r=2", "Host: m.test\r\nX-A: 1\r\nX-B: 1", "m-headers-2"),
];

fn precedence_config<'a>(order: impl Iterator<Item = &'a (&'a str, &'a str)>) -> String {
    let routes =
        order.map(|(name, what)| format!("  - {{ name: {name}, {what}, respond: {{ status: 200, body: {name} }} }}\n"));
    format!("{TOP}routes:\n{}", routes.collect::<String>())
}

#[test]
fn precedence_whatever_the_order_of_the_file() {
    let proxy = Proxy::start(&precedence_config(PRECEDENCE.iter()), &[]);
    let check = |order: &str| {
        for (line, headers, wanted) in EXPECTED {
            assert_eq!(route(&proxy, line, &format!("{headers}\r\n")), *wanted, "{line} {headers:?} {order}");
        }
    };
    check("in order");
    let mut seed = 0;
    for order in ["backwards", "shuffled", "shuffled again"] {
        let mut rows: Vec<_> = PRECEDENCE.iter().rev().collect();
        if order != "backwards" {
            seed += 2;
            let keys = pattern(seed, rows.len() * 4);
            let mut keyed: Vec<_> = keys.chunks(4).map(<[u8]>::to_vec).zip(rows).collect();
            keyed.sort();
            rows = keyed.into_iter().map(|(_, row)| row).collect();
        }
        proxy.reload_with(&precedence_config(rows.into_iter()));
        check(order);
    }
}

#[test]
fn among_equals_the_earlier_line_wins() {
    let row = |name: &str, header: &str| {
        format!(
            "  - {{ name: {name}, match: [{{ headers: {{ {header}: \"1\" }} }}], respond: {{ status: 200, body: {name} }} }}\n"
        )
    };
    let both = "Host: app.test\r\nX-A: 1\r\nX-B: 1\r\n";
    let proxy = Proxy::start(&format!("{TOP}routes:\n{}{}", row("a", "x-a"), row("b", "x-b")), &[]);
    assert_eq!(route(&proxy, "GET /", both), "a");
    proxy.reload_with(&format!("{TOP}routes:\n{}{}", row("b", "x-b"), row("a", "x-a")));
    assert_eq!(route(&proxy, "GET /", both), "b");
    assert_eq!(route(&proxy, "GET /", "Host: app.test\r\n"), "none");
}

#[test]
fn kinds_of_text() {
    let config = format!(
        r#"{TOP}routes:
  - {{ name: exact, match: [{{ headers: {{ x-k: {{ exact: gold }} }} }}], respond: {{ status: 200, body: exact }} }}
  - {{ name: prefix, match: [{{ headers: {{ x-k: {{ prefix: pre }} }} }}], respond: {{ status: 200, body: prefix }} }}
  - {{ name: suffix, match: [{{ headers: {{ x-k: {{ suffix: suf }} }} }}], respond: {{ status: 200, body: suffix }} }}
  - {{ name: regex, match: [{{ headers: {{ x-k: {{ regex: "user-[0-9]+" }} }} }}], respond: {{ status: 200, body: regex }} }}
  - {{ name: absent, match: [{{ headers: {{ x-k: {{ present: false }} }} }}], respond: {{ status: 200, body: absent }} }}
  - {{ name: present, match: [{{ headers: {{ x-k: {{ present: true }} }} }}], respond: {{ status: 200, body: present }} }}
"#
    );
    let proxy = Proxy::start(&config, &[]);
    for (value, wanted) in [
        ("gold", "exact"),
        ("Gold", "present"),
        ("pre-x", "prefix"),
        ("x-suf", "suffix"),
        ("user-17", "regex"),
        // The whole value, or it is no match.
        ("user-17x", "present"),
        ("a user-17", "present"),
        ("", "present"),
        ("pre-\u{fc}", "prefix"),
        ("\u{fc}n\u{ef}", "present"),
    ] {
        assert_eq!(route(&proxy, "GET /", &format!("Host: a\r\nX-K: {value}\r\n")), wanted, "`{value}`");
    }
    assert_eq!(route(&proxy, "GET /", "Host: a\r\n"), "absent");
    // No text at all, and still there.
    let mut conn = Conn::connect(proxy.addr());
    conn.write(b"GET / HTTP/1.1\r\nHost: a\r\nX-K: \xff\xfe\r\n\r\n");
    assert_eq!(conn.response("GET").text(), "present");
}

const CANARY: &str = r#"attributes:
  env:
    from: [{ header: x-env }, { cookie: env }, { query: env }]
    lowercase: true
    values: [canary, prod]
    forward: x-env
services:
  v1: { endpoints: { static: ["{v1}"] } }
  v2: { endpoints: { static: ["{v2}"] } }
routes:
  - { name: canary, to: v2, match: [{ attributes: { env: canary } }, { headers: { x-ab-test-id: { regex: "^user-[0-9]+$" } } }, { cookies: { beta: "1" } }, { query: { preview: { present: true } } }, { grpc: { service: shop.Reviews, method: Get } }] }
  - { name: stable, to: v1 }
"#;

#[test]
fn canary_by_header_cookie_query_attribute_and_grpc() {
    let (v1, v2) = (Origin::named("v1"), Origin::named("v2"));
    let proxy = Proxy::start(&format!("{TOP}{CANARY}"), &[("v1", v1.addr()), ("v2", v2.addr())]);
    for (line, headers, wanted) in [
        ("GET /", "", "v1"),
        ("GET /", "X-Env: canary\r\n", "v2"),
        ("GET /", "X-Env: CaNaRy\r\n", "v2"),
        ("GET /", "X-Env: prod\r\n", "v1"),
        ("GET /", "X-Env: canary2\r\n", "v1"),
        ("GET /", "Cookie: a=b; env=Canary; c=d\r\n", "v2"),
        ("GET /?x=1&env=canary", "", "v2"),
        ("GET /?env=prod&env2=canary", "", "v1"),
        // The first source that is present decides, and the others are not asked.
        ("GET /?env=canary", "X-Env: prod\r\nCookie: env=canary\r\n", "v1"),
        ("GET /?env=canary", "Cookie: env=prod\r\n", "v1"),
        ("GET /?env=prod", "Cookie: env=canary\r\n", "v2"),
        ("GET /", "X-AB-Test-Id: user-1\r\n", "v2"),
        ("GET /", "X-AB-Test-Id: xuser-1\r\n", "v1"),
        ("GET /", "Cookie: beta=1\r\n", "v2"),
        ("GET /", "Cookie: beta=12\r\n", "v1"),
        ("GET /", "Cookie: a=1\r\nCookie: beta=1\r\n", "v2"),
        ("GET /?preview", "", "v2"),
        ("GET /?preview=", "", "v2"),
        ("GET /?previews=1", "", "v1"),
        ("GET /?p%72eview=1", "", "v2"),
        ("POST /shop.Reviews/Get", "Content-Type: application/grpc\r\nContent-Length: 0\r\n", "v2"),
        ("POST /shop.Reviews/Get", "Content-Type: application/grpc+proto\r\nContent-Length: 0\r\n", "v2"),
        ("POST /shop.Reviews/Get", "Content-Type: application/json\r\nContent-Length: 0\r\n", "v1"),
        ("POST /shop.Reviews/GetAll", "Content-Type: application/grpc\r\nContent-Length: 0\r\n", "v1"),
        ("POST /shop.Review/Get", "Content-Type: application/grpc\r\nContent-Length: 0\r\n", "v1"),
    ] {
        let reply = ask(&proxy, line, &format!("Host: app.test\r\n{headers}"));
        assert_eq!(reply.text(), wanted, "{line} {headers:?}");
    }
    for (line, headers, forwarded) in [
        ("GET /", "Cookie: env=CANARY\r\n", &["canary"][..]),
        ("GET /?env=Canary", "", &["canary"]),
        ("GET /", "X-Env: CANARY\r\n", &["canary"]),
        ("GET /", "", &[]),
    ] {
        ask(&proxy, line, &format!("Host: app.test\r\n{headers}"));
        let seen = if forwarded.is_empty() { v1.last() } else { v2.last() };
        assert_eq!(seen.head.all("x-env"), forwarded, "{line} {headers:?}");
    }
}

#[test]
fn rewrites() {
    let origin = Origin::ok();
    let config = format!(
        r#"{TOP}services: {{ app: {{ endpoints: {{ static: ["{{up}}"] }} }} }}
routes:
  - {{ name: swap, to: app, match: [{{ path: {{ prefix: /v1 }} }}], rewrite: {{ prefix: /api/v2 }} }}
  - {{ name: strip, to: app, match: [{{ path: {{ prefix: /strip/ }} }}], rewrite: {{ prefix: / }} }}
  - {{ name: whole, to: app, match: [{{ path: {{ regex: "/w/.*" }} }}], rewrite: {{ path: /index, host: "inner.test:81" }} }}
  - {{ name: host, to: app, rewrite: {{ host: reviews }} }}
"#
    );
    let proxy = Proxy::start(&config, &[("up", origin.addr())]);
    for (path, sent, host) in [
        ("/v1", "/api/v2", "app.test"),
        ("/v1/", "/api/v2/", "app.test"),
        ("/v1/a/b?c=d&e", "/api/v2/a/b?c=d&e", "app.test"),
        ("/v1/a%20b%2Fc", "/api/v2/a%20b%2Fc", "app.test"),
        ("/strip/a", "/a", "app.test"),
        ("/strip", "/", "app.test"),
        ("/strip/", "/", "app.test"),
        ("/strip?q", "/?q", "app.test"),
        ("/w/x?q=1", "/index?q=1", "inner.test:81"),
        ("/v11", "/v11", "reviews"),
        ("/", "/", "reviews"),
    ] {
        let reply = ask(&proxy, &format!("GET {path}"), "Host: app.test\r\n");
        assert_eq!(reply.status(), 200, "{path}");
        let seen = origin.last().head;
        assert_eq!(seen.start_line(), format!("GET {sent} HTTP/1.1"), "{path}");
        assert_eq!(seen.all("host"), [host], "{path}");
    }
}

#[test]
fn redirects() {
    let config = format!(
        r#"{TOP}routes:
  - {{ name: host, hosts: [old.test], redirect: {{ host: shop.example, status: 308 }} }}
  - {{ name: https, hosts: [plain.test], redirect: {{ scheme: https, status: 301 }} }}
  - {{ name: port, hosts: [port.test], redirect: {{ scheme: https, port: 8443 }} }}
  - {{ name: default-port, hosts: [dport.test], redirect: {{ scheme: https, port: 443, status: 307 }} }}
  - {{ name: path, hosts: [path.test], redirect: {{ path: /moved, status: 303 }} }}
  - {{ name: prefix, hosts: [prefix.test], match: [{{ path: {{ prefix: /a }} }}], redirect: {{ prefix: /b }} }}
"#
    );
    let proxy = Proxy::start(&config, &[]);
    for (host, path, status, location) in [
        ("old.test", "/a/b?c=d", 308, "http://shop.example/a/b?c=d"),
        ("old.test:8080", "/", 308, "http://shop.example/"),
        ("plain.test", "/a?b", 301, "https://plain.test/a?b"),
        // The port that was asked for fits neither another host nor another scheme.
        ("plain.test:8080", "/a", 301, "https://plain.test/a"),
        ("port.test", "/a", 302, "https://port.test:8443/a"),
        ("port.test:81", "/a", 302, "https://port.test:8443/a"),
        ("dport.test", "/", 307, "https://dport.test/"),
        ("path.test", "/x?y=z", 303, "http://path.test/moved?y=z"),
        ("prefix.test", "/a/x?y", 302, "http://prefix.test/b/x?y"),
        ("prefix.test", "/a", 302, "http://prefix.test/b"),
    ] {
        let reply = ask(&proxy, &format!("GET {path}"), &format!("Host: {host}\r\n"));
        let got = reply.head.get("location").unwrap_or_default();
        assert_eq!((reply.status(), &*got), (status, location), "{host} {path}");
    }
    let counted = proxy.metric("http_requests_total", &[("reason", "redirect"), ("status_code", "308")]);
    assert_eq!(counted as u64, 2);
}

#[test]
fn answers_of_its_own() {
    let config = format!(
        r#"{TOP}routes:
  - {{ name: teapot, match: [{{ path: {{ exact: /teapot }} }}], respond: {{ status: 418, body: "short and stout\n" }}, responseHeaders: {{ set: {{ x-pot: tea }} }} }}
  - {{ name: empty, match: [{{ path: {{ exact: /empty }} }}], respond: {{ status: 204 }} }}
"#
    );
    let proxy = Proxy::start(&config, &[]);
    let reply = ask(&proxy, "GET /teapot", "Host: a\r\n");
    assert_eq!((reply.status(), reply.text().as_str()), (418, "short and stout\n"));
    assert_eq!(reply.head.get("x-pot").as_deref(), Some("tea"));
    let head = ask(&proxy, "HEAD /teapot", "Host: a\r\n");
    assert_eq!((head.status(), head.head.get("content-length").as_deref()), (418, Some("16")));
    let empty = ask(&proxy, "GET /empty", "Host: a\r\n");
    assert_eq!((empty.status(), empty.head.has("content-length")), (204, false), "{empty:?}");
    let two = call(proxy.addr(), request("GET", "/teapot", &[]), b"", None).expect("an answer");
    assert_eq!((two.head.status.as_u16(), &two.body[..]), (418, &b"short and stout\n"[..]));
    // A body is read past, so that the connection goes on.
    let mut conn = Conn::connect(proxy.addr());
    for _ in 0..2 {
        conn.write("POST /teapot HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody");
        assert_eq!(conn.response("POST").status(), 418);
    }
}

#[test]
fn header_edits() {
    let origin = Origin::fixed(
        "HTTP/1.1 200 OK\r\nServer: secret\r\nX-Old: 1\r\nX-Old: 2\r\nVary: a\r\nContent-Length: 2\r\n\r\nok",
    );
    let route = r#", requestHeaders: { remove: [x-internal-token, x-both], set: { x-mesh: outrigger, x-both: again }, add: { x-list: b } }, responseHeaders: { remove: [server], set: { x-old: new, strict-transport-security: "max-age=31536000" }, add: { vary: x-env } }"#;
    let proxy = Setup { route, workers: 1, ..Setup::default() }.start(origin.addr());
    let sent = "Host: a\r\nX-Internal-Token: t\r\nx-internal-token: u\r\nX-Mesh: no\r\nX-Mesh: way\r\nX-Both: x\r\nX-List: a\r\n";
    let reply = ask(&proxy, "GET /", sent);
    let check = |head: &Head, name: &str, wanted: &[&str]| assert_eq!(head.all(name), wanted, "{name}");
    let seen = origin.last().head;
    check(&seen, "x-internal-token", &[]);
    check(&seen, "x-mesh", &["outrigger"]);
    check(&seen, "x-both", &["again"]);
    check(&seen, "x-list", &["a", "b"]);
    check(&reply.head, "server", &[]);
    check(&reply.head, "x-old", &["new"]);
    check(&reply.head, "strict-transport-security", &["max-age=31536000"]);
    check(&reply.head, "vary", &["a", "x-env"]);
}

#[test]
fn bodies_up_to_a_size() {
    let origin = Origin::echo();
    let proxy = Setup { route: ", maxBody: 1Ki", workers: 1, ..Setup::default() }.start(origin.addr());
    let post = |head: &str, body: &[u8]| {
        let mut conn = Conn::connect(proxy.addr());
        conn.write(format!("POST / HTTP/1.1\r\nHost: a\r\n{head}\r\n"));
        conn.try_write(body);
        conn.response("POST").status()
    };
    assert_eq!(post("Content-Length: 1024\r\n", &[b'x'; 1024]), 200);
    assert_eq!(post("Content-Length: 1025\r\n", &[b'x'; 1025]), 413);
    assert_eq!(post("Content-Length: 1025\r\nExpect: 100-continue\r\n", b""), 413, "before a byte of it");
    let chunk = |n: usize| [format!("{n:x}\r\n").as_bytes(), &vec![b'x'; n], b"\r\n"].concat();
    let chunked = "Transfer-Encoding: chunked\r\n";
    assert_eq!(post(chunked, &[chunk(1000), chunk(24), b"0\r\n\r\n".to_vec()].concat()), 200);
    assert_eq!(post(chunked, &[chunk(1000), chunk(25), b"0\r\n\r\n".to_vec()].concat()), 413);
    let two = call(proxy.addr(), request("POST", "/", &[]), &[b'x'; 1025], None);
    assert_eq!(two.expect("an answer").head.status, 413);
    proxy.await_metric("http_requests_total", &[("reason", "body_too_large"), ("status_code", "413")], 4.0);
    proxy.assert_serves();
}

#[test]
fn services_are_found_by_their_hosts() {
    let (one, two) = (Origin::named("one"), Origin::named("two"));
    let config = format!(
        r#"{TOP}services:
  one: {{ hosts: [one, one.shop.svc], endpoints: {{ static: ["{{one}}"] }} }}
  two: {{ hosts: [two.test], endpoints: {{ static: ["{{two}}"] }} }}
routes:
  - {{ name: said, hosts: [one], match: [{{ path: {{ prefix: /two }} }}], to: two }}
"#
    );
    let proxy = Proxy::start(&config, &[("one", one.addr()), ("two", two.addr())]);
    for (host, path, wanted) in [
        ("one", "/", "one"),
        ("one.shop.svc:80", "/two", "one"),
        ("ONE", "/x", "one"),
        ("one", "/two/x", "two"),
        ("two.test", "/", "two"),
        ("three.test", "/", "none"),
    ] {
        assert_eq!(route(&proxy, &format!("GET {path}"), &format!("Host: {host}\r\n")), wanted, "{host} {path}");
    }
}

/// Row 9: what is routed is what is sent, and no spelling of a path leaves the prefix of a route.
#[test]
fn no_path_escapes_its_prefix() {
    let (public, private) = (Origin::named("public"), Origin::named("private"));
    let config = format!(
        r#"{TOP}services:
  public: {{ endpoints: {{ static: ["{{public}}"] }} }}
  private: {{ endpoints: {{ static: ["{{private}}"] }} }}
routes:
  - {{ name: public, match: [{{ path: {{ prefix: /public }} }}], to: public }}
  - {{ name: private, match: [{{ path: {{ prefix: /private }} }}], to: private }}
"#
    );
    let fills: [(&str, SocketAddr); 2] = [("public", public.addr()), ("private", private.addr())];
    let proxy = Proxy::start(&config, &fills);
    let spellings = [
        "/public/../private/x",
        "/public/%2e%2e/private/x",
        "/public/.%2E/private/x",
        "/public/%2e./private",
        "/public/./../private/",
        "/public/a/../../private",
        "/public//../private",
        "/public/..%2fprivate",
        "/public/%2e%2e%2fprivate",
        "/public/..%5cprivate",
        "/public/..\\private",
        "/public/..;/private",
        "/public/%252e%252e/private",
        "/%70ublic/../private",
        "/../public/../private",
        "http://app.test/public/../private",
    ];
    for path in spellings {
        public.forget();
        private.forget();
        let reply = ask(&proxy, &format!("GET {path}"), "Host: app.test\r\n");
        for seen in public.seen() {
            let line = seen.message.head.start_line();
            let sent = line.split(' ').nth(1).unwrap_or_default();
            let lower = sent.to_ascii_lowercase().replace("%2e", ".");
            assert!(sent.starts_with("/public"), "{path} was routed to public and sent as {sent}");
            assert!(!lower.split(['/', '?']).any(|segment| segment == ".."), "{path} was sent as {sent}");
        }
        for seen in private.seen() {
            let line = seen.message.head.start_line();
            assert!(line.starts_with("GET /private"), "{path} was routed to private and sent as {line}");
        }
        let reached = public.seen().len() + private.seen().len();
        assert!(reached == 1 || matches!(reply.status(), 400 | 404), "{path}: {reply:?}");
    }
}

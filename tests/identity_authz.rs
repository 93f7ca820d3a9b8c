//! Who may do what, by what they have proven: before a byte reaches the application, and request by request.

mod common;

use std::net::SocketAddr;

use common::h2peer;
use common::mesh::{MUTUAL, Mesh, PERMISSIVE, STRICT};
use common::origin::Next;
use common::pki::Pair;
use common::tls::{Bridge, Client, Server, TCP};
use common::{Conn, Message, Origin, Proxy, SOON, Setup, get, send, show, until};

/// The callers of these tests, all of them with good certificates.
struct Callers {
    mesh: Mesh,
    all: Vec<(&'static str, Pair)>,
}

impl Callers {
    fn new() -> Self {
        let mesh = Mesh::new();
        let names = ["shop/web", "shop/admin", "shop/webmaster", "bank/web"];
        let all = names.map(|name| {
            let (namespace, account) = name.split_once('/').expect("a name");
            (name, mesh.pki.workload(namespace, account))
        });
        Self { mesh, all: all.to_vec() }
    }

    fn client(&self, name: &str) -> Client {
        let found = self.all.iter().find(|(n, _)| *n == name).expect("a caller");
        Client::of(&found.1).alpn(&["http/1.1", "outrigger"])
    }

    fn strict(&self, up: SocketAddr, rules: &str) -> Proxy {
        self.inbound(up, rules, Setup { listener: STRICT, ..Setup::default() })
    }

    fn inbound(&self, up: SocketAddr, rules: &str, setup: Setup<'_>) -> Proxy {
        let top = format!("authorization:\n{rules}");
        self.mesh.inbound(up, Setup { top: &top, ..setup })
    }

    fn ask(&self, proxy: &Proxy, name: &str) -> Message {
        self.client(name).bridge(proxy.addr()).get("/")
    }
}

/// Told by us, with the name of the rule.
fn is_denied(reply: &Message, rule: &str) {
    assert_eq!(reply.status(), 403, "{reply:?}");
    let all = format!("{} {}", reply.head.text(), reply.text());
    assert!(all.contains(rule), "`{rule}` is not named: {all}");
}

#[test]
fn by_identity() {
    let (callers, origin) = (Callers::new(), Origin::ok());
    let table: [(&str, &[&str]); 16] = [
        ("identities: [\"spiffe://mesh.test/ns/shop/sa/web\"]", &["shop/web"]),
        ("identities: [{ exact: \"spiffe://mesh.test/ns/shop/sa/web\" }]", &["shop/web"]),
        ("identities: [{ prefix: \"spiffe://mesh.test/ns/shop/sa/web\" }]", &["shop/web", "shop/webmaster"]),
        ("identities: [{ prefix: \"spiffe://mesh.test/ns/shop/\" }]", &["shop/web", "shop/admin", "shop/webmaster"]),
        ("identities: [\"spiffe://mesh.test/ns/shop/*\"]", &["shop/web", "shop/admin", "shop/webmaster"]),
        ("identities: [\"spiffe://mesh.test/ns/*/sa/web\"]", &["shop/web", "bank/web"]),
        ("identities: [\"spiffe://mesh.test/ns/*/web\"]", &[]),
        ("identities: [\"*\"]", &["shop/web", "shop/admin", "shop/webmaster", "bank/web"]),
        ("identities: [\"spiffe://other.test/*\"]", &[]),
        ("namespaces: [bank]", &["bank/web"]),
        ("namespaces: [ban]", &[]),
        ("namespaces: [shop, bank]", &["shop/web", "shop/admin", "shop/webmaster", "bank/web"]),
        ("namespaces: [shop], identities: [\"spiffe://mesh.test/ns/*/sa/web\"]", &["shop/web"]),
        ("cidrs: [127.0.0.0/8, 10.0.0.0/8], namespaces: [bank]", &["bank/web"]),
        ("cidrs: [10.0.0.0/8]", &[]),
        ("cidrs: [127.0.0.1]", &["shop/web", "shop/admin", "shop/webmaster", "bank/web"]),
    ];
    for (from, allowed) in table {
        // One that allows and one that denies the same are each other's opposite.
        for (kind, rule) in [("allow", "only-these"), ("deny", "not-these")] {
            let rules = format!("  - {{ name: {rule}, {kind}: [{{ from: {{ {from} }} }}] }}\n");
            let proxy = callers.strict(origin.addr(), &rules);
            origin.forget();
            for (name, _) in &callers.all {
                let reply = callers.ask(&proxy, name);
                if allowed.contains(name) == (kind == "allow") {
                    assert_eq!(reply.status(), 200, "{kind} {from}: {name}");
                } else {
                    is_denied(&reply, if kind == "allow" { "" } else { rule });
                }
            }
            let served = if kind == "allow" { allowed.len() } else { 4 - allowed.len() };
            assert_eq!(origin.seen().len(), served, "{kind} {from}");
        }
    }
}

#[test]
fn deny_wins_and_rules_add_up() {
    let (callers, origin) = (Callers::new(), Origin::ok());
    let rules = "  - { name: shop-in, allow: [{ from: { namespaces: [shop] } }] }
  - { name: bank-in, allow: [{ from: { namespaces: [bank] } }] }
  - { name: no-admin, deny: [{ from: { identities: [\"spiffe://mesh.test/ns/shop/sa/admin\"] } }] }
  - { name: elsewhere, listeners: [other], deny: [{ }] }
  - { name: switched-off, mode: \"off\", deny: [{ }] }
";
    let other = "listeners:\n  - { name: other, mode: proxy, address: \"{listen2}\", tls: { mode: strict } }\n";
    let config = format!(
        r#"apiVersion: outrigger/v1
admin: {{ address: "{{admin}}" }}
health: {{ address: "{{health}}" }}
{}{other}  - {{ name: edge, mode: proxy, address: "{{listen}}"{STRICT} }}
services: {{ app: {{ endpoints: {{ static: ["{{up}}"] }} }} }}
routes: [{{ name: all, to: app }}]
authorization:
{rules}"#,
        callers.mesh.identity(&callers.mesh.reviews)
    );
    let proxy = Proxy::start(&config, &[("up", origin.addr())]);
    for (name, _) in &callers.all {
        let reply = callers.ask(&proxy, name);
        if *name == "shop/admin" {
            is_denied(&reply, "no-admin")
        } else {
            assert_eq!(reply.status(), 200, "{name}")
        }
        let reply = callers.client(name).bridge(proxy.place("listen2")).get("/");
        is_denied(&reply, if *name == "shop/admin" { "no-admin" } else { "elsewhere" });
    }
    // By the port that was connected to.
    let rule =
        |port: u16| format!("  - {{ name: one-port, ports: [{port}], deny: [{{ }}] }}\n  - {{ name: switched-off");
    let (other, edge) = (proxy.place("listen2").port(), proxy.addr().port());
    proxy.reload("  - { name: switched-off", &rule(other));
    assert_eq!(callers.ask(&proxy, "shop/web").status(), 200);
    proxy.reload(&format!("ports: [{other}]"), &format!("ports: [{edge}]"));
    is_denied(&callers.ask(&proxy, "shop/web"), "one-port");
}

#[test]
fn by_what_is_asked_for() {
    let (callers, origin) = (Callers::new(), Origin::ok());
    let rules = "  - name: reads
    allow:
      - from: { identities: [\"spiffe://mesh.test/ns/shop/sa/web\"] }
        to: { methods: [GET, HEAD], paths: [{ prefix: /reviews }, { exact: /about }], hosts: [app.test] }
      - from: { identities: [\"spiffe://mesh.test/ns/shop/sa/admin\"] }
        to: { headers: { x-break-glass: \"yes\" } }
";
    let proxy = callers.strict(origin.addr(), rules);
    let send = |name: &str, head: &str| {
        let mut conn = callers.client(name).bridge(proxy.addr()).connect();
        conn.write(format!("{head}\r\n\r\n"));
        conn.response(head.split(' ').next().expect("a method"))
    };
    let table = [
        ("shop/web", "GET /reviews HTTP/1.1\r\nHost: app.test", true),
        ("shop/web", "HEAD /reviews/1 HTTP/1.1\r\nHost: app.test", true),
        ("shop/web", "GET /about HTTP/1.1\r\nHost: app.test", true),
        ("shop/web", "GET /about/us HTTP/1.1\r\nHost: app.test", false),
        ("shop/web", "GET /reviewsx HTTP/1.1\r\nHost: app.test", false),
        ("shop/web", "POST /reviews HTTP/1.1\r\nHost: app.test\r\nContent-Length: 0", false),
        ("shop/web", "GET /reviews HTTP/1.1\r\nHost: other.test", false),
        ("shop/web", "GET / HTTP/1.1\r\nHost: app.test\r\nX-Break-Glass: yes", false),
        ("shop/admin", "POST / HTTP/1.1\r\nHost: app.test\r\nX-Break-Glass: yes\r\nContent-Length: 0", true),
        ("shop/admin", "POST / HTTP/1.1\r\nHost: app.test\r\nX-Break-Glass: no\r\nContent-Length: 0", false),
        ("bank/web", "GET /reviews HTTP/1.1\r\nHost: app.test", false),
    ];
    for (name, head, allowed) in table {
        assert_eq!(send(name, head).status(), if allowed { 200 } else { 403 }, "{name}: {head}");
    }
    assert_eq!(origin.seen().len(), table.iter().filter(|row| row.2).count());
    // The connection of one that was denied goes on.
    let mut conn = callers.client("shop/web").bridge(proxy.addr()).connect();
    for (path, status) in [("/x", 403), ("/about", 200), ("/x", 403)] {
        conn.write(format!("GET {path} HTTP/1.1\r\nHost: app.test\r\n\r\n"));
        assert_eq!(conn.response("GET").status(), status, "{path}");
    }
    // Nobody sends a body for nothing.
    conn.write("POST / HTTP/1.1\r\nHost: app.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    assert_eq!(conn.head().status(), 403, "and no 100 before it");
}

/// The path that is judged is the one that is routed and sent on.
#[test]
fn no_spelling_of_a_path_gets_around_a_rule() {
    let (callers, origin) = (Callers::new(), Origin::ok());
    let deny = "  - { name: no-admin, deny: [{ to: { paths: [{ prefix: /admin }] } }] }\n";
    let allow = "  - { name: public, allow: [{ to: { paths: [{ prefix: /public }] } }] }\n";
    let spellings = [
        "/admin",
        "/admin/",
        "/admin/x",
        "/./admin",
        "//admin",
        "/public/../admin",
        "/public/%2e%2e/admin",
        "/public/.%2E/admin",
        "/%61dmin",
        "/adm%69n",
        "/public/..%2fadmin",
        "/public%2f..%2fadmin",
        "/admin%2fx",
        "/admin%00",
        "/public/%00/../../admin",
        "/public\\..\\admin",
        "/public/..;/admin",
        "/admin;x=1",
        "/admin?x",
        "/public/./../admin",
        "/public/x/../../admin",
        "/%2e/admin",
        "/public/..%5cadmin",
        "http://app.test/admin",
        "http://app.test/public/../admin",
        "/%25%36%31dmin",
        "/public/%252e%252e/admin",
    ];
    for (rules, denies) in [(deny, true), (allow, false)] {
        let proxy = callers.strict(origin.addr(), rules);
        let bridge = callers.client("shop/web").bridge(proxy.addr());
        assert_eq!(bridge.get("/public/x").status(), 200);
        assert_eq!(bridge.get("/admin").status(), 403);
        for path in spellings {
            origin.forget();
            let mut conn = bridge.connect();
            conn.write(format!("GET {path} HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n"));
            let status = conn.response("GET").status();
            assert!(matches!(status, 200 | 400 | 403), "{path}: {status}");
            // What the application gets it reads in its own way: decoded once, it is never what is denied.
            for seen in origin.seen() {
                let line = seen.message.head.start_line();
                let got = line.split(' ').nth(1).expect("a target").split('?').next().unwrap_or_default();
                let plain = normal(got);
                let inside = |root: &str| plain == root || plain.starts_with(&format!("{root}/"));
                assert!(if denies { !inside("/admin") } else { inside("/public") }, "{path} came as {got}");
            }
        }
    }
}

/// As an application would read it: decoded, and without dot segments. `%2F` is no `/` and `//` another path than `/`,
/// for routes and for rules.
fn normal(path: &str) -> String {
    let mut text = path.to_owned();
    // The `%` last, so that nothing is decoded twice.
    for byte in (0x20..0x7f).filter(|byte| !b"/%".contains(byte)).chain([b'%']) {
        for code in [format!("%{byte:02x}"), format!("%{byte:02X}")] {
            text = text.replace(&code, &char::from(byte).to_string());
        }
    }
    let mut segments = Vec::new();
    for segment in text.split('/').skip(1) {
        match segment {
            "." => {}
            ".." => drop(segments.pop()),
            _ => segments.push(segment),
        }
    }
    format!("/{}", segments.join("/"))
}

#[test]
fn grpc_is_told_in_its_own_words() {
    let (callers, origin) = (Callers::new(), Origin::ok());
    let rules = "  - { name: no-bank, deny: [{ from: { namespaces: [bank] } }] }\n";
    let proxy = callers.strict(origin.addr(), rules);
    let pair = &callers.all[3].1;
    let bridge = Client::of(pair).alpn(&["h2"]).bridge(proxy.addr());
    let head = h2peer::request("POST", "/test.Echo/Unary", &[("content-type", "application/grpc"), ("te", "trailers")]);
    let reply = h2peer::call(bridge.addr(), head, b"\0\0\0\0\0", None).expect("an answer");
    assert_eq!((reply.head.status.as_u16(), &reply.head.headers["grpc-status"]), (200, &"7".parse().expect("a value")));
    let message = reply.head.headers["grpc-message"].to_str().expect("text");
    assert!(message.contains("no-bank"), "{message}");
    let reply = h2peer::call(bridge.addr(), h2peer::request("GET", "/", &[]), b"", None).expect("an answer");
    assert_eq!(reply.head.status, 403);
    assert_eq!(origin.connections(), 0);
}

fn echo() -> Origin {
    Origin::raw(|mut conn, _| {
        loop {
            let some = conn.read_some();
            if some.is_empty() || !conn.try_write(some) {
                return;
            }
        }
    })
}

const L4: Setup<'_> = Setup {
    listener: ", protocol: tcp, tls: { mode: strict }",
    service: ", protocol: tcp",
    route: "",
    top: "",
    wrap: &[],
    workers: 1,
};

#[test]
fn not_a_byte_reaches_the_application() {
    let (callers, origin) = (Callers::new(), echo());
    let rules = "  - { name: shop-in, allow: [{ from: { namespaces: [shop] } }] }
  - { name: no-admin, deny: [{ from: { identities: [\"spiffe://mesh.test/ns/shop/sa/admin\"] } }] }
";
    let proxy = callers.inbound(origin.addr(), rules, L4);
    for (name, allowed) in [("bank/web", false), ("shop/admin", false), ("shop/web", true)] {
        for alpn in [&[TCP][..], &[]] {
            let mut conn = callers.client(name).alpn(alpn).bridge(proxy.addr()).connect();
            conn.try_write("hello");
            if allowed {
                assert_eq!(conn.read_exact(5), b"hello");
            } else {
                assert_eq!(show(&conn.read_to_end()), "", "{name}");
                assert_eq!(origin.connections(), 0, "{name} was connected");
            }
        }
    }
    // Between two of ours the same.
    let top = callers.mesh.identity(&callers.all[3].1);
    let service = format!("{MUTUAL}, protocol: tcp");
    let near = Setup { service: &service, top: &top, ..Setup::default() }.start(proxy.addr());
    let known = origin.connections();
    let mut conn = Conn::connect(near.addr());
    conn.try_write("hello");
    assert_eq!(show(&conn.read_to_end()), "");
    assert_eq!(origin.connections(), known);

    // In plaintext there is nobody, but an address.
    for (from, allowed) in [
        ("cidrs: [127.0.0.0/8]", true),
        ("cidrs: [10.0.0.0/8]", false),
        ("identities: [\"*\"]", false),
        ("namespaces: [shop]", false),
    ] {
        let rules = format!("  - {{ name: some, allow: [{{ from: {{ {from} }} }}] }}\n");
        let proxy = callers.inbound(origin.addr(), &rules, Setup { listener: ", protocol: tcp", ..L4 });
        assert_eq!(show(&send(proxy.addr(), "hello")), if allowed { "hello" } else { "" }, "{from}");
    }
}

/// On a listener that takes both, who proves nothing is nobody.
#[test]
fn plaintext_is_nobody() {
    let (callers, origin) = (Callers::new(), Origin::ok());
    let rules = "  - { name: known, allow: [{ from: { identities: [\"*\"] } }] }\n";
    let proxy = callers.inbound(origin.addr(), rules, Setup { listener: PERMISSIVE, ..Setup::default() });
    assert_eq!(get(proxy.addr(), "/").status(), 403);
    let mut conn = Conn::connect(proxy.addr());
    conn.write(
        "GET / HTTP/1.1\r\nHost: app.test\r\nx-forwarded-client-cert: URI=spiffe://mesh.test/ns/shop/sa/web\r\n\r\n",
    );
    assert_eq!(conn.response("GET").status(), 403, "whatever it says of itself");
    assert_eq!(origin.connections(), 0);
    assert_eq!(callers.ask(&proxy, "shop/web").status(), 200);
}

/// TLS that is not ours to read is nobody's as well: what asks for more than an address keeps it out.
#[test]
fn tls_that_is_passed_through_is_nobody() {
    let (callers, origin) = (Callers::new(), Origin::ok());
    let front = Server::of(&callers.mesh.pki.server(&["app.test"])).front(origin.addr());
    let own = Client::anonymous().name("app.test").alpn(&["http/1.1"]);
    for (rules, served) in [
        ("  - { name: known, allow: [{ from: { identities: [\"*\"] } }] }\n", false),
        ("  - { name: shop, allow: [{ from: { namespaces: [shop] } }] }\n", false),
        ("  - { name: reads, allow: [{ to: { paths: [{ prefix: /public }] } }] }\n", false),
        ("  - { name: near, allow: [{ from: { cidrs: [127.0.0.0/8] } }] }\n", true),
        ("  - { name: far, allow: [{ from: { cidrs: [10.0.0.0/8] } }] }\n", false),
        ("  - { name: no-one, deny: [{ from: { cidrs: [127.0.0.1] } }] }\n", false),
    ] {
        for tcp in ["", ", protocol: tcp"] {
            if !tcp.is_empty() && rules.contains("paths") {
                continue;
            }
            let listener = format!("{PERMISSIVE}{tcp}");
            let setup = Setup { listener: &listener, service: tcp, ..Setup::default() };
            let proxy = callers.inbound(front.addr(), rules, setup);
            if served {
                own.served(proxy.addr());
            } else {
                own.refused(proxy.addr());
            }
        }
    }
    assert_eq!(front.facts().len(), 2, "the application has heard of no other");
}

#[test]
fn a_rule_in_shadow_counts_and_lets_go() {
    let (callers, origin) = (Callers::new(), Origin::ok());
    let rules = "  - { name: tried, mode: shadow, allow: [{ from: { namespaces: [bank] } }] }\n";
    let proxy = callers.strict(origin.addr(), rules);
    let counted = || proxy.metric("outrigger_shadow_total", &[]);
    assert_eq!(callers.ask(&proxy, "bank/web").status(), 200);
    assert_eq!(counted(), 0.0);
    assert_eq!(callers.ask(&proxy, "shop/web").status(), 200);
    until("it is counted", SOON, || counted() >= 1.0);
    until("and told", SOON, || proxy.admin("GET", "/shadow").text().contains("tried"));
    // Over TCP as well.
    let origin = echo();
    let proxy = callers.inbound(origin.addr(), rules, L4);
    let mut conn = callers.client("shop/web").alpn(&[TCP]).bridge(proxy.addr()).connect();
    conn.write("hello");
    assert_eq!(conn.read_exact(5), b"hello");
    until("it is counted", SOON, || {
        proxy
            .health("/metrics")
            .lines()
            .any(|line| line.contains("shadow") && line.contains("tried") && line.ends_with(" 1"))
    });
}

#[test]
fn routes_by_who_calls() {
    let (callers, web, rest) = (Callers::new(), Origin::named("for web"), Origin::named("for the rest"));
    let config = format!(
        r#"apiVersion: outrigger/v1
admin: {{ address: "{{admin}}" }}
health: {{ address: "{{health}}" }}
{}listeners: [{{ name: edge, mode: proxy, address: "{{listen}}"{PERMISSIVE} }}]
services:
  web: {{ endpoints: {{ static: ["{{web}}"] }} }}
  rest: {{ endpoints: {{ static: ["{{rest}}"] }} }}
routes:
  - {{ name: web, match: [{{ from: {{ identities: ["spiffe://mesh.test/ns/*/sa/web"] }} }}], to: web }}
  - {{ name: bank, match: [{{ from: {{ namespaces: [bank] }}, path: {{ prefix: /x }} }}], respond: {{ status: 418 }} }}
  - {{ name: rest, to: rest }}
"#,
        callers.mesh.identity(&callers.mesh.reviews)
    );
    let proxy = Proxy::start(&config, &[("web", web.addr()), ("rest", rest.addr())]);
    for (name, text) in [("shop/web", "for web"), ("bank/web", "for web"), ("shop/admin", "for the rest")] {
        assert_eq!(callers.ask(&proxy, name).text(), text, "{name}");
    }
    assert_eq!(callers.client("bank/web").bridge(proxy.addr()).get("/x").status(), 418);
    assert_eq!(get(proxy.addr(), "/").text(), "for the rest", "plaintext");
}

/// Long connections are judged anew.
#[test]
fn who_is_denied_by_a_reload_is_ended() {
    let callers = Callers::new();
    let rules = "  - { name: not-these, deny: [{ from: { namespaces: [nobody] } }] }\n";
    let bridges = |proxy: &Proxy, alpn: &[&str]| -> [Bridge; 2] {
        ["shop/web", "bank/web"].map(|name| callers.client(name).alpn(alpn).resuming().bridge(proxy.addr()))
    };
    let tcp = echo();
    let proxy = callers.inbound(tcp.addr(), rules, L4);
    let [shop, bank] = bridges(&proxy, &[TCP]);
    let (mut stays, mut ends) = (shop.connect(), bank.connect());
    for conn in [&mut stays, &mut ends] {
        conn.write("hello");
        assert_eq!(conn.read_exact(5), b"hello");
    }
    proxy.reload("namespaces: [nobody]", "namespaces: [bank]");
    assert_eq!(show(&ends.read_to_end()), "");
    until("the application is let go", SOON, || tcp.open() == 1);
    stays.write("still");
    assert_eq!(stays.read_exact(5), b"still");
    // What is left of its session is of no use.
    assert_eq!(show(&bank.connect().read_to_end()), "");

    let web = Origin::start(|seen, conn| {
        if !seen.message.head.has("upgrade") {
            conn.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            return Next::Keep;
        }
        conn.write("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
        loop {
            let some = conn.read_some();
            if some.is_empty() || !conn.try_write(some) {
                return Next::Close;
            }
        }
    });
    let proxy = callers.strict(web.addr(), rules);
    let pair = bridges(&proxy, &["http/1.1"]);
    let mut tunnels = pair.each_ref().map(|bridge| {
        let mut conn = bridge.connect();
        conn.write("GET /ws HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello");
        assert_eq!(conn.head().status(), 101);
        assert_eq!(conn.read_exact(5), b"hello");
        conn
    });
    let mut idle = pair[1].connect();
    idle.write("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
    assert_eq!(idle.response("GET").status(), 200);
    proxy.reload("namespaces: [nobody]", "namespaces: [bank]");
    assert_eq!(show(&tunnels[1].read_to_end()), "");
    tunnels[0].write("still");
    assert_eq!(tunnels[0].read_exact(5), b"still");
    // The next request on a connection of before is judged by the rules of now.
    if idle.try_write("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n") {
        assert!(idle.try_head().is_none_or(|head| head.status() == 403));
    }
    let reply = pair[1].get("/");
    is_denied(&reply, "not-these");
    assert!(pair[1].last().resumed, "by a session of before");
}

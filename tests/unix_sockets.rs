//! Unix sockets where connections come from and where they lead: at a path, and by a name in the abstract namespace.

mod common;

use std::time::{Duration, Instant};

use common::nginx::nginx;
use common::pki::Pki;
use common::tell::{explain, outrigger};
use common::unix::{self, bind, connect, full, listen};
use common::{Conn, Origin, Proxy, SOON, TempDir, eventually, get, pattern, run, show, until};
use serde_json::{Value, json};

/// Two listeners, of TCP and of Unix sockets, in front of one service.
struct Setup<'a> {
    /// Where the second listener is, without `unix:`, and more of its keys as YAML flow text that begins with a comma.
    at: (&'a str, &'a str),
    /// Of both listeners.
    keys: &'a str,
    endpoints: &'a [&'a str],
    service: &'a str,
    /// More top level keys, as lines.
    top: &'a str,
    wrap: &'a [&'a str],
}

const PLAIN: Setup<'_> = Setup { at: ("", ""), keys: "", endpoints: &[], service: "", top: "", wrap: &[] };
const TCP: Setup<'_> = Setup { keys: ", protocol: tcp", service: ", protocol: tcp", ..PLAIN };
const REQUEST: &str = "GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n";

impl Setup<'_> {
    fn start(&self) -> Proxy {
        let Self { at: (path, more), keys, endpoints, service, top, wrap } = self;
        let endpoints: Vec<String> = endpoints.iter().map(|to| format!("\"unix:{to}\"")).collect();
        let endpoints = endpoints.join(", ");
        let config = format!(
            r#"apiVersion: outrigger/v1
admin: {{ address: "{{admin}}" }}
health: {{ address: "{{health}}" }}
runtime: {{ workers: 2, drainTimeout: 2s }}
telemetry: {{ accessLog: {{ format: json, sample: {{ errors: 100, others: 100, maxPerSecond: 0 }} }} }}
listeners:
  - {{ name: edge, mode: proxy, address: "{{listen}}"{keys} }}
  - {{ name: local, mode: proxy, address: "unix:{path}"{keys}{more} }}
services:
  app: {{ endpoints: {{ static: [{endpoints}] }}{service} }}
routes:
  - {{ name: all, to: app }}
{top}
"#
        );
        Proxy::start_wrapped(&config, &[], wrap)
    }
}

/// A place in a directory.
fn at(dir: &TempDir, name: &str) -> String {
    dir.path().join(name).display().to_string()
}

/// The newest line of the access log.
fn logged(proxy: &Proxy, count: usize) -> Value {
    eventually("a line of the access log", SOON, || {
        let lines = proxy.stdout_lines();
        let line = lines.get(count.checked_sub(1)?)?;
        serde_json::from_str(line).ok()
    })
}

fn body(text: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len())
}

fn named(path: &str, name: &str) -> Origin {
    let reply = body(name);
    Origin::start_on(listen(path), move |_, conn| {
        if conn.try_write(&reply) { common::origin::Next::Keep } else { common::origin::Next::Close }
    })
}

#[test]
fn requests_by_path_and_by_name() {
    let dir = TempDir::new("unix");
    let pairs = [
        (at(&dir, "edge.sock"), at(&dir, "app.sock"), "--unix-socket"),
        (unix::name("edge"), unix::name("app"), "--abstract-unix-socket"),
    ];
    for (edge, app, option) in pairs {
        let origin = named(&app, "here");
        let proxy = Setup { at: (&edge, ""), endpoints: &[&app], ..PLAIN }.start();
        assert_eq!(run("curl", &["-sS", option, edge.trim_start_matches('@'), "http://app.test/a"]), "here");
        let head = origin.last().head;
        assert_eq!((head.get("host"), head.get("x-forwarded-for")), (Some("app.test".into()), Some("unknown".into())));
        let line = logged(&proxy, 1);
        let of = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
        assert_eq!((of("peer"), of("endpoint")), ("unix:".to_owned(), format!("unix:{app}")), "{line:#}");
        // Who came before is kept, and whoever counts from the end is not led astray.
        let mut conn = connect(&edge);
        conn.write("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.1\r\nX-Request-Id: known\r\n\r\n");
        assert_eq!(conn.response("GET").status(), 200);
        assert_eq!(origin.last().head.get("x-forwarded-for").as_deref(), Some("192.0.2.1, unknown"));
        conn.write(REQUEST);
        assert_eq!(conn.response("GET").text(), "here", "the connection is kept");
        assert_eq!(get(proxy.addr(), "/").text(), "here");
        assert_eq!(origin.last().head.get("x-forwarded-for").as_deref(), Some("127.0.0.1"));
        told(&proxy, &format!("unix:{app}"));
    }
}

/// What the endpoints of the admin address say of it.
fn told(proxy: &Proxy, app: &str) {
    let peers = proxy.admin_json("/peers");
    let peer = &peers["peers"].as_array().expect("peers").iter().find(|peer| peer["listener"] == "local");
    let peer = peer.unwrap_or_else(|| panic!("{peers:#}"));
    assert_eq!(
        (&peer["address"], &peer["how"], &peer["connections"]),
        (&json!("unix:"), &json!("plaintext"), &json!(2))
    );
    let clusters = proxy.admin_json("/clusters");
    assert_eq!(clusters["app"]["endpoints"][0]["address"], app, "{clusters:#}");
    let why = eventually("the exchange is kept", SOON, || {
        let reply = proxy.admin("GET", "/why/known");
        (reply.status() == 200).then(|| serde_json::from_slice::<Value>(&reply.body).expect("JSON"))
    });
    assert_eq!((&why["peer"], &why["attempts"][0]["endpoint"]), (&json!("unix:"), &json!(app)), "{why:#}");
    let admin = proxy.place("admin").to_string();
    outrigger(&["why", "known", "--admin", &admin]).says(&[app]);
    let explained = eventually("its connections are known", SOON, || {
        let explained = explain(proxy, &json!({ "url": "http://app.test/" }));
        let endpoint = &explained["sides"][0]["endpoints"][0];
        (endpoint["live"]["connections"].as_u64() >= Some(1)).then(|| endpoint["address"].clone())
    });
    assert_eq!(explained, app);
    outrigger(&["explain", "http://app.test/", "--admin", &admin]).says(&[app]);
    outrigger(&["explain", "http://app.test/", "--config", &proxy.config().display().to_string()]).says(&[app]);
}

#[test]
fn nginx_and_http2() {
    let dir = TempDir::new("unix");
    let [edge, app, two] = ["edge.sock", "app.sock", "two.sock"].map(|name| at(&dir, name));
    let server = nginx(&format!(
        r#"server {{ listen {{addr}}; location / {{ proxy_pass http://unix:{edge}:/; proxy_set_header Host app.test; }} }}
           server {{ listen unix:{app}; location / {{ return 200 "one $server_protocol $http_x_forwarded_for"; }} }}
           server {{ listen unix:{two} http2; location / {{ return 200 "two $server_protocol"; }} }}"#
    ));
    {
        let _proxy = Setup { at: (&edge, ""), endpoints: &[&app], ..PLAIN }.start();
        assert_eq!(get(server.addr(), "/").text(), "one HTTP/1.1 unknown");
        let asked = run("curl", &["-sS", "--http2-prior-knowledge", "--unix-socket", &edge, "http://app.test/"]);
        assert_eq!(asked, "one HTTP/1.1 unknown");
    }
    let _proxy = Setup { at: (&edge, ""), endpoints: &[&two], service: ", protocol: http2", ..PLAIN }.start();
    for option in ["--http2-prior-knowledge", "--http1.1"] {
        assert_eq!(run("curl", &["-sS", option, "--unix-socket", &edge, "http://app.test/"]), "two HTTP/2.0");
    }
}

#[test]
fn tls_over_both() {
    let dir = TempDir::new("unix");
    let [edge, app] = ["edge.sock", "app.sock"].map(|name| at(&dir, name));
    let pki = Pki::new("outside.test");
    let pair = pki.server(&["app.test"]);
    let (crt, key, ca) = (pair.certificate.display(), pair.key.display(), pki.bundle().display().to_string());
    let _server = nginx(&format!(
        "server {{ listen {{addr}}; }}
         server {{ listen unix:{app} ssl; ssl_certificate {crt}; ssl_certificate_key {key}; \
         location / {{ return 200 \"$ssl_server_name\"; }} }}"
    ));
    let listener = format!(", tls: {{ mode: server, certificate: \"{crt}\", privateKey: \"{key}\" }}");
    let service = format!(", tls: {{ mode: simple, trustBundle: \"{ca}\", serverName: app.test }}");
    let proxy = Setup { at: (&edge, &listener), endpoints: &[&app], service: &service, ..PLAIN }.start();
    let args = ["-sS", "--http1.1", "--cacert", &ca, "--unix-socket", &edge, "https://app.test/"];
    assert_eq!(run("curl", &args), "app.test");
    let peers = proxy.admin_json("/peers");
    let of = |key: &str| peers["peers"][0][key].clone();
    assert_eq!((of("address"), of("how"), of("listener")), (json!("unix:"), json!("tls"), json!("local")));
    let line = logged(&proxy, 1);
    assert_eq!((&line["peer"], &line["tls_version"]), (&json!("unix:"), &json!("TLSv1.3")), "{line:#}");
}

#[test]
fn relayed_with_their_ends() {
    let dir = TempDir::new("unix");
    let [edge, app] = ["edge.sock", "app.sock"].map(|name| at(&dir, name));
    let (give, take) = std::sync::mpsc::channel();
    let give = std::sync::Mutex::new(give);
    let origin = Origin::raw_on(listen(&app), move |conn, _| {
        let _ = give.lock().expect("channel").send(conn);
    });
    let proxy = Setup { at: (&edge, ""), endpoints: &[&app], ..TCP }.start();
    let pair = |client: Conn, turned: bool| {
        let mut client = client;
        client.write("c");
        let mut server: Conn = take.recv_timeout(SOON).expect("a connection");
        assert_eq!(server.read_exact(1), b"c");
        if turned { (server, client) } else { (client, server) }
    };
    for turned in [false, true] {
        for kind in ["unix", "tcp"] {
            let client = || if kind == "unix" { connect(&edge) } else { Conn::connect(proxy.addr()) };
            // One finishes, the other still talks, then finishes as well.
            let (mut one, mut two) = pair(client(), turned);
            one.finish();
            assert_eq!(show(&two.read_to_end()), "", "{kind}");
            two.write("still talking");
            assert_eq!(show(&one.read_exact(13)), "still talking", "{kind}");
            two.finish();
            assert_eq!((show(&one.read_to_end()), one.was_reset), (String::new(), false), "{kind}");
            // One is gone with bytes that it has not read, which is all the reset that a Unix socket knows.
            let (mut one, mut two) = pair(client(), turned);
            two.write("unread");
            until("it has arrived", SOON, || !one.is_quiet(Duration::from_millis(1)));
            drop(one);
            // To a peer by TCP it is passed on.
            let passed_on = turned && kind == "tcp";
            assert_eq!((show(&two.read_to_end()).as_str(), two.was_reset), ("", passed_on), "{kind} {turned}");
            // One finishes, then is gone; the other hears when it writes.
            let (one, mut two) = pair(client(), turned);
            one.finish();
            assert_eq!(show(&two.read_to_end()), "", "{kind}");
            drop(one);
            until("it is told", SOON, || !two.try_write("x"));
        }
    }
    until("nothing is left open", SOON, || {
        proxy.metric("outrigger_worker_tcp_active", &[]) == 0.0 && origin.open() == 0
    });
}

#[test]
fn bulk_to_the_byte() {
    const SIZE: usize = 10 << 20;
    let dir = TempDir::new("unix");
    let [edge, app] = ["edge.sock", "app.sock"].map(|name| at(&dir, name));
    let origin = Origin::raw_on(listen(&app), |mut conn, _| {
        conn.write(pattern(3, SIZE));
        conn.finish();
        assert!(conn.read_to_end() == pattern(4, SIZE), "changed on the way up");
    });
    let proxy = Setup { at: (&edge, ""), endpoints: &[&app], ..TCP }.start();
    let mut carried = 0;
    for kind in ["unix", "tcp"] {
        let mut conn = if kind == "unix" { connect(&edge) } else { Conn::connect(proxy.addr()) };
        assert!(conn.read_to_end() == pattern(3, SIZE), "changed on the way down");
        conn.write(pattern(4, SIZE));
        conn.finish();
        until("both have ended", SOON, || origin.open() == 0);
        carried += SIZE;
        for name in ["outrigger_worker_tcp_sent_bytes_total", "outrigger_worker_tcp_received_bytes_total"] {
            proxy.await_metric(name, &[], carried as f64);
            assert_eq!(proxy.metric(name, &[]), carried as f64, "{name}");
        }
    }
    let line = logged(&proxy, 2);
    assert_eq!((&line["request_bytes"], &line["response_bytes"]), (&json!(SIZE), &json!(SIZE)), "{line:#}");
    let fds = std::fs::read_dir(format!("/proc/{}/fd", proxy.pid())).expect("descriptors");
    let links = fds.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
    assert!(
        links.filter(|to| to.to_string_lossy().starts_with("pipe:")).count() > 2,
        "it went through a pipe, which is kept"
    );
}

#[test]
fn a_header_ahead_of_it() {
    const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\xc6\x33\x64\x01\x12\x67\0\x50";
    let dir = TempDir::new("unix");
    let [edge, app] = ["edge.sock", "app.sock"].map(|name| at(&dir, name));
    let keys = ", headerTimeout: 300ms, proxyProtocol: { from: [\"unix:\"] }";
    {
        let origin = named(&app, "here");
        let proxy = Setup { at: (&edge, keys), endpoints: &[&app], ..PLAIN }.start();
        let headers: [(&[u8], &str); 4] = [
            (b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 80\r\n", "192.0.2.7"),
            (V2, "192.0.2.7"),
            (b"PROXY UNKNOWN\r\n", "unknown"),
            (b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0", "unknown"),
        ];
        for (header, client) in headers {
            let mut conn = connect(&edge);
            conn.write([header, REQUEST.as_bytes()].concat());
            assert_eq!(conn.response("GET").text(), "here", "{}", show(header));
            assert_eq!(origin.last().head.get("x-forwarded-for").as_deref(), Some(client), "{}", show(header));
        }
        let mut conn = connect(&edge);
        conn.write(REQUEST);
        assert_eq!(show(&conn.read_to_end()), "", "a header is due");
        let line = logged(&proxy, 1);
        assert_eq!(line["peer"], "192.0.2.7:4711", "{line:#}");
        assert_eq!(get(proxy.addr(), "/").status(), 200, "the other listener believes nobody");
    }
    // The service is told of the client; of a Unix socket there is nothing to tell.
    for (version, local) in [("v1", &b"PROXY UNKNOWN\r\n"[..]), ("v2", b"\r\n\r\n\0\r\nQUIT\n\x21\0\0\0")] {
        let app = at(&dir, &format!("{version}.sock"));
        let _origin = Origin::raw_on(listen(&app), |mut conn, _| {
            let heard = conn.read_until(b"~");
            conn.try_write(heard);
        });
        let service = format!(", protocol: tcp, proxyProtocol: {version}");
        let proxy = Setup { at: (&edge, ""), endpoints: &[&app], service: &service, ..TCP }.start();
        let mut conn = connect(&edge);
        conn.write("hello~");
        assert_eq!(show(&conn.read_to_end()), show(&[local, b"hello~"].concat()), "{version}");
        let mut conn = Conn::connect(proxy.addr());
        conn.write("hello~");
        let heard = conn.read_to_end();
        let port = conn.local_addr().port();
        match version {
            "v1" => assert!(
                show(&heard).starts_with(&format!("PROXY TCP4 127.0.0.1 127.0.0.1 {port} ")),
                "{}",
                show(&heard)
            ),
            _ => assert_eq!(
                heard[12..26],
                [&[0x21, 0x11, 0, 12, 127, 0, 0, 1, 127, 0, 0, 1][..], &port.to_be_bytes()].concat()
            ),
        }
    }
}

#[test]
fn nginx_speaks_for_others() {
    let dir = TempDir::new("unix");
    let [edge, app] = ["edge.sock", "app.sock"].map(|name| at(&dir, name));
    let server = nginx(&format!(
        "server {{ listen {{addr}}; }}
         server {{ listen unix:{app} proxy_protocol; location / {{ return 200 \"$proxy_protocol_addr\"; }} }}"
    ));
    assert_eq!(get(server.addr(), "/").status(), 404);
    let service = ", protocol: tcp, proxyProtocol: v2";
    let proxy = Setup { at: (&edge, ""), endpoints: &[&app], service, ..TCP }.start();
    assert_eq!(get(proxy.addr(), "/").text(), "127.0.0.1");
    assert_eq!(unix::get(&edge).status(), 200, "an unknown client is one");
}

#[test]
fn no_rule_knows_its_address() {
    let dir = TempDir::new("unix");
    let [edge, app] = ["edge.sock", "app.sock"].map(|name| at(&dir, name));
    let _origin = named(&app, "here");
    let anybody = "cidrs: [0.0.0.0/0, \"::/0\"]";
    for (rule, local, tcp) in [("allow", 403, 200), ("deny", 200, 403)] {
        let top = format!("authorization: [{{ name: all, {rule}: [{{ from: {{ {anybody} }} }}] }}]");
        let proxy = Setup { at: (&edge, ""), endpoints: &[&app], top: &top, ..PLAIN }.start();
        assert_eq!((unix::get(&edge).status(), get(proxy.addr(), "/").status()), (local, tcp), "{rule}");
        drop(proxy);
        let proxy = Setup { at: (&edge, ""), endpoints: &[&app], top: &top, ..TCP }.start();
        let mut conns = [connect(&edge), Conn::connect(proxy.addr())];
        let passed = conns.each_mut().map(|conn| {
            conn.try_write(REQUEST);
            conn.try_head().is_some()
        });
        assert_eq!(passed, [local == 200, tcp == 200], "{rule}, relayed");
        proxy.await_counted("denied", 1.0);
    }
    // Nor in shadow, where it is told of.
    let top = format!("authorization: [{{ name: all, mode: shadow, allow: [{{ from: {{ {anybody} }} }}] }}]");
    let proxy = Setup { at: (&edge, ""), endpoints: &[&app], top: &top, ..PLAIN }.start();
    assert_eq!(unix::get(&edge).status(), 200);
    let shadow = proxy.admin_json("/shadow");
    assert!(shadow.to_string().contains("\"unix:\""), "{shadow:#}");
}

#[test]
fn nobody_answers() {
    let dir = TempDir::new("unix");
    let [edge, none, dead, shut] = ["edge.sock", "none.sock", "dead.sock", "shut.sock"].map(|name| at(&dir, name));
    drop(bind(&dead));
    let _shut = named(&shut, "here");
    std::fs::set_permissions(&shut, std::os::unix::fs::PermissionsExt::from_mode(0)).expect("permissions");
    // Root may write anywhere.
    let wrap: &[&str] = match rustix::process::geteuid().is_root() {
        true => &["setpriv", "--inh-caps=-all", "--bounding-set=-all"],
        false => &[],
    };
    let nobody = unix::name("nobody");
    for path in [&none, &dead, &shut, &nobody] {
        let proxy = Setup { at: (&edge, ""), endpoints: &[path], wrap, ..PLAIN }.start();
        assert_eq!(get(proxy.addr(), "/").status(), 503, "{path}");
        proxy.await_reason("connect_failed", 503);
        let line = logged(&proxy, 1);
        assert_eq!((&line["reason"], &line["endpoint"]), (&json!("connect_failed"), &json!(format!("unix:{path}"))));
        drop(proxy);
        let proxy = Setup { at: (&edge, ""), endpoints: &[path], wrap, ..TCP }.start();
        assert_eq!(show(&connect(&edge).read_to_end()), "", "{path}");
        proxy.await_counted("connect_failed", 1.0);
    }
}

#[test]
fn a_full_queue_has_its_time() {
    let dir = TempDir::new("unix");
    let [edge, app] = ["edge.sock", "app.sock"].map(|name| at(&dir, name));
    let (listener, waiting) = full(&app);
    let top = "defaults: { connectTimeout: 400ms }";
    let proxy = Setup { at: (&edge, ""), endpoints: &[&app], top, ..PLAIN }.start();
    let begin = Instant::now();
    let reply = get(proxy.addr(), "/");
    let took = begin.elapsed();
    assert_eq!(reply.status(), 504, "{reply:?}");
    assert!((Duration::from_millis(390)..Duration::from_secs(3)).contains(&took), "{took:?}");
    proxy.await_reason("connect_timeout", 504);
    // Room in time is in time.
    let mut conn = Conn::connect(proxy.addr());
    conn.write(REQUEST);
    drop(waiting);
    let server = std::thread::spawn(move || {
        loop {
            let mut conn = Conn::new(listener.accept().expect("accept").0.into());
            if conn.try_head().is_some() {
                return conn.write(body("late"));
            }
        }
    });
    assert_eq!(conn.response("GET").text(), "late");
    server.join().expect("the server");
}

/// One that fails is not all of them.
#[test]
fn beside_other_endpoints() {
    let dir = TempDir::new("unix");
    let [edge, app, none] = ["edge.sock", "app.sock", "none.sock"].map(|name| at(&dir, name));
    let _origin = named(&app, "here");
    let proxy = Setup { at: (&edge, ""), endpoints: &[&none, &app], ..PLAIN }.start();
    let mut seen = std::collections::BTreeSet::new();
    until("both have been tried", SOON, || {
        seen.insert(get(proxy.addr(), "/").status());
        seen.len() == 2
    });
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [200, 503]);
}

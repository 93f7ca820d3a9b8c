//! The admin address, as `docs/admin.md` tells it.

mod common;

use common::origin::Gate;
use common::{Conn, Message, Origin, Proxy, SOON, Setup, get, until};
use serde_json::Value;

/// A request of these bytes to a place, with this Host.
fn raw(proxy: &Proxy, place: &str, line: &str, more: &str) -> Message {
    let mut conn = Conn::connect(proxy.place(place));
    conn.write(format!("{line} HTTP/1.1\r\nConnection: close\r\n{more}\r\n"));
    conn.response(line.split(' ').next().unwrap_or_default())
}

fn json(message: &Message) -> Value {
    serde_json::from_slice(&message.body).unwrap_or_else(|e| panic!("{e}: {message:?}"))
}

type Rows = Vec<(String, String)>;

/// `METHOD /path` of the tables in the documentation: those of health, those of admin, and what can be asked.
fn documented() -> (Rows, Rows, Rows) {
    let text = include_str!("../docs/admin.md");
    let rows = |section: &str| -> Rows {
        let section = text.split(&format!("\n## {section}\n")).nth(1).expect("the section");
        let section = section.split("\n## ").next().expect("its text");
        let cells = section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        let words = cells.filter_map(|cell| cell.split_once(' '));
        words.map(|(method, path)| (method.to_owned(), path.to_owned())).collect()
    };
    let (health, admin, questions) = (rows("Health"), rows("Admin"), rows("Questions and changes"));
    assert!(health.len() >= 5 && admin.len() >= 7 && questions.len() >= 10, "{health:?} {admin:?} {questions:?}");
    (health, admin, questions)
}

#[test]
fn every_documented_endpoint_answers_and_every_endpoint_is_documented() {
    let origin = Origin::ok();
    let proxy = Proxy::front(origin.addr());
    let (health, admin, questions) = documented();
    for (method, path) in health.iter().chain(&admin).filter(|(_, path)| path != "/drain") {
        let reply = proxy.admin(method, path);
        assert_eq!(reply.status(), 200, "{method} {path}: {reply:?}");
        if method == "GET" {
            let head = proxy.admin("HEAD", path);
            assert_eq!((head.status(), head.body.len()), (200, 0), "HEAD {path}");
        }
        assert_eq!(reply.head.get("cache-control").as_deref(), Some("no-store"), "{path}");
    }
    for (method, path) in &health {
        let reply = raw(&proxy, "health", &format!("{method} {path}"), "Host: pod\r\n");
        assert_eq!(reply.status(), 200, "{path} on the health address: {reply:?}");
    }
    // A yes or a no, but not that there is no such endpoint or method.
    for (method, path) in &questions {
        let asked = path.replace("{id}", "none").replace("{generation}", "1");
        let reply = proxy.admin(method, &asked);
        assert!(reply.status() != 405 && json(&reply)["error"] != "no such endpoint", "{method} {path}: {reply:?}");
    }
    for (method, path) in admin.iter().chain(&questions) {
        let reply = raw(&proxy, "health", &format!("{method} {path}"), "Host: pod\r\n");
        assert_eq!(reply.status(), 404, "{path} is not for the health address: {reply:?}");
    }
    let index = proxy.admin_json("/");
    for path in index.as_object().expect("an object").keys() {
        let known = |rows: &[(String, String)]| rows.iter().any(|(_, p)| p.split('?').next() == Some(path));
        assert!(known(&health) || known(&admin) || known(&questions), "{path} is not in docs/admin.md");
    }
    // The last, since the process ends by it.
    assert_eq!(proxy.admin("POST", "/drain").status(), 202);
}

#[test]
fn unknown_paths_and_wrong_methods() {
    let origin = Origin::ok();
    let proxy = Proxy::front(origin.addr());
    let reply = proxy.admin("GET", "/nothing");
    assert_eq!(reply.status(), 404, "{reply:?}");
    let listed = json(&reply);
    let listed = listed["endpoints"].as_array().expect("a list");
    for path in ["/config", "/config/status", "/clusters", "/drain", "/loglevel", "/metrics", "/healthz"] {
        assert!(listed.iter().any(|p| p == path), "{path} in {listed:?}");
    }
    let reply = raw(&proxy, "health", "GET /nothing", "Host: pod\r\n");
    assert_eq!(reply.status(), 404, "{reply:?}");
    assert!(!reply.text().contains("/drain") && reply.text().contains("/readyz"), "{reply:?}");

    for (method, path, allow) in [
        ("GET", "/drain", "POST"),
        ("DELETE", "/loglevel", "GET, HEAD, POST"),
        ("POST", "/config", "GET, HEAD"),
        ("PUT", "/readyz", "GET, HEAD"),
    ] {
        let reply = proxy.admin(method, path);
        assert_eq!((reply.status(), reply.head.get("allow").as_deref()), (405, Some(allow)), "{method} {path}");
    }
    assert_eq!(proxy.probe("/readyz"), Some(200), "GET /drain drains nothing");
    proxy.assert_serves();
}

#[test]
fn only_local_names_and_no_web_pages() {
    let origin = Origin::ok();
    let proxy = Proxy::front(origin.addr());
    let port = proxy.place("admin").port();
    for host in
        [format!("evil.test:{port}"), "evil.test".into(), "localhost.evil.test".into(), "127.0.0.1.nip.io".into()]
    {
        for line in ["GET /config", "POST /drain", "GET /healthz", "GET /nothing"] {
            let reply = raw(&proxy, "admin", line, &format!("Host: {host}\r\n"));
            assert_eq!(reply.status(), 403, "{line} to {host}: {reply:?}");
        }
    }
    for host in [format!("localhost:{port}"), "LOCALHOST".into(), format!("127.0.0.1:{port}"), format!("[::1]:{port}")]
    {
        let reply = raw(&proxy, "admin", "GET /config/status", &format!("Host: {host}\r\n"));
        assert_eq!(reply.status(), 200, "{host}: {reply:?}");
    }
    let posted =
        raw(&proxy, "admin", "POST /drain", "Host: localhost\r\nOrigin: http://evil.test\r\nContent-Length: 0\r\n");
    assert_eq!(posted.status(), 403, "{posted:?}");
    let absolute = raw(&proxy, "admin", "GET http://evil.test/config", "Host: localhost\r\n");
    assert_eq!(absolute.status(), 403, "{absolute:?}");
    assert_eq!(proxy.probe("/readyz"), Some(200));
    // Kubelets and scrapers come by any name.
    assert_eq!(raw(&proxy, "health", "GET /readyz", "Host: evil.test\r\n").status(), 200);
}

#[test]
fn the_active_configuration_without_its_secrets() {
    let origin = Origin::ok();
    let route = ", requestHeaders: { set: { authorization: \"Bearer hunter2\", x-api-key: hunter3, x-mesh: plain } }";
    let proxy = Setup { route, workers: 1, ..Setup::default() }.start(origin.addr());
    let reply = proxy.admin("GET", "/config");
    assert_eq!(reply.head.get("content-type").as_deref(), Some("application/json"));
    assert!(!reply.text().contains("hunter"), "{}", reply.text());
    let config = json(&reply);
    let set = &config["routes"][0]["requestHeaders"]["set"];
    assert!(set["authorization"].is_string() && set["x-api-key"].is_string(), "{set}");
    assert_eq!(set["x-mesh"], "plain");
    assert_eq!(config["apiVersion"], "outrigger/v1");
    assert_eq!(config["listeners"][0]["address"], proxy.addr().to_string());
    assert_eq!(config["services"]["app"]["endpoints"]["static"][0], origin.addr().to_string());
    assert_eq!(config["defaults"]["timeout"], "15s", "defaults are filled in");
    assert_eq!(config["runtime"]["drainTimeout"], "5s");
    // What is shown is what is live.
    proxy.reload("x-mesh: plain", "x-mesh: other");
    assert_eq!(proxy.admin_json("/config")["routes"][0]["requestHeaders"]["set"]["x-mesh"], "other");
    proxy.assert_serves();
    assert_eq!(origin.last().head.get("authorization").as_deref(), Some("Bearer hunter2"), "redacted in the view only");
}

#[test]
fn status_of_the_configuration() {
    let origin = Origin::ok();
    let proxy = Proxy::front(origin.addr());
    let first = proxy.admin_json("/config/status");
    assert_eq!(first["live"]["generation"], 1, "{first}");
    assert_eq!(first["lastAttempt"]["result"], "success");
    assert_eq!(first["lastAttempt"]["problems"], serde_json::json!([]));
    assert_eq!(first["live"]["files"][0], proxy.config().display().to_string());
    let digest = first["live"]["digest"].as_str().expect("a digest").to_owned();
    assert!(!digest.is_empty());
    proxy.reload("name: all", "name: every");
    let second = proxy.admin_json("/config/status");
    assert_eq!(second["live"]["generation"], 2, "{second}");
    assert_ne!(second["live"]["digest"], digest.as_str());
    assert!(second["live"]["loadedAt"].as_str() > first["live"]["loadedAt"].as_str(), "{first} {second}");
    proxy.reload("name: every", "name: all");
    assert_eq!(proxy.admin_json("/config/status")["live"]["digest"], digest.as_str(), "a digest of the content");
}

#[test]
fn clusters_show_endpoints_and_their_connections() {
    let gate = Gate::default();
    let origin = Origin::gated("ok", &gate);
    let config = r#"apiVersion: outrigger/v1
admin: { address: "{admin}" }
health: { address: "{health}" }
runtime: { workers: 1 }
listeners: [{ name: edge, mode: proxy, address: "{listen}" }]
services:
  app:
    endpoints: { static: [{ address: "{up}", labels: { version: v1 }, zone: a, weight: 7 }] }
    subsets: { v1: { labels: { version: v1 } } }
  other: { endpoints: { static: ["{spare}"] } }
routes: [{ name: all, to: app/v1 }]
"#;
    let proxy = Proxy::start(config, &[("up", origin.addr())]);
    let before = proxy.admin_json("/clusters");
    let endpoint = &before["app"]["endpoints"][0];
    assert_eq!(endpoint["address"], origin.addr().to_string(), "{before}");
    assert_eq!(
        (&endpoint["labels"]["version"], &endpoint["zone"], &endpoint["weight"]),
        (&"v1".into(), &"a".into(), &7.into())
    );
    assert_eq!(endpoint["connections"], 0, "{before}");
    assert_eq!(before["other"]["endpoints"][0]["address"], proxy.place("spare").to_string());

    let mut conn = Conn::connect(proxy.addr());
    conn.write("GET /slow HTTP/1.1\r\nHost: app.test\r\n\r\n");
    let field = |name: &str| proxy.admin_json("/clusters")["app"]["endpoints"][0][name].as_u64().unwrap_or_default();
    until("a request in flight is shown", SOON, || (field("connections"), field("inFlight")) == (1, 1));
    gate.open();
    assert_eq!(conn.response("GET").status(), 200);
    until("the connection is idle", SOON, || (field("connections"), field("inFlight"), field("idle")) == (1, 0, 1));
    assert_eq!(field("pending"), 0);
}

#[test]
fn what_is_learned_and_what_is_unknown() {
    let origin = Origin::ok();
    let proxy = Proxy::front(origin.addr());
    assert_eq!(get(proxy.addr(), "/").status(), 200);
    // Nothing is redirected here, and nothing is to be found out.
    for key in ["learned", "unknown"] {
        let answer = proxy.admin_json(&format!("/{key}"));
        let list = answer[key].as_array().expect("a list");
        assert_eq!((list.len(), &answer["more"], &answer["forgotten"]), (0, &0.into(), &0.into()), "{answer:#}");
    }
    let yaml = proxy.admin("GET", "/learned?format=yaml");
    assert_eq!(yaml.head.get("content-type").as_deref(), Some("text/plain; charset=utf-8"));
    assert!(yaml.body.starts_with(b"# "), "{yaml:?}");
    assert_eq!(proxy.admin("GET", "/learned?format=xml").status(), 400);
    assert!(!proxy.health("/metrics").contains("outrigger_detection_total{"), "a proxy listener detects nothing");
}

#[test]
fn the_level_of_the_log() {
    let origin = Origin::ok();
    let proxy = Proxy::front(origin.addr());
    assert_eq!(proxy.admin_json("/loglevel")["level"], "info");
    let debugs = || proxy.stderr_text().to_lowercase().matches("\"debug\"").count();
    assert_eq!(debugs(), 0, "{}", proxy.stderr_text());
    for level in ["error", "warn", "debug", "trace"] {
        let reply = proxy.admin("POST", &format!("/loglevel?level={level}"));
        assert_eq!((reply.status(), json(&reply)["level"].as_str()), (200, Some(level)), "{reply:?}");
        assert_eq!(proxy.admin_json("/loglevel")["level"], level);
    }
    until("lines of that level", SOON, || {
        // Garbage is worth a line at debug.
        common::send(proxy.addr(), "garbage\r\n\r\n");
        debugs() > 0
    });
    for bad in ["/loglevel", "/loglevel?level=", "/loglevel?level=loud", "/loglevel?verbosity=info"] {
        let reply = proxy.admin("POST", bad);
        assert_eq!(reply.status(), 400, "{bad}: {reply:?}");
        assert!(reply.text().contains("debug"), "tells the levels: {reply:?}");
    }
    assert_eq!(proxy.admin_json("/loglevel")["level"], "trace");
    proxy.reload("name: all", "name: every");
    assert_eq!(proxy.admin_json("/loglevel")["level"], "info", "a reload sets it back");
}

#[test]
fn garbage_and_idlers_do_not_take_the_probes_away() {
    let origin = Origin::ok();
    let proxy = Proxy::front(origin.addr());
    let idle: Vec<Conn> = (0..100).map(|_| Conn::connect(proxy.place("health"))).collect();
    assert_eq!(proxy.probe("/readyz"), Some(200));
    for bytes in ["garbage\r\n\r\n", "GET", "GET / HTTP/1.1\r\nContent-Length: 5, 6\r\n\r\n", "\0\0\0"] {
        common::send(proxy.place("health"), bytes);
        common::send(proxy.place("admin"), bytes);
    }
    assert_eq!(proxy.probe("/readyz"), Some(200));
    drop(idle);
    proxy.assert_serves();
}

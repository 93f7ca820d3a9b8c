//! Who has connected, and how: the table of the admin address, and the counter to alert on.

mod common;

use common::mesh::{Mesh, WEB};
use common::pki::Pki;
use common::tls::{Client, MARK, Server};
use common::{Conn, Origin, Proxy, SOON, eventually, get, until};
use serde_json::Value;

/// One listener that takes everything but TLS with us alone, and one that has a certificate of its own.
fn start(mesh: &Mesh, pki: &Pki, app: &Origin, own: std::net::SocketAddr) -> Proxy {
    let pair = pki.server(&["edge.test"]);
    let config = format!(
        r#"apiVersion: outrigger/v1
admin: {{ address: "{{admin}}" }}
health: {{ address: "{{health}}" }}
runtime: {{ workers: 2 }}
{}listeners:
  - {{ name: inbound, mode: proxy, address: "{{listen}}", tls: {{ mode: permissive }} }}
  - {{ name: edge, mode: proxy, address: "{{listen2}}", tls: {{ mode: server, certificate: "{}", privateKey: "{}" }} }}
services:
  app: {{ endpoints: {{ static: ["{{app}}"] }} }}
  own: {{ endpoints: {{ static: ["{{own}}"] }} }}
routes:
  - {{ name: own, hosts: [own.test], to: own }}
  - {{ name: all, to: app }}
"#,
        mesh.identity(&mesh.reviews),
        pair.certificate.display(),
        pair.key.display()
    );
    Proxy::start(&config, &[("app", app.addr()), ("own", own)])
}

fn peers(proxy: &Proxy, query: &str) -> Vec<Value> {
    let answer = proxy.admin_json(&format!("/peers{query}"));
    assert_eq!((&answer["more"], &answer["forgotten"]), (&Value::from(0), &Value::from(0)), "{answer:#}");
    answer["peers"].as_array().expect("a list").clone()
}

fn column(peers: &[Value], key: &str) -> Vec<String> {
    let mut all: Vec<_> = peers.iter().map(|peer| peer[key].as_str().unwrap_or("nobody").to_owned()).collect();
    all.sort();
    all
}

#[test]
fn every_kind_is_listed_and_counted() {
    let (mesh, pki) = (Mesh::new(), Pki::new("outside.test"));
    let app = Origin::named("app");
    let own = Server::of(&pki.server(&["own.test"])).alpn(&["http/1.1"]).front(app.addr());
    let proxy = start(&mesh, &pki, &app, own.addr());
    let counted = |listener: &str, security: &str| {
        proxy.metric("outrigger_downstream_connections_total", &[("listener", listener), ("security", security)])
    };
    let text = proxy.health("/metrics");
    let from_the_start = r#"outrigger_downstream_connections_total{listener="edge",security="mtls"} 0"#;
    assert!(text.contains(from_the_start), "an alert sees the first of each: {text}");
    assert!(peers(&proxy, "").is_empty());

    assert_eq!(get(proxy.addr(), "/").status(), 200);
    assert_eq!(get(proxy.addr(), "/").status(), 200);
    let mut stays = Conn::connect(proxy.addr());
    stays.write("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
    assert_eq!(stays.response("GET").status(), 200);
    let ours = Client::of(&mesh.web).alpn(&["http/1.1", MARK]).bridge(proxy.addr());
    assert_eq!(ours.get("/").status(), 200);
    let through = Client::anonymous().name("own.test").alpn(&["http/1.1"]).bridge(proxy.addr());
    assert_eq!(through.get("/").status(), 200);
    let edge = Client::anonymous().name("edge.test").alpn(&["http/1.1"]).bridge(proxy.place("listen2"));
    assert_eq!(edge.get("/").status(), 200);

    let all = peers(&proxy, "");
    assert_eq!(column(&all, "how"), ["mtls", "passthrough", "plaintext", "tls"], "{all:#?}");
    assert_eq!(column(&all, "listener"), ["edge", "inbound", "inbound", "inbound"]);
    assert_eq!(column(&all, "identity"), ["nobody", "nobody", "nobody", WEB]);
    assert_eq!(column(&all, "address"), ["127.0.0.1"; 4]);
    until("only one is still open", SOON, || {
        let plain = peers(&proxy, "?how=plaintext");
        plain.len() == 1 && plain[0]["connections"] == 3 && plain[0]["open"] == 1
    });
    assert_eq!(counted("inbound", "plaintext"), 3.0);
    for (listener, security) in [("inbound", "mtls"), ("inbound", "passthrough"), ("edge", "tls")] {
        assert_eq!(counted(listener, security), 1.0, "{listener} {security}");
    }
    assert_eq!(counted("edge", "plaintext"), 0.0);

    let plain = &peers(&proxy, "?how=plaintext")[0];
    assert!(plain["firstSeen"].as_str() <= plain["lastSeen"].as_str(), "{plain}");
    assert_eq!(proxy.admin("GET", "/peers?how=telepathy").status(), 400);
    drop(stays);
    until("nobody is left", SOON, || peers(&proxy, "").iter().all(|peer| peer["open"] == 0));
}

#[test]
fn the_access_log_and_why_name_who_calls() {
    let (mesh, app) = (Mesh::new(), Origin::named("app"));
    let proxy = mesh.strict(app.addr());
    let client = Client::of(&mesh.web).alpn(&["http/1.1", MARK]).name("reviews.shop").bridge(proxy.addr());
    let mut conn = client.connect();
    for id in ["first", "second"] {
        conn.write(format!("GET / HTTP/1.1\r\nHost: app.test\r\nX-Request-Id: {id}\r\n\r\n"));
        assert_eq!(conn.response("GET").status(), 200);
    }
    let lines = eventually("two lines", SOON, || Some(proxy.stdout_lines()).filter(|lines| lines.len() == 2));
    for line in lines {
        let line: Value = serde_json::from_str(&line).expect("a line of JSON");
        let told = ["peer_identity", "tls_version", "server_name"].map(|key| line[key].as_str().unwrap_or_default());
        assert_eq!(told, [WEB, "TLSv1.3", "reviews.shop"], "{line}");
    }
    let [first, second] = ["first", "second"].map(|id| proxy.admin_json(&format!("/why/{id}")));
    assert_eq!((&first["identity"], &second["identity"]), (&WEB.into(), &WEB.into()));
    let phase = |of: &Value, name: &str| of["phases"][name].as_f64();
    let (accept, tls) = (phase(&first, "accept").expect("a time"), phase(&first, "tls").expect("a time"));
    assert!(tls > 0.0 && tls <= accept, "{first:#}");
    assert_eq!((phase(&second, "accept"), phase(&second, "tls")), (None, None), "of the first request only");
    let page = proxy.cli(&["why", "first"]).out;
    assert!(page.contains(&format!("HTTP/1.1, {WEB}")) && page.contains("of that"), "{page}");
}

#[test]
fn who_has_proven_nothing_is_nobody() {
    let app = Origin::named("app");
    let proxy = Proxy::front(app.addr());
    assert_eq!(get(proxy.addr(), "/").status(), 200);
    let lines = eventually("a line", SOON, || Some(proxy.stdout_lines()).filter(|lines| lines.len() == 1));
    for field in ["peer_identity", "tls_version", "server_name"] {
        assert!(!lines[0].contains(field), "{field}: {}", lines[0]);
    }
}

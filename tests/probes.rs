//! What the kubelet asks: alive, started, ready, and what ails it.

mod common;

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use common::origin::Next;
use common::{Conn, Message, Origin, Proxy, SOON, Setup, until};

fn ask(proxy: &Proxy, path: &str) -> Message {
    let mut conn = Conn::connect(proxy.place("health"));
    conn.write(format!(
        "GET {path} HTTP/1.1\r\nHost: 10.0.0.7:15020\r\nUser-Agent: kube-probe/1.36\r\nConnection: close\r\n\r\n"
    ));
    conn.response("GET")
}

#[test]
fn all_is_well() {
    let origin = Origin::ok();
    let proxy = Proxy::front(origin.addr());
    for path in ["/livez", "/readyz", "/startupz"] {
        let reply = ask(&proxy, path);
        assert_eq!((reply.status(), reply.text().as_str()), (200, "ok\n"), "{path}");
    }
    let reply = ask(&proxy, "/healthz");
    assert_eq!((reply.status(), reply.head.get("content-type").as_deref()), (200, Some("application/json")));
    let report = proxy.healthz();
    assert_eq!(report["status"], "ok", "{report}");
    let components = report["components"].as_object().expect("components");
    assert_eq!(components.keys().map(String::as_str).collect::<Vec<_>>(), ["config", "listeners", "workers", "drain"]);
    for (name, component) in components {
        assert_eq!(component["status"], "ok", "{name}");
        let since = component["since"].as_str().expect("a time");
        assert!(since.len() >= 20 && since.ends_with('Z') && since.as_bytes()[10] == b'T', "{name}: {since}");
        assert!(component["detail"].is_string(), "{name}");
    }
}

#[test]
fn the_application_gates_readiness() {
    let (well, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (answer, count) = (Arc::clone(&well), Arc::clone(&asked));
    let application = Origin::start(move |seen, conn| {
        assert_eq!(seen.message.head.start_line(), "GET /health?deep=1 HTTP/1.1");
        // Ill for the first three times, so that the proxy starts before the application.
        let ill = count.fetch_add(1, Ordering::SeqCst) < 3 || !answer.load(Ordering::SeqCst);
        let status = if ill { "503 Not Yet" } else { "204 No Content" };
        conn.write(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n"));
        Next::Keep
    });
    well.store(true, Ordering::SeqCst);
    let config = r#"apiVersion: outrigger/v1
admin: { address: "{admin}" }
health: { address: "{health}", application: { http: "http://{app}/health?deep=1", interval: 50ms } }
runtime: { workers: 1 }
listeners: [{ name: edge, mode: proxy, address: "{listen}" }]
routes: [{ name: all, respond: { status: 200, body: one } }]
"#;
    let proxy = Proxy::start(config, &[("app", application.addr())]);
    assert!(asked.load(Ordering::SeqCst) >= 4, "ready only when the application was");
    assert_eq!(proxy.healthz()["components"]["application"]["status"], "ok");
    assert_eq!(proxy.probe("/startupz"), Some(200));

    well.store(false, Ordering::SeqCst);
    until("unready", SOON, || proxy.probe("/readyz") == Some(503));
    let why = ask(&proxy, "/readyz").text();
    assert!(why.contains("application") && why.contains("503"), "{why}");
    assert_eq!((proxy.probe("/livez"), proxy.probe("/startupz")), (Some(200), Some(200)), "alive, and was started");
    assert_eq!(proxy.probe("/healthz"), Some(503));
    let report = proxy.healthz();
    assert_eq!(
        (&report["status"], &report["components"]["application"]["status"]),
        (&"failed".into(), &"failed".into())
    );
    assert_eq!(common::get(proxy.addr(), "/").text(), "one", "who comes all the same is served");
    let since = report["components"]["application"]["since"].clone();
    let before = asked.load(Ordering::SeqCst);
    until("asked again", SOON, || asked.load(Ordering::SeqCst) > before + 2);
    assert_eq!(proxy.healthz()["components"]["application"]["since"], since, "since the change, not the last look");
    well.store(true, Ordering::SeqCst);
    until("ready again", SOON, || proxy.probe("/readyz") == Some(200));

    // Without the probe the application has no say, from the reload on.
    well.store(false, Ordering::SeqCst);
    until("unready", SOON, || proxy.probe("/readyz") == Some(503));
    proxy.reload(&proxy.fill(", application: { http: \"http://{app}/health?deep=1\", interval: 50ms }"), "");
    until("ready", SOON, || proxy.probe("/readyz") == Some(200));
    assert!(proxy.healthz()["components"].get("application").is_none());
}

#[test]
fn an_application_that_hangs_or_is_not_there() {
    let silent = Origin::raw(|mut conn, _| {
        conn.read_to_end();
    });
    let origin = Origin::ok();
    let config = r#"apiVersion: outrigger/v1
admin: { address: "{admin}" }
health: { address: "{health}", application: { http: "http://{app}/", interval: 50ms } }
listeners: [{ name: edge, mode: proxy, address: "{listen}" }]
routes: [{ name: all, respond: { status: 200 } }]
"#;
    let proxy = Proxy::start(config, &[("app", origin.addr()), ("silent", silent.addr())]);
    for (from, to) in [("{app}", "{silent}"), ("{silent}", "{spare}")] {
        proxy.reload(&proxy.fill(&format!("http://{from}/")), &proxy.fill(&format!("http://{to}/")));
        until(to, SOON, || proxy.healthz()["components"]["application"]["status"] == "failed");
        assert_eq!(proxy.probe("/readyz"), Some(503));
    }
}

#[test]
fn ready_only_when_the_listeners_are_up() {
    let origin = Origin::ok();
    let proxy = Setup::default().start(origin.addr());
    // The first look that says ready finds every listener accepting.
    assert_eq!(common::get(proxy.addr(), "/").status(), 200);
    let text = proxy.stderr_text();
    assert!(text.contains("listening"), "{text}");
    // Ready within 20 ms is a figure of the release build; this is that nothing waits without need.
    let ready: SocketAddr = proxy.place("health");
    assert!(TcpStream::connect_timeout(&ready, Duration::from_secs(1)).is_ok());
}

#[test]
fn unready_at_once_on_the_way_out() {
    let origin = Origin::ok();
    let mut proxy = Proxy::front(origin.addr());
    proxy.signal("TERM");
    until("unready", Duration::from_secs(1), || proxy.probe("/readyz") == Some(503));
    let why = ask(&proxy, "/readyz").text();
    assert!(why.starts_with("drain: "), "{why}");
    assert_eq!((proxy.probe("/livez"), proxy.probe("/healthz")), (Some(200), Some(200)));
    assert_eq!(proxy.wait_exit(SOON).code(), Some(0));
}

//! Configuration that changes while traffic flows. Connections that live through it are in `reload_traffic.rs`.

mod common;

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use common::load::Load;
use common::{Conn, Origin, Proxy, SOON, Setup, TempDir, get, until};

/// What the issue promises of a change.
const LIVE: Duration = Duration::from_secs(1);

/// Answers this text by itself.
const SAYS: &str = r#"apiVersion: outrigger/v1
admin: { address: "{admin}" }
health: { address: "{health}" }
runtime: { workers: 2 }
listeners: [{ name: edge, mode: proxy, address: "{listen}" }]
routes: [{ name: all, respond: { status: 200, body: TEXT } }]
"#;

fn says(text: &str) -> String {
    SAYS.replace("TEXT", text)
}

fn at(addr: SocketAddr) -> String {
    let reply = get(addr, "/");
    if reply.status() == 200 { reply.text() } else { reply.status().to_string() }
}

fn is_live(proxy: &Proxy, text: &str) {
    until(&format!("`{text}` is live\n{}", proxy.stderr_text()), LIVE, || at(proxy.addr()) == text);
}

fn attempts(proxy: &Proxy, result: &str) -> u64 {
    proxy.metric("outrigger_config_reloads_total", &[("result", result)]) as u64
}

#[test]
fn a_file_written_in_place_or_renamed_over() {
    let proxy = Proxy::start(&says("one"), &[]);
    assert_eq!(at(proxy.addr()), "one");
    fs::write(proxy.config(), proxy.fill(&says("two"))).expect("write in place");
    is_live(&proxy, "two");
    proxy.rewrite_config(&says("three"));
    is_live(&proxy, "three");
    // An editor that moves the old one away first; what is not there is no configuration, and no problem yet.
    fs::rename(proxy.config(), proxy.dir().join("outrigger.yaml~")).expect("move away");
    assert_eq!(at(proxy.addr()), "three");
    fs::write(proxy.config(), proxy.fill(&says("four"))).expect("write anew");
    is_live(&proxy, "four");
    // Twice in a row: the last one counts.
    proxy.rewrite_config(&says("five"));
    proxy.rewrite_config(&says("six"));
    is_live(&proxy, "six");
    assert_eq!(attempts(&proxy, "failure"), 0, "{}", proxy.stderr_text());
    let before = attempts(&proxy, "success");
    // The same content is no change.
    proxy.rewrite_config(&says("six"));
    proxy.rewrite_config(&says("seven"));
    is_live(&proxy, "seven");
    assert_eq!(attempts(&proxy, "success"), before + 1);
}

#[test]
fn a_file_that_is_written_slowly() {
    let proxy = Proxy::start(&says("one"), &[]);
    let text = proxy.fill(&says("two"));
    let (first, second) = text.split_at(text.len() / 2);
    fs::write(proxy.config(), first).expect("write half of it");
    until("half a file is refused", SOON, || attempts(&proxy, "failure") >= 1);
    assert_eq!(at(proxy.addr()), "one");
    fs::write(proxy.config(), [first, second].concat()).expect("write all of it");
    is_live(&proxy, "two");
    assert_eq!(proxy.metric("outrigger_config_last_reload_successful", &[]) as u64, 1);
}

#[test]
fn a_directory() {
    let header = "apiVersion: outrigger/v1\n";
    let lay = |dir: &TempDir, fill: &dyn Fn(&str) -> String| {
        let config = dir.path().join("conf");
        fs::create_dir(&config).expect("a directory");
        fs::write(config.join("base.yaml"), fill(&says("base"))).expect("write");
        config
    };
    let proxy = Proxy::start_laid(&lay, &[]);
    let text = |path: &str| {
        let reply = get(proxy.addr(), path);
        reply.text()
    };
    let route = |name: &str| {
        format!(
            "{header}routes: [{{ name: {name}, match: [{{ path: {{ prefix: /{name} }} }}], respond: {{ status: 200, body: {name} }} }}]\n"
        )
    };
    assert_eq!(text("/more"), "base");
    fs::write(proxy.config().join("more.yaml"), route("more")).expect("add");
    until("a file was added", LIVE, || text("/more") == "more");
    fs::write(proxy.config().join("other.yml"), route("other")).expect("add");
    until("one more was added", LIVE, || text("/other") == "other");
    // What is no configuration does not matter.
    let before = attempts(&proxy, "success");
    fs::write(proxy.config().join("notes.txt"), "not: [yaml").expect("add");
    fs::write(proxy.config().join(".hidden.yaml"), "not: [yaml").expect("add");
    fs::remove_file(proxy.config().join("more.yaml")).expect("remove");
    until("a file was removed", LIVE, || text("/more") == "base");
    assert_eq!((attempts(&proxy, "success"), attempts(&proxy, "failure")), (before + 1, 0), "{}", proxy.stderr_text());
    assert_eq!(text("/other"), "other");
    // The same name in two files is a problem that names both.
    fs::write(proxy.config().join("twice.yaml"), route("other")).expect("add");
    until("a duplicate is refused", SOON, || attempts(&proxy, "failure") == 1);
    let problems = proxy.admin_json("/config/status")["lastAttempt"]["problems"].to_string();
    assert!(problems.contains("other.yml") && problems.contains("twice.yaml"), "{problems}");
    fs::remove_file(proxy.config().join("twice.yaml")).expect("remove");
    until("it is good again", LIVE, || proxy.metric("outrigger_config_last_reload_successful", &[]) as u64 == 1);
    assert_eq!(proxy.healthz()["status"], "ok");
}

/// What the kubelet does with a mounted ConfigMap: a directory with a new timestamp, `..data_tmp` that points to it,
/// a rename over `..data`, and the old directory goes.
fn swap(mount: &Path, stamp: &str, text: &str) {
    let old = fs::read_link(mount.join("..data")).ok();
    let new = mount.join(stamp);
    fs::create_dir(&new).expect("a new directory");
    fs::write(new.join("outrigger.yaml"), text).expect("write");
    symlink(stamp, mount.join("..data_tmp")).expect("a link");
    fs::rename(mount.join("..data_tmp"), mount.join("..data")).expect("swap");
    if let Some(old) = old {
        fs::remove_dir_all(mount.join(old)).expect("remove the old directory");
    }
}

#[test]
fn symlink_swap() {
    for whole_directory in [false, true] {
        let lay = |dir: &TempDir, fill: &dyn Fn(&str) -> String| {
            let mount = dir.path().join("mount");
            fs::create_dir(&mount).expect("a directory");
            swap(&mount, "..2026_11_21_03_00_00.1", &fill(&says("one")));
            symlink("..data/outrigger.yaml", mount.join("outrigger.yaml")).expect("a link");
            if whole_directory { mount } else { mount.join("outrigger.yaml") }
        };
        let proxy = Proxy::start_laid(&lay, &[]);
        let mount = proxy.dir().join("mount");
        assert_eq!(at(proxy.addr()), "one");
        for round in 2..8 {
            let text = format!("round{round}");
            swap(&mount, &format!("..2026_11_21_03_00_0{round}.{round}"), &proxy.fill(&says(&text)));
            is_live(&proxy, &text);
        }
        assert_eq!(attempts(&proxy, "failure"), 0, "no look in the middle of a swap: {}", proxy.stderr_text());
        swap(&mount, "..2026_11_21_03_00_08.8", "listeners: [{\n");
        until("a bad one is refused", SOON, || attempts(&proxy, "failure") == 1);
        assert_eq!(at(proxy.addr()), "round7");
        swap(&mount, "..2026_11_21_03_00_09.9", &proxy.fill(&says("nine")));
        is_live(&proxy, "nine");
    }
}

#[test]
fn sighup_forces() {
    let proxy = Proxy::start(&says("one"), &[]);
    let before = attempts(&proxy, "success");
    proxy.signal("HUP");
    until("a reload without a change", LIVE, || attempts(&proxy, "success") == before + 1);
    assert_eq!(proxy.admin_json("/config/status")["live"]["generation"].as_u64(), Some(before + 1));
    fs::remove_file(proxy.config()).expect("remove");
    proxy.signal("HUP");
    until("a reload of what is not there", LIVE, || attempts(&proxy, "failure") == 1);
    assert_eq!(at(proxy.addr()), "one");
}

#[test]
fn a_bad_file_changes_nothing_and_shows_everywhere() {
    let proxy = Proxy::start(&says("one"), &[]);
    let good = proxy.metric("outrigger_config_last_reload_timestamp_seconds", &[]);
    let bad = says("two")
        .replace("routes: [{ name: all,", "routes:\n  - { nam: all, to: nowhere }\n  - { name: all,")
        .replace("TEXT } }]", "");
    let bad = bad.trim_end().trim_end_matches(']').to_owned() + "\n";
    proxy.rewrite_config(&bad);
    until("it is refused", LIVE, || attempts(&proxy, "failure") == 1);
    assert_eq!(at(proxy.addr()), "one");
    assert_eq!(proxy.metric("outrigger_config_last_reload_successful", &[]) as u64, 0);
    assert!((proxy.metric("outrigger_config_last_reload_timestamp_seconds", &[]) - good).abs() < f64::EPSILON);
    assert_eq!(proxy.metric("outrigger_config_generation", &[]) as u64, 1);
    let health = proxy.healthz();
    assert_eq!(
        (health["status"].as_str(), health["components"]["config"]["status"].as_str()),
        (Some("degraded"), Some("degraded"))
    );
    assert!(health["components"]["config"]["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{health}");
    assert_eq!((proxy.probe("/readyz"), proxy.probe("/healthz")), (Some(200), Some(200)), "still ready");
    let status = proxy.admin_json("/config/status");
    assert_eq!(status["live"]["generation"], 1);
    assert_eq!(status["lastAttempt"]["result"], "failure");
    let problems = status["lastAttempt"]["problems"].as_array().expect("a list");
    let found =
        problems.iter().find(|problem| problem["path"].as_str().is_some_and(|path| path.starts_with("routes[0]")));
    let found = found.unwrap_or_else(|| panic!("{status}"));
    assert_eq!(found["line"], 7, "{found}");
    assert!(found["column"].as_u64().is_some_and(|column| column > 1), "{found}");
    assert!(problems.len() >= 2, "all of them at once: {status}");
    assert!(proxy.stderr_text().contains("nam"), "{}", proxy.stderr_text());

    proxy.rewrite_config(&says("three"));
    is_live(&proxy, "three");
    assert_eq!(proxy.metric("outrigger_config_last_reload_successful", &[]) as u64, 1);
    assert!(proxy.metric("outrigger_config_last_reload_timestamp_seconds", &[]) >= good);
    let health = proxy.healthz();
    assert_eq!(
        (&health["status"], &health["components"]["config"]["status"]),
        (&"ok".into(), &"ok".into()),
        "{health}"
    );
    assert_eq!(proxy.admin_json("/config/status")["lastAttempt"]["result"], "success");
    // Back to the bad one and then to what is live: the file is good again, though nothing is new in it.
    proxy.rewrite_config(&bad);
    until("it is refused again", LIVE, || attempts(&proxy, "failure") == 2);
    proxy.rewrite_config(&says("three"));
    until("it is good again", LIVE, || proxy.metric("outrigger_config_last_reload_successful", &[]) as u64 == 1);
}

#[test]
fn listeners_come_and_go() {
    let proxy = Proxy::start(&says("one"), &[]);
    let (edge, more) = (proxy.addr(), proxy.place("listen2"));
    let one = r#"[{ name: edge, mode: proxy, address: "{listen}" }]"#;
    let two =
        r#"[{ name: edge, mode: proxy, address: "{listen}" }, { name: more, mode: proxy, address: "{listen2}" }]"#;
    let with = |listeners: &str, text: &str| proxy.rewrite_config(&says(text).replace(one, listeners));
    assert!(TcpStream::connect(more).is_err());
    with(two, "two");
    until("a listener was added", LIVE, || TcpStream::connect(more).is_ok() && at(more) == "two");
    let mut old = Conn::connect(more);
    old.write("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
    assert_eq!(old.response("GET").status(), 200);
    assert_eq!(proxy.healthz()["components"]["listeners"]["status"], "ok");

    // Renamed: the old one goes and a new one comes, on a socket that never closes.
    let load = Load::to(more, 2, 1);
    for round in 0..20 {
        let name = if round % 2 == 0 { "name: renamed" } else { "name: more" };
        let text = format!("renamed{round}");
        with(&two.replace("name: more", name), &text);
        is_live(&proxy, &text);
    }
    let failures = load.stop();
    assert!(failures.is_empty(), "{:#?}", failures.iter().take(10).collect::<Vec<_>>());
    with(&two.replace("name: more", "name: renamed"), "three");
    is_live(&proxy, "three");
    until("new connections are of the new one", LIVE, || at(more) == "three");
    old.write("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
    let reply = old.response("GET");
    assert_eq!((reply.status(), reply.head.get("connection").as_deref()), (200, Some("close")), "{reply:?}");
    proxy.await_metric("http_requests_total", &[("listener", "renamed")], 1.0);
    let mut held = Conn::connect(more);
    held.write("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
    assert_eq!(held.response("GET").status(), 200);

    with(one, "four");
    until("a listener was removed", LIVE, || TcpStream::connect(more).is_err());
    // Who is on it is asked to go.
    held.write("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
    let reply = held.response("GET");
    assert_eq!((reply.status(), reply.head.get("connection").as_deref()), (200, Some("close")), "{reply:?}");
    is_live(&proxy, "four");
    assert!(proxy.metric("http_requests_total", &[("listener", "more")]) >= 1.0, "counted still");
    // Moved: the new address answers, the old one does not.
    with(&one.replace("{listen}", "{listen2}"), "five");
    until("a listener was moved", LIVE, || TcpStream::connect(more).is_ok() && TcpStream::connect(edge).is_err());
    assert_eq!(at(more), "five");
}

#[test]
fn a_lower_limit_of_connections() {
    let origin = Origin::ok();
    let proxy = Setup { listener: ", maxConnections: 4", ..Setup::default() }.start(origin.addr());
    let open = || {
        let mut conn = Conn::connect(proxy.addr());
        conn.write("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
        conn
    };
    let mut held: Vec<Conn> = (0..4).map(|_| open()).collect();
    held.iter_mut().for_each(|conn| assert_eq!(conn.response("GET").status(), 200));
    proxy.reload("maxConnections: 4", "maxConnections: 2");
    let active = || proxy.metric("outrigger_worker_connections_active", &[]) as u64;
    held.truncate(2);
    until("two have gone", SOON, || active() == 2);
    let mut waits = open();
    assert!(waits.is_quiet(Duration::from_millis(300)), "a third one is served");
    held.pop();
    assert_eq!(waits.response("GET").status(), 200, "when there is room");
    proxy.reload("maxConnections: 2", "maxConnections: 3");
    assert_eq!(open().response("GET").status(), 200);
}

#[test]
fn a_listener_that_cannot_bind_refuses_everything() {
    let proxy = Proxy::start(&says("one"), &[]);
    let taken = TcpListener::bind(proxy.place("listen2")).expect("take the port");
    let text =
        says("two").replace("listeners: [", r#"listeners: [{ name: taken, mode: proxy, address: "{listen2}" }, "#);
    proxy.rewrite_config(&text);
    until("it is refused", SOON, || attempts(&proxy, "failure") == 1);
    assert_eq!(at(proxy.addr()), "one");
    let status = proxy.admin_json("/config/status");
    let problems = status["lastAttempt"]["problems"].to_string();
    assert!(problems.contains("taken"), "{problems}");
    assert_eq!(proxy.healthz()["components"]["config"]["status"], "degraded");
    // Nothing half done: the listeners that could be bound are not.
    drop(taken);
    proxy.signal("HUP");
    is_live(&proxy, "two");
    assert_eq!(at(proxy.place("listen2")), "two");
}

#[test]
fn what_needs_a_restart_is_said_and_the_rest_applies() {
    let proxy = Proxy::start(&says("one"), &[]);
    proxy.rewrite_config(&says("two").replace("{admin}", "{spare}").replace("workers: 2", "workers: 1"));
    is_live(&proxy, "two");
    assert!(TcpStream::connect(proxy.place("spare")).is_err());
    assert_eq!(proxy.admin("GET", "/config").status(), 200, "where it was");
    until("it is said", SOON, || {
        let text = proxy.stderr_text();
        let said = text.lines().find(|line| line.contains("restart"));
        said.is_some_and(|line| line.contains("admin.address") && line.contains("runtime.workers"))
    });
    assert_eq!(proxy.metric("outrigger_workers", &[]) as u64, 2);
}

#[test]
fn endpoints_of_a_file() {
    let (a, b) = (Origin::named("a"), Origin::named("b"));
    let lay = |dir: &TempDir, fill: &dyn Fn(&str) -> String| {
        let list = dir.file("app.endpoints.yaml", fill("- \"{a}\"\n"));
        let endpoints = format!(
            "services: {{ app: {{ endpoints: {{ file: \"{}\" }} }} }}\nroutes: [{{ name: all, to: app }}]\n",
            list.display()
        );
        let head = SAYS.split("routes:").next().expect("the head");
        dir.file("outrigger.yaml", fill(&format!("{head}{endpoints}")))
    };
    let proxy = Proxy::start_laid(&lay, &[("a", a.addr()), ("b", b.addr())]);
    assert_eq!(at(proxy.addr()), "a", "known before the first request");
    let list = proxy.dir().join("app.endpoints.yaml");
    let write = |text: &str| {
        let next = proxy.dir().join("next");
        fs::write(&next, proxy.fill(text)).expect("write");
        fs::rename(next, &list).expect("rename");
    };
    write("- { address: \"{b}\", weight: 2 }\n");
    until("the other endpoint", LIVE, || at(proxy.addr()) == "b");
    // Bad, or gone: what was known stays.
    for bad in ["- [nonsense\n", "- { address: nowhere }\n", "endpoints: 1\n"] {
        write(bad);
        until("it is told", SOON, || {
            let text = proxy.stderr_text();
            text.lines().filter(|line| line.contains("app.endpoints.yaml") && !line.contains("\"INFO\"")).count() > 0
        });
        assert_eq!(at(proxy.addr()), "b", "{bad}");
    }
    fs::remove_file(&list).expect("remove");
    assert_eq!(at(proxy.addr()), "b");
    write("[\"{a}\"]\n");
    until("the first again", LIVE, || at(proxy.addr()) == "a");
    assert_eq!(attempts(&proxy, "success"), 1, "no reload of the configuration");
}

//! The file of a Unix socket that a listener has: when it is made, whose it is, and when it goes.

mod common;

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use common::origin::Gate;
use common::unix::{self, bind, connect, listen};
use common::{DISK, Origin, Proxy, SOON, Start, TempDir, until};

const EXIT_RUNTIME: i32 = 3;

/// Listeners `edge` of TCP, and `local` at `path` with more keys, in front of one service.
fn config(path: &str, keys: &str) -> String {
    format!(
        r#"apiVersion: outrigger/v1
admin: {{ address: "{{admin}}" }}
health: {{ address: "{{health}}" }}
runtime: {{ workers: 2, drainTimeout: 20s }}
listeners:
  - {{ name: edge, mode: proxy, address: "{{listen}}" }}
  - {{ name: local, mode: proxy, address: "unix:{path}"{keys} }}
services: {{ app: {{ endpoints: {{ static: ["{{up}}"] }} }} }}
routes: [{{ name: all, to: app }}]
"#
    )
}

fn start(path: &str, keys: &str, origin: &Origin) -> Proxy {
    Proxy::start(&config(path, keys), &[("up", origin.addr())])
}

fn at(dir: &TempDir, name: &str) -> String {
    dir.path().join(name).display().to_string()
}

fn exists(path: &str) -> bool {
    Path::new(path).symlink_metadata().is_ok()
}

fn mode(path: &str) -> u32 {
    std::fs::symlink_metadata(path).expect("the file of the socket").permissions().mode() & 0o777
}

fn inode(path: &str) -> u64 {
    std::fs::symlink_metadata(path).expect("the file of the socket").ino()
}

/// It may not start; says why.
fn refused(path: &str) -> String {
    let lay = |dir: &TempDir, fill: &dyn Fn(&str) -> String| {
        dir.file("outrigger.yaml", fill(&config(path, "")).replace("{up}", "127.0.0.1:1"))
    };
    let said = Proxy::refused(&Start::default(), &lay);
    assert_eq!(said.code, EXIT_RUNTIME, "{said:?}");
    said.err
}

#[test]
fn what_is_in_the_way() {
    let (dir, origin) = (TempDir::new("unix"), Origin::ok());
    let path = at(&dir, "edge.sock");
    // Left by a process that is gone.
    drop(bind(&path));
    {
        let proxy = start(&path, "", &origin);
        assert_eq!(unix::get(&path).status(), 200);
        // That of a living one is not touched.
        let file = inode(&path);
        assert!(refused(&path).contains(&format!("listener `local` on unix:{path}: another process has it")));
        assert_eq!((inode(&path), unix::get(&path).status()), (file, 200));
        // Killed, it leaves its own.
        drop(proxy);
    }
    assert!(exists(&path));
    let mut proxy = start(&path, "", &origin);
    assert_eq!(unix::get(&path).status(), 200);
    proxy.stop();
    // What is no socket is somebody's, as is a link, wherever it leads.
    for kind in ["file", "link", "directory"] {
        match kind {
            "file" => std::fs::write(&path, "precious").expect("write"),
            "link" => std::os::unix::fs::symlink("/nowhere", &path).expect("a link"),
            _ => std::fs::create_dir(&path).expect("a directory"),
        }
        assert!(refused(&path).contains("a file that is no socket is in the way"), "{kind}");
        assert!(!std::fs::symlink_metadata(&path).expect(kind).file_type().is_socket());
        if kind == "directory" { std::fs::remove_dir(&path) } else { std::fs::remove_file(&path) }.expect("remove it");
    }
    let said = refused(&at(&dir, "none/edge.sock"));
    assert!(said.contains("No such file or directory"), "{said}");
    // Names are freed by the kernel.
    let name = unix::name("taken");
    let _other = listen(&name);
    assert!(refused(&name).contains("another process has it"));
}

#[test]
fn who_may_connect() {
    let (dir, origin) = (TempDir::new("unix"), Origin::ok());
    let path = at(&dir, "edge.sock");
    for (umask, key, expected) in [
        ("022", "", 0o755),
        ("077", "", 0o700),
        ("077", ", socketMode: \"0666\"", 0o666),
        ("000", ", socketMode: \"0600\"", 0o600),
    ] {
        let start = Start {
            wrap: ["sh", "-c", &format!("umask {umask}; exec \"$@\""), "-"].map(str::to_owned).into(),
            ..Start::default()
        };
        let mut proxy = Proxy::start_as(&start, &config(&path, key), &[("up", origin.addr())]);
        assert_eq!(mode(&path), expected, "umask {umask}{key}");
        assert_eq!(unix::get(&path).status(), 200);
        // A reload that says something else, and then nothing at all.
        proxy.reload_with(&config(&path, ", socketMode: \"0640\""));
        assert_eq!(mode(&path), 0o640);
        proxy.reload_with(&config(&path, "").replace("name: local", "name: other"));
        assert_eq!(mode(&path), 0o777 & !u32::from_str_radix(umask, 8).expect("octal"), "what the umask leaves");
        proxy.stop();
        assert!(!exists(&path), "it goes with the process");
    }
}

#[test]
fn reloads() {
    let (dir, origin) = (TempDir::new("unix"), Origin::ok());
    let [path, other] = ["edge.sock", "other.sock"].map(|name| at(&dir, name));
    let proxy = start(&path, "", &origin);
    let file = inode(&path);
    let mut kept = connect(&path);
    let mut ask = |close: bool| {
        kept.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let reply = kept.response("GET");
        assert_eq!((reply.status(), reply.head.has("connection")), (200, close), "{reply:?}");
    };
    ask(false);
    // By another name it is the same.
    proxy.reload("name: local", "name: renamed");
    assert_eq!((inode(&path), unix::get(&path).status()), (file, 200));
    proxy.reload("name: renamed", "name: again");
    assert_eq!((inode(&path), unix::get(&path).status()), (file, 200));
    // Elsewhere: the old one is gone at once, though a connection is not.
    proxy.reload(&path, &other);
    assert!(!exists(&path), "{}", proxy.stderr_text());
    assert_eq!(unix::get(&other).status(), 200);
    ask(true);
    proxy.reload(&other, &path);
    assert!(!exists(&other));
    assert_eq!(unix::get(&path).status(), 200);
    // One that cannot be changes nothing.
    std::fs::write(&other, "precious").expect("write");
    proxy.edit_config(&path, &other);
    proxy.await_metric("outrigger_config_reloads_total", &[("result", "failure")], 1.0);
    assert!(proxy.stderr_text().contains("a file that is no socket is in the way"), "{}", proxy.stderr_text());
    assert_eq!((unix::get(&path).status(), exists(&other)), (200, true));
    // Nor does one that comes to its socket, and not to the next.
    let (third, line) =
        (at(&dir, "third.sock"), format!("  - {{ name: local, mode: proxy, address: \"unix:{other}\" }}"));
    let more = format!("  - {{ name: third, mode: proxy, address: \"unix:{third}\" }}\n{line}");
    proxy.edit_config(&line.replace("name: local", "name: again"), &more);
    proxy.await_metric("outrigger_config_reloads_total", &[("result", "failure")], 2.0);
    assert_eq!((unix::get(&path).status(), exists(&third)), (200, false));
    // Without the listener there is no file.
    let without: String = config(&path, "")
        .lines()
        .filter(|line| !line.contains("name: local"))
        .map(|line| format!("{line}\n"))
        .collect();
    proxy.reload_with(&without);
    assert!(!exists(&path));
    proxy.assert_serves();
    proxy.reload_with(&config(&path, ""));
    assert_eq!(unix::get(&path).status(), 200);
}

#[test]
fn drained_with_the_others() {
    let dir = TempDir::new("unix");
    let path = at(&dir, "edge.sock");
    let gate = Gate::default();
    let origin = Origin::gated("ok", &gate);
    let mut proxy = start(&path, "", &origin);
    assert_eq!(proxy.probe("/readyz"), Some(200));
    let mut slow = connect(&path);
    slow.write("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    origin.nth(1);
    proxy.signal("TERM");
    until("readiness ends", SOON, || proxy.probe("/readyz") == Some(503));
    // The lame duck still takes what comes.
    assert_eq!(unix::get(&path).status(), 200);
    until("the file goes when nobody is taken any more", SOON, || !exists(&path));
    assert!(unix::try_connect(&path).is_err());
    gate.open();
    assert_eq!(slow.response("GET").status(), 200, "what was in flight is finished");
    assert!(proxy.wait_exit(DISK).success());
}

/// The next process listens while the first one is still busy with the last of its requests.
#[test]
fn a_rolling_restart() {
    let dir = TempDir::new("unix");
    let path = at(&dir, "edge.sock");
    let gate = Gate::default();
    let origin = Origin::gated("ok", &gate);
    let mut first = start(&path, "", &origin);
    let mut slow = connect(&path);
    slow.write("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    origin.nth(1);
    first.signal("INT");
    until("the first one listens no more", SOON, || !exists(&path));
    let second = start(&path, "", &origin);
    assert_eq!(unix::get(&path).status(), 200);
    gate.open();
    assert_eq!(slow.response("GET").status(), 200);
    assert!(first.wait_exit(DISK).success());
    assert!(exists(&path), "it is that of the second");
    assert_eq!(unix::get(&path).status(), 200);
    // So it is where somebody has put another in its place by force.
    std::fs::remove_file(&path).expect("remove it");
    let _third = listen(&path);
    let mut second = second;
    second.stop();
    assert!(exists(&path));
}

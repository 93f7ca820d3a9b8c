//! `outrigger demo`, as somebody who tries it out would: ask, choose the canary, edit the file, read the metrics, stop.

mod common;

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};

use common::{Conn, SOON, TempDir, conn, eventually, free_addr, until};

/// The addresses of `config/demo.yaml`, which tests that run side by side cannot share.
const ADDRESSES: [&str; 5] =
    ["127.0.0.1:8080", "127.0.0.1:15000", "127.0.0.1:15020", "127.0.0.1:9081", "127.0.0.1:9082"];

struct Demo {
    child: Child,
    stdout: Receiver<String>,
    proxy: SocketAddr,
    health: SocketAddr,
    config: PathBuf,
    _dir: TempDir,
}

/// The demo's own configuration, on free addresses.
fn config(dir: &TempDir) -> (PathBuf, [SocketAddr; 5]) {
    let addresses = ADDRESSES.map(|_| free_addr());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/demo.yaml");
    let mut text = std::fs::read_to_string(path).expect("the demo's configuration");
    for (from, to) in ADDRESSES.iter().zip(addresses) {
        assert!(text.contains(from), "{from} is not in the demo's configuration");
        text = text.replace(from, &to.to_string());
    }
    (dir.file("demo.yaml", text), addresses)
}

fn command(config: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
    command.args(["demo", "--config"]).arg(config).stdin(Stdio::null());
    command
}

impl Demo {
    fn start() -> Self {
        let dir = TempDir::new("demo");
        let (config, [proxy, _, health, ..]) = config(&dir);
        let mut child = command(&config).stdout(Stdio::piped()).spawn().expect("start the demo");
        let lines = BufReader::new(child.stdout.take().expect("stdout")).lines().map_while(Result::ok);
        let (sender, stdout) = channel();
        std::thread::spawn(move || lines.into_iter().try_for_each(|line| sender.send(line)));
        Self { child, stdout, proxy, health, config, _dir: dir }
    }

    /// Waits for a line that holds all of these.
    fn await_line(&self, parts: &[&str]) -> String {
        let mut seen = Vec::new();
        loop {
            match self.stdout.recv_timeout(SOON) {
                Ok(line) if parts.iter().all(|part| line.contains(part)) => return line,
                Ok(line) => seen.push(line),
                Err(error) => panic!("no line with {parts:?}: {error}; so far:\n{}", seen.join("\n")),
            }
        }
    }

    /// The version that answers.
    fn ask(&self, headers: &str) -> String {
        let mut conn = Conn::connect(self.proxy);
        conn.write(format!("GET /reviews/7 HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n{headers}\r\n"));
        let answer: serde_json::Value = serde_json::from_slice(&conn.response("GET").body).expect("JSON");
        answer["version"].as_str().expect("a version").to_owned()
    }

    /// Answers of v2 among a thousand.
    fn canaries(&self) -> usize {
        let mut conn = Conn::connect(self.proxy);
        let mut ask = || {
            conn.write("GET / HTTP/1.1\r\nHost: demo\r\n\r\n");
            conn.response("GET").head.get("x-version")
        };
        (0..1000).filter(|_| ask().as_deref() == Some("v2")).count()
    }

    fn edit(&self, from: &str, to: &str) {
        let text = std::fs::read_to_string(&self.config).expect("read the configuration");
        assert!(text.contains(from), "`{from}` is not in the configuration");
        std::fs::write(&self.config, text.replace(from, to)).expect("write the configuration");
    }

    fn interrupt(&mut self) -> ExitStatus {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", "INT", &pid]).status().expect("run kill").success());
        eventually("the demo ends", SOON, || self.child.try_wait().expect("wait for the demo"))
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn what_the_demo_says_can_be_tried() {
    let mut demo = Demo::start();
    demo.await_line(&["Outrigger is running on", &demo.proxy.to_string()]);

    for _ in 0..10 {
        assert_eq!(demo.ask("x-env: Canary\r\n"), "v2", "the canary by header");
    }
    let side = demo.ask("x-user-id: ada\r\n");
    for _ in 0..10 {
        assert_eq!(demo.ask("x-user-id: ada\r\n"), side, "a user stays on a side");
    }
    let canaries = demo.canaries();
    assert!((50..=150).contains(&canaries), "{canaries} of 1000 at 10 %");

    demo.edit("weight: 90", "weight: 0");
    until("the edit is live", SOON, || demo.canaries() == 1000);

    let metrics = conn::get(demo.health, "/metrics").text();
    assert!(metrics.contains("route=\"canary\",service=\"reviews\",subset=\"v2\""), "{metrics}");

    let line = demo.await_line(&["requests/s", "v2", "p50", "errors"]);
    assert!(line.ends_with("errors 0"), "{line}");

    let status = demo.interrupt();
    assert_eq!(status.code(), Some(0), "Ctrl-C ends it in good order");
    demo.await_line(&["Goodbye"]);
}

#[test]
fn a_taken_port_is_named() {
    let dir = TempDir::new("demo-taken");
    let (config, addresses) = config(&dir);
    for taken in addresses {
        let _other = TcpListener::bind(taken).expect("take the port");
        let output = command(&config).output().expect("run the demo");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{stderr}");
        assert!(stderr.contains(&format!("cannot listen on {taken}")), "{stderr}");
    }
}

#[test]
fn a_bad_configuration_is_refused_as_by_check() {
    let dir = TempDir::new("demo-bad");
    let (config, _) = config(&dir);
    let text = std::fs::read_to_string(&config).expect("read the configuration");
    std::fs::write(&config, text.replace("split:", "splitt:")).expect("write the configuration");
    let output = command(&config).output().expect("run the demo");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("did you mean `split`?"), "{stderr}");
}

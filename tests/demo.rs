//! `outrigger demo`, as somebody who tries it out would: ask, choose the canary, edit the file, read the metrics, stop.

mod common;

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};

use common::{Conn, Message, Pki, SOON, TempDir, conn, eventually, free_addr, until};

/// The configurations of the demo: of the caller, and of whom it calls.
const FILES: [&str; 2] = ["demo.yaml", "demo-reviews.yaml"];
/// Their addresses, which tests that run side by side cannot share.
const ADDRESSES: [&str; 9] = [
    "127.0.0.1:8080",
    "127.0.0.1:15000",
    "127.0.0.1:15020",
    "127.0.0.1:15001",
    "127.0.0.1:15021",
    "127.0.0.1:9443",
    "127.0.0.1:9444",
    "127.0.0.1:9081",
    "127.0.0.1:9082",
];

struct Demo {
    child: Child,
    stdout: Receiver<String>,
    proxy: SocketAddr,
    health: SocketAddr,
    called_admin: SocketAddr,
    /// Where the one that is called listens.
    strict: SocketAddr,
    config: PathBuf,
    dir: TempDir,
}

/// The demo's own configurations, on free addresses, with their certificates in the directory.
fn configs(dir: &TempDir) -> ([PathBuf; 2], [SocketAddr; 9]) {
    let addresses = ADDRESSES.map(|_| free_addr());
    let texts = FILES.map(|file| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(file);
        std::fs::read_to_string(path).expect("a configuration of the demo")
    });
    for address in ADDRESSES {
        assert!(texts.concat().contains(address), "{address} is not in the demo's configurations");
    }
    let fill = |(file, text): (&str, String)| {
        let mut text = text.replace("target/demo", dir.path().to_str().expect("a path in UTF-8"));
        // In two steps: a free address may be one of those that are to be replaced.
        for (n, from) in ADDRESSES.iter().enumerate() {
            text = text.replace(from, &format!("@{n}@"));
        }
        for (n, to) in addresses.iter().enumerate() {
            text = text.replace(&format!("@{n}@"), &to.to_string());
        }
        dir.file(file, text)
    };
    let [caller, called] = texts;
    ([fill((FILES[0], caller)), fill((FILES[1], called))], addresses)
}

fn command(configs: &[PathBuf]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
    command.arg("demo").stdin(Stdio::null());
    for config in configs {
        command.arg("--config").arg(config);
    }
    command
}

impl Demo {
    fn start() -> Self {
        let dir = TempDir::new("demo");
        let ([config, called], [proxy, _, health, called_admin, _, strict, ..]) = configs(&dir);
        let mut child = command(&[config.clone(), called]).stdout(Stdio::piped()).spawn().expect("start the demo");
        let lines = BufReader::new(child.stdout.take().expect("stdout")).lines().map_while(Result::ok);
        let (sender, stdout) = channel();
        std::thread::spawn(move || lines.into_iter().try_for_each(|line| sender.send(line)));
        Self { child, stdout, proxy, health, called_admin, strict, config, dir }
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

    fn request(&self, method: &str) -> Message {
        let mut conn = Conn::connect(self.proxy);
        conn.write(format!("{method} /reviews/7 HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n"));
        conn.response(method)
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

    let web = "spiffe://demo.local/ns/shop/sa/web";
    let told = demo.request("GET").text();
    assert!(
        told.contains(&format!(";URI={web}")) && told.contains("By=spiffe://demo.local/ns/shop/sa/reviews;"),
        "{told}"
    );
    let denied = demo.request("DELETE");
    assert_eq!((denied.status(), denied.text().contains("web-only")), (403, true), "{denied:?}");
    let mut stranger = Command::new(common::tool("curl"));
    stranger.args(["-ksS", &format!("https://{}/", demo.strict)]);
    assert!(!stranger.output().expect("run curl").status.success(), "nobody without a certificate is served");
    demo.await_line(&["Renewed the certificate of shop/web: live after"]);
    let ca = demo.dir.path().join("ca.crt");
    let mut certs = Command::new(env!("CARGO_BIN_EXE_outrigger"));
    certs.args(["certs", "show"]).arg(demo.dir.path().join("shop/web/tls.crt")).arg("--bundle").arg(ca);
    let shown = certs.output().expect("run outrigger");
    assert!(shown.status.success() && String::from_utf8_lossy(&shown.stdout).contains(web), "{shown:?}");

    let line = demo.await_line(&["requests/s", "v2", "p50", "errors"]);
    assert!(line.ends_with("errors 0"), "{line}");

    let status = demo.interrupt();
    assert_eq!(status.code(), Some(0), "Ctrl-C ends it in good order");
    demo.await_line(&["Goodbye"]);
    for address in [demo.called_admin, demo.strict] {
        TcpListener::bind(address).expect("the other one has ended, too");
    }
}

#[test]
fn a_taken_port_is_named() {
    let dir = TempDir::new("demo-taken");
    let (configs, addresses) = configs(&dir);
    for taken in addresses {
        let _other = TcpListener::bind(taken).expect("take the port");
        let output = command(&configs).output().expect("run the demo");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{stderr}");
        assert!(stderr.contains(&format!("cannot listen on {taken}")), "{stderr}");
    }
}

#[test]
fn a_bad_configuration_is_refused_as_by_check() {
    let dir = TempDir::new("demo-bad");
    let (configs, _) = configs(&dir);
    let text = std::fs::read_to_string(&configs[0]).expect("read the configuration");
    std::fs::write(&configs[0], text.replace("split:", "splitt:")).expect("write the configuration");
    let output = command(&configs).output().expect("run the demo");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("did you mean `split`?"), "{stderr}");
}

#[test]
fn the_one_beside_ends_with_the_first_however_it_ends() {
    let mut demo = Demo::start();
    demo.await_line(&["Outrigger is running on"]);
    demo.child.kill().expect("kill the demo");
    until("the other one ends", SOON, || TcpListener::bind(demo.strict).is_ok());
}

#[test]
fn certificates_of_others_are_left_alone() {
    let dir = TempDir::new("demo-own");
    let ([config, _], [proxy, ..]) = configs(&dir);
    let pki = Pki::new("demo.local");
    let folder = dir.path().join("shop/web");
    std::fs::create_dir_all(&folder).expect("make a directory");
    pki.workload("shop", "web").install(&folder.join("tls.crt"), &folder.join("tls.key"));
    std::fs::copy(pki.bundle(), folder.join("ca.crt")).expect("copy the bundle");
    let key = std::fs::read(folder.join("tls.key")).expect("the key");
    let mut child = command(&[config]).stdout(Stdio::null()).spawn().expect("start the demo");
    until("the demo listens", SOON, || TcpStream::connect(proxy).is_ok());
    let kept = std::fs::read(folder.join("tls.key")).expect("the key") == key && !dir.path().join("ca.key").exists();
    let _ = child.kill();
    let _ = child.wait();
    assert!(kept, "what somebody else has made is not replaced");
}

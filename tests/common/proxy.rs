//! The built proxy as a process: started from a configuration with free ports, watched, stopped.

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{DISK, SOON, TempDir, conn, eventually, free_addr};

/// Places that are filled with free addresses.
const PLACES: [&str; 5] = ["listen", "listen2", "health", "admin", "spare"];

/// Variables of whoever runs the tests that would show in what is tested.
const AMBIENT: [&str; 3] = ["RUST_LOG", "OUTRIGGER_CONFIG", "OUTRIGGER_STATE_DIRECTORY"];

/// Lays out a configuration: a directory, and what fills the places of a text.
pub type Lay<'a> = &'a dyn Fn(&TempDir, &dyn Fn(&str) -> String) -> PathBuf;

type Lines = Arc<Mutex<Vec<String>>>;

pub struct Proxy {
    child: Child,
    dir: TempDir,
    config: PathBuf,
    /// Place and address, those of the caller included.
    fills: Vec<(String, String)>,
    start: Start,
    stdout: Lines,
    stderr: Lines,
}

/// How the process is started, besides its configuration. `{dir}`, the directory of the test, and the other places are
/// filled in arguments and values as well.
#[derive(Debug, Default, Clone)]
pub struct Start {
    /// Wraps the command, as in `["prlimit", "--nofile=64"]`.
    pub wrap: Vec<String>,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
}

/// What a command said, and how it ended.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

/// One listener, one service, one route; each takes more keys as YAML flow text that begins with a comma.
#[derive(Default, Clone, Copy)]
pub struct Setup<'a> {
    pub listener: &'a str,
    pub service: &'a str,
    pub route: &'a str,
    /// More top level keys, as lines.
    pub top: &'a str,
    /// Wraps the command, as in `["prlimit", "--nofile=64"]`.
    pub wrap: &'a [&'a str],
    /// 0 is `auto`.
    pub workers: u32,
}

impl Start {
    pub fn args(args: &[&str]) -> Self {
        Self::default().and_args(args)
    }

    pub fn and_args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    pub fn and_env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    fn wrapped(wrap: &[&str]) -> Self {
        Self { wrap: wrap.iter().map(|word| (*word).to_owned()).collect(), ..Self::default() }
    }

    fn filled(&self, fills: &[(String, String)]) -> Self {
        let all = |words: &[String]| words.iter().map(|word| fill(word, fills)).collect();
        let env = self.env.iter().map(|(name, value)| (name.clone(), fill(value, fills))).collect();
        Self { wrap: all(&self.wrap), args: all(&self.args), env }
    }

    fn command(&self, config: &Path) -> Command {
        let program = env!("CARGO_BIN_EXE_outrigger");
        let mut words = self.wrap.iter().map(String::as_str).chain([program, "run", "--config"]);
        let mut command = Command::new(words.next().unwrap_or(program));
        command.args(words).arg(config).args(&self.args);
        for name in AMBIENT {
            command.env_remove(name);
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value))).stdin(Stdio::null());
        command
    }
}

impl Said {
    fn of(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output in UTF-8");
        let code = output.status.code().unwrap_or_else(|| panic!("ended by a signal: {output:?}"));
        Self { code, out: text(output.stdout), err: text(output.stderr) }
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("JSON: {e}: {self:?}"))
    }
}

impl Setup<'_> {
    pub fn start(self, up: SocketAddr) -> Proxy {
        let workers = if self.workers == 0 { "auto".to_owned() } else { self.workers.to_string() };
        let Self { listener, service, route, top, .. } = self;
        let config = format!(
            r#"apiVersion: outrigger/v1
admin: {{ address: "{{admin}}" }}
health: {{ address: "{{health}}" }}
runtime: {{ workers: {workers}, drainTimeout: 5s }}
telemetry: {{ accessLog: {{ format: json, sample: {{ errors: 100, others: 100, maxPerSecond: 0 }} }} }}
listeners:
  - {{ name: edge, mode: proxy, address: "{{listen}}"{listener} }}
services:
  app: {{ endpoints: {{ static: ["{{up}}"] }}{service} }}
routes:
  - {{ name: all, to: app{route} }}
{top}
"#
        );
        Proxy::start_wrapped(&config, &[("up", up)], self.wrap)
    }
}

impl Proxy {
    /// One worker (so that what a pool does is certain) in front of one address.
    pub fn front(up: SocketAddr) -> Self {
        Setup { workers: 1, ..Setup::default() }.start(up)
    }

    /// Two workers in front of a service `app` with these keys, and nothing that would try again.
    pub fn of_service(service: &str, fills: &[(&str, SocketAddr)]) -> Self {
        let config = format!(
            r#"apiVersion: outrigger/v1
admin: {{ address: "{{admin}}" }}
health: {{ address: "{{health}}" }}
runtime: {{ workers: 2, probation: 0s }}
telemetry: {{ accessLog: {{ format: off }} }}
listeners: [{{ name: edge, mode: proxy, address: "{{listen}}" }}]
services:
  app: {{ {service} }}
routes:
  - {{ name: all, to: app, retry: {{ attempts: 0 }} }}
"#
        );
        Self::start(&config, fills)
    }

    /// `{listen}`, `{listen2}`, `{health}`, `{admin}`, `{spare}` become free addresses, `{NAME}` those given.
    pub fn start(config: &str, fills: &[(&str, SocketAddr)]) -> Self {
        Self::start_wrapped(config, fills, &[])
    }

    pub fn start_wrapped(config: &str, given: &[(&str, SocketAddr)], wrap: &[&str]) -> Self {
        Self::launch(&file(config), given, &Start::wrapped(wrap))
    }

    /// With arguments and an environment.
    pub fn start_as(start: &Start, config: &str, given: &[(&str, SocketAddr)]) -> Self {
        Self::launch(&file(config), given, start)
    }

    /// One that is not ready yet, for whatever it lacks.
    pub fn start_unready(config: &str, given: &[(&str, SocketAddr)]) -> Self {
        let proxy = Self::spawn(&file(config), given, &Start::default());
        eventually("the proxy lives", SOON, || proxy.probe("/livez").filter(|status| *status == 200));
        proxy
    }

    /// One that waits for something, or ends.
    pub fn begin(start: &Start, lay: Lay<'_>, given: &[(&str, SocketAddr)]) -> Self {
        Self::spawn(lay, given, start)
    }

    /// Both.
    pub fn start_laid_as(start: &Start, lay: Lay<'_>, given: &[(&str, SocketAddr)]) -> Self {
        Self::launch(lay, given, start)
    }

    /// Expects that it ends by itself.
    pub fn refused(start: &Start, lay: Lay<'_>) -> Said {
        let dir = TempDir::new("proxy");
        let fills = fills(&dir, &[]);
        let path = lay(&dir, &|text| fill(text, &fills));
        ends(&start.filled(&fills), &path)
    }

    /// Expects that one that has ended does not start again.
    pub fn refused_again(&self) -> Said {
        ends(&self.start, &self.config)
    }

    /// For a configuration that is more than a file: `lay` puts it into the directory, with `fill` for its texts, and
    /// returns the path to run with.
    pub fn start_laid(lay: Lay<'_>, given: &[(&str, SocketAddr)]) -> Self {
        Self::launch(lay, given, &Start::default())
    }

    fn launch(lay: Lay<'_>, given: &[(&str, SocketAddr)], start: &Start) -> Self {
        let mut trouble = String::new();
        // Again where another process took a port between the look and the bind.
        for _ in 0..3 {
            let mut proxy = Self::spawn(lay, given, start);
            match proxy.await_ready() {
                Ok(()) => return proxy,
                Err(why) => trouble = format!("{why}\n{}", proxy.stderr_text()),
            }
        }
        panic!("the proxy did not start: {trouble}");
    }

    fn spawn(lay: Lay<'_>, given: &[(&str, SocketAddr)], start: &Start) -> Self {
        let dir = TempDir::new("proxy");
        let fills = fills(&dir, given);
        let path = lay(&dir, &|text| fill(text, &fills));
        let start = start.filled(&fills);
        let (child, stdout, stderr) = run(&start, &path);
        Self { child, dir, config: path, fills, start, stdout, stderr }
    }

    /// Runs one that has ended once more, on the same addresses.
    pub fn start_again(&mut self) {
        (self.child, self.stdout, self.stderr) = run(&self.start, &self.config);
        if let Err(why) = self.await_ready() {
            panic!("the proxy did not start again: {why}\n{}", self.stderr_text());
        }
    }

    /// The same in another way.
    pub fn start_again_as(&mut self, start: &Start) {
        self.start = start.filled(&self.fills);
        self.start_again();
    }

    fn await_ready(&mut self) -> Result<(), String> {
        eventually("the proxy is ready", SOON, || {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(Err(format!("exit: {status}")));
            }
            self.probe("/readyz").is_some_and(|status| status == 200).then_some(Ok(()))
        })
    }

    /// Address of the first listener.
    pub fn addr(&self) -> SocketAddr {
        self.place("listen")
    }

    pub fn place(&self, name: &str) -> SocketAddr {
        let found = self.fills.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("no place `{name}`"));
        found.1.parse().expect("an address")
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn config(&self) -> &Path {
        &self.config
    }

    /// The text with its places filled, as at the start.
    pub fn fill(&self, text: &str) -> String {
        fill(text, &self.fills)
    }

    /// Ends it at once, in order; `start_again` is next.
    pub fn stop(&mut self) {
        self.signal("INT");
        let status = self.wait_exit(DISK);
        assert!(status.success(), "{status}\n{}", self.stderr_text());
    }

    /// Runs a command of the binary against this one.
    pub fn cli(&self, args: &[&str]) -> Said {
        let admin = self.place("admin").to_string();
        let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
        command.args(args).args(["--admin", &admin]).stdin(Stdio::null());
        for name in AMBIENT {
            command.env_remove(name);
        }
        Said::of(command.output().expect("run outrigger"))
    }

    /// JSON that a command prints; it has to succeed.
    pub fn cli_json(&self, args: &[&str]) -> serde_json::Value {
        let said = self.cli(&[args, &["--format", "json"]].concat());
        assert_eq!(said.code, 0, "{args:?}: {said:?}");
        said.json()
    }

    /// A request to the admin address.
    pub fn admin(&self, method: &str, path: &str) -> conn::Message {
        let mut conn = conn::Conn::connect(self.place("admin"));
        conn.write(format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"));
        conn.response(method)
    }

    /// JSON that the admin address answers to a GET.
    pub fn admin_json(&self, path: &str) -> serde_json::Value {
        let reply = self.admin("GET", path);
        assert_eq!(reply.status(), 200, "{path}: {reply:?}");
        serde_json::from_str(&reply.text()).unwrap_or_else(|e| panic!("{path}: {e}: {}", reply.text()))
    }

    /// Status of a path on the health address; None where nobody answers.
    pub fn probe(&self, path: &str) -> Option<u16> {
        TcpStream::connect(self.place("health")).ok()?;
        let reply = conn::send(self.place("health"), request(path));
        (!reply.is_empty()).then(|| conn::Head { raw: reply }.status())
    }

    /// Body of a path on the health address.
    pub fn health(&self, path: &str) -> String {
        let mut conn = conn::Conn::connect(self.place("health"));
        conn.write(request(path));
        conn.response("GET").text()
    }

    pub fn healthz(&self) -> serde_json::Value {
        serde_json::from_str(&self.health("/healthz")).expect("JSON of /healthz")
    }

    /// Sum of all series of `name` that have these labels.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let text = self.health("/metrics");
        text.lines().filter_map(|line| sample(line, name, labels)).sum()
    }

    /// Waits until the sum is at least this.
    pub fn await_metric(&self, name: &str, labels: &[(&str, &str)], least: f64) {
        super::until(&format!("{name} {labels:?} >= {least}\n{}", self.stderr_text()), SOON, || {
            self.metric(name, labels) >= least
        });
    }

    /// Waits for a request counted with this reason and status.
    pub fn await_reason(&self, reason: &str, status: u16) {
        self.await_metric("http_requests_total", &[("reason", reason), ("status_code", &status.to_string())], 1.0);
    }

    /// Sum of all counters that have this reason, whether it became a request or never got so far.
    pub fn counted(&self, reason: &str) -> f64 {
        let label = format!("reason=\"{reason}\"");
        let text = self.health("/metrics");
        let lines = text.lines().filter(|line| line.contains("_total{") && line.contains(&label));
        lines.filter_map(|line| line.rsplit_once('}')?.1.split_whitespace().next()?.parse::<f64>().ok()).sum()
    }

    pub fn await_counted(&self, reason: &str, least: f64) {
        super::until(&format!("{least} counted as {reason}\n{}", self.stderr_text()), SOON, || {
            self.counted(reason) >= least
        });
    }

    /// Handshakes that failed for this cause, with clients or with services.
    pub fn failed(&self, cause: &str) -> f64 {
        let label = [("cause", cause)];
        ["", "_upstream"]
            .map(|side| self.metric(&format!("outrigger_worker{side}_handshake_failures_total"), &label))
            .iter()
            .sum()
    }

    pub fn await_failed(&self, cause: &str, least: f64) {
        super::until(&format!("{least} handshakes failed for {cause}\n{}", self.stderr_text()), SOON, || {
            self.failed(cause) >= least
        });
    }

    /// The cause by which the next failed handshake is counted, while this is done.
    pub fn cause_of(&self, work: impl FnOnce()) -> String {
        const NAMES: [&str; 2] =
            ["outrigger_worker_handshake_failures_total{", "outrigger_worker_upstream_handshake_failures_total{"];
        let all = || -> Vec<String> {
            let text = self.health("/metrics");
            text.lines().filter(|line| NAMES.iter().any(|name| line.starts_with(name))).map(str::to_owned).collect()
        };
        let before = all();
        work();
        let line = eventually(&format!("a handshake fails\n{}", self.stderr_text()), SOON, || {
            all().into_iter().find(|line| !before.contains(line))
        });
        let (_, rest) = line.split_once("cause=\"").unwrap_or_else(|| panic!("no cause in {line}"));
        rest.split('"').next().unwrap_or_default().to_owned()
    }

    /// What every hostile test ends with: an innocent request is served.
    pub fn assert_serves(&self) {
        let reply = conn::get(self.addr(), "/innocent");
        assert_eq!(reply.status(), 200, "the next request: {reply:?}\n{}", self.stderr_text());
    }

    /// Resident memory in KiB, and its peak.
    pub fn memory(&self) -> (u64, u64) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("status of the proxy");
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).expect("a memory field");
            line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number of KiB")
        };
        (field("VmRSS:"), field("VmHWM:"))
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.pid().to_string()]).status().expect("run kill");
        assert!(status.success(), "kill -s {name}: {status}");
    }

    pub fn wait_exit(&mut self, deadline: Duration) -> ExitStatus {
        eventually("the proxy exits", deadline, || self.child.try_wait().expect("wait for the proxy"))
    }

    /// Replaces the file as an editor does: a new one, renamed over the old.
    pub fn rewrite_config(&self, config: &str) {
        let next = self.dir.file("outrigger.yaml.next", fill(config, &self.fills));
        std::fs::rename(next, &self.config).expect("replace the configuration");
    }

    /// Replaces a text in the file, which has to be there.
    pub fn edit_config(&self, from: &str, to: &str) {
        let old = std::fs::read_to_string(&self.config).expect("read the configuration");
        assert!(old.contains(from), "`{from}` is not in the configuration");
        self.rewrite_config(&old.replace(from, to));
    }

    /// Edits, and waits until one more reload has succeeded.
    pub fn reload(&self, from: &str, to: &str) {
        const NAME: &str = "outrigger_config_reloads_total";
        let before = self.metric(NAME, &[("result", "success")]);
        self.edit_config(from, to);
        self.await_metric(NAME, &[("result", "success")], before + 1.0);
    }

    /// Replaces the whole file, and waits until one more reload has succeeded.
    pub fn reload_with(&self, config: &str) {
        const NAME: &str = "outrigger_config_reloads_total";
        let before = self.metric(NAME, &[("result", "success")]);
        self.rewrite_config(config);
        self.await_metric(NAME, &[("result", "success")], before + 1.0);
    }

    pub fn stdout_lines(&self) -> Vec<String> {
        self.stdout.lock().expect("stdout").clone()
    }

    pub fn stderr_text(&self) -> String {
        self.stderr.lock().expect("stderr").join("\n")
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- stderr of the proxy ({})\n{}", self.config.display(), self.stderr_text());
        }
    }
}

fn file(config: &str) -> impl Fn(&TempDir, &dyn Fn(&str) -> String) -> PathBuf {
    move |dir, fill| dir.file("outrigger.yaml", fill(config))
}

fn fills(dir: &TempDir, given: &[(&str, SocketAddr)]) -> Vec<(String, String)> {
    let given = given.iter().map(|(name, addr)| ((*name).to_owned(), addr.to_string()));
    let ours = PLACES.iter().map(|name| ((*name).to_owned(), free_addr().to_string()));
    let place = ("dir".to_owned(), dir.path().display().to_string());
    // Those of the caller first: a pod's addresses are no others' business.
    given.chain(ours).chain([place]).collect()
}

fn run(start: &Start, config: &Path) -> (Child, Lines, Lines) {
    let mut command = start.command(config);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start the proxy");
    let stdout = collect(child.stdout.take().expect("stdout"));
    let stderr = collect(child.stderr.take().expect("stderr"));
    (child, stdout, stderr)
}

/// Runs it to its end, which is to come soon.
fn ends(start: &Start, config: &Path) -> Said {
    let mut start = start.clone();
    start.wrap.splice(0..0, ["timeout".to_owned(), SOON.as_secs().to_string()]);
    Said::of(start.command(config).output().expect("start the proxy"))
}

fn request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: health\r\nConnection: close\r\n\r\n")
}

fn fill(config: &str, fills: &[(String, String)]) -> String {
    fills.iter().fold(config.to_owned(), |text, (name, value)| text.replace(&format!("{{{name}}}"), value))
}

fn collect(pipe: impl Read + Send + 'static) -> Lines {
    let lines = Lines::default();
    let sink = Arc::clone(&lines);
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            sink.lock().expect("output").push(line);
        }
    });
    lines
}

/// Value of one line of an exposition, where it is of this name and has these labels.
fn sample(line: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let rest = line.strip_prefix(name)?;
    let (set, value) = match rest.strip_prefix('{') {
        Some(rest) => rest.rsplit_once('}')?,
        None => ("", rest.strip_prefix(' ')?),
    };
    let set = format!(",{set}");
    let all = labels.iter().all(|(key, wanted)| set.contains(&format!(",{key}=\"{wanted}\"")));
    all.then(|| value.split_whitespace().next()?.parse().ok())?
}

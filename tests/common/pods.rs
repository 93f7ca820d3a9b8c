//! Pods made of network namespaces: two of them on a bridge, whose own namespace is the node and the world outside. What
//! is in a pod leaves it and enters it as in Kubernetes, redirected by the kernel; the proxy has a user of its own.

use std::fs::File;
use std::io::ErrorKind;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Uid, geteuid};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space, set_thread_res_uid};
use serde_json::Value;

use super::{Conn, Message, Origin, Proxy, SOON, Start, TempDir, eventually, tool};

const ROOT: u32 = 0;
pub const APP: u32 = 1000;
pub const PROXY: u32 = 1337;

/// How names of our namespaces begin; the process that made one comes next.
const PREFIX: &str = "outrigger-test-";

/// Two pods and what is between them. Everything is gone when it is dropped.
pub struct Net {
    /// The node: the bridge, the kubelet, and whatever is outside of the mesh. Its addresses are the pods' next hop, so
    /// a virtual address leaves a pod, and is nobody's behind it.
    pub node: Pod,
    pub a: Pod,
    pub b: Pod,
}

/// A network namespace, with one IPv4 and one IPv6 address.
pub struct Pod {
    name: String,
    pub v4: &'static str,
    pub v6: &'static str,
}

/// What a sidecar's configuration has besides its two listeners of interception.
#[derive(Default, Clone, Copy)]
pub struct Keys<'a> {
    /// More keys of the listener, as YAML flow text that begins with a comma.
    pub inbound: &'a str,
    pub outbound: &'a str,
    /// More top level keys, as lines.
    pub top: &'a str,
    /// Inbound by TPROXY; else by REDIRECT.
    pub tproxy: bool,
}

/// A proxy in a pod.
pub struct Sidecar<'a> {
    pod: &'a Pod,
    proxy: Proxy,
}

/// A program in a pod, ended when dropped.
pub struct Running(pub Child);

/// An application that keeps what each connection says, from its first byte to its end, and answers the first of it.
pub struct Ear {
    _origin: Origin,
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Net {
    /// None where this machine does not let us, which it says.
    pub fn new() -> Option<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        if !are_allowed() {
            return None;
        }
        sweep();
        let name = format!("{PREFIX}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let pod = |part: &str, v4, v6| Pod { name: format!("{name}-{part}"), v4, v6 };
        let net = Self {
            node: pod("node", "10.9.0.1", "fd09::1"),
            a: pod("a", "10.9.0.2", "fd09::2"),
            b: pod("b", "10.9.0.3", "fd09::3"),
        };
        let names: String = net.all().map(|pod| format!("netns add {}\n", pod.name)).concat();
        fed("ip", &["-batch", "-"], &names);
        net.node.ip("link set lo up\nlink add br0 type bridge mcast_snooping 0\nlink set br0 up\n");
        net.node.ip(&addresses(&net.node, "br0"));
        for (end, pod) in [("pod-a", &net.a), ("pod-b", &net.b)] {
            net.node.ip(&format!(
                "link add {end} type veth peer name eth0 netns {}\nlink set {end} master br0 up\n",
                pod.name
            ));
            pod.ip(&format!("link set lo up\nlink set eth0 up\n{}", addresses(pod, "eth0")));
            pod.ip(&format!("route add default via {}\nroute add default via {}\n", net.node.v4, net.node.v6));
        }
        Some(net)
    }

    /// From now on so many of a hundred packets between the pods are lost.
    pub fn lose(&self, percent: u32) {
        self.node.nft(&format!(
            "table bridge loss {{\n chain forward {{\n type filter hook forward priority 0;\n \
             numgen random mod 100 < {percent} counter drop\n }}\n}}\n"
        ));
    }

    fn all(&self) -> [&Pod; 3] {
        [&self.node, &self.a, &self.b]
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for pod in self.all() {
            remove(&pod.name);
        }
    }
}

fn addresses(pod: &Pod, device: &str) -> String {
    format!("addr add {}/24 dev {device}\naddr add {}/64 dev {device} nodad\n", pod.v4, pod.v6)
}

/// Whether this machine lets us have pods; says why not.
pub fn are_allowed() -> bool {
    static LACK: LazyLock<Option<&str>> = LazyLock::new(lack);
    if let Some(why) = *LACK {
        eprintln!("SKIPPED: pods are network namespaces, and {why}");
    }
    LACK.is_none()
}

/// Why there can be no pods here.
fn lack() -> Option<&'static str> {
    if !geteuid().is_root() {
        return Some("only root may make them; run the tests as root");
    }
    let tried = Command::new("unshare").args(["--net", "true"]).stderr(Stdio::null()).status();
    (!tried.is_ok_and(|status| status.success())).then_some("this root may not make them (no CAP_SYS_ADMIN)")
}

/// Removes what tests left that were killed.
fn sweep() {
    for entry in std::fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let maker = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if maker.is_some_and(|pid| !std::path::Path::new("/proc").join(pid).exists()) {
            remove(&name);
        }
    }
}

fn remove(name: &str) {
    let _ = Command::new(tool("ip")).args(["netns", "del", name]).stderr(Stdio::null()).status();
}

/// Runs a tool with this as its input; it has to succeed.
fn fed(name: &str, args: &[&str], input: &str) {
    let mut command = Command::new(tool(name));
    let mut child = command.args(args).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start the tool");
    child.stdin.take().expect("stdin").write_all(input.as_bytes()).expect("write to the tool");
    let output = child.wait_with_output().expect("wait for the tool");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} {args:?}: {errors}\n{input}");
}

/// Services at 10.96.0.40, each with a port of pod B, over mTLS with this identity.
pub fn services(ports: &[u16], identity: &str) -> String {
    let service = |port: &u16| {
        format!(
            "  s{port}: {{ addresses: [\"10.96.0.40:{port}\"], endpoints: {{ static: [\"10.9.0.3:{port}\"] }}, \
             tls: {{ mode: mutual, identities: [\"{identity}\"] }} }}\n"
        )
    };
    let all: String = ports.iter().map(service).collect();
    if all.is_empty() { all } else { format!("services:\n{all}") }
}

/// A connection that its peer has reset.
fn reset() -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let stream = TcpStream::connect(listener.local_addr().expect("an address")).expect("connect");
    let (peer, _) = listener.accept().expect("a client");
    socket2::SockRef::from(&peer).set_linger(Some(Duration::ZERO)).expect("linger");
    stream
}

impl Pod {
    pub fn netns(&self) -> String {
        format!("/run/netns/{}", self.name)
    }

    /// `10.9.0.2:PORT`
    pub fn at(&self, port: u16) -> SocketAddr {
        format!("{}:{port}", self.v4).parse().expect("an address")
    }

    /// `[fd09::2]:PORT`
    pub fn at6(&self, port: u16) -> SocketAddr {
        format!("[{}]:{port}", self.v6).parse().expect("an address")
    }

    /// Runs this in the pod as this user. Namespace and user are the thread's: what it starts has them, too.
    pub fn enter<T>(&self, uid: u32, work: impl FnOnce() -> T) -> T {
        let _back = Inside::enter(&self.netns(), uid);
        work()
    }

    /// Listens as the application does.
    pub fn listen(&self, addr: impl ToString) -> TcpListener {
        let addr = addr.to_string();
        self.enter(APP, || TcpListener::bind(&addr).unwrap_or_else(|e| panic!("listen on {addr}: {e}")))
    }

    /// An application that answers 200 with its name.
    pub fn app(&self, addr: impl ToString, name: &str) -> Origin {
        let reply = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len());
        Origin::start_on(self.listen(addr), move |_, conn| {
            if conn.try_write(&reply) { super::origin::Next::Keep } else { super::origin::Next::Close }
        })
    }

    /// Connects as the application does.
    pub fn connect(&self, addr: impl ToString) -> Conn {
        match self.try_connect(APP, addr) {
            Ok(stream) => Conn::new(stream),
            // So soon that it has not seen itself connected.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Conn::new(reset()),
            Err(error) => panic!("connect: {error}"),
        }
    }

    pub fn try_connect(&self, uid: u32, addr: impl ToString) -> std::io::Result<TcpStream> {
        let addr = addr.to_string().parse().expect("an address");
        self.enter(uid, || TcpStream::connect_timeout(&addr, SOON))
    }

    /// A GET of the application on a connection of its own.
    pub fn get(&self, addr: impl ToString, host: &str) -> Message {
        self.ask(addr, host, "")
    }

    /// With more lines in its head.
    pub fn ask(&self, addr: impl ToString, host: &str, lines: &str) -> Message {
        let mut conn = self.connect(addr);
        conn.write(format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{lines}\r\n"));
        conn.response("GET")
    }

    /// A program that is to run in the pod as this user; `spawn` and `output` do.
    pub fn command(&self, uid: u32, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.netns())).args(as_user(uid, false)).arg(tool(program)).args(args);
        command.stdin(Stdio::null());
        command
    }

    pub fn spawn(&self, uid: u32, program: &str, args: &[&str]) -> Running {
        let mut command = self.command(uid, program, args);
        Running(command.stdout(Stdio::null()).spawn().unwrap_or_else(|e| panic!("start {program}: {e}")))
    }

    /// What a program of the application prints; it has to succeed.
    pub fn run(&self, program: &str, args: &[&str]) -> String {
        self.run_as(APP, program, args)
    }

    pub fn run_as(&self, uid: u32, program: &str, args: &[&str]) -> String {
        let output = self.command(uid, program, args).output().expect("start the tool");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {args:?}: {}\n{text}\n{errors}", output.status);
        text
    }

    /// Waits until somebody listens there.
    pub fn await_port(&self, addr: impl ToString) {
        let addr = addr.to_string();
        eventually(&format!("somebody listens on {addr}"), SOON, || self.try_connect(PROXY, &addr).ok());
    }

    pub fn nft(&self, rules: &str) {
        self.enter(ROOT, || fed("nft", &["-f", "-"], rules));
    }

    /// Lines of `ip -batch`.
    pub fn ip(&self, batch: &str) {
        fed("ip", &["-n", &self.name, "-batch", "-"], batch);
    }

    /// Has the kernel redirect what goes out and what comes in, as these flags of `outrigger intercept` say.
    pub fn intercept(&self, flags: &[&str]) {
        let netns = self.netns();
        let told = super::tell::outrigger(&[&["intercept", "apply", "--netns", &netns], flags].concat());
        assert_eq!(told.code, 0, "{told:?}");
    }

    /// A sidecar of ordinary rules, ready.
    pub fn sidecar(&self, keys: &Keys<'_>) -> Sidecar<'_> {
        self.intercept(if keys.tproxy { &["--mode", "tproxy"] } else { &[] });
        self.uncaptured(keys)
    }

    /// One whose rules the caller makes.
    pub fn uncaptured(&self, keys: &Keys<'_>) -> Sidecar<'_> {
        let start = Start { wrap: as_user(PROXY, keys.tproxy), ..Start::default() };
        let config = keys.config();
        Sidecar { pod: self, proxy: self.enter(ROOT, || Proxy::start_as(&start, &config, &given())) }
    }

    /// One that is started with these arguments and this file, if any, and need not become ready.
    pub fn begin(&self, args: &[&str], file: Option<&str>, tproxy: bool) -> Sidecar<'_> {
        let start = Start { wrap: as_user(PROXY, tproxy), ..Start::args(args) };
        let lay = |dir: &TempDir, fill: &dyn Fn(&str) -> String| match file {
            Some(text) => dir.file("outrigger.yaml", fill(text)),
            None => dir.path().join("outrigger.yaml"),
        };
        Sidecar { pod: self, proxy: self.enter(ROOT, || Proxy::begin(&start, &lay, &given())) }
    }

    /// Connections that the kernel tracks here.
    pub fn tracked(&self) -> usize {
        let text = self.enter(ROOT, || std::fs::read_to_string("/proc/thread-self/net/nf_conntrack"));
        text.expect("the table of connections").lines().filter(|line| line.contains(" tcp ")).count()
    }
}

/// Places that are the same in every pod.
fn given() -> [(&'static str, SocketAddr); 2] {
    let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
    [("admin", local(15000)), ("health", local(15020))]
}

impl Keys<'_> {
    /// The configuration of a sidecar.
    pub fn config(&self) -> String {
        let Keys { inbound, outbound, top, tproxy } = self;
        let transparent = if *tproxy { ", transparent: tproxy" } else { "" };
        format!(
            r#"apiVersion: outrigger/v1
admin: {{ address: "{{admin}}" }}
health: {{ address: "0.0.0.0:15020" }}
runtime: {{ workers: 1, drainTimeout: 2s }}
telemetry: {{ accessLog: {{ format: json, sample: {{ errors: 100, others: 100, maxPerSecond: 0 }} }} }}
listeners:
  - {{ name: inbound, mode: inbound, address: "0.0.0.0:15006"{transparent}{inbound} }}
  - {{ name: outbound, mode: outbound, address: "127.0.0.1:15001"{outbound} }}
{top}
"#
        )
    }
}

/// Words before a command that is to run as this user. Files of the tests may be in a directory that is closed to others,
/// so reading is allowed; what the network asks for is not, but for what TPROXY needs.
fn as_user(uid: u32, net_admin: bool) -> Vec<String> {
    let caps = if net_admin { "+dac_read_search,+net_admin" } else { "+dac_read_search" };
    let caps = [format!("--inh-caps={caps}"), format!("--ambient-caps={caps}")];
    let user = ["setpriv", "--pdeathsig=KILL", "--no-new-privs", "--clear-groups"].map(str::to_owned);
    let ids = [format!("--reuid={uid}"), format!("--regid={uid}")];
    user.into_iter().chain(ids).chain(caps).collect()
}

impl Sidecar<'_> {
    /// Asks the proxy from inside of its pod.
    pub fn ask<T>(&self, ask: impl FnOnce(&Proxy) -> T) -> T {
        self.pod.enter(ROOT, || ask(&self.proxy))
    }

    pub fn admin(&self, path: &str) -> Value {
        self.ask(|proxy| proxy.admin_json(path))
    }

    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.ask(|proxy| proxy.metric(name, labels))
    }

    /// Waits until so many requests or connections have ended by this reason.
    pub fn await_counted(&self, reason: &str, least: f64) {
        self.ask(|proxy| proxy.await_counted(reason, least));
    }

    /// Waits until a page of the admin address holds this text, and returns the page.
    pub fn await_page(&self, path: &str, part: &str) -> String {
        self.ask(|proxy| {
            let end = Instant::now() + SOON;
            loop {
                let page = proxy.admin("GET", path).text();
                if page.contains(part) {
                    return page;
                }
                assert!(Instant::now() < end, "`{part}` is not on {path}: {page}\n{}", proxy.stderr_text());
                std::thread::sleep(Duration::from_millis(10));
            }
        })
    }

    /// The lines of the access log that are there by now.
    pub fn logged(&self) -> Vec<Value> {
        let lines = self.proxy.stdout_lines();
        lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Puts this into its file, at once.
    pub fn write_config(&self, config: &str) {
        self.proxy.rewrite_config(config);
    }

    pub fn signal(&self, name: &str) {
        self.proxy.signal(name);
    }

    /// Its exit code.
    pub fn wait_exit(&mut self) -> Option<i32> {
        self.proxy.wait_exit(SOON).code()
    }

    pub fn stderr(&self) -> String {
        self.proxy.stderr_text()
    }
}

impl Ear {
    pub fn on(listener: TcpListener, reply: &'static str) -> Self {
        let heard = Arc::new(Mutex::new(Vec::<Vec<u8>>::new()));
        let kept = Arc::clone(&heard);
        let origin = Origin::raw_on(listener, move |mut conn, _| {
            let number = {
                let mut kept = kept.lock().expect("heard");
                kept.push(Vec::new());
                kept.len() - 1
            };
            let mut answered = false;
            loop {
                let some = conn.read_some();
                if some.is_empty() {
                    return;
                }
                kept.lock().expect("heard")[number].extend_from_slice(&some);
                if !answered {
                    answered = true;
                    conn.try_write(reply);
                }
            }
        });
        Self { _origin: origin, heard }
    }

    pub fn heard(&self) -> Vec<Vec<u8>> {
        self.heard.lock().expect("heard").clone()
    }

    /// Waits until a connection has said this, and no more.
    pub fn await_heard(&self, bytes: &[u8]) {
        let end = Instant::now() + SOON;
        while !self.heard().iter().any(|said| said == bytes) {
            let all: Vec<_> = self.heard().iter().map(|said| super::show(said)).collect();
            assert!(Instant::now() < end, "nobody said {}; but {all:#?}", super::show(bytes));
            std::thread::sleep(Duration::from_millis(4));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // `setpriv` and `nsenter` have become the program.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// As long as it lives this thread is in the namespace, and the user. It may be in one already.
struct Inside {
    home: File,
    user: Uid,
}

impl Inside {
    fn enter(netns: &str, uid: u32) -> Self {
        let user = geteuid();
        become_user(Uid::ROOT);
        let home = File::open("/proc/thread-self/ns/net").expect("our own namespace");
        let inside = Self { home, user };
        change_to(&File::open(netns).expect("the pod's namespace"));
        become_user(Uid::from_raw(uid));
        inside
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        become_user(Uid::ROOT);
        change_to(&self.home);
        become_user(self.user);
    }
}

fn change_to(netns: &File) {
    move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).expect("enter a namespace");
}

/// The effective one, which is what sockets have; the real and the saved one stay, so that there is a way back.
fn become_user(uid: Uid) {
    set_thread_res_uid(None, uid, None).expect("change the user of a thread");
}

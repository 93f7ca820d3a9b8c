//! What the black-box tests stand on: the built proxy as a process, scriptable peers on real sockets, and a
//! few raw byte helpers. Nothing here knows the implementation; threads and blocking sockets with deadlines.

// Every test file is a crate of its own and uses a part of this.
#![allow(dead_code, unused_imports)]

pub mod conn;
pub mod dns;
pub mod example;
pub mod grpc;
pub mod h2peer;
pub mod h2raw;
pub mod haproxy;
pub mod load;
pub mod mesh;
pub mod moody;
pub mod netns;
pub mod nginx;
pub mod origin;
pub mod pki;
pub mod pods;
pub mod proxy;
pub mod tell;
pub mod tls;
pub mod unix;

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub use conn::{Conn, Head, Message, get, send};
pub use origin::Origin;
pub use pki::Pki;
pub use proxy::{Proxy, Said, Setup, Start};

/// Longest that any test waits for something that is to happen at once.
pub const SOON: Duration = Duration::from_secs(10);

/// The same where a disk has to sync, which on a machine that builds at the same time may take its time.
pub const DISK: Duration = Duration::from_secs(40);

/// A directory of its own, removed at the end.
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new(label: &str) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("{label}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&path).expect("create a directory for the test");
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, content).expect("write a file of the test");
        path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // A failed test leaves its files and logs for whoever looks into it.
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

/// Polls until `probe` has something, and panics with `what` if it never has.
pub fn eventually<T>(what: &str, deadline: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + deadline;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < end, "not within {deadline:?}: {what}");
        std::thread::sleep(Duration::from_millis(4));
    }
}

/// Like `eventually`, for a condition.
pub fn until(what: &str, deadline: Duration, mut holds: impl FnMut() -> bool) {
    eventually(what, deadline, || holds().then_some(()));
}

/// A port that was free a moment ago, below the kernel's ephemeral range so that no outgoing connection of a
/// test that runs beside us takes it before its owner binds it.
pub fn free_addr() -> SocketAddr {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    // A proxy that is started again wants its own back, which nobody holds in between.
    static GIVEN: Mutex<BTreeSet<SocketAddr>> = Mutex::new(BTreeSet::new());
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::from(d.subsec_nanos()));
    for _ in 0..1000 {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let mixed = (clock ^ (u64::from(std::process::id()) << 32)).wrapping_add(step.wrapping_mul(7919));
        let hashed = mixed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
        let addr = SocketAddr::from(([127, 0, 0, 1], 11_000 + u16::try_from(hashed % 21_000).unwrap_or(0)));
        if GIVEN.lock().expect("addresses").insert(addr) && TcpListener::bind(addr).is_ok() {
            return addr;
        }
    }
    panic!("no free port");
}

/// Path of a program that the tests drive; `python` is the one of the test environment, with grpcio in it.
pub fn tool(name: &str) -> PathBuf {
    let venv = std::env::var_os("OUTRIGGER_TEST_VENV")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-venv"), PathBuf::from);
    let mut places = vec![venv.join("bin")];
    if name != "python" {
        places.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
        places.extend(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    }
    match places.into_iter().map(|place| place.join(name)).find(|path| path.is_file()) {
        Some(path) => path,
        None => panic!("`{name}` is not installed: run `make setup`"),
    }
}

/// Runs a tool to its end and returns what it printed; panics with all of its output if it failed.
pub fn run(name: &str, args: &[&str]) -> String {
    let output = Command::new(tool(name)).args(args).output().expect("start the tool");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} {args:?}: {}\n{text}\n{errors}", output.status);
    text
}

/// Bytes as a test wants to read them in a failure.
pub fn show(bytes: &[u8]) -> String {
    let text = bytes.escape_ascii().to_string();
    match text.char_indices().nth(2000) {
        Some((at, _)) => format!("{}... ({} bytes)", &text[..at], bytes.len()),
        None => text,
    }
}

/// Deterministic bytes that differ everywhere, so that loss, doubling and reordering all show.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect()
}

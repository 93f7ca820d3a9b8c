//! gRPC with grpcio: a real server, and scenarios of a real client.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use super::{run, tool};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/grpc_peer.py");

pub struct Server {
    child: Child,
    pub addr: SocketAddr,
}

impl Server {
    pub fn start() -> Self {
        let mut child = Command::new(tool("python"))
            .args([SCRIPT, "serve"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the gRPC server");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("stdout")).read_line(&mut line).expect("the port");
        let port: u16 =
            line.trim().parse().unwrap_or_else(|_| panic!("the gRPC server said `{line}`: run `make setup`"));
        Self { child, addr: SocketAddr::from(([127, 0, 0, 1], port)) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs one scenario of the script against this address.
pub fn check(addr: SocketAddr, scenario: &str) {
    assert_eq!(run("python", &[SCRIPT, "check", &addr.to_string(), scenario]), "ok\n");
}

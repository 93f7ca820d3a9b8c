//! The other sidecars of the demo: processes of their own, which end with the one that has started them.

use std::io;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::cli::client;

/// Drains when it is dropped, and has ended then.
pub struct Beside(Child);

impl Beside {
    pub fn start(file: &Path) -> io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["demo", "--beside", "--config"]).arg(file).stdin(Stdio::piped());
        // Ctrl-C is for the first one, which may still have requests here.
        command.process_group(0).spawn().map(Self)
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Waits in such a process until the one that has started it is done, or gone however that came to be; then drains.
pub fn end_with_parent(admin: SocketAddr) {
    let _ = io::copy(&mut io::stdin(), &mut io::sink());
    // There is nobody left to tell whether that worked.
    let _ = client::post(admin, "/drain", &Value::Null, "status");
}

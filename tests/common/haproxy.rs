//! A real HAProxy on a free port, in front of an address.

use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

use super::{SOON, TempDir, eventually, free_addr, tool};

pub struct HaProxy {
    child: Child,
    addr: SocketAddr,
    _dir: TempDir,
}

/// Passes TCP on to `server`: its address and options.
pub fn haproxy(server: &str) -> HaProxy {
    for _ in 0..3 {
        let (dir, addr) = (TempDir::new("haproxy"), free_addr());
        let config = format!(
            "global\n  maxconn 100\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 20s\n  timeout server 20s\n\
             listen all\n  bind {addr}\n  server one {server}\n"
        );
        let path = dir.file("haproxy.cfg", config);
        let mut child = Command::new(tool("haproxy"))
            .args(["-db", "-q", "-f"])
            .arg(path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(dir.path().join("stderr")).expect("a file for the errors of haproxy"))
            .spawn()
            .expect("start haproxy");
        let up = eventually("haproxy listens", SOON, || match child.try_wait() {
            Ok(Some(_)) => Some(false),
            _ => TcpStream::connect(addr).is_ok().then_some(true),
        });
        if up {
            return HaProxy { child, addr, _dir: dir };
        }
    }
    panic!("haproxy does not start; its errors are in the test's directory");
}

impl HaProxy {
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

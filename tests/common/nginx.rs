//! A real nginx on a free port, in a directory of its own.

use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

use super::{SOON, TempDir, eventually, free_addr, tool};

pub struct Nginx {
    child: Child,
    addr: SocketAddr,
    _dir: TempDir,
}

/// `http` is the content of the `http` block, with `{addr}` where it listens.
pub fn nginx(http: &str) -> Nginx {
    for _ in 0..3 {
        let (dir, addr) = (TempDir::new("nginx"), free_addr());
        let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|kind| format!("{kind}_temp_path {}/{kind};\n", dir.path().display()))
            .collect();
        let http = http.replace("{addr}", &addr.to_string());
        // As root its workers would otherwise change to a user who may not enter the directory.
        let user = if is_root() { "user root;" } else { "" };
        let conf = format!(
            "{user} daemon off; worker_processes 1; error_log stderr warn; pid nginx.pid;\n\
             events {{ worker_connections 4096; }}\nhttp {{ access_log off;\n{temp}\n{http}\n}}\n"
        );
        let path = dir.file("nginx.conf", conf);
        let mut child = Command::new(tool("nginx"))
            .arg("-p")
            .arg(dir.path())
            .arg("-c")
            .arg(path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(dir.path().join("stderr")).expect("a file for the errors of nginx"))
            .spawn()
            .expect("start nginx");
        let up = eventually("nginx listens", SOON, || match child.try_wait() {
            Ok(Some(_)) => Some(false),
            _ => TcpStream::connect(addr).is_ok().then_some(true),
        });
        if up {
            return Nginx { child, addr, _dir: dir };
        }
    }
    panic!("nginx does not start; its errors are in the test's directory");
}

impl Nginx {
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // TERM, so that the master ends its workers.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status")
        .is_ok_and(|status| status.lines().any(|line| line.starts_with("Uid:\t0\t")))
}

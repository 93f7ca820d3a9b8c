//! A network namespace of the test's own, and threads and programs in it. Only root may make one.

use std::fs::File;
use std::os::fd::AsFd;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::{Gid, Uid, geteuid};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space, set_thread_res_gid, set_thread_res_uid};

use super::{run, tool};

/// Removed at the end, with all that is in it.
pub struct Netns(String);

impl Netns {
    /// None where this machine does not let us, which it says.
    pub fn new() -> Option<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        if !geteuid().is_root() {
            eprintln!("SKIPPED: a network namespace can be made by root only");
            return None;
        }
        let name = format!("outrigger-rules-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let made = Command::new(tool("ip")).args(["netns", "add", &name]).output().expect("start ip");
        if !made.status.success() {
            eprintln!("SKIPPED: this machine makes no network namespaces: {}", String::from_utf8_lossy(&made.stderr));
            return None;
        }
        let netns = Self(name);
        netns.run("ip", &["link", "set", "lo", "up"]);
        Some(netns)
    }

    pub fn name(&self) -> &str {
        &self.0
    }

    pub fn path(&self) -> String {
        format!("/run/netns/{}", self.0)
    }

    /// A program in it, to its end.
    pub fn output(&self, program: &str, args: &[&str], input: &str) -> Output {
        use std::io::Write;
        let mut child = Command::new(tool("ip"))
            .args(["netns", "exec", &self.0])
            .arg(if program.contains('/') { program.into() } else { tool(program) })
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start ip");
        child.stdin.take().expect("stdin").write_all(input.as_bytes()).expect("write to the program");
        child.wait_with_output().expect("the program's end")
    }

    pub fn feed(&self, program: &str, args: &[&str], input: &str) -> String {
        let output = self.output(program, args, input);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {args:?}: {errors}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    pub fn run(&self, program: &str, args: &[&str]) -> String {
        self.feed(program, args, "")
    }

    /// Does it in a thread that is in here, as this user and group.
    pub fn within<T: Send + 'static>(&self, user: u32, group: u32, what: impl FnOnce() -> T + Send + 'static) -> T {
        let file = File::open(self.path()).expect("the namespace");
        let there = std::thread::spawn(move || {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("enter the namespace");
            let (uid, gid) = (Uid::from_raw(user), Gid::from_raw(group));
            set_thread_res_gid(gid, gid, gid).expect("become the group");
            set_thread_res_uid(uid, uid, uid).expect("become the user");
            what()
        });
        there.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = Command::new(tool("ip")).args(["netns", "del", &self.0]).status();
        } else {
            run("ip", &["netns", "del", &self.0]);
        }
    }
}

//! The commands that tell something, run to their end, and what is asked of a running proxy in JSON.

use std::process::{Command, Output, Stdio};

use serde_json::Value;

use super::{Conn, Message, Proxy};

/// How a command ended, and what it printed.
#[derive(Debug)]
pub struct Told {
    pub code: i32,
    pub out: String,
    pub err: String,
}

/// Runs the built binary without a terminal.
pub fn outrigger<S: AsRef<str>>(args: &[S]) -> Told {
    let output = Command::new(env!("CARGO_BIN_EXE_outrigger"))
        .args(args.iter().map(AsRef::as_ref))
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .output()
        .expect("run outrigger");
    told(output)
}

pub fn told(output: Output) -> Told {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output in UTF-8");
    Told { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
}

impl Told {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// All of these are in what was printed.
    pub fn says(&self, parts: &[&str]) {
        for part in parts {
            assert!(self.out.contains(part), "`{part}` is missing in:\n{}{}", self.out, self.err);
        }
    }

    /// Failed with this code, one line on stderr that has all of these, and nothing else.
    pub fn is_error(&self, code: i32, parts: &[&str]) {
        assert_eq!((self.code, self.out.as_str()), (code, ""), "{self:?}");
        assert_eq!(self.err.trim_end().lines().count(), 1, "{self:?}");
        assert!(parts.iter().all(|part| self.err.contains(part)), "{parts:?} in {self:?}");
    }
}

/// A POST to the admin address, with these lines of a head.
pub fn post(proxy: &Proxy, path: &str, lines: &str, body: &str) -> Message {
    let mut conn = Conn::connect(proxy.place("admin"));
    let head = format!("POST {path} HTTP/1.1\r\nConnection: close\r\n{lines}Content-Length: {}\r\n\r\n", body.len());
    conn.write(head);
    // It may have heard enough before the end.
    conn.try_write(body);
    conn.response("POST")
}

/// The explanation of a running proxy.
pub fn explain(proxy: &Proxy, ask: &Value) -> Value {
    let reply = post(proxy, "/explain", "Host: localhost\r\n", &ask.to_string());
    assert_eq!(reply.status(), 200, "{ask}: {reply:?}");
    serde_json::from_slice(&reply.body).expect("JSON of /explain")
}

//! One end of an HTTP/1 connection, as bytes: nothing is normalised, nothing is hidden.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::{SOON, show};

/// A head as it was on the wire, blank line included.
#[derive(Clone, Default)]
pub struct Head {
    pub raw: Vec<u8>,
}

/// A whole message: the body as sent (`raw_body`, with its chunks) and as meant (`body`).
#[derive(Clone, Default, Debug)]
pub struct Message {
    pub head: Head,
    pub raw_body: Vec<u8>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    /// The body ended as its framing says (and not because the peer went away).
    pub whole: bool,
}

pub struct Conn {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// How long one read may take; a panic after it.
    patience: Duration,
    /// The peer sent a reset rather than a FIN.
    pub was_reset: bool,
}

/// Sends bytes on a connection of their own, closes the sending side, returns all that comes back.
pub fn send(addr: SocketAddr, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let mut conn = Conn::connect(addr);
    conn.write(bytes);
    conn.finish();
    conn.read_to_end()
}

/// A GET on a connection of its own: the "next request works" of many tests.
pub fn get(addr: SocketAddr, path: &str) -> Message {
    let mut conn = Conn::connect(addr);
    conn.write(format!("GET {path} HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n"));
    conn.response("GET")
}

impl Head {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.raw).into_owned()
    }

    pub fn start_line(&self) -> String {
        self.text().lines().next().unwrap_or_default().to_owned()
    }

    pub fn status(&self) -> u16 {
        let line = self.start_line();
        line.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("no status in `{line}`"))
    }

    /// Names as spelled, with their values.
    pub fn lines(&self) -> Vec<(String, String)> {
        let text = self.text();
        let lines = text.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
        lines.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect()
    }

    pub fn all(&self, name: &str) -> Vec<String> {
        let lines = self.lines().into_iter();
        lines.filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
    }

    pub fn get(&self, name: &str) -> Option<String> {
        self.all(name).into_iter().next()
    }

    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    fn is_chunked(&self) -> bool {
        self.all("transfer-encoding").iter().any(|value| value.to_ascii_lowercase().ends_with("chunked"))
    }
}

impl std::fmt::Debug for Head {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&show(&self.raw))
    }
}

impl Message {
    pub fn status(&self) -> u16 {
        self.head.status()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Conn {
    pub fn connect(addr: SocketAddr) -> Self {
        Self::new(TcpStream::connect_timeout(&addr, SOON).unwrap_or_else(|e| panic!("connect to {addr}: {e}")))
    }

    pub fn new(stream: TcpStream) -> Self {
        let _ = stream.set_nodelay(true);
        let _ = stream.set_write_timeout(Some(SOON));
        Self { stream, buffer: Vec::new(), patience: SOON, was_reset: false }
    }

    /// For the side that waits for others, such as an origin on an idle connection.
    pub fn patient(stream: TcpStream) -> Self {
        Self { patience: Duration::from_secs(120), ..Self::new(stream) }
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.stream.local_addr().expect("local address")
    }

    /// Writes and panics if the peer has gone.
    pub fn write(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        self.stream.write_all(bytes).unwrap_or_else(|e| panic!("write of {}: {e}", show(bytes)));
    }

    /// Writes where the peer may have gone; says whether it went well.
    pub fn try_write(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        let written = self.stream.write_all(bytes.as_ref());
        // Who is told of a reset here is not told again when reading.
        let reset = |e: &std::io::Error| matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe);
        self.was_reset |= written.as_ref().is_err_and(reset);
        written.is_ok()
    }

    /// One byte a packet, as far as the kernel lets us.
    pub fn write_bytewise(&mut self, bytes: impl AsRef<[u8]>) {
        for byte in bytes.as_ref() {
            self.write([*byte]);
        }
    }

    /// Closes the sending side.
    pub fn finish(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Closes with a reset.
    pub fn reset(self) {
        let _ = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }

    /// Reads what is there into the buffer; false at the end of the stream.
    fn fill(&mut self, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "nothing arrived in time; so far: {}", show(&self.buffer));
        let _ = self.stream.set_read_timeout(Some(left));
        let mut chunk = vec![0; 64 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(0) => false,
            Ok(n) => {
                self.buffer.extend_from_slice(&chunk[..n]);
                true
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("nothing arrived in time; so far: {}", show(&self.buffer))
            }
            Err(_) => {
                self.was_reset = true;
                false
            }
        }
    }

    fn soon(&self) -> Instant {
        Instant::now() + self.patience
    }

    /// The next head, or None where the peer closed before one.
    pub fn try_head(&mut self) -> Option<Head> {
        let deadline = self.soon();
        loop {
            if let Some(at) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                return Some(Head { raw: self.take(at + 4) });
            }
            if !self.fill(deadline) {
                return None;
            }
        }
    }

    pub fn head(&mut self) -> Head {
        match self.try_head() {
            Some(head) => head,
            None => panic!("closed before a head; so far: {}", show(&self.buffer)),
        }
    }

    /// A request with its body.
    pub fn request(&mut self) -> Option<Message> {
        let head = self.try_head()?;
        Some(if head.is_chunked() || head.has("content-length") { self.body(head) } else { Self::bodiless(head) })
    }

    /// A response to `method` with its body, interim ones skipped.
    pub fn response(&mut self, method: &str) -> Message {
        loop {
            let head = self.head();
            match head.status() {
                101 => return Self::bodiless(head),
                100..200 => {}
                204 | 304 => return Self::bodiless(head),
                _ if method == "HEAD" => return Self::bodiless(head),
                _ => return self.body(head),
            }
        }
    }

    fn bodiless(head: Head) -> Message {
        Message { head, whole: true, ..Message::default() }
    }

    /// The body that the head announces: chunked, by length, else up to the close.
    pub fn body(&mut self, head: Head) -> Message {
        let mut message = Message { head, ..Message::default() };
        if message.head.is_chunked() {
            self.chunks(&mut message);
        } else if let Some(length) = message.head.get("content-length") {
            let length: usize = length.parse().unwrap_or_else(|_| panic!("content-length `{length}`"));
            message.whole = self.need(length);
            message.body = self.take(length);
            message.raw_body.clone_from(&message.body);
        } else {
            message.body = self.read_to_end();
            message.raw_body.clone_from(&message.body);
            message.whole = !self.was_reset;
        }
        message
    }

    fn chunks(&mut self, message: &mut Message) {
        loop {
            let Some(line) = self.line() else { return };
            message.raw_body.extend_from_slice(&line);
            let text = String::from_utf8_lossy(&line);
            let size = text.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).unwrap_or_else(|_| panic!("chunk size `{text}`"));
            if size == 0 {
                break;
            }
            let whole = self.need(size + 2);
            let chunk = self.take(size + 2);
            message.raw_body.extend_from_slice(&chunk);
            message.body.extend_from_slice(&chunk[..size.min(chunk.len())]);
            if !whole {
                return;
            }
            assert!(chunk.ends_with(b"\r\n"), "chunk not closed by CRLF: {}", show(&chunk));
        }
        while let Some(line) = self.line() {
            message.raw_body.extend_from_slice(&line);
            if line == b"\r\n" {
                message.whole = true;
                return;
            }
            let text = String::from_utf8_lossy(&line).into_owned();
            let (name, value) = text.split_once(':').unwrap_or_else(|| panic!("trailer `{text}`"));
            message.trailers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    /// One line with its end, or None where the peer closed before it.
    pub fn line(&mut self) -> Option<Vec<u8>> {
        let deadline = self.soon();
        loop {
            if let Some(at) = self.buffer.iter().position(|b| *b == b'\n') {
                return Some(self.take(at + 1));
            }
            if !self.fill(deadline) {
                return None;
            }
        }
    }

    /// Waits for `n` bytes; false where the peer closed before.
    fn need(&mut self, n: usize) -> bool {
        let mut deadline = self.soon();
        while self.buffer.len() < n {
            if !self.fill(deadline) {
                return false;
            }
            // Large bodies are judged by progress.
            deadline = self.soon();
        }
        true
    }

    fn take(&mut self, n: usize) -> Vec<u8> {
        let n = n.min(self.buffer.len());
        self.buffer.drain(..n).collect()
    }

    /// Exactly `n` bytes.
    pub fn read_exact(&mut self, n: usize) -> Vec<u8> {
        assert!(self.need(n), "closed after {} of {n} bytes: {}", self.buffer.len(), show(&self.buffer));
        self.take(n)
    }

    /// Whatever arrives next; empty at the end.
    pub fn read_some(&mut self) -> Vec<u8> {
        if self.buffer.is_empty() {
            self.fill(self.soon());
        }
        std::mem::take(&mut self.buffer)
    }

    /// Reads until `needle` was seen, and returns everything up to its end.
    pub fn read_until(&mut self, needle: &[u8]) -> Vec<u8> {
        let deadline = self.soon();
        loop {
            if let Some(at) = self.buffer.windows(needle.len()).position(|w| w == needle) {
                return self.take(at + needle.len());
            }
            assert!(self.fill(deadline), "closed before {}: {}", show(needle), show(&self.buffer));
        }
    }

    /// Everything until the peer closes.
    pub fn read_to_end(&mut self) -> Vec<u8> {
        while self.fill(self.soon()) {}
        std::mem::take(&mut self.buffer)
    }

    /// True where nothing arrives and nobody closes for this long.
    pub fn is_quiet(&mut self, how_long: Duration) -> bool {
        if !self.buffer.is_empty() {
            return false;
        }
        let _ = self.stream.set_read_timeout(Some(how_long));
        let mut byte = [0; 1];
        match self.stream.peek(&mut byte) {
            Ok(_) => false,
            Err(e) => matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        }
    }
}

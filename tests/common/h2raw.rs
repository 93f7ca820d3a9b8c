//! HTTP/2 by hand: frames as bytes, either side, for what no library would send. Header blocks are literals
//! without indexing; of those that come back only the status is read.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::SOON;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub const NO_ERROR: u32 = 0;
pub const REFUSED_STREAM: u32 = 7;
pub const CANCEL: u32 = 8;

pub const MAX_CONCURRENT_STREAMS: u16 = 3;
pub const INITIAL_WINDOW_SIZE: u16 = 4;

#[derive(Debug, Clone)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

pub struct Peer {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Frame {
    pub fn ends_stream(&self) -> bool {
        (self.kind == DATA || self.kind == HEADERS) && self.flags & END_STREAM != 0
    }

    /// Error code of RST_STREAM and GOAWAY.
    pub fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        self.payload.get(at..at + 4).map_or(u32::MAX, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
    }

    /// `:status` of a response: first in the block, either in the static table or by the name in it.
    pub fn status(&self) -> u16 {
        let block: Vec<u8> = self.payload.iter().copied().skip_while(|b| b & 0xe0 == 0x20).collect();
        match block[0] {
            index @ 0x88..=0x8e => [200, 204, 206, 304, 400, 404, 500][usize::from(index - 0x88)],
            0x48 | 0x08 | 0x18 if block[1] & 0x80 == 0 => {
                String::from_utf8_lossy(&block[2..5]).parse().expect("a status")
            }
            0x48 | 0x08 | 0x18 => huffman_digits(&block[2..]),
            other => panic!("no status where it has to be: {other:#x} in {block:?}"),
        }
    }
}

/// The three digits of a status: those up to 2 have five bits, the others six (RFC 7541, appendix B).
fn huffman_digits(bytes: &[u8]) -> u16 {
    let bits: Vec<u8> = bytes.iter().flat_map(|byte| (0..8).rev().map(move |i| byte >> i & 1)).collect();
    let number = |bits: &[u8]| bits.iter().fold(0u16, |n, bit| n << 1 | u16::from(*bit));
    let (mut at, mut status) = (0, 0);
    for _ in 0..3 {
        let short = number(&bits[at..at + 5]);
        let digit = if short <= 2 { short } else { number(&bits[at..at + 6]) - 0b01_1001 + 3 };
        at += if short <= 2 { 5 } else { 6 };
        status = status * 10 + digit;
    }
    status
}

/// A header block of literals, names and values as given.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        literal(&mut out, name.as_bytes());
        literal(&mut out, value.as_bytes());
    }
    out
}

fn literal(out: &mut Vec<u8>, text: &[u8]) {
    // A 7-bit prefix integer without the Huffman bit, then the octets.
    let mut rest = text.len();
    if rest < 127 {
        out.push(rest as u8);
    } else {
        out.push(127);
        rest -= 127;
        while rest >= 128 {
            out.push((rest & 127) as u8 | 128);
            rest >>= 7;
        }
        out.push(rest as u8);
    }
    out.extend_from_slice(text);
}

/// Pseudo-headers of a request, then the given ones.
pub fn request<'a>(method: &'a str, path: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut fields = vec![(":method", method), (":scheme", "http"), (":path", path), (":authority", "app.test")];
    fields.extend_from_slice(more);
    fields
}

impl Peer {
    /// Connects and says hello with these settings.
    pub fn client(addr: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let mut peer = Self::new(TcpStream::connect(addr).expect("connect"));
        assert!(peer.bytes(PREFACE), "write the preface");
        peer.settings(settings);
        peer
    }

    /// Takes the other side's preface and says hello; None where it says something else.
    pub fn server(stream: TcpStream, settings: &[(u16, u32)]) -> Option<Self> {
        let mut peer = Self::new(stream);
        while peer.buffer.len() < PREFACE.len() {
            if !peer.fill(Instant::now() + Duration::from_secs(60)) {
                return None;
            }
        }
        if !peer.buffer.starts_with(PREFACE) {
            return None;
        }
        peer.buffer.drain(..PREFACE.len());
        peer.settings(settings);
        Some(peer)
    }

    fn new(stream: TcpStream) -> Self {
        let _ = stream.set_nodelay(true);
        let _ = stream.set_write_timeout(Some(SOON));
        Self { stream, buffer: Vec::new() }
    }

    pub fn bytes(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// False where the other side has gone.
    pub fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        let length = (payload.len() as u32).to_be_bytes();
        let mut out = vec![length[1], length[2], length[3], kind, flags];
        out.extend_from_slice(&stream.to_be_bytes());
        out.extend_from_slice(payload);
        self.bytes(&out)
    }

    pub fn settings(&mut self, settings: &[(u16, u32)]) -> bool {
        let payload: Vec<u8> =
            settings.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
        self.frame(SETTINGS, 0, 0, &payload)
    }

    pub fn headers(&mut self, stream: u32, fields: &[(&str, &str)], end: bool) -> bool {
        let block = block(fields);
        let end = if end { END_STREAM } else { 0 };
        // As many frames as the default frame size needs.
        let mut parts = block.chunks(16_384).peekable();
        let mut kind = HEADERS;
        while let Some(part) = parts.next() {
            let last = if parts.peek().is_none() { END_HEADERS } else { 0 };
            if !self.frame(kind, last | if kind == HEADERS { end } else { 0 }, stream, part) {
                return false;
            }
            kind = CONTINUATION;
        }
        true
    }

    pub fn data(&mut self, stream: u32, bytes: &[u8], end: bool) -> bool {
        self.frame(DATA, if end { END_STREAM } else { 0 }, stream, bytes)
    }

    pub fn rst(&mut self, stream: u32, code: u32) -> bool {
        self.frame(RST_STREAM, 0, stream, &code.to_be_bytes())
    }

    pub fn goaway(&mut self, last: u32, code: u32) -> bool {
        self.frame(GOAWAY, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat())
    }

    pub fn window(&mut self, stream: u32, more: u32) -> bool {
        self.frame(WINDOW_UPDATE, 0, stream, &more.to_be_bytes())
    }

    fn fill(&mut self, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "no frame arrived in time");
        let _ = self.stream.set_read_timeout(Some(left));
        let mut chunk = [0; 32 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(0) => false,
            Ok(n) => {
                self.buffer.extend_from_slice(&chunk[..n]);
                true
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("no frame arrived in time")
            }
            Err(_) => false,
        }
    }

    /// The next frame, SETTINGS and PING acknowledged on the way; None at the end of the connection.
    pub fn next(&mut self) -> Option<Frame> {
        self.next_within(SOON)
    }

    pub fn next_within(&mut self, patience: Duration) -> Option<Frame> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(frame) = self.parse() {
                if (frame.kind == SETTINGS || frame.kind == PING) && frame.flags & ACK == 0 {
                    let payload = if frame.kind == PING { frame.payload.clone() } else { Vec::new() };
                    self.frame(frame.kind, ACK, 0, &payload);
                }
                return Some(frame);
            }
            if !self.fill(deadline) {
                return None;
            }
        }
    }

    /// A frame if one arrives within a moment: None at the end of the connection, Some(None) where it is quiet.
    pub fn poll(&mut self, moment: Duration) -> Option<Option<Frame>> {
        let whole = |buffer: &[u8]| {
            buffer.len() >= 9 && buffer.len() >= 9 + usize::from(buffer[1]) * 256 + usize::from(buffer[2])
        };
        if !whole(&self.buffer) {
            let _ = self.stream.set_read_timeout(Some(moment));
            let mut byte = [0; 1];
            match self.stream.peek(&mut byte) {
                Ok(0) => return None,
                Ok(_) => {}
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Some(None),
                Err(_) => return None,
            }
        }
        self.next().map(Some)
    }

    fn parse(&mut self) -> Option<Frame> {
        let head = self.buffer.get(..9)?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let (kind, flags) = (head[3], head[4]);
        let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
        let payload = self.buffer.get(9..9 + length)?.to_vec();
        self.buffer.drain(..9 + length);
        Some(Frame { kind, flags, stream, payload })
    }

    /// Reads on until a frame that fits; panics where the connection ends before.
    pub fn wait(&mut self, what: &str, mut fits: impl FnMut(&Frame) -> bool) -> Frame {
        loop {
            match self.next() {
                Some(frame) if fits(&frame) => return frame,
                Some(_) => {}
                None => panic!("the connection ended before {what}"),
            }
        }
    }

    /// A whole answer on this stream: its status, its body and, where it was reset, the code.
    pub fn answer(&mut self, stream: u32) -> (u16, Vec<u8>, Option<u32>) {
        let (mut status, mut body) = (0, Vec::new());
        loop {
            let frame = self.wait("the end of the answer", |f| f.stream == stream);
            match frame.kind {
                HEADERS if status < 200 => status = frame.status(),
                DATA => {
                    body.extend_from_slice(&frame.payload);
                    if !frame.payload.is_empty() {
                        self.window(0, frame.payload.len() as u32);
                    }
                }
                RST_STREAM => return (status, body, Some(frame.code())),
                _ => {}
            }
            if frame.ends_stream() {
                return (status, body, None);
            }
        }
    }
}

/// An HTTP/2 upstream of raw frames: `serve` has every connection after the preface, and its number.
pub struct Server {
    pub addr: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Server {
    pub fn start(settings: &'static [(u16, u32)], serve: impl Fn(Peer, usize) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind an origin");
        let addr = listener.local_addr().expect("address of the origin");
        let connections = Arc::new(AtomicUsize::new(0));
        let (serve, count) = (Arc::new(serve), Arc::clone(&connections));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (serve, count) = (Arc::clone(&serve), Arc::clone(&count));
                std::thread::spawn(move || {
                    if let Some(peer) = Peer::server(stream, settings) {
                        serve(peer, count.fetch_add(1, Ordering::SeqCst));
                    }
                });
            }
        });
        Self { addr, connections }
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

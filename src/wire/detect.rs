//! Which protocol the first bytes of a connection belong to. It is asked again with more bytes until it decides:
//! never on a fragment that another protocol could still begin with.

/// What the bytes begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Http1,
    /// HTTP/2 with prior knowledge: its connection preface.
    Http2,
    /// A record that holds the beginning of a ClientHello.
    Tls,
    /// None of these.
    Opaque,
    /// Too few bytes to tell.
    More,
}

/// What a server says before its client has said anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerSpeaks {
    /// A greeting: the client waits for it.
    Opaque,
    /// A complaint of a server of HTTP/1 about a client that says nothing.
    Http1,
    /// The settings that a server of HTTP/2 may send at once (RFC 9113, section 3.4).
    Http2,
    /// A complaint of a server of TLS about such a client.
    TlsAlert,
    /// Too few bytes to tell.
    More,
}

/// The connection preface of HTTP/2 (RFC 9113, section 3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Longer methods are unknown to HTTP, and longer first words common elsewhere.
const METHOD_BYTES_MAX: usize = 32;
/// Nothing but HTTP ignores empty lines, and nobody sends so many.
const EMPTY_BYTES_MAX: usize = 64;

/// Bytes that are looked at, at most: a method, its space, and the scheme of an absolute target.
pub const BYTES_MAX: usize = 64;

/// Decides on all bytes that have arrived so far.
pub fn detect(bytes: &[u8]) -> Verdict {
    if bytes.starts_with(PREFACE) {
        return Verdict::Http2;
    }
    if PREFACE.starts_with(bytes) {
        return Verdict::More;
    }
    match bytes {
        [0x16, ..] => hello(bytes),
        _ => http1(bytes),
    }
}

/// The header of a record, and the type of a ClientHello in it. The first three bytes alone could be a length, with which
/// a message of MongoDB begins.
fn hello(bytes: &[u8]) -> Verdict {
    match bytes {
        [_] | [_, 3] | [_, 3, 0..=4] | [_, 3, 0..=4, 0..=0x40] => Verdict::More,
        [_, 3, 0..=4, 0, 0, ..] => Verdict::Opaque,
        [_, 3, 0..=4, 0..=0x40, _] => Verdict::More,
        [_, 3, 0..=4, 0..=0x40, _, 1, ..] => Verdict::Tls,
        _ => Verdict::Opaque,
    }
}

/// Bytes of a server that are looked at, at most: the header of a frame of HTTP/2.
pub const SPOKEN_MAX: usize = 9;

/// Decides on all bytes that a server has sent while its client was silent. Only `Opaque` shows that the protocol has
/// the server speak first: servers of HTTP and of TLS do it, too, where nobody waits for them.
pub fn spoken_first(bytes: &[u8]) -> ServerSpeaks {
    const STATUS: &[u8] = b"HTTP/1.";
    if bytes.starts_with(STATUS) {
        return ServerSpeaks::Http1;
    }
    match bytes {
        [0x15, 3, 0..=4, ..] => ServerSpeaks::TlsAlert,
        _ if STATUS.starts_with(bytes) || [0x15, 3].starts_with(bytes) => ServerSpeaks::More,
        _ => settings(bytes),
    }
}

/// The header of a frame of settings: its length, its type, no flags, and the stream 0.
fn settings(bytes: &[u8]) -> ServerSpeaks {
    const SETTING: usize = 6;
    const REST: &[u8] = &[4, 0, 0, 0, 0, 0];
    let (length, rest) = bytes.split_at(bytes.len().min(3));
    let fits = match length {
        // No frame is longer than 2^14 before both have agreed on more.
        &[0, high, low] => usize::from(u16::from_be_bytes([high, low])) % SETTING == 0 && high <= 0x40,
        [0, high] => *high <= 0x40,
        [] | [0] => true,
        _ => false,
    };
    match rest.get(..REST.len()) {
        _ if !fits => ServerSpeaks::Opaque,
        Some(REST) => ServerSpeaks::Http2,
        None if REST.starts_with(rest) => ServerSpeaks::More,
        Some(_) | None => ServerSpeaks::Opaque,
    }
}

/// A request line: a token, one space, and what can begin a target. A word and a space alone would also be SMTP,
/// SSH or Redis.
fn http1(bytes: &[u8]) -> Verdict {
    // A server ignores empty lines ahead of the request line (RFC 9112, section 2.2).
    let empty = bytes.iter().take(EMPTY_BYTES_MAX).take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    if empty == EMPTY_BYTES_MAX {
        return Verdict::Http1;
    }
    let line = bytes.get(empty..).unwrap_or_default();
    let method = line.iter().take(METHOD_BYTES_MAX + 1).take_while(|&&byte| token(byte)).count();
    let Some(&after) = line.get(method) else {
        return if method > METHOD_BYTES_MAX { Verdict::Opaque } else { Verdict::More };
    };
    if method == 0 || method > METHOD_BYTES_MAX || after != b' ' {
        return Verdict::Opaque;
    }
    let (name, target) = (line.get(..method).unwrap_or_default(), line.get(method + 1..).unwrap_or_default());
    match target.first() {
        None => Verdict::More,
        Some(b'/' | b'*') => Verdict::Http1,
        // NATS has a CONNECT as well, with an object behind it; HTTP a host.
        Some(&byte) if name == b"CONNECT" => match byte.is_ascii_alphanumeric() || b"[-_.".contains(&byte) {
            true => Verdict::Http1,
            false => Verdict::Opaque,
        },
        Some(_) => absolute(target),
    }
}

fn absolute(target: &[u8]) -> Verdict {
    let mut verdict = Verdict::Opaque;
    for scheme in [b"http://".as_slice(), b"https://"] {
        let common = scheme.iter().zip(target).take_while(|(ours, theirs)| ours.eq_ignore_ascii_case(theirs)).count();
        if common == scheme.len() {
            return Verdict::Http1;
        }
        if common == target.len() {
            verdict = Verdict::More;
        }
    }
    verdict
}

fn token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests;

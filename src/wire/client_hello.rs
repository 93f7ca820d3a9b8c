//! The ClientHello that a TLS connection begins with: whom it is for, and what it offers to speak. Sources: RFC 8446,
//! sections 4.1.2 and 5.1; RFC 6066, section 3; RFC 7301, section 3.1.
//!
//! It is asked again as bytes arrive. Until the whole message is there only headers are looked at, and the answer says
//! how many bytes to come back with, so that a peer who sends one byte at a time does not cost more than its bytes.

use std::borrow::Cow;
use std::net::IpAddr;

/// The longest ClientHello.
pub const MESSAGE_MAX: usize = 64 * 1024;
/// Bytes to hold at most for it: the headers of its records come on top.
pub const BYTES_MAX: usize = MESSAGE_MAX + 1024;

const RECORD_HEADER: usize = 5;
const RECORD_MAX: usize = 1 << 14;
const MESSAGE_HEADER: usize = 4;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const HOST_NAME: u8 = 0;
const NAME_MAX: usize = 253;

/// What the bytes are so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    /// It is no use to ask before there are so many bytes; never more than `BYTES_MAX`.
    More {
        at_least: usize,
    },
    Hello(ClientHello),
    /// It is TLS, and then not: malformed, or longer than is taken.
    Invalid,
    /// They begin something else.
    NotTls,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientHello {
    /// In lower case, without a dot at the end; an address is not a name.
    pub server_name: Option<Box<str>>,
    /// As sent: each with its length ahead of it.
    alpn: Box<[u8]>,
}

impl ClientHello {
    /// The protocols that the client offers, best first.
    pub fn alpn(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &*self.alpn;
        std::iter::from_fn(move || short(&mut rest))
    }

    /// Whether it is of a proxy of this kind.
    pub fn is_ours(&self) -> bool {
        self.alpn().any(|offer| offer.strip_prefix(b"outrigger").is_some_and(|rest| matches!(rest, [] | [b'-', ..])))
    }
}

/// Reads all bytes that have arrived so far.
pub fn parse(bytes: &[u8]) -> Parsed {
    // Where the next record begins, and how much of the message the ones before hold.
    let (mut at, mut have) = (0, 0);
    let mut header = [0; MESSAGE_HEADER];
    loop {
        let (length, payload) = match bytes.get(at..).unwrap_or_default() {
            &[HANDSHAKE, 3, 0..=4, high, low, ref payload @ ..] => (integer(&[high, low]), payload),
            [] | [HANDSHAKE] | [HANDSHAKE, 3] | [HANDSHAKE, 3, 0..=4] | [HANDSHAKE, 3, 0..=4, _] => match at {
                0 => return Parsed::More { at_least: bytes.len() + 1 },
                _ => return more(at + fragmented(message(header, have) - have)),
            },
            _ if at == 0 => return Parsed::NotTls,
            _ => return Parsed::Invalid,
        };
        if !(1..=RECORD_MAX).contains(&length) {
            return Parsed::Invalid;
        }
        let payload = payload.get(..length).unwrap_or(payload);
        for (place, byte) in header.iter_mut().skip(have).zip(payload) {
            *place = *byte;
        }
        let there = have + payload.len();
        let whole = message(header, there);
        if there > 0 && header[0] != CLIENT_HELLO || whole > MESSAGE_MAX {
            return Parsed::Invalid;
        }
        if there >= whole {
            return join(bytes, whole).and_then(|message| read(&message)).map_or(Parsed::Invalid, Parsed::Hello);
        }
        if payload.len() < length {
            // The rest of this record, then as few more as can hold what is left of the message.
            return match whole.checked_sub(have + length) {
                None | Some(0) => more(at + RECORD_HEADER + whole - have),
                Some(left) => more(at + RECORD_HEADER + length + fragmented(left)),
            };
        }
        (at, have) = (at + RECORD_HEADER + length, there);
    }
}

fn more(at_least: usize) -> Parsed {
    if at_least > BYTES_MAX { Parsed::Invalid } else { Parsed::More { at_least } }
}

/// How long the message is, by its header, of which so many bytes are there.
fn message(header: [u8; MESSAGE_HEADER], there: usize) -> usize {
    let [_, length @ ..] = header;
    MESSAGE_HEADER + if there < MESSAGE_HEADER { 0 } else { integer(&length) }
}

/// What so much of a message takes on the wire, at least.
fn fragmented(left: usize) -> usize {
    left + left.div_ceil(RECORD_MAX) * RECORD_HEADER
}

/// The body of the message, out of records that are known to hold it.
fn join(bytes: &[u8], whole: usize) -> Option<Cow<'_, [u8]>> {
    let payload = |rest: &mut &[u8]| {
        let header = take(rest, RECORD_HEADER)?;
        Some(integer(header.get(3..)?))
    };
    let mut rest = bytes;
    let length = payload(&mut rest)?;
    if let Some(message) = rest.get(..whole).filter(|_| length >= whole) {
        return message.get(MESSAGE_HEADER..).map(Cow::Borrowed);
    }
    let mut joined = Vec::with_capacity(whole);
    rest = bytes;
    while joined.len() < whole {
        let length = payload(&mut rest)?.min(whole - joined.len());
        joined.extend_from_slice(take(&mut rest, length)?);
    }
    joined.drain(..MESSAGE_HEADER);
    Some(Cow::Owned(joined))
}

fn read(mut body: &[u8]) -> Option<ClientHello> {
    let rest = &mut body;
    let [3, ..] = take(rest, 2)? else { return None };
    let _random = take(rest, 32)?;
    let session = short(rest)?;
    let ciphers = long(rest)?;
    let compressions = short(rest)?;
    if session.len() > 32 || ciphers.is_empty() || ciphers.len() % 2 != 0 || compressions.is_empty() {
        return None;
    }
    let mut extensions = if rest.is_empty() { &[] } else { long(rest)? };
    if !rest.is_empty() {
        return None;
    }
    let (mut names, mut alpn) = (None, None);
    while !extensions.is_empty() {
        let kind = integer(take(&mut extensions, 2)?);
        let data = long(&mut extensions)?;
        let known = match u16::try_from(kind) {
            Ok(SERVER_NAME) => &mut names,
            Ok(ALPN) => &mut alpn,
            _ => continue,
        };
        // The second of its kind: whoever reads on might take that one.
        if known.replace(data).is_some() {
            return None;
        }
    }
    let server_name = names.map_or(Some(None), server_name)?;
    let alpn = alpn.map_or(Some(&[][..]), protocols)?.into();
    Some(ClientHello { server_name, alpn })
}

/// The one name in the list of names.
fn server_name(mut data: &[u8]) -> Option<Option<Box<str>>> {
    let mut list = long(&mut data)?;
    let [HOST_NAME] = take(&mut list, 1)? else { return None };
    let name = str::from_utf8(long(&mut list)?).ok()?;
    if !data.is_empty() || !list.is_empty() {
        return None;
    }
    if name.parse::<IpAddr>().is_ok() {
        return Some(None);
    }
    // A name that says it is complete is the same name.
    let name = name.strip_suffix('.').unwrap_or(name);
    let sound = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let is_name = (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(sound);
    is_name.then(|| Some(name.to_ascii_lowercase().into()))
}

/// The list of protocols, each of which has a name.
fn protocols(mut data: &[u8]) -> Option<&[u8]> {
    let list = long(&mut data)?;
    let mut rest = list;
    while !rest.is_empty() {
        short(&mut rest).filter(|name| !name.is_empty())?;
    }
    (data.is_empty() && !list.is_empty()).then_some(list)
}

/// Bytes with a length of one byte ahead of them.
fn short<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = integer(take(rest, 1)?);
    take(rest, length)
}

/// Bytes with a length of two bytes ahead of them.
fn long<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = integer(take(rest, 2)?);
    take(rest, length)
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(count)?;
    *rest = left;
    Some(taken)
}

/// Big-endian; of few bytes.
fn integer(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte))
}

#[cfg(test)]
mod tests;

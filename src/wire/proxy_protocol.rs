//! The PROXY protocol, versions 1 and 2: what a load balancer says ahead of a connection about whom it is for
//! (HAProxy's `doc/proxy-protocol.txt`).
//!
//! Of what version 2 may say behind the addresses (TLV) only the checksum is looked at. A header with a wrong one is
//! malformed, and so is one whose last field does not end where the header does.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// The longest header of version 1, its CRLF included.
pub const V1_BYTES_MAX: usize = 107;
/// The longest header of version 2 that is taken: well beyond what senders have to say.
pub const BYTES_MAX: usize = 4096;

const V1: &[u8; 6] = b"PROXY ";
const V2: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and transport, length of the rest.
const V2_FIXED: usize = 16;
/// The field with the checksum.
const CRC32C: u8 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
}

/// What the bytes are so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    /// All of them belong to a header that is not whole yet.
    More,
    /// So many of them are a header.
    Header {
        client: Client,
        length: usize,
    },
    Invalid,
}

/// Whom a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// Nobody else than its peer (a health check, say), or nothing is known of them.
    Peer,
    Ip(SocketAddr),
    /// Who came to the sender by a Unix socket.
    Unix,
}

/// Reads all bytes that have arrived so far, which may be more than the header.
pub fn parse(bytes: &[u8]) -> Parsed {
    if bytes.starts_with(V1) {
        return v1(bytes);
    }
    if bytes.starts_with(V2) {
        return v2(bytes);
    }
    if V1.starts_with(bytes) || V2.starts_with(bytes) { Parsed::More } else { Parsed::Invalid }
}

fn v1(bytes: &[u8]) -> Parsed {
    let line = bytes.get(..V1_BYTES_MAX).unwrap_or(bytes);
    match line.windows(2).position(|pair| pair == b"\r\n") {
        Some(end) => match line.get(V1.len()..end).and_then(v1_client) {
            Some(client) => Parsed::Header { client, length: end + 2 },
            None => Parsed::Invalid,
        },
        None if line.len() < V1_BYTES_MAX => Parsed::More,
        None => Parsed::Invalid,
    }
}

fn v1_client(rest: &[u8]) -> Option<Client> {
    if rest.strip_prefix(b"UNKNOWN").is_some_and(|more| matches!(more, [] | [b' ', ..])) {
        return Some(Client::Peer);
    }
    let mut words = std::str::from_utf8(rest).ok()?.split(' ');
    let family = words.next()?;
    let (source, target, port, target_port) = (words.next()?, words.next()?, words.next()?, words.next()?);
    if words.next().is_some() {
        return None;
    }
    let ip = match family {
        "TCP4" => same_family::<Ipv4Addr>(source, target)?,
        "TCP6" => same_family::<Ipv6Addr>(source, target)?,
        _ => return None,
    };
    decimal(target_port)?;
    Some(Client::Ip(SocketAddr::new(ip, decimal(port)?)))
}

/// The source, where both are addresses of this family.
fn same_family<T: FromStr + Into<IpAddr>>(source: &str, target: &str) -> Option<IpAddr> {
    target.parse::<T>().ok()?;
    source.parse::<T>().ok().map(Into::into)
}

/// Without a sign, and without zeros in front.
fn decimal(port: &str) -> Option<u16> {
    let plain = port.bytes().all(|byte| byte.is_ascii_digit()) && (port == "0" || !port.starts_with('0'));
    port.parse().ok().filter(|_| plain)
}

fn v2(bytes: &[u8]) -> Parsed {
    let Some(&[command, family, high, low]) = bytes.get(V2.len()..V2_FIXED) else {
        // The command is judged as soon as it is there.
        return if matches!(bytes.get(V2.len()), None | Some(0x20 | 0x21)) { Parsed::More } else { Parsed::Invalid };
    };
    let length = V2_FIXED + usize::from(u16::from_be_bytes([high, low]));
    // Families and transports are numbers with gaps behind them; only these are allowed to be sent.
    if !matches!(command, 0x20 | 0x21) || family >> 4 > 3 || family & 0xf > 2 || length > BYTES_MAX {
        return Parsed::Invalid;
    }
    let Some(header) = bytes.get(..length) else { return Parsed::More };
    let rest = header.get(V2_FIXED..).unwrap_or_default();
    let client = match (command, family) {
        // What the sender says for itself is of no meaning, whatever else is there.
        (0x20, _) => Some((Client::Peer, 0)),
        (_, 0x11) => v2_ipv4(rest).map(|client| (client, 12)),
        (_, 0x21) => v2_ipv6(rest).map(|client| (client, 36)),
        (_, 0x31) => (rest.len() >= 216).then_some((Client::Unix, 216)),
        // Datagrams, and what is not known: how long their addresses are does not matter.
        _ => Some((Client::Peer, 0)),
    };
    match client {
        Some((client, addresses)) if addresses == 0 || fields_are_sound(header, V2_FIXED + addresses) => {
            Parsed::Header { client, length }
        }
        _ => Parsed::Invalid,
    }
}

fn v2_ipv4(rest: &[u8]) -> Option<Client> {
    let (ip, port) = (rest.first_chunk::<4>()?, rest.get(..12)?.get(8..)?.first_chunk()?);
    Some(Client::Ip(SocketAddr::new(Ipv4Addr::from(*ip).into(), u16::from_be_bytes(*port))))
}

fn v2_ipv6(rest: &[u8]) -> Option<Client> {
    let (ip, port) = (rest.first_chunk::<16>()?, rest.get(..36)?.get(32..)?.first_chunk()?);
    Some(Client::Ip(SocketAddr::new(Ipv6Addr::from(*ip).into(), u16::from_be_bytes(*port))))
}

/// Whether the fields from `at` on fill the header, and its checksum, if any, is right.
fn fields_are_sound(header: &[u8], mut at: usize) -> bool {
    while at < header.len() {
        let Some(&[kind, high, low]) = header.get(at..).and_then(<[u8]>::first_chunk) else { return false };
        let (value, length) = (at + 3, usize::from(u16::from_be_bytes([high, low])));
        let Some(value_bytes) = header.get(value..value + length) else { return false };
        if kind == CRC32C && value_bytes != crc32c(header, value).to_be_bytes() {
            return false;
        }
        at = value + length;
    }
    true
}

/// CRC-32C (RFC 4960, appendix B), with the four bytes at `blank` taken for zeros. Bit by bit: it is once a connection,
/// and rare.
fn crc32c(bytes: &[u8], blank: usize) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let blank = blank..blank + 4;
    let bytes = bytes.iter().enumerate().map(|(at, byte)| if blank.contains(&at) { 0 } else { *byte });
    !bytes.fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (POLYNOMIAL & (crc & 1).wrapping_neg()))
    })
}

/// The header for a client of this address, who has connected to `target`. Without an address, it says that there is
/// none to tell.
pub fn header(version: Version, client: Option<SocketAddr>, target: Option<SocketAddr>) -> Vec<u8> {
    // In the family of both: an address of IPv4 can be written as one of IPv6.
    let both = client.zip(target).map(|(client, target)| {
        let (source, to) = (client.ip().to_canonical(), target.ip().to_canonical());
        let ips = match (source, to) {
            (IpAddr::V4(_), IpAddr::V4(_)) => (source, to),
            _ => (mapped(source), mapped(to)),
        };
        (ips, client.port(), target.port())
    });
    match version {
        Version::V1 => v1_header(both),
        Version::V2 => v2_header(both),
    }
}

type Ends = ((IpAddr, IpAddr), u16, u16);

fn mapped(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().into(),
        IpAddr::V6(_) => ip,
    }
}

fn v1_header(ends: Option<Ends>) -> Vec<u8> {
    let Some(((source, target), port, target_port)) = ends else { return b"PROXY UNKNOWN\r\n".to_vec() };
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let mut line = String::with_capacity(V1_BYTES_MAX);
    // Writing to a string does not fail.
    let _ = write!(line, "PROXY {family} {source} {target} {port} {target_port}\r\n");
    line.into_bytes()
}

fn v2_header(ends: Option<Ends>) -> Vec<u8> {
    let mut header = Vec::with_capacity(V2_FIXED + 36);
    header.extend_from_slice(V2);
    match ends {
        None => header.extend_from_slice(&[0x21, 0, 0, 0]),
        Some(((IpAddr::V4(source), IpAddr::V4(target)), ..)) => {
            header.extend_from_slice(&[0x21, 0x11, 0, 12]);
            header.extend_from_slice(&source.octets());
            header.extend_from_slice(&target.octets());
        }
        Some(((source, target), ..)) => {
            header.extend_from_slice(&[0x21, 0x21, 0, 36]);
            for ip in [source, target] {
                if let IpAddr::V6(v6) = mapped(ip) {
                    header.extend_from_slice(&v6.octets());
                }
            }
        }
    }
    if let Some((_, port, target_port)) = ends {
        header.extend_from_slice(&port.to_be_bytes());
        header.extend_from_slice(&target_port.to_be_bytes());
    }
    header
}

#[cfg(test)]
mod tests;

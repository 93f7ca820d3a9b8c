//! Facts of the protocols: what a head may say, what stops at this hop, how a path is read, what a trace is called.
//!
//! Sans-io and free of policy: it knows the types of `http` and bytes, nothing of sockets, tasks or configuration.
//! Everything here sees what strangers sent; nothing here may panic, and nothing allocates where it can borrow.
//!
//! Order of use for one request: [`head::check`] (while the framing fields are still there), then
//! [`hop::strip_request`], routing on [`path::normalise`], [`forwarded`] and [`trace`], and [`head::outgoing`] last.

pub mod accept;
pub mod address;
pub mod cidr;
pub mod client_hello;
pub mod detect;
pub mod first_request;
pub mod forwarded;
pub mod grpc;
pub mod grpc_health;
pub mod head;
pub mod hop;
pub mod path;
pub mod peer;
pub mod proxy_protocol;
pub mod proxy_status;
pub mod spiffe;
pub mod trace;
pub mod xfcc;

use http::HeaderMap;
use http::header::AsHeaderName;

/// The members of a comma-separated field, over all of its lines, without empty ones.
fn members(headers: &HeaderMap, name: impl AsHeaderName) -> impl Iterator<Item = &[u8]> {
    headers
        .get_all(name)
        .iter()
        .flat_map(|line| line.as_bytes().split(|&byte| byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|member| !member.is_empty())
}

/// The two lower-case hexadecimal digits of a byte.
fn hex(byte: u8) -> [u8; 2] {
    let digit = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
    [digit(byte >> 4), digit(byte & 15)]
}

/// Writes bytes as lower-case hexadecimal digits, as far as there is room.
fn write_hex(out: &mut [u8], bytes: &[u8]) {
    for (pair, &byte) in out.chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&hex(byte));
    }
}

/// The value of a hexadecimal digit of either case.
fn unhex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

//! Netlink: messages of attributes to the kernel, and what it says to them. Numbers are from its headers, `netlink.h`.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

pub const REQUEST: u16 = 0x1;
pub const ACK: u16 = 0x4;
pub const DUMP: u16 = 0x300;
pub const REPLACE: u16 = 0x100;
pub const EXCLUSIVE: u16 = 0x200;
pub const CREATE: u16 = 0x400;
pub const APPEND: u16 = 0x800;

const ERROR: u16 = 2;
const DONE: u16 = 3;
const HEADER: usize = 16;
/// Flag of a message: what the dump is of has changed meanwhile.
const INTERRUPTED: u16 = 0x10;
/// Longest that the kernel is given; it answers at once.
const PATIENCE: Duration = Duration::from_secs(5);
/// More than the kernel puts into one datagram of a dump.
const BUFFER: usize = 128 << 10;

/// The kernel's no, and the number of the message that it is said to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    pub message: u32,
    pub errno: Errno,
}

pub struct Socket {
    fd: OwnedFd,
    buffer: Vec<u8>,
}

impl Socket {
    /// Without a protocol it is that of routes.
    pub fn open(protocol: Option<Protocol>) -> Result<Self, Errno> {
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        set_socket_timeout(&fd, Timeout::Recv, Some(PATIENCE))?;
        Ok(Self { fd, buffer: vec![0; BUFFER] })
    }

    /// Until message number `last` is acknowledged, or a dump is over. What else arrives is for `each`: kind and content.
    pub fn ask(&mut self, messages: &[u8], last: u32, mut each: impl FnMut(u16, &[u8])) -> Result<(), Refused> {
        let lost = |errno| Refused { message: 0, errno };
        send(&self.fd, messages, SendFlags::empty()).map_err(lost)?;
        loop {
            let (_, length) = match recv(&self.fd, &mut self.buffer[..], RecvFlags::empty()) {
                // Of what came before, something was too much for the buffer of the socket. The last word still comes.
                Err(Errno::NOBUFS) => continue,
                received => received.map_err(lost)?,
            };
            for Message { kind, flags, number, content } in datagram(&self.buffer[..length.min(BUFFER)]) {
                // Both begin with an error; `DONE` has one if the dump broke off.
                let errno = content.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                match kind {
                    ERROR | DONE if errno != 0 => {
                        return Err(Refused { message: number, errno: Errno::from_raw_os_error(-errno) });
                    }
                    _ if kind != ERROR && flags & INTERRUPTED != 0 => return Err(lost(Errno::INTR)),
                    DONE => return Ok(()),
                    ERROR if number == last => return Ok(()),
                    ERROR => {}
                    _ => each(kind, content),
                }
            }
        }
    }
}

struct Message<'a> {
    kind: u16,
    flags: u16,
    number: u32,
    content: &'a [u8],
}

fn datagram(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let header: &[u8; HEADER] = bytes.first_chunk()?;
        let [l0, l1, l2, l3, k0, k1, f0, f1, n0, n1, n2, n3, ..] = *header;
        let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        let content = bytes.get(HEADER..length)?;
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
        let [kind, flags] = [[k0, k1], [f0, f1]].map(u16::from_ne_bytes);
        Some(Message { kind, flags, number: u32::from_ne_bytes([n0, n1, n2, n3]), content })
    })
}

fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

/// Puts a message behind the others.
pub fn message(out: &mut Vec<u8>, kind: u16, flags: u16, number: u32, content: &[u8]) {
    let length = u32::try_from(HEADER + content.len()).unwrap_or(u32::MAX);
    out.extend(length.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    out.extend(number.to_ne_bytes());
    // To whom: the kernel.
    out.extend([0; 4]);
    out.extend(content);
    out.resize(aligned(out.len()), 0);
}

/// Puts an attribute behind the others. The flag for nested ones is not set: the kernel does not ask for it, and does
/// not set it in what it says of rules.
pub fn attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    out.extend(length.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(aligned(out.len()), 0);
}

/// An attribute that is made of attributes.
pub fn nested(out: &mut Vec<u8>, kind: u16, inside: impl FnOnce(&mut Vec<u8>)) {
    let mut content = Vec::new();
    inside(&mut content);
    attribute(out, kind, &content);
}

/// Kind and value of each attribute; ends where they make no sense.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    /// Of the kind; the upper two bits are flags.
    const KIND: u16 = 0x3fff;
    std::iter::from_fn(move || {
        let [l0, l1, k0, k1] = *bytes.first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = bytes.get(4..length)?;
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
        Some((u16::from_ne_bytes([k0, k1]) & KIND, value))
    })
}

pub fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(found, value)| (found == kind).then_some(value))
}

/// A text, up to the zero that ends it.
pub fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

/// A number as nf_tables has it, in network order.
pub fn number(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn attributes_come_back(all in prop::collection::vec((0u16..0x4000, prop::collection::vec(any::<u8>(), 0..40)), 0..9)) {
            let mut bytes = Vec::new();
            all.iter().for_each(|(kind, value)| attribute(&mut bytes, *kind, value));
            let back: Vec<_> = attributes(&bytes).map(|(kind, value)| (kind, value.to_vec())).collect();
            prop_assert_eq!(back, all);
        }

        #[test]
        fn messages_come_back(all in prop::collection::vec((any::<u16>(), any::<u32>(), prop::collection::vec(any::<u8>(), 0..40)), 0..9)) {
            let mut bytes = Vec::new();
            all.iter().for_each(|(kind, number, content)| message(&mut bytes, *kind, REQUEST, *number, content));
            let back: Vec<_> = datagram(&bytes).map(|m| (m.kind, m.number, m.content.to_vec())).collect();
            prop_assert_eq!(back, all);
        }

        #[test]
        fn any_bytes_are_read_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let attributes = attributes(&bytes).take(1000).count();
            let messages = datagram(&bytes).take(1000).count();
            prop_assert!(attributes <= bytes.len() / 4 && messages <= bytes.len() / HEADER);
        }
    }
}

//! Blocks of IP addresses (RFC 4632, RFC 4291): `10.0.0.0/8`, `fd00::/8`, or one address.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address of IPv4 that is written within IPv6 (`::ffff:10.0.0.1`) is the one of IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr {
    /// Its bits beyond `length` are 0.
    first: IpAddr,
    length: u8,
}

/// Bits before the address of IPv4 in one of IPv6.
const MAPPED: u8 = 96;

impl Cidr {
    /// The error is what is wrong with it, and what would be right.
    pub fn parse(text: &str) -> Result<Self, (String, Option<String>)> {
        let form = || (format!("`{text}` is no block of addresses"), Some("write it like `10.0.0.0/8`".to_owned()));
        let (address, length) = text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
        let address: IpAddr = address.parse().map_err(|_| form())?;
        let most = bits(address);
        let length = match length {
            None => most,
            // Digits alone: `+8` would parse, too.
            Some(length) if length.bytes().all(|byte| byte.is_ascii_digit()) => length.parse().map_err(|_| form())?,
            Some(_) => return Err(form()),
        };
        if length > most {
            return Err((format!("`{text}` has a length above {most}"), Some(format!("from 0 to {most}"))));
        }
        let block = Self { first: masked(address, length), length };
        if block.first != address {
            let message = format!("`{text}` has bits of one address beyond its {length}");
            return Err((message, Some(format!("write `{block}`"))));
        }
        Ok(block.canonical())
    }

    /// The block of this length that the address is in.
    pub fn around(address: IpAddr, length: u8) -> Self {
        let length = length.min(bits(address));
        Self { first: masked(address, length), length }.canonical()
    }

    fn canonical(self) -> Self {
        match (self.first, self.length.checked_sub(MAPPED)) {
            (IpAddr::V6(v6), Some(length)) => match v6.to_ipv4_mapped() {
                Some(v4) => Self { first: v4.into(), length },
                None => self,
            },
            _ => self,
        }
    }

    /// Its lowest address.
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// How many bits all of its addresses have in common.
    pub fn length(&self) -> u8 {
        self.length
    }

    /// Of an address in its canonical form.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.first.is_ipv4() == address.is_ipv4() && masked(address, self.length) == self.first
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.length)
    }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn masked(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => (v4 & Ipv4Addr::from(u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0))).into(),
        IpAddr::V6(v6) => (v6 & Ipv6Addr::from(u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0))).into(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn blocks() {
        for (text, shown, inside, outside) in [
            ("10.0.0.0/8", "10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("10.1.2.3", "10.1.2.3/32", "10.1.2.3", "10.1.2.2"),
            ("0.0.0.0/0", "0.0.0.0/0", "255.255.255.255", "::1"),
            ("192.168.4.0/22", "192.168.4.0/22", "192.168.7.255", "192.168.8.0"),
            ("fd00::/8", "fd00::/8", "fdff::1", "fe00::1"),
            ("::/0", "::/0", "fe80::1", "10.0.0.1"),
            ("::1", "::1/128", "::1", "::2"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8", "10.9.9.9", "11.0.0.1"),
            ("::ffff:10.0.0.1", "10.0.0.1/32", "10.0.0.1", "10.0.0.2"),
        ] {
            let block = Cidr::parse(text).expect(text);
            assert_eq!(block.to_string(), shown);
            assert!(block.contains(inside.parse().unwrap()) && !block.contains(outside.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn what_is_no_block() {
        for text in ["", "/", "10.0.0.0/", "10.0.0/8", "10.0.0.0/33", "::/129", "a/8", "10.0.0.0/+8", "10.0.0.0/8/8"] {
            assert!(Cidr::parse(text).is_err(), "{text}");
        }
        let (message, remedy) = Cidr::parse("10.0.0.1/8").expect_err("bits beyond");
        assert!(message.contains("beyond its 8"), "{message}");
        assert_eq!(remedy.as_deref(), Some("write `10.0.0.0/8`"));
    }

    proptest! {
        /// Bit by bit.
        #[test]
        fn a_block_has_the_addresses_that_begin_like_it(first in any::<IpAddr>(), length in 0u8..=128, other in any::<IpAddr>(), same in 0u8..=128) {
            let length = length % (bits(first) + 1);
            let block = Cidr { first: masked(first, length), length };
            // An address that shares so many bits, and any other.
            let near = match (first, other) {
                (IpAddr::V4(a), IpAddr::V4(b)) => {
                    let mask = u32::MAX.checked_shl(32 - u32::from(same % 33)).unwrap_or(0);
                    IpAddr::from(Ipv4Addr::from(a.to_bits() & mask | b.to_bits() & !mask))
                }
                _ => other,
            };
            let digits = |ip: IpAddr| match ip {
                IpAddr::V4(v4) => format!("{:032b}", v4.to_bits()),
                IpAddr::V6(v6) => format!("{:0128b}", v6.to_bits()),
            };
            for address in [near, other, first] {
                let begins = digits(address).starts_with(&digits(first)[..usize::from(length)]);
                prop_assert_eq!(block.contains(address), first.is_ipv4() == address.is_ipv4() && begins);
            }
            let canonical = block.canonical();
            prop_assert_eq!(Cidr::parse(&block.to_string()), Ok(canonical));
        }
    }
}

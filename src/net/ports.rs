//! Source ports. The kernel has about 28,000 for the connections to one address; beyond them none can be made, and
//! before that finding a free one becomes slow. So the connections to each address are counted, and from 70 % on whoever
//! runs the proxy is told; towards loopback, where we have many addresses of our own, the next ones come from another.
//!
//! Counted once a connection, in a table of fixed size without a lock. Two addresses may share a place of it: that
//! counts too many, never too few. Connections that linger in the kernel after their end (TIME_WAIT) are not seen.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

const PLACES: usize = 4096;
/// Of the ports, in percent.
const MANY: u32 = 70;
/// Between two warnings.
const PAUSE: Duration = Duration::from_secs(60);
/// Last bytes of the addresses that connections to loopback may come from, besides 127.0.0.1.
const OTHERS: std::ops::RangeInclusive<u8> = 2..=254;

static USED: [AtomicU32; PLACES] = [const { AtomicU32::new(0) }; PLACES];

/// A source port in use, until it is dropped.
#[derive(Debug)]
pub struct Held(usize);

impl Held {
    /// From our usual address, or from that of loopback with this last byte.
    fn take(from: u8, to: SocketAddr) -> (Self, u32) {
        let mut hasher = DefaultHasher::new();
        (from, to).hash(&mut hasher);
        let place = hasher.finish() as usize % PLACES;
        let count = USED.get(place).map_or(0, |used| used.fetch_add(1, Relaxed)) + 1;
        (Self(place), count)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(used) = USED.get(self.0) {
            used.fetch_sub(1, Relaxed);
        }
    }
}

/// A port for a connection to `to`, and where it should come from if not from the usual address.
pub fn take(to: SocketAddr) -> (Option<Ipv4Addr>, Held) {
    let (held, count) = Held::take(1, to);
    if count <= many() {
        return (None, held);
    }
    match others(to).next() {
        Some((from, held)) => (Some(from), held),
        None => {
            warn(to, count);
            (None, held)
        }
    }
}

/// Other addresses that a connection may come from, with ports to spare.
pub fn others(to: SocketAddr) -> impl Iterator<Item = (Ipv4Addr, Held)> {
    let is_loopback = matches!(to.ip(), IpAddr::V4(ip) if ip.is_loopback());
    OTHERS.filter(move |_| is_loopback).filter_map(move |last| {
        let (held, count) = Held::take(last, to);
        (count <= many()).then_some((Ipv4Addr::new(127, 0, 0, last), held))
    })
}

/// The highest share of the ports that is in use towards one address.
pub fn used_ratio() -> f64 {
    let most = USED.iter().map(|used| used.load(Relaxed)).max().unwrap_or_default();
    f64::from(most) / f64::from(range())
}

/// Tells, now and then, that ports run out.
pub fn warn(to: SocketAddr, used: u32) {
    static BEGIN: OnceLock<Instant> = OnceLock::new();
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let (now, next) = (BEGIN.get_or_init(Instant::now).elapsed().as_secs(), NEXT.load(Relaxed));
    if now >= next && NEXT.compare_exchange(next, now + PAUSE.as_secs(), Relaxed, Relaxed).is_ok() {
        tracing::warn!(
            address = %to,
            used,
            of = range(),
            "source ports run out: reuse connections (`connections`, `idleTimeout`), add endpoints, or widen \
             net.ipv4.ip_local_port_range"
        );
    }
}

fn many() -> u32 {
    (u64::from(range()) * u64::from(MANY) / 100) as u32
}

/// How many source ports there are.
fn range() -> u32 {
    static RANGE: OnceLock<u32> = OnceLock::new();
    *RANGE.get_or_init(|| {
        let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
        parse(&text).unwrap_or(60_999 - 32_768 + 1)
    })
}

fn parse(text: &str) -> Option<u32> {
    let mut numbers = text.split_ascii_whitespace().map(str::parse::<u16>);
    let (first, last) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    u32::from(last).checked_sub(u32::from(first)).map(|more| more + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_is_read() {
        assert_eq!(parse("32768\t60999\n"), Some(28_232));
        assert_eq!(parse("5 5"), Some(1));
        assert_eq!([parse(""), parse("1"), parse("9 8"), parse("a b")], [None; 4]);
    }

    #[test]
    fn loopback_has_more_addresses() {
        let many = many() as usize;
        let to: SocketAddr = "127.0.0.1:9".parse().unwrap();
        let held: Vec<_> = (0..2 * many + 1).map(|_| take(to)).collect();
        let from = |last: u8| Some(Ipv4Addr::new(127, 0, 0, last));
        let sources: Vec<_> = held.iter().map(|(from, _)| *from).collect();
        assert!(sources[..many].iter().all(Option::is_none));
        // Once the usual address has many, each next one has as many; what was tried in vain holds nothing.
        assert!(sources[many..2 * many].iter().all(|source| *source == from(2)));
        assert_eq!(sources[2 * many], from(3));
        assert!((0.69..0.71).contains(&used_ratio()), "{}", used_ratio());
        drop(held);
        assert!(used_ratio() < 0.01);

        // Another network has the addresses that it has.
        let to: SocketAddr = "192.0.2.1:9".parse().unwrap();
        let held: Vec<_> = (0..many + 2).map(|_| take(to)).collect();
        assert!(held.iter().all(|(from, _)| from.is_none()));
        assert!(used_ratio() > 0.7);
    }
}

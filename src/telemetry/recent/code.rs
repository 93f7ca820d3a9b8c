//! How an exchange lies in memory: flags, then its fields in one order, without names. Numbers take seven bits a byte,
//! the low ones first (LEB128); text has its length before it; what may be absent is 0, or one more than it is.
//! Reading believes nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::Version;
use memchr::{memchr, memrchr};

use super::{Attempt, Bucket, Connection, Exchange, Micros, NotAgain, Outcome, Phases, Producer, Would};
use crate::error::Reason;
use crate::policy::guard::Guard;
use crate::wire::address::{Address, PATH_BYTES_MAX};

/// Bytes that are kept of each.
pub const ID_MAX: usize = 128;
pub const METHOD_MAX: usize = 32;
pub const HOST_MAX: usize = 64;
pub const PATH_MAX: usize = 256;
/// Of a listener, a route, a service, a subset, an attribute; of an identity, a limit, a circuit breaker, a fault.
pub const NAME_MAX: usize = 128;
/// Of an attribute.
pub const VALUE_MAX: usize = 64;
/// How many are kept of each.
pub const ATTEMPTS_MAX: usize = 4;
pub const ATTRIBUTES_MAX: usize = 8;
pub const SHADOW_MAX: usize = 8;
/// Bytes of an entry that would have denied.
pub const ENTRY_MAX: usize = 64;
/// Bytes of a whole record; the bounds above leave room.
pub const RECORD_MAX: usize = 4 * 1024 + 512;

const FAILED: u8 = 1;
const SLOW: u8 = 2;
const TRUNCATED: u8 = 4;

const VERSIONS: [Version; 5] = [Version::HTTP_09, Version::HTTP_10, Version::HTTP_11, Version::HTTP_2, Version::HTTP_3];

/// What is known of a record besides the exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marks(u8);

/// The beginning of a record: enough to know whether it is the one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head<'a> {
    pub marks: Marks,
    pub id: &'a [u8],
    pub began: SystemTime,
    pub total: Micros,
}

impl Marks {
    /// Of a record of which the first byte is known.
    pub fn of(first: u8) -> Self {
        Self(first)
    }

    pub fn failed(self) -> bool {
        self.0 & FAILED != 0
    }

    pub fn slow(self) -> bool {
        self.0 & SLOW != 0
    }

    pub fn truncated(self) -> bool {
        self.0 & TRUNCATED != 0
    }
}

impl Head<'_> {
    pub fn ended(&self) -> Option<SystemTime> {
        self.began.checked_add(Duration::from_micros(self.total.0))
    }
}

/// Memory for one record being written.
pub type Buffer = [u8; RECORD_MAX];

/// Writes over `out`; tells what of it is the record.
pub fn encode<'o>(out: &'o mut Buffer, exchange: &Exchange<'_>, slow: bool) -> &'o [u8] {
    let mut writer = Writer { out, length: 0, truncated: false };
    writer.byte(0);
    writer.bytes(exchange.id, ID_MAX);
    let age = exchange.time.duration_since(UNIX_EPOCH).unwrap_or_default();
    writer.number(age.as_secs().saturating_mul(1000).saturating_add(age.subsec_millis().into()));
    writer.number(exchange.phases.total.0);
    writer.number(exchange.generation);
    for name in [exchange.listener, exchange.route, exchange.service, exchange.subset] {
        writer.text(name, NAME_MAX);
    }
    writer.option(exchange.rule.map(u64::from));
    writer.option(exchange.bucket.map(|bucket| u64::from(bucket.number) << 1 | u64::from(bucket.sticky)));
    writer.text(exchange.method, METHOD_MAX);
    writer.bytes(without_user(exchange.host), HOST_MAX);
    writer.bytes(without_query(exchange.path), PATH_MAX);
    writer.version(exchange.protocol);
    writer.number(exchange.status.into());
    writer.option(exchange.grpc_status.map(u64::from));
    writer.byte(exchange.reason as u8);
    for name in [exchange.denied, exchange.limit, exchange.circuit, exchange.fault] {
        writer.text(name, NAME_MAX);
    }
    writer.byte(exchange.producer as u8);
    writer.address(&exchange.peer);
    writer.text(exchange.identity, NAME_MAX);
    writer.number(exchange.request_bytes);
    writer.number(exchange.response_bytes);
    writer.option(exchange.not_again.map(|why| why as u64));
    let Phases { accept, tls, queue, connect, first_byte, body, total: _ } = exchange.phases;
    for phase in [accept, tls, queue, connect, first_byte, body] {
        writer.micros(phase);
    }
    for attempt in writer.some(exchange.attempts, ATTEMPTS_MAX) {
        writer.attempt(attempt);
    }
    for (name, value) in writer.some(exchange.attributes, ATTRIBUTES_MAX) {
        writer.text(name, NAME_MAX);
        writer.bytes(value, VALUE_MAX);
    }
    for would in writer.some(exchange.shadow, SHADOW_MAX) {
        writer.byte(would.guard as u8);
        writer.number(would.limit);
        writer.number(would.actual);
        writer.text(would.entry, ENTRY_MAX);
    }
    let mark = |flag, is| if is { flag } else { 0 };
    let marks = mark(FAILED, exchange.failed) | mark(SLOW, slow) | mark(TRUNCATED, writer.truncated);
    let length = writer.length;
    if let Some(first) = out.first_mut() {
        *first = marks;
    }
    out.get(..length).unwrap_or_default()
}

pub fn head(record: &[u8]) -> Option<Head<'_>> {
    Reader(record).head()
}

/// Hands over what a record holds; `None` where it makes no sense.
pub fn decode<T>(record: &[u8], tell: impl FnOnce(&Exchange<'_>, Marks) -> T) -> Option<T> {
    let mut reader = Reader(record);
    let Head { marks, id, began, total } = reader.head()?;
    let generation = reader.number()?;
    let [listener, route, service, subset] = [reader.text()?, reader.text()?, reader.text()?, reader.text()?];
    let rule = reader.option()?.map(u32::try_from).transpose().ok()?;
    let bucket = match reader.option()? {
        Some(bits) => Some(Bucket { number: u32::try_from(bits >> 1).ok()?, sticky: bits & 1 == 1 }),
        None => None,
    };
    let mut exchange = Exchange {
        id,
        time: began,
        generation,
        listener,
        route,
        rule,
        service,
        subset,
        bucket,
        method: reader.text()?,
        host: reader.bytes()?,
        path: reader.bytes()?,
        protocol: reader.version()?,
        status: u16::try_from(reader.number()?).ok()?,
        grpc_status: reader.option()?.map(u8::try_from).transpose().ok()?,
        reason: reader.reason()?,
        denied: reader.text()?,
        limit: reader.text()?,
        circuit: reader.text()?,
        fault: reader.text()?,
        producer: *Producer::ALL.get(usize::from(reader.byte()?))?,
        peer: reader.address()?,
        identity: reader.text()?,
        request_bytes: reader.number()?,
        response_bytes: reader.number()?,
        failed: marks.failed(),
        not_again: match reader.option()? {
            Some(index) => Some(*NotAgain::ALL.get(usize::try_from(index).ok()?)?),
            None => None,
        },
        phases: reader.phases(total)?,
        attempts: &[],
        attributes: &[],
        shadow: &[],
    };
    let attempts = reader.some(ATTEMPTS_MAX, Reader::attempt)?;
    let attributes = reader.some(ATTRIBUTES_MAX, |reader| Some((reader.text()?, reader.bytes()?)))?;
    let shadow = reader.some(SHADOW_MAX, Reader::would)?;
    (exchange.attempts, exchange.attributes, exchange.shadow) = (&attempts, &attributes, &shadow);
    reader.0.is_empty().then(|| tell(&exchange, marks))
}

fn without_user(host: &[u8]) -> &[u8] {
    memrchr(b'@', host).and_then(|at| host.get(at + 1..)).unwrap_or(host)
}

fn without_query(path: &[u8]) -> &[u8] {
    memchr(b'?', path).and_then(|at| path.get(..at)).unwrap_or(path)
}

struct Writer<'o> {
    out: &'o mut Buffer,
    length: usize,
    truncated: bool,
}

impl Writer<'_> {
    fn byte(&mut self, byte: u8) {
        if let Some(place) = self.out.get_mut(self.length) {
            *place = byte;
            self.length += 1;
        }
    }

    fn raw(&mut self, bytes: &[u8]) {
        if let Some(place) = self.out.get_mut(self.length..self.length + bytes.len()) {
            place.copy_from_slice(bytes);
            self.length += bytes.len();
        }
    }

    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.byte(number as u8 | 0x80);
            number >>= 7;
        }
        self.byte(number as u8);
    }

    fn option(&mut self, number: Option<u64>) {
        self.number(number.map_or(0, |number| number.saturating_add(1)));
    }

    fn micros(&mut self, time: Option<Micros>) {
        self.option(time.map(|Micros(micros)| micros));
    }

    fn bytes(&mut self, bytes: &[u8], max: usize) {
        let kept = bytes.get(..max).unwrap_or(bytes);
        self.truncated |= kept.len() < bytes.len();
        self.number(kept.len() as u64);
        self.raw(kept);
    }

    /// Cut between characters.
    fn text(&mut self, text: &str, max: usize) {
        let kept = text.get(..text.floor_char_boundary(max)).unwrap_or(text);
        self.truncated |= kept.len() < text.len();
        self.bytes(kept.as_bytes(), max);
    }

    /// The first of them, after their number.
    fn some<'a, T>(&mut self, items: &'a [T], max: usize) -> &'a [T] {
        let kept = items.get(..max).unwrap_or(items);
        self.truncated |= kept.len() < items.len();
        self.number(kept.len() as u64);
        kept
    }

    fn version(&mut self, version: Version) {
        let place = VERSIONS.iter().position(|known| *known == version);
        self.byte(place.unwrap_or(2) as u8);
    }

    fn address(&mut self, address: &Address) {
        match address {
            Address::Ip(SocketAddr::V4(v4)) => {
                self.byte(4);
                self.raw(&v4.ip().octets());
            }
            Address::Ip(SocketAddr::V6(v6)) => {
                self.byte(6);
                self.raw(&v6.ip().octets());
                self.number(v6.scope_id().into());
            }
            Address::Unix(path) => {
                self.byte(1);
                return self.text(path, PATH_BYTES_MAX);
            }
        }
        self.raw(&address.port().to_le_bytes());
    }

    fn attempt(&mut self, attempt: &Attempt) {
        self.address(&attempt.endpoint);
        match attempt.outcome {
            Outcome::Answered => self.byte(0),
            Outcome::Unsent => self.byte(1),
            Outcome::Refused => self.byte(2),
            Outcome::Stale => self.byte(3),
            Outcome::NotHttp2 => self.byte(4),
            Outcome::Outrun => self.byte(6),
            Outcome::Failed(reason) => {
                self.byte(5);
                self.byte(reason as u8);
            }
        }
        self.version(attempt.protocol);
        self.option(attempt.connection.map(|connection| connection as u64));
        for time in [attempt.queue, attempt.connect, attempt.first_byte] {
            self.micros(time);
        }
    }
}

/// What is left of a record.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn head(&mut self) -> Option<Head<'a>> {
        let marks = Marks(self.byte()?);
        let id = self.bytes()?;
        let began = UNIX_EPOCH.checked_add(Duration::from_millis(self.number()?))?;
        Some(Head { marks, id, began, total: Micros(self.number()?) })
    }

    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return None;
            }
            number |= bits << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn option(&mut self) -> Option<Option<u64>> {
        Some(self.number()?.checked_sub(1))
    }

    fn micros(&mut self) -> Option<Option<Micros>> {
        Some(self.option()?.map(Micros))
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    fn some<T>(&mut self, max: usize, read: impl Fn(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let count = usize::try_from(self.number()?).ok().filter(|count| *count <= max)?;
        (0..count).map(|_| read(self)).collect()
    }

    fn version(&mut self) -> Option<Version> {
        VERSIONS.get(usize::from(self.byte()?)).copied()
    }

    fn reason(&mut self) -> Option<Reason> {
        let byte = self.byte()?;
        Reason::ALL.iter().copied().find(|reason| *reason as u8 == byte)
    }

    fn address(&mut self) -> Option<Address> {
        let (ip, scope): (IpAddr, u32) = match self.byte()? {
            1 => return Some(Address::Unix(self.text()?.into())),
            4 => (Ipv4Addr::from(self.array::<4>()?).into(), 0),
            6 => (Ipv6Addr::from(self.array::<16>()?).into(), u32::try_from(self.number()?).ok()?),
            _ => return None,
        };
        let port = u16::from_le_bytes(self.array()?);
        let address: SocketAddr = match ip {
            IpAddr::V6(v6) => SocketAddrV6::new(v6, port, 0, scope).into(),
            IpAddr::V4(_) => SocketAddr::new(ip, port),
        };
        Some(address.into())
    }

    fn phases(&mut self, total: Micros) -> Option<Phases> {
        Some(Phases {
            accept: self.micros()?,
            tls: self.micros()?,
            queue: self.micros()?,
            connect: self.micros()?,
            first_byte: self.micros()?,
            body: self.micros()?,
            total,
        })
    }

    fn attempt(&mut self) -> Option<Attempt> {
        Some(Attempt {
            endpoint: self.address()?,
            outcome: match self.byte()? {
                0 => Outcome::Answered,
                1 => Outcome::Unsent,
                2 => Outcome::Refused,
                3 => Outcome::Stale,
                4 => Outcome::NotHttp2,
                5 => Outcome::Failed(self.reason()?),
                6 => Outcome::Outrun,
                _ => return None,
            },
            protocol: self.version()?,
            connection: match self.option()? {
                Some(index) => Some(*Connection::ALL.get(usize::try_from(index).ok()?)?),
                None => None,
            },
            queue: self.micros()?,
            connect: self.micros()?,
            first_byte: self.micros()?,
        })
    }

    fn would(&mut self) -> Option<Would<'a>> {
        let guard = self.byte()?;
        Some(Would {
            guard: Guard::ALL.into_iter().find(|known| *known as u8 == guard)?,
            limit: self.number()?,
            actual: self.number()?,
            entry: self.text()?,
        })
    }
}

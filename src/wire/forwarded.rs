//! What the next hop is told about the client: `X-Forwarded-For`, `-Proto` and `-Host`, and the id of the request.
//! What came is kept: in front of a service we stand behind other proxies, and the far end decides whom to believe.

use std::io::Write;
use std::net::IpAddr;

use bytes::Bytes;
use http::header::{Entry, HOST};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue};
use rand::Rng;

use super::write_hex;
use crate::error::Reason;

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Proxies of ours that a request has come through. Kept by whoever passes headers on, so that a circle is seen.
pub const HOPS: HeaderName = HeaderName::from_static("x-outrigger-hops");
/// More are taken for a circle.
const HOPS_MAX: usize = 20;
/// The version that the client spoke, where proxies speak another between them: `1.1`.
pub const ORIGINAL_VERSION: HeaderName = HeaderName::from_static("x-outrigger-original-version");

/// Counts us. An error where that is one too many.
pub fn count_hop(headers: &mut HeaderMap) -> Result<(), Reason> {
    const COUNTS: [&str; HOPS_MAX] =
        ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16", "17", "18", "19", "20"];
    let came = headers.get(HOPS).and_then(|value| value.to_str().ok()?.parse::<usize>().ok()).unwrap_or(0);
    let next = COUNTS.get(came).ok_or(Reason::Loop)?;
    headers.insert(HOPS, HeaderValue::from_static(next));
    Ok(())
}

/// A longer id than this was not made to be one.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// Appends the peer (`unknown` where it has no address: others count the entries from the end), and adds scheme and host
/// where no hop before us did. For the host to be what the client asked for, this comes before any rewrite.
pub fn append(parts: &mut Parts, peer: Option<IpAddr>, tls: bool) {
    append_for(&mut parts.headers, peer);
    if let Entry::Vacant(entry) = parts.headers.entry(PROTO) {
        entry.insert(HeaderValue::from_static(if tls { "https" } else { "http" }));
    }
    if !parts.headers.contains_key(FORWARDED_HOST) {
        let host = match parts.uri.authority() {
            Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
            None => parts.headers.get(HOST).cloned(),
        };
        if let Some(host) = host.filter(|host| !host.is_empty()) {
            parts.headers.insert(FORWARDED_HOST, host);
        }
    }
}

/// One line, whatever the number that came: many applications read the first line only.
fn append_for(headers: &mut HeaderMap, peer: Option<IpAddr>) {
    const ADDRESS_BYTES_MAX: usize = 45;
    let write_to = |line: &mut dyn Write| match peer {
        Some(ip) => write!(line, "{}", ip.to_canonical()),
        None => line.write_all(b"unknown"),
    };
    if !headers.contains_key(FOR) {
        let mut line = [0; ADDRESS_BYTES_MAX];
        let mut rest = &mut line[..];
        // The longest address fits.
        let _ = write_to(&mut rest);
        let left = rest.len();
        if let Ok(value) = HeaderValue::from_bytes(line.get(..ADDRESS_BYTES_MAX - left).unwrap_or_default()) {
            headers.insert(FOR, value);
        }
        return;
    }
    let known: usize = headers.get_all(FOR).iter().map(|line| line.len() + 2).sum();
    let mut line = Vec::with_capacity(known + ADDRESS_BYTES_MAX);
    for before in headers.get_all(FOR).iter().filter(|line| !line.is_empty()) {
        line.extend_from_slice(before.as_bytes());
        line.extend_from_slice(b", ");
    }
    // Writing to a vector does not fail, nor can valid lines and an address make an invalid one.
    let _ = write_to(&mut line);
    if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(line)) {
        headers.insert(FOR, value);
    }
}

/// The id of the request: what came where it is one line of 1 to 128 visible ASCII characters, else a new UUID.
pub fn request_id(headers: &HeaderMap, rng: &mut impl Rng) -> HeaderValue {
    let mut lines = headers.get_all(REQUEST_ID).iter();
    if let (Some(id), None) = (lines.next(), lines.next())
        && (1..=REQUEST_ID_BYTES_MAX).contains(&id.len())
        && id.as_bytes().iter().all(u8::is_ascii_graphic)
    {
        return id.clone();
    }
    HeaderValue::from_bytes(&uuid(rng)).unwrap_or(HeaderValue::from_static("0"))
}

/// A random UUID (RFC 9562, version 4), as text.
fn uuid(rng: &mut impl Rng) -> [u8; 36] {
    let bits = rng.random::<u128>() & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let mut digits = [0; 32];
    write_hex(&mut digits, &bits.to_be_bytes());
    let mut text = [b'-'; 36];
    let places = (0..36).filter(|place| ![8, 13, 18, 23].contains(place));
    for (place, digit) in places.zip(digits) {
        if let Some(byte) = text.get_mut(place) {
            *byte = digit;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use http::{Request, Version};
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    fn parts(uri: &str, version: Version, lines: &[(&'static str, &'static str)]) -> Parts {
        let mut request = Request::builder().uri(uri).version(version);
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn begins_and_continues() {
        let mut first = parts("/", Version::HTTP_11, &[("host", "a.example:81")]);
        append(&mut first, "::ffff:10.0.0.1".parse().ok(), false);
        assert_eq!(first.headers["x-forwarded-for"], "10.0.0.1");
        assert_eq!(first.headers["x-forwarded-proto"], "http");
        assert_eq!(first.headers["x-forwarded-host"], "a.example:81");

        append(&mut first, "2001:db8::1".parse().ok(), true);
        assert_eq!(first.headers["x-forwarded-for"], "10.0.0.1, 2001:db8::1");
        assert_eq!(first.headers["x-forwarded-proto"], "http");

        let mut unix = parts("/", Version::HTTP_11, &[]);
        append(&mut unix, None, false);
        assert_eq!(unix.headers["x-forwarded-for"], "unknown");
        append(&mut unix, None, false);
        assert_eq!(unix.headers["x-forwarded-for"], "unknown, unknown");
    }

    #[test]
    fn several_lines_become_one() {
        let lines = [("x-forwarded-for", "1.1.1.1, 2.2.2.2"), ("x-forwarded-for", ""), ("x-forwarded-for", "3.3.3.3")];
        let mut parts = parts("http://b.example/", Version::HTTP_2, &lines);
        append(&mut parts, "4.4.4.4".parse().ok(), false);
        let all: Vec<_> = parts.headers.get_all("x-forwarded-for").iter().collect();
        assert_eq!(all, ["1.1.1.1, 2.2.2.2, 3.3.3.3, 4.4.4.4"]);
        assert_eq!(parts.headers["x-forwarded-host"], "b.example");
    }

    #[test]
    fn no_host_is_not_forwarded() {
        let mut parts = parts("/", Version::HTTP_10, &[]);
        append(&mut parts, "4.4.4.4".parse().ok(), false);
        assert!(!parts.headers.contains_key("x-forwarded-host"));
    }

    #[test]
    fn request_id_is_kept_or_made() {
        let mut rng = SmallRng::seed_from_u64(1);
        let mut headers = HeaderMap::new();
        let made = request_id(&headers, &mut rng);
        headers.insert(REQUEST_ID, made.clone());
        let text = made.to_str().unwrap();
        assert_eq!((text.len(), &text[14..15]), (36, "4"));
        assert!(matches!(&text[19..20], "8" | "9" | "a" | "b"), "{text}");
        assert_eq!(text.split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);

        assert_eq!(request_id(&headers, &mut rng), made);
        for bad in ["", "a b", "\u{e9}", &"x".repeat(129)] {
            headers.insert(REQUEST_ID, HeaderValue::from_str(bad).unwrap());
            assert_eq!(request_id(&headers, &mut rng).len(), 36, "{bad}");
        }
        headers.insert(REQUEST_ID, HeaderValue::from_static("first"));
        headers.append(REQUEST_ID, HeaderValue::from_static("second"));
        assert_eq!(request_id(&headers, &mut rng).len(), 36, "two lines");
    }
}

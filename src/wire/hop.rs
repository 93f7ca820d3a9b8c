//! What a message says to the next hop only, and so must not pass this one (RFC 9110, section 7.6.1): the fixed set
//! of fields, and every name that any `Connection` line lists.
//!
//! `Trailer` stays (it announces what follows to every recipient), and so do `Proxy-Authenticate` and
//! `Proxy-Authorization`: they are for whoever asked, and that is not us.

use http::header::{CONNECTION, EXPECT, TE, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Version};

use super::members;

/// What the removed fields said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hop {
    /// The protocol to switch to, where the message asks for it in HTTP/1.1, and it is not HTTP/2: `h2c` is a way
    /// around the rules of the first request, and nobody needs it.
    pub upgrade: Option<HeaderValue>,
    /// The sender takes trailers.
    pub te_trailers: bool,
    /// The sender closes the connection after this exchange.
    pub close: bool,
    /// The client waits for a 100 before it sends the body. The codec answers once the body is polled.
    pub expect_continue: bool,
}

/// Removes what a client told us and nobody else.
pub fn strip_request(version: Version, headers: &mut HeaderMap) -> Hop {
    let mut hop = strip(version, headers);
    if headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        headers.remove(EXPECT);
        hop.expect_continue = true;
    }
    hop
}

/// Removes what an upstream told us and nobody else.
pub fn strip_response(version: Version, headers: &mut HeaderMap) -> Hop {
    strip(version, headers)
}

/// Fields that are hop-by-hop whether or not `Connection` lists them.
const FIXED: [&str; 7] =
    ["connection", "proxy-connection", "keep-alive", "te", "transfer-encoding", "upgrade", "http2-settings"];

fn strip(version: Version, headers: &mut HeaderMap) -> Hop {
    if !headers.keys().any(|name| FIXED.contains(&name.as_str())) {
        return Hop::default();
    }
    let mut hop = Hop::default();
    let mut upgrade = false;
    let mut others = false;
    for token in members(headers, CONNECTION) {
        if token.eq_ignore_ascii_case(b"close") {
            hop.close = true;
        } else if token.eq_ignore_ascii_case(b"upgrade") {
            upgrade = true;
        } else if !token.eq_ignore_ascii_case(b"keep-alive") {
            others = true;
        }
    }
    hop.te_trailers = members(headers, TE).any(|token| token.eq_ignore_ascii_case(b"trailers"));
    if upgrade && version == Version::HTTP_11 {
        hop.upgrade = wanted(headers);
    }
    if others {
        strip_listed(headers);
    }
    for name in FIXED {
        headers.remove(name);
    }
    hop
}

/// The one `Upgrade` line. A message without exactly one line, or that names HTTP/2, stays in HTTP/1: a recipient
/// may always ignore `Upgrade` (RFC 9110, section 7.8).
fn wanted(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut lines = headers.get_all(UPGRADE).iter();
    let line = lines.next()?;
    let more = lines.next().is_some();
    let mut protocols = members(headers, UPGRADE).peekable();
    let named = protocols.peek().is_some();
    let h2 = protocols.any(|protocol| {
        let name = protocol.split(|&byte| byte == b'/').next().unwrap_or(protocol);
        name.eq_ignore_ascii_case(b"h2c") || name.eq_ignore_ascii_case(b"h2")
    });
    (named && !more && !h2).then(|| line.clone())
}

/// Removes what the `Connection` lines list.
fn strip_listed(headers: &mut HeaderMap) {
    // The lines share their bytes with the map's, so that only the list itself is allocated, and only for a client
    // that lists anything unusual.
    let lines: Vec<HeaderValue> = headers.get_all(CONNECTION).iter().cloned().collect();
    for token in lines.iter().flat_map(|line| line.as_bytes().split(|&byte| byte == b',')) {
        // Parsing lower-cases, and refuses what cannot be a name.
        if let Ok(name) = HeaderName::from_bytes(token.trim_ascii())
            && !end_to_end(name.as_str())
        {
            headers.remove(name);
        }
    }
}

/// Fields that stay although they are listed. RFC 9110 forbids a sender to list what is meant for every recipient;
/// who does it anyway tries to make us drop what framing, routing, credentials or the record of the hops rest on.
fn end_to_end(name: &str) -> bool {
    matches!(
        name,
        "host"
            | "authorization"
            | "cookie"
            | "set-cookie"
            | "cache-control"
            | "forwarded"
            | "via"
            | "x-request-id"
            | "x-real-ip"
            | "trailer"
    ) || name.starts_with("content-")
        || name.starts_with("x-forwarded-")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn map(lines: &[(&str, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| {
                (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap())
            })
            .collect()
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn two_connection_lines() {
        let mut headers = map(&[
            ("connection", "keep-alive, X-One"),
            ("x-one", "1"),
            ("connection", "x-two ,, close"),
            ("x-two", "2"),
            ("x-two", "3"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("transfer-encoding", "chunked"),
            ("trailer", "x-sum"),
            ("x-three", "3"),
        ]);
        let hop = strip_request(Version::HTTP_11, &mut headers);
        assert_eq!(hop, Hop { close: true, ..Hop::default() });
        assert_eq!(names(&headers), ["trailer", "x-three"]);
    }

    #[test]
    fn listed_fields_that_everybody_needs_stay() {
        let listed = "host, content-length, authorization, cookie, x-forwarded-for, content-type, x-gone";
        let mut headers = map(&[
            ("connection", listed),
            ("host", "a"),
            ("content-length", "1"),
            ("authorization", "b"),
            ("cookie", "c=d"),
            ("x-forwarded-for", "::1"),
            ("content-type", "text/plain"),
            ("x-gone", "1"),
        ]);
        strip_request(Version::HTTP_11, &mut headers);
        assert_eq!(headers.len(), 6);
        assert!(!headers.contains_key("x-gone"));
    }

    #[test]
    fn upgrade_needs_the_token_and_http_1_1() {
        let upgrade = |version, lines: &[(&str, &str)]| {
            let mut headers = map(lines);
            let hop = strip_request(version, &mut headers);
            assert!(headers.is_empty());
            hop.upgrade
        };
        let asked = [("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")];
        assert_eq!(upgrade(Version::HTTP_11, &asked).unwrap(), "websocket");
        assert_eq!(upgrade(Version::HTTP_10, &asked), None);
        assert_eq!(upgrade(Version::HTTP_11, &[("upgrade", "websocket")]), None);
        assert_eq!(upgrade(Version::HTTP_11, &[("connection", "upgrade"), ("upgrade", " ,")]), None);
        for h2 in ["h2c", "H2C", "websocket, h2c", "h2"] {
            let lines = [("connection", "upgrade, http2-settings"), ("upgrade", h2), ("http2-settings", "AAMA")];
            assert_eq!(upgrade(Version::HTTP_11, &lines), None, "{h2}");
        }
        let two = [("connection", "upgrade"), ("upgrade", "a"), ("upgrade", "b")];
        assert_eq!(upgrade(Version::HTTP_11, &two), None);
    }

    #[test]
    fn te_and_expect_are_told() {
        let mut headers = map(&[("te", "gzip;q=0.5, trailers"), ("expect", "100-Continue")]);
        let hop = strip_request(Version::HTTP_2, &mut headers);
        assert_eq!(hop, Hop { te_trailers: true, expect_continue: true, ..Hop::default() });
        assert!(headers.is_empty());

        let mut headers = map(&[("expect", "something-else"), ("accept", "*/*")]);
        assert_eq!(strip_request(Version::HTTP_11, &mut headers), Hop::default());
        assert_eq!(headers.len(), 2);
    }

    #[test]
    fn response_keeps_what_is_not_ours() {
        let mut headers = map(&[
            ("connection", "close"),
            ("proxy-authenticate", "Basic"),
            ("expect", "100-continue"),
            ("upgrade", "h2c"),
        ]);
        assert!(strip_response(Version::HTTP_11, &mut headers).close);
        assert_eq!(names(&headers), ["expect", "proxy-authenticate"]);
    }

    proptest! {
        #[test]
        fn nothing_listed_survives(lines in prop::collection::vec(prop::collection::vec("x-[a-d]{1,2}", 0..4), 0..4)) {
            let mut headers = HeaderMap::new();
            for line in &lines {
                headers.append(CONNECTION, HeaderValue::from_str(&line.join(" ,")).unwrap());
                for name in line {
                    headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_static("1"));
                }
            }
            headers.append("y-stays", HeaderValue::from_static("1"));
            strip_request(Version::HTTP_11, &mut headers);
            prop_assert_eq!(names(&headers), ["y-stays"]);
        }

        #[test]
        fn any_bytes_are_survived(connection in prop::collection::vec(any::<u8>(), 0..64), upgrade in prop::collection::vec(any::<u8>(), 0..16)) {
            let mut headers = HeaderMap::new();
            for (name, bytes) in [(CONNECTION, connection), (UPGRADE, upgrade)] {
                if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                    headers.append(name, value);
                }
            }
            strip_request(Version::HTTP_11, &mut headers);
            prop_assert!(headers.is_empty());
        }
    }
}

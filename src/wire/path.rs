//! How the path, the query and the cookies of a request are read.
//!
//! One reading of the path serves routing, authorization and forwarding, so that what was matched is what is sent:
//! - Encoded unreserved characters are decoded (`%41` is `A`), other encodings are written in upper case.
//! - Dot segments are resolved, encoded ones too, never above the root. Only then is the resolved path forwarded;
//!   otherwise the path goes on byte for byte, for the two spell the same resource (RFC 3986, section 6.2.2).
//! - `%2F` stays encoded and separates nothing; empty segments, backslashes and `;` mean nothing special.
//! - `%00`, a `%` without two digits, and raw control bytes are refused.

use std::borrow::Cow;

use http::HeaderMap;
use http::header::COOKIE;

use super::unhex;
use crate::error::Reason;

/// A path as it is matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path<'a> {
    pub text: Cow<'a, str>,
    /// It had dot segments: `text` must be forwarded in place of the original.
    pub resolved: bool,
}

/// Reads a path without its query; `*` is one, too.
pub fn normalise(path: &str) -> Result<Path<'_>, Reason> {
    let bytes = path.as_bytes();
    if bytes.first() != Some(&b'/') {
        return if path == "*" { Ok(Path { text: path.into(), resolved: false }) } else { Err(Reason::BadRequest) };
    }
    // A fold without an early end compiles to vector code.
    if bytes.iter().fold(false, |bad, &byte| bad | (byte <= b' ') | (byte == 0x7f)) {
        return Err(Reason::BadRequest);
    }
    let text = match memchr::memchr(b'%', bytes) {
        None => Cow::Borrowed(path),
        Some(_) => decode_unreserved(path)?,
    };
    if !dotted(text.as_bytes()) {
        return Ok(Path { text, resolved: false });
    }
    Ok(Path { text: resolve(&text).into(), resolved: true })
}

/// Whether a segment is `.` or `..`.
fn dotted(path: &[u8]) -> bool {
    memchr::memchr_iter(b'.', path).any(|at| match path.split_at_checked(at) {
        Some(([.., b'/'], [b'.', rest @ ..])) => matches!(rest, [] | [b'/', ..] | [b'.'] | [b'.', b'/', ..]),
        _ => false,
    })
}

fn decode_unreserved(path: &str) -> Result<Cow<'_, str>, Reason> {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        let &[high, low, ..] = after.as_bytes() else { return Err(Reason::BadRequest) };
        let (Some(high_value), Some(low_value)) = (unhex(high), unhex(low)) else { return Err(Reason::BadRequest) };
        match high_value << 4 | low_value {
            0 => return Err(Reason::BadRequest),
            byte @ (b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~') => out.push(byte.into()),
            _ => out.extend(['%', high.to_ascii_uppercase().into(), low.to_ascii_uppercase().into()]),
        }
        rest = after.get(2..).ok_or(Reason::BadRequest)?;
    }
    out.push_str(rest);
    Ok(if out == path { Cow::Borrowed(path) } else { out.into() })
}

/// Removes dot segments (RFC 3986, section 5.2.4).
fn resolve(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        match segment {
            "." => {}
            ".." => out.truncate(out.rfind('/').unwrap_or(0)),
            _ => {
                out.push('/');
                out.push_str(segment);
                continue;
            }
        }
        if segments.peek().is_none() {
            out.push('/');
        }
    }
    out
}

/// The first value of a query parameter.
pub fn query_get<'a>(query: &'a str, name: &str) -> Option<Cow<'a, str>> {
    query_values(query, name).next()
}

/// Every value of a query parameter, in order.
pub fn query_values<'a, 'n>(query: &'a str, name: &'n str) -> impl Iterator<Item = Cow<'a, str>> + use<'a, 'n> {
    query.split('&').filter_map(move |pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let same = key == name || (memchr::memchr2(b'%', b'+', key.as_bytes()).is_some() && decode_form(key) == name);
        (same && !pair.is_empty()).then(|| decode_form(value))
    })
}

/// Decodes one segment of a path (RFC 3986, section 2.1). What is not an encoding stands for itself.
pub fn decode_segment(text: &str) -> String {
    // Unlike in a form, a plus is a plus.
    decode_form(&text.replace('+', "%2B")).into_owned()
}

/// Decodes a part of `application/x-www-form-urlencoded`. What is not an encoding stands for itself.
fn decode_form(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    if memchr::memchr2(b'%', b'+', bytes).is_none() {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let decoded = match (byte, after) {
            (b'+', _) => b' ',
            (b'%', [high, low, tail @ ..]) => match (unhex(*high), unhex(*low)) {
                (Some(high), Some(low)) => {
                    rest = tail;
                    high << 4 | low
                }
                _ => byte,
            },
            _ => byte,
        };
        out.push(decoded);
    }
    match String::from_utf8(out) {
        Ok(text) => text.into(),
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned().into(),
    }
}

/// The first value of a cookie, over all `Cookie` lines.
pub fn cookie_get<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    cookies(headers).find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// Every cookie, in order. One that is not UTF-8 is left out.
pub fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    headers.get_all(COOKIE).iter().flat_map(|line| line.as_bytes().split(|&byte| byte == b';')).filter_map(|pair| {
        let (key, value) = std::str::from_utf8(pair).ok()?.split_once('=')?;
        Some((key.trim_ascii(), value.trim_ascii()))
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths() {
        let table = [
            ("/", "/", false),
            ("*", "*", false),
            ("/a/b.html", "/a/b.html", false),
            ("/.well-known/x", "/.well-known/x", false),
            ("/a//b", "/a//b", false),
            ("/%41%7e%2Db", "/A~-b", false),
            ("/a%2fb", "/a%2Fb", false),
            ("/a%2F..%2Fb", "/a%2F..%2Fb", false),
            ("/caf%c3%A9", "/caf%C3%A9", false),
            ("/a\\..\\b", "/a\\..\\b", false),
            ("/a/..;/b", "/a/..;/b", false),
            ("/%2541", "/%2541", false),
            ("/a/./b", "/a/b", true),
            ("/a/../b", "/b", true),
            ("/a/%2e%2E/b", "/b", true),
            ("/a/b/..", "/a/", true),
            ("/a/b/.", "/a/b/", true),
            ("/../../etc", "/etc", true),
            ("/..", "/", true),
            ("/a//../b", "/a/b", true),
            ("/...", "/...", false),
        ];
        for (path, text, resolved) in table {
            assert_eq!(normalise(path), Ok(Path { text: text.into(), resolved }), "{path}");
        }
    }

    #[test]
    fn refused_paths() {
        for path in ["", "a", "a/b", "**", "/%", "/%4", "/%zz", "/%00", "/a%00b", "/a b", "/a\tb", "/a\x7f", "/%é"] {
            assert_eq!(normalise(path), Err(Reason::BadRequest), "{path}");
        }
    }

    #[test]
    fn plain_paths_are_borrowed() {
        for path in ["/a/b.c", "/a%2Fb", "/.a", "/..a/b"] {
            assert!(matches!(normalise(path).map(|path| path.text), Ok(Cow::Borrowed(_))), "{path}");
        }
    }

    #[test]
    fn query_values_are_decoded() {
        let query = "a=1&b=x+y%2Bz&a=2&&c&%61=3&bad=%zz%&utf=%ff&d=e=f";
        assert_eq!(query_values(query, "a").collect::<Vec<_>>(), ["1", "2", "3"]);
        assert_eq!(query_get(query, "b").as_deref(), Some("x y+z"));
        assert_eq!(query_get(query, "c").as_deref(), Some(""));
        assert_eq!(query_get(query, "bad").as_deref(), Some("%zz%"));
        assert_eq!(query_get(query, "utf").as_deref(), Some("\u{fffd}"));
        assert_eq!(query_get(query, "d").as_deref(), Some("e=f"));
        assert_eq!(query_get(query, "x"), None);
        assert_eq!(query_get("", ""), None);
    }

    #[test]
    fn cookies_of_all_lines() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, HeaderValue::from_static("a=1; b = two;c;; a=9"));
        headers.append(COOKIE, HeaderValue::from_static("d=x=y"));
        headers.append(COOKIE, HeaderValue::from_bytes(b"e=\xff; f=6").unwrap());
        let get = |name| cookie_get(&headers, name);
        assert_eq!((get("a"), get("b"), get("c"), get("d")), (Some("1"), Some("two"), None, Some("x=y")));
        assert_eq!((get("e"), get("f")), (None, Some("6")));
    }

    proptest! {
        #[test]
        fn reading_twice_is_reading_once(path in "/[a./%2eE5F]{0,24}") {
            if let Ok(once) = normalise(&path) {
                let twice = normalise(&once.text);
                prop_assert_eq!(twice, Ok(Path { text: once.text.as_ref().into(), resolved: false }));
                let mut segments = once.text.split('/');
                prop_assert!(!segments.any(|segment| segment == "." || segment == ".."));
            }
        }

        #[test]
        fn any_text_is_survived(text in any::<String>()) {
            let _ = normalise(&text);
            let _ = normalise(&format!("/{text}"));
            let _ = query_get(&text, &text);
        }
    }
}

//! Whom the first request of a connection is for, from its first bytes, before any codec has them. Only the host is
//! read here: what else is wrong with the head, the codec and [`head`](super::head) will say.

use super::head::parse_authority;

/// Fields of a head that are looked at; a codec refuses more than that, too.
const FIELDS_MAX: usize = 128;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum First {
    /// In lower case, without port, brackets or the dot at the end.
    Host(String),
    /// A request that names no host.
    None,
    /// The head is not complete.
    More,
    /// Not a request, or one that could be read in two ways, or longer than is taken.
    Invalid,
}

/// Reads all bytes that have arrived so far, as HTTP/1. A head that is longer than `max` is not waited for.
pub fn http1(bytes: &[u8], max: usize) -> First {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length <= max => {}
        Ok(httparse::Status::Partial) if bytes.len() < max => return First::More,
        Ok(httparse::Status::Complete(_) | httparse::Status::Partial) | Err(_) => return First::Invalid,
    }
    let mut lines = request.headers.iter().filter(|field| field.name.eq_ignore_ascii_case("host"));
    let line = lines.next().map(|field| field.value);
    if lines.next().is_some() {
        return First::Invalid;
    }
    let target = request.path.unwrap_or_default();
    match (request.method, target.as_bytes()) {
        (Some("CONNECT"), _) => host(target.as_bytes()),
        (_, [b'/' | b'*', ..]) => line.map_or(First::None, host),
        // The target wins over the line (RFC 9112, section 3.2.2).
        _ => match target.split_once("://") {
            Some((_, rest)) => host(rest.split(['/', '?', '#']).next().unwrap_or_default().as_bytes()),
            None => First::Invalid,
        },
    }
}

/// The host of an authority: of a target, of a field `Host`, or of `:authority`.
pub fn host(authority: &[u8]) -> First {
    match str::from_utf8(authority).map(parse_authority) {
        Ok(Ok(authority)) => First::Host(authority.host.into_owned()),
        _ if authority.is_empty() => First::None,
        _ => First::Invalid,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: usize = 4096;

    fn named(host: &str) -> First {
        First::Host(host.to_owned())
    }

    #[test]
    fn every_prefix_waits_and_the_whole_head_names_its_host() {
        let cases = [
            ("GET / HTTP/1.1\r\nHost: A.test\r\n\r\n", named("a.test")),
            ("GET / HTTP/1.1\r\nuser-agent: curl/8.5.0\r\naccept: */*\r\nhOST:a.test.:8080\r\n\r\n", named("a.test")),
            ("\r\nPOST /a?b=http://c/ HTTP/1.1\nHost: [::1]:80\ncontent-length: 1\n\n", named("::1")),
            ("GET http://B.test:81/x HTTP/1.1\r\nHost: a.test\r\n\r\n", named("b.test")),
            ("GET https://b.test?x HTTP/1.1\r\n\r\n", named("b.test")),
            ("CONNECT b.test:443 HTTP/1.1\r\nHost: a.test\r\n\r\n", named("b.test")),
            ("OPTIONS * HTTP/1.1\r\nHost: 10.0.0.1\r\n\r\n", named("10.0.0.1")),
            ("GET / HTTP/1.0\r\n\r\n", First::None),
            ("GET / HTTP/1.1\r\nHost:\r\n\r\n", First::None),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", First::Invalid),
            ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", First::Invalid),
            ("GET / HTTP/1.1\r\nHost: user@a\r\n\r\n", First::Invalid),
            ("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", First::Invalid),
            ("GET / HTTP/1.1\r\nHost: \u{fc}\r\n\r\n", First::Invalid),
            ("GET http://user@a/ HTTP/1.1\r\nHost: a\r\n\r\n", First::Invalid),
            ("CONNECT a.test/ HTTP/1.1\r\n\r\n", First::Invalid),
            ("GET nowhere HTTP/1.1\r\nHost: a\r\n\r\n", First::Invalid),
        ];
        for (text, first) in cases {
            assert_eq!(http1(text.as_bytes(), MAX), first, "{text:?}");
            let body = [text.as_bytes(), b"\0 more"].concat();
            assert_eq!(http1(&body, MAX), first, "{text:?} and more");
            for end in 0..text.len() {
                assert_eq!(http1(&text.as_bytes()[..end], MAX), First::More, "{:?}", &text[..end]);
            }
        }
    }

    #[test]
    fn what_is_no_head_is_not_waited_for() {
        for text in ["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET / HTTP/1.1\r\nno field\r\n", "\x16\x03\x01", "GET /\0"] {
            assert_eq!(http1(text.as_bytes(), MAX), First::Invalid, "{text:?}");
        }
        let many = format!("GET / HTTP/1.1\r\n{}host: a\r\n\r\n", "x: y\r\n".repeat(FIELDS_MAX));
        assert_eq!(http1(many.as_bytes(), MAX), First::Invalid);
        let long = format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(MAX));
        for (end, first) in [(MAX - 1, First::More), (MAX, First::Invalid), (long.len(), First::Invalid)] {
            assert_eq!(http1(&long.as_bytes()[..end], MAX), first, "{end} bytes");
        }
    }

    proptest! {
        #[test]
        fn a_verdict_is_final_and_comes_in_time(
            text in "(GET|CONNECT|\n)? ?(/|\\*|http://[a-z@:]{0,3}/?)? ?(HTTP/1.[01])?\r?\n((host|a):[a-z :]{0,3}\r?\n){0,3}\r?\n?",
        ) {
            const MAX: usize = 48;
            let mut decided = None;
            for end in 0..=text.len() {
                let first = http1(&text.as_bytes()[..end], MAX);
                match &decided {
                    Some(before) => prop_assert_eq!(&first, before),
                    None if first != First::More => decided = Some(first),
                    None => {}
                }
            }
            prop_assert!(decided.is_some() || text.len() < MAX);
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let First::Host(host) = http1(&bytes, MAX) {
                prop_assert!(!host.is_empty());
            }
            host(&bytes);
        }
    }
}

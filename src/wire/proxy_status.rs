//! `Proxy-Status` (RFC 9209): what proxies on the way say of an answer. We write one member, and read what others
//! wrote to learn whether an error is the application's. A list of structured fields (RFC 9651).

use std::fmt::Write;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

pub const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// How we call ourselves there.
const NAME: &str = "outrigger";
/// What is kept of another's words.
const WORDS_MAX: usize = 128;

/// Our member: the `error` and its `details` where the answer is ours, and the status that it stands in for.
/// Details are a code or a sentence of our own, in visible ASCII without quotes.
pub fn member(error: Option<(&str, &str)>, received: Option<StatusCode>) -> Option<HeaderValue> {
    let mut text = String::from(NAME);
    if let Some((error, details)) = error {
        // Writing to a string does not fail.
        let _ = write!(text, "; error={error}; details=\"{details}\"");
    }
    if let Some(status) = received {
        let _ = write!(text, "; received-status={}", status.as_u16());
    }
    HeaderValue::try_from(text).ok()
}

/// Why another proxy made this answer, where one says that it did: `details` of the first member with an `error`,
/// which is the one closest to the origin, or else that `error`. In visible ASCII, of 128 characters at most.
/// A line that is no such list counts for nothing.
pub fn told(headers: &HeaderMap) -> Option<Box<str>> {
    headers.get_all(PROXY_STATUS).iter().find_map(|line| list(line.as_bytes())?)
}

/// The first complaint of a list, if it is one.
fn list(line: &[u8]) -> Option<Option<Box<str>>> {
    let mut rest = Rest(line.trim_ascii());
    let mut first = None;
    loop {
        rest.item()?;
        let complaint = rest.complaint()?;
        first = first.or(complaint);
        rest.skip(b" \t");
        if rest.0.is_empty() {
            return Some(first);
        }
        if !rest.eat(b',') {
            return None;
        }
        rest.skip(b" \t");
    }
}

/// What is not yet read.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    /// The parameters of a member: what it complains of.
    fn complaint(&mut self) -> Option<Option<Box<str>>> {
        let (mut error, mut details) = (None, None);
        while self.eat(b';') {
            self.skip(b" ");
            let key = self.run(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-.*".contains(&byte));
            if key.is_empty() {
                return None;
            }
            let value = if self.eat(b'=') { self.item()? } else { String::new() };
            match key {
                b"error" => error = Some(value),
                b"details" => details = Some(value),
                _ => {}
            }
        }
        Some(error.map(|error| details.filter(|details| !details.is_empty()).unwrap_or(error).into()))
    }

    /// A bare item of any type: its text, as far as it is kept.
    fn item(&mut self) -> Option<String> {
        if self.eat(b'"') {
            return self.string();
        }
        let item = self.run(|byte| byte.is_ascii_graphic() && !b"\"(),;".contains(&byte));
        let kept = item.get(..item.len().min(WORDS_MAX))?;
        (!item.is_empty()).then(|| String::from_utf8_lossy(kept).into_owned())
    }

    /// What is between the quotes, of which the first is read.
    fn string(&mut self) -> Option<String> {
        let mut text = String::new();
        loop {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            let byte = match byte {
                b'"' => return Some(text),
                b'\\' => {
                    let (escaped, rest) = self.0.split_first().filter(|(byte, _)| b"\"\\".contains(byte))?;
                    self.0 = rest;
                    escaped
                }
                b' '..=b'~' => byte,
                _ => return None,
            };
            if text.len() < WORDS_MAX {
                text.push(char::from(*byte));
            }
        }
    }

    fn eat(&mut self, wanted: u8) -> bool {
        match self.0.split_first() {
            Some((byte, rest)) if *byte == wanted => {
                self.0 = rest;
                true
            }
            _ => false,
        }
    }

    fn skip(&mut self, blanks: &[u8]) {
        self.run(|byte| blanks.contains(&byte));
    }

    fn run(&mut self, fits: impl Fn(u8) -> bool) -> &'a [u8] {
        let end = self.0.iter().position(|byte| !fits(*byte)).unwrap_or(self.0.len());
        let (run, rest) = self.0.split_at(end);
        self.0 = rest;
        run
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn heard(lines: &[&str]) -> Option<String> {
        let line = |line: &&str| (PROXY_STATUS, HeaderValue::from_bytes(line.as_bytes()).unwrap());
        told(&lines.iter().map(line).collect::<HeaderMap>()).map(Into::into)
    }

    #[test]
    fn ours_is_understood() {
        let ours = member(Some(("destination_not_found", "no_route")), Some(StatusCode::BAD_GATEWAY)).unwrap();
        assert_eq!(ours, "outrigger; error=destination_not_found; details=\"no_route\"; received-status=502");
        assert_eq!(heard(&[ours.to_str().unwrap()]).as_deref(), Some("no_route"));
        let bare = member(None, Some(StatusCode::BAD_GATEWAY)).unwrap();
        assert_eq!(bare, "outrigger; received-status=502");
        assert_eq!(heard(&[bare.to_str().unwrap()]), None, "no error");
    }

    #[test]
    fn others() {
        let table: &[(&[&str], Option<&str>)] = &[
            (&[], None),
            (&[""], None),
            (&["edge"], None),
            (&["edge; next-hop=\"a;error=x\""], None),
            (&["edge;error=dns_error"], Some("dns_error")),
            (&["\"a, proxy\";  error=dns_error;details=\"a \\\"b\\\" \\\\ c, d; e\""], Some("a \"b\" \\ c, d; e")),
            (&["a; received-status=200 , b;x=?1;y=:YQ==:;z=-1.5; error=dns_error, c; error=other"], Some("dns_error")),
            (&["edge; error=dns_error; details=\"\""], Some("dns_error")),
            (&["a", "b; error=x"], Some("x")),
            (&["edge; details=\"only\""], None),
            // Lists that are none.
            (&["edge; error=x,"], None),
            (&["edge; error=x y"], None),
            (&["edge; error=\"open"], None),
            (&["edge; error=x; details=\"tab\t\""], None),
            (&["edge; error=x; details=\"\u{e9}\""], None),
            (&["edge; Error=x"], None),
            (&["; error=x"], None),
            (&["edge; error="], None),
            (&["edge; error=x; details=\"\\n\"", "next; error=y"], Some("y")),
        ];
        for (lines, wanted) in table {
            assert_eq!(heard(lines).as_deref(), *wanted, "{lines:?}");
        }
    }

    #[test]
    fn little_is_kept() {
        let long = "x".repeat(5000);
        assert_eq!(heard(&[&format!("edge; error=e; details=\"{long}\"")]).map(|text| text.len()), Some(WORDS_MAX));
        assert_eq!(heard(&[&format!("edge; error={long}")]).map(|text| text.len()), Some(WORDS_MAX));
    }

    proptest! {
        #[test]
        fn any_line_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let Ok(value) = HeaderValue::from_bytes(&[b"a;error=", &bytes[..]].concat()) else { return Ok(()) };
            let words = told(&[(PROXY_STATUS, value)].into_iter().collect());
            prop_assert!(words.is_none_or(|words| words.bytes().all(|byte| (b' '..=b'~').contains(&byte))));
        }
    }
}

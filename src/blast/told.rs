//! A remembered request, and what it tells: the head that is decided about again, and whether a condition held for
//! values that were not remembered.

use http::header::{CONTENT_TYPE, COOKIE, HOST};
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri, Version, request};

use super::fingerprint::{Fingerprint, Value};
use super::looked::{self, Looked};
use crate::snapshot::matcher::{Attribute, Key, Text};

/// A fingerprint, and what its values are of.
#[derive(Debug, Clone, Copy)]
pub struct Told<'a> {
    pub looked: &'a Looked,
    pub print: &'a Fingerprint,
    /// One path of its shape.
    pub path: &'a str,
}

/// What a key had.
enum First<'a> {
    /// Nothing is known of this key.
    Unknown,
    Absent,
    Kept(&'a str),
    Hidden(usize, u64),
}

impl<'a> Told<'a> {
    /// Whether a condition holds; `None` where what was remembered does not say.
    pub fn truth(&self, attributes: &[Attribute], key: &Key, text: &Text) -> Option<bool> {
        let Key::Attribute(index) = key else { return self.direct(key, text) };
        let attribute = attributes.get(*index)?;
        match self.first_of(&attribute.from) {
            First::Unknown => None,
            First::Absent => Some(matches!(text, Text::Absent)),
            First::Kept(value) => {
                let lower = attribute.lowercase.then(|| value.to_ascii_lowercase());
                Some(looked::holds(text, &attribute.values, lower.as_deref().unwrap_or(value)))
            }
            First::Hidden(index, held) => self.looked.at(index)?.1.hidden(held, Some(attribute), text),
        }
    }

    fn direct(&self, key: &Key, text: &Text) -> Option<bool> {
        let (index, look) = self.looked.get(key)?;
        let mut values = self.values(index).peekable();
        if matches!(text, Text::Absent) {
            return Some(values.peek().is_none());
        }
        // Any of the values may fulfil it.
        let mut all_told = true;
        for value in values {
            let holds = match value {
                Value::Kept(value) => Some(text.holds(value)),
                Value::Hidden(held) => look.hidden(*held, None, text),
            };
            match holds {
                Some(true) => return Some(true),
                Some(false) => {}
                None => all_told = false,
            }
        }
        all_told.then_some(false)
    }

    /// Whether the key of a sticky split was remembered, so that its bucket is known.
    pub fn knows(&self, attributes: &[Attribute], key: &Key) -> bool {
        let first = match key {
            Key::Attribute(index) => {
                attributes.get(*index).map_or(First::Unknown, |attribute| self.first_of(&attribute.from))
            }
            key => self.first_of(std::slice::from_ref(key)),
        };
        matches!(first, First::Kept(_))
    }

    fn first_of(&self, keys: &[Key]) -> First<'a> {
        for key in keys {
            let Some((index, _)) = self.looked.get(key) else { return First::Unknown };
            match self.values(index).next() {
                Some(Value::Kept(value)) => return First::Kept(value),
                Some(Value::Hidden(held)) => return First::Hidden(index, *held),
                None => {}
            }
        }
        First::Absent
    }

    fn values(&self, index: usize) -> impl Iterator<Item = &'a Value> + use<'a> {
        self.print.values.iter().filter(move |(of, _)| usize::from(*of) == index).map(|(_, value)| value)
    }

    /// The head, with these headers and query parameters besides. `None` where it cannot be written.
    pub fn head(&self, headers: &[(HeaderName, String)], query: &[String]) -> Option<request::Parts> {
        let mut head = Head { headers: HeaderMap::new(), query: query.to_vec() };
        for (index, (key, _)) in self.looked.keys().enumerate() {
            // Of several values, none rather than some: what is left would be taken for the first.
            if self.values(index).any(|value| matches!(value, Value::Hidden(_))) {
                continue;
            }
            for value in self.values(index) {
                if let Value::Kept(value) = value {
                    head.add(key, value)?;
                }
            }
        }
        for (name, value) in headers {
            head.headers.try_append(name.clone(), HeaderValue::from_str(value).ok()?).ok()?;
        }
        if self.print.grpc && !head.headers.contains_key(CONTENT_TYPE) {
            head.headers.try_append(CONTENT_TYPE, HeaderValue::from_static("application/grpc")).ok()?;
        }
        let target = match head.query.is_empty() {
            true => PathAndQuery::try_from(self.path).ok()?,
            false => PathAndQuery::try_from(format!("{}?{}", self.path, head.query.join("&"))).ok()?,
        };
        let mut uri = http::uri::Parts::default();
        uri.path_and_query = Some(target);
        // A line of its own where one was remembered; else as in HTTP/2, which shows no condition a line that was not.
        let host = &*self.print.host;
        if !head.headers.contains_key(HOST) && !host.is_empty() {
            let literal = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
            (uri.scheme, uri.authority) = (Some(Scheme::HTTP), Some(literal.parse().ok()?));
        }
        let (mut parts, ()) = Request::new(()).into_parts();
        parts.method = self.print.method.clone();
        parts.version = if host.is_empty() { Version::HTTP_10 } else { Version::HTTP_2 };
        parts.uri = Uri::from_parts(uri).ok()?;
        parts.headers = head.headers;
        Some(parts)
    }
}

struct Head {
    headers: HeaderMap,
    query: Vec<String>,
}

impl Head {
    fn add(&mut self, key: &Key, value: &str) -> Option<()> {
        let (name, value) = match key {
            Key::Header(name) => (name.clone(), value.to_owned()),
            Key::Cookie(name) => (COOKIE, format!("{name}={value}")),
            Key::Query(name) => {
                self.query.push(format!("{}={}", encode(name), encode(value)));
                return Some(());
            }
            Key::Attribute(_) => return None,
        };
        let value = HeaderValue::from_bytes(value.as_bytes()).ok()?;
        self.headers.try_append(name, value).ok().map(|_| ())
    }
}

/// For `application/x-www-form-urlencoded`.
fn encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        match plain(byte) {
            true => out.push(char::from(byte)),
            false => out.push_str(&format!("%{byte:02X}")),
        }
        out
    })
}

//! The conditions of a rule besides host and path, and the facts of a request that they are held against.

use std::borrow::Cow;
use std::fmt;

use http::{HeaderMap, HeaderName, Method};
use regex::Regex;

use crate::config::{REDACTED, schema};
use crate::policy::caller::{Caller, Callers};
use crate::wire::path;

/// What routing may know of a request: borrowed from its head.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    pub caller: Caller<'a>,
    pub method: &'a Method,
    /// In lower case, without port; empty where the request names none.
    pub host: &'a str,
    /// Normalised.
    pub path: &'a str,
    pub query: Option<&'a str>,
    pub headers: &'a HeaderMap,
    pub grpc: bool,
    pub attributes: &'a [Attribute],
}

/// A named value of requests, and where it is found.
#[derive(Debug, Clone)]
pub struct Attribute {
    pub name: Box<str>,
    pub from: Vec<Key>,
    pub lowercase: bool,
    pub values: Vec<String>,
    pub forward: Option<HeaderName>,
    /// Its values are not to be shown.
    pub secret: bool,
}

/// A part of a request that has values.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Key {
    Header(HeaderName),
    Cookie(Box<str>),
    Query(Box<str>),
    /// Index under `attributes`.
    Attribute(usize),
}

#[derive(Debug, Clone)]
pub struct Condition {
    pub key: Key,
    pub text: Text,
}

#[derive(Debug, Clone)]
pub enum Text {
    Exact(Box<str>),
    Prefix(Box<str>),
    Suffix(Box<str>),
    Regex(Regex),
    Present,
    Absent,
}

/// Lower wins.
pub type Rank = (bool, std::cmp::Reverse<usize>, std::cmp::Reverse<usize>);

#[derive(Debug, Clone, Default)]
pub struct Conditions {
    /// Any of these; all where empty.
    pub methods: Vec<Method>,
    /// `None` is anybody.
    pub from: Option<Callers>,
    pub grpc: bool,
    pub all: Vec<Condition>,
    /// Position in the file, over all rules.
    pub line: usize,
}

impl Conditions {
    pub fn rank(&self) -> Rank {
        let query = self.all.iter().filter(|condition| matches!(condition.key, Key::Query(_))).count();
        let others = self.all.len() - query + usize::from(self.grpc) + usize::from(self.from.is_some());
        (self.methods.is_empty(), std::cmp::Reverse(others), std::cmp::Reverse(query))
    }

    pub fn hold(&self, facts: &Facts<'_>) -> bool {
        (self.methods.is_empty() || self.methods.contains(facts.method))
            && (!self.grpc || facts.grpc)
            && self.from.as_ref().is_none_or(|from| from.fit(&facts.caller))
            && self.all.iter().all(|condition| condition.holds(facts))
    }

    /// The conditions that the rule could be found by.
    pub fn exact(&self) -> impl Iterator<Item = (&Key, &str)> {
        self.all.iter().filter_map(|condition| Some((&condition.key, condition.text.exact()?)))
    }
}

impl Condition {
    /// Any of the values may fulfil it; `Absent` is fulfilled by none.
    pub fn holds(&self, facts: &Facts<'_>) -> bool {
        let mut held = false;
        let mut present = false;
        self.key.each(facts, &mut |value| {
            present = true;
            held |= self.text.holds(value);
        });
        match self.text {
            Text::Absent => !present,
            _ => held,
        }
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(a), Self::Exact(b))
            | (Self::Prefix(a), Self::Prefix(b))
            | (Self::Suffix(a), Self::Suffix(b)) => a == b,
            (Self::Regex(a), Self::Regex(b)) => a.as_str() == b.as_str(),
            (Self::Present, Self::Present) | (Self::Absent, Self::Absent) => true,
            _ => false,
        }
    }
}

impl Text {
    pub fn holds(&self, value: &str) -> bool {
        match self {
            Self::Exact(exact) => **exact == *value,
            Self::Prefix(prefix) => value.starts_with(&**prefix),
            Self::Suffix(suffix) => value.ends_with(&**suffix),
            Self::Regex(regex) => regex.is_match(value),
            Self::Present => true,
            Self::Absent => false,
        }
    }

    pub fn exact(&self) -> Option<&str> {
        match self {
            Self::Exact(exact) => Some(exact),
            _ => None,
        }
    }

    pub fn compile(text: &schema::Text) -> Self {
        use schema::TextMatcher as M;
        match text {
            schema::Text::Exact(value) | schema::Text::Matcher(M::Exact(value)) => Self::Exact(value.as_str().into()),
            schema::Text::Matcher(M::Prefix(value)) => Self::Prefix(value.as_str().into()),
            schema::Text::Matcher(M::Suffix(value)) => Self::Suffix(value.as_str().into()),
            schema::Text::Matcher(M::Regex(pattern)) => Self::Regex(pattern.compile()),
            schema::Text::Matcher(M::Present(true)) => Self::Present,
            schema::Text::Matcher(M::Present(false)) => Self::Absent,
        }
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) => write!(f, "`{text}`"),
            Self::Prefix(text) => write!(f, "prefix `{text}`"),
            Self::Suffix(text) => write!(f, "suffix `{text}`"),
            Self::Regex(regex) => write!(f, "regex `{}`", super::route::written_regex(regex)),
            Self::Present => f.write_str("present"),
            Self::Absent => f.write_str("absent"),
        }
    }
}

impl Key {
    /// Calls `f` with each value. Bytes that are no UTF-8 count as U+FFFD: present, and equal to nothing that is written.
    pub fn each(&self, facts: &Facts<'_>, f: &mut dyn FnMut(&str)) {
        match self {
            Self::Header(name) => {
                for value in facts.headers.get_all(name) {
                    f(&String::from_utf8_lossy(value.as_bytes()));
                }
            }
            Self::Cookie(name) => {
                if let Some(value) = path::cookie_get(facts.headers, name) {
                    f(value);
                }
            }
            Self::Query(name) => {
                if let Some(value) = facts.query.and_then(|query| path::query_get(query, name)) {
                    f(&value);
                }
            }
            Self::Attribute(index) => {
                if let Some(value) = facts.attributes.get(*index).and_then(|attribute| attribute.value(facts)) {
                    f(&value);
                }
            }
        }
    }

    pub fn first<'a>(&self, facts: &Facts<'a>) -> Option<Cow<'a, str>> {
        match self {
            Self::Header(name) => facts.headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes())),
            Self::Cookie(name) => path::cookie_get(facts.headers, name).map(Cow::Borrowed),
            Self::Query(name) => path::query_get(facts.query?, name),
            Self::Attribute(index) => facts.attributes.get(*index)?.value(facts),
        }
    }

    /// `header x-env`.
    pub fn describe(&self, snapshot: &super::Snapshot) -> String {
        match self {
            Self::Header(name) => format!("header {name}"),
            Self::Cookie(name) => format!("cookie {name}"),
            Self::Query(name) => format!("query {name}"),
            Self::Attribute(index) => {
                format!("attribute {}", snapshot.attributes.get(*index).map_or("", |attribute| &*attribute.name))
            }
        }
    }

    pub fn compile(source: &schema::Source) -> Option<Self> {
        Some(match source {
            schema::Source::Header(name) => Self::Header(name.parse().ok()?),
            schema::Source::Cookie(name) => Self::Cookie(name.as_str().into()),
            schema::Source::Query(name) => Self::Query(name.as_str().into()),
        })
    }
}

impl Attribute {
    /// A value as it may be shown.
    pub fn shown<'v>(&self, value: &'v str) -> &'v str {
        if self.secret { REDACTED } else { value }
    }

    pub fn value<'a>(&self, facts: &Facts<'a>) -> Option<Cow<'a, str>> {
        let mut value = self.from.iter().find_map(|key| key.first(facts))?;
        if self.lowercase && value.bytes().any(|byte| byte.is_ascii_uppercase()) {
            value.to_mut().make_ascii_lowercase();
        }
        (self.values.is_empty() || self.values.iter().any(|known| **known == *value)).then_some(value)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::config;
    use crate::snapshot::compile;

    #[test]
    fn values_from_secret_names_are_not_shown() {
        let text = r#"
apiVersion: outrigger/v1
listeners: [{ name: edge, mode: proxy, address: "127.0.0.1:8080" }]
attributes:
  env: { from: [{ header: x-env }, { cookie: env }] }
  user: { from: [{ header: x-user }, { header: Authorization }] }
  who: { from: [{ cookie: session-id }] }
  api-key: { from: [{ query: k }] }
"#;
        let config = config::parse("t.yaml", text, &|_| None).expect("a configuration");
        let snapshot = compile(Arc::new(config), 1, None);
        let shown: Vec<(&str, &str)> = snapshot.attributes.iter().map(|one| (&*one.name, one.shown("v"))).collect();
        let expected = [("env", "v"), ("user", "[redacted]"), ("who", "[redacted]"), ("api-key", "[redacted]")];
        assert_eq!(shown, expected);
    }
}

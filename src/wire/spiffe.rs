//! SPIFFE ids, and patterns of them. Source: the SPIFFE-ID standard, sections 2.1 to 2.4.

use std::fmt;
use std::sync::Arc;

/// Longest id (section 2.3), and longest trust domain, in bytes.
const ID_MAX: usize = 2048;
const TRUST_DOMAIN_MAX: usize = 255;
const SCHEME: &str = "spiffe://";

/// A SPIFFE id in its one normal form: `spiffe://TRUST-DOMAIN/PATH`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId(Arc<str>);

impl SpiffeId {
    /// The error is what is wrong with it, in words.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let rest = text.strip_prefix(SCHEME).ok_or("it does not begin with `spiffe://`")?;
        if text.len() > ID_MAX {
            return Err("it is longer than 2048 bytes");
        }
        let (domain, path) = rest.split_once('/').map_or((rest, None), |(domain, path)| (domain, Some(path)));
        if !is_trust_domain(domain) {
            return Err("its trust domain has other characters than a-z, 0-9, `.`, `-`, `_`");
        }
        for segment in path.into_iter().flat_map(|path| path.split('/')) {
            match segment {
                "" => return Err("its path has an empty segment"),
                "." | ".." => return Err("its path has a dot segment"),
                _ if !segment.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')) => {
                    return Err("its path has other characters than letters, digits, `.`, `-`, `_`");
                }
                _ => {}
            }
        }
        Ok(Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn trust_domain(&self) -> &str {
        let rest = self.0.get(SCHEME.len()..).unwrap_or_default();
        rest.split_once('/').map_or(rest, |(domain, _)| domain)
    }

    /// Of a workload of Kubernetes: `/ns/NAMESPACE/sa/NAME`.
    pub fn namespace(&self) -> Option<&str> {
        let rest = self.0.get(SCHEME.len()..)?;
        let mut segments = rest.split('/').skip(1);
        match (segments.next(), segments.next(), segments.next(), segments.next(), segments.next()) {
            (Some("ns"), Some(namespace), Some("sa"), Some(_), None) => Some(namespace),
            _ => None,
        }
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Lowercase letters, digits, `.`, `-` and `_` (section 2.1).
pub fn is_trust_domain(text: &str) -> bool {
    (1..=TRUST_DOMAIN_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_'))
}

/// Which ids are meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum IdPattern {
    Exact(SpiffeId),
    Prefix(Box<str>),
    /// The texts around each `*`. A `*` at the end stands for any rest, another one for anything but `/`.
    Wild(Box<[Box<str>]>),
}

impl IdPattern {
    /// A text as `identities` has it; the error is in words.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if !text.contains('*') {
            return SpiffeId::parse(text).map(Self::Exact);
        }
        if text != "*" && !text.starts_with(SCHEME) {
            return Err("it does not begin with `spiffe://`");
        }
        if text.len() > ID_MAX {
            return Err("it is longer than 2048 bytes");
        }
        Ok(Self::Wild(text.split('*').map(Into::into).collect()))
    }

    pub fn matches(&self, id: &SpiffeId) -> bool {
        match self {
            Self::Exact(exact) => exact == id,
            Self::Prefix(prefix) => id.as_str().starts_with(&**prefix),
            Self::Wild(parts) => match &**parts {
                [] => false,
                [first, rest @ ..] => id.as_str().strip_prefix(&**first).is_some_and(|text| wild(rest, text)),
            },
        }
    }
}

impl fmt::Display for IdPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(id) => id.fmt(f),
            Self::Prefix(prefix) => write!(f, "{prefix}…"),
            Self::Wild(parts) => f.write_str(&parts.join("*")),
        }
    }
}

/// Whether `text` is: something for a `*`, the first part, something for a `*`, the next …
fn wild(parts: &[Box<str>], text: &str) -> bool {
    match parts {
        [] => text.is_empty(),
        [last] if last.is_empty() => true,
        [part, rest @ ..] => {
            let end = text.find('/').unwrap_or(text.len());
            // Ids are ASCII, so that every index is a boundary; patterns have few parts.
            (0..=end).any(|at| text.get(at..).and_then(|t| t.strip_prefix(&**part)).is_some_and(|t| wild(rest, t)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_of_one_form() {
        let good = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/reviews").expect("an id");
        assert_eq!((good.trust_domain(), good.namespace()), ("cluster.local", Some("shop")));
        assert_eq!(SpiffeId::parse("spiffe://a").expect("an id").namespace(), None);
        for bad in [
            "",
            "spiffe://",
            "spiffe:///a",
            "SPIFFE://a/b",
            "https://a/b",
            "spiffe://A/b",
            "spiffe://a/",
            "spiffe://a//b",
            "spiffe://a/../b",
            "spiffe://a/b?c",
            "spiffe://a/%41",
            "spiffe://a:1/b",
            "spiffe://u@a/b",
            "spiffe://a/b c",
            "spiffe://a/b\0",
        ] {
            assert!(SpiffeId::parse(bad).is_err(), "{bad}");
        }
        assert!(SpiffeId::parse(&format!("spiffe://a/{}", "b".repeat(ID_MAX))).is_err());
    }

    #[test]
    fn patterns_fit_what_they_say() {
        let id = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/reviews").expect("an id");
        for (pattern, fits) in [
            ("spiffe://cluster.local/ns/shop/sa/reviews", true),
            ("spiffe://cluster.local/ns/shop/sa/review", false),
            ("*", true),
            ("spiffe://cluster.local/*", true),
            ("spiffe://cluster.local/ns/shop/*", true),
            ("spiffe://cluster.local/ns/*/sa/reviews", true),
            ("spiffe://*/ns/shop/sa/reviews", true),
            ("spiffe://cluster.local/ns/*/reviews", false),
            ("spiffe://cluster.local/ns/sh*p/sa/rev*", true),
            ("spiffe://other/*", false),
            ("spiffe://cluster.local/ns/*/sa/ratings", false),
        ] {
            assert_eq!(IdPattern::parse(pattern).expect("a pattern").matches(&id), fits, "{pattern}");
        }
        assert!(IdPattern::parse("cluster.local/*").is_err());
    }
}

//! What a configuration looks at: the headers, cookies and query parameters that can change what it decides, the
//! values that are written in it, and the parts of paths. Nothing else of a request is remembered.

use std::collections::HashSet;

use indexmap::IndexMap;
use regex::{Regex, RegexSet};

use super::fingerprint::Value;
use super::shape;
use crate::config::schema::{self, PathMatch, Root, Source, Sticky};
use crate::config::{is_secret, is_secret_attribute};
use crate::snapshot::matcher::{Attribute, Key, Text};

/// Keys that are remembered; what depends on others cannot be told later.
const KEYS_MAX: usize = 256;
/// Conditions on one key whose outcome is remembered where the value is not.
const PROBES_MAX: usize = 64;
/// Longest value that is remembered, in bytes, unless it is written in the configuration.
const VALUE_MAX: usize = 64;

#[derive(Debug, Default)]
pub struct Looked {
    keys: IndexMap<Key, Look>,
    /// Segments of paths that are written out.
    pub(super) segments: HashSet<Box<str>>,
    /// Patterns of whole paths.
    patterns: Vec<Box<str>>,
    /// The same, for one pass; `None` where they are too large together.
    paths: Option<RegexSet>,
}

/// How one key is looked at.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Look {
    /// Values that are written in the configuration, in lower case.
    written: HashSet<Box<str>>,
    probes: Vec<Probe>,
    /// Some condition asks for more than whether it is there, and the name is not that of a secret.
    keeps: bool,
}

/// An attribute and its name.
type Named<'a> = (&'a String, &'a schema::Attribute);

/// A condition on a value, perhaps by way of an attribute.
#[derive(Debug, PartialEq)]
struct Probe {
    lowercase: bool,
    text: Text,
}

impl Looked {
    /// Of a configuration that is sound.
    pub fn of(root: &Root) -> Self {
        let mut looked = Self::default();
        let rules = root.authorization.iter().flat_map(|entry| entry.allow.iter().chain(&entry.deny));
        for operation in rules.map(|rule| &rule.to) {
            operation.paths.iter().for_each(|path| looked.look_at_path(path));
            for (name, text) in &operation.headers {
                looked.look(&Source::Header(name.clone()), None, Some(text));
            }
        }
        for one in root.routes.iter().flat_map(|route| &route.matches) {
            one.path.iter().for_each(|path| looked.look_at_path(path));
            let names = one.grpc.iter().flat_map(|grpc| [&grpc.service, &grpc.method]).flatten();
            looked.segments.extend(names.map(|name| name.as_str().into()));
            for (name, text) in &one.headers {
                looked.look(&Source::Header(name.clone()), None, Some(text));
            }
            for (name, text) in &one.cookies {
                looked.look(&Source::Cookie(name.clone()), None, Some(text));
            }
            for (name, text) in &one.query {
                looked.look(&Source::Query(name.clone()), None, Some(text));
            }
            for (name, text) in &one.attributes {
                looked.look_through(root.attributes.get_key_value(name), Some(text));
            }
        }
        for sticky in root.routes.iter().filter_map(|route| route.sticky.as_ref()) {
            match sticky {
                Sticky::Header(name) => looked.look(&Source::Header(name.clone()), None, None),
                Sticky::Cookie(name) => looked.look(&Source::Cookie(name.clone()), None, None),
                Sticky::Query(name) => looked.look(&Source::Query(name.clone()), None, None),
                Sticky::Attribute(name) => looked.look_through(root.attributes.get_key_value(name), None),
            }
        }
        looked.paths = RegexSet::new(&looked.patterns).ok();
        looked
    }

    pub(super) fn keys(&self) -> impl ExactSizeIterator<Item = (&Key, &Look)> {
        self.keys.iter()
    }

    pub(super) fn get(&self, key: &Key) -> Option<(usize, &Look)> {
        self.keys.get_full(key).map(|(index, _, look)| (index, look))
    }

    pub(super) fn at(&self, index: usize) -> Option<(&Key, &Look)> {
        self.keys.get_index(index)
    }

    /// Which patterns a path meets, as one number: paths of one shape may differ in that. `None` where it is not known.
    pub(super) fn patterns(&self, path: &str) -> Option<u64> {
        let fold = |hash: u64, index: usize| (hash ^ (index as u64 + 1)).wrapping_mul(0x0100_0000_01b3);
        Some(self.paths.as_ref()?.matches(path).into_iter().fold(0, fold))
    }

    pub(super) fn knows_pattern(&self, regex: &Regex) -> bool {
        self.patterns.iter().any(|known| **known == *regex.as_str())
    }

    fn look_at_path(&mut self, path: &PathMatch) {
        match path {
            PathMatch::Exact(path) | PathMatch::Prefix(path) | PathMatch::Template(path) => {
                self.segments.extend(path.split('/').map(Box::from));
            }
            PathMatch::Regex(pattern) => self.patterns.push(pattern.compile().as_str().into()),
        }
    }

    fn look_through(&mut self, attribute: Option<Named<'_>>, text: Option<&schema::Text>) {
        for source in attribute.iter().flat_map(|(_, attribute)| &attribute.from) {
            self.look(source, attribute, text);
        }
    }

    /// Without a condition it is the key of a sticky split.
    fn look(&mut self, source: &Source, by: Option<Named<'_>>, text: Option<&schema::Text>) {
        let Some(key) = Key::compile(source) else { return };
        if self.keys.len() >= KEYS_MAX && !self.keys.contains_key(&key) {
            return;
        }
        let (Source::Header(name) | Source::Cookie(name) | Source::Query(name)) = source;
        let look = self.keys.entry(key).or_default();
        let (lowercase, values) = by.map_or((false, &[][..]), |(_, by)| (by.lowercase, by.values.as_slice()));
        let secret = is_secret(name) || by.is_some_and(|(name, by)| is_secret_attribute(name, by));
        look.written.extend(values.iter().map(|value| value.to_lowercase().into()));
        let Some(text) = text.map(Text::compile) else { return };
        match &text {
            Text::Exact(value) => {
                look.written.insert(value.to_lowercase().into());
                look.keeps |= !secret;
                return;
            }
            Text::Prefix(_) | Text::Suffix(_) | Text::Regex(_) => look.keeps |= !secret,
            Text::Present | Text::Absent => return,
        }
        // A value that is not written is none of those that an attribute may have.
        if values.is_empty() && look.probes.len() < PROBES_MAX {
            look.probes.push(Probe { lowercase, text });
        }
    }
}

/// Patterns that are equal were compiled from the same text.
impl PartialEq for Looked {
    fn eq(&self, other: &Self) -> bool {
        self.keys.iter().eq(other.keys.iter()) && self.segments == other.segments && self.patterns == other.patterns
    }
}

impl Look {
    /// What is remembered of a value.
    pub(super) fn remember(&self, value: &str) -> Value {
        let keeps = self.keeps && value.len() <= VALUE_MAX && !shape::is_token(value);
        if keeps || self.written.contains(value.to_lowercase().as_str()) {
            return Value::Kept(value.into());
        }
        let holds = self.probes.iter().enumerate().filter(|(_, probe)| probe.holds(value));
        Value::Hidden(holds.fold(0, |held, (index, _)| held | 1 << index))
    }

    /// Whether a condition holds for a value that was not remembered; `None` where that cannot be told.
    pub(super) fn hidden(&self, held: u64, by: Option<&Attribute>, text: &Text) -> Option<bool> {
        let written = |value: &str| self.written.contains(value.to_lowercase().as_str());
        if let Some(attribute) = by.filter(|by| !by.values.is_empty()) {
            // What is written is remembered: this value is none of those that the attribute may have.
            let all = attribute.values.iter().all(|value| written(value));
            return all.then_some(matches!(text, Text::Absent));
        }
        match text {
            Text::Exact(value) => written(value).then_some(false),
            Text::Present => Some(true),
            Text::Absent => Some(false),
            Text::Prefix(_) | Text::Suffix(_) | Text::Regex(_) => {
                let lowercase = by.is_some_and(|by| by.lowercase);
                let same = |probe: &Probe| probe.text == *text && probe.lowercase == lowercase;
                self.probes.iter().position(same).map(|index| held & 1 << index != 0)
            }
        }
    }
}

impl Probe {
    fn holds(&self, value: &str) -> bool {
        let lower = self.lowercase.then(|| value.to_ascii_lowercase());
        self.text.holds(lower.as_deref().unwrap_or(value))
    }
}

/// Whether a condition on an attribute holds for the value of its source, in its case.
pub(super) fn holds(text: &Text, values: &[String], value: &str) -> bool {
    let allowed = values.is_empty() || values.iter().any(|known| *known == value);
    match text {
        Text::Absent => !allowed,
        text => allowed && text.holds(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_source_of_a_secret_attribute_is_kept() {
        let text = r#"
apiVersion: outrigger/v1
listeners: [{ name: edge, mode: proxy, address: "127.0.0.1:8080" }]
services: { app: { endpoints: { static: ["127.0.0.1:1"] } } }
attributes:
  env: { from: [{ header: x-env }] }
  who: { from: [{ header: x-who }, { header: authorization }] }
  session: { from: [{ header: x-sid }] }
routes:
  - { name: a, to: app, match: [{ attributes: { env: { prefix: a }, who: { prefix: a }, session: { prefix: a } } }] }
"#;
        let config = crate::config::parse("t.yaml", text, &|_| None).expect("a configuration");
        let looked = Looked::of(config.root());
        let kept: Vec<bool> = looked.keys().map(|(_, look)| matches!(look.remember("ada"), Value::Kept(_))).collect();
        assert_eq!(kept, [true, false, false, false]);
    }
}

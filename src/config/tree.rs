//! A YAML text as a tree in which every key and every value knows its place.
//!
//! Syntax is judged here (by the YAML library, within budgets); meaning is not.

use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Number;
use serde_yaml::{Location, Spanned};

use super::problem::{Place, Problem};

#[derive(Debug, Clone)]
pub struct Node {
    pub value: Value,
    pub place: Place,
    /// Before the environment filled it in. Such text may stand for a number or a boolean, and is not shown.
    pub written: Option<Box<str>>,
    /// Not to be shown at all.
    pub secret: bool,
}

#[derive(Debug, Clone)]
pub enum Value {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    Seq(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Debug, Clone)]
pub struct Entry {
    pub key: String,
    pub place: Place,
    pub value: Node,
}

/// Larger files are refused unread.
pub const FILE_BYTES_MAX: u64 = 16 << 20;
/// Nesting that any meaningful configuration stays far below; bounds our recursion as well.
const DEPTH_MAX: usize = 48;
/// Nodes of one file: 100,000 routes of some size.
const NODES_MAX: usize = 4_000_000;
/// What stands behind anchors, with what aliases within it stand for: a bomb of aliases takes no time.
const ANCHORED_MAX: usize = 100_000;

impl Node {
    pub fn map(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    pub fn seq(&self) -> &[Node] {
        match &self.value {
            Value::Seq(items) => items,
            _ => &[],
        }
    }

    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.map().iter().find(|entry| entry.key == key)
    }

    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|entry| &entry.value)
    }

    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    /// What messages say in place of the value, where they must not say it.
    pub fn veil(&self) -> Option<&str> {
        if self.secret { Some(super::REDACTED) } else { self.written.as_deref() }
    }

    /// What it is, for messages.
    pub fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::Text(_) => "text",
            Value::Seq(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    /// Place of what stands at `path` (as `Problem::path` has it): the key of a collection, else the value.
    pub fn find(&self, path: &str) -> Option<&Place> {
        self.lookup(path).map(|(_, place, _)| place)
    }

    /// Place of the key at `path`, or of the item where it is an index.
    pub fn find_key(&self, path: &str) -> Option<&Place> {
        self.lookup(path).map(|(key, _, _)| key)
    }

    /// What stands at `path`.
    pub fn at(&self, path: &str) -> Option<&Node> {
        self.lookup(path).map(|(_, _, node)| node)
    }

    fn lookup(&self, path: &str) -> Option<(&Place, &Place, &Node)> {
        let (mut node, mut key, mut place, mut rest) = (self, &self.place, &self.place, path);
        while !rest.is_empty() {
            if let Some(inner) = rest.strip_prefix('[').filter(|inner| !inner.starts_with('"')) {
                let (index, after) = inner.split_once(']')?;
                node = node.seq().get(index.parse::<usize>().ok()?)?;
                (key, place, rest) = (&node.place, &node.place, after);
                continue;
            }
            let entry = node.map().iter().find_map(|entry| {
                let step = step(&entry.key);
                let after = rest.strip_prefix(step.as_str()).or_else(|| rest.strip_prefix(step.strip_prefix('.')?))?;
                (after.is_empty() || after.starts_with(['.', '['])).then_some((entry, after))
            });
            let (entry, after) = entry?;
            node = &entry.value;
            let collection = matches!(node.value, Value::Map(_) | Value::Seq(_) | Value::Null);
            (key, place, rest) = (&entry.place, if collection { &entry.place } else { &node.place }, after);
        }
        Some((key, place, node))
    }
}

/// One step of a path into a mapping: `.key`, or `["odd key"]`.
pub fn step(key: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_');
    if !key.is_empty() && key.chars().all(plain) { format!(".{key}") } else { format!("[{key:?}]") }
}

/// Reads one document.
pub fn parse(file: &Arc<str>, text: &str) -> Result<Node, Box<Problem>> {
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(too_large(file).into());
    }
    let options = serde_yaml::options! {
        budget: serde_yaml::budget! {
            max_depth: DEPTH_MAX,
            flow_nesting_limit: DEPTH_MAX,
            max_nodes: NODES_MAX,
            max_events: NODES_MAX * 2,
            max_recorded_anchor_events: ANCHORED_MAX,
        },
        strict_booleans: true,
        reject_unsupported_tags: true,
        non_finite_float_policy: serde_yaml::NonFiniteFloatPolicy::AsString,
        with_snippet: false,
    };
    let raw: Spanned<Raw> = serde_yaml::from_str_with_options(text, options).map_err(|error| syntax(file, &error))?;
    match raw.value {
        Raw::Null => Err(Problem::at(&start(file), "", "the file is empty").into()),
        _ => Ok(node(file, raw)),
    }
}

fn syntax(file: &Arc<str>, error: &serde_yaml::Error) -> Box<Problem> {
    let place = error.location().map_or_else(|| start(file), |location| place(file, location, 0));
    let at = |message: String| Problem::at(&place, "", message);
    let problem = match error.without_snippet() {
        serde_yaml::Error::DuplicateMappingKey { key: Some(key), .. } => {
            at(format!("`{key}` is there twice")).remedy("keys are unique within a mapping")
        }
        serde_yaml::Error::MultipleDocuments { .. } => {
            at("more than one YAML document".to_owned()).remedy("one file, one document")
        }
        _ => {
            let message = error.render_with_formatter(&serde_yaml::UserMessageFormatter);
            let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(message, _)| message);
            at(format!("not YAML that can be read: {message}"))
        }
    };
    problem.into()
}

pub fn too_large(file: &Arc<str>) -> Problem {
    Problem::at(&start(file), "", format!("the file is larger than {} MiB", FILE_BYTES_MAX >> 20))
}

/// The very beginning of a file.
pub fn start(file: &Arc<str>) -> Place {
    Place { file: file.clone(), line: 1, column: 1, width: 0 }
}

fn place(file: &Arc<str>, location: Location, width: usize) -> Place {
    let number = |n: u64| u32::try_from(n).unwrap_or(u32::MAX).max(1);
    let width = u32::try_from(width).unwrap_or(u32::MAX);
    Place { file: file.clone(), line: number(location.line()), column: number(location.column()), width }
}

fn node(file: &Arc<str>, raw: Spanned<Raw>) -> Node {
    let width = match &raw.value {
        Raw::Seq(_) | Raw::Map(_) => 0,
        _ => usize::try_from(raw.referenced.span().len()).unwrap_or(0),
    };
    let value = match raw.value {
        Raw::Null => Value::Null,
        Raw::Bool(value) => Value::Bool(value),
        Raw::Number(number) => Value::Number(number),
        Raw::Text(text) => Value::Text(text),
        Raw::Seq(items) => Value::Seq(items.into_iter().map(|item| node(file, item)).collect()),
        Raw::Map(entries) => Value::Map(entries.into_iter().map(|(key, value)| entry(file, key, value)).collect()),
    };
    Node { value, place: place(file, raw.referenced, width), written: None, secret: false }
}

fn entry(file: &Arc<str>, key: Spanned<String>, value: Spanned<Raw>) -> Entry {
    let width = usize::try_from(key.referenced.span().len()).unwrap_or(0);
    Entry { key: key.value, place: place(file, key.referenced, width), value: node(file, value) }
}

/// What serde sees, before places are made ours.
enum Raw {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    Seq(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Number(value.into()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Number(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Raw, E> {
        Ok(Number::from_f64(value).map_or_else(|| Raw::Text(value.to_string()), Raw::Number))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Raw::Seq(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(Raw::Map(entries))
    }
}

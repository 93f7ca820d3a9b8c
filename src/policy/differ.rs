//! In what two answers to the same request differ, and what was found so over many of them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, StatusCode};
use serde_json::Value;

/// Kinds of differences between one pair of answers that are told.
const OF_ONE_MAX: usize = 32;
/// Kinds that are counted by their name, and kinds that are known to be noise.
const KINDS_MAX: usize = 128;
const NOISE_MAX: usize = 256;
const EXAMPLES_MAX: usize = 16;
/// Bytes of a kind.
const KIND_BYTES_MAX: usize = 200;

/// What is compared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    pub status: bool,
    pub headers: Vec<HeaderName>,
    pub body: Option<BodyRule>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BodyRule {
    /// Field by field, where both are JSON.
    pub json: bool,
    pub ignore: Vec<Pointer>,
}

/// A JSON pointer (RFC 6901); `*` stands for any one key or index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pointer(Vec<String>);

#[derive(Debug, Clone)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// What is known of all pairs so far. Bounded, whatever they are.
#[derive(Debug, Clone, Default)]
pub struct Report {
    pub compared: u64,
    pub equal: u64,
    /// Answers that were not had, or are too large.
    pub uncompared: u64,
    /// Pairs of answers of the service itself.
    pub noise_pairs: u64,
    /// How many pairs differ in what: `status`, `header x-a`, `body`, `body /items/*/id`.
    pub kinds: BTreeMap<String, u64>,
    /// Differences that found no room among the kinds.
    pub more_kinds: u64,
    /// What differs between two answers of the service itself: not counted any more.
    pub noise: BTreeSet<String>,
    /// The newest last.
    pub examples: VecDeque<Example>,
}

/// A pair that differs; no values, which may be anybody's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Example {
    pub id: String,
    pub method: String,
    /// Without its query.
    pub path: String,
    pub statuses: (u16, u16),
    pub differs_in: Vec<String>,
}

impl Pointer {
    pub fn new(text: &str) -> Self {
        Self(text.split('/').skip(1).map(|part| part.replace("~1", "/").replace("~0", "~")).collect())
    }

    fn is(&self, path: &[Step<'_>]) -> bool {
        let fits = |(wanted, step): (&String, &Step<'_>)| match step {
            _ if wanted == "*" => true,
            Step::Key(key) => wanted == key,
            Step::Index(index) => wanted.parse() == Ok(*index),
        };
        self.0.len() == path.len() && self.0.iter().zip(path).all(fits)
    }
}

#[derive(Debug, Clone, Copy)]
enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

/// Each kind once; none where they are equal as far as the rule looks.
pub fn differences(rule: &Rule, one: &Answer, other: &Answer) -> Vec<String> {
    let mut found = Found(Vec::new());
    if rule.status && one.status != other.status {
        found.push("status".to_owned());
    }
    for name in &rule.headers {
        if !one.headers.get_all(name).iter().eq(other.headers.get_all(name)) {
            found.push(format!("header {name}"));
        }
    }
    if let Some(body) = &rule.body
        && one.body != other.body
    {
        let json = |bytes: &Bytes| serde_json::from_slice::<Value>(bytes).ok().filter(|_| body.json);
        match json(&one.body).zip(json(&other.body)) {
            Some((one, other)) => walk(&one, &other, &body.ignore, &mut Vec::new(), &mut found),
            None => found.push("body".to_owned()),
        }
    }
    found.0
}

struct Found(Vec<String>);

impl Found {
    fn push(&mut self, mut kind: String) {
        kind.truncate(kind.floor_char_boundary(KIND_BYTES_MAX));
        if self.0.len() < OF_ONE_MAX && !self.0.contains(&kind) {
            self.0.push(kind);
        }
    }

    fn field(&mut self, path: &[Step<'_>]) {
        let mut kind = "body ".to_owned();
        for step in path {
            match step {
                Step::Key(key) => kind.extend(["/", &key.replace('~', "~0").replace('/', "~1")]),
                // One kind for all items.
                Step::Index(_) => kind.push_str("/*"),
            }
        }
        self.push(if path.is_empty() { "body".to_owned() } else { kind });
    }
}

/// Depth is bounded by the parser of JSON.
fn walk<'a>(one: &'a Value, other: &'a Value, ignore: &[Pointer], path: &mut Vec<Step<'a>>, found: &mut Found) {
    if found.0.len() >= OF_ONE_MAX || ignore.iter().any(|pointer| pointer.is(path)) {
        return;
    }
    let mut below = |step: Step<'a>, pair: (Option<&'a Value>, Option<&'a Value>), found: &mut Found| {
        path.push(step);
        match pair {
            (Some(one), Some(other)) => walk(one, other, ignore, path, found),
            _ if ignore.iter().any(|pointer| pointer.is(path)) => {}
            _ => found.field(path),
        }
        path.pop();
    };
    match (one, other) {
        (Value::Object(a), Value::Object(b)) => {
            for (key, value) in a {
                below(Step::Key(key), (Some(value), b.get(key)), found);
            }
            for (key, value) in b.iter().filter(|(key, _)| !a.contains_key(*key)) {
                below(Step::Key(key), (None, Some(value)), found);
            }
        }
        (Value::Array(a), Value::Array(b)) => {
            for index in 0..a.len().max(b.len()) {
                below(Step::Index(index), (a.get(index), b.get(index)), found);
            }
        }
        (one, other) if one != other => found.field(path),
        _ => {}
    }
}

impl Report {
    /// Two answers of the service itself differ in these.
    pub fn learn(&mut self, differs_in: Vec<String>) {
        self.noise_pairs += 1;
        for kind in differs_in {
            self.kinds.remove(&kind);
            if self.noise.len() < NOISE_MAX {
                self.noise.insert(kind);
            }
        }
    }

    /// The answers of the service and of the copy differ in these.
    pub fn add(&mut self, mut differs_in: Vec<String>, example: impl FnOnce(Vec<String>) -> Example) {
        self.compared += 1;
        differs_in.retain(|kind| !self.noise.contains(kind));
        if differs_in.is_empty() {
            self.equal += 1;
            return;
        }
        for kind in &differs_in {
            let room = self.kinds.len() < KINDS_MAX;
            match self.kinds.get_mut(kind) {
                Some(count) => *count += 1,
                None if room => drop(self.kinds.insert(kind.clone(), 1)),
                None => self.more_kinds += 1,
            }
        }
        if self.examples.len() == EXAMPLES_MAX {
            self.examples.pop_front();
        }
        self.examples.push_back(example(differs_in));
    }
}

#[cfg(test)]
mod tests;

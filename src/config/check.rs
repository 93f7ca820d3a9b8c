//! Holds a tree against the JSON Schema that the types make, and reports every difference with its place.
//!
//! Only the part of JSON Schema that schemars emits for our types is understood. What is sound becomes JSON that
//! serde cannot refuse; what is not is left out, entry by entry, so that the rest can be judged further.

use std::sync::OnceLock;

use serde_json::{Map, Value as Json};

use super::format;
use super::problem::{Place, Problem};
use super::schema;
use super::tree::{Entry, Node, Value, step};

/// What is sound of a configuration, as JSON.
#[derive(Debug, Default)]
pub struct Sound {
    pub json: Map<String, Json>,
    /// Where each entry of these lists in the JSON stands in the tree.
    pub routes: Vec<usize>,
    pub listeners: Vec<usize>,
    pub authorization: Vec<usize>,
    pub policies: Vec<usize>,
}

/// Keys and values that later versions have: refused by name, never ignored.
const LATER: &[(&str, &[&str])] = &[
    ("services.*.endpoints", &["kubernetes", "consul", "etcd", "nacos"]),
    ("routes[]", &["slo"]),
    ("telemetry.tracing", &["sample", "otlp"]),
];

/// Keys that others are judged by: without a sound value for one, its mapping is left out, so that no problem is
/// reported that is only the echo of another.
const MATTERING: &[&str] = &[
    "to",
    "split",
    "redirect",
    "respond",
    "match",
    "path",
    "prefix",
    "hosts",
    "listeners",
    "protocol",
    "port",
    "labels",
    "subsets",
    "allow",
    "deny",
    "from",
    "service",
    "method",
    "values",
    "lowercase",
    "certificate",
    "privateKey",
    "identities",
    "identity",
    "policy",
    "hashKey",
    "zone",
    "region",
    "http",
    "grpc",
    "tcp",
    "delay",
    "abort",
    "bandwidth",
    "status",
    "reset",
];

/// The schema of a whole configuration.
pub fn json_schema() -> &'static Json {
    static SCHEMA: OnceLock<Json> = OnceLock::new();
    SCHEMA.get_or_init(|| schemars::schema_for!(schema::Root).to_value())
}

/// Checks a whole configuration.
pub fn root(tree: &Node, problems: &mut Vec<Problem>) -> Sound {
    let (mut sound, mut check) = (Sound::default(), Checker { problems });
    if !matches!(tree.value, Value::Map(_)) {
        let message = format!("a configuration is a mapping, and this is {}", tree.kind());
        check.problems.push(Problem::at(&tree.place, "", message).remedy("begin with `apiVersion: outrigger/v1`"));
        return sound;
    }
    check.missing(tree, json_schema(), "", &tree.place);
    for entry in tree.map() {
        let Some(property) = json_schema()["properties"].get(&entry.key) else {
            check.unknown_key(entry, &keys(json_schema()), "", "");
            continue;
        };
        let at = At { path: entry.key.clone(), shape: entry.key.clone() };
        let value = match (entry.key.as_str(), &entry.value.value) {
            (_, Value::Null) => continue,
            ("services" | "attributes", Value::Map(_)) => check.entries(&entry.value, property, &at),
            ("routes", Value::Seq(_)) => check.items(&entry.value, property, &at, &mut sound.routes),
            ("listeners", Value::Seq(_)) => check.items(&entry.value, property, &at, &mut sound.listeners),
            ("policies", Value::Seq(_)) => check.items(&entry.value, property, &at, &mut sound.policies),
            ("authorization", Value::Seq(_)) => check.items(&entry.value, property, &at, &mut sound.authorization),
            _ => check.node(&entry.value, property, &at, pointed(entry)),
        };
        sound.json.extend(value.map(|value| (entry.key.clone(), value)));
    }
    // Whatever it says, the rest is judged by the only language that we know.
    sound.json.insert("apiVersion".to_owned(), Json::from("outrigger/v1"));
    sound
}

/// Checks `node` against the definition with that name; `None` if there is any problem.
pub fn definition(node: &Node, name: &str, path: &str, problems: &mut Vec<Problem>) -> Option<Json> {
    let at = At { path: path.to_owned(), shape: path.to_owned() };
    let definition = json_schema()["$defs"].get(name)?;
    Checker { problems }.node(node, definition, &at, &node.place)
}

/// Checks `node` against a schema without references; `None` if there is any problem.
pub fn against(node: &Node, schema: &'static Json, problems: &mut Vec<Problem>) -> Option<Json> {
    let at = At { path: String::new(), shape: String::new() };
    Checker { problems }.node(node, schema, &at, &node.place)
}

/// `did you mean`: the word of `known` that is meant by `word`, if one is near enough.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_lowercase();
    let near = |known: &'a str| (strsim::damerau_levenshtein(&lower, &known.to_lowercase()), known);
    let best = known.into_iter().filter(|known| known.len() < 256).map(near).min_by_key(|(distance, _)| *distance);
    best.filter(|(distance, known)| *distance <= (known.chars().count() / 3).max(1)).map(|(_, known)| known)
}

/// `a`, `b` or `c`.
pub fn listed<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let words: Vec<String> = words.into_iter().map(|word| format!("`{word}`")).collect();
    match words.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => String::new(),
    }
}

/// Where the checker is: as the file has it, and with `*` for names and `[]` for indices.
struct At {
    path: String,
    shape: String,
}

impl At {
    fn key(&self, key: &str, named: bool) -> Self {
        let (path, dot) = if self.path.is_empty() { ("", "") } else { (self.path.as_str(), ".") };
        let key_step = step(key);
        let key_step = if path.is_empty() { key_step.trim_start_matches('.') } else { &key_step };
        let shape = format!("{}{dot}{}", self.shape, if named { "*" } else { key });
        Self { path: format!("{path}{key_step}"), shape }
    }

    fn index(&self, index: usize) -> Self {
        Self { path: format!("{}[{index}]", self.path), shape: format!("{}[]", self.shape) }
    }
}

struct Checker<'p> {
    problems: &'p mut Vec<Problem>,
}

impl Checker<'_> {
    /// Checks one node; `place` is what to point at. `None` if there is any problem in it.
    fn node(&mut self, node: &Node, schema: &'static Json, at: &At, place: &Place) -> Option<Json> {
        let leaves = leaves(schema);
        let of = |kind: &str| leaves.iter().filter(|leaf| allows(leaf, kind)).copied().collect::<Vec<_>>();
        match &node.value {
            Value::Map(_) => match of("object").as_slice() {
                [] => self.wrong_kind(node, &leaves, at, place),
                [object] => self.object(node, object, at, place),
                tagged => self.tagged(node, tagged, at, place),
            },
            Value::Seq(items) => match of("array").first() {
                None => self.wrong_kind(node, &leaves, at, place),
                Some(array) => self.array(node, items.len(), array, at, place),
            },
            _ => self.scalar(node, &leaves, at, place),
        }
    }

    fn object(&mut self, node: &Node, schema: &'static Json, at: &At, place: &Place) -> Option<Json> {
        let (before, mut sound) = (self.problems.len(), true);
        let mut result = Map::new();
        let required = |key: &str| words(&schema["required"]).any(|required| required == key);
        if schema["additionalProperties"].is_object() {
            let value = self.entries(node, schema, at);
            self.at_least(node.map().len(), &schema["minProperties"], "entry", at, place);
            return value.filter(|_| self.problems.len() == before);
        }
        for entry in node.map() {
            let Some(property) = schema["properties"].get(&entry.key) else {
                sound &= !self.unknown_key(entry, &keys(schema), &at.path, &at.shape).is_some_and(matters);
                continue;
            };
            if entry.value.is_null() && !required(&entry.key) {
                continue;
            }
            let value = self.node(&entry.value, property, &at.key(&entry.key, false), pointed(entry));
            sound &= value.is_some() || !(required(&entry.key) || matters(&entry.key));
            result.extend(value.map(|value| (entry.key.clone(), value)));
        }
        sound &= self.missing(node, schema, &at.path, place) == 0;
        sound.then_some(Json::Object(result))
    }

    /// A mapping from names: what is sound of it.
    fn entries(&mut self, node: &Node, schema: &'static Json, at: &At) -> Option<Json> {
        let mut result = Map::new();
        for entry in node.map() {
            let inner = at.key(&entry.key, true);
            let form = schema["propertyNames"]["format"].as_str().unwrap_or_default();
            let sound = match format::judge(form, &entry.key) {
                Ok(()) => true,
                Err((message, remedy)) => {
                    self.push(&entry.place, &inner, message, remedy);
                    false
                }
            };
            let value = self.node(&entry.value, &schema["additionalProperties"], &inner, pointed(entry));
            result.extend(value.filter(|_| sound).map(|value| (entry.key.clone(), value)));
        }
        Some(Json::Object(result))
    }

    /// A list: what is sound of it, and where each of that stands.
    fn items(&mut self, node: &Node, schema: &'static Json, at: &At, kept: &mut Vec<usize>) -> Option<Json> {
        let mut result = Vec::new();
        for (index, item) in node.seq().iter().enumerate() {
            if let Some(value) = self.node(item, &schema["items"], &at.index(index), &item.place) {
                result.push(value);
                kept.push(index);
            }
        }
        Some(Json::Array(result))
    }

    fn array(&mut self, node: &Node, length: usize, schema: &'static Json, at: &At, place: &Place) -> Option<Json> {
        let before = self.problems.len();
        let value = self.items(node, schema, at, &mut Vec::new());
        self.at_least(length, &schema["minItems"], "item", at, place);
        value.filter(|_| self.problems.len() == before)
    }

    /// One of several mappings with one key each, as serde writes enums.
    fn tagged(&mut self, node: &Node, leaves: &[&'static Json], at: &At, place: &Place) -> Option<Json> {
        let before = self.problems.len();
        let known: Vec<&str> = leaves.iter().flat_map(|leaf| keys(leaf)).collect();
        let mut result = Map::new();
        for entry in node.map() {
            let Some(property) = leaves.iter().find_map(|leaf| leaf["properties"].get(&entry.key)) else {
                self.unknown_key(entry, &known, &at.path, &at.shape);
                continue;
            };
            if result.len() == 1 {
                let message = format!("only one of {} may be there", listed(known.iter().copied()));
                self.push(&entry.place, &at.key(&entry.key, false), message, Some("remove the others".to_owned()));
                break;
            }
            let value = self.node(&entry.value, property, &at.key(&entry.key, false), pointed(entry));
            result.insert(entry.key.clone(), value.unwrap_or_default());
        }
        if result.is_empty() && self.problems.len() == before {
            let message = format!("one of {} is missing", listed(known.iter().copied()));
            self.push(place, at, message, None);
        }
        (self.problems.len() == before).then_some(Json::Object(result))
    }

    fn scalar(&mut self, node: &Node, leaves: &[&'static Json], at: &At, place: &Place) -> Option<Json> {
        if let Value::Text(text) = &node.value {
            if leaves.iter().any(|leaf| choices(leaf).any(|choice| choice == text)) {
                return Some(Json::from(text.as_str()));
            }
            if let Some(free) = leaves.iter().find(|leaf| is_free_text(leaf)) {
                return self.text(node, text, free, at, place);
            }
        }
        let literal = literal(node);
        let kind = match &literal {
            Json::Bool(_) => "boolean",
            Json::Number(number) if number.is_u64() || number.is_i64() => "integer",
            Json::Number(_) => "number",
            _ => "string",
        };
        let fits = |leaf: &&&Json| allows(leaf, kind) || (kind == "integer" && allows(leaf, "number"));
        match leaves.iter().filter(|_| kind != "string").find(fits) {
            Some(leaf) => self.range(node, literal, leaf, at, place),
            None => self.wrong_kind(node, leaves, at, place),
        }
    }

    fn text(&mut self, node: &Node, text: &str, schema: &Json, at: &At, place: &Place) -> Option<Json> {
        let length = text.chars().count() as u64;
        if let Some(least) = schema["minLength"].as_u64().filter(|least| length < *least) {
            let (message, remedy) = match least {
                1 => ("an empty text".to_owned(), "write something, or remove the key".to_owned()),
                _ => (format!("shorter than {least} characters"), format!("write {least} or more")),
            };
            self.push(place, at, message, Some(remedy));
            return None;
        }
        match format::judge(schema["format"].as_str().unwrap_or_default(), text) {
            Ok(()) => Some(Json::from(text)),
            Err(flaw) => {
                let (message, remedy) = veiled(flaw, text, node.veil());
                self.push(place, at, message, remedy);
                None
            }
        }
    }

    fn range(&mut self, node: &Node, literal: Json, schema: &Json, at: &At, place: &Place) -> Option<Json> {
        let value = literal.as_f64().unwrap_or_default();
        let widest = match schema["format"].as_str() {
            Some("uint16") => Some(f64::from(u16::MAX)),
            Some("uint32") => Some(f64::from(u32::MAX)),
            _ => None,
        };
        let least = schema["minimum"].as_f64();
        let most = schema["maximum"].as_f64().or(widest);
        if least.is_none_or(|least| value >= least) && most.is_none_or(|most| value <= most) {
            return Some(literal);
        }
        let remedy = match (least, most) {
            (Some(least), Some(most)) => format!("from {least} to {most}"),
            (Some(least), None) => format!("at least {least}"),
            (None, most) => format!("at most {}", most.unwrap_or_default()),
        };
        let shown = node.veil().map_or_else(|| literal.to_string(), |veil| format!("`{veil}`"));
        self.push(place, at, format!("{shown} is out of range"), Some(remedy));
        None
    }

    fn wrong_kind(&mut self, node: &Node, leaves: &[&'static Json], at: &At, place: &Place) -> Option<Json> {
        let choices: Vec<&str> = leaves.iter().flat_map(|leaf| choices(leaf)).collect();
        if let (Value::Text(text), false) = (&node.value, choices.is_empty()) {
            let shown = node.veil().unwrap_or(text);
            let (message, remedy) = match nearest(text, choices.iter().copied()) {
                _ if is_later(&at.shape, text) => (unsupported(shown), Some(format!("use {}", listed(choices)))),
                Some(near) if at.shape != "apiVersion" => {
                    (format!("unknown value `{shown}`"), Some(format!("did you mean `{near}`?")))
                }
                _ if at.shape == "apiVersion" => {
                    let remedy = format!("this version speaks {}", expected(leaves));
                    (unsupported(shown), Some(remedy))
                }
                _ => (format!("unknown value `{shown}`"), Some(format!("expected {}", expected(leaves)))),
            };
            self.push(place, at, message, remedy);
            return None;
        }
        let form = leaves.iter().find_map(|leaf| leaf["format"].as_str());
        let remedy = match (&node.value, form) {
            (Value::Number(number), Some("gatewayDuration")) => {
                Some(format!("write it with its unit: `{number}ms` or `{number}s`"))
            }
            (Value::Number(number), Some("hedgeAfter")) => Some(format!("write `p{number}`, or `{number}ms`")),
            (Value::Number(_) | Value::Bool(_), _) if leaves.iter().any(is_free_text) => {
                Some("write it in quotes".to_owned())
            }
            (Value::Text(text), _) if is_number(text) => Some("write it without quotes".to_owned()),
            (Value::Text(_), _) if leaves.iter().any(|leaf| allows(leaf, "array")) => {
                Some("a list of one is written `[…]`".to_owned())
            }
            _ => None,
        };
        self.push(place, at, format!("expected {}, found {}", expected(leaves), node.kind()), remedy);
        None
    }

    /// Reports the key, and returns the one that it was probably meant to be.
    fn unknown_key<'k>(&mut self, entry: &Entry, known: &[&'k str], path: &str, shape: &str) -> Option<&'k str> {
        let key = entry.key.as_str();
        let later = is_later(shape, key);
        let near = nearest(key, known.iter().copied()).filter(|_| !later);
        let (message, remedy) = match near {
            _ if later => (unsupported(key), "remove it".to_owned()),
            Some(near) => (format!("unknown key `{key}`"), format!("did you mean `{near}`?")),
            None => (format!("unknown key `{key}`"), format!("expected {}", listed(known.iter().copied()))),
        };
        let at = At { path: path.to_owned(), shape: String::new() }.key(key, false);
        self.push(&entry.place, &at, message, Some(remedy));
        near
    }

    /// Reports the required keys that are not there, and how many they are.
    fn missing(&mut self, node: &Node, schema: &'static Json, path: &str, place: &Place) -> usize {
        let before = self.problems.len();
        for key in words(&schema["required"]).filter(|key| node.entry(key).is_none()) {
            let example = match schema["properties"].get(key).map(leaves).unwrap_or_default().as_slice() {
                [leaf] if choices(leaf).count() == 1 => format!("{key}: {}", choices(leaf).next().unwrap_or_default()),
                _ => format!("{key}: …"),
            };
            let problem = Problem::at(place, path, format!("`{key}` is missing"));
            self.problems.push(problem.remedy(format!("add `{example}`")));
        }
        self.problems.len() - before
    }

    fn at_least(&mut self, count: usize, least: &Json, what: &str, at: &At, place: &Place) {
        if least.as_u64().is_some_and(|least| (count as u64) < least) {
            self.push(place, at, "there is nothing in it".to_owned(), Some(format!("it needs one {what} at least")));
        }
    }

    fn push(&mut self, place: &Place, at: &At, message: String, remedy: Option<String>) {
        self.problems.push(Problem { remedy, ..Problem::at(place, at.path.as_str(), message) });
    }
}

/// The alternatives of a schema, with references followed and `null` left out.
pub fn leaves(schema: &'static Json) -> Vec<&'static Json> {
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.trim_start_matches("#/$defs/");
        return json_schema()["$defs"].get(name).map(leaves).unwrap_or_default();
    }
    match schema["oneOf"].as_array().or(schema["anyOf"].as_array()) {
        Some(alternatives) => alternatives.iter().flat_map(leaves).collect(),
        None if schema["type"] == "null" => Vec::new(),
        None => vec![schema],
    }
}

fn words(json: &Json) -> impl Iterator<Item = &str> {
    json.as_array().into_iter().flatten().filter_map(Json::as_str)
}

pub fn keys(schema: &Json) -> Vec<&str> {
    schema["properties"].as_object().into_iter().flat_map(|map| map.keys().map(String::as_str)).collect()
}

/// The texts that an enumeration allows.
fn choices(schema: &Json) -> impl Iterator<Item = &str> {
    words(&schema["enum"]).chain(schema["const"].as_str())
}

pub fn allows(schema: &Json, kind: &str) -> bool {
    schema["type"] == kind || words(&schema["type"]).any(|allowed| allowed == kind)
}

fn is_free_text(schema: &&Json) -> bool {
    allows(schema, "string") && choices(schema).next().is_none()
}

/// What to underline for an entry: its value, or its key where the value is a collection or not there.
fn pointed(entry: &Entry) -> &Place {
    match entry.value.value {
        Value::Null | Value::Map(_) | Value::Seq(_) => &entry.place,
        _ => &entry.value.place,
    }
}

/// A scalar as JSON; text out of the environment as what it looks like.
fn literal(node: &Node) -> Json {
    match &node.value {
        Value::Bool(value) => Json::Bool(*value),
        Value::Number(number) => Json::Number(number.clone()),
        Value::Text(text) if node.written.is_some() => match serde_json::from_str(text.trim()) {
            Ok(value @ (Json::Number(_) | Json::Bool(_))) => value,
            _ => Json::from(text.as_str()),
        },
        Value::Text(text) => Json::from(text.as_str()),
        _ => Json::Null,
    }
}

/// What is wrong with a text that is not to be shown, told of what stands for it.
fn veiled((message, remedy): format::Flaw, text: &str, veil: Option<&str>) -> format::Flaw {
    let Some(veil) = veil else { return (message, remedy) };
    match message.strip_prefix(&format!("`{text}`")) {
        Some(rest) => (format!("`{veil}`{rest}"), None),
        None => (format!("`{veil}` cannot stand here"), None),
    }
}

fn is_number(text: &str) -> bool {
    matches!(serde_json::from_str(text), Ok(Json::Number(_)))
}

fn matters(key: &str) -> bool {
    MATTERING.contains(&key)
}

fn is_later(shape: &str, word: &str) -> bool {
    LATER.iter().any(|(place, words)| *place == shape && words.contains(&word))
}

fn unsupported(word: &str) -> String {
    format!("`{word}` is not supported by this version")
}

/// What a schema expects, in words.
fn expected(leaves: &[&'static Json]) -> String {
    let mut parts: Vec<String> = Vec::new();
    let choices: Vec<&str> = leaves.iter().flat_map(|leaf| choices(leaf)).collect();
    parts.extend((!choices.is_empty()).then(|| listed(choices)));
    let free = leaves.iter().filter(|leaf| self::choices(leaf).next().is_none());
    for leaf in free {
        let text = match leaf["format"].as_str() {
            Some("gatewayDuration") => "a duration",
            Some("quantity") => "a size",
            _ => "text",
        };
        let kinds = [
            ("object", "a mapping"),
            ("array", "a list"),
            ("string", text),
            ("integer", "a whole number"),
            ("number", "a number"),
            ("boolean", "`true` or `false`"),
        ];
        parts.extend(kinds.iter().filter(|(kind, _)| allows(leaf, kind)).map(|(_, name)| (*name).to_owned()));
    }
    parts.dedup();
    parts.join(" or ")
}

//! Key paths such as `services.*.endpoints.static[].labels`: held against the schema once, then found in a
//! configuration, with the place where each is written.

use std::collections::HashMap;

use serde_json::Value as Json;

use crate::config::check::{self, allows, json_schema, leaves, nearest};
use crate::config::problem::Place;
use crate::config::tree::{Entry, Node, Value, step};

/// A path that the language has.
#[derive(Debug, Clone)]
pub struct Key {
    pub text: String,
    steps: Vec<Step>,
    /// What may stand there.
    leaves: Vec<&'static Json>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Name(String),
    /// `*`: every name.
    Every,
    /// `[]`: every item.
    Items,
}

/// One thing that a path leads to.
#[derive(Debug, Clone)]
pub struct Found<'c> {
    /// With names and indices.
    pub path: String,
    /// As it is in force, defaults included.
    pub value: &'c Json,
    /// As it is written; `None` where it is not, or has no value.
    pub node: Option<&'c Node>,
    /// The key, or the nearest one around it that is written.
    pub place: &'c Place,
}

/// What a value is measured in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Duration,
    Size,
    Number,
}

/// Reads a path; or what is wrong with it, and what would be right.
pub fn parse(text: &str) -> Result<Key, (String, Option<String>)> {
    let (mut steps, mut leaves, mut done) = (Vec::new(), vec![json_schema()], String::new());
    for segment in text.split('.') {
        let name = segment.trim_end_matches("[]");
        let lists = (segment.len() - name.len()) / 2;
        leaves = enter(&leaves, name, &done)?;
        done = format!("{done}{}{name}", if done.is_empty() { "" } else { "." });
        steps.push(if name == "*" { Step::Every } else { Step::Name(name.to_owned()) });
        for _ in 0..lists {
            let Some(list) = leaves.iter().find(|leaf| allows(leaf, "array")) else {
                return Err((format!("`{done}` is no list"), Some(format!("write `{done}`"))));
            };
            leaves = check::leaves(&list["items"]);
            done.push_str("[]");
            steps.push(Step::Items);
        }
    }
    Ok(Key { text: text.to_owned(), steps, leaves })
}

/// What `name` leads to from there.
fn enter(from: &[&'static Json], name: &str, done: &str) -> Result<Vec<&'static Json>, (String, Option<String>)> {
    let dot = if done.is_empty() { "" } else { "." };
    let names = from.iter().find(|leaf| leaf["additionalProperties"].is_object());
    if let Some(names) = names.filter(|_| !name.is_empty()) {
        return Ok(leaves(&names["additionalProperties"]));
    }
    let known: Vec<&str> = from.iter().flat_map(|leaf| check::keys(leaf)).collect();
    if let Some(property) = from.iter().find_map(|leaf| leaf["properties"].get(name)) {
        return Ok(leaves(property));
    }
    let remedy = match nearest(name, known.iter().copied()) {
        Some(near) => Some(format!("did you mean `{done}{dot}{near}`?")),
        None if !known.is_empty() => Some(format!("expected {}", check::listed(known))),
        None if names.is_some() => Some(format!("write `{done}{dot}*` for every name")),
        None if from.iter().any(|leaf| allows(leaf, "array")) => {
            Some(format!("write `{done}[]{dot}{name}` for its items"))
        }
        None => Some(format!("`{done}` has no keys")),
    };
    Err((format!("no configuration has a key `{done}{dot}{name}`"), remedy))
}

impl Key {
    /// The path without its last name, and that name; `None` where it ends in `*` or `[]`.
    pub fn parent(&self) -> Option<(Key, &str)> {
        let (Step::Name(last), rest) = self.steps.split_last()? else { return None };
        Some((Key { text: String::new(), steps: rest.to_vec(), leaves: Vec::new() }, last))
    }

    pub fn is_names(&self) -> bool {
        self.leaves.iter().any(|leaf| leaf["additionalProperties"].is_object())
    }

    /// The unit of what stands there, if it can be measured.
    pub fn unit(&self) -> Option<Unit> {
        self.leaves.iter().find_map(|leaf| match leaf["format"].as_str() {
            Some("gatewayDuration") => Some(Unit::Duration),
            Some("quantity") => Some(Unit::Size),
            _ if allows(leaf, "integer") || allows(leaf, "number") => Some(Unit::Number),
            _ => None,
        })
    }

    /// All that the path leads to; what is absent and has no default is not among it.
    pub fn find<'c>(&self, value: &'c Json, tree: &'c Node) -> Vec<Found<'c>> {
        let mut found = vec![Found { path: String::new(), value, node: Some(tree), place: &tree.place }];
        for step in &self.steps {
            found = found.iter().flat_map(|at| at.enter(step)).collect();
        }
        found
    }
}

impl<'c> Found<'c> {
    /// What is there by the name, if anything is.
    pub fn get(&self, name: &str) -> Option<Found<'c>> {
        let entry = self.node.and_then(|node| node.entry(name));
        Some(self.inner(name, self.value.get(name).filter(|value| !value.is_null())?, entry))
    }

    fn enter(&self, step: &Step) -> Vec<Found<'c>> {
        match (step, self.value) {
            (Step::Name(name), _) => self.get(name).into_iter().collect(),
            (Step::Every, Json::Object(entries)) => {
                let written = self.node.map(Node::map).unwrap_or_default();
                let written: HashMap<&str, &Entry> = written.iter().map(|entry| (entry.key.as_str(), entry)).collect();
                entries
                    .iter()
                    .map(|(name, value)| self.inner(name, value, written.get(name.as_str()).copied()))
                    .collect()
            }
            (Step::Items, Json::Array(items)) => {
                let written = self.node.map(Node::seq).unwrap_or_default();
                let items = items.iter().enumerate();
                items
                    .map(|(index, value)| {
                        let node = written.get(index);
                        let place = node.map_or(self.place, |node| &node.place);
                        Found { path: format!("{}[{index}]", self.path), value, node, place }
                    })
                    .collect()
            }
            _ => Vec::new(),
        }
    }

    fn inner(&self, name: &str, value: &'c Json, entry: Option<&'c Entry>) -> Found<'c> {
        let step = step(name);
        let step = if self.path.is_empty() { step.trim_start_matches('.') } else { &step };
        let node = entry.map(|entry| &entry.value).filter(|node| !node.is_null());
        let place = entry.map_or(self.place, |entry| &entry.place);
        Found { path: format!("{}{step}", self.path), value, node, place }
    }

    /// The value's place where it is one word, else the key's.
    pub fn value_place(&self) -> &'c Place {
        match self.node {
            Some(node) if !matches!(node.value, Value::Map(_) | Value::Seq(_)) => &node.place,
            _ => self.place,
        }
    }
}

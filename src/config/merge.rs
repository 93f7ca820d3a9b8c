//! Several files as one configuration: names are merged and unique, single blocks stand in one file only.

use std::sync::Arc;

use super::check;
use super::problem::{Place, Problem};
use super::tree::{self, Entry, Node, Value, step};

/// Lists that each file adds to.
const LISTS: [&str; 4] = ["routes", "listeners", "authorization", "policies"];

/// Makes one tree of the files' trees. Each must state its `apiVersion`.
pub fn merge(files: Vec<Node>, problems: &mut Vec<Problem>) -> Option<Node> {
    let mut files = files.into_iter();
    let mut merged = files.next()?;
    for file in files {
        let name = file.place.file.clone();
        match (&mut merged.value, file.value) {
            (Value::Map(all), Value::Map(entries)) => {
                version(&name, &entries, problems);
                entries.into_iter().filter(|e| e.key != "apiVersion").for_each(|entry| add(all, entry, problems));
            }
            _ => problems.push(
                Problem::at(&tree::start(&name), "", "not a mapping").remedy("begin with `apiVersion: outrigger/v1`"),
            ),
        }
    }
    Some(merged)
}

fn version(file: &Arc<str>, entries: &[Entry], problems: &mut Vec<Problem>) {
    match entries.iter().find(|entry| entry.key == "apiVersion") {
        Some(entry) => {
            check::definition(&entry.value, "ApiVersion", "apiVersion", problems);
        }
        None => problems.push(
            Problem::at(&tree::start(file), "", "`apiVersion` is missing").remedy("add `apiVersion: outrigger/v1`"),
        ),
    }
}

fn add(all: &mut Vec<Entry>, entry: Entry, problems: &mut Vec<Problem>) {
    let Some(there) = all.iter_mut().find(|there| there.key == entry.key) else {
        all.push(entry);
        return;
    };
    match (&mut there.value.value, entry.value.value) {
        (_, Value::Null) => {}
        (value @ Value::Null, other) => {
            *value = other;
            there.place = entry.place;
        }
        (Value::Map(names), Value::Map(more)) if matches!(entry.key.as_str(), "services" | "attributes") => {
            for new in more {
                if let Some(old) = names.iter().find(|old| old.key == new.key) {
                    let path = format!("{}{}", entry.key, step(&new.key));
                    problems.push(twice(&new.place, &path, &format!("`{}`", new.key), &old.place));
                } else {
                    names.push(new);
                }
            }
        }
        // Names of list items are compared by `validate`, which sees one file's duplicates as well.
        (Value::Seq(items), Value::Seq(more)) if LISTS.contains(&entry.key.as_str()) => {
            items.extend(more);
        }
        _ => problems.push(
            twice(&entry.place, &entry.key, &format!("`{}`", entry.key), &there.place)
                .remedy(format!("it may stand in one file only: {}", at(&there.place))),
        ),
    }
}

/// A problem that names both places.
pub fn twice(place: &Place, path: &str, what: &str, first: &Place) -> Problem {
    Problem::at(place, path, format!("{what} is there twice")).remedy(format!("the first is at {}", at(first)))
}

pub fn at(place: &Place) -> String {
    format!("{}:{}:{}", place.file, place.line, place.column)
}

/// A path into merged lists, with the index as the file has it.
pub fn local(tree: &Node, path: &str) -> Option<String> {
    let key = LISTS.into_iter().find(|key| path.starts_with(&format!("{key}[")))?;
    let (index, rest) = path.get(key.len() + 1..)?.split_once(']')?;
    let items = tree.get(key)?.seq();
    let index: usize = index.parse().ok()?;
    let file = &items.get(index)?.place.file;
    let first = items.iter().position(|item| item.place.file == *file)?;
    Some(format!("{key}[{}]{rest}", index - first))
}

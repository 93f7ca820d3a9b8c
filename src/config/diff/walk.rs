//! Two values of one spelling, side by side: a line for each key that differs.

use std::collections::HashMap;

use serde_json::Value as Json;

use super::words;
use crate::config::secrets::is_sealed;
use crate::config::tree::step;

/// Mappings from names: two that share none are still the same mapping.
const BY_NAME: [&str; 9] = ["static", "subsets", "labels", "headers", "cookies", "query", "attributes", "set", "add"];
/// Lists whose order means nothing.
const UNORDERED: [&str; 8] = ["hosts", "listeners", "methods", "remove", "values", "ports", "namespaces", "cidrs"];
/// Lists of rules, of which any may hold.
const RULES: [&str; 3] = ["match", "allow", "deny"];

/// What differs below one subject, such as "timeout: 2s -> 3s". Secrets are sealed.
pub fn differences(old: &Json, new: &Json) -> Vec<String> {
    let mut walk = Walk { lines: Vec::new() };
    walk.value("", old, new);
    walk.lines
}

/// The keys of both, without doubles.
pub fn keys(old: &Json, new: &Json) -> Vec<String> {
    let of = |json: &Json| json.as_object().into_iter().flat_map(|map| map.keys().cloned()).collect::<Vec<_>>();
    let more = of(new).into_iter().filter(|key| old.get(key).is_none());
    of(old).into_iter().chain(more).collect()
}

/// What is at `key`; null is as good as nothing.
pub fn get<'j>(json: &'j Json, key: &str) -> &'j Json {
    json.get(key).unwrap_or(&Json::Null)
}

struct Walk {
    lines: Vec<String>,
}

impl Walk {
    fn value(&mut self, at: &str, old: &Json, new: &Json) {
        if old == new {
            return;
        }
        match (old, new) {
            (Json::Array(old), Json::Array(new)) if at == "split" => self.split(old, new),
            (Json::Array(old), Json::Array(new)) if RULES.contains(&at) => self.matches(at, old, new),
            (Json::Array(old), Json::Array(new)) if UNORDERED.contains(&last(at)) => self.members(at, old, new),
            (Json::Object(_), Json::Object(_)) if at == "endpoints.static" => self.endpoints(old, new),
            (Json::Object(_), Json::Object(_)) if !other_kind(at, old, new) => self.entries(at, old, new),
            _ => self.pair(at, old, new),
        }
    }

    fn entries(&mut self, at: &str, old: &Json, new: &Json) {
        for key in keys(old, new) {
            let (was, is) = (get(old, &key), get(new, &key));
            let inner = below(at, &key);
            let sealed = |json: &Json| json.is_null() || is_sealed(json);
            if sealed(was) && sealed(is) {
                self.secret(&inner, was, is);
            } else {
                self.value(&inner, was, is);
            }
        }
    }

    fn secret(&mut self, at: &str, old: &Json, new: &Json) {
        let what = match (old.is_null(), new.is_null()) {
            _ if old == new => return,
            (true, _) => "added",
            (_, true) => "removed",
            _ => "changed",
        };
        self.line(at, what);
    }

    fn pair(&mut self, at: &str, old: &Json, new: &Json) {
        let (was, is) = (words::value(old), words::value(new));
        if was != is {
            return self.line(at, &format!("{was} -> {is}"));
        }
        // They differ beyond what is shown of them.
        let length = |json: &Json| json.as_str().map(|text| text.chars().count());
        match (length(old), length(new)) {
            (Some(old), Some(new)) if old != new => self.line(at, &format!("changed, {old} -> {new} characters")),
            _ => self.line(at, "changed"),
        }
    }

    fn members(&mut self, at: &str, old: &[Json], new: &[Json]) {
        let without = |these: &[Json], those: &[Json]| {
            let rest = these.iter().filter(|item| those.binary_search_by(|other| text(other).cmp(text(item))).is_err());
            Json::Array(rest.cloned().collect())
        };
        let sorted = |list: &[Json]| {
            let mut list = list.to_vec();
            list.sort_by(|a, b| text(a).cmp(text(b)));
            list
        };
        let (old, new) = (sorted(old), sorted(new));
        for (what, members) in [("added", without(&new, &old)), ("removed", without(&old, &new))] {
            if !words::is_nothing(&members) {
                self.line(at, &format!("{what} {}", words::value(&members)));
            }
        }
    }

    fn split(&mut self, old: &[Json], new: &[Json]) {
        let weights = |sides: &[Json]| -> Vec<(String, Json)> {
            sides.iter().map(|side| (text(get(side, "to")).to_owned(), get(side, "weight").clone())).collect()
        };
        let (old, new) = (weights(old), weights(new));
        let find =
            |sides: &[(String, Json)], to: &str| sides.iter().find(|(other, _)| other == to).map(|(_, w)| w.clone());
        let name = |to: &str| words::cut(to, words::NAME_MAX);
        for (to, weight) in &new {
            match find(&old, to) {
                None => self.lines.push(format!("`{}` added to `split`, weight {}", name(to), words::value(weight))),
                Some(before) if before == *weight => {}
                Some(before) => {
                    let (before, weight) = (words::value(&before), words::value(weight));
                    self.lines.push(format!("weight of `{}` {before} -> {weight}", name(to)));
                }
            }
        }
        for (to, _) in old.iter().filter(|(to, _)| find(&new, to).is_none()) {
            self.lines.push(format!("`{}` removed from `split`", name(to)));
        }
        let common = |these: &[(String, Json)], those: &[(String, Json)]| -> Vec<String> {
            these.iter().map(|(to, _)| to.clone()).filter(|to| find(those, to).is_some()).collect()
        };
        if common(&old, &new) != common(&new, &old) {
            self.lines.push("order of the sides of `split`, which moves sticky requests".to_owned());
        }
    }

    /// Such entries have no names: what is equal is the same, and one that is left on each side is one changed.
    fn matches(&mut self, at: &str, old: &[Json], new: &[Json]) {
        let (gone, come) = (rest(old, new), rest(new, old));
        if let ([was], [is]) = (gone.as_slice(), come.as_slice()) {
            let index = new.iter().position(|item| item == *is).unwrap_or_default();
            return self.value(&format!("{at}[{index}]"), was, is);
        }
        let told =
            |one: &Json| if words::value(one) == "none" { "every request".to_owned() } else { words::value(one) };
        self.lines.extend(gone.iter().map(|one| format!("{at}: removed {}", told(one))));
        self.lines.extend(come.iter().map(|one| format!("{at}: added {}", told(one))));
    }

    fn endpoints(&mut self, old: &Json, new: &Json) {
        for address in keys(old, new) {
            let (was, is) = (get(old, &address), get(new, &address));
            match (was.is_null(), is.is_null()) {
                (true, _) => self.lines.push(format!("endpoint {address} added")),
                (_, true) => self.lines.push(format!("endpoint {address} removed")),
                _ => self.value(&format!("endpoint {address}"), was, is),
            }
        }
    }

    fn line(&mut self, at: &str, what: &str) {
        let colon = if at.is_empty() { "" } else { ": " };
        self.lines.push(format!("{}{colon}{what}", words::cut(at, words::NAME_MAX)));
    }
}

fn below(at: &str, key: &str) -> String {
    match step(key) {
        step if at.is_empty() => step.trim_start_matches('.').to_owned(),
        step if at.starts_with("endpoint ") && !at.contains(": ") => format!("{at}: {}", step.trim_start_matches('.')),
        step => format!("{at}{step}"),
    }
}

fn last(at: &str) -> &str {
    at.rsplit(['.', ' ']).next().unwrap_or_default()
}

/// Mappings with one key each, and not the same: two kinds of one thing, such as `exact` and `prefix`.
fn other_kind(at: &str, old: &Json, new: &Json) -> bool {
    let only = |json: &Json| json.as_object().filter(|map| map.len() == 1).and_then(|map| map.keys().next().cloned());
    !BY_NAME.contains(&last(at)) && matches!((only(old), only(new)), (Some(old), Some(new)) if old != new)
}

fn text(json: &Json) -> &str {
    json.as_str().unwrap_or_default()
}

/// What `these` have more than `those`, doubles counted.
fn rest<'j>(these: &'j [Json], those: &[Json]) -> Vec<&'j Json> {
    let mut there: HashMap<String, usize> = HashMap::new();
    for item in those {
        *there.entry(item.to_string()).or_default() += 1;
    }
    let mut rest = Vec::new();
    for item in these {
        match there.get_mut(&item.to_string()) {
            Some(count) if *count > 0 => *count -= 1,
            _ => rest.push(item),
        }
    }
    rest
}

//! The reference and the examples: complete, and true.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use super::super::{json_schema, load, source};
use super::no_env;

/// Every key, as the documentation spells it: `routes[].match[].path.exact`, `services.<name>.port`.
fn key_paths(schema: &Json, path: &str, found: &mut Vec<String>) {
    if let Some(name) = schema["$ref"].as_str() {
        key_paths(&json_schema()["$defs"][name.trim_start_matches("#/$defs/")], path, found);
    }
    let alternatives: Vec<&Json> =
        ["oneOf", "anyOf"].iter().filter_map(|key| schema[*key].as_array()).flatten().collect();
    // A list of what may stand alone has no keys of its own.
    let alone = |item: &Json| !item.is_null() && alternatives.contains(&item);
    for alternative in alternatives.iter().filter(|alternative| !alone(&alternative["items"])) {
        key_paths(alternative, path, found);
    }
    if schema["items"].is_object() {
        key_paths(&schema["items"], &format!("{path}[]"), found);
    }
    if schema["additionalProperties"].is_object() {
        key_paths(&schema["additionalProperties"], &format!("{path}.<name>"), found);
    }
    for (key, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        key_paths(property, &path, found);
        found.push(path);
    }
}

pub(super) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[test]
fn every_key_is_documented() {
    let text = fs::read_to_string(repository("docs/configuration.md")).expect("the reference");
    let mut paths = Vec::new();
    key_paths(&json_schema(), "", &mut paths);
    assert!(paths.len() > 100, "{paths:?}");
    let documented = |path: &String| text.lines().any(|line| line.starts_with(&format!("| `{path}` |")));
    let missing: Vec<_> = paths.iter().filter(|path| !documented(path)).collect();
    assert!(missing.is_empty(), "not in docs/configuration.md: {missing:#?}");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let keys = rows.filter(|row| !row.contains(' ') && (row.contains('.') || !row.starts_with('$')));
    let stale: Vec<_> = keys.filter(|key| !paths.iter().any(|path| path == key)).collect();
    assert!(stale.is_empty(), "documented, but no key: {stale:#?}");
}

#[test]
fn every_example_loads() {
    let mut files = source::files(&repository("config/examples")).expect("the examples");
    assert!(files.len() >= 5);
    files.push(repository("config/proxy.yaml"));
    for file in files {
        if let Err(report) = load(&file, &no_env) {
            panic!("{report}");
        }
    }
}

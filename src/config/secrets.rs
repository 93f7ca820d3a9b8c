//! What of a configuration is a secret: values by their names, wherever they stand, and those of attributes that are
//! taken from such a name. Everything that shows, keeps or compares a configuration asks here.

use std::collections::BTreeSet;

use serde_json::Value as Json;

use super::digest;
use super::schema::{Attribute, Root, Source};
use super::tree::{Node, Value};

/// Stands where a secret was.
pub const REDACTED: &str = "[redacted]";

/// Parts of names whose values are secrets.
const PARTS: [&str; 7] = ["auth", "cookie", "token", "secret", "key", "password", "session"];
/// Before the digest of a secret that is compared and not shown.
const SEAL: &str = "\0secret ";

/// Whether values under this name are not to be shown or kept.
pub fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    PARTS.iter().any(|part| name.contains(part))
}

/// Whether the values of an attribute are: by its name, or by that of anything it is taken from.
pub fn is_secret_attribute(name: &str, attribute: &Attribute) -> bool {
    let source = |source: &Source| match source {
        Source::Header(name) | Source::Cookie(name) | Source::Query(name) => is_secret(name),
    };
    is_secret(name) || attribute.from.iter().any(source)
}

/// The names of such attributes.
pub fn attributes(root: &Root) -> BTreeSet<String> {
    let secret = root.attributes.iter().filter(|(name, attribute)| is_secret_attribute(name, attribute));
    secret.map(|(name, _)| name.clone()).collect()
}

/// A place in a configuration, sound or not, as far as it says whether a value there is a secret.
#[derive(Debug, Clone, Copy)]
pub struct At<'a> {
    /// The last key on the way.
    key: &'a str,
    kind: Kind,
    attributes: &'a BTreeSet<String>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Root,
    /// What is at the root's `attributes`.
    Attributes,
    SecretAttribute,
    Plain,
    Secret,
}

impl<'a> At<'a> {
    /// `attributes` are those whose values are secrets.
    pub fn root(attributes: &'a BTreeSet<String>) -> Self {
        Self { key: "", kind: Kind::Root, attributes }
    }

    /// Below a key; items of a list are where the list is.
    pub fn below(self, key: &'a str) -> Self {
        let secret = |yes: bool| if yes { Kind::Secret } else { Kind::Plain };
        let kind = match (self.kind, self.key, key) {
            // Names of what is looked at.
            (_, "from" | "sticky" | "hashKey", "header" | "cookie" | "query" | "attribute" | "source") => Kind::Plain,
            (Kind::Secret, ..) => Kind::Secret,
            (Kind::Root, _, "attributes") => Kind::Attributes,
            // The block, not the header.
            (Kind::Root, _, "authorization") => Kind::Plain,
            // The path of a file; a configuration that is kept without it would not start.
            (_, "identity" | "tls" | "certificates", "privateKey") => Kind::Plain,
            (Kind::Attributes, ..) if self.attributes.contains(key) => Kind::SecretAttribute,
            (Kind::SecretAttribute, _, "values") => Kind::Secret,
            (Kind::Attributes, ..) => Kind::Plain,
            (_, "attributes", _) => secret(self.attributes.contains(key) || is_secret(key)),
            // Names of ours, which say nothing of what is below.
            (_, "services" | "subsets" | "labels", _) => Kind::Plain,
            (_, _, "cookies") => Kind::Plain,
            _ => secret(is_secret(key)),
        };
        Self { key, kind, ..self }
    }

    pub fn is_secret(self) -> bool {
        self.kind == Kind::Secret
    }

    /// The end of a condition that is about a part of a value.
    pub fn is_partial(self) -> bool {
        matches!(self.key, "prefix" | "suffix" | "regex")
    }
}

/// Marks the secrets of a tree.
pub fn mark(tree: &mut Node) {
    let attributes = written_attributes(tree);
    mark_below(tree, At::root(&attributes));
}

/// [`attributes`] of what is perhaps not sound.
fn written_attributes(tree: &Node) -> BTreeSet<String> {
    let named = |source: &Node| source.map().iter().filter_map(|entry| entry.value.text()).any(is_secret);
    let taken = |from: &Node| named(from) || from.seq().iter().any(named);
    let all = tree.get("attributes").map_or(&[][..], Node::map).iter();
    let secret = all.filter(|entry| is_secret(&entry.key) || entry.value.get("from").is_some_and(taken));
    secret.map(|entry| entry.key.clone()).collect()
}

fn mark_below(node: &mut Node, at: At<'_>) {
    match &mut node.value {
        Value::Map(entries) => {
            for entry in entries {
                mark_below(&mut entry.value, at.below(&entry.key));
            }
        }
        Value::Seq(items) => items.iter_mut().for_each(|item| mark_below(item, at)),
        Value::Text(_) | Value::Number(_) => node.secret |= at.is_secret(),
        Value::Null | Value::Bool(_) => {}
    }
}

/// Replaces every secret.
pub fn redact(json: &mut Json, at: At<'_>) {
    replace(json, at, &|_| REDACTED.to_owned());
}

/// Replaces every secret by what is as equal or different as it was. [`is_sealed`] knows it again.
pub fn seal(json: &mut Json, at: At<'_>) {
    replace(json, at, &|secret| format!("{SEAL}{}", digest::sha256(secret.as_bytes())));
}

pub fn is_sealed(json: &Json) -> bool {
    json.as_str().is_some_and(|text| text.starts_with(SEAL))
}

fn replace(json: &mut Json, at: At<'_>, by: &dyn Fn(&str) -> String) {
    match json {
        Json::Object(entries) => {
            for (key, value) in entries {
                replace(value, at.below(key), by);
            }
        }
        Json::Array(items) => items.iter_mut().for_each(|item| replace(item, at, by)),
        Json::String(text) if at.is_secret() => *text = by(text),
        Json::String(_) | Json::Number(_) | Json::Bool(_) | Json::Null => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_by_their_place() {
        let attributes = BTreeSet::from(["user".to_owned()]);
        let at = |path: &str| path.split('/').fold(At::root(&attributes), At::below).is_secret();
        for path in [
            "admin/explainToken",
            "admn/explainToken",
            "routes/requestHeaders/set/Authorization",
            "routes/requestHeaders/sett/authorization",
            "routes/requestHeaders/set/cookie",
            "routes/match/headers/x-api-key/prefix",
            "routes/match/cookies/session",
            "routes/match/query/token",
            "routes/match/attributes/user",
            "routes/match/attributes/api-key/exact",
            "attributes/user/values",
            "authorization/allow/to/headers/authorization",
            "authorization/deny/to/headers/x-api-key/prefix",
        ] {
            assert!(at(path), "{path}");
        }
        for path in [
            "attributes/user/from/cookie",
            "attributes/session/from/header",
            "attributes/env/values",
            "attributes/session/lowercase",
            "routes/sticky/cookie",
            "services/loadBalancer/hashKey/cookie",
            "services/loadBalancer/hashKey/source",
            "routes/match/cookies/env",
            "routes/match/attributes/env",
            "services/auth/port",
            "services/auth/endpoints/static/labels/key",
            "routes/requestHeaders/set/x-mesh",
            "identity/privateKey",
            "listeners/tls/privateKey",
            "listeners/tls/certificates/privateKey",
            "authorization/name",
            "authorization/allow/from/identities",
            "authorization/deny/to/headers/x-mesh",
        ] {
            assert!(!at(path), "{path}");
        }
    }

    #[test]
    fn what_is_sealed_can_be_compared() {
        let none = BTreeSet::new();
        let sealed = |text: &str| {
            let mut json = serde_json::json!({ "x-key": text, "present": true, "plain": text });
            seal(&mut json, At::root(&none));
            json
        };
        let (one, other) = (sealed("hunter2"), sealed("hunter3"));
        assert_ne!(one["x-key"], other["x-key"]);
        assert_eq!(one, sealed("hunter2"));
        assert!(is_sealed(&one["x-key"]) && !one["x-key"].to_string().contains("hunter"));
        assert!(!is_sealed(&one["plain"]) && one["present"] == true);
    }
}

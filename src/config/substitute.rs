//! `${NAME}` and `${NAME:-default}` in values, from the environment, before anything is judged. `$${` is a
//! plain `${`. Keys are never touched.

use std::collections::{BTreeMap, BTreeSet};

use super::problem::Problem;
use super::tree::{Node, Value, step};

/// Where values come from: the process environment, or a test's.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The variables that a configuration refers to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct References {
    pub all: BTreeSet<String>,
    /// Those that stand for something which is not a secret, too.
    pub plain: BTreeSet<String>,
}

/// Replaces references in a tree.
pub struct Filling<'a> {
    pub env: Env<'a>,
    /// Only what these refer to may be referred to, for secrets what is one there.
    pub live: Option<&'a References>,
    pub used: References,
    /// By name, what the environment had.
    pub values: BTreeMap<String, String>,
    /// What cannot be replaced.
    pub problems: Vec<Problem>,
}

/// What is wrong, and what would be right.
type Flaw = (String, String);

impl<'a> Filling<'a> {
    pub fn new(env: Env<'a>, live: Option<&'a References>) -> Self {
        Self { env, live, used: References::default(), values: BTreeMap::new(), problems: Vec::new() }
    }

    /// Replaces in all texts below `node`, whose secrets are marked.
    pub fn fill(&mut self, node: &mut Node) {
        self.walk(node, &mut String::new());
    }

    fn walk(&mut self, node: &mut Node, path: &mut String) {
        let length = path.len();
        match &mut node.value {
            Value::Map(entries) => {
                for entry in entries {
                    let step = step(&entry.key);
                    path.push_str(if length == 0 { step.trim_start_matches('.') } else { &step });
                    self.walk(&mut entry.value, path);
                    path.truncate(length);
                }
            }
            Value::Seq(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    path.push_str(&format!("[{index}]"));
                    self.walk(item, path);
                    path.truncate(length);
                }
            }
            Value::Text(text) if text.contains("${") => match self.replace(text, node.secret) {
                Ok((replaced, substituted)) => {
                    let written = std::mem::replace(text, replaced);
                    node.written = substituted.then(|| written.into());
                }
                Err((message, remedy)) => {
                    self.problems.push(Problem::at(&node.place, path.as_str(), message).remedy(remedy));
                }
            },
            _ => {}
        }
    }

    fn replace(&mut self, text: &str, secret: bool) -> Result<(String, bool), Flaw> {
        replace(text, secret, &mut |name| self.look_up(name, secret))
    }

    fn look_up(&mut self, name: &str, secret: bool) -> Result<Option<String>, Flaw> {
        self.used.all.insert(name.to_owned());
        if !secret {
            self.used.plain.insert(name.to_owned());
        }
        if let Some(live) = self.live {
            if !live.all.contains(name) {
                let message = format!("`{name}` is not an environment variable that the running configuration uses");
                return Err((message, "of its environment the proxy tells nothing else: write the value".to_owned()));
            }
            if !secret && !live.plain.contains(name) {
                let message =
                    format!("`{name}` stands for secrets only in the running configuration, and for none here");
                return Err((message, "use another variable".to_owned()));
            }
        }
        let value = (self.env)(name);
        if let Some(value) = &value {
            self.values.insert(name.to_owned(), value.clone());
        }
        Ok(value)
    }
}

/// The text with its references replaced, and whether there were any. What is written in a secret is not repeated.
fn replace(
    text: &str,
    secret: bool,
    look_up: &mut dyn FnMut(&str) -> Result<Option<String>, Flaw>,
) -> Result<(String, bool), Flaw> {
    let (mut result, mut rest, mut substituted) = (String::with_capacity(text.len()), text, false);
    while let Some((before, after)) = rest.split_once("${") {
        if let Some(escaped) = before.strip_suffix('$') {
            result.push_str(escaped);
            result.push_str("${");
            rest = after;
            continue;
        }
        let remedy = "write `${NAME}` or `${NAME:-default}`, or `$${` for a plain `${`";
        let Some((reference, after)) = after.split_once('}') else {
            return Err(("`${` is not closed".to_owned(), remedy.to_owned()));
        };
        let (name, default) = match reference.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (reference, None),
        };
        if !is_name(name) {
            let shown = if secret { "…" } else { reference };
            return Err((format!("`${{{shown}}}` does not name an environment variable"), remedy.to_owned()));
        }
        result.push_str(before);
        match (look_up(name)?, default) {
            // As in the shell: `:-` also stands in for a variable that is set to nothing.
            (Some(value), None) => result.push_str(&value),
            (Some(value), Some(_)) if !value.is_empty() => result.push_str(&value),
            (_, Some(default)) => result.push_str(default),
            (None, None) => {
                let message = format!("the environment variable `{name}` is not set");
                return Err((message, format!("set it, or write `${{{name}:-default}}`")));
            }
        }
        (rest, substituted) = (after, true);
    }
    result.push_str(rest);
    Ok((result, substituted))
}

/// What is written in a text with references, and not fetched by them.
pub struct Written {
    /// What stands around the references, with `$${` as it is, and their defaults.
    pub texts: Vec<String>,
    pub references: usize,
}

/// Takes a text apart that [`Filling`] takes; where that would report something, the rest is text.
pub fn written(text: &str) -> Written {
    let mut written = Written { texts: Vec::new(), references: 0 };
    let (mut around, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once("${") {
        if before.ends_with('$') {
            around.push_str(before);
            around.push_str("${");
            rest = after;
            continue;
        }
        let Some((reference, after)) = after.split_once('}') else { break };
        around.push_str(before);
        written.texts.push(std::mem::take(&mut around));
        written.texts.extend(reference.split_once(":-").map(|(_, default)| default.to_owned()));
        written.references += 1;
        rest = after;
    }
    around.push_str(rest);
    written.texts.push(around);
    written
}

fn is_name(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Result<Option<String>, Flaw> {
        Ok(match name {
            "A" => Some("1".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        })
    }

    #[test]
    fn references() {
        for (text, expected) in [
            ("${A}", "1"),
            ("x${A}y${A}", "x1y1"),
            ("${B:-}", ""),
            ("${EMPTY}", ""),
            ("${EMPTY:-d}", "d"),
            ("${B:-http://x:1/-}", "http://x:1/-"),
            ("$A $ {", "$A $ {"),
            ("$${A}", "${A}"),
            ("$$${A}", "$${A}"),
            ("$${A}${A}", "${A}1"),
        ] {
            assert_eq!(replace(text, false, &mut env).map(|(text, _)| text), Ok(expected.to_owned()), "{text}");
        }
    }

    #[test]
    fn broken_references() {
        for text in ["${", "${A", "${}", "${A-b}", "${1}", "${ A }", "${B}", "${:-x}", "${A:}"] {
            assert!(replace(text, true, &mut env).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_written() {
        for (text, texts, references) in [
            ("plain", &["plain"][..], 0),
            ("a${A}b${B:-c}", &["a", "b", "c", ""], 2),
            ("$${A}${A}", &["$${A}", ""], 1),
            ("${B:-}", &["", "", ""], 1),
            ("x$${y${", &["x$${y${"], 0),
        ] {
            let written = written(text);
            assert_eq!(
                (written.texts, written.references),
                (texts.iter().map(|t| (*t).to_owned()).collect(), references)
            );
        }
    }

    #[test]
    fn an_escape_is_not_a_substitution() {
        assert_eq!(replace("$${5}", false, &mut env), Ok(("${5}".to_owned(), false)));
    }
}

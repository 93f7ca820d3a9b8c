//! `${NAME}` and `${NAME:-default}` in values, from the environment, before anything is judged. `$${` is a
//! plain `${`. Keys are never touched.

use super::problem::Problem;
use super::tree::{Node, Value, step};

/// Where values come from: the process environment, or a test's.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Replaces in all texts below `node`; what cannot be replaced is a problem.
pub fn substitute(node: &mut Node, env: Env<'_>, problems: &mut Vec<Problem>) {
    walk(node, env, &mut String::new(), problems);
}

fn walk(node: &mut Node, env: Env<'_>, path: &mut String, problems: &mut Vec<Problem>) {
    let length = path.len();
    match &mut node.value {
        Value::Map(entries) => {
            for entry in entries {
                let step = step(&entry.key);
                path.push_str(if length == 0 { step.trim_start_matches('.') } else { &step });
                walk(&mut entry.value, env, path, problems);
                path.truncate(length);
            }
        }
        Value::Seq(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                path.push_str(&format!("[{index}]"));
                walk(item, env, path, problems);
                path.truncate(length);
            }
        }
        Value::Text(text) if text.contains("${") => match replace(text, env) {
            Ok((replaced, substituted)) => {
                *text = replaced;
                node.substituted = substituted;
            }
            Err((message, remedy)) => {
                problems.push(Problem::at(&node.place, path.as_str(), message).remedy(remedy));
            }
        },
        _ => {}
    }
}

/// The text with its references replaced, and whether there were any; or what is wrong and what would be right.
fn replace(text: &str, env: Env<'_>) -> Result<(String, bool), (String, String)> {
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
            return Err((format!("`${{{reference}}}` does not name an environment variable"), remedy.to_owned()));
        }
        result.push_str(before);
        match (env(name), default) {
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

/// Takes a text apart that [`substitute`] takes; where that would report something, the rest is text.
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

    fn env(name: &str) -> Option<String> {
        match name {
            "A" => Some("1".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
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
            assert_eq!(replace(text, &env).map(|(text, _)| text), Ok(expected.to_owned()), "{text}");
        }
    }

    #[test]
    fn broken_references() {
        for text in ["${", "${A", "${}", "${A-b}", "${1}", "${ A }", "${B}", "${:-x}", "${A:}"] {
            assert!(replace(text, &env).is_err(), "{text}");
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
        assert_eq!(replace("$${5}", &env), Ok(("${5}".to_owned(), false)));
    }
}

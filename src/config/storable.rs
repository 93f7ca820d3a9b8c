//! A configuration's texts as they may be written to disk: without the secrets that somebody wrote into them.
//!
//! References to the environment stay references. What is written inline is cut out wherever it stands; then the
//! text is read again, and if a secret can still be read out of it (escaped, folded), none of it is kept.

use std::collections::BTreeSet;

use memchr::memmem::Finder;

use super::secrets::{At, REDACTED};
use super::tree::{self, Node, Value};
use super::{Source, substitute};

/// The texts of a configuration, by name, without secrets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Storable {
    /// None at all where a secret could not be cut out.
    pub files: Vec<(String, String)>,
    /// Whether the files are those that were read, so that the configuration can be compiled from them again.
    pub complete: bool,
}

/// Shorter secrets are a part of too much else: cutting them out would leave nothing that can be read.
const SECRET_BYTES_MIN: usize = 4;
/// Bytes searched, over all secrets: some tenths of a second.
const SEARCHED_MAX: usize = 1 << 30;
/// Stands for a secret while a text is read again. Unlike `[redacted]` it is plain text wherever it stands.
const STAND_IN: &str = "x";

/// `attributes` are those whose values are secrets.
pub fn storable(sources: &[Source], attributes: &BTreeSet<String>) -> Storable {
    let secrets: Option<BTreeSet<String>> = sources.iter().try_fold(BTreeSet::new(), |mut secrets, source| {
        collect(&tree::parse(&source.file, &source.text).ok()?, At::root(attributes), &mut secrets);
        Some(secrets)
    });
    match secrets {
        Some(secrets) if secrets.is_empty() => {
            let files = sources.iter().map(|source| (source.file.to_string(), source.text.clone())).collect();
            Storable { files, complete: true }
        }
        Some(secrets) => Storable { files: redact(sources, &secrets).unwrap_or_default(), complete: false },
        None => Storable::default(),
    }
}

/// `None` if one cannot be cut out.
fn redact(sources: &[Source], secrets: &BTreeSet<String>) -> Option<Vec<(String, String)>> {
    if secrets.iter().any(|secret| secret.len() < SECRET_BYTES_MIN) {
        return None;
    }
    let finders: Vec<Finder<'_>> = secrets.iter().map(Finder::new).collect();
    let mut searched = 0_usize;
    let mut may_search = |text: &str| {
        searched = searched.saturating_add(text.len().saturating_mul(finders.len()));
        searched <= SEARCHED_MAX
    };
    let mut files = Vec::new();
    for source in sources {
        if !may_search(&source.text) {
            return None;
        }
        let ranges = find(&source.text, &finders);
        let again = tree::parse(&source.file, &replace(&source.text, &ranges, STAND_IN)?).ok()?;
        let mut read = String::new();
        join(&again, &mut read);
        if !may_search(&read) || finders.iter().any(|finder| finder.find(read.as_bytes()).is_some()) {
            return None;
        }
        files.push((source.file.to_string(), replace(&source.text, &ranges, REDACTED)?));
    }
    Some(files)
}

/// Where any of them stands: ranges of bytes, in order and apart.
fn find(text: &str, secrets: &[Finder<'_>]) -> Vec<(usize, usize)> {
    let mut found: Vec<(usize, usize)> = secrets
        .iter()
        .flat_map(|secret| secret.find_iter(text.as_bytes()).map(|start| (start, start + secret.needle().len())))
        .collect();
    found.sort_unstable();
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for (start, end) in found {
        match ranges.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => ranges.push((start, end)),
        }
    }
    ranges
}

fn replace(text: &str, ranges: &[(usize, usize)], by: &str) -> Option<String> {
    let (mut out, mut from) = (String::with_capacity(text.len()), 0);
    for &(start, end) in ranges {
        out.push_str(text.get(from..start)?);
        out.push_str(by);
        from = end;
    }
    out.push_str(text.get(from..)?);
    Some(out)
}

/// All keys and texts, apart from one another.
fn join(node: &Node, out: &mut String) {
    match &node.value {
        Value::Text(text) => out.push_str(text),
        Value::Seq(items) => items.iter().for_each(|item| join(item, out)),
        Value::Map(entries) => {
            for entry in entries {
                out.push_str(&entry.key);
                out.push('\0');
                join(&entry.value, out);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
    out.push('\0');
}

/// The secrets that a file has inline: what [`super::Config::dump`] hides, as it is written.
fn collect(node: &Node, at: At<'_>, secrets: &mut BTreeSet<String>) {
    match &node.value {
        Value::Map(entries) => entries.iter().for_each(|entry| collect(&entry.value, at.below(&entry.key), secrets)),
        Value::Seq(items) => items.iter().for_each(|item| collect(item, at, secrets)),
        // That a value begins with `Bearer ` is no secret.
        Value::Text(text) if at.is_secret() && !(at.is_partial() && is_frame(text)) => inline(text, secrets),
        Value::Text(_) | Value::Number(_) | Value::Bool(_) | Value::Null => {}
    }
}

/// What of a value is written in it and is not just the frame of a reference.
pub fn inline(value: &str, secrets: &mut BTreeSet<String>) {
    let written = substitute::written(value);
    let whole = written.references == 0;
    for text in written.texts.iter().filter(|text| whole || !is_frame(text)) {
        add(text, secrets);
        // The secret alone may stand elsewhere, too.
        if let Some((_, credentials)) = text.trim().split_once(' ').filter(|(scheme, _)| is_scheme(scheme)) {
            add(credentials, secrets);
        }
    }
}

fn add(secret: &str, secrets: &mut BTreeSet<String>) {
    let secret = secret.trim();
    if !secret.is_empty() {
        secrets.insert(secret.to_owned());
        secrets.insert(secret.replace("$${", "${"));
    }
}

/// What says how the secret beside it is to be read: `Bearer ${T}`, `session=${S}; theme=${THEME}`.
fn is_frame(text: &str) -> bool {
    text.split([' ', '\t', ';', ',']).all(|word| {
        let word = word.trim_matches(['"', '\'']);
        let name = word.strip_suffix('=').unwrap_or(word);
        let named = name.len() < word.len() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        named || is_scheme(word) || !word.chars().any(char::is_alphanumeric)
    })
}

/// Schemes of `authorization`.
fn is_scheme(word: &str) -> bool {
    ["basic", "bearer", "digest", "dpop", "negotiate", "token"].iter().any(|scheme| word.eq_ignore_ascii_case(scheme))
}

#[cfg(test)]
mod tests;

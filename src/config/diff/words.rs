//! Values as one writes them in a configuration, on one line, within bounds. Nothing of it can move a cursor.

use serde_json::Value as Json;

use crate::config::secrets::{REDACTED, is_sealed};

/// Characters of a whole text.
pub const TEXT_MAX: usize = 200;
/// Of one of two values in it.
pub const VALUE_MAX: usize = 60;
/// Of a name in it.
pub const NAME_MAX: usize = 60;

/// The first `max` characters, with `…` in place of the last where there are more.
pub fn cut(text: &str, max: usize) -> String {
    let clean = text.chars().map(|c| if is_shown(c) { c } else { '\u{fffd}' });
    if text.chars().nth(max).is_none() {
        return clean.collect();
    }
    clean.take(max.saturating_sub(1)).chain(['…']).collect()
}

/// A value; `none` where there is none or nothing in it.
pub fn value(value: &Json) -> String {
    let mut out = String::new();
    write(value, &mut out);
    cut(&out, VALUE_MAX)
}

/// Whether there is nothing to say about a value.
pub fn is_nothing(value: &Json) -> bool {
    match value {
        Json::Null => true,
        Json::Array(items) => items.is_empty(),
        Json::Object(entries) => entries.is_empty(),
        Json::Bool(_) | Json::Number(_) | Json::String(_) => false,
    }
}

fn write(value: &Json, out: &mut String) {
    // Four bytes are the most that a character takes: beyond this, all is cut off anyway.
    if out.len() > 4 * VALUE_MAX {
        return;
    }
    match value {
        value if is_nothing(value) => out.push_str("none"),
        value if is_sealed(value) => out.push_str(REDACTED),
        Json::String(text) => word(text, out),
        Json::Array(items) => list(("[", "]"), items.iter().map(|item| (None, item)), out),
        Json::Object(entries) => {
            let told = entries.iter().filter(|(_, value)| !is_nothing(value));
            list(("{ ", " }"), told.map(|(key, value)| (Some(key), value)), out);
        }
        Json::Number(number) => out.push_str(&self::number(number)),
        other => out.push_str(&other.to_string()),
    }
}

fn list<'j>(
    (open, close): (&str, &str),
    items: impl Iterator<Item = (Option<&'j String>, &'j Json)>,
    out: &mut String,
) {
    out.push_str(open);
    for (index, (key, item)) in items.enumerate() {
        if out.len() > 4 * VALUE_MAX {
            break;
        }
        out.push_str(if index > 0 { ", " } else { "" });
        if let Some(key) = key {
            word(key, out);
            out.push_str(": ");
        }
        write(item, out);
    }
    out.push_str(close);
}

/// 10, not 10.0.
fn number(number: &serde_json::Number) -> String {
    match number.as_f64() {
        Some(float) if number.is_f64() => float.to_string(),
        _ => number.to_string(),
    }
}

/// In quotes where it would be read as something else without.
fn word(text: &str, out: &mut String) {
    let start: String = text.chars().take(4 * VALUE_MAX).collect();
    let plain = |c: char| c.is_ascii_graphic() && !"\"'{}[],#`".contains(c) || c.is_alphanumeric();
    if !start.is_empty() && start.chars().all(plain) {
        out.push_str(&start);
    } else {
        out.push_str(&format!("{start:?}"));
    }
}

/// Control characters, and those that turn the direction of writing, are not.
fn is_shown(c: char) -> bool {
    !c.is_control() && !matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
}

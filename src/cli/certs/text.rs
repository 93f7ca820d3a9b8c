//! Certificates, for people. What is missing from the JSON is not shown, since the proxy that was asked may be of another
//! version.

use std::fmt::{Display, Write};

use serde_json::Value;

use crate::cli::paint::{Paint, harmless};

/// Units of a time that is left, largest first, in seconds.
const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3600, "h"), (60, "m"), (1, "s")];
/// Percent of life, below which it is told in yellow.
const SHORT: u64 = 25;

pub fn all(value: &Value, paint: Paint) -> String {
    let mut out = String::new();
    for file in items(&value["files"]) {
        if !out.is_empty() {
            out.push('\n');
        }
        one(&mut out, file, paint);
    }
    out
}

/// Whether there are any.
pub fn problems(value: &Value) -> bool {
    items(&value["files"]).iter().any(|file| !items(&file["problems"]).is_empty())
}

fn one(out: &mut String, file: &Value, paint: Paint) {
    let _ = writeln!(out, "{}", paint.bold(text(&file["file"]).unwrap_or_default()));
    line(out, paint, "used as", text(&file["key"]));
    for (index, certificate) in items(&file["certificates"]).iter().enumerate() {
        if index > 0 {
            out.push('\n');
        }
        describe(out, certificate, paint);
    }
    for problem in items(&file["problems"]) {
        line(out, paint, "problem", text(problem).map(|problem| paint.red(problem)));
    }
}

fn describe(out: &mut String, certificate: &Value, paint: Paint) {
    let list = |key: &str| {
        let all: Vec<String> = items(&certificate[key]).iter().filter_map(text).collect();
        Some(all.join(", ")).filter(|all| !all.is_empty())
    };
    let authority = certificate["isCa"] == true;
    line(out, paint, if authority { "authority" } else { "identity" }, list("uris"));
    line(out, paint, "names", list("dns"));
    line(out, paint, "addresses", list("ips"));
    line(out, paint, "subject", text(&certificate["subject"]));
    line(out, paint, "issuer", text(&certificate["issuer"]));
    let (from, until) = (text(&certificate["notBefore"]), text(&certificate["notAfter"]));
    line(out, paint, "valid", from.zip(until).map(|(from, until)| format!("{from} to {until}")));
    let left = certificate["left"].as_u64().zip(certificate["leftPercent"].as_u64());
    line(
        out,
        paint,
        "left",
        left.map(|(seconds, percent)| {
            let left = format!("{} ({percent} % of its life)", time(seconds));
            match (seconds, percent < SHORT) {
                (0, _) => paint.red(left),
                (_, true) => paint.yellow(left),
                _ => paint.green(left),
            }
        }),
    );
    line(out, paint, "key", text(&certificate["keyAlgorithm"]));
    let purposes = list("purposes").unwrap_or_else(|| "not restricted".to_owned());
    line(out, paint, "purposes", (!authority).then_some(purposes));
    line(out, paint, "serial", text(&certificate["serial"]));
    line(out, paint, "sha-256", text(&certificate["hash"]));
}

fn line(out: &mut String, paint: Paint, name: &str, what: Option<impl Display>) {
    if let Some(what) = what {
        let _ = writeln!(out, "  {} {what}", paint.dim(format_args!("{name:<9}")));
    }
}

/// In the two largest units that say something.
fn time(seconds: u64) -> String {
    let mut rest = seconds;
    let parts = UNITS.map(|(size, unit)| {
        let count = rest / size;
        rest %= size;
        (count, unit)
    });
    let parts = parts.iter().skip_while(|(count, _)| *count == 0).take(2).filter(|(count, _)| *count > 0);
    let text: String = parts.map(|(count, unit)| format!("{count}{unit}")).collect();
    if text.is_empty() { "0s".to_owned() } else { text }
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(harmless)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times_have_two_units() {
        for (seconds, wanted) in
            [(0, "0s"), (59, "59s"), (60, "1m"), (3725, "1h2m"), (86_400 * 30 - 1, "29d23h"), (86_400 + 60, "1d")]
        {
            assert_eq!(time(seconds), wanted);
        }
    }

    #[test]
    fn what_a_certificate_says_is_harmless() {
        let file = json!({ "file": "a\u{1b}b", "certificates": [{ "subject": "CN=\u{202e}x" }], "problems": ["no\r"] });
        let value = json!({ "files": [file] });
        let text = all(&value, Paint::PLAIN);
        assert_eq!(text, "a\\u{1b}b\n  subject   CN=\\u{202e}x\n  purposes  not restricted\n  problem   no\\r\n");
        assert!(problems(&value) && !problems(&json!({ "files": [{ "problems": [] }] })));
    }
}

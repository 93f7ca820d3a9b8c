//! Problems as a SARIF 2.1.0 log: one run, a rule for each check, a result for each problem.

use std::path::Path;

use serde_json::{Value as Json, json};

use crate::config::lint::Rules;
use crate::config::{Problem, Report, RuleId, Severity};

const SCHEMA: &str = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json";

/// The log. A problem that points nowhere is shown at the configuration as a whole.
pub fn log(rules: &Rules, report: &Report, config: &Path) -> Json {
    let built_in = RuleId::BUILT_IN.iter().map(|id| rule(id, Severity::Error, id.sentence()));
    let own = rules.rules().iter().map(|own| {
        let why = own.why.as_deref().unwrap_or("A rule of the organisation.");
        rule(&RuleId::Lint(own.name.clone()), own.severity, why)
    });
    let described: Vec<Json> = built_in.chain(own).collect();
    let whole = config.display().to_string();
    let results: Vec<Json> = report.problems().iter().map(|problem| result(problem, &described, &whole)).collect();
    json!({
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": { "name": "outrigger", "version": env!("CARGO_PKG_VERSION"), "rules": described } },
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    })
}

fn rule(id: &RuleId, severity: Severity, text: &str) -> Json {
    json!({
        "id": id.to_string(),
        "shortDescription": { "text": text },
        "defaultConfiguration": { "level": severity.name() },
    })
}

fn result(problem: &Problem, rules: &[Json], whole: &str) -> Json {
    let id = problem.rule.to_string();
    let text = match &problem.remedy {
        Some(remedy) => format!("{}: {remedy}", problem.message),
        None => problem.message.clone(),
    };
    let mut result = json!({
        "ruleId": id,
        "level": problem.severity.name(),
        "message": { "text": text },
    });
    if let Some(index) = rules.iter().position(|rule| rule["id"] == id.as_str()) {
        result["ruleIndex"] = Json::from(index);
    }
    let mut physical = json!({ "artifactLocation": { "uri": uri(whole) } });
    if let Some(place) = &problem.place {
        let width = u32::try_from(problem.width()).unwrap_or(u32::MAX);
        physical = json!({
            "artifactLocation": { "uri": uri(&place.file) },
            "region": {
                "startLine": place.line,
                "startColumn": place.column,
                "endColumn": place.column.saturating_add(width),
            },
        });
    }
    let mut location = json!({ "physicalLocation": physical });
    if !problem.path.is_empty() {
        location["logicalLocations"] = json!([{ "fullyQualifiedName": problem.path }]);
    }
    result["locations"] = json!([location]);
    result
}

/// A path as a reference: relative as it was given, absolute as `file://…`. What a reference has no letter for is
/// percent-encoded.
fn uri(path: &str) -> String {
    let mut uri = if path.starts_with('/') { "file://".to_owned() } else { String::new() };
    // `a:b` would begin with a scheme.
    if path.split('/').next().is_some_and(|first| first.contains(':')) {
        uri.push_str("./");
    }
    for byte in path.bytes() {
        match byte {
            b'/' | b'-' | b'.' | b'_' | b'~' | b':' | b'@' | b'+' | b',' | b'=' => uri.push(char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => uri.push(char::from(byte)),
            byte => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_references() {
        for (path, expected) in [
            ("edge.yaml", "edge.yaml"),
            ("./a b/ä.yaml", "./a%20b/%C3%A4.yaml"),
            ("/etc/outrigger/50%.yaml", "file:///etc/outrigger/50%25.yaml"),
            ("c:d/e.yaml", "./c:d/e.yaml"),
            ("a?b#c", "a%3Fb%23c"),
        ] {
            assert_eq!(uri(path), expected);
        }
    }
}

//! `outrigger config`: the configurations that went live in a running proxy, and which of them is to be live.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::client::{self, Asked, get, post};
use super::paint::{Paint, harmless};

/// Digits of a digest that tell configurations apart.
const DIGEST: usize = 12;

#[derive(Debug, Args)]
pub struct Config {
    #[command(subcommand)]
    what: What,
    #[command(flatten)]
    asked: Asked,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum What {
    /// The configurations that went live, newest first
    History,
    /// The texts of one, without secrets
    Show { generation: u64 },
    /// What changed from one to the other, in words
    Diff { from: u64, to: u64 },
    /// Make a former one live again, until the file changes
    Rollback { generation: u64 },
    /// The same, and take no change of the file until it is unpinned
    Pin { generation: u64 },
    /// Take the file again
    Unpin,
}

/// Exit codes: 0 done, 1 refused or not kept, 3 no proxy answers.
pub fn run(args: Config) -> ExitCode {
    let Config { what, asked: Asked { admin, format } } = args;
    let change = |path: &str| post(admin, path, &Value::Null, "changes");
    let answer = match what {
        What::History => get(admin, "/config/history", "generations"),
        What::Show { generation } => get(admin, &format!("/config/history/{generation}"), "files"),
        What::Diff { from, to } => get(admin, &format!("/config/diff?from={from}&to={to}"), "changes"),
        What::Rollback { generation } => change(&format!("/config/rollback?to={generation}")),
        What::Pin { generation } => change(&format!("/config/pin?generation={generation}")),
        What::Unpin => change("/config/unpin"),
    };
    client::show(answer, format, |answer, paint| text(what, answer, paint))
}

fn text(what: What, answer: &Value, paint: Paint) -> String {
    match what {
        What::History => history(answer, paint),
        What::Show { .. } => show(answer),
        What::Diff { from, to } => changes(answer, &format!("generation {from} -> {to}")),
        What::Rollback { .. } | What::Pin { .. } | What::Unpin => {
            let mut out = changes(answer, &format!("generation {} is live", answer["generation"]));
            if let Some(stale) = answer["stale"].as_str() {
                let _ = writeln!(out, "{}", harmless(stale));
            }
            if answer["survivesRestart"] == false {
                out.push_str("there is no state directory: a restart takes the file\n");
            }
            out
        }
    }
}

fn history(answer: &Value, paint: Paint) -> String {
    let mut out = String::new();
    for row in answer["generations"].as_array().into_iter().flatten() {
        let field = |name: &str| row[name].as_str().unwrap_or_default();
        let digest: String = field("digest").chars().take(DIGEST).collect();
        let mut marks = Vec::new();
        for (name, mark) in [("live", "live"), ("pinned", "pinned")] {
            marks.extend((row[name] == true).then(|| mark.to_owned()));
        }
        marks.extend(row["bad"].as_str().map(|why| format!("taken back: {why}")));
        marks.extend(row["damaged"].as_str().map(|why| format!("damaged: {why}")));
        marks.extend((row["complete"] == false).then(|| "secrets left out: cannot be used again".to_owned()));
        let line = format!(
            "{:>6}  {:<24}  {digest:<DIGEST$}  {}  {}",
            row["generation"].to_string(),
            field("at"),
            harmless(field("cause")),
            harmless(field("summary")),
        );
        let line = line.trim_end().to_owned();
        let line = if row["live"] == true { paint.green(line).to_string() } else { line };
        let _ = writeln!(out, "{line}");
        for mark in marks {
            let _ = writeln!(out, "        {}", paint.yellow(harmless(&mark)));
        }
    }
    match answer["directory"].as_str() {
        Some(directory) => out.push_str(&format!("kept in {}\n", harmless(directory))),
        None => out.push_str("kept in memory only: `state.directory` would keep them over restarts\n"),
    }
    out
}

fn show(answer: &Value) -> String {
    let mut out = String::new();
    for file in answer["files"].as_array().into_iter().flatten() {
        let text = file["text"].as_str().unwrap_or_default();
        let _ = writeln!(out, "# {}", harmless(file["name"].as_str().unwrap_or_default()));
        for line in text.lines() {
            let _ = writeln!(out, "{}", harmless(line));
        }
    }
    if answer["complete"] == false && out.is_empty() {
        out.push_str("# none of its text is kept: a secret in it could not be cut out\n");
    } else if answer["complete"] == false {
        out.push_str("# secrets were written in it, and are left out\n");
    }
    out
}

/// A head line, then each change.
fn changes(answer: &Value, head: &str) -> String {
    let mut out = format!("{head}: {}\n", harmless(answer["summary"].as_str().unwrap_or_default()));
    for change in answer["changes"].as_array().into_iter().flatten() {
        let _ = writeln!(out, "  {}", harmless(change["text"].as_str().unwrap_or_default()));
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_left_out_is_said() {
        let shown = |files: Value| show(&json!({ "complete": false, "files": files }));
        assert_eq!(shown(json!([])), "# none of its text is kept: a secret in it could not be cut out\n");
        let some = shown(json!([{ "name": "a.yaml", "text": "x: [redacted]\n" }]));
        assert_eq!(some, "# a.yaml\nx: [redacted]\n# secrets were written in it, and are left out\n");
    }
}

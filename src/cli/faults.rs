//! `outrigger faults`: the faults on purpose of a running proxy, and the switch that stops all of them.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::client::{self, Asked, get, post};
use super::paint::{Paint, harmless};

#[derive(Debug, Args)]
pub struct Faults {
    #[command(subcommand)]
    what: What,
    #[command(flatten)]
    asked: Asked,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum What {
    /// What there is, and what it has done
    Status,
    /// Do nothing on purpose any more, until told otherwise or restarted
    Stop,
    /// Go on
    Start,
}

/// Exit codes: 0 done, 1 refused, 3 no proxy answers.
pub fn run(args: Faults) -> ExitCode {
    let Faults { what, asked: Asked { admin, format } } = args;
    let answer = match what {
        What::Status => get(admin, "/faults", "stopped"),
        What::Stop => post(admin, "/faults/stop", &Value::Null, "stopped"),
        What::Start => post(admin, "/faults/start", &Value::Null, "stopped"),
    };
    client::show(answer, format, text)
}

fn text(answer: &Value, paint: Paint) -> String {
    let stopped = answer["stopped"] == true;
    let head = if stopped { "stopped: nothing is done on purpose" } else { "faults are done as written" };
    let mut out = format!("{}\n", if stopped { paint.yellow(head) } else { paint.green(head) });
    for (route, fault) in answer["routes"].as_object().into_iter().flatten() {
        let mut parts = Vec::new();
        for kind in ["delay", "abort", "bandwidth"] {
            let Some(written) = fault[kind].as_object() else { continue };
            let said = |(key, value): (&String, &Value)| match value {
                Value::String(text) => format!("{key} {text}"),
                value => format!("{key} {value}"),
            };
            parts.push(format!("{kind} ({})", written.iter().map(said).collect::<Vec<_>>().join(", ")));
        }
        match fault["expires"].as_str() {
            Some(expires) if fault["expired"] == true => parts.push(format!("expired {expires}")),
            Some(expires) => parts.push(format!("until {expires}")),
            None => {}
        }
        let done = fault["done"].as_object().into_iter().flatten().filter(|(_, count)| **count != 0);
        parts.push(format!(
            "done: {}",
            done.map(|(kind, count)| format!("{kind} {count}"))
                .reduce(|all, one| format!("{all}, {one}"))
                .unwrap_or("nothing yet".to_owned())
        ));
        let _ = writeln!(out, "  {}  {}", harmless(route), harmless(&parts.join("; ")));
    }
    out
}

//! `outrigger faults`: the faults on purpose of a running proxy, and the switch that stops all of them.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::client::{get, post};
use super::paint::{Format, Paint, harmless};
use super::{DEFAULT_ADMIN, REFUSED, UNREACHABLE};

#[derive(Debug, Args)]
pub struct Faults {
    #[command(subcommand)]
    what: What,
    /// Admin address of the proxy
    #[arg(long, value_name = "ADDR", default_value = DEFAULT_ADMIN, global = true)]
    admin: SocketAddr,
    #[arg(long, value_enum, default_value_t = Format::Text, global = true)]
    format: Format,
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
    let Faults { what, admin, format } = args;
    let answer = match what {
        What::Status => get(admin, "/faults", "stopped"),
        What::Stop => post(admin, "/faults/stop", &Value::Null, "stopped"),
        What::Start => post(admin, "/faults/start", &Value::Null, "stopped"),
    };
    let (status, answer) = match answer {
        Ok(answer) => answer,
        Err(error) => return super::fail(&error.to_string(), UNREACHABLE),
    };
    if status != 200 {
        return super::fail(answer["error"].as_str().unwrap_or("the proxy refused"), REFUSED);
    }
    super::print(&match format {
        Format::Json => format!("{answer:#}\n"),
        Format::Text => text(&answer, Paint::stdout()),
    });
    ExitCode::SUCCESS
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

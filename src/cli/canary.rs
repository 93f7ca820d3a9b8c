//! `outrigger canary`: the canaries of a running proxy, and what an operator may tell them.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::client::{self, Asked, get, post};
use super::paint::{Paint, harmless};

#[derive(Debug, Args)]
pub struct Canary {
    #[command(subcommand)]
    what: What,
    #[command(flatten)]
    asked: Asked,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Where they stand, and by what numbers
    Status,
    /// Take the next step now
    Step { route: String },
    /// All traffic to the side
    Promote { route: String },
    /// No traffic to the side, until the configuration has another canary
    Abort { route: String },
}

/// Exit codes: 0 done, 1 refused, 3 no proxy answers.
pub fn run(args: Canary) -> ExitCode {
    let Canary { what, asked: Asked { admin, format } } = args;
    let order = |name: &str, route: &str| {
        let route: String = url(route);
        post(admin, &format!("/canaries/{name}?route={route}"), &Value::Null, "canaries")
    };
    let answer = match &what {
        What::Status => get(admin, "/canaries", "canaries"),
        What::Step { route } => order("step", route),
        What::Promote { route } => order("promote", route),
        What::Abort { route } => order("abort", route),
    };
    client::show(answer, format, text)
}

/// Percent-encoded, but for what names of routes are made of.
fn url(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

fn text(answer: &Value, paint: Paint) -> String {
    let mut out = String::new();
    for canary in answer["canaries"].as_array().into_iter().flatten() {
        let field = |name: &str| harmless(canary[name].as_str().unwrap_or_default());
        let phase = match field("phase") {
            aborted if aborted == "aborted" => paint.red(aborted).to_string(),
            phase => paint.green(phase).to_string(),
        };
        let (steps, step) = (canary["steps"].as_array().map_or(0, Vec::len), &canary["step"]);
        let _ = writeln!(
            out,
            "{}  {}  {phase} at {} %, step {step} of {steps}, since {}",
            field("route"),
            field("side"),
            canary["share"],
            field("since"),
        );
        match canary["waitsFor"].as_str() {
            Some("time") => {
                let _ = writeln!(out, "    next step {} after the last", field("every"));
            }
            Some("others") => {
                let _ = writeln!(out, "    no comparison on this step: the other sides get no requests");
            }
            Some(_) => {
                let _ = writeln!(out, "    waits until both sides had {} requests on this step", canary["minRequests"]);
            }
            None => {}
        }
        if canary["why"].is_string() {
            let _ = writeln!(out, "    {}", paint.yellow(field("why")));
        }
        for (window, name) in [("onStep", "this step"), ("inAll", "all of it")] {
            let one = |side: &str| {
                let seen = &canary[window][side];
                let p99 = seen["p99Millis"].as_f64().map_or("-".to_owned(), |p99| format!("{p99} ms"));
                format!("{} requests, {} failed, p99 {p99}", seen["requests"], seen["failed"])
            };
            let _ = writeln!(out, "    {name:<9}  side: {}; others: {}", one("side"), one("others"));
        }
    }
    if out.is_empty() { "there is no canary\n".to_owned() } else { out }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_cannot_break_out_of_the_query() {
        assert_eq!(url("a.b-c_1"), "a.b-c_1");
        assert_eq!(url("a&b c\n"), "a%26b%20c%0A");
    }
}

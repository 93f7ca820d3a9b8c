//! `outrigger diff`: what a new configuration would change, in words and in traffic, as the running proxy tells it.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::client;
use crate::blast::{Coverage, Group, Kind, Radius};
use crate::config::{Place, Problem, Report, source};

const EXIT_REFUSED: u8 = 1;
const EXIT_FAILED: u8 = 3;
/// Names of one list that are printed.
const NAMES_MAX: usize = 10;

#[derive(Debug, clap::Args)]
pub struct Diff {
    /// The new configuration: a YAML file, or a directory of *.yaml files
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Admin address of the running proxy
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:15000")]
    admin: SocketAddr,
    /// Exit 1 if more than this share of the requests changes, or may change
    #[arg(long, value_name = "PERCENT", value_parser = percentage)]
    max_change: Option<f64>,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Text,
    Json,
}

/// What the proxy answers.
#[derive(Debug, Deserialize)]
struct Answer {
    changes: Vec<Change>,
    radius: Radius,
}

/// One difference of the configurations, in words.
#[derive(Debug, Deserialize)]
struct Change {
    text: String,
}

/// How the share that changes compares with the one that may.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Gate {
    max: f64,
    changed: f64,
    unknown: f64,
}

pub fn run(args: Diff) -> ExitCode {
    let files = match read(&args.path) {
        Ok(files) => files,
        Err(report) => return refuse(&report, args.format),
    };
    let (status, answer) = match client::post(args.admin, "/diff", &json!({ "files": files })) {
        Ok(answer) => answer,
        Err(error) => {
            eprintln!("cannot ask the proxy at {}: {error}", args.admin);
            return ExitCode::from(EXIT_FAILED);
        }
    };
    match status {
        200 => {}
        422 => return refuse(&Report::new(problems(&answer)), args.format),
        status => {
            eprintln!("the proxy at {} answered {status}: {answer}", args.admin);
            return ExitCode::from(EXIT_FAILED);
        }
    }
    let told = match Answer::deserialize(&answer) {
        Ok(told) => told,
        Err(error) => {
            eprintln!("the answer of the proxy at {} is not understood: {error}", args.admin);
            return ExitCode::from(EXIT_FAILED);
        }
    };
    let gate = args.max_change.map(|max| Gate::new(max, &told.radius));
    show(&match args.format {
        Format::Text => text(&told, gate),
        Format::Json => format!("{:#}\n", with_gate(answer, gate)),
    });
    match gate {
        Some(gate) if !gate.passes() => ExitCode::from(EXIT_REFUSED),
        Some(_) | None => ExitCode::SUCCESS,
    }
}

fn percentage(text: &str) -> Result<f64, String> {
    let number = text.trim_end_matches('%').trim_end().parse::<f64>().ok();
    number.filter(|number| (0.0..=100.0).contains(number)).ok_or_else(|| "not a number from 0 to 100".to_owned())
}

/// The files as they are, under the names that they were given by: the proxy fills in its own environment.
fn read(path: &Path) -> Result<Vec<Value>, Report> {
    let unreadable = |path: &Path, error: &dyn std::fmt::Display| {
        Report::from(Problem::new(format!("cannot read `{}`: {error}", path.display())))
    };
    let paths = source::files(path).map_err(|error| unreadable(path, &error))?;
    if paths.is_empty() {
        return Err(Problem::new(format!("there is no `*.yaml` file in `{}`", path.display())).into());
    }
    let file = |path: &PathBuf| {
        let bytes = source::read(path).map_err(|error| unreadable(path, &error))?;
        let text = String::from_utf8(bytes).map_err(|_| unreadable(path, &"it is not UTF-8 text"))?;
        Ok(json!({ "name": path.display().to_string(), "text": text }))
    };
    paths.iter().map(file).collect()
}

fn refuse(report: &Report, format: Format) -> ExitCode {
    match format {
        Format::Text => eprintln!("{report}"),
        Format::Json => show(&format!("{:#}\n", json!({ "problems": report }))),
    }
    ExitCode::from(EXIT_REFUSED)
}

/// Whoever reads only the beginning may close the pipe.
fn show(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// As they were sent: what they look like is known here.
fn problems(answer: &Value) -> Vec<Problem> {
    let text = |json: &Value, key: &str| json.get(key).and_then(Value::as_str).map(str::to_owned);
    let number = |json: &Value, key: &str| json.get(key).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
    let all = answer.get("problems").and_then(Value::as_array);
    let problem = |json: &Value| {
        let place = text(json, "file").zip(number(json, "line")).map(|(file, line)| Place {
            file: file.into(),
            line,
            column: number(json, "column").unwrap_or(1),
            width: 0,
        });
        Problem {
            place,
            path: text(json, "path").unwrap_or_default(),
            remedy: text(json, "remedy"),
            source: text(json, "source"),
            ..Problem::new(text(json, "message").unwrap_or_default())
        }
    };
    all.into_iter().flatten().map(problem).collect()
}

fn with_gate(mut answer: Value, gate: Option<Gate>) -> Value {
    if let (Some(gate), Some(answer)) = (gate, answer.as_object_mut()) {
        answer.insert("gate".to_owned(), json!({ "maxChange": gate.max, "passed": gate.passes() }));
    }
    answer
}

impl Gate {
    fn new(max: f64, radius: &Radius) -> Self {
        Self { max, changed: radius.changed_share, unknown: radius.unknown_share }
    }

    fn passes(&self) -> bool {
        // Weights are sums of fractions: what is over by less than they can say is not over.
        self.changed + self.unknown <= self.max + 1e-9
    }
}

fn text(told: &Answer, gate: Option<Gate>) -> String {
    let mut out = String::from("configuration\n");
    if told.changes.is_empty() {
        out.push_str("  nothing changes\n");
    }
    told.changes.iter().for_each(|change| line(&mut out, &format!("  {}", change.text)));
    let radius = &told.radius;
    out.push_str("\ntraffic\n");
    for group in &radius.groups {
        line(&mut out, &format!("  {} of requests ({}) {}", percent(group.share), rate(group.rate), what(group)));
        line(&mut out, &format!("      {}", who(group)));
    }
    let changed = format!("  {} of requests ({}) change", percent(radius.changed_share), rate(radius.changed_rate));
    match radius.unknown_share > 0.0 {
        true => line(&mut out, &format!("{changed}; of {} it cannot be told", percent(radius.unknown_share))),
        false => line(&mut out, &changed),
    }
    list(&mut out, "listeners that are gone", &radius.gone);
    list(&mut out, "routes that no remembered request takes", &radius.unreached);
    out.push_str("\ncoverage\n");
    coverage(&mut out, &radius.coverage);
    if let Some(gate) = gate {
        out.push('\n');
        line(&mut out, &verdict(gate, &radius.coverage));
    }
    out
}

/// What a peer has sent may be in it.
fn line(out: &mut String, text: &str) {
    out.extend(text.chars().map(|c| if c.is_control() { '?' } else { c }));
    out.push('\n');
}

fn what(group: &Group) -> String {
    let Group { from, to, .. } = group;
    match group.kind {
        Kind::Gone => format!("lose their listener (were: {from})"),
        Kind::Unrouted => format!("become unrouted (were: {from})"),
        Kind::Refused => format!("become {to} (were: {from})"),
        Kind::Answered => format!("are answered here: {to} (were: {from})"),
        Kind::Routed => format!("find a route: {to}"),
        Kind::Side => format!("change from {from} to {to}"),
        Kind::Service => format!("reach {from} with other {to}"),
        Kind::Rewrite => format!("are sent on otherwise: {to} (was: {from})"),
        Kind::Timeout => format!("get another timeout: {to} (was: {from})"),
        Kind::BodyLimit => format!("get another limit for bodies: {to} (was: {from})"),
        Kind::Headers => format!("get other edits of {to} headers"),
        Kind::Route => format!("take route {to} instead of {from}, which does the same"),
        Kind::Unknown => format!("cannot be told (were: {from}): {to}"),
    }
}

fn who(group: &Group) -> String {
    let more = group.fingerprints.saturating_sub(1);
    let mut out = group.example.clone();
    if more > 0 {
        let _ = write!(out, " and {more} more like it");
    }
    match (&group.caller, group.callers, group.more_callers) {
        (Some(caller), ..) => _ = write!(out, "; one caller: {caller}"),
        (None, callers, true) => _ = write!(out, "; {callers} callers and more"),
        (None, callers, false) => _ = write!(out, "; {callers} callers"),
    }
    if !group.routes.is_empty() {
        let routes = if group.routes.len() == 1 { "route" } else { "routes" };
        let _ = write!(out, "; {routes} {}", names(&group.routes));
    }
    out
}

fn list(out: &mut String, title: &str, all: &[String]) {
    if !all.is_empty() {
        line(out, &format!("  {title}: {}", names(all)));
    }
}

fn names(all: &[String]) -> String {
    let shown: Vec<&str> = all.iter().take(NAMES_MAX).map(String::as_str).collect();
    match all.len().saturating_sub(NAMES_MAX) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

fn coverage(out: &mut String, coverage: &Coverage) {
    if coverage.fingerprints == 0 {
        return out.push_str("  no request is remembered: nothing is known of the traffic\n");
    }
    let window = crate::config::units::Duration(Duration::from_secs(coverage.window_seconds.clamp(1.0, 1e9) as u64));
    let Coverage { fingerprints, one_in, .. } = coverage;
    let count = if *fingerprints == 1 { "fingerprint" } else { "fingerprints" };
    let of = percent(coverage.share);
    let rate = rate(coverage.rate);
    line(
        out,
        &format!("  {of} of the requests ({rate}) of the last {window} are represented, by {fingerprints} {count};"),
    );
    match one_in {
        0 | 1 => out.push_str("  every request is looked at, and the last minutes count most\n"),
        some => line(out, &format!("  one request in {some} is looked at, and the last minutes count most")),
    }
    list(out, "looked at by the new configuration only, and so not remembered", &coverage.new_keys);
}

fn verdict(gate: Gate, coverage: &Coverage) -> String {
    let Gate { max, changed, unknown } = gate;
    let counted = match unknown > 0.0 {
        true => format!("{} change or cannot be told, which counts as changed", percent(changed + unknown)),
        false => format!("{} change", percent(changed)),
    };
    match gate.passes() {
        _ if coverage.fingerprints == 0 => "allowed: there is no traffic to judge by".to_owned(),
        true => format!("allowed: {counted}; up to {} may", percent(max)),
        false => format!("refused: {counted}; only {} may (--max-change)", percent(max)),
    }
}

/// Never more exact than it is, never 0 or 100 where it is not.
fn percent(share: f64) -> String {
    match share {
        share if share <= 0.0 => "0 %".to_owned(),
        share if share < 0.01 => "less than 0.01 %".to_owned(),
        share if share > 99.9 && share < 100.0 - 1e-9 => "more than 99.9 %".to_owned(),
        share => format!("{} %", short(share)),
    }
}

fn rate(rate: f64) -> String {
    match rate {
        rate if rate <= 0.0 => "0/s".to_owned(),
        rate if rate < 0.01 => "less than 0.01/s".to_owned(),
        rate => format!("{}/s", short(rate)),
    }
}

/// Two figures behind the point below 1, one below 100, none above.
fn short(number: f64) -> String {
    let text = match number {
        number if number < 1.0 => format!("{number:.2}"),
        number if number < 100.0 => format!("{number:.1}"),
        number => format!("{number:.0}"),
    };
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests;

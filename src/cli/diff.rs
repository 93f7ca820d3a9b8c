//! `outrigger diff`: what a new configuration would change, in words and in traffic, as the running proxy tells it.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::client::{self, Unreachable};
use super::paint::{Format, Paint, harmless};
use super::{DEFAULT_ADMIN, REFUSED, UNREACHABLE};
use crate::blast::{Coverage, Group, Kind, Radius};
use crate::config::{Problem, Report, source};

/// Names of one list that are printed.
const NAMES_MAX: usize = 10;

#[derive(Debug, clap::Args)]
pub struct Diff {
    /// The new configuration: a YAML file, or a directory of *.yaml files
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Admin address of the running proxy
    #[arg(long, value_name = "ADDR", default_value = DEFAULT_ADMIN)]
    admin: SocketAddr,
    /// Exit 1 if more than this share of the requests changes, or may change
    #[arg(long, value_name = "PERCENT", value_parser = percentage)]
    max_change: Option<f64>,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
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
    let answer = client::post(args.admin, "/diff", &json!({ "files": files }), "radius");
    match answer.and_then(|answer| understand(args.admin, answer)) {
        Ok(Heard::Refused(report)) => refuse(&report, args.format),
        Ok(Heard::Told(told, answer)) => show(&args, &told, answer),
        Ok(Heard::Failed(why)) => super::fail(&why, UNREACHABLE),
        Err(error) => super::fail(&error.to_string(), UNREACHABLE),
    }
}

/// An answer, by what it means.
enum Heard {
    /// Also as it came.
    Told(Box<Answer>, Value),
    /// The new configuration.
    Refused(Report),
    /// By the proxy, with its reason.
    Failed(String),
}

fn understand(admin: SocketAddr, (status, answer): (u16, Value)) -> Result<Heard, Unreachable> {
    let understood = match status {
        200 => Answer::deserialize(&answer).map(|told| Heard::Told(Box::new(told), answer)),
        422 => Report::deserialize(&answer["problems"]).map(Heard::Refused),
        _ => {
            let why = answer["error"].as_str().unwrap_or("without a reason");
            return Ok(Heard::Failed(format!("{admin} answered {status}: {why}")));
        }
    };
    understood.map_err(|_| Unreachable::Foreign(admin, "its answer has another shape".to_owned()))
}

fn show(args: &Diff, told: &Answer, answer: Value) -> ExitCode {
    let gate = args.max_change.map(|max| Gate::new(max, &told.radius));
    super::print(&match args.format {
        Format::Text => text(told, gate, Paint::stdout()),
        Format::Json => format!("{:#}\n", with_gate(answer, gate)),
    });
    match gate {
        Some(gate) if !gate.passes() => ExitCode::from(REFUSED),
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

/// As `check` does.
fn refuse(report: &Report, format: Format) -> ExitCode {
    match format {
        Format::Text => super::tell(report),
        Format::Json => super::print(&format!("{:#}\n", json!({ "problems": report }))),
    }
    ExitCode::from(REFUSED)
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

fn text(told: &Answer, gate: Option<Gate>, paint: Paint) -> String {
    let mut out = format!("{}\n", paint.bold("configuration"));
    if told.changes.is_empty() {
        out.push_str("  nothing changes\n");
    }
    told.changes.iter().for_each(|change| line(&mut out, &format!("  {}", change.text)));
    let radius = &told.radius;
    let _ = write!(out, "\n{}\n", paint.bold("traffic"));
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
    let _ = write!(out, "\n{}\n", paint.bold("coverage"));
    coverage(&mut out, &radius.coverage);
    if let Some(gate) = gate {
        let verdict = verdict(gate, &radius.coverage);
        let verdict = if gate.passes() { paint.green(verdict) } else { paint.red(verdict) };
        let _ = write!(out, "\n{verdict}\n");
    }
    out
}

/// What a peer has sent may be in it.
fn line(out: &mut String, text: &str) {
    out.push_str(&harmless(text));
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

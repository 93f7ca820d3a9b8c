//! What became of a request, for people. The shape of the JSON is that of `docs/why.md`; what is missing from it is not
//! shown, since the proxy that was asked may be of another version.

use std::fmt::{Display, Write};

use serde_json::Value;

use crate::cli::paint::{Paint, Painted, harmless};

/// Columns of the timeline.
const TIMELINE: usize = 40;
/// Key in the JSON, and how it is called here; in the order in which they pass.
const PHASES: [(&str, &str); 4] =
    [("queue", "queue"), ("connect", "connect"), ("firstByte", "first byte"), ("body", "body")];

/// Lines of a name and what is to be said about it.
struct Page {
    out: String,
    paint: Paint,
}

/// One exchange.
pub fn exchange(value: &Value, paint: Paint) -> String {
    let mut page = Page { out: String::new(), paint };
    page.title(value);
    page.line("why", coded(&value["reason"]));
    page.line("denied by", text(&value["authorization"]).map(|entry| format!("authorization {entry}")));
    page.line("limit", text(&value["limit"]));
    page.line("breaker", text(&value["circuitBreaker"]).map(|of| format!("of {of} was open")));
    page.line("fault", text(&value["fault"]).map(|fault| paint.yellow(fault)));
    page.line("answer by", text(&value["producer"]).map(|who| producer(&who)));
    page.line("id", text(&value["id"]));
    page.line(
        "began",
        text(&value["time"]).map(|time| {
            let worker = text(&value["worker"]).map_or_else(String::new, |worker| format!(", on worker {worker}"));
            let generation = text(&value["generation"]).map_or_else(String::new, |n| format!(", generation {n}"));
            format!("{time}{worker}{generation}")
        }),
    );
    page.line("client", joined(&[&value["peer"], &value["protocol"], &value["identity"]], ", "));
    page.line("listener", text(&value["listener"]));
    let rule = text(&value["rule"]).map_or_else(String::new, |rule| format!(", match[{rule}]"));
    page.line("route", text(&value["route"]).map(|route| format!("{route}{rule}")));
    page.line("service", joined(&[&value["service"], &value["subset"]], "/").map(|to| to + &bucket(&value["bucket"])));
    page.line("attributes", attributes(&value["attributes"]));
    let bytes = text(&value["requestBytes"]).zip(text(&value["responseBytes"]));
    page.line("bytes", bytes.map(|(request, response)| format!("{request} in, {response} out")));
    page.timeline(&value["phases"]);
    page.attempts(value);
    for rule in items(&value["shadow"]) {
        page.line("shadow", would(rule).map(|would| paint.yellow(would)));
    }
    if value["truncated"] == true {
        page.line("truncated", Some(paint.dim("some of this was too long to be kept whole")));
    }
    page.out
}

/// A line for each.
pub fn list(value: &Value, paint: Paint) -> String {
    let exchanges = items(&value["exchanges"]);
    let mut page = Page { out: String::new(), paint };
    if !exchanges.is_empty() {
        let head = format!("{:<24}  {:>6}  {:>13}  {:<36}  REQUEST", "BEGAN", "STATUS", "DURATION", "ID");
        page.put(format_args!("{}\n", paint.bold(head)));
    }
    for one in exchanges {
        let time = text(&one["time"]).unwrap_or_default();
        let id = text(&one["id"]).unwrap_or_default();
        let duration = one["duration"].as_f64().map_or_else(String::new, millis);
        let status = page.status(one, status(one));
        let reason = text(&one["reason"]["code"]).map(|code| format!("  {code}")).unwrap_or_default();
        page.put(format_args!("{time:<24}  {status:>6}  {duration:>13}  {id:<36}  {}{reason}\n", request(one)));
    }
    let none = if exchanges.is_empty() { "none of these is kept; " } else { "" };
    page.put(format_args!("{}\n", paint.dim(format_args!("{none}{}", kept(&value["kept"])))));
    page.out
}

/// No exchange has the id.
pub fn not_kept(value: &Value, paint: Paint) -> String {
    format!("{}: {}\n", paint.yellow("no longer kept, or never seen"), kept(&value["kept"]))
}

fn kept(kept: &Value) -> String {
    let count = |key| kept.get(key).and_then(Value::as_u64).map_or_else(|| "?".to_owned(), grouped);
    let counts = format!("{} of {} exchanges", count("exchanges"), count("of"));
    match (text(&kept["oldest"]), text(&kept["since"])) {
        (Some(oldest), Some(since)) => {
            format!("the oldest that is kept is from {oldest} ({counts}); since {since} all are")
        }
        (Some(oldest), None) => format!("the oldest that is kept is from {oldest} ({counts})"),
        (None, _) => format!("{counts} are kept"),
    }
}

impl Page {
    fn put(&mut self, arguments: std::fmt::Arguments<'_>) {
        // Writing to a String does not fail.
        let _ = self.out.write_fmt(arguments);
    }

    fn line(&mut self, name: &str, what: Option<impl Display>) {
        if let Some(what) = what {
            let name = self.paint.dim(name);
            self.put(format_args!("  {name:<11} {what}\n"));
        }
    }

    fn title(&mut self, value: &Value) {
        let status = self.status(value, status(value));
        let total =
            value["phases"]["total"].as_f64().map_or_else(String::new, |total| format!(" in {}", millis(total)));
        let slow = if value["slow"] == true { ", slow" } else { "" };
        let request = self.paint.bold(request(value));
        self.put(format_args!("{request}: {status}{total}{slow}\n"));
    }

    fn status<T>(&self, value: &Value, status: T) -> Painted<T> {
        match (value["failed"] == true, value["slow"] == true) {
            (true, _) => self.paint.red(status),
            (false, true) => self.paint.yellow(status),
            (false, false) => self.paint.green(status),
        }
    }

    /// What came before the request has a time and no place in it.
    fn timeline(&mut self, phases: &Value) {
        let Some(total) = phases["total"].as_f64() else { return };
        self.out.push('\n');
        for (name, when) in [("accept", "before"), ("tls", "of that")] {
            let before = phases[name].as_f64();
            self.line(name, before.map(|time| format!("{:>13}  {when}", millis(time))));
        }
        let mut passed = 0.0;
        for (key, name) in PHASES {
            if let Some(time) = phases[key].as_f64() {
                let bar = self.paint.green(bar(passed, time, total));
                self.line(name, Some(format_args!("{:>13}  {bar}", millis(time))));
                passed += time;
            }
        }
        if passed > 0.0 && total - passed >= 0.001 {
            self.line("other", Some(format!("{:>13}", millis(total - passed))));
        }
        self.line("total", Some(format!("{:>13}", millis(total))));
        self.out.push('\n');
    }

    fn attempts(&mut self, value: &Value) {
        for (n, attempt) in items(&value["attempts"]).iter().enumerate() {
            let connection = text(&attempt["connection"]).map(|connection| format!(", {connection} connection"));
            let place = joined(&[&attempt["endpoint"], &attempt["protocol"]], ", ").unwrap_or_default();
            let answered = attempt["outcome"]["code"] == "answered";
            let outcome = coded(&attempt["outcome"]).unwrap_or_default();
            let outcome = if answered { self.paint.green(outcome) } else { self.paint.red(outcome) };
            let connection = connection.unwrap_or_default();
            self.line(&format!("attempt {}", n + 1), Some(format_args!("{place}{connection}: {outcome}")));
            let times = PHASES.iter().filter_map(|(key, name)| Some((name, attempt[*key].as_f64()?)));
            let times: Vec<String> = times.map(|(name, time)| format!("{name} {}", millis(time))).collect();
            self.line("", Some(times.join(", ")).filter(|times| !times.is_empty()));
        }
        self.line("not again", coded(&value["notAgain"]));
    }
}

/// Where a phase lies within the whole. One that passed, however fast, can be seen.
fn bar(from: f64, time: f64, total: f64) -> String {
    let column = |time: f64| ((time / total * TIMELINE as f64).round() as usize).min(TIMELINE);
    let (start, end) = (column(from).min(TIMELINE - 1), column(from + time));
    let blocks = if end > start { "█".repeat(end - start) } else { "▏".to_owned() };
    " ".repeat(start) + &blocks
}

fn request(value: &Value) -> String {
    let [method, host, path] = ["method", "host", "path"].map(|key| text(&value[key]).unwrap_or_default());
    format!("{method} {host}{path}")
}

/// Of HTTP, and of gRPC where it was that.
fn status(value: &Value) -> String {
    let status = text(&value["status"]).unwrap_or_else(|| "-".into());
    match text(&value["grpcStatus"]) {
        Some(grpc) => format!("{status}/{grpc}"),
        None => status,
    }
}

fn producer(name: &str) -> String {
    match name {
        "application" => "the application".into(),
        "proxy" => "this proxy".into(),
        "peer" => "another proxy".into(),
        _ => name.to_owned(),
    }
}

fn bucket(bucket: &Value) -> String {
    let Some(number) = text(&bucket["number"]) else { return String::new() };
    let how = if bucket["sticky"] == true { "by its sticky key" } else { "by chance" };
    format!(" (bucket {number} of the split, {how})")
}

fn attributes(attributes: &Value) -> Option<String> {
    let attributes = attributes.as_object()?.iter();
    let pairs: Vec<String> =
        attributes.filter_map(|(name, value)| Some(format!("{}={}", harmless(name), text(value)?))).collect();
    Some(pairs.join(" ")).filter(|pairs| !pairs.is_empty())
}

fn would(rule: &Value) -> Option<String> {
    if let (Some(name), Some(entry)) = (text(&rule["rule"]), text(&rule["entry"])) {
        return Some(format!("{name} {entry} would have refused this"));
    }
    let amount = |key: &str| match (rule["unit"].as_str(), rule[key].as_f64()) {
        (Some("ms"), Some(time)) => Some(millis(time)),
        (Some(unit), Some(_)) => Some(format!("{} {}", text(&rule[key])?, harmless(unit))),
        _ => text(&rule[key]),
    };
    let (name, actual, limit) = (text(&rule["rule"])?, amount("actual")?, amount("limit")?);
    Some(format!("{name} would have refused this: {actual}, of {limit} allowed"))
}

/// A code with its sentence.
fn coded(value: &Value) -> Option<String> {
    let (code, sentence) = (text(&value["code"])?, text(&value["sentence"])?);
    Some(format!("{sentence} ({code})"))
}

fn joined(values: &[&Value], between: &str) -> Option<String> {
    let texts: Vec<String> = values.iter().filter_map(|value| text(value)).collect();
    Some(texts.join(between)).filter(|text| !text.is_empty())
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(harmless(text)),
        Value::Number(number) => Some(number.to_string()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

fn millis(time: f64) -> String {
    format!("{time:.3} ms")
}

/// With a comma for each thousand.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

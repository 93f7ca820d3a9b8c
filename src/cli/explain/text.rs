//! An explanation for people: from the listener to the headers, each line with its place in the configuration.

use std::fmt::Write;
use std::net::Ipv6Addr;

use serde_json::Value;

use crate::cli::paint::{Paint, Painted, harmless};
use crate::explain::{Authorization, Candidate, Explanation, More, Outcome, Policy, Says, Side, Standing};

/// Columns of the names on the left, and of what is said before a place; two spaces come behind it, however long it is.
const NAME: usize = 11;
const BODY: usize = 73;
/// Candidates after the winner that are named.
const AFTER: usize = 3;

/// One of the colours of `Paint`.
type Colour = fn(Paint, String) -> Painted<String>;

struct Page {
    out: String,
    paint: Paint,
}

pub fn render(explained: &Explanation, paint: Paint) -> String {
    let mut page = Page { out: String::new(), paint };
    page.head(explained);
    page.candidates(&explained.candidates, explained.more_candidates);
    page.authorization(&explained.authorization);
    page.outcome(explained);
    page.attributes(explained);
    page.sides(explained);
    page.policy(&explained.policy);
    page.edits(explained);
    for (index, unknown) in explained.unknown.iter().enumerate() {
        let name = if index == 0 { "unknown" } else { "" };
        page.line(name, &format!("{unknown} (not known before it comes)"), None);
    }
    page.out
}

impl Page {
    /// A name, a text, and where it is written.
    fn line(&mut self, name: &str, text: &str, place: Option<&str>) {
        self.painted(name, |_, text| Paint::PLAIN.bold(text), text, place);
    }

    /// The text is made harmless before it is painted: our own colours are the only ones.
    fn painted(&mut self, name: &str, colour: Colour, text: &str, place: Option<&str>) {
        let text = colour(self.paint, harmless(text));
        let name = self.paint.bold(format!("{name:<NAME$}"));
        let line = match place {
            Some(place) => format!("{name}{text:<BODY$}  {}", self.paint.dim(harmless(place))),
            None => format!("{name}{text}"),
        };
        // Writing to a string does not fail.
        let _ = writeln!(self.out, "{}", line.trim_end());
    }

    fn head(&mut self, explained: &Explanation) {
        let request = &explained.request;
        let grpc = if request.grpc { " (gRPC)" } else { "" };
        let from = request.from.as_ref().map(|from| format!(" from {from}")).unwrap_or_default();
        let host = match request.host.parse::<Ipv6Addr>() {
            Ok(address) => format!("[{address}]"),
            Err(_) => request.host.clone(),
        };
        self.line("request", &format!("{} {host}{}{grpc}{from}", request.method, request.path), None);
        explained.notes.iter().for_each(|note| self.line("", note, None));
        if let Some(listener) = &explained.listener {
            self.line("listener", &format!("{} on {}", listener.name, listener.why), listener.place.as_deref());
        }
        if explained.generation > 0 {
            self.line("live", &format!("generation {}", explained.generation), None);
        }
    }

    fn candidates(&mut self, all: &[Candidate], more: More) {
        let mut after = 0;
        for (index, candidate) in all.iter().enumerate() {
            let name = if index == 0 { "routes" } else { "" };
            let rule = candidate.rule.map(|rule| format!(" match[{rule}]")).unwrap_or_default();
            let place = candidate.place.as_deref();
            match (candidate.standing, &candidate.failed) {
                (Standing::Wins, _) => {
                    self.left_out(more.before, " that fail");
                    let text = format!("+ {}{rule}: every condition holds", candidate.route);
                    self.painted(name, Paint::green, &text, place);
                }
                (Standing::Fails, Some(failed)) => {
                    let text = format!(
                        "- {}{rule}: {} is {}, not {}",
                        candidate.route, failed.condition, failed.found, failed.wanted
                    );
                    self.line(name, &text, failed.place.as_deref());
                }
                (Standing::Fails, None) => {}
                (Standing::NotTried, _) => {
                    after += 1;
                    if after <= AFTER {
                        let text = format!("  {}{rule}: comes after", candidate.route);
                        self.painted(name, Paint::dim, &text, place);
                    }
                }
            }
        }
        if all.iter().all(|candidate| candidate.standing == Standing::Fails) {
            self.left_out(more.before, " that fail");
        }
        self.left_out(after.saturating_sub(AFTER) + more.after, " that come after");
    }

    fn authorization(&mut self, entries: &[Authorization]) {
        for (index, entry) in entries.iter().enumerate() {
            let rule = entry.rule.as_deref().unwrap_or_default();
            let (mark, says) = match entry.says {
                Says::Denies => ("-", format!("{rule} fits")),
                Says::Allows => ("+", format!("{rule} fits")),
                Says::Lacks => ("-", "none of its allow rules fits".to_owned()),
                Says::Nothing => (" ", "none of its deny rules fits".to_owned()),
            };
            let (shadow, then) = match (entry.shadow, entry.decides) {
                (true, true) => (" (shadow)", ", and would refuse this"),
                (true, false) => (" (shadow)", ""),
                (false, true) => ("", ", which refuses this"),
                (false, false) => ("", ""),
            };
            let colour: Colour = match (entry.says, entry.decides) {
                (_, true) => Paint::red,
                (Says::Allows, _) => Paint::green,
                (Says::Denies | Says::Lacks | Says::Nothing, false) => Paint::dim,
            };
            let name = if index == 0 { "access" } else { "" };
            let text = format!("{mark} {}{shadow}: {says}{then}", entry.name);
            self.painted(name, colour, &text, entry.place.as_deref());
        }
    }

    fn left_out(&mut self, count: usize, which: &str) {
        if count > 0 {
            self.painted("", Paint::dim, &format!("  and {count} more{which}"), None);
        }
    }

    fn outcome(&mut self, explained: &Explanation) {
        if let Some(reason) = &explained.reason {
            let status = if reason.status == 0 { String::new() } else { format!("{} ", reason.status) };
            let text = format!("{status}{}: {}", reason.code, reason.sentence);
            self.painted("answer", Paint::red, &text, None);
        }
        if let Some(route) = &explained.route {
            let rule = route.rule.map(|rule| format!(" match[{rule}]")).unwrap_or_default();
            self.line("route", &format!("{}{rule}: {}", route.name, route.why), route.place.as_deref());
            if explained.outcome != Outcome::Refuse {
                self.line("action", &route.action, None);
            }
        }
    }

    fn attributes(&mut self, explained: &Explanation) {
        for (index, attribute) in explained.attributes.iter().enumerate() {
            let from = attribute.from.as_ref().map(|from| format!(", from {from}")).unwrap_or_default();
            let text = match (&attribute.value, &attribute.note) {
                (Some(value), _) => format!("{} = {value}{from}", attribute.name),
                (None, Some(note)) => format!("{}: {note}{from}", attribute.name),
                (None, None) => format!("{}: not there", attribute.name),
            };
            self.line(if index == 0 { "attributes" } else { "" }, &text, attribute.place.as_deref());
        }
    }

    fn sides(&mut self, explained: &Explanation) {
        if let Some(split) = &explained.split {
            let bucket = split.bucket.map(|bucket| format!("bucket {bucket} of 10000, ")).unwrap_or_default();
            self.line("split", &format!("{bucket}{}", split.by), split.place.as_deref());
        }
        let several = explained.sides.len() > 1;
        for side in &explained.sides {
            let mark = if side.possible { "+" } else { "-" };
            let share = match side.buckets {
                _ if !several => String::new(),
                (start, end) if start < end => format!(" {}, buckets {start} to {}", share(side), end - 1),
                _ => format!(" {}, no bucket", share(side)),
            };
            let text = format!("{mark} {}{share} ({})", side.to, side.protocol);
            match side.possible {
                true => self.painted("to", Paint::green, &text, side.place.as_deref()),
                false => self.painted("", Paint::dim, &text, side.place.as_deref()),
            }
            if side.possible {
                self.endpoints(side);
            }
        }
    }

    fn endpoints(&mut self, side: &Side) {
        for endpoint in &side.endpoints {
            let live = endpoint.live.map(|live| {
                format!(
                    ": {} connections ({} idle), {} in flight, {} waiting",
                    live.connections, live.idle, live.in_flight, live.pending
                )
            });
            let weight = if endpoint.weight == 1 { String::new() } else { format!(" weight {}", endpoint.weight) };
            let address = &endpoint.address;
            match &endpoint.unavailable {
                None => self.line("", &format!("  + {address}{weight}{}", live.unwrap_or_default()), None),
                Some(why) => self.painted("", Paint::red, &format!("  - {address}{weight}: {why}"), None),
            }
        }
        self.left_out(side.more_endpoints, "");
        for excluded in &side.excluded {
            self.painted("", Paint::dim, &format!("  - {}: {}", excluded.address, excluded.why), None);
        }
        self.left_out(side.more_excluded, " that cannot be chosen");
        if side.endpoints.is_empty() {
            self.painted("", Paint::red, &format!("  no endpoint can be chosen: {}", why_none(side)), None);
        }
    }

    fn policy(&mut self, policies: &[Policy]) {
        for (index, policy) in policies.iter().enumerate() {
            let name = if index == 0 { "policy" } else { "" };
            let text = format!("{:<25}  {:<16}  {}", policy.name, policy.value, policy.from);
            self.line(name, &text, policy.place.as_deref());
        }
    }

    fn edits(&mut self, explained: &Explanation) {
        for (index, edit) in explained.edits.iter().enumerate() {
            let value = edit.value.as_ref().map(|value| format!(": {value}")).unwrap_or_default();
            let text = format!("{} {} {}{value} ({})", edit.on, edit.what, edit.name, edit.why);
            self.line(if index == 0 { "headers" } else { "" }, &text, None);
        }
    }
}

fn share(side: &Side) -> String {
    format!("{} %", (side.share * 100.0).round() / 100.0)
}

/// Where the endpoints were to come from, what became of it, and what helps.
fn why_none(side: &Side) -> String {
    let source = &side.discovery["source"];
    let dns = source["dns"]["name"].as_str().map(|name| match &source["dns"]["port"] {
        Value::Null => format!("the name {name}"),
        port => format!("the name {name}:{port}"),
    });
    let file = source["file"].as_str().map(|path| format!("the file {path}"));
    let source = dns.or(file).unwrap_or_else(|| "the list of the configuration".to_owned());
    match (side.discovery["lastError"].as_str(), side.excluded.as_slice()) {
        (Some(error), _) => format!("{source} cannot be read ({error}); it is tried again until it can"),
        (None, []) if side.discovery["lastSuccess"].is_null() => format!("{source} has not been read yet; ask again"),
        (None, []) => format!("{source} has no endpoint; add one"),
        (None, _) => format!("{source} has none that fits; change the labels of the subset, or weights"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::explain::Split;

    fn candidate(route: &str, standing: Standing) -> serde_json::Value {
        let failed = json!({ "condition": "host", "wanted": "`a`", "found": "`b`", "place": null });
        let failed = if standing == Standing::Fails { failed } else { json!(null) };
        json!({ "route": route, "place": null, "standing": standing, "failed": failed })
    }

    fn side(to: &str, buckets: (u32, u32), discovery: serde_json::Value) -> serde_json::Value {
        json!({
            "to": to, "share": 50.0, "buckets": buckets, "possible": true, "protocol": "auto",
            "discovery": discovery, "endpoints": [], "moreEndpoints": 0, "excluded": [], "moreExcluded": 0, "place": null,
        })
    }

    #[test]
    fn what_is_left_out_is_counted_at_its_place() {
        let all = [Standing::Fails, Standing::Wins, Standing::NotTried].map(|standing| candidate("r", standing));
        let explained = json!({ "candidates": all, "moreCandidates": { "before": 20, "after": 9 } });
        let text = render(&serde_json::from_value(explained).unwrap(), Paint::PLAIN);
        let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
        let expected =
            ["- r: host is `b`, not `a`", "and 20 more that fail", "+ r: every", "r: comes", "and 9 more that"];
        let shown = lines.iter().skip_while(|line| !line.starts_with("routes"));
        assert!(shown.clone().count() >= expected.len(), "{text}");
        for (line, expected) in shown.zip(expected) {
            assert!(line.trim_start_matches("routes").trim_start().starts_with(expected), "{text}");
        }
        let lost = json!({
            "candidates": [candidate("r", Standing::Fails)], "moreCandidates": { "before": 7, "after": 0 },
        });
        let text = render(&serde_json::from_value(lost).unwrap(), Paint::PLAIN);
        assert!(text.contains("and 7 more that fail"), "{text}");
    }

    #[test]
    fn what_is_long_does_not_touch_what_comes_behind_it() {
        let long = "0/s for each query u, which the request has";
        let policies = ["hedge.after", long]
            .map(|name| json!({ "name": name, "value": long, "from": "service", "place": "outrigger.yaml:4:5" }));
        let route =
            json!({ "name": "r".repeat(80), "why": "its turn", "action": "forward", "place": "outrigger.yaml:2:1" });
        let explained = json!({ "policy": policies, "route": route });
        let text = render(&serde_json::from_value(explained).unwrap(), Paint::PLAIN);
        for part in [
            &format!("hedge.after                {long}  service"),
            &format!("{long}  {long}  service"),
            "its turn  outrigger.yaml",
        ] {
            assert!(text.contains(part), "`{part}` is missing in:\n{text}");
        }
    }

    #[test]
    fn a_host_a_side_and_a_source_are_named() {
        let error = json!({ "source": { "file": "eps.yaml" }, "lastSuccess": null, "lastError": "not found" });
        let empty =
            json!({ "source": { "dns": { "name": "db", "port": 5 } }, "lastSuccess": "now", "lastError": null });
        let explained = json!({
            "request": { "method": "GET", "host": "::1", "path": "/" },
            "sides": [side("a", (0, 0), error), side("b", (0, 10_000), empty)],
        });
        let mut explained: Explanation = serde_json::from_value(explained).unwrap();
        explained.split = Some(Split { bucket: None, by: "by chance".to_owned(), place: None });
        let text = render(&explained, Paint::PLAIN);
        for part in [
            "GET [::1]/",
            "+ a 50 %, no bucket (auto)",
            "+ b 50 %, buckets 0 to 9999 (auto)",
            "no endpoint can be chosen: the file eps.yaml cannot be read (not found); it is tried again until it can",
            "no endpoint can be chosen: the name db:5 has no endpoint; add one",
        ] {
            assert!(text.contains(part), "`{part}` is missing in:\n{text}");
        }
    }
}

//! An explanation for people: from the listener to the headers, each line with its place in the configuration.

use std::fmt::Write;

use crate::cli::paint::{Paint, Painted, harmless};
use crate::explain::{Candidate, Explanation, Outcome, Policy, Side, Standing};

/// Columns of the names on the left, and of what is said before a place.
const NAME: usize = 11;
const BODY: usize = 74;
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
            Some(place) => format!("{name}{text:<BODY$} {}", self.paint.dim(harmless(place))),
            None => format!("{name}{text}"),
        };
        // Writing to a string does not fail.
        let _ = writeln!(self.out, "{}", line.trim_end());
    }

    fn head(&mut self, explained: &Explanation) {
        let request = &explained.request;
        let grpc = if request.grpc { " (gRPC)" } else { "" };
        let from = request.from.as_ref().map(|from| format!(" from {from}")).unwrap_or_default();
        let asked = format!("{} {}{}{grpc}{from}", request.method, request.host, request.path);
        self.line("request", &asked, None);
        if let Some(from) = &request.from {
            self.line("", &format!("nothing in this configuration looks at the caller ({from})"), None);
        }
        if let Some(listener) = &explained.listener {
            self.line("listener", &format!("{} on {}", listener.name, listener.why), listener.place.as_deref());
        }
        if explained.generation > 0 {
            self.line("live", &format!("generation {}", explained.generation), None);
        }
    }

    fn candidates(&mut self, all: &[Candidate], more: usize) {
        let mut after = 0;
        for (index, candidate) in all.iter().enumerate() {
            let name = if index == 0 { "routes" } else { "" };
            let rule = candidate.rule.map(|rule| format!(" match[{rule}]")).unwrap_or_default();
            let place = candidate.place.as_deref();
            match (candidate.standing, &candidate.failed) {
                (Standing::Wins, _) => {
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
        let left = after.saturating_sub(AFTER) + more;
        if left > 0 {
            self.painted("", Paint::dim, &format!("  and {left} more"), None);
        }
    }

    fn outcome(&mut self, explained: &Explanation) {
        if let Some(reason) = &explained.reason {
            let text = format!("{} {}: {}", reason.status, reason.code, reason.sentence);
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
            let share = if several {
                format!(" {}, buckets {} to {}", share(side), side.buckets.0, last(side))
            } else {
                String::new()
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
            self.line("", &format!("  + {}{weight}{}", endpoint.address, live.unwrap_or_default()), None);
        }
        for excluded in &side.excluded {
            self.painted("", Paint::dim, &format!("  - {}: {}", excluded.address, excluded.why), None);
        }
        if side.endpoints.is_empty() {
            let error = side.discovery.get("lastError").and_then(|error| error.as_str()).unwrap_or_default();
            self.painted("", Paint::red, format!("  no endpoint can be chosen {error}").trim_end(), None);
        }
    }

    fn policy(&mut self, policies: &[Policy]) {
        for (index, policy) in policies.iter().enumerate() {
            let name = if index == 0 { "policy" } else { "" };
            let text = format!("{:<27}{:<18}{}", policy.name, policy.value, policy.from);
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

/// The last bucket of a side.
fn last(side: &Side) -> u32 {
    side.buckets.1.saturating_sub(1)
}

//! Why a request goes where it goes: the decision of `decide` itself, with everything that led to it and where that is
//! written. The data path, `outrigger explain`, `POST /explain` and the answer header all tell what `decide` says.

mod ask;
mod candidates;
mod compact;
mod effective;
mod sides;

#[cfg(test)]
mod tests;

use http::header::HOST;
use http::request;
use serde::{Deserialize, Serialize};

pub use ask::Ask;
pub use compact::{Known, REQUEST_HEADER, compact, wants};

use crate::config::{REDACTED, is_secret};
use crate::decide::{self, Decision, Understood, Verdict};
use crate::error::Reason;
use crate::policy::split;
use crate::snapshot::matcher::Facts;
use crate::snapshot::{Action, HeaderEdits, Kind, Listener, Redirect, Rewrite, Snapshot};
use crate::wire::grpc;

/// Everything that is known of a request before its body. `outrigger explain --format json` prints it as it is.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Explanation {
    /// Of the configuration; 0 where it was read from a file and is not live.
    pub generation: u64,
    pub request: Asked,
    pub listener: Option<Named>,
    pub outcome: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Because>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<Winner>,
    /// In order of precedence.
    pub candidates: Vec<Candidate>,
    /// Candidates that are left out.
    pub more_candidates: usize,
    pub attributes: Vec<Attribute>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split: Option<Split>,
    pub sides: Vec<Side>,
    /// Timeouts, limits and retries that are in force.
    pub policy: Vec<Policy>,
    pub edits: Vec<Edit>,
    /// What only the body, or chance, will decide.
    pub unknown: Vec<String>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Asked {
    pub method: String,
    pub host: String,
    /// As routing sees it: without dot segments.
    pub path: String,
    pub grpc: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    Forward,
    Redirect,
    Respond,
    Refuse,
    #[default]
    NoRoute,
}

/// Something that has a name, and where it is written (`file:line`).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Named {
    pub name: String,
    pub place: Option<String>,
    /// Why this one.
    pub why: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Because {
    pub code: String,
    pub status: u16,
    pub sentence: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Winner {
    pub name: String,
    /// Which of its matches; absent where it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<usize>,
    pub place: Option<String>,
    pub why: String,
    /// What happens, in one line.
    pub action: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Candidate {
    pub route: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<usize>,
    pub place: Option<String>,
    pub standing: Standing,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<Failed>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Standing {
    Fails,
    Wins,
    /// Comes after the winner.
    NotTried,
}

/// The first condition that does not hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failed {
    pub condition: String,
    pub wanted: String,
    pub found: String,
    pub place: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attribute {
    pub name: String,
    pub value: Option<String>,
    /// `header x-env`.
    pub from: Option<String>,
    pub place: Option<String>,
    /// Why it counts as absent though a value is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Split {
    /// Place on a line of 10,000; absent where chance decides.
    pub bucket: Option<u32>,
    pub by: String,
    pub place: Option<String>,
}

/// Where the request may go.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Side {
    pub to: String,
    /// Of the line, in percent.
    pub share: f64,
    /// First bucket, and the first that is no longer its own.
    pub buckets: (u32, u32),
    /// It is chosen, or chance may choose it.
    pub possible: bool,
    pub protocol: String,
    /// Where the endpoints come from.
    pub discovery: serde_json::Value,
    pub endpoints: Vec<Endpoint>,
    pub excluded: Vec<Excluded>,
    pub place: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    pub address: std::net::SocketAddr,
    pub weight: u32,
    /// What is going on there now; only from a running proxy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live: Option<Live>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Live {
    pub connections: u64,
    pub idle: u64,
    pub in_flight: u64,
    pub pending: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Excluded {
    pub address: std::net::SocketAddr,
    pub why: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    /// Key of the configuration language.
    pub name: String,
    pub value: String,
    /// `route`, `service`, `listener`, `defaults`, or `built in`.
    pub from: String,
    pub place: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Edit {
    /// `request` or `response`.
    pub on: String,
    /// `set`, `add`, `remove`.
    pub what: String,
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    pub why: String,
}

/// Explains one request; an error is a request that cannot be asked about.
pub fn explain(snapshot: &Snapshot, ask: &Ask) -> Result<Explanation, String> {
    let parts = ask.parts()?;
    let mut explanation = Explanation { generation: snapshot.generation, ..Explanation::default() };
    // As it came, until it is understood.
    explanation.request = Asked {
        method: parts.method.to_string(),
        host: parts
            .headers
            .get(HOST)
            .map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned())
            .unwrap_or_default(),
        path: parts.uri.path().to_owned(),
        grpc: grpc::is_grpc(&parts.headers),
        from: ask.from.clone(),
    };
    let (listener, why) = choose(snapshot, ask, &parts)?;
    let index = snapshot.listeners.iter().position(|known| known.name == listener.name).unwrap_or_default();
    explanation.listener = Some(Named {
        name: listener.name.to_string(),
        place: place(snapshot, &format!("listeners[{index}]")),
        why: format!("{} ({why})", listener.config.address),
    });
    explanation.policy = effective::of_listener(snapshot, index);
    if let Kind::Tcp(route) = listener.kind {
        tcp(&mut explanation, snapshot, route);
        return Ok(explanation);
    }
    let understood = match decide::understand(listener, &parts) {
        Ok(understood) => understood,
        Err(reason) => {
            (explanation.outcome, explanation.reason) = (Outcome::Refuse, Some(because(reason)));
            return Ok(explanation);
        }
    };
    http(&mut explanation, snapshot, listener, &parts, &understood);
    Ok(explanation)
}

fn http(
    explanation: &mut Explanation,
    snapshot: &Snapshot,
    listener: &Listener,
    parts: &request::Parts,
    understood: &Understood<'_>,
) {
    let facts = understood.facts(snapshot, parts);
    explanation.request.host = understood.authority.host.to_string();
    explanation.request.path = understood.path.text.to_string();
    explanation.attributes = attributes(snapshot, &facts);
    (explanation.candidates, explanation.more_candidates) = candidates::candidates(snapshot, listener, &facts);
    let decision = match decide::decide(snapshot, listener, &facts, || 0) {
        Ok(decision) => decision,
        Err(reason) => {
            explanation.outcome = if reason == Reason::NoRoute { Outcome::NoRoute } else { Outcome::Refuse };
            explanation.reason = Some(because(reason));
            return;
        }
    };
    explanation.outcome = match (&decision.verdict, &decision.route.action) {
        (Verdict::Forward { .. }, _) => Outcome::Forward,
        (Verdict::Refuse(_), _) | (Verdict::Answer, Action::Forward(_)) => Outcome::Refuse,
        (Verdict::Answer, Action::Redirect(_)) => Outcome::Redirect,
        (Verdict::Answer, Action::Respond(..)) => Outcome::Respond,
    };
    if let Verdict::Refuse(reason) = decision.verdict {
        explanation.reason = Some(because(reason));
    }
    let winner = explanation.candidates.iter().find(|candidate| candidate.standing == Standing::Wins);
    explanation.route = Some(Winner {
        name: decision.route.name.to_string(),
        rule: winner.and_then(|winner| winner.rule),
        place: winner.and_then(|winner| winner.place.clone()),
        why: why_it_won(&explanation.candidates),
        action: action(snapshot, &decision),
    });
    (explanation.split, explanation.sides) = sides::of(snapshot, &decision);
    explanation.policy.splice(0..0, effective::of_route(snapshot, &decision, facts.grpc));
    explanation.edits = edits(snapshot, &decision, &facts);
    explanation.unknown = unknown(&decision, parts, explanation.split.as_ref());
}

fn tcp(explanation: &mut Explanation, snapshot: &Snapshot, route: usize) {
    let Some(route) = snapshot.routes.get(route) else {
        explanation.reason = Some(because(Reason::NoRoute));
        return;
    };
    let written = snapshot.config.root().routes.iter().position(|written| *written.name == *route.name);
    explanation.outcome = Outcome::Forward;
    explanation.route = Some(Winner {
        name: route.name.to_string(),
        rule: None,
        place: written.and_then(|index| place(snapshot, &format!("routes[{index}]"))),
        why: "a tcp listener has one route, and looks at no request".to_owned(),
        action: "bytes are relayed both ways".to_owned(),
    });
    (explanation.split, explanation.sides) = sides::of_tcp(snapshot, route);
}

/// The listener that the request would come to.
fn choose<'s>(snapshot: &'s Snapshot, ask: &Ask, parts: &request::Parts) -> Result<(&'s Listener, String), String> {
    let all = &snapshot.listeners;
    let names = || all.iter().map(|listener| format!("`{}`", listener.name)).collect::<Vec<_>>().join(", ");
    if let Some(name) = &ask.listener {
        let named = all.iter().find(|listener| *listener.name == **name);
        return named
            .map(|listener| (listener, "it was named".to_owned()))
            .ok_or_else(|| format!("there is no listener `{name}`: there is {}", names()));
    }
    let on = |port: u16| all.iter().find(|listener| listener.config.address.port() == port);
    if let Some(port) = ask.port {
        let found = on(port).map(|listener| (listener, format!("it listens on port {port}")));
        return found.ok_or_else(|| format!("no listener is on port {port}: there is {}", names()));
    }
    if let Some((listener, port)) = ask.url_port().and_then(|port| Some((on(port)?, port))) {
        return Ok((listener, format!("it listens on port {port}")));
    }
    let http = |listener: &&Listener| matches!(listener.kind, Kind::Http { .. });
    let routed = |listener: &&Listener| {
        let Ok(understood) = decide::understand(listener, parts) else { return false };
        decide::decide(snapshot, listener, &understood.facts(snapshot, parts), || 0).is_ok()
    };
    let found = all.iter().filter(http).find(routed);
    match found.or_else(|| all.iter().find(http)).or(all.first()) {
        Some(listener) if all.len() == 1 => Ok((listener, "the only one".to_owned())),
        Some(listener) if found.is_some() => Ok((listener, "the first that has a route for it".to_owned())),
        Some(listener) => Ok((listener, "no listener has a route for it; this is the first".to_owned())),
        None => Err("there is no listener".to_owned()),
    }
}

fn attributes(snapshot: &Snapshot, facts: &Facts<'_>) -> Vec<Attribute> {
    let one = |attribute: &crate::snapshot::matcher::Attribute| {
        let source = attribute.from.iter().find_map(|key| Some((key, key.first(facts)?)));
        let value = attribute.value(facts);
        let from = source.as_ref().map(|(key, _)| key.describe(snapshot));
        let note = match (&source, &value) {
            (Some((_, found)), None) => {
                Some(format!("`{}` is not one of its values, and counts as absent", shown(attribute.secret, found)))
            }
            _ => None,
        };
        let index = source.and_then(|(key, _)| attribute.from.iter().position(|known| known == key));
        let path = format!("attributes{}", crate::config::step(&attribute.name));
        let place = index.and_then(|index| place(snapshot, &format!("{path}.from[{index}]")));
        Attribute {
            name: attribute.name.to_string(),
            value: value.map(|value| shown(attribute.secret, &value)),
            from,
            place: place.or_else(|| self::place(snapshot, &path)),
            note,
        }
    };
    snapshot.attributes.iter().map(one).collect()
}

fn why_it_won(candidates: &[Candidate]) -> String {
    let place = candidates.iter().position(|candidate| candidate.standing == Standing::Wins).unwrap_or_default();
    match place {
        0 => "the most telling route, and all of its conditions hold".to_owned(),
        1 => "all of its conditions hold; one more telling route fails".to_owned(),
        n => format!("all of its conditions hold; {n} more telling rules fail"),
    }
}

fn action(snapshot: &Snapshot, decision: &Decision<'_>) -> String {
    match (&decision.verdict, &decision.route.action) {
        (Verdict::Refuse(reason), _) => format!("refused: {}", reason.sentence()),
        (Verdict::Forward { target, drawn, .. }, _) => match drawn {
            Some(drawn) if !drawn.sticky => "to one side of a split, by chance".to_owned(),
            _ => format!("to {}", sides::name(snapshot, *target)),
        },
        (_, Action::Redirect(redirect)) => format!("redirect ({}){}", redirect.status.as_u16(), redirected(redirect)),
        (_, Action::Respond(status, body)) => format!("answer {} of {} bytes", status.as_u16(), body.len()),
        (_, Action::Forward(_)) => "nothing".to_owned(),
    }
}

fn redirected(redirect: &Redirect) -> String {
    let mut text = String::new();
    let mut say = |what: &str, value: Option<String>| {
        if let Some(value) = value {
            text.push_str(&format!(", {what} {value}"));
        }
    };
    say("scheme", redirect.scheme.map(str::to_owned));
    say("host", redirect.host.clone());
    say("port", redirect.port.map(|port| port.to_string()));
    say("path", redirect.path.as_ref().map(rewritten));
    text
}

fn rewritten(rewrite: &Rewrite) -> String {
    match rewrite {
        Rewrite::Path(path) => format!("becomes `{path}`"),
        Rewrite::Prefix(prefix) => format!("with its prefix replaced by `{prefix}`"),
    }
}

fn edits(snapshot: &Snapshot, decision: &Decision<'_>, facts: &Facts<'_>) -> Vec<Edit> {
    let mut edits = Vec::new();
    let mut edit = |on: &str, what: &str, name: &str, value: Option<String>, why: &str| {
        let (on, what, name) = (on.to_owned(), what.to_owned(), name.to_owned());
        let value = value.map(|value| shown(is_secret(&name), &value));
        edits.push(Edit { on, what, value, name, why: why.to_owned() });
    };
    if let Verdict::Forward { forward, .. } = decision.verdict {
        for attribute in &snapshot.attributes {
            if let (Some(name), Some(value)) = (&attribute.forward, attribute.value(facts)) {
                let why = format!("attribute {}", attribute.name);
                edit("request", "set", name.as_str(), Some(attribute.shown(&value).to_owned()), &why);
            }
        }
        if let Some(rewrite) = &forward.rewrite {
            edit("request", "set", ":path", Some(rewritten(rewrite)), "rewrite of the route");
        }
        if let Some(host) = &forward.rewrite_host {
            edit("request", "set", "host", host.to_str().ok().map(str::to_owned), "rewrite of the route");
        }
    }
    let mut all = |on: &str, list: &HeaderEdits| {
        let text = |value: &http::HeaderValue| Some(String::from_utf8_lossy(value.as_bytes()).into_owned());
        list.remove.iter().for_each(|name| edit(on, "remove", name.as_str(), None, "edits of the route"));
        list.set.iter().for_each(|(name, value)| edit(on, "set", name.as_str(), text(value), "edits of the route"));
        list.add.iter().for_each(|(name, value)| edit(on, "add", name.as_str(), text(value), "edits of the route"));
    };
    if matches!(decision.verdict, Verdict::Forward { .. }) {
        all("request", &decision.route.request_headers);
    }
    all("response", &decision.route.response_headers);
    edits
}

/// What cannot be known from the head.
fn unknown(decision: &Decision<'_>, parts: &request::Parts, split: Option<&Split>) -> Vec<String> {
    let mut unknown = Vec::new();
    if let Some(Split { bucket: None, by, .. }) = split {
        unknown.push(format!("the side: {by}"));
    }
    let counted = parts.headers.contains_key(http::header::CONTENT_LENGTH);
    if let (Some(limit), false, Verdict::Forward { .. }) = (decision.route.max_body, counted, &decision.verdict) {
        let then = if limit.shadow { "counted as one that would be refused" } else { "cut with 413" };
        unknown.push(format!("the length of the body: beyond {} bytes it is {then}", limit.limit));
    }
    unknown
}

fn because(reason: Reason) -> Because {
    let (code, sentence) = (reason.code().to_owned(), reason.sentence().to_owned());
    Because { code, status: reason.status().as_u16(), sentence }
}

fn place(snapshot: &Snapshot, path: &str) -> Option<String> {
    snapshot.config.place(path).map(|place| place.to_string())
}

/// A value as it may be shown.
fn shown(secret: bool, value: &str) -> String {
    const LENGTH: usize = 200;
    if secret {
        return REDACTED.to_owned();
    }
    let short: String = value.chars().take(LENGTH).collect();
    if short.len() < value.len() { format!("{short}…") } else { short }
}

/// The share of a line between two of its buckets, in percent.
fn percent(from: u32, to: u32) -> f64 {
    f64::from(to.saturating_sub(from)) * 100.0 / f64::from(split::BUCKETS)
}

//! Why a request goes where it goes: the decision of `decide` itself, with everything that led to it and where that is
//! written. The data path, `outrigger explain`, `POST /explain` and the answer header all tell what `decide` says.

mod ask;
mod authorization;
mod balancing;
mod candidates;
mod circuit;
mod compact;
mod edits;
mod effective;
mod limits;
mod listener;
mod places;
mod redirected;
mod sides;
mod traffic;

#[cfg(test)]
mod tests;

use std::net::IpAddr;

use http::header::HOST;
use http::request;
use http::uri::Authority;
use serde::{Deserialize, Serialize};

pub use ask::Ask;
pub use authorization::{Authorization, Says};
pub use compact::{Known, REQUEST_HEADER, compact, take};

use crate::config::REDACTED;
use crate::config::schema::{Mode, Protocol};
use crate::decide::{self, Decision, Refusal, Verdict};
use crate::error::Reason;
use crate::policy::caller::Caller;
use crate::policy::split;
use crate::snapshot::authz::{self, Rule};
use crate::snapshot::matcher::Facts;
use crate::snapshot::{Action, Kind, Listener, Redirect, Rewrite, Snapshot};
use crate::wire::address::Address;
use crate::wire::grpc;
use crate::wire::hop;
use candidates::Candidates;
use places::place;

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
    pub more_candidates: More,
    /// Entries that are for the listener and the port, in the order of the file.
    pub authorization: Vec<Authorization>,
    pub attributes: Vec<Attribute>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split: Option<Split>,
    pub sides: Vec<Side>,
    /// Timeouts, limits and retries that are in force.
    pub policy: Vec<Policy>,
    pub edits: Vec<Edit>,
    /// What only the body, or chance, will decide.
    pub unknown: Vec<String>,
    /// What was said of the request, and is of no consequence.
    pub notes: Vec<String>,
}

/// Candidates that are left out, in front of the winner and behind it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct More {
    pub before: usize,
    pub after: usize,
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
    /// 0 where no HTTP is spoken.
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
    /// First bucket, and the first that is no longer its own: the same where it has none.
    pub buckets: (u32, u32),
    /// It is chosen, or chance may choose it.
    pub possible: bool,
    pub protocol: String,
    /// Where the endpoints come from.
    pub discovery: serde_json::Value,
    pub endpoints: Vec<Endpoint>,
    /// Those that are left out.
    pub more_endpoints: usize,
    pub excluded: Vec<Excluded>,
    pub more_excluded: usize,
    pub place: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    pub address: Address,
    pub weight: u32,
    /// Why it is left out as long as others are not; only from a running proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unavailable: Option<String>,
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
    pub address: Address,
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
    let from = ask.caller()?;
    match (authorization::looks_at_callers(snapshot), &ask.from) {
        (false, Some(_)) => explanation.notes.push("nothing in this configuration looks at the caller".to_owned()),
        (true, None) => {
            explanation.notes.push("no caller is named: somebody without an identity, from 0.0.0.0".to_owned())
        }
        (false, None) | (true, Some(_)) => {}
    }
    let to = ask.destination()?;
    let (listener, why) = listener::choose(snapshot, ask, &parts, &from, to)?;
    let caller = from.at(redirected::port(listener, ask, to)).on_its_way(to);
    let index = snapshot.listeners.iter().position(|known| known.name == listener.name).unwrap_or_default();
    explanation.listener = Some(Named {
        name: listener.name.to_string(),
        place: place(snapshot, &format!("listeners[{index}]")),
        why: format!("{} ({why})", listener.config.address),
    });
    explanation.policy = effective::of_listener(snapshot, index);
    explanation.notes.extend(redirected::notes(snapshot, listener, &caller));
    if decide::is_relayed(snapshot, listener, &caller) {
        let named = matches!(&listener.kind, Kind::Tcp(routes) if routes.has_names());
        tcp(&mut explanation, snapshot, listener, named, &caller);
        return Ok(explanation);
    }
    let understood = match listener::understand(listener, &parts) {
        Ok(understood) => understood,
        Err(reason) => {
            (explanation.outcome, explanation.reason) = (Outcome::Refuse, Some(because(snapshot, reason, None)));
            return Ok(explanation);
        }
    };
    http(&mut explanation, snapshot, listener, &parts, &understood.facts(snapshot, &parts, caller));
    Ok(explanation)
}

fn http(
    explanation: &mut Explanation,
    snapshot: &Snapshot,
    listener: &Listener,
    parts: &request::Parts,
    facts: &Facts<'_>,
) {
    explanation.request.host = facts.host.to_owned();
    explanation.request.path = facts.path.to_owned();
    explanation.attributes = attributes(snapshot, facts);
    let ruling = authz::judge(&snapshot.authorization, &listener.authorization, facts);
    let port = facts.caller.port;
    explanation.authorization = authorization::of(snapshot, listener, port, &ruling, |_, rule| rule.fits(facts));
    let denied = ruling.denied;
    let decision = match decide::ruled(snapshot, listener, facts, ruling, || 0) {
        Ok(decision) => decision,
        Err(Refusal { reason, .. }) => {
            let candidates = candidates::candidates(snapshot, listener, facts);
            (explanation.candidates, explanation.more_candidates) = (candidates.shown, candidates.more);
            explanation.outcome = if reason == Reason::NoRoute { Outcome::NoRoute } else { Outcome::Refuse };
            explanation.reason = Some(because(snapshot, reason, denied));
            return;
        }
    };
    let candidates = match &listener.kind {
        // Whatever is asked for, it is for the application.
        Kind::Inbound(_) => Candidates::default(),
        _ => {
            let hosts = redirected::hosts(snapshot, listener, &facts.caller, facts.host);
            let mut found = hosts.map(|host| candidates::candidates(snapshot, listener, &Facts { host, ..*facts }));
            found.find(|found| found.winner == Some((decision.rule.route, decision.rule.index))).unwrap_or_default()
        }
    };
    (explanation.candidates, explanation.more_candidates) = (candidates.shown, candidates.more);
    explanation.outcome = match (&decision.verdict, &decision.route.action) {
        (Verdict::Forward { .. }, _) => Outcome::Forward,
        (Verdict::Refuse(_), _) | (Verdict::Answer, Action::Forward(_)) => Outcome::Refuse,
        (Verdict::Answer, Action::Redirect(_)) => Outcome::Redirect,
        (Verdict::Answer, Action::Respond(..)) => Outcome::Respond,
    };
    let original = redirected::original(listener, &facts.caller);
    (explanation.split, explanation.sides) = sides::of(snapshot, &decision, original);
    let mut action = action(snapshot, &decision, &explanation.sides);
    let refused = match decision.verdict {
        Verdict::Refuse(reason) => Some(reason),
        Verdict::Forward { .. } if sides::nowhere(&explanation.sides) => Some(Reason::NoEndpoint),
        Verdict::Forward { target, .. } => {
            // HTTP/2 has no such upgrade.
            let http2 = snapshot.services.get(target.service).is_some_and(|one| one.protocol == Protocol::Http2);
            let upgrade = || hop::strip_request(parts.version, &mut parts.headers.clone()).upgrade.is_some();
            (http2 && upgrade()).then_some(Reason::Unsupported)
        }
        Verdict::Answer => None,
    };
    match refused {
        Some(reason) => {
            let because = because(snapshot, reason, denied);
            (explanation.outcome, explanation.reason) = (Outcome::Refuse, Some(because));
            action = format!("refused: {}", reason.sentence());
        }
        None => {
            let outbound = listener.config.mode == Mode::Outbound;
            explanation.edits = edits::of(snapshot, &decision, facts, parts, outbound);
            explanation.unknown = unknown(&decision, parts, explanation.split.as_ref(), &explanation.sides);
        }
    }
    let (route, rule) = (decision.rule.route, decision.rule.index);
    explanation.route = Some(Winner {
        name: decision.route.name.to_string(),
        rule: places::number(snapshot, route, rule),
        place: place(snapshot, &places::of_rule(snapshot, route, rule)),
        why: match candidates.winner {
            Some(_) => why_it_won(candidates.failing),
            None => "its destination leads there, and no written route is for it".to_owned(),
        },
        action,
    });
    let mut policy = effective::of_route(snapshot, &decision, facts.grpc);
    if let Verdict::Forward { target, .. } = decision.verdict {
        policy.extend(balancing::of(snapshot, target, Some(facts)));
    }
    explanation.policy.splice(0..0, policy);
}

/// `named`: whether routes go by the name that a client of TLS asks for, which is the host of the URL.
fn tcp(explanation: &mut Explanation, snapshot: &Snapshot, listener: &Listener, named: bool, caller: &Caller<'_>) {
    let asked = explanation.request.host.parse::<Authority>();
    let host = asked.map_or_else(|_| String::new(), |asked| asked.host().trim_end_matches('.').to_ascii_lowercase());
    // An address is not a name, and a client that has none sends none.
    let is_address = host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    let name = if is_address { "" } else { &*host };
    let ruling = decide::authorize_connection(snapshot, listener, caller);
    let fits = |list, rule: &Rule| rule.fits_connection(list, caller);
    explanation.authorization = authorization::of(snapshot, listener, caller.port, &ruling, fits);
    if named {
        let candidates = candidates::of_tcp(snapshot, listener, name);
        (explanation.candidates, explanation.more_candidates) = (candidates.shown, candidates.more);
    }
    let decided = match &listener.kind {
        Kind::Tcp(_) => decide::decide_tcp(snapshot, listener, Some(name), || 0).ok_or(Reason::NoRoute),
        _ => decide::decide_relayed(snapshot, listener, Some(name), *caller, || 0),
    };
    let (decided, reason) = match decided {
        Ok(decided) => (Some(decided), Reason::NoRoute),
        Err(reason) => (None, reason),
    };
    let index = decided.and_then(|(route, ..)| snapshot.routes.iter().position(|known| std::ptr::eq(known, route)));
    let Some((index, route)) = index.and_then(|index| Some((index, snapshot.routes.get(index)?))) else {
        explanation.reason = Some(Because { status: 0, ..because(snapshot, reason, None) });
        return;
    };
    explanation.outcome = Outcome::Forward;
    let for_names = places::written(snapshot, index).is_some_and(|written| !written.hosts.is_empty());
    explanation.route = Some(Winner {
        name: route.name.to_string(),
        rule: None,
        place: place(snapshot, &places::of_route(snapshot, index)),
        why: match (named, for_names) {
            _ if caller.to.is_some() => "its destination leads there".to_owned(),
            (false, _) => "a tcp listener has one route, and looks at no request".to_owned(),
            (true, true) => format!("a client of TLS that asks for `{name}` goes there"),
            (true, false) => "for clients of TLS that ask for no name of another route, and for others".to_owned(),
        },
        action: "bytes are relayed both ways".to_owned(),
    });
    (explanation.split, explanation.sides) =
        sides::of_tcp(snapshot, route, index, redirected::original(listener, caller));
    explanation.policy.splice(0..0, effective::of_tcp(snapshot, route));
    let nowhere = sides::nowhere(&explanation.sides).then_some(Reason::NoEndpoint);
    if let Some(reason) = ruling.denied.map(|_| Reason::Denied).or(nowhere) {
        explanation.outcome = Outcome::Refuse;
        explanation.reason = Some(Because { status: 0, ..because(snapshot, reason, ruling.denied) });
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

/// `failing`: rules for the host that come before it.
fn why_it_won(failing: usize) -> String {
    match failing {
        0 => "the most telling route, and all of its conditions hold".to_owned(),
        1 => "all of its conditions hold; one more telling rule fails".to_owned(),
        n => format!("all of its conditions hold; {n} more telling rules fail"),
    }
}

fn action(snapshot: &Snapshot, decision: &Decision<'_>, sides: &[Side]) -> String {
    match (&decision.verdict, &decision.route.action) {
        (Verdict::Forward { target, .. }, _) => match sides::only(sides) {
            Some(_) => format!("to {}", sides::name(snapshot, *target)),
            None => "to one side of a split, by chance".to_owned(),
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

/// What cannot be known from the head.
fn unknown(decision: &Decision<'_>, parts: &request::Parts, split: Option<&Split>, sides: &[Side]) -> Vec<String> {
    let mut unknown = Vec::new();
    if let (Some(Split { bucket: None, by, .. }), None) = (split, sides::only(sides)) {
        unknown.push(format!("the side: {by}"));
    }
    let counted = parts.headers.contains_key(http::header::CONTENT_LENGTH);
    if let (Some(limit), false, Verdict::Forward { .. }) = (decision.route.max_body, counted, &decision.verdict) {
        let then = if limit.shadow { "counted as one that would be refused" } else { "cut with 413" };
        unknown.push(format!("the length of the body: beyond {} bytes it is {then}", limit.limit));
    }
    unknown
}

/// With the entry of `authorization` that denies, where one does.
fn because(snapshot: &Snapshot, reason: Reason, denied: Option<usize>) -> Because {
    let entry = denied.and_then(|number| snapshot.authorization.get(number)).map(|entry| format!(" ({})", entry.name));
    let (code, sentence) = (reason.code().to_owned(), format!("{}{}", reason.sentence(), entry.unwrap_or_default()));
    Because { code, status: reason.status().as_u16(), sentence }
}

/// A value as it may be shown.
fn shown(secret: bool, value: &str) -> String {
    const LENGTH: usize = 200;
    if secret {
        return REDACTED.to_owned();
    }
    short(value, LENGTH)
}

/// The first so many characters.
fn short(text: &str, length: usize) -> String {
    match text.char_indices().nth(length) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// The share of a line between two of its buckets, in percent.
fn percent(from: u32, to: u32) -> f64 {
    f64::from(to.saturating_sub(from)) * 100.0 / f64::from(split::BUCKETS)
}

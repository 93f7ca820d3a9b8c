//! What happens to a request, from its head and the snapshot alone: pure, so that the data path, `explain` and the
//! tests cannot disagree. Randomness is an argument.

use std::net::SocketAddr;

use http::header::{CONTENT_LENGTH, HOST};
use http::{HeaderValue, Version, request};

use crate::config::schema::{PortProtocol, Protocol};
use crate::error::Reason;
use crate::policy::authz::Ruling;
use crate::policy::caller::Caller;
use crate::policy::guard::{Bound, Judgement};
use crate::policy::split;
use crate::snapshot::authz;
use crate::snapshot::matcher::Facts;
use crate::snapshot::redirected::{Destination, Outbound};
use crate::snapshot::route::{Found, PathRule, Rule};
use crate::snapshot::{Action, Forward, Kind, Listener, Route, Snapshot, Target};
use crate::wire::grpc;
use crate::wire::head::{self, Authority};
use crate::wire::path::{self, Path};

/// What a head says, once it has been found sound.
#[derive(Debug)]
pub struct Understood<'p> {
    pub authority: Authority<'p>,
    pub path: Path<'p>,
    pub grpc: bool,
}

/// Holds a head, as it came, against the limits of its listener and the rules of HTTP.
pub fn understand<'p>(listener: &Listener, parts: &'p request::Parts) -> Result<Understood<'p>, Reason> {
    // The HTTP/1 codec has refused either by now; that of HTTP/2 counts bytes only, and leaves us room to say why.
    let too_large = || head::list_size(parts) as u64 > listener.config.max_header_bytes.0;
    if parts.headers.len() > listener.config.max_headers as usize || parts.version == Version::HTTP_2 && too_large() {
        return Err(Reason::HeadTooLarge);
    }
    let authority = head::check(parts)?;
    let path = path::normalise(parts.uri.path())?;
    Ok(Understood { authority, path, grpc: grpc::is_call(&parts.method, &parts.headers) })
}

impl Understood<'_> {
    pub fn facts<'a>(&'a self, snapshot: &'a Snapshot, parts: &'a request::Parts, caller: Caller<'a>) -> Facts<'a> {
        Facts {
            caller,
            method: &parts.method,
            host: &self.authority.host,
            path: &self.path.text,
            query: parts.uri.query(),
            headers: &parts.headers,
            grpc: self.grpc,
            attributes: &snapshot.attributes,
        }
    }
}

#[derive(Debug)]
pub struct Decision<'s> {
    pub route: &'s Route,
    /// The match that won.
    pub rule: &'s Rule,
    pub verdict: Verdict<'s>,
    /// What authorization says of it.
    pub ruling: Ruling,
    /// How large the head says that the body is, where that breaks a limit in shadow mode.
    pub would_refuse_body: Option<u64>,
}

/// Nothing was decided: there is no route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    pub reason: Reason,
    /// The entry of `authorization` that denies it.
    pub denied: Option<usize>,
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Self { reason, denied: None }
    }
}

#[derive(Debug)]
pub enum Verdict<'s> {
    /// To this side of the split.
    Forward {
        forward: &'s Forward,
        target: Target,
        side: usize,
        drawn: Option<Drawn>,
    },
    /// Answered here: `Action::Redirect` or `Action::Respond`.
    Answer,
    Refuse(Reason),
}

/// The place on the line of a split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drawn {
    pub bucket: u32,
    /// By its key, not by chance.
    pub sticky: bool,
}

impl Decision<'_> {
    /// Number of the side over all routes, for the series.
    pub fn side(&self) -> usize {
        self.route.first_side
            + match self.verdict {
                Verdict::Forward { side, .. } => side,
                Verdict::Answer | Verdict::Refuse(_) => 0,
            }
    }

    /// What is left of a path behind the matched prefix; it begins with `/` or is empty.
    pub fn rest<'p>(&self, path: &'p str) -> &'p str {
        match &self.rule.path {
            PathRule::Prefix(prefix) => path.get(prefix.len()..).unwrap_or(""),
            PathRule::Any | PathRule::Exact(_) | PathRule::Template(_) | PathRule::Regex(_) => path,
        }
    }
}

/// Decides about a request on an HTTP listener. `draw` gives a bucket where chance is to decide.
///
/// Whoever is denied something is told so before anything else, whether or not there is a route: it is not theirs to
/// know.
pub fn decide<'s>(
    snapshot: &'s Snapshot,
    listener: &'s Listener,
    facts: &Facts<'_>,
    draw: impl FnOnce() -> u32,
) -> Result<Decision<'s>, Refusal> {
    let ruling = authz::judge(&snapshot.authorization, &listener.authorization, facts);
    ruled(snapshot, listener, facts, ruling, draw)
}

/// The same, where it is known what authorization says.
pub fn ruled<'s>(
    snapshot: &'s Snapshot,
    listener: &'s Listener,
    facts: &Facts<'_>,
    ruling: Ruling,
    draw: impl FnOnce() -> u32,
) -> Result<Decision<'s>, Refusal> {
    let denied = ruling.denied;
    let none = || Refusal { reason: if denied.is_some() { Reason::Denied } else { Reason::NoRoute }, denied };
    let always = |rule: &'s Rule| Some(Found { route: rule.route, rule });
    let (found, unknown) = match &listener.kind {
        Kind::Http { table, fallback } => (table.find(facts).or_else(|| fallback.find(facts)), false),
        Kind::Inbound(ports) => (always(&ports.of(facts.caller.port).rule), false),
        Kind::Outbound(outbound) => match outbound.find(snapshot, facts) {
            Some(found) => (Some(found), false),
            None => (always(&outbound.passthrough), outbound.deny),
        },
        Kind::Tcp(_) => (None, false),
    };
    let found = found.ok_or_else(none)?;
    let route = snapshot.routes.get(found.route).ok_or_else(none)?;
    let mut decision = Decision { route, rule: found.rule, verdict: Verdict::Answer, ruling, would_refuse_body: None };
    if denied.is_some() {
        decision.verdict = Verdict::Refuse(Reason::Denied);
    } else if unknown {
        decision.verdict = Verdict::Refuse(Reason::UnknownDestination);
    } else if let Action::Forward(forward) = &route.action {
        let body = body(route.max_body, facts);
        decision.verdict = match body {
            Some((_, Judgement::Refuse)) => Verdict::Refuse(Reason::BodyTooLarge),
            _ => to_side(route, forward, facts, draw),
        };
        decision.would_refuse_body = body.filter(|(_, judged)| *judged == Judgement::Would).map(|(length, _)| length);
    }
    Ok(decision)
}

/// Whether nothing is asked there that could be looked into: bytes are relayed.
pub fn is_relayed(snapshot: &Snapshot, listener: &Listener, caller: &Caller<'_>) -> bool {
    match &listener.kind {
        Kind::Http { .. } => false,
        Kind::Tcp(_) => true,
        Kind::Inbound(ports) => ports.of(caller.port).protocol == PortProtocol::Tcp,
        Kind::Outbound(outbound) => match outbound.destination(snapshot, caller.to) {
            Destination::Service(service, _) => {
                snapshot.services.get(service).is_some_and(|service| service.protocol == Protocol::Tcp)
            }
            Destination::Unknown => false,
        },
    }
}

/// What authorization says of a connection of which nothing but its other end is known.
pub fn authorize_connection(snapshot: &Snapshot, listener: &Listener, caller: &Caller<'_>) -> Ruling {
    if matches!(&listener.kind, Kind::Inbound(ports) if ports.of(caller.port).undetected) {
        return authz::judge_undetected(&snapshot.authorization, &listener.authorization, caller);
    }
    authz::judge_connection(&snapshot.authorization, &listener.authorization, caller)
}

/// Decides where a connection on a TCP listener goes, if it may. `server_name` is what a client of TLS asks for, in lower
/// case.
pub fn decide_tcp<'s>(
    snapshot: &'s Snapshot,
    listener: &Listener,
    server_name: Option<&str>,
    draw: impl FnOnce() -> u32,
) -> Option<(&'s Route, usize, Target)> {
    let Kind::Tcp(routes) = &listener.kind else { return None };
    let route = routes.of(server_name.unwrap_or_default()).find_map(|route| *route)?;
    let route = snapshot.routes.get(route)?;
    let Action::Forward(forward) = &route.action else { return None };
    let (side, _) = chance(forward, draw);
    Some((route, side, *forward.targets.get(side)?))
}

/// Decides about TLS that an HTTP listener passes through: it goes where a request for `/` of that host would.
pub fn decide_passthrough<'s>(
    snapshot: &'s Snapshot,
    listener: &'s Listener,
    server_name: Option<&str>,
    caller: Caller<'_>,
    draw: impl FnOnce() -> u32,
) -> Option<(&'s Route, usize, Target)> {
    let mut request = http::Request::new(());
    match server_name {
        Some(name) => drop(request.headers_mut().insert(HOST, HeaderValue::from_str(name).ok()?)),
        // The version that needs no host.
        None => *request.version_mut() = Version::HTTP_10,
    }
    let (parts, ()) = request.into_parts();
    let understood = understand(listener, &parts).ok()?;
    // What may be asked for inside is not ours to see: authorization is that of the connection.
    let facts = understood.facts(snapshot, &parts, caller);
    let decision = ruled(snapshot, listener, &facts, Ruling::default(), draw).ok()?;
    if matches!(&listener.kind, Kind::Outbound(outbound) if decision.rule.route == outbound.passthrough.route) {
        return None;
    }
    match decision.verdict {
        Verdict::Forward { target, side, .. } => Some((decision.route, side, target)),
        Verdict::Answer | Verdict::Refuse(_) => None,
    }
}

/// Decides about a redirected connection that is relayed. What comes in goes to the application.
pub fn decide_relayed<'s>(
    snapshot: &'s Snapshot,
    listener: &'s Listener,
    server_name: Option<&str>,
    caller: Caller<'_>,
    draw: impl Fn() -> u32,
) -> Result<(&'s Route, usize, Target), Reason> {
    let route = match &listener.kind {
        Kind::Inbound(ports) => ports.of(caller.port).rule.route,
        Kind::Outbound(outbound) => {
            match relayed(snapshot, outbound, server_name, caller.to) {
                Some(route) => route,
                // Nothing has its address; perhaps something has its name.
                None => match decide_passthrough(snapshot, listener, server_name, caller, &draw) {
                    Some(decided) => return Ok(decided),
                    None if outbound.deny => return Err(Reason::UnknownDestination),
                    None => outbound.passthrough.route,
                },
            }
        }
        Kind::Http { .. } | Kind::Tcp(_) => return Err(Reason::NoRoute),
    };
    let route = snapshot.routes.get(route).ok_or(Reason::NoRoute)?;
    let Action::Forward(forward) = &route.action else { return Err(Reason::NoRoute) };
    let (side, _) = chance(forward, draw);
    Ok((route, side, *forward.targets.get(side).ok_or(Reason::NoEndpoint)?))
}

/// The route by the address, or by the name where that is for a tcp service.
fn relayed(
    snapshot: &Snapshot,
    outbound: &Outbound,
    server_name: Option<&str>,
    to: Option<SocketAddr>,
) -> Option<usize> {
    let by_name = server_name.and_then(|name| outbound.names.of(name).find_map(|route| *route));
    match outbound.destination(snapshot, to) {
        Destination::Service(service, _) => {
            let known = outbound.services.get(service)?;
            Some(known.relayed.unwrap_or(known.rule.route))
        }
        Destination::Unknown => by_name,
    }
}

fn to_side<'s>(route: &Route, forward: &'s Forward, facts: &Facts<'_>, draw: impl FnOnce() -> u32) -> Verdict<'s> {
    let (side, drawn) = match forward.sticky.as_ref().and_then(|key| key.first(facts)) {
        Some(key) => {
            let bucket = split::bucket(&route.name, &key);
            (split::side(&forward.edges(), bucket), Some(Drawn { bucket, sticky: true }))
        }
        None => chance(forward, draw),
    };
    match forward.targets.get(side) {
        Some(target) => Verdict::Forward { forward, target: *target, side, drawn },
        None => Verdict::Refuse(Reason::NoEndpoint),
    }
}

fn chance(forward: &Forward, draw: impl FnOnce() -> u32) -> (usize, Option<Drawn>) {
    if forward.targets.len() == 1 {
        return (0, None);
    }
    let bucket = draw();
    (split::side(&forward.edges(), bucket), Some(Drawn { bucket, sticky: false }))
}

/// What the head says of the body's length, held against the limit. A body without a length is counted as it comes.
fn body(limit: Option<Bound<u64>>, facts: &Facts<'_>) -> Option<(u64, Judgement)> {
    let limit = limit?;
    let length = facts.headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()?;
    Some((length, limit.judge(length)))
}

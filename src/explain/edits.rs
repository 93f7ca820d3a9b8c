//! What becomes of the header fields: what the proxy does to every request, by the very code that does it, and then
//! what the route asks for.

use std::net::{IpAddr, Ipv4Addr};

use http::header::HOST;
use http::{HeaderMap, HeaderName, HeaderValue, Version, request};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::{Edit, rewritten, shown};
use crate::config::is_secret;
use crate::config::schema::Protocol;
use crate::decide::{Decision, Verdict};
use crate::snapshot::matcher::Facts;
use crate::snapshot::{HeaderEdits, Snapshot, Target};
use crate::wire::head::{self, Outgoing};
use crate::wire::{forwarded, hop, trace};

/// Stands for the address of the client, which is not asked about.
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// In the order in which they are made.
pub fn of(
    snapshot: &Snapshot,
    decision: &Decision<'_>,
    facts: &Facts<'_>,
    parts: &request::Parts,
    outbound: bool,
) -> Vec<Edit> {
    let mut edits = Vec::new();
    if let Verdict::Forward { forward, target, .. } = decision.verdict {
        edits = of_proxy(snapshot, target, parts, outbound);
        for attribute in &snapshot.attributes {
            if let (Some(name), Some(value)) = (&attribute.forward, attribute.value(facts)) {
                let why = format!("attribute {}", attribute.name);
                edits.push(edit("request", "set", name.as_str(), Some(attribute.shown(&value)), &why));
            }
        }
        if let Some(rewrite) = &forward.rewrite {
            edits.push(edit("request", "set", ":path", Some(&rewritten(rewrite)), "rewrite of the route"));
        }
        if let Some(host) = &forward.rewrite_host {
            edits.push(edit("request", "set", "host", host.to_str().ok(), "rewrite of the route"));
        }
        edits.extend(of_route("request", &decision.route.request_headers));
    }
    edits.extend(of_route("response", &decision.route.response_headers));
    edits
}

fn of_route<'a>(on: &'a str, list: &'a HeaderEdits) -> impl Iterator<Item = Edit> + 'a {
    let one = move |what: &str, (name, value): &(HeaderName, HeaderValue)| {
        edit(on, what, name.as_str(), Some(&String::from_utf8_lossy(value.as_bytes())), "edits of the route")
    };
    let removed = list.remove.iter().map(move |name| edit(on, "remove", name.as_str(), None, "edits of the route"));
    let set = list.set.iter().map(move |pair| one("set", pair));
    removed.chain(set).chain(list.add.iter().map(move |pair| one("add", pair)))
}

/// What differs between the head that came and the one that leaves.
fn of_proxy(snapshot: &Snapshot, target: Target, parts: &request::Parts, outbound: bool) -> Vec<Edit> {
    // What is drawn is not shown.
    let mut rng = SmallRng::seed_from_u64(0);
    let mut sent = parts.clone();
    let id = forwarded::request_id(&sent.headers, &mut rng);
    sent.headers.insert(forwarded::REQUEST_ID, id);
    let mut edits = differences(&parts.headers, &sent.headers, Some("a new id"));
    let before = sent.headers.clone();
    trace::continue_or_begin(&mut sent.headers, snapshot.trace, &mut rng);
    edits.extend(differences(&before, &sent.headers, Some("a span of this proxy")));
    let before = sent.headers.clone();
    let hop = hop::strip_request(sent.version, &mut sent.headers);
    // What goes out of the application begins there.
    if !outbound {
        forwarded::append(&mut sent, Some(CLIENT), false);
    }
    // What has gone around too often is refused before.
    let _ = forwarded::count_hop(&mut sent.headers);
    let http2 = snapshot.services.get(target.service).is_some_and(|service| service.protocol == Protocol::Http2);
    let version = if http2 { Version::HTTP_2 } else { Version::HTTP_11 };
    let fallback = HeaderValue::from_static("");
    // What it refuses, it has not edited.
    let _ = head::outgoing(&mut sent, Outgoing { version, host: None, fallback: &fallback, hop: &hop, secure: false });
    edits.extend(differences(&before, &sent.headers, None));
    edits
}

/// `value`: what to say instead of a value that nobody can know before.
fn differences(before: &HeaderMap, after: &HeaderMap, value: Option<&str>) -> Vec<Edit> {
    // HTTP/2 has another place for the host: it is neither gone nor changed.
    let names = |headers: &HeaderMap| headers.keys().filter(|name| *name != HOST).cloned().collect::<Vec<_>>();
    let removed = names(before).into_iter().filter(|name| !after.contains_key(name));
    let removed = removed.map(|name| edit("request", "remove", name.as_str(), None, "the proxy"));
    let set = names(after).into_iter().filter(|name| !before.get_all(name).iter().eq(after.get_all(name)));
    let set = set.map(|name| {
        let value = value.map_or_else(|| said(&name, after), str::to_owned);
        edit("request", "set", name.as_str(), Some(&value), "the proxy")
    });
    removed.chain(set).collect()
}

fn said(name: &HeaderName, headers: &HeaderMap) -> String {
    let lines = headers.get_all(name).iter().map(|line| String::from_utf8_lossy(line.as_bytes()));
    let text = lines.collect::<Vec<_>>().join(", ");
    match text.strip_suffix(&CLIENT.to_string()) {
        Some(hops) if name == "x-forwarded-for" => format!("{hops}<the client's address>"),
        _ => text,
    }
}

fn edit(on: &str, what: &str, name: &str, value: Option<&str>, why: &str) -> Edit {
    let (on, what, why) = (on.to_owned(), what.to_owned(), why.to_owned());
    Edit { on, what, value: value.map(|value| shown(is_secret(name), value)), name: name.to_owned(), why }
}

//! What the workers have learned of destinations, put together: as JSON to be read, and as YAML to be pasted into a
//! configuration, which then need not be found out again.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use super::rfc3339::Rfc3339;
use crate::policy::learned::{Fact, Key, Spoken};

/// Destinations in one answer.
const LISTED: usize = 1000;

/// What each worker believes, and how many it has forgotten to make room.
pub type Workers = Vec<(Vec<(Key, Fact)>, u64)>;

/// The answer of `/learned`: what was observed last first. `now` is the same moment twice.
pub fn report(workers: Workers, ttl: Duration, now: (Instant, SystemTime)) -> Value {
    let forgotten: u64 = workers.iter().map(|(_, forgotten)| forgotten).sum();
    let mut all: Vec<(Key, Fact)> = together(workers).into_iter().collect();
    all.sort_by(|(a, one), (b, other)| other.last.cmp(&one.last).then_with(|| a.cmp(b)));
    let more = all.len().saturating_sub(LISTED);
    let list = all.iter().take(LISTED).map(|((inbound, destination), fact)| {
        json!({
            "direction": if *inbound { "inbound" } else { "outbound" },
            "destination": destination.to_string(),
            "protocol": fact.spoken.name(),
            "times": fact.times,
            "firstSeen": Rfc3339::of(fact.first, now).to_string(),
            "lastSeen": Rfc3339::of(fact.last, now).to_string(),
            "expires": Rfc3339::of(fact.until(ttl), now).to_string(),
        })
    });
    json!({ "learned": list.collect::<Vec<_>>(), "more": more, "forgotten": forgotten })
}

/// The same as a piece of configuration: what the ports of the application and the services speak. `listener` is the
/// inbound one, `service` whose address a destination is.
pub fn yaml(workers: Workers, listener: &str, service: impl Fn(SocketAddr) -> Option<Arc<str>>) -> String {
    let (mut ports, mut services, mut others) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for ((inbound, destination), fact) in together(workers) {
        match service(destination) {
            _ if inbound => keep_later(&mut ports, destination.port(), fact),
            Some(name) => keep_later(&mut services, name, fact),
            None => keep_later(&mut others, destination, fact),
        }
    }
    let mut out =
        "# What this proxy has learned. What is written in the configuration is not detected again.\n".to_owned();
    // Writing to a String does not fail.
    if !ports.is_empty() {
        let _ = writeln!(out, "listeners:\n  - name: {}\n    ports:", quoted(listener));
    }
    for (port, fact) in ports {
        let _ = writeln!(out, "      {port}: {{ protocol: {} }}{}", port_protocol(fact.spoken), remark(&fact));
    }
    if !services.is_empty() {
        out.push_str("services:\n");
    }
    for (name, fact) in services {
        let protocol = service_protocol(fact.spoken);
        let _ = writeln!(out, "  {}:\n    protocol: {protocol}{}", quoted(&name), remark(&fact));
    }
    for (destination, fact) in others {
        let _ = writeln!(out, "# {destination} is no address of a service: {}{}", fact.spoken.name(), remark(&fact));
    }
    out
}

/// The worker that observed something last is right; those that agree with it are counted with it.
fn together(workers: Workers) -> HashMap<Key, Fact> {
    let mut all: HashMap<Key, Fact> = HashMap::new();
    for (key, fact) in workers.into_iter().flat_map(|(facts, _)| facts) {
        all.entry(key).and_modify(|known| *known = both(*known, fact)).or_insert(fact);
    }
    all
}

fn both(one: Fact, other: Fact) -> Fact {
    let (older, newer) = if one.last > other.last { (other, one) } else { (one, other) };
    match older.spoken == newer.spoken {
        true => Fact { times: older.times + newer.times, first: older.first.min(newer.first), ..newer },
        false => newer,
    }
}

fn keep_later<K: Ord>(all: &mut BTreeMap<K, Fact>, key: K, fact: Fact) {
    all.entry(key).and_modify(|known| *known = both(*known, fact)).or_insert(fact);
}

const fn port_protocol(spoken: Spoken) -> &'static str {
    match spoken {
        Spoken::Http1 | Spoken::Http2 => "http",
        Spoken::Tls | Spoken::Opaque | Spoken::ServerFirst => "tcp",
    }
}

const fn service_protocol(spoken: Spoken) -> &'static str {
    match spoken {
        Spoken::Http1 => "http1",
        Spoken::Http2 => "http2",
        Spoken::Tls | Spoken::Opaque | Spoken::ServerFirst => "tcp",
    }
}

fn remark(fact: &Fact) -> String {
    let times = if fact.times == 1 { "once".to_owned() } else { format!("{} times", fact.times) };
    format!(" # {}, seen {times}", fact.spoken.name())
}

/// A name of the configuration, which may look like a number.
fn quoted(name: &str) -> String {
    Value::from(name).to_string()
}

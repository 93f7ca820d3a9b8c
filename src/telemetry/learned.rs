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
        let _ = writeln!(out, "      {port}: {{ protocol: {} }} # {}", port_protocol(fact.spoken), remark(&fact));
    }
    if !services.is_empty() {
        out.push_str("services:\n");
    }
    for (name, fact) in services {
        let protocol = service_protocol(fact.spoken);
        let _ = writeln!(out, "  {}:\n    protocol: {protocol} # {}", quoted(&name), remark(&fact));
    }
    for (destination, fact) in others {
        let _ = writeln!(out, "# {destination} is no address of a service: {}", remark(&fact));
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
    format!("{}, seen {times}", fact.spoken.name())
}

/// A name of the configuration, which may look like a number.
fn quoted(name: &str) -> String {
    Value::from(name).to_string()
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::policy::learned::Learned;

    const TTL: Duration = Duration::from_secs(600);

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    /// Two workers that do not agree on everything.
    fn workers() -> (Workers, (Instant, SystemTime)) {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let (mut one, mut other) = (Learned::new(9, TTL), Learned::new(9, TTL));
        let (app, db, web) = (address("10.0.0.1:9080"), address("10.96.0.9:3306"), address("10.96.0.12:80"));
        one.learn(true, app, Spoken::Http1, at(1));
        other.learn(true, app, Spoken::Http1, at(2));
        one.learn(true, address("[fd00::1]:6379"), Spoken::Opaque, at(3));
        one.learn(false, db, Spoken::ServerFirst, at(4));
        other.learn(false, db, Spoken::ServerFirst, at(5));
        other.learn(false, db, Spoken::ServerFirst, at(6));
        one.learn(false, web, Spoken::Opaque, at(7));
        other.learn(false, web, Spoken::Http2, at(8));
        one.learn(false, address("192.0.2.1:25"), Spoken::ServerFirst, at(9));
        let now = (at(60), UNIX_EPOCH + Duration::from_secs(60));
        (vec![one.entries(now.0), other.entries(now.0)], now)
    }

    #[test]
    fn workers_are_put_together() {
        let (workers, now) = workers();
        let told = report(workers, TTL, now);
        let list: Vec<_> = told["learned"].as_array().expect("a list").iter().collect();
        let destinations: Vec<_> = list.iter().map(|one| one["destination"].as_str().expect("a text")).collect();
        let newest_first = ["192.0.2.1:25", "10.96.0.12:80", "10.96.0.9:3306", "[fd00::1]:6379", "10.0.0.1:9080"];
        assert_eq!(destinations, newest_first);
        assert_eq!((&list[1]["protocol"], &list[1]["times"]), (&json!("http2"), &json!(1)), "who saw it last is right");
        let wanted = json!({
            "direction": "outbound", "destination": "10.96.0.9:3306", "protocol": "server_first", "times": 3,
            "firstSeen": "1970-01-01T00:00:04.000Z", "lastSeen": "1970-01-01T00:00:06.000Z",
            "expires": "1970-01-01T00:10:04.000Z",
        });
        assert_eq!(*list[2], wanted);
        assert_eq!((&list[4]["times"], &list[4]["expires"]), (&json!(2), &json!("1970-01-01T00:10:02.000Z")));
        assert_eq!((&told["more"], &told["forgotten"]), (&json!(0), &json!(0)));
    }

    #[test]
    fn an_answer_has_its_end() {
        let now = Instant::now();
        let mut learned = Learned::new(1100, TTL);
        (1..=1200).for_each(|port| learned.learn(false, ([10, 0, 0, 1], port).into(), Spoken::Tls, now));
        let told = report(vec![learned.entries(now)], TTL, (now, UNIX_EPOCH));
        assert_eq!(told["learned"].as_array().map(Vec::len), Some(LISTED));
        assert_eq!((&told["more"], &told["forgotten"]), (&json!(100), &json!(100)));
    }

    #[test]
    fn the_configuration_has_these_words() {
        use crate::config::schema::{PortProtocol, Protocol};
        for spoken in Spoken::ALL {
            let port: PortProtocol = serde_json::from_value(port_protocol(spoken).into()).expect("of a port");
            let service: Protocol = serde_json::from_value(service_protocol(spoken).into()).expect("of a service");
            assert!(port != PortProtocol::Auto && service != Protocol::Auto, "{spoken:?}");
        }
    }

    #[test]
    fn as_configuration_it_is_what_one_would_write() {
        let service = |address: SocketAddr| match address.port() {
            3306 => Some("db".into()),
            80 => Some("1e3".into()),
            _ => None,
        };
        let text = yaml(workers().0, "inbound", service);
        let wanted = "\
# What this proxy has learned. What is written in the configuration is not detected again.
listeners:
  - name: \"inbound\"
    ports:
      6379: { protocol: tcp } # opaque, seen once
      9080: { protocol: http } # http1, seen 2 times
services:
  \"1e3\":
    protocol: http2 # http2, seen once
  \"db\":
    protocol: tcp # server_first, seen 3 times
# 192.0.2.1:25 is no address of a service: server_first, seen once
";
        assert_eq!(text, wanted);
        let value: Value = serde_yaml::from_str(&text).expect("YAML");
        assert_eq!(value["services"]["1e3"]["protocol"], "http2");
        assert!(yaml(Vec::new(), "inbound", service).lines().all(|line| line.starts_with('#')));
    }
}

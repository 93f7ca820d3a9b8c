//! An exchange as JSON, as `docs/why.md` says. Bytes of a peer become text in which nothing is left that a terminal
//! would obey: what is no UTF-8 is `\xNN`, a control character is `\n` or `\u{1b}`.

use std::fmt::Write;

use http::Version;
use serde_json::{Map, Value, json};

use super::code::Marks;
use super::{Attempt, Exchange, Micros, Phases, Would};
use crate::policy::guard::Guard;
use crate::telemetry::rfc3339::Rfc3339;

/// Everything.
pub fn long(exchange: &Exchange<'_>, marks: Marks) -> Value {
    let mut object = begin(exchange, marks);
    object.add("truncated", marks.truncated());
    object.add("generation", exchange.generation);
    object.name("listener", exchange.listener);
    object.name("route", exchange.route);
    object.some("rule", exchange.rule);
    object.name("service", exchange.service);
    object.name("subset", exchange.subset);
    object.some("bucket", exchange.bucket.map(|bucket| json!({ "number": bucket.number, "sticky": bucket.sticky })));
    object.add("protocol", version(exchange.protocol));
    object.name("authorization", exchange.denied);
    object.name("limit", exchange.limit);
    object.name("circuitBreaker", exchange.circuit);
    object.name("fault", exchange.fault);
    object.add("producer", exchange.producer.name());
    object.add("peer", exchange.peer.to_string());
    object.name("identity", exchange.identity);
    object.add("requestBytes", exchange.request_bytes);
    object.add("responseBytes", exchange.response_bytes);
    object.add("attempts", exchange.attempts.iter().map(attempt).collect::<Value>());
    object.some("notAgain", exchange.not_again.map(|why| coded(why.code(), why.sentence())));
    object.add("phases", phases(&exchange.phases));
    let attributes = exchange.attributes.iter().map(|(name, value)| ((*name).to_owned(), text(value)));
    object.add("attributes", attributes.collect::<Value>());
    object.add("shadow", exchange.shadow.iter().map(would).collect::<Value>());
    Value::Object(object.0)
}

/// A line of a list.
pub fn short(exchange: &Exchange<'_>, marks: Marks) -> Value {
    let mut object = begin(exchange, marks);
    object.name("route", exchange.route);
    object.name("service", exchange.service);
    object.some("endpoint", exchange.attempts.last().map(|attempt| attempt.endpoint.to_string()));
    object.add("attempts", exchange.attempts.len());
    object.add("duration", millis(exchange.phases.total));
    Value::Object(object.0)
}

fn begin(exchange: &Exchange<'_>, marks: Marks) -> Object {
    let mut object = Object(Map::new());
    object.add("id", text(exchange.id));
    object.add("time", Rfc3339(exchange.time).to_string());
    object.add("method", text(exchange.method.as_bytes()));
    object.add("host", text(exchange.host));
    object.add("path", text(exchange.path));
    object.some("status", Some(exchange.status).filter(|status| *status != 0));
    object.some("grpcStatus", exchange.grpc_status);
    let reason = Some(exchange.reason).filter(|reason| !reason.code().is_empty());
    object.some("reason", reason.map(|reason| coded(reason.code(), reason.sentence())));
    object.add("failed", marks.failed());
    object.add("slow", marks.slow());
    object
}

fn attempt(attempt: &Attempt) -> Value {
    let mut object = Object(Map::new());
    object.add("endpoint", attempt.endpoint.to_string());
    object.add("outcome", coded(attempt.outcome.code(), attempt.outcome.sentence()));
    object.add("protocol", version(attempt.protocol));
    object.some("connection", attempt.connection.map(super::Connection::name));
    for (name, time) in [("queue", attempt.queue), ("connect", attempt.connect), ("firstByte", attempt.first_byte)] {
        object.some(name, time.map(millis));
    }
    Value::Object(object.0)
}

fn phases(phases: &Phases) -> Value {
    let Phases { accept, tls, queue, connect, first_byte, body, total } = *phases;
    let mut object = Object(Map::new());
    for (name, time) in [
        ("accept", accept),
        ("tls", tls),
        ("queue", queue),
        ("connect", connect),
        ("firstByte", first_byte),
        ("body", body),
        ("total", Some(total)),
    ] {
        object.some(name, time.map(millis));
    }
    Value::Object(object.0)
}

fn would(would: &Would<'_>) -> Value {
    let (unit, amount): (_, fn(u64) -> Value) = match would.guard {
        Guard::MaxBody => ("bytes", Value::from),
        Guard::Timeout | Guard::RateLimit => ("ms", |micros| millis(Micros(micros))),
        Guard::Limits => ("requests", Value::from),
        Guard::Memory => ("percent", Value::from),
        Guard::Authorization | Guard::CircuitBreaker => {
            return json!({ "rule": would.guard.name(), "entry": would.entry });
        }
    };
    json!({ "rule": would.guard.name(), "limit": amount(would.limit), "actual": amount(would.actual), "unit": unit })
}

fn coded(code: &'static str, sentence: &'static str) -> Value {
    json!({ "code": code, "sentence": sentence })
}

/// A number with at most three decimals.
fn millis(Micros(micros): Micros) -> Value {
    Value::from(micros as f64 / 1000.0)
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "HTTP/0.9",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_3 => "HTTP/3",
        _ => "HTTP/1.1",
    }
}

fn text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character.is_control() {
                true => text.extend(character.escape_default()),
                false => text.push(character),
            }
        }
        for byte in chunk.invalid() {
            // Writing to a String does not fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// What is absent is left out.
struct Object(Map<String, Value>);

impl Object {
    fn add(&mut self, name: &str, value: impl Into<Value>) {
        self.0.insert(name.to_owned(), value.into());
    }

    fn some(&mut self, name: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.add(name, value);
        }
    }

    fn name(&mut self, name: &str, value: &str) {
        self.some(name, Some(value).filter(|value| !value.is_empty()));
    }
}

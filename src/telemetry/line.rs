//! One line of the access log, as JSON or as text. Whatever a peer sent is escaped, so that no request can forge a
//! line, break a parser, or speak to a terminal.

use std::io::Write;
use std::time::Duration;

use super::access::Entry;
use super::rfc3339::Rfc3339;
use crate::config::schema::Workload;

pub fn json(out: &mut Vec<u8>, entry: &Entry<'_>, workload: &Workload) {
    let mut object = Object::open(out);
    object.raw("time", format_args!("\"{}\"", Rfc3339(entry.time)));
    object.text("workload", workload.name.as_bytes());
    object.text("namespace", workload.namespace.as_bytes());
    object.text("version", workload.version.as_bytes());
    object.text("listener", entry.listener.as_bytes());
    object.text("route", entry.route.as_bytes());
    object.text("service", entry.service.as_bytes());
    object.text("subset", entry.subset.as_bytes());
    if let Some(endpoint) = entry.endpoint {
        object.raw("endpoint", format_args!("\"{endpoint}\""));
    }
    object.text("protocol", entry.protocol.as_bytes());
    object.text("method", entry.method.as_bytes());
    object.text("host", entry.host);
    object.text("path", entry.path);
    if entry.status != 0 {
        object.raw("status", format_args!("{}", entry.status));
    }
    if let Some(code) = entry.grpc_status {
        object.raw("grpc_status", format_args!("{code}"));
    }
    object.text("reason", entry.reason.code().as_bytes());
    object.text("authorization", entry.authorization.as_bytes());
    object.text("producer", entry.producer.name().as_bytes());
    object.text("limit", entry.limit.as_bytes());
    object.text("circuit_breaker", entry.circuit.as_bytes());
    object.text("peer_reason", entry.peer_reason.as_bytes());
    object.text("fault", entry.fault.as_bytes());
    object.raw("duration_ms", Millis(entry.duration));
    if let Some(duration) = entry.upstream_duration {
        object.raw("upstream_duration_ms", Millis(duration));
    }
    object.raw("request_bytes", format_args!("{}", entry.request_bytes));
    object.raw("response_bytes", format_args!("{}", entry.response_bytes));
    object.raw("attempts", format_args!("{}", entry.attempts));
    object.raw("peer", format_args!("\"{}\"", entry.peer));
    object.text("peer_identity", entry.peer_identity.as_bytes());
    object.text("tls_version", entry.tls_version.as_bytes());
    object.text("server_name", entry.server_name.as_bytes());
    object.text("user_agent", entry.user_agent);
    object.text("request_id", entry.request_id);
    if entry.trace_id != 0 {
        object.raw("trace_id", format_args!("\"{:032x}\"", entry.trace_id));
        object.raw("span_id", format_args!("\"{:016x}\"", entry.span_id));
    }
    if !entry.attributes.is_empty() {
        object.key("attributes");
        let mut attributes = Object::open(object.out);
        for (name, value) in entry.attributes {
            attributes.text(name, value);
        }
        attributes.close();
    }
    object.close();
}

/// Fields apart by one space, `-` for what there is not; the order is that of `docs/operations.md`.
pub fn text(out: &mut Vec<u8>, entry: &Entry<'_>) {
    put(out, format_args!("{}", Rfc3339(entry.time)));
    for field in [entry.method.as_bytes(), entry.host, entry.path, entry.protocol.as_bytes()] {
        word(out, field);
    }
    match entry.status {
        0 => word(out, b""),
        status => put(out, format_args!(" {status}")),
    }
    word(out, entry.reason.code().as_bytes());
    word(out, entry.producer.name().as_bytes());
    put(out, format_args!(" {}ms", Millis(entry.duration)));
    put(out, format_args!(" {} {}", entry.request_bytes, entry.response_bytes));
    for field in [entry.listener, entry.route, entry.service, entry.subset] {
        word(out, field.as_bytes());
    }
    match entry.endpoint {
        Some(endpoint) => put(out, format_args!(" {endpoint}")),
        None => word(out, b""),
    }
    put(out, format_args!(" {}", entry.peer));
    word(out, entry.request_id);
    match entry.trace_id {
        0 => word(out, b""),
        trace => put(out, format_args!(" {trace:032x}")),
    }
    word(out, entry.user_agent);
    if let Some(code) = entry.grpc_status {
        put(out, format_args!(" grpc={code}"));
    }
    for (name, value) in
        [("identity", entry.peer_identity), ("tls", entry.tls_version), ("server_name", entry.server_name)]
    {
        if !value.is_empty() {
            put(out, format_args!(" {name}="));
            escape(out, value.as_bytes(), Style::Word);
        }
    }
    if !entry.authorization.is_empty() {
        put(out, format_args!(" authorization={}", entry.authorization));
    }
    if !entry.limit.is_empty() {
        out.extend_from_slice(b" limit=");
        escape(out, entry.limit.as_bytes(), Style::Word);
    }
    if !entry.circuit.is_empty() {
        out.extend_from_slice(b" circuit_breaker=");
        escape(out, entry.circuit.as_bytes(), Style::Word);
    }
    if !entry.peer_reason.is_empty() {
        out.extend_from_slice(b" peer=");
        escape(out, entry.peer_reason.as_bytes(), Style::Word);
    }
    if !entry.fault.is_empty() {
        out.extend_from_slice(b" fault=");
        escape(out, entry.fault.as_bytes(), Style::Word);
    }
    for (name, value) in entry.attributes {
        put(out, format_args!(" {name}="));
        escape(out, value, Style::Word);
    }
}

/// Milliseconds to the microsecond.
struct Millis(Duration);

impl std::fmt::Display for Millis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:03}", self.0.as_millis(), self.0.subsec_micros() % 1000)
    }
}

/// A JSON object being written.
pub struct Object<'a> {
    out: &'a mut Vec<u8>,
    first: bool,
}

impl<'a> Object<'a> {
    pub fn open(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, first: true }
    }

    pub fn close(self) {
        self.out.push(b'}');
    }

    fn key(&mut self, name: &str) {
        if !std::mem::take(&mut self.first) {
            self.out.push(b',');
        }
        self.out.push(b'"');
        escape(self.out, name.as_bytes(), Style::Json);
        self.out.extend_from_slice(b"\":");
    }

    /// Left out where empty.
    pub fn text(&mut self, name: &str, value: &[u8]) {
        if !value.is_empty() {
            self.key(name);
            self.out.push(b'"');
            escape(self.out, value, Style::Json);
            self.out.push(b'"');
        }
    }

    pub fn raw(&mut self, name: &str, value: impl std::fmt::Display) {
        self.key(name);
        put(self.out, format_args!("{value}"));
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Style {
    Json,
    /// Neither spaces nor quotes.
    Word,
}

fn word(out: &mut Vec<u8>, value: &[u8]) {
    out.push(b' ');
    if value.is_empty() {
        out.push(b'-');
    }
    escape(out, value, Style::Word);
}

/// Bytes that are no UTF-8 are shown as `\xNN` in either style, lest they be lost.
fn escape(out: &mut Vec<u8>, value: &[u8], style: Style) {
    let slash: &[u8] = if style == Style::Json { b"\\\\" } else { b"\\" };
    for chunk in value.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' | '\\' if style == Style::Json => out.extend_from_slice(&[b'\\', character as u8]),
                _ if character.is_control() && style == Style::Json => {
                    put(out, format_args!("\\u{:04x}", u32::from(character)));
                }
                ' ' | '"' | '\\' if style == Style::Word => put(out, format_args!("\\x{:02x}", u32::from(character))),
                _ if character.is_control() => put(out, format_args!("\\x{:02x}", u32::from(character))),
                _ => out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        for byte in chunk.invalid() {
            out.extend_from_slice(slash);
            put(out, format_args!("x{byte:02x}"));
        }
    }
}

fn put(out: &mut Vec<u8>, arguments: std::fmt::Arguments<'_>) {
    // Writing to a Vec does not fail.
    let _ = out.write_fmt(arguments);
}

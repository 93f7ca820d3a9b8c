//! What is remembered of a request: enough to decide about it again, and nothing that could be used against whoever
//! sent it. Requests that no decision can tell apart have the same fingerprint.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use http::{Method, request};

use super::looked::Looked;
use super::shape::Shape;
use crate::decide::Understood;
use crate::policy::caller::Caller;
use crate::snapshot::matcher::{Facts, Key};

/// Longest method, host and path that are remembered, in bytes.
const METHOD_MAX: usize = 32;
const HOST_MAX: usize = 255;
const PATH_MAX: usize = 256;
/// Values of one request that are remembered, and their bytes.
const VALUES_MAX: usize = 32;
const VALUE_BYTES_MAX: usize = 1024;

/// A request that was decided about.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// Name of the listener.
    pub listener: &'a Arc<str>,
    pub parts: &'a request::Parts,
    pub understood: &'a Understood<'a>,
    pub caller: Caller<'a>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Fingerprint {
    pub(super) listener: Arc<str>,
    /// Where a redirected one was going.
    pub(super) to: Option<Box<SocketAddr>>,
    pub(super) method: Method,
    /// In lower case, without port; empty where the request names none.
    pub(super) host: Box<str>,
    /// Normalised, without the query, with `{n}` and `{id}` for numbers and identifiers.
    pub(super) path: Box<str>,
    pub(super) grpc: bool,
    /// Which patterns of the configuration the path meets.
    patterns: u64,
    /// By the index of the key that was looked at.
    pub(super) values: Box<[(u16, Value)]>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Value {
    Kept(Box<str>),
    /// Which of the conditions of the configuration hold for it, one a bit. Nothing that leads back to the value.
    Hidden(u64),
}

impl Fingerprint {
    /// Also the path that stands for those of its shape. `None` where something is too large to be remembered.
    pub fn of(seen: &Seen<'_>, looked: &Looked) -> Option<(Self, Box<str>)> {
        let Seen { listener, parts, understood, .. } = *seen;
        let (host, path) = (&*understood.authority.host, &*understood.path.text);
        if parts.method.as_str().len() > METHOD_MAX || host.len() > HOST_MAX {
            return None;
        }
        let patterns = looked.patterns(path)?;
        // The parts of a gRPC path are names, however long.
        let Shape { counted, sample } = match understood.grpc {
            true => Shape { counted: path.to_owned(), sample: path.to_owned() },
            false => Shape::of(path, &looked.segments),
        };
        // A pattern that looks into an identifier would decide otherwise about what is left of it.
        if sample.len() > PATH_MAX || looked.patterns(&sample) != Some(patterns) {
            return None;
        }
        let print = Self {
            listener: listener.clone(),
            to: seen.caller.to.map(Box::new),
            method: parts.method.clone(),
            host: host.into(),
            path: counted.into(),
            grpc: understood.grpc,
            patterns,
            values: values(seen, looked)?,
        };
        Some((print, sample.into()))
    }

    /// Memory on the heap, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let kept = |value: &Value| match value {
            Value::Kept(text) => text.len(),
            Value::Hidden(_) => 0,
        };
        let values = self.values.iter().map(|(_, value)| size_of::<(u16, Value)>() + kept(value)).sum::<usize>();
        let to = self.to.as_ref().map_or(0, |to| size_of_val(&**to));
        self.method.as_str().len() + self.host.len() + self.path.len() + values + to
    }
}

fn values(seen: &Seen<'_>, looked: &Looked) -> Option<Box<[(u16, Value)]>> {
    let Seen { parts, understood, caller, .. } = *seen;
    let facts = Facts {
        caller,
        method: &parts.method,
        host: &understood.authority.host,
        path: &understood.path.text,
        query: parts.uri.query(),
        headers: &parts.headers,
        grpc: understood.grpc,
        attributes: &[],
    };
    let (mut values, mut bytes) = (Vec::new(), 0);
    for (index, (key, look)) in (0u16..).zip(looked.keys()) {
        key.each(&facts, &mut |value| {
            if values.len() <= VALUES_MAX {
                let value = look.remember(value);
                bytes += if let Value::Kept(text) = &value { text.len() } else { 0 };
                values.push((index, value));
            }
        });
    }
    (values.len() <= VALUES_MAX && bytes <= VALUE_BYTES_MAX).then(|| values.into())
}

/// Method, host and path, and no value.
impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}{}", self.method, self.host, self.path)
    }
}

/// As it is called in a report.
pub(super) fn name_of(key: &Key) -> String {
    match key {
        Key::Header(name) => format!("header {name}"),
        Key::Cookie(name) => format!("cookie {name}"),
        Key::Query(name) => format!("query parameter {name}"),
        Key::Attribute(index) => format!("attribute {index}"),
    }
}

//! What deciding leaves for sending, and the request as the upstream gets it.

use http::{HeaderValue, Version, request};

use super::record::Record;
use super::terms;
use crate::config::schema::Mode;
use crate::error::Reason;
use crate::snapshot::{Forward, Route, Service, Target, Transport};
use crate::upstream::pool::Pool;
use crate::wire::head::{self, Outgoing};
use crate::wire::hop::Hop;
use crate::wire::{forwarded, xfcc};

/// What deciding leaves for sending, apart from the head itself.
pub struct Chosen<'s> {
    pub index: usize,
    pub route: &'s Route,
    pub forward: &'s Forward,
    pub target: Target,
    /// What an endpoint is chosen by, where the service hashes.
    pub key: Option<u64>,
    /// The path to send instead of the one that came.
    pub path: Option<String>,
    pub hop: Hop,
    /// The client named no host (HTTP/1.0).
    pub hostless: bool,
}

/// The request as the upstream gets it.
pub fn outgoing(
    record: &Record,
    mut parts: request::Parts,
    chosen: &Chosen<'_>,
    service: &Service,
    pool: &Pool,
) -> Result<request::Parts, Reason> {
    // What goes out of the application begins there.
    if record.conn.socket.mode != Mode::Outbound {
        forwarded::append(&mut parts, record.conn.peer.ip(), record.conn.tls.get().is_some());
    }
    forwarded::count_hop(&mut parts.headers)?;
    let original = parts.headers.remove(forwarded::ORIGINAL_VERSION).filter(|_| service.original);
    xfcc::apply(&mut parts.headers, record.conn.forwarded_certificate());
    for (index, value) in &record.attributes {
        let attribute = record.view.snapshot.attributes.get(*index);
        if let (Some(name), Ok(value)) =
            (attribute.and_then(|known| known.forward.as_ref()), HeaderValue::from_bytes(value.as_bytes()))
        {
            parts.headers.insert(name, value);
        }
    }
    if let Some(path) = &chosen.path {
        head::set_path(&mut parts.uri, path)?;
    }
    let fallback = match chosen.hostless {
        true => HeaderValue::try_from(pool.address.to_string()).map_err(|_| Reason::BadRequest)?,
        false => HeaderValue::from_static(""),
    };
    let only_http1 = chosen.hop.upgrade.is_some() || record.preserve_case();
    let client = if original.is_some() { Version::HTTP_11 } else { parts.version };
    let version = terms::upstream_version(service.protocol, client, only_http1, pool);
    if version == Version::HTTP_2 && client != Version::HTTP_2 && matches!(pool.transport, Transport::Mutual { .. }) {
        // The application at the other end may know no other.
        parts.headers.insert(forwarded::ORIGINAL_VERSION, HeaderValue::from_static("1.1"));
    }
    if chosen.hop.upgrade.is_some() && version == Version::HTTP_2 {
        return Err(Reason::Unsupported);
    }
    let host = chosen.forward.rewrite_host.as_ref();
    head::outgoing(
        &mut parts,
        Outgoing { version, host, fallback: &fallback, hop: &chosen.hop, secure: pool.is_secure() },
    )?;
    chosen.route.request_headers.apply(&mut parts.headers);
    Ok(parts)
}

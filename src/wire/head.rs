//! Whom a request is for, whether its head contradicts itself, and how a head is written for the other side.
//!
//! What could be read in two ways is refused, never repaired: a request that two hops read differently is how
//! requests are smuggled. All of it comes before [`hop`] removes the framing fields, except
//! [`outgoing`], which is the last step of a request.

use std::borrow::Cow;
use std::net::Ipv6Addr;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, COOKIE, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use http::uri::{self, PathAndQuery, Scheme, Uri};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, request, response};

use super::hop::{self, Hop};
use super::{grpc, members};
use crate::error::Reason;

/// Whom a request is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority<'a> {
    /// In lower case, without port, brackets or the dot at the end. Empty where an HTTP/1.0 client names none.
    pub host: Cow<'a, str>,
    pub port: Option<u16>,
}

/// Holds the head of a request against the rules of its version, and tells whom it is for.
pub fn check(parts: &request::Parts) -> Result<Authority<'_>, Reason> {
    check_target(&parts.method, &parts.uri)?;
    check_framing(&parts.headers).map_err(|Contradiction| Reason::BadRequest)?;
    if !only_chunked(&parts.headers) {
        return Err(Reason::Unsupported);
    }
    let host = host_line(&parts.headers)?;
    match (host, parts.uri.authority()) {
        (Some(line), Some(named)) => {
            let line = parse_authority(line)?;
            let named = parse_authority(named.as_str())?;
            let default = if parts.uri.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 };
            let same = line.host == named.host && line.port.unwrap_or(default) == named.port.unwrap_or(default);
            if same { Ok(named) } else { Err(Reason::BadRequest) }
        }
        // Only HTTP/1.1 needs the line beside an absolute target (RFC 9112, section 3.2).
        (None, Some(_)) if parts.version == Version::HTTP_11 => Err(Reason::BadRequest),
        (None, Some(named)) => parse_authority(named.as_str()),
        (Some(line), None) => parse_authority(line),
        (None, None) if parts.version == Version::HTTP_10 => Ok(Authority { host: "".into(), port: None }),
        (None, None) => Err(Reason::BadRequest),
    }
}

/// The size of a head as HTTP/2 counts it (RFC 9113, section 6.5.2), pseudo-header fields included.
pub fn list_size(parts: &request::Parts) -> usize {
    const FIELD: usize = 32;
    let fields: usize = parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD).sum();
    let target = parts.uri.path_and_query().map_or(0, |path| path.as_str().len())
        + parts.uri.authority().map_or(0, |authority| authority.as_str().len())
        + parts.uri.scheme_str().map_or(0, str::len);
    let names = ":method".len() + ":path".len() + ":authority".len() + ":scheme".len();
    fields + parts.method.as_str().len() + target + names + 4 * FIELD
}

/// The target has the form that its method asks for (RFC 9112, section 3.2).
fn check_target(method: &Method, uri: &Uri) -> Result<(), Reason> {
    if method == Method::CONNECT {
        return Err(Reason::Unsupported);
    }
    let scheme = uri.scheme();
    let known = scheme.is_none_or(|scheme| *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS);
    let form = match uri.path() {
        "*" => method == Method::OPTIONS && uri.query().is_none(),
        // Without a path, the target is a bare authority.
        path => path.starts_with('/'),
    };
    if known && form { Ok(()) } else { Err(Reason::BadRequest) }
}

fn host_line(headers: &HeaderMap) -> Result<Option<&str>, Reason> {
    let mut lines = headers.get_all(HOST).iter();
    let line = lines.next();
    if lines.next().is_some() {
        return Err(Reason::BadRequest);
    }
    line.map(|line| line.to_str().map_err(|_| Reason::BadRequest)).transpose()
}

/// Takes `host`, `host:port`, `[v6]` or `[v6]:port` apart. Stricter than the generic syntax of RFC 3986: user
/// information, percent encodings and list separators have no place in a host of HTTP.
pub(super) fn parse_authority(text: &str) -> Result<Authority<'_>, Reason> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or(Reason::BadRequest)?;
            address.parse::<Ipv6Addr>().map_err(|_| Reason::BadRequest)?;
            (address, port)
        }
        None => {
            let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            let host = host.strip_suffix('.').unwrap_or(host);
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
            if host.is_empty() || !host.bytes().all(plain) {
                return Err(Reason::BadRequest);
            }
            (host, port)
        }
    };
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => None,
        None => return Err(Reason::BadRequest),
        Some("") => None,
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(digits.parse().map_err(|_| Reason::BadRequest)?)
        }
        Some(_) => return Err(Reason::BadRequest),
    };
    let upper = host.bytes().any(|byte| byte.is_ascii_uppercase());
    let host = if upper { host.to_ascii_lowercase().into() } else { Cow::Borrowed(host) };
    Ok(Authority { host, port })
}

/// The framing fields of a head disagree.
struct Contradiction;

/// One length at most, however often it is said, and none beside a transfer coding.
fn check_framing(headers: &HeaderMap) -> Result<(), Contradiction> {
    if !headers.contains_key(CONTENT_LENGTH) {
        return Ok(());
    }
    let mut lengths = members(headers, CONTENT_LENGTH).map(decimal);
    let first = lengths.next().flatten();
    if first.is_none() || headers.contains_key(TRANSFER_ENCODING) || lengths.any(|length| length != first) {
        return Err(Contradiction);
    }
    Ok(())
}

/// No other coding than `chunked` is undone here, and none may be passed on as if it had been (RFC 9112, section 6.1).
fn only_chunked(headers: &HeaderMap) -> bool {
    let mut codings = members(headers, TRANSFER_ENCODING);
    match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => coding.eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    }
}

/// Says a length that was said several times once.
fn join_lengths(headers: &mut HeaderMap) {
    let lengths: [Option<u64>; 2] = {
        let mut lengths = members(headers, CONTENT_LENGTH).map(decimal);
        [lengths.next().flatten(), lengths.next().flatten()]
    };
    if let [Some(length), Some(_)] = lengths {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
}

/// Digits only: `str::parse` would take a sign.
fn decimal(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0u64, |value, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

/// How a request leaves.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'a> {
    /// What the upstream speaks: HTTP/2, or else HTTP/1.1.
    pub version: Version,
    /// The host that the route puts in place of the client's.
    pub host: Option<&'a HeaderValue>,
    /// Who is asked where the client named nobody (HTTP/1.0).
    pub fallback: &'a HeaderValue,
    /// What the client said to us alone, and is said anew.
    pub hop: &'a Hop,
    /// The connection is in TLS.
    pub secure: bool,
}

/// Writes the head for the upstream. Path edits come before, or after, with [`set_path`].
pub fn outgoing(parts: &mut request::Parts, how: Outgoing<'_>) -> Result<(), Reason> {
    let trailers = how.hop.te_trailers || grpc::is_grpc(&parts.headers);
    join_lengths(&mut parts.headers);
    if how.version == Version::HTTP_2 {
        outgoing_http2(parts, how)?;
    } else {
        outgoing_http1(parts, how, trailers)?;
    }
    if trailers {
        parts.headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    Ok(())
}

fn outgoing_http1(parts: &mut request::Parts, how: Outgoing<'_>, trailers: bool) -> Result<(), Reason> {
    parts.version = Version::HTTP_11;
    let uri = std::mem::take(&mut parts.uri);
    if let Some(host) = how.host {
        parts.headers.insert(HOST, host.clone());
    } else if let Some(named) = uri.authority() {
        let host = HeaderValue::from_str(named.as_str()).map_err(|_| Reason::BadRequest)?;
        parts.headers.insert(HOST, host);
    } else if !parts.headers.contains_key(HOST) {
        parts.headers.insert(HOST, how.fallback.clone());
    }
    parts.uri = if uri.authority().is_some() || uri.scheme().is_some() { origin_form(uri)? } else { uri };
    join_cookies(&mut parts.headers);
    // `TE` is for the next hop only, and so must be listed (RFC 9110, section 10.1.4).
    let connection = match (&how.hop.upgrade, trailers) {
        (Some(_), true) => "upgrade, te",
        (Some(_), false) => "upgrade",
        (None, true) => "te",
        (None, false) => return Ok(()),
    };
    parts.headers.insert(CONNECTION, HeaderValue::from_static(connection));
    if let Some(upgrade) = &how.hop.upgrade {
        parts.headers.insert(UPGRADE, upgrade.clone());
    }
    Ok(())
}

fn outgoing_http2(parts: &mut request::Parts, how: Outgoing<'_>) -> Result<(), Reason> {
    parts.version = Version::HTTP_2;
    let line = parts.headers.remove(HOST);
    let mut uri = std::mem::take(&mut parts.uri).into_parts();
    uri.scheme = Some(if how.secure { Scheme::HTTPS } else { Scheme::HTTP });
    if how.host.is_some() || uri.authority.is_none() {
        let host = how.host.or(line.as_ref()).unwrap_or(how.fallback);
        uri.authority = Some(uri::Authority::try_from(host.as_bytes()).map_err(|_| Reason::BadRequest)?);
    }
    parts.uri = Uri::from_parts(uri).map_err(|_| Reason::BadRequest)?;
    Ok(())
}

fn origin_form(uri: Uri) -> Result<Uri, Reason> {
    let mut parts = uri::Parts::default();
    parts.path_and_query = uri.into_parts().path_and_query;
    Uri::from_parts(parts).map_err(|_| Reason::BadRequest)
}

/// Puts another path in place of the target's, and keeps the query.
pub fn set_path(uri: &mut Uri, path: &str) -> Result<(), Reason> {
    let target = match uri.query() {
        None => PathAndQuery::try_from(path),
        Some(query) => {
            let mut text = String::with_capacity(path.len() + 1 + query.len());
            text.extend([path, "?", query]);
            PathAndQuery::try_from(text)
        }
    };
    let mut parts = std::mem::take(uri).into_parts();
    parts.path_and_query = Some(target.map_err(|_| Reason::BadRequest)?);
    *uri = Uri::from_parts(parts).map_err(|_| Reason::BadRequest)?;
    Ok(())
}

/// HTTP/2 may send every cookie on a line of its own; HTTP/1 may not (RFC 9113, section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let lines = headers.get_all(COOKIE);
    if lines.iter().nth(1).is_none() {
        return;
    }
    let mut joined = Vec::with_capacity(lines.iter().map(|line| line.len() + 2).sum());
    for line in lines {
        if !joined.is_empty() {
            joined.extend_from_slice(b"; ");
        }
        joined.extend_from_slice(line.as_bytes());
    }
    if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(joined)) {
        headers.insert(COOKIE, value);
    }
}

/// Makes the head of an upstream's answer one of ours: its framing holds, what was for us alone is gone, and it has
/// the version of the client's side (the codec writes HTTP/1.0 to those who need it).
pub fn check_response(parts: &mut response::Parts, client: Version) -> Result<Hop, Reason> {
    // The codec of the client's side would believe the length, after that of the upstream's side believed the coding.
    check_framing(&parts.headers).map_err(|Contradiction| Reason::UpstreamProtocol)?;
    if !only_chunked(&parts.headers) {
        return Err(Reason::UpstreamProtocol);
    }
    join_lengths(&mut parts.headers);
    let hop = hop::strip_response(parts.version, &mut parts.headers);
    if parts.status == StatusCode::NO_CONTENT || parts.status.is_informational() {
        parts.headers.remove(CONTENT_LENGTH);
    }
    parts.version = if client == Version::HTTP_2 { Version::HTTP_2 } else { Version::HTTP_11 };
    Ok(hop)
}

/// Whether an answer has no body whatever its head says (RFC 9112, section 6.3).
pub fn bodiless(method: &Method, status: StatusCode) -> bool {
    method == Method::HEAD
        || status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED
}

/// Removes from trailers what frames, routes, authenticates or describes the message: who merges trailers into the
/// head would act on it after the decision (RFC 9110, section 6.5.1).
pub fn clean_trailers(trailers: &mut HeaderMap) {
    while let Some(name) = trailers.keys().find(|name| !may_trail(name.as_str())).cloned() {
        trailers.remove(name);
    }
}

fn may_trail(name: &str) -> bool {
    !matches!(
        name,
        "transfer-encoding"
            | "trailer"
            | "te"
            | "connection"
            | "keep-alive"
            | "proxy-connection"
            | "upgrade"
            | "http2-settings"
            | "host"
            | "max-forwards"
            | "expect"
            | "range"
            | "if-range"
            | "if-match"
            | "if-none-match"
            | "if-modified-since"
            | "if-unmodified-since"
            | "authorization"
            | "proxy-authorization"
            | "proxy-authenticate"
            | "www-authenticate"
            | "proxy-authentication-info"
            | "authentication-info"
            | "cookie"
            | "set-cookie"
            | "age"
            | "cache-control"
            | "expires"
            | "date"
            | "location"
            | "retry-after"
            | "vary"
            | "warning"
            | "pragma"
            | "forwarded"
            | "x-request-id"
            | "x-real-ip"
            | "traceparent"
            | "tracestate"
    ) && !name.starts_with("content-")
        && !name.starts_with("x-forwarded-")
        && !super::xfcc::is_it(name)
}

#[cfg(test)]
mod tests;

//! Answers that the proxy makes itself. A gRPC client gets a status in its own terms, never a bare HTTP error.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderName, HeaderValue, Response, StatusCode, Uri};

use crate::decide::Decision;
use crate::error::Reason;
use crate::snapshot::{Redirect, Rewrite};
use crate::wire::grpc;

const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// The answer to a request that ended for `reason`.
pub fn error(reason: Reason, is_grpc: bool) -> Response<Bytes> {
    let mut response = if is_grpc {
        grpc::trailers_only(reason.grpc(), reason.sentence()).map(|()| Bytes::new())
    } else {
        let mut response = Response::new(Bytes::from_static(reason.sentence().as_bytes()));
        *response.status_mut() = reason.status();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        response
    };
    // RFC 9209, section 2.
    let status = format!("outrigger; error={}; details=\"{}\"", reason.proxy_error(), reason.code());
    if let Ok(status) = HeaderValue::try_from(status) {
        response.headers_mut().insert(PROXY_STATUS, status);
    }
    response
}

pub fn direct(status: StatusCode, body: &Bytes) -> Response<Bytes> {
    let mut response = Response::new(body.clone());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// What a redirect starts from.
pub struct Asked<'a> {
    pub host: &'a str,
    pub port: Option<u16>,
    pub path: &'a str,
    pub uri: &'a Uri,
}

/// Where the client is sent instead. What the route leaves out stays as the client asked for it.
pub fn redirect(redirect: &Redirect, decision: &Decision<'_>, asked: &Asked<'_>) -> Response<Bytes> {
    let scheme = redirect.scheme.or(asked.uri.scheme_str()).unwrap_or("http");
    let default = if scheme == "https" { 443 } else { 80 };
    let host = redirect.host.as_deref().unwrap_or(asked.host);
    // The port that was asked for does not fit another scheme or host.
    let same = redirect.host.is_none() && redirect.scheme.is_none();
    let port = redirect.port.or(asked.port.filter(|_| same)).filter(|port| *port != default);
    let mut location = if host.contains(':') { format!("{scheme}://[{host}]") } else { format!("{scheme}://{host}") };
    if let Some(port) = port {
        location.push_str(&format!(":{port}"));
    }
    match &redirect.path {
        Some(edit) => location.push_str(&rewritten(edit, decision, asked.path)),
        None => location.push_str(asked.path),
    }
    if let Some(query) = asked.uri.query() {
        location.push('?');
        location.push_str(query);
    }
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = redirect.status;
    if let Ok(location) = HeaderValue::try_from(location) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

/// A path after the route's edit.
pub fn rewritten(edit: &Rewrite, decision: &Decision<'_>, path: &str) -> String {
    match edit {
        Rewrite::Path(path) => path.clone(),
        Rewrite::Prefix(prefix) => {
            // The table of the Gateway API's `ReplacePrefixMatch`: a slash at the end stays, none is doubled.
            match decision.rest(path) {
                "" => prefix.clone(),
                rest => format!("{}{rest}", prefix.strip_suffix('/').unwrap_or(prefix)),
            }
        }
    }
}

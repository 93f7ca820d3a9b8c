//! Answers that the proxy makes itself. A gRPC client gets a status in its own terms, never a bare HTTP error.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, LOCATION, VARY};
use http::{HeaderMap, HeaderValue, Response, StatusCode, Uri, response};
use serde::Serialize;

use super::admission::Refused;
use crate::decide::Decision;
use crate::error::Reason;
use crate::snapshot::{Forward, Redirect, Rewrite};
use crate::wire::accept::{self, Form};
use crate::wire::forwarded::REQUEST_ID;
use crate::wire::grpc;
use crate::wire::path::Path;
use crate::wire::proxy_status::{self, PROXY_STATUS};

pub const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
/// What a `grpc-message` takes over of a body.
const MESSAGE_MAX: usize = 256;

/// Who is told of an error, and how.
#[derive(Default)]
pub struct Asker<'a> {
    pub grpc: bool,
    pub accept: Option<&'a HeaderValue>,
    /// Id of the request.
    pub id: Option<&'a HeaderValue>,
    /// The status that an upstream had answered with before.
    pub received: Option<StatusCode>,
    /// The entry of `authorization` that denies.
    pub entry: Option<&'a str>,
    /// Status and gRPC code, where they are not those of the reason.
    pub instead: (Option<StatusCode>, Option<u8>),
    /// The limit that refuses.
    pub refusal: Option<&'a Refused>,
}

impl Asker<'_> {
    /// What happened, in a sentence.
    fn sentence(&self, reason: Reason) -> Cow<'static, str> {
        match self.entry.or(self.limit()) {
            Some(entry) => format!("{} ({entry})", reason.sentence()).into(),
            None => reason.sentence().into(),
        }
    }

    fn status(&self, reason: Reason) -> StatusCode {
        self.instead.0.unwrap_or(reason.status())
    }

    fn limit(&self) -> Option<&str> {
        self.refusal.map(|refusal| refusal.limit.as_str())
    }
}

/// The answer to a request that ended for `reason`.
pub fn error(reason: Reason, asker: &Asker<'_>) -> Response<Bytes> {
    let mut response = if asker.grpc {
        let code = asker.instead.1.unwrap_or(reason.grpc());
        grpc::trailers_only(code, &asker.sentence(reason)).map(|()| Bytes::new())
    } else {
        let form = asker.accept.map_or(Form::Text, |accept| accept::form(accept.as_bytes()));
        let (kind, body) = told(reason, asker, form);
        let mut response = Response::new(body);
        *response.status_mut() = asker.status(reason);
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
        response
    };
    let details: Cow<'_, str> = match (asker.entry, asker.limit()) {
        (Some(entry), _) => format!("{} by authorization {entry}", reason.code()).into(),
        (None, Some(limit)) => format!("{} by {limit}", reason.code()).into(),
        (None, None) => reason.code().into(),
    };
    sign(response.headers_mut(), reason, &details, asker.received);
    asker.refusal.into_iter().for_each(|refusal| refusal.tell(response.headers_mut()));
    if let Some(id) = asker.id {
        response.headers_mut().insert(REQUEST_ID, id.clone());
    }
    response
}

/// Says that the answer is ours.
pub fn sign(headers: &mut HeaderMap, reason: Reason, details: &str, received: Option<StatusCode>) {
    if let Some(member) = proxy_status::member(Some((reason.proxy_error(), details)), received) {
        headers.insert(PROXY_STATUS, member);
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Json<'a> {
    status: u16,
    reason: &'a str,
    message: &'a str,
    hint: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    authorization: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
}

/// RFC 9457; `type` is `about:blank` where it is left out, and the title then that of the status.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Problem<'a> {
    title: &'a str,
    status: u16,
    detail: &'a str,
    reason: &'a str,
    hint: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    authorization: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
}

/// One sentence, in the form that is wanted, and the name of that form.
fn told(reason: Reason, asker: &Asker<'_>, form: Form) -> (HeaderValue, Bytes) {
    let status = asker.status(reason);
    let (code, sentence, hint, authorization) = (reason.code(), asker.sentence(reason), reason.hint(), asker.entry);
    let limit = asker.limit();
    let request_id = asker.id.and_then(|id| id.to_str().ok());
    let (kind, json) = match form {
        Form::Text => {
            let body = match sentence {
                Cow::Borrowed(sentence) => Bytes::from_static(sentence.as_bytes()),
                Cow::Owned(sentence) => sentence.into(),
            };
            return (PLAIN, body);
        }
        Form::Json => {
            let (status, message) = (status.as_u16(), &*sentence);
            let json = Json { status, reason: code, message, hint, authorization, limit, request_id };
            ("application/json", serde_json::to_vec(&json))
        }
        Form::Problem => {
            let title = status.canonical_reason().unwrap_or_default();
            let (status, detail) = (status.as_u16(), &*sentence);
            let json = Problem { title, status, detail, reason: code, hint, authorization, limit, request_id };
            ("application/problem+json", serde_json::to_vec(&json))
        }
    };
    // Texts without keys of their own are always JSON.
    (HeaderValue::from_static(kind), json.unwrap_or_default().into())
}

pub fn direct(status: StatusCode, body: &Bytes) -> Response<Bytes> {
    let mut response = Response::new(body.clone());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, PLAIN);
    sign(response.headers_mut(), Reason::DirectResponse, Reason::DirectResponse.code(), None);
    response
}

/// Makes an answer of ours one of gRPC, where it is none yet: the first line of its body is the message.
pub fn in_grpc(parts: &mut response::Parts, body: Bytes) -> Bytes {
    if grpc::is_grpc(&parts.headers) && parts.headers.contains_key(grpc::STATUS) {
        return body;
    }
    let line = body.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
    let line = line.get(..MESSAGE_MAX).unwrap_or(line);
    match line.trim_ascii() {
        b"" => grpc::translate(parts, &format!("the route answers HTTP {}", parts.status)),
        line => grpc::translate(parts, &String::from_utf8_lossy(line)),
    }
    Bytes::new()
}

/// An upstream's plain answer to a gRPC request, most likely of a load balancer in front of the service.
pub fn translated(mut parts: response::Parts, peer_reason: Option<&str>) -> Response<Bytes> {
    if let Some(member) = proxy_status::member(None, Some(parts.status)) {
        parts.headers.append(PROXY_STATUS, member);
    }
    let message = match peer_reason {
        Some(reason) => format!("the service answered HTTP {}: {reason}", parts.status),
        None => format!("the service answered HTTP {}", parts.status),
    };
    grpc::translate(&mut parts, &message);
    Response::from_parts(parts, Bytes::new())
}

/// The answer to a client for which the codec has none: all of it, as HTTP/1 writes it. The connection ends after it.
pub fn raw(reason: Reason) -> Vec<u8> {
    let (parts, body) = error(reason, &Asker::default()).into_parts();
    let title = parts.status.canonical_reason().unwrap_or_default();
    let mut out = format!("HTTP/1.1 {} {title}\r\n", parts.status.as_u16()).into_bytes();
    for (name, value) in &parts.headers {
        out.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    out.extend_from_slice(format!("connection: close\r\ncontent-length: {}\r\n\r\n", body.len()).as_bytes());
    out.extend_from_slice(&body);
    out
}

/// What a redirect starts from.
pub struct Asked<'a> {
    /// In TLS with us.
    pub secure: bool,
    pub host: &'a str,
    pub port: Option<u16>,
    pub path: &'a str,
    pub uri: &'a Uri,
}

/// Where the client is sent instead, to another path if there is one. What is left out stays as it was asked for.
pub fn redirect(redirect: &Redirect, path: Option<String>, asked: &Asked<'_>) -> Response<Bytes> {
    let own = if asked.secure { "https" } else { "http" };
    let scheme = redirect.scheme.or(asked.uri.scheme_str()).unwrap_or(own);
    let default = if scheme == "https" { 443 } else { 80 };
    let host = redirect.host.as_deref().unwrap_or(asked.host);
    // The port that was asked for does not fit another scheme or host.
    let same = redirect.host.is_none() && redirect.scheme.is_none();
    let port = redirect.port.or(asked.port.filter(|_| same)).filter(|port| *port != default);
    let mut location = if host.contains(':') { format!("{scheme}://[{host}]") } else { format!("{scheme}://{host}") };
    if let Some(port) = port {
        location.push_str(&format!(":{port}"));
    }
    location.push_str(path.as_deref().unwrap_or(asked.path));
    if let Some(query) = asked.uri.query() {
        location.push('?');
        location.push_str(query);
    }
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = redirect.status;
    if let Ok(location) = HeaderValue::try_from(location) {
        response.headers_mut().insert(LOCATION, location);
    }
    sign(response.headers_mut(), Reason::Redirect, Reason::Redirect.code(), None);
    response
}

/// A path that is not the one that came, where the route rewrites it or it had dot segments.
pub fn edited_path(decision: &Decision<'_>, forward: &Forward, path: &Path<'_>) -> Option<String> {
    match &forward.rewrite {
        Some(rewrite) => Some(rewritten(rewrite, decision, &path.text)),
        None => path.resolved.then(|| path.text.clone().into_owned()),
    }
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

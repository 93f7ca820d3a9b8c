//! One question to one endpoint, on a connection of its own.

use std::future::poll_fn;
use std::pin::pin;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderMap, TE, USER_AGENT};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Method, Request, Response, Uri};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use tokio::task::JoinSet;

use super::connect::{Link, connect};
use super::prober::Plan;
use crate::body::Source;
use crate::config::schema::Protocol;
use crate::discovery::Endpoint;
use crate::identity::{Alpn, Material};
use crate::net::stream::Stream;
use crate::net::tokio_io::TokioIo;
use crate::snapshot::check::Ask;
use crate::wire::{grpc, grpc_health};

const AGENT: HeaderValue = HeaderValue::from_static(concat!("outrigger-check/", env!("CARGO_PKG_VERSION")));
/// The answer to a gRPC check is of two bytes, and its frame.
const ANSWER: usize = 1024;

/// Whether the endpoint is well, or what is wrong with it.
pub async fn ask(plan: &Plan, endpoint: &Endpoint, material: &Material) -> Result<(), String> {
    let alpn = match (&plan.check.ask, plan.protocol) {
        (Ask::Grpc { .. }, _) | (Ask::Http { .. }, Protocol::Http2) => Alpn::Http2,
        (Ask::Http { .. }, Protocol::Http1) => Alpn::Http1,
        (Ask::Tcp, Protocol::Tcp) => Alpn::Tcp,
        (Ask::Http { .. } | Ask::Tcp, _) => Alpn::Either,
    };
    let Link { stream, http2 } = connect(plan, endpoint, alpn, material).await?;
    let host = |host: &Option<HeaderValue>| match host {
        Some(host) => Ok(host.clone()),
        // A path is no host.
        None if endpoint.address.ip().is_none() => Ok(HeaderValue::from_static("localhost")),
        None => HeaderValue::try_from(endpoint.address.to_string()).map_err(text),
    };
    match &plan.check.ask {
        Ask::Tcp => Ok(()),
        Ask::Http { path, host: named, statuses } => {
            let request = Request::new(Source::Empty);
            let answer = send(stream, http2, request, path.clone(), host(named)?).await?;
            let status = answer.head.status();
            let well = match &**statuses {
                [] => status.is_success() || status.is_redirection(),
                statuses => statuses.contains(&status.as_u16()),
            };
            if well { Ok(()) } else { Err(format!("answered {status}")) }
        }
        Ask::Grpc { service, host: named } => {
            let mut request = Request::new(Source::Full(grpc_health::request(service).into()));
            *request.method_mut() = Method::POST;
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            request.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
            let answer =
                send(stream, true, request, PathAndQuery::from_static(grpc_health::METHOD), host(named)?).await?;
            serving(answer.head).await
        }
    }
}

/// An answer, and the connection that carries it.
struct Answer {
    head: Response<Incoming>,
    _driver: JoinSet<()>,
}

async fn send(
    stream: Stream,
    http2: bool,
    mut request: Request<Source>,
    path: PathAndQuery,
    host: HeaderValue,
) -> Result<Answer, String> {
    request.headers_mut().insert(USER_AGENT, AGENT);
    // Ends with the answer, however that ends.
    let mut driver = JoinSet::new();
    if http2 {
        let scheme = if matches!(stream, Stream::Tls(_)) { Scheme::HTTPS } else { Scheme::HTTP };
        let authority = Authority::try_from(host.as_bytes()).map_err(text)?;
        let uri = Uri::builder().scheme(scheme).authority(authority).path_and_query(path);
        *request.uri_mut() = uri.build().map_err(text)?;
        let (mut sender, connection) = http2::handshake(Spawn, TokioIo(stream)).await.map_err(text)?;
        driver.spawn(async move { drop(connection.await) });
        let head = sender.send_request(request).await.map_err(text)?;
        return Ok(Answer { head, _driver: driver });
    }
    *request.uri_mut() = path.into();
    request.headers_mut().insert(HOST, host);
    request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    let (mut sender, connection) = http1::handshake(TokioIo(stream)).await.map_err(text)?;
    driver.spawn(async move { drop(connection.await) });
    let head = sender.send_request(request).await.map_err(text)?;
    Ok(Answer { head, _driver: driver })
}

/// Reads the answer to a gRPC check.
async fn serving(head: Response<Incoming>) -> Result<(), String> {
    let (head, body) = head.into_parts();
    let ended = |headers: &HeaderMap| match grpc::status(headers) {
        None | Some(0) => Ok(()),
        Some(code) => Err(format!("gRPC status {code}")),
    };
    if !head.status.is_success() {
        return Err(format!("answered {}", head.status));
    }
    ended(&head.headers)?;
    let (mut body, mut bytes) = (pin!(body), Vec::new());
    while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        let frame = frame.map_err(text)?;
        if let Some(trailers) = frame.trailers_ref() {
            ended(trailers)?;
        }
        let data: Bytes = frame.into_data().unwrap_or_default();
        if bytes.len() + data.len() > ANSWER {
            return Err("the answer is too long".to_owned());
        }
        bytes.extend_from_slice(&data);
    }
    match grpc_health::status(&bytes) {
        Some(grpc_health::SERVING) => Ok(()),
        Some(status) => Err(grpc_health::name(status).to_owned()),
        None => Err("the answer is not one of grpc.health.v1".to_owned()),
    }
}

fn text(error: impl std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// The tasks of a connection of HTTP/2.
#[derive(Clone, Copy)]
struct Spawn;

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for Spawn {
    fn execute(&self, future: F) {
        tokio::spawn(future);
    }
}

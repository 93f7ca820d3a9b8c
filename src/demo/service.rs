//! The service of the demo: says which version it is, and has a few paths to play with. HTTP/1 and HTTP/2 on one port.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Interval;

use crate::body::{self, Source};
use crate::net::tokio_io::TokioIo;
use crate::wire::detect::{self, Verdict};
use crate::wire::path::query_get;

/// Longest that `/slow` waits.
const SLOW_MS_MAX: u64 = 60_000;

/// Who answers.
#[derive(Debug)]
pub struct Identity {
    pub service: String,
    pub version: String,
}

/// Serves for ever.
pub async fn serve(listener: std::net::TcpListener, identity: Identity) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return eprintln!("error: service of the demo: {error}"),
    };
    let identity = Arc::new(identity);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(connection(stream, identity.clone()))),
            // Out of descriptors, most likely: others will close.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn connection(stream: TcpStream, identity: Arc<Identity>) {
    let Ok(is_http2) = is_http2(&stream).await else { return };
    let service = service_fn(|request| answer(request, identity.clone()));
    // A client that breaks off is none of the service's concern.
    let _ = if is_http2 {
        http2::Builder::new(Spawn).serve_connection(TokioIo(stream), service).await
    } else {
        http1::Builder::new().serve_connection(TokioIo(stream), service).await
    };
}

async fn is_http2(stream: &TcpStream) -> io::Result<bool> {
    let mut bytes = [0; detect::PREFACE.len()];
    loop {
        let count = stream.peek(&mut bytes).await?;
        match detect::detect(bytes.get(..count).unwrap_or_default()) {
            Verdict::More if count > 0 => tokio::time::sleep(Duration::from_millis(1)).await,
            verdict => return Ok(verdict == Verdict::Http2),
        }
    }
}

#[derive(Clone, Copy)]
struct Spawn;

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for Spawn {
    fn execute(&self, future: F) {
        tokio::spawn(future);
    }
}

async fn answer(request: Request<Incoming>, identity: Arc<Identity>) -> Result<Response<Reply>, Infallible> {
    let (parts, body) = request.into_parts();
    let mut status = StatusCode::OK;
    let mut kind = HeaderValue::from_static("application/json");
    let body = match parts.uri.path() {
        "/events" => {
            kind = HeaderValue::from_static("text/event-stream");
            Reply::Events(tokio::time::interval(Duration::from_secs(1)), 0)
        }
        "/echo" => {
            kind = parts.headers.get(CONTENT_TYPE).cloned().unwrap_or(kind);
            Reply::Whole(Source::Wire(body))
        }
        path => {
            if let Some(code) = path.strip_prefix("/status/").and_then(|code| code.parse::<u16>().ok()) {
                status = StatusCode::from_u16(code).ok().filter(|code| code.as_u16() >= 200).unwrap_or(status);
            }
            let wanted = query_get(parts.uri.query().unwrap_or_default(), "ms").and_then(|ms| ms.parse::<u64>().ok());
            if let ("/slow", Some(ms)) = (path, wanted) {
                tokio::time::sleep(Duration::from_millis(ms.min(SLOW_MS_MAX))).await;
            }
            let text = |name: &str| text(&parts.headers, name);
            let told = json!({
                "service": identity.service, "version": identity.version,
                "method": parts.method.as_str(), "path": path, "protocol": format!("{:?}", parts.version),
                "requestId": text("x-request-id"), "traceparent": text("traceparent"),
                "client": text("x-forwarded-client-cert"),
            });
            Reply::Whole(Source::Full(format!("{told}\n").into()))
        }
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, kind);
    if let Ok(version) = HeaderValue::from_str(&identity.version) {
        response.headers_mut().insert("x-version", version);
    }
    Ok(response)
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

enum Reply {
    Whole(Source),
    /// An event a second, and the number of the next.
    Events(Interval, u64),
}

impl Body for Reply {
    type Data = Bytes;
    type Error = body::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, body::Error>>> {
        match &mut *self {
            Self::Whole(source) => Pin::new(source).poll_frame(cx),
            Self::Events(interval, number) => {
                ready!(interval.poll_tick(cx));
                let event = format!("id: {number}\ndata: {{\"tick\":{number}}}\n\n");
                *number += 1;
                Poll::Ready(Some(Ok(Frame::data(event.into()))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(source) if source.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(source) => source.size_hint(),
            Self::Events(..) => SizeHint::default(),
        }
    }
}

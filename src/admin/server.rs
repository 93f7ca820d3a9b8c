//! The HTTP/1 server of the admin thread: bounded in connections, in time, and in what it reads.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::body::Whole;
use super::question::{Form, Question};
use super::routes::{Admin, Routed, Surface, json_reply, told};
use crate::net::tokio_io::{TokioIo, TokioTimer};

/// Who may send a large body now.
static LARGE: Semaphore = Semaphore::const_new(1);
/// Connections at a time, per address; more wait in the kernel's queue.
const CONNECTIONS: usize = 128;
/// For the head of a request, and so for an idle connection too.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// For a connection as a whole, lest peers that do not read their answers hold them all.
const LIFETIME: Duration = Duration::from_mins(1);
/// hyper's floor; heads of probes and scrapes are far smaller.
const BUFFER: usize = 8 * 1024;
/// After a failed accept. Most are for want of file descriptors, which others may give back meanwhile.
const PAUSE: Duration = Duration::from_millis(50);

/// Serves until dropped.
pub async fn serve(listener: TcpListener, surface: Surface, admin: Arc<Admin>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut failing = false;
    // Fails only if the semaphore is closed, which nobody does.
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, peer)) => {
                failing = false;
                let admin = Arc::clone(&admin);
                tokio::spawn(async move {
                    let _place = place;
                    if timeout(LIFETIME, connection(stream, peer, surface, admin)).await.is_err() {
                        tracing::debug!(?surface, "connection was open for too long");
                    }
                });
            }
            Err(error) => {
                // Told once, not twenty times a second.
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(?surface, %error, "no connection can be accepted");
                }
                sleep(PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, surface: Surface, admin: Arc<Admin>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let admin = Arc::clone(&admin);
        async move {
            let (head, body) = request.into_parts();
            let answer = match admin.route(surface, &head) {
                Routed::Answer(answer) => answer,
                Routed::Ask(question) => asked(&admin, question, peer).await,
                Routed::Read(form) => {
                    // Large ones come one at a time. (Nobody closes the semaphore.)
                    let _turn = if form == Form::Diff { LARGE.acquire().await.ok() } else { None };
                    match read(body, form.limit()).await.and_then(|body| form.question(&body)) {
                        Ok(question) => asked(&admin, question, peer).await,
                        Err(why) => json_reply(StatusCode::BAD_REQUEST, &json!({ "error": why })),
                    }
                }
            };
            Ok::<Response<Whole>, Infallible>(answer.map(Whole::new))
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer)
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(BUFFER)
        .half_close(true)
        .serve_connection(TokioIo(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(?surface, %error, "connection");
    }
}

async fn asked(admin: &Admin, question: Question, peer: SocketAddr) -> Response<Bytes> {
    let (status, value) = admin.provider.ask(question, peer).await;
    told(status, value)
}

/// A body, up to a size. Bodies of other requests are not read: hyper closes the connection after one that is not small.
async fn read(body: Incoming, limit: usize) -> Result<Vec<u8>, String> {
    let mut body = std::pin::pin!(body);
    let mut bytes = Vec::new();
    while let Some(frame) = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        let frame = frame.map_err(|error| format!("the body broke off: {error}"))?;
        let data = frame.into_data().unwrap_or_default();
        if bytes.len() + data.len() > limit {
            return Err(format!("the body is larger than {limit} bytes"));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::super::health::Health;
    use super::super::question::Answering;
    use super::super::routes::Provider;
    use super::*;
    use crate::config::schema::Level;
    use crate::telemetry::metrics::Metrics;

    struct Nothing;

    impl Provider for Nothing {
        fn config(&self) -> Value {
            json!({})
        }
        fn config_status(&self) -> Value {
            json!({})
        }
        fn certs(&self) -> Value {
            Value::Null
        }

        fn clusters(&self) -> Value {
            json!({})
        }
        fn limits(&self) -> Value {
            json!({})
        }
        fn drain(&self) {}
        fn level(&self) -> Level {
            Level::Info
        }
        fn set_level(&self, _: Level) {}
        fn ask(&self, question: Question, _: SocketAddr) -> Answering {
            Box::pin(async move { (StatusCode::OK, json!(format!("{question:?}"))) })
        }
    }

    /// All that the server sends to a client that says this and no more.
    async fn exchange(request: &[u8]) -> String {
        let admin = Admin { health: Health::new(1), metrics: Metrics::new(1, 1000), provider: Arc::new(Nothing) };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, Surface::Health, Arc::new(admin)));
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        timeout(Duration::from_secs(20), stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        server.abort();
        answer
    }

    #[tokio::test]
    async fn answers_over_a_socket() {
        let answer = exchange(b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nok\n"), "{answer}");
    }

    #[tokio::test]
    async fn head_has_the_length_and_no_body() {
        let answer = exchange(b"HEAD /livez HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert!(answer.contains("content-length: 3\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
    }

    #[tokio::test]
    async fn garbage_and_large_heads_are_refused() {
        assert!(exchange(b"\x16\x03\x01garbage\r\n\r\n").await.starts_with("HTTP/1.1 400"));
        let large = format!("GET /livez HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "a".repeat(2 * BUFFER));
        assert!(exchange(large.as_bytes()).await.starts_with("HTTP/1.1 431"));
    }
}

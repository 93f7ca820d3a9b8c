//! The probe of the application behind us: asks it at an interval, and reports to health.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, USER_AGENT};
use http::{Request, Uri};
use hyper::client::conn::http1;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::body::Whole;
use super::health::{Component, Health, Status};
use crate::config::schema::ApplicationProbe;
use crate::net::tokio_io::TokioIo;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Probes until dropped; the component is the caller's to remove.
pub async fn run(probe: ApplicationProbe, health: Arc<Health>) {
    health.set(Component::Application, Status::Starting, "not asked yet");
    let patience = probe.interval.get().min(PATIENCE);
    let mut ticks = interval(probe.interval.get().max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let outcome = match timeout(patience, ask(&probe.http)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("no answer within {} ms", patience.as_millis())),
        };
        match outcome {
            Ok(()) => health.set(Component::Application, Status::Ok, ""),
            Err(why) => health.set(Component::Application, Status::Failed, format!("{}: {why}", probe.http)),
        }
    }
}

/// One GET on a connection of its own, as the kubelet does it.
async fn ask(url: &str) -> Result<(), String> {
    let uri: Uri = url.parse().map_err(|error| format!("{error}"))?;
    let authority = uri.authority().ok_or("no host")?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((host, authority.port_u16().unwrap_or(80))).await.map_err(text)?;
    let (mut sender, connection) = http1::handshake(TokioIo(stream)).await.map_err(text)?;
    // Ends with this function, however it ends.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let request = Request::get(uri.path_and_query().map_or("/", |path| path.as_str()))
        .header(HOST, authority.as_str())
        .header(USER_AGENT, concat!("outrigger-probe/", env!("CARGO_PKG_VERSION")))
        .header(CONNECTION, "close")
        .body(Whole::new(Bytes::new()))
        .map_err(text)?;
    let status = sender.send_request(request).await.map_err(text)?.status();
    if status.is_success() || status.is_redirection() { Ok(()) } else { Err(format!("answered {status}")) }
}

fn text(error: impl std::error::Error) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Answers one request so, and gives back its head.
    async fn served(answer: &'static str) -> (Result<(), String>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/health?a=b", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(head).unwrap()
        });
        (ask(&url).await, server.await.unwrap())
    }

    #[tokio::test]
    async fn two_hundreds_and_three_hundreds_are_healthy() {
        let (outcome, head) = served("HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!(outcome, Ok(()));
        assert!(head.starts_with("GET /health?a=b HTTP/1.1\r\n") && head.contains("connection: close\r\n"), "{head}");
        assert_eq!(served("HTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n").await.0, Ok(()));
    }

    #[tokio::test]
    async fn anything_else_is_not() {
        let (outcome, _) = served("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").await;
        assert_eq!(outcome, Err("answered 503 Service Unavailable".into()));
        assert!(served("garbage\r\n\r\n").await.0.is_err());
        assert!(ask("http://127.0.0.1:1/").await.is_err());
    }

    #[tokio::test]
    async fn the_component_follows_the_application() {
        let health = Health::new(1);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let http = format!("http://{}/", listener.local_addr().unwrap());
        let interval = crate::config::units::Duration(Duration::from_millis(20));
        let task = tokio::spawn(run(ApplicationProbe { http, interval }, Arc::clone(&health)));
        let status = |wanted: &'static str| {
            let health = Arc::clone(&health);
            async move {
                while health.report(std::time::Instant::now()).1["components"]["application"]["status"] != wanted {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        };
        // Nobody answers on the socket.
        timeout(Duration::from_secs(10), status("failed")).await.unwrap();
        let server = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                // The client may have given up on this one.
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
                let _ = stream.read(&mut [0; 1024]).await;
            }
        });
        timeout(Duration::from_secs(10), status("ok")).await.unwrap();
        task.abort();
        server.abort();
    }
}

//! Asks the admin address of a running proxy: one request on a connection of its own, bounded in time and in size.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::header::{CONNECTION, CONTENT_TYPE, HOST, USER_AGENT};
use http::{Method, Request};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use serde_json::Value;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::paint::{Format, Paint};
use super::{DEFAULT_ADMIN, REFUSED, UNREACHABLE};
use crate::admin::body::Whole;
use crate::net::tokio_io::TokioIo;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// For all of it.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of an answer.
const ANSWER_MAX: usize = 64 << 20;

/// Whom a command asks, and how it tells the answer.
#[derive(Debug, Clone, Copy, Args)]
pub struct Asked {
    /// Admin address of the proxy
    #[arg(long, value_name = "ADDR", default_value = DEFAULT_ADMIN, global = true)]
    pub admin: SocketAddr,
    #[arg(long, value_enum, default_value_t = Format::Text, global = true)]
    pub format: Format,
}

/// There is no answer: one sentence for whoever asked.
#[derive(Debug, Error)]
pub enum Unreachable {
    #[error("no proxy answers at {0} ({1}); name its admin address with --admin")]
    Connect(SocketAddr, String),
    #[error("{0} does not answer as a proxy does ({1}); name its admin address with --admin")]
    Foreign(SocketAddr, String),
    #[error("{0} did not answer within {seconds} s", seconds = TIMEOUT.as_secs())]
    Late(SocketAddr),
    #[error("the answer of {0} is larger than {mib} MiB", mib = ANSWER_MAX >> 20)]
    TooLarge(SocketAddr),
    #[error("the system gives no event loop: {0}")]
    System(io::Error),
}

/// Status and body of the answer, which has `key` where the status is 200, and a reason where it is not. Waits for it.
///
/// # Errors
/// Where there is no whole answer, or not one of a proxy. One with a bad status is none.
pub fn get(admin: SocketAddr, path: &str, key: &str) -> Result<(u16, Value), Unreachable> {
    wait(ask(admin, Method::GET, path, Bytes::new())).and_then(|answer| known(admin, answer, key))
}

/// As `get`, with JSON to say.
///
/// # Errors
/// As `get`.
pub fn post(admin: SocketAddr, path: &str, body: &Value, key: &str) -> Result<(u16, Value), Unreachable> {
    wait(ask(admin, Method::POST, path, Bytes::from(body.to_string()))).and_then(|answer| known(admin, answer, key))
}

/// Prints an answer as JSON, or as text for people; or why there is none, or that the proxy refused.
pub fn show(
    answer: Result<(u16, Value), Unreachable>,
    format: Format,
    text: impl FnOnce(&Value, Paint) -> String,
) -> ExitCode {
    let (status, answer) = match answer {
        Ok(answer) => answer,
        Err(error) => return super::fail(&error.to_string(), UNREACHABLE),
    };
    if status != 200 {
        return super::fail(answer["error"].as_str().unwrap_or("the proxy refused"), REFUSED);
    }
    super::print(&match format {
        Format::Json => format!("{answer:#}\n"),
        Format::Text => text(&answer, Paint::stdout()),
    });
    ExitCode::SUCCESS
}

/// Other web servers answer as well.
fn known(admin: SocketAddr, (status, value): (u16, Value), key: &str) -> Result<(u16, Value), Unreachable> {
    let keys = if status == 200 { &[key][..] } else { &["error", "problems"] };
    match keys.iter().any(|key| value.get(key).is_some()) {
        true => Ok((status, value)),
        false => Err(Unreachable::Foreign(admin, format!("status {status} without `{}`", keys.join("` or `")))),
    }
}

fn wait<T>(answer: impl Future<Output = Result<T, Unreachable>>) -> Result<T, Unreachable> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Unreachable::System)?;
    runtime.block_on(answer)
}

async fn ask(admin: SocketAddr, method: Method, path: &str, body: Bytes) -> Result<(u16, Value), Unreachable> {
    timeout(TIMEOUT, exchange(admin, method, path, body)).await.unwrap_or(Err(Unreachable::Late(admin)))
}

async fn exchange(admin: SocketAddr, method: Method, path: &str, body: Bytes) -> Result<(u16, Value), Unreachable> {
    let foreign = |error: &dyn std::error::Error| Unreachable::Foreign(admin, error.to_string());
    let stream = match timeout(CONNECT_TIMEOUT, TcpStream::connect(admin)).await {
        Ok(stream) => stream.map_err(|error| Unreachable::Connect(admin, error.kind().to_string()))?,
        Err(_) => return Err(Unreachable::Connect(admin, format!("none within {} s", CONNECT_TIMEOUT.as_secs()))),
    };
    let (mut sender, connection) = http1::handshake(TokioIo(stream)).await.map_err(|error| foreign(&error))?;
    // Ends with this function, however it ends.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, admin.to_string())
        .header(USER_AGENT, concat!("outrigger/", env!("CARGO_PKG_VERSION")))
        .header(CONNECTION, "close");
    if !body.is_empty() {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    let request = request.body(Whole::new(body)).map_err(|error| foreign(&error))?;
    let (head, body) = sender.send_request(request).await.map_err(|error| foreign(&error))?.into_parts();
    let bytes = match collect(body).await {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Err(Unreachable::TooLarge(admin)),
        Err(error) => return Err(foreign(&error)),
    };
    let text = || Value::String(String::from_utf8_lossy(&bytes).trim_end().to_owned());
    Ok((head.status.as_u16(), serde_json::from_slice(&bytes).unwrap_or_else(|_| text())))
}

/// None beyond `ANSWER_MAX`.
async fn collect(mut body: Incoming) -> Result<Option<Vec<u8>>, hyper::Error> {
    let mut bytes = Vec::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let Ok(data) = frame?.into_data() else { continue };
        if bytes.len() + data.len() > ANSWER_MAX {
            return Ok(None);
        }
        bytes.extend_from_slice(&data);
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;

    use serde_json::json;

    use super::*;

    /// Asks a server that says this to whatever it is asked; also what it was asked.
    fn asked<T: Send + 'static>(answer: impl Into<Vec<u8>>, ask: impl FnOnce(SocketAddr) -> T) -> (T, String) {
        let (listener, answer) = (TcpListener::bind("127.0.0.1:0").unwrap(), answer.into());
        let admin = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut heard, mut buffer) = (Vec::new(), [0; 4096]);
            while !heard.ends_with(b"\r\n\r\n") && !heard.ends_with(b"}") {
                match stream.read(&mut buffer) {
                    Ok(count @ 1..) => heard.extend_from_slice(&buffer[..count]),
                    _ => break,
                }
            }
            // Whoever has had enough leaves.
            let _ = stream.write_all(&answer);
            String::from_utf8(heard).unwrap()
        });
        (ask(admin), server.join().unwrap())
    }

    fn answer(status: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }

    #[test]
    fn an_answer_has_a_status_and_a_value() {
        let (outcome, heard) =
            asked(answer("404 Not Found", "{\"error\": \"no\"}\n"), |admin| get(admin, "/why/a?b=c", "id"));
        assert_eq!(outcome.unwrap(), (404, json!({ "error": "no" })));
        assert!(heard.starts_with("GET /why/a?b=c HTTP/1.1\r\nhost: 127.0.0.1:"), "{heard}");
        assert!(heard.contains("connection: close\r\n") && !heard.contains("content-type"), "{heard}");
    }

    #[test]
    fn what_is_no_answer_of_a_proxy_is_none() {
        for (status, body) in [("200 OK", "plain\n"), ("200 OK", "{}"), ("200 OK", "[1]"), ("404 Not Found", "<html>")]
        {
            let (outcome, _) = asked(answer(status, body), |admin| get(admin, "/", "changes"));
            assert!(matches!(outcome, Err(Unreachable::Foreign(..))), "{body}: {outcome:?}");
        }
    }

    #[test]
    fn a_post_says_json() {
        let said = answer("200 OK", "{\"b\":2}");
        let (outcome, heard) = asked(said, |admin| post(admin, "/explain", &json!({ "a": 1 }), "b"));
        assert_eq!(outcome.unwrap(), (200, json!({ "b": 2 })));
        assert!(heard.starts_with("POST /explain ") && heard.ends_with("\r\n\r\n{\"a\":1}"), "{heard}");
        assert!(heard.contains("content-type: application/json\r\ncontent-length: 7\r\n"), "{heard}");
    }

    #[test]
    fn nobody_there_is_one_sentence() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = get(free, "/", "a").unwrap_err().to_string();
        let wanted = format!("no proxy answers at {free} (connection refused); name its admin address with --admin");
        assert_eq!(error, wanted);
    }

    #[test]
    fn what_is_no_http_is_no_proxy() {
        for nonsense in ["SSH-2.0-OpenSSH_9.6\r\n", "", "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nshort"] {
            let (outcome, _) = asked(nonsense, |admin| get(admin, "/", "a"));
            assert!(matches!(outcome, Err(Unreachable::Foreign(..))), "{outcome:?}");
        }
        assert!(matches!(asked("", |admin| get(admin, "/ no path", "a")).0, Err(Unreachable::Foreign(..))));
    }

    #[test]
    fn an_answer_is_bounded() {
        let mut large = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
        large.resize(ANSWER_MAX + 4096, b' ');
        let (outcome, _) = asked(large, |admin| get(admin, "/", "a"));
        assert!(matches!(outcome, Err(Unreachable::TooLarge(_))), "{:?}", outcome.map(|(status, _)| status));
    }
}

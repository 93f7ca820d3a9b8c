//! Well-behaved HTTP/2: an upstream that records and echoes, and a client, both on the `h2` crate.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use tokio::net::{TcpListener, TcpStream};

use super::{SOON, eventually};

/// A request or a response, whole.
#[derive(Debug, Clone)]
pub struct Whole<Head> {
    pub head: Head,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
    /// Code of the reset that ended it.
    pub reset: Option<h2::Reason>,
}

/// A head, a body and trailers.
pub type Answer = (Response<()>, Vec<u8>, Option<HeaderMap>);

type Seen = Arc<Mutex<Vec<Whole<http::request::Parts>>>>;

pub struct H2Origin {
    pub addr: SocketAddr,
    seen: Seen,
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

async fn collect(mut body: h2::RecvStream) -> (Vec<u8>, Option<HeaderMap>, Option<h2::Reason>) {
    let mut bytes = Vec::new();
    while let Some(chunk) = body.data().await {
        match chunk {
            Ok(chunk) => {
                let _ = body.flow_control().release_capacity(chunk.len());
                bytes.extend_from_slice(&chunk);
            }
            Err(error) => return (bytes, None, Some(error.reason().unwrap_or(h2::Reason::INTERNAL_ERROR))),
        }
    }
    match body.trailers().await {
        Ok(trailers) => (bytes, trailers, None),
        Err(error) => (bytes, None, Some(error.reason().unwrap_or(h2::Reason::INTERNAL_ERROR))),
    }
}

/// Sends all of it as the window opens.
async fn send_all(
    stream: &mut h2::SendStream<Bytes>,
    body: &[u8],
    trailers: Option<HeaderMap>,
) -> Result<(), h2::Error> {
    let mut rest = Bytes::copy_from_slice(body);
    while !rest.is_empty() {
        stream.reserve_capacity(rest.len());
        let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
        let room = room.unwrap_or(Ok(0))?;
        let part = rest.split_to(room.min(rest.len()));
        stream.send_data(part, rest.is_empty() && trailers.is_none())?;
    }
    match trailers {
        Some(trailers) => stream.send_trailers(trailers),
        None if body.is_empty() => stream.send_data(Bytes::new(), true),
        None => Ok(()),
    }
}

impl H2Origin {
    /// Answers 200 with the body and the trailers of the request.
    pub fn echo() -> Self {
        Self::start(|seen| (Response::new(()), seen.body.clone(), seen.trailers.clone()))
    }

    /// Answers every request that has come as a whole.
    pub fn start(answer: impl Fn(&Whole<http::request::Parts>) -> Answer + Send + Sync + 'static) -> Self {
        let answer = Arc::new(answer);
        let seen = Seen::default();
        let record = Arc::clone(&seen);
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            runtime().block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind an origin");
                tell.send(listener.local_addr().expect("address")).expect("tell the address");
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(serve(stream, Arc::clone(&record), answer.clone()));
                }
            });
        });
        Self { addr: told.recv().expect("address of the origin"), seen }
    }

    pub fn seen(&self) -> Vec<Whole<http::request::Parts>> {
        self.seen.lock().expect("seen").clone()
    }

    pub fn last(&self) -> Whole<http::request::Parts> {
        eventually("a request at the origin", SOON, || self.seen().pop())
    }
}

async fn serve(
    stream: TcpStream,
    seen: Seen,
    answer: Arc<impl Fn(&Whole<http::request::Parts>) -> Answer + Send + Sync + 'static>,
) {
    let _ = stream.set_nodelay(true);
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
        tokio::spawn(async move {
            let (head, body) = request.into_parts();
            let (body, trailers, reset) = collect(body).await;
            let whole = Whole { head, body, trailers, reset };
            seen.lock().expect("seen").push(whole.clone());
            if reset.is_none() {
                let (head, body, trailers) = answer(&whole);
                let bare = body.is_empty() && trailers.is_none();
                let Ok(mut stream) = respond.send_response(head, bare) else { return };
                if !bare {
                    let _ = send_all(&mut stream, &body, trailers).await;
                }
            }
        });
    }
}

/// Sends one request on a connection of its own and waits for the whole answer.
pub fn call(
    addr: SocketAddr,
    request: Request<()>,
    body: &[u8],
    trailers: Option<HeaderMap>,
) -> Result<Whole<http::response::Parts>, h2::Error> {
    runtime().block_on(async {
        let work = async {
            let stream = TcpStream::connect(addr).await.expect("connect");
            let _ = stream.set_nodelay(true);
            let (client, connection) = h2::client::handshake(stream).await?;
            tokio::spawn(connection);
            let mut client = client.ready().await?;
            let bare = body.is_empty() && trailers.is_none();
            let (response, mut stream) = client.send_request(request, bare)?;
            if !bare {
                let body = body.to_vec();
                tokio::spawn(async move { send_all(&mut stream, &body, trailers).await });
            }
            let (head, body) = response.await?.into_parts();
            let (body, trailers, reset) = collect(body).await;
            Ok(Whole { head, body, trailers, reset })
        };
        tokio::time::timeout(SOON, work).await.expect("an answer in time")
    })
}

/// A request with its headers, to `http://app.test`.
pub fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> Request<()> {
    let builder = Request::builder().method(method).uri(format!("http://app.test{path}"));
    headers.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value)).body(()).expect("a request")
}

/// A connection that sends one request after the other.
pub struct H2Client {
    runtime: tokio::runtime::Runtime,
    sender: h2::client::SendRequest<Bytes>,
}

/// How a request of `H2Client` failed.
#[derive(Debug)]
pub enum Lost {
    /// The connection takes no more, and the request was not sent or not looked at.
    Unsent,
    Sent(h2::Error),
}

/// A stream above the last one of a GOAWAY was not looked at (RFC 9113, section 6.8): `h2` may have had it in its
/// queue when the GOAWAY came, and every client sends it again.
fn lost(error: h2::Error) -> Lost {
    let unseen = error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR);
    if unseen { Lost::Unsent } else { Lost::Sent(error) }
}

impl H2Client {
    pub fn connect(addr: SocketAddr) -> std::io::Result<Self> {
        let runtime = runtime();
        let sender = runtime.block_on(async {
            let stream = TcpStream::connect(addr).await?;
            let _ = stream.set_nodelay(true);
            let (sender, connection) = h2::client::handshake(stream).await.map_err(std::io::Error::other)?;
            tokio::spawn(connection);
            Ok::<_, std::io::Error>(sender)
        })?;
        Ok(Self { runtime, sender })
    }

    pub fn get(&mut self, path: &str) -> Result<Whole<http::response::Parts>, Lost> {
        self.send(request("GET", path, &[]))
    }

    pub fn send(&mut self, request: Request<()>) -> Result<Whole<http::response::Parts>, Lost> {
        let Self { runtime, sender } = self;
        let work = async {
            let mut ready = sender.clone().ready().await.map_err(|_| Lost::Unsent)?;
            let (response, _) = ready.send_request(request, true).map_err(|_| Lost::Unsent)?;
            let (head, body) = response.await.map_err(lost)?.into_parts();
            let (body, trailers, reset) = collect(body).await;
            Ok(Whole { head, body, trailers, reset })
        };
        runtime.block_on(async { tokio::time::timeout(SOON, work).await.expect("an answer in time") })
    }
}

//! The traffic of the demo: a few requests a second through the proxy, and one line that says what became of them.

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::{Duration, Instant};

use http::header::{HOST, USER_AGENT};
use http::{Request, StatusCode};
use http_body::Body;
use hyper::client::conn::http1::{self, SendRequest};
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};

use super::{note, say};
use crate::body::Source;
use crate::net::tokio_io::TokioIo;

/// Between two requests.
const PACE: Duration = Duration::from_millis(50);
/// What the line tells of.
const WINDOW: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two lines: refreshed in place on a terminal, one below the other in a file.
const REFRESH: Duration = Duration::from_secs(1);
const REPEAT: Duration = Duration::from_secs(5);

/// Waits until the proxy accepts.
pub async fn reachable(proxy: SocketAddr) {
    while TcpStream::connect(proxy).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Sends, and tells, until the process is told to stop or the proxy accepts no more.
pub async fn run(proxy: SocketAddr) {
    let signals = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    let (Ok(mut interrupt), Ok(mut terminate)) = signals else { return };
    tokio::select! {
        () = send_and_tell(proxy) => {}
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    note("Stopping: no more requests from the demo.");
}

async fn send_and_tell(proxy: SocketAddr) {
    let in_place = io::stdout().is_terminal();
    let mut tally = Tally { began: Instant::now(), recent: VecDeque::new(), errors: 0 };
    let mut client = Client { proxy, sender: None };
    let mut pace = tokio::time::interval(PACE);
    let mut told = Instant::now();
    loop {
        pace.tick().await;
        let start = Instant::now();
        let version = match tokio::time::timeout(PATIENCE, client.ask()).await {
            Ok(Ok(version)) => Some(version),
            Ok(Err(Failure::Gone)) => return,
            Ok(Err(Failure::Request)) | Err(_) => None,
        };
        tally.add(Outcome { at: start, version, latency: start.elapsed() });
        if told.elapsed() >= if in_place { REFRESH } else { REPEAT } {
            told = Instant::now();
            // The cursor goes back to the start of the line: whatever is logged takes its place.
            say(&if in_place { format!("\x1b[2K{}\r", tally.line()) } else { format!("{}\n", tally.line()) });
        }
    }
}

struct Outcome {
    at: Instant,
    /// None where there was no good answer.
    version: Option<String>,
    latency: Duration,
}

struct Tally {
    began: Instant,
    recent: VecDeque<Outcome>,
    /// Since the beginning.
    errors: u64,
}

impl Tally {
    fn add(&mut self, outcome: Outcome) {
        self.errors += u64::from(outcome.version.is_none());
        self.recent.push_back(outcome);
        while self.recent.front().is_some_and(|oldest| oldest.at.elapsed() > WINDOW) {
            self.recent.pop_front();
        }
    }

    fn line(&self) -> String {
        let mut shares: BTreeMap<&str, u32> = BTreeMap::new();
        for version in self.recent.iter().filter_map(|outcome| outcome.version.as_deref()) {
            *shares.entry(version).or_default() += 1;
        }
        let good: u32 = shares.values().sum();
        let shares: String = shares
            .iter()
            .map(|(version, count)| {
                format!("   {version} {:3.0} %", f64::from(*count) / f64::from(good.max(1)) * 100.0)
            })
            .collect();
        let mut latencies: Vec<Duration> = self.recent.iter().map(|outcome| outcome.latency).collect();
        latencies.sort();
        let median = latencies.get(latencies.len() / 2).copied().unwrap_or_default().as_secs_f64() * 1000.0;
        let seconds = self.began.elapsed().min(WINDOW).as_secs_f64();
        let rate = self.recent.len() as f64 / seconds.max(0.001);
        format!("{rate:5.1} requests/s{shares}   p50 {median:.2} ms   errors {}", self.errors)
    }
}

enum Failure {
    /// Nobody listens any more.
    Gone,
    Request,
}

/// One keep-alive connection to the proxy, made anew when it has closed.
struct Client {
    proxy: SocketAddr,
    sender: Option<SendRequest<Source>>,
}

impl Client {
    /// Asks once; the version that answered.
    async fn ask(&mut self) -> Result<String, Failure> {
        let mut sender = match self.sender.take().filter(|sender| !sender.is_closed()) {
            Some(sender) => sender,
            None => self.connect().await?,
        };
        sender.ready().await.map_err(|_| Failure::Request)?;
        let request = Request::get("/reviews/7")
            .header(HOST, self.proxy.to_string())
            .header(USER_AGENT, "outrigger-demo")
            .body(Source::Empty)
            .map_err(|_| Failure::Request)?;
        let response = sender.send_request(request).await.map_err(|_| Failure::Request)?;
        let (parts, mut body) = response.into_parts();
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            frame.map_err(|_| Failure::Request)?;
        }
        self.sender = Some(sender);
        if parts.status != StatusCode::OK {
            return Err(Failure::Request);
        }
        let version = parts.headers.get("x-version").and_then(|version| version.to_str().ok());
        Ok(version.unwrap_or("?").to_owned())
    }

    async fn connect(&self) -> Result<SendRequest<Source>, Failure> {
        let stream = TcpStream::connect(self.proxy).await.map_err(|error| match error.kind() {
            io::ErrorKind::ConnectionRefused => Failure::Gone,
            _ => Failure::Request,
        })?;
        let (sender, connection) = http1::handshake(TokioIo(stream)).await.map_err(|_| Failure::Request)?;
        tokio::spawn(connection);
        Ok(sender)
    }
}

//! The access log: which exchanges get a line, and the way of that line to standard output.
//!
//! A worker formats its line and puts it into a bounded queue; one thread writes them in batches. A slow reader of
//! standard output costs lines, which are counted, and never a worker's time.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use std::{io, thread};

use arc_swap::ArcSwap;
use rand::Rng;

use super::line;
use super::metrics::Metrics;
use crate::config::schema::{self, AccessFormat};
use crate::error::{Producer, Reason};
use crate::wire::address::Address;

/// Lines that may wait for the writer.
const QUEUE: usize = 4096;
/// Bytes written at once, more or less.
const BATCH: usize = 64 * 1024;

/// Facts of one exchange. Bytes that came from a peer are escaped when they are written.
#[derive(Debug, Clone)]
pub struct Entry<'a> {
    /// When it began.
    pub time: SystemTime,
    pub listener: &'a str,
    pub route: &'a str,
    pub service: &'a str,
    pub subset: &'a str,
    /// The endpoint that was tried last.
    pub endpoint: Option<&'a Address>,
    /// Empty for TCP, as are host, path, user agent and request id.
    pub method: &'a str,
    pub host: &'a [u8],
    /// With its query.
    pub path: &'a [u8],
    /// `HTTP/1.1`, `HTTP/2`, `TCP`.
    pub protocol: &'a str,
    /// 0 where there was none.
    pub status: u16,
    pub grpc_status: Option<u8>,
    pub reason: Reason,
    /// The entry of `authorization` that denied it; empty where none did.
    pub authorization: &'a str,
    /// Who made the answer.
    pub producer: Producer,
    /// Why, in the words of the proxy between us and the service that made it.
    pub peer_reason: &'a str,
    /// The limit that refused it; empty where none did.
    pub limit: &'a str,
    /// Whose circuit breaker did not let it pass; empty where all did.
    pub circuit: &'a str,
    /// Faults on purpose that it has met; empty where none.
    pub fault: &'a str,
    pub duration: Duration,
    /// From the request being sent upstream to the head of the answer.
    pub upstream_duration: Option<Duration>,
    pub request_bytes: u64,
    pub response_bytes: u64,
    pub peer: &'a Address,
    /// Who the client has proven to be; empty where nobody.
    pub peer_identity: &'a str,
    /// `TLSv1.3`; empty for plaintext, and for TLS that is not with us.
    pub tls_version: &'a str,
    /// Whom the client asked for in its handshake (SNI).
    pub server_name: &'a str,
    pub request_id: &'a [u8],
    /// 0 is none, as in W3C Trace Context.
    pub trace_id: u128,
    pub span_id: u64,
    pub user_agent: &'a [u8],
    pub attempts: u32,
    pub attributes: &'a [(&'a str, &'a [u8])],
}

/// The log of the process; shared by the workers.
pub struct AccessLog {
    settings: ArcSwap<Settings>,
    /// Time at which the budget of lines will be whole again, in nanoseconds since `start` (GCRA).
    spent_until: AtomicU64,
    start: Instant,
    /// `None` once closed.
    writer: Mutex<Option<thread::JoinHandle<()>>>,
    sender: SyncSender<Message>,
    metrics: Arc<Metrics>,
}

enum Message {
    Line(Vec<u8>),
    Close,
}

struct Settings {
    log: schema::AccessLog,
    workload: schema::Workload,
}

impl AccessLog {
    pub fn stdout(
        log: &schema::AccessLog,
        workload: &schema::Workload,
        metrics: Arc<Metrics>,
    ) -> io::Result<Arc<Self>> {
        Self::to(io::stdout(), log, workload, metrics)
    }

    pub fn to(
        writer: impl Write + Send + 'static,
        log: &schema::AccessLog,
        workload: &schema::Workload,
        metrics: Arc<Metrics>,
    ) -> io::Result<Arc<Self>> {
        let (sender, receiver) = sync_channel(QUEUE);
        let counted = Arc::clone(&metrics);
        let thread =
            thread::Builder::new().name("access-log".into()).spawn(move || drain(receiver, writer, &counted))?;
        Ok(Arc::new(Self {
            settings: ArcSwap::from_pointee(Settings { log: log.clone(), workload: workload.clone() }),
            spent_until: AtomicU64::new(0),
            start: Instant::now(),
            writer: Mutex::new(Some(thread)),
            sender,
            metrics,
        }))
    }

    /// Takes effect with the next line.
    pub fn configure(&self, log: &schema::AccessLog, workload: &schema::Workload) {
        self.settings.store(Arc::new(Settings { log: log.clone(), workload: workload.clone() }));
    }

    /// Whether this exchange gets a line. Counts against the lines a second if so.
    pub fn wants(&self, failed: bool, now: Instant, rng: &mut impl Rng) -> bool {
        let settings = self.settings.load();
        let sample = &settings.log.sample;
        let percent = if failed { sample.errors } else { sample.others };
        if settings.log.format == AccessFormat::Off || !drawn(percent, rng) {
            return false;
        }
        let granted = self.grant(sample.max_per_second, now);
        if !granted {
            self.metrics.process.access_log_limited.inc();
        }
        granted
    }

    /// Never waits: a line for which the queue has no room is dropped and counted.
    pub fn write(&self, entry: &Entry<'_>) {
        let settings = self.settings.load();
        let mut line = Vec::with_capacity(768);
        match settings.log.format {
            AccessFormat::Json => line::json(&mut line, entry, &settings.workload),
            AccessFormat::Text => line::text(&mut line, entry),
            AccessFormat::Off => return,
        }
        line.push(b'\n');
        if self.sender.try_send(Message::Line(line)).is_err() {
            self.metrics.process.access_log_dropped.inc();
        }
    }

    /// Writes what is queued, for as long as `within`, and ends the writer. Blocks: for the end of the process.
    pub fn close(&self, within: Duration) {
        let deadline = Instant::now() + within;
        let Some(thread) = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        while let Err(TrySendError::Full(_)) = self.sender.try_send(Message::Close)
            && Instant::now() < deadline
        {
            thread::sleep(Duration::from_millis(1));
        }
        while !thread.is_finished() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// GCRA with a burst of one second: every line moves the time at which the budget is whole by its share of a second.
    fn grant(&self, per_second: u32, now: Instant) -> bool {
        const SECOND: u64 = 1_000_000_000;
        if per_second == 0 {
            return true;
        }
        let share = SECOND / u64::from(per_second);
        let now = super::histogram::nanos(now.saturating_duration_since(self.start));
        let step = |until: u64| {
            let until = until.max(now) + share;
            (until <= now + SECOND).then_some(until)
        };
        self.spent_until.fetch_update(Relaxed, Relaxed, step).is_ok()
    }
}

/// Draws only where there is something to draw.
fn drawn(percent: f64, rng: &mut impl Rng) -> bool {
    percent >= 100.0 || (percent > 0.0 && rng.random::<f64>() * 100.0 < percent)
}

/// The writer's thread: takes what is there, writes it at once, and waits only when nothing is.
fn drain(queue: Receiver<Message>, mut writer: impl Write, metrics: &Metrics) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut open = true;
    while open && let Ok(first) = queue.recv() {
        let mut lines = 0;
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Line(line) => {
                    batch.extend_from_slice(&line);
                    lines += 1;
                }
                Message::Close => open = false,
            }
            next = if open && batch.len() < BATCH { queue.try_recv().ok() } else { None };
        }
        if writer.write_all(&batch).and_then(|()| writer.flush()).is_err() {
            metrics.process.access_log_dropped.add(lines);
        }
        batch.clear();
    }
}

#[cfg(test)]
mod tests;

//! An upstream that misbehaves on command.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use super::Origin;
use super::origin::Next;

pub struct Moody {
    pub origin: Origin,
    mood: Arc<Mood>,
}

struct Mood {
    status: AtomicU16,
    /// Of `/healthz`.
    health: AtomicU16,
    /// Of every so manieth request only; 0 is of all.
    every: AtomicUsize,
    delay: AtomicU64,
    count: AtomicUsize,
}

impl Moody {
    /// Answers `200 name`, until told otherwise.
    pub fn new(name: &'static str) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").expect("bind an origin"), name)
    }

    pub fn on(listener: TcpListener, name: &'static str) -> Self {
        let mood = Arc::new(Mood {
            status: AtomicU16::new(200),
            health: AtomicU16::new(200),
            every: AtomicUsize::new(1),
            delay: AtomicU64::new(0),
            count: AtomicUsize::new(0),
        });
        let now = mood.clone();
        let origin = Origin::start_on(listener, move |seen, conn| {
            let (status, delay) = now.next(seen.message.head.start_line().contains(" /healthz"));
            std::thread::sleep(delay);
            let reply = format!("HTTP/1.1 {status} Moody\r\nContent-Length: {}\r\n\r\n{name}", name.len());
            if conn.try_write(reply) { Next::Keep } else { Next::Close }
        });
        Self { origin, mood }
    }

    pub fn addr(&self) -> SocketAddr {
        self.origin.addr()
    }

    pub fn status(&self, status: u16) {
        self.mood.status.store(status, Ordering::SeqCst);
    }

    /// Fails one of so many.
    pub fn every(&self, every: usize) {
        self.mood.every.store(every, Ordering::SeqCst);
    }

    pub fn health(&self, status: u16) {
        self.mood.health.store(status, Ordering::SeqCst);
    }

    pub fn delay(&self, delay: Duration) {
        self.mood.delay.store(delay.as_millis() as u64, Ordering::SeqCst);
    }

    /// Requests other than checks.
    pub fn served(&self) -> usize {
        self.mood.count.load(Ordering::SeqCst)
    }
}

impl Mood {
    fn next(&self, check: bool) -> (u16, Duration) {
        if check {
            return (self.health.load(Ordering::SeqCst), Duration::ZERO);
        }
        let number = self.count.fetch_add(1, Ordering::SeqCst);
        let bad = number.is_multiple_of(self.every.load(Ordering::SeqCst));
        let status = if bad { self.status.load(Ordering::SeqCst) } else { 200 };
        (status, Duration::from_millis(self.delay.load(Ordering::SeqCst)))
    }
}

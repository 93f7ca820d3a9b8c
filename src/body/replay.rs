//! A request body that can be sent again: its frames are shared, not copied, as long as they are not more than a limit.
//! Beyond it they are handed on and forgotten.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::Error;

#[derive(Debug)]
pub struct Replay {
    source: RefCell<Incoming>,
    kept: RefCell<Vec<Bytes>>,
    trailers: RefCell<Option<HeaderMap>>,
    size: Cell<u64>,
    limit: u64,
    /// More has come than is kept, or it broke off.
    lost: Cell<bool>,
    ended: Cell<bool>,
    /// Of the one who may read on: whoever came before is over.
    turn: Cell<u32>,
    hint: SizeHint,
}

/// One reading of it, from the beginning.
#[derive(Debug)]
pub struct Reading {
    replay: Rc<Replay>,
    turn: u32,
    next: usize,
    sent: u64,
    done: bool,
}

impl Replay {
    pub fn new(source: Incoming, limit: u64) -> Rc<Self> {
        Rc::new(Self {
            hint: source.size_hint(),
            // What is known to be too large is not kept at all.
            lost: Cell::new(source.size_hint().lower() > limit),
            source: RefCell::new(source),
            kept: RefCell::default(),
            trailers: RefCell::default(),
            size: Cell::new(0),
            limit,
            ended: Cell::new(false),
            turn: Cell::new(0),
        })
    }

    /// Whether all that came can be read again.
    pub fn is_there(&self) -> bool {
        !self.lost.get()
    }

    /// Whether it has come as a whole, so that it can be read more than once at a time.
    pub fn is_whole(&self) -> bool {
        self.is_there() && self.ended.get()
    }

    /// From the beginning. As long as it is not whole, a reading ends those before it.
    pub fn read(self: &Rc<Self>) -> Reading {
        self.turn.set(self.turn.get() + 1);
        Reading { replay: self.clone(), turn: self.turn.get(), next: 0, sent: 0, done: false }
    }

    fn poll_source(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let polled = Pin::new(&mut *self.source.borrow_mut()).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => self.keep(frame),
            Poll::Ready(Some(Err(_))) => self.lost.set(true),
            Poll::Ready(None) => self.ended.set(true),
            Poll::Pending => {}
        }
        // Known without asking again, so that an answer that comes at once finds it whole.
        self.ended.set(self.ended.get() || self.source.borrow().is_end_stream());
        polled.map_err(Error::Wire)
    }

    fn keep(&self, frame: &Frame<Bytes>) {
        if self.lost.get() {
            return;
        }
        if let Some(trailers) = frame.trailers_ref() {
            *self.trailers.borrow_mut() = Some(trailers.clone());
            self.ended.set(true);
        } else if let Some(data) = frame.data_ref() {
            self.size.set(self.size.get() + data.len() as u64);
            if self.size.get() > self.limit {
                self.lost.set(true);
                self.kept.take();
            } else {
                self.kept.borrow_mut().push(data.clone());
            }
        }
    }
}

impl Reading {
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if self.done {
            return Poll::Ready(None);
        }
        if let Some(data) = self.replay.kept.borrow().get(self.next) {
            self.next += 1;
            self.sent += data.len() as u64;
            return Poll::Ready(Some(Ok(Frame::data(data.clone()))));
        }
        if self.replay.is_whole() {
            self.done = true;
            return Poll::Ready(self.replay.trailers.borrow().clone().map(|trailers| Ok(Frame::trailers(trailers))));
        }
        if self.turn != self.replay.turn.get() {
            return Poll::Ready(Some(Err(Error::Stopped)));
        }
        let polled = self.replay.poll_source(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                self.next += 1;
                self.sent += frame.data_ref().map_or(0, |data| data.len() as u64);
                self.done = frame.is_trailers();
            }
            Poll::Ready(_) => self.done = true,
            Poll::Pending => {}
        }
        polled
    }

    pub fn is_end_stream(&self) -> bool {
        let kept = || self.next >= self.replay.kept.borrow().len();
        self.done || self.replay.ended.get() && self.replay.trailers.borrow().is_none() && kept()
    }

    pub fn size_hint(&self) -> SizeHint {
        match self.replay.hint.exact() {
            Some(length) => SizeHint::with_exact(length.saturating_sub(self.sent)),
            None => SizeHint::default(),
        }
    }
}

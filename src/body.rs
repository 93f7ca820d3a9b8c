//! Message bodies: frames are handed on as they come, never gathered, but for what is kept to be sent again (`replay`).

mod replay;

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;

pub use self::replay::{Reading, Replay};
use crate::net::clock;
use crate::net::io::Activity;

/// Where the bytes come from.
#[derive(Debug)]
pub enum Source {
    Empty,
    Full(Bytes),
    Wire(Incoming),
    /// With a frame that was looked at before.
    Ahead(Box<(Option<Frame<Bytes>>, Incoming)>),
}

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Wire(#[from] hyper::Error),
    #[error("the body is larger than the route allows")]
    TooLarge,
    #[error("the answer was whole before the body was")]
    Stopped,
}

impl http_body::Body for Source {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Self::Empty;
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Self::Wire(incoming) => Pin::new(incoming).poll_frame(cx).map_err(Error::Wire),
            Self::Ahead(both) => match both.0.take() {
                Some(frame) => Poll::Ready(Some(Ok(frame))),
                None => Pin::new(&mut both.1).poll_frame(cx).map_err(Error::Wire),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_empty(),
            Self::Wire(incoming) => incoming.is_end_stream(),
            Self::Ahead(both) => both.0.is_none() && both.1.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Wire(incoming) => incoming.size_hint(),
            Self::Ahead(..) => SizeHint::default(),
        }
    }
}

/// What is known of an upload while it runs; shared by the body, which the upstream connection owns, and the exchange.
#[derive(Debug, Default)]
pub struct Progress {
    pub bytes: Cell<u64>,
    pub ended: Cell<bool>,
    pub too_large: Cell<bool>,
    stopped: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Progress {
    /// It is sent again, from the beginning.
    pub fn begin_again(&self) {
        self.bytes.set(0);
        self.ended.set(false);
        self.stopped.set(false);
    }

    /// The answer is whole: nobody needs the rest of the upload (RFC 9113, section 8.1).
    pub fn stop(&self) {
        self.stopped.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// Where an upload comes from.
#[derive(Debug)]
pub enum Origin {
    Once(Source),
    Kept(Reading),
}

impl Origin {
    fn is_end_stream(&self) -> bool {
        match self {
            Self::Once(source) => http_body::Body::is_end_stream(source),
            Self::Kept(reading) => reading.is_end_stream(),
        }
    }
}

/// A request body on its way upstream: counted, and cut where it grows beyond its limit.
pub struct Upload {
    origin: Origin,
    limit: u64,
    sent: u64,
    progress: Option<Rc<Progress>>,
    /// The stream's own watch, told of each frame.
    watch: Option<Rc<Activity>>,
    /// Keeps what goes by.
    tee: Option<Tee>,
    /// Whatever has to live as long as the body.
    _held: Option<Rc<dyn Any>>,
}

/// Keeps a body that goes by, up to a limit, and hands it over once, when it is whole or never will be. The bytes are
/// shared, and the body does not wait.
pub struct Tee {
    frames: Vec<Bytes>,
    size: usize,
    limit: usize,
    then: Option<Box<dyn FnOnce(Teed)>>,
}

/// What became of a body that was to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Teed {
    Whole(Bytes),
    TooLarge,
    Unfinished,
}

impl Tee {
    pub fn new(limit: usize, then: impl FnOnce(Teed) + 'static) -> Self {
        Self { frames: Vec::new(), size: 0, limit, then: Some(Box::new(then)) }
    }

    pub fn data(&mut self, data: &Bytes) {
        if self.then.is_none() {
            return;
        }
        self.size += data.len();
        if self.size > self.limit {
            return self.end(Teed::TooLarge);
        }
        self.frames.push(data.clone());
    }

    pub fn whole(&mut self) {
        let mut frames = std::mem::take(&mut self.frames);
        let whole = if frames.len() == 1 { frames.pop().unwrap_or_default() } else { frames.concat().into() };
        self.end(Teed::Whole(whole));
    }

    fn end(&mut self, teed: Teed) {
        self.frames = Vec::new();
        if let Some(then) = self.then.take() {
            then(teed);
        }
    }
}

impl Drop for Tee {
    fn drop(&mut self) {
        self.end(Teed::Unfinished);
    }
}

impl Upload {
    pub fn empty() -> Self {
        Self::full(Bytes::new())
    }

    /// A body that is there.
    pub fn full(body: Bytes) -> Self {
        let origin = Origin::Once(Source::Full(body));
        Self { origin, limit: u64::MAX, sent: 0, progress: None, watch: None, tee: None, _held: None }
    }

    pub fn tee(&mut self, tee: Tee) {
        self.tee = Some(tee);
    }

    pub fn new(
        origin: Origin,
        limit: Option<u64>,
        progress: Rc<Progress>,
        watch: Option<Rc<Activity>>,
        held: Rc<dyn Any>,
    ) -> Self {
        let limit = limit.unwrap_or(u64::MAX);
        Self { origin, limit, sent: 0, progress: Some(progress), watch, tee: None, _held: Some(held) }
    }
}

impl http_body::Body for Upload {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        // By its fields.
        let this = self.get_mut();
        if this.progress.as_ref().is_some_and(|progress| progress.stopped.get()) {
            return Poll::Ready(Some(Err(Error::Stopped)));
        }
        let polled = match &mut this.origin {
            Origin::Once(source) => Pin::new(source).poll_frame(cx),
            Origin::Kept(reading) => reading.poll_frame(cx),
        };
        let Some(progress) = &this.progress else { return polled };
        if polled.is_pending() {
            *progress.waker.borrow_mut() = Some(cx.waker().clone());
        }
        if let Some(watch) = &this.watch
            && polled.is_ready()
        {
            watch.moved.set(clock::recent());
        }
        match polled {
            Poll::Ready(Some(Ok(mut frame))) => {
                if let Some(data) = frame.data_ref() {
                    let sent = this.sent + data.len() as u64;
                    this.sent = sent;
                    // Of two at a time, what the one has sent is not the other's as well.
                    progress.bytes.set(progress.bytes.get().max(sent));
                    if sent > this.limit {
                        progress.too_large.set(true);
                        return Poll::Ready(Some(Err(Error::TooLarge)));
                    }
                    if let Some(tee) = &mut this.tee {
                        tee.data(data);
                        // Who sends it may not ask for its end.
                        if this.origin.is_end_stream() {
                            tee.whole();
                        }
                    }
                } else if let Some(trailers) = frame.trailers_mut() {
                    crate::wire::head::clean_trailers(trailers);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                progress.ended.set(true);
                this.tee.iter_mut().for_each(Tee::whole);
                Poll::Ready(None)
            }
            other => other,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.origin.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.origin {
            Origin::Once(source) => source.size_hint(),
            Origin::Kept(reading) => reading.size_hint(),
        }
    }
}

//! Answers of copies, held against those of the service itself. Whichever comes last compares.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::response;

use super::record::Record;
use super::tracked::End;
use crate::body::{Tee, Teed};
use crate::policy::differ::{self, Answer, Example};
use crate::snapshot::traffic::Comparison;
use crate::telemetry::mirrored::Mirrored;
use crate::worker::View;

/// One request, and two answers to it.
pub struct Pair {
    view: Rc<View>,
    /// Numbers of the route and of its mirror.
    of: (usize, usize),
    mirrored: Arc<Mirrored>,
    /// Both are of the service itself.
    pub noise: bool,
    example: RefCell<Example>,
    own: RefCell<Option<Answer>>,
    copy: RefCell<Option<Answer>>,
    done: Cell<bool>,
}

impl Pair {
    pub fn new(record: &Record, of: (usize, usize), mirrored: Arc<Mirrored>, noise: bool) -> Rc<Self> {
        Rc::new(Self {
            view: record.view.clone(),
            of,
            mirrored,
            noise,
            example: RefCell::new(record.example()),
            own: RefCell::default(),
            copy: RefCell::default(),
            done: Cell::new(false),
        })
    }

    pub fn comparison(&self) -> Option<&Comparison> {
        let (route, mirror) = self.of;
        self.view.snapshot.routes.get(route)?.mirrors.get(mirror)?.compare.as_ref()
    }

    pub fn copied(&self, answer: Answer) {
        *self.copy.borrow_mut() = Some(answer);
        self.compare();
    }

    fn answered(&self, answer: Answer) {
        if self.comparison().is_some_and(|comparison| answer.body.len() <= comparison.max_body) {
            *self.own.borrow_mut() = Some(answer);
            self.compare();
        }
    }

    fn compare(&self) {
        let (own, copy) = (self.own.borrow(), self.copy.borrow());
        let (Some(own), Some(copy), Some(comparison)) = (&*own, &*copy, self.comparison()) else { return };
        self.done.set(true);
        let differs_in = differ::differences(&comparison.rule, own, copy);
        let mut report = self.mirrored.report();
        if self.noise {
            // One that failed and one that did not: what they differ in is no noise.
            return if own.status == copy.status { report.learn(differs_in) } else { report.uncompared += 1 };
        }
        report.add(differs_in, |differs_in| Example {
            statuses: (own.status.as_u16(), copy.status.as_u16()),
            differs_in,
            ..self.example.take()
        });
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        if !self.done.get() {
            self.mirrored.report().uncompared += 1;
        }
    }
}

/// The service itself has answered: its body is kept as it goes by.
pub fn begin(end: &mut End, parts: &response::Parts) {
    let pairs = std::mem::take(&mut end.compared);
    let Some(limit) = pairs.iter().filter_map(|pair| Some(pair.comparison()?.max_body)).max() else { return };
    let (status, headers) = (parts.status, parts.headers.clone());
    end.watched = Some(Box::new(Tee::new(limit, move |teed| {
        let Teed::Whole(body) = teed else { return };
        for pair in pairs {
            let (headers, body): (_, Bytes) = (headers.clone(), body.clone());
            pair.answered(Answer { status, headers, body });
        }
    })));
}

//! Requests that wait for a connection or a stream of one endpoint: first come, first served, and bounded.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use tokio::sync::oneshot;

use crate::error::Reason;

/// What those in front are told: look again, or give up for this reason.
type Word = Result<(), Reason>;

#[derive(Debug, Default)]
pub struct Queue {
    waiting: RefCell<VecDeque<oneshot::Sender<Word>>>,
    /// Told to look again, which they have not done yet.
    called: Cell<usize>,
}

impl Queue {
    pub fn len(&self) -> usize {
        self.waiting.borrow().iter().filter(|waiter| !waiter.is_closed()).count()
    }

    /// Somebody waits, and has not left.
    pub fn is_wanted(&self) -> bool {
        self.waiting.borrow().iter().any(|waiter| !waiter.is_closed())
    }

    /// Waits until there may be something to have.
    pub async fn wait(&self, max: usize) -> Word {
        let receiver = {
            let mut waiting = self.waiting.borrow_mut();
            // Those who have left make room.
            waiting.retain(|waiter| !waiter.is_closed());
            if waiting.len() >= max {
                return Err(Reason::Overflow);
            }
            let (sender, receiver) = oneshot::channel();
            waiting.push_back(sender);
            receiver
        };
        let mut ticket = Ticket { queue: self, receiver, used: false };
        let word = (&mut ticket.receiver).await;
        ticket.used = true;
        self.heard(word == Ok(Ok(())));
        // A sender is dropped only with its queue, whose connections are gone too.
        word.unwrap_or(Err(Reason::ConnectFailed))
    }

    /// The same for those who have something else to wait for, too: until then, where there is no room.
    pub async fn call_of(&self, max: usize) {
        if self.wait(max).await.is_err() {
            std::future::pending().await
        }
    }

    /// Returns whether there was anybody.
    pub fn wake_one(&self) -> bool {
        while let Some(waiter) = self.pop() {
            if self.call(waiter, Ok(())) {
                return true;
            }
        }
        false
    }

    pub fn tell_all(&self, word: Word) {
        for waiter in self.waiting.take() {
            self.call(waiter, word);
        }
    }

    /// So many have been told that there is something for them, and have not taken it yet.
    pub fn called(&self) -> usize {
        self.called.get()
    }

    fn call(&self, waiter: oneshot::Sender<Word>, word: Word) -> bool {
        let sent = waiter.send(word).is_ok();
        self.called.set(self.called.get() + usize::from(sent && word.is_ok()));
        sent
    }

    fn heard(&self, was_called: bool) {
        self.called.set(self.called.get().saturating_sub(usize::from(was_called)));
    }

    fn pop(&self) -> Option<oneshot::Sender<Word>> {
        self.waiting.borrow_mut().pop_front()
    }
}

/// A place in the queue. Who was called and left before it looked passes the call on.
struct Ticket<'q> {
    queue: &'q Queue,
    receiver: oneshot::Receiver<Word>,
    used: bool,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if !self.used && self.receiver.try_recv() == Ok(Ok(())) {
            self.queue.heard(true);
            self.queue.wake_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn a_call_is_not_lost_with_whoever_was_called() {
        let queue = Rc::new(Queue::default());
        let wait = |queue: &Rc<Queue>| {
            let queue = queue.clone();
            async move { queue.wait(2).await }
        };
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                let first = tokio::task::spawn_local(wait(&queue));
                let second = tokio::task::spawn_local(wait(&queue));
                tokio::task::yield_now().await;
                assert_eq!(wait(&queue).await, Err(Reason::Overflow));
                queue.wake_one();
                first.abort();
                assert_eq!(second.await.ok(), Some(Ok(())));
            })
            .await;
    }

    #[tokio::test(flavor = "current_thread")]
    async fn all_hear_of_a_failure() {
        let queue = Queue::default();
        let told = async { queue.tell_all(Err(Reason::ConnectTimeout)) };
        let (first, second, ()) = tokio::join!(queue.wait(2), queue.wait(2), told);
        assert_eq!((first, second), (Err(Reason::ConnectTimeout), Err(Reason::ConnectTimeout)));
        assert_eq!(queue.len(), 0);
    }
}

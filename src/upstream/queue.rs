//! Requests that wait for a connection or a stream of one endpoint: first come, first served, and bounded.

use std::cell::RefCell;
use std::collections::VecDeque;

use tokio::sync::oneshot;

use crate::error::Reason;

/// What those in front are told: look again, or give up for this reason.
type Word = Result<(), Reason>;

#[derive(Debug, Default)]
pub struct Queue(RefCell<VecDeque<oneshot::Sender<Word>>>);

impl Queue {
    pub fn len(&self) -> usize {
        self.0.borrow().len()
    }

    /// Somebody waits, and has not left.
    pub fn is_wanted(&self) -> bool {
        self.0.borrow().iter().any(|waiter| !waiter.is_closed())
    }

    /// Waits until there may be something to have.
    pub async fn wait(&self, max: usize) -> Word {
        let receiver = {
            let mut waiting = self.0.borrow_mut();
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
        // A sender is dropped only with its queue, whose connections are gone too.
        word.unwrap_or(Err(Reason::ConnectFailed))
    }

    pub fn wake_one(&self) {
        while let Some(waiter) = self.pop() {
            if waiter.send(Ok(())).is_ok() {
                return;
            }
        }
    }

    pub fn tell_all(&self, word: Word) {
        for waiter in self.0.take() {
            let _ = waiter.send(word);
        }
    }

    fn pop(&self) -> Option<oneshot::Sender<Word>> {
        self.0.borrow_mut().pop_front()
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

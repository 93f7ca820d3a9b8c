//! Writes to the state directory, one after the other and beside everything else: a disk may be slow, full or gone.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::history::Version;
use crate::admin::health::{Component, Health, Status};
use crate::state::{Marks, Store};
use crate::telemetry::metrics::Metrics;

/// Writes that may wait; more are lost, and told.
const QUEUE: usize = 64;
/// After this a disk is called slow.
const SLOW: Duration = Duration::from_secs(5);

pub enum Job {
    Save {
        version: Version,
        /// One that means the same.
        replaces: Option<u64>,
        /// The process began with it.
        first: bool,
    },
    Mark(Marks),
    /// Tells when all before it is done.
    Flush(oneshot::Sender<()>),
}

pub struct Keeper {
    jobs: mpsc::Sender<Job>,
    trouble: Trouble,
}

/// Where trouble with the state directory shows.
#[derive(Clone)]
pub struct Trouble {
    pub health: Arc<Health>,
    pub metrics: Arc<Metrics>,
}

impl Trouble {
    pub fn tell(&self, why: &str) {
        tracing::error!(why, "state directory");
        self.metrics.process.state_errors.inc();
        self.health.set(Component::State, Status::Degraded, why);
    }
}

impl Keeper {
    /// Without a store there is nothing to do.
    pub fn start(store: Option<Arc<Store>>, trouble: Trouble) -> Self {
        let (jobs, queue) = mpsc::channel(QUEUE);
        if let Some(store) = store {
            trouble.health.set(Component::State, Status::Ok, "");
            tokio::spawn(run(store, queue, trouble.clone()));
        }
        Self { jobs, trouble }
    }

    pub fn job(&self, job: Job) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.jobs.try_send(job) {
            self.trouble.tell("the disk does not keep up");
        }
    }

    /// Waits for what is under way, for a bounded time.
    pub async fn flush(&self, within: Duration) {
        let (done, told) = oneshot::channel();
        self.job(Job::Flush(done));
        // Too late, or there is no store.
        let _ = tokio::time::timeout(within, told).await;
    }
}

async fn run(store: Arc<Store>, mut queue: mpsc::Receiver<Job>, trouble: Trouble) {
    while let Some(job) = queue.recv().await {
        let store = store.clone();
        let mut work = tokio::task::spawn_blocking(move || match job {
            Job::Save { version, replaces, first } => {
                let entry = version.entry();
                if !entry.complete {
                    let generation = entry.generation;
                    tracing::warn!(generation, "secrets are written in the configuration: its copy leaves them out");
                }
                store.save(&entry)?;
                replaces.map_or(Ok(()), |old| store.remove(old))?;
                Ok(!first)
            }
            Job::Mark(marks) => store.set_marks(&marks).map(|()| false),
            Job::Flush(done) => {
                // Whoever asked may have stopped waiting.
                let _ = done.send(());
                Ok(false)
            }
        });
        let result = match tokio::time::timeout(SLOW, &mut work).await {
            Ok(result) => result,
            Err(_) => {
                trouble.tell(&format!("the disk has not answered for {} s", SLOW.as_secs()));
                work.await
            }
        };
        match result {
            // What went wrong before is over once a newer configuration is kept.
            Ok(Ok(true)) => trouble.health.set(Component::State, Status::Ok, ""),
            Ok(Ok(false)) => {}
            Ok(Err(error)) => trouble.tell(&error.to_string()),
            Err(error) => trouble.tell(&error.to_string()),
        }
    }
}

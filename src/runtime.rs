//! Threads: how many workers there are, and how one is started.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc;

use crate::config::schema::Workers;
use crate::worker::{Order, Shared, Worker};

/// Orders that may wait for a worker.
pub const MAIL: usize = 1024;

/// As many as configured, or one for each CPU that the affinity mask and the cgroup's quota grant, at least one.
/// (`available_parallelism` reads both, in cgroup v1 and v2, and rounds the quota down.)
pub fn worker_count(workers: Workers) -> usize {
    match workers {
        Workers::Count(count) => count as usize,
        Workers::Auto(_) => std::thread::available_parallelism().map_or(1, usize::from),
    }
}

/// Starts a worker on a thread of its own. It ends by itself, when the drain is over.
pub fn spawn_worker(index: usize, shared: Arc<Shared>, orders: mpsc::Receiver<Order>) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
        let runtime = Builder::new_current_thread().enable_io().enable_time().build_local(LocalOptions::default());
        match runtime {
            Ok(runtime) => runtime.block_on(async move { Worker::new(index, shared).run(orders).await }),
            Err(error) => tracing::error!(worker = index, %error, "no event loop"),
        }
    })
}

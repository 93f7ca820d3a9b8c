//! Reload: parse, validate, compile, bind, swap. All or nothing; whatever fails leaves what runs as it is.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use super::App;
use crate::admin::health::{Component, Status};
use crate::config::Config;
use crate::net::accept::Socket;
use crate::snapshot::{Snapshot, compile};
use crate::telemetry::metrics::Labels;
use crate::worker::Order;

/// The sockets of a configuration: those that stay, and those that are new.
pub struct Bound {
    /// With their limits of connections.
    kept: Vec<(Arc<Socket>, usize)>,
    new: Vec<Arc<Socket>>,
}

/// Binds what is not bound yet. A listener is its name and address; one that is only renamed keeps its socket.
pub fn bind(config: &Config, old: &[Arc<Socket>]) -> io::Result<Bound> {
    let mut bound = Bound { kept: Vec::new(), new: Vec::new() };
    for listener in &config.root().listeners {
        let max = listener.max_connections as usize;
        match old.iter().find(|socket| socket.configured == listener.address) {
            Some(socket) if *socket.name == *listener.name => {
                bound.kept.push((socket.clone(), max));
            }
            Some(socket) => bound.new.push(socket.renamed(&listener.name, max)?),
            None => {
                let socket = Socket::bind(&listener.name, listener.address, max).map_err(|error| {
                    io::Error::new(
                        error.kind(),
                        format!("listener `{}` on {}: {error}", listener.name, listener.address),
                    )
                })?;
                tracing::info!(listener = listener.name, address = %socket.address, "listening");
                bound.new.push(socket);
            }
        }
    }
    Ok(bound)
}

impl App {
    pub(super) async fn reload(&mut self, why: &str) {
        let config = match self.origin.load() {
            Ok(config) => Arc::new(config),
            Err(report) => {
                for problem in report.problems() {
                    tracing::error!(%problem, "configuration refused");
                }
                let first = report.problems().first().map(ToString::to_string).unwrap_or_default();
                return self.refused(&first, serde_json::to_value(&report).unwrap_or_default());
            }
        };
        let bound = match bind(&config, &self.sockets) {
            Ok(bound) => bound,
            Err(error) => {
                tracing::error!(%error, "configuration refused");
                let text = error.to_string();
                return self.refused(&text, serde_json::json!([{ "message": text }]));
            }
        };
        let old = self.shared.snapshot.load_full();
        let restart = needs_restart(&old.config, &config);
        let snapshot = compile(config.clone(), old.generation + 1, Some(&old));
        self.settle_endpoints(&snapshot).await;
        self.retire_series(&snapshot);
        let generation = snapshot.generation;
        self.shared.snapshot.store(Arc::new(snapshot));
        self.shared.generation.store(generation, Ordering::Release);
        self.install(bound);
        self.look();
        self.accepted(&config);
        if !restart.is_empty() {
            tracing::warn!(keys = restart.join(", "), "changed, and needs a restart to take effect");
        }
        tracing::info!(generation, why, "configuration is live");
    }

    fn refused(&self, first: &str, problems: serde_json::Value) {
        self.shared.metrics.process.config_refused(SystemTime::now());
        self.control.refused(problems);
        let detail = format!("the last change was refused, the one before is live: {first}");
        self.health.set(Component::Config, Status::Degraded, detail);
    }

    /// Makes the bound sockets those that are accepted on.
    pub(super) fn install(&mut self, bound: Bound) {
        for socket in &bound.new {
            for worker in &self.shared.workers {
                // At most one a listener and reload, into mail that holds a thousand: full means that the worker hangs.
                if worker.sender.try_send(Order::Listen(socket.clone())).is_err() {
                    tracing::error!(listener = &*socket.name, "a worker does not take orders");
                }
            }
        }
        let stays = |socket: &Arc<Socket>| bound.kept.iter().any(|(kept, _)| Arc::ptr_eq(kept, socket));
        for socket in self.sockets.iter().filter(|socket| !stays(socket)) {
            socket.close();
        }
        let kept = bound.kept.into_iter().map(|(socket, max)| {
            socket.set_max_connections(max);
            socket
        });
        self.sockets = kept.chain(bound.new).collect();
        self.health.set(Component::Listeners, Status::Ok, format!("{} listening", self.sockets.len()));
    }

    fn retire_series(&self, snapshot: &Snapshot) {
        let known: HashSet<Labels> = (0..snapshot.series_count()).map(|series| snapshot.labels(series)).collect();
        self.shared.metrics.retire(&|labels| known.contains(labels));
    }
}

fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let (old, new) = (old.root(), new.root());
    let changed = [
        ("admin.address", old.admin.address != new.admin.address),
        ("health.address", old.health.address != new.health.address),
        ("runtime.workers", old.runtime.workers != new.runtime.workers),
    ];
    changed.into_iter().filter(|(_, changed)| *changed).map(|(key, _)| key).collect()
}

//! Reload: parse, validate, compile, bind, swap. All or nothing; whatever fails leaves what runs as it is.

use std::collections::HashSet;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde_json::json;

use super::App;
use super::first::First;
use super::history::{History, Version};
use super::keeper::{Job, Trouble};
use crate::admin::health::{Component, Status};
use crate::config::schema::Listener;
use crate::config::{Config, Problem, diff};
use crate::net::accept::Socket;
use crate::net::held::Held;
use crate::policy::probation::Observations;
use crate::snapshot::{Snapshot, circuit, compile};
use crate::telemetry::audit::Event;
use crate::telemetry::metrics::Labels;
use crate::worker::Order;

/// The sockets of a configuration: those that stay, and those that are new.
pub struct Bound {
    kept: Vec<(Arc<Socket>, Listener)>,
    new: Vec<(Arc<Socket>, Listener)>,
}

/// Binds what is not bound yet. A listener is its name and address; one that is only renamed keeps its socket.
pub fn bind(config: &Config, old: &[Arc<Socket>], held: &mut Held) -> io::Result<Bound> {
    let mut bound = Bound { kept: Vec::new(), new: Vec::new() };
    for listener in &config.root().listeners {
        match old.iter().find(|socket| socket.configured == listener.address) {
            Some(socket) if *socket.name == *listener.name && socket.mode == listener.mode => {
                bound.kept.push((socket.clone(), listener.clone()));
            }
            Some(socket) => bound.new.push((socket.renamed(listener)?, listener.clone())),
            None => {
                let socket = Socket::bind(listener, held).map_err(|error| {
                    io::Error::new(
                        error.kind(),
                        format!("listener `{}` on {}: {error}", listener.name, listener.address),
                    )
                })?;
                tracing::info!(listener = listener.name, address = %socket.address, "listening");
                bound.new.push((socket, listener.clone()));
            }
        }
    }
    Ok(bound)
}

/// Why a configuration goes live, and by whom.
#[derive(Debug, Clone, Copy)]
pub struct Cause<'a> {
    /// `reload`, `rollback` …
    pub action: &'a str,
    pub source: &'a str,
}

/// A configuration that is to go live.
pub struct Step {
    pub config: Arc<Config>,
    /// Whose endpoints serve until others are found.
    known: Arc<Snapshot>,
    /// How the routes did before, where they are to be compared with that.
    before: Option<Observations>,
}

/// What went live.
pub struct Live {
    pub previous: Arc<Snapshot>,
    pub summary: String,
}

/// Where the state directory has a configuration from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kept {
    /// It has it.
    Already,
    /// The process began with it.
    First,
    Not,
}

impl Step {
    pub fn to(config: Arc<Config>, known: &Arc<Snapshot>) -> Self {
        Self { config, known: known.clone(), before: None }
    }
}

impl App {
    /// Takes what the file says now.
    pub(super) async fn reload(&mut self, source: &str) {
        let cause = Cause { action: "reload", source };
        let pinned = self.history().pinned();
        if let Some(pinned) = pinned {
            let why = format!("generation {pinned} is pinned: `outrigger config unpin` takes the file again");
            tracing::warn!(why, "configuration refused");
            return self.refused(cause, None, &why, json!([{ "message": why }]));
        }
        let config = match self.origin.load() {
            Ok(config) => Arc::new(config),
            Err(report) => {
                for problem in report.problems() {
                    tracing::error!(%problem, "configuration refused");
                }
                let first = report.problems().first().map(Problem::brief).unwrap_or_default();
                return self.refused(cause, None, &first, serde_json::to_value(&report).unwrap_or_default());
            }
        };
        let bad = self.history().bad(config.digest()).map(|bad| bad.why.clone());
        if let Some(bad) = bad {
            let why = format!("it was taken back before, and has not changed since: {bad}");
            tracing::error!(why, "configuration refused");
            return self.refused(cause, Some(config.digest()), &why, json!([{ "message": why }]));
        }
        let before = self.before();
        let stale = self.stale.take();
        let old = self.shared.snapshot.load_full();
        let step = Step { before: Some(before), ..Step::to(config.clone(), &old) };
        match self.go_live(step, cause).await {
            Ok(live) => self.tell(cause, "live", &live.summary, 0, Some(live.previous.generation)),
            Err(error) => {
                self.stale = stale;
                tracing::error!(error, "configuration refused");
                return self.refused(cause, Some(config.digest()), &error, json!([{ "message": error }]));
            }
        }
        // Another configuration than those that were taken back: whoever wrote it has seen that.
        let forgotten = self.history().forget_bad();
        if forgotten {
            self.keep_marks();
        }
    }

    /// Makes a configuration live, as a new generation; or tells why that cannot be.
    pub(super) async fn go_live(&mut self, step: Step, cause: Cause<'_>) -> Result<Live, String> {
        let Step { config, known, before } = step;
        let bound = bind(&config, &self.sockets, &mut Held::default()).map_err(|error| error.to_string())?;
        let old = self.shared.snapshot.load_full();
        let restart = needs_restart(&old.config, &config);
        let (material, troubles) = self.read_material(&config).await?;
        // Files that were named before may be in any state; those that are named now have to be there.
        if let Some(trouble) = troubles.iter().find(|trouble| !trouble.serves_on && !trouble.known) {
            return Err(trouble.to_string());
        }
        let snapshot = compile(config.clone(), self.history().next_generation(), Some(&known));
        super::traffic::resume(&snapshot, self.history().canaries());
        self.settle_endpoints(&snapshot).await;
        self.retire_series(&snapshot);
        let generation = snapshot.generation;
        self.take_material(&config, material, &troubles);
        self.shared.snapshot.store(Arc::new(snapshot));
        self.shared.generation.store(generation, Ordering::Release);
        self.install(bound);
        self.look();
        if let Some(before) = before {
            self.begin_trial(before, &old, &config);
        }
        self.accepted(&config);
        // What the process began with may not have been what is meant: it forgets nothing.
        self.keep_canaries();
        if !restart.is_empty() {
            tracing::warn!(keys = restart.join(", "), "changed, and needs a restart to take effect");
        }
        let summary = diff::summary(&diff::changes(&old.config, &config));
        tracing::info!(generation, action = cause.action, source = cause.source, summary, "configuration is live");
        self.remember(&config, cause, &summary, Kept::Not);
        Ok(Live { previous: old, summary })
    }

    /// The same for the configuration that the process began with.
    pub(super) fn began(&mut self, first: &First) {
        let First { config, told, report, .. } = first;
        self.accepted(config);
        told.iter().for_each(|line| self.trouble().tell(line));
        let cause = Cause { action: first.cause, source: &self.origin.name() };
        if let Some(report) = report {
            for problem in report.problems() {
                tracing::error!(%problem, "configuration refused");
            }
            self.shared.metrics.process.config_refused(SystemTime::now());
            let problems = serde_json::to_value(report).unwrap_or_default();
            self.control.refused(problems);
        }
        if let Some(stale) = &self.stale {
            tracing::error!(stale, "not running on what the file says");
        }
        self.remember(config, cause, "", if first.stored { Kept::Already } else { Kept::First });
        let summary = self.stale.clone().unwrap_or_default();
        self.tell(cause, "live", &summary, report.as_ref().map_or(0, |report| report.problems().len()), None);
    }

    pub(super) fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, config: &Arc<Config>, cause: Cause<'_>, summary: &str, kept: Kept) {
        let version = Version {
            generation: self.shared.snapshot.load().generation,
            at: SystemTime::now(),
            cause: format!("{} by {}", cause.action, cause.source),
            summary: summary.to_owned(),
            digest: config.digest().to_owned(),
            config: config.clone(),
        };
        let (version, replaces) = self.history().push(version);
        if kept != Kept::Already {
            self.keeper.job(Job::Save { version, replaces, first: kept == Kept::First });
        }
    }

    /// Keeps what was said about configurations.
    pub(super) fn keep_marks(&self) {
        let marks = self.history().marks();
        self.keeper.job(Job::Mark(marks));
    }

    pub(super) fn trouble(&self) -> Trouble {
        Trouble { health: self.health.clone(), metrics: self.shared.metrics.clone() }
    }

    pub(super) fn tell(&self, cause: Cause<'_>, result: &str, summary: &str, problems: usize, previous: Option<u64>) {
        let live = self.shared.snapshot.load();
        self.audit.write(&Event {
            at: SystemTime::now(),
            action: cause.action,
            source: cause.source,
            generation: Some(live.generation),
            digest: Some(live.config.digest()),
            previous,
            result,
            summary,
            problems,
        });
    }

    /// `digest` is that of what was refused, where it could be read.
    fn refused(&mut self, cause: Cause<'_>, digest: Option<&str>, first: &str, problems: serde_json::Value) {
        self.shared.metrics.process.config_refused(SystemTime::now());
        let detail = format!("the last change was refused, the one before is live: {first}");
        let line = detail.lines().next().unwrap_or_default().to_owned();
        self.stale.get_or_insert(line);
        self.tell_stale();
        let count = problems.as_array().map_or(1, Vec::len);
        self.control.refused(problems);
        self.health.set(Component::Config, Status::Degraded, detail);
        self.audit.write(&Event {
            at: SystemTime::now(),
            action: cause.action,
            source: cause.source,
            generation: None,
            digest,
            previous: None,
            result: "refused",
            summary: first.lines().next().unwrap_or_default(),
            problems: count,
        });
    }

    /// Makes the bound sockets those that are accepted on.
    pub(super) fn install(&mut self, bound: Bound) {
        for (socket, _) in &bound.new {
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
        let sockets = bound.kept.into_iter().chain(bound.new).map(|(socket, listener)| {
            socket.configure(&listener);
            socket
        });
        self.sockets = sockets.collect();
        self.health.set(Component::Listeners, Status::Ok, format!("{} listening", self.sockets.len()));
    }

    fn retire_series(&self, snapshot: &Snapshot) {
        let known: HashSet<Labels> = (0..snapshot.series_count()).map(|series| snapshot.labels(series)).collect();
        self.shared.metrics.retire(&|labels| known.contains(labels));
        self.shared.metrics.denials.retire(&|(listener, entry)| {
            let named = |known: &crate::snapshot::Listener| known.name == *listener;
            let mut numbers = snapshot.listeners.iter().filter(|one| named(one)).flat_map(|one| &one.authorization);
            numbers.any(|number| snapshot.authorization.get(*number).is_some_and(|known| known.name == *entry))
        });
        let listens = |name: &Arc<str>| snapshot.listeners.iter().any(|listener| listener.name == *name);
        self.shared.metrics.limits.retire(&|service| snapshot.services.iter().any(|known| known.name == *service));
        self.shared.metrics.connections.retire(&listens);
        let serves = |name: &Arc<str>| snapshot.services.iter().any(|service| service.name == *name);
        self.shared.metrics.panics.retire(&serves);
        self.shared.metrics.detection.retire(&|(listener, _)| listens(listener));
        self.shared.metrics.circuits.set(circuit::series(snapshot));
    }
}

fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let (old, new) = (old.root(), new.root());
    let changed = [
        ("admin.address", old.admin.address != new.admin.address),
        ("health.address", old.health.address != new.health.address),
        ("runtime.workers", old.runtime.workers != new.runtime.workers),
        ("state", old.state != new.state),
        ("telemetry.recent", old.telemetry.recent != new.telemetry.recent),
    ];
    changed.into_iter().filter(|(_, changed)| *changed).map(|(key, _)| key).collect()
}

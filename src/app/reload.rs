//! Reload: parse, validate, compile, bind, swap. All or nothing; whatever fails leaves what runs as it is. And the
//! probation after it.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use serde_json::json;

use super::App;
use super::history::{History, Version};
use super::keeper::{Job, Trouble};
use super::trial::{Before, Trial};
use crate::admin::health::{Component, Status};
use crate::config::{Config, Problem, Report, diff};
use crate::net::accept::Socket;
use crate::snapshot::{Snapshot, compile};
use crate::telemetry::audit::Event;
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
    /// How the routes did before, and those that are to be compared with it.
    trial: Option<(Before, BTreeSet<String>)>,
}

impl Step {
    pub fn to(config: Arc<Config>, known: &Arc<Snapshot>) -> Self {
        Self { config, known: known.clone(), trial: None }
    }
}

impl App {
    /// Takes what the file says now.
    pub(super) async fn reload(&mut self, source: &str) {
        let cause = Cause { action: "reload", source };
        let pinned = self.history().pinned();
        if let Some(pinned) = pinned {
            let why = format!("generation {pinned} is pinned: `outrigger config unpin` takes the file again");
            return self.refused(cause, &why, json!([{ "message": why }]));
        }
        let config = match self.origin.load() {
            Ok(config) => Arc::new(config),
            Err(report) => {
                for problem in report.problems() {
                    tracing::error!(%problem, "configuration refused");
                }
                let first = report.problems().first().map(Problem::brief).unwrap_or_default();
                return self.refused(cause, &first, serde_json::to_value(&report).unwrap_or_default());
            }
        };
        let bad = self.history().bad(config.digest()).map(|bad| bad.why.clone());
        if let Some(bad) = bad {
            let why = format!("it was taken back before, and has not changed since: {bad}");
            tracing::error!(why, "configuration refused");
            return self.refused(cause, &why, json!([{ "message": why }]));
        }
        let old = self.shared.snapshot.load_full();
        let before = self.before();
        let mut routes = diff::changed_routes(&old.config, &config);
        routes.extend(diff::removed_routes(&old.config, &config));
        let stale = self.stale.take();
        let step = Step { trial: Some((before, routes)), ..Step::to(config, &old) };
        if let Err(error) = self.go_live(step, cause).await {
            self.stale = stale;
            tracing::error!(error, "configuration refused");
            return self.refused(cause, &error, json!([{ "message": error }]));
        }
        // Another configuration than those that were taken back: whoever wrote it has seen that.
        let forgotten = self.history().forget_bad();
        if forgotten {
            self.keep_marks();
        }
    }

    /// Makes a configuration live, as a new generation; or tells why that cannot be.
    pub(super) async fn go_live(&mut self, step: Step, cause: Cause<'_>) -> Result<u64, String> {
        let Step { config, known, trial } = step;
        let bound = bind(&config, &self.sockets).map_err(|error| error.to_string())?;
        self.end_trial();
        let old = self.shared.snapshot.load_full();
        let restart = needs_restart(&old.config, &config);
        let snapshot = compile(config.clone(), old.generation + 1, Some(&known));
        self.settle_endpoints(&snapshot).await;
        self.retire_series(&snapshot);
        let generation = snapshot.generation;
        self.shared.snapshot.store(Arc::new(snapshot));
        self.shared.generation.store(generation, Ordering::Release);
        self.install(bound);
        self.look();
        if let Some((before, routes)) = trial {
            self.begin_trial(before, &old, &config, routes);
        }
        self.accepted(&config);
        if !restart.is_empty() {
            tracing::warn!(keys = restart.join(", "), "changed, and needs a restart to take effect");
        }
        let summary = diff::summary(&diff::changes(&old.config, &config));
        tracing::info!(generation, action = cause.action, source = cause.source, summary, "configuration is live");
        self.remember(generation, &config, cause, &summary, false);
        self.tell(cause, "live", &summary, 0, Some(old.generation));
        Ok(generation)
    }

    /// The same for the configuration that the process began with.
    pub(super) fn began(
        &mut self,
        config: &Arc<Config>,
        action: &str,
        stored: bool,
        told: &[String],
        report: Option<&Report>,
    ) {
        self.accepted(config);
        told.iter().for_each(|line| self.trouble().tell(line));
        let cause = Cause { action, source: &self.origin.name() };
        for problem in report.map(Report::problems).unwrap_or_default() {
            tracing::error!(%problem, "configuration refused");
        }
        if let Some(report) = report {
            let problems = serde_json::to_value(report).unwrap_or_default();
            self.control.refused(problems);
        }
        if let Some(stale) = &self.stale {
            tracing::error!(stale, "not running on what the file says");
        }
        let generation = self.shared.snapshot.load().generation;
        self.remember(generation, config, cause, "", stored);
        let summary = self.stale.clone().unwrap_or_default();
        self.tell(cause, "live", &summary, report.map_or(0, |report| report.problems().len()), None);
    }

    pub(super) fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, generation: u64, config: &Arc<Config>, cause: Cause<'_>, summary: &str, stored: bool) {
        let version = Version {
            generation,
            at: SystemTime::now(),
            cause: format!("{} by {}", cause.action, cause.source),
            summary: summary.to_owned(),
            digest: config.digest().to_owned(),
            config: config.clone(),
        };
        self.history().push(version.clone());
        if !stored {
            self.keeper.job(Job::Save(version));
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

    fn refused(&mut self, cause: Cause<'_>, first: &str, problems: serde_json::Value) {
        self.shared.metrics.process.config_refused(SystemTime::now());
        self.shared.metrics.process.set_stale(true);
        let count = problems.as_array().map_or(1, Vec::len);
        self.control.refused(problems);
        let detail = format!("the last change was refused, the one before is live: {first}");
        self.health.set(Component::Config, Status::Degraded, detail);
        let line = first.lines().next().unwrap_or_default();
        self.tell(cause, "refused", line, count, None);
    }

    /// How the routes did until now.
    fn before(&mut self) -> Before {
        let (now, counters) = (Instant::now(), self.shared.metrics.observe());
        if self.trial.is_none() {
            self.baseline.tick(now, counters.clone());
        }
        Before { seen: self.baseline.before(now), counters }
    }

    fn begin_trial(&mut self, before: Before, old: &Arc<Snapshot>, config: &Config, routes: BTreeSet<String>) {
        let live = (config, self.shared.snapshot.load().generation);
        self.trial = Trial::new(before, old.clone(), live, routes, Instant::now());
        let on = self.trial.is_some();
        self.shared.alarm.arm(on);
        self.shared.metrics.process.set_probation(on);
        self.control.trial(self.trial.as_ref());
        if let Some(trial) = &self.trial {
            tracing::info!(routes = trial.routes.len(), time = %config.root().runtime.probation, "on probation");
        }
    }

    fn end_trial(&mut self) {
        self.trial = None;
        self.shared.alarm.arm(false);
        self.shared.metrics.process.set_probation(false);
        self.control.trial(None);
    }

    /// Once a second.
    pub(super) async fn observe(&mut self) {
        if self.trial.is_some() {
            return self.judge().await;
        }
        if !self.shared.snapshot.load().config.root().runtime.probation.is_zero() {
            self.baseline.tick(Instant::now(), self.shared.metrics.observe());
        }
    }

    /// Requests fail while a reload is on probation.
    pub(super) async fn alarmed(&mut self) {
        let Some(next) = self.trial.as_ref().map(Trial::next) else { return };
        tokio::time::sleep_until(next.into()).await;
        self.judge().await;
    }

    async fn judge(&mut self) {
        let now = Instant::now();
        let counters = self.shared.metrics.observe();
        let Some(trial) = &mut self.trial else { return };
        let finding = trial.judge(&counters, now);
        let (over, previous) = (trial.is_over(now), trial.previous.clone());
        let back_to = previous.generation;
        let undone = trial.generation;
        let Some(finding) = finding else {
            if over {
                self.end_trial();
                self.baseline.tick(now, counters);
                tracing::info!(generation = undone, "probation is over, and nothing got worse");
                self.tell(Cause { action: "probation", source: "probation" }, "passed", "", 0, None);
            }
            return;
        };
        let why = finding.to_string();
        tracing::error!(generation = undone, back_to, why, "taken back");
        let digest = self.shared.snapshot.load().config.digest().to_owned();
        self.stale = Some(format!("generation {undone} was taken back to generation {back_to}: {why}"));
        let cause = Cause { action: "rollback", source: "probation" };
        // Its own endpoints are still known: nobody has to be looked up, or waited for.
        if let Err(error) = self.go_live(Step::to(previous.config.clone(), &previous), cause).await {
            self.stale = None;
            tracing::error!(error, "cannot go back");
            return self.tell(cause, "failed", &error, 1, None);
        }
        self.baseline.skip(self.shared.metrics.observe());
        self.shared.metrics.process.rollbacks.inc();
        self.history().mark_bad(&digest, &why);
        self.keep_marks();
        self.tell(cause, "undone", &why, 0, Some(undone));
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
        ("state", old.state != new.state),
        ("telemetry.recent", old.telemetry.recent != new.telemetry.recent),
    ];
    changed.into_iter().filter(|(_, changed)| *changed).map(|(key, _)| key).collect()
}

//! After a reload: watches the routes that it has changed, and goes back if they do worse.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use serde_json::json;

use super::App;
use super::reload::{Cause, Step};
use super::trial::{Before, Trial};
use crate::config::{Config, diff};
use crate::policy::probation::{Finding, Observations};
use crate::snapshot::Snapshot;

const BY_ITSELF: Cause<'_> = Cause { action: "probation", source: "probation" };
const BACK: Cause<'_> = Cause { action: "rollback", source: "probation" };

impl App {
    /// How the routes did until now.
    pub(super) fn before(&mut self) -> Observations {
        let now = Instant::now();
        if self.trial.is_none() {
            self.baseline.tick(now, self.shared.metrics.observe());
        }
        self.baseline.before(now)
    }

    /// `last` is the trial that `config` came into.
    pub(super) fn begin_trial(
        &mut self,
        before: Observations,
        last: Option<Trial>,
        old: &Arc<Snapshot>,
        config: &Config,
    ) {
        let (now, counters) = (Instant::now(), self.shared.metrics.observe());
        let generation = self.shared.snapshot.load().generation;
        self.trial = match last {
            // The same once more, as by SIGHUP right after the file was written.
            Some(last) if old.config.digest() == config.digest() => Some(last.again(generation)),
            // What is on probation itself is nothing to go back to.
            last => {
                let previous = last.map_or_else(|| old.clone(), |last| last.previous);
                let mut routes = diff::changed_routes(&previous.config, config);
                routes.extend(diff::removed_routes(&previous.config, config));
                let before = Before { seen: before, counters };
                Trial::new(before, previous, (config, generation), routes, now)
            }
        };
        let on = self.trial.is_some();
        self.shared.alarm.arm(on);
        self.shared.metrics.process.set_probation(on);
        self.control.trial(self.trial.as_ref());
        if let Some(trial) = &self.trial {
            tracing::info!(routes = trial.routes.len(), time = %config.root().runtime.probation, "on probation");
        }
    }

    pub(super) fn end_trial(&mut self) -> Option<Trial> {
        self.shared.alarm.arm(false);
        self.shared.metrics.process.set_probation(false);
        self.control.trial(None);
        self.trial.take()
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
        let Some(trial) = self.trial.as_mut().filter(|trial| now >= trial.next()) else { return };
        let counters = self.shared.metrics.observe();
        let finding = trial.judge(&counters, now);
        match finding {
            Some(finding) => self.undo(&finding).await,
            None if trial.is_over(now) => {
                let generation = trial.generation;
                self.end_trial();
                self.baseline.tick(now, counters);
                tracing::info!(generation, "probation is over, and nothing got worse");
                self.tell(BY_ITSELF, "passed", "", 0, None);
            }
            None => {}
        }
    }

    async fn undo(&mut self, finding: &Finding) {
        let Some(trial) = &self.trial else { return };
        let (why, undone, previous) = (finding.to_string(), trial.generation, trial.previous.clone());
        let back_to = previous.generation;
        tracing::error!(generation = undone, back_to, why, "taken back");
        let digest = self.shared.snapshot.load().config.digest().to_owned();
        let stale = self.stale.replace(format!("generation {undone} was taken back to generation {back_to}: {why}"));
        // Its own endpoints are still known: nobody has to be looked up, or waited for.
        if let Err(error) = self.go_live(Step::to(previous.config.clone(), &previous), BACK).await {
            self.stale = stale;
            tracing::error!(error, "cannot go back");
            if let Some(trial) = &mut self.trial {
                trial.wait();
            }
            return self.tell(BACK, "failed", &error, 1, None);
        }
        self.shared.metrics.process.undone(SystemTime::now());
        self.control.refused(json!([{ "message": why }]));
        self.history().mark_bad(&digest, &why);
        self.keep_marks();
        self.tell(BACK, "undone", &why, 0, Some(undone));
    }
}

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

/// Trials at a time.
const TRIALS: usize = 8;
const BY_ITSELF: Cause<'_> = Cause { action: "probation", source: "probation" };
const BACK: Cause<'_> = Cause { action: "rollback", source: "probation" };

impl App {
    /// How the routes did until now.
    pub(super) fn before(&mut self) -> Observations {
        let now = Instant::now();
        if self.trials.is_empty() {
            self.baseline.tick(now, self.shared.metrics.observe());
        }
        self.baseline.before(now)
    }

    /// Trials that are under way go on: what came before is not proven by what comes after it.
    pub(super) fn begin_trial(&mut self, before: Observations, old: &Arc<Snapshot>, config: &Config) {
        let (now, counters) = (Instant::now(), self.shared.metrics.observe());
        let generation = self.shared.snapshot.load().generation;
        match self.trials.last_mut() {
            // The same once more, as by SIGHUP right after the file was written.
            Some(last) if old.config.digest() == config.digest() => last.generation = generation,
            _ => {
                let mut routes = diff::changed_routes(&old.config, config);
                routes.extend(diff::removed_routes(&old.config, config));
                let before = Before { seen: before, counters };
                self.trials.extend(Trial::new(before, old.clone(), (config, generation), routes, now));
                if self.trials.len() > TRIALS {
                    // The oldest is what everything can go back to.
                    self.trials.remove(1);
                }
            }
        }
        self.tell_trials();
        if let Some(trial) = self.trials.last() {
            tracing::info!(routes = trial.routes.len(), time = %config.root().runtime.probation, "on probation");
        }
    }

    /// An operator has decided, or the process ends.
    pub(super) fn end_trials(&mut self) {
        if !self.trials.is_empty() {
            self.trials.clear();
            // What was seen meanwhile is no measure of what is good.
            self.baseline.skip(self.shared.metrics.observe());
        }
        self.tell_trials();
    }

    fn tell_trials(&self) {
        let on = !self.trials.is_empty();
        self.shared.alarm.arm(on);
        self.shared.metrics.process.set_probation(on);
        self.control.trial(self.trials.last());
    }

    /// Once a second.
    pub(super) async fn observe(&mut self) {
        if !self.trials.is_empty() {
            return self.judge().await;
        }
        if !self.shared.snapshot.load().config.root().runtime.probation.is_zero() {
            self.baseline.tick(Instant::now(), self.shared.metrics.observe());
        }
    }

    /// Requests fail while a reload is on probation.
    pub(super) async fn alarmed(&mut self) {
        let Some(next) = self.trials.last().map(Trial::next) else { return };
        tokio::time::sleep_until(next.into()).await;
        self.judge().await;
    }

    async fn judge(&mut self) {
        let now = Instant::now();
        if self.trials.last().is_none_or(|trial| now < trial.next()) {
            return;
        }
        let counters = self.shared.metrics.observe();
        let findings: Vec<Option<Finding>> = self.trials.iter_mut().map(|trial| trial.judge(&counters, now)).collect();
        // The newest first: what it broke, an older one would be blamed for.
        let worst = findings.into_iter().enumerate().rev().find_map(|(index, finding)| Some((index, finding?)));
        let worst = worst.filter(|(index, finding)| {
            let newer = self.trials.iter().skip(index + 1);
            !newer.into_iter().any(|trial| trial.may_be_to_blame(finding))
        });
        if let Some((index, finding)) = worst {
            return self.undo(index, &finding).await;
        }
        let over = self.trials.extract_if(.., |trial| trial.is_over(now)).last();
        if let Some(over) = over {
            tracing::info!(generation = over.generation, "probation is over, and nothing got worse");
            self.tell(BY_ITSELF, "passed", "", 0, None);
            if self.trials.is_empty() {
                self.baseline.tick(now, counters);
            }
            self.tell_trials();
        }
    }

    /// Goes back to what was live before the trial with this index.
    async fn undo(&mut self, index: usize, finding: &Finding) {
        let Some(previous) = self.trials.get(index).map(|trial| trial.previous.clone()) else { return };
        let live = self.shared.snapshot.load_full();
        let (why, undone, back_to) = (finding.to_string(), live.generation, previous.generation);
        tracing::error!(generation = undone, back_to, why, "taken back");
        let stale = self.stale.replace(format!("generation {undone} was taken back to generation {back_to}: {why}"));
        // Its own endpoints are still known: nobody has to be looked up, or waited for.
        if let Err(error) = self.go_live(Step::to(previous.config.clone(), &previous), BACK).await {
            self.stale = stale;
            tracing::error!(error, "cannot go back");
            if let Some(trial) = self.trials.last_mut() {
                trial.wait();
            }
            return self.tell(BACK, "failed", &error, 1, None);
        }
        let (now, counters) = (Instant::now(), self.shared.metrics.observe());
        self.trials.truncate(index);
        let generation = self.shared.snapshot.load().generation;
        for trial in &mut self.trials {
            // What was seen meanwhile is the fault of what is gone.
            trial.restart(counters.clone(), now);
            trial.generation = generation;
        }
        self.baseline.skip(counters);
        self.tell_trials();
        self.shared.metrics.process.undone(SystemTime::now());
        self.control.refused(json!([{ "message": why }]));
        self.history().mark_bad(live.config.digest(), &why);
        self.keep_marks();
        self.tell(BACK, "undone", &why, 0, Some(undone));
    }
}

//! What an operator may change of the live configuration: go back to a former one, stay with one, take the file again.

use std::sync::Arc;

use http::StatusCode;
use serde_json::json;

use super::reload::{Cause, Step};
use super::{App, Command};
use crate::admin::question::{Change, Reply};
use crate::config::diff;
use crate::snapshot::Snapshot;

impl App {
    pub(super) async fn obey(&mut self, command: Command) {
        let Command { change, source, answer } = command;
        let (action, reply) = match change {
            Change::Rollback(to) => ("rollback", self.rollback(to, &source).await),
            Change::Pin(to) => ("pin", self.pin(to, &source).await),
            Change::Unpin => ("unpin", self.unpin(&source).await),
            Change::Canary { route, order } => ("canary", self.order(&route, order, &source)),
        };
        if let Err(why) = &reply {
            self.tell(Cause { action, source: &source }, "refused", why, 0, None);
        }
        // Whoever asked may have left; what was asked for is done.
        let _ = answer.send(reply.unwrap_or_else(|why| (StatusCode::CONFLICT, json!({ "error": why }))));
    }

    async fn rollback(&mut self, to: u64, source: &str) -> Result<Reply, String> {
        if let Some(pinned) = self.history().pinned() {
            return Err(format!("generation {pinned} is pinned: unpin it first"));
        }
        let left = self.go_back(to, Cause { action: "rollback", source }).await?;
        let live = self.shared.snapshot.load_full();
        if left.config.digest() != live.config.digest() {
            {
                let mut history = self.history();
                history.mark_bad(left.config.digest(), &format!("taken back by {source}"));
                // Whoever goes forth again wants that one, whatever was said about it before.
                history.forget(live.config.digest());
            }
            self.keep_marks();
        }
        self.shared.metrics.process.rollbacks.inc();
        Ok(self.done(to, &left).await)
    }

    async fn pin(&mut self, to: u64, source: &str) -> Result<Reply, String> {
        let cause = Cause { action: "pin", source };
        let live = self.shared.snapshot.load_full();
        let left = if to == live.generation { live } else { self.go_back(to, cause).await? };
        let generation = self.shared.snapshot.load().generation;
        // Pinned is pinned: nothing goes back from it by itself.
        self.end_trials();
        self.history().pin(Some(generation));
        self.keep_marks();
        self.stale = Some(format!("generation {generation} is pinned by {source}, and the file is not looked at"));
        self.tell_stale();
        if to == left.generation {
            self.tell(cause, "live", "", 0, None);
        }
        Ok(self.done(to, &left).await)
    }

    async fn unpin(&mut self, source: &str) -> Result<Reply, String> {
        let pinned = self.history().pinned().ok_or("nothing is pinned")?;
        let left = self.shared.snapshot.load_full();
        {
            let mut history = self.history();
            history.pin(None);
            // Who asks for the file gets it, whatever was said about it before.
            history.forget_bad();
        }
        self.keep_marks();
        self.tell(Cause { action: "unpin", source }, "live", "", 0, None);
        self.stale = Some(format!("generation {pinned} is no longer pinned, and the file is refused"));
        self.tell_stale();
        self.reload(source).await;
        Ok(self.done(pinned, &left).await)
    }

    /// Makes a former configuration live; what was live until then.
    async fn go_back(&mut self, to: u64, cause: Cause<'_>) -> Result<Arc<Snapshot>, String> {
        let old = self.shared.snapshot.load_full();
        if to == old.generation {
            return Err(format!("generation {to} is live"));
        }
        // A disk may have to be read.
        let history = self.history().clone();
        let found = tokio::task::spawn_blocking(move || history.find(to)).await;
        let config = found.map_err(|error| error.to_string())??;
        let next = self.history().next_generation();
        let before = self.stale.replace(format!(
            "generation {next} is generation {to} again, by {}; the file is taken again when it changes",
            cause.source
        ));
        match self.go_live(Step::to(config, &old), cause).await {
            Ok(live) => {
                self.end_trials();
                self.tell(cause, "live", &live.summary, 0, Some(old.generation));
                Ok(old)
            }
            Err(error) => {
                self.stale = before;
                Err(error)
            }
        }
    }

    async fn done(&self, asked: u64, left: &Snapshot) -> Reply {
        let live = self.shared.snapshot.load_full();
        let changes = diff::changes(&left.config, &live.config);
        let config = live.config.clone();
        let complete = tokio::task::spawn_blocking(move || config.storable().complete).await.unwrap_or(false);
        let kept = complete && self.history().store().is_some();
        (
            StatusCode::OK,
            json!({
                "generation": live.generation,
                "asked": asked,
                "summary": diff::summary(&changes),
                "changes": changes,
                "stale": self.stale,
                "survivesRestart": kept,
            }),
        )
    }
}

//! What an operator may change of the live configuration: go back to a former one, stay with one, take the file again.

use http::StatusCode;
use serde_json::json;

use super::reload::Cause;
use super::{App, Command};
use crate::admin::question::{Change, Reply};
use crate::config::diff;

impl App {
    pub(super) async fn obey(&mut self, command: Command) {
        let Command { change, source, answer } = command;
        let reply = match change {
            Change::Rollback(to) => self.rollback(to, &source).await,
            Change::Pin(to) => self.pin(to, &source).await,
            Change::Unpin => self.unpin(&source).await,
        };
        // Whoever asked may have left; what was asked for is done.
        let _ = answer.send(reply.unwrap_or_else(|why| (StatusCode::CONFLICT, json!({ "error": why }))));
    }

    async fn rollback(&mut self, to: u64, source: &str) -> Result<Reply, String> {
        if let Some(pinned) = self.history().pinned() {
            return Err(format!("generation {pinned} is pinned: unpin it first"));
        }
        let left = self.shared.snapshot.load_full();
        let generation = self.go_back(to, Cause { action: "rollback", source }).await?;
        if left.config.digest() != self.shared.snapshot.load().config.digest() {
            {
                let mut history = self.history();
                history.mark_bad(left.config.digest(), &format!("taken back by {source}"));
                // Whoever goes forth again wants that one, whatever was said about it before.
                history.forget(self.shared.snapshot.load().config.digest());
            }
            self.keep_marks();
        }
        self.shared.metrics.process.rollbacks.inc();
        Ok(self.done(generation, to, &left.config))
    }

    async fn pin(&mut self, to: u64, source: &str) -> Result<Reply, String> {
        let left = self.shared.snapshot.load_full();
        let generation = match to == left.generation {
            true => to,
            false => self.go_back(to, Cause { action: "pin", source }).await?,
        };
        self.history().pin(Some(generation));
        self.keep_marks();
        self.stale = Some(format!("generation {generation} is pinned by {source}, and the file is not looked at"));
        self.tell_stale();
        self.control.stale(self.stale.as_deref());
        if to == left.generation {
            self.tell(Cause { action: "pin", source }, "live", "", 0, None);
        }
        Ok(self.done(generation, to, &left.config))
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
        self.control.stale(self.stale.as_deref());
        self.reload(source).await;
        let live = self.shared.snapshot.load().generation;
        Ok(self.done(live, pinned, &left.config))
    }

    async fn go_back(&mut self, to: u64, cause: Cause<'_>) -> Result<u64, String> {
        let live = self.shared.snapshot.load().generation;
        if to == live {
            return Err(format!("generation {to} is live"));
        }
        let config = self.history().find(to)?;
        let before = self.stale.take();
        let next = self.history().next_generation();
        self.stale = Some(format!(
            "generation {next} is generation {to} again, by {}; the file is taken again when it changes",
            cause.source
        ));
        let gone = self.go_live(config, cause, None).await;
        if gone.is_err() {
            self.stale = before;
        }
        gone
    }

    fn done(&self, generation: u64, asked: u64, left: &crate::config::Config) -> Reply {
        let live = self.shared.snapshot.load();
        let kept = self.history().store().is_some();
        let changes = diff::changes(left, &live.config);
        (
            StatusCode::OK,
            json!({
                "generation": generation,
                "asked": asked,
                "summary": diff::summary(&changes),
                "changes": changes,
                "stale": self.stale,
                "survivesRestart": kept,
            }),
        )
    }
}

//! What the admin endpoints show of the running process, and may ask of it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::admin::routes::Provider;
use crate::config::Config;
use crate::config::schema::Level;
use crate::telemetry::logs::Logs;
use crate::telemetry::rfc3339::Rfc3339;
use crate::worker::{PoolReport, Shared};

pub struct Control {
    shared: Arc<Shared>,
    logs: Logs,
    /// Somebody asked to drain.
    pub drain: Notify,
    status: Mutex<Status>,
}

#[derive(Default)]
struct Status {
    live: Value,
    last_attempt: Value,
}

impl Control {
    pub fn new(shared: Arc<Shared>, logs: Logs) -> Self {
        Self { shared, logs, drain: Notify::new(), status: Mutex::default() }
    }

    pub fn accepted(&self, config: &Config, generation: u64) {
        let at = Rfc3339(SystemTime::now()).to_string();
        let files: Vec<String> = config.files().iter().map(|file| file.display().to_string()).collect();
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.live = json!({ "generation": generation, "digest": config.digest(), "loadedAt": at, "files": files });
        status.last_attempt = json!({ "at": at, "result": "success", "problems": [] });
    }

    pub fn refused(&self, problems: Value) {
        let at = Rfc3339(SystemTime::now()).to_string();
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.last_attempt = json!({ "at": at, "result": "failure", "problems": problems });
    }
}

impl Provider for Control {
    fn config(&self) -> Value {
        self.shared.snapshot.load().config.dump()
    }

    fn config_status(&self) -> Value {
        let status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        json!({ "live": status.live, "lastAttempt": status.last_attempt })
    }

    fn clusters(&self) -> Value {
        let reports: Vec<PoolReport> = self.shared.workers.iter().flat_map(|worker| worker.pools()).collect();
        let snapshot = self.shared.snapshot.load();
        let services = snapshot.services.iter().map(|service| {
            let endpoints = service.upstream.endpoints().borrow().clone();
            let endpoints: Vec<Value> = endpoints
                .iter()
                .map(|endpoint| {
                    let sum = |value: fn(&PoolReport) -> u64| -> u64 {
                        let same = |report: &&PoolReport| {
                            report.address == endpoint.address && *report.service == *service.name
                        };
                        reports.iter().filter(same).map(value).sum()
                    };
                    json!({
                        "address": endpoint.address.to_string(),
                        "labels": endpoint.labels,
                        "zone": endpoint.zone.as_deref(),
                        "weight": endpoint.weight,
                        "connections": sum(|report| report.open),
                        "idle": sum(|report| report.idle),
                        "inFlight": sum(|report| report.in_flight),
                        "pending": sum(|report| report.pending),
                    })
                })
                .collect();
            let name = service.name.to_string();
            (name, json!({ "discovery": service.upstream.describe(), "endpoints": endpoints }))
        });
        Value::Object(services.collect())
    }

    fn drain(&self) {
        self.drain.notify_one();
    }

    fn level(&self) -> Level {
        self.logs.level()
    }

    fn set_level(&self, level: Level) {
        self.logs.set_level(level);
    }
}

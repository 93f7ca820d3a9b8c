//! What the admin endpoints show of the running process, and may ask of it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use http::StatusCode;
use serde_json::{Map, Value, json};
use tokio::sync::{Notify, mpsc, oneshot};

use super::Command;
use super::history::History;
use super::trial::Trial;
use crate::admin::question::{Answering, Change, Question, Reply};
use crate::admin::routes::Provider;
use crate::blast;
use crate::config::schema::Level;
use crate::config::{self, Config, diff};
use crate::explain::{self, Ask, Live};
use crate::identity;
use crate::snapshot::limits::RateLimit;
use crate::snapshot::{Route, Service, Transport, circuit, compile};
use crate::telemetry::logs::Logs;
use crate::telemetry::rfc3339::Rfc3339;
use crate::wire::address::Address;
use crate::wire::spiffe::SpiffeId;
use crate::worker::{PoolReport, Shared};

pub struct Control {
    shared: Arc<Shared>,
    logs: Logs,
    /// Somebody asked to drain.
    pub drain: Notify,
    status: Mutex<Status>,
    history: Arc<Mutex<History>>,
    commands: mpsc::Sender<Command>,
}

#[derive(Default)]
struct Status {
    live: Value,
    last_attempt: Value,
    stale: Option<String>,
    probation: Value,
}

impl Control {
    pub fn new(shared: Arc<Shared>, logs: Logs, history: Arc<Mutex<History>>, commands: mpsc::Sender<Command>) -> Self {
        Self { shared, logs, drain: Notify::new(), status: Mutex::default(), history, commands }
    }

    pub fn accepted(&self, config: &Config, generation: u64) {
        let at = Rfc3339(SystemTime::now()).to_string();
        let files: Vec<String> = config.files().iter().map(|file| file.display().to_string()).collect();
        let digest = config.digest();
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.live = json!({ "generation": generation, "digest": digest, "loadedAt": at, "files": files });
        status.last_attempt = json!({ "at": at, "result": "success", "problems": [] });
    }

    pub fn refused(&self, problems: Value) {
        let at = Rfc3339(SystemTime::now()).to_string();
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.last_attempt = json!({ "at": at, "result": "failure", "problems": problems });
    }

    pub fn stale(&self, stale: Option<&str>) {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).stale = stale.map(str::to_owned);
    }

    pub fn trial(&self, trial: Option<&Trial>) {
        let probation = trial.map(|trial| {
            let left = trial.until.saturating_duration_since(std::time::Instant::now());
            let until = Rfc3339(SystemTime::now() + left).to_string();
            json!({ "until": until, "routes": trial.routes, "previousGeneration": trial.previous.generation })
        });
        self.status.lock().unwrap_or_else(PoisonError::into_inner).probation = probation.unwrap_or_default();
    }
}

/// What the endpoints of a service have to prove.
fn transport(transport: &Transport) -> Value {
    match transport {
        Transport::Plain => Value::Null,
        Transport::Mutual { expected, server_name } => {
            let identities: Vec<String> = expected.iter().map(ToString::to_string).collect();
            json!({ "mode": "mutual", "identities": identities, "serverName": server_name.as_deref() })
        }
        Transport::Simple { server_name, .. } => json!({ "mode": "simple", "serverName": server_name.as_deref() }),
    }
}

impl Provider for Control {
    fn config(&self) -> Value {
        self.shared.snapshot.load().config.dump()
    }

    fn config_status(&self) -> Value {
        let status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        let pinned = self.history.lock().unwrap_or_else(PoisonError::into_inner).pinned();
        json!({
            "live": status.live,
            "stale": status.stale,
            "pinned": pinned,
            "probation": status.probation,
            "lastAttempt": status.last_attempt,
        })
    }

    fn certs(&self) -> Value {
        identity::report(&self.shared.material.load(), SystemTime::now())
    }

    fn clusters(&self) -> Value {
        let reports = by_endpoint(reports(&self.shared));
        let snapshot = self.shared.snapshot.load();
        let now = Instant::now();
        let routes: Vec<&Route> = snapshot.routes.iter().filter(|route| route.circuit.is_some()).collect();
        let services = snapshot.services.iter().enumerate().map(|(index, service)| {
            let endpoints = service.upstream.endpoints().borrow().clone();
            let endpoints: Vec<Value> = endpoints
                .iter()
                .map(|endpoint| {
                    let of_it = reports.get(&(service.name.clone(), endpoint.address.clone()));
                    let of_it = of_it.map_or(&[][..], Vec::as_slice);
                    let live = live(of_it);
                    let standing = service.upstream.standing(&endpoint.address);
                    let latency = of_it.iter().filter_map(|report| report.latency).max();
                    json!({
                        "address": endpoint.address.to_string(),
                        "labels": endpoint.labels,
                        "zone": endpoint.zone.as_deref(),
                        "region": endpoint.region.as_deref(),
                        "priority": endpoint.priority,
                        "weight": endpoint.weight,
                        "available": standing.is_available() && of_it.iter().all(|report| !report.unreached),
                        "unhealthy": standing.is_unhealthy(),
                        // Each worker finds it out for itself.
                        "unreached": of_it.iter().any(|report| report.unreached),
                        "latencyMs": latency.map(|latency| (latency.as_secs_f64() * 1e6).round() / 1e3),
                        "identity": endpoint.identity.as_ref().map(SpiffeId::as_str),
                        "healthCheck": service.upstream.checked(&endpoint.address),
                        "ejection": service.upstream.ejection(&endpoint.address),
                        "connections": live.connections,
                        "idle": live.idle,
                        "inFlight": live.in_flight,
                        "pending": live.pending,
                    })
                })
                .collect();
            let name = service.name.to_string();
            let tls = transport(&service.transport);
            let policy = service.balance.policy;
            let panic = self.shared.metrics.panics.get(&service.name).load(Ordering::Relaxed) > 0;
            let balancing = json!({ "policy": policy, "panic": panic });
            let discovery = service.upstream.describe();
            let limits = service.describe_limits();
            let (breaker, of_routes, classes) = circuit::describe(index, service, &routes, now);
            let mut told = json!({
                "discovery": discovery,
                "tls": tls,
                "loadBalancer": balancing,
                "circuitBreaker": breaker,
                "routeCircuitBreakers": of_routes,
                "errorClasses": classes,
                "endpoints": endpoints,
            });
            told.as_object_mut().zip(limits).map(|(told, limits)| told.insert("limits".to_owned(), limits));
            (name, told)
        });
        Value::Object(services.collect())
    }

    fn limits(&self) -> Value {
        let (snapshot, now) = (self.shared.snapshot.load(), Instant::now());
        let all = |limits: &[RateLimit]| limits.iter().map(|limit| limit.describe(now)).collect::<Vec<_>>();
        let routes = snapshot.routes.iter().filter(|route| !route.rate_limits.is_empty());
        let routes: Map<_, _> = routes.map(|route| (route.name.to_string(), all(&route.rate_limits).into())).collect();
        let limited = |service: &&Service| service.limits.is_some() || !service.rate_limits.is_empty();
        let services = snapshot.services.iter().filter(limited).map(|service| {
            let limits = service.describe_limits();
            (service.name.to_string(), json!({ "rateLimit": all(&service.rate_limits), "limits": limits }))
        });
        let services: Map<_, _> = services.collect();
        let memory = &self.shared.memory;
        let memory = memory.used().map(|used| json!({ "usedPercent": used, "limit": memory.limit().to_string() }));
        json!({ "routes": routes, "services": services, "memory": memory })
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

    fn ask(&self, question: Question, peer: SocketAddr) -> Answering {
        let shared = self.shared.clone();
        // Disks are read without the lock.
        let history = || self.history.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match question {
            Question::Explain(ask) => Box::pin(async move {
                // It may look at a hundred thousand routes.
                let explained = tokio::task::spawn_blocking(move || explain(&shared, &ask)).await;
                explained.unwrap_or_else(|error| failed(&error))
            }),
            Question::Why(id) => Box::pin(async move { super::recent::why(&shared, id).await }),
            Question::Recent { filter, limit } => {
                Box::pin(async move { super::recent::list(&shared, filter, limit).await })
            }
            Question::Shadow => Box::pin(async move { super::recent::shadow(&shared).await }),
            Question::Peers(how) => Box::pin(async move { super::recent::peers(&shared, how).await }),
            Question::Learned { yaml } => Box::pin(async move { super::recent::learned(&shared, yaml).await }),
            Question::Unknown => Box::pin(async move { super::recent::unknown(&shared).await }),
            Question::History => {
                let history = history();
                off_thread(move || Ok(history.report()))
            }
            Question::Show(generation) => {
                let history = history();
                off_thread(move || history.show(generation))
            }
            Question::Changes { from, to } => {
                let history = history();
                off_thread(move || {
                    let changes = diff::changes(&*history.find(from)?, &*history.find(to)?);
                    Ok(json!({ "from": from, "to": to, "summary": diff::summary(&changes), "changes": changes }))
                })
            }
            Question::Diff(files) => Box::pin(async move { radius(&shared, files).await }),
            Question::Faults(stop) => ready(super::traffic::faults(&shared, stop)),
            Question::Mirrors => ready(super::traffic::mirrors(&shared)),
            Question::Canaries => ready(super::traffic::report(&shared)),
            Question::Change(change) => self.command(change, format!("admin {peer}")),
        }
    }
}

impl Control {
    fn command(&self, change: Change, source: String) -> Answering {
        let (answer, answered) = oneshot::channel();
        let sent = self.commands.try_send(Command { change, source, answer });
        Box::pin(async move {
            let busy = json!({ "error": "the proxy is busy, or stopping" });
            match sent {
                Ok(()) => answered.await.unwrap_or((StatusCode::SERVICE_UNAVAILABLE, busy)),
                Err(_) => (StatusCode::SERVICE_UNAVAILABLE, busy),
            }
        })
    }
}

fn ready(value: Value) -> Answering {
    Box::pin(std::future::ready((StatusCode::OK, value)))
}

/// Work that may wait for a disk, or takes its time.
fn off_thread(work: impl FnOnce() -> Result<Value, String> + Send + 'static) -> Answering {
    Box::pin(async move {
        match tokio::task::spawn_blocking(work).await {
            Ok(Ok(value)) => (StatusCode::OK, value),
            Ok(Err(why)) => (StatusCode::NOT_FOUND, json!({ "error": why })),
            Err(error) => failed(&error),
        }
    })
}

fn failed(error: &tokio::task::JoinError) -> Reply {
    (StatusCode::INTERNAL_SERVER_ERROR, json!({ "error": error.to_string() }))
}

fn explain(shared: &Shared, ask: &Ask) -> Reply {
    let snapshot = shared.snapshot.load();
    match explain::explain(&snapshot, ask) {
        Ok(mut explanation) => {
            let reports = by_endpoint(reports(shared));
            for side in &mut explanation.sides {
                let service: Arc<str> = side.to.split('/').next().unwrap_or_default().into();
                for endpoint in &mut side.endpoints {
                    let of_it = reports.get(&(service.clone(), endpoint.address.clone()));
                    endpoint.live = Some(live(of_it.map_or(&[][..], Vec::as_slice)));
                }
            }
            (StatusCode::OK, serde_json::to_value(&explanation).unwrap_or_default())
        }
        Err(why) => (StatusCode::BAD_REQUEST, json!({ "error": why })),
    }
}

/// What another configuration would change, in words and in traffic.
async fn radius(shared: &Shared, files: Vec<(String, String)>) -> Reply {
    let live = shared.snapshot.load().config.clone();
    let env = |name: &str| std::env::var(name).ok();
    let parsed = tokio::task::spawn_blocking(move || config::parse_beside(&live, &files, &env));
    let new = match parsed.await {
        Ok(Ok(new)) => Arc::new(new),
        Ok(Err(report)) => return (StatusCode::UNPROCESSABLE_ENTITY, json!({ "problems": report })),
        Err(error) => return failed(&error),
    };
    let old = shared.snapshot.load_full();
    let samples = shared.ask(|worker| worker.reservoir.borrow_mut().take(Instant::now())).await;
    let runtime = tokio::runtime::Handle::current();
    let compared = tokio::task::spawn_blocking(move || {
        let _entered = runtime.enter();
        let changes = diff::changes(&old.config, &new);
        // Compiled as it would be for a reload, and forgotten; what is to be looked up for it is looked up once.
        let new = compile(new, old.generation + 1, Some(&old));
        let radius = blast::compare(&old, &new, &samples);
        json!({ "summary": diff::summary(&changes), "changes": changes, "radius": radius })
    });
    compared.await.map_or_else(|error| failed(&error), |answer| (StatusCode::OK, answer))
}

fn reports(shared: &Shared) -> Vec<PoolReport> {
    shared.workers.iter().flat_map(|worker| worker.pools()).collect()
}

/// The reports of all workers, by service and endpoint.
fn by_endpoint(reports: Vec<PoolReport>) -> HashMap<(Arc<str>, Address), Vec<PoolReport>> {
    let mut sorted: HashMap<_, Vec<PoolReport>> = HashMap::new();
    for report in reports {
        sorted.entry((report.service.clone(), report.address.clone())).or_default().push(report);
    }
    sorted
}

/// An endpoint, over all workers.
fn live(reports: &[PoolReport]) -> Live {
    reports.iter().fold(Live::default(), |sum, report| Live {
        connections: sum.connections + report.open,
        idle: sum.idle + report.idle,
        in_flight: sum.in_flight + report.in_flight,
        pending: sum.pending + report.pending,
    })
}

//! What the workers remember of recent exchanges, of who has connected, and of destinations, put together.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::StatusCode;
use serde_json::{Value, json};

use crate::admin::question::Reply;
use crate::policy::learned::TTL;
use crate::snapshot::redirected::Destination;
use crate::snapshot::{Kind, Snapshot};
use crate::telemetry::learned;
use crate::telemetry::peers::{self, How};
use crate::telemetry::recent::{Filter, Kept};
use crate::telemetry::{shadow, unknown};
use crate::worker::Shared;

/// The exchange with this id; the newest, where several had it.
pub async fn why(shared: &Shared, id: String) -> Reply {
    let asked = shared.ask(move |worker| {
        let recent = worker.recent.borrow();
        (recent.is_on(), worker.index, recent.find(id.as_bytes()), recent.kept())
    });
    let answers = asked.await;
    let answered = answers.len();
    if answers.iter().all(|(on, ..)| !on) {
        return off();
    }
    let kept = answers.iter().map(|(.., kept)| *kept).reduce(Kept::and);
    let found = answers.into_iter().filter_map(|(_, index, found, _)| Some(of_worker(found?, index)));
    match found.max_by(|a, b| time(a).cmp(time(b))) {
        Some(found) => (StatusCode::OK, found),
        None => {
            let kept = kept.unwrap_or_default().json();
            let workers = shared.workers.len();
            let error = match answered == workers {
                true => "no longer kept, or never seen".to_owned(),
                false => {
                    format!("no longer kept, never seen, or asked in vain: {answered} of {workers} workers answered")
                }
            };
            (StatusCode::NOT_FOUND, json!({ "error": error, "kept": kept }))
        }
    }
}

fn of_worker(mut exchange: Value, index: usize) -> Value {
    exchange["worker"] = index.into();
    exchange
}

/// As it is written, it sorts.
fn time(exchange: &Value) -> &str {
    exchange["time"].as_str().unwrap_or_default()
}

/// Where nothing is kept at all, that is the answer to every question.
fn off() -> Reply {
    let error = "no exchange is kept: telemetry.recent is 0, or less than 16Ki for each worker";
    (StatusCode::NOT_FOUND, json!({ "error": error }))
}

pub async fn list(shared: &Shared, filter: Filter, limit: usize) -> Reply {
    let asked = shared.ask(move |worker| {
        let recent = worker.recent.borrow();
        (recent.is_on(), worker.index, recent.list(filter, limit), recent.kept())
    });
    let answers = asked.await;
    if answers.iter().all(|(on, ..)| !on) {
        return off();
    }
    let (mut all, mut kept) = (Vec::new(), Kept::default());
    for (_, index, some, of) in answers {
        all.extend(some.into_iter().map(|one| of_worker(one, index)));
        kept = kept.and(of);
    }
    all.sort_by(|a, b| time(b).cmp(time(a)));
    all.truncate(limit);
    (StatusCode::OK, json!({ "exchanges": all, "kept": kept.json() }))
}

pub async fn shadow(shared: &Shared) -> Reply {
    let examples = shared.ask(|worker| worker.shadow.borrow().all()).await.into_iter().flatten().collect();
    (StatusCode::OK, shadow::report(&shared.metrics, examples))
}

pub async fn peers(shared: &Shared, how: Option<How>) -> Reply {
    let workers = shared.ask(|worker| worker.peers.borrow().all()).await;
    (StatusCode::OK, peers::report(workers, how))
}

pub async fn unknown(shared: &Shared) -> Reply {
    let workers = shared.ask(|worker| worker.unknown.borrow().all()).await;
    (StatusCode::OK, unknown::report(workers, (Instant::now(), SystemTime::now())))
}

pub async fn learned(shared: &Shared, yaml: bool) -> Reply {
    let now = (Instant::now(), SystemTime::now());
    let workers = shared.ask(move |worker| worker.learned.borrow().entries(now.0)).await;
    let value = match yaml {
        true => {
            let snapshot = shared.snapshot.load();
            learned::yaml(workers, inbound(&snapshot), |address| service(&snapshot, address)).into()
        }
        false => learned::report(workers, TTL, now),
    };
    (StatusCode::OK, value)
}

/// Name of the listener that the ports of the application belong to.
fn inbound(snapshot: &Snapshot) -> &str {
    let mut listeners = snapshot.listeners.iter();
    listeners.find(|one| matches!(one.kind, Kind::Inbound(_))).map_or("inbound", |listener| &listener.name)
}

/// The service that an outbound listener takes a destination for.
fn service(snapshot: &Snapshot, address: SocketAddr) -> Option<Arc<str>> {
    let mut found = snapshot.listeners.iter().filter_map(|listener| match &listener.kind {
        Kind::Outbound(outbound) => match outbound.destination(snapshot, Some(address)) {
            Destination::Service(service, _) => snapshot.services.get(service),
            Destination::Unknown => None,
        },
        Kind::Http { .. } | Kind::Tcp(_) | Kind::Inbound(_) => None,
    });
    found.next().map(|service| service.name.clone())
}

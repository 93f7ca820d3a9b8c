//! What the workers remember of recent exchanges, put together.

use http::StatusCode;
use serde_json::{Value, json};

use crate::admin::question::Reply;
use crate::telemetry::recent::{Filter, Kept};
use crate::telemetry::shadow;
use crate::worker::Shared;

const OFF: &str = "no exchange is kept: telemetry.recent is 0, or less than 16Ki for each worker";

/// The exchange with this id. Where several had it, the newest of the first worker that knows it.
pub async fn why(shared: &Shared, id: String) -> Reply {
    let asked = shared.ask(move |worker| {
        let recent = worker.recent.borrow();
        recent.is_on().then(|| (worker.index, recent.find(id.as_bytes()), recent.kept()))
    });
    let answers: Vec<_> = asked.await.into_iter().flatten().collect();
    if answers.is_empty() {
        return (StatusCode::NOT_FOUND, json!({ "error": OFF }));
    }
    let kept = answers.iter().map(|(_, _, kept)| *kept).reduce(Kept::and);
    match answers.into_iter().find_map(|(index, found, _)| Some((index, found?))) {
        Some((index, mut found)) => {
            found["worker"] = index.into();
            (StatusCode::OK, found)
        }
        None => {
            let kept = kept.map(|kept| kept.json()).unwrap_or_default();
            (StatusCode::NOT_FOUND, json!({ "error": "no longer kept, or never seen", "kept": kept }))
        }
    }
}

pub async fn list(shared: &Shared, filter: Filter, limit: usize) -> Reply {
    let answers = shared.ask(move |worker| {
        let recent = worker.recent.borrow();
        recent.is_on().then(|| (recent.list(filter, limit), recent.kept()))
    });
    let (mut all, mut kept) = (Vec::new(), None);
    for (some, of) in answers.await.into_iter().flatten() {
        all.extend(some);
        kept = Some(kept.map_or(of, |sum: Kept| sum.and(of)));
    }
    if kept.is_none() {
        return (StatusCode::NOT_FOUND, json!({ "error": OFF }));
    }
    all.sort_by(|a: &Value, b| b["time"].as_str().cmp(&a["time"].as_str()));
    all.truncate(limit);
    (StatusCode::OK, json!({ "exchanges": all, "kept": kept.map(|kept| kept.json()).unwrap_or_default() }))
}

pub async fn shadow(shared: &Shared) -> Reply {
    let examples = shared.ask(|worker| worker.shadow.borrow().all()).await.into_iter().flatten().collect();
    (StatusCode::OK, shadow::report(&shared.metrics, examples))
}

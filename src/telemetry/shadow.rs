//! The last requests that a rule in shadow mode would have refused. Each worker keeps a few; counts are in `block`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Value, json};

use super::metrics::Metrics;
use super::rfc3339::Rfc3339;
use crate::policy::guard::Guard;
use crate::wire::address::Address;
use crate::wire::spiffe::SpiffeId;

/// Examples that one worker keeps.
const KEPT: usize = 64;
/// Characters of a path that are kept.
const PATH_MAX: usize = 256;
const METHOD_MAX: usize = 32;

#[derive(Debug, Clone)]
pub struct Example {
    pub time: SystemTime,
    pub id: String,
    pub route: Arc<str>,
    pub guard: Guard,
    /// Bytes, or microseconds, as the rule has it.
    pub limit: u64,
    pub actual: u64,
    /// Of `authorization`, where it was that.
    pub entry: String,
    pub method: String,
    /// Without its query.
    pub path: String,
    pub peer: Address,
    /// What the peer has proven to be.
    pub identity: Option<SpiffeId>,
}

#[derive(Debug, Default)]
pub struct Examples(VecDeque<Example>);

impl Examples {
    pub fn push(&mut self, mut example: Example) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        example.path.truncate(example.path.floor_char_boundary(PATH_MAX));
        example.method.truncate(example.method.floor_char_boundary(METHOD_MAX));
        self.0.push_back(example);
    }

    pub fn all(&self) -> Vec<Example> {
        self.0.iter().cloned().collect()
    }
}

/// The answer of `/shadow`: counts by route and rule, and the newest examples first.
pub fn report(metrics: &Metrics, mut examples: Vec<Example>) -> Value {
    examples.sort_by_key(|example| std::cmp::Reverse(example.time));
    examples.truncate(KEPT);
    let counts = metrics.shadows().into_iter().map(|((listener, route, guard), count)| {
        json!({ "listener": listener.as_ref(), "route": route.as_ref(), "rule": guard.name(), "count": count })
    });
    let examples = examples.iter().map(|example| {
        let mut json = json!({
            "time": Rfc3339(example.time).to_string(),
            "requestId": example.id,
            "route": example.route.as_ref(),
            "rule": example.guard.name(),
            "entry": example.entry,
            "limit": example.guard.shown(example.limit),
            "actual": example.guard.shown(example.actual),
            "method": example.method,
            "path": example.path,
            "peer": example.peer.to_string(),
            "identity": example.identity.as_ref().map(SpiffeId::as_str),
        });
        // What does not apply is left out: a connection that is only relayed has neither a method nor a path.
        json.as_object_mut().into_iter().for_each(|json| json.retain(|_, value| !value.is_null() && *value != ""));
        json
    });
    let entries = metrics.denials.all().into_iter().filter(|(_, denials)| denials.shadow.get() > 0);
    let entries = entries.map(|((listener, entry), denials)| {
        json!({ "listener": listener.as_ref(), "entry": entry.as_ref(), "count": denials.shadow.get() })
    });
    json!({
        "counts": counts.collect::<Vec<_>>(),
        "authorization": entries.collect::<Vec<_>>(),
        "examples": examples.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_so_many_are_kept() {
        let mut examples = Examples::default();
        for n in 0..1000 {
            examples.push(Example {
                time: SystemTime::UNIX_EPOCH,
                id: n.to_string(),
                route: "r".into(),
                guard: Guard::MaxBody,
                limit: 10,
                actual: n,
                entry: String::new(),
                method: "POST".to_owned(),
                path: "é".repeat(1000),
                peer: Address::unnamed(),
                identity: None,
            });
        }
        let all = examples.all();
        assert_eq!((all.len(), all[0].actual, all[63].actual), (KEPT, 936, 999));
        assert!(all.iter().all(|example| example.path.len() <= PATH_MAX));
        let report = report(&Metrics::new(1, 1000), all);
        assert_eq!(report["examples"][0]["limit"], "10 bytes");
    }
}

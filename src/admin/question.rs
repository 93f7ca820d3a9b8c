//! What is asked of the process as a whole, and takes a while to answer: decisions, recent exchanges, the history of
//! the configuration. A question is made here from a path, a query or a body; `app` answers it.

use std::future::Future;
use std::pin::Pin;

use http::{StatusCode, Uri};
use serde::Deserialize;
use serde_json::Value;

use crate::explain::Ask;
use crate::policy::canary::Order;
use crate::telemetry::peers::How;
use crate::telemetry::recent::{Filter, LIST_MAX};
use crate::wire::path::query_get;

/// Entries of a list, unless told.
const LIMIT: usize = 50;

/// Status of the answer, and its body: JSON, but that a string is told as it is.
pub type Reply = (StatusCode, Value);
pub type Answering = Pin<Box<dyn Future<Output = Reply> + Send>>;

#[derive(Debug, Clone)]
pub enum Question {
    /// Why a request would go where it goes.
    Explain(Box<Ask>),
    /// What happened to the request with this id.
    Why(String),
    Recent {
        filter: Filter,
        limit: usize,
    },
    /// What rules in shadow mode would have refused.
    Shadow,
    /// Who has connected; only so, where that is said.
    Peers(Option<How>),
    /// What destinations have turned out to speak; as a piece of configuration, or to be read.
    Learned {
        yaml: bool,
    },
    /// What applications call that the configuration does not know.
    Unknown,
    History,
    /// One generation.
    Show(u64),
    /// What changed from one generation to the other.
    Changes {
        from: u64,
        to: u64,
    },
    /// What another configuration would change, over recent traffic.
    Diff(Vec<(String, String)>),
    /// Faults on purpose; stop them all before, or let them go on.
    Faults(Option<bool>),
    /// What became of copies of requests.
    Mirrors,
    Canaries,
    Change(Change),
}

/// Of the live configuration, by an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Rollback(u64),
    Pin(u64),
    Unpin,
    Canary { route: String, order: Order },
}

/// Bodies that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Explain,
    Diff,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Files {
    files: Vec<File>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    text: String,
}

impl Form {
    /// Largest body, in bytes.
    pub const fn limit(self) -> usize {
        match self {
            Self::Explain => 256 << 10,
            Self::Diff => 32 << 20,
        }
    }

    pub fn question(self, body: &[u8]) -> Result<Question, String> {
        let wrong = |error: serde_json::Error| format!("the body is not what is expected: {error}");
        match self {
            Self::Explain => serde_json::from_slice(body).map(|ask| Question::Explain(Box::new(ask))).map_err(wrong),
            Self::Diff => {
                let files: Files = serde_json::from_slice(body).map_err(wrong)?;
                Ok(Question::Diff(files.files.into_iter().map(|file| (file.name, file.text)).collect()))
            }
        }
    }
}

pub fn recent(uri: &Uri) -> Result<Question, String> {
    let filter = uri.query().and_then(|query| query_get(query, "filter"));
    let filter = filter.map_or(Ok(Filter::Notable), |filter| filter.parse());
    let filter = filter.map_err(|()| "say ?filter=failed, slow, notable or all".to_owned())?;
    let limit = number(uri, "limit").map_or(LIMIT, |limit| usize::try_from(limit).unwrap_or(LIST_MAX));
    Ok(Question::Recent { filter, limit: limit.min(LIST_MAX) })
}

pub fn peers(uri: &Uri) -> Result<Question, String> {
    let how = uri.query().and_then(|query| query_get(query, "how"));
    let how = how.map(|how| How::from_name(&how).ok_or("say ?how=mtls, tls, plaintext or passthrough")).transpose()?;
    Ok(Question::Peers(how))
}

pub fn learned(uri: &Uri) -> Result<Question, String> {
    let format = uri.query().and_then(|query| query_get(query, "format"));
    match format.as_deref() {
        None | Some("json") => Ok(Question::Learned { yaml: false }),
        Some("yaml") => Ok(Question::Learned { yaml: true }),
        Some(_) => Err("say ?format=json or yaml".to_owned()),
    }
}

/// Tells the canary of a route what to do.
pub fn canary(uri: &Uri, order: Order) -> Result<Question, String> {
    let route = uri.query().and_then(|query| query_get(query, "route"));
    let route = route.ok_or("say ?route= and the name of a route")?.into_owned();
    Ok(Question::Change(Change::Canary { route, order }))
}

/// A number of the query.
pub fn number(uri: &Uri, name: &str) -> Option<u64> {
    query_get(uri.query()?, name)?.parse().ok()
}

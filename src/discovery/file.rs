//! Endpoints that a file lists. It is read when the watch hears of a change, and now and then without one, so that
//! a file that vanished or cannot be read shows as well. A bad file leaves the last good list in force.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::timeout;

use super::{Endpoint, Publisher};
use crate::config::{self, source};

const REREAD: Duration = Duration::from_secs(5);
/// Between two readings of a list that is held back.
const SOONEST: Duration = Duration::from_millis(100);

/// What a file said, so that it is parsed only when it says something else.
struct Seen {
    bytes: Vec<u8>,
    result: Result<Vec<Endpoint>, String>,
}

pub(super) async fn run(path: PathBuf, default_port: Option<u16>, mut publisher: Publisher) {
    // Before the first reading: a change between the two is then heard of.
    let mut watch = match source::watch(path.clone()) {
        Ok(watch) => Some(watch),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "endpoints cannot be watched: the file is read every 5s");
            None
        }
    };
    let mut seen: Option<Seen> = None;
    loop {
        let mut soon = None;
        match read(path.clone()).await {
            Ok(bytes) => {
                let known = seen.take().filter(|seen| seen.bytes == bytes);
                let known = known.unwrap_or_else(|| Seen { result: parse(&path, &bytes, default_port), bytes });
                match &known.result {
                    Ok(list) => soon = publisher.publish(list.clone()),
                    Err(error) => publisher.fail(error.clone()),
                }
                seen = Some(known);
            }
            Err(error) => publisher.fail(error.to_string()),
        }
        let wait = soon.map_or(REREAD, |soon| soon.clamp(SOONEST, REREAD));
        let closed = match &mut watch {
            Some((_, changes)) => timeout(wait, changes.recv()).await == Ok(None),
            None => {
                tokio::time::sleep(wait).await;
                false
            }
        };
        if closed {
            watch = None;
        }
    }
}

/// A file system can hang; the thread that answers probes must not.
async fn read(path: PathBuf) -> io::Result<Vec<u8>> {
    tokio::task::spawn_blocking(move || source::read(&path)).await.map_err(io::Error::other)?
}

fn parse(path: &std::path::Path, bytes: &[u8], default_port: Option<u16>) -> Result<Vec<Endpoint>, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    let list = config::endpoints(path, text, default_port).map_err(|report| report.to_string())?;
    Ok(list.into_iter().map(Endpoint::from).collect())
}

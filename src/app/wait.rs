//! The first configuration, or the wait for it.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::first::{self, First};
use super::{EXIT_CONFIG, Options, Origin, Signals};
use crate::net::held::Held;

/// What a configuration refers to may change without it.
const AGAIN: Duration = Duration::from_secs(1);

/// And what was held meanwhile. An error has been told and is the exit code.
pub async fn first(
    origin: &Origin,
    options: &Options,
    changes: &mut mpsc::Receiver<()>,
    signals: &mut Signals,
) -> Result<(First, Held), u8> {
    let end = Instant::now() + options.await_config;
    let (mut held, mut told) = (None, String::new());
    loop {
        let why = match first::choose(origin, options.state_directory.clone()) {
            Ok(first) => return Ok((first, held.unwrap_or_default())),
            Err(why) => why,
        };
        if why != told {
            eprint!("{why}");
            told = why;
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(EXIT_CONFIG);
        }
        if held.is_none() {
            held = Some(Held::usual());
            eprintln!(
                "waiting for a configuration, for {:?} at most; redirected connections are held",
                options.await_config
            );
        }
        tokio::select! {
            Some(()) = changes.recv() => {}
            () = sleep(AGAIN.min(left)) => {}
            _ = signals.terminate.recv() => return Err(EXIT_CONFIG),
            _ = signals.interrupt.recv() => return Err(EXIT_CONFIG),
        }
    }
}

//! The configuration that a process begins with: the file's; or a pinned one; or, where the file is broken, missing or
//! known to be bad, the last good one of the state directory.

use std::path::PathBuf;
use std::sync::Arc;

use super::history::History;
use super::{EXIT_CONFIG, Origin};
use crate::config::{Config, Report};

/// How many configurations are kept where nothing says it.
const KEEP: u32 = 10;

pub struct First {
    pub config: Arc<Config>,
    pub generation: u64,
    /// Whether the state directory has it already.
    pub stored: bool,
    pub cause: String,
    /// Why this is not what the file says.
    pub stale: Option<String>,
    pub history: History,
    /// What is wrong with the state directory or its content.
    pub told: Vec<String>,
    /// What is wrong with the file.
    pub report: Option<Report>,
}

/// `directory` is the operator's, and overrides the configuration's own. An error has been told.
pub fn choose(origin: &Origin, directory: Option<PathBuf>) -> Result<First, u8> {
    let loaded = origin.load();
    let state = loaded.as_ref().ok().and_then(|config| config.root().state.as_ref());
    let keep = state.map_or(KEEP, |state| state.keep);
    let directory = directory.or_else(|| state.map(|state| state.directory.as_str().into()));
    let (history, opened) = History::open(directory, keep);
    let mut told: Vec<String> = opened.err().into_iter().collect();
    let (file, report) = match loaded {
        Ok(config) => (Some(config), None),
        Err(report) => (None, Some(report)),
    };
    if let Some(pinned) = history.pinned() {
        match history.find(pinned) {
            Ok(config) => {
                let stale = format!("generation {pinned} is pinned, and the file is not looked at");
                return Ok(First::stored(config, pinned, "pinned", stale, history, told, report));
            }
            Err(why) => told.push(format!("the pinned configuration cannot be used: {why}")),
        }
    }
    let bad = file.as_ref().and_then(|config| history.bad(config.digest())).map(|bad| bad.why.clone());
    if let (Some(config), None) = (file.as_ref(), &bad) {
        let (generation, stored) = match history.newest_stored() {
            Some((newest, Some(digest))) if digest == config.digest() => (newest, true),
            Some((newest, _)) => (newest.saturating_add(1), false),
            None => (1, false),
        };
        let config = Arc::new(config.clone());
        let cause = "start".to_owned();
        return Ok(First { config, generation, stored, cause, stale: None, history, told, report: None });
    }
    let why = match bad {
        Some(why) => format!("the file was taken back before, and has not changed since ({why})"),
        None => "the file cannot be used".to_owned(),
    };
    match history.last_good(&mut told) {
        Some((entry, config)) => {
            let stale = format!("the last good configuration, generation {}, is live: {why}", entry.generation);
            Ok(First::stored(Arc::new(config), entry.generation, "last good", stale, history, told, report))
        }
        None => {
            if let Some(report) = report {
                eprintln!("{report}");
            } else if let Some(config) = file {
                // Better the file, of which at least its owner knows, than nothing at all.
                told.push(format!("{why}; it goes live for want of any other"));
                return Ok(First::only(config, history, told));
            }
            told.iter().for_each(|line| eprintln!("state directory: {line}"));
            Err(EXIT_CONFIG)
        }
    }
}

impl First {
    fn stored(
        config: Arc<Config>,
        generation: u64,
        cause: &str,
        stale: String,
        mut history: History,
        told: Vec<String>,
        report: Option<Report>,
    ) -> Self {
        let cause = cause.to_owned();
        if let Some(state) = &config.root().state {
            history.set_keep(state.keep);
        }
        Self { config, generation, stored: true, cause, stale: Some(stale), history, told, report }
    }

    fn only(config: Config, history: History, told: Vec<String>) -> Self {
        let generation = history.newest_stored().map_or(1, |(newest, _)| newest.saturating_add(1));
        let (config, cause) = (Arc::new(config), "start".to_owned());
        Self { config, generation, stored: false, cause, stale: None, history, told, report: None }
    }
}

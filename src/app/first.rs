//! The configuration that a process begins with: the file's; or a pinned one; or, where the file is broken, missing or
//! known to be bad, the last good one of the state directory.

use std::path::PathBuf;
use std::sync::Arc;

use super::Origin;
use super::history::History;
use crate::config::{Config, Report};

/// How many configurations are kept where nothing says it.
const KEEP: u32 = 10;

pub struct First {
    pub config: Arc<Config>,
    pub generation: u64,
    /// Whether the state directory has it already.
    pub stored: bool,
    pub cause: &'static str,
    /// Why this is not what the file says.
    pub stale: Option<String>,
    pub history: History,
    /// What is wrong with the state directory or its content.
    pub told: Vec<String>,
    /// What is wrong with the file.
    pub report: Option<Report>,
}

/// One of those that it could be.
struct Choice {
    config: Config,
    generation: u64,
    stored: bool,
    cause: &'static str,
    stale: Option<String>,
}

/// `directory` is the operator's, and overrides the configuration's own. The error says what is wrong, line by line.
pub fn choose(origin: &Origin, directory: Option<PathBuf>) -> Result<First, String> {
    let (file, report) = match origin.load() {
        Ok(config) => (Some(config), None),
        Err(report) => (None, Some(report)),
    };
    let state = file.as_ref().and_then(|config| config.root().state.clone());
    let directory = directory.or_else(|| state.as_ref().map(|state| state.directory.as_str().into()));
    let (mut history, opened) = History::open(directory, state.as_ref().map_or(KEEP, |state| state.keep));
    let mut told: Vec<String> = opened.err().into_iter().collect();
    let choice = pinned(&history, &mut told)
        .or_else(|| from_file(&history, file.as_ref()))
        .or_else(|| last_good(&history, file.as_ref(), &mut told))
        .or_else(|| for_want_of_any_other(&history, file, &mut told));
    let Some(Choice { config, generation, stored, cause, stale }) = choice else {
        let report = report.iter().map(|report| format!("{report}\n"));
        return Err(report.chain(told.iter().map(|line| format!("state directory: {line}\n"))).collect());
    };
    // A file that cannot be read does not say how many are kept; what runs instead of it does.
    if let (None, Some(state)) = (state, config.root().state.as_ref()) {
        history.set_keep(state.keep);
    }
    Ok(First { config: Arc::new(config), generation, stored, cause, stale, history, told, report })
}

fn pinned(history: &History, told: &mut Vec<String>) -> Option<Choice> {
    let generation = history.pinned()?;
    let stale = Some(format!("generation {generation} is pinned, and the file is not looked at"));
    match history.find(generation) {
        Ok(config) => Some(Choice { config: Config::clone(&config), generation, stored: true, cause: "pinned", stale }),
        Err(why) => {
            told.push(format!("the pinned configuration cannot be used: {why}"));
            None
        }
    }
}

fn from_file(history: &History, file: Option<&Config>) -> Option<Choice> {
    let config = file.filter(|config| history.bad(config.digest()).is_none())?.clone();
    Some(start(history, config))
}

fn last_good(history: &History, file: Option<&Config>, told: &mut Vec<String>) -> Option<Choice> {
    let (entry, config) = history.last_good(told)?;
    let generation = entry.generation;
    let why = match file.and_then(|config| history.bad(config.digest())) {
        Some(bad) => format!("the file was taken back before, and has not changed since ({})", bad.why),
        None => "the file cannot be used".to_owned(),
    };
    let stale = Some(format!("the last good configuration, generation {generation}, is live: {why}"));
    Some(Choice { config, generation, stored: true, cause: "last-good", stale })
}

/// A bad one, of which at least its owner knows, is better than nothing at all.
fn for_want_of_any_other(history: &History, file: Option<Config>, told: &mut Vec<String>) -> Option<Choice> {
    let config = file?;
    told.push("the file was taken back before; it goes live for want of any other".to_owned());
    Some(start(history, config))
}

fn start(history: &History, config: Config) -> Choice {
    // An unchanged file keeps its number.
    let known = history.newest_stored().filter(|(_, digest)| digest.as_deref() == Some(config.digest()));
    let generation = known.as_ref().map_or_else(|| history.next_generation(), |(generation, _)| *generation);
    Choice { config, generation, stored: known.is_some(), cause: "start", stale: None }
}

//! The configurations that went live: the newest in memory, and all of them in the state directory, where there is
//! one. A disk that fails costs the memory of them, never traffic.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Value, json};

use crate::config::{self, Config};
use crate::state::{Bad, Canary, Entry, Marks, Store};
use crate::telemetry::rfc3339::Rfc3339;

/// Generations that are listed.
const LISTED: usize = 1000;
/// Texts of former configurations that stay in memory, in bytes; the one before the live one always does.
const MEMORY: usize = 4 << 20;

/// A configuration that went live.
#[derive(Debug, Clone)]
pub struct Version {
    pub generation: u64,
    pub at: SystemTime,
    pub cause: String,
    pub summary: String,
    pub digest: String,
    pub config: Arc<Config>,
}

impl Version {
    /// What goes to the disk of it. May take a while.
    pub fn entry(&self) -> Entry {
        let storable = self.config.storable();
        Entry {
            generation: self.generation,
            digest: self.digest.clone(),
            at: self.at,
            cause: self.cause.clone(),
            summary: self.summary.clone(),
            files: storable.files,
            complete: storable.complete,
        }
    }
}

#[derive(Debug, Clone, Default)]
pub struct History {
    keep: usize,
    /// Oldest first; the last one is live.
    versions: VecDeque<Version>,
    /// The highest number that was ever seen here.
    highest: u64,
    store: Option<Arc<Store>>,
    marks: Marks,
}

impl History {
    /// Opens the state directory; the error is for the operator, and leaves a history without one.
    pub fn open(directory: Option<PathBuf>, keep: u32) -> (Self, Result<(), String>) {
        let mut history = Self { keep: keep as usize, ..Self::default() };
        let Some(directory) = directory else { return (history, Ok(())) };
        let opened = Store::open(directory, keep).map_err(|error| error.to_string());
        let told = match opened {
            Ok(store) => {
                let marks = store.marks().map_err(|error| error.to_string());
                history.highest = store.newest().ok().flatten().unwrap_or_default();
                history.store = Some(Arc::new(store));
                marks.map(|marks| history.marks = marks)
            }
            Err(error) => Err(error),
        };
        (history, told)
    }

    /// What the configuration says that goes live instead of one that cannot be read. For the start.
    pub fn set_keep(&mut self, keep: u32) {
        self.keep = keep as usize;
        if let Some(store) = self.store.as_mut().and_then(Arc::get_mut) {
            store.set_keep(keep);
        }
    }

    /// No number is used twice, even where what had it is damaged or was taken back.
    pub fn next_generation(&self) -> u64 {
        self.highest.saturating_add(1)
    }

    pub fn store(&self) -> Option<Arc<Store>> {
        self.store.clone()
    }

    /// The newest in the state directory, with its digest where it can be read.
    pub fn newest_stored(&self) -> Option<(u64, Option<String>)> {
        let store = self.store.as_ref()?;
        let generation = store.newest().ok().flatten()?;
        let entry = store.load(generation).ok().flatten();
        Some((generation, entry.map(|entry| entry.digest)))
    }

    /// The newest stored configuration that is whole, sound and not known to be bad. What is wrong with those before
    /// it goes to `told`.
    pub fn last_good(&self, told: &mut Vec<String>) -> Option<(Entry, Config)> {
        let store = self.store.as_ref()?;
        let list = store.list().map_err(|error| told.push(error.to_string())).ok()?;
        for entry in list {
            let entry = match entry {
                Ok(entry) => entry,
                Err(damaged) => {
                    told.push(format!("{} is damaged: {}", damaged.file, damaged.why));
                    continue;
                }
            };
            if self.bad(&entry.digest).is_some() {
                continue;
            }
            match stored(&entry) {
                Ok(config) => return Some((entry, config)),
                Err(why) => told.push(format!("generation {}: {why}", entry.generation)),
            }
        }
        None
    }

    /// A configuration that means the same as the live one takes its place. What is to be kept on the disk, and the
    /// number of what it replaces there.
    pub fn push(&mut self, mut version: Version) -> (Version, Option<u64>) {
        self.highest = self.highest.max(version.generation);
        let same = |live: &mut Version| live.digest == version.digest;
        let replaced = self.versions.pop_back_if(same).map(|live| {
            version.summary = live.summary;
            live.generation
        });
        self.versions.push_back(version.clone());
        let size = |version: &Version| version.config.sources().map(|(_, text)| text.len()).sum::<usize>();
        while self.versions.len() > 2
            && (self.versions.len() > self.keep.max(1) || self.versions.iter().map(size).sum::<usize>() > MEMORY)
        {
            self.versions.pop_front();
        }
        (version, replaced.filter(|replaced| self.marks.pin != Some(*replaced)))
    }

    pub fn live(&self) -> Option<&Version> {
        self.versions.back()
    }

    /// A configuration that was live, from memory or from the disk.
    pub fn find(&self, generation: u64) -> Result<Arc<Config>, String> {
        if let Some(version) = self.versions.iter().find(|version| version.generation == generation) {
            return Ok(version.config.clone());
        }
        stored(&self.load(generation)?).map(Arc::new)
    }

    /// The texts of a generation, without secrets.
    pub fn show(&self, generation: u64) -> Result<Value, String> {
        let entry = match self.versions.iter().find(|version| version.generation == generation) {
            Some(version) => version.entry(),
            None => self.load(generation)?,
        };
        let row = row(entry.generation, &entry.digest, entry.at, &entry.cause, &entry.summary);
        let mut row = with(row, "complete", entry.complete);
        row["files"] = files(&entry.files);
        Ok(row)
    }

    fn load(&self, generation: u64) -> Result<Entry, String> {
        let unknown =
            || format!("generation {generation} is not kept: `outrigger config history` lists those that are");
        let store = self.store.as_ref().ok_or_else(unknown)?;
        match store.load(generation) {
            Ok(Some(entry)) => Ok(entry),
            Ok(None) => Err(unknown()),
            Err(damaged) => Err(format!("{} is damaged: {}", damaged.file, damaged.why)),
        }
    }

    /// Newest first.
    pub fn report(&self) -> Value {
        let mut rows: Vec<(u64, Value)> = self
            .versions
            .iter()
            .map(|version| {
                let row = row(version.generation, &version.digest, version.at, &version.cause, &version.summary);
                (version.generation, with(row, "inMemory", true))
            })
            .collect();
        for entry in self.store.iter().filter_map(|store| store.list().ok()).flatten().take(LISTED) {
            let (generation, mut row) = match entry {
                Ok(entry) => {
                    let row = row(entry.generation, &entry.digest, entry.at, &entry.cause, &entry.summary);
                    (entry.generation, with(row, "complete", entry.complete))
                }
                Err(damaged) => {
                    let why = format!("{} is damaged: {}", damaged.file, damaged.why);
                    (damaged.generation, json!({ "generation": damaged.generation, "damaged": why }))
                }
            };
            row["stored"] = true.into();
            match rows.iter_mut().find(|(known, _)| *known == generation) {
                Some((_, known)) => *known = with(row, "inMemory", true),
                None => rows.push((generation, row)),
            }
        }
        rows.sort_by_key(|(generation, _)| std::cmp::Reverse(*generation));
        let live = self.live().map(|live| live.generation);
        let rows = rows.into_iter().map(|(generation, mut row)| {
            if Some(generation) == live {
                row["live"] = true.into();
            }
            if Some(generation) == self.marks.pin {
                row["pinned"] = true.into();
            }
            let digest = row["digest"].as_str().unwrap_or_default();
            if let Some(bad) = self.bad(digest) {
                row["bad"] = bad.why.as_str().into();
            }
            row
        });
        json!({
            "directory": self.store.as_ref().map(|store| store.directory().display().to_string()),
            "pinned": self.marks.pin,
            "generations": rows.collect::<Vec<_>>(),
        })
    }

    pub fn bad(&self, digest: &str) -> Option<&Bad> {
        self.marks.bad.iter().find(|bad| bad.digest == digest)
    }

    pub fn mark_bad(&mut self, digest: &str, why: &str) {
        self.forget(digest);
        self.marks.bad.push(Bad { digest: digest.to_owned(), since: SystemTime::now(), why: why.to_owned() });
        let beyond = self.marks.bad.len().saturating_sub(crate::state::BAD_MAX);
        self.marks.bad.drain(..beyond);
    }

    pub fn forget(&mut self, digest: &str) {
        self.marks.bad.retain(|bad| bad.digest != digest);
    }

    /// Whether there were any.
    pub fn forget_bad(&mut self) -> bool {
        !std::mem::take(&mut self.marks.bad).is_empty()
    }

    pub fn pinned(&self) -> Option<u64> {
        self.marks.pin
    }

    pub fn pin(&mut self, generation: Option<u64>) {
        self.marks.pin = generation;
    }

    pub fn canaries(&self) -> &[Canary] {
        &self.marks.canaries
    }

    /// Whether that is new.
    pub fn set_canaries(&mut self, canaries: Vec<Canary>) -> bool {
        std::mem::replace(&mut self.marks.canaries, canaries) != self.marks.canaries
    }

    pub fn marks(&self) -> Marks {
        self.marks.clone()
    }
}

/// The configuration of an entry, compiled anew: the environment may have changed.
fn stored(entry: &Entry) -> Result<Config, String> {
    if !entry.complete {
        return Err("it had secrets written in it, which are not kept: it cannot be used again".to_owned());
    }
    config::parse_all(&entry.files, &|name| std::env::var(name).ok()).map_err(|report| {
        let first = report.problems().first().map(|problem| problem.message.clone()).unwrap_or_default();
        format!("it cannot be read any more: {first}")
    })
}

fn with(mut row: Value, key: &str, value: bool) -> Value {
    row[key] = value.into();
    row
}

fn files(texts: &[(String, String)]) -> Value {
    texts.iter().map(|(name, text)| json!({ "name": name, "text": text })).collect()
}

fn row(generation: u64, digest: &str, at: SystemTime, cause: &str, summary: &str) -> Value {
    let at = Rfc3339(at).to_string();
    json!({ "generation": generation, "digest": digest, "at": at, "cause": cause, "summary": summary })
}

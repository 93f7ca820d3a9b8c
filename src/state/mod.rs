//! The state directory: the configurations that went live, newest last, what was said about them (pinned, bad), and where
//! their canaries stand.
//!
//! Knows nothing of what a configuration means. Every file is replaced as a whole and sealed with a checksum; one that
//! is damaged is named, and hides none of the others. Order is that of generations: clocks may jump. One process writes.

mod disk;
mod document;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, DirEntry};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::policy::canary::Stood;

pub use document::BYTES_MAX;

/// Highest number of a generation: the one after it is always a number as well.
pub const GENERATION_MAX: u64 = 999_999_999_999_999;
/// Marks of bad configurations that are kept: the newest.
pub const BAD_MAX: usize = 32;
/// Bytes of [`Bad::why`] that are kept.
const WHY_BYTES_MAX: usize = 1024;

const MARKS: &str = "marks.json";

/// A configuration that went live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub generation: u64,
    /// As [`crate::config::Config::digest`] gives it.
    pub digest: String,
    /// When it went live, by the clock of then. Kept to the millisecond.
    #[serde(with = "document::moment")]
    pub at: SystemTime,
    /// What brought it: `start`, `reload`, `rollback` …
    pub cause: String,
    /// What it changed, in words.
    pub summary: String,
    /// Name and text, without secrets: see [`crate::config::Storable`].
    pub files: Vec<(String, String)>,
    /// Whether the configuration can be compiled from `files`.
    pub complete: bool,
}

/// A file of the directory that cannot be what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damaged {
    pub generation: u64,
    /// Its name in the directory.
    pub file: String,
    pub why: String,
}

/// What was said about configurations.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marks {
    /// The generation that stays, and is never removed.
    pub pin: Option<u64>,
    /// Oldest first.
    pub bad: Vec<Bad>,
    /// Those that have moved.
    #[serde(default)]
    pub canaries: Vec<Canary>,
}

/// Where the canary of a route stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canary {
    pub route: String,
    /// Of the canary as it is written.
    pub digest: String,
    pub stood: Stood,
}

/// A configuration that is not to go live again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bad {
    pub digest: String,
    #[serde(with = "document::moment")]
    pub since: SystemTime,
    pub why: String,
}

/// An open state directory.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    keep: usize,
    /// A mark that is set is not overlooked by the removal that goes on at the same time.
    writing: Mutex<()>,
}

impl Store {
    /// Creates the directory (mode 0700) where there is none, and removes what an interrupted write left in it. One
    /// that can only be read opens as well. The newest `keep` generations (at least one) are kept.
    pub fn open(directory: impl Into<PathBuf>, keep: u32) -> io::Result<Self> {
        let directory = directory.into();
        let named = |error| about(&directory, "cannot open", &error);
        match fs::metadata(&directory) {
            Ok(meta) if !meta.is_dir() => return Err(named(io::ErrorKind::NotADirectory.into())),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                DirBuilder::new().recursive(true).mode(0o700).create(&directory).map_err(named)?;
            }
            Err(error) => return Err(named(error)),
        }
        let temporary = |name: &str| disk::is_temporary(name).then(|| name.to_owned());
        for name in names::<_, Vec<_>>(&directory, temporary).map_err(named)? {
            if let Err(error) = fs::remove_file(directory.join(&name)) {
                tracing::warn!(directory = %directory.display(), name, %error, "cannot remove a temporary file");
            }
        }
        let mut store = Self { directory, keep: 1, writing: Mutex::default() };
        store.set_keep(keep);
        Ok(store)
    }

    pub fn set_keep(&mut self, keep: u32) {
        self.keep = usize::try_from(keep).unwrap_or(usize::MAX).max(1);
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Once this returns, the entry survives a crash of the machine. Then removes the oldest beyond `keep`, but neither
    /// the pinned one nor this one. On an error nothing of what was saved before has changed. Blocks.
    pub fn save(&self, entry: &Entry) -> io::Result<()> {
        let named = |error| about(&self.directory, &format!("cannot save generation {}", entry.generation), &error);
        if entry.generation > GENERATION_MAX {
            return Err(named(io::Error::new(io::ErrorKind::InvalidInput, "the number is too high")));
        }
        let bytes = document::seal(entry).map_err(named)?;
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        disk::replace(&self.directory, &file(entry.generation), &bytes).map_err(named)?;
        self.prune(entry.generation);
        Ok(())
    }

    /// One that is not there is removed already. Blocks.
    pub fn remove(&self, generation: u64) -> io::Result<()> {
        match fs::remove_file(self.directory.join(file(generation))) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(about(&self.directory, &format!("cannot remove generation {generation}"), &error))
            }
            _ => Ok(()),
        }
    }

    /// Newest first, read one by one while iterating. The error is the directory's own; files have theirs.
    pub fn list(&self) -> io::Result<impl Iterator<Item = Result<Entry, Damaged>>> {
        let generations = self.generations()?;
        Ok(generations.into_iter().rev().filter_map(|generation| self.load(generation).transpose()))
    }

    /// `None` where there is no such file.
    pub fn load(&self, generation: u64) -> Result<Option<Entry>, Damaged> {
        let file = file(generation);
        let read = disk::read(&self.directory.join(&file)).and_then(|bytes| {
            let entry: Option<Entry> = bytes.map(|bytes| document::unseal(&bytes)).transpose()?;
            match entry {
                Some(entry) if entry.generation != generation => {
                    Err(format!("it has generation {} in it", entry.generation))
                }
                entry => Ok(entry),
            }
        });
        read.map_err(|why| Damaged { generation, file, why })
    }

    /// The highest number in use, by damaged files as well.
    pub fn newest(&self) -> io::Result<Option<u64>> {
        Ok(self.generations()?.last().copied())
    }

    /// None are set where there is no file of them; `InvalidData` where there is a damaged one.
    pub fn marks(&self) -> io::Result<Marks> {
        let read = disk::read(&self.directory.join(MARKS)).and_then(|bytes| match bytes {
            Some(bytes) => document::unseal(&bytes),
            None => Ok(Marks::default()),
        });
        read.map_err(|why| {
            about(&self.directory, &format!("cannot read {MARKS}"), &io::Error::new(io::ErrorKind::InvalidData, why))
        })
    }

    /// Replaces all marks, with the same guarantees as [`Store::save`]. Of `bad`, the last 32 are kept. Blocks.
    pub fn set_marks(&self, marks: &Marks) -> io::Result<()> {
        let named = |error| about(&self.directory, &format!("cannot write {MARKS}"), &error);
        let beyond = marks.bad.len().saturating_sub(BAD_MAX);
        let bad = marks.bad.iter().skip(beyond).cloned().map(|mut bad| {
            bad.why.truncate(bad.why.floor_char_boundary(WHY_BYTES_MAX));
            bad
        });
        let bytes = document::seal(&Marks { bad: bad.collect(), ..marks.clone() }).map_err(named)?;
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        disk::replace(&self.directory, MARKS, &bytes).map_err(named)
    }

    /// What cannot be removed is in nobody's way: it is tried again with the next one that is saved.
    fn prune(&self, saved: u64) {
        let removed = self.generations().and_then(|generations| {
            // Without the marks, any might be the pinned one.
            let pin = if generations.len() > self.keep { self.marks()?.pin } else { None };
            let others = generations.into_iter().rev().filter(|generation| *generation != saved);
            let mut beyond = others.skip(self.keep - 1).filter(|generation| Some(*generation) != pin);
            beyond.try_for_each(|generation| fs::remove_file(self.directory.join(file(generation))))
        });
        if let Err(error) = removed {
            tracing::warn!(directory = %self.directory.display(), %error, "cannot remove old configurations");
        }
    }

    fn generations(&self) -> io::Result<BTreeSet<u64>> {
        names(&self.directory, generation).map_err(|error| about(&self.directory, "cannot list", &error))
    }
}

fn about(directory: &Path, what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("state directory `{}`: {what}: {error}", directory.display()))
}

/// What is picked of the names; those that are not text are not ours.
fn names<T, C: FromIterator<T>>(directory: &Path, pick: impl Fn(&str) -> Option<T>) -> io::Result<C> {
    let picked = |entry: io::Result<DirEntry>| entry.map(|entry| pick(entry.file_name().to_str()?)).transpose();
    fs::read_dir(directory)?.filter_map(picked).collect()
}

fn file(generation: u64) -> String {
    format!("generation-{generation:06}.json")
}

/// Of a name that [`file()`] would give.
fn generation(name: &str) -> Option<u64> {
    let number = name.strip_prefix("generation-")?.strip_suffix(".json")?.parse().ok()?;
    (number <= GENERATION_MAX && file(number) == name).then_some(number)
}

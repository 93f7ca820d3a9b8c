//! Certificates while the proxy runs: the watch on their files, what becomes of a change, and what is told of it.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::App;
use super::reload::Cause;
use crate::admin::health::{Component, Status};
use crate::config::Config;
use crate::identity::{self, Material, Trouble, What};
use crate::telemetry::metrics::Certificate;
use crate::telemetry::rfc3339::Rfc3339;

/// Between two looks at the files. Not their content is looked at, and no directory: links, mounts and file systems of
/// networks are all the same to it, and what has changed is live well within a second.
const POLL: Duration = Duration::from_millis(200);
/// A certificate and its key may come one after the other: so long it is nobody's business.
const QUIET: Duration = Duration::from_secs(1);
/// What is refused for the time of day may be right later.
const AGAIN: Duration = Duration::from_secs(5);
/// Longest that a start or a reload waits for files: a file system may hang, and the thread that answers probes must not.
const READING: Duration = Duration::from_secs(5);

const SLOW: &str = "the files of certificates cannot be read within 5 s: does their file system hang?";

type Found = (Material, Vec<Trouble>);

/// A look at the files that is under way.
struct Reading {
    task: JoinHandle<Found>,
    config: Arc<Config>,
    /// What was live when it began.
    live: Arc<Material>,
    since: Instant,
    /// It was told of.
    late: bool,
}

/// One that is over.
pub struct Read {
    config: Arc<Config>,
    live: Arc<Material>,
    found: Result<Found, String>,
}

/// The state of the watch.
pub struct Rotation {
    files: watch::Sender<BTreeSet<PathBuf>>,
    changes: mpsc::Receiver<()>,
    /// At most one, however long it takes: each has a thread.
    reading: Option<Reading>,
    /// When to look although no file has changed.
    next: Option<Instant>,
    /// Since when there is something wrong that was not told yet.
    since: Option<Instant>,
    /// What was told of each part, until it is well again.
    told: BTreeSet<(What, String)>,
    /// The last mark that each certificate was warned of, and its end: another one begins anew.
    warned: HashMap<(What, String), (SystemTime, u8)>,
}

impl Rotation {
    /// Needs a runtime, on which it watches until it is dropped.
    pub fn new() -> Self {
        let (files, named) = watch::channel(BTreeSet::new());
        let (sender, changes) = mpsc::channel(1);
        tokio::spawn(poll(named, sender));
        Self { files, changes, reading: None, next: None, since: None, told: BTreeSet::new(), warned: HashMap::new() }
    }

    /// Waits until the files have to be looked at; or where that has begun, until it is over, with what they have.
    pub async fn due(&mut self) -> Option<Read> {
        if let Some(reading) = &mut self.reading {
            let end = reading.since + READING;
            let in_time = if reading.late { None } else { tokio::time::timeout_at(end, &mut reading.task).await.ok() };
            let found = match in_time {
                Some(found) => found,
                None => {
                    if !std::mem::replace(&mut reading.late, true) {
                        tracing::warn!(why = SLOW, "identity");
                    }
                    (&mut reading.task).await
                }
            };
            let Reading { config, live, .. } = self.reading.take()?;
            return Some(Read { config, live, found: found.map_err(|error| error.to_string()) });
        }
        let next = self.next;
        tokio::select! {
            Some(()) = self.changes.recv() => {}
            () = async { tokio::time::sleep_until(next.unwrap_or_else(Instant::now)).await }, if next.is_some() => {}
            else => std::future::pending().await,
        }
        None
    }

    /// Not while another one is under way.
    fn read(&mut self, config: Arc<Config>, live: Arc<Material>) {
        if self.reading.is_some() {
            return;
        }
        let (root, previous) = (config.clone(), live.clone());
        let read = move || identity::load(root.root(), Some(&previous), SystemTime::now());
        let task = tokio::task::spawn_blocking(read);
        self.reading = Some(Reading { task, config, live, since: Instant::now(), late: false });
    }

    /// Now, for a bounded time. What was under way is dropped: it may be of another configuration.
    async fn read_now(&mut self, config: Arc<Config>, live: Arc<Material>) -> Result<Found, String> {
        if let Some(Reading { task, since, .. }) = &mut self.reading {
            if tokio::time::timeout_at(*since + READING, task).await.is_err() {
                return Err(SLOW.to_owned());
            }
            self.reading = None;
            self.next = Some(Instant::now());
        }
        self.read(config, live);
        match tokio::time::timeout(READING, self.due()).await {
            Ok(Some(Read { found, .. })) => found,
            _ => Err(SLOW.to_owned()),
        }
    }
}

/// Device, inode, size and the time of the last change of what a path leads to.
type Mark = Option<(u64, u64, u64, i64, i64)>;

async fn poll(mut named: watch::Receiver<BTreeSet<PathBuf>>, changed: mpsc::Sender<()>) {
    let mut seen: Vec<(PathBuf, Mark)> = Vec::new();
    loop {
        let files = named.borrow_and_update().clone();
        if files.is_empty() {
            if named.changed().await.is_err() {
                return;
            }
            continue;
        }
        let Ok(found) = tokio::task::spawn_blocking(move || marks(files)).await else { return };
        if found != seen {
            seen = found;
            // Full is fine: then nobody has looked since the change before.
            let _ = changed.try_send(());
        }
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            () = changed.closed() => return,
        }
    }
}

fn marks(files: BTreeSet<PathBuf>) -> Vec<(PathBuf, Mark)> {
    let mark = |file: &PathBuf| {
        let found = fs::metadata(file).ok()?;
        Some((found.dev(), found.ino(), found.size(), found.ctime(), found.ctime_nsec()))
    };
    files.into_iter().map(|file| (mark(&file), file)).map(|(mark, file)| (file, mark)).collect()
}

impl App {
    /// What the files of a configuration have now.
    pub(super) async fn read_material(&mut self, config: &Arc<Config>) -> Result<(Material, Vec<Trouble>), String> {
        let live = self.shared.material.load_full();
        self.rotation.read_now(config.clone(), live).await
    }

    /// The first of all, unless the files take too long: then they are taken when they are there.
    pub(super) async fn first_material(&mut self) {
        self.rotate(None);
        if let Ok(read) = tokio::time::timeout(READING, self.rotation.due()).await {
            self.rotate(read);
        }
    }

    /// The files have changed, or time has gone by: they are read. Or they were.
    pub(super) fn rotate(&mut self, read: Option<Read>) {
        let (config, live) = (self.shared.snapshot.load().config.clone(), self.shared.material.load_full());
        self.rotation.next = None;
        match read {
            None => self.rotation.read(config, live),
            // There was a reload since.
            Some(read) if !Arc::ptr_eq(&read.config, &config) || !Arc::ptr_eq(&read.live, &live) => {
                self.rotation.read(config, live);
            }
            Some(Read { found: Ok((material, troubles)), .. }) => self.take_material(&config, material, &troubles),
            Some(Read { found: Err(why), .. }) => {
                tracing::warn!(why, "identity");
                self.rotation.next = Some(Instant::now() + AGAIN);
            }
        }
    }

    /// Makes it what handshakes are made with, and tells what there is to tell.
    pub(super) fn take_material(&mut self, config: &Config, material: Material, troubles: &[Trouble]) {
        self.rotation.files.send_if_modified(|files| {
            let named = identity::named_files(config.root());
            let other = *files != named;
            *files = named;
            other
        });
        let (old, new) = (self.shared.material.load_full(), Arc::new(material));
        self.shared.material.store(new.clone());
        if new.generation != old.generation {
            self.look();
            self.rotated(&old, &new);
        }
        self.tell_troubles(troubles);
        self.watch_life();
    }

    fn rotated(&self, old: &Material, new: &Material) {
        for what in new.changed(old) {
            let ends: Vec<_> = new.certificates().filter(|own| own.what == what).collect();
            let until = ends.iter().map(|own| own.not_after).min().map(|until| Rfc3339(until).to_string());
            let until = until.as_deref().unwrap_or_default();
            tracing::info!(of = %what, until, "certificates are live");
            if old.generation == 0 {
                // The first ones, and no rotation.
                continue;
            }
            self.shared.metrics.process.rotations.inc();
            let cause = Cause { action: "certificates", source: &format!("files of {what}") };
            self.tell(cause, "live", until, 0, None);
        }
    }

    /// What lasts for a moment only is not worth a word.
    fn tell_troubles(&mut self, troubles: &[Trouble]) {
        let rotation = &mut self.rotation;
        let of = |trouble: &Trouble| (trouble.what.clone(), trouble.to_string());
        for what in rotation.told.iter().map(|(what, _)| what).collect::<BTreeSet<_>>() {
            if !troubles.iter().any(|trouble| trouble.what == *what) {
                tracing::info!(of = %what, "files of certificates are well again");
            }
        }
        let still: BTreeSet<_> = troubles.iter().map(of).collect();
        rotation.told.retain(|told| still.contains(told));
        let is_news = |trouble: &&Trouble| !rotation.told.contains(&of(trouble));
        let news: Vec<&Trouble> = troubles.iter().filter(is_news).collect();
        let now = Instant::now();
        let quiet = !news.is_empty() && now.duration_since(*rotation.since.get_or_insert(now)) < QUIET;
        rotation.next = match (troubles, quiet) {
            ([], _) => None,
            (_, true) => Some(now + POLL),
            (_, false) => Some(now + AGAIN),
        };
        if quiet {
            return;
        }
        rotation.since = None;
        for trouble in &news {
            rotation.told.insert(of(trouble));
        }
        for trouble in news {
            let Trouble { what, key, file, why, serves_on, in_use, .. } = trouble;
            if *in_use {
                tracing::warn!(of = %what, key, file, why, "in use all the same");
                continue;
            }
            tracing::warn!(of = %what, key, file, why, serves_on, "files of certificates refused");
            self.shared.metrics.process.rotations_refused.inc();
            let cause = Cause { action: "certificates", source: &format!("files of {what}") };
            self.tell(cause, "refused", &trouble.to_string(), 1, None);
        }
    }

    /// Health, metrics and warnings, by the time that is left. Once a second.
    pub(super) fn watch_life(&mut self) {
        let (material, now) = (self.shared.material.load_full(), SystemTime::now());
        if material.is_empty() {
            self.health.remove(Component::Identity);
            return self.shared.metrics.process.set_certificates(Vec::new());
        }
        let of = |own: identity::Own<'_>| Certificate {
            of: own.what.to_string(),
            file: own.file.to_owned(),
            not_after: own.not_after,
        };
        self.shared.metrics.process.set_certificates(material.certificates().map(of).collect());
        let mut short = Vec::new();
        for own in material.certificates() {
            let Some(mark) = identity::passed(own.not_before, own.not_after, now) else { continue };
            let (of, file, key, until) = (own.what, own.file, own.key, Rfc3339(own.not_after));
            let known = self.rotation.warned.insert((of.clone(), file.to_owned()), (own.not_after, mark));
            if known != Some((own.not_after, mark)) {
                tracing::warn!(%of, key, file, %until, "{mark} % of the life of the certificate is left, or less");
            }
            if own.not_after <= now {
                short.push(format!("{key} `{file}` has expired at {until}"));
            } else if mark < 50 {
                short.push(format!("{key} `{file}` ends at {until}: less than {mark} % of its life is left"));
            }
        }
        self.rotation
            .warned
            .retain(|(of, file), _| material.certificates().any(|own| own.what == of && own.file == file));
        let told: Vec<&str> = self.rotation.told.iter().map(|(_, told)| told.as_str()).collect();
        let detail = told.into_iter().chain(short.iter().map(String::as_str)).collect::<Vec<_>>().join("; ");
        let expired = material.mesh.as_ref().is_some_and(|mesh| mesh.not_after <= now);
        let status = match (material.is_whole() && !expired, detail.is_empty()) {
            (true, true) => Status::Ok,
            (true, false) => Status::Degraded,
            // What is missing has not been told yet: perhaps it is about to come.
            (false, true) => Status::Starting,
            (false, false) => Status::Failed,
        };
        let detail = match (&material.mesh, status) {
            (Some(mesh), Status::Ok) => format!("{} until {}", mesh.id, Rfc3339(mesh.not_after)),
            (_, Status::Starting) => "files of certificates are not there yet".to_owned(),
            _ => detail,
        };
        self.health.set(Component::Identity, status, detail);
    }
}

#[cfg(test)]
mod tests;

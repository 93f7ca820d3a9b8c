//! Where a configuration comes from: the files, and the watch that says when what is in them has changed.
//!
//! What counts is content: the kernel's events only say when to look, and a slow poll looks anyway, so that
//! missed events, network filesystems and the symlink swap of a mounted ConfigMap all come to the same.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::tree::FILE_BYTES_MAX;

/// Quiet that must follow an event: editors and kubelet take several steps.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// The floor, with events and without.
const POLL: Duration = Duration::from_secs(2);
const POLL_ALONE: Duration = Duration::from_millis(500);
/// For so long there must be nothing to read before that is told.
const GONE: Duration = Duration::from_secs(4);

const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;

/// Watches as long as it lives.
#[derive(Debug)]
pub struct Watcher {
    task: JoinHandle<()>,
}

/// The kernel's watch, and the directories that it is on.
struct Armed {
    notify: Option<RecommendedWatcher>,
    directories: BTreeSet<(PathBuf, u64)>,
}

/// Watches a file or a directory of `*.yaml`; the receiver hears when its content differs from the last that was
/// seen, which begins with what is there now: call this before reading. Needs a tokio runtime.
pub fn watch(path: PathBuf) -> io::Result<(Watcher, mpsc::Receiver<()>)> {
    let handle = tokio::runtime::Handle::try_current().map_err(io::Error::other)?;
    // One is enough: who has not yet looked at the last change will see this one, too.
    let (sender, receiver) = mpsc::channel(1);
    let wake = Arc::new(Notify::new());
    let armed = arm(&path, &wake, None);
    let seen = digest(&path);
    let task = handle.spawn(run(path, wake, armed, seen, sender));
    Ok((Watcher { task }, receiver))
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The files of a configuration: the one, or those of a directory in the order of their names.
pub fn files(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !fs::metadata(path)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        let file = entry?.path();
        let hidden = file.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let yaml = file.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
        if yaml && !hidden && !fs::metadata(&file).is_ok_and(|meta| meta.is_dir()) {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

/// Reads a file, up to one byte more than any may have.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    // A pipe or a device could keep us waiting forever: a pipe as soon as it is opened.
    let regular = |meta: fs::Metadata| match meta.is_file() {
        true => Ok(()),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
    };
    regular(fs::metadata(path)?)?;
    let (mut bytes, file) = (Vec::new(), File::open(path)?);
    regular(file.metadata()?)?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// FNV-1a: the same on every machine and in every version.
fn fnv(start: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(start, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Of the names and the bytes; `None` while there is nothing to read.
fn digest(path: &Path) -> Option<u64> {
    files(path).ok()?.iter().try_fold(FNV_START, |hash, file| {
        let bytes = read(file).ok()?;
        let hash = fnv(hash, file.as_os_str().as_encoded_bytes());
        Some(fnv(fnv(hash, &bytes.len().to_le_bytes()), &bytes))
    })
}

async fn run(path: PathBuf, wake: Arc<Notify>, mut armed: Armed, mut seen: Option<u64>, sender: mpsc::Sender<()>) {
    // Since when there is nothing to read, and whether that was told.
    let mut gone: Option<(Instant, bool)> = None;
    loop {
        let period = if armed.notify.is_some() { POLL } else { POLL_ALONE };
        tokio::select! {
            () = wake.notified() => sleep(DEBOUNCE).await,
            () = sleep(period) => {}
            () = sender.closed() => return,
        }
        // A file system can hang; the thread that answers probes must not.
        let (look, wake) = (path.clone(), wake.clone());
        let looked = tokio::task::spawn_blocking(move || (arm(&look, &wake, Some(armed)), digest(&look))).await;
        let Ok((rearmed, found)) = looked else { return };
        armed = rearmed;
        // Gone is not a change: it is how a replacement begins. What comes back is compared with what was. Only who
        // stays away is worth a word, and so is a return.
        let told = gone.is_some_and(|(_, told)| told);
        let news = match found {
            Some(_) => found != seen || told,
            None => !told && gone.is_some_and(|(since, _)| since.elapsed() >= GONE),
        };
        gone = if found.is_some() {
            None
        } else {
            Some((gone.map_or_else(Instant::now, |(since, _)| since), told || news))
        };
        if news {
            seen = found.or(seen);
            // Full is fine: then the change before this one has not been looked at yet.
            let _ = sender.try_send(());
        }
    }
}

/// Watches the directories that matter now, anew only if they are others than before.
fn arm(path: &Path, wake: &Arc<Notify>, before: Option<Armed>) -> Armed {
    let directories = directories(path);
    let first = before.is_none();
    if let Some(before) = before.filter(|before| before.directories == directories) {
        return before;
    }
    match wake_on_change(&directories, wake) {
        Ok(notify) => Armed { notify: Some(notify), directories },
        Err(error) => {
            if first {
                tracing::warn!(path = %path.display(), %error, "no file events: polling for changes instead");
            }
            // Nothing is watched, which differs from what should be: so the next look tries again.
            Armed { notify: None, directories: BTreeSet::new() }
        }
    }
}

fn wake_on_change(directories: &BTreeSet<(PathBuf, u64)>, wake: &Arc<Notify>) -> notify::Result<RecommendedWatcher> {
    let wake = wake.clone();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Our own reading is an event as well, and would wake us for ever.
        let written = AccessKind::Close(AccessMode::Write);
        let reading = |kind| matches!(kind, EventKind::Access(access) if access != written);
        if !event.is_ok_and(|event| reading(event.kind)) {
            wake.notify_one();
        }
    })?;
    for (directory, _) in directories {
        watcher.watch(directory, RecursiveMode::NonRecursive)?;
    }
    Ok(watcher)
}

/// Where changes show: the directory of the path (also when `path` is a link, as in a ConfigMap, where a swapped
/// `..data` shows), and that of what it leads to. With inode numbers, since one may be replaced by another.
fn directories(path: &Path) -> BTreeSet<(PathBuf, u64)> {
    let parent = |path: &Path| {
        path.parent().map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent }.to_owned())
    };
    let mut all: Vec<Option<PathBuf>> = vec![parent(path)];
    match fs::canonicalize(path) {
        Ok(real) if real.is_dir() => all.push(Some(path.to_owned())),
        Ok(real) => all.push(parent(&real)),
        Err(_) => {}
    }
    let inode = |directory: PathBuf| {
        let inode = std::os::unix::fs::MetadataExt::ino(&fs::metadata(&directory).ok()?);
        Some((directory, inode))
    };
    all.into_iter().flatten().filter_map(inode).collect()
}

#[cfg(test)]
mod tests;

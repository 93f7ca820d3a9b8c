//! The audit: one JSON line for each event of the configuration, to standard output or to the end of a file.
//!
//! Lines go through a bounded queue to a thread, each with one write(2), so that a disk or a reader that hangs is never
//! the caller's to wait for. A file that was moved away or removed, as log rotation does, is made anew.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use super::line::Object;
use super::rfc3339::Rfc3339;

/// Bytes of a line, its end included.
pub const LINE_BYTES_MAX: usize = 16 * 1024;
/// Lines that may wait for the writer.
const QUEUE: usize = 256;

/// Bytes of a field once it is escaped: together, and with the names, less than a line.
const WORD_BYTES_MAX: usize = 128;
const SOURCE_BYTES_MAX: usize = 4 * 1024;
const SUMMARY_BYTES_MAX: usize = 10 * 1024;

/// Something that happened to the configuration.
#[derive(Debug, Clone)]
pub struct Event<'a> {
    pub at: SystemTime,
    /// `start`, `reload`, `rollback`, `pin` …
    pub action: &'a str,
    /// Who or what brought it: `file /etc/outrigger`, `SIGHUP`, `admin 127.0.0.1:5123`, `probation`.
    pub source: &'a str,
    /// What it is about; none where the configuration was refused before it had one.
    pub generation: Option<u64>,
    pub digest: Option<&'a str>,
    /// The generation that was live before.
    pub previous: Option<u64>,
    /// `live`, `refused`, `undone` …
    pub result: &'a str,
    /// What changed, in words.
    pub summary: &'a str,
    /// Found in the configuration.
    pub problems: usize,
}

/// The audit of the process. Writing never fails: what cannot be written is in the log, once for each time of trouble.
#[derive(Debug, Default)]
pub struct Audit {
    /// None where there is no target, and once closed.
    writer: Mutex<Option<Writer>>,
}

#[derive(Debug)]
struct Writer {
    target: String,
    queue: SyncSender<Vec<u8>>,
    thread: JoinHandle<()>,
    /// The queue is full, and the log says so.
    full: bool,
}

/// Where lines end up.
enum Sink {
    Stdout,
    File(Tail),
}

/// The end of a file.
struct Tail {
    path: PathBuf,
    file: File,
    /// What stands there is a part of a line: a disk was full, or a process came to its end.
    torn: bool,
}

impl Audit {
    /// To `stdout`, or to the end of a file, which is made (mode 0640) where there is none; `None` is nowhere. The error
    /// is that of opening the file, and names it.
    pub fn open(target: Option<&str>) -> io::Result<Self> {
        Ok(Self { writer: Mutex::new(target.map(Writer::start).transpose()?) })
    }

    /// After a reload. On an error lines go where they went before.
    pub fn retarget(&self, target: Option<&str>) -> io::Result<()> {
        let mut writer = self.lock();
        if writer.as_ref().map(|writer| writer.target.as_str()) != target {
            // The old thread ends by itself, after what it still has to write.
            *writer = target.map(Writer::start).transpose()?;
        }
        Ok(())
    }

    /// Never waits: a line for which there is no room is dropped, and the log says so.
    pub fn write(&self, event: &Event<'_>) {
        let mut writer = self.lock();
        let Some(writer) = &mut *writer else { return };
        let sent = writer.queue.try_send(line(event));
        if sent.is_err() && !writer.full {
            let full = matches!(sent, Err(TrySendError::Full(_)));
            tracing::warn!(audit = writer.target, full, "the audit loses lines");
        }
        writer.full = sent.is_err();
    }

    /// Writes what is queued, for as long as `within`, and ends the writer. Blocks: for the end of the process.
    pub fn close(&self, within: Duration) {
        let deadline = Instant::now() + within;
        let Some(Writer { queue, thread, .. }) = self.lock().take() else { return };
        drop(queue);
        while !thread.is_finished() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Writer>> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writer {
    fn start(target: &str) -> io::Result<Self> {
        let sink = if target == "stdout" { Sink::Stdout } else { Sink::File(Tail::open(target.as_ref())?) };
        let (queue, lines) = sync_channel(QUEUE);
        let thread = thread::Builder::new().name("audit".into()).spawn(move || drain(&lines, sink))?;
        Ok(Self { target: target.to_owned(), queue, thread, full: false })
    }
}

fn drain(lines: &Receiver<Vec<u8>>, mut sink: Sink) {
    let mut failing = false;
    while let Ok(line) = lines.recv() {
        let written = sink.write(line);
        if let Err(error) = &written
            && !failing
        {
            tracing::warn!(%error, "cannot write the audit");
        }
        failing = written.is_err();
    }
}

impl Sink {
    fn write(&mut self, line: Vec<u8>) -> io::Result<()> {
        match self {
            Self::Stdout => {
                // The lock that the access log takes as well: neither writes into the other's lines.
                let mut stdout = io::stdout().lock();
                stdout.write_all(&line)?;
                stdout.flush()
            }
            Self::File(tail) => tail.write(line),
        }
    }
}

impl Tail {
    fn open(path: &Path) -> io::Result<Self> {
        let open = || {
            // Before opening, which would wait for who reads from a pipe.
            if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
            }
            OpenOptions::new().append(true).create(true).mode(0o640).open(path)
        };
        match open() {
            Ok(file) => Ok(Self { path: path.to_owned(), file, torn: is_torn(path).unwrap_or(false) }),
            Err(error) => Err(about("cannot open", path, &error)),
        }
    }

    fn write(&mut self, mut line: Vec<u8>) -> io::Result<()> {
        // Where it cannot be made anew, the line is not lost in what was moved away.
        let reopened = match is_at(&self.path, &self.file) {
            true => Ok(()),
            false => Self::open(&self.path).map(|anew| *self = anew),
        };
        if self.torn {
            line.insert(0, b'\n');
        }
        let written = self.file.write(&line).map_err(|error| about("cannot write to", &self.path, &error))?;
        self.torn = written < line.len() && (written > 0 || self.torn);
        if written < line.len() {
            return Err(about("cannot write to", &self.path, &io::ErrorKind::WriteZero.into()));
        }
        reopened
    }
}

fn about(what: &str, path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what} `{}`: {error}", path.display()))
}

/// Whether the last line has no end.
fn is_torn(path: &Path) -> io::Result<bool> {
    let mut file = File::open(path)?;
    let mut last = [b'\n'];
    if file.metadata()?.len() > 0 {
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
    }
    Ok(last != [b'\n'])
}

/// Whether the path still leads to the file.
fn is_at(path: &Path, file: &File) -> bool {
    let identity = |meta: fs::Metadata| (meta.dev(), meta.ino());
    match (fs::metadata(path), file.metadata()) {
        (Ok(there), Ok(ours)) => identity(there) == identity(ours),
        _ => false,
    }
}

fn line(event: &Event<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    let mut object = Object::open(&mut out);
    object.raw("time", format_args!("\"{}\"", Rfc3339(event.at)));
    object.text("event", b"config");
    object.text("action", bounded(event.action, WORD_BYTES_MAX));
    object.text("source", bounded(event.source, SOURCE_BYTES_MAX));
    if let Some(generation) = event.generation {
        object.raw("generation", generation);
    }
    object.text("digest", bounded(event.digest.unwrap_or_default(), WORD_BYTES_MAX));
    if let Some(previous) = event.previous {
        object.raw("previous", previous);
    }
    object.text("result", bounded(event.result, WORD_BYTES_MAX));
    object.text("summary", bounded(event.summary, SUMMARY_BYTES_MAX));
    object.raw("problems", event.problems);
    object.close();
    out.push(b'\n');
    debug_assert!(out.len() <= LINE_BYTES_MAX);
    out
}

/// As much of it as has no more than `max` bytes once it is escaped.
fn bounded(text: &str, max: usize) -> &[u8] {
    let mut length = 0;
    let beyond = text.char_indices().find(|(_, character)| {
        length += match character {
            '"' | '\\' => 2,
            // \u0000
            _ if character.is_control() => 6,
            _ => character.len_utf8(),
        };
        length > max
    });
    text.as_bytes().get(..beyond.map_or(text.len(), |(index, _)| index)).unwrap_or_default()
}

#[cfg(test)]
mod tests;

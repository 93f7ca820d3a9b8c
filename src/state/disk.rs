//! Files that are replaced as a whole or not at all, and read without waiting for anybody.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::process;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::document::{BYTES_MAX, too_large};

/// Readers see the old content or the new one; so does who looks after a crash. Leaves no temporary file.
pub fn replace(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    static WRITTEN: AtomicU64 = AtomicU64::new(0);
    let temporary = directory.join(format!(".{name}.{}-{}.tmp", process::id(), WRITTEN.fetch_add(1, Relaxed)));
    let replaced = write(&temporary, bytes).and_then(|()| fs::rename(&temporary, directory.join(name)));
    if let Err(error) = replaced {
        // It may not even have come to be.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    match File::open(directory)?.sync_all() {
        // Not every file system can sync a directory; the others have.
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        synced => synced,
    }
}

/// Whether [`replace`] gives such names to what it has not finished.
pub fn is_temporary(name: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let parts = || {
        let (target, writer) = name.strip_prefix('.')?.strip_suffix(".tmp")?.rsplit_once('.')?;
        let (process, count) = writer.split_once('-')?;
        let ours = target == super::MARKS || super::generation(target).is_some();
        Some(ours && number(process) && number(count))
    };
    parts().unwrap_or(false)
}

/// `None` where there is nothing; else the content, or what is wrong.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, String> {
    let unreadable = |error: io::Error| format!("it cannot be read: {error}");
    // Before opening, which would wait for who writes to a pipe.
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    if !found.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    let file = match File::open(path) {
        Ok(file) => file,
        // Removed meanwhile, as old ones are.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    if !file.metadata().map_err(unreadable)?.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    if found.size() > BYTES_MAX {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    file.take(BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > BYTES_MAX { Err(too_large()) } else { Ok(Some(bytes)) }
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

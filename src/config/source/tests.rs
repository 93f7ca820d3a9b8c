//! Changes as editors, `mv` and kubelet make them, each of which must be heard exactly once it matters.

use std::os::unix::fs::symlink;

use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;

use super::super::tests::Scratch;
use super::*;

/// What the proxy promises is a second; machines that build things are slow.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs on the kind of runtime that the admin thread has.
fn run<F: Future<Output = ()>>(test: F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(test);
}

async fn heard(receiver: &mut Receiver<()>, what: &str) {
    let heard = timeout(PATIENCE, receiver.recv()).await;
    assert_eq!(heard, Ok(Some(())), "{what}");
}

/// Waits longer than a poll: silence cannot be told sooner.
async fn silent(receiver: &mut Receiver<()>, what: &str) {
    assert!(timeout(POLL + DEBOUNCE * 3, receiver.recv()).await.is_err(), "{what}");
}

#[test]
fn a_file_is_rewritten_replaced_removed_and_restored() {
    run(async {
        let scratch = Scratch::new("watch-file");
        let path = scratch.write("a.yaml", "one");
        let (_watcher, mut changes) = watch(path.clone()).expect("a watch");

        scratch.write("a.yaml", "two");
        heard(&mut changes, "rewritten in place").await;
        let new = scratch.write("a.yaml.new", "three");
        fs::rename(new, &path).expect("a rename");
        heard(&mut changes, "replaced by rename").await;

        scratch.write("a.yaml", "three");
        scratch.write("other.yaml", "x");
        fs::remove_file(&path).expect("removed");
        silent(&mut changes, "the same content, another file, a removal").await;
        scratch.write("a.yaml", "three");
        silent(&mut changes, "back as it was").await;
        scratch.write("a.yaml", "four");
        heard(&mut changes, "back with another content").await;

        fs::remove_file(&path).expect("removed");
        heard(&mut changes, "it stays away").await;
        silent(&mut changes, "told once").await;
        scratch.write("a.yaml", "four");
        heard(&mut changes, "it is there again, as it was").await;
    });
}

#[test]
fn a_mounted_config_map_is_swapped() {
    run(async {
        let scratch = Scratch::new("watch-map");
        let generation = |name: &str, text: &str| {
            fs::create_dir(scratch.0.join(name)).expect("a directory");
            scratch.write(&format!("{name}/a.yaml"), text);
        };
        let swap = |to: &str| {
            symlink(to, scratch.0.join("..data_tmp")).expect("a link");
            fs::rename(scratch.0.join("..data_tmp"), scratch.0.join("..data")).expect("a rename");
        };
        generation("..2026_a", "one");
        swap("..2026_a");
        symlink("..data/a.yaml", scratch.0.join("a.yaml")).expect("a link");
        let (_file, mut file) = watch(scratch.0.join("a.yaml")).expect("a watch");
        let (_directory, mut directory) = watch(scratch.0.clone()).expect("a watch");

        for (old, new, text) in [("..2026_a", "..2026_b", "two"), ("..2026_b", "..2026_c", "three")] {
            generation(new, text);
            swap(new);
            fs::remove_dir_all(scratch.0.join(old)).expect("removed");
            heard(&mut file, text).await;
            heard(&mut directory, text).await;
        }
        assert_eq!(files(&scratch.0).map(|files| files.len()).ok(), Some(1));
    });
}

#[test]
fn a_directory_gains_and_loses_files_and_is_replaced() {
    run(async {
        let scratch = Scratch::new("watch-directory");
        let directory = scratch.0.join("d");
        fs::create_dir(&directory).expect("a directory");
        scratch.write("d/a.yaml", "one");
        let (_watcher, mut changes) = watch(directory.clone()).expect("a watch");

        let added = scratch.write("d/b.yml", "two");
        heard(&mut changes, "a file more").await;
        fs::remove_file(added).expect("removed");
        heard(&mut changes, "a file less").await;
        scratch.write("d/notes.txt", "x");
        scratch.write("d/.a.yaml.swp", "x");
        silent(&mut changes, "files that are not read").await;

        fs::rename(&directory, scratch.0.join("gone")).expect("a rename");
        fs::create_dir(&directory).expect("a directory");
        scratch.write("d/a.yaml", "three");
        heard(&mut changes, "another directory").await;
        scratch.write("d/a.yaml", "four");
        heard(&mut changes, "in it").await;
    });
}

#[test]
fn changes_that_nobody_has_looked_at_are_one() {
    run(async {
        let scratch = Scratch::new("watch-slow");
        let path = scratch.write("a.yaml", "0");
        let (watcher, mut changes) = watch(path).expect("a watch");
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut written = 0;
        while changes.is_empty() && tokio::time::Instant::now() < deadline {
            written += 1;
            scratch.write("a.yaml", &written.to_string());
            tokio::task::yield_now().await;
        }
        heard(&mut changes, "some").await;
        drop(watcher);
        let closed = async { while changes.recv().await.is_some() {} };
        assert!(timeout(PATIENCE, closed).await.is_ok(), "the task outlives its watcher");
    });
}

#[test]
fn without_a_runtime_there_is_no_watch() {
    assert!(watch(PathBuf::from("/")).is_err());
}

#[test]
fn a_pipe_is_not_opened() {
    let scratch = Scratch::new("pipe");
    let path = scratch.0.join("a.yaml");
    let made = std::process::Command::new("mkfifo").arg(&path).status().expect("mkfifo");
    assert!(made.success());
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(read(&path).map_err(|error| error.to_string())));
    assert_eq!(receiver.recv_timeout(PATIENCE), Ok(Err("not a regular file".to_owned())));
}

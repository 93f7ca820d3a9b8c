use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use super::*;

/// A directory that is removed in the end, and unmounted if something was mounted there.
struct Scratch {
    path: PathBuf,
    mounted: bool,
}

impl Scratch {
    fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("outrigger-state-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("a temporary directory");
        Self { path, mounted: false }
    }

    /// A small file system of its own; `None`, and a reason in print, where that is not ours to make.
    fn tmpfs(options: &str) -> Option<Self> {
        let mut scratch = Self::new();
        let mounted = mount(&["-t", "tmpfs", "-o", options, "tmpfs"], &scratch.path);
        scratch.mounted = mounted.is_ok();
        mounted.inspect_err(|why| eprintln!("skipped: cannot mount a tmpfs: {why}")).ok().map(|()| scratch)
    }

    fn store(&self, keep: u32) -> Store {
        Store::open(self.path.join("state"), keep).expect("a state directory")
    }

    fn names(&self) -> Vec<String> {
        let mut all: Vec<String> = names(&self.path.join("state"), |name| Some(name.to_owned())).expect("a directory");
        all.sort();
        all
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.mounted {
            let _ = Command::new("umount").arg("-l").arg(&self.path).status();
        }
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn mount(arguments: &[&str], at: &Path) -> Result<(), String> {
    let output = Command::new("mount").args(arguments).arg(at).output().map_err(|error| error.to_string())?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()) }
}

fn entry(generation: u64) -> Entry {
    Entry {
        generation,
        digest: crate::config::digest::sha256(&generation.to_le_bytes()),
        at: UNIX_EPOCH + Duration::from_millis(1_795_231_681_123),
        cause: "reload".to_owned(),
        summary: format!("route `api` is new, \"{generation}\"\n\u{1b}"),
        files: vec![("/etc/outrigger/a.yaml".to_owned(), format!("apiVersion: outrigger/v1\n# ünï {generation}\n"))],
        complete: true,
    }
}

fn saved(store: &Store) -> Vec<u64> {
    store
        .list()
        .expect("a list")
        .map(|listed| listed.map_or_else(|damaged| damaged.generation, |e| e.generation))
        .collect()
}

/// File and reason of what is damaged, and the generations of what is not.
fn health(store: &Store) -> (BTreeMap<String, String>, Vec<u64>) {
    let (mut damaged, mut good) = (BTreeMap::new(), Vec::new());
    for listed in store.list().expect("a list") {
        match listed {
            Ok(entry) => good.push(entry.generation),
            Err(found) => drop(damaged.insert(found.file, found.why)),
        }
    }
    (damaged, good)
}

#[test]
fn what_is_saved_is_found_again() {
    let scratch = Scratch::new();
    let store = scratch.store(10);
    assert_eq!((saved(&store), store.newest().expect("none"), store.load(1)), (vec![], None, Ok(None)));
    for generation in [1, 2, 12, 1_000_000, GENERATION_MAX] {
        store.save(&entry(generation)).expect("saved");
    }
    let again = scratch.store(10);
    assert_eq!(saved(&again), [GENERATION_MAX, 1_000_000, 12, 2, 1]);
    assert_eq!(again.load(12), Ok(Some(entry(12))));
    assert_eq!(again.newest().expect("the directory"), Some(GENERATION_MAX));
    let mode = |path: PathBuf| fs::metadata(path).expect("is there").permissions().mode() & 0o777;
    assert_eq!(mode(scratch.path.join("state")), 0o700);
    assert_eq!(mode(scratch.path.join("state/generation-000012.json")), 0o600);
    let error = store.save(&entry(GENERATION_MAX + 1)).expect_err("too high");
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn the_format_is_as_documented() {
    let scratch = Scratch::new();
    let store = scratch.store(1);
    let entry = Entry { summary: "nothing".to_owned(), files: vec![("a".to_owned(), "b\n".to_owned())], ..entry(7) };
    store.save(&entry).expect("saved");
    let text = fs::read_to_string(scratch.path.join("state/generation-000007.json")).expect("a file");
    let content = format!(
        r#"{{"format":1,"generation":7,"digest":"{}","at":"2026-11-21T03:28:01.123Z","cause":"reload","summary":"nothing","files":[["a","b\n"]],"complete":true"#,
        entry.digest
    );
    let checksum = crate::config::digest::sha256(content.as_bytes());
    assert_eq!(text, format!("{content},\"checksum\":\"{checksum}\"}}\n"));
}

#[test]
fn the_oldest_go_but_not_the_pinned_one() {
    let scratch = Scratch::new();
    let store = scratch.store(3);
    for generation in 1..=3 {
        store.save(&entry(generation)).expect("saved");
    }
    store.set_marks(&Marks { pin: Some(2), ..Marks::default() }).expect("marked");
    for generation in 4..=9 {
        store.save(&entry(generation)).expect("saved");
    }
    assert_eq!(saved(&store), [9, 8, 7, 2]);
    store.set_marks(&Marks::default()).expect("marked");
    store.save(&entry(10)).expect("saved");
    assert_eq!(saved(&store), [10, 9, 8]);
    // What is saved stays, however low its number; and 0 is read as 1.
    let store = scratch.store(0);
    store.save(&entry(4)).expect("saved");
    assert_eq!(saved(&store), [4]);
}

#[test]
fn nothing_is_removed_while_the_pin_is_unknown() {
    let scratch = Scratch::new();
    let store = scratch.store(1);
    store.set_marks(&Marks { pin: Some(1), ..Marks::default() }).expect("marked");
    fs::write(scratch.path.join("state").join(MARKS), "{").expect("damage");
    for generation in 1..=3 {
        store.save(&entry(generation)).expect("saved");
    }
    assert_eq!(saved(&store), [3, 2, 1]);
    let error = store.marks().expect_err("damaged");
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(error.to_string().ends_with("cannot read marks.json: it is cut short (line 1, column 1)"), "{error}");
}

#[test]
fn order_is_not_by_time() {
    let scratch = Scratch::new();
    let store = scratch.store(3);
    for generation in 1..=5 {
        let at = UNIX_EPOCH + Duration::from_secs(1_000_000_000 - generation * 86_400 * 365);
        store.save(&Entry { at, ..entry(generation) }).expect("saved");
    }
    assert_eq!(saved(&store), [5, 4, 3]);
    // A clock that was never set, and one that is off by ages.
    for (generation, at) in [(6, UNIX_EPOCH - Duration::from_secs(5)), (7, UNIX_EPOCH + Duration::from_secs(1 << 44))] {
        store.save(&Entry { at, ..entry(generation) }).expect("saved");
        assert_eq!(
            store.load(generation).map(|found| found.map(|e| e.at.max(UNIX_EPOCH))),
            Ok(Some(at.max(UNIX_EPOCH)))
        );
    }
    assert_eq!(saved(&store), [7, 6, 5]);
}

#[test]
fn marks_are_kept_and_bounded() {
    let scratch = Scratch::new();
    let store = scratch.store(3);
    assert_eq!(store.marks().expect("none"), Marks::default());
    let bad = |n: usize| Bad { digest: n.to_string(), since: UNIX_EPOCH, why: "é".repeat(n * 20) };
    store.set_marks(&Marks { pin: Some(7), bad: (0..100).map(bad).collect(), ..Marks::default() }).expect("marked");
    let marks = scratch.store(3).marks().expect("marks");
    assert_eq!((marks.pin, marks.bad.len()), (Some(7), BAD_MAX));
    let digests: Vec<&str> = marks.bad.iter().map(|bad| bad.digest.as_str()).collect();
    assert_eq!((digests[0], digests[31]), ("68", "99"));
    assert_eq!(marks.bad[31].why, "é".repeat(WHY_BYTES_MAX / 2));
    assert_eq!(scratch.names(), [MARKS]);
}

#[test]
fn every_byte_counts() {
    let sound = document::seal(&entry(12)).expect("a document");
    assert_eq!(document::unseal(&sound), Ok(entry(12)));
    for at in 0..sound.len() {
        for other in [0x01, 0x20, 0x80, 0xff] {
            let mut damaged = sound.clone();
            damaged[at] ^= other;
            assert!(document::unseal::<Entry>(&damaged).is_err(), "byte {at} ^ {other}");
        }
        assert!(document::unseal::<Entry>(&sound[..at]).is_err(), "cut at {at}");
    }
    for more in [" ", "\n", "}", "\0"] {
        assert!(document::unseal::<Entry>(&[&sound, more.as_bytes()].concat()).is_err(), "{more:?}");
    }
}

#[test]
fn damaged_files_are_named_and_hide_nothing() {
    let scratch = Scratch::new();
    let store = scratch.store(100);
    for generation in 1..=20 {
        store.save(&entry(generation)).expect("saved");
    }
    let path = |generation| scratch.path.join("state").join(file(generation));
    let sound = fs::read(path(2)).expect("a file");
    let text = String::from_utf8(sound.clone()).expect("text");
    let other_format = text.replace("\"format\":1", "\"format\":2");
    let not_an_entry = document::seal(&Marks::default()).expect("a document");
    let deep = "[".repeat(1 << 20);
    for (generation, content) in [
        (3, &sound[..]),
        (4, b""),
        (5, &sound[..sound.len() / 2]),
        (6, b"\0\xff\xfe garbage"),
        (7, other_format.as_bytes()),
        (8, &text.replace("reload", "reboot").into_bytes()[..]),
        (9, &not_an_entry[..]),
        (10, b"{\"format\":1}\n"),
        (11, deep.as_bytes()),
        (12, format!("{{\"format\":\"{}\"}}", "secret".repeat(100_000)).as_bytes()),
    ] {
        fs::write(path(generation), content).expect("damage");
    }
    for generation in [13, 14, 15, 16] {
        fs::remove_file(path(generation)).expect("removed");
    }
    fs::create_dir(path(13)).expect("a directory");
    symlink(path(2), path(14)).expect("a link");
    let large = fs::File::create(path(16)).expect("a file");
    large.set_len(BYTES_MAX + 1).expect("a sparse file");
    let pipe = Command::new("mkfifo").arg(path(15)).status();
    assert!(pipe.is_ok_and(|status| status.success()), "mkfifo");
    for name in
        ["generation-12.json", "generation-0000017.json", "generation-+00017.json", "generation-000017.json~", "x"]
    {
        fs::write(scratch.path.join("state").join(name), "not ours").expect("a file");
    }

    let (damaged, good) = health(&store);
    assert_eq!(good, [20, 19, 18, 17, 2, 1]);
    let json = |what: &str, line, column| format!("{what} (line {line}, column {column})");
    let expected = [
        (3, "it has generation 2 in it".to_owned()),
        (4, json("it is cut short", 1, 0)),
        (5, json("it is cut short", 1, sound.len() / 2)),
        (6, json("it is not JSON", 1, 1)),
        (7, "its format is 2, and this version reads 1".to_owned()),
        (8, "its checksum is not that of its content".to_owned()),
        (9, json("a field is missing or is not what it should be", 1, not_an_entry.len() - 1)),
        (10, "it does not end in a checksum".to_owned()),
        (13, "it is not a regular file".to_owned()),
        (14, "it is not a regular file".to_owned()),
        (15, "it is not a regular file".to_owned()),
        (16, "it is larger than 64 MiB".to_owned()),
    ];
    for (generation, why) in expected {
        assert_eq!(damaged.get(&file(generation)), Some(&why));
    }
    assert_eq!(damaged.len(), 14);
    assert!(damaged.values().all(|why| why.len() < 100 && !why.contains("secret")), "{damaged:?}");
    assert_eq!(store.load(6).expect_err("damaged").file, "generation-000006.json");
    // And what is saved anew is sound again, whatever was there but a directory.
    for generation in [3, 6, 14, 15, 16] {
        store.save(&entry(generation)).expect("saved");
        assert_eq!(store.load(generation), Ok(Some(entry(generation))));
    }
    assert_eq!(store.load(2), Ok(Some(entry(2))), "the link's target");
    assert!(store.save(&entry(13)).is_err());
    assert!(!scratch.names().iter().any(|name| disk::is_temporary(name)));
}

#[test]
fn too_large_an_entry_is_not_written() {
    let scratch = Scratch::new();
    let store = scratch.store(3);
    store.save(&entry(1)).expect("saved");
    let text = "x".repeat(usize::try_from(BYTES_MAX).expect("64 bits"));
    let error = store.save(&Entry { files: vec![("a".to_owned(), text)], ..entry(2) }).expect_err("too large");
    assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    assert_eq!(scratch.names(), ["generation-000001.json"]);
}

#[test]
fn what_a_crash_left_is_removed() {
    let scratch = Scratch::new();
    scratch.store(3).save(&entry(1)).expect("saved");
    let state = scratch.path.join("state");
    let others = [
        ".generation-000002.json.tmp",
        ".x.json.1-1.tmp",
        ".generation-000002.json.1.tmp",
        "notes.tmp",
        ".marks.json.1-.tmp",
    ];
    for name in others.into_iter().chain([".generation-000002.json.1-0.tmp", ".marks.json.4711-12.tmp"]) {
        fs::write(state.join(name), "{\"format\":1,\"gener").expect("a file");
    }
    let store = scratch.store(3);
    let mut expected = others.map(str::to_owned).to_vec();
    expected.push("generation-000001.json".to_owned());
    expected.sort();
    assert_eq!(scratch.names(), expected);
    assert_eq!(saved(&store), [1]);
}

#[test]
fn what_cannot_be_a_state_directory() {
    let scratch = Scratch::new();
    let file = scratch.path.join("file");
    fs::write(&file, "").expect("a file");
    for path in [file.clone(), file.join("below")] {
        let error = Store::open(&path, 3).expect_err("not a directory");
        assert_eq!(error.kind(), io::ErrorKind::NotADirectory);
        assert!(
            error.to_string().starts_with(&format!("state directory `{}`: cannot open", path.display())),
            "{error}"
        );
    }
    assert!(Store::open(scratch.path.join("a/b/c"), 3).is_ok());
    let store = scratch.store(3);
    fs::remove_dir(scratch.path.join("state")).expect("removed");
    assert!(store.save(&entry(1)).is_err() && store.list().is_err() && store.newest().is_err());
    assert_eq!(store.load(1), Ok(None));
}

#[test]
fn a_full_disk_costs_nothing_that_was_saved() {
    let Some(scratch) = Scratch::tmpfs("size=256k") else { return };
    let store = scratch.store(100);
    let large = |generation| Entry { files: vec![("a".to_owned(), "x".repeat(20_000))], ..entry(generation) };
    let (generation, error) =
        (1..100).find_map(|n| store.save(&large(n)).err().map(|error| (n, error))).expect("a full disk");
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    let directory = scratch.path.join("state");
    let expected = format!("state directory `{}`: cannot save generation {generation}: ", directory.display());
    assert!(error.to_string().starts_with(&expected), "{error}");
    let good: Vec<u64> = (1..generation).rev().collect();
    assert!(good.len() > 5, "{good:?}");
    assert_eq!(health(&store), (BTreeMap::new(), good.clone()));
    // The last bytes, too: now not even marks have room.
    let filler = fs::File::create(scratch.path.join("filler")).expect("a file");
    while io::Write::write_all(&mut &filler, &[0; 512]).is_ok() {}
    let stood = Stood { step: 2, aborted: Some("errors rose".to_owned()), ..Stood::default() };
    let marks = Marks {
        pin: Some(1),
        bad: vec![Bad { digest: String::new(), since: UNIX_EPOCH, why: String::new() }],
        canaries: vec![Canary { route: "shop".to_owned(), digest: String::new(), stood }],
    };
    let error = store.set_marks(&marks).expect_err("a full disk");
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert_eq!(store.marks().expect("none"), Marks::default());
    assert_eq!(scratch.names().len(), good.len(), "no temporary file");
    // Room again, and all goes on.
    drop(filler);
    fs::remove_file(scratch.path.join("filler")).expect("removed");
    store.set_marks(&marks).expect("marked");
    fs::remove_file(directory.join(file(2))).expect("removed");
    store.save(&large(generation)).expect("saved");
    assert_eq!(saved(&store).first(), Some(&generation));
}

#[test]
fn a_read_only_directory_can_be_read() {
    let scratch = match Scratch::tmpfs("size=256k") {
        Some(scratch) => scratch,
        None => Scratch::new(),
    };
    let store = scratch.store(3);
    store.save(&entry(1)).expect("saved");
    let state = scratch.path.join("state");
    fs::write(state.join(".generation-000002.json.1-0.tmp"), "left").expect("a file");
    if scratch.mounted {
        mount(&["-o", "remount,ro"], &scratch.path).expect("read-only");
    } else {
        fs::set_permissions(&state, fs::Permissions::from_mode(0o500)).expect("a mode");
    }
    let again = scratch.store(3);
    assert_eq!(saved(&again), [1]);
    for error in
        [again.save(&entry(2)).expect_err("read-only"), again.set_marks(&Marks::default()).expect_err("read-only")]
    {
        assert!(matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied), "{error}");
        assert!(error.to_string().contains(&state.display().to_string()), "{error}");
    }
    assert_eq!(again.load(1), Ok(Some(entry(1))));
    if !scratch.mounted {
        fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).expect("a mode");
    }
}

#[test]
fn a_reader_never_sees_half_of_anything() {
    let scratch = Scratch::new();
    let store = scratch.store(4);
    let done = AtomicBool::new(false);
    let seen = thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut seen, mut last) = (0, 0);
            while !done.load(Ordering::Acquire) {
                let (damaged, good) = health(&store);
                assert_eq!(damaged, BTreeMap::new());
                assert!(good.windows(2).all(|pair| pair[0] > pair[1]) && good.first().is_none_or(|n| *n >= last));
                assert!(store.marks().is_ok());
                last = good.first().copied().unwrap_or(last);
                seen += good.len();
            }
            seen
        });
        for generation in 1..=200 {
            let text = "x".repeat(usize::try_from(generation * 97 % 50_000).expect("small"));
            store.save(&Entry { files: vec![("a".to_owned(), text)], ..entry(generation) }).expect("saved");
            // The same number again: the file is replaced under the reader.
            store.save(&entry(generation)).expect("saved");
            store.set_marks(&Marks { pin: Some(generation), ..Marks::default() }).expect("marked");
        }
        done.store(true, Ordering::Release);
        reader.join().expect("the reader")
    });
    assert!(seen > 0);
    assert_eq!(saved(&store), [200, 199, 198, 197]);
}

proptest::proptest! {
    #[test]
    fn whatever_is_in_an_entry_comes_back(
        generation in 0..=GENERATION_MAX,
        millis in 0..4_000_000_000_000_u64,
        texts in proptest::collection::vec((".{0,20}", "(?s).{0,200}"), 0..4),
        cause in ".{0,20}",
        complete: bool,
    ) {
        let at = UNIX_EPOCH + Duration::from_millis(millis);
        let entry = Entry { at, cause, complete, files: texts, ..entry(generation) };
        let sealed = document::seal(&entry).expect("a document");
        proptest::prop_assert_eq!(sealed.iter().filter(|byte| **byte == b'\n').count(), 1);
        proptest::prop_assert_eq!(document::unseal(&sealed), Ok(entry));
    }

    #[test]
    fn no_garbage_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
        proptest::prop_assert!(document::unseal::<Entry>(&bytes).is_err());
        proptest::prop_assert!(!disk::is_temporary(&String::from_utf8_lossy(&bytes)));
    }
}

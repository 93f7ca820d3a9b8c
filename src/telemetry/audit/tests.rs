use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::UNIX_EPOCH;

use serde_json::Value;
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};

use super::*;

const LONG: Duration = Duration::from_secs(30);

struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("outrigger-audit-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("a temporary directory");
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    fn lines(&self, name: &str) -> Vec<String> {
        fs::read_to_string(self.0.join(name)).expect("a file").lines().map(str::to_owned).collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn event(summary: &str) -> Event<'_> {
    Event {
        at: UNIX_EPOCH + Duration::from_millis(1_795_231_681_123),
        action: "reload",
        source: "file /etc/outrigger/a.yaml",
        generation: Some(12),
        digest: Some("abc"),
        previous: Some(11),
        result: "live",
        summary,
        problems: 0,
    }
}

fn summaries(lines: &[String]) -> Vec<String> {
    let summary = |line: &String| {
        let json: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        json["summary"].as_str().map(str::to_owned)
    };
    lines.iter().filter_map(summary).collect()
}

/// Counts the warnings of this thread.
struct Warnings(Arc<AtomicUsize>);

impl<S: tracing::Subscriber> Layer<S> for Warnings {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        assert_eq!(*event.metadata().level(), tracing::Level::WARN);
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_line_is_as_documented() {
    assert_eq!(
        String::from_utf8(line(&event("route `api` is new"))).expect("text"),
        "{\"time\":\"2026-11-21T03:28:01.123Z\",\"event\":\"config\",\"action\":\"reload\",\
         \"source\":\"file /etc/outrigger/a.yaml\",\"generation\":12,\"digest\":\"abc\",\"previous\":11,\
         \"result\":\"live\",\"summary\":\"route `api` is new\",\"problems\":0}\n"
    );
    let bare = Event { generation: None, digest: None, previous: None, result: "refused", problems: 3, ..event("") };
    assert_eq!(
        String::from_utf8(line(&bare)).expect("text"),
        "{\"time\":\"2026-11-21T03:28:01.123Z\",\"event\":\"config\",\"action\":\"reload\",\
         \"source\":\"file /etc/outrigger/a.yaml\",\"result\":\"refused\",\"problems\":3}\n"
    );
}

#[test]
fn lines_go_to_the_end_of_a_file() {
    let scratch = Scratch::new();
    let path = scratch.path("audit.log");
    for run in ["one", "two"] {
        let audit = Audit::open(Some(&path)).expect("an audit");
        audit.write(&event(run));
        audit.write(&event(run));
        audit.close(LONG);
        audit.write(&event("after the end"));
        audit.close(LONG);
    }
    assert_eq!(summaries(&scratch.lines("audit.log")), ["one", "one", "two", "two"]);
    let mode = fs::metadata(&path).expect("a file").permissions().mode();
    assert_eq!(mode & 0o137, 0, "{mode:o}: at most 0640");
}

#[test]
fn nowhere_is_a_target() {
    let audit = Audit::open(None).expect("an audit");
    audit.write(&event("lost"));
    let scratch = Scratch::new();
    audit.retarget(Some(&scratch.path("a"))).expect("a file");
    audit.write(&event("kept"));
    audit.close(LONG);
    assert_eq!(summaries(&scratch.lines("a")), ["kept"]);
}

#[test]
fn a_reload_can_send_lines_elsewhere() {
    let scratch = Scratch::new();
    let audit = Audit::open(Some(&scratch.path("a"))).expect("an audit");
    audit.write(&event("to a"));
    audit.retarget(Some(&scratch.path("a"))).expect("the same");
    audit.write(&event("to a"));
    // What is wrong changes nothing.
    let error = audit.retarget(Some(&scratch.path("a/below"))).expect_err("not a directory");
    assert_eq!(error.to_string(), format!("cannot open `{}`: Not a directory (os error 20)", scratch.path("a/below")));
    audit.write(&event("still to a"));
    audit.retarget(Some(&scratch.path("b"))).expect("another");
    audit.write(&event("to b"));
    audit.close(LONG);
    assert_eq!(summaries(&scratch.lines("b")), ["to b"]);
    // The thread of the first target ends by itself.
    let deadline = Instant::now() + LONG;
    while scratch.lines("a").len() < 3 && Instant::now() < deadline {
        thread::yield_now();
    }
    assert_eq!(summaries(&scratch.lines("a")), ["to a", "to a", "still to a"]);
}

#[test]
fn rotated_files_are_made_anew() {
    let scratch = Scratch::new();
    let path = PathBuf::from(scratch.path("audit.log"));
    let mut tail = Tail::open(&path).expect("a file");
    let mut put = |summary| tail.write(line(&event(summary)));
    put("one").expect("written");
    fs::rename(&path, scratch.0.join("audit.log.1")).expect("rotated");
    put("two").expect("written");
    // Replaced by another, with a last line that has no end.
    fs::rename(&path, scratch.0.join("audit.log.2")).expect("rotated");
    fs::write(&path, "{\"half").expect("a file");
    put("three").expect("written");
    // Cut down in its place.
    fs::write(&path, "").expect("a file");
    put("four").expect("written");
    assert_eq!(summaries(&scratch.lines("audit.log")), ["four"]);
    fs::remove_file(&path).expect("removed");
    put("five").expect("written");
    assert_eq!(summaries(&scratch.lines("audit.log")), ["five"]);
    assert_eq!(summaries(&scratch.lines("audit.log.1")), ["one"]);
    assert_eq!(summaries(&scratch.lines("audit.log.2")), ["two"]);
    // Gone, and cannot be made: the line is in what was moved away, and the error is told.
    fs::rename(&path, scratch.0.join("audit.log.3")).expect("rotated");
    fs::create_dir(&path).expect("a directory");
    let error = put("six").expect_err("a directory");
    assert!(error.to_string().ends_with("not a regular file"), "{error}");
    assert_eq!(summaries(&scratch.lines("audit.log.3")), ["five", "six"]);
    fs::remove_dir(&path).expect("removed");
    put("seven").expect("written");
    assert_eq!(summaries(&scratch.lines("audit.log")), ["seven"]);
}

#[test]
fn a_torn_line_costs_no_other() {
    let scratch = Scratch::new();
    fs::write(scratch.path("audit.log"), "{\"time\":\"2026-").expect("a file");
    for summary in ["one", "two"] {
        let audit = Audit::open(Some(&scratch.path("audit.log"))).expect("an audit");
        audit.write(&event(summary));
        audit.close(LONG);
    }
    let lines = scratch.lines("audit.log");
    assert_eq!(lines[0], "{\"time\":\"2026-");
    assert_eq!(summaries(&lines[1..]), ["one", "two"]);
}

#[test]
fn what_cannot_be_written_to_is_refused_at_once() {
    let scratch = Scratch::new();
    fs::write(scratch.path("file"), "").expect("a file");
    let pipe = scratch.path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().is_ok_and(|status| status.success()));
    symlink(&pipe, scratch.path("link")).expect("a link");
    for path in
        [scratch.path("file/below"), scratch.path("no/such/directory"), scratch.path("."), pipe, scratch.path("link")]
    {
        let error = Audit::open(Some(&path)).expect_err("no audit");
        assert!(error.to_string().starts_with(&format!("cannot open `{path}`: ")), "{error}");
    }
}

#[test]
fn trouble_is_logged_once_and_stops_nothing() {
    let scratch = Scratch::new();
    let path = PathBuf::from(scratch.path("audit.log"));
    let tail = Tail::open(&path).expect("a file");
    fs::remove_file(&path).expect("removed");
    fs::create_dir(&path).expect("a directory");
    let (queue, lines) = sync_channel(8);
    for summary in ["one", "two", "three"] {
        queue.send(line(&event(summary))).expect("room");
    }
    drop(queue);
    let count = Arc::new(AtomicUsize::new(0));
    let subscriber = tracing_subscriber::registry().with(Warnings(count.clone()));
    tracing::subscriber::with_default(subscriber, || drain(&lines, Sink::File(tail)));
    assert_eq!(count.load(Ordering::Relaxed), 1);
}

#[test]
fn a_full_queue_is_logged_once_and_waits_for_nobody() {
    let (queue, lines) = sync_channel(1);
    let writer = Writer { target: "stdout".to_owned(), queue, thread: thread::spawn(|| ()), full: false };
    let audit = Audit { writer: Mutex::new(Some(writer)) };
    let count = Arc::new(AtomicUsize::new(0));
    let subscriber = tracing_subscriber::registry().with(Warnings(count.clone()));
    tracing::subscriber::with_default(subscriber, || {
        let write = |times| (0..times).for_each(|_| audit.write(&event("")));
        write(4);
        assert_eq!(count.load(Ordering::Relaxed), 1);
        // It drains, and fills again.
        lines.recv().expect("a line");
        write(3);
        assert_eq!(count.load(Ordering::Relaxed), 2);
    });
    assert!(audit.lock().as_ref().is_some_and(|writer| writer.full));
}

#[test]
fn a_disk_that_is_full_tears_no_other_line() {
    let scratch = Scratch::new();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"]).arg(&scratch.0).output();
    if !mounted.as_ref().is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: cannot mount a tmpfs: {mounted:?}");
        return;
    }
    let path = scratch.0.join("audit.log");
    let mut tail = Tail::open(&path).expect("a file");
    let filler = scratch.0.join("filler");
    fs::write(&filler, [0; 40_000]).expect("a file");
    let summary = "x".repeat(1000);
    let errors: Vec<io::Error> = (0..100).filter_map(|_| tail.write(line(&event(&summary))).err()).collect();
    assert!(
        errors.len() > 50 && errors.iter().all(|error| error.to_string().starts_with("cannot write to `")),
        "{errors:?}"
    );
    fs::remove_file(filler).expect("removed");
    tail.write(line(&event("last"))).expect("room");
    let lines = scratch.lines("audit.log");
    let sound: Vec<String> = lines.iter().filter(|line| line.ends_with('}')).cloned().collect();
    assert!(lines.len() - sound.len() <= 1, "one was torn at most: {lines:?}");
    assert_eq!(summaries(&sound).last().map(String::as_str), Some("last"));
    drop(tail);
    let _ = Command::new("umount").arg("-l").arg(&scratch.0).status();
}

#[test]
fn hostile_strings_stay_within_their_line() {
    for hostile in ["\n{\"event\":\"config\"}\n", "\u{1b}[2J", "\"}\\", "\0\u{7f}\u{9b}", "é\u{10ffff}"] {
        let written =
            Event { action: hostile, source: hostile, digest: Some(hostile), result: hostile, ..event(hostile) };
        let line = String::from_utf8(line(&written)).expect("text");
        assert_eq!(line.find(char::is_control), Some(line.len() - 1), "{line:?}");
        let json: Value = serde_json::from_str(&line).expect("JSON");
        for field in ["action", "source", "digest", "result", "summary"] {
            assert_eq!(json[field], hostile);
        }
        assert_eq!(json["event"], "config");
    }
}

#[test]
fn lines_are_bounded() {
    for unit in ["x", "\0", "\"", "é", "\u{10ffff}"] {
        let long = unit.repeat(100_000);
        let written = Event {
            action: &long,
            source: &long,
            digest: Some(&long),
            result: &long,
            generation: Some(u64::MAX),
            previous: Some(u64::MAX),
            problems: usize::MAX,
            at: UNIX_EPOCH + Duration::from_secs(1 << 44),
            ..event(&long)
        };
        let line = line(&written);
        assert!(line.len() <= LINE_BYTES_MAX && line.len() > SUMMARY_BYTES_MAX, "{}", line.len());
        let json: Value = serde_json::from_slice(&line).expect("JSON");
        let summary = json["summary"].as_str().expect("a summary");
        assert!(long.starts_with(summary) && summary.len() > 1000);
    }
    assert_eq!(bounded("ab\n", 7), b"ab");
    assert_eq!(bounded("ab\n", 8), b"ab\n");
    assert_eq!(bounded("é", 1), b"");
}

#[test]
fn writers_at_the_same_time_do_not_mix() {
    let scratch = Scratch::new();
    let audit = Audit::open(Some(&scratch.path("audit.log"))).expect("an audit");
    let other = Audit::open(Some(&scratch.path("audit.log"))).expect("an audit");
    let long = "x".repeat(9000);
    thread::scope(|scope| {
        for audit in [&audit, &audit, &other] {
            let long = &long;
            scope.spawn(move || (0..60).for_each(|_| audit.write(&event(long))));
        }
    });
    audit.close(LONG);
    other.close(LONG);
    let summaries = summaries(&scratch.lines("audit.log"));
    assert!(summaries.len() == 180 && summaries.iter().all(|summary| *summary == long), "{}", summaries.len());
}

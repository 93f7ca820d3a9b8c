//! What runs where the file, the directories or the disk fail: the last good configuration, and who is told.

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use common::load::Load;
use common::{DISK, Origin, Proxy, SOON, Start, TempDir, get, until};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Answers this text by itself.
const SAYS: &str = r#"apiVersion: outrigger/v1
admin: { address: "{admin}" }
health: { address: "{health}" }
runtime: { workers: 1 }
listeners: [{ name: edge, mode: proxy, address: "{listen}" }]
routes:
  - { name: all, respond: { status: 200, body: TEXT } }
"#;

/// Forwards to `app`, and says in a header which one it is.
const FORWARDS: &str = r#"apiVersion: outrigger/v1
admin: { address: "{admin}" }
health: { address: "{health}" }
runtime: { workers: 1, probation: 0s }
telemetry: { accessLog: { format: off } }
listeners: [{ name: edge, mode: proxy, address: "{listen}" }]
services: { app: { endpoints: { static: ["{app}"] } } }
routes:
  - { name: all, to: app, responseHeaders: { set: { x-text: TEXT } } }
"#;

fn says(text: &str) -> String {
    SAYS.replace("TEXT", text)
}

fn by_argument() -> Start {
    Start::args(&["--state-directory", "{dir}/state"])
}

fn serves(proxy: &Proxy) -> String {
    let reply = get(proxy.addr(), "/");
    assert_eq!(reply.status(), 200, "{reply:?}");
    reply.text()
}

fn is_live(proxy: &Proxy, text: &str) {
    until(&format!("`{text}` is live\n{}", proxy.stderr_text()), SOON, || serves(proxy) == text);
}

fn status(proxy: &Proxy) -> Value {
    proxy.admin_json("/config/status")
}

fn component(proxy: &Proxy, name: &str) -> (String, String) {
    let health = proxy.healthz();
    let field = |field: &str| health["components"][name][field].as_str().unwrap_or_default().to_owned();
    (field("status"), field("detail"))
}

fn attempts(proxy: &Proxy, result: &str) -> u64 {
    proxy.metric("outrigger_config_reloads_total", &[("result", result)]) as u64
}

fn state_errors(proxy: &Proxy) -> u64 {
    proxy.metric("outrigger_state_errors_total", &[]) as u64
}

fn entry(proxy: &Proxy, generation: u64) -> std::path::PathBuf {
    proxy.dir().join(format!("state/generation-{generation:06}.json"))
}

fn is_stored(proxy: &Proxy, generation: u64) {
    until(&format!("generation {generation} is on the disk"), DISK, || entry(proxy, generation).exists());
}

/// Starts it on a first configuration, goes on with the others, and ends it when all are on the disk.
fn stopped_after(texts: &[&str]) -> Proxy {
    let mut proxy = Proxy::start_as(&by_argument(), &says(texts[0]), &[]);
    texts[1..].iter().for_each(|text| proxy.reload_with(&says(text)));
    is_stored(&proxy, texts.len() as u64);
    proxy.stop();
    proxy
}

/// Runs on what it had before, in spite of the file.
fn runs_on(proxy: &Proxy, text: &str, generation: u64) {
    assert_eq!((serves(proxy).as_str(), proxy.probe("/readyz")), (text, Some(200)));
    let (health, detail) = component(proxy, "config");
    let wanted = format!("the last good configuration, generation {generation}, is live");
    assert!(health == "degraded" && detail.contains(&wanted), "{health}: {detail}");
    assert_eq!(proxy.healthz()["status"], "degraded");
    let status = status(proxy);
    assert_eq!(status["live"]["generation"], generation);
    assert!(status["stale"].as_str().is_some_and(|stale| stale.contains(&wanted)), "{status:#}");
    assert_eq!(status["lastAttempt"]["result"], "failure");
    assert!(status["lastAttempt"]["problems"][0]["message"].is_string(), "{status:#}");
    assert_eq!(proxy.metric("outrigger_config_stale", &[]) as u64, 1);
    for what in ["configuration refused", "not running on what the file says"] {
        logs(proxy, "ERROR", what);
    }
}

/// Waits for a line of the log, which is read beside us.
fn logs(proxy: &Proxy, level: &str, what: &str) {
    let level = format!("\"{level}\"");
    let told = || proxy.stderr_text().lines().any(|line| line.contains(&level) && line.contains(what));
    until(&format!("`{what}` in the log\n{}", proxy.stderr_text()), SOON, told);
}

/// What is written by mistake, or by half, or by nobody: what it is called, and how it comes about.
type Mistake = (&'static str, fn(&Path, &str));

const MISTAKES: [Mistake; 10] = [
    ("broken", |path, good| write(path, good.replace("name: all,", "name: [all,"))),
    ("unknown key", |path, good| write(path, good.replace("routes:", "rutes:"))),
    ("empty", |path, _| write(path, "")),
    ("half", |path, good| write(path, &good[..good.len() - 20])),
    ("binary", |path, _| write(path, common::pattern(7, 100_000))),
    ("zeros", |path, _| write(path, [0; 4096])),
    ("100 MiB", |path, good| {
        let file = File::create(path).expect("a file");
        file.set_len(100 << 20).expect("100 MiB");
        file.write_all_at(good.as_bytes(), 0).expect("write");
    }),
    ("alias of itself", |path, good| write(path, format!("{good}workload: &a {{ labels: *a }}\n"))),
    ("a billion aliases", |path, good| {
        let mut text = "x0: &x0 [a, a, a, a, a, a, a, a, a, a]\n".to_owned();
        for level in 1..12 {
            let aliases = vec![format!("*x{}", level - 1); 10].join(", ");
            text += &format!("x{level}: &x{level} [{aliases}]\n");
        }
        write(path, format!("{good}{text}"));
    }),
    ("a pipe", |path, _| {
        let _ = fs::remove_file(path);
        assert!(Command::new("mkfifo").arg(path).status().expect("run mkfifo").success());
    }),
];

/// As an editor does: whole, or not at all.
fn write(path: &Path, content: impl AsRef<[u8]>) {
    let next = path.with_extension("next");
    fs::write(&next, content).expect("write");
    fs::rename(next, path).expect("replace");
}

#[test]
fn a_start_with_a_file_that_cannot_be_used() {
    let mut proxy = stopped_after(&["one", "two"]);
    let (mut last, mut generation) = ("two".to_owned(), 2);
    let mistakes = MISTAKES.into_iter().chain([(
        "missing",
        (|path: &Path, _: &str| {
            fs::remove_file(path).expect("remove");
        }) as fn(&Path, &str),
    )]);
    for (index, (name, make)) in mistakes.enumerate() {
        println!("{name}");
        make(proxy.config(), &proxy.fill(&says(&last)));
        proxy.start_again();
        runs_on(&proxy, &last, generation);
        // Repaired, it goes live without anybody's doing.
        (last, generation) = (format!("repaired{index}"), generation + 1);
        write(proxy.config(), proxy.fill(&says(&last)));
        is_live(&proxy, &last);
        assert_eq!(status(&proxy)["live"]["generation"], generation);
        assert_eq!((component(&proxy, "config").0.as_str(), &status(&proxy)["stale"]), ("ok", &Value::Null));
        assert_eq!(proxy.metric("outrigger_config_stale", &[]) as u64, 0);
        is_stored(&proxy, generation);
        proxy.stop();
    }
}

#[test]
fn where_the_state_directory_is_said() {
    let by_environment = || Start::default().and_env("OUTRIGGER_STATE_DIRECTORY", "{dir}/state");
    let key = |text: &str, directory: &str| format!("{}state: {{ directory: \"{{dir}}/{directory}\" }}\n", says(text));
    for (start, config) in [
        (by_environment(), says("one")),
        // Both override the key.
        (by_environment(), key("one", "other")),
        (by_argument(), key("one", "other")),
        (by_argument().and_env("OUTRIGGER_STATE_DIRECTORY", "{dir}/other"), says("one")),
    ] {
        let mut proxy = Proxy::start_as(&start, &config, &[]);
        is_stored(&proxy, 1);
        assert!(!proxy.dir().join("other").exists(), "{start:?}");
        let kept = proxy.admin_json("/config/history")["directory"].clone();
        assert_eq!(kept, proxy.fill("{dir}/state"));
        proxy.stop();
        proxy.rewrite_config("routes: [");
        proxy.start_again();
        runs_on(&proxy, "one", 1);
    }
    // The key alone is not known where the file cannot be read.
    let mut proxy = Proxy::start(&key("one", "state"), &[]);
    is_stored(&proxy, 1);
    proxy.stop();
    proxy.rewrite_config("routes: [");
    assert_eq!(proxy.refused_again().code, 1);
}

#[test]
fn without_any_good_one_it_does_not_start() {
    let broken = |dir: &TempDir, fill: &dyn Fn(&str) -> String| {
        dir.file("outrigger.yaml", fill(&says("one").replace("name: all,", "name: all, timeot: 2s,")))
    };
    let nothing_good = |start: &Start, lay: common::proxy::Lay<'_>| {
        let said = Proxy::refused(start, lay);
        assert_eq!((said.code, said.out.as_str()), (1, ""), "{said:?}");
        assert!(said.err.contains("outrigger.yaml:7:") && said.err.contains("did you mean `timeout`?"), "{said:?}");
        said
    };
    nothing_good(&Start::default(), &broken);
    nothing_good(&by_argument(), &broken);
    let damaged = |dir: &TempDir, fill: &dyn Fn(&str) -> String| {
        fs::create_dir(dir.path().join("state")).expect("a directory");
        dir.file("state/generation-000004.json", "{\"format\":1}");
        broken(dir, fill)
    };
    let said = nothing_good(&by_argument(), &damaged);
    assert!(said.err.contains("generation-000004.json is damaged"), "{said:?}");
    // A state directory that is none.
    let file = |dir: &TempDir, fill: &dyn Fn(&str) -> String| {
        dir.file("state", "not a directory");
        broken(dir, fill)
    };
    let said = nothing_good(&by_argument(), &file);
    assert!(said.err.contains("state directory `"), "{said:?}");
    // Which does not matter to whoever has a file.
    let good = |dir: &TempDir, fill: &dyn Fn(&str) -> String| {
        dir.file("state", "not a directory");
        dir.file("outrigger.yaml", fill(&says("one")))
    };
    let proxy = Proxy::start_laid_as(&by_argument(), &good, &[]);
    assert_eq!(serves(&proxy), "one");
    let (health, detail) = component(&proxy, "state");
    assert!(health == "degraded" && detail.contains("not a directory"), "{health}: {detail}");
    assert_eq!(state_errors(&proxy), 1);
    proxy.reload_with(&says("two"));
    assert_eq!((serves(&proxy).as_str(), component(&proxy, "state").0.as_str()), ("two", "degraded"));
}

#[test]
fn a_damaged_entry_is_told_and_the_one_before_it_is_used() {
    type Damage = fn(&Path, &[u8]);
    let damages: [(&str, Damage); 7] = [
        ("cut short", |path, bytes| fs::write(path, &bytes[..bytes.len() / 2]).expect("write")),
        ("one bit", |path, bytes| {
            let mut bytes = bytes.to_vec();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(path, bytes).expect("write");
        }),
        ("empty", |path, _| fs::write(path, "").expect("write")),
        ("binary", |path, _| fs::write(path, common::pattern(3, 5000)).expect("write")),
        ("another's", |path, _| {
            fs::copy(path.with_file_name("generation-000001.json"), path).expect("copy");
        }),
        ("a directory", |path, _| {
            fs::remove_file(path).expect("remove");
            fs::create_dir(path).expect("a directory");
        }),
        ("larger than any", |path, _| {
            File::create(path).expect("a file").set_len(65 << 20).expect("65 MiB");
        }),
    ];
    let mut proxy = stopped_after(&["one", "two", "three"]);
    let newest = entry(&proxy, 3);
    let sound = fs::read(&newest).expect("an entry");
    proxy.rewrite_config("routes: [");
    for (name, damage) in damages {
        println!("{name}");
        damage(&newest, &sound);
        proxy.start_again();
        runs_on(&proxy, "two", 2);
        let (health, detail) = component(&proxy, "state");
        assert!(health == "degraded" && detail.contains("generation-000003.json is damaged"), "{health}: {detail}");
        assert_eq!(state_errors(&proxy), 1);
        let history = proxy.cli(&["config", "history"]);
        assert!(history.code == 0 && history.out.contains("damaged: generation-000003.json"), "{history:?}");
        let rollback = proxy.cli(&["config", "rollback", "3"]);
        assert!(rollback.code == 1 && rollback.err.contains("damaged"), "{rollback:?}");
        proxy.stop();
        if newest.is_dir() {
            fs::remove_dir(&newest).expect("remove");
        }
    }
    fs::write(&newest, &sound).expect("as it was");
    proxy.start_again();
    runs_on(&proxy, "three", 3);
    assert_eq!(component(&proxy, "state").0, "ok");
    proxy.stop();
    // So are the marks.
    fs::write(proxy.dir().join("state/marks.json"), "{\"pin\":1}").expect("write");
    proxy.start_again();
    runs_on(&proxy, "three", 3);
    let (health, detail) = component(&proxy, "state");
    assert!(health == "degraded" && detail.contains("cannot read marks.json"), "{health}: {detail}");
}

#[test]
fn directories_that_are_removed_while_it_runs() {
    let origin = Origin::ok();
    let lay = |dir: &TempDir, fill: &dyn Fn(&str) -> String| {
        let config = dir.path().join("conf");
        fs::create_dir(&config).expect("a directory");
        fs::write(config.join("all.yaml"), fill(&FORWARDS.replace("TEXT", "one"))).expect("write");
        config
    };
    let proxy = Proxy::start_laid_as(&by_argument(), &lay, &[("app", origin.addr())]);
    is_stored(&proxy, 1);
    let load = Load::to(proxy.addr(), 1, 1);
    let more = |count: u64| until("traffic goes on", SOON, || load.done() >= count);
    more(50);
    let put = |text: &str| {
        let _ = fs::create_dir(proxy.config());
        write(&proxy.config().join("all.yaml"), proxy.fill(&FORWARDS.replace("TEXT", text)));
        until(&format!("`{text}` is live\n{}", proxy.stderr_text()), SOON, || self::text(&proxy, text));
    };
    // What was to be kept.
    fs::remove_dir_all(proxy.dir().join("state")).expect("remove");
    put("two");
    until("it is told", DISK, || component(&proxy, "state").0 == "degraded");
    let (_, detail) = component(&proxy, "state");
    assert!(detail.contains("cannot save generation 2") && detail.contains("No such file"), "{detail}");
    assert_eq!((state_errors(&proxy), proxy.probe("/readyz")), (1, Some(200)));
    assert_eq!(proxy.cli_json(&["config", "history"])["generations"][0]["generation"], 2, "from memory");
    fs::create_dir(proxy.dir().join("state")).expect("a directory");
    put("three");
    until("it is kept again", DISK, || component(&proxy, "state").0 == "ok" && entry(&proxy, 3).exists());
    // What is to be read.
    let before = load.done();
    fs::remove_dir_all(proxy.config()).expect("remove");
    proxy.signal("HUP");
    until("nothing is no configuration", SOON, || attempts(&proxy, "failure") >= 1);
    let (health, detail) = component(&proxy, "config");
    assert!(health == "degraded" && detail.contains("cannot read"), "{health}: {detail}");
    more(before + 50);
    assert!(text(&proxy, "three") && proxy.probe("/readyz") == Some(200));
    put("four");
    assert_eq!(component(&proxy, "config").0, "ok");
    let failures = load.stop();
    assert!(failures.is_empty(), "{failures:#?}");
}

/// Whether the answer says so in a header.
fn text(proxy: &Proxy, wanted: &str) -> bool {
    get(proxy.addr(), "/").head.get("x-text").as_deref() == Some(wanted)
}

#[test]
fn a_reload_of_what_cannot_be_used_under_traffic() {
    let origin = Origin::ok();
    let proxy = Proxy::start_as(&by_argument(), &FORWARDS.replace("TEXT", "one"), &[("app", origin.addr())]);
    let load = Load::to(proxy.addr(), 1, 1);
    let mut last = "one".to_owned();
    for (index, (name, make)) in MISTAKES.into_iter().enumerate() {
        println!("{name}");
        let (refused, before) = (attempts(&proxy, "failure"), load.done());
        make(proxy.config(), &proxy.fill(&FORWARDS.replace("TEXT", &last)));
        // What is no file is no change; but somebody may ask for it.
        proxy.signal("HUP");
        until(&format!("it is refused\n{}", proxy.stderr_text()), SOON, || attempts(&proxy, "failure") > refused);
        let (health, detail) = component(&proxy, "config");
        assert!(health == "degraded" && detail.contains("the last change was refused"), "{health}: {detail}");
        assert_eq!(proxy.metric("outrigger_config_stale", &[]) as u64, 1);
        assert_eq!(status(&proxy)["lastAttempt"]["result"], "failure");
        until("traffic goes on", SOON, || load.done() >= before + 20);
        assert!(text(&proxy, &last));
        last = format!("repaired{index}");
        write(proxy.config(), proxy.fill(&FORWARDS.replace("TEXT", &last)));
        until(&format!("`{last}` is live\n{}", proxy.stderr_text()), SOON, || text(&proxy, &last));
        assert_eq!(component(&proxy, "config").0, "ok");
        assert_eq!(proxy.metric("outrigger_config_stale", &[]) as u64, 0);
    }
    let failures = load.stop();
    assert!(failures.is_empty(), "{failures:#?}");
    assert!(proxy.memory().1 < 512 << 10, "{} KiB at most", proxy.memory().1);
}

/// Whether this machine lets us mount, which takes privileges.
fn can_mount(dir: &Path) -> bool {
    let mount = Command::new("unshare").args(["-m", "mount", "-t", "tmpfs", "none"]).arg(dir).output();
    let possible = mount.is_ok_and(|output| output.status.success());
    if !possible {
        println!("skipped: `unshare -m mount` is not allowed here, so there is no disk to fill or to protect");
    }
    possible
}

/// Runs it in a mount namespace of its own, after this script.
fn mounted(script: &str) -> Start {
    let script = format!("{script} && exec \"$0\" \"$@\"");
    let wrap = ["unshare", "-m", "sh", "-c", &script].map(str::to_owned).to_vec();
    Start { wrap, ..by_argument() }
}

#[test]
fn a_disk_that_is_full_or_read_only() {
    let probe = TempDir::new("mount");
    if !can_mount(probe.path()) {
        return;
    }
    let origin = Origin::ok();
    let start = mounted("mkdir -p {dir}/state && mount -t tmpfs -o size=64k none {dir}/state");
    let proxy = Proxy::start_as(&start, &FORWARDS.replace("TEXT", "one"), &[("app", origin.addr())]);
    let state = Path::new("/proc")
        .join(proxy.pid().to_string())
        .join("root")
        .join(proxy.dir().join("state").strip_prefix("/").expect("an absolute path"));
    let load = Load::to(proxy.addr(), 1, 1);
    let put = |text: &str| {
        proxy.reload_with(&FORWARDS.replace("TEXT", text));
        assert!(self::text(&proxy, text));
    };
    until("the first is kept", DISK, || state.join("generation-000001.json").exists());
    assert_eq!((component(&proxy, "state").0.as_str(), state_errors(&proxy)), ("ok", 0));

    let mut filler = File::create(state.join("filler")).expect("a file");
    while filler.write_all(&[0; 1024]).is_ok() {}
    put("two");
    until("it is told", DISK, || state_errors(&proxy) == 1);
    let (health, detail) = component(&proxy, "state");
    assert!(health == "degraded" && detail.contains("No space left"), "{health}: {detail}");
    assert_eq!((proxy.probe("/readyz"), component(&proxy, "config").0.as_str()), (Some(200), "ok"));
    // A pin is kept in memory at least.
    assert_eq!(proxy.cli(&["config", "pin", "2"]).code, 0);
    until("it is told again", DISK, || state_errors(&proxy) == 2);
    assert_eq!(proxy.cli(&["config", "unpin"]).code, 0);
    until("nothing is left of what could not be written", SOON, || {
        let names = fs::read_dir(&state).expect("the state directory").map(|e| e.expect("an entry").file_name());
        names.into_iter().all(|name| !name.to_string_lossy().ends_with(".tmp"))
    });
    drop(filler);
    fs::remove_file(state.join("filler")).expect("remove");
    put("three");
    until("there is room again", DISK, || component(&proxy, "state").0 == "ok");

    let before = state_errors(&proxy);
    let remount = Command::new("nsenter")
        .args(["-t", &proxy.pid().to_string(), "-m", "mount", "-o", "remount,ro"])
        .arg(proxy.dir().join("state"))
        .output()
        .expect("run nsenter");
    assert!(remount.status.success(), "{remount:?}");
    put("four");
    until("it is told", DISK, || state_errors(&proxy) == before + 1);
    let (health, detail) = component(&proxy, "state");
    assert!(health == "degraded" && detail.contains("Read-only"), "{health}: {detail}");
    let history = proxy.cli(&["config", "history"]);
    assert!(history.code == 0 && history.out.contains("start by file"), "{history:?}");
    assert_eq!(proxy.cli(&["config", "rollback", "1"]).code, 0);
    assert!(text(&proxy, "one"));
    let failures = load.stop();
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn a_start_from_a_read_only_directory() {
    let probe = TempDir::new("mount");
    if !can_mount(probe.path()) {
        return;
    }
    let mut proxy = stopped_after(&["one", "two"]);
    // What a process that was killed while writing leaves.
    let torn = proxy.dir().join("state/.generation-000003.json.1-1.tmp");
    fs::write(&torn, "{").expect("write");
    proxy.rewrite_config("routes: [");
    let bind = "mount --bind {dir}/state {dir}/state && mount -o remount,bind,ro {dir}/state";
    proxy.start_again_as(&mounted(bind));
    runs_on(&proxy, "two", 2);
    proxy.reload_with(&says("three"));
    assert_eq!(serves(&proxy), "three");
    until("it is told", DISK, || component(&proxy, "state").1.contains("Read-only"));
    proxy.stop();
    assert!(torn.exists());
    proxy.start_again_as(&by_argument());
    is_stored(&proxy, 3);
    assert!(!torn.exists(), "what was left by halves is removed");
}

/// The same entry, of another time.
fn date(path: &Path, at: &str) {
    let text = fs::read_to_string(path).expect("an entry");
    let (content, _) = text.split_once(",\"checksum\":").expect("a checksum");
    let (before, rest) = content.split_once("\"at\":\"").expect("a time");
    let (_, after) = rest.split_once('"').expect("the end of a time");
    let content = format!("{before}\"at\":\"{at}\"{after}");
    let checksum: String = Sha256::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect();
    fs::write(path, format!("{content},\"checksum\":\"{checksum}\"}}\n")).expect("write");
}

#[test]
fn clocks_may_jump() {
    let mut proxy = stopped_after(&["one", "two", "three"]);
    date(&entry(&proxy, 1), "2199-01-01T00:00:00.000Z");
    date(&entry(&proxy, 2), "2099-12-31T23:59:59.999Z");
    date(&entry(&proxy, 3), "1970-01-01T00:00:00.000Z");
    proxy.rewrite_config("routes: [");
    proxy.start_again();
    runs_on(&proxy, "three", 3);
    assert_eq!((component(&proxy, "state").0.as_str(), state_errors(&proxy)), ("ok", 0));
    let history = proxy.admin_json("/config/history");
    let rows: Vec<(u64, String)> = history["generations"]
        .as_array()
        .expect("generations")
        .iter()
        .map(|row| (row["generation"].as_u64().expect("a number"), row["at"].as_str().expect("a time").to_owned()))
        .collect();
    assert_eq!(rows.iter().map(|row| row.0).collect::<Vec<_>>(), [3, 2, 1], "by number, not by time");
    assert_eq!(rows[2].1, "2199-01-01T00:00:00.000Z");
    proxy.reload_with(&says("four"));
    is_stored(&proxy, 4);
    assert_eq!(proxy.cli(&["config", "rollback", "1"]).code, 0);
    assert_eq!(serves(&proxy), "one");
    is_stored(&proxy, 5);
    proxy.stop();
    proxy.start_again();
    assert_eq!((serves(&proxy).as_str(), &status(&proxy)["live"]["generation"]), ("one", &5.into()));
}

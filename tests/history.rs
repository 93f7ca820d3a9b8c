//! The configurations that went live: their numbers and digests, going back to one, staying with one, and what is kept
//! of them, with a state directory and without.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{DISK, Proxy, SOON, Start, get, until};
use serde_json::Value;

/// Answers this text by itself; more top level keys as lines.
const SAYS: &str = r#"apiVersion: outrigger/v1
admin: { address: "{admin}" }
health: { address: "{health}" }
runtime: { workers: 1 }
telemetry: { audit: "{dir}/audit.jsonl" }
listeners: [{ name: edge, mode: proxy, address: "{listen}" }]
routes: [{ name: all, respond: { status: 200, body: TEXT } }]
"#;

fn says(text: &str) -> String {
    SAYS.replace("TEXT", text)
}

/// With a state directory.
fn kept(text: &str) -> String {
    format!("{}state: {{ directory: \"{{dir}}/state\", keep: 3 }}\n", says(text))
}

fn serves(proxy: &Proxy) -> String {
    let reply = get(proxy.addr(), "/");
    assert_eq!(reply.status(), 200, "{reply:?}");
    reply.text()
}

fn status(proxy: &Proxy) -> Value {
    proxy.admin_json("/config/status")
}

fn generation(proxy: &Proxy) -> u64 {
    status(proxy)["live"]["generation"].as_u64().expect("a generation")
}

fn attempts(proxy: &Proxy, result: &str) -> u64 {
    proxy.metric("outrigger_config_reloads_total", &[("result", result)]) as u64
}

/// The whole text of what is said about the configuration.
fn detail(proxy: &Proxy) -> String {
    proxy.healthz()["components"]["config"]["detail"].as_str().expect("a detail").to_owned()
}

fn row(history: &Value, generation: u64) -> &Value {
    let rows = history["generations"].as_array().expect("generations");
    rows.iter().find(|row| row["generation"] == generation).unwrap_or_else(|| panic!("no {generation} in {history:#}"))
}

/// Numbers of the state directory, as its files are called.
fn stored(proxy: &Proxy) -> Vec<u64> {
    let entries = fs::read_dir(proxy.dir().join("state")).expect("the state directory");
    let names = entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"));
    let mut numbers: Vec<u64> =
        names.filter_map(|name| name.strip_prefix("generation-")?.strip_suffix(".json")?.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}

fn is_stored(proxy: &Proxy, generation: u64) {
    until(&format!("generation {generation} is on the disk"), DISK, || stored(proxy).contains(&generation));
}

/// A command that has to be refused, and what it said.
fn refused(proxy: &Proxy, args: &[&str]) -> String {
    let said = proxy.cli(args);
    assert_eq!((said.code, said.out.as_str()), (1, ""), "{args:?}: {said:?}");
    said.err
}

#[test]
fn numbers_and_digests() {
    let proxy = Proxy::start(&says("one"), &[]);
    let first = status(&proxy)["live"].clone();
    assert_eq!(first["generation"], 1);
    let digest = first["digest"].as_str().expect("a digest").to_owned();
    assert!(digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()), "{digest}");
    proxy.reload_with(&says("two"));
    let second = status(&proxy)["live"].clone();
    assert_eq!(second["generation"], 2);
    assert_ne!(second["digest"], *digest);
    // Another text of the same meaning.
    proxy.reload_with(&format!("# a note\n{}", says("two")));
    let third = status(&proxy)["live"].clone();
    assert_eq!((&third["generation"], &third["digest"]), (&3.into(), &second["digest"]));
    proxy.reload_with(&says("one"));
    assert_eq!(status(&proxy)["live"]["digest"], *digest, "the same configuration again");

    let history = proxy.admin_json("/config/history");
    let numbers: Vec<u64> = history["generations"]
        .as_array()
        .expect("generations")
        .iter()
        .map(|row| row["generation"].as_u64().expect("a number"))
        .collect();
    assert_eq!(numbers, [4, 3, 1], "newest first; 3 has taken the place of 2");
    assert_eq!((&history["directory"], &history["pinned"]), (&Value::Null, &Value::Null));
    assert_eq!((&row(&history, 4)["live"], &row(&history, 3)["live"]), (&true.into(), &Value::Null));
    assert!(row(&history, 1)["cause"].as_str().is_some_and(|cause| cause.starts_with("start by file ")), "{history:#}");
    assert!(row(&history, 3)["cause"].as_str().is_some_and(|cause| cause.starts_with("reload by file ")));
    assert_eq!(row(&history, 3)["summary"], "1 route changed");
    let shown = proxy.admin_json("/config/history/3");
    assert_eq!(shown["files"][0]["text"], proxy.fill(&format!("# a note\n{}", says("two"))));
    assert_eq!(
        (proxy.admin("GET", "/config/history/99").status(), proxy.admin("GET", "/config/history/x").status()),
        (404, 400)
    );
    assert_eq!(proxy.admin("GET", "/config/diff?from=1").status(), 400);
    assert_eq!(proxy.admin("GET", "/config/rollback?to=1").status(), 405, "a GET changes nothing");
    assert_eq!(generation(&proxy), 4);
}

#[test]
fn the_command_line_tells_the_same() {
    let proxy = Proxy::start(&says("one"), &[]);
    proxy.reload_with(&says("two"));

    let history = proxy.cli(&["config", "history"]);
    assert_eq!((history.code, history.err.as_str()), (0, ""), "{history:?}");
    let lines: Vec<&str> = history.out.lines().collect();
    assert_eq!(lines.len(), 2 + 1 + 1, "two of them, a mark, and where: {history:?}");
    let digest = status(&proxy)["live"]["digest"].as_str().expect("a digest").to_owned();
    assert!(lines[0].trim_start().starts_with("2 ") && lines[0].contains(&digest[..12]), "{history:?}");
    assert_eq!(lines[1].trim(), "live");
    assert!(lines[2].contains("start by file"), "{history:?}");
    assert!(lines[3].contains("in memory only"), "{history:?}");
    assert!(!history.out.contains('\u{1b}'), "no colour for who is no terminal");
    assert_eq!(proxy.cli_json(&["config", "history"]), proxy.admin_json("/config/history"));

    let shown = proxy.cli(&["config", "show", "1"]);
    assert_eq!(shown.code, 0, "{shown:?}");
    assert_eq!(shown.out, format!("# {}\n{}", proxy.config().display(), proxy.fill(&says("one"))));
    assert_eq!(proxy.cli_json(&["config", "show", "1"])["generation"], 1);
    assert!(refused(&proxy, &["config", "show", "7"]).contains("generation 7 is not kept"));

    let diff = proxy.cli(&["config", "diff", "1", "2"]);
    assert_eq!(diff.code, 0, "{diff:?}");
    assert!(diff.out.starts_with("generation 1 -> 2: 1 route changed\n  route `all`: "), "{diff:?}");
    assert!(diff.out.contains("one") && diff.out.contains("two"), "{diff:?}");
    assert_eq!(proxy.cli_json(&["config", "diff", "2", "2"])["changes"], Value::Array(Vec::new()));
    assert!(refused(&proxy, &["config", "diff", "1", "9"]).contains("generation 9"));

    // Wrong usage, and nobody there.
    for wrong in [&["config"][..], &["config", "show"], &["config", "show", "one"], &["config", "diff", "1"]] {
        assert_eq!(proxy.cli(wrong).code, 2, "{wrong:?}");
    }
    let mut proxy = proxy;
    proxy.stop();
    let nobody = proxy.cli(&["config", "history"]);
    assert_eq!((nobody.code, nobody.out.as_str()), (3, ""), "{nobody:?}");
    assert!(nobody.err.contains("no proxy answers"), "{nobody:?}");
}

#[test]
fn a_rollback_stays_until_the_file_changes() {
    let mut proxy = Proxy::start(&kept("one"), &[]);
    proxy.reload_with(&kept("two"));
    assert!(refused(&proxy, &["config", "rollback", "2"]).contains("generation 2 is live"));
    assert!(refused(&proxy, &["config", "rollback", "9"]).contains("generation 9 is not kept"));
    assert_eq!(proxy.metric("outrigger_config_stale", &[]) as u64, 0);

    let back = proxy.cli(&["config", "rollback", "1"]);
    assert_eq!(back.code, 0, "{back:?}");
    assert!(back.out.starts_with("generation 3 is live: 1 route changed\n"), "{back:?}");
    assert!(back.out.contains("generation 3 is generation 1 again, by admin 127.0.0.1:"), "{back:?}");
    let is_back = |proxy: &Proxy| {
        assert_eq!((serves(proxy).as_str(), generation(proxy)), ("one", 3));
        assert_eq!(proxy.metric("outrigger_config_stale", &[]) as u64, 1);
        let health = proxy.healthz();
        assert_eq!((&health["status"], proxy.probe("/readyz")), (&"degraded".into(), Some(200)), "{health:#}");
        assert!(status(proxy)["stale"].is_string());
        let why = row(&proxy.admin_json("/config/history"), 2)["bad"].clone();
        assert!(why.as_str().is_some_and(|why| why.starts_with("taken back by admin ")), "{why}");
    };
    is_back(&proxy);
    assert_eq!(proxy.metric("outrigger_config_rollbacks_total", &[]) as u64, 1);
    assert!(detail(&proxy).contains("generation 1 again"), "{}", detail(&proxy));

    // Nor does it come back by asking for the same once more, and not with the next start.
    proxy.signal("HUP");
    until("it is refused", SOON, || attempts(&proxy, "failure") == 1);
    is_back(&proxy);
    assert!(detail(&proxy).contains("taken back before"), "{}", detail(&proxy));
    let attempt = status(&proxy)["lastAttempt"].clone();
    assert_eq!(attempt["result"], "failure");
    assert!(
        attempt["problems"][0]["message"].as_str().is_some_and(|m| m.contains("has not changed since")),
        "{attempt}"
    );
    is_stored(&proxy, 3);
    proxy.stop();
    proxy.start_again();
    is_back(&proxy);

    proxy.reload_with(&kept("three"));
    assert_eq!((serves(&proxy).as_str(), generation(&proxy)), ("three", 4));
    assert_eq!((&status(&proxy)["stale"], &proxy.healthz()["status"]), (&Value::Null, &"ok".into()));
    assert_eq!(proxy.metric("outrigger_config_stale", &[]) as u64, 0);
    // Whoever writes it once more wants it.
    proxy.reload_with(&kept("two"));
    assert_eq!((serves(&proxy).as_str(), generation(&proxy)), ("two", 5));
}

#[test]
fn who_goes_back_may_go_forth_again() {
    let mut proxy = Proxy::start(&kept("one"), &[]);
    proxy.reload_with(&kept("two"));
    assert_eq!(proxy.cli(&["config", "rollback", "1"]).code, 0);
    assert_eq!(serves(&proxy), "one");
    assert_eq!(proxy.cli(&["config", "rollback", "2"]).code, 0);
    assert_eq!((serves(&proxy).as_str(), generation(&proxy)), ("two", 4));
    let history = proxy.admin_json("/config/history");
    assert_eq!(row(&history, 4)["bad"], Value::Null, "what an operator made live is not bad: {history:#}");
    is_stored(&proxy, 4);
    proxy.stop();
    proxy.start_again();
    assert_eq!(serves(&proxy), "two", "{}", proxy.stderr_text());
}

#[test]
fn without_a_state_directory_a_restart_takes_the_file() {
    let mut proxy = Proxy::start(&says("one"), &[]);
    proxy.reload_with(&says("two"));
    let back = proxy.cli(&["config", "rollback", "1"]);
    assert_eq!((back.code, serves(&proxy).as_str()), (0, "one"), "{back:?}");
    assert!(back.out.contains("there is no state directory: a restart takes the file"), "{back:?}");
    proxy.signal("HUP");
    until("the same file is refused", SOON, || attempts(&proxy, "failure") == 1);
    let pinned = proxy.cli_json(&["config", "pin", "3"]);
    assert_eq!((&pinned["generation"], &pinned["survivesRestart"]), (&3.into(), &false.into()), "{pinned:#}");
    proxy.stop();
    proxy.start_again();
    assert_eq!((serves(&proxy).as_str(), generation(&proxy)), ("two", 1));
    assert_eq!((&status(&proxy)["stale"], &status(&proxy)["pinned"]), (&Value::Null, &Value::Null));
}

#[test]
fn what_is_pinned_stays() {
    let mut proxy = Proxy::start(&kept("one"), &[]);
    assert!(refused(&proxy, &["config", "unpin"]).contains("nothing is pinned"));
    proxy.reload_with(&kept("two"));
    let pinned = proxy.cli(&["config", "pin", "1"]);
    assert_eq!(pinned.code, 0, "{pinned:?}");
    assert!(pinned.out.contains("generation 3 is live") && pinned.out.contains("is pinned by admin"), "{pinned:?}");
    let is_pinned = |proxy: &Proxy| {
        assert_eq!((serves(proxy).as_str(), generation(proxy)), ("one", 3));
        let status = status(proxy);
        assert_eq!(status["pinned"], 3);
        assert!(status["stale"].as_str().is_some_and(|stale| stale.contains("pinned")), "{status:#}");
        assert_eq!(row(&proxy.admin_json("/config/history"), 3)["pinned"], true);
        assert_eq!(proxy.metric("outrigger_config_stale", &[]) as u64, 1);
        assert!(detail(proxy).contains("generation 3 is pinned"), "{}", detail(proxy));
        assert_eq!(proxy.probe("/readyz"), Some(200));
    };
    is_pinned(&proxy);
    let history = proxy.cli(&["config", "history"]);
    assert!(history.out.lines().any(|line| line.trim() == "pinned"), "{history:?}");
    // Neither a change of the file nor an operator who forgot.
    proxy.rewrite_config(&kept("three"));
    until("a change is refused", SOON, || attempts(&proxy, "failure") == 1);
    is_pinned(&proxy);
    assert!(detail(&proxy).contains("outrigger config unpin"), "{}", detail(&proxy));
    assert!(refused(&proxy, &["config", "rollback", "2"]).contains("generation 3 is pinned"));
    is_stored(&proxy, 3);
    proxy.stop();
    proxy.start_again();
    is_pinned(&proxy);

    let unpinned = proxy.cli(&["config", "unpin"]);
    assert_eq!((unpinned.code, serves(&proxy).as_str()), (0, "three"), "{unpinned:?}");
    assert_eq!(generation(&proxy), 4);
    assert_eq!((&status(&proxy)["stale"], &status(&proxy)["pinned"]), (&Value::Null, &Value::Null));
    assert!(refused(&proxy, &["config", "unpin"]).contains("nothing is pinned"));

    // The live one needs no new number; and a file that cannot be taken is told when it is unpinned.
    let pinned = proxy.cli_json(&["config", "pin", "4"]);
    assert_eq!((&pinned["generation"], &pinned["survivesRestart"]), (&4.into(), &true.into()), "{pinned:#}");
    proxy.rewrite_config("apiVersion: outrigger/v1\nroutes: [");
    until("the broken one is refused", SOON, || attempts(&proxy, "failure") >= 1);
    let unpinned = proxy.cli_json(&["config", "unpin"]);
    assert_eq!((&unpinned["generation"], serves(&proxy).as_str()), (&4.into(), "three"), "{unpinned:#}");
    let status = status(&proxy);
    assert_eq!(status["pinned"], Value::Null);
    assert!(status["stale"].as_str().is_some_and(|stale| stale.contains("no longer pinned")), "{status:#}");
    proxy.reload_with(&kept("four"));
    assert_eq!(serves(&proxy), "four");
}

#[test]
fn so_many_are_kept_and_the_pinned_one() {
    let proxy = Proxy::start(&kept("one"), &[]);
    for text in ["two", "three", "four", "five"] {
        proxy.reload_with(&kept(text));
    }
    until("the newest three", DISK, || stored(&proxy) == [3, 4, 5]);
    assert!(refused(&proxy, &["config", "rollback", "1"]).contains("generation 1 is not kept"));
    let numbers = |proxy: &Proxy| {
        let history = proxy.admin_json("/config/history");
        history["generations"].as_array().expect("generations").len()
    };
    until("no more than these are listed", DISK, || numbers(&proxy) == 3);
    assert_eq!(proxy.cli(&["config", "pin", "3"]).code, 0);
    is_stored(&proxy, 6);
    assert_eq!(proxy.cli(&["config", "pin", "5"]).code, 0);
    until("the one that is pinned is one of three", DISK, || stored(&proxy) == [5, 6, 7]);
    assert_eq!(serves(&proxy), "five");
}

#[test]
fn numbers_go_on_over_restarts() {
    let mut proxy = Proxy::start_as(&Start::args(&["--state-directory", "{dir}/state"]), &kept("one"), &[]);
    let digest = status(&proxy)["live"]["digest"].clone();
    is_stored(&proxy, 1);
    proxy.stop();
    proxy.start_again();
    assert_eq!((generation(&proxy), &status(&proxy)["live"]["digest"]), (1, &digest), "an unchanged file keeps it");
    proxy.stop();
    proxy.rewrite_config(&format!("# a note\n{}", kept("one")));
    proxy.start_again();
    assert_eq!((generation(&proxy), &status(&proxy)["live"]["digest"]), (1, &digest), "nor does a note change it");
    proxy.stop();
    proxy.rewrite_config(&kept("two"));
    proxy.start_again();
    assert_eq!(generation(&proxy), 2);
    proxy.reload_with(&kept("three"));
    is_stored(&proxy, 3);
    // No time for last words.
    proxy.signal("KILL");
    proxy.wait_exit(SOON);
    proxy.start_again();
    assert_eq!((serves(&proxy).as_str(), generation(&proxy)), ("three", 3));
    // A number is used once, even if what had it is gone.
    proxy.stop();
    fs::write(proxy.dir().join("state/generation-000003.json"), "{").expect("damage it");
    proxy.rewrite_config("nothing: [");
    proxy.start_again();
    assert_eq!((serves(&proxy).as_str(), generation(&proxy)), ("two", 2));
    proxy.reload_with(&kept("four"));
    assert_eq!((serves(&proxy).as_str(), generation(&proxy)), ("four", 4));
    // From the disk alone.
    proxy.stop();
    proxy.start_again();
    let shown = proxy.admin_json("/config/history/2");
    assert_eq!(shown["files"][0]["text"], proxy.fill(&kept("two")));
    assert_eq!(proxy.cli(&["config", "rollback", "2"]).code, 0);
    assert_eq!(serves(&proxy), "two");
}

#[test]
fn how_many_are_kept_is_known_even_where_the_file_is_broken() {
    let many = |text: &str| kept(text).replace("keep: 3", "keep: 12");
    let mut proxy = Proxy::start_as(&Start::args(&["--state-directory", "{dir}/state"]), &many("text1"), &[]);
    for number in 2..=12 {
        proxy.reload_with(&many(&format!("text{number}")));
    }
    is_stored(&proxy, 12);
    proxy.stop();
    proxy.rewrite_config("routes: [");
    proxy.start_again();
    assert_eq!(serves(&proxy), "text12");
    proxy.reload_with(&many("text13"));
    is_stored(&proxy, 13);
    until("all of them", SOON, || stored(&proxy) == (2..=13).collect::<Vec<u64>>());
}

/// Files below a directory.
/// The files below, but for those that are still being written: they begin with a dot until they are renamed.
fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry"));
    let whole = entries.filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."));
    let entries = whole.map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

const SECRETS: [&str; 5] = [
    "token-written-in-file",
    "first-inline-secret",
    "second-inline-secret",
    "third-inline-secret",
    "secret-of-the-environment",
];

#[test]
fn secrets_are_kept_nowhere() {
    let config = |text: &str, token: &str| {
        kept(text).replace("admin: {", "admin: { explainToken: \"token-written-in-file\",").replace(
            "name: all,",
            &format!(
                "name: all, requestHeaders: {{ set: {{ authorization: \"Bearer {token}\", \
                     x-api-key: \"${{OUTRIGGER_TEST_SECRET}}\" }} }},"
            ),
        )
    };
    let start = Start::default().and_env("OUTRIGGER_TEST_SECRET", "secret-of-the-environment");
    let mut proxy = Proxy::start_as(&start, &config("one", "first-inline-secret"), &[]);
    proxy.reload_with(&config("two", "second-inline-secret"));
    assert_eq!(proxy.cli(&["config", "rollback", "1"]).code, 0, "from memory, secrets and all");
    assert_eq!(serves(&proxy), "one");
    is_stored(&proxy, 3);
    // A mistake beside a secret is told without it.
    let broken = config("two", "third-inline-secret").replace("name: all,", "name: all, timeot: 1s,");
    proxy.rewrite_config(&broken);
    until("it is refused", SOON, || attempts(&proxy, "failure") >= 1);

    let none = |place: &str, text: &str| {
        for secret in SECRETS {
            assert!(!text.contains(secret), "`{secret}` in {place}:\n{text}");
        }
    };
    let nowhere = |proxy: &Proxy| {
        for path in [
            "/config",
            "/config/status",
            "/config/history",
            "/config/history/1",
            "/config/history/2",
            "/config/history/3",
            "/config/diff?from=1&to=2",
            "/clusters",
        ] {
            let reply = proxy.admin("GET", path);
            none(path, &reply.text());
        }
        for command in [&["show", "2"][..], &["diff", "1", "2"], &["history"]] {
            let said = proxy.cli(&[&["config"], command].concat());
            none(&command.join(" "), &format!("{}{}", said.out, said.err));
        }
        none("/healthz", &proxy.healthz().to_string());
        none("the log", &proxy.stderr_text());
        let state = files(&proxy.dir().join("state"));
        assert!(state.len() >= 3, "{state:?}");
        for path in state.into_iter().chain([proxy.dir().join("audit.jsonl")]) {
            none(&path.display().to_string(), &fs::read_to_string(&path).expect("a file"));
        }
    };
    nowhere(&proxy);
    let shown = proxy.admin_json("/config/history/2");
    assert_eq!(shown["complete"], false);
    let text = shown["files"][0]["text"].as_str().expect("a text");
    assert!(text.contains("[redacted]") && text.contains("${OUTRIGGER_TEST_SECRET}"), "{text}");
    // What has lost its secrets is never live again, and that is told.
    proxy.stop();
    let said = proxy.refused_again();
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("timeot"), "{said:?}");
    proxy.rewrite_config(&config("three", "first-inline-secret"));
    proxy.start_again();
    assert!(refused(&proxy, &["config", "rollback", "2"]).contains("secrets"));
    nowhere(&proxy);
}

#[test]
fn a_reference_to_a_secret_is_enough_to_go_back() {
    let config = |text: &str| {
        kept(text).replace(
            "name: all,",
            "name: all, requestHeaders: { set: { authorization: \"Bearer ${OUTRIGGER_TEST_SECRET}\" } },",
        )
    };
    let start = Start::default().and_env("OUTRIGGER_TEST_SECRET", "secret-of-the-environment");
    let mut proxy = Proxy::start_as(&start, &config("one"), &[]);
    proxy.reload_with(&config("two"));
    is_stored(&proxy, 2);
    proxy.stop();
    proxy.start_again();
    assert_eq!(proxy.admin_json("/config/history/1")["complete"], true);
    assert_eq!((proxy.cli(&["config", "rollback", "1"]).code, serves(&proxy).as_str()), (0, "one"));
    is_stored(&proxy, 3);
    for path in files(&proxy.dir().join("state")) {
        assert!(
            !fs::read_to_string(&path).expect("a file").contains("secret-of-the-environment"),
            "{}",
            path.display()
        );
    }
}

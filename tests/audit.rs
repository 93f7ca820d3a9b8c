//! The audit: a line of JSON for everything that happens to the configuration, in a file or on standard output.

mod common;

use std::fs;
use std::path::Path;

use common::{DISK, Proxy, SOON, Start, eventually, get, until};
use serde_json::Value;

const SAYS: &str = r#"apiVersion: outrigger/v1
admin: { address: "{admin}" }
health: { address: "{health}" }
runtime: { workers: 1 }
telemetry: { audit: "AUDIT" }
listeners: [{ name: edge, mode: proxy, address: "{listen}" }]
routes: [{ name: all, respond: { status: 200, body: TEXT } }]
"#;

fn says(audit: &str, text: &str) -> String {
    SAYS.replace("AUDIT", audit).replace("TEXT", text)
}

fn serves(proxy: &Proxy, text: &str) {
    let reply = get(proxy.addr(), "/");
    assert_eq!((reply.status(), reply.text().as_str()), (200, text));
}

/// Whole lines of a file; each has to be JSON.
fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    lines.map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

/// Waits for so many, and for no more.
fn lines_of(path: &Path, count: usize) -> Vec<Value> {
    let found = eventually(&format!("{count} lines in {}", path.display()), SOON, || {
        Some(lines(path)).filter(|lines| lines.len() >= count)
    });
    assert_eq!(found.len(), count, "{found:#?}");
    found
}

/// What an event is about: action, result, generation, previous.
fn event(line: &Value) -> (&str, &str, Option<u64>, Option<u64>) {
    let word = |name: &str| line[name].as_str().unwrap_or_else(|| panic!("no `{name}`: {line:#}"));
    assert_eq!(word("event"), "config");
    let time = word("time");
    assert!(time.len() == 24 && time.ends_with('Z') && time.contains('T'), "{time}");
    (word("action"), word("result"), line["generation"].as_u64(), line["previous"].as_u64())
}

fn by_admin(line: &Value) -> bool {
    let source = line["source"].as_str().unwrap_or_default();
    source.strip_prefix("admin ").is_some_and(|peer| peer.parse::<std::net::SocketAddr>().is_ok())
}

/// Waits until one more attempt was refused.
fn refused(proxy: &Proxy, trigger: impl Fn()) {
    const NAME: &str = "outrigger_config_reloads_total";
    let before = proxy.metric(NAME, &[("result", "failure")]);
    trigger();
    proxy.await_metric(NAME, &[("result", "failure")], before + 1.0);
}

#[test]
fn who_did_what_to_which_and_how_it_ended() {
    let mut proxy =
        Proxy::start_as(&Start::args(&["--state-directory", "{dir}/state"]), &says("{dir}/audit.jsonl", "one"), &[]);
    let path = proxy.dir().join("audit.jsonl");
    let file = format!("file {}", proxy.config().display());
    let live = || proxy.admin_json("/config/status")["live"]["digest"].clone();
    let one = live();
    let first = lines_of(&path, 1).remove(0);
    assert_eq!(event(&first), ("start", "live", Some(1), None));
    assert_eq!((&first["source"], &first["digest"], &first["problems"]), (&file.as_str().into(), &one, &0.into()));

    proxy.reload_with(&says("{dir}/audit.jsonl", "two"));
    let two = live();
    let line = lines_of(&path, 2).remove(1);
    assert_eq!(event(&line), ("reload", "live", Some(2), Some(1)));
    assert_eq!((&line["source"], &line["digest"]), (&file.as_str().into(), &two));
    assert_eq!(line["summary"], "1 route changed");

    refused(&proxy, || proxy.rewrite_config("routes: [\nrutes: x"));
    let line = lines_of(&path, 3).remove(2);
    assert_eq!(event(&line), ("reload", "refused", None, None), "nothing went live");
    assert_eq!(line["digest"], Value::Null, "what cannot be read has none");
    assert!(line["problems"].as_u64().is_some_and(|count| count >= 1), "{line:#}");
    assert!(line["summary"].as_str().is_some_and(|summary| summary.contains("not YAML")), "{line:#}");

    assert_eq!(proxy.cli(&["config", "rollback", "1"]).code, 0);
    let line = lines_of(&path, 4).remove(3);
    assert_eq!((event(&line), by_admin(&line)), (("rollback", "live", Some(3), Some(2)), true), "{line:#}");
    assert_eq!(line["digest"], one);

    // What was taken back is refused by its name.
    proxy.rewrite_config(&says("{dir}/audit.jsonl", "two"));
    refused(&proxy, || proxy.signal("HUP"));
    let all = eventually("the signal", SOON, || {
        Some(lines(&path)).filter(|lines| lines.iter().any(|line| line["source"] == "SIGHUP"))
    });
    let line = all.iter().find(|line| line["source"] == "SIGHUP").expect("the signal");
    assert_eq!((event(line), &line["digest"]), (("reload", "refused", None, None), &two), "{line:#}");
    // By then the file's own event, too.
    let count = 6;
    lines_of(&path, count);

    assert_eq!(proxy.cli(&["config", "pin", "3"]).code, 0);
    let line = lines_of(&path, count + 1).remove(count);
    assert_eq!((event(&line), by_admin(&line)), (("pin", "live", Some(3), None), true), "{line:#}");
    assert_eq!(proxy.cli(&["config", "unpin"]).code, 0);
    let all = lines_of(&path, count + 3);
    assert_eq!((event(&all[count + 1]).0, by_admin(&all[count + 1])), ("unpin", true), "{all:#?}");
    assert_eq!((event(&all[count + 2]), by_admin(&all[count + 2])), (("reload", "live", Some(4), Some(3)), true));
    // What was asked for in vain is told as well.
    assert_eq!(proxy.cli(&["config", "rollback", "99"]).code, 1);
    let line = lines_of(&path, count + 4).remove(count + 3);
    assert_eq!((event(&line), by_admin(&line)), (("rollback", "refused", Some(4), None), true), "{line:#}");

    // The next process goes on at the end.
    until("all is on the disk", DISK, || proxy.dir().join("state/generation-000004.json").exists());
    proxy.stop();
    let before = fs::read_to_string(&path).expect("the audit");
    proxy.rewrite_config("routes: [");
    proxy.start_again();
    let all = lines_of(&path, count + 5);
    assert!(fs::read_to_string(&path).expect("the audit").starts_with(&before));
    let line = &all[count + 4];
    assert_eq!((event(line), &line["digest"]), (("last-good", "live", Some(4), None), &two));
    assert!(line["summary"].as_str().is_some_and(|summary| summary.contains("the file cannot be used")), "{line:#}");
    assert_eq!(line["problems"], 1);
}

#[test]
fn to_standard_output() {
    let proxy = Proxy::start(&says("stdout", "one"), &[]);
    serves(&proxy, "one");
    proxy.reload_with(&says("stdout", "two"));
    refused(&proxy, || proxy.rewrite_config("routes: ["));
    let events = || -> Vec<Value> {
        let lines = proxy.stdout_lines();
        let lines = lines.iter().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")));
        lines.filter(|line: &Value| line["event"] == "config").collect()
    };
    until("three events", SOON, || events().len() == 3);
    let events = events();
    let told: Vec<_> = events.iter().map(event).collect();
    assert_eq!(
        told,
        [("start", "live", Some(1), None), ("reload", "live", Some(2), Some(1)), ("reload", "refused", None, None)]
    );
}

#[test]
fn a_file_that_is_rotated() {
    let proxy = Proxy::start(&says("{dir}/audit.jsonl", "one"), &[]);
    let (path, old) = (proxy.dir().join("audit.jsonl"), proxy.dir().join("audit.jsonl.1"));
    lines_of(&path, 1);
    fs::rename(&path, &old).expect("rotate");
    proxy.reload_with(&says("{dir}/audit.jsonl", "two"));
    assert_eq!(event(&lines_of(&path, 1)[0]), ("reload", "live", Some(2), Some(1)));
    fs::remove_file(&path).expect("remove");
    proxy.reload_with(&says("{dir}/audit.jsonl", "three"));
    assert_eq!(event(&lines_of(&path, 1)[0]), ("reload", "live", Some(3), Some(2)));
    assert_eq!(lines(&old).len(), 1, "what was moved away is left alone");
    // Another file from now on.
    proxy.reload_with(&says("{dir}/other.jsonl", "four"));
    assert_eq!(event(&lines_of(&proxy.dir().join("other.jsonl"), 1)[0]), ("reload", "live", Some(4), Some(3)));
    assert_eq!(lines(&path).len(), 1);
}

#[test]
fn a_path_that_cannot_be_written_hurts_nobody() {
    let mut proxy = Proxy::start(&says("{dir}/audit.jsonl", "one"), &[]);
    let path = proxy.dir().join("audit.jsonl");
    lines_of(&path, 1);
    for (count, audit) in ["{dir}/none/audit.jsonl", "{dir}", "/dev/null"].into_iter().enumerate() {
        let text = format!("text{count}");
        proxy.reload_with(&says(audit, &text));
        serves(&proxy, &text);
        // Where it went before.
        lines_of(&path, count + 2);
    }
    until("it is in the log", SOON, || proxy.stderr_text().contains("cannot open"));
    // The same file is no reason not to start; and it is used as soon as that is possible.
    proxy.rewrite_config(&says("{dir}/none/audit.jsonl", "again"));
    proxy.await_metric("outrigger_config_generation", &[], 5.0);
    proxy.stop();
    proxy.start_again();
    serves(&proxy, "again");
    until("it is in the log", SOON, || proxy.stderr_text().contains("cannot open"));
    fs::create_dir(proxy.dir().join("none")).expect("a directory");
    proxy.reload_with(&says("{dir}/none/audit.jsonl", "later"));
    let late = lines_of(&proxy.dir().join("none/audit.jsonl"), 1);
    assert_eq!(event(&late[0]), ("reload", "live", Some(2), Some(1)));
}

//! `outrigger check`: the same problems as text, as JSON and as SARIF, with the rules of an organisation and without.

mod common;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::TempDir;
use serde_json::Value;

const OK: i32 = 0;
const REFUSED: i32 = 1;
const USAGE: i32 = 2;

const GOOD: &str = r#"apiVersion: outrigger/v1
listeners: [{ name: edge, mode: proxy, address: "0.0.0.0:8080" }]
services: { app: { endpoints: { static: ["127.0.0.1:3000"] } } }
routes: [{ name: all, to: app }]
"#;

const RULES: &str = r#"lint:
  - { name: no-half-close, forbid: "listeners[].halfClose", why: it hides bugs }
  - { name: sane-timeouts, range: { keys: ["routes[].timeout", defaults.timeout], min: 1ms, max: 30s } }
  - { name: owned, severity: warning, require: { key: workload.name } }
"#;

/// Runs `check` in a directory, so that files are named as a user names them.
fn check(dir: &TempDir, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_outrigger"))
        .arg("check")
        .args(args)
        .current_dir(dir.path())
        .env_remove("OUTRIGGER_CONFIG")
        .stdin(Stdio::null())
        .output()
        .expect("run outrigger")
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("ended by a signal: {}", stderr(output)))
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("stdout in UTF-8")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("stderr in UTF-8")
}

fn json(output: &Output) -> Value {
    assert_eq!(stderr(output), "", "all that is said is in the object");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", stdout(output)))
}

#[test]
fn text_is_for_people() {
    let dir = TempDir::new("check-text");
    dir.file("good.yaml", GOOD);
    dir.file("lint.yaml", RULES);
    for args in [&["--config", "good.yaml"][..], &["--config", "good.yaml", "--format", "text"]] {
        let output = check(&dir, args);
        assert_eq!((code(&output), stdout(&output).as_str(), stderr(&output).as_str()), (OK, "good.yaml: ok\n", ""));
    }

    let output = check(&dir, &["--config", "good.yaml", "--lint", "lint.yaml"]);
    assert_eq!(code(&output), OK, "warnings alone refuse nothing");
    assert_eq!(stdout(&output), "good.yaml: ok\n");
    let expected = "\
warning: `name` is missing (rule `owned`)
 --> good.yaml:1:1   workload.name
  |
1 | apiVersion: outrigger/v1
  | ^^^^^^^^^^^ add `workload.name`

1 warning
";
    assert_eq!(stderr(&output), expected);

    dir.file(
        "slow.yaml",
        GOOD.replace("to: app", "to: app, timeout: 5m").replace("proxy,", "proxy, halfClose: false,"),
    );
    let output = check(&dir, &["--config", "slow.yaml", "--lint", "lint.yaml"]);
    assert_eq!((code(&output), stdout(&output).as_str()), (REFUSED, ""));
    let said = stderr(&output);
    for part in [
        "error: `halfClose` must not be written (rule `no-half-close`)",
        "slow.yaml:2:40   listeners[0].halfClose",
        "^^^^^^^^^ remove it: it hides bugs",
        "error: `5m` is out of range (rule `sane-timeouts`)",
        "slow.yaml:4:41   routes[0].timeout",
        "^^ from 1ms to 30s",
        "2 problems, 1 warning",
    ] {
        assert!(said.contains(part), "`{part}` is missing in:\n{said}");
    }
    let output = check(&dir, &["--config", "slow.yaml"]);
    assert_eq!(code(&output), OK, "without the rules nothing is wrong");
}

#[test]
fn json_is_one_object() {
    let dir = TempDir::new("check-json");
    dir.file("good.yaml", GOOD);
    dir.file("bad.yaml", GOOD.replace("to: app", "too: app"));
    dir.file("lint.yaml", RULES);
    let output = check(&dir, &["--config", "good.yaml", "--format", "json"]);
    assert_eq!(code(&output), OK);
    assert_eq!(json(&output), serde_json::json!({ "ok": true, "problems": [] }));

    let output = check(&dir, &["--config", "bad.yaml", "--format", "json", "--lint", "lint.yaml"]);
    assert_eq!(code(&output), REFUSED);
    let object = json(&output);
    assert_eq!(object["ok"], false);
    let problem = &object["problems"][0];
    for (key, value) in [
        ("severity", "error"),
        ("rule", "configuration/structure"),
        ("file", "bad.yaml"),
        ("path", "routes[0].too"),
        ("message", "unknown key `too`"),
        ("remedy", "did you mean `to`?"),
    ] {
        assert_eq!(problem[key], value, "{problem}");
    }
    assert_eq!((&problem["line"], &problem["column"]), (&4.into(), &23.into()));

    let output = check(&dir, &["--config", "good.yaml", "--format", "json", "--lint", "lint.yaml"]);
    let object = json(&output);
    assert_eq!((code(&output), &object["ok"]), (OK, &true.into()));
    assert_eq!(object["problems"][0]["severity"], "warning");
    assert_eq!(object["problems"][0]["rule"], "lint/owned");
}

/// What the schema of SARIF 2.1.0 asks of what we use of it. Properties that are not ours are faults.
fn assert_sarif(log: &Value) {
    let only = |object: &Value, known: &[&str]| {
        let keys = object.as_object().unwrap_or_else(|| panic!("an object: {object}")).keys();
        let unknown: Vec<_> = keys.filter(|key| !known.contains(&key.as_str())).collect();
        assert!(unknown.is_empty(), "{unknown:?} in {object}");
    };
    let text =
        |value: &Value| value.as_str().filter(|text| !text.is_empty()).unwrap_or_else(|| panic!("{value}")).to_owned();
    only(log, &["$schema", "version", "runs"]);
    assert_eq!(log["version"], "2.1.0");
    assert!(text(&log["$schema"]).starts_with("https://") && text(&log["$schema"]).contains("sarif-schema-2.1.0.json"));
    let [run] = log["runs"].as_array().expect("runs").as_slice() else { panic!("one run: {log}") };
    only(run, &["tool", "results", "columnKind"]);
    assert_eq!(run["columnKind"], "unicodeCodePoints");
    only(&run["tool"], &["driver"]);
    let driver = &run["tool"]["driver"];
    only(driver, &["name", "version", "rules"]);
    assert_eq!(
        (text(&driver["name"]), text(&driver["version"])),
        ("outrigger".to_owned(), env!("CARGO_PKG_VERSION").to_owned())
    );
    let levels = ["none", "note", "warning", "error"];
    let rules = driver["rules"].as_array().expect("rules");
    let ids: Vec<String> = rules.iter().map(|rule| text(&rule["id"])).collect();
    for rule in rules {
        only(rule, &["id", "shortDescription", "defaultConfiguration"]);
        only(&rule["shortDescription"], &["text"]);
        text(&rule["shortDescription"]["text"]);
        only(&rule["defaultConfiguration"], &["level"]);
        assert!(levels.contains(&text(&rule["defaultConfiguration"]["level"]).as_str()));
        assert_eq!(ids.iter().filter(|id| **id == text(&rule["id"])).count(), 1, "rules are unique");
    }
    for result in run["results"].as_array().expect("results, even if there is none") {
        only(result, &["ruleId", "ruleIndex", "level", "message", "locations"]);
        let index = usize::try_from(result["ruleIndex"].as_u64().expect("an index")).expect("a small one");
        assert_eq!(ids.get(index), Some(&text(&result["ruleId"])));
        assert!(levels.contains(&text(&result["level"]).as_str()));
        only(&result["message"], &["text"]);
        text(&result["message"]["text"]);
        let [location] = result["locations"].as_array().expect("locations").as_slice() else { panic!("{result}") };
        only(location, &["physicalLocation", "logicalLocations"]);
        let physical = &location["physicalLocation"];
        only(physical, &["artifactLocation", "region"]);
        only(&physical["artifactLocation"], &["uri"]);
        let uri = text(&physical["artifactLocation"]["uri"]);
        assert!(uri.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-._~:%".contains(&b)), "{uri}");
        let Some(region) = physical.get("region") else { continue };
        only(region, &["startLine", "startColumn", "endColumn"]);
        let number = |key: &str| region[key].as_u64().unwrap_or_else(|| panic!("{key}: {region}"));
        assert!(number("startLine") >= 1 && number("startColumn") >= 1, "{region}");
        assert!(number("endColumn") > number("startColumn"), "{region}");
    }
}

#[test]
fn sarif_is_what_the_standard_asks() {
    let dir = TempDir::new("check-sarif");
    dir.file("good.yaml", GOOD);
    dir.file("bad.yaml", GOOD.replace("to: app", "to: app, timeot: 2s, timeout: soon"));
    dir.file("broken.yaml", "routes: [");
    dir.file("slow one.yaml", GOOD.replace("to: app", "to: app, timeout: 5m"));
    dir.file("lint.yaml", RULES);
    let log = |config: &str, expected: i32| {
        let output = check(&dir, &["--config", config, "--format", "sarif", "--lint", "lint.yaml"]);
        assert_eq!(code(&output), expected, "{config}");
        let log = json(&output);
        assert_sarif(&log);
        log["runs"][0]["results"].as_array().cloned().unwrap_or_default()
    };

    let [warning] = log("good.yaml", OK).try_into().expect("one result");
    assert_eq!((&warning["ruleId"], &warning["level"]), (&"lint/owned".into(), &"warning".into()));

    let [unknown, soon] = log("./bad.yaml", REFUSED).try_into().expect("two results");
    assert_eq!((&unknown["ruleId"], &unknown["level"]), (&"configuration/structure".into(), &"error".into()));
    assert_eq!(unknown["message"]["text"], "unknown key `timeot`: did you mean `timeout`?");
    let place = &unknown["locations"][0];
    assert_eq!(place["physicalLocation"]["artifactLocation"]["uri"], "./bad.yaml", "as it was given");
    let region = serde_json::json!({ "startLine": 4, "startColumn": 32, "endColumn": 38 });
    assert_eq!(place["physicalLocation"]["region"], region);
    assert_eq!(place["logicalLocations"][0]["fullyQualifiedName"], "routes[0].timeot");
    assert_eq!(soon["ruleId"], "configuration/structure");

    let [broken] = log("broken.yaml", REFUSED).try_into().expect("one result");
    assert_eq!(broken["ruleId"], "configuration/syntax");

    let [owned, slow] = log("slow one.yaml", REFUSED).try_into().expect("two results");
    assert_eq!((&owned["level"], &slow["ruleId"]), (&"warning".into(), &"lint/sane-timeouts".into()));
    assert_eq!(slow["locations"][0]["physicalLocation"]["artifactLocation"]["uri"], "slow%20one.yaml");

    let [absent] = log("absent.yaml", REFUSED).try_into().expect("one result");
    assert_eq!(absent["ruleId"], "configuration/unreadable");
    assert_eq!(absent["locations"][0]["physicalLocation"]["artifactLocation"]["uri"], "absent.yaml");
}

#[test]
fn rules_that_are_wrong_are_told_with_all_the_rest() {
    let dir = TempDir::new("check-rules");
    dir.file("good.yaml", GOOD);
    dir.file("bad.yaml", GOOD.replace("to: app", "to: nowhere"));
    dir.file("lint.yaml", "lint: [{ name: typo, forbid: \"listeners[].halfClosed\" }]\n");
    let output = check(&dir, &["--config", "good.yaml", "--lint", "lint.yaml"]);
    assert_eq!((code(&output), stdout(&output).as_str()), (REFUSED, ""));
    assert!(stderr(&output).contains("lint.yaml:1:30   lint[0].forbid"), "{}", stderr(&output));
    assert!(stderr(&output).contains("did you mean `listeners[].halfClose`?"), "{}", stderr(&output));
    let output = check(&dir, &["--config", "bad.yaml", "--lint", "lint.yaml"]);
    assert!(stderr(&output).ends_with("2 problems\n"), "{}", stderr(&output));
    let output = check(&dir, &["--config", "good.yaml", "--lint", "absent.yaml"]);
    assert_eq!(code(&output), REFUSED);
    assert!(stderr(&output).contains("cannot read `absent.yaml`"), "{}", stderr(&output));
    assert_eq!(code(&check(&dir, &["--config", "good.yaml", "--format", "xml"])), USAGE);
}

#[test]
fn places_are_those_of_each_file_of_a_directory() {
    let dir = TempDir::new("check-files");
    std::fs::create_dir(dir.path().join("conf")).expect("a directory");
    dir.file("conf/10.yaml", GOOD);
    let more = "apiVersion: outrigger/v1\nroutes:\n  - { name: web, hosts: [w], to: app, timeout: 1m }\n";
    dir.file("conf/20.yaml", more);
    dir.file("lint.yaml", RULES);
    let output = check(&dir, &["--config", "conf", "--lint", "lint.yaml"]);
    assert_eq!(code(&output), REFUSED);
    let said = stderr(&output);
    assert!(said.contains("conf/20.yaml:3:48   routes[0].timeout"), "{said}");
    assert!(said.contains("- { name: web, hosts: [w], to: app, timeout: 1m }"), "the line is shown: {said}");
}

#[test]
fn the_example_rules_fit_the_example_configuration() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(env!("CARGO_BIN_EXE_outrigger"))
        .args(["check", "--config", "config/demo.yaml", "--lint", "config/lint.example.yaml", "--format", "json"])
        .current_dir(repository)
        .output()
        .expect("run outrigger");
    let object = json(&output);
    assert!(
        object["problems"].as_array().is_some_and(|problems| problems
            .iter()
            .all(|p| p["rule"].as_str().is_some_and(|rule| rule.starts_with("lint/")))),
        "{object}"
    );
    assert_eq!(object["ok"], code(&output) == OK);
}

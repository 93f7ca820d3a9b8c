//! The command line: exit codes, what is printed where, and how problems of a configuration are told.

mod common;

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use common::{Origin, SOON, TempDir, conn, eventually, free_addr, unix};
use serde_json::Value;

const OK: i32 = 0;
const REFUSED: i32 = 1;
const USAGE: i32 = 2;
const FAILED: i32 = 3;

const GOOD: &str = r#"apiVersion: outrigger/v1
listeners: [{ name: edge, mode: proxy, address: "0.0.0.0:8080" }]
services: { app: { endpoints: { static: ["127.0.0.1:3000"] } } }
routes: [{ name: all, to: app }]
"#;

fn outrigger(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_outrigger"))
        .args(args)
        // Nothing of the caller's shows in what is tested.
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .output()
        .expect("run outrigger")
}

fn check(config: &Path) -> Output {
    outrigger(&["check", "--config", config.to_str().expect("a path in UTF-8")])
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

/// Checks a configuration that has to be refused, and returns what was said.
fn refused(config: &str) -> String {
    let dir = TempDir::new("refused");
    let output = check(&dir.file("bad.yaml", config));
    assert_eq!(code(&output), REFUSED, "{config}\n{}", stderr(&output));
    assert_eq!(stdout(&output), "", "problems go to stderr");
    stderr(&output)
}

fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is missing in:\n{text}");
    }
}

/// Ends the process if the test does not.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_valid_configuration_is_accepted() {
    let dir = TempDir::new("good");
    let output = check(&dir.file("good.yaml", GOOD));
    assert_eq!(code(&output), OK, "{}", stderr(&output));
}

#[test]
fn every_problem_is_told_at_once_with_its_place_and_its_remedy() {
    let said = refused(
        r#"apiVersion: outrigger/v1
listeners:
  - { name: edge, mode: proxy, address: "0.0.0.0:8080" }
  - { name: edge, mode: proxy, address: "0.0.0.0:8081" }
services:
  app:
    endpoints: { static: ["127.0.0.1:3000"] }
    subsets: { v2: { labels: { version: v2 } } }
routes:
  - name: one
    timeot: 2s
    to: app
  - name: two
    match: [{ path: { prefix: /two } }]
    timeout: soon
    to: nowhere
  - name: three
    match: [{ path: { prefix: /three } }]
    split: [{ to: app, weight: 0 }]
"#,
    );
    assert_says(
        &said,
        &[
            // File, line and column; the path; the line itself with a caret; what was meant.
            "bad.yaml:11:5",
            "routes[0].timeot",
            "11 |     timeot: 2s",
            "^^^^^^ did you mean `timeout`?",
            "bad.yaml:4:",
            "listeners[1].name",
            "bad.yaml:8:",
            "services.app.subsets.v2",
            "bad.yaml:15:14",
            "routes[1].timeout",
            "bad.yaml:16:9",
            "routes[1].to",
            "nowhere",
            "bad.yaml:19:",
            "routes[2].split",
        ],
    );
}

#[test]
fn keys_of_later_versions_are_refused_by_name() {
    let slo = GOOD.replace("to: app", "to: app, slo: { objective: 99.9 }");
    assert_says(&refused(&slo), &["bad.yaml:4:", "routes[0].slo", "not supported by this version"]);
    let consul = GOOD.replace("{ static: [\"127.0.0.1:3000\"] }", "{ consul: {} }");
    assert_says(&refused(&consul), &["services.app.endpoints.consul", "not supported by this version"]);
}

#[test]
fn another_api_version_is_refused_by_name() {
    assert_says(&refused(&GOOD.replace("outrigger/v1", "outrigger/v9")), &["bad.yaml:1:13", "outrigger/v9"]);
}

#[test]
fn text_that_is_no_yaml_has_a_place_too() {
    assert_says(&refused("apiVersion: outrigger/v1\nroutes: [\n"), &["bad.yaml:"]);
    assert_says(&refused("\u{1}\u{2}"), &["bad.yaml"]);
    assert_says(&refused(""), &["bad.yaml", "the file is empty"]);
}

#[test]
fn a_directory_is_merged_by_name_and_doubles_are_refused() {
    let dir = TempDir::new("merged");
    dir.file("10-edge.yaml", GOOD);
    dir.file(
        "20-more.yaml",
        "apiVersion: outrigger/v1\nservices: { web: { endpoints: { static: [\"127.0.0.1:4000\"] } } }\n\
         routes: [{ name: web, match: [{ path: { prefix: /web } }], to: web }]\n",
    );
    dir.file("notes.txt", "not: [yaml");
    let output = check(dir.path());
    assert_eq!(code(&output), OK, "{}", stderr(&output));

    dir.file("30-again.yaml", "apiVersion: outrigger/v1\nroutes: [{ name: web, to: web }]\n");
    let output = check(dir.path());
    assert_eq!(code(&output), REFUSED);
    assert_says(&stderr(&output), &["30-again.yaml:2:", "20-more.yaml:3:", "web"]);
}

#[test]
fn variables_are_filled_in_and_missing_ones_are_problems() {
    let dir = TempDir::new("variables");
    let file = dir.file("env.yaml", format!("{GOOD}workload:\n  name: ${{OUTRIGGER_TEST_NAME}}\n"));
    let output = check(&file);
    assert_eq!(code(&output), REFUSED);
    assert_says(&stderr(&output), &["env.yaml:6:", "OUTRIGGER_TEST_NAME"]);
    let output = Command::new(env!("CARGO_BIN_EXE_outrigger"))
        .args(["check", "--config"])
        .arg(&file)
        .env("OUTRIGGER_TEST_NAME", "reviews")
        .output()
        .expect("run outrigger");
    assert_eq!(code(&output), OK, "{}", stderr(&output));
}

#[test]
fn a_file_that_is_not_there_is_a_problem() {
    let dir = TempDir::new("absent");
    for command in ["check", "run"] {
        let path = dir.path().join("absent.yaml");
        let output = outrigger(&[command, "--config", path.to_str().expect("a path in UTF-8")]);
        assert_eq!(code(&output), REFUSED, "{command}");
        assert_eq!(stdout(&output), "", "{command}: errors go to stderr");
        assert_says(&stderr(&output), &["absent.yaml"]);
    }
}

#[test]
fn run_refuses_what_check_refuses() {
    let dir = TempDir::new("run");
    let file = dir.file("bad.yaml", GOOD.replace("to: app", "to: nowhere"));
    let output = outrigger(&["run", "--config", file.to_str().expect("a path in UTF-8")]);
    assert_eq!(code(&output), REFUSED);
    assert_says(&stderr(&output), &["bad.yaml:4:", "nowhere"]);
}

#[test]
fn the_schema_knows_every_key() {
    let output = outrigger(&["schema"]);
    assert_eq!(code(&output), OK, "{}", stderr(&output));
    let schema: Value = serde_json::from_slice(&output.stdout).expect("JSON of the schema");
    assert!(schema["$schema"].as_str().is_some_and(|uri| uri.contains("json-schema.org")), "editors look at $schema");
    let keys: Vec<&String> = schema["properties"].as_object().expect("properties").keys().collect();
    for key in [
        "apiVersion",
        "workload",
        "admin",
        "health",
        "runtime",
        "attributes",
        "defaults",
        "services",
        "listeners",
        "routes",
        "telemetry",
    ] {
        assert!(keys.iter().any(|known| *known == key), "`{key}` is missing in {keys:?}");
    }
    assert_eq!(schema["additionalProperties"], false, "an unknown key is an error in the editor as well");
}

#[test]
fn the_version_is_that_of_the_package() {
    for args in [["version"], ["--version"]] {
        let output = outrigger(&args);
        assert_eq!(code(&output), OK, "{args:?}: {}", stderr(&output));
        assert_says(&stdout(&output), &["outrigger", env!("CARGO_PKG_VERSION")]);
    }
}

#[test]
fn help_lists_the_commands_and_the_exit_codes() {
    let output = outrigger(&["--help"]);
    assert_eq!(code(&output), OK);
    assert_says(&stdout(&output), &["run", "check", "demo", "schema", "version", "Exit codes"]);
}

#[test]
fn wrong_usage_has_a_code_of_its_own() {
    let wrong: [&[&str]; 7] = [
        &[],
        &["fly"],
        &["run"],
        &["check"],
        &["run", "--confg", "x"],
        &["run", "--listen", "127.0.0.1:1"],
        &["run", "--listen", "nowhere", "--upstream", "127.0.0.1:1"],
    ];
    for args in wrong {
        let output = outrigger(args);
        assert_eq!(code(&output), USAGE, "{args:?}: {}", stderr(&output));
        assert_eq!(stdout(&output), "", "{args:?}");
        assert!(!stderr(&output).is_empty(), "{args:?} says why");
    }
}

#[test]
fn two_addresses_are_enough_to_run() {
    let origin = Origin::ok();
    let listen = free_addr();
    runs(&listen.to_string(), &origin.addr().to_string(), || {
        std::net::TcpStream::connect(listen).is_ok().then(|| conn::Conn::connect(listen))
    });
    // So are two Unix sockets. (In turn: both have the admin address of old.)
    let [listen, upstream] = ["listen", "upstream"].map(unix::name);
    let _origin = Origin::raw_on(unix::listen(&upstream), |mut conn, _| {
        conn.head();
        conn.write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    });
    runs(&format!("unix:{listen}"), &format!("unix:{upstream}"), || unix::try_connect(&listen).ok());
}

fn runs(address: &str, upstream: &str, connect: impl Fn() -> Option<conn::Conn>) {
    let child = Command::new(env!("CARGO_BIN_EXE_outrigger"))
        .args(["run", "--listen", address, "--upstream", upstream])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("run outrigger");
    let mut proxy = Running(child);
    let mut conn = eventually("the listener is there", SOON, || {
        assert!(proxy.0.try_wait().expect("wait").is_none(), "it ended");
        connect()
    });
    conn.write("GET /hello HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(conn.response("GET").status(), 200);

    let term = Command::new("kill").args(["-s", "TERM", &proxy.0.id().to_string()]).status().expect("run kill");
    assert!(term.success());
    let status = eventually("it stops", SOON, || proxy.0.try_wait().expect("wait"));
    assert_eq!(status.code(), Some(OK), "a stop that was asked for is no failure");
}

#[test]
fn an_address_that_is_taken_is_told_and_ends_it() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let dir = TempDir::new("taken");
    let address = taken.local_addr().expect("its address").to_string();
    let config = format!(
        "{}admin: {{ address: \"{}\" }}\nhealth: {{ address: \"{}\" }}\n",
        GOOD.replace("0.0.0.0:8080", &address),
        free_addr(),
        free_addr()
    );
    let file = dir.file("taken.yaml", config);
    let output = outrigger(&["run", "--config", file.to_str().expect("a path in UTF-8")]);
    assert_eq!(code(&output), FAILED);
    assert_says(&stderr(&output), &[&address]);
}

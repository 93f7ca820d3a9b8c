//! Rules, good and bad, and what they say about configurations.

use super::*;
use crate::config;

const CONFIG: &str = r#"apiVersion: outrigger/v1
listeners:
  - { name: edge, mode: proxy, address: "0.0.0.0:8080", halfClose: true }
services:
  app: { endpoints: { static: ["127.0.0.1:3000", { address: "127.0.0.1:3001", labels: { version: v2 } }] } }
  db: { protocol: tcp, endpoints: { static: [{ address: "127.0.0.1:3306", labels: { zone: a } }] } }
routes:
  - { name: slow, hosts: [a], to: app, timeout: 1m, maxBody: 2Mi }
  - { name: soft, hosts: [b], to: app, timeout: { after: 2m, mode: shadow } }
  - { name: endless, hosts: [c], to: app, timeout: { after: 2s, mode: off } }
  - { name: plain, to: app, requestHeaders: { set: { x-a: b } } }
"#;

fn rules(text: &str) -> Result<Rules, Report> {
    parse(Source { file: "lint.yaml".into(), text: text.to_owned() })
}

fn line(problem: &Problem) -> String {
    let place = problem.place.as_ref().map(|place| format!("{}:{}", place.line, place.column)).unwrap_or_default();
    format!("{place} {}: {} | {}", problem.path, problem.message, problem.remedy.as_deref().unwrap_or_default())
}

/// What one rule says about the configuration above.
fn says(rule: &str) -> Vec<String> {
    let rules = rules(&format!("lint: [{{ name: r, {rule} }}]")).unwrap_or_else(|report| panic!("{report}"));
    let config = config::parse("t.yaml", CONFIG, &|_| None).unwrap_or_else(|report| panic!("{report}"));
    lint(&rules, &config).iter().map(line).collect()
}

/// What is said about rules that are wrong.
fn refused(text: &str) -> Vec<String> {
    rules(text).map(|rules| panic!("{rules:?}")).unwrap_or_else(|report| report.problems().iter().map(line).collect())
}

#[test]
fn what_is_forbidden_must_not_be_written() {
    assert_eq!(
        says("forbid: \"listeners[].halfClose\", why: it hides bugs"),
        ["3:57 listeners[0].halfClose: `halfClose` must not be written (rule `r`) | remove it: it hides bugs"]
    );
    assert_eq!(says("forbid: \"listeners[].idleTimeout\""), [""; 0], "a default is not written");
    assert_eq!(
        says("forbid: \"routes[].requestHeaders.set.*\""),
        ["11:54 routes[3].requestHeaders.set.x-a: `x-a` must not be written (rule `r`) | remove it"]
    );
    assert_eq!(says("forbid: \"routes[].requestHeaders.set.x-b\""), [""; 0]);
}

#[test]
fn a_forbidden_value_must_not_be_in_force() {
    assert_eq!(says("forbid: \"listeners[].halfClose\", value: false"), [""; 0]);
    assert_eq!(
        says("forbid: \"services.db.protocol\", value: tcp"),
        ["6:19 services.db.protocol: `protocol` must not be `tcp` (rule `r`) | write another value"]
    );
    assert_eq!(
        says("forbid: \"services.*.loadBalancer.policy\", value: leastRequest").first().map(String::as_str),
        Some(
            "5:3 services.app.loadBalancer.policy: `policy` must not be `leastRequest` (rule `r`) | it is so by default"
        )
    );
    assert_eq!(says("forbid: \"routes[].timeout\", value: 60s").len(), 1, "1m is 60s");
    assert_eq!(says("forbid: \"routes[].maxBody\", value: 2097152").len(), 1, "2Mi");
}

#[test]
fn values_lie_in_their_range() {
    assert_eq!(
        says("range: { keys: [\"routes[].timeout\", defaults.timeout], min: 1ms, max: 30s }"),
        [
            "8:49 routes[0].timeout: `1m` is out of range (rule `r`) | from 1ms to 30s",
            "9:58 routes[1].timeout.after: `2m` is out of range (rule `r`) | from 1ms to 30s",
            "10:71 routes[2].timeout.mode: `off` is out of range (rule `r`) | from 1ms to 30s",
        ]
    );
    assert_eq!(
        says("range: { keys: [\"routes[].timeout\"], max: 10s }").last().map(String::as_str),
        Some(
            "11:13 routes[3]: `15s`, the `timeout` by default, is out of range (rule `r`) | add a `timeout`, at most 10s"
        )
    );
    assert_eq!(
        says("range: { keys: [defaults.timeout, defaults.connectTimeout], max: 10s }"),
        ["1:1 defaults.timeout: `15s` is out of range (rule `r`) | at most 10s"],
        "what is not written counts as well"
    );
    assert_eq!(says("range: { keys: [\"routes[].maxBody\"], max: 1Mi }").len(), 1);
    assert_eq!(says("range: { keys: [\"listeners[].maxHeaders\", runtime.workers], min: 1, max: 100 }"), [""; 0]);
    assert_eq!(says("range: { keys: [\"listeners[].maxHeaders\"], max: 99 }").len(), 1);
}

#[test]
fn what_is_required_is_there() {
    assert_eq!(
        says("require: { key: \"services.*.endpoints.static[].labels\", labels: [version] }"),
        [
            "5:32 services.app.endpoints.static[0].labels: `labels` is missing (rule `r`) | add `labels` with `version`",
            "6:75 services.db.endpoints.static[0].labels: label `version` is missing (rule `r`) | add `version: …`",
        ]
    );
    assert_eq!(
        says("require: { key: workload.name }"),
        ["1:1 workload.name: `name` is missing (rule `r`) | add `workload.name`"]
    );
    assert_eq!(says("require: { key: \"routes[].timeout\" }").len(), 1);
    assert_eq!(says("require: { key: state }").len(), 1);
    assert_eq!(says("require: { key: state.keep }"), [""; 0], "of what is not there nothing is asked");
}

#[test]
fn a_severity_and_a_name_belong_to_each_problem() {
    let rules = rules("lint: [{ name: soft, severity: warning, require: { key: workload.name } }]").expect("rules");
    let config = config::parse("t.yaml", CONFIG, &|_| None).expect("a configuration");
    let [problem] = lint(&rules, &config).try_into().expect("one problem");
    assert_eq!((problem.severity, &problem.rule), (Severity::Warning, &RuleId::Lint("soft".to_owned())));
    assert_eq!(lint(&Rules::default(), &config), []);
}

#[test]
fn rules_are_held_against_the_language() {
    for (text, expected) in [
        (
            "lint: [{ name: r, forbid: \"listeners[].halfClosed\" }]",
            "1:27 lint[0].forbid: no configuration has a key `listeners[].halfClosed` | did you mean `listeners[].halfClose`?",
        ),
        (
            "lint: [{ name: r, forbid: listeners.halfClose }]",
            "1:27 lint[0].forbid: no configuration has a key `listeners.halfClose` | write `listeners[].halfClose` for its items",
        ),
        (
            "lint: [{ name: r, forbid: \"defaults[].timeout\" }]",
            "1:27 lint[0].forbid: `defaults` is no list | write `defaults`",
        ),
        ("lint: [{ name: r, forbid: \"\" }]", "1:27 lint[0].forbid: no configuration has a key `` | expected"),
        ("lint: [{ name: r, forbids: x }]", "1:19 lint[0].forbids: unknown key `forbids` | did you mean `forbid`?"),
        (
            "lint: [{ name: r, severity: fatal, forbid: state }]",
            "1:29 lint[0].severity: unknown value `fatal` | expected `error` or `warning`",
        ),
        ("lint: [{ forbid: state }]", "1:8 lint[0]: `name` is missing | add `name: …`"),
        (
            "lint: [{ name: r }]",
            "1:8 lint[0]: the rule does not say what it asks | add one of `forbid`, `range` or `require`",
        ),
        (
            "lint: [{ name: r, forbid: state, require: { key: state } }]",
            "1:8 lint[0]: `forbid`, `range` and `require` exclude each other | make it several rules",
        ),
        (
            "lint: [{ name: r, value: 1, require: { key: state } }]",
            "1:26 lint[0].value: `value` belongs to `forbid` | remove it",
        ),
        (
            "lint: [{ name: r, range: { keys: [state], max: 1 } }]",
            "1:35 lint[0].range.keys[0]: `state` is no duration, size or number | ",
        ),
        (
            "lint: [{ name: r, range: { keys: [], max: 1 } }]",
            "1:28 lint[0].range.keys: there is nothing in it | it needs one item at least",
        ),
        (
            "lint: [{ name: r, range: { keys: [defaults.timeout] } }]",
            "1:19 lint[0].range: the range has no ends | add `min`, `max` or both",
        ),
        (
            "lint: [{ name: r, range: { keys: [defaults.timeout], max: 30 } }]",
            "1:59 lint[0].range.max: `30` is not a duration | write it as the key is written",
        ),
        (
            "lint: [{ name: r, range: { keys: [defaults.timeout], min: 2s, max: 1s } }]",
            "1:59 lint[0].range.min: `min` is more than `max` | ",
        ),
        (
            "lint: [{ name: r, range: { keys: [defaults.timeout, \"routes[].maxBody\"], max: 1s } }]",
            "1:53 lint[0].range.keys[1]: `routes[].maxBody` is a size, and the first key is a duration | make it several rules",
        ),
        (
            "lint: [{ name: r, require: { key: \"routes[]\" } }]",
            "1:35 lint[0].require.key: what is required is a key | end it in a name",
        ),
        (
            "lint: [{ name: r, require: { key: workload.name, labels: [a] } }]",
            "1:50 lint[0].require.labels: `workload.name` is no mapping from names, so it has no labels | remove them",
        ),
        (
            "lint: [{ name: r, forbid: state }, { name: r, forbid: state }]",
            "1:44 lint[1].name: `r` is there twice | the first is at lint.yaml:1:16",
        ),
        ("lint: {}", "1:1 lint: expected a list, found a mapping | "),
        ("rules: []", "1:1 rules: unknown key `rules` | expected `lint`"),
        ("", "1:1 : the file is empty | "),
        ("lint: [", ""),
        ("- 1", "1:1 : expected a mapping, found a list | "),
    ] {
        let said = refused(text);
        assert!(said.iter().any(|said| said.starts_with(expected)), "{text}\n{said:#?}");
    }
}

#[test]
fn the_example_is_sound() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/lint.example.yaml");
    let rules = load(&path).unwrap_or_else(|report| panic!("{report}"));
    assert!(rules.rules().len() >= 3);
    assert!(load(Path::new("/nowhere/lint.yaml")).is_err_and(|report| report.has_errors()));
}

//! What problems show of secrets, and of the environment: nothing.

use std::collections::BTreeSet;

use super::*;

fn refused(rest: &str) -> Report {
    parse("t.yaml", &format!("{HEAD}{rest}\n"), &hidden).expect_err(rest)
}

fn hidden(name: &str) -> Option<String> {
    match name {
        "TOKEN" => Some("Hunter2/of sixteen-or-more".to_owned()),
        "PIN" => Some("77".to_owned()),
        _ => None,
    }
}

/// The line that the first problem shows.
fn line(report: &Report) -> &str {
    report.problems().first().and_then(|problem| problem.source.as_deref()).unwrap_or_default()
}

/// All that is ever printed of it.
fn all(report: &Report) -> String {
    let brief: String = report.problems().iter().map(Problem::brief).collect();
    format!("{report}\n{brief}\n{}", serde_json::to_string(report).unwrap_or_default()).to_lowercase()
}

#[test]
fn lines_are_shown_without_secrets() {
    for (rest, shown) in [
        (
            "admin: { explainToken: \"hunter2-of-sixteen\", foo: 1 }",
            "admin: { explainToken: ********************, foo: 1 }",
        ),
        ("admn: { explainToken: hunter2 }", "admn: { explainToken: ******* }"),
        (
            "routes: [{ name: a, to: app, requestHeaders: { sett: { authorization: 'Bearer hunter2' } } }]",
            "routes: [{ name: a, to: app, requestHeaders: { sett: { authorization: **************** } } }]",
        ),
        ("admin: { explainToken: [hunter2, { a: hunter2 }] }", "admin: { explainToken: [*******, { a: ******* }] }"),
        ("admin: { explainToken: 123456789012 }", "admin: { explainToken: ************ }"),
        (
            "routes: [{ name: a, to: ap, match: [{ headers: { x-api-key: { prefix: hunter2 }, x-b: c } }] }]",
            "routes: [{ name: a, to: ap, match: [{ headers: { x-api-key: { prefix: ******* }, x-b: c } }] }]",
        ),
        // Where it is defined, and where it is repeated.
        (
            "routes: [{ name: a, to: ap, requestHeaders: { set: { x: &a hunter2, x-key: *a } } }] # hunter2",
            "routes: [{ name: a, to: ap, requestHeaders: { set: { x: &a *******, x-key: ** } } }] # *******",
        ),
    ] {
        let report = refused(rest);
        assert_eq!(line(&report), shown);
        assert!(!all(&report).contains("hunter2") && !all(&report).contains("12345"), "{report}");
    }
}

#[test]
fn carets_stay_where_they_belong() {
    let shown = refused("admin: { explainToken: \"é-hunter2-of-sixteen\", foo: 1 }").to_string();
    let lines: Vec<&str> = shown.lines().collect();
    let (text, carets) = (lines[3], lines[4]);
    assert_eq!(text.find("foo"), carets.find('^'), "{shown}");
    assert_eq!(carets.matches('^').count(), 3, "{shown}");
}

#[test]
fn values_of_several_lines_are_hidden_on_each() {
    for value in ["|\n  hunter2\n  hunter3", "\"hunter2\n  hunter3\"", "hunter2\n  hunter3"] {
        let text = format!("{HEAD}admin:\n explainToken: {value}\n foo: 1\n");
        let mut tree = tree::parse(&"t.yaml".into(), &text).expect("a tree");
        super::super::secrets::mark(&mut tree);
        let source = Source { file: "t.yaml".into(), text: text.clone() };
        let places = (1..=text.lines().count())
            .map(|line| Place { line: u32::try_from(line).unwrap_or_default(), ..tree::start(&source.file) });
        let report = report(places.map(|place| Problem::at(&place, "", "m")).collect(), Some(&tree), &[source]);
        let lines: String = report.problems().iter().filter_map(|problem| problem.source.as_deref()).collect();
        assert!(lines.contains("explainToken: ") && lines.contains("foo: 1") && !lines.contains("unter"), "{lines}");
    }
}

#[test]
fn names_and_references_are_shown() {
    for rest in [
        "attributes2: { session: { from: { cookie: env } } }",
        "routes: [{ name: a, to: ap, sticky: { cookie: user }, match: [{ cookies: { env: canary } }] }]",
        "routes: [{ name: a, to: ap, requestHeaders: { set: { authorization: \"Bearer ${TOKEN}\" } } }]",
        "admin: { explainToken: \"${TOKEN}\", foo: 1 }",
    ] {
        let report = refused(rest);
        assert_eq!(line(&report), rest);
        assert!(!all(&report).contains("hunter2"), "{report}");
    }
    // A value that is taken from a secret is one.
    let report = refused("routes: [{ name: a, to: ap, match: [{ attributes: { who: ada } }] }]");
    assert!(line(&report).contains("who: ada"), "{report}");
    let text = HEAD.replace("attributes: {", "attributes: { who: { from: [{ header: x }, { cookie: x-token }] },");
    let text = format!("{text}routes: [{{ name: a, to: ap, match: [{{ attributes: {{ who: ada }} }}] }}]\n");
    let report = parse("t.yaml", &text, &no_env).expect_err("no service");
    assert!(line(&report).contains("who: ***"), "{report}");
}

#[test]
fn messages_do_not_quote_secrets() {
    let set =
        |value: &str| format!("routes: [{{ name: a, to: app, requestHeaders: {{ set: {{ x-token: {value} }} }} }}]");
    let report = refused(&set("\"Bearer \\u0001hunter2\""));
    assert_eq!(report.problems()[0].message, "`[redacted]` is not a header value");
    assert!(!all(&report).contains("hunter"), "{report}");
    let report = refused(&set("\"a ${not a name hunter2}\""));
    assert!(!all(&report).contains("hunter"), "{report}");
    let attribute = "attributes: { x-key: { from: [{ header: x }], lowercase: true, values: [hunter2, Hunter3] },";
    let text = HEAD.replace("attributes: {", attribute);
    for value in ["hunter1", "{ exact: hunter1 }"] {
        let text = format!("{text}routes: [{{ name: a, to: app, match: [{{ attributes: {{ x-key: {value} }} }}] }}]\n");
        let report = parse("t.yaml", &text, &no_env).expect_err("no such value");
        assert_eq!(report.problems().len(), 2, "{report}");
        assert!(!all(&report).contains("hunter"), "{report}");
    }
}

#[test]
fn a_text_that_is_not_yaml_is_hidden_by_its_look() {
    for (rest, shown) in [
        ("admin: { explainToken: hunter2, foo: [ }", "admin: { explainToken: *******, foo: [ }"),
        ("admin: { explainToken: !hunter2 x }", "admin: { explainToken: ********** }"),
        ("admin: { explainToken: *hunter2 }", "admin: { explainToken: ******** }"),
        ("explainToken: \"hunter2 \\q, hunter2\" }", "explainToken: ********************* }"),
        ("explainToken: a: hunter2", "explainToken: **********"),
    ] {
        let report = refused(rest);
        assert_eq!((line(&report), &report.problems()[0].rule), (shown, &RuleId::Syntax));
        assert!(!all(&report).contains("hunter2"), "{report}");
    }
    let scratch = Scratch::new("secret-bytes");
    let path = scratch.write("a.yaml", "");
    fs::write(&path, b"admin: { explainToken: hunter2, a: \xff }").expect("a file");
    let report = load(&path, &no_env).expect_err("not text");
    assert_eq!(line(&report), "admin: { explainToken: *******, a: ");
}

#[test]
fn the_environment_is_not_told() {
    for rest in [
        "defaults: { timeout: \"${TOKEN}\" }",
        "runtime: { workers: \"${TOKEN}\" }",
        "runtime: { workers: \"${PIN}999999\" }",
        "admin: { address: \"${PIN}\" }",
        "telemetry: { log: { level: \"${TOKEN}\" } }",
        "routes: [{ name: a, to: \"${TOKEN}\" }]",
        "routes: [{ name: a, to: \"app/x${TOKEN}\" }]",
        "routes: [{ name: a, to: app, listeners: [\"${TOKEN}\"] }]",
        "routes: [{ name: \"${TOKEN}\", to: app }]",
        "routes: [{ name: a, to: app, hosts: [\"${TOKEN}\"] }]",
        "routes: [{ name: a, to: app, match: [{ path: { prefix: \"${TOKEN}\" } }] }]",
        "routes: [{ name: a, to: app, match: [{ path: { template: \"/{${TOKEN}\" } }] }]",
        "routes: [{ name: a, to: app, match: [{ path: { regex: \"(${TOKEN}\" } }] }]",
        "routes: [{ name: a, to: app, match: [{ attributes: { env: \"${TOKEN}\" } }] }]",
        "routes: [{ name: a, to: app, match: [{ attributes: { env: { exact: \"${TOKEN}\" } } }] }]",
        "routes: [{ name: a, to: app, requestHeaders: { set: { x: \"${TOKEN}\\n\" } } }]",
        "routes: [{ name: a, redirect: { status: \"3${PIN}\" } }]",
        "services2: \"${TOKEN}\"",
    ] {
        let told = all(&refused(rest));
        let plain = told.replace("of sixteen letters", "");
        assert!(!plain.contains("hunter2") && !plain.contains("of sixteen") && !plain.contains("77"), "{told}");
    }
    let report = refused("defaults: { timeout: \"x ${TOKEN}\" }");
    let said = &report.problems()[0].message;
    assert!(said.starts_with("`x ${TOKEN}` is not a duration"), "{said}");
    // By way of another key.
    let text = HEAD.replace("values: [canary, prod]", "values: [\"${TOKEN}\"]");
    let report = parse(
        "t.yaml",
        &format!("{text}routes: [{{ name: a, to: app, match: [{{ attributes: {{ env: x }} }}] }}]\n"),
        &hidden,
    );
    let told = all(&report.expect_err("two problems"));
    assert!(!told.contains("hunter2"), "{told}");
}

#[test]
fn what_stands_beside_a_configuration_may_refer_to_no_more() {
    let live = format!("{HEAD}admin: {{ explainToken: \"${{TOKEN}}\" }}\nruntime: {{ workers: \"${{PIN}}\" }}\n");
    let live = parse("t.yaml", &live, &hidden).expect("a configuration");
    assert_eq!(live.references(), &BTreeSet::from(["PIN".to_owned(), "TOKEN".to_owned()]));
    let beside = |rest: &str| {
        let env = |name: &str| hidden(name).or(Some("anything".to_owned()));
        parse_beside(&live, &[("u.yaml".to_owned(), format!("{HEAD}{rest}\n"))], &env)
    };
    for rest in [
        "admin: { explainToken: \"${TOKEN}\" }",
        "routes: [{ name: a, to: app, requestHeaders: { set: { authorization: \"Bearer ${TOKEN}\" } } }]",
        "routes: [{ name: a, to: app, requestHeaders: { set: { x-a: \"${PIN}\" } } }]",
    ] {
        assert!(beside(rest).is_ok(), "{rest}");
    }
    for (value, expected) in [
        ("${PATH}", "`PATH` is not an environment variable that the running configuration uses"),
        ("${PATH:-x}", "`PATH` is not an environment variable that the running configuration uses"),
        ("${TOKEN}", "`TOKEN` stands for secrets only in the running configuration, and for none here"),
    ] {
        let report = beside(&format!("routes: [{{ name: a, respond: {{ status: 200, body: \"{value}\" }} }}]"));
        let report = report.expect_err(value);
        assert_eq!((report.problems().len(), &*report.problems()[0].message), (1, expected));
        assert_eq!(report.problems()[0].rule, RuleId::Environment);
    }
}

#[test]
fn conditions_on_secrets_are_not_dumped() {
    let text =
        HEAD.replace("attributes: {", "attributes: { who: { from: [{ header: authorization }], values: [hunter2] },");
    let text = format!(
        "{text}routes: [{{ name: a, to: app, match: [{{ headers: {{ X-Api-Key: hunter2, x-a: b }}, \
         cookies: {{ session: {{ regex: hunter2 }}, env: prod }}, query: {{ token: {{ present: true }} }}, \
         attributes: {{ who: hunter2, env: canary }} }}] }}]\n"
    );
    let dump = parse("t.yaml", &text, &no_env).expect("a configuration").dump();
    let matched = &dump["routes"][0]["match"][0];
    let expected = serde_json::json!({
        "methods": [],
        "headers": { "X-Api-Key": "[redacted]", "x-a": "b" },
        "cookies": { "session": { "regex": "[redacted]" }, "env": "prod" },
        "query": { "token": { "present": true } },
        "attributes": { "who": "[redacted]", "env": "canary" },
    });
    assert_eq!(*matched, expected);
    assert_eq!(dump["attributes"]["who"]["values"][0], "[redacted]");
    assert_eq!(dump["attributes"]["who"]["from"][0]["header"], "authorization");
}

#[test]
fn a_short_token_has_a_remedy() {
    let report = refused("admin: { explainToken: hunter2 }");
    let problem = &report.problems()[0];
    assert_eq!(problem.message, "shorter than 16 characters");
    assert_eq!(problem.remedy.as_deref(), Some("write 16 or more"));
    assert_eq!(problem.brief(), "shorter than 16 characters (t.yaml:7:24)");
}

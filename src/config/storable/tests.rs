use crate::config::tests::Scratch;
use crate::config::{Config, load, parse, parse_all};

const HEAD: &str = "\
apiVersion: outrigger/v1
listeners: [{ name: edge, mode: proxy, address: \"0.0.0.0:8080\" }]
services: { app: { endpoints: { static: [\"127.0.0.1:3000\"] } } }
";

fn env(name: &str) -> Option<String> {
    (name == "T").then(|| "from-the-environment".to_owned())
}

fn config(rest: &str) -> Config {
    parse("t.yaml", &format!("{HEAD}{rest}"), &env).unwrap_or_else(|report| panic!("{rest}: {report}"))
}

/// One route that sets these headers.
fn with(headers: &str) -> String {
    format!("routes:\n  - name: a\n    to: app\n    requestHeaders:\n      set:\n{headers}\n")
}

/// The text after the head, or `None` where nothing is stored; and whether it is complete.
fn stored(rest: &str) -> (Option<String>, bool) {
    let storable = config(rest).storable();
    let text = storable.files.first().map(|(name, text)| {
        assert_eq!(name, "t.yaml");
        text.strip_prefix(HEAD).expect("the head, as it was").to_owned()
    });
    (text, storable.complete)
}

#[test]
fn secrets_are_not_dumped() {
    let route = "routes: [{ name: a, to: app, requestHeaders: { set: { Authorization: s3, x-a: b } } }]";
    let dump = config(&format!("{route}\nadmin: {{ explainToken: 0123456789abcdef }}\n")).dump().to_string();
    assert!(!dump.contains("s3") && dump.contains("\"x-a\":\"b\""), "{dump}");
    assert!(!dump.contains("0123456789") && dump.contains("\"explainToken\":\"[redacted]\""), "{dump}");
}

#[test]
fn without_secrets_the_texts_are_as_they_were_read() {
    let rest = with("        x-mesh: outrigger # why\n        x-port: \"${PORT:-80}\"");
    assert_eq!(stored(&rest), (Some(rest.clone()), true));
    let config = config(&rest);
    let again = parse_all(&config.storable().files, &env).expect("the same configuration");
    assert_eq!(again.digest(), config.digest());
    assert_eq!(again.sources().collect::<Vec<_>>(), config.sources().collect::<Vec<_>>());
}

#[test]
fn references_are_no_secrets() {
    for value in [
        "${T}",
        "Bearer ${T}",
        "bearer  ${T:-}",
        "session=${T}; theme=${T}",
        "Token token=\"${T}\"",
        "${SCHEME:-Basic} ${T}",
        "${T}:${T}",
    ] {
        let rest = with(&format!("        authorization: '{value}'"));
        assert_eq!(stored(&rest), (Some(rest.clone()), true), "{value}");
        assert!(!rest.contains("from-the-environment"));
    }
    let rest = "admin: { explainToken: \"${T}\" }\n";
    assert_eq!(stored(rest), (Some(rest.to_owned()), true));
}

#[test]
fn what_is_written_inline_is_cut_out() {
    for (written, expected) in [
        ("hunter2", "[redacted]"),
        ("'hunter2'", "'[redacted]'"),
        ("\"hunter2\"", "\"[redacted]\""),
        ("\"Bearer hunter2\" # not hunter3", "\"[redacted]\" # not hunter3"),
        ("&secret hunter2", "&secret [redacted]"),
        ("hunter2 # as in hunter2, hunter22", "[redacted] # as in [redacted], [redacted]2"),
        ("|-\n          hunter2", "|-\n          [redacted]"),
        (">-\n          hunter2", ">-\n          [redacted]"),
        ("'$${hunter2'", "'[redacted]'"),
        ("'${T}hunter2'", "'${T}[redacted]'"),
        ("'Bearer ${T}-hunter2'", "'Bearer ${T}[redacted]'"),
        ("'${U:-hunter2}'", "'${U:-[redacted]}'"),
        ("'user=hunter2; session=${T}'", "'[redacted]${T}'"),
        ("'[redacted]'", "'[redacted]'"),
        ("redacted", "[redacted]"),
    ] {
        let rest = with(&format!("        X-Secret: {written}"));
        assert_eq!(stored(&rest), (Some(with(&format!("        X-Secret: {expected}"))), false), "{written}");
    }
    let (text, complete) = stored("admin: { explainToken: 0123456789abcdef-hunter2 }\n");
    assert_eq!((text.as_deref(), complete), (Some("admin: { explainToken: [redacted] }\n"), false));
}

#[test]
fn credentials_are_cut_out_without_their_scheme_as_well() {
    let rest = with("        authorization: Bearer hunter2\n        x-copy: hunter2 # hunter2");
    let expected = with("        authorization: [redacted]\n        x-copy: [redacted] # [redacted]");
    assert_eq!(stored(&rest), (Some(expected), false));
}

#[test]
fn conditions_on_secrets_are_secrets() {
    let with = |headers: &str, cookies: &str| {
        format!(
            "routes:\n  - {{ name: a, to: app, match: [{{ headers: {{ {headers} }}, cookies: {{ {cookies} }} }}] }}\n"
        )
    };
    let rest = with("x-api-key: hunter2, x-a: plain", "session: { prefix: hunter3 }");
    let expected = with("x-api-key: [redacted], x-a: plain", "session: { prefix: [redacted] }");
    assert_eq!(stored(&rest), (Some(expected), false));
    for headers in ["authorization: { prefix: \"Bearer \" }", "x-token: { present: true }", "x-key: \"${T}\""] {
        let rest = with(headers, "env: canary");
        assert_eq!(stored(&rest), (Some(rest.clone()), true));
    }
    let rest = "attributes: { who: { from: [{ query: token }], values: [hunter2] } }\n";
    assert_eq!(stored(rest), (Some(rest.replace("hunter2", "[redacted]")), false));
}

#[test]
fn what_cannot_be_cut_out_is_not_stored() {
    for written in [
        "\"hunter\\x32\"",
        "\"hunter\\u0032\"",
        "\"hun\\\n          ter2\"",
        ">-\n          hunter2\n          and more",
        "hunter2\n          and more",
        "'it''s hunter2'",
        "\"a\\\"hunter2\"",
        "&secret \"hunter\\x32\"\n        x-plain: *secret",
        // As part of a text that is not a secret by its name, and as a key.
        "hunter2\n        x-plain: \"not-\\x68unter2\"",
        "x-hunter2\n        \"x-\\x68unter2\": a",
        // The comment has it verbatim; the value does not.
        "\"hunter\\x32\" # hunter2",
        "s3",
        "'${T}-1'",
    ] {
        let rest = with(&format!("        x-secret: {written}"));
        assert_eq!(stored(&rest), (None, false), "{written}");
    }
}

#[test]
fn an_anchored_value_is_cut_out_where_it_is_written() {
    let rest = with("        x-plain: &secret hunter2\n        x-secret: *secret");
    let expected = with("        x-plain: &secret [redacted]\n        x-secret: *secret");
    assert_eq!(stored(&rest), (Some(expected), false));
}

#[test]
fn a_secret_that_is_part_of_something_else_goes_there_too() {
    let rest = with("        x-key: name\n        x-token: namely-this");
    let storable = config(&rest).storable();
    let [(_, text)] = &storable.files[..] else { panic!("{storable:?}") };
    assert!(!storable.complete && !text.contains("name") && text.contains("[redacted]: edge"), "{text}");
    assert!(text.ends_with("x-key: [redacted]\n        x-token: [redacted]\n"), "{text}");
}

#[test]
fn overlapping_secrets_leave_nothing() {
    let rest = with("        x-key: abcd\n        x-token: cdef\n        x-plain: abcdef");
    let expected = with("        x-key: [redacted]\n        x-token: [redacted]\n        x-plain: [redacted]");
    assert_eq!(stored(&rest), (Some(expected), false));
}

#[test]
fn all_files_are_searched_for_the_secrets_of_each() {
    let scratch = Scratch::new("storable");
    scratch.write("a.yaml", &format!("{HEAD}# hunter2\n"));
    let route = "routes: [{ name: a, to: app, responseHeaders: { add: { Set-Cookie: \"id=hunter2\" } } }]\n";
    scratch.write("b.yaml", &format!("apiVersion: outrigger/v1\n{route}# id=hunter2\n"));
    let config = load(&scratch.0, &env).expect("a configuration");
    assert_eq!(config.sources().map(|(_, text)| text.len()).sum::<usize>(), HEAD.len() + 10 + 25 + route.len() + 13);
    let storable = config.storable();
    assert!(!storable.complete && storable.files.len() == 2);
    assert!(storable.files[0].0.ends_with("a.yaml") && storable.files[1].0.ends_with("b.yaml"), "{storable:?}");
    assert_eq!(
        storable.files[1].1,
        format!("apiVersion: outrigger/v1\n{}# [redacted]\n", route.replace("id=hunter2", "[redacted]"))
    );
}

#[test]
fn the_work_is_bounded() {
    let headers: String = (0..3000).map(|n| format!("        x-token-{n}: secret-number-{n:06}\n")).collect();
    let padding = "# a comment that goes on and on\n".repeat(16_000);
    let started = std::time::Instant::now();
    assert_eq!(stored(&format!("{}{padding}", with(&headers))), (None, false));
    assert!(started.elapsed() < std::time::Duration::from_secs(20), "{:?}", started.elapsed());
}

proptest::proptest! {
    #[test]
    fn no_secret_survives(secret in "[a-z0-9${}:'\"\\\\ #&*-]{4,12}", style in 0..4_usize, beside in "[a-z0-9 ]{0,6}") {
        let quoted = match style {
            0 => secret.clone(),
            1 => format!("'{}'", secret.replace('\'', "''")),
            2 => format!("\"{}\"", secret.replace('\\', "\\\\").replace('"', "\\\"")),
            _ => format!("|-\n          {secret}"),
        };
        let text = format!("{HEAD}{}", with(&format!("        x-secret: {quoted}\n        x-plain: '{beside}'\n        # {secret}")));
        if let Ok(config) = parse("t.yaml", &text, &env) {
            let set = &config.routes[0].request_headers.set["x-secret"];
            let storable = config.storable();
            if !secret.contains("${") && !secret.contains('#') {
                proptest::prop_assert!(!storable.complete || set.is_empty(), "{text}");
                for (_, stored) in &storable.files {
                    proptest::prop_assert!(set.is_empty() || !stored.contains(set.trim()), "{stored}");
                }
            }
        }
    }
}

/// The lines that a report of this file shows.
fn shown(text: &str) -> Vec<Option<String>> {
    let report = parse("t.yaml", text, &env).expect_err("a problem");
    report.problems().iter().map(|problem| problem.source.clone()).collect()
}

#[test]
fn problems_are_told_without_the_secrets_beside_them() {
    let route = |headers: &str| {
        format!("{HEAD}routes: [{{ name: a, to: app, tmeout: 1s, requestHeaders: {{ {headers} }} }}]\n")
    };
    let masked = route("set: { authorization: *************, x-a: b }");
    let line = masked.lines().last().map(str::to_owned);
    assert_eq!(shown(&route("set: { authorization: Bearer secret, x-a: b }")), std::slice::from_ref(&line));
    // Not even where they are of the wrong kind, or the file is no YAML.
    for headers in ["set: { authorization: [hunter2], x-a: b }", "set: { x-key: { k: hunter2 } }"] {
        let lines = shown(&route(headers));
        assert!(lines.iter().flatten().all(|line| !line.contains("hunter2") && line.contains("*******")), "{lines:?}");
    }
    let escaped = route("set: { authorization: \"hunter\\x32\" }");
    let broken = route("set: { authorization: hunter2").replace("}]", "");
    for text in [escaped, broken] {
        assert!(shown(&text).iter().flatten().all(|line| !line.contains("hunter")), "{text}");
    }
    let unread = shown("routes: [");
    assert_eq!(unread, [Some("routes: [".to_owned())]);
    let folded = format!(
        "{}      tmeout: 1s",
        with("        authorization: >-\n          hunter2hunter2\n          hunter3hunter3")
    );
    assert!(shown(&format!("{HEAD}{folded}")).iter().flatten().all(|line| !line.contains("hunter")), "{folded}");
}

//! `authorization` and `from`: what is refused, and what is said.

use super::*;

const IDENTITY: &str = "identity: { trustDomain: cluster.local, certificate: c, privateKey: k, trustBundle: b }\n";

/// Expects one problem in an entry, with an identity of ours.
#[track_caller]
fn wrong(entry: &str, expected: &str) {
    only(&format!("{HEAD}{IDENTITY}routes: [{{ name: all, to: app }}]\nauthorization: [{entry}]\n"), expected);
}

fn fine(text: &str) -> Vec<String> {
    said(&problems(&format!("{HEAD}{IDENTITY}routes: [{{ name: all, to: app }}]\n{text}")))
}

#[test]
fn what_an_entry_must_say() {
    for (entry, expected) in [
        (
            "▸{ name: x }",
            "authorization[0]: the entry allows nothing and denies nothing | add `allow` or `deny`; `deny: [{}]` denies everything",
        ),
        (
            "{ name: x, deny: [{}], listeners: [▸egde] }",
            "authorization[0].listeners[0]: there is no listener `egde` | did you mean `edge`?",
        ),
        (
            "{ name: x, deny: [{}], ports: [▸9] }",
            "authorization[0].ports[0]: nothing that this is for has port 9, so it never counts | there is `8080`",
        ),
        (
            "{ name: x, allow: [{ to: { ports: [8080, ▸81] } }] }",
            "authorization[0].allow[0].to.ports[1]: nothing that this is for has port 81, so it never counts | there is `8080`",
        ),
        (
            "{ name: x, deny: [{ from: { cidrs: [▸10.0.0.1/8] } }] }",
            "authorization[0].deny[0].from.cidrs[0]: `10.0.0.1/8` has bits of one address beyond its 8 | write `10.0.0.0/8`",
        ),
        (
            "{ name: x, deny: [{ from: { identities: [▸web] } }] }",
            "authorization[0].deny[0].from.identities[0]: `web` is not a SPIFFE id: it does not begin with `spiffe://` | write `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/NAME`",
        ),
        (
            "{ name: x, deny: [{ from: { identities: [{ exact: ▸\"spiffe://other/a\" }] } }] }",
            "authorization[0].deny[0].from.identities[0].exact: `spiffe://other/a` is of another trust domain, and only callers of `cluster.local` are believed | change or remove it",
        ),
        (
            "{ name: x, deny: [{}] }, { name: ▸x, deny: [{}] }",
            "authorization[1].name: `x` is there twice | the first is at t.yaml:9:25",
        ),
        (
            "{ name: x, allow: [{ to: { methods: [▸get] } }] }",
            "authorization[0].allow[0].to.methods[0]: `get` is not in upper case | write `GET`",
        ),
    ] {
        wrong(entry, expected);
    }
}

/// An empty condition would hold for everybody.
#[test]
fn what_is_written_and_empty_is_refused() {
    for (entry, path) in [
        ("{ name: x, deny: [{}], ▸listeners: [] }", "listeners"),
        ("{ name: x, deny: [{}], ▸ports: }", "ports"),
        ("{ name: x, deny: [{}], ▸allow: [] }", "allow"),
        ("{ name: x, allow: [{ ▸from: }] }", "allow[0].from"),
        ("{ name: x, allow: [{ from: { ▸identities: [] } }] }", "allow[0].from.identities"),
        ("{ name: x, allow: [{ from: { ▸cidrs: } }] }", "allow[0].from.cidrs"),
        ("{ name: x, allow: [{ to: { ▸paths: [] } }] }", "allow[0].to.paths"),
        ("{ name: x, allow: [{ to: { ▸headers: {} } }] }", "allow[0].to.headers"),
    ] {
        let key = path.rsplit('.').next().unwrap_or(path);
        let message = format!("`{key}` is empty, and so would say nothing | write something, or remove the key");
        wrong(entry, &format!("authorization[0].{path}: {message}"));
    }
    assert!(fine("authorization: [{ name: x, allow: [{}, { from: {} }, { to: {} }] }]\n").is_empty());
    // What the proxy itself writes is none of that.
    let text = format!("{HEAD}routes: [{{ name: all, to: app }}]\nauthorization: [{{ name: x, allow: [{{}}] }}]\n");
    let config = parse("t.yaml", &text, &no_env).unwrap_or_else(|report| panic!("{report}"));
    let again = parse("u.yaml", &config.dump().to_string(), &no_env).unwrap_or_else(|report| panic!("{report}"));
    assert_eq!(again.authorization, config.authorization);
}

#[test]
fn identities_need_one_of_ours() {
    for (rule, key) in [("▸identities: [\"*\"]", "identities"), ("▸namespaces: [shop]", "namespaces")] {
        let said = "without an `identity` of ours nobody can prove theirs | add `identity` with a certificate of our own and the trust bundle, or ask for `cidrs`";
        only(
            &format!("{HEAD}authorization: [{{ name: x, deny: [{{ from: {{ {rule} }} }}] }}]\n"),
            &format!("authorization[0].deny[0].from.{key}: {said}"),
        );
        only(
            &format!("{HEAD}routes: [{{ name: all, match: [{{ from: {{ {rule} }} }}], to: app }}]\n"),
            &format!("routes[0].match[0].from.{key}: {said}"),
        );
    }
    let cidrs = "routes: [{ name: all, match: [{ from: { cidrs: [10.0.0.0/8, \"::1\"] } }], to: app }]\n";
    assert_eq!(said(&problems(&format!("{HEAD}{cidrs}"))), Vec::<String>::new());
}

#[test]
fn what_is_about_http_is_not_for_tcp() {
    let text = format!(
        "{HEAD}routes: [{{ name: raw, to: raw }}]\nauthorization: [{{ name: x, deny: [{{ to: {{ ▸paths: [{{ prefix: / }}] }} }}] }}]\n"
    );
    only(&text, "authorization[0].deny[0].to.paths: `paths` is about HTTP, and listener `edge` is tcp | remove it");
}

#[test]
fn files_of_a_directory_add_to_it() {
    let dir = Scratch::new("authorization");
    dir.write(
        "a.yaml",
        &format!("{HEAD}routes: [{{ name: all, to: app }}]\nauthorization: [{{ name: a, deny: [{{}}] }}]\n"),
    );
    dir.write("b.yaml", "apiVersion: outrigger/v1\nauthorization: [{ name: b, deny: [{}] }]\n");
    let config = load(&dir.0, &no_env).unwrap_or_else(|report| panic!("{report}"));
    assert_eq!(config.authorization.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    dir.write("b.yaml", "apiVersion: outrigger/v1\nauthorization: [{ name: b, deny: [{}] }, { name: c }]\n");
    let report = load(&dir.0, &no_env).expect_err("a problem");
    assert_eq!(report.problems().iter().map(|one| one.path.as_str()).collect::<Vec<_>>(), ["authorization[1]"]);
}

/// Only their line tells two such routes apart, or nothing at all.
#[test]
fn a_route_behind_one_for_the_same_callers_is_never_reached() {
    let routes = |second: &str| {
        format!(
            "{HEAD}routes:\n  - {{ name: a, match: [{{ from: {{ cidrs: [10.0.0.0/8, \"::1\"] }} }}], to: app }}\n  - {{ name: b, match: [{{ from: {{ cidrs: {second} }} }}], to: app }}\n"
        )
    };
    let told = said(&problems(&routes("[\"::1\", 10.0.0.0/8]")));
    assert!(told.len() == 1 && told[0].contains("route `b` can never be reached"), "{told:?}");
    assert!(problems(&routes("[\"::1\"]")).is_empty());
}

#[test]
fn conditions_under_secret_names_are_not_shown() {
    let text = format!(
        "{HEAD}routes: [{{ name: all, to: app }}]\nauthorization: [{{ name: keys, allow: [{{ to: {{ headers: {{ x-api-key: hunter2, x-plain: shown }} }} }}] }}]\n"
    );
    let config = parse("t.yaml", &text, &no_env).unwrap_or_else(|report| panic!("{report}"));
    let dump = config.dump()["authorization"].to_string();
    assert!(!dump.contains("hunter2") && dump.contains("keys") && dump.contains("shown"), "{dump}");
    let stored = config.storable();
    assert!(!format!("{stored:?}").contains("hunter2"), "{stored:?}");
}

use super::*;

const NAMED: &str = r#"apiVersion: outrigger/v1
listeners: [{ name: tls, mode: proxy, address: "127.0.0.1:8443", protocol: tcp }]
services:
  one: { protocol: tcp, endpoints: { static: ["127.0.0.1:1"] } }
  two: { protocol: tcp, endpoints: { static: ["127.0.0.1:2"] } }
routes:
  - { name: exact, hosts: [a.example], to: one }
  - { name: below, hosts: ["*.Example"], to: two }
"#;

#[test]
fn a_tcp_listener_goes_by_the_name_that_is_asked_for() {
    let snapshot = compile(NAMED);
    let standings =
        |one: &Explanation| one.candidates.iter().map(|one| (one.route.clone(), one.standing)).collect::<Vec<_>>();
    for (url, route, first) in [
        ("https://A.example:8443/", "exact", "exact"),
        ("https://b.example./", "below", "below"),
        ("https://x.a.example/", "below", "below"),
    ] {
        let found = explain(&snapshot, &get(url)).expect("an explanation");
        assert_eq!(found.route.as_ref().map(|route| &*route.name), Some(route), "{url}");
        assert_eq!(found.outcome, Outcome::Forward);
        assert_eq!(standings(&found)[0], (first.to_owned(), Standing::Wins), "{url}");
    }
    for url in ["https://example/", "https://127.0.0.1:8443/", "https://[::1]/"] {
        let found = explain(&snapshot, &get(url)).expect("an explanation");
        assert_eq!((found.outcome, found.reason.map(|because| because.status)), (Outcome::NoRoute, Some(0)), "{url}");
        assert!(found.candidates.iter().all(|one| one.standing == Standing::Fails && one.failed.is_some()));
    }
    let others = compile(&format!("{NAMED}  - {{ name: rest, to: one }}\n"));
    let found = explain(&others, &get("https://127.0.0.1/")).expect("an explanation");
    assert_eq!(found.route.as_ref().map(|route| &*route.name), Some("rest"));
    assert_eq!(standings(&found)[1].1, Standing::NotTried);
}

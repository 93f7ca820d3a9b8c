//! What a new authorization would refuse, of the traffic that is remembered.

use super::*;
use crate::wire::spiffe::SpiffeId;

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";
const AD: &str = "spiffe://cluster.local/ns/ads/sa/ad";

/// `BASE` with one route, this block, and an identity of ours.
fn with(authorization: &str) -> Snapshot {
    let identity = "identity: { trustDomain: cluster.local, certificate: c, privateKey: k, trustBundle: b }\n";
    compiled(&format!("{BASE}{identity}routes:\n  - {{ name: all, to: reviews }}\n{authorization}"))
}

/// Requests, each so many times by a caller with an address and perhaps an identity.
fn sent(snapshot: &Snapshot, requests: &[(&str, IpAddr, Option<&str>, usize)]) -> Sample {
    let mut traffic = Traffic::new();
    for (text, ip, id, count) in requests {
        let id = id.map(|id| SpiffeId::parse(id).expect("an id"));
        (0..*count).for_each(|_| traffic.send_as(snapshot, text, Caller::new(*ip, id.as_ref(), 8080)));
    }
    traffic.take()
}

#[test]
fn who_would_be_refused_is_told() {
    let old = with("");
    let new = with(&format!(
        "authorization: [{{ name: shop-only, allow: [{{ from: {{ identities: [\"{WEB}\"] }} }}, {{ from: {{ cidrs: [10.0.0.9] }} }}] }}]\n"
    ));
    let sample = sent(
        &old,
        &[
            ("GET http://a/x", caller(1), Some(WEB), 60),
            ("GET http://a/x", caller(2), Some(AD), 30),
            ("GET http://a/x", caller(9), None, 10),
        ],
    );
    let radius = compare(&old, &new, std::slice::from_ref(&sample));
    let refused = group(&radius, Kind::Refused);
    assert_eq!((refused.from.as_str(), refused.to.as_str()), ("reviews", "refused (denied by shop-only)"));
    assert_eq!(refused.caller.as_deref(), Some(format!("{AD} (10.0.0.2)").as_str()));
    assert_near(refused.share, 30.0);
    assert_near(radius.changed_share, 30.0);
    assert_near(radius.unknown_share, 0.0);
    // The other way round they get in.
    let radius = compare(&new, &old, &[sample]);
    assert_near(group(&radius, Kind::Side).share, 30.0);
    assert_near(radius.changed_share, 30.0);
}

#[test]
fn a_shadow_changes_nothing_and_another_name_neither() {
    let entry = |mode: &str, name: &str| {
        with(&format!("authorization: [{{ name: {name}, mode: {mode}, deny: [{{ to: {{ methods: [GET] }} }}] }}]\n"))
    };
    let (old, shadow, enforced) = (with(""), entry("shadow", "a"), entry("enforce", "a"));
    let sample = sent(&old, &[("GET http://a/x", caller(1), None, 10), ("POST http://a/x", caller(1), None, 10)]);
    assert_eq!(compare(&old, &shadow, std::slice::from_ref(&sample)).groups, []);
    assert_near(compare(&shadow, &enforced, std::slice::from_ref(&sample)).changed_share, 50.0);
    assert_eq!(compare(&enforced, &entry("enforce", "b"), &[sample]).groups, []);
}

/// More callers than are told apart, values that were not kept, and paths that look alike.
#[test]
fn what_was_not_remembered_cannot_be_told() {
    let old = with("");
    let block = |rule: &str| with(&format!("authorization: [{{ name: x, {rule} }}]\n"));
    let many: Vec<_> = (0..16).map(|number| ("GET http://a/x", caller(number), None, 10)).collect();
    let sample = sent(&old, &many);
    let some = block(r#"deny: [{ from: { cidrs: ["10.0.0.0/30"] } }]"#);
    let radius = compare(&old, &some, std::slice::from_ref(&sample));
    assert_near(group(&radius, Kind::Refused).share, 25.0);
    assert_near(radius.unknown_share, 50.0);
    assert_eq!(group(&radius, Kind::Unknown).to, "authorization x");
    // Where it is the same for everybody, nobody has to be known.
    let radius = compare(&old, &block("deny: [{ to: { methods: [GET] } }]"), std::slice::from_ref(&sample));
    assert_near(radius.changed_share, 100.0);
    assert_near(radius.unknown_share, 0.0);
    assert!(group(&radius, Kind::Refused).more_callers);
    let radius =
        compare(&old, &block(r#"deny: [{ from: { cidrs: ["10.0.0.0/30"] }, to: { methods: [PUT] } }]"#), &[sample]);
    assert_eq!(radius.groups, [], "no method fits");

    let sample = sent(
        &old,
        &[("GET http://a/x\nx-role: admin", caller(1), None, 10), ("GET http://a/items/7", caller(1), None, 10)],
    );
    let role = block(r#"deny: [{ to: { headers: { x-role: admin } } }]"#);
    let radius = compare(&old, &role, std::slice::from_ref(&sample));
    assert_near(radius.unknown_share, 100.0);
    assert_eq!(radius.coverage.new_keys, ["header x-role"]);
    let item = block("deny: [{ to: { paths: [{ exact: /items/7 }] } }]");
    let radius = compare(&old, &item, std::slice::from_ref(&sample));
    assert_near(radius.unknown_share, 50.0);
    // Once it is written, it is remembered.
    let sample = sent(
        &role,
        &[
            ("GET http://a/x\nx-role: admin", caller(1), None, 10),
            ("GET http://a/y\nx-role: user", caller(1), None, 30),
        ],
    );
    let radius = compare(&role, &old, &[sample]);
    assert_near(radius.changed_share, 25.0);
    assert_near(radius.unknown_share, 0.0);
}

#[test]
fn a_route_by_caller_takes_those_that_it_asks_for() {
    let routes = |one: &str| snapshot(&format!("{one}  - {{ name: all, to: reviews/v1 }}"));
    let old = routes("");
    let new = routes("  - { name: inside, match: [{ from: { cidrs: [10.0.0.0/31] } }], to: reviews/v2 }\n");
    let requests: Vec<_> = (0..4).map(|number| ("GET http://a/x", caller(number), None, 10)).collect();
    let sample = sent(&old, &requests);
    let radius = compare(&old, &new, std::slice::from_ref(&sample));
    let side = group(&radius, Kind::Side);
    assert_eq!((side.from.as_str(), side.to.as_str(), side.callers), ("reviews/v1", "reviews/v2", 2));
    assert_near(radius.changed_share, 50.0);
    assert_near(radius.unknown_share, 0.0);
    let many: Vec<_> = (0..16).map(|number| ("GET http://a/x", caller(number), None, 10)).collect();
    let radius = compare(&old, &new, &[sent(&old, &many)]);
    assert_near(radius.changed_share, 12.5);
    assert_near(radius.unknown_share, 50.0);
    assert_eq!(group(&radius, Kind::Unknown).to, "the caller");
}

#[test]
fn weights_of_callers_age_with_the_request() {
    let old = with("");
    let new = with(r#"authorization: [{ name: x, deny: [{ from: { cidrs: ["10.0.0.1"] } }] }]"#);
    let mut traffic = Traffic::new();
    (0..100).for_each(|_| traffic.send_as(&old, "GET http://a/x", Caller::new(caller(1), None, 8080)));
    traffic.now += Duration::from_secs(60);
    (0..50).for_each(|_| traffic.send_as(&old, "GET http://a/x", Caller::new(caller(2), None, 8080)));
    let radius = compare(&old, &new, &[traffic.take()]);
    assert_near(radius.changed_share, 50.0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// Where it is told, it is so: by the decision about each request itself.
    #[test]
    fn what_is_told_of_one_request_is_so(
        from in prop::sample::select(vec!["", "cidrs: [10.0.0.0/30]", "namespaces: [shop]", "identities: [\"*\"]"]),
        to in prop::sample::select(vec![
            "", "methods: [GET]", "paths: [{ prefix: /a }]", "paths: [{ exact: /items/7 }]", "hosts: [\"*.test\"]",
            "headers: { x-a: \"1\" }", "paths: [{ regex: \"/items/[0-9]\" }]", "ports: [8080]",
        ]),
        list in prop::sample::select(vec!["allow", "deny"]),
        text in prop::sample::select(vec![
            "GET http://a/a", "POST http://b.test/a/b", "GET http://b.test/items/7", "GET http://a/items/8",
            "GET http://a/x\nx-a: 1", "GET http://a/x\nx-a: 2",
        ]),
        (number, id) in (0usize..6, prop::sample::select(vec![None, Some(WEB), Some(AD)])),
    ) {
        let old = with("");
        let new = with(&format!("authorization: [{{ name: x, {list}: [{{ from: {{ {from} }}, to: {{ {to} }} }}] }}]\n"));
        let radius = compare(&old, &new, &[sent(&old, &[(text, caller(number), id, 3)])]);
        let (parts, listener) = (parts(text), &new.listeners[0]);
        let id = id.map(|id| SpiffeId::parse(id).expect("an id"));
        let understood = decide::understand(listener, &parts).expect("sound");
        let facts = understood.facts(&new, &parts, Caller::new(caller(number), id.as_ref(), 8080));
        let decision = decide::decide(&new, listener, &facts, || 0).expect("a route");
        let refused = if decision.ruling.denied.is_some() { 100.0 } else { 0.0 };
        prop_assert!(radius.unknown_share == 100.0 || radius.changed_share == refused, "{:#?}", radius);
        let known = !to.contains("headers") && !to.contains("items");
        prop_assert!(!known || radius.unknown_share == 0.0, "{:#?}", radius);
    }
}

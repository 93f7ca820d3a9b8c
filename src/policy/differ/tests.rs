use proptest::prelude::*;
use serde_json::json;

use super::*;

fn answer(status: u16, headers: &[(&'static str, &'static str)], body: impl ToString) -> Answer {
    let headers = headers.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
    Answer { status: StatusCode::from_u16(status).unwrap(), headers: headers.collect(), body: body.to_string().into() }
}

fn rule(ignore: &[&str]) -> Rule {
    let ignore = ignore.iter().map(|pointer| Pointer::new(pointer)).collect();
    Rule { status: true, headers: vec![http::header::CONTENT_TYPE], body: Some(BodyRule { json: true, ignore }) }
}

fn bodies(one: &Value, other: &Value, ignore: &[&str]) -> Vec<String> {
    differences(&rule(ignore), &answer(200, &[], one), &answer(200, &[], other))
}

#[test]
fn each_kind_is_told() {
    let one = answer(200, &[("content-type", "text/plain"), ("date", "now")], "a");
    let other = answer(500, &[("content-type", "text/html"), ("date", "then")], "b");
    assert_eq!(differences(&rule(&[]), &one, &other), ["status", "header content-type", "body"]);
    assert_eq!(differences(&Rule::default(), &one, &other), Vec::<String>::new());
    assert_eq!(differences(&rule(&[]), &one, &one), Vec::<String>::new());
}

#[test]
fn json_is_compared_field_by_field() {
    let one = json!({ "id": 7, "at": "now", "items": [{ "n": 1, "t": 5 }, { "n": 2, "t": 6 }], "a/b": 1 });
    let other =
        json!({ "a/b": 2, "at": "then", "items": [{ "n": 1, "t": 7 }, { "n": 3, "t": 8 }], "new": null, "id": 7 });
    assert_eq!(
        bodies(&one, &other, &[]),
        ["body /at", "body /items/*/t", "body /items/*/n", "body /a~1b", "body /new"]
    );
    assert_eq!(bodies(&one, &other, &["/at", "/items", "/a~1b", "/new"]), Vec::<String>::new());
    assert_eq!(bodies(&one, &other, &["/at", "/items/*/t", "/items/1/n", "/a~1b", "/new"]), Vec::<String>::new());
    assert_eq!(bodies(&one, &other, &["/at", "/items/*/t", "/items/0/n", "/a~1b", "/new"]), ["body /items/*/n"]);
    assert_eq!(bodies(&json!([1, 2]), &json!([1]), &[]), ["body /*"]);
    assert_eq!(bodies(&json!([1]), &json!({}), &[]), ["body"]);
    // Spelling is not content.
    let one = answer(200, &[], "{\"a\":1, \"b\":2}");
    assert_eq!(differences(&rule(&[]), &one, &answer(200, &[], "{\"b\":2,\"a\":1}")), Vec::<String>::new());
    assert_eq!(differences(&rule(&[]), &one, &answer(200, &[], "no JSON")), ["body"]);
}

#[test]
fn what_differs_by_nature_is_not_counted() {
    let mut report = Report::default();
    let kinds = |kinds: &[&str]| kinds.iter().map(|kind| (*kind).to_owned()).collect::<Vec<_>>();
    let example = |differs_in| Example {
        id: String::new(),
        method: String::new(),
        path: String::new(),
        statuses: (200, 200),
        differs_in,
    };
    report.add(kinds(&["body /at"]), example);
    report.learn(kinds(&["body /at"]));
    report.add(kinds(&["body /at"]), example);
    report.add(kinds(&["body /at", "status"]), example);
    assert_eq!((report.compared, report.equal, report.noise_pairs), (3, 1, 1));
    assert_eq!(report.kinds, BTreeMap::from([("status".to_owned(), 1)]));
    assert_eq!(report.examples.back().unwrap().differs_in, ["status"]);
    for n in 0..1000 {
        report.add(vec![format!("body /{n}")], example);
        report.learn(vec![format!("body /noise-{n}")]);
    }
    assert_eq!((report.kinds.len(), report.noise.len(), report.examples.len()), (KINDS_MAX, NOISE_MAX, EXAMPLES_MAX));
    assert_eq!(report.more_kinds, 1000 - KINDS_MAX as u64 + 1);
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![Just(Value::Null), any::<bool>().prop_map(Value::from), (0..4).prop_map(Value::from)];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("[ab~/]{1,2}", inner, 0..4).prop_map(|map| map.into_iter().collect()),
        ]
    })
}

proptest! {
    #[test]
    fn nothing_differs_exactly_where_nothing_does(one in values(), other in values()) {
        let found = bodies(&one, &other, &[]);
        prop_assert_eq!(found.is_empty(), one == other, "{:?}", found);
        // The other way round it is the same, in another order.
        let sorted = |mut kinds: Vec<String>| { kinds.sort(); kinds };
        prop_assert_eq!(sorted(found.clone()), sorted(bodies(&other, &one, &[])));
        // And what is told is what has to be ignored.
        let ignore: Vec<&str> = found.iter().filter_map(|kind| kind.strip_prefix("body ")).collect();
        if !found.contains(&"body".to_owned()) {
            prop_assert_eq!(bodies(&one, &other, &ignore), Vec::<String>::new());
        }
    }
}

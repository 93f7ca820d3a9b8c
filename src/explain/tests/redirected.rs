use super::*;

const SIDECAR: &str = r#"apiVersion: outrigger/v1
listeners:
  - { name: inbound, mode: inbound, address: "0.0.0.0:15006", ports: { 9080: { protocol: http, application: loopback } } }
  - { name: outbound, mode: outbound, address: "127.0.0.1:15001" }
services:
  reviews: { addresses: ["10.96.0.12:80"], endpoints: { static: ["10.1.0.1:9080", "10.1.0.2:9080"] } }
  db: { protocol: tcp, addresses: [10.96.0.13], endpoints: { static: ["10.1.0.3:3306"] } }
routes:
  - { name: to-reviews, hosts: [reviews], match: [{ path: { prefix: /api } }], to: reviews }
"#;

fn told(url: &str, to: &str) -> Explanation {
    let to = Some(to.to_owned()).filter(|to| !to.is_empty());
    explain(&compile(SIDECAR), &Ask { to, ..get(url) }).expect("an explanation")
}

fn led(one: &Explanation) -> (&str, &str, Vec<String>) {
    let endpoints = one.sides.iter().flat_map(|side| &side.endpoints).map(|endpoint| endpoint.address.to_string());
    let name = |named: &Option<Named>| named.as_ref().map_or(String::new(), |named| named.name.clone());
    assert_eq!(name(&one.listener), "outbound");
    (one.route.as_ref().map_or("", |route| &route.name), &one.notes[0], endpoints.collect())
}

#[test]
fn the_destination_comes_before_the_host() {
    let both = ["10.1.0.1:9080", "10.1.0.2:9080"].map(str::to_owned);
    for (url, to, route, note) in [
        ("http://reviews/api", "10.96.0.12:80", "to-reviews", "10.96.0.12:80 is an address of service `reviews`"),
        ("http://other/api", "10.96.0.12:80", "reviews", "10.96.0.12:80 is an address of service `reviews`"),
        (
            "http://reviews/",
            "10.1.0.2:9080",
            "reviews",
            "10.1.0.2:9080 is the address of an endpoint of service `reviews`",
        ),
        ("http://reviews/api", "", "to-reviews", "no destination is named (`--to`): the request goes by its host"),
    ] {
        let told = told(url, to);
        assert_eq!(led(&told), (route, note, both.to_vec()), "{url} {to}");
        assert_eq!(told.outcome, Outcome::Forward);
        assert!(!told.edits.iter().any(|edit| edit.name == "x-forwarded-for"), "{:?}", told.edits);
    }
    let unknown = told("http://elsewhere/", "192.0.2.1:80");
    let note = "192.0.2.1:80 is the address of no service: a request goes by its host";
    assert_eq!(led(&unknown), ("@passthrough", note, vec!["192.0.2.1:80".to_owned()]));
}

#[test]
fn a_tcp_service_is_relayed_to() {
    let told = told("http://x/", "10.96.0.13:3306");
    assert_eq!(led(&told).2, ["10.1.0.3:3306"]);
    assert_eq!(told.route.map(|route| (route.action, route.why)), {
        let texts = ("bytes are relayed both ways", "its destination leads there");
        Some((texts.0.to_owned(), texts.1.to_owned()))
    });
}

#[test]
fn what_comes_in_is_for_the_application() {
    let snapshot = compile(SIDECAR);
    for (ask, route, endpoint, place) in [
        (Ask { port: Some(9080), ..get("http://x/") }, "port-9080", "127.0.0.1:9080", Some("t.yaml:3")),
        (Ask { port: Some(81), ..get("http://x/") }, "port-other", "", None),
        (
            Ask { listener: Some("inbound".into()), to: Some("10.1.0.9:82".into()), ..get("http://x/") },
            "port-other",
            "10.1.0.9:82",
            None,
        ),
    ] {
        let told = explain(&snapshot, &ask).expect("an explanation");
        assert_eq!(told.listener.map(|listener| listener.name).as_deref(), Some("inbound"));
        let found = told.route.expect("a route");
        assert_eq!((&*found.name, told.outcome), (route, Outcome::Forward));
        assert_eq!(found.place.as_deref(), place);
        let endpoints: Vec<_> = told.sides[0].endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect();
        assert_eq!(endpoints.concat(), endpoint);
        assert!(told.candidates.is_empty());
    }
    let wrong = Ask { to: Some("x".to_owned()), ..get("http://x/") };
    assert_eq!(explain(&snapshot, &wrong).err().as_deref(), Some("`x` is not an address `ip:port`"));
}

//! The policies that an explanation shows, and where they are written.

use super::*;

/// What a platform says of a service in a block of its own is shown with the line of its rule.
#[test]
fn policies_of_the_block_are_shown_where_they_are_written() {
    let block = "policies:\n  - service: app\n    rules:\n      - { type: circuit-breaker, window: 60s, \
                 failure-threshold: 0.6, open-duration: 30s }\n      - { type: rate-limit, qps: 1200, burst: 3000 }\n";
    let text = format!("{HEAD}routes: [{{ name: all, to: app }}]\n{block}");
    let line = |of: &str| 1 + text.lines().position(|line| line.contains(of)).expect("a line");
    let explained = explain(&compile(&text), &get("http://a/")).expect("an explanation");
    for (name, rule) in [("circuitBreaker", "type: circuit-breaker"), ("rateLimit", "type: rate-limit")] {
        let policy = explained.policy.iter().find(|policy| policy.name == name).expect(name);
        assert_eq!((&*policy.from, &policy.place), ("policies", &Some(format!("t.yaml:{}", line(rule)))));
    }
}

#[test]
fn what_is_refused_still_has_its_policies() {
    let routes = "routes: [{ name: all, to: app, timeout: 3s, maxBody: 10 }]\n";
    let refused = explained(routes, &asked("PUT", "http://a/", &["content-length: 11"]));
    assert_eq!(refused.reason.as_ref().map(|because| because.status), Some(413));
    assert!(["timeout", "maxBody", "headerTimeout"].iter().all(|name| policies(&refused).contains(name)));
    assert!(!policies(&refused).contains(&"connections.max"), "no service is chosen");
    let malformed = explained(routes, &asked("GET", "http://a/", &["content-length: x"]));
    let listener = malformed.listener.expect("a listener");
    assert!(listener.why.contains("the only one"), "{}", listener.why);
    let two = HEAD.replace("\" }]\nservices", "\" }, { name: b, mode: proxy, address: \"127.0.0.1:8081\" }]\nservices");
    let two = compile(&format!("{two}{routes}"));
    let malformed = explain(&two, &asked("GET", "http://a/", &["content-length: x"])).expect("an explanation");
    let listener = malformed.listener.expect("a listener");
    assert!(listener.why.contains("it is refused before routing"), "{}", listener.why);
    assert_eq!((&*malformed.request.host, malformed.reason.map(|because| because.status)), ("a", Some(400)));
}

//! Health checks, outlier detection and faults: what they are refused for, once for each mistake.

use super::*;

const ROUTE: &str = "routes: [{ name: r, to: app }]\n";

fn service(text: &str) -> String {
    HEAD.replacen("  app: { ", &format!("  app: {{ {text}, "), 1) + ROUTE
}

#[test]
fn what_checks_and_ejections_are_refused_for() {
    for (text, expected) in [
        (
            "healthCheck: { http: { path: ▸healthz } }",
            "services.app.healthCheck.http.path: `healthz` does not start with `/` | write `/healthz`",
        ),
        (
            "healthCheck: { http: { path: ▸\"/a#b\" } }",
            "services.app.healthCheck.http.path: `/a#b` has a '#' in it, which no path has | ",
        ),
        (
            "healthCheck: { http: { path: /a, ▸statuses: [] } }",
            "services.app.healthCheck.http.statuses: there is nothing in it | it needs one item at least",
        ),
        (
            "healthCheck: { ▸htp: { path: /a } }",
            "services.app.healthCheck.htp: unknown key `htp` | did you mean `http`?",
        ),
        (
            "▸healthCheck: { tcp: {}, grpc: {} }",
            "services.app.healthCheck: `http`, `grpc` and `tcp` exclude each other | keep one of them",
        ),
        (
            "▸healthCheck: { interval: 1s }",
            "services.app.healthCheck: a check is one of `http`, `grpc` and `tcp` | write `http: { path: /healthz }`, `grpc: {}` or `tcp: {}`",
        ),
        (
            "outlierDetection: { ▸failures: [] }",
            "services.app.outlierDetection.failures: there is nothing in it | it needs one item at least",
        ),
    ] {
        only(&service(text), expected);
    }
    only(
        &(HEAD.to_owned() + ROUTE).replacen(
            "  raw: ",
            "  dns: { endpoints: { dns: { name: a, port: 1, ▸servers: [] } } }\n  raw: ",
            1,
        ),
        "services.dns.endpoints.dns.servers: there is nothing in it | it needs one item at least",
    );
    assert_eq!(said(&problems(&service("healthCheck: { http: { path: \"/healthz?a=b\" } }"))), [""; 0]);
}

#[test]
fn what_faults_are_refused_for() {
    for (text, expected) in [
        ("delay: { percent: ▸101, duration: 1s }", "delay.percent: 101 is out of range | from 0 to 100"),
        ("abort: { percent: 5, status: ▸199 }", "abort.status: 199 is out of range | from 200 to 599"),
        (
            "abort: { percent: 5, grpc: ▸unavailble }",
            "abort.grpc: `unavailble` is not a gRPC status | a name such as `unavailable`",
        ),
    ] {
        let text = format!("{HEAD}routes: [{{ name: r, to: app, fault: {{ {text} }} }}]\n");
        only(&text, &format!("routes[0].fault.{expected}"));
    }
    for (text, expected) in [
        ("▸fault: {}", "fault: the fault does nothing | add `delay`, `abort` or `bandwidth`"),
        (
            "fault: { ▸abort: { percent: 5 } }",
            "fault.abort: `abort` does not say how | add one of `status`, `grpc` or `reset: true`",
        ),
    ] {
        only(&format!("{HEAD}routes: [{{ name: r, to: app, {text} }}]\n"), &format!("routes[0].{expected}"));
    }
}

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::*;
use crate::admin::health::{Component, Status};

struct Fixed {
    drains: AtomicUsize,
    level: Mutex<Level>,
}

impl Provider for Fixed {
    fn config(&self) -> Value {
        json!({ "apiVersion": "outrigger/v1" })
    }
    fn config_status(&self) -> Value {
        json!({ "generation": 1 })
    }
    fn certs(&self) -> Value {
        Value::Null
    }

    fn clusters(&self) -> Value {
        json!({ "app": {} })
    }
    fn limits(&self) -> Value {
        Value::Null
    }
    fn drain(&self) {
        self.drains.fetch_add(1, Relaxed);
    }
    fn level(&self) -> Level {
        *self.level.lock().unwrap()
    }
    fn set_level(&self, level: Level) {
        *self.level.lock().unwrap() = level;
    }
    fn ask(&self, _: Question, _: SocketAddr) -> Answering {
        Box::pin(std::future::ready((StatusCode::OK, Value::Null)))
    }
}

fn admin() -> (Admin, Arc<Fixed>) {
    let fixed = Arc::new(Fixed { drains: AtomicUsize::new(0), level: Mutex::new(Level::Info) });
    let provider: Arc<dyn Provider> = fixed.clone();
    (Admin { health: Health::new(1), metrics: Metrics::new(1, 1000), provider }, fixed)
}

fn ask(admin: &Admin, surface: Surface, method: &str, uri: &str, headers: &[(&str, &str)]) -> Response<Bytes> {
    let mut request = http::Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    match admin.route(surface, &request.body(()).unwrap().into_parts().0) {
        Routed::Answer(answer) => answer,
        Routed::Ask(_) | Routed::Read(_) => panic!("{method} {uri} is a question"),
    }
}

fn value(response: &Response<Bytes>) -> Value {
    assert_eq!(response.headers()[CONTENT_TYPE], JSON);
    serde_json::from_slice(response.body()).unwrap()
}

#[test]
fn probes_follow_health() {
    let (admin, _) = admin();
    let status = |path| ask(&admin, Surface::Health, "GET", path, &[]).status().as_u16();
    assert_eq!((status("/livez"), status("/readyz"), status("/startupz")), (200, 503, 503));
    admin.health.set(Component::Config, Status::Ok, "");
    admin.health.set(Component::Listeners, Status::Ok, "");
    assert_eq!((status("/readyz"), status("/startupz"), status("/healthz")), (200, 200, 200));
    admin.health.set(Component::Drain, Status::Degraded, "lame duck");
    assert_eq!((status("/readyz"), status("/startupz"), status("/healthz")), (503, 200, 200));
    assert_eq!(ask(&admin, Surface::Health, "GET", "/readyz", &[]).body(), "drain: lame duck\n");
    admin.health.set(Component::Application, Status::Failed, "refused");
    assert_eq!(value(&ask(&admin, Surface::Health, "GET", "/healthz", &[]))["status"], "failed");
    assert_eq!(status("/healthz"), 503);
}

#[test]
fn metrics_in_the_format_that_was_asked_for() {
    let (admin, _) = admin();
    let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2";
    let open = ask(&admin, Surface::Health, "GET", "/metrics", &[("accept", prometheus)]);
    assert_eq!(open.headers()[CONTENT_TYPE], OPEN_METRICS);
    assert!(open.body().ends_with(b"# EOF\n"));
    let classic = ask(&admin, Surface::Admin, "GET", "/metrics", &[("accept", "*/*")]);
    assert_eq!(classic.headers()[CONTENT_TYPE], CLASSIC_METRICS);
    assert!(!classic.body().ends_with(b"# EOF\n"));
}

#[test]
fn health_shows_nothing_of_admin() {
    let (admin, _) = admin();
    for path in ["/config", "/clusters", "/drain", "/loglevel", "/", "/nothing"] {
        let response = ask(&admin, Surface::Health, "GET", path, &[]);
        assert_eq!(response.status(), StatusCode::NOT_FOUND, "{path}");
        assert_eq!(value(&response)["endpoints"].as_array().unwrap().len(), 5);
    }
}

#[test]
fn admin_shows_what_its_provider_has() {
    let (admin, _) = admin();
    let get = |path| value(&ask(&admin, Surface::Admin, "GET", path, &[("host", "localhost:15000")]));
    assert_eq!(get("/config")["apiVersion"], "outrigger/v1");
    assert_eq!(get("/config/status")["generation"], 1);
    assert!(get("/clusters")["app"].is_object());
    assert_eq!(get("/").as_object().unwrap().len(), Endpoint::ALL.len());
}

#[test]
fn drain_is_posted() {
    let (admin, fixed) = admin();
    let refused = ask(&admin, Surface::Admin, "GET", "/drain", &[]);
    assert_eq!(
        (refused.status(), &refused.headers()[ALLOW]),
        (StatusCode::METHOD_NOT_ALLOWED, &"POST".parse().unwrap())
    );
    assert_eq!(fixed.drains.load(Relaxed), 0);
    assert_eq!(ask(&admin, Surface::Admin, "POST", "/drain", &[]).status(), StatusCode::ACCEPTED);
    assert_eq!(fixed.drains.load(Relaxed), 1);
}

#[test]
fn methods_are_minded() {
    let (admin, _) = admin();
    assert_eq!(ask(&admin, Surface::Health, "HEAD", "/livez", &[]).status(), StatusCode::OK);
    let refused = ask(&admin, Surface::Health, "POST", "/livez", &[]);
    assert_eq!(refused.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(refused.headers()[ALLOW], "GET, HEAD");
}

#[test]
fn the_log_level_is_read_and_set() {
    let (admin, fixed) = admin();
    assert_eq!(value(&ask(&admin, Surface::Admin, "GET", "/loglevel?level=trace", &[]))["level"], "info");
    assert_eq!(value(&ask(&admin, Surface::Admin, "POST", "/loglevel?level=debug", &[]))["level"], "debug");
    assert_eq!(fixed.level(), Level::Debug);
    for uri in ["/loglevel", "/loglevel?level=loud"] {
        assert_eq!(ask(&admin, Surface::Admin, "POST", uri, &[]).status(), StatusCode::BAD_REQUEST);
    }
    assert_eq!(fixed.level(), Level::Debug);
}

#[test]
fn web_pages_are_refused() {
    let (admin, fixed) = admin();
    let status = |method, headers: &[_]| ask(&admin, Surface::Admin, method, "/drain", headers).status().as_u16();
    for host in ["evil.example", "evil.example:15000", "127.0.0.1.evil.example", "localhost.evil.example", ""] {
        assert_eq!(status("POST", &[("host", host)]), 403, "{host}");
    }
    assert_eq!(status("POST", &[("host", "127.0.0.1"), ("origin", "http://evil.example")]), 403);
    assert_eq!(fixed.drains.load(Relaxed), 0);
    for host in ["localhost", "LocalHost:15000", "127.0.0.1:15000", "[::1]:15000", "[::1]", "10.1.2.3"] {
        assert_eq!(status("POST", &[("host", host)]), 202, "{host}");
    }
    let absolute = ask(&admin, Surface::Admin, "GET", "http://evil.example/config", &[("host", "localhost")]);
    assert_eq!(absolute.status(), StatusCode::FORBIDDEN);
}

#[test]
fn what_is_learned_has_two_forms() {
    let (admin, _) = admin();
    let asked = |uri: &str| {
        let request = http::Request::builder().uri(uri).body(()).unwrap().into_parts().0;
        admin.route(Surface::Admin, &request)
    };
    for (query, wanted) in [("", false), ("?format=json", false), ("?format=yaml", true)] {
        let routed = asked(&format!("/learned{query}"));
        assert!(matches!(routed, Routed::Ask(Question::Learned { yaml }) if yaml == wanted), "{query}");
    }
    assert!(matches!(asked("/learned?format=xml"), Routed::Answer(answer) if answer.status() == 400));
    assert!(matches!(asked("/unknown"), Routed::Ask(Question::Unknown)));
    let text = told(StatusCode::OK, "# a\n".into());
    assert_eq!((&text.headers()[CONTENT_TYPE], &text.body()[..]), (&TEXT.parse().unwrap(), &b"# a\n"[..]));
    assert_eq!(value(&told(StatusCode::OK, json!({ "a": 1 })))["a"], 1);
}

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::mpsc::{self, Sender};
use std::time::UNIX_EPOCH;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde_json::Value;

use super::*;
use crate::config::schema::{Sample, Workload};

static ENDPOINT: Address = Address::Ip(SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 80));
static PEER: Address = Address::Ip(SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 4711));

fn entry() -> Entry<'static> {
    Entry {
        time: UNIX_EPOCH,
        listener: "edge",
        route: "all",
        service: "app",
        subset: "v1",
        endpoint: Some(&ENDPOINT),
        method: "GET",
        host: b"shop.example",
        path: b"/a?b=c",
        protocol: "HTTP/1.1",
        status: 200,
        grpc_status: None,
        reason: Reason::None,
        authorization: "",
        producer: Producer::Application,
        peer_reason: "",
        limit: "",
        circuit: "",
        fault: "",
        duration: Duration::from_micros(12_034),
        upstream_duration: Some(Duration::from_millis(11)),
        request_bytes: 0,
        response_bytes: 42,
        peer: &PEER,
        peer_identity: "",
        tls_version: "",
        server_name: "",
        request_id: b"id",
        trace_id: 0xabc,
        span_id: 1,
        user_agent: b"curl/8",
        attempts: 1,
        attributes: &[("env", b"canary")],
    }
}

#[test]
fn who_calls_and_how() {
    let secure = Entry {
        peer_identity: "spiffe://test.local/ns/shop/sa/web",
        tls_version: "TLSv1.3",
        server_name: "shop.example",
        ..entry()
    };
    let line = json(&secure);
    assert_eq!(line["peer_identity"], "spiffe://test.local/ns/shop/sa/web");
    assert_eq!((&line["tls_version"], &line["server_name"]), (&"TLSv1.3".into(), &"shop.example".into()));
    let line = text(&secure);
    assert!(
        line.contains(" identity=spiffe://test.local/ns/shop/sa/web tls=TLSv1.3 server_name=shop.example"),
        "{line}"
    );
    assert!(json(&entry()).get("peer_identity").is_none());
    assert!(!text(&entry()).contains("identity="));
}

fn json(entry: &Entry<'_>) -> Value {
    let mut out = Vec::new();
    line::json(&mut out, entry, &Workload { name: "reviews".into(), ..Workload::default() });
    assert!(!out.iter().any(u8::is_ascii_control), "{}", out.escape_ascii());
    serde_json::from_slice(&out).unwrap()
}

fn text(entry: &Entry<'_>) -> String {
    let mut out = Vec::new();
    line::text(&mut out, entry);
    String::from_utf8(out).unwrap()
}

fn log(format: AccessFormat, sample: Sample) -> schema::AccessLog {
    schema::AccessLog { format, sample }
}

/// Hands on what is written to it.
struct Wire(Sender<Vec<u8>>);

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn access(sample: Sample) -> (Arc<AccessLog>, Arc<Metrics>, Receiver<Vec<u8>>) {
    let metrics = Metrics::new(1, 1000);
    let (sender, receiver) = mpsc::channel();
    let log = log(AccessFormat::Text, sample);
    let access = AccessLog::to(Wire(sender), &log, &Workload::default(), Arc::clone(&metrics)).unwrap();
    (access, metrics, receiver)
}

#[test]
fn json_tells_every_fact() {
    let value = json(&entry());
    let expected = serde_json::json!({
        "time": "1970-01-01T00:00:00.000Z", "workload": "reviews", "listener": "edge", "route": "all",
        "service": "app", "subset": "v1", "endpoint": "10.0.0.1:80", "protocol": "HTTP/1.1", "method": "GET",
        "host": "shop.example", "path": "/a?b=c", "status": 200, "producer": "application", "duration_ms": 12.034,
        "upstream_duration_ms": 11.0, "request_bytes": 0, "response_bytes": 42, "attempts": 1,
        "peer": "192.0.2.1:4711", "user_agent": "curl/8", "request_id": "id",
        "trace_id": "00000000000000000000000000000abc", "span_id": "0000000000000001",
        "attributes": { "env": "canary" },
    });
    assert_eq!(value, expected);
}

#[test]
fn another_proxy_is_named_with_its_words() {
    let peer = Entry { status: 503, producer: Producer::Peer, peer_reason: "no \"way\"", attributes: &[], ..entry() };
    let value = json(&peer);
    assert_eq!((&value["producer"], &value["peer_reason"]), (&"peer".into(), &"no \"way\"".into()));
    let line = text(&peer);
    assert!(line.contains(" 503 - peer 12.034ms ") && line.ends_with(r" peer=no\x20\x22way\x22"), "{line}");
}

#[test]
fn who_denies_is_named() {
    let denied = Entry { status: 403, reason: Reason::Denied, authorization: "reads", attributes: &[], ..entry() };
    let value = json(&denied);
    assert_eq!((&value["reason"], &value["authorization"]), (&"denied".into(), &"reads".into()));
    assert!(text(&denied).ends_with(" authorization=reads"), "{}", text(&denied));
    let limit = "service app: maxRequests 2";
    let refused = Entry { status: 503, reason: Reason::Limit, limit, attributes: &[], ..entry() };
    assert_eq!((&json(&refused)["reason"], &json(&refused)["limit"]), (&"limit".into(), &limit.into()));
    assert!(text(&refused).contains(" limit="), "{}", text(&refused));
    let shut = Entry { status: 503, reason: Reason::CircuitOpen, circuit: "service app", attributes: &[], ..entry() };
    assert_eq!(json(&shut)["circuit_breaker"], "service app");
    assert!(text(&shut).ends_with(r" circuit_breaker=service\x20app"), "{}", text(&shut));
}

#[test]
fn json_escapes_what_a_peer_sent() {
    let value = json(&Entry { path: b"/\"\\\n\x1b\xff\xc3\xa9", ..entry() });
    assert_eq!(value["path"], "/\"\\\n\u{1b}\\xffé");
}

#[test]
fn text_is_one_line_of_words() {
    let line = text(&Entry { path: b"/a b\r\n\"\x1b\xff", user_agent: b"", ..entry() });
    assert_eq!(
        line,
        r"1970-01-01T00:00:00.000Z GET shop.example /a\x20b\x0d\x0a\x22\x1b\xff HTTP/1.1 200 - application 12.034ms 0 42 edge all app v1 10.0.0.1:80 192.0.2.1:4711 id 00000000000000000000000000000abc - env=canary"
    );
}

#[test]
fn samples_by_percent() {
    let (access, _, _lines) = access(Sample { errors: 100.0, others: 10.0, max_per_second: 0 });
    let mut rng = SmallRng::seed_from_u64(1);
    let now = Instant::now();
    assert!((0..1000).all(|_| access.wants(true, now, &mut rng)));
    let others = (0..10_000).filter(|_| access.wants(false, now, &mut rng)).count();
    assert!((900..1100).contains(&others), "{others}");
    let none = Sample { errors: 0.0, others: 0.0, max_per_second: 0 };
    access.configure(&log(AccessFormat::Json, none), &Workload::default());
    assert!(!access.wants(true, now, &mut rng));
}

#[test]
fn lines_a_second_are_bounded_and_the_rest_is_counted() {
    let all = Sample { errors: 100.0, others: 100.0, max_per_second: 10 };
    let (access, metrics, _lines) = access(all);
    let mut rng = SmallRng::seed_from_u64(1);
    let now = Instant::now();
    let granted = |now: Instant, rng: &mut SmallRng| (0..50).filter(|_| access.wants(false, now, rng)).count();
    assert_eq!(granted(now, &mut rng), 10);
    assert_eq!(metrics.process.access_log_limited.get(), 40);
    assert_eq!(granted(now + Duration::from_millis(500), &mut rng), 5);
    assert_eq!(granted(now + Duration::from_secs(60), &mut rng), 10);
}

#[test]
fn off_is_off() {
    let (access, _, _lines) = access(Sample::default());
    access.configure(&log(AccessFormat::Off, Sample::default()), &Workload::default());
    assert!(!access.wants(true, Instant::now(), &mut SmallRng::seed_from_u64(1)));
}

#[test]
fn lines_come_out_whole_and_closing_waits_for_them() {
    let (access, metrics, lines) = access(Sample::default());
    for _ in 0..100 {
        access.write(&entry());
    }
    access.close(Duration::from_secs(10));
    let written: Vec<u8> = lines.try_iter().flatten().collect();
    assert_eq!(String::from_utf8(written).unwrap().lines().count(), 100);
    assert_eq!(metrics.process.access_log_dropped.get(), 0);
}

#[test]
fn a_stuck_reader_costs_lines_and_no_time() {
    struct Stuck(mpsc::Receiver<()>);
    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let metrics = Metrics::new(1, 1000);
    let (free, stuck) = mpsc::channel();
    let json = log(AccessFormat::Json, Sample::default());
    let access = AccessLog::to(Stuck(stuck), &json, &Workload::default(), Arc::clone(&metrics)).unwrap();
    for _ in 0..2 * QUEUE {
        access.write(&entry());
    }
    assert!(metrics.process.access_log_dropped.get() > 0);
    drop(free);
    access.close(Duration::from_secs(10));
}

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::UNIX_EPOCH;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::code::{RECORD_MAX, decode, encode};
use super::*;

const MIB: usize = 1 << 20;
const PAGE: &str = include_str!("../../../docs/why.md");

const ATTEMPTS: [Attempt; 2] = [
    Attempt {
        endpoint: Address::Ip(SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 7)), 8080)),
        outcome: Outcome::Unsent,
        protocol: Version::HTTP_11,
        connection: Some(Connection::Reused),
        queue: None,
        connect: None,
        first_byte: Some(Micros(412)),
    },
    Attempt {
        endpoint: Address::Ip(SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 8)), 8080)),
        outcome: Outcome::Failed(Reason::UpstreamReset),
        protocol: Version::HTTP_11,
        connection: Some(Connection::New),
        queue: Some(Micros(12_035)),
        connect: Some(Micros(41_204)),
        first_byte: Some(Micros(196_000)),
    },
];

fn exchange() -> Exchange<'static> {
    Exchange {
        id: b"8f14e45f-ceea-467a-9a36-dedd4bea2543",
        time: UNIX_EPOCH + Duration::from_millis(1_795_231_681_123),
        generation: 7,
        listener: "edge",
        route: "orders",
        rule: Some(1),
        service: "orders",
        subset: "v2",
        bucket: Some(Bucket { number: 4711, sticky: true }),
        method: "POST",
        host: b"shop.example",
        path: b"/api/v1/orders",
        protocol: Version::HTTP_2,
        status: 502,
        grpc_status: None,
        reason: Reason::UpstreamReset,
        denied: "",
        limit: "",
        circuit: "",
        fault: "",
        producer: Producer::Proxy,
        peer: SocketAddr::from(([192, 0, 2, 1], 50_123)).into(),
        identity: "spiffe://test.local/ns/shop/sa/web",
        request_bytes: 2048,
        response_bytes: 91,
        failed: true,
        attempts: &ATTEMPTS,
        not_again: Some(NotAgain::PerhapsHandled),
        phases: Phases {
            accept: Some(Micros(98)),
            tls: None,
            queue: Some(Micros(12_035)),
            connect: Some(Micros(41_204)),
            first_byte: Some(Micros(196_412)),
            body: Some(Micros(12)),
            total: Micros(252_001),
        },
        attributes: &[("env", b"canary"), ("user", b"4711")],
        shadow: &[Would { guard: Guard::MaxBody, limit: 1024, actual: 2048, entry: "" }],
    }
}

/// Of so many bytes, with one exchange in it.
fn found(exchange: &Exchange<'_>) -> Value {
    let mut ring = Ring::new(MIB);
    ring.push(exchange);
    ring.find(exchange.id).unwrap()
}

/// An exchange that went well, at a second and with a duration of its own.
fn plain(id: &[u8], second: u64, micros: u64) -> Exchange<'_> {
    let phases = Phases { total: Micros(micros), ..Phases::default() };
    let time = UNIX_EPOCH + Duration::from_secs(second);
    let fine = Exchange { id, time, phases, failed: false, status: 200, reason: Reason::None, ..exchange() };
    Exchange { attempts: &[], attributes: &[], shadow: &[], not_again: None, ..fine }
}

#[test]
fn the_long_form_says_everything() {
    assert_eq!(
        found(&exchange()),
        json!({
            "id": "8f14e45f-ceea-467a-9a36-dedd4bea2543",
            "time": "2026-11-21T03:28:01.123Z",
            "method": "POST",
            "host": "shop.example",
            "path": "/api/v1/orders",
            "status": 502,
            "reason": {
                "code": "upstream_reset",
                "sentence": Reason::UpstreamReset.sentence(),
            },
            "failed": true,
            "slow": false,
            "truncated": false,
            "generation": 7,
            "listener": "edge",
            "route": "orders",
            "rule": 1,
            "service": "orders",
            "subset": "v2",
            "bucket": { "number": 4711, "sticky": true },
            "protocol": "HTTP/2",
            "producer": "proxy",
            "peer": "192.0.2.1:50123",
            "identity": "spiffe://test.local/ns/shop/sa/web",
            "requestBytes": 2048,
            "responseBytes": 91,
            "attempts": [
                {
                    "endpoint": "10.0.0.7:8080",
                    "outcome": {
                        "code": "unsent", "sentence": Outcome::Unsent.sentence(),
                    },
                    "protocol": "HTTP/1.1",
                    "connection": "reused",
                    "firstByte": 0.412,
                },
                {
                    "endpoint": "10.0.0.8:8080",
                    "outcome": { "code": "upstream_reset", "sentence": Reason::UpstreamReset.sentence() },
                    "protocol": "HTTP/1.1",
                    "connection": "new",
                    "queue": 12.035,
                    "connect": 41.204,
                    "firstByte": 196.0,
                },
            ],
            "notAgain": {
                "code": "perhaps_handled",
                "sentence": NotAgain::PerhapsHandled.sentence(),
            },
            "phases": {
                "accept": 0.098,
                "queue": 12.035,
                "connect": 41.204,
                "firstByte": 196.412,
                "body": 0.012,
                "total": 252.001,
            },
            "attributes": { "env": "canary", "user": "4711" },
            "shadow": [{ "rule": "max_body", "limit": 1024, "actual": 2048, "unit": "bytes" }],
        })
    );
}

/// The JSON between the fences that follow a line of the documentation.
fn documented(after: &str) -> Value {
    let (_, rest) = PAGE.split_once(after).unwrap();
    let (_, rest) = rest.split_once("```json\n").unwrap();
    serde_json::from_str(rest.split_once("\n```").unwrap().0).unwrap()
}

#[test]
fn the_documentation_shows_both_forms() {
    // A worker does not know its number; whoever asks it adds that.
    let with_worker = |mut value: Value| {
        value["worker"] = json!(1);
        value
    };
    assert_eq!(documented("## The long form"), with_worker(found(&exchange())));
    let mut ring = Ring::new(MIB);
    ring.push(&exchange());
    let list = documented("## The short form");
    assert_eq!(list["exchanges"][0], with_worker(ring.list(Filter::All, 1).remove(0)));
    let kept = Kept {
        exchanges: 18_402,
        of: 1_203_441,
        oldest: Some(UNIX_EPOCH + Duration::from_secs(1_795_227_302)),
        since: Some(UNIX_EPOCH + Duration::from_millis(1_795_231_571_004)),
    };
    assert_eq!(list["kept"], kept.json());
}

#[test]
fn the_documentation_knows_every_code() {
    let outcomes = [Outcome::Answered, Outcome::Unsent, Outcome::Refused, Outcome::Stale, Outcome::NotHttp2];
    let rows = outcomes.map(|outcome| (outcome.code(), outcome.sentence()));
    for (code, sentence) in rows.into_iter().chain(NotAgain::ALL.map(|why| (why.code(), why.sentence()))) {
        let row = format!("| `{code}` | {sentence} |");
        assert!(PAGE.contains(&row), "docs/why.md lacks {row}");
    }
}

#[test]
fn what_is_absent_is_left_out() {
    let bare = Exchange { route: "", service: "", subset: "", rule: None, bucket: None, ..plain(b"a", 0, 1500) };
    let value = found(&bare);
    let absent = "route service subset rule bucket reason notAgain grpcStatus limit circuitBreaker fault";
    for key in absent.split(' ') {
        assert_eq!(value.get(key), None, "{key}");
    }
    assert_eq!(value["phases"], json!({ "total": 1.5 }));
    let guard = Would { guard: Guard::Timeout, limit: 250_000, actual: 312_512, entry: "" };
    let entry = Would { guard: Guard::Authorization, limit: 0, actual: 0, entry: "reads" };
    let (limit, fault) = ("route a: 1 requests a second, burst 1", "delay=100ms");
    let refused = Exchange { denied: "writes", limit, circuit: "service app", fault, ..bare };
    let slow = Exchange { shadow: &[guard, entry], grpc_status: Some(0), ..refused };
    let value = found(&slow);
    let timeout = json!({ "rule": "timeout", "limit": 250.0, "actual": 312.512, "unit": "ms" });
    assert_eq!(value["shadow"], json!([timeout, { "rule": "authorization", "entry": "reads" }]));
    let told = ["authorization", "limit", "circuitBreaker", "fault"].map(|key| value[key].as_str());
    assert_eq!((told, &value["grpcStatus"]), (["writes", limit, "service app", fault].map(Some), &json!(0)));
}

#[test]
fn the_short_form_is_a_line() {
    let mut ring = Ring::new(MIB);
    ring.push(&exchange());
    assert_eq!(
        ring.list(Filter::Failed, 10),
        [json!({
            "id": "8f14e45f-ceea-467a-9a36-dedd4bea2543",
            "time": "2026-11-21T03:28:01.123Z",
            "method": "POST",
            "host": "shop.example",
            "path": "/api/v1/orders",
            "status": 502,
            "reason": {
                "code": "upstream_reset",
                "sentence": Reason::UpstreamReset.sentence(),
            },
            "failed": true,
            "slow": false,
            "route": "orders",
            "service": "orders",
            "endpoint": "10.0.0.8:8080",
            "attempts": 2,
            "duration": 252.001,
        })]
    );
}

#[test]
fn secrets_are_not_kept() {
    let secret = Exchange { host: b"user:pass@word@shop.example:80", path: b"/a?token=1?2", ..exchange() };
    let mut buffer = [0; RECORD_MAX];
    let record = encode(&mut buffer, &secret, false);
    for part in [&b"token"[..], b"pass", b"word"] {
        assert!(!record.windows(part.len()).any(|window| window == part));
    }
    let value = found(&secret);
    assert_eq!((&value["host"], &value["path"]), (&json!("shop.example:80"), &json!("/a")));
}

#[test]
fn a_million_stay_within_the_bound() {
    let bytes = 256 * 1024;
    let mut ring = Ring::new(bytes);
    let before = ring.capacity();
    assert!((bytes - 16..=bytes).contains(&before), "{before} of {bytes}");
    let path = [b'x'; 400];
    for n in 0..1_000_000u64 {
        let id = n.to_be_bytes();
        let path = path.get(..(n % 400) as usize).unwrap();
        ring.push(&Exchange { path, failed: n % 100 == 0, ..plain(&id, n, n % 1000) });
    }
    assert_eq!(ring.capacity(), before);
    let kept = ring.kept();
    assert_eq!(kept.of, 1_000_000);
    assert!((500..5000).contains(&kept.exchanges), "{kept:?}");
    assert_eq!(ring.list(Filter::All, usize::MAX).len(), LIST_MAX.min(kept.exchanges as usize));
}

#[test]
fn failures_and_the_slow_are_kept_longer() {
    let mut ring = Ring::new(64 * 1024);
    for n in 0..200 {
        ring.push(&plain(b"early", n, 1000 + n % 7));
    }
    ring.push(&Exchange { failed: true, ..plain(b"failed", 200, 10) });
    ring.push(&plain(b"slow", 201, 90_000));
    ring.push(&plain(b"fine", 202, 1000));
    assert!(ring.find(b"fine").is_some());
    for n in 0..10_000 {
        ring.push(&plain(b"late", 203 + n, 1000 + n % 7));
    }
    assert_eq!(ring.find(b"fine"), None);
    let (failed, slow) = (ring.find(b"failed").unwrap(), ring.find(b"slow").unwrap());
    assert_eq!((&failed["failed"], &failed["slow"]), (&json!(true), &json!(false)));
    assert_eq!((&slow["failed"], &slow["slow"]), (&json!(false), &json!(true)));
    assert_eq!(ring.list(Filter::Failed, 10).len(), 1);
    assert!(ring.list(Filter::Slow, 1000).iter().any(|one| one["id"] == "slow"));
    let notable = ring.list(Filter::Notable, 1000);
    assert!(notable.iter().all(|one| one["failed"] == true || one["slow"] == true), "{notable:?}");
    assert_eq!(notable.len(), 1 + ring.list(Filter::Slow, 1000).len());
}

#[test]
fn a_storm_of_failures_has_all_the_memory() {
    let bytes = 64 * 1024;
    let mut ring = Ring::new(bytes);
    let failing = Exchange { failed: true, ..plain(b"an ordinary id", 0, 1000) };
    for _ in 0..10_000 {
        ring.push(&failing);
    }
    let used = ring.kept().exchanges as usize * encode(&mut [0; RECORD_MAX], &failing, false).len();
    assert!(used > (bytes - RECORD_MAX) * 9 / 10, "{used} of {bytes}");
}

#[test]
fn the_newest_is_found_first() {
    let mut ring = Ring::new(64 * 1024);
    for second in 0..20 {
        ring.push(&plain(b"twice", second, 1));
        ring.push(&Exchange { failed: true, ..plain(b"other", second, 1) });
    }
    assert_eq!(ring.find(b"twice").unwrap()["time"], "1970-01-01T00:00:19.000Z");
    let seconds = |list: Vec<Value>| -> Vec<String> {
        list.iter().map(|one| one["time"].as_str().unwrap()[17..19].to_owned()).collect()
    };
    assert_eq!(seconds(ring.list(Filter::Failed, 3)), ["19", "18", "17"]);
    assert_eq!(seconds(ring.list(Filter::All, 3)), ["19", "19", "18"]);
    // In both memories.
    for second in 20..400 {
        ring.push(&Exchange { failed: second % 10 == 0, ..plain(b"more", second, 1) });
    }
    let times: Vec<Value> = ring.list(Filter::All, 1000).iter().map(|one| one["time"].clone()).collect();
    assert!(times.is_sorted_by(|a, b| a.as_str() >= b.as_str()), "{times:?}");
}

#[test]
fn it_says_how_far_back_it_knows() {
    let mut ring = Ring::new(64 * 1024);
    assert_eq!(ring.kept(), Kept::default());
    let second = |second| Some(UNIX_EPOCH + Duration::from_secs(second));
    ring.push(&plain(b"first", 5, 2_000_000));
    assert_eq!(ring.kept(), Kept { exchanges: 1, of: 1, oldest: second(7), since: None });
    ring.push(&Exchange { failed: true, ..plain(b"failed", 8, 0) });
    for n in 0..10_000 {
        ring.push(&plain(b"more", 10 + n, 0));
    }
    let kept = ring.kept();
    assert_eq!((kept.of, kept.oldest), (10_002, second(8)));
    // All from then on are there.
    let since = kept.since.unwrap().duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert_eq!(10_010 - since + 1, kept.exchanges);
    let idle = Kept { exchanges: 1, of: 1, oldest: second(6), since: None };
    let both = Kept { exchanges: kept.exchanges + 1, of: 10_003, oldest: second(6), since: kept.since };
    assert_eq!((idle.and(kept), kept.and(idle), kept.and(Kept::default())), (both, both, kept));
    assert_eq!(
        Kept { exchanges: 1, of: 2, oldest: second(1), since: None }.json(),
        json!({ "exchanges": 1, "of": 2, "oldest": "1970-01-01T00:00:01.000Z" })
    );
}

#[test]
fn a_ring_that_is_off_counts_only() {
    for bytes in [0, BYTES_MIN - 1] {
        let mut ring = Ring::new(bytes);
        ring.push(&exchange());
        assert_eq!((ring.is_on(), ring.capacity(), ring.find(exchange().id)), (false, 0, None));
        assert_eq!(ring.kept(), Kept { of: 1, ..Kept::default() });
    }
    let mut least = Ring::new(BYTES_MIN);
    least.push(&exchange());
    assert!(least.is_on() && least.find(exchange().id).is_some());
}

#[test]
fn what_is_too_long_is_cut_and_said_so() {
    // Three bytes a character, so that the bound lies within one.
    let name = "€".repeat(500);
    let long = vec![b'y'; 5000];
    let shadow = [Would { guard: Guard::Timeout, limit: u64::MAX, actual: u64::MAX, entry: &name }; 20];
    let attempt = Attempt {
        endpoint: format!("unix:/{}", "a".repeat(106)).parse().unwrap(),
        outcome: Outcome::Failed(Reason::Panic),
        queue: Some(Micros(u64::MAX - 1)),
        connect: Some(Micros(u64::MAX - 1)),
        first_byte: Some(Micros(u64::MAX - 1)),
        ..ATTEMPTS[0]
    };
    let most = Some(Micros(u64::MAX - 1));
    let phases = Phases {
        accept: most,
        tls: most,
        queue: most,
        connect: most,
        first_byte: most,
        body: most,
        ..exchange().phases
    };
    let largest = Exchange {
        id: &long,
        generation: u64::MAX,
        listener: &name,
        route: &name,
        rule: Some(u32::MAX),
        service: &name,
        subset: &name,
        bucket: Some(Bucket { number: u32::MAX, sticky: true }),
        method: &name,
        host: &long,
        path: &long,
        status: u16::MAX,
        grpc_status: Some(u8::MAX),
        denied: &name,
        limit: &name,
        circuit: &name,
        fault: &name,
        peer: attempt.endpoint.clone(),
        request_bytes: u64::MAX,
        response_bytes: u64::MAX,
        attempts: &vec![attempt; 9],
        phases,
        attributes: &[(name.as_str(), long.as_slice()); 30],
        shadow: &shadow,
        ..exchange()
    };
    let mut ring = Ring::new(BYTES_MIN);
    let before = ring.capacity();
    for _ in 0..100 {
        ring.push(&largest);
    }
    assert_eq!(ring.capacity(), before);
    let value = ring.find(&long).unwrap();
    let length = |key: &str| value[key].as_str().unwrap().len();
    assert_eq!(value["truncated"], true);
    assert_eq!([length("id"), length("host"), length("path")], [ID_MAX, HOST_MAX, PATH_MAX]);
    assert_eq!((length("route"), length("method")), (NAME_MAX / 3 * 3, METHOD_MAX / 3 * 3));
    assert_eq!(value["attempts"].as_array().unwrap().len(), ATTEMPTS_MAX);
    assert_eq!(value["attempts"][0]["endpoint"].as_str().unwrap().len(), "unix:".len() + 107);
    assert_eq!(value["attributes"].as_object().unwrap().values().next().unwrap().as_str().unwrap().len(), VALUE_MAX);
    assert_eq!(value["shadow"].as_array().unwrap().len(), SHADOW_MAX);
    let mut buffer = [0; RECORD_MAX];
    let record = encode(&mut buffer, &largest, true);
    assert!((RECORD_MAX / 2..RECORD_MAX).contains(&record.len()), "{}", record.len());
    assert_eq!(decode(record, |_, marks| marks.truncated()), Some(true));
}

#[test]
fn hostile_bytes_become_harmless_text() {
    let id = b"\xff\xfe\"\\\x1b[2J";
    let path = "/\u{1b}]0;title\u{7}\u{9b}2J/\r\n\0\u{7f}/ümläut".as_bytes();
    let hostile = Exchange { id, path, host: b"a\xc3", attributes: &[("user", b"\x00\xf0\x9f")], ..exchange() };
    let value = found(&hostile);
    assert_eq!(value["id"], "\\xff\\xfe\"\\\\u{1b}[2J");
    assert_eq!(value["path"], "/\\u{1b}]0;title\\u{7}\\u{9b}2J/\\r\\n\\u{0}\\u{7f}/ümläut");
    assert_eq!(value["attributes"]["user"], "\\u{0}\\xf0\\x9f");
    let line = value.to_string();
    assert!(!line.chars().any(char::is_control), "{line:?}");
    assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), value);
}

#[test]
fn a_filter_has_a_name() {
    for filter in [Filter::All, Filter::Failed, Filter::Slow, Filter::Notable] {
        assert_eq!(filter.name().parse(), Ok(filter));
    }
    assert_eq!("".parse::<Filter>(), Err(()));
}

#[test]
fn every_code_has_its_place() {
    assert!(NotAgain::ALL.iter().enumerate().all(|(n, why)| *why as usize == n && !why.sentence().is_empty()));
    assert!(Producer::ALL.iter().enumerate().all(|(n, producer)| *producer as usize == n));
    assert!(Connection::ALL.iter().enumerate().all(|(n, connection)| *connection as usize == n));
    let codes: std::collections::BTreeSet<_> = NotAgain::ALL.into_iter().map(NotAgain::code).collect();
    assert_eq!(codes.len(), NotAgain::ALL.len());
}

fn micros() -> impl Strategy<Value = Option<Micros>> {
    prop::option::of((0..u64::MAX).prop_map(Micros))
}

fn address() -> impl Strategy<Value = Address> {
    prop_oneof![
        any::<(Ipv4Addr, u16)>().prop_map(|address| SocketAddr::from(address).into()),
        any::<(std::net::Ipv6Addr, u16, u32)>()
            .prop_map(|(ip, port, scope)| SocketAddr::from(std::net::SocketAddrV6::new(ip, port, 0, scope)).into()),
        "[/@][!-~]{0,106}".prop_map(|path| Address::Unix(path.into())),
        Just(Address::unnamed()),
    ]
}

fn reason() -> impl Strategy<Value = Reason> {
    prop::sample::select(Reason::ALL)
}

fn attempt() -> impl Strategy<Value = Attempt> {
    use Outcome::{Answered, NotHttp2, Refused, Stale, Unsent};
    let outcome = prop_oneof![
        prop::sample::select(vec![Answered, Unsent, Refused, Stale, NotHttp2]),
        reason().prop_map(Outcome::Failed),
    ];
    let protocol = prop::sample::select(vec![Version::HTTP_10, Version::HTTP_11, Version::HTTP_2]);
    let connection = prop::option::of(prop::sample::select(&Connection::ALL[..]));
    let parts = (address(), outcome, protocol, connection, micros(), micros(), micros());
    parts.prop_map(|(endpoint, outcome, protocol, connection, queue, connect, first_byte)| Attempt {
        endpoint,
        outcome,
        protocol,
        connection,
        queue,
        connect,
        first_byte,
    })
}

fn would() -> impl Strategy<Value = Would<'static>> {
    let parts = (
        prop::sample::select(&Guard::ALL[..]),
        any::<u64>(),
        any::<u64>(),
        prop::sample::select(&["", "an-entry"][..]),
    );
    parts.prop_map(|(guard, limit, actual, entry)| Would { guard, limit, actual, entry })
}

proptest! {
    #[test]
    fn what_was_kept_is_what_was_pushed(
        (id, path, host) in (
            prop::collection::vec(any::<u8>(), 0..=ID_MAX),
            prop::collection::vec(any::<u8>().prop_filter("no query", |byte| *byte != b'?'), 0..=PATH_MAX),
            prop::collection::vec(any::<u8>().prop_filter("no user", |byte| *byte != b'@'), 0..=HOST_MAX),
        ),
        (route, method) in ("\\PC{0,30}", "[A-Z]{0,32}"),
        (millis, generation, rule, bucket, status, grpc_status, bytes) in any::<(u32, u64, Option<u32>, Option<(u32, bool)>, u16, Option<u8>, (u64, u64))>(),
        (reason, producer, peer) in (reason(), prop::sample::select(&Producer::ALL[..]), address()),
        attempts in prop::collection::vec(attempt(), 0..=ATTEMPTS_MAX),
        not_again in prop::option::of(prop::sample::select(&NotAgain::ALL[..])),
        phases in (micros(), micros(), micros(), micros(), micros(), micros(), any::<u64>()),
        attributes in prop::collection::vec(("[a-z]{0,10}", prop::collection::vec(any::<u8>(), 0..=VALUE_MAX)), 0..=ATTRIBUTES_MAX),
        shadow in prop::collection::vec(would(), 0..=SHADOW_MAX),
        (failed, slow) in any::<(bool, bool)>(),
    ) {
        let (accept, tls, queue, connect, first_byte, body, total) = phases;
        let attributes: Vec<(&str, &[u8])> = attributes.iter().map(|(name, value)| (&**name, &**value)).collect();
        let pushed = Exchange {
            id: &id,
            time: UNIX_EPOCH + Duration::from_millis(millis.into()),
            generation,
            route: &route,
            rule,
            bucket: bucket.map(|(number, sticky)| Bucket { number, sticky }),
            method: &method,
            host: &host,
            path: &path,
            status,
            grpc_status,
            reason,
            producer,
            peer,
            request_bytes: bytes.0,
            response_bytes: bytes.1,
            failed,
            attempts: &attempts,
            not_again,
            phases: Phases { accept, tls, queue, connect, first_byte, body, total: Micros(total) },
            attributes: &attributes,
            shadow: &shadow,
            ..exchange()
        };
        let mut buffer = [0; RECORD_MAX];
        let record = encode(&mut buffer, &pushed, slow);
        let same = decode(record, |kept, marks| {
            (*kept == pushed, marks.failed(), marks.slow(), marks.truncated())
        });
        prop_assert_eq!(same, Some((true, failed, slow, false)));
        // Nothing less is a record.
        for length in 0..record.len() {
            prop_assert_eq!(decode(&record[..length], |_, _| ()), None);
        }
    }

    /// Neither panics nor runs away, whatever lies there.
    #[test]
    fn nonsense_is_no_record(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        decode(&bytes, |exchange, marks| shape::long(exchange, marks).to_string());
        code::head(&bytes).and_then(|head| head.ended());
    }

    #[test]
    fn a_flipped_bit_does_no_harm(at in any::<prop::sample::Index>(), bit in 0..8) {
        let mut buffer = [0; RECORD_MAX];
        let mut record = encode(&mut buffer, &exchange(), false).to_vec();
        let at = at.index(record.len());
        record[at] ^= 1u8 << bit;
        if let Some(line) = decode(&record, |exchange, marks| shape::long(exchange, marks).to_string()) {
            prop_assert!(serde_json::from_str::<Value>(&line).is_ok());
        }
    }
}

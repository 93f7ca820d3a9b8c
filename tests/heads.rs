//! What a head looks like on the far side: hop-by-hop fields, authority, targets, spelling, and the fields that
//! the proxy itself adds (forwarding, request id, W3C Trace Context level 1).

mod common;

use std::collections::BTreeSet;

use common::{Conn, Head, Message, Origin, Proxy, Setup, get};

/// Sends one request, returns its answer.
fn ask(proxy: &Proxy, request: &str) -> Message {
    let mut conn = Conn::connect(proxy.addr());
    conn.write(request);
    conn.response(request.split(' ').next().unwrap_or_default())
}

fn with(fields: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: app.test\r\n{fields}\r\n")
}

/// Names that the proxy may add on its own.
const OURS: [&str; 9] = [
    "host",
    "connection",
    "via",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-outrigger-hops",
    "x-request-id",
    "traceparent",
];

fn unexpected(head: &Head, wanted: &[&str]) -> Vec<String> {
    let names = head.lines().into_iter().map(|(name, _)| name.to_ascii_lowercase());
    names.filter(|name| !OURS.contains(&name.as_str()) && !wanted.contains(&name.as_str())).collect()
}

/// Row 1 of the pitfalls: the fixed set, and every name of *all* Connection lines.
#[test]
fn hop_by_hop_fields_stay_on_their_hop() {
    let origin = Origin::fixed(concat!(
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive, X-One\r\nConnection: x-two\r\n",
        "X-One: 1\r\nx-TWO: 2\r\nX-Three: 3\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\n",
        "Upgrade: h2c\r\n\r\nok"
    ));
    let proxy = Proxy::front(origin.addr());
    let reply = ask(
        &proxy,
        &with(concat!(
            "Connection: keep-alive, X-One\r\nX-One: 1\r\nx-two: 2\r\nX-Three: 3\r\nConnection: X-Two,\r\n",
            "Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nTE: gzip\r\nUpgrade: foo\r\n"
        )),
    );
    let seen = origin.last().head;
    assert_eq!(unexpected(&seen, &["x-three"]), Vec::<String>::new(), "{seen:?}");
    assert_eq!(seen.all("x-three"), ["3"]);
    assert_eq!(reply.head.all("x-three"), ["3"]);
    for name in ["x-one", "x-two", "keep-alive", "proxy-connection", "upgrade"] {
        assert!(!reply.head.has(name), "{name}: {:?}", reply.head);
        assert!(!seen.get("connection").unwrap_or_default().to_ascii_lowercase().contains(name), "{seen:?}");
    }
}

/// Naming a field in Connection must not rob the message of its framing, its host or its trace.
#[test]
fn connection_cannot_remove_what_the_message_needs() {
    let origin = Origin::echo();
    let proxy = Proxy::front(origin.addr());
    let reply = ask(
        &proxy,
        concat!(
            "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 3\r\n",
            "Connection: content-length, host, transfer-encoding\r\n\r\nabc"
        ),
    );
    if reply.status() != 400 {
        assert_eq!((reply.status(), reply.text().as_str()), (200, "abc"));
        let seen = origin.last();
        assert_eq!((seen.head.all("host"), seen.body), (vec!["app.test".to_owned()], b"abc".to_vec()));
    }
    proxy.assert_serves();
}

/// Row 8: what names the host has to agree with itself.
#[test]
fn contradicting_authorities_are_refused() {
    let origin = Origin::ok();
    let proxy = Proxy::front(origin.addr());
    let table = [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.test\r\nHost: b.test\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.test\r\nhost: a.test\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.test, b.test\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: user@a.test\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.test/path\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a test\r\n\r\n",
        "GET http://a.test/ HTTP/1.1\r\nHost: b.test\r\n\r\n",
        "GET http://a.test/ HTTP/1.1\r\n\r\n",
    ];
    for request in table {
        let reply = ask(&proxy, request);
        assert_eq!(reply.status(), 400, "{request}");
    }
    assert_eq!(origin.seen().len(), 0, "none reaches the origin");
    proxy.await_counted("bad_request", table.len() as f64);
    proxy.assert_serves();
}

#[test]
fn targets_arrive_in_origin_form() {
    let origin = Origin::ok();
    let proxy = Proxy::front(origin.addr());
    let table = [
        ("GET http://app.test/p?q=1 HTTP/1.1\r\nHost: app.test\r\n\r\n", "GET /p?q=1 HTTP/1.1"),
        ("GET http://APP.test/p HTTP/1.1\r\nHost: app.test\r\n\r\n", "GET /p HTTP/1.1"),
        ("GET http://app.test HTTP/1.1\r\nHost: app.test\r\n\r\n", "GET / HTTP/1.1"),
        ("OPTIONS * HTTP/1.1\r\nHost: app.test\r\n\r\n", "OPTIONS * HTTP/1.1"),
        ("GET /a%2Fb;x=1?y=%20&z HTTP/1.1\r\nHost: app.test\r\n\r\n", "GET /a%2Fb;x=1?y=%20&z HTTP/1.1"),
        ("GET /? HTTP/1.1\r\nHost: app.test\r\n\r\n", "GET /? HTTP/1.1"),
    ];
    for (n, (request, line)) in table.into_iter().enumerate() {
        assert_eq!(ask(&proxy, request).status(), 200, "{request}");
        let seen = origin.nth(n + 1).head;
        assert_eq!(seen.start_line(), line);
        assert_eq!(seen.all("host").concat().to_ascii_lowercase(), "app.test", "{request}");
    }
}

/// Row 13: CONNECT is off.
#[test]
fn connect_is_refused() {
    let origin = Origin::ok();
    let proxy = Proxy::front(origin.addr());
    let status = ask(&proxy, "CONNECT app.test:80 HTTP/1.1\r\nHost: app.test:80\r\n\r\n").status();
    assert!([400, 405, 501].contains(&status), "{status}");
    assert_eq!(origin.seen().len(), 0);
    proxy.assert_serves();
}

/// Row 21.
#[test]
fn spelling_of_names_is_kept_where_asked() {
    for (listener, kept) in [(", preserveHeaderCase: true", true), ("", false)] {
        let origin = Origin::fixed("HTTP/1.1 200 OK\r\nX-OriGin: 1\r\nContent-LENGTH: 2\r\n\r\nok");
        let proxy = Setup { listener, workers: 1, ..Setup::default() }.start(origin.addr());
        let reply = ask(&proxy, &with("X-CliEnt: 1\r\n"));
        assert_eq!(origin.last().head.text().contains("\r\nX-CliEnt: 1\r\n"), kept, "{:?}", origin.last().head);
        assert_eq!(reply.head.text().contains("\r\nX-OriGin: 1\r\n"), kept, "{:?}", reply.head);
        assert_eq!(
            (origin.last().head.get("x-client"), reply.head.get("x-origin")),
            (Some("1".into()), Some("1".into()))
        );
    }
}

#[test]
fn repeated_fields_keep_their_order() {
    let origin =
        Origin::fixed("HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2, c\r\nContent-Length: 2\r\n\r\nok");
    let proxy = Proxy::front(origin.addr());
    let reply = ask(&proxy, &with("X-A: 1\r\nX-A: 2, 3\r\nX-Empty:\r\nX-Latin: caf\u{e9}\r\n"));
    let seen = origin.last().head;
    assert_eq!(seen.all("x-a"), ["1", "2, 3"]);
    assert_eq!(seen.all("x-empty"), [""]);
    assert_eq!(seen.all("x-latin"), ["caf\u{e9}"]);
    assert_eq!(reply.head.all("set-cookie"), ["a=1", "b=2, c"]);
}

#[test]
fn forwarding_and_request_id() {
    let origin = Origin::ok();
    let proxy = Proxy::front(origin.addr());
    ask(&proxy, &with(""));
    ask(&proxy, &with("X-Forwarded-For: 192.0.2.1\r\nX-Request-Id: from-the-client\r\n"));
    ask(&proxy, &with(""));
    let heads: Vec<Head> = origin.seen().into_iter().map(|seen| seen.message.head).collect();
    assert_eq!(heads[0].all("x-forwarded-for").join(", "), "127.0.0.1");
    assert_eq!(heads[1].all("x-forwarded-for").join(", "), "192.0.2.1, 127.0.0.1");
    assert_eq!(heads[1].all("x-request-id"), ["from-the-client"], "kept");
    let made: BTreeSet<String> = [0, 2].iter().filter_map(|n: &usize| heads[*n].get("x-request-id")).collect();
    assert!(made.len() == 2 && made.iter().all(|id| id.len() >= 16), "made, each its own: {made:?}");
}

/// Who has proven nothing cannot say who it is, in no spelling that an application may take for the header, and not by
/// naming it as a field of this hop.
#[test]
fn a_client_certificate_cannot_be_made_up() {
    let origin = Origin::ok();
    let proxy = Proxy::front(origin.addr());
    let forged = "By=spiffe://a/b;Hash=0;URI=spiffe://a/admin";
    let fields =
        ["x-forwarded-client-cert", "X-Forwarded-Client-Cert", "X_Forwarded_Client_Cert", "x-forwarded_client-cert"]
            .map(|name| format!("{name}: {forged}\r\n"))
            .concat();
    let upgrade = "Connection: upgrade\r\nUpgrade: websocket\r\n";
    for (nth, more) in ["", "Connection: x-forwarded-client-cert\r\n", upgrade].iter().enumerate() {
        ask(&proxy, &with(&format!("{fields}{more}x-nth: {nth}\r\n")));
        let seen = origin.last().head;
        assert_eq!(seen.all("x-nth"), [nth.to_string()]);
        assert!(!seen.lines().iter().any(|(_, value)| value == forged), "{seen:?}");
    }
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// The one traceparent at the origin in its parts, held against the grammar.
fn trace_at(head: &Head) -> (String, String, String) {
    let lines = head.all("traceparent");
    assert_eq!(lines.len(), 1, "{head:?}");
    let parts: Vec<&str> = lines[0].split('-').collect();
    assert_eq!(parts.iter().map(|p| p.len()).collect::<Vec<_>>(), [2, 32, 16, 2], "{lines:?}");
    assert_eq!(parts[0], "00");
    assert!(lines[0].bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b) || b == b'-'), "{lines:?}");
    assert!(parts[1..3].iter().all(|p| p.bytes().any(|b| b != b'0')), "an id of zeros: {lines:?}");
    (parts[1].to_owned(), parts[2].to_owned(), parts[3].to_owned())
}

#[test]
fn trace_context_is_continued_or_begun() {
    let origin = Origin::ok();
    let proxy = Proxy::front(origin.addr());
    let head = |fields: &str| {
        assert_eq!(ask(&proxy, &with(fields)).status(), 200);
        origin.last().head
    };
    let parent = |text: &str| format!("traceparent: {text}\r\n");
    // Continued: same trace, and the decision of the parent.
    for flags in ["00", "01"] {
        let (trace, _, got) = trace_at(&head(&parent(&format!("00-{TRACE}-00f067aa0ba902b7-{flags}"))));
        assert_eq!((trace.as_str(), got.as_str()), (TRACE, flags));
    }
    // Versions to come are read as far as this one knows them.
    for future in [
        "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-comes",
    ] {
        assert_eq!(trace_at(&head(&parent(future))).0, TRACE, "{future}");
    }
    let malformed = [
        "".to_owned(),
        format!("ff-{TRACE}-00f067aa0ba902b7-01"),
        format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
        format!("00-{TRACE}-0000000000000000-01"),
        format!("00-{}-00f067aa0ba902b7-01", TRACE.to_uppercase()),
        format!("00-{TRACE}-00F067AA0BA902B7-01"),
        format!("00-{TRACE}-00f067aa0ba902b7"),
        format!("00-{TRACE}-00f067aa0ba902b7-1"),
        format!("00-{TRACE}-00f067aa0ba902b7-01-extra"),
        format!("00-{TRACE}-00f067aa0ba902b7-01-"),
        format!("00-{TRACE}x-00f067aa0ba902b7-01"),
        format!("0-{TRACE}-00f067aa0ba902b7-01"),
        format!("00-{TRACE}-00f067aa0ba902b7-0g"),
        format!("00_{TRACE}_00f067aa0ba902b7_01"),
        format!("cc-{TRACE}-00f067aa0ba902b7-01.what"),
    ];
    let mut begun = BTreeSet::new();
    for text in &malformed {
        let seen = head(&(parent(text) + "tracestate: a=1\r\n"));
        let (trace, _, _) = trace_at(&seen);
        assert_ne!(trace, TRACE, "`{text}` is not to be continued");
        assert!(!seen.has("tracestate"), "without its traceparent it means nothing: `{text}`");
        begun.insert(trace);
    }
    let twice = parent(&format!("00-{TRACE}-00f067aa0ba902b7-01"));
    begun.insert(trace_at(&head(&(twice.clone() + &twice.replace("-01\r", "-00\r")))).0);
    begun.insert(trace_at(&head("")).0);
    assert_eq!(begun.len(), malformed.len() + 2, "each trace that begins has an id of its own");
    assert!(!begun.contains(TRACE));
}

#[test]
fn tracestate_limits() {
    let origin = Origin::ok();
    let proxy = Proxy::front(origin.addr());
    let state = |fields: &str| {
        let request = with(&format!("traceparent: 00-{TRACE}-00f067aa0ba902b7-01\r\n{fields}"));
        assert_eq!(ask(&proxy, &request).status(), 200);
        let head = origin.last().head;
        assert_eq!(trace_at(&head).0, TRACE, "whatever the state is, the trace goes on");
        let lines = head.all("tracestate").join(",");
        lines.split(',').map(|m| m.trim().to_owned()).filter(|m| !m.is_empty()).collect::<Vec<_>>()
    };
    let list = |n: usize| (0..n).map(|i| format!("k{i}=v{i}")).collect::<Vec<_>>();
    let line = |members: &[String]| format!("tracestate: {}\r\n", members.join(","));
    assert_eq!(state("tracestate: a=1,b=2\r\n"), ["a=1", "b=2"]);
    assert_eq!(state("tracestate: a=1\r\ntracestate: b=2, c=3\r\n"), ["a=1", "b=2", "c=3"], "several lines are one");
    assert_eq!(state("tracestate: tenant@vendor=1,a-_*/z=x y\r\n"), ["tenant@vendor=1", "a-_*/z=x y"]);
    assert_eq!(state(&line(&list(32))), list(32));
    assert!(state(&line(&list(33))).len() <= 32, "at most 32 members");
    let long = vec![format!("a={}", "x".repeat(254)), format!("b={}", "y".repeat(253))];
    assert_eq!(state(&line(&long)), long, "512 characters are passed on at the least");
    for malformed in ["A=1", "a", "=1", "a=1=2", "a=1;b=2,c", &format!("a={}", "x".repeat(257))] {
        assert_eq!(state(&format!("tracestate: {malformed}\r\n")), Vec::<String>::new(), "`{malformed}`");
    }
}

#[test]
fn plain_get_is_exactly_these_bytes() {
    let origin = Origin::ok();
    let proxy = Proxy::front(origin.addr());
    let reply = get(proxy.addr(), "/x?y");
    let seen = origin.last();
    assert_eq!(seen.head.start_line(), "GET /x?y HTTP/1.1");
    assert_eq!(unexpected(&seen.head, &[]), Vec::<String>::new(), "nothing is made up: {:?}", seen.head);
    assert!(!seen.head.has("transfer-encoding") && !seen.head.has("content-length"));
    assert_eq!(seen.raw_body, b"");
    assert!(reply.head.has("content-length") && !reply.head.has("transfer-encoding"));
}

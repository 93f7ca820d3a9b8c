//! Messages that two parsers could read in two ways: bytes in, verdict, and exactly what the other side sees.
//! Whatever the verdict, an origin never gets two framings, and the next request works.

mod common;

use common::origin::Next;
use common::{Conn, Origin, Proxy, eventually, show, until};

/// What is to become of a request.
#[derive(Clone, Copy, Debug)]
enum Verdict {
    /// An error status; the origin hears nothing of it.
    Refused,
    /// The head was good, the body is not: no success, and never a whole request at the origin.
    Broken,
    /// Served with this body, or refused: both are allowed.
    Safe(&'static str),
    /// Transfer-Encoding wins, with this body, and the connection ends with the answer (RFC 9112, 6.1).
    Closing(&'static str),
}

use Verdict::{Broken, Closing, Refused, Safe};

const NEXT: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

fn post(fields: &str, body: &str) -> String {
    format!("POST /first HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n{body}")
}

fn chunked(body: &str) -> String {
    post("Transfer-Encoding: chunked", body)
}

fn refuses(reply: &str) -> bool {
    ["HTTP/1.1 4", "HTTP/1.1 501", "HTTP/1.1 505"].iter().any(|start| reply.starts_with(start))
}

/// Sends the request, an innocent-looking one right behind it, and holds every side to the verdict.
fn judge(request: &str, verdict: Verdict) {
    let origin = Origin::echo();
    let proxy = Proxy::front(origin.addr());
    let mut conn = Conn::connect(proxy.addr());
    let trailing = if matches!(verdict, Safe(_)) { "" } else { NEXT };
    conn.try_write(format!("{request}{trailing}"));
    conn.finish();
    let reply = show(&conn.read_to_end());
    let label = format!("{verdict:?} {}\n-> {reply}", show(request.as_bytes()));
    let whole: Vec<_> = origin.seen().into_iter().map(|seen| seen.message).filter(|message| message.whole).collect();
    assert!(reply.matches("HTTP/1.1 ").count() <= 1, "more than one answer: {label}");
    match verdict {
        Refused => {
            assert!(refuses(&reply), "{label}");
            assert_eq!(origin.seen().len(), 0, "{label}");
        }
        Broken => {
            assert!(reply.is_empty() || reply.starts_with("HTTP/1.1 4"), "{label}");
            assert_eq!(whole.len(), 0, "{label}");
        }
        Safe(body) if reply.starts_with("HTTP/1.1 200 ") => {
            assert_eq!(whole.len(), 1, "{label}");
            assert_eq!(show(&whole[0].body), body, "{label}");
        }
        Safe(_) => {
            assert!(refuses(&reply), "{label}");
            assert_eq!(whole.len(), 0, "{label}");
        }
        Closing(body) => {
            assert!(reply.starts_with("HTTP/1.1 200 "), "{label}");
            assert_eq!(whole.len(), 1, "what followed was on a connection that is not to be trusted: {label}");
            assert_eq!(show(&whole[0].body), body, "{label}");
        }
    }
    for seen in origin.seen() {
        let head = &seen.message.head;
        assert!(!(head.has("content-length") && head.has("transfer-encoding")), "two framings: {label}\n{head:?}");
        assert!(head.all("content-length").len() <= 1 && head.all("transfer-encoding").len() <= 1, "{label}\n{head:?}");
        let text = head.text().replace("\r\n", "");
        assert!(!text.contains(['\r', '\n', '\0']), "control characters: {label}\n{head:?}");
        assert_ne!(head.start_line(), "GET /smuggled HTTP/1.1", "{label}");
    }
    proxy.assert_serves();
}

#[test]
fn both_framings() {
    let body = "3\r\nabc\r\n0\r\n\r\n";
    judge(&post("Content-Length: 3\r\nTransfer-Encoding: chunked", body), Closing("abc"));
    judge(&post("Transfer-Encoding: chunked\r\nContent-Length: 3", body), Closing("abc"));
    judge(&post("Content-Length: 0\r\nTransfer-Encoding: chunked", body), Closing("abc"));
    judge(&post("Content-Length: 13\r\nTransfer-Encoding: chunked", body), Closing("abc"));
    judge(&post("Content-Length: 3\r\nTransfer-Encoding: identity", "abc"), Refused);
    judge(&post("Content-Length: 3\r\nTransfer-Encoding: xchunked", "abc"), Refused);
    judge(&post("Content-Length: 3\r\nContent-Length: 4\r\nTransfer-Encoding: chunked", body), Safe("abc"));
}

#[test]
fn content_lengths() {
    let table = [
        ("Content-Length: 3\r\nContent-Length: 3", Safe("abc")),
        ("Content-Length: 3, 3", Safe("abc")),
        ("Content-Length: 003", Safe("abc")),
        ("Content-Length: 3\r\nContent-Length: 4", Refused),
        ("Content-Length: 4\r\nContent-Length: 3", Refused),
        ("Content-Length: 3, 4", Refused),
        ("Content-Length: -1", Refused),
        ("Content-Length: +3", Refused),
        ("Content-Length: 0x3", Refused),
        ("Content-Length: 3 3", Refused),
        ("Content-Length: 3.0", Refused),
        ("Content-Length:", Refused),
        ("Content-Length: ,", Refused),
        ("Content-Length: 3;", Refused),
        ("Content-Length: \u{b2}", Refused),
        ("Content-Length: 18446744073709551616", Refused),
        ("Content-Length: 99999999999999999999999999", Refused),
    ];
    for (fields, verdict) in table {
        judge(&post(fields, "abc"), verdict);
    }
}

#[test]
fn transfer_encodings() {
    let body = "3\r\nabc\r\n0\r\n\r\n";
    let table = [
        ("Transfer-Encoding: chunked, identity", Refused),
        ("Transfer-Encoding: chunked, gzip", Refused),
        ("Transfer-Encoding: xchunked", Refused),
        ("Transfer-Encoding: identity", Refused),
        ("Transfer-Encoding: gzip", Refused),
        // A coding that we neither undo nor may pass on: RFC 9112, 6.1 has 501 for it.
        ("Transfer-Encoding: gzip, chunked", Refused),
        ("Transfer-Encoding: \"chunked\"", Refused),
        ("Transfer-Encoding: chunked;q=1", Refused),
        ("Transfer-Encoding:", Refused),
        ("Transfer-Encoding: \u{b}chunked", Refused),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", Refused),
        ("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked", Refused),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", Safe("abc")),
        ("Transfer-Encoding: CHUNKED", Safe("abc")),
        ("Transfer-Encoding: ,chunked,", Safe("abc")),
    ];
    for (fields, verdict) in table {
        judge(&post(fields, body), verdict);
    }
    let old = "POST /first HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n";
    judge(&format!("{old}{body}"), Refused);
}

#[test]
fn lines_and_names() {
    let get = |fields: &str| format!("GET /first HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
    let table = [
        (get("X-A: 1\r\n folded"), Refused),
        (get("X-A: 1\r\n\tfolded"), Refused),
        (post("Transfer-Encoding:\r\n chunked", "3\r\nabc\r\n0\r\n\r\n"), Refused),
        (post("Content-Length : 3", "abc"), Refused),
        (post("Content-Length\t: 3", "abc"), Refused),
        (post("Transfer-Encoding : chunked", "0\r\n\r\n"), Refused),
        ("GET /first HTTP/1.1\r\n Host: a\r\n\r\n".to_owned(), Refused),
        (get("X-A: 1\0"), Refused),
        (get("X-A\0: 1"), Refused),
        (get("X-A: 1\rX-B: 2"), Refused),
        (get("X A: 1"), Refused),
        (get(": 1"), Refused),
        (get("no colon"), Refused),
        (get("X\u{e9}: 1"), Refused),
        ("GET /fi\0rst HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), Refused),
        ("GET /fi rst HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), Refused),
        ("GET /first HTTP/1.1 HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), Refused),
        ("GET /first HTTP/1.2\r\nHost: a\r\n\r\n".to_owned(), Safe("")),
        ("GET /first HTTP/2.0\r\nHost: a\r\n\r\n".to_owned(), Refused),
        ("GET /first\r\nHost: a\r\n\r\n".to_owned(), Refused),
        ("G\"ET /first HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), Refused),
        // RFC 9112, 2.2: a lone LF may end a line; what goes on is CRLF (`judge` looks), or nothing.
        ("GET /first HTTP/1.1\nHost: a\n\n".to_owned(), Safe("")),
        (post("X-A: 1\nContent-Length: 3", "abc"), Safe("abc")),
        (post("Transfer_Encoding: chunked\r\nContent-Length: 3", "abc"), Safe("abc")),
        ("\r\nGET /first HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), Safe("")),
    ];
    for (request, verdict) in table {
        judge(&request, verdict);
    }
}

#[test]
fn chunks() {
    let table = [
        (chunked("zz\r\nabc\r\n0\r\n\r\n"), Broken),
        (chunked("\r\nabc\r\n0\r\n\r\n"), Broken),
        (chunked("-3\r\nabc\r\n0\r\n\r\n"), Broken),
        (chunked("+3\r\nabc\r\n0\r\n\r\n"), Broken),
        (chunked("0x3\r\nabc\r\n0\r\n\r\n"), Broken),
        (chunked("3\r\nabcX0\r\n\r\n"), Broken),
        (chunked("3\r\nabcdef\r\n0\r\n\r\n"), Broken),
        (chunked("10000000000000003\r\nabc\r\n0\r\n\r\n"), Broken),
        (chunked("fffffffffffffffff\r\nabc\r\n0\r\n\r\n"), Broken),
        (chunked("3\nabc\n0\n\n"), Broken),
        (chunked("3\r\nabc\r\n0\r\n\rX"), Broken),
        (chunked("3;a\nabc\r\n0\r\n\r\n"), Broken),
        (chunked(&format!("3;{}\r\nabc\r\n0\r\n\r\n", "e".repeat(100_000))), Broken),
        (chunked(&format!("3\r\nabc\r\n0\r\nX-T: {}\r\n\r\n", "t".repeat(200_000))), Broken),
        (chunked("3;a=b;c=\"d\"\r\nabc\r\n0;e\r\n\r\n"), Safe("abc")),
        (chunked("0003\r\nabc\r\n000\r\n\r\n"), Safe("abc")),
    ];
    for (request, verdict) in table {
        judge(&request, verdict);
    }
}

const EVIL: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";

/// An origin that answers these bytes to `/first`, and behaves to everyone else.
fn answering(reply: impl Into<Vec<u8>>) -> Origin {
    let reply = reply.into();
    Origin::start(move |seen, conn| {
        let first = seen.message.head.start_line().contains(" /first ");
        conn.try_write(if first { &reply[..] } else { b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" });
        Next::Keep
    })
}

/// Row 3: what hyper would forward with both.
#[test]
fn response_cl_te() {
    let chunks = "5\r\nhello\r\n0\r\n\r\n";
    let heads = [
        "Content-Length: 3\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 3",
        "Content-Length: 100\r\nTransfer-Encoding: chunked",
    ];
    for head in heads {
        let origin = answering(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{chunks}"));
        let proxy = Proxy::front(origin.addr());
        let mut conn = Conn::connect(proxy.addr());
        conn.write("GET /first HTTP/1.1\r\nHost: a\r\n\r\n");
        let reply = conn.response("GET");
        if reply.status() != 502 {
            assert_eq!((reply.status(), reply.text().as_str(), reply.whole), (200, "hello", true), "{head}");
            assert!(!(reply.head.has("content-length") && reply.head.has("transfer-encoding")), "{:?}", reply.head);
        }
        proxy.assert_serves();
        assert_eq!(origin.seen()[1].connection, 1, "a connection that contradicted itself is not used again");
    }
}

#[test]
fn responses_that_are_refused() {
    let table = [
        "Content-Length: 3\r\nContent-Length: 4",
        "Content-Length: 3, 4",
        "Content-Length: -1",
        "Content-Length: +3",
        "Content-Length: abc",
        "Content-Length: 18446744073709551616",
        "Content-Length: 3\r\nX-A: 1\0",
        "Content-Length: 3\r\nX A: 1",
        "Content-Length: 3\r\nno colon",
    ];
    for fields in table {
        let origin = answering(format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\nabc"));
        let proxy = Proxy::front(origin.addr());
        let reply = common::get(proxy.addr(), "/first");
        assert_eq!(reply.status(), 502, "{fields}");
        proxy.await_reason("upstream_protocol", 502);
        proxy.assert_serves();
    }
}

/// Answers that are repaired or refused, and either way say one thing only.
#[test]
fn responses_that_are_made_plain() {
    let table =
        ["Content-Length: 3\r\nContent-Length: 3", "Content-Length: 3\r\nX-A: 1\r\n folded", "Content-Length : 3"];
    for fields in table {
        let origin = answering(format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\nabc"));
        let proxy = Proxy::front(origin.addr());
        let reply = common::get(proxy.addr(), "/first");
        if reply.status() != 502 {
            assert_eq!((reply.status(), reply.text().as_str()), (200, "abc"), "{fields}");
            assert!(reply.head.all("content-length").len() <= 1, "{:?}", reply.head);
            assert!(!reply.head.text().contains("\r\n "), "a fold was passed on: {:?}", reply.head);
        }
        proxy.assert_serves();
    }
}

/// Bytes behind an answer are nobody's answer: the next request, of another client, must not get them.
#[test]
fn bytes_after_an_answer_are_nobodys() {
    let table = [
        ("GET", format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok{EVIL}")),
        ("GET", format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{EVIL}")),
        ("GET", format!("HTTP/1.1 204 No Content\r\nContent-Length: 42\r\n\r\n{EVIL}")),
        ("GET", format!("HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n{EVIL}")),
        ("GET", format!("HTTP/1.1 304 Not Modified\r\nContent-Length: 42\r\n\r\n{EVIL}")),
        ("HEAD", format!("HTTP/1.1 200 OK\r\nContent-Length: 42\r\n\r\n{EVIL}")),
        ("HEAD", format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{EVIL}")),
    ];
    for (method, bytes) in table {
        let origin = answering(bytes.clone());
        let proxy = Proxy::front(origin.addr());
        let mut conn = Conn::connect(proxy.addr());
        conn.write(format!("{method} /first HTTP/1.1\r\nHost: a\r\n\r\n"));
        let status = conn.response(method).status();
        assert!(status < 500, "the answer itself was good: {status} {bytes}");
        for _ in 0..2 {
            conn.write("GET /second HTTP/1.1\r\nHost: a\r\n\r\n");
            let second = conn.response("GET");
            assert_eq!((second.status(), second.text().as_str()), (200, "ok"), "after {method} {bytes}");
        }
        until("the poisoned connection is closed", common::SOON, || origin.open() == 1);
        assert!(origin.seen()[1..].iter().all(|seen| seen.connection != 0), "it was used again: {bytes}");
    }
}

/// A body that breaks on the way is cut for the client too, never ended as if it were whole.
#[test]
fn broken_answers_are_cut() {
    let table = [
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhelloX",
        "Content-Length: 10\r\n\r\nhello",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ];
    for bytes in table {
        let reply = format!("HTTP/1.1 200 OK\r\n{bytes}");
        let origin = Origin::start(move |seen, conn| {
            let first = seen.message.head.start_line().contains(" /first ");
            conn.try_write(if first { &reply } else { "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" });
            Next::Close
        });
        let proxy = Proxy::front(origin.addr());
        let mut conn = Conn::connect(proxy.addr());
        conn.write("GET /first HTTP/1.1\r\nHost: a\r\n\r\n");
        let head = conn.head();
        // The break may be noticed before the head has left.
        if head.status() == 200 {
            assert!(!conn.body(head).whole, "{bytes}");
        } else {
            assert_eq!(head.status(), 502, "{bytes}");
        }
        eventually("the break is counted", common::SOON, || {
            let count = |reason| proxy.metric("http_requests_total", &[("reason", reason)]);
            (count("upstream_reset") + count("upstream_protocol") >= 1.0).then_some(())
        });
        proxy.assert_serves();
    }
}

use http::{Request, Response};
use proptest::prelude::*;

use super::*;

fn parts(method: &str, uri: &str, version: Version, lines: &[(&str, &str)]) -> request::Parts {
    let mut request = Request::builder().method(method).uri(uri).version(version);
    for (name, value) in lines {
        request = request.header(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    request.body(()).unwrap().into_parts().0
}

fn host(uri: &str, version: Version, lines: &[(&str, &str)]) -> Result<(String, Option<u16>), Reason> {
    check(&parts("GET", uri, version, lines)).map(|authority| (authority.host.into_owned(), authority.port))
}

const BAD: Result<(String, Option<u16>), Reason> = Err(Reason::BadRequest);
const H10: Version = Version::HTTP_10;
const H11: Version = Version::HTTP_11;
const H2: Version = Version::HTTP_2;

#[test]
fn hosts() {
    let table = [
        ("a.example", "a.example", None),
        ("A.Example.:8080", "a.example", Some(8080)),
        ("a:", "a", None),
        ("under_score", "under_score", None),
        ("[::1]", "::1", None),
        ("[2001:DB8::1]:81", "2001:db8::1", Some(81)),
        ("10.0.0.1:1", "10.0.0.1", Some(1)),
    ];
    for (line, name, port) in table {
        assert_eq!(host("/", H11, &[("host", line)]), Ok((name.to_owned(), port)), "{line}");
    }
    let bad = [
        "",
        ".",
        ":80",
        "a:b",
        "a:1:2",
        "a:65536",
        "a:+1",
        "user@a",
        "a b",
        "a,b",
        "a/b",
        "a%41",
        "[::1",
        "[]",
        "[x]",
        "[::1]80",
        "[fe80::1%25eth0]",
        "\u{e9}",
    ];
    for line in bad {
        assert_eq!(host("/", H11, &[("host", line)]), BAD, "{line}");
    }
}

mod authority {
    use super::*;

    #[test]
    fn conflict() {
        for (uri, version, line) in [
            ("http://a/", H11, "b"),
            ("http://a:81/", H11, "a"),
            ("https://a/", H11, "a:80"),
            ("http://a/", H2, "b"),
            ("http://a/", H10, "b"),
        ] {
            assert_eq!(host(uri, version, &[("host", line)]), BAD, "{uri} {line}");
        }
        let same = [("http://A.example:80/", "a.EXAMPLE"), ("https://a.example/", "a.example:443")];
        for (uri, line) in same {
            assert_eq!(host(uri, H11, &[("host", line)]).unwrap().0, "a.example");
        }
    }

    #[test]
    fn missing_or_twice() {
        assert_eq!(host("/", H11, &[]), BAD);
        assert_eq!(host("http://a/", H11, &[]), BAD);
        assert_eq!(host("/", H2, &[]), BAD);
        assert_eq!(host("/", H10, &[]), Ok((String::new(), None)));
        assert_eq!(host("http://a/", H10, &[]).unwrap().0, "a");
        assert_eq!(host("http://a/", H2, &[]).unwrap().0, "a");
        assert_eq!(host("/", H2, &[("host", "a")]).unwrap().0, "a");
        for version in [H10, H11, H2] {
            assert_eq!(host("/", version, &[("host", "a"), ("host", "a")]), BAD);
        }
        assert_eq!(host("http://user:secret@a/", H2, &[]), BAD);
    }
}

#[test]
fn targets() {
    let verdict = |method, uri| check(&parts(method, uri, H11, &[("host", "a")])).err();
    assert_eq!(verdict("OPTIONS", "*"), None);
    assert_eq!(verdict("GET", "*"), Some(Reason::BadRequest));
    assert_eq!(verdict("CONNECT", "a:443"), Some(Reason::Unsupported));
    assert_eq!(verdict("GET", "a:80"), Some(Reason::BadRequest));
    assert_eq!(verdict("GET", "ftp://a/"), Some(Reason::BadRequest));
    assert_eq!(verdict("GET", "https://a:80/"), Some(Reason::BadRequest));
}

#[test]
fn lengths_agree() {
    let verdict = |lines: &[(&str, &str)]| {
        let lines: Vec<_> = [("host", "a")].iter().chain(lines).copied().collect();
        check(&parts("POST", "/", H11, &lines)).err()
    };
    assert_eq!(verdict(&[("content-length", "5")]), None);
    assert_eq!(verdict(&[("content-length", "5"), ("content-length", "5, 5")]), None);
    let bad: [&[(&str, &str)]; 6] = [
        &[("content-length", "5"), ("content-length", "6")],
        &[("content-length", "5, 6")],
        &[("content-length", "")],
        &[("content-length", "+5")],
        &[("content-length", "99999999999999999999")],
        &[("content-length", "5"), ("transfer-encoding", "chunked")],
    ];
    for lines in bad {
        assert_eq!(verdict(lines), Some(Reason::BadRequest), "{lines:?}");
    }
}

fn out(mut parts: request::Parts, version: Version, rewrite: Option<&str>) -> request::Parts {
    let hop = hop::strip_request(parts.version, &mut parts.headers);
    let rewrite = rewrite.map(|host| HeaderValue::from_str(host).unwrap());
    let fallback = HeaderValue::from_static("10.0.0.9:80");
    outgoing(&mut parts, Outgoing { version, host: rewrite.as_ref(), fallback: &fallback, hop: &hop, secure: false })
        .unwrap();
    parts
}

#[test]
fn downgrade() {
    let lines = [("cookie", "a=1"), ("cookie", "b=2"), ("te", "trailers"), ("content-length", "1")];
    let parts = out(parts("POST", "https://a.example:81/x?y", H2, &lines), H11, None);
    assert_eq!(parts.version, H11);
    assert_eq!(parts.uri, "/x?y");
    assert_eq!(parts.headers["host"], "a.example:81");
    assert_eq!(parts.headers.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1; b=2"]);
    assert_eq!(
        (&parts.headers["te"], &parts.headers["connection"]),
        (&"trailers".parse().unwrap(), &"te".parse().unwrap())
    );
}

#[test]
fn upgrade_transport() {
    let lines = [("host", "a.example:81"), ("connection", "x-gone, close"), ("x-gone", "1"), ("te", "gzip")];
    let parts = out(parts("GET", "/x?y", H11, &lines), H2, None);
    assert_eq!(parts.version, H2);
    assert_eq!(parts.uri, "http://a.example:81/x?y");
    assert!(parts.headers.is_empty());
}

#[test]
fn same_version_changes_little() {
    let parts1 = out(parts("GET", "/x", H11, &[("host", "A"), ("accept", "*/*")]), H11, None);
    assert_eq!((parts1.uri.to_string().as_str(), parts1.headers.len()), ("/x", 2));
    assert_eq!(parts1.headers["host"], "A");
    let parts2 = out(parts("GET", "https://a/x", H2, &[("content-type", "application/grpc")]), H2, None);
    assert_eq!(parts2.uri, "http://a/x");
    assert_eq!(parts2.headers["te"], "trailers");
    assert!(!parts2.headers.contains_key("connection"));
}

#[test]
fn host_is_rewritten_or_made_up() {
    for version in [H11, H2] {
        let rewritten = out(parts("GET", "http://a/x", H11, &[("host", "a")]), version, Some("b:8"));
        let bare = out(parts("GET", "/x", H10, &[]), version, None);
        if version == H2 {
            assert_eq!(
                (rewritten.uri.to_string().as_str(), bare.uri.to_string().as_str()),
                ("http://b:8/x", "http://10.0.0.9:80/x")
            );
            assert!(rewritten.headers.is_empty() && bare.headers.is_empty());
        } else {
            assert_eq!((rewritten.uri.path(), bare.uri.path()), ("/x", "/x"));
            assert_eq!(
                (&rewritten.headers["host"], &bare.headers["host"]),
                (&"b:8".parse().unwrap(), &"10.0.0.9:80".parse().unwrap())
            );
        }
    }
    let all = out(parts("OPTIONS", "*", H11, &[("host", "a")]), H11, None);
    assert_eq!(all.uri, "*");
}

#[test]
fn upgrades_are_said_anew() {
    let lines = [("host", "a"), ("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")];
    let parts = out(parts("GET", "/", H11, &lines), H11, None);
    assert_eq!(
        (&parts.headers["connection"], &parts.headers["upgrade"]),
        (&"upgrade".parse().unwrap(), &"websocket".parse().unwrap())
    );
}

#[test]
fn one_length_leaves() {
    let lines = [("host", "a"), ("content-length", "5"), ("content-length", "5")];
    let parts = out(parts("POST", "/", H11, &lines), H11, None);
    assert_eq!(parts.headers.get_all("content-length").iter().collect::<Vec<_>>(), ["5"]);
}

#[test]
fn paths_are_replaced() {
    for (before, after) in [("/a?q=1", "/b%2F?q=1"), ("http://h/a", "http://h/b%2F"), ("/a", "/b%2F")] {
        let mut uri: Uri = before.parse().unwrap();
        set_path(&mut uri, "/b%2F").unwrap();
        assert_eq!(uri, after);
    }
    assert_eq!(set_path(&mut Uri::from_static("/a"), "/b c"), Err(Reason::BadRequest));
}

fn answer(version: Version, status: u16, lines: &[(&str, &str)]) -> response::Parts {
    let mut response = Response::builder().version(version).status(status);
    for (name, value) in lines {
        response = response.header(*name, *value);
    }
    response.body(()).unwrap().into_parts().0
}

#[test]
fn responses() {
    let both = [("content-length", "5"), ("transfer-encoding", "chunked")];
    assert_eq!(check_response(&mut answer(H11, 200, &both), H11), Err(Reason::UpstreamProtocol));
    let two = [("content-length", "5"), ("content-length", "6")];
    assert_eq!(check_response(&mut answer(H11, 200, &two), H11), Err(Reason::UpstreamProtocol));

    let mut old = answer(H10, 200, &[("connection", "close"), ("content-length", "5"), ("server", "x")]);
    assert!(check_response(&mut old, H10).unwrap().close);
    assert_eq!((old.version, old.headers.len()), (H11, 2));

    let mut switch = answer(H11, 101, &[("connection", "Upgrade"), ("upgrade", "websocket")]);
    assert_eq!(check_response(&mut switch, H11).unwrap().upgrade.unwrap(), "websocket");

    let mut empty = answer(H11, 204, &[("content-length", "0")]);
    check_response(&mut empty, H2).unwrap();
    assert_eq!((empty.version, empty.headers.len()), (H2, 0));

    let mut unchanged = answer(H11, 304, &[("content-length", "7")]);
    check_response(&mut unchanged, H11).unwrap();
    assert_eq!(unchanged.headers["content-length"], "7");
}

#[test]
fn framing_without_body() {
    assert!(bodiless(&Method::HEAD, StatusCode::OK));
    for status in [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED, StatusCode::EARLY_HINTS] {
        assert!(bodiless(&Method::GET, status));
    }
    assert!(!bodiless(&Method::GET, StatusCode::RESET_CONTENT));
}

#[test]
fn trailers_are_cleaned() {
    let kept = ["grpc-status", "grpc-message", "grpc-status-details-bin", "x-sum", "server-timing", "digest"];
    let gone = [
        "transfer-encoding",
        "content-length",
        "content-encoding",
        "host",
        "te",
        "authorization",
        "set-cookie",
        "x-forwarded-for",
        "x_forwarded_client_cert",
    ];
    let mut trailers: HeaderMap = kept
        .iter()
        .chain(&gone)
        .map(|name| (name.parse::<http::HeaderName>().unwrap(), HeaderValue::from_static("0")))
        .collect();
    clean_trailers(&mut trailers);
    assert_eq!(trailers.len(), kept.len());
    assert!(kept.iter().all(|name| trailers.contains_key(*name)));
}

proptest! {
    #[test]
    fn any_host_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..24), length in "[0-9, +]{0,12}") {
        let mut parts = parts("GET", "/", H11, &[("content-length", &length)]);
        if let Ok(value) = HeaderValue::from_bytes(&bytes) {
            parts.headers.insert(HOST, value);
        }
        let accepted = check(&parts).is_ok();
        let hop = hop::strip_request(H11, &mut parts.headers);
        let fallback = HeaderValue::from_static("a");
        for version in [H11, H2] {
            let how = Outgoing { version, host: None, fallback: &fallback, hop: &hop, secure: false };
            let sent = outgoing(&mut parts.clone(), how).is_ok();
            prop_assert!(sent || !accepted);
        }
    }
}

//! What HTTP must know of gRPC: which requests are, how they end, how long they may take, and how a proxy refuses
//! one (gRPC over HTTP/2, `PROTOCOL-HTTP2.md`).

use std::time::Duration;

use http::header::{CONTENT_TYPE, TRAILER};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, response};

pub const STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
pub const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The code for what nobody can name.
const UNKNOWN: u8 = 2;

/// `application/grpc`, alone, with a `+format` or with parameters; not gRPC-Web, which is plain HTTP to us.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    const TYPE: &[u8] = b"application/grpc";
    let Some((head, rest)) = headers.get(CONTENT_TYPE).and_then(|kind| kind.as_bytes().split_at_checked(TYPE.len()))
    else {
        return false;
    };
    head.eq_ignore_ascii_case(TYPE) && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
}

/// Whether the answer to a request has to be one of gRPC. Not that to CONNECT, where a status 200 opens a tunnel.
pub fn is_call(method: &Method, headers: &HeaderMap) -> bool {
    is_grpc(headers) && method != Method::CONNECT
}

/// How the call ended, where these headers or trailers say so. A code that gRPC does not define is `UNKNOWN`.
pub fn status(headers: &HeaderMap) -> Option<u8> {
    let value = headers.get(STATUS)?;
    Some(match *value.as_bytes() {
        [ones @ b'0'..=b'9'] => ones - b'0',
        [b'1', ones @ b'0'..=b'6'] => 10 + ones - b'0',
        _ => UNKNOWN,
    })
}

/// The head of an answer that ends the call at once.
pub fn trailers_only(code: u8, message: &str) -> Response<()> {
    let mut response = Response::new(());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    end(response.headers_mut(), code, message);
    response
}

/// The trailers that end a call after the head of its answer.
pub fn trailers(code: u8, message: &str) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    end(&mut trailers, code, message);
    trailers
}

/// Makes the head of a plain answer one of gRPC that ends the call at once. What described the body goes with it;
/// all else stays, as metadata. A `grpc-status` that is there holds, else the status of HTTP says it.
pub fn translate(parts: &mut response::Parts, message: &str) {
    let code = status(&parts.headers).unwrap_or(code(parts.status));
    parts.status = StatusCode::OK;
    let of_body = |name: &&HeaderName| name.as_str().starts_with("content-") || **name == TRAILER;
    while let Some(name) = parts.headers.keys().find(of_body).cloned() {
        parts.headers.remove(name);
    }
    parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    end(&mut parts.headers, code, message);
}

/// What a status of HTTP means in gRPC (`doc/http-grpc-status-mapping.md`).
pub const fn code(status: StatusCode) -> u8 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => UNKNOWN,
    }
}

fn end(headers: &mut HeaderMap, code: u8, message: &str) {
    headers.insert(STATUS, HeaderValue::from(u16::from(code)));
    if let Ok(value) = HeaderValue::from_maybe_shared(bytes::Bytes::from(encode_message(message))) {
        headers.insert(MESSAGE, value);
    }
}

/// Percent-encodes what `grpc-message` cannot hold.
fn encode_message(message: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len());
    for byte in message.bytes() {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            out.push(byte);
        } else {
            let [high, low] = super::hex(byte);
            out.extend([b'%', high.to_ascii_uppercase(), low.to_ascii_uppercase()]);
        }
    }
    out
}

/// The service and the method of `/package.Service/Method`. Only names that protobuf allows are told apart, so that
/// nothing else reaches a match or a log as if it were one.
pub fn method(path: &str) -> Option<(&str, &str)> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    let name = |text: &str, more: &[u8]| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || more.contains(&byte))
    };
    (name(service, b"_.") && name(method, b"_")).then_some((service, method))
}

/// The time that the client gives the call, where it gives a valid one.
pub fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let (unit, digits) = headers.get(TIMEOUT)?.as_bytes().split_last()?;
    if !(1..=8).contains(&digits.len()) {
        return None;
    }
    let amount = digits
        .iter()
        .try_fold(0u64, |amount, digit| digit.is_ascii_digit().then(|| amount * 10 + u64::from(digit - b'0')))?;
    Some(match unit {
        b'H' => Duration::from_secs(amount * 3600),
        b'M' => Duration::from_secs(amount * 60),
        b'S' => Duration::from_secs(amount),
        b'm' => Duration::from_millis(amount),
        b'u' => Duration::from_micros(amount),
        b'n' => Duration::from_nanos(amount),
        _ => return None,
    })
}

/// `grpc-timeout` for a time that is left: in milliseconds as long as they have no more than eight digits.
pub fn timeout_value(left: Duration) -> HeaderValue {
    let millis = left.as_millis().max(1);
    let text = if millis < 100_000_000 { format!("{millis}m") } else { format!("{}S", left.as_secs().min(99_999_999)) };
    // Digits and a letter are a valid value.
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("1S"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn map(name: HeaderName, value: &str) -> HeaderMap {
        [(name, HeaderValue::from_bytes(value.as_bytes()).unwrap())].into_iter().collect()
    }

    #[test]
    fn content_types() {
        for kind in ["application/grpc", "application/grpc+proto", "Application/gRPC;v=1", "application/grpc ; a=b"] {
            assert!(is_grpc(&map(CONTENT_TYPE, kind)), "{kind}");
        }
        for kind in ["application/grpc-web", "application/grpc-web+proto", "application/grp", "application/grpcx", ""] {
            assert!(!is_grpc(&map(CONTENT_TYPE, kind)), "{kind}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }

    #[test]
    fn statuses() {
        assert_eq!(status(&HeaderMap::new()), None);
        let table = [("0", 0), ("7", 7), ("10", 10), ("16", 16), ("17", 2), ("", 2), ("00", 2), ("-1", 2), ("x", 2)];
        for (text, code) in table {
            assert_eq!(status(&map(STATUS, text)), Some(code), "{text}");
        }
    }

    #[test]
    fn refusals_are_whole() {
        let response = trailers_only(14, "no 100%\u{e9}\n");
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "application/grpc");
        assert_eq!(response.headers()["grpc-status"], "14");
        assert_eq!(response.headers()["grpc-message"], "no 100%25%C3%A9%0A");
    }

    #[test]
    fn plain_answers_are_translated() {
        let translated = |status: u16, lines: &[(&str, &str)]| {
            let mut response = Response::builder().status(status);
            for (name, value) in lines {
                response = response.header(*name, *value);
            }
            let (mut parts, ()) = response.body(()).unwrap().into_parts();
            translate(&mut parts, "why");
            (parts.status.as_u16(), super::status(&parts.headers).unwrap(), parts.headers)
        };
        let table = [(400, 13), (401, 16), (403, 7), (404, 12), (429, 14), (502, 14), (503, 14), (504, 14)];
        let others = [200, 204, 302, 304, 418, 500, 501].map(|status| (status, 2));
        for (status, code) in table.into_iter().chain(others) {
            let (now, told, _) = translated(status, &[]);
            assert_eq!((now, told), (200, code), "{status}");
        }
        let lines = [
            ("content-type", "text/html"),
            ("content-length", "12"),
            ("content-encoding", "gzip"),
            ("trailer", "x"),
            ("retry-after", "3"),
        ];
        let (_, _, headers) = translated(503, &lines);
        assert_eq!((headers.len(), &headers["retry-after"]), (4, &HeaderValue::from_static("3")), "{headers:?}");
        assert_eq!(
            (&headers["content-type"], &headers["grpc-message"]),
            (&"application/grpc".parse().unwrap(), &"why".parse().unwrap())
        );
        assert_eq!(translated(503, &[("grpc-status", "5")]).1, 5, "its own word");
    }

    #[test]
    fn connect_is_no_call() {
        let headers = map(CONTENT_TYPE, "application/grpc");
        assert!(is_call(&Method::POST, &headers) && !is_call(&Method::CONNECT, &headers));
        assert!(!is_call(&Method::POST, &HeaderMap::new()));
    }

    #[test]
    fn methods() {
        assert_eq!(method("/a.b.C/Do_It"), Some(("a.b.C", "Do_It")));
        for path in ["", "/", "/a", "/a/", "//b", "/a/b/c", "a/b", "/a b/c", "/a/%41", "/a/b.c", "*"] {
            assert_eq!(method(path), None, "{path}");
        }
    }

    #[test]
    fn timeouts() {
        let get = |text: &str| timeout(&map(TIMEOUT, text));
        assert_eq!(get("1H"), Some(Duration::from_secs(3600)));
        assert_eq!(get("100m"), Some(Duration::from_millis(100)));
        assert_eq!(get("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        assert_eq!((get("3u"), get("3n")), (Some(Duration::from_micros(3)), Some(Duration::from_nanos(3))));
        for bad in ["", "S", "1", "1s", "123456789S", "-1S", "1.5S", "1 S"] {
            assert_eq!(get(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..32), text in any::<String>()) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let headers: HeaderMap =
                    [(STATUS, value.clone()), (TIMEOUT, value.clone()), (CONTENT_TYPE, value)].into_iter().collect();
                let _ = (status(&headers), timeout(&headers), is_grpc(&headers));
            }
            prop_assert!(trailers_only(2, &text).headers().contains_key(MESSAGE));
            let _ = method(&text);
        }
    }
}

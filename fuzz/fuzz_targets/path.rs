//! Paths, queries, cookies: what is matched is plain, and reading it again changes nothing.
#![no_main]

use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use outrigger::wire::path::{cookies, normalise, query_values};

fuzz_target!(|text: &str| {
    if let Ok(path) = normalise(text) {
        let plain = &*path.text;
        assert!(plain == "*" || plain.starts_with('/'), "{plain:?}");
        assert!(!plain.split('/').any(|segment| matches!(segment, "." | "..")), "{plain:?}");
        assert!(!plain.bytes().any(|byte| byte <= b' ' || byte == 0x7f), "{plain:?}");
        let again = normalise(plain).expect("a path that was read once");
        assert!(again.text == plain && !again.resolved, "{plain:?} reads as {:?}", again.text);
    }
    let name = text.split(['=', '&']).next().unwrap_or_default();
    assert!(query_values(text, name).all(|value| value.len() <= text.len() * 3));
    if let Ok(value) = HeaderValue::from_str(text) {
        let headers = HeaderMap::from_iter([(http::header::COOKIE, value)]);
        assert!(cookies(&headers).all(|(name, _)| !name.contains(';')));
    }
});

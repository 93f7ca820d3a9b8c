//! Hop-by-hop fields: none is left, and a second look finds nothing more.
#![no_main]

use http::Version;
use libfuzzer_sys::fuzz_target;
use outrigger::wire::hop::{Hop, strip_request, strip_response};

const NEVER: [&str; 7] =
    ["connection", "proxy-connection", "keep-alive", "te", "transfer-encoding", "upgrade", "http2-settings"];

fuzz_target!(|bytes: &[u8]| {
    let Some((&selector, bytes)) = bytes.split_first() else { return };
    let version = if selector & 1 == 0 { Version::HTTP_11 } else { Version::HTTP_2 };
    let mut headers = outrigger_fuzz::headers(bytes);
    let before = headers.clone();
    let hop =
        if selector & 2 == 0 { strip_request(version, &mut headers) } else { strip_response(version, &mut headers) };
    assert!(version == Version::HTTP_11 || hop.upgrade.is_none(), "an upgrade of HTTP/2");
    for name in NEVER {
        assert!(!headers.contains_key(name), "{name} is left");
    }
    for (name, value) in &headers {
        assert!(before.get_all(name).iter().any(|known| known == value), "{name} was made up");
    }
    assert_eq!(strip_response(version, &mut headers), Hop::default());
});

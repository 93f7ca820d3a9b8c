//! What several targets need.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Header lines, `name: value`, as many as are well-formed.
pub fn headers(bytes: &[u8]) -> HeaderMap {
    let lines = bytes.split(|&byte| byte == b'\n').filter_map(|line| {
        let at = line.iter().position(|&byte| byte == b':')?;
        let name = HeaderName::from_bytes(&line[..at]).ok()?;
        Some((name, HeaderValue::from_bytes(line[at + 1..].trim_ascii()).ok()?))
    });
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(name, value);
    }
    headers
}

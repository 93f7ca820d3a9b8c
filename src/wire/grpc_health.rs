//! The one call of `grpc.health.v1` that a health check makes (grpc `src/proto/grpc/health/v1/health.proto`), in the
//! encoding of protobuf (protobuf.dev, "Encoding"), each message behind its prefix of five bytes (`PROTOCOL-HTTP2.md`).
//!
//! `HealthCheckRequest { string service = 1; }`, `HealthCheckResponse { ServingStatus status = 1; }`

pub const METHOD: &str = "/grpc.health.v1.Health/Check";
/// `ServingStatus.SERVING`.
pub const SERVING: u64 = 1;

/// Field 1, of a length (wire type 2); and as a number (wire type 0).
const SERVICE: u8 = 1 << 3 | 2;
const STATUS: u8 = 1 << 3;

/// A request, in its frame. An empty name, which asks about the whole server, is not written.
pub fn request(service: &str) -> Vec<u8> {
    let mut message = Vec::with_capacity(service.len() + 11);
    if !service.is_empty() {
        message.push(SERVICE);
        varint(&mut message, service.len());
        message.extend_from_slice(service.as_bytes());
    }
    let mut frame = vec![0];
    frame.extend(u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    frame.append(&mut message);
    frame
}

/// The status in an answer, in its frame; 0 (UNKNOWN) where it says none. `None` for what is no answer.
pub fn status(frame: &[u8]) -> Option<u64> {
    let (prefix, mut message) = frame.split_at_checked(5)?;
    let length = u32::from_be_bytes(prefix.get(1..)?.try_into().ok()?);
    if prefix.first() != Some(&0) || message.len() != length as usize {
        return None;
    }
    let mut status = 0;
    while let Some((tag, rest)) = message.split_first() {
        // An answer of a later version may say more, which is not for us.
        if *tag != STATUS {
            break;
        }
        (status, message) = number(rest)?;
    }
    Some(status)
}

/// What a status means.
pub const fn name(status: u64) -> &'static str {
    match status {
        0 => "UNKNOWN",
        SERVING => "SERVING",
        2 => "NOT_SERVING",
        3 => "SERVICE_UNKNOWN",
        _ => "a status that is not known",
    }
}

fn varint(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (index, byte) in bytes.iter().enumerate().take(9) {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(index + 1..)?));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_framed_strings() {
        assert_eq!(request(""), [0, 0, 0, 0, 0]);
        assert_eq!(request("shop"), *b"\0\0\0\0\x06\x0a\x04shop");
        let long = request(&"a".repeat(300));
        assert_eq!(long[..8], [0, 0, 0, 1, 0x2f, 0x0a, 0xac, 0x02], "a length of two bytes, the lower first");
        assert_eq!(long.len(), 5 + 3 + 300);
    }

    #[test]
    fn answers_are_numbers_or_nothing() {
        assert_eq!(status(b"\0\0\0\0\x02\x08\x01"), Some(SERVING));
        assert_eq!(status(b"\0\0\0\0\x02\x08\x02"), Some(2));
        assert_eq!(status(b"\0\0\0\0\x03\x08\xac\x02"), Some(300));
        assert_eq!(status(b"\0\0\0\0\0"), Some(0));
        assert_eq!(status(b"\0\0\0\0\x05\x08\x01\x12\x01a"), Some(SERVING), "and a field that is not known");
        for bad in [&b""[..], b"\0\0\0\0", b"\0\0\0\0\x03\x08\x01", b"\x01\0\0\0\x02\x08\x01", b"\0\0\0\0\x01\x08"] {
            assert_eq!(status(bad), None, "{bad:?}");
        }
        assert_eq!(status(&[0, 0, 0, 0, 11, 8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255]), None);
    }
}

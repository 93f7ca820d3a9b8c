//! The host of a first request: a verdict of HTTP/1 is final and never later than its bound, and none panics.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrigger::net::first_request::http2;
use outrigger::wire::first_request::{First, http1};

const MAX: usize = 512;

fuzz_target!(|bytes: &[u8]| {
    let mut decided = None;
    for end in 0..=bytes.len().min(2 * MAX) {
        let first = http1(&bytes[..end], MAX);
        if let First::Host(host) = &first {
            assert!(!host.is_empty() && *host == host.to_ascii_lowercase(), "{host:?}");
        }
        match &decided {
            Some(before) => assert_eq!(&first, before, "changed its mind at byte {end}"),
            None if first != First::More => decided = Some(first),
            None => assert!(end < MAX, "undecided after {end} bytes"),
        }
    }
    http2(bytes);
    http2(&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", bytes].concat());
});

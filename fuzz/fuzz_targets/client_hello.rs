//! The ClientHello: a verdict is final, comes within its bound, and does not depend on how the bytes arrive.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrigger::wire::client_hello::{BYTES_MAX, Parsed, parse};

fuzz_target!(|bytes: &[u8]| {
    let mut wanted = 0;
    let mut decided = None;
    for end in 0..=bytes.len().min(2 * BYTES_MAX) {
        if end < wanted || decided.is_some() && end % 97 != 0 {
            continue;
        }
        match (parse(&bytes[..end]), &decided) {
            (Parsed::More { at_least }, None) => {
                assert!(at_least > end && at_least <= BYTES_MAX, "asks for {at_least} bytes after {end}");
                wanted = at_least;
            }
            (parsed, None) => {
                if let Parsed::Hello(hello) = &parsed {
                    let name = hello.server_name.as_deref().unwrap_or("a");
                    assert!((1..=253).contains(&name.len()) && *name == *name.to_ascii_lowercase(), "{name:?}");
                    assert!(hello.alpn().all(|offer| !offer.is_empty()));
                }
                decided = Some(parsed);
            }
            (parsed, Some(before)) => assert_eq!(&parsed, before, "changed its mind at byte {end}"),
        }
    }
    match decided {
        Some(decided) => assert_eq!(decided, parse(bytes), "read at once"),
        None => assert!(matches!(parse(bytes), Parsed::More { .. }), "read at once"),
    }
});

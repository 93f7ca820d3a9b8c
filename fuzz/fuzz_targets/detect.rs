//! Protocol detection: a verdict is final, whatever comes after, and never later than its bound.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrigger::wire::detect::{BYTES_MAX, Verdict, detect};

fuzz_target!(|bytes: &[u8]| {
    let mut decided = None;
    for end in 0..=bytes.len().min(2 * BYTES_MAX) {
        let verdict = detect(&bytes[..end]);
        if let Some(before) = decided {
            assert_eq!(verdict, before, "changed its mind at byte {end}");
        } else if verdict != Verdict::More {
            decided = Some(verdict);
        }
        assert!(decided.is_some() || end < BYTES_MAX, "undecided after {end} bytes");
    }
});

//! What a server says first: a verdict is final, whatever comes after, and never later than its bound.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrigger::wire::detect::{SPOKEN_MAX, ServerSpeaks, spoken_first};

fuzz_target!(|bytes: &[u8]| {
    let mut decided = None;
    for end in 0..=bytes.len().min(4 * SPOKEN_MAX) {
        let speaks = spoken_first(&bytes[..end]);
        match decided {
            Some(before) => assert_eq!(speaks, before, "changed its mind at byte {end}"),
            None if speaks != ServerSpeaks::More => decided = Some(speaks),
            None => assert!(end < SPOKEN_MAX, "undecided after {end} bytes"),
        }
    }
});

//! Trace context: what is written can be read, and a trace is continued or begun, never garbled.
#![no_main]

use http::HeaderMap;
use libfuzzer_sys::fuzz_target;
use outrigger::wire::trace::{Context, Formats, continue_or_begin};
use rand::SeedableRng;
use rand::rngs::SmallRng;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn written(context: &Context) -> String {
    format!("00-{}-{}-{:02x}", hex(&context.trace_id), hex(&context.span_id), context.flags)
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&bits, bytes)) = bytes.split_first() else { return };
    let [traceparent, b3, baggage, begin_b3] = [1, 2, 4, 8].map(|bit| bits & bit != 0);
    let formats = Formats { traceparent, b3, baggage, begin_b3 };
    let mut rng = SmallRng::seed_from_u64(u64::from(bits));
    let mut headers = outrigger_fuzz::headers(bytes);

    let context = continue_or_begin(&mut headers, formats, &mut rng);
    assert!(context.trace_id != [0; 16] && context.span_id != [0; 8] && context.flags <= 1);
    assert!(baggage || !headers.contains_key("baggage"));
    if context.parent_id.is_some() {
        // B3 may write a short id, which continues as the low half.
        let text = String::from_utf8_lossy(bytes).to_ascii_lowercase();
        assert!(text.contains(&hex(&context.trace_id[8..])), "a trace that nobody sent");
    }
    if traceparent && let Some(line) = headers.get("traceparent") {
        assert_eq!(headers.get_all("traceparent").iter().count(), 1);
        assert_eq!(line, &written(&context));
        let mut next = HeaderMap::from_iter([(http::header::HeaderName::from_static("traceparent"), line.clone())]);
        let then = continue_or_begin(&mut next, formats, &mut rng);
        assert_eq!((then.trace_id, then.parent_id), (context.trace_id, Some(context.span_id)));
    }
});

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;

const W3C: Formats = Formats { traceparent: true, b3: false, baggage: true, begin_b3: false };
const BOTH: Formats = Formats { traceparent: true, b3: true, baggage: true, begin_b3: false };
const ZIPKIN: Formats = Formats { traceparent: false, b3: true, baggage: false, begin_b3: true };

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

fn map(lines: &[(&'static str, &str)]) -> HeaderMap {
    lines
        .iter()
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap()))
        .collect()
}

fn run(headers: &mut HeaderMap, formats: Formats) -> Context {
    continue_or_begin(headers, formats, &mut SmallRng::seed_from_u64(7))
}

fn text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn continued(traceparent: &str) -> Option<Context> {
    let mut headers = map(&[("traceparent", traceparent)]);
    let context = run(&mut headers, W3C);
    let sent = format!("00-{}-{}-{:02x}", text(&context.trace_id), text(&context.span_id), context.flags);
    assert_eq!(headers["traceparent"], sent);
    context.parent_id.is_some().then_some(context)
}

#[test]
fn valid_traceparents() {
    for (tail, flags) in [("00", 0), ("01", 1), ("03", 1), ("fe", 0), ("ff", 1)] {
        let context = continued(&format!("00-{TRACE}-{SPAN}-{tail}")).unwrap();
        assert_eq!(text(&context.trace_id), TRACE);
        assert_eq!(text(&context.parent_id.unwrap()), SPAN);
        assert_ne!(text(&context.span_id), SPAN);
        assert_eq!(context.flags, flags);
    }
    for later in
        [format!("01-{TRACE}-{SPAN}-01"), format!("cc-{TRACE}-{SPAN}-09-more"), format!("fe-{TRACE}-{SPAN}-01-")]
    {
        assert_eq!(continued(&later).unwrap().flags, 1, "{later}");
    }
}

#[test]
fn invalid_traceparents() {
    let (no_trace, no_span) = ("0".repeat(32), "0".repeat(16));
    let bad = [
        String::new(),
        format!("00-{TRACE}-{SPAN}"),
        format!("00-{TRACE}-{SPAN}-0"),
        format!("00-{TRACE}-{SPAN}-001"),
        format!("00-{TRACE}-{SPAN}-01-"),
        format!("00-{TRACE}-{SPAN}-01-more"),
        format!("01-{TRACE}-{SPAN}-01more"),
        format!("ff-{TRACE}-{SPAN}-01"),
        format!("0-{TRACE}-{SPAN}-01"),
        format!(".0-{TRACE}-{SPAN}-01"),
        format!("00-{TRACE}-{SPAN}-0x"),
        format!("00-{no_trace}-{SPAN}-01"),
        format!("00-{TRACE}-{no_span}-01"),
        format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
        format!("00-{TRACE}-{}-01", SPAN.to_uppercase()),
        format!("00-{TRACE}-{SPAN}-0A"),
        format!("00_{TRACE}-{SPAN}-01"),
        format!("00-{TRACE}_{SPAN}-01"),
        format!("00-{TRACE}-{SPAN}_01"),
    ];
    for bad in bad {
        assert_eq!(continued(&bad), None, "{bad}");
    }
}

#[test]
fn begins_unsampled() {
    let mut headers = map(&[("tracestate", "a=1"), ("baggage", "k=v")]);
    let context = run(&mut headers, W3C);
    assert_eq!((context.parent_id, context.flags), (None, 0));
    assert!(headers.contains_key("traceparent") && headers.contains_key("baggage"));
    assert!(!headers.contains_key("tracestate"));
}

#[test]
fn two_traceparents_are_none() {
    let value = format!("00-{TRACE}-{SPAN}-01");
    let mut headers = map(&[("traceparent", &value), ("traceparent", &value), ("tracestate", "a=1")]);
    assert_eq!(run(&mut headers, W3C).parent_id, None);
    assert_eq!(headers.get_all("traceparent").iter().count(), 1);
    assert!(!headers.contains_key("tracestate"));
}

fn keeps(lines: &[&str]) -> bool {
    let value = format!("00-{TRACE}-{SPAN}-01");
    let mut headers = map(&[("traceparent", &value)]);
    for line in lines {
        headers.append(TRACESTATE, HeaderValue::from_bytes(line.as_bytes()).unwrap());
    }
    assert!(run(&mut headers, W3C).parent_id.is_some(), "a bad tracestate spoils the traceparent");
    let kept: Vec<_> = headers.get_all(TRACESTATE).iter().cloned().collect();
    assert!(kept.is_empty() || kept == lines);
    kept.len() == lines.len()
}

#[test]
fn tracestates() {
    let many = |count: usize| (0..count).map(|i| format!("k{i}=v")).collect::<Vec<_>>().join(",");
    let key = |tenant, system| format!("{}@{}=1", "t".repeat(tenant), "v".repeat(system));
    let good: [&[&str]; 12] = [
        &["foo=1"],
        &["foo=1,bar=2", "baz=3"],
        &["foo=1 \t, ,\tbar=2,"],
        &[""],
        &["foo=1,foo=1"],
        &["a_-*/0=!~ x"],
        &["0t@v=1"],
        &[&many(32)],
        &[&many(16), &many(16)],
        &[&key(241, 14)],
        &[&format!("{}=1", "k".repeat(256))],
        &[&format!("k={}", "v".repeat(256))],
    ];
    for lines in good {
        assert!(keeps(lines), "{lines:?}");
    }
    let bad: [&[&str]; 17] = [
        &["foo"],
        &["=1"],
        &["foo="],
        &["foo =1"],
        &["foo@=1"],
        &["@foo=1"],
        &["a@b@c=1"],
        &["Foo=1"],
        &["0foo=1"],
        &["t@0=1"],
        &["foo=1=2"],
        &["foo=\u{e9}"],
        &["foo=1\u{7}x=2", "foo=a\tb"],
        &[&many(33)],
        &[&many(17), &many(16)],
        &[&key(242, 14)],
        &[&key(241, 15)],
    ];
    for lines in bad {
        let printable = lines.iter().all(|line| HeaderValue::from_bytes(line.as_bytes()).is_ok());
        assert!(!printable || !keeps(lines), "{lines:?}");
    }
    assert!(!keeps(&[&format!("{}=1", "k".repeat(257))]));
    assert!(!keeps(&[&format!("k={}", "v".repeat(257))]));
}

#[test]
fn b3_single() {
    for (tail, sent, flags) in
        [("", "", 0), ("-0", "-0", 0), ("-1", "-1", 1), ("-d", "-d", 1), ("-1-00f067aa0ba902b7", "-1", 1)]
    {
        let mut headers = map(&[("b3", &format!("{TRACE}-{SPAN}{tail}")), ("baggage", "k=v")]);
        let context = run(&mut headers, ZIPKIN);
        assert_eq!((text(&context.trace_id).as_str(), context.flags), (TRACE, flags));
        let parent = if sent.is_empty() { String::new() } else { format!("-{SPAN}") };
        assert_eq!(headers["b3"], format!("{TRACE}-{}{sent}{parent}", text(&context.span_id)));
        assert_eq!(headers.len(), 1, "baggage is not listed");
    }
}

#[test]
fn b3_short_ids_and_bare_decisions() {
    let mut headers = map(&[("b3", &format!("{SPAN}-{SPAN}-1"))]);
    let context = run(&mut headers, ZIPKIN);
    assert_eq!(headers["b3"], format!("{SPAN}-{}-1-{SPAN}", text(&context.span_id)));

    for decision in ["0", "1", "d"] {
        let mut headers = map(&[("b3", decision)]);
        let context = run(&mut headers, ZIPKIN);
        assert_eq!((context.parent_id, context.flags), (None, u8::from(decision != "0")));
        assert!(headers["b3"].to_str().unwrap().ends_with(decision));
    }
    for bad in [
        "",
        "x",
        "1-2",
        &format!("{TRACE}-{SPAN}-x"),
        &format!("{TRACE}-{SPAN}-1-2"),
        &format!("{TRACE}-{SPAN}-1-{SPAN}-1"),
    ] {
        assert_eq!(run(&mut map(&[("b3", bad)]), ZIPKIN).parent_id, None, "{bad}");
    }
}

#[test]
fn b3_several() {
    let lines = [("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN), ("x-b3-sampled", "1"), ("x-b3-parentspanid", SPAN)];
    let mut headers = map(&lines);
    let context = run(&mut headers, BOTH);
    assert_eq!(text(&context.trace_id), TRACE);
    assert_eq!(headers["x-b3-spanid"], text(&context.span_id));
    assert_eq!(
        (&headers["x-b3-parentspanid"], &headers["x-b3-sampled"]),
        (&SPAN.parse().unwrap(), &"1".parse().unwrap())
    );
    assert_eq!(headers.len(), 4, "continued in the format that came");

    let mut headers = map(&[("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN), ("x-b3-flags", "1")]);
    assert_eq!(run(&mut headers, ZIPKIN).flags, 1);
    assert_eq!((headers["x-b3-flags"].as_bytes(), headers.get("x-b3-sampled")), (b"1".as_slice(), None));
}

#[test]
fn traceparent_wins_and_all_that_came_agree() {
    let value = format!("00-{TRACE}-{SPAN}-01");
    let mut headers = map(&[("traceparent", &value), ("b3", "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-0")]);
    let context = run(&mut headers, BOTH);
    assert_eq!(text(&context.trace_id), TRACE);
    assert_eq!(headers["b3"], format!("{TRACE}-{}-1-{SPAN}", text(&context.span_id)));
}

#[test]
fn formats_that_are_off_are_left_alone() {
    let off = Formats { traceparent: false, b3: false, baggage: false, begin_b3: false };
    let mut headers = map(&[("traceparent", "x"), ("tracestate", "="), ("b3", "x"), ("baggage", "k=v")]);
    run(&mut headers, off);
    assert_eq!(headers, map(&[("traceparent", "x"), ("tracestate", "="), ("b3", "x")]));

    let mut headers = HeaderMap::new();
    run(&mut headers, Formats { begin_b3: true, ..BOTH });
    assert_eq!(headers.keys().collect::<Vec<_>>(), ["b3"]);
}

proptest! {
    #[test]
    fn what_is_written_is_read(trace in 1u128.., span in 1u64.., version in 0u8..0xff, flags: u8) {
        let value = format!("{version:02x}-{trace:032x}-{span:016x}-{flags:02x}");
        let context = continued(&value).unwrap();
        prop_assert_eq!(context.trace_id, trace.to_be_bytes());
        prop_assert_eq!(context.parent_id, Some(span.to_be_bytes()));
        prop_assert_eq!(context.flags, flags & SAMPLED);
    }

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..80), near in "[0-9a-f-]{53,57}") {
        for value in [bytes.as_slice(), near.as_bytes()] {
            let Ok(value) = HeaderValue::from_bytes(value) else { continue };
            for name in [TRACEPARENT, TRACESTATE, B3, B3_TRACE, B3_SPAN, B3_SAMPLED] {
                let mut headers = HeaderMap::new();
                headers.append(name, value.clone());
                run(&mut headers, BOTH);
                prop_assert!(!headers.is_empty());
            }
        }
    }
}

//! The trace that a request belongs to: W3C Trace Context level 1, and Zipkin's B3 in its two forms.
//!
//! A valid context is continued under a span of ours; anything else begins a new trace. Nothing is recorded here.

use http::{HeaderMap, HeaderName, HeaderValue};
use rand::Rng;

use super::{members, unhex, write_hex};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const BAGGAGE: HeaderName = HeaderName::from_static("baggage");
const B3: HeaderName = HeaderName::from_static("b3");
const B3_TRACE: HeaderName = HeaderName::from_static("x-b3-traceid");
const B3_SPAN: HeaderName = HeaderName::from_static("x-b3-spanid");
const B3_PARENT: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const B3_SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
const B3_FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");

/// The one flag that level 1 defines; all others are to be sent as zero.
pub const SAMPLED: u8 = 1;

/// A `tracestate` with more members is discarded.
const MEMBERS_MAX: usize = 32;

/// Which contexts are read and written. The headers of one that is switched off are none of our business, except
/// baggage, which then must not leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Formats {
    pub traceparent: bool,
    pub b3: bool,
    pub baggage: bool,
    /// A new trace is begun in B3.
    pub begin_b3: bool,
}

/// The place of a request in its trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    pub trace_id: [u8; 16],
    /// The span of the caller, where the trace was continued.
    pub parent_id: Option<[u8; 8]>,
    /// The span of ours.
    pub span_id: [u8; 8],
    pub flags: u8,
}

/// B3 knows more about sampling than a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sampling {
    Deferred,
    Denied,
    Accepted,
    Debug,
}

/// A context as it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Caller {
    /// The trace and the span, unless only a decision about sampling came.
    ids: Option<([u8; 16], [u8; 8])>,
    sampling: Sampling,
}

/// Finds the context of a request, or begins one, and writes what the next hop gets: every enabled format that
/// came, and the preferred one where none did.
///
/// A trace begun here is not marked as sampled, because nobody recorded anything yet. B3 can leave the decision to
/// the next hop, and does.
pub fn continue_or_begin(headers: &mut HeaderMap, formats: Formats, rng: &mut impl Rng) -> Context {
    if !formats.baggage {
        headers.remove(BAGGAGE);
    }
    let w3c = formats.traceparent && headers.contains_key(TRACEPARENT);
    let b3_single = formats.b3 && headers.contains_key(B3);
    let b3_multi = formats.b3 && [B3_TRACE, B3_SAMPLED, B3_FLAGS].iter().any(|name| headers.contains_key(name));
    let traceparent = if w3c { read_traceparent(headers) } else { None };
    if formats.traceparent && (traceparent.is_none() || !valid_tracestate(headers)) {
        headers.remove(TRACESTATE);
    }
    let caller = traceparent
        .or_else(|| if b3_single { read_b3(headers) } else { None })
        .or_else(|| if b3_multi { read_b3_multi(headers) } else { None });
    let sampling = caller.map_or(Sampling::Deferred, |caller| caller.sampling);
    let ids = caller.and_then(|caller| caller.ids);
    let context = Context {
        trace_id: ids.map_or_else(|| trace_id(rng), |(trace, _)| trace),
        parent_id: ids.map(|(_, span)| span),
        span_id: span_id(rng),
        flags: if matches!(sampling, Sampling::Accepted | Sampling::Debug) { SAMPLED } else { 0 },
    };
    let none = !w3c && !b3_single && !b3_multi;
    if w3c || (none && formats.traceparent && !(formats.begin_b3 && formats.b3)) {
        write_traceparent(headers, &context);
    }
    if b3_single || (none && formats.b3 && (formats.begin_b3 || !formats.traceparent)) {
        write_b3(headers, &context, sampling);
    }
    if b3_multi {
        write_b3_multi(headers, &context, sampling);
    }
    context
}

/// All zeros is no id.
fn trace_id(rng: &mut impl Rng) -> [u8; 16] {
    rng.random::<u128>().max(1).to_be_bytes()
}

fn span_id(rng: &mut impl Rng) -> [u8; 8] {
    rng.random::<u64>().max(1).to_be_bytes()
}

fn read_traceparent(headers: &HeaderMap) -> Option<Caller> {
    let mut lines = headers.get_all(TRACEPARENT).iter();
    match (lines.next(), lines.next()) {
        (Some(line), None) => parse_traceparent(line.as_bytes()),
        _ => None,
    }
}

/// `version-traceid-parentid-flags`; a later version may add more after another `-`.
fn parse_traceparent(text: &[u8]) -> Option<Caller> {
    let (head, more) = text.split_at_checked(55)?;
    if head.iter().any(u8::is_ascii_uppercase) {
        return None;
    }
    let (&[b'-'], &[b'-'], &[b'-']) = (head.get(2..3)?, head.get(35..36)?, head.get(52..53)?) else { return None };
    let [version] = read_hex(head.get(..2)?)?;
    match (version, more) {
        (0xff, _) | (0, [_, ..]) => return None,
        (_, [] | [b'-', ..]) => {}
        _ => return None,
    }
    let ids = (read_hex(head.get(3..35)?)?, read_hex(head.get(36..52)?)?);
    let [flags] = read_hex(head.get(53..)?)?;
    let sampling = if flags & SAMPLED == 0 { Sampling::Denied } else { Sampling::Accepted };
    named(ids).then_some(Caller { ids: Some(ids), sampling })
}

fn named((trace, span): ([u8; 16], [u8; 8])) -> bool {
    trace != [0; 16] && span != [0; 8]
}

/// Exactly as many digits as the bytes need.
fn read_hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let &[high, low] = pair else { return None };
        *byte = unhex(high)? << 4 | unhex(low)?;
    }
    Some(bytes)
}

fn write_traceparent(headers: &mut HeaderMap, context: &Context) {
    let mut text = [b'-'; 55];
    let (version, rest) = text.split_at_mut(3);
    let (trace, rest) = rest.split_at_mut(33);
    let (span, flags) = rest.split_at_mut(17);
    write_hex(version, &[0]);
    write_hex(trace, &context.trace_id);
    write_hex(span, &context.span_id);
    write_hex(flags, &[context.flags]);
    insert(headers, TRACEPARENT, &text);
}

/// The one list that all lines make: known keys and values, 32 members at most; empty members are allowed.
fn valid_tracestate(headers: &HeaderMap) -> bool {
    let mut count = 0;
    members(headers, TRACESTATE).all(|member| {
        count += 1;
        count <= MEMBERS_MAX && valid_member(member)
    })
}

fn valid_member(member: &[u8]) -> bool {
    let Some(equals) = memchr::memchr(b'=', member) else { return false };
    let (Some(key), Some(value)) = (member.get(..equals), member.get(equals + 1..)) else { return false };
    let printable = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b',' | b'=');
    (1..=256).contains(&value.len()) && value.iter().all(printable) && value.last() != Some(&b' ') && valid_key(key)
}

/// `vendor`, or `tenant@vendor`; only a tenant may begin with a digit.
fn valid_key(key: &[u8]) -> bool {
    let tail =
        |name: &[u8]| name.iter().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/'));
    let vendor =
        |name: &[u8], most: usize| name.len() <= most && name.first().is_some_and(u8::is_ascii_lowercase) && tail(name);
    match memchr::memchr(b'@', key).and_then(|at| Some((key.get(..at)?, key.get(at + 1..)?))) {
        None => vendor(key, 256),
        Some((tenant, system)) => {
            tenant.len() <= 241
                && tenant.first().is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
                && tail(tenant)
                && vendor(system, 14)
        }
    }
}

/// `trace-span[-sampling[-parent]]`, or the sampling alone.
fn read_b3(headers: &HeaderMap) -> Option<Caller> {
    let mut parts = headers.get(B3)?.as_bytes().split(|&byte| byte == b'-');
    let first = parts.next()?;
    let Some(span) = parts.next() else {
        return Some(Caller { ids: None, sampling: read_sampling(first)? });
    };
    let sampling = parts.next().map_or(Some(Sampling::Deferred), read_sampling)?;
    if parts.next().is_some_and(|parent| read_hex::<8>(parent).is_none()) || parts.next().is_some() {
        return None;
    }
    let ids = (read_b3_trace(first)?, read_hex(span)?);
    named(ids).then_some(Caller { ids: Some(ids), sampling })
}

fn read_b3_multi(headers: &HeaderMap) -> Option<Caller> {
    let sampling = if headers.get(B3_FLAGS).is_some_and(|flags| flags == "1") {
        Sampling::Debug
    } else {
        headers.get(B3_SAMPLED).map_or(Some(Sampling::Deferred), |value| read_sampling(value.as_bytes()))?
    };
    let (Some(trace), Some(span)) = (headers.get(B3_TRACE), headers.get(B3_SPAN)) else {
        return (sampling != Sampling::Deferred).then_some(Caller { ids: None, sampling });
    };
    let ids = (read_b3_trace(trace.as_bytes())?, read_hex(span.as_bytes())?);
    named(ids).then_some(Caller { ids: Some(ids), sampling })
}

/// 64 bits are the lower half of 128.
fn read_b3_trace(digits: &[u8]) -> Option<[u8; 16]> {
    read_hex(digits).or_else(|| Some(u128::from(u64::from_be_bytes(read_hex(digits)?)).to_be_bytes()))
}

/// Older Zipkin libraries wrote words.
fn read_sampling(text: &[u8]) -> Option<Sampling> {
    match text {
        b"0" | b"false" => Some(Sampling::Denied),
        b"1" | b"true" => Some(Sampling::Accepted),
        b"d" => Some(Sampling::Debug),
        _ => None,
    }
}

/// The digits of a trace id, as many as its tracer wrote: who has 64 bits may not read 128.
fn b3_trace<'a>(context: &Context, digits: &'a mut [u8; 32]) -> &'a [u8] {
    write_hex(digits, &context.trace_id);
    match digits.split_at(16) {
        (high, low) if high == [b'0'; 16] => low,
        _ => digits,
    }
}

fn write_b3(headers: &mut HeaderMap, context: &Context, sampling: Sampling) {
    let mut text = [b'-'; 68];
    let mut digits = [0; 32];
    let mut length = 0;
    let mut push = |bytes: &[u8]| {
        if let Some(room) = text.get_mut(length..length + bytes.len()) {
            room.copy_from_slice(bytes);
            length += bytes.len() + 1;
        }
    };
    push(b3_trace(context, &mut digits));
    let mut span = [0; 16];
    write_hex(&mut span, &context.span_id);
    push(&span);
    match sampling {
        Sampling::Deferred => {}
        Sampling::Denied => push(b"0"),
        Sampling::Accepted => push(b"1"),
        Sampling::Debug => push(b"d"),
    }
    // A parent has its place only after a decision.
    if let Some(parent) = context.parent_id
        && sampling != Sampling::Deferred
    {
        write_hex(&mut span, &parent);
        push(&span);
    }
    insert(headers, B3, text.get(..length - 1).unwrap_or_default());
}

fn write_b3_multi(headers: &mut HeaderMap, context: &Context, sampling: Sampling) {
    let mut digits = [0; 32];
    insert(headers, B3_TRACE, b3_trace(context, &mut digits));
    let mut span = [0; 16];
    write_hex(&mut span, &context.span_id);
    insert(headers, B3_SPAN, &span);
    match context.parent_id {
        Some(parent) => {
            write_hex(&mut span, &parent);
            insert(headers, B3_PARENT, &span);
        }
        None => drop(headers.remove(B3_PARENT)),
    }
    headers.remove(B3_SAMPLED);
    headers.remove(B3_FLAGS);
    match sampling {
        Sampling::Deferred => {}
        Sampling::Denied => insert(headers, B3_SAMPLED, b"0"),
        Sampling::Accepted => insert(headers, B3_SAMPLED, b"1"),
        Sampling::Debug => insert(headers, B3_FLAGS, b"1"),
    }
}

/// Digits and dashes always make a value.
fn insert(headers: &mut HeaderMap, name: HeaderName, text: &[u8]) {
    if let Ok(value) = HeaderValue::from_bytes(text) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests;

//! The last good answers of a service, for the time when it gives none. Bounded in number and bytes; the oldest goes
//! first. What a shared cache may not keep, or may not give away stale (RFC 9111), is not kept.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CACHE_CONTROL, COOKIE, PROXY_AUTHORIZATION, RANGE, SET_COOKIE, VARY};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

/// Answers that are kept of one service.
const ANSWERS_MAX: usize = 1024;
/// Bytes of all of them.
const BYTES_MAX: usize = 32 << 20;
/// The largest body that is kept.
pub const BODY_MAX: usize = 1 << 20;
/// Answers to one question, by what they vary with.
const VARIANTS_MAX: usize = 8;
/// Until then an answer is not replaced by a newer one: copying each would cost more than it brings.
const FRESH: Duration = Duration::from_secs(1);

/// What makes one request the same as another.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    pub route: &'a str,
    /// What the caller has proven to be.
    pub identity: &'a str,
    pub host: &'a str,
    /// With its query.
    pub path: &'a str,
    pub headers: &'a HeaderMap,
}

#[derive(Debug)]
pub struct Answer {
    pub headers: HeaderMap,
    pub body: Bytes,
    pub at: Instant,
}

#[derive(Debug, Default)]
pub struct Stale {
    hasher: RandomState,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    by_question: HashMap<u64, Vec<Entry>>,
    /// Questions, by the number of their answer.
    by_age: BTreeMap<u64, u64>,
    next: u64,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    key: Box<[Box<str>; 4]>,
    /// What the answer varies with, as it was asked.
    vary: Vec<(HeaderName, Vec<HeaderValue>)>,
    bytes: usize,
    answer: Arc<Answer>,
}

/// Whether answers to such a request are anybody's.
pub fn may_ask(method: &Method, headers: &HeaderMap) -> bool {
    *method == Method::GET
        && [AUTHORIZATION, PROXY_AUTHORIZATION, COOKIE, RANGE].iter().all(|own| !headers.contains_key(own))
}

/// Whether the request forbids that (RFC 9111, section 5.2.1.5).
pub fn may_be_kept(request: &HeaderMap) -> bool {
    !says(request, &["no-store"])
}

/// Whether an answer is good, and may be kept and given to others.
pub fn may_keep(status: StatusCode, headers: &HeaderMap) -> bool {
    const NEVER: [&str; 5] = ["no-store", "private", "no-cache", "must-revalidate", "proxy-revalidate"];
    status == StatusCode::OK
        && !says(headers, &NEVER)
        && !headers.contains_key(SET_COOKIE)
        && varying(headers).is_some()
}

/// Whether any of these is in `cache-control`, or something that cannot be read.
fn says(headers: &HeaderMap, any: &[&str]) -> bool {
    let is = |item: &str| {
        let name = item.split('=').next().unwrap_or_default().trim();
        any.iter().any(|one| name.eq_ignore_ascii_case(one))
    };
    headers.get_all(CACHE_CONTROL).iter().any(|line| line.to_str().map_or(true, |line| line.split(',').any(is)))
}

/// The headers that an answer varies with; none where nobody can know.
fn varying(answer: &HeaderMap) -> Option<Vec<HeaderName>> {
    let mut names = Vec::new();
    for line in answer.get_all(VARY) {
        for name in line.to_str().ok()?.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            names.push(HeaderName::from_bytes(name.as_bytes()).ok().filter(|_| name != "*")?);
        }
    }
    Some(names)
}

impl Stale {
    /// An answer that is no older than `age`.
    pub fn find(&self, asked: &Asked<'_>, age: Duration, now: Instant) -> Option<Arc<Answer>> {
        let kept = self.kept();
        let entry = kept.by_question.get(&self.hash(asked))?.iter().find(|entry| entry.is_of(asked))?;
        (now.saturating_duration_since(entry.answer.at) <= age).then(|| entry.answer.clone())
    }

    /// Whether a newer answer would be no better.
    pub fn is_fresh(&self, asked: &Asked<'_>, now: Instant) -> bool {
        self.find(asked, FRESH, now).is_some()
    }

    /// Takes the place of the answer that there was. The caller has asked `may_ask` and `may_keep`.
    pub fn keep(&self, asked: &Asked<'_>, answer: Arc<Answer>) {
        let Some(names) = varying(&answer.headers) else { return };
        let values = |name: &HeaderName| asked.headers.get_all(name).iter().cloned().collect();
        let vary: Vec<(HeaderName, Vec<HeaderValue>)> =
            names.into_iter().map(|name| (name.clone(), values(&name))).collect();
        let key: Box<[Box<str>; 4]> = Box::new(asked.key().map(Box::from));
        let lines =
            |headers: &HeaderMap| headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum::<usize>();
        let own = key.iter().map(|text| text.len()).sum::<usize>()
            + vary.iter().flat_map(|(_, v)| v).map(HeaderValue::len).sum::<usize>();
        let bytes = own + lines(&answer.headers) + answer.body.len();
        if bytes > BYTES_MAX / 8 {
            return;
        }
        let hash = self.hash(asked);
        let mut kept = self.kept();
        let number = kept.next;
        kept.next += 1;
        let entry = Entry { number, key, vary, bytes, answer };
        let replaced: Vec<u64> = kept
            .by_question
            .get(&hash)
            .into_iter()
            .flatten()
            .filter(|old| old.is_of(asked))
            .map(|old| old.number)
            .collect();
        replaced.into_iter().for_each(|number| kept.forget(number));
        let variants = kept.by_question.entry(hash).or_default();
        variants.push(entry);
        let least = variants.first().filter(|_| variants.len() > VARIANTS_MAX).map(|oldest| oldest.number);
        kept.by_age.insert(number, hash);
        kept.bytes += bytes;
        least.into_iter().for_each(|number| kept.forget(number));
        while kept.by_age.len() > ANSWERS_MAX || kept.bytes > BYTES_MAX {
            let Some(oldest) = kept.by_age.keys().next().copied() else { return };
            kept.forget(oldest);
        }
    }

    /// How many answers are kept, and their bytes.
    pub fn size(&self) -> (usize, usize) {
        let kept = self.kept();
        (kept.by_age.len(), kept.bytes)
    }

    fn hash(&self, asked: &Asked<'_>) -> u64 {
        self.hasher.hash_one(asked.key())
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn forget(&mut self, number: u64) {
        let Some(hash) = self.by_age.remove(&number) else { return };
        let Some(variants) = self.by_question.get_mut(&hash) else { return };
        variants.iter().filter(|entry| entry.number == number).for_each(|entry| self.bytes -= entry.bytes);
        variants.retain(|entry| entry.number != number);
        if variants.is_empty() {
            self.by_question.remove(&hash);
        }
    }
}

impl<'a> Asked<'a> {
    fn key(&self) -> [&'a str; 4] {
        [self.route, self.identity, self.host, self.path]
    }
}

impl Entry {
    /// Whether it answers this.
    fn is_of(&self, asked: &Asked<'_>) -> bool {
        let same = self.key.iter().map(|text| &**text).eq(asked.key());
        same && self.vary.iter().all(|(name, values)| asked.headers.get_all(name).iter().eq(values))
    }
}

#[cfg(test)]
mod tests;

//! Which exchanges are kept, and how one is found again. All are kept for a while; when their time is over, those that
//! failed and the slow ones move to memory of their own, where they stay for as long again and, as they are few, longer.

use std::borrow::Cow;
use std::str::FromStr;
use std::time::SystemTime;

use serde_json::{Value, json};

use super::code::{self, Buffer, Head, ID_MAX, Marks, RECORD_MAX};
use super::slow::Slow;
use super::track::{Pieces, Track};
use super::{Exchange, shape};
use crate::telemetry::rfc3339::Rfc3339;

/// A ring of fewer bytes keeps nothing.
pub const BYTES_MIN: usize = 16 * 1024;
/// Exchanges in one list.
pub const LIST_MAX: usize = 1000;

/// Recent exchanges of one worker.
#[derive(Debug)]
pub struct Ring {
    pushed: u64,
    memory: Option<Memory>,
}

#[derive(Debug)]
struct Memory {
    recent: Track,
    /// What failed or was slow, from before everything in `recent`.
    longer: Track,
    /// An exchange of `recent` was forgotten.
    forgets: bool,
    slow: Slow,
    buffer: Box<Buffer>,
}

/// Which exchanges a list shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    All,
    Failed,
    Slow,
    /// Failed or slow.
    Notable,
}

/// How much is still known, for whoever asks for what is not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kept {
    /// Exchanges that are kept.
    pub exchanges: u64,
    /// Exchanges that there were.
    pub of: u64,
    /// When the oldest of those that are kept ended.
    pub oldest: Option<SystemTime>,
    /// Every exchange that ended since then is kept. None where none was ever forgotten.
    pub since: Option<SystemTime>,
}

impl Ring {
    /// Takes that many bytes and no more, now, though the system gives them only as they are used; none if there are
    /// fewer than `BYTES_MIN`.
    pub fn new(bytes: usize) -> Self {
        let memory = (bytes >= BYTES_MIN).then(|| {
            let bytes = bytes - RECORD_MAX;
            let longer = bytes * 3 / 8;
            Memory {
                recent: Track::new(bytes - longer),
                longer: Track::new(longer),
                forgets: false,
                slow: Slow::default(),
                buffer: Box::new([0; RECORD_MAX]),
            }
        });
        Self { pushed: 0, memory }
    }

    /// Something is kept: whoever pushes may spare itself the gathering of facts otherwise.
    pub fn is_on(&self) -> bool {
        self.memory.is_some()
    }

    /// Bytes that it has taken.
    pub fn capacity(&self) -> usize {
        self.memory.as_ref().map_or(0, |memory| memory.recent.size() + memory.longer.size() + memory.buffer.len())
    }

    pub fn push(&mut self, exchange: &Exchange<'_>) {
        self.pushed += 1;
        let Some(memory) = &mut self.memory else { return };
        // A failure is kept for longer anyway, and how long it took says nothing of what others take.
        let slow = !exchange.failed && memory.slow.observe(exchange.phases.total);
        let Memory { recent, longer, buffer, forgets, .. } = memory;
        let record = code::encode(buffer, exchange, slow);
        while !recent.has_room(record.len()) && recent.count() > 0 {
            *forgets = true;
            retire(recent, longer);
        }
        recent.push([record, &[]]);
    }

    /// The newest exchange of this id, in the long form of `docs/why.md`. Looks at all that is kept: milliseconds.
    pub fn find(&self, id: &[u8]) -> Option<Value> {
        let id = id.get(..ID_MAX).unwrap_or(id);
        self.newest_first()
            .filter(|record| code::head(record).is_some_and(|head| head.id == id))
            .find_map(|record| code::decode(&record, shape::long))
    }

    /// The newest first, in the short form of `docs/why.md`; at most `LIST_MAX`.
    pub fn list(&self, filter: Filter, limit: usize) -> Vec<Value> {
        self.newest_first()
            .filter(|record| record.first().is_some_and(|first| filter.takes(Marks::of(*first))))
            .filter_map(|record| code::decode(&record, shape::short))
            .take(limit.min(LIST_MAX))
            .collect()
    }

    pub fn kept(&self) -> Kept {
        let Some(memory) = &self.memory else { return Kept { of: self.pushed, ..Kept::default() } };
        let ended = |track: &Track| code::head(&whole(track.oldest()?)).as_ref().and_then(Head::ended);
        let recent = ended(&memory.recent);
        Kept {
            exchanges: memory.recent.count() + memory.longer.count(),
            of: self.pushed,
            oldest: ended(&memory.longer).or(recent),
            since: recent.filter(|_| memory.forgets),
        }
    }

    fn newest_first(&self) -> impl Iterator<Item = Cow<'_, [u8]>> {
        let tracks = self.memory.iter().flat_map(|memory| [&memory.recent, &memory.longer]);
        tracks.flat_map(Track::newest_first).map(whole)
    }
}

impl Filter {
    fn takes(self, marks: Marks) -> bool {
        match self {
            Self::All => true,
            Self::Failed => marks.failed(),
            Self::Slow => marks.slow(),
            Self::Notable => marks.failed() || marks.slow(),
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Failed => "failed",
            Self::Slow => "slow",
            Self::Notable => "notable",
        }
    }
}

impl FromStr for Filter {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        let all = [Self::All, Self::Failed, Self::Slow, Self::Notable];
        all.into_iter().find(|filter| filter.name() == name).ok_or(())
    }
}

impl Kept {
    /// Of two workers together.
    pub fn and(self, other: Self) -> Self {
        Self {
            exchanges: self.exchanges + other.exchanges,
            of: self.of + other.of,
            oldest: [self.oldest, other.oldest].into_iter().flatten().min(),
            since: self.since.max(other.since),
        }
    }

    /// `{"exchanges", "of", "oldest", "since"}`, without what is not known.
    pub fn json(&self) -> Value {
        let mut kept = json!({ "exchanges": self.exchanges, "of": self.of });
        for (name, time) in [("oldest", self.oldest), ("since", self.since)] {
            if let Some(time) = time {
                kept[name] = Rfc3339(time).to_string().into();
            }
        }
        kept
    }
}

/// The oldest of the recent exchanges goes, or stays for longer.
fn retire(recent: &mut Track, longer: &mut Track) {
    if let Some(record) = recent.oldest()
        && first(record).is_some_and(|first| Filter::Notable.takes(Marks::of(first)))
    {
        let length = record.iter().map(|piece| piece.len()).sum();
        while !longer.has_room(length) && longer.pop() {}
        longer.push(record);
    }
    recent.pop();
}

fn first([first, second]: Pieces<'_>) -> Option<u8> {
    first.first().or(second.first()).copied()
}

/// A record in one piece; there are at most two in a ring that are not.
fn whole(record: Pieces<'_>) -> Cow<'_, [u8]> {
    match record {
        [whole, []] => whole.into(),
        pieces => pieces.concat().into(),
    }
}

//! What a pick went by, for whoever asks.

use std::fmt;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Why {
    pub how: How,
    /// Not of the tier, zone or region that comes first.
    pub spilled: bool,
    /// Without a look at who is available.
    pub panic: bool,
    /// All others that could have been chosen were tried before.
    pub again: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum How {
    /// It was asked for by its address.
    #[default]
    Address,
    /// There is no other.
    Only,
    Turn,
    Chance,
    LessLoaded,
    Sooner,
    Key,
    /// The key's own endpoint is unavailable, or was tried.
    KeyNext,
    /// The key's own endpoint has too much in flight.
    KeyOverload,
    /// The request has no key.
    NoKey,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.how {
            How::Address => "address",
            How::Only => "only one",
            How::Turn => "turn",
            How::Chance => "chance",
            How::LessLoaded => "less loaded of two",
            How::Sooner => "sooner of two",
            How::Key => "key",
            How::KeyNext => "key, next to its own",
            How::KeyOverload => "key, next since its own has maxLoad",
            How::NoKey => "chance, no key",
        })?;
        let more = [(self.spilled, "spilled over"), (self.panic, "panic"), (self.again, "tried before")];
        more.into_iter().filter(|(is, _)| *is).try_for_each(|(_, what)| write!(f, ", {what}"))
    }
}

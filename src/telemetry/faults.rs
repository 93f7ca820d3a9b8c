//! What faults on purpose have done, by route. Seldom enough for counters that the workers share; a worker looks them
//! up once.

use super::counter::Shared;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Delay,
    Abort,
    Reset,
    Bandwidth,
}

#[derive(Debug, Default)]
pub struct Faults([Shared; Kind::ALL.len()]);

impl Kind {
    pub const ALL: [Self; 4] = [Self::Delay, Self::Abort, Self::Reset, Self::Bandwidth];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Delay => "delay",
            Self::Abort => "abort",
            Self::Reset => "reset",
            Self::Bandwidth => "bandwidth",
        }
    }
}

impl Faults {
    pub fn of(&self, kind: Kind) -> &Shared {
        let [delay, abort, reset, bandwidth] = &self.0;
        match kind {
            Kind::Delay => delay,
            Kind::Abort => abort,
            Kind::Reset => reset,
            Kind::Bandwidth => bandwidth,
        }
    }
}

//! Rules that can refuse a request, and the one mechanism by which they do so, or only tell that they would have.

/// Which rule. Also the label `rule` of `outrigger_shadow_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Guard {
    MaxBody,
    Timeout,
    Authorization,
    RateLimit,
    Limits,
    Memory,
    CircuitBreaker,
}

/// A limit, and what happens beyond it. `mode: off` compiles to no bound at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound<T> {
    pub limit: T,
    /// Tells, and lets pass.
    pub shadow: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    Within,
    /// Beyond a limit that is not enforced.
    Would,
    Refuse,
}

impl Guard {
    pub const ALL: [Self; 7] = [
        Self::MaxBody,
        Self::Timeout,
        Self::Authorization,
        Self::RateLimit,
        Self::Limits,
        Self::Memory,
        Self::CircuitBreaker,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::MaxBody => "max_body",
            Self::Timeout => "timeout",
            Self::Authorization => "authorization",
            Self::RateLimit => "rate_limit",
            Self::Limits => "limits",
            Self::Memory => "memory",
            Self::CircuitBreaker => "circuit_breaker",
        }
    }
}

impl Guard {
    /// A limit or what broke it, with its unit; `None` for what has no limit.
    pub fn shown(self, value: u64) -> Option<String> {
        match self {
            Self::MaxBody => Some(format!("{value} bytes")),
            // Of a rate limit: how long a request would have had to wait, and how long it may.
            Self::Timeout | Self::RateLimit => Some(format!("{} ms", value as f64 / 1e3)),
            Self::Limits => Some(format!("{value} requests")),
            Self::Memory => Some(format!("{value} %")),
            Self::Authorization | Self::CircuitBreaker => None,
        }
    }
}

impl<T: Copy + PartialOrd> Bound<T> {
    pub fn judge(&self, actual: T) -> Judgement {
        match (actual > self.limit, self.shadow) {
            (false, _) => Judgement::Within,
            (true, true) => Judgement::Would,
            (true, false) => Judgement::Refuse,
        }
    }

    /// The limit, where it is enforced.
    pub fn enforced(&self) -> Option<T> {
        (!self.shadow).then_some(self.limit)
    }
}

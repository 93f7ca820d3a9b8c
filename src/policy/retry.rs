//! Whether a request that came to nothing is tried again, and when: what the route says, held against what came of the
//! try and against what is left of the request, of its time and of the budget.

use std::time::Duration;

use rand::Rng;

use super::backoff::Backoff;
use super::budget::Share;
use super::outcome::{self, Condition, Kind, Outcome};

/// What a route says of retries.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// On top of the first try, whatever the condition.
    pub attempts: u32,
    /// The first whose condition matches counts.
    pub rules: Vec<Rule>,
    pub per_try: Option<Duration>,
    pub share: Share,
    /// Bytes of a body that are kept to be sent again.
    pub buffer_limit: u64,
    /// Requests that are not idempotent as well.
    pub non_idempotent: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rule {
    pub condition: Condition,
    /// On top of the first try; 0 is never.
    pub attempts: u32,
    pub backoff: Backoff,
}

/// Where a request stands after a try.
#[derive(Debug, Clone, Copy)]
pub struct Situation {
    /// Retries so far.
    pub done: u32,
    pub idempotent: bool,
    pub grpc: bool,
    /// Whatever was sent of the body can be sent again.
    pub body_is_there: bool,
    /// Until its deadline.
    pub left: Option<Duration>,
    /// What the service asks for: a wait, or none at all.
    pub pushback: Option<Pushback>,
    /// A proxy before us tries again by itself.
    pub tried_before_us: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushback {
    Never,
    After(Duration),
}

/// Longest that a service is waited for because it asks for it.
pub const PUSHBACK_MAX: Duration = Duration::from_secs(10);

/// Why a request that failed was not sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum NotAgain {
    NotIdempotent,
    BodyGone,
    TooOften,
    /// A connection that was new, or that had begun to answer.
    PerhapsHandled,
    Answered,
    AnswerBegun,
    NoConnection,
    OutOfTime,
    ClientGone,
    NotOfTheConnection,
    NotCovered,
    Never,
    Budget,
    Limit,
    Pushback,
    TriedBeforeUs,
    NoEndpoint,
    CircuitOpen,
}

impl Policy {
    /// What is said of an outcome. A code of gRPC is for calls of gRPC, whatever it would mean for others.
    pub fn rule(&self, outcome: &Outcome, grpc: bool) -> Option<&Rule> {
        let fits = |rule: &&Rule| grpc || !matches!(rule.condition, Condition::Grpc(_));
        self.rules.iter().filter(fits).find(|rule| rule.condition.matches(outcome))
    }

    /// How long to wait before the next try.
    pub fn again(&self, outcome: &Outcome, at: Situation, rng: &mut impl Rng) -> Result<Duration, NotAgain> {
        if at.left == Some(Duration::ZERO) {
            return Err(NotAgain::OutOfTime);
        }
        if outcome.kind == Kind::Dropped {
            return Err(NotAgain::ClientGone);
        }
        let rule = self.rule(outcome, at.grpc).ok_or(NotAgain::NotCovered)?;
        if rule.attempts == 0 {
            return Err(NotAgain::Never);
        }
        if at.done >= rule.attempts.min(self.attempts) {
            return Err(NotAgain::TooOften);
        }
        let unsent = is_unsent(outcome.kind);
        if !unsent {
            if at.tried_before_us {
                return Err(NotAgain::TriedBeforeUs);
            }
            // Whoever names a code of gRPC knows the calls that it is for.
            let told = self.non_idempotent || matches!(rule.condition, Condition::Grpc(_));
            if !at.idempotent && !told {
                return Err(NotAgain::NotIdempotent);
            }
        }
        if !at.body_is_there {
            return Err(NotAgain::BodyGone);
        }
        let wait = rule.backoff.wait(at.done, rng);
        let wait = match at.pushback {
            Some(Pushback::Never) => return Err(NotAgain::Pushback),
            Some(Pushback::After(asked)) if asked > PUSHBACK_MAX => return Err(NotAgain::Pushback),
            // All who were asked to wait as long would come at once.
            Some(Pushback::After(asked)) => asked + wait,
            None => wait,
        };
        if at.left.is_some_and(|left| wait >= left) {
            return Err(NotAgain::OutOfTime);
        }
        Ok(wait)
    }
}

/// The service cannot have handled the request.
pub const fn is_unsent(kind: Kind) -> bool {
    match kind {
        Kind::Refused => true,
        Kind::Failed(reason) => outcome::is_unconnected(reason),
        Kind::Answered { .. } | Kind::Dropped => false,
    }
}

impl NotAgain {
    pub const ALL: [Self; 18] = [
        Self::NotIdempotent,
        Self::BodyGone,
        Self::TooOften,
        Self::PerhapsHandled,
        Self::Answered,
        Self::AnswerBegun,
        Self::NoConnection,
        Self::OutOfTime,
        Self::ClientGone,
        Self::NotOfTheConnection,
        Self::NotCovered,
        Self::Never,
        Self::Budget,
        Self::Limit,
        Self::Pushback,
        Self::TriedBeforeUs,
        Self::NoEndpoint,
        Self::CircuitOpen,
    ];

    pub const fn code(self) -> &'static str {
        match self {
            Self::NotIdempotent => "not_idempotent",
            Self::BodyGone => "body_gone",
            Self::TooOften => "too_often",
            Self::PerhapsHandled => "perhaps_handled",
            Self::Answered => "answered",
            Self::AnswerBegun => "answer_begun",
            Self::NoConnection => "no_connection",
            Self::OutOfTime => "out_of_time",
            Self::ClientGone => "client_gone",
            Self::NotOfTheConnection => "not_of_the_connection",
            Self::NotCovered => "not_covered",
            Self::Never => "never",
            Self::Budget => "budget",
            Self::Limit => "limit",
            Self::Pushback => "pushback",
            Self::TriedBeforeUs => "tried_before_us",
            Self::NoEndpoint => "no_endpoint",
            Self::CircuitOpen => "circuit_open",
        }
    }

    pub const fn sentence(self) -> &'static str {
        match self {
            Self::NotIdempotent => {
                "the service may have handled it, and its method (POST, say) does not allow it to be handled twice"
            }
            Self::BodyGone => "its body was on its way already, and is not kept",
            Self::TooOften => "it had been sent as often as is allowed",
            Self::PerhapsHandled => {
                "the connection broke after the request was on it, and the service may have handled it"
            }
            Self::Answered => "the service answered, and its answer is passed on, whatever its status",
            Self::AnswerBegun => "a part of the answer had gone to the client",
            Self::NoConnection => "only a connection that breaks is replaced by another; here there was none",
            Self::OutOfTime => "its time was up, or would have been before the next try",
            Self::ClientGone => "the client had left",
            Self::NotOfTheConnection => "what failed was not the connection, and another would not have helped",
            Self::NotCovered => "`retry.on` of the route does not name what came of it",
            Self::Never => "`retry.on` of the route says that what came of it is never tried again",
            Self::Budget => "the retry budget of the service is used up",
            Self::Limit => "as many retries as `limits.maxRetries` allows are under way already",
            Self::Pushback => "the service asked not to be tried again, or not soon enough",
            Self::TriedBeforeUs => "a proxy before this one tries again, and two that do would multiply",
            Self::NoEndpoint => "there was no endpoint left to send it to",
            Self::CircuitOpen => "a circuit breaker has opened meanwhile",
        }
    }
}

#[cfg(test)]
mod tests;

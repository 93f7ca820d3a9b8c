//! Decisions without input or output: the time and the randomness that they need are arguments.

pub mod authz;
pub mod backoff;
pub mod breaker;
pub mod budget;
pub mod caller;
pub mod guard;
pub mod learned;
pub mod outcome;
pub mod percentile;
pub mod pick;
pub mod probation;
pub mod retry;
pub mod split;
pub mod stale;
pub mod standing;

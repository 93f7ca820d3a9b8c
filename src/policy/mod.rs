//! Decisions without input or output: the time and the randomness that they need are arguments.

pub mod authz;
pub mod backoff;
pub mod balance;
pub mod breaker;
pub mod budget;
pub mod caller;
pub mod guard;
pub mod hash;
pub mod learned;
pub mod outcome;
pub mod outlier;
pub mod percentile;
pub mod probation;
pub mod retry;
pub mod shrink;
pub mod split;
pub mod stale;
pub mod standing;
pub mod streak;

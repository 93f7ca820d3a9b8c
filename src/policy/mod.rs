//! Decisions without input or output: the time and the randomness that they need are arguments.

pub mod authz;
pub mod breaker;
pub mod caller;
pub mod guard;
pub mod learned;
pub mod outcome;
pub mod pick;
pub mod probation;
pub mod split;
pub mod stale;
pub mod standing;

//! Decisions without input or output: the time and the randomness that they need are arguments.

pub mod authz;
pub mod backoff;
pub mod budget;
pub mod caller;
pub mod canary;
pub mod differ;
pub mod fault;
pub mod guard;
pub mod learned;
pub mod outcome;
pub mod percentile;
pub mod pick;
pub mod probation;
pub mod retry;
pub mod split;
pub mod standing;

//! Decisions without input or output: the time and the randomness that they need are arguments.

pub mod authz;
pub mod backoff;
pub mod balance;
pub mod breaker;
pub mod bucket;
pub mod budget;
pub mod caller;
pub mod canary;
pub mod class;
pub mod differ;
pub mod fault;
pub mod gradient;
pub mod guard;
pub mod hash;
pub mod learned;
pub mod outcome;
pub mod outlier;
pub mod percentile;
pub mod probation;
pub mod retry;
pub mod shed;
pub mod shrink;
pub mod split;
pub mod stale;
pub mod standing;
pub mod streak;

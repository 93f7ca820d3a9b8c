//! What another configuration would change for the traffic that has just been here.
//!
//! Each worker remembers a sample of its requests as [`Fingerprint`]s: no bodies, no secrets, and of the heads only
//! what the running configuration looks at ([`Looked`]). [`compare()`] holds them against two snapshots, by the same
//! `decide` that the data path calls, and answers in shares of the traffic ([`Radius`]). Pure, but for the
//! reservoir, which is told the time.

mod callers;
mod change;
mod compare;
mod fingerprint;
mod judge;
mod looked;
mod radius;
mod reservoir;
mod ruling;
mod shape;
mod told;

#[cfg(test)]
mod tests;

pub use callers::{Callers, Who};
pub use compare::compare;
pub use fingerprint::{Fingerprint, Seen};
pub use looked::Looked;
pub use radius::{Coverage, Group, Kind, Radius};
pub use reservoir::{Remembered, Reservoir, Sample};

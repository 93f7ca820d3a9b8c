//! HTTP: a downstream connection (`server`), one request on it from head to end of stream (`exchange`), and one try
//! at an upstream (`attempt`).

pub mod admission;
pub mod attempt;
pub mod circuit;
mod compare;
pub mod exchange;
mod fault;
mod mirror;
pub mod outcome;
mod outgoing;
mod patience;
mod record;
pub mod reply;
mod retry;
pub mod server;
mod terms;
pub mod tracked;
mod tries;
pub mod upgrade;

//! HTTP: a downstream connection (`server`), one request on it from head to end of stream (`exchange`), and one try
//! at an upstream (`attempt`).

pub mod attempt;
pub mod circuit;
pub mod exchange;
pub mod outcome;
mod record;
pub mod reply;
mod retry;
pub mod server;
pub mod tracked;
mod tries;
pub mod upgrade;

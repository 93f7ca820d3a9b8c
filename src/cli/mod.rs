//! The subcommands that ask, check and explain; `main` names them. Each is one file: its arguments, and `run`.

pub mod check;
pub mod client;
pub mod config;
pub mod diff;
pub mod explain;
pub mod paint;
mod sarif;
pub mod why;

//! The subcommands that ask, check and explain; `main` names them. Each is one file: its arguments, and `run`.

pub mod client;
pub mod paint;
pub mod why;

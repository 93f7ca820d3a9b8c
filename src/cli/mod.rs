//! The subcommands that ask a running proxy, or read a configuration without running it.

pub mod client;
pub mod diff;

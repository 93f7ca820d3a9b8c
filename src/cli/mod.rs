//! The subcommands of the command line that are more than a few lines: their arguments, and what they do.

pub mod check;
mod sarif;

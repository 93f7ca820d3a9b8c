//! The subcommands that ask, check and explain; `main` names them. Each is one file: its arguments, and `run`. What they
//! have in common is here: how they end, and where they write.

pub mod canary;
pub mod certs;
pub mod check;
pub mod client;
pub mod config;
pub mod diff;
pub mod explain;
pub mod faults;
pub mod intercept;
pub mod paint;
mod sarif;
pub mod why;

use std::io::Write;
use std::process::ExitCode;

use crate::app::{EXIT_CONFIG, EXIT_RUNTIME};
use crate::config::Report;
use paint::harmless;

/// Exit codes; 0 is done. A configuration, a change or a gate was refused.
pub const REFUSED: u8 = EXIT_CONFIG;
/// Of `why`: no longer kept, or never seen.
pub const NOT_KEPT: u8 = 1;
/// As clap has it.
pub const WRONG_USAGE: u8 = 2;
/// Of `explain`: no route matches.
pub const NO_ROUTE: u8 = 2;
/// No proxy answers, or the system is in the way.
pub const UNREACHABLE: u8 = EXIT_RUNTIME;

/// Admin address of a proxy whose configuration names none.
const DEFAULT_ADMIN: &str = "127.0.0.1:15000";

/// To standard output. Whoever reads only the beginning may close the pipe.
pub fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// What went wrong, in one line on standard error.
fn fail(why: &str, code: u8) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "error: {}", harmless(why));
    ExitCode::from(code)
}

/// The problems of a configuration, on standard error. They quote it.
fn tell(report: &Report) {
    let lines: String = report.to_string().lines().map(|line| harmless(line) + "\n").collect();
    let _ = std::io::stderr().write_all(lines.as_bytes());
}

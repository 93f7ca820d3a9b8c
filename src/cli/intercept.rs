//! `outrigger intercept`: the rules of the kernel that bring a pod's traffic to the proxy. `docs/interception.md` has the
//! way of a packet.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};

use super::paint::harmless;
use super::{REFUSED, UNREACHABLE, WRONG_USAGE, fail, print};
use crate::intercept::{self, Failure, Settings, rules, text};

#[derive(Debug, Args)]
pub struct Intercept {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Put the rules in place; replaces what an earlier `apply` left, in one transaction
    Apply(There),
    /// Print the rules, for whoever loads them by other means; changes nothing
    Print {
        #[command(flatten)]
        settings: Settings,
        /// For `nft -f -`, or for `iptables-restore -n` and `ip6tables-restore -n`
        #[arg(long, value_enum, default_value_t = Format::Nft)]
        format: Format,
    },
    /// Tell what is not as `apply` with the same flags would make it; exit 1 if anything is
    Verify(There),
    /// Remove the rules, and the routes of tproxy, if they are there
    Remove(Place),
}

#[derive(Debug, Args)]
struct There {
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
struct Place {
    /// In this network namespace, like /run/netns/NAME or /proc/PID/ns/net
    #[arg(long, value_name = "PATH")]
    netns: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Nft,
    Iptables,
}

/// Exit codes: 0 done, 1 `verify` found a difference, 2 flags that contradict each other, 3 the system is in the way.
pub fn run(args: Intercept) -> ExitCode {
    let settings = match &args.what {
        What::Apply(there) | What::Verify(there) => Some(&there.settings),
        What::Print { settings, .. } => Some(settings),
        What::Remove(_) => None,
    };
    if let Some(Err(why)) = settings.map(Settings::check) {
        return fail(&why, WRONG_USAGE);
    }
    match done(&args.what) {
        Ok(code) => code,
        Err(failure) => {
            tell("error", &failure.to_string());
            ExitCode::from(UNREACHABLE)
        }
    }
}

fn done(what: &What) -> Result<ExitCode, Failure> {
    match what {
        What::Apply(There { settings, place }) => {
            enter(place.netns.as_deref())?;
            let hints = intercept::apply(settings)?;
            hints.iter().for_each(|hint| tell("warning", hint));
            let rules: usize = rules::chains(settings).iter().map(|chain| chain.rules.len()).sum();
            print(&format!("applied: {rules} rules in the table inet {}\n", intercept::TABLE));
        }
        What::Print { settings, format } => print(&match format {
            Format::Nft => text::nft(settings),
            Format::Iptables => text::iptables(settings),
        }),
        What::Verify(There { settings, place }) => {
            enter(place.netns.as_deref())?;
            let found = intercept::verify(settings)?;
            found.hints.iter().for_each(|hint| tell("warning", hint));
            if !found.differences.is_empty() {
                let lines: String = found.differences.iter().map(|line| harmless(line) + "\n").collect();
                print(&lines);
                tell(
                    "error",
                    "the rules are not as they should be\n  `outrigger intercept apply` with the same flags replaces them",
                );
                return Ok(ExitCode::from(REFUSED));
            }
            print("ok: the rules are as they should be\n");
        }
        What::Remove(place) => {
            enter(place.netns.as_deref())?;
            intercept::remove()?;
            print("removed\n");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn enter(netns: Option<&Path>) -> Result<(), Failure> {
    netns.map_or(Ok(()), intercept::enter)
}

/// On standard error; names of others are in it.
fn tell(what: &str, text: &str) {
    let lines: Vec<String> = text.lines().map(harmless).collect();
    let _ = writeln!(std::io::stderr(), "{what}: {}", lines.join("\n"));
}

//! `outrigger check`: every problem of a configuration, for people, for scripts, and for whatever reads SARIF. What is
//! a problem is not decided here: it is what `run` refuses, and what the rules of an organisation ask.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::paint::harmless;
use super::{REFUSED, sarif};
use crate::app::Origin;
use crate::config::lint::{self, Rules};
use crate::config::{self, Report};

#[derive(Debug, Args)]
pub struct Check {
    /// A YAML file, or a directory of *.yaml files
    #[arg(long, value_name = "PATH", env = "OUTRIGGER_CONFIG")]
    pub config: PathBuf,
    /// A YAML file with the rules of an organisation
    #[arg(long, value_name = "FILE")]
    pub lint: Option<PathBuf>,
    /// What to print
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Problems on standard error, `ok` on standard output
    Text,
    /// One object on standard output
    Json,
    /// SARIF 2.1.0 on standard output, for code hosts and editors
    Sarif,
}

/// Exits with 1 if there is more than warnings.
pub fn run(args: Check) -> ExitCode {
    let (rules, report) = problems(&args);
    let ok = !report.has_errors();
    print(&args, &rules, &report, ok);
    if ok { ExitCode::SUCCESS } else { ExitCode::from(REFUSED) }
}

fn problems(args: &Check) -> (Rules, Report) {
    let mut problems = Vec::new();
    let rules = args.lint.as_deref().map(lint::load).transpose().unwrap_or_else(|report| {
        problems.extend(report.into_problems());
        None
    });
    let rules = rules.unwrap_or_default();
    match Origin::Path(args.config.clone()).load() {
        Ok(config) => {
            problems.extend(config::warnings(&config, SystemTime::now()));
            problems.extend(lint::lint(&rules, &config));
        }
        Err(report) => problems.extend(report.into_problems()),
    }
    (rules, Report::new(problems))
}

fn print(args: &Check, rules: &Rules, report: &Report, ok: bool) {
    match args.format {
        Format::Text => {
            if !report.problems().is_empty() {
                super::tell(report);
            }
            if ok {
                super::print(&format!("{}: ok\n", harmless(&args.config.display().to_string())));
            }
        }
        Format::Json => super::print(&format!("{:#}\n", json!({ "ok": ok, "problems": report }))),
        Format::Sarif => super::print(&format!("{:#}\n", sarif::log(rules, report, &args.config))),
    }
}

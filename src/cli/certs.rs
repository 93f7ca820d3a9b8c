//! `outrigger certs`: makes certificates for development, and tells what is in certificates.

mod dev;
mod show;
mod text;

use std::process::ExitCode;

use clap::{Args, Subcommand};

#[derive(Debug, Args)]
pub struct Certs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Make an authority and certificates of workloads, for development
    Dev(dev::Dev),
    /// Tell what is in certificates, and what is wrong with them; exit 1 if anything is
    Show(show::Show),
}

/// Exit codes: 0 done, 1 refused or a problem, 3 no proxy answers or the system is in the way.
pub fn run(args: Certs) -> ExitCode {
    match args.what {
        What::Dev(dev) => dev::run(&dev),
        What::Show(show) => show::run(&show),
    }
}

//! `outrigger certs`: makes certificates for development, and tells what is in certificates.

mod dev;

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
}

/// Exit codes: 0 done, 1 refused, 3 the system is in the way.
pub fn run(args: Certs) -> ExitCode {
    match args.what {
        What::Dev(dev) => dev::run(&dev),
    }
}

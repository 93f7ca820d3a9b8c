//! `outrigger certs show`: what files of certificates say, or what a running proxy has loaded.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use clap::Args;
use serde_json::{Value, json};

use super::text;
use crate::cli::client::{self, Unreachable};
use crate::cli::paint::{Format, Paint};
use crate::cli::{DEFAULT_ADMIN, REFUSED, UNREACHABLE, fail, print};
use crate::identity::inspect::{Against, inspect};

#[derive(Debug, Args)]
pub struct Show {
    /// PEM: a certificate with its intermediates, or trust anchors
    #[arg(value_name = "FILE", required_unless_present = "admin")]
    files: Vec<PathBuf>,
    /// Ask a running proxy for what it has loaded, at its admin address
    #[arg(long, value_name = "ADDR", num_args = 0..=1, default_missing_value = DEFAULT_ADMIN,
          conflicts_with_all = ["files", "key", "bundle", "server"])]
    admin: Option<SocketAddr>,
    /// The private key that is to be the certificate's; one in FILE is looked at in any case
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// The trust anchors that the chain is to lead to
    #[arg(long, value_name = "FILE")]
    bundle: Option<PathBuf>,
    /// It is for ordinary TLS (`tls: { mode: server }`), and needs a DNS name in place of a SPIFFE id
    #[arg(long)]
    server: bool,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// Exit codes: 0 no problem, 1 some, 3 no proxy answers.
pub fn run(args: &Show) -> ExitCode {
    let found = match args.admin {
        Some(admin) => match loaded(admin) {
            Ok(found) => found,
            Err(why) => return fail(&why, UNREACHABLE),
        },
        None => files(args),
    };
    print(&match args.format {
        Format::Json => format!("{found:#}\n"),
        Format::Text => text::all(&found, Paint::stdout()),
    });
    if text::problems(&found) { ExitCode::from(REFUSED) } else { ExitCode::SUCCESS }
}

fn files(args: &Show) -> Value {
    let against = Against { key: args.key.as_deref(), bundle: args.bundle.as_deref(), server: args.server };
    let now = SystemTime::now();
    let one = |file: &PathBuf| {
        let report = inspect(file, &against, now);
        json!({ "file": file.to_string_lossy(), "certificates": report.certificates, "problems": report.problems })
    };
    json!({ "files": args.files.iter().map(one).collect::<Vec<_>>() })
}

fn loaded(admin: SocketAddr) -> Result<Value, String> {
    let (status, value) = client::get(admin, "/certs", "files").map_err(|error: Unreachable| error.to_string())?;
    if status == 200 { Ok(value) } else { Err(format!("{admin} answered {status}: {}", value["error"])) }
}

//! `outrigger certs dev`: an authority in a directory, and certificates of workloads by it, in place of a control plane.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use crate::cli::paint::harmless;
use crate::cli::{REFUSED, UNREACHABLE, fail, print};
use crate::identity::dev::{Authority, BUNDLE, CERTIFICATE, Fault, KEY, Workload, is_name};
use crate::telemetry::rfc3339::Rfc3339;
use crate::wire::spiffe::is_trust_domain;

const DAY: Duration = Duration::from_secs(86_400);

#[derive(Debug, Args)]
pub struct Dev {
    /// Whose identities: spiffe://NAME/ns/NS/sa/SA
    #[arg(long, value_name = "NAME", value_parser = trust_domain)]
    trust_domain: String,
    /// Where to write; an authority that is there is used again
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Namespace and service account; a certificate that is there is replaced
    #[arg(long = "workload", value_name = "NS/SA", required = true)]
    workloads: Vec<Workload>,
    /// Life of the certificates of workloads
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
    /// A DNS name or an address that these certificates prove, too, for `tls: { mode: server }`
    #[arg(long = "dns", value_name = "NAME", value_parser = name)]
    names: Vec<String>,
}

/// Exit codes: 0 written, 1 the directory has another authority, 3 it cannot be written.
pub fn run(args: &Dev) -> ExitCode {
    let mut out = String::new();
    let made = make(args, &mut out);
    // What was written before a fault is there.
    print(&out);
    match made {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            let code = if matches!(fault, Fault::Refused(_)) { REFUSED } else { UNREACHABLE };
            fail(&fault.to_string(), code)
        }
    }
}

fn make(args: &Dev, out: &mut String) -> Result<(), Fault> {
    let (authority, new) = Authority::at(&args.out, &args.trust_domain)?;
    let what = if new { "a new authority" } else { "the authority that was there" };
    let until = Rfc3339(authority.not_after());
    let _ = writeln!(out, "{}  {what} of {}, until {until}", shown(&args.out.join(BUNDLE)), args.trust_domain);
    let mut blocks = String::new();
    for workload in &args.workloads {
        let directory = args.out.join(&workload.namespace).join(&workload.account);
        let what = if directory.join(CERTIFICATE).exists() { "renewed" } else { "new" };
        let pair = authority.issue(workload, DAY * args.days, &args.names)?;
        authority.write(&pair, &directory)?;
        let _ = writeln!(out, "{}  {what}: {}, until {}", shown(&directory), pair.id, Rfc3339(pair.not_after));
        blocks += &block(&args.trust_domain, workload, &directory);
    }
    out.push_str(&blocks);
    Ok(())
}

/// What its proxy is told.
fn block(trust_domain: &str, workload: &Workload, directory: &Path) -> String {
    // Wherever the proxy is started.
    let directory = std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
    let file = |name| serde_json::Value::from(directory.join(name).to_string_lossy()).to_string();
    format!(
        "\n# {workload}\nidentity:\n  trustDomain: {trust_domain}\n  certificate: {}\n  privateKey: {}\n  \
         trustBundle: {}\n",
        file(CERTIFICATE),
        file(KEY),
        file(BUNDLE)
    )
}

fn shown(path: &Path) -> String {
    harmless(&path.display().to_string())
}

fn trust_domain(text: &str) -> Result<String, &'static str> {
    if is_trust_domain(text) {
        Ok(text.to_owned())
    } else {
        Err("it has other characters than a-z, 0-9, `.`, `-`, `_`")
    }
}

fn name(text: &str) -> Result<String, &'static str> {
    if is_name(text) { Ok(text.to_owned()) } else { Err("it is neither a DNS name nor an address") }
}

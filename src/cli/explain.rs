//! `outrigger explain`: why a request would go where it goes, by a configuration or by a running proxy.

mod text;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::client::{self, Unreachable};
use super::paint::{Format, Paint};
use super::{DEFAULT_ADMIN, NO_ROUTE, REFUSED, UNREACHABLE, WRONG_USAGE};
use crate::app::Origin;
use crate::config::Report;
use crate::explain::{self, Ask, Explanation, Outcome};
use crate::snapshot;

/// For endpoints that have to be looked up.
const LOOK_UP: Duration = Duration::from_secs(2);

const EXIT_CODES: &str =
    "Exit codes: 0 explained, 1 configuration refused, 2 no route matches, or wrong usage, 3 no proxy answers";

#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub struct Explain {
    /// The request, as curl takes it: a URL, behind its method if that is not GET
    #[arg(value_name = "[METHOD] URL", required = true, num_args = 1..=2)]
    request: Vec<String>,
    /// By this file or directory; nothing has to run
    #[arg(long, value_name = "PATH", conflicts_with = "admin")]
    config: Option<PathBuf>,
    /// By the proxy with this admin address, with what is going on there now
    #[arg(long, value_name = "ADDR", default_value = DEFAULT_ADMIN)]
    admin: SocketAddr,
    /// A header of the request, `name: value`
    #[arg(short = 'H', long = "header", value_name = "LINE")]
    headers: Vec<String>,
    /// The listener that it comes to
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// The port that it comes to
    #[arg(long, value_name = "N")]
    port: Option<u16>,
    /// Where it was going before the kernel redirected it: `ip:port`
    #[arg(long, value_name = "ADDR")]
    to: Option<String>,
    /// The caller: a SPIFFE id, an address, or both with a comma between them
    #[arg(long, value_name = "CALLER")]
    from: Option<String>,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// Why nothing is explained.
enum Failed {
    Refused(Report),
    /// With the exit code.
    Other(String, u8),
}

/// Exit codes: see `EXIT_CODES`.
pub fn run(args: Explain) -> ExitCode {
    let ask = ask(&args);
    let explained = match &args.config {
        Some(path) => offline(path, &ask),
        None => live(args.admin, &ask),
    };
    let explanation = match explained {
        Ok(explanation) => explanation,
        Err(Failed::Refused(report)) => {
            super::tell(&report);
            return ExitCode::from(REFUSED);
        }
        Err(Failed::Other(why, code)) => return super::fail(&why, code),
    };
    super::print(&match args.format {
        Format::Json => format!("{:#}\n", serde_json::to_value(&explanation).unwrap_or_default()),
        Format::Text => text::render(&explanation, Paint::stdout()),
    });
    match explanation.outcome {
        Outcome::NoRoute => ExitCode::from(NO_ROUTE),
        _ => ExitCode::SUCCESS,
    }
}

fn ask(args: &Explain) -> Ask {
    let (method, url) = match args.request.as_slice() {
        [method, url, ..] => (method.clone(), url.clone()),
        [url] => (String::new(), url.clone()),
        [] => (String::new(), String::new()),
    };
    Ask {
        method,
        url,
        headers: args.headers.clone(),
        listener: args.listener.clone(),
        port: args.port,
        to: args.to.clone(),
        from: args.from.clone(),
    }
}

fn offline(path: &Path, ask: &Ask) -> Result<Explanation, Failed> {
    let loaded = Origin::Path(path.to_owned()).load();
    let config = Arc::new(loaded.map_err(Failed::Refused)?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failed::Other(format!("no event loop: {error}"), UNREACHABLE))?;
    runtime.block_on(async {
        let snapshot = snapshot::compile(config, 0, None);
        let settled = async {
            for service in &snapshot.services {
                service.upstream.settled().await;
            }
        };
        // What is not found by then is shown as it is: without endpoints, and with the error of the look-up.
        let _ = tokio::time::timeout(LOOK_UP, settled).await;
        explain::explain(&snapshot, ask).map_err(|why| Failed::Other(why, WRONG_USAGE))
    })
}

fn live(admin: SocketAddr, ask: &Ask) -> Result<Explanation, Failed> {
    let body = serde_json::to_value(ask).unwrap_or_default();
    let unreachable = |error: Unreachable| Failed::Other(error.to_string(), UNREACHABLE);
    let (status, answer) = client::post(admin, "/explain", &body, "outcome").map_err(unreachable)?;
    if status == 200 {
        let foreign = |_| unreachable(Unreachable::Foreign(admin, "its explanation has another shape".to_owned()));
        return serde_json::from_value(answer).map_err(foreign);
    }
    let why = answer.get("error").and_then(Value::as_str).unwrap_or("it does not explain");
    Err(Failed::Other(why.to_owned(), if status == 400 { WRONG_USAGE } else { UNREACHABLE }))
}

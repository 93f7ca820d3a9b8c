//! The command line. Exit codes are in `EXIT_CODES`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use outrigger::app::{self, Options, Origin};
use outrigger::cli;
use outrigger::config::units::Duration;
use outrigger::wire::address::Address;

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// jemalloc reads its options here. What a burst of connections leaves behind goes back to the system within a
/// second, by a thread of jemalloc's own; few arenas, because each keeps pages of its own.
#[cfg(feature = "jemalloc")]
#[allow(unsafe_code, reason = "the name by which jemalloc finds it")]
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static MALLOC_CONF: &[u8; 69] = b"background_thread:true,dirty_decay_ms:300,muzzy_decay_ms:0,narenas:4\0";

/// A service-mesh data-plane proxy: the small, fast hull beside every pod.
#[derive(Parser)]
#[command(version, arg_required_else_help = true, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 configuration refused, 2 wrong usage (for `explain` also: no route matches), \
                          3 could not run (an address is taken, …) or no proxy answers";

#[derive(Subcommand)]
enum Command {
    /// Run the proxy
    Run(Run),
    /// Report every problem of a configuration; exit 1 if there is any
    Check(cli::check::Check),
    /// Tell why a request would go where it goes
    Explain(Box<cli::explain::Explain>),
    /// Tell what happened to a request, by its id
    Why(cli::why::Why),
    /// The configurations that went live: list, compare, go back, pin
    Config(cli::config::Config),
    /// Tell what another configuration would change, over the recent traffic of a running proxy
    Diff(cli::diff::Diff),
    /// Faults on purpose in a running proxy: status, stop, start
    Faults(cli::faults::Faults),
    /// Canaries of a running proxy: status, step, promote, abort
    Canary(cli::canary::Canary),
    /// Make certificates for development; tell what is in certificates
    Certs(cli::certs::Certs),
    /// The rules of the kernel that bring a pod's traffic to the proxy: apply, print, verify, remove
    Intercept(Box<cli::intercept::Intercept>),
    /// Run two proxies with mTLS between them, and an embedded service in two versions, to try things out
    Demo(Demo),
    /// Print the JSON Schema of the configuration, for editors
    Schema,
    /// Print the version
    Version,
}

#[derive(Args)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true))]
struct Run {
    /// A YAML file, or a directory of *.yaml files; watched while running
    #[arg(long, value_name = "PATH", env = "OUTRIGGER_CONFIG", group = "what", conflicts_with_all = ["listen", "upstream"])]
    config: Option<PathBuf>,
    /// Without a file: accept here …
    #[arg(long, value_name = "ADDR", group = "what", requires = "upstream")]
    listen: Option<Address>,
    /// … and forward there (ip:port, name:port, unix:/path or unix:@name)
    #[arg(long, value_name = "ADDR", group = "what", requires = "listen")]
    upstream: Option<String>,
    /// Where the last good configurations are kept; overrides `state.directory`
    #[arg(long, value_name = "DIR", env = "OUTRIGGER_STATE_DIRECTORY")]
    state_directory: Option<PathBuf>,
    /// Where no configuration can go live yet, wait this long for one, and hold what is redirected to 15001 and 15006
    #[arg(long, value_name = "DURATION", env = "OUTRIGGER_AWAIT_CONFIG", default_value = "0s")]
    await_config: Duration,
}

#[derive(Args)]
struct Demo {
    /// Another configuration, whose static endpoints the demo answers at; each further one is that of a proxy beside it
    #[arg(long = "config", value_name = "PATH")]
    files: Vec<PathBuf>,
    /// Started by another demo
    #[arg(long, hide = true, requires = "files")]
    beside: bool,
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run(mut run) => {
            let state_directory = run.state_directory.take();
            let await_config = *run.await_config;
            app::run(origin(run), Options { state_directory, await_config })
        }
        Command::Check(check) => cli::check::run(check),
        Command::Explain(explain) => cli::explain::run(*explain),
        Command::Why(why) => cli::why::run(why),
        Command::Config(config) => cli::config::run(config),
        Command::Diff(diff) => cli::diff::run(diff),
        Command::Faults(faults) => cli::faults::run(faults),
        Command::Canary(canary) => cli::canary::run(canary),
        Command::Certs(certs) => cli::certs::run(certs),
        Command::Intercept(intercept) => cli::intercept::run(*intercept),
        Command::Demo(demo) => outrigger::demo::run(demo.files, demo.beside),
        Command::Schema => {
            cli::print(&format!("{:#}\n", outrigger::config::json_schema()));
            ExitCode::SUCCESS
        }
        Command::Version => {
            cli::print(concat!("outrigger ", env!("CARGO_PKG_VERSION"), "\n"));
            ExitCode::SUCCESS
        }
    }
}

fn origin(run: Run) -> Origin {
    match (run.config, run.listen, run.upstream) {
        (Some(path), ..) => Origin::Path(path),
        (None, Some(listen), Some(upstream)) => Origin::bare(&listen, &upstream),
        // clap has refused everything else.
        (None, ..) => Origin::Path(PathBuf::new()),
    }
}

//! `outrigger demo`: the real proxy in front of an embedded service in two versions, and a little traffic of its own,
//! so that there is something to look at and to change. Every byte between them crosses a socket.

mod load;
mod service;

use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::app::{self, EXIT_CONFIG, EXIT_RUNTIME, Options, Origin};
use crate::config::schema::Root;
use crate::discovery::Spec;
use crate::net::socket;

const FILE: &str = "config/demo.yaml";
/// Where the file's text goes if there is no such file: somebody runs the binary alone.
const COPY: &str = "outrigger-demo.yaml";
const TEXT: &str = include_str!("../config/demo.yaml");

/// Where one runs, and what there is to try.
struct Stage {
    file: PathBuf,
    proxy: SocketAddr,
    admin: SocketAddr,
    health: SocketAddr,
    /// The addresses that the demo answers at, with the service and version that it answers as.
    services: Vec<(TcpListener, service::Identity)>,
}

/// Runs the demo with `file`, or with its own configuration, until Ctrl-C or a drain.
pub fn run(file: Option<PathBuf>) -> ExitCode {
    let stage = match file.map_or_else(own_file, Ok).and_then(Stage::new) {
        Ok(stage) => stage,
        Err(code) => return ExitCode::from(code),
    };
    let file = stage.file.clone();
    let company = std::thread::Builder::new().name("demo".to_owned()).spawn(|| stage.play());
    if let Err(error) = company {
        return ExitCode::from(told(&format!("no thread for the demo: {error}")));
    }
    let code = app::run(Origin::Path(file), Options::default());
    if code == ExitCode::SUCCESS {
        say("Drained and stopped. Goodbye.\n");
    }
    code
}

/// The file in the working directory; made there if need be.
fn own_file() -> Result<PathBuf, u8> {
    if Path::new(FILE).exists() {
        return Ok(FILE.into());
    }
    if !Path::new(COPY).exists() {
        std::fs::write(COPY, TEXT).map_err(|error| told(&format!("cannot write {COPY}: {error}")))?;
        say(&format!("Wrote {COPY}, the configuration of the demo.\n"));
    }
    Ok(COPY.into())
}

impl Stage {
    fn new(file: PathBuf) -> Result<Self, u8> {
        let config = Origin::Path(file.clone()).load().map_err(|report| {
            eprint!("{report}");
            EXIT_CONFIG
        })?;
        let root = config.root();
        // The proxy binds these itself. A look beforehand is for a message that says what to do.
        for listener in &root.listeners {
            drop(bind(&format!("listener `{}`", listener.name), listener.address, &file)?);
        }
        drop(bind("admin", root.admin.address, &file)?);
        drop(bind("health", root.health.address, &file)?);
        let first = root.listeners.first().map(|listener| reachable(listener.address));
        let proxy = first.ok_or_else(|| told(&format!("{} has no listener", file.display())))?;
        let (admin, health) = (reachable(root.admin.address), reachable(root.health.address));
        Ok(Self { services: services(root, &file)?, file, proxy, admin, health })
    }

    /// Everything but the proxy. Ends with the process.
    fn play(self) {
        match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime.block_on(self.perform()),
            Err(error) => eprintln!("error: no event loop for the demo: {error}"),
        }
    }

    async fn perform(mut self) {
        for (listener, identity) in self.services.drain(..) {
            tokio::spawn(service::serve(listener, identity));
        }
        load::reachable(self.proxy).await;
        say(&self.advice());
        load::run(self.proxy).await;
        // The service goes on for those who still wait for an answer.
        std::future::pending().await
    }

    fn advice(&self) -> String {
        let Self { file, proxy, admin, health, .. } = self;
        let file = file.display();
        // The address that the commands ask unless told.
        let asked = if admin.to_string() == "127.0.0.1:15000" { String::new() } else { format!(" --admin {admin}") };
        format!(
            r#"
Outrigger is running on http://{proxy}, in front of a service in two versions. Try, in another terminal:

  a request                 curl -i http://{proxy}/reviews/7
  the canary, by header     curl -H 'x-env: canary' http://{proxy}/reviews/7
  the split of 90 and 10    for i in $(seq 100); do curl -s http://{proxy}/; done | grep -o '"version":"v."' | sort | uniq -c
  a user stays on a side    for i in 1 2 3; do curl -s -H 'x-user-id: ada' http://{proxy}/; done
  why does it go there      outrigger explain{asked} http://{proxy}/ -H 'x-user-id: ada'
  what became of requests   outrigger why{asked}
  look before a change      sed 's/weight: 90/weight: 50/; s/weight: 10/weight: 50/' {file} > new.yaml
                            outrigger diff{asked} new.yaml
  change it, live           sed -i 's/weight: 90/weight: 50/; s/weight: 10/weight: 50/' {file}
                            ... and watch the line below, or ask for the split again
  what was live, and back   outrigger config history{asked}; outrigger config rollback 1{asked}
  make a mistake            sed -i 's/split:/splitt:/' {file}; sleep 1; curl -s http://{health}/healthz
                            ... nothing breaks; undo it with s/splitt:/split:/
  server-sent events        curl -N http://{proxy}/events
  more of the service       /echo (POST)   /slow?ms=500   /status/503
  metrics                   curl -s http://{health}/metrics | grep ^http_requests_total
  endpoints and pools       curl -s http://{admin}/clusters
  drain and stop            curl -X POST http://{admin}/drain, or Ctrl-C

"#
        )
    }
}

/// The addresses that the services are configured with, bound.
fn services(root: &Root, file: &Path) -> Result<Vec<(TcpListener, service::Identity)>, u8> {
    let mut bound = Vec::new();
    for (name, service) in &root.services {
        let Spec::Fixed(endpoints) = Spec::new(service) else { continue };
        for endpoint in endpoints {
            let version = endpoint.labels.get("version").cloned().unwrap_or_else(|| endpoint.address.to_string());
            let listener = bind(&format!("service `{name}`"), endpoint.address, file)?;
            bound.push((listener, service::Identity { service: name.clone(), version }));
        }
    }
    Ok(bound)
}

fn bind(what: &str, address: SocketAddr, file: &Path) -> Result<TcpListener, u8> {
    socket::listen(address).map_err(|error| {
        told(&format!(
            "cannot listen on {address} ({what}): {error}\n       \
             stop what listens there (`ss -ltnp 'sport = :{}'` names it), or change the address in {}",
            address.port(),
            file.display()
        ))
    })
}

/// Where to knock at a socket that listens on every address.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        other => other.ip(),
    };
    SocketAddr::new(ip, address.port())
}

fn told(text: &str) -> u8 {
    eprintln!("error: {text}");
    EXIT_RUNTIME
}

/// Writes to standard output. That nobody reads it is no reason to stop, as it would be with `println!`.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

//! `outrigger demo`: two real proxies with mTLS between them, behind the second an embedded service in two versions, and a
//! little traffic of its own, so that there is something to look at and to change. Every byte between them crosses a
//! socket.

mod beside;
mod certificates;
mod load;
mod service;

use std::convert::Infallible;
use std::io::{IsTerminal, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::app::{self, EXIT_CONFIG, EXIT_RUNTIME, Options, Origin};
use crate::config::schema::{Root, ServiceTlsMode};
use crate::discovery::Spec;
use crate::identity::dev::Fault;
use crate::net::socket;
use beside::Beside;
use certificates::Ours;

/// The caller's, and that of whom it calls.
const FILES: [(&str, &str); 2] = [
    ("config/demo.yaml", include_str!("../config/demo.yaml")),
    ("config/demo-reviews.yaml", include_str!("../config/demo-reviews.yaml")),
];
/// Where they have their certificates.
const CERTIFICATES: &str = "target/demo";
/// Where all of it goes if there are no such files: somebody runs the binary alone.
const COPIES: &str = "outrigger-demo";
/// What is between the first proxy and the service, where there is another.
const OVER: &str = "with mTLS to another one ";
/// Certificates are renewed after so long, to be seen, and then so often.
const RENEWAL: Duration = Duration::from_secs(10);
const RENEWALS: Duration = Duration::from_secs(1200);
/// Longest that it is waited for until one is live.
const LIVE: Duration = Duration::from_secs(5);

/// Where one of the proxies runs, and what belongs to it.
struct Stage {
    file: PathBuf,
    listeners: Vec<SocketAddr>,
    admin: SocketAddr,
    health: SocketAddr,
    /// The addresses that the demo answers at, with the service and version that it answers as.
    services: Vec<(TcpListener, service::Identity)>,
    certificate: Option<Ours>,
}

/// Runs the demo with these files, or with its own, until Ctrl-C or a drain: the first in this process, a process for each
/// of the others. One that runs `beside` another is such a process.
pub fn run(files: Vec<PathBuf>, beside: bool) -> ExitCode {
    perform(files, beside).unwrap_or_else(ExitCode::from)
}

/// An error has been told, and is the exit code.
fn perform(files: Vec<PathBuf>, beside: bool) -> Result<ExitCode, u8> {
    let files = if files.is_empty() { own_files()? } else { files };
    // All of them before any, so that whatever is in the way is told at once.
    let mut others = files.into_iter().map(Stage::new).collect::<Result<Vec<_>, _>>()?;
    let first = others.remove(0);
    let file = first.file.clone();
    let company = std::thread::Builder::new().name("demo".to_owned());
    let (company, processes) = if beside {
        (company.spawn(move || first.accompany()), Vec::new())
    } else {
        for ours in others.iter().chain([&first]).filter_map(|stage| stage.certificate.as_ref()) {
            ours.renew().map_err(faulty)?;
        }
        // Theirs to bind.
        others.iter_mut().for_each(|stage| stage.services.clear());
        let processes = others.iter().map(|stage| Beside::start(&stage.file)).collect::<Result<Vec<_>, _>>();
        let processes = processes.map_err(|error| told(&format!("no process for another proxy: {error}")))?;
        (company.spawn(move || first.play(&others)), processes)
    };
    company.map_err(|error| told(&format!("no thread for the demo: {error}")))?;
    let code = app::run(Origin::Path(file), Options::default());
    drop(processes);
    if code == ExitCode::SUCCESS && !beside {
        say("Drained and stopped. Goodbye.\n");
    }
    Ok(code)
}

/// The files in the working directory; made there if need be.
fn own_files() -> Result<Vec<PathBuf>, u8> {
    if FILES.iter().all(|(file, _)| Path::new(file).exists()) {
        return Ok(FILES.map(|(file, _)| file.into()).to_vec());
    }
    let folder = Path::new(COPIES);
    std::fs::create_dir_all(folder).map_err(|error| told(&format!("cannot make {COPIES}: {error}")))?;
    let copy = |(file, text): (&str, &str)| {
        let copy = folder.join(Path::new(file).file_name().unwrap_or_default());
        if !copy.exists() {
            let text = text.replace(CERTIFICATES, COPIES).replace("config/", &format!("{COPIES}/"));
            std::fs::write(&copy, text).map_err(|error| told(&format!("cannot write {}: {error}", copy.display())))?;
            say(&format!("Wrote {}.\n", copy.display()));
        }
        Ok(copy)
    };
    FILES.into_iter().map(copy).collect()
}

impl Stage {
    fn new(file: PathBuf) -> Result<Self, u8> {
        let config = Origin::Path(file.clone()).load().map_err(|report| {
            eprint!("{report}");
            EXIT_CONFIG
        })?;
        let root = config.root();
        // The proxy binds these itself. A look beforehand is for a message that says what to do.
        let addresses = || root.listeners.iter().filter_map(|one| Some((&*one.name, one.address.socket()?)));
        for (name, address) in addresses() {
            drop(bind(&format!("listener `{name}`"), address, &file)?);
        }
        drop(bind("admin", root.admin.address, &file)?);
        drop(bind("health", root.health.address, &file)?);
        let listeners: Vec<_> = addresses().map(|(_, address)| reachable(address)).collect();
        if listeners.is_empty() {
            return Err(told(&format!("{} has no listener", file.display())));
        }
        let (admin, health) = (reachable(root.admin.address), reachable(root.health.address));
        let certificate = root.identity.as_ref().map(Ours::new).transpose().map_err(faulty)?.flatten();
        Ok(Self { services: services(root, &file)?, file, listeners, admin, health, certificate })
    }

    /// Everything but the proxies. Ends with the process.
    fn play(mut self, others: &[Self]) {
        let services = std::mem::take(&mut self.services);
        on_a_loop(async {
            serve(services);
            for address in others.iter().chain([&self]).flat_map(|stage| &stage.listeners) {
                load::reachable(*address).await;
            }
            say(&self.advice(others));
            // The service goes on for those who still wait for an answer.
            tokio::join!(load::run(self.proxy()), renew(others.iter().chain([&self])));
        });
    }

    /// What is done in a process beside another, besides its proxy.
    fn accompany(self) {
        let admin = self.admin;
        on_a_loop(async {
            serve(self.services);
            let _ = tokio::task::spawn_blocking(move || beside::end_with_parent(admin)).await;
            std::future::pending::<()>().await;
        });
    }

    fn proxy(&self) -> SocketAddr {
        self.listeners.first().copied().unwrap_or(self.admin)
    }

    fn advice(&self, others: &[Self]) -> String {
        let Self { file, admin, health, .. } = self;
        let (file, proxy) = (file.display(), self.proxy());
        let (behind, mtls) = others.first().map_or(("", String::new()), |other| (OVER, other.mtls_advice(proxy)));
        // The address that the commands ask unless told.
        let asked = if admin.to_string() == "127.0.0.1:15000" { String::new() } else { format!(" --admin {admin}") };
        format!(
            r#"
Outrigger is running on http://{proxy}, {behind}in front of a service in two versions.
Try, in another terminal:

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
{mtls}  server-sent events        curl -N http://{proxy}/events
  more of the service       /echo (POST)   /slow?ms=500   /status/503
  metrics                   curl -s http://{health}/metrics | grep ^http_requests_total
  endpoints and pools       curl -s http://{admin}/clusters
  drain and stop            curl -X POST http://{admin}/drain, or Ctrl-C

"#
        )
    }

    /// Of the proxy that is called by the other.
    fn mtls_advice(&self, caller: SocketAddr) -> String {
        let Self { file, admin, health, .. } = self;
        let (file, proxy) = (file.display(), self.proxy());
        format!(
            r#"  who has called            curl -s http://{caller}/reviews/7
                            ... `client` is x-forwarded-client-cert, as the service gets it
  what nobody may do        curl -i -X DELETE http://{caller}/reviews/7
                            ... `authorization` in {file} says so
  without a certificate     curl -k https://{proxy}/; curl -s http://{health}/metrics | grep handshake_failures
  who calls, and how        curl -s http://{admin}/peers
  whose certificates        outrigger certs show --admin {admin}
                            ... they are replaced while it runs; watch `errors` below
"#
        )
    }
}

/// Runs on this thread.
fn on_a_loop(play: impl Future<Output = ()>) {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(play),
        Err(error) => eprintln!("error: no event loop for the demo: {error}"),
    }
}

fn serve(services: Vec<(TcpListener, service::Identity)>) {
    for (listener, identity) in services {
        tokio::spawn(service::serve(listener, identity));
    }
}

/// Replaces the certificates while requests are on their way.
async fn renew(stages: impl Iterator<Item = &Stage> + Clone) -> Infallible {
    let mut pause = RENEWAL;
    loop {
        tokio::time::sleep(pause).await;
        pause = RENEWALS;
        for (stage, ours) in stages.clone().filter_map(|stage| Some((stage, stage.certificate.as_ref()?))) {
            let (before, began) = (certificates::generation(stage.admin).await, Instant::now());
            if let Err(fault) = ours.renew() {
                note(&format!("The certificate of {} was not renewed: {fault}", ours.workload));
                continue;
            }
            while certificates::generation(stage.admin).await == before && began.elapsed() < LIVE {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let took = began.elapsed();
            let live =
                if took < LIVE { format!("live after {} ms", took.as_millis()) } else { "not live yet".to_owned() };
            note(&format!("Renewed the certificate of {}: {live}; connections stay.", ours.workload));
        }
    }
}

/// The addresses that the services are configured with, bound. Where somebody has to prove who it is, another proxy is.
fn services(root: &Root, file: &Path) -> Result<Vec<(TcpListener, service::Identity)>, u8> {
    let mut bound = Vec::new();
    for (name, service) in &root.services {
        let Spec::Fixed(endpoints) = Spec::new(service) else { continue };
        if service.tls.as_ref().is_some_and(|tls| tls.mode != ServiceTlsMode::Off) {
            continue;
        }
        for endpoint in endpoints {
            let version = endpoint.labels.get("version").cloned().unwrap_or_else(|| endpoint.address.to_string());
            let Some(address) = endpoint.address.socket() else { continue };
            let listener = bind(&format!("service `{name}`"), address, file)?;
            bound.push((listener, service::Identity { service: name.clone(), version }));
        }
    }
    Ok(bound)
}

fn bind(what: &str, address: SocketAddr, file: &Path) -> Result<TcpListener, u8> {
    socket::listen(address, false).map_err(|error| {
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

fn faulty(fault: Fault) -> u8 {
    let code = told(&fault.to_string());
    if matches!(fault, Fault::Refused(_)) { EXIT_CONFIG } else { code }
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

/// In a line of its own, in place of that which is being refreshed.
fn note(text: &str) {
    let clear = if std::io::stdout().is_terminal() { "\r\x1b[2K" } else { "" };
    say(&format!("{clear}{text}\n"));
}

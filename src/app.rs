//! The process: start, reload, stop, and in which order. Everything here runs on the admin thread.

mod control;
mod first;
mod history;
mod identity;
mod keeper;
mod operate;
mod probation;
mod recent;
mod reload;
mod traffic;
mod trial;
mod wait;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use crate::admin::health::{Component, Health, Status};
use crate::admin::question::{Change, Reply};
use crate::admin::routes::{Admin, Surface};
use crate::admin::{probe, server};
use crate::config::schema::{Mode, UNIX};
use crate::config::{self, Config, Report};
use crate::drain::Phase;
use crate::health::Watch;
use crate::net::accept::Socket;
use crate::net::socket;
use crate::runtime;
use crate::snapshot::{Snapshot, circuit, compile};
use crate::telemetry::access::AccessLog;
use crate::telemetry::audit::Audit;
use crate::telemetry::baseline::Baseline;
use crate::telemetry::logs::Logs;
use crate::telemetry::metrics::{DrainPhase, Metrics};
use crate::wire::address::Address;
use crate::worker::{Mailbox, Order, Shared};
use control::Control;
use history::History;
use identity::Rotation;
use keeper::{Keeper, Trouble};
use trial::Trial;

/// Exit codes, as documented in `docs/cli.md`. 2 is clap's, for wrong usage.
pub const EXIT_CONFIG: u8 = 1;
pub const EXIT_RUNTIME: u8 = 3;

/// Share of the drain time in which an unready proxy still accepts: whoever sends has to learn that first.
const LAME_DUCK_SHARE: u32 = 10;
/// The first look-up of endpoints may delay readiness by this much, not more.
const FIRST_ENDPOINTS: Duration = Duration::from_secs(2);

/// For logs and disks, once nothing else is left to do.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Where the configuration comes from.
pub enum Origin {
    Path(PathBuf),
    /// A text of our own, which does not change.
    Text {
        name: &'static str,
        text: String,
    },
}

impl Origin {
    /// One listener in front of one service, without a file.
    pub fn bare(listen: &Address, upstream: &str) -> Self {
        let endpoints = match (upstream.parse::<Address>(), upstream.rsplit_once(':')) {
            (Err(_), Some((name, port))) if !upstream.starts_with(UNIX) => {
                format!("dns: {{ name: \"{name}\", port: {port} }}")
            }
            _ => format!("static: [\"{upstream}\"]"),
        };
        let text = format!(
            "apiVersion: outrigger/v1\n\
             listeners: [{{ name: default, mode: proxy, address: \"{listen}\" }}]\n\
             services: {{ default: {{ endpoints: {{ {endpoints} }} }} }}\n\
             routes: [{{ name: default, to: default }}]\n"
        );
        Self::Text { name: "command line", text }
    }

    /// For the log and the audit.
    fn name(&self) -> String {
        match self {
            Self::Path(path) => format!("file {}", path.display()),
            Self::Text { name, .. } => (*name).to_owned(),
        }
    }

    pub fn load(&self) -> Result<Config, Report> {
        let env = |name: &str| std::env::var(name).ok();
        match self {
            Self::Path(path) => config::load(path, &env),
            Self::Text { name, text } => config::parse(name, text, &env),
        }
    }
}

/// What the command line says besides the configuration.
#[derive(Debug, Default)]
pub struct Options {
    /// Overrides `state.directory`, and is known even if the configuration cannot be read.
    pub state_directory: Option<PathBuf>,
    /// How long redirected connections are held where there is no configuration that can go live.
    pub await_config: Duration,
}

/// Runs the proxy until it has drained.
pub fn run(origin: Origin, options: Options) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: no event loop: {error}");
            return ExitCode::from(EXIT_RUNTIME);
        }
    };
    let code = runtime.block_on(async {
        match App::start(origin, options).await {
            Ok(app) => app.serve().await,
            Err(code) => ExitCode::from(code),
        }
    });
    // A disk that hangs has had its last words; to drop the runtime would wait for it.
    runtime.shutdown_background();
    code
}

/// The running process.
pub struct App {
    origin: Origin,
    shared: Arc<Shared>,
    health: Arc<Health>,
    logs: Logs,
    control: Arc<Control>,
    sockets: Vec<Arc<Socket>>,
    threads: Vec<JoinHandle<()>>,
    probe: Option<tokio::task::JoinHandle<()>>,
    /// Keeps the watch on the configuration alive.
    _watcher: Option<config::source::Watcher>,
    changes: mpsc::Receiver<()>,
    commands: mpsc::Receiver<Command>,
    signals: Signals,
    audit: Audit,
    history: Arc<Mutex<History>>,
    keeper: Keeper,
    baseline: Baseline,
    rotation: Rotation,
    watch: Watch,
    /// What is on probation; each goes back to the one before it, the newest is last.
    trials: Vec<Trial>,
    /// Why what is live is not what the file says.
    stale: Option<String>,
}

/// What an operator wants changed.
pub struct Command {
    pub change: Change,
    /// Who asks.
    pub source: String,
    pub answer: oneshot::Sender<Reply>,
}

/// Commands that may wait.
const COMMANDS: usize = 16;
/// Between two looks at how the routes do.
const LOOK: Duration = Duration::from_secs(1);

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

impl App {
    /// Everything up to the first accepted connection; an error has been told and is the exit code.
    pub async fn start(origin: Origin, options: Options) -> Result<Self, u8> {
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            eprintln!("error: {what}: {error}");
            EXIT_RUNTIME
        };
        let mut signals = Signals::new().map_err(|error| failed("signals", &error))?;
        // The watch begins before the first reading, so that no change falls between the two.
        let (watcher, mut changes) =
            watch(&origin).map_err(|error| failed("cannot watch the configuration", &error))?;
        let (first, mut held) = wait::first(&origin, &options, &mut changes, &mut signals).await?;
        let config = first.config.clone();
        let root = config.root();
        let logs = crate::telemetry::logs::init(&root.telemetry.log).map_err(|error| failed("log", &error))?;
        let workers = runtime::worker_count(root.runtime.workers);
        let metrics = Metrics::new(workers, root.telemetry.metrics.max_series);
        let health = Health::new(workers);
        let access = AccessLog::stdout(&root.telemetry.access_log, &root.workload, metrics.clone())
            .map_err(|error| failed("access log", &error))?;
        let admin_socket = bind(root.admin.address)
            .await
            .map_err(|error| failed(&format!("admin address {}", root.admin.address), &error))?;
        let health_socket = bind(root.health.address)
            .await
            .map_err(|error| failed(&format!("health address {}", root.health.address), &error))?;
        // Probes come by the family that the node has. A machine without IPv6 has none of that.
        let other_family = match health_socket.local_addr().ok().and_then(socket::other_family) {
            Some(other) => bind(other).await.ok(),
            None => None,
        };
        let (mailboxes, mail): (Vec<_>, Vec<_>) = (0..workers).map(|_| mailbox()).unzip();
        let shared = Arc::new(Shared::new(
            compile(config.clone(), first.generation, None),
            metrics,
            access,
            health.clone(),
            mailboxes,
        ));
        traffic::resume(&shared.snapshot.load(), first.history.canaries());
        // There from the first scrape on, whichever worker is up by then.
        for listener in &shared.snapshot.load().listeners {
            shared.metrics.connections.get(&listener.name);
        }
        shared.metrics.circuits.set(circuit::series(&shared.snapshot.load()));
        // As after a reload, which takes such a configuration: what went live then has to do so at the next start.
        let audit = Audit::open(root.telemetry.audit.as_deref()).unwrap_or_else(|error| {
            tracing::error!(%error, "audit");
            Audit::default()
        });
        let trouble = Trouble { health: health.clone(), metrics: shared.metrics.clone() };
        let keeper = Keeper::start(first.history.store(), trouble);
        let history = Arc::new(Mutex::new(first.history.clone()));
        let (commander, commands) = mpsc::channel(COMMANDS);
        let control = Arc::new(Control::new(shared.clone(), logs.clone(), history.clone(), commander));
        let mut app = Self {
            origin,
            health,
            logs,
            sockets: Vec::new(),
            threads: Vec::new(),
            probe: None,
            _watcher: watcher,
            changes,
            commands,
            signals,
            audit,
            history,
            keeper,
            baseline: Baseline::default(),
            rotation: Rotation::new(),
            watch: Watch::default(),
            trials: Vec::new(),
            stale: first.stale.clone(),
            control,
            shared,
        };
        app.first_material().await;
        app.start_admin(admin_socket, [Some(health_socket), other_family].into_iter().flatten());
        let bound = reload::bind(&config, &[], &mut held).map_err(|error| failed("cannot listen", &error))?;
        drop(held);
        app.settle_endpoints(&app.shared.snapshot.load_full()).await;
        app.start_workers(mail).map_err(|error| failed("cannot start a worker", &error))?;
        app.install(bound);
        app.began(&first);
        tracing::info!(version = env!("CARGO_PKG_VERSION"), workers, "ready");
        Ok(app)
    }

    fn start_admin(&self, admin_socket: TcpListener, health_sockets: impl Iterator<Item = TcpListener>) {
        let admin = Arc::new(Admin {
            health: self.health.clone(),
            metrics: self.shared.metrics.clone(),
            provider: self.control.clone(),
        });
        tokio::spawn(server::serve(admin_socket, Surface::Admin, admin.clone()));
        for socket in health_sockets {
            tokio::spawn(server::serve(socket, Surface::Health, admin.clone()));
        }
    }

    fn start_workers(&mut self, mail: Vec<mpsc::Receiver<Order>>) -> io::Result<()> {
        for (index, orders) in mail.into_iter().enumerate() {
            self.threads.push(runtime::spawn_worker(index, self.shared.clone(), orders)?);
        }
        Ok(())
    }

    /// Waits until every service has been looked up once, for a bounded time.
    async fn settle_endpoints(&self, snapshot: &Snapshot) {
        let all = async {
            for service in &snapshot.services {
                service.upstream.settled().await;
            }
        };
        if tokio::time::timeout(FIRST_ENDPOINTS, all).await.is_err() {
            tracing::warn!("some services have no endpoints yet");
        }
    }

    /// Serves until told to stop, then drains.
    pub async fn serve(mut self) -> ExitCode {
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let shared = self.shared.clone();
        loop {
            tokio::select! {
                Some(()) = self.changes.recv() => self.reload(&self.origin.name()).await,
                Some(()) = self.signals.hangup.recv() => self.reload("SIGHUP").await,
                Some(command) = self.commands.recv() => self.obey(command).await,
                _ = looks.tick() => {
                    self.watch_life();
                    self.watch.look(Instant::now());
                    self.observe().await;
                    self.steer();
                }
                read = self.rotation.due() => self.rotate(read),
                () = shared.alarm.rung() => self.alarmed().await,
                Some(()) = self.signals.terminate.recv() => return self.stop(true).await,
                () = self.control.drain.notified() => return self.stop(true).await,
                Some(()) = self.signals.interrupt.recv() => return self.stop(false).await,
            }
        }
    }

    /// Running, lame duck, closing, forced. Who presses Ctrl-C is not behind a load balancer: no lame duck then. A
    /// second signal forces.
    async fn stop(mut self, lame_duck: bool) -> ExitCode {
        // Who still waits is told that it is too late.
        self.commands.close();
        while self.commands.try_recv().is_ok() {}
        // Nothing goes back any more.
        self.end_trials();
        let timeout = *self.shared.snapshot.load().config.root().runtime.drain_timeout;
        let end = tokio::time::Instant::now() + timeout;
        self.enter(Phase::LameDuck, "not ready any more; still accepting");
        let mut forced = lame_duck && self.pause(tokio::time::sleep(timeout / LAME_DUCK_SHARE)).await;
        // In this order: a worker that sees the phase waits for its accept loops, which take what is in the queue.
        let stays = |socket: &&Arc<Socket>| socket.mode == Mode::Outbound;
        self.sockets.iter().filter(|socket| !stays(socket)).for_each(|socket| socket.close());
        self.enter(Phase::Closing, "no new connections; finishing what is in flight");
        let threads = std::mem::take(&mut self.threads);
        let over = |threads: &[JoinHandle<()>]| threads.iter().all(JoinHandle::is_finished);
        while !forced && !over(&threads) && tokio::time::Instant::now() < end {
            forced = self.pause(tokio::time::sleep(Duration::from_millis(10))).await;
        }
        if !over(&threads) {
            let open: i64 = (0..self.shared.workers.len())
                .map(|worker| self.shared.metrics.worker(worker).connections_active.get())
                .sum();
            tracing::warn!(connections = open, forced, "not drained in time");
        }
        self.enter(Phase::Forced, "closing what is left");
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a worker ended in a panic");
            }
        }
        self.keeper.flush(LAST_WORDS).await;
        self.audit.close(LAST_WORDS);
        self.shared.access.close(LAST_WORDS);
        tracing::info!("stopped");
        ExitCode::SUCCESS
    }

    /// Waits, unless a second signal says not to: then true.
    async fn pause(&mut self, until: impl Future<Output = ()>) -> bool {
        tokio::select! {
            () = until => false,
            Some(()) = self.signals.terminate.recv() => true,
            Some(()) = self.signals.interrupt.recv() => true,
        }
    }

    fn enter(&self, phase: Phase, detail: &str) {
        self.shared.drain.advance(phase);
        self.shared.metrics.process.set_drain_phase(match phase {
            Phase::Running => DrainPhase::Running,
            Phase::LameDuck => DrainPhase::LameDuck,
            Phase::Closing => DrainPhase::Closing,
            Phase::Forced => DrainPhase::Forced,
        });
        self.health.set(Component::Drain, Status::Degraded, detail);
        self.look();
    }

    /// Tells the workers that something is new. One whose mail is full looks at its next tick anyway.
    fn look(&self) {
        for worker in &self.shared.workers {
            let _ = worker.sender.try_send(Order::Look);
        }
    }

    /// What a configuration says besides the snapshot.
    fn accepted(&mut self, config: &Config) {
        let root = config.root();
        let workload = &root.workload;
        let process = &self.shared.metrics.process;
        process.set_workload(&workload.name, &workload.namespace, &workload.version);
        self.logs.configure(&root.telemetry.log);
        self.shared.access.configure(&root.telemetry.access_log, workload);
        self.shared.metrics.set_max_series(root.telemetry.metrics.max_series);
        if let Some(task) = self.probe.take() {
            task.abort();
        }
        self.probe = root.health.application.clone().map(|one| tokio::spawn(probe::run(one, self.health.clone())));
        if self.probe.is_none() {
            self.health.remove(Component::Application);
        }
        if let Err(error) = self.audit.retarget(root.telemetry.audit.as_deref()) {
            tracing::error!(%error, "audit");
        }
        let snapshot = self.shared.snapshot.load_full();
        self.watch.attach(&snapshot, &self.shared);
        let generation = snapshot.generation;
        process.config_accepted(generation, std::time::SystemTime::now());
        self.control.accepted(config, generation);
        self.announce();
        self.tell_stale();
    }

    /// Whether what is live is what the file says, wherever one would look for it.
    fn tell_stale(&self) {
        self.shared.metrics.process.set_stale(self.stale.is_some());
        self.control.stale(self.stale.as_deref());
        let generation = self.shared.snapshot.load().generation;
        match &self.stale {
            Some(why) => self.health.set(Component::Config, Status::Degraded, why.clone()),
            None => self.health.set(Component::Config, Status::Ok, format!("generation {generation}")),
        }
    }
}

fn watch(origin: &Origin) -> io::Result<(Option<config::source::Watcher>, mpsc::Receiver<()>)> {
    match origin {
        Origin::Path(path) => config::source::watch(path.clone()).map(|(watcher, changes)| (Some(watcher), changes)),
        Origin::Text { .. } => Ok((None, mpsc::channel(1).1)),
    }
}

async fn bind(address: std::net::SocketAddr) -> io::Result<TcpListener> {
    TcpListener::from_std(socket::listen(address, false)?)
}

fn mailbox() -> (Mailbox, mpsc::Receiver<Order>) {
    let (sender, receiver) = mpsc::channel(runtime::MAIL);
    (Mailbox::new(sender), receiver)
}

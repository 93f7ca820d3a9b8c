//! Whether the proxy lives, is ready, and what ails it. Everybody reports here; the probes read.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use crate::telemetry::rfc3339::Rfc3339;

/// Time between two beats of a worker.
const BEAT: Duration = Duration::from_millis(500);
/// A worker that has not beaten for so long is stuck.
const STUCK: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Component {
    Config,
    Listeners,
    Workers,
    /// The application behind us, where a probe is configured.
    Application,
    /// Certificates and trust anchors, where the configuration names any.
    Identity,
    /// The state directory, where one is configured.
    State,
    /// Where there is a limit to it.
    Memory,
    /// `Ok` unless the proxy is stopping.
    Drain,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Starting,
    Ok,
    /// Works, and wants attention: a reload was refused, the proxy is stopping.
    Degraded,
    Failed,
}

#[derive(Debug)]
pub struct Health {
    pub pulse: Pulse,
    components: Mutex<[Option<State>; Component::ALL.len()]>,
    started: AtomicBool,
}

#[derive(Debug)]
struct State {
    status: Status,
    since: SystemTime,
    detail: String,
}

/// When each event loop was last seen going round.
#[derive(Debug)]
pub struct Pulse {
    start: Instant,
    /// Milliseconds after `start`.
    beats: Vec<AtomicU64>,
}

impl Health {
    pub fn new(workers: usize) -> Arc<Self> {
        let health = Self { pulse: Pulse::new(workers), components: Mutex::default(), started: AtomicBool::new(false) };
        health.set(Component::Config, Status::Starting, "no configuration yet");
        health.set(Component::Listeners, Status::Starting, "not bound yet");
        health.set(Component::Workers, Status::Ok, "");
        health.set(Component::Drain, Status::Ok, "");
        Arc::new(health)
    }

    /// `since` moves only when the status does.
    pub fn set(&self, component: Component, status: Status, detail: impl Into<String>) {
        let mut components = self.components();
        let Some(slot) = components.get_mut(component as usize) else { return };
        let detail = detail.into();
        let since = match slot.as_ref() {
            Some(before) if before.status == status => before.since,
            Some(before) => {
                tracing::info!(
                    component = component.name(),
                    from = before.status.name(),
                    to = status.name(),
                    detail,
                    "health"
                );
                SystemTime::now()
            }
            None => SystemTime::now(),
        };
        *slot = Some(State { status, since, detail });
    }

    /// A component that is no longer configured has no say.
    pub fn remove(&self, component: Component) {
        if let Some(slot) = self.components().get_mut(component as usize) {
            *slot = None;
        }
    }

    /// The event loops answer.
    pub fn live(&self, now: Instant) -> Result<(), String> {
        let stuck: Vec<String> = self
            .pulse
            .stuck(now)
            .map(|(worker, age)| format!("worker {worker} has not answered for {:.1} s", age.as_secs_f64()))
            .collect();
        let (status, detail) = if stuck.is_empty() { (Status::Ok, "") } else { (Status::Failed, &*stuck.join("; ")) };
        self.set(Component::Workers, status, detail);
        if stuck.is_empty() { Ok(()) } else { Err(detail.to_owned()) }
    }

    /// Traffic may come: everything that is watched works, and the proxy is not stopping.
    pub fn ready(&self, now: Instant) -> Result<(), String> {
        self.live(now)?;
        let components = self.components();
        for (component, state) in Component::ALL.into_iter().zip(components.iter()) {
            if let Some(state) = state
                && !component.admits(state.status)
            {
                let detail = if state.detail.is_empty() { state.status.name() } else { &*state.detail };
                return Err(format!("{}: {detail}", component.name()));
            }
        }
        self.started.store(true, Relaxed);
        Ok(())
    }

    /// Was ready once.
    pub fn started(&self, now: Instant) -> Result<(), String> {
        if self.started.load(Relaxed) { Ok(()) } else { self.ready(now) }
    }

    /// Every component, and whether none has failed.
    pub fn report(&self, now: Instant) -> (bool, Value) {
        // Brings the workers' own entry up to date; their failure is in the report.
        let _ = self.live(now);
        let components = self.components();
        let present = || Component::ALL.into_iter().zip(components.iter()).filter_map(|(c, s)| Some((c, s.as_ref()?)));
        let worst =
            present().map(|(_, state)| state.status).max_by_key(|status| status.severity()).unwrap_or(Status::Ok);
        let all: serde_json::Map<_, _> = present()
            .map(|(component, state)| {
                let since = Rfc3339(state.since).to_string();
                let value = json!({ "status": state.status.name(), "since": since, "detail": state.detail });
                (component.name().to_owned(), value)
            })
            .collect();
        (worst != Status::Failed, json!({ "status": worst.name(), "components": all }))
    }

    fn components(&self) -> MutexGuard<'_, [Option<State>; Component::ALL.len()]> {
        self.components.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pulse {
    fn new(workers: usize) -> Self {
        Self { start: Instant::now(), beats: std::iter::repeat_with(AtomicU64::default).take(workers).collect() }
    }

    pub fn beat(&self, worker: usize, now: Instant) {
        if let Some(beat) = self.beats.get(worker) {
            let millis = now.saturating_duration_since(self.start).as_millis();
            beat.store(u64::try_from(millis).unwrap_or(u64::MAX), Relaxed);
        }
    }

    /// Workers that are stuck, and for how long. A worker counts as seen when the process started.
    pub fn stuck(&self, now: Instant) -> impl Iterator<Item = (usize, Duration)> {
        let age = now.saturating_duration_since(self.start);
        let ages = self.beats.iter().map(move |beat| age.saturating_sub(Duration::from_millis(beat.load(Relaxed))));
        ages.enumerate().filter(|(_, age)| *age > STUCK)
    }
}

/// To be spawned on the loop of each worker: as long as it goes round, it beats.
pub async fn beat(health: Arc<Health>, worker: usize) {
    let mut ticks = tokio::time::interval(BEAT);
    loop {
        ticks.tick().await;
        health.pulse.beat(worker, Instant::now());
    }
}

impl Component {
    pub const ALL: [Self; 8] = [
        Self::Config,
        Self::Listeners,
        Self::Workers,
        Self::Application,
        Self::Identity,
        Self::State,
        Self::Memory,
        Self::Drain,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Listeners => "listeners",
            Self::Workers => "workers",
            Self::Application => "application",
            Self::Identity => "identity",
            Self::State => "state",
            Self::Memory => "memory",
            Self::Drain => "drain",
        }
    }

    /// Whether traffic may come. A refused reload leaves the configuration before it in force; a drain leaves nothing.
    const fn admits(self, status: Status) -> bool {
        match status {
            Status::Ok => true,
            Status::Degraded => !matches!(self, Self::Drain),
            Status::Starting | Status::Failed => false,
        }
    }
}

impl Status {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Failed => "failed",
        }
    }

    const fn severity(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Degraded => 1,
            Self::Starting => 2,
            Self::Failed => 3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn up(health: &Health) {
        health.set(Component::Config, Status::Ok, "generation 1");
        health.set(Component::Listeners, Status::Ok, "1 of 1");
    }

    #[test]
    fn ready_once_everything_is_up() {
        let (health, now) = (Health::new(1), Instant::now());
        assert_eq!(health.ready(now), Err("config: no configuration yet".into()));
        health.set(Component::Config, Status::Ok, "");
        assert_eq!(health.started(now), Err("listeners: not bound yet".into()));
        health.set(Component::Listeners, Status::Ok, "");
        assert_eq!(health.ready(now), Ok(()));
        health.set(Component::Application, Status::Starting, "");
        assert_eq!(health.ready(now), Err("application: starting".into()));
        health.remove(Component::Application);
        assert_eq!(health.ready(now), Ok(()));
    }

    #[test]
    fn a_refused_reload_degrades_and_no_more() {
        let (health, now) = (Health::new(1), Instant::now());
        up(&health);
        health.set(Component::Config, Status::Degraded, "2 problems");
        assert_eq!(health.ready(now), Ok(()));
        let (fine, report) = health.report(now);
        assert!(fine);
        assert_eq!(report["status"], "degraded");
        assert_eq!(report["components"]["config"]["detail"], "2 problems");
    }

    #[test]
    fn a_drain_ends_readiness_and_not_the_start() {
        let (health, now) = (Health::new(1), Instant::now());
        up(&health);
        assert_eq!(health.started(now), Ok(()));
        health.set(Component::Drain, Status::Degraded, "lame duck");
        assert_eq!(health.ready(now), Err("drain: lame duck".into()));
        assert_eq!(health.started(now), Ok(()));
        assert_eq!(health.live(now), Ok(()));
    }

    #[test]
    fn a_stuck_worker_is_named_and_recovers() {
        let health = Health::new(2);
        up(&health);
        let later = health.pulse.start + STUCK + Duration::from_secs(1);
        health.pulse.beat(0, later);
        assert_eq!(health.live(later), Err("worker 1 has not answered for 6.0 s".into()));
        let (fine, report) = health.report(later);
        assert!(!fine);
        assert_eq!(report["components"]["workers"]["status"], "failed");
        assert!(health.ready(later).is_err());
        health.pulse.beat(1, later);
        assert_eq!(health.ready(later), Ok(()));
    }

    #[test]
    fn since_moves_with_the_status_only() {
        let health = Health::new(1);
        let since = || health.components()[Component::Config as usize].as_ref().map(|state| state.since);
        let before = since();
        health.set(Component::Config, Status::Starting, "still");
        assert_eq!(since(), before);
        health.set(Component::Config, Status::Ok, "");
        assert!(since() > before);
    }

    #[tokio::test]
    async fn a_loop_that_goes_round_beats() {
        let mut health = Health::new(1);
        if let Some(health) = Arc::get_mut(&mut health) {
            health.pulse.start -= STUCK * 2;
        }
        assert!(health.live(Instant::now()).is_err());
        let beating = beat(Arc::clone(&health), 0);
        // The first beat is at once; the next is later than this waits.
        assert!(tokio::time::timeout(Duration::ZERO, beating).await.is_err());
        assert_eq!(health.live(Instant::now()), Ok(()));
    }
}

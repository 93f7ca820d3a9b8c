//! What is done to traffic on purpose, as the process does and tells it: canaries move, faults are stopped, and what
//! became of them and of mirrors is shown.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime};

use http::StatusCode;
use serde_json::{Value, json};

use super::App;
use super::reload::Cause;
use crate::admin::question::Reply;
use crate::config::schema;
use crate::config::units::Duration;
use crate::policy::canary::{Counts, Order, Phase, Stood, Transition, Waits};
use crate::policy::differ::Report;
use crate::policy::probation::Observed;
use crate::snapshot::traffic::Steered;
use crate::snapshot::{Action, Route, Snapshot};
use crate::state;
use crate::telemetry::faults::Kind;
use crate::telemetry::metrics::{Labels, Metrics};
use crate::telemetry::mirrored::Ended;
use crate::telemetry::rfc3339::Rfc3339;
use crate::worker::Shared;

const BY_ITSELF: Cause<'_> = Cause { action: "canary", source: "canary" };

/// The routes that have a canary.
fn canaries(snapshot: &Snapshot) -> impl Iterator<Item = (&Route, &Arc<Steered>)> {
    snapshot.routes.iter().filter_map(|route| match &route.action {
        Action::Forward(forward) => Some((route, forward.canary.as_ref()?)),
        Action::Redirect(_) | Action::Respond(..) => None,
    })
}

/// Canaries that are new to this process go on from where they stood when the one before it ended.
pub fn resume(snapshot: &Snapshot, stood: &[state::Canary]) {
    for (route, steered) in canaries(snapshot) {
        if steered.state().stands() != Stood::default() {
            continue;
        }
        let is_it = |known: &&state::Canary| *known.route == *route.name && known.digest == steered.digest();
        if let Some(known) = stood.iter().find(is_it) {
            steered.resume(&known.stood);
            tracing::info!(route = &*route.name, share = steered.share(), "canary goes on from where it stood");
        }
    }
}

/// What the sides of routes with a canary have counted.
struct Seen(Vec<(Labels, Observed)>);

impl Seen {
    fn by(metrics: &Metrics, snapshot: &Snapshot) -> Self {
        let routes: Vec<&str> = canaries(snapshot).map(|(route, _)| &*route.name).collect();
        if routes.is_empty() {
            return Self(Vec::new());
        }
        Self(metrics.observe_sides(&|labels| routes.contains(&&*labels.route)))
    }

    fn of(&self, snapshot: &Snapshot, route: &Route, steered: &Steered) -> Counts {
        let side = snapshot.side(Some(route.first_side + steered.side));
        let mut counts = Counts::default();
        for (labels, seen) in self.0.iter().filter(|(labels, _)| labels.route == route.name) {
            let is_side = side.is_some_and(|side| side.service == labels.service && side.subset == labels.subset);
            if is_side { &mut counts.side } else { &mut counts.others }.add(seen);
        }
        counts
    }
}

impl App {
    /// Once a second.
    pub(super) fn steer(&self) {
        let snapshot = self.shared.snapshot.load_full();
        let among = canaries(&snapshot).count();
        if among == 0 {
            return;
        }
        let (seen, now) = (Seen::by(&self.shared.metrics, &snapshot), Instant::now());
        for (route, steered) in canaries(&snapshot) {
            let transition = steered.tick(&seen.of(&snapshot, route, steered), among, now);
            self.shared.metrics.canaries.get(&route.name).set_share(steered.share());
            if let Some(transition) = transition {
                self.moved(route, steered, transition, BY_ITSELF);
            }
        }
    }

    pub(super) fn order(&self, name: &str, order: Order, source: &str) -> Result<Reply, String> {
        let snapshot = self.shared.snapshot.load_full();
        let found = canaries(&snapshot).find(|(route, _)| *route.name == *name);
        let (route, steered) = found.ok_or_else(|| format!("no route `{name}` with a canary"))?;
        let seen = Seen::by(&self.shared.metrics, &snapshot);
        let transition = steered.obey(order, &seen.of(&snapshot, route, steered), Instant::now())?;
        self.moved(route, steered, transition, Cause { action: "canary", source });
        Ok((StatusCode::OK, report(&self.shared)))
    }

    /// Where canaries stand, for the process after this one.
    pub(super) fn keep_canaries(&self) {
        let snapshot = self.shared.snapshot.load();
        let moved = canaries(&snapshot).filter_map(|(route, steered)| {
            let stood = Some(steered.state().stands()).filter(|stood| *stood != Stood::default())?;
            Some(state::Canary { route: route.name.to_string(), digest: steered.digest(), stood })
        });
        let changed = self.history().set_canaries(moved.collect());
        if changed {
            self.keep_marks();
        }
    }

    fn moved(&self, route: &Route, steered: &Steered, transition: Transition, cause: Cause<'_>) {
        let (share, phase) = {
            let state = steered.state();
            (state.share(&steered.plan), state.phase.clone())
        };
        let counters = self.shared.metrics.canaries.get(&route.name);
        counters.set_share(share);
        counters.count(transition);
        let (name, side, source) = (&*route.name, steered.side(), cause.source);
        let what = format!("route {name}: {side} has {share} % now");
        match &phase {
            Phase::Aborted(why) => {
                let why = why.to_string();
                tracing::error!(route = name, side, why, source, "canary aborted");
                self.tell(cause, transition.name(), &format!("{what}: {why}"), 0, None);
            }
            Phase::Running | Phase::Done => {
                tracing::info!(route = name, side, share, source, to = transition.name(), "canary moved");
                self.tell(cause, transition.name(), &what, 0, None);
            }
        }
        self.keep_canaries();
    }

    /// A configuration is live: counters are there from the first scrape on, and those of what is gone go.
    pub(super) fn announce(&self) {
        let (snapshot, metrics) = (self.shared.snapshot.load_full(), &self.shared.metrics);
        let has = |name: &str, holds: &dyn Fn(&Route) -> bool| {
            snapshot.routes.iter().any(|route| *route.name == *name && holds(route))
        };
        metrics.faults.retire(&|name| has(name, &|route| route.fault.is_some()));
        metrics.mirrors.retire(&|(name, to)| has(name, &|route| route.mirrors.iter().any(|one| one.to == *to)));
        metrics.canaries.retire(&|name| canaries(&snapshot).any(|(route, _)| route.name == *name));
        for route in &snapshot.routes {
            route.fault.iter().for_each(|_| drop(metrics.faults.get(&route.name)));
            for mirror in &route.mirrors {
                metrics.mirrors.get(&(route.name.clone(), mirror.to.clone()));
            }
        }
        for problem in crate::config::warnings(&snapshot.config, SystemTime::now()) {
            tracing::warn!(problem = problem.brief(), "configuration");
        }
    }
}

/// The answer of `/canaries`.
pub fn report(shared: &Shared) -> Value {
    let snapshot = shared.snapshot.load_full();
    let (seen, now) = (Seen::by(&shared.metrics, &snapshot), (Instant::now(), SystemTime::now()));
    let all = canaries(&snapshot).map(|(route, steered)| {
        let counts = seen.of(&snapshot, route, steered);
        let (state, plan) = (steered.state(), &steered.plan);
        let waits = state.waits(plan, &counts, now.0).map(|waits| match waits {
            Waits::ForTime => "time",
            Waits::ForRequests => "requests",
            Waits::ForOthers => "others",
        });
        let why = match &state.phase {
            Phase::Aborted(why) => Some(why.to_string()),
            Phase::Running | Phase::Done => None,
        };
        json!({
            "route": &*route.name,
            "side": steered.side(),
            "phase": state.phase.name(),
            "share": state.share(plan),
            "step": state.step + 1,
            "steps": plan.steps,
            "since": Rfc3339::of(state.since, now).to_string(),
            "every": Duration(plan.every).to_string(),
            "minRequests": plan.min_requests,
            "abortIf": { "errors": plan.bounds.errors, "p99": plan.bounds.p99 },
            "waitsFor": waits,
            "why": why,
            "onStep": told(&state.on_step(&counts)),
            "inAll": told(&state.in_all(&counts)),
        })
    });
    json!({ "canaries": all.collect::<Vec<_>>() })
}

fn told(counts: &Counts) -> Value {
    let one = |seen: &Observed| {
        let millis = seen.p99_estimate().map(|p99| (p99.as_secs_f64() * 1e4).round() / 10.0);
        json!({ "requests": seen.requests, "failed": seen.failed().count, "p99Millis": millis })
    };
    json!({ "side": one(&counts.side), "others": one(&counts.others) })
}

/// The answer of `/faults`; stops or starts them before, if told to.
pub fn faults(shared: &Shared, stop: Option<bool>) -> Value {
    if let Some(stop) = stop
        && shared.faults_stopped.swap(stop, Ordering::Relaxed) != stop
    {
        tracing::warn!(stopped = stop, "faults on purpose");
    }
    let (snapshot, now) = (shared.snapshot.load_full(), SystemTime::now());
    let written = snapshot.config.root().routes.iter().zip(&snapshot.routes);
    let routes = written.filter_map(|(written, route)| {
        let (written, fault) = (written.fault.as_ref()?, route.fault.as_ref()?);
        let counts = shared.metrics.faults.get(&route.name);
        let counts = Kind::ALL.map(|kind| (kind.name().to_owned(), Value::from(counts.of(kind).get())));
        let schema::Fault { matches: _, delay, abort, bandwidth, expires } = written;
        let told = json!({
            "delay": delay, "abort": abort, "bandwidth": bandwidth, "expires": expires,
            "expired": fault.fault.is_expired(now),
            "done": Value::Object(counts.into_iter().collect()),
        });
        Some((route.name.to_string(), told))
    });
    let routes = Value::Object(routes.collect());
    json!({ "stopped": shared.faults_stopped.load(Ordering::Relaxed), "routes": routes })
}

/// The answer of `/mirrors`.
pub fn mirrors(shared: &Shared) -> Value {
    let snapshot = shared.snapshot.load_full();
    let routes = snapshot.routes.iter().filter(|route| !route.mirrors.is_empty()).map(|route| {
        let targets = route.mirrors.iter().map(|mirror| {
            let mirrored = shared.metrics.mirrors.get(&(route.name.clone(), mirror.to.clone()));
            let results = Ended::ALL.map(|ended| (ended.name().to_owned(), Value::from(mirrored.get(ended))));
            let told = json!({
                "percent": mirror.chance.0,
                "onTheirWay": mirrored.on_their_way(),
                "results": Value::Object(results.into_iter().collect()),
                "compared": mirror.compare.as_ref().map(|_| compared(&mirrored.report())),
            });
            (mirror.to.to_string(), told)
        });
        (route.name.to_string(), Value::Object(targets.collect()))
    });
    json!({ "routes": Value::Object(routes.collect()) })
}

fn compared(report: &Report) -> Value {
    let Report { compared, equal, uncompared, noise_pairs, kinds, more_kinds, noise, examples } = report;
    let examples = examples.iter().rev().map(|example| {
        let (own, copy) = example.statuses;
        json!({
            "requestId": example.id, "method": example.method, "path": example.path, "status": own, "copyStatus": copy,
            "differsIn": example.differs_in,
        })
    });
    json!({
        "pairs": compared,
        "equal": equal,
        "uncompared": uncompared,
        "differsIn": kinds,
        "moreKinds": more_kinds,
        "noise": { "pairs": noise_pairs, "differsIn": noise },
        "examples": examples.collect::<Vec<_>>(),
    })
}

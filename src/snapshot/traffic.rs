//! What a route does to its traffic on purpose. The state of a canary is learned: a reload that leaves the canary as it
//! is written takes it over.

use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Guard};
use http::Method;

use super::matcher::Facts;
use super::route::Rule;
use super::{Forward, HeaderEdits, Target};
use crate::config::digest::sha256;
use crate::config::schema;
use crate::policy;
use crate::policy::canary::{self, Counts, Order, Plan, Stood, Transition};

#[derive(Debug)]
pub struct Fault {
    /// Any of these; every request where empty.
    pub rules: Vec<Rule>,
    pub fault: policy::fault::Fault,
}

impl Fault {
    pub fn is_for(&self, facts: &Facts<'_>) -> bool {
        let fits = |rule: &Rule| rule.path.fits(facts.path) && rule.conditions.hold(facts);
        self.rules.is_empty() || self.rules.iter().any(fits)
    }
}

#[derive(Debug)]
pub struct Mirror {
    /// As it is written.
    pub to: Arc<str>,
    pub target: Target,
    pub chance: policy::fault::Chance,
    pub methods: Vec<Method>,
    pub timeout: Duration,
    pub max_in_flight: u32,
    pub buffer_limit: usize,
    pub headers: HeaderEdits,
    pub compare: Option<Comparison>,
}

/// How answers of copies are held against those of the service itself.
#[derive(Debug)]
pub struct Comparison {
    pub rule: policy::differ::Rule,
    /// Share of requests of which the service itself is asked twice.
    pub noise: policy::fault::Chance,
    pub max_body: usize,
}

/// A canary, and the line of the split that its share makes.
#[derive(Debug)]
pub struct Steered {
    written: schema::Canary,
    pub plan: Plan,
    /// Index of the side in the split.
    pub side: usize,
    weights: Vec<f64>,
    /// Outlives the snapshot.
    state: Arc<Mutex<policy::canary::Canary>>,
    edges: ArcSwap<Vec<u32>>,
}

/// The ends of the sides as they are now.
pub enum Edges<'a> {
    Written(&'a [u32]),
    Steered(Guard<Arc<Vec<u32>>>),
}

impl Deref for Edges<'_> {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        match self {
            Self::Written(edges) => edges,
            Self::Steered(edges) => edges,
        }
    }
}

impl Forward {
    /// Ends of the targets on the line of buckets.
    pub fn edges(&self) -> Edges<'_> {
        match &self.canary {
            Some(steered) => Edges::Steered(steered.edges.load()),
            None => Edges::Written(&self.written_edges),
        }
    }
}

impl Steered {
    /// `before` is the canary that the route had under the previous snapshot.
    pub fn new(written: &schema::Canary, side: usize, weights: Vec<f64>, before: Option<&Self>) -> Self {
        let known = before.filter(|before| before.written == *written);
        let steered = Self {
            written: written.clone(),
            plan: Plan {
                steps: written.steps.clone(),
                every: *written.every,
                bounds: policy::probation::Bounds { errors: written.abort_if.errors, p99: written.abort_if.p99 },
                min_requests: written.min_requests,
            },
            side,
            weights,
            state: known.map_or_else(
                || Arc::new(Mutex::new(policy::canary::Canary::new(Instant::now()))),
                |known| known.state.clone(),
            ),
            edges: ArcSwap::default(),
        };
        steered.steer(&steered.state());
        steered
    }

    /// The `to` of the side.
    pub fn side(&self) -> &str {
        &self.written.side
    }

    pub fn state(&self) -> MutexGuard<'_, policy::canary::Canary> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn share(&self) -> f64 {
        self.state().share(&self.plan)
    }

    /// Of what is written: another canary has another.
    pub fn digest(&self) -> String {
        // What was read can be written.
        sha256(&serde_json::to_vec(&self.written).unwrap_or_default())
    }

    /// Goes on from where it stood under the process before.
    pub fn resume(&self, stood: &Stood) {
        let mut state = self.state();
        *state = canary::Canary::resumed(stood, &self.plan, Instant::now());
        self.steer(&state);
    }

    pub fn tick(&self, counts: &Counts, among: usize, now: Instant) -> Option<Transition> {
        let mut state = self.state();
        let transition = state.tick(&self.plan, counts, among, now)?;
        self.steer(&state);
        Some(transition)
    }

    pub fn obey(&self, order: Order, counts: &Counts, now: Instant) -> Result<Transition, String> {
        let mut state = self.state();
        let transition = state.obey(order, &self.plan, counts, now)?;
        self.steer(&state);
        Ok(transition)
    }

    fn steer(&self, state: &policy::canary::Canary) {
        self.edges.store(Arc::new(canary::edges(&self.weights, self.side, state.share(&self.plan))));
    }
}

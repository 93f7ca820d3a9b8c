//! The endpoints of a service as picks see them: all of them, and those of each subset.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::Rng;

use super::Want;
use super::known::Known;
use crate::policy::balance::{Live, Member, Picked, Set, Settings};

/// The labels that an endpoint of a subset has.
pub type Labels = BTreeMap<String, String>;

/// Who may be chosen is found anew this often at most, where that takes long: a pick looks at the one it draws anyway.
const PAUSE: Duration = Duration::from_millis(20);
const LARGE: usize = 256;

/// All endpoints, or those of a subset.
#[derive(Default)]
pub struct Part {
    pub labels: Labels,
    set: Set,
    /// The list, or what it is to be sorted by, is another since.
    pub stale: bool,
    /// What had changed when it was last found who may be chosen, and when that was.
    seen: Option<(u64, Instant)>,
    size: usize,
}

/// What a pick has to go by.
pub struct Scene<'a> {
    pub known: &'a Known,
    pub settings: &'a Settings,
    /// Counts all that changes who is available.
    pub changes: u64,
    pub want: &'a Want<'a>,
    pub now: Instant,
}

impl Part {
    pub fn new(labels: Labels) -> Self {
        Self { labels, stale: true, ..Self::default() }
    }

    /// A slot.
    pub fn pick(&mut self, scene: &Scene<'_>, rng: &mut impl Rng) -> Option<Picked> {
        self.look(scene);
        let pick =
            |set: &Set, rng: &mut _| set.pick(scene.settings, scene.want.key, !scene.want.tried.is_empty(), scene, rng);
        if let Some(picked) = pick(&self.set, rng) {
            return Some(picked);
        }
        // Perhaps all of them have changed in the pause.
        let fresh = self
            .seen
            .is_some_and(|(changes, at)| changes == scene.changes && scene.now.saturating_duration_since(at) < PAUSE);
        if fresh {
            return None;
        }
        self.refresh(scene);
        pick(&self.set, rng)
    }

    /// Takes in what has changed.
    pub fn look(&mut self, scene: &Scene<'_>) {
        if self.stale {
            self.set.sync(scene.known.members(&self.labels), scene.settings);
            self.size = self.set.members().count();
            self.stale = false;
            self.refresh(scene);
        } else if let Some((changes, at)) = self.seen
            && changes != scene.changes
            && (self.size < LARGE || scene.now.saturating_duration_since(at) >= PAUSE)
        {
            self.refresh(scene);
        }
    }

    pub fn panics(&self) -> bool {
        self.set.panics()
    }

    /// Whether anybody has asked for it.
    pub fn is_used(&self) -> bool {
        self.seen.is_some()
    }

    fn refresh(&mut self, scene: &Scene<'_>) {
        if !scene.settings.slow_start.is_zero() {
            for slot in self.set.members().map(|member| member.slot) {
                let available = scene.is_available(slot);
                scene.known.pool(slot).inspect(|pool| pool.meter.look(available, scene.now));
            }
        }
        self.set.refresh(scene.settings, scene);
        self.seen = Some((scene.changes, scene.now));
    }
}

impl Live for Scene<'_> {
    fn is_available(&self, slot: u32) -> bool {
        self.known.pool(slot).is_some_and(|pool| pool.is_available())
    }

    fn was_tried(&self, slot: u32) -> bool {
        self.known.pool(slot).is_some_and(|pool| self.want.tried.contains(&pool.address))
    }

    fn in_flight(&self, slot: u32) -> u64 {
        self.known.pool(slot).map_or(0, |pool| pool.in_flight())
    }

    fn latency(&self, slot: u32) -> f64 {
        self.known.pool(slot).map_or(0.0, |pool| pool.meter.latency(self.now))
    }

    fn warmth(&self, slot: u32) -> f64 {
        self.known.pool(slot).map_or(1.0, |pool| pool.meter.warmth(self.now, self.settings.slow_start))
    }
}

impl Known {
    /// Those that have these labels, and a weight.
    fn members(&self, labels: &Labels) -> Vec<Member> {
        let has = |own: &Labels| labels.iter().all(|(name, value)| own.get(name) == Some(value));
        let chosen = self.each().filter(|(endpoint, _, _)| endpoint.weight > 0 && has(&endpoint.labels));
        let member = |(endpoint, slot, id): (&crate::discovery::Endpoint, u32, u64)| Member {
            slot,
            id,
            weight: endpoint.weight,
            priority: endpoint.priority,
            zone: endpoint.zone.clone(),
            region: endpoint.region.clone(),
        };
        chosen.map(member).collect()
    }
}

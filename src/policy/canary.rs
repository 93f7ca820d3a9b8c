//! A canary that moves by itself: when it takes its next step, and when it is over.
//!
//! What the side under test and the other sides counted comes in, a transition comes out. The judge is that of
//! probation: the others are "before", the side is "after". It is asked about the step by itself and about the whole
//! run, lest a step be too short to show what the run shows, or a long run hide what began with this step.

use std::fmt;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::probation::{Bounds, Observed, Regression, Verdict, judge_among};
use super::split;

/// What is written.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Percent, rising.
    pub steps: Vec<f64>,
    pub every: Duration,
    pub bounds: Bounds,
    pub min_requests: u64,
}

/// What was counted: by the side, and by the others together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub side: Observed,
    pub others: Observed,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Phase {
    Running,
    /// All steps are taken, and nothing is judged any more.
    Done,
    /// The side has no traffic, until the configuration has another canary.
    Aborted(Why),
}

#[derive(Debug, Clone, PartialEq)]
pub enum Why {
    Worse(Regression),
    Operator,
    /// As it was told before a restart.
    Told(String),
}

/// Where a canary stands, for the process after this one. What was counted is not in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stood {
    /// Index of the step.
    pub step: usize,
    pub promoted: bool,
    pub done: bool,
    /// Why it was.
    pub aborted: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Take the next step now.
    Step,
    /// All traffic to the side.
    Promote,
    Abort,
}

/// What has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    Step,
    Done,
    Promoted,
    Aborted,
}

/// What keeps it from the next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waits {
    ForTime,
    ForRequests,
    /// The side has requests, and nobody else has any.
    ForOthers,
}

#[derive(Debug, Clone)]
pub struct Canary {
    pub phase: Phase,
    /// Index of the step.
    pub step: usize,
    /// When it was taken.
    pub since: Instant,
    promoted: bool,
    /// The counters when they were last looked at.
    last: Option<Counts>,
    /// What was counted from the beginning until then, and until the step was taken.
    all: Counts,
    before_step: Counts,
}

impl Canary {
    pub fn new(now: Instant) -> Self {
        let none = Counts::default();
        Self { phase: Phase::Running, step: 0, since: now, promoted: false, last: None, all: none, before_step: none }
    }

    /// Goes on from there; the step begins anew.
    pub fn resumed(stood: &Stood, plan: &Plan, now: Instant) -> Self {
        let phase = match &stood.aborted {
            Some(why) => Phase::Aborted(Why::Told(why.clone())),
            None if stood.done => Phase::Done,
            None => Phase::Running,
        };
        let step = stood.step.min(plan.steps.len().saturating_sub(1));
        Self { phase, step, promoted: stood.promoted, ..Self::new(now) }
    }

    pub fn stands(&self) -> Stood {
        let aborted = match &self.phase {
            Phase::Aborted(why) => Some(why.to_string()),
            Phase::Running | Phase::Done => None,
        };
        Stood { step: self.step, promoted: self.promoted, done: self.phase == Phase::Done, aborted }
    }

    /// Percent of the traffic that the side has.
    pub fn share(&self, plan: &Plan) -> f64 {
        match self.phase {
            Phase::Aborted(_) => 0.0,
            _ if self.promoted => 100.0,
            Phase::Running | Phase::Done => plan.steps.get(self.step).or(plan.steps.last()).copied().unwrap_or(0.0),
        }
    }

    /// What was counted since the step was taken.
    pub fn on_step(&self, counts: &Counts) -> Counts {
        self.in_all(counts).since(&self.before_step)
    }

    /// What was counted since it began. Where a series was forgotten, only what came since the last look is lost.
    pub fn in_all(&self, counts: &Counts) -> Counts {
        let mut all = self.all;
        if let Some(last) = &self.last {
            let since = counts.since(last);
            all.side.add(&since.side);
            all.others.add(&since.others);
        }
        all
    }

    fn look(&mut self, counts: &Counts) {
        // The first time there is nothing to add: counters had gone on before it began.
        self.all = self.in_all(counts);
        self.last = Some(*counts);
    }

    pub fn waits(&self, plan: &Plan, counts: &Counts, now: Instant) -> Option<Waits> {
        let Counts { side, others } = self.on_step(counts);
        // At the top nobody else has any.
        let compared = self.share(plan) >= 100.0 || others.requests >= plan.min_requests;
        match () {
            () if self.phase != Phase::Running => None,
            () if side.requests >= plan.min_requests && !compared && others.requests == 0 => Some(Waits::ForOthers),
            () if now.saturating_duration_since(self.since) < plan.every => Some(Waits::ForTime),
            () if side.requests < plan.min_requests || !compared => Some(Waits::ForRequests),
            () => None,
        }
    }

    /// To be called often: judges, and moves on. `among`: canaries that are judged at the same time.
    pub fn tick(&mut self, plan: &Plan, counts: &Counts, among: usize, now: Instant) -> Option<Transition> {
        self.look(counts);
        if self.phase != Phase::Running {
            return None;
        }
        if let Some(regression) = self.regression(plan, counts, among) {
            (self.phase, self.since) = (Phase::Aborted(Why::Worse(regression)), now);
            return Some(Transition::Aborted);
        }
        if self.waits(plan, counts, now).is_some() {
            return None;
        }
        Some(self.next(plan, now))
    }

    /// Does what an operator says; an error is why not.
    pub fn obey(&mut self, order: Order, plan: &Plan, counts: &Counts, now: Instant) -> Result<Transition, String> {
        match (&self.phase, order) {
            (Phase::Aborted(_), Order::Abort) => return Err("it is aborted already".to_owned()),
            (Phase::Aborted(why), _) => {
                return Err(format!("it was aborted ({why}): change `canary` of the route to begin again"));
            }
            (Phase::Done, Order::Step) => return Err("its last step is taken".to_owned()),
            (_, Order::Promote) if self.promoted => return Err("it is promoted already".to_owned()),
            _ => {}
        }
        Ok(match order {
            Order::Step => {
                self.look(counts);
                self.next(plan, now)
            }
            Order::Promote => {
                (self.phase, self.promoted, self.since) = (Phase::Done, true, now);
                Transition::Promoted
            }
            Order::Abort => {
                (self.phase, self.promoted, self.since) = (Phase::Aborted(Why::Operator), false, now);
                Transition::Aborted
            }
        })
    }

    fn next(&mut self, plan: &Plan, now: Instant) -> Transition {
        self.since = now;
        if self.step + 1 >= plan.steps.len() {
            self.phase = Phase::Done;
            return Transition::Done;
        }
        self.step += 1;
        self.before_step = self.all;
        Transition::Step
    }

    fn regression(&self, plan: &Plan, counts: &Counts, among: usize) -> Option<Regression> {
        let (step, all) = (self.on_step(counts), self.in_all(counts));
        // Where the side has all the traffic, the others are measured by what they did before.
        let others = if step.others.requests < plan.min_requests { all.others } else { step.others };
        let cases = [(others, step.side), (all.others, all.side)];
        cases.into_iter().filter(|(_, side)| side.requests >= plan.min_requests).find_map(|(others, side)| {
            match judge_among(&others, &side, plan.bounds, 2 * among) {
                Verdict::Regression(regression) => Some(regression),
                Verdict::TooFew | Verdict::Fine => None,
            }
        })
    }
}

impl Counts {
    fn since(&self, then: &Self) -> Self {
        Self { side: self.side.since(&then.side), others: self.others.since(&then.others) }
    }
}

/// The line of a split on which side `of` has `percent`, and the others share the rest by their weights. Raising the
/// percent moves nobody off the side.
pub fn edges(weights: &[f64], of: usize, percent: f64) -> Vec<u32> {
    let others: f64 = weights.iter().enumerate().filter(|(index, _)| *index != of).map(|(_, weight)| weight).sum();
    let share = |(index, weight): (usize, &f64)| match index == of {
        true => percent,
        false if others > 0.0 => (100.0 - percent) * weight / others,
        false => 0.0,
    };
    split::edges(weights.iter().enumerate().map(share)).unwrap_or_default()
}

impl Order {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Step => "step",
            Self::Promote => "promote",
            Self::Abort => "abort",
        }
    }
}

impl Transition {
    pub const ALL: [Self; 4] = [Self::Step, Self::Done, Self::Promoted, Self::Aborted];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Step => "step",
            Self::Done => "done",
            Self::Promoted => "promoted",
            Self::Aborted => "aborted",
        }
    }
}

impl Phase {
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Aborted(_) => "aborted",
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Worse(regression) => write!(f, "compared with the other sides, {regression}"),
            Self::Operator => f.write_str("by an operator"),
            Self::Told(why) => f.write_str(why),
        }
    }
}

#[cfg(test)]
mod tests;

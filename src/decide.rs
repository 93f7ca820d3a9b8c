//! What happens to a request, from its head and the snapshot alone: pure, so that the data path, `explain` and the
//! tests cannot disagree. Randomness is an argument.

use rand::Rng;

use crate::error::Reason;
use crate::policy::split;
use crate::snapshot::matcher::Facts;
use crate::snapshot::route::{PathRule, Rule};
use crate::snapshot::{Action, Forward, Kind, Listener, Route, Snapshot, Target};

#[derive(Debug)]
pub struct Decision<'s> {
    pub route: &'s Route,
    /// The match that won.
    pub rule: &'s Rule,
    pub verdict: Verdict<'s>,
}

#[derive(Debug)]
pub enum Verdict<'s> {
    /// To this side of the split, drawn or by its key.
    Forward { forward: &'s Forward, target: Target, side: usize },
    /// Answered here: `Action::Redirect` or `Action::Respond`.
    Answer,
}

impl Decision<'_> {
    /// Number of the side over all routes, for the series.
    pub fn side(&self) -> usize {
        self.route.first_side
            + match self.verdict {
                Verdict::Forward { side, .. } => side,
                Verdict::Answer => 0,
            }
    }

    /// What is left of a path behind the matched prefix; it begins with `/` or is empty.
    pub fn rest<'p>(&self, path: &'p str) -> &'p str {
        match &self.rule.path {
            PathRule::Prefix(prefix) => path.get(prefix.len()..).unwrap_or(""),
            PathRule::Any | PathRule::Exact(_) | PathRule::Template(_) | PathRule::Regex(_) => path,
        }
    }
}

/// Decides about a request on an HTTP listener.
pub fn decide<'s>(
    snapshot: &'s Snapshot,
    listener: &'s Listener,
    facts: &Facts<'_>,
    rng: &mut impl Rng,
) -> Result<Decision<'s>, Reason> {
    let Kind::Http { table, fallback } = &listener.kind else { return Err(Reason::NoRoute) };
    let found = table.find(facts).or_else(|| fallback.find(facts)).ok_or(Reason::NoRoute)?;
    let route = snapshot.routes.get(found.route).ok_or(Reason::NoRoute)?;
    let verdict = match &route.action {
        Action::Forward(forward) => {
            let side = side(route, forward, facts, rng);
            let target = *forward.targets.get(side).ok_or(Reason::NoEndpoint)?;
            Verdict::Forward { forward, target, side }
        }
        Action::Redirect(_) | Action::Respond(..) => Verdict::Answer,
    };
    Ok(Decision { route, rule: found.rule, verdict })
}

/// Decides about a connection on a TCP listener.
pub fn decide_tcp<'s>(
    snapshot: &'s Snapshot,
    listener: &Listener,
    rng: &mut impl Rng,
) -> Option<(&'s Route, usize, Target)> {
    let Kind::Tcp(route) = listener.kind else { return None };
    let route = snapshot.routes.get(route)?;
    let Action::Forward(forward) = &route.action else { return None };
    let side = draw(forward, rng);
    Some((route, side, *forward.targets.get(side)?))
}

fn side(route: &Route, forward: &Forward, facts: &Facts<'_>, rng: &mut impl Rng) -> usize {
    match forward.sticky.as_ref().and_then(|key| key.first(facts)) {
        Some(key) => split::side(&forward.edges, split::bucket(&route.name, &key)),
        None => draw(forward, rng),
    }
}

fn draw(forward: &Forward, rng: &mut impl Rng) -> usize {
    if forward.targets.len() == 1 { 0 } else { split::side(&forward.edges, rng.random_range(0..split::BUCKETS)) }
}

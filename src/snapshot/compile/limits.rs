//! Limits, with what was learned under the same names.

use std::sync::Arc;

use indexmap::IndexMap;

use crate::config::schema;
use crate::policy::bucket::Rate;
use crate::snapshot::limits::{Limited, Per, RateLimit, ServiceLimits};
use crate::snapshot::matcher::Key;
use crate::upstream::ceiling::Ceiling;
use crate::upstream::gate;

type Attributes = IndexMap<String, schema::Attribute>;

/// The rate limits of one route or service. The table of a limit goes on with the one that stands at the same place
/// among those that tell requests apart by the same.
pub(super) fn rate_limits(
    written: Option<&schema::RateLimits>,
    (kind, name): (&str, &str),
    attributes: &Attributes,
    generation: u64,
    known: &[RateLimit],
) -> Box<[RateLimit]> {
    let all = written.map_or(&[][..], schema::RateLimits::all);
    let limit = |(index, limit): (usize, &schema::RateLimit)| {
        let shadow = match limit.mode {
            schema::RuleMode::Enforce => false,
            schema::RuleMode::Shadow => true,
            schema::RuleMode::Off => return None,
        };
        let rate = Rate::new(limit.requests_per_second, limit.burst());
        let same = |other: &&schema::RateLimit| other.mode != schema::RuleMode::Off && other.per == limit.per;
        let place = all.iter().take(index).filter(same).count();
        let before = known.iter().filter(|before| before.has_keys_of(limit)).nth(place);
        Some(RateLimit {
            of: format!("{kind} {name}").into(),
            name: if index == 0 { name.into() } else { format!("{name}-{}", index + 1).into() },
            per_second: limit.requests_per_second,
            rate,
            per: limit.per.as_ref().and_then(|per| compile_per(per, attributes)),
            shadow,
            wait: *limit.wait,
            max_waiting: limit.max_waiting,
            written: limit.clone(),
            generation,
            state: before.map_or_else(|| Arc::new(Limited::new(limit, rate)), |before| before.resized(limit)),
        })
    };
    all.iter().enumerate().filter_map(limit).collect()
}

fn compile_per(per: &schema::LimitKey, attributes: &Attributes) -> Option<Per> {
    Some(match per {
        schema::LimitKey::Attribute(name) => Per::Key(Key::Attribute(attributes.get_index_of(name)?)),
        schema::LimitKey::Header(name) => Per::Key(Key::Header(name.parse().ok()?)),
        schema::LimitKey::Identity(_) => Per::Identity,
        schema::LimitKey::Address(_) => Per::Address,
    })
}

pub(super) fn service_limits(
    written: Option<&schema::Limits>,
    known: Option<&ServiceLimits>,
) -> Option<Box<ServiceLimits>> {
    let written = written.filter(|limits| limits.mode != schema::RuleMode::Off)?;
    let adaptive = written.adaptive.and_then(schema::AdaptiveLimit::bounds).map(Into::into);
    Some(Box::new(ServiceLimits {
        limits: gate::Limits { max: written.max_requests, adaptive, max_pending: written.max_pending },
        pending_timeout: *written.pending_timeout,
        max_retries: written.max_retries,
        shadow: written.mode == schema::RuleMode::Shadow,
        gate: known.map_or_else(Arc::default, |known| known.gate.clone()),
    }))
}

/// How many connections there may be; the places are there, and counted, even where that is not said.
pub(super) fn ceiling(written: Option<&schema::Limits>, known: Option<&Ceiling>) -> Ceiling {
    let written = written.cloned().unwrap_or_default();
    let max = written.max_connections.filter(|_| written.mode != schema::RuleMode::Off);
    let shadow = written.mode == schema::RuleMode::Shadow;
    Ceiling::new((max, shadow), (written.max_pending, *written.pending_timeout), known)
}

/// Where a request says how much it matters: in a header of its own where nothing else is said.
pub(super) fn criticality(written: Option<&schema::Limits>, attributes: &Attributes) -> Key {
    let written = written.map_or_else(schema::Criticality::default, |limits| limits.criticality.clone());
    let header = |name: &str| Key::Header(name.parse().unwrap_or(crate::snapshot::CRITICALITY));
    match written {
        schema::Criticality::Attribute(name) => {
            attributes.get_index_of(&name).map_or_else(|| header(""), Key::Attribute)
        }
        schema::Criticality::Header(name) => header(&name),
    }
}

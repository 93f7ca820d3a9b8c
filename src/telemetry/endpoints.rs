//! What is counted of the endpoints of a service: by whoever checks them, judges them, or looks for them. All of it is
//! rare, or levels that are set about once a second.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::counter::{Gauge, Shared};
use crate::policy::outlier::Cause;

/// Of one service; they outlive snapshots with what is known of its endpoints.
#[derive(Debug, Default)]
pub struct Counters {
    /// By cause; those that were enforced, and those that would have been.
    ejections: [[Shared; 2]; Cause::ALL.len()],
    /// Ejections that were not made, since too many endpoints were out.
    pub ejections_held: Shared,
    pub checks_passed: Shared,
    pub checks_failed: Shared,
    pub levels: Levels,
}

/// As they were when somebody last looked.
#[derive(Debug, Default)]
pub struct Levels {
    pub available: Gauge,
    pub unhealthy: Gauge,
    pub ejected: Gauge,
    /// Whether endpoints are looked for at all.
    pub looked_for: Gauge,
    pub age_seconds: Gauge,
    pub failures: Gauge,
    /// Whether a set is held back now; how many were, and how many would have been.
    pub held: Gauge,
    pub holds: Gauge,
    pub holds_shadow: Gauge,
}

/// By the name of the service.
#[derive(Debug, Default)]
pub struct Services(Mutex<Vec<(Arc<str>, Arc<Counters>)>>);

impl Counters {
    pub fn ejection(&self, cause: Cause, shadow: bool) -> &Shared {
        let [enforced, would] = &self.ejections[cause as usize];
        if shadow { would } else { enforced }
    }
}

pub(super) fn expose(out: &mut DescriptorEncoder, services: &[(Arc<str>, Arc<Counters>)]) -> fmt::Result {
    let help = "Endpoints of services; one may be unhealthy and ejected";
    levels(out, "endpoints", help, services, |of| {
        vec![("available", &of.available), ("unhealthy", &of.unhealthy), ("ejected", &of.ejected)]
    })?;
    let help = "Seconds since the endpoints of a service were last found, where they are looked for";
    let found = |of: &&(Arc<str>, Arc<Counters>)| of.1.levels.looked_for.get() > 0;
    let looked_for: Vec<_> = services.iter().filter(found).cloned().collect();
    levels(out, "discovery_age_seconds", help, &looked_for, |of| vec![("", &of.age_seconds)])?;
    let help = "Whether a set of endpoints is held back that is too small to be believed";
    levels(out, "discovery_held", help, &looked_for, |of| vec![("", &of.held)])?;
    let help = "Times that the endpoints of a service could not be found";
    counters(out, "discovery_failures", help, &looked_for, "", |of| vec![("", "", level(&of.levels.failures))])?;
    let help = "Sets of endpoints that were held back, or would have been in shadow mode";
    counters(out, "discovery_holds", help, &looked_for, "", |of| {
        vec![("", "enforce", level(&of.levels.holds)), ("", "shadow", level(&of.levels.holds_shadow))]
    })?;
    let help = "Health checks of endpoints";
    counters(out, "health_checks", help, services, "result", |of| {
        vec![("passed", "", of.checks_passed.get()), ("failed", "", of.checks_failed.get())]
    })?;
    let help = "Endpoints that outlier detection has ejected, or would have in shadow mode";
    counters(out, "outlier_ejections", help, services, "cause", |of| {
        let each = Cause::ALL.into_iter().flat_map(|cause| [(cause, "enforce"), (cause, "shadow")]);
        each.map(|(cause, mode)| (cause.name(), mode, of.ejection(cause, mode == "shadow").get())).collect()
    })?;
    let help = "Ejections that were not made, since too many endpoints were out";
    counters(out, "outlier_ejections_held", help, services, "", |of| vec![("", "", of.ejections_held.get())])
}

fn level(gauge: &Gauge) -> u64 {
    u64::try_from(gauge.get()).unwrap_or_default()
}

/// By service, and by `state` where there are several.
fn levels<'a>(
    out: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    services: &'a [(Arc<str>, Arc<Counters>)],
    of: impl Fn(&'a Levels) -> Vec<(&'static str, &'a Gauge)>,
) -> fmt::Result {
    let name = format!("outrigger_{name}");
    let mut family = out.encode_descriptor(&name, help, None, MetricType::Gauge)?;
    for (service, counters) in services {
        for (state, gauge) in of(&counters.levels) {
            let labels = [("service", &**service), ("state", state)];
            let labels = labels.into_iter().filter(|(_, value)| !value.is_empty()).collect::<Vec<_>>();
            family.encode_family(&labels.as_slice())?.encode_gauge(&gauge.get())?;
        }
    }
    Ok(())
}

/// By service, and by `label` and `mode` where there are several; what was never counted is left out.
fn counters(
    out: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    services: &[(Arc<str>, Arc<Counters>)],
    label: &'static str,
    of: impl Fn(&Counters) -> Vec<(&'static str, &'static str, u64)>,
) -> fmt::Result {
    let name = format!("outrigger_{name}");
    let mut family = out.encode_descriptor(&name, help, None, MetricType::Counter)?;
    for (service, counters) in services {
        for (value, mode, count) in of(counters).into_iter().filter(|(_, _, count)| *count > 0) {
            let labels = [("service", &**service), (label, value), ("mode", mode)];
            let labels = labels.into_iter().filter(|(_, value)| !value.is_empty()).collect::<Vec<_>>();
            family.encode_family(&labels.as_slice())?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
    }
    Ok(())
}

impl Services {
    /// The services that there are now.
    pub fn set(&self, mut services: Vec<(Arc<str>, Arc<Counters>)>) {
        services.sort_by(|(one, _), (other, _)| one.cmp(other));
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = services;
    }

    pub fn all(&self) -> Vec<(Arc<str>, Arc<Counters>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

//! What is done to traffic on purpose: faults, copies of requests, canaries.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use crate::telemetry::faults::Kind;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::mirrored::Ended;

pub fn encode(metrics: &Metrics, out: &mut DescriptorEncoder) -> fmt::Result {
    let help = "Requests that a fault on purpose has touched, by kind";
    let mut family = out.encode_descriptor("outrigger_faults", help, None, MetricType::Counter)?;
    for (route, faults) in metrics.faults.all() {
        for kind in Kind::ALL {
            let labels = [("route", &*route), ("kind", kind.name())];
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&faults.of(kind).get(), None)?;
        }
    }
    let help = "Copies of requests, by what became of them";
    let mut family = out.encode_descriptor("outrigger_mirrored_requests", help, None, MetricType::Counter)?;
    for ((route, to), mirrored) in metrics.mirrors.all() {
        for ended in Ended::ALL {
            let labels = [("route", &*route), ("to", &*to), ("result", ended.name())];
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&mirrored.get(ended), None)?;
        }
    }
    let help = "Percent of the traffic of a route that its canary has";
    let mut family = out.encode_descriptor("outrigger_canary_share", help, None, MetricType::Gauge)?;
    for (route, canary) in metrics.canaries.all() {
        family.encode_family(&[("route", &*route)])?.encode_gauge(&canary.share())?;
    }
    let help = "What canaries did, by themselves or by an operator";
    let mut family = out.encode_descriptor("outrigger_canary_transitions", help, None, MetricType::Counter)?;
    for (route, canary) in metrics.canaries.all() {
        for (transition, count) in canary.counts() {
            let labels = [("route", &*route), ("to", transition.name())];
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
    }
    Ok(())
}

//! Metrics as text: sums the blocks of all workers and names every family. The only module that knows the names.

mod on_purpose;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::UNIX_EPOCH;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeGaugeValue, EncodeLabelSet, LabelSetEncoder, MetricEncoder, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::block::{Block, GRPC_CODES, GRPC_NAMES, GrpcSide, Outcome};
use super::counter::{Counter, Gauge, PerFailure, PerReason};
use super::detection;
use super::endpoints;
use super::histogram::{DURATION, SIZE, Totals};
use super::metrics::{Certificate, DrainPhase, Labels, Metrics, WorkerCounters};
use super::process::Usage;
use crate::policy::guard::Guard;

pub(super) fn open_metrics(metrics: &Arc<Metrics>) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape(Arc::clone(metrics))));
    let mut text = String::new();
    // Writing to a String fails only where a collector does, and ours does not.
    let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
    text
}

/// OpenMetrics names a counter without `_total` and its samples with it; the older format knows only the latter.
pub(super) fn classic(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 1024);
    let mut help: Option<&str> = None;
    for line in text.lines() {
        if line.starts_with("# HELP ") {
            help = Some(line);
            continue;
        }
        if let Some(head) = help.take() {
            let (name, words) = head.trim_start_matches("# HELP ").split_once(' ').unwrap_or((head, ""));
            let kind = line.rsplit(' ').next().unwrap_or("untyped");
            let total = if kind == "counter" { "_total" } else { "" };
            out.push_str(&format!("# HELP {name}{total} {words}\n# TYPE {name}{total} {kind}\n"));
        } else if !line.starts_with('#') {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

#[derive(Debug)]
struct Scrape(Arc<Metrics>);

/// One set of labels, summed over the workers.
#[derive(Default)]
struct Sum {
    outcomes: BTreeMap<Outcome, u64>,
    overflowed: BTreeMap<usize, u64>,
    duration: Totals<15>,
    request_size: Totals<8>,
    response_size: Totals<8>,
    grpc_server: [u64; GRPC_CODES],
    grpc_client: [u64; GRPC_CODES],
    shadow: [u64; Guard::ALL.len()],
    in_flight: i64,
}

/// Traffic labels and then some.
struct With<'a>(&'a Labels, &'a [(&'static str, &'a str)]);

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let out = &mut encoder;
        let sums = self.sums();
        traffic(out, &sums)?;
        grpc(out, "grpc_server_handled", "gRPC calls answered", &sums, |sum| &sum.grpc_server)?;
        grpc(out, "grpc_client_handled", "gRPC calls sent upstream", &sums, |sum| &sum.grpc_client)?;
        shadow(out, &sums)?;
        self.denials(out)?;
        self.0.circuits.encode(out)?;
        self.downstream(out)?;
        self.detection(out)?;
        self.connections(out)?;
        self.upstream(out)?;
        on_purpose::encode(&self.0, out)?;
        self.limits(out)?;
        endpoints::expose(out, &self.0.services.all())?;
        self.own(out, sums.len())?;
        usage(out)
    }
}

impl Scrape {
    /// In order of the labels, so that two scrapes compare line by line. The lock is held only to copy the handles.
    fn sums(&self) -> BTreeMap<Labels, Sum> {
        let blocks: Vec<(Labels, Vec<Arc<Block>>)> = self
            .0
            .series()
            .iter()
            .map(|(labels, series)| (labels.clone(), series.blocks.iter().flatten().cloned().collect()))
            .collect();
        blocks
            .into_iter()
            .map(|(labels, blocks)| (labels, blocks.iter().fold(Sum::default(), |sum, block| sum.plus(block))))
            .collect()
    }

    fn denials(&self, out: &mut DescriptorEncoder) -> fmt::Result {
        let help = "Requests and connections that authorization denied, or would have in shadow mode";
        let mut family = out.encode_descriptor("outrigger_authorization_denied", help, None, MetricType::Counter)?;
        for ((listener, entry), denials) in self.0.denials.all() {
            for (mode, count) in [("enforce", denials.enforced.get()), ("shadow", denials.shadow.get())] {
                let labels = [("listener", &*listener), ("rule", &*entry), ("mode", mode)];
                if count > 0 {
                    family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
                }
            }
        }
        Ok(())
    }

    /// Those that nobody has used as well: an alert has to see the first.
    fn downstream(&self, out: &mut DescriptorEncoder) -> fmt::Result {
        let help = "Connections from clients, by listener and how they are protected";
        let mut family = out.encode_descriptor("outrigger_downstream_connections", help, None, MetricType::Counter)?;
        for (listener, connections) in self.0.connections.all() {
            for (how, count) in connections.all() {
                let labels = [("listener", &*listener), ("security", how.name())];
                family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
            }
        }
        Ok(())
    }

    fn detection(&self, out: &mut DescriptorEncoder) -> fmt::Result {
        let mut sums: BTreeMap<Arc<str>, detection::Sum> = BTreeMap::new();
        for ((listener, _), of_worker) in self.0.detection.all() {
            sums.entry(listener).or_default().add(&of_worker);
        }
        let help = "Connections whose protocol was to be found out, by how that ended";
        let mut family = out.encode_descriptor("outrigger_detection", help, None, MetricType::Counter)?;
        for (listener, sum) in &sums {
            for (outcome, count) in sum.outcomes() {
                let labels = [("listener", &**listener), ("outcome", outcome.name())];
                family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
            }
        }
        let help = "From when a connection was accepted to when its protocol was known, or was not to be";
        let name = "outrigger_detection_duration_seconds";
        let mut family = out.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (listener, sum) in &sums {
            let labels = [("listener", &**listener)];
            buckets(family.encode_family(&labels)?, &sum.duration, &detection::BOUNDS, 1e9)?;
        }
        let help = "Connections to destinations that the configuration does not know";
        let mut family = out.encode_descriptor("outrigger_unknown_connections", help, None, MetricType::Counter)?;
        for (listener, sum) in &sums {
            for (protocol, action, count) in sum.unknown() {
                let labels = [("listener", &**listener), ("protocol", protocol), ("action", action)];
                family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
            }
        }
        Ok(())
    }

    fn connections(&self, out: &mut DescriptorEncoder) -> fmt::Result {
        let each = self.0.workers();
        count(out, each, "connections_accepted", "Connections taken from listeners", |w| &w.connections_accepted)?;
        level(out, each, "connections_active", "Connections from clients", |w| &w.connections_active)?;
        level(out, each, "connections_parked", "Idle connections without buffers", |w| &w.connections_parked)?;
        reasons(out, each, "connections_closed", "Connections ended, by why", |w| &w.connections_closed)?;
        count(out, each, "handshakes", "TLS handshakes with clients", |w| &w.handshakes)?;
        let help = "TLS handshakes with clients that resumed an earlier session";
        count(out, each, "handshakes_resumed", help, |w| &w.handshakes_resumed)?;
        let help = "TLS handshakes with clients that failed, by cause";
        failures(out, each, "handshake_failures", help, |w| &w.handshake_failures)?;
        reasons(out, each, "requests_malformed", "Bad requests that reached no route", |w| &w.requests_malformed)?;
        count(out, each, "panics", "Faults of ours, caught", |w| &w.panics)?;
        level(out, each, "upgrades_active", "Upgraded connections (WebSocket and others)", |w| &w.upgrades_active)?;
        count(out, each, "tcp_connections", "Connections relayed as TCP", |w| &w.tcp_connections)?;
        level(out, each, "tcp_active", "Connections being relayed as TCP", |w| &w.tcp_active)?;
        count(out, each, "tcp_received_bytes", "Bytes from clients over TCP", |w| &w.tcp_bytes_received)?;
        count(out, each, "tcp_sent_bytes", "Bytes to clients over TCP", |w| &w.tcp_bytes_sent)?;
        let help = "Times that no connection could be accepted";
        let mut family = out.encode_descriptor("outrigger_worker_accept_errors", help, None, MetricType::Counter)?;
        for (index, worker) in each.iter().enumerate() {
            let kinds = [("exhausted", &worker.accept_errors_exhausted), ("other", &worker.accept_errors_other)];
            for (kind, counter) in kinds {
                let labels = [("worker", index.to_string()), ("kind", kind.to_owned())];
                family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&counter.get(), None)?;
            }
        }
        Ok(())
    }

    fn upstream(&self, out: &mut DescriptorEncoder) -> fmt::Result {
        let each = self.0.workers();
        count(out, each, "upstream_connects", "Connections made to services", |w| &w.upstream_connects)?;
        let help = "Connections to services that could not be made";
        reasons(out, each, "upstream_connect_failures", help, |w| &w.upstream_connect_failures)?;
        count(out, each, "upstream_handshakes", "TLS handshakes with services", |w| &w.upstream_handshakes)?;
        let help = "TLS handshakes with services that resumed an earlier session";
        count(out, each, "upstream_handshakes_resumed", help, |w| &w.upstream_handshakes_resumed)?;
        let help = "TLS handshakes with services that failed, by cause";
        failures(out, each, "upstream_handshake_failures", help, |w| &w.upstream_handshake_failures)?;
        level(out, each, "upstream_connections_active", "Connections to services", |w| &w.upstream_connections_active)?;
        level(out, each, "upstream_connections_idle", "Pooled connections with nothing to do", |w| {
            &w.upstream_connections_idle
        })?;
        count(out, each, "upstream_reused", "Requests that found a connection ready", |w| &w.upstream_reused)?;
        count(out, each, "upstream_redo", "Unsent or stale requests sent again for free", |w| &w.upstream_redo)?;
        count(out, each, "upstream_retries", "Requests tried again, as their route says", |w| &w.upstream_retries)?;
        let help = "Requests that failed and were not tried again, though their route has retries, by cause";
        let seen = |worker: &WorkerCounters| worker.upstream_not_again.seen().map(|(why, n)| (why.code(), n)).collect();
        kinds(out, each, "upstream_not_retried", help, "reason", seen)?;
        count(out, each, "upstream_hedges", "Tries begun at the side of another", |w| &w.upstream_hedges)?;
        let help = "Requests that waited for their turn (`rateLimit`) or for a place at their service (`limits`)";
        count(out, each, "requests_delayed", help, |w| &w.requests_delayed)?;
        level(out, each, "pool_pending", "Requests that wait for a connection", |w| &w.pool_pending)?;
        let help = "Whether so few endpoints of a service are available that it is not looked at which";
        let mut panics = out.encode_descriptor("outrigger_load_balancer_panic", help, None, MetricType::Gauge)?;
        for (service, workers) in self.0.panics.all() {
            let panic = u64::from(workers.load(Relaxed) > 0);
            panics.encode_family(&[("service", &*service)])?.encode_gauge(&panic)?;
        }
        let help = "Highest share of the source ports that connections to one address use";
        gauge(out, "outrigger_source_ports_used_ratio", help, self.0.process.source_ports())
    }

    fn limits(&self, out: &mut DescriptorEncoder) -> fmt::Result {
        let all = self.0.limits.all();
        let help = "Requests that a service with `limits` has at a time, over all workers";
        let mut family = out.encode_descriptor("outrigger_service_in_flight", help, None, MetricType::Gauge)?;
        for (service, limits) in &all {
            family.encode_family(&[("service", &**service)])?.encode_gauge(&limits.in_flight.get())?;
        }
        let help = "Requests that wait for a place at a service with `limits`";
        let mut family = out.encode_descriptor("outrigger_service_pending", help, None, MetricType::Gauge)?;
        for (service, limits) in &all {
            family.encode_family(&[("service", &**service)])?.encode_gauge(&limits.pending.get())?;
        }
        let help = "Connections that a service with `limits` has, over all workers";
        let mut family = out.encode_descriptor("outrigger_service_connections", help, None, MetricType::Gauge)?;
        for (service, limits) in &all {
            family.encode_family(&[("service", &**service)])?.encode_gauge(&limits.connections.get())?;
        }
        let (name, help) = ("outrigger_service_connections_beyond", "Connections beyond a limit in shadow mode");
        let mut family = out.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (service, limits) in &all {
            let beyond = limits.connections_beyond.get().cast_unsigned();
            let labels = [("service", &**service)];
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&beyond, None)?;
        }
        let help = "Requests that a service may have at a time: as written, and as learned from its latency";
        let mut family = out.encode_descriptor("outrigger_service_limit", help, None, MetricType::Gauge)?;
        for (service, limits) in &all {
            for (kind, limit) in [("written", limits.written.get()), ("adaptive", limits.adaptive.get())] {
                if limit > 0 {
                    family.encode_family(&[("service", &**service), ("kind", kind)])?.encode_gauge(&limit)?;
                }
            }
        }
        Ok(())
    }

    fn certificates(&self, out: &mut DescriptorEncoder) -> fmt::Result {
        let process = &self.0.process;
        let name = "outrigger_certificate_expiry_timestamp_seconds";
        let help = "End of each certificate of ours, since the epoch";
        let mut ends = out.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for Certificate { of, file, not_after } in process.certificates() {
            let end = not_after.duration_since(UNIX_EPOCH).map_or(0, |end| end.as_secs());
            ends.encode_family(&[("of", of), ("file", file)])?.encode_gauge(&end)?;
        }
        let help = "Files of certificates and trust anchors that were new, by what became of them";
        let mut rotations =
            out.encode_descriptor("outrigger_certificate_rotations", help, None, MetricType::Counter)?;
        for (result, counter) in [("live", &process.rotations), ("refused", &process.rotations_refused)] {
            let labels = [("result", result)];
            rotations.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&counter.get(), None)?;
        }
        Ok(())
    }

    fn own(&self, out: &mut DescriptorEncoder, label_sets: usize) -> fmt::Result {
        let process = &self.0.process;
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        let mut build = out.encode_descriptor("outrigger_build_info", "What is running", None, MetricType::Gauge)?;
        build.encode_family(&version)?.encode_gauge(&1u64)?;
        let [name, namespace, version] = process.workload();
        let workload = [("name", name), ("namespace", namespace), ("version", version)];
        let help = "Whom this proxy speaks for";
        let mut info = out.encode_descriptor("outrigger_workload_info", help, None, MetricType::Gauge)?;
        info.encode_family(&workload)?.encode_gauge(&1u64)?;
        gauge(out, "outrigger_workers", "Event loops", self.0.workers().len() as u64)?;
        for (name, help, value) in process.config() {
            gauge(out, name, help, value)?;
        }
        let help = "Configurations tried, by result";
        let mut reloads = out.encode_descriptor("outrigger_config_reloads", help, None, MetricType::Counter)?;
        for (result, counter) in [("success", &process.reloads_success), ("failure", &process.reloads_failure)] {
            let labels = [("result", result)];
            reloads.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&counter.get(), None)?;
        }
        let now = process.drain_phase();
        gauge(out, "outrigger_draining", "Whether the proxy is stopping", u64::from(now != DrainPhase::Running))?;
        let help = "Phase of the drain that the proxy is in";
        let mut phases = out.encode_descriptor("outrigger_drain_phase", help, None, MetricType::Gauge)?;
        for phase in DrainPhase::ALL {
            phases.encode_family(&[("phase", phase.name())])?.encode_gauge(&u64::from(phase == now))?;
        }
        let help = "Configurations that were taken back, by probation or by an operator";
        total(out, "outrigger_config_rollbacks", help, process.rollbacks.get())?;
        let help = "Times that the state directory could not be written or read";
        total(out, "outrigger_state_errors", help, process.state_errors.get())?;
        self.certificates(out)?;
        gauge(out, "outrigger_metrics_label_sets", "Sets of labels that traffic is counted by", label_sets as u64)?;
        let help = "Sets of labels that were counted as `other`, for want of series";
        total(out, "outrigger_metrics_series_overflow", help, self.0.overflowed.get())?;
        let help = "Lines of the access log that were not written, by cause";
        let mut dropped = out.encode_descriptor("outrigger_access_log_dropped", help, None, MetricType::Counter)?;
        for (cause, counter) in [("queue", &process.access_log_dropped), ("rate", &process.access_log_limited)] {
            let labels = [("cause", cause)];
            dropped.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&counter.get(), None)?;
        }
        Ok(())
    }
}

fn traffic(out: &mut DescriptorEncoder, sums: &BTreeMap<Labels, Sum>) -> fmt::Result {
    let mut family =
        out.encode_descriptor("http_requests", "Exchanges, by how they ended", None, MetricType::Counter)?;
    for (labels, sum) in sums {
        for (outcome, count) in &sum.outcomes {
            let status = outcome.status().to_string();
            let more = [
                ("method", outcome.method().name()),
                ("status_code", status.as_str()),
                ("reason", outcome.reason().code()),
            ];
            family.encode_family(&With(labels, &more))?.encode_counter::<NoLabelSet, _, u64>(count, None)?;
        }
        for (class, count) in &sum.overflowed {
            let class = format!("{class}xx");
            let more = [("method", "other"), ("status_code", class.as_str()), ("reason", "other")];
            family.encode_family(&With(labels, &more))?.encode_counter::<NoLabelSet, _, u64>(count, None)?;
        }
    }
    let help = "Exchanges that have begun and not ended";
    let mut family = out.encode_descriptor("http_requests_in_flight", help, None, MetricType::Gauge)?;
    for (labels, sum) in sums {
        family.encode_family(&With(labels, &[]))?.encode_gauge(&sum.in_flight)?;
    }
    let help = "From the head of the request to the end of the answer";
    histogram(out, "http_request_duration_seconds", help, sums, &DURATION, 1e9, |sum| &sum.duration)?;
    histogram(out, "http_request_size_bytes", "Bodies of requests", sums, &SIZE, 1.0, |sum| &sum.request_size)?;
    histogram(out, "http_response_size_bytes", "Bodies of answers", sums, &SIZE, 1.0, |sum| &sum.response_size)
}

fn histogram<const N: usize>(
    out: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    sums: &BTreeMap<Labels, Sum>,
    bounds: &[u64; N],
    scale: f64,
    totals: impl Fn(&Sum) -> &Totals<N>,
) -> fmt::Result {
    let mut family = out.encode_descriptor(name, help, None, MetricType::Histogram)?;
    for (labels, sum) in sums {
        buckets(family.encode_family(&With(labels, &[]))?, totals(sum), bounds, scale)?;
    }
    Ok(())
}

/// A route that nobody uses costs its gauge, not its forty buckets.
fn buckets<const N: usize>(mut out: MetricEncoder, totals: &Totals<N>, bounds: &[u64; N], scale: f64) -> fmt::Result {
    let count = totals.count();
    if count == 0 {
        return Ok(());
    }
    out.encode_histogram::<NoLabelSet>(totals.sum as f64 / scale, count, &totals.buckets(bounds, scale), None)
}

fn grpc(
    out: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    sums: &BTreeMap<Labels, Sum>,
    counts: impl Fn(&Sum) -> &[u64; GRPC_CODES],
) -> fmt::Result {
    let mut family = out.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, sum) in sums {
        for (code, count) in GRPC_NAMES.into_iter().zip(counts(sum)).filter(|(_, count)| **count > 0) {
            let more = [("grpc_code", code)];
            family.encode_family(&With(labels, &more))?.encode_counter::<NoLabelSet, _, u64>(count, None)?;
        }
    }
    Ok(())
}

fn shadow(out: &mut DescriptorEncoder, sums: &BTreeMap<Labels, Sum>) -> fmt::Result {
    let help = "Requests that a rule in shadow mode would have refused";
    let mut family = out.encode_descriptor("outrigger_shadow", help, None, MetricType::Counter)?;
    for (labels, sum) in sums {
        for (guard, count) in Guard::ALL.into_iter().zip(sum.shadow).filter(|(_, count)| *count > 0) {
            let more = [("rule", guard.name())];
            family.encode_family(&With(labels, &more))?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
    }
    Ok(())
}

fn count(
    out: &mut DescriptorEncoder,
    workers: &[Arc<WorkerCounters>],
    name: &str,
    help: &str,
    counter: impl Fn(&WorkerCounters) -> &Counter,
) -> fmt::Result {
    let name = format!("outrigger_worker_{name}");
    let mut family = out.encode_descriptor(&name, help, None, MetricType::Counter)?;
    for (index, worker) in workers.iter().enumerate() {
        let labels = [("worker", index.to_string())];
        family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&counter(worker).get(), None)?;
    }
    Ok(())
}

fn level(
    out: &mut DescriptorEncoder,
    workers: &[Arc<WorkerCounters>],
    name: &str,
    help: &str,
    gauge: impl Fn(&WorkerCounters) -> &Gauge,
) -> fmt::Result {
    let name = format!("outrigger_worker_{name}");
    let mut family = out.encode_descriptor(&name, help, None, MetricType::Gauge)?;
    for (index, worker) in workers.iter().enumerate() {
        family.encode_family(&[("worker", index.to_string())])?.encode_gauge(&gauge(worker).get())?;
    }
    Ok(())
}

fn reasons(
    out: &mut DescriptorEncoder,
    workers: &[Arc<WorkerCounters>],
    name: &str,
    help: &str,
    counters: impl Fn(&WorkerCounters) -> &PerReason,
) -> fmt::Result {
    let seen = |worker: &WorkerCounters| counters(worker).seen().map(|(reason, n)| (reason.code(), n)).collect();
    kinds(out, workers, name, help, "reason", seen)
}

fn failures(
    out: &mut DescriptorEncoder,
    workers: &[Arc<WorkerCounters>],
    name: &str,
    help: &str,
    counters: impl Fn(&WorkerCounters) -> &PerFailure,
) -> fmt::Result {
    let seen = |worker: &WorkerCounters| counters(worker).seen().map(|(failure, n)| (failure.name(), n)).collect();
    kinds(out, workers, name, help, "cause", seen)
}

/// A counter for each kind of something that has been seen at all.
fn kinds(
    out: &mut DescriptorEncoder,
    workers: &[Arc<WorkerCounters>],
    name: &str,
    help: &str,
    label: &'static str,
    seen: impl Fn(&WorkerCounters) -> Vec<(&'static str, u64)>,
) -> fmt::Result {
    let name = format!("outrigger_worker_{name}");
    let mut family = out.encode_descriptor(&name, help, None, MetricType::Counter)?;
    for (index, worker) in workers.iter().enumerate() {
        for (kind, count) in seen(worker) {
            let labels = [("worker", index.to_string()), (label, kind.to_owned())];
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
    }
    Ok(())
}

fn gauge(out: &mut DescriptorEncoder, name: &str, help: &str, value: impl EncodeGaugeValue) -> fmt::Result {
    out.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
}

fn total(out: &mut DescriptorEncoder, name: &str, help: &str, value: u64) -> fmt::Result {
    out.encode_descriptor(name, help, None, MetricType::Counter)?.encode_counter::<NoLabelSet, _, u64>(&value, None)
}

fn usage(out: &mut DescriptorEncoder) -> fmt::Result {
    let Some(usage) = Usage::read() else { return Ok(()) };
    gauge(out, "process_resident_memory_bytes", "Resident memory", usage.resident_bytes)?;
    gauge(out, "process_virtual_memory_bytes", "Virtual memory", usage.virtual_bytes)?;
    gauge(out, "process_open_fds", "Open file descriptors", usage.open_fds)?;
    gauge(out, "process_threads", "Threads", usage.threads)?;
    gauge(out, "process_start_time_seconds", "Start of the process, since the epoch", usage.start_seconds)?;
    if let Some(max) = usage.max_fds {
        gauge(out, "process_max_fds", "File descriptors that may be open", max)?;
    }
    let cpu = out.encode_descriptor("process_cpu_seconds", "User and system time spent", None, MetricType::Counter);
    cpu?.encode_counter::<NoLabelSet, _, u64>(&usage.cpu_seconds, None)
}

impl Sum {
    fn plus(mut self, block: &Block) -> Self {
        for (outcome, count) in block.outcomes() {
            *self.outcomes.entry(outcome).or_default() += count;
        }
        for (class, count) in block.overflowed() {
            *self.overflowed.entry(class).or_default() += count;
        }
        block.duration.add_to(&mut self.duration);
        block.request_size.add_to(&mut self.request_size);
        block.response_size.add_to(&mut self.response_size);
        let sides = [(GrpcSide::Server, &mut self.grpc_server), (GrpcSide::Client, &mut self.grpc_client)];
        for (side, totals) in sides {
            totals.iter_mut().zip(block.codes(side)).for_each(|(total, count)| *total += count.get());
        }
        self.shadow.iter_mut().zip(block.shadows()).for_each(|(total, count)| *total += count.get());
        self.in_flight += block.in_flight();
        self
    }
}

impl EncodeLabelSet for With<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder) -> fmt::Result {
        let Self(labels, more) = self;
        let fixed = [
            ("direction", labels.direction.name()),
            ("listener", &*labels.listener),
            ("route", &*labels.route),
            ("service", &*labels.service),
            ("subset", &*labels.subset),
        ];
        fixed.as_slice().encode(encoder)?;
        more.encode(encoder)
    }
}

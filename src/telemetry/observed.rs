//! What the counters say about each route, in the terms that a reload is judged by. Reads the blocks that the workers
//! write; a request pays nothing for it.

use std::sync::Arc;

use super::block::{Block, GrpcSide, Method};
use super::histogram::{DURATION, Totals};
use super::metrics::{Labels, Metrics};
use crate::error::Reason;
use crate::policy::probation::{Observations, Observed};

/// gRPC codes that are the fault of the server's side: UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, DATA_LOSS.
const GRPC_FAULTS: [usize; 5] = [2, 4, 13, 14, 15];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Or at least not for the side of the server to answer for.
    Fine,
    Error,
    Refused,
}

impl Metrics {
    /// Counts since each series began, by listener and route, over all services, subsets and workers.
    pub fn observe(&self) -> Observations {
        // The lock is held only to copy the handles.
        let blocks: Vec<(Arc<str>, Arc<str>, Arc<Block>)> = {
            let series = self.series();
            let blocks = series.iter().flat_map(|(labels, series)| {
                let blocks = series.blocks.iter().flatten();
                blocks.map(|block| (labels.listener.clone(), labels.route.clone(), block.clone()))
            });
            blocks.collect()
        };
        let mut all = Observations::default();
        for (listener, route, block) in &blocks {
            all.add(listener, route, &observed(block, !route.is_empty()));
        }
        all
    }
}

impl Metrics {
    /// The same by side, of those that are wanted.
    pub fn observe_sides(&self, wanted: &dyn Fn(&Labels) -> bool) -> Vec<(Labels, Observed)> {
        let blocks: Vec<(Labels, Vec<Arc<Block>>)> = {
            let series = self.series();
            let wanted = series.iter().filter(|(labels, _)| wanted(labels));
            wanted.map(|(labels, one)| (labels.clone(), one.blocks.iter().flatten().cloned().collect())).collect()
        };
        let sum = |blocks: &[Arc<Block>]| {
            blocks.iter().fold(Observed::default(), |mut sum, block| {
                sum.add(&observed(block, true));
                sum
            })
        };
        blocks.iter().map(|(labels, blocks)| (labels.clone(), sum(blocks))).collect()
    }
}

fn observed(block: &Block, routed: bool) -> Observed {
    let mut seen = Observed::default();
    for (kind, count) in block.outcomes() {
        seen.requests += count;
        match outcome(kind.status(), kind.reason(), routed) {
            Outcome::Fine => {}
            Outcome::Error if kind.method() == Method::Post => seen.post_errors += count,
            Outcome::Error => seen.errors += count,
            Outcome::Refused => seen.refused += count,
        }
    }
    // Of what found no slot only the class is known; it may have been gRPC.
    for (class, count) in block.overflowed() {
        seen.requests += count;
        seen.post_errors += if class >= 5 { count } else { 0 };
    }
    let codes = block.codes(GrpcSide::Server).iter().enumerate();
    seen.grpc_errors = codes.filter(|(code, _)| GRPC_FAULTS.contains(code)).map(|(_, count)| count.get()).sum();
    let mut durations = Totals::<{ DURATION.len() }>::default();
    block.duration.add_to(&mut durations);
    let counts = durations.counts.into_iter().chain([durations.above]);
    seen.durations.iter_mut().zip(counts).for_each(|(bucket, count)| *bucket = count);
    seen.nanos = durations.sum;
    seen
}

fn outcome(status: u16, reason: Reason, routed: bool) -> Outcome {
    match reason {
        Reason::NoRoute | Reason::BodyTooLarge => Outcome::Refused,
        // Without a route, these are the client's doing; with one, the route may have caused them.
        Reason::BadRequest | Reason::Unsupported if routed => Outcome::Refused,
        Reason::BadRequest
        | Reason::Unsupported
        | Reason::HeadTooLarge
        | Reason::HeaderTimeout
        | Reason::ProxyHeader
        | Reason::Handshake => Outcome::Fine,
        // What the configuration says in so many words is no accident. If a denial counted, whoever is shut out could
        // have the reload that does so taken back.
        Reason::DirectResponse
        | Reason::Redirect
        | Reason::FaultInjected
        | Reason::Denied
        | Reason::RateLimited
        | Reason::NotRedirected
        | Reason::UnknownDestination
        | Reason::Undetected => Outcome::Fine,
        // The answer may have been an error before the client left.
        Reason::None | Reason::ClientReset if status < 500 => Outcome::Fine,
        Reason::None
        | Reason::ClientReset
        | Reason::NoEndpoint
        | Reason::CircuitOpen
        // The service was not asked, because it failed.
        | Reason::Fallback
        | Reason::Overflow
        | Reason::Limit
        | Reason::Overloaded
        | Reason::Shed
        | Reason::ConnectFailed
        | Reason::ConnectTimeout
        | Reason::UpstreamReset
        | Reason::UpstreamProtocol
        | Reason::RequestTimeout
        | Reason::TryTimeout
        | Reason::IdleTimeout
        | Reason::UpgradeMismatch
        | Reason::UpstreamTls
        | Reason::UpstreamIdentity
        | Reason::NoIdentity
        | Reason::Expired
        | Reason::Loop
        | Reason::Drained
        | Reason::Panic => Outcome::Error,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::telemetry::metrics::Direction;

    fn labels(route: &str, service: &str) -> Labels {
        let [listener, route, service, subset] = ["edge", route, service, ""].map(Arc::from);
        Labels { direction: Direction::Proxy, listener, route, service, subset }
    }

    fn end(block: &Block, method: Method, status: u16, reason: Reason) {
        block.request(method, status, reason, Duration::from_millis(3), 0, 0);
    }

    fn of(metrics: &Metrics, route: &str) -> Observed {
        metrics.observe().get(&"edge".into(), &route.into())
    }

    #[test]
    fn workers_and_sides_of_a_split_add_up() {
        let metrics = Metrics::new(2, 1000);
        for (worker, service) in [(0, "v1"), (1, "v1"), (1, "v2")] {
            let block = metrics.block(worker, &labels("api", service));
            end(&block, Method::Get, 200, Reason::None);
            end(&block, Method::Get, 503, Reason::None);
        }
        end(&metrics.block(0, &labels("", "")), Method::Get, 404, Reason::NoRoute);
        let mut durations = [0; 16];
        durations[3] = 6;
        assert_eq!(
            of(&metrics, "api"),
            Observed { requests: 6, errors: 3, durations, nanos: 18_000_000, ..Observed::default() }
        );
        let unrouted = of(&metrics, "");
        assert_eq!((unrouted.requests, unrouted.refused, unrouted.failed().count), (1, 1, 0));
    }

    #[test]
    fn whose_fault_it_is() {
        let cases = [
            (500, Reason::None, Outcome::Error),
            (599, Reason::None, Outcome::Error),
            (404, Reason::None, Outcome::Fine),
            (200, Reason::UpstreamReset, Outcome::Error),
            (200, Reason::IdleTimeout, Outcome::Error),
            (504, Reason::RequestTimeout, Outcome::Error),
            (503, Reason::NoEndpoint, Outcome::Error),
            (499, Reason::ClientReset, Outcome::Fine),
            (200, Reason::ClientReset, Outcome::Fine),
            (502, Reason::ClientReset, Outcome::Error),
            (413, Reason::BodyTooLarge, Outcome::Refused),
            (501, Reason::Unsupported, Outcome::Refused),
            (503, Reason::DirectResponse, Outcome::Fine),
        ];
        for (status, reason, expected) in cases {
            assert_eq!(outcome(status, reason, true), expected, "{status} {reason:?}");
        }
        assert_eq!(outcome(400, Reason::BadRequest, true), Outcome::Refused);
        assert_eq!(outcome(400, Reason::BadRequest, false), Outcome::Fine, "a scanner's");
    }

    #[test]
    fn a_grpc_call_fails_once() {
        let metrics = Metrics::new(1, 1000);
        let block = metrics.block(0, &labels("rpc", "app"));
        // Answered by the upstream, answered by us, cut by the upstream: HTTP sees the last two as well.
        for reason in [Reason::None, Reason::ConnectFailed, Reason::UpstreamReset] {
            end(&block, Method::Post, 200, reason);
            block.grpc(GrpcSide::Server, 14);
            block.grpc(GrpcSide::Client, 14);
        }
        for code in [0, 1, 3, 5, 7, 12, 16] {
            end(&block, Method::Post, 200, Reason::None);
            block.grpc(GrpcSide::Server, code);
        }
        let seen = of(&metrics, "rpc");
        let failed = seen.failed();
        assert_eq!((failed.count, failed.of), (3, 10));
    }

    #[test]
    fn outcomes_without_a_slot_count_by_class() {
        let metrics = Metrics::new(1, 1000);
        let block = metrics.block(0, &labels("api", "app"));
        for status in 400..600 {
            end(&block, Method::Get, status, Reason::None);
        }
        let failed = of(&metrics, "api").failed();
        assert_eq!((failed.count, failed.of), (100, 200));
    }
}

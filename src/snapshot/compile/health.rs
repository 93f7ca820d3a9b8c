//! Health checks and outlier detection of a service.

use http::HeaderValue;
use http::uri::PathAndQuery;

use crate::config::schema::{OutlierDetection, RuleMode, Service};
use crate::policy::outlier::{Latency, Rules, SuccessRate};
use crate::policy::streak::Thresholds;
use crate::snapshot::check::{Ask, Check};

pub fn check(service: &Service) -> Option<Check> {
    let check = service.health_check.as_ref()?;
    let own = service.hosts.first().and_then(|host| HeaderValue::from_str(host).ok());
    let ask = match (&check.http, &check.grpc) {
        (Some(http), _) => Ask::Http {
            path: PathAndQuery::try_from(http.path.as_str()).unwrap_or_else(|_| PathAndQuery::from_static("/")),
            host: http.host.as_deref().and_then(|host| HeaderValue::from_str(host).ok()).or(own),
            statuses: http.statuses.as_slice().into(),
        },
        (None, Some(grpc)) => Ask::Grpc { service: grpc.service.clone(), host: own },
        (None, None) => Ask::Tcp,
    };
    Some(Check {
        ask,
        port: check.port,
        interval: *check.interval,
        timeout: *check.timeout,
        thresholds: Thresholds { healthy_after: check.healthy_after, unhealthy_after: check.unhealthy_after },
    })
}

pub fn outlier(service: &Service) -> Option<Rules> {
    let outlier = service.outlier_detection.as_ref().filter(|outlier| outlier.mode != RuleMode::Off)?;
    let OutlierDetection { consecutive_failures, failures, success_rate, latency, .. } = outlier;
    Some(Rules {
        shadow: outlier.mode == RuleMode::Shadow,
        consecutive: Some(*consecutive_failures).filter(|limit| *limit > 0),
        failures: failures.iter().filter_map(|condition| condition.compile()).collect(),
        success_rate: success_rate.map(|rate| SuccessRate {
            min_requests: rate.min_requests,
            min_endpoints: rate.min_endpoints as usize,
            deviations: rate.deviations,
        }),
        latency: latency.map(|latency| Latency {
            percent: latency.percent,
            above: *latency.above,
            min_requests: latency.min_requests,
            min_endpoints: latency.min_endpoints as usize,
        }),
        interval: *outlier.interval,
        base: *outlier.base_ejection,
        max: *outlier.max_ejection,
        max_share: outlier.max_ejected_percent,
    })
}

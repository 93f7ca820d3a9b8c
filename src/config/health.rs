//! What can be wrong with health checks, outlier detection, and names that endpoints are looked up by.

use super::schema::{Dns, DnsType, Service};
use super::validate::View;

pub fn service(view: &mut View<'_>, path: &str, service: &Service) {
    if let Some(check) = &service.health_check {
        let path = format!("{path}.healthCheck");
        let kinds = [check.http.is_some(), check.grpc.is_some(), check.tcp.is_some()];
        match kinds.into_iter().filter(|there| *there).count() {
            1 => {}
            0 => {
                let message = "a check is one of `http`, `grpc` and `tcp`";
                view.push(&path, message, "write `http: { path: /healthz }`, `grpc: {}` or `tcp: {}`");
            }
            _ => view.push(&path, "`http`, `grpc` and `tcp` exclude each other", "keep one of them"),
        }
        view.positive(&format!("{path}.interval"), check.interval);
        view.positive(&format!("{path}.timeout"), check.timeout);
    }
    if let Some(outlier) = &service.outlier_detection {
        let path = format!("{path}.outlierDetection");
        view.positive(&format!("{path}.interval"), outlier.interval);
        view.positive(&format!("{path}.baseEjection"), outlier.base_ejection);
        if outlier.max_ejection < outlier.base_ejection {
            let message = format!("shorter than `baseEjection`, which is {}", outlier.base_ejection);
            view.push(&format!("{path}.maxEjection"), message, "make it longer, or `baseEjection` shorter");
        }
        if let Some(rate) = &outlier.success_rate
            && rate.deviations >= f64::from(rate.min_endpoints.saturating_sub(1)).sqrt()
        {
            // One of n is at most the root of n - 1 deviations from the mean of all.
            let message = format!("of {} endpoints, none can be so far from the mean", rate.min_endpoints);
            let remedy = "raise `minEndpoints`, or lower `deviations` below the root of one less than it";
            view.push(&format!("{path}.successRate"), message, remedy);
        }
        if outlier.consecutive_failures == 0 && outlier.success_rate.is_none() && outlier.latency.is_none() {
            let remedy = "let `consecutiveFailures` be above 0, or add `successRate` or `latency`";
            view.push(&path, "there is nothing that it would eject for", remedy);
        }
    }
}

/// `of` is the service that it belongs to.
pub fn dns(view: &mut View<'_>, path: &str, of: &str, (service, dns): (&Service, &Dns)) {
    match dns.kind {
        DnsType::Address if dns.port.or(service.port).is_none() => {
            let remedy = format!("add `port: …` here or to `{of}`");
            view.push(path, "there is no port to connect to", remedy);
        }
        DnsType::Srv if dns.port.is_some() => {
            view.push(&format!("{path}.port"), "the records of `srv` say the port", "remove it");
        }
        DnsType::Address | DnsType::Srv => {}
    }
    view.positive(&format!("{path}.minTtl"), dns.min_ttl);
    if dns.max_ttl < dns.min_ttl {
        let message = format!("shorter than `minTtl`, which is {}", dns.min_ttl);
        view.push(&format!("{path}.maxTtl"), message, "make it longer, or `minTtl` shorter");
    }
}

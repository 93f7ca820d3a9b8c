use super::*;
use crate::error::Reason;
use crate::policy::learned::Spoken;
use crate::telemetry::detection::Outcome;
use crate::telemetry::peers::How;

fn labels(route: &str) -> Labels {
    Labels {
        direction: Direction::Proxy,
        listener: "edge".into(),
        route: route.into(),
        service: "app".into(),
        subset: "".into(),
    }
}

fn get(block: &Block, status: u16, millis: u64) {
    block.request(Method::Get, status, Reason::None, Duration::from_millis(millis), 0, 300);
}

#[test]
fn counts_are_summed_over_workers() {
    let metrics = Metrics::new(2, 1000);
    for worker in [0, 1] {
        let block = metrics.block(worker, &labels("all"));
        get(&block, 200, 3);
        block.grpc(GrpcSide::Server, 14);
        block.grpc(GrpcSide::Client, 99);
        block.active(1);
    }
    let text = metrics.encode();
    let set = r#"direction="proxy",listener="edge",route="all",service="app",subset="""#;
    for line in [
        format!(r#"http_requests_total{{{set},method="GET",status_code="200",reason=""}} 2"#),
        format!(r#"http_request_duration_seconds_bucket{{le="0.0025",{set}}} 0"#),
        format!(r#"http_request_duration_seconds_bucket{{le="0.005",{set}}} 2"#),
        format!(r#"http_request_duration_seconds_bucket{{le="+Inf",{set}}} 2"#),
        format!(r#"http_request_duration_seconds_sum{{{set}}} 0.006"#),
        format!(r#"http_response_size_bytes_bucket{{le="1024.0",{set}}} 2"#),
        format!(r#"grpc_server_handled_total{{{set},grpc_code="UNAVAILABLE"}} 2"#),
        format!(r#"grpc_client_handled_total{{{set},grpc_code="UNKNOWN"}} 2"#),
        format!(r#"http_requests_in_flight{{{set}}} 2"#),
    ] {
        assert!(text.lines().any(|have| have == line), "{line}\nis not in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn the_same_labels_give_the_same_block() {
    let metrics = Metrics::new(1, 1000);
    assert!(Arc::ptr_eq(&metrics.block(0, &labels("a")), &metrics.block(0, &labels("a"))));
    assert!(!Arc::ptr_eq(&metrics.block(0, &labels("a")), &metrics.block(0, &labels("b"))));
}

#[test]
fn series_beyond_the_limit_are_other_and_counted() {
    let metrics = Metrics::new(1, 2 * SERIES_PER_BLOCK as u32);
    for route in ["a", "b", "c", "d"] {
        get(&metrics.block(0, &labels(route)), 200, 1);
    }
    let text = metrics.encode();
    assert!(
        text.contains(r#"route="other",service="other",subset="other",method="GET",status_code="200",reason=""} 2"#)
    );
    assert!(text.contains(r#"route="b""#) && !text.contains(r#"route="c""#));
    assert!(text.contains("outrigger_metrics_series_overflow_total 2\n"), "{text}");
}

#[test]
fn removed_routes_go_after_their_time_of_grace() {
    let metrics = Metrics::new(1, 1000);
    get(&metrics.block(0, &labels("old")), 200, 1);
    get(&metrics.block(0, &labels("new")), 200, 1);
    metrics.retire(&|labels| &*labels.route == "new");
    assert!(metrics.encode().contains(r#"route="old""#));
    metrics.forget(Instant::now() + GRACE);
    let text = metrics.encode();
    assert!(!text.contains(r#"route="old""#) && text.contains(r#"route="new""#));
}

#[test]
fn a_route_that_comes_back_keeps_its_counts() {
    let metrics = Metrics::new(1, 1000);
    let block = metrics.block(0, &labels("a"));
    metrics.retire(&|_| false);
    assert!(Arc::ptr_eq(&block, &metrics.block(0, &labels("a"))));
    metrics.forget(Instant::now() + GRACE);
    assert!(Arc::ptr_eq(&block, &metrics.block(0, &labels("a"))));
}

#[test]
fn removed_routes_make_way_for_new_ones() {
    let metrics = Metrics::new(1, SERIES_PER_BLOCK as u32);
    metrics.block(0, &labels("old"));
    metrics.retire(&|_| false);
    metrics.block(0, &labels("new"));
    assert_eq!(metrics.overflowed.get(), 0);
}

#[test]
fn label_values_are_escaped() {
    let metrics = Metrics::new(1, 1000);
    get(&metrics.block(0, &labels("a\"b\\c\nd")), 200, 1);
    assert!(metrics.encode().contains(r#"route="a\"b\\c\nd""#));
}

#[test]
fn our_own_machinery_is_told() {
    let metrics = Metrics::new(2, 1000);
    let worker = metrics.worker(1);
    worker.connections_accepted.inc();
    worker.connections_closed.inc(Reason::IdleTimeout);
    let denials = metrics.denials.get(&("edge".into(), "reads".into()));
    denials.shadow.inc();
    denials.enforced.add(2);
    metrics.connections.get(&"edge".into()).inc(How::Plaintext);
    metrics.process.config_accepted(7, UNIX_EPOCH + Duration::from_secs(99));
    metrics.process.config_refused(UNIX_EPOCH + Duration::from_secs(100));
    metrics.process.set_drain_phase(DrainPhase::LameDuck);
    metrics.process.set_workload("reviews", "shop", "v1");
    let text = metrics.encode();
    for line in [
        r#"outrigger_worker_connections_accepted_total{worker="0"} 0"#,
        r#"outrigger_worker_connections_accepted_total{worker="1"} 1"#,
        r#"outrigger_worker_connections_closed_total{worker="1",reason="idle_timeout"} 1"#,
        r#"outrigger_downstream_connections_total{listener="edge",security="mtls"} 0"#,
        r#"outrigger_downstream_connections_total{listener="edge",security="plaintext"} 1"#,
        r#"outrigger_authorization_denied_total{listener="edge",rule="reads",mode="enforce"} 2"#,
        r#"outrigger_authorization_denied_total{listener="edge",rule="reads",mode="shadow"} 1"#,
        r#"outrigger_config_reloads_total{result="failure"} 1"#,
        "outrigger_config_generation 7",
        "outrigger_config_last_reload_successful 0",
        "outrigger_config_last_reload_timestamp_seconds 99",
        r#"outrigger_drain_phase{phase="lame_duck"} 1"#,
        "outrigger_draining 1",
        r#"outrigger_workload_info{name="reviews",namespace="shop",version="v1"} 1"#,
        "outrigger_workers 2",
    ] {
        assert!(text.lines().any(|have| have == line), "{line}\nis not in\n{text}");
    }
}

#[test]
fn every_sample_belongs_to_the_family_above_it() {
    let metrics = Metrics::new(1, 1000);
    get(&metrics.block(0, &labels("all")), 200, 1);
    for (text, total) in [(metrics.encode(), ""), (metrics.encode_classic(), "_total")] {
        let mut family = String::new();
        let mut seen = std::collections::HashSet::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert!(seen.insert(name.to_owned()), "{name} twice");
                assert_eq!(kind == "counter" && !total.is_empty(), name.ends_with("_total"), "{name}");
                family = name.to_owned();
            } else if !line.starts_with('#') {
                assert!(line.starts_with(&family), "{line} under {family}");
            }
        }
        assert!(seen.contains(&format!("http_requests{total}")));
    }
}

#[test]
fn detection_is_summed_over_workers_and_goes_with_its_listener() {
    let metrics = Metrics::new(2, 1000);
    for worker in [0, 1] {
        let detection = metrics.detection.get(&("outbound".into(), worker));
        detection.ended(Outcome::ServerFirst, Duration::from_millis(2));
        detection.unknown(Spoken::Tls, worker == 0);
    }
    metrics.detection.get(&("quiet".into(), 0));
    let text = metrics.encode();
    for line in [
        r#"outrigger_detection_total{listener="outbound",outcome="server_first"} 2"#,
        r#"outrigger_detection_duration_seconds_bucket{le="0.001",listener="outbound"} 0"#,
        r#"outrigger_detection_duration_seconds_bucket{le="0.0025",listener="outbound"} 2"#,
        r#"outrigger_detection_duration_seconds_sum{listener="outbound"} 0.004"#,
        r#"outrigger_unknown_connections_total{listener="outbound",protocol="tls",action="allowed"} 1"#,
        r#"outrigger_unknown_connections_total{listener="outbound",protocol="tls",action="denied"} 1"#,
    ] {
        assert!(text.lines().any(|have| have == line), "{line}\nis not in\n{text}");
    }
    assert!(!text.contains(r#"listener="quiet""#), "a listener that detects nothing has no series");
}

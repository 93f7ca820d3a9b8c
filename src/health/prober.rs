//! The checks of one service: each endpoint is asked at once when it is found, and then at an interval.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use rand::Rng;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::Task;
use super::ask::ask;
use crate::config::schema::Protocol;
use crate::discovery::Endpoint;
use crate::policy::standing::Standing;
use crate::snapshot::check::Check;
use crate::snapshot::{Service, Transport, Upstream};
use crate::wire::address::Address;
use crate::wire::proxy_protocol;
use crate::worker::Shared;

/// Checks of one service at a time.
const AT_A_TIME: usize = 64;

/// What a check depends on.
#[derive(Debug, PartialEq)]
pub struct Plan {
    pub service: Arc<str>,
    pub check: Arc<Check>,
    pub protocol: Protocol,
    pub transport: Transport,
    pub beside: bool,
    pub proxy_protocol: Option<proxy_protocol::Version>,
}

impl Plan {
    pub fn new(service: &Service) -> Option<Self> {
        Some(Self {
            service: service.name.clone(),
            check: service.check.clone()?,
            protocol: service.protocol,
            transport: service.transport.clone(),
            beside: service.beside,
            proxy_protocol: service.proxy_protocol,
        })
    }
}

/// Checks until it is dropped.
pub async fn run(plan: Arc<Plan>, upstream: Arc<Upstream>, shared: Arc<Shared>) {
    let slots = Arc::new(Semaphore::new(AT_A_TIME));
    let mut endpoints = upstream.endpoints();
    let mut tasks: HashMap<Address, (Endpoint, Task)> = HashMap::new();
    loop {
        let list = endpoints.borrow_and_update().clone();
        let mut before = std::mem::take(&mut tasks);
        for endpoint in list.iter() {
            let known = before.remove(&endpoint.address).filter(|(known, _)| known == endpoint);
            let known = known.unwrap_or_else(|| {
                let checks = check(plan.clone(), endpoint.clone(), upstream.clone(), shared.clone(), slots.clone());
                (endpoint.clone(), Task::spawn(checks))
            });
            tasks.insert(endpoint.address.clone(), known);
        }
        drop(before);
        if endpoints.changed().await.is_err() {
            // A list that is written in the configuration does not change.
            std::future::pending::<()>().await;
        }
    }
}

async fn check(
    plan: Arc<Plan>,
    endpoint: Endpoint,
    upstream: Arc<Upstream>,
    shared: Arc<Shared>,
    slots: Arc<Semaphore>,
) {
    let standing = upstream.standing(&endpoint.address);
    loop {
        let slot = slots.acquire().await;
        let material = shared.material.load_full();
        let result = match timeout(plan.check.timeout, ask(&plan, &endpoint, &material)).await {
            Ok(result) => result,
            Err(_) => Err(format!("no answer within {} ms", plan.check.timeout.as_millis())),
        };
        drop((slot, material));
        told(&plan, &endpoint.address, &upstream, &standing, result);
        // So that many proxies do not ask all at once.
        let jitter = rand::rng().random_range(0.9..=1.1);
        sleep(plan.check.interval.mul_f64(jitter)).await;
    }
}

fn told(plan: &Plan, address: &Address, upstream: &Upstream, standing: &Standing, result: Result<(), String>) {
    let counters = upstream.counters();
    let (counter, now) = match result {
        Ok(()) => (&counters.checks_passed, SystemTime::now()),
        Err(_) => (&counters.checks_failed, SystemTime::now()),
    };
    counter.inc();
    let mut checked = standing.checked();
    let change = checked.streak.next(result.is_ok(), plan.check.thresholds);
    checked.at = Some(now);
    checked.error = result.err();
    let Some(unhealthy) = change else { return };
    checked.since = Some(now);
    let (service, error) = (&*plan.service, checked.error.as_deref().unwrap_or_default());
    if unhealthy {
        tracing::warn!(service, %address, error, "endpoint is unhealthy");
    } else {
        tracing::info!(service, %address, "endpoint is healthy again");
    }
    standing.set_unhealthy(unhealthy);
    upstream.standings_changed();
}

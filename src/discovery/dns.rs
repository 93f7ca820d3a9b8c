//! Endpoints that a name resolves to: all of its A and AAAA records, or what `/etc/hosts` says; or the targets of its SRV
//! records, each looked up in the same way.
//!
//! A name is looked up again when its records expire, within bounds, and sooner when somebody could not connect. While
//! that fails, or gives no address at all, the last answer stays: a name server that is restarted must not empty a
//! service.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query as Asked;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::{Hosts, TokioResolver};
use rand::Rng;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::{Endpoint, Kind, Publisher, Query};

/// When to look again, besides what the records ask for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// After a failure, doubled with every further one up to the second.
    pub retry: Duration,
    pub retry_max: Duration,
    /// Between two look-ups, however many connections fail.
    pub soonest: Duration,
}

pub(super) const PACE: Pace =
    Pace { retry: Duration::from_secs(1), retry_max: Duration::from_secs(30), soonest: Duration::from_secs(1) };

/// One name server, one try.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Targets of SRV records that are taken; and that are looked up at a time.
const TARGETS: usize = 1024;
const AT_A_TIME: usize = 16;

/// A and AAAA, each with the seconds that it is good for; empty where the name has none.
type Answers = [Result<(Vec<IpAddr>, u32), String>; 2];
type Known = [Vec<IpAddr>; 2];

/// A name with what its addresses are to be used with.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    name: String,
    port: u16,
    weight: u32,
    priority: u32,
}

/// What a look-up has found, how long it is good for, and what of it failed, so that the last answer stands in for it.
struct Found {
    endpoints: Vec<Endpoint>,
    ttl: Duration,
    failed: Option<String>,
}

/// Asks for as long as it is not dropped. `/etc/hosts` and `/etc/resolv.conf` are read anew for every look-up: they may
/// change.
pub(super) async fn run(query: Query, pace: Pace, again: Arc<Notify>, mut publisher: Publisher) {
    let mut known: BTreeMap<String, Known> = BTreeMap::new();
    let (floor, ceiling) = query.ttl;
    let mut failures = 0;
    loop {
        // So that many proxies do not ask all at once.
        let jitter = rand::rng().random_range(0.9..=1.1);
        match find(&query, &mut known).await {
            Ok(Found { endpoints, ttl, failed }) => {
                failures = 0;
                let held_back = match failed {
                    None => publisher.publish(endpoints),
                    Some(error) => publisher.publish_part(endpoints, error),
                };
                let wait = match held_back {
                    None => ttl.clamp(floor, ceiling.max(floor)),
                    // Held back: asked for again, to confirm it.
                    Some(soon) => soon.max(pace.soonest).min(ceiling),
                }
                .mul_f64(jitter);
                let least = wait.min(pace.soonest);
                sleep(least).await;
                // Whether it was the time or somebody who could not connect is all the same.
                let _ = timeout(wait - least, again.notified()).await;
            }
            Err(error) => {
                publisher.fail(error);
                failures += 1;
                sleep(backoff(failures, pace).mul_f64(jitter)).await;
            }
        }
    }
}

async fn find(query: &Query, known: &mut BTreeMap<String, Known>) -> Result<Found, String> {
    let (targets, mut ttl) = match query.kind {
        Kind::Address(port) => (vec![Target { name: query.name.clone(), port, weight: 1, priority: 0 }], Duration::MAX),
        Kind::Srv => services(query).await.map_err(|error| format!("{}: {error}", query.name))?,
    };
    known.retain(|name, _| targets.iter().any(|target| target.name == *name));
    let names: BTreeSet<String> = targets.iter().map(|target| target.name.clone()).collect();
    let servers = &query.servers;
    let (mut found, mut failed) = (false, None);
    let mut answers = futures_util::stream::iter(names)
        .map(|name: String| async move {
            let answers = look_up(&name, servers).await;
            (name, answers)
        })
        .buffer_unordered(AT_A_TIME);
    while let Some((name, answers)) = answers.next().await {
        let (good_for, error) = merge(known.entry(name.clone()).or_default(), answers);
        found |= good_for.is_some();
        ttl = ttl.min(good_for.unwrap_or_default());
        // Of several always the same, whichever comes first: the log hears of each new one.
        failed = failed.into_iter().chain(error.map(|error| format!("{name}: {error}"))).min();
    }
    match failed {
        Some(error) if !found => Err(error),
        failed => {
            let of = |target: &Target| endpoints(known.get(&target.name).unwrap_or(&Known::default()), target);
            Ok(Found { endpoints: targets.iter().flat_map(of).collect(), ttl, failed })
        }
    }
}

/// The targets of the SRV records (RFC 2782), and how long they are good for.
async fn services(query: &Query) -> Result<(Vec<Target>, Duration), String> {
    let name = Name::from_utf8(&query.name).map_err(text)?;
    let lookup = resolver(&query.servers).map_err(text)?.lookup(name, RecordType::SRV).await.map_err(text)?;
    let mut ttl = u32::MAX;
    let records = lookup.answers().iter().filter_map(|record| {
        ttl = ttl.min(record.ttl);
        match &record.data {
            // A target of the root says that there is no such service; and nobody listens on port 0.
            RData::SRV(srv) if !srv.target.is_root() && srv.port > 0 => Some(Target {
                name: srv.target.to_utf8(),
                port: srv.port,
                // There, a weight of nothing still has a small chance.
                weight: u32::from(srv.weight).max(1),
                priority: srv.priority.into(),
            }),
            _ => None,
        }
    });
    let targets: Vec<Target> = records.take(TARGETS).collect();
    if targets.is_empty() {
        return Err("the name has no service".to_owned());
    }
    Ok((targets, Duration::from_secs(ttl.into())))
}

fn text(error: impl std::error::Error) -> String {
    error.to_string()
}

/// Each address is an endpoint. Where there are both families, it has one of the other as an alternative: a network that
/// carries only one of them should not cost half of the endpoints.
fn endpoints(known: &Known, target: &Target) -> Vec<Endpoint> {
    // Whatever the order that they came in, or each answer would look like a change.
    let sorted = known.clone().map(|mut family| {
        family.sort_unstable();
        family
    });
    let [v4, v6] = &sorted;
    let Target { port, weight, priority, .. } = *target;
    let paired = |own: &[IpAddr], other: &[IpAddr]| -> Vec<Endpoint> {
        let others = other.iter().cycle().map(|&ip| vec![SocketAddr::new(ip, port)]);
        let alternatives = others.chain(std::iter::repeat(Vec::new()));
        let endpoint = |(&ip, alternatives): (&IpAddr, _)| Endpoint {
            alternatives,
            weight,
            priority,
            ..Endpoint::bare(SocketAddr::new(ip, port))
        };
        own.iter().zip(alternatives).map(endpoint).collect()
    };
    [paired(v4, v6), paired(v6, v4)].concat()
}

/// Takes over each family that was answered, if any was with addresses; one that failed keeps its last answer. How long
/// that is good for, if any was; and what failed, where something is shown in its place. (Where one family never had an
/// answer, there are servers that fail for it, and always will.)
fn merge(known: &mut Known, answers: Answers) -> (Option<Duration>, Option<String>) {
    let found = answers.iter().any(|answer| matches!(answer, Ok((addresses, _)) if !addresses.is_empty()));
    let failed = answers.iter().find_map(|answer| answer.as_ref().err().cloned());
    if !found {
        return (None, failed.or_else(|| Some("the name has no address".to_owned())));
    }
    let stands_in = known.iter().zip(&answers).filter(|(known, _)| !known.is_empty());
    let failed = stands_in.filter_map(|(_, answer)| answer.as_ref().err().cloned()).next();
    let mut ttl = u32::MAX;
    for (known, answer) in known.iter_mut().zip(answers) {
        match answer {
            Ok((addresses, good_for)) => {
                *known = addresses;
                ttl = ttl.min(good_for);
            }
            Err(_) => ttl = 0,
        }
    }
    (Some(Duration::from_secs(ttl.into())), failed)
}

fn backoff(failures: u32, pace: Pace) -> Duration {
    let factor = 1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    pace.retry.saturating_mul(factor).min(pace.retry_max)
}

async fn look_up(name: &str, servers: &[SocketAddr]) -> Answers {
    let same = |error: String| [Err(error.clone()), Err(error)];
    let parsed = match Name::from_utf8(name) {
        Ok(parsed) => parsed,
        Err(error) => return same(error.to_string()),
    };
    if servers.is_empty()
        && let Some(answers) = in_hosts(&parsed)
    {
        return answers;
    }
    match resolver(servers) {
        Ok(resolver) => {
            let (v4, v6) = tokio::join!(
                resolver.lookup(parsed.clone(), RecordType::A),
                resolver.lookup(parsed.clone(), RecordType::AAAA)
            );
            [v4, v6].map(addresses)
        }
        Err(error) => same(error.to_string()),
    }
}

/// A name in `/etc/hosts` is not asked for elsewhere, in neither family.
fn in_hosts(name: &Name) -> Option<Answers> {
    let hosts = Hosts::from_system().ok()?;
    let found =
        [RecordType::A, RecordType::AAAA].map(|kind| hosts.lookup_static_host(&Asked::query(name.clone(), kind)));
    if found.iter().all(Option::is_none) {
        return None;
    }
    Some(found.map(|lookup| lookup.map_or(Ok((Vec::new(), u32::MAX)), |lookup| addresses(Ok(lookup)))))
}

fn resolver(servers: &[SocketAddr]) -> Result<TokioResolver, NetError> {
    let mut builder = match servers {
        [] => TokioResolver::builder_tokio()?,
        servers => {
            let servers = servers.iter().map(|server| {
                let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                    connection.port = server.port();
                    connection
                });
                let mut config = NameServerConfig::udp(server.ip());
                config.connections = connections.into();
                config
            });
            let config = ResolverConfig::from_name_servers(servers.collect());
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        }
    };
    let options = builder.options_mut();
    options.use_hosts_file = ResolveHosts::Never;
    options.timeout = options.timeout.min(TIMEOUT);
    options.cache_size = 0;
    builder.build()
}

/// No such name and no such record are answers.
fn addresses(result: Result<Lookup, NetError>) -> Result<(Vec<IpAddr>, u32), String> {
    match result {
        Ok(lookup) => {
            let ttl = lookup.answers().iter().map(|record| record.ttl).min().unwrap_or(u32::MAX);
            Ok((lookup.answers().iter().filter_map(|record| record.data.ip_addr()).collect(), ttl))
        }
        Err(error) if error.is_no_records_found() => Ok((Vec::new(), u32::MAX)),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests;

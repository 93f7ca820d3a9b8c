//! Endpoints that a name resolves to: all of its A and AAAA records, or what `/etc/hosts` says.
//!
//! A name is looked up again when its records expire, within bounds. While that fails, or gives no address at all,
//! the last answer stays: a name server that is restarted must not empty a service.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::config::{ResolveHosts, ResolverConfig};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{Hosts, TokioResolver};
use rand::Rng;

use super::{Endpoint, Publisher};

/// When to look again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Bounds of what the records ask for.
    pub floor: Duration,
    pub ceiling: Duration,
    /// After a failure, doubled with every further one up to the second.
    pub retry: Duration,
    pub retry_max: Duration,
}

pub(super) const PACE: Pace = Pace {
    floor: Duration::from_secs(5),
    ceiling: Duration::from_secs(60),
    retry: Duration::from_secs(1),
    retry_max: Duration::from_secs(30),
};

/// One name server, one try.
const TIMEOUT: Duration = Duration::from_secs(2);

/// A and AAAA, each with the seconds that it is good for; empty where the name has none.
type Answers = [Result<(Vec<IpAddr>, u32), String>; 2];

/// Asks `servers`; without them `/etc/hosts`, then the servers of `/etc/resolv.conf`. Both are read anew for every
/// look-up: they may change.
pub(super) async fn run(name: String, port: u16, servers: Option<ResolverConfig>, pace: Pace, publisher: Publisher) {
    let mut known: [Vec<IpAddr>; 2] = Default::default();
    let mut failures = 0;
    loop {
        let wait = match merge(&mut known, look_up(&name, servers.as_ref()).await) {
            Ok(ttl) => {
                failures = 0;
                publisher.publish(endpoints(&known, port));
                ttl.clamp(pace.floor, pace.ceiling)
            }
            Err(error) => {
                publisher.fail(&name, error);
                failures += 1;
                backoff(failures, pace)
            }
        };
        // So that many proxies do not ask all at once.
        let jitter = rand::rng().random_range(0.9..=1.1);
        tokio::time::sleep(wait.mul_f64(jitter)).await;
    }
}

/// Each address is an endpoint. Where there are both families, it has one of the other as an alternative: a network that
/// carries only one of them should not cost half of the endpoints.
fn endpoints(known: &[Vec<IpAddr>; 2], port: u16) -> Vec<Endpoint> {
    // Whatever the order that they came in, or each answer would look like a change.
    let sorted = known.clone().map(|mut family| {
        family.sort_unstable();
        family
    });
    let [v4, v6] = &sorted;
    let paired = |own: &[IpAddr], other: &[IpAddr]| -> Vec<Endpoint> {
        let others = other.iter().cycle().map(|&ip| vec![SocketAddr::new(ip, port)]);
        let alternatives = others.chain(std::iter::repeat(Vec::new()));
        let endpoint =
            |(&ip, alternatives): (&IpAddr, _)| Endpoint { alternatives, ..Endpoint::bare(SocketAddr::new(ip, port)) };
        own.iter().zip(alternatives).map(endpoint).collect()
    };
    [paired(v4, v6), paired(v6, v4)].concat()
}

/// Takes over each family that was answered, if any was with addresses; one that failed keeps its last answer.
fn merge(known: &mut [Vec<IpAddr>; 2], answers: Answers) -> Result<Duration, String> {
    if !answers.iter().any(|answer| matches!(answer, Ok((addresses, _)) if !addresses.is_empty())) {
        let error = answers.into_iter().find_map(Result::err);
        return Err(error.unwrap_or_else(|| "the name has no address".to_owned()));
    }
    let mut ttl = u32::MAX;
    for (known, answer) in known.iter_mut().zip(answers) {
        match answer {
            Ok((addresses, good_for)) => {
                *known = addresses;
                ttl = ttl.min(good_for);
            }
            Err(error) => {
                tracing::debug!(%error, "one address family could not be looked up");
                ttl = 0;
            }
        }
    }
    Ok(Duration::from_secs(ttl.into()))
}

fn backoff(failures: u32, pace: Pace) -> Duration {
    let factor = 1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    pace.retry.saturating_mul(factor).min(pace.retry_max)
}

async fn look_up(name: &str, servers: Option<&ResolverConfig>) -> Answers {
    let same = |error: String| [Err(error.clone()), Err(error)];
    let parsed = match Name::from_utf8(name) {
        Ok(parsed) => parsed,
        Err(error) => return same(error.to_string()),
    };
    if servers.is_none()
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
        [RecordType::A, RecordType::AAAA].map(|kind| hosts.lookup_static_host(&Query::query(name.clone(), kind)));
    if found.iter().all(Option::is_none) {
        return None;
    }
    Some(found.map(|lookup| lookup.map_or(Ok((Vec::new(), u32::MAX)), |lookup| addresses(Ok(lookup)))))
}

fn resolver(servers: Option<&ResolverConfig>) -> Result<TokioResolver, NetError> {
    let mut builder = match servers {
        None => TokioResolver::builder_tokio()?,
        Some(config) => TokioResolver::builder_with_config(config.clone(), TokioRuntimeProvider::default()),
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

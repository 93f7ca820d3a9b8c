use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use hickory_resolver::config::NameServerConfig;
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;

const FAST: Pace = Pace {
    floor: Duration::from_millis(5),
    ceiling: Duration::from_millis(5),
    retry: Duration::from_millis(5),
    retry_max: Duration::from_millis(10),
};

/// What a server answers per record type; no entry is SERVFAIL, an empty one no such name.
type Records = Arc<Mutex<HashMap<u16, Vec<IpAddr>>>>;

async fn serve(records: Records) -> (ResolverConfig, JoinHandle<()>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let mut query = [0; 512];
        while let Ok((length, peer)) = socket.recv_from(&mut query).await {
            let reply = reply(&query[..length], &records.lock().unwrap());
            socket.send_to(&reply, peer).await.unwrap();
        }
    });
    let mut server = NameServerConfig::udp(address.ip());
    server.connections[0].port = address.port();
    (ResolverConfig::from_name_servers(vec![server]), task)
}

fn reply(query: &[u8], records: &HashMap<u16, Vec<IpAddr>>) -> Vec<u8> {
    let mut end = 12;
    while query[end] != 0 {
        end += usize::from(query[end]) + 1;
    }
    let kind = u16::from_be_bytes([query[end + 1], query[end + 2]]);
    let answers = records.get(&kind);
    let code = match answers {
        None => 2,
        Some(list) if list.is_empty() => 3,
        Some(_) => 0,
    };
    let count = answers.map_or(0, Vec::len) as u8;
    let mut reply = query[..2].to_vec();
    reply.extend([0x81, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0]);
    reply.extend(&query[12..end + 5]);
    for address in answers.into_iter().flatten() {
        let data = match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        reply.extend([0xc0, 12]);
        reply.extend(kind.to_be_bytes());
        reply.extend([0, 1, 0, 0, 0, 1, 0, data.len() as u8]);
        reply.extend(data);
    }
    reply
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

async fn shows(endpoints: &mut watch::Receiver<Arc<[Endpoint]>>, expected: &[&str]) {
    let same = |list: &Arc<[Endpoint]>| {
        list.iter().map(|endpoint| endpoint.address.to_string()).eq(expected.iter().map(|text| (*text).to_owned()))
    };
    timeout(Duration::from_secs(20), endpoints.wait_for(same)).await.unwrap().unwrap();
}

#[tokio::test]
async fn follows_the_records_and_outlives_failures() {
    let records: Records = Arc::default();
    let set = |v4: Option<&[&str]>, v6: Option<&[&str]>| {
        let families = [(1, v4), (28, v6)].into_iter().filter_map(|(kind, list)| Some((kind, ips(list?))));
        *records.lock().unwrap() = families.collect();
    };
    set(Some(&["10.0.0.2", "10.0.0.1"]), Some(&["::2"]));
    let (config, server) = serve(records.clone()).await;
    let (publisher, mut endpoints, mut status) = Publisher::new(Arc::from([]));
    let task = tokio::spawn(run("svc.test.".to_owned(), 80, Some(config), FAST, publisher));
    shows(&mut endpoints, &["10.0.0.1:80", "10.0.0.2:80", "[::2]:80"]).await;

    // One family fails: only the other moves.
    set(Some(&["10.0.0.3"]), None);
    shows(&mut endpoints, &["10.0.0.3:80", "[::2]:80"]).await;

    // The name is gone, then the server fails: all stay.
    for (v4, v6) in [(Some(&[][..]), Some(&[][..])), (None, None)] {
        endpoints.mark_unchanged();
        set(v4, v6);
        let before = status.borrow().failures;
        let failed = status.wait_for(|status| status.failures > before + 1);
        timeout(Duration::from_secs(20), failed).await.unwrap().unwrap();
        assert!(!endpoints.has_changed().unwrap());
    }
    assert!(status.borrow().last_error.is_some());

    set(Some(&["10.0.0.4"]), Some(&[]));
    shows(&mut endpoints, &["10.0.0.4:80"]).await;
    timeout(Duration::from_secs(20), status.wait_for(|status| status.last_error.is_none())).await.unwrap().unwrap();
    task.abort();
    server.abort();
}

#[tokio::test]
async fn hosts_file_comes_first() {
    let [v4, v6] = look_up("localhost", None).await;
    let all: Vec<_> = [v4, v6].into_iter().flatten().flat_map(|(addresses, _)| addresses).collect();
    assert!(!all.is_empty() && all.iter().all(IpAddr::is_loopback), "{all:?}");
}

#[tokio::test]
async fn a_bad_name_is_an_error() {
    let [v4, v6] = look_up(&"a".repeat(64), None).await;
    assert!(v4.is_err() && v6.is_err());
}

#[test]
fn waits_grow_up_to_a_bound() {
    let waits: Vec<_> = [1, 2, 3, 5, 6, 33, u32::MAX].map(|failures| backoff(failures, PACE).as_secs()).into();
    assert_eq!(waits, [1, 2, 4, 16, 30, 30, 30]);
}

#[test]
fn the_shortest_life_counts() {
    let mut known = Default::default();
    let ttl = merge(&mut known, [Ok((ips(&["10.0.0.1"]), 30)), Ok((Vec::new(), u32::MAX))]);
    assert_eq!(ttl, Ok(Duration::from_secs(30)));
    let ttl = merge(&mut known, [Ok((ips(&["10.0.0.1"]), 30)), Err("x".to_owned())]);
    assert_eq!(ttl, Ok(Duration::ZERO));
}

#[test]
fn addresses_of_two_families_stand_in_for_each_other() {
    let shown = |v4: &[&str], v6: &[&str]| -> Vec<String> {
        let shown = |endpoint: Endpoint| {
            let others: Vec<String> = endpoint.alternatives.iter().map(ToString::to_string).collect();
            format!("{} {}", endpoint.address, others.join(" "))
        };
        endpoints(&[ips(v4), ips(v6)], 80).into_iter().map(shown).collect()
    };
    assert_eq!(shown(&["10.0.0.1"], &[]), ["10.0.0.1:80 "]);
    assert_eq!(shown(&["10.0.0.1"], &["fd00::1"]), ["10.0.0.1:80 [fd00::1]:80", "[fd00::1]:80 10.0.0.1:80"]);
    let three = shown(&["10.0.0.2", "10.0.0.1", "10.0.0.3"], &["fd00::2", "fd00::1"]);
    assert_eq!(
        three,
        [
            "10.0.0.1:80 [fd00::1]:80",
            "10.0.0.2:80 [fd00::2]:80",
            "10.0.0.3:80 [fd00::1]:80",
            "[fd00::1]:80 10.0.0.1:80",
            "[fd00::2]:80 10.0.0.2:80",
        ]
    );
    // In another order, they are the same.
    assert_eq!(shown(&["10.0.0.3", "10.0.0.2", "10.0.0.1"], &["fd00::1", "fd00::2"]), three);
}

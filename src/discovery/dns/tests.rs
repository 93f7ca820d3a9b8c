use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::discovery::{Spec, Status};

const FAST: Pace =
    Pace { retry: Duration::from_millis(5), retry_max: Duration::from_millis(10), soonest: Duration::from_millis(5) };
const SECOND: Duration = Duration::from_secs(1);
const A: u16 = 1;
const AAAA: u16 = 28;
const SRV: u16 = 33;

/// The data of a record.
#[derive(Clone)]
enum Data {
    Ip(IpAddr),
    /// Priority, weight, port, target.
    Service(u16, u16, u16, &'static str),
}

type Records = HashMap<(String, u16), Vec<Data>>;

/// What a server answers by name (in lower case, with a dot at the end) and type; no entry is SERVFAIL, an empty one no
/// such name. `asked` counts the questions.
#[derive(Clone, Default)]
struct Zone {
    records: Arc<Mutex<Records>>,
    asked: Arc<AtomicUsize>,
}

impl Zone {
    fn set(&self, name: &str, kind: u16, records: Vec<Data>) {
        self.records.lock().unwrap().insert((name.to_owned(), kind), records);
    }

    fn fail(&self, name: &str, kind: u16) {
        self.records.lock().unwrap().remove(&(name.to_owned(), kind));
    }

    async fn serve(&self) -> (SocketAddr, JoinHandle<()>) {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let zone = self.clone();
        let task = tokio::spawn(async move {
            let mut query = [0; 512];
            while let Ok((length, peer)) = socket.recv_from(&mut query).await {
                let reply = zone.reply(&query[..length]);
                socket.send_to(&reply, peer).await.unwrap();
            }
        });
        (address, task)
    }

    fn reply(&self, query: &[u8]) -> Vec<u8> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let (mut end, mut name) = (12, String::new());
        while query[end] != 0 {
            let label = usize::from(query[end]);
            name += &(String::from_utf8_lossy(&query[end + 1..=end + label]).to_lowercase() + ".");
            end += label + 1;
        }
        let kind = u16::from_be_bytes([query[end + 1], query[end + 2]]);
        let records = self.records.lock().unwrap();
        let answers = records.get(&(name, kind));
        let code = match answers {
            None => 2,
            Some(list) if list.is_empty() => 3,
            Some(_) => 0,
        };
        let mut reply = query[..2].to_vec();
        reply.extend([0x81, 0x80 | code, 0, 1]);
        reply.extend((answers.map_or(0, Vec::len) as u16).to_be_bytes());
        reply.extend([0, 0, 0, 0]);
        reply.extend(&query[12..end + 5]);
        for data in answers.into_iter().flatten() {
            let data = match data {
                Data::Ip(IpAddr::V4(address)) => address.octets().to_vec(),
                Data::Ip(IpAddr::V6(address)) => address.octets().to_vec(),
                Data::Service(priority, weight, port, target) => {
                    let numbers = [priority, weight, port].into_iter().flat_map(|number| number.to_be_bytes());
                    let labels = target.split_terminator('.');
                    let labels = labels.flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat());
                    numbers.chain(labels).chain([0]).collect()
                }
            };
            reply.extend([0xc0, 12]);
            reply.extend(kind.to_be_bytes());
            // A second of life.
            reply.extend([0, 1, 0, 0, 0, 1]);
            reply.extend((data.len() as u16).to_be_bytes());
            reply.extend(data);
        }
        reply
    }
}

fn records(texts: &[&str]) -> Vec<Data> {
    ips(texts).into_iter().map(Data::Ip).collect()
}

fn query(name: &str, kind: Kind, server: SocketAddr, ttl: (Duration, Duration)) -> Query {
    Query { name: name.to_owned(), kind, servers: vec![server], ttl }
}

/// Looks for endpoints until it is dropped.
struct Looking {
    task: JoinHandle<()>,
    again: Arc<Notify>,
    endpoints: watch::Receiver<Arc<[Endpoint]>>,
    status: watch::Receiver<Status>,
}

impl Looking {
    fn new(query: Query, pace: Pace) -> Self {
        let spec = Spec::Dns { query: query.clone(), guard: None };
        let (publisher, endpoints, status) = Publisher::new(&spec, Arc::from([]));
        let again = Arc::new(Notify::new());
        Self { task: tokio::spawn(run(query, pace, again.clone(), publisher)), again, endpoints, status }
    }
}

impl Drop for Looking {
    fn drop(&mut self) {
        self.task.abort();
    }
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

/// It counts as a failure, with this error, and what was found at last whole grows old.
async fn fails_in_part(looking: &mut Looking, error: &str) {
    let fails =
        |status: &Status| status.failures > 1 && status.last_error.as_ref().is_some_and(|e| e.starts_with(error));
    let success = timeout(20 * SECOND, looking.status.wait_for(fails)).await.unwrap().unwrap().success;
    let before = looking.status.borrow().failures;
    let again = looking.status.wait_for(|status| status.failures > before);
    assert_eq!(timeout(20 * SECOND, again).await.unwrap().unwrap().success, success);
}

#[tokio::test]
async fn follows_the_records_and_outlives_failures() {
    let zone = Zone::default();
    let set = |v4: Option<&[&str]>, v6: Option<&[&str]>| {
        for (kind, list) in [(A, v4), (AAAA, v6)] {
            match list {
                Some(list) => zone.set("svc.test.", kind, records(list)),
                None => zone.fail("svc.test.", kind),
            }
        }
    };
    set(Some(&["10.0.0.2", "10.0.0.1"]), Some(&["::2"]));
    let (address, server) = zone.serve().await;
    let soon = (FAST.soonest, FAST.soonest);
    let mut looking = Looking::new(query("svc.test.", Kind::Address(80), address, soon), FAST);
    shows(&mut looking.endpoints, &["10.0.0.1:80", "10.0.0.2:80", "[::2]:80"]).await;

    // One family fails: only the other moves.
    set(Some(&["10.0.0.3"]), None);
    shows(&mut looking.endpoints, &["10.0.0.3:80", "[::2]:80"]).await;
    fails_in_part(&mut looking, "svc.test.: ").await;

    // The name is gone, then the server fails: all stay.
    for (v4, v6) in [(Some(&[][..]), Some(&[][..])), (None, None)] {
        looking.endpoints.mark_unchanged();
        set(v4, v6);
        let before = looking.status.borrow().failures;
        let failed = looking.status.wait_for(|status| status.failures > before + 1);
        timeout(20 * SECOND, failed).await.unwrap().unwrap();
        assert!(!looking.endpoints.has_changed().unwrap());
    }
    assert!(looking.status.borrow().last_error.is_some());

    set(Some(&["10.0.0.4"]), Some(&[]));
    shows(&mut looking.endpoints, &["10.0.0.4:80"]).await;
    timeout(20 * SECOND, looking.status.wait_for(|status| status.last_error.is_none())).await.unwrap().unwrap();
    server.abort();
}

#[tokio::test]
async fn targets_of_services_have_ports_weights_and_priorities() {
    let zone = Zone::default();
    let name = "_http._tcp.svc.test.";
    zone.set(
        name,
        SRV,
        vec![
            Data::Service(0, 10, 8080, "a.test."),
            Data::Service(0, 0, 8081, "b.test."),
            Data::Service(1, 5, 8082, "b.test."),
        ],
    );
    for (name, v4, v6) in [("a.test.", &["10.0.0.1", "10.0.0.2"][..], &[][..]), ("b.test.", &["10.0.0.3"], &["::3"])] {
        zone.set(name, A, records(v4));
        zone.set(name, AAAA, records(v6));
    }
    let (address, server) = zone.serve().await;
    let soon = (FAST.soonest, FAST.soonest);
    let mut looking = Looking::new(query(name, Kind::Srv, address, soon), FAST);
    let all = ["10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:8081", "10.0.0.3:8082", "[::3]:8081", "[::3]:8082"];
    shows(&mut looking.endpoints, &all).await;
    let of = |endpoint: &Endpoint| (endpoint.weight, endpoint.priority, endpoint.alternatives.len());
    let weights: Vec<_> = looking.endpoints.borrow().iter().map(of).collect();
    assert_eq!(weights, [(10, 0, 0), (10, 0, 0), (1, 0, 1), (5, 1, 1), (1, 0, 1), (5, 1, 1)]);

    // A target that cannot be looked up keeps its addresses; one that is gone does not.
    zone.fail("a.test.", A);
    zone.fail("a.test.", AAAA);
    zone.set(name, SRV, vec![Data::Service(0, 1, 8080, "a.test."), Data::Service(0, 1, 9090, "c.test.")]);
    zone.set("c.test.", A, records(&["10.0.0.9"]));
    zone.set("c.test.", AAAA, Vec::new());
    shows(&mut looking.endpoints, &["10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.9:9090"]).await;
    fails_in_part(&mut looking, "a.test.: ").await;
    // So does one whose name is gone.
    zone.set("a.test.", A, Vec::new());
    zone.set("a.test.", AAAA, Vec::new());
    fails_in_part(&mut looking, "a.test.: the name has no address").await;
    zone.set("a.test.", A, records(&["10.0.0.1"]));
    timeout(20 * SECOND, looking.status.wait_for(|status| status.last_error.is_none())).await.unwrap().unwrap();

    // A record without a port is passed over.
    zone.set(name, SRV, vec![Data::Service(0, 1, 0, "a.test."), Data::Service(0, 1, 9090, "c.test.")]);
    shows(&mut looking.endpoints, &["10.0.0.9:9090"]).await;

    // The root is no target: there is no such service. And neither is nothing.
    for none in [vec![Data::Service(0, 0, 0, ".")], Vec::new()] {
        looking.endpoints.mark_unchanged();
        zone.set(name, SRV, none);
        let before = looking.status.borrow().failures_total;
        let failed = looking.status.wait_for(|status| status.failures_total > before + 1);
        timeout(20 * SECOND, failed).await.unwrap().unwrap();
        let error = looking.status.borrow().last_error.clone().unwrap();
        assert!(error.starts_with("_http._tcp.svc.test.: "), "{error}");
        assert!(!looking.endpoints.has_changed().unwrap());
    }
    server.abort();
}

/// The records are good for long, and somebody cannot connect: asked again soon, but not for each of them.
#[tokio::test]
async fn who_cannot_connect_has_it_looked_up_again_at_a_bounded_rate() {
    let zone = Zone::default();
    zone.set("svc.test.", A, records(&["10.0.0.1"]));
    zone.set("svc.test.", AAAA, Vec::new());
    let (address, server) = zone.serve().await;
    let pace = Pace { soonest: Duration::from_millis(200), ..FAST };
    let long = (3600 * SECOND, 3600 * SECOND);
    let mut looking = Looking::new(query("svc.test.", Kind::Address(80), address, long), pace);
    shows(&mut looking.endpoints, &["10.0.0.1:80"]).await;
    zone.set("svc.test.", A, records(&["10.0.0.2"]));
    let (before, begun) = (zone.asked.load(Ordering::SeqCst), std::time::Instant::now());
    let failing = async {
        loop {
            looking.again.notify_one();
            sleep(Duration::from_millis(1)).await;
        }
    };
    let mut endpoints = looking.endpoints.clone();
    tokio::select! {
        () = shows(&mut endpoints, &["10.0.0.2:80"]) => {}
        () = failing => {}
    }
    let again = async {
        loop {
            looking.again.notify_one();
            sleep(Duration::from_millis(1)).await;
        }
    };
    let _ = timeout(SECOND, again).await;
    // Two questions each time.
    let asked = (zone.asked.load(Ordering::SeqCst) - before) / 2;
    let most = begun.elapsed().as_millis() / 200 + 1;
    assert!(asked >= 2 && asked as u128 <= most, "{asked} times, and {most} at most");
    server.abort();
}

#[tokio::test]
async fn hosts_file_comes_first() {
    let [v4, v6] = look_up("localhost", &[]).await;
    let all: Vec<_> = [v4, v6].into_iter().flatten().flat_map(|(addresses, _)| addresses).collect();
    assert!(!all.is_empty() && all.iter().all(IpAddr::is_loopback), "{all:?}");
}

#[tokio::test]
async fn a_bad_name_is_an_error() {
    let [v4, v6] = look_up(&"a".repeat(64), &[]).await;
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
    let merged = merge(&mut known, [Ok((ips(&["10.0.0.1"]), 30)), Ok((Vec::new(), u32::MAX))]);
    assert_eq!(merged, (Some(Duration::from_secs(30)), None));
    let merged = merge(&mut known, [Ok((ips(&["10.0.0.1"]), 30)), Err("x".to_owned())]);
    assert_eq!(merged, (Some(Duration::ZERO), None), "there never was one");
    merge(&mut known, [Ok((ips(&["10.0.0.1"]), 30)), Ok((ips(&["::1"]), 30))]);
    let merged = merge(&mut known, [Ok((ips(&["10.0.0.1"]), 30)), Err("x".to_owned())]);
    assert_eq!(merged, (Some(Duration::ZERO), Some("x".to_owned())));
}

#[test]
fn addresses_of_two_families_stand_in_for_each_other() {
    let target = Target { name: String::new(), port: 80, weight: 1, priority: 0 };
    let shown = |v4: &[&str], v6: &[&str]| -> Vec<String> {
        let shown = |endpoint: Endpoint| {
            let others: Vec<String> = endpoint.alternatives.iter().map(ToString::to_string).collect();
            format!("{} {}", endpoint.address, others.join(" "))
        };
        endpoints(&[ips(v4), ips(v6)], &target).into_iter().map(shown).collect()
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

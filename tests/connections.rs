//! `limits.maxConnections`: what a service has open, over all workers, endpoints and kinds of connections.

mod common;

use std::io::copy;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::{scope, spawn};

use common::h2peer::H2Origin;
use common::origin::{Gate, Next};
use common::{Conn, Origin, Proxy, SOON, Setup, get, until};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Connections to several addresses that are open at the same time.
#[derive(Clone, Default)]
struct Count(Arc<Mutex<(Vec<TcpStream>, usize)>>);

impl Count {
    /// An address that leads to another, whose connections are counted.
    fn front(&self, backend: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a listener");
        let (addr, count) = (listener.local_addr().expect("its address"), self.clone());
        spawn(move || {
            for client in listener.incoming() {
                let client = client.expect("a connection");
                client.set_nodelay(true).expect("no delay");
                count.begin(&client);
                relay(client, TcpStream::connect(backend).expect("the backend"));
            }
        });
        addr
    }

    /// Who has closed by now has done so before this one was begun, since all are on one machine.
    fn begin(&self, client: &TcpStream) {
        let (open, most) = &mut *self.0.lock().expect("the count");
        open.push(client.try_clone().expect("a clone"));
        open.retain(is_open);
        *most = open.len().max(*most);
    }

    fn most(&self) -> usize {
        self.0.lock().expect("the count").1
    }

    fn now(&self) -> usize {
        let (open, _) = &mut *self.0.lock().expect("the count");
        open.retain(is_open);
        open.len()
    }
}

/// Whether its peer has not closed it, whatever is there to be read before that.
fn is_open(stream: &TcpStream) -> bool {
    let mut asked = [PollFd::new(stream, PollFlags::RDHUP)];
    poll(&mut asked, Some(&Timespec::default())).expect("its state");
    !asked[0].revents().intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR)
}

fn relay(client: TcpStream, backend: TcpStream) {
    let pair = |from: &TcpStream, to: &TcpStream| {
        let (mut from, mut to) = (from.try_clone().expect("a clone"), to.try_clone().expect("a clone"));
        spawn(move || {
            let _ = copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        })
    };
    pair(&client, &backend);
    pair(&backend, &client);
}

const LIMITS: &str = "limits: { maxConnections: 3, maxPending: 100, pendingTimeout: 30s }";

/// Four workers in front of two addresses, with the limits above.
fn proxy(service: &str, [first, second]: [SocketAddr; 2]) -> Proxy {
    let config = format!(
        r#"apiVersion: outrigger/v1
admin: {{ address: "{{admin}}" }}
health: {{ address: "{{health}}" }}
runtime: {{ workers: 4 }}
telemetry: {{ accessLog: {{ format: off }} }}
listeners: [{{ name: edge, mode: proxy, address: "{{listen}}" }}]
services:
  app: {{ endpoints: {{ static: ["{{first}}", "{{second}}"] }}, {service} }}
routes:
  - {{ name: all, to: app, retry: {{ attempts: 0 }} }}
"#
    );
    Proxy::start(&config, &[("first", first), ("second", second)])
}

fn state(proxy: &Proxy, key: &str) -> serde_json::Value {
    proxy.admin_json("/clusters")["app"]["limits"]["connections"][key].clone()
}

/// Twelve clients, each with a connection of its own, on which it asks so many times.
fn storm(addr: SocketAddr, times: usize) {
    let client = || {
        let mut conn = Conn::connect(addr);
        for _ in 0..times {
            conn.write("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
            let reply = conn.response("GET");
            assert_eq!(reply.status(), 200, "{}", reply.text());
        }
    };
    scope(|scope| (0..12).for_each(|_| drop(scope.spawn(client))));
}

#[test]
fn so_many_over_all_workers_and_endpoints() {
    let (count, origins) = (Count::default(), [Origin::ok(), Origin::ok()]);
    let proxy = proxy(LIMITS, [0, 1].map(|at| count.front(origins[at].addr())));
    storm(proxy.addr(), 100);
    assert_eq!(count.most(), 3, "never more, and as many as there may be");
    assert!(count.now() <= 3 && state(&proxy, "open").as_u64() <= Some(3));
    assert!(origins.iter().all(|origin| !origin.seen().is_empty()));
    // Those that there are count against another limit, too.
    proxy.reload("maxConnections: 3", "maxConnections: 1");
    until("what is beyond it is closed", SOON, || count.now() <= 1);
    storm(proxy.addr(), 20);
    proxy.await_metric("outrigger_service_connections", &[("service", "app")], count.now() as f64);
}

#[test]
fn those_who_share_one_count_once() {
    let (count, origins) = (Count::default(), [H2Origin::echo(), H2Origin::echo()]);
    let service = format!("protocol: http2, {LIMITS}");
    let proxy = proxy(&service, [0, 1].map(|at| count.front(origins[at].addr)));
    storm(proxy.addr(), 50);
    assert!((1..=3).contains(&count.most()), "{}", count.most());
}

#[test]
fn unused_ones_make_room_at_once() {
    let (count, origins) = (Count::default(), [Origin::ok(), Origin::ok()]);
    // Nobody waits for more than a moment, and by turns both endpoints are asked.
    let limits =
        "limits: { maxConnections: 1, maxPending: 0, pendingTimeout: 0s }, loadBalancer: { policy: roundRobin }";
    let proxy = proxy(limits, [0, 1].map(|at| count.front(origins[at].addr())));
    for _ in 0..40 {
        let reply = get(proxy.addr(), "/");
        assert_eq!(reply.status(), 200, "{}", reply.text());
    }
    assert_eq!(count.most(), 1);
    assert!(origins.iter().all(|origin| !origin.seen().is_empty()));
}

#[test]
fn who_waits_too_long_is_told_of_the_limit() {
    let gate = Gate::default();
    let (count, origin) = (Count::default(), Origin::gated("here", &gate));
    let ups = [0, 1].map(|_| count.front(origin.addr()));
    let proxy = proxy("limits: { maxConnections: 1, pendingTimeout: 50ms }", ups);
    let mut held = Conn::connect(proxy.addr());
    held.write("GET /slow HTTP/1.1\r\nHost: app.test\r\n\r\n");
    until("it is there", SOON, || !origin.seen().is_empty());
    let refused = get(proxy.addr(), "/");
    assert_eq!(refused.status(), 503);
    assert!(refused.text().contains("service app: maxConnections 1"), "{}", refused.text());
    proxy.await_counted("limit", 1.0);
    // In shadow mode all pass, and are counted.
    proxy.reload("pendingTimeout: 50ms", "pendingTimeout: 50ms, mode: shadow");
    assert_eq!(get(proxy.addr(), "/").status(), 200);
    assert_eq!((count.most(), state(&proxy, "beyond")), (2, 1.into()));
    proxy.await_metric("outrigger_service_connections_beyond_total", &[("service", "app")], 1.0);
    gate.open();
    assert_eq!(held.response("GET").status(), 200);
}

fn echo(conn: &mut Conn) {
    loop {
        let some = conn.read_some();
        if some.is_empty() || !conn.try_write(some) {
            return;
        }
    }
}

/// Connections of bytes, and those that have left HTTP, hold their places to their ends.
#[test]
fn bytes_and_upgrades_count_too() {
    let count = Count::default();
    let origin = Origin::raw(|mut conn, _| echo(&mut conn));
    let setup = Setup {
        listener: ", protocol: tcp",
        service: ", protocol: tcp, limits: { maxConnections: 2, pendingTimeout: 100ms }",
        workers: 2,
        ..Setup::default()
    };
    let proxy = setup.start(count.front(origin.addr()));
    let talk = |conn: &mut Conn| {
        conn.write("hello");
        conn.read_some() == b"hello"
    };
    let mut held = [Conn::connect(proxy.addr()), Conn::connect(proxy.addr())];
    assert!(held.iter_mut().all(talk));
    let mut third = Conn::connect(proxy.addr());
    assert!(!talk(&mut third), "there is no place for it");
    let [first, mut second] = held;
    drop(first);
    until("there is a place again", SOON, || talk(&mut Conn::connect(proxy.addr())));
    assert!(talk(&mut second));
    assert_eq!(count.most(), 2);
    let upgraded = Origin::start(|_, conn| {
        conn.write("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n");
        echo(conn);
        Next::Close
    });
    let proxy = Setup { service: ", limits: { maxConnections: 1, pendingTimeout: 100ms }", ..Setup::default() }
        .start(count.front(upgraded.addr()));
    let upgrade = |status: u16| {
        let mut conn = Conn::connect(proxy.addr());
        conn.write("GET / HTTP/1.1\r\nHost: app.test\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n");
        (conn.head().status() == status).then_some(conn)
    };
    let mut one = upgrade(101).expect("another protocol");
    assert!(talk(&mut one) && upgrade(503).is_some());
    drop(one);
    until("there is a place again", SOON, || upgrade(101).is_some());
}

/// A worker that always has somebody to lend its connections to does not keep them from another for good.
#[test]
fn nobody_waits_for_ever() {
    let (count, origin) = (Count::default(), Origin::ok());
    let ups = [0, 1].map(|_| count.front(origin.addr()));
    let proxy = proxy("limits: { maxConnections: 1, maxPending: 100, pendingTimeout: 2s }", ups);
    // Each client stays with the worker that has accepted it; none is refused.
    storm(proxy.addr(), 300);
    assert_eq!(count.most(), 1);
}

#[test]
fn those_that_are_there_are_lent_on() {
    let origin = Origin::start(|_, conn| {
        // Slow enough for everybody in line to be long overdue.
        std::thread::sleep(std::time::Duration::from_millis(30));
        if conn.try_write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") { Next::Keep } else { Next::Close }
    });
    let service = ", limits: { maxConnections: 2, pendingTimeout: 30s }";
    let proxy = Setup { service, workers: 1, ..Setup::default() }.start(origin.addr());
    storm(proxy.addr(), 10);
    assert_eq!((origin.connections(), origin.seen().len()), (2, 120), "none was closed for the sake of another");
}

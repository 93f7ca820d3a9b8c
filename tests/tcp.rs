//! L4: bytes both ways, each way ending by itself, idle connections ending.

mod common;

use std::time::{Duration, Instant};

use common::{Conn, Origin, Proxy, SOON, Setup, eventually, free_addr, pattern, show, until};

fn front(up: std::net::SocketAddr, top: &str) -> Proxy {
    Setup { listener: ", protocol: tcp", service: ", protocol: tcp", top, workers: 1, ..Setup::default() }.start(up)
}

/// Echoes until the client has finished, then says `end` and closes.
fn echo() -> Origin {
    Origin::raw(|mut conn, _| {
        loop {
            let some = conn.read_some();
            if some.is_empty() {
                conn.try_write("end");
                return;
            }
            if !conn.try_write(some) {
                return;
            }
        }
    })
}

#[test]
fn half_close_in_both_orders() {
    let origin = echo();
    let proxy = front(origin.addr(), "");
    // The client first.
    let mut conn = Conn::connect(proxy.addr());
    conn.write("hello");
    assert_eq!(conn.read_exact(5), b"hello");
    conn.finish();
    assert_eq!(show(&conn.read_to_end()), "end");
    until("the upstream is let go", SOON, || origin.open() == 0);

    // The server first: it says all that it has, and hears the client to its end.
    let (tell, told) = std::sync::mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    let origin = Origin::raw(move |mut conn, _| {
        conn.write("greeting");
        conn.finish();
        let _ = tell.lock().expect("channel").send(conn.read_to_end());
    });
    let proxy = front(origin.addr(), "");
    let mut conn = Conn::connect(proxy.addr());
    assert_eq!(show(&conn.read_to_end()), "greeting");
    conn.write("still ");
    conn.write("talking");
    conn.finish();
    assert_eq!(told.recv_timeout(SOON).map(|b| show(&b)), Ok("still talking".to_owned()));
}

#[test]
fn a_listener_is_tcp_where_its_routes_are() {
    let origin = echo();
    let proxy = Setup { service: ", protocol: tcp", ..Setup::default() }.start(origin.addr());
    let mut conn = Conn::connect(proxy.addr());
    conn.write([0u8, 255, b'\r', b'\n', 0]);
    assert_eq!(conn.read_exact(5), [0u8, 255, b'\r', b'\n', 0]);
}

#[test]
fn idle_connections_end_and_busy_ones_do_not() {
    let origin = echo();
    let proxy = front(origin.addr(), "defaults: { tcpIdleTimeout: 600ms }");
    let (mut idle, mut busy) = (Conn::connect(proxy.addr()), Conn::connect(proxy.addr()));
    idle.write("x");
    idle.read_exact(1);
    let begin = Instant::now();
    // Traffic every 200 ms keeps one alive well beyond the timeout.
    while begin.elapsed() < Duration::from_millis(1500) {
        busy.write("y");
        busy.read_exact(1);
        assert!(busy.is_quiet(Duration::from_millis(200)), "a busy connection was ended");
    }
    idle.read_to_end();
    busy.write("z");
    assert_eq!(busy.read_exact(1), b"z");
    drop(busy);
    until("both are let go upstream", SOON, || origin.open() == 0);
}

#[test]
fn bulk_both_ways_at_once() {
    const SIZE: usize = 64 << 20;
    let origin = Origin::raw(|conn, _| {
        let mut twin = Conn::patient(conn.stream().try_clone().expect("clone"));
        let reader = std::thread::spawn(move || twin.read_exact(SIZE) == pattern(1, SIZE));
        let mut conn = conn;
        conn.try_write(pattern(2, SIZE));
        let verdict = if reader.join().unwrap_or(false) { "same" } else { "changed" };
        conn.try_write(verdict);
    });
    let proxy = front(origin.addr(), "");
    let mut conn = Conn::connect(proxy.addr());
    let mut twin = Conn::new(conn.stream().try_clone().expect("clone"));
    let writer = std::thread::spawn(move || twin.write(pattern(1, SIZE)));
    assert!(conn.read_exact(SIZE) == pattern(2, SIZE), "changed on the way down");
    assert_eq!(show(&conn.read_to_end()), "same", "on the way up");
    writer.join().expect("write");
    let least = (2 * SIZE) as f64;
    eventually("the bytes are counted", SOON, || {
        let text = proxy.health("/metrics");
        let bytes = text.lines().filter(|l| l.contains("tcp") && l.contains("bytes_total") && !l.starts_with('#'));
        let sum: f64 = bytes.filter_map(|l| l.split_whitespace().nth(1)?.parse::<f64>().ok()).sum();
        (sum >= least).then_some(())
    });
    let (_, peak) = proxy.memory();
    assert!(peak < 40 * 1024, "peak memory of {peak} KiB");
}

#[test]
fn an_upstream_that_refuses_closes_the_client() {
    let proxy = front(free_addr(), "");
    let mut conn = Conn::connect(proxy.addr());
    conn.try_write("hello");
    assert_eq!(show(&conn.read_to_end()), "");
    assert_eq!(proxy.probe("/livez"), Some(200));
}

#[test]
fn a_reset_on_one_side_ends_the_other() {
    let origin = echo();
    let proxy = front(origin.addr(), "");
    let mut conn = Conn::connect(proxy.addr());
    conn.write("x");
    conn.read_exact(1);
    conn.reset();
    until("the upstream is let go", SOON, || origin.open() == 0);

    let origin = Origin::raw(|mut conn, _| {
        conn.read_exact(1);
        conn.reset();
    });
    let proxy = front(origin.addr(), "");
    let mut conn = Conn::connect(proxy.addr());
    conn.write("x");
    assert_eq!(show(&conn.read_to_end()), "");
}

#[test]
fn connections_survive_a_reload() {
    let origin = echo();
    let proxy = front(origin.addr(), "");
    let mut conn = Conn::connect(proxy.addr());
    conn.write("x");
    conn.read_exact(1);
    proxy.reload("name: all,", "name: renamed,");
    conn.write("still here");
    assert_eq!(conn.read_exact(10), b"still here");
}

/// Streams long enough for pipes, with the sums to the byte.
#[test]
fn long_streams_are_whole_and_counted_exactly() {
    const SIZE: usize = 48 << 20;
    let origin = Origin::raw(|mut conn, _| {
        conn.write(pattern(3, SIZE));
        conn.finish();
        let heard = conn.read_to_end();
        assert!(heard == pattern(4, SIZE), "changed on the way up");
    });
    let proxy = front(origin.addr(), "");
    let mut conn = Conn::connect(proxy.addr());
    assert!(conn.read_to_end() == pattern(3, SIZE), "changed on the way down");
    conn.write(pattern(4, SIZE));
    conn.finish();
    until("both have ended", SOON, || origin.open() == 0);
    for name in ["outrigger_worker_tcp_sent_bytes_total", "outrigger_worker_tcp_received_bytes_total"] {
        proxy.await_metric(name, &[], SIZE as f64);
        assert_eq!(proxy.metric(name, &[]), SIZE as f64, "{name}");
    }
    let fds = std::fs::read_dir(format!("/proc/{}/fd", proxy.pid())).expect("descriptors");
    let pipes = fds
        .filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok())
        .filter(|to| to.to_string_lossy().starts_with("pipe:"));
    assert!(pipes.count() <= 16, "pipes are kept");
}

/// The client says that it has finished, and is then gone: nobody reads from it any more.
#[test]
fn a_reset_after_the_end_is_passed_on() {
    let (tell, told) = std::sync::mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    let origin = Origin::raw(move |mut conn, _| {
        let _ = conn.read_to_end();
        let error = || conn.stream().take_error().expect("socket");
        let heard = eventually("a reset", SOON, error).kind();
        let _ = tell.lock().expect("channel").send(heard);
    });
    let proxy = front(origin.addr(), "");
    let mut conn = Conn::connect(proxy.addr());
    conn.write("x");
    conn.finish();
    until("it is relayed", SOON, || proxy.metric("outrigger_worker_tcp_received_bytes_total", &[]) == 1.0);
    conn.reset();
    // So the kernel calls a reset after the end.
    assert_eq!(told.recv_timeout(SOON), Ok(std::io::ErrorKind::BrokenPipe));
}

#[test]
fn a_half_that_is_silent_ends_sooner() {
    let held = std::sync::Mutex::new(Vec::new());
    let origin = Origin::raw(move |mut conn, _| {
        conn.write("so far");
        held.lock().expect("lock").push(conn);
    });
    let proxy = front(origin.addr(), "defaults: { tcpHalfCloseTimeout: 300ms }");
    let (mut whole, mut half) = (Conn::connect(proxy.addr()), Conn::connect(proxy.addr()));
    assert_eq!((whole.read_exact(6), half.read_exact(6)), (b"so far".to_vec(), b"so far".to_vec()));
    half.finish();
    assert_eq!(show(&half.read_to_end()), "");
    proxy.await_counted("idle_timeout", 1.0);
    assert!(whole.is_quiet(Duration::from_millis(400)), "it has not finished");
}

#[test]
fn streams_let_others_have_their_turn() {
    let origin = Origin::raw(|mut conn, _| match conn.read_exact(1)[0] {
        b'b' => while conn.try_write(vec![0; 1 << 20]) {},
        _ => loop {
            let some = conn.read_some();
            if some.is_empty() || !conn.try_write(some) {
                return;
            }
        },
    });
    let proxy = front(origin.addr(), "");
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let streams = (0..3).map(|_| {
        let (addr, stop) = (proxy.addr(), stop.clone());
        std::thread::spawn(move || {
            let mut conn = Conn::connect(addr);
            conn.write("b");
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                conn.read_some();
            }
        })
    });
    let streams: Vec<_> = streams.collect();
    proxy.await_metric("outrigger_worker_tcp_sent_bytes_total", &[], 1e7);
    let mut conn = Conn::connect(proxy.addr());
    conn.write("e");
    let mut times: Vec<Duration> = (0..50)
        .map(|_| {
            let start = Instant::now();
            conn.write("x");
            assert_eq!(conn.read_exact(1), b"x");
            start.elapsed()
        })
        .collect();
    times.sort();
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for stream in streams {
        stream.join().expect("stream");
    }
    assert!(times[25] < Duration::from_millis(250), "an answer takes {:?} beside streams", times[25]);
}

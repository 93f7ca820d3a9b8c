//! Real sockets on loopback, one thread.

use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::task::Waker;

use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::timeout;

use super::*;

const SOON: Duration = Duration::from_secs(20);
/// Enough to be a long stream, and to fill every buffer on the way.
const MUCH: usize = 24 * 1024 * 1024;
const PAUSES: Pauses = Pauses { open: Duration::from_secs(3600), half_closed: Duration::from_secs(600) };

fn run_test(test: impl Future<Output = ()> + 'static) {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).expect("runtime");
    runtime.block_on(async { timeout(3 * SOON, test).await.expect("in time") });
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
    let near = TcpStream::connect(listener.local_addr().expect("address")).await.expect("connection");
    (near, listener.accept().await.expect("peer").0)
}

/// The two peers, and what the relay between them came to.
async fn relayed(early: (Bytes, Bytes), pauses: Pauses) -> (TcpStream, TcpStream, JoinHandle<(End, Relayed)>) {
    let ((client, near), (upstream, far)) = (pair().await, pair().await);
    let relay = spawn_local(async move {
        let (mut near, mut far) = (Stream::from(near), Stream::from(far));
        let mut sums = Relayed::default();
        let moved = |new: &Relayed| {
            let most = TURN + (buffer::SIZE as u64);
            assert!(new.sent - sums.sent <= most && new.received - sums.received <= most, "{new:?} after {sums:?}");
            sums = *new;
        };
        let end = Box::pin(run(&mut near, &mut far, early, pauses, moved, |_| false)).await;
        if end == End::Reset {
            near.break_off();
            far.break_off();
        }
        (end, sums)
    });
    (client, upstream, relay)
}

fn bytes(rng: &mut StdRng, length: usize) -> Rc<[u8]> {
    let mut bytes = vec![0; length];
    rng.fill_bytes(&mut bytes);
    bytes.into()
}

/// Writes in pieces of random sizes, with pauses, and finishes.
fn say(mut to: tokio::net::tcp::OwnedWriteHalf, what: Rc<[u8]>, mut rng: StdRng, largest: usize) {
    spawn_local(async move {
        let mut rest = &what[..];
        while !rest.is_empty() {
            let (piece, later) = rest.split_at(rng.random_range(1..=largest).min(rest.len()));
            to.write_all(piece).await.expect("write");
            if rng.random_bool(0.1) {
                tokio::time::sleep(Duration::from_micros(rng.random_range(0..2000))).await;
            }
            rest = later;
        }
        drop(to);
    });
}

/// Reads to the end, at its own pace.
async fn hear(mut from: tokio::net::tcp::OwnedReadHalf, mut rng: StdRng, largest: usize) -> Vec<u8> {
    let mut heard = Vec::new();
    let mut space = vec![0; largest];
    loop {
        let most = rng.random_range(1..=largest);
        match from.read(&mut space[..most]).await.expect("read") {
            0 => return heard,
            count => heard.extend_from_slice(&space[..count]),
        }
        if rng.random_bool(0.05) {
            tokio::time::sleep(Duration::from_micros(rng.random_range(0..2000))).await;
        }
    }
}

/// Both ways at once: lengths, the largest pieces of writers and readers.
async fn conversation(seed: u64, lengths: (usize, usize), largest: (usize, usize)) {
    let mut rng = StdRng::seed_from_u64(seed);
    let (up, down) = (bytes(&mut rng, lengths.0), bytes(&mut rng, lengths.1));
    let early = (rng.random_range(0..=up.len().min(5000)), rng.random_range(0..=down.len().min(5000)));
    let first = (Bytes::copy_from_slice(&up[..early.0]), Bytes::copy_from_slice(&down[..early.1]));
    let (client, upstream, relay) = relayed(first, PAUSES).await;
    let ((client_in, client_out), (upstream_in, upstream_out)) = (client.into_split(), upstream.into_split());
    say(client_out, up[early.0..].into(), StdRng::from_rng(&mut rng), largest.0);
    say(upstream_out, down[early.1..].into(), StdRng::from_rng(&mut rng), largest.0);
    let (one, two) = (StdRng::from_rng(&mut rng), StdRng::from_rng(&mut rng));
    let heard = tokio::join!(hear(upstream_in, one, largest.1), hear(client_in, two, largest.1));
    assert!(heard.0[..] == up[..] && heard.1[..] == down[..], "changed on the way: seed {seed}, {lengths:?}");
    let (end, sums) = relay.await.expect("relay");
    let expected = (End::Closed, lengths.0 as u64, lengths.1 as u64);
    assert_eq!((end, sums.sent, sums.received), expected, "seed {seed}");
}

#[test]
fn what_goes_in_comes_out() {
    run_test(async {
        for seed in 0..40 {
            let mut rng = StdRng::seed_from_u64(1000 + seed);
            let mut length = || rng.random_range(0..1usize << rng.clone().random_range(1..20));
            let lengths = (length(), length());
            let piece = |rng: &mut StdRng| 1usize << rng.random_range(6..16);
            let largest = (piece(&mut rng), piece(&mut rng));
            conversation(seed, lengths, largest).await;
        }
    });
}

#[test]
fn long_streams_go_through_pipes_whole() {
    run_test(async {
        for (seed, lengths, largest) in [
            (1, (0, MUCH), (1 << 20, 1 << 20)),
            (2, (MUCH, 0), (1 << 20, 100_000)),
            (3, (3, MUCH), (70_000, 1 << 20)),
            (4, (MUCH, MUCH), (1 << 18, 1 << 18)),
        ] {
            conversation(seed, lengths, largest).await;
            assert_eq!(splice::pipes().0, 0, "a pipe is still taken");
        }
        assert!(splice::pipes().1 > 0, "no pipe was used");
    });
}

#[test]
fn half_closed_goes_on_for_long() {
    run_test(async {
        for turned in [false, true] {
            let (client, upstream, relay) = relayed(Default::default(), PAUSES).await;
            let (mut first, second) = if turned { (upstream, client) } else { (client, upstream) };
            first.write_all(b"only this").await.expect("write");
            first.shutdown().await.expect("FIN");
            let mut rng = StdRng::seed_from_u64(5);
            let (answer, pace) = (bytes(&mut rng, MUCH), StdRng::from_rng(&mut rng));
            let (second_in, second_out) = second.into_split();
            assert_eq!(hear(second_in, rng, 100).await, b"only this");
            say(second_out, answer.clone(), pace.clone(), 1 << 20);
            assert!(hear(first.into_split().0, pace, 1 << 20).await[..] == answer[..]);
            let (end, sums) = relay.await.expect("relay");
            let sums = if turned { (sums.received, sums.sent) } else { (sums.sent, sums.received) };
            assert_eq!((end, sums), (End::Closed, (9, MUCH as u64)));
        }
    });
}

fn reset(socket: TcpStream) {
    socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO)).expect("linger");
}

/// The peer hears of a reset within seconds, not of an end in good order.
async fn hears_reset(mut peer: TcpStream, case: &dyn std::fmt::Debug) {
    let mut space = vec![0; 1 << 20];
    let heard = timeout(SOON, async {
        loop {
            match peer.read(&mut space).await {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) => return Some(error.kind()),
            }
        }
    });
    assert_eq!(heard.await.expect("in time"), Some(io::ErrorKind::ConnectionReset), "{case:?}");
}

#[test]
fn a_reset_of_one_is_a_reset_of_the_other() {
    #[derive(Debug, Clone, Copy)]
    enum Before {
        Nothing,
        /// The one that resets sends more than the other reads.
        Sends,
        /// The other sends more than is read.
        IsSent,
        Finishes,
        OtherFinishes,
    }
    use Before::*;
    run_test(async {
        for before in [Nothing, Sends, IsSent, Finishes, OtherFinishes] {
            for turned in [false, true] {
                let (client, upstream, relay) = relayed(Default::default(), PAUSES).await;
                let (mut one, mut other) = if turned { (upstream, client) } else { (client, upstream) };
                match before {
                    Nothing => {}
                    // As much as fits, with nobody reading.
                    Sends => while timeout(LOOK / 4, one.write(&[7; 65536])).await.is_ok() {},
                    IsSent => while timeout(LOOK / 4, other.write(&[7; 65536])).await.is_ok() {},
                    Finishes => {
                        one.shutdown().await.expect("FIN");
                        assert_eq!(other.read(&mut [0]).await.expect("FIN is passed on"), 0);
                    }
                    OtherFinishes => {
                        other.shutdown().await.expect("FIN");
                        assert_eq!(one.read(&mut [0]).await.expect("FIN is passed on"), 0);
                    }
                }
                reset(one);
                let end = timeout(SOON, relay).await.unwrap_or_else(|_| panic!("nobody noticed: {before:?} {turned}"));
                assert_eq!(end.expect("relay").0, End::Reset, "{before:?} {turned}");
                match before {
                    // It has read the end before; what it writes now is refused.
                    Finishes => while other.write(&[7; 1000]).await.is_ok() {},
                    _ => hears_reset(other, &(before, turned)).await,
                }
            }
        }
    });
}

#[test]
fn a_silent_half_is_given_up_sooner() {
    run_test(async {
        let pauses = Pauses { open: SOON, half_closed: Duration::from_millis(400) };
        let start = Instant::now();
        let (mut client, mut upstream, relay) = relayed(Default::default(), pauses).await;
        tokio::time::sleep(Duration::from_millis(600)).await;
        client.shutdown().await.expect("FIN");
        // What moves is not silent.
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_millis(200)).await;
            upstream.write_all(b"x").await.expect("write");
        }
        assert!(!relay.is_finished(), "ended after {:?}", start.elapsed());
        let (end, sums) = timeout(SOON / 2, relay).await.expect("in time").expect("relay");
        assert_eq!((end, sums.received), (End::Idle, 4));
    });
}

#[test]
fn nothing_is_held_while_nothing_moves() {
    run_test(async {
        let ((mut client, near), (upstream, far)) = (pair().await, pair().await);
        let (mut near, mut far) = (Stream::from(near), Stream::from(far));
        let mut way = Way::new(Bytes::from_static(b"early "));
        let answer = spawn_local(async move {
            let mut upstream = upstream;
            let mut space = vec![0; MUCH + 6];
            upstream.read_exact(&mut space).await.expect("all of it");
            space
        });
        let mut polled = async |end: u64| {
            poll_fn(|cx| match way.poll(cx, &mut near, &mut far) {
                Poll::Pending if way.count == end => Poll::Ready(()),
                Poll::Pending => Poll::Pending,
                Poll::Ready(result) => panic!("{result:?}"),
            })
            .await;
            assert!(way.buffer.is_none() && way.pipe.is_none() && way.pending.is_empty());
        };
        polled(6).await;
        let written = async { client.write_all(&vec![3; MUCH]).await.expect("write") };
        tokio::join!(written, polled(6 + MUCH as u64));
        assert!(answer.await.expect("answer").ends_with(&[3; 1000]));
    });
}

/// An idle connection costs this, besides its task and its sockets.
#[test]
fn it_is_small() {
    let client = async {
        let (near, far) = (pair().await.0, pair().await.0);
        let (mut near, mut far) = (Stream::from(near), Stream::from(far));
        let early = Default::default();
        let relay = pin!(run(&mut near, &mut far, early, PAUSES, |_| {}, |_| false));
        let size = size_of_val(&*relay);
        assert!(size <= 704, "{size}");
        let mut relay = relay;
        assert!(relay.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    };
    run_test(client);
}

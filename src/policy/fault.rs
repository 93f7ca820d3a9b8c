//! Faults on purpose: which of them a request meets, and how fast a slowed body may go.

use std::time::{Duration, Instant, SystemTime};

use http::StatusCode;
use rand::Rng;

/// What may be done to the requests of a route. Each is drawn by itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    pub delay: Option<(Chance, Duration)>,
    pub abort: Option<(Chance, Abort)>,
    /// Bytes a second.
    pub bandwidth: Option<(Chance, u64)>,
    /// Nothing is done from here on.
    pub expires: Option<SystemTime>,
}

/// Percent of the requests.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Chance(pub f64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Abort {
    Status(StatusCode),
    Grpc(u8),
    Reset,
}

/// What one request meets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Drawn {
    pub delay: Option<Duration>,
    pub abort: Option<Abort>,
    pub bandwidth: Option<u64>,
}

impl Chance {
    /// Always one number, so that what is drawn after it does not depend on it.
    pub fn draw(self, rng: &mut impl Rng) -> bool {
        rng.random::<f64>() * 100.0 < self.0
    }
}

impl Fault {
    pub fn is_expired(&self, now: SystemTime) -> bool {
        self.expires.is_some_and(|expires| now >= expires)
    }

    /// `None` where nothing is to be done.
    pub fn draw(&self, now: SystemTime, rng: &mut impl Rng) -> Option<Drawn> {
        if self.is_expired(now) {
            return None;
        }
        let drawn = Drawn {
            delay: self.delay.filter(|(chance, _)| chance.draw(rng)).map(|(_, delay)| delay),
            abort: self.abort.filter(|(chance, _)| chance.draw(rng)).map(|(_, abort)| abort),
            bandwidth: self.bandwidth.filter(|(chance, _)| chance.draw(rng)).map(|(_, limit)| limit),
        };
        (drawn != Drawn::default()).then_some(drawn)
    }
}

/// Pieces of a slowed body in a second: it flows rather than jumps.
const PIECES: u64 = 20;

/// When the next piece of a slowed body may go, and how large it may be.
#[derive(Debug)]
pub struct Pace {
    per_second: u64,
    due: Option<Instant>,
}

impl Pace {
    pub fn new(per_second: u64) -> Self {
        Self { per_second: per_second.max(1), due: None }
    }

    /// `None` is now.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Bytes of the next piece.
    pub fn piece(&self) -> usize {
        usize::try_from(self.per_second / PIECES).unwrap_or(usize::MAX).max(1)
    }

    /// A piece of this size has gone. Time in which there was nothing to send is not saved up.
    pub fn spent(&mut self, bytes: usize, now: Instant) {
        let took = Duration::from_secs_f64(bytes as f64 / self.per_second as f64);
        self.due = Some(self.due.map_or(now, |due| due.max(now)) + took);
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    const UNAVAILABLE: Abort = Abort::Status(StatusCode::SERVICE_UNAVAILABLE);

    fn fault(delay: f64, abort: f64, bandwidth: f64) -> Fault {
        Fault {
            delay: Some((Chance(delay), Duration::from_millis(200))),
            abort: Some((Chance(abort), UNAVAILABLE)),
            bandwidth: Some((Chance(bandwidth), 1024)),
            expires: None,
        }
    }

    #[test]
    fn each_is_drawn_by_itself() {
        let (fault, mut rng) = (fault(50.0, 20.0, 10.0), SmallRng::seed_from_u64(11));
        let draws: Vec<Drawn> =
            (0..20_000).map(|_| fault.draw(SystemTime::UNIX_EPOCH, &mut rng).unwrap_or_default()).collect();
        let count = |holds: &dyn Fn(&Drawn) -> bool| draws.iter().filter(|drawn| holds(drawn)).count() as f64;
        // Five standard deviations.
        let near = |found: f64, share: f64| {
            let (wanted, deviation) = (20_000.0 * share, (20_000.0 * share * (1.0 - share)).sqrt());
            assert!((found - wanted).abs() < 5.0 * deviation, "{found} of {wanted}");
        };
        near(count(&|drawn| drawn.delay.is_some()), 0.5);
        near(count(&|drawn| drawn.abort.is_some()), 0.2);
        near(count(&|drawn| drawn.bandwidth.is_some()), 0.1);
        near(count(&|drawn| drawn.delay.is_some() && drawn.abort.is_some()), 0.1);
    }

    #[test]
    fn the_ends_of_the_scale_are_exact() {
        let mut rng = SmallRng::seed_from_u64(1);
        for _ in 0..10_000 {
            assert_eq!(fault(0.0, 0.0, 0.0).draw(SystemTime::UNIX_EPOCH, &mut rng), None);
            let all = fault(100.0, 100.0, 100.0).draw(SystemTime::UNIX_EPOCH, &mut rng).unwrap();
            assert!(all.delay.is_some() && all.abort == Some(UNAVAILABLE) && all.bandwidth == Some(1024));
        }
    }

    #[test]
    fn it_ends_exactly_when_it_expires() {
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        let fault = Fault { expires: Some(end), ..fault(100.0, 0.0, 0.0) };
        let mut rng = SmallRng::seed_from_u64(1);
        assert!(fault.draw(end - Duration::from_nanos(1), &mut rng).is_some());
        assert!(fault.draw(end, &mut rng).is_none() && fault.is_expired(end));
    }

    proptest::proptest! {
        #[test]
        fn a_slowed_body_takes_its_time(per_second in 1u64..1 << 20, total in 1usize..100_000, stalls in 0u32..3) {
            let begun = Instant::now();
            let (mut pace, mut now, mut left, mut pieces) = (Pace::new(per_second), begun, total, 0u32);
            while left > 0 && pieces < 10_000 {
                now = pace.due().map_or(now, |due| due.max(now));
                let piece = pace.piece().min(left);
                proptest::prop_assert!(piece > 0);
                left -= piece;
                pace.spent(piece, now);
                pieces += 1;
                if pieces % 7 == 0 {
                    // Nobody took anything for a while: that is not made good for.
                    now += Duration::from_millis(u64::from(stalls) * 10);
                }
            }
            let ended = pace.due().unwrap();
            let least = (total - left) as f64 / per_second as f64;
            let stalled = f64::from(pieces / 7 * stalls) * 0.01;
            let took = (ended - begun).as_secs_f64();
            proptest::prop_assert!(took > least - 1e-4 && took < least + stalled + 1e-3, "{took} of {least}");
        }
    }
}

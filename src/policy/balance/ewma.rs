//! How soon an endpoint answers, as it was seen of late: a mean that decays with time, and that one slow answer raises
//! at once (peak EWMA, as in Finagle).

use std::time::{Duration, Instant};

/// Half of what is older than seven seconds is forgotten.
const DECAY: Duration = Duration::from_secs(10);
/// What a failure counts as at least. One that fails at once must not look fast.
const FAILED: Duration = Duration::from_secs(1);
/// And at most, in seconds, however many there are: what fails without end must be asked again within minutes.
const WORST: f64 = 60.0;

#[derive(Debug, Clone, Copy, Default)]
pub struct Ewma {
    /// In seconds, and as of when.
    seen: Option<(f64, Instant)>,
}

impl Ewma {
    pub fn observe(&mut self, took: Duration, failed: bool, now: Instant) {
        let known = self.seen.map_or(0.0, |(cost, _)| cost);
        let decayed = self.decayed(now);
        let took = match failed {
            true => took.max(FAILED).as_secs_f64().max((2.0 * decayed).min(WORST)),
            false => took.as_secs_f64(),
        };
        let cost = if took >= known { took } else { took + (known - took) * self.share(now) };
        self.seen = Some((cost, now));
    }

    /// In seconds. What is not heard of for long is forgotten, so that who was slow is asked again. 0 where nothing is
    /// known.
    pub fn decayed(&self, now: Instant) -> f64 {
        self.seen.map_or(0.0, |(cost, _)| cost * self.share(now))
    }

    /// For reports.
    pub fn shown(&self, now: Instant) -> Option<Duration> {
        self.seen.and_then(|_| Duration::try_from_secs_f64(self.decayed(now)).ok())
    }

    /// What is left by now of the weight of what was seen.
    fn share(&self, now: Instant) -> f64 {
        let age = self.seen.map_or(Duration::ZERO, |(_, at)| now.saturating_duration_since(at));
        (-age.as_secs_f64() / DECAY.as_secs_f64()).exp()
    }
}

/// What a request would cost: the latency times the requests that it comes behind, for an endpoint with this share of
/// the mean weight. An endpoint of which nothing is known is asked once, and then waited for.
pub fn cost(latency: f64, in_flight: u64, weight: f64) -> f64 {
    let latency = if latency == 0.0 && in_flight > 0 { FAILED.as_secs_f64() } else { latency };
    latency * (1.0 + in_flight as f64 / weight)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_peak_counts_at_once_and_fades() {
        let start = Instant::now();
        let mut ewma = Ewma::default();
        assert_eq!((ewma.decayed(start), ewma.shown(start)), (0.0, None));
        ewma.observe(10 * MS, false, start);
        ewma.observe(500 * MS, false, start);
        assert_eq!(ewma.shown(start), Some(500 * MS));
        ewma.observe(10 * MS, false, start + DECAY);
        let mean = ewma.decayed(start + DECAY);
        assert!((0.18..0.20).contains(&mean), "a share of 1/e of the old value: {mean}");
        assert!(ewma.decayed(start + DECAY + 10 * DECAY) < 0.001, "who is not heard of is asked again");
    }

    #[test]
    fn who_fails_is_not_fast() {
        let now = Instant::now();
        let mut ewma = Ewma::default();
        ewma.observe(MS, true, now);
        assert_eq!(ewma.shown(now), Some(FAILED));
        ewma.observe(5000 * MS, false, now);
        ewma.observe(MS, true, now);
        assert_eq!(ewma.shown(now), Some(10_000 * MS), "and slower than whoever takes long");
    }

    #[test]
    fn failures_without_end_are_bounded() {
        let now = Instant::now();
        let mut ewma = Ewma::default();
        (0..10_000).for_each(|_| ewma.observe(MS, true, now));
        assert_eq!(ewma.shown(now), Some(Duration::from_secs(60)));
        assert!(ewma.decayed(now + 10 * DECAY) < 0.01, "and forgotten");
    }

    #[test]
    fn cost_is_latency_times_the_queue() {
        assert_eq!(cost(0.5, 0, 1.0), 0.5);
        assert_eq!(cost(0.5, 3, 1.0), 2.0);
        assert_eq!(cost(0.5, 3, 3.0), 1.0);
        assert_eq!((cost(0.0, 0, 1.0), cost(0.0, 1, 1.0)), (0.0, 2.0));
    }
}

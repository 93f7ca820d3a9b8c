//! How many requests at a time a service can take, found out by its latency: a limit that falls while answers take
//! longer than they usually do, and rises while they do not and it is in use. After Netflix's `Gradient2`: what is usual
//! is a slow average of the same latency, so that nothing has to be held back to measure it. Unlike there, what the limit
//! itself may have made slow is not taken for usual.

use std::time::Duration;

/// Windows at the beginning of which what is usual is the plain average.
const FIRST: f64 = 10.0;
/// Afterwards it moves by this part of the difference: down to what was faster,
const FASTER: f64 = 1.0 / 50.0;
/// up to what was slower while there was room,
const SLOWER: f64 = 1.0 / 600.0;
/// and up to what is slow even at the least limit: that is not for the load that we let through.
const AT_LEAST: f64 = 1.0 / 50.0;
/// From this part of the limit on it is in use, and what is slow may be so because of us.
const IN_USE: f64 = 0.7;
/// The part of a new limit that is taken over from one window to the next.
const SMOOTHING: f64 = 0.2;
/// Of one window, the limit at most halves.
const FALL: f64 = 0.5;

/// What an operator says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    pub initial: u32,
    pub min: u32,
    pub max: u32,
    /// So many times the usual latency is still in order.
    pub tolerance: f64,
}

#[derive(Debug, Clone)]
pub struct Gradient {
    limit: f64,
    /// Seconds.
    long: f64,
    windows: f64,
}

impl Gradient {
    pub fn new(settings: &Settings) -> Self {
        Self { limit: f64::from(settings.initial.clamp(settings.min, settings.max)), long: 0.0, windows: 0.0 }
    }

    pub fn limit(&self) -> u32 {
        self.limit as u32
    }

    /// The latency that is usual.
    pub fn usual(&self) -> Duration {
        Duration::try_from_secs_f64(self.long).unwrap_or_default()
    }

    /// A window has passed in which answers took so long on average, with so many requests at a time at most.
    pub fn update(&mut self, latency: Duration, in_flight: u32, settings: &Settings) {
        // Less than a microsecond is no time to measure by.
        let short = latency.as_secs_f64().max(1e-6);
        self.windows = (self.windows + 1.0).min(FIRST + 1.0);
        let in_use = f64::from(in_flight) >= self.limit * IN_USE;
        let pace = match short < self.long {
            _ if self.windows <= FIRST => 1.0 / self.windows,
            true => FASTER,
            false if self.limit() <= settings.min => AT_LEAST,
            false if in_use => 0.0,
            false => SLOWER,
        };
        self.long += (short - self.long) * pace;
        let (min, max) = (f64::from(settings.min), f64::from(settings.max));
        let gradient = (settings.tolerance * self.long / short).clamp(FALL, 1.0);
        // A limit that is not in use says nothing about more.
        if gradient >= 1.0 && f64::from(in_flight) < self.limit / 2.0 {
            self.limit = self.limit.clamp(min, max);
            return;
        }
        let room = self.limit.sqrt().max(4.0);
        let wanted = self.limit * gradient + if gradient < 1.0 { 0.0 } else { room };
        self.limit = (self.limit * (1.0 - SMOOTHING) + wanted * SMOOTHING).clamp(min, max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Settings = Settings { initial: 20, min: 5, max: 1000, tolerance: 1.5 };

    /// A service that answers so many at a time in its own time, and more of them slower.
    struct Service {
        at_a_time: f64,
        time: f64,
    }

    impl Service {
        fn latency(&self, in_flight: u32) -> Duration {
            Duration::from_secs_f64(self.time * (f64::from(in_flight) / self.at_a_time).max(1.0))
        }

        /// Windows with so many clients, of whom as many get through as the limit allows.
        fn run(&self, gradient: &mut Gradient, windows: u32, clients: u32) {
            for _ in 0..windows {
                let in_flight = gradient.limit().min(clients);
                gradient.update(self.latency(in_flight), in_flight, &SETTINGS);
            }
        }
    }

    #[test]
    fn a_step_in_latency_lowers_the_limit_and_recovery_raises_it() {
        let mut gradient = Gradient::new(&SETTINGS);
        let well = Service { at_a_time: 100.0, time: 0.01 };
        well.run(&mut gradient, 300, 10_000);
        let before = gradient.limit();
        assert!((100..250).contains(&before), "what the service takes, and some that wait: {before}");
        let ill = Service { at_a_time: 10.0, time: 0.01 };
        ill.run(&mut gradient, 30, 10_000);
        let during = gradient.limit();
        assert!(during < 40, "{during}");
        well.run(&mut gradient, 300, 10_000);
        let after = gradient.limit();
        assert!((100..250).contains(&after), "{after}");
    }

    #[test]
    fn a_limit_that_is_not_in_use_stays() {
        let mut gradient = Gradient::new(&SETTINGS);
        Service { at_a_time: 100.0, time: 0.01 }.run(&mut gradient, 1000, 3);
        assert_eq!(gradient.limit(), 20);
        // And one that is too high is found out all the same.
        Service { at_a_time: 1.0, time: 0.1 }.run(&mut gradient, 10, 3);
        assert!(gradient.limit() < 20, "{}", gradient.limit());
    }

    /// A service that has become slower for good, and not by its load, is not starved for ever.
    #[test]
    fn what_is_usual_may_change() {
        let mut gradient = Gradient::new(&SETTINGS);
        Service { at_a_time: 1000.0, time: 0.01 }.run(&mut gradient, 100, 50);
        let slower = Service { at_a_time: 1000.0, time: 0.05 };
        slower.run(&mut gradient, 20, 50);
        assert!(gradient.limit() < 20, "{}", gradient.limit());
        slower.run(&mut gradient, 2000, 50);
        assert!(gradient.limit() > 50, "{}", gradient.limit());
        let usual = gradient.usual().as_secs_f64();
        assert!((0.03..0.06).contains(&usual), "{usual}");
        Service { at_a_time: 1000.0, time: 0.01 }.run(&mut gradient, 200, 50);
        assert!(gradient.usual() < Duration::from_millis(25), "and back: {:?}", gradient.usual());
    }

    proptest::proptest! {
        #[test]
        fn always_within_its_bounds(
            windows in proptest::collection::vec((0u64..10_000_000, 0u32..5000), 0..300),
            initial in 0u32..5000,
        ) {
            let settings = Settings { initial, ..SETTINGS };
            let mut gradient = Gradient::new(&settings);
            for (micros, in_flight) in windows {
                gradient.update(Duration::from_micros(micros), in_flight, &settings);
                proptest::prop_assert!((5..=1000).contains(&gradient.limit()), "{}", gradient.limit());
            }
        }
    }
}

use proptest::prelude::*;

use super::*;

const TERMS: Terms =
    Terms { min_requests: 10, threshold: 0.5, consecutive: None, open: Duration::from_secs(30), trials: 3 };
const WINDOW: Duration = Duration::from_secs(60);

/// The same as plainly as it can be said: a list of all that came, looked through each time.
struct Model {
    terms: Terms,
    now: Duration,
    state: State,
    until: Duration,
    /// While closed, since it last closed: when, and whether it failed.
    came: Vec<(Duration, bool)>,
    round: u32,
    since: Duration,
    trials: Vec<bool>,
    under_way: u32,
}

impl Model {
    fn new(terms: Terms) -> Self {
        let (now, until, since) = Default::default();
        let state = State::Closed;
        Self { terms, now, state, until, came: Vec::new(), round: 0, since, trials: Vec::new(), under_way: 0 }
    }

    /// The round of the trial, where it is one.
    fn admit(&mut self) -> Result<Option<u32>, Duration> {
        if self.state == State::Open {
            if self.now < self.until {
                return Err(self.until);
            }
            (self.state, self.since) = (State::HalfOpen, self.now);
            self.trials.clear();
            self.round += 1;
            self.under_way = 0;
        }
        if self.state == State::Closed {
            return Ok(None);
        }
        if self.under_way + self.trials.len() as u32 >= self.terms.trials {
            if self.now < self.since + self.terms.open {
                return Err(self.since + self.terms.open);
            }
            (self.round, self.under_way, self.since) = (self.round + 1, 0, self.now);
        }
        self.under_way += 1;
        Ok(Some(self.round))
    }

    fn record(&mut self, round: Option<u32>, failed: bool) -> Option<State> {
        let failures = |of: &[bool]| of.iter().filter(|failed| **failed).count() as f64;
        let in_row = |of: &[bool]| of.iter().rev().take_while(|failed| **failed).count() as u32;
        let too_many = |in_row: u32| self.terms.consecutive.is_some_and(|most| in_row >= most);
        match (self.state, round) {
            (State::Closed, None) => {
                self.came.push((self.now, failed));
                let part = |at: Duration| at.as_nanos() / (WINDOW.as_nanos() / u128::from(SLOTS));
                let is_in = |at: &Duration| part(self.now) - part(*at) < u128::from(SLOTS);
                let seen: Vec<bool> = self.came.iter().filter(|(at, _)| is_in(at)).map(|(_, failed)| *failed).collect();
                let all: Vec<bool> = self.came.iter().map(|(_, failed)| *failed).collect();
                let share = failures(&seen) / seen.len() as f64 >= self.terms.threshold;
                let opens = share && seen.len() as u32 >= self.terms.min_requests || too_many(in_row(&all));
                (failed && opens).then(|| self.open())
            }
            (State::HalfOpen, Some(round)) if round == self.round => {
                self.under_way -= 1;
                self.trials.push(failed);
                let share = failures(&self.trials) / f64::from(self.terms.trials) >= self.terms.threshold;
                if failed && (share || too_many(in_row(&self.trials))) {
                    Some(self.open())
                } else if self.trials.len() as u32 == self.terms.trials {
                    self.state = State::Closed;
                    self.came.clear();
                    Some(self.state)
                } else {
                    None
                }
            }
            _ => None,
        }
    }

    fn drop(&mut self, round: Option<u32>) {
        if self.state == State::HalfOpen && round == Some(self.round) {
            self.under_way -= 1;
        }
    }

    fn open(&mut self) -> State {
        (self.state, self.until) = (State::Open, self.now + self.terms.open);
        self.state
    }
}

#[derive(Debug, Clone)]
enum Step {
    Wait(u64),
    Call,
    /// What came of one of the calls under way.
    End(usize, bool),
    /// The client is gone.
    Drop(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (0u64..20_000).prop_map(Step::Wait),
        6 => Just(Step::Call),
        5 => (0usize..8, any::<bool>()).prop_map(|(which, failed)| Step::End(which, failed)),
        1 => (0usize..8).prop_map(Step::Drop),
    ]
}

fn terms() -> impl Strategy<Value = Terms> {
    let consecutive = proptest::option::of(1u32..6);
    (1u32..12, 1u32..=20, consecutive, 1u64..60, 1u32..6).prop_map(
        |(min_requests, parts, consecutive, open, trials)| {
            let threshold = f64::from(parts) / 20.0;
            Terms { min_requests, threshold, consecutive, open: Duration::from_secs(open), trials }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn it_is_its_model(terms in terms(), steps in prop::collection::vec(step(), 1..200)) {
        let born = Instant::now();
        let breaker = Breaker::new(WINDOW, None, born);
        let mut model = Model::new(terms);
        let mut under_way = Vec::new();
        for step in steps {
            let now = born + model.now;
            match step {
                Step::Wait(millis) => model.now += Duration::from_millis(millis),
                Step::Call => match (breaker.admit(&terms, now), model.admit()) {
                    (Admit::Yes, Ok(None)) => under_way.push((None, None)),
                    (Admit::Trial(permit), Ok(Some(round))) => under_way.push((Some(permit), Some(round))),
                    (Admit::No { until }, Err(model)) => prop_assert_eq!(until, born + model),
                    (Admit::Decided(state), _) => prop_assert!(false, "{:?} by the same terms", state),
                    (_, other) => prop_assert!(false, "the model says {:?}", other),
                },
                Step::End(which, failed) if which < under_way.len() => {
                    let (permit, round) = under_way.swap_remove(which);
                    let state = breaker.record(&terms, permit, failed, now);
                    prop_assert_eq!(state, model.record(round, failed));
                }
                Step::Drop(which) if which < under_way.len() => {
                    let (permit, round) = under_way.swap_remove(which);
                    drop(permit);
                    model.drop(round);
                }
                Step::End(..) | Step::Drop(_) => {}
            }
            prop_assert_eq!(breaker.report(born + model.now).state, model.state);
        }
    }
}

fn fail(breaker: &Arc<Breaker>, times: u32, now: Instant) -> Option<State> {
    (0..times).fold(None, |told, _| breaker.record(&TERMS, None, true, now).or(told))
}

fn trial(breaker: &Arc<Breaker>, now: Instant) -> Permit {
    match breaker.admit(&TERMS, now) {
        Admit::Trial(permit) => permit,
        Admit::Yes => panic!("closed"),
        Admit::No { .. } => panic!("open"),
        Admit::Decided(state) => panic!("{state:?}"),
    }
}

#[test]
fn it_opens_lets_some_try_and_closes() {
    let now = Instant::now();
    let breaker = Breaker::new(WINDOW, None, now);
    assert_eq!(fail(&breaker, 9, now), None, "too few to say");
    assert_eq!(fail(&breaker, 1, now), Some(State::Open));
    let until = now + TERMS.open;
    assert!(matches!(breaker.admit(&TERMS, until - Duration::from_nanos(1)), Admit::No { until: at } if at == until));
    let permits: Vec<Permit> = (0..3).map(|_| trial(&breaker, until)).collect();
    assert!(permits[0].is_first && !permits[1].is_first);
    assert!(matches!(breaker.admit(&TERMS, until), Admit::No { .. }), "three trials, and no more");
    for (n, permit) in permits.into_iter().enumerate() {
        assert_eq!(breaker.record(&TERMS, Some(permit), false, until), (n == 2).then_some(State::Closed));
    }
    assert_eq!(fail(&breaker, 9, until), None, "what was counted before is forgotten");
    let report = breaker.report(until);
    assert_eq!((report.calls, report.failures, report.refused), (9, 9, 2));
    assert_eq!((report.opened, report.half_opened, report.closed), (1, 1, 1));
}

#[test]
fn a_failed_trial_opens_it_again() {
    let now = Instant::now();
    let breaker = Breaker::new(WINDOW, None, now);
    fail(&breaker, 10, now);
    let until = now + TERMS.open;
    let permits = [trial(&breaker, until), trial(&breaker, until)];
    let [first, second] = permits.map(|permit| breaker.record(&TERMS, Some(permit), true, until));
    assert_eq!((first, second), (None, Some(State::Open)), "two of three");
    assert_eq!(breaker.report(until).left(&TERMS, until), TERMS.open);
}

#[test]
fn other_terms_hold_from_the_next_call_on() {
    let now = Instant::now();
    let breaker = Breaker::new(WINDOW, None, now);
    fail(&breaker, 10, now);
    let (soon, sooner) = (now + Duration::from_secs(2), Terms { open: Duration::from_secs(2), ..TERMS });
    assert!(matches!(breaker.admit(&TERMS, soon), Admit::No { until } if until == now + TERMS.open));
    assert_eq!(breaker.report(soon).left(&sooner, soon), Duration::ZERO);
    let Admit::Trial(first) = breaker.admit(&sooner, soon) else { panic!("open for long enough") };
    let second = trial(&breaker, soon);
    assert_eq!([first, second].map(|permit| breaker.record(&TERMS, Some(permit), false, soon)), [None; 2]);
    let fewer = Terms { trials: 2, ..TERMS };
    assert!(matches!(breaker.admit(&fewer, soon), Admit::Decided(State::Closed)));
    assert!(matches!(breaker.admit(&fewer, soon), Admit::Yes));
    // One failure of three trials is not too much; of one it is.
    fail(&breaker, 10, soon);
    let later = soon + TERMS.open;
    assert_eq!(breaker.record(&TERMS, Some(trial(&breaker, later)), true, later), None);
    assert!(matches!(breaker.admit(&Terms { trials: 1, ..TERMS }, later), Admit::Decided(State::Open)));
}

#[test]
fn a_trial_that_comes_to_nothing_gives_its_place_back() {
    let now = Instant::now();
    let breaker = Breaker::new(WINDOW, None, now);
    fail(&breaker, 10, now);
    let until = now + TERMS.open;
    for _ in 0..100 {
        drop(trial(&breaker, until));
    }
    // Nor can those that hang hold the places for ever.
    let held: Vec<Permit> = (0..3).map(|_| trial(&breaker, until)).collect();
    let later = until + TERMS.open;
    let again: Vec<Permit> = (0..3).map(|_| trial(&breaker, later)).collect();
    drop(held);
    assert!(matches!(breaker.admit(&TERMS, later), Admit::No { .. }), "void permits free nothing");
    drop(again);
    drop(trial(&breaker, later));
}

#[test]
fn a_success_never_opens_it_and_old_failures_are_forgotten() {
    let now = Instant::now();
    let breaker = Breaker::new(WINDOW, None, now);
    fail(&breaker, 9, now);
    assert_eq!(breaker.record(&TERMS, None, false, now), None);
    assert_eq!((breaker.report(now).calls, breaker.report(now).failures), (10, 9));
    let later = now + WINDOW;
    assert_eq!(breaker.report(later).calls, 0);
    assert_eq!(fail(&breaker, 1, later), None);
}

#[test]
fn shares_survive_what_a_slot_cannot_count() {
    let now = Instant::now();
    let breaker = Breaker::new(WINDOW, None, now);
    let never = Terms { threshold: 1.0, ..TERMS };
    for n in 0..3 * CALLS_MAX {
        breaker.record(&never, None, n % 4 == 0, now);
    }
    let report = breaker.report(now);
    assert!(report.calls <= CALLS_MAX);
    let share = report.failures as f64 / report.calls as f64;
    assert!((share - 0.25).abs() < 0.001, "{share}");
}

#[test]
fn another_window_keeps_the_state() {
    let now = Instant::now();
    let breaker = Breaker::new(WINDOW, None, now);
    fail(&breaker, 10, now);
    let same = Breaker::new(WINDOW, Some(&breaker), now);
    assert!(Arc::ptr_eq(&same, &breaker));
    let other = Breaker::new(WINDOW * 2, Some(&breaker), now);
    assert_eq!((other.report(now).state, other.report(now).calls, other.report(now).opened), (State::Open, 0, 1));
    let until = now + TERMS.open;
    let held = trial(&breaker, until);
    assert!(trial(&Breaker::new(WINDOW * 2, Some(&breaker), until), until).is_first, "the trials begin anew");
    drop(held);
}

#[test]
fn many_threads_count_exactly() {
    let (now, each) = (Instant::now(), 20_000);
    let breaker = Breaker::new(WINDOW, None, now);
    let never = Terms { threshold: 1.0, ..TERMS };
    let all = |f: &(dyn Fn() + Sync)| std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(f))));
    all(&|| {
        (0..each).for_each(|n| {
            breaker.record(&never, None, n % 2 == 0, now);
        })
    });
    let report = breaker.report(now);
    assert_eq!((report.calls, report.failures), (4 * each, 2 * each));
    // It opens once, and lets as many try as it is told to.
    all(&|| {
        (0..1000).for_each(|_| {
            breaker.record(&TERMS, None, true, now);
        })
    });
    assert_eq!(breaker.report(now).opened, 1);
    let permits = Mutex::new(Vec::new());
    all(&|| {
        (0..1000).for_each(|_| {
            if let Admit::Trial(permit) = breaker.admit(&TERMS, now + TERMS.open) {
                permits.lock().unwrap().push(permit);
            }
        });
    });
    assert_eq!(permits.lock().unwrap().len(), 3);
}

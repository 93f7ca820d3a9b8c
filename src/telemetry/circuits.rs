//! Circuit breakers and classes of answers, as they are counted: the breakers count themselves, and are read when
//! somebody scrapes. Labels are from the configuration.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use crate::policy::breaker::{Breaker, Report, State};

/// Those of the live configuration.
#[derive(Debug, Default)]
pub struct Circuits(Mutex<Known>);

#[derive(Debug, Default, Clone)]
pub struct Known {
    pub breakers: Vec<Series>,
    pub classes: Vec<Class>,
}

#[derive(Debug, Clone)]
pub struct Series {
    /// Empty where it is a route's.
    pub service: Arc<str>,
    pub route: Arc<str>,
    pub class: Arc<str>,
    pub breaker: Arc<Breaker>,
}

#[derive(Debug, Clone)]
pub struct Class {
    pub service: Arc<str>,
    pub name: Arc<str>,
    pub sli: &'static str,
    pub answers: Arc<AtomicU64>,
}

impl Circuits {
    pub fn set(&self, known: Known) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = known;
    }

    pub(super) fn encode(&self, out: &mut DescriptorEncoder) -> fmt::Result {
        let Known { breakers, classes } = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let now = Instant::now();
        let reports: Vec<(&Series, Report)> = breakers.iter().map(|one| (one, one.breaker.report(now))).collect();
        let help = "State of circuit breakers: 0 closed, 1 half open, 2 open";
        let mut family = out.encode_descriptor("outrigger_circuit_state", help, None, MetricType::Gauge)?;
        for (series, report) in &reports {
            let state: u64 = match report.state {
                State::Closed => 0,
                State::HalfOpen => 1,
                State::Open => 2,
            };
            family.encode_family(&series.labels())?.encode_gauge(&state)?;
        }
        let help = "Changes of the state of circuit breakers, by the new state";
        let mut family = out.encode_descriptor("outrigger_circuit_transitions", help, None, MetricType::Counter)?;
        for (series, report) in &reports {
            let counts = [("open", report.opened), ("halfOpen", report.half_opened), ("closed", report.closed)];
            for (state, count) in counts {
                let [service, route, class] = series.labels();
                let labels = [service, route, class, ("state", state)];
                family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
            }
        }
        let help = "Requests that a circuit breaker did not let pass, or would not have in shadow mode";
        let mut family = out.encode_descriptor("outrigger_circuit_refused", help, None, MetricType::Counter)?;
        for (series, report) in &reports {
            family.encode_family(&series.labels())?.encode_counter::<NoLabelSet, _, u64>(&report.refused, None)?;
        }
        let help = "Answers of the classes of services";
        let mut family = out.encode_descriptor("outrigger_error_class_answers", help, None, MetricType::Counter)?;
        for class in &classes {
            let labels = [("service", &*class.service), ("class", &*class.name), ("sli", class.sli)];
            let count = class.answers.load(Ordering::Relaxed);
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
        Ok(())
    }
}

impl Series {
    fn labels(&self) -> [(&'static str, &str); 3] {
        [("service", &self.service), ("route", &self.route), ("class", &self.class)]
    }
}

//! What is wrong with the retries and the hedge of a route, and what of them can never come to pass.

use std::time::Duration;

use super::schema::{Hedge, HedgeAfter, Retry, RetryOn, Root, Timeout, TimeoutRule};
use super::validate::View;

pub fn check(view: &mut View<'_>, path: &str, retry: &Retry) {
    if let Some(time) = retry.per_try_timeout {
        view.positive(&format!("{path}.perTryTimeout"), time);
    }
}

/// Path, message and remedy.
pub type Doubt = (String, String, &'static str);

/// Sound, and yet not what it looks like.
pub fn doubts(root: &Root) -> Vec<Doubt> {
    let mut all = Vec::new();
    retry(&mut all, "defaults.retry", &root.defaults.retry, None);
    for (index, route) in root.routes.iter().enumerate() {
        let timeout = match route.timeout.unwrap_or(Timeout::After(root.defaults.timeout)) {
            Timeout::After(after) | Timeout::Rule(TimeoutRule { after, .. }) => *after,
        };
        if let Some(own) = &route.retry {
            retry(&mut all, &format!("routes[{index}].retry"), own, Some(timeout));
        }
        if let Some(own) = &route.hedge {
            hedge(&mut all, &format!("routes[{index}].hedge"), own, timeout);
        }
    }
    all
}

fn retry(all: &mut Vec<Doubt>, path: &str, retry: &Retry, timeout: Option<Duration>) {
    if retry.attempts == 0 {
        return;
    }
    for (index, on) in retry.on.iter().enumerate() {
        if let RetryOn::Rule(rule) = on
            && rule.attempts > retry.attempts
        {
            let message = format!("there are never more than the {} `attempts` of the whole", retry.attempts);
            all.push((format!("{path}.on[{index}].attempts"), message, "raise the other, or lower this one"));
        }
    }
    if retry.backoff.base > retry.backoff.max {
        let message = format!("no wait is longer than `max`, {}", retry.backoff.max);
        all.push((format!("{path}.backoff.base"), message, "raise `max`, or lower this one"));
    }
    if let (Some(per_try), Some(timeout)) = (retry.per_try_timeout, timeout)
        && *per_try >= timeout
    {
        let message = "no try lasts that long: the `timeout` of the whole request ends first".to_owned();
        all.push((format!("{path}.perTryTimeout"), message, "write a shorter one"));
    }
}

fn hedge(all: &mut Vec<Doubt>, path: &str, hedge: &Hedge, timeout: Duration) {
    if let Ok(HedgeAfter::Fixed(after)) = hedge.after.parse()
        && after >= timeout
    {
        let message = "it never comes to that: the `timeout` of the request ends first".to_owned();
        all.push((format!("{path}.after"), message, "write a shorter one"));
    }
}

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

#[cfg(test)]
mod tests {
    use crate::config;

    #[test]
    fn what_can_never_come_to_pass() {
        let text = r#"apiVersion: outrigger/v1
listeners: [{ name: edge, mode: proxy, address: "127.0.0.1:8080" }]
services: { app: { endpoints: { static: ["127.0.0.1:1"] } } }
routes:
  - name: a
    to: app
    timeout: 1s
    hedge: { after: 2s }
    retry: { attempts: 1, perTryTimeout: 1s, on: [{ condition: 5xx, attempts: 2 }], backoff: { base: 2s, max: 1s } }
"#;
        let warned = |text: &str| {
            let config = config::parse("t.yaml", text, &|_| None).expect("it is sound");
            let mut paths: Vec<String> =
                config::warnings(&config, std::time::SystemTime::now()).into_iter().map(|one| one.path).collect();
            paths.sort();
            paths
        };
        let retry = "routes[0].retry";
        let all = ["backoff.base", "on[0].attempts", "perTryTimeout"].map(|key| format!("{retry}.{key}"));
        assert_eq!(warned(text), [&["routes[0].hedge.after".to_owned()][..], &all].concat());
        assert_eq!(warned(&text.replace("attempts: 1,", "attempts: 0,")), ["routes[0].hedge.after"]);
        let never = text.replace("perTryTimeout: 1s", "perTryTimeout: 0s");
        let refused = config::parse("t.yaml", &never, &|_| None).expect_err("no try has no time").to_string();
        assert!(refused.contains("perTryTimeout") && refused.contains("longer than 0s"), "{refused}");
    }
}

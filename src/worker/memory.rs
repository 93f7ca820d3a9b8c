//! How much of its memory the process uses, and whether so much that requests have to be refused. One worker looks,
//! about once a second; all read.

use std::fs;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

use crate::admin::health::{Component, Health, Status};
use crate::config::schema::{self, RuleMode};
use crate::config::units::Size;
use crate::policy::class::Class;
use crate::policy::shed;

#[derive(Debug, Default)]
pub struct Memory {
    /// 0 while nothing is refused, else one more than the class up to which it is.
    refused: AtomicU8,
    shadow: AtomicU8,
    /// Percent of the limit, and the threshold of default requests.
    used: AtomicU64,
    threshold: AtomicU64,
    limit: AtomicU64,
}

impl Memory {
    /// Some requests are refused.
    pub fn is_short(&self) -> bool {
        self.refused.load(Relaxed) > 0
    }

    /// How much is used and from where on this class is refused, in percent, where it is; and whether that is enforced.
    pub fn sheds(&self, class: Class) -> Option<(u64, u64, bool)> {
        let refused = self.refused.load(Relaxed);
        let told = || (self.used.load(Relaxed), self.threshold.load(Relaxed), self.shadow.load(Relaxed) == 0);
        (refused > class as u8).then(told)
    }

    /// As it was at the last look.
    pub fn limit(&self) -> Size {
        Size(self.limit.load(Relaxed))
    }

    /// Percent that are used, where there is a limit.
    pub fn used(&self) -> Option<u64> {
        (self.limit.load(Relaxed) > 0).then(|| self.used.load(Relaxed))
    }

    pub fn look(&self, settings: &schema::Memory, health: &Health) {
        let limit = match settings.mode {
            RuleMode::Off => None,
            RuleMode::Enforce | RuleMode::Shadow => settings.limit.map(|limit| limit.0).or_else(cgroup_limit),
        };
        let (Some(limit), Some(resident)) = (limit.filter(|limit| *limit > 0), resident()) else {
            self.limit.store(0, Relaxed);
            self.refused.store(0, Relaxed);
            return health.remove(Component::Memory);
        };
        let used = resident as f64 / limit as f64 * 100.0;
        let before = Class::ALL.into_iter().find(|class| *class as u8 + 1 == self.refused.load(Relaxed));
        let refused = shed::look(before, used, settings.shed_at);
        let shadow = settings.mode == RuleMode::Shadow;
        self.used.store(used.round() as u64, Relaxed);
        self.threshold.store(settings.shed_at.round() as u64, Relaxed);
        self.limit.store(limit, Relaxed);
        self.shadow.store(shadow.into(), Relaxed);
        self.refused.store(refused.map_or(0, |class| class as u8 + 1), Relaxed);
        let (status, doing) = match refused {
            None => (Status::Ok, String::new()),
            Some(_) if shadow => (Status::Ok, "; requests would be refused".to_owned()),
            Some(Class::Sheddable) => (Status::Degraded, "; sheddable requests are refused".to_owned()),
            // Another instance has more.
            Some(class) => (Status::Failed, format!("; requests up to {} are refused", class.name())),
        };
        // Moves with what it means, not with every byte.
        let detail = if refused.is_some() { format!("{used:.0} % of {}{doing}", Size(limit)) } else { String::new() };
        health.set(Component::Memory, status, detail);
    }
}

/// Bytes of the process that are in memory.
fn resident() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

/// The least limit of the cgroups that the process is in, in version 2 or 1; none where there is no limit.
fn cgroup_limit() -> Option<u64> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let below = |root: &str, name: &str, path: &str| {
        let mut least: Option<u64> = None;
        let mut path = path.trim_matches('/');
        loop {
            let read = fs::read_to_string(format!("{root}/{path}/{name}")).ok();
            let limit = read.and_then(|text| text.trim().parse::<u64>().ok());
            // Version 1 writes no limit as a number near the largest.
            least = least.into_iter().chain(limit.filter(|limit| *limit < 1 << 60)).min();
            match path.rfind('/') {
                Some(end) => path = path.get(..end).unwrap_or_default(),
                None if path.is_empty() => return least,
                None => path = "",
            }
        }
    };
    own.lines()
        .filter_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            match (parts.next()?, parts.next()?) {
                ("", path) => below("/sys/fs/cgroup", "memory.max", path),
                (controllers, path) if controllers.split(',').any(|one| one == "memory") => {
                    below("/sys/fs/cgroup/memory", "memory.limit_in_bytes", path)
                }
                _ => None,
            }
        })
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_is_found_and_judged() {
        let (memory, health) = (Memory::default(), Health::new(1));
        let resident = resident().expect("Linux");
        let settings = |part: f64| schema::Memory {
            limit: Some(Size((resident as f64 / part) as u64)),
            ..schema::Memory::default()
        };
        memory.look(&settings(0.5), &health);
        assert!(!memory.is_short() && memory.used().is_some_and(|used| used < 80), "{memory:?}");
        memory.look(&settings(10.0), &health);
        assert!(Class::ALL.iter().all(|class| memory.sheds(*class).is_some_and(|(used, _, on)| used > 900 && on)));
        let (_, report) = health.report(std::time::Instant::now());
        assert_eq!(report["components"]["memory"]["status"], "failed");
        memory.look(&schema::Memory { mode: RuleMode::Shadow, ..settings(10.0) }, &health);
        assert!(memory.sheds(Class::Critical).is_some_and(|(.., enforced)| !enforced));
        memory.look(&schema::Memory { mode: RuleMode::Off, ..settings(10.0) }, &health);
        assert!(!memory.is_short() && memory.used().is_none());
        let (_, report) = health.report(std::time::Instant::now());
        assert!(report["components"]["memory"].is_null());
    }
}

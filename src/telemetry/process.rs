//! The process as the kernel sees it, under the names that every Prometheus client library uses.

use std::fs;

/// What `/proc/self` says; nothing where there is no such thing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Usage {
    pub resident_bytes: u64,
    pub virtual_bytes: u64,
    pub cpu_seconds: f64,
    pub start_seconds: f64,
    pub open_fds: u64,
    /// `None` is no limit.
    pub max_fds: Option<u64>,
    pub threads: u64,
}

/// Clock ticks a second of `/proc/*/stat`: `sysconf(_SC_CLK_TCK)`, 100 on every architecture that Linux runs on.
const TICKS: f64 = 100.0;

impl Usage {
    pub fn read() -> Option<Self> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        let statm = fs::read_to_string("/proc/self/statm").ok()?;
        let boot = fs::read_to_string("/proc/stat").ok()?;
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        // The directory that is being read is open as well.
        let open_fds = fs::read_dir("/proc/self/fd").map_or(0, |fds| (fds.count() as u64).saturating_sub(1));
        Self::parse(&stat, &statm, &boot, &limits, open_fds)
    }

    fn parse(stat: &str, statm: &str, boot: &str, limits: &str, open_fds: u64) -> Option<Self> {
        // Field 2, the name, may hold spaces and parentheses; what follows its last parenthesis is field 3.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let boot = boot.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse::<f64>().ok()?;
        let resident_pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
        let virtual_bytes = field(23)?;
        let virtual_pages: u64 = statm.split_ascii_whitespace().next()?.parse().ok()?;
        let page = virtual_bytes.checked_div(virtual_pages).unwrap_or(4096);
        let max_fds = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
        Some(Self {
            resident_bytes: resident_pages * page,
            virtual_bytes,
            cpu_seconds: (field(14)? + field(15)?) as f64 / TICKS,
            start_seconds: boot + field(22)? as f64 / TICKS,
            open_fds,
            max_fds: max_fds.and_then(|rest| rest.split_ascii_whitespace().next()?.parse().ok()),
            threads: field(20)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_is_skipped() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 3 0 1000 8192 1 0";
        let usage = Usage::parse(stat, "2 1 0", "cpu 1\nbtime 100\n", "Max open files 64 128 files\n", 5).unwrap();
        let expected = Usage {
            resident_bytes: 4096,
            virtual_bytes: 8192,
            cpu_seconds: 2.0,
            start_seconds: 110.0,
            open_fds: 5,
            max_fds: Some(64),
            threads: 3,
        };
        assert_eq!(usage, expected);
        assert_eq!(Usage::parse("garbage", "", "", "", 0), None);
    }
}

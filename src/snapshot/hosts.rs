//! What is kept by host: exact names, wildcards (`*.example.com`: any name below), and what is for every host.

use std::collections::HashMap;

#[derive(Debug, Clone, Default)]
pub struct Hosts<T> {
    exact: HashMap<Box<str>, T>,
    /// By the part after `*`, with its dot.
    wildcards: HashMap<Box<str>, T>,
    any: T,
}

impl<T: Default> Hosts<T> {
    /// What is kept for a host as it is written; none is every host.
    pub fn at(&mut self, host: Option<&str>) -> &mut T {
        let Some(host) = host.map(bare) else { return &mut self.any };
        match host.strip_prefix('*') {
            Some(suffix) => self.wildcards.entry(suffix.into()).or_default(),
            None => self.exact.entry(host.into()).or_default(),
        }
    }
}

impl<T> Hosts<T> {
    /// Whether a host makes a difference.
    pub fn has_names(&self) -> bool {
        !self.exact.is_empty() || !self.wildcards.is_empty()
    }

    /// What is kept for a host, the most telling first. `host` is in lower case; empty is none.
    pub fn of<'t, 'h>(&'t self, host: &'h str) -> impl Iterator<Item = &'t T> + use<'t, 'h, T> {
        let wildcards = host.match_indices('.').filter_map(|(dot, _)| {
            if self.wildcards.is_empty() || dot == 0 {
                return None;
            }
            self.wildcards.get(host.get(dot..)?)
        });
        self.exact.get(host).into_iter().chain(wildcards).chain(std::iter::once(&self.any))
    }

    pub fn map<U>(self, one: impl Fn(T) -> U) -> Hosts<U> {
        let all = |by: HashMap<Box<str>, T>| by.into_iter().map(|(host, kept)| (host, one(kept))).collect();
        Hosts { exact: all(self.exact), wildcards: all(self.wildcards), any: one(self.any) }
    }
}

/// A written host as that of a request is known: in lower case, an address of IPv6 without its brackets.
pub fn bare(host: &str) -> String {
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    inner.unwrap_or(host).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_telling_comes_first() {
        let mut hosts: Hosts<Option<usize>> = Hosts::default();
        assert!(!hosts.has_names());
        for (number, host) in ["*.example.com", "*.eu.example.com", "Shop.eu.example.com", "[::1]"].iter().enumerate() {
            *hosts.at(Some(host)) = Some(number);
        }
        let all = |host: &str| hosts.of(host).copied().collect::<Vec<_>>();
        assert_eq!(all("shop.eu.example.com"), [Some(2), Some(1), Some(0), None]);
        assert_eq!(all("a.b.eu.example.com"), [Some(1), Some(0), None]);
        assert_eq!(all("eu.example.com"), [Some(0), None]);
        assert_eq!(all("::1"), [Some(3), None]);
        for other in ["example.com", "", ".example.com", "a.example.com."] {
            assert_eq!(all(other), [None], "{other}");
        }
        assert!(hosts.has_names());
        *hosts.at(None) = Some(9);
        assert_eq!(hosts.map(|kept| kept.map(|number| number * 10)).of("").copied().collect::<Vec<_>>(), [Some(90)]);
    }
}

//! What entries of `authorization` have denied, or would have in shadow mode, by listener and entry. A denial is seldom
//! enough for a counter that the workers share; a worker looks it up once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::counter::Shared;
use super::metrics::GRACE;

#[derive(Debug, Default)]
pub struct Denials {
    pub enforced: Shared,
    pub shadow: Shared,
}

/// Names of a listener and an entry.
pub type Series = (Arc<str>, Arc<str>);

/// Of the whole process.
#[derive(Debug, Default)]
pub struct Registry(Mutex<BTreeMap<Series, Kept>>);

#[derive(Debug, Default)]
struct Kept {
    denials: Arc<Denials>,
    retired: Option<Instant>,
}

impl Registry {
    /// Always the same for the same names.
    pub fn get(&self, listener: &Arc<str>, entry: &Arc<str>) -> Arc<Denials> {
        let mut all = self.lock();
        let kept = all.entry((listener.clone(), entry.clone())).or_default();
        kept.retired = None;
        kept.denials.clone()
    }

    /// In the order of their names.
    pub fn all(&self) -> Vec<(Series, Arc<Denials>)> {
        let now = Instant::now();
        let over = |retired: Instant| now.saturating_duration_since(retired) >= GRACE;
        let mut all = self.lock();
        all.retain(|_, kept| !kept.retired.is_some_and(over));
        all.iter().map(|(series, kept)| (series.clone(), kept.denials.clone())).collect()
    }

    /// After a reload: what is not kept goes after a time of grace, unless a later reload brings it back.
    pub fn retire(&self, keep: &dyn Fn(&Series) -> bool) {
        let now = Instant::now();
        for (series, kept) in &mut *self.lock() {
            kept.retired = if keep(series) { None } else { kept.retired.or(Some(now)) };
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Series, Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_counter_for_a_name_and_a_listener() {
        let registry = Registry::default();
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        registry.get(&a, &b).enforced.inc();
        registry.get(&a, &b).enforced.inc();
        registry.get(&a, &a).shadow.inc();
        registry.retire(&|(_, entry)| **entry == *"b");
        let seen: Vec<_> = registry
            .all()
            .into_iter()
            .map(|((listener, entry), denials)| {
                format!("{listener}/{entry} {} {}", denials.enforced.get(), denials.shadow.get())
            })
            .collect();
        assert_eq!(seen, ["a/a 0 1", "a/b 2 0"], "what is retired is still shown");
        assert!(registry.lock().values().filter(|kept| kept.retired.is_some()).count() == 1);
        registry.get(&a, &a);
        assert!(registry.lock().values().all(|kept| kept.retired.is_none()), "it is back");
    }
}

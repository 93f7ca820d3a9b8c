//! Counters that the workers share, by labels that a configuration knows: each is looked up once, and shown for some
//! time after its labels are gone, so that the last scrape does not miss its end.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::metrics::GRACE;

#[derive(Debug)]
pub struct Registry<K, V>(Mutex<BTreeMap<K, Kept<V>>>);

#[derive(Debug)]
struct Kept<V> {
    counters: Arc<V>,
    retired: Option<Instant>,
}

impl<K: Ord + Clone, V: Default> Registry<K, V> {
    /// Always the same for the same labels.
    pub fn get(&self, labels: &K) -> Arc<V> {
        let mut all = self.lock();
        if let Some(kept) = all.get_mut(labels) {
            kept.retired = None;
            return kept.counters.clone();
        }
        let kept = Kept { counters: Arc::default(), retired: None };
        all.entry(labels.clone()).or_insert(kept).counters.clone()
    }

    /// In the order of their labels.
    pub fn all(&self) -> Vec<(K, Arc<V>)> {
        let now = Instant::now();
        let over = |retired: Instant| now.saturating_duration_since(retired) >= GRACE;
        let mut all = self.lock();
        all.retain(|_, kept| !kept.retired.is_some_and(over));
        all.iter().map(|(labels, kept)| (labels.clone(), kept.counters.clone())).collect()
    }

    /// After a reload: what is not kept goes after a time of grace, unless a later reload brings it back.
    pub fn retire(&self, keep: &dyn Fn(&K) -> bool) {
        let now = Instant::now();
        for (labels, kept) in &mut *self.lock() {
            kept.retired = if keep(labels) { None } else { kept.retired.or(Some(now)) };
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<K, Kept<V>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K, V> Default for Registry<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::counter::Shared;

    #[test]
    fn one_counter_for_the_same_labels() {
        let registry: Registry<&str, Shared> = Registry::default();
        registry.get(&"b").inc();
        registry.get(&"b").inc();
        registry.get(&"a").inc();
        registry.retire(&|labels| *labels == "b");
        let seen: Vec<_> = registry.all().into_iter().map(|(labels, counter)| (labels, counter.get())).collect();
        assert_eq!(seen, [("a", 1), ("b", 2)], "what is retired is still shown");
        assert_eq!(registry.lock().values().filter(|kept| kept.retired.is_some()).count(), 1);
        registry.get(&"a");
        assert!(registry.lock().values().all(|kept| kept.retired.is_none()), "it is back");
    }
}

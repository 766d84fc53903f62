//! A map that holds so many entries and no more: the one that was told of longest ago goes first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// Entries, each with the moment at which it was told of last.
#[derive(Debug)]
pub(super) struct Recent<K, V> {
    most: usize,
    entries: BTreeMap<K, (Instant, V)>,
    order: BTreeSet<(Instant, K)>,
}

impl<K: Copy + Ord, V> Recent<K, V> {
    pub fn new(most: usize) -> Self {
        Self {
            most,
            entries: BTreeMap::new(),
            order: BTreeSet::new(),
        }
    }

    pub fn get(&self, key: &K) -> Option<(Instant, &V)> {
        self.entries.get(key).map(|(at, value)| (*at, value))
    }

    /// Puts an entry in the place of the one that is there.
    pub fn put(&mut self, key: K, value: V, now: Instant) {
        self.remove(&key);
        if self.len() >= self.most
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.entries.remove(&oldest);
        }
        self.order.insert((now, key));
        self.entries.insert(key, (now, value));
    }

    pub fn remove(&mut self, key: &K) -> Option<V> {
        let (at, value) = self.entries.remove(key)?;
        self.order.remove(&(at, *key));
        Some(value)
    }

    /// Removes those that are not to be kept.
    pub fn retain(&mut self, keep: impl Fn(&V) -> bool) {
        self.entries.retain(|_, (_, value)| keep(value));
        let entries = &self.entries;
        self.order.retain(|(_, key)| entries.contains_key(key));
    }

    pub fn clear(&mut self) {
        self.entries.clear();
        self.order.clear();
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_holds_what_was_told_last_and_no_more_than_it_may(
            told in prop::collection::vec((0_u8..12, any::<bool>()), 0..200),
        ) {
            let (start, mut recent) = (Instant::now(), Recent::new(5));
            // Keys in the order in which they were told of, the last one at the end.
            let mut model: Vec<(u8, usize)> = Vec::new();
            for (tick, (key, put)) in told.into_iter().enumerate() {
                model.retain(|(k, _)| *k != key);
                if put {
                    recent.put(key, tick, start + Duration::from_millis(tick as u64));
                    model.push((key, tick));
                    if model.len() > 5 {
                        model.remove(0);
                    }
                } else {
                    recent.remove(&key);
                }
                prop_assert_eq!(recent.len(), model.len());
                prop_assert_eq!(recent.order.len(), model.len());
                for (key, tick) in &model {
                    prop_assert_eq!(recent.get(key).map(|(_, value)| *value), Some(*tick));
                }
            }
        }
    }
}

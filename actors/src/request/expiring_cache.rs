//! A small cache with a time-to-live and a weight limit.

use std::time::Duration;

use tokio::time::Instant;

/// Values with a key, a weight and an expiry time. The oldest values are evicted to make room for new
/// ones.
#[derive(Debug)]
pub struct ExpiringCache<K, T> {
    /// In order of insertion, which is the order of expiry.
    entries: Vec<Entry<K, T>>,
    keep: Duration,
    max_weight: usize,
}

#[derive(Debug)]
struct Entry<K, T> {
    key: K,
    value: T,
    weight: usize,
    until: Instant,
}

impl<K: PartialEq, T> ExpiringCache<K, T> {
    /// An empty cache that keeps each value for `keep`, up to `max_weight` in all.
    pub fn new(keep: Duration, max_weight: usize) -> Self {
        Self {
            entries: Vec::new(),
            keep,
            max_weight,
        }
    }

    /// How long values are kept; zero: the cache stays empty.
    pub fn keep(&self) -> Duration {
        self.keep
    }

    /// Inserts a value, replacing the one with the same key. A value heavier than the limit is dropped.
    pub fn put(&mut self, key: K, value: T, weight: usize, now: Instant) {
        self.sweep(now);
        self.entries.retain(|entry| entry.key != key);
        if self.keep.is_zero() || weight > self.max_weight {
            return;
        }
        while self.weight() + weight > self.max_weight {
            self.entries.remove(0);
        }
        let until = now + self.keep;
        self.entries.push(Entry {
            key,
            value,
            weight,
            until,
        });
    }

    fn weight(&self) -> usize {
        self.entries.iter().map(|entry| entry.weight).sum()
    }

    /// The value with this key, if it has not expired.
    pub fn get(&mut self, key: &K, now: Instant) -> Option<&T> {
        self.sweep(now);
        let found = self.entries.iter().find(|entry| entry.key == *key);
        found.map(|entry| &entry.value)
    }

    /// Removes and returns the value with this key, if it has not expired.
    pub fn take(&mut self, key: &K, now: Instant) -> Option<T> {
        self.sweep(now);
        let index = self.entries.iter().position(|entry| entry.key == *key)?;
        Some(self.entries.remove(index).value)
    }

    /// Drops expired values.
    pub fn sweep(&mut self, now: Instant) {
        self.entries.retain(|entry| now < entry.until);
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Duration = Duration::from_secs(60);

    #[test]
    fn a_value_is_there_until_it_expires() {
        let now = Instant::now();
        let mut cache = ExpiringCache::new(KEEP, 10);
        cache.put("a", 1, 1, now);
        assert_eq!(cache.get(&"a", now), Some(&1));
        assert_eq!(cache.get(&"b", now), None);
        assert_eq!(cache.get(&"a", now + KEEP), None);
        cache.put("a", 2, 1, now);
        assert_eq!(cache.take(&"a", now), Some(2));
        assert!(cache.is_empty());
    }

    #[test]
    fn the_oldest_values_are_evicted_and_a_key_has_one_value() {
        let now = Instant::now();
        let mut cache = ExpiringCache::new(KEEP, 5);
        for (key, value, weight) in [("a", 1, 2), ("b", 2, 3), ("b", 3, 2), ("c", 4, 3)] {
            cache.put(key, value, weight, now);
        }
        assert_eq!(cache.get(&"a", now), None);
        assert_eq!(cache.get(&"b", now), Some(&3));
        assert_eq!(cache.get(&"c", now), Some(&4));
        cache.put("d", 5, 6, now);
        assert_eq!(cache.len(), 2, "heavier than the limit");
    }

    #[test]
    fn with_a_time_to_live_of_zero_the_cache_stays_empty() {
        let now = Instant::now();
        let mut cache = ExpiringCache::new(Duration::ZERO, 2);
        cache.put("a", 1, 1, now);
        assert!(cache.is_empty());
    }
}

//! Things that are kept for a while, in case that somebody comes back for them: a plain structure.

use std::time::Duration;

use tokio::time::Instant;

/// A few things, each with a key, a weight and a time at which it goes. The oldest make room for the
/// newest.
#[derive(Debug)]
pub struct ExpiringCache<K, T> {
    /// In the order in which they came, which is that in which they go.
    entries: Vec<Entry<K, T>>,
    keep: Duration,
    most_weight: usize,
}

#[derive(Debug)]
struct Entry<K, T> {
    key: K,
    thing: T,
    weight: usize,
    until: Instant,
}

impl<K: PartialEq, T> ExpiringCache<K, T> {
    /// A shelf that bears so much, and keeps each thing for `keep`.
    pub fn new(keep: Duration, most_weight: usize) -> Self {
        Self {
            entries: Vec::new(),
            keep,
            most_weight,
        }
    }

    /// How long things are kept; zero: nothing is.
    pub fn keep(&self) -> Duration {
        self.keep
    }

    /// Puts something there, in place of what had the same key. What is too heavy for the whole shelf is
    /// let go.
    pub fn put(&mut self, key: K, thing: T, weight: usize, now: Instant) {
        self.sweep(now);
        self.entries.retain(|entry| entry.key != key);
        if self.keep.is_zero() || weight > self.most_weight {
            return;
        }
        while self.weight() + weight > self.most_weight {
            self.entries.remove(0);
        }
        let until = now + self.keep;
        self.entries.push(Entry {
            key,
            thing,
            weight,
            until,
        });
    }

    fn weight(&self) -> usize {
        self.entries.iter().map(|entry| entry.weight).sum()
    }

    /// What is there, for now.
    pub fn get(&mut self, key: &K, now: Instant) -> Option<&T> {
        self.sweep(now);
        let found = self.entries.iter().find(|entry| entry.key == *key);
        found.map(|entry| &entry.thing)
    }

    /// Takes it away.
    pub fn take(&mut self, key: &K, now: Instant) -> Option<T> {
        self.sweep(now);
        let place = self.entries.iter().position(|entry| entry.key == *key)?;
        Some(self.entries.remove(place).thing)
    }

    /// Lets go of what was kept long enough.
    pub fn sweep(&mut self, now: Instant) {
        self.entries.retain(|entry| now < entry.until);
    }

    /// How many are there.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is there.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Duration = Duration::from_secs(60);

    #[test]
    fn what_is_put_there_can_be_had_until_its_time_is_over() {
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
    fn the_oldest_make_room_and_one_key_has_one_place() {
        let now = Instant::now();
        let mut cache = ExpiringCache::new(KEEP, 5);
        for (key, thing, weight) in [("a", 1, 2), ("b", 2, 3), ("b", 3, 2), ("c", 4, 3)] {
            cache.put(key, thing, weight, now);
        }
        assert_eq!(cache.get(&"a", now), None);
        assert_eq!(cache.get(&"b", now), Some(&3));
        assert_eq!(cache.get(&"c", now), Some(&4));
        cache.put("d", 5, 6, now);
        assert_eq!(cache.len(), 2, "too heavy for all of it");
    }

    #[test]
    fn with_no_time_to_keep_anything_it_stays_empty() {
        let now = Instant::now();
        let mut cache = ExpiringCache::new(Duration::ZERO, 2);
        cache.put("a", 1, 1, now);
        assert!(cache.is_empty());
    }
}

//! Things that are kept for a while, in case that somebody comes back for them: a plain structure.

use std::time::Duration;

use tokio::time::Instant;

/// A few things, each with a key and a time at which it goes. The oldest makes room for the newest.
#[derive(Debug)]
pub struct Shelf<K, T> {
    /// In the order in which they came, which is that in which they go.
    entries: Vec<(K, T, Instant)>,
    keep: Duration,
    most: usize,
}

impl<K: PartialEq, T> Shelf<K, T> {
    /// A shelf for `most` things, each of which is kept for `keep`.
    pub fn new(keep: Duration, most: usize) -> Self {
        Self {
            entries: Vec::new(),
            keep,
            most,
        }
    }

    /// How long things are kept; zero: nothing is.
    pub fn keep(&self) -> Duration {
        self.keep
    }

    /// Puts something there, in place of what had the same key.
    pub fn put(&mut self, key: K, thing: T, now: Instant) {
        self.sweep(now);
        self.entries.retain(|(other, ..)| *other != key);
        if self.keep.is_zero() || self.most == 0 {
            return;
        }
        if self.entries.len() >= self.most {
            self.entries.remove(0);
        }
        self.entries.push((key, thing, now + self.keep));
    }

    /// What is there, for now.
    pub fn get(&mut self, key: &K, now: Instant) -> Option<&T> {
        self.sweep(now);
        let found = self.entries.iter().find(|(other, ..)| other == key);
        found.map(|(_, thing, _)| thing)
    }

    /// Takes it away.
    pub fn take(&mut self, key: &K, now: Instant) -> Option<T> {
        self.sweep(now);
        let place = self.entries.iter().position(|(other, ..)| other == key)?;
        Some(self.entries.remove(place).1)
    }

    /// Lets go of what was kept long enough.
    pub fn sweep(&mut self, now: Instant) {
        self.entries.retain(|(.., until)| now < *until);
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
        let mut shelf = Shelf::new(KEEP, 10);
        shelf.put("a", 1, now);
        assert_eq!(shelf.get(&"a", now), Some(&1));
        assert_eq!(shelf.get(&"b", now), None);
        assert_eq!(shelf.get(&"a", now + KEEP), None);
        shelf.put("a", 2, now);
        assert_eq!(shelf.take(&"a", now), Some(2));
        assert!(shelf.is_empty());
    }

    #[test]
    fn the_oldest_makes_room_and_one_key_has_one_place() {
        let now = Instant::now();
        let mut shelf = Shelf::new(KEEP, 2);
        for (key, thing) in [("a", 1), ("b", 2), ("b", 3), ("c", 4)] {
            shelf.put(key, thing, now);
        }
        assert_eq!(shelf.len(), 2);
        assert_eq!(shelf.get(&"a", now), None);
        assert_eq!(shelf.get(&"b", now), Some(&3));
    }

    #[test]
    fn with_no_time_to_keep_anything_it_stays_empty() {
        let now = Instant::now();
        let mut shelf = Shelf::new(Duration::ZERO, 2);
        shelf.put("a", 1, now);
        assert!(shelf.is_empty());
    }
}

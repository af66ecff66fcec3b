//! What the pool remembers of a worker for which there was no memory.

use std::time::Duration;

use tokio::time::Instant;

/// How long the first lesson holds. Whatever else uses the memory does so for minutes.
const FIRST_HOLD: Duration = Duration::from_secs(5 * 60);
/// A lesson that had to be learned again holds twice as long, up to this.
const LONGEST_HOLD: Duration = Duration::from_secs(60 * 60);

/// The number of workers beyond which memory was short.
#[derive(Debug)]
pub struct MemoryCap {
    lesson: Option<(usize, Instant)>,
    hold: Duration,
}

impl Default for MemoryCap {
    fn default() -> Self {
        Self {
            lesson: None,
            hold: FIRST_HOLD,
        }
    }
}

impl MemoryCap {
    /// There was no room for one more beside `active` workers. Returns how long this will be
    /// believed.
    pub fn learn(&mut self, active: usize, now: Instant) -> Duration {
        let hold = self.hold;
        self.lesson = Some((active, now + hold));
        self.hold = (hold * 2).min(LONGEST_HOLD);
        hold
    }

    /// One more than was thought possible came up beside `active` others: the lesson is void.
    pub fn disprove(&mut self, active: usize) {
        if self.lesson.is_none_or(|(cap, _)| active >= cap) {
            *self = Self::default();
        }
    }

    /// The most workers, as far as is known now.
    pub fn cap(&self, now: Instant) -> Option<usize> {
        self.lesson
            .filter(|(_, until)| now < *until)
            .map(|(cap, _)| cap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_lesson_holds_for_a_while_longer_each_time_and_until_it_is_disproved() {
        let mut learned = MemoryCap::default();
        assert_eq!(learned.cap(Instant::now()), None);
        let first = learned.learn(2, Instant::now());
        assert_eq!(learned.cap(Instant::now()), Some(2));
        tokio::time::advance(first).await;
        assert_eq!(learned.cap(Instant::now()), None);
        assert_eq!(learned.learn(2, Instant::now()), first * 2);
        // A worker below the cap says nothing about it.
        learned.disprove(1);
        assert_eq!(learned.cap(Instant::now()), Some(2));
        learned.disprove(2);
        assert_eq!(learned.cap(Instant::now()), None);
        assert_eq!(learned.learn(2, Instant::now()), first);
        for _ in 0..20 {
            assert!(learned.learn(2, Instant::now()) <= LONGEST_HOLD);
        }
    }
}

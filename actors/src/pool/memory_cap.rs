//! Temporary pool limit after a worker ran out of memory.

use std::time::Duration;

use tokio::time::Instant;

/// How long the first limit holds. Other programs use the memory for minutes.
const FIRST_HOLD: Duration = Duration::from_secs(5 * 60);
/// Each further limit holds twice as long, up to this.
const LONGEST_HOLD: Duration = Duration::from_secs(60 * 60);

/// A temporary limit on the number of workers.
#[derive(Debug)]
pub struct MemoryCap {
    limit: Option<(usize, Instant)>,
    hold: Duration,
}

impl Default for MemoryCap {
    fn default() -> Self {
        Self {
            limit: None,
            hold: FIRST_HOLD,
        }
    }
}

impl MemoryCap {
    /// Sets the limit after a worker ran out of memory beside `active` others. Returns how long it holds.
    pub fn lower_to(&mut self, active: usize, now: Instant) -> Duration {
        let hold = self.hold;
        self.limit = Some((active, now + hold));
        self.hold = (hold * 2).min(LONGEST_HOLD);
        hold
    }

    /// A worker became ready beside `active` others: lifts a limit that is not larger.
    pub fn worker_fits_beside(&mut self, active: usize) {
        if self.limit.is_none_or(|(cap, _)| active >= cap) {
            *self = Self::default();
        }
    }

    /// The limit, while it holds.
    pub fn cap(&self, now: Instant) -> Option<usize> {
        self.limit
            .filter(|(_, until)| now < *until)
            .map(|(cap, _)| cap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_limit_holds_longer_each_time_and_until_one_more_worker_fits() {
        let mut learned = MemoryCap::default();
        assert_eq!(learned.cap(Instant::now()), None);
        let first = learned.lower_to(2, Instant::now());
        assert_eq!(learned.cap(Instant::now()), Some(2));
        tokio::time::advance(first).await;
        assert_eq!(learned.cap(Instant::now()), None);
        assert_eq!(learned.lower_to(2, Instant::now()), first * 2);
        // A worker below the limit says nothing about it.
        learned.worker_fits_beside(1);
        assert_eq!(learned.cap(Instant::now()), Some(2));
        learned.worker_fits_beside(2);
        assert_eq!(learned.cap(Instant::now()), None);
        assert_eq!(learned.lower_to(2, Instant::now()), first);
        for _ in 0..20 {
            assert!(learned.lower_to(2, Instant::now()) <= LONGEST_HOLD);
        }
    }
}

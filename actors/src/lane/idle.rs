//! When an idle worker ends. Pure logic on a clock that tests can pause.

use std::time::Duration;

use tokio::time::Instant;

/// How long cold workers may be idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdlePolicy {
    /// Shortest limit (`COLD_WORKER_IDLE_TIMEOUT`).
    pub timeout: Duration,
    /// Added for each free slot of the pool when the worker starts (`COLD_WORKER_IDLE_STAGGER`).
    pub stagger: Duration,
}

impl IdlePolicy {
    /// The idle limit of a worker that starts beside `active_at_spawn` others, in a pool that can have `slots`
    /// workers at that time. The first worker has the longest limit, so that a pool that grew in a burst shrinks one
    /// worker at a time, newest first.
    pub fn limit(&self, slots: usize, active_at_spawn: usize) -> Duration {
        let free = slots.saturating_sub(active_at_spawn);
        let slots = u32::try_from(free).unwrap_or(u32::MAX);
        self.timeout
            .saturating_add(self.stagger.saturating_mul(slots))
    }
}

/// Measures how long one worker has been idle.
#[derive(Clone, Copy, Debug)]
pub struct IdleTimer {
    limit: Duration,
    idle_since: Option<Instant>,
}

impl IdleTimer {
    /// A timer for a worker that may be idle for `limit`. The worker counts as busy until [`Self::idle`].
    pub fn new(limit: Duration) -> Self {
        Self {
            limit,
            idle_since: None,
        }
    }

    /// Records that the worker is idle from now on. Returns the time until it is due.
    pub fn idle(&mut self, now: Instant) -> Duration {
        self.idle_since = Some(now);
        self.limit
    }

    /// Records that the worker has work.
    pub fn busy(&mut self) {
        self.idle_since = None;
    }

    /// Compares the idle time with the limit. An alarm that was set in an earlier idle time is too early: then
    /// the verdict says how much time is left.
    pub fn check(&self, now: Instant) -> Verdict {
        let Some(since) = self.idle_since else {
            return Verdict::Busy;
        };
        match self.limit.checked_sub(now.saturating_duration_since(since)) {
            None | Some(Duration::ZERO) => Verdict::Due,
            Some(left) => Verdict::IdleFor(left),
        }
    }
}

/// The result of [`IdleTimer::check`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The worker has work.
    Busy,
    /// The worker is idle and may stay so for this long.
    IdleFor(Duration),
    /// The worker has reached its limit.
    Due,
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn of_ten_slots_the_first_worker_idles_160_s_and_the_last_70() {
        let policy = IdlePolicy {
            timeout: 60 * SECOND,
            stagger: 10 * SECOND,
        };
        assert_eq!(policy.limit(10, 0), 160 * SECOND);
        assert_eq!(policy.limit(10, 9), 70 * SECOND);
        assert_eq!(policy.limit(10, 12), 60 * SECOND);
        // The only worker that a pool can have idles as long as the last of ten.
        assert_eq!(policy.limit(1, 0), 70 * SECOND);
        let limits: Vec<_> = (0..10).map(|active| policy.limit(10, active)).collect();
        assert!(limits.windows(2).all(|w| w[0] > w[1]), "one by one");
    }

    #[tokio::test(start_paused = true)]
    async fn work_in_between_starts_the_clock_anew() {
        let mut idle_timer = IdleTimer::new(10 * SECOND);
        assert_eq!(idle_timer.check(Instant::now()), Verdict::Busy);
        idle_timer.idle(Instant::now());
        tokio::time::advance(9 * SECOND).await;
        assert_eq!(idle_timer.check(Instant::now()), Verdict::IdleFor(SECOND));
        idle_timer.busy();
        tokio::time::advance(9 * SECOND).await;
        assert_eq!(idle_timer.check(Instant::now()), Verdict::Busy);
        idle_timer.idle(Instant::now());
        // The timer of the first idle time comes now.
        tokio::time::advance(SECOND).await;
        assert_eq!(
            idle_timer.check(Instant::now()),
            Verdict::IdleFor(9 * SECOND)
        );
        tokio::time::advance(9 * SECOND).await;
        assert_eq!(idle_timer.check(Instant::now()), Verdict::Due);
    }
}

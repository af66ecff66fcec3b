//! How soon an engine that keeps failing is restarted, and from when on work does not wait for it any more.

use std::time::Duration;

/// Consecutive failures, with no finished chunk in between, after which work does not wait any more.
const FAILURES_BEFORE_GIVING_UP: u32 = 5;
/// Pause after the second consecutive failure; it doubles with each further one.
const FIRST_BACKOFF: Duration = Duration::from_millis(250);
/// Longest pause. An engine is retried this often for as long as it fails, so that a node recovers by itself
/// when the cause is gone.
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

/// Counts consecutive failures.
#[derive(Debug, Default)]
pub struct RestartBudget {
    consecutive_failures: u32,
}

/// What to do after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restart {
    /// Pause before the next start.
    pub after: Duration,
    /// Whether the budget is spent: work should be discarded instead of waiting for the engine.
    pub budget_spent: bool,
}

impl RestartBudget {
    /// Records a failure. `progressed`: a chunk was finished since the last failure, which resets the count.
    pub fn record_failure(&mut self, progressed: bool) -> Restart {
        if progressed {
            self.consecutive_failures = 0;
        }
        self.consecutive_failures = self.consecutive_failures.saturating_add(1);
        Restart {
            after: backoff(self.consecutive_failures),
            budget_spent: self.consecutive_failures >= FAILURES_BEFORE_GIVING_UP,
        }
    }
}

/// The pause after this many consecutive failures. There is none after the first: a single crash costs one
/// reload.
fn backoff(consecutive_failures: u32) -> Duration {
    match consecutive_failures {
        0 | 1 => Duration::ZERO,
        n => FIRST_BACKOFF
            .saturating_mul(2_u32.saturating_pow(n - 2))
            .min(LONGEST_BACKOFF),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_failure_is_followed_by_an_immediate_restart() {
        let restart = RestartBudget::default().record_failure(false);
        assert_eq!(restart.after, Duration::ZERO);
        assert!(!restart.budget_spent);
    }

    #[test]
    fn consecutive_failures_wait_longer_and_spend_the_budget() {
        let mut budget = RestartBudget::default();
        let restarts: Vec<_> = (0..40).map(|_| budget.record_failure(false)).collect();
        assert!(restarts.windows(2).all(|w| w[0].after <= w[1].after));
        assert!(!restarts[3].budget_spent);
        assert!(restarts[4].budget_spent);
        assert_eq!(restarts[39].after, LONGEST_BACKOFF);
    }

    #[test]
    fn a_finished_chunk_restores_the_whole_budget() {
        let mut budget = RestartBudget::default();
        for _ in 0..10 {
            budget.record_failure(false);
        }
        let restart = budget.record_failure(true);
        assert_eq!(restart.after, Duration::ZERO);
        assert!(!restart.budget_spent);
    }
}

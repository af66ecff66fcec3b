//! When an engine that keeps ending is brought back, and when to stop promising that it will be.

use std::time::Duration;

/// Failures in a row, with no finished chunk in between, after which work no longer waits.
const FAILURES_BEFORE_GIVING_UP: u32 = 5;
/// The second failure in a row waits this long; each further one twice as long.
const FIRST_BACKOFF: Duration = Duration::from_millis(250);
/// The longest wait: also how often a hopeless engine is tried again, so that a node recovers by
/// itself when the cause is gone.
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

/// Counts failures in a row.
#[derive(Debug, Default)]
pub struct RestartBudget {
    failures_in_a_row: u32,
}

/// What to do after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restart {
    /// How long to wait before the next try.
    pub after: Duration,
    /// Whether the budget is spent: work should be refused meanwhile rather than wait.
    pub budget_spent: bool,
}

impl RestartBudget {
    /// Records a failure. `progressed`: a chunk was finished since the last one, so the engine is
    /// not hopeless and the count starts anew.
    pub fn record_failure(&mut self, progressed: bool) -> Restart {
        if progressed {
            self.failures_in_a_row = 0;
        }
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        Restart {
            after: backoff(self.failures_in_a_row),
            budget_spent: self.failures_in_a_row >= FAILURES_BEFORE_GIVING_UP,
        }
    }
}

/// No wait after the first failure: a single death costs one reload and nothing more.
fn backoff(failures_in_a_row: u32) -> Duration {
    match failures_in_a_row {
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
    fn a_single_death_is_mended_at_once() {
        let restart = RestartBudget::default().record_failure(false);
        assert_eq!(restart.after, Duration::ZERO);
        assert!(!restart.budget_spent);
    }

    #[test]
    fn failures_in_a_row_wait_longer_and_spend_the_budget() {
        let mut budget = RestartBudget::default();
        let restarts: Vec<_> = (0..40).map(|_| budget.record_failure(false)).collect();
        assert!(restarts.windows(2).all(|w| w[0].after <= w[1].after));
        assert!(!restarts[3].budget_spent);
        assert!(restarts[4].budget_spent);
        assert_eq!(restarts[39].after, LONGEST_BACKOFF);
    }

    #[test]
    fn a_finished_chunk_gives_the_whole_budget_back() {
        let mut budget = RestartBudget::default();
        for _ in 0..10 {
            budget.record_failure(false);
        }
        let restart = budget.record_failure(true);
        assert_eq!(restart.after, Duration::ZERO);
        assert!(!restart.budget_spent);
    }
}

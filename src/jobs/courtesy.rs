//! Where nodes share their jobs, a node that is busy leaves them to nodes that are idle, for some time.

use std::time::Duration;

use tokio::time::Instant;

/// How long a job is left to others.
const COURTESY: Duration = Duration::from_secs(10);
/// How long jobs that could not be taken are not counted: they may have rested by then.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// Since when a job waits that another node could take.
#[derive(Debug, Default)]
pub struct Courtesy {
    waits_since: Option<Instant>,
    /// How many queued jobs nobody may take now, and when that was found.
    resting: Option<(usize, Instant)>,
}

impl Courtesy {
    /// Whether a job has waited for others long enough. `waiting`: the number of queued jobs.
    pub fn is_over(&mut self, waiting: usize) -> bool {
        let now = Instant::now();
        self.resting = (self.resting)
            .filter(|(_, found)| now - *found < FORGOTTEN)
            .map(|(resting, found)| (resting.min(waiting), found));
        let resting = self.resting.map_or(0, |(resting, _)| resting);
        if waiting <= resting {
            self.waits_since = None;
            return false;
        }
        now - *self.waits_since.get_or_insert(now) >= COURTESY
    }

    /// This node took a job.
    pub fn took(&mut self) {
        self.waits_since = None;
    }

    /// No job can be taken: those that wait rest.
    pub fn found_none(&mut self, waiting: usize) {
        self.waits_since = None;
        self.resting = Some((waiting, Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_job_is_left_to_others_for_ten_seconds_and_resting_ones_do_not_count() {
        let mut courtesy = Courtesy::default();
        assert!(!courtesy.is_over(0) && !courtesy.is_over(1));
        advance(SECOND * 9).await;
        assert!(!courtesy.is_over(1));
        advance(SECOND).await;
        assert!(courtesy.is_over(1));
        courtesy.took();
        assert!(!courtesy.is_over(1));
        // It cannot be taken.
        advance(SECOND * 10).await;
        assert!(courtesy.is_over(1));
        courtesy.found_none(1);
        advance(SECOND * 20).await;
        assert!(!courtesy.is_over(1));
        // Another one comes.
        assert!(!courtesy.is_over(2));
        advance(SECOND * 10).await;
        assert!(courtesy.is_over(2) && !courtesy.is_over(1));
        // After a minute, the first one is looked at again.
        advance(SECOND * 60).await;
        assert!(!courtesy.is_over(1));
        advance(SECOND * 10).await;
        assert!(courtesy.is_over(1));
    }
}

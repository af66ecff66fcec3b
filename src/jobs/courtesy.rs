//! Where nodes share their jobs, a node that is busy leaves them to nodes that are idle, for some time.

use std::time::Duration;

use tokio::time::Instant;

/// How long a job is left to others.
const COURTESY: Duration = Duration::from_secs(10);

/// Since when a job waits that another node could take.
#[derive(Debug, Default)]
pub struct Courtesy {
    waits_since: Option<Instant>,
    /// How many queued jobs could not be taken by anybody when this node asked last.
    resting: usize,
}

impl Courtesy {
    /// Whether no job has to be left to others any longer. `waiting`: the number of queued jobs. Without any that could be
    /// taken, this node asks at once, because there may be jobs of a node that died.
    pub fn is_over(&mut self, waiting: usize) -> bool {
        self.resting = self.resting.min(waiting);
        if waiting == self.resting {
            self.waits_since = None;
            return true;
        }
        let now = Instant::now();
        now - *self.waits_since.get_or_insert(now) >= COURTESY
    }

    /// This node took a job.
    pub fn took(&mut self) {
        self.waits_since = None;
    }

    /// No job can be taken: those that wait rest.
    pub fn found_none(&mut self, waiting: usize) {
        self.waits_since = None;
        self.resting = waiting;
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
        assert!(courtesy.is_over(0), "a node may have died");
        assert!(!courtesy.is_over(1));
        advance(SECOND * 9).await;
        assert!(!courtesy.is_over(1));
        advance(SECOND).await;
        assert!(courtesy.is_over(1));
        courtesy.took();
        assert!(!courtesy.is_over(1));
        advance(SECOND * 10).await;
        assert!(courtesy.is_over(1));
        // It cannot be taken, and is no reason to wait.
        courtesy.found_none(1);
        assert!(courtesy.is_over(1));
        // Another one comes.
        assert!(!courtesy.is_over(2));
        advance(SECOND * 10).await;
        assert!(courtesy.is_over(2));
        courtesy.took();
        assert!(courtesy.is_over(1) && courtesy.is_over(0));
        assert!(!courtesy.is_over(1), "none rests any more");
    }
}

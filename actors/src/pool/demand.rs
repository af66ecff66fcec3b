//! The demand policy of a cold pool: how many workers the work is worth, and what the pool does while it
//! has none. It depends on whether a hot lane works on the same queue.

use std::time::Duration;

use crate::pool::PoolConfig;
use crate::pool::sizing::{Demand, PoolLimits};
use crate::status::snapshot::{HotState, Snapshot};

/// Without a hot lane, waiting work is discarded when the pause after a failed worker is longer than this.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// How a pool judges the demand for workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DemandPolicy {
    /// A hot lane works on the same queue: a worker starts only when that pays, and work can always wait
    /// for the hot lane.
    BesideHotLane,
    /// The pool's workers are the only lanes: every chunk wants one, and work that no worker can do soon is
    /// discarded.
    OnlyLanes,
}

/// What stands in the way of the next worker.
#[derive(Clone, Copy, Debug)]
pub(super) struct Obstacle<'a> {
    /// Why the last worker failed, unless one became ready since.
    pub(super) last_failure: Option<&'a str>,
    /// Whether that worker never became ready.
    pub(super) failed_at_launch: bool,
    /// Time until the next start is allowed.
    pub(super) pause: Duration,
    /// Whether too little memory is free for one more worker.
    pub(super) short_of_memory: bool,
}

impl DemandPolicy {
    /// The number of workers that the work in `snapshot` is worth. `memory_cap`: the limit learned from a
    /// worker that ran out of memory.
    pub(super) fn wanted(
        self,
        snapshot: &Snapshot,
        config: &PoolConfig,
        memory_cap: Option<usize>,
    ) -> usize {
        match self {
            Self::BesideHotLane => {
                let limits = PoolLimits {
                    size: config.size,
                    memory_cap,
                };
                let work = snapshot.remaining.plus(snapshot.background);
                limits.wanted(Demand {
                    work_seconds: snapshot.work_seconds(work),
                    chunks: work.chunks as usize,
                    start_seconds: snapshot.start_time().as_secs_f64(),
                })
            }
            Self::OnlyLanes => {
                let waiting = snapshot.queue_depth + snapshot.waiting.job;
                (waiting + snapshot.busy_lanes).min(config.size)
            }
        }
    }

    /// Whether a worker may start while the node's hot lane is in this state. A hot lane that is starting
    /// needs the memory, and is ready as soon as a cold worker would be.
    pub(super) fn may_start_beside(self, hot: &HotState) -> bool {
        match hot {
            HotState::Ready(_) => true,
            HotState::Starting | HotState::Restarting { .. } => false,
            HotState::Asleep(_) | HotState::Failed { .. } => self == Self::OnlyLanes,
        }
    }

    /// Whether the memory of a worker that ended must be seen as free before the next one starts.
    pub(super) fn awaits_freed_memory(self) -> bool {
        self == Self::OnlyLanes
    }

    /// The reason to discard waiting work while the pool has no worker; `None`: the work waits.
    pub(super) fn discards(self, obstacle: Obstacle<'_>) -> Option<String> {
        if self == Self::BesideHotLane {
            return None;
        }
        match obstacle.last_failure {
            Some(reason) if obstacle.failed_at_launch || obstacle.pause > LONGEST_WAIT => {
                Some(reason.to_owned())
            }
            _ if obstacle.short_of_memory => {
                Some("there is not enough memory for one more worker".to_owned())
            }
            Some(_) | None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lane::idle::IdlePolicy;
    use crate::status::NodeStatus;
    use crate::status::lanes::WaitingChunks;

    const CONFIG: PoolConfig = PoolConfig {
        size: 3,
        interval: Duration::from_secs(1),
        idle: IdlePolicy {
            timeout: Duration::from_secs(60),
            stagger: Duration::ZERO,
        },
    };
    const NO_OBSTACLE: Obstacle<'static> = Obstacle {
        last_failure: None,
        failed_at_launch: false,
        pause: Duration::ZERO,
        short_of_memory: false,
    };

    #[test]
    fn without_a_hot_lane_every_chunk_wants_a_worker_up_to_the_size() {
        let status = NodeStatus::default();
        for (waiting, busy, expected) in [(0, 0, 0), (1, 0, 1), (1, 1, 2), (9, 1, 3)] {
            status.set_queue(WaitingChunks::of_short(waiting), busy, 0);
            let snapshot = status.snapshot();
            assert_eq!(
                DemandPolicy::OnlyLanes.wanted(&snapshot, &CONFIG, None),
                expected
            );
            // Chunks in the queue alone are no reason beside a hot lane: it has the time for them.
            assert_eq!(
                DemandPolicy::BesideHotLane.wanted(&snapshot, &CONFIG, None),
                0
            );
        }
    }

    #[test]
    fn a_hot_lane_that_starts_goes_first_and_a_failed_one_only_holds_up_its_own_pool() {
        let failed = HotState::Failed {
            reason: String::new(),
        };
        for policy in [DemandPolicy::BesideHotLane, DemandPolicy::OnlyLanes] {
            assert!(!policy.may_start_beside(&HotState::Starting));
            let alone = policy == DemandPolicy::OnlyLanes;
            assert_eq!(policy.may_start_beside(&failed), alone);
        }
    }

    #[test]
    fn work_is_discarded_only_where_no_other_lane_can_do_it_and_no_worker_comes_soon() {
        let failed = Obstacle {
            last_failure: Some("broken"),
            ..NO_OBSTACLE
        };
        let at_launch = Obstacle {
            failed_at_launch: true,
            ..failed
        };
        let long_pause = Obstacle {
            pause: LONGEST_WAIT * 2,
            ..failed
        };
        let no_memory = Obstacle {
            short_of_memory: true,
            ..failed
        };
        let discards = |obstacle| DemandPolicy::OnlyLanes.discards(obstacle);
        assert_eq!(discards(NO_OBSTACLE), None);
        assert_eq!(discards(failed), None);
        assert_eq!(discards(at_launch).as_deref(), Some("broken"));
        assert_eq!(discards(long_pause).as_deref(), Some("broken"));
        assert!(discards(no_memory).is_some_and(|reason| reason.contains("memory")));
        for obstacle in [at_launch, long_pause, no_memory] {
            assert_eq!(DemandPolicy::BesideHotLane.discards(obstacle), None);
        }
    }
}

//! The tree's state at one moment, and what follows from it: estimates, load, and whether new work
//! is welcome. Everybody who tells an outsider something tells it from here.

use std::time::Duration;

use crate::domain::error::SttError;
use crate::ports::{EngineInfo, MemoryKind};
use crate::status::chunk_length::target_length;
use crate::status::cost::Cost;
use crate::status::load::{Ahead, Load, WaitEstimate};

/// The hot lane, as admission sees it.
#[derive(Clone, Debug, PartialEq)]
pub enum HotState {
    /// The first load is under way: nothing can be promised yet.
    Starting,
    /// Transcribing.
    Ready(EngineInfo),
    /// Its model was freed because nobody needed it for long; the next request brings it back.
    Asleep(EngineInfo),
    /// It ended and is being brought back: work may wait for it.
    Restarting {
        /// How it ended.
        reason: String,
    },
    /// It could not be brought up. It is tried again, seldom; work does not wait for it.
    Failed {
        /// Why, for people.
        reason: String,
    },
}

/// The cold workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolSnapshot {
    /// Able to work.
    pub active: usize,
    /// Starting.
    pub loading: usize,
    /// How many the work in hand is worth.
    pub wanted: usize,
    /// The most there may be.
    pub size_cap: usize,
    /// Started since the server did.
    pub spawned: u64,
}

/// The memory that decides how many workers fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemorySnapshot {
    /// Of the GPU, or of the machine.
    pub kind: MemoryKind,
    /// Free, in bytes; `None`: unknown.
    pub free_bytes: Option<u64>,
    /// Of the GPU or the machine, in bytes; `None`: unknown.
    pub total_bytes: Option<u64>,
    /// How busy the GPU was lately, in percent; `None`: unknown.
    pub utilization_percent: Option<u32>,
    /// What one worker holds, rolling, in bytes; `None` until measured.
    pub worker_bytes: Option<u64>,
    /// What must be free for one more, in bytes.
    pub need_bytes: Option<u64>,
    /// Whether one more fits, as far as is known.
    pub fits_one_more: bool,
}

/// Requests that ended, where a larger model stands by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FallbackCounts {
    /// Some of the text was the larger model's.
    pub used: u64,
    /// The text was trusted.
    pub skipped: u64,
    /// The larger model was asked, and gave nothing for some of it.
    pub failed: u64,
}

/// The tree's state at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// The hot lane.
    pub hot: HotState,
    /// The engine that was up last: what is served, also while it is being brought back.
    pub last_engine: Option<EngineInfo>,
    /// Whether the server is shutting down.
    pub draining: bool,
    /// Drain time that counts as load 1.0.
    pub drain_cap: Duration,
    /// Chunks that wait for a lane.
    pub queue_depth: usize,
    /// Lanes that work on a chunk.
    pub busy_lanes: usize,
    /// Lanes that could take one.
    pub idle_lanes: usize,
    /// Requests admitted and not over, those included whose upload still comes.
    pub requests: usize,
    /// What is left of all of them, the undecoded rest of long files included.
    pub remaining: Load,
    /// Chunks that hot lanes have transcribed since the start.
    pub finished_hot_chunks: u64,
    /// The same of cold lanes.
    pub finished_cold_chunks: u64,
    /// What a chunk costs on the hot lane; `None` until measured.
    pub cost: Option<Cost>,
    /// Rolling seconds of work per second of audio on the hot lane; `None` until measured.
    pub hot_real_time_factor: Option<f64>,
    /// Rolling time of a worker's start; `None` until measured.
    pub measured_start: Option<Duration>,
    /// What a start is taken for until then.
    pub start_estimate: Duration,
    /// The cold workers.
    pub pool: PoolSnapshot,
    /// Memory.
    pub memory: MemorySnapshot,
    /// Requests that could have gone to the larger model.
    pub fallbacks: FallbackCounts,
}

impl Snapshot {
    /// Seconds of one lane's work in this much audio.
    pub fn work_seconds(&self, load: Load) -> f64 {
        let cost = self.cost.unwrap_or(Cost::UNMEASURED);
        cost.of(load.audio_seconds(), load.chunks as f64)
    }

    /// Lanes that are up.
    pub fn lanes(&self) -> usize {
        self.busy_lanes + self.idle_lanes
    }

    /// Until all the work in hand is done by the lanes that are up.
    pub fn drain_estimate(&self) -> Duration {
        self.shared(self.work_seconds(self.remaining))
    }

    /// What a worker's start takes.
    pub fn start_time(&self) -> Duration {
        self.measured_start.unwrap_or(self.start_estimate)
    }

    /// For a request that comes while the server is leaving: what it still does must end, and then
    /// another start takes its time.
    pub(crate) fn draining_refusal(&self) -> SttError {
        SttError::Draining {
            retry_after: self.drain_estimate() + self.start_time(),
        }
    }

    /// How long a request waits that has so much before it.
    pub fn wait_estimate(&self, ahead: Ahead) -> WaitEstimate {
        let lanes = self.lanes();
        let lanes_with_long_files = ahead.long_in_hand.min(lanes);
        if (ahead.load.chunks as usize) + lanes_with_long_files < lanes {
            // Each of them has a lane, and there is one left.
            return WaitEstimate::default();
        }
        let mut load = ahead.load;
        if lanes_with_long_files > 0 {
            // The lane that is free next has most of a chunk to do yet, at worst.
            load.audio_millis += target_length(self.cost).as_millis() as u64;
            load.chunks += 1;
        }
        let mut wait = self.shared(self.work_seconds(load));
        if lanes == 0 {
            wait += self.start_time();
        }
        WaitEstimate {
            position: (ahead.requests + lanes_with_long_files).saturating_sub(lanes),
            wait,
        }
    }

    /// One lane's work in seconds, done by all lanes.
    fn shared(&self, work_seconds: f64) -> Duration {
        let seconds = work_seconds.max(0.0) / self.lanes().max(1) as f64;
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }

    /// min(drain estimate / cap, 1), rounded to three decimals.
    pub fn load_score(&self) -> f64 {
        let score = self.drain_estimate().as_secs_f64() / self.drain_cap.as_secs_f64();
        (score.min(1.0) * 1000.0).round() / 1000.0
    }

    /// Whether routers should send work here: the hot model is there or comes with the next
    /// request, nothing is wrong with it, the load is below its cap, and the node is not leaving.
    pub fn accepts_requests(&self) -> bool {
        self.can_serve() && self.load_score() < 1.0 && !self.draining
    }

    /// Whether the hot lane can do work, at once or after waking.
    pub fn can_serve(&self) -> bool {
        match self.hot {
            HotState::Ready(_) | HotState::Asleep(_) => true,
            HotState::Starting | HotState::Restarting { .. } | HotState::Failed { .. } => false,
        }
    }

    /// The loaded model, while there is one.
    pub fn engine(&self) -> Option<&EngineInfo> {
        match &self.hot {
            HotState::Ready(info) => Some(info),
            HotState::Starting
            | HotState::Asleep(_)
            | HotState::Restarting { .. }
            | HotState::Failed { .. } => None,
        }
    }

    /// What is wrong with the hot lane, where something is.
    pub fn hot_error(&self) -> Option<&str> {
        match &self.hot {
            HotState::Restarting { reason } | HotState::Failed { reason } => Some(reason),
            HotState::Starting | HotState::Ready(_) | HotState::Asleep(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::domain::ids::LaneKind;
    use crate::domain::job::Client;
    use crate::status::NodeStatus;
    use crate::status::admission::AdmissionRequest;
    use crate::status::load::Left;

    #[test]
    fn the_load_score_is_capped_and_has_three_decimals() {
        let status = Arc::new(NodeStatus::default());
        let mut slot = status.take_slot(AdmissionRequest::of(Client::new("a")));
        slot.update(
            Left {
                open: 4,
                open_seconds: 100.0,
                ..Left::default()
            },
            target_length(None),
        );
        status.record_finished_chunk(LaneKind::Hot, 100.0, 300.0);
        let mut snapshot = status.snapshot();
        snapshot.cost = Some(Cost {
            fixed: 0.0,
            slope: 1.0 / 3.0,
        });
        assert!((snapshot.load_score() - 0.278).abs() < f64::EPSILON);
        snapshot.drain_cap = Duration::from_secs(1);
        assert!((snapshot.load_score() - 1.0).abs() < f64::EPSILON);
    }

    #[test]
    fn a_command_waits_for_commands_before_it_and_of_a_long_file_for_one_chunk() {
        let status = Arc::new(NodeStatus::default());
        let command = |seconds: u64| Ahead {
            load: Load {
                audio_millis: seconds * 1000,
                chunks: 1,
            },
            requests: 1,
            long_in_hand: 3,
        };
        let wait_estimate = |ahead| status.snapshot().wait_estimate(ahead);
        status.set_queue(2, 1, 0);
        let only_the_file = Ahead {
            long_in_hand: 3,
            ..Ahead::default()
        };
        let one_chunk = target_length(None);
        assert_eq!(wait_estimate(only_the_file).wait, one_chunk);
        assert_eq!(wait_estimate(only_the_file).position, 0);
        assert_eq!(
            wait_estimate(command(10)).wait,
            one_chunk + Duration::from_secs(10)
        );
        assert_eq!(wait_estimate(command(10)).position, 1);
        // Two lanes have chunks of the file, and one of them is free in half of the time.
        status.set_queue(1, 2, 0);
        assert_eq!(wait_estimate(only_the_file).wait, one_chunk / 2);
        status.set_queue(0, 0, 4);
        assert_eq!(wait_estimate(only_the_file), WaitEstimate::default());
    }
}

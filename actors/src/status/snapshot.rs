//! The tree's state at one moment, and what is computed from it: wait estimates, load, and whether the
//! node accepts requests. Every reply, header, metric and record about the node uses this snapshot.

use std::time::Duration;

use crate::domain::error::SttError;
use crate::ports::{EngineInfo, MemoryKind};
use crate::status::chunk_length::target_length;
use crate::status::cost::Cost;
use crate::status::drain::Drain;
use crate::status::lanes::WaitingChunks;
use crate::status::load::{Ahead, Load, WaitEstimate};

/// The hot lane, as admission sees it.
#[derive(Clone, Debug, PartialEq)]
pub enum HotState {
    /// The model loads for the first time; requests are rejected.
    Starting,
    /// The model is loaded.
    Ready(EngineInfo),
    /// The model was unloaded after `HOT_IDLE_TIMEOUT`; the next request loads it again.
    Asleep(EngineInfo),
    /// The engine ended and is being restarted; requests wait for it.
    Restarting {
        /// How the engine ended.
        reason: String,
    },
    /// The engine could not be started. It is retried at long intervals; requests do not wait for it.
    Failed {
        /// The error, for people.
        reason: String,
    },
}

/// The cold workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolSnapshot {
    /// Workers that are ready.
    pub active: usize,
    /// Workers that are starting.
    pub loading: usize,
    /// Workers that the current work justifies.
    pub wanted: usize,
    /// Maximum number of workers.
    pub size_cap: usize,
    /// Workers started since the server started.
    pub spawned: u64,
}

/// The memory that limits the number of workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemorySnapshot {
    /// Memory of the GPU or of the machine.
    pub kind: MemoryKind,
    /// Free memory in bytes; `None`: unknown.
    pub free_bytes: Option<u64>,
    /// All memory of the GPU or the machine, in bytes; `None`: unknown.
    pub total_bytes: Option<u64>,
    /// Recent utilization of the GPU, in percent; `None`: unknown.
    pub utilization_percent: Option<u32>,
    /// Rolling mean of the memory that one worker uses, in bytes; `None` until measured.
    pub worker_bytes: Option<u64>,
    /// Memory that must be free to start another worker, in bytes.
    pub need_bytes: Option<u64>,
    /// Whether another worker fits; `true` while the memory is unknown.
    pub fits_one_more: bool,
}

/// Finished requests by what the fallback did; counted only if a fallback is configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FallbackCounts {
    /// At least one chunk's text is from the fallback.
    pub used: u64,
    /// No text was escalated.
    pub skipped: u64,
    /// The fallback failed for at least one chunk.
    pub failed: u64,
}

/// The tree's state at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// The hot lane.
    pub hot: HotState,
    /// The hot engine that was ready last: the served model, also during a restart.
    pub last_engine: Option<EngineInfo>,
    /// Whether new requests are rejected, because the node ends.
    pub draining: bool,
    /// The rest of the drain, from its announcement on.
    pub drain: Option<Drain>,
    /// Drain time that counts as load 1.0.
    pub drain_cap: Duration,
    /// Chunks that wait for a lane, without those of jobs and spare ones.
    pub queue_depth: usize,
    /// All waiting chunks, by the kind of their requests.
    pub waiting: WaitingChunks,
    /// Lanes that work on a chunk.
    pub busy_lanes: usize,
    /// Lanes that are ready for a chunk.
    pub idle_lanes: usize,
    /// Admitted requests that have not ended, including those whose upload is still coming in, without jobs.
    pub requests: usize,
    /// Open live sessions.
    pub live_sessions: usize,
    /// Work that all of them still need, including the undecoded rest of long files.
    pub remaining: Load,
    /// Work that running jobs still need. It delays no request, so that only the number of workers depends on it.
    pub background: Load,
    /// Chunks that hot lanes finished since the start.
    pub finished_hot_chunks: u64,
    /// Chunks that cold lanes finished since the start.
    pub finished_cold_chunks: u64,
    /// The cost of a chunk on the hot lane; `None` until measured.
    pub cost: Option<Cost>,
    /// Rolling seconds of work per second of audio on the hot lane; `None` until measured.
    pub hot_real_time_factor: Option<f64>,
    /// Rolling start time of a worker; `None` until measured.
    pub measured_start: Option<Duration>,
    /// The start time to assume until then.
    pub start_estimate: Duration,
    /// Time since the node started.
    pub age: Duration,
    /// The cold workers.
    pub pool: PoolSnapshot,
    /// Memory.
    pub memory: MemorySnapshot,
    /// Time since this node's record was last written to the directory, or since the first try if it never was; `None`
    /// without a directory.
    pub record_age: Option<Duration>,
    /// Finished requests by what the fallback did.
    pub fallbacks: FallbackCounts,
}

impl Snapshot {
    /// Work in seconds that one lane needs for this load.
    pub fn work_seconds(&self, load: Load) -> f64 {
        let cost = self.cost.unwrap_or(Cost::UNMEASURED);
        cost.of(load.audio_seconds(), load.chunks as f64)
    }

    /// Lanes that are ready, busy or idle.
    pub fn lanes(&self) -> usize {
        self.busy_lanes + self.idle_lanes
    }

    /// Time that the lanes that are ready need for all current work.
    pub fn drain_estimate(&self) -> Duration {
        self.shared(self.work_seconds(self.remaining))
    }

    /// Start time of a worker: measured, or else the configured estimate.
    pub fn start_time(&self) -> Duration {
        self.measured_start.unwrap_or(self.start_estimate)
    }

    /// Time until the first engine is ready. A start that takes longer than expected probably takes a quarter as
    /// long again.
    pub(crate) fn ready_in(&self) -> Duration {
        self.start_time().saturating_sub(self.age).max(self.age / 4)
    }

    /// For a request that comes while the server is leaving: what it still does must end, and then
    /// another start takes its time.
    pub(crate) fn draining_refusal(&self) -> SttError {
        SttError::Draining {
            retry_after: self.drain_estimate() + self.start_time(),
        }
    }

    /// Estimates the wait of a request with this work ahead of it.
    pub fn wait_estimate(&self, ahead: Ahead) -> WaitEstimate {
        let lanes = self.lanes();
        let lanes_with_long_files = ahead.long_in_hand.min(lanes);
        if (ahead.load.chunks as usize) + lanes_with_long_files < lanes {
            // Every chunk ahead has a lane, and one lane is left.
            return WaitEstimate::default();
        }
        let mut load = ahead.load;
        if lanes_with_long_files > 0 {
            // At worst the next lane to become idle has just begun a chunk.
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

    /// The time that all lanes together need for this work.
    fn shared(&self, work_seconds: f64) -> Duration {
        let seconds = work_seconds.max(0.0) / self.lanes().max(1) as f64;
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }

    /// min(drain estimate / drain cap, 1), rounded to three decimals.
    pub fn load_score(&self) -> f64 {
        let score = self.drain_estimate().as_secs_f64() / self.drain_cap.as_secs_f64();
        (score.min(1.0) * 1000.0).round() / 1000.0
    }

    /// Whether routers should send requests to this node: it can serve, its load score is below 1, and it
    /// has not announced its end.
    pub fn accepts_requests(&self) -> bool {
        self.can_serve() && self.load_score() < 1.0 && self.drain.is_none()
    }

    /// The state in one word: `ok`, `loading`, `degraded` or `draining`.
    pub fn status(&self) -> &'static str {
        match &self.hot {
            _ if self.drain.is_some() => "draining",
            HotState::Ready(_) | HotState::Asleep(_) => "ok",
            HotState::Starting => "loading",
            HotState::Restarting { .. } | HotState::Failed { .. } => "degraded",
        }
    }

    /// Whether the hot lane is ready, or loads its model for the next request.
    pub fn can_serve(&self) -> bool {
        match self.hot {
            HotState::Ready(_) | HotState::Asleep(_) => true,
            HotState::Starting | HotState::Restarting { .. } | HotState::Failed { .. } => false,
        }
    }

    /// The loaded model; `None` while none is loaded.
    pub fn engine(&self) -> Option<&EngineInfo> {
        match &self.hot {
            HotState::Ready(info) => Some(info),
            HotState::Starting
            | HotState::Asleep(_)
            | HotState::Restarting { .. }
            | HotState::Failed { .. } => None,
        }
    }

    /// Why the hot lane is down; `None` unless it failed or restarts.
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
        status.set_queue(WaitingChunks::of_short(2), 1, 0);
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
        status.set_queue(WaitingChunks::of_short(1), 2, 0);
        assert_eq!(wait_estimate(only_the_file).wait, one_chunk / 2);
        status.set_queue(WaitingChunks::of_short(0), 0, 4);
        assert_eq!(wait_estimate(only_the_file), WaitEstimate::default());
    }
}

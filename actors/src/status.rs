//! The tree's state as others may see it at any time without asking an actor: atomics, written by
//! the actors that own each fact and read by `/health`, admission and metrics.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::ports::EngineInfo;
use crate::work_queue::LaneKind;

/// Weight of the newest chunk in the rolling real-time factor.
const RATE_WEIGHT: f64 = 0.3;

/// The hot lane, as admission sees it.
#[derive(Clone, Debug, PartialEq)]
pub enum HotState {
    /// The first load is under way: nothing can be promised yet.
    Starting,
    /// Transcribing.
    Ready(EngineInfo),
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

/// Owned by the tree, shared with the handle. Each field has one writer.
#[derive(Debug)]
pub struct NodeStatus {
    hot: watch::Sender<HotState>,
    last_engine: Mutex<Option<EngineInfo>>,
    draining: AtomicBool,
    queue_depth: AtomicUsize,
    queue_audio_millis: AtomicU64,
    active_requests: AtomicUsize,
    finished_chunks: AtomicU64,
    /// Bits of an `f64`; NaN until a chunk was done.
    hot_real_time_factor: AtomicU64,
}

impl Default for NodeStatus {
    fn default() -> Self {
        Self {
            hot: watch::Sender::new(HotState::Starting),
            last_engine: Mutex::new(None),
            draining: AtomicBool::new(false),
            queue_depth: AtomicUsize::new(0),
            queue_audio_millis: AtomicU64::new(0),
            active_requests: AtomicUsize::new(0),
            finished_chunks: AtomicU64::new(0),
            hot_real_time_factor: AtomicU64::new(f64::NAN.to_bits()),
        }
    }
}

impl NodeStatus {
    pub(crate) fn set_hot(&self, state: HotState) {
        if let HotState::Ready(info) = &state {
            *self.lock_last_engine() = Some(info.clone());
        }
        self.hot.send_replace(state);
    }

    pub(crate) fn set_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    pub(crate) fn set_queue(&self, depth: usize, audio: Duration) {
        self.queue_depth.store(depth, Ordering::Relaxed);
        self.queue_audio_millis
            .store(audio.as_millis() as u64, Ordering::Relaxed);
    }

    pub(crate) fn set_active_requests(&self, active: usize) {
        self.active_requests.store(active, Ordering::Relaxed);
    }

    /// Counts a chunk and, if the hot lane did it, moves that lane's rolling rate towards it. Only
    /// the engine's own time goes in, so that waiting never pollutes the rate.
    pub(crate) fn record_finished_chunk(
        &self,
        lane: LaneKind,
        inference_seconds: f64,
        audio_seconds: f64,
    ) {
        self.finished_chunks.fetch_add(1, Ordering::Relaxed);
        if lane != LaneKind::Hot || audio_seconds <= 0.0 || inference_seconds <= 0.0 {
            return;
        }
        let newest = inference_seconds / audio_seconds;
        let rolling = match self.hot_real_time_factor() {
            Some(old) => old + RATE_WEIGHT * (newest - old),
            None => newest,
        };
        self.hot_real_time_factor
            .store(rolling.to_bits(), Ordering::Relaxed);
    }

    pub(crate) fn finished_chunks(&self) -> u64 {
        self.finished_chunks.load(Ordering::Relaxed)
    }

    fn lock_last_engine(&self) -> MutexGuard<'_, Option<EngineInfo>> {
        self.last_engine
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn subscribe_hot(&self) -> watch::Receiver<HotState> {
        self.hot.subscribe()
    }

    fn hot_real_time_factor(&self) -> Option<f64> {
        let factor = f64::from_bits(self.hot_real_time_factor.load(Ordering::Relaxed));
        (!factor.is_nan()).then_some(factor)
    }

    /// All of it, as of now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            hot: self.hot.borrow().clone(),
            last_engine: self.lock_last_engine().clone(),
            draining: self.draining.load(Ordering::Acquire),
            queue_depth: self.queue_depth.load(Ordering::Relaxed),
            queue_audio: Duration::from_millis(self.queue_audio_millis.load(Ordering::Relaxed)),
            active_requests: self.active_requests.load(Ordering::Relaxed),
            finished_chunks: self.finished_chunks(),
            hot_real_time_factor: self.hot_real_time_factor(),
        }
    }
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
    /// Chunks that wait for a lane.
    pub queue_depth: usize,
    /// Audio in chunks that wait or run.
    pub queue_audio: Duration,
    /// Requests in the tree.
    pub active_requests: usize,
    /// Chunks transcribed since the start.
    pub finished_chunks: u64,
    /// Rolling seconds of work per second of audio on the hot lane; `None` until measured.
    pub hot_real_time_factor: Option<f64>,
}

impl Snapshot {
    /// Seconds until the work that waits or runs is done: audio × real-time factor. An unmeasured
    /// lane counts as real time.
    pub fn drain_estimate(&self) -> Duration {
        self.queue_audio
            .mul_f64(self.hot_real_time_factor.unwrap_or(1.0))
    }

    /// min(drain estimate / `cap`, 1), rounded to three decimals.
    pub fn load_score(&self, cap: Duration) -> f64 {
        let score = (self.drain_estimate().as_secs_f64() / cap.as_secs_f64()).min(1.0);
        (score * 1000.0).round() / 1000.0
    }

    /// The loaded model, while there is one.
    pub fn engine(&self) -> Option<&EngineInfo> {
        match &self.hot {
            HotState::Ready(info) => Some(info),
            HotState::Starting | HotState::Restarting { .. } | HotState::Failed { .. } => None,
        }
    }

    /// What is wrong with the hot lane, where something is.
    pub fn hot_error(&self) -> Option<&str> {
        match &self.hot {
            HotState::Restarting { reason } | HotState::Failed { reason } => Some(reason),
            HotState::Starting | HotState::Ready(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_follows_the_engine_and_ignores_nonsense() {
        let status = NodeStatus::default();
        assert_eq!(status.snapshot().hot_real_time_factor, None);
        status.record_finished_chunk(LaneKind::Hot, 1.0, 10.0);
        status.record_finished_chunk(LaneKind::Hot, 0.0, 10.0);
        status.record_finished_chunk(LaneKind::Hot, 1.0, 0.0);
        status.record_finished_chunk(LaneKind::Cold, 9.0, 10.0);
        assert_eq!(status.snapshot().hot_real_time_factor, Some(0.1));
        status.record_finished_chunk(LaneKind::Hot, 2.0, 10.0);
        let rate = status.snapshot().hot_real_time_factor.expect("measured");
        assert!((rate - 0.13).abs() < 1e-9);
        assert_eq!(status.snapshot().finished_chunks, 5);
    }

    #[test]
    fn the_load_score_is_capped_and_has_three_decimals() {
        let status = NodeStatus::default();
        status.set_queue(3, Duration::from_secs(100));
        status.record_finished_chunk(LaneKind::Hot, 1.0, 3.0);
        let snapshot = status.snapshot();
        assert!((snapshot.load_score(Duration::from_secs(120)) - 0.278).abs() < f64::EPSILON);
        assert!((snapshot.load_score(Duration::from_secs(1)) - 1.0).abs() < f64::EPSILON);
    }
}

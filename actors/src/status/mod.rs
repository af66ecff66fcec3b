//! The tree's state in atomics, readable at any time without a message to an actor. The actor that owns a
//! fact writes it; `/health`, admission, pool sizing and metrics read it.

pub mod admission;
mod atomic_f64;
pub mod chunk_length;
pub mod cost;
pub mod drain;
pub mod lanes;
pub mod load;
pub mod snapshot;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::domain::ids::{LaneKind, WorkerRole};
use crate::ports::{Calibration, EngineInfo, MemoryKind};
use crate::status::admission::{AdmissionRequest, AdmissionSlot, AdmissionSlots};
use crate::status::atomic_f64::AtomicF64;
use crate::status::chunk_length::LONGEST_TARGET;
use crate::status::cost::{Cost, CostModel};
use crate::status::drain::{Begun, DrainPlan};
use crate::status::lanes::{LaneSnapshot, Lanes, WaitingChunks};
use crate::status::snapshot::{FallbackCounts, HotState, MemorySnapshot, PoolSnapshot, Snapshot};

/// What the fallback did for a finished request, if a fallback is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Escalated {
    /// Some of the text is from the fallback.
    Used,
    /// No text was escalated.
    Skipped,
    /// The fallback failed for at least one chunk.
    Failed,
}

/// Weight of the newest start in the rolling mean of start times.
const START_WEIGHT: f64 = 0.3;
/// Weight of the newest request in the rolling mean of lengths.
const REQUEST_WEIGHT: f64 = 0.1;
/// The assumed length of a request before the first one was measured, in seconds of audio.
const TYPICAL_REQUEST_SECONDS: f64 = 10.0;

/// The node's status, shared between the actors and the handle.
#[derive(Debug)]
pub struct NodeStatus {
    /// Drain time that counts as load 1.0.
    drain_cap: Duration,
    /// When the node started.
    since: Instant,
    /// The assumed start time of a worker until one was measured, if nothing better is known.
    start_estimate: Duration,
    /// What the launcher expects instead.
    expected_start: AtomicF64,
    /// The longest estimated wait with which a request is admitted.
    max_queue: Duration,
    hot: watch::Sender<HotState>,
    /// Since when the hot lane has been in this state.
    hot_since: Mutex<Instant>,
    last_engine: Mutex<Option<EngineInfo>>,
    /// Wakes the Registrar after a change that may change whether the node accepts requests.
    routing_changed: watch::Sender<()>,
    /// The drain, from its announcement on.
    drain: Mutex<Option<Begun>>,
    grace_over: CancellationToken,
    slots: Arc<AdmissionSlots>,
    typical_request_seconds: AtomicF64,
    queue: QueueCounts,
    finished: [AtomicU64; 2],
    costs: Mutex<CostModel>,
    hot_real_time_factor: AtomicF64,
    start_seconds: AtomicF64,
    pool: PoolCounts,
    memory: MemoryFacts,
    lanes: Lanes,
    fallbacks: [AtomicU64; 3],
    live_sessions: AtomicUsize,
    /// When this node's record was last written, or else when the Registrar began to try; `None` without one.
    record_written: Mutex<Option<Instant>>,
    /// The status of the fallback model's queue.
    fallback_model: Mutex<Option<Arc<NodeStatus>>>,
}

/// Written by the Dispatcher.
#[derive(Debug, Default)]
struct QueueCounts {
    live: AtomicUsize,
    short: AtomicUsize,
    long: AtomicUsize,
    job: AtomicUsize,
    spare: AtomicUsize,
    busy_lanes: AtomicUsize,
    idle_lanes: AtomicUsize,
}

/// Written by the ColdPool.
#[derive(Debug, Default)]
struct PoolCounts {
    active: AtomicUsize,
    loading: AtomicUsize,
    wanted: AtomicUsize,
    size_cap: AtomicUsize,
    spawned: AtomicU64,
}

/// Written by the VramWatcher.
#[derive(Debug)]
struct MemoryFacts {
    on_gpu: AtomicBool,
    free: AtomicF64,
    total: AtomicF64,
    utilization: AtomicF64,
    worker: AtomicF64,
    need: AtomicF64,
    fits: AtomicBool,
    /// When the last sample was begun.
    sampled_at: Mutex<Option<Instant>>,
}

impl Default for NodeStatus {
    fn default() -> Self {
        Self::new(
            Duration::from_secs(120),
            Duration::from_secs(8),
            Duration::from_secs(600),
        )
    }
}

impl NodeStatus {
    /// The status of a node that starts. `drain_cap` is `ROUTING_DRAIN_CAP_SECONDS`, `start_estimate` is
    /// `COLD_START_TIME_SECONDS`, `max_queue` is `MAX_QUEUE_SECONDS`.
    pub fn new(drain_cap: Duration, start_estimate: Duration, max_queue: Duration) -> Self {
        let routing_changed = watch::Sender::new(());
        Self {
            drain_cap,
            since: Instant::now(),
            start_estimate,
            expected_start: AtomicF64::default(),
            max_queue,
            hot: watch::Sender::new(HotState::Starting),
            hot_since: Mutex::new(Instant::now()),
            last_engine: Mutex::default(),
            slots: Arc::new(AdmissionSlots::new(routing_changed.clone())),
            routing_changed,
            drain: Mutex::default(),
            grace_over: CancellationToken::new(),
            typical_request_seconds: AtomicF64::new(TYPICAL_REQUEST_SECONDS),
            queue: QueueCounts::default(),
            finished: Default::default(),
            costs: Mutex::default(),
            hot_real_time_factor: AtomicF64::default(),
            start_seconds: AtomicF64::default(),
            pool: PoolCounts::default(),
            memory: MemoryFacts {
                on_gpu: AtomicBool::default(),
                free: AtomicF64::default(),
                total: AtomicF64::default(),
                utilization: AtomicF64::default(),
                worker: AtomicF64::default(),
                need: AtomicF64::default(),
                fits: AtomicBool::new(true),
                sampled_at: Mutex::default(),
            },
            lanes: Lanes::default(),
            fallbacks: Default::default(),
            live_sessions: AtomicUsize::default(),
            record_written: Mutex::default(),
            fallback_model: Mutex::default(),
        }
    }

    // --- The Supervisor's facts

    pub(crate) fn set_hot(&self, state: HotState) {
        if let HotState::Ready(info) = &state {
            *lock(&self.last_engine) = Some(info.clone());
        }
        let mut hot_since = lock(&self.hot_since);
        if std::mem::discriminant(&*self.hot.borrow()) != std::mem::discriminant(&state) {
            *hot_since = Instant::now();
        }
        drop(hot_since);
        self.hot.send_replace(state);
        self.routing_changed.send_replace(());
    }

    /// Announces that the node will end by this plan, which begins now. Without a delay, new requests are rejected from now
    /// on: none is accepted by a node that reports that it drains.
    pub(crate) fn announce_drain(&self, plan: DrainPlan) {
        *lock(&self.drain) = Some(Begun::now(plan));
        self.routing_changed.send_replace(());
    }

    /// Whether the node has announced that it will end.
    pub(crate) fn has_announced_drain(&self) -> bool {
        lock(&self.drain).is_some()
    }

    /// Whether new requests are rejected, because the node ends.
    pub(crate) fn is_draining(&self) -> bool {
        lock(&self.drain).is_some_and(Begun::is_rejecting)
    }

    /// Cancelled when running requests are: the grace of a drain is over.
    pub(crate) fn grace_over(&self) -> &CancellationToken {
        &self.grace_over
    }

    /// Records the first engine's start time and test clip, so that the node's rates are known before
    /// the first request.
    pub(crate) fn calibrate(&self, info: &EngineInfo) {
        self.record_start(info.load_time);
        if let Some(Calibration {
            audio_seconds,
            inference_seconds,
        }) = info.calibration
        {
            self.observe_cost(audio_seconds, inference_seconds);
        }
    }

    /// Sets the start time to assume until one is measured; `None`: nothing better than the configured one.
    pub(crate) fn expect_start(&self, expected: Option<Duration>) {
        self.expected_start
            .set(expected.map(|expected| expected.as_secs_f64()));
    }

    /// Records the time of a worker's start, from its process to readiness.
    pub(crate) fn record_start(&self, took: Duration) {
        if !took.is_zero() {
            self.start_seconds.roll(took.as_secs_f64(), START_WEIGHT);
        }
    }

    pub(crate) fn hot(&self) -> HotState {
        self.hot.borrow().clone()
    }

    pub(crate) fn subscribe_hot(&self) -> watch::Receiver<HotState> {
        self.hot.subscribe()
    }

    // --- The Dispatcher's and the lanes' facts

    pub(crate) fn set_queue(&self, waiting: WaitingChunks, busy_lanes: usize, idle_lanes: usize) {
        let queue = &self.queue;
        queue.live.store(waiting.live, Ordering::Relaxed);
        queue.short.store(waiting.short, Ordering::Relaxed);
        queue.long.store(waiting.long, Ordering::Relaxed);
        queue.job.store(waiting.job, Ordering::Relaxed);
        queue.spare.store(waiting.spare, Ordering::Relaxed);
        queue.busy_lanes.store(busy_lanes, Ordering::Relaxed);
        queue.idle_lanes.store(idle_lanes, Ordering::Relaxed);
    }

    /// The waiting chunks, by the kind of their requests.
    fn waiting(&self) -> WaitingChunks {
        WaitingChunks {
            live: self.queue.live.load(Ordering::Relaxed),
            short: self.queue.short.load(Ordering::Relaxed),
            long: self.queue.long.load(Ordering::Relaxed),
            job: self.queue.job.load(Ordering::Relaxed),
            spare: self.queue.spare.load(Ordering::Relaxed),
        }
    }

    /// Whether a lane is idle while no chunk waits.
    pub(crate) fn has_idle_lane(&self) -> bool {
        self.queue.idle_lanes.load(Ordering::Relaxed) > 0 && self.waiting().needed() == 0
    }

    /// Lanes that are ready, busy or idle.
    pub(crate) fn lanes(&self) -> usize {
        let queue = &self.queue;
        queue.busy_lanes.load(Ordering::Relaxed) + queue.idle_lanes.load(Ordering::Relaxed)
    }

    /// Counts a finished chunk. If the hot lane did it, updates the node's rates with the engine's time,
    /// which contains no waiting.
    pub(crate) fn record_finished_chunk(
        &self,
        lane: LaneKind,
        inference_seconds: f64,
        audio_seconds: f64,
    ) {
        self.finished[lane as usize].fetch_add(1, Ordering::Relaxed);
        if lane == LaneKind::Hot {
            self.observe_cost(audio_seconds, inference_seconds);
        }
    }

    fn observe_cost(&self, audio_seconds: f64, inference_seconds: f64) {
        let mut costs = lock(&self.costs);
        costs.observe(audio_seconds, inference_seconds);
        self.hot_real_time_factor.set(costs.real_time_factor());
    }

    /// Chunks that this kind of lane finished since the start.
    pub(crate) fn finished_chunks(&self, lane: LaneKind) -> u64 {
        self.finished[lane as usize].load(Ordering::Relaxed)
    }

    /// Number of running engines, and the ids of their processes.
    pub(crate) fn engines(&self) -> (usize, Vec<u32>) {
        self.lanes.engines()
    }

    // --- The LiveSessions' facts

    pub(crate) fn set_live_sessions(&self, count: usize) {
        self.live_sessions.store(count, Ordering::Relaxed);
    }

    // --- The Registrar's and the FallbackModel's facts

    /// The Registrar tries to write this node's record from now on.
    pub(crate) fn registration_begins(&self) {
        lock(&self.record_written).get_or_insert_with(Instant::now);
    }

    /// This node's record was written.
    pub(crate) fn record_written(&self) {
        *lock(&self.record_written) = Some(Instant::now());
    }

    /// This node's record is removed for good.
    pub(crate) fn registration_ends(&self) {
        *lock(&self.record_written) = None;
    }

    /// The status of the fallback model's queue.
    pub(crate) fn set_fallback_model(&self, status: Arc<NodeStatus>) {
        *lock(&self.fallback_model) = Some(status);
    }

    // --- The ColdPool's facts

    pub(crate) fn set_pool(&self, active: usize, loading: usize, wanted: usize, size_cap: usize) {
        self.pool.active.store(active, Ordering::Relaxed);
        self.pool.loading.store(loading, Ordering::Relaxed);
        self.pool.wanted.store(wanted, Ordering::Relaxed);
        self.pool.size_cap.store(size_cap, Ordering::Relaxed);
    }

    /// Counts a start. Returns a number that is unique among cold workers.
    pub(crate) fn count_spawn(&self) -> u64 {
        self.pool.spawned.fetch_add(1, Ordering::Relaxed) + 1
    }

    // --- The VramWatcher's facts

    /// Records a memory sample that was begun at `begun`.
    pub(crate) fn set_memory(&self, seen: &MemorySnapshot, begun: Instant) {
        let memory = &self.memory;
        let number = |bytes: Option<u64>| bytes.map(|bytes| bytes as f64);
        (memory.on_gpu).store(seen.kind == MemoryKind::Vram, Ordering::Relaxed);
        memory.free.set(number(seen.free_bytes));
        memory.total.set(number(seen.total_bytes));
        (memory.utilization).set(seen.utilization_percent.map(f64::from));
        memory.worker.set(number(seen.worker_bytes));
        memory.need.set(number(seen.need_bytes));
        memory.fits.store(seen.fits_one_more, Ordering::Relaxed);
        *lock(&memory.sampled_at) = Some(begun);
    }

    /// Whether the last memory sample was begun after this moment, so that it shows what happened before.
    pub(crate) fn memory_shows(&self, moment: Instant) -> bool {
        lock(&self.memory.sampled_at).is_some_and(|begun| begun >= moment)
    }

    // --- Requests

    /// Takes a slot for a request whose length is not known yet.
    pub(crate) fn take_slot(&self, request: AdmissionRequest) -> AdmissionSlot {
        self.slots.take(request, self.typical_request_seconds())
    }

    /// Uploads that are not complete, of requests and of jobs. A drain waits for them.
    pub(crate) fn uploads(&self) -> &TaskTracker {
        self.slots.uploads()
    }

    /// Number of requests that hold a slot.
    pub(crate) fn requests(&self) -> usize {
        self.slots.held()
    }

    /// The longest estimated wait with which a request is admitted.
    pub(crate) fn max_queue(&self) -> Duration {
        self.max_queue
    }

    /// The cost of a chunk on the hot lane; `None` until measured.
    pub(crate) fn cost(&self) -> Option<Cost> {
        lock(&self.costs).cost()
    }

    /// Rolling mean of workers' start times; `None` until measured.
    pub(crate) fn measured_start(&self) -> Option<Duration> {
        self.start_seconds.get().map(Duration::from_secs_f64)
    }

    /// Records the length of a request's audio.
    pub(crate) fn record_request(&self, audio_seconds: f64) {
        let first_chunk = audio_seconds.min(LONGEST_TARGET.as_secs_f64());
        self.typical_request_seconds
            .roll(first_chunk, REQUEST_WEIGHT);
    }

    /// Counts a finished request by what the fallback did.
    pub(crate) fn record_escalation(&self, end: Escalated) {
        self.fallbacks[end as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The assumed length of a request whose audio is not known yet, in seconds: at most one chunk.
    pub(crate) fn typical_request_seconds(&self) -> f64 {
        let rolling = self.typical_request_seconds.get();
        rolling.unwrap_or(TYPICAL_REQUEST_SECONDS)
    }

    /// Announces every change that may change whether the node accepts requests.
    pub(crate) fn subscribe_routing(&self) -> watch::Receiver<()> {
        self.routing_changed.subscribe()
    }

    /// The current state.
    pub fn snapshot(&self) -> Snapshot {
        let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        let waiting = self.waiting();
        let drain = *lock(&self.drain);
        let fallbacks = |end: Escalated| self.fallbacks[end as usize].load(Ordering::Relaxed);
        Snapshot {
            hot: self.hot(),
            last_engine: lock(&self.last_engine).clone(),
            draining: drain.is_some_and(Begun::is_rejecting),
            drain: drain.map(|begun| begun.rest()),
            drain_cap: self.drain_cap,
            queue_depth: waiting.needed(),
            waiting,
            busy_lanes: count(&self.queue.busy_lanes),
            idle_lanes: count(&self.queue.idle_lanes),
            requests: self.slots.held(),
            live_sessions: count(&self.live_sessions),
            remaining: self.slots.remaining(),
            background: self.slots.background(),
            finished_hot_chunks: self.finished_chunks(LaneKind::Hot),
            finished_cold_chunks: self.finished_chunks(LaneKind::Cold),
            cost: self.cost(),
            hot_real_time_factor: self.hot_real_time_factor.get(),
            measured_start: self.measured_start(),
            start_estimate: (self.expected_start.get())
                .map_or(self.start_estimate, Duration::from_secs_f64),
            age: self.since.elapsed(),
            pool: PoolSnapshot {
                active: count(&self.pool.active),
                loading: count(&self.pool.loading),
                wanted: count(&self.pool.wanted),
                size_cap: count(&self.pool.size_cap),
                spawned: self.pool.spawned.load(Ordering::Relaxed),
            },
            memory: self.memory_snapshot(),
            record_age: lock(&self.record_written).map(|written| written.elapsed()),
            fallbacks: FallbackCounts {
                used: fallbacks(Escalated::Used),
                skipped: fallbacks(Escalated::Skipped),
                failed: fallbacks(Escalated::Failed),
            },
        }
    }

    /// What each lane does now.
    pub fn lanes_snapshot(&self) -> Vec<LaneSnapshot> {
        let hot_for = lock(&self.hot_since).elapsed();
        self.lanes.snapshot(self.hot(), hot_for)
    }

    /// The processes of all loaded engines, with what they are for.
    pub fn worker_processes(&self) -> Vec<(WorkerRole, u32)> {
        let mut processes = self.lanes.processes();
        if let Some(fallback) = &*lock(&self.fallback_model) {
            processes.extend(fallback.lanes.processes());
        }
        processes
    }

    fn memory_snapshot(&self) -> MemorySnapshot {
        let bytes = |number: &AtomicF64| number.get().map(|bytes| bytes as u64);
        MemorySnapshot {
            kind: if self.memory.on_gpu.load(Ordering::Relaxed) {
                MemoryKind::Vram
            } else {
                MemoryKind::Host
            },
            free_bytes: bytes(&self.memory.free),
            total_bytes: bytes(&self.memory.total),
            utilization_percent: self.memory.utilization.get().map(|percent| percent as u32),
            worker_bytes: bytes(&self.memory.worker),
            need_bytes: bytes(&self.memory.need),
            fits_one_more: self.memory.fits.load(Ordering::Relaxed),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rates_follow_the_hot_engine_only_and_ignore_invalid_values() {
        let status = NodeStatus::default();
        assert_eq!(status.snapshot().hot_real_time_factor, None);
        status.record_finished_chunk(LaneKind::Hot, 1.0, 10.0);
        status.record_finished_chunk(LaneKind::Hot, 0.0, 10.0);
        status.record_finished_chunk(LaneKind::Cold, 9.0, 10.0);
        let snapshot = status.snapshot();
        assert_eq!(snapshot.hot_real_time_factor, Some(0.1));
        assert_eq!(
            (snapshot.finished_hot_chunks, snapshot.finished_cold_chunks),
            (2, 1)
        );
    }

    #[test]
    fn a_node_without_a_drain_delay_rejects_requests_as_soon_as_it_reports_that_it_drains() {
        let status = NodeStatus::default();
        status.announce_drain(DrainPlan::from(Duration::from_secs(60)));
        assert_eq!(status.snapshot().status(), "draining");
        assert!(status.is_draining());
        assert!(status.snapshot().draining);
    }

    #[test]
    fn a_start_is_estimated_until_one_was_measured() {
        let status = NodeStatus::default();
        assert_eq!(status.snapshot().start_time(), Duration::from_secs(8));
        status.expect_start(Some(Duration::from_secs(3)));
        assert_eq!(status.snapshot().start_time(), Duration::from_secs(3));
        status.record_start(Duration::from_secs(2));
        status.record_start(Duration::from_secs(4));
        assert_eq!(status.snapshot().start_time(), Duration::from_millis(2600));
    }
}

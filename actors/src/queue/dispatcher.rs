//! The Dispatcher: owns the one shared work queue.
//!
//! Transcriptions enqueue chunks, lanes offer themselves, and the Dispatcher gives chunks to lanes, retries
//! failed chunks and discards those that no lane can do. [`WorkQueue`] makes all decisions; this actor carries
//! them out and updates the queue's numbers in [`NodeStatus`].
//!
//! Supervised by the Supervisor, or by the FallbackModel. If it fails, its successor starts with an empty
//! queue: transcriptions enqueue their open chunks again, lanes offer themselves again, and answers to old
//! leases are stale.

use std::collections::HashMap;
use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::domain::error::{EngineError, EngineExit, SttError};
use crate::domain::ids::{ChunkKey, JobId, LaneId, LaneKind, LeaseId};
use crate::domain::job::SchedulingKey;
use crate::domain::transcript::{ChunkDone, ChunkTranscript};
use crate::metrics::{ChunkOutcome, record_chunks};
use crate::ports::{ChunkRequest, DetectedLanguage};
use crate::queue::messages::{
    ChunkNews, ChunkOwner, DispatcherMessage, LaneMessage, Lease, Retire,
};
use crate::queue::traces::ChunkSpans;
use crate::queue::work_queue::{Ended, Retirement, WorkQueue, Yielded};
use crate::status::NodeStatus;
use crate::status::lanes::WaitingChunks;

/// Arguments of the Dispatcher.
#[derive(Debug)]
pub struct DispatcherArguments {
    /// Number of Dispatchers before this one in the tree.
    pub generation: u32,
    /// Keeps the queue's numbers.
    pub status: Arc<NodeStatus>,
}

/// The receiver of a request's results.
#[derive(Debug)]
struct Owner {
    tell: ChunkOwner,
    request_id: Arc<str>,
}

/// The actor's state.
#[derive(Debug)]
pub struct DispatcherState {
    queue: WorkQueue,
    lanes: HashMap<LaneId, ActorRef<LaneMessage>>,
    owners: HashMap<JobId, Owner>,
    spans: ChunkSpans,
    /// The error for waiting work, while the hot lane will not be ready soon.
    hot_lane_lost: Option<SttError>,
    /// Cold lanes up to this number have ended. Messages that they sent before are ignored.
    cold_gone: Option<LaneId>,
    status: Arc<NodeStatus>,
}

/// The actor.
#[derive(Debug)]
pub struct Dispatcher;

impl Actor for Dispatcher {
    type Msg = DispatcherMessage;
    type State = DispatcherState;
    type Arguments = DispatcherArguments;

    async fn pre_start(
        &self,
        _myself: ActorRef<Self::Msg>,
        arguments: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        // The numbers of the previous Dispatcher describe a queue that is lost.
        arguments.status.set_queue(WaitingChunks::default(), 0, 0);
        Ok(DispatcherState {
            queue: WorkQueue::new(arguments.generation),
            lanes: HashMap::new(),
            owners: HashMap::new(),
            spans: ChunkSpans::default(),
            hot_lane_lost: None,
            cold_gone: None,
            status: arguments.status,
        })
    }

    async fn handle(
        &self,
        _myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            DispatcherMessage::Enqueue {
                job,
                request,
                scheduling,
                owner,
            } => state.enqueue(job, request, scheduling, owner),
            DispatcherMessage::Cancel(job) => state.cancel(job),
            DispatcherMessage::Unattended(job) => {
                for key in state.queue.leave_unattended(job) {
                    state.withdraw(key);
                }
            }
            DispatcherMessage::Attended(job) => state.queue.attend(job),
            DispatcherMessage::SetUrgency(job, urgency) => {
                for (lane, lease, kind) in state.queue.set_urgency(job, urgency) {
                    state.tell_lane(lane, LaneMessage::WorkIs(lease, kind));
                }
            }
            DispatcherMessage::CancelAll => {
                for job in state.owners.keys().copied().collect::<Vec<_>>() {
                    state.cancel(job);
                }
            }
            DispatcherMessage::LaneReady { lane, kind, actor } => {
                state.lane_ready(lane, kind, actor);
            }
            DispatcherMessage::LanguageDetected {
                lane,
                lease,
                language,
            } => state.language_heard(lane, lease, language),
            DispatcherMessage::LeaseEnded {
                lane,
                lease,
                outcome,
            } => state.lease_ended(lane, lease, outcome),
            DispatcherMessage::LaneGone(lane) => state.lane_gone(lane),
            DispatcherMessage::ColdLanesGone { up_to } => state.cold_lanes_gone(up_to),
            DispatcherMessage::Retire { lane, when, actor } => state.retire(lane, when, &actor),
            DispatcherMessage::HotLaneLost(error) => state.hot_lane_lost = Some(error),
            DispatcherMessage::DiscardWaiting(error) => state.discard_waiting(&error),
            DispatcherMessage::Ping(reply) => {
                // The asker has given up if the port is closed.
                let _ = reply.send(());
            }
        }
        state.hand_out();
        Ok(())
    }
}

impl DispatcherState {
    fn enqueue(
        &mut self,
        job: JobId,
        request: ChunkRequest,
        scheduling: SchedulingKey,
        owner: ChunkOwner,
    ) {
        self.owners.entry(job).or_insert_with(|| Owner {
            tell: owner,
            request_id: Arc::clone(&request.request_id),
        });
        let index = request.audio.index;
        self.queue.enqueue(job, request, scheduling, Instant::now());
        self.begin_wait(ChunkKey { job, index });
    }

    fn cancel(&mut self, job: JobId) {
        self.owners.remove(&job);
        self.spans.end_job(job);
        let cancelled = self.queue.cancel(job);
        let count = cancelled.waiting + cancelled.running.len();
        record_chunks(ChunkOutcome::Cancelled, count);
        for (lane, lease) in cancelled.running {
            self.abort(lane, lease);
        }
    }

    fn begin_wait(&mut self, key: ChunkKey) {
        if let Some(owner) = self.owners.get(&key.job) {
            self.spans.wait(key, &owner.tell.span);
        }
    }

    fn begin_run(&mut self, lane: LaneId, lease: &Lease) {
        let key = self.queue.chunk_of(lane, lease.id);
        let owner = key.and_then(|key| Some((key, self.owners.get(&key.job)?)));
        if let Some((key, owner)) = owner {
            let seconds = lease.request.audio.duration_seconds();
            self.spans.run(key, &owner.tell.span, lane, seconds);
        }
    }

    fn abort(&self, lane: LaneId, lease: LeaseId) {
        self.tell_lane(lane, LaneMessage::Abort(lease));
    }

    /// Sends a message about a lease. A lane that has ended has none.
    fn tell_lane(&self, lane: LaneId, message: LaneMessage) {
        if let Some(actor) = self.lanes.get(&lane) {
            let _ = actor.cast(message);
        }
    }

    fn lane_ready(&mut self, lane: LaneId, kind: LaneKind, actor: ActorRef<LaneMessage>) {
        if kind == LaneKind::Cold && self.cold_gone.is_some_and(|last| lane <= last) {
            return;
        }
        self.lanes.insert(lane, actor);
        self.queue.lane_ready(lane, kind);
        if kind == LaneKind::Hot {
            self.hot_lane_lost = None;
        }
    }

    fn language_heard(&mut self, lane: LaneId, lease: LeaseId, language: DetectedLanguage) {
        if let Some(key) = self.queue.chunk_of(lane, lease) {
            self.tell(key, ChunkNews::LanguageDetected(language));
        }
    }

    fn lease_ended(
        &mut self,
        lane: LaneId,
        lease: LeaseId,
        outcome: Result<ChunkTranscript, EngineError>,
    ) {
        match &outcome {
            Err(EngineError::Aborted) => {
                debug!(lane = lane.0, "a lane aborted its chunk as requested");
            }
            Err(error) => info!(lane = lane.0, %error, "a lane failed on its chunk"),
            Ok(_) => {}
        }
        let ended = self.queue.lease_ended(lane, lease, outcome);
        self.settle(ended);
        if !self.queue.knows(lane)
            && let Some(actor) = self.lanes.remove(&lane)
        {
            // It wanted to end after this lease. If its engine ended, the lane ends without this message.
            let _ = actor.cast(LaneMessage::Retired);
        }
    }

    fn retire(&mut self, lane: LaneId, when: Retire, actor: &ActorRef<LaneMessage>) {
        match self.queue.retire(lane, when) {
            Retirement::Granted => {
                self.lanes.remove(&lane);
                let _ = actor.cast(LaneMessage::Retired);
            }
            Retirement::AfterLease | Retirement::Denied => {}
        }
    }

    fn lane_gone(&mut self, lane: LaneId) {
        self.lanes.remove(&lane);
        // A lane reports the exit of its engine before it ends. A lane that still has a chunk here failed in a
        // way that says nothing about the chunk.
        let ended = self.queue.lane_gone(lane, EngineExit::Stopped);
        self.settle(ended);
    }

    fn cold_lanes_gone(&mut self, up_to: LaneId) {
        self.cold_gone = Some(up_to);
        for lane in self.queue.lanes_of(LaneKind::Cold) {
            if lane <= up_to {
                self.lane_gone(lane);
            }
        }
    }

    /// Discards waiting work if the hot lane will not be ready soon and there is no other lane.
    fn discard_if_no_lane_is_left(&mut self) {
        if let Some(error) = self.hot_lane_lost.clone()
            && self.queue.busy_and_idle() == (0, 0)
        {
            self.discard_waiting(&error);
        }
    }

    fn discard_waiting(&mut self, error: &SttError) {
        for key in self.queue.take_waiting() {
            record_chunks(ChunkOutcome::Discarded, 1);
            self.tell_owner(key, Err(error.clone()));
        }
    }

    /// Acts on the end of a lease.
    fn settle(&mut self, ended: Ended) {
        match ended {
            Ended::Done {
                key,
                transcript,
                lane,
                cold_failed,
            } => {
                record_chunks(ChunkOutcome::Done, 1);
                let done = ChunkDone {
                    transcript,
                    lane,
                    rescued: cold_failed && lane == LaneKind::Hot,
                    reused: false,
                };
                self.tell_owner(key, Ok(done));
            }
            Ended::Requeued(key) => {
                record_chunks(ChunkOutcome::Retried, 1);
                info!(
                    request_id = self.request_id(key),
                    chunk = %key.index,
                    "retrying the chunk"
                );
                self.begin_wait(key);
            }
            Ended::Withdrawn(key) => self.withdraw(key),
            Ended::Discarded { key, error } => {
                record_chunks(ChunkOutcome::Discarded, 1);
                warn!(request_id = self.request_id(key), chunk = %key.index, %error, "the chunk is discarded");
                self.tell_owner(key, Err(error));
            }
            Ended::Stale => debug!("a stale answer is ignored"),
        }
    }

    /// The chunk's request has no client at the moment.
    fn withdraw(&mut self, key: ChunkKey) {
        record_chunks(ChunkOutcome::Cancelled, 1);
        self.tell(key, ChunkNews::Withdrawn);
    }

    fn tell_owner(&mut self, key: ChunkKey, outcome: Result<ChunkDone, SttError>) {
        self.tell(key, ChunkNews::Ended(outcome));
    }

    fn tell(&mut self, key: ChunkKey, news: ChunkNews) {
        if !matches!(news, ChunkNews::LanguageDetected(_)) {
            self.spans.end(key);
        }
        if let Some(owner) = self.owners.get(&key.job) {
            (owner.tell).tell(key.index, news);
        }
    }

    fn request_id(&self, key: ChunkKey) -> &str {
        self.owners
            .get(&key.job)
            .map_or("", |owner| &owner.request_id)
    }

    /// Gives work to idle lanes and updates the status.
    fn hand_out(&mut self) {
        while let Some((lane, lease)) = self.queue.assign(Instant::now()) {
            let request = &lease.request;
            debug!(request_id = %request.request_id, chunk = %request.audio.index, lane = lane.0,
                seconds = request.audio.duration_seconds(), "chunk assigned");
            self.begin_run(lane, &lease);
            let sent = self
                .lanes
                .get(&lane)
                .is_some_and(|actor| actor.cast(LaneMessage::Run(lease)).is_ok());
            if !sent {
                // Its mailbox is closed: the lane ended, and its supervisor's message is on the way.
                self.lane_gone(lane);
            }
        }
        self.discard_if_no_lane_is_left();
        for yielded in self.queue.yield_lanes() {
            let Yielded {
                lane,
                lease,
                key,
                withdrawn,
            } = yielded;
            debug!(
                request_id = self.request_id(key),
                chunk = %key.index,
                "aborting a chunk that yields to other work"
            );
            self.abort(lane, lease);
            if withdrawn {
                self.withdraw(key);
            }
        }
        for (lane, lease) in self.queue.held_up() {
            self.tell_lane(lane, LaneMessage::WorkWaits(lease));
        }
        let (busy, idle) = self.queue.busy_and_idle();
        self.status.set_queue(self.queue.waiting(), busy, idle);
    }
}

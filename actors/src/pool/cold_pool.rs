//! The ColdPool: decides how many cold workers there should be, and supervises them.
//!
//! At every tick it compares the work in hand with what a worker's start costs
//! ([`pool_sizing`](crate::pool::sizing)) and starts at most one worker, never while another one
//! still loads. Workers go by themselves when they have idled. One that fails is not replaced as
//! such: if the work is still worth it, the next tick starts another, after a pause that grows with
//! failures in a row. A worker for which there was no memory lowers the number of workers for a
//! while ([`MemoryCap`]).
//!
//! Supervised by the Supervisor. If it fails, its workers end with it, and its successor starts
//! without any.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SpawnErr, SupervisionEvent};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::domain::error::{EngineExit, LaunchError, SttError};
use crate::domain::ids::{LaneId, LaneKind, WorkerId};
use crate::lane::LaneArguments;
use crate::lane::exit::{LaneExit, LaneFailure};
use crate::lane::restart_budget::RestartBudget;
use crate::lane::worker::{ColdWorker, WorkerArguments};
use crate::pool::PoolConfig;
use crate::pool::demand::{DemandPolicy, Obstacle};
use crate::pool::memory_cap::MemoryCap;
use crate::ports::EngineInfo;
use crate::queue::messages::{DispatcherMessage, LaneMessage};
use crate::status::NodeStatus;
use crate::status::snapshot::Snapshot;

/// What the ColdPool hears.
#[derive(Debug)]
pub enum ColdPoolMessage {
    /// From its own timer: compare and act.
    Tick,
    /// Work has come: do not wait for the timer.
    Look,
    /// From a ColdWorker: the engine is up.
    WorkerReady {
        /// Which worker.
        worker: ActorId,
        /// What was loaded.
        info: EngineInfo,
    },
    /// From the Supervisor: a new Dispatcher took over.
    DispatcherReplaced(ActorRef<DispatcherMessage>),
    /// From the Supervisor: stop every worker, then yourself.
    Stop,
}

/// What a ColdPool is made from.
pub struct ColdPoolArguments {
    /// Its limits.
    pub config: PoolConfig,
    /// How it judges the demand for workers.
    pub demand: DemandPolicy,
    /// Of the node that it is on: its hot lane, and its memory.
    pub node: Arc<NodeStatus>,
    /// Whether a VramWatcher looks at the memory.
    pub memory_is_watched: bool,
    /// What must be free for a worker in any case, in bytes.
    pub least_bytes: u64,
    /// What every worker's lane is made from; its names and its idle limit are filled in.
    pub lane: LaneArguments,
    /// Where demand is read and the pool's own numbers are kept.
    pub status: Arc<NodeStatus>,
}

/// The actor's state.
pub struct ColdPoolState {
    arguments: ColdPoolArguments,
    workers: HashMap<ActorId, Worker>,
    budget: RestartBudget,
    chunks_at_last_failure: u64,
    /// No start before this.
    not_before: Instant,
    learned: MemoryCap,
    /// When the last worker came up or went: what it took or gave is seen by a look after that only.
    last_change: Instant,
    short_of_memory: bool,
    /// How the last worker failed, unless one came up since.
    last_failure: Option<LastFailure>,
}

struct LastFailure {
    reason: String,
    /// It never came up.
    at_launch: bool,
}

struct Worker {
    actor: ActorRef<LaneMessage>,
    lane: LaneId,
    name: WorkerId,
    ready: bool,
}

/// The actor.
#[derive(Debug)]
pub struct ColdPool;

impl Actor for ColdPool {
    type Msg = ColdPoolMessage;
    type State = ColdPoolState;
    type Arguments = ColdPoolArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        arguments: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        // It ends with the actor.
        drop(myself.send_interval(arguments.config.interval, || ColdPoolMessage::Tick));
        let finished = arguments.status.finished_chunks(LaneKind::Cold);
        let state = ColdPoolState {
            arguments,
            workers: HashMap::new(),
            budget: RestartBudget::default(),
            chunks_at_last_failure: finished,
            not_before: Instant::now(),
            learned: MemoryCap::default(),
            last_change: Instant::now(),
            short_of_memory: false,
            last_failure: None,
        };
        state.publish(0);
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            ColdPoolMessage::Tick => state.tick(&myself, 0).await?,
            // It is on its way to the queue.
            ColdPoolMessage::Look => state.tick(&myself, 1).await?,
            ColdPoolMessage::WorkerReady { worker, info } => state.worker_ready(worker, &info),
            ColdPoolMessage::DispatcherReplaced(dispatcher) => {
                state.dispatcher_replaced(dispatcher);
            }
            ColdPoolMessage::Stop => {
                state.stop_workers().await;
                myself.stop(None);
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<Self::Msg>,
        event: SupervisionEvent,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(who, reason) => state.worker_failed(&who, Some(&reason)),
            SupervisionEvent::ActorTerminated(who, _, reason) => {
                match LaneExit::from_reason(reason.as_deref()) {
                    Some(why) => state.worker_left(&who, why),
                    None => state.worker_failed(&who, None),
                }
            }
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => {}
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        myself: ActorRef<Self::Msg>,
        _state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        // A parent's exit kills children without their `post_stop`: whatever is left is stopped.
        myself.stop_children_and_wait(None, None).await;
        Ok(())
    }
}

impl ColdPoolState {
    /// `coming`: chunks that are not in the queue yet.
    async fn tick(
        &mut self,
        myself: &ActorRef<ColdPoolMessage>,
        coming: usize,
    ) -> Result<(), SpawnErr> {
        let snapshot = self.arguments.status.snapshot();
        let wanted = self.wanted(&snapshot).max(coming);
        if wanted > self.workers.len() && self.may_start(&snapshot) {
            self.start(myself).await?;
        }
        if wanted > 0 && self.workers.is_empty() {
            self.reject_stuck_work();
        }
        self.publish(wanted);
        Ok(())
    }

    fn wanted(&self, snapshot: &Snapshot) -> usize {
        let cap = self.learned.cap(Instant::now());
        let config = &self.arguments.config;
        self.arguments.demand.wanted(snapshot, config, cap)
    }

    /// Rejects waiting work for which no worker will start soon, unless another lane can do it.
    fn reject_stuck_work(&self) {
        let failure = self.last_failure.as_ref();
        let rejection = self.arguments.demand.rejection(Obstacle {
            last_failure: failure.map(|failure| failure.reason.as_str()),
            failed_at_launch: failure.is_some_and(|failure| failure.at_launch),
            pause: self.not_before.saturating_duration_since(Instant::now()),
            short_of_memory: self.short_of_memory,
        });
        if let Some(reason) = rejection {
            let rejection = SttError::NotReady {
                reason,
                retry_after: self.arguments.status.snapshot().start_time(),
            };
            let reject = DispatcherMessage::RefuseWaiting(rejection);
            let _ = self.arguments.lane.dispatcher.cast(reject);
        }
    }

    fn may_start(&mut self, snapshot: &Snapshot) -> bool {
        let one_at_a_time = self.workers.values().all(|worker| worker.ready);
        let hot = self.arguments.node.hot();
        let hot_allows = self.arguments.demand.may_start_beside(&hot);
        let now = Instant::now() >= self.not_before;
        one_at_a_time && hot_allows && now && !snapshot.draining && self.has_memory()
    }

    fn has_memory(&mut self) -> bool {
        if !self.arguments.memory_is_watched {
            return true;
        }
        let node = &self.arguments.node;
        if !node.memory_shows(self.last_change) {
            return false;
        }
        let memory = node.snapshot().memory;
        let least = self.arguments.least_bytes;
        let short = !memory.fits_one_more || memory.free_bytes.is_some_and(|free| free < least);
        if short && !self.short_of_memory {
            info!(
                free_bytes = memory.free_bytes,
                need_bytes = memory.need_bytes,
                "there is work for one more worker, but no memory"
            );
        }
        self.short_of_memory = short;
        !short
    }

    async fn start(&mut self, myself: &ActorRef<ColdPoolMessage>) -> Result<(), SpawnErr> {
        let number = self.arguments.status.count_spawn();
        let name = self.arguments.lane.worker.numbered(number);
        let lane = LaneId::next();
        let pool = myself.clone();
        let arguments = WorkerArguments {
            lane: LaneArguments {
                lane,
                worker: name.clone(),
                idle_limit: Some(self.arguments.config.idle.limit(self.workers.len())),
                ..self.arguments.lane.clone()
            },
            on_ready: Box::new(move |worker, info| {
                let _ = pool.cast(ColdPoolMessage::WorkerReady { worker, info });
            }),
        };
        let spawned =
            ColdWorker::spawn_linked(None, ColdWorker, arguments, myself.get_cell()).await?;
        let (actor, _join) = spawned;
        let worker = Worker {
            actor: actor.clone(),
            lane,
            name,
            ready: false,
        };
        self.workers.insert(actor.get_id(), worker);
        Ok(())
    }

    fn worker_ready(&mut self, worker: ActorId, info: &EngineInfo) {
        let active = self.active();
        let Some(worker) = self.workers.get_mut(&worker) else {
            return;
        };
        worker.ready = true;
        self.last_failure = None;
        self.arguments.status.record_start(info.load_time);
        self.learned.disprove(active);
        self.last_change = Instant::now();
        self.publish_counts();
    }

    fn worker_left(&mut self, who: &ActorCell, why: LaneExit) {
        if let Some(worker) = self.remove(who) {
            info!(worker = %worker.name, reason = ?why, active = self.active(), "a cold worker left");
        }
    }

    fn worker_failed(&mut self, who: &ActorCell, reason: Option<&ActorProcessingErr>) {
        let Some(worker) = self.remove(who) else {
            return;
        };
        let finished = self.arguments.status.finished_chunks(LaneKind::Cold);
        let progressed = finished > self.chunks_at_last_failure;
        self.chunks_at_last_failure = finished;
        let pause = self.budget.record_failure(progressed).after;
        self.not_before = Instant::now() + pause;
        let reason_text = reason.map_or_else(|| "it was ended".to_owned(), ToString::to_string);
        warn!(worker = %worker.name, reason = reason_text, pause_seconds = pause.as_secs_f64(),
            "a cold worker failed");
        self.last_failure = Some(LastFailure {
            reason: reason_text,
            at_launch: !worker.ready,
        });
        if self.workers.is_empty() {
            self.reject_stuck_work();
        }
        if lacked_memory(reason) {
            let active = self.active();
            let hold: Duration = self.learned.learn(active, Instant::now());
            warn!(
                cap = active,
                seconds = hold.as_secs(),
                "the pool is kept smaller: there was no memory for one more worker"
            );
        }
    }

    fn remove(&mut self, who: &ActorCell) -> Option<Worker> {
        let worker = self.workers.remove(&who.get_id())?;
        if self.arguments.demand.awaits_freed_memory() {
            self.last_change = Instant::now();
        }
        // The lane gives its chunk back itself, unless it failed in a way that it could not.
        let gone = DispatcherMessage::LaneGone(worker.lane);
        let _ = self.arguments.lane.dispatcher.cast(gone);
        self.publish_counts();
        Some(worker)
    }

    fn active(&self) -> usize {
        self.workers.values().filter(|worker| worker.ready).count()
    }

    fn publish(&self, wanted: usize) {
        let (active, all) = (self.active(), self.workers.len());
        let size = self.arguments.config.size;
        (self.arguments.status).set_pool(active, all - active, wanted, size);
    }

    fn publish_counts(&self) {
        self.publish(self.arguments.status.snapshot().pool.wanted);
    }

    fn dispatcher_replaced(&mut self, dispatcher: ActorRef<DispatcherMessage>) {
        for worker in self.workers.values() {
            let replaced = LaneMessage::DispatcherReplaced(dispatcher.clone());
            let _ = worker.actor.cast(replaced);
        }
        self.arguments.lane.dispatcher = dispatcher;
    }

    /// All at once, so that many slow workers take no longer than one.
    async fn stop_workers(&mut self) {
        let within = self.arguments.lane.stop_grace * 3;
        for worker in self.workers.values() {
            let _ = worker.actor.cast(LaneMessage::Stop);
        }
        for worker in self.workers.values() {
            if worker.actor.get_cell().wait(Some(within)).await.is_err() {
                warn!(worker = %worker.name, "a cold worker did not stop in time");
            }
        }
    }
}

fn lacked_memory(reason: Option<&ActorProcessingErr>) -> bool {
    let failure = reason.and_then(|reason| reason.downcast_ref::<LaneFailure>());
    matches!(
        failure,
        Some(
            LaneFailure::Launch(LaunchError::OutOfMemory(_))
                | LaneFailure::Exited(EngineExit::OutOfMemory)
        )
    )
}

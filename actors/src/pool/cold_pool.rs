//! The ColdPool: decides how many cold workers there should be, and supervises them.
//!
//! Every tick it asks its [`DemandPolicy`] how many workers the work is worth, and starts at most one, never
//! while another one is loading. Idle workers end by themselves. A worker that failed is not replaced as such:
//! if the work is still worth it, a later tick starts another, after a pause that grows with consecutive
//! failures. A worker that ran out of memory lowers the limit of the pool temporarily ([`MemoryCap`]).
//!
//! Supervised by the Supervisor, or by the FallbackModel. If it fails, its workers end with it, and its
//! successor starts without any.

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

/// Messages that the ColdPool handles.
#[derive(Debug)]
pub enum ColdPoolMessage {
    /// From its own timer: check the demand.
    Tick,
    /// Work arrives: check the demand now.
    Look,
    /// From a ColdWorker: its engine is loaded.
    WorkerReady {
        /// The worker.
        worker: ActorId,
        /// The engine.
        info: EngineInfo,
    },
    /// From its supervisor: a new Dispatcher took over.
    DispatcherReplaced(ActorRef<DispatcherMessage>),
    /// From its supervisor: stop every worker, then the pool.
    Stop,
}

/// Arguments of the ColdPool.
pub struct ColdPoolArguments {
    /// Its limits.
    pub config: PoolConfig,
    /// Decides how many workers the work is worth.
    pub demand: DemandPolicy,
    /// Status of the node: its hot lane and its memory.
    pub node: Arc<NodeStatus>,
    /// Whether a VramWatcher samples the memory.
    pub memory_is_watched: bool,
    /// Memory that must always be free for a new worker, in bytes.
    pub least_bytes: u64,
    /// Template for the lanes of the workers; the pool sets names and the idle limit.
    pub lane: LaneArguments,
    /// Status of the queue, which also keeps the pool's numbers.
    pub status: Arc<NodeStatus>,
}

/// The actor's state.
pub struct ColdPoolState {
    arguments: ColdPoolArguments,
    workers: HashMap<ActorId, Worker>,
    budget: RestartBudget,
    chunks_at_last_failure: u64,
    /// No worker starts before this moment.
    not_before: Instant,
    memory_cap: MemoryCap,
    /// When the last worker became ready or ended: only later memory samples show the difference.
    last_change: Instant,
    short_of_memory: bool,
    /// The failure of the last worker, unless one became ready since.
    last_failure: Option<LastFailure>,
}

struct LastFailure {
    reason: String,
    /// The worker never became ready.
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
        // The timer ends with the actor.
        drop(myself.send_interval(arguments.config.interval, || ColdPoolMessage::Tick));
        let finished = arguments.status.finished_chunks(LaneKind::Cold);
        let state = ColdPoolState {
            arguments,
            workers: HashMap::new(),
            budget: RestartBudget::default(),
            chunks_at_last_failure: finished,
            not_before: Instant::now(),
            memory_cap: MemoryCap::default(),
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
            // The chunk is on its way to the queue.
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
            SupervisionEvent::ActorFailed(child, reason) => {
                state.worker_failed(&child, Some(&reason));
            }
            SupervisionEvent::ActorTerminated(child, _, reason) => {
                match LaneExit::from_reason(reason.as_deref()) {
                    Some(exit) => state.worker_left(&child, exit),
                    None => state.worker_failed(&child, None),
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
        // A parent's exit kills its children without their `post_stop`, so stop them first.
        myself.stop_children_and_wait(None, None).await;
        Ok(())
    }
}

impl ColdPoolState {
    /// `coming`: number of chunks on their way to the queue.
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
            self.discard_stuck_work();
        }
        self.publish(wanted);
        Ok(())
    }

    fn wanted(&self, snapshot: &Snapshot) -> usize {
        let cap = self.memory_cap.cap(Instant::now());
        let config = &self.arguments.config;
        self.arguments.demand.wanted(snapshot, config, cap)
    }

    /// Discards waiting work if no worker will start soon and no other lane can do it.
    fn discard_stuck_work(&self) {
        let failure = self.last_failure.as_ref();
        let discards = self.arguments.demand.discards(Obstacle {
            last_failure: failure.map(|failure| failure.reason.as_str()),
            failed_at_launch: failure.is_some_and(|failure| failure.at_launch),
            pause: self.not_before.saturating_duration_since(Instant::now()),
            short_of_memory: self.short_of_memory,
        });
        if let Some(reason) = discards {
            let error = SttError::NotReady {
                reason,
                retry_after: self.arguments.status.snapshot().start_time(),
            };
            let discard = DispatcherMessage::DiscardWaiting(error);
            let _ = self.arguments.lane.dispatcher.cast(discard);
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
                "one more worker would pay, but too little memory is free"
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
                idle_limit: Some(self.idle_limit()),
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

    /// How long the next worker may be idle. Only slots that a worker can have now count: neither those beyond the
    /// size of the pool nor those for which there is no memory.
    fn idle_limit(&self) -> Duration {
        let workers = self.workers.len();
        let config = &self.arguments.config;
        let memory_cap = self.memory_cap.cap(Instant::now()).unwrap_or(usize::MAX);
        let fitting = self.workers_that_fit().unwrap_or(usize::MAX);
        let slots = config.size.min(memory_cap).min(fitting);
        config.idle.limit(slots.max(workers + 1), workers)
    }

    /// Number of workers for which there is memory, those that exist included; `None`: unknown.
    fn workers_that_fit(&self) -> Option<usize> {
        let memory = self.arguments.node.snapshot().memory;
        let need = memory.need_bytes.filter(|need| *need > 0)?;
        let more = memory.free_bytes? / need;
        Some(self.workers.len() + usize::try_from(more).unwrap_or(usize::MAX))
    }

    fn worker_ready(&mut self, worker: ActorId, info: &EngineInfo) {
        let active = self.active();
        let Some(worker) = self.workers.get_mut(&worker) else {
            return;
        };
        worker.ready = true;
        self.last_failure = None;
        self.arguments.status.record_start(info.load_time);
        self.memory_cap.worker_fits_beside(active);
        self.last_change = Instant::now();
        self.publish_counts();
    }

    fn worker_left(&mut self, child: &ActorCell, exit: LaneExit) {
        if let Some(worker) = self.remove(child) {
            info!(worker = %worker.name, reason = ?exit, active = self.active(), "a cold worker left");
        }
    }

    fn worker_failed(&mut self, child: &ActorCell, reason: Option<&ActorProcessingErr>) {
        let Some(worker) = self.remove(child) else {
            return;
        };
        let finished = self.arguments.status.finished_chunks(LaneKind::Cold);
        let progressed = finished > self.chunks_at_last_failure;
        self.chunks_at_last_failure = finished;
        let pause = self.budget.record_failure(progressed).after;
        self.not_before = Instant::now() + pause;
        let reason_text = reason.map_or_else(|| "it was stopped".to_owned(), ToString::to_string);
        warn!(worker = %worker.name, reason = reason_text, pause_seconds = pause.as_secs_f64(),
            "a cold worker failed");
        self.last_failure = Some(LastFailure {
            reason: reason_text,
            at_launch: !worker.ready,
        });
        if self.workers.is_empty() {
            self.discard_stuck_work();
        }
        if lacked_memory(reason) {
            let active = self.active();
            let hold: Duration = self.memory_cap.lower_to(active, Instant::now());
            warn!(
                cap = active,
                seconds = hold.as_secs(),
                "the pool stays smaller for a while: a worker ran out of memory"
            );
        }
    }

    fn remove(&mut self, child: &ActorCell) -> Option<Worker> {
        let worker = self.workers.remove(&child.get_id())?;
        if self.arguments.demand.awaits_freed_memory() {
            self.last_change = Instant::now();
        }
        // The lane returns its chunk itself, unless it failed before it could.
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

    /// Stops all workers at the same time, so that many slow ones take no longer than one.
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

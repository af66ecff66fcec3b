//! A lane: the logic of one worker around one engine, shared by the hot and the cold workers.
//!
//! A lane lives exactly as long as its engine. It launches the engine, offers itself to the Dispatcher and runs
//! one lease at a time. If the engine ends without being asked to, the lane fails, and its supervisor decides
//! whether to restart it. A lane that is idle for too long or whose engine reached a recycling limit ends by
//! itself, but only after the Dispatcher agreed, since a chunk may be on its way. Loading and transcribing
//! run in tasks that end with the lane, so that its mailbox keeps moving.

pub mod exit;
pub mod idle;
pub mod recycling;
pub mod restart_budget;
pub(crate) mod running;
pub mod worker;

use std::sync::Arc;
use std::time::Duration;

use ractor::{ActorProcessingErr, ActorRef};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};

use crate::domain::error::{EngineError, EngineExit, LaunchError};
use crate::domain::ids::{LaneId, LaneKind, LeaseId, WorkerId};
use crate::domain::job::WorkKind;
use crate::domain::transcript::ChunkTranscript;
use crate::lane::exit::{LaneExit, LaneFailure};
use crate::lane::idle::{IdleTimer, Verdict};
use crate::lane::recycling::{RecyclingLimits, RecyclingPolicy, new_engine_is_sooner};
use crate::lane::running::Running;
use crate::ports::{DetectedLanguage, Engine, EngineInfo, EngineLauncher};
use crate::queue::messages::{DispatcherMessage, LaneMessage, LaunchedEngine, Lease, Retire};
use crate::status::NodeStatus;
use crate::status::lanes::{LaneAccount, LaneWork};
use crate::task::{caught, spawn};

/// The arguments of a lane.
#[derive(Clone)]
pub struct LaneArguments {
    /// The lane in messages to the Dispatcher.
    pub lane: LaneId,
    /// Hot or cold.
    pub kind: LaneKind,
    /// The engine in logs.
    pub worker: WorkerId,
    /// Starts the engine.
    pub launcher: Arc<dyn EngineLauncher>,
    /// Time limit for one chunk; the engine is killed after it.
    pub chunk_timeout: Duration,
    /// Time that a stopping engine may take before it is killed.
    pub stop_grace: Duration,
    /// The lane ends after being idle for this long; `None`: never.
    pub idle_limit: Option<Duration>,
    /// When the engine is replaced.
    pub recycling: RecyclingLimits,
    /// Hands out the work.
    pub dispatcher: ActorRef<DispatcherMessage>,
    /// Keeps the measured rates.
    pub status: Arc<NodeStatus>,
}

/// State and logic of a lane. The worker actors only pass messages to it.
pub struct Lane {
    arguments: LaneArguments,
    account: LaneAccount,
    phase: Phase,
    idle_timer: Option<IdleTimer>,
    alarm_is_set: bool,
    /// Why it asked the Dispatcher to end.
    leaving: Option<LaneExit>,
    /// A new Dispatcher took over while a chunk of the old one was running.
    offer_when_free: bool,
}

enum Phase {
    Loading {
        _launch: AbortOnDropHandle<()>,
    },
    Up {
        engine: Arc<dyn Engine>,
        _exit_watch: AbortOnDropHandle<()>,
        recycling: RecyclingPolicy,
        running: Option<Running>,
    },
}

impl Lane {
    /// Starts the engine; the result arrives as [`LaneMessage::Launched`].
    pub fn launch(arguments: LaneArguments, myself: ActorRef<LaneMessage>) -> Self {
        let launcher = Arc::clone(&arguments.launcher);
        let worker = arguments.worker.clone();
        let account = LaneAccount::open(&arguments.status, arguments.lane, worker.clone());
        info!(%worker, "starting a worker");
        crate::metrics::record_worker_start(worker.role());
        let launch = spawn(async move {
            let result = caught(launcher.launch(&worker))
                .await
                .unwrap_or_else(|| Err(LaunchError::Worker("the launcher panicked".to_owned())))
                .map(LaunchedEngine);
            let _ = myself.cast(LaneMessage::Launched(result));
        });
        Self {
            idle_timer: arguments.idle_limit.map(IdleTimer::new),
            alarm_is_set: false,
            arguments,
            account,
            phase: Phase::Loading { _launch: launch },
            leaving: None,
            offer_when_free: false,
        }
    }

    /// Handles one message of the worker's actor, and stops that actor once the engine has stopped as requested.
    /// Returns the engine's description when it is loaded. An error, which ends the actor, means that the
    /// engine is gone.
    pub async fn handle(
        &mut self,
        myself: &ActorRef<LaneMessage>,
        message: LaneMessage,
    ) -> Result<Option<EngineInfo>, ActorProcessingErr> {
        let handled = self.handle_message(myself, message).await;
        if handled.is_err() {
            crate::metrics::record_worker_crash(self.arguments.worker.role());
        }
        Ok(handled?)
    }

    async fn handle_message(
        &mut self,
        myself: &ActorRef<LaneMessage>,
        message: LaneMessage,
    ) -> Result<Option<EngineInfo>, LaneFailure> {
        match message {
            LaneMessage::Launched(Ok(engine)) => return Ok(Some(self.engine_up(myself, engine.0))),
            LaneMessage::Launched(Err(error)) => return Err(LaneFailure::Launch(error)),
            LaneMessage::Run(lease) => self.run(myself, lease),
            LaneMessage::Abort(lease) => self.abort(lease),
            LaneMessage::WorkIs(lease, kind) => self.work_is(lease, kind),
            LaneMessage::WorkWaits(lease) => self.work_waits(myself, lease),
            LaneMessage::LanguageDetected(lease, language) => self.language_heard(lease, language),
            LaneMessage::Finished(lease, outcome) => self.finished(myself, lease, outcome)?,
            LaneMessage::EngineExited(exit) => return Err(self.engine_exited(exit)),
            LaneMessage::DispatcherReplaced(dispatcher) => {
                self.dispatcher_replaced(myself, dispatcher);
            }
            LaneMessage::CheckIdle => self.check_idle(myself),
            LaneMessage::Retired => self.stop(myself, self.leaving).await,
            LaneMessage::Stop => self.stop(myself, None).await,
        }
        Ok(None)
    }

    fn engine_up(&mut self, myself: &ActorRef<LaneMessage>, engine: Arc<dyn Engine>) -> EngineInfo {
        let info = engine.info().clone();
        info!(worker = %self.arguments.worker, model = info.model, device = info.device,
            load_seconds = info.load_time.as_secs_f64(), "worker ready");
        let watched = Arc::clone(&engine);
        let lane = myself.clone();
        let exit_watch = spawn(async move {
            let exit = watched.exited().await;
            let _ = lane.cast(LaneMessage::EngineExited(exit));
        });
        self.account.engine_up(info.process_id);
        self.phase = Phase::Up {
            engine,
            _exit_watch: exit_watch,
            recycling: RecyclingPolicy::new(self.arguments.recycling),
            running: None,
        };
        self.offer(myself);
        self.start_idle_timer(myself);
        info
    }

    /// Starts the idle timer: no chunk is running.
    fn start_idle_timer(&mut self, myself: &ActorRef<LaneMessage>) {
        let due_in = (self.idle_timer.as_mut()).map(|idle_timer| idle_timer.idle(Instant::now()));
        self.account.idle(due_in);
        if let Some(due_in) = due_in {
            self.set_alarm(myself, due_in);
        }
    }

    /// Sets an alarm unless one is set. An alarm that turns out to be too early is set again.
    fn set_alarm(&mut self, myself: &ActorRef<LaneMessage>, after: Duration) {
        if !std::mem::replace(&mut self.alarm_is_set, true) {
            drop(myself.send_after(after, || LaneMessage::CheckIdle));
        }
    }

    fn check_idle(&mut self, myself: &ActorRef<LaneMessage>) {
        self.alarm_is_set = false;
        let verdict = self.idle_timer.as_ref().map(|r| r.check(Instant::now()));
        match verdict {
            Some(Verdict::Due) if self.is_about_to_be_needed() => self.start_idle_timer(myself),
            Some(Verdict::Due) => self.leave(myself, LaneExit::Idle, Retire::IfIdle),
            Some(Verdict::IdleFor(left)) => self.set_alarm(myself, left),
            // The timer starts again after the chunk.
            Some(Verdict::Busy) | None => {}
        }
    }

    /// Whether a request is being uploaded or decoded, for which the hot lane would be started again at once.
    fn is_about_to_be_needed(&self) -> bool {
        let admitted = self.arguments.status.requests() > 0;
        self.arguments.kind == LaneKind::Hot && admitted
    }

    /// Asks the Dispatcher whether the lane may end. There is no answer if a chunk is on its way to this lane;
    /// then the lane asks again after its next idle time.
    fn leave(&mut self, myself: &ActorRef<LaneMessage>, exit: LaneExit, when: Retire) {
        self.leaving = Some(exit);
        let _ = self.arguments.dispatcher.cast(DispatcherMessage::Retire {
            lane: self.arguments.lane,
            when,
            actor: myself.clone(),
        });
    }

    fn offer(&self, myself: &ActorRef<LaneMessage>) {
        // If the Dispatcher is gone, the message about its successor follows.
        let _ = self
            .arguments
            .dispatcher
            .cast(DispatcherMessage::LaneReady {
                lane: self.arguments.lane,
                kind: self.arguments.kind,
                actor: myself.clone(),
            });
    }

    fn run(&mut self, myself: &ActorRef<LaneMessage>, lease: Lease) {
        let Phase::Up {
            engine, running, ..
        } = &mut self.phase
        else {
            warn!(worker = %self.arguments.worker, "a lease arrived before the engine was ready");
            return;
        };
        let limits = (self.arguments.chunk_timeout, self.arguments.stop_grace);
        let kind = lease.kind;
        let begun = Running::begin(engine, myself, lease, limits);
        self.account.busy(LaneWork {
            kind,
            audio_seconds: begun.audio_seconds,
        });
        *running = Some(begun);
        if let Some(idle_timer) = &mut self.idle_timer {
            idle_timer.busy();
        }
    }

    fn abort(&mut self, lease: LeaseId) {
        if let Phase::Up {
            engine,
            running: Some(running),
            ..
        } = &self.phase
            && running.lease == lease
        {
            debug!(worker = %self.arguments.worker, "aborting a chunk of a cancelled request");
            running.abort(engine.as_ref());
        }
    }

    fn work_is(&self, lease: LeaseId, kind: WorkKind) {
        if let Phase::Up {
            running: Some(running),
            ..
        } = &self.phase
            && running.lease == lease
        {
            self.account.work_is(kind);
        }
    }

    /// The running chunk is cancelled, and other work waits for this lane. An engine notices an abort only after
    /// its encoder pass: if a new engine would be ready before that, this lane ends immediately.
    fn work_waits(&mut self, myself: &ActorRef<LaneMessage>, lease: LeaseId) {
        let Phase::Up {
            running: Some(running),
            ..
        } = &self.phase
        else {
            return;
        };
        let status = &self.arguments.status;
        let (cost, start) = (status.cost(), status.measured_start());
        let pays = running.lease == lease
            && running.is_aborted()
            && new_engine_is_sooner(cost, start, running.elapsed());
        if pays {
            info!(worker = %self.arguments.worker, "ending a worker that is busy with cancelled work");
            self.leave(myself, LaneExit::Abandoned, Retire::AfterLease);
            self.report(lease, Err(EngineError::Aborted));
        }
    }

    fn language_heard(&self, lease: LeaseId, language: DetectedLanguage) {
        let lane = self.arguments.lane;
        let heard = DispatcherMessage::LanguageDetected {
            lane,
            lease,
            language,
        };
        let _ = self.arguments.dispatcher.cast(heard);
    }

    fn finished(
        &mut self,
        myself: &ActorRef<LaneMessage>,
        lease: LeaseId,
        outcome: Result<ChunkTranscript, EngineError>,
    ) -> Result<(), LaneFailure> {
        let Phase::Up {
            running,
            recycling,
            engine,
            ..
        } = &mut self.phase
        else {
            return Ok(());
        };
        let Some(done) = running.take_if(|running| running.lease == lease) else {
            return Ok(());
        };
        let limit_reached = recycling.chunk_done(engine.resident_bytes());
        let exit = match &outcome {
            Err(EngineError::Exited(exit)) => Some(exit.clone()),
            Ok(_) | Err(EngineError::Aborted | EngineError::Failed(_)) => None,
        };
        if let Ok(transcript) = &outcome {
            let kind = self.arguments.kind;
            crate::metrics::record_inference(kind, transcript);
            (self.arguments.status).record_finished_chunk(
                kind,
                transcript.inference_seconds,
                done.audio_seconds,
            );
        }
        if let Some(recycling) = limit_reached.filter(|_| exit.is_none()) {
            info!(worker = %self.arguments.worker, %recycling, "the worker is to be replaced");
            // Sent before the answer, so that the Dispatcher hands out no other chunk in between.
            self.leave(myself, LaneExit::Recycled, Retire::AfterLease);
        }
        self.report(lease, outcome);
        if let Some(exit) = exit {
            // The exit watch reports it too, unless the process cannot be killed.
            return Err(LaneFailure::Exited(exit));
        }
        let to_new_dispatcher = std::mem::take(&mut self.offer_when_free);
        self.free_again(myself, to_new_dispatcher);
        Ok(())
    }

    /// The chunk is done. A new Dispatcher knows neither this lane nor its wish to end: requests to the old
    /// Dispatcher are lost.
    fn free_again(&mut self, myself: &ActorRef<LaneMessage>, to_new_dispatcher: bool) {
        match (self.leaving, to_new_dispatcher) {
            (Some(exit @ (LaneExit::Recycled | LaneExit::Abandoned)), true) => {
                self.leave(myself, exit, Retire::AfterLease);
            }
            (Some(LaneExit::Recycled | LaneExit::Abandoned), false) => {
                self.account.idle(Some(Duration::ZERO));
            }
            (Some(LaneExit::Idle) | None, _) => {
                self.start_idle_timer(myself);
                if to_new_dispatcher {
                    self.offer(myself);
                }
            }
        }
    }

    fn report(&self, lease: LeaseId, outcome: Result<ChunkTranscript, EngineError>) {
        let _ = self
            .arguments
            .dispatcher
            .cast(DispatcherMessage::LeaseEnded {
                lane: self.arguments.lane,
                lease,
                outcome,
            });
    }

    /// Returns the chunk to the queue before the lane ends, so that the retry counts the true cause.
    fn engine_exited(&mut self, exit: EngineExit) -> LaneFailure {
        warn!(worker = %self.arguments.worker, %exit, "worker ended");
        if let Phase::Up { running, .. } = &mut self.phase
            && let Some(running) = running.take()
        {
            self.report(running.lease, Err(EngineError::Exited(exit.clone())));
        }
        LaneFailure::Exited(exit)
    }

    fn dispatcher_replaced(
        &mut self,
        myself: &ActorRef<LaneMessage>,
        dispatcher: ActorRef<DispatcherMessage>,
    ) {
        self.arguments.dispatcher = dispatcher;
        match &self.phase {
            // The lane offers itself when the engine is ready.
            Phase::Loading { .. } => {}
            Phase::Up {
                engine,
                running: Some(_),
                ..
            } => {
                // The chunk belongs to a queue that is lost: its request enqueues it again.
                engine.abort();
                self.offer_when_free = true;
            }
            Phase::Up { running: None, .. } => self.free_again(myself, true),
        }
    }

    async fn stop(&mut self, myself: &ActorRef<LaneMessage>, exit: Option<LaneExit>) {
        if let Phase::Up { engine, .. } = &self.phase {
            let grace = self.arguments.stop_grace;
            let worker = &self.arguments.worker;
            if let Ok(exit) = tokio::time::timeout(grace * 2, engine.stop(grace)).await {
                info!(%worker, %exit, "worker stopped");
            } else {
                warn!(%worker, "worker cannot be stopped");
            }
        }
        myself.stop(exit.map(|exit| exit.as_str().to_owned()));
    }
}

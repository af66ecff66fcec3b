//! One lane: an actor's worth of logic around one engine, shared by the hot and the cold workers.
//!
//! A lane lives exactly as long as its engine. It launches the engine, offers itself to the
//! Dispatcher, runs one lease at a time, and when the engine ends unasked it fails, so that its
//! supervisor decides what comes next. It goes by itself when it has been idle for long or its
//! engine is worn out, but never without the Dispatcher's leave: a chunk may be on its way. Slow
//! things (the load, a chunk) run in tasks of their own (`lane_task`) that end
//! with the lane, so that its mailbox always moves.

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

use crate::lane::exit::{LaneExit, LaneFailure};
use crate::lane::running::Running;
use crate::queue::messages::{DispatcherMessage, LaneMessage, LaunchedEngine};
use crate::status::cost::Cost;
use crate::task::{caught, spawn};

use crate::domain::error::{EngineError, EngineExit, LaunchError};
use crate::domain::ids::{LaneId, LaneKind, LeaseId, WorkerId};
use crate::domain::transcript::ChunkTranscript;
use crate::lane::idle::{IdleTimer, Verdict};
use crate::lane::recycling::{RecyclingLimits, RecyclingPolicy};
use crate::ports::{DetectedLanguage, Engine, EngineInfo, EngineLauncher};
use crate::queue::messages::{Lease, Retire};
use crate::status::{EngineAccount, NodeStatus};

/// What every lane is made from.
#[derive(Clone)]
pub struct LaneArguments {
    /// Names the lane to the Dispatcher.
    pub lane: LaneId,
    /// Hot or cold.
    pub kind: LaneKind,
    /// Names the engine in logs.
    pub worker: WorkerId,
    /// Starts the engine.
    pub launcher: Arc<dyn EngineLauncher>,
    /// An engine silent for longer on one chunk is ended.
    pub chunk_timeout: Duration,
    /// How long a stopping engine may take before it is killed.
    pub stop_grace: Duration,
    /// The lane goes when it has been idle for so long; `None`: it stays.
    pub idle_limit: Option<Duration>,
    /// The engine is replaced when it is worn out.
    pub recycling: RecyclingLimits,
    /// Who hands out work.
    pub dispatcher: ActorRef<DispatcherMessage>,
    /// Where rates are kept.
    pub status: Arc<NodeStatus>,
}

/// A lane's state and logic. The actors around it only pass messages on.
pub struct Lane {
    arguments: LaneArguments,
    phase: Phase,
    idle_timer: Option<IdleTimer>,
    timer_is_set: bool,
    /// Why it wants to go, once it does.
    leaving: Option<LaneExit>,
    /// A new Dispatcher came while a chunk of the old one's was running.
    offer_when_free: bool,
}

enum Phase {
    Loading {
        _launch: AbortOnDropHandle<()>,
    },
    Up {
        engine: Arc<dyn Engine>,
        _exit_watch: AbortOnDropHandle<()>,
        _account: EngineAccount,
        recycling: RecyclingPolicy,
        running: Option<Running>,
    },
}

impl Lane {
    /// Begins to launch the engine; the result arrives as [`LaneMessage::Launched`].
    pub fn launch(arguments: LaneArguments, myself: ActorRef<LaneMessage>) -> Self {
        let launcher = Arc::clone(&arguments.launcher);
        let worker = arguments.worker.clone();
        info!(%worker, "starting a worker");
        let launch = spawn(async move {
            let result = caught(launcher.launch(&worker))
                .await
                .unwrap_or_else(|| Err(LaunchError::Worker("the launcher panicked".to_owned())))
                .map(LaunchedEngine);
            let _ = myself.cast(LaneMessage::Launched(result));
        });
        Self {
            idle_timer: arguments.idle_limit.map(IdleTimer::new),
            timer_is_set: false,
            arguments,
            phase: Phase::Loading { _launch: launch },
            leaving: None,
            offer_when_free: false,
        }
    }

    /// Handles one message of the actor around the lane, and ends that actor when the engine has
    /// ended as asked. Gives what the engine says of itself when it has come up. An error ends the
    /// actor as well: the engine is gone.
    pub async fn handle(
        &mut self,
        myself: &ActorRef<LaneMessage>,
        message: LaneMessage,
    ) -> Result<Option<EngineInfo>, ActorProcessingErr> {
        match message {
            LaneMessage::Launched(Ok(engine)) => return Ok(Some(self.engine_up(myself, engine.0))),
            LaneMessage::Launched(Err(error)) => return Err(LaneFailure::Launch(error).into()),
            LaneMessage::Run(lease) => self.run(myself, lease),
            LaneMessage::Abort(lease) => self.abort(lease),
            LaneMessage::WorkWaits(lease) => self.work_waits(myself, lease),
            LaneMessage::LanguageHeard(lease, language) => self.language_heard(lease, language),
            LaneMessage::Finished(lease, outcome) => self.finished(myself, lease, outcome)?,
            LaneMessage::EngineExited(exit) => return Err(self.engine_exited(exit).into()),
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
        info!(worker = %self.arguments.worker, model = info.model,
            load_seconds = info.load_time.as_secs_f64(), "worker ready");
        let watched = Arc::clone(&engine);
        let lane = myself.clone();
        let exit_watch = spawn(async move {
            let exit = watched.exited().await;
            let _ = lane.cast(LaneMessage::EngineExited(exit));
        });
        let status = &self.arguments.status;
        self.phase = Phase::Up {
            engine,
            _exit_watch: exit_watch,
            _account: EngineAccount::open(status, self.arguments.lane, info.process_id),
            recycling: RecyclingPolicy::new(self.arguments.recycling),
            running: None,
        };
        self.offer(myself);
        self.rest(myself);
        info
    }

    /// Nothing runs: the time until the lane goes begins.
    fn rest(&mut self, myself: &ActorRef<LaneMessage>) {
        if let Some(idle_timer) = &mut self.idle_timer {
            let due_in = idle_timer.idle(Instant::now());
            self.look_again(myself, due_in);
        }
    }

    /// One timer at a time: it looks at the clock when it comes, and is set anew if it is too soon.
    fn look_again(&mut self, myself: &ActorRef<LaneMessage>, after: Duration) {
        if !std::mem::replace(&mut self.timer_is_set, true) {
            drop(myself.send_after(after, || LaneMessage::CheckIdle));
        }
    }

    fn check_idle(&mut self, myself: &ActorRef<LaneMessage>) {
        self.timer_is_set = false;
        let verdict = self.idle_timer.as_ref().map(|r| r.check(Instant::now()));
        match verdict {
            Some(Verdict::Due) if self.is_about_to_be_needed() => self.rest(myself),
            Some(Verdict::Due) => self.leave(myself, LaneExit::Idle, Retire::IfIdle),
            Some(Verdict::IdleFor(left)) => self.look_again(myself, left),
            // It rests again after its chunk.
            Some(Verdict::Busy) | None => {}
        }
    }

    /// The hot lane stays for a request that is still uploaded or decoded: it would be started
    /// again at once.
    fn is_about_to_be_needed(&self) -> bool {
        let admitted = self.arguments.status.requests() > 0;
        self.arguments.kind == LaneKind::Hot && admitted
    }

    /// Asks the Dispatcher for leave. If a chunk is on its way here, there is no answer, and the
    /// lane asks again after its next idle time.
    fn leave(&mut self, myself: &ActorRef<LaneMessage>, why: LaneExit, when: Retire) {
        self.leaving = Some(why);
        let _ = self.arguments.dispatcher.cast(DispatcherMessage::Retire {
            lane: self.arguments.lane,
            when,
            actor: myself.clone(),
        });
    }

    fn offer(&self, myself: &ActorRef<LaneMessage>) {
        // A Dispatcher that is gone has a successor that will be announced.
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
            warn!(worker = %self.arguments.worker, "a lease came before the engine was up");
            return;
        };
        let limits = (self.arguments.chunk_timeout, self.arguments.stop_grace);
        *running = Some(Running::begin(engine, myself, lease, limits));
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
            debug!(worker = %self.arguments.worker, "aborting a chunk that nobody waits for");
            running.abort(engine.as_ref());
        }
    }

    /// Nobody waits for the chunk that runs, but others do for the lane. An engine hears an abort
    /// only after its encoder pass: if another one is up before that, this one goes at once.
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
            && replacing_pays(cost, start, running.elapsed());
        if pays {
            info!(worker = %self.arguments.worker, "ending a worker that is busy for nobody");
            self.leave(myself, LaneExit::Abandoned, Retire::AfterLease);
            self.report(lease, Err(EngineError::Aborted));
        }
    }

    fn language_heard(&self, lease: LeaseId, language: DetectedLanguage) {
        let lane = self.arguments.lane;
        let heard = DispatcherMessage::LanguageHeard {
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
            // Asked for before the answer: the Dispatcher hands out nothing in between.
            self.leave(myself, LaneExit::Recycled, Retire::AfterLease);
        }
        self.report(lease, outcome);
        if let Some(exit) = exit {
            // The watcher says so as well, unless the process cannot even be killed.
            return Err(LaneFailure::Exited(exit));
        }
        let to_new_dispatcher = std::mem::take(&mut self.offer_when_free);
        self.free_again(myself, to_new_dispatcher);
        Ok(())
    }

    /// Nothing runs any more. A new Dispatcher does not know the lane yet, nor that it wants to go:
    /// what the old one was asked is lost.
    fn free_again(&mut self, myself: &ActorRef<LaneMessage>, to_new_dispatcher: bool) {
        match (self.leaving, to_new_dispatcher) {
            (Some(why @ (LaneExit::Recycled | LaneExit::Abandoned)), true) => {
                self.leave(myself, why, Retire::AfterLease);
            }
            (Some(LaneExit::Recycled | LaneExit::Abandoned), false) => {}
            (Some(LaneExit::Idle) | None, _) => {
                self.rest(myself);
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

    /// The chunk is given back before the lane goes, so that it is tried again with the true
    /// cause of death on its account.
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
            // It offers itself when the engine is up.
            Phase::Loading { .. } => {}
            Phase::Up {
                engine,
                running: Some(_),
                ..
            } => {
                // The chunk belongs to a queue that is lost.
                engine.abort();
                self.offer_when_free = true;
            }
            Phase::Up { running: None, .. } => self.free_again(myself, true),
        }
    }

    async fn stop(&mut self, myself: &ActorRef<LaneMessage>, why: Option<LaneExit>) {
        if let Phase::Up { engine, .. } = &self.phase {
            let grace = self.arguments.stop_grace;
            let worker = &self.arguments.worker;
            if let Ok(exit) = tokio::time::timeout(grace * 2, engine.stop(grace)).await {
                info!(%worker, %exit, "worker stopped");
            } else {
                warn!(%worker, "worker cannot be stopped");
            }
        }
        myself.stop(why.map(|why| why.as_str().to_owned()));
    }
}

/// Whether another engine is up before this one hears of an abort: its pass through the encoder is
/// the fixed part of what a chunk costs, and begins the work. Half as much again is allowed for
/// what a start takes longer than usual.
fn replacing_pays(cost: Option<Cost>, start: Option<Duration>, worked: Duration) -> bool {
    let (Some(cost), Some(start)) = (cost, start) else {
        return false;
    };
    let rest_of_pass = cost.fixed - worked.as_secs_f64();
    rest_of_pass > 1.5 * start.as_secs_f64()
}

//! The Supervisor: root of the tree.
//!
//! It owns the Dispatcher, the Transcriptions and the HotWorker, starts them in this order and
//! stops them in the reverse one. Each child has a restart policy of its own:
//!
//! - The HotWorker comes back after a pause that grows with failures in a row
//!   ([`RestartBudget`]). While the budget lasts, work waits for it; after that, and when the
//!   model itself is at fault, work is refused, and the node keeps trying, seldom.
//! - The Dispatcher is replaced at once; lanes and transcriptions are told and nothing is lost.
//! - The Transcriptions are replaced at once; the requests under them have failed with them.
//!
//! ColdPool, VramWatcher and Registrar belong here too, as further children between the
//! HotWorker and the end of `SupervisorState::start`.

use std::sync::Arc;
use std::time::Duration;

use ractor::{
    Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, SpawnErr,
    SupervisionEvent,
};
use tracing::{error, info, warn};

use crate::config::{Ports, TreeConfig};
use crate::dispatcher::{Dispatcher, DispatcherArguments, DispatcherMessage};
use crate::error::SttError;
use crate::hot_worker::{HotWorker, HotWorkerArguments};
use crate::job::Job;
use crate::lane::{LaneArguments, LaneFailure, LaneMessage};
use crate::ports::{EngineInfo, LaunchError, WorkerId};
use crate::restart_budget::{Restart, RestartBudget};
use crate::status::{HotState, NodeStatus};
use crate::transcription::EventSender;
use crate::transcriptions::{
    Accepted, Transcriptions, TranscriptionsArguments, TranscriptionsMessage,
};
use crate::work_queue::{LaneId, LaneKind};

/// A model that could not be loaded is tried again this seldom: files do not mend themselves in
/// milliseconds.
const MODEL_RETRY: Duration = Duration::from_secs(10);

/// What the Supervisor hears.
#[derive(Debug)]
pub enum SupervisorMessage {
    /// From the handle: a job.
    Submit {
        /// The work.
        job: Job,
        /// Where its events go.
        events: EventSender,
        /// Hears whether it started.
        reply: RpcReplyPort<Accepted>,
    },
    /// From the HotWorker: the engine is up.
    HotReady {
        /// Which incarnation says so.
        worker: ActorId,
        /// What was loaded.
        info: EngineInfo,
    },
    /// To itself, after a pause: bring the HotWorker back.
    StartHot,
    /// From the handle: finish what runs, within `grace`, then stop everything.
    Drain {
        /// How long requests may still take.
        grace: Duration,
    },
    /// From the Transcriptions: the last request is done.
    TranscriptionsDone,
    /// To itself: the grace is over.
    DrainOverdue,
}

/// What the Supervisor is made from.
pub struct SupervisorArguments {
    /// What the tree needs from outside.
    pub ports: Ports,
    /// Its time limits.
    pub config: TreeConfig,
    /// Its state as others see it.
    pub status: Arc<NodeStatus>,
}

/// The actor's state.
pub struct SupervisorState {
    arguments: SupervisorArguments,
    dispatcher: ActorRef<DispatcherMessage>,
    dispatcher_generation: u32,
    transcriptions: ActorRef<TranscriptionsMessage>,
    hot: Option<HotChild>,
    hot_generation: u64,
    hot_budget: RestartBudget,
    /// Finished chunks at the hot lane's last failure.
    chunks_at_last_failure: u64,
    phase: Phase,
}

/// How far the tree's life is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Children that end are brought back.
    Running,
    /// The same, but nothing new comes in.
    Draining,
    /// Children end because they are told to.
    Stopping,
}

struct HotChild {
    actor: ActorRef<LaneMessage>,
    lane: LaneId,
}

/// The actor.
#[derive(Debug)]
pub struct Supervisor;

impl Actor for Supervisor {
    type Msg = SupervisorMessage;
    type State = SupervisorState;
    type Arguments = SupervisorArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        arguments: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok(SupervisorState::start(&myself, arguments).await?)
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            SupervisorMessage::Submit { job, events, reply } => state.submit(job, events, reply),
            SupervisorMessage::HotReady { worker, info } => state.hot_ready(worker, info),
            SupervisorMessage::StartHot => state.start_hot(&myself).await?,
            SupervisorMessage::Drain { grace } => state.drain(&myself, grace),
            SupervisorMessage::TranscriptionsDone => state.stop_all(&myself).await,
            SupervisorMessage::DrainOverdue => state.drain_overdue(),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Self::Msg>,
        event: SupervisionEvent,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(who, reason) => {
                state.child_gone(&myself, &who, Some(&reason)).await?;
            }
            SupervisionEvent::ActorTerminated(who, _, _) => {
                state.child_gone(&myself, &who, None).await?;
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

impl SupervisorState {
    async fn start(
        myself: &ActorRef<SupervisorMessage>,
        arguments: SupervisorArguments,
    ) -> Result<Self, SpawnErr> {
        let dispatcher = spawn_dispatcher(myself, &arguments, 0).await?;
        let transcriptions = spawn_transcriptions(myself, &arguments, &dispatcher).await?;
        let mut state = Self {
            arguments,
            dispatcher,
            dispatcher_generation: 0,
            transcriptions,
            hot: None,
            hot_generation: 0,
            hot_budget: RestartBudget::default(),
            chunks_at_last_failure: 0,
            phase: Phase::Running,
        };
        state.start_hot(myself).await?;
        Ok(state)
    }

    fn submit(&self, job: Job, events: EventSender, reply: RpcReplyPort<Accepted>) {
        let submit = TranscriptionsMessage::Submit { job, events, reply };
        // If they are just being replaced, the reply port drops and the handle says so.
        let _ = self.transcriptions.cast(submit);
    }

    async fn start_hot(&mut self, myself: &ActorRef<SupervisorMessage>) -> Result<(), SpawnErr> {
        if self.phase == Phase::Stopping || self.hot.is_some() {
            return Ok(());
        }
        self.hot_generation += 1;
        let lane = LaneId(self.hot_generation);
        let config = &self.arguments.config;
        let arguments = HotWorkerArguments {
            lane: LaneArguments {
                lane,
                kind: LaneKind::Hot,
                worker: WorkerId::new("hot", self.hot_generation),
                launcher: Arc::clone(&self.arguments.ports.launcher),
                chunk_timeout: config.chunk_timeout,
                stop_grace: config.stop_grace,
                dispatcher: self.dispatcher.clone(),
                status: Arc::clone(&self.arguments.status),
            },
            supervisor: myself.clone(),
        };
        let (actor, _join) =
            HotWorker::spawn_linked(None, HotWorker, arguments, myself.get_cell()).await?;
        self.hot = Some(HotChild { actor, lane });
        Ok(())
    }

    fn hot_ready(&self, worker: ActorId, info: EngineInfo) {
        // Word from an incarnation that has ended since is old news.
        if self
            .hot
            .as_ref()
            .is_some_and(|hot| hot.actor.get_id() == worker)
        {
            info!(model = info.model, "ready to transcribe");
            self.arguments.status.set_hot(HotState::Ready(info));
        }
    }

    async fn child_gone(
        &mut self,
        myself: &ActorRef<SupervisorMessage>,
        who: &ActorCell,
        reason: Option<&ActorProcessingErr>,
    ) -> Result<(), SpawnErr> {
        if self
            .hot
            .as_ref()
            .is_some_and(|hot| hot.actor.get_id() == who.get_id())
        {
            self.hot_gone(myself, reason);
        } else if self.phase == Phase::Stopping {
            // It was stopped by us.
        } else if self.dispatcher.get_id() == who.get_id() {
            error!(reason = %text(reason), "the dispatcher failed; replacing it");
            self.replace_dispatcher(myself).await?;
        } else if self.transcriptions.get_id() == who.get_id() {
            error!(reason = %text(reason), "the transcriptions failed; replacing them");
            let _ = self.dispatcher.cast(DispatcherMessage::WithdrawAll);
            self.transcriptions =
                spawn_transcriptions(myself, &self.arguments, &self.dispatcher).await?;
            if self.phase == Phase::Draining {
                let _ = self.transcriptions.cast(TranscriptionsMessage::Drain);
            }
        }
        Ok(())
    }

    fn hot_gone(
        &mut self,
        myself: &ActorRef<SupervisorMessage>,
        reason: Option<&ActorProcessingErr>,
    ) {
        let Some(hot) = self.hot.take() else { return };
        // The lane gives its chunk back itself, unless it failed in a way that it could not.
        let _ = self.dispatcher.cast(DispatcherMessage::LaneGone(hot.lane));
        if self.phase == Phase::Stopping {
            return;
        }
        let restart = self.restart(reason);
        let reason_text = text(reason);
        warn!(reason = %reason_text, restart_after_seconds = restart.after.as_secs_f64(),
            "the hot worker is gone");
        if restart.budget_spent {
            self.refuse_work(reason_text);
        } else {
            self.arguments.status.set_hot(HotState::Restarting {
                reason: reason_text,
            });
        }
        // The timer ends with the actor's mailbox; nothing else is to be done with it.
        drop(myself.send_after(restart.after, || SupervisorMessage::StartHot));
    }

    /// A model at fault says nothing about the worker: it is outside of the budget.
    fn restart(&mut self, reason: Option<&ActorProcessingErr>) -> Restart {
        if is_models_fault(reason) {
            return Restart {
                after: MODEL_RETRY,
                budget_spent: true,
            };
        }
        let finished = self.arguments.status.finished_chunks();
        let progressed = finished > self.chunks_at_last_failure;
        self.chunks_at_last_failure = finished;
        self.hot_budget.record_failure(progressed)
    }

    fn refuse_work(&self, reason: String) {
        let refusal = SttError::NotReady {
            reason: reason.clone(),
            retry_after: self.arguments.config.start_estimate,
        };
        let _ = self
            .dispatcher
            .cast(DispatcherMessage::RefuseWaiting(refusal));
        error!(reason, "cannot transcribe; trying again now and then");
        self.arguments.status.set_hot(HotState::Failed { reason });
    }

    async fn replace_dispatcher(
        &mut self,
        myself: &ActorRef<SupervisorMessage>,
    ) -> Result<(), SpawnErr> {
        self.dispatcher_generation += 1;
        self.dispatcher =
            spawn_dispatcher(myself, &self.arguments, self.dispatcher_generation).await?;
        let new = || self.dispatcher.clone();
        let _ = (self.transcriptions).cast(TranscriptionsMessage::DispatcherReplaced(new()));
        if let Some(hot) = &self.hot {
            let _ = hot.actor.cast(LaneMessage::DispatcherReplaced(new()));
        }
        Ok(())
    }

    fn drain(&mut self, myself: &ActorRef<SupervisorMessage>, grace: Duration) {
        if self.phase != Phase::Running {
            // Asked again: whoever asks has no more patience.
            self.drain_overdue();
            return;
        }
        info!(grace_seconds = grace.as_secs_f64(), "draining");
        self.phase = Phase::Draining;
        self.arguments.status.set_draining();
        let _ = self.transcriptions.cast(TranscriptionsMessage::Drain);
        drop(myself.send_after(grace, || SupervisorMessage::DrainOverdue));
    }

    fn drain_overdue(&mut self) {
        let _ = self.transcriptions.cast(TranscriptionsMessage::CancelAll);
    }

    /// The last steps of the ordered shutdown. Nothing is left to be heard by now, so that waiting
    /// here is harmless.
    async fn stop_all(&mut self, myself: &ActorRef<SupervisorMessage>) {
        self.phase = Phase::Stopping;
        let within = Some(self.arguments.config.stop_grace * 2);
        let transcriptions = self.transcriptions.get_cell();
        if transcriptions.stop_and_wait(None, within).await.is_err() {
            warn!("the transcriptions did not stop in time");
        }
        if self
            .dispatcher
            .get_cell()
            .stop_and_wait(None, within)
            .await
            .is_err()
        {
            warn!("the dispatcher did not stop in time");
        }
        if let Some(hot) = self.hot.take() {
            let _ = hot.actor.cast(LaneMessage::Stop);
            if hot.actor.get_cell().wait(within).await.is_err() {
                warn!("the hot worker did not stop in time");
            }
        }
        myself.stop(None);
    }
}

/// A model that is missing or broken will be so at the next try as well, most likely.
fn is_models_fault(reason: Option<&ActorProcessingErr>) -> bool {
    reason
        .and_then(|reason| reason.downcast_ref::<LaneFailure>())
        .is_some_and(|failure| matches!(failure, LaneFailure::Launch(LaunchError::Model(_))))
}

fn text(reason: Option<&ActorProcessingErr>) -> String {
    reason.map_or_else(|| "it was ended".to_owned(), ToString::to_string)
}

async fn spawn_dispatcher(
    myself: &ActorRef<SupervisorMessage>,
    arguments: &SupervisorArguments,
    generation: u32,
) -> Result<ActorRef<DispatcherMessage>, SpawnErr> {
    let arguments = DispatcherArguments {
        generation,
        status: Arc::clone(&arguments.status),
    };
    let spawned = Dispatcher::spawn_linked(None, Dispatcher, arguments, myself.get_cell()).await;
    spawned.map(|(actor, _join)| actor)
}

async fn spawn_transcriptions(
    myself: &ActorRef<SupervisorMessage>,
    arguments: &SupervisorArguments,
    dispatcher: &ActorRef<DispatcherMessage>,
) -> Result<ActorRef<TranscriptionsMessage>, SpawnErr> {
    let arguments = TranscriptionsArguments {
        decoder: Arc::clone(&arguments.ports.decoder),
        dispatcher: dispatcher.clone(),
        supervisor: myself.clone(),
        status: Arc::clone(&arguments.status),
    };
    let spawned =
        Transcriptions::spawn_linked(None, Transcriptions, arguments, myself.get_cell()).await;
    spawned.map(|(actor, _join)| actor)
}

//! The Supervisor: root of the tree.
//!
//! It starts and supervises the Dispatcher, the FallbackModel, the Transcriptions, the LiveSessions, the ColdPool,
//! the Translations, the HotWorker, the VramWatcher and the Registrar. `shutdown` says in which order they stop.
//! Each child has its own restart policy:
//!
//! - HotWorker: restarted after a pause that grows with consecutive failures (`hot`). Work waits for it while the
//!   restart budget lasts. When the budget is spent or the model itself is broken, work is discarded unless
//!   cold workers can do it, and the restarts continue at long intervals.
//! - Dispatcher: replaced immediately. Lanes and transcriptions enqueue again, and nothing is lost.
//! - Transcriptions: replaced immediately. All running requests fail with it; live sessions transcribe again.
//! - LiveSessions: replaced immediately. All live sessions fail with it.
//! - ColdPool: replaced immediately. Its workers end with it, and their chunks are retried.
//! - Translations: replaced immediately. All running translations fail with it.
//! - FallbackModel: replaced after a pause. Requests that waited for it keep the text that they have.
//! - VramWatcher, Registrar: replaced after a pause, since nothing waits for them.

mod children;
mod hot;
mod shutdown;

use std::sync::Arc;
use std::time::Duration;

use ractor::{
    Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, SpawnErr,
    SupervisionEvent,
};
use tokio::sync::oneshot;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tracing::{error, warn};

use crate::config::{Ports, TreeConfig};
use crate::domain::error::LiveError;
use crate::domain::ids::LaneId;
use crate::domain::live::{LiveClient, LiveOptions};
use crate::domain::translation::TranslationJob;
use crate::fallback::Escalator;
use crate::fallback::model::FallbackModelHandle;
use crate::live::sessions::{LiveInputAndEvents, LiveSessionsMessage};
use crate::pool::cold_pool::ColdPoolMessage;
use crate::pool::vram_watcher::VramWatcherMessage;
use crate::ports::EngineInfo;
use crate::queue::messages::{DispatcherMessage, LaneMessage};
use crate::registrar::RegistrarMessage;
use crate::request::stream::Submission;
use crate::request::transcriptions::TranscriptionsMessage;
use crate::status::NodeStatus;
use crate::status::drain::DrainPlan;
use crate::translation::{Translated, TranslationsMessage};
use children::Failure;
use hot::HotLane;
pub use shutdown::ANNOUNCE_LIMIT;

/// Pause before a child for which nothing waits is replaced.
const SIDE_CHILD_PAUSE: Duration = Duration::from_secs(1);

/// Messages that the Supervisor handles.
#[derive(Debug)]
pub enum SupervisorMessage {
    /// From the handle or a live session: start a request.
    Submit(Submission),
    /// From the handle: open a live session.
    OpenLive {
        /// Who opens it.
        client: LiveClient,
        /// How it begins.
        options: Box<LiveOptions>,
        /// Receives the session.
        reply: RpcReplyPort<Result<LiveInputAndEvents, LiveError>>,
    },
    /// From the LiveSessions, during a drain: the last session has ended.
    LiveSessionsDone,
    /// From the handle: translate a transcript.
    Translate {
        /// The transcript and its target language.
        job: Box<TranslationJob>,
        /// Receives the result.
        reply: oneshot::Sender<Translated>,
    },
    /// From the handle: a request was admitted, and the hot model may be unloaded.
    Wake,
    /// From the HotWorker: its engine is loaded.
    HotReady {
        /// The sender, which may have ended since.
        worker: ActorId,
        /// The engine.
        info: EngineInfo,
    },
    /// To itself, after a pause: restart the HotWorker.
    StartHot,
    /// To itself, after a pause: start those of the VramWatcher, the Registrar and the FallbackModel that are
    /// missing.
    StartSideChildren,
    /// From the handle: announce the end, then let running requests finish, then stop everything. A second one cuts the
    /// first short.
    Drain {
        /// How much time there is for each step.
        plan: DrainPlan,
    },
    /// To itself, during a drain: the directory has the announcement, or is away.
    DrainAnnounced,
    /// To itself, during a drain: routers have seen the announcement.
    DrainDelayOver,
    /// From the Transcriptions, during a drain: the last request has ended.
    TranscriptionsDone,
    /// To itself, during a drain: the last translation has ended, or the grace is over.
    TranslationsDone,
    /// To itself: the grace is over.
    DrainOverdue,
    /// From the handle: answer through the Transcriptions and the Dispatcher, to show that all three handle their
    /// messages.
    Ping(RpcReplyPort<()>),
}

/// Arguments of the Supervisor.
pub struct SupervisorArguments {
    /// The ports of the tree.
    pub ports: Ports,
    /// The limits of the tree.
    pub config: TreeConfig,
    /// The status of the node.
    pub status: Arc<NodeStatus>,
    /// Requests whose transcript will be translated.
    pub pending_translations: TaskTracker,
}

/// The actor's state.
pub struct SupervisorState {
    arguments: SupervisorArguments,
    dispatcher: ActorRef<DispatcherMessage>,
    dispatcher_generation: u32,
    transcriptions: ActorRef<TranscriptionsMessage>,
    live_sessions: ActorRef<LiveSessionsMessage>,
    cold_pool: ActorRef<ColdPoolMessage>,
    translations: Option<ActorRef<TranslationsMessage>>,
    fallback_model: Option<FallbackModelHandle>,
    fallback_model_generation: u32,
    hot: HotLane,
    vram_watcher: Option<ActorRef<VramWatcherMessage>>,
    registrar: Option<ActorRef<RegistrarMessage>>,
    phase: Phase,
    /// How the node ends; set when it begins to.
    plan: DrainPlan,
    /// Whether the grace of the drain is over.
    is_overdue: bool,
    /// Waits until the directory has the announcement of a drain.
    awaiting_announcement: Option<AbortOnDropHandle<()>>,
    /// Waits for the uploads that began before requests were rejected.
    awaiting_uploads: Option<AbortOnDropHandle<()>>,
    /// Waits for the pending translations of a drain.
    awaiting_translations: Option<AbortOnDropHandle<()>>,
}

/// The phases of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Children that end are replaced.
    Running,
    /// As before, but the node's record says that it accepts no requests.
    Leaving,
    /// Children that end are replaced, and new requests are rejected.
    Draining,
    /// Children are being stopped.
    Stopping,
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
            SupervisorMessage::Submit(submission) => {
                state.wake(&myself).await?;
                // If the actor has just failed, the reply is dropped and the submitter reports it.
                let submit = TranscriptionsMessage::Submit(submission);
                let _ = state.transcriptions.cast(submit);
            }
            SupervisorMessage::OpenLive {
                client,
                options,
                reply,
            } => {
                let open = LiveSessionsMessage::Open {
                    client,
                    options,
                    reply,
                };
                // If the actor has just failed, the reply is dropped and the handle reports it.
                let _ = state.live_sessions.cast(open);
            }
            SupervisorMessage::LiveSessionsDone => state.drain_transcriptions(),
            SupervisorMessage::Translate { job, reply } => state.translate(job, reply),
            SupervisorMessage::Wake => state.wake(&myself).await?,
            SupervisorMessage::HotReady { worker, info } => state.hot_ready(worker, info),
            SupervisorMessage::StartHot => state.start_hot(&myself).await?,
            SupervisorMessage::StartSideChildren => state.start_side_children(&myself).await?,
            SupervisorMessage::Drain { plan } => state.drain(&myself, plan),
            SupervisorMessage::DrainAnnounced => state.drain_announced(&myself),
            SupervisorMessage::DrainDelayOver => state.drain_delay_over(&myself),
            SupervisorMessage::TranscriptionsDone => state.transcriptions_done(&myself).await,
            SupervisorMessage::TranslationsDone => state.stop_all(&myself).await,
            SupervisorMessage::DrainOverdue => state.drain_overdue(&myself),
            SupervisorMessage::Ping(reply) => {
                // Transcriptions that are being replaced drop the port, and the asker tries again.
                let _ = (state.transcriptions).cast(TranscriptionsMessage::Ping(reply));
            }
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
            SupervisionEvent::ActorFailed(ended, reason) => {
                let failure = Failure::Error(&reason);
                state.child_gone(&myself, &ended, failure).await?;
            }
            SupervisionEvent::ActorTerminated(ended, _, reason) => {
                let failure = Failure::Ended(reason.as_deref());
                state.child_gone(&myself, &ended, failure).await?;
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

impl SupervisorState {
    async fn start(
        myself: &ActorRef<SupervisorMessage>,
        arguments: SupervisorArguments,
    ) -> Result<Self, SpawnErr> {
        let expected_start = arguments.ports.launcher.expected_start();
        arguments.status.expect_start(expected_start);
        let dispatcher = children::dispatcher(myself, &arguments, 0).await?;
        let fallback_model = children::fallback_model(myself, &arguments, 0).await?;
        let escalator = escalator(&arguments, fallback_model.as_ref());
        let transcriptions =
            children::transcriptions(myself, &arguments, &dispatcher, escalator).await?;
        let live_sessions = children::live_sessions(myself, &arguments).await?;
        let cold_pool = children::cold_pool(myself, &arguments, &dispatcher).await?;
        let translations = children::translations(myself, &arguments).await?;
        let mut state = Self {
            arguments,
            dispatcher,
            dispatcher_generation: 0,
            transcriptions,
            live_sessions,
            cold_pool,
            translations,
            fallback_model,
            fallback_model_generation: 0,
            hot: HotLane::default(),
            vram_watcher: None,
            registrar: None,
            phase: Phase::Running,
            plan: DrainPlan::default(),
            is_overdue: false,
            awaiting_announcement: None,
            awaiting_uploads: None,
            awaiting_translations: None,
        };
        state.start_hot(myself).await?;
        state.start_side_children(myself).await?;
        Ok(state)
    }

    fn translate(&self, job: Box<TranslationJob>, reply: oneshot::Sender<Translated>) {
        if let Some(translations) = &self.translations {
            // If the actor has just failed, the reply is dropped and the handle reports it.
            let _ = translations.cast(TranslationsMessage::Translate { job, reply });
        }
    }

    async fn child_gone(
        &mut self,
        myself: &ActorRef<SupervisorMessage>,
        ended: &ActorCell,
        failure: Failure<'_>,
    ) -> Result<(), SpawnErr> {
        let ended = ended.get_id();
        if self.hot.is(ended) {
            return self.hot_gone(myself, failure).await;
        }
        if self.phase == Phase::Stopping {
            // The Supervisor stopped it.
            return Ok(());
        }
        if self.dispatcher.get_id() == ended {
            error!(reason = %failure, "the dispatcher failed; replacing it");
            self.replace_dispatcher(myself).await?;
        } else if self.transcriptions.get_id() == ended {
            error!(reason = %failure, "the transcriptions failed; replacing them");
            self.replace_transcriptions(myself).await?;
        } else if self.live_sessions.get_id() == ended {
            error!(reason = %failure, "the live sessions failed; replacing them");
            self.live_sessions = children::live_sessions(myself, &self.arguments).await?;
            if self.phase == Phase::Draining {
                self.drain_live_sessions();
            }
        } else if self.cold_pool.get_id() == ended {
            error!(reason = %failure, "the cold pool failed; replacing it");
            let gone = DispatcherMessage::ColdLanesGone {
                up_to: LaneId::next(),
            };
            let _ = self.dispatcher.cast(gone);
            self.cold_pool = children::cold_pool(myself, &self.arguments, &self.dispatcher).await?;
        } else if (self.translations.as_ref()).is_some_and(|child| child.get_id() == ended) {
            error!(reason = %failure, "the translations actor failed; replacing it");
            self.translations = children::translations(myself, &self.arguments).await?;
        } else if self.side_child_gone(ended) {
            warn!(reason = %failure, "a child failed; replacing it after a pause");
            // The timer ends with the actor.
            drop(myself.send_after(SIDE_CHILD_PAUSE, || SupervisorMessage::StartSideChildren));
        }
        Ok(())
    }

    fn side_child_gone(&mut self, ended: ActorId) -> bool {
        let watcher = self.vram_watcher.take_if(|child| child.get_id() == ended);
        let registrar = self.registrar.take_if(|child| child.get_id() == ended);
        let fallback = (self.fallback_model).take_if(|child| child.actor.get_id() == ended);
        watcher.is_some() || registrar.is_some() || fallback.is_some()
    }

    async fn start_side_children(
        &mut self,
        myself: &ActorRef<SupervisorMessage>,
    ) -> Result<(), SpawnErr> {
        if self.phase == Phase::Stopping {
            return Ok(());
        }
        if self.vram_watcher.is_none() {
            self.vram_watcher = children::vram_watcher(myself, &self.arguments).await?;
        }
        // Once it is removed, the record must not come back.
        if self.registrar.is_none() && self.phase != Phase::Draining {
            self.registrar = children::registrar(myself, &self.arguments).await?;
        }
        if self.fallback_model.is_none() {
            self.fallback_model_generation += 1;
            let generation = self.fallback_model_generation;
            self.fallback_model =
                children::fallback_model(myself, &self.arguments, generation).await?;
            let escalator = escalator(&self.arguments, self.fallback_model.as_ref());
            let _ = (self.transcriptions).cast(TranscriptionsMessage::EscalateTo(escalator));
        }
        Ok(())
    }

    async fn replace_dispatcher(
        &mut self,
        myself: &ActorRef<SupervisorMessage>,
    ) -> Result<(), SpawnErr> {
        self.dispatcher_generation += 1;
        let generation = self.dispatcher_generation;
        self.dispatcher = children::dispatcher(myself, &self.arguments, generation).await?;
        // Sent before the lanes offer themselves: a hot lane that is ready cancels it.
        self.repeat_hot_lane_lost();
        let new = || self.dispatcher.clone();
        let _ = (self.transcriptions).cast(TranscriptionsMessage::DispatcherReplaced(new()));
        let _ = (self.cold_pool).cast(ColdPoolMessage::DispatcherReplaced(new()));
        if let Some(hot) = self.hot.actor() {
            let _ = hot.cast(LaneMessage::DispatcherReplaced(new()));
        }
        Ok(())
    }

    async fn replace_transcriptions(
        &mut self,
        myself: &ActorRef<SupervisorMessage>,
    ) -> Result<(), SpawnErr> {
        let _ = self.dispatcher.cast(DispatcherMessage::CancelAll);
        let escalator = escalator(&self.arguments, self.fallback_model.as_ref());
        self.transcriptions =
            children::transcriptions(myself, &self.arguments, &self.dispatcher, escalator).await?;
        if self.phase == Phase::Draining {
            self.drain_transcriptions();
        }
        Ok(())
    }
}

/// Where requests escalate to; `None`: nowhere.
fn escalator(
    arguments: &SupervisorArguments,
    model: Option<&FallbackModelHandle>,
) -> Option<Escalator> {
    let port = arguments.ports.fallback.as_ref();
    Escalator::new(arguments.config.escalation, port, model)
}

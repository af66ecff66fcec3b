//! The FallbackModel: a larger model on this node, for texts that are not trusted.
//!
//! It owns a Dispatcher and a ColdPool of its own: the queue, the retries and the worker that comes with
//! the work and goes without are those of every other chunk, only that no hot lane stands beside. Its
//! worker's memory is that of the node.
//!
//! Supervised by the Supervisor. If one of its children fails it fails as a whole and is replaced: what
//! waited for it hears that it failed, and goes on with the text that there is.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::oneshot;

use crate::domain::error::{FallbackError, SttError};
use crate::domain::ids::{JobId, LaneId, LaneKind, WorkerId};
use crate::domain::job::SchedulingKey;
use crate::domain::transcript::{ChunkDone, Task};
use crate::lane::LaneArguments;
use crate::lane::recycling::RecyclingLimits;
use crate::pool::PoolConfig;
use crate::pool::cold_pool::{ColdPool, ColdPoolArguments, ColdPoolMessage};
use crate::pool::demand::DemandPolicy;
use crate::ports::{ChunkRequest, EngineLauncher, FallbackRequest, FallbackText};
use crate::queue::dispatcher::{Dispatcher, DispatcherArguments};
use crate::queue::messages::{ChunkNews, ChunkOwner, DispatcherMessage};
use crate::status::NodeStatus;
use crate::text::hallucination::guard;

type Outcome = Result<ChunkDone, SttError>;

/// What the FallbackModel hears.
#[derive(Debug)]
pub enum FallbackModelMessage {
    /// A chunk is to be transcribed.
    Transcribe {
        /// Names the chunk here.
        job: JobId,
        /// The chunk and how to do it.
        request: Box<ChunkRequest>,
        /// What its turn depends on.
        scheduling: SchedulingKey,
        /// Hears the end; dropped if there is none.
        reply: oneshot::Sender<Outcome>,
    },
    /// Nobody waits for this chunk any more.
    Withdraw(JobId),
    /// From the Supervisor: stop the worker, then yourself.
    Stop,
}

/// What a FallbackModel is made from.
pub struct FallbackModelArguments {
    /// Counts the FallbackModels of this tree, from 0.
    pub generation: u32,
    /// Starts its engine.
    pub launcher: Arc<dyn EngineLauncher>,
    /// An engine silent for longer on one chunk is ended.
    pub chunk_timeout: Duration,
    /// How long a stopping engine may take before it is killed.
    pub stop_grace: Duration,
    /// The engine is replaced when it is worn out.
    pub recycling: RecyclingLimits,
    /// Its workers' limits.
    pub pool: PoolConfig,
    /// Of the node that it is on.
    pub node: Arc<NodeStatus>,
    /// Whether a VramWatcher looks at the node's memory.
    pub memory_is_watched: bool,
    /// What must be free for its worker, in bytes.
    pub least_bytes: u64,
}

/// The actor's state.
pub struct FallbackModelState {
    dispatcher: ActorRef<DispatcherMessage>,
    cold_pool: ActorRef<ColdPoolMessage>,
    /// Its children end because they are told to.
    stopping: bool,
}

/// The actor.
#[derive(Debug)]
pub struct FallbackModel;

impl Actor for FallbackModel {
    type Msg = FallbackModelMessage;
    type State = FallbackModelState;
    type Arguments = FallbackModelArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        arguments: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        // Of this queue alone: the node's own accounts are of work that its own lanes have to do.
        let status = Arc::new(NodeStatus::default());
        let dispatcher = DispatcherArguments {
            generation: arguments.generation,
            status: Arc::clone(&status),
        };
        let (dispatcher, _join) =
            Dispatcher::spawn_linked(None, Dispatcher, dispatcher, myself.get_cell()).await?;
        let lane = LaneArguments {
            lane: LaneId::next(),
            kind: LaneKind::Cold,
            worker: WorkerId::of_fallback(0),
            launcher: arguments.launcher,
            chunk_timeout: arguments.chunk_timeout,
            stop_grace: arguments.stop_grace,
            idle_limit: None,
            recycling: arguments.recycling,
            dispatcher: dispatcher.clone(),
            status: Arc::clone(&status),
        };
        let pool = ColdPoolArguments {
            config: arguments.pool,
            demand: DemandPolicy::OnlyLanes,
            node: arguments.node,
            memory_is_watched: arguments.memory_is_watched,
            least_bytes: arguments.least_bytes,
            lane,
            status,
        };
        let (cold_pool, _join) =
            ColdPool::spawn_linked(None, ColdPool, pool, myself.get_cell()).await?;
        Ok(FallbackModelState {
            dispatcher,
            cold_pool,
            stopping: false,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            FallbackModelMessage::Transcribe {
                job,
                request,
                scheduling,
                reply,
            } => {
                let enqueue = DispatcherMessage::Enqueue {
                    job,
                    request: *request,
                    scheduling,
                    owner: owner(myself, job, reply),
                };
                let _ = state.dispatcher.cast(enqueue);
                let _ = state.cold_pool.cast(ColdPoolMessage::Look);
            }
            FallbackModelMessage::Withdraw(job) => {
                let _ = state.dispatcher.cast(DispatcherMessage::Withdraw(job));
            }
            FallbackModelMessage::Stop => {
                state.stopping = true;
                let _ = state.cold_pool.cast(ColdPoolMessage::Stop);
                // It bounds its own end.
                let _ = state.cold_pool.get_cell().wait(None).await;
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
            SupervisionEvent::ActorFailed(_, reason) => Err(reason),
            SupervisionEvent::ActorTerminated(_, _, reason) if !state.stopping => {
                let reason = reason.unwrap_or_else(|| "a child of it was ended".to_owned());
                Err(reason.into())
            }
            SupervisionEvent::ActorTerminated(..)
            | SupervisionEvent::ActorStarted(_)
            | SupervisionEvent::ProcessGroupChanged(_) => Ok(()),
        }
    }

    async fn post_stop(
        &self,
        myself: ActorRef<Self::Msg>,
        _state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        myself.stop_children_and_wait(None, None).await;
        Ok(())
    }
}

/// Has a chunk's end come to whoever waits, and its job forgotten.
fn owner(
    model: ActorRef<FallbackModelMessage>,
    job: JobId,
    reply: oneshot::Sender<Outcome>,
) -> ChunkOwner {
    let reply = Mutex::new(Some(reply));
    ChunkOwner::new(move |_index, news| {
        let ChunkNews::Ended(outcome) = news else {
            return;
        };
        let reply = reply.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(reply) = reply {
            // Whoever waited may have left.
            let _ = reply.send(outcome);
        }
        let _ = model.cast(FallbackModelMessage::Withdraw(job));
    })
}

/// Asks the FallbackModel, within a limit.
#[derive(Clone)]
pub struct FallbackModelHandle {
    pub(crate) actor: ActorRef<FallbackModelMessage>,
    /// The model's name, as users know it.
    pub(crate) model: Arc<str>,
    pub(crate) limit: Duration,
}

impl FallbackModelHandle {
    /// Has a chunk transcribed. Dropping the future takes it out of the queue.
    pub(crate) async fn transcribe(
        &self,
        request: FallbackRequest,
        scheduling: SchedulingKey,
    ) -> Result<FallbackText, FallbackError> {
        let failed = |error: &dyn std::fmt::Display| FallbackError::Model(error.to_string());
        let job = JobId::next();
        let (reply, outcome) = oneshot::channel();
        let speech = request.audio.speech.clone();
        let guarded = request.hallucination_guard;
        let message = FallbackModelMessage::Transcribe {
            job,
            request: Box::new(ChunkRequest {
                request_id: request.request_id,
                audio: request.audio,
                task: Task::Transcribe,
                language: request.language,
                prompt: request.prompt,
                temperature: request.temperature,
            }),
            scheduling,
            reply,
        };
        let withdrawal = Withdrawal(self.actor.clone(), job);
        (self.actor.cast(message)).map_err(|_gone| failed(&"it is being replaced"))?;
        let done = tokio::time::timeout(self.limit, outcome)
            .await
            .map_err(|_elapsed| FallbackError::TimedOut {
                seconds: self.limit.as_secs(),
            })?
            .map_err(|_dropped| failed(&"it was lost in a restart"))?
            .map_err(|error| failed(&error))?;
        drop(withdrawal);
        let mut transcript = done.transcript;
        if guarded {
            guard(&mut transcript, &speech);
        }
        for segment in &mut transcript.segments {
            (segment.start, segment.end) = speech.tightened(segment.start, segment.end);
        }
        Ok(FallbackText {
            transcript,
            model: self.model.to_string(),
        })
    }
}

/// Takes a chunk out of the queue when nobody waits for it; harmless once it is done.
struct Withdrawal(ActorRef<FallbackModelMessage>, JobId);

impl Drop for Withdrawal {
    fn drop(&mut self) {
        let _ = self.0.cast(FallbackModelMessage::Withdraw(self.1));
    }
}

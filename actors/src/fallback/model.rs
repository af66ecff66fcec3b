//! The FallbackModel: a second model on this node, for doubtful texts.
//!
//! It owns a Dispatcher and a ColdPool without a hot lane: its chunks are queued and retried like all
//! others, and its worker starts with the work and ends when idle. The worker shares the node's memory.
//!
//! Supervised by the Supervisor. If one of its children fails, the FallbackModel fails and is replaced:
//! the requests that waited for it get an error and keep the text that they have.

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

/// Messages that the FallbackModel handles.
#[derive(Debug)]
pub enum FallbackModelMessage {
    /// Transcribe a chunk.
    Transcribe {
        /// Identifies the chunk in this queue.
        job: JobId,
        /// The chunk.
        request: Box<ChunkRequest>,
        /// The order in the queue.
        scheduling: SchedulingKey,
        /// Receives the result; dropped if the chunk is lost.
        reply: oneshot::Sender<Outcome>,
    },
    /// Remove a chunk from the queue: it is done, or its caller is gone.
    Withdraw(JobId),
    /// From the Supervisor: stop the worker, then this actor.
    Stop,
}

/// Arguments of a FallbackModel.
pub struct FallbackModelArguments {
    /// Number of this FallbackModel in the tree, from 0.
    pub generation: u32,
    /// Starts its engine.
    pub launcher: Arc<dyn EngineLauncher>,
    /// Time limit of an engine for one chunk.
    pub chunk_timeout: Duration,
    /// Time after which a stopping engine is killed.
    pub stop_grace: Duration,
    /// When the engine is replaced by a fresh one.
    pub recycling: RecyclingLimits,
    /// Limits of its worker pool.
    pub pool: PoolConfig,
    /// Status of the node.
    pub node: Arc<NodeStatus>,
    /// Whether a VramWatcher samples the node's memory.
    pub memory_is_watched: bool,
    /// Memory that must be free for its worker, in bytes.
    pub least_bytes: u64,
}

/// State of the FallbackModel.
pub struct FallbackModelState {
    dispatcher: ActorRef<DispatcherMessage>,
    cold_pool: ActorRef<ColdPoolMessage>,
    /// Set while the children end as requested.
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
        // The status of this queue only: the node's status counts the work of the node's own lanes.
        let status = Arc::new(NodeStatus::default());
        (arguments.node).set_fallback_model(Arc::clone(&status));
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
                let _ = state.dispatcher.cast(DispatcherMessage::Cancel(job));
            }
            FallbackModelMessage::Stop => {
                state.stopping = true;
                let _ = state.cold_pool.cast(ColdPoolMessage::Stop);
                // The ColdPool limits the time that it takes to stop.
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
                let reason = reason.unwrap_or_else(|| "one of its children ended".to_owned());
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

/// An owner that sends a chunk's outcome to `reply` and then removes the chunk from the queue.
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
            // The receiver may be gone.
            let _ = reply.send(outcome);
        }
        let _ = model.cast(FallbackModelMessage::Withdraw(job));
    })
}

/// Sends chunks to the FallbackModel and limits the time that they take.
#[derive(Clone)]
pub struct FallbackModelHandle {
    pub(crate) actor: ActorRef<FallbackModelMessage>,
    /// The model's public name.
    pub(crate) model: Arc<str>,
    /// Time limit for one chunk, waiting included.
    pub(crate) limit: Duration,
}

impl FallbackModelHandle {
    /// Transcribes a chunk. Dropping the future removes the chunk from the queue.
    ///
    /// # Errors
    /// The model failed, was lost in a restart, or exceeded the time limit.
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
                languages: request.languages,
                likely_language: None,
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

/// Removes a chunk from the queue when dropped; without effect once the chunk is done.
struct Withdrawal(ActorRef<FallbackModelMessage>, JobId);

impl Drop for Withdrawal {
    fn drop(&mut self) {
        let _ = self.0.cast(FallbackModelMessage::Withdraw(self.1));
    }
}

//! The supervisor of all running [`Transcription`]s.
//!
//! They hang under an actor of their own so that per-request exits never queue behind the
//! Supervisor's restarts. It ends when the Supervisor stops it; a Transcription that fails ends
//! alone, and whoever submitted it sees its event stream break off.

use std::collections::HashMap;
use std::sync::Arc;

use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent};
use tokio::sync::Semaphore;
use tracing::{error, warn};

use crate::admission::Place;
use crate::dispatcher::DispatcherMessage;
use crate::error::SttError;
use crate::job::{Job, JobId};
use crate::ports::AudioDecoder;
use crate::status::NodeStatus;
use crate::supervisor::SupervisorMessage;
use crate::transcription::{
    EventSender, Transcription, TranscriptionArguments, TranscriptionMessage,
};

/// Decoded chunks of all requests together: 245 MB of samples if each is as long as it may be.
const CHUNKS_IN_MEMORY: usize = 256;

/// What comes back for a submitted job.
pub type Accepted = Result<ActorRef<TranscriptionMessage>, SttError>;

/// What this actor hears.
#[derive(Debug)]
pub enum TranscriptionsMessage {
    /// Start one.
    Submit {
        /// The work.
        job: Job,
        /// Its place in the accounts.
        place: Place,
        /// Where its events go.
        events: EventSender,
        /// Hears whether it started.
        reply: RpcReplyPort<Accepted>,
    },
    /// A new Dispatcher took over.
    DispatcherReplaced(ActorRef<DispatcherMessage>),
    /// Take nothing new; say [`SupervisorMessage::TranscriptionsDone`] when the last one is done.
    Drain,
    /// The time for draining is over: end what still runs.
    CancelAll,
}

/// What this actor is made from.
pub struct TranscriptionsArguments {
    /// Opens audio.
    pub decoder: Arc<dyn AudioDecoder>,
    /// Does the work.
    pub dispatcher: ActorRef<DispatcherMessage>,
    /// Who is told when draining is done.
    pub supervisor: ActorRef<SupervisorMessage>,
    /// Where the number of requests is kept.
    pub status: Arc<NodeStatus>,
}

/// The actor's state.
pub struct TranscriptionsState {
    arguments: TranscriptionsArguments,
    running: HashMap<ActorId, (JobId, ActorRef<TranscriptionMessage>)>,
    chunk_budget: Arc<Semaphore>,
    draining: bool,
}

/// The actor.
#[derive(Debug)]
pub struct Transcriptions;

impl Actor for Transcriptions {
    type Msg = TranscriptionsMessage;
    type State = TranscriptionsState;
    type Arguments = TranscriptionsArguments;

    async fn pre_start(
        &self,
        _myself: ActorRef<Self::Msg>,
        arguments: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok(TranscriptionsState {
            arguments,
            running: HashMap::new(),
            chunk_budget: Arc::new(Semaphore::new(CHUNKS_IN_MEMORY)),
            draining: false,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            TranscriptionsMessage::Submit {
                job,
                place,
                events,
                reply,
            } => {
                // Whoever asked may have given up: then nothing is started for nobody.
                if !reply.is_closed() {
                    let accepted = state.start(&myself, job, place, events).await;
                    let _ = reply.send(accepted);
                }
            }
            TranscriptionsMessage::DispatcherReplaced(dispatcher) => {
                state.dispatcher_replaced(&dispatcher);
            }
            TranscriptionsMessage::Drain => {
                state.draining = true;
                state.report_when_empty();
            }
            TranscriptionsMessage::CancelAll => state.cancel_all(),
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
            SupervisionEvent::ActorTerminated(who, _, _) => state.ended(who.get_id()),
            SupervisionEvent::ActorFailed(who, reason) => {
                error!(%reason, "a transcription failed");
                state.ended(who.get_id());
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
        myself.stop_children_and_wait(None, None).await;
        Ok(())
    }
}

impl TranscriptionsState {
    async fn start(
        &mut self,
        myself: &ActorRef<TranscriptionsMessage>,
        job: Job,
        place: Place,
        events: EventSender,
    ) -> Accepted {
        if self.draining {
            return Err(self.arguments.status.snapshot().draining_refusal());
        }
        let id = JobId::next();
        let arguments = TranscriptionArguments {
            id,
            job,
            place,
            events,
            decoder: Arc::clone(&self.arguments.decoder),
            chunk_budget: Arc::clone(&self.chunk_budget),
            dispatcher: self.arguments.dispatcher.clone(),
            status: Arc::clone(&self.arguments.status),
        };
        let spawned =
            Transcription::spawn_linked(None, Transcription, arguments, myself.get_cell()).await;
        let (actor, _join) = spawned.map_err(|error| {
            error!(%error, "a transcription could not be started");
            SttError::Internal("the transcription could not be started")
        })?;
        self.running.insert(actor.get_id(), (id, actor.clone()));
        Ok(actor)
    }

    /// However a Transcription ended, nobody waits for its chunks any more.
    fn ended(&mut self, who: ActorId) {
        if let Some((job, _)) = self.running.remove(&who) {
            let _ = (self.arguments.dispatcher).cast(DispatcherMessage::Withdraw(job));
        }
        self.report_when_empty();
    }

    fn report_when_empty(&self) {
        if self.draining && self.running.is_empty() {
            let _ = (self.arguments.supervisor).cast(SupervisorMessage::TranscriptionsDone);
        }
    }

    fn dispatcher_replaced(&mut self, dispatcher: &ActorRef<DispatcherMessage>) {
        self.arguments.dispatcher = dispatcher.clone();
        for (_, actor) in self.running.values() {
            let _ = actor.cast(TranscriptionMessage::DispatcherReplaced(dispatcher.clone()));
        }
    }

    fn cancel_all(&self) {
        if !self.running.is_empty() {
            warn!(
                requests = self.running.len(),
                "ending requests that are not done in time"
            );
        }
        let reason = self.arguments.status.snapshot().draining_refusal();
        for (_, actor) in self.running.values() {
            let _ = actor.cast(TranscriptionMessage::Cancel(reason.clone()));
        }
        self.report_when_empty();
    }
}

//! The supervisor of all running [`Transcription`]s.
//!
//! A separate actor, so that the exits of requests never wait behind the Supervisor's restarts. A request
//! that equals a running one joins it; one that equals an abandoned one resumes it. This actor ends when
//! the Supervisor stops it. A Transcription that fails ends alone, and its event streams break off.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::domain::error::SttError;
use crate::domain::finished::FinishedWork;
use crate::domain::ids::JobId;
use crate::domain::job::{Event, Identity, Job, Options};
use crate::domain::transcript::{Timings, Transcript};
use crate::fallback::Escalator;
use crate::metrics::{JoinedFrom, record_joined};
use crate::ports::AudioDecoder;
use crate::queue::messages::DispatcherMessage;
use crate::request::expiring_cache::ExpiringCache;
use crate::request::stream::Submission;
use crate::request::subscribers::{Ending, EventSender, Subscribers};
use crate::request::transcription::{Transcription, TranscriptionArguments, TranscriptionMessage};
use crate::status::NodeStatus;
use crate::status::admission::AdmissionSlot;

/// Maximum number of decoded chunks of all requests: 245 MB of samples at the maximum length.
const CHUNKS_IN_MEMORY: usize = 256;

/// How long the finished part of an abandoned request is kept. Clients wait a little before a retry.
const KEEP_ABANDONED: Duration = Duration::from_secs(60);
/// Maximum tokens of the texts that are kept, for abandoned requests and for results each: about 50 MB, or
/// twenty hours of speech.
const MOST_TOKENS: usize = 300_000;
/// Weight of a text without tokens, which also uses memory.
const LEAST_WEIGHT: usize = 100;

/// The reply to a submitted job: the Transcription that does it, or `None` if the result was cached.
pub type Accepted = Result<Option<ActorRef<TranscriptionMessage>>, SttError>;

/// Requests with equal keys share one transcription.
#[derive(Clone, Debug, PartialEq)]
struct WorkKey {
    identity: Identity,
    options: Options,
}

impl WorkKey {
    fn of(job: &Job) -> Option<Self> {
        let identity = job.identity.clone()?;
        let options = job.options.clone();
        Some(Self { identity, options })
    }
}

/// A Transcription whose exit this actor has not handled yet.
struct Running {
    job: JobId,
    key: Option<WorkKey>,
    actor: ActorRef<TranscriptionMessage>,
    subscribers: Arc<Subscribers>,
}

/// Messages that the Transcriptions actor handles.
#[derive(Debug)]
pub enum TranscriptionsMessage {
    /// Start a transcription.
    Submit(Submission),
    /// The Dispatcher was replaced.
    DispatcherReplaced(ActorRef<DispatcherMessage>),
    /// Set the fallback for later requests.
    EscalateTo(Option<Escalator>),
    /// Reject new requests; call `on_drained` when the last request has ended.
    Drain,
    /// The time for draining is over: cancel the running requests.
    CancelAll,
    /// To itself: drop expired values.
    Sweep,
    /// From the Supervisor: pass a question about liveness on to the Dispatcher.
    Ping(RpcReplyPort<()>),
}

/// Arguments of the Transcriptions actor.
pub struct TranscriptionsArguments {
    /// Opens audio.
    pub decoder: Arc<dyn AudioDecoder>,
    /// The queue for chunks.
    pub dispatcher: ActorRef<DispatcherMessage>,
    /// The fallback for doubtful texts; `None`: texts are not escalated.
    pub escalator: Option<Escalator>,
    /// Called when the last request has ended while draining.
    pub on_drained: Box<dyn Fn() + Send + Sync>,
    /// The node's status.
    pub status: Arc<NodeStatus>,
    /// How long results are kept; zero: results are not kept.
    pub result_cache: Duration,
}

/// State of the Transcriptions actor.
pub struct TranscriptionsState {
    arguments: TranscriptionsArguments,
    running: HashMap<ActorId, Running>,
    abandoned: ExpiringCache<WorkKey, FinishedWork>,
    results: ExpiringCache<WorkKey, Transcript>,
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
            abandoned: ExpiringCache::new(KEEP_ABANDONED, MOST_TOKENS),
            results: ExpiringCache::new(arguments.result_cache, MOST_TOKENS),
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
            TranscriptionsMessage::Submit(submission) => {
                let Submission {
                    job,
                    slot,
                    events,
                    reply,
                } = submission;
                // If the caller is gone, nothing is started.
                if !reply.is_closed() {
                    let accepted = state.accept(&myself, *job, slot, events).await;
                    let _ = reply.send(accepted);
                }
            }
            TranscriptionsMessage::DispatcherReplaced(dispatcher) => {
                state.dispatcher_replaced(&dispatcher);
            }
            TranscriptionsMessage::EscalateTo(escalator) => state.arguments.escalator = escalator,
            TranscriptionsMessage::Drain => {
                state.draining = true;
                // Those without a client end now.
                for running in state.running.values() {
                    let _ = (running.actor).cast(TranscriptionMessage::SubscribersChanged);
                }
                state.report_when_empty();
            }
            TranscriptionsMessage::CancelAll => state.cancel_all(),
            TranscriptionsMessage::Sweep => state.sweep(),
            TranscriptionsMessage::Ping(reply) => {
                // Without a Dispatcher, the port closes, which is an answer as well.
                let _ = (state.arguments.dispatcher).cast(DispatcherMessage::Ping(reply));
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
            SupervisionEvent::ActorTerminated(child, _, _) => state.ended(&myself, child.get_id()),
            SupervisionEvent::ActorFailed(child, reason) => {
                error!(%reason, "a transcription failed");
                state.ended(&myself, child.get_id());
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
    /// Joins an equal running request, answers from the cache, resumes an abandoned request, or starts a
    /// new one, in this order.
    async fn accept(
        &mut self,
        myself: &ActorRef<TranscriptionsMessage>,
        mut job: Job,
        mut slot: AdmissionSlot,
        events: EventSender,
    ) -> Accepted {
        if self.draining {
            return Err(self.arguments.status.snapshot().draining_refusal());
        }
        slot.uploaded();
        let Some(key) = WorkKey::of(&job) else {
            let before = job.finished.as_mut().map(std::mem::take);
            return self
                .start(myself, job, slot, events, before.unwrap_or_default())
                .await;
        };
        let (events, slot) = match self.join(&key, events, slot) {
            Ok(actor) => {
                info!(request_id = %job.request_id, "joining an equal request that is running");
                record_joined(JoinedFrom::Running);
                return Ok(Some(actor));
            }
            Err(alone) => alone,
        };
        // A request that could not be joined has ended, so its ending can be collected.
        self.collect_endings(myself);
        let now = Instant::now();
        if let Some(known) = self.results.get(&key, now) {
            info!(request_id = %job.request_id, "answering from the result of an equal request");
            record_joined(JoinedFrom::Cache);
            drop(slot);
            replay(known, &events);
            return Ok(None);
        }
        let before = self.abandoned.take(&key, now).unwrap_or_default();
        if !before.is_empty() {
            let chunks = before.len();
            info!(request_id = %job.request_id, chunks, "resuming an equal request that was abandoned");
            record_joined(JoinedFrom::Abandoned);
        }
        self.start(myself, job, slot, events, before).await
    }

    /// Subscribes to an equal running request.
    ///
    /// # Errors
    /// Returns the arguments if there is none.
    fn join(
        &self,
        key: &WorkKey,
        mut events: EventSender,
        mut slot: AdmissionSlot,
    ) -> Result<ActorRef<TranscriptionMessage>, (EventSender, AdmissionSlot)> {
        let same = |running: &&Running| running.key.as_ref() == Some(key);
        for running in self.running.values().filter(same) {
            match running.subscribers.join(events, slot) {
                Ok(()) => {
                    // It may have been without a client.
                    let _ = (running.actor).cast(TranscriptionMessage::SubscribersChanged);
                    return Ok(running.actor.clone());
                }
                Err(back) => (events, slot) = back,
            }
        }
        Err((events, slot))
    }

    async fn start(
        &mut self,
        myself: &ActorRef<TranscriptionsMessage>,
        job: Job,
        slot: AdmissionSlot,
        events: EventSender,
        before: FinishedWork,
    ) -> Accepted {
        let id = JobId::next();
        let key = WorkKey::of(&job);
        let subscribers = Arc::new(Subscribers::new(events));
        let arguments = TranscriptionArguments {
            id,
            job,
            slot,
            subscribers: Arc::clone(&subscribers),
            before,
            decoder: Arc::clone(&self.arguments.decoder),
            chunk_budget: Arc::clone(&self.chunk_budget),
            dispatcher: self.arguments.dispatcher.clone(),
            escalator: self.arguments.escalator.clone(),
            status: Arc::clone(&self.arguments.status),
        };
        let spawned =
            Transcription::spawn_linked(None, Transcription, arguments, myself.get_cell()).await;
        let (actor, _join) = spawned.map_err(|error| {
            error!(%error, "a transcription could not be started");
            SttError::Internal("the transcription could not be started")
        })?;
        let running = Running {
            job: id,
            key,
            actor: actor.clone(),
            subscribers,
        };
        self.running.insert(actor.get_id(), running);
        Ok(Some(actor))
    }

    /// Handles the exit of a Transcription: removes its chunks from the queue.
    fn ended(&mut self, myself: &ActorRef<TranscriptionsMessage>, child: ActorId) {
        self.collect_endings(myself);
        if let Some(running) = self.running.remove(&child) {
            let cancel = DispatcherMessage::Cancel(running.job);
            let _ = (self.arguments.dispatcher).cast(cancel);
        }
        self.report_when_empty();
    }

    /// Collects what ended Transcriptions left, before their exits are handled: the client's retry may
    /// arrive earlier than those.
    fn collect_endings(&mut self, myself: &ActorRef<TranscriptionsMessage>) {
        let now = Instant::now();
        for running in self.running.values() {
            let Some(key) = &running.key else { continue };
            let keep = match running.subscribers.take_ending() {
                // The fallback may be available for the next request.
                Some(Ending::Done(transcript)) if transcript.lacks_fallback() => continue,
                Some(Ending::Done(transcript)) => {
                    let tokens = transcript
                        .segments
                        .iter()
                        .map(|segment| segment.tokens.len());
                    let weight = tokens.sum::<usize>() + LEAST_WEIGHT;
                    self.results.put(key.clone(), *transcript, weight, now);
                    self.results.keep()
                }
                Some(Ending::Undelivered(work)) if !work.is_empty() => {
                    let weight = work.tokens() + LEAST_WEIGHT;
                    self.abandoned.put(key.clone(), work, weight, now);
                    self.abandoned.keep()
                }
                Some(Ending::Undelivered(_) | Ending::Nothing) | None => continue,
            };
            if !keep.is_zero() {
                myself.send_after(keep, || TranscriptionsMessage::Sweep);
            }
        }
    }

    fn sweep(&mut self) {
        let now = Instant::now();
        self.abandoned.sweep(now);
        self.results.sweep(now);
    }

    fn report_when_empty(&self) {
        if self.draining && self.running.is_empty() {
            (self.arguments.on_drained)();
        }
    }

    fn dispatcher_replaced(&mut self, dispatcher: &ActorRef<DispatcherMessage>) {
        self.arguments.dispatcher = dispatcher.clone();
        for Running { actor, .. } in self.running.values() {
            let _ = actor.cast(TranscriptionMessage::DispatcherReplaced(dispatcher.clone()));
        }
    }

    fn cancel_all(&self) {
        if !self.running.is_empty() {
            warn!(
                requests = self.running.len(),
                "cancelling requests that did not finish in time"
            );
        }
        let reason = self.arguments.status.snapshot().draining_refusal();
        for Running { actor, .. } in self.running.values() {
            let _ = actor.cast(TranscriptionMessage::Cancel(reason.clone()));
        }
        self.report_when_empty();
    }
}

/// Sends the events of a finished transcript.
fn replay(known: &Transcript, events: &EventSender) {
    let language = Event::Language {
        code: known.language.clone(),
        probability: known.language_probability,
    };
    let segments = known.segments.iter().cloned().map(Event::Segment);
    let before = [language, Event::Route(known.route)].into_iter();
    let done = Event::Done(Transcript {
        // No work was done for this request.
        timings: Timings::default(),
        ..known.clone()
    });
    for event in before.chain(segments).chain([done]) {
        // The receiver may be gone.
        let _ = events.send(Ok(event));
    }
}

//! The supervisor of all running [`Transcription`]s.
//!
//! They hang under an actor of their own so that per-request exits never queue behind the
//! Supervisor's restarts. What is the same as a request that runs joins it; what is the same as one whose
//! client left goes on where that one was. It ends when the Supervisor stops it; a Transcription that fails ends
//! alone, and whoever submitted it sees its event stream break off.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::domain::error::SttError;
use crate::domain::ids::JobId;
use crate::domain::job::{Event, Identity, Job, Options};
use crate::domain::transcript::{Timings, Transcript};
use crate::fallback::Escalator;
use crate::metrics::{JoinedFrom, record_joined};
use crate::ports::AudioDecoder;
use crate::queue::messages::DispatcherMessage;
use crate::request::expiring_cache::ExpiringCache;
use crate::request::resume::FinishedWork;
use crate::request::subscribers::{Ending, EventSender, Subscribers};
use crate::request::transcription::{Transcription, TranscriptionArguments, TranscriptionMessage};
use crate::status::NodeStatus;
use crate::status::admission::AdmissionSlot;

/// Decoded chunks of all requests together: 245 MB of samples if each is as long as it may be.
const CHUNKS_IN_MEMORY: usize = 256;

/// How long the finished part of a request is kept after its client has left: clients that gave up wait
/// a little before they try again.
const KEEP_ABANDONED: Duration = Duration::from_secs(60);
/// Tokens of texts that are kept, of abandoned requests and of results each: about 50 MB, and the text of
/// twenty hours of speech.
const MOST_TOKENS: usize = 300_000;
/// A text without words takes some memory as well.
const LEAST_WEIGHT: usize = 100;

/// What comes back for a submitted job: who does it, or nobody if it was done before.
pub type Accepted = Result<Option<ActorRef<TranscriptionMessage>>, SttError>;

/// What makes two requests one.
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

/// A Transcription that runs, or ends just now.
struct Running {
    job: JobId,
    key: Option<WorkKey>,
    actor: ActorRef<TranscriptionMessage>,
    subscribers: Arc<Subscribers>,
}

/// What this actor hears.
#[derive(Debug)]
pub enum TranscriptionsMessage {
    /// Start one.
    Submit {
        /// The work.
        job: Box<Job>,
        /// Its place in the accounts.
        slot: AdmissionSlot,
        /// Where its events go.
        events: EventSender,
        /// Hears whether it started.
        reply: RpcReplyPort<Accepted>,
    },
    /// A new Dispatcher took over.
    DispatcherReplaced(ActorRef<DispatcherMessage>),
    /// Doubtful texts of later requests go there.
    EscalateTo(Option<Escalator>),
    /// Take no new requests; call `on_drained` when the last one has ended.
    Drain,
    /// The time for draining is over: end what still runs.
    CancelAll,
    /// To itself: something was kept long enough.
    Sweep,
}

/// What this actor is made from.
pub struct TranscriptionsArguments {
    /// Opens audio.
    pub decoder: Arc<dyn AudioDecoder>,
    /// Does the work.
    pub dispatcher: ActorRef<DispatcherMessage>,
    /// Where doubtful texts go; `None`: nowhere.
    pub escalator: Option<Escalator>,
    /// Called when the last request has ended while draining.
    pub on_drained: Box<dyn Fn() + Send + Sync>,
    /// Where the number of requests is kept.
    pub status: Arc<NodeStatus>,
    /// How long results are kept; zero: they are not.
    pub result_cache: Duration,
}

/// The actor's state.
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
            TranscriptionsMessage::Submit {
                job,
                slot,
                events,
                reply,
            } => {
                // Whoever asked may have given up: then nothing is started for nobody.
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
                state.report_when_empty();
            }
            TranscriptionsMessage::CancelAll => state.cancel_all(),
            TranscriptionsMessage::Sweep => state.sweep(),
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
            SupervisionEvent::ActorTerminated(who, _, _) => state.ended(&myself, who.get_id()),
            SupervisionEvent::ActorFailed(who, reason) => {
                error!(%reason, "a transcription failed");
                state.ended(&myself, who.get_id());
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
    /// A job is answered from what is there already, as far as that goes.
    async fn accept(
        &mut self,
        myself: &ActorRef<TranscriptionsMessage>,
        job: Job,
        slot: AdmissionSlot,
        events: EventSender,
    ) -> Accepted {
        if self.draining {
            return Err(self.arguments.status.snapshot().draining_refusal());
        }
        let Some(key) = WorkKey::of(&job) else {
            return self
                .start(myself, job, slot, events, FinishedWork::default())
                .await;
        };
        let (events, slot) = match self.join(&key, events, slot) {
            Ok(actor) => {
                info!(request_id = %job.request_id, "the same is being transcribed: joining it");
                record_joined(JoinedFrom::Running);
                return Ok(Some(actor));
            }
            Err(alone) => alone,
        };
        // Whatever could not be joined has ended, and what it left is there.
        self.collect_endings(myself);
        let now = Instant::now();
        if let Some(known) = self.results.get(&key, now) {
            info!(request_id = %job.request_id, "the same was transcribed before");
            record_joined(JoinedFrom::Cache);
            drop(slot);
            recite(known, &events);
            return Ok(None);
        }
        let before = self.abandoned.take(&key, now).unwrap_or_default();
        if !before.is_empty() {
            let chunks = before.len();
            info!(request_id = %job.request_id, chunks, "going on where the same request was left");
            record_joined(JoinedFrom::Abandoned);
        }
        self.start(myself, job, slot, events, before).await
    }

    /// Lets somebody listen to what runs already, if it is the same; else gives everything back.
    fn join(
        &self,
        key: &WorkKey,
        mut events: EventSender,
        mut slot: AdmissionSlot,
    ) -> Result<ActorRef<TranscriptionMessage>, (EventSender, AdmissionSlot)> {
        let same = |running: &&Running| running.key.as_ref() == Some(key);
        for running in self.running.values().filter(same) {
            match running.subscribers.join(events, slot) {
                Ok(()) => return Ok(running.actor.clone()),
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

    /// However a Transcription ended, nobody waits for its chunks any more.
    fn ended(&mut self, myself: &ActorRef<TranscriptionsMessage>, who: ActorId) {
        self.collect_endings(myself);
        if let Some(running) = self.running.remove(&who) {
            let withdraw = DispatcherMessage::Cancel(running.job);
            let _ = (self.arguments.dispatcher).cast(withdraw);
        }
        self.report_when_empty();
    }

    /// Keeps what Transcriptions left that are over, though the word of their end may still be on its
    /// way: a client that comes back at once must not come too early.
    fn collect_endings(&mut self, myself: &ActorRef<TranscriptionsMessage>) {
        let now = Instant::now();
        for running in self.running.values() {
            let Some(key) = &running.key else { continue };
            let keep = match running.subscribers.take_ending() {
                // The larger model may be there the next time.
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
                Some(Ending::Unheard(work)) if !work.is_empty() => {
                    let weight = work.tokens() + LEAST_WEIGHT;
                    self.abandoned.put(key.clone(), work, weight, now);
                    self.abandoned.keep()
                }
                Some(Ending::Unheard(_) | Ending::Nothing) | None => continue,
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
                "ending requests that are not done in time"
            );
        }
        let reason = self.arguments.status.snapshot().draining_refusal();
        for Running { actor, .. } in self.running.values() {
            let _ = actor.cast(TranscriptionMessage::Cancel(reason.clone()));
        }
        self.report_when_empty();
    }
}

/// Tells a transcript that is there already, as if it were made now.
fn recite(known: &Transcript, events: &EventSender) {
    let language = Event::Language {
        code: known.language.clone(),
        probability: known.language_probability,
    };
    let segments = known.segments.iter().cloned().map(Event::Segment);
    let before = [language, Event::Route(known.route)].into_iter();
    let done = Event::Done(Transcript {
        // Nothing was done for this request.
        timings: Timings::default(),
        ..known.clone()
    });
    for event in before.chain(segments).chain([done]) {
        // Whoever asked may have left.
        let _ = events.send(Ok(event));
    }
}

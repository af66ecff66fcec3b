//! A Transcription: one request, from its first decoded sample to its last segment.
//!
//! It runs the decoder in a separate task, sends chunks to the Dispatcher, checks and merges their texts, and
//! sends events to every subscriber. Only a few chunks are outstanding at a time, so memory does not grow with
//! the length of the audio. If the language must be detected, the first chunk with speech decides it and the
//! other chunks wait.
//!
//! Plain structs without actors make its decisions: `Intake` (audio and open chunks), `RequestLanguage`,
//! `Texts` and `Escalating`. `steps` carries them out.
//!
//! Supervised by [`Transcriptions`](crate::request::transcriptions). It ends with its last event, or after the
//! last client left: its finished chunks are then kept for a while. The module `absence` says what happens in between.

mod absence;
mod escalation;
mod intake;
mod steps;
mod texts;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::{Span, info_span};

use crate::domain::chunk::AudioChunk;
use crate::domain::error::{DecodeError, FallbackError, SttError};
use crate::domain::finished::FinishedWork;
use crate::domain::ids::{ChunkIndex, JobId};
use crate::domain::job::{Job, Urgency};
use crate::domain::trace::SPANS;
use crate::domain::transcript::{ChunkDone, Task};
use crate::fallback::Escalator;
use crate::ports::{AudioDecoder, DecodeOptions, DetectedLanguage, FallbackText};
use crate::queue::messages::{ChunkNews, ChunkOwner, DispatcherMessage};
use crate::request::decoding::{
    ChunkBudget, ChunkPermit, DecodeProgress, DecodedAudio, Lengths, Position, decode,
};
use crate::request::language::RequestLanguage;
use crate::request::resume::Resume;
use crate::request::subscribers::Subscribers;
use crate::status::NodeStatus;
use crate::status::admission::AdmissionSlot;
use crate::task::caught;
use absence::Absence;
use escalation::Escalating;
use intake::Intake;
use texts::Texts;

/// Messages that a Transcription handles.
#[derive(Debug)]
pub enum TranscriptionMessage {
    /// From the decoding task: a decoded chunk.
    Decoded {
        /// The audio.
        chunk: AudioChunk,
        /// The target length that the decoder was given.
        target: Duration,
        /// Its share of the memory budgets, released when the chunk is done.
        permit: ChunkPermit,
        /// The state of decoding after the chunk.
        position: Position,
    },
    /// From the decoding task: only silence since its last message.
    Silence(Position),
    /// From the decoding task: all audio is decoded, or decoding failed.
    DecodeEnded(Result<DecodedAudio, DecodeError>),
    /// From the Dispatcher: a lane detected a chunk's language.
    LanguageDetected {
        /// The chunk.
        index: ChunkIndex,
        /// The language.
        language: DetectedLanguage,
    },
    /// From the Dispatcher: a chunk's result.
    ChunkEnded {
        /// The chunk.
        index: ChunkIndex,
        /// The text and the lane that made it, or the error.
        outcome: Result<ChunkDone, SttError>,
    },
    /// From the task that calls the fallback: its result for a chunk.
    FallbackEnded {
        /// The chunk.
        index: ChunkIndex,
        /// The text, or the error.
        outcome: Result<FallbackText, FallbackError>,
        /// Duration of the call.
        seconds: f64,
    },
    /// From [`Transcriptions`](crate::request::transcriptions): the Dispatcher was replaced.
    DispatcherReplaced(ActorRef<DispatcherMessage>),
    /// From the Dispatcher: no lane works on a chunk any more, because there was no subscriber.
    ChunkWithdrawn(ChunkIndex),
    /// From the holder of its events: its chunks have this urgency from now on.
    SetUrgency(Urgency),
    /// A subscriber left or joined, or the server is draining.
    SubscribersChanged,
    /// From [`Transcriptions`](crate::request::transcriptions): end with this error.
    Cancel(SttError),
}

/// Arguments of a Transcription.
pub struct TranscriptionArguments {
    /// Identifies the request inside the tree.
    pub id: JobId,
    /// The request.
    pub job: Job,
    /// Its admission slot, held until the request ends.
    pub slot: AdmissionSlot,
    /// The clients that get its events.
    pub subscribers: Arc<Subscribers>,
    /// Chunks that were finished when an equal request was here before.
    pub before: FinishedWork,
    /// Opens the audio.
    pub decoder: Arc<dyn AudioDecoder>,
    /// Limits the decoded chunks of all requests together.
    pub chunk_budget: Arc<Semaphore>,
    /// The queue for chunks.
    pub dispatcher: ActorRef<DispatcherMessage>,
    /// The fallback for doubtful texts; `None`: texts are not escalated.
    pub escalator: Option<Escalator>,
    /// The node's status.
    pub status: Arc<NodeStatus>,
}

/// The actor's state.
pub struct TranscriptionState {
    id: JobId,
    job: Job,
    /// Dropped before the client receives the result: the client's next request must not find this one still in the
    /// accounts.
    slot: Option<AdmissionSlot>,
    subscribers: Arc<Subscribers>,
    dispatcher: ActorRef<DispatcherMessage>,
    status: Arc<NodeStatus>,
    started: Instant,
    _decoding: AbortOnDropHandle<()>,
    escalator: Option<Escalator>,
    /// Running calls of the fallback.
    calls: BTreeMap<ChunkIndex, AbortOnDropHandle<()>>,
    resume: Resume,
    absence: Absence,
    intake: Intake,
    language: RequestLanguage,
    texts: Texts,
    escalating: Escalating,
}

/// Whether the request goes on.
#[derive(PartialEq, Eq)]
enum Outcome {
    GoesOn,
    Ended,
}

/// The actor.
#[derive(Debug)]
pub struct Transcription;

impl Actor for Transcription {
    type Msg = TranscriptionMessage;
    type State = TranscriptionState;
    type Arguments = TranscriptionArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        arguments: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let TranscriptionArguments {
            id,
            job,
            slot,
            subscribers,
            before,
            decoder,
            chunk_budget,
            dispatcher,
            escalator,
            status,
        } = arguments;
        // Translations are not escalated.
        let escalator = escalator.filter(|_| job.escalates && job.options.task == Task::Transcribe);
        let audio = job.audio.clone();
        let budget = ChunkBudget::new(Arc::clone(&status), chunk_budget);
        let language = job.options.language.clone();
        let has_languages =
            job.options.multilingual && language.or_else(|| only_language(&status)).is_none();
        let options = DecodeOptions {
            voice_activity: job.options.voice_activity,
            pauses_end_chunks: has_languages,
        };
        let lengths = Lengths {
            before: before.targets().to_vec(),
            streamed: job.streamed,
            steady: has_languages,
        };
        let span = info_span!(target: SPANS, parent: &job.trace.span, "decode");
        let decoding = tokio::spawn(async move {
            let _span = span;
            let report = |progress| myself.cast(decoded(progress)).is_ok();
            let decoding = decode(decoder.as_ref(), &audio, options, lengths, budget, report);
            let ended = (caught(decoding).await)
                .unwrap_or_else(|| Err(DecodeError::Unavailable("it panicked".to_owned())));
            let _ = myself.cast(TranscriptionMessage::DecodeEnded(ended));
        });
        let least = escalator
            .as_ref()
            .map_or(0.0, |to| to.policy.min_language_probability);
        Ok(TranscriptionState {
            id,
            slot: Some(slot),
            subscribers,
            dispatcher,
            started: Instant::now(),
            _decoding: AbortOnDropHandle::new(decoding),
            calls: BTreeMap::new(),
            intake: Intake::default(),
            language: RequestLanguage::new(
                job.options.language.clone(),
                only_language(&status).or_else(|| before.language().map(str::to_owned)),
                job.options.multilingual,
                least,
            ),
            texts: Texts::new(job.options.hallucination_guard),
            escalating: Escalating::new(escalator.as_ref().map(|to| to.policy)),
            resume: Resume::new(job.identity.is_some(), before),
            absence: Absence::default(),
            escalator,
            job,
            status,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let outcome = match message {
            TranscriptionMessage::Decoded {
                chunk,
                target,
                permit,
                position,
            } => {
                state.record_cut(target);
                state.chunk_decoded(&myself, chunk, permit, position)
            }
            TranscriptionMessage::Silence(position) => state.silence_passed(position),
            TranscriptionMessage::DecodeEnded(Ok(audio)) => state.all_decoded(&myself, audio),
            TranscriptionMessage::DecodeEnded(Err(error)) => state.fail(error.into()),
            TranscriptionMessage::LanguageDetected { index, language } => {
                state.language_heard(&myself, index, language)
            }
            TranscriptionMessage::ChunkEnded { index, outcome } => {
                state.chunk_ended(&myself, index, outcome)
            }
            TranscriptionMessage::ChunkWithdrawn(index) => {
                state.chunk_withdrawn(&myself, index);
                Outcome::GoesOn
            }
            TranscriptionMessage::FallbackEnded {
                index,
                outcome,
                seconds,
            } => state.fallback_ended(&myself, index, outcome, seconds),
            TranscriptionMessage::DispatcherReplaced(dispatcher) => {
                state.dispatcher_replaced(&myself, dispatcher);
                Outcome::GoesOn
            }
            TranscriptionMessage::SetUrgency(urgency) => {
                state.set_urgency(urgency);
                Outcome::GoesOn
            }
            TranscriptionMessage::SubscribersChanged => Outcome::GoesOn,
            TranscriptionMessage::Cancel(reason) => state.fail(reason),
        };
        // After every message: a client that left before it got the stream sends no message.
        if outcome == Outcome::Ended || state.follow_subscribers(&myself) == Outcome::Ended {
            myself.stop(None);
        }
        state.update_accounts();
        Ok(())
    }
}

/// The message for a report of the decoding task.
fn decoded(progress: DecodeProgress) -> TranscriptionMessage {
    match progress {
        DecodeProgress::Chunk {
            chunk,
            target,
            permit,
            position,
        } => TranscriptionMessage::Decoded {
            chunk,
            target,
            permit,
            position,
        },
        DecodeProgress::Silence(position) => TranscriptionMessage::Silence(position),
    }
}

/// Sends the Dispatcher's news of chunks to a Transcription.
fn owner(transcription: ActorRef<TranscriptionMessage>, span: Span) -> ChunkOwner {
    let owner = ChunkOwner::new(move |index, news| {
        let message = match news {
            ChunkNews::LanguageDetected(language) => {
                TranscriptionMessage::LanguageDetected { index, language }
            }
            ChunkNews::Withdrawn => TranscriptionMessage::ChunkWithdrawn(index),
            ChunkNews::Ended(outcome) => TranscriptionMessage::ChunkEnded { index, outcome },
        };
        let _ = transcription.cast(message);
    });
    owner.traced_in(span)
}

/// The language of a model that supports only one.
fn only_language(status: &NodeStatus) -> Option<String> {
    let engine = status.snapshot().last_engine?;
    (!engine.multilingual).then(|| "en".to_owned())
}

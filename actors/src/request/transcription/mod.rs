//! A Transcription: one request, from its first decoded sample to its last segment.
//!
//! It runs the decoder in a task of its own, gives chunks to the Dispatcher, takes out what whisper
//! made up, merges the answers in order and sends events to whoever submitted the job. Only a few
//! chunks are outstanding at a time, so memory does not grow with the length of the audio. When the
//! language is to be detected, the first chunk with speech decides it and the others wait for that.
//!
//! Supervised by [`Transcriptions`](crate::request::transcriptions). It ends with its last event, or when
//! the last client goes away: then what is finished of it is kept for a while.

mod escalation;
mod intake;
mod texts;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::domain::chunk::{AudioChunk, samples_to_seconds};
use crate::domain::error::{DecodeError, FallbackError, SttError};
use crate::domain::ids::{ChunkIndex, JobId};
use crate::domain::job::{Event, Job, Progress};
use crate::domain::transcript::{
    ChunkDone, Escalation, Merger, Removed, Route, Task, Timings, Transcript,
};
use crate::fallback::Escalator;
use crate::ports::{AudioDecoder, ChunkRequest, DecodeOptions, DetectedLanguage, FallbackText};
use crate::queue::messages::{ChunkNews, ChunkOwner, DispatcherMessage};
use crate::request::decoding::{
    ChunkBudget, ChunkPermit, DecodeProgress, DecodedAudio, Lengths, Position, decode,
};
use crate::request::language::LanguageHold;
use crate::request::resume::FinishedWork;
use crate::request::subscribers::Subscribers;
use crate::status::admission::AdmissionSlot;
use crate::status::{Escalated, NodeStatus};
use crate::task::caught;
use crate::text::second_pass::SecondPass;
use escalation::Escalating;

/// The language of audio in which nobody speaks, where none is given: whisper's own default.
const LANGUAGE_OF_SILENCE: &str = "en";

/// What a Transcription hears.
#[derive(Debug)]
pub enum TranscriptionMessage {
    /// From the decoding task: a chunk, and its share of the memory.
    Decoded {
        /// The audio.
        chunk: AudioChunk,
        /// How long it was to be.
        target: Duration,
        /// Given back when the chunk is done.
        permit: ChunkPermit,
        /// How far it is.
        position: Position,
    },
    /// From the decoding task: nothing but silence since its last word.
    Silence(Position),
    /// From the decoding task: that was all, or it failed.
    DecodeEnded(Result<DecodedAudio, DecodeError>),
    /// From the Dispatcher: a lane has heard a chunk's language.
    LanguageDetected {
        /// Which chunk.
        index: ChunkIndex,
        /// The language.
        language: DetectedLanguage,
    },
    /// From the Dispatcher: a chunk's end.
    ChunkEnded {
        /// Which.
        index: ChunkIndex,
        /// The text and how it came about, or why there is none.
        outcome: Result<ChunkDone, SttError>,
    },
    /// From the task that asks the larger model: a chunk's end there.
    FallbackEnded {
        /// Which.
        index: ChunkIndex,
        /// The text, or why there is none.
        outcome: Result<FallbackText, FallbackError>,
        /// How long it took.
        seconds: f64,
    },
    /// From [`Transcriptions`](crate::request::transcriptions): a new Dispatcher took over.
    DispatcherReplaced(ActorRef<DispatcherMessage>),
    /// A client that listened has left.
    ListenerLeft,
    /// The server will not wait for this any longer.
    Cancel(SttError),
}

/// What a Transcription is made from.
pub struct TranscriptionArguments {
    /// Names the request inside the tree.
    pub id: JobId,
    /// The work.
    pub job: Job,
    /// Its place in the accounts; held until the request is over.
    pub slot: AdmissionSlot,
    /// Who listens.
    pub subscribers: Arc<Subscribers>,
    /// What was finished when the same request was here before.
    pub before: FinishedWork,
    /// Opens the audio.
    pub decoder: Arc<dyn AudioDecoder>,
    /// Chunks that all requests together may hold.
    pub chunk_budget: Arc<Semaphore>,
    /// Does the work.
    pub dispatcher: ActorRef<DispatcherMessage>,
    /// Where doubtful texts go; `None`: nowhere.
    pub escalator: Option<Escalator>,
    /// Knows the model.
    pub status: Arc<NodeStatus>,
}

/// A decoded chunk, until it is done; or a part of one that is transcribed again.
struct OpenChunk {
    audio: AudioChunk,
    /// Seconds of the time line that are done with it: its own and the silence before it.
    covers: f64,
    /// A part has its chunk's.
    permit: Option<ChunkPermit>,
}

/// The actor's state.
pub struct TranscriptionState {
    id: JobId,
    job: Job,
    /// Given back before the client hears the end: its next request must not find this one still
    /// in the accounts.
    slot: Option<AdmissionSlot>,
    subscribers: Arc<Subscribers>,
    /// What was finished when the same request was here before.
    before: FinishedWork,
    /// What is finished, for when it comes again.
    finished: FinishedWork,
    dispatcher: ActorRef<DispatcherMessage>,
    status: Arc<NodeStatus>,
    _decoding: AbortOnDropHandle<()>,
    /// Chunks at the Dispatcher.
    outstanding: BTreeMap<ChunkIndex, OpenChunk>,
    /// Chunks that wait until the language is known.
    held_back: VecDeque<OpenChunk>,
    /// Chunks of which parts are transcribed again.
    second_passes: Vec<(OpenChunk, SecondPass)>,
    /// Parts so far.
    next_part: usize,
    escalating: Escalating,
    hold: LanguageHold,
    decoded: Option<DecodedAudio>,
    merger: Merger,
    removed: Vec<Removed>,
    /// What the client is told, once it was told.
    language: Option<(String, Option<f32>)>,
    progress: Progress,
    /// The progress that the client has heard of.
    told: Progress,
    /// Up to which second it is settled what is speech.
    settled: f64,
    /// It was looked at whether the node has the time for so long a file.
    length_was_weighed: bool,
    route: Route,
    route_was_told: bool,
    started: Instant,
    /// A first chunk is done.
    wait_is_known: bool,
    timings: Timings,
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
        // A translation is this node's own.
        let escalator = escalator.filter(|_| job.escalates && job.options.task == Task::Transcribe);
        let source = job.source.clone();
        let budget = ChunkBudget::new(Arc::clone(&status), chunk_budget);
        let options = DecodeOptions {
            voice_activity: job.options.voice_activity,
        };
        let lengths = Lengths {
            before: before.targets().to_vec(),
            streamed: job.streamed,
        };
        let decoding = tokio::spawn(async move {
            let report = |progress| myself.cast(decoded(progress)).is_ok();
            let decoding = decode(decoder.as_ref(), &source, options, lengths, budget, report);
            let ended = (caught(decoding).await)
                .unwrap_or_else(|| Err(DecodeError::Unavailable("a panic".to_owned())));
            let _ = myself.cast(TranscriptionMessage::DecodeEnded(ended));
        });
        Ok(TranscriptionState {
            id,
            hold: LanguageHold::new(
                given_language(&job, &status).or_else(|| before.language().map(str::to_owned)),
                job.options.multilingual,
                (escalator.as_ref()).map_or(0.0, |to| to.policy.min_language_probability),
            ),
            escalating: Escalating::new(escalator),
            job,
            slot: Some(slot),
            subscribers,
            before,
            finished: FinishedWork::default(),
            dispatcher,
            status,
            _decoding: AbortOnDropHandle::new(decoding),
            outstanding: BTreeMap::new(),
            held_back: VecDeque::new(),
            second_passes: Vec::new(),
            next_part: 0,
            decoded: None,
            merger: Merger::default(),
            removed: Vec::new(),
            language: None,
            progress: Progress::default(),
            told: Progress::default(),
            settled: 0.0,
            length_was_weighed: false,
            route: Route::Hot,
            route_was_told: false,
            started: Instant::now(),
            wait_is_known: false,
            timings: Timings::default(),
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
                state.note_cut(target);
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
            TranscriptionMessage::FallbackEnded {
                index,
                outcome,
                seconds,
            } => state.fallback_ended(&myself, index, outcome, seconds),
            TranscriptionMessage::DispatcherReplaced(dispatcher) => {
                state.dispatcher_replaced(&myself, dispatcher);
                Outcome::GoesOn
            }
            // Looked after below: one that left before it had the stream cannot say so.
            TranscriptionMessage::ListenerLeft => Outcome::GoesOn,
            TranscriptionMessage::Cancel(reason) => state.fail(reason),
        };
        state.account();
        if outcome == Outcome::Ended || state.is_deserted() {
            myself.stop(None);
        }
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

/// Has the Dispatcher's news of chunks come to a Transcription.
fn owner(transcription: ActorRef<TranscriptionMessage>) -> ChunkOwner {
    ChunkOwner::new(move |index, news| {
        let message = match news {
            ChunkNews::LanguageDetected(language) => {
                TranscriptionMessage::LanguageDetected { index, language }
            }
            ChunkNews::Ended(outcome) => TranscriptionMessage::ChunkEnded { index, outcome },
        };
        let _ = transcription.cast(message);
    })
}

/// The language that needs no detection: the client's, or that of a model which knows no other.
fn given_language(job: &Job, status: &NodeStatus) -> Option<String> {
    let given = job.options.language.clone();
    given.or_else(|| {
        let engine = status.snapshot().last_engine?;
        (!engine.multilingual).then(|| "en".to_owned())
    })
}

impl TranscriptionState {
    fn enqueue(&mut self, myself: &ActorRef<TranscriptionMessage>, chunk: OpenChunk) {
        let options = &self.job.options;
        let request = ChunkRequest {
            request_id: Arc::clone(&self.job.request_id),
            audio: chunk.audio.clone(),
            task: options.task,
            language: self.hold.code().map(str::to_owned),
            prompt: options.prompt.clone(),
            temperature: options.temperature,
        };
        self.outstanding.insert(chunk.audio.index, chunk);
        let Some(slot) = &self.slot else { return };
        let known = self.progress.seconds_known;
        let scheduling = slot.scheduling_key(known, known - self.progress.seconds_done);
        // If the Dispatcher is gone, its successor is announced and gets the chunk again.
        let _ = self.dispatcher.cast(DispatcherMessage::Enqueue {
            job: self.id,
            request,
            scheduling,
            owner: owner(myself.clone()),
        });
    }

    fn end_if_done(&mut self, myself: &ActorRef<TranscriptionMessage>) -> Outcome {
        let Some(audio) = &self.decoded else {
            return Outcome::GoesOn;
        };
        let samples = audio.samples;
        let open = self.outstanding.len() + self.held_back.len() + self.second_passes.len();
        if open > 0 || self.escalating.misses_words() {
            return Outcome::GoesOn;
        }
        self.judge_short_ones(myself, true);
        if self.escalating.open() > 0 {
            return Outcome::GoesOn;
        }
        let duration = samples_to_seconds(samples);
        self.status.record_request(duration);
        self.timings.total = self.started.elapsed().as_secs_f64();
        self.progress.seconds_done = duration;
        let (language, language_probability) = self.final_language();
        self.removed.sort_by(|a, b| a.start.total_cmp(&b.start));
        let transcript = Transcript {
            segments: self.subscribers.segments(),
            removed: std::mem::take(&mut self.removed),
            language,
            language_probability,
            duration,
            model: self.final_model(),
            route: self.route,
            timings: self.timings,
            escalation: self.escalating.finish(),
        };
        if let Some(escalation) = &transcript.escalation {
            self.status.record_escalation(match escalation {
                Escalation { error: Some(_), .. } => Escalated::Failed,
                Escalation { used: true, .. } => Escalated::Used,
                Escalation { .. } => Escalated::Skipped,
            });
        }
        self.slot = None;
        self.tell_progress();
        self.end(Ok(transcript));
        Outcome::Ended
    }

    fn final_model(&self) -> String {
        let own = self.status.snapshot().last_engine;
        let own = own.map_or_else(String::new, |info| info.model);
        self.escalating.final_model(own)
    }

    fn fail(&mut self, error: SttError) -> Outcome {
        if matches!(error, SttError::Fallback { .. }) {
            self.status.record_escalation(Escalated::Failed);
        }
        self.slot = None;
        self.end(Err(error));
        Outcome::Ended
    }

    fn tell_progress(&mut self) {
        if self.told != self.progress {
            self.told = self.progress;
            self.subscribers.tell(&Event::Progress(self.progress));
        }
    }

    fn end(&mut self, result: Result<Transcript, SttError>) {
        let subscribers = Arc::clone(&self.subscribers);
        subscribers.end(result, || self.take_finished());
    }

    /// Whether the last client has left.
    fn is_deserted(&mut self) -> bool {
        let subscribers = Arc::clone(&self.subscribers);
        subscribers.is_deserted(|| self.take_finished())
    }

    /// Notes how long the next chunk was to be.
    fn note_cut(&mut self, target: Duration) {
        if self.job.identity.is_some() {
            self.finished.cut(target);
        }
    }

    /// Notes what an engine gave.
    fn note_done(&mut self, audio: &AudioChunk, done: &ChunkDone) {
        if self.job.identity.is_some() {
            self.finished.add(audio, done.clone());
        }
    }

    /// What is finished, for when the same request comes again.
    fn take_finished(&mut self) -> FinishedWork {
        let before = std::mem::take(&mut self.before);
        let finished = std::mem::take(&mut self.finished);
        finished.kept(before, self.hold.code())
    }

    fn dispatcher_replaced(
        &mut self,
        myself: &ActorRef<TranscriptionMessage>,
        dispatcher: ActorRef<DispatcherMessage>,
    ) {
        self.dispatcher = dispatcher;
        for (_, chunk) in std::mem::take(&mut self.outstanding) {
            self.enqueue(myself, chunk);
        }
    }
}

//! A Transcription: one request, from its first decoded sample to its last segment.
//!
//! It runs the decoder in a task of its own, gives chunks to the Dispatcher, takes out what whisper
//! made up, merges the answers in order and sends events to whoever submitted the job. Only a few
//! chunks are outstanding at a time, so memory does not grow with the length of the audio. When the
//! language is to be detected, the first chunk with speech decides it and the others wait for that.
//!
//! Supervised by [`Transcriptions`](crate::transcriptions). It ends with its last event, or when
//! the client goes away.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};

use crate::admission::{Left, Place};
use crate::caught::caught;
use crate::chunk::FIRST_PART;
use crate::decoding::{ChunkBudget, ChunkPermit, DecodedAudio, Position, decode};
use crate::dispatcher::DispatcherMessage;
use crate::error::SttError;
use crate::hallucination::guard;
use crate::job::{Event, Job, JobId, Progress};
use crate::language_hold::LanguageHold;
use crate::missed_speech::{self, Again};
use crate::pauses;
use crate::ports::{
    AudioChunk, AudioDecoder, ChunkRequest, DecodeError, DecodeOptions, DetectedLanguage,
    samples_to_seconds,
};
use crate::second_pass::SecondPass;
use crate::status::NodeStatus;
use crate::transcript::{ChunkTranscript, Merger, Removed, Route, Segment, Timings, Transcript};
use crate::waiting::is_long;
use crate::work_queue::LaneKind;

/// The language of audio in which nobody speaks, where none is given: whisper's own default.
const LANGUAGE_OF_SILENCE: &str = "en";

/// Where events go. Unbounded, and bounded by the length of the audio all the same: a handful of
/// segments a chunk.
pub type EventSender = mpsc::UnboundedSender<Result<Event, SttError>>;

/// What a Transcription hears.
#[derive(Debug)]
pub enum TranscriptionMessage {
    /// From the decoding task: a chunk, and its share of the memory.
    Decoded {
        /// The audio.
        chunk: AudioChunk,
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
    LanguageHeard {
        /// Which chunk.
        index: usize,
        /// The language.
        language: DetectedLanguage,
    },
    /// From the Dispatcher: a chunk's end.
    ChunkEnded {
        /// Which.
        index: usize,
        /// The text and how it came about, or why there is none.
        outcome: Result<ChunkDone, SttError>,
    },
    /// From [`Transcriptions`](crate::transcriptions): a new Dispatcher took over.
    DispatcherReplaced(ActorRef<DispatcherMessage>),
    /// The client is gone, or the server will not wait for this any longer.
    Cancel(SttError),
}

/// A chunk's result.
#[derive(Debug)]
pub struct ChunkDone {
    /// The text.
    pub transcript: ChunkTranscript,
    /// Who made it.
    pub lane: LaneKind,
    /// The hot lane did it after a cold one had failed.
    pub rescued: bool,
}

/// What a Transcription is made from.
pub struct TranscriptionArguments {
    /// Names the request inside the tree.
    pub id: JobId,
    /// The work.
    pub job: Job,
    /// Its place in the accounts; held until the request is over.
    pub place: Place,
    /// Where events go.
    pub events: EventSender,
    /// Opens the audio.
    pub decoder: Arc<dyn AudioDecoder>,
    /// Chunks that all requests together may hold.
    pub chunk_budget: Arc<Semaphore>,
    /// Does the work.
    pub dispatcher: ActorRef<DispatcherMessage>,
    /// Knows the model.
    pub status: Arc<NodeStatus>,
}

/// A decoded chunk, until it is done; or a part of one that is transcribed again.
struct OpenChunk {
    audio: AudioChunk,
    /// Seconds of the time line that are done with it: its own and the silence before it.
    covers: f64,
    /// A part has its chunk's.
    _permit: Option<ChunkPermit>,
}

/// The actor's state.
pub struct TranscriptionState {
    id: JobId,
    job: Job,
    /// Given back before the client hears the end: its next request must not find this one still
    /// in the accounts.
    place: Option<Place>,
    events: EventSender,
    dispatcher: ActorRef<DispatcherMessage>,
    status: Arc<NodeStatus>,
    _decoding: AbortOnDropHandle<()>,
    /// Chunks at the Dispatcher.
    outstanding: BTreeMap<usize, OpenChunk>,
    /// Chunks that wait until the language is known.
    held_back: VecDeque<OpenChunk>,
    /// Chunks of which parts are transcribed again.
    second_passes: Vec<(OpenChunk, SecondPass)>,
    /// Parts so far.
    next_part: usize,
    hold: LanguageHold,
    decoded: Option<DecodedAudio>,
    merger: Merger,
    segments: Vec<Segment>,
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
            place,
            events,
            decoder,
            chunk_budget,
            dispatcher,
            status,
        } = arguments;
        let source = job.source.clone();
        let budget = ChunkBudget::new(Arc::clone(&status), chunk_budget);
        let options = DecodeOptions {
            voice_activity: job.options.voice_activity,
        };
        let decoding = tokio::spawn(async move {
            let ended = caught(decode(decoder.as_ref(), &source, options, budget, &myself))
                .await
                .unwrap_or_else(|| Err(DecodeError::Unavailable("a panic".to_owned())));
            let _ = myself.cast(TranscriptionMessage::DecodeEnded(ended));
        });
        Ok(TranscriptionState {
            id,
            hold: LanguageHold::new(given_language(&job, &status), job.options.multilingual),
            job,
            place: Some(place),
            events,
            dispatcher,
            status,
            _decoding: AbortOnDropHandle::new(decoding),
            outstanding: BTreeMap::new(),
            held_back: VecDeque::new(),
            second_passes: Vec::new(),
            next_part: 0,
            decoded: None,
            merger: Merger::default(),
            segments: Vec::new(),
            removed: Vec::new(),
            language: None,
            progress: Progress::default(),
            told: Progress::default(),
            settled: 0.0,
            length_was_weighed: false,
            route: Route::Hot,
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
                permit,
                position,
            } => state.chunk_decoded(&myself, chunk, permit, position),
            TranscriptionMessage::Silence(position) => state.silence_passed(position),
            TranscriptionMessage::DecodeEnded(Ok(audio)) => state.all_decoded(audio),
            TranscriptionMessage::DecodeEnded(Err(error)) => state.fail(error.into()),
            TranscriptionMessage::LanguageHeard { index, language } => {
                state.language_heard(&myself, index, language)
            }
            TranscriptionMessage::ChunkEnded { index, outcome } => {
                state.chunk_ended(&myself, index, outcome)
            }
            TranscriptionMessage::DispatcherReplaced(dispatcher) => {
                state.dispatcher_replaced(&myself, dispatcher);
                Outcome::GoesOn
            }
            TranscriptionMessage::Cancel(reason) => state.fail(reason),
        };
        state.account();
        // A client that left before it had the stream cannot say so.
        if outcome == Outcome::Ended || state.events.is_closed() {
            myself.stop(None);
        }
        Ok(())
    }
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
    fn chunk_decoded(
        &mut self,
        myself: &ActorRef<TranscriptionMessage>,
        audio: AudioChunk,
        permit: ChunkPermit,
        position: Position,
    ) -> Outcome {
        let chunk = OpenChunk {
            covers: self.advance(position),
            audio,
            _permit: Some(permit),
        };
        if let Err(refusal) = self.weigh_length(chunk.audio.duration_seconds()) {
            return self.fail(refusal);
        }
        if self.hold.may_go(chunk.audio.index) {
            self.enqueue(myself, chunk);
        } else {
            self.held_back.push_back(chunk);
        }
        Outcome::GoesOn
    }

    fn silence_passed(&mut self, position: Position) -> Outcome {
        self.progress.seconds_done += self.advance(position);
        self.tell_progress();
        Outcome::GoesOn
    }

    /// Takes in how far decoding is. Gives the seconds that were settled since.
    fn advance(&mut self, position: Position) -> f64 {
        self.progress.seconds_known = position.known;
        self.timings.decode = position.decode_seconds;
        let settled = position.settled.max(self.settled);
        settled - std::mem::replace(&mut self.settled, settled)
    }

    /// Before the body was read, the request was taken for a short one. If it turns out to be long
    /// before any work is done for it, it is asked again whether there is time for it.
    fn weigh_length(&mut self, first_chunk: f64) -> Result<(), SttError> {
        let first_look = !std::mem::replace(&mut self.length_was_weighed, true);
        let known = self.progress.seconds_known;
        let Some(place) = self.place.as_mut().filter(|_| first_look && is_long(known)) else {
            return Ok(());
        };
        place.update(Left {
            open: 1,
            open_seconds: first_chunk,
            undecoded_seconds: known - self.settled,
            total_seconds: known,
        });
        self.status.refuse_long_wait(place.ahead())
    }

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
        let Some(place) = &self.place else { return };
        let known = self.progress.seconds_known;
        let terms = place.terms(known, known - self.progress.seconds_done);
        // If the Dispatcher is gone, its successor is announced and gets the chunk again.
        let _ = self.dispatcher.cast(DispatcherMessage::Enqueue {
            job: self.id,
            request,
            terms,
            owner: myself.clone(),
        });
    }

    fn language_heard(
        &mut self,
        myself: &ActorRef<TranscriptionMessage>,
        index: usize,
        language: DetectedLanguage,
    ) -> Outcome {
        if let Some(decided) = self.hold.heard(index, language) {
            self.announce(decided.code, Some(decided.probability));
            self.release_held_back(myself);
        }
        Outcome::GoesOn
    }

    fn release_held_back(&mut self, myself: &ActorRef<TranscriptionMessage>) {
        while let Some(next) = self.held_back.front() {
            if !self.hold.may_go(next.audio.index) {
                break;
            }
            if let Some(chunk) = self.held_back.pop_front() {
                self.enqueue(myself, chunk);
            }
        }
    }

    fn chunk_ended(
        &mut self,
        myself: &ActorRef<TranscriptionMessage>,
        index: usize,
        outcome: Result<ChunkDone, SttError>,
    ) -> Outcome {
        let Some(chunk) = self.outstanding.remove(&index) else {
            return Outcome::GoesOn;
        };
        match outcome {
            _ if index >= FIRST_PART => self.part_ended(&chunk.audio, outcome),
            Ok(done) => self.chunk_done(myself, chunk, done),
            Err(error) => self.fail(error),
        }
    }

    fn chunk_done(
        &mut self,
        myself: &ActorRef<TranscriptionMessage>,
        chunk: OpenChunk,
        done: ChunkDone,
    ) -> Outcome {
        let mut transcript = done.transcript;
        if !std::mem::replace(&mut self.wait_is_known, true) {
            let in_tree = self.started.elapsed().as_secs_f64();
            let working = transcript.inference_seconds + self.timings.decode;
            self.timings.queue_wait = (in_tree - working).max(0.0);
        }
        let removed = self.take_in(&chunk.audio, &mut transcript, done.lane, done.rescued);
        self.learn_language(chunk.audio.index, &transcript);
        let again = missed_speech::find(&chunk.audio, &transcript.segments, &removed);
        let placed = removed
            .into_iter()
            .map(|removed| removed.place(&chunk.audio));
        self.removed.extend(placed);
        if again.is_empty() {
            self.settle(chunk, transcript);
        } else {
            self.begin_second_pass(myself, chunk, transcript, again);
        }
        self.release_held_back(myself);
        self.end_if_done()
    }

    /// What is done with every text that an engine gives. Gives what was taken out of it, with times
    /// of the chunk.
    fn take_in(
        &mut self,
        audio: &AudioChunk,
        transcript: &mut ChunkTranscript,
        lane: LaneKind,
        rescued: bool,
    ) -> Vec<Removed> {
        self.route = self.route.with(lane, rescued);
        self.timings.inference += transcript.inference_seconds;
        let removed = if self.job.options.hallucination_guard {
            guard(transcript, &audio.speech)
        } else {
            Vec::new()
        };
        for removed in &removed {
            let (reason, start) = (removed.reason.as_str(), audio.begins_at(removed.start));
            info!(request_id = %self.job.request_id, reason, start, "text was made up: removed");
            debug!(request_id = %self.job.request_id, text = removed.text, "the removed text");
            crate::metrics::record_hallucination(removed.reason);
        }
        for segment in &mut transcript.segments {
            // Whisper stretches them over the silence around.
            let tightened = audio.speech.tightened(segment.start, segment.end);
            (segment.start, segment.end) = tightened;
        }
        removed
    }

    /// Has what whisper left out transcribed again, as parts of their own.
    fn begin_second_pass(
        &mut self,
        myself: &ActorRef<TranscriptionMessage>,
        chunk: OpenChunk,
        transcript: ChunkTranscript,
        again: Vec<Again>,
    ) {
        info!(request_id = %self.job.request_id, chunk = chunk.audio.index, ?again,
            "speech without text: transcribing it again");
        let (pass, parts) = SecondPass::begin(&chunk.audio, transcript, again, &mut self.next_part);
        self.second_passes.push((chunk, pass));
        for audio in parts {
            let part = OpenChunk {
                audio,
                covers: 0.0,
                _permit: None,
            };
            self.enqueue(myself, part);
        }
    }

    /// A part's failure costs nothing that was there before.
    fn part_ended(&mut self, audio: &AudioChunk, outcome: Result<ChunkDone, SttError>) -> Outcome {
        let text = match outcome {
            Ok(mut done) => {
                self.take_in(audio, &mut done.transcript, done.lane, done.rescued);
                Some(done.transcript)
            }
            Err(error) => {
                warn!(request_id = %self.job.request_id, %error, "a second pass failed");
                None
            }
        };
        let mut passes = self.second_passes.iter_mut();
        let Some(number) = passes.position(|(_, pass)| pass.awaits(audio.index)) else {
            return Outcome::GoesOn;
        };
        if self.second_passes[number].1.heard(audio.index, text) {
            let (chunk, pass) = self.second_passes.swap_remove(number);
            self.settle(chunk, pass.finish());
        }
        self.end_if_done()
    }

    /// A chunk has its text.
    fn settle(&mut self, chunk: OpenChunk, mut transcript: ChunkTranscript) {
        let segments = std::mem::take(&mut transcript.segments).into_iter();
        let parts = segments.flat_map(|segment| pauses::part(segment, &chunk.audio.speech));
        transcript.segments = parts.collect();
        if !transcript.segments.is_empty() {
            // If it was not told before: only a second pass has found text.
            self.announce(transcript.language.clone(), transcript.language_probability);
        }
        self.progress.chunks_done += 1;
        self.progress.seconds_done += chunk.covers;
        // Later chunks may have to wait here for an earlier one: without their audio.
        for segment in self.merger.push(chunk.audio.without_audio(), transcript) {
            self.segments.push(segment.clone());
            self.send(Ok(Event::Segment(segment)));
        }
        self.tell_progress();
    }

    /// The engine has the last word on the language: a model of one language hears no other.
    fn learn_language(&mut self, index: usize, transcript: &ChunkTranscript) {
        let (code, probability) = (&transcript.language, transcript.language_probability);
        let says_something = !transcript.segments.is_empty();
        let decided = match &self.hold {
            LanguageHold::Open { .. } => {
                let detected = DetectedLanguage {
                    code: code.clone(),
                    probability: probability.unwrap_or(1.0),
                };
                let decided = self.hold.chunk_done(index, detected, says_something);
                decided.map(|decided| (decided.code, probability.and(Some(decided.probability))))
            }
            LanguageHold::Known(_) => Some((code.clone(), probability)),
            LanguageHold::PerChunk => says_something.then(|| (code.clone(), probability)),
        };
        if let Some((code, probability)) = decided {
            self.announce(code, probability);
        }
    }

    /// Tells the client the language, once.
    fn announce(&mut self, code: String, probability: Option<f32>) {
        if self.language.is_none() && !code.is_empty() {
            self.language = Some((code.clone(), probability));
            self.send(Ok(Event::Language { code, probability }));
        }
    }

    fn all_decoded(&mut self, audio: DecodedAudio) -> Outcome {
        let total = samples_to_seconds(audio.samples);
        self.progress.seconds_done += self.advance(Position {
            known: total,
            settled: total,
            decode_seconds: audio.decode_seconds,
        });
        self.decoded = Some(audio);
        self.end_if_done()
    }

    fn end_if_done(&mut self) -> Outcome {
        let Some(audio) = &self.decoded else {
            return Outcome::GoesOn;
        };
        let open = self.outstanding.len() + self.held_back.len() + self.second_passes.len();
        if open > 0 {
            return Outcome::GoesOn;
        }
        let duration = samples_to_seconds(audio.samples);
        self.status.record_request(duration);
        self.timings.total = self.started.elapsed().as_secs_f64();
        self.progress.seconds_done = duration;
        let (language, language_probability) = self.final_language();
        self.removed.sort_by(|a, b| a.start.total_cmp(&b.start));
        let transcript = Transcript {
            segments: std::mem::take(&mut self.segments),
            removed: std::mem::take(&mut self.removed),
            language,
            language_probability,
            duration,
            model: match self.status.snapshot().last_engine {
                Some(info) => info.model,
                None => String::new(),
            },
            route: self.route,
            timings: self.timings,
        };
        self.place = None;
        self.tell_progress();
        self.send(Ok(Event::Done(transcript)));
        Outcome::Ended
    }

    /// What was told, what was given, or what silence is taken for.
    fn final_language(&mut self) -> (String, Option<f32>) {
        self.language.take().unwrap_or_else(|| {
            let code = self.hold.code().unwrap_or(LANGUAGE_OF_SILENCE);
            (code.to_owned(), None)
        })
    }

    /// Tells the accounts what is left to do.
    fn account(&mut self) {
        // Before anything was decoded, the length is what it was taken for at admission.
        let length_is_known = self.decoded.is_some() || self.settled > 0.0;
        let Some(place) = self.place.as_mut().filter(|_| length_is_known) else {
            return;
        };
        let open = self.outstanding.values().chain(&self.held_back);
        let open_seconds = open.map(|chunk| chunk.audio.duration_seconds()).sum();
        let known = self.progress.seconds_known;
        place.update(Left {
            open: self.outstanding.len() + self.held_back.len(),
            open_seconds,
            undecoded_seconds: known - self.settled,
            total_seconds: known,
        });
    }

    fn fail(&mut self, error: SttError) -> Outcome {
        self.place = None;
        self.send(Err(error));
        Outcome::Ended
    }

    fn tell_progress(&mut self) {
        if self.told != self.progress {
            self.told = self.progress;
            self.send(Ok(Event::Progress(self.progress)));
        }
    }

    /// That nobody listens any more is noticed after every message.
    fn send(&self, event: Result<Event, SttError>) {
        let _ = self.events.send(event);
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

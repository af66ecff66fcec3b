//! A Transcription: one request, from its first decoded sample to its last segment.
//!
//! It runs the decoder in a task of its own, gives chunks to the Dispatcher, merges the answers in
//! order and sends events to whoever submitted the job. Only a few chunks are outstanding at a
//! time, so memory does not grow with the length of the audio. When the language is to be
//! detected, the first chunk decides it and the others wait for that.
//!
//! Supervised by [`Transcriptions`](crate::transcriptions). It ends with its last event, or when
//! the client goes away.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::admission::Place;
use crate::caught::caught;
use crate::decoding::{ChunkBudget, ChunkPermit, DecodedAudio, decode};
use crate::dispatcher::DispatcherMessage;
use crate::error::SttError;
use crate::job::{Event, Job, JobId, Progress};
use crate::ports::{AudioChunk, AudioDecoder, ChunkRequest, DecodeError, samples_to_seconds};
use crate::status::NodeStatus;
use crate::transcript::{ChunkTranscript, Merger, Route, Segment, Timings, Transcript};
use crate::work_queue::LaneKind;

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
        /// Seconds of audio known of by now.
        seconds_known: f64,
        /// Seconds that were spent waiting for the decoder so far.
        decode_seconds: f64,
    },
    /// From the decoding task: that was all, or it failed.
    DecodeEnded(Result<DecodedAudio, DecodeError>),
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
    outstanding: BTreeMap<usize, (AudioChunk, ChunkPermit)>,
    /// Chunks that wait until the language is known.
    held_back: VecDeque<(AudioChunk, ChunkPermit)>,
    decoded: Option<DecodedAudio>,
    merger: Merger,
    segments: Vec<Segment>,
    language: Option<(String, Option<f32>)>,
    progress: Progress,
    /// Where the last decoded chunk ends, in seconds from the start; silence before it is passed.
    decoded_seconds: f64,
    route: Route,
    started: Instant,
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
        let decoding = tokio::spawn(async move {
            let ended = caught(decode(decoder.as_ref(), &source, budget, &myself))
                .await
                .unwrap_or_else(|| Err(DecodeError::Unavailable("a panic".to_owned())));
            let _ = myself.cast(TranscriptionMessage::DecodeEnded(ended));
        });
        Ok(TranscriptionState {
            id,
            language: job.options.language.clone().map(|code| (code, None)),
            job,
            place: Some(place),
            events,
            dispatcher,
            status,
            _decoding: AbortOnDropHandle::new(decoding),
            outstanding: BTreeMap::new(),
            held_back: VecDeque::new(),
            decoded: None,
            merger: Merger::default(),
            segments: Vec::new(),
            progress: Progress::default(),
            decoded_seconds: 0.0,
            route: Route::Hot,
            started: Instant::now(),
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
                seconds_known,
                decode_seconds,
            } => {
                state.progress.seconds_known = seconds_known;
                state.timings.decode = decode_seconds;
                state.chunk_decoded(&myself, chunk, permit);
                Outcome::GoesOn
            }
            TranscriptionMessage::DecodeEnded(Ok(audio)) => state.all_decoded(audio),
            TranscriptionMessage::DecodeEnded(Err(error)) => state.fail(error.into()),
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

impl TranscriptionState {
    fn chunk_decoded(
        &mut self,
        myself: &ActorRef<TranscriptionMessage>,
        chunk: AudioChunk,
        permit: ChunkPermit,
    ) {
        self.decoded_seconds = chunk.start_seconds() + chunk.duration_seconds();
        if self.language.is_none() && !self.outstanding.is_empty() {
            self.held_back.push_back((chunk, permit));
        } else {
            self.enqueue(myself, chunk, permit);
        }
    }

    fn enqueue(
        &mut self,
        myself: &ActorRef<TranscriptionMessage>,
        chunk: AudioChunk,
        permit: ChunkPermit,
    ) {
        let request = ChunkRequest {
            request_id: Arc::clone(&self.job.request_id),
            audio: chunk.clone(),
            task: self.job.options.task,
            language: self.language.as_ref().map(|(code, _)| code.clone()),
            prompt: self.job.options.prompt.clone(),
            temperature: self.job.options.temperature,
        };
        self.outstanding.insert(chunk.index, (chunk, permit));
        // If the Dispatcher is gone, its successor is announced and gets the chunk again.
        let _ = self.dispatcher.cast(DispatcherMessage::Enqueue {
            job: self.id,
            request,
            owner: myself.clone(),
        });
    }

    fn chunk_ended(
        &mut self,
        myself: &ActorRef<TranscriptionMessage>,
        index: usize,
        outcome: Result<ChunkDone, SttError>,
    ) -> Outcome {
        let Some((chunk, _permit)) = self.outstanding.remove(&index) else {
            return Outcome::GoesOn;
        };
        match outcome {
            Ok(done) => self.chunk_done(myself, chunk, done),
            Err(error) => self.fail(error),
        }
    }

    fn chunk_done(
        &mut self,
        myself: &ActorRef<TranscriptionMessage>,
        chunk: AudioChunk,
        done: ChunkDone,
    ) -> Outcome {
        let transcript = done.transcript;
        if self.progress.chunks_done == 0 {
            let in_tree = self.started.elapsed().as_secs_f64();
            let working = transcript.inference_seconds + self.timings.decode;
            self.timings.queue_wait = (in_tree - working).max(0.0);
            self.announce_language(&transcript);
        }
        self.route = self.route.with(done.lane, done.rescued);
        self.timings.inference += transcript.inference_seconds;
        self.progress.chunks_done += 1;
        self.progress.seconds_done += chunk.duration_seconds();
        for segment in self.merger.push(chunk, transcript) {
            self.segments.push(segment.clone());
            self.send(Ok(Event::Segment(segment)));
        }
        self.send(Ok(Event::Progress(self.progress)));
        while let Some((chunk, permit)) = self.held_back.pop_front() {
            self.enqueue(myself, chunk, permit);
        }
        self.end_if_done()
    }

    fn announce_language(&mut self, transcript: &ChunkTranscript) {
        // The engine has the last word: a model of one language hears no other.
        let code = transcript.language.clone();
        let probability = transcript.language_probability;
        self.language = Some((code.clone(), probability));
        self.send(Ok(Event::Language { code, probability }));
    }

    fn all_decoded(&mut self, audio: DecodedAudio) -> Outcome {
        self.timings.decode = audio.decode_seconds;
        self.progress.seconds_known = samples_to_seconds(audio.samples);
        self.decoded = Some(audio);
        self.end_if_done()
    }

    fn end_if_done(&mut self) -> Outcome {
        let Some(audio) = &self.decoded else {
            return Outcome::GoesOn;
        };
        if !self.outstanding.is_empty() || !self.held_back.is_empty() {
            return Outcome::GoesOn;
        }
        let duration = samples_to_seconds(audio.samples);
        self.status.record_request(duration);
        self.timings.total = self.started.elapsed().as_secs_f64();
        let (language, language_probability) = self.language.take().unwrap_or_default();
        let transcript = Transcript {
            segments: std::mem::take(&mut self.segments),
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
        self.send(Ok(Event::Done(transcript)));
        Outcome::Ended
    }

    /// Tells the accounts what is left to do.
    fn account(&mut self) {
        let open = self.outstanding.values().chain(&self.held_back);
        let open_seconds = open.map(|(chunk, _)| chunk.duration_seconds()).sum();
        let open = self.outstanding.len() + self.held_back.len();
        let undecoded = match self.decoded {
            Some(_) => 0.0,
            None => self.progress.seconds_known - self.decoded_seconds,
        };
        // Before the first chunk, the length is what it was taken for at admission.
        let length_is_known = self.decoded.is_some() || self.decoded_seconds > 0.0;
        if let Some(place) = self.place.as_mut().filter(|_| length_is_known) {
            place.update(open, open_seconds, undecoded);
        }
    }

    fn fail(&mut self, error: SttError) -> Outcome {
        self.place = None;
        self.send(Err(error));
        Outcome::Ended
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
        for (_, (chunk, permit)) in std::mem::take(&mut self.outstanding) {
            self.enqueue(myself, chunk, permit);
        }
    }
}

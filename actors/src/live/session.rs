//! A LiveSession: the audio of one connection, from its first byte to the text of its last turn.
//!
//! Supervised by [`LiveSessions`](crate::live::sessions). It ends with its last event, or when its client is gone. If
//! it fails, its events break off and no other session is affected.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::domain::chunk::{AudioChunk, SPEECH_FRAME, samples_to_seconds};
use crate::domain::error::SttError;
use crate::domain::job::Urgency;
use crate::domain::live::{
    LiveClient, LiveEnd, LiveEvent, LiveOptions, SpeechFrame, TurnDetection, TurnId,
};
use crate::domain::transcript::Transcript;
use crate::live::agreement::Agreement;
use crate::live::segmenter::{Place, Segmenter, Step};
use crate::live::work::{LiveWork, Running};
use crate::ports::{AudioDecoder, LiveStream};
use crate::status::snapshot::HotState;

/// Audio that a client may send ahead of its processing, in milliseconds.
pub(crate) const MOST_AHEAD_MILLIS: usize = 60_000;
/// Parts without a text, from which on no more audio is taken until one has its text.
const MOST_OPEN_PARTS: usize = 8;
/// A pass over the growing part begins after this many new frames, so that the second one, which may confirm the first
/// words, begins within a second of the first speech.
const SHORTEST_STEP: u64 = 12;
/// A long part grows by at least this share between two passes: a pass costs more the longer it is.
const STEP_SHARE: u64 = 24;
/// How often a part is transcribed whose job was lost by a fault of the tree.
const MOST_ATTEMPTS: usize = 3;

/// Messages that a LiveSession handles.
pub enum LiveMessage {
    /// From the client: the next audio.
    Audio {
        /// Bytes in the session's format.
        bytes: Vec<u8>,
        /// The client's permits for it: one per millisecond.
        permits: usize,
    },
    /// From the client: change the options.
    Configure(Box<LiveOptions>),
    /// From the client: the turn is over.
    Commit,
    /// From the client: forget the audio of the open turn.
    Clear,
    /// From the client: no audio follows. The session ends when every turn is completed.
    Finish,
    /// From its supervisor: end as after `Finish`, because the server is shutting down.
    Drain,
    /// From a job: the text of a part.
    Transcribed(PartId, Result<Transcript, SttError>),
    /// To itself: check whether the client has been idle for too long.
    CheckIdle,
    /// From the client's handle: the client is gone.
    Left,
}

/// Identifies a job of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartId(u64);

/// Arguments of a LiveSession.
pub struct LiveSessionArguments {
    /// Its client.
    pub client: LiveClient,
    /// How it begins.
    pub options: LiveOptions,
    /// The stream for the audio, in the format of the options.
    pub stream: Box<dyn LiveStream>,
    /// Opens the stream for another format.
    pub decoder: Arc<dyn AudioDecoder>,
    /// Receives its events. The audio that the session takes limits their number.
    pub events: mpsc::UnboundedSender<LiveEvent>,
    /// The client's permits to send audio, one per millisecond.
    pub ahead: Arc<Semaphore>,
    /// Transcribes.
    pub work: LiveWork,
    /// The session ends without audio and requests for this long.
    pub idle_limit: Duration,
}

/// A part of a turn at work, or done.
struct Part {
    id: PartId,
    place: Place,
    audio: AudioChunk,
    agreement: Agreement,
    attempts: usize,
    /// Its job began before its turn was over, and failed rather than wait.
    is_guess: bool,
    state: PartState,
}

enum PartState {
    Running(Running),
    Done(Result<Transcript, SttError>),
}

/// A turn that is not completed.
struct Turn {
    id: TurnId,
    parts: VecDeque<Part>,
    /// The transcripts of the parts before.
    so_far: Option<Result<Transcript, SttError>>,
    has_text: bool,
    is_over: bool,
}

/// The transcription of the part as it is in a pause.
struct Guess {
    part: Part,
}

/// The actor's state.
pub struct LiveSessionState {
    arguments: LiveSessionArguments,
    segmenter: Segmenter,
    turns: VecDeque<Turn>,
    next_turn: u64,
    next_part: u64,
    guess: Option<Guess>,
    /// The running pass over the growing utterance.
    partial: Option<(PartId, Running)>,
    /// The length of the part at the last pass, in frames.
    length_at_partial: u64,
    /// What the passes over the growing part agree on.
    agreement: Agreement,
    /// Permits that are returned when fewer parts are open.
    withheld: usize,
    last_request: Instant,
    ending: Option<LiveEnd>,
}

impl Drop for LiveSessionState {
    fn drop(&mut self) {
        // Also after a failure: a client that waits for permits must not wait for ever.
        self.arguments.ahead.close();
    }
}

/// Whether the session goes on.
#[derive(PartialEq, Eq)]
enum Outcome {
    GoesOn,
    Ended,
}

/// The actor.
#[derive(Debug)]
pub struct LiveSession;

impl Actor for LiveSession {
    type Msg = LiveMessage;
    type State = LiveSessionState;
    type Arguments = LiveSessionArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        arguments: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        drop(myself.send_after(arguments.idle_limit, || LiveMessage::CheckIdle));
        Ok(LiveSessionState {
            segmenter: Segmenter::new(arguments.options.turns),
            turns: VecDeque::new(),
            next_turn: 1,
            next_part: 1,
            guess: None,
            partial: None,
            length_at_partial: 0,
            agreement: Agreement::default(),
            withheld: 0,
            last_request: Instant::now(),
            ending: None,
            arguments,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let is_request = !matches!(
            message,
            LiveMessage::Transcribed(..) | LiveMessage::CheckIdle | LiveMessage::Drain
        );
        if is_request {
            state.last_request = Instant::now();
        }
        match message {
            LiveMessage::Audio { bytes, permits } => {
                let frames = state.arguments.stream.push(&bytes);
                state.take(&myself, frames);
                state.start_partial(&myself);
                state.withheld += permits;
            }
            LiveMessage::Configure(options) => state.configure(&myself, *options),
            LiveMessage::Commit => state.commit(&myself),
            LiveMessage::Clear => state.clear(),
            LiveMessage::Finish => state.finish(&myself, LiveEnd::Finished),
            LiveMessage::Drain => state.finish(&myself, LiveEnd::Draining),
            LiveMessage::Transcribed(id, outcome) => state.transcribed(&myself, id, outcome),
            LiveMessage::CheckIdle => state.check_idle(&myself),
            LiveMessage::Left => {
                myself.stop(None);
                return Ok(());
            }
        }
        if state.settle() == Outcome::Ended || state.arguments.events.is_closed() {
            myself.stop(None);
        }
        Ok(())
    }
}

/// Audio and requests.
impl LiveSessionState {
    fn take(&mut self, myself: &ActorRef<LiveMessage>, frames: Vec<SpeechFrame>) {
        if self.ending.is_some() {
            return;
        }
        for frame in frames {
            for step in self.segmenter.push(frame) {
                self.act(myself, step);
            }
        }
    }

    fn act(&mut self, myself: &ActorRef<LiveMessage>, step: Step) {
        match step {
            Step::Started { at } => {
                let turn = self.open_turn();
                if self.detects_turns() {
                    let at = position(at);
                    self.send(LiveEvent::SpeechStarted { turn, at });
                }
                self.wake();
                // What is there now is hardly speech.
                self.length_at_partial = self.segmenter.part_length();
            }
            Step::Paused(audio, place) => {
                self.partial = None;
                let part = self.start_part(myself, audio, place, Urgency::Spare);
                self.guess = Some(Guess { part });
            }
            Step::Resumed => {
                // Its text is one more pass over the growing utterance.
                if let Some(Guess { part }) = self.guess.take()
                    && self.arguments.options.partials
                    && let PartState::Running(running) = part.state
                {
                    self.partial = Some((part.id, running));
                }
            }
            Step::PartEnded(audio, place) => {
                self.partial = None;
                self.length_at_partial = 0;
                let mut part = match self.guess.take() {
                    Some(Guess { part }) => {
                        if let PartState::Running(running) = &part.state {
                            running.hurry();
                        }
                        part
                    }
                    None => self.start_part(myself, audio, place, Urgency::Live),
                };
                part.agreement = std::mem::take(&mut self.agreement);
                self.open_turn();
                if let Some(turn) = self.turns.back_mut() {
                    turn.parts.push_back(part);
                }
            }
            Step::TurnEnded { at } => {
                let turn = self.open_turn();
                if self.detects_turns() {
                    let at = position(at);
                    self.send(LiveEvent::SpeechStopped { turn, at });
                }
                self.close_turn();
            }
        }
    }

    fn configure(&mut self, myself: &ActorRef<LiveMessage>, options: LiveOptions) {
        if options.format != self.arguments.options.format {
            let frames = self.arguments.stream.flush();
            self.take(myself, frames);
            match self.arguments.decoder.open_live(options.format) {
                Ok(stream) => self.arguments.stream = stream,
                // The client's handle has checked the format.
                Err(reason) => warn!(reason, "the format of live audio cannot be read"),
            }
        }
        if options.options != self.arguments.options.options {
            // Made with other options.
            self.guess = None;
            self.partial = None;
        }
        if options.turns != self.arguments.options.turns {
            self.segmenter.configure(options.turns);
        }
        self.arguments.options = options;
    }

    /// Ends the open turn, or an empty one.
    fn commit(&mut self, myself: &ActorRef<LiveMessage>) {
        if self.ending.is_none() {
            self.end_audio(myself);
            self.open_turn();
            self.close_turn();
        }
    }

    /// The audio so far is complete: its last part ends.
    fn end_audio(&mut self, myself: &ActorRef<LiveMessage>) {
        let frames = self.arguments.stream.flush();
        self.take(myself, frames);
        for step in self.segmenter.end() {
            if !matches!(step, Step::TurnEnded { .. }) {
                self.act(myself, step);
            }
        }
    }

    fn clear(&mut self) {
        self.arguments.stream.flush();
        self.segmenter.clear();
        self.guess = None;
        self.partial = None;
        self.agreement = Agreement::default();
        self.length_at_partial = 0;
        self.turns.retain(|turn| turn.is_over);
    }

    fn finish(&mut self, myself: &ActorRef<LiveMessage>, end: LiveEnd) {
        if self.ending.is_some() {
            return;
        }
        self.end_audio(myself);
        if self.turns.back().is_some_and(|turn| !turn.is_over) {
            self.close_turn();
        }
        self.ending = Some(end);
    }

    fn check_idle(&mut self, myself: &ActorRef<LiveMessage>) {
        let idle = self.last_request.elapsed();
        let limit = self.arguments.idle_limit;
        if idle >= limit {
            info!(session = %self.arguments.client.session_id, "a live session was idle for too long");
            self.finish(myself, LiveEnd::Idle);
        } else {
            let rest = limit.saturating_sub(idle);
            drop(myself.send_after(rest, || LiveMessage::CheckIdle));
        }
    }

    fn detects_turns(&self) -> bool {
        self.arguments.options.turns != TurnDetection::Manual
    }

    /// Lets the hot model load while the client speaks.
    fn wake(&self) {
        let work = &self.arguments.work;
        if matches!(work.status.hot(), HotState::Asleep(_)) {
            (work.wake)();
        }
    }
}

/// Turns and parts.
impl LiveSessionState {
    /// The open turn; opens one if there is none.
    fn open_turn(&mut self) -> TurnId {
        if let Some(turn) = self.turns.back().filter(|turn| !turn.is_over) {
            return turn.id;
        }
        let id = TurnId(self.next_turn);
        self.next_turn += 1;
        self.turns.push_back(Turn {
            id,
            parts: VecDeque::new(),
            so_far: None,
            has_text: false,
            is_over: false,
        });
        id
    }

    fn close_turn(&mut self) {
        if let Some(turn) = self.turns.back_mut() {
            turn.is_over = true;
            let id = turn.id;
            self.send(LiveEvent::Committed(id));
        }
    }

    fn start_part(
        &mut self,
        myself: &ActorRef<LiveMessage>,
        audio: AudioChunk,
        place: Place,
        urgency: Urgency,
    ) -> Part {
        let (id, running) = self.start(myself, audio.clone(), urgency);
        Part {
            id,
            place,
            audio,
            agreement: Agreement::default(),
            attempts: 1,
            is_guess: urgency == Urgency::Spare,
            state: PartState::Running(running),
        }
    }

    fn start(
        &mut self,
        myself: &ActorRef<LiveMessage>,
        audio: AudioChunk,
        urgency: Urgency,
    ) -> (PartId, Running) {
        let id = PartId(self.next_part);
        self.next_part += 1;
        let mut options = self.arguments.options.options.clone();
        if options.language.is_none() && !options.multilingual {
            // One turn has one language.
            options.language = self.language_of_turn();
        }
        let session = myself.clone();
        let report = move |outcome| {
            let _ = session.cast(LiveMessage::Transcribed(id, outcome));
        };
        let arguments = &self.arguments;
        let running = (arguments.work).start(&arguments.client, options, audio, urgency, report);
        (id, running)
    }

    /// The language of the open turn's earlier parts.
    fn language_of_turn(&self) -> Option<String> {
        let turn = self.turns.back().filter(|turn| !turn.is_over)?;
        let first = turn.so_far.as_ref()?.as_ref().ok()?;
        Some(first.language.clone()).filter(|code| !code.is_empty())
    }

    /// Begins another pass over the growing utterance, if there is enough new audio and a lane is idle.
    fn start_partial(&mut self, myself: &ActorRef<LiveMessage>) {
        let length = self.segmenter.part_length();
        let step = SHORTEST_STEP.max(length / STEP_SHARE);
        let is_due = length >= self.length_at_partial + step;
        let is_free = self.partial.is_none() && self.guess.is_none();
        let status = &self.arguments.work.status;
        if self.arguments.options.partials && is_due && is_free && status.has_idle_lane() {
            self.length_at_partial = length;
            let (audio, _) = self.segmenter.part_so_far();
            self.partial = Some(self.start(myself, audio, Urgency::Spare));
        }
    }

    fn transcribed(
        &mut self,
        myself: &ActorRef<LiveMessage>,
        id: PartId,
        outcome: Result<Transcript, SttError>,
    ) {
        if self.partial.take_if(|(other, _)| *other == id).is_some() {
            if let Ok(transcript) = &outcome {
                self.hear(transcript);
            }
            self.start_partial(myself);
            return;
        }
        if self.guess.as_ref().is_some_and(|guess| guess.part.id == id) {
            self.guessed(outcome);
            return;
        }
        let parts = self.turns.iter_mut().flat_map(|turn| &mut turn.parts);
        let Some(part) = parts.into_iter().find(|part| part.id == id) else {
            return;
        };
        let is_lost =
            matches!(outcome, Err(SttError::Internal(_))) || (part.is_guess && outcome.is_err());
        if is_lost && part.attempts < MOST_ATTEMPTS {
            let (audio, attempts) = (part.audio.clone(), part.attempts + 1);
            debug!("a part of a live turn was lost; transcribing it again");
            let (new_id, running) = self.start(myself, audio, Urgency::Live);
            let mut parts = self.turns.iter_mut().flat_map(|turn| &mut turn.parts);
            if let Some(part) = parts.find(|part| part.id == id) {
                part.id = new_id;
                part.attempts = attempts;
                part.is_guess = false;
                part.state = PartState::Running(running);
            }
            return;
        }
        part.state = PartState::Done(outcome);
    }

    /// Takes the text up to a pause.
    fn guessed(&mut self, outcome: Result<Transcript, SttError>) {
        let Ok(transcript) = &outcome else {
            // The end of the turn will try again, and wait if necessary.
            self.guess = None;
            return;
        };
        if ends_a_sentence(&transcript.text()) {
            self.segmenter.sentence_ended();
        }
        if self.arguments.options.partials {
            let transcript = transcript.clone();
            self.hear(&transcript);
        }
        if let Some(guess) = &mut self.guess {
            guess.part.state = PartState::Done(outcome);
        }
    }

    /// Sends the words that this pass and the one before agree on, if the parts before have been sent.
    fn hear(&mut self, transcript: &Transcript) {
        let Some(turn) = self.turns.back_mut() else {
            return;
        };
        if turn.is_over || !turn.parts.is_empty() {
            return;
        }
        let text: String = (transcript.segments.iter())
            .map(|segment| segment.text.as_str())
            .collect();
        if let Some(text) = self.agreement.hear(&text) {
            let event = turn.delta(&text);
            self.send_all(event);
        }
    }

    /// Sends the texts that are ready, in the order of each turn's parts, and completes turns.
    fn settle(&mut self) -> Outcome {
        let mut events = Vec::new();
        for turn in &mut self.turns {
            turn.settle(&mut events);
        }
        self.turns.retain(|turn| !turn.is_completed());
        self.send_all(events);
        let open: usize = self.turns.iter().map(|turn| turn.parts.len()).sum();
        if open < MOST_OPEN_PARTS {
            let permits = std::mem::take(&mut self.withheld);
            self.arguments.ahead.add_permits(permits);
        }
        match self.ending {
            Some(end) if self.turns.is_empty() => {
                self.send(LiveEvent::Ended(end));
                Outcome::Ended
            }
            Some(_) | None => Outcome::GoesOn,
        }
    }

    fn send_all(&self, events: impl IntoIterator<Item = LiveEvent>) {
        events.into_iter().for_each(|event| self.send(event));
    }

    fn send(&self, event: LiveEvent) {
        // A client that is gone is noticed after each message.
        let _ = self.arguments.events.send(event);
    }
}

impl Turn {
    /// Takes the parts that have their text, and adds the events for them.
    fn settle(&mut self, events: &mut Vec<LiveEvent>) {
        while let Some(part) =
            (self.parts).pop_front_if(|part| matches!(part.state, PartState::Done(_)))
        {
            let PartState::Done(outcome) = part.state else {
                continue;
            };
            if let Ok(transcript) = &outcome {
                let text: String = (transcript.segments.iter())
                    .map(|segment| segment.text.as_str())
                    .collect();
                events.extend(self.delta(&part.agreement.finish(&text)));
            }
            let outcome = outcome.map(|transcript| transcript.delayed_by(seconds(part.place.0)));
            self.so_far = Some(match (self.so_far.take(), outcome) {
                (Some(Ok(mut before)), Ok(next)) => {
                    before.append(next);
                    Ok(before)
                }
                (Some(Err(error)), _) | (_, Err(error)) => Err(error),
                (None, Ok(first)) => Ok(first),
            });
        }
        if self.is_completed() {
            let result = self.so_far.take();
            events.push(LiveEvent::Completed {
                turn: self.id,
                result: result.unwrap_or_else(|| Ok(Transcript::default())),
            });
        }
    }

    /// Whether nothing follows.
    fn is_completed(&self) -> bool {
        self.is_over && self.parts.is_empty()
    }

    /// The event for more text, if there is any. A turn does not begin with a space.
    fn delta(&mut self, text: &str) -> Option<LiveEvent> {
        let text = if self.has_text {
            text
        } else {
            text.trim_start()
        };
        if text.is_empty() {
            return None;
        }
        self.has_text = true;
        Some(LiveEvent::Delta {
            turn: self.id,
            text: text.to_owned(),
        })
    }
}

/// Whether a text ends with the punctuation of a sentence.
fn ends_a_sentence(text: &str) -> bool {
    let is_open = text.ends_with("...") || text.ends_with('…');
    !is_open && text.ends_with(['.', '?', '!', '。', '？', '！', '।', '؟'])
}

/// The time of a position in frames.
fn position(frames: u64) -> Duration {
    Duration::from_secs_f64(seconds(frames))
}

fn seconds(frames: u64) -> f64 {
    samples_to_seconds(frames * SPEECH_FRAME as u64)
}

//! A LiveSession: the audio of one connection, from its first byte to the text of its last turn.
//!
//! Supervised by [`LiveSessions`](crate::live::sessions). It ends with its last event, or when its client is gone. If
//! it fails, its events break off and no other session is affected.

mod parts;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::domain::error::SttError;
use crate::domain::job::Urgency;
use crate::domain::live::{
    LiveClient, LiveEnd, LiveEvent, LiveOptions, SpeechFrame, TurnDetection,
};
use crate::domain::transcript::Transcript;
use crate::live::agreement::Agreement;
use crate::live::segmenter::{Segmenter, Step};
use crate::live::turn::{Part, PartId, PartState, Turn, seconds};
use crate::live::work::{LiveWork, Running};
use crate::ports::{AudioDecoder, LiveStream};
use crate::status::snapshot::HotState;

/// Audio that a client may send ahead of its processing, in milliseconds.
pub(crate) const MOST_AHEAD_MILLIS: usize = 60_000;

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
    /// From its supervisor: end as after `Finish`, because the server is shutting down, but only when no turn is open.
    Drain {
        /// Longest wait for the end of the open turn.
        turn_limit: Duration,
    },
    /// To itself, during a drain: the open turn takes too long, and is ended.
    DrainOverdue,
    /// From a job: the text of a part.
    Transcribed(PartId, Result<Transcript, SttError>),
    /// To itself: check whether the client has been idle for too long.
    CheckIdle,
    /// From the client's handle: the client is gone.
    Left,
}

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

/// The actor's state.
pub struct LiveSessionState {
    arguments: LiveSessionArguments,
    segmenter: Segmenter,
    turns: VecDeque<Turn>,
    next_turn: u64,
    next_part: u64,
    /// The transcription of the part as it is in a pause.
    guess: Option<Part>,
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
    /// Whether the session ends as soon as no turn is open.
    is_draining: bool,
    /// Whether audio has come, or is announced, that no turn has taken, in a session whose client ends its turns.
    has_open_audio: bool,
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
            is_draining: false,
            has_open_audio: arguments.client.is_in_turn,
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
            LiveMessage::Transcribed(..)
                | LiveMessage::CheckIdle
                | LiveMessage::Drain { .. }
                | LiveMessage::DrainOverdue
        );
        if is_request {
            state.last_request = Instant::now();
        }
        match message {
            LiveMessage::Audio { bytes, permits } => {
                state.has_open_audio |= !bytes.is_empty();
                let frames = state.arguments.stream.push(&bytes);
                state.take(&myself, frames);
                state.start_partial(&myself);
                state.withheld += permits;
            }
            LiveMessage::Configure(options) => state.configure(&myself, *options),
            LiveMessage::Commit => state.commit(&myself),
            LiveMessage::Clear => state.clear(),
            LiveMessage::Finish => state.finish(&myself, LiveEnd::Finished),
            LiveMessage::Drain { turn_limit } => {
                state.is_draining = true;
                drop(myself.send_after(turn_limit, || LiveMessage::DrainOverdue));
            }
            LiveMessage::DrainOverdue => state.finish(&myself, LiveEnd::Draining),
            LiveMessage::Transcribed(id, outcome) => state.transcribed(&myself, id, outcome),
            LiveMessage::CheckIdle => state.check_idle(&myself),
            LiveMessage::Left => {
                myself.stop(None);
                return Ok(());
            }
        }
        if state.is_draining && !state.has_open_turn() {
            state.finish(&myself, LiveEnd::Draining);
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
                self.guess = Some(part);
            }
            Step::Resumed => {
                // Its text is one more pass over the growing utterance.
                if let Some(part) = self.guess.take()
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
                    Some(part) => {
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
            self.has_open_audio = false;
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
        self.has_open_audio = false;
    }

    /// Whether the client is in the middle of a turn.
    fn has_open_turn(&self) -> bool {
        let is_speaking = self.turns.back().is_some_and(|turn| !turn.is_over);
        is_speaking || (self.has_open_audio && !self.detects_turns())
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

/// The time of a position in frames.
fn position(frames: u64) -> Duration {
    Duration::from_secs_f64(seconds(frames))
}

//! The work on the parts of a session's turns: jobs, guesses, passes over growing speech, and the events for their
//! texts.

use ractor::ActorRef;
use tracing::debug;

use super::{LiveMessage, LiveSessionState, Outcome};
use crate::domain::chunk::AudioChunk;
use crate::domain::error::SttError;
use crate::domain::job::Urgency;
use crate::domain::live::{LiveEvent, TurnId};
use crate::domain::transcript::Transcript;
use crate::live::agreement::Agreement;
use crate::live::segmenter::Place;
use crate::live::turn::{Part, PartId, PartState, Turn};
use crate::live::work::Running;

/// Parts without a text, from which on no more audio is taken until one has its text.
const MOST_OPEN_PARTS: usize = 8;
/// A pass over the growing part begins after this many new frames, so that the second one, which may confirm the first
/// words, begins within a second of the first speech.
const SHORTEST_STEP: u64 = 12;
/// A long part grows by at least this share between two passes: a pass costs more the longer it is.
const STEP_SHARE: u64 = 24;
/// How often a part is transcribed whose job was lost by a fault of the tree.
const MOST_ATTEMPTS: usize = 3;

/// Turns and parts.
impl LiveSessionState {
    /// The open turn; opens one if there is none.
    pub(super) fn open_turn(&mut self) -> TurnId {
        if let Some(turn) = self.turns.back().filter(|turn| !turn.is_over) {
            return turn.id;
        }
        let id = TurnId(self.next_turn);
        self.next_turn += 1;
        self.turns.push_back(Turn::new(id));
        id
    }

    pub(super) fn close_turn(&mut self) {
        if let Some(turn) = self.turns.back_mut() {
            turn.is_over = true;
            let id = turn.id;
            self.send(LiveEvent::Committed(id));
        }
    }

    pub(super) fn start_part(
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

    pub(super) fn start(
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
    pub(super) fn start_partial(&mut self, myself: &ActorRef<LiveMessage>) {
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

    pub(super) fn transcribed(
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
        if self.guess.as_ref().is_some_and(|guess| guess.id == id) {
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
            debug!(session = %self.arguments.client.session_id, "the text up to the pause is a whole sentence");
            self.segmenter.sentence_ended();
        }
        if self.arguments.options.partials {
            let transcript = transcript.clone();
            self.hear(&transcript);
        }
        if let Some(guess) = &mut self.guess {
            guess.state = PartState::Done(outcome);
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
        if let Some(text) = self.agreement.hear(&transcript.untrimmed_text()) {
            let event = turn.delta(&text);
            self.send_all(event);
        }
    }

    /// Sends the texts that are ready, in the order of each turn's parts, and completes turns.
    pub(super) fn settle(&mut self) -> Outcome {
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

    pub(super) fn send(&self, event: LiveEvent) {
        // A client that is gone is noticed after each message.
        let _ = self.arguments.events.send(event);
    }
}

/// Whether a text ends with the punctuation of a sentence.
fn ends_a_sentence(text: &str) -> bool {
    let is_open = text.ends_with("...") || text.ends_with('…');
    !is_open && text.ends_with(['.', '?', '!', '。', '？', '！', '।', '؟'])
}

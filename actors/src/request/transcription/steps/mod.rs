//! The steps of a Transcription: how it handles each message, by the decisions of its plain structs. The steps
//! from a chunk's text to the client are in [`texts`].

mod texts;

use std::sync::Arc;
use std::time::Duration;

use ractor::ActorRef;
use tracing::warn;

use super::intake::OpenChunk;
use super::{Outcome, TranscriptionMessage, TranscriptionState, owner};
use crate::domain::chunk::AudioChunk;
use crate::domain::error::SttError;
use crate::domain::finished::{FinishedPart, FinishedWork};
use crate::domain::ids::ChunkIndex;
use crate::domain::job::{Event, Urgency};
use crate::domain::transcript::{ChunkDone, Escalation, Timings, Transcript};
use crate::ports::{ChunkRequest, DetectedLanguage};
use crate::queue::messages::DispatcherMessage;
use crate::request::decoding::{ChunkPermit, DecodedAudio, Position};
use crate::request::language::ReportedLanguage;
use crate::status::Escalated;
use crate::status::admission::reject_long_wait;
use crate::status::chunk_length::target_length;

pub(super) type Myself = ActorRef<TranscriptionMessage>;

/// Decoded audio.
impl TranscriptionState {
    /// Records the target length that the decoder was given for the next chunk.
    pub(super) fn record_cut(&mut self, target: Duration) {
        let number = self.resume.cuts();
        self.resume.record_cut(target);
        if self.job.finished.is_some() {
            let cut = FinishedPart::Cut { number, target };
            self.subscribers.send(&Event::Finished(cut));
        }
    }

    pub(super) fn chunk_decoded(
        &mut self,
        myself: &Myself,
        audio: AudioChunk,
        permit: ChunkPermit,
        position: Position,
    ) -> Outcome {
        let mut chunk = OpenChunk {
            covers: self.intake.advance(position),
            audio,
            likely_language: None,
            permit: Some(permit),
        };
        if let Err(rejection) = self.check_length(chunk.audio.duration_seconds()) {
            return self.fail(rejection);
        }
        // Asked even for a chunk that is already finished, because that one may decide the language.
        let may_go = self.language.may_go(chunk.audio.index);
        if let Some(done) = self.resume.take(&chunk.audio) {
            return self.chunk_done(myself, chunk, done);
        }
        if may_go {
            chunk.likely_language = self.language.likely().map(str::to_owned);
            self.enqueue(myself, chunk);
        } else {
            self.intake.hold_back(chunk);
        }
        Outcome::GoesOn
    }

    /// Estimates the wait a second time if the request turns out to be longer than admission assumed.
    fn check_length(&mut self, first_chunk_seconds: f64) -> Result<(), SttError> {
        let work = self.intake.work_of_a_long_request(first_chunk_seconds);
        let Some((slot, work)) = self.slot.as_mut().zip(work) else {
            return Ok(());
        };
        slot.update(work, target_length(self.status.cost()));
        if self.job.urgency == Urgency::Background {
            // Nobody waits for it.
            return Ok(());
        }
        let snapshot = self.status.snapshot();
        let estimate = snapshot.wait_estimate(slot.ahead());
        reject_long_wait(&snapshot, estimate, self.status.max_queue())
    }

    pub(super) fn silence_passed(&mut self, position: Position) -> Outcome {
        let seconds = self.intake.advance(position);
        self.texts.pass_silence(seconds);
        self.report_progress();
        Outcome::GoesOn
    }

    pub(super) fn all_decoded(&mut self, myself: &Myself, audio: DecodedAudio) -> Outcome {
        let seconds = self.intake.finish(audio);
        self.texts.pass_silence(seconds);
        self.end_if_done(myself)
    }

    /// Updates the slot's remaining work.
    pub(super) fn update_accounts(&mut self) {
        let Some(slot) = &mut self.slot else { return };
        if self.absence.is_on() || self.job.urgency == Urgency::Spare {
            // What it still has yields to any other work.
            slot.clear();
        } else if let Some(work) = self.intake.remaining_work() {
            slot.update(work, target_length(self.status.cost()));
        }
    }
}

/// Chunks on their way to lanes and back.
impl TranscriptionState {
    /// Sends a chunk to the Dispatcher; without a client, keeps it until one returns.
    pub(super) fn enqueue(&mut self, myself: &Myself, chunk: OpenChunk) {
        if self.absence.is_on() {
            self.intake.withhold(chunk);
            return;
        }
        let options = &self.job.options;
        let request = ChunkRequest {
            request_id: Arc::clone(&self.job.request_id),
            audio: chunk.audio.clone(),
            task: options.task,
            language: self.language.code().map(str::to_owned),
            languages: options.languages.clone(),
            likely_language: chunk.likely_language.clone(),
            prompt: options.prompt.clone(),
            temperature: options.temperature,
        };
        self.intake.start(chunk);
        let Some(slot) = &self.slot else { return };
        let known = self.intake.seconds_known();
        let scheduling =
            slot.scheduling_key(self.job.urgency, known, known - self.texts.seconds_done());
        // If the Dispatcher is gone, the chunk is sent to its successor (`DispatcherReplaced`).
        let _ = self.dispatcher.cast(DispatcherMessage::Enqueue {
            job: self.id,
            request,
            scheduling,
            owner: owner(myself.clone(), self.job.trace.span.clone()),
        });
    }

    pub(super) fn set_urgency(&mut self, urgency: Urgency) {
        self.job.urgency = urgency;
        let _ = (self.dispatcher).cast(DispatcherMessage::SetUrgency(self.id, urgency));
    }

    pub(super) fn dispatcher_replaced(
        &mut self,
        myself: &Myself,
        dispatcher: ActorRef<DispatcherMessage>,
    ) {
        self.dispatcher = dispatcher;
        for chunk in self.intake.take_outstanding() {
            self.enqueue(myself, chunk);
        }
    }

    pub(super) fn language_heard(
        &mut self,
        myself: &Myself,
        index: ChunkIndex,
        language: DetectedLanguage,
    ) -> Outcome {
        if let Some(decided) = self.language.detected(index, language) {
            let reported = self.language.report(ReportedLanguage {
                code: decided.code,
                probability: Some(decided.probability),
            });
            self.send_language(reported);
        }
        self.release_held_back(myself);
        Outcome::GoesOn
    }

    fn release_held_back(&mut self, myself: &Myself) {
        let language = &mut self.language;
        for mut chunk in self.intake.release(|index| language.may_go(index)) {
            chunk.likely_language = self.language.likely().map(str::to_owned);
            self.enqueue(myself, chunk);
        }
    }

    pub(super) fn chunk_ended(
        &mut self,
        myself: &Myself,
        index: ChunkIndex,
        outcome: Result<ChunkDone, SttError>,
    ) -> Outcome {
        if self.absence.is_on() {
            self.absence.keep(index, outcome);
            return Outcome::GoesOn;
        }
        let Some(chunk) = self.intake.end(index) else {
            return Outcome::GoesOn;
        };
        match outcome {
            _ if index.is_part() => {
                self.part_ended(myself, &chunk.audio, outcome);
                self.release_held_back(myself);
                self.end_if_done(myself)
            }
            Ok(done) => self.chunk_done(myself, chunk, done),
            Err(error) => self.chunk_failed(myself, chunk, error),
        }
    }

    fn chunk_failed(&mut self, myself: &Myself, chunk: OpenChunk, error: SttError) -> Outcome {
        match self.escalating.judge_failure(error) {
            Ok(error) => {
                warn!(request_id = %self.job.request_id, chunk = %chunk.audio.index, %error, "the engine failed: escalating the chunk");
                self.escalate(myself, chunk, Err(error));
                Outcome::GoesOn
            }
            Err(error) => self.fail(error),
        }
    }
}

/// The end of the request.
impl TranscriptionState {
    /// The length of the audio, when all words of the request are known: every chunk is transcribed, by this
    /// node or by the fallback.
    fn finished_seconds(&self) -> Option<f64> {
        let is_open = self.texts.has_second_pass() || self.escalating.misses_words();
        self.intake.finished_seconds().filter(|_| !is_open)
    }

    fn end_if_done(&mut self, myself: &Myself) -> Outcome {
        let Some(duration) = self.finished_seconds() else {
            return Outcome::GoesOn;
        };
        let judged = self.escalating.judge_short(true);
        self.carry_out(myself, judged);
        if self.escalating.has_open_chunks() {
            return Outcome::GoesOn;
        }
        self.status.record_request(duration);
        self.texts.finish(duration);
        let transcript = self.transcript(duration);
        if let Some(escalation) = &transcript.escalation {
            self.status.record_escalation(match escalation {
                Escalation { error: Some(_), .. } => Escalated::Failed,
                Escalation { used: true, .. } => Escalated::Used,
                Escalation { .. } => Escalated::Skipped,
            });
        }
        self.slot = None;
        self.report_progress();
        self.end(Ok(transcript));
        Outcome::Ended
    }

    fn transcript(&mut self, duration: f64) -> Transcript {
        let language = self.language.finish();
        let own_model = self.status.snapshot().last_engine;
        let own_model = own_model.map_or_else(String::new, |engine| engine.model);
        Transcript {
            segments: self.subscribers.segments(),
            removed: self.texts.take_removed(),
            language: language.code,
            language_probability: language.probability,
            duration,
            model: self.escalating.final_model(own_model),
            route: self.texts.route(),
            timings: Timings {
                decode: self.intake.decode_seconds(),
                fallback: self.escalating.seconds(),
                total: self.started.elapsed().as_secs_f64(),
                ..self.texts.timings()
            },
            escalation: self.escalating.finish(),
        }
    }

    pub(super) fn fail(&mut self, error: SttError) -> Outcome {
        if matches!(error, SttError::Fallback { .. }) {
            self.status.record_escalation(Escalated::Failed);
        }
        self.slot = None;
        self.end(Err(error));
        Outcome::Ended
    }

    fn end(&mut self, result: Result<Transcript, SttError>) {
        let subscribers = Arc::clone(&self.subscribers);
        subscribers.end(result, || self.take_finished());
    }

    /// Whether the last subscriber left.
    pub(super) fn is_abandoned(&mut self) -> bool {
        let subscribers = Arc::clone(&self.subscribers);
        subscribers.is_abandoned(|| self.take_finished())
    }

    fn take_finished(&mut self) -> FinishedWork {
        self.record_results();
        self.resume.take_finished(self.language.code())
    }
}

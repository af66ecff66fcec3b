//! The steps of a Transcription: what it does with each message, by the decisions of its plain structs.

use std::sync::Arc;

use ractor::ActorRef;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::escalation::{FallbackEnd, Judged};
use super::intake::OpenChunk;
use super::texts::{CheckedText, Texts};
use super::{Outcome, TranscriptionMessage, TranscriptionState, owner};
use crate::domain::chunk::AudioChunk;
use crate::domain::error::{FallbackError, SttError};
use crate::domain::ids::ChunkIndex;
use crate::domain::job::Event;
use crate::domain::transcript::{ChunkDone, ChunkTranscript, Escalation, Timings, Transcript};
use crate::metrics::record_hallucination;
use crate::ports::{ChunkRequest, DetectedLanguage, FallbackRequest, FallbackText};
use crate::queue::messages::DispatcherMessage;
use crate::request::decoding::{ChunkPermit, DecodedAudio, Position};
use crate::request::language::ReportedLanguage;
use crate::request::resume::FinishedWork;
use crate::status::Escalated;
use crate::status::admission::reject_long_wait;
use crate::status::chunk_length::target_length;
use crate::task::spawn;
use crate::text::missed_speech::Again;

type Myself = ActorRef<TranscriptionMessage>;

/// Audio.
impl TranscriptionState {
    pub(super) fn chunk_decoded(
        &mut self,
        myself: &Myself,
        audio: AudioChunk,
        permit: ChunkPermit,
        position: Position,
    ) -> Outcome {
        let chunk = OpenChunk {
            covers: self.intake.advance(position),
            audio,
            permit: Some(permit),
        };
        if let Err(rejection) = self.check_length(chunk.audio.duration_seconds()) {
            return self.fail(rejection);
        }
        // Also asked for a chunk that is finished already: it may be the one that decides the language.
        let may_go = self.language.may_go(chunk.audio.index);
        if let Some(done) = self.resume.take(&chunk.audio) {
            return self.chunk_done(myself, chunk, done);
        }
        if may_go {
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
        let work = self.intake.remaining_work();
        if let Some((slot, work)) = self.slot.as_mut().zip(work) {
            slot.update(work, target_length(self.status.cost()));
        }
    }
}

/// Lanes.
impl TranscriptionState {
    fn enqueue(&mut self, myself: &Myself, chunk: OpenChunk) {
        let options = &self.job.options;
        let request = ChunkRequest {
            request_id: Arc::clone(&self.job.request_id),
            audio: chunk.audio.clone(),
            task: options.task,
            language: self.language.code().map(str::to_owned),
            prompt: options.prompt.clone(),
            temperature: options.temperature,
        };
        self.intake.start(chunk);
        let Some(slot) = &self.slot else { return };
        let known = self.intake.seconds_known();
        let scheduling = slot.scheduling_key(known, known - self.texts.seconds_done());
        // If the Dispatcher is gone, its successor will be announced and gets the chunk again.
        let _ = self.dispatcher.cast(DispatcherMessage::Enqueue {
            job: self.id,
            request,
            scheduling,
            owner: owner(myself.clone()),
        });
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
            self.release_held_back(myself);
        }
        Outcome::GoesOn
    }

    fn release_held_back(&mut self, myself: &Myself) {
        let language = &mut self.language;
        for chunk in self.intake.release(|index| language.may_go(index)) {
            self.enqueue(myself, chunk);
        }
    }

    pub(super) fn chunk_ended(
        &mut self,
        myself: &Myself,
        index: ChunkIndex,
        outcome: Result<ChunkDone, SttError>,
    ) -> Outcome {
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
                warn!(request_id = %self.job.request_id, chunk = %chunk.audio.index, %error, "the engine failed: asking the fallback");
                self.escalate(myself, chunk, Err(error));
                Outcome::GoesOn
            }
            Err(error) => self.fail(error),
        }
    }
}

/// Texts.
impl TranscriptionState {
    fn chunk_done(&mut self, myself: &Myself, chunk: OpenChunk, done: ChunkDone) -> Outcome {
        let audio = chunk.audio.clone();
        if !done.reused {
            let working = done.transcript.inference_seconds + self.intake.decode_seconds();
            self.texts
                .record_wait(self.started.elapsed().as_secs_f64(), working);
        }
        let checked = self.check(&audio, done);
        self.report_route();
        let CheckedText {
            transcript,
            removed,
            ..
        } = checked;
        if !self.escalating.doubts_language(audio.index, &transcript) {
            let reported = self.language.learn(audio.index, &transcript);
            self.send_language(reported);
        }
        let again = self.texts.find_missed(&audio, &transcript, removed);
        if again.is_empty() {
            self.judge(myself, chunk, transcript);
        } else {
            self.begin_second_pass(myself, chunk, transcript, again);
        }
        self.release_held_back(myself);
        self.end_if_done(myself)
    }

    /// The checks that every text of an engine goes through, with their records.
    fn check(&mut self, audio: &AudioChunk, done: ChunkDone) -> CheckedText {
        self.resume.record_done(audio, &done);
        let checked = self.texts.check(audio, done);
        for removed in &checked.removed {
            let (reason, start) = (removed.reason.as_str(), audio.begins_at(removed.start));
            info!(request_id = %self.job.request_id, reason, start, "removed hallucinated text");
            debug!(request_id = %self.job.request_id, text = removed.text, "the removed text");
            if !checked.reused {
                record_hallucination(removed.reason);
            }
        }
        checked
    }

    /// Transcribes missed speech again, as parts of the chunk.
    fn begin_second_pass(
        &mut self,
        myself: &Myself,
        chunk: OpenChunk,
        transcript: ChunkTranscript,
        again: Vec<Again>,
    ) {
        info!(request_id = %self.job.request_id, chunk = %chunk.audio.index, ?again,
            "speech without text: transcribing it again");
        for audio in self.texts.begin_second_pass(chunk, transcript, again) {
            match self.resume.take(&audio) {
                Some(done) => self.part_ended(myself, &audio, Ok(done)),
                None => self.enqueue(
                    myself,
                    OpenChunk {
                        audio,
                        covers: 0.0,
                        permit: None,
                    },
                ),
            }
        }
    }

    fn part_ended(
        &mut self,
        myself: &Myself,
        audio: &AudioChunk,
        outcome: Result<ChunkDone, SttError>,
    ) {
        let text = match outcome {
            Ok(done) => Some(self.check(audio, done).transcript),
            Err(error) => {
                warn!(request_id = %self.job.request_id, %error, "a second pass failed");
                None
            }
        };
        if let Some((chunk, transcript)) = self.texts.part_ended(audio.index, text) {
            self.judge(myself, chunk, transcript);
        }
    }

    /// Sends a chunk's final text to the client.
    fn settle(&mut self, chunk: OpenChunk, mut transcript: ChunkTranscript) {
        if self.escalating.settle_language(chunk.audio.index) {
            let reported = self.language.learn(chunk.audio.index, &transcript);
            self.send_language(reported);
        }
        Texts::split(&chunk.audio, &mut transcript);
        if !transcript.segments.is_empty() {
            // Not reported before if only a second pass found text.
            let reported = self.language.report(ReportedLanguage {
                code: transcript.language.clone(),
                probability: transcript.language_probability,
            });
            self.send_language(reported);
        }
        for segment in self.texts.settle(chunk, transcript) {
            self.subscribers.tell(&Event::Segment(segment));
        }
        self.report_progress();
    }

    fn send_language(&self, language: Option<ReportedLanguage>) {
        if let Some(ReportedLanguage { code, probability }) = language {
            self.subscribers
                .tell(&Event::Language { code, probability });
        }
    }

    fn report_route(&mut self) {
        if let Some(route) = self.texts.route_to_report() {
            self.subscribers.tell(&Event::Route(route));
        }
    }

    fn report_progress(&mut self) {
        let known = self.intake.seconds_known();
        if let Some(progress) = self.texts.progress_to_report(known) {
            self.subscribers.tell(&Event::Progress(progress));
        }
    }
}

/// Escalation.
impl TranscriptionState {
    /// Keeps this node's text of a chunk, or passes the chunk on.
    fn judge(&mut self, myself: &Myself, chunk: OpenChunk, text: ChunkTranscript) {
        let is_last = self.finished_seconds().is_some();
        let judged = self.escalating.judge(chunk, text, is_last);
        self.carry_out(myself, judged);
    }

    fn carry_out(&mut self, myself: &Myself, judged: Vec<Judged>) {
        for Judged {
            chunk,
            text,
            weaknesses,
        } in judged
        {
            if weaknesses.is_empty() {
                self.settle_own(chunk, text);
                continue;
            }
            let below = weaknesses.names().join(",");
            info!(request_id = %self.job.request_id, chunk = %chunk.audio.index, below, "the text is doubtful");
            self.escalate(myself, chunk, Ok(text));
        }
    }

    fn settle_own(&mut self, chunk: OpenChunk, text: ChunkTranscript) {
        self.escalating.keep(&text);
        self.settle(chunk, text);
    }

    fn escalate(
        &mut self,
        myself: &Myself,
        mut chunk: OpenChunk,
        own: Result<ChunkTranscript, SttError>,
    ) {
        let is_possible = self.escalating.is_possible();
        let escalator = self.escalator.as_ref().filter(|_| is_possible);
        let Some((to, slot)) = escalator.zip(self.slot.as_ref()) else {
            // The fallback has failed before: this chunk then has a text of this node.
            if let Ok(text) = own {
                self.settle_own(chunk, text);
            }
            return;
        };
        let seconds = chunk.audio.duration_seconds();
        let scheduling = slot.scheduling_key(seconds, seconds);
        let options = &self.job.options;
        let request = FallbackRequest {
            request_id: self.job.request_id.clone(),
            audio: chunk.audio.clone(),
            language: self.language.for_fallback(own.as_ref().ok()),
            prompt: options.prompt.clone(),
            temperature: options.temperature,
            hallucination_guard: options.hallucination_guard,
        };
        // A chunk that waits long at the fallback must not keep other requests from being decoded.
        chunk.permit = chunk.permit.map(ChunkPermit::of_its_request_alone);
        let room = Arc::clone(&to.room).try_acquire_owned();
        let (fallback, myself, index) = (to.fallback.clone(), myself.clone(), chunk.audio.index);
        let call = spawn(async move {
            let begun = Instant::now();
            let outcome = match room {
                Ok(_room) => fallback.transcribe(request, scheduling).await,
                Err(_full) => Err(FallbackError::Overloaded),
            };
            let _ = myself.cast(TranscriptionMessage::FallbackEnded {
                index,
                outcome,
                seconds: begun.elapsed().as_secs_f64(),
            });
        });
        self.calls.insert(index, call);
        self.escalating.send(chunk, own);
    }

    pub(super) fn fallback_ended(
        &mut self,
        myself: &Myself,
        index: ChunkIndex,
        outcome: Result<FallbackText, FallbackError>,
        seconds: f64,
    ) -> Outcome {
        self.calls.remove(&index);
        let Some(end) = self.escalating.end(index, outcome, seconds) else {
            return Outcome::GoesOn;
        };
        // Reported by now, unless no lane could do anything.
        self.report_route();
        match end {
            Ok((chunk, FallbackEnd::Better { text, own })) => {
                self.settle_better(chunk, text, own.as_ref())
            }
            Ok((chunk, FallbackEnd::Kept { own, error })) => {
                warn!(request_id = %self.job.request_id, chunk = %index, %error, "the fallback failed: keeping this node's text");
                self.settle_own(chunk, own);
            }
            Err(error) => return self.fail(error),
        }
        self.release_held_back(myself);
        self.end_if_done(myself)
    }

    fn settle_better(
        &mut self,
        chunk: OpenChunk,
        mut text: ChunkTranscript,
        own: Option<&ChunkTranscript>,
    ) {
        if text.language.is_empty() {
            // Not every other server names the language.
            let known = own.map(|own| own.language.as_str());
            let known = known.or_else(|| self.language.code()).unwrap_or_default();
            known.clone_into(&mut text.language);
        }
        let index = chunk.audio.index;
        if !self.escalating.is_language_doubtful(index) {
            let reported = self.language.correct(index, own, &text);
            self.send_language(reported);
        }
        self.settle(chunk, text);
    }
}

/// The end.
impl TranscriptionState {
    /// The length of the audio, when every chunk has a text of this node or of the fallback, or waits for a
    /// judgement that needs no more words.
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

    /// Whether the last client has left.
    pub(super) fn is_deserted(&mut self) -> bool {
        let subscribers = Arc::clone(&self.subscribers);
        subscribers.is_deserted(|| self.take_finished())
    }

    fn take_finished(&mut self) -> FinishedWork {
        self.resume.take_finished(self.language.code())
    }
}

//! The steps from a chunk's text to the client: checks, second passes, escalation, and events.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::{Span, debug, info, info_span, warn};

use super::Myself;
use crate::TRANSCRIPTS;
use crate::domain::chunk::AudioChunk;
use crate::domain::error::{FallbackError, SttError};
use crate::domain::finished::{FinishedChunk, FinishedPart};
use crate::domain::ids::ChunkIndex;
use crate::domain::job::Event;
use crate::domain::trace::{SPANS, TRACED_CHUNKS};
use crate::domain::transcript::{ChunkDone, ChunkTranscript};
use crate::metrics::record_hallucination;
use crate::ports::{FallbackRequest, FallbackText};
use crate::request::decoding::ChunkPermit;
use crate::request::language::ReportedLanguage;
use crate::request::transcription::escalation::{FallbackEnd, Judged};
use crate::request::transcription::intake::OpenChunk;
use crate::request::transcription::texts::{CheckedText, Texts};
use crate::request::transcription::{Outcome, TranscriptionMessage, TranscriptionState};
use crate::task::spawn;
use crate::text::missed_speech::Again;

/// Texts.
impl TranscriptionState {
    pub(super) fn chunk_done(
        &mut self,
        myself: &Myself,
        chunk: OpenChunk,
        done: ChunkDone,
    ) -> Outcome {
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

    /// Checks an engine's text, and records what was removed.
    fn check(&mut self, audio: &AudioChunk, done: ChunkDone) -> CheckedText {
        self.resume.record_done(audio, &done);
        self.report_finished(audio, &done);
        let checked = self.texts.check(audio, done);
        for removed in &checked.removed {
            let (reason, start) = (removed.reason.as_str(), audio.begins_at(removed.start));
            info!(request_id = %self.job.request_id, reason, start, "removed hallucinated text");
            debug!(target: TRANSCRIPTS, request_id = %self.job.request_id, text = removed.text, "the removed text");
            if !checked.reused {
                record_hallucination(removed.reason);
            }
        }
        checked
    }

    /// Reports an engine's text of a chunk, if the client keeps finished work.
    fn report_finished(&self, audio: &AudioChunk, done: &ChunkDone) {
        if self.job.finished.is_none() || done.reused {
            return;
        }
        let chunk = FinishedChunk {
            index: audio.index,
            stretches: audio.stretches.to_vec(),
            language: self.language.code().map(str::to_owned),
            done: done.clone(),
        };
        let part = FinishedPart::Chunk(Box::new(chunk));
        self.subscribers.send(&Event::Finished(part));
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
        let language = transcript.language.clone();
        for audio in self.texts.begin_second_pass(chunk, transcript, again) {
            match self.resume.take(&audio) {
                Some(done) => self.part_ended(myself, &audio, Ok(done)),
                None => self.enqueue(
                    myself,
                    OpenChunk {
                        audio,
                        likely_language: Some(language.clone()),
                        covers: 0.0,
                        permit: None,
                    },
                ),
            }
        }
    }

    pub(super) fn part_ended(
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
            // The language is not reported yet if only a second pass found text.
            let reported = self.language.report(ReportedLanguage {
                code: transcript.language.clone(),
                probability: transcript.language_probability,
            });
            self.send_language(reported);
        }
        for segment in self.texts.settle(chunk, transcript) {
            self.subscribers.send(&Event::Segment(segment));
        }
        self.report_progress();
    }

    pub(super) fn send_language(&self, language: Option<ReportedLanguage>) {
        if let Some(ReportedLanguage { code, probability }) = language {
            self.subscribers
                .send(&Event::Language { code, probability });
        }
    }

    fn report_route(&mut self) {
        if let Some(route) = self.texts.route_to_report() {
            self.subscribers.send(&Event::Route(route));
        }
    }

    pub(super) fn report_progress(&mut self) {
        let known = self.intake.seconds_known();
        if let Some(progress) = self.texts.progress_to_report(known) {
            self.subscribers.send(&Event::Progress(progress));
        }
    }
}

/// Escalation.
impl TranscriptionState {
    /// Keeps this node's text of a chunk, or escalates the chunk.
    fn judge(&mut self, myself: &Myself, chunk: OpenChunk, text: ChunkTranscript) {
        let is_last = self.finished_seconds().is_some();
        let judged = self.escalating.judge(chunk, text, is_last);
        self.carry_out(myself, judged);
    }

    pub(super) fn carry_out(&mut self, myself: &Myself, judged: Vec<Judged>) {
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

    pub(super) fn escalate(
        &mut self,
        myself: &Myself,
        mut chunk: OpenChunk,
        own: Result<ChunkTranscript, SttError>,
    ) {
        let is_possible = self.escalating.is_possible();
        let escalator = self.escalator.as_ref().filter(|_| is_possible);
        let Some((to, slot)) = escalator.zip(self.slot.as_ref()) else {
            // The fallback failed before. A chunk without a text of this node does not get here.
            if let Ok(text) = own {
                self.settle_own(chunk, text);
            }
            return;
        };
        let seconds = chunk.audio.duration_seconds();
        let scheduling = slot.scheduling_key(self.job.urgency, seconds, seconds);
        let options = &self.job.options;
        let request = FallbackRequest {
            request_id: self.job.request_id.clone(),
            audio: chunk.audio.clone(),
            language: self.language.for_fallback(own.as_ref().ok()),
            languages: options.languages.clone(),
            prompt: options.prompt.clone(),
            temperature: options.temperature,
            hallucination_guard: options.hallucination_guard,
            trace: self
                .job
                .trace
                .within(self.escalation_span(chunk.audio.index)),
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

    /// The span of a call of the fallback.
    fn escalation_span(&self, index: ChunkIndex) -> Span {
        if index.number() >= TRACED_CHUNKS {
            return Span::none();
        }
        let request = &self.job.trace.span;
        info_span!(target: SPANS, parent: request, "escalation", otel.kind = "client", chunk = %index)
    }

    pub(in crate::request::transcription) fn fallback_ended(
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
        // The route was reported earlier, unless no lane finished a chunk.
        self.report_route();
        match end {
            Ok((chunk, FallbackEnd::Better { text, own })) => {
                self.settle_better(chunk, text, own.as_ref());
            }
            Ok((chunk, FallbackEnd::Kept { own, error })) => {
                warn!(request_id = %self.job.request_id, chunk = %index, error = error.for_log(), "the fallback failed: keeping this node's text");
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
            // Some servers do not return the language.
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
